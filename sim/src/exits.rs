//! The exits of a simulated network, with the product's sessions and streams, and the servers behind them.

use crate::adversary::toggle::Toggle;
use crate::observe::Observer;
use crate::packets::First;
use crate::wake::{Wake, Waker};
use crate::world::World;
use mizzle_protocol::Result;
use mizzle_protocol::id::{Period, SessionId};
use mizzle_protocol::mix::DropReason;
use mizzle_protocol::session::{Gateway, GatewayEvent, GatewayStream, SessionLog};
use mizzle_protocol::sphinx::PacketFormat;
use mizzle_protocol::stream::Read;
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::payload::{Payload, Pong};
use mizzle_protocol::{Error, ErrorKind};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};

/// What the servers behind the exits send.
#[derive(Clone, Debug)]
pub enum Content {
    /// The same to whoever connects.
    Fixed(Vec<u8>),
    /// As many bytes as the first words of the request ask for, when all of the request is there; see [`ask`].
    Asked,
}

/// The first bytes of a request of `up` bytes that asks for `down`: what a client of [`Content::Asked`] says. `flow`
/// is its number in the book of [`Exits::take_seen`].
pub fn ask(up: u64, down: u64, flow: u64) -> [u8; ASK] {
    let mut words = [0; ASK];
    for (byte, digit) in words.iter_mut().zip([up, down, flow].into_iter().flat_map(u64::to_be_bytes)) {
        *byte = digit;
    }
    words
}

/// What goes over the line between an exit and a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// The flow's number.
    pub flow: u64,
    /// Bytes of a request.
    pub bytes: u64,
}

/// Bytes of [`ask`].
pub const ASK: usize = 24;

/// The byte of asked content at this place.
pub fn content_at(place: u64) -> u8 {
    (place.wrapping_mul(2_654_435_761) >> 13) as u8
}

/// All exits.
pub struct Exits<F: PacketFormat> {
    exits: Vec<Exit<F>>,
    content: Content,
    sessions: Sessions,
    refused: BTreeMap<DropReason, u64>,
    seen: Vec<Seen>,
    toggled: Option<Toggled>,
    buffer: Vec<u8>,
}

/// The one server that does not send as fast as it can.
#[derive(Clone, Copy)]
struct Toggled {
    flow: u64,
    toggle: Toggle,
    /// Since when it sends.
    since: Option<Instant>,
}

struct Exit<F: PacketFormat> {
    gateway: Gateway<F>,
    servers: BTreeMap<u64, Server>,
    next: u64,
    waker: Waker,
}

/// The far end of one stream.
pub struct Server {
    stream: GatewayStream,
    /// What it got; of asked content only the first words.
    pub received: Vec<u8>,
    got: u64,
    sent: u64,
    /// It has nothing more to send.
    pub finished_sending: bool,
    /// The client has said that it has nothing more to send.
    pub finished_reading: bool,
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

impl<F: PacketFormat> Exits<F> {
    /// The exits of a world.
    pub fn new<O: Observer>(world: &World<O>, content: Content) -> Self {
        let topology = world.topology();
        let exits = (0..world.shape().exits)
            .map(|index| {
                let mut gateway = Gateway::with_format(&topology.parameters);
                gateway.set_service_keys(world.services(index));
                Exit {
                    gateway,
                    servers: BTreeMap::new(),
                    next: 0,
                    waker: Waker::new(Wake::Exit(index as u32)),
                }
            })
            .collect();
        let (sessions, refused) = (Sessions::default(), BTreeMap::new());
        Self { exits, content, sessions, refused, seen: Vec::new(), toggled: None, buffer: Vec::new() }
    }

    /// The server that gets the request of this flow sends like this.
    pub fn toggle(&mut self, flow: u64, toggle: Toggle) {
        self.toggled = Some(Toggled { flow, toggle, since: None });
    }

    /// Since when that server sends; `None`: it has got no request yet, or there is none.
    pub fn toggled_since(&self) -> Option<Instant> {
        self.toggled.and_then(|toggled| toggled.since)
    }

    /// There is a new document: exits have other keys perhaps.
    pub fn renew<O: Observer>(&mut self, world: &World<O>) {
        for (index, exit) in self.exits.iter_mut().enumerate() {
            exit.gateway.set_service_keys(world.services(index));
        }
    }

    /// What the services refused, by reason.
    pub fn refused(&self) -> &BTreeMap<DropReason, u64> {
        &self.refused
    }

    /// What went to the servers of asked content since the last call.
    pub fn take_seen(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen)
    }

    /// The number that each exit's next server will have.
    pub fn next_servers(&self) -> Vec<u64> {
        self.exits.iter().map(|exit| exit.next).collect()
    }

    /// All servers from these numbers on.
    pub fn servers_from<'a>(&'a self, first: &'a [u64]) -> impl Iterator<Item = &'a Server> {
        self.exits
            .iter()
            .zip(first)
            .flat_map(|(exit, &first)| exit.servers.range(first..))
            .map(|(_, server)| server)
    }

    /// What those have got, taken from them.
    pub fn take_received(&mut self, first: &[u64]) -> Vec<u8> {
        let servers =
            self.exits.iter_mut().zip(first).flat_map(|(exit, &first)| exit.servers.range_mut(first..));
        servers.flat_map(|(_, server)| std::mem::take(&mut server.received)).collect()
    }

    /// Takes a message that has reached an exit.
    pub fn deliver<O: Observer>(&mut self, world: &mut World<O>, exit: usize, message: &[u8]) -> Result<()> {
        let now = world.now();
        let Some(known) = self.exits.get_mut(exit) else { return Ok(()) };
        match Payload::parse(message) {
            Ok(Payload::Drop) => return Ok(()),
            Ok(Payload::Session(bytes)) => {
                if let Err(reason) = known.gateway.handle_packet(now, bytes, &self.sessions, world.rng()) {
                    *self.refused.entry(reason).or_default() += 1;
                }
            }
            Ok(Payload::Ping(ping)) => {
                let pong = Pong { nonce: ping.nonce, arrival: now }.to_bytes();
                let geometry = world.topology().parameters.geometry;
                let relay = F::use_surb(geometry, &ping.surb, &pong, &mut self.buffer)?;
                world.reply(exit, First { relay, hint: ping.hint }, &mut self.buffer);
            }
            Err(_) => *self.refused.entry(DropReason::BadPayload).or_default() += 1,
        }
        self.go_on(world, exit);
        Ok(())
    }

    /// A moment has come that an exit asked for.
    pub fn wake<O: Observer>(&mut self, world: &mut World<O>, exit: usize) {
        let now = world.now();
        if let Some(known) = self.exits.get_mut(exit)
            && known.waker.woken(now)
        {
            known.gateway.handle_timeout(now);
            self.go_on(world, exit);
        }
    }

    /// Lets the servers read and write, and sends what is due.
    fn go_on<O: Observer>(&mut self, world: &mut World<O>, index: usize) {
        let now = world.now();
        let Some(exit) = self.exits.get_mut(index) else { return };
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
            let before = server.got;
            server.go_on(now, &mut exit.gateway, &self.content, &mut self.toggled);
            if let (Content::Asked, Some(asked)) = (&self.content, asked(&server.received))
                && server.got > before
            {
                self.seen.push(Seen { at: now, flow: asked.flow, bytes: server.got - before });
            }
        }
        if matches!(self.content, Content::Asked) {
            // Nobody asks about them later.
            exit.servers.retain(|_, server| !server.is_done());
        }
        while let Some(transmit) = exit.gateway.poll_transmit(now, world.rng(), &mut self.buffer) {
            let first = First { relay: transmit.first, hint: transmit.hint };
            world.reply(index, first, &mut self.buffer);
        }
        exit.waker.ask(world, exit.gateway.poll_timeout());
        let next = exit.servers.values().filter_map(|server| server.next(now, self.toggled.as_ref()?)).min();
        exit.waker.ask(world, next);
    }
}

impl Toggled {
    /// It sends what was asked for, by its own clock, which the request sets off.
    fn limit(&mut self, now: Instant, asked: &Asked) -> Option<u64> {
        (self.flow == asked.flow).then(|| self.toggle.due(now.since(*self.since.get_or_insert(now))))
    }
}

impl Server {
    fn new(stream: GatewayStream) -> Self {
        Self {
            stream,
            received: Vec::new(),
            got: 0,
            sent: 0,
            finished_sending: false,
            finished_reading: false,
            closed: false,
        }
    }

    fn is_done(&self) -> bool {
        self.closed || (self.finished_sending && self.finished_reading)
    }

    fn go_on<F: PacketFormat>(
        &mut self,
        now: Instant,
        gateway: &mut Gateway<F>,
        content: &Content,
        toggled: &mut Option<Toggled>,
    ) {
        if !self.is_done() {
            self.read(now, gateway, content);
            self.write(now, gateway, content, toggled);
        }
    }

    /// When it has more to send than now, if it is the one that sends by a clock.
    fn next(&self, now: Instant, toggled: &Toggled) -> Option<Instant> {
        let own = asked(&self.received).is_some_and(|asked| asked.flow == toggled.flow);
        let since = toggled.since.filter(|_| own && !self.finished_sending)?;
        Some(since + toggled.toggle.next(now.since(since)))
    }

    fn read<F: PacketFormat>(&mut self, now: Instant, gateway: &mut Gateway<F>, content: &Content) {
        let mut buffer = [0; 16 * 1024];
        while !self.closed && !self.finished_reading {
            match gateway.read(now, self.stream, &mut buffer) {
                Ok(Read::Data(count)) => {
                    let kept = match content {
                        Content::Fixed(_) => count,
                        Content::Asked => count.min(ASK - self.received.len().min(ASK)),
                    };
                    self.received.extend(buffer.iter().take(kept));
                    self.got += count as u64;
                }
                Ok(Read::Empty) => break,
                Ok(Read::Finished) => self.finished_reading = true,
                Err(_) => self.closed = true,
            }
        }
    }

    fn write<F: PacketFormat>(
        &mut self,
        now: Instant,
        gateway: &mut Gateway<F>,
        content: &Content,
        toggled: &mut Option<Toggled>,
    ) {
        let (total, limit) = match content {
            Content::Fixed(content) => (content.len() as u64, None),
            Content::Asked => match asked(&self.received) {
                Some(asked) if self.got >= asked.up => {
                    (asked.down, toggled.as_mut().and_then(|toggled| toggled.limit(now, &asked)))
                }
                _ => return,
            },
        };
        let limit = limit.unwrap_or(total).min(total);
        while !self.closed && !self.finished_sending {
            if self.sent >= total {
                gateway.finish(now, self.stream);
                self.finished_sending = true;
                break;
            }
            if self.sent >= limit {
                break;
            }
            let written = match content {
                Content::Fixed(content) => {
                    gateway.write(now, self.stream, content.get(self.sent as usize..).unwrap_or_default())
                }
                Content::Asked => {
                    let piece: Vec<u8> = (self.sent..limit).take(PIECE).map(content_at).collect();
                    gateway.write(now, self.stream, &piece)
                }
            };
            match written {
                Ok(0) => break,
                Ok(count) => self.sent += count as u64,
                Err(_) => self.closed = true,
            }
        }
    }
}

/// What the first words of a request say.
struct Asked {
    up: u64,
    down: u64,
    flow: u64,
}

fn asked(words: &[u8]) -> Option<Asked> {
    let (up, rest) = words.split_first_chunk()?;
    let (down, rest) = rest.split_first_chunk()?;
    let of = |word: &[u8; 8]| u64::from_be_bytes(*word);
    Some(Asked { up: of(up), down: of(down), flow: of(rest.first_chunk()?) })
}

/// Bytes of asked content that are made at a time.
const PIECE: usize = 16 * 1024;
