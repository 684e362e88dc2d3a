//! The same work by the crate `sphinx-packet`, whose bytes ours are: what other mixes of this format run.

use crate::speed::SECRET;
use mizzle_protocol::ErrorKind;
use mizzle_protocol::sphinx::Hop;
use sphinx_packet::header::delays::Delay;
use sphinx_packet::packet::builder::SphinxPacketBuilder;
use sphinx_packet::route::{Destination, DestinationAddressBytes, Node, NodeAddressBytes};
use sphinx_packet::version::SINGLE_SEED_SURB_VERSION;
use sphinx_packet::{ProcessedPacketData, SURB, SURBMaterial, SphinxPacket};
use std::hint::black_box;
use x25519_dalek::StaticSecret;

/// Its name and version.
pub(super) const NAME: &str = "sphinx-packet 0.8.0";

/// Takes a layer off a packet, from the bytes that came to the bytes that leave.
pub(super) fn unwrap(packet: &[u8]) -> mizzle_link::Result<()> {
    let key = StaticSecret::from(SECRET);
    let processed = SphinxPacket::from_bytes(black_box(packet)).and_then(|packet| packet.process(&key));
    match processed.map_err(failed)?.data {
        ProcessedPacketData::ForwardHop { next_hop_packet, .. } => {
            black_box(next_hop_packet.to_bytes());
            Ok(())
        }
        ProcessedPacketData::FinalHop { .. } => Err(failed("the packet ends at its first hop")),
    }
}

/// Builds a packet with this message.
pub(super) fn build(payload: usize, message: &[u8], hops: &[Hop]) -> mizzle_link::Result<()> {
    let builder = SphinxPacketBuilder::new().with_payload_size(payload);
    let built = builder.build_packet(message, &nodes(hops), &destination(), &delays(hops)).map_err(failed)?;
    black_box(built.to_bytes());
    Ok(())
}

/// Builds a SURB.
pub(super) fn build_surb(hops: &[Hop]) -> mizzle_link::Result<()> {
    let material = SURBMaterial::new(nodes(hops), delays(hops), destination(), SINGLE_SEED_SURB_VERSION);
    let (surb, recovery) = SURB::new_recoverable(StaticSecret::random(), material).map_err(failed)?;
    black_box((surb.to_bytes(), recovery));
    Ok(())
}

fn nodes(hops: &[Hop]) -> Vec<Node> {
    let node = |hop: &Hop| Node { address: NodeAddressBytes::from_bytes(hop.address), pub_key: hop.key };
    hops.iter().map(node).collect()
}

fn delays(hops: &[Hop]) -> Vec<Delay> {
    hops.iter().map(|_| Delay::new_from_millis(20)).collect()
}

fn destination() -> Destination {
    Destination::new(DestinationAddressBytes::from_bytes([1; 32]), [1; 16])
}

fn failed(error: impl std::fmt::Display) -> mizzle_link::Error {
    let message = format!("{NAME} fails where it must not: {error}");
    mizzle_link::Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Misuse, message))
}
