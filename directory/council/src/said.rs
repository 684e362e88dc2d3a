//! What engines say to each other, in bytes; and what an engine writes down of it.

use crate::engine::{
    Ballot, Digest, Engine, Height, Proposal, Signature, SignedBallot, SignedProposal, VoteList, read_round,
    read_seat, write_round,
};
use crate::seats::MAX_SEATS;
use malachite::{Input, ProposedValue};
use malachite_types::{
    NilOrVal, PolkaCertificate, PolkaSignature, Round, RoundCertificate, RoundCertificateType,
    RoundSignature, SignedMessage, Timeout, TimeoutKind, Validity, ValueOrigin, VoteType,
};
use mizzle_protocol::Result;
use mizzle_protocol::consensus::cbor::{Canonical, Reader, Writer, malformed};

/// A message of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A prevote or precommit.
    Ballot(SignedBallot),
    /// A proposal.
    Proposal(SignedProposal),
    /// More than two thirds of prevotes for one list.
    Polka(PolkaCertificate<Engine>),
    /// Why a round has ended.
    Round(RoundCertificate<Engine>),
}

impl Said {
    /// Which document it is about.
    pub fn height(&self) -> Height {
        match self {
            Self::Ballot(ballot) => ballot.height,
            Self::Proposal(proposal) => proposal.height,
            Self::Polka(certificate) => certificate.height,
            Self::Round(certificate) => certificate.height,
        }
    }

    pub(crate) fn into_input(self) -> Input<Engine> {
        match self {
            Self::Ballot(ballot) => Input::Vote(ballot),
            Self::Proposal(proposal) => Input::Proposal(proposal),
            Self::Polka(certificate) => Input::PolkaCertificate(certificate),
            Self::Round(certificate) => Input::RoundCertificate(certificate),
        }
    }
}

/// What an engine writes down before it goes on: read again in order, it stands where it stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    Said(Said),
    Timeout(Timeout),
    Value(ProposedValue<Engine>, ValueOrigin),
}

impl Noted {
    /// `None` for what is not to be written down.
    pub(crate) fn of(input: &Input<Engine>) -> Option<Self> {
        match input {
            Input::Vote(ballot) => Some(Self::Said(Said::Ballot(ballot.clone()))),
            Input::Proposal(proposal) => Some(Self::Said(Said::Proposal(proposal.clone()))),
            Input::PolkaCertificate(certificate) => Some(Self::Said(Said::Polka(certificate.clone()))),
            Input::RoundCertificate(certificate) => Some(Self::Said(Said::Round(certificate.clone()))),
            Input::TimeoutElapsed(timeout) => Some(Self::Timeout(*timeout)),
            Input::ProposedValue(value, origin) => Some(Self::Value(value.clone(), *origin)),
            _ => None,
        }
    }

    pub(crate) fn into_input(self) -> Input<Engine> {
        match self {
            Self::Said(said) => said.into_input(),
            Self::Timeout(timeout) => Input::TimeoutElapsed(timeout),
            Self::Value(value, origin) => Input::ProposedValue(value, origin),
        }
    }
}

impl Canonical for Said {
    fn write(&self, out: &mut Writer) {
        out.array(2);
        match self {
            Self::Ballot(ballot) => {
                out.uint(0);
                write_ballot(out, ballot);
            }
            Self::Proposal(proposal) => {
                out.uint(1);
                out.array(2);
                proposal.message.write(out);
                out.bytes(&proposal.signature.0);
            }
            Self::Polka(certificate) => {
                out.uint(2);
                out.array(4);
                out.uint(certificate.height.0);
                write_round(out, certificate.round);
                out.bytes(&certificate.value_id.0);
                out.array(certificate.polka_signatures.len());
                for signature in &certificate.polka_signatures {
                    write_by(out, signature.address, signature.signature);
                }
            }
            Self::Round(certificate) => {
                out.uint(3);
                out.array(4);
                out.uint(certificate.height.0);
                write_round(out, certificate.round);
                out.uint(u64::from(certificate.cert_type == RoundCertificateType::Precommit));
                out.array(certificate.round_signatures.len());
                for signature in &certificate.round_signatures {
                    write_ballot(out, &round_ballot(certificate.height, certificate.round, signature));
                }
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        expect(input, 2)?;
        match input.uint(3)? {
            0 => read_ballot(input).map(Self::Ballot),
            1 => {
                expect(input, 2)?;
                let message = Proposal::read(input)?;
                Ok(Self::Proposal(SignedMessage::new(message, Signature(input.fixed()?))))
            }
            2 => read_polka(input).map(Self::Polka),
            _ => read_round_certificate(input).map(Self::Round),
        }
    }
}

impl Canonical for Noted {
    fn write(&self, out: &mut Writer) {
        out.array(2);
        match self {
            Self::Said(said) => {
                out.uint(0);
                said.write(out);
            }
            Self::Timeout(timeout) => {
                out.uint(1);
                out.array(2);
                write_round(out, timeout.round);
                out.uint(match timeout.kind {
                    TimeoutKind::Propose => 0,
                    TimeoutKind::Prevote => 1,
                    TimeoutKind::Precommit => 2,
                    TimeoutKind::Rebroadcast | TimeoutKind::FinalizeHeight(_) => 3,
                });
            }
            Self::Value(value, origin) => {
                out.uint(2);
                out.array(7);
                out.uint(value.height.0);
                write_round(out, value.round);
                write_round(out, value.valid_round);
                out.uint(u64::from(value.proposer.0));
                value.value.write(out);
                out.uint(u64::from(value.validity.is_valid()));
                out.uint(u64::from(origin.is_sync()));
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        expect(input, 2)?;
        match input.uint(2)? {
            0 => Said::read(input).map(Self::Said),
            1 => {
                expect(input, 2)?;
                let round = read_round(input)?;
                let kind = match input.uint(3)? {
                    0 => TimeoutKind::Propose,
                    1 => TimeoutKind::Prevote,
                    2 => TimeoutKind::Precommit,
                    _ => TimeoutKind::Rebroadcast,
                };
                Ok(Self::Timeout(Timeout::new(round, kind)))
            }
            _ => {
                expect(input, 7)?;
                let value = ProposedValue {
                    height: Height(input.uint(u64::MAX)?),
                    round: read_round(input)?,
                    valid_round: read_round(input)?,
                    proposer: read_seat(input)?,
                    value: VoteList::read(input)?,
                    validity: Validity::from_bool(input.uint(1)? == 1),
                };
                let origin = if input.uint(1)? == 1 { ValueOrigin::Sync } else { ValueOrigin::Consensus };
                Ok(Self::Value(value, origin))
            }
        }
    }
}

pub(crate) fn write_ballot(out: &mut Writer, ballot: &SignedBallot) {
    out.array(2);
    ballot.message.write(out);
    out.bytes(&ballot.signature.0);
}

pub(crate) fn read_ballot(input: &mut Reader<'_>) -> Result<SignedBallot> {
    expect(input, 2)?;
    let message = Ballot::read(input)?;
    Ok(SignedMessage::new(message, Signature(input.fixed()?)))
}

/// The ballot that a round certificate holds a signature of.
pub(crate) fn round_ballot(height: Height, round: Round, signature: &RoundSignature<Engine>) -> SignedBallot {
    let ballot = Ballot {
        height,
        round,
        kind: signature.vote_type,
        list: signature.value_id,
        voter: signature.address,
    };
    SignedMessage::new(ballot, signature.signature)
}

/// The prevote that a polka holds a signature of.
pub(crate) fn polka_ballot(
    certificate: &PolkaCertificate<Engine>,
    signature: &PolkaSignature<Engine>,
) -> Ballot {
    Ballot {
        height: certificate.height,
        round: certificate.round,
        kind: VoteType::Prevote,
        list: NilOrVal::Val(certificate.value_id),
        voter: signature.address,
    }
}

fn read_polka(input: &mut Reader<'_>) -> Result<PolkaCertificate<Engine>> {
    expect(input, 4)?;
    let (height, round) = (Height(input.uint(u64::MAX)?), read_round(input)?);
    let value_id = Digest(input.fixed()?);
    let mut polka_signatures = Vec::new();
    for _ in 0..input.array(MAX_SEATS)? {
        expect(input, 2)?;
        polka_signatures.push(PolkaSignature::new(read_seat(input)?, Signature(input.fixed()?)));
    }
    defined(round)?;
    Ok(PolkaCertificate { height, round, value_id, polka_signatures })
}

fn read_round_certificate(input: &mut Reader<'_>) -> Result<RoundCertificate<Engine>> {
    expect(input, 4)?;
    let (height, round) = (Height(input.uint(u64::MAX)?), read_round(input)?);
    let cert_type = match input.uint(1)? {
        0 => RoundCertificateType::Skip,
        _ => RoundCertificateType::Precommit,
    };
    let mut round_signatures = Vec::new();
    for _ in 0..input.array(2 * MAX_SEATS)? {
        let ballot = read_ballot(input)?;
        if ballot.height != height || ballot.round != round {
            return Err(malformed("a ballot in a certificate is of another round"));
        }
        let SignedMessage { message, signature } = ballot;
        round_signatures.push(RoundSignature::new(message.kind, message.list, message.voter, signature));
    }
    defined(round)?;
    Ok(RoundCertificate { height, round, cert_type, round_signatures })
}

fn write_by(out: &mut Writer, seat: crate::seats::Seat, signature: Signature) {
    out.array(2);
    out.uint(u64::from(seat.0));
    out.bytes(&signature.0);
}

fn defined(round: Round) -> Result<()> {
    match round.is_defined() {
        true => Ok(()),
        false => Err(malformed("a certificate is of a round")),
    }
}

fn expect(input: &mut Reader<'_>, items: usize) -> Result<()> {
    match input.array(items)? == items {
        true => Ok(()),
        false => Err(malformed("a message has another number of parts")),
    }
}
