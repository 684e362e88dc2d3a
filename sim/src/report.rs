//! All runs of a scenario, put together: intervals, a table, comma-separated values.

use crate::adversary::trial::{Trial, medians};
use crate::figures::half_width;
use crate::outcome::{LeftOut, Outcome};
use crate::scenario::{Scenario, Share};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// All runs of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What was simulated.
    pub scenario: Scenario,
    /// The shares that it asks for, with what is simulated of each.
    pub shares: Vec<Share>,
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

impl Summary {
    /// The mean and half the interval, as a table says them.
    pub fn with_interval(&self) -> String {
        match self.half_width {
            _ if !self.mean.is_finite() => "-".to_owned(),
            Some(half) => format!("{:.3} ± {half:.3}", self.mean),
            None => format!("{:.3}", self.mean),
        }
    }
}

impl Report {
    /// The figures over all runs that have them, each under its name, in the order in which they come.
    pub fn summary(&self) -> Vec<Summary> {
        let mut names: Vec<&'static str> = Vec::new();
        for figure in self.outcomes.iter().flat_map(|outcome| &outcome.figures) {
            if !names.contains(&figure.name) {
                names.push(figure.name);
            }
        }
        let trials = self.trials();
        let reached = trials.iter().flat_map(|trials| medians(trials)).map(|(name, value)| Summary {
            name,
            mean: value.unwrap_or(f64::NAN),
            half_width: None,
            theory: None,
        });
        names
            .into_iter()
            .map(|name| {
                let figures: Vec<_> =
                    self.outcomes.iter().filter_map(|outcome| outcome.figure(name)).collect();
                let values: Vec<_> = figures.iter().map(|figure| figure.value).collect();
                Summary {
                    name,
                    mean: values.iter().sum::<f64>() / values.len() as f64,
                    half_width: half_width(&values),
                    theory: figures.first().and_then(|figure| figure.theory),
                }
            })
            .chain(reached)
            .collect()
    }

    /// What was left out, which shares were simulated, and which closed forms are missing and why: a line for each.
    pub fn notes(&self) -> Vec<String> {
        let mut sums: Vec<LeftOut> = Vec::new();
        for one in self.outcomes.iter().flat_map(|outcome| &outcome.left_out) {
            match sums.iter_mut().find(|sum| sum.what == one.what) {
                Some(sum) => (sum.count, sum.of) = (sum.count + one.count, sum.of + one.of),
                None => sums.push(one.clone()),
            }
        }
        let simulated = self.shares.iter().map(|Share { key, asked, count, of }| {
            format!("{key} = {asked}: simulated {:.4} ({count} of {of})", *count as f64 / *of as f64)
        });
        let left_out = sums.iter().map(|sum| format!("left out: {}: {} of {}", sum.what, sum.count, sum.of));
        let mut notes: Vec<_> = simulated.chain(left_out).collect();
        for missing in self.outcomes.iter().flat_map(|outcome| &outcome.no_form) {
            let note = format!("no closed form {missing}");
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        notes
    }

    /// The figure of this name over all runs that have it.
    pub fn figure(&self, name: &str) -> Option<Summary> {
        self.summary().into_iter().find(|figure| figure.name == name)
    }

    /// The attacks that go on for long: of each the trials of all runs.
    pub fn trials(&self) -> Vec<Vec<&Trial>> {
        let mut attacks: Vec<&str> = Vec::new();
        for trial in self.outcomes.iter().flat_map(|outcome| &outcome.trials) {
            if !attacks.contains(&trial.attack) {
                attacks.push(trial.attack);
            }
        }
        attacks.into_iter().map(|attack| self.trials_of(attack)).collect()
    }

    /// The trials of this attack in all runs.
    pub fn trials_of(&self, attack: &str) -> Vec<&Trial> {
        let all = self.outcomes.iter().flat_map(|outcome| &outcome.trials);
        all.filter(|trial| trial.attack == attack).collect()
    }

    /// True if every packet of every run is accounted for.
    pub fn balances(&self) -> bool {
        self.outcomes.iter().all(Outcome::balances)
    }

    /// The figures as comma-separated values: a line for each, with its value in each run.
    pub fn csv(&self) -> String {
        let seeds: Vec<_> = self.outcomes.iter().map(|outcome| format!("seed {}", outcome.seed)).collect();
        let mut text = format!("figure,mean,half width of 95 %,theory,{}\n", seeds.join(","));
        let optional = |value: Option<f64>| {
            value.filter(|value| value.is_finite()).map_or(String::new(), |value| value.to_string())
        };
        for summary in self.summary() {
            let values = self.outcomes.iter().map(|outcome| outcome.figure(summary.name));
            let values: Vec<_> = values.map(|figure| optional(figure.map(|figure| figure.value))).collect();
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "\"{}\",{},{},{},{}",
                summary.name,
                optional(Some(summary.mean)),
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
            let [mean, width, theory] = [Some(summary.mean), summary.half_width, summary.theory].map(said);
            let _ = writeln!(text, "{:<40} {mean:>10} {width:>10} {theory:>10}", summary.name);
        }
        let notes = self.notes();
        if !notes.is_empty() {
            text += "\n";
        }
        for note in notes {
            let _ = writeln!(text, "{note}");
        }
        text
    }
}

/// A value in a table; a dash, if there is none.
pub(crate) fn said(value: Option<f64>) -> String {
    value.filter(|value| value.is_finite()).map_or("-".to_owned(), |value| format!("{value:.4}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use crate::outcome::Figure;
    use crate::run::run;

    #[test]
    fn figures_that_only_some_runs_have_are_not_taken_for_others() {
        let words = ["clients.count=4", "seconds=1", "seeds=2"].map(str::to_owned);
        let mut report = run(&Scenario::load(None, &words).unwrap(), |_| ()).unwrap();
        let figures = |values: &[(&'static str, f64)]| {
            values.iter().map(|(name, value)| Figure { name, value: *value, theory: None }).collect()
        };
        report.outcomes[0].figures = figures(&[("a", 1.0), ("c", 5.0)]);
        report.outcomes[1].figures = figures(&[("a", 3.0), ("b", 7.0), ("c", f64::NAN)]);
        let means: Vec<_> = report.summary().iter().map(|figure| (figure.name, figure.mean)).collect();
        assert_eq!(means[0], ("a", 2.0));
        assert_eq!(means[2], ("b", 7.0));
        assert!(report.figure("c").unwrap().mean.is_nan());
        let row = |name: &str| report.table().lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(row("c ").ends_with("-          -          -"), "{}", report.table());
        assert!(report.csv().contains("\"b\",7,,,,7\n"), "{}", report.csv());
    }
}
