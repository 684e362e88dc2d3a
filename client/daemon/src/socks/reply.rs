//! What an application is told about its request, in the words of each protocol. (spec: PROXY-4)

use super::Protocol;
use std::net::{IpAddr, SocketAddr};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reply {
    /// The exit has connected.
    Succeeded,
    /// Anything without a code of its own.
    GeneralFailure,
    /// The exit's policy forbids the destination.
    NotAllowed,
    /// The exit has no way to the destination's network.
    NetworkUnreachable,
    /// The host cannot be reached.
    HostUnreachable,
    /// The name does not resolve.
    HostNotFound,
    /// The destination refused the connection.
    ConnectionRefused,
    /// Nobody answered in time. (RFC 1928 calls it "TTL expired"; clients show it as a time-out.)
    TimedOut,
    /// The mixnet cannot be used now.
    NoNetwork,
    /// No exit is in the country that was asked for.
    NoSuchExit,
    /// The client, or the exit, carries as much as it can.
    Crowded,
    /// A command that this port does not offer.
    CommandNotSupported,
    /// An address that is neither IPv4, IPv6 nor a name.
    AddressTypeNotSupported,
}

impl Reply {
    /// The code on the wire (RFC 1928, section 6).
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Succeeded => 0,
            Self::GeneralFailure | Self::NoNetwork | Self::NoSuchExit | Self::Crowded => 1,
            Self::NotAllowed => 2,
            Self::NetworkUnreachable => 3,
            Self::HostUnreachable | Self::HostNotFound => 4,
            Self::ConnectionRefused => 5,
            Self::TimedOut => 6,
            Self::CommandNotSupported => 7,
            Self::AddressTypeNotSupported => 8,
        }
    }

    /// The reply's bytes in SOCKS5. The bound address is 0.0.0.0:0: the exit's own is nobody's business.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        vec![5, self.code(), 0, 1, 0, 0, 0, 0, 0, 0]
    }

    /// The answer to a look-up of a name, as Tor has it: the address stands where the bound one would.
    pub(crate) fn with_address(address: IpAddr) -> Vec<u8> {
        Self::with_bound(SocketAddr::new(address, 0))
    }

    /// Success, with the address where datagrams are taken.
    pub(crate) fn with_bound(bound: SocketAddr) -> Vec<u8> {
        let mut bytes = vec![5, 0, 0];
        match bound.ip() {
            IpAddr::V4(address) => {
                bytes.push(1);
                bytes.extend(address.octets());
            }
            IpAddr::V6(address) => {
                bytes.push(4);
                bytes.extend(address.octets());
            }
        }
        bytes.extend(bound.port().to_be_bytes());
        bytes
    }

    /// The answer to a look-up of an address. A name above 255 bytes is none.
    pub(crate) fn with_name(name: &str) -> Vec<u8> {
        match u8::try_from(name.len()) {
            Ok(length) => [&[5, 0, 0, 3, length], name.as_bytes(), &[0, 0]].concat(),
            Err(_) => Self::HostNotFound.to_bytes(),
        }
    }

    /// What a client of this protocol reads. Success of a plain HTTP request is the origin's to tell.
    pub(crate) fn to_protocol(self, protocol: Protocol) -> Vec<u8> {
        match (protocol, self) {
            (Protocol::Socks5, _) => self.to_bytes(),
            (Protocol::Socks4, Self::Succeeded) => vec![0, 0x5a, 0, 0, 0, 0, 0, 0],
            (Protocol::Socks4, _) => vec![0, 0x5b, 0, 0, 0, 0, 0, 0],
            (Protocol::HttpConnect, Self::Succeeded) => {
                b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec()
            }
            (Protocol::HttpForward, Self::Succeeded) => Vec::new(),
            (Protocol::HttpConnect | Protocol::HttpForward, _) => {
                let (status, text) = self.explanation();
                page(status, text)
            }
        }
    }

    /// The same, with a sentence that says more where the protocol carries one.
    pub(crate) fn with_reason(self, protocol: Protocol, reason: &str) -> Vec<u8> {
        match (protocol, self) {
            (Protocol::HttpConnect | Protocol::HttpForward, Self::NoSuchExit) => {
                let (status, text) = self.explanation();
                page(status, &format!("{text}{reason}\n"))
            }
            _ => self.to_protocol(protocol),
        }
    }

    /// The status line's end, and what to do.
    fn explanation(self) -> (&'static str, &'static str) {
        match self {
            Self::NotAllowed => (
                "403 Forbidden",
                "The exit's policy does not allow this address or this port.\n\
                 Mail delivery, file sharing and private networks are usually refused: try another service.\n",
            ),
            Self::NetworkUnreachable => (
                "502 Bad Gateway",
                "The exit has no way to the network of this host. Perhaps it has only IPv6 addresses: try again, \
                 another exit may have them.\n",
            ),
            Self::HostUnreachable => {
                ("502 Bad Gateway", "The exit cannot reach this host. It may be down: try again later.\n")
            }
            Self::HostNotFound => {
                ("502 Bad Gateway", "The exit finds no address of this name: is it spelled right?\n")
            }
            Self::ConnectionRefused => {
                ("502 Bad Gateway", "The host refused the connection: is this the right port?\n")
            }
            Self::TimedOut => ("504 Gateway Timeout", "Nobody answered in time: try again.\n"),
            Self::NoNetwork => (
                "503 Service Unavailable",
                "The mixnet cannot be used now, and nothing goes out any other way.\n\
                 `mizzle status` says why.\n",
            ),
            Self::NoSuchExit => (
                "503 Service Unavailable",
                "No exit says that it is in the country that was asked for; `mizzle status` lists those that there are.\n",
            ),
            Self::Crowded => (
                "503 Service Unavailable",
                "There are too many connections, or too many hosts at once: close some, or try again in a minute.\n",
            ),
            _ => (
                "502 Bad Gateway",
                "The connection failed for a reason without a name: try again; `mizzle status` says more.\n",
            ),
        }
    }
}

/// An HTTP answer in plain text; nothing comes after it.
pub(crate) fn page(status: &str, text: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
    .into_bytes()
}
