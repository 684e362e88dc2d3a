//! A network at rest whose clients are all whole ones: what its links carry, and how long loops take.
//!
//! It counts what can be counted at real processes, too (`crate::real`), in the same words: a loop takes as long as
//! from its slot until its client has opened it, the wait for a slot at the entry included.

use crate::clear::Clear;
use crate::conversation::Carried;
use crate::observe::{End, Fate, Observer, Place};
use crate::packets::Packet;
use crate::scenario::{Scenario, ScenarioError};
use crate::speaker::Speaker;
use crate::wake::Wake;
use crate::world::{Format, Output, Shape, World};
use mizzle_protocol::endpoint::Event;
use mizzle_protocol::geometry::LAYERS;
use mizzle_protocol::sphinx::Sphinx;
use mizzle_protocol::time::Instant;
use mizzle_protocol::{Error, ErrorKind, Result};
use serde::Deserialize;
use std::time::Duration;

/// What a network at rest did.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Rest {
    /// Packets a second on all links of each kind together.
    pub links: Links,
    /// Loops of all clients that left.
    pub loops_sent: u64,
    /// Loops that came home.
    pub loops_home: u64,
    /// For how long clients were looked at, added up.
    pub client_seconds: f64,
    /// How long each loop that came home took, from its slot, in microseconds.
    pub loop_times_us: Vec<u64>,
    /// Packets that ended at relays, for other reasons than being cover at its end.
    pub dropped: u64,
    /// Slots of clients that sent no packet; never in a simulation.
    #[serde(default)]
    pub slots_lost: u64,
}

/// Packets a second on each kind of link, in the order of a packet's way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say which")]
pub struct Links {
    pub client_to_entry: f64,
    pub entry_to_first: f64,
    pub first_to_second: f64,
    pub second_to_third: f64,
    pub third_to_exit: f64,
    pub third_to_entry: f64,
    pub entry_to_client: f64,
}

/// Simulates a scenario in which nobody speaks, once for each seed, and puts the runs together.
///
/// [`ErrorKind::Misuse`] if the scenario makes no sense, or its packets are modelled.
pub fn rest(scenario: &Scenario) -> Result<Rest> {
    let misuse = |error: ScenarioError| Error::new(ErrorKind::Misuse, error.to_string());
    let shape = scenario.shape().map_err(misuse)?;
    let runs = (scenario.seed..scenario.seed + scenario.seeds).map(|seed| match shape.format {
        Format::Clear => once::<Clear>(scenario, &shape, seed),
        Format::Sphinx => once::<Sphinx>(scenario, &shape, seed),
        Format::Modelled => Err(Error::new(ErrorKind::Misuse, "whole clients have no modelled packets")),
    });
    let mut all = Rest::default();
    for run in runs {
        all.add(run?, scenario.seeds as f64);
    }
    Ok(all)
}

fn once<F: Carried>(scenario: &Scenario, shape: &Shape, seed: u64) -> Result<Rest> {
    let mut world = World::new(shape.clone(), Instant::ZERO, seed, Counter::new(shape))?;
    let step = scenario.step();
    let clients = 0..shape.clients;
    let speakers: Result<Vec<Speaker<F>>> =
        clients.map(|index| Speaker::new(&mut world, index, step, shape.pace, true)).collect();
    let mut clients = Clients { world, speakers: speakers?, times: Vec::new() };
    for speaker in &mut clients.speakers {
        speaker.settle(&mut clients.world)?;
    }
    // As long as other runs take to come into their stride.
    let warm = Instant::ZERO + shape.parameters.mean_delay * 30 * shape.roads.layers as u32;
    clients.live(warm)?;
    clients.times.clear();
    clients.world.observer.counts = [0; KINDS];
    let (before, lost) = (clients.loops(), clients.lost());
    let time = Duration::from_secs_f64(scenario.seconds);
    clients.live(warm + time)?;
    let after = clients.loops();
    let seconds = time.as_secs_f64();
    let [up, first, second, third, exit, entry, home] =
        clients.world.observer.counts.map(|count| count as f64 / seconds);
    Ok(Rest {
        links: Links {
            client_to_entry: up,
            entry_to_first: first,
            first_to_second: second,
            second_to_third: third,
            third_to_exit: exit,
            third_to_entry: entry,
            entry_to_client: home,
        },
        loops_sent: after.0 - before.0,
        loops_home: after.1 - before.1,
        client_seconds: seconds * shape.clients as f64,
        dropped: clients.lost() - lost,
        slots_lost: 0,
        loop_times_us: clients.times,
    })
}

impl Rest {
    /// Adds one of `runs` runs.
    fn add(&mut self, run: Self, runs: f64) {
        self.links = self.links.plus(&run.links, 1.0 / runs);
        self.loops_sent += run.loops_sent;
        self.loops_home += run.loops_home;
        self.client_seconds += run.client_seconds;
        self.dropped += run.dropped;
        self.loop_times_us.extend(run.loop_times_us);
    }
}

impl Links {
    /// All kinds with their names, in order.
    pub fn named(&self) -> [(&'static str, f64); KINDS] {
        [
            ("client to entry", self.client_to_entry),
            ("entry to layer 1", self.entry_to_first),
            ("layer 1 to layer 2", self.first_to_second),
            ("layer 2 to layer 3", self.second_to_third),
            ("layer 3 to exit", self.third_to_exit),
            ("layer 3 to entry", self.third_to_entry),
            ("entry to client", self.entry_to_client),
        ]
    }

    fn plus(&self, other: &Self, share: f64) -> Self {
        Self {
            client_to_entry: self.client_to_entry + other.client_to_entry * share,
            entry_to_first: self.entry_to_first + other.entry_to_first * share,
            first_to_second: self.first_to_second + other.first_to_second * share,
            second_to_third: self.second_to_third + other.second_to_third * share,
            third_to_exit: self.third_to_exit + other.third_to_exit * share,
            third_to_entry: self.third_to_entry + other.third_to_entry * share,
            entry_to_client: self.entry_to_client + other.entry_to_client * share,
        }
    }
}

/// All clients of a world.
struct Clients<F: Carried> {
    world: World<Counter>,
    speakers: Vec<Speaker<F>>,
    /// Of the loops that have come home.
    times: Vec<u64>,
}

impl<F: Carried> Clients<F> {
    fn live(&mut self, end: Instant) -> Result<()> {
        while let Some(output) = self.world.step(end) {
            let (client, bytes) = match output {
                Output::Home { client, bytes } => (client, Some(bytes)),
                Output::Wake(number) => match Wake::from_number(number) {
                    Wake::Slot(index) => {
                        if let Some(speaker) = self.speakers.get_mut(index as usize) {
                            speaker.slot(&mut self.world)?;
                        }
                        continue;
                    }
                    Wake::Client(index) => (index as usize, None),
                    _ => continue,
                },
                // Cover ends here, and nothing changes at rest.
                Output::Delivered { .. } | Output::Document => continue,
            };
            let Some(speaker) = self.speakers.get_mut(client) else { continue };
            match bytes {
                Some(mut bytes) => speaker.home(&mut self.world, &mut bytes)?,
                None => speaker.wake(&mut self.world)?,
            }
            while let Some(event) = speaker.endpoint.poll_event() {
                if let Event::LoopHome { took, .. } = event {
                    self.times.push(took.as_micros() as u64);
                }
            }
        }
        Ok(())
    }

    /// Loops that left, and that came home.
    fn loops(&self) -> (u64, u64) {
        let all = self.speakers.iter().map(|speaker| speaker.endpoint.status());
        all.fold((0, 0), |(sent, home), status| (sent + status.loops_sent, home + status.loops_home))
    }

    fn lost(&self) -> u64 {
        self.world.dropped().values().sum()
    }
}

/// Counts packets on each kind of link.
#[derive(Debug)]
struct Counter {
    width: usize,
    entries: usize,
    counts: [u64; KINDS],
}

impl Counter {
    fn new(shape: &Shape) -> Self {
        Self { width: shape.roads.width.max(1), entries: shape.entries, counts: [0; KINDS] }
    }

    fn count(&mut self, kind: usize) {
        if let Some(count) = self.counts.get_mut(kind) {
            *count += 1;
        }
    }
}

impl Observer for Counter {
    fn crosses(&mut self, _now: Instant, from: Place, to: u32, _packet: &mut Packet) -> Fate {
        let (mixes, to) = (LAYERS * self.width, to as usize);
        match from {
            Place::Client(_) => self.count(0),
            Place::Relay(from) | Place::Loop(from) => match from as usize {
                mix if mix < mixes && to < mixes => self.count(2 + mix / self.width),
                mix if mix < mixes && to < mixes + self.entries => self.count(5),
                mix if mix < mixes => self.count(4),
                gateway if gateway < mixes + self.entries => self.count(1),
                // An exit sends only loops of relays.
                _ => {}
            },
        }
        Fate::Pass
    }

    fn ends(&mut self, _now: Instant, end: End, _packet: &mut Packet) {
        if end == End::Home {
            self.count(6);
        }
    }
}

const KINDS: usize = 7;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use crate::figures::{erlang_quantile, quantile};

    #[test]
    fn links_carry_the_rates_and_loops_take_the_delays_and_the_entrys_slots() {
        let words = [
            "seconds=100",
            "seeds=2",
            "clients.count=4",
            "clients.send_rate=50",
            "clients.receive_rate=8000",
            "clients.loop_share=0.4",
            "clients.drop_share=0.5",
            "network.width=2",
            "network.relay_loops=0",
            "network.max_delay_ms=2000",
        ];
        let words: Vec<_> = words.map(str::to_owned).to_vec();
        let rest = rest(&Scenario::load(None, &words).unwrap()).unwrap();
        // From 16 000 loops to 40 000 packets: 0.8 to 0.5 % are their standard deviations.
        for (name, rate) in rest.links.named() {
            let expected = match name {
                "layer 3 to exit" => 120.0,
                "layer 3 to entry" | "entry to client" => 80.0,
                _ => 200.0,
            };
            assert!((rate / expected - 1.0).abs() < 0.03, "{name}: {rate}");
        }
        assert_eq!(rest.client_seconds, 800.0);
        assert_eq!(rest.dropped, 0);
        assert_eq!(rest.loops_home, rest.loop_times_us.len() as u64);
        assert!(rest.loops_sent.abs_diff(rest.loops_home) < 30, "{} {}", rest.loops_sent, rest.loops_home);
        // So many slots at the entry that none is waited for.
        let mut times = rest.loop_times_us;
        times.sort_unstable();
        for share in [0.1, 0.5, 0.95] {
            let (measured, law) = (quantile(&times, share) as f64 / 1e3, erlang_quantile(3, share) * 20.0);
            assert!((measured / law - 1.0).abs() < 0.03, "{share}: {measured} and {law} ms");
        }
    }
}
