//! Headers that only a sender who wants to could write: the routing information is anything, and the MAC fits.

use super::Peer;
use aes::Aes128;
use ctr::cipher::{KeyIvInit, StreamCipher};
use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::{EdwardsPoint, MontgomeryPoint};
use hkdf::Hkdf;
use hkdf::hmac::{Hmac, KeyInit, Mac};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::geometry::{Geometry, HEADER_SIZE};
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;
use sha2::Sha256;

/// Encodings of the points of low order: 0, 1, both of order 8, −1, and p, p + 1 without reduction.
pub const LOW_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    first_byte([0; 32], 1),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda,
        0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04,
        0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    first_byte(ALMOST, 0xec),
    first_byte(ALMOST, 0xed),
    first_byte(ALMOST, 0xee),
];

const ALMOST: [u8; 32] = {
    let mut bytes = [0xff; 32];
    bytes[31] = 0x7f;
    bytes
};

const fn first_byte(mut bytes: [u8; 32], first: u8) -> [u8; 32] {
    bytes[0] = first;
    bytes
}

/// A packet that its sender altered, and how ours refuses it where the crate does not.
pub struct Forged {
    pub packet: Vec<u8>,
    pub stricter: Option<ErrorKind>,
}

/// Alters some bytes of what a hop reads, most often where it matters.
pub fn altered_header(peer: &Peer, packet: &[u8], rng: &mut ChaCha20Rng) -> Forged {
    let mut stricter = None;
    let packet = with_routing(peer, packet, |plain| {
        for _ in 0..1 + rng.next_u32() % 3 {
            let value = rng.next_u32() as u8;
            match rng.next_u32() % 8 {
                0 => plain[0] = value % 4,
                1 => plain[1 + (rng.next_u32() % 3) as usize] = value,
                _ => plain[4 + (rng.next_u32() % 296) as usize] = value,
            }
        }
        // An unknown flag is refused by both.
        if matches!(plain[0], 1 | 2) && plain[1..4] != [0, 1, 4] {
            stricter = Some(ErrorKind::Incompatible);
        }
    });
    Forged { packet, stricter }
}

/// The same packet with other routing information for this hop, under a MAC that fits.
pub fn with_routing(peer: &Peer, packet: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut element = [0; 32];
    element.copy_from_slice(&packet[..32]);
    let shared = peer.crate_key.diffie_hellman(&element.into());
    rewritten(shared.as_bytes(), packet, change)
}

/// The same packet with another element, made to be sent on: nothing that honest senders make, but its MAC fits.
pub fn with_element(peer: &Peer, packet: &[u8], element: &[u8; 32]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[..32].copy_from_slice(element);
    with_routing(peer, &packet, |plain| plain[..4].copy_from_slice(&[1, 0, 1, 4]))
}

/// A packet whose shared secret is zero for every key, made to be sent on.
pub fn degenerate(geometry: Geometry, element: &[u8; 32]) -> Vec<u8> {
    let mut packet = vec![7; geometry.packet()];
    packet[..32].copy_from_slice(element);
    rewritten(&[0; 32], &packet, |plain| plain[..4].copy_from_slice(&[1, 0, 1, 4]))
}

/// The same packet with a random point of low order added to its element.
pub fn torsion_variant(packet: &[u8], rng: &mut ChaCha20Rng) -> Vec<u8> {
    let mut element = [0; 32];
    element.copy_from_slice(&packet[..32]);
    let point: EdwardsPoint = MontgomeryPoint(element).to_edwards(0).unwrap();
    let torsion = EIGHT_TORSION[(rng.next_u32() % 8) as usize];
    let mut variant = packet.to_vec();
    variant[..32].copy_from_slice((point + torsion).to_montgomery().as_bytes());
    variant
}

fn rewritten(shared: &[u8; 32], packet: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let info =
        b"Dwste mou enan moxlo arketa makru kai ena upomoxlio gia na ton topothetisw kai tha kinisw thn gh.";
    let mut keys = [0; 32];
    Hkdf::<Sha256>::new(None, shared).expand(info, &mut keys).unwrap();
    let (cipher, mac) = keys.split_at(16);
    let mut packet = packet.to_vec();
    let apply = |routing: &mut [u8]| {
        ctr::Ctr64BE::<Aes128>::new_from_slices(cipher, &[0; 16]).unwrap().apply_keystream(routing);
    };
    let routing = &mut packet[48..HEADER_SIZE];
    apply(routing);
    change(routing);
    apply(routing);
    let mut hmac = Hmac::<Sha256>::new_from_slice(mac).unwrap();
    hmac.update(routing);
    let full = hmac.finalize().into_bytes();
    packet[32..48].copy_from_slice(&full[..16]);
    packet
}
