//! Entries that change a bit of packets, and exits that look for what comes in pieces.
//!
//! The payload's cipher is a wide block: one bit changed anywhere makes all of it noise at its end, and nothing before (LIONESS,
//! Anderson and Biham, 1996). A bad exit sees that this packet was one of those, and so has a bad entry's client on its way to it; it
//! does not see what it carried, nor for whom, and the client misses a packet.

use crate::clear::Clear;
use crate::observe::{End, Fate, Observer, Place};
use crate::packets::Packet;
use mizzle_protocol::mix::DropReason;
use mizzle_protocol::time::Instant;

/// Tags packets of all clients.
#[derive(Debug)]
pub struct Tagging {
    mixes: u32,
    clients: u32,
    /// Every so many packets.
    every: u32,
    counted: u32,
    /// Exits up to this relay's number are bad.
    bad: std::ops::Range<usize>,
    from: Instant,
    /// Packets that were tagged and have come to an end.
    pub ended: u32,
    /// Those of them that a bad exit recognised.
    pub recognised: u32,
}

impl Tagging {
    /// Tags each `every`th packet of so many clients where it leaves its entry, from a moment on; the relays `bad` are exits.
    pub fn new(mixes: usize, clients: usize, every: u32, bad: std::ops::Range<usize>, from: Instant) -> Self {
        let (mixes, clients) = (mixes as u32, clients as u32);
        Self { mixes, clients, every, counted: 0, bad, from, ended: 0, recognised: 0 }
    }
}

impl Observer for Tagging {
    fn crosses(&mut self, now: Instant, from: Place, to: u32, packet: &mut Packet) -> Fate {
        let enters = matches!(from, Place::Relay(relay) if relay >= self.mixes) && to < self.mixes;
        if now < self.from || !enters || packet.sender >= self.clients {
            return Fate::Pass;
        }
        self.counted += 1;
        if self.counted.is_multiple_of(self.every.max(1)) { Fate::Spoil } else { Fate::Pass }
    }

    fn ends(&mut self, _: Instant, end: End, packet: &mut Packet) {
        if !packet.spoilt {
            return;
        }
        self.ended += 1;
        let last = Clear::route(&packet.bytes).last().map(|(last, _)| last);
        let is_bad = last.is_some_and(|last| self.bad.contains(&last));
        // A loop of a client ends at the client, whose number may be that of a relay: it has one hop more.
        let outward = Clear::route(&packet.bytes).count() == 4;
        self.recognised += u32::from(end == End::Dropped(DropReason::BadPayload) && is_bad && outward);
    }
}
