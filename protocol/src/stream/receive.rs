//! The receiving half of a stream: bytes in any order, read in order.

use super::ranges::RangeSet;
use crate::{Error, ErrorKind, Result};
use std::collections::VecDeque;

/// Bytes that arrived and wait to be read. Never more than the window.
#[derive(Debug)]
pub(super) struct ReceiveBuffer {
    /// From the read position on, with holes.
    bytes: VecDeque<u8>,
    /// The read position.
    read: u64,
    arrived: RangeSet,
    end: Option<u64>,
    window: u64,
    /// The limit that the peer was last told.
    announced: u64,
}

impl ReceiveBuffer {
    pub(super) fn new(window: u64) -> Self {
        Self {
            bytes: VecDeque::new(),
            read: 0,
            arrived: RangeSet::new(),
            end: None,
            window,
            announced: window,
        }
    }

    /// Takes a piece. An error if the peer went beyond its window or contradicts itself.
    pub(super) fn insert(&mut self, offset: u64, bytes: &[u8], last: bool) -> Result<()> {
        let end = offset.saturating_add(bytes.len() as u64);
        let contradiction = self.end.is_some_and(|known| end > known || (last && end != known))
            || (last && self.arrived.last().is_some_and(|range| range.end > end));
        if end > self.announced || contradiction {
            return Err(Error::new(ErrorKind::Malformed, "stream data beyond its bounds"));
        }
        if last {
            self.end = Some(end);
        }
        let skip = usize::try_from(self.read.saturating_sub(offset)).unwrap_or(usize::MAX);
        let Some(fresh) = bytes.get(skip..).filter(|fresh| !fresh.is_empty()) else { return Ok(()) };
        let start = end - fresh.len() as u64;
        let from = usize::try_from(start - self.read).unwrap_or(usize::MAX);
        if self.bytes.len() < from + fresh.len() {
            self.bytes.resize(from + fresh.len(), 0);
        }
        for (slot, byte) in self.bytes.range_mut(from..).zip(fresh) {
            *slot = *byte;
        }
        self.arrived.insert(start..end);
        Ok(())
    }

    /// Bytes that can be read now.
    pub(super) fn available(&self) -> usize {
        match self.arrived.iter().find(|range| range.end > self.read) {
            Some(range) if range.start <= self.read => {
                usize::try_from(range.end - self.read).unwrap_or(usize::MAX)
            }
            _ => 0,
        }
    }

    /// Moves readable bytes to `out`; how many.
    pub(super) fn read(&mut self, out: &mut [u8]) -> usize {
        let count = self.available().min(out.len()).min(self.bytes.len());
        for (slot, byte) in out.iter_mut().zip(self.bytes.drain(..count)) {
            *slot = byte;
        }
        self.read += count as u64;
        count
    }

    /// Everything up to the end has been read.
    pub(super) fn is_done(&self) -> bool {
        self.end == Some(self.read)
    }

    /// A limit worth telling the peer: a third of the window or more beyond what it knows.
    pub(super) fn window_update(&self) -> Option<u64> {
        let limit = self.read + self.window;
        (self.end.is_none() && limit >= self.announced + self.window / 3).then_some(limit)
    }

    /// The limit to tell the peer now.
    pub(super) fn announce(&mut self) -> u64 {
        self.announced = self.announced.max(self.read + self.window);
        self.announced
    }
}
