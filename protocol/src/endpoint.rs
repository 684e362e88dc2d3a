//! A whole client on one entry link: paths, cover, SURBs, sessions and their streams.
//!
//! The driver asks for packets ahead of time ([`Endpoint::build`]) and keeps them in a
//! [`crate::cover::Ring`]; the slots take them from there. What the entry delivers goes to
//! [`Endpoint::handle_packet`]. Building takes about a millisecond of work for each route, so it must not
//! happen where the slots are timed.

use crate::country::Country;
use crate::cover::{Prepared, SlotKind, Token};
use crate::id::{ClientAddress, PacketNumber, RelayId, ReplyId, StreamId};
use crate::level::{Demand, Level, Levels, Pace, Step};
use crate::path::{ExitNode, MixNode, Route, Topology};
use crate::session::{ClientSession, FreshSurb, IncomingDatagram, SessionStatistics, Urgency};
use crate::sphinx::{PacketFormat, SecretKey, Sphinx, Surb};
use crate::stream::{MAX_STREAMS, Read, ResetReason, StreamEvent};
use crate::time::Instant;
use crate::wire::payload::{Payload, Ping, Pong};
use crate::wire::target::{Host, Target};
use crate::{Error, ErrorKind, Result};
use rand_core::CryptoRng;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Who may share a session, and where its exit is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Isolation<'a> {
    /// Only streams and datagrams with equal bytes here share a session.
    pub token: &'a [u8],
    /// Only exits that declare this country; `None`: any exit. It isolates, too. (spec: COUNTRY-2)
    pub exit_country: Option<Country>,
}

impl<'a> Isolation<'a> {
    /// By this token, with any exit.
    pub fn of(token: &'a [u8]) -> Self {
        Self { token, exit_country: None }
    }
}

impl fmt::Debug for Isolation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Isolation(redacted)")
    }
}

/// A stream of one of the sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey {
    session: u64,
    stream: StreamId,
}

/// A ping that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PingKey(u64);

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The stream's target accepted the connection.
    Connected(StreamKey),
    /// There is something to read, or the end.
    Readable(StreamKey),
    /// There is room to write again.
    Writable(StreamKey),
    /// The stream was cut off.
    Reset(StreamKey, ResetReason),
    /// A datagram came home.
    Datagram(IncomingDatagram),
    /// A ping came back.
    Pong(PongReport),
    /// A loop came back.
    LoopHome {
        /// From its slot until it was here.
        took: Duration,
        /// What of that was beyond its drawn delays: links, the entry's slots and queues.
        late: Duration,
    },
}

/// What a ping found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PongReport {
    /// Which ping.
    pub key: PingKey,
    /// When its slot was.
    pub slot: Instant,
    /// Sum of the outward delays drawn for it.
    pub delays: Duration,
    /// When it reached the exit, by the exit's clock.
    pub arrival: Instant,
    /// When the answer was here.
    pub home: Instant,
}

/// Counts since the endpoint was made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointStatus {
    /// Loops, drops and payload packets that left.
    pub loops_sent: u64,
    /// Drops that left.
    pub drops_sent: u64,
    /// Session packets and pings that left.
    pub payload_sent: u64,
    /// Loops that came home.
    pub loops_home: u64,
    /// When the last one did.
    pub last_loop_home: Option<Instant>,
    /// Packets that made sense.
    pub taken: u64,
    /// Packets that made no sense: not for this key, or for no SURB that is known.
    pub strays: u64,
    /// Sessions alive.
    pub sessions: usize,
    /// Streams alive.
    pub streams: usize,
    /// Sums over all sessions, the ended ones included.
    pub totals: SessionStatistics,
}

/// No new streams in a session after this.
pub const SESSION_AGE: Duration = Duration::from_secs(600);
/// A session without streams is closed after this.
pub const SESSION_IDLE: Duration = Duration::from_secs(30);
/// How long a slot may take to come for the packet that says so.
const CLOSING: Duration = Duration::from_secs(10);
/// An exit that is silent for this long gets no new streams.
pub const SUSPECT_SILENCE: Duration = Duration::from_secs(3);
/// An exit that is silent for this long while loops come home is gone.
pub const DEAD_SILENCE: Duration = Duration::from_secs(15);
/// How long an exit that was given up gets no new sessions.
const AVOID: Duration = Duration::from_secs(600);
/// Of so many last loops, so many must have come home for the network to count as working.
const LOOPS_JUDGED: usize = 10;
const LOOPS_WORKING: usize = 9;
/// A loop that is not home so long after its slot counts as dead.
const LOOP_PATIENCE: Duration = Duration::from_secs(2);
/// Sessions at a time. For another one that ends which was unused for the longest. (spec: SESSION-16)
pub const MAX_SESSIONS: usize = 512;
/// Labels whose exit is remembered; those of further ones change with each session.
const MAX_KEPT: usize = 4096;
/// Pings at a time.
pub const MAX_PINGS: usize = 1024;
/// Share of the line that sessions may ask for: the rest is the loops' and the entry queue's.
const LINE_SHARE: f64 = 0.97;
/// In `strong`, the share of the line that one session may ask for.
const STRONG_SHARE: f64 = 1.0 / 3.0;
/// More than so many seconds' worth to send is more than the pace carries.
const UPLOAD_WAITS: f64 = 0.5;
/// SURBs made ahead, and how long they wait for use.
const READY_SURBS: usize = 24;
const READY_LIFE: Duration = Duration::from_secs(20);
/// How often old SURBs and loops are cleared away.
const SWEEP: Duration = Duration::from_secs(1);

/// One client on one entry link. Its packets are [`Sphinx`] packets; only the simulator has others.
#[derive(Debug)]
pub struct Endpoint<F: PacketFormat = Sphinx> {
    key: SecretKey,
    level: Level,
    pace: Pace,
    topology: Option<Arc<Topology>>,
    entry: Option<(RelayId, ClientAddress)>,
    sessions: BTreeMap<u64, LabelledSession>,
    next_session: u64,
    /// The session that was served last, for turns.
    turn: u64,
    served_data: bool,
    stock: HashMap<ReplyId, StockedSurb<F::ReplyKeys>>,
    ready: VecDeque<ReadySurb<F::ReplyKeys>>,
    loops: HashMap<ReplyId, Flight>,
    /// Loops by the time of their slots, and whether the last of them came home.
    loops_out: VecDeque<(ReplyId, Instant)>,
    judged: VecDeque<bool>,
    outgoing: HashMap<Token, Outgoing>,
    next_token: u64,
    waiting_pings: VecDeque<(PingKey, Option<RelayId>)>,
    pings: HashMap<PingKey, Flight>,
    next_ping: u64,
    avoid: HashMap<RelayId, Instant>,
    /// The exit of each label, since when: targets see one address for as long as a session may be old, also when
    /// sessions come and go with the load.
    kept: HashMap<Label, (RelayId, Instant)>,
    events: VecDeque<Event>,
    status: EndpointStatus,
    swept: Instant,
}

#[derive(Debug)]
struct LabelledSession {
    /// Sessions are shared only within one label.
    label: Label,
    /// Takes no more streams.
    retired: bool,
    session: ClientSession,
}

/// What streams of one session have in common.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Label {
    exit_country: Option<Country>,
    /// Token and host.
    rest: Vec<u8>,
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Label(redacted)")
    }
}

#[derive(Debug)]
struct StockedSurb<K> {
    purpose: Purpose,
    keys: K,
    delay: Duration,
    made: Instant,
}

/// A SURB made ahead, for whoever needs one next: ten of them would delay a packet by ten milliseconds.
#[derive(Debug)]
struct ReadySurb<K> {
    reply: ReplyId,
    surb: Surb,
    keys: K,
    delay: Duration,
    made: Instant,
}

#[derive(Clone, Copy, Debug)]
enum Purpose {
    Session(u64, u64),
    Ping(PingKey),
}

/// A packet of our own whose return is timed.
#[derive(Clone, Copy, Debug)]
struct Flight {
    made: Instant,
    slot: Option<Instant>,
    delay: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Outgoing {
    Drop,
    Loop(ReplyId),
    Ping(PingKey),
    Session(u64, PacketNumber, Duration),
}

impl Endpoint {
    /// A client with a fresh link key. It can do nothing before it has a topology and an entry.
    ///
    /// It starts at the slowest `balanced` pace that there is by default; see [`Self::set_pace`].
    pub fn new(rng: &mut impl CryptoRng) -> Self {
        Self::with_format(rng)
    }
}

impl<F: PacketFormat> Endpoint<F> {
    /// The same with packets of another format.
    pub fn with_format(rng: &mut impl CryptoRng) -> Self {
        let (slowest, pace) = Levels::default().nearest(Step::default());
        Self {
            key: SecretKey::generate(rng),
            level: slowest.level,
            pace,
            topology: None,
            entry: None,
            sessions: BTreeMap::new(),
            next_session: 0,
            turn: 0,
            served_data: false,
            stock: HashMap::new(),
            ready: VecDeque::new(),
            loops: HashMap::new(),
            loops_out: VecDeque::new(),
            judged: VecDeque::new(),
            outgoing: HashMap::new(),
            next_token: 0,
            waiting_pings: VecDeque::new(),
            pings: HashMap::new(),
            next_ping: 0,
            avoid: HashMap::new(),
            kept: HashMap::new(),
            events: VecDeque::new(),
            status: EndpointStatus::default(),
            swept: Instant::ZERO,
        }
    }

    /// Shares out another rate from now on: the entry has granted it.
    pub fn set_pace(&mut self, level: Level, pace: Pace) {
        (self.level, self.pace) = (level, pace);
    }

    /// What the load asks of the pace.
    pub fn demand(&self, now: Instant) -> Demand {
        let Some(topology) = &self.topology else { return Demand::Little };
        let sessions = || self.sessions.values().map(|held| &held.session);
        let pending: u64 = sessions().map(ClientSession::pending).sum();
        let carried = self.pace.send_rate * topology.parameters.geometry.message() as f64;
        let appetite: f64 = sessions().map(|session| session.appetite(now)).sum();
        // Each takes a packet of its own.
        let opening = sessions().filter(|session| session.opens_a_stream()).count();
        let hungry = self.level == Level::Fast && appetite > self.line();
        if hungry
            || sessions().any(|session| session.is_short(now))
            || pending as f64 > carried * UPLOAD_WAITS
            || opening as f64 > self.pace.send_rate * UPLOAD_WAITS
        {
            Demand::More
        } else if pending > 0 || sessions().any(|session| session.is_loaded(now)) {
            Demand::Enough
        } else {
            Demand::Little
        }
    }

    /// Replies per second that all sessions together may ask for.
    fn line(&self) -> f64 {
        match self.level {
            // Loops make way for replies.
            Level::Strong => self.pace.receive_rate,
            _ => self.pace.receive_rate * LINE_SHARE - self.pace.loops(),
        }
    }

    /// Shares out what reaches the client: as much to each session as it can use, and what that leaves in equal
    /// parts to those that can use more. So what a person waits for does not stand behind a download.
    fn share_line(&mut self, now: Instant) {
        let mut left = self.line().max(0.0);
        let most = match self.level {
            Level::Strong => self.pace.receive_rate * STRONG_SHARE,
            _ => f64::INFINITY,
        };
        let mut hungry: Vec<(f64, u64)> = self
            .sessions
            .iter()
            .map(|(key, held)| (held.session.appetite(now).min(most), *key))
            .filter(|(appetite, _)| *appetite > 0.0)
            .collect();
        hungry.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut count = hungry.len();
        for (appetite, key) in hungry {
            let share = appetite.min(left / count as f64);
            left -= share;
            count -= 1;
            if let Some(held) = self.sessions.get_mut(&key) {
                held.session.set_share_of_line(share);
            }
        }
    }

    /// Takes over a new consensus. Sessions end whose exits are no longer in it, or no longer where they were asked
    /// to be.
    ///
    /// When the key period has changed, the driver clears its ring and reports what was in it as
    /// [`Self::discarded`].
    pub fn set_topology(&mut self, _now: Instant, topology: Arc<Topology>) {
        let fits = |held: &LabelledSession| {
            let exit = held.session.exit();
            topology.exits.iter().any(|known| known.node.id == exit && known.is_in(held.label.exit_country))
        };
        for (&key, labelled) in &mut self.sessions {
            if !fits(labelled) {
                labelled.session.streams.abandon(ResetReason::ExitGone);
                collect_events(key, &mut labelled.session, &mut self.events);
            }
        }
        self.sessions.retain(|_, held| fits(held));
        self.ready.clear();
        self.topology = Some(topology);
    }

    /// The consensus has ended and there is no other: everything stops. Fail closed.
    pub fn forget_topology(&mut self) {
        self.topology = None;
        for (&key, labelled) in &mut self.sessions {
            add(&mut self.status.totals, labelled.session.statistics());
            labelled.session.streams.abandon(ResetReason::NoNetwork);
            collect_events(key, &mut labelled.session, &mut self.events);
        }
        self.sessions.clear();
    }

    /// The entry has welcomed this link. With another entry or address, all SURBs given out are dead.
    pub fn set_entry(&mut self, _now: Instant, entry: RelayId, address: ClientAddress) {
        if self.entry.is_some_and(|old| old != (entry, address)) {
            self.stock.clear();
            self.ready.clear();
            self.loops.clear();
            // What was sent by the old one says nothing of the network as it is reached now.
            self.loops_out.clear();
            self.judged.clear();
            for labelled in self.sessions.values_mut() {
                labelled.session.forget_surbs();
            }
        }
        self.entry = Some((entry, address));
    }

    /// Opens a stream to `target`. Streams with equal `isolation` and equal host may share a session, and so
    /// an exit; others never do. The stream can be written to at once.
    ///
    /// Fails with [`ErrorKind::NoSuchExit`], naming the countries that there are, if no exit is where it is asked to be.
    pub fn open(
        &mut self,
        now: Instant,
        isolation: Isolation<'_>,
        target: Target,
        rng: &mut impl CryptoRng,
    ) -> Result<StreamKey> {
        let key = self.session_for(now, label(isolation, &target), rng)?;
        let held = self
            .sessions
            .get_mut(&key)
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "the session is gone"))?;
        held.session.open_stream(now, target).map(|stream| StreamKey { session: key, stream })
    }

    /// No session that there is takes another stream.
    pub fn retire_sessions(&mut self) {
        self.sessions.values_mut().for_each(|held| held.retired = true);
        self.kept.clear();
    }

    /// A session that this label may share, or a new one.
    fn session_for(&mut self, now: Instant, label: Label, rng: &mut impl CryptoRng) -> Result<u64> {
        let shared = self.sessions.iter_mut().find(|(_, held)| {
            held.label == label
                && !held.retired
                && !held.session.is_closing()
                && now.since(held.session.opened()) < SESSION_AGE
                && held.session.silence(now) < SUSPECT_SILENCE
                && held.session.streams.len() < MAX_STREAMS
        });
        match shared {
            Some((key, _)) => Ok(*key),
            None => self.open_session(now, label, rng),
        }
    }

    fn open_session(&mut self, now: Instant, label: Label, rng: &mut impl CryptoRng) -> Result<u64> {
        if self.sessions.len() >= MAX_SESSIONS && !self.give_up_unused(now) {
            return Err(Error::new(ErrorKind::Exhausted, "too many sessions"));
        }
        let topology = self.live_topology()?;
        let fits = |exit: &ExitNode| exit.service_key.is_some() && exit.is_in(label.exit_country);
        let usable = |exit: &ExitNode| fits(exit) && self.is_trusted(now, &exit.node.id);
        let kept = self.kept.get(&label).filter(|(_, since)| now.since(*since) < SESSION_AGE);
        let kept = kept.and_then(|(id, _)| topology.exits.iter().find(|exit| exit.node.id == *id));
        let exit = match kept.filter(|exit| usable(exit)) {
            Some(exit) => exit,
            // Fail closed: sooner an exit that has failed than one elsewhere.
            None => topology
                .random_exit(usable, rng)
                .or_else(|_| topology.random_exit(fits, rng))
                .map_err(|error| label.exit_country.map_or(error, |country| topology.no_exit_in(country)))?,
        };
        let exit_id = exit.node.id;
        let service = exit
            .service_key
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "the exit offers no service"))?;
        let delay = topology.parameters.mean_delay;
        let session = ClientSession::new(now, exit_id, delay, service, topology.period, rng)?;
        self.keep_exit(now, &label, exit_id);
        let key = self.next_session;
        self.next_session += 1;
        self.sessions.insert(key, LabelledSession { label, retired: false, session });
        Ok(key)
    }

    /// Ends the session that nobody has used for the longest, without a word: its exit will forget it. Sooner one
    /// without streams than one whose exit has not heard yet that they are cut off. False: all are in use.
    fn give_up_unused(&mut self, now: Instant) -> bool {
        let unused = self.sessions.iter().filter_map(|(key, held)| Some((held.session.unused(now)?, *key)));
        let rank = |(time, key): &(Duration, u64)| {
            let empty = self.sessions.get(key).is_some_and(|held| held.session.streams.is_empty());
            (empty, *time, std::cmp::Reverse(*key))
        };
        let Some((_, key)) = unused.max_by_key(rank) else { return false };
        self.end_session(key);
        true
    }

    /// Not given up lately, and silent in no session.
    fn is_trusted(&self, now: Instant, exit: &RelayId) -> bool {
        let suspect = |held: &LabelledSession| {
            held.session.exit() == *exit && held.session.silence(now) >= SUSPECT_SILENCE
        };
        self.avoid.get(exit).is_none_or(|since| now.since(*since) > AVOID)
            && !self.sessions.values().any(suspect)
    }

    /// The exit of this label from now on; what was kept of it before stays as old as it is.
    fn keep_exit(&mut self, now: Instant, label: &Label, exit: RelayId) {
        if self.kept.get(label).is_some_and(|(kept, since)| *kept == exit && now.since(*since) < SESSION_AGE)
        {
            return;
        }
        if self.kept.len() >= MAX_KEPT {
            self.kept.retain(|_, (_, since)| now.since(*since) < SESSION_AGE);
        }
        if self.kept.len() < MAX_KEPT {
            self.kept.insert(label.clone(), (exit, now));
        }
    }

    /// Takes bytes to send; how many. After fewer than given, an event tells when there is room.
    pub fn write(&mut self, now: Instant, key: StreamKey, bytes: &[u8]) -> Result<usize, ResetReason> {
        self.with(now, key, |session, stream| session.streams.write(stream, bytes))
            .unwrap_or(Err(ResetReason::Closed))
    }

    /// Nothing more will be written.
    pub fn finish(&mut self, now: Instant, key: StreamKey) {
        self.with(now, key, |session, stream| session.streams.finish(stream));
    }

    /// Cuts a stream off, both ways.
    pub fn reset(&mut self, now: Instant, key: StreamKey, reason: ResetReason) {
        self.with(now, key, |session, stream| session.streams.reset(stream, reason));
    }

    /// Reads what came.
    pub fn read(&mut self, _now: Instant, key: StreamKey, out: &mut [u8]) -> Result<Read, ResetReason> {
        match self.sessions.get_mut(&key.session) {
            Some(held) => held.session.streams.read(key.stream, out),
            None => Err(ResetReason::Closed),
        }
    }

    /// Sends a datagram to `target`, unreliably; answers come as [`Event::Datagram`] with the same `flow`.
    /// Sessions are shared as for [`Self::open`]; an exchange stays with its own. A datagram above a third of
    /// the network's payload size is refused: with 4 KiB packets, above 1365 bytes.
    pub fn send_datagram(
        &mut self,
        now: Instant,
        isolation: Isolation<'_>,
        flow: u64,
        target: Target,
        bytes: Vec<u8>,
        rng: &mut impl CryptoRng,
    ) -> Result<()> {
        if bytes.len() > self.live_topology()?.parameters.geometry.payload() / 3 {
            return Err(Error::new(ErrorKind::Misuse, "datagram too large for this network's packets"));
        }
        let key = self.session_of_flow(now, label(isolation, &target), flow, rng)?;
        if let Some(held) = self.sessions.get_mut(&key) {
            held.session.send_datagram(now, flow, target, bytes);
        }
        Ok(())
    }

    /// The session that has this exchange, however old: with another, its port would change. Else as for a stream;
    /// but nobody probes an exit for datagrams, so one that says nothing to these is passed over from now on.
    fn session_of_flow(
        &mut self,
        now: Instant,
        label: Label,
        flow: u64,
        rng: &mut impl CryptoRng,
    ) -> Result<u64> {
        let network_works = self.network_works();
        for (key, held) in self.sessions.iter().filter(|(_, held)| held.label == label) {
            if held.session.silence(now) >= SUSPECT_SILENCE {
                if network_works {
                    self.avoid.insert(held.session.exit(), now);
                }
            } else if held.session.carries(flow, now) && !held.session.is_closing() {
                return Ok(*key);
            }
        }
        self.session_for(now, label, rng)
    }

    /// The exit that a stream goes through, for a status page.
    pub fn exit_of(&self, key: StreamKey) -> Option<RelayId> {
        self.sessions.get(&key.session).map(|held| held.session.exit())
    }

    /// Sends a ping to `exit`, or to a random one.
    pub fn ping(
        &mut self,
        _now: Instant,
        exit: Option<RelayId>,
        _rng: &mut impl CryptoRng,
    ) -> Result<PingKey> {
        if self.waiting_pings.len() + self.pings.len() >= MAX_PINGS {
            return Err(Error::new(ErrorKind::Exhausted, "too many pings under way"));
        }
        let key = PingKey(self.next_ping);
        self.next_ping += 1;
        self.waiting_pings.push_back((key, exit));
        Ok(key)
    }

    /// Builds one packet of this kind; `None` if there is none to build.
    ///
    /// Errors: [`ErrorKind::Unavailable`] while there is no network or no entry.
    pub fn build(
        &mut self,
        now: Instant,
        kind: SlotKind,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Prepared>> {
        match kind {
            SlotKind::Drop => self.build_drop(rng).map(Some),
            SlotKind::Loop => self.build_loop(now, rng).map(Some),
            SlotKind::Payload if !self.waiting_pings.is_empty() => self.build_ping(now, rng),
            SlotKind::Payload => self.build_session(now, false, rng),
        }
    }

    /// Builds a packet that must not wait behind SURBs: a ping, or what an application has just written.
    /// `None` if there is none. For [`crate::cover::Ring::push_urgent`], when the usual place is taken.
    pub fn build_urgent(&mut self, now: Instant, rng: &mut impl CryptoRng) -> Result<Option<Prepared>> {
        match self.waiting_pings.is_empty() {
            false => self.build_ping(now, rng),
            true => self.build_session(now, true, rng),
        }
    }

    fn build_drop(&mut self, rng: &mut impl CryptoRng) -> Result<Prepared> {
        let topology = self.live_topology()?;
        let exit = topology.random_exit(|_| true, rng)?.node.clone();
        let mut message = Vec::new();
        Payload::Drop.emit(&mut message);
        self.prepare_outward(&topology, &exit, SlotKind::Drop, &message, rng, |_| Outgoing::Drop)
            .map(|(prepared, _)| prepared)
    }

    fn build_loop(&mut self, now: Instant, rng: &mut impl CryptoRng) -> Result<Prepared> {
        let topology = self.live_topology()?;
        if self.withdraws_loop(rng) {
            return self.build_drop(rng).map(|drop| Prepared { kind: SlotKind::Loop, ..drop });
        }
        let route = self.homeward(&topology, rng)?;
        let reply = fresh_reply_id(rng);
        let mut packet = Vec::new();
        F::build(topology.parameters.geometry, &route.hops, reply, &[], rng, &mut packet)?;
        self.loops.insert(reply, Flight { made: now, slot: None, delay: route.delay });
        self.prepared(&topology, SlotKind::Loop, &route, packet, Outgoing::Loop(reply))
    }

    /// In `strong`, replies come in the place of loops: so many fewer are sent as replies are asked for, and the
    /// arrivals at the entry stay one Poisson process of the rate λ_R. (spec: LEVEL-5)
    fn withdraws_loop(&self, rng: &mut impl CryptoRng) -> bool {
        if self.level != Level::Strong {
            return false;
        }
        let replies: f64 = self.sessions.values().map(|held| held.session.rate()).sum();
        let draw = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        draw * self.pace.loops() < replies
    }

    fn build_ping(&mut self, now: Instant, rng: &mut impl CryptoRng) -> Result<Option<Prepared>> {
        let topology = self.live_topology()?;
        let Some((key, exit)) = self.waiting_pings.pop_front() else { return Ok(None) };
        let exit = topology
            .random_exit(|known| exit.is_none_or(|wanted| known.node.id == wanted), rng)?
            .node
            .clone();
        let fresh = self.make_surb(now, &topology, Purpose::Ping(key), rng)?;
        let mut nonce = [0; 16];
        rng.fill_bytes(&mut nonce);
        let mut message = Vec::new();
        Payload::Ping(Ping { nonce, hint: fresh.hint, surb: fresh.surb }).emit(&mut message);
        let prepared = self
            .prepare_outward(&topology, &exit, SlotKind::Payload, &message, rng, |_| Outgoing::Ping(key))?;
        self.pings.insert(key, Flight { made: now, slot: None, delay: prepared.1 });
        Ok(Some(prepared.0))
    }

    fn build_session(
        &mut self,
        now: Instant,
        urgent: bool,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Prepared>> {
        let topology = self.live_topology()?;
        let Some(key) = self.most_urgent(now, urgent) else { return Ok(None) };
        // Taken out while SURBs are made for it, which needs the rest of the endpoint.
        let Some(mut held) = self.sessions.remove(&key) else { return Ok(None) };
        let result = self.build_for(now, &topology, key, &mut held.session, rng);
        self.sessions.insert(key, held);
        result.map(Some)
    }

    fn build_for(
        &mut self,
        now: Instant,
        topology: &Arc<Topology>,
        key: u64,
        session: &mut ClientSession,
        rng: &mut impl CryptoRng,
    ) -> Result<Prepared> {
        let exit = topology
            .exits
            .iter()
            .find(|exit| exit.node.id == session.exit())
            .map(|exit| exit.node.clone())
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "the exit is not in the consensus"))?;
        let mut packet = Vec::new();
        let number = session.build(now, topology.parameters.geometry, &mut packet, |number| {
            self.make_surb(now, topology, Purpose::Session(key, number), rng)
        })?;
        let mut message = Vec::new();
        Payload::Session(&packet).emit(&mut message);
        self.turn = key;
        let prepared = self.prepare_outward(topology, &exit, SlotKind::Payload, &message, rng, |delay| {
            Outgoing::Session(key, number, delay)
        });
        match prepared {
            Ok((prepared, _)) => Ok(prepared),
            Err(error) => {
                session.discarded(number);
                Err(error)
            }
        }
    }

    /// Data first, in turns; but a session that runs out of SURBs goes before the second data packet in a
    /// row, or an upload would starve a download.
    fn most_urgent(&mut self, now: Instant, urgent: bool) -> Option<u64> {
        self.share_line(now);
        let (turn, served_data) = (self.turn, self.served_data);
        let best = self
            .sessions
            .iter_mut()
            .filter_map(|(key, held)| {
                let rank = match held.session.urgency(now) {
                    Urgency::None => return None,
                    Urgency::Supply | Urgency::Starving if urgent => return None,
                    Urgency::Supply => 0,
                    Urgency::Starving => 1 + 2 * u8::from(served_data),
                    Urgency::Data => 2,
                };
                Some(((rank, *key > turn, std::cmp::Reverse(*key)), *key))
            })
            .max()?;
        self.served_data = best.0.0 == 2;
        Some(best.1)
    }

    /// The packet with this token left its slot at `now`.
    pub fn sent(&mut self, now: Instant, token: Token) {
        match self.outgoing.remove(&token) {
            None => {}
            Some(Outgoing::Drop) => self.status.drops_sent += 1,
            Some(Outgoing::Loop(reply)) => {
                self.status.loops_sent += 1;
                if let Some(flight) = self.loops.get_mut(&reply) {
                    flight.slot = Some(now);
                    self.loops_out.push_back((reply, now));
                }
            }
            Some(Outgoing::Ping(key)) => {
                self.status.payload_sent += 1;
                if let Some(flight) = self.pings.get_mut(&key) {
                    flight.slot = Some(now);
                }
            }
            Some(Outgoing::Session(key, number, delay)) => {
                self.status.payload_sent += 1;
                if let Some(held) = self.sessions.get_mut(&key) {
                    held.session.sent(now, number, delay);
                }
            }
        }
    }

    /// The packet with this token was thrown away unsent.
    pub fn discarded(&mut self, _now: Instant, token: Token) {
        match self.outgoing.remove(&token) {
            Some(Outgoing::Session(key, number, _)) => {
                if let Some(held) = self.sessions.get_mut(&key) {
                    held.session.discarded(number);
                }
            }
            Some(Outgoing::Loop(reply)) => {
                self.loops.remove(&reply);
            }
            Some(Outgoing::Ping(key)) => {
                self.pings.remove(&key);
            }
            Some(Outgoing::Drop) | None => {}
        }
    }

    /// Takes a packet that the entry delivered. What makes no sense is counted and dropped.
    pub fn handle_packet(&mut self, now: Instant, packet: &mut [u8]) {
        match self.try_packet(now, packet) {
            Ok(()) => self.status.taken += 1,
            Err(_) => self.status.strays += 1,
        }
    }

    fn try_packet(&mut self, now: Instant, packet: &mut [u8]) -> Result<()> {
        let stray = || Error::new(ErrorKind::Refused, "packet for nothing that is known");
        let geometry = self.live_topology()?.parameters.geometry;
        let (reply, payload) = F::receive(geometry, &self.key, packet)?;
        if let Some(flight) = self.loops.remove(&reply) {
            F::open_message(payload)?;
            self.status.loops_home += 1;
            self.status.last_loop_home = Some(now);
            let slot = flight.slot.unwrap_or(now);
            let late = now.since(slot + flight.delay);
            self.events.push_back(Event::LoopHome { took: now.since(slot), late });
            return Ok(());
        }
        let surb = self.stock.remove(&reply).ok_or_else(stray)?;
        let message = F::open_reply(&surb.keys, payload)?;
        match surb.purpose {
            Purpose::Ping(key) => {
                let pong = Pong::parse(message)?;
                let flight = self.pings.remove(&key).ok_or_else(stray)?;
                self.events.push_back(Event::Pong(PongReport {
                    key,
                    slot: flight.slot.unwrap_or(flight.made),
                    delays: flight.delay,
                    arrival: pong.arrival,
                    home: now,
                }));
                Ok(())
            }
            Purpose::Session(key, number) => {
                let held = self.sessions.get_mut(&key).ok_or_else(stray)?;
                let result = held.session.handle_reply(now, number, surb.delay, message);
                collect_events(key, &mut held.session, &mut self.events);
                result
            }
        }
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Instant, rng: &mut impl CryptoRng) {
        let Some(topology) = self.topology.clone() else {
            self.swept = now;
            return;
        };
        if self.wants_ready_surb()
            && let Ok(ready) = self.ready_surb(now, &topology, rng)
        {
            self.ready.push_back(ready);
        }
        let parameters = &topology.parameters;
        self.judge_loops(now);
        let network_works = self.network_works();
        let mut over = Vec::new();
        for (&key, held) in &mut self.sessions {
            let session = &mut held.session;
            session.handle_timeout(now, parameters.surb_life);
            let silence = session.silence(now);
            if session.is_overdrawn() {
                session.streams.abandon(ResetReason::General);
                self.avoid.insert(session.exit(), now);
                over.push(key);
            } else if silence > DEAD_SILENCE && session.probes() >= 20 && network_works {
                session.streams.abandon(ResetReason::ExitGone);
                self.avoid.insert(session.exit(), now);
                over.push(key);
            } else if session.waiting(now) > parameters.epoch * 3 {
                session.streams.abandon(ResetReason::TimedOut);
                over.push(key);
            } else if session.is_closed() || session.idle(now) > SESSION_IDLE + CLOSING {
                over.push(key);
            } else if session.idle(now) > SESSION_IDLE {
                session.close();
            }
            collect_events(key, session, &mut self.events);
        }
        for key in over {
            self.end_session(key);
        }
        if now.since(self.swept) >= SWEEP {
            self.swept = now;
            let life = parameters.surb_life;
            self.stock.retain(|_, surb| now.since(surb.made) < life);
            self.ready.retain(|ready| now.since(ready.made) < READY_LIFE);
            self.loops.retain(|_, flight| now.since(flight.made) < life);
            self.pings.retain(|_, flight| now.since(flight.made) < life);
            self.avoid.retain(|_, since| now.since(*since) < AVOID);
            self.kept.retain(|_, (_, since)| now.since(*since) < SESSION_AGE);
        }
    }

    /// When to call [`Self::handle_timeout`] next; a moment in the past means at once.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.wants_ready_surb() {
            return Some(Instant::ZERO);
        }
        let sessions = self.sessions.values().filter_map(|held| held.session.poll_timeout()).min();
        sessions.into_iter().chain([self.swept + SWEEP]).min()
    }

    fn wants_ready_surb(&self) -> bool {
        self.ready.len() < READY_SURBS && self.topology.is_some() && self.entry.is_some()
    }

    /// What happened next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Counts.
    pub fn status(&self) -> EndpointStatus {
        let mut status = self.status.clone();
        status.sessions = self.sessions.len();
        for held in self.sessions.values() {
            status.streams += held.session.streams.len();
            add(&mut status.totals, held.session.statistics());
        }
        status
    }

    /// Sessions and streams of each isolation that has any. The isolations are secrets: for the owner's eyes.
    pub fn sharing(&self) -> Vec<(Vec<u8>, usize, usize)> {
        let mut found: BTreeMap<&[u8], (usize, usize)> = BTreeMap::new();
        for held in self.sessions.values() {
            let (sessions, streams) = found.entry(isolation_of(&held.label.rest)).or_default();
            *sessions += 1;
            *streams += held.session.streams.len();
        }
        found
            .into_iter()
            .map(|(isolation, (sessions, streams))| (isolation.into(), sessions, streams))
            .collect()
    }

    /// Counts loops that are not home in time as dead.
    fn judge_loops(&mut self, now: Instant) {
        while let Some(&(reply, slot)) = self.loops_out.front()
            && now.since(slot) > LOOP_PATIENCE
        {
            self.loops_out.pop_front();
            self.judged.push_back(!self.loops.contains_key(&reply));
            if self.judged.len() > LOOPS_JUDGED {
                self.judged.pop_front();
            }
        }
    }

    /// True if nearly all of the last loops came home: an exit that is silent then is itself to blame.
    pub fn network_works(&self) -> bool {
        self.judged.len() == LOOPS_JUDGED && self.judged.iter().filter(|&&home| home).count() >= LOOPS_WORKING
    }

    fn end_session(&mut self, key: u64) {
        if let Some(held) = self.sessions.remove(&key) {
            add(&mut self.status.totals, held.session.statistics());
        }
    }

    fn live_topology(&self) -> Result<Arc<Topology>> {
        self.topology.clone().ok_or_else(|| Error::new(ErrorKind::Unavailable, "there is no valid consensus"))
    }

    fn homeward(&self, topology: &Topology, rng: &mut impl CryptoRng) -> Result<Route> {
        let (entry, address) = self
            .entry
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "there is no connection to an entry"))?;
        topology.homeward(entry, address, self.key.public(), rng)
    }

    fn make_surb(
        &mut self,
        now: Instant,
        topology: &Topology,
        purpose: Purpose,
        rng: &mut impl CryptoRng,
    ) -> Result<FreshSurb> {
        let ready = match self.ready.pop_front() {
            Some(ready) => ready,
            None => self.ready_surb(now, topology, rng)?,
        };
        let ReadySurb { reply, surb, keys, delay, made } = ready;
        self.stock.insert(reply, StockedSurb { purpose, keys, delay, made });
        Ok(FreshSurb { surb, hint: topology.period.hint(), delay })
    }

    fn ready_surb(
        &self,
        now: Instant,
        topology: &Topology,
        rng: &mut impl CryptoRng,
    ) -> Result<ReadySurb<F::ReplyKeys>> {
        let route = self.homeward(topology, rng)?;
        let reply = fresh_reply_id(rng);
        let (surb, keys) = F::build_surb(&route.hops, reply, rng)?;
        Ok(ReadySurb { reply, surb, keys, delay: route.delay, made: now })
    }

    fn prepare_outward(
        &mut self,
        topology: &Topology,
        exit: &MixNode,
        kind: SlotKind,
        message: &[u8],
        rng: &mut impl CryptoRng,
        outgoing: impl FnOnce(Duration) -> Outgoing,
    ) -> Result<(Prepared, Duration)> {
        let route = topology.outward(exit, rng)?;
        let mut packet = Vec::new();
        let zero = ReplyId([0; 16]);
        F::build(topology.parameters.geometry, &route.hops, zero, message, rng, &mut packet)?;
        let prepared = self.prepared(topology, kind, &route, packet, outgoing(route.delay))?;
        Ok((prepared, route.delay))
    }

    fn prepared(
        &mut self,
        topology: &Topology,
        kind: SlotKind,
        route: &Route,
        packet: Vec<u8>,
        outgoing: Outgoing,
    ) -> Result<Prepared> {
        let first =
            route.first().ok_or_else(|| Error::new(ErrorKind::Misuse, "a route has one hop at least"))?;
        let token = Token(self.next_token);
        self.next_token += 1;
        self.outgoing.insert(token, outgoing);
        Ok(Prepared { kind, token, first, hint: topology.period.hint(), packet })
    }

    fn with<T>(
        &mut self,
        now: Instant,
        key: StreamKey,
        act: impl FnOnce(&mut ClientSession, StreamId) -> T,
    ) -> Option<T> {
        let held = self.sessions.get_mut(&key.session)?;
        held.session.touch(now);
        let result = act(&mut held.session, key.stream);
        collect_events(key.session, &mut held.session, &mut self.events);
        Some(result)
    }
}

fn collect_events(key: u64, session: &mut ClientSession, events: &mut VecDeque<Event>) {
    while let Some(event) = session.streams.poll_event() {
        let of = |stream| StreamKey { session: key, stream };
        events.push_back(match event {
            StreamEvent::Connected(stream) => Event::Connected(of(stream)),
            StreamEvent::Readable(stream) => Event::Readable(of(stream)),
            StreamEvent::Writable(stream) => Event::Writable(of(stream)),
            StreamEvent::Reset(stream, reason) => Event::Reset(of(stream), reason),
            StreamEvent::Opened(..) => continue,
        });
    }
    while let Some(datagram) = session.poll_datagram() {
        events.push_back(Event::Datagram(datagram));
    }
}

fn label(isolation: Isolation<'_>, target: &Target) -> Label {
    let Isolation { token, exit_country } = isolation;
    let mut rest = (token.len() as u64).to_be_bytes().to_vec();
    rest.extend(token);
    match &target.host {
        Host::Address(address) => rest.extend(address.to_string().bytes()),
        Host::Name(name) => rest.extend(name.bytes()),
        // No name and no address has such a byte: look-ups, and the directory, have sessions of their own.
        Host::Resolver => rest.push(0),
        Host::Documents => rest.push(1),
    }
    Label { exit_country, rest }
}

/// The isolation that a label begins with.
fn isolation_of(label: &[u8]) -> &[u8] {
    let Some((length, rest)) = label.split_first_chunk() else { return &[] };
    let length = usize::try_from(u64::from_be_bytes(*length)).unwrap_or(usize::MAX);
    rest.get(..length).unwrap_or_default()
}

fn fresh_reply_id(rng: &mut impl CryptoRng) -> ReplyId {
    let mut id = [0; 16];
    while id == [0; 16] {
        rng.fill_bytes(&mut id);
    }
    ReplyId(id)
}

fn add(total: &mut SessionStatistics, more: SessionStatistics) {
    total.packets += more.packets;
    total.packets_lost += more.packets_lost;
    total.replies += more.replies;
    total.replies_empty += more.replies_empty;
    total.replies_lost += more.replies_lost;
    total.replies_late += more.replies_late;
}
