//! All clients of a network: those that speak, and those that only send cover; and the exits.

use crate::adversary::toggle::{Steps, Toggle};
use crate::clear::Clear;
use crate::cover::Crowd;
use crate::exits::{ASK, Content, Exits, Seen, ask, content_at};
use crate::observe::Observer;
use crate::speaker::Speaker;
use crate::wake::{Wake, Waker};
use crate::workload::{Flow, People, Plan, REQUEST, Workload};
use crate::world::{Output, World};
use mizzle_protocol::endpoint::{Event, Isolation, StreamKey};
use mizzle_protocol::level::Step;
use mizzle_protocol::stream::{Read, ResetReason};
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::target::Target;
use mizzle_protocol::{Error, ErrorKind, Result};
use std::time::Duration;

/// Who lives in a network.
#[derive(Clone, Debug)]
pub struct Habits {
    /// Clients that speak: the first ones.
    pub speakers: usize,
    /// What they do.
    pub workload: Workload,
    /// Where they go, and when they are there.
    pub people: People,
    /// The step of all clients at first.
    pub step: Step,
    /// They stay there; otherwise those that speak move as their load asks.
    pub pinned: bool,
    /// When they begin.
    pub from: Instant,
}

/// A network with all who use it.
pub struct Town<O: Observer> {
    /// What carries packets.
    pub world: World<O>,
    crowd: Crowd,
    speakers: Vec<Speaker<Clear>>,
    workers: Vec<Worker>,
    exits: Exits<Clear>,
    /// All flows that have begun.
    flows: Vec<FlowRecord>,
}

/// What became of a flow.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowRecord {
    /// Which client.
    pub client: u32,
    /// What it was.
    pub flow: Flow,
    /// Time until the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// Time until all of it was there.
    pub finished: Option<Duration>,
    /// Why it was cut off, if it was.
    pub reset: Option<ResetReason>,
    /// The answer is not what the server sent.
    pub spoilt: bool,
}

/// The applications of one client.
struct Worker {
    plan: Plan,
    active: Vec<Active>,
    waker: Waker,
}

/// A flow under way.
struct Active {
    key: StreamKey,
    number: usize,
    written: u64,
    read: u64,
    finished_sending: bool,
}

impl<O: Observer> Town<O> {
    /// Clients and exits for a world.
    ///
    /// [`ErrorKind::Misuse`] if there are more speakers than clients.
    pub fn new(mut world: World<O>, habits: &Habits) -> Result<Self> {
        let pace = world.shape().pace;
        let mut speakers = Vec::with_capacity(habits.speakers);
        let mut workers = Vec::with_capacity(habits.speakers);
        if habits.speakers > world.shape().clients {
            return Err(Error::new(ErrorKind::Misuse, "more speakers than clients"));
        }
        for index in 0..habits.speakers {
            speakers.push(Speaker::new(&mut world, index, habits.step, pace, habits.pinned)?);
            let plan = habits.workload.plan(index, habits.from, habits.people, world.rng());
            let mut waker = Waker::new(Wake::Work(index as u32));
            waker.ask(&mut world, plan.begins());
            workers.push(Worker { plan, active: Vec::new(), waker });
        }
        for speaker in &mut speakers {
            speaker.settle(&mut world)?;
        }
        let crowd = Crowd::new(&mut world, habits.speakers);
        let exits = Exits::new(&world, Content::Asked);
        Ok(Self { world, crowd, speakers, workers, exits, flows: Vec::new() })
    }

    /// Lets all of them live until `end`.
    pub fn run(&mut self, end: Instant) -> Result<()> {
        while let Some(output) = self.world.step(end) {
            match output {
                Output::Wake(number) => self.wake(Wake::from_number(number))?,
                Output::Document => {
                    self.exits.renew(&self.world);
                    for index in 0..self.speakers.len() {
                        if let Some(speaker) = self.speakers.get_mut(index) {
                            speaker.renew(&mut self.world)?;
                        }
                        self.work(index)?;
                    }
                }
                Output::Home { client, mut bytes } => {
                    if let Some(speaker) = self.speakers.get_mut(client) {
                        speaker.home(&mut self.world, &mut bytes)?;
                        self.work(client)?;
                    }
                }
                Output::Delivered { exit, message, .. } => {
                    self.exits.deliver(&mut self.world, exit, &message)?;
                }
            }
        }
        Ok(())
    }

    /// All flows that have begun.
    pub fn flows(&self) -> &[FlowRecord] {
        &self.flows
    }

    /// When each client that speaks rose to a faster step.
    pub fn rises(&self) -> Vec<Vec<Instant>> {
        self.speakers.iter().map(|speaker| speaker.rises.clone()).collect()
    }

    /// At which steps each client that speaks was.
    pub fn steps(&self) -> Vec<Steps> {
        self.speakers.iter().map(|speaker| speaker.steps.clone()).collect()
    }

    /// What each client that speaks has for itself: the sites that it comes back to, and when it is there.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.workers.iter().map(|worker| &worker.plan)
    }

    /// The first client that speaks visits a site that toggles its load, and stays until the last round is over.
    pub fn visit(&mut self, toggle: Toggle) -> Result<()> {
        self.exits.toggle(self.flows.len() as u64, toggle);
        let begins = self.world.now();
        self.open(0, Flow { begins, up: REQUEST, down: toggle.bytes(), site: TOGGLER, then: None })?;
        self.work(0)
    }

    /// Since when that site sends; `None`: nobody has asked it.
    pub fn toggled_since(&self) -> Option<Instant> {
        self.exits.toggled_since()
    }

    /// What went from exits to servers since the last call; flows by their place among [`Self::flows`].
    pub fn take_seen(&mut self) -> Vec<Seen> {
        self.exits.take_seen()
    }

    fn wake(&mut self, wake: Wake) -> Result<()> {
        match wake {
            Wake::Slot(index) => match self.speakers.get_mut(index as usize) {
                Some(speaker) => {
                    // Who has something under way stays until it is over.
                    let now = self.world.now();
                    let is_there = |worker: &Worker| worker.plan.is_there(now) || !worker.active.is_empty();
                    speaker.away = !self.workers.get(index as usize).is_none_or(is_there);
                    speaker.slot(&mut self.world)
                }
                None => self.crowd.slot(&mut self.world, index),
            },
            Wake::Client(index) => {
                if let Some(speaker) = self.speakers.get_mut(index as usize) {
                    speaker.wake(&mut self.world)?;
                }
                self.work(index as usize)
            }
            Wake::Exit(index) => {
                self.exits.wake(&mut self.world, index as usize);
                Ok(())
            }
            Wake::Work(index) => self.begin(index as usize),
        }
    }

    /// Begins the flows of a client that are due.
    fn begin(&mut self, index: usize) -> Result<()> {
        let now = self.world.now();
        let Some(worker) = self.workers.get_mut(index) else { return Ok(()) };
        if !worker.waker.woken(now) {
            return Ok(());
        }
        let mut due = Vec::new();
        while let Some(flow) = worker.plan.next(now, self.world.rng()) {
            due.push(flow);
        }
        worker.waker.ask(&mut self.world, worker.plan.begins());
        for flow in due {
            self.open(index, flow)?;
        }
        self.work(index)
    }

    fn open(&mut self, index: usize, flow: Flow) -> Result<()> {
        let now = self.world.now();
        let (Some(speaker), Some(worker)) = (self.speakers.get_mut(index), self.workers.get_mut(index))
        else {
            return Ok(());
        };
        let target = Target::parse(&format!("site-{}.test", flow.site), 443)?;
        let number = self.flows.len();
        let opened = speaker.endpoint.open(now, Isolation::of(b""), target, self.world.rng());
        let mut record = FlowRecord {
            client: index as u32,
            flow,
            first_byte: None,
            finished: None,
            reset: None,
            spoilt: false,
        };
        match opened {
            Ok(key) => {
                worker.active.push(Active { key, number, written: 0, read: 0, finished_sending: false });
            }
            Err(_) => record.reset = Some(ResetReason::Exhausted),
        }
        self.flows.push(record);
        Ok(())
    }

    /// Lets the flows of a client write and read.
    fn work(&mut self, index: usize) -> Result<()> {
        let now = self.world.now();
        let (Some(speaker), Some(worker)) = (self.speakers.get_mut(index), self.workers.get_mut(index))
        else {
            return Ok(());
        };
        let endpoint = &mut speaker.endpoint;
        let mut news = false;
        while let Some(event) = endpoint.poll_event() {
            news |= !matches!(event, Event::LoopHome { .. } | Event::Pong(_));
            if let Event::Reset(key, reason) = event
                && let Some(active) = worker.active.iter().find(|active| active.key == key)
                && let Some(record) = self.flows.get_mut(active.number)
            {
                record.reset = Some(reason);
            }
        }
        let begun = worker.active.iter().any(|active| active.written == 0);
        if !news && !begun {
            return Ok(());
        }
        let mut following = Vec::new();
        for active in &mut worker.active {
            let Some(record) = self.flows.get_mut(active.number) else { continue };
            let since = now.since(record.flow.begins);
            let (up, down) = (record.flow.up.max(ASK as u64), record.flow.down);
            while !active.finished_sending && record.reset.is_none() {
                let bytes = request(active.written, up, down, active.number as u64);
                match endpoint.write(now, active.key, &bytes) {
                    _ if bytes.is_empty() => {
                        endpoint.finish(now, active.key);
                        active.finished_sending = true;
                    }
                    Ok(0) => break,
                    Ok(count) => active.written += count as u64,
                    Err(reason) => record.reset = Some(reason),
                }
            }
            let mut buffer = [0; 16 * 1024];
            while record.finished.is_none() && record.reset.is_none() {
                match endpoint.read(now, active.key, &mut buffer) {
                    Ok(Read::Data(count)) => {
                        record.first_byte.get_or_insert(since);
                        let bytes = buffer.iter().take(count).zip(active.read..);
                        record.spoilt |= bytes.into_iter().any(|(&byte, place)| byte != content_at(place));
                        active.read += count as u64;
                    }
                    Ok(Read::Empty) => break,
                    Ok(Read::Finished) => {
                        record.finished = Some(since);
                        record.spoilt |= active.read != down;
                        if let Some((parts, part)) = record.flow.then.take() {
                            let site = record.flow.site;
                            let part = Flow { begins: now, up: REQUEST, down: part, site, then: None };
                            following.extend(std::iter::repeat_n(part, parts as usize));
                        }
                    }
                    Err(reason) => record.reset = Some(reason),
                }
            }
        }
        let flows = &self.flows;
        let is_over = |active: &Active| {
            flows.get(active.number).is_none_or(|record| {
                record.reset.is_some() || (record.finished.is_some() && active.finished_sending)
            })
        };
        worker.active.retain(|active| !is_over(active));
        speaker.settle(&mut self.world)?;
        if following.is_empty() {
            return Ok(());
        }
        for flow in following {
            self.open(index, flow)?;
        }
        self.work(index)
    }
}

/// The site that toggles its visitor's load.
const TOGGLER: u32 = u32::MAX;

/// The bytes of a request from this place on.
fn request(from: u64, up: u64, down: u64, flow: u64) -> Vec<u8> {
    let head = ask(up, down, flow);
    (from..up)
        .take(16 * 1024)
        .map(|place| head.get(place as usize).copied().unwrap_or_else(|| content_at(place)))
        .collect()
}
