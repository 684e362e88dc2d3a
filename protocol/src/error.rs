//! The crate's one error type.

use crate::consensus::DocumentFault;
use std::fmt;

/// Result of a fallible operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who is to blame, in a handful of stable words. SOCKS codes, HTTP status, metrics labels and exit codes
/// are each derived from this, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bytes are not a message of this protocol.
    Malformed,
    /// The bytes parse, but a signature, MAC or key does not fit.
    Forged,
    /// Seen before.
    Replayed,
    /// Well formed, but not allowed: wrong edge, excessive delay, policy.
    Refused,
    /// Valid once, not any more, or not yet.
    Expired,
    /// The peer speaks a version that we do not, or the reverse.
    Incompatible,
    /// A bound is reached: queue, window, memory, rate.
    Exhausted,
    /// Nothing to choose from: no relay, no exit, no key.
    Unavailable,
    /// There are exits, but none such as was asked for.
    NoSuchExit,
    /// The caller broke the contract of a function.
    Misuse,
}

impl ErrorKind {
    /// The kind as a metrics label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Forged => "forged",
            Self::Replayed => "replayed",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Incompatible => "incompatible",
            Self::Exhausted => "exhausted",
            Self::Unavailable => "unavailable",
            Self::NoSuchExit => "no-such-exit",
            Self::Misuse => "misuse",
        }
    }
}

/// An error: its kind, and a sentence that says what happened to which thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: std::borrow::Cow<'static, str>,
    fault: Option<DocumentFault>,
}

impl Error {
    /// An error of this kind. The message must not name an address, a destination or a key.
    pub fn new(kind: ErrorKind, message: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), fault: None }
    }

    /// Who is to blame.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What is wrong with the document, if it is about one and that is told apart.
    pub fn fault(&self) -> Option<DocumentFault> {
        self.fault
    }
}

impl DocumentFault {
    /// An error of this fault that says more than the fault alone.
    pub(crate) fn saying(self, message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
        Error { fault: Some(self), ..Error::new(self.kind(), message) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
