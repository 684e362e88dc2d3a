//! Frames: what session packets are made of, in both directions.
//!
//! ```text
//! 0 padding     all that follows is zero
//! 1 ack         ranges of packet numbers that arrived here
//! 2 surbs       first number · count 1 · (period hint 1 · SURB 396) each         client only
//! 3 held        ranges of SURB numbers that the service still holds              service only
//! 4 lost        ranges of reply numbers that the client gave up waiting for      client only
//! 5 open        stream · target                                                  client only
//! 6 connected   stream                                                           service only
//! 7 data        stream · offset · length · bytes        8 the same, and the stream's last
//! 9 window      stream · offset up to which the peer may send
//! 10 reset      stream · reason 1
//! 11 rate       sequence · replies per 1000 seconds                              client only
//! 12 share      ephemeral X25519 share 32
//! 13 datagram   flow · target · length · bytes
//! 14 close      the session ends
//! ```
//! Numbers without a size are variable-length integers.

use super::target::Target;
use super::{Reader, put_varint};
use crate::geometry::SURB_SIZE;
use crate::id::StreamId;
use crate::stream::{RangeSet, ResetReason};
use crate::{Error, ErrorKind, Result};

/// Bytes of a SURB with its key period's hint.
pub const HINTED_SURB_SIZE: usize = 1 + SURB_SIZE;
/// Most bytes that a data frame needs beside its data.
pub const DATA_OVERHEAD: usize = 1 + 4 + 8 + 2;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Packet numbers that arrived.
    Ack(RangeSet),
    /// Consecutively numbered SURBs, [`HINTED_SURB_SIZE`] bytes each.
    Surbs {
        /// Number of the first.
        first: u64,
        /// All of them.
        surbs: &'a [u8],
    },
    /// SURB numbers that the service holds.
    Held(RangeSet),
    /// Reply numbers whose frames must be sent again.
    Lost(RangeSet),
    /// Opens a stream.
    Open {
        /// Chosen by the client.
        stream: StreamId,
        /// Where it goes.
        target: Target,
    },
    /// The stream's target accepted the connection.
    Connected(StreamId),
    /// Bytes of a stream.
    Data {
        /// The stream.
        stream: StreamId,
        /// Position of the first byte.
        offset: u64,
        /// Nothing follows these bytes.
        last: bool,
        /// May be empty.
        bytes: &'a [u8],
    },
    /// Flow control.
    Window {
        /// The stream.
        stream: StreamId,
        /// The peer may send bytes before this offset.
        limit: u64,
    },
    /// The stream ends at once, both ways.
    Reset {
        /// The stream.
        stream: StreamId,
        /// Why.
        reason: ResetReason,
    },
    /// How fast the service shall burn SURBs.
    Rate {
        /// The highest sequence holds.
        sequence: u64,
        /// Replies per 1000 seconds.
        per_1000_seconds: u64,
    },
    /// For forward secrecy.
    Share([u8; 32]),
    /// Unreliable bytes.
    Datagram {
        /// Chosen by the client; replies carry it back.
        flow: u64,
        /// To whom, or homeward from whom.
        target: Target,
        /// Its content.
        bytes: &'a [u8],
    },
    /// The session ends; the service forgets it.
    Close,
}

impl<'a> Frame<'a> {
    /// Reads the next frame; `None` at the padding or the end.
    pub fn read(reader: &mut Reader<'a>) -> Result<Option<Self>> {
        if reader.is_empty() {
            return Ok(None);
        }
        let frame = match reader.u8()? {
            0 => {
                return match reader.rest().iter().all(|&byte| byte == 0) {
                    true => Ok(None),
                    false => Err(Error::new(ErrorKind::Malformed, "padding is not zero")),
                };
            }
            1 => Self::Ack(RangeSet::read(reader)?),
            2 => {
                let first = reader.varint()?;
                let count = usize::from(reader.u8()?);
                Self::Surbs { first, surbs: reader.take(count * HINTED_SURB_SIZE)? }
            }
            3 => Self::Held(RangeSet::read(reader)?),
            4 => Self::Lost(RangeSet::read(reader)?),
            5 => Self::Open { stream: stream(reader)?, target: Target::read(reader)? },
            6 => Self::Connected(stream(reader)?),
            kind @ (7 | 8) => {
                let stream = stream(reader)?;
                let offset = reader.varint()?;
                let length = length(reader)?;
                Self::Data { stream, offset, last: kind == 8, bytes: reader.take(length)? }
            }
            9 => Self::Window { stream: stream(reader)?, limit: reader.varint()? },
            10 => Self::Reset { stream: stream(reader)?, reason: ResetReason::from_code(reader.u8()?) },
            11 => Self::Rate { sequence: reader.varint()?, per_1000_seconds: reader.varint()? },
            12 => Self::Share(reader.array()?),
            13 => {
                let flow = reader.varint()?;
                let target = Target::read(reader)?;
                let length = length(reader)?;
                Self::Datagram { flow, target, bytes: reader.take(length)? }
            }
            14 => Self::Close,
            _ => return Err(Error::new(ErrorKind::Incompatible, "frame of unknown kind")),
        };
        Ok(Some(frame))
    }

    /// Appends the frame. Ranges that would exceed `room` bytes are left out, the lowest first.
    pub fn write(&self, out: &mut Vec<u8>, room: usize) {
        match self {
            Self::Ack(ranges) => write_ranges(1, ranges, out, room),
            Self::Surbs { first, surbs } => {
                out.push(2);
                put_varint(out, *first);
                out.push((surbs.len() / HINTED_SURB_SIZE).min(255) as u8);
                out.extend(*surbs);
            }
            Self::Held(ranges) => write_ranges(3, ranges, out, room),
            Self::Lost(ranges) => write_ranges(4, ranges, out, room),
            Self::Open { stream, target } => {
                out.push(5);
                put_varint(out, stream.0.into());
                target.write(out);
            }
            Self::Connected(stream) => {
                out.push(6);
                put_varint(out, stream.0.into());
            }
            Self::Data { stream, offset, last, bytes } => {
                out.push(if *last { 8 } else { 7 });
                put_varint(out, stream.0.into());
                put_varint(out, *offset);
                put_varint(out, bytes.len() as u64);
                out.extend(*bytes);
            }
            Self::Window { stream, limit } => {
                out.push(9);
                put_varint(out, stream.0.into());
                put_varint(out, *limit);
            }
            Self::Reset { stream, reason } => {
                out.push(10);
                put_varint(out, stream.0.into());
                out.push(*reason as u8);
            }
            Self::Rate { sequence, per_1000_seconds } => {
                out.push(11);
                put_varint(out, *sequence);
                put_varint(out, *per_1000_seconds);
            }
            Self::Share(share) => {
                out.push(12);
                out.extend(share);
            }
            Self::Datagram { flow, target, bytes } => {
                out.push(13);
                put_varint(out, *flow);
                target.write(out);
                put_varint(out, bytes.len() as u64);
                out.extend(*bytes);
            }
            Self::Close => out.push(14),
        }
    }
}

fn write_ranges(kind: u8, ranges: &RangeSet, out: &mut Vec<u8>, room: usize) {
    out.push(kind);
    ranges.write(out, room.saturating_sub(1));
}

fn stream(reader: &mut Reader<'_>) -> Result<StreamId> {
    u32::try_from(reader.varint()?)
        .map(StreamId)
        .map_err(|_| Error::new(ErrorKind::Malformed, "stream number too large"))
}

fn length(reader: &mut Reader<'_>) -> Result<usize> {
    usize::try_from(reader.varint()?).map_err(|_| Error::new(ErrorKind::Malformed, "length too large"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_frame_round_trips() {
        let mut ranges = RangeSet::new();
        ranges.insert(3..9);
        ranges.insert(1_000_000..1_000_001);
        let surbs = vec![7; 2 * HINTED_SURB_SIZE];
        let target = Target::parse("a.test", 80).unwrap();
        let stream = StreamId(70_000);
        let frames = [
            Frame::Ack(ranges.clone()),
            Frame::Surbs { first: 9, surbs: &surbs },
            Frame::Held(ranges.clone()),
            Frame::Lost(ranges),
            Frame::Open { stream, target: target.clone() },
            Frame::Connected(stream),
            Frame::Data { stream, offset: 1 << 40, last: false, bytes: b"abc" },
            Frame::Data { stream, offset: 3, last: true, bytes: b"" },
            Frame::Window { stream, limit: 1 << 30 },
            Frame::Reset { stream, reason: ResetReason::Refused },
            Frame::Rate { sequence: 4, per_1000_seconds: 300_000 },
            Frame::Share([8; 32]),
            Frame::Datagram { flow: 5, target, bytes: b"dns" },
            Frame::Close,
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.write(&mut bytes, 4000);
        }
        bytes.extend([0; 5]);
        let mut reader = Reader::new(&bytes);
        for frame in frames {
            assert_eq!(Frame::read(&mut reader).unwrap(), Some(frame));
        }
        assert_eq!(Frame::read(&mut reader).unwrap(), None);
        assert!(Frame::read(&mut Reader::new(&[0, 0, 1])).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_end_in_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut reader = Reader::new(&bytes);
            while let Ok(Some(_)) = Frame::read(&mut reader) {}
        }
    }
}
