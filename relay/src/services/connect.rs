//! The service `connect`: streams and datagrams from clients to the internet.
//!
//! One thread drives all sessions ([`Gateway`]), since a session's replies leave at drawn moments that must
//! not depend on sockets. Each connection has a task of its own ([`super::pump`]); between the two go whole
//! chunks, a fixed number a stream, so that a slow side stops the other. (spec: EXIT-1 to EXIT-4)

use super::Replies;
use super::datagrams::Datagrams;
use super::dns::Names;
use super::exchange::ExchangeKey;
use super::pump::{Connector, Own, Pump, ToSocket};
use crate::live::Live;
use crate::metrics::{Exit, Packet, Place};
use crate::mirror::Mirror;
use crate::replay::TagLog;
use crate::threads;
use mizzle_link::{Result, seeded_rng};
use mizzle_protocol::id::Period;
use mizzle_protocol::mix::DropReason;
use mizzle_protocol::path::Parameters;
use mizzle_protocol::session::{Gateway, GatewayEvent, GatewayStream, ServiceSecret};
use mizzle_protocol::stream::{Read, ResetReason};
use mizzle_protocol::time::Instant;
use rand_chacha::ChaCha20Rng;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// The way to the service's thread.
#[derive(Debug)]
pub(crate) struct Connect {
    inbox: SyncSender<Input>,
    update: Arc<Mutex<Option<Update>>>,
}

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Input {
    /// A session packet: its books, and its bytes.
    Packet(Packet, Vec<u8>),
    /// The target has accepted.
    Connected(GatewayStream),
    /// It has not, and why.
    Refused(GatewayStream, ResetReason),
    /// The socket took a chunk.
    Taken(GatewayStream),
    /// The socket gave one. The next is given when this one has been passed on.
    Data(GatewayStream, Vec<u8>),
    /// The target will send nothing more.
    End(GatewayStream),
    /// The connection broke.
    Broken(GatewayStream),
    /// A datagram came, from there.
    Datagram(ExchangeKey, SocketAddr, Vec<u8>),
    /// An exchange of datagrams is over.
    Over(ExchangeKey),
    /// A question has its answer; `None`: it was no question.
    Answered(ExchangeKey, Option<Vec<u8>>),
}

#[derive(Debug)]
struct Update {
    parameters: Parameters,
    secrets: Vec<(Period, ServiceSecret)>,
}

impl Connect {
    /// Starts the thread; called within a tokio runtime, which then runs the connections.
    pub(crate) fn start(
        replies: Replies,
        live: Arc<Live>,
        sessions: Arc<TagLog>,
        connector: Connector,
        mirror: Arc<Mirror>,
    ) -> Result<Self> {
        let (inbox, inputs) = sync_channel(INBOX);
        let update = Arc::new(Mutex::new(None));
        let metrics = replies.metrics.clone();
        let own = Own { names: Names::new(connector.clone(), metrics.clone()), mirror };
        let datagrams = Datagrams::new(connector.clone(), metrics, inbox.clone(), Handle::current());
        let service = Service {
            gateway: Gateway::new(&Parameters::default()),
            streams: HashMap::new(),
            datagrams,
            replies,
            live,
            sessions,
            connector,
            own,
            inbox: inbox.clone(),
            runtime: Handle::current(),
            update: update.clone(),
            rng: seeded_rng()?,
            buffer: vec![0; CHUNK].into_boxed_slice(),
        };
        threads::essential("connect".to_owned(), move || service.run(&inputs))?;
        Ok(Self { inbox, update })
    }

    /// Hands a session packet to the thread. Full: dropped as `queue_full`.
    pub(super) fn deliver(&self, mut packet: Packet, bytes: &[u8]) {
        packet.put(Place::Service);
        match self.inbox.try_send(Input::Packet(packet, bytes.to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(Input::Packet(packet, _))) => packet.discard(DropReason::QueueFull),
            // What is in a packet's hands when the thread has ended is counted as `stopping`.
            Err(_) => {}
        }
    }

    /// Takes over the parameters of a new consensus, and the live service keys.
    pub(crate) fn update(&self, parameters: &Parameters, secrets: Vec<(Period, ServiceSecret)>) {
        let update = Update { parameters: parameters.clone(), secrets };
        *self.update.lock().unwrap_or_else(PoisonError::into_inner) = Some(update);
    }
}

struct Service {
    gateway: Gateway,
    streams: HashMap<GatewayStream, Stream>,
    datagrams: Datagrams,
    replies: Replies,
    live: Arc<Live>,
    sessions: Arc<TagLog>,
    connector: Connector,
    own: Own,
    inbox: SyncSender<Input>,
    runtime: Handle,
    update: Arc<Mutex<Option<Update>>>,
    rng: ChaCha20Rng,
    buffer: Box<[u8]>,
}

/// This thread's side of one connection.
struct Stream {
    /// `None` once everything that the client sends has been passed on.
    to_socket: Option<mpsc::Sender<ToSocket>>,
    /// What the socket gave, and how much of it the session has taken.
    pending: Vec<u8>,
    taken: usize,
    /// Lets the task read the next chunk.
    more: Arc<Semaphore>,
    /// The target will send nothing more.
    ended: bool,
    /// Dropped with the stream, it tells the task to cut the connection off.
    over: oneshot::Sender<()>,
}

impl Service {
    fn run(mut self, inputs: &Receiver<Input>) {
        let mut swept = Instant::ZERO;
        loop {
            let now = self.replies.clock.now();
            self.transmit(now);
            if now.since(swept) >= SWEEP {
                swept = now;
                self.sweep(now);
            }
            self.events(now);
            let next = self.gateway.poll_timeout().unwrap_or(now + SWEEP).min(swept + SWEEP);
            match inputs.recv_timeout(self.replies.clock.until(next)) {
                Ok(input) => self.input(input),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn transmit(&mut self, now: Instant) {
        let mut bytes = Vec::new();
        while let Some(transmit) = self.gateway.poll_transmit(now, &mut self.rng, &mut bytes) {
            let view = self.live.load();
            self.replies.send(&view, transmit.first, transmit.hint, &bytes);
        }
    }

    fn sweep(&mut self, now: Instant) {
        let update = self.update.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Update { parameters, secrets }) = update {
            self.gateway.set_parameters(&parameters);
            self.gateway.set_service_keys(secrets);
        }
        self.gateway.handle_timeout(now);
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.replies.metrics.sessions.set(count(self.gateway.sessions()));
        self.replies.metrics.streams.set(count(self.streams.len()));
    }

    fn input(&mut self, input: Input) {
        let now = self.replies.clock.now();
        match input {
            Input::Packet(packet, bytes) => {
                match self.gateway.handle_packet(now, &bytes, &*self.sessions, &mut self.rng) {
                    Ok(()) => packet.settle(Exit::Session),
                    Err(reason) => packet.discard(reason),
                }
            }
            // A task may speak once more after its stream is gone: that is no news to the gateway.
            Input::Connected(id) => {
                if self.streams.contains_key(&id) {
                    self.gateway.connected(now, id);
                    self.pass_outward(now, id);
                }
            }
            Input::Refused(id, reason) => {
                if self.streams.remove(&id).is_some() {
                    self.gateway.refuse(now, id, reason);
                }
            }
            Input::Taken(id) => self.pass_outward(now, id),
            Input::Data(id, bytes) => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.pending = bytes;
                    stream.taken = 0;
                    self.pass_homeward(now, id);
                }
            }
            Input::End(id) => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.ended = true;
                    self.gateway.finish(now, id);
                    self.forget_if_over(id);
                }
            }
            Input::Broken(id) => {
                if self.streams.remove(&id).is_some() {
                    self.gateway.reset(now, id, ResetReason::Closed);
                }
            }
            Input::Datagram(key, source, bytes) => {
                self.datagrams.received(&mut self.gateway, key, source, bytes);
            }
            Input::Over(key) => self.datagrams.over(key),
            Input::Answered(key, reply) => self.datagrams.answered(&mut self.gateway, key, reply),
        }
    }

    fn events(&mut self, now: Instant) {
        while let Some(event) = self.gateway.poll_event() {
            match event {
                GatewayEvent::Open(id, target) => {
                    if self.streams.len() >= STREAMS {
                        self.gateway.refuse(now, id, ResetReason::Exhausted);
                        continue;
                    }
                    let (to_socket, from_client) = mpsc::channel(CHUNKS);
                    let more = Arc::new(Semaphore::new(1));
                    let (over, told) = oneshot::channel();
                    let pump = Pump {
                        id,
                        target,
                        from_client,
                        over: told,
                        more: more.clone(),
                        inbox: self.inbox.clone(),
                    };
                    self.runtime.spawn(pump.run(self.connector.clone(), self.own.clone()));
                    let to_socket = Some(to_socket);
                    let stream =
                        Stream { to_socket, pending: Vec::new(), taken: 0, more, ended: false, over };
                    self.streams.insert(id, stream);
                }
                GatewayEvent::Readable(id) => self.pass_outward(now, id),
                GatewayEvent::Writable(id) => self.pass_homeward(now, id),
                GatewayEvent::Closed(id, _) => {
                    self.streams.remove(&id);
                }
                GatewayEvent::Datagram { session, flow, target, bytes } => {
                    let limit = self.gateway.largest_datagram();
                    self.datagrams.send((session, flow), target, bytes, limit);
                }
            }
        }
    }

    /// Passes on what the client sent, while the socket takes it.
    fn pass_outward(&mut self, now: Instant, id: GatewayStream) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Some(to_socket) = stream.to_socket.clone() else { return };
        // Only what has a place is read: the rest stays with the client.
        while let Ok(permit) = to_socket.try_reserve() {
            match self.gateway.read(now, id, &mut self.buffer) {
                Ok(Read::Data(count)) => {
                    permit.send(ToSocket::Data(self.buffer.get(..count).unwrap_or_default().to_vec()));
                }
                Ok(Read::Empty) => return,
                Ok(Read::Finished) => {
                    permit.send(ToSocket::Finish);
                    stream.to_socket = None;
                    return self.forget_if_over(id);
                }
                Err(_) => {
                    self.streams.remove(&id);
                    return;
                }
            }
        }
    }

    /// Passes on what the target sent, while the session takes it.
    fn pass_homeward(&mut self, now: Instant, id: GatewayStream) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let rest = stream.pending.get(stream.taken..).unwrap_or_default();
        if rest.is_empty() {
            return;
        }
        match self.gateway.write(now, id, rest) {
            Ok(count) => {
                stream.taken += count;
                if stream.taken >= stream.pending.len() {
                    stream.pending = Vec::new();
                    stream.more.add_permits(1);
                }
            }
            Err(_) => {
                self.streams.remove(&id);
            }
        }
    }

    /// A stream that is finished both ways needs nothing more from us.
    fn forget_if_over(&mut self, id: GatewayStream) {
        if self.streams.get(&id).is_some_and(|stream| stream.ended && stream.to_socket.is_none()) {
            // A task that has ended already needs no word.
            let _ = self.streams.remove(&id).map(|stream| stream.over.send(()));
        }
    }
}

/// Most that the thread waits for at a time; full: session packets are dropped as `queue_full`, and tasks
/// wait.
const INBOX: usize = 2048;
/// Connections at a time; above: streams are refused as exhausted.
const STREAMS: usize = 1024;
/// Chunks between the thread and one socket.
const CHUNKS: usize = 4;
/// Bytes of a chunk.
pub(super) const CHUNK: usize = 32 * 1024;
/// Pause between looks at what has changed without a message.
const SWEEP: Duration = Duration::from_millis(250);
