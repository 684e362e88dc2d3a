//! A well-formed request, in whichever protocol it came.

use super::Body;
use mizzle_protocol::country::Country;
use mizzle_protocol::wire::target::{Host, Target};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The protocol in which the application reads its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Socks5,
    Socks4,
    /// `CONNECT`.
    HttpConnect,
    /// A request by an absolute URI; the origin answers it.
    HttpForward,
}

/// What is asked for. Its `Debug` is redacted: destinations are never logged.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// A stream.
    Connect(Target),
    /// Datagrams; the address from which the application says that it will send, as far as it says so.
    Associate(SocketAddr),
    /// The addresses of a host (Tor's extension).
    Resolve(Host),
    /// The name of an address (Tor's extension).
    ResolveAddress(IpAddr),
    /// A stream of DNS messages (an extension of ours).
    Questions,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect(_) => "Connect(redacted)",
            Self::Associate(_) => "Associate(redacted)",
            Self::Resolve(_) => "Resolve(redacted)",
            Self::ResolveAddress(_) => "ResolveAddress(redacted)",
            Self::Questions => "Questions",
        })
    }
}

/// A request.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) command: Command,
    pub(crate) protocol: Protocol,
    /// Isolation token: all are accepted, each has sessions of its own; empty if the application gave none.
    pub(crate) token: Vec<u8>,
    /// Where the exit is to be, if the application says so.
    pub(crate) exit_country: Option<Country>,
    /// What goes to the destination first: what the application has sent without waiting for the answer.
    pub(crate) early_data: Vec<u8>,
    /// If only the rest of a body may follow: where that ends.
    pub(crate) body: Option<Body>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({:?}, {:?})", self.command, self.protocol)
    }
}
