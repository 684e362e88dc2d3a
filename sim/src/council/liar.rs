//! Authorities that do not do what they should: they run the honest machine, and another mouth.

use super::below;
use super::relays::Relays;
use ed25519_dalek::{Signer as _, SigningKey};
use mizzle_council::wire::{
    BALLOT, Message, NilOrVal, PROPOSAL, Said, Signature, SignedMessage, ballot_body, proposal_body,
};
use mizzle_council::{Digest, Seat, Seats, Seen, SignedVote};
use mizzle_protocol::consensus::{DocumentHash, sign_over};
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;
use std::time::Duration;

/// What an authority does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// It says nothing at all.
    Dead,
    /// It says one thing to some and another to others, where it may say one.
    Equivocate,
    /// It keeps half of its messages to itself.
    Withhold,
    /// All that it says comes up to ten seconds late.
    Late,
    /// It says noise, and what it says is spoilt on the way.
    Garbage,
    /// It says again what was said of other documents.
    Replay,
    /// It names relays that do not exist.
    Forge,
    /// It proposes lists that name an authority twice, or one that has not voted.
    Duplicate,
    /// It casts the opposite of its ballots in the names of all others.
    Impersonate,
}

/// All of them.
pub const LIES: [Lie; 9] = [
    Lie::Dead,
    Lie::Equivocate,
    Lie::Withhold,
    Lie::Late,
    Lie::Garbage,
    Lie::Replay,
    Lie::Forge,
    Lie::Duplicate,
    Lie::Impersonate,
];

impl Lie {
    /// Its name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Equivocate => "equivocate",
            Self::Withhold => "withhold",
            Self::Late => "late",
            Self::Garbage => "garbage",
            Self::Replay => "replay",
            Self::Forge => "forge",
            Self::Duplicate => "duplicate",
            Self::Impersonate => "impersonate",
        }
    }
}

/// One that lies.
pub(super) struct Liar {
    pub(super) lie: Lie,
    key: SigningKey,
    seat: Seat,
    heard: Vec<Vec<u8>>,
}

impl Liar {
    pub(super) fn new(lie: Lie, key: SigningKey, seat: Seat) -> Self {
        Self { lie, key, seat, heard: Vec::new() }
    }

    /// What it says to `to` where an honest one would say `bytes`: how late, and what.
    pub(super) fn say(
        &mut self,
        rng: &mut ChaCha20Rng,
        seats: &Seats,
        relays: &Relays,
        to: usize,
        bytes: &[u8],
    ) -> Vec<(Duration, Vec<u8>)> {
        let honest = vec![(Duration::ZERO, bytes.to_vec())];
        match self.lie {
            Lie::Dead => Vec::new(),
            Lie::Withhold => {
                if below(rng, 2) == 0 {
                    honest
                } else {
                    Vec::new()
                }
            }
            Lie::Late => vec![(Duration::from_millis(below(rng, 10_000)), bytes.to_vec())],
            Lie::Garbage => {
                let mut noise = vec![0; below(rng, 300) as usize];
                rng.fill_bytes(&mut noise);
                let mut spoilt = bytes.to_vec();
                let place = below(rng, spoilt.len() as u64) as usize;
                if let Some(byte) = spoilt.get_mut(place) {
                    *byte ^= 1 << below(rng, 8);
                }
                let cut = bytes.get(..place).unwrap_or_default().to_vec();
                [bytes.to_vec(), noise, spoilt, cut].map(|bytes| (Duration::ZERO, bytes)).into()
            }
            Lie::Replay => {
                self.heard.push(bytes.to_vec());
                let old = self.heard.get(below(rng, self.heard.len() as u64) as usize).cloned();
                honest.into_iter().chain(old.map(|old| (Duration::ZERO, old))).collect()
            }
            // Half of the others hear something else.
            Lie::Equivocate => match self.twin(seats, bytes) {
                Some(twin) if to.is_multiple_of(2) => vec![(Duration::ZERO, twin)],
                // And some hear both.
                Some(twin) if below(rng, 4) == 0 => {
                    vec![(Duration::ZERO, bytes.to_vec()), (Duration::ZERO, twin)]
                }
                _ => honest,
            },
            Lie::Forge => match self.forge(seats, relays, bytes) {
                Some(forged) => forged.into_iter().map(|bytes| (Duration::ZERO, bytes)).collect(),
                None => honest,
            },
            Lie::Impersonate => {
                let others = seats.iter().filter(|seat| *seat != self.seat);
                let forged = others.filter_map(|seat| self.in_the_name_of(seat, seats, bytes));
                honest.into_iter().chain(forged.map(|bytes| (Duration::ZERO, bytes))).collect()
            }
            Lie::Duplicate => match self.duplicate(seats, bytes) {
                Some(twice) => vec![(Duration::ZERO, twice)],
                None => honest,
            },
        }
    }

    /// Another message for the same place.
    fn twin(&self, seats: &Seats, bytes: &[u8]) -> Option<Vec<u8>> {
        match Message::from_bytes(bytes).ok()? {
            Message::Vote(vote) => {
                let signed =
                    SignedVote::from_bytes(&vote, seats).ok().filter(|vote| vote.seat == self.seat)?;
                let mut vote = signed.vote;
                vote.relays.pop();
                let twin = SignedVote::sign(vote, self.seat, |body| self.key.sign(body).to_bytes());
                Some(Message::Vote(twin.bytes().to_vec()).to_bytes())
            }
            Message::Said(Said::Ballot(ballot)) if ballot.voter == self.seat => {
                let mut other = ballot.message;
                other.list = match is_for_a_list(&other.list) {
                    true => NilOrVal::Nil,
                    false => NilOrVal::Val(Digest([7; 32])),
                };
                let body = ballot_body(seats, &other);
                let signature = sign_over(BALLOT, &body, |body| self.key.sign(body).to_bytes());
                let twin = SignedMessage::new(other, Signature(signature));
                Some(Message::Said(Said::Ballot(twin)).to_bytes())
            }
            Message::Said(Said::Proposal(proposal)) if proposal.proposer == self.seat => {
                let mut other = proposal.message;
                // Another list that can be made a document of, if there are votes enough.
                if other.list.0.len() > seats.quorum() {
                    other.list.0.pop();
                } else {
                    other.list.0.rotate_left(1);
                }
                Some(self.proposal(seats, other))
            }
            Message::Signature(height, _, _) => {
                let hash = DocumentHash([9; 32]);
                Some(Message::Signature(height, hash, self.key.sign(&hash.0).to_bytes()).to_bytes())
            }
            _ => None,
        }
    }

    /// The opposite of its ballot, in another's name, with its own signature.
    fn in_the_name_of(&self, seat: Seat, seats: &Seats, bytes: &[u8]) -> Option<Vec<u8>> {
        let Message::Said(Said::Ballot(ballot)) = Message::from_bytes(bytes).ok()? else { return None };
        let mut other = (ballot.voter == self.seat).then_some(ballot.message)?;
        other.voter = seat;
        other.list = match is_for_a_list(&other.list) {
            true => NilOrVal::Nil,
            false => NilOrVal::Val(Digest([7; 32])),
        };
        let signature = sign_over(BALLOT, &ballot_body(seats, &other), |body| self.key.sign(body).to_bytes());
        Some(Message::Said(Said::Ballot(SignedMessage::new(other, Signature(signature)))).to_bytes())
    }

    /// A vote that names a relay that does not exist, and the descriptor of that.
    fn forge(&self, seats: &Seats, relays: &Relays, bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
        let Message::Vote(vote) = Message::from_bytes(bytes).ok()? else { return None };
        let signed = SignedVote::from_bytes(&vote, seats).ok().filter(|vote| vote.seat == self.seat)?;
        let (relay, descriptor) = relays.forged();
        let mut vote = signed.vote;
        let example = vote.relays.first()?.clone();
        vote.relays.push(Seen { relay, descriptor: Digest::of(&descriptor), ..example });
        vote.relays.sort_by_key(|seen| seen.relay);
        let forged = SignedVote::sign(vote, self.seat, |body| self.key.sign(body).to_bytes());
        Some(vec![
            Message::Vote(forged.bytes().to_vec()).to_bytes(),
            Message::Descriptor(descriptor).to_bytes(),
        ])
    }

    /// A proposal that names an authority twice.
    fn duplicate(&self, seats: &Seats, bytes: &[u8]) -> Option<Vec<u8>> {
        let Message::Said(Said::Proposal(proposal)) = Message::from_bytes(bytes).ok()? else { return None };
        let mut other = (proposal.proposer == self.seat).then_some(proposal.message)?;
        let first = *other.list.0.first()?;
        other.list.0.truncate(seats.quorum() - 1);
        other.list.0.push(first);
        Some(self.proposal(seats, other))
    }

    fn proposal(&self, seats: &Seats, proposal: mizzle_council::wire::Proposal) -> Vec<u8> {
        let body = proposal_body(seats, &proposal);
        let signature = sign_over(PROPOSAL, &body, |body| self.key.sign(body).to_bytes());
        Message::Said(Said::Proposal(SignedMessage::new(proposal, Signature(signature)))).to_bytes()
    }
}

fn is_for_a_list(list: &NilOrVal<Digest>) -> bool {
    matches!(list, NilOrVal::Val(_))
}
