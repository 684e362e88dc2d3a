//! What can be watched while a network runs.
//!
//! The world tells an [`Observer`] of everything that a packet does; what an adversary may use of it is the
//! adversary's matter. Most observers change nothing but the marks that they leave for themselves; one that has links in
//! its hands decides, at [`Observer::crosses`], what becomes of a packet there.

use crate::packets::Packet;
use mizzle_protocol::mix::DropReason;
use mizzle_protocol::time::Instant;
use std::time::Duration;

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A client, by its number.
    Client(u32),
    /// A relay, by its number: mixes layer by layer, then entries, then exits.
    Relay(u32),
    /// A relay that sends itself a loop.
    Loop(u32),
}

/// How a packet's way ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At its exit.
    Delivered,
    /// At its client.
    Home,
    /// At the relay that sent it, by its number: a loop.
    Loop(u32),
    /// In the hands of someone on a link.
    Taken,
    /// On its way.
    Dropped(DropReason),
}

/// What becomes of a packet on a link that someone has in his hands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    #[default]
    Pass,
    /// It does not.
    Take,
    /// It goes on after so long.
    Hold(Duration),
    /// It goes on, and so many times more.
    Copy(u32),
    /// It goes on with a bit of its payload changed.
    Spoil,
}

/// Hears of everything. What is not of interest need not be written.
pub trait Observer {
    /// A packet enters the network: in a client's slot, or as a reply of an exit's service.
    fn sent(&mut self, _now: Instant, _from: Place, _packet: &mut Packet) {}

    /// A packet goes from a client to its entry, or from one relay to another: `to` is a relay's number.
    fn crosses(&mut self, _now: Instant, _from: Place, _to: u32, _packet: &mut Packet) -> Fate {
        Fate::Pass
    }

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

    fn crosses(&mut self, now: Instant, from: Place, to: u32, packet: &mut Packet) -> Fate {
        // Whoever is the first to do something does it.
        match self.0.crosses(now, from, to, packet) {
            Fate::Pass => self.1.crosses(now, from, to, packet),
            fate => fate,
        }
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
