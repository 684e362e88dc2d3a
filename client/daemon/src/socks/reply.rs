//! What a SOCKS5 client is told about its request.

/// A reply code (RFC 1928, section 6).
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
    /// The name does not resolve, or the host cannot be reached.
    HostUnreachable,
    /// The destination refused the connection.
    ConnectionRefused,
    /// Nobody answered in time. (RFC 1928 calls it "TTL expired"; clients show it as a time-out.)
    TimedOut,
    /// A command that this port does not offer.
    CommandNotSupported,
    /// An address that is neither IPv4, IPv6 nor a name.
    AddressTypeNotSupported,
}

impl Reply {
    /// The code on the wire.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Succeeded => 0,
            Self::GeneralFailure => 1,
            Self::NotAllowed => 2,
            Self::NetworkUnreachable => 3,
            Self::HostUnreachable => 4,
            Self::ConnectionRefused => 5,
            Self::TimedOut => 6,
            Self::CommandNotSupported => 7,
            Self::AddressTypeNotSupported => 8,
        }
    }

    /// The reply's bytes. The bound address is 0.0.0.0:0: the exit's own is nobody's business.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        vec![5, self.code(), 0, 1, 0, 0, 0, 0, 0, 0]
    }
}
