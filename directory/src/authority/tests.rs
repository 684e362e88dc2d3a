use super::*;
use ed25519_dalek::{Signer, SigningKey};
use mizzle_protocol::consensus::{FamilyCertificate, PeriodKeys};
use mizzle_protocol::country::Country;
use mizzle_protocol::id::FamilyId;
use mizzle_protocol::mix::Role;
use mizzle_protocol::session::ServiceSecret;
use mizzle_protocol::sphinx::SecretKey;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

const START: UnixTime = UnixTime(1_800_000_000);

pub(super) fn at(seconds: u64) -> Instant {
    START.instant() + Duration::from_secs(seconds)
}

fn millis(millis: u64) -> Instant {
    START.instant() + Duration::from_millis(millis)
}

pub(super) fn settings(expected: usize) -> Settings {
    Settings {
        network: "local".into(),
        parameters: Parameters::local(),
        approval: Approval::All,
        expected,
        bootstrap: Duration::from_secs(10),
    }
}

#[derive(Clone)]
pub(super) struct Relay {
    pub(super) key: SigningKey,
    pub(super) kind: RelayKind,
    pub(super) address: SocketAddr,
    /// What it announces after that.
    pub(super) others: Vec<SocketAddr>,
    /// The number of the family that certifies it.
    pub(super) family: Option<u8>,
}

impl Relay {
    pub(super) fn new(number: u8, kind: RelayKind) -> Self {
        Self {
            key: SigningKey::from_bytes(&[number; 32]),
            kind,
            address: SocketAddr::from(([127, number, 0, 1], 7000)),
            others: Vec::new(),
            family: None,
        }
    }

    pub(super) fn id(&self) -> RelayId {
        RelayId(self.key.verifying_key().to_bytes())
    }

    pub(super) fn describe(&self, now: Instant, first: u32) -> Descriptor {
        let mut rng = ChaCha20Rng::seed_from_u64(u64::from(first) << 8 | u64::from(self.key.to_bytes()[0]));
        let keys = (first..first + 3).map(|period| PeriodKeys {
            period: Period(period),
            mix: SecretKey::generate(&mut rng).public(),
            service: (self.kind == RelayKind::Exit)
                .then(|| ServiceSecret::generate(&mut rng).public().unwrap()),
        });
        Descriptor {
            network: "local".into(),
            relay: self.id(),
            kind: self.kind,
            addresses: [self.address].into_iter().chain(self.others.iter().copied()).collect(),
            keys: keys.collect(),
            family: self.family.map(|number| certify(number, self.id(), now)),
            protocols: ProtocolNumber::SUPPORTED.to_vec(),
            software: "test".into(),
            published: now.unix(),
            announced_rate: 5_000,
            country: None,
            carried_rate: None,
        }
    }

    pub(super) fn sign(&self, descriptor: &Descriptor) -> Vec<u8> {
        descriptor.to_signed_bytes(|message| self.key.sign(message).to_bytes())
    }

    pub(super) fn post(
        &self,
        authority: &mut Authority,
        now: Instant,
        first: u32,
    ) -> Result<(RelayId, String)> {
        authority.handle_descriptor(now, &self.sign(&self.describe(now, first)))
    }
}

/// The key of the family with this number.
pub(super) fn family_key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number ^ 0xf0; 32])
}

/// The certificate of a family for a relay, good for a day from now.
pub(super) fn certify(family: u8, relay: RelayId, now: Instant) -> FamilyCertificate {
    let key = family_key(family);
    let id = FamilyId(key.verifying_key().to_bytes());
    let sign = |message: &[u8]| key.sign(message).to_bytes();
    FamilyCertificate::issue(id, "local", relay, now.unix(), Duration::from_secs(86_400), sign).unwrap()
}

/// The relays of a small network: 3 mixes, an entry, an exit.
fn five() -> Vec<Relay> {
    let mixes = (11..=13).map(|number| Relay::new(number, RelayKind::Mix));
    mixes.chain([Relay::new(21, RelayKind::Entry), Relay::new(31, RelayKind::Exit)]).collect()
}

/// Nobody is reached at an address with this port.
pub(super) const NOBODY: u16 = 9;
/// The authority itself has no way to an address with this port.
pub(super) const NO_ROUTE: u16 = 10;

/// Answers every dial at once: `dead` relays refuse, and [`NOBODY`]'s addresses. Returns the documents made.
pub(super) fn answer(authority: &mut Authority, now: Instant, dead: &[RelayId]) -> Vec<Publication> {
    let mut published = Vec::new();
    while let Some(output) = authority.poll_output() {
        match output {
            Output::Probe { relay, addresses } => {
                let judged = addresses.into_iter().filter(|address| address.port() != NO_ROUTE);
                let answers = |address: &SocketAddr| !dead.contains(&relay) && address.port() != NOBODY;
                let (reachable, others): (Vec<_>, Vec<_>) = judged.partition(answers);
                let failure = (!others.is_empty()).then(|| "connection refused".into());
                let outcome = ProbeOutcome { reachable, failure, rate: None };
                authority.handle_probe(now, relay, outcome);
            }
            Output::Publish(publication) => published.push(*publication),
        }
    }
    published
}

/// Runs until `end`; returns when each document was made, and the documents.
pub(super) fn run(authority: &mut Authority, end: Instant, dead: &[RelayId]) -> Vec<(Instant, Publication)> {
    let mut published = Vec::new();
    while authority.poll_timeout() <= end {
        let now = authority.poll_timeout();
        authority.handle_timeout(now);
        published.extend(answer(authority, now, dead).into_iter().map(|document| (now, document)));
        assert!(authority.poll_timeout() > now, "the machine asks for the same moment again");
    }
    published
}

pub(super) fn found(expected: usize) -> Authority {
    let mut authority = Authority::new(settings(expected), at(0), Restored::default()).unwrap();
    let documents = answer(&mut authority, at(0), &[]);
    assert_eq!(documents.len(), 1);
    authority
}

fn complete() -> (Authority, Vec<Relay>) {
    let mut authority = found(5);
    let relays = five();
    for relay in &relays {
        relay.post(&mut authority, at(1), 0).unwrap();
    }
    assert_eq!(answer(&mut authority, at(1), &[]).len(), 1);
    (authority, relays)
}

#[test]
fn a_new_network_begins_with_a_document_that_lists_nobody_and_asks_to_come_back() {
    let mut authority = Authority::new(settings(5), millis(300), Restored::default()).unwrap();
    let [document] = answer(&mut authority, millis(300), &[]).try_into().unwrap();
    let consensus = document.consensus;
    assert_eq!((consensus.epoch, consensus.previous, consensus.origin), (Epoch(0), None, START));
    assert!(consensus.relays.is_empty() && consensus.is_live(millis(300)));
    assert_eq!(consensus.fresh_until, START + Duration::from_secs(1));
}

#[test]
fn the_first_full_document_comes_when_the_last_expected_relay_answers() {
    let mut authority = found(5);
    let founding = authority.document().unwrap().signed.hash();
    let relays = five();
    for relay in &relays[..4] {
        assert_eq!(relay.post(&mut authority, millis(1_500), 0).unwrap().1, "taken");
        assert!(answer(&mut authority, millis(1_600), &[]).is_empty());
    }
    relays[4].post(&mut authority, millis(2_000), 0).unwrap();
    let [document] = answer(&mut authority, millis(2_100), &[]).try_into().unwrap();
    let consensus = document.consensus;
    assert_eq!((consensus.epoch, consensus.relays.len()), (Epoch(1), 5));
    assert_eq!(consensus.valid_after, START + Duration::from_secs(2));
    assert_eq!(consensus.fresh_until, START + Duration::from_secs(22));
    assert_eq!(consensus.previous, Some(founding));
    let topology = consensus.to_topology(Period(0), Some(&document.service_keys));
    assert_eq!(topology.layers.each_ref().map(Vec::len), [1, 1, 1]);
    assert!(topology.exits[0].service_key.is_some());
    assert_eq!(document.service_keys.len(), 3);
}

#[test]
fn an_incomplete_network_is_published_when_the_wait_is_over() {
    let mut authority = found(5);
    let relays = five();
    for relay in &relays[..4] {
        relay.post(&mut authority, at(3), 0).unwrap();
    }
    answer(&mut authority, at(3), &[]);
    let documents = run(&mut authority, at(14), &[]);
    let [(moment, document)] = documents.try_into().unwrap();
    assert_eq!((moment, document.consensus.relays.len()), (at(13), 4));
    assert_eq!(document.consensus.fresh_until, START + Duration::from_secs(33));
}

#[test]
fn documents_come_exactly_each_epoch_and_name_their_predecessor() {
    let (mut authority, _) = complete();
    let documents = run(&mut authority, at(200), &[]);
    assert_eq!(documents.len(), 9);
    let mut previous = None;
    for (index, (moment, document)) in documents.into_iter().enumerate() {
        let consensus = document.consensus;
        assert_eq!(moment, at(1 + 20 * (index as u64 + 1)));
        assert_eq!(consensus.valid_after.instant(), moment);
        assert_eq!(consensus.epoch, Epoch(index as u64 + 2));
        assert!(previous.is_none() || consensus.previous == previous);
        previous = Some(document.signed.hash());
        assert_eq!(consensus.relays.len(), 5);
    }
}

#[test]
fn a_country_is_listed_as_declared_and_follows_the_newest_descriptor() {
    let (mut authority, relays) = complete();
    for (second, code) in [(5, Some("DE")), (25, Some("XX")), (45, None)] {
        let country = code.map(|code| Country::from_document(code).unwrap());
        let descriptor = Descriptor { country, ..relays[4].describe(at(second), 0) };
        assert_eq!(authority.handle_descriptor(at(second), &relays[4].sign(&descriptor)).unwrap().1, "taken");
        let documents = run(&mut authority, at(second + 16), &[]);
        let consensus = &documents[0].1.consensus;
        assert_eq!(consensus.relay(relays[4].id()).unwrap().country, country);
        assert!(consensus.required.contains(&ProtocolNumber::COUNTRY));
        assert!(relays[..4].iter().all(|relay| consensus.relay(relay.id()).unwrap().country.is_none()));
    }
}

#[test]
fn the_pool_is_published_when_every_mix_has_reported_and_is_what_the_least_of_them_says() {
    let (mut authority, relays) = complete();
    let report = |authority: &mut Authority, second: u64, index: usize, rate: u32| {
        let descriptor = Descriptor { carried_rate: Some(rate), ..relays[index].describe(at(second), 0) };
        assert_eq!(
            authority.handle_descriptor(at(second), &relays[index].sign(&descriptor)).unwrap().1,
            "taken"
        );
    };
    let pool = |authority: &mut Authority, second| run(authority, at(second), &[])[0].1.consensus.pool;
    report(&mut authority, 5, 0, 1_024);
    report(&mut authority, 5, 1, 1_024);
    // What gateways carry is of no account, and the third layer has said nothing.
    report(&mut authority, 5, 3, 1_024);
    assert_eq!(pool(&mut authority, 21), None);
    report(&mut authority, 25, 2, 512);
    // 512 a second, for 20 ms.
    assert_eq!(pool(&mut authority, 41), Some(8));
    report(&mut authority, 45, 0, 3 << 20);
    assert_eq!(pool(&mut authority, 61), Some(8));
}

#[test]
fn a_relay_that_announces_a_rest_is_missing_from_the_next_document_with_the_reason_and_returns() {
    let (mut authority, relays) = complete();
    let rest = Descriptor { announced_rate: 0, ..relays[0].describe(at(5), 0) };
    assert_eq!(authority.handle_descriptor(at(5), &relays[0].sign(&rest)).unwrap().1, "taken");
    let documents = run(&mut authority, at(21), &[]);
    let consensus = &documents[0].1.consensus;
    assert!(consensus.relay(relays[0].id()).is_none());
    assert!(consensus.why_not_running(relays[0].id()).unwrap().contains("it rests, or leaves"));
    relays[0].post(&mut authority, at(25), 0).unwrap();
    let documents = run(&mut authority, at(41), &[]);
    assert!(documents[0].1.consensus.relay(relays[0].id()).is_some());
}

#[test]
fn a_relay_that_dies_is_missing_from_the_next_document_with_the_reason_and_returns() {
    let (mut authority, relays) = complete();
    let dead = relays[0].id();
    let documents = run(&mut authority, at(21), &[dead]);
    let consensus = &documents[0].1.consensus;
    assert!(consensus.relay(dead).is_none());
    assert_eq!(consensus.why_not_running(dead), Some("connection refused"));
    let documents = run(&mut authority, at(41), &[]);
    let listed = documents[0].1.consensus.relay(dead).unwrap();
    assert_eq!(listed.at(Period(0)).unwrap().role, {
        let before = authority.layers[&Period(0)][&dead];
        Role::Mix(before)
    });
}

#[test]
fn a_relay_that_is_not_reached_at_one_of_its_addresses_does_not_run_and_is_dialled_again() {
    let (mut authority, mut relays) = complete();
    let relay = &mut relays[0];
    relay.others = vec!["[2001:db8::1]:7000".parse().unwrap()];
    relay.post(&mut authority, at(3), 0).unwrap();
    answer(&mut authority, at(3), &[]);
    let ipv6 = relay.others[0];
    // It runs with both.
    let document = run(&mut authority, at(21), &[]).remove(0).1;
    assert_eq!(document.consensus.relay(relay.id()).unwrap().addresses, [relay.address, ipv6]);
    // The firewall closes one: the next document is without the relay.
    let half = |authority: &mut Authority, end| {
        let mut documents = Vec::new();
        while authority.poll_timeout() <= end {
            let now = authority.poll_timeout();
            authority.handle_timeout(now);
            while let Some(output) = authority.poll_output() {
                match output {
                    Output::Probe { relay, addresses } => {
                        let reachable: Vec<_> =
                            addresses.iter().copied().filter(|address| *address != ipv6).collect();
                        let failure = (reachable != addresses).then(|| "not on IPv6".into());
                        let outcome = ProbeOutcome { reachable, failure, rate: None };
                        authority.handle_probe(now, relay, outcome);
                    }
                    Output::Publish(publication) => documents.push(publication.consensus),
                }
            }
        }
        documents
    };
    let [document] = half(&mut authority, at(41)).try_into().unwrap();
    assert_eq!((document.relays.len(), document.why_not_running(relay.id())), (4, Some("not on IPv6")));
    // Each descriptor is another try, and so is each epoch.
    relay.post(&mut authority, at(43), 0).unwrap();
    assert_eq!(answer(&mut authority, at(43), &[]).len(), 0);
    let documents = run(&mut authority, at(61), &[]);
    assert!(documents[0].1.consensus.relay(relay.id()).is_some());
}

#[test]
fn the_weight_is_what_was_measured_and_no_more_than_what_is_announced() {
    let mut authority = found(1);
    let relay = Relay::new(11, RelayKind::Mix);
    relay.post(&mut authority, at(1), 0).unwrap();
    answer(&mut authority, at(1), &[]);
    let weight = |authority: &Authority| authority.document().unwrap().consensus.relays[0].weight;
    assert_eq!(weight(&authority), 1_000);
    for (epoch, (measured, expected)) in (1..).zip([(500, 500), (0, 0), (6_000, 5_000)]) {
        while authority.poll_timeout() < at(1 + 20 * epoch) {
            let now = authority.poll_timeout();
            authority.handle_timeout(now);
            while authority.poll_output().is_some() {}
            let outcome =
                ProbeOutcome { reachable: vec![relay.address], failure: None, rate: Some(measured) };
            authority.handle_probe(now, relay.id(), outcome);
        }
        run(&mut authority, at(1 + 20 * epoch), &[]);
        assert_eq!(weight(&authority), expected);
    }
}

#[test]
fn a_relay_that_posts_late_waits_for_the_next_document_only() {
    let (mut authority, _) = complete();
    let late = Relay::new(14, RelayKind::Mix);
    late.post(&mut authority, at(20), 0).unwrap();
    assert!(answer(&mut authority, at(20), &[]).is_empty());
    let status = authority.status(at(20)).find(|status| status.id == late.id()).unwrap();
    assert!(!status.listed && status.reason.unwrap().contains("next consensus"));
    let documents = run(&mut authority, at(21), &[]);
    assert!(documents[0].1.consensus.relay(late.id()).is_some());
}

#[test]
fn a_relay_that_answers_is_not_dialled_for_every_descriptor_it_hands_in() {
    let (mut authority, relays) = complete();
    relays[0].post(&mut authority, at(3), 0).unwrap();
    assert!(authority.poll_output().is_none());
    run(&mut authority, at(21), &[relays[0].id()]);
    relays[0].post(&mut authority, at(23), 0).unwrap();
    assert!(matches!(authority.poll_output(), Some(Output::Probe { .. })));
}

#[test]
fn keys_of_a_period_are_listed_until_its_overlap_ends_and_relays_without_new_ones_are_not() {
    let (mut authority, relays) = complete();
    run(&mut authority, at(601), &[]);
    for relay in &relays[1..] {
        relay.post(&mut authority, at(601), 1).unwrap();
    }
    answer(&mut authority, at(601), &[]);
    let periods = |document: &Publication, relay: &Relay| -> Vec<u32> {
        let listed = document.consensus.relay(relay.id()).unwrap();
        listed.periods.iter().map(|at| at.period.0).collect()
    };
    let documents = run(&mut authority, at(760), &[]);
    assert_eq!(periods(&documents[0].1, &relays[4]), [0, 1, 2, 3]);
    assert_eq!(documents[0].1.service_keys.len(), 4);
    assert_eq!(periods(&documents.last().unwrap().1, &relays[4]), [1, 2, 3]);
    // Layers of a period never change once published.
    for relay in &relays[1..3] {
        let role = |document: &Publication| {
            document.consensus.relay(relay.id()).unwrap().at(Period(2)).unwrap().role
        };
        assert!(documents.iter().all(|(_, document)| role(document) == role(&documents[0].1)));
    }
    // The first one never announced keys beyond period 2.
    let documents = run(&mut authority, at(1_801), &[]);
    let last = &documents.last().unwrap().1.consensus;
    let reason = last.why_not_running(relays[0].id()).unwrap();
    assert_eq!(reason, "announces no mix key for the current period");
    // A period after its last key died it is forgotten.
    let documents = run(&mut authority, at(2_541), &[]);
    assert_eq!(documents.last().unwrap().1.consensus.why_not_running(relays[0].id()), None);
}

#[test]
fn a_relay_without_a_key_for_now_is_told_so_at_once() {
    let mut authority = found(5);
    let (_, answer) = five()[0].post(&mut authority, at(1), 1).unwrap();
    assert!(answer.contains("no mix key for the current period"), "{answer}");
}

#[test]
fn descriptors_that_must_not_count_are_refused_each_with_its_kind() {
    let (mut authority, relays) = complete();
    let relay = &relays[0];
    let post = |authority: &mut Authority, descriptor: &Descriptor| {
        authority.handle_descriptor(at(5), &relay.sign(descriptor)).map(drop).map_err(|error| error.kind())
    };
    let good = relay.describe(at(5), 0);
    let later = |seconds| UnixTime(START.0 + seconds);
    assert_eq!(
        post(&mut authority, &Descriptor { published: later(0), ..good.clone() }),
        Err(ErrorKind::Replayed)
    );
    assert_eq!(
        post(&mut authority, &Descriptor { published: later(14), ..good.clone() }),
        Err(ErrorKind::Expired)
    );
    assert_eq!(
        post(&mut authority, &Descriptor { network: "b".into(), ..good.clone() }),
        Err(ErrorKind::Incompatible)
    );
    assert_eq!(
        post(&mut authority, &Descriptor { protocols: vec![], ..good.clone() }),
        Err(ErrorKind::Incompatible)
    );
    assert_eq!(post(&mut authority, &relay.describe(at(5), 2)), Err(ErrorKind::Expired));
    assert_eq!(
        post(&mut authority, &Descriptor { relay: relays[1].id(), ..good.clone() }),
        Err(ErrorKind::Forged)
    );
    let old = START.0 - 1_801;
    assert_eq!(
        post(&mut found(1), &Descriptor { published: UnixTime(old), ..good.clone() }),
        Err(ErrorKind::Expired)
    );
    assert_eq!(post(&mut authority, &good), Ok(()));

    let only = Settings { approval: Approval::Only([relays[1].id()].into()), ..settings(5) };
    let mut authority = Authority::new(only, at(0), Restored::default()).unwrap();
    assert_eq!(post(&mut authority, &good), Err(ErrorKind::Refused));
    assert!(relays[1].post(&mut authority, at(5), 0).is_ok());
}

#[test]
fn an_exit_in_a_family_that_has_entries_is_not_listed() {
    let mut authority = found(5);
    let mut relays = five();
    relays[3].family = Some(1);
    relays[4].family = Some(1);
    for relay in &relays {
        relay.post(&mut authority, at(1), 0).unwrap();
    }
    let documents = answer(&mut authority, at(1), &[]);
    let consensus = &documents[0].consensus;
    // The entry came first.
    assert!(consensus.relay(relays[3].id()).is_some());
    assert!(consensus.why_not_running(relays[4].id()).unwrap().contains("entries or exits"));
}

#[test]
fn an_answer_from_an_address_that_a_relay_has_left_does_not_count() {
    let mut authority = found(1);
    let mut relay = Relay::new(11, RelayKind::Mix);
    relay.post(&mut authority, at(1), 0).unwrap();
    let Some(Output::Probe { addresses: old, .. }) = authority.poll_output() else { panic!("no dial") };
    relay.address = SocketAddr::from(([127, 99, 0, 1], 7000));
    relay.post(&mut authority, at(2), 0).unwrap();
    authority.handle_probe(at(2), relay.id(), ProbeOutcome { reachable: old, failure: None, rate: None });
    let Some(Output::Probe { addresses, .. }) = authority.poll_output() else { panic!("no second dial") };
    assert_eq!(addresses, [relay.address]);
    let outcome = ProbeOutcome { reachable: addresses, failure: None, rate: None };
    authority.handle_probe(at(2), relay.id(), outcome);
    let Some(Output::Publish(document)) = authority.poll_output() else { panic!("no document") };
    assert_eq!(document.consensus.relays[0].addresses, [relay.address]);
}

pub(super) fn restore(authority: &Authority, relays: &[Relay], now: Instant) -> Restored {
    let held = authority.document().unwrap().clone();
    let mut service_keys = ServiceKeys::new();
    for known in authority.relays.values() {
        known.keys.values().filter_map(|keys| keys.service.as_ref()).for_each(|key| service_keys.insert(key));
    }
    Restored {
        document: Some(held),
        service_keys,
        descriptors: relays
            .iter()
            .map(|relay| relay.describe(now, authority.schedule().period(now).0))
            .collect(),
        layers: authority.layers.clone(),
        standings: authority.relays.iter().map(|(&id, known)| (id, known.standing.clone())).collect(),
        revoked: authority.revoked.clone(),
    }
}

#[test]
fn a_restart_within_an_epoch_goes_on_with_the_next_one() {
    let (authority, relays) = complete();
    let held = authority.document().unwrap().clone();
    let mut again = Authority::new(settings(5), at(5), restore(&authority, &relays, at(1))).unwrap();
    assert!(answer(&mut again, at(5), &[]).is_empty());
    let documents = run(&mut again, at(21), &[]);
    let [(moment, document)] = documents.try_into().unwrap();
    assert_eq!(moment, at(21));
    assert_eq!(document.consensus.epoch, Epoch(2));
    assert_eq!(document.consensus.previous, Some(held.signed.hash()));
    assert_eq!(document.consensus.origin, held.consensus.origin);
    let roles = |consensus: &Consensus| -> Vec<_> {
        consensus.relays.iter().map(|relay| relay.at(Period(0)).unwrap().role).collect()
    };
    assert_eq!(roles(&document.consensus), roles(&held.consensus));
}

#[test]
fn a_late_restart_dials_everyone_before_it_publishes() {
    let (authority, relays) = complete();
    let mut again = Authority::new(settings(5), at(50), restore(&authority, &relays, at(1))).unwrap();
    // Dialling takes a while: nothing is published before the answers.
    assert_eq!(again.next_document(), at(50) + PROBE_TIME);
    let [document] = answer(&mut again, at(51), &[relays[0].id()]).try_into().unwrap();
    assert_eq!((document.consensus.epoch, document.consensus.relays.len()), (Epoch(2), 4));
    assert_eq!(document.consensus.valid_after.instant(), at(51));
}

#[test]
fn keys_of_the_former_period_survive_a_restart_in_the_overlap() {
    let (mut authority, relays) = complete();
    run(&mut authority, at(601), &[]);
    for relay in &relays {
        relay.post(&mut authority, at(601), 1).unwrap();
    }
    run(&mut authority, at(621), &[]);
    let mut again = Authority::new(settings(5), at(622), restore(&authority, &relays, at(601))).unwrap();
    answer(&mut again, at(622), &[]);
    let documents = run(&mut again, at(641), &[]);
    let listed = documents[0].1.consensus.relay(relays[4].id()).unwrap();
    assert_eq!(listed.periods.iter().map(|at| at.period.0).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn a_clock_that_went_back_never_makes_a_document_older_than_the_last() {
    let (authority, relays) = complete();
    let restored = restore(&authority, &relays, at(1));
    let mut again = Authority::new(settings(5), at(0) - Duration::from_secs(500), restored).unwrap();
    let documents = answer(&mut again, at(0) - Duration::from_secs(500), &[]);
    assert_eq!(documents.len(), 1);
    assert!(documents.iter().all(|document| document.consensus.valid_after >= START));
}

#[test]
fn the_key_period_of_a_network_cannot_change() {
    let (authority, relays) = complete();
    let mut other = settings(5);
    other.parameters.key_period = Duration::from_secs(700);
    let error = Authority::new(other, at(5), restore(&authority, &relays, at(1))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
}

#[test]
fn every_document_is_one_that_clients_take() {
    let (mut authority, _) = complete();
    let key = SigningKey::from_bytes(&[77; 32]);
    let id = mizzle_protocol::id::AuthorityId(key.verifying_key().to_bytes());
    for (moment, mut document) in run(&mut authority, at(700), &[]) {
        document.signed.sign(id, |message| key.sign(message).to_bytes());
        let bytes = document.signed.to_bytes();
        let read = Signed::from_bytes(&bytes).unwrap().verify(&[id], 1, moment, "local").unwrap();
        assert_eq!(read, document.consensus);
    }
}

/// Hours of relays that come, die, return, move between families, and of an authority that is restarted.
#[test]
fn through_any_history_the_chain_holds_and_published_layers_stay() {
    for seed in 0..2 {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut draw = |below: u64| rand_core::Rng::next_u64(&mut rng) % below;
        let mut relays: Vec<Relay> = (11..=28).map(|number| Relay::new(number, RelayKind::Mix)).collect();
        relays.extend((31..=33).map(|number| Relay::new(number, RelayKind::Entry)));
        relays.extend((41..=42).map(|number| Relay::new(number, RelayKind::Exit)));
        let mut authority = found(relays.len());
        let mut last = authority.document().unwrap().clone();
        let mut published = BTreeMap::new();
        let mut listed = 0;
        for step in 1..=150 {
            let now = at(step * 10);
            let period = authority.schedule().period(now).0;
            let dead: Vec<_> = relays.iter().filter(|_| draw(10) == 0).map(Relay::id).collect();
            for relay in &mut relays {
                if draw(8) == 0 {
                    relay.family = (draw(3) == 0).then(|| draw(4) as u8);
                }
                if draw(3) > 0 {
                    relay.post(&mut authority, now, period).unwrap();
                }
            }
            let mut documents = answer(&mut authority, now, &dead);
            documents.extend(run(&mut authority, now, &dead).into_iter().map(|(_, document)| document));
            if draw(10) == 0 {
                let mut restored = restore(&authority, &relays, now);
                restored.descriptors.retain(|_| draw(5) > 0);
                authority = Authority::new(settings(relays.len()), now, restored).unwrap();
                documents.extend(answer(&mut authority, now, &dead));
            }
            for document in documents {
                let consensus = &document.consensus;
                assert_eq!(consensus.epoch.0, last.consensus.epoch.0 + 1);
                consensus.check_follows(document.signed.hash(), &last.consensus, last.signed.hash()).unwrap();
                let mut layer_of_tie = BTreeMap::new();
                for relay in &consensus.relays {
                    listed += 1;
                    assert!(relay.at(consensus.period(now)).is_some());
                    for at in &relay.periods {
                        let role = *published.entry((at.period, relay.id)).or_insert(at.role);
                        assert_eq!(role, at.role, "a published role has changed");
                        for tie in mizzle_council::Tie::all(relay.family, &relay.addresses) {
                            if matches!(role, Role::Mix(_)) {
                                let layer = *layer_of_tie.entry((at.period, tie)).or_insert(role);
                                assert_eq!(layer, role, "a family or subnet in two layers");
                            }
                        }
                    }
                }
                last = Held { signed: document.signed, consensus: document.consensus };
            }
        }
        assert!(last.consensus.epoch.0 >= 70 && listed > 500, "{} {listed}", last.consensus.epoch.0);
    }
}
