//! What someone who watches the mixes can count: how many packets each holds, how sure one can be of which of them
//! left, and how long packets take.

use crate::observe::{End, Observer, Place};
use crate::packets::Packet;
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
    fn start(&mut self, now: Instant) {
        let (last_entropy, fresh) = (self.last_entropy, self.fresh);
        *self = Self { last_change: now, last_entropy, fresh, ..Self::default() };
    }

    /// Books the time since the last change, through which `held` packets were held.
    fn spend(&mut self, now: Instant, held: usize) {
        if self.occupancy.len() <= held {
            self.occupancy.resize(held + 1, Duration::ZERO);
        }
        if let Some(time) = self.occupancy.get_mut(held) {
            *time += now.since(self.last_change);
        }
        self.last_change = now;
    }

    /// A packet comes to the `held` that are there.
    fn arrival(&mut self, now: Instant, held: usize) {
        self.spend(now, held);
        self.arrivals += 1;
        self.fresh += 1;
    }

    /// One of the `held` packets leaves.
    fn departure(&mut self, now: Instant, held: usize) {
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

    /// Packets held, on average over the time watched.
    pub fn mean_held(&self) -> f64 {
        let time: f64 = self.occupancy.iter().map(Duration::as_secs_f64).sum();
        let held = self.occupancy.iter().enumerate().map(|(held, time)| held as f64 * time.as_secs_f64());
        held.sum::<f64>() / time.max(1e-9)
    }
}

/// Watches all mixes and all packets that come out of them.
#[derive(Clone, Debug)]
pub struct Watch {
    /// By number: mixes layer by layer.
    pub mixes: Vec<MixFigures>,
    /// From a packet's slot until it was at its exit, or waited for a slot at its client's entry: in microseconds.
    pub latencies: Vec<u32>,
    /// Packets that clients put on their links, and that came from there.
    pub on_lines: u64,
    since: Instant,
}

impl Watch {
    /// Sees so many mixes.
    pub fn new(mixes: usize) -> Self {
        Self {
            mixes: vec![MixFigures::default(); mixes],
            latencies: Vec::new(),
            on_lines: 0,
            since: Instant::ZERO,
        }
    }

    /// What was seen until now was the network coming into its stride.
    pub fn start(&mut self, now: Instant) {
        self.mixes.iter_mut().for_each(|mix| mix.start(now));
        self.latencies.clear();
        self.on_lines = 0;
        self.since = now;
    }

    /// Nothing that comes will be counted: the last stretches of time are.
    pub fn stop(&mut self, now: Instant, held: impl Fn(usize) -> usize) {
        for (index, mix) in self.mixes.iter_mut().enumerate() {
            mix.spend(now, held(index));
        }
    }

    /// Packets a second that a layer took, in the mean of all layers.
    pub fn load(&self, layers: usize, time: Duration) -> f64 {
        let arrivals: u64 = self.mixes.iter().map(|mix| mix.arrivals).sum();
        arrivals as f64 / layers.max(1) as f64 / time.as_secs_f64().max(1e-9)
    }

    fn out(&mut self, now: Instant, packet: &Packet) {
        // One that was sent before would tell of a network that had not come into its stride.
        if packet.sent >= self.since {
            self.latencies.push(u32::try_from(now.since(packet.sent).as_micros()).unwrap_or(u32::MAX));
        }
    }
}

impl Observer for Watch {
    fn sent(&mut self, _: Instant, from: Place, _: &mut Packet) {
        self.on_lines += u64::from(matches!(from, Place::Client(_)));
    }

    fn comes(&mut self, now: Instant, relay: u32, held: usize, _: &mut Packet) {
        if let Some(mix) = self.mixes.get_mut(relay as usize) {
            mix.arrival(now, held);
        }
    }

    fn leaves(&mut self, now: Instant, relay: u32, held: usize, _: &mut Packet) {
        if let Some(mix) = self.mixes.get_mut(relay as usize) {
            mix.departure(now, held);
        }
    }

    fn waits(&mut self, now: Instant, _: u32, packet: &mut Packet) {
        self.out(now, packet);
    }

    fn ends(&mut self, now: Instant, end: End, packet: &mut Packet) {
        if end == End::Delivered {
            self.out(now, packet);
        }
    }
}
