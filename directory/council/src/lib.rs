//! How the authorities of a network agree on who is in it: without sockets, files, a clock or global randomness.

mod agreement;
mod beacon;
mod carry;
mod council;
mod document;
mod engine;
mod evidence;
mod layers;
mod listing;
mod message;
mod papers;
mod pool;
mod record;
mod said;
mod seats;
mod vote;

pub use agreement::{Decision, Sign};
pub use beacon::{Beacon, commitment};
pub use carry::{Carry, MAX_CARRY_SIZE, Standing};
pub use council::{Council, Opinion, Output, Published, Restored, Setup};
pub use document::{Document, METHODS, Past, make};
pub use engine::{Digest, Height, VoteList};
pub use evidence::{MAX_PROOF_SIZE, Proof};
pub use layers::{Candidate, Dealing, Exclusion, Layers, Tie, deal};
pub use message::MAX_MESSAGE_SIZE;
pub use pool::pool;
pub use seats::{MAX_SEATS, Seat, Seats};
pub use vote::{Dialled, Lot, MAX_FAILURE, MAX_VOTE_SIZE, Rules, Seen, SignedVote, Vote};

/// What authorities say to each other, for those who read it, and for trials in which some of them lie.
pub mod wire {
    pub use crate::engine::{
        BALLOT, Ballot, PROPOSAL, Proposal, Signature, SignedBallot, SignedProposal, ballot_body,
        proposal_body,
    };
    pub use crate::message::{Done, Message, Status};
    pub use crate::said::Said;
    pub use malachite_types::{NilOrVal, Round, SignedMessage, VoteType};
}

#[cfg(test)]
mod tests;
