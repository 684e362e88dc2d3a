//! Bytes on the wire: one file per message, and a reader that carries its bounds.

pub mod cell;
pub mod frame;
pub mod payload;
pub mod target;

use crate::{Error, ErrorKind, Result};

/// Reads fields from the front of a byte slice; running out is an error, never a panic.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader over `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// True when nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or_else(truncated)?;
        self.rest = tail;
        Ok(head)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or_else(truncated)?;
        self.rest = tail;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes, big endian.
    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes, big endian.
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes, big endian.
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A variable-length integer of 1, 2, 4 or 8 bytes (RFC 9000, section 16).
    pub fn varint(&mut self) -> Result<u64> {
        let first = self.u8()?;
        let mut value = u64::from(first & 0x3f);
        for &byte in self.take((1 << (first >> 6)) - 1)? {
            value = value << 8 | u64::from(byte);
        }
        Ok(value)
    }

    /// Fails unless everything has been read.
    pub fn finish(self) -> Result<()> {
        match self.rest {
            [] => Ok(()),
            _ => Err(Error::new(ErrorKind::Malformed, "bytes left over after the message")),
        }
    }
}

/// Largest value of a variable-length integer.
pub const VARINT_MAX: u64 = (1 << 62) - 1;

/// Bytes that [`put_varint`] writes for `value`.
pub const fn varint_size(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// Appends a variable-length integer (RFC 9000, section 16); `value` is cut at [`VARINT_MAX`].
pub fn put_varint(out: &mut Vec<u8>, value: u64) {
    let value = value.min(VARINT_MAX);
    match varint_size(value) {
        1 => out.push(value as u8),
        2 => out.extend((value as u16 | 0x4000).to_be_bytes()),
        4 => out.extend((value as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend((value | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

fn truncated() -> Error {
    Error::new(ErrorKind::Malformed, "message ends too early")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_integers_round_trip_at_their_edges() {
        for value in [0, 63, 64, 16383, 16384, (1 << 30) - 1, 1 << 30, VARINT_MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(bytes.len(), varint_size(value));
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.varint(), Ok(value));
            assert!(reader.is_empty());
            assert!(Reader::new(&bytes[..bytes.len() - 1]).varint().is_err());
        }
    }
}
