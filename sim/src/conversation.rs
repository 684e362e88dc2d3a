//! A whole client and whole exits over the simulated network: real sessions and streams, in Sphinx packets or in
//! such in the clear, in virtual time. What the daemons do with threads and sockets is done here in one loop.

use crate::clear::Clear;
use crate::packets::First;
use crate::world::{Format, Output, Shape, World};
use mizzle_protocol::cover::{Prepared, Ring, SlotKind, Slots, Token};
use mizzle_protocol::endpoint::{Endpoint, EndpointStatus, Event, Isolation, StreamKey};
use mizzle_protocol::id::{Period, RelayId, SessionId};
use mizzle_protocol::level::Level;
use mizzle_protocol::mix::DropReason;
use mizzle_protocol::session::{Gateway, GatewayEvent, GatewayStream, SessionLog};
use mizzle_protocol::sphinx::{PacketFormat, Sphinx};
use mizzle_protocol::stream::{Read, ResetReason};
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::payload::{Payload, Pong};
use mizzle_protocol::wire::target::Target;
use mizzle_protocol::{Error, ErrorKind, Result};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// A packet format that the world carries, too.
pub trait Carried: PacketFormat {
    /// What the world calls it.
    const FORMAT: Format;
}

impl Carried for Sphinx {
    const FORMAT: Format = Format::Sphinx;
}

impl Carried for Clear {
    const FORMAT: Format = Format::Clear;
}

/// One client, the exits of its network, and what they have said to each other.
pub struct Conversation<F: Carried = Clear> {
    world: World,
    endpoint: Endpoint<F>,
    slots: Slots,
    ring: Ring,
    exits: Vec<Exit<F>>,
    wakes: BTreeMap<u64, Instant>,
    sessions: Sessions,
    refused: BTreeMap<DropReason, u64>,
    /// What the servers behind the exits send to whoever connects.
    served: Vec<u8>,
    /// Drops are built and sent.
    drops: bool,
}

/// How a transfer went.
#[derive(Clone, Debug, Default)]
pub struct Transfer {
    /// What the server got.
    pub up: Vec<u8>,
    /// What the client got.
    pub down: Vec<u8>,
    /// Time until the client knew that it was connected.
    pub connected: Duration,
    /// Time until the first byte came home.
    pub first_byte: Duration,
    /// Time until both ends had read everything.
    pub finished: Duration,
    /// Why it was cut off, if it was.
    pub reset: Option<ResetReason>,
}

struct Exit<F: PacketFormat> {
    gateway: Gateway<F>,
    servers: BTreeMap<u64, Server>,
    next: u64,
}

/// The far end of one stream.
struct Server {
    stream: GatewayStream,
    received: Vec<u8>,
    sent: usize,
    finished_sending: bool,
    finished_reading: bool,
    closed: bool,
}

/// Sessions that were seen, in memory.
#[derive(Default)]
struct Sessions(RefCell<HashSet<(Period, SessionId)>>);

impl SessionLog for Sessions {
    fn insert(&self, period: Period, id: SessionId) -> Result<()> {
        match self.0.borrow_mut().insert((period, id)) {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Replayed, "session seen before")),
        }
    }
}

impl Conversation {
    /// A client and the exits of a network of this shape, with packets in the clear. Every server sends `served` and
    /// then finishes.
    pub fn new(shape: Shape, seed: u64, served: Vec<u8>) -> Result<Self> {
        Self::with_format(shape, seed, served)
    }
}

impl<F: Carried> Conversation<F> {
    /// The same with packets of another format.
    pub fn with_format(shape: Shape, seed: u64, served: Vec<u8>) -> Result<Self> {
        let (parameters, pace) = (shape.parameters.clone(), shape.pace);
        let mut world = World::new(Shape { format: F::FORMAT, ..shape }, START, seed, ())?;
        let (now, topology) = (world.now(), world.topology().clone());
        let mut endpoint = Endpoint::with_format(world.rng());
        endpoint.set_topology(now, topology.clone());
        let (entry, address) = world
            .place_of(0)
            .ok_or_else(|| Error::new(ErrorKind::Misuse, "a conversation needs a client"))?;
        endpoint.set_entry(now, entry, address);
        endpoint.set_pace(Level::Balanced, pace);
        let slots = Slots::new(pace, now, world.rng());
        let exits = (0..topology.exits.len())
            .map(|index| {
                let mut gateway = Gateway::with_format(&parameters);
                gateway.set_service_keys(
                    world
                        .service(index)
                        .map(|secret| (topology.period, secret.clone()))
                        .into_iter()
                        .collect(),
                );
                Exit { gateway, servers: BTreeMap::new(), next: 0 }
            })
            .collect();
        Ok(Self {
            world,
            endpoint,
            slots,
            ring: Ring::new(pace),
            exits,
            wakes: BTreeMap::new(),
            sessions: Sessions::default(),
            refused: BTreeMap::new(),
            served,
            drops: true,
        })
    }

    /// Leaves slots that carry a drop empty. The client that is measured waits for no drop, mixes have room for
    /// all, and to build and unwrap them is most of the work of a run.
    pub fn without_drops(mut self) -> Self {
        self.drops = false;
        self
    }

    /// Opens a stream, sends `up` and finishes; goes on until both ends have read everything, the stream is
    /// reset, or `limit` has passed.
    pub fn transfer(&mut self, isolation: &[u8], up: &[u8], limit: Duration) -> Result<Transfer> {
        let start = self.world.now();
        let end = start + limit;
        let target = Target::parse("hello.test", 8080)?;
        let key = self.endpoint.open(start, Isolation::of(isolation), target, self.world.rng())?;
        let mut transfer = Transfer::default();
        let mut client = Client { key, written: 0, finished_sending: false, finished_reading: false };
        let before: Vec<_> = self.exits.iter().map(|exit| exit.next).collect();
        loop {
            self.client_side(&mut client, up, start, &mut transfer);
            self.server_side()?;
            self.prepare()?;
            let mut servers =
                self.exits.iter().zip(&before).flat_map(|(exit, &first)| exit.servers.range(first..));
            let served = servers.any(|(_, server)| server.finished_reading && server.finished_sending);
            if transfer.reset.is_some() || (served && client.finished_reading) {
                break;
            }
            match self.world.step(end) {
                Some(output) => self.handle(output)?,
                None => break,
            }
        }
        transfer.finished = self.world.now().since(start);
        transfer.up = self
            .exits
            .iter_mut()
            .zip(&before)
            .flat_map(|(exit, &first)| exit.servers.range_mut(first..))
            .flat_map(|(_, server)| std::mem::take(&mut server.received))
            .collect();
        Ok(transfer)
    }

    /// Opens a stream, sends `request`, and reads what comes: `read` hears of it each time, how long after the
    /// opening and how many bytes, until it says false, the stream has ended, or `limit` has passed. Returns why
    /// it was cut off, if it was.
    pub fn fetch(
        &mut self,
        isolation: &[u8],
        request: &[u8],
        limit: Duration,
        mut read: impl FnMut(Duration, usize) -> bool,
    ) -> Result<Option<ResetReason>> {
        let start = self.world.now();
        let target = Target::parse("hello.test", 8080)?;
        let key = self.endpoint.open(start, Isolation::of(isolation), target, self.world.rng())?;
        let mut client = Client { key, written: 0, finished_sending: false, finished_reading: false };
        let mut transfer = Transfer::default();
        loop {
            self.client_side(&mut client, request, start, &mut transfer);
            let count = std::mem::take(&mut transfer.down).len();
            if count > 0 && !read(self.world.now().since(start), count) {
                self.endpoint.reset(self.world.now(), key, ResetReason::Closed);
                return Ok(None);
            }
            self.server_side()?;
            self.prepare()?;
            if transfer.reset.is_some() || client.finished_reading {
                return Ok(transfer.reset);
            }
            match self.world.step(start + limit) {
                Some(output) => self.handle(output)?,
                None => return Ok(None),
            }
        }
    }

    /// Lets `time` pass: cover goes on, sessions rest.
    pub fn idle(&mut self, time: Duration) -> Result<()> {
        let end = self.world.now() + time;
        loop {
            while self.endpoint.poll_event().is_some() {}
            self.server_side()?;
            self.prepare()?;
            match self.world.step(end) {
                Some(output) => self.handle(output)?,
                None => return Ok(()),
            }
        }
    }

    /// The client's counters.
    pub fn status(&self) -> EndpointStatus {
        self.endpoint.status()
    }

    /// The network that carries it.
    pub fn world(&mut self) -> &mut World {
        &mut self.world
    }

    /// What the exits' services refused, by reason.
    pub fn refused(&self) -> &BTreeMap<DropReason, u64> {
        &self.refused
    }

    fn handle(&mut self, output: Output) -> Result<()> {
        let now = self.world.now();
        match output {
            Output::Wake(number) => {
                self.wakes.remove(&number);
                match number {
                    SLOT => self.slot(now),
                    ENDPOINT => self.endpoint.handle_timeout(now, self.world.rng()),
                    exit => {
                        if let Some(exit) = self.exits.get_mut((exit - FIRST_EXIT) as usize) {
                            exit.gateway.handle_timeout(now);
                        }
                    }
                }
            }
            Output::Home { mut bytes, .. } => self.endpoint.handle_packet(now, &mut bytes),
            Output::Delivered { exit, message, .. } => self.deliver(now, exit, &message)?,
        }
        Ok(())
    }

    fn slot(&mut self, now: Instant) {
        let Some(kind) = self.slots.poll(now, self.world.rng()) else { return };
        if let Some(mut prepared) = self.ring.take(kind).filter(|prepared| !prepared.packet.is_empty()) {
            let first = First { relay: prepared.first, hint: prepared.hint };
            self.world.send(0, first, &mut prepared.packet);
            self.endpoint.sent(now, prepared.token);
        }
    }

    fn deliver(&mut self, now: Instant, index: usize, message: &[u8]) -> Result<()> {
        let parameters = self.world.topology().parameters.clone();
        let Some(exit) = self.exits.get_mut(index) else { return Ok(()) };
        match Payload::parse(message) {
            Ok(Payload::Drop) => {}
            Ok(Payload::Session(bytes)) => {
                if let Err(reason) = exit.gateway.handle_packet(now, bytes, &self.sessions, self.world.rng())
                {
                    *self.refused.entry(reason).or_default() += 1;
                }
            }
            Ok(Payload::Ping(ping)) => {
                let pong = Pong { nonce: ping.nonce, arrival: now }.to_bytes();
                let mut packet = Vec::new();
                let relay = F::use_surb(parameters.geometry, &ping.surb, &pong, &mut packet)?;
                self.world.reply(index, First { relay, hint: ping.hint }, &mut packet);
            }
            Err(_) => *self.refused.entry(DropReason::BadPayload).or_default() += 1,
        }
        Ok(())
    }

    /// Fills the ring, puts replies that are due on their way, and asks to be woken when a machine wants it.
    fn prepare(&mut self) -> Result<()> {
        let now = self.world.now();
        for kind in [SlotKind::Drop, SlotKind::Loop, SlotKind::Payload] {
            while self.ring.has_room(kind) {
                let built = match kind {
                    SlotKind::Drop if !self.drops => Some(NOTHING),
                    kind => self.endpoint.build(now, kind, self.world.rng())?,
                };
                let Some(prepared) = built else { break };
                if self.ring.push(prepared).is_err() {
                    return Err(Error::new(
                        ErrorKind::Misuse,
                        "the endpoint built another kind than was asked for",
                    ));
                }
            }
        }
        if self.ring.has_room_for_urgent()
            && let Some(prepared) = self.endpoint.build_urgent(now, self.world.rng())?
            && self.ring.push_urgent(prepared).is_err()
        {
            return Err(Error::new(
                ErrorKind::Misuse,
                "there was room for an urgent packet, and there is none",
            ));
        }
        let mut packet = Vec::new();
        for (index, exit) in self.exits.iter_mut().enumerate() {
            while let Some(transmit) = exit.gateway.poll_transmit(now, self.world.rng(), &mut packet) {
                let first = First { relay: transmit.first, hint: transmit.hint };
                self.world.reply(index, first, &mut packet);
            }
        }
        let wanted = [(SLOT, Some(self.slots.poll_timeout())), (ENDPOINT, self.endpoint.poll_timeout())];
        let exits =
            (FIRST_EXIT..).zip(&self.exits).map(|(number, exit)| (number, exit.gateway.poll_timeout()));
        for (number, when) in wanted.into_iter().chain(exits) {
            let Some(when) = when.map(|when| when.max(now)) else { continue };
            // A wake that comes too early only asks again.
            if self.wakes.get(&number).is_none_or(|&asked| when < asked) {
                self.wakes.insert(number, when);
                self.world.wake_at(when, number);
            }
        }
        Ok(())
    }

    fn client_side(&mut self, client: &mut Client, up: &[u8], start: Instant, transfer: &mut Transfer) {
        let now = self.world.now();
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Connected(key) if key == client.key => transfer.connected = now.since(start),
                Event::Reset(key, reason) if key == client.key => transfer.reset = Some(reason),
                // Reading and writing are tried below, whatever has happened.
                _ => {}
            }
        }
        let mut fail = |reason| transfer.reset = transfer.reset.or(Some(reason));
        while !client.finished_sending {
            match self.endpoint.write(now, client.key, up.get(client.written..).unwrap_or_default()) {
                _ if client.written == up.len() => {
                    self.endpoint.finish(now, client.key);
                    client.finished_sending = true;
                }
                Ok(0) => break,
                Ok(count) => client.written += count,
                Err(reason) => return fail(reason),
            }
        }
        let mut buffer = [0; 16 * 1024];
        while !client.finished_reading {
            match self.endpoint.read(now, client.key, &mut buffer) {
                Ok(Read::Data(count)) => {
                    if transfer.down.is_empty() {
                        transfer.first_byte = now.since(start);
                    }
                    transfer.down.extend(buffer.iter().take(count));
                }
                Ok(Read::Empty) => break,
                Ok(Read::Finished) => client.finished_reading = true,
                Err(reason) => return fail(reason),
            }
        }
    }

    fn server_side(&mut self) -> Result<()> {
        let now = self.world.now();
        for exit in &mut self.exits {
            while let Some(event) = exit.gateway.poll_event() {
                match event {
                    GatewayEvent::Open(stream, _) => {
                        exit.gateway.connected(now, stream);
                        exit.servers.insert(exit.next, Server::new(stream));
                        exit.next += 1;
                    }
                    GatewayEvent::Closed(stream, _) => {
                        for server in exit.servers.values_mut().filter(|server| server.stream == stream) {
                            server.closed = true;
                        }
                    }
                    _ => {}
                }
            }
            for server in exit.servers.values_mut() {
                server.go_on(now, &mut exit.gateway, &self.served);
            }
        }
        Ok(())
    }
}

/// The near end of a stream.
struct Client {
    key: StreamKey,
    written: usize,
    finished_sending: bool,
    finished_reading: bool,
}

impl Server {
    fn new(stream: GatewayStream) -> Self {
        Self {
            stream,
            received: Vec::new(),
            sent: 0,
            finished_sending: false,
            finished_reading: false,
            closed: false,
        }
    }

    fn go_on<F: PacketFormat>(&mut self, now: Instant, gateway: &mut Gateway<F>, served: &[u8]) {
        while !self.closed && !self.finished_sending {
            if self.sent == served.len() {
                gateway.finish(now, self.stream);
                self.finished_sending = true;
                break;
            }
            match gateway.write(now, self.stream, served.get(self.sent..).unwrap_or_default()) {
                Ok(0) => break,
                Ok(count) => self.sent += count,
                Err(_) => self.closed = true,
            }
        }
        let mut buffer = [0; 16 * 1024];
        while !self.closed && !self.finished_reading {
            match gateway.read(now, self.stream, &mut buffer) {
                Ok(Read::Data(count)) => self.received.extend(buffer.iter().take(count)),
                Ok(Read::Empty) => break,
                Ok(Read::Finished) => self.finished_reading = true,
                Err(_) => self.closed = true,
            }
        }
    }
}

/// In the place of a drop that is not sent.
const NOTHING: Prepared = Prepared {
    kind: SlotKind::Drop,
    token: Token(u64::MAX),
    first: RelayId([0; 32]),
    hint: 0,
    packet: Vec::new(),
};
/// Some moment in 2027: times before the first second would hide mistakes.
const START: Instant = Instant::from_nanos(1_800_000_000_000_000_000);
const SLOT: u64 = 0;
const ENDPOINT: u64 = 1;
const FIRST_EXIT: u64 = 2;
