//! The packets of a session.
//!
//! ```text
//! outward    0 opening · service key hint 1 · encapsulation 1120 · number 8 · sealed
//!            1 early   · session id 16 · number 8 · sealed
//!            2 later   · session id 16 · number 8 · sealed, with forward-secret keys
//! homeward   1 early or 2 later · sealed (number = the SURB's): sent at 8 · flags 1 · frames
//! ```
//! All that precedes the sealed part is authenticated with it.

use super::keys::ENCAPSULATION_SIZE;
use crate::id::{PacketNumber, SessionId};
use crate::time::Instant;
use crate::wire::{Reader, VARINT_MAX};
use crate::{Error, ErrorKind, Result};

/// Which keys seal a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Those of the encapsulation.
    Early = 1,
    /// Those with forward secrecy.
    Later = 2,
}

/// How an outward packet names its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// By the encapsulation that opens it: rides in every packet until the first answer.
    Opening { hint: u8, encapsulation: &'a [u8] },
    /// By its id.
    Known { phase: Phase, id: SessionId },
}

/// Bytes before the sealed part of an opening packet.
pub(super) const OPENING_HEADER: usize = 1 + 1 + ENCAPSULATION_SIZE + 8;
/// Bytes before the sealed part of other outward packets.
pub(super) const KNOWN_HEADER: usize = 1 + 16 + 8;
/// Flag of a homeward packet: more data waits at the service.
pub(super) const BACKLOG: u8 = 1;

/// Splits an outward packet: name, number, what is authenticated, what is sealed.
pub(super) fn parse_outward(bytes: &[u8]) -> Result<(Name<'_>, PacketNumber, &[u8], &[u8])> {
    let mut reader = Reader::new(bytes);
    let name = match reader.u8()? {
        0 => Name::Opening { hint: reader.u8()?, encapsulation: reader.take(ENCAPSULATION_SIZE)? },
        1 => Name::Known { phase: Phase::Early, id: SessionId(reader.array()?) },
        2 => Name::Known { phase: Phase::Later, id: SessionId(reader.array()?) },
        _ => return Err(Error::new(ErrorKind::Incompatible, "session packet of unknown kind")),
    };
    let number = PacketNumber(reader.u64()?);
    // Neither the set of what arrived nor an ack could hold a larger one.
    if number.0 >= VARINT_MAX {
        return Err(Error::new(ErrorKind::Malformed, "packet number too large"));
    }
    let sealed = reader.rest();
    let (header, _) = bytes.split_at(bytes.len() - sealed.len());
    Ok((name, number, header, sealed))
}

/// Writes the header of an outward packet.
pub(super) fn put_header(name: Name<'_>, number: PacketNumber, out: &mut Vec<u8>) {
    match name {
        Name::Opening { hint, encapsulation } => {
            out.extend([0, hint]);
            out.extend(encapsulation);
        }
        Name::Known { phase, id } => {
            out.push(phase as u8);
            out.extend(id.0);
        }
    }
    out.extend(number.0.to_be_bytes());
}

/// Splits a homeward packet: which keys, and what is sealed.
pub(super) fn parse_homeward(bytes: &[u8]) -> Result<(Phase, &[u8])> {
    match bytes {
        [1, sealed @ ..] => Ok((Phase::Early, sealed)),
        [2, sealed @ ..] => Ok((Phase::Later, sealed)),
        _ => Err(Error::new(ErrorKind::Malformed, "reply of unknown kind")),
    }
}

/// Reads the opened part of a homeward packet up to its frames.
pub(super) fn read_homeward(reader: &mut Reader<'_>) -> Result<(Instant, u8)> {
    Ok((Instant::from_micros(reader.u64()?), reader.u8()?))
}
