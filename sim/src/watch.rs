//! What someone who watches one mix can count: how many packets it holds, and how sure one can be of which
//! of them left.

use mizzle_protocol::time::Instant;
use std::time::Duration;

/// What one mix has seen.
#[derive(Clone, Debug, Default)]
pub struct MixFigures {
    /// Time spent with so many packets held.
    pub occupancy: Vec<Duration>,
    /// Packets that came in.
    pub arrivals: u64,
    /// Sum over the departures of the entropy of which packet left, in bits (Loopix, equation 5).
    pub entropy: f64,
    /// Packets that left.
    pub departures: u64,
    last_change: Instant,
    last_entropy: f64,
    fresh: u64,
}

impl MixFigures {
    /// Begins anew: what was seen so far was the network coming into its stride.
    pub(crate) fn start(&mut self, now: Instant) {
        let (last_entropy, fresh) = (self.last_entropy, self.fresh);
        *self = Self { last_change: now, last_entropy, fresh, ..Self::default() };
    }

    /// Books the time since the last change, through which `held` packets were held.
    pub(crate) fn spend(&mut self, now: Instant, held: usize) {
        if self.occupancy.len() <= held {
            self.occupancy.resize(held + 1, Duration::ZERO);
        }
        if let Some(time) = self.occupancy.get_mut(held) {
            *time += now.since(self.last_change);
        }
        self.last_change = now;
    }

    /// A packet comes to the `held` that are there.
    pub(crate) fn arrival(&mut self, now: Instant, held: usize) {
        self.spend(now, held);
        self.arrivals += 1;
        self.fresh += 1;
    }

    /// One of the `held` packets leaves.
    pub(crate) fn departure(&mut self, now: Instant, held: usize) {
        self.spend(now, held);
        self.departures += 1;
        let (fresh, old) = (self.fresh as f64, held as f64 - self.fresh as f64);
        let share = fresh / (fresh + old).max(1.0);
        let surprise = |p: f64| if p > 0.0 { -p * libm::log2(p) } else { 0.0 };
        let among_fresh = if fresh > 0.0 { share * libm::log2(fresh) } else { 0.0 };
        self.last_entropy =
            surprise(share) + surprise(1.0 - share) + among_fresh + (1.0 - share) * self.last_entropy;
        self.entropy += self.last_entropy;
        self.fresh = 0;
    }
}
