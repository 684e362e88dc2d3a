//! The launcher's one error type: what happened, to which thing, and what to do next.

use mizzle_protocol::ErrorKind;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Result of a fallible operation of the launcher.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while a network starts, runs or stops.
#[derive(Debug)]
#[non_exhaustive]
pub(crate) enum Error {
    /// The system refused something; `what` says what was being done.
    System { what: String, source: io::Error },
    /// A network is there already, or another one has its addresses.
    InUse(String),
    /// A program that is needed is not there.
    Missing(String),
    /// A process of the network ended, or was not ready in time.
    Process { what: String, log: PathBuf },
    /// The network runs, but does not do what it should.
    Wrong(String),
    /// Interrupted by the person who started it.
    Interrupted,
}

impl Error {
    /// Wraps an error of the system with what was being done.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }

    /// Who is to blame.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::System { .. } | Self::Missing(_) => ErrorKind::Unavailable,
            Self::InUse(_) => ErrorKind::Exhausted,
            Self::Process { .. } | Self::Wrong(_) => ErrorKind::Malformed,
            Self::Interrupted => ErrorKind::Refused,
        }
    }

    /// What the launcher ends with: 130 as a shell does after Ctrl-C, 3 where nothing was started, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        match (self, self.kind()) {
            (Self::Interrupted, _) => 130,
            (_, ErrorKind::Exhausted) => 3,
            _ => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System { what, source } => write!(f, "{what}: {source}"),
            Self::InUse(text) | Self::Missing(text) | Self::Wrong(text) => f.write_str(text),
            Self::Process { what, log } => {
                write!(f, "{what}; the end of {}:\n{}", log.display(), tail(log, 15))
            }
            Self::Interrupted => f.write_str("interrupted: everything that was started is stopped"),
        }
    }
}

impl std::error::Error for Error {}

/// The last `count` lines of a log, indented.
fn tail(log: &Path, count: usize) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    match lines.get(lines.len().saturating_sub(count)..) {
        Some(last) if !last.is_empty() => {
            last.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
        }
        _ => "    (empty)".to_owned(),
    }
}
