//! The slots in which clients receive: a Poisson process for each, all on one thread with precise timing.
//!
//! A slot carries the oldest packet, or filler. Its moment depends on nothing that is in the queue, so the
//! line shows a client's rate and nothing else. (spec: ENTRY-7)

use super::clients::{Client, Clients};
use crate::metrics::{Metrics, Packet, Place};
use crate::threads;
use mizzle_link::{Clock, Result, seeded_rng};
use mizzle_protocol::cover::Ticks;
use mizzle_protocol::mix::Held;
use mizzle_protocol::time::Instant;
use rand_chacha::ChaCha20Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;
use tokio::sync::mpsc;

/// What one slot sends: a packet, or filler.
pub(crate) type Slot = Option<Packet>;

/// A link that is to receive.
#[derive(Debug)]
pub(crate) struct Line {
    /// Whose packets it carries.
    pub(crate) client: Arc<Client>,
    /// Which of the client's links it is.
    pub(crate) link: u64,
    /// Slots per second, as they are now.
    pub(crate) rate: Arc<LineRate>,
    /// To the task that writes. Full: the line is too slow, and the slot is missed.
    pub(crate) slots: mpsc::Sender<Slot>,
}

/// Slots per second of a link; its client may ask for others.
#[derive(Debug)]
pub(crate) struct LineRate(AtomicU64);

impl LineRate {
    pub(crate) fn new(rate: f64) -> Self {
        Self(AtomicU64::new(rate.to_bits()))
    }

    pub(crate) fn set(&self, rate: f64) {
        self.0.store(rate.to_bits(), Ordering::Relaxed);
    }

    fn load(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// The slot thread.
#[derive(Debug)]
pub(crate) struct SlotThread {
    lines: SyncSender<Line>,
}

impl SlotThread {
    /// Starts the thread. It ends when this is dropped.
    pub(crate) fn start(clock: Clock, clients: Arc<Clients>, metrics: Arc<Metrics>) -> Result<Self> {
        let (lines, inbox) = sync_channel(LINES);
        let rng = seeded_rng()?;
        threads::essential("slots".to_owned(), move || Wheel { clock, clients, metrics, rng }.run(&inbox))?;
        Ok(Self { lines })
    }

    /// Starts the slots of a link; false if too many links start at once.
    pub(crate) fn add(&self, line: Line) -> bool {
        self.lines.try_send(line).is_ok()
    }
}

struct Wheel {
    clock: Clock,
    clients: Arc<Clients>,
    metrics: Arc<Metrics>,
    rng: ChaCha20Rng,
}

impl Wheel {
    fn run(mut self, inbox: &Receiver<Line>) {
        let mut wheel: Held<(Line, Ticks)> = Held::new();
        let mut swept = self.clock.now();
        loop {
            let now = self.clock.now();
            if now.since(swept) >= SWEEP {
                self.clients.sweep(now);
                swept = now;
            }
            while let Some((_, (line, mut ticks))) = wheel.pop(now) {
                while ticks.poll(now, &mut self.rng) {
                    self.slot(&line);
                }
                let rate = line.rate.load();
                if rate != ticks.rate() {
                    ticks.set_rate(rate, now, &mut self.rng);
                }
                if line.slots.is_closed() {
                    line.client.detach(line.link, now);
                } else if line.client.is_current(line.link) {
                    wheel.push(ticks.poll_timeout(), (line, ticks));
                }
                // An older link of a client that has a newer one ends when its line is dropped.
            }
            let next = wheel.poll_timeout().unwrap_or(now + SWEEP).min(swept + SWEEP);
            match inbox.recv_timeout(self.clock.until(next)) {
                Ok(line) => self.add(&mut wheel, line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn add(&mut self, wheel: &mut Held<(Line, Ticks)>, line: Line) {
        let now: Instant = self.clock.now();
        let ticks = Ticks::new(line.rate.load(), now, &mut self.rng);
        wheel.push(ticks.poll_timeout(), (line, ticks));
    }

    fn slot(&self, line: &Line) {
        match line.slots.try_reserve() {
            Ok(permit) => {
                let mut packet = line.client.take();
                if let Some(packet) = &mut packet {
                    packet.put(Place::Line);
                }
                permit.send(packet);
            }
            Err(mpsc::error::TrySendError::Full(())) => self.metrics.slots_missed.inc(),
            Err(mpsc::error::TrySendError::Closed(())) => {}
        }
    }
}

/// Links that may start at once.
const LINES: usize = 256;
/// Pause between looks at clients that have left.
const SWEEP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::Cell;
    use crate::metrics::Origin;
    use mizzle_protocol::secret::Secret;

    #[test]
    fn slots_come_at_the_rate_with_the_packet_or_filler() {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Metrics::new().unwrap();
        let clients = Arc::new(Clients::new(folder.path()).unwrap());
        let (address, link, client) = clients.attach(&Secret::new([1; 32]), 10).unwrap();
        let clock = Clock::new();
        let thread = SlotThread::start(clock, clients.clone(), metrics.clone()).unwrap();
        clients.deliver(address, Packet::receive(&metrics, Origin::Relay, 0, Cell::of(&[7]), clock.now()));
        let (slots, mut line) = mpsc::channel(1_000);
        let start = clock.now();
        let rate = Arc::new(LineRate::new(2_000.0));
        assert!(thread.add(Line { client: client.clone(), link, rate: rate.clone(), slots }));
        let mut packets = 0;
        for _ in 0..400 {
            packets += usize::from(line.blocking_recv().unwrap().is_some());
        }
        // 400 of 2 000 a second take 0.2 s; a factor of two is twenty standard deviations.
        assert!(clock.now().since(start) > Duration::from_millis(100));
        assert_eq!(packets, 1);
        // Another rate holds from the next slot on: 400 of these would take 8 s.
        rate.set(50.0);
        let _ = line.blocking_recv().unwrap();
        while line.try_recv().is_ok() {}
        let start = clock.now();
        for _ in 0..10 {
            let _ = line.blocking_recv().unwrap();
        }
        assert!(clock.now().since(start) > Duration::from_millis(40));
        // The line ends when the client has a newer link.
        let (_, newer, _) = clients.attach(&Secret::new([1; 32]), 10).unwrap();
        assert!(client.is_current(newer));
        while line.blocking_recv().is_some() {}
    }
}
