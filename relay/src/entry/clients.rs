//! The addresses that this entry has issued, and the packets that wait for each.
//!
//! An address is a hash of the client's secret under a key of this entry: the same client gets the same
//! address after a reconnect, also from the next process, and nobody else can claim it. (spec: ENTRY-6)

use crate::metrics::{Metrics, Packet, Place};
use mizzle_link::{Result, read_bounded, seeded_rng, write_atomically};
use mizzle_protocol::id::{ClientAddress, from_hex, to_hex};
use mizzle_protocol::mix::DropReason;
use mizzle_protocol::secret::Secret;
use mizzle_protocol::time::Instant;
use rand_core::Rng;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use zeroize::Zeroizing;

/// All clients of this entry.
#[derive(Debug)]
pub(crate) struct Clients {
    key: Secret<32>,
    clients: Mutex<HashMap<ClientAddress, Arc<Client>>>,
}

/// One address.
#[derive(Debug)]
pub(crate) struct Client {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Packet>,
    /// Packets that may wait.
    room: usize,
    /// Counts the links that this address has had; the last one is the one that receives.
    link: u64,
    /// Since when it has had none.
    left: Option<Instant>,
}

impl Clients {
    /// No clients; the key is in `folder`, and made if it is missing.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let path = folder.join("entry-key");
        let stored = read_bounded(&path, 1024)?.map(Zeroizing::new);
        let stored = stored.and_then(|bytes| from_hex(std::str::from_utf8(&bytes).ok()?).ok());
        let key = match stored {
            Some(key) => Secret::new(key),
            None => {
                let mut key = Zeroizing::new([0; 32]);
                seeded_rng()?.fill_bytes(key.as_mut());
                write_atomically(&path, Zeroizing::new(to_hex(key.as_ref())).as_bytes())?;
                Secret::new(*key)
            }
        };
        Ok(Self { key, clients: Mutex::default() })
    }

    /// Gives a new link the address that belongs to this secret, with room for `room` packets. An older
    /// link of the same client ends. `None`: too many clients.
    pub(crate) fn attach(
        &self,
        reclaim: &Secret<32>,
        room: usize,
    ) -> Option<(ClientAddress, u64, Arc<Client>)> {
        let hash = Sha256::new()
            .chain_update(b"mizzle client address 1\0")
            .chain_update(self.key.expose())
            .chain_update(reclaim.expose());
        let address = ClientAddress(hash.finalize().into());
        let mut clients = self.lock();
        if clients.len() >= CLIENTS && !clients.contains_key(&address) {
            // Who has left longest ago makes room: an address without a link costs whoever asks for it nothing.
            let away = clients.iter().filter_map(|(address, client)| Some((client.lock().left?, *address)));
            let oldest = away.min_by_key(|(left, _)| *left).map(|(_, address)| address)?;
            for packet in clients.remove(&oldest).iter().flat_map(|client| client.drain()) {
                packet.discard(DropReason::UnknownClient);
            }
        }
        let client = clients.entry(address).or_insert_with(|| Arc::new(Client { state: Mutex::default() }));
        let mut state = client.lock();
        state.link += 1;
        state.left = None;
        state.room = room;
        state.queue.iter_mut().for_each(|packet| packet.put(Place::Client));
        let link = state.link;
        drop(state);
        Some((address, link, client.clone()))
    }

    /// Puts a packet in line for a client.
    pub(crate) fn deliver(&self, address: ClientAddress, mut packet: Packet) {
        let client = self.lock().get(&address).cloned();
        let Some(client) = client else { return packet.discard(DropReason::UnknownClient) };
        let mut state = client.lock();
        let place = if state.left.is_some() { Place::Away } else { Place::Client };
        if state.queue.len() >= state.room.min(room_left(packet.metrics(), place)) {
            return packet.discard(DropReason::QueueFull);
        }
        packet.put(place);
        state.queue.push_back(packet);
    }

    /// Forgets clients that have been away for too long; what waited for them is dropped.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut gone = Vec::new();
        self.lock().retain(|_, client| {
            let away = client.lock().left.is_some_and(|left| now.since(left) > RETENTION);
            if away {
                gone.push(client.clone());
            }
            !away
        });
        for packet in gone.iter().flat_map(|client| client.drain()) {
            packet.discard(DropReason::UnknownClient);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ClientAddress, Arc<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// True if this is the client's newest link.
    pub(crate) fn is_current(&self, link: u64) -> bool {
        self.lock().link == link
    }

    /// Takes all packets that wait.
    fn drain(&self) -> VecDeque<Packet> {
        std::mem::take(&mut self.lock().queue)
    }

    /// Lets so many packets wait from now on.
    pub(crate) fn set_room(&self, room: usize) {
        self.lock().room = room;
    }

    /// The next packet for the client.
    pub(crate) fn take(&self) -> Option<Packet> {
        self.lock().queue.pop_front()
    }

    /// The link has ended. The address is kept for a while, and of what waits as much as there is room for.
    pub(crate) fn detach(&self, link: u64, now: Instant) {
        let mut state = self.lock();
        if state.link != link {
            return;
        }
        state.left = Some(now);
        let room = state.queue.front().map_or(0, |packet| room_left(packet.metrics(), Place::Away));
        let beyond = state.queue.len().min(room);
        state.queue.drain(beyond..).for_each(|packet| packet.discard(DropReason::QueueFull));
        state.queue.iter_mut().for_each(|packet| packet.put(Place::Away));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a queue may be for which a packet waits in `place`: as long as what all others leave. So one that nobody
/// empties takes half of the room, two take a third each, and whoever comes then still finds some.
fn room_left(metrics: &Metrics, place: Place) -> usize {
    let (room, taken) = match place {
        Place::Away => (ROOM_AWAY, metrics.away()),
        _ => (ROOM + ROOM_EACH * metrics.client_links.get(), metrics.for_clients()),
    };
    usize::try_from(room - taken).unwrap_or(0)
}

/// Packets that may wait for all connected clients, and as many more for each of them.
const ROOM: i64 = 4096;
const ROOM_EACH: i64 = 16;
/// Packets that may wait for all clients that have left.
const ROOM_AWAY: i64 = 2048;
/// Addresses at a time, of connected clients and of those who have just left.
const CLIENTS: usize = 8192;
/// How long an address outlives its link.
const RETENTION: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::Cell;
    use crate::metrics::Origin;

    fn packet(metrics: &Arc<Metrics>) -> Packet {
        Packet::receive(metrics, Origin::Relay, 0, Cell::of(&[1]), Instant::ZERO)
    }

    #[test]
    fn a_client_that_returns_finds_its_address_and_its_packets() {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Metrics::new().unwrap();
        let clients = Clients::new(folder.path()).unwrap();
        let secret = Secret::new([1; 32]);
        let (address, first, client) = clients.attach(&secret, 2).unwrap();
        client.detach(first, Instant::ZERO);
        clients.deliver(address, packet(&metrics));
        let (same, second, client) = clients.attach(&secret, 2).unwrap();
        assert!(same == address && second != first);
        assert!(client.is_current(second) && !client.is_current(first));
        assert_eq!(client.take().unwrap().cell.packet(), [1]);
        assert!(client.take().is_none());
        // The end of the old link does not end the new one.
        client.detach(first, Instant::ZERO);
        clients.sweep(Instant::ZERO + RETENTION * 2);
        clients.deliver(address, packet(&metrics));
        assert!(client.take().is_some());
        // The next process issues the same address; another secret gets another.
        let next = Clients::new(folder.path()).unwrap();
        assert!(next.attach(&secret, 2).unwrap().0 == address);
        assert!(next.attach(&Secret::new([2; 32]), 2).unwrap().0 != address);
    }

    #[test]
    fn queues_are_bounded_and_end_with_their_client() {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Metrics::new().unwrap();
        let clients = Clients::new(folder.path()).unwrap();
        let (address, link, client) = clients.attach(&Secret::new([1; 32]), 2).unwrap();
        for _ in 0..3 {
            clients.deliver(address, packet(&metrics));
        }
        client.detach(link, Instant::ZERO);
        clients.sweep(Instant::ZERO + RETENTION);
        clients.sweep(Instant::ZERO + RETENTION + Duration::from_secs(1));
        clients.deliver(address, packet(&metrics));
        let text = String::from_utf8(metrics.text()).unwrap();
        assert!(text.contains("mizzle_packets_dropped_total{reason=\"queue_full\"} 1"));
        assert!(text.contains("mizzle_packets_dropped_total{reason=\"unknown_client\"} 3"));
        assert!(text.contains("mizzle_packets_in_flight{place=\"client\"} 0"));
    }

    #[test]
    fn all_queues_together_are_bounded_and_leave_room_for_others() {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Metrics::new().unwrap();
        let clients = Clients::new(folder.path()).unwrap();
        let join = |number: u8| {
            metrics.client_links.inc();
            clients.attach(&Secret::new([number; 32]), usize::MAX).unwrap()
        };
        let fill = |address| (0..10_000).for_each(|_| clients.deliver(address, packet(&metrics)));
        let waiting = |client: &Client| client.lock().queue.len();
        let (first, second) = (join(1), join(2));
        fill(first.0);
        fill(second.0);
        let (room, hog) = (ROOM + 2 * ROOM_EACH, waiting(&first.2) as i64);
        assert_eq!((hog, waiting(&second.2) as i64), (room / 2, room / 4));
        // It goes, and what of its queue there is no room for.
        first.2.detach(first.1, Instant::ZERO);
        metrics.client_links.dec();
        assert_eq!((metrics.away(), waiting(&first.2) as i64), (ROOM_AWAY, ROOM_AWAY));
        let third = join(3);
        third.2.detach(third.1, Instant::ZERO);
        fill(third.0);
        assert_eq!((metrics.away(), waiting(&third.2)), (ROOM_AWAY, 0));
        // Those who stay have the room that it had.
        fill(second.0);
        assert_eq!(metrics.for_clients(), (ROOM + 2 * ROOM_EACH) / 2);
        // It comes back.
        join(1);
        assert_eq!((metrics.away(), waiting(&first.2) as i64), (0, ROOM_AWAY));
        assert_eq!(metrics.for_clients() as usize, waiting(&first.2) + waiting(&second.2));
    }

    #[test]
    fn addresses_that_nobody_uses_keep_no_client_out() {
        let folder = tempfile::tempdir().unwrap();
        let clients = Clients::new(folder.path()).unwrap();
        let secret = |number: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            Secret::new(bytes)
        };
        let (_, first, used) = clients.attach(&secret(0), 2).unwrap();
        for number in 1..CLIENTS {
            let (_, link, client) = clients.attach(&secret(number), 2).unwrap();
            client.detach(link, Instant::ZERO + Duration::from_millis(number as u64));
        }
        assert!(clients.attach(&secret(CLIENTS), 2).is_some());
        assert_eq!(clients.lock().len(), CLIENTS);
        // The one that has a link stays, and one that has left lately.
        assert!(used.is_current(first) && clients.attach(&secret(0), 2).unwrap().1 == first + 1);
        assert!(clients.attach(&secret(CLIENTS - 1), 2).unwrap().1 == 2);
        assert!(clients.attach(&secret(1), 2).unwrap().1 == 1);
    }
}
