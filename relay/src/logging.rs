//! The log on standard error, whose level can change while the daemon runs.

use mizzle_link::{Error, Result};
use mizzle_protocol::ErrorKind;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Changes what is logged.
pub(crate) struct Level(Box<dyn Fn(EnvFilter) -> bool + Send + Sync>);

impl std::fmt::Debug for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Level")
    }
}

/// Starts the log. Called once.
pub(crate) fn start(level: &str) -> Result<Level> {
    let output = tracing_subscriber::fmt().with_env_filter(filter(level)?).with_writer(std::io::stderr);
    let output = output.with_ansi(std::io::stderr().is_terminal()).with_target(false);
    let output = output.with_filter_reloading();
    let handle = output.reload_handle();
    output.init();
    Ok(Level(Box::new(move |filter| handle.reload(filter).is_ok())))
}

impl Level {
    /// Logs at `level` from now on.
    pub(crate) fn set(&self, level: &str) -> Result<()> {
        if (self.0)(filter(level)?) { Ok(()) } else { Err(wrong("the level of the log cannot be changed")) }
    }
}

fn filter(level: &str) -> Result<EnvFilter> {
    is_level(level).then(|| EnvFilter::new(level)).ok_or_else(|| wrong(NO_LEVEL))
}

/// True if this is one of the five words. (A filter takes any word, as the name of something to log about: a
/// mistyped one would silence everything.)
pub(crate) fn is_level(level: &str) -> bool {
    ["error", "warn", "info", "debug", "trace"].contains(&level)
}

/// What is said of another word.
pub(crate) const NO_LEVEL: &str = "`log` must be one of error, warn, info, debug, trace";

fn wrong(message: &'static str) -> Error {
    Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Misuse, message))
}
