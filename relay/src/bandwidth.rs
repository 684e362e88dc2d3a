//! The operator's limit on bandwidth: packets beyond it are refused as they come.
//!
//! Why refuse, and not simply read more slowly? A relay that does not read makes packets wait in its
//! neighbour's queue: their delays grow, which their sender did not draw and an observer can see and cause.
//! What is refused at the door costs no cryptography, is counted, and is sent again over another route. What
//! is taken on keeps its delay to the microsecond. And the network knows beforehand: the descriptor announces
//! no more than the limit. (spec: RELAY-8)
//!
//! Each direction has the rate for itself. A mix sends what it takes, so there one bucket limits both. An exit
//! answers more than it is asked, so its replies have a bucket of their own, and so have relays' loops that pass it. An entry sends to each client in
//! slots of a fixed rate, with packets or filler, so there the limit bounds the number of clients.
//!
//! What is no packet must not eat up what packets need. Filler on a link between relays is its relay's own doing:
//! it gets what packets leave of the rate, and a relay that sends more is read more slowly, which delays packets
//! of that relay only, and that it can do itself. Documents go to strangers, so they get an eighth of the rate.
//! Where there is a quota, neither gets more than an eighth of that, spread over the month: nobody can use a
//! month up by asking. (spec: RELAY-8, RELAY-9)

use mizzle_link::units::{Rate, Size};
use mizzle_protocol::time::Instant;
use prometheus::IntCounter;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Which way a packet wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// It comes from a link.
    Receive,
    /// A service of this relay sends it.
    Send,
}

/// What the operator allows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowed {
    /// Bandwidth in each direction.
    pub(crate) rate: Option<Rate>,
    /// What may pass at once after a pause; `None`: a second of the rate.
    pub(crate) burst: Option<Size>,
    /// Traffic of a month.
    pub(crate) quota: Option<Size>,
}

/// Counters of what was refused, by the limit that it was beyond.
#[derive(Clone, Debug)]
pub(crate) struct Beyond {
    /// Packets beyond the rate.
    pub(crate) rate: IntCounter,
    /// Packets, when the quota is used up.
    pub(crate) quota: IntCounter,
    /// Cells of filler from relays, beyond what they get.
    pub(crate) filler: IntCounter,
    /// Documents beyond what they get.
    pub(crate) documents: IntCounter,
}

/// What the relay may still take on.
#[derive(Debug)]
pub(crate) struct Bandwidth {
    limits: Mutex<Option<Limits>>,
    /// Bytes per second that clients' slots take, whatever is in them.
    reserved: Mutex<f64>,
    shares: Mutex<Shares>,
    /// The month's quota is used up: nothing is taken.
    spent: AtomicBool,
    beyond: Beyond,
}

/// What filler and documents get, each for itself; `None`: without a limit of its own.
#[derive(Debug, Default)]
struct Shares {
    filler: Option<Bucket>,
    documents: Option<Bucket>,
}

/// What each direction has.
#[derive(Debug)]
struct Limits {
    receive: Bucket,
    send: Bucket,
}

#[derive(Debug)]
struct Bucket {
    /// Bytes per second.
    rate: f64,
    /// Bytes at once.
    burst: f64,
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
    /// Limits, if there are some; the counters show what was refused.
    pub(crate) fn new(allowed: Allowed, now: Instant, beyond: Beyond) -> Arc<Self> {
        let (limits, reserved, shares) = (Mutex::default(), Mutex::default(), Mutex::default());
        let bandwidth = Self { limits, reserved, shares, spent: AtomicBool::new(false), beyond };
        bandwidth.set(allowed, now);
        Arc::new(bandwidth)
    }

    /// Other limits from now on. Clients that are there stay, and what is used up stays used up: a reload is no pause.
    pub(crate) fn set(&self, allowed: Allowed, now: Instant) {
        let Allowed { rate, burst, quota } = allowed;
        let by_rate = rate.map(|Rate(rate)| rate as f64 / PART);
        let by_quota = quota.map(|Size(quota)| quota as f64 / MONTH.as_secs_f64() / PART);
        let least = by_rate.map_or(by_quota, |rate| Some(by_quota.map_or(rate, |quota| quota.min(rate))));
        let mut shares = self.shares();
        shares.filler = by_quota.map(|rate| Bucket::of_a_share(rate, shares.filler.take(), now));
        shares.documents = least.map(|rate| Bucket::of_a_share(rate, shares.documents.take(), now));
        drop(shares);
        let mut limits = self.lock();
        let (receive, send) = limits.take().map(|held| (held.receive, held.send)).unzip();
        *limits = rate.map(|Rate(rate)| {
            let rate = rate as f64;
            let burst = burst.map_or(rate, |Size(burst)| burst as f64);
            let bucket = |held| Bucket::new(rate, burst, held, now);
            Limits { receive: bucket(receive), send: bucket(send) }
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
            self.beyond.quota.inc();
            return false;
        }
        let taken = self.lock().as_mut().is_none_or(|limits| limits.take(direction, bytes as f64, now));
        if !taken {
            self.beyond.rate.inc();
        }
        taken
    }

    /// Accounts for filler of so many bytes on the line, which a relay has sent; for how long nothing more should be
    /// read of that relay. Zero if packets have left room for it.
    pub(crate) fn take_filler(&self, bytes: usize, now: Instant) -> Duration {
        let bytes = bytes as f64;
        let fits = !self.spent.load(Ordering::Relaxed)
            && self.shares().filler.as_mut().is_none_or(|share| share.take(bytes, 0.0, now))
            && self.lock().as_mut().is_none_or(|limits| limits.take_what_is_left(bytes, now));
        if fits {
            return Duration::ZERO;
        }
        self.beyond.filler.inc();
        FILLER_PAUSE
    }

    /// True if a document of so many bytes may go out; then it is accounted for.
    pub(crate) fn take_document(&self, bytes: usize, now: Instant) -> bool {
        let fits = !self.spent.load(Ordering::Relaxed)
            && self.shares().documents.as_mut().is_none_or(|share| share.take(bytes as f64, 0.0, now));
        if !fits {
            self.beyond.documents.inc();
        }
        fits
    }

    /// Sets aside what a client's slots will take; `None` if that is more than is left.
    pub(crate) fn reserve(self: &Arc<Self>, bytes_per_second: f64) -> Option<Reservation> {
        let mut share = Reservation { bandwidth: self.clone(), bytes_per_second: 0.0 };
        share.resize(bytes_per_second).then_some(share)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Limits>> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserved(&self) -> MutexGuard<'_, f64> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shares(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Limits {
    fn take(&mut self, direction: Direction, bytes: f64, now: Instant) -> bool {
        let bucket = match direction {
            Direction::Receive => &mut self.receive,
            Direction::Send => &mut self.send,
        };
        bucket.take(bytes, 0.0, now)
    }

    /// Takes what comes in and is no packet, while half of the burst is left to packets.
    fn take_what_is_left(&mut self, bytes: f64, now: Instant) -> bool {
        let half = self.receive.burst / 2.0;
        self.receive.take(bytes, half, now)
    }
}

impl Bucket {
    /// A full one, or one in which what `held` has used up stays used up.
    fn new(rate: f64, burst: f64, held: Option<Self>, now: Instant) -> Self {
        let left = held.map(|mut held| {
            held.fill(now);
            held.tokens
        });
        Self { rate, burst, tokens: left.unwrap_or(burst).min(burst), filled: now }
    }

    /// That of filler or of documents, which come in lumps.
    fn of_a_share(rate: f64, held: Option<Self>, now: Instant) -> Self {
        Self::new(rate, AT_ONCE.max(rate * 60.0), held, now)
    }

    fn fill(&mut self, now: Instant) {
        let gained = now.since(self.filled).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + gained).min(self.burst);
        self.filled = self.filled.max(now);
    }

    /// True if there is enough, and `rest` stays.
    fn take(&mut self, bytes: f64, rest: f64, now: Instant) -> bool {
        self.fill(now);
        let enough = self.tokens >= bytes + rest;
        if enough {
            self.tokens -= bytes;
        }
        enough
    }
}

impl Reservation {
    /// Sets aside so much instead, if there is room for it; less always finds room.
    pub(crate) fn resize(&mut self, bytes_per_second: f64) -> bool {
        // Without a limit it is counted all the same: one may come.
        let most = self.bandwidth.lock().as_ref().map_or(f64::INFINITY, |limits| limits.receive.rate);
        let more = bytes_per_second - self.bytes_per_second;
        let mut reserved = self.bandwidth.reserved();
        let fits = !self.bandwidth.spent.load(Ordering::Relaxed) && *reserved + more <= most;
        if more > 0.0 && !fits {
            return false;
        }
        *reserved = (*reserved + more).max(0.0);
        drop(reserved);
        self.bytes_per_second = bytes_per_second;
        true
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut reserved = self.bandwidth.reserved();
        *reserved = (*reserved - self.bytes_per_second).max(0.0);
    }
}

/// Filler and documents get one part of so many.
const PART: f64 = 8.0;
const MONTH: Duration = Duration::from_secs(31 * 86_400);
/// What of a share may pass at once at least: some of the largest documents.
const AT_ONCE: f64 = 16e6;
/// Pause in reading a relay whose filler has no room.
const FILLER_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn bandwidth(rate: Option<Rate>, burst: Option<Size>) -> Arc<Bandwidth> {
        with_quota(rate, burst, None)
    }

    fn with_quota(rate: Option<Rate>, burst: Option<Size>, quota: Option<Size>) -> Arc<Bandwidth> {
        let counter = |name: &str| IntCounter::new(name, name).unwrap();
        let beyond = Beyond {
            rate: counter("rate"),
            quota: counter("quota"),
            filler: counter("filler"),
            documents: counter("documents"),
        };
        Bandwidth::new(Allowed { rate, burst, quota }, Instant::ZERO, beyond)
    }

    #[test]
    fn filler_of_relays_gets_what_packets_leave_and_takes_nothing_from_them() {
        let step = Duration::from_millis(2);
        // Packets take all of the rate, or half of it, and filler is always there.
        for (every, packets, filler) in
            [(CELL as f64 / RATE, 0.95..1.05, 0.0..0.05), (2.0 * CELL as f64 / RATE, 0.48..0.52, 0.4..0.55)]
        {
            let bandwidth = bandwidth(Some(Rate(RATE as u64)), None);
            let (mut now, mut due, mut taken, mut filled) = (Instant::ZERO, 0.0, 0.0, 0.0);
            let end = now + Duration::from_secs(60);
            let mut passed = 0.0;
            while now < end {
                now += step;
                passed += step.as_secs_f64();
                for _ in 0..4 {
                    if bandwidth.take_filler(CELL, now).is_zero() {
                        filled += CELL as f64;
                    }
                }
                while due < passed {
                    due += every;
                    taken += if bandwidth.take(Direction::Receive, CELL, now) { CELL as f64 } else { 0.0 };
                }
            }
            let (packet_share, filler_share) = (taken / RATE / 60.0, filled / RATE / 60.0);
            assert!(packets.contains(&packet_share), "packets: {packet_share}");
            assert!(filler.contains(&filler_share), "filler: {filler_share}");
            assert!(bandwidth.beyond.filler.get() > 10_000);
            // No packet was refused for it.
            assert_eq!(bandwidth.beyond.rate.get(), 0);
            bandwidth.set_spent(true);
            assert_eq!(bandwidth.take_filler(CELL, Instant::ZERO), FILLER_PAUSE);
        }
    }

    #[test]
    fn neither_filler_nor_documents_use_up_a_month() {
        let quota = 100e9;
        let used = |take: &dyn Fn(&Bandwidth, Instant) -> bool, rate: Option<Rate>| {
            let bandwidth = with_quota(rate, None, Some(Size(quota as u64)));
            let (mut now, mut used) = (Instant::ZERO, 0.0);
            for _ in 0..31 * 24 * 60 {
                now += Duration::from_secs(60);
                // More than a share holds at once.
                let taken = (0..10_000).take_while(|_| take(&bandwidth, now)).count();
                used += taken as f64 * CELL as f64;
            }
            used / quota
        };
        let filler = |bandwidth: &Bandwidth, now| bandwidth.take_filler(CELL, now).is_zero();
        let document = |bandwidth: &Bandwidth, now| bandwidth.take_document(CELL, now);
        for take in [&filler as &dyn Fn(&Bandwidth, Instant) -> bool, &document] {
            let share = used(take, None);
            assert!((0.12..0.13).contains(&share), "{share}");
        }
        // A rate bounds documents, too, if that is less: an eighth of 10 kB/s are 3.3 GB a month.
        let share = used(&document, Some(Rate(10_000)));
        assert!((0.03..0.04).contains(&share), "{share}");
        // Without either, nothing is refused.
        let free = bandwidth(None, None);
        assert!((0..10_000).all(|_| filler(&free, Instant::ZERO) && document(&free, Instant::ZERO)));
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
            assert!(bandwidth.beyond.rate.get() > 15_000);
            assert_eq!(bandwidth.beyond.quota.get(), 0);
        }
    }

    #[test]
    fn directions_have_the_rate_each_and_no_rate_means_no_limit() {
        let limited = bandwidth(Some(Rate(1_250_000)), Some(Size(10_000)));
        let burst = |direction| (0..10).filter(|_| limited.take(direction, CELL, Instant::ZERO)).count();
        assert_eq!((burst(Direction::Receive), burst(Direction::Send)), (2, 2));
        let free = bandwidth(None, None);
        assert!((0..100_000).all(|_| free.take(Direction::Receive, CELL, Instant::ZERO)));
        free.set(Allowed { rate: Some(Rate(CELL as u64)), ..Allowed::default() }, Instant::ZERO);
        assert!(free.take(Direction::Receive, CELL, Instant::ZERO));
        assert!(!free.take(Direction::Receive, CELL, Instant::ZERO));
    }

    #[test]
    fn a_reload_gives_nothing_back_that_was_used_up() {
        let allowed = |rate| Allowed { rate: Some(Rate(rate)), burst: None, quota: Some(Size(1_000_000)) };
        let bandwidth = with_quota(Some(Rate(1_250_000)), None, Some(Size(1_000_000)));
        let now = Instant::ZERO;
        let packets = || (0..1_000).filter(|_| bandwidth.take(Direction::Receive, CELL, now)).count();
        let documents = || (0..10_000).filter(|_| bandwidth.take_document(CELL, now)).count();
        assert!(packets() > 200 && documents() > 3_000);
        for rate in [1_250_000, 2_500_000, 10_000] {
            bandwidth.set(allowed(rate), now);
            assert_eq!((packets(), documents()), (0, 0), "at {rate} bytes a second");
        }
        // What the higher rate has brought by then is cut to the lower one's burst.
        bandwidth.set(allowed(1_250_000), now);
        let later = now + Duration::from_secs(60);
        bandwidth.set(allowed(2 * CELL as u64), later);
        assert_eq!((0..10).filter(|_| bandwidth.take(Direction::Receive, CELL, later)).count(), 2);
    }

    #[test]
    fn a_spent_quota_refuses_all_and_counts_it_apart() {
        let bandwidth = bandwidth(None, None);
        bandwidth.set_spent(true);
        assert!(!bandwidth.take(Direction::Send, CELL, Instant::ZERO));
        assert!(bandwidth.reserve(1.0).is_none());
        assert_eq!((bandwidth.beyond.rate.get(), bandwidth.beyond.quota.get()), (0, 1));
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
        bandwidth.set(Allowed { rate: Some(Rate(100)), ..Allowed::default() }, Instant::ZERO);
        assert!(bandwidth.reserve(1.0).is_none());
        drop(second);
        assert!(bandwidth.reserve(100.0).is_some());
        // Who came while there was no limit counts when there is one.
        bandwidth.set(Allowed::default(), Instant::ZERO);
        let free = bandwidth.reserve(900.0).unwrap();
        bandwidth.set(Allowed { rate: Some(Rate(1_000)), ..Allowed::default() }, Instant::ZERO);
        assert!(bandwidth.reserve(200.0).is_none());
        drop(free);
        assert!(bandwidth.reserve(1_000.0).is_some());
        assert!(bandwidth.reserve(1_000.1).is_none());
    }
}
