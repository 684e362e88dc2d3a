//! An authority that measures a real relay: what it sends comes home, opened, by its own link, and goes nowhere else.
//! (spec: MEASURE-1, MEASURE-2)

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Network, send};
use mizzle_link::{Alpn, Identity, Link, dial, seeded_rng};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::ReplyId;
use mizzle_protocol::mix::Role;
use mizzle_protocol::sphinx::{Hop, SecretKey, Unwrapped, build, open_message, unwrap};
use mizzle_protocol::wire::cell::{RelayCell, relay_cell_size};
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// A packet for the relay that goes on to `next`, as its last hop, whose key is `key`.
fn packet(network: &mut Network, next: [u8; 32], key: &SecretKey, number: u8) -> Vec<u8> {
    let hops = [
        Hop { address: network.descriptor.relay.0, key: network.key(), delay: Duration::ZERO },
        Hop { address: next, key: key.public(), delay: Duration::ZERO },
    ];
    let mut packet = Vec::new();
    build(Geometry::default(), &hops, ReplyId([0; 16]), &[number], &mut network.rng, &mut packet).unwrap();
    packet
}

async fn link(network: &Network, who: &Identity) -> Link {
    dial(network.address, network.descriptor.relay, Some(who), Alpn::Cells, None).await.unwrap()
}

/// The number in the next packet that comes home; `None` if none comes, or the link ends.
async fn home(link: &mut Link, key: &SecretKey) -> Option<u8> {
    let mut cell = vec![0; relay_cell_size(Geometry::default())];
    let read = tokio::time::timeout(Duration::from_secs(2), link.read_exact(&mut cell));
    read.await.ok()?.ok()?;
    let RelayCell::Packet { packet, .. } = RelayCell::parse(Geometry::default(), &cell).unwrap() else {
        panic!("filler")
    };
    match unwrap(Geometry::default(), key, &mut packet.to_vec()).unwrap() {
        Unwrapped::Final { payload, .. } => Some(open_message(payload).unwrap()[0]),
        Unwrapped::Forward { .. } => panic!("it goes on"),
    }
}

async fn comes_home(role: Role) {
    let mut network = Network::start(role, "").await;
    let (authority, key) = (network.authority().clone(), SecretKey::generate(&mut network.rng));
    let (hint, me) = (network.hint(), authority.id().0);
    let mut line = link(&network, &authority).await;
    for number in 0..20 {
        let packet = packet(&mut network, me, &key, number);
        send(&mut line, hint, &packet).await;
        assert_eq!(home(&mut line, &key).await, Some(number), "{role:?}");
    }
    // The same again is a replay; on to any other, or to a service, is no edge.
    let again = packet(&mut network, me, &key, 99);
    send(&mut line, hint, &again).await;
    assert_eq!(home(&mut line, &key).await, Some(99));
    send(&mut line, hint, &again).await;
    network.wait_for("mizzle_packets_dropped_total{reason=\"replayed\"}", 1.0).await;
    let others: Vec<_> = network.neighbours.iter().map(|neighbour| neighbour.id().0).collect();
    let mut refused = 0.0;
    for next in others.into_iter().chain([[0xaa; 32]]) {
        let packet = packet(&mut network, next, &key, 1);
        send(&mut line, hint, &packet).await;
        refused += 1.0;
    }
    let last = network.last(&[0]);
    send(&mut line, hint, &last).await;
    network.wait_for("mizzle_packets_dropped_total{reason=\"wrong_edge\"}", refused + 1.0).await;
    assert!(network.neighbours.iter().all(|neighbour| neighbour.packets.is_empty()));
    // It is nobody's cover, so the relay reports it to nobody; the books close.
    assert_eq!(network.count("mizzle_packets_sent_total{to=\"authority\"}").await, 21.0);
    assert_eq!(network.count("mizzle_packets_sent_total{to=\"relay\"}").await, 0.0);
    network.balance().await;
}

#[tokio::test]
async fn what_an_authority_sends_to_a_mix_comes_home_and_goes_nowhere_else() {
    comes_home(Role::Mix(2)).await;
}

#[tokio::test]
async fn what_an_authority_sends_to_an_entry_comes_home_and_goes_nowhere_else() {
    comes_home(Role::Entry).await;
}

#[tokio::test]
async fn what_an_authority_sends_to_an_exit_comes_home_and_goes_nowhere_else() {
    comes_home(Role::Exit).await;
}

#[tokio::test]
async fn nobody_else_gets_such_a_link_or_sends_to_the_authority() {
    let mut network = Network::start(Role::Mix(2), "").await;
    let (authority, key) = (network.authority().clone(), SecretKey::generate(&mut network.rng));
    let (hint, me) = (network.hint(), authority.id().0);
    let mut home_line = link(&network, &authority).await;
    let probe = packet(&mut network, me, &key, 0);
    send(&mut home_line, hint, &probe).await;
    assert_eq!(home(&mut home_line, &key).await, Some(0));
    // A stranger with an identity of its own.
    let stranger = Identity::generate(&mut seeded_rng().unwrap());
    let mut line = link(&network, &stranger).await;
    assert_eq!(line.read(&mut [0; 1]).await.unwrap_or(0), 0, "a stranger's link stays");
    network.wait_for("mizzle_connections_refused_total{reason=\"unknown_relay\"}", 1.0).await;
    // A neighbour's packet for the authority is on no edge, though the authority is there.
    let mut neighbour = network.link_as(Role::Mix(1)).await;
    let flood = packet(&mut network, me, &key, 1);
    send(&mut neighbour, hint, &flood).await;
    network.wait_for("mizzle_packets_dropped_total{reason=\"wrong_edge\"}", 1.0).await;
    assert_eq!(network.count("mizzle_packets_sent_total{to=\"authority\"}").await, 1.0);
    network.balance().await;
}

#[tokio::test]
async fn an_authority_has_no_more_than_the_operators_limit() {
    // Twenty cells a second, and twenty at once.
    let mut network = Network::start(Role::Mix(2), "rate = \"714 kbit/s\"").await;
    let (authority, key) = (network.authority().clone(), SecretKey::generate(&mut network.rng));
    let (hint, me) = (network.hint(), authority.id().0);
    let mut line = link(&network, &authority).await;
    for number in 0..100 {
        let packet = packet(&mut network, me, &key, number);
        send(&mut line, hint, &packet).await;
    }
    let mut count = 0;
    while home(&mut line, &key).await.is_some() {
        count += 1;
    }
    assert!((15..=60).contains(&count), "{count}");
    assert!(network.dropped("rate_limited").await >= 40.0);
    network.balance().await;
}
