//! Single-use reply blocks: packets without a payload, which others send.
//!
//! A SURB is a header, its first hop, and the seed of one payload key, the last hop's. Who uses it seals the
//! message with that key; then each hop removes a layer that was never there. The creator knows all keys, puts
//! the layers back, and removes the one that was really added. (spec: PACKET-2)

use super::Hop;
use super::keys::SEED_SIZE;
use super::lioness::PayloadKey;
use super::packet::{open_message, split, write_message};
use super::route::write_header;
use crate::geometry::{Geometry, HEADER_SIZE, MAX_HOPS, SURB_SIZE};
use crate::id::{RelayId, ReplyId};
use crate::{Error, ErrorKind, Result};
use rand_core::CryptoRng;
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A single-use reply block: lets its holder send one packet to its creator, without learning to whom.
///
/// Wiped when dropped: who has one can read what it carries.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Surb([u8; SURB_SIZE]);

impl Surb {
    /// The SURB in `bytes`.
    pub fn from_slice(bytes: &[u8]) -> Result<Self> {
        let bytes: &[u8; SURB_SIZE] =
            bytes.try_into().map_err(|_| Error::new(ErrorKind::Malformed, "SURB of another size"))?;
        Ok(Self(*bytes))
    }

    /// Its bytes on the wire.
    pub fn as_bytes(&self) -> &[u8; SURB_SIZE] {
        &self.0
    }
}

impl PartialEq for Surb {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Surb {}

impl fmt::Debug for Surb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Surb(redacted)")
    }
}

/// What a SURB's creator keeps to open the reply. Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ReplyKeys {
    seeds: [[u8; SEED_SIZE]; MAX_HOPS],
    hops: usize,
}

impl fmt::Debug for ReplyKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplyKeys(redacted)")
    }
}

/// Builds a SURB whose last hop is its creator. `reply` must not be zero: it is how the creator finds the
/// keys again. Hops and errors as for [`build`](super::build).
pub fn build_surb(hops: &[Hop], reply: ReplyId, rng: &mut impl CryptoRng) -> Result<(Surb, ReplyKeys)> {
    let Some(first) = hops.first().filter(|_| reply.0 != [0; ReplyId::SIZE]) else {
        return Err(Error::new(
            ErrorKind::Misuse,
            "a SURB has a hop, and a reply identifier that is not zero",
        ));
    };
    let mut surb = Surb([0; SURB_SIZE]);
    let mut keys = ReplyKeys { seeds: Default::default(), hops: hops.len() };
    let (header, rest) = split(&mut surb.0)?;
    let route = write_header(hops, reply, rng, header)?;
    rest[..FIRST_HOP_SIZE].copy_from_slice(&first.address);
    for (seed, hop) in keys.seeds.iter_mut().zip(route.hops()) {
        *seed = *hop.payload_seed();
        // The last one stays.
        rest[FIRST_HOP_SIZE..].copy_from_slice(seed);
    }
    Ok((surb, keys))
}

/// Burns a SURB: builds the packet that carries `message` home, and says which mix gets it first.
///
/// `out` is replaced by [`Geometry::packet`] bytes. Errors: [`ErrorKind::Misuse`] if `message` is longer than
/// [`Geometry::message`] bytes.
pub fn use_surb(geometry: Geometry, surb: &Surb, message: &[u8], out: &mut Vec<u8>) -> Result<RelayId> {
    out.resize(geometry.packet(), 0);
    let (header, payload) = split(out)?;
    write_message(message, payload)?;
    header.copy_from_slice(&surb.0[..HEADER_SIZE]);
    let (first, seed) = surb.0[HEADER_SIZE..].split_at(FIRST_HOP_SIZE);
    let mut first_hop = [0; FIRST_HOP_SIZE];
    first_hop.copy_from_slice(first);
    let mut last_seed = zeroize::Zeroizing::new([0; SEED_SIZE]);
    last_seed.copy_from_slice(seed);
    PayloadKey::derive(&last_seed)?.seal(payload);
    Ok(RelayId(first_hop))
}

/// The message in a final payload that came by the SURB of `keys`, opened in its buffer.
///
/// Errors: [`ErrorKind::Forged`] if it was altered or belongs to other keys; the payload is then spoilt.
pub fn open_reply<'a>(keys: &ReplyKeys, payload: &'a mut [u8]) -> Result<&'a [u8]> {
    if payload.len() <= MINIMUM {
        return Err(Error::new(ErrorKind::Forged, "reply was altered"));
    }
    let seeds = keys.seeds.get(..keys.hops).unwrap_or_default();
    // From the last hop to the first: each layer that was removed comes back.
    for seed in seeds.iter().rev() {
        PayloadKey::derive(seed)?.seal(payload);
    }
    if let Some(last) = seeds.last() {
        PayloadKey::derive(last)?.open(payload);
    }
    open_message(payload).map_err(|_| Error::new(ErrorKind::Forged, "reply was altered"))
}

const FIRST_HOP_SIZE: usize = 32;
/// The payload cipher needs more than this.
const MINIMUM: usize = 32;

const _: () = assert!(HEADER_SIZE + FIRST_HOP_SIZE + SEED_SIZE == SURB_SIZE);
