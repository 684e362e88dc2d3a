//! Runs scenarios, once for each seed.

use crate::adversary::lines::Lines;
use crate::adversary::matching::Applications;
use crate::adversary::paths::Paths;
use crate::adversary::presence::intersect;
use crate::outcome::Outcome;
use crate::report::Report;
use crate::scenario::Scenario;
use crate::senders::Senders;
use crate::targets::{TARGETS, Targets};
use crate::town::{Habits, Town};
use crate::watch::Watch;
use crate::world::{Shape, World};
use mizzle_protocol::time::Instant;
use mizzle_protocol::{Error, ErrorKind, Result};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Runs a scenario with all its seeds, on all processors; `progress` hears of each stretch of virtual time that is
/// over, in seconds.
pub fn run(scenario: &Scenario, progress: impl Fn(f64) + Sync) -> Result<Report> {
    let mut reports = run_all(std::slice::from_ref(scenario), progress)?;
    reports.pop().ok_or_else(|| Error::new(ErrorKind::Misuse, "a scenario without seeds"))
}

/// Virtual seconds that [`run_all`] will tell its `progress` of, for one scenario.
pub fn seconds(scenario: &Scenario) -> f64 {
    let layers = scenario.network.layers as f64;
    (scenario.seconds + scenario.network.mean_delay_ms / 1e3 * 30.0 * layers) * scenario.seeds as f64
}

/// Runs several scenarios with all their seeds, on all processors. The reports are in the order of the scenarios.
pub fn run_all(scenarios: &[Scenario], progress: impl Fn(f64) + Sync) -> Result<Vec<Report>> {
    let mut jobs = Vec::new();
    let mut shapes = Vec::with_capacity(scenarios.len());
    for (index, scenario) in scenarios.iter().enumerate() {
        shapes.push(scenario.shape().map_err(|error| Error::new(ErrorKind::Misuse, error.to_string()))?);
        jobs.extend((0..scenario.seeds).map(|seed| (index, scenario.seed + seed)));
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(&(index, seed)) = jobs.get(number) else { return };
            let (Some(scenario), Some(shape)) = (scenarios.get(index), shapes.get(index)) else { return };
            let outcome = run_once(scenario, shape, seed, &progress);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((number, index, outcome));
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..processors.min(jobs.len()) {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, ..)| *number);
    let mut reports: Vec<_> = scenarios
        .iter()
        .map(|scenario| Report { scenario: scenario.clone(), outcomes: Vec::new() })
        .collect();
    for (_, index, outcome) in done {
        if let Some(report) = reports.get_mut(index) {
            report.outcomes.push(outcome?);
        }
    }
    Ok(reports)
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
    let paths = Paths::new(
        scenario.adversary.batch,
        shape.clients,
        shape.roads.layers,
        corrupt.clone(),
        (warm, end - drain.min(time / 2)),
    );
    let observers = (((Watch::new(mixes), targets), senders), (lines, paths));
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
    let applications = Applications {
        flows: town.flows().to_vec(),
        seen: town.take_seen(),
        rises: town.rises(),
        from: warm,
    };
    let mut outcome = Outcome::of(&mut town.world, &applications, seed, time);
    if scenario.adversary.presence_days > 0 {
        let habit = scenario.habit().map_err(|error| Error::new(ErrorKind::Misuse, error.to_string()))?;
        let days = scenario.adversary.presence_days;
        // Each pseudonym has a network of its own.
        let all: Vec<_> =
            (0..PSEUDONYMS).map(|number| intersect(&habit, days, seed << 16 | number)).collect();
        outcome.strike_out(&all);
    }
    Ok(outcome)
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

/// Pseudonyms that are looked for in each run.
const PSEUDONYMS: u64 = 20;
