//! Proofs that an authority has said two things where it may say one: anyone who knows the authorities' keys can
//! check them, without a connection. (spec: COUNCIL-9)

use crate::agreement::{verify_ballot, verify_proposal};
use crate::engine::{Proposal, Signature, SignedBallot, SignedProposal};
use crate::said::{read_ballot, write_ballot};
use crate::seats::{Seat, Seats};
use crate::vote::{MAX_VOTE_SIZE, SignedVote};
use malachite_types::SignedMessage;
use mizzle_protocol::consensus::cbor::{Canonical, Reader, Writer, decode, encode, malformed};
use mizzle_protocol::{Error, ErrorKind, Result};

/// Two things that one authority has signed, of which it may sign one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Two votes of one attempt at one document.
    Votes(Vec<u8>, Vec<u8>),
    /// Two ballots of one kind, in one round.
    Ballots(Box<(SignedBallot, SignedBallot)>),
    /// Two proposals in one round.
    Proposals(Box<(SignedProposal, SignedProposal)>),
}

impl Proof {
    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Parses it; nothing is verified.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        decode(bytes, MAX_PROOF_SIZE)
    }

    /// Who did it, and a sentence that says what.
    ///
    /// [`ErrorKind::Forged`] if nobody did.
    pub fn verify(&self, seats: &Seats) -> Result<(Seat, String)> {
        let forged =
            || Error::new(ErrorKind::Forged, "these are not two things that one authority has signed");
        match self {
            Self::Votes(one, other) => {
                let (one, other) =
                    (SignedVote::from_bytes(one, seats)?, SignedVote::from_bytes(other, seats)?);
                let place = |signed: &SignedVote| (signed.seat, signed.vote.height, signed.vote.attempt);
                if place(&one) != place(&other) || one.vote == other.vote {
                    return Err(forged());
                }
                let (height, attempt) = (one.vote.height, one.vote.attempt);
                Ok((one.seat, format!("{} has voted twice on {height} (attempt {attempt})", one.seat)))
            }
            Self::Ballots(two) => {
                let (one, other) = two.as_ref();
                let place = |ballot: &SignedBallot| (ballot.voter, ballot.height, ballot.round, ballot.kind);
                let signed = verify_ballot(seats, one) && verify_ballot(seats, other);
                if place(one) != place(other) || one.list == other.list || !signed {
                    return Err(forged());
                }
                let (seat, height, round) = (one.voter, one.height, one.round);
                Ok((seat, format!("{seat} has cast two ballots of one kind on {height}, in round {round}")))
            }
            Self::Proposals(two) => {
                let (one, other) = two.as_ref();
                let place = |proposal: &SignedProposal| (proposal.proposer, proposal.height, proposal.round);
                let signed = verify_proposal(seats, one) && verify_proposal(seats, other);
                if place(one) != place(other) || one.message == other.message || !signed {
                    return Err(forged());
                }
                let (seat, height, round) = (one.proposer, one.height, one.round);
                Ok((seat, format!("{seat} has proposed two lists for {height}, in round {round}")))
            }
        }
    }
}

impl Canonical for Proof {
    fn write(&self, out: &mut Writer) {
        out.array(3);
        match self {
            Self::Votes(one, other) => {
                out.uint(0);
                out.bytes(one);
                out.bytes(other);
            }
            Self::Ballots(two) => {
                out.uint(1);
                write_ballot(out, &two.0);
                write_ballot(out, &two.1);
            }
            Self::Proposals(two) => {
                out.uint(2);
                for proposal in [&two.0, &two.1] {
                    out.array(2);
                    proposal.message.write(out);
                    out.bytes(&proposal.signature.0);
                }
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        if input.array(3)? != 3 {
            return Err(malformed("a proof is a kind and two statements"));
        }
        match input.uint(2)? {
            0 => Ok(Self::Votes(input.bytes(MAX_VOTE_SIZE)?.to_vec(), input.bytes(MAX_VOTE_SIZE)?.to_vec())),
            1 => Ok(Self::Ballots(Box::new((read_ballot(input)?, read_ballot(input)?)))),
            _ => Ok(Self::Proposals(Box::new((read_proposal(input)?, read_proposal(input)?)))),
        }
    }
}

fn read_proposal(input: &mut Reader<'_>) -> Result<SignedProposal> {
    if input.array(2)? != 2 {
        return Err(malformed("a signed proposal is a proposal and a signature"));
    }
    let message = Proposal::read(input)?;
    Ok(SignedMessage::new(message, Signature(input.fixed()?)))
}

/// Largest proof, in bytes.
pub const MAX_PROOF_SIZE: usize = 2 * MAX_VOTE_SIZE + 64;
