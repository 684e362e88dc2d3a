//! The last minutes of the line, for the status page: what programs sent and got, and what was cover.

use mizzle_client::Status;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

/// Bytes a second, outward and homeward, of programs and of cover.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    pub(crate) out: Way,
    pub(crate) home: Way,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Way {
    pub(crate) real: f64,
    pub(crate) cover: f64,
}

/// The samples, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct History {
    rates: VecDeque<Rates>,
    counted: VecDeque<Counted>,
}

/// Loops that had the time to come home.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecentLoops {
    pub(crate) sent: u64,
    pub(crate) home: u64,
}

impl RecentLoops {
    /// Those that did not come home, of a hundred.
    pub(crate) fn lost(self) -> u64 {
        (self.sent - self.home.min(self.sent)) * 100 / self.sent.max(1)
    }
}

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    cells_out: u64,
    cells_in: u64,
    real_out: u64,
    real_in: u64,
    loops_sent: u64,
    loops_home: u64,
    bytes_out: u64,
    bytes_in: u64,
}

impl History {
    /// Takes in what the client counts, `passed` after the last time.
    pub(crate) fn record(&mut self, status: &Status, passed: Duration) {
        let now = Counted {
            cells_out: status.cells_out,
            cells_in: status.cells_in,
            real_out: status.payload_sent,
            real_in: status.replies.saturating_sub(status.replies_empty),
            loops_sent: status.loops_sent,
            loops_home: status.loops_returned,
            bytes_out: status.bytes_out,
            bytes_in: status.bytes_in,
        };
        if let Some(before) = self.counted.back() {
            let seconds = passed.as_secs_f64().max(0.001);
            let way = |cells: u64, real: u64, bytes: u64| {
                // A cell is counted as it leaves, what was in it a little later.
                let share = if cells == 0 { 0.0 } else { (real as f64 / cells as f64).min(1.0) };
                let bytes = bytes as f64 / seconds;
                Way { real: bytes * share, cover: bytes * (1.0 - share) }
            };
            let since = |now: u64, before: u64| now.saturating_sub(before);
            self.rates.push_back(Rates {
                out: way(
                    since(now.cells_out, before.cells_out),
                    since(now.real_out, before.real_out),
                    since(now.bytes_out, before.bytes_out),
                ),
                home: way(
                    since(now.cells_in, before.cells_in),
                    since(now.real_in, before.real_in),
                    since(now.bytes_in, before.bytes_in),
                ),
            });
        }
        self.counted.push_back(now);
        self.rates.drain(..self.rates.len().saturating_sub(SAMPLES));
        self.counted.drain(..self.counted.len().saturating_sub(SAMPLES + 1));
    }

    /// The mean of the last few samples: one alone jumps by chance.
    pub(crate) fn now(&self) -> Rates {
        let last: Vec<Rates> = self.rates.iter().rev().take(SMOOTHED).copied().collect();
        let mean = |of: fn(&Rates) -> f64| last.iter().map(of).sum::<f64>() / last.len().max(1) as f64;
        Rates {
            out: Way { real: mean(|rates| rates.out.real), cover: mean(|rates| rates.out.cover) },
            home: Way { real: mean(|rates| rates.home.real), cover: mean(|rates| rates.home.cover) },
        }
    }

    /// Of the loops of the last two minutes, how many were sent, and how many of these should and did come home.
    /// `None` while there were too few to judge by.
    pub(crate) fn loops(&self) -> Option<RecentLoops> {
        let latest = self.counted.back()?;
        let first = self.counted.get(self.counted.len().saturating_sub(JUDGED))?;
        // The last ones are still on their way.
        let settled = self.counted.get(self.counted.len().checked_sub(1 + ON_THE_WAY)?)?;
        let sent = settled.loops_sent.saturating_sub(first.loops_sent);
        let home = latest.loops_home.saturating_sub(first.loops_home);
        (sent >= ENOUGH_LOOPS).then_some(RecentLoops { sent, home: home.min(sent) })
    }

    /// The highest rate that one direction's picture shows, and the outlines of all and of the programs' part, in a
    /// field of [`WIDTH`] by [`HEIGHT`].
    pub(crate) fn picture(&self, of: fn(&Rates) -> Way) -> (f64, String, String) {
        let ways: Vec<Way> = self.rates.iter().map(of).collect();
        let highest = ways.iter().map(|way| way.real + way.cover).fold(1.0, f64::max);
        let outline = |value: fn(&Way) -> f64| {
            let step = WIDTH / SAMPLES as f64;
            let begin = WIDTH - step * ways.len() as f64;
            let mut path = format!("M{begin:.1} {HEIGHT}");
            for (number, way) in ways.iter().enumerate() {
                let y = HEIGHT * (1.0 - value(way) / highest);
                // Writing to a String cannot fail.
                let from = begin + step * number as f64;
                let _ = write!(path, "L{from:.1} {y:.1}L{:.1} {y:.1}", from + step);
            }
            path + &format!("L{WIDTH} {HEIGHT}Z")
        };
        (highest, outline(|way| way.real + way.cover), outline(|way| way.real))
    }
}

/// Pause between two samples.
pub(crate) const SAMPLE: Duration = Duration::from_secs(2);
/// Five minutes.
const SAMPLES: usize = 150;
const SMOOTHED: usize = 5;
const JUDGED: usize = 61;
const ON_THE_WAY: usize = 2;
const ENOUGH_LOOPS: u64 = 10;
pub(crate) const WIDTH: f64 = 600.0;
pub(crate) const HEIGHT: f64 = 90.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn status(second: u64, real: u64) -> Status {
        let mut status = Status::default();
        (status.cells_out, status.cells_in) = (second * 10, second * 20);
        (status.bytes_out, status.bytes_in) = (second * 10_000, second * 20_000);
        (status.payload_sent, status.replies) = (real, real + second * 3);
        status.replies_empty = second * 3;
        (status.loops_sent, status.loops_returned) = (second, second.saturating_sub(2) / 2);
        status
    }

    #[test]
    fn real_and_cover_are_told_apart() {
        let mut history = History::default();
        for second in 0..=10 {
            history.record(&status(second, second * 5), Duration::from_secs(1));
        }
        let now = history.now();
        assert_eq!(now.out, Way { real: 5_000.0, cover: 5_000.0 });
        assert_eq!(now.home, Way { real: 5_000.0, cover: 15_000.0 });
        // A client that starts over counts from zero: that is no negative rate.
        history.record(&status(0, 0), Duration::from_secs(1));
        assert!(history.now().out.real >= 0.0);
        assert_eq!(history.rates.back().unwrap().out, Way::default());
    }

    #[test]
    fn loops_are_judged_when_there_are_enough_and_those_under_way_do_not_count() {
        let mut history = History::default();
        for second in 0..=11 {
            assert_eq!(history.loops(), None);
            history.record(&status(second, 0), Duration::from_secs(1));
        }
        history.record(&status(12, 0), Duration::from_secs(1));
        assert_eq!(history.loops(), Some(RecentLoops { sent: 10, home: 5 }));
    }

    #[test]
    fn the_picture_is_bounded_and_stays_in_its_field() {
        let mut history = History::default();
        for second in 0..1_000 {
            history.record(&status(second, second), Duration::from_secs(1));
        }
        assert_eq!(history.rates.len(), SAMPLES);
        let (highest, all, real) = history.picture(|rates| rates.out);
        assert_eq!(highest, 10_000.0);
        assert!(all.starts_with("M0.0 90L0.0 0.0L4.0 0.0L") && all.ends_with("L600.0 0.0L600 90Z"), "{all}");
        assert!(real.starts_with("M0.0 90L0.0 81.0L"), "{real}");
        let (_, empty, _) = History::default().picture(|rates| rates.out);
        assert_eq!(empty, "M600.0 90L600 90Z");
    }
}
