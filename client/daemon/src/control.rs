//! The control socket: how other commands talk to the running daemon. One JSON object a line, both ways.
//!
//! ```text
//! {"command":"status"}                         one status object
//! {"command":"ping","count":N,"exit":"hex"?}   one object for each ping as it ends, then {"done":true}
//! {"command":"level","level":"fast","step":N?} {"done":true}: another level from now on
//! {"command":"new_identity"}                   {"done":true}; what connects from now on shares nothing with before
//! {"command":"stop"}                           the last status object; then the daemon ends
//! anything else                                {"error":"…"}
//! ```

use crate::associate::{Associated, Associations};
use crate::budget::{Budget, BudgetStatus};
use crate::config;
use crate::dns::{Asked, Counts};
use crate::hiding::{self, Hiding};
use crate::isolation::Generation;
use crate::listener::Address;
use crate::refusals::{Refusal, Refusals, Refused};
use crate::status_page::{History, PageRefusals, PageRefused, RecentLoops};
use crate::system::{ControlListener, ControlStream, connect_control};
use crate::traffic::{Listened, Traffic};
use mizzle_client::{Client, Pong, RelayId, Status};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

/// What a command asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Where does the client stand?
    Status,
    /// Another level from now on; with a step: stay at that one.
    Level {
        /// Its name.
        level: String,
        /// Counted from 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<u8>,
    },
    /// End in order.
    Stop,
    /// Keep what connects from now on apart from everything before.
    NewIdentity,
    /// Measure the way through the network.
    Ping {
        /// How often.
        count: u32,
        /// To this exit; without, a random one each time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit: Option<String>,
    },
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Answer {
    /// To a ping.
    Ping(PingTimes),
    /// After the last ping, and to a new identity.
    Done {
        /// Always true.
        done: bool,
    },
    /// It did not work; a lost ping, too.
    Error {
        /// Why, in a sentence.
        error: String,
    },
    /// To a status request, and to a stop.
    Status(Box<DaemonStatus>),
}

/// The client's status, and what the daemon's own ports have refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct DaemonStatus {
    #[serde(flatten)]
    pub(crate) client: Status,
    /// Loops of the last two minutes, once there are enough to judge by.
    #[serde(default)]
    pub(crate) recent_loops: Option<RecentLoops>,
    /// Connections to the SOCKS5 port that came to nothing, by reason.
    pub(crate) socks_refused: Refused,
    /// The same of the control socket.
    pub(crate) control_refused: Refused,
    /// Where applications connect, as in the configuration; a port 0 is the one that the system chose.
    #[serde(default)]
    pub(crate) listeners: Vec<String>,
    /// What each of them carries and has refused.
    #[serde(default)]
    pub(crate) listened: Vec<Listened>,
    /// Associations for datagrams.
    #[serde(default)]
    pub(crate) associated: Associated,
    /// Where programs ask for names.
    #[serde(default)]
    pub(crate) dns: Option<String>,
    /// Questions for names, of that port and of `mizzle run`.
    #[serde(default)]
    pub(crate) asked: Asked,
    /// How well its step hides.
    #[serde(default)]
    pub(crate) hiding: Vec<Hiding>,
    /// What the client may cost.
    #[serde(default)]
    pub(crate) budget: BudgetStatus,
    /// Where the status page is, if it is anywhere.
    #[serde(default)]
    pub(crate) page: Option<SocketAddr>,
    /// Requests to it that were refused.
    #[serde(default)]
    pub(crate) page_refused: PageRefused,
}

/// What the commands ask about, and act on.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) client: Client,
    pub(crate) control: Refusals,
    pub(crate) generation: Generation,
    /// Where applications connect, and what came of it.
    pub(crate) listeners: Vec<(Address, Arc<Traffic>)>,
    pub(crate) associations: Arc<Associations>,
    /// Where programs ask for names, if anywhere.
    pub(crate) dns: Option<std::net::SocketAddr>,
    pub(crate) questions: Arc<Counts>,
    /// Rung when a command has stopped the client.
    pub(crate) stopped: Notify,
    pub(crate) budget: Mutex<Budget>,
    pub(crate) history: Mutex<History>,
    pub(crate) page: Option<SocketAddr>,
    pub(crate) page_refusals: PageRefusals,
}

impl Daemon {
    /// The status now.
    pub(crate) async fn now(&self) -> Answer {
        self.status(self.client.status().await)
    }

    /// Another level from now on, by its name.
    pub(crate) fn set_level(&self, level: &str, step: Option<u8>) -> Result<(), String> {
        let level = config::level(level)?;
        self.client.set_level(level, step).map_err(|error| error.to_string())
    }

    /// What connects from now on shares nothing with what came before.
    pub(crate) async fn new_identity(&self) -> mizzle_client::Result<()> {
        self.generation.advance();
        self.client.new_identity().await
    }

    fn status(&self, client: mizzle_client::Result<Status>) -> Answer {
        let listened: Vec<Listened> =
            self.listeners.iter().map(|(address, traffic)| traffic.now(address.to_string())).collect();
        match client {
            Ok(client) => Answer::Status(Box::new(DaemonStatus {
                hiding: hiding::of(&client),
                client,
                recent_loops: self.history.lock().unwrap_or_else(PoisonError::into_inner).loops(),
                socks_refused: listened.iter().map(|listened| listened.refused).sum(),
                control_refused: self.control.now(),
                listeners: listened.iter().map(|listened| listened.address.clone()).collect(),
                listened,
                associated: self.associations.now(),
                dns: self.dns.map(|address| address.to_string()),
                asked: self.questions.now(),
                budget: self.budget.lock().unwrap_or_else(PoisonError::into_inner).status(),
                page: self.page,
                page_refused: self.page_refusals.now(),
            })),
            Err(error) => Answer::Error { error: error.to_string() },
        }
    }
}

/// One ping's way, in microseconds since the Unix epoch; `delays` is a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PingTimes {
    /// When it left.
    pub(crate) slot: u64,
    /// Sum of the delays that it asked for on its way out.
    pub(crate) delays: u64,
    /// When it reached the exit, by the exit's clock.
    pub(crate) arrival: u64,
    /// When its answer was home.
    pub(crate) home: u64,
}

impl From<Pong> for PingTimes {
    fn from(pong: Pong) -> Self {
        Self {
            slot: pong.slot.as_micros(),
            delays: u64::try_from(pong.delays.as_micros()).unwrap_or(u64::MAX),
            arrival: pong.arrival.as_micros(),
            home: pong.home.as_micros(),
        }
    }
}

impl PingTimes {
    /// What the network took beyond the delays that were asked for; negative if the clocks disagree.
    pub(crate) fn excess(&self) -> i64 {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        signed(self.arrival).saturating_sub(signed(self.slot)).saturating_sub(signed(self.delays))
    }
}

/// Where commands reach the daemon, until this is dropped.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    listener: ControlListener,
}

impl ControlSocket {
    /// Opens the socket in the state directory, which this process must hold: what lies there is left over.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        ControlListener::open(state).map(|listener| Self { listener })
    }

    /// Serves commands until the future is dropped. Past [`CONNECTIONS`] at once, new ones wait.
    pub(crate) async fn serve(&self, daemon: Arc<Daemon>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok(visitor) => {
                    let daemon = Arc::clone(&daemon);
                    tokio::spawn(async move {
                        match visitor.admit().await {
                            // A command that goes away early needs no answer.
                            Ok(stream) => drop(answer(stream, &daemon).await),
                            Err(error) => daemon.control.count(Refusal::of(&error)),
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!("cannot accept on the control socket: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// A connection from a command to the daemon.
#[derive(Debug)]
pub(crate) struct ControlClient {
    stream: BufReader<ControlStream>,
}

impl ControlClient {
    /// Connects to the daemon that runs in this state directory.
    pub(crate) async fn connect(state: &Path) -> io::Result<Self> {
        let connect = async { Ok(Self { stream: BufReader::new(connect_control(state).await?) }) };
        in_time(ANSWER_TIME, connect).await
    }

    /// Asks what has one answer, and waits for it no longer than a daemon that works would need; `None` when it has
    /// gone.
    pub(crate) async fn ask(&mut self, request: &Request) -> io::Result<Option<Answer>> {
        let limit = if *request == Request::Stop { STOP_TIME } else { ANSWER_TIME };
        in_time(limit, async {
            self.send(request).await?;
            self.receive().await
        })
        .await
    }

    /// Asks.
    pub(crate) async fn send(&mut self, request: &Request) -> io::Result<()> {
        write_line(self.stream.get_mut(), request).await
    }

    /// The next answer; `None` when the daemon has gone.
    pub(crate) async fn receive(&mut self) -> io::Result<Option<Answer>> {
        match read_line(&mut self.stream).await? {
            None => Ok(None),
            Some(line) => Ok(Some(serde_json::from_slice(&line)?)),
        }
    }
}

async fn in_time<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let why = "the running client does not answer: it is stopped or overloaded; wait, or end it and start it anew";
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    })
}

async fn answer(stream: ControlStream, daemon: &Daemon) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        // A connection that asks nothing must not keep a place from one that does.
        let line = match tokio::time::timeout(IDLE_TIME, read_line(&mut stream)).await {
            Ok(Ok(Some(line))) => line,
            // It has asked what it wanted to ask, or nothing.
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => {
                daemon.control.count(Refusal::of(&error));
                return Err(error);
            }
            Err(_) => {
                daemon.control.count(Refusal::TimedOut);
                return Ok(());
            }
        };
        let client = &daemon.client;
        match serde_json::from_slice(&line) {
            Ok(Request::Status) => {
                write_line(stream.get_mut(), &daemon.now().await).await?;
            }
            Ok(Request::Level { level, step }) => {
                let answer = match daemon.set_level(&level, step) {
                    Ok(()) => Answer::Done { done: true },
                    Err(error) => Answer::Error { error },
                };
                write_line(stream.get_mut(), &answer).await?;
            }
            Ok(Request::Stop) => {
                let answer = daemon.status(client.stop().await);
                let written = write_line(stream.get_mut(), &answer).await;
                daemon.stopped.notify_one();
                return written;
            }
            Ok(Request::NewIdentity) => {
                let answer = match daemon.new_identity().await {
                    Ok(()) => Answer::Done { done: true },
                    Err(error) => Answer::Error { error: error.to_string() },
                };
                write_line(stream.get_mut(), &answer).await?;
            }
            Ok(Request::Ping { count, exit }) => match exit.as_deref().map(RelayId::from_hex).transpose() {
                Ok(exit) => ping(stream.get_mut(), client, count, exit).await?,
                Err(error) => {
                    write_line(stream.get_mut(), &Answer::Error { error: format!("exit: {error}") }).await?;
                }
            },
            Err(error) => {
                daemon.control.count(Refusal::Malformed);
                write_line(stream.get_mut(), &Answer::Error { error: error.to_string() }).await?;
            }
        }
    }
}

/// Several pings are under way at once: one after the other, a thousand would take minutes.
async fn ping(
    stream: &mut ControlStream,
    client: &Client,
    count: u32,
    exit: Option<RelayId>,
) -> io::Result<()> {
    let mut under_way = JoinSet::new();
    let mut started = 0;
    loop {
        while started < count && under_way.len() < PINGS {
            let client = client.clone();
            under_way.spawn(async move { client.ping(exit).await });
            started += 1;
        }
        let Some(result) = under_way.join_next().await else { break };
        let answer = match result {
            Ok(Ok(pong)) => Answer::Ping(pong.into()),
            Ok(Err(error)) => Answer::Error { error: error.to_string() },
            Err(_) => Answer::Error { error: "the ping's task ended early".into() },
        };
        write_line(stream, &answer).await?;
    }
    write_line(stream, &Answer::Done { done: true }).await
}

async fn write_line(stream: &mut ControlStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

/// A line without its end; `None` at the end of the stream. A line that is too long or without end is an
/// error, of kind `InvalidData` or `UnexpectedEof`.
async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    stream.take(LINE_LIMIT).read_until(b'\n', &mut line).await?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) if (line.len() as u64) + 1 < LINE_LIMIT => Err(io::ErrorKind::UnexpectedEof.into()),
        Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long")),
    }
}

const CONNECTIONS: usize = 32;
const IDLE_TIME: Duration = Duration::from_secs(10);
/// In which a daemon that works answers.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// The same for a stop: it ends its link in order first.
const STOP_TIME: Duration = Duration::from_secs(15);
const PINGS: usize = 32;
const LINE_LIMIT: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_plain_json() {
        let line = |text: &str| serde_json::from_str::<Request>(text).unwrap();
        assert_eq!(line(r#"{"command":"status"}"#), Request::Status);
        assert_eq!(line(r#"{"command":"ping","count":3}"#), Request::Ping { count: 3, exit: None });
        assert_eq!(line(r#"{"command":"new_identity"}"#), Request::NewIdentity);
        assert!(serde_json::from_str::<Request>(r#"{"command":"dance"}"#).is_err());
    }

    #[test]
    fn answers_are_told_apart() {
        let times = PingTimes { slot: 1_000, delays: 50, arrival: 1_060, home: 1_200 };
        let answers = [
            Answer::Ping(times),
            Answer::Done { done: true },
            Answer::Error { error: "why".into() },
            Answer::Status(Box::default()),
        ];
        for answer in answers {
            let text = serde_json::to_string(&answer).unwrap();
            assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), answer, "{text}");
        }
        assert_eq!(times.excess(), 10);
        assert_eq!(PingTimes { arrival: 1_000, ..times }.excess(), -50);
    }

    #[tokio::test]
    async fn a_daemon_that_does_not_answer_is_waited_for_only_so_long() {
        let state = tempfile::tempdir().unwrap();
        // Connections are accepted, as the system does for a process that stands still.
        let _socket = ControlSocket::open(state.path()).unwrap();
        let mut control = ControlClient::connect(state.path()).await.unwrap();
        let asked = std::time::Instant::now();
        let error = control.ask(&Request::Status).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(
            asked.elapsed() < 2 * ANSWER_TIME && error.to_string().contains("does not answer"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn endless_lines_are_refused() {
        let endless = vec![b'x'; 70_000];
        let error = read_line(&mut &endless[..]).await.unwrap_err();
        assert_eq!(Refusal::of(&error), Refusal::Malformed);
        let error = read_line(&mut &b"{\"comm"[..]).await.unwrap_err();
        assert_eq!(Refusal::of(&error), Refusal::Truncated);
        assert_eq!(read_line(&mut &b"{}\nrest"[..]).await.unwrap().unwrap(), b"{}");
        assert_eq!(read_line(&mut &b""[..]).await.unwrap(), None);
    }
}
