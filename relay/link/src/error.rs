//! The crate's one error type.

use crate::Fault;
use mizzle_protocol::ErrorKind;
use mizzle_protocol::consensus::DocumentFault;
use std::fmt;
use std::io;

/// Result of a fallible operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a link, a file or a document could not be had. Names no address and no key, so it may be logged.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system said no: what we were doing, and its answer.
    Io {
        /// What we were doing, as in `cannot {doing}`.
        doing: String,
        /// What it said.
        source: io::Error,
    },
    /// The peer did not answer in time.
    TimedOut {
        /// What we were waiting for.
        waiting_for: &'static str,
    },
    /// The handshake failed, or the peer is not the one that was wanted.
    Handshake(rustls::Error),
    /// The proxy that this network demands did not connect.
    Upstream(Fault),
    /// Bytes, files or documents that do not fit.
    Protocol(mizzle_protocol::Error),
}

impl Error {
    /// A failure of the operating system while `doing` something.
    pub fn io(doing: impl Into<String>, source: io::Error) -> Self {
        // A handshake error arrives wrapped in an I/O error; unwrap it, so that the blame is right.
        match source.downcast::<rustls::Error>() {
            Ok(error) => Self::Handshake(error),
            Err(source) => Self::Io { doing: doing.into(), source },
        }
    }

    /// True if somebody answered, and not the relay that was wanted: one who speaks another language, or proves
    /// nothing, as a portal that stands in for every address. Who only hangs up may be a relay that is busy.
    pub fn is_stranger(&self) -> bool {
        match self {
            Self::Handshake(error) => !matches!(error, rustls::Error::General(_) | rustls::Error::Other(_)),
            Self::Protocol(error) => error.kind() == ErrorKind::Incompatible,
            _ => false,
        }
    }

    /// What is wrong with a document, if that is told apart.
    pub fn fault(&self) -> Option<DocumentFault> {
        match self {
            Self::Protocol(error) => error.fault(),
            _ => None,
        }
    }

    /// The protocol that the network demands and this build does not speak, if it was that.
    pub fn not_spoken(&self) -> Option<DocumentFault> {
        self.fault().filter(|fault| matches!(fault, DocumentFault::NotSpoken(_)))
    }

    /// Who is to blame.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } | Self::TimedOut { .. } | Self::Upstream(_) => ErrorKind::Unavailable,
            Self::Handshake(rustls::Error::InvalidCertificate(_)) => ErrorKind::Forged,
            Self::Handshake(
                rustls::Error::InvalidMessage(_)
                | rustls::Error::InappropriateMessage { .. }
                | rustls::Error::InappropriateHandshakeMessage { .. }
                | rustls::Error::PeerMisbehaved(_)
                | rustls::Error::DecryptError,
            ) => ErrorKind::Malformed,
            Self::Handshake(
                rustls::Error::PeerIncompatible(_)
                | rustls::Error::NoApplicationProtocol
                | rustls::Error::AlertReceived(_),
            ) => ErrorKind::Incompatible,
            Self::Handshake(_) => ErrorKind::Misuse,
            Self::Protocol(error) => error.kind(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, source } => write!(f, "cannot {doing}: {source}"),
            Self::TimedOut { waiting_for } => write!(f, "no answer in time: waited for {waiting_for}"),
            Self::Handshake(rustls::Error::InvalidCertificate(_)) => {
                f.write_str("the peer did not prove the identity that was wanted")
            }
            Self::Handshake(error) => write!(f, "handshake failed: {error}"),
            Self::Upstream(fault) => fault.fmt(f),
            Self::Protocol(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Handshake(error) => Some(error),
            Self::Protocol(error) => Some(error),
            Self::TimedOut { .. } | Self::Upstream(_) => None,
        }
    }
}

impl From<mizzle_protocol::Error> for Error {
    fn from(error: mizzle_protocol::Error) -> Self {
        Self::Protocol(error)
    }
}

impl From<rustls::Error> for Error {
    fn from(error: rustls::Error) -> Self {
        Self::Handshake(error)
    }
}

/// An error about bytes: shorthand of this crate.
pub(crate) fn protocol(kind: ErrorKind, message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::Protocol(mizzle_protocol::Error::new(kind, message))
}
