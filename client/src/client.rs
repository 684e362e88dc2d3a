//! A running client.

use crate::answers::Answers;
use crate::country::{Apart, choice};
use crate::directory::Directory;
use crate::engine::{self, Command, Mailbox, Pong};
use crate::entries::{self, EntrySet};
use crate::hold::{Hold, Rest};
use crate::loop_times::{LoopTimes, MOST_LOOP_TIMES};
use crate::pace::Pacer;
use crate::slots::LinkCounters;
use crate::status::Status;
use crate::stream::{Pipe, Stream, reset_error};
use crate::supervisor::{Complaints, Phase, Supervisor, View};
use crate::{Error, ErrorKind, Result};
use mizzle_link::{Clock, NetworkFile, Upstream, Way, seeded_rng};
use mizzle_protocol::country::Country;
use mizzle_protocol::cover::Ring;
use mizzle_protocol::id::RelayId;
use mizzle_protocol::level::{Governor, Level, Levels};
use mizzle_protocol::sphinx::hash::Single;
use mizzle_protocol::stream::ResetReason;
use mizzle_protocol::wire::target::Target;
use std::fs::File;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// What a client needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which network, and whose word counts in it: see [`NetworkFile::load`].
    pub network: NetworkFile,
    /// A directory of this client's own, made if it is missing: its entries and the cached consensus.
    pub state: PathBuf,
    /// Source address of its connections; `None`: the system's choice.
    pub outbound: Option<IpAddr>,
    /// The proxy through which all its connections go, and without which none is made.
    pub upstream: Option<Upstream>,
    /// How much cover it pays for.
    pub level: Level,
    /// Stays at this step of its level; `None`: moves with its load, as the level allows.
    pub step: Option<u8>,
    /// Rests from the start, until [`Client::hold`] says otherwise.
    pub hold: Option<Hold>,
    /// Uses exits that declare this country, and no others; `None`: all exits.
    pub exit_country: Option<Country>,
    /// For researchers: of how many last loops the status tells the times, [`MOST_LOOP_TIMES`] at most. Zero: of none.
    pub loop_times: usize,
}

impl Config {
    /// A client of `network` with everything else as it is by default: `balanced`, and connections from where the
    /// system chooses.
    pub fn new(network: NetworkFile, state: impl Into<PathBuf>) -> Self {
        Self {
            network,
            state: state.into(),
            outbound: None,
            upstream: None,
            level: Level::default(),
            step: None,
            exit_country: None,
            hold: None,
            loop_times: 0,
        }
    }
}

/// A client of the mixnet. Clones share one client, which stops when the last of them is dropped.
#[derive(Clone, Debug)]
pub struct Client {
    exit_country: Option<Country>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    mailbox: Arc<Mailbox>,
    pacer: Arc<Pacer>,
    counters: Arc<LinkCounters>,
    view: watch::Receiver<View>,
    rest: Rest,
    supervisor: tokio::task::AbortHandle,
    /// True: the supervisor is to end.
    leave: watch::Sender<bool>,
    /// Held for as long as the client runs: two clients in one directory would undo each other's choices.
    _lock: File,
}

impl Client {
    /// Starts a client on the current tokio runtime and returns at once; see [`Self::ready`].
    ///
    /// Fails when the state directory cannot be used ([`ErrorKind::Storage`]) or another client uses it.
    pub async fn start(config: Config) -> Result<Self> {
        let clock = Clock::new();
        // Which of two ways is faster depends on the processor, and is found in less than a millisecond.
        Single::choose(|| clock.now());
        Self::start_by(clock, config).await
    }

    /// Starts a client by a clock of the caller's: for tests of what becomes of clocks.
    #[doc(hidden)]
    pub async fn start_by(clock: Clock, config: Config) -> Result<Self> {
        check_step(config.level, config.step)?;
        check_loop_times(config.loop_times)?;
        let lock = open_state(&config.state)?;
        let directory = Directory::open(&config.network, &config.state)?;
        let entries = EntrySet::load(&config.state.join(entries::FILE))?;
        let mailbox = Arc::new(Mailbox::new());
        let governor = Governor::new(config.level, config.step);
        let pacer = Arc::new(Pacer::new(governor.wanted()));
        let ring = Arc::new(Mutex::new(Ring::new(pacer.current().1)));
        let counters = Arc::new(LinkCounters::default());
        let engine = (Arc::clone(&pacer), Arc::clone(&mailbox), Arc::clone(&ring));
        let loop_times = LoopTimes::new(config.loop_times);
        engine::spawn(clock, seeded_rng()?, governor, engine.0, engine.1, engine.2, loop_times)?;
        let status = Status { network: config.network.name.clone(), ..Status::default() };
        let view = View { phase: Phase::Connecting("starting".into()), status };
        let (sender, view) = watch::channel(view);
        let (leave, leaving) = watch::channel(false);
        let rest = Rest::new(config.hold);
        let supervisor = Supervisor {
            network: config.network,
            folder: config.state,
            way: Way { source: config.outbound, upstream: config.upstream },
            answers: Answers::default(),
            directory,
            entries,
            clock,
            rng: seeded_rng()?,
            mailbox: Arc::clone(&mailbox),
            ring,
            pacer: Arc::clone(&pacer),
            counters: Arc::clone(&counters),
            view: sender,
            refresh_at: clock.now(),
            exits_at: clock.now(),
            complaints: Mutex::new(Complaints::default()),
            leaving,
            hold: rest.subscribe(),
        };
        let supervisor = tokio::spawn(supervisor.run()).abort_handle();
        Ok(Self {
            exit_country: config.exit_country,
            shared: Arc::new(Shared { mailbox, pacer, counters, view, rest, supervisor, leave, _lock: lock }),
        })
    }

    /// Waits until streams can be opened. Fails with [`ErrorKind::NoNetwork`], saying why, as soon as that
    /// is known not to come by itself; and with [`ErrorKind::Outdated`] if it needs another version.
    pub async fn ready(&self) -> Result<()> {
        self.shared.rest.used();
        let mut view = self.shared.view.clone();
        let view = view
            .wait_for(|view| !matches!(view.phase, Phase::Connecting(_)))
            .await
            .map_err(|_| Error::new(ErrorKind::Other, "the client has stopped"))?;
        match &view.phase {
            Phase::Refusing(reason) => Err(Error::new(ErrorKind::NoNetwork, reason.clone())),
            Phase::Outdated(reason) => Err(Error::new(ErrorKind::Outdated, reason.clone())),
            _ => Ok(()),
        }
    }

    /// Waits until streams can be opened, however long it takes.
    pub async fn connected(&self) -> Result<()> {
        let mut view = self.shared.view.clone();
        let connected = view.wait_for(|view| view.phase == Phase::Connected).await;
        connected.map(drop).map_err(|_| stopped())
    }

    /// Waits until the network demands of its members what this version does not speak; what that is. A client that has a
    /// document of before uses it until it ends. (spec: DOC-8)
    pub async fn outdated(&self) -> Error {
        let mut view = self.shared.view.clone();
        match view.wait_for(|view| matches!(view.phase, Phase::Outdated(_))).await.as_deref() {
            Ok(View { phase: Phase::Outdated(reason), .. }) => {
                Error::new(ErrorKind::Outdated, reason.clone())
            }
            _ => stopped(),
        }
    }

    /// Opens a stream to `target` and returns when the exit has connected.
    ///
    /// Streams with equal `isolation` and equal host may share a session, and so an exit; others never do. Fails with the
    /// exit's reason, with [`ErrorKind::NoNetwork`] and why, or with [`ErrorKind::TimedOut`] after 30 s.
    pub async fn connect(&self, target: Target, isolation: &[u8]) -> Result<Stream> {
        self.connect_with(target, isolation, &[]).await
    }

    /// The same, and sends `first` along with the opening, which saves a round trip. Of more than
    /// [`FIRST_BYTES`], nothing is sent: [`ErrorKind::Exhausted`].
    pub async fn connect_with(&self, target: Target, isolation: &[u8], first: &[u8]) -> Result<Stream> {
        if first.len() > FIRST_BYTES {
            return Err(Error::new(ErrorKind::Exhausted, "too much to send along with the opening"));
        }
        let opening = async {
            self.ready().await?;
            open_stream(&self.shared.mailbox, self.apart(isolation), target, first).await
        };
        self.within(CONNECT_TIME, opening).await
    }

    /// The same client, whose streams, datagrams and look-ups go through exits that declare `country`, and through no
    /// others. Where there is none, all fail with [`ErrorKind::NoSuchExit`], which names the countries that there are.
    ///
    /// Declared is not proven, and fewer exits hide less: see [`Status::exit_choice`].
    pub fn with_exit_country(&self, country: Country) -> Self {
        Self { exit_country: Some(country), shared: Arc::clone(&self.shared) }
    }

    /// What keeps this client's streams from others.
    pub(crate) fn apart(&self, token: &[u8]) -> Apart {
        Apart { token: token.to_vec(), exit_country: self.exit_country }
    }

    /// What comes of it within `time`; else what stands in the way.
    pub(crate) async fn within<T>(&self, time: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(time, work).await {
            Ok(result) => result,
            Err(_) => Err(self.why_not().unwrap_or_else(|| reset_error(ResetReason::TimedOut))),
        }
    }

    /// Sends one ping to `exit`, or to a random one, and waits up to 10 s for the answer.
    pub async fn ping(&self, exit: Option<RelayId>) -> Result<Pong> {
        let asked = async {
            self.ready().await?;
            let (answer, pong) = oneshot::channel();
            self.ask(Command::Ping { exit, answer })?;
            pong.await.unwrap_or_else(|_| Err(stopped()))
        };
        match tokio::time::timeout(PING_TIME, asked).await {
            Ok(result) => result,
            Err(_) => {
                Err(self.why_not().unwrap_or_else(|| Error::new(ErrorKind::TimedOut, "no pong in time")))
            }
        }
    }

    /// Ends the client in order, and tells its last status: what the slots have taken goes out, what the entry
    /// has sent comes in, so that every packet on the link is counted at both ends. Streams are reset.
    pub async fn stop(&self) -> Result<Status> {
        self.shared.leave.send_replace(true);
        let mut view = self.shared.view.clone();
        // Ends when the supervisor does. If that takes longer, it is aborted together with the client.
        let _ = tokio::time::timeout(STOP_TIME, view.wait_for(|_| false)).await;
        self.status().await
    }

    /// Changes the level from now on; with a step: stays at that one.
    ///
    /// Streams go on. Fails with [`ErrorKind::Configuration`] if the level has no such step.
    pub fn set_level(&self, level: Level, step: Option<u8>) -> Result<()> {
        check_step(level, step)?;
        self.ask(Command::Level(level, step))
    }

    /// Rests from now on, for this reason: ends the link in order and refuses streams. `None`: works again.
    pub fn hold(&self, hold: Option<Hold>) {
        self.shared.rest.set(hold);
    }

    /// How often somebody has asked for a stream, a look-up, an exchange of datagrams or a ping.
    pub fn uses(&self) -> u64 {
        self.shared.rest.uses()
    }

    /// New streams take new sessions, whatever their isolation: nothing links what comes to what was. Streams that
    /// are open go on.
    pub async fn new_identity(&self) -> Result<()> {
        self.ask(Command::NewIdentity)
    }

    /// Where the client stands.
    pub async fn status(&self) -> Result<Status> {
        let (answer, engine) = oneshot::channel();
        self.ask(Command::Status(answer))?;
        let engine = engine.await.map_err(|_| stopped())?;
        let View { phase, mut status } = self.shared.view.borrow().clone();
        (status.connected, status.reason) = match phase {
            Phase::Connected => (true, None),
            Phase::Connecting(reason) | Phase::Refusing(reason) | Phase::Outdated(reason) => {
                (false, Some(reason))
            }
        };
        engine.add_to(&mut status);
        status.exit_choice = self.exit_country.map(|country| choice(country, &status.exits));
        self.shared.pacer.add_to(&mut status);
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shared.counters;
        status.cells_out = count(&counters.cells_out);
        status.cells_in = count(&counters.cells_in);
        let record = self.shared.pacer.record_size() as u64;
        status.bytes_out = status.cells_out * record;
        status.bytes_in = status.cells_in * record;
        status.packets_out = count(&counters.packets_out);
        status.packets_in = count(&counters.packets_in);
        status.slots_empty = count(&counters.slots_empty);
        status.slots_stalled = count(&counters.slots_stalled);
        status.connections = count(&counters.connections);
        Ok(status)
    }

    pub(crate) fn ask(&self, command: Command) -> Result<()> {
        ask(&self.shared.mailbox, command)
    }

    pub(crate) fn mailbox(&self) -> Arc<Mailbox> {
        Arc::clone(&self.shared.mailbox)
    }

    /// What stands in the way, if not the other side.
    pub(crate) fn why_not(&self) -> Option<Error> {
        match &self.shared.view.borrow().phase {
            Phase::Connected => None,
            Phase::Connecting(reason) | Phase::Refusing(reason) => {
                Some(Error::new(ErrorKind::NoNetwork, reason.clone()))
            }
            Phase::Outdated(reason) => Some(Error::new(ErrorKind::Outdated, reason.clone())),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.supervisor.abort();
        self.mailbox.stop();
    }
}

/// Makes the state directory, and takes it for this client.
fn open_state(folder: &std::path::Path) -> Result<File> {
    let failed = |error: std::io::Error| {
        Error::new(
            ErrorKind::Storage,
            format!(
                "cannot use the state directory {} ({error}): name another with `state`",
                folder.display()
            ),
        )
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    let lock = File::create(folder.join(LOCK_FILE)).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::new(
            ErrorKind::Storage,
            format!("another client runs in {}: stop it, or name another state directory", folder.display()),
        )),
        Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// By the table that networks have unless they say otherwise; a network with fewer steps gives its fastest.
fn check_step(level: Level, step: Option<u8>) -> Result<()> {
    let steps = Levels::default().steps(level).len();
    match step {
        Some(step) if usize::from(step) >= steps => Err(Error::new(
            ErrorKind::Configuration,
            format!("the level `{}` has the steps 0 to {}, and no step {step}", level.name(), steps - 1),
        )),
        _ => Ok(()),
    }
}

fn check_loop_times(count: usize) -> Result<()> {
    match count {
        ..=MOST_LOOP_TIMES => Ok(()),
        _ => Err(Error::new(
            ErrorKind::Configuration,
            format!("the times of {count} loops are too many to keep: {MOST_LOOP_TIMES} at most"),
        )),
    }
}

/// Opens a stream, with its first bytes, and returns when the exit has connected.
pub(crate) async fn open_stream(
    mailbox: &Arc<Mailbox>,
    isolation: Apart,
    target: Target,
    first: &[u8],
) -> Result<Stream> {
    let pipe = Arc::new(Pipe::default());
    pipe.lock().outgoing.extend(first);
    // From here on, giving up (a time-out, a dropped future) resets the stream.
    let stream = Stream::new(Arc::clone(&pipe), Arc::clone(mailbox));
    let (opened, answer) = oneshot::channel();
    ask(mailbox, Command::Open { isolation, target, pipe, opened })?;
    answer.await.unwrap_or_else(|_| Err(stopped()))?;
    Ok(stream)
}

/// Asks the engine for something.
pub(crate) fn ask(mailbox: &Mailbox, command: Command) -> Result<()> {
    mailbox
        .command(command)
        .map_err(|_| Error::new(ErrorKind::Exhausted, "the client is too busy; try again in a moment"))
}

pub(crate) fn stopped() -> Error {
    Error::new(ErrorKind::Other, "the client has stopped")
}

/// Most that [`Client::connect_with`] takes.
pub const FIRST_BYTES: usize = 64 * 1024;
const LOCK_FILE: &str = "lock";
const CONNECT_TIME: Duration = Duration::from_secs(30);
const PING_TIME: Duration = Duration::from_secs(10);
const STOP_TIME: Duration = Duration::from_secs(8);
