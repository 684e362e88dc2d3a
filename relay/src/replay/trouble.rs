//! That tags cannot be kept: said once, and not for each packet that is refused for it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The last time that a tag could not be kept.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    last: Mutex<Option<(Instant, &'static str)>>,
}

impl Trouble {
    /// A tag could not be kept. The log hears of it unless it has within the last minute.
    pub(super) fn note(&self, what: &'static str) {
        let before = self.lock().replace((Instant::now(), what));
        if before.is_none_or(|(moment, _)| moment.elapsed() > QUIET) {
            tracing::warn!("this relay refuses packets: {what}");
        }
    }

    /// Why tags could not be kept within the last minute.
    pub(super) fn of_late(&self) -> Option<&'static str> {
        (*self.lock()).filter(|(moment, _)| moment.elapsed() <= QUIET).map(|(_, what)| what)
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Instant, &'static str)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// After so long without another, the trouble is over.
const QUIET: Duration = Duration::from_secs(60);
