//! `mizzle`: the proxy of the Mizzle mixnet.

mod associate;
mod bounded;
#[cfg_attr(not(target_os = "linux"), path = "browse_elsewhere.rs")]
mod browse;
mod budget;
mod config;
mod control;
mod dns;
mod doctor;
mod door;
#[cfg(test)]
mod fake;
mod forward;
mod hiding;
mod isolation;
mod listener;
mod network;
mod new_identity;
mod page;
mod ping;
mod proxy;
mod refusals;
#[cfg_attr(not(target_os = "linux"), path = "run_elsewhere.rs")]
mod run;
mod service;
mod socks;
mod status_page;
mod system;
mod traffic;
mod upstream;
mod watch;

use associate::Associations;
use budget::Budget;
use clap::{Parser, Subcommand};
use config::{Flags, Settings, UpFlags};
use control::{Answer, ControlClient, ControlSocket, Daemon, DaemonStatus, Request};
use isolation::Generation;
use listener::{Address, Listener};
use mizzle_client::{Client, Config, NetworkFile, Status, Target};
use mizzle_link::Clock;
use mizzle_protocol::level::Level;
use proxy::Port;
use status_page::Site;
use std::error::Error;
use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use system::Ending;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use traffic::Traffic;

/// Carries applications' connections through the Mizzle mixnet.
///
/// Example: `mizzle up --network network.toml`, then
/// `curl --socks5-hostname 127.0.0.1:9150 http://example.com/`
#[derive(Debug, Parser)]
#[command(name = "mizzle", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run in the foreground; prints `ready` when it can carry connections
    ///
    /// Example: mizzle up --network network.toml --socks 127.0.0.1:9150
    Up {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        up: UpFlags,
    },
    /// Show where the running client stands; fails when it is not connected
    ///
    /// Example: mizzle status --json
    Status {
        #[command(flatten)]
        flags: Flags,
        /// One line of JSON for programs
        #[arg(long)]
        json: bool,
    },
    /// Change the level of the running client; its streams go on
    ///
    /// The configuration still says what the next `mizzle up` begins with.
    ///
    /// Example: mizzle level fast
    Level {
        #[command(flatten)]
        flags: Flags,
        /// strong, balanced or fast: see `mizzle up --help`
        #[arg(value_parser = config::level)]
        level: Level,
        /// Stay at this step of the level, counted from 0
        #[arg(long, value_name = "N")]
        step: Option<u8>,
    },
    /// Stop the running client in order: what it has sent arrives
    ///
    /// Example: mizzle down
    #[command(alias = "stop")]
    Down {
        #[command(flatten)]
        flags: Flags,
        /// Print its last status as one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Let nothing from now on be linked to what came before: new streams get new sessions, each with an exit drawn anew
    ///
    /// Streams that are open stay as they are. Example: mizzle new-identity
    NewIdentity {
        #[command(flatten)]
        flags: Flags,
    },
    /// Look for what keeps this client from working, and say what to do; fails if anything fails
    ///
    /// Example: mizzle doctor --json. It connects to this client and to relays of its network only.
    Doctor {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        up: UpFlags,
        /// The findings as JSON for programs
        #[arg(long)]
        json: bool,
    },
    /// Lead connections to a port of this computer through the network to one target
    ///
    /// Example: `mizzle forward 8022 host.example:22`, then `ssh -p 8022 127.0.0.1`. Each connection is a stream of
    /// its own; all of one `forward` share a session, and share it with nothing else.
    Forward {
        #[command(flatten)]
        flags: Flags,
        /// Where programs connect: PORT, ADDRESS:PORT or unix:/path/socket; with PORT alone, only from this computer
        #[arg(value_name = "LOCAL", value_parser = forward::local)]
        local: Address,
        /// Where the exit connects: a name or an address, and a port
        #[arg(value_name = "HOST:PORT", value_parser = forward::target)]
        target: Target,
        /// Most connections at once; more wait
        #[arg(long, default_value = "64", value_name = "N")]
        connections: NonZeroUsize,
    },
    /// Print the address that opens the running client's status page, once
    ///
    /// Example: mizzle page --open. The address holds a token: whoever has it first sees the page, and may change the
    /// level. Each call gives a new one as soon as the last was used.
    Page {
        #[command(flatten)]
        flags: Flags,
        /// Open it in the browser of this desktop
        #[arg(long)]
        open: bool,
    },
    /// Run a program whose only way out is the network, whether it knows proxies or not
    ///
    /// Example: `mizzle run -- curl https://host.example/`. The program gets a network of its own with nothing in it
    /// but this client's port, and the variables by which programs find a proxy. What ignores them reaches nothing,
    /// nor resolves a name. Linux only. Exit code: the program's; 125 if it could not be started so, 126 and 127 as
    /// by a shell.
    Run {
        #[command(flatten)]
        flags: Flags,
        /// The program and its arguments
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Open a browser whose only way out is the network, with a profile that is deleted when it ends
    ///
    /// Example: mizzle browse https://host.example/. Names, WebRTC, QUIC and all that browsers fetch by themselves are
    /// shut or go through the network. It is no Tor Browser: pages can still tell it from other browsers.
    Browse {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        browse: browse::BrowseFlags,
    },
    /// The part of `run` that is already inside
    #[command(hide = true)]
    RunInside {
        #[command(flatten)]
        inside: run::Inside,
    },
    /// Measure the way through the network
    ///
    /// Example: mizzle ping --count 100 --csv pings.csv
    Ping {
        #[command(flatten)]
        flags: Flags,
        /// How many
        #[arg(long, default_value_t = 10, value_name = "N")]
        count: u32,
        /// Only this exit, by its identity in hexadecimal
        #[arg(long, value_name = "ID")]
        exit: Option<String>,
        /// Also write each ping's times to this file
        #[arg(long, value_name = "FILE")]
        csv: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log_to_stderr();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(arguments.command)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            // If standard error is gone, too, nobody is left to tell.
            let _ = writeln!(std::io::stderr(), "mizzle: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Up { flags, up } => return run_client(Settings::merge(&flags, &up)?).await,
        Command::Status { flags, json } => return status(&flags, json).await,
        Command::Level { flags, level, step } => {
            let request = Request::Level { level: level.name().into(), step };
            match tell(&flags, &request).await? {
                Some(Answer::Done { .. }) => say(&format!("level {}\n", level.name())),
                Some(Answer::Error { error }) => return Err(error.into()),
                _ => return Err("the running client gave no answer".into()),
            }
        }
        Command::Down { flags, json } => stop(&flags, json).await?,
        Command::NewIdentity { flags } => new_identity::run(&mut reach(&flags).await?).await?,
        Command::Doctor { flags, up, json } => {
            let report = doctor::examine(&flags, &up).await;
            say(&if json { report.json() } else { report.table() });
            return Ok(report.code());
        }
        Command::Forward { flags, local, target, connections } => {
            forward::run(&flags, &local, target, connections).await?;
        }
        Command::Page { flags, open } => {
            let state = Settings::merge(&flags, &UpFlags::default())?.state;
            let status = ask(&flags, &Request::Status).await?;
            status_page::command(&state, status.page, open).await?;
        }
        Command::Run { flags, command } => return Ok(run::run(&flags, &command).await),
        Command::Browse { flags, browse } => return browse::run(&flags, &browse).await,
        Command::RunInside { inside } => return Ok(run::enter(&inside)),
        Command::Ping { flags, count, exit, csv } => {
            let mut control = reach(&flags).await?;
            ping::run(&mut control, count, exit, csv.as_deref()).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn run_client(settings: Settings) -> Result<ExitCode, Box<dyn Error>> {
    let mut ending = Ending::watch()?;
    let path =
        settings.network.ok_or("no network file: name one with --network FILE or the key `network`")?;
    let network = NetworkFile::load(&path)?;
    if network.open_exits {
        tracing::info!("this is a local network for tests: it hides nothing from this machine");
    }
    let mut listeners = Vec::new();
    for address in &settings.socks {
        if matches!(address, Address::Tcp(address) if !address.ip().is_loopback()) {
            tracing::warn!(
                "the proxy port is open to other machines (key `socks`): anybody there can use it"
            );
        }
        listeners.push(Listener::open(address).await.map_err(|error| no_port(address, &error))?);
    }
    let (page, page_listener) = status_page::listen(settings.budget.page).await?;
    let mut clock = Clock::new();
    let mut budget = Budget::open(&settings.budget, &settings.state, clock.now())?;
    if budget.minds_meters() {
        budget.set_metered(budget::ask_metered().await);
    }
    let config = Config {
        hold: budget.look(clock.now(), &Status::default(), 0),
        outbound: settings.outbound,
        upstream: settings.upstream,
        level: settings.level,
        step: settings.step,
        exit_country: settings.exit_country,
        loop_times: settings.loop_times,
        ..Config::new(network, &settings.state)
    };
    let dns = open_dns(settings.dns).await?;
    let client = Client::start(config).await?;
    let socket = ControlSocket::open(&settings.state)
        .map_err(|error| format!("cannot open the control socket in the state directory: {error}"))?;
    let (associations, questions) = (Arc::<Associations>::default(), Arc::<dns::Counts>::default());
    let generation = Generation::default();
    let places = Arc::new(Semaphore::new(settings.connections.min(Semaphore::MAX_PERMITS)));
    let mut ports = JoinSet::new();
    let mut carrying = Vec::new();
    for (number, listener) in (0..).zip(listeners) {
        let traffic = Arc::<Traffic>::default();
        carrying.push((listener.address()?, Arc::clone(&traffic)));
        let port = Port {
            network: client.clone(),
            places: Arc::clone(&places),
            traffic,
            associations: Arc::clone(&associations),
            questions: Arc::clone(&questions),
            generation: generation.clone(),
            number,
        };
        ports.spawn(proxy::serve(listener, port));
    }
    let dns_address = dns.as_ref().map(dns::Port::address).transpose()?;
    if let Some(port) = dns {
        // One more listener, apart from the others.
        let listener = u16::try_from(carrying.len()).unwrap_or(u16::MAX);
        let answers = dns::ByExit {
            network: client.clone(),
            generation: generation.clone(),
            listener,
            token: Vec::new(),
        };
        let service = dns::Service::new(answers, Arc::clone(&questions));
        ports.spawn(async move { service.serve(&port).await });
    }
    let daemon = Arc::new(Daemon {
        client: client.clone(),
        control: Default::default(),
        generation,
        listeners: carrying,
        associations,
        dns: dns_address,
        questions,
        stopped: Notify::new(),
        budget: Mutex::new(budget),
        history: Default::default(),
        page,
        page_refusals: Default::default(),
    });
    let site = page.map(|address| Site::open(address, &settings.state, Arc::clone(&daemon))).transpose()?;
    let announce = async {
        match client.connected().await {
            Ok(()) => say("ready\n"),
            Err(error) => tracing::warn!("{error}"),
        }
        std::future::pending::<()>().await;
    };
    let mut code = ExitCode::SUCCESS;
    tokio::select! {
        _ = ports.join_next() => {}
        // Tried again it would be no better. (spec: DOC-8)
        error = client.outdated() => {
            let _ = writeln!(std::io::stderr(), "mizzle: {error}");
            code = ExitCode::from(OUTDATED);
        }
        () = socket.serve(Arc::clone(&daemon)) => {}
        () = daemon.stopped.notified() => {}
        () = announce => {}
        () = watch::watch(&daemon, &mut clock) => {}
        () = status_page::serve(page_listener, site) => {}
        () = ending.asked() => {}
    }
    daemon.budget.lock().unwrap_or_else(PoisonError::into_inner).save();
    Ok(code)
}

/// Prints the status; the exit code tells scripts whether the client is connected.
async fn status(flags: &Flags, json: bool) -> Result<ExitCode, Box<dyn Error>> {
    let status = ask(flags, &Request::Status).await?;
    if json {
        say(&(serde_json::to_string(&status)? + "\n"));
    } else {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        say(&page::page(&status, now.as_secs()));
    }
    Ok(if status.client.connected { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn stop(flags: &Flags, json: bool) -> Result<(), Box<dyn Error>> {
    let status = ask(flags, &Request::Stop).await?;
    match json {
        true => say(&(serde_json::to_string(&status)? + "\n")),
        false => say("stopped\n"),
    }
    Ok(())
}

async fn ask(flags: &Flags, request: &Request) -> Result<Box<DaemonStatus>, Box<dyn Error>> {
    match tell(flags, request).await? {
        Some(Answer::Status(status)) => Ok(status),
        Some(Answer::Error { error }) => Err(error.into()),
        _ => Err("the running client gave no status".into()),
    }
}

async fn tell(flags: &Flags, request: &Request) -> Result<Option<Answer>, Box<dyn Error>> {
    Ok(reach(flags).await?.ask(request).await?)
}

/// The port for DNS, if there is to be one.
async fn open_dns(address: Option<SocketAddr>) -> Result<Option<dns::Port>, Box<dyn Error>> {
    let Some(address) = address else { return Ok(None) };
    if !address.ip().is_loopback() {
        tracing::warn!("the port for DNS is open to other machines (key `dns`): anybody there can ask it");
    }
    let opened = dns::Port::open(address).await.map_err(|error| {
        let why = why_closed(&error);
        format!("cannot open the port for DNS at {address}: {why}, or choose another address with --dns")
    });
    Ok(Some(opened?))
}

/// Why the proxy port cannot be opened, and what to do.
fn no_port(address: &Address, error: &std::io::Error) -> String {
    let why = why_closed(error);
    format!("cannot open the proxy port at {address}: {why}, or choose another address with --socks")
}

fn why_closed(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => "another program listens there, perhaps another client: stop that".to_owned(),
        ErrorKind::AddrNotAvailable => "this computer has no such address".to_owned(),
        ErrorKind::PermissionDenied => "that takes more rights than this user has".to_owned(),
        _ => error.to_string(),
    }
}

async fn reach(flags: &Flags) -> Result<ControlClient, Box<dyn Error>> {
    let state = Settings::merge(flags, &UpFlags::default())?.state;
    ControlClient::connect(&state).await.map_err(|error| match error.kind() {
        ErrorKind::TimedOut => error.into(),
        _ => format!(
            "no client runs with the state directory {} ({error}): start one with `mizzle up`",
            state.display()
        )
        .into(),
    })
}

/// Prints, without failing when nobody reads.
fn say(text: &str) {
    let mut output = std::io::stdout();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MIZZLE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// The exit code of a client that its network is too new for.
const OUTDATED: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn down_is_also_known_by_its_old_name() {
        for name in ["down", "stop"] {
            let arguments = Arguments::try_parse_from(["mizzle", name, "--json"]).unwrap();
            assert!(matches!(arguments.command, Command::Down { json: true, .. }), "{name}");
        }
        assert!(Arguments::try_parse_from(["mizzle", "halt"]).is_err());
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_explained() {
        let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(other.local_addr().unwrap());
        let error = no_port(&address, &Listener::open(&address).await.unwrap_err());
        assert!(error.contains(&address.to_string()) && error.contains("another client"), "{error}");
        assert!(error.contains("--socks"), "{error}");
        let error = open_dns(other.local_addr().ok()).await.unwrap_err().to_string();
        assert!(error.contains("port for DNS") && error.contains("--dns"), "{error}");
    }
}
