//! A client that has much to do at once: many hosts, many streams to one. (spec: LEVEL-2, SESSION-16, STREAM-1)

// Tests may.
#![allow(clippy::unwrap_used, clippy::panic)]

use mizzle_protocol::ErrorKind;
use mizzle_protocol::cover::SlotKind;
use mizzle_protocol::endpoint::{Endpoint, Isolation, MAX_SESSIONS, StreamKey};
use mizzle_protocol::id::{ClientAddress, Period, RelayId};
use mizzle_protocol::level::{Demand, Level, Levels, Step};
use mizzle_protocol::path::{ExitNode, MixNode, Parameters, Topology};
use mizzle_protocol::session::ServiceSecret;
use mizzle_protocol::sphinx::SecretKey;
use mizzle_protocol::stream::{MAX_STREAMS, ResetReason};
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::target::Target;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::sync::Arc;
use std::time::Duration;

const NOW: Instant = Instant::from_nanos(1_800_000_000_000_000_000);

struct Client {
    endpoint: Endpoint,
    rng: ChaCha20Rng,
}

impl Client {
    /// Of a network with one exit, at the slowest step of `balanced`: ten slots a second.
    fn new() -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let key = SecretKey::generate(&mut rng);
        let node = |id: u8| MixNode { id: RelayId([id; 32]), key: key.public() };
        let service_key = Some(Arc::new(ServiceSecret::generate(&mut rng).public().unwrap()));
        let topology = Topology {
            parameters: Parameters::local(),
            period: Period(0),
            layers: [vec![node(1)], vec![node(2)], vec![node(3)]],
            entries: vec![node(4)],
            exits: vec![ExitNode { node: node(5), service_key, country: None }],
        };
        let mut endpoint = Endpoint::new(&mut rng);
        endpoint.set_topology(NOW, Arc::new(topology));
        endpoint.set_entry(NOW, RelayId([4; 32]), ClientAddress([9; 32]));
        let (step, pace) = Levels::default().nearest(Step { level: Level::Balanced, step: 0 });
        endpoint.set_pace(step.level, pace);
        Self { endpoint, rng }
    }

    fn open(&mut self, now: Instant, host: usize) -> mizzle_protocol::Result<StreamKey> {
        let target = Target::parse(&format!("host-{host}.test"), 80).unwrap();
        self.endpoint.open(now, Isolation::of(b""), target, &mut self.rng)
    }

    /// A slot has come: true if something of a session left.
    fn slot(&mut self, now: Instant) -> bool {
        let Some(prepared) = self.endpoint.build(now, SlotKind::Payload, &mut self.rng).unwrap() else {
            return false;
        };
        self.endpoint.sent(now, prepared.token);
        true
    }
}

#[test]
fn openings_that_wait_for_slots_ask_for_a_faster_step() {
    let mut client = Client::new();
    let streams: Vec<_> = (0..20).map(|host| client.open(NOW, host).unwrap()).collect();
    // Nothing is written: an application that waits for its proxy's answer.
    assert_eq!(client.endpoint.demand(NOW), Demand::More);
    // Half a second's slots hold the rest.
    for _ in 0..15 {
        assert!(client.slot(NOW));
    }
    assert_ne!(client.endpoint.demand(NOW), Demand::More);
    // A page with few hosts asks for nothing.
    let mut client = Client::new();
    for host in 0..5 {
        client.open(NOW, host).unwrap();
    }
    assert_ne!(client.endpoint.demand(NOW), Demand::More);
    drop(streams);
}

#[test]
fn a_host_gets_another_session_when_one_is_full_of_streams() {
    let mut client = Client::new();
    for _ in 0..=MAX_STREAMS {
        client.open(NOW, 0).unwrap();
    }
    let status = client.endpoint.status();
    assert_eq!((status.sessions, status.streams), (2, MAX_STREAMS + 1));
}

#[test]
fn a_session_that_nobody_uses_makes_way_and_one_in_use_does_not() {
    let mut client = Client::new();
    let at = |milliseconds: u64| NOW + Duration::from_millis(milliseconds);
    let streams: Vec<_> = (0..MAX_SESSIONS).map(|host| client.open(at(host as u64), host).unwrap()).collect();
    assert_eq!(client.open(at(300), 1_000).unwrap_err().kind(), ErrorKind::Exhausted);
    // The program that used it is gone.
    client.endpoint.reset(at(300), streams[7], ResetReason::Closed);
    client.open(at(400), 1_000).unwrap();
    assert_eq!(client.endpoint.exit_of(streams[7]), None);
    assert!(client.endpoint.exit_of(streams[6]).is_some());
    assert_eq!(client.endpoint.status().sessions, MAX_SESSIONS);
    assert_eq!(client.open(at(500), 1_001).unwrap_err().kind(), ErrorKind::Exhausted);
}

#[test]
fn what_was_given_up_before_it_was_sent_takes_no_slots() {
    let mut client = Client::new();
    let streams: Vec<_> = (0..50).map(|host| client.open(NOW, host).unwrap()).collect();
    for stream in streams {
        client.endpoint.reset(NOW, stream, ResetReason::Closed);
    }
    assert_eq!(client.endpoint.status().streams, 0);
    let mut sent = 0;
    while sent < 50 && client.slot(NOW) {
        sent += 1;
    }
    assert_eq!(sent, 0, "packets for nothing");
}
