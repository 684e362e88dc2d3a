//! `key`: copies of the identity, and the family's key with what it signs.
//!
//! The identity signs each handshake and each descriptor, so it lives on the relay; what can be kept elsewhere
//! is a copy. The family's key is the operator's own identity and never comes near a relay: `family`, `certify`
//! and `revoke` read no configuration. (spec: DOC-10, DOC-11)

use crate::config::{Config, Flags};
use mizzle_link::http::{self, Limits};
use mizzle_link::quota::{DAY, date};
use mizzle_link::{
    Alpn, AuthorityEntry, CertificateFile, Clock, Error, Identity, NetworkFile, Result, RevocationFile, dial,
    read_bounded, write_atomically,
};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::id::{RelayId, to_hex};
use std::fs::Permissions;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// The configuration of the relay whose identity it is.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Of {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "MIZZLE_RELAY_CONFIG", default_value = "relay.toml")]
    config: PathBuf,
    /// Folder of the identity
    #[arg(long, value_name = "FOLDER")]
    state: Option<String>,
}

impl Of {
    fn load(&self) -> Result<Config> {
        Config::load(&self.config, &Flags::with_state(self.state.clone()))
    }
}

/// What to do with keys.
#[derive(clap::Subcommand, Clone, Debug)]
pub(crate) enum KeyCommand {
    /// Copy the identity to FILE, readable by you only: keep it away from this machine
    Backup {
        /// Where to; must not exist
        file: PathBuf,
        #[command(flatten)]
        of: Of,
    },
    /// Put back an identity from a copy; never replaces one
    Restore {
        /// The copy
        file: PathBuf,
        #[command(flatten)]
        of: Of,
    },
    /// Make the key of a family for all your relays, on a machine of your own that is none of them
    Family {
        /// Where the key is kept; one that is there is used again
        file: PathBuf,
    },
    /// Certify that a relay is of your family, on the machine with the family's key
    Certify {
        /// The family's key
        key: PathBuf,
        /// The relay's identity: the 64 digits that `mizzle-relay init` prints there
        relay: String,
        /// Where the certificate goes, for the relay; an older certificate is replaced
        file: PathBuf,
        /// The network: `name` in its network file
        #[arg(long, value_name = "NAME")]
        network: String,
        /// For so long, 1 to 400
        #[arg(long, value_name = "DAYS", default_value_t = LIFETIME)]
        days: u64,
    },
    /// Say that a relay's identity is stolen or given up, on the machine with the family's key
    Revoke {
        /// The family's key
        key: PathBuf,
        /// The relay's identity: the 64 digits that `mizzle-relay init` printed there
        relay: String,
        /// Where the revocation goes; must not exist
        file: PathBuf,
        /// The network: `name` in its network file
        #[arg(long, value_name = "NAME")]
        network: String,
    },
    /// Hand a revocation in to the authorities of this configuration's network, for ever
    HandIn {
        /// The revocation
        file: PathBuf,
        /// The configuration file of any relay of the network
        #[arg(long, value_name = "FILE", env = "MIZZLE_RELAY_CONFIG", default_value = "relay.toml")]
        config: PathBuf,
        /// The network file
        #[arg(long, value_name = "FILE")]
        network: Option<String>,
        /// Source address of connections to the authorities
        #[arg(long, value_name = "ADDRESS")]
        outbound: Option<String>,
    },
}

/// Does it.
pub(crate) async fn run(command: &KeyCommand) -> Result<()> {
    match command {
        KeyCommand::Backup { file, of } => backup(&of.load()?, file),
        KeyCommand::Restore { file, of } => restore(&of.load()?, file),
        KeyCommand::Family { file } => {
            let key = Identity::load_or_create(file)?;
            println!("family {}", key.id().to_hex());
            eprintln!(
                "keep {} offline, and a copy of it: it certifies each of your relays (mizzle-relay key certify), \
                 and who has it can do so, too",
                file.display()
            );
            Ok(())
        }
        KeyCommand::Certify { key, relay, file, network, days } => {
            certify(key, relay, file, network, Duration::from_secs(days.saturating_mul(DAY)))
        }
        KeyCommand::Revoke { key, relay, file, network } => revoke(key, relay, file, network),
        KeyCommand::HandIn { file, config, network, outbound } => {
            let flags = Flags::with_network(network.clone(), outbound.clone());
            hand_in(&Config::load(config, &flags)?, file).await
        }
    }
}

fn certify(key: &Path, relay: &str, file: &Path, network: &str, lifetime: Duration) -> Result<()> {
    let family = family_key(key)?;
    let relay = relay_id(relay)?;
    check_network(network)?;
    match CertificateFile::load(file) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::Unavailable => {}
        Err(_) => {
            let message = format!("{} is no certificate and is not replaced: name another", file.display());
            return Err(refused(message));
        }
    }
    let certificate = CertificateFile::issue(&family, network, relay, Clock::new().now().unix(), lifetime)?;
    write_for_all(file, &certificate.to_toml()?)?;
    println!("family {}", to_hex(&certificate.family.0));
    println!("from   {}", day(certificate.issued));
    println!("until  {}", day(certificate.expires));
    eprintln!(
        "wrote {}: copy it to the relay, name it as `family` in the configuration there, and reload the relay",
        file.display()
    );
    Ok(())
}

fn revoke(key: &Path, relay: &str, file: &Path, network: &str) -> Result<()> {
    let family = family_key(key)?;
    let relay = relay_id(relay)?;
    check_network(network)?;
    refuse_to_replace(file)?;
    let revocation = RevocationFile::issue(&family, network, relay)?;
    write_for_all(file, &revocation.to_toml()?)?;
    eprintln!(
        "wrote {0}: once handed in, it cannot be taken back; do so with mizzle-relay key hand-in {0} on a relay",
        file.display()
    );
    Ok(())
}

/// Shows each authority of the network the revocation; one that cannot be asked keeps no other from it.
async fn hand_in(config: &Config, file: &Path) -> Result<()> {
    let network = NetworkFile::load(&config.network)?;
    let bytes = RevocationFile::load(file)?.to_bytes(&network.name)?;
    let mut failed = 0;
    for (number, authority) in (1..).zip(&network.authorities) {
        match post(authority, &bytes, config.outbound).await {
            Ok(answer) => println!("authority {number}: {answer}"),
            Err(error) => {
                failed += 1;
                println!("authority {number}: not taken: {error}");
            }
        }
    }
    match failed {
        0 => Ok(()),
        _ => Err(refused(format!(
            "{failed} of {} authorities have not taken it: hand it in again when that is mended",
            network.authorities.len()
        ))),
    }
}

async fn post(authority: &AuthorityEntry, bytes: &[u8], outbound: Option<IpAddr>) -> Result<String> {
    let server = RelayId(authority.id.0);
    let mut link = dial(authority.address, server, None, Alpn::Documents, outbound).await?;
    let answer = http::post(&mut link, "/revocation", bytes, &Limits::default()).await?;
    match answer.status {
        200 => Ok(answer.reason()),
        _ => Err(refused(answer.reason())),
    }
}

/// The key of a family, which must be there.
fn family_key(path: &Path) -> Result<Identity> {
    Identity::load(path)?.ok_or_else(|| {
        let path = path.display();
        refused(format!("there is no family key at {path}: make one with mizzle-relay key family {path}"))
    })
}

fn relay_id(digits: &str) -> Result<RelayId> {
    RelayId::from_hex(digits).map_err(|_| {
        refused("a relay is named by its identity: the 64 digits that mizzle-relay init prints there")
    })
}

/// A name that a network can have; not the file that it stands in.
fn check_network(name: &str) -> Result<()> {
    if name.ends_with(".toml") || name.contains('/') {
        return Err(refused(format!("{name} is a file: give the name of the network, which stands in it")));
    }
    if name.is_empty() || name.len() > NETWORK_NAME || name.chars().any(char::is_control) {
        return Err(refused("a network's name has 1 to 64 bytes: it is `name` in the network file"));
    }
    Ok(())
}

/// Writes what is no secret: the relay that is to read it runs under a user of its own.
fn write_for_all(file: &Path, text: &str) -> Result<()> {
    write_atomically(file, text.as_bytes())?;
    std::fs::set_permissions(file, Permissions::from_mode(0o644))
        .map_err(|error| Error::io(format!("let all read {}", file.display()), error))
}

fn day(seconds: u64) -> String {
    let (year, month, day) = date(seconds / DAY);
    format!("{year}-{month:02}-{day:02}")
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
    refuse_to_replace(to)?;
    let bytes = read_bounded(from, FILE_LIMIT)?.map(Zeroizing::new);
    let bytes = bytes.ok_or_else(|| refused(format!("{} has gone", from.display())))?;
    write_atomically(to, &bytes)
}

fn refuse_to_replace(file: &Path) -> Result<()> {
    match std::fs::symlink_metadata(file) {
        Ok(_) => Err(refused(format!("{} exists and is not replaced: move it away first", file.display()))),
        Err(_) => Ok(()),
    }
}

fn refused(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Refused, message))
}

const FILE_LIMIT: usize = 1024;
const NETWORK_NAME: usize = 64;
/// Days that a certificate lasts unless told otherwise.
const LIFETIME: u64 = 180;
