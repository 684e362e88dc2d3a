//! The agreement engine's types: what is agreed on, by whom, and what they say to each other.
//!
//! The engine is Malachite's core, a Tendermint: a proposer names a list of votes, the others prevote and then
//! precommit it, and more than two thirds of the precommits of one round decide. Its "votes" are called ballots
//! here, since a vote is what an authority says of the relays. All that is signed is canonical CBOR under a
//! domain of its own, and names the network, the authority and the height: nothing can be played again elsewhere.
//! (spec: COUNCIL-3, COUNCIL-4)

use crate::seats::{Seat, Seats};
use malachite_types::{self as types, LinearTimeouts, NilOrVal, Round, SignedMessage, VoteType};
use mizzle_protocol::Result;
use mizzle_protocol::consensus::cbor::{Canonical, Reader, Writer, encode, malformed};
use mizzle_protocol::id::AuthorityId;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::sync::Arc;

/// What is agreed on: the number of a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Height(pub u64);

/// SHA-256 of a signed vote, or of a list of votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

/// The votes that a document is made of, by seat, each once: what is agreed on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VoteList(pub Vec<(Seat, Digest)>);

/// What a proposer says: make the document of these votes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Of which document.
    pub height: Height,
    /// In which round.
    pub round: Round,
    /// The votes to make it of.
    pub list: VoteList,
    /// The round in which more than two thirds wanted it already.
    pub pol_round: Round,
    /// Whose it is.
    pub proposer: Seat,
}

/// A prevote or a precommit, for a list or for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ballot {
    /// On which document.
    pub height: Height,
    /// In which round.
    pub round: Round,
    /// The first or the second step of it.
    pub kind: VoteType,
    /// The list that it is for, if it is for one.
    pub list: NilOrVal<Digest>,
    /// Whose it is.
    pub voter: Seat,
}

/// A signed ballot.
pub type SignedBallot = SignedMessage<Engine, Ballot>;
/// A signed proposal.
pub type SignedProposal = SignedMessage<Engine, Proposal>;

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signature(pub [u8; 64]);

/// Names the types.
#[derive(Clone, Copy, Debug)]
pub struct Engine;

/// An authority, as the engine counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sitting {
    seat: Seat,
    key: [u8; 32],
}

/// All authorities, as the engine counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SittingSet(Arc<[Sitting]>);

impl SittingSet {
    pub(crate) fn new(seats: &Seats) -> Self {
        let sitting = seats
            .iter()
            .filter_map(|seat| seats.authority(seat).map(|authority| Sitting { seat, key: authority.0 }));
        Self(sitting.collect())
    }
}

/// The engine's signatures are Ed25519, made and verified outside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheme;

/// Ballots carry nothing beside themselves, and proposals come whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nothing;

impl types::Context for Engine {
    type Address = Seat;
    type Height = Height;
    type ProposalPart = Nothing;
    type Proposal = Proposal;
    type Validator = Sitting;
    type ValidatorSet = SittingSet;
    type Timeouts = LinearTimeouts;
    type Value = VoteList;
    type Vote = Ballot;
    type Extension = Nothing;
    type SigningScheme = Scheme;

    /// Everyone in turn; after a round that failed, the next.
    fn select_proposer<'a>(&self, set: &'a SittingSet, height: Height, round: Round) -> &'a Sitting {
        let turn = height.0.wrapping_add(u64::from(round.as_u32().unwrap_or(0)));
        let index = usize::try_from(turn % set.0.len().max(1) as u64).unwrap_or(0);
        // The set has at least one seat: `Seats::new` refuses others.
        &set.0[index]
    }

    fn new_proposal(
        &self,
        height: Height,
        round: Round,
        list: VoteList,
        pol_round: Round,
        proposer: Seat,
    ) -> Proposal {
        Proposal { height, round, list, pol_round, proposer }
    }

    fn new_prevote(&self, height: Height, round: Round, list: NilOrVal<Digest>, voter: Seat) -> Ballot {
        Ballot { height, round, kind: VoteType::Prevote, list, voter }
    }

    fn new_precommit(&self, height: Height, round: Round, list: NilOrVal<Digest>, voter: Seat) -> Ballot {
        Ballot { height, round, kind: VoteType::Precommit, list, voter }
    }
}

impl types::Address for Seat {}

impl types::Height for Height {
    const ZERO: Self = Self(0);
    const INITIAL: Self = Self(0);

    fn increment_by(&self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    fn decrement_by(&self, n: u64) -> Option<Self> {
        self.0.checked_sub(n).map(Self)
    }

    fn as_u64(&self) -> u64 {
        self.0
    }
}

impl types::Value for VoteList {
    type Id = Digest;

    fn id(&self) -> Digest {
        Digest::of(&encode(self))
    }
}

impl types::Proposal<Engine> for Proposal {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &VoteList {
        &self.list
    }

    fn take_value(self) -> VoteList {
        self.list
    }

    fn pol_round(&self) -> Round {
        self.pol_round
    }

    fn validator_address(&self) -> &Seat {
        &self.proposer
    }
}

impl types::Vote<Engine> for Ballot {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &NilOrVal<Digest> {
        &self.list
    }

    fn take_value(self) -> NilOrVal<Digest> {
        self.list
    }

    fn vote_type(&self) -> VoteType {
        self.kind
    }

    fn validator_address(&self) -> &Seat {
        &self.voter
    }

    fn extension(&self) -> Option<&types::SignedExtension<Engine>> {
        None
    }

    fn take_extension(&mut self) -> Option<types::SignedExtension<Engine>> {
        None
    }

    fn extend(self, _extension: types::SignedExtension<Engine>) -> Self {
        self
    }
}

impl types::ProposalPart<Engine> for Nothing {
    fn is_first(&self) -> bool {
        true
    }

    fn is_last(&self) -> bool {
        true
    }
}

impl types::Extension for Nothing {
    fn size_bytes(&self) -> usize {
        0
    }
}

impl types::Validator<Engine> for Sitting {
    fn address(&self) -> &Seat {
        &self.seat
    }

    fn public_key(&self) -> &[u8; 32] {
        &self.key
    }

    fn voting_power(&self) -> types::VotingPower {
        1
    }
}

impl types::ValidatorSet<Engine> for SittingSet {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn total_voting_power(&self) -> types::VotingPower {
        self.0.len() as u64
    }

    fn get_by_address(&self, seat: &Seat) -> Option<&Sitting> {
        self.0.get(usize::from(seat.0))
    }

    fn get_by_index(&self, index: usize) -> Option<&Sitting> {
        self.0.get(index)
    }
}

impl types::SigningScheme for Scheme {
    type DecodingError = mizzle_protocol::Error;
    type Signature = Signature;
    type PublicKey = [u8; 32];
    type PrivateKey = ();

    fn decode_signature(bytes: &[u8]) -> Result<Signature> {
        bytes.try_into().map(Signature).map_err(|_| malformed("a signature has 64 bytes"))
    }

    fn encode_signature(signature: &Signature) -> Vec<u8> {
        signature.0.to_vec()
    }

    fn decode_public_key(bytes: &[u8]) -> Result<[u8; 32]> {
        bytes.try_into().map_err(|_| malformed("a key has 32 bytes"))
    }

    fn encode_public_key(key: &[u8; 32]) -> Vec<u8> {
        key.to_vec()
    }
}

impl fmt::Display for Height {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}", self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature")
    }
}

impl Canonical for VoteList {
    fn write(&self, out: &mut Writer) {
        out.array(self.0.len());
        for (seat, digest) in &self.0 {
            out.array(2);
            out.uint(u64::from(seat.0));
            out.bytes(&digest.0);
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        let mut list = Vec::new();
        // A list that names a seat twice is read, so that it can be judged.
        for _ in 0..input.array(2 * crate::seats::MAX_SEATS)? {
            if input.array(2)? != 2 {
                return Err(malformed("a vote in a list is a seat and a digest"));
            }
            list.push((read_seat(input)?, Digest(input.fixed()?)));
        }
        Ok(Self(list))
    }
}

/// The body that a ballot's signature covers.
pub fn ballot_body(seats: &Seats, ballot: &Ballot) -> Vec<u8> {
    encode(&BallotBody {
        network: seats.network().to_owned(),
        authority: seats.authority(ballot.voter).unwrap_or(AuthorityId([0; 32])),
        ballot: ballot.clone(),
    })
}

/// The body that a proposal's signature covers.
pub fn proposal_body(seats: &Seats, proposal: &Proposal) -> Vec<u8> {
    encode(&ProposalBody {
        network: seats.network().to_owned(),
        authority: seats.authority(proposal.proposer).unwrap_or(AuthorityId([0; 32])),
        proposal: proposal.clone(),
    })
}

struct BallotBody {
    network: String,
    authority: AuthorityId,
    ballot: Ballot,
}

struct ProposalBody {
    network: String,
    authority: AuthorityId,
    proposal: Proposal,
}

impl Canonical for BallotBody {
    fn write(&self, out: &mut Writer) {
        out.array(3);
        out.text(&self.network);
        out.bytes(&self.authority.0);
        self.ballot.write(out);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        match input.array(3)? {
            3 => Ok(Self {
                network: input.text(64)?.to_owned(),
                authority: AuthorityId(input.fixed()?),
                ballot: Ballot::read(input)?,
            }),
            _ => Err(malformed("a ballot's body has three parts")),
        }
    }
}

impl Canonical for ProposalBody {
    fn write(&self, out: &mut Writer) {
        out.array(3);
        out.text(&self.network);
        out.bytes(&self.authority.0);
        self.proposal.write(out);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        match input.array(3)? {
            3 => Ok(Self {
                network: input.text(64)?.to_owned(),
                authority: AuthorityId(input.fixed()?),
                proposal: Proposal::read(input)?,
            }),
            _ => Err(malformed("a proposal's body has three parts")),
        }
    }
}

impl Canonical for Ballot {
    fn write(&self, out: &mut Writer) {
        out.map(4 + usize::from(self.list.is_val()));
        out.key(0).uint(self.height.0);
        write_round(out.key(1), self.round);
        out.key(2).uint(u64::from(self.kind == VoteType::Precommit));
        out.key(3).uint(u64::from(self.voter.0));
        if let NilOrVal::Val(digest) = &self.list {
            out.key(4).bytes(&digest.0);
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        let mut fields = input.map()?;
        let ballot = Self {
            height: Height(fields.key(input, 0)?.uint(u64::MAX)?),
            round: read_round(fields.key(input, 1)?)?,
            kind: match fields.key(input, 2)?.uint(1)? {
                0 => VoteType::Prevote,
                _ => VoteType::Precommit,
            },
            voter: read_seat(fields.key(input, 3)?)?,
            list: match fields.optional(input, 4)? {
                true => NilOrVal::Val(Digest(input.fixed()?)),
                false => NilOrVal::Nil,
            },
        };
        fields.end(input)?;
        match ballot.round.is_defined() {
            true => Ok(ballot),
            false => Err(malformed("a ballot is of a round")),
        }
    }
}

impl Canonical for Proposal {
    fn write(&self, out: &mut Writer) {
        out.map(5);
        out.key(0).uint(self.height.0);
        write_round(out.key(1), self.round);
        write_round(out.key(2), self.pol_round);
        out.key(3).uint(u64::from(self.proposer.0));
        self.list.write(out.key(4));
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        let mut fields = input.map()?;
        let proposal = Self {
            height: Height(fields.key(input, 0)?.uint(u64::MAX)?),
            round: read_round(fields.key(input, 1)?)?,
            pol_round: read_round(fields.key(input, 2)?)?,
            proposer: read_seat(fields.key(input, 3)?)?,
            list: VoteList::read(fields.key(input, 4)?)?,
        };
        fields.end(input)?;
        match proposal.round.is_defined() {
            true => Ok(proposal),
            false => Err(malformed("a proposal is of a round")),
        }
    }
}

/// 0 is no round.
pub(crate) fn write_round(out: &mut Writer, round: Round) {
    out.uint(round.as_u32().map_or(0, |round| u64::from(round) + 1));
}

pub(crate) fn read_round(input: &mut Reader<'_>) -> Result<Round> {
    let number = input.uint(MAX_ROUND + 1)?;
    Ok(number.checked_sub(1).and_then(|round| u32::try_from(round).ok()).map_or(Round::Nil, Round::new))
}

pub(crate) fn read_seat(input: &mut Reader<'_>) -> Result<Seat> {
    input.uint(crate::seats::MAX_SEATS as u64 - 1).map(|seat| Seat(seat as u8))
}

/// Ballots are signed over this, a zero byte and their body.
pub const BALLOT: &[u8] = b"mizzle ballot 1";
/// And proposals over this.
pub const PROPOSAL: &[u8] = b"mizzle proposal 1";

/// No round comes after that many, which take years.
const MAX_ROUND: u64 = 1 << 24;
