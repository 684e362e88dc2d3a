//! One client link: hello and welcome, then cells in both directions until either end is done.
//! (spec: ENTRY-8, LINK-11, LINK-12)

use super::clients::Clients;
use super::slots::{Line, Slot, SlotThread};
use crate::bandwidth::{Bandwidth, Direction};
use crate::cell::Cell;
use crate::links::Links;
use crate::live::Live;
use crate::metrics::{Exit, Metrics, Origin, Packet, Refusal};
use crate::stop::{GOODBYE, Phase, Stop};
use mizzle_link::{Clock, Link};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::{ClientAddress, RelayId};
use mizzle_protocol::mix::DropReason;
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::cell::{ClientCell, client_cell_size};
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
    pub(crate) async fn serve(&self, link: Link) {
        let view = self.live.load();
        let (geometry, parameters) = (view.parameters.geometry, view.parameters.clone());
        drop(view);
        let (mut reader, mut writer) = tokio::io::split(link);
        let mut cell = vec![0; client_cell_size(geometry)];
        // The first cell is a hello. Whoever sends something else is no client of ours.
        let hello = tokio::time::timeout(HELLO_TIME, reader.read_exact(&mut cell)).await;
        let secret = match (hello, ClientCell::parse(geometry, &cell)) {
            (Ok(Ok(_)), Ok(ClientCell::Hello(hello))) => hello.reclaim,
            (Ok(Ok(_)), _) => return self.metrics.refuse(Refusal::Malformed),
            _ => return self.metrics.refuse(Refusal::Truncated),
        };
        let room = (parameters.receive_rate * QUEUE_SECONDS).clamp(16.0, 65_536.0) as usize;
        let Some((address, link, client)) = self.clients.attach(&secret, room) else {
            return self.metrics.refuse(Refusal::Full);
        };
        drop(secret);
        let (slots, line) = mpsc::channel(LINE);
        let rate = parameters.receive_rate * parameters.entry_slot_factor;
        // What its slots and its own packets take of the line, for as long as it is here.
        let share = (rate + parameters.send_rate) * client_cell_size(geometry) as f64;
        let Some(_share) = self.bandwidth.reserve(share) else {
            client.detach(link, self.clock.now());
            return self.metrics.refuse(Refusal::Full);
        };
        if !self.slots.add(Line { client: client.clone(), link, rate, slots }) {
            client.detach(link, self.clock.now());
            return self.metrics.refuse(Refusal::Full);
        }
        self.metrics.client_links.inc();
        let mut bucket = Bucket::new(parameters.send_rate * 2.0, self.clock.now());
        {
            let mut reading = pin!(self.read(&mut reader, geometry, &mut bucket));
            let result = tokio::select! {
                end = self.write(&mut writer, geometry, address, line) => match end {
                    // What the client has written before it hears the goodbye is taken.
                    End::Goodbye => tokio::time::timeout(GOODBYE, reading).await.unwrap_or(Ok(())),
                    End::Gone => Ok(()),
                },
                result = &mut reading => result,
            };
            if result.is_err() {
                self.metrics.refuse(Refusal::Malformed);
            }
        }
        self.metrics.client_links.dec();
        client.detach(link, self.clock.now());
    }

    async fn read(
        &self,
        reader: &mut (impl AsyncRead + Unpin),
        geometry: Geometry,
        bucket: &mut Bucket,
    ) -> Result<(), Broken> {
        loop {
            let mut cell = Cell::new(geometry);
            if reader.read_exact(cell.client_cell_mut()).await.is_err() {
                // It left; where in a cell makes no difference to us.
                return Ok(());
            }
            let now = self.clock.now();
            let size = cell.client_cell().len();
            self.metrics.bytes_read.inc_by(size as u64);
            match ClientCell::parse(geometry, cell.client_cell()) {
                Ok(ClientCell::Filler) => {}
                Ok(ClientCell::Packet { next, hint, .. }) => {
                    let packet = Packet::receive(&self.metrics, Origin::Client, hint, cell, now);
                    if bucket.take(now) && self.bandwidth.take(Direction::Receive, size, now) {
                        self.forward(next, packet);
                    } else {
                        packet.discard(DropReason::RateLimited);
                    }
                }
                Ok(ClientCell::Hello(_) | ClientCell::Welcome { .. }) | Err(_) => {
                    let packet = Packet::receive(&self.metrics, Origin::Client, 0, cell, now);
                    packet.discard(DropReason::Malformed);
                    return Err(Broken);
                }
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
        address: ClientAddress,
        mut line: mpsc::Receiver<Slot>,
    ) -> End {
        let mut filler = Vec::new();
        ClientCell::Welcome { address }.emit(geometry, &mut filler);
        if !put(writer, &filler).await {
            return End::Gone;
        }
        ClientCell::Filler.emit(geometry, &mut filler);
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
            let written = match slot {
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

async fn put(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> bool {
    let write = async {
        writer.write_all(bytes).await?;
        writer.flush().await
    };
    matches!(tokio::time::timeout(WRITE_TIME, write).await, Ok(Ok(())))
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

    fn take(&mut self, now: Instant) -> bool {
        let gained = now.since(self.filled).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + gained).min(self.rate);
        self.filled = now;
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
/// What may wait for a client, in seconds of its receive rate.
const QUEUE_SECONDS: f64 = 4.0;
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
