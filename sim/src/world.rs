//! Links, mixes and gateways in virtual time: takes packets in, and says where and when they come out.
//!
//! Packets are real Sphinx packets that each relay unwraps by [`Mix::process`], or packets in the clear
//! ([`Clear`]), for which [`Mix::process_opened`] decides the same; or they are modelled, and go ways that the
//! product does not have ([`Roads`]). All wait in the same [`Held`], and are counted by the same
//! [`DropReason`]s.

use crate::clear::Clear;
use crate::links::Links;
use crate::observe::{End, Fate, Observer, Place};
use crate::packets::{First, PacketId, Packets, RELAYS};
use crate::place::{client_address, number, relay_id};
use crate::queue::Queue;
use crate::roads::{Law, Roads};
use crate::turnover::{Secrets, Turnover};
use mizzle_protocol::cover::Ticks;
use mizzle_protocol::delay::poisson_interval;
use mizzle_protocol::geometry::HEADER_SIZE;
use mizzle_protocol::id::{ClientAddress, Period, RelayId, ReplayTag, ReplyId};
use mizzle_protocol::level::{Level, Pace, Step};
use mizzle_protocol::mix::{
    Action, DropReason, Held, LivePeriod, Mix, Neighbours, Opened, ReplayFilter, Source,
};
use mizzle_protocol::path::{Parameters, Topology, below};
use mizzle_protocol::relay_loops::{RelayLoops, Status};
use mizzle_protocol::session::ServiceSecret;
use mizzle_protocol::sphinx::{Routing, Sphinx};
use mizzle_protocol::time::Instant;
use mizzle_protocol::{Error, ErrorKind, Result};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// What packets are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Sphinx: two hundred times slower, the same ways and times.
    Sphinx,
    /// In the clear, through the machines of the product.
    #[default]
    Clear,
    /// In the clear, over any [`Roads`], through none of the product's checks.
    Modelled,
}

/// The shape of a network, and what its links do.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Consensus parameters.
    pub parameters: Parameters,
    /// What its clients send and receive, until told otherwise.
    pub pace: Pace,
    /// Its mixes.
    pub roads: Roads,
    /// Entries.
    pub entries: usize,
    /// Exits.
    pub exits: usize,
    /// Clients; each keeps one entry.
    pub clients: usize,
    /// Distance, width and loss.
    pub links: Links,
    /// What packets are made of.
    pub format: Format,
    /// Relays remember packets in the clear, too, and refuse what comes twice. They remember Sphinx packets always.
    pub replays: bool,
    /// Loops a second of each relay; where packets are modelled there are none.
    pub relay_loops: f64,
    /// What changes meanwhile; `None`: nothing.
    pub turnover: Option<Turnover>,
}

impl Default for Shape {
    /// A local network's: nine mixes, three entries, three exits; its clients at a `balanced` level's third step.
    fn default() -> Self {
        let parameters = Parameters::default();
        let (_, pace) = parameters.levels.nearest(Step { level: Level::Balanced, step: 2 });
        Self {
            parameters,
            pace,
            roads: Roads::of_the_product(3),
            entries: 3,
            exits: 3,
            clients: 1,
            links: Links::default(),
            format: Format::Clear,
            replays: false,
            relay_loops: 0.0,
            turnover: None,
        }
    }
}

impl Shape {
    /// Mixes of all layers.
    pub fn mixes(&self) -> usize {
        self.roads.layers * self.roads.width
    }

    /// Packets a second that loops of relays bring to each layer: those of its own mixes end there, and are not held.
    pub(crate) fn loops_of_a_layer(&self) -> f64 {
        let relays = self.mixes() + self.entries + self.exits;
        match self.format {
            Format::Modelled => 0.0,
            _ => self.relay_loops * (relays - self.roads.width) as f64,
        }
    }

    /// Fails if there is nobody in one of the roles, or the product has no such network.
    pub(crate) fn check(&self) -> Result<()> {
        let misuse = |why| Err(Error::new(ErrorKind::Misuse, why));
        let own = Roads::of_the_product(self.roads.width);
        if self.mixes() == 0 || self.entries == 0 || self.exits == 0 || self.clients == 0 {
            return misuse("a network has mixes, entries, exits and clients");
        }
        if self.format == Format::Modelled && self.turnover.is_some() {
            return misuse("where packets are modelled nothing changes: leave network.epoch_s at 0");
        }
        if self.format != Format::Modelled && self.roads != own {
            return misuse(
                "the product has three layers and exponential delays; other networks have modelled packets",
            );
        }
        Ok(())
    }
}

/// What comes out of the world, and whom it concerns.
#[derive(Debug)]
pub enum Output {
    /// A packet has reached its exit.
    Delivered {
        /// The exit's index among the exits.
        exit: usize,
        /// Zero outward.
        reply: ReplyId,
        /// Its message; empty if modelled.
        message: Vec<u8>,
    },
    /// A packet has reached its client, with the client's own layer left.
    Home {
        /// The client.
        client: usize,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// There is a new document, [`World::topology`], with other keys perhaps.
    Document,
    /// A moment that the driver asked for by [`World::wake_at`] has come.
    Wake(
        /// The driver's own number.
        u64,
    ),
}

/// A simulated network.
pub struct World<O: Observer = ()> {
    now: Instant,
    events: Queue<Event>,
    packets: Packets,
    relays: Vec<Relay>,
    clients: Vec<Client>,
    topology: Arc<Topology>,
    secrets: Secrets,
    /// Those of the period before, and its last document, within the overlap.
    old: Option<(Secrets, Arc<Topology>)>,
    period_began: Instant,
    /// Draws for what changes alone.
    turns: ChaCha20Rng,
    shape: Shape,
    rng: ChaCha20Rng,
    sent: u64,
    delivered: u64,
    dropped: BTreeMap<DropReason, u64>,
    taken: u64,
    /// Draws for loops of relays alone, so that a network without them draws the same for everything else.
    loop_rng: ChaCha20Rng,
    /// When alarms of relays went on, and of which.
    alarms: Vec<(Instant, u32)>,
    /// Who watches.
    pub observer: O,
}

#[derive(Debug)]
enum Event {
    /// A client's packet is at its entry.
    Up {
        client: u32,
        first: u32,
        packet: PacketId,
    },
    Arrive {
        relay: u32,
        from: u32,
        packet: PacketId,
    },
    /// One of a mix's packets leaves.
    Due {
        relay: u32,
    },
    EntrySlot {
        client: u32,
    },
    /// A relay's loop is due.
    Loop {
        relay: u32,
    },
    /// There is a new document.
    Epoch,
    /// The keys of the period before are over.
    Overlap,
    /// A relay is cut off from all others.
    Cut {
        relay: u32,
    },
    /// It is not, any more.
    Mended {
        relay: u32,
    },
    Home {
        client: u32,
        packet: PacketId,
    },
    Wake(u64),
}

struct Relay {
    id: RelayId,
    /// Not cut off.
    is_up: bool,
    mix: Mix,
    tags: Tags,
    held: Held<(u32, PacketId)>,
    /// What a pool mix holds, for no set time.
    pool: Vec<(u32, PacketId)>,
    /// When all that came is unwrapped.
    unwrapped: Instant,
    /// When all that left is on the line.
    line_free: Instant,
    /// Its own loops.
    loops: RelayLoops,
}

struct Client {
    entry: u32,
    /// Slots per second at the entry.
    slots: f64,
    /// Packets that may wait there.
    room: usize,
    waiting: VecDeque<PacketId>,
}

/// Replay tags of one relay, in memory; without, it remembers nothing.
struct Tags(Option<RefCell<HashSet<(Period, ReplayTag)>>>);

impl ReplayFilter for Tags {
    fn insert(&self, period: Period, tag: ReplayTag) -> Result<()> {
        let Some(seen) = &self.0 else { return Ok(()) };
        match seen.borrow_mut().insert((period, tag)) {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Replayed, "seen before")),
        }
    }
}

impl<O: Observer> World<O> {
    /// A network of this shape, with keys of its own, at `start`.
    ///
    /// [`ErrorKind::Misuse`] if nobody is in one of the roles, or if packets that are not modelled should go ways
    /// that the product does not have.
    pub fn new(mut shape: Shape, start: Instant, seed: u64, observer: O) -> Result<Self> {
        shape.check()?;
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let relays = shape.mixes() + shape.entries + shape.exits;
        shape.links.distance.place(relays, shape.clients, seed);
        let secrets = Secrets::first(&shape, &mut rng);
        let topology = secrets.topology(&shape, |_| true)?;
        let mut loop_rng = ChaCha20Rng::seed_from_u64(seed ^ LOOPS);
        let rate = if shape.format == Format::Modelled { 0.0 } else { shape.relay_loops };
        let relays: Vec<_> = (0..secrets.keys.len())
            .map(|index| Relay {
                id: relay_id(index),
                is_up: true,
                mix: mix(&shape, index, &[(&secrets, &topology)]),
                tags: Tags((shape.replays || shape.format == Format::Sphinx).then(RefCell::default)),
                held: Held::new(),
                pool: Vec::new(),
                unwrapped: start,
                line_free: start,
                loops: RelayLoops::new(relay_id(index), rate, start, &mut loop_rng),
            })
            .collect();
        let first_entry = shape.mixes();
        let clients = (0..shape.clients)
            .map(|index| Client {
                entry: (first_entry + index % shape.entries) as u32,
                slots: shape.pace.receive_rate * shape.parameters.entry_slot_factor,
                room: shape.pace.entry_room(),
                waiting: VecDeque::new(),
            })
            .collect();
        let mut turns = ChaCha20Rng::seed_from_u64(seed ^ TURNS);
        let mut events = Queue::new(start);
        if let Some(turnover) = shape.turnover {
            events.push(start + turnover.epoch, Event::Epoch);
            let (first_entry, first_exit) = (shape.mixes(), shape.mixes() + shape.entries);
            let may_be_cut = |relay: &usize| !(first_entry..first_exit).contains(relay);
            for relay in (0..relays.len()).filter(may_be_cut) {
                if turnover.cuts_an_hour > 0.0 {
                    let next = start + poisson_interval(turnover.cuts_an_hour / 3_600.0, &mut turns);
                    events.push(next, Event::Cut { relay: relay as u32 });
                }
            }
        }
        for (relay, number) in relays.iter().zip(0..) {
            if let Some(due) = relay.loops.poll_timeout() {
                events.push(due, Event::Loop { relay: number });
            }
        }
        Ok(Self {
            now: start,
            events,
            packets: Packets::default(),
            relays,
            clients,
            topology: Arc::new(topology),
            secrets,
            old: None,
            period_began: start,
            turns,
            shape,
            rng,
            sent: 0,
            delivered: 0,
            dropped: BTreeMap::new(),
            taken: 0,
            loop_rng,
            alarms: Vec::new(),
            observer,
        })
    }

    /// The moment.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The network's shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Who is in the network.
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// The service keys of an exit that are live, by its index among the exits.
    pub fn services(&self, exit: usize) -> Vec<(Period, ServiceSecret)> {
        let all = self.old.iter().map(|(old, _)| old).chain([&self.secrets]);
        all.filter_map(|secrets| Some((secrets.period, secrets.services.get(exit)?.clone()))).collect()
    }

    /// The entry that a client keeps, and the address that it has there.
    pub fn place_of(&self, client: usize) -> Option<(RelayId, ClientAddress)> {
        let entry = self.clients.get(client)?.entry;
        Some((self.relays.get(entry as usize)?.id, client_address(client)))
    }

    /// The number of the relay that a client keeps as its entry.
    pub(crate) fn entry_of(&self, client: usize) -> Option<usize> {
        self.clients.get(client).map(|client| client.entry as usize)
    }

    /// Packets that a mix holds.
    pub(crate) fn held(&self, mix: usize) -> usize {
        self.relays.get(mix).map_or(0, |relay| relay.held.len() + relay.pool.len())
    }

    /// The world's own randomness, for drivers that want to share it.
    pub fn rng(&mut self) -> &mut ChaCha20Rng {
        &mut self.rng
    }

    /// Asks for [`Output::Wake`] at `when`, or now if that is past.
    pub fn wake_at(&mut self, when: Instant, number: u64) {
        self.events.push(when.max(self.now), Event::Wake(number));
    }

    /// A client's entry grants it other rates.
    pub fn set_pace(&mut self, client: usize, pace: Pace) {
        let factor = self.shape.parameters.entry_slot_factor;
        if let Some(client) = self.clients.get_mut(client) {
            (client.slots, client.room) = (pace.receive_rate * factor, pace.entry_room());
        }
    }

    /// A client sends a packet in a slot: to its entry, which checks it and passes it on to the first mix. Its bytes
    /// are taken; the buffer comes back, another one, to be used again.
    pub fn send(&mut self, client: usize, first: First, bytes: &mut Vec<u8>) {
        self.sent += 1;
        let (entry, from) = (self.clients.get(client).map_or(0, |client| client.entry), client as u32);
        let id = self.start(Place::Client(from), from, first.hint, bytes);
        let way = self.shape.links.distance.between(Place::Client(from), Place::Relay(entry));
        let to = number(&first.relay.0) as u32;
        self.cross(Place::Client(from), entry, id, |world, id, held| {
            let event = Event::Up { client: from, first: to, packet: id };
            world.events.push(world.now + held + way, event);
        });
    }

    /// An exit's service sends a reply; the exit's index is among the exits. For the buffer see [`Self::send`].
    pub fn reply(&mut self, exit: usize, first: First, bytes: &mut Vec<u8>) {
        self.sent += 1;
        let index = self.shape.mixes() + self.shape.entries + exit;
        let sender = (self.shape.clients + exit) as u32;
        let id = self.start(Place::Relay(index as u32), sender, first.hint, bytes);
        self.travel(index as u32, number(&first.relay.0), id);
    }

    fn start(&mut self, from: Place, sender: u32, hint: u8, bytes: &mut Vec<u8>) -> PacketId {
        let id = self.packets.start(self.now, sender, hint);
        if let Some(packet) = self.packets.get_mut(id) {
            std::mem::swap(&mut packet.bytes, bytes);
            self.observer.sent(self.now, from, packet);
        }
        id
    }

    /// A relay is cut off, or not any more; then the next time is drawn.
    fn cut(&mut self, index: u32, is_up: bool) {
        let Some(turnover) = self.shape.turnover else { return };
        if let Some(relay) = self.relays.get_mut(index as usize) {
            relay.is_up = is_up;
        }
        let (mean, event) = match is_up {
            true => (3_600.0 / turnover.cuts_an_hour.max(1e-9), Event::Cut { relay: index }),
            false => (turnover.cut.as_secs_f64(), Event::Mended { relay: index }),
        };
        let next = self.now + poisson_interval(1.0 / mean.max(1e-9), &mut self.turns);
        self.events.push(next, event);
    }

    /// An epoch is over: the next document lists who is up, with new keys and layers if the key period is over, too. False:
    /// none could be made, as somebody is in no layer or there is no exit; the old one stays.
    fn turn(&mut self) -> bool {
        let Some(turnover) = self.shape.turnover else { return false };
        self.events.push(self.now + turnover.epoch, Event::Epoch);
        let is_over = |period| self.now.since(self.period_began) >= period;
        let secrets =
            turnover.key_period.is_some_and(is_over).then(|| self.secrets.next(&self.shape, &mut self.turns));
        let is_up = |index: usize| self.relays.get(index).is_some_and(|relay| relay.is_up);
        let newest = secrets.as_ref().unwrap_or(&self.secrets);
        let Ok(topology) = newest.topology(&self.shape, is_up) else { return false };
        if topology.layers.iter().any(Vec::is_empty) || topology.exits.is_empty() {
            return false;
        }
        let before = std::mem::replace(&mut self.topology, Arc::new(topology));
        if let Some(secrets) = secrets {
            self.old = Some((std::mem::replace(&mut self.secrets, secrets), before));
            self.period_began = self.now;
            self.events.push(self.now + turnover.overlap, Event::Overlap);
        }
        self.renew();
        true
    }

    /// Relays go by the keys and the documents that are live now.
    fn renew(&mut self) {
        let mut live = vec![(&self.secrets, &*self.topology)];
        live.extend(self.old.iter().map(|(secrets, topology)| (secrets, &**topology)));
        for (index, relay) in self.relays.iter_mut().enumerate() {
            relay.mix = mix(&self.shape, index, &live);
        }
    }

    /// A packet is on a link to a relay; `go` lets it arrive there, so much later than it would. Whoever has the link in his hands
    /// decides.
    fn cross(&mut self, from: Place, to: u32, id: PacketId, go: impl Fn(&mut Self, PacketId, Duration)) {
        let Some(packet) = self.packets.get_mut(id) else { return };
        match self.observer.crosses(self.now, from, to, packet) {
            Fate::Pass => go(self, id, Duration::ZERO),
            Fate::Hold(time) => go(self, id, time),
            Fate::Take => self.end(id, End::Taken),
            Fate::Spoil => {
                packet.spoilt = true;
                if self.shape.format == Format::Sphinx
                    && let Some(byte) = packet.bytes.get_mut(HEADER_SIZE)
                {
                    *byte ^= 1;
                }
                go(self, id, Duration::ZERO);
            }
            Fate::Copy(times) => {
                let (sender, hint, bytes) = (packet.sender, packet.hint, packet.bytes.clone());
                go(self, id, Duration::ZERO);
                for _ in 0..times {
                    self.sent += 1;
                    let copy = self.packets.start(self.now, sender, hint);
                    if let Some(packet) = self.packets.get_mut(copy) {
                        packet.bytes.clone_from(&bytes);
                    }
                    go(self, copy, Duration::ZERO);
                }
            }
        }
    }

    /// A relay's loop is due, or its last ones are to be judged.
    fn send_loop(&mut self, index: u32) {
        let (now, topology, mut bytes) = (self.now, self.topology.clone(), Vec::new());
        let Some(relay) = self.relays.get_mut(index as usize) else { return };
        let (rng, was_on) = (&mut self.loop_rng, relay.loops.status().alarm);
        let due = relay.loops.poll(now, Some(&topology), rng);
        let sent = due.filter(|due| {
            let built = match self.shape.format {
                Format::Sphinx => due.build::<Sphinx>(rng, &mut bytes),
                _ => due.build::<Clear>(rng, &mut bytes),
            };
            built.is_ok()
        });
        if relay.loops.status().alarm && !was_on {
            self.alarms.push((now, index));
        }
        if let Some(due) = relay.loops.poll_timeout() {
            self.events.push(due, Event::Loop { relay: index });
        }
        if let Some(sent) = sent {
            self.sent += 1;
            let id = self.start(Place::Loop(index), RELAYS, sent.hint, &mut bytes);
            self.travel(index, number(&sent.first.0), id);
        }
    }

    /// How the loops of a relay do.
    pub fn loops(&self, relay: usize) -> Option<Status> {
        self.relays.get(relay).map(|relay| relay.loops.status())
    }

    /// When alarms of relays went on, and of which relay.
    pub fn alarms(&self) -> &[(Instant, u32)] {
        &self.alarms
    }

    /// Packets that were taken on links.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Goes on until something comes out, `None` if nothing does until `end`, which is then the moment.
    pub fn step(&mut self, end: Instant) -> Option<Output> {
        loop {
            let Some((due, event)) = self.events.pop(end) else {
                self.now = self.now.max(end);
                return None;
            };
            self.now = due;
            let output = match event {
                Event::Up { client, first, packet } => {
                    self.enter(client, first, packet);
                    None
                }
                Event::Arrive { relay, from, packet } => self.arrive(relay, from, packet),
                Event::Due { relay } => {
                    self.release(relay);
                    None
                }
                Event::EntrySlot { client } => {
                    self.entry_slot(client);
                    None
                }
                Event::Loop { relay } => {
                    self.send_loop(relay);
                    None
                }
                Event::Epoch => self.turn().then_some(Output::Document),
                Event::Overlap => {
                    self.old = None;
                    self.renew();
                    Some(Output::Document)
                }
                Event::Cut { relay } => {
                    self.cut(relay, false);
                    None
                }
                Event::Mended { relay } => {
                    self.cut(relay, true);
                    None
                }
                Event::Home { packet, .. } if self.is_spoilt(packet) => {
                    self.end(packet, End::Dropped(DropReason::BadPayload));
                    None
                }
                Event::Home { client, packet } => {
                    let bytes = self.packets.get_mut(packet).map(|packet| std::mem::take(&mut packet.bytes));
                    self.end(packet, End::Home);
                    bytes.map(|bytes| Output::Home { client: client as usize, bytes })
                }
                Event::Wake(number) => Some(Output::Wake(number)),
            };
            if output.is_some() {
                return output;
            }
        }
    }

    /// Packets that clients and exits have sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Packets that reached an exit or their client.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Packets that were dropped, by reason.
    pub fn dropped(&self) -> &BTreeMap<DropReason, u64> {
        &self.dropped
    }

    /// Things that have happened or are about to, from the start.
    pub fn events(&self) -> u64 {
        self.events.pushed()
    }

    /// Packets that are in a mix, on a link, or in an entry's queue: counted there, not calculated.
    pub fn in_flight(&self) -> u64 {
        let held: usize = self.relays.iter().map(|relay| relay.held.len() + relay.pool.len()).sum();
        let waiting: usize = self.clients.iter().map(|client| client.waiting.len()).sum();
        let travels =
            |event: &&Event| matches!(event, Event::Up { .. } | Event::Arrive { .. } | Event::Home { .. });
        (held + waiting + self.events.iter().filter(travels).count()) as u64
    }

    /// Packets whose way has begun and is not over, by the book that keeps their bytes.
    pub fn kept(&self) -> u64 {
        self.packets.len() as u64
    }

    /// A client's packet has come to its entry.
    fn enter(&mut self, client: u32, first: u32, id: PacketId) {
        let entry = self.clients.get(client as usize).map(|client| client.entry);
        let relay = entry.and_then(|entry| self.relays.get(entry as usize));
        let (Some(entry), Some(relay), Some(packet)) = (entry, relay, self.packets.get_mut(id)) else {
            return self.end(id, End::Dropped(DropReason::UnknownClient));
        };
        let admitted = match self.shape.format {
            Format::Sphinx => relay.mix.admit(packet.hint, relay_id(first as usize), &packet.bytes),
            Format::Clear => relay.mix.admit_opened(packet.hint, relay_id(first as usize)),
            Format::Modelled => Ok(()),
        };
        match admitted {
            Ok(()) => self.travel(entry, first as usize, id),
            Err(reason) => self.end(id, End::Dropped(reason)),
        }
    }

    /// A relay sends a packet to another.
    fn travel(&mut self, from: u32, to: usize, id: PacketId) {
        let lost = self.shape.links.loss > 0.0 && uniform(&mut self.rng) < self.shape.links.loss;
        if to >= self.relays.len() {
            return self.end(id, End::Dropped(DropReason::WrongEdge));
        }
        if !self.relays.get(from as usize).is_some_and(|relay| relay.is_up) {
            return self.end(id, End::Dropped(DropReason::LinkDown));
        }
        let Some(on_line) = self.through_line(from) else {
            return self.end(id, End::Dropped(DropReason::Late));
        };
        let arrival =
            on_line + self.shape.links.distance.between(Place::Relay(from), Place::Relay(to as u32));
        if lost {
            return self.end(id, End::Dropped(DropReason::LinkDown));
        }
        self.cross(Place::Relay(from), to as u32, id, |world, id, held| {
            world.events.push(arrival + held, Event::Arrive { relay: to as u32, from, packet: id });
        });
    }

    /// True if a packet in the clear was changed on its way: at its end, Sphinx would find that out by itself.
    fn is_spoilt(&mut self, id: PacketId) -> bool {
        let spoilt = self.packets.get_mut(id).is_some_and(|packet| packet.spoilt);
        spoilt && self.shape.format != Format::Sphinx
    }

    /// When a packet that a relay sends now is on its line as a whole; `None` if it would wait too long.
    fn through_line(&mut self, relay: u32) -> Option<Instant> {
        let Some(bandwidth) = self.shape.links.bandwidth else { return Some(self.now) };
        let size = self.shape.parameters.geometry.packet() as f64;
        let relay = self.relays.get_mut(relay as usize)?;
        take_turn(&mut relay.line_free, self.now, size / bandwidth, &self.shape.links)
    }

    fn arrive(&mut self, index: u32, from: u32, id: PacketId) -> Option<Output> {
        let now = self.now;
        let first_entry = self.shape.mixes();
        let (relay, packet) = (self.relays.get_mut(index as usize)?, self.packets.get_mut(id)?);
        if !relay.is_up {
            self.end(id, End::Dropped(DropReason::LinkDown));
            return None;
        }
        let ready = match self.shape.links.capacity {
            None => Some(now),
            Some(rate) => take_turn(&mut relay.unwrapped, now, 1.0 / rate, &self.shape.links),
        };
        let from = Source::Relay(relay_id(from as usize));
        let action = match (ready, self.shape.format) {
            (None, _) => Err(DropReason::Overloaded),
            (_, Format::Sphinx) => relay.mix.process(now, from, packet.hint, &mut packet.bytes, &relay.tags),
            (_, Format::Clear) => Clear::open(&mut packet.bytes)
                .map_err(|_| DropReason::Malformed)
                .and_then(|opened| relay.mix.process_opened(now, from, packet.hint, opened, &relay.tags)),
            (_, Format::Modelled) => Clear::open(&mut packet.bytes)
                .map_err(|_| DropReason::Malformed)
                .map(|opened| modelled(now, index as usize, first_entry, opened)),
        };
        match action {
            Ok(Action::Forward { next, due }) => {
                let held = relay.held.len() + relay.pool.len();
                // A gateway that passes a relay's loop on holds nothing.
                if (index as usize) < first_entry {
                    self.observer.comes(now, index, held, packet);
                }
                let next = number(&next.0) as u32;
                if let Law::Pool { threshold, keep } = self.shape.roads.law {
                    relay.pool.push((next, id));
                    if relay.pool.len() >= threshold {
                        self.flush(index, keep);
                    }
                    return None;
                }
                let due = due.max(ready.unwrap_or(now));
                relay.held.push(due, (next, id));
                self.events.push(due, Event::Due { relay: index });
                None
            }
            Ok(Action::ToClient { client, .. }) => {
                self.queue_at_entry(number(&client.0), id);
                None
            }
            Ok(Action::Deliver { .. }) if packet.spoilt && self.shape.format != Format::Sphinx => {
                self.end(id, End::Dropped(DropReason::BadPayload));
                None
            }
            Ok(Action::Deliver { reply, .. }) if relay.loops.come_home(now, reply) => {
                self.end(id, End::Loop(index));
                None
            }
            Ok(Action::Deliver { .. }) if (index as usize) < first_entry + self.shape.entries => {
                self.end(id, End::Dropped(DropReason::WrongEdge));
                None
            }
            Ok(Action::Deliver { reply, message }) => {
                let message = packet.bytes.get(message).unwrap_or_default().to_vec();
                self.end(id, End::Delivered);
                let exit = (index as usize).saturating_sub(first_entry + self.shape.entries);
                Some(Output::Delivered { exit, reply, message })
            }
            Err(reason) => {
                self.end(id, End::Dropped(reason));
                None
            }
        }
    }

    fn release(&mut self, index: u32) {
        let now = self.now;
        let Some(relay) = self.relays.get_mut(index as usize) else { return };
        let before = relay.held.len();
        let Some((_, (next, id))) = relay.held.pop(now) else { return };
        let is_mix = (index as usize) < self.shape.mixes();
        if let Some(packet) = self.packets.get_mut(id).filter(|_| is_mix) {
            self.observer.leaves(now, index, before, packet);
        }
        self.travel(index, next as usize, id);
    }

    /// A pool mix lets all but `keep` of its packets go.
    fn flush(&mut self, index: u32, keep: usize) {
        while let Some(relay) = self.relays.get_mut(index as usize)
            && relay.pool.len() > keep
        {
            let held = relay.pool.len();
            let Some(drawn) = below(held, &mut self.rng) else { return };
            let (next, id) = relay.pool.swap_remove(drawn);
            if let Some(packet) = self.packets.get_mut(id) {
                self.observer.leaves(self.now, index, held, packet);
            }
            self.travel(index, next as usize, id);
        }
    }

    fn queue_at_entry(&mut self, index: usize, id: PacketId) {
        let now = self.now;
        let Some(client) = self.clients.get_mut(index) else {
            return self.end(id, End::Dropped(DropReason::UnknownClient));
        };
        if client.waiting.len() >= client.room {
            return self.end(id, End::Dropped(DropReason::QueueFull));
        }
        client.waiting.push_back(id);
        let alone = client.waiting.len() == 1;
        if let Some(packet) = self.packets.get_mut(id) {
            self.observer.waits(now, index as u32, packet);
        }
        if alone {
            self.next_entry_slot(index as u32);
        }
    }

    /// Slots of the entry in which nothing waits carry filler, and are no events here: the time to the next
    /// slot has the same law from any moment.
    fn next_entry_slot(&mut self, client: u32) {
        let rate = self.clients.get(client as usize).map_or(1.0, |client| client.slots);
        let next = Ticks::new(rate, self.now, &mut self.rng).poll_timeout();
        self.events.push(next, Event::EntrySlot { client });
    }

    fn entry_slot(&mut self, index: u32) {
        let Some(client) = self.clients.get_mut(index as usize) else { return };
        let (packet, entry, more) = (client.waiting.pop_front(), client.entry, !client.waiting.is_empty());
        if let Some(packet) = packet {
            let way = self.shape.links.distance.between(Place::Relay(entry), Place::Client(index));
            self.events.push(self.now + way, Event::Home { client: index, packet });
        }
        if more {
            self.next_entry_slot(index);
        }
    }

    fn end(&mut self, id: PacketId, end: End) {
        match end {
            End::Delivered | End::Home | End::Loop(_) => self.delivered += 1,
            End::Taken => self.taken += 1,
            End::Dropped(reason) => *self.dropped.entry(reason).or_default() += 1,
        }
        if let Some(packet) = self.packets.get_mut(id) {
            self.observer.ends(self.now, end, packet);
        }
        self.packets.end(id);
    }
}

/// How a relay processes packets of the periods that are live.
fn mix(shape: &Shape, index: usize, live: &[(&Secrets, &Topology)]) -> Mix {
    let periods = live.iter().filter_map(|(secrets, topology)| {
        let key = secrets.keys.get(index)?.clone();
        Some(LivePeriod { key, neighbours: Neighbours::new(topology, relay_id(index)) })
    });
    Mix::new(shape.parameters.geometry, shape.parameters.max_delay, periods.collect())
}

/// What a relay of a network that is not the product's does with a packet.
fn modelled(now: Instant, relay: usize, first_entry: usize, opened: Opened) -> Action {
    match opened.routing {
        Routing::Forward { next, .. } if relay >= first_entry => {
            Action::ToClient { client: ClientAddress(next), due: now }
        }
        Routing::Forward { next, delay } => Action::Forward { next: RelayId(next), due: now + delay },
        Routing::Final { reply } => Action::Deliver { reply, message: opened.message },
    }
}

/// Who takes `seconds` of something that serves one after the other: when it is served; `None` if it would wait for
/// too long, and leaves.
fn take_turn(free: &mut Instant, now: Instant, seconds: f64, links: &Links) -> Option<Instant> {
    let start = now.max(*free);
    if start.since(now) > links.patience {
        return None;
    }
    *free = start + Duration::from_nanos((seconds * 1e9) as u64);
    Some(*free)
}

/// The same of the draws for what changes.
const TURNS: u64 = 0x7042_0be5 << 32;

/// Makes the seed of the loops' draws another one than the network's.
const LOOPS: u64 = 0x100b_5eed << 32;

/// A number between 0 and 1.
pub(crate) fn uniform(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use crate::roads::Arrangement;
    use mizzle_protocol::sphinx::PacketFormat;

    #[test]
    fn a_place_in_a_queue_is_given_up_when_the_wait_is_too_long() {
        let links = Links { patience: Duration::from_millis(15), ..Links::default() };
        let (now, mut free) = (Instant::from_nanos(5), Instant::ZERO);
        let turns: Vec<_> = (0..4).map(|_| take_turn(&mut free, now, 0.01, &links)).collect();
        let at = |milliseconds| Some(now + Duration::from_millis(milliseconds));
        assert_eq!(turns, [at(10), at(20), None, None]);
    }

    #[test]
    fn relays_that_remember_refuse_what_comes_twice() {
        for (replays, dropped) in [(true, 1), (false, 0)] {
            let mut world = World::new(Shape { replays, ..Shape::default() }, Instant::ZERO, 1, ()).unwrap();
            let topology = world.topology().clone();
            let route = topology.outward(&topology.exits[0].node, world.rng()).unwrap();
            let first = First { relay: route.first().unwrap(), hint: topology.period.hint() };
            let mut packet = Vec::new();
            let (geometry, reply) = (topology.parameters.geometry, ReplyId([0; 16]));
            Clear::build(geometry, &route.hops, reply, b"x", world.rng(), &mut packet).unwrap();
            for _ in 0..2 {
                world.send(0, first, &mut packet.clone());
            }
            while world.step(Instant::ZERO + Duration::from_secs(9)).is_some() {}
            assert_eq!(world.dropped().get(&DropReason::Replayed).copied().unwrap_or(0), dropped);
            assert_eq!(world.delivered(), 2 - dropped);
        }
    }

    #[test]
    fn the_product_has_no_cascades() {
        let shape = Shape::default();
        let cascade = Roads { arrangement: Arrangement::Cascade, ..shape.roads };
        let refused = |shape: Shape| World::new(shape, Instant::ZERO, 1, ()).err().map(|error| error.kind());
        assert_eq!(refused(shape.clone()), None);
        assert_eq!(refused(Shape { roads: cascade, ..shape.clone() }), Some(ErrorKind::Misuse));
        assert_eq!(refused(Shape { roads: cascade, format: Format::Modelled, ..shape.clone() }), None);
        assert_eq!(refused(Shape { exits: 0, ..shape }), Some(ErrorKind::Misuse));
    }
}
