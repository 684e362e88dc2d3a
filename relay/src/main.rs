//! The Mizzle relay: holds packets for a random time and passes them on; as an entry it takes the links of
//! clients, as an exit it connects to the internet.
//!
//! A packet's way: [`listener`] or [`entry`] → [`engine`] → [`links`], [`entry`] or [`services`]. What all
//! of them go by is [`live`], which [`membership`] keeps.

mod config;
mod daemon;
mod engine;
mod entry;
mod keys;
mod links;
mod listener;
mod live;
mod membership;
mod metrics;
mod mirror;
mod possession;
mod replay;
mod runtime;
mod services;
mod status;

use clap::{Parser, Subcommand};
use config::Config;
use mizzle_link::{Error, Identity, Result, write_atomically};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Parser)]
#[command(version, about = "A relay of a Mizzle network: mix, entry or exit", after_help = EXAMPLE)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the identity, and a commented configuration if there is none; prints the identity
    Init(Place),
    /// Run the relay in the foreground; prints `ready` when it listens, stops on Ctrl-C
    Run(Place),
    /// Show how a running relay does, or why it is not used
    Status(Place),
}

#[derive(clap::Args)]
struct Place {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "MIZZLE_RELAY_CONFIG", default_value = "relay.toml")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("MIZZLE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let output = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    output.with_ansi(colours).with_target(false).init();
    let result = match arguments.command {
        Command::Init(place) => init(&place.config),
        Command::Run(place) => Config::load(&place.config).and_then(|config| block_on(daemon::run(config))),
        Command::Status(place) => Config::load(&place.config)
            .and_then(|config| block_on(async move { status::show(&config).await })),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mizzle-relay: {error}");
            ExitCode::FAILURE
        }
    }
}

fn init(path: &Path) -> Result<()> {
    if !path.exists() {
        write_atomically(path, config::example().as_bytes())?;
        eprintln!("wrote {}: set `network`, `listen` and `role` in it", path.display());
    }
    let config = Config::load(path)?;
    let identity = Identity::load_or_create(&config.identity())?;
    println!("identity = \"{}\"", identity.id().to_hex());
    Ok(())
}

fn block_on(future: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .enable_all()
        .build()
        .map_err(|error| Error::io("start the runtime", error))?;
    let result = runtime.block_on(future);
    // What still waits for a resolver or a peer is not waited for.
    runtime.shutdown_background();
    result
}

const EXAMPLE: &str = "\
Example:
  mizzle-relay init --config relay.toml      # then edit relay.toml
  mizzle-relay run --config relay.toml
  mizzle-relay status --config relay.toml

MIZZLE_LOG=warn makes it quieter.";
/// Threads for sockets; packets have threads of their own.
const WORKERS: usize = 2;
/// Threads for name look-ups.
const BLOCKING: usize = 40;
