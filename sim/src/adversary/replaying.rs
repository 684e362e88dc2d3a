//! Sends copies of a packet, and looks where several come out together.
//!
//! A copy has the delays of the packet that it was made of, so that where mixes do not remember what they have seen, all
//! of them leave the last mix at one moment, towards one gateway. Where they do, nothing comes of it, and all that is left is to guess.

use crate::observe::{Fate, Observer, Place};
use crate::packets::Packet;
use mizzle_protocol::time::Instant;
use std::time::Duration;

/// Replays one packet after the other.
#[derive(Debug)]
pub struct Replaying {
    mixes: u32,
    gateways: u32,
    clients: u32,
    copies: u32,
    /// How long a packet may be in the mixes.
    longest: Duration,
    next: Instant,
    hunt: Option<Hunt>,
    /// Packets that came to each gateway at one moment.
    bursts: Vec<(Instant, u32)>,
    /// Packets that were replayed.
    pub rounds: u32,
    /// Those whose gateway was named.
    pub right: u32,
}

#[derive(Debug)]
struct Hunt {
    prey: u32,
    until: Instant,
    went_to: Option<u32>,
    /// The gateway to which most went at one moment, and how many.
    guess: Option<(u32, u32)>,
}

impl Replaying {
    /// Makes so many copies of packets of so many clients, from a moment on.
    pub fn new(
        [mixes, gateways, clients]: [usize; 3],
        copies: u32,
        longest: Duration,
        from: Instant,
    ) -> Self {
        Self {
            mixes: mixes as u32,
            gateways: gateways as u32,
            clients: clients as u32,
            copies,
            longest,
            next: from,
            hunt: None,
            bursts: vec![(Instant::ZERO, 0); gateways],
            rounds: 0,
            right: 0,
        }
    }

    fn judge(&mut self, now: Instant) {
        let Some(hunt) = self.hunt.take_if(|hunt| hunt.until <= now) else { return };
        // Who has seen nothing names one, each as often as the others.
        let blind = self.mixes + self.rounds % self.gateways.max(1);
        let named = hunt.guess.map_or(blind, |(gateway, _)| gateway);
        self.rounds += 1;
        self.right += u32::from(hunt.went_to == Some(named));
        self.next = now + PAUSE;
    }
}

impl Observer for Replaying {
    fn crosses(&mut self, now: Instant, from: Place, to: u32, packet: &mut Packet) -> Fate {
        self.judge(now);
        let Place::Relay(from) = from else { return Fate::Pass };
        if let Some(gateway) = to.checked_sub(self.mixes)
            && let Some((moment, count)) = self.bursts.get_mut(gateway as usize)
        {
            *count = if *moment == now { *count + 1 } else { 1 };
            *moment = now;
            if let Some(hunt) = &mut self.hunt {
                if packet.number == hunt.prey {
                    hunt.went_to = Some(to);
                }
                if *count > hunt.guess.map_or(1, |(_, most)| most) {
                    hunt.guess = Some((to, *count));
                }
            }
            return Fate::Pass;
        }
        if self.hunt.is_none() && now >= self.next && from >= self.mixes && packet.sender < self.clients {
            let until = now + self.longest;
            self.hunt = Some(Hunt { prey: packet.number, until, went_to: None, guess: None });
            return Fate::Copy(self.copies);
        }
        Fate::Pass
    }
}

/// Between two packets.
const PAUSE: Duration = Duration::from_millis(100);
