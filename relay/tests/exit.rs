//! Streams through a real exit: the test plays the client and all mixes, and the servers behind the exit.
//! (spec: EXIT-1 to EXIT-4)

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Network, PATIENCE, send};
use mizzle_link::{Link, seeded_rng};
use mizzle_protocol::cover::SlotKind;
use mizzle_protocol::endpoint::{Endpoint, Event, StreamKey};
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
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const CLIENT: ClientAddress = ClientAddress([0xcc; 32]);

struct Client {
    network: Network,
    endpoint: Endpoint,
    rng: ChaCha20Rng,
    link: Link,
    events: VecDeque<Event>,
}

impl Client {
    async fn start() -> Self {
        let mut network = Network::start(Role::Exit, "hosts = { \"name.test\" = \"127.0.0.2\" }").await;
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
    async fn turn(&mut self) {
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

    fn open(&mut self, host: &str, port: u16) -> StreamKey {
        let target = Target::parse(host, port).unwrap();
        self.endpoint.open(self.network.clock.now(), b"test", target, &mut self.rng).unwrap()
    }

    /// Waits for an event that `wanted` picks.
    async fn wait<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(found) = self.events.iter().find_map(&wanted) {
                return found;
            }
            assert!(tokio::time::Instant::now() < deadline, "nothing came of it: {:?}", self.events);
            self.turn().await;
        }
    }

    async fn connected(&mut self, key: StreamKey) {
        self.wait(|event| matches!(event, Event::Connected(other) if *other == key).then_some(())).await;
    }

    async fn refusal(&mut self, key: StreamKey) -> ResetReason {
        self.wait(|event| match event {
            Event::Reset(other, reason) if *other == key => Some(*reason),
            _ => None,
        })
        .await
    }

    async fn read_to_end(&mut self, key: StreamKey) -> Vec<u8> {
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

#[tokio::test]
async fn bytes_pass_both_ways_and_each_direction_ends_on_its_own() {
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        // Answers only once the client has finished: the other direction must still be open then.
        stream.read_to_end(&mut all).await.unwrap();
        all.reverse();
        stream.write_all(&all).await.unwrap();
    });
    let mut client = Client::start().await;
    let key = client.open("name.test", port);
    client.connected(key).await;
    let bytes: Vec<u8> = (0..60_000u32).map(|number| (number % 251) as u8).collect();
    let now = client.network.clock.now();
    assert_eq!(client.endpoint.write(now, key, &bytes), Ok(bytes.len()));
    client.endpoint.finish(now, key);
    let mut answer = client.read_to_end(key).await;
    answer.reverse();
    assert!(answer == bytes);
    server.await.unwrap();
    assert!(client.network.count("mizzle_packets_delivered_total{service=\"session\"}").await >= 20.0);
    client.network.wait_for("mizzle_sessions", 1.0).await;
}

#[tokio::test]
async fn failures_are_answered_with_their_true_reason() {
    let mut client = Client::start().await;
    let own = client.network.address;
    let own_host = own.ip().to_string();
    for (host, port, reason) in [
        (own_host.as_str(), 443, ResetReason::NotAllowed),
        // Below the ports that the system gives away, and nothing here listens on it.
        ("127.0.0.2", 7001, ResetReason::Refused),
        ("127.0.0.2", 25, ResetReason::NotAllowed),
        ("::ffff:127.0.0.2", 80, ResetReason::NotAllowed),
        ("0.0.0.0", own.port(), ResetReason::NotAllowed),
    ] {
        let key = client.open(host, port);
        assert_eq!(client.refusal(key).await, reason, "{host} {port}");
    }
}

#[tokio::test]
async fn a_reset_on_one_side_is_a_reset_on_the_other() {
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut client = Client::start().await;
    // The target cuts off.
    let key = client.open("127.0.0.2", port);
    client.connected(key).await;
    let (stream, _) = listener.accept().await.unwrap();
    stream.set_zero_linger().unwrap();
    drop(stream);
    assert_eq!(client.refusal(key).await, ResetReason::Closed);
    // The client cuts off.
    let key = client.open("127.0.0.2", port);
    client.connected(key).await;
    let (mut stream, _) = listener.accept().await.unwrap();
    client.endpoint.reset(client.network.clock.now(), key, ResetReason::Closed);
    let end = tokio::spawn(async move { stream.read(&mut [0; 16]).await.map_err(|error| error.kind()) });
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !end.is_finished() && tokio::time::Instant::now() < deadline {
        client.turn().await;
    }
    assert!(end.is_finished());
    assert_eq!(end.await.unwrap(), Err(std::io::ErrorKind::ConnectionReset));
}
