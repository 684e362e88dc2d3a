//! The Mizzle relay: holds packets for a random time and passes them on; as an entry it takes the links of
//! clients, as an exit it connects to the internet.
//!
//! A packet's way: [`listener`] or [`entry`] → [`engine`] → [`links`], [`entry`] or [`services`]. What all
//! of them go by is [`live`], which [`membership`] keeps; [`loops`] notice that packets are kept away. What the operator says comes by [`config`], signals
//! ([`daemon`], [`reload`], [`stop`]) and [`control`]; what the operator hears, by [`status`], [`doctor`],
//! [`heartbeat`] and [`coarse`].

mod bandwidth;
mod bench;
mod cell;
mod coarse;
mod config;
mod control;
mod daemon;
mod doctor;
mod engine;
mod entry;
mod family;
mod faults;
mod guests;
mod heartbeat;
mod keyfile;
mod keys;
mod links;
mod listener;
mod live;
mod logging;
mod loops;
mod machine;
mod membership;
mod metrics;
mod mirror;
mod notice;
mod places;
mod possession;
mod presence;
mod quota;
mod reload;
mod replay;
mod room;
mod runtime;
mod services;
mod slow;
#[cfg(test)]
mod small_file_system;
mod speed;
mod status;
mod stop;
mod threads;

use clap::{Parser, Subcommand};
use config::{Config, Flags};
use keyfile::KeyCommand;
use mizzle_link::{Error, Identity, Result, write_atomically};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(version = faults::VERSION, about = "A relay of a Mizzle network: mix, entry or exit", after_help = EXAMPLE)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the identity, and a commented configuration if there is none; prints the identity
    Init(Place),
    /// Run the relay in the foreground; prints `ready` when it listens. SIGTERM ends it without losing a packet,
    /// a second one at once; SIGHUP reads the configuration again
    Run(Place),
    /// Say what is wrong with configuration and machine, without starting anything
    Check(Place),
    /// Show how a running relay does, or why it is not used
    Status(Place),
    /// Find out what keeps the network from using this relay, and what to do
    Doctor {
        #[command(flatten)]
        place: Place,
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Measure what packets take this machine, beside another implementation of the same format
    Bench(bench::Arguments),
    /// Tell a running relay to leave the network: it ends when nobody needs it any more
    Drain(Place),
    /// Copy or restore the identity; make a family, and certify or revoke its relays
    #[command(subcommand)]
    Key(KeyCommand),
}

#[derive(clap::Args, Clone)]
struct Place {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "MIZZLE_RELAY_CONFIG", default_value = "relay.toml")]
    config: PathBuf,
    #[command(flatten)]
    flags: Flags,
}

impl Place {
    fn load(&self) -> Result<Config> {
        Config::load(&self.config, &self.flags)
    }
}

fn main() -> ExitCode {
    match perform(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mizzle-relay: {error}");
            // (spec: DOC-8)
            if error.not_spoken().is_some() { ExitCode::from(OUTDATED) } else { ExitCode::FAILURE }
        }
    }
}

fn perform(command: Command) -> Result<ExitCode> {
    match command {
        Command::Init(place) => init(&place)?,
        Command::Run(place) => {
            let config = place.load()?;
            let level = logging::start(&config.log)?;
            block_on(daemon::run(config, place.config, place.flags, level))?;
        }
        Command::Check(place) => {
            let report = doctor::check(&place.load()?);
            print!("{}", report.table());
            return Ok(report.code());
        }
        Command::Status(place) => {
            let config = place.load()?;
            block_on(async move { status::show(&config).await })?;
        }
        Command::Doctor { place, json } => {
            let config = place.load()?;
            let report = block_on(async move { Ok(doctor::examine(&config).await) })?;
            print!("{}", if json { report.json() } else { report.table() });
            return Ok(report.code());
        }
        Command::Bench(arguments) => bench::run(&arguments)?,
        Command::Drain(place) => {
            let config = place.load()?;
            block_on(async move { control::drain(&config).await })?;
        }
        Command::Key(command) => block_on(async move { keyfile::run(&command).await })?,
    }
    Ok(ExitCode::SUCCESS)
}

fn init(place: &Place) -> Result<()> {
    let path = &place.config;
    if !path.exists() {
        write_atomically(path, config::example().as_bytes())?;
        // It holds no secret, and the user that the unit makes must read it, as it does that of the package.
        std::fs::set_permissions(path, Permissions::from_mode(0o644))
            .map_err(|error| Error::io(format!("let all users read {}", path.display()), error))?;
        eprintln!("wrote {}: set `network`, `listen` and `role` in it", path.display());
    }
    let config = place.load()?;
    let identity = Identity::load_or_create(&config.identity())?;
    println!("identity = \"{}\"", identity.id().to_hex());
    Ok(())
}

fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
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
  mizzle-relay doctor --config relay.toml
  mizzle-relay run --config relay.toml
  mizzle-relay status --config relay.toml

MIZZLE_LOG=warn makes it quieter; MIZZLE_RELAY_<KEY> sets any key of the configuration.";
/// The exit code of a relay that its network is too new for.
const OUTDATED: u8 = 3;
/// Threads for sockets; packets have threads of their own.
const WORKERS: usize = 2;
/// Threads for name look-ups.
const BLOCKING: usize = 40;
