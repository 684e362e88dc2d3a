//! How well each step of the levels hides who is behind a flow, as the simulator found it.
//!
//! The table is written by `mizzle-sim levels --json`; a test of the simulator makes some of it anew. It is of a hundred
//! clients at one step, or that move between those of their level, of which one loads something: in a larger network it
//! takes a little longer to find one (docs/threats.md).

use mizzle_client::Status;
use serde::{Deserialize, Serialize};

/// Clients among which one was looked for.
pub(crate) const AMONG: u32 = 100;

/// Who looked, in the order of the table's columns.
pub(crate) const WATCHERS: [&str; 3] =
    ["who sees what goes out on all links", "them and the exit", "entry and exit together"];

/// How well a step hides the client of a flow of one size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Hiding {
    level: String,
    /// `None`: clients begin at the slowest step, and move as their load asks.
    step: Option<u8>,
    /// Packets a second, out and home, at that step, or the slowest.
    rates: [f64; 2],
    /// Bytes of the flow.
    flow: u64,
    /// Entropy of who sent a packet, in bits.
    pub(crate) bits: f64,
    /// By watcher: the share of flows whose client it identified, in percent.
    identified: [f64; WATCHERS.len()],
    /// After how many seconds, in the median, if it was half of them at least.
    seconds: [Option<f64>; WATCHERS.len()],
}

/// What was found for the step that a client is at, or for its level if it moves between steps; nothing, if its network
/// has other rates than were simulated.
pub(crate) fn of(status: &Status) -> Vec<Hiding> {
    let table = table();
    let at = |row: &&Hiding| (row.level.as_str(), row.step) == (status.level.as_str(), Some(status.step));
    let known = |row: &Hiding| (row.rates[0] - status.up.cells_per_second).abs() < 1e-6;
    if !table.iter().find(at).is_some_and(known) {
        return Vec::new();
    }
    // Who stays at one step of `balanced` has no rises left to count. Of `fast` that is not told: it counts as moving.
    let moves = status.rises_left.is_some() || status.level == "fast";
    let step = (!moves).then_some(status.step);
    table.into_iter().filter(|row| row.level == status.level && row.step == step).collect()
}

/// What a watcher finds of flows of each size, in words.
pub(crate) fn found(rows: &[Hiding], watcher: usize) -> String {
    let said = rows.iter().map(|row| {
        let share = row.identified.get(watcher).copied().unwrap_or_default();
        let time = row.seconds.get(watcher).copied().flatten();
        let time = time.map_or(String::new(), |seconds| format!(" in {seconds:.1} s"));
        format!("{} {share:.0} %{time}", size(row.flow))
    });
    match rows.is_empty() {
        true => "not measured".into(),
        false => said.collect::<Vec<_>>().join(", "),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

fn table() -> Vec<Hiding> {
    serde_json::from_str(TABLE).unwrap_or_default()
}

const TABLE: &str = include_str!("hiding.json");

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_protocol::level::{LEVELS, Levels};

    #[test]
    fn the_table_has_three_flows_for_every_step_that_is_shipped_at_its_rates() {
        let (levels, mut rows) = (Levels::default(), table().into_iter());
        for level in LEVELS {
            let steps = levels.steps(level);
            let moving = (steps.len() > 1).then_some((None, &steps[0]));
            for (step, pace) in (0..).map(Some).zip(steps).chain(moving) {
                for flow in [4 << 10, 64 << 10, 1 << 20] {
                    let row = rows.next().unwrap();
                    assert_eq!((row.level.as_str(), row.step, row.flow), (level.name(), step, flow));
                    assert_eq!(row.rates, [pace.send_rate, pace.receive_rate]);
                    // Nobody knows less than who is one of a hundred.
                    assert!((4.0..=6.65).contains(&row.bits), "{row:?}");
                }
            }
        }
        assert_eq!(rows.next(), None);
    }

    #[test]
    fn a_step_is_found_by_its_rates_and_others_are_not_measured() {
        let mut status = Status::default();
        status.level = "balanced".into();
        status.step = 1;
        status.up.cells_per_second = 20.0;
        let rows = of(&status);
        assert_eq!(rows.len(), 3);
        assert!(rows.iter().all(|row| row.step == Some(1)));
        let mut moving = status.clone();
        moving.rises_left = Some(5);
        let moving = of(&moving);
        assert!(moving.len() == 3 && moving.iter().all(|row| row.step.is_none()));
        let text = found(&rows, 2);
        assert!(
            text.starts_with("4 KiB ") && text.contains(", 64 KiB ") && text.contains(", 1 MiB "),
            "{text}"
        );
        status.up.cells_per_second = 21.0;
        assert_eq!(found(&of(&status), 0), "not measured");
    }
}
