//! Links, mixes and gateways in virtual time: takes packets in, and says where and when they come out.
//!
//! Packets are either modelled (a route, without cryptography: fast) or real Sphinx packets that each
//! relay unwraps by [`Mix::process`]. Both pass the same checks, wait in the same [`Held`], and are counted
//! by the same [`DropReason`]s.

use crate::packet::{Body, Packet, modelled};
use crate::watch::MixFigures;
use mizzle_protocol::cover::Ticks;
use mizzle_protocol::geometry::LAYERS;
use mizzle_protocol::id::{ClientAddress, Period, RelayId, ReplayTag, ReplyId};
use mizzle_protocol::level::{Level, Pace, Step};
use mizzle_protocol::mix::{Action, DropReason, Held, LivePeriod, Mix, Neighbours, ReplayFilter, Source};
use mizzle_protocol::path::{ExitNode, MixNode, Parameters, Topology};
use mizzle_protocol::session::ServiceSecret;
use mizzle_protocol::sphinx::SecretKey;
use mizzle_protocol::time::Instant;
use mizzle_protocol::{Error, ErrorKind, Result};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// The shape of a network, and what its links do.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Consensus parameters.
    pub parameters: Parameters,
    /// What its clients send and receive.
    pub pace: Pace,
    /// Mixes in each layer.
    pub width: usize,
    /// Entries.
    pub entries: usize,
    /// Exits.
    pub exits: usize,
    /// Clients; each keeps one entry.
    pub clients: usize,
    /// Time that each link takes, one way.
    pub link_delay: Duration,
    /// Share of packets that each link between relays loses.
    pub loss: f64,
}

impl Default for Shape {
    /// A local network's: nine mixes, three entries, three exits; its clients at a `balanced` level's third step.
    fn default() -> Self {
        let parameters = Parameters::default();
        let (_, pace) = parameters.levels.nearest(Step { level: Level::Balanced, step: 2 });
        Self {
            parameters,
            pace,
            width: 3,
            entries: 3,
            exits: 3,
            clients: 1,
            link_delay: Duration::ZERO,
            loss: 0.0,
        }
    }
}

/// What comes out of the world, and whom it concerns.
#[derive(Debug)]
pub enum Output {
    /// A packet has reached its exit.
    Delivered {
        /// The exit's index among the exits.
        exit: usize,
        /// When it was sent.
        sent: Instant,
        /// Zero outward.
        reply: ReplyId,
        /// Its message; empty if modelled.
        message: Vec<u8>,
    },
    /// A packet has come out of the mixes at its client's entry, and waits for a slot there.
    AtEntry {
        /// When it was sent.
        sent: Instant,
    },
    /// A packet has reached its client.
    Home {
        /// The client.
        client: usize,
        /// The packet, with the client's own layer left.
        packet: Packet,
    },
    /// A moment that the driver asked for by [`World::wake_at`] has come.
    Wake(
        /// The driver's own number.
        u64,
    ),
}

/// A simulated network.
pub struct World {
    now: Instant,
    events: Held<Event>,
    relays: Vec<Relay>,
    clients: Vec<Client>,
    topology: Arc<Topology>,
    services: Vec<ServiceSecret>,
    shape: Shape,
    rng: ChaCha20Rng,
    warm: Instant,
    sent: u64,
    delivered: u64,
    dropped: BTreeMap<DropReason, u64>,
}

#[derive(Debug)]
enum Event {
    Arrive { relay: usize, from: Source, packet: Packet },
    Due { relay: usize },
    EntrySlot { client: usize },
    Home { client: usize, packet: Packet },
    Wake(u64),
}

struct Relay {
    id: RelayId,
    mix: Mix,
    tags: Tags,
    held: Held<(RelayId, Packet)>,
    figures: MixFigures,
}

struct Client {
    entry: usize,
    address: ClientAddress,
    waiting: VecDeque<Packet>,
}

/// Replay tags of one relay, in memory.
#[derive(Default)]
struct Tags(RefCell<HashSet<(Period, ReplayTag)>>);

impl ReplayFilter for Tags {
    fn insert(&self, period: Period, tag: ReplayTag) -> Result<()> {
        match self.0.borrow_mut().insert((period, tag)) {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Replayed, "seen before")),
        }
    }
}

impl World {
    /// A network of this shape, with keys of its own, at `start`.
    pub fn new(shape: Shape, start: Instant, seed: u64) -> Result<Self> {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let period = Period(1);
        let count = shape.width * LAYERS + shape.entries + shape.exits;
        let keys: Vec<_> = (0..count).map(|_| SecretKey::generate(&mut rng)).collect();
        let nodes: Vec<_> = keys
            .iter()
            .zip(0..)
            .map(|(key, index)| MixNode { id: relay_id(index), key: key.public() })
            .collect();
        let (mixes, gateways) = nodes.split_at(shape.width * LAYERS);
        let (entries, exits) = gateways.split_at(shape.entries);
        let mut layers = mixes.chunks(shape.width.max(1)).map(<[MixNode]>::to_vec);
        let mut services = Vec::with_capacity(exits.len());
        let mut exit_nodes = Vec::with_capacity(exits.len());
        for node in exits {
            let secret = ServiceSecret::generate(&mut rng);
            let service_key = Some(Arc::new(secret.public()?));
            exit_nodes.push(ExitNode { node: node.clone(), service_key, country: None });
            services.push(secret);
        }
        let topology = Topology {
            parameters: shape.parameters.clone(),
            period,
            layers: std::array::from_fn(|_| layers.next().unwrap_or_default()),
            entries: entries.to_vec(),
            exits: exit_nodes,
        };
        let relays = keys
            .into_iter()
            .zip(&nodes)
            .map(|(key, node)| Relay {
                id: node.id,
                mix: Mix::new(
                    shape.parameters.geometry,
                    shape.parameters.max_delay,
                    vec![LivePeriod { key, neighbours: Neighbours::new(&topology, node.id) }],
                ),
                tags: Tags::default(),
                held: Held::new(),
                figures: MixFigures::default(),
            })
            .collect();
        let first_entry = shape.width * LAYERS;
        let clients = (0..shape.clients)
            .map(|index| Client {
                entry: first_entry + index % shape.entries.max(1),
                address: client_address(index),
                waiting: VecDeque::new(),
            })
            .collect();
        Ok(Self {
            now: start,
            events: Held::new(),
            relays,
            clients,
            topology: Arc::new(topology),
            services,
            shape,
            rng,
            warm: start,
            sent: 0,
            delivered: 0,
            dropped: BTreeMap::new(),
        })
    }

    /// The moment.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// What its clients send and receive.
    pub fn pace(&self) -> Pace {
        self.shape.pace
    }

    /// Who is in the network.
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// The service key of an exit, by its index among the exits.
    pub fn service(&self, exit: usize) -> Option<&ServiceSecret> {
        self.services.get(exit)
    }

    /// The entry that a client keeps, and the address that it has there.
    pub fn place_of(&self, client: usize) -> Option<(RelayId, ClientAddress)> {
        let client = self.clients.get(client)?;
        Some((self.relays.get(client.entry)?.id, client.address))
    }

    /// The world's own randomness, for drivers that want to share it.
    pub fn rng(&mut self) -> &mut ChaCha20Rng {
        &mut self.rng
    }

    /// Asks for [`Output::Wake`] at `when`, or now if that is past.
    pub fn wake_at(&mut self, when: Instant, number: u64) {
        self.events.push(when.max(self.now), Event::Wake(number));
    }

    /// A client sends a packet in a slot: to its entry, which checks it and passes it on to `first`.
    pub fn send(&mut self, client: usize, first: RelayId, hint: u8, body: Body) {
        self.sent += 1;
        let packet = Packet { sent: self.now, body, hint };
        let Some(entry) = self.clients.get(client).and_then(|client| self.relays.get(client.entry)) else {
            return self.drop_packet(DropReason::UnknownClient);
        };
        let admitted = match &packet.body {
            Body::Sphinx(bytes) => entry.mix.admit(hint, first, bytes),
            Body::Modelled(_) => match entry.mix.period(hint) {
                Some(live) if live.neighbours.sends_to(first) => Ok(()),
                Some(_) => Err(DropReason::WrongEdge),
                None => Err(DropReason::UnknownPeriod),
            },
        };
        let from = entry.id;
        match admitted {
            // Two links: client to entry, entry to mix.
            Ok(()) => self.travel(from, first, self.shape.link_delay * 2, packet),
            Err(reason) => self.drop_packet(reason),
        }
    }

    /// An exit sends a reply: to its first mix, at once.
    pub fn reply(&mut self, exit: usize, first: RelayId, hint: u8, body: Body) {
        self.sent += 1;
        let packet = Packet { sent: self.now, body, hint };
        match self.topology.exits.get(exit).map(|exit| exit.node.id) {
            Some(from) => self.travel(from, first, self.shape.link_delay, packet),
            None => self.drop_packet(DropReason::WrongEdge),
        }
    }

    /// Goes on to the next output, but not beyond `end`. `None`: nothing more happens until then.
    pub fn step(&mut self, end: Instant) -> Option<Output> {
        loop {
            let Some((due, event)) = self.events.pop(end) else {
                self.now = self.now.max(end);
                return None;
            };
            self.now = self.now.max(due);
            let output = match event {
                Event::Arrive { relay, from, packet } => self.arrive(relay, from, packet),
                Event::Due { relay } => {
                    self.release(relay);
                    None
                }
                Event::EntrySlot { client } => {
                    self.entry_slot(client);
                    None
                }
                Event::Home { client, packet } => {
                    self.delivered += 1;
                    Some(Output::Home { client, packet })
                }
                Event::Wake(number) => Some(Output::Wake(number)),
            };
            if output.is_some() {
                return output;
            }
        }
    }

    /// Forgets what mixes have seen so far: from here on the network is in its stride.
    pub fn start_figures(&mut self) {
        self.warm = self.now;
        for relay in &mut self.relays {
            relay.figures.start(self.now);
        }
    }

    /// What each mix has seen since the start of the figures, up to now.
    pub fn mix_figures(&mut self) -> Vec<MixFigures> {
        let (now, mixes) = (self.now, self.shape.width * LAYERS);
        self.relays
            .iter_mut()
            .take(mixes)
            .map(|relay| {
                let held = relay.held.len();
                relay.figures.spend(now, held);
                relay.figures.clone()
            })
            .collect()
    }

    /// How long the figures have been taken.
    pub fn measured(&self) -> Duration {
        self.now.since(self.warm)
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

    /// Packets that are in a mix, on a link, or in an entry's queue: counted there, not calculated.
    pub fn in_flight(&mut self) -> u64 {
        let held: usize = self.relays.iter().map(|relay| relay.held.len()).sum();
        let waiting: usize = self.clients.iter().map(|client| client.waiting.len()).sum();
        // The queue of events cannot be looked through, so it is taken apart and put together again; the
        // order of arrival is that of taking, so ties keep their order.
        let end = Instant::from_nanos(u64::MAX);
        let mut events = Vec::with_capacity(self.events.len());
        while let Some(event) = self.events.pop(end) {
            events.push(event);
        }
        let on_links = events
            .iter()
            .filter(|(_, event)| matches!(event, Event::Arrive { .. } | Event::Home { .. }))
            .count();
        for (due, event) in events {
            self.events.push(due, event);
        }
        (held + waiting + on_links) as u64
    }

    fn travel(&mut self, from: RelayId, to: RelayId, delay: Duration, packet: Packet) {
        let lost = self.shape.loss > 0.0 && uniform(&mut self.rng) < self.shape.loss;
        match index_of(to).filter(|&index| index < self.relays.len()) {
            Some(relay) if !lost => {
                self.events
                    .push(self.now + delay, Event::Arrive { relay, from: Source::Relay(from), packet });
            }
            Some(_) => self.drop_packet(DropReason::LinkDown),
            None => self.drop_packet(DropReason::WrongEdge),
        }
    }

    fn arrive(&mut self, index: usize, from: Source, mut packet: Packet) -> Option<Output> {
        let now = self.now;
        let relay = self.relays.get_mut(index)?;
        let action = match &mut packet.body {
            Body::Sphinx(bytes) => relay.mix.process(now, from, packet.hint, bytes, &relay.tags),
            Body::Modelled(hops) => {
                modelled(&relay.mix, now, from, packet.hint, hops, &self.shape.parameters)
            }
        };
        match action {
            Ok(Action::Forward { next, due }) => {
                let held = relay.held.len();
                relay.figures.arrival(now, held);
                relay.held.push(due, (next, packet));
                self.events.push(due, Event::Due { relay: index });
                None
            }
            Ok(Action::ToClient { client, .. }) => {
                let sent = packet.sent;
                self.queue_at_entry(client, packet).then_some(Output::AtEntry { sent })
            }
            Ok(Action::Deliver { reply, message }) => {
                self.delivered += 1;
                let exit = index - self.shape.width * LAYERS - self.shape.entries;
                let message = match &packet.body {
                    Body::Sphinx(bytes) => bytes.get(message).unwrap_or_default().to_vec(),
                    Body::Modelled(_) => Vec::new(),
                };
                Some(Output::Delivered { exit, sent: packet.sent, reply, message })
            }
            Err(reason) => {
                self.drop_packet(reason);
                None
            }
        }
    }

    fn release(&mut self, index: usize) {
        let now = self.now;
        let Some(relay) = self.relays.get_mut(index) else { return };
        let before = relay.held.len();
        let Some((_, (next, packet))) = relay.held.pop(now) else { return };
        relay.figures.departure(now, before);
        let from = relay.id;
        self.travel(from, next, self.shape.link_delay, packet);
    }

    /// True if the packet waits for a slot of its client now.
    fn queue_at_entry(&mut self, address: ClientAddress, packet: Packet) -> bool {
        let Some(index) = client_of(address).filter(|&index| index < self.clients.len()) else {
            self.drop_packet(DropReason::UnknownClient);
            return false;
        };
        let Some(client) = self.clients.get_mut(index) else { return false };
        if client.waiting.len() >= ENTRY_QUEUE {
            self.drop_packet(DropReason::QueueFull);
            return false;
        }
        client.waiting.push_back(packet);
        if client.waiting.len() == 1 {
            self.next_entry_slot(index);
        }
        true
    }

    /// Slots of the entry in which nothing waits carry filler, and are no events here: the time to the next
    /// slot has the same law from any moment.
    fn next_entry_slot(&mut self, client: usize) {
        let rate = self.shape.pace.receive_rate * self.shape.parameters.entry_slot_factor;
        let next = Ticks::new(rate, self.now, &mut self.rng).poll_timeout();
        self.events.push(next, Event::EntrySlot { client });
    }

    fn entry_slot(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let packet = client.waiting.pop_front();
        let more = !client.waiting.is_empty();
        if let Some(packet) = packet {
            self.events.push(self.now + self.shape.link_delay, Event::Home { client: index, packet });
        }
        if more {
            self.next_entry_slot(index);
        }
    }

    fn drop_packet(&mut self, reason: DropReason) {
        *self.dropped.entry(reason).or_default() += 1;
    }
}

/// A number between 0 and 1.
fn uniform(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

fn relay_id(index: usize) -> RelayId {
    RelayId(numbered(index))
}

fn index_of(id: RelayId) -> Option<usize> {
    number(id.0)
}

fn client_address(index: usize) -> ClientAddress {
    ClientAddress(numbered(index))
}

fn client_of(address: ClientAddress) -> Option<usize> {
    number(address.0)
}

fn numbered(index: usize) -> [u8; 32] {
    let mut bytes = [0; 32];
    // Never all zero: that names nobody.
    for (byte, digit) in bytes.iter_mut().zip((index as u64 + 1).to_be_bytes()) {
        *byte = digit;
    }
    bytes
}

fn number(bytes: [u8; 32]) -> Option<usize> {
    let digits = bytes.first_chunk::<8>()?;
    usize::try_from(u64::from_be_bytes(*digits)).ok()?.checked_sub(1)
}

/// Packets that wait at an entry for one client; more are dropped.
const ENTRY_QUEUE: usize = 4_096;
