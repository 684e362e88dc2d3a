//! How many questions came, and what became of them; never which.

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    questions: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    malformed: AtomicU64,
    full: AtomicU64,
}

/// What they say at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// Questions that were taken.
    pub(crate) questions: u64,
    /// Of these, answered by an exit.
    pub(crate) answered: u64,
    /// Of these, without an answer in time.
    pub(crate) failed: u64,
    /// Messages that were no question.
    pub(crate) malformed: u64,
    /// Messages that found no place.
    pub(crate) full: u64,
}

impl Counts {
    /// The counts.
    pub(crate) fn now(&self) -> Asked {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Asked {
            questions: read(&self.questions),
            answered: read(&self.answered),
            failed: read(&self.failed),
            malformed: read(&self.malformed),
            full: read(&self.full),
        }
    }

    pub(super) fn ask(&self) {
        self.questions.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn answer(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn fail(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refuse(&self) {
        self.malformed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn turn_away(&self) {
        self.full.fetch_add(1, Ordering::Relaxed);
    }
}
