//! Faults on purpose: a relay that loses packets, or holds them too long, for tests of those who have to live with it.
//!
//! Only in a program that was built with the cargo feature `faults`, which says so in its version and in its log; in
//! any other nothing of this is there. The variable `MIZZLE_TEST_FAULTS` holds words such as `drop=0.05` (the
//! share of packets that the engine takes on and loses), `delay=10` (each drawn delay times ten) and `claim=10` (it
//! announces ten times the rate that it carries), with a comma between them; or `@FILE`, a file that holds such words,
//! which is read again while the relay runs.

#[cfg(feature = "faults")]
pub(crate) use told::{Faults, claimed};
#[cfg(not(feature = "faults"))]
pub(crate) use untold::{Faults, claimed};

/// The program's version, and what else one must know of it.
#[cfg(feature = "faults")]
pub(crate) const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " with faults on purpose: for tests only, of no use in a network");
#[cfg(not(feature = "faults"))]
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(not(feature = "faults"))]
mod untold {
    use mizzle_link::Result;
    use mizzle_protocol::time::Instant;

    /// What is announced of a rate: the truth.
    pub(crate) fn claimed(rate: u32) -> u32 {
        rate
    }

    /// No faults.
    #[derive(Clone, Debug)]
    pub(crate) struct Faults;

    impl Faults {
        pub(crate) fn of_threads(count: usize) -> Result<Vec<Self>> {
            Ok(vec![Self; count])
        }

        pub(crate) fn loses(&mut self, _now: Instant) -> bool {
            false
        }

        pub(crate) fn due(&self, _arrival: Instant, due: Instant) -> Instant {
            due
        }
    }
}

#[cfg(feature = "faults")]
mod told {
    use mizzle_link::{Error, Result, read_bounded, seeded_rng};
    use mizzle_protocol::ErrorKind;
    use mizzle_protocol::time::Instant;
    use rand_chacha::ChaCha20Rng;
    use rand_core::Rng;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    /// What one thread of the engine does wrong.
    #[derive(Debug)]
    pub(crate) struct Faults {
        words: Words,
        /// Where to read them again.
        file: Option<PathBuf>,
        read: Instant,
        /// Seeded by the system, and by nothing that a packet holds: no packet can choose its fate.
        rng: ChaCha20Rng,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Words {
        drop: f64,
        delay: f64,
        claim: f64,
    }

    /// What is announced of a rate, as the variable says.
    pub(crate) fn claimed(rate: u32) -> u32 {
        let told = std::env::var(VARIABLE).unwrap_or_default();
        let claim = Faults::new(&told).map_or(1.0, |faults| faults.words.claim);
        (f64::from(rate) * claim) as u32
    }

    impl Faults {
        /// What the variable says, for each of `count` threads; no faults without it.
        pub(crate) fn of_threads(count: usize) -> Result<Vec<Self>> {
            tracing::warn!(
                "this program was built with the feature `faults`: it loses and delays packets as {VARIABLE} says, \
                 and is for tests only"
            );
            let told = std::env::var(VARIABLE).unwrap_or_default();
            (0..count).map(|_| Self::new(&told)).collect()
        }

        fn new(told: &str) -> Result<Self> {
            let mut faults = Self { words: Words::NONE, file: None, read: Instant::ZERO, rng: seeded_rng()? };
            match told.strip_prefix('@') {
                Some(path) => {
                    faults.words = read(Path::new(path))?;
                    faults.file = Some(PathBuf::from(path));
                }
                None => faults.words = Words::parse(told)?,
            }
            Ok(faults)
        }

        /// True for a packet that is to be lost. Called for each, with the time, by which the file is read again.
        pub(crate) fn loses(&mut self, now: Instant) -> bool {
            if let Some(path) = &self.file
                && now.since(self.read) >= AGAIN
            {
                self.read = now;
                // Half-written contents are read whole the next time.
                self.words = read(path).unwrap_or(self.words);
            }
            let draw = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            draw < self.words.drop
        }

        /// When a packet leaves that should at `due`.
        pub(crate) fn due(&self, arrival: Instant, due: Instant) -> Instant {
            let delay = due.since(arrival).as_secs_f64() * self.words.delay;
            arrival + Duration::from_secs_f64(delay)
        }
    }

    impl Words {
        const NONE: Self = Self { drop: 0.0, delay: 1.0, claim: 1.0 };

        fn parse(text: &str) -> Result<Self> {
            let mut words = Self::NONE;
            for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
                let value = |name| word.strip_prefix(name)?.parse().ok();
                match (value("drop="), value("delay="), value("claim=")) {
                    (Some(share), ..) if (0.0..=1.0).contains(&share) => words.drop = share,
                    (_, Some(factor), _) if (0.0..=LONGEST).contains(&factor) => words.delay = factor,
                    (.., Some(factor)) if (0.0..=LONGEST).contains(&factor) => words.claim = factor,
                    _ => return Err(wrong(word)),
                }
            }
            Ok(words)
        }
    }

    fn read(path: &Path) -> Result<Words> {
        let bytes = read_bounded(path, SIZE)?.ok_or_else(|| {
            let message = format!("{VARIABLE} names a file that is not there: {}", path.display());
            Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Misuse, message))
        })?;
        Words::parse(&String::from_utf8_lossy(&bytes))
    }

    fn wrong(word: &str) -> Error {
        let message = format!(
            "{VARIABLE} does not know `{word}`: say drop=SHARE with a share from 0 to 1, delay=FACTOR or claim=FACTOR \
             with a factor from 0 to {LONGEST}, with commas between them, or @FILE with a file that holds that"
        );
        Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Misuse, message))
    }

    const VARIABLE: &str = "MIZZLE_TEST_FAULTS";
    /// The file is read again after so long.
    const AGAIN: Duration = Duration::from_millis(50);
    /// The largest file.
    const SIZE: usize = 4096;
    const LONGEST: f64 = 1000.0;

    #[cfg(test)]
    mod tests {
        use super::*;
        use rand_core::SeedableRng;

        fn faults(words: Words, file: Option<PathBuf>) -> Faults {
            Faults { words, file, read: Instant::ZERO, rng: ChaCha20Rng::seed_from_u64(1) }
        }

        #[test]
        fn words_are_understood_and_others_refused_by_name() {
            let parse = |text| Words::parse(text).unwrap();
            assert_eq!(parse(" \n"), Words::NONE);
            assert_eq!(parse("drop=0.05"), Words { drop: 0.05, ..Words::NONE });
            assert_eq!(parse("delay=10, drop=1\n"), Words { drop: 1.0, delay: 10.0, ..Words::NONE });
            assert_eq!(parse("claim=10"), Words { claim: 10.0, ..Words::NONE });
            for text in ["drop=1.5", "drop=", "delay=-1", "delay=NaN", "lose=1", "drop=0.1;delay=2"] {
                let error = Words::parse(text).unwrap_err().to_string();
                assert!(error.contains(&format!("`{text}`")) && error.contains("SHARE"), "{error}");
            }
        }

        #[test]
        fn the_share_that_was_asked_for_is_lost_and_delays_are_so_much_longer() {
            let mut faults = faults(Words { drop: 0.05, delay: 10.0, ..Words::NONE }, None);
            let lost = (0..20_000).filter(|_| faults.loses(Instant::ZERO)).count();
            // 1000 expected; four standard deviations are 123.
            assert!(lost.abs_diff(1000) < 123, "{lost}");
            let arrival = Instant::ZERO + Duration::from_secs(1);
            let due = faults.due(arrival, arrival + Duration::from_millis(7));
            assert_eq!(due.since(arrival), Duration::from_millis(70));
        }

        #[test]
        fn a_file_is_followed_and_one_that_makes_no_sense_changes_nothing() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("faults");
            let mut faults = faults(Words::NONE, Some(path.clone()));
            let mut now = Instant::ZERO + Duration::from_secs(1);
            for (text, lost) in [("drop=1", true), ("dr", true), ("drop=0", false), ("", false)] {
                std::fs::write(&path, text).unwrap();
                now += Duration::from_millis(100);
                assert_eq!(faults.loses(now), lost, "{text}");
            }
        }
    }
}
