//! A relay that the test plays.

use super::PATIENCE;
use mizzle_link::{Acceptor, Alpn, Clock, Identity};
use mizzle_protocol::consensus::{ListedRelay, RelayPeriod};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::{Period, RelayId};
use mizzle_protocol::mix::Role;
use mizzle_protocol::session::{ServiceKey, ServiceSecret};
use mizzle_protocol::sphinx::SecretKey;
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::cell::{RelayCell, relay_cell_size};
use rand_chacha::ChaCha20Rng;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// A relay that the test plays: it takes packets, and links to others as itself.
pub struct Neighbour {
    pub identity: Identity,
    pub key: SecretKey,
    pub(super) service_key: Option<ServiceKey>,
    address: SocketAddr,
    pub(super) role: Role,
    /// Packets that came, with their hints and the moments when they came. What does not fit is let go.
    pub packets: mpsc::Receiver<(u8, Vec<u8>, Instant)>,
    /// How many came.
    pub count: Arc<AtomicUsize>,
    /// While true, it takes links and reads nothing from them.
    pub is_deaf: Arc<AtomicBool>,
    sender: mpsc::Sender<(u8, Vec<u8>, Instant)>,
    clock: Clock,
    tasks: JoinSet<()>,
}

impl Neighbour {
    pub(super) async fn start(role: Role, clock: Clock, rng: &mut ChaCha20Rng) -> Self {
        let identity = Identity::generate(rng);
        let key = SecretKey::generate(rng);
        let service_key = (role == Role::Exit).then(|| ServiceSecret::generate(rng).public().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, packets) = mpsc::channel(20_000);
        let (count, is_deaf, tasks) = (Arc::default(), Arc::default(), JoinSet::new());
        let mut neighbour =
            Self { identity, key, service_key, address, role, packets, count, is_deaf, sender, clock, tasks };
        neighbour.listen(listener);
        neighbour
    }

    fn listen(&mut self, listener: TcpListener) {
        let acceptor = Acceptor::new(&self.identity, &Alpn::ALL).unwrap();
        let (sender, count, clock) = (self.sender.clone(), self.count.clone(), self.clock);
        let is_deaf = self.is_deaf.clone();
        self.tasks.spawn(async move {
            let mut links = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(accepted) = acceptor.accept(stream).await else { continue };
                assert!(accepted.peer.is_some() && accepted.alpn == Alpn::Cells);
                let (mut stream, sender, count) = (accepted.stream, sender.clone(), count.clone());
                let is_deaf = is_deaf.clone();
                links.spawn(async move {
                    let mut cell = vec![0; relay_cell_size(Geometry::default())];
                    while stream.read_exact(&mut cell).await.is_ok() {
                        while is_deaf.load(Ordering::Relaxed) {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        if let RelayCell::Packet { hint, packet } =
                            RelayCell::parse(Geometry::default(), &cell).unwrap()
                        {
                            count.fetch_add(1, Ordering::Relaxed);
                            if let Ok(place) = sender.try_reserve() {
                                place.send((hint, packet.to_vec(), clock.now()));
                            }
                        }
                    }
                });
            }
        });
    }

    /// Ends its links and listens no more, as a relay that dies.
    pub async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Listens again where it did.
    pub async fn resume(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.listen(listener);
    }

    pub(super) fn listed(&self) -> ListedRelay {
        ListedRelay {
            id: self.identity.id(),
            addresses: vec![self.address],
            periods: vec![RelayPeriod {
                period: Period(0),
                role: self.role,
                mix_key: self.key.public(),
                service_key: self.service_key.as_ref().map(ServiceKey::digest),
            }],
            family: None,
            weight: 1,
            country: None,
        }
    }

    /// Its id.
    pub fn id(&self) -> RelayId {
        self.identity.id()
    }

    /// All that comes from now on, in place of [`Self::packets`].
    pub fn take_packets(&mut self) -> mpsc::Receiver<(u8, Vec<u8>, Instant)> {
        std::mem::replace(&mut self.packets, mpsc::channel(1).1)
    }

    /// The next packet that the relay sent here.
    pub async fn receive(&mut self) -> (u8, Vec<u8>, Instant) {
        tokio::time::timeout(PATIENCE, self.packets.recv()).await.expect("no packet came").unwrap()
    }
}
