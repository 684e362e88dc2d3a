//! Who is who in the simulator: relays and clients by number, in the product's types.

use mizzle_protocol::id::{ClientAddress, RelayId};

/// The relay of this number.
pub(crate) fn relay_id(index: usize) -> RelayId {
    RelayId(numbered(index))
}

/// The address of the client of this number: that of no relay.
pub(crate) fn client_address(index: usize) -> ClientAddress {
    ClientAddress(long(((index as u64).wrapping_add(1) | CLIENT).to_be_bytes()))
}

/// Bytes that stand for a number. Never all zero: that names nobody.
pub(crate) fn numbered(index: usize) -> [u8; 32] {
    long(short(index))
}

/// All bytes of an id, from the part that is not zero.
pub(crate) fn long(short: [u8; 8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (byte, digit) in bytes.iter_mut().zip(short) {
        *byte = digit;
    }
    bytes
}

/// The part of [`numbered`] that is not zero.
pub(crate) fn short(index: usize) -> [u8; 8] {
    (index as u64).wrapping_add(1).to_be_bytes()
}

/// The number that these bytes stand for, be it a relay's or a client's: a very large one if they stand for none.
pub(crate) fn index_of(short: [u8; 8]) -> usize {
    (u64::from_be_bytes(short) & !CLIENT).wrapping_sub(1) as usize
}

/// The same of whole ids.
pub(crate) fn number(bytes: &[u8; 32]) -> usize {
    bytes.first_chunk().map_or(usize::MAX, |short| index_of(*short))
}

/// Tells addresses of clients from ids of relays: an entry passes on to both.
const CLIENT: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_nobody_has_none() {
        for index in [0, 1, 255, 256, 1 << 20] {
            assert_eq!(number(&numbered(index)), index);
            assert_eq!(number(&client_address(index).0), index);
            assert_ne!(client_address(index).0, numbered(index));
            assert_ne!(numbered(index), [0; 32]);
        }
        assert_eq!(number(&[0; 32]), usize::MAX);
    }
}
