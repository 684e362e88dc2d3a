//! Both codecs behind the same words, so that a test can compare what they make of the same bytes.

#![allow(unreachable_pub, missing_docs)]

pub mod forge;

use mizzle_protocol::Result;
use mizzle_protocol::geometry::{Geometry, HEADER_SIZE};
use mizzle_protocol::id::ReplyId;
use mizzle_protocol::sphinx::{Hop, SecretKey, Unwrapped, inspect};
use rand_chacha::ChaCha20Rng;
use rand_core::{Infallible, Rng, TryCryptoRng, TryRng};
use sphinx_packet::header::delays::Delay;
use sphinx_packet::packet::builder::SphinxPacketBuilder;
use sphinx_packet::payload::Payload;
use sphinx_packet::route::{Destination, DestinationAddressBytes, Node, NodeAddressBytes};
use sphinx_packet::version::{SINGLE_SEED_SURB_VERSION, Version};
use sphinx_packet::{ProcessedPacketData, SURB, SURBMaterial, SphinxPacket, SurbReplyRecovery};
use std::time::Duration;
use x25519_dalek::StaticSecret;

/// What a codec makes of a packet.
#[derive(Clone, PartialEq, Eq)]
pub enum Outcome {
    Refused,
    Forward { tag: [u8; 32], packet: Vec<u8>, next: [u8; 32], delay: Duration },
    Final { tag: [u8; 32], reply: [u8; 16], payload: Vec<u8> },
}

impl Outcome {
    pub fn tag(&self) -> Option<[u8; 32]> {
        match self {
            Self::Refused => None,
            Self::Forward { tag, .. } | Self::Final { tag, .. } => Some(*tag),
        }
    }
}

/// One hop's secret, in the form of either codec.
pub struct Peer {
    pub key: SecretKey,
    pub crate_key: StaticSecret,
}

impl Peer {
    pub fn random(rng: &mut ChaCha20Rng) -> Self {
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        Self { key: SecretKey::from_bytes(secret), crate_key: StaticSecret::from(secret) }
    }
}

/// What our codec makes of a packet.
pub fn our_unwrap(geometry: Geometry, peer: &Peer, packet: &[u8]) -> Result<Outcome> {
    let mut packet = packet.to_vec();
    let inspected = inspect(geometry, &peer.key, &mut packet)?;
    let tag = inspected.tag().0;
    let advanced = inspected.advance()?;
    Ok(match advanced.open_payload(&mut packet) {
        Unwrapped::Forward { next, delay } => Outcome::Forward { tag, next, delay, packet },
        Unwrapped::Final { reply, payload } => {
            Outcome::Final { tag, reply: reply.0, payload: payload.to_vec() }
        }
    })
}

/// What the crate makes of a packet.
pub fn crate_unwrap(peer: &Peer, packet: &[u8]) -> Outcome {
    let Ok(sphinx) = SphinxPacket::from_bytes(packet) else { return Outcome::Refused };
    let secret = sphinx.header.compute_expanded_shared_secret(&peer.crate_key);
    let tag = *secret.replay_tag();
    match sphinx.process_with_expanded_secret(&secret).map(|processed| processed.data) {
        Err(_) => Outcome::Refused,
        Ok(ProcessedPacketData::ForwardHop { next_hop_packet, next_hop_address, delay }) => {
            Outcome::Forward {
                tag,
                packet: next_hop_packet.to_bytes(),
                next: *next_hop_address.as_bytes(),
                delay: delay.to_duration(),
            }
        }
        Ok(ProcessedPacketData::FinalHop { identifier, payload, .. }) => {
            Outcome::Final { tag, reply: identifier, payload: payload.into_bytes() }
        }
    }
}

/// What both make of it, which must be the same.
pub fn compare(geometry: Geometry, peer: &Peer, packet: &[u8]) -> Outcome {
    let ours = our_unwrap(geometry, peer, packet).unwrap_or(Outcome::Refused);
    let theirs = crate_unwrap(peer, packet);
    assert!(ours.tag() == theirs.tag(), "one codec refuses the packet, or the tags differ");
    assert!(ours == theirs, "the codecs make different things of a packet");
    ours
}

/// A payload as the crate wants it.
pub fn payload(bytes: &[u8]) -> Payload {
    Payload::from_bytes(bytes).unwrap()
}

/// Hops with random addresses, keys and delays.
pub struct Route {
    pub peers: Vec<Peer>,
    pub hops: Vec<Hop>,
}

impl Route {
    pub fn random(count: usize, rng: &mut ChaCha20Rng) -> Self {
        let peers: Vec<_> = (0..count).map(|_| Peer::random(rng)).collect();
        let hops = peers
            .iter()
            .map(|peer| {
                let mut address = [0; 32];
                rng.fill_bytes(&mut address);
                Hop { address, key: peer.key.public(), delay: Duration::from_nanos(rng.next_u64()) }
            })
            .collect();
        Self { peers, hops }
    }

    /// A packet by the crate.
    pub fn crate_packet(
        &self,
        geometry: Geometry,
        secret: &[u8; 32],
        reply: ReplyId,
        message: &[u8],
    ) -> Vec<u8> {
        self.crate_packet_of(SINGLE_SEED_SURB_VERSION.value(), geometry, secret, reply, message)
    }

    /// A packet of any version by the crate.
    pub fn crate_packet_of(
        &self,
        version: u16,
        geometry: Geometry,
        secret: &[u8; 32],
        reply: ReplyId,
        message: &[u8],
    ) -> Vec<u8> {
        SphinxPacketBuilder::new()
            .with_version(Version::new(version))
            .with_payload_size(geometry.payload())
            .with_initial_secret(&StaticSecret::from(*secret))
            .build_packet(message, &self.nodes(), &self.destination(reply), &self.delays())
            .unwrap()
            .to_bytes()
    }

    /// A SURB by the crate, and what opens its reply.
    pub fn crate_surb(&self, secret: &[u8; 32], reply: ReplyId) -> (SURB, SurbReplyRecovery) {
        let destination = self.destination(reply);
        let material = SURBMaterial::new(self.nodes(), self.delays(), destination, SINGLE_SEED_SURB_VERSION);
        SURB::new_recoverable(StaticSecret::from(*secret), material).unwrap()
    }

    /// The random padding that the crate drew for the last hop of this header, as that hop finds it.
    pub fn padding_of(&self, bytes: &[u8]) -> Vec<u8> {
        let length = 300 - 60 * (self.hops.len() - 1) - 52;
        let mut packet = bytes[..HEADER_SIZE].to_vec();
        packet.extend([0; 64]);
        let (last, before) = self.peers.split_last().unwrap();
        for peer in before {
            let Outcome::Forward { packet: next, .. } = crate_unwrap(peer, &packet) else {
                panic!("the packet goes no further")
            };
            packet = next;
        }
        let mut padding = Vec::new();
        forge::with_routing(last, &packet, |plain| padding = plain[52..52 + length].to_vec());
        padding
    }

    fn nodes(&self) -> Vec<Node> {
        let node = |hop: &Hop| Node { address: NodeAddressBytes::from_bytes(hop.address), pub_key: hop.key };
        self.hops.iter().map(node).collect()
    }

    fn delays(&self) -> Vec<Delay> {
        self.hops.iter().map(|hop| Delay::new_from_nanos(hop.delay.as_nanos() as u64)).collect()
    }

    fn destination(&self, reply: ReplyId) -> Destination {
        let last = self.hops.last().unwrap();
        Destination::new(DestinationAddressBytes::from_bytes(last.address), reply.0)
    }
}

/// A random source that gives what another one gave: the secret of a packet, then its padding.
pub struct Recorded(std::collections::VecDeque<u8>);

impl Recorded {
    pub fn new(secret: &[u8; 32], padding: &[u8]) -> Self {
        Self(secret.iter().chain(padding).copied().collect())
    }

    pub fn is_used_up(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryRng for Recorded {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        panic!("only bytes were recorded")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        panic!("only bytes were recorded")
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        out.fill_with(|| self.0.pop_front().unwrap());
        Ok(())
    }
}

impl TryCryptoRng for Recorded {}
