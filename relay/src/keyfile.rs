//! `key`: copies of the identity, and the family that an operator's relays name.
//!
//! The identity signs each handshake and each descriptor, so it lives on the relay; what can be kept elsewhere
//! is a copy. docs/decisions.md says why there is no offline master key yet.

use crate::config::Config;
use mizzle_link::{Error, Identity, Result, read_bounded, write_atomically};
use mizzle_protocol::ErrorKind;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What to do with keys.
#[derive(clap::Subcommand, Clone, Debug)]
pub(crate) enum KeyCommand {
    /// Copy the identity to FILE, readable by you only: keep it away from this machine
    Backup {
        /// Where to; must not exist
        file: PathBuf,
    },
    /// Put back an identity from a copy; never replaces one
    Restore {
        /// The copy
        file: PathBuf,
    },
    /// Make a family for all your relays, and print the line for their configurations
    Family {
        /// Where its key is kept; one that is there is used again
        file: PathBuf,
    },
}

/// Does it.
pub(crate) fn run(command: &KeyCommand, config: impl FnOnce() -> Result<Config>) -> Result<()> {
    match command {
        KeyCommand::Backup { file } => backup(&config()?, file),
        KeyCommand::Restore { file } => restore(&config()?, file),
        KeyCommand::Family { file } => {
            let key = Identity::load_or_create(file)?;
            println!("family = \"{}\"", key.id().to_hex());
            eprintln!("keep {}: it will prove that relays are of one family", file.display());
            Ok(())
        }
    }
}

fn backup(config: &Config, file: &Path) -> Result<()> {
    let path = config.identity();
    let identity = Identity::load(&path)?.ok_or_else(|| {
        refused(format!("there is no identity at {}: mizzle-relay init makes one", path.display()))
    })?;
    copy(&path, file)?;
    println!("identity = \"{}\"", identity.id().to_hex());
    eprintln!("wrote {}: who has it can be this relay, so keep it where nobody else reads", file.display());
    Ok(())
}

fn restore(config: &Config, file: &Path) -> Result<()> {
    let path = config.identity();
    // Read as an identity first: only a good one is put in place.
    let identity =
        Identity::load(file)?.ok_or_else(|| refused(format!("there is no file {}", file.display())))?;
    copy(file, &path)?;
    println!("identity = \"{}\"", identity.id().to_hex());
    eprintln!("restored; never run one identity on two machines: the network would use neither well");
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if std::fs::symlink_metadata(to).is_ok() {
        return Err(refused(format!("{} exists and is not replaced: move it away first", to.display())));
    }
    let bytes = read_bounded(from, FILE_LIMIT)?.map(Zeroizing::new);
    let bytes = bytes.ok_or_else(|| refused(format!("{} has gone", from.display())))?;
    write_atomically(to, &bytes)
}

fn refused(message: String) -> Error {
    Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Refused, message))
}

const FILE_LIMIT: usize = 1024;
