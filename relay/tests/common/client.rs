//! The client of an exit: the test plays it and all mixes between them.

use super::{Network, PATIENCE, send};
use mizzle_link::{Link, seeded_rng};
use mizzle_protocol::cover::SlotKind;
use mizzle_protocol::endpoint::{Endpoint, Event, Isolation, StreamKey};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::{ClientAddress, RelayId};
use mizzle_protocol::mix::Role;
use mizzle_protocol::sphinx::{Unwrapped, unwrap};
use mizzle_protocol::stream::{Read, ResetReason};
use mizzle_protocol::wire::target::Target;
use rand_chacha::ChaCha20Rng;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

const CLIENT: ClientAddress = ClientAddress([0xcc; 32]);

/// A client of one exit, with all mixes between.
pub struct Client {
    pub network: Network,
    pub endpoint: Endpoint,
    pub rng: ChaCha20Rng,
    link: Link,
    pub events: VecDeque<Event>,
}

impl Client {
    /// Starts an exit with these words in its configuration.
    pub async fn start(extra: &str) -> Self {
        let mut network = Network::start(Role::Exit, extra).await;
        let link = network.link_as(Role::Mix(3)).await;
        let mut rng = seeded_rng().unwrap();
        let mut endpoint = Endpoint::new(&mut rng);
        let exit = network.descriptor.relay;
        network.topology.exits.retain(|node| node.node.id == exit);
        let now = network.clock.now();
        endpoint.set_topology(now, Arc::new(network.topology.clone()));
        let entry = network.neighbour(Role::Entry).id();
        endpoint.set_entry(now, entry, CLIENT);
        Self { network, endpoint, rng, link, events: VecDeque::new() }
    }

    /// A few milliseconds of a client's life, with mixes that hold nothing back.
    pub async fn turn(&mut self) {
        let now = self.network.clock.now();
        if self.endpoint.poll_timeout().is_some_and(|due| due <= now) {
            self.endpoint.handle_timeout(now, &mut self.rng);
        }
        let built = self.endpoint.build(now, SlotKind::Payload, &mut self.rng).unwrap();
        if let Some(mut prepared) = built {
            self.endpoint.sent(now, prepared.token);
            assert!(self.through(prepared.first, &mut prepared.packet, 3) == self.network.descriptor.relay.0);
            send(&mut self.link, prepared.hint, &prepared.packet).await;
        }
        while let Ok((_, mut packet, _)) = self.network.neighbour(Role::Mix(1)).packets.try_recv() {
            let first = self.network.neighbour(Role::Mix(1)).id();
            assert!(self.through(first, &mut packet, 4) == CLIENT.0);
            self.endpoint.handle_packet(self.network.clock.now(), &mut packet);
        }
        while let Some(event) = self.endpoint.poll_event() {
            self.events.push_back(event);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }

    /// Unwraps a packet at `hops` of the relays that the test plays; where it goes then.
    fn through(&self, first: RelayId, packet: &mut [u8], hops: usize) -> [u8; 32] {
        let mut at = first.0;
        for _ in 0..hops {
            let relay = self.network.neighbours.iter().find(|relay| relay.id().0 == at).unwrap();
            match unwrap(Geometry::default(), &relay.key, packet).unwrap() {
                Unwrapped::Forward { next, .. } => at = next,
                Unwrapped::Final { .. } => panic!("the packet ends at a mix"),
            }
        }
        at
    }

    pub fn open(&mut self, host: &str, port: u16) -> StreamKey {
        let target = Target::parse(host, port).unwrap();
        self.endpoint.open(self.network.clock.now(), Isolation::of(b"test"), target, &mut self.rng).unwrap()
    }

    /// Waits for an event that `wanted` picks.
    pub async fn wait<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(found) = self.events.iter().find_map(&wanted) {
                return found;
            }
            assert!(tokio::time::Instant::now() < deadline, "nothing came of it: {:?}", self.events);
            self.turn().await;
        }
    }

    pub async fn connected(&mut self, key: StreamKey) {
        self.wait(|event| matches!(event, Event::Connected(other) if *other == key).then_some(())).await;
    }

    pub async fn refusal(&mut self, key: StreamKey) -> ResetReason {
        self.wait(|event| match event {
            Event::Reset(other, reason) if *other == key => Some(*reason),
            _ => None,
        })
        .await
    }

    pub async fn read_to_end(&mut self, key: StreamKey) -> Vec<u8> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let (mut all, mut buffer) = (Vec::new(), vec![0; 65_536]);
        loop {
            match self.endpoint.read(self.network.clock.now(), key, &mut buffer).unwrap() {
                Read::Data(count) => all.extend(&buffer[..count]),
                Read::Empty => self.turn().await,
                Read::Finished => return all,
            }
            assert!(tokio::time::Instant::now() < deadline, "only {} bytes came", all.len());
        }
    }
}
