//! A whole client and whole exits over the simulated network: real sessions and streams, in Sphinx packets or in
//! such in the clear, in virtual time. What the daemons do with threads and sockets is done here in one loop.

use crate::clear::Clear;
use crate::exits::{Content, Exits, Server};
use crate::speaker::Speaker;
use crate::wake::Wake;
use crate::world::{Format, Output, Shape, World};
use mizzle_protocol::Result;
use mizzle_protocol::endpoint::{EndpointStatus, Event, Isolation, StreamKey};
use mizzle_protocol::level::Step;
use mizzle_protocol::mix::DropReason;
use mizzle_protocol::sphinx::{PacketFormat, Sphinx};
use mizzle_protocol::stream::{Read, ResetReason};
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::target::Target;
use std::collections::BTreeMap;
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
    speaker: Speaker<F>,
    exits: Exits<F>,
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
        let pace = shape.pace;
        let mut world = World::new(Shape { format: F::FORMAT, ..shape }, START, seed, ())?;
        let speaker = Speaker::new(&mut world, 0, Step::default(), pace, true)?;
        let exits = Exits::new(&world, Content::Fixed(served));
        Ok(Self { world, speaker, exits })
    }

    /// Leaves slots that carry a drop empty. The client that is measured waits for no drop, mixes have room for
    /// all, and to build and unwrap them is most of the work of a run.
    pub fn without_drops(mut self) -> Self {
        self.speaker.without_drops();
        self
    }

    /// Opens a stream, sends `up` and finishes; goes on until both ends have read everything, the stream is
    /// reset, or `limit` has passed.
    pub fn transfer(&mut self, isolation: &[u8], up: &[u8], limit: Duration) -> Result<Transfer> {
        let start = self.world.now();
        let end = start + limit;
        let mut client = self.open(isolation)?;
        let mut transfer = Transfer::default();
        let before = self.exits.next_servers();
        loop {
            self.client_side(&mut client, up, start, &mut transfer);
            self.speaker.settle(&mut self.world)?;
            let done = |server: &Server| server.finished_reading && server.finished_sending;
            let served = self.exits.servers_from(&before).any(done);
            if transfer.reset.is_some() || (served && client.finished_reading) {
                break;
            }
            match self.world.step(end) {
                Some(output) => self.handle(output)?,
                None => break,
            }
        }
        transfer.finished = self.world.now().since(start);
        transfer.up = self.exits.take_received(&before);
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
        let mut client = self.open(isolation)?;
        let mut transfer = Transfer::default();
        loop {
            self.client_side(&mut client, request, start, &mut transfer);
            let count = std::mem::take(&mut transfer.down).len();
            if count > 0 && !read(self.world.now().since(start), count) {
                self.speaker.endpoint.reset(self.world.now(), client.key, ResetReason::Closed);
                return Ok(None);
            }
            self.speaker.settle(&mut self.world)?;
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
            while self.speaker.endpoint.poll_event().is_some() {}
            self.speaker.settle(&mut self.world)?;
            match self.world.step(end) {
                Some(output) => self.handle(output)?,
                None => return Ok(()),
            }
        }
    }

    /// The client's counters.
    pub fn status(&self) -> EndpointStatus {
        self.speaker.endpoint.status()
    }

    /// The network that carries it.
    pub fn world(&mut self) -> &mut World {
        &mut self.world
    }

    /// What the exits' services refused, by reason.
    pub fn refused(&self) -> &BTreeMap<DropReason, u64> {
        self.exits.refused()
    }

    fn open(&mut self, isolation: &[u8]) -> Result<Client> {
        let (now, target) = (self.world.now(), Target::parse("hello.test", 8080)?);
        let key = self.speaker.endpoint.open(now, Isolation::of(isolation), target, self.world.rng())?;
        Ok(Client { key, written: 0, finished_sending: false, finished_reading: false })
    }

    fn handle(&mut self, output: Output) -> Result<()> {
        match output {
            Output::Wake(number) => match Wake::from_number(number) {
                Wake::Slot(_) => self.speaker.slot(&mut self.world),
                Wake::Client(_) => self.speaker.wake(&mut self.world),
                Wake::Exit(exit) => {
                    self.exits.wake(&mut self.world, exit as usize);
                    Ok(())
                }
                Wake::Work(_) => Ok(()),
            },
            Output::Document => {
                self.exits.renew(&self.world);
                self.speaker.renew(&mut self.world)
            }
            Output::Home { mut bytes, .. } => self.speaker.home(&mut self.world, &mut bytes),
            Output::Delivered { exit, message, .. } => self.exits.deliver(&mut self.world, exit, &message),
        }
    }

    fn client_side(&mut self, client: &mut Client, up: &[u8], start: Instant, transfer: &mut Transfer) {
        let now = self.world.now();
        let endpoint = &mut self.speaker.endpoint;
        while let Some(event) = endpoint.poll_event() {
            match event {
                Event::Connected(key) if key == client.key => transfer.connected = now.since(start),
                Event::Reset(key, reason) if key == client.key => transfer.reset = Some(reason),
                // Reading and writing are tried below, whatever has happened.
                _ => {}
            }
        }
        let mut fail = |reason| transfer.reset = transfer.reset.or(Some(reason));
        while !client.finished_sending {
            match endpoint.write(now, client.key, up.get(client.written..).unwrap_or_default()) {
                _ if client.written == up.len() => {
                    endpoint.finish(now, client.key);
                    client.finished_sending = true;
                }
                Ok(0) => break,
                Ok(count) => client.written += count,
                Err(reason) => return fail(reason),
            }
        }
        let mut buffer = [0; 16 * 1024];
        while !client.finished_reading {
            match endpoint.read(now, client.key, &mut buffer) {
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
}

/// The near end of a stream.
struct Client {
    key: StreamKey,
    written: usize,
    finished_sending: bool,
    finished_reading: bool,
}

/// Some moment in 2027: times before the first second would hide mistakes.
const START: Instant = Instant::from_nanos(1_800_000_000_000_000_000);
