//! The Sphinx packet behind one small interface.
//!
//! The wire format is that of the crate `sphinx-packet` 0.8, version 260 only: single-seed SURBs, whose
//! replies only their creator can open. Source: Danezis and Goldberg, "Sphinx: A Compact and Provably
//! Secure Mix Format" (2009). (spec: PACKET-2 to PACKET-5)
//!
//! This module uses the crate; an in-place codec for the same bytes replaces it behind these functions.

use crate::geometry::{Geometry, HEADER_SIZE, MAX_HOPS, SURB_SIZE};
use crate::id::{RelayId, ReplayTag, ReplyId};
use crate::{Error, ErrorKind, Result};
use rand_core::CryptoRng;
use sphinx_packet::header::SphinxHeader;
use sphinx_packet::header::delays::Delay;
use sphinx_packet::packet::builder::SphinxPacketBuilder;
use sphinx_packet::payload::Payload;
use sphinx_packet::route::{Destination, DestinationAddressBytes, Node, NodeAddressBytes};
use sphinx_packet::version::SINGLE_SEED_SURB_VERSION;
use sphinx_packet::{ProcessedPacketData, SURB as CrateSurb, SURBMaterial, SphinxPacket, SurbReplyRecovery};
use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;
pub use x25519_dalek::PublicKey;
use x25519_dalek::StaticSecret;

/// The X25519 key of a mix for one period, or of a client for one link. Wiped when dropped.
#[derive(Clone)]
pub struct SecretKey(StaticSecret);

impl SecretKey {
    /// A fresh key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        Self::from_bytes(bytes)
    }

    /// A key from its stored form.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(StaticSecret::from(bytes))
    }

    /// The stored form.
    pub fn to_bytes(&self) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(self.0.to_bytes())
    }

    /// The public half, as descriptors carry it.
    pub fn public(&self) -> PublicKey {
        PublicKey::from(&self.0)
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

/// A single-use reply block: lets its holder send one packet to its creator, without learning to whom.
#[derive(Clone, PartialEq, Eq)]
pub struct Surb(Box<[u8; SURB_SIZE]>);

impl Surb {
    /// The SURB in `bytes`.
    pub fn from_slice(bytes: &[u8]) -> Result<Self> {
        let bytes: &[u8; SURB_SIZE] =
            bytes.try_into().map_err(|_| Error::new(ErrorKind::Malformed, "SURB of another size"))?;
        Ok(Self(Box::new(*bytes)))
    }

    /// Its bytes on the wire.
    pub fn as_bytes(&self) -> &[u8; SURB_SIZE] {
        &self.0
    }
}

impl fmt::Debug for Surb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Surb(redacted)")
    }
}

/// What a SURB's creator keeps to open the reply.
#[derive(Clone)]
pub struct ReplyKeys(SurbReplyRecovery);

impl fmt::Debug for ReplyKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplyKeys(redacted)")
    }
}

/// A packet with one layer removed.
#[derive(Debug)]
pub enum Unwrapped {
    /// To be held for `delay` and sent to `next`; the buffer now holds the packet for the next hop.
    Forward {
        /// A relay's identity or a client's address.
        next: [u8; 32],
        /// What the sender asks for.
        delay: Duration,
    },
    /// This is the last hop.
    Final {
        /// Names the SURB, loop or ping that it belongs to; zero outward.
        reply: ReplyId,
        /// Still sealed if it is the reply to a SURB: see [`open_reply`]; else see [`open_message`].
        payload: Vec<u8>,
    },
}

/// Builds a packet for `hops` that carries `message` to the last of them.
///
/// `message` is at most [`Geometry::message`] bytes. `out` is replaced by [`Geometry::packet`] bytes.
pub fn build(
    geometry: Geometry,
    hops: &[Hop],
    reply: ReplyId,
    message: &[u8],
    rng: &mut impl CryptoRng,
    out: &mut Vec<u8>,
) -> Result<()> {
    if message.len() > geometry.message() {
        return Err(Error::new(ErrorKind::Misuse, "message larger than a packet"));
    }
    let (route, delays, destination) = route(hops, reply)?;
    let secret = StaticSecret::from(random(rng));
    let packet = SphinxPacketBuilder::new()
        .with_version(SINGLE_SEED_SURB_VERSION)
        .with_payload_size(geometry.payload())
        .with_initial_secret(&secret)
        .build_packet(message, &route, &destination, &delays)
        .map_err(|_| Error::new(ErrorKind::Misuse, "packet could not be built"))?;
    out.clear();
    out.extend(packet.to_bytes());
    Ok(())
}

/// Builds a SURB whose last hop is its creator. `reply` must not be zero: it is how the creator finds the
/// keys again.
pub fn build_surb(hops: &[Hop], reply: ReplyId, rng: &mut impl CryptoRng) -> Result<(Surb, ReplyKeys)> {
    let (route, delays, destination) = route(hops, reply)?;
    let material = SURBMaterial::new(route, delays, destination, SINGLE_SEED_SURB_VERSION);
    let (surb, recovery) = CrateSurb::new_recoverable(StaticSecret::from(random(rng)), material)
        .map_err(|_| Error::new(ErrorKind::Misuse, "SURB could not be built"))?;
    Ok((Surb::from_slice(&surb.to_bytes())?, ReplyKeys(recovery)))
}

/// Burns a SURB: builds the packet that carries `message` home, and says which mix gets it first.
pub fn use_surb(geometry: Geometry, surb: &Surb, message: &[u8], out: &mut Vec<u8>) -> Result<RelayId> {
    let forged = |_| Error::new(ErrorKind::Malformed, "SURB cannot be used");
    let surb = CrateSurb::from_bytes(surb.as_bytes().as_slice()).map_err(forged)?;
    let (packet, first) = surb.use_surb(message, geometry.payload()).map_err(forged)?;
    out.clear();
    out.extend(packet.to_bytes());
    Ok(RelayId(*first.as_bytes()))
}

/// Removes one layer from the packet in `packet`, with the MAC checked first.
///
/// `accept` is asked about the replay tag once the MAC has held and before anything else is done; an error
/// from it is returned as it is. On [`Unwrapped::Forward`] the buffer holds the next hop's packet.
///
/// Errors: [`ErrorKind::Malformed`] for another length, [`ErrorKind::Forged`] for a wrong key, a broken MAC
/// or an all-zero shared secret, [`ErrorKind::Incompatible`] for another Sphinx version.
pub fn unwrap(
    geometry: Geometry,
    key: &SecretKey,
    packet: &mut Vec<u8>,
    accept: impl FnOnce(ReplayTag) -> Result<()>,
) -> Result<Unwrapped> {
    if packet.len() != geometry.packet() {
        return Err(Error::new(ErrorKind::Malformed, "packet of another size"));
    }
    let forged = || Error::new(ErrorKind::Forged, "packet does not fit this key");
    let sphinx = SphinxPacket::from_bytes(packet).map_err(|_| forged())?;
    let secret = sphinx.header.compute_expanded_shared_secret(&key.0);
    let tag = ReplayTag::from_slice(secret.replay_tag())?;
    if tag == degenerate_tag()? {
        return Err(forged());
    }
    sphinx.header.ensure_header_integrity(&secret).map_err(|_| forged())?;
    accept(tag)?;
    let processed = sphinx.process_with_expanded_secret(&secret).map_err(|_| forged())?;
    if processed.version != SINGLE_SEED_SURB_VERSION {
        return Err(Error::new(ErrorKind::Incompatible, "packet of another Sphinx version"));
    }
    match processed.data {
        ProcessedPacketData::ForwardHop { next_hop_packet, next_hop_address, delay } => {
            packet.clear();
            packet.extend(next_hop_packet.to_bytes());
            Ok(Unwrapped::Forward { next: *next_hop_address.as_bytes(), delay: delay.to_duration() })
        }
        ProcessedPacketData::FinalHop { identifier, payload, .. } => {
            Ok(Unwrapped::Final { reply: ReplyId(identifier), payload: payload.into_bytes() })
        }
    }
}

/// The message in a final payload that did not come by a SURB. Fails if any bit was changed on the way.
pub fn open_message(payload: &[u8]) -> Result<Vec<u8>> {
    Payload::from_bytes(payload)
        .and_then(Payload::recover_plaintext)
        .map_err(|_| Error::new(ErrorKind::Forged, "payload was altered"))
}

/// The message in a final payload that came by the SURB of `keys`.
pub fn open_reply(keys: &ReplyKeys, payload: &[u8]) -> Result<Vec<u8>> {
    Payload::from_bytes(payload)
        .and_then(|payload| keys.0.recover_plaintext(payload))
        .map_err(|_| Error::new(ErrorKind::Forged, "reply was altered"))
}

fn route(hops: &[Hop], reply: ReplyId) -> Result<(Vec<Node>, Vec<Delay>, Destination)> {
    let last = match hops {
        [.., last] if hops.len() <= MAX_HOPS => last,
        _ => return Err(Error::new(ErrorKind::Misuse, "a route has one to five hops")),
    };
    let nodes = hops
        .iter()
        .map(|hop| Node { address: NodeAddressBytes::from_bytes(hop.address), pub_key: hop.key })
        .collect();
    let delays = hops
        .iter()
        .map(|hop| Delay::new_from_nanos(u64::try_from(hop.delay.as_nanos()).unwrap_or(u64::MAX)))
        .collect();
    Ok((nodes, delays, Destination::new(DestinationAddressBytes::from_bytes(last.address), reply.0)))
}

/// The tag of an all-zero shared secret: that of a first element of low order, whatever the key.
fn degenerate_tag() -> Result<ReplayTag> {
    static TAG: OnceLock<Option<ReplayTag>> = OnceLock::new();
    TAG.get_or_init(|| {
        let header = SphinxHeader::from_bytes(&[0; HEADER_SIZE]).ok()?;
        let secret = header.compute_expanded_shared_secret(&StaticSecret::from([1; 32]));
        ReplayTag::from_slice(secret.replay_tag()).ok()
    })
    .ok_or_else(|| Error::new(ErrorKind::Misuse, "the degenerate tag cannot be computed"))
}

fn random(rng: &mut impl CryptoRng) -> [u8; 32] {
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    bytes
}

const _: () = assert!(HEADER_SIZE == sphinx_packet::header::HEADER_SIZE);

#[cfg(test)]
mod tests {
    use super::*;
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
                    match unwrap(geometry, key, &mut packet, |_| Ok(())).unwrap() {
                        Unwrapped::Forward { next, delay } => {
                            assert_eq!(next, hops[i + 1].address);
                            assert_eq!(delay, hops[i].delay);
                        }
                        Unwrapped::Final { payload, .. } => {
                            assert_eq!(i + 1, count);
                            assert_eq!(open_message(&payload).unwrap(), message);
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
            if let Unwrapped::Final { reply, payload } =
                unwrap(geometry, key, &mut packet, |_| Ok(())).unwrap()
            {
                assert_eq!(reply, ReplyId([9; 16]));
                assert_eq!(open_reply(&reply_keys, &payload).unwrap(), b"hello");
                assert!(open_reply(&others, &payload).is_err());
                assert!(open_message(&payload).is_err());
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
            let result = unwrap(geometry, &keys[0], &mut altered, |_| Ok(()));
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Forged);
        }
        let mut low_order = packet.clone();
        low_order[..32].fill(0);
        let result = unwrap(geometry, &keys[0], &mut low_order, |_| Ok(()));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Forged);
        let result = unwrap(geometry, &keys[1], &mut packet, |_| Ok(()));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Forged);
    }

    #[test]
    fn a_refused_tag_stops_the_packet_and_is_the_same_twice() {
        let mut rng = ChaCha20Rng::seed_from_u64(4);
        let geometry = Geometry::default();
        let (keys, hops) = route_of(2, &mut rng);
        let mut packet = Vec::new();
        build(geometry, &hops, ReplyId([0; 16]), b"x", &mut rng, &mut packet).unwrap();
        // The high bit of the first element is ignored by X25519, so it must not change the tag.
        let mut twin = packet.clone();
        twin[31] ^= 0x80;
        let mut tags = Vec::new();
        for mut copy in [packet, twin] {
            let result = unwrap(geometry, &keys[0], &mut copy, |tag| {
                tags.push(tag);
                Err(Error::new(ErrorKind::Replayed, "seen"))
            });
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Replayed);
        }
        assert!(tags[0] == tags[1]);
    }
}
