//! Sets of numbers as ranges: what has arrived, what is held, what must be sent again.

use crate::wire::{Reader, put_varint, varint_size};
use crate::{Error, ErrorKind, Result};
use std::ops::Range;

/// A set of numbers, kept as ascending ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    ranges: Vec<Range<u64>>,
}

impl RangeSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds all numbers of `range`.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        // All ranges that touch the new one become part of it.
        let from = self.ranges.partition_point(|old| old.end < range.start);
        let to = self.ranges.partition_point(|old| old.start <= range.end);
        let merged = self.ranges.get(from..to).unwrap_or_default().iter();
        let union = merged.fold(range, |union, old| union.start.min(old.start)..union.end.max(old.end));
        self.ranges.splice(from..to, [union]);
    }

    /// Adds one number; false if it was there.
    pub fn insert_one(&mut self, number: u64) -> bool {
        let new = !self.contains(number);
        self.insert(number..number.saturating_add(1));
        new
    }

    /// Takes all numbers of `range` out.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let from = self.ranges.partition_point(|old| old.end <= range.start);
        let to = self.ranges.partition_point(|old| old.start < range.end);
        let mut kept = Vec::new();
        for old in self.ranges.get(from..to).unwrap_or_default() {
            for part in [old.start..old.end.min(range.start), old.start.max(range.end)..old.end] {
                if !part.is_empty() {
                    kept.push(part);
                }
            }
        }
        self.ranges.splice(from..to, kept);
    }

    /// True if `number` is in the set.
    pub fn contains(&self, number: u64) -> bool {
        let index = self.ranges.partition_point(|range| range.end <= number);
        self.ranges.get(index).is_some_and(|range| range.contains(&number))
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + '_ {
        self.ranges.iter().cloned()
    }

    /// The lowest range.
    pub fn first(&self) -> Option<Range<u64>> {
        self.ranges.first().cloned()
    }

    /// The highest range.
    pub fn last(&self) -> Option<Range<u64>> {
        self.ranges.last().cloned()
    }

    /// How many ranges there are.
    pub fn count(&self) -> usize {
        self.ranges.len()
    }

    /// True if no number is in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Drops the lowest ranges until at most `count` are left, and says where the rest begins.
    pub fn keep_highest(&mut self, count: usize) -> u64 {
        let excess = self.ranges.len().saturating_sub(count);
        self.ranges.drain(..excess);
        self.ranges.first().map_or(0, |range| range.start)
    }

    /// Joins the lowest ranges until at most `count` are left: what lies between them counts as in the set.
    pub fn join_lowest(&mut self, count: usize) {
        let excess = self.ranges.len().saturating_sub(count.max(1));
        if let (Some(first), Some(last)) = (self.ranges.first().cloned(), self.ranges.get(excess).cloned()) {
            self.ranges.splice(..=excess, std::iter::once(first.start..last.end));
        }
    }

    /// Writes the highest ranges that fit into `room` bytes, highest first: their count, then for each the
    /// distance from its end down to its start, preceded by the end (first) or the gap (others).
    pub fn write(&self, out: &mut Vec<u8>, room: usize) {
        let mut parts = Vec::new();
        let mut used = 2; // the count
        let mut below: Option<u64> = None;
        for range in self.ranges.iter().rev() {
            let lead = match below {
                None => range.end,
                Some(below) => below - range.end,
            };
            let length = range.end - range.start;
            used += varint_size(lead) + varint_size(length);
            if used > room || parts.len() >= MAX_RANGES {
                break;
            }
            parts.push((lead, length));
            below = Some(range.start);
        }
        put_varint(out, parts.len() as u64);
        for (lead, length) in parts {
            put_varint(out, lead);
            put_varint(out, length);
        }
    }

    /// Reads what [`Self::write`] wrote. At most [`MAX_RANGES`] ranges.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let malformed = || Error::new(ErrorKind::Malformed, "ranges out of order");
        let count = reader.varint()?;
        if count > MAX_RANGES as u64 {
            return Err(Error::new(ErrorKind::Malformed, "too many ranges"));
        }
        let mut ranges = Vec::new();
        let mut below: Option<u64> = None;
        for _ in 0..count {
            let lead = reader.varint()?;
            let length = reader.varint()?;
            let end = match below {
                None => lead,
                Some(below) if lead > 0 => below.checked_sub(lead).ok_or_else(malformed)?,
                Some(_) => return Err(malformed()),
            };
            let start = end.checked_sub(length).filter(|&start| start < end).ok_or_else(malformed)?;
            ranges.push(start..end);
            below = Some(start);
        }
        ranges.reverse();
        Ok(Self { ranges })
    }
}

/// Most ranges that travel in one frame.
pub const MAX_RANGES: usize = 256;
/// What a range costs in memory.
pub(crate) const RANGE_COST: usize = size_of::<Range<u64>>();

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_range_set_is_the_set_of_its_numbers(
            steps in proptest::collection::vec((any::<bool>(), 0u64..60, 0u64..12), 0..60)
        ) {
            let (mut ranges, mut numbers) = (RangeSet::new(), BTreeSet::new());
            for (insert, start, length) in steps {
                if insert {
                    ranges.insert(start..start + length);
                    numbers.extend(start..start + length);
                } else {
                    ranges.remove(start..start + length);
                    numbers.retain(|n| !(start..start + length).contains(n));
                }
                prop_assert!(ranges.ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
                prop_assert!((0..80).all(|n| ranges.contains(n) == numbers.contains(&n)));
            }
            let mut bytes = Vec::new();
            ranges.write(&mut bytes, usize::MAX);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(RangeSet::read(&mut reader), Ok(ranges));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_make_a_disordered_set(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(set) = RangeSet::read(&mut Reader::new(&bytes)) {
                prop_assert!(set.ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
            }
        }
    }

    #[test]
    fn the_lowest_ranges_are_joined_when_there_are_too_many() {
        let mut set = RangeSet::new();
        for n in 0..100 {
            set.insert_one(n * 3);
            set.join_lowest(10);
        }
        assert_eq!((set.count(), set.first()), (10, Some(0..271)));
        set.join_lowest(10);
        assert_eq!(set.count(), 10);
        assert!(set.contains(297) && !set.contains(296));
    }

    #[test]
    fn a_tight_room_keeps_the_highest_ranges() {
        let mut set = RangeSet::new();
        for n in 0..100 {
            set.insert_one(n * 3);
        }
        let mut bytes = Vec::new();
        set.write(&mut bytes, 24);
        assert!(bytes.len() <= 24);
        let read = RangeSet::read(&mut Reader::new(&bytes)).unwrap();
        assert!(read.contains(297) && read.contains(294) && !read.contains(0));
    }
}
