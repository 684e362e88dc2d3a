//! Key periods in time: the one place that says which period it is, and which are still taken.
//!
//! ```text
//!            start(n)                          start(n+1)
//!   |- grace -|------------ period n -------------|--- overlap ---|
//!   live from here                                      live until here
//! ```
//!
//! Who sends uses [`Schedule::period`]; who receives takes all of [`Schedule::live`]. The overlap lets the
//! SURBs of a period live on after its end; the grace before its start is for clocks that are ahead of
//! ours, and the same grace is given to documents that are not valid yet. (spec: DOC-7)

use crate::id::Period;
use crate::path::Parameters;
use crate::time::{Instant, UnixTime};
use std::time::Duration;

/// When key periods begin and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    origin: Instant,
    key_period: Duration,
    overlap: Duration,
}

impl Schedule {
    /// The schedule of a network whose period 0 began at `origin`.
    pub fn new(origin: UnixTime, parameters: &Parameters) -> Self {
        Self { origin: origin.instant(), key_period: parameters.key_period, overlap: parameters.overlap }
    }

    /// The period to send in. Before the network's birth it is the first.
    pub fn period(&self, now: Instant) -> Period {
        let periods = now.since(self.origin).as_nanos() / self.key_period.as_nanos().max(1);
        Period(u32::try_from(periods).unwrap_or(u32::MAX))
    }

    /// When `period` begins.
    pub fn start(&self, period: Period) -> Instant {
        let offset = self.key_period.as_nanos().saturating_mul(u128::from(period.0));
        Instant::from_nanos(u64::try_from(offset).unwrap_or(u64::MAX).saturating_add(self.origin.as_nanos()))
    }

    /// When the last packet of `period` is taken: its secrets and replay tags die at this moment.
    pub fn expiry(&self, period: Period) -> Instant {
        self.start(period) + self.key_period + self.overlap
    }

    /// Difference of clocks that is forgiven.
    pub fn grace(&self) -> Duration {
        self.overlap / GRACE_PART
    }

    /// True while packets of `period` are taken.
    pub fn is_live(&self, period: Period, now: Instant) -> bool {
        self.start(period) <= now + self.grace() && now < self.expiry(period)
    }

    /// The periods whose packets are taken now, oldest first.
    pub fn live(&self, now: Instant) -> Vec<Period> {
        let current = self.period(now).0;
        // An overlap may span several short periods.
        let back = self.overlap.as_nanos() / self.key_period.as_nanos().max(1) + 1;
        let first = current.saturating_sub(u32::try_from(back).unwrap_or(u32::MAX));
        (first..=current.saturating_add(1)).map(Period).filter(|&period| self.is_live(period, now)).collect()
    }

    /// When [`Self::period`] or [`Self::live`] next changes.
    pub fn next_change(&self, now: Instant) -> Instant {
        let current = self.period(now);
        let following = self.start(Period(current.0.saturating_add(1)));
        let moments = [following, following - self.grace()].into_iter();
        let ends = self.live(now).into_iter().map(|period| self.expiry(period));
        moments.chain(ends).filter(|&moment| moment > now).min().unwrap_or(following)
    }

    /// The periods that a relay announces keys for: the current one and the two that follow.
    pub fn announced(&self, now: Instant) -> [Period; 3] {
        let Period(current) = self.period(now);
        [Period(current), Period(current.saturating_add(1)), Period(current.saturating_add(2))]
    }
}

/// The grace is this part of the overlap: one minute of fifteen.
const GRACE_PART: u32 = 15;

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: UnixTime = UnixTime(1_000_000);
    const NANO: Duration = Duration::from_nanos(1);

    /// Periods of 600 s, overlap 120 s, grace 8 s.
    fn schedule() -> Schedule {
        Schedule::new(ORIGIN, &Parameters::local())
    }

    fn at(seconds: u64) -> Instant {
        ORIGIN.instant() + Duration::from_secs(seconds)
    }

    #[test]
    fn a_period_begins_on_its_first_nanosecond() {
        let schedule = schedule();
        assert_eq!(schedule.period(Instant::ZERO), Period(0));
        assert_eq!(schedule.period(at(600) - NANO), Period(0));
        assert_eq!(schedule.period(at(600)), Period(1));
        assert_eq!(schedule.start(Period(1)), at(600));
        assert_eq!(schedule.announced(at(600)), [Period(1), Period(2), Period(3)]);
    }

    #[test]
    fn live_periods_change_exactly_at_the_edges() {
        let schedule = schedule();
        for (now, live) in [
            (at(0), vec![0]),
            (at(592) - NANO, vec![0]),
            (at(592), vec![0, 1]),
            (at(600), vec![0, 1]),
            (at(720) - NANO, vec![0, 1]),
            (at(720), vec![1]),
            (at(1_192) - NANO, vec![1]),
            (at(1_192), vec![1, 2]),
        ] {
            let live: Vec<_> = live.into_iter().map(Period).collect();
            assert_eq!(schedule.live(now), live, "{now:?}");
            assert!(live.contains(&schedule.period(now)));
        }
    }

    #[test]
    fn next_change_visits_every_edge_and_nothing_between() {
        let schedule = schedule();
        let mut now = at(0);
        let mut edges = Vec::new();
        for _ in 0..5 {
            let next = schedule.next_change(now);
            assert_eq!(schedule.live(next - NANO), schedule.live(now));
            assert_eq!(schedule.period(next - NANO), schedule.period(now));
            edges.push(next.since(at(0)).as_secs());
            now = next;
        }
        assert_eq!(edges, [592, 600, 720, 1_192, 1_200]);
    }

    #[test]
    fn an_overlap_longer_than_a_period_keeps_all_that_it_covers() {
        let parameters = Parameters {
            key_period: Duration::from_secs(10),
            overlap: Duration::from_secs(25),
            ..Parameters::local()
        };
        let schedule = Schedule::new(ORIGIN, &parameters);
        assert_eq!(schedule.live(at(45) - NANO), [1, 2, 3, 4].map(Period));
        assert_eq!(schedule.live(at(45)), [2, 3, 4].map(Period));
    }

    #[test]
    fn far_ends_of_time_do_not_overflow() {
        let schedule = schedule();
        let end = Instant::from_nanos(u64::MAX);
        assert_eq!(schedule.live(end - Duration::from_secs(3_600)).len(), 1);
        schedule.next_change(end);
        assert!(schedule.next_change(Instant::ZERO) > Instant::ZERO);
        assert!(schedule.start(Period(u32::MAX)) > schedule.start(Period(0)));
    }
}
