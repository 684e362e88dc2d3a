//! LIONESS: a cipher whose one block is the whole payload, so that one changed bit scrambles all of it.
//!
//! Four rounds over a left part of 32 bytes and the rest, with ChaCha20 (zero nonce) and keyed BLAKE2b.
//! Source: Anderson and Biham, "Two Practical and Provably Secure Block Ciphers: BEAR and LION" (1996); key
//! schedule of `sphinx-packet` 0.8. (spec: PACKET-4)

use super::hash::{HASH, Single, hash_together};
use super::hkdf::expand;
use super::keys::SEED_SIZE;
use crate::Result;
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use zeroize::Zeroizing;

/// A payload's key for one hop.
pub(super) struct PayloadKey(Zeroizing<[u8; 192]>);

impl PayloadKey {
    /// The key for a seed.
    pub(super) fn derive(seed: &[u8; SEED_SIZE]) -> Result<Self> {
        expand(SALT, seed, INFO).map(Self)
    }

    /// Adds a layer, as the sender does. `payload` is longer than 32 bytes.
    pub(super) fn seal(&self, payload: &mut [u8]) {
        let (left, right) = payload.split_at_mut(LEFT);
        self.stream(0, left, right);
        self.hash(32, left, right);
        self.stream(96, left, right);
        self.hash(128, left, right);
    }

    /// Removes a layer, as a hop does. `payload` is longer than 32 bytes.
    pub(super) fn open(&self, payload: &mut [u8]) {
        let (left, right) = payload.split_at_mut(LEFT);
        self.hash(128, left, right);
        self.stream(96, left, right);
        self.hash(32, left, right);
        self.stream(0, left, right);
    }

    /// right ^= ChaCha20(left ^ the 32 key bytes at `key`).
    fn stream(&self, key: usize, left: &[u8], right: &mut [u8]) {
        let mut stream_key = Zeroizing::new([0; LEFT]);
        stream_key.copy_from_slice(&self.0[key..key + LEFT]);
        xor(stream_key.as_mut(), left);
        ChaCha20::new((&*stream_key).into(), &[0; 12].into()).apply_keystream(right);
    }

    /// left ^= BLAKE2b(right), keyed with the 64 key bytes at `key`.
    fn hash(&self, key: usize, left: &mut [u8], right: &[u8]) {
        xor(left, Single::current().hash(self.hash_key(key), right).as_bytes());
    }

    fn hash_key(&self, key: usize) -> &[u8] {
        &self.0[key..key + 64]
    }
}

/// Removes a layer of each payload, as [`PayloadKey::open`] does of one, in less time. Each is longer than 32
/// bytes.
pub(super) fn open_together<'a>(mut payloads: impl Iterator<Item = (&'a PayloadKey, &'a mut [u8])>) {
    loop {
        match std::array::from_fn(|_| payloads.next()) {
            [Some(first), Some(second), Some(third), Some(fourth)] => {
                open_chunk([first, second, third, fourth])
            }
            [Some(first), Some(second), third, _] => {
                open_chunk([first, second]);
                return third.into_iter().for_each(|(key, payload)| key.open(payload));
            }
            [first, ..] => return first.into_iter().for_each(|(key, payload)| key.open(payload)),
        }
    }
}

fn open_chunk<const N: usize>(mut payloads: [(&PayloadKey, &mut [u8]); N]) {
    for (hash_key, stream_key) in [(128, 96), (32, 0)] {
        let hashes = {
            let (keys, messages) = (payloads.each_ref().map(|(key, _)| key), payloads.each_ref());
            hash_together(
                keys.map(|key| key.hash_key(hash_key)),
                messages.map(|(_, payload)| &payload[LEFT..]),
            )
        };
        for ((key, payload), hash) in payloads.iter_mut().zip(hashes) {
            let (left, right) = payload.split_at_mut(LEFT);
            xor(left, hash.as_bytes());
            key.stream(stream_key, left, right);
        }
    }
}

fn xor(bytes: &mut [u8], mask: &[u8]) {
    for (byte, mask) in bytes.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// Bytes of the left part: a ChaCha20 key, a BLAKE2b hash.
const LEFT: usize = HASH;
const INFO: &[u8] = b"sphinx-payload-key-V01-CS01-HKDF:SHA256-INFO";
const SALT: &[u8] = b"sphinx-payload-key-V01-CS01-HKDF:SHA256-SALT";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_was_added_can_be_removed_and_one_bit_scrambles_all() {
        let key = PayloadKey::derive(&[1; SEED_SIZE]).unwrap();
        let plain: Vec<u8> = (0..2048).map(|i| i as u8).collect();
        let mut block = plain.clone();
        key.seal(&mut block);
        let mut altered = block.clone();
        key.open(&mut block);
        assert_eq!(block, plain);
        altered[2047] ^= 0x80;
        key.open(&mut altered);
        let same = altered.iter().zip(&plain).filter(|(a, b)| a == b).count();
        assert!(same < 40, "{same} of 2048 bytes survived");
    }

    #[test]
    fn layers_are_removed_together_as_they_are_one_by_one() {
        for count in 0..=11 {
            let keys: Vec<_> =
                (0..count).map(|seed| PayloadKey::derive(&[seed; SEED_SIZE]).unwrap()).collect();
            let mut payloads: Vec<_> = (0..count).map(|byte| vec![byte; 2048]).collect();
            let mut expected = payloads.clone();
            for (key, payload) in keys.iter().zip(&mut expected) {
                key.open(payload);
            }
            open_together(keys.iter().zip(payloads.iter_mut().map(Vec::as_mut_slice)));
            assert_eq!(payloads, expected);
        }
    }
}
