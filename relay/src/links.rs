//! Links to the relays that this one sends to: one each, dialled here, kept, and dialled again.
//!
//! Each has a bounded queue. Full: the packet is dropped as `queue_full`. Too late for its moment: as `late`. Down
//! for longer than a moment: what comes is dropped as `link_down`, since a packet that is late is worth less than
//! one that is resent. What is for an authority that measures goes back by its own link ([`Guests`]).
//! (spec: LINK-7 to LINK-9, LINK-15)

mod line;

use crate::guests::Guests;
use crate::live::View;
use crate::metrics::{Metrics, Packet};
use line::{End, Line};
use mizzle_link::{Alpn, Clock, Identity, LinkWriter, dial};
use mizzle_protocol::id::RelayId;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// All outgoing links.
#[derive(Debug)]
pub(crate) struct Links {
    clock: Clock,
    identity: Identity,
    outbound: Option<IpAddr>,
    metrics: Arc<Metrics>,
    runtime: Handle,
    neighbours: RwLock<HashMap<RelayId, Neighbour>>,
    /// Those who dialled here, and get back what they send.
    pub(crate) guests: Arc<Guests>,
}

/// A link that is wanted; ends, once what is in it has gone out, when it is dropped.
#[derive(Debug)]
struct Neighbour {
    address: SocketAddr,
    line: Arc<Line>,
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.line.close();
    }
}

impl Links {
    /// No links yet. Called within a tokio runtime, which then runs them.
    pub(crate) fn new(
        clock: Clock,
        identity: Identity,
        outbound: Option<IpAddr>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (neighbours, guests) = (RwLock::default(), Arc::default());
        Self { clock, identity, outbound, metrics, runtime: Handle::current(), neighbours, guests }
    }

    /// Has a link to each outgoing neighbour of `view`, and to nobody else.
    pub(crate) fn update(&self, view: &View) {
        let mut neighbours = self.neighbours.write().unwrap_or_else(PoisonError::into_inner);
        neighbours.retain(|id, _| view.outgoing.contains(id));
        for &id in &view.outgoing {
            let addresses = view.relays.get(&id).map(Vec::as_slice).unwrap_or_default();
            let Some(address) = self.reachable(addresses) else { continue };
            if neighbours.get(&id).is_none_or(|neighbour| neighbour.address != address) {
                let line = Line::new(self.clock, self.metrics.clone());
                line.wait();
                neighbours.insert(id, Neighbour { address, line: line.clone() });
                let identity = self.identity.clone();
                let (outbound, metrics) = (self.outbound, self.metrics.clone());
                self.runtime.spawn(Dialler { identity, outbound, metrics, id, address, line }.run());
            }
        }
    }

    /// Sends a packet to `next`, at once if the link takes it.
    pub(crate) fn send(&self, next: RelayId, packet: Packet) {
        match self.read().get(&next) {
            Some(neighbour) => {
                neighbour.line.push(packet);
                neighbour.line.write();
            }
            None => self.guests.send(next, packet),
        }
    }

    /// Sends all of `packets`; those for the same relay are written together.
    pub(crate) fn send_all(&self, packets: &mut Vec<(RelayId, Packet)>) {
        if packets.len() < 2 {
            return packets.drain(..).for_each(|(next, packet)| self.send(next, packet));
        }
        let neighbours = self.read();
        // In order of the relays; packets of one relay keep their order.
        packets.sort_by_key(|&(next, _)| next);
        let mut last: Option<&Line> = None;
        for (next, packet) in packets.drain(..) {
            let line = neighbours.get(&next).map(|neighbour| &*neighbour.line);
            if let Some(done) = last.filter(|&done| line.is_none_or(|line| !std::ptr::eq(line, done))) {
                done.write();
            }
            match line {
                Some(line) => line.push(packet),
                None => self.guests.send(next, packet),
            }
            last = line;
        }
        if let Some(last) = last {
            last.write();
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

    fn read(&self) -> RwLockReadGuard<'_, HashMap<RelayId, Neighbour>> {
        self.neighbours.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps one link.
struct Dialler {
    identity: Identity,
    outbound: Option<IpAddr>,
    metrics: Arc<Metrics>,
    id: RelayId,
    address: SocketAddr,
    line: Arc<Line>,
}

impl Dialler {
    async fn run(self) {
        let mut backoff = Backoff::new();
        loop {
            let Some(writer) = self.connect().await else { return };
            if let Ok(writer) = writer {
                let up = Instant::now();
                self.metrics.links_out.inc();
                self.line.start(writer);
                let end = self.line.keep().await;
                self.metrics.links_out.dec();
                if end == End::Closed {
                    return self.line.fail();
                }
                if up.elapsed() > STEADY {
                    backoff = Backoff::new();
                }
            }
            self.line.fail();
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => self.line.wait(),
                () = self.line.closed() => return,
            }
        }
    }

    /// Dials. Packets wait for a moment, then are dropped. `None`: the link is not wanted any more.
    async fn connect(&self) -> Option<mizzle_link::Result<LinkWriter>> {
        let mut dialled = pin!(dial(self.address, self.id, Some(&self.identity), Alpn::Cells, self.outbound));
        let link = match tokio::time::timeout(PATIENCE, &mut dialled).await {
            Ok(link) => link,
            Err(_) => {
                self.line.fail();
                tokio::select! {
                    link = dialled => link,
                    () = self.line.closed() => return None,
                }
            }
        };
        Some(link.and_then(LinkWriter::new))
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
        self.next_up_to(LONGEST)
    }

    /// The next pause, if another one is the longest.
    pub(crate) fn next_up_to(&mut self, longest: Duration) -> Duration {
        let pause = self.pause.min(longest);
        self.pause = (pause * 2).min(longest);
        pause
    }
}

/// How long packets wait for a link that is being made.
const PATIENCE: Duration = Duration::from_secs(1);
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
