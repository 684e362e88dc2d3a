//! Takes packets off a client's line, or holds them back, by a rhythm of its own, and looks at the exits for the session
//! that limps in that rhythm.
//!
//! The victim's line is cut in some seconds and not in others, as a coin says. What comes at an exit of each session is
//! counted in the seconds of either kind, a packet's mean time later; of the victim's, less should come in those of
//! the first kind. Who has the exits and one client's line does this; it tells which of the exits' sessions is that client's.

use crate::clear::Clear;
use crate::observe::{End, Fate, Observer, Place};
use crate::packets::Packet;
use crate::world::uniform;
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::payload::Payload;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::time::Duration;

/// What is done to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// It is taken away.
    Take,
    /// It is held back until the second is over.
    Hold,
}

/// Disturbs one client after the other.
#[derive(Debug)]
pub struct Disturbing {
    what: Disturbance,
    speakers: u32,
    /// From a client's line to the exit, in the mean.
    lag: Duration,
    begin: Instant,
    rng: ChaCha20Rng,
    /// Of the trial under way: which seconds are disturbed, and what came of each speaker in each.
    rhythm: [bool; CHIPS],
    came: Vec<[u32; CHIPS]>,
    victim: u32,
    /// Trials in which the victim said something.
    pub trials: u32,
    /// Those in which its session was picked.
    pub right: u32,
    /// Sum over the trials of the chance that a guess among the sessions is right.
    pub chance: f64,
}

impl Disturbing {
    /// Disturbs the first `speakers` clients in turn from a moment on; packets take `lag` to the exit.
    pub fn new(what: Disturbance, speakers: usize, lag: Duration, from: Instant, seed: u64) -> Self {
        let mut disturbing = Self {
            what,
            speakers: speakers as u32,
            lag,
            begin: from,
            rng: ChaCha20Rng::seed_from_u64(seed ^ 0xd157),
            rhythm: [false; CHIPS],
            came: vec![[0; CHIPS]; speakers],
            victim: 0,
            trials: 0,
            right: 0,
            chance: 0.0,
        };
        disturbing.draw();
        disturbing
    }

    /// Half of the seconds, in a random order.
    fn draw(&mut self) {
        self.rhythm = std::array::from_fn(|chip| chip < CHIPS / 2);
        for last in (1..CHIPS).rev() {
            let other = (uniform(&mut self.rng) * (last + 1) as f64) as usize;
            self.rhythm.swap(last, other.min(last));
        }
    }

    /// Judges the trial, if it is over, and begins the next one.
    fn turn(&mut self, now: Instant) {
        if now < self.begin + CHIP * CHIPS as u32 + self.lag * 2 {
            return;
        }
        // Fewer in disturbed seconds than in others, against what chance makes of so many.
        let score = |came: &[u32; CHIPS]| {
            let of = |disturbed: bool| -> u32 {
                let chips = came.iter().zip(&self.rhythm);
                chips.filter(|(_, is)| **is == disturbed).map(|(count, _)| count).sum()
            };
            let (with, without) = (f64::from(of(true)), f64::from(of(false)));
            (with + without > 0.0).then(|| (without - with) / libm::sqrt(with + without))
        };
        let scores: Vec<_> = self.came.iter().map(score).collect();
        let talked = scores.iter().flatten().count();
        if scores.get(self.victim as usize).is_some_and(Option::is_some) {
            let best = scores.iter().enumerate().filter_map(|(client, score)| Some((client, (*score)?)));
            let best = best.max_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(client, _)| client);
            self.trials += 1;
            self.right += u32::from(best == Some(self.victim as usize));
            self.chance += 1.0 / talked.max(1) as f64;
        }
        self.came.iter_mut().for_each(|came| *came = [0; CHIPS]);
        self.victim = (self.victim + 1) % self.speakers.max(1);
        self.begin = now;
        self.draw();
    }

    fn chip(&self, at: Instant) -> Option<usize> {
        (at >= self.begin).then(|| (at.since(self.begin).as_nanos() / CHIP.as_nanos()) as usize)
    }
}

impl Observer for Disturbing {
    fn crosses(&mut self, now: Instant, from: Place, _: u32, _: &mut Packet) -> Fate {
        self.turn(now);
        let chip = self.chip(now).unwrap_or(CHIPS);
        if from != Place::Client(self.victim) || !self.rhythm.get(chip).copied().unwrap_or(false) {
            return Fate::Pass;
        }
        match self.what {
            Disturbance::Take => Fate::Take,
            Disturbance::Hold => Fate::Hold((self.begin + CHIP * (chip as u32 + 1)).since(now)),
        }
    }

    fn ends(&mut self, now: Instant, end: End, packet: &mut Packet) {
        let is_session = || matches!(Payload::parse(Clear::message(&packet.bytes)), Ok(Payload::Session(_)));
        if end != End::Delivered || now < self.begin + self.lag {
            return;
        }
        // The second in which it was sent, as far as the mean tells.
        let sent = now.since(self.begin + self.lag).as_nanos() / CHIP.as_nanos();
        if let Some(came) = self.came.get_mut(packet.sender as usize).filter(|_| is_session())
            && let Some(count) = came.get_mut(sent as usize)
        {
            *count += 1;
        }
    }
}

/// Seconds of a trial.
const CHIPS: usize = 16;
const CHIP: Duration = Duration::from_secs(1);
