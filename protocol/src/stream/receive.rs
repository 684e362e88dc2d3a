//! The receiving half of a stream: bytes in any order, read in order.

use crate::{Error, ErrorKind, Result};
use std::collections::BTreeMap;

/// Bytes that arrived and wait to be read, as pieces: holes cost nothing, so memory follows what was
/// received and not where a peer says that it belongs.
#[derive(Debug)]
pub(super) struct ReceiveBuffer {
    /// By offset; they neither overlap nor are empty. Only the first may reach below the read position.
    pieces: BTreeMap<u64, Vec<u8>>,
    /// What the pieces cost.
    held: usize,
    /// The read position.
    read: u64,
    /// All before this has arrived.
    whole: u64,
    /// The end of the highest piece that ever arrived.
    highest: u64,
    end: Option<u64>,
    window: u64,
    /// The limit that the peer was last told, or knows without being told.
    announced: u64,
}

impl ReceiveBuffer {
    pub(super) fn new(window: u64) -> Self {
        Self {
            pieces: BTreeMap::new(),
            held: 0,
            read: 0,
            whole: 0,
            highest: 0,
            end: None,
            window,
            announced: window,
        }
    }

    /// The peer may from now on send up to `window` bytes ahead, and knows it.
    pub(super) fn widen(&mut self, window: u64) {
        self.window = self.window.max(window);
        self.announced = self.announced.max(window);
    }

    /// Takes a piece.
    ///
    /// Errors: [`ErrorKind::Malformed`] if the peer went beyond its window or contradicts itself;
    /// [`ErrorKind::Exhausted`] above [`MAX_PIECES`].
    pub(super) fn insert(&mut self, offset: u64, bytes: &[u8], last: bool) -> Result<()> {
        let end = offset.saturating_add(bytes.len() as u64);
        let contradiction = self.end.is_some_and(|known| end > known || (last && end != known))
            || (last && self.highest > end);
        if end > self.announced || contradiction {
            return Err(Error::new(ErrorKind::Malformed, "stream data beyond its bounds"));
        }
        if last {
            self.end = Some(end);
        }
        self.highest = self.highest.max(end);
        // What was sent again may be cut otherwise than at first: only what is missing is kept.
        let mut at = offset.max(self.read);
        while at < end {
            if let Some(covered) = self.end_of_piece_at(at) {
                at = covered;
                continue;
            }
            let next = self.pieces.range(at..).next().map_or(end, |(start, _)| (*start).min(end));
            let part = |position: u64| usize::try_from(position - offset).unwrap_or(usize::MAX);
            self.store(at, bytes.get(part(at)..part(next)).unwrap_or_default());
            if self.pieces.len() > MAX_PIECES {
                return Err(Error::new(ErrorKind::Exhausted, "stream in too many pieces"));
            }
            at = next;
        }
        while let Some(covered) = self.end_of_piece_at(self.whole) {
            self.whole = covered;
        }
        Ok(())
    }

    /// The end of the piece that has the byte at this offset.
    fn end_of_piece_at(&self, at: u64) -> Option<u64> {
        let (start, piece) = self.pieces.range(..=at).next_back()?;
        Some(start + piece.len() as u64).filter(|&end| end > at)
    }

    /// Keeps bytes that are missing: in one piece with a neighbour while that stays small.
    fn store(&mut self, at: u64, bytes: &[u8]) {
        let mut start = at;
        let mut piece = Vec::new();
        if let Some((&before, neighbour)) = self.pieces.range(..at).next_back()
            && before + neighbour.len() as u64 == at
            && neighbour.len() + bytes.len() <= MERGED
        {
            start = before;
            piece = self.take(before);
        }
        piece.extend_from_slice(bytes);
        let end = at + bytes.len() as u64;
        if self.pieces.get(&end).is_some_and(|neighbour| piece.len() + neighbour.len() <= MERGED) {
            piece.append(&mut self.take(end));
        }
        self.held += piece.capacity() + PIECE_COST;
        self.pieces.insert(start, piece);
    }

    fn take(&mut self, start: u64) -> Vec<u8> {
        let piece = self.pieces.remove(&start).unwrap_or_default();
        self.held -= piece.capacity() + PIECE_COST;
        piece
    }

    /// Bytes that can be read now.
    pub(super) fn available(&self) -> usize {
        usize::try_from(self.whole.saturating_sub(self.read)).unwrap_or(usize::MAX)
    }

    /// What the buffer costs in memory, about.
    pub(super) fn held(&self) -> usize {
        self.held + if self.pieces.is_empty() { 0 } else { MAP_COST }
    }

    /// Throws away what has not been read, for a stream that is cut off.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.held = 0;
        self.whole = self.read;
    }

    /// Moves readable bytes to `out`; how many.
    pub(super) fn read(&mut self, out: &mut [u8]) -> usize {
        let wanted = self.available().min(out.len());
        let mut count = 0;
        while count < wanted {
            let Some((&start, piece)) = self.pieces.first_key_value() else { break };
            let skip = usize::try_from(self.read - start).unwrap_or(usize::MAX);
            let rest = piece.get(skip..).unwrap_or_default();
            let moved = rest.len().min(wanted - count);
            for (slot, byte) in out.iter_mut().skip(count).zip(rest) {
                *slot = *byte;
            }
            if moved == rest.len() {
                self.take(start);
            }
            count += moved;
            self.read += moved as u64;
        }
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

/// Pieces of one stream at a time. A full window needs 2048 at most, when no two are small enough to be one; the rest
/// is for holes.
const MAX_PIECES: usize = 4096;
/// Neighbours become one piece up to this size, so that small ones do not add up.
const MERGED: usize = 4096;
/// What a piece costs beside its bytes, at the most: its place in a half empty node of the map, and the
/// allocator's share.
const PIECE_COST: usize = 112;
/// What a map costs that is not empty: a whole node.
const MAP_COST: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_window_whose_first_packet_is_missing_is_no_reason_to_give_up_however_small_packets_are() {
        // Two pieces of this size are too large for one.
        let piece = vec![7; MERGED / 2 + 1];
        let window = super::super::RECEIVE_WINDOW;
        let mut buffer = ReceiveBuffer::new(window);
        let count = window / piece.len() as u64;
        (1..count).for_each(|n| buffer.insert(n * piece.len() as u64, &piece, false).unwrap());
        assert_eq!(buffer.available(), 0);
        buffer.insert(0, &piece, false).unwrap();
        assert_eq!(buffer.available() as u64, count * piece.len() as u64);
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_and_overlap_are_read_in_order_once(
            parts in proptest::collection::vec((0usize..400, 0usize..90), 0..80),
            reads in proptest::collection::vec(0usize..50, 80),
        ) {
            let content: Vec<u8> = (0..500usize).map(|n| (n * 7 % 251) as u8).collect();
            let mut buffer = ReceiveBuffer::new(1000);
            let (mut arrived, mut out) = (vec![false; 500], Vec::new());
            for ((from, length), read) in parts.into_iter().zip(reads) {
                buffer.insert(from as u64, &content[from..from + length], false).unwrap();
                arrived[from..from + length].fill(true);
                let whole = arrived.iter().take_while(|&&here| here).count();
                prop_assert_eq!(buffer.available(), whole - out.len());
                let mut bytes = vec![0; read];
                let count = buffer.read(&mut bytes);
                prop_assert_eq!(count, read.min(whole - out.len()));
                out.extend(&bytes[..count]);
                let cost: usize = buffer.pieces.values().map(|piece| piece.capacity() + PIECE_COST).sum();
                prop_assert_eq!(buffer.held, cost);
            }
            prop_assert!(content.starts_with(&out));
        }
    }

    #[test]
    fn memory_follows_what_was_received_and_not_its_offset() {
        let mut buffer = ReceiveBuffer::new(1 << 20);
        buffer.insert((1 << 20) - 1, b"x", false).unwrap();
        assert!(buffer.held() < 600, "{}", buffer.held());
    }

    #[test]
    fn small_pieces_side_by_side_become_one() {
        let mut buffer = ReceiveBuffer::new(1 << 20);
        // Every other byte of a part, then the part backwards: joined on both sides.
        for part in [0..2000, 2000..4000] {
            for offset in part.clone().step_by(2).chain(part.rev()) {
                buffer.insert(offset, b"x", false).unwrap();
            }
        }
        assert_eq!((buffer.available(), buffer.pieces.len()), (4000, 1));
    }

    #[test]
    fn a_stream_in_too_many_pieces_is_refused() {
        let mut buffer = ReceiveBuffer::new(1 << 20);
        for n in 0..MAX_PIECES as u64 {
            buffer.insert(n * 3, b"x", false).unwrap();
        }
        let error = buffer.insert(MAX_PIECES as u64 * 3, b"x", false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
    }
}
