//! What can be watched while a network runs.
//!
//! The world tells an [`Observer`] of everything that a packet does; what an adversary may use of it is the
//! adversary's matter. Observers change nothing but the marks that they leave for themselves.

use crate::packets::Packet;
use mizzle_protocol::mix::DropReason;
use mizzle_protocol::time::Instant;

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A client, by its number.
    Client(u32),
    /// A relay, by its number: mixes layer by layer, then entries, then exits.
    Relay(u32),
}

/// How a packet's way ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At its exit.
    Delivered,
    /// At its client.
    Home,
    /// On its way.
    Dropped(DropReason),
}

/// Hears of everything. What is not of interest need not be written.
pub trait Observer {
    /// A packet enters the network: in a client's slot, or as a reply of an exit's service.
    fn sent(&mut self, _now: Instant, _from: Place, _packet: &mut Packet) {}

    /// A mix takes a packet, and holds `held` others.
    fn comes(&mut self, _now: Instant, _relay: u32, _held: usize, _packet: &mut Packet) {}

    /// A mix lets go of one of the `held` packets that it has.
    fn leaves(&mut self, _now: Instant, _relay: u32, _held: usize, _packet: &mut Packet) {}

    /// A packet has come out of the mixes at its client's entry, and waits for a slot there.
    fn waits(&mut self, _now: Instant, _client: u32, _packet: &mut Packet) {}

    /// A packet's way is over.
    fn ends(&mut self, _now: Instant, _end: End, _packet: &mut Packet) {}
}

impl Observer for () {}

impl<A: Observer, B: Observer> Observer for (A, B) {
    fn sent(&mut self, now: Instant, from: Place, packet: &mut Packet) {
        self.0.sent(now, from, packet);
        self.1.sent(now, from, packet);
    }

    fn comes(&mut self, now: Instant, relay: u32, held: usize, packet: &mut Packet) {
        self.0.comes(now, relay, held, packet);
        self.1.comes(now, relay, held, packet);
    }

    fn leaves(&mut self, now: Instant, relay: u32, held: usize, packet: &mut Packet) {
        self.0.leaves(now, relay, held, packet);
        self.1.leaves(now, relay, held, packet);
    }

    fn waits(&mut self, now: Instant, client: u32, packet: &mut Packet) {
        self.0.waits(now, client, packet);
        self.1.waits(now, client, packet);
    }

    fn ends(&mut self, now: Instant, end: End, packet: &mut Packet) {
        self.0.ends(now, end, packet);
        self.1.ends(now, end, packet);
    }
}
