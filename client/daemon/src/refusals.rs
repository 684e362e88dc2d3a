//! Connections to a port of the daemon that came to nothing, counted by reason: whatever arrives there shows
//! in the status, and is logged nowhere.

use serde::{Deserialize, Serialize};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a connection was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Too many at once.
    Full,
    /// The client has no session left for it.
    Crowded,
    /// No request in time.
    TimedOut,
    /// It ended before its request did.
    Truncated,
    /// What came is no request.
    Malformed,
}

impl Refusal {
    /// The reason that an error means which came up while a request was read.
    pub(crate) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Self::Malformed,
            io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Truncated,
        }
    }
}

/// The counters of one port.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    full: AtomicU64,
    crowded: AtomicU64,
    timed_out: AtomicU64,
    truncated: AtomicU64,
    malformed: AtomicU64,
}

/// What they say at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refused {
    pub(crate) full: u64,
    // A client of before counts none.
    #[serde(default)]
    pub(crate) crowded: u64,
    pub(crate) timed_out: u64,
    pub(crate) truncated: u64,
    pub(crate) malformed: u64,
}

impl Refusals {
    /// Counts one.
    pub(crate) fn count(&self, refusal: Refusal) {
        match refusal {
            Refusal::Full => &self.full,
            Refusal::Crowded => &self.crowded,
            Refusal::TimedOut => &self.timed_out,
            Refusal::Truncated => &self.truncated,
            Refusal::Malformed => &self.malformed,
        }
        .fetch_add(1, Ordering::Relaxed);
    }

    /// The counts.
    pub(crate) fn now(&self) -> Refused {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Refused {
            full: read(&self.full),
            crowded: read(&self.crowded),
            timed_out: read(&self.timed_out),
            truncated: read(&self.truncated),
            malformed: read(&self.malformed),
        }
    }
}

impl std::iter::Sum for Refused {
    fn sum<I: Iterator<Item = Self>>(refused: I) -> Self {
        refused.fold(Self::default(), |a, b| Self {
            full: a.full + b.full,
            crowded: a.crowded + b.crowded,
            timed_out: a.timed_out + b.timed_out,
            truncated: a.truncated + b.truncated,
            malformed: a.malformed + b.malformed,
        })
    }
}

impl Refused {
    /// All of them.
    pub(crate) fn total(&self) -> u64 {
        self.full + self.crowded + self.timed_out + self.truncated + self.malformed
    }
}
