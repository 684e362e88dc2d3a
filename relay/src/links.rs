//! Links to the relays that this one sends to: one each, dialled here, kept, and dialled again.
//!
//! Each has a bounded queue. Full: the packet is dropped as `queue_full`. Down for longer than a moment:
//! what comes is dropped as `link_down`, since a packet that is late is worth less than one that is resent.
//! (spec: LINK-7 to LINK-9)

use crate::live::View;
use crate::metrics::{Exit, Metrics, Packet, Place};
use mizzle_link::{Alpn, Identity, Link, Result, dial};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::RelayId;
use mizzle_protocol::mix::DropReason;
use mizzle_protocol::wire::cell::{RelayCell, relay_cell_size};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// All outgoing links.
#[derive(Debug)]
pub(crate) struct Links {
    identity: Identity,
    outbound: Option<IpAddr>,
    metrics: Arc<Metrics>,
    runtime: Handle,
    neighbours: RwLock<HashMap<RelayId, Neighbour>>,
}

#[derive(Debug)]
struct Neighbour {
    address: SocketAddr,
    /// Dropped to end the link, once what is in it has gone out.
    queue: mpsc::Sender<Packet>,
}

impl Links {
    /// No links yet. Called within a tokio runtime, which then runs them.
    pub(crate) fn new(identity: Identity, outbound: Option<IpAddr>, metrics: Arc<Metrics>) -> Self {
        let neighbours = RwLock::default();
        Self { identity, outbound, metrics, runtime: Handle::current(), neighbours }
    }

    /// Has a link to each outgoing neighbour of `view`, and to nobody else.
    pub(crate) fn update(&self, view: &View) {
        let mut neighbours = self.neighbours.write().unwrap_or_else(PoisonError::into_inner);
        neighbours.retain(|id, _| view.outgoing.contains(id));
        for &id in &view.outgoing {
            let addresses = view.relays.get(&id).map(Vec::as_slice).unwrap_or_default();
            let Some(address) = self.reachable(addresses) else { continue };
            if neighbours.get(&id).is_none_or(|neighbour| neighbour.address != address) {
                let (queue, packets) = mpsc::channel(QUEUE);
                neighbours.insert(id, Neighbour { address, queue });
                let dialler = Dialler {
                    identity: self.identity.clone(),
                    outbound: self.outbound,
                    metrics: self.metrics.clone(),
                    id,
                    address,
                    geometry: view.parameters.geometry,
                };
                self.runtime.spawn(dialler.run(packets));
            }
        }
    }

    /// Puts a packet in line for `next`; it leaves as soon as the link takes it.
    pub(crate) fn send(&self, next: RelayId, mut packet: Packet) {
        let neighbours = self.neighbours.read().unwrap_or_else(PoisonError::into_inner);
        let Some(neighbour) = neighbours.get(&next) else { return packet.discard(DropReason::LinkDown) };
        packet.put(Place::Link);
        match neighbour.queue.try_send(packet) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(packet)) => packet.discard(DropReason::QueueFull),
            Err(mpsc::error::TrySendError::Closed(packet)) => packet.discard(DropReason::LinkDown),
        }
    }

    /// Ends all links, each when what waits for it has gone out.
    pub(crate) fn close(&self) {
        self.neighbours.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The first address of the family that we connect from.
    fn reachable(&self, addresses: &[SocketAddr]) -> Option<SocketAddr> {
        let fits =
            |address: &&SocketAddr| self.outbound.is_none_or(|bind| bind.is_ipv4() == address.is_ipv4());
        addresses.iter().find(fits).or(addresses.first()).copied()
    }
}

/// Keeps one link.
struct Dialler {
    identity: Identity,
    outbound: Option<IpAddr>,
    metrics: Arc<Metrics>,
    id: RelayId,
    address: SocketAddr,
    geometry: Geometry,
}

impl Dialler {
    async fn run(self, mut packets: mpsc::Receiver<Packet>) {
        let mut backoff = Backoff::new();
        loop {
            let Some(link) = self.connect(&mut packets).await else { return };
            if let Ok(link) = link {
                let up = Instant::now();
                self.metrics.links_out.inc();
                let end = self.carry(link, &mut packets).await;
                self.metrics.links_out.dec();
                if matches!(end, End::Unwanted) {
                    return;
                }
                if up.elapsed() > STEADY {
                    backoff = Backoff::new();
                }
            }
            if shed(&mut packets, tokio::time::sleep(backoff.next())).await.is_none() {
                return;
            }
        }
    }

    /// Dials. Packets wait for a moment, then are dropped. `None`: the link is not wanted any more.
    async fn connect(&self, packets: &mut mpsc::Receiver<Packet>) -> Option<Result<Link>> {
        let mut dialled = pin!(dial(self.address, self.id, Some(&self.identity), Alpn::Cells, self.outbound));
        match tokio::time::timeout(PATIENCE, &mut dialled).await {
            Ok(link) => Some(link),
            Err(_) => shed(packets, dialled).await,
        }
    }

    /// Writes packets, many at a time when many wait, until the link ends.
    async fn carry(&self, link: Link, packets: &mut mpsc::Receiver<Packet>) -> End {
        let (mut reader, mut writer) = tokio::io::split(link);
        let mut batch: Vec<Packet> = Vec::with_capacity(BATCH);
        let mut bytes = Vec::with_capacity(BATCH * relay_cell_size(self.geometry));
        let mut byte = [0];
        loop {
            tokio::select! {
                count = packets.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        let _ = tokio::time::timeout(WRITE_TIME, writer.shutdown()).await;
                        return End::Unwanted;
                    }
                    bytes.clear();
                    for packet in &batch {
                        let cell = RelayCell::Packet { hint: packet.hint, packet: &packet.bytes };
                        cell.emit(self.geometry, &mut bytes);
                    }
                    let write = async {
                        writer.write_all(&bytes).await?;
                        writer.flush().await
                    };
                    if !matches!(tokio::time::timeout(WRITE_TIME, write).await, Ok(Ok(()))) {
                        batch.drain(..).for_each(|packet| packet.discard(DropReason::LinkDown));
                        return End::Lost;
                    }
                    self.metrics.bytes_written.inc_by(bytes.len() as u64);
                    batch.drain(..).for_each(|packet| packet.settle(Exit::SentToRelay));
                }
                // The peer has nothing to say on this link but that it ends.
                _ = reader.read(&mut byte) => return End::Lost,
            }
        }
    }
}

enum End {
    /// The queue was closed: not a neighbour any more.
    Unwanted,
    /// The peer is gone.
    Lost,
}

/// Drops what comes until `future` is done. `None`: the queue was closed.
async fn shed<T>(packets: &mut mpsc::Receiver<Packet>, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    loop {
        tokio::select! {
            biased;
            result = &mut future => return Some(result),
            packet = packets.recv() => packet?.discard(DropReason::LinkDown),
        }
    }
}

/// Pauses between attempts: 0.2 s, doubled up to 10 s.
#[derive(Debug)]
pub(crate) struct Backoff {
    pause: Duration,
}

impl Backoff {
    /// The shortest pause is next.
    pub(crate) fn new() -> Self {
        Self { pause: SHORTEST }
    }

    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST);
        pause
    }
}

/// Packets that wait for one link; full: `queue_full`.
const QUEUE: usize = 1024;
/// Packets a write, at most.
const BATCH: usize = 32;
/// How long packets wait for a link that is being made.
const PATIENCE: Duration = Duration::from_secs(1);
/// A peer that takes nothing for so long is gone.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// A link that lived so long was a good one: dial it again at once.
const STEADY: Duration = Duration::from_secs(10);
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_a_fifth_of_a_second_to_ten() {
        let mut backoff = Backoff::new();
        let pauses: Vec<_> = (0..8).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
    }
}
