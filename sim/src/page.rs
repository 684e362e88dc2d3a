//! A report as one page for a browser, which needs nothing else: figures, and the curves behind them.

use crate::adversary::matching::WATCHERS;
use crate::adversary::trial::{Trial, mean_guess, mean_share};
use crate::chart::{COLOURS, Chart, escape};
use crate::outcome::Outcome;
use crate::report::{Report, said};
use std::fmt::Write as _;

/// The page of these reports, under a title. With several, each chart has a line for each, by its name.
pub fn page(title: &str, reports: &[(String, Report)]) -> String {
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<title>{0}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<h1>{0}</h1>\n",
        escape(title)
    );
    text += "<div class=\"charts\">\n";
    for chart in charts(reports) {
        text += &chart.figure();
    }
    text += "</div>\n";
    for (name, report) in reports {
        text += &figures(name, report);
    }
    text + "</body>\n</html>\n"
}

fn charts(reports: &[(String, Report)]) -> Vec<Chart<'static>> {
    // More lines could not be told apart.
    let shown = || reports.iter().take(COLOURS);
    let first = |of: fn(&Outcome) -> Vec<(f64, f64)>| {
        shown()
            .map(move |(name, report)| (name.clone(), report.outcomes.first().map(of).unwrap_or_default()))
            .collect()
    };
    let mut charts = vec![
        Chart {
            title: "Latency: share of packets that took so long at most",
            along: "milliseconds",
            up: "share",
            lines: first(|outcome| {
                (0..)
                    .map(|rank| f64::from(rank) / 100.0)
                    .zip(&outcome.latency)
                    .map(|(share, time)| (*time, share))
                    .collect()
            }),
            guesses: Vec::new(),
            dots: false,
        },
        Chart {
            title: "Pool: share of the time in which a mix held so many packets",
            along: "packets",
            up: "share of time",
            lines: first(|outcome| (0..).map(f64::from).zip(outcome.occupancy.iter().copied()).collect()),
            guesses: Vec::new(),
            dots: false,
        },
        Chart {
            title: "Entropy of packets: each target, by when it came in",
            along: "seconds",
            up: "bits",
            lines: first(|outcome| outcome.entropy.clone()),
            guesses: Vec::new(),
            dots: true,
        },
        Chart {
            title: "Overhead: what a client sends",
            along: "run",
            up: "kbit/s",
            lines: shown().map(|(name, report)| (name.clone(), overhead(report))).collect(),
            guesses: Vec::new(),
            dots: true,
        },
    ];
    charts.push(Chart {
        title: "Presence: suspects that are left of a pseudonym",
        along: "days",
        up: "log2 of clients",
        lines: first(|outcome| {
            (1..)
                .map(f64::from)
                .zip(&outcome.suspects)
                .map(|(day, left)| (day, libm::log2(*left as f64)))
                .collect()
        }),
        guesses: Vec::new(),
        dots: false,
    });
    for (number, watcher) in WATCHERS.into_iter().enumerate() {
        charts.push(Chart {
            title: watcher.attack(),
            along: "seconds after a flow began",
            up: "share of flows",
            lines: shown().map(|(name, report)| (name.clone(), attack(report, number))).collect(),
            guesses: apart(shown().map(|(_, report)| 1.0 / report.scenario.clients.count as f64)),
            dots: false,
        });
    }
    for trial in trials(reports) {
        let own = |report: &Report| mean_share(&report.trials_of(trial.attack));
        let guesses = shown().filter_map(|(_, report)| mean_guess(&report.trials_of(trial.attack)));
        charts.push(Chart {
            title: trial.attack,
            along: trial.along,
            up: trial.up,
            lines: shown().map(|(name, report)| (name.clone(), own(report))).collect(),
            guesses: apart(guesses),
            dots: false,
        });
    }
    charts
}

/// One trial of each attack that goes on for long.
fn trials(reports: &[(String, Report)]) -> Vec<&Trial> {
    let mut first: Vec<&Trial> = Vec::new();
    for trial in reports.iter().flat_map(|(_, report)| &report.outcomes).flat_map(|outcome| &outcome.trials) {
        if first.iter().all(|other| other.attack != trial.attack) {
            first.push(trial);
        }
    }
    first
}

/// Those of the values that a chart can show apart from each other.
fn apart(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut apart: Vec<f64> = Vec::new();
    for value in values {
        if apart.iter().all(|other| (other - value).abs() > 0.01) {
            apart.push(value);
        }
    }
    apart
}

fn overhead(report: &Report) -> Vec<(f64, f64)> {
    let values = report.outcomes.iter().filter_map(|outcome| {
        outcome
            .figures
            .iter()
            .find(|figure| figure.name.starts_with("sent by a client"))
            .map(|figure| figure.value)
    });
    (1..).map(f64::from).zip(values).collect()
}

/// The share of all runs' flows whose clients a watcher has identified, over time.
fn attack(report: &Report, watcher: usize) -> Vec<(f64, f64)> {
    let watched: usize = report.outcomes.iter().map(|outcome| outcome.watched).sum();
    if watched == 0 {
        return Vec::new();
    }
    let found = report.outcomes.iter().filter_map(|outcome| outcome.identified.get(watcher));
    let mut times: Vec<f64> = found.flatten().copied().collect();
    times.sort_by(f64::total_cmp);
    let mut points = vec![(0.0, 0.0)];
    for (count, time) in (1..).zip(times) {
        points.push((time, f64::from(count - 1) / watched as f64));
        points.push((time, f64::from(count) / watched as f64));
    }
    if let Some((time, share)) = points.last().copied() {
        points.push((time.max(1.0) * 1.25, share));
    }
    points
}

fn figures(name: &str, report: &Report) -> String {
    let scenario = &report.scenario;
    let mut text = format!(
        "<h2>{}</h2>\n<p>{} clients, {} s, seeds {} to {}</p>\n<table>\n<tr><th>figure</th><th>measured</th>\
         <th>± 95 %</th><th>theory</th></tr>\n",
        escape(name),
        scenario.clients.count,
        scenario.seconds,
        scenario.seed,
        scenario.seed + scenario.seeds - 1
    );
    for summary in report.summary() {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(summary.name),
            said(Some(summary.mean)),
            said(summary.half_width),
            said(summary.theory)
        );
    }
    let notes: String = report.notes().iter().map(|note| format!("<p>{}</p>\n", escape(note))).collect();
    let written = toml::to_string(scenario).unwrap_or_default();
    let _ = write!(
        text,
        "</table>\n{notes}<details><summary>scenario</summary><pre>{}</pre></details>\n",
        escape(&written)
    );
    text
}

const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #1d2733; --paper: #fff; --faint: #d5dbe2; --soft: #5d6b7a;
  --c0: #0b6bcb; --c1: #c4412f; --c2: #1a8a5a; --c3: #8a5cd1; --c4: #b97a00; --c5: #4d5b6a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ef; --paper: #14191f; --faint: #2f3944; --soft: #9aa7b4;
  --c0: #5aa9f5; --c1: #f0806f; --c2: #56c596; --c3: #b796f0; --c4: #e0ac4a; --c5: #a9b6c3; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 84rem;
  margin: 0 auto; padding: 1rem 1.5rem 3rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: .25rem; }
svg { width: 100%; height: auto; font-size: 12px; } svg text { fill: var(--soft); }
.grid { stroke: var(--faint); } .axis { stroke: var(--soft); fill: none; } .line { fill: none; stroke-width: 2; }
.guess { stroke: var(--soft); fill: none; stroke-dasharray: 5 4; }
.line.c0 { stroke: var(--c0); } .line.c1 { stroke: var(--c1); } .line.c2 { stroke: var(--c2); }
.line.c3 { stroke: var(--c3); } .line.c4 { stroke: var(--c4); } .line.c5 { stroke: var(--c5); }
.dot.c0 { fill: var(--c0); } .dot.c1 { fill: var(--c1); } .dot.c2 { fill: var(--c2); }
.dot.c3 { fill: var(--c3); } .dot.c4 { fill: var(--c4); } .dot.c5 { fill: var(--c5); }
.legend { list-style: none; padding: 0; margin: .25rem 0 0; display: flex; flex-wrap: wrap; gap: 0 1.25rem; }
.legend li::before { content: ''; display: inline-block; width: .7em; height: .7em; border-radius: 50%;
  margin-right: .4em; background: currentColor; }
.legend .c0 { color: var(--c0); } .legend .c1 { color: var(--c1); } .legend .c2 { color: var(--c2); }
.legend .c3 { color: var(--c3); } .legend .c4 { color: var(--c4); } .legend .c5 { color: var(--c5); }
table { border-collapse: collapse; } th, td { text-align: right; padding: .2rem .9rem .2rem 0; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; } tr + tr td { border-top: 1px solid var(--faint); }
pre { overflow-x: auto; } summary { cursor: pointer; margin-top: .75rem; }
";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use crate::run::run;
    use crate::scenario::Scenario;

    #[test]
    fn a_page_holds_the_figures_and_asks_for_nothing_from_elsewhere() {
        let words = [
            "clients.count=30",
            "seconds=4",
            "seeds=2",
            "workload.kind=bulk",
            "workload.speakers=9",
            "workload.per_hour=900",
            "adversary.match_flows=true",
            "adversary.presence_days=9",
            "network.max_delay_ms=150",
        ];
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        let report = run(&Scenario::load(None, &words).unwrap(), |_| ()).unwrap();
        let text = page("a <title>", &[("one".into(), report)]);
        assert!(text.contains("<p>no closed form of any figure: the longest delay"));
        assert!(text.contains("a &lt;title&gt;") && text.contains("entropy of packets, bits"));
        assert_eq!(text.matches("<figure>").count(), 8);
        for outside in ["http:", "https:", "src=", "href=", "url(", "@import", "<script"] {
            assert!(!text.contains(outside), "{outside}");
        }
    }

    #[test]
    fn attacks_that_go_on_for_long_have_a_chart_each_with_what_a_guess_has() {
        let words = ["clients.count=5", "seconds=1", "seeds=2"].map(str::to_owned);
        let mut report = run(&Scenario::load(None, &words).unwrap(), |_| ()).unwrap();
        let before = page("t", &[("one".into(), report.clone())]);
        for (outcome, share) in report.outcomes.iter_mut().zip([0.4, 0.8]) {
            let trial = |attack, chance| Trial {
                attack,
                along: "rounds",
                up: "share",
                points: vec![(0.0, 0.0), (1.0, share)],
                chance,
                reached: Vec::new(),
            };
            outcome.trials = vec![trial("first <attack>", 0.2), trial("second", 0.3)];
        }
        let text = page("t", &[("one".into(), report.clone()), ("two".into(), report)]);
        let count = |text: &str, part: &str| text.matches(part).count();
        assert_eq!(count(&text, "<figure>"), count(&before, "<figure>") + 2);
        // Both reports have the same guesses: one line each.
        assert_eq!((count(&before, "class=\"guess\""), count(&text, "class=\"guess\"")), (0, 2));
        assert!(text.contains("first &lt;attack&gt;"));
        // The mean of both runs is at the end of the line: 0.6, the highest mark.
        assert!(text.contains("L624.0 28.0\"/>"), "{text}");
    }

    #[test]
    fn an_attack_curve_rises_to_the_share_that_was_found() {
        let words: Vec<_> =
            ["clients.count=5", "seconds=1", "seeds=2"].iter().map(|w| (*w).to_owned()).collect();
        let mut report = run(&Scenario::load(None, &words).unwrap(), |_| ()).unwrap();
        assert!(attack(&report, 0).is_empty());
        for (outcome, times) in report.outcomes.iter_mut().zip([vec![2.0], vec![1.0, 4.0]]) {
            (outcome.watched, outcome.identified) = (4, vec![times]);
        }
        let points = attack(&report, 0);
        assert_eq!(
            points,
            [
                (0.0, 0.0),
                (1.0, 0.0),
                (1.0, 0.125),
                (2.0, 0.125),
                (2.0, 0.25),
                (4.0, 0.25),
                (4.0, 0.375),
                (5.0, 0.375)
            ]
        );
    }
}
