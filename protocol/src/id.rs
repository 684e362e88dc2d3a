//! Names of things: each its own type, so that one cannot stand in for another.

use crate::{Error, ErrorKind, Result};
use std::fmt;

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $size:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $size]);

        impl $name {
            /// Length in bytes.
            pub const SIZE: usize = $size;

            /// The id in `bytes`, which must have exactly [`Self::SIZE`] of them.
            pub fn from_slice(bytes: &[u8]) -> Result<Self> {
                bytes.try_into().map(Self).map_err(|_| {
                    Error::new(ErrorKind::Malformed, concat!(stringify!($name), ": wrong length"))
                })
            }
        }

        // Ids link people to traffic, so logs see at most the type. `to_hex` is for files and status pages.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    };
}

bytes_id!(
    /// A relay, by its Ed25519 identity key. Also its address inside Sphinx headers.
    RelayId,
    32
);
bytes_id!(
    /// A directory authority, by its Ed25519 identity key.
    AuthorityId,
    32
);
bytes_id!(
    /// What all relays of one operator share, by the Ed25519 key that certifies them: they are never on one path
    /// twice.
    FamilyId,
    32
);
bytes_id!(
    /// What an entry calls one of its client links; the last-but-one address of every homeward packet.
    ClientAddress,
    32
);
bytes_id!(
    /// A session: the first 16 bytes of SHA-256 over its HPKE encapsulation.
    SessionId,
    16
);
bytes_id!(
    /// What a relay remembers of a packet to refuse it the second time: a hash of its shared secret.
    ReplayTag,
    32
);
bytes_id!(
    /// What a homeward packet shows its last hop, the client: which SURB, loop or ping it belongs to.
    ReplyId,
    16
);

impl RelayId {
    /// Lower-case hexadecimal, for files and status pages; never for logs.
    pub fn to_hex(self) -> String {
        to_hex(&self.0)
    }

    /// Parses 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Self> {
        from_hex(text).map(Self)
    }
}

impl AuthorityId {
    /// Lower-case hexadecimal, for files and status pages; never for logs.
    pub fn to_hex(self) -> String {
        to_hex(&self.0)
    }

    /// Parses 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Self> {
        from_hex(text).map(Self)
    }
}

/// A key period: mix keys and layers change with it. Counted from the network's birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Period(pub u32);

impl Period {
    /// The byte that travels beside each packet, so that no relay tries two keys. (spec: PACKET-8)
    pub const fn hint(self) -> u8 {
        self.0 as u8
    }
}

/// A directory epoch: one consensus each. Counted from the network's birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

/// A stream within its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

/// Number of a session packet: outward its own count, homeward the number of the SURB that it burns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PacketNumber(pub u64);

/// Bytes as lower-case hexadecimal.
pub fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `N` bytes from `2 N` hexadecimal digits.
pub fn from_hex<const N: usize>(text: &str) -> Result<[u8; N]> {
    let malformed = || Error::new(ErrorKind::Malformed, format!("expected {} hexadecimal digits", 2 * N));
    let text = text.trim().as_bytes();
    // The standard library's parser would take a sign as well.
    if text.len() != 2 * N || !text.iter().all(u8::is_ascii_hexdigit) {
        return Err(malformed());
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digits = std::str::from_utf8(pair).map_err(|_| malformed())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| malformed())?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_round_trips_and_refuses_other_lengths() {
        let id = RelayId([0x5a; 32]);
        assert_eq!(RelayId::from_hex(&id.to_hex()), Ok(id));
        assert!(RelayId::from_hex("5a").is_err());
        assert!(RelayId::from_hex(&"zz".repeat(32)).is_err());
        assert!(RelayId::from_hex(&"é".repeat(32)).is_err());
        assert!(RelayId::from_hex(&"+1".repeat(32)).is_err());
    }

    #[test]
    fn ids_do_not_print_their_bytes() {
        assert_eq!(format!("{:?}", RelayId([1; 32])), "RelayId(…)");
    }
}
