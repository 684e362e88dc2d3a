//! The tags of one key period in memory: three bytes each and a little, packed, with room to grow by a few.
//!
//! The lower half of a tag chooses one of many lists, seven bits of the next byte one of the list's buckets, and the
//! last three bytes stand in that bucket. A list is one piece of memory: how many each bucket has, then what they have,
//! bucket after bucket. It grows alone and by a bounded step, so no moment copies all, and what is held is what is
//! needed. A fresh tag is taken for a known one if all of it agrees: [`Memory::new`] takes so many lists that this
//! happens to less than one packet in a million, also when the memory is full.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Tags of 64 bits, which must look random: they are cut from the output of a hash.
#[derive(Debug)]
pub(super) struct Memory {
    /// As many as a power of two.
    lists: Box<[Mutex<List>]>,
    count: AtomicUsize,
}

/// What a tag's list says before the tag is in it.
pub(super) enum Found<'a> {
    /// It is in.
    Known,
    /// It is not, and may go here.
    Fresh(Place<'a>),
    /// It is not, and there is no place: its bucket has sixteen times what chance puts there. Whoever knows a
    /// packet's secret knows its tag, and can make packets until some fall into one bucket.
    Crowded,
}

/// Where a tag goes. No other tag of its list changes while the place is held.
pub(super) struct Place<'a> {
    list: MutexGuard<'a, List>,
    split: Split,
    count: &'a AtomicUsize,
}

/// Bytes, or none at all: the number of tags in each bucket, then those of the first bucket, of the second, and so
/// on.
#[derive(Debug, Default)]
struct List(Vec<u8>);

/// A tag's parts.
#[derive(Clone, Copy)]
struct Split {
    list: usize,
    bucket: usize,
    rest: [u8; REST],
}

impl Memory {
    /// An empty memory for `limit` tags. It does not enforce the limit.
    pub(super) fn new(limit: usize) -> Self {
        let lists = limit.div_ceil(TAGS_PER_LIST).next_power_of_two();
        Self { lists: (0..lists).map(|_| Mutex::default()).collect(), count: AtomicUsize::new(0) }
    }

    /// How many tags are in.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Looks for `tag`.
    pub(super) fn find(&self, tag: u64) -> Found<'_> {
        let split = self.split(tag);
        let Some(list) = self.lists.get(split.list) else { return Found::Crowded };
        let list = list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.has(split) {
            Found::Known
        } else if list.length_of(split.bucket) == u8::MAX {
            Found::Crowded
        } else {
            Found::Fresh(Place { list, split, count: &self.count })
        }
    }

    /// Puts in all tags that `tags` yields when it is called, twice with the same result: the first time tells
    /// the length of each bucket, so that no list moves while it is filled. An error ends it.
    pub(super) fn fill<E>(
        &mut self,
        mut tags: impl FnMut(&mut dyn FnMut(u64)) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut lengths = vec![0u8; self.lists.len() * BUCKETS];
        tags(&mut |tag| {
            let Split { list, bucket, .. } = self.split(tag);
            if let Some(length) = lengths.get_mut(list * BUCKETS + bucket) {
                // More than fit were never taken.
                *length = length.saturating_add(1);
            }
        })?;
        // Where the next tag of each bucket goes, in its list.
        let mut next = vec![0u16; lengths.len()];
        let by_list = lengths.chunks_exact(BUCKETS).zip(next.chunks_exact_mut(BUCKETS));
        for (list, (lengths, next)) in self.lists.iter_mut().zip(by_list) {
            let mut before = 0;
            for (next, &length) in next.iter_mut().zip(lengths) {
                *next = before;
                before += u16::from(length);
            }
            list.get_mut().unwrap_or_else(PoisonError::into_inner).prepare(lengths, usize::from(before));
        }
        drop(lengths);
        tags(&mut |tag| {
            let split = self.split(tag);
            if let Some(list) = self.lists.get_mut(split.list)
                && let Some(next) = next.get_mut(split.list * BUCKETS + split.bucket)
            {
                list.get_mut().unwrap_or_else(PoisonError::into_inner).put(usize::from(*next), split.rest);
                *next += 1;
            }
        })?;
        for list in &mut self.lists {
            let list = list.get_mut().unwrap_or_else(PoisonError::into_inner);
            list.leave_each_once();
            *self.count.get_mut() += list.count();
        }
        Ok(())
    }

    fn split(&self, tag: u64) -> Split {
        let [a, b, c, d, bucket, rest @ ..] = tag.to_le_bytes();
        let list = u32::from_le_bytes([a, b, c, d]) as usize & (self.lists.len() - 1);
        Split { list, bucket: usize::from(bucket) % BUCKETS, rest }
    }
}

impl Place<'_> {
    /// Puts the tag in.
    pub(super) fn take(mut self) {
        self.list.insert(self.split);
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

impl List {
    fn length_of(&self, bucket: usize) -> u8 {
        self.0.get(bucket).copied().unwrap_or(0)
    }

    /// All tags.
    fn count(&self) -> usize {
        self.before(BUCKETS)
    }

    /// Tags in the buckets before this one.
    fn before(&self, bucket: usize) -> usize {
        let lengths = self.0.get(..bucket).unwrap_or_default();
        lengths.iter().map(|&length| u32::from(length)).sum::<u32>() as usize
    }

    fn has(&self, Split { bucket, rest, .. }: Split) -> bool {
        self.bucket(bucket).contains(&rest)
    }

    /// Becomes a list of so many tags in each bucket, `tags` in all, which are to be put.
    fn prepare(&mut self, lengths: &[u8], tags: usize) {
        if tags > 0 {
            self.0.reserve_exact(BUCKETS + REST * tags);
            self.0.extend_from_slice(lengths);
            self.0.resize(BUCKETS + REST * tags, 0);
        }
    }

    /// Puts a tag at its place among all of the list.
    fn put(&mut self, at: usize, rest: [u8; REST]) {
        let start = BUCKETS + REST * at;
        if let Some(place) = self.0.get_mut(start..start + REST) {
            place.copy_from_slice(&rest);
        }
    }

    /// The tags of a bucket.
    fn bucket(&self, bucket: usize) -> &[[u8; REST]] {
        let start = BUCKETS + REST * self.before(bucket);
        let end = start + REST * usize::from(self.length_of(bucket));
        self.0.get(start..end).unwrap_or_default().as_chunks().0
    }

    /// Takes out tags that were put in twice.
    fn leave_each_once(&mut self) {
        let mut start = BUCKETS;
        let doubled = self.0.get(..BUCKETS).unwrap_or_default().iter().any(|&length| {
            let end = start + REST * usize::from(length);
            let tags = self.0.get(start..end).unwrap_or_default().as_chunks::<REST>().0;
            start = end;
            tags.iter().enumerate().any(|(number, tag)| tags.iter().take(number).any(|other| other == tag))
        });
        if doubled {
            let before = std::mem::take(self);
            for bucket in 0..BUCKETS {
                for &rest in before.bucket(bucket) {
                    let split = Split { list: 0, bucket, rest };
                    if !self.has(split) {
                        self.insert(split);
                    }
                }
            }
        }
    }

    /// Puts a tag in, which is not in and for which there is room.
    fn insert(&mut self, Split { bucket, rest, .. }: Split) {
        if self.0.is_empty() {
            self.0.reserve_exact(BUCKETS + STEP);
            self.0.resize(BUCKETS, 0);
        }
        if self.0.capacity() - self.0.len() < REST {
            self.0.reserve_exact(STEP);
        }
        let at = BUCKETS + REST * self.before(bucket + 1);
        let end = self.0.len();
        self.0.extend_from_slice(&rest);
        self.0.copy_within(at..end, at + REST);
        if let Some(place) = self.0.get_mut(at..at + REST) {
            place.copy_from_slice(&rest);
        }
        if let Some(length) = self.0.get_mut(bucket) {
            *length += 1;
        }
    }
}

/// A full list's mean length. With [`BUCKETS`] and [`REST`], a fresh tag meets a stranger's with a chance of 2^11 /
/// 2^7 / 2^24: 9.5e-7.
const TAGS_PER_LIST: usize = 1 << 11;
/// Each costs a byte, whether there are tags in it or not.
const BUCKETS: usize = 1 << 7;
/// Bytes of a tag that are kept.
const REST: usize = 3;
/// A list grows by so many bytes, which is five tags, and the least by which the system's allocator grows anything:
/// with larger steps more is left between lists that have grown past it.
const STEP: usize = 5 * REST;

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::{Rng, SeedableRng};
    use std::convert::Infallible;

    fn random(seed: u64, count: usize) -> Vec<u64> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(|_| rng.next_u64()).collect()
    }

    fn is_known(memory: &Memory, tag: u64) -> bool {
        matches!(memory.find(tag), Found::Known)
    }

    /// True if the tag is fresh, and is in now.
    fn take(memory: &Memory, tag: u64) -> bool {
        match memory.find(tag) {
            Found::Fresh(place) => {
                place.take();
                true
            }
            Found::Known | Found::Crowded => false,
        }
    }

    #[test]
    fn a_tag_is_known_once_it_was_taken_and_no_other_is() {
        let memory = Memory::new(1 << 16);
        let tags = random(1, 1 << 16);
        assert!(tags.iter().all(|&tag| take(&memory, tag)));
        assert_eq!(memory.count(), 1 << 16);
        assert!(tags.iter().all(|&tag| is_known(&memory, tag)));
        // List, bucket or rest alone make no known tag.
        for &tag in tags.iter().take(1_000) {
            assert!([1, 1 << 32, 1 << 40, 1 << 63].iter().all(|bit| !is_known(&memory, tag ^ bit)));
        }
    }

    #[test]
    fn fresh_tags_are_rarely_taken_for_known_ones() {
        // The chance grows with the length of the lists alone, so that one full list tells it.
        let memory = Memory::new(TAGS_PER_LIST);
        assert!(random(2, TAGS_PER_LIST).iter().all(|&tag| take(&memory, tag)));
        let mistaken = random(3, 8_000_000).iter().filter(|&&tag| is_known(&memory, tag)).count();
        // 7.6 are expected, and the seed is fixed.
        assert!((1..=12).contains(&mistaken), "{mistaken}");
    }

    #[test]
    fn what_is_filled_in_is_what_would_have_been_taken_one_by_one() {
        let tags = random(4, 10_000);
        let mut filled = Memory::new(1 << 14);
        filled
            .fill(|each| {
                // A log may hold a tag twice, if its process died between two writes.
                tags.iter().chain(&tags[..10]).for_each(|&tag| each(tag));
                Ok::<(), Infallible>(())
            })
            .unwrap();
        assert_eq!(filled.count(), tags.len());
        assert!(tags.iter().all(|&tag| is_known(&filled, tag)));
        let others = random(5, 10_000);
        assert!(others.iter().all(|&tag| take(&filled, tag)));
        assert!(tags.iter().chain(&others).all(|&tag| is_known(&filled, tag)));
    }

    #[test]
    fn who_makes_tags_for_one_bucket_fills_that_and_no_other() {
        let memory = Memory::new(1 << 16);
        let tag = |number: u64| 7 | 9 << 32 | number << 40;
        assert!((0..255).all(|number| take(&memory, tag(number))));
        assert!(matches!(memory.find(tag(255)), Found::Crowded));
        assert!((0..255).all(|number| is_known(&memory, tag(number))));
        let neighbours = [tag(255) ^ 1, tag(255) ^ 1 << 32];
        assert!(neighbours.iter().all(|&tag| take(&memory, tag)));
        assert_eq!(memory.count(), 257);
    }

    #[test]
    fn a_tag_costs_little_more_than_three_bytes() {
        let limit = 1 << 18;
        let memory = Memory::new(limit);
        assert!(random(6, limit).iter().all(|&tag| take(&memory, tag)));
        let room: usize = memory.lists.iter().map(|list| list.lock().unwrap().0.capacity()).sum();
        // The allocator's share is measured by `scripts/bench relay`.
        assert!(room * 10 < limit * 32, "{} bytes a tag", room as f64 / limit as f64);
    }
}
