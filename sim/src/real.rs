//! The same scenario with real processes, beside its simulation: what a network of the product's programs does at
//! rest on this machine must be what the simulator says of it.
//!
//! `mizzle-net` starts the programs, reads their counters and stops them; here is decided which scenarios real
//! processes can have, what the two must have in common, and by how much they may differ.

use crate::figures::quantile;
use crate::processes;
use crate::rest::{Rest, rest};
use crate::scenario::{Scenario, ScenarioError};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::level::Pace;
use mizzle_protocol::path::Parameters;
use mizzle_protocol::wire::cell::{client_cell_size, relay_cell_size};
use serde::Serialize;
use std::fmt::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus};
use toml::Table;

/// A scenario with real processes, beside its simulation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// What was compared.
    pub scenario: Scenario,
    /// Its figures.
    pub rows: Vec<Row>,
}

/// A figure of both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What it is, with its unit.
    pub figure: String,
    /// In the simulation, if it is a figure of one network alone.
    pub simulated: Option<f64>,
    /// Of the real processes.
    pub real: Option<f64>,
    /// By how much they differ; in what, `unit` says.
    pub difference: Option<f64>,
    /// `""`, `%` or `sigma` (standard deviations).
    pub unit: &'static str,
    /// The most that passes; without, the row only tells.
    pub bound: Option<f64>,
    /// What chance alone makes of the difference, in the same unit: its standard deviation, or where the difference has no
    /// sign its mean.
    pub chance: Option<f64>,
}

impl Row {
    /// True if the difference is within its bound.
    pub fn passes(&self) -> bool {
        // What is no number meets no bound.
        self.bound.is_none_or(|bound| self.difference.is_some_and(|difference| difference.abs() <= bound))
    }
}

impl Comparison {
    /// Puts what was measured beside what was simulated.
    pub fn of(scenario: &Scenario, simulated: &Rest, real: &Rest) -> Result<Self, ScenarioError> {
        let pace = scenario.shape()?.pace;
        let mut rows = Vec::new();
        latencies(simulated, real, &mut rows);
        bytes(scenario, simulated, real, &mut rows);
        loops(scenario, pace, simulated, real, &mut rows);
        rows.push(telling("packets dropped on their way", simulated.dropped as f64, real.dropped as f64));
        rows.push(telling(
            "slots of clients without a packet",
            simulated.slots_lost as f64,
            real.slots_lost as f64,
        ));
        Ok(Self { scenario: scenario.clone(), rows })
    }

    /// True if every figure is within its bound.
    pub fn passes(&self) -> bool {
        self.rows.iter().all(Row::passes)
    }

    /// The figures for people.
    pub fn table(&self) -> String {
        let Scenario { seed, seeds, seconds, .. } = self.scenario;
        let clients = self.scenario.clients.count;
        let mut out = format!(
            "{clients} clients at rest, {seconds} s; simulated with the seeds {seed} to {}\n\n\
             {:<36} {:>10} {:>10} {:>12} {:>10} {:>10}\n",
            seed + seeds - 1,
            "",
            "simulated",
            "real",
            "difference",
            "bound",
            "by chance",
        );
        let shown = |value: Option<f64>, unit: &str| match (value, unit) {
            (None, _) => "-".to_owned(),
            (Some(value), "") => format!("{value:.4}"),
            (Some(value), "%") => format!("{value:.2} %"),
            (Some(value), unit) => format!("{value:.2} {unit}"),
        };
        let plain = |value: Option<f64>| match value {
            Some(value) if value.abs() >= 1e4 || value.fract() == 0.0 => format!("{value:.0}"),
            value => value.map_or("-".to_owned(), |value| format!("{value:.2}")),
        };
        for row in &self.rows {
            let verdict = match (row.bound, row.passes()) {
                (None, _) => "",
                (_, true) => "  pass",
                (_, false) => "  FAIL",
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "{:<36} {:>10} {:>10} {:>12} {:>10} {:>10}{verdict}",
                row.figure,
                plain(row.simulated),
                plain(row.real),
                shown(row.difference, row.unit),
                shown(row.bound, row.unit),
                shown(row.chance, row.unit),
            );
        }
        out
    }
}

/// Simulates a scenario, starts it as real processes, and compares.
///
/// Fails if real processes cannot have it, or are not there, or end early; nothing of them is left running then.
pub fn run(scenario: &Scenario) -> Result<Comparison, Box<dyn std::error::Error>> {
    let shape = shape(scenario)?;
    let program = processes::launcher()?;
    // Before the processes, which it would slow down.
    let simulated = rest(scenario)?;
    let real = measure(&program, &shape, scenario.seconds)?;
    Ok(Comparison::of(scenario, &simulated, &real)?)
}

/// The shape of the network as `mizzle-net` reads it. Names the keys that real processes cannot have.
pub fn shape(scenario: &Scenario) -> Result<Table, ScenarioError> {
    let links = &scenario.links;
    let refused = [
        ("links.distance_ms", links.distance_ms != 0.0),
        ("links.matrix", !links.matrix.is_empty()),
        ("links.loss", links.loss != 0.0),
        ("links.bandwidth_mbit", links.bandwidth_mbit != 0.0),
    ];
    let shape = processes::shape(scenario, &refused)?;
    long_enough(scenario, scenario.shape()?.pace)?;
    Ok(shape)
}

/// Each kind of link must carry so many packets that the bound is [`SURE`] times what chance does.
fn long_enough(scenario: &Scenario, pace: Pace) -> Result<(), ScenarioError> {
    let seldom = pace.send_rate * pace.loop_share.min(1.0 - pace.loop_share);
    let packets = (1.0 + 1.0 / scenario.seeds as f64) * (SURE * 100.0 / BYTES_BOUND).powi(2);
    let seconds = packets / (seldom * scenario.clients.count as f64);
    if scenario.seconds >= seconds {
        return Ok(());
    }
    Err(ScenarioError::new(format!(
        "seconds = {}: too short to tell {BYTES_BOUND} % from chance on every kind of link; say seconds={:.0} or more, or let \
         clients send more loops (clients.count, clients.send_rate with clients.loop_share)",
        scenario.seconds,
        seconds.ceil()
    )))
}

/// Lets `mizzle-net` run a network and look at it.
fn measure(program: &Path, shape: &Table, seconds: f64) -> Result<Rest, Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("mizzle-real-{}", std::process::id()));
    // Keys lie in it: one of our own, or none.
    std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
    let [network, file, into] = ["net", "shape.toml", "measured.json"].map(|name| folder.join(name));
    std::fs::write(&file, toml::to_string(shape)?)?;
    let mut ended = None;
    for slot in SLOTS {
        let mut command = Command::new(program);
        command.arg("measure").arg("--dir").arg(&network).args(["--slot", &slot.to_string()]);
        command.arg("--shape").arg(&file).arg("--into").arg(&into);
        command.args(["--seconds", &seconds.to_string()]);
        let status = command.status()?;
        ended = Some(status);
        // Other addresses, if another network has these.
        if status.code() != Some(IN_USE) {
            break;
        }
    }
    if ended.is_none_or(|status: ExitStatus| !status.success()) {
        // It stops what it has started, unless it was killed.
        let _ = Command::new(program).arg("down").arg("--dir").arg(&network).status();
        return Err(
            format!("the real network was not measured; its logs are in {}", network.display()).into()
        );
    }
    let real = serde_json::from_str(&std::fs::read_to_string(&into)?)?;
    std::fs::remove_dir_all(&folder)?;
    Ok(real)
}

/// How long loops take: their two laws as a whole, and some quantiles.
fn latencies(simulated: &Rest, real: &Rest, rows: &mut Vec<Row>) {
    let sorted = |rest: &Rest| {
        let mut times = rest.loop_times_us.clone();
        times.sort_unstable();
        times
    };
    let (simulated, real) = (sorted(simulated), sorted(real));
    let counts = [&simulated, &real].map(|times| times.len() as f64);
    rows.push(Row {
        figure: "loops, distance of their laws (KS)".to_owned(),
        simulated: None,
        real: None,
        difference: distance(&simulated, &real),
        unit: "",
        bound: Some(LAW_BOUND),
        // The mean of Kolmogorov's law is 0.869, its standard deviation 0.260.
        chance: Some(0.869 * libm::sqrt(counts.map(|count| 1.0 / count).iter().sum())),
    });
    for (name, share) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
        let [simulated, real] = [&simulated, &real].map(|times| quantile(times, share) as f64 / 1e3);
        rows.push(Row {
            difference: Some((real / simulated - 1.0) * 100.0),
            unit: "%",
            ..telling(&format!("loops {name}, ms"), simulated, real)
        });
    }
}

/// What each kind of link carries: packets times the size of a cell, both without filler.
fn bytes(scenario: &Scenario, simulated: &Rest, real: &Rest, rows: &mut Vec<Row>) {
    let geometry: Geometry = Parameters::default().geometry;
    let runs = scenario.seeds as f64;
    for ((name, simulated), (_, real)) in simulated.links.named().into_iter().zip(real.links.named()) {
        let cell = match name.contains("client") {
            true => client_cell_size(geometry),
            false => relay_cell_size(geometry),
        } as f64;
        let packets = simulated * scenario.seconds;
        rows.push(Row {
            figure: format!("{name}, kB/s"),
            simulated: Some(simulated * cell / 1e3),
            real: Some(real * cell / 1e3),
            difference: Some((real / simulated - 1.0) * 100.0),
            unit: "%",
            bound: Some(BYTES_BOUND),
            chance: Some(libm::sqrt((1.0 + 1.0 / runs) / packets) * 100.0),
        });
    }
}

/// Loops that left and that came home: by the clients' rates, by each other, and by the other network.
fn loops(scenario: &Scenario, pace: Pace, simulated: &Rest, real: &Rest, rows: &mut Vec<Row>) {
    let rate = pace.send_rate * pace.loop_share;
    let off = |count: u64, rest: &Rest| {
        let expected = rate * rest.client_seconds;
        (count as f64 - expected) / libm::sqrt(expected)
    };
    let per_second = |count: u64, rest: &Rest| count as f64 / rest.client_seconds;
    let counts =
        [("sent", simulated.loops_sent, real.loops_sent), ("home", simulated.loops_home, real.loops_home)];
    for (name, simulated_count, real_count) in counts {
        let rates = [per_second(simulated_count, simulated), per_second(real_count, real)];
        let spread = [rates[0] / simulated.client_seconds, rates[1] / real.client_seconds];
        rows.push(deviations(
            format!("loops {name}, by a client in a second"),
            rates,
            (rates[1] - rates[0]) / libm::sqrt(spread.iter().sum()),
        ));
        let offs = [off(simulated_count, simulated), off(real_count, real)];
        rows.push(deviations(format!("loops {name}, off their rate, sigma"), offs, largest(offs)));
    }
    // Under way at both ends of a run are loops of Poisson's law.
    let clients = scenario.clients.count as f64;
    let under_way = |rest: &Rest, runs: f64| {
        let total: f64 = rest.loop_times_us.iter().map(|&time| time as f64 / 1e6).sum();
        let mean = total / rest.loop_times_us.len() as f64;
        (rest.loops_sent as f64 - rest.loops_home as f64) / libm::sqrt(2.0 * rate * mean * clients * runs)
    };
    let offs = [under_way(simulated, scenario.seeds as f64), under_way(real, 1.0)];
    rows.push(deviations("loops sent and not home, sigma".to_owned(), offs, largest(offs)));
}

/// The one that is farther from zero; no number, if one is none.
fn largest([one, other]: [f64; 2]) -> f64 {
    if one.is_nan() || one.abs() > other.abs() { one } else { other }
}

fn deviations(figure: String, values: [f64; 2], difference: f64) -> Row {
    let [simulated, real] = values.map(Some);
    Row {
        figure,
        simulated,
        real,
        difference: Some(difference),
        unit: "sigma",
        bound: Some(LOOPS_BOUND),
        chance: Some(1.0),
    }
}

/// A row without a bound.
fn telling(figure: &str, simulated: f64, real: f64) -> Row {
    Row {
        figure: figure.to_owned(),
        simulated: Some(simulated),
        real: Some(real),
        difference: None,
        unit: "",
        bound: None,
        chance: None,
    }
}

/// The largest difference between the two samples' shares below any value (Kolmogorov and Smirnov); `None` if one is
/// empty. Both are sorted.
fn distance(one: &[u64], other: &[u64]) -> Option<f64> {
    if one.is_empty() || other.is_empty() {
        return None;
    }
    let share = |place: usize, sample: &[u64]| place as f64 / sample.len() as f64;
    let (mut first, mut second, mut largest) = (0, 0, 0.0_f64);
    while let (Some(a), Some(b)) = (one.get(first), other.get(second)) {
        let value = *a.min(b);
        first += one.iter().skip(first).take_while(|time| **time == value).count();
        second += other.iter().skip(second).take_while(|time| **time == value).count();
        largest = largest.max((share(first, one) - share(second, other)).abs());
    }
    Some(largest)
}

/// What the two samples of loop times may differ by.
const LAW_BOUND: f64 = 0.05;
/// What bytes on each kind of link may differ by, in percent.
const BYTES_BOUND: f64 = 2.0;
/// What counts of loops may, in standard deviations.
const LOOPS_BOUND: f64 = 3.0;
/// Standard deviations that the bound on bytes is at least.
const SURE: f64 = 4.0;
/// Networks that may run at the same time, by their addresses.
const SLOTS: std::ops::Range<u8> = 60..80;
/// What `mizzle-net` ends with when another network has the addresses.
const IN_USE: i32 = 3;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use crate::rest::Links;

    const SOUND: [&str; 6] = [
        "clients.count=8",
        "clients.send_rate=80",
        "clients.receive_rate=60",
        "clients.loop_share=0.45",
        "clients.drop_share=0.45",
        "seconds=170",
    ];

    fn scenario(words: &[&str]) -> Scenario {
        let words: Vec<_> = SOUND.iter().chain(words).map(|word| (*word).to_owned()).collect();
        Scenario::load(None, &words).unwrap()
    }

    fn refusal(words: &[&str]) -> String {
        shape(&scenario(words)).unwrap_err().to_string()
    }

    #[test]
    fn links_that_this_machine_does_not_have_are_refused_and_runs_too_short_to_tell() {
        for word in ["links.distance_ms=5", "links.loss=0.1", "links.bandwidth_mbit=10"] {
            let (key, _) = word.split_once('=').unwrap();
            assert!(refusal(&[word]).ends_with(&format!("leave out {key}")), "{word}: {}", refusal(&[word]));
        }
        assert!(refusal(&["seconds=60"]).contains("seconds=167"), "{}", refusal(&["seconds=60"]));
        assert!(shape(&scenario(&[])).is_ok());
    }

    #[test]
    fn the_distance_of_two_samples_is_that_of_their_laws() {
        assert_eq!(distance(&[1, 2, 3, 4], &[1, 2, 3, 4]), Some(0.0));
        assert_eq!(distance(&[1, 2, 3, 4], &[5, 6]), Some(1.0));
        assert_eq!(distance(&[1, 2, 3, 4], &[3, 4, 5, 6]), Some(0.5));
        // Ties are no difference.
        assert_eq!(distance(&[1, 1, 2], &[1, 1, 1, 1, 2, 2]), Some(0.0));
        assert_eq!(distance(&[], &[1]), None);
    }

    /// What a sound run of the scenario would be, without chance.
    fn sound(runs: f64) -> Rest {
        let loops = 36.0 * 8.0 * 170.0 * runs;
        let (all, home) = (640.0, 288.0);
        Rest {
            links: Links {
                client_to_entry: all,
                entry_to_first: all,
                first_to_second: all,
                second_to_third: all,
                third_to_exit: all - home,
                third_to_entry: home,
                entry_to_client: home,
            },
            loops_sent: loops as u64,
            loops_home: loops as u64,
            client_seconds: 8.0 * 170.0 * runs,
            loop_times_us: (0..loops as u64).map(|number| 20_000 + number * 60_000 / loops as u64).collect(),
            dropped: 0,
            slots_lost: 0,
        }
    }

    fn failed(real: &Rest) -> Vec<String> {
        let comparison = Comparison::of(&scenario(&[]), &sound(5.0), real).unwrap();
        let failed = comparison.rows.iter().filter(|row| !row.passes()).map(|row| row.figure.clone());
        assert_eq!(comparison.table().matches("FAIL").count(), failed.clone().count());
        failed.collect()
    }

    #[test]
    fn each_difference_is_found_in_its_row_and_in_no_other() {
        let real = sound(1.0);
        assert!(failed(&real).is_empty(), "{:?}", failed(&real));
        let mut late = real.clone();
        late.loop_times_us.iter_mut().for_each(|time| *time += 3_500);
        assert_eq!(failed(&late), ["loops, distance of their laws (KS)"]);
        let mut fewer = real.clone();
        fewer.links.second_to_third *= 0.97;
        assert_eq!(failed(&fewer), ["layer 2 to layer 3, kB/s"]);
        let mut lost = real.clone();
        lost.loops_home -= 60;
        assert_eq!(failed(&lost), ["loops sent and not home, sigma"]);
        let mut slow = real.clone();
        (slow.loops_sent, slow.loops_home) = (real.loops_sent - 900, real.loops_home - 900);
        assert_eq!(failed(&slow).len(), 4, "{:?}", failed(&slow));
        let silent = Rest { loop_times_us: Vec::new(), ..real };
        assert_eq!(failed(&silent).first().unwrap(), "loops, distance of their laws (KS)");
    }

    #[test]
    fn the_bound_on_bytes_is_four_times_what_chance_does_at_least() {
        let comparison = Comparison::of(&scenario(&[]), &sound(5.0), &sound(1.0)).unwrap();
        let bytes = comparison.rows.iter().filter(|row| row.figure.ends_with("kB/s"));
        assert!(bytes.clone().count() == 7);
        assert!(bytes.into_iter().all(|row| row.bound.unwrap() >= 4.0 * row.chance.unwrap()));
    }
}
