//! Follows single packets by keeping all others away from their mixes: the n−1 attack (Serjantov, Dingledine and
//! Syverson, 2002).
//!
//! The prey is held back on the link to its mix until the mix is as good as empty, since nothing else is let in. Then it comes in alone,
//! and what leaves first is taken for it; on the next link it is held back again. What it costs is every
//! packet on the way to that mix, loops of relays among them: see [`mizzle_protocol::relay_loops`].

use crate::observe::{Fate, Observer, Place};
use crate::packets::Packet;
use mizzle_protocol::time::Instant;
use std::time::Duration;

/// Follows one packet after the other.
#[derive(Debug)]
pub struct Isolation {
    mixes: u32,
    clients: u32,
    mean: Duration,
    /// When the next packet is picked.
    next: Instant,
    hunt: Option<Hunt>,
    /// Packets in all mixes.
    held: u64,
    /// What came of it.
    pub found: Followed,
}

/// What came of following packets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Followed {
    /// Packets that were followed to the end, or lost sight of.
    pub rounds: u32,
    /// Those of them where what was followed was the right one.
    pub right: u32,
    /// Sum over the rounds of the chance that a guess among all packets in mixes is right.
    pub chance: f64,
}

#[derive(Debug)]
struct Hunt {
    /// The packet that was picked.
    prey: u32,
    /// The one that is taken for it.
    believed: u32,
    /// The mix from which all others are kept away.
    mix: u32,
    /// The believed one is in it.
    inside: bool,
    /// Too much has gone wrong by then.
    until: Instant,
}

impl Isolation {
    /// Follows packets of so many clients over so many mixes that hold each for `mean`, from a moment on.
    pub fn new(mixes: usize, clients: usize, mean: Duration, from: Instant) -> Self {
        Self {
            mixes: mixes as u32,
            clients: clients as u32,
            mean,
            next: from,
            hunt: None,
            held: 0,
            found: Followed::default(),
        }
    }

    fn end(&mut self, now: Instant, right: bool) {
        self.hunt = None;
        self.found.rounds += 1;
        self.found.right += u32::from(right);
        self.next = now + PAUSE;
    }
}

impl Observer for Isolation {
    fn crosses(&mut self, now: Instant, from: Place, to: u32, packet: &mut Packet) -> Fate {
        let flush = self.mean * FLUSH;
        let until = now + self.mean * PATIENCE;
        let Some(hunt) = &mut self.hunt else {
            let enters = matches!(from, Place::Relay(relay) if relay >= self.mixes) && to < self.mixes;
            if now < self.next || !enters || packet.sender >= self.clients {
                return Fate::Pass;
            }
            self.found.chance += 1.0 / (self.held.max(1) as f64);
            let number = packet.number;
            self.hunt = Some(Hunt { prey: number, believed: number, mix: to, inside: false, until });
            return Fate::Hold(flush);
        };
        if now > hunt.until {
            self.end(now, false);
            return Fate::Pass;
        }
        if packet.number == hunt.believed && from == Place::Relay(hunt.mix) {
            if to >= self.mixes {
                let right = hunt.believed == hunt.prey;
                self.end(now, right);
                return Fate::Pass;
            }
            (hunt.mix, hunt.inside, hunt.until) = (to, false, until);
            return Fate::Hold(flush);
        }
        if to == hunt.mix { Fate::Take } else { Fate::Pass }
    }

    fn comes(&mut self, _: Instant, relay: u32, _: usize, packet: &mut Packet) {
        self.held += 1;
        if let Some(hunt) = &mut self.hunt
            && (relay, packet.number) == (hunt.mix, hunt.believed)
        {
            hunt.inside = true;
        }
    }

    fn leaves(&mut self, _: Instant, relay: u32, _: usize, packet: &mut Packet) {
        self.held = self.held.saturating_sub(1);
        if let Some(hunt) = &mut self.hunt
            && relay == hunt.mix
            && hunt.inside
        {
            (hunt.believed, hunt.inside) = (packet.number, false);
        }
    }
}

/// Means for which nothing is let into a mix before its prey: of a hundred packets 0.005 are left then.
const FLUSH: u32 = 10;
/// Means for which it waits at a mix for its prey.
const PATIENCE: u32 = 40;
/// Between two packets.
const PAUSE: Duration = Duration::from_millis(200);
