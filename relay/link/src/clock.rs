//! The one clock and the one source of randomness of a daemon.

use crate::error::protocol;
use crate::{Error, Result};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zeroize::Zeroize;

/// A monotonic clock, anchored to the wall clock when it was made: what the machines of
/// `mizzle-protocol` are driven by. Copies agree with each other.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: std::time::Instant,
    origin: Instant,
}

impl Clock {
    /// A clock that agrees with the wall clock now.
    pub fn new() -> Self {
        // A wall clock before 1970 is a broken one; the documents' dates will then say so.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { started: std::time::Instant::now(), origin: Instant::ZERO + since_epoch }
    }

    /// The present moment.
    pub fn now(&self) -> Instant {
        self.origin + self.started.elapsed()
    }

    /// The operating system's name for a moment of this clock, to sleep until it.
    pub fn to_std(&self, moment: Instant) -> std::time::Instant {
        self.started + moment.since(self.origin)
    }

    /// Time from now until `moment`; zero when it has passed.
    pub fn until(&self, moment: Instant) -> Duration {
        moment.since(self.now())
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
