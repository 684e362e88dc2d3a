//! The daemon's one error type.

use mizzle_protocol::ErrorKind;
use std::fmt;

/// Result of a fallible operation of this crate.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the authority cannot go on.
#[derive(Debug)]
#[non_exhaustive]
pub(crate) enum Error {
    /// A file, a link or the operating system.
    Link(mizzle_link::Error),
    /// A document, a parameter, or the network's past.
    Protocol(mizzle_protocol::Error),
    /// The configuration file: which, and what is wrong with it.
    Config(String),
}

impl Error {
    /// Who is to blame.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Link(error) => error.kind(),
            Self::Protocol(error) => error.kind(),
            Self::Config(_) => ErrorKind::Misuse,
        }
    }

    /// An error of this kind with a message.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::Protocol(mizzle_protocol::Error::new(kind, message.into()))
    }

    /// The exit code of the process: 2 for what its operator can mend in the configuration.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.kind() {
            ErrorKind::Misuse => 2,
            ErrorKind::Incompatible => 3,
            _ => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(error) => error.fmt(f),
            Self::Protocol(error) => error.fmt(f),
            Self::Config(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Link(error) => Some(error),
            Self::Protocol(error) => Some(error),
            Self::Config(_) => None,
        }
    }
}

impl From<mizzle_link::Error> for Error {
    fn from(error: mizzle_link::Error) -> Self {
        Self::Link(error)
    }
}

impl From<mizzle_protocol::Error> for Error {
    fn from(error: mizzle_protocol::Error) -> Self {
        Self::Protocol(error)
    }
}
