//! Starts and stops local Mizzle networks of the real binaries: an authority, nine mixes, three entries,
//! three exits, a client, and a web server to fetch from.

mod boot;
mod check;
mod config;
mod error;
mod evidence;
mod measure;
mod names;
mod namespace;
mod origin;
mod plan;
mod process;
mod progress;
mod shape;

use clap::{Parser, Subcommand};
use error::{Error, Result};
use plan::{ORIGIN_NAME, Plan, Role};
use progress::{Progress, say};
use shape::Shape;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Local Mizzle networks of the real binaries.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start a network and say how to use it.
    Up(Up),
    /// Start a network, look what it does at rest, write that down, and stop everything: `mizzle-sim run --real` asks
    /// for it. Ends when whoever has started it does.
    Measure(Measure),
    /// Write all configurations and make all identities for hosts in Shadow, and start nothing: `mizzle-sim export
    /// shadow` asks for it.
    Prepare {
        /// Folder of the network; what an earlier one left there is removed.
        #[arg(long)]
        dir: PathBuf,
        /// Folder of the built binaries [default: this program's own].
        #[arg(long)]
        release_dir: Option<PathBuf>,
        /// File (TOML) that says how many of each there are, and how fast they are.
        #[arg(long, value_name = "FILE")]
        shape: PathBuf,
    },
    /// Stop everything that `up` started, also after a crash.
    Down(Where),
    /// Show each process of the network: running or not, its memory, its log.
    Status(Where),
    /// Run a command where a host of the network runs: in its network namespace, if it has one.
    Exec {
        #[command(flatten)]
        place: Where,
        /// Such as client, entry21, mix11, exit31, authority, origin.
        host: String,
        /// The command and its arguments, after `--`.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// The web server that a local network fetches from, and the resolver of its exits.
    Origin {
        /// Where to listen; datagrams to the same port are given back.
        #[arg(long)]
        listen: SocketAddr,
        /// Where to answer questions.
        #[arg(long)]
        names: Option<SocketAddr>,
        /// Peers that are answered; others get 403.
        #[arg(long, value_delimiter = ',', required = true)]
        allow: Vec<IpAddr>,
        /// File to write the peers into that were seen.
        #[arg(long)]
        seen: Option<PathBuf>,
    },
    /// Records this process, then becomes the command.
    #[command(name = process::RECORDED, hide = true)]
    Recorded {
        record: PathBuf,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

#[derive(clap::Args)]
struct Up {
    #[command(flatten)]
    place: Where,
    /// Folder of the built binaries [default: this program's own].
    #[arg(long)]
    release_dir: Option<PathBuf>,
    /// Fetch 10 MB through the network, compare, print what it took, and stop everything.
    #[arg(long)]
    check: bool,
    /// Give each host a network namespace of its own (addresses 10.N.K.1). Needs no root.
    #[arg(long)]
    namespaces: bool,
    /// Stay until Ctrl-C, then stop everything.
    #[arg(long)]
    foreground: bool,
    /// File (TOML) that says how many of each there are, and how fast they are: see docs/research.md.
    #[arg(long, value_name = "FILE")]
    shape: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Measure {
    #[command(flatten)]
    place: Where,
    /// Folder of the built binaries [default: this program's own].
    #[arg(long)]
    release_dir: Option<PathBuf>,
    /// File (TOML) that says how many of each there are, and how fast they are.
    #[arg(long, value_name = "FILE")]
    shape: PathBuf,
    /// Seconds until the network has come into its stride.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds)]
    warm: f64,
    /// Seconds for which it is looked at.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: f64,
    /// File to write what came out into, as JSON.
    #[arg(long, value_name = "FILE")]
    into: PathBuf,
}

#[derive(clap::Args)]
struct Where {
    /// Folder of the network [default: target/net/local; with --slot K, target/net/local-K].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Which of the networks that may run at the same time: addresses 127.N.K.1, SOCKS port 9150 + K.
    #[arg(long, default_value_t = 0)]
    slot: u8,
}

impl Where {
    /// The folder as an absolute path.
    fn dir(&self) -> Result<PathBuf> {
        let dir = self.dir.as_ref().map_or_else(|| default_dir(self.slot), |dir| caller().join(dir));
        std::path::absolute(&dir).map_err(Error::system(format!("no such folder: {}", dir.display())))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Verb::Up(up) => self::up(up).await,
        Verb::Measure(measure) => self::measure(measure).await,
        Verb::Prepare { dir, release_dir, shape } => prepare(&dir, release_dir.as_deref(), &shape),
        Verb::Down(place) => down(&place),
        Verb::Status(place) => status(&place),
        Verb::Exec { place, host, command } => exec(&place, &host, &command),
        Verb::Origin { listen, names, allow, seen } => origin::serve(listen, names, allow, seen).await,
        Verb::Recorded { record, command } => Err(process::record_and_become(&record, &command)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

async fn up(arguments: Up) -> Result<()> {
    let shape =
        arguments.shape.as_deref().map_or(Ok(Shape::default()), |path| Shape::load(&caller().join(path)))?;
    let plan = Plan::new(&arguments.place.dir()?, arguments.place.slot, arguments.namespaces, shape)?;
    let release = release(arguments.release_dir.as_deref())?;
    unless_interrupted(run(plan, release, &arguments)).await
}

async fn measure(arguments: Measure) -> Result<()> {
    // Nobody would be there to stop it.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
        .map_err(|error| Error::system("cannot ask to end with whoever has started this")(error.into()))?;
    let Measure { place, release_dir, shape, warm, seconds, into } = arguments;
    let plan = Plan::new(&place.dir()?, place.slot, false, Shape::load(&caller().join(shape))?)?;
    let release = release(release_dir.as_deref())?;
    let work = async {
        let progress = Progress::new();
        let mut network = boot::Network::up(plan, release, &progress).await?;
        let [warm, time] = [warm, seconds].map(Duration::from_secs_f64);
        let measured = measure::run(&mut network, warm, time, &progress).await?;
        progress.finish();
        network.stop()?;
        measure::save(&measured, &caller().join(into))
    };
    unless_interrupted(work).await
}

fn prepare(dir: &Path, release_dir: Option<&Path>, shape: &Path) -> Result<()> {
    let dir = std::path::absolute(caller().join(dir)).map_err(Error::system("no such folder"))?;
    let plan = Plan::for_shadow(&dir, Shape::load(&caller().join(shape))?)?;
    let progress = Progress::new();
    boot::Network::prepare(plan, release(release_dir)?, &progress)?;
    progress.finish();
    Ok(())
}

/// The work, or an error as soon as a signal comes: the network in it is then dropped, and so stopped.
async fn unless_interrupted(work: impl Future<Output = Result<()>>) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::system("cannot handle Ctrl-C"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::system("cannot handle SIGTERM"))?;
    tokio::select! {
        result = work => result,
        _ = interrupt.recv() => Err(Error::Interrupted),
        _ = terminate.recv() => Err(Error::Interrupted),
    }
}

/// The folder of the built programs.
fn release(named: Option<&Path>) -> Result<PathBuf> {
    match named {
        Some(dir) => std::path::absolute(dir).map_err(Error::system("no such folder")),
        None => std::env::current_exe()
            .map(|program| program.parent().map(Path::to_owned).unwrap_or_default())
            .map_err(Error::system("cannot find this program")),
    }
}

/// A time on the command line.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..1e6).contains(seconds));
    seconds.ok_or_else(|| "must be a number of seconds, not below 0".to_owned())
}

async fn run(plan: Plan, release: PathBuf, arguments: &Up) -> Result<()> {
    let progress = Progress::new();
    let mut network = boot::Network::up(plan, release, &progress).await?;
    let booted = progress.elapsed();
    progress.done("the network is up");
    if arguments.check {
        check::run(&mut network, booted, &progress).await?;
        network.stop()?;
        say("stopped      everything");
        return Ok(());
    }
    progress.finish();
    explain(&network.plan, booted, arguments.foreground)?;
    if !arguments.foreground {
        network.let_go();
        return Ok(());
    }
    loop {
        if let Some(error) = network.ended() {
            eprintln!("{error}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// How to use the network that has come up.
fn explain(plan: &Plan, booted: Duration, foreground: bool) -> Result<()> {
    let client = plan.only(Role::Client)?;
    let port = plan.only(Role::Origin)?.listen().port();
    let program = std::env::current_exe().map_err(Error::system("cannot find this program"))?;
    let program = shown(&program);
    let inside = match plan.namespaces {
        true => format!("{program} exec --dir {} client -- ", shown(&plan.dir)),
        false => String::new(),
    };
    let mizzle = shown(&Path::new(&program).with_file_name("mizzle"));
    say("");
    say(&format!("A mixnet runs on this machine: up in {:.1} s. Fetch through it:", booted.as_secs_f64()));
    say("");
    say(&format!("  {inside}curl --proxy socks5h://{} http://{ORIGIN_NAME}:{port}/", plan.socks));
    say("");
    say(&format!("client    {inside}{mizzle} status --config {}", shown(&client.config())));
    say(&format!("network   {program} status --dir {}", shown(&plan.dir)));
    say(&format!("logs      {}/NAME/log, for example {}", shown(&plan.dir), shown(&client.log())));
    if let Some(relay) = plan.of(Role::Mix).next()
        && let Some(metrics) = relay.metrics
    {
        let inside = inside.replace(" client ", &format!(" {} ", relay.name));
        say(&format!("metrics   {inside}curl http://{metrics}/metrics, one address a relay"));
    }
    let stop = if foreground { "Ctrl-C".to_owned() } else { stop_command(plan, &program) };
    say(&format!("stop      {stop}"));
    Ok(())
}

fn down(place: &Where) -> Result<()> {
    let dir = place.dir()?;
    match boot::down(&dir)? {
        0 => say(&format!("nothing ran in {}", shown(&dir))),
        count => say(&format!("stopped {count} processes; their logs are in {}", shown(&dir))),
    }
    Ok(())
}

fn status(place: &Where) -> Result<()> {
    let plan = Plan::load(&place.dir()?)?;
    let records: std::collections::HashMap<_, _> = process::records(&plan.dir).into_iter().collect();
    say(&format!("{:<10} {:<8} {:>8} {:>10}  log", "name", "state", "process", "memory"));
    for host in &plan.hosts {
        let record = records.get(&host.name).filter(|record| record.is_alive());
        let state = if record.is_some() { "running" } else { "stopped" };
        let pid = record.map_or_else(|| "-".to_owned(), |record| record.pid.to_string());
        let memory = record.and_then(process::Record::memory);
        let memory = memory.map_or_else(|| "-".to_owned(), |bytes| format!("{:.1} MB", bytes as f64 / 1e6));
        say(&format!("{:<10} {state:<8} {pid:>8} {memory:>10}  {}", host.name, shown(&host.log())));
    }
    Ok(())
}

fn exec(place: &Where, host: &str, command: &[OsString]) -> Result<()> {
    let plan = Plan::load(&place.dir()?)?;
    let error = namespace::command(&plan, plan.host(host)?, command)?.exec();
    Err(Error::system(format!("cannot run the command at {host}"))(error))
}

/// A path as one would type it here.
fn shown(path: &Path) -> String {
    path.strip_prefix(caller()).unwrap_or(path).display().to_string()
}

/// Where the person is: scripts/up goes to the root of the tree, and says from where it was called.
fn caller() -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    std::env::var_os("MIZZLE_CALLER").map_or(here, PathBuf::from)
}

/// Where the network of a slot is, below the root of the tree.
fn default_dir(slot: u8) -> PathBuf {
    PathBuf::from(match slot {
        0 => "target/net/local".to_owned(),
        slot => format!("target/net/local-{slot}"),
    })
}

/// What stops this network, as one would type it here.
fn stop_command(plan: &Plan, program: &str) -> String {
    let script = std::env::current_dir().unwrap_or_default().join("scripts/down");
    match (script.is_file(), plan.slot) {
        (true, 0) if plan.dir.ends_with(default_dir(0)) => shown(&script),
        (true, slot) if plan.dir.ends_with(default_dir(slot)) => format!("{} --slot {slot}", shown(&script)),
        _ => format!("{program} down --dir {}", shown(&plan.dir)),
    }
}

const EXAMPLES: &str = "Examples:
  mizzle-net up
  mizzle-net up --check --slot 1
  mizzle-net exec client -- curl --socks5-hostname 127.0.0.1:9150 http://hello.test:8080/1k
  mizzle-net down";
