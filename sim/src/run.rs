//! Runs scenarios, once for each seed.

use crate::adversary::disclosure::{Disclosed, SIGNS, Sign, disclose};
use crate::adversary::lines::Lines;
use crate::adversary::matching::Applications;
use crate::adversary::meddling::Meddlers;
use crate::adversary::paths::Paths;
use crate::adversary::presence::intersect;
use crate::adversary::toggle::{self, Ladder, Toggle};
use crate::observe::Observer;
use crate::outcome::Outcome;
use crate::report::Report;
use crate::scenario::{Scenario, ScenarioError};
use crate::senders::Senders;
use crate::targets::{TARGETS, Targets};
use crate::town::{Habits, Town};
use crate::watch::Watch;
use crate::world::{Shape, World};
use mizzle_protocol::time::Instant;
use mizzle_protocol::{Error, ErrorKind, Result};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use std::collections::HashSet;
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
        .map(|scenario| Report {
            scenario: scenario.clone(),
            shares: scenario.shares(),
            outcomes: Vec::new(),
        })
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
    let mut shape = shape.clone();
    let relays = shape.mixes() + shape.entries + shape.exits;
    shape.links.distance.place(relays, shape.clients, seed);
    let shape = &shape;
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
    let flooding = scenario.shares().into_iter().find(|share| share.key == "adversary.flood");
    let honest = shape.clients.saturating_sub(flooding.map_or(0, |share| share.count));
    let targets = Targets::new(mixes, shape.roads.law, mean, warm, chosen / (TARGETS as u32), is_corrupt)
        .knowing(honest as u32..shape.clients as u32);
    let senders = Senders::new(mixes, end - drain, is_corrupt);
    let lines = Lines::new(if scenario.adversary.match_flows { shape.clients } else { 0 });
    let misuse = |error: ScenarioError| Error::new(ErrorKind::Misuse, error.to_string());
    let workload = scenario.workload().map_err(misuse)?;
    let speakers = scenario.workload.speakers.min(workload.senders());
    let meddlers = Meddlers::new(&scenario.meddling().map_err(misuse)?, shape, speakers, warm, seed);
    let paths = Paths::new(
        scenario.adversary.batch,
        shape.clients,
        shape.roads.layers,
        corrupt.clone(),
        (warm, end - drain.min(time / 2)),
    );
    let observers = ((((Watch::new(mixes), targets), senders), (lines, paths)), meddlers);
    let world = World::new(shape.clone(), start, seed, observers)?;
    let people = scenario.people().map_err(misuse)?;
    let (step, pinned) = (scenario.step(), scenario.workload.pinned);
    let habits = Habits { speakers, workload, people, step, pinned, from: warm };
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
    town.world.observer.0.0.0.0.start(warm);
    let toggle = scenario.toggle().map_err(misuse)?;
    if let Some(toggle) = toggle {
        town.visit(toggle)?;
    }
    step(&mut town, end)?;
    let applications = Applications {
        flows: town.flows().to_vec(),
        seen: town.take_seen(),
        rises: town.rises(),
        from: warm,
    };
    let seen = toggle.map(|toggle| toggled(&town, scenario, toggle, warm));
    let disclosed = match scenario.adversary.disclosure {
        true => disclosed(&town, scenario, &applications),
        false => Vec::new(),
    };
    let mut outcome = Outcome::of(&mut town.world, &applications, seed, time);
    if let (Some(toggle), Some(seen)) = (toggle, seen) {
        outcome.toggled(&seen, toggle.period(), shape.clients);
    }
    for (sign, clients) in &disclosed {
        outcome.disclosed(*sign, clients);
    }
    if scenario.adversary.presence_days > 0 {
        let habit = scenario.habit().map_err(misuse)?;
        let days = scenario.adversary.presence_days;
        // Each pseudonym has a network of its own.
        let all: Vec<_> =
            (0..PSEUDONYMS).map(|number| intersect(&habit, days, seed << 16 | number)).collect();
        outcome.strike_out(&all);
    }
    Ok(outcome)
}

/// What who runs a site that toggles the first client's load, and sees all lines, makes of them.
fn toggled<O: Observer>(
    town: &Town<O>,
    scenario: &Scenario,
    toggle: Toggle,
    from: Instant,
) -> toggle::Verdict {
    let (world, end) = (&town.world, town.world.now());
    let level = scenario.step().level;
    let parameters = &world.topology().parameters;
    let bytes = parameters.geometry.message() as f64;
    let rates = parameters.levels.steps(level).iter().map(|pace| pace.receive_rate * bytes).collect();
    // Who does not speak stays where it is.
    let mut lines = town.steps();
    lines.resize(world.shape().clients, vec![(Instant::ZERO, scenario.clients.step)]);
    let begins = town.toggled_since().map(|since| toggle.begins(since, end)).unwrap_or_default();
    toggle::judge(&lines, &Ladder { level, rates, toggle }, &begins, 0, from, end)
}

/// Which of their sites who sees all lines and all exits finds out of each client that speaks, by each sign.
fn disclosed<O: Observer>(
    town: &Town<O>,
    scenario: &Scenario,
    applications: &Applications,
) -> Vec<(Sign, Vec<Disclosed>)> {
    let span = (applications.from, town.world.now());
    let length = Duration::from_secs_f64(scenario.adversary.disclosure_round_s);
    // A flow is a visit when the first of its bytes leaves the exit.
    let mut begun = HashSet::new();
    let first = applications.seen.iter().filter(|seen| begun.insert(seen.flow));
    let visits: Vec<_> = first
        .filter_map(|seen| Some((seen.at, applications.flows.get(seen.flow as usize)?.flow.site)))
        .collect();
    let (steps, always) = (town.steps(), [span]);
    let of = |sign: Sign| {
        let clients = town.plans().zip(&steps).map(|(plan, steps)| {
            let stays = if plan.stays().is_empty() { always.as_slice() } else { plan.stays() };
            let rounds = sign.rounds(steps, stays, length, span);
            disclose(&rounds, &visits, scenario.workload.sites, plan.favourites(), span.0)
        });
        (sign, clients.collect())
    };
    SIGNS.map(of).into()
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
