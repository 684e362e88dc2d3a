//! A client that rests though it could work, since its owner says so: no link, no stream, no other way.
//! (spec: CLIENT-7)

use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// Why a client rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// One sentence for people, that says what to do about it.
    pub reason: String,
    /// True: the next stream, look-up, exchange or ping ends it. False: these are refused with the reason.
    pub wakes: bool,
}

/// What the client's handles and its supervisor share about it.
#[derive(Debug)]
pub(crate) struct Rest {
    hold: watch::Sender<Option<Hold>>,
    uses: AtomicU64,
}

impl Rest {
    pub(crate) fn new(hold: Option<Hold>) -> Self {
        Self { hold: watch::Sender::new(hold), uses: AtomicU64::new(0) }
    }

    /// Rests from now on, for this reason; `None`: works again.
    pub(crate) fn set(&self, hold: Option<Hold>) {
        self.hold.send_if_modified(|held| {
            let changes = *held != hold;
            *held = hold;
            changes
        });
    }

    /// Somebody uses the client: counts that, and wakes it if it may be woken.
    pub(crate) fn used(&self) {
        self.uses.fetch_add(1, Ordering::Relaxed);
        self.hold.send_if_modified(|held| held.take_if(|hold| hold.wakes).is_some());
    }

    /// How often it was used.
    pub(crate) fn uses(&self) -> u64 {
        self.uses.load(Ordering::Relaxed)
    }

    /// For who acts on it.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Hold>> {
        self.hold.subscribe()
    }
}

/// Returns when the client is to rest.
pub(crate) async fn told_to_rest(hold: &mut watch::Receiver<Option<Hold>>) {
    if hold.wait_for(Option::is_some).await.is_err() {
        // Nobody is left who could say so.
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_ends_only_a_rest_that_may_be_ended_so() {
        let hold = |wakes| Some(Hold { reason: "why".into(), wakes });
        let rest = Rest::new(hold(false));
        let seen = rest.subscribe();
        rest.used();
        assert_eq!(*seen.borrow(), hold(false));
        rest.set(hold(true));
        assert_eq!(*seen.borrow(), hold(true));
        rest.used();
        assert_eq!((seen.borrow().clone(), rest.uses()), (None, 2));
    }
}
