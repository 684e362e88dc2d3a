//! One client link: hello and welcome, then cells in both directions until either end is done.
//! (spec: ENTRY-8, LINK-11, LINK-12)

use super::clients::{Client, Clients};
use super::slots::{Line, LineRate, Slot, SlotThread};
use crate::bandwidth::{Bandwidth, Direction, Reservation};
use crate::cell::Cell;
use crate::links::Links;
use crate::live::Live;
use crate::metrics::{Exit, Metrics, Origin, Packet, Refusal};
use crate::places::Place;
use crate::stop::{GOODBYE, Phase, Stop};
use mizzle_link::{Clock, Link};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::RelayId;
use mizzle_protocol::level::{Pace, Step};
use mizzle_protocol::mix::DropReason;
use mizzle_protocol::path::Parameters;
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::cell::{ClientCell, client_cell_size};
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// What an entry needs to serve client links.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) clock: Clock,
    pub(crate) live: Arc<Live>,
    pub(crate) links: Arc<Links>,
    pub(crate) clients: Arc<Clients>,
    pub(crate) slots: Arc<SlotThread>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) bandwidth: Arc<Bandwidth>,
    pub(crate) stop: Stop,
}

/// Why a client link ended against its will.
struct Broken;

/// How writing to a client ended.
enum End {
    /// The client is gone, or has a newer link.
    Gone,
    /// This relay stops, and has said so.
    Goodbye,
}

impl Entry {
    /// Serves a client until it leaves or breaks a rule.
    pub(crate) async fn serve(&self, link: Link, mut place: Place) {
        let view = self.live.load();
        let (geometry, parameters) = (view.parameters.geometry, view.parameters.clone());
        drop(view);
        let (mut reader, mut writer) = tokio::io::split(link);
        let mut cell = vec![0; client_cell_size(geometry)];
        // The first cell is a hello. Whoever sends something else is no client of ours.
        let hello = tokio::select! {
            hello = tokio::time::timeout(HELLO_TIME, reader.read_exact(&mut cell)) => hello,
            () = place.displaced() => return self.metrics.refuse(Refusal::Full),
        };
        let (secret, step) = match (hello, ClientCell::parse(geometry, &cell)) {
            (Ok(Ok(_)), Ok(ClientCell::Hello(hello))) => (hello.reclaim, hello.step),
            (Ok(Ok(_)), _) => return self.metrics.refuse(Refusal::Malformed),
            _ => return self.metrics.refuse(Refusal::Truncated),
        };
        // What it asks for, or as little as its level has.
        let slowest = Step { step: 0, ..step };
        let Some(grant) = self.grant(&parameters, step).or_else(|| self.grant(&parameters, slowest)) else {
            return self.metrics.refuse(Refusal::Full);
        };
        let Some((address, link, client)) = self.clients.attach(&secret, grant.pace.entry_room()) else {
            return self.metrics.refuse(Refusal::Full);
        };
        drop(secret);
        let (slots, line) = mpsc::channel(LINE);
        let (answers, answered) = mpsc::channel(ANSWERS);
        let rate = Arc::new(LineRate::new(grant.pace.receive_rate * parameters.entry_slot_factor));
        if !self.slots.add(Line { client: client.clone(), link, rate: rate.clone(), slots }) {
            client.detach(link, self.clock.now());
            return self.metrics.refuse(Refusal::Full);
        }
        self.metrics.client_links.inc();
        let welcome = ClientCell::Welcome { address, step: grant.step };
        let bucket = Bucket::new(grant.pace.send_rate * 2.0, self.clock.now());
        {
            let side = Side { parameters, client: client.clone(), grant, bucket, rate, answers };
            let mut reading = pin!(self.read(&mut reader, side));
            let result = tokio::select! {
                end = self.write(&mut writer, geometry, &welcome, line, answered) => match end {
                    // What the client has written before it hears the goodbye is taken.
                    End::Goodbye => tokio::time::timeout(GOODBYE, reading).await.unwrap_or(Ok(())),
                    End::Gone => Ok(()),
                },
                result = &mut reading => result,
                () = place.displaced() => {
                    self.metrics.refuse(Refusal::Full);
                    Ok(())
                }
            };
            if result.is_err() {
                self.metrics.refuse(Refusal::Malformed);
            }
        }
        self.metrics.client_links.dec();
        client.detach(link, self.clock.now());
    }

    /// The rates of a step, and a part of the line for them; `None`: the line has no such part left.
    fn grant(&self, parameters: &Parameters, step: Step) -> Option<Grant> {
        let (step, pace) = parameters.levels.nearest(step);
        let share = self.bandwidth.reserve(bytes_per_second(parameters, pace))?;
        Some(Grant { step, pace, share })
    }

    /// Gives the client the step that it asks for if there is room for it, and tells it which it has now.
    /// (spec: LEVEL-3)
    fn change_step(&self, side: &mut Side, step: Step, now: Instant) {
        let (step, pace) = side.parameters.levels.nearest(step);
        if side.grant.share.resize(bytes_per_second(&side.parameters, pace)) {
            side.rate.set(pace.receive_rate * side.parameters.entry_slot_factor);
            side.bucket.set_rate(pace.send_rate * 2.0, now);
            side.client.set_room(pace.entry_room());
            (side.grant.step, side.grant.pace) = (step, pace);
        }
        // Whoever asks faster than the slots can answer hears of the last steps only when it asks again.
        let _ = side.answers.try_send(side.grant.step);
    }

    async fn read(&self, reader: &mut (impl AsyncRead + Unpin), mut side: Side) -> Result<(), Broken> {
        let geometry = side.parameters.geometry;
        loop {
            let mut cell = Cell::new(geometry);
            if reader.read_exact(cell.client_cell_mut()).await.is_err() {
                // It left; where in a cell makes no difference to us.
                return Ok(());
            }
            let now = self.clock.now();
            let size = cell.client_cell().len();
            self.metrics.bytes_read.inc_by(size as u64);
            // Whatever is in it.
            let mut fits = side.bucket.take(now);
            match ClientCell::parse(geometry, cell.client_cell()) {
                Ok(ClientCell::Filler) => {}
                Ok(ClientCell::Packet { next, hint, .. }) => {
                    let packet = Packet::receive(&self.metrics, Origin::Client, hint, cell, now);
                    fits = fits && self.bandwidth.take(Direction::Receive, size, now);
                    match fits {
                        true => self.forward(next, packet),
                        false => packet.discard(DropReason::RateLimited),
                    }
                }
                Ok(ClientCell::Step(step)) if fits => self.change_step(&mut side, step, now),
                Ok(ClientCell::Step(_)) => {}
                Ok(ClientCell::Hello(_) | ClientCell::Welcome { .. }) | Err(_) => {
                    let packet = Packet::receive(&self.metrics, Origin::Client, 0, cell, now);
                    packet.discard(DropReason::Malformed);
                    return Err(Broken);
                }
            }
            if !fits {
                // Who sends more than its rate is read more slowly: what is not read costs no line.
                tokio::time::sleep(EXCESS).await;
            }
        }
    }

    fn forward(&self, next: RelayId, packet: Packet) {
        match self.live.load().mix.admit(packet.hint, next, packet.cell.packet()) {
            Ok(()) => self.links.send(next, packet),
            Err(reason) => packet.discard(reason),
        }
    }

    /// Writes the welcome, then one cell a slot: each its own write, and so its own TLS record. Ends with a
    /// goodbye when the relay stops.
    async fn write(
        &self,
        writer: &mut (impl AsyncWrite + Unpin),
        geometry: Geometry,
        welcome: &ClientCell<'_>,
        mut line: mpsc::Receiver<Slot>,
        mut answers: mpsc::Receiver<Step>,
    ) -> End {
        let mut filler = Vec::new();
        welcome.emit(geometry, &mut filler);
        if !put(writer, &filler).await {
            return End::Gone;
        }
        ClientCell::Filler.emit(geometry, &mut filler);
        let mut answer = Vec::new();
        // Packets whose slots were taken by answers.
        let mut displaced: VecDeque<Packet> = VecDeque::new();
        let mut goodbye = pin!(self.stop.reached(Phase::Clients));
        loop {
            let slot = tokio::select! {
                biased;
                slot = line.recv() => slot,
                () = &mut goodbye => {
                    let _ = tokio::time::timeout(GOODBYE, writer.shutdown()).await;
                    return End::Goodbye;
                }
            };
            let Some(slot) = slot else { return End::Gone };
            displaced.extend(slot);
            if let Ok(step) = answers.try_recv() {
                ClientCell::Step(step).emit(geometry, &mut answer);
                if !put(writer, &answer).await {
                    return End::Gone;
                }
                self.metrics.bytes_written.inc_by(answer.len() as u64);
                continue;
            }
            let written = match displaced.pop_front() {
                Some(mut packet) => {
                    let written = put(writer, packet.cell.as_client_cell(packet.hint)).await;
                    match written {
                        true => packet.settle(Exit::SentToClient),
                        false => packet.discard(DropReason::LinkDown),
                    }
                    written
                }
                None => put(writer, &filler).await,
            };
            self.metrics.bytes_written.inc_by(filler.len() as u64);
            if !written {
                return End::Gone;
            }
        }
    }
}

/// What a client's slots and its own packets take of the line, for as long as it is here.
fn bytes_per_second(parameters: &Parameters, pace: Pace) -> f64 {
    let cells = pace.receive_rate * parameters.entry_slot_factor + pace.send_rate;
    cells * client_cell_size(parameters.geometry) as f64
}

async fn put(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> bool {
    let write = async {
        writer.write_all(bytes).await?;
        writer.flush().await
    };
    matches!(tokio::time::timeout(WRITE_TIME, write).await, Ok(Ok(())))
}

/// What a client has been given.
struct Grant {
    step: Step,
    pace: Pace,
    /// Its part of the line, given back when this is dropped.
    share: Reservation,
}

/// The entry's side of one client link, as the client's cells change it.
struct Side {
    parameters: Parameters,
    client: Arc<Client>,
    grant: Grant,
    bucket: Bucket,
    rate: Arc<LineRate>,
    answers: mpsc::Sender<Step>,
}

/// A token bucket: `rate` packets per second, and as many at once after a second's pause.
#[derive(Debug)]
struct Bucket {
    rate: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(rate: f64, now: Instant) -> Self {
        Self { rate, tokens: rate, filled: now }
    }

    /// Goes on at another rate.
    fn set_rate(&mut self, rate: f64, now: Instant) {
        self.fill(now);
        self.rate = rate;
    }

    fn fill(&mut self, now: Instant) {
        let gained = now.since(self.filled).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + gained).min(self.rate);
        self.filled = now;
    }

    fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// How long a client may take to say hello.
const HELLO_TIME: Duration = Duration::from_secs(10);
/// A client that takes no cell for so long is gone.
const WRITE_TIME: Duration = Duration::from_secs(20);
/// Pause after a cell beyond a client's rate. It is long for a flood, and nothing for a client that was held up and
/// comes a little early.
const EXCESS: Duration = Duration::from_millis(5);
/// Answers to questions for a step that wait for slots.
const ANSWERS: usize = 4;
/// Cells between the slot thread and the line: what a burst after a stall of the machine may hold. Full: slots
/// are missed.
const LINE: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_through_its_rate_and_one_second_of_burst() {
        let mut bucket = Bucket::new(100.0, Instant::ZERO);
        let burst = (0..300).filter(|_| bucket.take(Instant::ZERO)).count();
        assert_eq!(burst, 100);
        let step = Duration::from_millis(1);
        let mut now = Instant::ZERO;
        let mut taken = 0;
        for _ in 0..10_000 {
            now += step;
            taken += usize::from(bucket.take(now));
        }
        assert!((990..=1_000).contains(&taken), "{taken}");
        now += Duration::from_secs(60);
        let burst = (0..300).filter(|_| bucket.take(now)).count();
        assert_eq!(burst, 100);
    }
}
