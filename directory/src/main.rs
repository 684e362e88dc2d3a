//! The Mizzle directory authority: takes relays' descriptors, dials every relay, and each epoch publishes a
//! signed document that says who is in the network, and why others are not.

mod authority;
mod config;
mod error;
mod measure;
mod probe;
mod refusals;
mod run;
mod show;
mod state;
mod status;

use clap::{Args, Parser, Subcommand};
use config::Config;
pub(crate) use error::{Error, Result};
use mizzle_link::{Clock, Identity, NetworkFile};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::consensus::MAX_CONSENSUS_SIZE;
use mizzle_protocol::id::RelayId;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The Mizzle directory authority.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an identity and, if there is none, a configuration; print the lines for the network file.
    Init(ConfigFile),
    /// Run in the foreground until SIGTERM or SIGINT. Prints `ready` when it serves.
    Run(ConfigFile),
    /// Print which relays run, and why others do not.
    Status(ConfigFile),
    /// Print a consensus in plain words.
    Show(Show),
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(long, env = "MIZZLE_DIRECTORY_CONFIG", default_value = "config.toml")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct Show {
    /// A stored consensus.
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    file: Option<PathBuf>,
    /// Fetch it from the authority or relay at this address; needs --network or --id.
    #[arg(long)]
    from: Option<SocketAddr>,
    /// The network file: whom to expect there, and whose signatures to verify.
    #[arg(long)]
    network: Option<PathBuf>,
    /// Identity to expect there, if the network file does not list it.
    #[arg(long)]
    id: Option<String>,
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MIZZLE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .with_target(false)
        .init();
    match start(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mizzle-directory: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn start(command: Command) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| mizzle_link::Error::io("start", error))?;
    match command {
        Command::Init(ConfigFile { config }) => init(&config),
        Command::Run(ConfigFile { config }) => runtime.block_on(run::run(Config::load(&config)?)),
        Command::Status(ConfigFile { config }) => runtime.block_on(status(&config)),
        Command::Show(arguments) => runtime.block_on(show(arguments)),
    }
}

fn init(path: &Path) -> Result<()> {
    if !path.exists() {
        mizzle_link::write_atomically(path, config::EXAMPLE.as_bytes())?;
        eprintln!("wrote {}: read it, and change what must be changed", path.display());
    }
    let config = Config::load(path)?;
    state::State::open(&config.state)?;
    let identity = Identity::load_or_create(&config.identity_file())?;
    let id = identity.authority().to_hex();
    println!("identity = {id}\n\n[[authorities]]\nid = \"{id}\"\naddress = \"{}\"", config.listen);
    eprintln!("put the [[authorities]] lines into the network file that relays and clients read");
    Ok(())
}

async fn status(path: &Path) -> Result<()> {
    let config = Config::load(path)?;
    let identity = Identity::load(&config.identity_file())?.ok_or_else(|| {
        let message = format!("no identity yet: run mizzle-directory init --config {}", path.display());
        Error::new(ErrorKind::Unavailable, message)
    })?;
    let response = run::fetch(config.listen, identity.id(), "/status").await?;
    let status: status::Status = serde_json::from_slice(&response.body)
        .map_err(|error| Error::new(ErrorKind::Malformed, format!("not a status page: {error}")))?;
    print!("{}", status.table());
    Ok(())
}

async fn show(arguments: Show) -> Result<()> {
    let network = arguments.network.as_deref().map(NetworkFile::load).transpose()?;
    let bytes = match (arguments.file, arguments.from) {
        (Some(file), _) => mizzle_link::read_bounded(&file, MAX_CONSENSUS_SIZE)?.ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, format!("there is no file {}", file.display()))
        })?,
        (None, Some(address)) => {
            let id = expected(address, network.as_ref(), arguments.id.as_deref())?;
            run::fetch(address, id, "/consensus").await?.body.to_vec()
        }
        (None, None) => return Err(Error::Config("name a file, or an address with --from".into())),
    };
    let signed = run::read(&bytes)?;
    let now = Clock::new().now();
    let consensus = match &network {
        Some(network) => {
            let authorities: Vec<_> = network.authorities.iter().map(|authority| authority.id).collect();
            let consensus = signed.verify_at_any_time(&authorities, network.threshold, &network.name)?;
            println!("signatures     verified");
            consensus
        }
        None => {
            println!("signatures     NOT verified: name the network file with --network");
            signed.read_unverified()?
        }
    };
    if let Err(error) = consensus.check_time(now) {
        println!("warning        {error}");
    }
    print!("{}", show::show(&signed, &consensus, now));
    Ok(())
}

/// Whom to expect at `address`.
fn expected(address: SocketAddr, network: Option<&NetworkFile>, id: Option<&str>) -> Result<RelayId> {
    if let Some(id) = id {
        return Ok(RelayId::from_hex(id)?);
    }
    let listed = network.and_then(|network| {
        let authorities = network.authorities.iter().map(|peer| (peer.address, RelayId(peer.id.0)));
        let mirrors = network.mirrors.iter().map(|peer| (peer.address, peer.id));
        authorities.chain(mirrors).find(|(listed, _)| *listed == address).map(|(_, id)| id)
    });
    listed.ok_or_else(|| {
        Error::Config(format!("whom to expect at {address}? name a network file that lists it, or --id"))
    })
}

const EXAMPLES: &str = "\
Example:
  mizzle-directory init --config authority/config.toml
  mizzle-directory run --config authority/config.toml
  mizzle-directory show --from 127.1.0.1:7000 --network network.toml";
