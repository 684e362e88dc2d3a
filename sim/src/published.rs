//! Figures that others published, or that follow from a formula of theirs, with ours beside them.
//!
//! Each has a scenario (`sim/scenarios`, with some keys changed) that describes the network it was found in. What differs, and
//! why, and which figures are in no text that can be cited, is in `docs/research.md`.

use crate::figures::{half_width, wholly_corrupt};
use crate::outcome::Outcome;
use crate::report::{Report, said};
use crate::run::{run_all, seconds};
use crate::scenario::{Scenario, ScenarioError};
use std::f64::consts::E;
use std::fmt::Write as _;

/// A figure, and how to find it anew.
#[derive(Clone, Debug)]
pub struct Published {
    /// By which it is asked for.
    pub name: &'static str,
    /// What it is, with its unit.
    pub figure: &'static str,
    /// Who found it, and where.
    pub source: &'static str,
    /// What they found.
    pub theirs: Theirs,
    /// What ours is to be: the same, but where theirs holds something that is not simulated.
    pub expected: f64,
    /// How far ours may be from that.
    pub slack: f64,
    /// What is simulated: one network, or two that are compared.
    pub runs: Vec<Run>,
    /// The figure of one seed, from what that seed came to in each of the runs.
    pub ours: fn(&[&Outcome]) -> f64,
}

/// What others found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Theirs {
    /// Measured or simulated by them.
    Measured(f64),
    /// By their formula.
    Formula(f64),
}

/// A scenario with some of its keys changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its file, without the folder.
    pub file: &'static str,
    /// Keys and values, stronger than the file.
    pub words: Vec<String>,
}

/// A figure that was found anew.
#[derive(Clone, Debug)]
pub struct Found {
    /// Which.
    pub published: Published,
    /// The mean over the seeds.
    pub mean: f64,
    /// Half the width of its 95 % interval; `None` for one seed.
    pub half_width: Option<f64>,
}

impl Theirs {
    /// The number.
    pub fn value(self) -> f64 {
        match self {
            Self::Measured(value) | Self::Formula(value) => value,
        }
    }
}

impl Run {
    fn new(file: &'static str, words: &[&str]) -> Self {
        Self { file, words: words.iter().map(|word| (*word).to_owned()).collect() }
    }

    /// The scenario, with further words that are stronger still.
    pub fn scenario(&self, more: &[String]) -> Result<Scenario, ScenarioError> {
        let text = SCENARIOS.iter().find(|(file, _)| *file == self.file).map_or("", |(_, text)| text);
        Scenario::parse(self.file, text, &[&self.words[..], more].concat())
    }

    /// The command that runs it.
    pub fn command(&self) -> String {
        let words: String = self.words.iter().map(|word| format!(" --set {word}")).collect();
        format!("mizzle-sim run sim/scenarios/{}{words}", self.file)
    }
}

impl Found {
    /// True if it is what was expected.
    pub fn agrees(&self) -> bool {
        // Without the interval: a figure that is less sure is no better.
        (self.mean - self.published.expected).abs() <= self.published.slack
    }
}

/// All of them.
pub fn all() -> Vec<Published> {
    let mean_latency = |outcomes: &[&Outcome]| first(outcomes, |outcome| outcome.latency_moments[0] / 1e3);
    let deviation = |outcomes: &[&Outcome]| first(outcomes, |outcome| outcome.latency_moments[1] / 1e3);
    let held = |outcomes: &[&Outcome]| first(outcomes, |outcome| value(outcome, "packets held by a mix"));
    let poisson =
        |outcomes: &[&Outcome]| first(outcomes, |outcome| value(outcome, "distance of that to Poisson"));
    let of_mix =
        |outcomes: &[&Outcome]| first(outcomes, |outcome| value(outcome, "entropy of one mix, bits"));
    let of_packets = |outcomes: &[&Outcome]| first(outcomes, bits_of_packets);
    let gain = |outcomes: &[&Outcome]| {
        outcomes
            .get(1)
            .zip(outcomes.first())
            .map_or(f64::NAN, |(other, one)| bits_of_packets(other) - bits_of_packets(one))
    };
    let met = |outcomes: &[&Outcome]| {
        first(outcomes, |outcome| value(outcome, "batches that met a wholly corrupt path, %"))
    };
    let formula = |name, figure, source, value, slack, runs, ours| Published {
        name,
        figure,
        source,
        theirs: Theirs::Formula(value),
        expected: value,
        slack,
        runs,
        ours,
    };
    let measured = |name, figure, source, (value, expected), slack, runs, ours| Published {
        name,
        figure,
        source,
        theirs: Theirs::Measured(value),
        expected,
        slack,
        runs,
        ours,
    };
    let one = |file, words: &[&str]| vec![Run::new(file, words)];
    let poisson_mix = |words: &[&str]| one("one-mix.toml", words);
    let entropy_of = |held: f64| libm::log2(E * held);
    vec![
        measured(
            "loopix-mean",
            "latency of a loop through three delays of 0.5 s: mean, s",
            "Loopix 2017, figure 10",
            // Of theirs 0.43 s are no mixing delays: see the page.
            (1.93, 1.5),
            0.01,
            one("loopix.toml", &[]),
            mean_latency,
        ),
        measured(
            "loopix-deviation",
            "the same: standard deviation, s",
            "Loopix 2017, figure 10",
            (0.87, 0.87),
            0.01,
            one("loopix.toml", &[]),
            deviation,
        ),
        formula(
            "loopix-held",
            "packets in a mix, λ = 750/s, 1/μ = 0.5 s: mean",
            "Loopix 2017, lemma 1: λ/μ",
            375.0,
            2.0,
            one("loopix.toml", &[]),
            held,
        ),
        formula(
            "loopix-poisson",
            "the same: distance to Poisson's law",
            "Loopix 2017, lemma 1: none",
            0.0,
            // Of 700 samples that do not depend on each other.
            0.03,
            one("loopix.toml", &[]),
            poisson,
        ),
        formula(
            "mix-25",
            "entropy of one mix, λ = 500/s, 1/μ = 0.05 s: bits",
            "Danezis 2004, equation 13: log2(eλ/μ)",
            entropy_of(25.0),
            0.02,
            poisson_mix(&[]),
            of_mix,
        ),
        formula(
            "mix-250",
            "entropy of one mix, λ = 500/s, 1/μ = 0.5 s: bits",
            "Danezis 2004, equation 13",
            entropy_of(250.0),
            0.02,
            poisson_mix(&["network.mean_delay_ms=500"]),
            of_mix,
        ),
        formula(
            "mix-5000",
            "entropy of one mix, λ = 100/s, 1/μ = 50 s: bits",
            "Danezis 2004, equation 13",
            entropy_of(5_000.0),
            0.02,
            poisson_mix(&["network.mean_delay_ms=50000", "clients.send_rate=1", "clients.receive_rate=1"]),
            of_mix,
        ),
        formula(
            "uniform",
            "uniform delays instead of exponential ones, one mix: bits",
            "Danezis 2004, equation 9: 1 - log2(e)",
            1.0 - libm::log2(E),
            0.05,
            vec![
                Run::new("one-mix.toml", &["network.mean_delay_ms=500"]),
                Run::new("one-mix.toml", &["network.mean_delay_ms=500", "network.law=uniform"]),
            ],
            gain,
        ),
        measured(
            "layers-narrow",
            "entropy, 3 layers of 10 mixes, 5 000/s, 1 s: bits",
            "Ben Guirat and Diaz 2022",
            (13.038, 13.038),
            0.02,
            one("layers.toml", &[]),
            of_packets,
        ),
        measured(
            "layers-wide",
            "entropy, 3 layers of 50 mixes, 100/s, 1 s: bits",
            "Ben Guirat and Diaz 2022",
            (2.624, 2.624),
            0.1,
            one(
                "layers.toml",
                &["network.width=50", "clients.send_rate=0.2", "clients.receive_rate=0.2", "seconds=600"],
            ),
            of_packets,
        ),
        formula(
            "layers-five",
            "entropy, 5 layers instead of 3, equal delay of each: bits",
            "Gamma's entropies: c5 - c3",
            3.107 - 2.6655,
            0.03,
            vec![
                Run::new("layers.toml", &[]),
                Run::new("layers.toml", &["network.layers=5", "adversary.corrupt=[0,0,0,0,0]"]),
            ],
            gain,
        ),
        formula(
            "corrupt-500",
            "500 packets, one at least over 3 corrupt mixes of 10 %: %",
            "1 - (1 - β^3)^500",
            wholly_corrupt(0.1, 3, 500.0) * 100.0,
            1.0,
            one("corrupt.toml", &[]),
            met,
        ),
        formula(
            "corrupt-100",
            "100 packets, one at least over 3 corrupt mixes of 20 %: %",
            "1 - (1 - β^3)^100",
            wholly_corrupt(0.2, 3, 100.0) * 100.0,
            1.0,
            one("corrupt.toml", &["adversary.corrupt=[0.2,0.2,0.2]", "adversary.batch=100"]),
            met,
        ),
    ]
}

/// Finds these anew; each run is made once, however many figures it has. `more` changes all of the scenarios.
pub fn find(
    published: &[Published],
    more: &[String],
    progress: impl Fn(f64) + Sync,
) -> Result<Vec<Found>, Box<dyn std::error::Error>> {
    let (runs, scenarios) = scenarios(published, more)?;
    let reports = run_all(&scenarios, progress)?;
    let report = |run: &Run| runs.iter().zip(&reports).find(|(one, _)| *one == run).map(|(_, report)| report);
    let found = |one: &Published| {
        let own: Vec<&Report> = one.runs.iter().filter_map(report).collect();
        let seeds = own.iter().map(|report| report.outcomes.len()).min().unwrap_or(0);
        let values: Vec<f64> = (0..seeds)
            .map(|seed| {
                let outcomes: Vec<_> = own.iter().filter_map(|report| report.outcomes.get(seed)).collect();
                (one.ours)(&outcomes)
            })
            .collect();
        let mean = values.iter().sum::<f64>() / seeds.max(1) as f64;
        Found { published: one.clone(), mean, half_width: half_width(&values) }
    };
    Ok(published.iter().map(found).collect())
}

/// Virtual seconds that this will take.
pub fn time(published: &[Published], more: &[String]) -> Result<f64, ScenarioError> {
    Ok(scenarios(published, more)?.1.iter().map(seconds).sum())
}

/// What is to be run for these, without what would be run twice.
fn scenarios(published: &[Published], more: &[String]) -> Result<(Vec<Run>, Vec<Scenario>), ScenarioError> {
    let mut runs: Vec<Run> = Vec::new();
    for run in published.iter().flat_map(|one| &one.runs) {
        if !runs.contains(run) {
            runs.push(run.clone());
        }
    }
    let scenarios = runs.iter().map(|run| run.scenario(more)).collect::<Result<_, _>>()?;
    Ok((runs, scenarios))
}

/// Theirs and ours as a table, and beneath it how to run each alone.
pub fn table(found: &[Found]) -> String {
    let mut text = format!(
        "{:<17} {:<58} {:<38} {:>9} {:>9} {:>8}\n",
        "", "figure", "source", "theirs", "ours", "± 95 %"
    );
    for one in found {
        let Published { name, figure, source, theirs, .. } = &one.published;
        let star = if matches!(theirs, Theirs::Formula(_)) { "=" } else { " " };
        let numbers = [Some(theirs.value()), Some(one.mean), one.half_width].map(said);
        let [theirs, ours, half] = numbers;
        let word = if one.agrees() { "" } else { "  DIFFERS from what was expected" };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{name:<17} {figure:<58} {source:<38} {:>9} {ours:>9} {half:>8}{word}",
            format!("{star}{theirs}")
        );
    }
    text += "\n= by a formula of theirs. One alone: mizzle-sim published --only NAME; its network:\n\n";
    for one in found {
        let commands: Vec<_> = one.published.runs.iter().map(Run::command).collect();
        let _ = writeln!(text, "{:<17} {}", one.published.name, commands.join(&format!("\n{:<17} ", "")));
    }
    text
}

/// Of the first run.
fn first(outcomes: &[&Outcome], of: impl Fn(&Outcome) -> f64) -> f64 {
    outcomes.first().map_or(f64::NAN, |outcome| of(outcome))
}

fn bits_of_packets(outcome: &Outcome) -> f64 {
    value(outcome, "entropy of packets, bits")
}

fn value(outcome: &Outcome, name: &str) -> f64 {
    outcome.figure(name).map_or(f64::NAN, |figure| figure.value)
}

/// The files of the folder `sim/scenarios`.
const SCENARIOS: [(&str, &str); 4] = [
    ("loopix.toml", include_str!("../scenarios/loopix.toml")),
    ("one-mix.toml", include_str!("../scenarios/one-mix.toml")),
    ("layers.toml", include_str!("../scenarios/layers.toml")),
    ("corrupt.toml", include_str!("../scenarios/corrupt.toml")),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    /// In fewer seconds or with fewer seeds, so that ours may be a little further off than its slack.
    fn reduced(names: &[&str], seconds: f64, seeds: u64) {
        let mut chosen = all();
        chosen.retain(|one| names.contains(&one.name));
        assert_eq!(chosen.len(), names.len());
        let more = [format!("seconds={seconds}"), format!("seeds={seeds}")];
        for found in find(&chosen, &more, |_| ()).unwrap() {
            let off = (found.mean - found.published.expected).abs();
            assert!(off <= found.published.slack * 2.0, "{found:?}");
        }
    }

    #[test]
    fn loopix_has_its_latencies_and_its_pools() {
        reduced(&["loopix-mean", "loopix-deviation", "loopix-held"], 150.0, 1);
    }

    #[test]
    fn one_mix_has_the_entropy_of_its_formula_and_less_with_uniform_delays() {
        reduced(&["mix-25", "mix-250", "uniform"], 60.0, 2);
    }

    #[test]
    fn three_layers_have_the_entropies_of_others_simulations() {
        reduced(&["layers-narrow"], 30.0, 1);
        // Few packets are in those mixes, and targets fare very differently.
        reduced(&["layers-wide"], 120.0, 8);
    }

    #[test]
    fn batches_meet_corrupt_paths_as_the_formula_says() {
        reduced(&["corrupt-500", "corrupt-100"], 30.0, 1);
    }

    #[test]
    fn every_figure_has_its_own_name_and_scenarios_that_load() {
        let all = all();
        for (number, one) in all.iter().enumerate() {
            assert!(all.iter().skip(number + 1).all(|other| other.name != one.name), "{}", one.name);
            for run in &one.runs {
                assert!(SCENARIOS.iter().any(|(file, _)| *file == run.file), "{}", run.file);
                run.scenario(&[]).unwrap();
            }
        }
    }

    #[test]
    fn what_is_not_as_expected_is_told() {
        let mut found = Found { published: all().remove(0), mean: 1.5, half_width: None };
        assert!(found.agrees() && !table(std::slice::from_ref(&found)).contains("DIFFERS"));
        found.mean = 1.93;
        assert!(!found.agrees() && table(std::slice::from_ref(&found)).contains("DIFFERS"));
        found.half_width = Some(9.0);
        assert!(!found.agrees(), "who measures badly is not right for it");
    }
}
