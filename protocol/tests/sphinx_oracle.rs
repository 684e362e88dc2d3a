//! Our codec against the crate `sphinx-packet`, which defines the format: the same bytes, the same packets
//! accepted and refused, the same replay tags; and where ours is stricter, a test that says so.
//!
//! `SPHINX_ORACLE_CASES` sets how many packets are compared for each implementation of X25519; the acceptance
//! run asks for 100 000.

#![allow(clippy::unwrap_used, clippy::panic)]

mod oracle;

use mizzle_protocol::geometry::{Geometry, HEADER_SIZE, MAX_HOPS};
use mizzle_protocol::id::ReplyId;
use mizzle_protocol::sphinx::x25519::Backend;
use mizzle_protocol::sphinx::{Surb, build, build_surb, open_message, open_reply, use_surb};
use mizzle_protocol::{Error, ErrorKind};
use oracle::forge::{Forged, LOW_ORDER, altered_header, torsion_variant, with_element};
use oracle::{Outcome, Peer, Recorded, Route, compare, crate_unwrap, our_unwrap};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Held by tests that choose the implementation, which is the same for the whole process.
static FORCED: Mutex<()> = Mutex::new(());

/// How many packets of each kind were compared.
type Tally = BTreeMap<&'static str, u64>;

#[test]
fn packets_random_and_mutated_fare_alike_in_both_codecs() {
    let _forced = FORCED.lock().unwrap();
    let cases = std::env::var("SPHINX_ORACLE_CASES").map_or(3000, |text| text.parse().unwrap());
    let mut least = u64::MAX;
    for backend in Backend::available() {
        backend.force();
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut tally = Tally::new();
        while tally.values().sum::<u64>() < cases {
            let geometry = Geometry::new([2048, 4096, 8192][below(&mut rng, 3)]).unwrap();
            let count = 1 + below(&mut rng, MAX_HOPS);
            let route = Route::random(count, &mut rng);
            let message = bytes(below(&mut rng, geometry.message() + 1), &mut rng);
            if below(&mut rng, 3) == 0 {
                travel_by_surb(geometry, &route, &message, &mut rng, &mut tally);
            } else {
                travel(geometry, &route, &message, &mut rng, &mut tally);
            }
        }
        let compared = tally.values().sum::<u64>();
        println!("{backend:?}: {tally:?}");
        println!("figure: codec: packets compared by {backend:?} | {compared} | packets | >= {cases}");
        for kind in KINDS {
            assert!(tally.contains_key(kind), "no packet of the kind {kind:?} was compared");
        }
        least = least.min(compared);
    }
    println!("figure: codec: packets compared by each | {least} | packets | >= {cases}");
}

/// Every kind of packet that a run compares.
const KINDS: [&str; 17] = [
    "built",
    "surb",
    "whole",
    "message",
    "reply",
    "bit of the element",
    "top bit of the element",
    "torsion",
    "any element",
    "low order",
    "bit of the mac",
    "bit of the routing",
    "bit of the payload",
    "wrong key",
    "junk",
    "truncated",
    "header by its sender",
];

/// A packet from the crate, ours for the same randomness, and every hop's view of it.
fn travel(geometry: Geometry, route: &Route, message: &[u8], rng: &mut ChaCha20Rng, tally: &mut Tally) {
    let secret: [u8; 32] = array(rng);
    let reply = ReplyId(if below(rng, 2) == 0 { [0; 16] } else { array(rng) });
    let theirs = route.crate_packet(geometry, &secret, reply, message);
    let mut recorded = Recorded::new(&secret, &route.padding_of(&theirs));
    let mut ours = Vec::new();
    build(geometry, &route.hops, reply, message, &mut recorded, &mut ours).unwrap();
    assert!(recorded.is_used_up());
    assert!(ours == theirs, "the codecs build different packets for {} hops", route.hops.len());
    count(tally, "built");

    let last = follow(geometry, route, ours, rng, tally);
    let Outcome::Final { payload, .. } = last else { panic!("the packet has not arrived") };
    assert!(open_message(&payload).unwrap() == message);
    open_alike(&payload, rng);
    count(tally, "message");
}

/// The same for a packet that is sent by a SURB.
fn travel_by_surb(
    geometry: Geometry,
    route: &Route,
    message: &[u8],
    rng: &mut ChaCha20Rng,
    tally: &mut Tally,
) {
    let secret: [u8; 32] = array(rng);
    let reply = ReplyId(array(rng));
    let (theirs, recovery) = route.crate_surb(&secret, reply);
    let mut recorded = Recorded::new(&secret, &route.padding_of(&theirs.to_bytes()));
    let (ours, keys) = build_surb(&route.hops, reply, &mut recorded).unwrap();
    assert!(recorded.is_used_up());
    assert!(ours.as_bytes()[..] == theirs.to_bytes()[..], "the codecs build different SURBs");
    count(tally, "surb");

    let mut packet = Vec::new();
    let surb = Surb::from_slice(&theirs.to_bytes()).unwrap();
    let first = use_surb(geometry, &surb, message, &mut packet).unwrap();
    let (crate_packet, crate_first) = theirs.use_surb(message, geometry.payload()).unwrap();
    assert!(first.0 == *crate_first.as_bytes() && packet == crate_packet.to_bytes());

    let Outcome::Final { payload, .. } = follow(geometry, route, packet, rng, tally) else {
        panic!("the reply has not arrived")
    };
    let recovered = recovery.recover_plaintext(oracle::payload(&payload)).unwrap();
    assert!(recovered == message);
    assert!(open_reply(&keys, &mut payload.clone()).unwrap() == message);
    let mut altered = payload;
    altered[below(rng, geometry.payload())] ^= 1 << below(rng, 8);
    let theirs = recovery.recover_plaintext(oracle::payload(&altered)).ok();
    assert!(open_reply(&keys, &mut altered).ok() == theirs.as_deref());
    // A creator that is the only hop has the message bare; all others see that it was altered.
    assert!(theirs.is_none() || route.hops.len() == 1);
    count(tally, "reply");
}

/// Takes a packet through all hops in both codecs, each time with mutations of it.
fn follow(
    geometry: Geometry,
    route: &Route,
    mut packet: Vec<u8>,
    rng: &mut ChaCha20Rng,
    tally: &mut Tally,
) -> Outcome {
    for peer in &route.peers {
        mutate(geometry, peer, &packet, rng, tally);
        match compare(geometry, peer, &packet) {
            Outcome::Forward { packet: next, .. } => packet = next,
            other => {
                count(tally, "whole");
                return other;
            }
        }
        count(tally, "whole");
    }
    panic!("the packet goes on after its last hop")
}

/// Mutations of a packet that is good for `peer`: one of each kind.
fn mutate(geometry: Geometry, peer: &Peer, packet: &[u8], rng: &mut ChaCha20Rng, tally: &mut Tally) {
    let good = crate_unwrap(peer, packet);
    let mut flip = |kind: &'static str, from: usize, bits: usize| {
        let mut altered = packet.to_vec();
        let bit = below(rng, bits);
        altered[from + bit / 8] ^= 1 << (bit % 8);
        let outcome = compare(geometry, peer, &altered);
        count(tally, kind);
        outcome
    };
    assert!(matches!(flip("bit of the element", 0, 255), Outcome::Refused));
    assert!(matches!(flip("bit of the mac", 32, 128), Outcome::Refused));
    assert!(matches!(flip("bit of the routing", 48, 2400), Outcome::Refused));
    // No hop sees that a payload was altered; the last one's message fails to open.
    assert!(flip("bit of the payload", HEADER_SIZE, geometry.payload() * 8).tag() == good.tag());

    // Other encodings of the same secret: the same packet goes on, under the same tag.
    let mut twin = packet.to_vec();
    twin[31] ^= 0x80;
    assert!(compare(geometry, peer, &twin) == good);
    count(tally, "top bit of the element");
    assert!(compare(geometry, peer, &torsion_variant(packet, rng)) == good);
    count(tally, "torsion");
    // Half of all elements are points of the twist, which honest senders never make.
    let odd = with_element(peer, packet, &array(rng));
    assert!(matches!(compare(geometry, peer, &odd), Outcome::Forward { .. }));
    count(tally, "any element");

    let stranger = Peer::random(rng);
    assert!(matches!(compare(geometry, &stranger, packet), Outcome::Refused));
    count(tally, "wrong key");
    assert!(matches!(compare(geometry, peer, &bytes(geometry.packet(), rng)), Outcome::Refused));
    count(tally, "junk");
    // The MAC fails in the crate, too: a sender who gets it right is in the test of stricter rules.
    let mut low_order = packet.to_vec();
    low_order[..32].copy_from_slice(&LOW_ORDER[below(rng, LOW_ORDER.len())]);
    assert!(matches!(compare(geometry, peer, &low_order), Outcome::Refused));
    count(tally, "low order");

    let length = below(rng, packet.len());
    truncated(geometry, peer, packet, length);
    count(tally, "truncated");

    // A sender can write any header, and then its MAC holds.
    let Forged { packet: forged, stricter } = altered_header(peer, packet, rng);
    if let Some(kind) = stricter {
        assert_eq!(refusal(geometry, peer, &forged), kind);
    } else {
        compare(geometry, peer, &forged);
    }
    count(tally, "header by its sender");
}

/// Ours refuses every packet of another length than its network's. The crate knows no such length, and takes
/// what has a header and 33 bytes: that is where ours is stricter.
fn truncated(geometry: Geometry, peer: &Peer, packet: &[u8], length: usize) {
    assert_eq!(refusal(geometry, peer, &packet[..length]), ErrorKind::Malformed);
    let theirs = crate_unwrap(peer, &packet[..length]);
    assert_eq!(matches!(theirs, Outcome::Refused), length <= HEADER_SIZE + 32, "{length} bytes");
}

#[test]
fn every_truncation_is_refused() {
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let mut tried = 0;
    for payload in [2048, 4096, 8192] {
        let geometry = Geometry::new(payload).unwrap();
        let route = Route::random(2, &mut rng);
        let packet = route.crate_packet(geometry, &array(&mut rng), ReplyId([0; 16]), b"hello");
        let [peer, ..] = &route.peers[..] else { panic!("no hop") };
        for length in 0..packet.len() {
            truncated(geometry, peer, &packet, length);
            tried += 1;
        }
        let longer = [&packet[..], &[0]].concat();
        assert_eq!(refusal(geometry, peer, &longer), ErrorKind::Malformed);
    }
    println!("figure: codec: truncations refused | {tried} | packets | >= 15380");
}

/// Stricter than the crate: PACKET-5.
#[test]
fn an_element_of_low_order_is_refused_even_if_its_sender_made_the_mac_fit() {
    let _forced = FORCED.lock().unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let geometry = Geometry::default();
    for backend in Backend::available() {
        backend.force();
        for element in LOW_ORDER {
            let peer = Peer::random(&mut rng);
            let packet = oracle::forge::degenerate(geometry, &element);
            assert!(matches!(crate_unwrap(&peer, &packet), Outcome::Forward { .. }));
            assert_eq!(refusal(geometry, &peer, &packet), ErrorKind::Forged);
        }
    }
}

/// Stricter than the crate: PACKET-2.
#[test]
fn a_packet_of_another_version_is_refused_though_its_mac_holds() {
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    let geometry = Geometry::default();
    let route = Route::random(2, &mut rng);
    let [first, ..] = &route.peers[..] else { panic!("no hop") };
    for version in [0, 1, 257, 258, 259, 261, 9999] {
        let packet = route.crate_packet_of(version, geometry, &array(&mut rng), ReplyId([0; 16]), b"hello");
        assert!(matches!(crate_unwrap(first, &packet), Outcome::Forward { .. }));
        assert_eq!(refusal(geometry, first, &packet), ErrorKind::Incompatible, "version {version}");
    }
    // The crate reads two of the three bytes.
    let packet = route.crate_packet(geometry, &array(&mut rng), ReplyId([0; 16]), b"hello");
    let odd = oracle::forge::with_routing(first, &packet, |plain| plain[1] = 1);
    assert!(matches!(crate_unwrap(first, &odd), Outcome::Forward { .. }));
    assert_eq!(refusal(geometry, first, &odd), ErrorKind::Incompatible);
}

/// A key of the twist has no secret, so no packet for it can be opened; descriptors with one are refused.
#[test]
fn keys_that_no_secret_has_are_told_from_others() {
    let mut rng = ChaCha20Rng::seed_from_u64(5);
    let odd = (0..200).filter(|_| !mizzle_protocol::sphinx::x25519::is_public_key(&array(&mut rng))).count();
    assert!((60..140).contains(&odd), "{odd} of 200 random points are on the twist");
    for _ in 0..50 {
        let peer = Peer::random(&mut rng);
        assert!(mizzle_protocol::sphinx::x25519::is_public_key(peer.key.public().as_bytes()));
    }
}

/// Both codecs read a message, or both see that it was altered, whatever the last hop finds.
fn open_alike(payload: &[u8], rng: &mut ChaCha20Rng) {
    let mut odd = payload.to_vec();
    for _ in 0..1 + below(rng, 3) {
        let place = below(rng, odd.len());
        odd[place] = below(rng, 3) as u8;
    }
    let mut zeros = odd.clone();
    zeros[16..].fill(0);
    for payload in [&odd[..], &zeros[..], &odd[..17], &zeros[..17]] {
        let theirs = oracle::payload(payload).recover_plaintext().ok();
        assert!(open_message(payload).ok() == theirs.as_deref());
    }
    assert!(open_message(&odd[..16]).is_err() && open_message(&[]).is_err());
}

fn refusal(geometry: Geometry, peer: &Peer, packet: &[u8]) -> ErrorKind {
    let result = our_unwrap(geometry, peer, packet);
    result.err().as_ref().map(Error::kind).unwrap_or_else(|| panic!("the packet was accepted"))
}

fn count(tally: &mut Tally, kind: &'static str) {
    assert!(KINDS.contains(&kind));
    *tally.entry(kind).or_default() += 1;
}

/// A number from 0 up to `bound`, which is excluded.
fn below(rng: &mut ChaCha20Rng, bound: usize) -> usize {
    (rng.next_u64() % bound as u64) as usize
}

fn bytes(length: usize, rng: &mut ChaCha20Rng) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn array<const N: usize>(rng: &mut ChaCha20Rng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}
