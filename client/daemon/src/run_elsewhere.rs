//! `mizzle run` where there are no network namespaces: it starts nothing, and says so.

use crate::config::Flags;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// Nobody gets inside here.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Inside {}

/// Why `run` cannot work.
pub(crate) fn obstacle() -> Option<String> {
    Some("it takes Linux's network namespaces, which this system has not: point the program at the port instead".into())
}

/// Starts nothing.
pub(crate) async fn run(_: &Flags, _: &[OsString]) -> ExitCode {
    // If standard error is gone, too, nobody is left to tell.
    let _ = writeln!(
        std::io::stderr(),
        "mizzle: `mizzle run` starts nothing: {}",
        obstacle().unwrap_or_default()
    );
    ExitCode::from(NOT_STARTED)
}

/// Fails: there is no inside.
pub(crate) fn enter(_: &Inside) -> ExitCode {
    ExitCode::from(NOT_STARTED)
}

const NOT_STARTED: u8 = 125;
