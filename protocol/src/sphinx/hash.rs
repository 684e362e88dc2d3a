//! Keyed BLAKE2b over payloads: several at once where there are several, and one by what runs faster here.
//!
//! A hash is one long chain of additions, in which each waits for the last. Four chains side by side fill the
//! processor where one leaves it idle: a relay that has four packets to unwrap hashes them in a third of the
//! time that they take one by one. For one alone there are two ways: vectors (one chain in a vector of four
//! words) and words. Vectors win where a vector's addition takes one cycle, words where it takes two, as on
//! AMD's Zen 5. All ways give the same bytes.

use crate::time::Instant;
use blake2b_simd::many::{HashManyJob, hash_many};
use blake2b_simd::{Hash, Params};
use std::hint::black_box;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// How one payload alone is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Single {
    /// With vectors, where the processor has them.
    Vectors = 0,
    /// Without.
    Words = 1,
}

impl Single {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Vectors, Self::Words];

    /// What this process uses: [`Self::Vectors`], unless it was told otherwise.
    pub fn current() -> Self {
        match CURRENT.load(Ordering::Relaxed) {
            WORDS => Self::Words,
            _ => Self::Vectors,
        }
    }

    /// Lets the whole process use this way from now on.
    pub fn force(self) {
        CURRENT.store(self as u8, Ordering::Relaxed);
    }

    /// Tries both by the caller's clock, some tens of microseconds each, and lets the process use the faster.
    pub fn choose(now: impl Fn() -> Instant) -> Self {
        let payload = [7; 4096];
        let mut best = Self::ALL.map(|way| (Duration::MAX, way));
        for _ in 0..TRIALS {
            for (least, way) in &mut best {
                let start = now();
                black_box(way.hash(black_box(&[7; 64]), black_box(&payload)));
                *least = now().since(start).min(*least);
            }
        }
        let [(vectors, _), (words, _)] = best;
        let faster = if words < vectors { Self::Words } else { Self::Vectors };
        faster.force();
        faster
    }

    /// Its name, for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vectors => "vectors",
            Self::Words => "words",
        }
    }

    /// The hash of `message`, of 32 bytes.
    pub(super) fn hash(self, key: &[u8], message: &[u8]) -> Hash {
        let mut params = keyed(key);
        if self == Self::Words {
            blake2b_simd::benchmarks::force_portable(&mut params);
        }
        params.hash(message)
    }
}

/// The hashes of `N` messages under a key each, side by side. `N` is 2 or 4, for which processors have vectors.
pub(super) fn hash_together<const N: usize>(keys: [&[u8]; N], messages: [&[u8]; N]) -> [Hash; N] {
    let params = keys.map(keyed);
    let mut jobs: [HashManyJob<'_>; N] =
        std::array::from_fn(|number| HashManyJob::new(&params[number], messages[number]));
    hash_many(jobs.iter_mut());
    jobs.map(|job| job.to_hash())
}

fn keyed(key: &[u8]) -> Params {
    let mut params = Params::new();
    params.hash_length(HASH).key(key);
    params
}

/// Bytes of a hash.
pub(super) const HASH: usize = 32;
static CURRENT: AtomicU8 = AtomicU8::new(Single::Vectors as u8);
const WORDS: u8 = Single::Words as u8;
/// Hashes of each way that are tried; the fastest counts, since other programs only ever slow one down.
const TRIALS: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn all_ways_give_the_same_hashes() {
        let keys: [[u8; 64]; 4] = std::array::from_fn(|number| [number as u8; 64]);
        let messages: [Vec<u8>; 4] = std::array::from_fn(|number| vec![number as u8 ^ 0x55; 2016]);
        let four = hash_together(
            std::array::from_fn::<_, 4, _>(|number| keys[number].as_slice()),
            std::array::from_fn(|number| messages[number].as_slice()),
        );
        let two = hash_together([&keys[2], &keys[3]], [&messages[2], &messages[3]]);
        for way in Single::ALL {
            for (number, hash) in four.iter().enumerate() {
                assert_eq!(hash, &way.hash(&keys[number], &messages[number]), "{way:?}");
            }
            assert_eq!(two, [four[2], four[3]]);
        }
        assert_ne!(four[0], four[1]);
    }

    #[test]
    fn the_faster_way_is_chosen() {
        // A clock on which the first, third, fifth... stretch of time is the longer, or the shorter, one.
        for (strides, faster) in [([1, 9, 1, 5], Single::Words), ([1, 5, 1, 9], Single::Vectors)] {
            let (time, reads) = (Cell::new(Instant::ZERO), Cell::new(0));
            let now = || {
                time.set(time.get() + Duration::from_micros(strides[reads.get() % 4]));
                reads.set(reads.get() + 1);
                time.get()
            };
            assert_eq!(Single::choose(now), faster);
            assert_eq!(Single::current(), faster);
        }
        Single::Vectors.force();
    }
}
