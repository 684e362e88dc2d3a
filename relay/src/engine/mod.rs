//! The packet engine: crypto threads that unwrap packets, hold them, and let each go at its moment.
//!
//! A thread has a bounded inbox and a heap of its own, and waits on both at once; timers of the operating
//! system wake it within some tens of microseconds, where an async runtime rounds to a millisecond. Between
//! any two packets it looks at the heap, so that a burst delays a departure by one packet's work at most. It
//! sheds load early, by how long packets waited, and never by growing ([`shedding`]).
//! (spec: RELAY-1 to RELAY-3)

mod inbox;
mod shedding;

use crate::entry::clients::Clients;
use crate::links::Links;
use crate::live::Live;
use crate::metrics::{Metrics, Packet, Place};
use crate::replay::TagLog;
use crate::services::Services;
use inbox::Inbox;
use mizzle_link::{Clock, Error, Result};
use mizzle_protocol::id::{ClientAddress, RelayId};
use mizzle_protocol::mix::{Action, DropReason, Held, Source};
use mizzle_protocol::time::Instant;
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
        for number in 0..threads.max(1) {
            let inbox = Arc::new(Inbox::new(INBOX));
            engine.inboxes.push(inbox.clone());
            let shared = shared.clone();
            std::thread::Builder::new()
                .name(format!("mix-{number}"))
                .spawn(move || run(&inbox, &shared))
                .map_err(|error| Error::io("start a thread for packets", error))?;
        }
        Ok(engine)
    }

    /// Hands over all of `jobs`, to one thread if it has room. All inboxes full: the rest is dropped as
    /// `queue_full`.
    pub(crate) fn submit(&self, jobs: &mut VecDeque<Job>) {
        jobs.iter_mut().for_each(|job| job.packet.put(Place::Engine));
        let first = self.next.fetch_add(1, Ordering::Relaxed) % self.inboxes.len();
        for inbox in self.inboxes.iter().cycle().skip(first).take(self.inboxes.len()) {
            if !jobs.is_empty() {
                inbox.fill(jobs);
            }
        }
        jobs.drain(..).for_each(|job| job.packet.discard(DropReason::QueueFull));
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.inboxes.iter().for_each(|inbox| inbox.close());
    }
}

fn run(inbox: &Inbox<Job>, shared: &Shared) {
    let mut held: Held<(Departure, Packet)> = Held::new();
    let mut shedding = Shedding::default();
    let mut jobs = VecDeque::new();
    loop {
        let wait = held.poll_timeout().map_or(IDLE, |due| shared.clock.until(due));
        let open = inbox.take(&mut jobs, wait);
        depart_due(shared, &mut held);
        while let Some(job) = jobs.pop_front() {
            let now = shared.clock.now();
            if shedding.sheds(now, now.since(job.packet.arrival)) {
                job.packet.discard(DropReason::Overloaded);
            } else {
                process(shared, &mut held, job);
            }
            depart_due(shared, &mut held);
        }
        if !open {
            // What is held is counted as `stopping` when the heap is dropped.
            return;
        }
    }
}

fn depart_due(shared: &Shared, held: &mut Held<(Departure, Packet)>) {
    while let Some((due, (departure, packet))) = held.pop(shared.clock.now()) {
        depart(shared, due, departure, packet);
    }
}

fn process(shared: &Shared, held: &mut Held<(Departure, Packet)>, job: Job) {
    let Job { source, mut packet } = job;
    packet.put(Place::Hand);
    let view = shared.live.load();
    let (arrival, hint) = (packet.arrival, packet.hint);
    crate::slow::unwrap();
    // The delay counts from the packet's arrival: our own work and queues are not added to it.
    match view.mix.process(arrival, source, hint, &mut packet.bytes, &*shared.replay) {
        Ok(Action::Forward { next, due }) => {
            packet.put(Place::Held);
            held.push(due, (Departure::Relay(next), packet));
        }
        Ok(Action::ToClient { client, due }) => {
            packet.put(Place::Held);
            held.push(due, (Departure::Client(client), packet));
        }
        Ok(Action::Deliver { message, .. }) => match &shared.outlets.services {
            Some(services) => services.deliver(packet, message, &view),
            None => packet.discard(DropReason::WrongEdge),
        },
        Err(reason) => packet.discard(reason),
    }
}

fn depart(shared: &Shared, due: Instant, departure: Departure, mut packet: Packet) {
    shared.metrics.departure_error.observe(shared.clock.now().since(due).as_secs_f64());
    packet.put(Place::Hand);
    match departure {
        Departure::Relay(next) => shared.outlets.links.send(next, packet),
        Departure::Client(address) => match &shared.outlets.clients {
            Some(clients) => clients.deliver(address, packet),
            None => packet.discard(DropReason::UnknownClient),
        },
    }
}

/// Packets that wait for one thread; full: the next thread's, then `queue_full`.
const INBOX: usize = 1024;
/// Longest sleep of a thread that holds nothing.
const IDLE: Duration = Duration::from_secs(1);
