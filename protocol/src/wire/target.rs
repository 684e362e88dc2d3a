//! Where a stream or a datagram goes: a name, an address, the exit's resolver or its documents, and a port.
//! (spec: PACKET-10)
//!
//! ```text
//! 1 · IPv4 4 · port 2     2 · IPv6 16 · port 2     3 · length 1 · name · port 2     4 · port 2     5 · port 2
//! ```

use super::Reader;
use crate::{Error, ErrorKind, Result};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;

/// Destination of a stream or of a datagram. Its `Debug` is redacted: destinations are never logged.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Host to reach.
    pub host: Host,
    /// Its port; never 0.
    pub port: u16,
}

/// The host of a [`Target`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address; the exit connects to it if its policy allows.
    Address(IpAddr),
    /// A name, resolved by the exit and nowhere else. Lower case, without the trailing dot.
    Name(String),
    /// The exit's own resolver, at [`Target::RESOLVER_PORT`] only. A datagram to it is one DNS message, answered by
    /// one; a stream to it carries DNS as over TCP, each message after its length in two bytes (RFC 1035, 4.2.2).
    Resolver,
    /// The exit's own mirror of the network's documents, at [`Target::DOCUMENTS_PORT`] only, by streams: HTTP/1.1, as at the
    /// ports of relays. (spec: DIR-18)
    Documents,
}

impl Target {
    /// The only port of [`Host::Resolver`].
    pub const RESOLVER_PORT: u16 = 53;

    /// The only port of [`Host::Documents`].
    pub const DOCUMENTS_PORT: u16 = 80;

    /// The exit's own mirror of documents.
    pub const fn documents() -> Self {
        Self { host: Host::Documents, port: Self::DOCUMENTS_PORT }
    }

    /// The exit's own resolver.
    pub const fn resolver() -> Self {
        Self { host: Host::Resolver, port: Self::RESOLVER_PORT }
    }

    /// A target by name or by address literal. Refuses what is no host name: empty, above 253 bytes, or
    /// with a byte that is no letter, digit, dot, hyphen or underscore.
    pub fn parse(host: &str, port: u16) -> Result<Self> {
        if port == 0 {
            return Err(Error::new(ErrorKind::Malformed, "port 0 cannot be connected to"));
        }
        let literal = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = literal.parse() {
            return Ok(Self { host: Host::Address(address), port });
        }
        let name = host.strip_suffix('.').unwrap_or(host);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if name.is_empty() || name.len() > 253 || !name.split('.').all(label) {
            return Err(Error::new(ErrorKind::Malformed, "not a host name"));
        }
        // It travels without its trailing dot: what is then an address is one from the start.
        if let Ok(address) = name.parse::<Ipv4Addr>() {
            return Ok(Self { host: Host::Address(address.into()), port });
        }
        Ok(Self { host: Host::Name(name.to_ascii_lowercase()), port })
    }

    /// Reads a target.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let host = match reader.u8()? {
            1 => Host::Address(IpAddr::V4(Ipv4Addr::from(reader.array::<4>()?))),
            2 => Host::Address(IpAddr::V6(Ipv6Addr::from(reader.array::<16>()?))),
            3 => {
                let length = reader.u8()?;
                let name = std::str::from_utf8(reader.take(usize::from(length))?)
                    .map_err(|_| Error::new(ErrorKind::Malformed, "host name is not text"))?;
                // The checks of `parse` hold for what arrives, too; a literal in a name is an address.
                return Self::parse(name, reader.u16()?);
            }
            4 => Host::Resolver,
            5 => Host::Documents,
            _ => return Err(Error::new(ErrorKind::Malformed, "unknown kind of target")),
        };
        match reader.u16()? {
            0 => Err(Error::new(ErrorKind::Malformed, "port 0 cannot be connected to")),
            port if host == Host::Resolver && port != Self::RESOLVER_PORT => {
                Err(Error::new(ErrorKind::Malformed, "the resolver has no such port"))
            }
            port if host == Host::Documents && port != Self::DOCUMENTS_PORT => {
                Err(Error::new(ErrorKind::Malformed, "the documents have no such port"))
            }
            port => Ok(Self { host, port }),
        }
    }

    /// Appends the target.
    pub fn write(&self, out: &mut Vec<u8>) {
        match &self.host {
            Host::Address(IpAddr::V4(address)) => {
                out.push(1);
                out.extend(address.octets());
            }
            Host::Address(IpAddr::V6(address)) => {
                out.push(2);
                out.extend(address.octets());
            }
            Host::Name(name) => {
                // `parse` bounds a name at 253 bytes.
                out.extend([3, name.len().min(255) as u8]);
                out.extend(name.bytes().take(255));
            }
            Host::Resolver => out.push(4),
            Host::Documents => out.push(5),
        }
        out.extend(self.port.to_be_bytes());
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Target(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn targets_round_trip() {
        for host in ["192.0.2.7", "192.0.2.7.", "2001:db8::1", "[2001:db8::1]", "Example.Test", "a.b-c.d_e."]
        {
            let target = Target::parse(host, 443).unwrap();
            let mut bytes = Vec::new();
            target.write(&mut bytes);
            let mut reader = Reader::new(&bytes);
            assert_eq!(Target::read(&mut reader).as_ref(), Ok(&target));
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn what_is_the_exits_own_has_one_encoding_and_one_port() {
        for (target, encoding) in [(Target::resolver(), [4, 0, 53]), (Target::documents(), [5, 0, 80])] {
            let mut bytes = Vec::new();
            target.write(&mut bytes);
            assert_eq!(bytes, encoding);
            assert_eq!(Target::read(&mut Reader::new(&bytes)), Ok(target));
            for port in [0, 54, 81, 853] {
                let [high, low] = u16::to_be_bytes(port);
                assert!(Target::read(&mut Reader::new(&[encoding[0], high, low])).is_err(), "{port}");
            }
        }
        assert_eq!(format!("{:?}", Target::resolver()), "Target(redacted)");
    }

    #[test]
    fn what_is_no_host_name_is_refused() {
        let long = "a".repeat(64);
        let longest = format!("{}.a", "abc.".repeat(63));
        for host in ["", ".", "a..b", "a\0b", "a\r\nb", "ä.test", long.as_str(), longest.as_str(), "a b"] {
            assert!(Target::parse(host, 80).is_err(), "{host:?}");
        }
        assert!(Target::parse("a.test", 0).is_err());
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_as_it_was_and_never_shown(
            kind in 0u8..7,
            host in prop_oneof![Just(Vec::new()), proptest::collection::vec(any::<u8>(), 0..20)],
            port in prop_oneof![Just(53u16), Just(80), any::<u16>()],
        ) {
            let mut bytes = vec![kind];
            bytes.extend(&host);
            bytes.extend(port.to_be_bytes());
            if let Ok(target) = Target::read(&mut Reader::new(&bytes)) {
                prop_assert!(target.port != 0);
                prop_assert_eq!(kind == 4, target == Target::resolver());
                prop_assert_eq!(kind == 5, target == Target::documents());
                let mut written = Vec::new();
                target.write(&mut written);
                prop_assert_eq!(Target::read(&mut Reader::new(&written)), Ok(target.clone()));
                prop_assert_eq!(format!("{target:?}"), "Target(redacted)");
            }
        }
    }
}
