//! The one clock and the one source of randomness of a daemon.

use crate::error::protocol;
use crate::{Error, Result};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zeroize::Zeroize;

/// A monotonic clock, anchored to the wall clock when it was made: what the machines of
/// `mizzle-protocol` are driven by. Copies agree with each other.
///
/// On Linux it goes on while the machine sleeps, so that documents end when they should. It does not follow
/// a wall clock that is set: see [`Self::wall_clock_was_set`].
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    sources: Sources,
    started: Duration,
    origin: Instant,
}

/// What a clock reads.
#[derive(Clone, Copy, Debug)]
pub struct Sources {
    /// Time since any fixed moment, which never goes back, and goes on while the machine sleeps.
    pub monotonic: fn() -> Duration,
    /// Time since the Unix epoch, as far as this computer knows.
    pub wall: fn() -> Duration,
}

/// The wall clock has been set since the clock was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockSet {
    /// Forward, by so much.
    Forward(Duration),
    /// Back, by so much.
    Back(Duration),
}

impl fmt::Display for ClockSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Forward(by) | Self::Back(by)) = self;
        let way = if matches!(self, Self::Forward(_)) { "forward" } else { "back" };
        write!(f, "this computer's clock was set {way} by {} s", by.as_secs())
    }
}

impl Clock {
    /// A clock that agrees with the wall clock now.
    pub fn new() -> Self {
        Self::from_sources(Sources { monotonic, wall })
    }

    /// A clock that reads these sources: for tests.
    pub fn from_sources(sources: Sources) -> Self {
        Self { sources, started: (sources.monotonic)(), origin: Instant::ZERO + (sources.wall)() }
    }

    /// A clock of the same sources that agrees with the wall clock now.
    pub fn anew(&self) -> Self {
        Self::from_sources(self.sources)
    }

    /// The present moment.
    pub fn now(&self) -> Instant {
        self.origin + (self.sources.monotonic)().saturating_sub(self.started)
    }

    /// Time from now until `moment`; zero when it has passed.
    pub fn until(&self, moment: Instant) -> Duration {
        moment.since(self.now())
    }

    /// Whether the wall clock now says something else than this clock, by more than a few seconds: somebody
    /// has set it, and documents are to be judged by a clock made [anew](Self::anew).
    pub fn wall_clock_was_set(&self) -> Option<ClockSet> {
        let wall = Instant::ZERO + (self.sources.wall)();
        let now = self.now();
        let (ahead, behind) = (wall.since(now), now.since(wall));
        match (ahead > TOLERANCE, behind > TOLERANCE) {
            (true, _) => Some(ClockSet::Forward(ahead)),
            (_, true) => Some(ClockSet::Back(behind)),
            _ => None,
        }
    }

    /// Logs what to do when the wall clock was set, once. For daemons that cannot begin anew by themselves;
    /// never ends before that.
    pub async fn warn_when_set(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Some(set) = self.wall_clock_was_set() {
                tracing::warn!("{set}, and this process goes by the old time: restart it");
                return;
            }
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

fn wall() -> Duration {
    // A wall clock before 1970 is a broken one; the documents' dates will then say so.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

/// The time since the machine started, its sleep included, which `std::time::Instant` leaves out.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn monotonic() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What the standard library offers: on Windows and macOS it may or may not go on in sleep.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn monotonic() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

/// A generator seeded by the operating system. Fails only where that has no randomness to give.
pub fn seeded_rng() -> Result<ChaCha20Rng> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|_| -> Error {
        protocol(ErrorKind::Unavailable, "the operating system gives no randomness")
    })?;
    let rng = ChaCha20Rng::from_seed(seed);
    seed.zeroize();
    Ok(rng)
}

/// A correction by less than this is none that documents' lives would notice.
const TOLERANCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    static MONOTONIC: AtomicU64 = AtomicU64::new(1_000);
    static WALL: AtomicU64 = AtomicU64::new(1_700_000_000);

    #[test]
    fn a_sleep_counts_and_a_wall_clock_that_is_set_is_noticed() {
        let clock = Clock::from_sources(Sources {
            monotonic: || Duration::from_secs(MONOTONIC.load(Ordering::Relaxed)),
            wall: || Duration::from_secs(WALL.load(Ordering::Relaxed)),
        });
        let first = clock.now();
        // The machine sleeps for an hour: both go on.
        MONOTONIC.fetch_add(3_600, Ordering::Relaxed);
        WALL.fetch_add(3_603, Ordering::Relaxed);
        assert_eq!(clock.now().since(first), Duration::from_secs(3_600));
        assert_eq!(clock.wall_clock_was_set(), None);
        WALL.fetch_add(600, Ordering::Relaxed);
        assert_eq!(clock.wall_clock_was_set(), Some(ClockSet::Forward(Duration::from_secs(603))));
        WALL.fetch_sub(1_000, Ordering::Relaxed);
        let set = clock.wall_clock_was_set().unwrap();
        assert_eq!(set.to_string(), "this computer's clock was set back by 397 s");
        let anew = clock.anew();
        assert_eq!((anew.wall_clock_was_set(), anew.now().unix().0), (None, WALL.load(Ordering::Relaxed)));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_source_is_the_one_that_goes_on_in_sleep() {
        // /proc/uptime counts sleep, too; it has a resolution of 10 ms.
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = text.split(' ').next().unwrap().parse().unwrap();
        assert!((monotonic().as_secs_f64() - uptime).abs() < 2.0);
    }

    #[test]
    fn the_clock_agrees_with_the_wall_clock_and_never_goes_back() {
        let clock = Clock::new();
        let first = clock.now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(wall.abs_diff(first.unix().0) <= 1);
        assert!(clock.now() >= first);
        assert_eq!(clock.until(first), Duration::ZERO);
    }

    #[test]
    fn two_generators_differ() {
        use rand_core::Rng;
        assert_ne!(seeded_rng().unwrap().next_u64(), seeded_rng().unwrap().next_u64());
    }
}
