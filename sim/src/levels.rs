//! How well each step of the product's levels hides who is behind a flow: what `mizzle status` shows.
//!
//! A hundred clients are at one step; now and then one of them loads something. [`WATCHERS`] look for it. What comes out
//! is written to a file of the client's, and a test makes some of it anew.

use crate::adversary::matching::WATCHERS;
use crate::figures::median_of_all;
use crate::report::Report;
use crate::run::run_all;
use crate::scenario::{Scenario, ScenarioError};
use mizzle_protocol::level::{LEVELS, Level, Levels};
use serde::{Deserialize, Serialize};

/// Clients among which one is looked for.
pub const AMONG: usize = 100;

/// Bytes of the flows that are looked at.
pub const FLOWS: [u64; 3] = [4 << 10, 64 << 10, 1 << 20];

/// How well a step hides the client of a flow of one size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The level's name.
    pub level: String,
    /// Which step of it; `None`: clients begin at the slowest, and move as their load asks.
    pub step: Option<u8>,
    /// Packets a second that a client of this step sends, and that reach it.
    pub rates: [f64; 2],
    /// Bytes of the flow.
    pub flow: u64,
    /// Entropy of who sent a packet, in bits, of at most log2 of [`AMONG`].
    pub bits: f64,
    /// For each of the watchers, in their order: the share of flows whose client it identified, in percent.
    pub identified: [f64; WATCHERS.len()],
    /// And after how many seconds, in the median of those; `None` if it was less than half of them.
    pub seconds: [Option<f64>; WATCHERS.len()],
}

/// The levels with the steps that there are, and for those that have several also as they move.
pub fn steps() -> Vec<(Level, Option<u8>)> {
    let levels = Levels::default();
    let of = |level: Level| {
        let count = levels.steps(level).len() as u8;
        let moving = (count > 1).then_some((level, None));
        (0..count).map(move |step| (level, Some(step))).chain(moving)
    };
    LEVELS.into_iter().flat_map(of).collect()
}

/// Simulates flows of these sizes at these steps, and makes a row of each, in that order.
pub fn measure(
    steps: &[(Level, Option<u8>)],
    flows: &[u64],
    progress: impl Fn(f64) + Sync,
) -> std::result::Result<Vec<Row>, Box<dyn std::error::Error>> {
    let cases: Vec<_> = steps.iter().flat_map(|step| flows.iter().map(move |flow| (*step, *flow))).collect();
    let scenarios = cases
        .iter()
        .map(|(step, flow)| scenario(*step, *flow))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let reports = run_all(&scenarios, progress)?;
    Ok(cases.iter().zip(&reports).map(|((step, flow), report)| row(*step, *flow, report)).collect())
}

/// Virtual seconds that this will take.
pub fn seconds(steps: &[(Level, Option<u8>)], flows: &[u64]) -> std::result::Result<f64, ScenarioError> {
    let mut sum = 0.0;
    for (step, flow) in steps.iter().flat_map(|step| flows.iter().map(move |flow| (*step, *flow))) {
        sum += crate::run::seconds(&scenario(step, flow)?);
    }
    Ok(sum)
}

fn scenario((level, step): (Level, Option<u8>), flow: u64) -> std::result::Result<Scenario, ScenarioError> {
    let pace = Levels::default().steps(level).get(usize::from(step.unwrap_or(0))).copied();
    // Of what its line brings, a session gets a third in `strong`.
    let share = if level == Level::Strong { 3.0 } else { 1.0 };
    let bytes = pace.map_or(1.0, |pace| pace.receive_rate) * 3_500.0 / share;
    let whole = flow as f64 / bytes + 2.0;
    // Thirty flows or so in each run, of which seldom two are under way at once.
    let seconds = (whole * 30.0).clamp(40.0, 400.0);
    let per_hour = 30.0 * 3_600.0 / seconds / AMONG as f64;
    let words = [
        format!("clients.count={AMONG}"),
        format!("clients.level={}", level.name()),
        format!("clients.step={}", step.unwrap_or(0)),
        format!("workload.pinned={}", step.is_some()),
        "workload.kind=bulk".to_owned(),
        format!("workload.speakers={AMONG}"),
        format!("workload.down={flow}"),
        format!("workload.per_hour={per_hour}"),
        format!("seconds={seconds}"),
        "seeds=2".to_owned(),
        "adversary.match_flows=true".to_owned(),
    ];
    Scenario::load(None, &words)
}

fn row((level, step): (Level, Option<u8>), flow: u64, report: &Report) -> Row {
    let pace = Levels::default().steps(level).get(usize::from(step.unwrap_or(0))).copied();
    let watched: usize = report.outcomes.iter().map(|outcome| outcome.watched).sum();
    let times = |watcher: usize| {
        let mut times: Vec<f64> = report
            .outcomes
            .iter()
            .filter_map(|outcome| outcome.identified.get(watcher))
            .flatten()
            .copied()
            .collect();
        times.sort_by(f64::total_cmp);
        times
    };
    let identified: [Vec<f64>; WATCHERS.len()] = std::array::from_fn(times);
    let share = |times: &Vec<f64>| times.len() as f64 / watched.max(1) as f64;
    let bits = report.figure("entropy of senders, bits");
    let round = |value: f64, digits: f64| libm::round(value * digits) / digits;
    Row {
        level: level.name().to_owned(),
        step,
        rates: pace.map_or([0.0; 2], |pace| [pace.send_rate, pace.receive_rate]),
        flow,
        bits: round(bits.map_or(0.0, |figure| figure.mean), 100.0),
        identified: std::array::from_fn(|watcher| {
            identified.get(watcher).map_or(0.0, |times| round(share(times) * 100.0, 1.0))
        }),
        // The median of all flows, those that were not identified counting as never.
        seconds: std::array::from_fn(|watcher| median_of_all(identified.get(watcher)?, watched)),
    }
}

/// The rows as a table.
pub fn table(rows: &[Row]) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "{:<15} {:>9} {:>6} | {:>22} {:>22} {:>22}\n",
        "level, step", "flow", "bits", "all links", "and exit", "entry and exit"
    );
    for row in rows {
        // Writing to a String cannot fail.
        let step = row.step.map_or("moves".to_owned(), |step| step.to_string());
        let _ = write!(text, "{:<15} {:>9} {:>6.2} |", format!("{}, {step}", row.level), row.flow, row.bits);
        for (share, seconds) in row.identified.iter().zip(row.seconds) {
            let said = match seconds {
                Some(seconds) => format!("{share:.0} %, p50 {seconds:.2} s"),
                None => format!("{share:.0} %"),
            };
            let _ = write!(text, " {said:>22}");
        }
        text.push('\n');
    }
    text
}
