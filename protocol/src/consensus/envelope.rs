//! A body and the one signature over it: how descriptors and votes travel.

use super::cbor::{Canonical, Reader, Writer, malformed};
use crate::Result;

/// A body, and the signature of the one who wrote it; nothing is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What is signed, under a domain of its kind.
    pub body: Vec<u8>,
    /// The signature.
    pub signature: [u8; 64],
}

impl Canonical for Envelope {
    fn write(&self, out: &mut Writer) {
        out.array(2);
        out.bytes(&self.body);
        out.bytes(&self.signature);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        match input.array(2)? {
            // No longer than the whole, which whoever decodes it has bounded.
            2 => Ok(Self { body: input.bytes(usize::MAX)?.to_vec(), signature: input.fixed()? }),
            _ => Err(malformed("an envelope is a body and a signature")),
        }
    }
}
