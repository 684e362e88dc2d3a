//! Which packets to drop when more come than a thread can unwrap: CoDel (RFC 8289) on the time that they
//! waited, with a bound of our own.
//!
//! CoDel lets a burst pass, and drops ever more often while the wait stays above a target. That law was made
//! for senders that slow down when they lose packets. Those of a mixnet do not, so a packet that has waited
//! beyond a hard bound is dropped at once: what is let through is never late by more.

use mizzle_protocol::time::Instant;
use std::time::Duration;

/// One queue's state.
#[derive(Debug, Default)]
pub(super) struct Shedding {
    /// When the wait will have been above the target for a whole interval.
    patience: Option<Instant>,
    /// While dropping: when the next one is due.
    next: Option<Instant>,
    /// Drops since it began.
    count: u32,
    /// When the last packet was dropped by that law.
    last: Option<Instant>,
}

impl Shedding {
    /// True if the packet that now comes out of the queue, after it `waited`, is to be dropped.
    pub(super) fn sheds(&mut self, now: Instant, waited: Duration) -> bool {
        if waited < TARGET {
            self.patience = None;
            self.next = None;
            return false;
        }
        let patience = *self.patience.get_or_insert(now + INTERVAL);
        match self.next {
            Some(next) if now >= next => {
                self.last = Some(now);
                self.drops(next)
            }
            Some(_) => waited > BOUND,
            None if now >= patience => {
                // Soon after the last time: go on from the rate that was right then.
                let recently = self.last.is_some_and(|last| now.since(last) < INTERVAL * MEMORY);
                self.count = if recently { self.count.saturating_sub(2) } else { 0 };
                self.last = Some(now);
                self.drops(now)
            }
            None => waited > BOUND,
        }
    }

    fn drops(&mut self, moment: Instant) -> bool {
        self.count = self.count.saturating_add(1);
        self.next = Some(moment + INTERVAL.div_f64(f64::from(self.count).sqrt()));
        true
    }
}

/// A wait that is always fine.
const TARGET: Duration = Duration::from_millis(5);
/// How long the wait may be above it before packets are dropped.
const INTERVAL: Duration = Duration::from_millis(100);
/// For so many intervals the rate of the last time counts.
const MEMORY: u32 = 16;
/// A wait that no packet gets through with.
const BOUND: Duration = Duration::from_millis(40);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn short_waits_and_short_bursts_pass() {
        let mut shedding = Shedding::default();
        let mut now = Instant::ZERO;
        for step in 0..10_000u32 {
            now += MILLISECOND;
            // 50 ms of every 200 are a burst.
            let waited = if step % 200 < 50 { 15 } else { 3 };
            assert!(!shedding.sheds(now, MILLISECOND * waited));
        }
    }

    #[test]
    fn a_wait_that_stays_is_answered_by_ever_more_drops() {
        let mut shedding = Shedding::default();
        let mut drops = [0; 4];
        let mut now = Instant::ZERO;
        for second in &mut drops {
            for _ in 0..1_000 {
                now += MILLISECOND;
                *second += u32::from(shedding.sheds(now, MILLISECOND * 8));
            }
        }
        assert!(drops[0] > 5 && drops.is_sorted(), "{drops:?}");
        assert!(!shedding.sheds(now, MILLISECOND));
    }

    #[test]
    fn an_overload_of_yesterday_says_nothing_of_today() {
        let burst = |shedding: &mut Shedding, from: Instant, time: u32| -> u32 {
            (1..=time).map(|n| u32::from(shedding.sheds(from + MILLISECOND * n, MILLISECOND * 8))).sum()
        };
        let mut tried = Shedding::default();
        burst(&mut tried, Instant::ZERO, 60_000);
        let tomorrow = Instant::ZERO + Duration::from_secs(86_400);
        tried.sheds(tomorrow, Duration::ZERO);
        assert_eq!(burst(&mut tried, tomorrow, 1_000), burst(&mut Shedding::default(), tomorrow, 1_000));
    }

    #[test]
    fn at_twice_the_capacity_half_passes_and_none_is_late() {
        // A packet a millisecond comes, one in two milliseconds can be unwrapped.
        let mut shedding = Shedding::default();
        let (mut queue, mut now, mut done, mut worst) = (VecDeque::new(), Instant::ZERO, 0, Duration::ZERO);
        let mut free = now;
        let mut longest = 0;
        for _ in 0..60_000 {
            now += MILLISECOND;
            queue.push_back(now);
            longest = longest.max(queue.len());
            while free <= now
                && let Some(came) = queue.pop_front()
            {
                let waited = now.since(came);
                if !shedding.sheds(now, waited) {
                    free = now + 2 * MILLISECOND;
                    worst = worst.max(waited);
                    done += 1;
                }
            }
        }
        assert!(worst <= BOUND && longest <= 44, "{worst:?}, {longest}");
        assert!((29_000..=30_000).contains(&done), "{done}");
    }
}
