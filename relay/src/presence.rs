//! What this relay tells the network about itself beyond its keys: what it can carry, whether it rests, and
//! whether it leaves.
//!
//! A relay that takes no packets announces a rate of zero; the authorities then list it as not running, with
//! that as the reason. (spec: RELAY-9, RELAY-11, DIR-15)

use tokio::sync::watch;

/// The shared word; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Presence(watch::Sender<Said>);

/// What is said at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// Packets per second that it can carry.
    pub(crate) capacity: u32,
    /// Why it rests, if it does.
    pub(crate) rest: Option<String>,
    /// Its operator has told it to leave.
    pub(crate) leaving: bool,
}

impl Said {
    /// Packets per second for the descriptor; zero: none.
    pub(crate) fn announced_rate(&self) -> u32 {
        if self.is_away() { 0 } else { self.capacity }
    }

    /// True if it takes no packets, or is about to.
    pub(crate) fn is_away(&self) -> bool {
        self.leaving || self.rest.is_some()
    }
}

impl Presence {
    /// It serves, with this capacity.
    pub(crate) fn new(capacity: u32) -> Self {
        Self(watch::Sender::new(Said { capacity, ..Said::default() }))
    }

    /// Another capacity.
    pub(crate) fn set_capacity(&self, capacity: u32) {
        self.change(|said| said.capacity = capacity);
    }

    /// It rests, for this reason; `None`: it serves again.
    pub(crate) fn set_rest(&self, rest: Option<String>) {
        self.change(|said| said.rest = rest);
    }

    /// It leaves the network.
    pub(crate) fn leave(&self) {
        self.change(|said| said.leaving = true);
    }

    /// What is said now.
    pub(crate) fn said(&self) -> Said {
        self.0.borrow().clone()
    }

    /// Tells of changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Said> {
        self.0.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut Said)) {
        self.0.send_if_modified(|said| {
            let before = said.clone();
            change(said);
            *said != before
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_rests_or_leaves_announces_nothing() {
        let presence = Presence::new(500);
        let watch = presence.watch();
        presence.set_capacity(500);
        assert!(!watch.has_changed().unwrap());
        presence.set_rest(Some("quota".to_owned()));
        assert!(watch.has_changed().unwrap());
        assert_eq!(presence.said().announced_rate(), 0);
        presence.set_rest(None);
        assert_eq!(presence.said().announced_rate(), 500);
        presence.leave();
        assert_eq!(presence.said().announced_rate(), 0);
    }
}
