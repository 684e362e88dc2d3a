//! The steps of unwrapping a packet one by one, so that a measurement can say where the time goes.

use super::header::{ROUTING, STREAM_SIZE};
use super::keys::{HopKeys, SEED_SIZE};
use super::lioness::PayloadKey;
use super::x25519::Backend;
use crate::geometry::HEADER_SIZE;
use crate::secret::Secret;
use crate::{Error, ErrorKind, Result};
use std::hint::black_box;

/// A step of unwrapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// X25519, once. A packet that goes on takes it twice: for the shared secret, and to blind.
    X25519,
    /// HKDF-SHA256 from the shared secret to the hop's keys.
    HopKeys,
    /// HMAC-SHA256 over the routing information.
    Mac,
    /// AES-128-CTR over the routing information.
    HeaderCipher,
    /// HKDF-SHA256 from a seed to the payload's key.
    PayloadKey,
    /// LIONESS over the payload.
    Payload,
}

impl Part {
    /// All steps, in their order.
    pub const ALL: [Self; 6] =
        [Self::X25519, Self::HopKeys, Self::Mac, Self::HeaderCipher, Self::PayloadKey, Self::Payload];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::X25519 => "x25519",
            Self::HopKeys => "hop_keys",
            Self::Mac => "mac",
            Self::HeaderCipher => "header_cipher",
            Self::PayloadKey => "payload_key",
            Self::Payload => "payload",
        }
    }
}

/// Keys of no packet in particular, to run the steps with.
pub struct Bench {
    secret: Secret<32>,
    element: [u8; 32],
    keys: HopKeys,
    payload: PayloadKey,
}

impl Bench {
    /// Ready to run.
    pub fn new() -> Result<Self> {
        let secret = Secret::new([7; 32]);
        let keys = HopKeys::derive(&secret)?;
        let element = Backend::current().public_key(&[9; 32]);
        Ok(Self { secret, element, keys, payload: PayloadKey::derive(&[7; SEED_SIZE])? })
    }

    /// Does one step once on the bytes of a packet, which mean nothing afterwards.
    pub fn run(&self, part_of: Part, packet: &mut [u8]) -> Result<()> {
        if packet.len() <= HEADER_SIZE + 32 {
            return Err(Error::new(ErrorKind::Malformed, "packet without a payload"));
        }
        match part_of {
            Part::X25519 => {
                black_box(Backend::current().shared_secret(self.secret.expose(), black_box(&self.element)));
            }
            Part::HopKeys => {
                black_box(HopKeys::derive(black_box(&self.secret))?);
            }
            Part::Mac => {
                black_box(self.keys.mac(&packet[ROUTING]));
            }
            Part::HeaderCipher => {
                self.keys.apply_stream(&mut packet[ROUTING.start..ROUTING.start + STREAM_SIZE])
            }
            Part::PayloadKey => {
                black_box(PayloadKey::derive(black_box(&[7; SEED_SIZE]))?);
            }
            Part::Payload => self.payload.open(&mut packet[HEADER_SIZE..]),
        }
        Ok(())
    }
}

impl std::fmt::Debug for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bench")
    }
}
