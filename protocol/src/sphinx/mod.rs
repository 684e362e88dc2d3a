//! The Sphinx packet behind one small interface.
//!
//! The wire format is that of the crate `sphinx-packet` 0.8, version 260 only: single-seed SURBs, whose
//! replies only their creator can open. Source: Danezis and Goldberg, "Sphinx: A Compact and Provably
//! Secure Mix Format" (2009). (spec: PACKET-2 to PACKET-5)
//!
//! A sender calls [`build`] or [`build_surb`]; a relay [`inspect`], then its own checks, then
//! [`Inspected::advance`] and [`Advanced::open_payload`], all in the packet's buffer; the last hop
//! [`open_message`]; who has a SURB [`use_surb`], and its creator [`open_reply`]. Nothing allocates per packet,
//! and all randomness is passed in.
//!
//! Each file has one part of it: `header` (what is where), `keys` and `hkdf` (what a hop derives, and how),
//! `route` (headers at one X25519 a hop), `lioness` and [`hash`] (the payload cipher, and what it hashes with),
//! `packet`, `surb` and `unwrap` (the functions above), `format` (the functions as a trait, for machines that run
//! with other packets, too), [`x25519`] (which implementation), [`parts`] (what each step costs).

mod format;
pub mod hash;
mod header;
mod hkdf;
mod keys;
mod lioness;
mod packet;
pub mod parts;
mod route;
mod surb;
mod unwrap;
pub mod x25519;

pub use format::{PacketFormat, Sphinx};
pub use header::Routing;
pub use packet::{build, open_message};
pub use surb::{ReplyKeys, Surb, build_surb, open_reply, use_surb};
pub use unwrap::{Advanced, Inspected, Unwrapped, inspect, unwrap};
pub use x25519_dalek::PublicKey;

use crate::secret::Secret;
use rand_core::CryptoRng;
use std::fmt;
use std::time::Duration;
use x25519::Backend;
use zeroize::Zeroizing;

/// The X25519 key of a mix for one period, or of a client for one link. Wiped when dropped.
#[derive(Clone)]
pub struct SecretKey(Secret<32>);

impl SecretKey {
    /// A fresh key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(bytes.as_mut());
        Self::from_bytes(*bytes)
    }

    /// A key from its stored form.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Secret::new(bytes))
    }

    /// The stored form.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(*self.0.expose())
    }

    /// The public half, as descriptors carry it.
    pub fn public(&self) -> PublicKey {
        PublicKey::from(Backend::current().public_key(self.expose()))
    }

    /// The bytes, for the one place that computes with them.
    fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(redacted)")
    }
}

/// One hop of a route.
#[derive(Clone, Debug)]
pub struct Hop {
    /// A relay's identity, or the address that the entry gave to a client link.
    pub address: [u8; 32],
    /// The hop's key of the packet's period.
    pub key: PublicKey,
    /// How long it holds the packet. Whole microseconds.
    pub delay: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::geometry::{Geometry, HEADER_SIZE, MAX_HOPS};
    use crate::id::ReplyId;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn route_of(count: usize, rng: &mut ChaCha20Rng) -> (Vec<SecretKey>, Vec<Hop>) {
        let keys: Vec<_> = (0..count).map(|_| SecretKey::generate(rng)).collect();
        let hops = keys
            .iter()
            .enumerate()
            .map(|(i, key)| Hop {
                address: [i as u8 + 1; 32],
                key: key.public(),
                delay: Duration::from_micros(i as u64 * 1_000),
            })
            .collect();
        (keys, hops)
    }

    #[test]
    fn packets_of_every_size_and_length_reach_their_last_hop() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        for payload in [2048, 4096, 8192] {
            let geometry = Geometry::new(payload).unwrap();
            for count in 1..=MAX_HOPS {
                let (keys, hops) = route_of(count, &mut rng);
                let message = vec![42; geometry.message()];
                let mut packet = Vec::new();
                build(geometry, &hops, ReplyId([0; 16]), &message, &mut rng, &mut packet).unwrap();
                for (i, key) in keys.iter().enumerate() {
                    assert_eq!(packet.len(), geometry.packet());
                    match unwrap(geometry, key, &mut packet).unwrap() {
                        Unwrapped::Forward { next, delay } => {
                            assert_eq!(next, hops[i + 1].address);
                            assert_eq!(delay, hops[i].delay);
                        }
                        Unwrapped::Final { payload, .. } => {
                            assert_eq!(i + 1, count);
                            assert_eq!(open_message(payload).unwrap(), message);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_reply_opens_for_its_creator_only() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let geometry = Geometry::default();
        let (keys, hops) = route_of(5, &mut rng);
        let (surb, reply_keys) = build_surb(&hops, ReplyId([9; 16]), &mut rng).unwrap();
        let (_, others) = build_surb(&hops, ReplyId([8; 16]), &mut rng).unwrap();
        let mut packet = Vec::new();
        let first = use_surb(geometry, &surb, b"hello", &mut packet).unwrap();
        assert_eq!(first.0, hops[0].address);
        for key in &keys {
            if let Unwrapped::Final { reply, payload } = unwrap(geometry, key, &mut packet).unwrap() {
                assert_eq!(reply, ReplyId([9; 16]));
                assert!(open_message(payload).is_err());
                assert!(open_reply(&others, &mut payload.to_vec()).is_err());
                assert_eq!(open_reply(&reply_keys, payload).unwrap(), b"hello");
            }
        }
    }

    #[test]
    fn altered_headers_are_forged_and_low_order_points_refused() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let geometry = Geometry::default();
        let (keys, hops) = route_of(3, &mut rng);
        let mut packet = Vec::new();
        build(geometry, &hops, ReplyId([0; 16]), b"x", &mut rng, &mut packet).unwrap();
        for position in [0, 40, 100, HEADER_SIZE - 1] {
            let mut altered = packet.clone();
            altered[position] ^= 1;
            let result = unwrap(geometry, &keys[0], &mut altered);
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Forged);
        }
        let mut low_order = packet.clone();
        low_order[..32].fill(0);
        let result = unwrap(geometry, &keys[0], &mut low_order);
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Forged);
        let result = unwrap(geometry, &keys[1], &mut packet);
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Forged);
    }

    #[test]
    fn a_packet_that_is_only_inspected_stays_as_it_came_and_has_one_tag() {
        let mut rng = ChaCha20Rng::seed_from_u64(4);
        let geometry = Geometry::default();
        let (keys, hops) = route_of(2, &mut rng);
        let mut packet = Vec::new();
        build(geometry, &hops, ReplyId([0; 16]), b"x", &mut rng, &mut packet).unwrap();
        // The high bit of the first element is ignored by X25519, so it must not change the tag.
        let mut twin = packet.clone();
        twin[31] ^= 0x80;
        let mut tags = Vec::new();
        for original in [packet, twin] {
            let mut copy = original.clone();
            let inspected = inspect(geometry, &keys[0], &mut copy).unwrap();
            let expected = Routing::Forward { next: hops[1].address, delay: hops[0].delay };
            assert_eq!(inspected.routing(), expected);
            tags.push(inspected.tag());
            assert!(copy == original);
        }
        assert!(tags[0] == tags[1]);
    }

    #[test]
    fn what_cannot_be_built_is_the_callers_mistake() {
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        let geometry = Geometry::default();
        let (_, hops) = route_of(5, &mut rng);
        let zero = ReplyId([0; 16]);
        let mut out = Vec::new();
        let mut kind = |hops: &[Hop], message: &[u8]| {
            build(geometry, hops, zero, message, &mut rng, &mut out).unwrap_err().kind()
        };
        assert_eq!(kind(&hops, &vec![0; geometry.message() + 1]), ErrorKind::Misuse);
        assert_eq!(kind(&[], b""), ErrorKind::Misuse);
        assert_eq!(kind(&[hops.clone(), hops.clone()].concat(), b""), ErrorKind::Misuse);
        let low_order = Hop { key: PublicKey::from([0; 32]), ..hops[0].clone() };
        assert_eq!(kind(&[low_order], b""), ErrorKind::Misuse);
        assert_eq!(build_surb(&hops, zero, &mut rng).unwrap_err().kind(), ErrorKind::Misuse);
        assert_eq!(build_surb(&[], ReplyId([1; 16]), &mut rng).unwrap_err().kind(), ErrorKind::Misuse);
    }

    #[test]
    fn debug_shows_no_secret() {
        let mut rng = ChaCha20Rng::seed_from_u64(6);
        let (keys, hops) = route_of(1, &mut rng);
        let (surb, reply_keys) = build_surb(&hops, ReplyId([1; 16]), &mut rng).unwrap();
        let mut packet = Vec::new();
        build(Geometry::default(), &hops, ReplyId([0; 16]), b"", &mut rng, &mut packet).unwrap();
        let inspected = inspect(Geometry::default(), &keys[0], &mut packet).unwrap();
        let shown = format!("{:?} {surb:?} {reply_keys:?} {inspected:?}", keys[0]);
        assert_eq!(shown, "SecretKey(redacted) Surb(redacted) ReplyKeys(redacted) Inspected(redacted)");
    }
}
