//! Packets at a hop, against the crate that defines the format, and what their payloads open to.

use crate::bytes::{Choices, Seed, seed};
use crate::oracle::forge::{LOW_ORDER, degenerate, with_element, with_routing};
use crate::oracle::{Peer, compare, our_unwrap};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::geometry::{Geometry, HEADER_SIZE, SPHINX_OVERHEAD};
use mizzle_protocol::id::ReplyId;
use mizzle_protocol::sphinx::{
    Hop, Inspected, ReplyKeys, Surb, Unwrapped, build, build_surb, inspect, open_message, open_reply,
    unwrap as ours, use_surb,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::sync::LazyLock;
use std::time::Duration;

/// One hop: both codecs make the same of a packet, except where ours is stricter.
///
/// The first byte says how the packet is made of the others: as they are; a valid one, altered anywhere, or in one
/// bit of its header; one whose sender wrote any routing information, or any element, under a MAC that fits; one
/// whose secret is zero.
/// (spec: PACKET-2, PACKET-5)
pub fn unwrap(bytes: &[u8]) {
    let hop = &*HOP;
    let mut choices = Choices::new(bytes);
    match choices.u8() % 6 {
        0 => agree(choices.rest()),
        1 => {
            let mut packet = hop.packets[usize::from(choices.u8()) % 2].clone();
            let at = usize::from(choices.u16()) % packet.len();
            xor(&mut packet[at..], choices.rest());
            agree(&packet);
        }
        2 => {
            let packet = &hop.packets[usize::from(choices.u8()) % 2];
            agree(&with_routing(&hop.peer, packet, |plain| xor(plain, choices.rest())));
        }
        3 => {
            let mut packet = hop.packets[usize::from(choices.u8()) % 2].clone();
            let bit = usize::from(choices.u16()) % (8 * HEADER_SIZE);
            packet[bit / 8] ^= 1 << (bit % 8);
            // X25519 ignores one bit; all others are under the MAC.
            assert!(refusal(&packet).is_none() == (bit == 255), "a header with bit {bit} changed is taken");
            agree(&packet);
        }
        4 => agree(&with_element(&hop.peer, &hop.packets[0], &choices.array())),
        _ => {
            let packet = degenerate(geometry(), &LOW_ORDER[usize::from(choices.u8()) % LOW_ORDER.len()]);
            assert!(refusal(&packet) == Some(ErrorKind::Forged), "a secret of zero is taken");
        }
    }
}

fn agree(packet: &[u8]) {
    let peer = &HOP.peer;
    if packet.len() != geometry().packet() {
        assert!(refusal(packet) == Some(ErrorKind::Malformed), "a packet of another size is taken");
        return;
    }
    let mut element: [u8; 32] = packet[..32].try_into().unwrap();
    let contributes = peer.crate_key.diffie_hellman(&element.into()).was_contributory();
    match refusal(packet) {
        // The crate takes other versions, and secrets of zero.
        Some(ErrorKind::Incompatible) => return,
        kind if !contributes => return assert!(kind == Some(ErrorKind::Forged), "a secret of zero is taken"),
        _ => {}
    }
    let outcome = compare(geometry(), peer, packet);
    if let Some(tag) = outcome.tag() {
        // X25519 ignores the highest bit, so the replay memory must, too.
        element[31] ^= 0x80;
        let twin = [&element, &packet[32..]].concat();
        assert!(
            our_unwrap(geometry(), peer, &twin).is_ok_and(|twin| twin.tag() == Some(tag)),
            "one packet, two tags"
        );
    }
}

fn refusal(packet: &[u8]) -> Option<ErrorKind> {
    let mut copy = packet.to_vec();
    let kind = inspect(geometry(), &HOP.peer.key, &mut copy)
        .and_then(Inspected::advance)
        .err()
        .map(|error| error.kind());
    assert!(kind.is_none() || copy == packet, "a refused packet was changed");
    kind
}

/// The message in a final payload, against the crate. (spec: PACKET-4)
pub fn message(bytes: &[u8]) {
    let padded = [&[0; 16], bytes].concat();
    for payload in [bytes, &padded] {
        let ours = open_message(payload).map(<[u8]>::to_vec).ok();
        let theirs = sphinx_packet::payload::Payload::from_bytes(payload)
            .and_then(|payload| payload.recover_plaintext())
            .ok();
        assert!(ours == theirs, "the codecs read different messages");
        if let Some(message) = ours {
            assert!(message.len() + SPHINX_OVERHEAD <= payload.len());
        }
    }
}

/// A reply: any payload that its creator may be given, and one that carries these bytes by a SURB.
pub fn reply(bytes: &[u8]) {
    let Replying { peers, surb, keys } = &*REPLYING;
    let spoilt = open_reply(keys, &mut bytes.to_vec()).map(<[u8]>::to_vec);
    assert!(spoilt.is_err_and(|error| error.kind() == ErrorKind::Forged), "a reply that nobody sealed opens");

    let mut choices = Choices::new(bytes);
    let altered = usize::from(choices.u16());
    let message = choices.rest();
    let mut packet = Vec::new();
    let first = use_surb(geometry(), surb, message, &mut packet);
    if message.len() > geometry().message() {
        return assert!(first.is_err_and(|error| error.kind() == ErrorKind::Misuse));
    }
    assert!(first.is_ok_and(|first| first.0 == [1; 32]));
    assert!(matches!(ours(geometry(), &peers[0].key, &mut packet), Ok(Unwrapped::Forward { .. })));
    let Ok(Unwrapped::Final { reply, payload }) = ours(geometry(), &peers[1].key, &mut packet) else {
        panic!("a reply does not come home")
    };
    assert!(reply == ReplyId([9; 16]));
    let mut damaged = payload.to_vec();
    damaged[altered % geometry().payload()] ^= 1 << (altered >> 13);
    assert!(open_reply(keys, payload) == Ok(message), "a reply says something else");
    assert!(open_reply(keys, &mut damaged).is_err(), "an altered reply opens");
}

pub(crate) fn unwrap_seeds() -> Vec<Seed> {
    let mut version = [0; 4];
    version[3] = 1;
    vec![
        seed("junk", &[&[0], &[7; 300]]),
        seed("whole_junk", &[&[0], &HOP.packets[0][..HEADER_SIZE], &[7; 2048]]),
        seed("valid_forward", &[&[1, 0, 0, 0]]),
        seed("valid_final", &[&[1, 1, 0, 0]]),
        seed("altered_mac", &[&[1, 0, 0, 32], &[1]]),
        seed("altered_element", &[&[1, 0, 0, 31], &[0x80]]),
        seed("altered_payload", &[&[1, 1, 1, 100], &[9; 8]]),
        seed("forged_delay", &[&[2, 0], &[0; 36], &[0xff; 8]]),
        seed("forged_next_hop", &[&[2, 0], &[0; 4], &[0x55; 32]]),
        seed("forged_reply", &[&[2, 1], &[0; 36], &[0x55; 16]]),
        seed("forged_flag", &[&[2, 0, 3]]),
        seed("forged_version", &[&[2, 0], &version]),
        seed("bit_of_the_element", &[&[3, 0, 0, 255]]),
        seed("bit_of_the_mac", &[&[3, 0, 1, 127]]),
        seed("any_element", &[&[4], &[0x5a; 32]]),
        seed("low_order_element", &[&[4], &LOW_ORDER[2]]),
        seed("zero_secret", &[&[5, 3]]),
    ]
}

pub(crate) fn message_seeds() -> Vec<Seed> {
    vec![
        seed("empty", &[]),
        seed("message", &[b"hello", &[1], &[0; 30]]),
        seed("no_end", &[&[0; 40]]),
        seed("after_its_zeros", &[&[0; 16], b"hello", &[1, 0, 0]]),
        seed("two_ends", &[&[0; 16], b"a\x01b", &[1, 0, 7]]),
        seed("altered_zeros", &[&[0; 15], &[2], b"hello", &[1]]),
    ]
}

pub(crate) fn reply_seeds() -> Vec<Seed> {
    vec![
        seed("empty", &[]),
        seed("hello", &[&[0, 0], b"hello"]),
        seed("altered_at_its_end", &[&[0xe7, 0xff], b"hello"]),
        seed("ends_alike", &[&[0, 40], &[1; 40]]),
        seed("longest", &[&[1, 1], &[1; 2031]]),
        seed("too_long", &[&[1, 1], &[1; 2032]]),
    ]
}

/// A hop, a packet for it to send on, and one that ends there.
struct AtHop {
    peer: Peer,
    packets: [Vec<u8>; 2],
}

static HOP: LazyLock<AtHop> = LazyLock::new(|| {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let peers = [Peer::random(&mut rng), Peer::random(&mut rng)];
    let hops = hops(&peers);
    let mut packet = |hops: &[Hop]| {
        let mut packet = Vec::new();
        build(geometry(), hops, ReplyId([0; 16]), b"hello", &mut rng, &mut packet).unwrap();
        packet
    };
    let packets = [packet(&hops), packet(&hops[..1])];
    let [peer, _] = peers;
    AtHop { peer, packets }
});

struct Replying {
    peers: [Peer; 2],
    surb: Surb,
    keys: ReplyKeys,
}

static REPLYING: LazyLock<Replying> = LazyLock::new(|| {
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let peers = [Peer::random(&mut rng), Peer::random(&mut rng)];
    let (surb, keys) = build_surb(&hops(&peers), ReplyId([9; 16]), &mut rng).unwrap();
    Replying { peers, surb, keys }
});

fn hops(peers: &[Peer]) -> Vec<Hop> {
    let hop = |(i, peer): (u8, &Peer)| Hop {
        address: [i; 32],
        key: peer.key.public(),
        delay: Duration::from_micros(5),
    };
    (1..).zip(peers).map(hop).collect()
}

fn geometry() -> Geometry {
    Geometry::new(2048).unwrap()
}

pub(crate) fn xor(bytes: &mut [u8], mask: &[u8]) {
    for (byte, mask) in bytes.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}
