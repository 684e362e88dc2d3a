//! How long the last loops took, kept for researchers who ask for it.

use std::collections::VecDeque;
use std::time::Duration;

/// Most loops whose times a client keeps.
pub const MOST_LOOP_TIMES: usize = 4096;

/// The times of the last loops, from their slots until they were home; the oldest first.
#[derive(Debug)]
pub(crate) struct LoopTimes {
    keep: usize,
    times: VecDeque<Duration>,
}

impl LoopTimes {
    /// Keeps so many; with zero, none.
    pub(crate) fn new(keep: usize) -> Self {
        Self { keep, times: VecDeque::new() }
    }

    /// A loop has come home; the oldest gives way.
    pub(crate) fn push(&mut self, took: Duration) {
        if self.keep == 0 {
            return;
        }
        while self.times.len() >= self.keep {
            self.times.pop_front();
        }
        self.times.push_back(took);
    }

    /// All that are kept, in microseconds.
    pub(crate) fn microseconds(&self) -> Vec<u64> {
        self.times.iter().map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(keep: usize, loops: u64) -> Vec<u64> {
        let mut times = LoopTimes::new(keep);
        for took in 1..=loops {
            times.push(Duration::from_micros(took));
        }
        times.microseconds()
    }

    #[test]
    fn the_last_loops_are_kept_and_no_more() {
        assert_eq!(kept(3, 2), [1, 2]);
        assert_eq!(kept(3, 5), [3, 4, 5]);
        assert!(kept(0, 5).is_empty());
    }
}
