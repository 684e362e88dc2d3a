//! The sending half of a stream: bytes until they are acknowledged.

use super::ranges::{RANGE_COST, RangeSet};
use std::collections::VecDeque;
use std::ops::Range;

/// Bytes to send, in flight, or to send again.
#[derive(Debug)]
pub(super) struct SendBuffer {
    bytes: VecDeque<u8>,
    /// Offset of the first byte kept: all before it is acknowledged.
    base: u64,
    /// Offset of the first byte never sent.
    next: u64,
    acked: RangeSet,
    again: RangeSet,
    /// The peer allows bytes before this offset.
    limit: u64,
    capacity: usize,
    end: End,
}

/// Where the end of the stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    Queued,
    InFlight,
    Acked,
}

/// A piece to put into a packet.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) last: bool,
}

impl SendBuffer {
    pub(super) fn new(capacity: usize, limit: u64) -> Self {
        Self {
            bytes: VecDeque::new(),
            base: 0,
            next: 0,
            acked: RangeSet::new(),
            again: RangeSet::new(),
            limit,
            capacity,
            end: End::Open,
        }
    }

    /// Takes as much of `bytes` as fits.
    pub(super) fn write(&mut self, bytes: &[u8]) -> usize {
        if self.end != End::Open {
            return 0;
        }
        let count = bytes.len().min(self.room());
        if self.bytes.len() + count > self.bytes.capacity() {
            self.bytes.reserve_exact(count + (self.bytes.len() + count) / 4);
        }
        self.bytes.extend(bytes.iter().take(count));
        count
    }

    /// Bytes that [`Self::write`] would take.
    pub(super) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.bytes.len())
    }

    /// Bytes that are kept.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What the buffer costs in memory, about.
    pub(super) fn held(&self) -> usize {
        self.bytes.capacity() + (self.acked.count() + self.again.count()) * RANGE_COST
    }

    /// Throws everything away, for a stream that is cut off.
    pub(super) fn clear(&mut self) {
        self.bytes = VecDeque::new();
        self.acked = RangeSet::new();
        self.again = RangeSet::new();
        self.base = self.next;
    }

    pub(super) fn finish(&mut self) {
        if self.end == End::Open {
            self.end = End::Queued;
        }
    }

    pub(super) fn raise_limit(&mut self, limit: u64) {
        self.limit = self.limit.max(limit);
    }

    /// Bytes that may be sent now.
    pub(super) fn pending(&self) -> u64 {
        let again: u64 = self.again.iter().map(|range| range.end - range.start).sum();
        again + self.written().min(self.limit).saturating_sub(self.next)
    }

    /// True if there is something to send, be it only the end.
    pub(super) fn wants_to_send(&self) -> bool {
        self.pending() > 0 || (self.end == End::Queued && self.next == self.written())
    }

    /// Something was sent, be it only the end.
    pub(super) fn has_begun(&self) -> bool {
        self.next > 0 || matches!(self.end, End::InFlight | End::Acked)
    }

    /// Everything has arrived, the end included.
    pub(super) fn is_done(&self) -> bool {
        self.end == End::Acked && self.bytes.is_empty()
    }

    /// The next piece of at most `room` bytes: what was lost first, then what is new.
    pub(super) fn take(&mut self, room: usize) -> Option<Piece> {
        let room = room as u64;
        let range = match self.again.first() {
            Some(lost) => lost.start..lost.end.min(lost.start + room),
            None => self.next..self.written().min(self.limit).min(self.next + room).max(self.next),
        };
        let ends = range.end == self.written() && self.end != End::Open;
        if range.is_empty() && !(ends && self.end == End::Queued) {
            return None;
        }
        if ends && self.end == End::Queued {
            self.end = End::InFlight;
        }
        self.again.remove(range.clone());
        self.next = self.next.max(range.end);
        Some(Piece { offset: range.start, bytes: self.copy(&range), last: ends })
    }

    /// The piece arrived.
    pub(super) fn acked(&mut self, range: Range<u64>, last: bool) {
        if last {
            self.end = End::Acked;
        }
        self.again.remove(range.clone());
        self.acked.insert(range.start.max(self.base)..range.end);
        if let Some(first) = self.acked.first().filter(|first| first.start <= self.base) {
            let count = usize::try_from(first.end - self.base).unwrap_or(usize::MAX);
            self.bytes.drain(..count.min(self.bytes.len()));
            self.base = first.end;
            self.acked.remove(0..first.end);
            // Memory goes back, but not at every piece.
            if self.bytes.capacity() > SPARE && self.bytes.len() < self.bytes.capacity() / 4 {
                self.bytes.shrink_to(self.bytes.len() * 2);
            }
        }
    }

    /// The piece is lost: it is sent again, except for what arrived otherwise.
    pub(super) fn lost(&mut self, range: Range<u64>, last: bool) {
        if last && self.end == End::InFlight {
            self.end = End::Queued;
        }
        self.again.insert(range.start.max(self.base)..range.end);
        for acked in self.acked.iter() {
            self.again.remove(acked);
        }
    }

    /// Offset after the last byte written.
    fn written(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    fn copy(&self, range: &Range<u64>) -> Vec<u8> {
        let from = usize::try_from(range.start.saturating_sub(self.base)).unwrap_or(usize::MAX);
        let to = usize::try_from(range.end.saturating_sub(self.base)).unwrap_or(usize::MAX);
        let to = to.min(self.bytes.len());
        self.bytes.range(from.min(to)..to).copied().collect()
    }
}

/// A buffer of this size stays though it is nearly empty.
const SPARE: usize = 16 * 1024;
