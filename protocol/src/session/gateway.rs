//! The service's end of all sessions of one exit.
//!
//! A session answers at the rate that its client allots, on a Poisson schedule of its own, burning the
//! lowest-numbered SURB that it holds; never at the moment that data arrives, and with an empty reply when
//! there is none. (spec: SESSION-5 to SESSION-9, SESSION-12, SESSION-13)

use super::keys::TAG_SIZE;
use super::keys::{ServiceSecret, SessionKeys, ephemeral};
use super::packet::{BACKLOG, Name, Phase, parse_outward};
use crate::cover::Ticks;
use crate::geometry::{Geometry, SURB_SIZE};
use crate::id::{PacketNumber, Period, RelayId, SessionId, StreamId};
use crate::mix::DropReason;
use crate::path::Parameters;
use crate::sphinx::{PacketFormat, Sphinx, Surb};
use crate::stream::{RANGE_COST, RangeSet, Read, ResetReason, Sent, StreamEvent, Streams};
use crate::time::Instant;
use crate::wire::Reader;
use crate::wire::frame::{Frame, HINTED_SURB_SIZE};
use crate::wire::target::Target;
use crate::{Error, ErrorKind, Result};
use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::marker::PhantomData;
use std::time::Duration;

/// Remembers the sessions of one service key until it dies, beside the replay tags.
pub trait SessionLog {
    /// Records a new session. [`ErrorKind::Replayed`] if an earlier process had it: its first packet is
    /// being repeated. [`ErrorKind::Exhausted`] if it cannot be remembered: the session is refused.
    fn insert(&self, period: Period, id: SessionId) -> Result<()>;
}

/// A stream of one of the sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewayStream {
    session: SessionId,
    stream: StreamId,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayEvent {
    /// A client opened a stream to this target; answer with `connected` or `refuse`.
    Open(GatewayStream, Target),
    /// There is something to read, or the end.
    Readable(GatewayStream),
    /// There is room to write again.
    Writable(GatewayStream),
    /// Cut off by the client, or the session is over.
    Closed(GatewayStream, ResetReason),
    /// A datagram of a session; the flow and the session name where answers go.
    Datagram {
        /// The session.
        session: SessionId,
        /// The client's name for the exchange.
        flow: u64,
        /// To whom.
        target: Target,
        /// Its content.
        bytes: Vec<u8>,
    },
}

/// Why a datagram does not get home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramLoss {
    /// It fits no reply.
    TooLarge,
    /// Too much waits for replies already: the oldest is dropped, or, when memory is short, this one.
    Crowded,
    /// Its session is over.
    NoSession,
}

/// Where a reply packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The first mix.
    pub first: RelayId,
    /// Key period of the SURB.
    pub hint: u8,
}

/// Sessions at a time.
pub const MAX_SESSIONS: usize = 4096;
/// SURBs that one session may leave here.
pub const MAX_SURBS: usize = 2048;
/// SURBs that a session may leave here though memory is short: without them nothing could leave it.
pub const ASSURED_SURBS: usize = 32;
/// Bytes that one session may hold here: SURBs, and what streams, datagrams and replies carry. Half of it may
/// be data on its way to the client.
pub const SESSION_MEMORY: usize = 16 << 20;
/// Bytes that all sessions may hold, unless [`Gateway::set_memory`] says otherwise.
pub const GATEWAY_MEMORY: usize = 256 << 20;
/// A session may hold at most this part of what is free. So the memory is never full, and whoever holds
/// little is served however much others hold.
const FREE_PER_SESSION: usize = 8;
/// Replies per second that one session may ask for.
pub const MAX_RATE: f64 = 2000.0;
/// A silent session without streams is forgotten after this: clients say when they are done, but that word
/// may be lost.
const WITHOUT_STREAMS: Duration = Duration::from_secs(120);
/// Datagrams that wait for a reply, per session; the oldest is dropped.
const MAX_DATAGRAMS: usize = 64;
/// Replies that wait to be acknowledged, per session: more than [`MAX_RATE`] for as long as a client may take.
/// Above, the lowest counts as lost.
const MAX_REPLIES: usize = 8192;
/// Ranges of packet numbers that arrived: at so many, all below the highest of them count as arrived.
const MAX_RECEIVED: usize = 512;
const KEPT_RECEIVED: usize = 256;
/// What things cost in memory beside their bytes, about: a session with its keys, a SURB, a datagram, a reply
/// in flight and each of its frames.
const SESSION_COST: usize = size_of::<Session>() + 512;
const HELD_SURB_COST: usize = size_of::<HeldSurb>() + SURB_SIZE + 96;
const DATAGRAM_COST: usize = 512;
const REPLY_COST: usize = size_of::<SentReply>() + 64;
const FRAME_COST: usize = size_of::<Sent>();
/// What a reply may need beside a datagram: acks, held SURBs, a share, the source's name.
const DATAGRAM_RESERVE: usize = ACK_ROOM + HELD_ROOM + 400;
/// How long the early keys stay for packets that were overtaken by later ones.
const EARLY_KEYS: Duration = Duration::from_secs(30);
/// How long, beyond the longest delays, a client may take to acknowledge a reply.
const ACK_PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of a reply that acks may take, and of what is held.
const ACK_ROOM: usize = 400;
const HELD_ROOM: usize = 300;

/// All sessions of one exit. Its replies are [`Sphinx`] packets; only the simulator has others.
#[derive(Debug)]
pub struct Gateway<F: PacketFormat = Sphinx> {
    geometry: Geometry,
    surb_life: Duration,
    patience: Duration,
    idle: Duration,
    secrets: Vec<(Period, ServiceSecret)>,
    sessions: BTreeMap<SessionId, Session>,
    schedule: BTreeSet<(Instant, SessionId)>,
    events: VecDeque<GatewayEvent>,
    memory: usize,
    /// What all sessions hold.
    held: usize,
    format: PhantomData<F>,
}

impl Gateway {
    /// No sessions yet.
    pub fn new(parameters: &Parameters) -> Self {
        Self::with_format(parameters)
    }
}

impl<F: PacketFormat> Gateway<F> {
    /// The same with packets of another format.
    pub fn with_format(parameters: &Parameters) -> Self {
        let mut gateway = Self {
            geometry: parameters.geometry,
            surb_life: parameters.surb_life,
            patience: Duration::ZERO,
            idle: parameters.epoch * 3,
            secrets: Vec::new(),
            sessions: BTreeMap::new(),
            schedule: BTreeSet::new(),
            events: VecDeque::new(),
            memory: GATEWAY_MEMORY,
            held: 0,
            format: PhantomData,
        };
        gateway.set_parameters(parameters);
        gateway
    }

    /// Takes over the parameters of a new consensus.
    pub fn set_parameters(&mut self, parameters: &Parameters) {
        self.geometry = parameters.geometry;
        self.surb_life = parameters.surb_life;
        // Home and back at the longest delays, and time for the client to find a slot.
        self.patience = parameters.max_delay * 6 + ACK_PATIENCE;
        // A client that is silent for three epochs is gone.
        self.idle = parameters.epoch * 3;
    }

    /// The service's live keys: of the current period, and within the overlap of another.
    pub fn set_service_keys(&mut self, secrets: Vec<(Period, ServiceSecret)>) {
        self.secrets = secrets;
    }

    /// Sets how many bytes all sessions may hold.
    pub fn set_memory(&mut self, bytes: usize) {
        self.memory = bytes;
    }

    /// Bytes that all sessions hold, about: never much less than what they really take.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Sessions alive.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Streams alive.
    pub fn streams(&self) -> usize {
        self.sessions.values().map(|session| session.streams.len()).sum()
    }

    /// Takes a session packet.
    ///
    /// A first packet that comes twice joins its session and executes nothing twice; one that an earlier
    /// process has seen is refused.
    pub fn handle_packet(
        &mut self,
        now: Instant,
        bytes: &[u8],
        log: &impl SessionLog,
        rng: &mut impl CryptoRng,
    ) -> Result<(), DropReason> {
        let (name, number, header, sealed) = parse_outward(bytes).map_err(|_| DropReason::BadPayload)?;
        let (id, phase) = match name {
            Name::Known { phase, id } => (id, phase),
            Name::Opening { encapsulation, .. } => {
                let digest = Sha256::digest(encapsulation);
                let id = SessionId::from_slice(&digest[..16]).map_err(|_| DropReason::BadPayload)?;
                (id, Phase::Early)
            }
        };
        let mut plain = sealed.to_vec();
        let share = self.share();
        if let Some(session) = self.sessions.get_mut(&id) {
            session.open(now, phase, number, header, &mut plain)?;
            session.allow(share);
        } else {
            let Name::Opening { hint, encapsulation } = name else { return Err(DropReason::Session) };
            let session = self.begin(now, hint, encapsulation, number, header, &mut plain)?;
            let (period, session) = session;
            match log.insert(period, id) {
                Err(error) if error.kind() == ErrorKind::Replayed => return Err(DropReason::Replayed),
                Err(_) => return Err(DropReason::Session),
                Ok(()) => self.sessions.insert(id, session),
            };
        }
        let handled = self.handle_frames(now, id, &plain, rng);
        if handled.is_err() {
            // The client breaks the protocol or a bound that both know.
            self.end(id, ResetReason::General);
        }
        self.collect_events(id);
        handled
    }

    fn begin(
        &self,
        now: Instant,
        hint: u8,
        encapsulation: &[u8],
        number: PacketNumber,
        header: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<(Period, Session), DropReason> {
        if self.sessions.len() >= MAX_SESSIONS || self.held + SESSION_COST > self.memory {
            return Err(DropReason::Session);
        }
        let (period, secret) =
            self.secrets.iter().find(|(period, _)| period.hint() == hint).ok_or(DropReason::UnknownPeriod)?;
        let keys = secret.open(encapsulation).map_err(|_| DropReason::Session)?;
        let mut session = Session::new(now, keys);
        session.open(now, Phase::Early, number, header, plain)?;
        session.allow(self.share());
        Ok((*period, session))
    }

    fn handle_frames(
        &mut self,
        now: Instant,
        id: SessionId,
        plain: &[u8],
        rng: &mut impl CryptoRng,
    ) -> Result<(), DropReason> {
        let Some(session) = self.sessions.get_mut(&id) else { return Err(DropReason::Session) };
        session.heard = now;
        let mut reader = Reader::new(plain);
        loop {
            match Frame::read(&mut reader) {
                Ok(None) => return Ok(()),
                Err(_) => return Err(DropReason::BadPayload),
                Ok(Some(Frame::Close)) => {
                    self.end(id, ResetReason::Closed);
                    return Ok(());
                }
                Ok(Some(Frame::Rate { sequence, per_1000_seconds })) => {
                    if session.rate_sequence.is_none_or(|known| sequence > known) {
                        session.rate_sequence = Some(sequence);
                        let rate = (per_1000_seconds as f64 / 1000.0).min(MAX_RATE);
                        if let Some(ticks) = &session.ticks {
                            self.schedule.remove(&(ticks.poll_timeout(), id));
                        }
                        session.ticks = (rate > 0.0).then(|| Ticks::new(rate, now, rng));
                        self.schedule.extend(session.ticks.iter().map(|ticks| (ticks.poll_timeout(), id)));
                    }
                }
                Ok(Some(Frame::Datagram { flow, target, bytes })) => {
                    let bytes = bytes.to_vec();
                    self.events.push_back(GatewayEvent::Datagram { session: id, flow, target, bytes });
                }
                Ok(Some(frame)) => {
                    session.handle_frame(now, frame, rng).map_err(|_| DropReason::BadPayload)?;
                }
            }
        }
    }

    /// Builds the next reply that is due, if one is. Call until `None`.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        rng: &mut impl CryptoRng,
        out: &mut Vec<u8>,
    ) -> Option<Transmit> {
        loop {
            let (due, id) = self.schedule.first().copied().filter(|(due, _)| *due <= now)?;
            self.schedule.remove(&(due, id));
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            let Some(ticks) = &mut session.ticks else { continue };
            ticks.poll(now, rng);
            self.schedule.insert((ticks.poll_timeout(), id));
            session.expire(now, self.surb_life, self.patience);
            // A SURB that cannot be used is gone; the next moment takes the next one.
            let reply = session.reply::<F>(now, self.geometry, out);
            self.settle(id);
            if let Some(Ok(transmit)) = reply {
                return Some(transmit);
            }
        }
    }

    /// When to call [`Self::poll_transmit`] and [`Self::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.schedule.first().map(|(due, _)| *due)
    }

    /// Forgets sessions whose clients are gone. Call now and then, at least once a second.
    pub fn handle_timeout(&mut self, now: Instant) {
        let (idle, without_streams) = (self.idle, self.idle.min(WITHOUT_STREAMS));
        let limit = |session: &Session| if session.streams.is_empty() { without_streams } else { idle };
        let over: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| now.since(session.heard) > limit(session))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.end(id, ResetReason::TimedOut);
        }
        // What others have freed may be room for those that wait.
        let share = self.share();
        let ids: Vec<SessionId> = self.sessions.keys().copied().collect();
        for id in ids {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.allow(share);
                session.streams.wake();
            }
            self.collect_events(id);
        }
    }

    /// What each session may hold now.
    fn share(&self) -> usize {
        SESSION_MEMORY.min(self.memory.saturating_sub(self.held) / FREE_PER_SESSION)
    }

    /// Counts what a session holds, after anything was done with it.
    fn settle(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            let held = session.held();
            self.held = (self.held + held).saturating_sub(session.counted);
            session.counted = held;
        }
    }

    /// What happened next.
    pub fn poll_event(&mut self) -> Option<GatewayEvent> {
        self.events.pop_front()
    }

    /// The target of this stream has accepted.
    pub fn connected(&mut self, _now: Instant, stream: GatewayStream) {
        self.with(stream, |streams, id| streams.connected(id));
    }

    /// The target of this stream could not be reached.
    pub fn refuse(&mut self, now: Instant, stream: GatewayStream, reason: ResetReason) {
        self.reset(now, stream, reason);
    }

    /// Takes bytes for the client; how many. After fewer than given, an event tells when there is room.
    pub fn write(
        &mut self,
        _now: Instant,
        stream: GatewayStream,
        bytes: &[u8],
    ) -> Result<usize, ResetReason> {
        self.with(stream, |streams, id| streams.write(id, bytes)).unwrap_or(Err(ResetReason::Closed))
    }

    /// Reads what the client sent.
    pub fn read(
        &mut self,
        _now: Instant,
        stream: GatewayStream,
        out: &mut [u8],
    ) -> Result<Read, ResetReason> {
        self.with(stream, |streams, id| streams.read(id, out)).unwrap_or(Err(ResetReason::Closed))
    }

    /// Nothing more will be written.
    pub fn finish(&mut self, _now: Instant, stream: GatewayStream) {
        self.with(stream, |streams, id| streams.finish(id));
    }

    /// Cuts a stream off, both ways.
    pub fn reset(&mut self, _now: Instant, stream: GatewayStream, reason: ResetReason) {
        self.with(stream, |streams, id| streams.reset(id, reason));
    }

    /// Bytes of the largest datagram that a reply carries home.
    pub fn largest_datagram(&self) -> usize {
        self.geometry.message().saturating_sub(DATAGRAM_RESERVE)
    }

    /// Sends a datagram home: unreliable. What that loses at once, if anything.
    pub fn send_datagram(
        &mut self,
        session: SessionId,
        flow: u64,
        source: Target,
        bytes: Vec<u8>,
    ) -> Option<DatagramLoss> {
        if bytes.len() > self.largest_datagram() {
            return Some(DatagramLoss::TooLarge);
        }
        let share = self.share();
        let Some(held) = self.sessions.get_mut(&session) else { return Some(DatagramLoss::NoSession) };
        let mut loss = None;
        if held.datagrams.len() >= MAX_DATAGRAMS {
            held.datagrams.pop_front();
            loss = Some(DatagramLoss::Crowded);
        }
        match held.held() + bytes.len() + DATAGRAM_COST > share {
            true => loss = Some(DatagramLoss::Crowded),
            false => held.datagrams.push_back((flow, source, bytes)),
        }
        self.settle(session);
        loss
    }

    fn with<T>(&mut self, stream: GatewayStream, act: impl FnOnce(&mut Streams, StreamId) -> T) -> Option<T> {
        let share = self.share();
        let session = self.sessions.get_mut(&stream.session)?;
        session.allow(share);
        let result = act(&mut session.streams, stream.stream);
        self.collect_events(stream.session);
        Some(result)
    }

    fn end(&mut self, id: SessionId, reason: ResetReason) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.streams.abandon(reason);
            if let Some(ticks) = &session.ticks {
                self.schedule.remove(&(ticks.poll_timeout(), id));
            }
            self.collect_events(id);
            if let Some(session) = self.sessions.remove(&id) {
                self.held = self.held.saturating_sub(session.counted);
            }
        }
    }

    fn collect_events(&mut self, id: SessionId) {
        self.settle(id);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        while let Some(event) = session.streams.poll_event() {
            let of = |stream| GatewayStream { session: id, stream };
            self.events.push_back(match event {
                StreamEvent::Opened(stream, target) => GatewayEvent::Open(of(stream), target),
                StreamEvent::Readable(stream) => GatewayEvent::Readable(of(stream)),
                StreamEvent::Writable(stream) => GatewayEvent::Writable(of(stream)),
                StreamEvent::Reset(stream, reason) => GatewayEvent::Closed(of(stream), reason),
                StreamEvent::Connected(_) => continue,
            });
        }
    }
}

/// One session at the service's end.
#[derive(Debug)]
struct Session {
    early: Option<SessionKeys>,
    later: Option<SessionKeys>,
    /// When the client first used the later keys.
    later_since: Option<Instant>,
    /// Our ephemeral share, in every reply until the client has used it.
    share: Option<[u8; 32]>,
    received: RangeSet,
    floor: u64,
    surbs: BTreeMap<u64, HeldSurb>,
    rate_sequence: Option<u64>,
    ticks: Option<Ticks>,
    sent: BTreeMap<u64, SentReply>,
    streams: Streams,
    datagrams: VecDeque<(u64, Target, Vec<u8>)>,
    heard: Instant,
    /// What replies in flight cost in memory.
    sent_cost: usize,
    /// No SURBs beyond the assured are taken.
    refusing: bool,
    /// What the gateway has counted for this session.
    counted: usize,
}

#[derive(Debug)]
struct HeldSurb {
    hint: u8,
    surb: Surb,
    since: Instant,
}

#[derive(Debug)]
struct SentReply {
    at: Instant,
    frames: Vec<Sent>,
}

impl Session {
    fn new(now: Instant, keys: SessionKeys) -> Self {
        Self {
            early: Some(keys),
            later: None,
            later_since: None,
            share: None,
            received: RangeSet::new(),
            floor: 0,
            surbs: BTreeMap::new(),
            rate_sequence: None,
            ticks: None,
            sent: BTreeMap::new(),
            streams: Streams::service(),
            datagrams: VecDeque::new(),
            heard: now,
            sent_cost: 0,
            refusing: false,
            counted: 0,
        }
    }

    /// What the session holds in memory, about.
    fn held(&self) -> usize {
        self.held_beside_streams() + self.streams.held()
    }

    fn held_beside_streams(&self) -> usize {
        let datagrams: usize = self.datagrams.iter().map(|(.., bytes)| bytes.len() + DATAGRAM_COST).sum();
        let received = self.received.count() * RANGE_COST;
        SESSION_COST + self.surbs.len() * HELD_SURB_COST + self.sent_cost + datagrams + received
    }

    /// Sets what the session may hold.
    fn allow(&mut self, share: usize) {
        self.refusing = self.streams.set_allowance(share, self.held_beside_streams());
    }

    /// Forgets a reply in flight: what it carried.
    fn take_sent(&mut self, number: u64) -> Vec<Sent> {
        let frames = self.sent.remove(&number).map(|reply| reply.frames).unwrap_or_default();
        if !frames.is_empty() {
            self.sent_cost = self.sent_cost.saturating_sub(cost_of_reply(&frames));
        }
        frames
    }

    fn lose(&mut self, number: u64) {
        let frames = self.take_sent(number);
        frames.iter().for_each(|sent| self.streams.lost(sent));
    }

    /// Opens an outward packet in place. Each number once.
    fn open(
        &mut self,
        now: Instant,
        phase: Phase,
        number: PacketNumber,
        header: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<(), DropReason> {
        if number.0 < self.floor || self.received.contains(number.0) {
            return Err(DropReason::Replayed);
        }
        let keys = match phase {
            Phase::Early => self.early.as_ref(),
            Phase::Later => self.later.as_ref(),
        };
        keys.ok_or(DropReason::Session)?
            .outward
            .open(number, header, plain)
            .map_err(|_| DropReason::Session)?;
        self.received.insert_one(number.0);
        if self.received.count() > MAX_RECEIVED {
            self.floor = self.received.keep_highest(KEPT_RECEIVED);
        }
        if phase == Phase::Later {
            let since = *self.later_since.get_or_insert(now);
            self.share = None;
            if now.since(since) > EARLY_KEYS {
                self.early = None;
            }
        }
        Ok(())
    }

    fn handle_frame(&mut self, now: Instant, frame: Frame<'_>, rng: &mut impl CryptoRng) -> Result<()> {
        match frame {
            Frame::Ack(ranges) => {
                for range in ranges.iter() {
                    let numbers: Vec<u64> = self.sent.range(range).map(|(number, _)| *number).collect();
                    for number in numbers {
                        let frames = self.take_sent(number);
                        frames.iter().for_each(|sent| self.streams.acked(sent));
                    }
                }
            }
            Frame::Lost(ranges) => {
                for range in ranges.iter() {
                    let numbers: Vec<u64> = self.sent.range(range).map(|(number, _)| *number).collect();
                    numbers.into_iter().for_each(|number| self.lose(number));
                }
            }
            Frame::Surbs { first, surbs } => {
                for (number, hinted) in (first..).zip(surbs.chunks_exact(HINTED_SURB_SIZE)) {
                    if self.surbs.len() >= if self.refusing { ASSURED_SURBS } else { MAX_SURBS } {
                        break;
                    }
                    if let [hint, surb @ ..] = hinted {
                        let surb = Surb::from_slice(surb)?;
                        self.surbs.insert(number, HeldSurb { hint: *hint, surb, since: now });
                    }
                }
            }
            Frame::Share(theirs) => {
                if self.later.is_none()
                    && let Some(early) = &self.early
                {
                    let (secret, share) = ephemeral(rng);
                    self.later = Some(early.with_forward_secrecy(&secret, &theirs)?);
                    self.share = Some(share);
                }
            }
            Frame::Open { .. } | Frame::Data { .. } | Frame::Window { .. } | Frame::Reset { .. } => {
                self.streams.handle_frame(frame)?;
            }
            _ => return Err(Error::new(ErrorKind::Malformed, "frame from the wrong side")),
        }
        Ok(())
    }

    /// SURBs beyond their life are of no use. Replies that nobody acknowledges, nor reports as lost, are sent
    /// again at last: the client does not always know which SURBs were burned.
    fn expire(&mut self, now: Instant, life: Duration, patience: Duration) {
        while self.surbs.first_key_value().is_some_and(|(_, held)| now.since(held.since) > life) {
            self.surbs.pop_first();
        }
        while let Some((&number, reply)) = self.sent.first_key_value()
            && (now.since(reply.at) > patience || self.sent.len() > MAX_REPLIES)
        {
            self.lose(number);
        }
    }

    /// Burns the lowest SURB. `None` if there is none.
    fn reply<F: PacketFormat>(
        &mut self,
        now: Instant,
        geometry: Geometry,
        out: &mut Vec<u8>,
    ) -> Option<Result<Transmit>> {
        let (number, held) = self.surbs.pop_first()?;
        let (phase, keys) = match (&self.later, self.later_since) {
            (Some(later), Some(_)) => (Phase::Later, later),
            _ => (Phase::Early, self.early.as_ref()?),
        };
        let homeward = keys.homeward.clone();
        let mut plain = Vec::with_capacity(geometry.message());
        plain.extend(now.as_micros().to_be_bytes());
        plain.push(0);
        let end = geometry.message() - 1 - TAG_SIZE;
        Frame::Ack(self.received.clone()).write(&mut plain, ACK_ROOM);
        let mut in_hand = RangeSet::new();
        for &number in self.surbs.keys() {
            in_hand.insert_one(number);
        }
        Frame::Held(in_hand).write(&mut plain, HELD_ROOM);
        if let Some(share) = self.share {
            Frame::Share(share).write(&mut plain, end);
        }
        let mut frames = Vec::new();
        self.streams.fill(&mut plain, end, &mut frames);
        while let Some((flow, target, bytes)) = self.datagrams.pop_front() {
            let before = plain.len();
            Frame::Datagram { flow, target: target.clone(), bytes: &bytes }.write(&mut plain, end);
            if plain.len() > end {
                plain.truncate(before);
                self.datagrams.push_front((flow, target, bytes));
                break;
            }
        }
        if (self.streams.pending() > 0 || !self.datagrams.is_empty())
            && let Some(flags) = plain.get_mut(8)
        {
            *flags = BACKLOG;
        }
        if !frames.is_empty() {
            // Who numbers two SURBs alike has given up the older one's reply.
            self.lose(number);
            self.sent_cost += cost_of_reply(&frames);
            self.sent.insert(number, SentReply { at: now, frames });
        }
        let sealed = homeward.seal(PacketNumber(number), &[phase as u8], &mut plain).and_then(|()| {
            let mut message = Vec::with_capacity(plain.len() + 1);
            message.push(phase as u8);
            message.append(&mut plain);
            F::use_surb(geometry, &held.surb, &message, out)
        });
        Some(match sealed {
            Ok(first) => Ok(Transmit { first, hint: held.hint }),
            Err(error) => {
                self.lose(number);
                Err(error)
            }
        })
    }
}

fn cost_of_reply(frames: &[Sent]) -> usize {
    REPLY_COST + frames.len() * FRAME_COST
}
