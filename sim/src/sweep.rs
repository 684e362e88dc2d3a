//! One scenario with several values of some keys: each combination is a scenario of its own.

use crate::report::{Report, Summary};
use crate::scenario::{Scenario, ScenarioError};
use std::fmt::Write as _;
use std::path::Path;

/// A combination of values, by which its scenario differs from the others.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Each key with its value, in the order of the keys.
    pub words: Vec<String>,
    /// The scenario.
    pub scenario: Scenario,
}

impl Point {
    /// The values, for a column's head.
    pub fn name(&self) -> String {
        self.words.join(" ")
    }
}

/// All combinations of what `over` says, each like `clients.count=100,300,1000`. Lists have `;` between their values,
/// as they have commas themselves.
pub fn points(file: Option<&Path>, words: &[String], over: &[String]) -> Result<Vec<Point>, ScenarioError> {
    let mut combinations: Vec<Vec<String>> = vec![Vec::new()];
    for axis in over {
        let Some((key, values)) = axis.split_once('=') else {
            return Err(ScenarioError::new(format!(
                "{axis:?}: say a key and its values, like clients.count=100,300"
            )));
        };
        let separator = if values.contains('[') { ';' } else { ',' };
        let values: Vec<_> = values.split(separator).map(|value| format!("{key}={}", value.trim())).collect();
        combinations = combinations
            .into_iter()
            .flat_map(|combination| {
                values.iter().map(move |value| [&combination[..], std::slice::from_ref(value)].concat())
            })
            .collect();
        if combinations.len() > MOST {
            return Err(ScenarioError::new(format!(
                "more than {MOST} combinations: sweep over less at once"
            )));
        }
    }
    combinations
        .into_iter()
        .map(|combination| {
            let scenario = Scenario::load(file, &[words, &combination].concat())?;
            Ok(Point { words: combination, scenario })
        })
        .collect()
}

/// A table of the figures whose names contain one of `wanted`: a line for each combination. Refuses a part that no figure
/// has, unless it is one of `usual`.
pub fn table(
    points: &[Point],
    reports: &[Report],
    wanted: &[String],
    usual: &[&str],
) -> Result<String, ScenarioError> {
    let summaries: Vec<_> = reports.iter().flat_map(Report::summary).collect();
    let unknown = |part: &&String| {
        !usual.contains(&part.as_str()) && !summaries.iter().any(|figure| figure.name.contains(part.as_str()))
    };
    if let Some(part) = wanted.iter().find(unknown) {
        let mut names: Vec<_> = summaries.iter().map(|figure| format!("{:?}", figure.name)).collect();
        names.sort();
        names.dedup();
        return Err(ScenarioError::new(format!(
            "--show {part}: no figure's name contains this; there are {}",
            names.join(", ")
        )));
    }
    let is_wanted = |name: &str| wanted.iter().any(|part| name.contains(part.as_str()));
    let mut names: Vec<&str> = Vec::new();
    for summary in reports.iter().flat_map(Report::summary) {
        if is_wanted(summary.name) && !names.contains(&summary.name) {
            names.push(summary.name);
        }
    }
    let width = points.iter().map(|point| point.name().chars().count()).max().unwrap_or(0).max(4);
    let mut text = String::new();
    for (number, name) in (1..).zip(&names) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "({number}) {name}");
    }
    let _ = write!(text, "\n{:<width$}", "");
    for number in 1..=names.len() {
        let _ = write!(text, " {:>20}", format!("({number})"));
    }
    text.push('\n');
    for (point, report) in points.iter().zip(reports) {
        let summary = report.summary();
        let _ = write!(text, "{:<width$}", point.name());
        for name in &names {
            let found = summary.iter().find(|figure| figure.name == *name);
            let said = found.map_or("-".to_owned(), Summary::with_interval);
            let _ = write!(text, " {said:>20}");
        }
        text.push('\n');
    }
    // What no column can say.
    for (point, report) in points.iter().zip(reports) {
        for note in report.notes().iter().filter(|note| !note.starts_with("no closed form")) {
            let _ =
                writeln!(text, "{}{}{note}", point.name(), if point.words.is_empty() { "" } else { ": " });
        }
    }
    Ok(text)
}

/// The same of two reports beside each other, with what differs by more than both intervals marked.
pub fn comparison(first: (&str, &Report), second: (&str, &Report)) -> String {
    let (one, other) = (first.1.summary(), second.1.summary());
    let mut text = format!("{:<40} {:>20} {:>20}\n", "", first.0, second.0);
    for figure in &one {
        let Some(twin) = other.iter().find(|twin| twin.name == figure.name) else { continue };
        // Of one run each nobody can say.
        let slack = figure.half_width.zip(twin.half_width).map(|(one, other)| one + other);
        let differs = slack.is_some_and(|slack| (figure.mean - twin.mean).abs() > slack);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<40} {:>20} {:>20}{}",
            figure.name,
            figure.with_interval(),
            twin.with_interval(),
            if differs { "  differs" } else { "" }
        );
    }
    text
}

/// Combinations at a time.
const MOST: usize = 10_000;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use crate::run::run_all;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn every_combination_is_run_and_shown_in_its_order() {
        let over = words(&["clients.count=20,40", "adversary.corrupt=[0,0,0];[1,1,1]"]);
        let points = points(None, &words(&["seconds=4", "seeds=2"]), &over).unwrap();
        let names: Vec<_> = points.iter().map(Point::name).collect();
        assert_eq!(names[1], "clients.count=20 adversary.corrupt=[1,1,1]");
        assert_eq!((points.len(), points[2].scenario.clients.count), (4, 40));
        let scenarios: Vec<_> = points.iter().map(|point| point.scenario.clone()).collect();
        let reports = run_all(&scenarios, |_| ()).unwrap();
        let shown = words(&["entropy of packets, bits", "latency p50"]);
        let text = table(&points, &reports, &shown, &[]).unwrap();
        assert_eq!(
            text.lines().filter(|line| line.starts_with("clients.count=") && !line.contains(": ")).count(),
            4
        );
        assert!(text.contains("adversary.corrupt of layer 3 = 1: simulated 1.0000 (3 of 3)"), "{text}");
        let nothing = words(&["nothingsuch"]);
        let refusal = table(&points, &reports, &nothing, &[]).unwrap_err().to_string();
        assert!(refusal.contains("--show nothingsuch") && refusal.contains("latency p50, ms"), "{refusal}");
        // What is shown unless told otherwise need not be there.
        assert!(table(&points, &reports, &nothing, &["nothingsuch"]).is_ok());
        assert!(text.contains("(1) latency p50, ms\n(2) entropy of packets, bits\n"), "{text}");
        let text = comparison(("honest", &reports[0]), ("corrupt", &reports[1]));
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(line("entropy of packets, bits").ends_with("differs"), "{text}");
        assert!(!line("latency p50").ends_with("differs"), "{text}");
    }

    #[test]
    fn axes_that_make_no_sense_are_named() {
        let error = |over: &str| points(None, &[], &words(&[over])).unwrap_err().to_string();
        assert!(error("clients").contains("like clients.count=100,300"));
        assert!(error("clients.cuont=1,2").contains("did you mean `clients.count`"));
        assert!(error("clients.step=1,9").contains("clients.step = 9"));
        let long = (0..200).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
        let axis = |key: &str| format!("{key}={long}");
        assert!(
            points(None, &[], &[axis("seed"), axis("seconds")])
                .unwrap_err()
                .to_string()
                .contains("combinations")
        );
    }
}
