//! All runs of a scenario, put together: intervals, a table, comma-separated values.

use crate::figures::half_width;
use crate::outcome::Outcome;
use crate::scenario::Scenario;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

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

    /// The figures as comma-separated values: a line for each, with its value in each run.
    pub fn csv(&self) -> String {
        let seeds: Vec<_> = self.outcomes.iter().map(|outcome| format!("seed {}", outcome.seed)).collect();
        let mut text = format!("figure,mean,half width of 95 %,theory,{}\n", seeds.join(","));
        let optional = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        for (index, summary) in self.summary().into_iter().enumerate() {
            let values = self.outcomes.iter().filter_map(|outcome| outcome.figures.get(index));
            let values: Vec<_> = values.map(|figure| figure.value.to_string()).collect();
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "\"{}\",{},{},{},{}",
                summary.name,
                summary.mean,
                optional(summary.half_width),
                optional(summary.theory),
                values.join(",")
            );
        }
        text
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
