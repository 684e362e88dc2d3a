//! What the client says of how its levels hide is what a simulation finds.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use mizzle_protocol::level::Level;
use mizzle_sim::levels::{FLOWS, Row, measure, steps};

/// Made by `mizzle-sim levels --json`.
const WRITTEN: &str = include_str!("../../client/daemon/src/hiding.json");

fn written() -> Vec<Row> {
    serde_json::from_str(WRITTEN).unwrap()
}

#[test]
fn rows_come_out_as_they_are_written_down() {
    // Quick to make, and one of each kind: constant, pinned, moving.
    let kinds = [
        ((Level::Strong, Some(0)), 4 << 10),
        ((Level::Balanced, Some(0)), 64 << 10),
        ((Level::Balanced, None), 4 << 10),
    ];
    for (step, flow) in kinds {
        let made = measure(&[step], &[flow], |_| ()).unwrap();
        let named = |row: &Row| (row.level.as_str(), row.step, row.flow) == (step.0.name(), step.1, flow);
        assert_eq!(made, [written().into_iter().find(named).unwrap()]);
    }
}

#[test]
fn every_step_has_its_rows_and_who_knows_more_finds_more() {
    let rows = written();
    let cases: Vec<_> = steps().into_iter().flat_map(|step| FLOWS.map(|flow| (step, flow))).collect();
    assert_eq!(rows.len(), cases.len());
    for (row, ((level, step), flow)) in rows.iter().zip(cases) {
        assert_eq!((row.level.as_str(), row.step, row.flow), (level.name(), step, flow));
        let [links, exit, both] = row.identified;
        // Of thirty flows or so, a few more or less are chance.
        assert!(links <= exit + 10.0 && exit <= both + 10.0, "{row:?}");
    }
    // At one constant rate the links alone tell nothing.
    assert!(rows.iter().filter(|row| row.level == "strong").all(|row| row.identified[0] <= 5.0));
}
