//! What one authority says of the relays: the votes that a document is made of.
//!
//! A vote names descriptors by their digests; they travel on their own, since most authorities hold most of them.
//! It is signed and stored before it is said, and an authority says one of each attempt: two are a proof against
//! it. (spec: COUNCIL-1, COUNCIL-2)

use crate::engine::{Digest, Height};
use crate::seats::{Seat, Seats};
use mizzle_protocol::consensus::cbor::{Canonical, Reader, Writer, decode, encode, malformed};
use mizzle_protocol::consensus::{
    DocumentHash, Envelope, MAX_RELAYS, ProtocolNumber, ordered, read_addresses, sign_over, write_addresses,
};
use mizzle_protocol::id::{AuthorityId, RelayId};
use mizzle_protocol::path::Parameters;
use mizzle_protocol::time::UnixTime;
use mizzle_protocol::{Error, ErrorKind, Result};
use std::net::SocketAddr;

/// What an authority says.
#[derive(Clone, Debug, PartialEq)]
pub struct Vote {
    /// The network.
    pub network: String,
    /// Who says it.
    pub authority: AuthorityId,
    /// Of which document.
    pub height: Height,
    /// How often it has said something else of this document, because none came about.
    pub attempt: u32,
    /// The document before, as it knows it.
    pub previous: Option<DocumentHash>,
    /// What its clock says.
    pub time: UnixTime,
    /// What it would have all members do alike, and how.
    pub rules: Rules,
    /// Its part in the drawing of lots.
    pub lot: Lot,
    /// The relays that it knows, in order of their ids.
    pub relays: Vec<Seen>,
}

/// What the authorities' operators decide; what most of them say holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// The consensus methods that this build can follow, in order.
    pub methods: Vec<u32>,
    /// What all members do alike.
    pub parameters: Parameters,
    /// What a member must speak, in order.
    pub required: Vec<ProtocolNumber>,
    /// What a member should speak, in order.
    pub recommended: Vec<ProtocolNumber>,
    /// Most relays of one family or subnet.
    pub cap: u32,
    /// True if the network is as large as it was expected to be, or was given up waiting for.
    pub settled: bool,
}

/// A part in the drawing of lots: first each commits, then all reveal. (spec: BEACON-1)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lot {
    /// SHA-256 of what it will reveal.
    pub commit: Option<[u8; 32]>,
    /// What it committed to before.
    pub reveal: Option<[u8; 32]>,
}

/// What an authority has seen of a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The relay.
    pub relay: RelayId,
    /// SHA-256 of its newest signed descriptor.
    pub descriptor: Digest,
    /// True if the operator has approved it.
    pub approved: bool,
    /// True if its family has ended it.
    pub revoked: bool,
    /// How it answered, if it was dialled.
    pub dialled: Option<Dialled>,
}

/// How a relay answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dialled {
    /// Where it proved its identity.
    pub reachable: Vec<SocketAddr>,
    /// A sentence for its operator, if somewhere it did not.
    pub failure: Option<String>,
    /// Packets per second that it forwarded, if it was measured.
    pub rate: Option<u32>,
}

/// A vote and the bytes that its authority signed.
#[derive(Clone, Debug)]
pub struct SignedVote {
    /// What it says.
    pub vote: Vote,
    /// Who says it.
    pub seat: Seat,
    /// Names it.
    pub digest: Digest,
    bytes: Vec<u8>,
}

impl SignedVote {
    /// Signs what `seat` says.
    pub fn sign(vote: Vote, seat: Seat, sign: impl FnOnce(&[u8]) -> [u8; 64]) -> Self {
        let body = encode(&vote);
        let signature = sign_over(VOTE, &body, sign);
        let bytes = encode(&Envelope { body, signature });
        Self { vote, seat, digest: Digest::of(&bytes), bytes }
    }

    /// Parses and verifies who said it; what it says is the caller's to judge.
    ///
    /// [`ErrorKind::Malformed`], [`ErrorKind::Forged`], or [`ErrorKind::Incompatible`] for another network.
    pub fn from_bytes(bytes: &[u8], seats: &Seats) -> Result<Self> {
        let Envelope { body, signature } = decode(bytes, MAX_VOTE_SIZE)?;
        let vote: Vote = decode(&body, MAX_VOTE_SIZE)?;
        if vote.network != seats.network() {
            return Err(Error::new(ErrorKind::Incompatible, "the vote is for another network"));
        }
        let forged =
            || Error::new(ErrorKind::Forged, "the vote is not signed by an authority of this network");
        let seat = seats.seat(vote.authority).ok_or_else(forged)?;
        if !seats.verify(seat, VOTE, &body, &signature) {
            return Err(forged());
        }
        Ok(Self { vote, seat, digest: Digest::of(bytes), bytes: bytes.to_vec() })
    }

    /// As it was signed.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Canonical for Vote {
    fn write(&self, out: &mut Writer) {
        let lot = usize::from(self.lot.commit.is_some()) + usize::from(self.lot.reveal.is_some());
        out.map(13 + usize::from(self.previous.is_some()) + lot);
        out.key(0).uint(FORMAT);
        out.key(1).text(&self.network);
        out.key(2).bytes(&self.authority.0);
        out.key(3).uint(self.height.0);
        out.key(4).uint(u64::from(self.attempt));
        if let Some(hash) = &self.previous {
            out.key(5).bytes(&hash.0);
        }
        out.key(6).uint(self.time.0);
        write_numbers(out.key(7), &self.rules.methods);
        self.rules.parameters.write(out.key(8));
        out.key(9).list(&self.rules.required);
        out.key(10).list(&self.rules.recommended);
        out.key(11).uint(u64::from(self.rules.cap));
        out.key(12).uint(u64::from(self.rules.settled));
        if let Some(commit) = &self.lot.commit {
            out.key(13).bytes(commit);
        }
        if let Some(reveal) = &self.lot.reveal {
            out.key(14).bytes(reveal);
        }
        out.key(15).list(&self.relays);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        let mut fields = input.map()?;
        if fields.key(input, 0)?.uint(u64::MAX)? != FORMAT {
            return Err(Error::new(ErrorKind::Incompatible, "the vote is of another version: upgrade"));
        }
        let vote = Self {
            network: fields.key(input, 1)?.text(64)?.to_owned(),
            authority: AuthorityId(fields.key(input, 2)?.fixed()?),
            height: Height(fields.key(input, 3)?.uint(u64::MAX)?),
            attempt: fields.key(input, 4)?.u32()?,
            previous: match fields.optional(input, 5)? {
                true => Some(DocumentHash(input.fixed()?)),
                false => None,
            },
            time: UnixTime(fields.key(input, 6)?.uint(MAX_TIME)?),
            rules: Rules {
                methods: read_numbers(fields.key(input, 7)?)?,
                parameters: Parameters::read(fields.key(input, 8)?)?,
                required: ordered(fields.key(input, 9)?.list(MAX_PROTOCOLS)?, |&number| number)?,
                recommended: ordered(fields.key(input, 10)?.list(MAX_PROTOCOLS)?, |&number| number)?,
                cap: fields.key(input, 11)?.u32()?,
                settled: fields.key(input, 12)?.uint(1)? == 1,
            },
            lot: Lot {
                commit: match fields.optional(input, 13)? {
                    true => Some(input.fixed()?),
                    false => None,
                },
                reveal: match fields.optional(input, 14)? {
                    true => Some(input.fixed()?),
                    false => None,
                },
            },
            relays: ordered(fields.key(input, 15)?.list(MAX_RELAYS)?, |seen: &Seen| seen.relay)?,
        };
        fields.end(input)?;
        Ok(vote)
    }
}

impl Canonical for Seen {
    fn write(&self, out: &mut Writer) {
        out.array(3 + usize::from(self.dialled.is_some()));
        out.bytes(&self.relay.0);
        out.bytes(&self.descriptor.0);
        out.uint(u64::from(self.approved) | u64::from(self.revoked) << 1);
        if let Some(dialled) = &self.dialled {
            dialled.write(out);
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        let parts = input.array(4)?;
        let relay = RelayId(input.fixed()?);
        let descriptor = Digest(input.fixed()?);
        let flags = input.uint(3)?;
        let dialled = match parts {
            3 => None,
            4 => Some(Dialled::read(input)?),
            _ => return Err(malformed("a relay in a vote has three or four parts")),
        };
        Ok(Self { relay, descriptor, approved: flags & 1 == 1, revoked: flags & 2 == 2, dialled })
    }
}

impl Canonical for Dialled {
    fn write(&self, out: &mut Writer) {
        let there = [!self.reachable.is_empty(), self.failure.is_some(), self.rate.is_some()];
        out.map(there.into_iter().filter(|is_there| *is_there).count());
        if !self.reachable.is_empty() {
            write_addresses(out.key(0), &self.reachable);
        }
        if let Some(failure) = &self.failure {
            out.key(1).text(failure);
        }
        if let Some(rate) = self.rate {
            out.key(2).uint(u64::from(rate));
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        let mut fields = input.map()?;
        let dialled = Self {
            reachable: match fields.optional(input, 0)? {
                true => read_addresses(input)?,
                false => Vec::new(),
            },
            failure: match fields.optional(input, 1)? {
                true => Some(input.text(MAX_FAILURE)?.to_owned()),
                false => None,
            },
            rate: match fields.optional(input, 2)? {
                true => Some(input.u32()?),
                false => None,
            },
        };
        fields.end(input)?;
        Ok(dialled)
    }
}

fn write_numbers(out: &mut Writer, numbers: &[u32]) {
    out.array(numbers.len());
    numbers.iter().for_each(|&number| out.uint(u64::from(number)));
}

fn read_numbers(input: &mut Reader<'_>) -> Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for _ in 0..input.array(MAX_METHODS)? {
        numbers.push(input.u32()?);
    }
    ordered(numbers, |&number| number)
}

/// Largest signed vote, in bytes.
pub const MAX_VOTE_SIZE: usize = 4 * 1024 * 1024;
/// Longest sentence for an operator, in bytes.
pub const MAX_FAILURE: usize = 160;

pub(crate) const VOTE: &[u8] = b"mizzle vote 1";
const FORMAT: u64 = 1;
const MAX_METHODS: usize = 32;
const MAX_PROTOCOLS: usize = 64;
/// Seconds that nanoseconds of 64 bits can count, with room to add to.
const MAX_TIME: u64 = u64::MAX / 2 / 1_000_000_000;
