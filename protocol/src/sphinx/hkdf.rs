//! HKDF-SHA256 (RFC 5869) for keys of packets, block by block.
//!
//! A hop's keys are fifteen rounds of HMAC over messages that differ in 33 bytes. A general implementation
//! spends more on copying states and filling blocks than on compressing them; here the blocks are laid out once
//! and compressed in place. The compression function is that of `sha2`.

use crate::{Error, ErrorKind, Result};
use sha2::block_api::compress256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// `N` bytes of keys from `secret`. Salt and info are constants of the packet format.
///
/// [`ErrorKind::Misuse`] if the salt is longer than 64 bytes, the secret than 55, the info than 150, or `N` is
/// more than HKDF gives.
pub(super) fn expand<const N: usize>(salt: &[u8], secret: &[u8], info: &[u8]) -> Result<Zeroizing<[u8; N]>> {
    if salt.len() > BLOCK || secret.len() > BLOCK - PADDING || info.len() > LONGEST_INFO || N > 255 * HASH {
        return Err(Error::new(ErrorKind::Misuse, "longer than what keys of packets are made of"));
    }
    let mut message = Zeroizing::new([[0; BLOCK]; 1]);
    lay_out(&mut *message, &[secret]);
    let mut last = Zeroizing::new([0; HASH]);
    Keyed::new(salt).mac(&*message, &mut last);
    let mut key = Keyed::new(last.as_ref());

    let mut first = [[0; BLOCK]; BLOCKS];
    let used = lay_out(&mut first, &[info, &[1]]);
    key.mac(&first[..used], &mut last);
    // From the second round on, the last round's output comes first, and the round's number is behind the info.
    let mut next = Zeroizing::new([[0; BLOCK]; BLOCKS]);
    let used = lay_out(&mut *next, &[&[0; HASH], info, &[0]]);
    let mut bytes = Zeroizing::new([0; N]);
    for (round, part) in (1u8..=255).zip(bytes.chunks_mut(HASH)) {
        if round > 1 {
            let blocks = next.as_flattened_mut();
            blocks[..HASH].copy_from_slice(last.as_ref());
            blocks[HASH + info.len()] = round;
            key.mac(&next[..used], &mut last);
        }
        part.copy_from_slice(&last[..part.len()]);
    }
    Ok(bytes)
}

/// HMAC after its key was taken in, with the room that it works in: wiped once, not after each round.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Keyed {
    inner: [u32; 8],
    outer: [u32; 8],
    state: [u32; 8],
    /// The outer message: the inner hash, and padding.
    block: [[u8; BLOCK]; 1],
}

impl Keyed {
    fn new(key: &[u8]) -> Self {
        let mut keyed = Self { inner: INITIAL, outer: INITIAL, state: INITIAL, block: [[0; BLOCK]; 1] };
        for (state, pad) in [(&mut keyed.inner, 0x36), (&mut keyed.outer, 0x5c)] {
            keyed.block = [[pad; BLOCK]; 1];
            keyed.block.as_flattened_mut().iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            compress256(state, &keyed.block);
        }
        keyed.block = [[0; BLOCK]; 1];
        lay_out(&mut keyed.block, &[&[0; HASH]]);
        keyed
    }

    /// The MAC of a message that was laid out.
    fn mac(&mut self, message: &[[u8; BLOCK]], mac: &mut [u8; HASH]) {
        self.state = self.inner;
        compress256(&mut self.state, message);
        write(&self.state, self.block.as_flattened_mut());
        self.state = self.outer;
        compress256(&mut self.state, &self.block);
        write(&self.state, mac);
    }
}

fn write(state: &[u32; 8], bytes: &mut [u8]) {
    for (bytes, word) in bytes.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
}

/// Puts the parts of a message, which follows a block of key, and SHA-256's padding into `blocks`, which are
/// zero; returns how many it takes.
fn lay_out(blocks: &mut [[u8; BLOCK]], parts: &[&[u8]]) -> usize {
    let bytes = blocks.as_flattened_mut();
    let mut length = 0;
    for part in parts {
        bytes[length..length + part.len()].copy_from_slice(part);
        length += part.len();
    }
    bytes[length] = 0x80;
    let used = (length + PADDING).div_ceil(BLOCK);
    let bits = (BLOCK + length) as u64 * 8;
    bytes[used * BLOCK - 8..used * BLOCK].copy_from_slice(&bits.to_be_bytes());
    used
}

/// Bytes of a block of SHA-256, of its output, and of what its padding takes at least.
const BLOCK: usize = 64;
const HASH: usize = 32;
const PADDING: usize = 9;
/// Blocks of the longest message, and what remains in them for the info.
const BLOCKS: usize = 3;
const LONGEST_INFO: usize = BLOCKS * BLOCK - HASH - 1 - PADDING;
/// SHA-256's initial state (FIPS 180-4, section 5.3.3).
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_the_crate<const N: usize>(salt: &[u8], secret: &[u8], info: &[u8]) -> [u8; N] {
        let mut bytes = [0; N];
        hkdf::Hkdf::<sha2::Sha256>::new(Some(salt), secret).expand(info, &mut bytes).unwrap();
        bytes
    }

    proptest! {
        #[test]
        fn keys_are_those_of_another_implementation(
            salt in proptest::collection::vec(any::<u8>(), 0..=64),
            secret in proptest::collection::vec(any::<u8>(), 0..=55),
            info in proptest::collection::vec(any::<u8>(), 0..=150),
        ) {
            let ours = expand::<288>(&salt, &secret, &info).unwrap();
            prop_assert_eq!(*ours, by_the_crate::<288>(&salt, &secret, &info));
            let ours = expand::<31>(&salt, &secret, &info).unwrap();
            prop_assert_eq!(*ours, by_the_crate::<31>(&salt, &secret, &info));
        }
    }

    #[test]
    fn the_first_case_of_the_standard_holds() {
        // RFC 5869, appendix A.1.
        let salt: Vec<u8> = (0..=0x0c).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        let bytes = expand::<42>(&salt, &[0x0b; 22], &info).unwrap();
        let expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf\
                        1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
        assert_eq!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), expected);
    }

    #[test]
    fn what_is_longer_than_keys_of_packets_need_is_refused() {
        assert!(expand::<32>(&[0; 65], &[], &[]).is_err());
        assert!(expand::<32>(&[], &[0; 56], &[]).is_err());
        assert!(expand::<32>(&[], &[], &[0; 151]).is_err());
        assert!(expand::<8161>(&[], &[], &[]).is_err());
    }
}
