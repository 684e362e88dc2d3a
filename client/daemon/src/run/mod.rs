//! `mizzle run`: a program in a network of its own, whose only way out is the running client. (spec: DAILY-4)
//!
//! ```text
//! mizzle run ── unshare ▸ mizzle run-inside ▸ unshare ▸ the program      one process from here, by exec
//!     │                        │                            │
//!     │◂── the ports ──────────┘                            │ connects to 127.0.0.1:9150,
//!     │                                                     │ asks 127.0.0.1:53 for names
//!     └── accepts in the program's network, connects outside to the client
//! ```
//!
//! The ports are opened inside and handed out through a Unix socket; so the program needs no helper beside it,
//! its exit code and its signals are its own, and when `mizzle run` dies nothing is left that leads outside.

mod hand_over;
mod inside;
mod introduction;
mod names;
mod no_datagrams;
mod obstacle;

pub(crate) use inside::{Inside, PORT, enter};
pub(crate) use obstacle::obstacle;

use crate::config::{Flags, Settings, UpFlags};
use crate::dns::{self, Answers, Question};
use crate::door::Door;
use crate::listener::{Application, Listener};
use crate::service;
use hand_over::{Anteroom, Ports};
use rustix::process::{Pid, Signal, kill_process};
use std::error::Error;
use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};

/// What runs inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guest {
    /// A program that says the user and password in its variables.
    Program,
    /// A browser: it knows no password for SOCKS, so that it is introduced; and it refuses to be root.
    Browser,
}

/// Runs the program to its end. The exit code is the program's, or 128 and the number of the signal that ended it.
pub(crate) async fn run(flags: &Flags, command: &[OsString]) -> ExitCode {
    run_guest(flags, command, Guest::Program).await.unwrap_or_else(|error| {
        // If standard error is gone, too, nobody is left to tell.
        let _ = writeln!(std::io::stderr(), "mizzle: {error}");
        ExitCode::from(NOT_STARTED)
    })
}

/// The same for a guest of either kind.
pub(crate) async fn run_guest(
    flags: &Flags,
    command: &[OsString],
    guest: Guest,
) -> Result<ExitCode, Box<dyn Error>> {
    // From here on no signal ends this process before the program.
    let mut signals = signals()?;
    let door = Door::find(flags).await?;
    let anteroom = Anteroom::open(&Settings::merge(flags, &UpFlags::default())?.state)?;
    let mut program = start(&anteroom, &door, command, guest)?;
    let mut receive = Box::pin(anteroom.receive());
    let (ports, over) = tokio::select! {
        ports = &mut receive => (ports?, None),
        status = end(&mut program, &mut signals) => {
            let status = status?;
            // A short program may be over before its ports are taken: they are on their way since before it began.
            match tokio::time::timeout(HAND_OVER, &mut receive).await {
                Ok(ports) => (ports?, Some(status)),
                Err(_) => return not_started(status),
            }
        }
    };
    drop(receive);
    let Ports { proxy, questions, long_questions } = ports;
    drop(anteroom);
    let listener = Listener::Tcp(proxy);
    let door = Arc::new(door);
    let names = dns::Service::new(ByDoor(Arc::clone(&door)), Arc::default());
    let resolver = dns::Port { datagrams: questions, streams: long_questions };
    let places = Arc::new(Semaphore::new(PLACES));
    let serve =
        service::serve(&listener, &places, |application| carry(application, Arc::clone(&door), guest));
    let ended = async {
        let status = match over {
            Some(status) => Ok(status),
            None => end(&mut program, &mut signals).await,
        };
        // What the program has said last is still under way. One place waits for a next connection.
        let _ = tokio::time::timeout(LAST_WORDS, places.acquire_many(PLACES as u32 - 1)).await;
        status
    };
    tokio::select! {
        biased;
        () = serve => Err("the program's port has ended".into()),
        () = names.serve(&resolver) => Err("the program's resolver has ended".into()),
        status = ended => Ok(ExitCode::from(code(status?))),
    }
}

/// Starts what becomes the program.
fn start(
    anteroom: &Anteroom,
    door: &Door,
    command: &[OsString],
    guest: Guest,
) -> Result<Child, Box<dyn Error>> {
    let outside = std::fs::read_link(inside::OWN_NETWORK)
        .map_err(|_| "`mizzle run` needs Linux and its /proc: elsewhere, set the program's proxy by hand")?;
    let own =
        std::env::current_exe().map_err(|error| format!("cannot find my own program file ({error})"))?;
    let mut start = Command::new("unshare");
    start.args(["--user", "--map-root-user", "--net", "--mount", "--"]).arg(own).arg("run-inside");
    start.arg("--anteroom").arg(anteroom.folder()).arg("--outside").arg(outside);
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let (user, group) = if guest == Guest::Browser && own.0 == 0 { NOT_ROOT } else { own };
    start.arg("--user").arg(user.to_string()).arg("--group").arg(group.to_string());
    start.arg("--").args(command).envs(environment(door));
    start.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => "`mizzle run` needs the program `unshare`, which is not installed: \
                                it is in the package util-linux"
            .into(),
        _ => format!("cannot start `unshare` ({error})").into(),
    })
}

/// The variables by which programs find a proxy. The port inside speaks SOCKS5 and HTTP. (spec: DAILY-5)
fn environment(door: &Door) -> Vec<(&'static str, String)> {
    let Door { user, password, .. } = door;
    let port = inside::PORT;
    let socks = format!("socks5h://{user}:{password}@127.0.0.1:{port}");
    let http = format!("http://{user}:{password}@127.0.0.1:{port}");
    let mut variables = Vec::new();
    for (names, value) in [
        (["ALL_PROXY", "all_proxy"], &socks),
        (["HTTP_PROXY", "http_proxy"], &http),
        (["HTTPS_PROXY", "https_proxy"], &http),
        // Nothing is reached without: exceptions would only be failures.
        (["NO_PROXY", "no_proxy"], &String::new()),
        // Services of this computer act outside, for whoever asks them.
        (["DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS"], &"disabled:".to_owned()),
    ] {
        variables.extend(names.map(|name| (name, value.clone())));
    }
    variables
}

/// Waits for the program's end, and passes on the signals that come meanwhile. (spec: DAILY-6)
pub(crate) async fn end(
    program: &mut Child,
    signals: &mut mpsc::Receiver<Signal>,
) -> std::io::Result<ExitStatus> {
    loop {
        let pid = program.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        tokio::select! {
            status = program.wait() => return status,
            Some(signal) = signals.recv() => if let Some(pid) = pid {
                // One that has ended meanwhile needs no signal.
                let _ = kill_process(pid, signal);
            }
        }
    }
}

/// The signals that ask a program for something; what comes from here is to be passed on.
pub(crate) fn signals() -> std::io::Result<mpsc::Receiver<Signal>> {
    let (sender, receiver) = mpsc::channel(16);
    // A terminal sends these to every program in its foreground: the program has them already.
    let by_terminal = std::fs::File::open("/dev/tty").is_ok();
    for (kind, passed, from_keys) in [
        (SignalKind::interrupt(), Signal::INT, true),
        (SignalKind::quit(), Signal::QUIT, true),
        (SignalKind::terminate(), Signal::TERM, false),
        (SignalKind::hangup(), Signal::HUP, false),
        (SignalKind::user_defined1(), Signal::USR1, false),
        (SignalKind::user_defined2(), Signal::USR2, false),
    ] {
        let mut signal = signal(kind)?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                if !(from_keys && by_terminal) && sender.send(passed).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}

async fn carry(mut application: Application, door: Arc<Door>, guest: Guest) -> Result<(), String> {
    // Until the client has it, the only true end is a reset.
    application.reset_on_close().map_err(|error| error.to_string())?;
    let stream = match guest {
        Guest::Program => {
            let mut stream = door.open().await?;
            match no_datagrams::pass_request(&mut application, &mut stream).await {
                Ok(true) => stream,
                Ok(false) => return Ok(()),
                Err(error) => {
                    tracing::debug!("a connection was cut: {}", error.kind());
                    return Ok(());
                }
            }
        }
        Guest::Browser => door.introduce(&mut application).await?,
    };
    if let Err(error) = service::carry_bytes(application, stream).await {
        tracing::debug!("a connection was cut: {}", error.kind());
    }
    Ok(())
}

/// Answers the program's questions for names by the client, apart from everything else that it answers.
/// (spec: DAILY-8)
#[derive(Debug)]
struct ByDoor(Arc<Door>);

impl Answers for ByDoor {
    async fn answer(&self, question: &Question, _whole: bool) -> Option<Vec<u8>> {
        // What does not fit is cut here.
        self.0.ask(question.message()).await.ok()
    }
}

/// The process ended before it was the program.
fn not_started(status: ExitStatus) -> Result<ExitCode, Box<dyn Error>> {
    match code(status) {
        // It has said why.
        code @ (inside::NOT_RUNNABLE | inside::NOT_FOUND) => Ok(ExitCode::from(code)),
        code => Err(match obstacle() {
            Some(obstacle) => obstacle.into(),
            None if code == NOT_STARTED => return Ok(ExitCode::from(code)),
            None => "no network could be made for the program, so it was not started: \
                     user namespaces seem to be forbidden here, as they are in many containers"
                .into(),
        }),
    }
}

pub(crate) fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// What `env` and `timeout` say when they fail themselves.
const NOT_STARTED: u8 = 125;
/// How root is named to itself inside, where it has no more rights than others: user and group.
const NOT_ROOT: (u32, u32) = (1000, 1000);
const PLACES: usize = 512;
/// What has been handed over is there at once, on a busy computer a little later.
const HAND_OVER: Duration = Duration::from_millis(500);
const LAST_WORDS: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_the_proxy_variables_is_set_and_no_exception_is_left() {
        let door = Door::at("127.0.0.1:9".parse().unwrap()).unwrap();
        let variables = environment(&door);
        let value = |name: &str| variables.iter().find(|(key, _)| *key == name).unwrap().1.clone();
        let credentials = format!("{}:{}", door.user, door.password);
        for name in ["ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"] {
            let scheme = if name == "ALL_PROXY" { "socks5h" } else { "http" };
            assert_eq!(value(name), format!("{scheme}://{credentials}@127.0.0.1:9150"));
            assert_eq!(value(name), value(&name.to_lowercase()));
        }
        assert_eq!((value("NO_PROXY"), value("no_proxy")), (String::new(), String::new()));
    }

    #[test]
    fn codes_are_those_of_a_shell() {
        assert_eq!(code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(code(ExitStatus::from_raw(15)), 143);
    }
}
