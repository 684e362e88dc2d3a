//! The thread that sends: at each slot it pops a finished packet and hands it to the writer, and does
//! nothing else. The moments must not depend on what else the client does, so it shares no lock that is held
//! for long, builds nothing, and waits by the operating system's precise timer (an asynchronous runtime's
//! rounds to a millisecond). (spec: COVER-1 to COVER-5)

use crate::engine::Mailbox;
use crate::pace::Pacer;
use crate::{Error, ErrorKind, Result};
use mizzle_link::Clock;
use mizzle_protocol::cover::{Ring, Slots};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::wire::cell::ClientCell;
use rand_chacha::ChaCha20Rng;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// What the line has carried since the client started.
#[derive(Debug, Default)]
pub(crate) struct LinkCounters {
    /// Cells handed to the link.
    pub(crate) cells_out: AtomicU64,
    /// Cells that came.
    pub(crate) cells_in: AtomicU64,
    /// Of these, with a packet.
    pub(crate) packets_in: AtomicU64,
    /// Cells handed to the link with a packet in them.
    pub(crate) packets_out: AtomicU64,
    /// Slots that found no finished packet and sent an empty cell: the machine stood still.
    pub(crate) slots_empty: AtomicU64,
    /// Slots that passed because the link did not take another cell.
    pub(crate) slots_stalled: AtomicU64,
    /// Times that a link was set up.
    pub(crate) connections: AtomicU64,
}

/// What the thread takes from, sends on, and tells.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) geometry: Geometry,
    pub(crate) ring: Arc<Mutex<Ring>>,
    pub(crate) pacer: Arc<Pacer>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) counters: Arc<LinkCounters>,
    pub(crate) writer: mpsc::Sender<Vec<u8>>,
}

/// The running thread; dropping it stops it.
#[derive(Debug)]
pub(crate) struct SlotThread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SlotThread {
    /// Starts sending at the rates that the pacer holds.
    pub(crate) fn spawn(line: Line, clock: Clock, mut rng: ChaCha20Rng) -> Result<Self> {
        let Line { geometry, ring, pacer, mailbox, counters, writer } = line;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("slots".into()).spawn(move || {
            let mut slots = Slots::new(pacer.current().1, clock.now(), &mut rng);
            while !stopped.load(Ordering::Acquire) {
                let now = clock.now();
                let due = slots.poll_timeout();
                if now < due {
                    std::thread::park_timeout(due.since(now));
                    continue;
                }
                let Some(kind) = slots.poll(now, &mut rng) else { continue };
                let (ask, pace) = pacer.slot(now);
                if pace != slots.pace() {
                    slots.set_pace(pace, now, &mut rng);
                }
                // A link that stands still takes nothing: what is ready waits for a slot that can send it.
                let Ok(permit) = writer.try_reserve() else {
                    counters.slots_stalled.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                let prepared = match ask {
                    None => ring.lock().unwrap_or_else(PoisonError::into_inner).take(kind),
                    Some(_) => None,
                };
                let cell = match (&prepared, ask) {
                    (_, Some(step)) => ClientCell::Step(step),
                    (Some(prepared), None) => ClientCell::Packet {
                        next: prepared.first,
                        hint: prepared.hint,
                        packet: &prepared.packet,
                    },
                    (None, None) => {
                        counters.slots_empty.fetch_add(1, Ordering::Relaxed);
                        ClientCell::Filler
                    }
                };
                let mut bytes = Vec::new();
                cell.emit(geometry, &mut bytes);
                permit.send(bytes);
                counters.cells_out.fetch_add(1, Ordering::Relaxed);
                if let Some(prepared) = prepared {
                    counters.packets_out.fetch_add(1, Ordering::Relaxed);
                    mailbox.sent(prepared.token, now);
                }
            }
        });
        let thread = thread.map_err(|error| {
            Error::new(ErrorKind::Other, format!("cannot start the sending thread: {error}"))
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for SlotThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It never waits for anything but its timer, so this is short; a panic in it has been reported.
            drop(thread.join());
        }
    }
}
