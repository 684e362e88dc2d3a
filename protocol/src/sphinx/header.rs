//! Where things are in a packet, and what routing information says.
//!
//! | bytes of the packet | what |
//! |---|---|
//! | 0..32 | the element α, an X25519 public key |
//! | 32..48 | MAC of what follows |
//! | 48..348 | routing information, encrypted: 60 bytes for this hop, then the next hop's MAC and information |
//! | 348.. | payload |
//!
//! | bytes of decrypted routing information | to be sent on | at the last hop |
//! |---|---|---|
//! | 0 | 1 | 2 |
//! | 1..4 | version, 260 | version, 260 |
//! | 4..36 | address of the next hop | address of this hop |
//! | 36..44 | delay in nanoseconds, big-endian | reply identifier (16 bytes), then random padding |
//! | 44..60 | the next hop's MAC | |
//! | 60..360 | the next hop's routing information; its last 60 bytes come from this hop's key stream | |
//!
//! (spec: PACKET-2, PACKET-3)

use super::keys::MAC_SIZE;
use crate::geometry::{HEADER_SIZE, MAX_HOPS};
use crate::id::ReplyId;
use crate::{Error, ErrorKind, Result};
use std::ops::Range;
use std::time::Duration;

/// Where the element is in a packet.
pub(super) const ELEMENT: Range<usize> = 0..32;
/// Where the MAC is.
pub(super) const MAC: Range<usize> = 32..48;
/// Where the routing information is.
pub(super) const ROUTING: Range<usize> = 48..HEADER_SIZE;

/// Bytes of routing information.
pub(super) const ROUTING_SIZE: usize = STEP * MAX_HOPS;
/// Bytes of it that one hop uses up, the next one's MAC included.
pub(super) const STEP: usize = 44 + MAC_SIZE;
/// Bytes of key stream that a hop applies: its own part goes, as many zeros come at the end.
pub(super) const STREAM_SIZE: usize = ROUTING_SIZE + STEP;
/// Where, in decrypted routing information, the MAC and the information of the next hop are.
pub(super) const NEXT: Range<usize> = 44..STREAM_SIZE;

/// What a packet tells one hop to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// Hold it for `delay`, then send it to `next`.
    Forward {
        /// A relay's identity or a client's address.
        next: [u8; 32],
        /// What the sender asks for.
        delay: Duration,
    },
    /// This is its last hop.
    Final {
        /// Names the SURB, loop or ping that it belongs to; zero outward.
        reply: ReplyId,
    },
}

impl Routing {
    /// Reads decrypted routing information. The flag comes first, then the version.
    pub(super) fn read(plain: &[u8; STREAM_SIZE]) -> Result<Self> {
        let [flag, version @ ..] = part::<4>(plain, 0);
        if !matches!(flag, FORWARD | FINAL) {
            return Err(Error::new(ErrorKind::Malformed, "packet with an unknown routing flag"));
        }
        if version != VERSION {
            return Err(Error::new(ErrorKind::Incompatible, "packet of another Sphinx version"));
        }
        if flag == FINAL {
            return Ok(Self::Final { reply: ReplyId(part(plain, 36)) });
        }
        let delay = Duration::from_nanos(u64::from_be_bytes(part(plain, 36)));
        Ok(Self::Forward { next: part(plain, 4), delay })
    }

    /// Writes the start of routing information for a hop that sends the packet on: all but the next hop's.
    pub(super) fn write_forward(routing: &mut [u8], next: &[u8; 32], delay: Duration) {
        let nanoseconds = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        routing[0] = FORWARD;
        routing[1..4].copy_from_slice(&VERSION);
        routing[4..36].copy_from_slice(next);
        routing[36..44].copy_from_slice(&nanoseconds.to_be_bytes());
    }

    /// Writes the start of the last hop's routing information; [`FINAL_SIZE`] bytes.
    pub(super) fn write_final(routing: &mut [u8], address: &[u8; 32], reply: ReplyId) {
        routing[0] = FINAL;
        routing[1..4].copy_from_slice(&VERSION);
        routing[4..36].copy_from_slice(address);
        routing[36..FINAL_SIZE].copy_from_slice(&reply.0);
    }
}

/// The `N` bytes at `start`.
pub(super) fn part<const N: usize>(bytes: &[u8], start: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[start..start + N]);
    part
}

/// Bytes that the last hop reads; random padding follows.
pub(super) const FINAL_SIZE: usize = 52;

const FORWARD: u8 = 1;
const FINAL: u8 = 2;
/// Version 260 in three bytes, the first of which is always zero.
const VERSION: [u8; 3] = [0, 1, 4];

const _: () = assert!(ROUTING.end - ROUTING.start == ROUTING_SIZE);
const _: () = assert!(NEXT.end - NEXT.start == MAC_SIZE + ROUTING_SIZE);
