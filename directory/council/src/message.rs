//! What authorities send each other, in bytes.

use crate::agreement::Decision;
use crate::engine::{Digest, Height, VoteList, read_seat};
use crate::said::{Said, read_ballot, write_ballot};
use crate::seats::{MAX_SEATS, Seat};
use crate::vote::MAX_VOTE_SIZE;
use mizzle_protocol::Result;
use mizzle_protocol::consensus::cbor::{Canonical, Reader, Writer, decode, encode, malformed};
use mizzle_protocol::consensus::{
    DocumentHash, MAX_CONSENSUS_SIZE, MAX_DESCRIPTOR_SIZE, MAX_SERVICE_KEYS_SIZE,
};

/// A message from one authority to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Where the sender stands, so that others can give it what it lacks.
    Status(Status),
    /// A signed vote.
    Vote(Vec<u8>),
    /// A relay's signed descriptor.
    Descriptor(Vec<u8>),
    /// The engine's.
    Said(Said),
    /// What is decided.
    Decision(Decision),
    /// The sender's signature on the document.
    Signature(Height, DocumentHash, [u8; 64]),
    /// A document that is done, with what belongs to it.
    Done(Box<Done>),
    /// Votes and descriptors that the sender lacks.
    Want(Vec<Digest>),
}

/// Where an authority stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which document it makes.
    pub height: Height,
    /// The votes that it holds, with all that they name.
    pub votes: Vec<(Seat, Digest)>,
    /// Whether it knows what is decided.
    pub decided: bool,
    /// Whose signatures it has.
    pub signatures: Vec<Seat>,
}

/// A document that is done: the envelope, what is carried on, and the service keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The envelope.
    pub signed: Vec<u8>,
    /// What is carried on.
    pub carry: Vec<u8>,
    /// The service keys.
    pub service_keys: Vec<u8>,
}

impl Message {
    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Parses it; nothing is verified.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        decode(bytes, MAX_MESSAGE_SIZE)
    }
}

impl Canonical for Message {
    fn write(&self, out: &mut Writer) {
        out.array(2);
        match self {
            Self::Status(status) => {
                out.uint(0);
                status.write(out);
            }
            Self::Vote(bytes) => {
                out.uint(1);
                out.bytes(bytes);
            }
            Self::Descriptor(bytes) => {
                out.uint(2);
                out.bytes(bytes);
            }
            Self::Said(said) => {
                out.uint(3);
                said.write(out);
            }
            Self::Decision(decision) => {
                out.uint(4);
                out.array(3);
                out.uint(decision.height.0);
                decision.list.write(out);
                out.array(decision.ballots.len());
                decision.ballots.iter().for_each(|ballot| write_ballot(out, ballot));
            }
            Self::Signature(height, hash, signature) => {
                out.uint(5);
                out.array(3);
                out.uint(height.0);
                out.bytes(&hash.0);
                out.bytes(signature);
            }
            Self::Done(done) => {
                out.uint(6);
                out.array(3);
                [&done.signed, &done.carry, &done.service_keys]
                    .into_iter()
                    .for_each(|bytes| out.bytes(bytes));
            }
            Self::Want(digests) => {
                out.uint(7);
                out.array(digests.len());
                digests.iter().for_each(|digest| out.bytes(&digest.0));
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        parts(input, 2)?;
        match input.uint(7)? {
            0 => Status::read(input).map(Self::Status),
            1 => Ok(Self::Vote(input.bytes(MAX_VOTE_SIZE)?.to_vec())),
            2 => Ok(Self::Descriptor(input.bytes(MAX_DESCRIPTOR_SIZE)?.to_vec())),
            3 => Said::read(input).map(Self::Said),
            4 => {
                parts(input, 3)?;
                let height = Height(input.uint(u64::MAX)?);
                let list = VoteList::read(input)?;
                let mut ballots = Vec::new();
                for _ in 0..input.array(MAX_SEATS)? {
                    ballots.push(read_ballot(input)?);
                }
                Ok(Self::Decision(Decision { height, list, ballots }))
            }
            5 => {
                parts(input, 3)?;
                let height = Height(input.uint(u64::MAX)?);
                Ok(Self::Signature(height, DocumentHash(input.fixed()?), input.fixed()?))
            }
            6 => {
                parts(input, 3)?;
                Ok(Self::Done(Box::new(Done {
                    signed: input.bytes(MAX_CONSENSUS_SIZE)?.to_vec(),
                    carry: input.bytes(crate::carry::MAX_CARRY_SIZE)?.to_vec(),
                    service_keys: input.bytes(MAX_SERVICE_KEYS_SIZE)?.to_vec(),
                })))
            }
            _ => {
                let mut digests = Vec::new();
                for _ in 0..input.array(MAX_WANTED)? {
                    digests.push(Digest(input.fixed()?));
                }
                Ok(Self::Want(digests))
            }
        }
    }
}

impl Canonical for Status {
    fn write(&self, out: &mut Writer) {
        out.array(4);
        out.uint(self.height.0);
        VoteList(self.votes.clone()).write(out);
        out.uint(u64::from(self.decided));
        out.array(self.signatures.len());
        self.signatures.iter().for_each(|seat| out.uint(u64::from(seat.0)));
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        parts(input, 4)?;
        let height = Height(input.uint(u64::MAX)?);
        let VoteList(votes) = VoteList::read(input)?;
        let decided = input.uint(1)? == 1;
        let mut signatures = Vec::new();
        for _ in 0..input.array(MAX_SEATS)? {
            signatures.push(read_seat(input)?);
        }
        Ok(Self { height, votes, decided, signatures })
    }
}

fn parts(input: &mut Reader<'_>, count: usize) -> Result<()> {
    match input.array(count)? == count {
        true => Ok(()),
        false => Err(malformed("a message has another number of parts")),
    }
}

/// Largest message, in bytes.
pub const MAX_MESSAGE_SIZE: usize =
    MAX_CONSENSUS_SIZE + crate::carry::MAX_CARRY_SIZE + MAX_SERVICE_KEYS_SIZE + 64;
/// Most digests in one request.
pub(crate) const MAX_WANTED: usize = 256;
