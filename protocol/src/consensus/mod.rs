//! Who is in the network: the documents that relays and authorities sign, and everyone verifies.
//!
//! Each relay signs a [`Descriptor`]: its addresses and its keys of three periods; with a
//! [`FamilyCertificate`], if its operator has more than one. Each epoch the authorities
//! sign a [`Consensus`]: the parameters, the relays with their roles and keys, and why others are not listed.
//! It travels as a [`Signed`] envelope; [`Signed::verify`] is the only way to a verified one. Keys of
//! services are large and travel beside it, in [`ServiceKeys`], named in the consensus by their hashes.
//!
//! A new network begins with a consensus that lists nobody (epoch 0): it tells the relays the parameters and
//! the [`Schedule`] of key periods, without which they cannot make their keys. A relay fetches it from an
//! authority, makes keys of [`Schedule::announced`], posts its descriptor, and asks again from `fresh_until`
//! on, every second: until enough relays run that is one second, from then on an epoch. (spec: DOC-1 to DOC-11)
//!
//! Who holds a document needs only the [`Diff`] to the next. What can be wrong with any of them is a [`DocumentFault`].

pub mod cbor;
mod descriptor;
mod diff;
mod document;
mod envelope;
mod family;
mod fault;
mod load;
mod parameters;
mod revocation;
mod schedule;
mod service_keys;
mod signed;

pub use descriptor::{
    Descriptor, MAX_DESCRIPTOR_SIZE, PeriodKeys, RelayKind, read_addresses, write_addresses,
};
pub use diff::{Diff, MAX_DIFF_SIZE};
pub use document::{
    Consensus, DocumentHash, ListedRelay, MAX_EXITS, MAX_RELAYS, Made, NotRunning, RelayPeriod,
};
pub use envelope::Envelope;
pub use family::FamilyCertificate;
pub use fault::DocumentFault;
pub use load::coarse;
pub use revocation::{MAX_REVOCATION_SIZE, Revocation};
pub use schedule::Schedule;
pub use service_keys::{MAX_SERVICE_KEYS_SIZE, ServiceKeys};
pub use signed::{MAX_CONSENSUS_SIZE, Signed, sign_over, verify_over};

use crate::Result;
use cbor::{Canonical, Reader, Writer};

/// A version of one of the protocols that members of a network speak with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProtocolNumber {
    /// Which protocol: see the constants of this type.
    pub protocol: u16,
    /// Its version.
    pub version: u16,
}

impl ProtocolNumber {
    /// Links and cells (ALPN `mizzle/1`).
    pub const LINK: Self = Self { protocol: 1, version: 1 };
    /// The packet: Sphinx, version 260.
    pub const PACKET: Self = Self { protocol: 2, version: 1 };
    /// Sessions with services.
    pub const SESSION: Self = Self { protocol: 3, version: 1 };
    /// Streams in sessions.
    pub const STREAM: Self = Self { protocol: 4, version: 1 };
    /// Documents.
    pub const DOCUMENT: Self = Self { protocol: 5, version: 1 };
    /// Documents that may name countries. (spec: COUNTRY-1)
    pub const COUNTRY: Self = Self { protocol: 5, version: 2 };

    /// Documents that may say how many packets relays carry and hold. (spec: LOAD-1)
    pub const LOAD: Self = Self { protocol: 5, version: 3 };

    /// Documents that may say what several authorities made them of. (spec: COUNCIL-8)
    pub const COUNCIL: Self = Self { protocol: 5, version: 4 };

    /// All that this build speaks, in order.
    pub const SUPPORTED: [Self; 8] = [
        Self::LINK,
        Self::PACKET,
        Self::SESSION,
        Self::STREAM,
        Self::DOCUMENT,
        Self::COUNTRY,
        Self::LOAD,
        Self::COUNCIL,
    ];

    /// True if this build speaks it.
    pub fn is_supported(self) -> bool {
        Self::SUPPORTED.contains(&self)
    }
}

impl std::fmt::Display for ProtocolNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.protocol {
            1 => "link",
            2 => "packet",
            3 => "session",
            4 => "stream",
            5 => "document",
            other => return write!(f, "protocol-{other}/{}", self.version),
        };
        write!(f, "{name}/{}", self.version)
    }
}

impl Canonical for ProtocolNumber {
    fn write(&self, out: &mut Writer) {
        out.uint(u64::from(self.protocol) << 16 | u64::from(self.version));
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        let number = input.u32()?;
        Ok(Self { protocol: (number >> 16) as u16, version: number as u16 })
    }
}

/// A list that must be in strict order, so that a set has one encoding.
pub fn ordered<T, K: Ord>(items: Vec<T>, key: impl Fn(&T) -> K) -> Result<Vec<T>> {
    match items.is_sorted_by(|a, b| key(a) < key(b)) {
        true => Ok(items),
        false => Err(DocumentFault::NotCanonical.saying("a list is not in order, or names one thing twice")),
    }
}

const MAX_PROTOCOLS: usize = 64;
const MAX_NETWORK_NAME: usize = 64;
const MAX_ADDRESSES: usize = 8;

#[cfg(test)]
mod tests;
