//! Runs a scenario, once for each seed, and puts together what came out.

use crate::adversary::lines::Lines;
use crate::adversary::matching::{Verdict, WATCHERS, judge};
use crate::exits::Seen;
use crate::figures::{
    distance_to_poisson, erlang_quantile, half_width, milliseconds, mix_entropy, quantile, stratified_entropy,
};
use crate::roads::{Arrangement, Law};
use crate::scenario::Scenario;
use crate::senders::Senders;
use crate::targets::{TARGETS, Targets};
use crate::town::{FlowRecord, Habits, Town};
use crate::watch::Watch;
use crate::world::{Shape, World};
use mizzle_protocol::time::Instant;
use mizzle_protocol::{Error, ErrorKind, Result};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A figure that a run has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What it is, with its unit.
    pub name: &'static str,
    /// What came out.
    pub value: f64,
    /// What the closed form says, where there is one and it holds.
    pub theory: Option<f64>,
}

/// What one run came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Packets that clients and exits sent, from the start.
    pub sent: u64,
    /// Packets that arrived at an exit or at home.
    pub delivered: u64,
    /// Packets that were dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Packets still on their way at the end, counted where they were.
    pub in_flight: u64,
    /// The same by the book that keeps their bytes.
    pub kept: u64,
    /// Events from the start.
    pub events: u64,
    /// The figures, in an order that is always the same.
    pub figures: Vec<Figure>,
    /// Every hundredth of the latencies, from the least to the greatest, in milliseconds.
    pub latency: Vec<f64>,
    /// Share of the time for which mixes held 0, 1, 2, … packets.
    pub occupancy: Vec<f64>,
}

/// All runs of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What was simulated.
    pub scenario: Scenario,
    /// What came out, in the order of the seeds.
    pub outcomes: Vec<Outcome>,
}

/// A figure over all runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// What it is, with its unit.
    pub name: &'static str,
    /// Its mean.
    pub mean: f64,
    /// Half the width of the interval that holds the true mean with 95 %; with one run there is none.
    pub half_width: Option<f64>,
    /// What the closed form says, where there is one and it holds.
    pub theory: Option<f64>,
}

/// Runs a scenario with all its seeds, on all processors; `progress` hears of each virtual second that is over, of so
/// many.
pub fn run(scenario: &Scenario, shape: &Shape, progress: impl Fn(f64) + Sync) -> Result<Report> {
    let next = AtomicU64::new(0);
    let done = Mutex::new(Vec::new());
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= scenario.seeds {
                return;
            }
            let outcome = run_once(scenario, shape, scenario.seed + index, &progress);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((index, outcome));
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..processors.min(scenario.seeds as usize) {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    let outcomes = done.into_iter().map(|(_, outcome)| outcome).collect::<Result<_>>()?;
    Ok(Report { scenario: scenario.clone(), outcomes })
}

/// One run.
pub fn run_once(
    scenario: &Scenario,
    shape: &Shape,
    seed: u64,
    progress: &(impl Fn(f64) + Sync),
) -> Result<Outcome> {
    let mean = shape.parameters.mean_delay;
    let layers = shape.roads.layers as u32;
    // The mixes of a layer fill up as 1 - e^(-t/mean): after so many means there is nothing to see of it.
    let start = Instant::ZERO;
    let warm = start + mean * 30 * layers;
    let time = Duration::from_secs_f64(scenario.seconds);
    let end = warm + time;
    // A target that has come in is out, but for e^-30, after so long.
    let drain = mean * 30 * layers;
    let chosen = time.saturating_sub(drain).max(time / 2);
    let corrupt = corrupt_mixes(scenario, shape, seed);
    let is_corrupt = |mix: usize| corrupt.get(mix).copied().unwrap_or(false);
    let mixes = shape.mixes();
    let targets = Targets::new(mixes, shape.roads.law, mean, warm, chosen / (TARGETS as u32), is_corrupt);
    let senders = Senders::new(mixes, end - drain, is_corrupt);
    let lines = Lines::new(if scenario.adversary.match_flows { shape.clients } else { 0 });
    let observers = (((Watch::new(mixes), targets), senders), lines);
    let world = World::new(shape.clone(), start, seed, observers)?;
    let workload = scenario.workload().map_err(|error| Error::new(ErrorKind::Misuse, error.to_string()))?;
    let habits = Habits {
        speakers: scenario.workload.speakers.min(workload.senders()),
        workload,
        step: scenario.step(),
        pinned: scenario.workload.pinned,
        from: warm,
    };
    let mut town = Town::new(world, &habits)?;
    let step = |town: &mut Town<_>, until: Instant| -> Result<()> {
        while town.world.now() < until {
            let next = until.min(town.world.now() + Duration::from_secs(1));
            let passed = next.since(town.world.now());
            town.run(next)?;
            progress(passed.as_secs_f64());
        }
        Ok(())
    };
    step(&mut town, warm)?;
    town.world.observer.0.0.0.start(warm);
    step(&mut town, end)?;
    let (flows, seen) = (town.flows().to_vec(), town.take_seen());
    Ok(outcome(&mut town.world, &flows, &seen, seed, time))
}

/// Which mixes give their secrets away: of each layer its share, drawn by the seed.
fn corrupt_mixes(scenario: &Scenario, shape: &Shape, seed: u64) -> Vec<bool> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed ^ 0x00c0_aa07);
    let width = shape.roads.width;
    let mut corrupt = vec![false; shape.mixes()];
    for (layer, share) in corrupt.chunks_mut(width.max(1)).zip(&scenario.adversary.corrupt) {
        let mut left = (share * width as f64).round() as usize;
        let mut members: Vec<_> = layer.iter_mut().collect();
        while left > 0 && !members.is_empty() {
            let drawn = (rng.next_u64() % members.len() as u64) as usize;
            *members.swap_remove(drawn) = true;
            left -= 1;
        }
    }
    corrupt
}

fn outcome(
    world: &mut World<Observers>,
    flows: &[FlowRecord],
    seen: &[Seen],
    seed: u64,
    time: Duration,
) -> Outcome {
    let now = world.now();
    let held: Vec<_> = (0..world.shape().mixes()).map(|mix| world.held(mix)).collect();
    world.observer.0.0.0.stop(now, |mix| held.get(mix).copied().unwrap_or(0));
    let shape = world.shape();
    let (((watch, targets), senders), lines) = &world.observer;
    let mut latencies = watch.latencies.clone();
    latencies.sort_unstable();
    let occupancy = occupancy(watch);
    let mut figures = Vec::new();
    speed(shape, &latencies, &mut figures);
    applications(flows, &mut figures);
    // Where nobody speaks the load is known; what sessions add is measured.
    let load = match flows.is_empty() {
        true => shape.clients as f64 * shape.pace.send_rate * shape.parameters.mean_delay.as_secs_f64(),
        false => watch.load(shape.roads.layers, time) * shape.parameters.mean_delay.as_secs_f64(),
    };
    mixing(shape, watch, load, &occupancy, &mut figures);
    packets(shape, targets, load, &mut figures);
    who_sent(shape, senders, &mut figures);
    matching(&judge(lines, flows, seen, shape, now), &mut figures);
    let clients = shape.clients as f64;
    figures.push(Figure {
        name: "sent by a client, kbit/s",
        value: watch.on_lines as f64 * shape.parameters.geometry.packet() as f64 * 8.0
            / 1e3
            / time.as_secs_f64()
            / clients,
        theory: None,
    });
    Outcome {
        seed,
        sent: world.sent(),
        delivered: world.delivered(),
        dropped: world.dropped().iter().map(|(reason, &count)| (reason.label(), count)).collect(),
        in_flight: world.in_flight(),
        kept: world.kept(),
        events: world.events(),
        figures,
        latency: (0..=100)
            .map(|rank| f64::from(quantile(&latencies, f64::from(rank) / 100.0)) / 1e3)
            .collect(),
        occupancy,
    }
}

fn occupancy(watch: &Watch) -> Vec<f64> {
    let longest = watch.mixes.iter().map(|mix| mix.occupancy.len()).max().unwrap_or(0);
    let total: f64 = watch.mixes.iter().flat_map(|mix| &mix.occupancy).map(Duration::as_secs_f64).sum();
    let at = |held: usize| {
        let times = watch.mixes.iter().filter_map(|mix| mix.occupancy.get(held));
        times.map(Duration::as_secs_f64).sum::<f64>() / total.max(1e-9)
    };
    (0..longest).map(at).collect()
}

fn speed(shape: &Shape, latencies: &[u32], figures: &mut Vec<Figure>) {
    // Four links of the five: client to entry, and between relays to the last one.
    let links = shape.links.distance.mean().as_secs_f64() * (shape.roads.layers + 2) as f64;
    let mean = shape.parameters.mean_delay.as_secs_f64();
    let ideal = shape.links.bandwidth.is_none() && shape.links.capacity.is_none();
    let known = matches!(shape.links.distance, crate::links::Distance::Equal(_)) && ideal;
    for (name, share) in [("latency p50, ms", 0.5), ("latency p95, ms", 0.95), ("latency p99, ms", 0.99)] {
        let law = (links + erlang_quantile(shape.roads.layers as u32, share) * mean) * 1e3;
        figures.push(Figure {
            name,
            value: f64::from(quantile(latencies, share)) / 1e3,
            theory: (known && shape.roads.law == Law::Exponential).then_some(law),
        });
    }
}

/// What applications had of it. No figures where there were none.
fn applications(flows: &[FlowRecord], figures: &mut Vec<Figure>) {
    if flows.is_empty() {
        return;
    }
    let count = |is: fn(&FlowRecord) -> bool| flows.iter().filter(|flow| is(flow)).count() as f64;
    let sorted = |of: fn(&FlowRecord) -> Option<f64>| {
        let mut values: Vec<_> = flows.iter().filter_map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let first = sorted(|flow| flow.first_byte.map(milliseconds));
    let whole = sorted(|flow| flow.finished.map(milliseconds));
    let goodput = sorted(|flow| flow.finished.map(|time| flow.flow.down as f64 / 1e3 / time.as_secs_f64()));
    let plain = |name, value| Figure { name, value, theory: None };
    figures.extend([
        plain("flows begun", flows.len() as f64),
        plain("flows finished", count(|flow| flow.finished.is_some())),
        plain("flows cut off", count(|flow| flow.reset.is_some())),
        plain("flows spoilt", count(|flow| flow.spoilt && flow.reset.is_none())),
        plain("first byte p50, ms", quantile(&first, 0.5)),
        plain("first byte p95, ms", quantile(&first, 0.95)),
        plain("whole answer p50, ms", quantile(&whole, 0.5)),
        plain("whole answer p95, ms", quantile(&whole, 0.95)),
        plain("goodput of a flow p50, kB/s", quantile(&goodput, 0.5)),
    ]);
}

fn mixing(shape: &Shape, watch: &Watch, load: f64, occupancy: &[f64], figures: &mut Vec<Figure>) {
    let poisson = shape.roads.law == Law::Exponential && shape.links.loss == 0.0;
    let mean = shape.parameters.mean_delay.as_secs_f64();
    let rho = load / passed_by(shape);
    let held = watch.mixes.iter().map(crate::watch::MixFigures::mean_held).sum::<f64>();
    let departures: u64 = watch.mixes.iter().map(|mix| mix.departures).sum();
    let bits = watch.mixes.iter().map(|mix| mix.entropy).sum::<f64>();
    figures.push(Figure {
        name: "packets held by a mix",
        value: held / watch.mixes.len().max(1) as f64,
        theory: (poisson || shape.roads.law == Law::Constant || shape.roads.law == Law::Uniform)
            .then_some(load * shape.roads.layers as f64 / shape.mixes() as f64),
    });
    figures.push(Figure {
        name: "distance of that to Poisson",
        value: distance_to_poisson(occupancy, rho),
        theory: poisson.then_some(0.0),
    });
    figures.push(Figure {
        name: "entropy of one mix, bits",
        value: bits / departures.max(1) as f64,
        theory: mix_entropy(rho).filter(|_| poisson && mean > 0.0),
    });
}

/// Among how many mixes the packets of a layer are shared.
fn passed_by(shape: &Shape) -> f64 {
    match shape.roads.arrangement {
        Arrangement::Stratified | Arrangement::Cascade => shape.roads.width as f64,
        Arrangement::FreeRoute => shape.mixes() as f64 / shape.roads.layers as f64,
    }
}

fn packets(shape: &Shape, targets: &Targets, load: f64, figures: &mut Vec<Figure>) {
    let found = targets.found();
    let count = targets.started().max(1);
    let mut entropy: Vec<f64> = found.entropy.iter().copied().take(count).collect();
    let min_entropy: Vec<f64> = (0..count).map(|target| found.min_entropy(target)).collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let honest = shape.roads.law == Law::Exponential && shape.roads.arrangement == Arrangement::Stratified;
    let rho = load / passed_by(shape);
    let unbroken = targets.corrupt_count() == 0 && shape.links.loss == 0.0;
    figures.push(Figure {
        name: "entropy of packets, bits",
        value: mean(&entropy),
        theory: stratified_entropy(shape.roads.layers, load, rho).filter(|_| honest && unbroken),
    });
    entropy.sort_by(f64::total_cmp);
    figures.push(Figure {
        name: "entropy of packets, lowest tenth, bits",
        value: quantile(&entropy, 0.1),
        theory: None,
    });
    figures.push(Figure { name: "min-entropy of packets, bits", value: mean(&min_entropy), theory: None });
    let out: f64 = found.out.iter().sum();
    figures.push(Figure {
        name: "shares of targets lost",
        value: (count as f64 - out - targets.inside()).abs() / count as f64,
        theory: Some(0.0),
    });
}

fn who_sent(shape: &Shape, senders: &Senders, figures: &mut Vec<Figure>) {
    let suspects = senders.follow_back(shape.clients);
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let bits =
        |shares: &[f64]| mean(&shares.iter().map(|share| -libm::log2(share.max(1e-300))).collect::<Vec<_>>());
    let mut entropy = suspects.entropy.clone();
    entropy.sort_by(f64::total_cmp);
    figures.push(Figure { name: "entropy of senders, bits", value: mean(&entropy), theory: None });
    figures.push(Figure {
        name: "entropy of senders, lowest tenth, bits",
        value: quantile(&entropy, 0.1),
        theory: None,
    });
    figures.push(Figure {
        name: "min-entropy of senders, bits",
        value: bits(&suspects.largest),
        theory: None,
    });
    figures.push(Figure {
        name: "epsilon between two senders",
        value: mean(&suspects.epsilon),
        theory: None,
    });
}

/// How far those got who looked for the clients of flows.
fn matching(verdicts: &[Verdict], figures: &mut Vec<Figure>) {
    let names = [
        ("all links: flows identified, %", "all links: time to that, p50, s", "all links: flows mistaken, %"),
        ("and exit: flows identified, %", "and exit: time to that, p50, s", "and exit: flows mistaken, %"),
        (
            "entry, exit: flows identified, %",
            "entry, exit: time to that, p50, s",
            "entry, exit: flows mistaken, %",
        ),
    ];
    for (watcher, (identified, time, mistaken)) in WATCHERS.into_iter().zip(names) {
        let own: Vec<_> = verdicts.iter().filter(|verdict| verdict.watcher == watcher).collect();
        if own.is_empty() {
            continue;
        }
        let mut times: Vec<_> = own.iter().filter_map(|verdict| verdict.identified).collect();
        times.sort_unstable();
        let share = |count: usize| count as f64 * 100.0 / own.len() as f64;
        let wrong = own.iter().filter(|verdict| verdict.wrong).count();
        let median = quantile(&times, 0.5).as_secs_f64();
        figures.push(Figure { name: identified, value: share(times.len()), theory: None });
        figures.push(Figure { name: time, value: median, theory: None });
        figures.push(Figure { name: mistaken, value: share(wrong), theory: None });
    }
}

/// Who watches a run.
type Observers = (((Watch, Targets), Senders), Lines);

impl Outcome {
    /// True if every packet is accounted for, in both books.
    pub fn balances(&self) -> bool {
        self.sent == self.delivered + self.dropped.values().sum::<u64>() + self.in_flight
            && self.kept == self.in_flight
    }
}

impl Report {
    /// The figures over all runs.
    pub fn summary(&self) -> Vec<Summary> {
        let Some(first) = self.outcomes.first() else { return Vec::new() };
        (0..first.figures.len())
            .filter_map(|index| {
                let figures: Vec<_> =
                    self.outcomes.iter().filter_map(|outcome| outcome.figures.get(index)).collect();
                let values: Vec<_> = figures.iter().map(|figure| figure.value).collect();
                let figure = figures.first()?;
                Some(Summary {
                    name: figure.name,
                    mean: values.iter().sum::<f64>() / values.len() as f64,
                    half_width: half_width(&values),
                    theory: figure.theory,
                })
            })
            .collect()
    }

    /// True if every packet of every run is accounted for.
    pub fn balances(&self) -> bool {
        self.outcomes.iter().all(Outcome::balances)
    }

    /// The report as a table.
    pub fn table(&self) -> String {
        let scenario = &self.scenario;
        let mut text = format!(
            "{} clients, {} s, seeds {} to {}\n\n",
            scenario.clients.count,
            scenario.seconds,
            scenario.seed,
            scenario.seed + scenario.seeds - 1,
        );
        let sum = |count: fn(&Outcome) -> u64| self.outcomes.iter().map(count).sum::<u64>();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "sent {} = delivered {} + dropped {} + in flight {}",
            sum(|outcome| outcome.sent),
            sum(|outcome| outcome.delivered),
            sum(|outcome| outcome.dropped.values().sum()),
            sum(|outcome| outcome.in_flight),
        );
        let mut dropped: BTreeMap<&str, u64> = BTreeMap::new();
        for (reason, count) in self.outcomes.iter().flat_map(|outcome| &outcome.dropped) {
            *dropped.entry(reason).or_default() += count;
        }
        for (reason, count) in dropped {
            let _ = writeln!(text, "  dropped, {reason}: {count}");
        }
        let _ = writeln!(text, "\n{:<40} {:>10} {:>10} {:>10}", "", "measured", "± 95 %", "theory");
        for summary in self.summary() {
            let width = summary.half_width.map_or("-".to_owned(), |width| format!("{width:.4}"));
            let theory = summary.theory.map_or("-".to_owned(), |theory| format!("{theory:.4}"));
            let _ = writeln!(text, "{:<40} {:>10.4} {width:>10} {theory:>10}", summary.name, summary.mean);
        }
        text
    }
}
