//! What the sender and one hop derive from the secret that they share.
//!
//! HKDF-SHA256 makes all keys of a hop in one go; the literature calls them the outputs of the random oracles
//! ρ, μ, π, b and τ. The info and salt strings are those of `sphinx-packet` 0.8.

use super::header::{ROUTING_SIZE, STEP, STREAM_SIZE};
use super::hkdf::expand;
use crate::Result;
use crate::id::ReplayTag;
use crate::secret::Secret;
use aes::Aes128;
use ctr::cipher::{KeyIvInit, StreamCipher};
use hkdf::hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of a payload key's seed: what a SURB carries for its last hop.
pub(super) const SEED_SIZE: usize = 16;
/// Bytes of a MAC.
pub(super) const MAC_SIZE: usize = 16;

/// The keys of one hop for one packet.
#[derive(Default, Zeroize, ZeroizeOnDrop)]
pub(super) struct HopKeys {
    cipher: [u8; 16],
    mac: [u8; 16],
    payload_seed: [u8; SEED_SIZE],
    blinding: [u8; 32],
    tag: [u8; 32],
}

impl HopKeys {
    /// The keys for a shared secret, the output of X25519.
    pub(super) fn derive(shared: &Secret<32>) -> Result<Self> {
        let bytes: Zeroizing<[u8; EXPANDED_SIZE]> = expand(b"", shared.expose(), HOP_KEYS_INFO)?;
        let mut keys = Self::default();
        keys.cipher.copy_from_slice(&bytes[..16]);
        keys.mac.copy_from_slice(&bytes[16..32]);
        // Older versions used 192 bytes here as the payload key itself; version 260 uses the first 16.
        keys.payload_seed.copy_from_slice(&bytes[32..32 + SEED_SIZE]);
        keys.blinding.copy_from_slice(&bytes[224..256]);
        keys.tag.copy_from_slice(&bytes[256..]);
        Ok(keys)
    }

    /// What the relay remembers of the packet.
    pub(super) fn tag(&self) -> ReplayTag {
        ReplayTag(self.tag)
    }

    /// The scalar, not yet clamped, by which the hop multiplies the packet's element.
    pub(super) fn blinding(&self) -> &[u8; 32] {
        &self.blinding
    }

    /// What the payload's key is made of.
    pub(super) fn payload_seed(&self) -> &[u8; SEED_SIZE] {
        &self.payload_seed
    }

    /// Encrypts or decrypts routing information: the key stream starts at its first byte.
    pub(super) fn apply_stream(&self, routing: &mut [u8]) {
        HeaderCipher::new(&self.cipher.into(), &[0; 16].into()).apply_keystream(routing);
    }

    /// Adds the stretch of key stream that this hop, the one with this number (from 0), applies to the zeros
    /// that it and those before it append to the routing information.
    pub(super) fn apply_filler(&self, hop: usize, filler: &mut [u8; ROUTING_SIZE]) {
        let mut stream = Zeroizing::new([0; STREAM_SIZE]);
        self.apply_stream(stream.as_mut());
        let end = (hop + 1) * STEP;
        for (byte, key) in filler[..end].iter_mut().zip(&stream[STREAM_SIZE - end..]) {
            *byte ^= key;
        }
    }

    /// The MAC of encrypted routing information: HMAC-SHA256, cut to 16 bytes.
    pub(super) fn mac(&self, routing: &[u8]) -> [u8; MAC_SIZE] {
        // A key shorter than a block is padded with zeros by HMAC's definition.
        let mut key = Zeroizing::new([0; 64]);
        key[..16].copy_from_slice(&self.mac);
        let mut hmac = <Hmac<Sha256> as KeyInit>::new((&*key).into());
        hmac.update(routing);
        let full = hmac.finalize().into_bytes();
        let mut mac = [0; MAC_SIZE];
        mac.copy_from_slice(&full[..MAC_SIZE]);
        mac
    }
}

// The counter is 64 bits of the block; no packet is long enough to show it.
type HeaderCipher = ctr::Ctr64BE<Aes128>;

const EXPANDED_SIZE: usize = 288;
const HOP_KEYS_INFO: &[u8] =
    b"Dwste mou enan moxlo arketa makru kai ena upomoxlio gia na ton topothetisw kai tha kinisw thn gh.";
