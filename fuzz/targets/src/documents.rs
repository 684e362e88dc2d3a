//! Documents: what relays post, what authorities publish.

use crate::bytes::{Seed, seed};
use ed25519_dalek::{Signer, SigningKey};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::consensus::{
    Consensus, Descriptor, Diff, DocumentFault, DocumentHash, FamilyCertificate, ListedRelay,
    MAX_CONSENSUS_SIZE, MAX_DESCRIPTOR_SIZE, MAX_DIFF_SIZE, MAX_RELAYS, MAX_REVOCATION_SIZE,
    MAX_SERVICE_KEYS_SIZE, NotRunning, PeriodKeys, ProtocolNumber, RelayKind, RelayPeriod, Revocation,
    ServiceKeys, Signed,
};
use mizzle_protocol::country::Country;
use mizzle_protocol::id::{AuthorityId, Epoch, FamilyId, Period, RelayId};
use mizzle_protocol::mix::Role;
use mizzle_protocol::path::Parameters;
use mizzle_protocol::session::{ServiceKey, ServiceSecret};
use mizzle_protocol::sphinx::SecretKey;
use mizzle_protocol::time::UnixTime;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::sync::LazyLock;
use std::time::Duration;

/// The body of a consensus, whoever signed it.
pub fn consensus(bytes: &[u8]) {
    let Ok(mut signed) = Signed::from_bytes(&pair(bytes, &[0x80])) else {
        assert!(bytes.len() > MAX_CONSENSUS_SIZE - 8, "an envelope is refused for its content");
        return;
    };
    let hash = signed.hash();
    let Ok(consensus) = signed.read_unverified() else { return };
    assert!(Signed::new(&consensus).hash() == hash, "a consensus has two encodings");
    sound(&consensus);

    let authority = AuthorityId(SIGNER.verifying_key().to_bytes());
    let verify =
        |signed: &Signed, threshold| signed.verify_at_any_time(&[authority], threshold, &consensus.network);
    assert!(verify(&signed, 1).is_err(), "a consensus that nobody signed is taken");
    signed.sign(authority, sign);
    let spoken = consensus.required.iter().all(|number| number.is_supported());
    match verify(&signed, 1) {
        Ok(verified) => assert!(spoken && verified == consensus),
        Err(error) => assert!(!spoken && error.kind() == ErrorKind::Incompatible),
    }
    assert!(verify(&signed, 2).is_err(), "one signature counts twice");
}

fn sound(consensus: &Consensus) {
    assert!(consensus.relays.len() <= MAX_RELAYS && consensus.not_running.len() <= MAX_RELAYS);
    assert!(consensus.parameters.check().is_ok() && consensus.parameters.rounded() == consensus.parameters);
    assert!(consensus.check_time(consensus.valid_after.instant()).is_ok());
    assert!(consensus.check_time(consensus.valid_until.instant()).is_err());
    for relay in &consensus.not_running {
        assert!(relay.reason.len() <= 200 && !relay.reason.contains(char::is_control));
        assert!(consensus.why_not_running(relay.id).is_some());
    }
    for moment in [consensus.valid_after, consensus.origin, UnixTime(0), UnixTime(u64::MAX)] {
        let live = consensus.live_periods(moment.instant());
        assert!(live.len() <= 4, "{} periods are live at once", live.len());
        let schedule = consensus.schedule();
        assert!(schedule.announced(moment.instant())[0] == schedule.period(moment.instant()));
        schedule.next_change(moment.instant());
    }
    for relay in &consensus.relays {
        assert!(consensus.relay(relay.id) == Some(relay) && relay.kind().is_some());
        for at in &relay.periods {
            let topology = consensus.to_topology(at.period, None);
            let mixes: usize = topology.layers.iter().map(Vec::len).sum();
            let placed = consensus.relays.iter().filter(|relay| relay.at(at.period).is_some()).count();
            assert!(mixes + topology.entries.len() + topology.exits.len() == placed, "a relay has no place");
        }
        if consensus.relays.len() > 8 {
            break; // quadratic
        }
    }
}

/// A signed consensus, as it is fetched.
pub fn signed(bytes: &[u8]) {
    let Ok(signed) = Signed::from_bytes(bytes) else { return };
    assert!(signed.to_bytes() == bytes, "an envelope has two encodings");
    assert!(signed.signers().count() <= 64);
    let authority = AuthorityId(SIGNER.verifying_key().to_bytes());
    let Ok(consensus) = signed.verify_at_any_time(&[authority], 1, NETWORK) else { return };
    assert!(signed.signers().any(|signer| signer == authority), "a consensus that nobody signed is taken");
    assert!(consensus.network == NETWORK && Signed::new(&consensus).hash() == signed.hash());
    assert!(signed.verify_at_any_time(&[authority], 2, NETWORK).is_err());
    assert!(signed.verify_at_any_time(&[AuthorityId([1; 32])], 1, NETWORK).is_err());
}

/// A diff from a document that is held, as it is fetched; and as it is made, to a document of these bytes.
pub fn diff(bytes: &[u8]) {
    let held = &*HELD;
    let hash = Signed::new(held).hash();
    if let Ok(diff) = Diff::from_bytes(bytes) {
        assert!(bytes.len() <= MAX_DIFF_SIZE && diff.to_bytes() == bytes, "a diff has two encodings");
        match diff.apply(held, hash) {
            Ok(signed) => assert!(diff.from() == hash && signed.hash() == diff.to(), "a diff led elsewhere"),
            Err(error) => assert!(error.fault() == Some(DocumentFault::WrongDiff)),
        }
    }
    let Ok(signed) = Signed::from_bytes(&pair(bytes, &[0x80])) else { return };
    let Ok(consensus) = signed.read_unverified() else { return };
    for (old, new) in [(held, &consensus), (&consensus, held)] {
        let (from, to) = (Signed::new(old), Signed::new(new));
        let made = Diff::between(old, from.hash(), new, &to);
        let Ok(read) = Diff::from_bytes(&made.to_bytes()) else {
            assert!(bytes.len() > MAX_DIFF_SIZE / 2, "a diff of our own is refused");
            return;
        };
        assert!(read == made && read.apply(old, from.hash()) == Ok(to), "a diff does not lead there");
    }
}

/// A descriptor: as it is posted, and as the body of one that its relay signed.
pub fn descriptor(bytes: &[u8]) {
    posted(bytes);
    posted(&pair(bytes, &byte_string(&sign(&[DESCRIPTOR_DOMAIN, &[0], bytes].concat()))));
}

fn posted(bytes: &[u8]) {
    let Ok(descriptor) = Descriptor::from_signed_bytes(bytes, NETWORK) else { return };
    assert!(bytes.len() <= MAX_DESCRIPTOR_SIZE && descriptor.network == NETWORK);
    assert!(descriptor.relay.0 == SIGNER.verifying_key().to_bytes(), "signed by another than it names");
    assert!(descriptor.to_signed_bytes(sign) == bytes, "a descriptor has two encodings");
    assert!((1..=3).contains(&descriptor.keys.len()) && (1..=8).contains(&descriptor.addresses.len()));
    assert!(!descriptor.software.contains(char::is_control) && descriptor.software.len() <= 64);
    for keys in &descriptor.keys {
        assert!(keys.service.is_some() == (descriptor.kind == RelayKind::Exit));
        assert!(descriptor.keys_of(keys.period) == Some(keys));
    }
    assert!(Descriptor::from_signed_bytes(bytes, "another").is_err());
}

/// A revocation, as it is handed in.
pub fn revocation(bytes: &[u8]) {
    let Ok(revocation) = Revocation::from_bytes(bytes, NETWORK) else { return };
    assert!(bytes.len() <= MAX_REVOCATION_SIZE && revocation.network == NETWORK);
    assert!(revocation.to_bytes() == bytes, "a revocation has two encodings");
    assert!(revocation.family.0 == SIGNER.verifying_key().to_bytes(), "signed by another than it names");
    assert!(Revocation::from_bytes(bytes, "another").is_err());
}

/// The services' keys.
pub fn service_keys(bytes: &[u8]) {
    let Ok(keys) = ServiceKeys::from_bytes(bytes) else { return };
    assert!(bytes.len() <= MAX_SERVICE_KEYS_SIZE);
    assert!(keys.to_bytes() == bytes, "the service keys have two encodings");
    assert!(keys.len() <= bytes.len() / 1_216, "more keys than there is room for");
}

pub(crate) fn consensus_seeds() -> Vec<Seed> {
    let full = some_consensus();
    let first =
        Consensus { previous: None, epoch: Epoch(0), relays: vec![], not_running: vec![], ..full.clone() };
    let required = ProtocolNumber { protocol: 9, version: 1 };
    let newer = Consensus { required: vec![ProtocolNumber::LINK, required], ..first.clone() };
    vec![
        Seed { name: "full", bytes: body(&full) },
        Seed { name: "first", bytes: body(&first) },
        Seed { name: "requires_more", bytes: body(&newer) },
        seed("number_not_shortest", &[&body(&first)[..2], &[0x18, 1], &body(&first)[3..]]),
        seed("cut", &[&body(&full)[..200]]),
    ]
}

pub(crate) fn signed_seeds() -> Vec<Seed> {
    let consensus = some_consensus();
    let unsigned = Signed::new(&consensus);
    let mut signed = unsigned.clone();
    signed.sign(AuthorityId(SIGNER.verifying_key().to_bytes()), sign);
    let mut twice = signed.clone();
    let other = SigningKey::from_bytes(&[2; 32]);
    twice.sign(AuthorityId(other.verifying_key().to_bytes()), |bytes| other.sign(bytes).to_bytes());
    vec![
        Seed { name: "unsigned", bytes: unsigned.to_bytes() },
        Seed { name: "signed", bytes: signed.to_bytes() },
        Seed { name: "signed_twice", bytes: twice.to_bytes() },
        seed("no_consensus", &[&pair(b"anything", &[0x80])]),
    ]
}

pub(crate) fn diff_seeds() -> Vec<Seed> {
    let (held, next) = (&*HELD, next_consensus());
    let from = Signed::new(held).hash();
    let mut signed = Signed::new(&next);
    signed.sign(AuthorityId(SIGNER.verifying_key().to_bytes()), sign);
    let bytes = Diff::between(held, from, &next, &signed).to_bytes();
    let back = Diff::between(&next, signed.hash(), held, &Signed::new(held)).to_bytes();
    vec![
        Seed { name: "next", bytes },
        Seed { name: "from_another", bytes: back },
        Seed { name: "none", bytes: Diff::between(held, from, held, &Signed::new(held)).to_bytes() },
        Seed { name: "document", bytes: body(&next) },
    ]
}

/// The one after [`some_consensus`]: of all that can change, something.
fn next_consensus() -> Consensus {
    let mut next = some_consensus();
    next.epoch = Epoch(4);
    next.previous = Some(Signed::new(&HELD).hash());
    next.relays[0].weight += 1;
    next.relays[1].periods.remove(0);
    next.relays[2].addresses.truncate(1);
    next.relays[2].family = None;
    next.relays.remove(4);
    next.not_running[0].reason = "it rests".into();
    next.not_running.insert(0, NotRunning { id: RelayId([5; 32]), reason: "no key".into() });
    next
}

pub(crate) fn descriptor_seeds() -> Vec<Seed> {
    let mix = some_descriptor(RelayKind::Mix);
    let bytes = mix.to_signed_bytes(sign);
    // Two bytes of array and length, two of length; a signature of 64 with its two.
    let body = |bytes: &[u8]| bytes[4..bytes.len() - 66].to_vec();
    vec![
        Seed { name: "posted", bytes: bytes.clone() },
        Seed { name: "mix", bytes: body(&bytes) },
        Seed { name: "exit", bytes: body(&some_descriptor(RelayKind::Exit).to_signed_bytes(sign)) },
        Seed {
            name: "without_family",
            bytes: body(&Descriptor { family: None, ..mix.clone() }.to_signed_bytes(sign)),
        },
        Seed {
            name: "another_network",
            bytes: body(&Descriptor { network: "other".into(), ..mix }.to_signed_bytes(sign)),
        },
    ]
}

pub(crate) fn revocation_seeds() -> Vec<Seed> {
    let revoked = |network| Revocation::issue(family(), network, RelayId([9; 32]), sign).to_bytes();
    vec![
        Seed { name: "handed_in", bytes: revoked(NETWORK) },
        Seed { name: "another_network", bytes: revoked("other") },
    ]
}

pub(crate) fn service_keys_seeds() -> Vec<Seed> {
    let mut keys = ServiceKeys::new();
    let none = keys.to_bytes();
    keys.insert(&SERVICE_KEYS[0]);
    let one = keys.to_bytes();
    keys.insert(&SERVICE_KEYS[1]);
    vec![
        Seed { name: "none", bytes: none },
        Seed { name: "one", bytes: one },
        Seed { name: "two", bytes: keys.to_bytes() },
    ]
}

fn some_consensus() -> Consensus {
    let parameters = Parameters::local();
    let start = UnixTime(1_800_000_000);
    let listed = |id: u8, role: Role| ListedRelay {
        id: RelayId([id; 32]),
        addresses: vec!["127.11.0.1:7000".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap()],
        periods: (0..2).map(|period| at(id, period, role)).collect(),
        family: id.is_multiple_of(2).then_some(FamilyId([7; 32])),
        weight: u32::from(id) * 100,
        country: country().filter(|_| id == 5),
    };
    Consensus {
        method: 1,
        network: NETWORK.into(),
        epoch: Epoch(3),
        valid_after: start,
        fresh_until: start + parameters.epoch,
        valid_until: start + parameters.epoch * 3,
        previous: Some(DocumentHash([9; 32])),
        parameters,
        origin: start,
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
        made: Some(mizzle_protocol::consensus::Made { votes: [1; 32], carry: [2; 32], beacon: [3; 32] }),
        later: [(1_000, vec![7])].into(),
    }
}

fn at(id: u8, period: u32, role: Role) -> RelayPeriod {
    RelayPeriod {
        period: Period(period),
        role,
        mix_key: SecretKey::from_bytes([id + period as u8; 32]).public(),
        service_key: (role == Role::Exit).then(|| SERVICE_KEYS[period as usize].digest()),
    }
}

fn country() -> Option<Country> {
    Country::from_document("DE").ok()
}

/// The family of all: its key is the one that signs everything here.
fn family() -> FamilyId {
    FamilyId(SIGNER.verifying_key().to_bytes())
}

fn certificate() -> FamilyCertificate {
    let (relay, issued) = (RelayId(SIGNER.verifying_key().to_bytes()), UnixTime(1_800_000_000));
    FamilyCertificate::issue(family(), NETWORK, relay, issued, Duration::from_secs(86_400), sign).unwrap()
}

fn some_descriptor(kind: RelayKind) -> Descriptor {
    let keys = |period: u32| PeriodKeys {
        period: Period(period),
        mix: SecretKey::from_bytes([period as u8 + 1; 32]).public(),
        service: (kind == RelayKind::Exit).then(|| SERVICE_KEYS[period as usize].clone()),
    };
    Descriptor {
        network: NETWORK.into(),
        relay: RelayId(SIGNER.verifying_key().to_bytes()),
        kind,
        addresses: vec!["192.0.2.7:443".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap()],
        keys: (0..2).map(keys).collect(),
        family: Some(certificate()),
        protocols: ProtocolNumber::SUPPORTED.to_vec(),
        software: "mizzle-relay 0.1.0".into(),
        published: UnixTime(1_800_000_000),
        announced_rate: 5_000,
        country: country(),
        carried_rate: Some(768),
    }
}

/// The body's bytes, out of an envelope without signatures.
fn body(consensus: &Consensus) -> Vec<u8> {
    let bytes = Signed::new(consensus).to_bytes();
    let header = match bytes[1] {
        0x58 => 3,
        _ => 4,
    };
    bytes[header..bytes.len() - 1].to_vec()
}

/// An array of a byte string and what is already encoded.
fn pair(bytes: &[u8], second: &[u8]) -> Vec<u8> {
    [&[0x82], byte_string(bytes).as_slice(), second].concat()
}

/// Bytes as canonical CBOR.
fn byte_string(bytes: &[u8]) -> Vec<u8> {
    let count = bytes.len() as u32;
    let header = match count {
        0..24 => vec![0x40 | count as u8],
        24..0x100 => vec![0x58, count as u8],
        0x100..0x1_0000 => [&[0x59], (count as u16).to_be_bytes().as_slice()].concat(),
        _ => [&[0x5a], count.to_be_bytes().as_slice()].concat(),
    };
    [header.as_slice(), bytes].concat()
}

fn sign(bytes: &[u8]) -> [u8; 64] {
    SIGNER.sign(bytes).to_bytes()
}

/// What is held by whom a diff comes to.
static HELD: LazyLock<Consensus> = LazyLock::new(some_consensus);
static SIGNER: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_bytes(&[1; 32]));
static SERVICE_KEYS: LazyLock<Vec<ServiceKey>> = LazyLock::new(|| {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    (0..2).map(|_| ServiceSecret::generate(&mut rng).public().unwrap()).collect()
});
const NETWORK: &str = "local";
const DESCRIPTOR_DOMAIN: &[u8] = b"mizzle descriptor 1";
