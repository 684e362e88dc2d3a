//! `mizzle browse` where programs cannot be shut into a network of their own: it starts nothing, and says what to do.

use crate::config::Flags;
use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;

/// Taken as they are elsewhere, and not used.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BrowseFlags {
    #[arg(hide = true, num_args = 0.., allow_hyphen_values = true, trailing_var_arg = true)]
    words: Vec<OsString>,
}

/// Starts nothing.
pub(crate) async fn run(_: &Flags, _: &BrowseFlags) -> Result<ExitCode, Box<dyn Error>> {
    Err("`mizzle browse` is for Linux, where it shuts the browser into a network of its own. Here, give a browser a \
         profile of its own, set its proxy to SOCKS5 at 127.0.0.1, port 9150, with names looked up through it, and shut \
         WebRTC"
        .into())
}
