//! The entries of an authority's log: what it must remember of the document being made, lest it contradict itself.

use crate::agreement::{Decision, MAX_NOTE};
use crate::engine::{Height, SignedProposal, VoteList};
use crate::said::{Noted, Said, read_ballot, write_ballot};
use crate::seats::MAX_SEATS;
use crate::vote::MAX_VOTE_SIZE;
use malachite_types::Value as _;
use mizzle_protocol::Result;
use mizzle_protocol::consensus::DocumentHash;
use mizzle_protocol::consensus::cbor::{Canonical, Reader, Writer, decode, encode, malformed};

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// The document was begun.
    Begun(Height),
    /// The engine's.
    Note(Vec<u8>),
    /// This authority has said this vote.
    Vote(Vec<u8>),
    /// This was decided.
    Decided(Decision),
    /// This document was signed.
    Signed(DocumentHash),
}

impl Record {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        decode(bytes, MAX_VOTE_SIZE + MAX_NOTE)
    }

    /// The proposals among an engine's notes, and whether it has been told their worth.
    pub(crate) fn proposals(notes: &[Vec<u8>]) -> Vec<(SignedProposal, bool)> {
        let notes: Vec<Noted> = notes.iter().filter_map(|note| decode(note, MAX_NOTE).ok()).collect();
        let judged = notes.iter().filter_map(|note| match note {
            Noted::Value(value, _) => Some(value.value.id()),
            _ => None,
        });
        let judged: Vec<_> = judged.collect();
        let proposals = notes.into_iter().filter_map(|note| match note {
            Noted::Said(Said::Proposal(proposal)) => Some(proposal),
            _ => None,
        });
        proposals.map(|proposal| (proposal.clone(), judged.contains(&proposal.list.id()))).collect()
    }
}

impl Canonical for Record {
    fn write(&self, out: &mut Writer) {
        out.array(2);
        match self {
            Self::Begun(height) => {
                out.uint(0);
                out.uint(height.0);
            }
            Self::Note(note) => {
                out.uint(1);
                out.bytes(note);
            }
            Self::Vote(bytes) => {
                out.uint(2);
                out.bytes(bytes);
            }
            Self::Decided(decision) => {
                out.uint(3);
                out.array(3);
                out.uint(decision.height.0);
                decision.list.write(out);
                out.array(decision.ballots.len());
                decision.ballots.iter().for_each(|ballot| write_ballot(out, ballot));
            }
            Self::Signed(hash) => {
                out.uint(4);
                out.bytes(&hash.0);
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        if input.array(2)? != 2 {
            return Err(malformed("an entry of the log has two parts"));
        }
        match input.uint(4)? {
            0 => Ok(Self::Begun(Height(input.uint(u64::MAX)?))),
            1 => Ok(Self::Note(input.bytes(MAX_NOTE)?.to_vec())),
            2 => Ok(Self::Vote(input.bytes(MAX_VOTE_SIZE)?.to_vec())),
            3 => {
                if input.array(3)? != 3 {
                    return Err(malformed("a decision has three parts"));
                }
                let height = Height(input.uint(u64::MAX)?);
                let list = VoteList::read(input)?;
                let mut ballots = Vec::new();
                for _ in 0..input.array(MAX_SEATS)? {
                    ballots.push(read_ballot(input)?);
                }
                Ok(Self::Decided(Decision { height, list, ballots }))
            }
            _ => Ok(Self::Signed(DocumentHash(input.fixed()?))),
        }
    }
}
