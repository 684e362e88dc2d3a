//! The operations of a packet format, as a client and a service use them.
//!
//! The product has one format, [`Sphinx`]; everything that is not told otherwise uses it. The simulator has
//! another, which names the hops in the clear and costs no cryptography, so that the same machines can be run
//! for a million clients.

use super::{Hop, ReplyKeys, SecretKey, Surb, Unwrapped};
use crate::geometry::Geometry;
use crate::id::{RelayId, ReplyId};
use crate::{Error, ErrorKind, Result};
use rand_core::CryptoRng;
use std::fmt;

/// What a sender, a service and a receiver do to a packet.
pub trait PacketFormat: fmt::Debug {
    /// What a SURB's creator keeps to open the reply.
    type ReplyKeys: fmt::Debug;

    /// A packet that carries `message` over `hops`; see [`build`](super::build).
    fn build(
        geometry: Geometry,
        hops: &[Hop],
        reply: ReplyId,
        message: &[u8],
        rng: &mut impl CryptoRng,
        out: &mut Vec<u8>,
    ) -> Result<()>;

    /// A SURB and what opens its reply; see [`build_surb`](super::build_surb).
    fn build_surb(hops: &[Hop], reply: ReplyId, rng: &mut impl CryptoRng) -> Result<(Surb, Self::ReplyKeys)>;

    /// Burns a SURB; see [`use_surb`](super::use_surb).
    fn use_surb(geometry: Geometry, surb: &Surb, message: &[u8], out: &mut Vec<u8>) -> Result<RelayId>;

    /// Removes the last layer, the receiver's. [`ErrorKind::Refused`] if another hop follows.
    fn receive<'a>(
        geometry: Geometry,
        key: &SecretKey,
        packet: &'a mut [u8],
    ) -> Result<(ReplyId, &'a mut [u8])>;

    /// The message in a final payload that did not come by a SURB; see [`open_message`](super::open_message).
    fn open_message(payload: &[u8]) -> Result<&[u8]>;

    /// The message in a final payload that came by the SURB of `keys`; see [`open_reply`](super::open_reply).
    fn open_reply<'a>(keys: &Self::ReplyKeys, payload: &'a mut [u8]) -> Result<&'a [u8]>;
}

/// The format of the product.
#[derive(Clone, Copy, Debug)]
pub struct Sphinx;

impl PacketFormat for Sphinx {
    type ReplyKeys = ReplyKeys;

    fn build(
        geometry: Geometry,
        hops: &[Hop],
        reply: ReplyId,
        message: &[u8],
        rng: &mut impl CryptoRng,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        super::build(geometry, hops, reply, message, rng, out)
    }

    fn build_surb(hops: &[Hop], reply: ReplyId, rng: &mut impl CryptoRng) -> Result<(Surb, ReplyKeys)> {
        super::build_surb(hops, reply, rng)
    }

    fn use_surb(geometry: Geometry, surb: &Surb, message: &[u8], out: &mut Vec<u8>) -> Result<RelayId> {
        super::use_surb(geometry, surb, message, out)
    }

    fn receive<'a>(
        geometry: Geometry,
        key: &SecretKey,
        packet: &'a mut [u8],
    ) -> Result<(ReplyId, &'a mut [u8])> {
        match super::unwrap(geometry, key, packet)? {
            Unwrapped::Final { reply, payload } => Ok((reply, payload)),
            Unwrapped::Forward { .. } => Err(Error::new(ErrorKind::Refused, "a packet with further hops")),
        }
    }

    fn open_message(payload: &[u8]) -> Result<&[u8]> {
        super::open_message(payload)
    }

    fn open_reply<'a>(keys: &ReplyKeys, payload: &'a mut [u8]) -> Result<&'a [u8]> {
        super::open_reply(keys, payload)
    }
}
