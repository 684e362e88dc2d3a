//! Agreement on one list of votes after the other: the engine, its log and its evidence, without a clock.
//!
//! What the engine wants to be written down comes out as [`Act::Note`] before the messages that rest on it; who
//! drives this must have it on disk before doing anything that comes after. So an authority that is killed at
//! any moment says the same again, or nothing. (spec: COUNCIL-5)

use crate::engine::{
    BALLOT, Ballot, Engine, Height, PROPOSAL, Signature, SignedBallot, SignedProposal, SittingSet, VoteList,
    ballot_body, proposal_body,
};
use crate::said::{Noted, Said, polka_ballot, round_ballot};
use crate::seats::{Seat, Seats};
use malachite::{
    ConsensusMsg, Effect, Input, LivenessMsg, LocallyProposedValue, Params, ProposedValue, Resumable, Resume,
    SignedConsensusMsg, State, ThresholdParams, process,
};
use malachite_types::{
    CertificateError, CommitCertificate, LinearTimeouts, NilOrVal, Round, RoundCertificateType,
    SignedMessage, Timeout, Validity, Value as _, ValueOrigin, ValuePayload, VoteExtensionPolicy, VoteType,
};
use mizzle_protocol::consensus::cbor::{decode, encode};
use mizzle_protocol::consensus::sign_over;
use mizzle_protocol::{Error, ErrorKind, Result};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Makes Ed25519 signatures with this authority's key.
pub type Sign = Arc<dyn Fn(&[u8]) -> [u8; 64] + Send + Sync>;

/// What the engine wants.
#[derive(Debug)]
pub(crate) enum Act {
    /// Write this down, before anything that comes after.
    Note(Vec<u8>),
    /// Say this to all others.
    Say(Said),
    /// Come back after this time with this timeout.
    Schedule(Timeout, Duration),
    /// Do not come back for this one.
    Cancel(Timeout),
    /// For none.
    CancelAll,
    /// We are to propose: which list?
    Propose(Round),
    /// It is decided.
    Decide(Decision),
    /// Someone has said two things at once.
    TwoBallots(Box<(SignedBallot, SignedBallot)>),
    /// Someone has proposed two lists at once.
    TwoProposals(Box<(SignedProposal, SignedProposal)>),
}

/// A list that more than two thirds have precommitted in one round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Of which document.
    pub height: Height,
    /// The votes to make it of.
    pub list: VoteList,
    /// The precommits.
    pub ballots: Vec<SignedBallot>,
}

impl Decision {
    /// Fails with [`ErrorKind::Forged`] if it was not decided.
    pub fn verify(&self, seats: &Seats) -> Result<()> {
        let id = self.list.id();
        let round = self.ballots.first().map(|ballot| ballot.round);
        let mut voters = BTreeSet::new();
        for ballot in &self.ballots {
            let counts = ballot.height == self.height
                && Some(ballot.round) == round
                && ballot.kind == VoteType::Precommit
                && ballot.list == NilOrVal::Val(id)
                && verify_ballot(seats, ballot);
            if counts {
                voters.insert(ballot.voter);
            }
        }
        match voters.len() >= seats.quorum() {
            true => Ok(()),
            false => {
                Err(Error::new(ErrorKind::Forged, "too few authorities have precommitted that list of votes"))
            }
        }
    }
}

/// The engine at one height.
pub(crate) struct Agreement {
    state: State<Engine>,
    hands: Hands,
}

/// What the engine acts with.
struct Hands {
    seats: Seats,
    sign: Sign,
    timeouts: LinearTimeouts,
    acts: VecDeque<Act>,
    /// What is on disk already. What reading it again leads to may not be.
    noted: BTreeSet<Vec<u8>>,
}

impl Agreement {
    /// The engine of the authority in `seat`, at the beginning of `height`.
    pub(crate) fn new(
        seats: Seats,
        seat: Seat,
        sign: Sign,
        timeouts: LinearTimeouts,
        height: Height,
    ) -> Result<Self> {
        let params = Params {
            address: seat,
            threshold_params: ThresholdParams::default(),
            value_payload: ValuePayload::ProposalAndParts,
            enabled: true,
        };
        let state = State::new(Engine, height, SittingSet::new(&seats), params, WAITING_HEIGHTS, WAITING);
        let hands = Hands { seats, sign, timeouts, acts: VecDeque::new(), noted: BTreeSet::new() };
        Ok(Self { state, hands })
    }

    /// Begins; `noted` is what an earlier process wrote down at this height, in order.
    ///
    /// [`ErrorKind::Malformed`] if it makes no sense: then this authority must not go on, lest it contradict
    /// itself.
    pub(crate) fn begin(&mut self, height: Height, noted: &[Vec<u8>]) -> Result<()> {
        self.hands.noted = noted.iter().cloned().collect();
        let noted: Result<Vec<Noted>> = noted.iter().map(|bytes| decode(bytes, MAX_NOTE)).collect();
        let inputs: Vec<_> = noted?.into_iter().map(Noted::into_input).collect();
        self.state.index_wal_entries(&inputs);
        let set = SittingSet::new(&self.hands.seats);
        let restart = !inputs.is_empty();
        self.process(Input::StartHeight(height, set, restart, None, VoteExtensionPolicy::Disabled))?;
        for input in inputs {
            self.process(input)?;
        }
        self.hands.noted.clear();
        self.state.reset_entries_index();
        Ok(())
    }

    pub(crate) fn height(&self) -> Height {
        self.state.height()
    }

    /// Someone said this. What is wrong in it is left out.
    pub(crate) fn hear(&mut self, said: Said) -> Result<()> {
        self.process(said.into_input())
    }

    pub(crate) fn timeout(&mut self, timeout: Timeout) -> Result<()> {
        self.process(Input::TimeoutElapsed(timeout))
    }

    /// We propose this.
    pub(crate) fn propose(&mut self, round: Round, list: VoteList) -> Result<()> {
        let value = LocallyProposedValue::new(self.height(), round, list);
        self.process(Input::Propose(value))
    }

    /// All that is needed to make a document of `list` is here, and it is sound; or it is not.
    pub(crate) fn judge(&mut self, proposal: &SignedProposal, sound: bool) -> Result<()> {
        let value = ProposedValue {
            height: proposal.height,
            round: proposal.round,
            valid_round: proposal.pol_round,
            proposer: proposal.proposer,
            value: proposal.list.clone(),
            validity: Validity::from_bool(sound),
        };
        self.process(Input::ProposedValue(value, ValueOrigin::Consensus))
    }

    pub(crate) fn poll(&mut self) -> Option<Act> {
        let mut act = self.hands.acts.pop_front()?;
        if let Act::Decide(decision) = &mut act
            && let Some((_, list)) = self.state.decided_value()
        {
            decision.list = list;
        }
        Some(act)
    }

    fn process(&mut self, input: Input<Engine>) -> Result<()> {
        let Self { state, hands } = self;
        let done: Result<(), malachite::Error<Engine>> = process!(
            input: input,
            state: state,
            metrics: &(),
            with: effect => hands.act(effect)
        );
        done.map_err(|error| Error::new(ErrorKind::Misuse, format!("the agreement cannot go on: {error}")))
    }
}

impl Hands {
    fn act(&mut self, effect: Effect<Engine>) -> Result<Resume<Engine>> {
        Ok(match effect {
            Effect::CancelAllTimeouts(resume) => {
                self.acts.push_back(Act::CancelAll);
                resume.resume_with(())
            }
            Effect::CancelTimeout(timeout, resume) => {
                self.acts.push_back(Act::Cancel(timeout));
                resume.resume_with(())
            }
            Effect::ScheduleTimeout(timeout, resume) => {
                let after = self.timeouts.duration_for(timeout);
                self.acts.push_back(Act::Schedule(timeout, after));
                resume.resume_with(())
            }
            Effect::StartRound(.., resume) => resume.resume_with(()),
            Effect::PublishConsensusMsg(message, resume) => {
                self.say(match message {
                    SignedConsensusMsg::Vote(ballot) => Said::Ballot(ballot),
                    SignedConsensusMsg::Proposal(proposal) => Said::Proposal(proposal),
                });
                resume.resume_with(())
            }
            Effect::PublishLivenessMsg(message, resume) => {
                self.say(match message {
                    LivenessMsg::Vote(ballot) => Said::Ballot(ballot),
                    LivenessMsg::PolkaCertificate(certificate) => Said::Polka(certificate),
                    LivenessMsg::SkipRoundCertificate(certificate) => Said::Round(certificate),
                });
                resume.resume_with(())
            }
            Effect::RepublishVote(ballot, resume) => {
                self.say(Said::Ballot(ballot));
                resume.resume_with(())
            }
            Effect::RepublishRoundCertificate(certificate, resume) => {
                self.say(Said::Round(certificate));
                resume.resume_with(())
            }
            Effect::GetValue(_, round, _, resume) => {
                self.acts.push_back(Act::Propose(round));
                resume.resume_with(())
            }
            // Proposals travel whole, and votes are asked for by their digests.
            Effect::RestreamProposal(.., resume) => resume.resume_with(()),
            Effect::CertVerifiedSyncValue(_, _, resume) => resume.resume_with(()),
            Effect::CertRejectedSyncValue(_, _, _, resume) => resume.resume_with(()),
            Effect::Decide(certificate, _, resume) => {
                self.acts.push_back(Act::Decide(decision(certificate)));
                resume.resume_with(())
            }
            Effect::SignVote(ballot, resume) => {
                let signature =
                    sign_over(BALLOT, &ballot_body(&self.seats, &ballot), |body| (self.sign)(body));
                resume.resume_with(SignedMessage::new(ballot, Signature(signature)))
            }
            Effect::SignProposal(proposal, resume) => {
                let body = proposal_body(&self.seats, &proposal);
                let signature = sign_over(PROPOSAL, &body, |body| (self.sign)(body));
                resume.resume_with(SignedMessage::new(proposal, Signature(signature)))
            }
            Effect::VerifySignature(message, _, resume) => {
                let SignedMessage { message, signature } = message;
                resume.resume_with(match message {
                    ConsensusMsg::Vote(ballot) => {
                        verify_ballot(&self.seats, &SignedMessage::new(ballot, signature))
                    }
                    ConsensusMsg::Proposal(proposal) => {
                        verify_proposal(&self.seats, &SignedMessage::new(proposal, signature))
                    }
                })
            }
            Effect::VerifyCommitCertificate(certificate, _, _, resume) => {
                let voters = certificate.commit_signatures.iter().map(|by| {
                    let ballot = Ballot {
                        height: certificate.height,
                        round: certificate.round,
                        kind: VoteType::Precommit,
                        list: NilOrVal::Val(certificate.value_id),
                        voter: by.address,
                    };
                    SignedMessage::new(ballot, by.signature)
                });
                resume.resume_with(self.enough(voters, self.seats.quorum()))
            }
            // Nobody syncs by the engine: see `Decision`.
            Effect::VerifyExtendedCommitCertificate(.., resume) => resume.resume_with(self.none()),
            Effect::VerifyPolkaCertificate(certificate, _, _, resume) => {
                let voters = certificate
                    .polka_signatures
                    .iter()
                    .map(|by| SignedMessage::new(polka_ballot(&certificate, by), by.signature));
                resume.resume_with(self.enough(voters, self.seats.quorum()))
            }
            Effect::VerifyRoundCertificate(certificate, _, _, resume) => {
                let least = match certificate.cert_type {
                    RoundCertificateType::Skip => self.seats.faulty() + 1,
                    RoundCertificateType::Precommit => self.seats.quorum(),
                };
                let precommits = certificate.cert_type == RoundCertificateType::Precommit;
                let voters = certificate
                    .round_signatures
                    .iter()
                    .filter(|by| !precommits || by.vote_type == VoteType::Precommit)
                    .map(|by| round_ballot(certificate.height, certificate.round, by));
                resume.resume_with(self.enough(voters, least))
            }
            Effect::WalAppend(_, input, resume) => {
                if let Some(note) = Noted::of(&input).map(|noted| encode(&noted))
                    && !self.noted.contains(&note)
                {
                    self.acts.push_back(Act::Note(note));
                }
                resume.resume_with(())
            }
            Effect::ExtendVote(.., resume) => resume.resume_with(None),
            Effect::VerifyVoteExtension(.., resume) => resume.resume_with(Ok(())),
            Effect::Finalize(_, _, evidence, resume) => {
                let two = |pair: &(SignedBallot, SignedBallot)| Act::TwoBallots(Box::new(pair.clone()));
                for seat in self.seats.iter() {
                    let ballots = evidence.votes.get(&seat).into_iter().flatten();
                    self.acts.extend(ballots.map(two));
                    let proposals = evidence.proposals.get(&seat).into_iter().flatten();
                    self.acts.extend(proposals.map(|pair| Act::TwoProposals(Box::new(pair.clone()))));
                }
                resume.resume_with(())
            }
        })
    }

    fn say(&mut self, said: Said) {
        self.acts.push_back(Act::Say(said));
    }

    /// So many have signed, each counted once, and nobody's signature is wrong.
    fn enough(
        &self,
        ballots: impl Iterator<Item = SignedBallot>,
        least: usize,
    ) -> Result<(), CertificateError<Engine>> {
        let mut voters = BTreeSet::new();
        for ballot in ballots {
            if !verify_ballot(&self.seats, &ballot) {
                return self.none();
            }
            voters.insert(ballot.voter);
        }
        let (signed, expected) = (voters.len() as u64, least as u64);
        match signed >= expected {
            true => Ok(()),
            false => Err(CertificateError::NotEnoughVotingPower {
                signed,
                total: self.seats.count() as u64,
                expected,
            }),
        }
    }

    fn none(&self) -> Result<(), CertificateError<Engine>> {
        let expected = self.seats.quorum() as u64;
        Err(CertificateError::NotEnoughVotingPower { signed: 0, total: self.seats.count() as u64, expected })
    }
}

/// True if the ballot is its voter's.
pub(crate) fn verify_ballot(seats: &Seats, ballot: &SignedBallot) -> bool {
    seats.verify(ballot.voter, BALLOT, &ballot_body(seats, &ballot.message), &ballot.signature.0)
}

/// True if the proposal is its proposer's.
pub(crate) fn verify_proposal(seats: &Seats, proposal: &SignedProposal) -> bool {
    let body = proposal_body(seats, &proposal.message);
    seats.verify(proposal.proposer, PROPOSAL, &body, &proposal.signature.0)
}

fn decision(certificate: CommitCertificate<Engine>) -> Decision {
    let CommitCertificate { height, round, value_id, commit_signatures } = certificate;
    let ballots = commit_signatures.into_iter().map(|by| {
        let list = NilOrVal::Val(value_id);
        let ballot = Ballot { height, round, kind: VoteType::Precommit, list, voter: by.address };
        SignedMessage::new(ballot, by.signature)
    });
    // The certificate names the list by its digest: `poll` fills it in.
    Decision { height, list: VoteList(Vec::new()), ballots: ballots.collect() }
}

/// Heights whose messages wait for theirs to begin, and messages of each.
const WAITING_HEIGHTS: usize = 2;
const WAITING: usize = 1_024;
/// Largest note, in bytes.
pub(crate) const MAX_NOTE: usize = 64 * 1024;
