//! A client and an exit talk through a network of mixes, all real, in virtual time.

#![allow(clippy::unwrap_used, clippy::panic)]

use mizzle_protocol::cover::{Ring, SlotKind, Slots, Ticks};
use mizzle_protocol::endpoint::{Endpoint, Event, Isolation, StreamKey};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::{ClientAddress, Period, RelayId, ReplayTag, SessionId};
use mizzle_protocol::level::{Demand, Level, Step};
use mizzle_protocol::mix::{Action, DropReason, Held, LivePeriod, Mix, Neighbours, ReplayFilter, Source};
use mizzle_protocol::path::{ExitNode, MixNode, Parameters, Topology};
use mizzle_protocol::session::{
    Gateway, GatewayEvent, GatewayStream, IncomingDatagram, ServiceSecret, SessionLog,
};
use mizzle_protocol::sphinx::SecretKey;
use mizzle_protocol::stream::{Read, ResetReason};
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::payload::Payload;
use mizzle_protocol::wire::target::Target;
use mizzle_protocol::{Error, ErrorKind, Result};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

const CLIENT: ClientAddress = ClientAddress([0xcc; 32]);
const START: Instant = Instant::from_nanos(1_000_000_000_000_000);
const LINK: Duration = Duration::from_millis(1);

/// Remembers in memory what daemons keep on tmpfs.
#[derive(Default)]
struct Memory {
    tags: RefCell<BTreeSet<(RelayId, ReplayTag)>>,
    sessions: RefCell<BTreeSet<SessionId>>,
}

struct TagsOf<'a>(RelayId, &'a Memory);

impl ReplayFilter for TagsOf<'_> {
    fn insert(&self, _: Period, tag: ReplayTag) -> Result<()> {
        match self.1.tags.borrow_mut().insert((self.0, tag)) {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Replayed, "seen")),
        }
    }
}

impl SessionLog for Memory {
    fn insert(&self, _: Period, id: SessionId) -> Result<()> {
        match self.sessions.borrow_mut().insert(id) {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Replayed, "seen")),
        }
    }
}

enum Arrival {
    Relay { at: RelayId, from: Source, hint: u8, packet: Vec<u8> },
    Client(Vec<u8>),
}

/// What the server behind the exit does.
#[derive(Clone, Copy, PartialEq)]
enum Server {
    /// Sends back what it gets.
    Echo,
    /// Sends this many bytes as soon as it is asked.
    Sends(usize),
    /// Reads so many bytes, then says so by an end.
    Takes(usize),
    /// Refuses the connection.
    Refuses,
}

struct World {
    rng: ChaCha20Rng,
    now: Instant,
    mixes: BTreeMap<RelayId, Mix>,
    entry: RelayId,
    exits: BTreeMap<RelayId, Gateway>,
    dead: BTreeSet<RelayId>,
    memory: Memory,
    flying: Held<Arrival>,
    loss: f64,
    duplicate: bool,
    /// How many times faster than it should the exits' clock runs.
    haste: u32,
    topology: Topology,
    endpoint: Endpoint,
    ring: Ring,
    slots: Slots,
    downward: VecDeque<Vec<u8>>,
    /// When packets came to the entry, for the client.
    arrivals: Vec<Instant>,
    entry_slots: Ticks,
    server: Server,
    to_send: BTreeMap<GatewayStream, Vec<u8>>,
    opened: usize,
    /// Bytes that the server has read and kept.
    taken: usize,
    /// The stream that was opened last.
    last: Option<StreamKey>,
    /// Who sent the last datagram.
    asker: Option<(SessionId, u64)>,
    events: Vec<(Instant, Event)>,
    received: BTreeMap<StreamKey, Vec<u8>>,
    ended: BTreeMap<StreamKey, Instant>,
}

fn content(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    ChaCha20Rng::seed_from_u64(99).fill_bytes(&mut bytes);
    bytes
}

impl World {
    fn new(seed: u64, loss: f64, server: Server) -> Self {
        Self::with(Parameters::local(), seed, loss, server)
    }

    fn with(parameters: Parameters, seed: u64, loss: f64, server: Server) -> Self {
        Self::at(Step { level: Level::Balanced, step: 2 }, parameters, seed, loss, server)
    }

    fn at(step: Step, parameters: Parameters, seed: u64, loss: f64, server: Server) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut keys = BTreeMap::new();
        let mut node = |id: u8, rng: &mut ChaCha20Rng| {
            let key = SecretKey::generate(rng);
            let node = MixNode { id: RelayId([id; 32]), key: key.public() };
            keys.insert(node.id, key);
            node
        };
        let layers = [0, 10, 20].map(|base| (1..=3).map(|n| node(base + n, &mut rng)).collect());
        let entries = vec![node(31, &mut rng)];
        let mut exits = Vec::new();
        let mut gateways = BTreeMap::new();
        for id in [41, 42] {
            let secret = ServiceSecret::generate(&mut rng);
            let service_key = Some(Arc::new(secret.public().unwrap()));
            exits.push(ExitNode { node: node(id, &mut rng), service_key, country: None });
            let mut gateway = Gateway::new(&parameters);
            gateway.set_service_keys(vec![(Period(7), secret)]);
            gateways.insert(RelayId([id; 32]), gateway);
        }
        let topology = Topology { parameters: parameters.clone(), period: Period(7), layers, entries, exits };
        let mixes = keys
            .into_iter()
            .map(|(id, key)| {
                let live = LivePeriod { key, neighbours: Neighbours::new(&topology, id) };
                (id, Mix::new(parameters.geometry, parameters.max_delay, vec![live]))
            })
            .collect();
        let now = START;
        let mut endpoint = Endpoint::new(&mut rng);
        endpoint.set_topology(now, Arc::new(topology.clone()));
        endpoint.set_entry(now, RelayId([31; 32]), CLIENT);
        let pace = parameters.levels.pace(step).unwrap();
        endpoint.set_pace(step.level, pace);
        let downward_rate = pace.receive_rate * parameters.entry_slot_factor;
        Self {
            slots: Slots::new(pace, now, &mut rng),
            entry_slots: Ticks::new(downward_rate, now, &mut rng),
            rng,
            now,
            mixes,
            entry: RelayId([31; 32]),
            exits: gateways,
            dead: BTreeSet::new(),
            memory: Memory::default(),
            flying: Held::new(),
            loss,
            duplicate: false,
            haste: 1,
            topology,
            endpoint,
            ring: Ring::new(pace),
            downward: VecDeque::new(),
            arrivals: Vec::new(),
            server,
            to_send: BTreeMap::new(),
            opened: 0,
            taken: 0,
            last: None,
            asker: None,
            events: Vec::new(),
            received: BTreeMap::new(),
            ended: BTreeMap::new(),
        }
    }

    fn open(&mut self) -> StreamKey {
        let target = Target::parse("server.test", 80).unwrap();
        let key = self.endpoint.open(self.now, Isolation::of(b""), target, &mut self.rng).unwrap();
        self.last = Some(key);
        key
    }

    fn send(&mut self, from: Source, at: RelayId, hint: u8, packet: Vec<u8>, when: Instant) {
        let lost = (self.rng.next_u64() as f64 / u64::MAX as f64) < self.loss;
        if !lost {
            if self.duplicate {
                let packet = packet.clone();
                self.flying.push(when + LINK * 3, Arrival::Relay { at, from, hint, packet });
            }
            self.flying.push(when + LINK, Arrival::Relay { at, from, hint, packet });
        }
    }

    fn run_until(&mut self, mut done: impl FnMut(&mut Self) -> bool, limit: Duration) -> bool {
        let end = self.now + limit;
        while self.now < end {
            if done(self) {
                return true;
            }
            let gateways = self.exits.values().filter_map(Gateway::poll_timeout).min();
            // Rounded up, or the moment would never come.
            let gateways = gateways.map(|at| START + at.since(START) / self.haste + Duration::from_nanos(1));
            let next = [Some(self.slots.poll_timeout()), Some(self.entry_slots.poll_timeout())]
                .into_iter()
                .chain([gateways, self.flying.poll_timeout(), self.endpoint.poll_timeout()])
                .flatten()
                .min()
                .unwrap();
            self.now = self.now.max(next);
            self.step();
        }
        false
    }

    fn step(&mut self) {
        let now = self.now;
        self.endpoint.handle_timeout(now, &mut self.rng);
        for kind in [SlotKind::Drop, SlotKind::Loop, SlotKind::Payload] {
            while self.ring.has_room(kind) {
                let Some(prepared) = self.endpoint.build(now, kind, &mut self.rng).unwrap() else { break };
                self.ring.push(prepared).unwrap();
            }
        }
        if self.ring.has_room_for_urgent()
            && let Some(prepared) = self.endpoint.build_urgent(now, &mut self.rng).unwrap()
        {
            self.ring.push_urgent(prepared).unwrap();
        }
        if let Some(kind) = self.slots.poll(now, &mut self.rng) {
            let prepared = self.ring.take(kind).unwrap();
            self.endpoint.sent(now, prepared.token);
            let from = Source::Relay(self.entry);
            // Client to entry, entry to the first mix.
            self.send(from, prepared.first, prepared.hint, prepared.packet, now + LINK);
        }
        if self.entry_slots.poll(now, &mut self.rng)
            && let Some(packet) = self.downward.pop_front()
        {
            self.flying.push(now + LINK, Arrival::Client(packet));
        }
        while let Some((_, arrival)) = self.flying.pop(now) {
            match arrival {
                Arrival::Client(mut packet) => self.endpoint.handle_packet(now, &mut packet),
                Arrival::Relay { at, from, hint, packet } => self.at_relay(at, from, hint, packet),
            }
        }
        self.run_exits();
        self.run_client();
    }

    fn at_relay(&mut self, at: RelayId, from: Source, hint: u8, mut packet: Vec<u8>) {
        if self.dead.contains(&at) {
            return;
        }
        let tags = TagsOf(at, &self.memory);
        match self.mixes[&at].process(self.now, from, hint, &mut packet, &tags) {
            Ok(Action::Forward { next, due }) => self.send(Source::Relay(at), next, hint, packet, due),
            Ok(Action::ToClient { client, .. }) => {
                assert!(client == CLIENT);
                self.arrivals.push(self.now);
                self.downward.push_back(packet);
            }
            Ok(Action::Deliver { message, .. }) => {
                if let Payload::Session(bytes) = Payload::parse(&packet[message]).unwrap() {
                    let gateway = self.exits.get_mut(&at).unwrap();
                    let now = START + self.now.since(START) * self.haste;
                    match gateway.handle_packet(now, bytes, &self.memory, &mut self.rng) {
                        // The packet that ends a session may overtake the one before.
                        Ok(()) | Err(DropReason::Session) => {}
                        Err(reason) => panic!("{reason:?}"),
                    }
                }
            }
            Err(reason) => assert!(self.duplicate, "{reason:?}"),
        }
    }

    fn run_exits(&mut self) {
        let now = START + self.now.since(START) * self.haste;
        let mut replies = Vec::new();
        for (&id, gateway) in &mut self.exits {
            if self.dead.contains(&id) {
                // A process that is gone runs no timers.
                *gateway = Gateway::new(&Parameters::local());
                continue;
            }
            while let Some(event) = gateway.poll_event() {
                match event {
                    GatewayEvent::Open(stream, _) if self.server == Server::Refuses => {
                        gateway.refuse(now, stream, ResetReason::Refused);
                    }
                    GatewayEvent::Open(stream, _) => {
                        self.opened += 1;
                        gateway.connected(now, stream);
                        if let Server::Sends(length) = self.server {
                            self.to_send.insert(stream, content(length));
                        } else {
                            self.to_send.insert(stream, Vec::new());
                        }
                    }
                    GatewayEvent::Datagram { session, flow, target, bytes } => {
                        self.asker = Some((session, flow));
                        gateway.send_datagram(session, flow, target, bytes);
                    }
                    GatewayEvent::Closed(stream, _) => {
                        self.to_send.remove(&stream);
                    }
                    _ => {}
                }
            }
            let mut finished = Vec::new();
            for (&stream, bytes) in &mut self.to_send {
                let mut buffer = [0; 10_000];
                let mut ends = matches!(self.server, Server::Sends(_));
                while let Ok(read) = gateway.read(now, stream, &mut buffer) {
                    match read {
                        Read::Data(count) if self.server == Server::Echo => {
                            bytes.extend(&buffer[..count]);
                        }
                        Read::Data(count) => self.taken += count,
                        Read::Empty => break,
                        Read::Finished => {
                            ends = true;
                            break;
                        }
                    }
                }
                ends |= matches!(self.server, Server::Takes(length) if self.taken >= length);
                if let Ok(count) = gateway.write(now, stream, bytes) {
                    bytes.drain(..count);
                    if bytes.is_empty() && ends {
                        gateway.finish(now, stream);
                        finished.push(stream);
                    }
                }
            }
            if self.server != Server::Echo {
                finished.iter().for_each(|stream| {
                    self.to_send.remove(stream);
                });
            }
            gateway.handle_timeout(now);
            let mut packet = Vec::new();
            while let Some(transmit) = gateway.poll_transmit(now, &mut self.rng, &mut packet) {
                replies.push((id, transmit, std::mem::take(&mut packet)));
            }
        }
        for (id, transmit, packet) in replies {
            self.send(Source::Relay(id), transmit.first, transmit.hint, packet, self.now);
        }
    }

    fn run_client(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            if let Event::Readable(key) = event {
                let mut buffer = [0; 10_000];
                while let Ok(read) = self.endpoint.read(self.now, key, &mut buffer) {
                    match read {
                        Read::Data(count) => {
                            self.received.entry(key).or_default().extend(&buffer[..count]);
                        }
                        Read::Empty => break,
                        Read::Finished => {
                            self.ended.insert(key, self.now);
                            break;
                        }
                    }
                }
            }
            self.events.push((self.now, event));
        }
    }

    fn when(&self, wanted: impl Fn(&Event) -> bool) -> Option<Instant> {
        self.events.iter().find(|(_, event)| wanted(event)).map(|(at, _)| *at)
    }

    fn download(&mut self, length: usize, limit: Duration) -> Duration {
        let start = self.now;
        let key = self.open();
        self.endpoint.write(self.now, key, b"GET").unwrap();
        self.endpoint.finish(self.now, key);
        assert!(self.run_until(|world| world.ended.contains_key(&key), limit), "{:?}", self.report());
        assert!(self.received[&key] == content(length));
        self.ended[&key].since(start)
    }

    fn report(&self) -> String {
        let received: usize = self.received.values().map(Vec::len).sum();
        format!("{received} bytes received, {:?}", self.endpoint.status())
    }
}

#[test]
fn a_download_uses_most_of_the_rate_at_which_replies_may_come() {
    // A burst of chance may make a dozen replies late at once: what counts is how many do so over many downloads.
    let (mut seconds, mut late, mut replies) = (0.0, 0, 0);
    for seed in 1..=8 {
        let mut world = World::new(seed, 0.0, Server::Sends(6_000_000));
        let took = world.download(6_000_000, Duration::from_secs(20)).as_secs_f64();
        let totals = world.endpoint.status().totals;
        println!("{:.0} bytes/s, {totals:?}", 6_000_000.0 / took);
        assert!(totals.packets_lost * 50 < totals.packets, "false alarms: {totals:?}");
        seconds += took;
        late += totals.replies_late;
        replies += totals.replies;
    }
    assert!(8.0 * 6_000_000.0 / seconds > 1_050_000.0, "{seconds} s for eight downloads");
    assert!(late * 100 < replies, "false alarms: {late} of {replies}");
}

#[test]
fn a_server_that_pauses_brings_few_replies_home_empty_and_no_exit_is_given_up_for_it() {
    // A third of what the line carries.
    const BURST: usize = 360_000;
    const PAUSE: Duration = Duration::from_millis(200);
    let fast = Step { level: Level::Fast, step: 1 };
    let mut world = World::at(fast, Parameters::local(), 21, 0.0, Server::Takes(usize::MAX));
    let (start, key) = (world.now, world.open());
    let mut given = 0;
    world.run_until(
        |world| {
            let due = (world.now.since(start).as_nanos() / PAUSE.as_nanos()) as usize * BURST;
            for bytes in world.to_send.values_mut() {
                bytes.resize(bytes.len() + due - given, 7);
                given = due;
            }
            false
        },
        // Beyond the time over which replies are counted against their rate.
        Duration::from_secs(14),
    );
    let totals = world.endpoint.status().totals;
    println!("{given} given, {} received, {totals:?}", world.received[&key].len());
    assert!(given - world.received[&key].len() < 2 * BURST, "{}", world.report());
    assert!(totals.replies_empty * 2 < totals.replies, "{totals:?}");
}

#[test]
fn an_upload_uses_most_of_the_slots() {
    const LENGTH: usize = 4_000_000;
    let mut reached = Vec::new();
    for seed in 31..=33 {
        let mut world = World::new(seed, 0.0, Server::Takes(LENGTH));
        let (start, key, message) = (world.now, world.open(), content(LENGTH));
        let mut written = 0;
        let done = world.run_until(
            |world| {
                written += world.endpoint.write(world.now, key, &message[written..]).unwrap();
                world.ended.contains_key(&key)
            },
            Duration::from_secs(30),
        );
        assert!(done, "{}", world.report());
        let totals = world.endpoint.status().totals;
        assert!(totals.packets_lost * 50 < totals.packets, "false alarms: {totals:?}");
        let payload = Geometry::default().payload() as f64;
        let rate = LENGTH as f64 / world.ended[&key].since(start).as_secs_f64() / payload;
        println!("{rate:.1} payloads a second of 80 slots, {totals:?}");
        reached.push(rate);
    }
    let mean = reached.iter().sum::<f64>() / reached.len() as f64;
    assert!(mean > 0.88 * 80.0, "{reached:?}");
}

#[test]
fn lost_packets_are_sent_again_and_the_bytes_arrive_whole() {
    for (seed, loss) in [(2, 0.01), (3, 0.05)] {
        // The loss is per link, and a round trip has ten of them.
        let mut world = World::new(seed, loss / 5.0, Server::Sends(1_000_000));
        let took = world.download(1_000_000, Duration::from_secs(30));
        println!("loss {loss}: {took:?}, {:?}", world.endpoint.status().totals);
        assert!(took < Duration::from_secs(6), "{}", world.report());
    }
}

#[test]
fn a_first_answer_takes_one_round_trip_and_a_second_another() {
    let mut waits = Vec::new();
    for seed in 10..30 {
        let mut world = World::new(seed, 0.0, Server::Echo);
        world.run_until(|_| false, Duration::from_secs(1));
        let start = world.now;
        let key = world.open();
        assert!(world.run_until(
            |world| world.when(|event| *event == Event::Connected(key)).is_some(),
            Duration::from_secs(5)
        ));
        world.endpoint.write(world.now, key, b"question").unwrap();
        assert!(world.run_until(|world| world.received.contains_key(&key), Duration::from_secs(5)));
        waits.push(world.now.since(start));
    }
    waits.sort();
    println!("first byte: median {:?}, worst {:?}", waits[10], waits[19]);
    assert!(waits[10] < Duration::from_millis(400), "{waits:?}");
}

#[test]
fn an_upload_comes_back_whole() {
    let mut world = World::new(4, 0.002, Server::Echo);
    let key = world.open();
    let message = content(300_000);
    let mut written = 0;
    let done = world.run_until(
        |world| {
            if written < message.len() {
                written += world.endpoint.write(world.now, key, &message[written..]).unwrap();
                if written == message.len() {
                    world.endpoint.finish(world.now, key);
                }
            }
            world.ended.contains_key(&key)
        },
        Duration::from_secs(30),
    );
    assert!(done, "{}", world.report());
    assert!(world.received[&key] == message);
}

#[test]
fn repeated_packets_execute_nothing_twice() {
    let mut world = World::new(5, 0.0, Server::Sends(100_000));
    world.duplicate = true;
    world.download(100_000, Duration::from_secs(10));
    assert_eq!(world.opened, 1);
}

#[test]
fn a_refusal_arrives_with_its_reason() {
    let mut world = World::new(6, 0.0, Server::Refuses);
    let key = world.open();
    let reset = Event::Reset(key, ResetReason::Refused);
    assert!(world.run_until(|world| world.when(|event| *event == reset).is_some(), Duration::from_secs(5)));
}

#[test]
fn a_dead_exit_resets_its_streams_and_the_next_goes_elsewhere() {
    let mut world = World::new(7, 0.0, Server::Sends(20_000_000));
    let key = world.open();
    world.run_until(|world| world.received.get(&key).map_or(0, Vec::len) > 100_000, Duration::from_secs(10));
    let dead = world.endpoint.exit_of(key).unwrap();
    world.dead.insert(dead);
    let killed = world.now;
    let reset = Event::Reset(key, ResetReason::ExitGone);
    assert!(world.run_until(|world| world.when(|event| *event == reset).is_some(), Duration::from_secs(40)));
    println!("reset after {:?}", world.now.since(killed));
    world.server = Server::Sends(100_000);
    for _ in 0..4 {
        let key = world.open();
        assert!(world.endpoint.exit_of(key) != Some(dead));
    }
    world.download(100_000, Duration::from_secs(10));
}

#[test]
fn no_exit_is_blamed_for_the_silence_of_an_entry() {
    // The most loops a second, so that the network is soon judged by them.
    let step = Step { level: Level::Strong, step: 0 };
    for silence in [8, 14, 18, 30] {
        let mut world = World::at(step, Parameters::local(), 30 + silence, 0.0, Server::Sends(1_000_000));
        let key = world.open();
        world.run_until(
            |world| world.received.get(&key).map_or(0, Vec::len) > 20_000,
            Duration::from_secs(20),
        );
        // Nothing comes home any more: the entry does not answer, and the client has not found out.
        let entry = world.entry;
        world.dead.insert(entry);
        world.run_until(|_| false, Duration::from_secs(silence));
        // It has another link now, with another address; and this one again, as the test has only one.
        world.dead.clear();
        world.endpoint.set_entry(world.now, entry, ClientAddress([0x77; 32]));
        world.endpoint.set_entry(world.now, entry, CLIENT);
        let before = world.received[&key].len();
        world.run_until(|world| world.received[&key].len() > before + 50_000, Duration::from_secs(30));
        let reset = world.when(|event| matches!(event, Event::Reset(..)));
        assert!(reset.is_none(), "{silence} s: {}", world.report());
        assert!(world.received[&key].len() > before + 50_000, "{silence} s: {}", world.report());
    }
}

#[test]
fn a_download_survives_the_death_of_one_mix_in_each_layer() {
    let mut world = World::new(8, 0.0, Server::Sends(1_000_000));
    let key = world.open();
    world.run_until(|world| world.received.get(&key).map_or(0, Vec::len) > 200_000, Duration::from_secs(10));
    // Of three each: two of three paths in three are broken from now on, and nobody is told.
    world.dead.extend([1, 12, 23].map(|id| RelayId([id; 32])));
    world.run_until(|_| false, Duration::from_secs(20));
    println!("before the next consensus: {}", world.report());
    assert!(world.received[&key].len() > 250_000, "it goes on, if slowly: {}", world.report());
    let mut topology = world.topology.clone();
    let dead = world.dead.clone();
    topology.layers.iter_mut().for_each(|layer| layer.retain(|node| !dead.contains(&node.id)));
    world.endpoint.set_topology(world.now, Arc::new(topology));
    let done = world.run_until(|world| world.ended.contains_key(&key), Duration::from_secs(20));
    println!("done at {:?}: {}", world.now, world.report());
    assert!(done && world.received[&key] == content(1_000_000), "{}", world.report());
}

#[test]
fn a_client_without_streams_keeps_its_cover_and_its_loops_come_home() {
    let mut world = World::new(9, 0.0, Server::Echo);
    world.run_until(|_| false, Duration::from_secs(60));
    let status = world.endpoint.status();
    // 80 a second, 1.5 % of them loops; three standard deviations.
    assert!((4_592..5_008).contains(&(status.loops_sent + status.drops_sent)), "{status:?}");
    assert!((46..98).contains(&status.loops_sent), "{status:?}");
    assert!(status.loops_home + 3 >= status.loops_sent, "{status:?}");
    assert_eq!(status.payload_sent, 0);
}

#[test]
fn every_packet_size_carries_requests_and_answers() {
    for payload in [2048, 8192] {
        let parameters = Parameters { geometry: Geometry::new(payload).unwrap(), ..Parameters::local() };
        let mut world = World::with(parameters, 10, 0.0, Server::Sends(200_000));
        let took = world.download(200_000, Duration::from_secs(10));
        println!("{payload}: {took:?}");
    }
}

#[test]
fn datagrams_travel_there_and_back() {
    let mut world = World::new(11, 0.0, Server::Echo);
    let target = Target::parse("resolver.test", 53).unwrap();
    let bytes = content(1_000);
    let send = |world: &mut World, bytes: Vec<u8>| {
        world.endpoint.send_datagram(world.now, Isolation::of(b""), 5, target.clone(), bytes, &mut world.rng)
    };
    assert_eq!(send(&mut world, content(2_000)).unwrap_err().kind(), ErrorKind::Misuse);
    send(&mut world, bytes.clone()).unwrap();
    let wanted = Event::Datagram(IncomingDatagram { flow: 5, source: target.clone(), bytes });
    assert!(world.run_until(|world| world.when(|event| *event == wanted).is_some(), Duration::from_secs(5)));
}

/// (spec: SESSION-11)
#[test]
fn who_was_sent_a_datagram_may_speak_up_later_but_a_resolver_keeps_no_session() {
    let mut world = World::new(17, 0.0, Server::Echo);
    let target = Target::parse("peer.test", 4433).unwrap();
    world
        .endpoint
        .send_datagram(world.now, Isolation::of(b""), 5, target.clone(), b"hello".to_vec(), &mut world.rng)
        .unwrap();
    for (silence, bytes) in [(0, b"hello"), (20, b"first"), (50, b"later")] {
        world.run_until(|_| false, Duration::from_secs(silence));
        if silence > 0 {
            let (session, flow) = world.asker.unwrap();
            for exit in world.exits.values_mut() {
                exit.send_datagram(session, flow, target.clone(), bytes.to_vec());
            }
        }
        let wanted = IncomingDatagram { flow: 5, source: target.clone(), bytes: bytes.to_vec() };
        let wanted = Event::Datagram(wanted);
        let came =
            world.run_until(|world| world.when(|event| *event == wanted).is_some(), Duration::from_secs(5));
        assert!(came, "after {silence} s: {}", world.report());
    }
    let over = |world: &mut World| world.endpoint.status().sessions == 0;
    assert!(world.run_until(over, Duration::from_secs(120)), "{}", world.report());
    let resolver = Target::resolver();
    world
        .endpoint
        .send_datagram(world.now, Isolation::of(b""), 6, resolver, b"question".to_vec(), &mut world.rng)
        .unwrap();
    assert!(!world.run_until(over, Duration::from_secs(20)), "{}", world.report());
    assert!(world.run_until(over, Duration::from_secs(35)), "{}", world.report());
}

/// (spec: SESSION-11)
#[test]
fn an_exchange_stays_with_its_session_and_questions_do_not() {
    let mut world = World::new(18, 0.0, Server::Echo);
    let mut sessions = [BTreeSet::new(), BTreeSet::new()];
    for _ in 0..26 {
        for (flow, target) in [(5, Target::parse("peer.test", 4433).unwrap()), (6, Target::resolver())] {
            world.asker = None;
            world
                .endpoint
                .send_datagram(world.now, Isolation::of(b""), flow, target, vec![flow as u8], &mut world.rng)
                .unwrap();
            assert!(world.run_until(|world| world.asker.is_some(), Duration::from_secs(5)));
            sessions[flow as usize - 5].insert(world.asker.unwrap().0);
        }
        world.run_until(|_| false, Duration::from_secs(25));
    }
    assert_eq!(sessions.map(|sessions| sessions.len()), [1, 2]);
}

/// (spec: SESSION-11)
#[test]
fn datagrams_go_by_another_exit_when_one_says_nothing() {
    for seed in 19..23 {
        let mut world = World::new(seed, 0.0, Server::Echo);
        let ask = |world: &mut World, number: u8| {
            let target = Target::resolver();
            world
                .endpoint
                .send_datagram(world.now, Isolation::of(b""), 5, target, vec![number], &mut world.rng)
                .unwrap();
            let answer = IncomingDatagram { flow: 5, source: Target::resolver(), bytes: vec![number] };
            let wanted = Event::Datagram(answer);
            world.run_until(|world| world.when(|event| *event == wanted).is_some(), Duration::from_secs(2))
        };
        // Loops have come home: the network is not to blame.
        world.run_until(|_| false, Duration::from_secs(10));
        assert!(ask(&mut world, 0), "{}", world.report());
        let asked = world.exits.iter().find(|(_, exit)| exit.sessions() > 0).map(|(exit, _)| *exit);
        world.dead.extend(asked);
        let tries = (1..=3).take_while(|number| !ask(&mut world, *number)).count();
        assert_eq!(tries, 2, "{}", world.report());
        assert!(ask(&mut world, 4), "{}", world.report());
    }
}

#[test]
fn an_exit_that_burns_ahead_of_its_rate_is_given_up() {
    // What an honest one sends in as long is far enough from that.
    for (seed, haste) in [(12, 5), (13, 5), (14, 5), (15, 1), (16, 1)] {
        let mut world = World::new(seed, 0.0, Server::Sends(50_000_000));
        world.haste = haste;
        let key = world.open();
        let reset = Event::Reset(key, ResetReason::General);
        let seen =
            world.run_until(|world| world.when(|event| *event == reset).is_some(), Duration::from_secs(25));
        assert!(seen == (haste > 1), "seed {seed}: {}", world.report());
    }
}

/// (spec: SESSION-14)
#[test]
fn a_target_sees_one_exit_though_sessions_end_until_another_identity_is_wished() {
    let exits_seen = |renew: bool| {
        let slowest = Step { level: Level::Balanced, step: 0 };
        let mut world = World::at(slowest, Parameters::local(), 21, 0.0, Server::Sends(1_000));
        let mut seen = BTreeSet::new();
        for _ in 0..8 {
            world.download(1_000, Duration::from_secs(5));
            seen.insert(world.endpoint.exit_of(world.last.unwrap()).unwrap());
            world.run_until(|_| false, Duration::from_secs(42));
            assert_eq!(world.endpoint.status().sessions, 0, "{}", world.report());
            if renew {
                world.endpoint.retire_sessions();
            }
        }
        seen
    };
    // Of two exits, eight sessions would meet one alone by a chance of 1 in 128.
    assert_eq!(exits_seen(false).len(), 1);
    assert_eq!(exits_seen(true).len(), 2);
}

/// (spec: SESSION-10, SESSION-14)
#[test]
fn many_isolations_on_slow_slots_keep_one_exit_each() {
    let slowest = Step { level: Level::Balanced, step: 0 };
    for seed in [23, 28, 32] {
        let mut world = World::at(slowest, Parameters::local(), seed, 0.0, Server::Sends(300));
        let target = Target::parse("server.test", 80).unwrap();
        let mut seen: BTreeMap<u8, BTreeSet<RelayId>> = BTreeMap::new();
        // Eight at a time; each speaks up twice, and once more when its session has ended.
        for (turn, group) in [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 0, 1, 2, 3, 4].into_iter().enumerate() {
            if turn == 10 {
                world.run_until(|_| false, Duration::from_secs(45));
                assert_eq!(world.endpoint.status().sessions, 0, "{}", world.report());
            }
            let mut opened = Vec::new();
            for isolation in group * 8..(group + 1) * 8 {
                let (now, isolated) = (world.now, [isolation]);
                let isolated = Isolation::of(&isolated);
                let key = world.endpoint.open(now, isolated, target.clone(), &mut world.rng).unwrap();
                opened.push(key);
                world.endpoint.write(now, key, b"x").unwrap();
                world.endpoint.finish(now, key);
                seen.entry(isolation).or_default().insert(world.endpoint.exit_of(key).unwrap());
            }
            let all = |world: &mut World| opened.iter().all(|key| world.ended.contains_key(key));
            assert!(world.run_until(all, Duration::from_secs(60)), "{}", world.report());
        }
        let several = seen.values().filter(|exits| exits.len() > 1).count();
        assert_eq!(several, 0, "seed {seed}: of {} isolations", seen.len());
        assert_eq!(seen.values().flatten().collect::<BTreeSet<_>>().len(), 2);
    }
}

/// A reply that came by another session's SURB would be sealed under that session's keys, and open nowhere.
/// (spec: SESSION-10, SESSION-14)
#[test]
fn isolations_that_load_at_once_share_neither_sessions_nor_surbs() {
    let mut world = World::new(51, 0.0, Server::Sends(300_000));
    let target = Target::parse("server.test", 80).unwrap();
    let mut opened = Vec::new();
    for isolation in 0..6 {
        let (now, isolated) = (world.now, [isolation]);
        let key = world.endpoint.open(now, Isolation::of(&isolated), target.clone(), &mut world.rng).unwrap();
        world.endpoint.write(now, key, b"GET").unwrap();
        world.endpoint.finish(now, key);
        opened.push(key);
    }
    let all = |world: &mut World| opened.iter().all(|key| world.ended.contains_key(key));
    assert!(world.run_until(all, Duration::from_secs(30)), "{}", world.report());
    assert!(opened.iter().all(|key| world.received[key] == content(300_000)));
    let status = world.endpoint.status();
    let at_exits: Vec<usize> = world.exits.values().map(Gateway::sessions).collect();
    // Several of them are at one exit, where they could be mixed up.
    assert!(at_exits.iter().any(|&sessions| sessions > 1), "{at_exits:?}");
    assert_eq!((status.sessions, at_exits.iter().sum::<usize>()), (6, 6));
    assert_eq!(status.strays, 0, "{status:?}");
    assert!(status.totals.replies > 6 * 300_000 / 4_096, "{status:?}");
}

/// (spec: LEVEL-2)
#[test]
fn nothing_asks_for_a_faster_step_once_all_has_come() {
    for seed in 40..44 {
        let slowest = Step { level: Level::Balanced, step: 0 };
        let mut world = World::at(slowest, Parameters::local(), seed, 0.0, Server::Sends(10_000));
        world.download(10_000, Duration::from_secs(10));
        // Its last words are on their way.
        world.run_until(|_| false, Duration::from_secs(1));
        let asked = world
            .run_until(|world| world.endpoint.demand(world.now) == Demand::More, Duration::from_secs(60));
        assert!(!asked, "seed {seed}: {}", world.report());
    }
}

#[test]
fn a_session_that_is_done_is_closed_at_both_ends() {
    let mut world = World::new(13, 0.0, Server::Sends(1_000));
    world.download(1_000, Duration::from_secs(5));
    let alive = |world: &World| world.exits.values().map(Gateway::sessions).sum::<usize>();
    assert_eq!((alive(&world), world.endpoint.status().sessions), (1, 1));
    // Until then, it serves again, and its exit is under no suspicion.
    world.run_until(|_| false, Duration::from_secs(20));
    let exit = world.open();
    let exit = world.endpoint.exit_of(exit);
    world.endpoint.reset(world.now, world.last.unwrap(), ResetReason::Closed);
    world.download(1_000, Duration::from_secs(5));
    assert!(world.endpoint.exit_of(world.last.unwrap()) == exit);
    assert_eq!((alive(&world), world.endpoint.status().sessions), (1, 1));
    assert!(world.run_until(|world| alive(world) == 0, Duration::from_secs(40)), "{}", world.report());
    assert_eq!(world.endpoint.status().sessions, 0);
}

#[test]
fn at_the_strong_level_the_entry_sees_the_same_arrivals_whether_or_not_something_is_loaded() {
    let strong = Step { level: Level::Strong, step: 0 };
    let mut world = World::at(strong, Parameters::local(), 21, 0.0, Server::Sends(4_000_000));
    let time = Duration::from_secs(120);
    world.run_until(|_| false, time);
    let idle = world.arrivals.len();
    let key = world.open();
    world.endpoint.write(world.now, key, b"GET /").unwrap();
    world.run_until(|_| false, Duration::from_secs(5));
    world.arrivals.clear();
    let before = world.received.get(&key).map_or(0, Vec::len);
    let replies = world.endpoint.status().totals.replies;
    world.run_until(|_| false, time);
    let replies = world.endpoint.status().totals.replies - replies;
    let loaded = world.arrivals.len();
    let bytes = world.received[&key].len() - before;
    // A third of the arrivals carry the download, the others are loops: 20 a second in all. 2 400 expected, four
    // standard deviations are 196.
    assert!((2_204..2_596).contains(&idle) && (2_204..2_596).contains(&loaded), "{idle} {loaded}");
    // Its session gets a third and no more: 800, and five standard deviations.
    assert!((659..941).contains(&replies), "{replies}");
    assert!(bytes > 2_000_000 && world.endpoint.status().loops_sent > 2_400, "{bytes}");
}

#[test]
fn a_small_request_is_answered_quickly_beside_a_download() {
    let waits = [false, true].map(|beside| {
        // A few requests say little: their own delays differ by half.
        let mut times: Vec<Duration> = (22..=24).flat_map(|seed| small_requests(seed, beside)).collect();
        times.sort();
        times[times.len() / 2]
    });
    // A session of its own, and what it needs of the line before the download gets the rest.
    assert!(waits[1] < waits[0].mul_f64(1.3), "{waits:?}");
}

/// First bytes of small answers, each in a session of its own, with a download beside them or without.
fn small_requests(seed: u64, beside: bool) -> Vec<Duration> {
    let mut world = World::new(seed, 0.0, Server::Sends(12_000_000));
    if beside {
        let key = world.open();
        world.endpoint.write(world.now, key, b"GET /").unwrap();
        world.run_until(|_| false, Duration::from_secs(4));
    }
    let mut times = Vec::new();
    for number in 0..7u8 {
        let start = world.now;
        let target = Target::parse("other.test", 80).unwrap();
        let key = world.endpoint.open(start, Isolation::of(&[number]), target, &mut world.rng).unwrap();
        assert!(
            world.run_until(|world| world.received.contains_key(&key), Duration::from_secs(10)),
            "{beside}"
        );
        times.push(world.now.since(start));
        world.endpoint.reset(world.now, key, ResetReason::Closed);
        world.run_until(|_| false, Duration::from_millis(500));
    }
    times
}
