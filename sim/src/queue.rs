//! Events in the order of their moments.
//!
//! A calendar: events of the near future lie unsorted in short stretches of time, and only the stretch that is
//! under way is a heap. With millions of events a single heap misses the cache at each of its levels; here each
//! event is moved three times, whatever their number. Ties come in the order in which they were put in, so runs
//! are alike to the bit.

use mizzle_protocol::time::Instant;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The events to come.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    /// The stretch under way, and what is due before it.
    now: BinaryHeap<Reverse<Entry<T>>>,
    /// Its number since time zero.
    stretch: u64,
    /// The stretches that follow, each at its number modulo their count.
    near: Vec<Vec<Entry<T>>>,
    /// Events in them.
    in_near: usize,
    /// What is beyond all of them.
    far: BinaryHeap<Reverse<Entry<T>>>,
    pushed: u64,
}

#[derive(Debug)]
struct Entry<T> {
    due: u64,
    order: u64,
    event: T,
}

impl<T> Queue<T> {
    /// No events; none will be put in before `start`.
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            now: BinaryHeap::new(),
            stretch: start.as_nanos() >> STRETCH,
            near: (0..STRETCHES).map(|_| Vec::new()).collect(),
            in_near: 0,
            far: BinaryHeap::new(),
            pushed: 0,
        }
    }

    /// Puts an event in.
    pub(crate) fn push(&mut self, due: Instant, event: T) {
        self.pushed += 1;
        self.place(Entry { due: due.as_nanos(), order: self.pushed, event });
    }

    /// Takes the next event that is due at `end` or before.
    pub(crate) fn pop(&mut self, end: Instant) -> Option<(Instant, T)> {
        self.turn_to_next();
        if self.now.peek()?.0.due > end.as_nanos() {
            return None;
        }
        self.now.pop().map(|Reverse(entry)| (Instant::from_nanos(entry.due), entry.event))
    }

    /// All events, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let heaps = self.now.iter().chain(&self.far).map(|Reverse(entry)| entry);
        heaps.chain(self.near.iter().flatten()).map(|entry| &entry.event)
    }

    /// How many have been put in, from the start.
    pub(crate) fn pushed(&self) -> u64 {
        self.pushed
    }

    fn place(&mut self, entry: Entry<T>) {
        let stretch = entry.due >> STRETCH;
        if stretch <= self.stretch {
            self.now.push(Reverse(entry));
        } else if stretch - self.stretch < STRETCHES {
            if let Some(entries) = self.near.get_mut((stretch % STRETCHES) as usize) {
                entries.push(entry);
                self.in_near += 1;
            }
        } else {
            self.far.push(Reverse(entry));
        }
    }

    /// Goes on until the stretch under way has an event, if there is any.
    fn turn_to_next(&mut self) {
        while self.now.is_empty() {
            self.stretch = match (self.in_near, self.far.peek()) {
                (0, None) => return,
                // Nothing until then.
                (0, Some(Reverse(first))) => first.due >> STRETCH,
                _ => self.stretch + 1,
            };
            if let Some(entries) = self.near.get_mut((self.stretch % STRETCHES) as usize) {
                self.in_near -= entries.len();
                self.now.extend(entries.drain(..).map(Reverse));
            }
            while self.far.peek().is_some_and(|first| (first.0.due >> STRETCH) < self.stretch + STRETCHES) {
                let Some(Reverse(entry)) = self.far.pop() else { break };
                self.place(entry);
            }
        }
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.order) == (other.due, other.order)
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

/// A stretch is so many bits of nanoseconds long: 65 µs.
const STRETCH: u32 = 16;
/// Stretches: 2.1 s together, so that slots and delays seldom lie beyond.
const STRETCHES: u64 = 1 << 15;

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::{Rng, SeedableRng};
    use std::time::Duration;

    const END: Instant = Instant::from_nanos(u64::MAX);

    #[test]
    fn events_come_in_order_whatever_their_distance_and_ties_as_they_were_put_in() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let start = Instant::from_nanos(1_800_000_000_000_000_000);
        let mut queue = Queue::new(start);
        let (mut now, mut expected, mut number) = (start, Vec::new(), 0u64);
        let mut taken = Vec::new();
        for _ in 0..20_000 {
            // From nothing at all to an hour ahead; often the same moment twice.
            let ahead = Duration::from_nanos((rng.next_u64() % 8) << (rng.next_u64() % 39));
            for _ in 0..1 + rng.next_u64() % 2 {
                number += 1;
                expected.push((now + ahead, number));
                queue.push(now + ahead, number);
            }
            if !rng.next_u64().is_multiple_of(3)
                && let Some((due, event)) = queue.pop(END)
            {
                assert!(due >= now);
                now = due;
                taken.push((due, event));
            }
        }
        assert_eq!(queue.iter().count(), expected.len() - taken.len());
        while let Some((due, event)) = queue.pop(END) {
            taken.push((due, event));
        }
        assert_eq!(taken.len(), expected.len());
        assert!(taken.windows(2).all(|pair| pair[0] < pair[1]), "out of order");
        expected.sort_unstable();
        taken.sort_unstable();
        assert_eq!(taken, expected);
    }

    #[test]
    fn nothing_is_taken_before_it_is_due() {
        let mut queue = Queue::new(Instant::ZERO);
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        queue.push(at(100), 'b');
        assert_eq!(queue.pop(at(99)), None);
        queue.push(at(50), 'a');
        assert_eq!(queue.pop(at(99)), Some((at(50), 'a')));
        assert_eq!(queue.pop(at(100)), Some((at(100), 'b')));
        assert_eq!((queue.pop(END), queue.pushed()), (None, 2));
    }
}
