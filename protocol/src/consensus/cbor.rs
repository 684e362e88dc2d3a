//! Canonical CBOR (RFC 8949, section 4.2.1), as far as documents need it: unsigned integers in their
//! shortest form, byte and text strings, arrays and integer-keyed maps of definite length with their keys
//! in order. No floats, no tags, no negative numbers.
//!
//! A decoder reads fields in the one order that the writer writes them, and [`decode`] then encodes what it
//! read and compares: two different byte strings never mean the same document. (spec: DOC-1)

use super::fault::DocumentFault;
use crate::{Error, ErrorKind, Result};
use minicbor::{Decoder, Encoder};
use std::convert::Infallible;

/// What has exactly one encoding.
pub trait Canonical: Sized {
    /// Appends the encoding.
    fn write(&self, out: &mut Writer);

    /// Reads and validates one value.
    fn read(input: &mut Reader<'_>) -> Result<Self>;
}

/// The encoding of `value`.
pub fn encode(value: &impl Canonical) -> Vec<u8> {
    let mut out = Writer { encoder: Encoder::new(Vec::new()) };
    value.write(&mut out);
    out.encoder.into_writer()
}

/// The value that `bytes` are the encoding of; `limit` bounds their number.
pub fn decode<T: Canonical>(bytes: &[u8], limit: usize) -> Result<T> {
    if bytes.len() > limit {
        return Err(malformed("document is larger than any of its kind"));
    }
    let mut input = Reader { decoder: Decoder::new(bytes) };
    let value = T::read(&mut input)?;
    if input.decoder.position() != bytes.len() {
        return Err(DocumentFault::NotCanonical.saying("bytes left over after the document"));
    }
    if encode(&value) != bytes {
        return Err(DocumentFault::NotCanonical.into());
    }
    Ok(value)
}

/// Writes values to memory, which cannot fail.
pub struct Writer {
    encoder: Encoder<Vec<u8>>,
}

type Written<'a> = Result<&'a mut Encoder<Vec<u8>>, minicbor::encode::Error<Infallible>>;

impl Writer {
    /// A map of `fields` pairs follows.
    pub fn map(&mut self, fields: usize) {
        Self::written(self.encoder.map(fields as u64));
    }

    /// The key of a map's next value.
    pub fn key(&mut self, key: u64) -> &mut Self {
        self.uint(key);
        self
    }

    /// A whole array.
    pub fn list<T: Canonical>(&mut self, items: &[T]) {
        self.array(items.len());
        items.iter().for_each(|item| item.write(self));
    }

    /// An array of `items` values follows.
    pub fn array(&mut self, items: usize) {
        Self::written(self.encoder.array(items as u64));
    }

    /// An unsigned integer.
    pub fn uint(&mut self, value: u64) {
        Self::written(self.encoder.u64(value));
    }

    /// A byte string.
    pub fn bytes(&mut self, value: &[u8]) {
        Self::written(self.encoder.bytes(value));
    }

    /// A text string.
    pub fn text(&mut self, value: &str) {
        Self::written(self.encoder.str(value));
    }

    fn written(result: Written<'_>) {
        // Memory takes everything: the error type has no value.
        debug_assert!(result.is_ok());
    }
}

/// Reads values, each with its bound.
pub struct Reader<'a> {
    decoder: Decoder<'a>,
}

impl<'a> Reader<'a> {
    /// A map: how many pairs follow.
    pub fn map(&mut self) -> Result<Fields> {
        match self.decoder.map().map_err(unexpected)? {
            Some(left) => Ok(Fields { left, last: None }),
            None => Err(DocumentFault::NotCanonical.saying("map of indefinite length")),
        }
    }

    /// An array of at most `limit` values: how many follow.
    pub fn array(&mut self, limit: usize) -> Result<usize> {
        match self.decoder.array().map_err(unexpected)? {
            Some(count) if count <= limit as u64 => Ok(count as usize),
            Some(_) => Err(malformed("list is longer than allowed")),
            None => Err(DocumentFault::NotCanonical.saying("list of indefinite length")),
        }
    }

    /// A whole array of at most `limit` values.
    pub fn list<T: Canonical>(&mut self, limit: usize) -> Result<Vec<T>> {
        let count = self.array(limit)?;
        // Grown as items arrive: a claimed length reserves nothing.
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(T::read(self)?);
        }
        Ok(items)
    }

    /// An unsigned integer of at most `limit`.
    pub fn uint(&mut self, limit: u64) -> Result<u64> {
        match self.decoder.u64().map_err(unexpected)? {
            value if value <= limit => Ok(value),
            _ => Err(malformed("number is larger than allowed")),
        }
    }

    /// An unsigned integer of 32 bits.
    pub fn u32(&mut self) -> Result<u32> {
        self.uint(u64::from(u32::MAX)).map(|value| value as u32)
    }

    /// A byte string of at most `limit` bytes.
    pub fn bytes(&mut self, limit: usize) -> Result<&'a [u8]> {
        match self.decoder.bytes().map_err(unexpected)? {
            value if value.len() <= limit => Ok(value),
            _ => Err(malformed("byte string is longer than allowed")),
        }
    }

    /// A byte string of exactly `N` bytes.
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.bytes(N)?.try_into().map_err(|_| malformed("byte string of another length"))
    }

    /// Printable text of at most `limit` bytes: what ends on a terminal must not steer it.
    pub fn text(&mut self, limit: usize) -> Result<&'a str> {
        match self.decoder.str().map_err(unexpected)? {
            text if text.len() > limit => Err(malformed("text is longer than allowed")),
            text if text.chars().any(char::is_control) => Err(malformed("text with control characters")),
            text => Ok(text),
        }
    }

    /// The next value's key, left in place.
    fn peek_key(&self) -> Result<u64> {
        self.decoder.clone().u64().map_err(unexpected)
    }
}

/// The pairs of a map that are still to be read.
pub struct Fields {
    left: u64,
    last: Option<u64>,
}

impl Fields {
    /// The next key must be `key`; its value is what `input` reads next.
    pub fn key<'r, 'a>(&mut self, input: &'r mut Reader<'a>, key: u64) -> Result<&'r mut Reader<'a>> {
        match self.peek(input)? {
            Some(next) if next == key => self.take(input, key),
            _ => Err(malformed("a field is missing")),
        }
    }

    /// True if the next key is `key`, which is then read.
    pub fn optional(&mut self, input: &mut Reader<'_>, key: u64) -> Result<bool> {
        match self.peek(input)? {
            Some(next) if next == key => self.take(input, key).map(|_| true),
            _ => Ok(false),
        }
    }

    /// Reads the next key, if it is one that a reader may pass over. (spec: DOC-13)
    pub fn passed_over(&mut self, input: &mut Reader<'_>) -> Result<Option<u64>> {
        match self.peek(input)? {
            Some(next) if next >= NOT_CRITICAL => self.take(input, next).map(|_| Some(next)),
            _ => Ok(None),
        }
    }

    /// Fails if the map has more fields than were read: none of them may be passed over.
    pub fn end(self, input: &mut Reader<'_>) -> Result<()> {
        match self.peek(input)? {
            None => Ok(()),
            Some(_) => Err(DocumentFault::UnknownField.into()),
        }
    }

    fn take<'r, 'a>(&mut self, input: &'r mut Reader<'a>, key: u64) -> Result<&'r mut Reader<'a>> {
        input.uint(u64::MAX)?;
        self.left -= 1;
        self.last = Some(key);
        Ok(input)
    }

    /// The next key, left in place. Keys ascend, so none is there twice.
    fn peek(&self, input: &Reader<'_>) -> Result<Option<u64>> {
        if self.left == 0 {
            return Ok(None);
        }
        let next = input.peek_key()?;
        match self.last.is_some_and(|last| next <= last) {
            true => {
                Err(DocumentFault::NotCanonical.saying("the fields are out of order, or one is there twice"))
            }
            false => Ok(Some(next)),
        }
    }
}

/// Keys from here on are those that who does not know them passes over; all below must be understood. (spec: DOC-13)
pub const NOT_CRITICAL: u64 = 1_000;

/// An error of bytes that are not such a document.
pub fn malformed(message: &'static str) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

fn unexpected(error: minicbor::decode::Error) -> Error {
    malformed(if error.is_end_of_input() { "document ends too early" } else { "not the expected CBOR value" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Pair(u64, Option<String>);

    impl Canonical for Pair {
        fn write(&self, out: &mut Writer) {
            out.map(1 + usize::from(self.1.is_some()));
            out.key(0).uint(self.0);
            if let Some(text) = &self.1 {
                out.key(1).text(text);
            }
        }

        fn read(input: &mut Reader<'_>) -> Result<Self> {
            let mut fields = input.map()?;
            let number = fields.key(input, 0)?.uint(1_000)?;
            let text = match fields.optional(input, 1)? {
                true => Some(input.text(4)?.to_owned()),
                false => None,
            };
            fields.end(input)?;
            Ok(Self(number, text))
        }
    }

    #[test]
    fn the_canonical_form_is_read() {
        for pair in [Pair(7, None), Pair(1_000, Some("text".into()))] {
            assert_eq!(decode::<Pair>(&encode(&pair), 64), Ok(pair));
        }
    }

    #[test]
    fn every_other_form_of_the_same_value_is_refused() {
        // {0: 7} is a1 00 07.
        let canonical = Some(DocumentFault::NotCanonical);
        let forms: [(&str, &[u8], Option<DocumentFault>); 10] = [
            ("integer not in its shortest form", &[0xa1, 0x00, 0x18, 0x07], canonical),
            ("map length not in its shortest form", &[0xb8, 0x01, 0x00, 0x07], canonical),
            ("indefinite map", &[0xbf, 0x00, 0x07, 0xff], canonical),
            ("duplicate key", &[0xa2, 0x00, 0x07, 0x00, 0x07], canonical),
            ("keys out of order", &[0xa2, 0x01, 0x61, b'x', 0x00, 0x07], None),
            ("unknown key", &[0xa2, 0x00, 0x07, 0x05, 0x00], Some(DocumentFault::UnknownField)),
            ("unknown key that some maps may have", &[0xa2, 0x00, 0x07, 0x19, 0x03, 0xe8, 0x40], {
                Some(DocumentFault::UnknownField)
            }),
            ("indefinite text", &[0xa2, 0x00, 0x07, 0x01, 0x7f, 0x61, b'x', 0xff], None),
            ("bytes left over", &[0xa1, 0x00, 0x07, 0x00], canonical),
            ("tagged", &[0xa1, 0x00, 0xc1, 0x07], None),
        ];
        for (what, bytes, fault) in forms {
            let error = decode::<Pair>(bytes, 64).expect_err(what);
            assert_eq!(error.fault(), fault, "{what}");
            assert_eq!(error.kind(), fault.map_or(ErrorKind::Malformed, DocumentFault::kind), "{what}");
        }
    }

    #[test]
    fn bounds_hold() {
        assert!(decode::<Pair>(&encode(&Pair(1_001, None)), 64).is_err());
        assert!(decode::<Pair>(&encode(&Pair(1, Some("texts".into()))), 64).is_err());
        assert!(decode::<Pair>(&encode(&Pair(1, Some("a\u{1b}".into()))), 64).is_err());
        assert!(decode::<Pair>(&encode(&Pair(1, None)), 2).is_err());
    }
}
