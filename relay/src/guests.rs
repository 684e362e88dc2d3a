//! Authorities that measure this relay: each sends packets by a link that it dialled, and gets them back by the same.
//!
//! They pass the engine, its limits and its queues as all packets do; that is what is measured. What comes back to an
//! authority waits in a bounded queue while its link takes nothing. (spec: MEASURE-1)

use crate::metrics::{Exit, Metrics, Packet, Place};
use mizzle_protocol::id::RelayId;
use mizzle_protocol::mix::DropReason;
use mizzle_protocol::wire::cell::RELAY_HEAD;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// The ways back, for all threads.
#[derive(Debug, Default)]
pub(crate) struct Guests(Mutex<HashMap<RelayId, mpsc::Sender<Packet>>>);

/// The way back to one authority; there is none any more when it is dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    id: RelayId,
    packets: mpsc::Receiver<Packet>,
    /// Those in the link's hands.
    writing: Vec<Packet>,
    guests: Arc<Guests>,
}

impl Guests {
    /// What is for `id` goes by the link that was just accepted, and no more by an earlier one.
    pub(crate) fn enter(self: &Arc<Self>, id: RelayId) -> Guest {
        let (sender, packets) = mpsc::channel(QUEUE);
        self.lock().insert(id, sender);
        Guest { id, packets, writing: Vec::with_capacity(BATCH), guests: self.clone() }
    }

    /// Gives a packet to the link of `id`: dropped as `link_down` if there is none.
    pub(crate) fn send(&self, id: RelayId, mut packet: Packet) {
        packet.put(Place::Link);
        let sent = match self.lock().get(&id) {
            Some(sender) => sender.try_send(packet),
            None => Err(mpsc::error::TrySendError::Closed(packet)),
        };
        match sent {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(packet)) => packet.discard(DropReason::QueueFull),
            Err(mpsc::error::TrySendError::Closed(packet)) => packet.discard(DropReason::LinkDown),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RelayId, mpsc::Sender<Packet>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// Writes what comes back, until the link takes no more, or another has taken its place.
    pub(crate) async fn write(&mut self, mut link: impl AsyncWrite + Unpin, metrics: &Metrics) {
        let mut bytes = Vec::new();
        while self.packets.recv_many(&mut self.writing, BATCH).await > 0 {
            bytes.clear();
            for packet in &mut self.writing {
                bytes.extend_from_slice(packet.cell.as_relay_cell(packet.hint));
            }
            let written = tokio::time::timeout(WRITE_TIME, async {
                link.write_all(&bytes).await?;
                link.flush().await
            });
            if !matches!(written.await, Ok(Ok(()))) {
                return;
            }
            for packet in self.writing.drain(..) {
                metrics.bytes_written.inc_by((RELAY_HEAD + packet.cell.packet().len()) as u64);
                packet.settle(Exit::SentToAuthority);
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.packets.close();
        let mut guests = self.guests.lock();
        // Another link of the same authority may have taken its place.
        if guests.get(&self.id).is_some_and(mpsc::Sender::is_closed) {
            guests.remove(&self.id);
        }
        drop(guests);
        let waiting = std::iter::from_fn(|| self.packets.try_recv().ok());
        self.writing.drain(..).chain(waiting).for_each(|packet| packet.discard(DropReason::LinkDown));
    }
}

/// Packets that wait for an authority's link; full: `queue_full`.
const QUEUE: usize = 1024;
/// Packets a write, at most.
const BATCH: usize = 32;
/// A peer that takes nothing for so long is gone.
const WRITE_TIME: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::Cell;
    use crate::metrics::Origin;
    use mizzle_protocol::time::Instant;

    #[tokio::test]
    async fn packets_go_back_by_the_newest_link_and_are_dropped_where_there_is_none() {
        let (metrics, guests) = (Metrics::new().unwrap(), Arc::new(Guests::default()));
        let (one, other) = (RelayId([1; 32]), RelayId([2; 32]));
        let packet = || Packet::receive(&metrics, Origin::Authority, 7, Cell::of(&[9; 10]), Instant::ZERO);
        guests.send(one, packet());
        let (mut old, mut new) = (guests.enter(one), guests.enter(one));
        guests.send(other, packet());
        for _ in 0..QUEUE + 5 {
            guests.send(one, packet());
        }
        let mut nothing = Vec::new();
        old.write(&mut nothing, &metrics).await;
        drop(old);
        assert!(nothing.is_empty());
        let (mut here, mut there) = tokio::io::duplex(100_000);
        let write =
            async { tokio::time::timeout(Duration::from_millis(200), new.write(&mut here, &metrics)).await };
        assert!(write.await.is_err(), "it waits for more");
        let mut bytes = vec![0; 12];
        tokio::io::AsyncReadExt::read_exact(&mut there, &mut bytes).await.unwrap();
        assert_eq!(bytes, [&[1, 7][..], &[9; 10]].concat());
        drop(new);
        guests.send(one, packet());
        let text = String::from_utf8(metrics.text()).unwrap();
        for line in [
            "dropped_total{reason=\"queue_full\"} 5",
            "dropped_total{reason=\"link_down\"} 3",
            "sent_total{to=\"authority\"} 1024",
            "received_total{from=\"authority\"} 1032",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert_eq!(metrics.in_flight(), 0);
    }
}
