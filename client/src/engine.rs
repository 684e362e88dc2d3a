//! The one thread that owns the protocol machine. It never waits for an application, the link or a disk:
//! what it needs comes through its mailbox, what it makes goes into bounded buffers.

use crate::country::Apart;
use crate::datagram::{ExchangeKey, Exchanges};
use crate::inbox::{Inbox, Lines};
use crate::loop_times::LoopTimes;
use crate::pace::Pacer;
use crate::status::{Sharing, Status};
use crate::stream::{Pipe, PipeState, reset_error};
use crate::{Error, ErrorKind, Result};
use mizzle_link::Clock;
use mizzle_protocol::cover::{Ring, SlotKind, Token};
use mizzle_protocol::endpoint::{Endpoint, EndpointStatus, Event, Isolation, PingKey, PongReport, StreamKey};
use mizzle_protocol::id::{ClientAddress, Period, RelayId};
use mizzle_protocol::level::{Demand, Governor, Level, Levels};
use mizzle_protocol::path::Topology;
use mizzle_protocol::stream::{Read, ResetReason};
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::target::Target;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How others reach the engine.
pub(crate) type Mailbox = Inbox<Command>;

/// What others ask of the engine.
#[derive(Debug)]
pub(crate) enum Command {
    /// A newly verified view of the network.
    Topology(Arc<Topology>),
    /// The entry has granted this address.
    Entry(RelayId, ClientAddress),
    /// The document has ended: every stream ends, and nothing is built until there is another.
    Suspend,
    /// The computer's clock was set: every stream ends, and all begins anew by this clock.
    StartOver(Clock),
    /// Open a stream; answered when the exit has connected, or with why not.
    Open { isolation: Apart, target: Target, pipe: Arc<Pipe>, opened: oneshot::Sender<Result<()>> },
    /// Another level, at once; with a step: that one, for ever.
    Level(Level, Option<u8>),
    /// No session that there is takes another stream.
    NewIdentity,
    /// Datagrams to come and go; answered with their key.
    Exchange {
        isolation: Apart,
        home: mpsc::Sender<(Target, Vec<u8>)>,
        opened: oneshot::Sender<Result<ExchangeKey>>,
    },
    /// Send a datagram; answered when it waits for a slot, or with why not.
    Datagram { key: ExchangeKey, target: Target, bytes: Vec<u8>, taken: oneshot::Sender<Result<()>> },
    /// Measure one way through the network.
    Ping { exit: Option<RelayId>, answer: oneshot::Sender<Result<Pong>> },
    /// Where does everything stand?
    Status(oneshot::Sender<EngineStatus>),
}

/// One ping's way. The mixnet's own work is `arrival - slot - delays`.
#[derive(Clone, Copy, Debug)]
pub struct Pong {
    /// When the ping left, by our clock.
    pub slot: Instant,
    /// Sum of the delays drawn for its way out.
    pub delays: Duration,
    /// When it reached the exit, by the exit's clock.
    pub arrival: Instant,
    /// When the answer was home, by our clock.
    pub home: Instant,
}

/// The engine's own figures beside the protocol's.
#[derive(Clone, Debug)]
pub(crate) struct EngineStatus {
    /// The protocol's counters.
    pub(crate) endpoint: EndpointStatus,
    /// Rises that the step may still make within the hour.
    pub(crate) rises_left: Option<usize>,
    /// Streams that are open or being opened.
    pub(crate) streams: usize,
    /// Packets from the entry that found the line full.
    pub(crate) packets_dropped: u64,
    /// Packets that could not be built.
    pub(crate) builds_failed: u64,
    /// Datagrams that nobody took.
    pub(crate) datagrams_dropped: u64,
    /// Who has which sessions.
    pub(crate) sharing: Vec<Sharing>,
    /// How long the last loops took, in microseconds, if that is kept.
    pub(crate) loop_times: Vec<u64>,
}

impl EngineStatus {
    /// Enters these figures into a client's status.
    pub(crate) fn add_to(&self, status: &mut Status) {
        status.rises_left = self.rises_left;
        status.streams = self.streams as u64;
        status.packets_dropped = self.packets_dropped;
        let protocol = &self.endpoint;
        status.loops_sent = protocol.loops_sent;
        status.loops_returned = protocol.loops_home;
        status.last_loop_returned = protocol.last_loop_home.map(|home| home.unix().0);
        status.drops_sent = protocol.drops_sent;
        status.payload_sent = protocol.payload_sent;
        status.sessions = protocol.sessions as u64;
        status.packets_taken = protocol.taken;
        status.packets_refused = protocol.strays;
        status.session_packets_lost = protocol.totals.packets_lost;
        status.replies = protocol.totals.replies;
        status.replies_empty = protocol.totals.replies_empty;
        status.replies_lost = protocol.totals.replies_lost;
        status.replies_late = protocol.totals.replies_late;
        status.builds_failed = self.builds_failed;
        status.datagrams_dropped = self.datagrams_dropped;
        status.sharing.clone_from(&self.sharing);
        status.loop_times.clone_from(&self.loop_times);
    }
}

struct Engine {
    endpoint: Endpoint,
    rng: ChaCha20Rng,
    clock: Clock,
    mailbox: Arc<Mailbox>,
    ring: Arc<Mutex<Ring>>,
    governor: Governor,
    pacer: Arc<Pacer>,
    levels: Levels,
    governed: Instant,
    streams: HashMap<StreamKey, Open>,
    pings: HashMap<PingKey, oneshot::Sender<Result<Pong>>>,
    exchanges: Exchanges,
    /// Names for isolations, which are secrets themselves: drawn at random, kept while sessions live.
    labels: HashMap<Vec<u8>, String>,
    period: Option<Period>,
    entry: Option<(RelayId, ClientAddress)>,
    turn: usize,
    scratch: Vec<u8>,
    packets_dropped: u64,
    builds_failed: u64,
    loop_times: LoopTimes,
}

struct Open {
    pipe: Arc<Pipe>,
    opened: Option<oneshot::Sender<Result<()>>>,
}

/// Starts the engine's thread. It ends when the mailbox is stopped.
pub(crate) fn spawn(
    clock: Clock,
    mut rng: ChaCha20Rng,
    governor: Governor,
    pacer: Arc<Pacer>,
    mailbox: Arc<Mailbox>,
    ring: Arc<Mutex<Ring>>,
    loop_times: LoopTimes,
) -> Result<std::thread::JoinHandle<()>> {
    let engine = Engine {
        endpoint: Endpoint::new(&mut rng),
        rng,
        clock,
        mailbox,
        ring,
        governor,
        pacer,
        levels: Levels::default(),
        governed: Instant::ZERO,
        streams: HashMap::new(),
        pings: HashMap::new(),
        exchanges: Exchanges::default(),
        labels: HashMap::new(),
        period: None,
        entry: None,
        turn: 0,
        scratch: vec![0; CHUNK],
        packets_dropped: 0,
        builds_failed: 0,
        loop_times,
    };
    std::thread::Builder::new()
        .name("engine".into())
        .spawn(move || engine.run())
        .map_err(|error| Error::new(ErrorKind::Other, format!("cannot start the engine's thread: {error}")))
}

impl Engine {
    fn run(mut self) {
        let mailbox = Arc::clone(&self.mailbox);
        let mut lines: Lines<Command> = Lines::default();
        let mut built = false;
        loop {
            let timeout = match built {
                true => Some(Duration::ZERO),
                // A machine that asks to be called at once, again and again, must not eat the processor.
                false => self.next_timeout().map(|at| at.since(self.clock.now()).max(SHORTEST_WAIT)),
            };
            // Swapping keeps both sides' memory for the next round.
            mailbox.wait(timeout, |waiting| {
                std::mem::swap(&mut waiting.commands, &mut lines.commands);
                std::mem::swap(&mut waiting.packets, &mut lines.packets);
                std::mem::swap(&mut waiting.sent, &mut lines.sent);
                std::mem::swap(&mut waiting.news, &mut lines.news);
                lines.stop = waiting.stop;
                lines.packets_dropped = waiting.packets_dropped;
            });
            self.packets_dropped = lines.packets_dropped;
            self.take_in(&mut lines);
            let now = self.clock.now();
            if self.next_timeout().is_some_and(|at| at <= now) {
                self.endpoint.handle_timeout(now, &mut self.rng);
            }
            self.events(now);
            self.govern(now);
            if lines.stop {
                return self.suspend(now);
            }
            built = self.is_live() && self.build_one();
        }
    }

    /// Asks for the step that the load wants, and works at the rates that the entry has granted.
    fn govern(&mut self, now: Instant) {
        let (step, pace) = self.pacer.current();
        self.endpoint.set_pace(step.level, pace);
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).set_pace(pace);
        if self.is_live() && now.since(self.governed) >= GOVERN {
            self.governed = now;
            let demand = match self.endpoint.demand(now) {
                // What waits may be carried by the rates that were asked for and do not hold yet.
                Demand::More if self.governor.wanted() != step => Demand::Enough,
                demand => demand,
            };
            self.pacer.want(self.governor.observe(now, demand, &self.levels, &mut self.rng));
        }
    }

    /// Works off what has come. However much that is, the slots' reserve is looked after in between: what
    /// applications do must not empty it.
    fn take_in(&mut self, lines: &mut Lines<Command>) {
        for (token, at) in lines.sent.drain(..) {
            self.endpoint.sent(at, token);
        }
        // Before the commands, so that a status counts all that came before it was asked for.
        for mut packet in lines.packets.drain(..) {
            self.endpoint.handle_packet(self.clock.now(), &mut packet);
            self.keep_reserve();
        }
        for command in lines.commands.drain(..) {
            self.command(self.clock.now(), command);
            self.keep_reserve();
        }
        for pipe in lines.news.drain(..) {
            self.service(self.clock.now(), &pipe);
            self.keep_reserve();
        }
    }

    fn command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Topology(topology) => {
                let period = topology.period;
                self.levels = topology.parameters.levels.clone();
                self.endpoint.set_topology(now, topology);
                // Packets for the old keys would still be taken for a while, but tell the period apart.
                if self.period.replace(period) != Some(period) {
                    self.renew_ring(now);
                }
            }
            Command::Entry(entry, address) => {
                self.endpoint.set_entry(now, entry, address);
                // What leads home by another entry or address does not arrive.
                if self.entry.replace((entry, address)) != Some((entry, address)) {
                    self.renew_ring(now);
                }
            }
            Command::Suspend => self.suspend(now),
            Command::NewIdentity => {
                self.endpoint.retire_sessions();
                self.exchanges.forget_flows();
            }
            Command::Level(level, step) => {
                self.governor.change(level, step);
                self.pacer.want(self.governor.wanted());
            }
            Command::StartOver(clock) => {
                self.suspend(now);
                // Nothing that the machine remembers has a meaning by the new clock.
                self.endpoint = Endpoint::new(&mut self.rng);
                self.exchanges.forget_flows();
                self.clock = clock;
            }
            Command::Open { isolation, target, pipe, opened } => {
                self.open(now, isolation.borrowed(), target, pipe, opened)
            }
            Command::Exchange { isolation, home, opened } => {
                drop(opened.send(self.exchanges.open(isolation, home)));
            }
            Command::Datagram { key, target, bytes, taken } => {
                drop(taken.send(self.send_datagram(now, key, target, bytes)));
            }
            Command::Ping { exit, answer } => {
                self.pings.retain(|_, waiting| !waiting.is_closed());
                match self.endpoint.ping(now, exit, &mut self.rng) {
                    Ok(key) => drop(self.pings.insert(key, answer)),
                    // Who asked may be gone; then nobody needs the answer.
                    Err(error) => drop(answer.send(Err(error.into()))),
                }
            }
            Command::Status(answer) => {
                let status = EngineStatus {
                    rises_left: self.governor.rises_left(now),
                    endpoint: self.endpoint.status(),
                    streams: self.streams.len(),
                    packets_dropped: self.packets_dropped,
                    builds_failed: self.builds_failed,
                    datagrams_dropped: self.exchanges.dropped,
                    sharing: self.sharing(),
                    loop_times: self.loop_times.microseconds(),
                };
                drop(answer.send(status));
            }
        }
    }

    fn sharing(&mut self) -> Vec<Sharing> {
        let mut labels = std::mem::take(&mut self.labels);
        let mut sharing = Vec::new();
        for (isolation, sessions, streams) in self.endpoint.sharing() {
            let known = labels.remove(&isolation);
            let label = known.unwrap_or_else(|| format!("{:04x}", self.rng.next_u32() & 0xffff));
            sharing.push(Sharing {
                label: label.clone(),
                sessions: sessions as u64,
                streams: streams as u64,
            });
            self.labels.insert(isolation, label);
        }
        // Not in the order of the secrets.
        sharing.sort_by(|one, other| (other.streams, &one.label).cmp(&(one.streams, &other.label)));
        sharing
    }

    fn open(
        &mut self,
        now: Instant,
        isolation: Isolation<'_>,
        target: Target,
        pipe: Arc<Pipe>,
        opened: oneshot::Sender<Result<()>>,
    ) {
        if self.streams.len() >= MAX_STREAMS {
            return drop(opened.send(Err(reset_error(ResetReason::Exhausted))));
        }
        match self.endpoint.open(now, isolation, target, &mut self.rng) {
            Ok(key) => {
                pipe.lock().key = Some(key);
                self.streams.insert(key, Open { pipe: Arc::clone(&pipe), opened: Some(opened) });
                // What is to go along with the opening is there already.
                self.service(now, &pipe);
            }
            Err(error) => drop(opened.send(Err(error.into()))),
        }
    }

    fn send_datagram(
        &mut self,
        now: Instant,
        key: ExchangeKey,
        target: Target,
        bytes: Vec<u8>,
    ) -> Result<()> {
        let (isolation, flow) = self.exchanges.flow_to(key, &target.host)?;
        let sent = self.endpoint.send_datagram(now, isolation.borrowed(), flow, target, bytes, &mut self.rng);
        sent.map_err(|error| match error.kind() {
            mizzle_protocol::ErrorKind::Misuse => Error::new(ErrorKind::TooLarge, error.to_string()),
            _ => error.into(),
        })
    }

    fn events(&mut self, now: Instant) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Connected(key) => {
                    if let Some(opened) = self.streams.get_mut(&key).and_then(|open| open.opened.take()) {
                        drop(opened.send(Ok(())));
                    }
                }
                Event::Readable(key) | Event::Writable(key) => {
                    if let Some(pipe) = self.streams.get(&key).map(|open| Arc::clone(&open.pipe)) {
                        self.service(now, &pipe);
                    }
                }
                Event::Reset(key, reason) => {
                    // What came before the reset is still the application's.
                    if let Some(pipe) = self.streams.get(&key).map(|open| Arc::clone(&open.pipe)) {
                        let mut state = pipe.lock();
                        // It may refuse: the stream is no more.
                        let _ = pull(&mut self.endpoint, &mut self.scratch, now, key, &mut state);
                    }
                    self.end(key, reason);
                }
                Event::Pong(PongReport { key, slot, delays, arrival, home }) => {
                    if let Some(answer) = self.pings.remove(&key) {
                        drop(answer.send(Ok(Pong { slot, delays, arrival, home })));
                    }
                }
                Event::Datagram(datagram) => {
                    self.exchanges.arrived(datagram.flow, datagram.source, datagram.bytes);
                }
                Event::LoopHome { took, .. } => self.loop_times.push(took),
            }
        }
    }

    /// Moves bytes between an application's buffers and the protocol, as far as both have room.
    fn service(&mut self, now: Instant, pipe: &Pipe) {
        let mut state = pipe.lock();
        state.in_line = false;
        let Some(key) = state.key else { return };
        if state.dropped {
            let complete = state.finished && state.ended;
            drop(state);
            if self.streams.remove(&key).is_some() && !complete {
                self.endpoint.reset(now, key, ResetReason::Closed);
            }
            return;
        }
        if state.reset.is_some() {
            return;
        }
        let pushed = push(&mut self.endpoint, now, key, &mut state);
        let pulled = pull(&mut self.endpoint, &mut self.scratch, now, key, &mut state);
        drop(state);
        if let Err(reason) = pushed.and(pulled) {
            self.end(key, reason);
        }
    }

    /// The stream is no more.
    fn end(&mut self, key: StreamKey, reason: ResetReason) {
        let Some(open) = self.streams.remove(&key) else { return };
        if let Some(opened) = open.opened {
            drop(opened.send(Err(reset_error(reason))));
        }
        let mut state = open.pipe.lock();
        state.reset = Some(reason);
        state.outgoing = VecDeque::new();
        state.wake_reader();
        state.wake_writer();
    }

    fn suspend(&mut self, now: Instant) {
        self.endpoint.forget_topology();
        self.period = None;
        self.clear_ring(now);
        self.events(now);
        let keys: Vec<StreamKey> = self.streams.keys().copied().collect();
        for key in keys {
            self.end(key, ResetReason::NoNetwork);
        }
        for (_, answer) in self.pings.drain() {
            drop(answer.send(Err(reset_error(ResetReason::NoNetwork))));
        }
    }

    /// True when there is a network to build packets for.
    fn is_live(&self) -> bool {
        self.period.is_some() && self.entry.is_some()
    }

    /// Without a network nothing becomes due.
    fn next_timeout(&self) -> Option<Instant> {
        self.period.and_then(|_| self.endpoint.poll_timeout())
    }

    fn clear_ring(&mut self, now: Instant) {
        let lost = self.ring.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.discarded(now, lost);
    }

    fn renew_ring(&mut self, now: Instant) {
        let lost = self.ring.lock().unwrap_or_else(PoisonError::into_inner).renew();
        self.discarded(now, lost);
    }

    fn discarded(&mut self, now: Instant, lost: Vec<Token>) {
        for token in lost {
            self.endpoint.discarded(now, token);
        }
    }

    /// Builds a drop if the slots' reserve is low. (spec: COVER-3)
    fn keep_reserve(&mut self) {
        if self.is_live() && self.ring.lock().unwrap_or_else(PoisonError::into_inner).is_low() {
            self.build(SlotKind::Drop);
        }
    }

    /// Builds one packet of the next kind that has room, so that no kind starves another and the mailbox is
    /// looked at between two packets. False if there was nothing to build.
    fn build_one(&mut self) -> bool {
        if self.ring.lock().unwrap_or_else(PoisonError::into_inner).is_low() && self.build(SlotKind::Drop) {
            return true;
        }
        for _ in 0..KINDS.len() {
            self.turn = (self.turn + 1) % KINDS.len();
            let Some(&kind) = KINDS.get(self.turn) else { continue };
            if self.build(kind) {
                return true;
            }
        }
        self.build_urgent()
    }

    /// Builds one packet of this kind, if there is room and something to build.
    fn build(&mut self, kind: SlotKind) -> bool {
        if !self.ring.lock().unwrap_or_else(PoisonError::into_inner).has_room(kind) {
            return false;
        }
        let now = self.clock.now();
        match self.endpoint.build(now, kind, &mut self.rng) {
            Ok(Some(prepared)) => {
                let token = prepared.token;
                let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
                let pushed = ring.push(prepared);
                let retired = ring.retire();
                drop(ring);
                if pushed.is_err() {
                    self.endpoint.discarded(now, token);
                }
                self.discarded(now, retired);
                true
            }
            Ok(None) => false,
            Err(_) => {
                self.builds_failed += 1;
                false
            }
        }
    }

    /// What an application has just written does not wait behind a packet of SURBs.
    fn build_urgent(&mut self) -> bool {
        if !self.ring.lock().unwrap_or_else(PoisonError::into_inner).has_room_for_urgent() {
            return false;
        }
        let now = self.clock.now();
        match self.endpoint.build_urgent(now, &mut self.rng) {
            Ok(Some(prepared)) => {
                let token = prepared.token;
                let pushed = self.ring.lock().unwrap_or_else(PoisonError::into_inner).push_urgent(prepared);
                if pushed.is_err() {
                    self.endpoint.discarded(now, token);
                }
                true
            }
            Ok(None) => false,
            Err(_) => {
                self.builds_failed += 1;
                false
            }
        }
    }
}

/// Application to protocol.
fn push(
    endpoint: &mut Endpoint,
    now: Instant,
    key: StreamKey,
    state: &mut PipeState,
) -> Result<(), ResetReason> {
    let mut moved = false;
    while !state.outgoing.is_empty() {
        let count = endpoint.write(now, key, state.outgoing.as_slices().0)?;
        if count == 0 {
            break;
        }
        state.outgoing.drain(..count);
        moved = true;
    }
    if state.finish && !state.finished && state.outgoing.is_empty() {
        endpoint.finish(now, key);
        state.finished = true;
        moved = true;
    }
    if moved {
        state.wake_writer();
    }
    Ok(())
}

/// Protocol to application.
fn pull(
    endpoint: &mut Endpoint,
    scratch: &mut [u8],
    now: Instant,
    key: StreamKey,
    state: &mut PipeState,
) -> Result<(), ResetReason> {
    let mut moved = false;
    while !state.ended {
        let room = state.incoming_room().min(scratch.len());
        if room == 0 {
            state.starved = true;
            break;
        }
        match endpoint.read(now, key, scratch.get_mut(..room).unwrap_or_default())? {
            Read::Data(count) => state.incoming.extend(scratch.get(..count).unwrap_or_default()),
            Read::Finished => state.ended = true,
            Read::Empty => break,
        }
        moved = true;
    }
    if moved {
        state.wake_reader();
    }
    Ok(())
}

/// In the order in which they are tried, starting after the one built last.
const KINDS: [SlotKind; 3] = [SlotKind::Drop, SlotKind::Loop, SlotKind::Payload];
const CHUNK: usize = 16 * 1024;
const MAX_STREAMS: usize = 1_024;
const SHORTEST_WAIT: Duration = Duration::from_micros(100);
/// Pause between looks at the load.
const GOVERN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_link::seeded_rng;
    use mizzle_protocol::level::Step;
    use mizzle_protocol::path::{ExitNode, MixNode, Parameters};
    use mizzle_protocol::sphinx::SecretKey;

    /// Half a second's worth at the step that the engine below is at.
    const RESERVED: usize = 40;

    /// An engine with a network to build packets for; nothing runs.
    fn engine() -> Engine {
        let mut rng = seeded_rng().unwrap();
        let mut id = 0;
        let mut node = || {
            id += 1;
            MixNode { id: RelayId([id; 32]), key: SecretKey::generate(&mut rng).public() }
        };
        let topology = Topology {
            parameters: Parameters::local(),
            period: Period(0),
            layers: [vec![node()], vec![node()], vec![node()]],
            entries: vec![node()],
            exits: vec![ExitNode { node: node(), service_key: None, country: None }],
        };
        let step = Step { level: Level::Balanced, step: 2 };
        let pacer = Arc::new(Pacer::new(step));
        let mut engine = Engine {
            endpoint: Endpoint::new(&mut rng),
            rng,
            clock: Clock::new(),
            mailbox: Arc::new(Mailbox::new()),
            ring: Arc::new(Mutex::new(Ring::new(pacer.current().1))),
            governor: Governor::new(step.level, Some(step.step)),
            pacer,
            levels: Levels::default(),
            governed: Instant::ZERO,
            streams: HashMap::new(),
            pings: HashMap::new(),
            exchanges: Exchanges::default(),
            labels: HashMap::new(),
            period: None,
            entry: None,
            turn: 0,
            scratch: vec![0; CHUNK],
            loop_times: LoopTimes::new(0),
            packets_dropped: 0,
            builds_failed: 0,
        };
        let now = engine.clock.now();
        let entry = topology.entries[0].id;
        engine.command(now, Command::Topology(Arc::new(topology)));
        engine.command(now, Command::Entry(entry, ClientAddress([9; 32])));
        engine
    }

    #[test]
    fn the_reserve_is_kept_however_much_comes_for_applications() {
        let mut engine = engine();
        engine.keep_reserve();
        let geometry = Parameters::local().geometry;
        let mut lines = Lines::<Command>::default();
        // What a download brings while the machine was slow: 300 packets, handled in one go.
        lines.packets.extend((0..300).map(|_| vec![1; geometry.packet()]));
        engine.take_in(&mut lines);
        let mut ring = engine.ring.lock().unwrap();
        assert!(!ring.is_low());
        for _ in 0..RESERVED {
            assert!(ring.take(SlotKind::Payload).is_some());
        }
    }

    #[test]
    fn a_low_reserve_is_filled_before_payload_is_built() {
        let mut engine = engine();
        for _ in 0..100 {
            engine.endpoint.ping(engine.clock.now(), None, &mut engine.rng).unwrap();
        }
        for _ in 0..RESERVED {
            assert!(engine.ring.lock().unwrap().is_low());
            assert!(engine.build_one());
        }
        let ring = engine.ring.lock().unwrap();
        assert!(!ring.is_low() && ring.has_room(SlotKind::Payload));
    }
}
