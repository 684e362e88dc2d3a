//! The packet engine: crypto threads that unwrap packets, hold them, and let each go at its moment.
//!
//! A thread has a bounded inbox and a heap of its own, and waits on both at once; timers of the operating
//! system wake it within some tens of microseconds, where an async runtime rounds to a millisecond. Between
//! any two packets it looks at the heap, so that a burst delays a departure by one packet's work at most. It
//! sheds load early, by how long packets waited, and never by growing ([`shedding`]).
//! (spec: RELAY-1 to RELAY-3)

mod inbox;
mod shedding;

use crate::bandwidth::Direction;
use crate::entry::clients::Clients;
use crate::faults::Faults;
use crate::links::Links;
use crate::live::{Live, View};
use crate::loops::Loops;
use crate::metrics::{Metrics, Packet, Place};
use crate::replay::TagLog;
use crate::services::Services;
use crate::threads;
use inbox::Inbox;
use mizzle_link::{Clock, Result};
use mizzle_protocol::id::{ClientAddress, RelayId};
use mizzle_protocol::mix::{Accepted, Action, DropReason, Held, Source};
use shedding::Shedding;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Where packets go when they leave the mix.
#[derive(Clone)]
pub(crate) struct Outlets {
    /// Other relays.
    pub(crate) links: Arc<Links>,
    /// An entry's clients.
    pub(crate) clients: Option<Arc<Clients>>,
    /// An exit's services.
    pub(crate) services: Option<Arc<Services>>,
}

/// What all threads share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) live: Arc<Live>,
    pub(crate) replay: Arc<TagLog>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) outlets: Outlets,
    pub(crate) loops: Arc<Loops>,
}

/// The threads' inboxes. The threads end when it is dropped.
#[derive(Debug)]
pub(crate) struct Engine {
    inboxes: Vec<Arc<Inbox<Job>>>,
    next: AtomicUsize,
}

/// A packet to be unwrapped.
#[derive(Debug)]
pub(crate) struct Job {
    /// Who sent it.
    pub(crate) source: Source,
    /// The packet.
    pub(crate) packet: Packet,
}

#[derive(Debug)]
enum Departure {
    Relay(RelayId),
    Client(ClientAddress),
}

impl Engine {
    /// Starts `threads` threads.
    pub(crate) fn start(threads: usize, shared: &Shared) -> Result<Self> {
        let mut engine = Self { inboxes: Vec::new(), next: AtomicUsize::new(0) };
        for (number, faults) in Faults::of_threads(threads.max(1))?.into_iter().enumerate() {
            let inbox = Arc::new(Inbox::new(INBOX));
            engine.inboxes.push(inbox.clone());
            let shared = shared.clone();
            threads::essential(format!("mix-{number}"), move || run(&inbox, &shared, faults))?;
        }
        Ok(engine)
    }

    /// Hands over all of `jobs`, to one thread if it has room. All inboxes full: the rest is dropped as
    /// `queue_full`.
    pub(crate) fn submit(&self, jobs: &mut VecDeque<Job>) {
        jobs.iter_mut().for_each(|job| job.packet.put(Place::Engine));
        let first = self.next.fetch_add(1, Ordering::Relaxed) % self.inboxes.len();
        inbox::distribute(&self.inboxes, first, jobs);
        jobs.drain(..).for_each(|job| job.packet.discard(DropReason::QueueFull));
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.inboxes.iter().for_each(|inbox| inbox.close());
    }
}

/// One thread.
struct Worker<'a> {
    shared: &'a Shared,
    held: Held<(Departure, Packet)>,
    shedding: Shedding,
    faults: Faults,
    /// Accepted packets whose payloads are to be opened together.
    accepted: Vec<(Accepted, Packet)>,
    /// Packets that leave together.
    leaving: Vec<(RelayId, Packet)>,
}

fn run(inbox: &Inbox<Job>, shared: &Shared, faults: Faults) {
    let mut worker = Worker {
        shared,
        held: Held::new(),
        shedding: Shedding::default(),
        faults,
        accepted: Vec::with_capacity(TOGETHER),
        leaving: Vec::new(),
    };
    let mut jobs = VecDeque::new();
    loop {
        let wait = worker.held.poll_timeout().map_or(IDLE, |due| shared.clock.until(due));
        let open = inbox.take(&mut jobs, wait);
        worker.depart_due();
        while !jobs.is_empty() {
            let view = shared.live.load();
            for job in jobs.drain(..jobs.len().min(TOGETHER)) {
                worker.accept(&view, job);
                worker.depart_due();
            }
            worker.open(&view);
            worker.depart_due();
        }
        if !open {
            // What is held is counted as `stopping` when the heap is dropped.
            return;
        }
    }
}

impl Worker<'_> {
    /// The first half of a packet's work, with all that may refuse it.
    fn accept(&mut self, view: &View, job: Job) {
        let Job { source, mut packet } = job;
        let now = self.shared.clock.now();
        if self.shedding.sheds(now, now.since(packet.arrival)) {
            return packet.discard(DropReason::Overloaded);
        }
        packet.put(Place::Hand);
        if self.faults.loses(now) {
            return packet.lose();
        }
        crate::slow::unwrap();
        match view.mix.accept(source, packet.hint, packet.cell.packet_mut(), &*self.shared.replay) {
            Ok(accepted) => self.accepted.push((accepted, packet)),
            Err(reason) => packet.discard(reason),
        }
    }

    /// The second half, for all that were accepted.
    fn open(&mut self, view: &View) {
        let opened = self.accepted.iter_mut();
        Accepted::open_payloads(opened.map(|(accepted, packet)| (&*accepted, packet.cell.packet_mut())));
        for (accepted, mut packet) in self.accepted.drain(..) {
            // The delay counts from the packet's arrival: our own work and queues are not added to it.
            match accepted.action(packet.arrival, packet.cell.packet()) {
                // A relay's loop that passes an exit: what an exit sends is not bounded by what it takes.
                Ok(Action::Forward { .. }) if !may_send(self.shared, &packet) => {
                    packet.discard(DropReason::RateLimited)
                }
                Ok(Action::Forward { next, due }) => {
                    let due = self.faults.due(packet.arrival, due);
                    packet.put(Place::Held);
                    self.held.push(due, (Departure::Relay(next), packet));
                }
                Ok(Action::ToClient { client, due }) => {
                    packet.put(Place::Held);
                    self.held.push(due, (Departure::Client(client), packet));
                }
                Ok(Action::Deliver { reply, message }) => {
                    let Some(packet) = self.shared.loops.take(reply, packet) else { continue };
                    match &self.shared.outlets.services {
                        Some(services) => services.deliver(packet, message, view),
                        None => packet.discard(DropReason::WrongEdge),
                    }
                }
                Err(reason) => packet.discard(reason),
            }
        }
    }

    fn depart_due(&mut self) {
        let Shared { clock, metrics, outlets, .. } = self.shared;
        while let Some((due, (departure, mut packet))) = self.held.pop(clock.now()) {
            metrics.departure_error.observe(clock.now().since(due).as_secs_f64());
            packet.put(Place::Hand);
            packet.due = due;
            match departure {
                Departure::Relay(next) => self.leaving.push((next, packet)),
                Departure::Client(address) => match &outlets.clients {
                    Some(clients) => clients.deliver(address, packet),
                    None => packet.discard(DropReason::UnknownClient),
                },
            }
        }
        if !self.leaving.is_empty() {
            outlets.links.send_all(&mut self.leaving);
        }
    }
}

/// False: an exit's limit on what it sends is reached. What others send they have taken, within the limit on that.
fn may_send(shared: &Shared, packet: &Packet) -> bool {
    let Some(services) = &shared.outlets.services else { return true };
    services.replies.bandwidth.take(Direction::Send, packet.cell.packet().len(), packet.arrival)
}

/// Packets whose payloads are opened together: as many as a vector has words.
const TOGETHER: usize = 4;
/// Packets that wait for one thread; full: the next thread's, then `queue_full`.
const INBOX: usize = 1024;
/// Longest sleep of a thread that holds nothing.
const IDLE: Duration = Duration::from_secs(1);
