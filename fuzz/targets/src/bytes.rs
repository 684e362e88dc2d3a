//! How targets take decisions from their bytes, and how seeds are put together.

/// An input that is worth starting from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// Name of its file.
    pub name: &'static str,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// A seed from parts.
pub(crate) fn seed(name: &'static str, parts: &[&[u8]]) -> Seed {
    Seed { name, bytes: parts.concat() }
}

/// Choices from the front of a target's bytes; zeros when they have run out.
pub(crate) struct Choices<'a> {
    rest: &'a [u8],
}

impl<'a> Choices<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// At most `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// Bytes whose number comes before them.
    pub(crate) fn counted(&mut self) -> &'a [u8] {
        let count = usize::from(self.u16());
        self.take(count)
    }
}

/// What [`Choices::counted`] takes.
pub(crate) fn counted(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}
