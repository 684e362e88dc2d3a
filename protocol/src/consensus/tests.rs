mod diff;
mod faults;

use super::*;
use crate::country::Country;
use crate::id::{AuthorityId, Epoch, FamilyId, Period, RelayId};
use crate::level::{Levels, Pace};
use crate::mix::Role;
use crate::path::Parameters;
use crate::session::{ServiceKey, ServiceSecret};
use crate::sphinx::{PublicKey, SecretKey};
use crate::time::{Instant, UnixTime};
use crate::{ErrorKind, Result};
use core::net::SocketAddr;
use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

const NETWORK: &str = "local";
const START: UnixTime = UnixTime(1_800_000_000);

struct Authority(SigningKey);

impl Authority {
    fn new(seed: u8) -> Self {
        Self(SigningKey::from_bytes(&[seed; 32]))
    }

    fn id(&self) -> AuthorityId {
        AuthorityId(self.0.verifying_key().to_bytes())
    }

    fn sign(&self, signed: &mut Signed) {
        signed.sign(self.id(), |message| self.0.sign(message).to_bytes());
    }
}

static SERVICE_KEYS: LazyLock<Vec<ServiceKey>> = LazyLock::new(|| {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    (0..3).map(|_| ServiceSecret::generate(&mut rng).public().unwrap()).collect()
});

fn mix_key(seed: u8) -> PublicKey {
    SecretKey::from_bytes([seed; 32]).public()
}

fn listed(id: u8, role: Role) -> ListedRelay {
    let at = |period: u32| RelayPeriod {
        period: Period(period),
        role,
        mix_key: mix_key(id.wrapping_add(period as u8)),
        service_key: (role == Role::Exit).then(|| SERVICE_KEYS[period as usize].digest()),
    };
    ListedRelay {
        id: RelayId([id; 32]),
        addresses: vec!["127.11.0.1:7000".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap()],
        periods: (0..3).map(at).collect(),
        family: id.is_multiple_of(2).then_some(FamilyId([7; 32])),
        weight: u32::from(id) * 100,
        country: (id == 5).then(|| "DE".parse().unwrap()),
    }
}

fn consensus() -> Consensus {
    let parameters = Parameters::local();
    Consensus {
        method: 1,
        network: NETWORK.into(),
        epoch: Epoch(3),
        valid_after: START,
        fresh_until: START + parameters.epoch,
        valid_until: START + parameters.epoch * 3,
        previous: Some(DocumentHash([9; 32])),
        parameters,
        origin: START,
        required: vec![ProtocolNumber::LINK, ProtocolNumber::PACKET],
        recommended: ProtocolNumber::SUPPORTED.to_vec(),
        relays: vec![
            listed(1, Role::Mix(1)),
            listed(2, Role::Mix(2)),
            listed(3, Role::Mix(3)),
            listed(4, Role::Entry),
            listed(5, Role::Exit),
        ],
        not_running: vec![NotRunning { id: RelayId([6; 32]), reason: "no answer".into() }],
        pool: Some(24),
        made: Some(Made { votes: [1; 32], carry: [2; 32], beacon: [3; 32] }),
        later: BTreeMap::new(),
    }
}

fn signed(consensus: &Consensus, authorities: &[&Authority]) -> Signed {
    let mut signed = Signed::new(consensus);
    authorities.iter().for_each(|authority| authority.sign(&mut signed));
    signed
}

/// What a client of a network with these authorities makes of `bytes`.
fn take(bytes: &[u8], authorities: &[&Authority], threshold: usize, now: Instant) -> Result<Consensus> {
    let ids: Vec<_> = authorities.iter().map(|authority| authority.id()).collect();
    Signed::from_bytes(bytes)?.verify(&ids, threshold, now, NETWORK)
}

fn kind_of_refusal(consensus: &Consensus, now: Instant) -> ErrorKind {
    let authority = Authority::new(1);
    take(&signed(consensus, &[&authority]).to_bytes(), &[&authority], 1, now).unwrap_err().kind()
}

fn now() -> Instant {
    START.instant() + Duration::from_secs(5)
}

#[test]
fn a_signed_consensus_arrives_as_it_was() {
    let authority = Authority::new(1);
    for document in
        [consensus(), Consensus { previous: None, relays: vec![], not_running: vec![], ..consensus() }]
    {
        let bytes = signed(&document, &[&authority]).to_bytes();
        assert_eq!(take(&bytes, &[&authority], 1, now()), Ok(document));
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let authority = Authority::new(1);
    let document = Consensus { relays: vec![listed(5, Role::Exit)], ..consensus() };
    let bytes = signed(&document, &[&authority]).to_bytes();
    let mut kinds = BTreeMap::<_, u32>::new();
    for position in 0..bytes.len() * 8 {
        let mut altered = bytes.clone();
        altered[position / 8] ^= 1 << (position % 8);
        let error = take(&altered, &[&authority], 1, now()).expect_err("an altered consensus was taken");
        *kinds.entry(error.kind()).or_default() += 1;
    }
    // Framing breaks parsing, all else the signature; nothing gets further.
    assert!(kinds.keys().all(|kind| matches!(kind, ErrorKind::Malformed | ErrorKind::Forged)), "{kinds:?}");
    assert!(kinds[&ErrorKind::Forged] > 1_000, "{kinds:?}");
}

#[test]
fn every_truncation_is_malformed() {
    let authority = Authority::new(1);
    let bytes = signed(&consensus(), &[&authority]).to_bytes();
    for length in 0..bytes.len() {
        assert_eq!(Signed::from_bytes(&bytes[..length]).unwrap_err().kind(), ErrorKind::Malformed);
    }
}

#[test]
fn signers_count_once_and_only_if_known() {
    let (one, two, three, stranger) =
        (Authority::new(1), Authority::new(2), Authority::new(3), Authority::new(4));
    let all = [&one, &two, &three];
    let document = consensus();
    let verify = |signers: &[&Authority]| take(&signed(&document, signers).to_bytes(), &all, 2, now());
    assert!(verify(&[&one, &two]).is_ok());
    assert!(verify(&[&three, &one, &stranger]).is_ok());
    for too_few in [&[&one][..], &[], &[&one, &one], &[&one, &stranger], &[&stranger]] {
        assert_eq!(verify(too_few).unwrap_err().kind(), ErrorKind::Forged);
    }
    // A threshold of zero is no threshold.
    assert!(take(&signed(&document, &[]).to_bytes(), &all, 0, now()).is_err());
}

#[test]
fn a_signature_listed_twice_is_malformed() {
    let authority = Authority::new(1);
    let bytes = signed(&consensus(), &[&authority]).to_bytes();
    // The envelope ends with an array of one signature: 0x81, then 1 + 34 + 66 bytes.
    let (head, signature) = bytes.split_at(bytes.len() - 101);
    let (&count, head) = head.split_last().unwrap();
    assert_eq!(count, 0x81);
    let twice = [head, &[0x82], signature, signature].concat();
    assert_eq!(take(&twice, &[&authority], 1, now()).unwrap_err().kind(), ErrorKind::Malformed);
}

#[test]
fn a_wrong_signature_of_an_authority_condemns_the_document() {
    let (one, two) = (Authority::new(1), Authority::new(2));
    let mut envelope = signed(&consensus(), &[&one]);
    envelope.sign(two.id(), |_| [0; 64]);
    let error = take(&envelope.to_bytes(), &[&one, &two], 1, now()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forged);
    // A descriptor's signature is none of a consensus: the domains differ.
    let mut envelope = Signed::new(&consensus());
    envelope.sign(one.id(), |message| {
        let body = message.strip_prefix(b"mizzle consensus 1\0").unwrap();
        one.0.sign(&[b"mizzle descriptor 1\0", body].concat()).to_bytes()
    });
    assert_eq!(take(&envelope.to_bytes(), &[&one], 1, now()).unwrap_err().kind(), ErrorKind::Forged);
}

#[test]
fn a_signed_body_that_is_not_canonical_is_malformed() {
    let authority = Authority::new(1);
    // The method, 1, in two bytes instead of one.
    let body = super::cbor::encode(&consensus());
    assert_eq!(&body[..5], [0xb0, 0x00, 0x01, 0x01, 0x01]);
    let long = [&body[..4], &[0x18, 0x01], &body[5..]].concat();
    for body in [long, [&body[..], &[0]].concat(), Vec::new()] {
        let envelope =
            Signed::with_body_for_tests(body, authority.id(), |message| authority.0.sign(message).to_bytes());
        let error = take(&envelope.to_bytes(), &[&authority], 1, now()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
    }
}

#[test]
fn other_networks_formats_and_protocols_are_incompatible() {
    let other = Consensus { network: "public".into(), ..consensus() };
    assert_eq!(kind_of_refusal(&other, now()), ErrorKind::Incompatible);

    let future = ProtocolNumber { protocol: 2, version: 2 };
    let required = Consensus { required: vec![ProtocolNumber::LINK, future], ..consensus() };
    assert_eq!(kind_of_refusal(&required, now()), ErrorKind::Incompatible);

    let authority = Authority::new(1);
    let mut body = super::cbor::encode(&consensus());
    body[2] = 2;
    let envelope =
        Signed::with_body_for_tests(body, authority.id(), |message| authority.0.sign(message).to_bytes());
    let error = take(&envelope.to_bytes(), &[&authority], 1, now()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible);

    let recommended = Consensus { recommended: vec![future], ..consensus() };
    assert_eq!(recommended.not_spoken().collect::<Vec<_>>(), [future]);
    let bytes = signed(&recommended, &[&authority]).to_bytes();
    assert!(take(&bytes, &[&authority], 1, now()).is_ok());
}

#[test]
fn documents_hold_from_a_grace_before_their_start_to_their_last_nanosecond() {
    let nano = Duration::from_nanos(1);
    let document = consensus();
    let first = document.valid_after.instant() - document.schedule().grace();
    let end = document.valid_until.instant();
    for (moment, live) in [(first - nano, false), (first, true), (end - nano, true), (end, false)] {
        assert_eq!(document.is_live(moment), live);
    }
    assert_eq!(kind_of_refusal(&document, end), ErrorKind::Expired);
    assert_eq!(kind_of_refusal(&document, first - nano), ErrorKind::Expired);
    assert_eq!(end.since(document.valid_after.instant()), document.parameters.epoch * 3);
}

#[test]
fn a_document_that_contradicts_itself_is_malformed() {
    let document = consensus();
    let relays = |relays: Vec<ListedRelay>| Consensus { relays, ..consensus() };
    let mut two_kinds = listed(1, Role::Mix(1));
    two_kinds.periods[1].role = Role::Entry;
    let mut no_keys = listed(1, Role::Mix(1));
    no_keys.periods.clear();
    let mut no_address = listed(1, Role::Mix(1));
    no_address.addresses.clear();
    let mut bad_address = listed(1, Role::Mix(1));
    bad_address.addresses = vec!["0.0.0.0:1".parse().unwrap()];
    let mut degenerate = listed(1, Role::Mix(1));
    degenerate.periods[0].mix_key = PublicKey::from([0; 32]);
    let mut twisted = listed(1, Role::Mix(1));
    let off_curve = |seed: &u8| !crate::sphinx::x25519::is_public_key(&[*seed; 32]);
    twisted.periods[0].mix_key = PublicKey::from([(1..50).find(off_curve).unwrap(); 32]);
    let mut layer_four = listed(1, Role::Mix(1));
    layer_four.periods.iter_mut().for_each(|at| at.role = Role::Mix(4));
    let mut exit_without_service = listed(5, Role::Exit);
    exit_without_service.periods[0].service_key = None;
    let parameters = |parameters| Consensus { parameters, ..consensus() };
    let (mut no_rate, mut more_loops) = (Levels::default(), Levels::default());
    no_rate.rows[1][0].send_rate = 0.0;
    more_loops.rows[1][0].loop_share = 0.06;
    for (what, faulty) in [
        ("relays out of order", relays(vec![listed(2, Role::Entry), listed(1, Role::Entry)])),
        ("relay twice", relays(vec![listed(2, Role::Entry), listed(2, Role::Entry)])),
        ("two kinds", relays(vec![two_kinds])),
        ("no keys", relays(vec![no_keys])),
        ("no address", relays(vec![no_address])),
        ("bad address", relays(vec![bad_address])),
        ("degenerate key", relays(vec![degenerate])),
        ("key without a secret", relays(vec![twisted])),
        ("layer four", relays(vec![layer_four])),
        ("exit without service key", relays(vec![exit_without_service])),
        ("too long a life", Consensus { valid_until: START + Duration::from_secs(61), ..document.clone() }),
        ("ends before it starts", Consensus { valid_until: START, ..document.clone() }),
        ("control characters", Consensus { network: "\u{1b}[2J".into(), ..document.clone() }),
        (
            "protocols out of order",
            Consensus { required: vec![ProtocolNumber::PACKET, ProtocolNumber::LINK], ..document.clone() },
        ),
        ("no epoch", parameters(Parameters { epoch: Duration::ZERO, ..Parameters::local() })),
        ("no rate", parameters(Parameters { levels: no_rate, ..Parameters::local() })),
        ("more loops than drops", parameters(Parameters { levels: more_loops, ..Parameters::local() })),
        (
            "mean above the largest",
            parameters(Parameters { mean_delay: Duration::from_secs(1), ..Parameters::local() }),
        ),
        (
            "SURBs outlive the overlap",
            parameters(Parameters { surb_life: Duration::from_secs(120), ..Parameters::local() }),
        ),
    ] {
        let authority = Authority::new(1);
        let bytes = signed(&faulty, &[&authority]).to_bytes();
        let error = take(&bytes, &[&authority], 1, now()).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Malformed, "{what}: {error}");
    }
}

#[test]
fn documents_follow_one_another() {
    let held = consensus();
    let held_hash = Signed::new(&held).hash();
    let check = |document: &Consensus| {
        document.check_follows(Signed::new(document).hash(), &held, held_hash).map_err(|error| error.kind())
    };
    let next = Consensus { epoch: Epoch(4), previous: Some(held_hash), ..consensus() };
    assert_eq!(check(&held), Ok(()));
    assert_eq!(check(&next), Ok(()));
    assert_eq!(check(&Consensus { epoch: Epoch(6), ..next.clone() }), Ok(()));
    assert_eq!(check(&Consensus { epoch: Epoch(2), ..next.clone() }), Err(ErrorKind::Replayed));
    assert_eq!(check(&Consensus { epoch: Epoch(3), ..next.clone() }), Err(ErrorKind::Forged));
    assert_eq!(check(&Consensus { previous: Some(DocumentHash([0; 32])), ..next }), Err(ErrorKind::Forged));
}

#[test]
fn topologies_hold_the_keys_and_layers_of_their_period() {
    let mut document = consensus();
    document.relays[0].periods[1].role = Role::Mix(3);
    document.relays[3].periods.truncate(1);
    let mut keys = ServiceKeys::new();
    keys.insert(&SERVICE_KEYS[1]);
    let keys = ServiceKeys::from_bytes(&keys.to_bytes()).unwrap();

    let first = document.to_topology(Period(0), Some(&keys));
    assert_eq!(first.layers.each_ref().map(Vec::len), [1, 1, 1]);
    assert_eq!((first.entries.len(), first.exits.len()), (1, 1));
    assert_eq!(first.exits[0].service_key, None);

    let second = document.to_topology(Period(1), Some(&keys));
    assert_eq!(second.layers.each_ref().map(Vec::len), [0, 1, 2]);
    assert!(second.entries.is_empty());
    assert_eq!(second.layers[1][0].key, mix_key(3));
    assert_eq!(second.exits[0].service_key.as_deref(), Some(&SERVICE_KEYS[1]));
    assert_eq!(document.to_topology(Period(1), None).exits[0].service_key, None);
}

#[test]
fn service_keys_of_another_size_or_twice_are_malformed() {
    let mut keys = ServiceKeys::new();
    keys.insert(&SERVICE_KEYS[0]);
    keys.insert(&SERVICE_KEYS[1]);
    let bytes = keys.to_bytes();
    assert_eq!(ServiceKeys::from_bytes(&bytes), Ok(keys.clone()));
    assert!(keys.contains(&SERVICE_KEYS[0].digest()) && !keys.contains(&SERVICE_KEYS[2].digest()));
    let single = 3 + SERVICE_KEYS[0].as_bytes().len();
    let mut twice = bytes.clone();
    let (from, to) = (bytes.len() - 2 * single, bytes.len() - single);
    twice.copy_within(from..to, to);
    let mut swapped = bytes[..from].to_vec();
    swapped.extend(&bytes[to..]);
    swapped.extend(&bytes[from..to]);
    for faulty in [twice, swapped, bytes[..to].to_vec()] {
        assert_eq!(ServiceKeys::from_bytes(&faulty).unwrap_err().kind(), ErrorKind::Malformed);
    }
}

fn certificate(relay: &SigningKey, network: &str) -> FamilyCertificate {
    let family = SigningKey::from_bytes(&[3; 32]);
    let id = FamilyId(family.verifying_key().to_bytes());
    let relay = RelayId(relay.verifying_key().to_bytes());
    let sign = |message: &[u8]| family.sign(message).to_bytes();
    FamilyCertificate::issue(id, network, relay, START, Duration::from_secs(86_400), sign).unwrap()
}

fn descriptor(key: &SigningKey) -> Descriptor {
    let keys = |period: u32| PeriodKeys {
        period: Period(period),
        mix: mix_key(period as u8),
        service: Some(SERVICE_KEYS[period as usize].clone()),
    };
    Descriptor {
        network: NETWORK.into(),
        relay: RelayId(key.verifying_key().to_bytes()),
        kind: RelayKind::Exit,
        addresses: vec!["127.31.0.1:7000".parse().unwrap()],
        keys: (0..3).map(keys).collect(),
        family: Some(certificate(key, NETWORK)),
        protocols: ProtocolNumber::SUPPORTED.to_vec(),
        software: "mizzle 0.1.0".into(),
        published: START,
        announced_rate: 5_000,
        country: Some("DE".parse().unwrap()),
        carried_rate: Some(768),
    }
}

#[test]
fn a_descriptor_arrives_as_it_was_and_altered_not_at_all() {
    let key = SigningKey::from_bytes(&[5; 32]);
    let descriptor = descriptor(&key);
    let bytes = descriptor.to_signed_bytes(|message| key.sign(message).to_bytes());
    assert!(bytes.len() <= MAX_DESCRIPTOR_SIZE);
    assert_eq!(Descriptor::from_signed_bytes(&bytes, NETWORK), Ok(descriptor));
    // One bit of each byte: an altered service key costs time to parse.
    for position in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[position] ^= 1 << (position % 8);
        let error = Descriptor::from_signed_bytes(&altered, NETWORK).expect_err("altered");
        assert!(
            matches!(error.kind(), ErrorKind::Malformed | ErrorKind::Forged | ErrorKind::Incompatible),
            "{error}"
        );
    }
}

#[test]
fn a_descriptor_of_another_network_kind_or_signer_is_refused() {
    let key = SigningKey::from_bytes(&[5; 32]);
    let other = SigningKey::from_bytes(&[6; 32]);
    let sign = |descriptor: &Descriptor, key: &SigningKey| {
        descriptor.to_signed_bytes(|message| key.sign(message).to_bytes())
    };
    let kind = |bytes: &[u8], network| Descriptor::from_signed_bytes(bytes, network).unwrap_err().kind();
    let good = descriptor(&key);
    assert_eq!(kind(&sign(&good, &key), "public"), ErrorKind::Incompatible);
    assert_eq!(kind(&sign(&good, &other), NETWORK), ErrorKind::Forged);
    let mix = Descriptor { kind: RelayKind::Mix, ..good.clone() };
    assert_eq!(kind(&sign(&mix, &key), NETWORK), ErrorKind::Malformed);
    let keyless = Descriptor { keys: vec![], ..good };
    assert_eq!(kind(&sign(&keyless, &key), NETWORK), ErrorKind::Malformed);
}

#[test]
fn a_descriptor_names_a_family_only_with_its_certificate_for_this_relay_and_network() {
    let key = SigningKey::from_bytes(&[5; 32]);
    let other = SigningKey::from_bytes(&[6; 32]);
    let read = |family| {
        let descriptor = Descriptor { family, ..descriptor(&key) };
        let bytes = descriptor.to_signed_bytes(|message| key.sign(message).to_bytes());
        Descriptor::from_signed_bytes(&bytes, NETWORK).map_err(|error| error.kind())
    };
    let good = certificate(&key, NETWORK);
    assert_eq!(read(Some(good)).unwrap().family, Some(good));
    assert_eq!(read(None).unwrap().family, None);
    // Copied from another relay's descriptor, made for another network, or altered.
    assert_eq!(read(Some(certificate(&other, NETWORK))), Err(ErrorKind::Forged));
    assert_eq!(read(Some(certificate(&key, "public"))), Err(ErrorKind::Forged));
    let longer = UnixTime(good.expires.0 + 1);
    assert_eq!(read(Some(FamilyCertificate { expires: longer, ..good })), Err(ErrorKind::Forged));
    let own = FamilyId(key.verifying_key().to_bytes());
    assert_eq!(read(Some(FamilyCertificate { family: own, ..good })), Err(ErrorKind::Forged));
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    (any::<core::net::IpAddr>(), 1u16..)
        .prop_map(|(ip, port)| SocketAddr::new(ip, port))
        .prop_filter("can be connected to", |address| {
            !address.ip().is_unspecified() && address.ip().to_canonical() == address.ip()
        })
}

fn any_role() -> impl Strategy<Value = Role> {
    prop_oneof![(1u8..=3).prop_map(Role::Mix), Just(Role::Entry), Just(Role::Exit)]
}

prop_compose! {
    fn any_relay()(
        id in any::<[u8; 32]>(),
        addresses in prop::collection::vec(any_address(), 1..=8),
        role in any_role(),
        layers in prop::collection::btree_map(any::<u32>(), (1u8..=3, any::<[u8; 32]>()), 1..=3),
        family in any::<Option<[u8; 32]>>(),
        weight: u32,
        country in prop::option::of("[A-Z]{2}"),
    ) -> ListedRelay {
        let periods = layers.into_iter().map(|(period, (layer, bytes))| RelayPeriod {
            period: Period(period),
            role: if matches!(role, Role::Mix(_)) { Role::Mix(layer) } else { role },
            mix_key: SecretKey::from_bytes(bytes).public(),
            service_key: (role == Role::Exit).then_some(bytes),
        });
        ListedRelay {
            id: RelayId(id),
            addresses,
            periods: periods.collect(),
            family: family.map(FamilyId),
            weight,
            country: country.map(|code| Country::from_document(&code).unwrap()),
        }
    }
}

prop_compose! {
    fn any_parameters()(
        payload in prop::sample::select(vec![2048usize, 4096, 8192]),
        mean in 1u64..1_000_000, above in 0u64..1_000_000,
        send_rate in 0.001f64..10_000.0, receive_rate in 0.001f64..10_000.0, steps in 1usize..5,
        entry_slot_factor in 1.0f64..16.0,
        loop_share in 0.0f64..0.4, more in 0.0f64..0.1,
        epoch in 1u64..100_000, more_keys in 0u64..1_000_000,
        surb_life in 1u64..10_000, beyond in 1u64..10_000,
    ) -> Parameters {
        Parameters {
            geometry: crate::geometry::Geometry::new(payload).unwrap(),
            mean_delay: Duration::from_micros(mean),
            max_delay: Duration::from_micros(mean + above),
            levels: {
                let pace = |factor: f64| Pace {
                    send_rate: send_rate * factor,
                    receive_rate: receive_rate * factor,
                    loop_share,
                    drop_share: loop_share + more,
                };
                let strong = Pace { send_rate: receive_rate * 3.0, ..pace(1.0) };
                let steps: Vec<Pace> = (0..steps).map(|step| pace(step as f64 + 1.0)).collect();
                Levels::new(vec![strong], steps.clone(), steps).unwrap()
            },
            entry_slot_factor,
            surb_life: Duration::from_secs(surb_life),
            epoch: Duration::from_secs(epoch),
            key_period: Duration::from_secs(surb_life + beyond + more_keys),
            overlap: Duration::from_secs(surb_life + beyond),
        }.rounded()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_consensus_round_trips(
        relays in prop::collection::btree_map(any::<[u8; 32]>(), any_relay(), 0..8),
        reasons in prop::collection::btree_map(any::<[u8; 32]>(), "[^\\p{Cc}]{0,50}", 0..4),
        parameters in any_parameters(),
        (method, epoch, after) in (any::<u32>(), any::<u64>(), 0u64..4_000_000_000),
        origin in 0u64..4_000_000_000,
        previous in any::<Option<[u8; 32]>>(),
    ) {
        let relays = relays.into_iter().map(|(id, relay)| ListedRelay { id: RelayId(id), ..relay });
        let document = Consensus {
            method,
            epoch: Epoch(epoch),
            valid_after: UnixTime(after),
            fresh_until: UnixTime(after) + parameters.epoch,
            valid_until: UnixTime(after) + parameters.epoch * 3,
            parameters,
            origin: UnixTime(origin),
            previous: previous.map(DocumentHash),
            relays: relays.collect(),
            not_running: reasons
                .into_iter()
                .map(|(id, reason)| NotRunning { id: RelayId(id), reason })
                .collect(),
            ..consensus()
        };
        let authority = Authority::new(1);
        let bytes = signed(&document, &[&authority]).to_bytes();
        let now = UnixTime(after).instant();
        prop_assert_eq!(take(&bytes, &[&authority], 1, now), Ok(document));
    }

    #[test]
    fn random_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Signed::from_bytes(&bytes).is_err());
        prop_assert!(ServiceKeys::from_bytes(&bytes).is_err());
        prop_assert!(Descriptor::from_signed_bytes(&bytes, NETWORK).is_err());
        prop_assert!(super::cbor::decode::<Consensus>(&bytes, MAX_CONSENSUS_SIZE).is_err());
    }

    #[test]
    fn any_altered_body_is_refused_or_another_document(position: prop::sample::Index, byte: u8) {
        let document = consensus();
        let mut body = super::cbor::encode(&document);
        let index = position.index(body.len());
        prop_assume!(body[index] != byte);
        body[index] = byte;
        // Canonical or refused: bytes that differ never read as the same document.
        if let Ok(other) = super::cbor::decode::<Consensus>(&body, MAX_CONSENSUS_SIZE) {
            prop_assert!(other != document);
        }
    }

    #[test]
    fn what_is_sent_in_is_always_taken(
        parameters in any_parameters(),
        origin in 0u64..2_000_000_000,
        offset in 0u64..2_000_000_000_000_000_000,
    ) {
        let schedule = Schedule::new(UnixTime(origin), &parameters);
        let now = UnixTime(origin).instant() + Duration::from_nanos(offset);
        let current = schedule.period(now);
        prop_assert!(schedule.live(now).contains(&current));
        prop_assert!(schedule.start(current) <= now);
        prop_assert!(now < schedule.start(Period(current.0 + 1)));
        for period in schedule.live(now) {
            prop_assert!(now < schedule.expiry(period));
        }
        prop_assert!(schedule.next_change(now) > now);
    }
}

#[test]
fn loads_are_carried_coarsely_and_without_them_documents_are_as_before() {
    let key = SigningKey::from_bytes(&[5; 32]);
    let carry = |carried_rate| {
        let bytes = Descriptor { carried_rate, ..descriptor(&key) }
            .to_signed_bytes(|message| key.sign(message).to_bytes());
        Descriptor::from_signed_bytes(&bytes, NETWORK).map(|read| (read.carried_rate, bytes.len()))
    };
    let size = |rate| carry(rate).unwrap().1;
    assert_eq!(carry(Some(768)).unwrap().0, Some(768));
    // A key, and a number of two bytes with what says so.
    assert_eq!(size(Some(768)), size(None) + 4);
    assert_eq!(carry(Some(769)).unwrap_err().kind(), ErrorKind::Malformed);
    for pool in [None, Some(0), Some(3 << 30)] {
        let document = Consensus { pool, ..consensus() };
        let bytes = cbor::encode(&document);
        assert_eq!(cbor::decode::<Consensus>(&bytes, MAX_CONSENSUS_SIZE).unwrap(), document);
    }
    let fine = cbor::encode(&Consensus { pool: Some(5), ..consensus() });
    assert!(cbor::decode::<Consensus>(&fine, MAX_CONSENSUS_SIZE).is_err());
}

#[test]
fn a_country_is_carried_as_declared_and_without_one_documents_are_as_before() {
    let key = SigningKey::from_bytes(&[5; 32]);
    let size = |country: Option<&str>| {
        let country = country.map(|code| Country::from_document(code).unwrap());
        let descriptor = Descriptor { country, ..descriptor(&key) };
        let bytes = descriptor.to_signed_bytes(|message| key.sign(message).to_bytes());
        assert_eq!(Descriptor::from_signed_bytes(&bytes, NETWORK).unwrap().country, country);
        bytes.len()
    };
    // A key, a length, two letters: nothing else tells of it.
    assert_eq!(size(Some("DE")), size(None) + 4);
    // A country that this build knows no name of is one all the same.
    assert_eq!(size(Some("XX")), size(Some("DE")));
    let document = consensus();
    let read = cbor::decode::<Consensus>(&cbor::encode(&document), MAX_CONSENSUS_SIZE).unwrap();
    let countries: Vec<_> = read.relays.iter().map(|relay| relay.country).collect();
    assert_eq!(countries, [None, None, None, None, Some("DE".parse().unwrap())]);
    assert_eq!(read.to_topology(Period(0), None).exits[0].country, Some("DE".parse().unwrap()));
    // What is not two capital letters is no document.
    let bytes = cbor::encode(&document);
    let at = bytes.windows(3).position(|window| window == b"\x62DE").unwrap();
    for code in [b"de", b"D1", b"D "] {
        let mut altered = bytes.clone();
        altered[at + 1..at + 3].copy_from_slice(code);
        assert!(cbor::decode::<Consensus>(&altered, MAX_CONSENSUS_SIZE).is_err());
    }
}
