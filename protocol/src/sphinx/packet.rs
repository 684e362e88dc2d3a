//! Building packets, and the message inside.

use super::Hop;
use super::lioness::PayloadKey;
use super::route::write_header;
use crate::geometry::{Geometry, HEADER_SIZE, SPHINX_OVERHEAD};
use crate::id::ReplyId;
use crate::{Error, ErrorKind, Result};
use rand_core::CryptoRng;
use subtle::ConstantTimeEq;

/// Builds a packet for `hops` that carries `message` to the last of them.
///
/// `message` is at most [`Geometry::message`] bytes. `out` is replaced by [`Geometry::packet`] bytes; nothing is
/// allocated if it has room for them. Each hop's key must be one that has a secret, see
/// [`is_public_key`](super::x25519::is_public_key): otherwise the packet is one that nobody can open.
///
/// Errors: [`ErrorKind::Misuse`] for a message that is too long, no hop or more than five, a key of low order.
pub fn build(
    geometry: Geometry,
    hops: &[Hop],
    reply: ReplyId,
    message: &[u8],
    rng: &mut impl CryptoRng,
    out: &mut Vec<u8>,
) -> Result<()> {
    out.resize(geometry.packet(), 0);
    let (header, payload) = split(out)?;
    write_message(message, payload)?;
    let route = write_header(hops, reply, rng, header)?;
    for keys in route.hops().iter().rev() {
        PayloadKey::derive(keys.payload_seed())?.seal(payload);
    }
    Ok(())
}

/// The message in a final payload that did not come by a SURB. Fails if any bit was changed on the way.
/// (spec: PACKET-4)
pub fn open_message(payload: &[u8]) -> Result<&[u8]> {
    let altered = || Error::new(ErrorKind::Forged, "payload was altered");
    let (zeros, padded) = payload.split_at_checked(ZEROS).ok_or_else(altered)?;
    if !bool::from(zeros.ct_eq(&[0; ZEROS])) {
        return Err(altered());
    }
    let end = padded.iter().rposition(|&byte| byte == END).ok_or_else(altered)?;
    padded.get(..end).ok_or_else(altered)
}

/// Fills `payload` with zeros that show tampering, the message, and padding.
pub(super) fn write_message(message: &[u8], payload: &mut [u8]) -> Result<()> {
    if message.len() + SPHINX_OVERHEAD > payload.len() {
        return Err(Error::new(ErrorKind::Misuse, "message larger than a packet"));
    }
    payload.fill(0);
    let end = ZEROS + message.len();
    payload[ZEROS..end].copy_from_slice(message);
    payload[end] = END;
    Ok(())
}

/// Header and payload of a packet's buffer.
pub(super) fn split(packet: &mut [u8]) -> Result<(&mut [u8; HEADER_SIZE], &mut [u8])> {
    packet
        .split_first_chunk_mut()
        .ok_or_else(|| Error::new(ErrorKind::Malformed, "packet shorter than its header"))
}

/// Zero bytes before the message.
const ZEROS: usize = 16;
/// The byte after the message; zeros follow.
const END: u8 = 1;

const _: () = assert!(ZEROS + 1 == SPHINX_OVERHEAD);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_zero_that_shows_tampering_counts() {
        let mut payload = [0; 64];
        write_message(b"message", &mut payload).unwrap();
        assert_eq!(open_message(&payload).unwrap(), b"message");
        for bit in 0..8 * ZEROS {
            let mut altered = payload;
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open_message(&altered).unwrap_err().kind(), ErrorKind::Forged, "bit {bit}");
        }
    }
}
