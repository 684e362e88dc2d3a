use crate::agreement::{Decision, Sign};
use crate::carry::Carry;
use crate::document::{Document, METHODS, Past, make};
use crate::engine::{
    BALLOT, Ballot, Digest, Height, PROPOSAL, Proposal, Signature, SignedBallot, VoteList, ballot_body,
    proposal_body,
};
use crate::evidence::Proof;
use crate::papers::{Paper, Papers, Standing};
use crate::vote::{Dialled, Lot, Rules, Seen, SignedVote, Vote};
use crate::{Council, Output, Restored, Seat, Seats, Setup};
use ed25519_dalek::{Signer as _, SigningKey};
use malachite_types::{NilOrVal, Round, SignedMessage, Value as _, VoteType};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::consensus::{
    Descriptor, FamilyCertificate, PeriodKeys, ProtocolNumber, RelayKind, ServiceKeys, sign_over,
};
use mizzle_protocol::id::{AuthorityId, FamilyId, Period, RelayId};
use mizzle_protocol::path::Parameters;
use mizzle_protocol::sphinx::SecretKey;
use mizzle_protocol::time::UnixTime;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const START: UnixTime = UnixTime(1_800_000_000);

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

/// Four authorities, and the key of each seat.
fn four() -> (Seats, Vec<SigningKey>) {
    let mut keys: Vec<_> = (101..105).map(key).collect();
    keys.sort_by_key(|key| key.verifying_key().to_bytes());
    let ids: Vec<_> = keys.iter().map(|key| AuthorityId(key.verifying_key().to_bytes())).collect();
    (Seats::new("local", &ids).unwrap(), keys)
}

fn descriptor(number: u8, kind: RelayKind, family: Option<u8>) -> (Digest, Paper) {
    let relay_key = key(number);
    let relay = RelayId(relay_key.verifying_key().to_bytes());
    let mut rng = ChaCha20Rng::seed_from_u64(u64::from(number));
    let keys = (0..3).map(|period| PeriodKeys {
        period: Period(period),
        mix: SecretKey::generate(&mut rng).public(),
        service: None,
    });
    let family = family.map(|family| {
        let family_key = key(family ^ 0xf0);
        let id = FamilyId(family_key.verifying_key().to_bytes());
        let day = Duration::from_secs(86_400);
        let sign = |body: &[u8]| family_key.sign(body).to_bytes();
        FamilyCertificate::issue(id, "local", relay, START, day, sign).unwrap()
    });
    let descriptor = Descriptor {
        network: "local".into(),
        relay,
        kind,
        addresses: vec![SocketAddr::from(([127, number, 0, 1], 7_000))],
        keys: keys.collect(),
        family,
        protocols: ProtocolNumber::SUPPORTED.to_vec(),
        software: "test".into(),
        published: START,
        announced_rate: 5_000,
        country: None,
        carried_rate: Some(0),
    };
    let bytes = descriptor.to_signed_bytes(|body| relay_key.sign(body).to_bytes());
    (Digest::of(&bytes), Paper { descriptor: Arc::new(descriptor), bytes: bytes.into() })
}

fn rules() -> Rules {
    Rules {
        methods: METHODS.to_vec(),
        parameters: Parameters::local(),
        required: ProtocolNumber::SUPPORTED.to_vec(),
        recommended: ProtocolNumber::SUPPORTED.to_vec(),
        cap: 20,
        settled: true,
    }
}

/// What all four say of these relays: each reached, and measured to carry 2 000.
struct Hall {
    seats: Seats,
    keys: Vec<SigningKey>,
    papers: BTreeMap<Digest, Paper>,
    votes: Vec<Vote>,
}

impl Hall {
    fn new(relays: Vec<(Digest, Paper)>) -> Self {
        let (seats, keys) = four();
        let mut seen: Vec<_> = relays
            .iter()
            .map(|(digest, paper)| Seen {
                relay: paper.descriptor.relay,
                descriptor: *digest,
                approved: true,
                revoked: false,
                dialled: Some(Dialled {
                    reachable: paper.descriptor.addresses.clone(),
                    failure: None,
                    rate: Some(2_000),
                }),
            })
            .collect();
        seen.sort_by_key(|seen| seen.relay);
        let votes = seats.iter().map(|seat| Vote {
            network: "local".into(),
            authority: seats.authority(seat).unwrap(),
            height: Height(0),
            attempt: 0,
            previous: None,
            time: START + Duration::from_secs(u64::from(seat.0)),
            rules: rules(),
            lot: Lot::default(),
            relays: seen.clone(),
        });
        Self { votes: votes.collect(), seats, keys, papers: relays.into_iter().collect() }
    }

    fn edit(&mut self, seats: &[usize], relay: usize, edit: impl Fn(&mut Seen)) {
        let digest = *self.papers.keys().nth(relay).unwrap();
        for &seat in seats {
            let seen = self.votes[seat].relays.iter_mut().find(|seen| seen.descriptor == digest);
            edit(seen.unwrap());
        }
    }

    fn signed(&self) -> Vec<SignedVote> {
        let all = self.votes.iter().zip(&self.keys).zip(self.seats.iter());
        all.map(|((vote, key), seat)| SignedVote::sign(vote.clone(), seat, |body| key.sign(body).to_bytes()))
            .collect()
    }

    fn document_of(&self, seats: &[usize]) -> mizzle_protocol::Result<Document> {
        let signed = self.signed();
        let votes: Vec<_> = seats.iter().map(|&seat| &signed[seat]).collect();
        let past = Past { document: None, service_keys: ServiceKeys::new(), carry: Carry::genesis("local") };
        let find = |digest: &Digest| self.papers.get(digest).map(|paper| paper.descriptor.clone());
        make(&self.seats, Height(0), &past, &votes, &find)
    }

    fn document(&self) -> Document {
        self.document_of(&[0, 1, 2, 3]).unwrap()
    }
}

fn mixes(count: u8) -> Vec<(Digest, Paper)> {
    (1..=count).map(|number| descriptor(number, RelayKind::Mix, None)).collect()
}

#[test]
fn a_vote_is_read_as_it_was_signed_and_a_changed_one_is_not() {
    let hall = Hall::new(mixes(3));
    let signed = hall.signed().remove(1);
    let read = SignedVote::from_bytes(signed.bytes(), &hall.seats).unwrap();
    assert_eq!((read.vote, read.seat, read.digest), (signed.vote.clone(), Seat(1), signed.digest));
    let other = Seats::new("other", &[hall.seats.authority(Seat(1)).unwrap()]).unwrap();
    let kind = |bytes: &[u8], seats: &Seats| SignedVote::from_bytes(bytes, seats).unwrap_err().kind();
    assert_eq!(kind(signed.bytes(), &other), ErrorKind::Incompatible);
    for place in 0..signed.bytes().len() {
        let mut changed = signed.bytes().to_vec();
        changed[place] ^= 1;
        SignedVote::from_bytes(&changed, &hall.seats).unwrap_err();
    }
    let stranger = Seats::new("local", &[AuthorityId(key(9).verifying_key().to_bytes())]).unwrap();
    assert_eq!(kind(signed.bytes(), &stranger), ErrorKind::Forged);
}

#[test]
fn who_is_reached_by_most_runs_and_who_is_not_is_told_by_how_many() {
    let mut hall = Hall::new(mixes(4));
    let unreached = |seen: &mut Seen| {
        let dialled = seen.dialled.as_mut().unwrap();
        dialled.reachable.clear();
        dialled.failure = Some("no answer".into());
    };
    // One may lie, and one may be cut off itself.
    hall.edit(&[0], 0, unreached);
    hall.edit(&[1, 2], 1, unreached);
    let consensus = hall.document().consensus;
    assert_eq!(consensus.relays.len(), 3);
    assert_eq!(consensus.not_running.len(), 1);
    assert_eq!(consensus.not_running[0].reason, "reached by 2 of 4 authorities: no answer");
    // Of three votes two are enough.
    let three = hall.document_of(&[0, 2, 3]).unwrap().consensus;
    assert_eq!(three.relays.len(), 4);
}

#[test]
fn approval_and_revocation_take_more_than_those_who_may_lie() {
    let mut hall = Hall::new(mixes(4));
    hall.edit(&[0, 1, 2], 0, |seen| seen.approved = false);
    hall.edit(&[0, 1], 1, |seen| seen.approved = false);
    hall.edit(&[0], 2, |seen| seen.revoked = true);
    hall.edit(&[0, 1], 3, |seen| seen.revoked = true);
    let consensus = hall.document().consensus;
    let reason = |relay: usize| {
        let id = hall.papers.values().nth(relay).unwrap().descriptor.relay;
        consensus.why_not_running(id).map(str::to_owned)
    };
    assert!(reason(0).unwrap().contains("not approved by enough"));
    assert_eq!(reason(1), None);
    assert_eq!(reason(2), None);
    assert!(reason(3).unwrap().contains("revoked"));
}

#[test]
fn the_weight_is_the_lower_median_and_no_more_than_announced() {
    let mut hall = Hall::new(mixes(3));
    let rate = |rate| move |seen: &mut Seen| seen.dialled.as_mut().unwrap().rate = Some(rate);
    // A liar can praise it to the skies.
    for (seat, measured) in [(0, 500), (1, 600), (2, 700), (3, u32::MAX)] {
        hall.edit(&[seat], 0, rate(measured));
    }
    hall.edit(&[0, 1, 2, 3], 1, rate(90_000));
    hall.edit(&[0, 1, 2, 3], 2, |seen| seen.dialled.as_mut().unwrap().rate = None);
    let consensus = hall.document().consensus;
    let weight = |relay: usize| {
        consensus.relay(hall.papers.values().nth(relay).unwrap().descriptor.relay).unwrap().weight
    };
    assert_eq!([weight(0), weight(1), weight(2)], [600, 5_000, 1_000]);
}

#[test]
fn a_hundred_relays_of_one_family_get_the_cap() {
    let mut relays: Vec<_> = (1..=100).map(|number| descriptor(number, RelayKind::Entry, Some(7))).collect();
    relays.push(descriptor(120, RelayKind::Entry, None));
    let mut hall = Hall::new(relays);
    // A liar cannot raise it.
    hall.votes[3].rules.cap = u32::MAX;
    let consensus = hall.document().consensus;
    assert_eq!(consensus.relays.len(), 21);
    assert!(consensus.not_running.iter().all(|relay| relay.reason.contains("its family has 20 relays")));
}

#[test]
fn more_mixes_than_the_traffic_fills_stand_by() {
    let mut hall = Hall::new(mixes(15));
    let wide = hall.document();
    assert_eq!(wide.consensus.relays.len(), 15);
    // In the next document it is known what they carry: nothing.
    let past = Past {
        document: Some((
            mizzle_protocol::consensus::Signed::new(&wide.consensus).hash(),
            wide.consensus.clone(),
        )),
        service_keys: ServiceKeys::new(),
        carry: wide.carry.clone(),
    };
    for vote in &mut hall.votes {
        vote.height = Height(1);
        vote.previous = past.document.as_ref().map(|(hash, _)| *hash);
        // Within the period nobody is sent away; two periods later are dealt anew.
        vote.time = START + Parameters::local().key_period * 2 + Duration::from_secs(300);
    }
    let signed = hall.signed();
    let votes: Vec<_> = signed.iter().collect();
    let find = |digest: &Digest| hall.papers.get(digest).map(|paper| paper.descriptor.clone());
    let narrow = make(&hall.seats, Height(1), &past, &votes, &find).unwrap();
    let at = |period: u32| {
        narrow.carry.layers[&Period(period)].values().fold([0; 3], |mut counts, layer| {
            counts[usize::from(*layer) - 1] += 1;
            counts
        })
    };
    assert_eq!((at(2), at(3), at(4)), ([5, 5, 5], [3, 3, 3], [3, 3, 3]));
}

#[test]
fn times_and_rules_are_those_of_most() {
    let mut hall = Hall::new(mixes(3));
    hall.votes[0].time = UnixTime(5);
    let mut other = Parameters::local();
    other.mean_delay *= 2;
    hall.votes[1].rules.parameters = other;
    let consensus = hall.document().consensus;
    assert_eq!(consensus.valid_after, START + Duration::from_secs(1));
    assert_eq!(consensus.parameters, Parameters::local().rounded());
    assert_eq!(consensus.method, METHODS[0]);
    // A method that too few can follow is none.
    hall.votes[0].rules.methods = vec![METHODS[0], 9];
    assert_eq!(hall.document().consensus.method, METHODS[0]);
    hall.votes[2].rules.methods = vec![9];
    assert_eq!(hall.document_of(&[1, 2, 3]).unwrap_err().kind(), ErrorKind::Incompatible);
}

#[test]
fn the_document_does_not_depend_on_whose_machine_makes_it() {
    let hall = Hall::new(mixes(9));
    let (one, other) = (hall.document(), hall.document());
    assert_eq!(one, other);
    assert_eq!(one.consensus.made.unwrap().carry, one.carry.hash());
    assert_eq!(Carry::from_bytes(&one.carry.to_bytes()).unwrap(), one.carry);
}

#[test]
fn a_list_is_sound_only_with_all_that_it_names() {
    let hall = Hall::new(mixes(2));
    let signed = hall.signed();
    let mut papers = Papers::default();
    let list = VoteList(signed.iter().take(3).map(|vote| (vote.seat, vote.digest)).collect());
    assert_eq!(papers.judge(&hall.seats, &list), Standing::Missing);
    for vote in &signed {
        papers.take(vote.clone(), Height(0), None, false).unwrap();
    }
    assert_eq!(papers.judge(&hall.seats, &list), Standing::Missing);
    assert_eq!(papers.missing([].into_iter(), 10).len(), 2);
    for (digest, paper) in &hall.papers {
        papers.insert(*digest, paper.clone());
    }
    assert_eq!(papers.judge(&hall.seats, &list), Standing::Sound);
    let unsound = |edit: fn(&mut Vec<(Seat, Digest)>)| {
        let mut other = list.clone();
        edit(&mut other.0);
        assert_eq!(papers.judge(&hall.seats, &other), Standing::Unsound, "{other:?}");
    };
    unsound(|list| list.truncate(2));
    unsound(|list| list[1] = list[0]);
    unsound(|list| list.reverse());
    unsound(|list| list[2].0 = Seat(9));
    // A vote in another's seat.
    unsound(|list| list[2].0 = Seat(3));
}

#[test]
fn who_votes_often_fills_nothing_and_is_proven() {
    let mut hall = Hall::new(mixes(2));
    let mut papers = Papers::default();
    let mut proofs = 0;
    for second in 0..100 {
        hall.votes[0].time = START + Duration::from_secs(second);
        let vote = hall.signed().remove(0);
        match papers.take(vote, Height(0), None, false) {
            Ok(Some(proof)) => {
                assert_eq!(proof.verify(&hall.seats).unwrap().0, Seat(0));
                assert_eq!(Proof::from_bytes(&proof.to_bytes()).unwrap(), proof);
                proofs += 1;
            }
            Ok(None) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::Refused),
        }
    }
    assert_eq!(proofs, 3);
    let other = hall.signed().remove(1);
    assert!(Proof::Votes(other.bytes().to_vec(), other.bytes().to_vec()).verify(&hall.seats).is_err());
}

fn ballot(hall: &Hall, seat: u8, round: u32, list: NilOrVal<Digest>) -> SignedBallot {
    let ballot = Ballot {
        height: Height(0),
        round: Round::new(round),
        kind: VoteType::Precommit,
        list,
        voter: Seat(seat),
    };
    let body = ballot_body(&hall.seats, &ballot);
    let key = &hall.keys[usize::from(seat)];
    let signature = sign_over(BALLOT, &body, |body| key.sign(body).to_bytes());
    SignedMessage::new(ballot, Signature(signature))
}

#[test]
fn a_decision_needs_the_precommits_of_one_round_of_more_than_two_thirds() {
    let hall = Hall::new(mixes(2));
    let list = VoteList(hall.signed().iter().map(|vote| (vote.seat, vote.digest)).collect());
    let val = NilOrVal::Val(list.id());
    let decision = |ballots: Vec<SignedBallot>| {
        Decision { height: Height(0), list: list.clone(), ballots }.verify(&hall.seats)
    };
    let cast = |seat, round| ballot(&hall, seat, round, val);
    decision(vec![cast(0, 1), cast(1, 1), cast(3, 1)]).unwrap();
    let mut forged = cast(3, 1);
    forged.message.voter = Seat(2);
    for ballots in [
        vec![cast(0, 1), cast(1, 1)],
        vec![cast(0, 1), cast(1, 1), cast(1, 1)],
        vec![cast(0, 1), cast(1, 1), cast(3, 2)],
        vec![cast(0, 1), cast(1, 1), ballot(&hall, 3, 1, NilOrVal::Nil)],
        vec![cast(0, 1), cast(1, 1), forged],
    ] {
        assert_eq!(decision(ballots).unwrap_err().kind(), ErrorKind::Forged);
    }
}

#[test]
fn two_ballots_or_proposals_in_one_place_are_a_proof_and_in_two_are_none() {
    let hall = Hall::new(mixes(2));
    let proof = |one, other| Proof::Ballots(Box::new((one, other))).verify(&hall.seats);
    let val = NilOrVal::Val(Digest([1; 32]));
    let (seat, sentence) = proof(ballot(&hall, 2, 1, val), ballot(&hall, 2, 1, NilOrVal::Nil)).unwrap();
    assert_eq!(seat, Seat(2));
    assert!(sentence.contains("authority 2 has cast two ballots"), "{sentence}");
    assert!(proof(ballot(&hall, 2, 1, val), ballot(&hall, 2, 2, NilOrVal::Nil)).is_err());
    assert!(proof(ballot(&hall, 2, 1, val), ballot(&hall, 3, 1, NilOrVal::Nil)).is_err());
    let proposal = |list: VoteList| {
        let proposal = Proposal {
            height: Height(0),
            round: Round::new(0),
            list,
            pol_round: Round::Nil,
            proposer: Seat(1),
        };
        let body = proposal_body(&hall.seats, &proposal);
        let signature = sign_over(PROPOSAL, &body, |body| hall.keys[1].sign(body).to_bytes());
        SignedMessage::new(proposal, Signature(signature))
    };
    let (one, other) = (proposal(VoteList(Vec::new())), proposal(VoteList(vec![(Seat(0), Digest([1; 32]))])));
    Proof::Proposals(Box::new((one.clone(), other))).verify(&hall.seats).unwrap();
    assert!(Proof::Proposals(Box::new((one.clone(), one))).verify(&hall.seats).is_err());
}

#[test]
fn a_damaged_log_stops_the_start() {
    let (seats, keys) = four();
    let key = keys[0].clone();
    let sign: Sign = Arc::new(move |body| key.sign(body).to_bytes());
    let setup = Setup { seats, seat: Seat(0), sign, seed: [1; 32] };
    let mut council = Council::new(setup.clone(), Restored::default(), START.instant()).unwrap();
    let mut log = Vec::new();
    while let Some(output) = council.poll_output() {
        if let Output::Log(entry) = output {
            log.push(entry);
        }
    }
    assert!(!log.is_empty());
    let restored =
        |log: Vec<Vec<u8>>| Council::new(setup.clone(), Restored { published: None, log }, START.instant());
    restored(log.clone()).unwrap();
    log.last_mut().unwrap().pop();
    assert_eq!(restored(log).err().unwrap().kind(), ErrorKind::Malformed);
}
