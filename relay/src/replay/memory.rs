//! The tags of one key period in memory: four bytes each, with room to grow by a few.
//!
//! The upper half of a tag chooses one of many lists, the lower half stands in that list, in order. A list
//! grows alone and by little, so no moment copies all, and what is held is what is needed. A fresh tag is
//! taken for a known one if both halves agree: [`Memory::new`] takes so many lists that this happens to less
//! than one packet in a million, also when the memory is full.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Tags of 64 bits, which must look random: they are cut from the output of a hash.
#[derive(Debug)]
pub(super) struct Memory {
    /// As many as a power of two; each in ascending order.
    lists: Box<[Mutex<Vec<u32>>]>,
    count: AtomicUsize,
}

/// What a tag's list says before the tag is in it.
pub(super) struct Place<'a> {
    list: MutexGuard<'a, Vec<u32>>,
    at: usize,
    value: u32,
    count: &'a AtomicUsize,
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

    /// Where `tag` belongs, or `None` if it is in. No other tag of its list changes while the place is held.
    pub(super) fn place(&self, tag: u64) -> Option<Place<'_>> {
        let (index, value) = self.split(tag);
        let list = self.lists.get(index)?.lock().unwrap_or_else(PoisonError::into_inner);
        let at = list.binary_search(&value).err()?;
        Some(Place { list, at, value, count: &self.count })
    }

    /// Puts in all tags that `tags` yields when it is called, twice with the same result: the first time
    /// tells the length of each list, so that none is moved while it grows. An error ends it.
    pub(super) fn fill<E>(
        &mut self,
        mut tags: impl FnMut(&mut dyn FnMut(u64)) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut lengths = vec![0usize; self.lists.len()];
        tags(&mut |tag| {
            if let Some(length) = lengths.get_mut(self.split(tag).0) {
                *length += 1;
            }
        })?;
        for (list, length) in self.lists.iter_mut().zip(lengths) {
            list.get_mut().unwrap_or_else(PoisonError::into_inner).reserve_exact(length);
        }
        tags(&mut |tag| {
            let (index, value) = self.split(tag);
            if let Some(list) = self.lists.get_mut(index) {
                list.get_mut().unwrap_or_else(PoisonError::into_inner).push(value);
            }
        })?;
        for list in &mut self.lists {
            let list = list.get_mut().unwrap_or_else(PoisonError::into_inner);
            list.sort_unstable();
            list.dedup();
            *self.count.get_mut() += list.len();
        }
        Ok(())
    }

    fn split(&self, tag: u64) -> (usize, u32) {
        let [a, b, c, d, e, f, g, h] = tag.to_le_bytes();
        let index = u32::from_le_bytes([a, b, c, d]) as usize & (self.lists.len() - 1);
        (index, u32::from_le_bytes([e, f, g, h]))
    }
}

impl Place<'_> {
    /// Puts the tag in.
    pub(super) fn take(mut self) {
        let (at, value) = (self.at, self.value);
        if self.list.len() == self.list.capacity() {
            let more = (self.list.len() / GROWTH).max(SMALLEST);
            self.list.reserve_exact(more);
        }
        self.list.insert(at, value);
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

/// A full list's mean length. A fresh tag meets a stranger's value with a chance of this / 2^32: 4.8e-7.
const TAGS_PER_LIST: usize = 1 << 11;
/// A list grows by this fraction.
const GROWTH: usize = 16;
/// And by at least this many.
const SMALLEST: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::{Rng, SeedableRng};
    use std::convert::Infallible;

    fn random(seed: u64, count: usize) -> Vec<u64> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(|_| rng.next_u64()).collect()
    }

    #[test]
    fn a_tag_is_known_once_it_was_taken_and_no_other_is() {
        let memory = Memory::new(1 << 16);
        let tags = random(1, 1 << 16);
        for &tag in &tags {
            memory.place(tag).unwrap().take();
        }
        assert_eq!(memory.count(), 1 << 16);
        assert!(tags.iter().all(|&tag| memory.place(tag).is_none()));
        // Either half alone makes no known tag.
        for &tag in tags.iter().take(1_000) {
            assert!(memory.place(tag ^ 1).is_some() && memory.place(tag ^ 1 << 63).is_some());
        }
    }

    #[test]
    fn fresh_tags_are_rarely_taken_for_known_ones() {
        // The chance grows with the length of the lists alone, so that one full list tells it.
        let memory = Memory::new(TAGS_PER_LIST);
        for tag in random(2, TAGS_PER_LIST) {
            memory.place(tag).unwrap().take();
        }
        let mistaken = random(3, 4_000_000).iter().filter(|&&tag| memory.place(tag).is_none()).count();
        // 1.9 are expected; more than 12 come by chance once in a million runs, and the seed is fixed.
        assert!(mistaken <= 4, "{mistaken}");
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
        assert!(tags.iter().all(|&tag| filled.place(tag).is_none()));
        let others = random(5, 10_000);
        assert!(others.iter().all(|&tag| filled.place(tag).is_some()));
    }

    #[test]
    fn a_tag_costs_little_more_than_four_bytes() {
        let limit = 1 << 18;
        let memory = Memory::new(limit);
        for tag in random(6, limit) {
            memory.place(tag).unwrap().take();
        }
        let room: usize = memory.lists.iter().map(|list| list.lock().unwrap().capacity()).sum();
        assert!(room * 4 < limit * 9 / 2, "{} bytes a tag", room as f64 * 4.0 / limit as f64);
    }
}
