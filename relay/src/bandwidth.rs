//! The operator's limit on bandwidth: packets beyond it are refused as they come.
//!
//! Why refuse, and not simply read more slowly? A relay that does not read makes packets wait in its
//! neighbour's queue: their delays grow, which their sender did not draw and an observer can see and cause.
//! What is refused at the door costs no cryptography, is counted, and is sent again over another route. What
//! is taken on keeps its delay to the microsecond. And the network knows beforehand: the descriptor announces
//! no more than the limit. (spec: RELAY-8)
//!
//! Each direction has the rate for itself. A mix sends what it takes, so there one bucket limits both. An exit
//! answers more than it is asked, so its replies have a bucket of their own. An entry sends to each client in
//! slots of a fixed rate, with packets or filler, so there the limit bounds the number of clients.

use mizzle_link::units::{Rate, Size};
use mizzle_protocol::time::Instant;
use prometheus::IntCounter;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Which way a packet wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// It comes from a link.
    Receive,
    /// A service of this relay sends it.
    Send,
}

/// What the relay may still take on.
#[derive(Debug)]
pub(crate) struct Bandwidth {
    limits: Mutex<Option<Limits>>,
    /// The month's quota is used up: nothing is taken.
    spent: AtomicBool,
    beyond_rate: IntCounter,
    beyond_quota: IntCounter,
}

#[derive(Debug)]
struct Limits {
    /// Bytes per second.
    rate: f64,
    /// Bytes at once.
    burst: f64,
    receive: Bucket,
    send: Bucket,
    /// Bytes per second that clients' slots take, whatever is in them.
    reserved: f64,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

/// A client's share of an entry's bandwidth; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    bandwidth: Arc<Bandwidth>,
    bytes_per_second: f64,
}

impl Bandwidth {
    /// Limits, if `rate` is one; the counters show what was refused.
    pub(crate) fn new(
        rate: Option<Rate>,
        burst: Option<Size>,
        now: Instant,
        beyond_rate: IntCounter,
        beyond_quota: IntCounter,
    ) -> Arc<Self> {
        let bandwidth =
            Self { limits: Mutex::default(), spent: AtomicBool::new(false), beyond_rate, beyond_quota };
        bandwidth.set(rate, burst, now);
        Arc::new(bandwidth)
    }

    /// Other limits from now on. Clients that are there stay.
    pub(crate) fn set(&self, rate: Option<Rate>, burst: Option<Size>, now: Instant) {
        let mut limits = self.lock();
        let reserved = limits.as_ref().map_or(0.0, |limits| limits.reserved);
        *limits = rate.map(|Rate(rate)| {
            let rate = rate as f64;
            let burst = burst.map_or(rate, |Size(burst)| burst as f64);
            let full = || Bucket { tokens: burst, filled: now };
            Limits { rate, burst, receive: full(), send: full(), reserved }
        });
    }

    /// Whether the month's quota is used up.
    pub(crate) fn set_spent(&self, spent: bool) {
        self.spent.store(spent, Ordering::Relaxed);
    }

    /// True if a packet of so many bytes on the line may be taken on; then they are accounted for. What is
    /// refused must be dropped as `rate_limited`.
    pub(crate) fn take(&self, direction: Direction, bytes: usize, now: Instant) -> bool {
        if self.spent.load(Ordering::Relaxed) {
            self.beyond_quota.inc();
            return false;
        }
        let taken = self.lock().as_mut().is_none_or(|limits| limits.take(direction, bytes as f64, now));
        if !taken {
            self.beyond_rate.inc();
        }
        taken
    }

    /// Sets aside what a client's slots will take; `None` if that is more than is left.
    pub(crate) fn reserve(self: &Arc<Self>, bytes_per_second: f64) -> Option<Reservation> {
        if self.spent.load(Ordering::Relaxed) {
            return None;
        }
        if let Some(limits) = self.lock().as_mut() {
            if limits.reserved + bytes_per_second > limits.rate {
                return None;
            }
            limits.reserved += bytes_per_second;
        }
        Some(Reservation { bandwidth: self.clone(), bytes_per_second })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Limits>> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Limits {
    fn take(&mut self, direction: Direction, bytes: f64, now: Instant) -> bool {
        let bucket = match direction {
            Direction::Receive => &mut self.receive,
            Direction::Send => &mut self.send,
        };
        let gained = now.since(bucket.filled).as_secs_f64() * self.rate;
        bucket.tokens = (bucket.tokens + gained).min(self.burst);
        bucket.filled = bucket.filled.max(now);
        let enough = bucket.tokens >= bytes;
        if enough {
            bucket.tokens -= bytes;
        }
        enough
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(limits) = self.bandwidth.lock().as_mut() {
            limits.reserved = (limits.reserved - self.bytes_per_second).max(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn bandwidth(rate: Option<Rate>, burst: Option<Size>) -> Arc<Bandwidth> {
        let counter = |name: &str| IntCounter::new(name, name).unwrap();
        Bandwidth::new(rate, burst, Instant::ZERO, counter("rate"), counter("quota"))
    }

    /// Bytes taken in `seconds` when packets come at twice the rate, in bursts of `at_once`.
    fn taken(bandwidth: &Bandwidth, seconds: u64, at_once: u64) -> f64 {
        let (mut now, mut taken) = (Instant::ZERO, 0.0);
        let pause = Duration::from_secs_f64(CELL as f64 * at_once as f64 / (2.0 * RATE));
        while now < Instant::ZERO + Duration::from_secs(seconds) {
            for _ in 0..at_once {
                if bandwidth.take(Direction::Receive, CELL, now) {
                    taken += CELL as f64;
                }
            }
            now += pause;
        }
        taken
    }

    const CELL: usize = 4_446;
    const RATE: f64 = 1_250_000.0;

    #[test]
    fn ten_megabits_hold_within_five_percent_over_a_minute_of_twice_that() {
        for at_once in [1, 32, 200] {
            let bandwidth = bandwidth(Some(Rate(1_250_000)), None);
            let share = taken(&bandwidth, 60, at_once) / (RATE * 60.0);
            assert!((0.95..1.05).contains(&share), "{share} at {at_once} at once");
            assert!(bandwidth.beyond_rate.get() > 15_000);
            assert_eq!(bandwidth.beyond_quota.get(), 0);
        }
    }

    #[test]
    fn directions_have_the_rate_each_and_no_rate_means_no_limit() {
        let limited = bandwidth(Some(Rate(1_250_000)), Some(Size(10_000)));
        let burst = |direction| (0..10).filter(|_| limited.take(direction, CELL, Instant::ZERO)).count();
        assert_eq!((burst(Direction::Receive), burst(Direction::Send)), (2, 2));
        let free = bandwidth(None, None);
        assert!((0..100_000).all(|_| free.take(Direction::Receive, CELL, Instant::ZERO)));
        free.set(Some(Rate(CELL as u64)), None, Instant::ZERO);
        assert!(free.take(Direction::Receive, CELL, Instant::ZERO));
        assert!(!free.take(Direction::Receive, CELL, Instant::ZERO));
    }

    #[test]
    fn a_spent_quota_refuses_all_and_counts_it_apart() {
        let bandwidth = bandwidth(None, None);
        bandwidth.set_spent(true);
        assert!(!bandwidth.take(Direction::Send, CELL, Instant::ZERO));
        assert!(bandwidth.reserve(1.0).is_none());
        assert_eq!((bandwidth.beyond_rate.get(), bandwidth.beyond_quota.get()), (0, 1));
        bandwidth.set_spent(false);
        assert!(bandwidth.take(Direction::Send, CELL, Instant::ZERO));
    }

    #[test]
    fn clients_share_what_there_is_and_give_it_back() {
        let bandwidth = bandwidth(Some(Rate(1_000)), None);
        let first = bandwidth.reserve(600.0).unwrap();
        assert!(bandwidth.reserve(600.0).is_none());
        let second = bandwidth.reserve(400.0).unwrap();
        drop(first);
        assert!(bandwidth.reserve(600.0).is_some());
        // A limit that falls sends nobody away, and one that goes away counts nothing wrong.
        bandwidth.set(Some(Rate(100)), None, Instant::ZERO);
        assert!(bandwidth.reserve(1.0).is_none());
        drop(second);
        assert!(bandwidth.reserve(100.0).is_some());
    }
}
