//! What this relay tells the network about itself beyond its keys: what it can carry, whether it rests, and
//! whether it leaves.
//!
//! A relay that takes no packets announces a rate of zero; the authorities then list it as not running, with
//! that as the reason. (spec: RELAY-9, RELAY-11, DIR-15)

use mizzle_link::units::Rate;
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::wire::cell::relay_cell_size;
use tokio::sync::watch;

/// The shared word; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Presence(watch::Sender<Said>);

/// What is said at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// What it can carry.
    pub(crate) capacity: Capacity,
    /// Why it rests, if it does.
    pub(crate) rest: Option<String>,
    /// Its operator has told it to leave.
    pub(crate) leaving: bool,
}

/// What a relay can carry, by its processor and by its operator's limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Packets per second of all crypto threads, as measured at the start with packets of the usual size.
    pub(crate) threads: u32,
    /// The operator's limit, which is of bytes: how many packets that is depends on the network.
    pub(crate) rate: Option<Rate>,
}

impl Capacity {
    /// Packets of this size per second: one at least.
    pub(crate) fn packets(self, geometry: Geometry) -> u32 {
        let cell = relay_cell_size(geometry) as u64;
        let by_rate = self.rate.map_or(u32::MAX, |Rate(rate)| u32::try_from(rate / cell).unwrap_or(u32::MAX));
        self.threads.min(by_rate).max(1)
    }
}

impl Said {
    /// Packets per second for the descriptor, in a network of this geometry; zero: none.
    pub(crate) fn announced_rate(&self, geometry: Geometry) -> u32 {
        if self.is_away() { 0 } else { self.capacity.packets(geometry) }
    }

    /// True if it takes no packets, or is about to.
    pub(crate) fn is_away(&self) -> bool {
        self.leaving || self.rest.is_some()
    }
}

impl Presence {
    /// It serves, with this capacity.
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self(watch::Sender::new(Said { capacity, ..Said::default() }))
    }

    /// Another capacity.
    pub(crate) fn set_capacity(&self, capacity: Capacity) {
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
        let capacity = Capacity { threads: 500, rate: None };
        let presence = Presence::new(capacity);
        let announced = || presence.said().announced_rate(Geometry::default());
        let watch = presence.watch();
        presence.set_capacity(capacity);
        assert!(!watch.has_changed().unwrap());
        presence.set_rest(Some("quota".to_owned()));
        assert!(watch.has_changed().unwrap());
        assert_eq!(announced(), 0);
        presence.set_rest(None);
        assert_eq!(announced(), 500);
        presence.leave();
        assert_eq!(announced(), 0);
    }

    #[test]
    fn a_limit_in_bytes_is_announced_in_packets_of_the_network() {
        let capacity = Capacity { threads: 100_000, rate: Some(Rate(1_250_000)) };
        for payload in [2048, 4096, 8192] {
            let geometry = Geometry::new(payload).unwrap();
            let announced = capacity.packets(geometry) as usize * relay_cell_size(geometry);
            assert!((1_240_000..=1_250_000).contains(&announced), "{payload}: {announced}");
        }
        let slow = Capacity { threads: 9, ..capacity };
        assert_eq!(slow.packets(Geometry::default()), 9);
    }
}
