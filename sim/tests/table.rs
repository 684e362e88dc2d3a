//! The table of goodput and latency is what is written down, and no cell of it that should be good is bad.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use mizzle_sim::table::{Conditions, Figures, conditions, head, measure_all, row};

/// Made by `scripts/table --write`, which also compares all of it.
const WRITTEN: &str = include_str!("table.txt");

/// Cells that are quick to make, and between them slow and fast, good and bad.
const CELLS: [Conditions; 8] = [
    Conditions { loss: 0, delay: 5, rate: 10 },
    Conditions { loss: 10, delay: 20, rate: 10 },
    Conditions { loss: 5, delay: 5, rate: 80 },
    Conditions { loss: 0, delay: 20, rate: 80 },
    Conditions { loss: 0, delay: 20, rate: 320 },
    Conditions { loss: 2, delay: 50, rate: 320 },
    Conditions { loss: 1, delay: 20, rate: 1_000 },
    Conditions { loss: 0, delay: 50, rate: 2_000 },
];
/// Where mixes hold packets long.
const FAR: Conditions = Conditions { loss: 0, delay: 200, rate: 80 };

fn share(figures: &Figures) -> u64 {
    figures.goodput * 100 / figures.line
}

#[test]
fn cells_come_out_as_they_are_written_down_and_far_mixes_leave_the_line_full() {
    let measured = measure_all(&[&CELLS[..], &[FAR]].concat()).unwrap();
    let lines: Vec<&str> = WRITTEN.lines().collect();
    for (cell, figures) in CELLS.into_iter().zip(&measured) {
        let row = row(cell, figures);
        assert!(lines.contains(&row.trim_end_matches('\n')), "not in the table:\n{}{row}", head());
    }
    // The SURBs that are out last for a round trip, however long that is.
    assert!(measured.last().is_some_and(|far| share(far) >= 85), "{measured:?}");
}

#[test]
fn every_cell_of_the_table_has_its_row_in_its_order_and_under_its_head() {
    assert!(WRITTEN.starts_with(&head()));
    let named = |cell: Conditions| format!("{:>5} {:>5} {:>5} |", cell.delay, cell.rate, cell.loss);
    let rows: Vec<_> = WRITTEN.lines().skip(head().lines().count()).collect();
    let cells = conditions();
    assert_eq!(rows.len(), cells.len());
    for (row, cell) in rows.into_iter().zip(cells) {
        assert!(row.starts_with(&named(cell)), "no cell, or out of order: {row}");
    }
}
