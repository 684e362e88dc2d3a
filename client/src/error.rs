//! The library's one error type.

use mizzle_link::Fault;
use mizzle_protocol as protocol;
use mizzle_protocol::consensus::DocumentFault;
use std::{fmt, io};

/// Result of a fallible operation of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in a handful of stable words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The exit's policy forbids the destination.
    NotAllowed,
    /// The exit has no way to the destination's network.
    NetworkUnreachable,
    /// The exit cannot reach the destination.
    HostUnreachable,
    /// The exit cannot resolve the name.
    HostNotFound,
    /// The destination refused the connection.
    ConnectionRefused,
    /// Nobody answered in time.
    TimedOut,
    /// The other side closed.
    Closed,
    /// The mixnet cannot be used now; the message says why.
    NoNetwork,
    /// No exit is where it was asked to be; the message names the countries that there are.
    NoSuchExit,
    /// A bound is reached: streams, queue.
    Exhausted,
    /// A datagram that no packet of this network holds.
    TooLarge,
    /// The network demands a protocol that this version does not speak: upgrade.
    Outdated,
    /// The configuration does not make sense.
    Configuration,
    /// The state directory cannot be read or written.
    Storage,
    /// A peer broke the protocol, or something else failed.
    Other,
}

/// An error: its kind, and a sentence that says what happened, to which thing, and what to do next.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    cause: Cause,
    fault: Option<DocumentFault>,
}

/// Who stood in the way of a connection, where that decides what is done next.
#[derive(Clone, Copy, Debug)]
enum Cause {
    Other,
    Stranger,
    Upstream(Fault),
}

impl Error {
    /// An error of this kind. The message must not name a destination or a key.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), cause: Cause::Other, fault: None }
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What is wrong with a document that was fetched, if it is about one.
    pub fn fault(&self) -> Option<DocumentFault> {
        self.fault
    }

    /// A connection that failed, and by whose fault.
    pub(crate) fn from_link(kind: ErrorKind, message: String, error: &mizzle_link::Error) -> Self {
        let cause = match error {
            mizzle_link::Error::Upstream(fault) => Cause::Upstream(*fault),
            error if error.is_stranger() => Cause::Stranger,
            _ => Cause::Other,
        };
        Self { kind, message, cause, fault: error.fault() }
    }

    /// True if somebody else than the relay answered in its place.
    pub(crate) fn is_stranger(&self) -> bool {
        matches!(self.cause, Cause::Stranger)
    }

    /// What the upstream proxy did, if it was that.
    pub(crate) fn upstream(&self) -> Option<Fault> {
        match self.cause {
            Cause::Upstream(fault) => Some(fault),
            _ => None,
        }
    }

    /// The state directory's `what` failed.
    pub(crate) fn storage(what: &str, error: &impl fmt::Display) -> Self {
        Self::new(
            ErrorKind::Storage,
            format!("cannot use {what} in the state directory ({error}): check its owner and free space"),
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<protocol::Error> for Error {
    fn from(error: protocol::Error) -> Self {
        let kind = match error.kind() {
            _ if matches!(error.fault(), Some(DocumentFault::NotSpoken(_))) => ErrorKind::Outdated,
            protocol::ErrorKind::Unavailable | protocol::ErrorKind::Expired => ErrorKind::NoNetwork,
            protocol::ErrorKind::NoSuchExit => ErrorKind::NoSuchExit,
            protocol::ErrorKind::Exhausted => ErrorKind::Exhausted,
            _ => ErrorKind::Other,
        };
        Self { fault: error.fault(), ..Self::new(kind, error.to_string()) }
    }
}

impl From<mizzle_link::Error> for Error {
    fn from(error: mizzle_link::Error) -> Self {
        Self::new(ErrorKind::Other, error.to_string())
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind {
            ErrorKind::NotAllowed => io::ErrorKind::PermissionDenied,
            ErrorKind::NetworkUnreachable => io::ErrorKind::NetworkUnreachable,
            ErrorKind::HostUnreachable => io::ErrorKind::HostUnreachable,
            ErrorKind::HostNotFound => io::ErrorKind::NotFound,
            ErrorKind::ConnectionRefused => io::ErrorKind::ConnectionRefused,
            ErrorKind::TimedOut => io::ErrorKind::TimedOut,
            ErrorKind::Closed => io::ErrorKind::ConnectionReset,
            ErrorKind::NoNetwork | ErrorKind::NoSuchExit | ErrorKind::Outdated => io::ErrorKind::NetworkDown,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
