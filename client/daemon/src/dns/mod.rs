//! DNS for programs: a port for UDP and TCP (RFC 1035, RFC 7766), whose questions an exit's resolver answers, and
//! nobody else. (spec: PROXY-10, PROXY-11)

mod ask;
mod counts;
mod message;

pub(crate) use ask::ByExit;
pub(crate) use counts::{Asked, Counts};
pub(crate) use message::{Question, Unasked};

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Who answers questions.
pub(crate) trait Answers: Send + Sync + 'static {
    /// An answer under the number that the question came with, or another; without being cut, if it is to be
    /// `whole`. `None`: there is none.
    fn answer(&self, question: &Question, whole: bool) -> impl Future<Output = Option<Vec<u8>>> + Send;
}

/// An open port.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) datagrams: UdpSocket,
    pub(crate) streams: TcpListener,
}

impl Port {
    /// Opens one; a port 0 is one that the system chooses, the same for both.
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let streams = TcpListener::bind(address).await?;
        let datagrams = UdpSocket::bind(streams.local_addr()?).await?;
        Ok(Self { datagrams, streams })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.streams.local_addr()
    }
}

/// What answers the questions of one port, or of one stream.
#[derive(Debug)]
pub(crate) struct Service<A> {
    answers: A,
    counts: Arc<Counts>,
    /// Questions that are under way; above, they wait within their time.
    under_way: Semaphore,
}

impl<A: Answers> Service<A> {
    /// With questions counted in `counts`.
    pub(crate) fn new(answers: A, counts: Arc<Counts>) -> Arc<Self> {
        Arc::new(Self { answers, counts, under_way: Semaphore::new(UNDER_WAY) })
    }

    /// Answers at `port` until the future is dropped.
    pub(crate) async fn serve(self: &Arc<Self>, port: &Port) {
        tokio::join!(self.serve_datagrams(&port.datagrams), self.serve_streams(&port.streams));
    }

    async fn serve_datagrams(self: &Arc<Self>, socket: &UdpSocket) {
        let (home, mut answered) = mpsc::channel::<(Vec<u8>, SocketAddr)>(WAITING);
        let mut tasks = JoinSet::new();
        let mut buffer = vec![0; LARGEST];
        loop {
            tokio::select! {
                received = socket.recv_from(&mut buffer) => {
                    let Ok((count, program)) = received else {
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    };
                    while tasks.try_join_next().is_some() {}
                    let message = buffer.get(..count).unwrap_or_default().to_vec();
                    // Its answer has a place from the start.
                    let Ok(place) = home.clone().try_reserve_owned() else {
                        if let Some(reply) = self.turn_away(&message) {
                            let _ = socket.send_to(&reply, program).await;
                        }
                        continue;
                    };
                    let service = Arc::clone(self);
                    tasks.spawn(async move {
                        if let Some(reply) = service.reply(&message, false).await {
                            place.send((reply, program));
                        }
                    });
                }
                Some((reply, program)) = answered.recv() => {
                    // A program that is gone needs no answer.
                    let _ = socket.send_to(&reply, program).await;
                }
            }
        }
    }

    async fn serve_streams(self: &Arc<Self>, listener: &TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut tasks = JoinSet::new();
        loop {
            // Above, new ones wait.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            while tasks.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, _)) => {
                    let service = Arc::clone(self);
                    tasks.spawn(async move {
                        // A program that breaks off is its own affair.
                        let _ = service.converse(stream).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: give the others time to end.
                    tracing::warn!("cannot accept a connection on the port for DNS: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Answers what comes over a stream, each message after its length, until the program ends it or says nothing
    /// for a while. Answers go back as they come. What is no message ends the stream.
    pub(crate) async fn converse(
        self: &Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let (home, mut answered) = mpsc::channel::<Vec<u8>>(PIPELINED);
        let read = async move {
            let mut tasks = JoinSet::new();
            loop {
                let mut first = [0];
                let length = async {
                    match reader.read(&mut first).await? {
                        0 => Ok(None),
                        _ => Ok(Some(u16::from_be_bytes([first[0], reader.read_u8().await?]))),
                    }
                };
                let Some(length) = timeout(SILENCE, length).await.unwrap_or(io::Result::Ok(None))? else {
                    break;
                };
                let mut message = vec![0; usize::from(length)];
                timeout(SILENCE, reader.read_exact(&mut message)).await??;
                while tasks.try_join_next().is_some() {}
                // Above, the program is not read.
                let Ok(place) = home.clone().reserve_owned().await else { break };
                let service = Arc::clone(self);
                tasks.spawn(async move {
                    service.reply(&message, true).await.map(|reply| drop(place.send(reply)))
                });
            }
            drop(home);
            while let Some(told) = tasks.join_next().await {
                // Without an answer there is nothing to say here.
                told.map_err(io::Error::other)?;
            }
            io::Result::Ok(())
        };
        let write = async {
            while let Some(reply) = answered.recv().await {
                let length = u16::try_from(reply.len()).map_err(|_| io::ErrorKind::InvalidData)?;
                let reply = [&length.to_be_bytes()[..], &reply].concat();
                timeout(SILENCE, writer.write_all(&reply)).await??;
            }
            writer.shutdown().await
        };
        tokio::try_join!(read, write).map(drop)
    }

    /// The answer to a message; `None` if it deserves none.
    async fn reply(&self, message: &[u8], whole: bool) -> Option<Vec<u8>> {
        let question = match Question::parse(message) {
            Ok(question) => question,
            Err(unasked) => return self.without_asking(unasked),
        };
        self.counts.ask();
        let answer = async {
            let _place = self.under_way.acquire().await.ok()?;
            self.answers.answer(&question, whole).await
        };
        match timeout(PATIENCE, answer).await.ok().flatten() {
            Some(reply) => {
                self.counts.answer();
                let reply = question.returned(reply);
                Some(if whole { reply } else { question.fitting(reply) })
            }
            None => {
                self.counts.fail();
                Some(question.failure())
            }
        }
    }

    /// The answer to a message for which there is no place.
    fn turn_away(&self, message: &[u8]) -> Option<Vec<u8>> {
        self.counts.turn_away();
        match Question::parse(message) {
            Ok(question) => Some(question.failure()),
            Err(Unasked::Answered(reply)) => Some(reply),
            Err(Unasked::Silence) => None,
        }
    }

    fn without_asking(&self, unasked: Unasked) -> Option<Vec<u8>> {
        self.counts.refuse();
        match unasked {
            Unasked::Answered(reply) => Some(reply),
            Unasked::Silence => None,
        }
    }
}

/// Questions under way: what an exit takes of one session.
const UNDER_WAY: usize = 32;
/// Questions by UDP that have no answer yet; above, the answer is at once that there was a failure.
const WAITING: usize = 256;
/// Of one stream; above, it is not read.
const PIPELINED: usize = 32;
const CONNECTIONS: usize = 64;
/// All tries for a question together.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a stream may say nothing, or not be read.
const SILENCE: Duration = Duration::from_secs(30);
/// After an error of the system.
const PAUSE: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
const LARGEST: usize = 65_535;

#[cfg(test)]
mod tests;
