//! Two real relays, of which one sends to the other: what one says it sent, the other says it received, whichever
//! of them is told to stop while the link between them is full. And a link that takes nothing for a while ages no
//! packet. (spec: LINK-15, RELAY-6, RELAY-10)

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::load::{numbered, send_all};
use common::{Network, PATIENCE, metrics_text, sum};
use mizzle_link::Link;
use mizzle_protocol::mix::Role;
use mizzle_protocol::sphinx::SecretKey;
use rustix::process::Signal;
use std::net::SocketAddr;
use std::time::Duration;

/// Both load the machine.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn what_is_on_its_way_to_a_relay_that_stops_is_written_to_the_end() {
    let _alone = ALONE.lock().await;
    let mut differences = Vec::new();
    // The last look at a process that ends may be a moment too early: then its count is too low. Not three times.
    while differences.len() < 3 {
        let (mut network, link) = full_line().await;
        let second = network.second.as_mut().unwrap();
        // It hears the word and wakes; by then more is written than it has read.
        let received = last(second.metrics, RECEIVED);
        second.signal(Signal::TERM);
        second.signal(Signal::CONT);
        assert_eq!(second.ended().await, Some(0));
        let received = received.await.unwrap();
        network.balance().await;
        let (sent, down) = (network.count(SENT).await, network.dropped("link_down").await);
        assert!(sent > 500.0 && down == 0.0, "{sent} sent, {down} dropped as link_down");
        assert!(network.dropped("late").await > 0.0, "the line was not full");
        assert!(received <= sent, "{received} of {sent}");
        drop(link);
        if received == sent {
            return;
        }
        differences.push(sent - received);
    }
    panic!("sent and not received: {differences:?}");
}

#[tokio::test]
async fn what_a_relay_that_stops_has_on_its_way_is_written_to_the_end() {
    let _alone = ALONE.lock().await;
    let (mut network, link) = full_line().await;
    let sent = last(network.metrics, SENT);
    network.signal(Signal::TERM);
    drop(link);
    // It waits for the line.
    tokio::time::sleep(Duration::from_millis(300)).await;
    network.second.as_ref().unwrap().signal(Signal::CONT);
    assert_eq!(network.ended().await, Some(0));
    let sent = sent.await.unwrap();
    let second = network.second.as_ref().unwrap();
    let received = async {
        while second.count("mizzle_links_in").await > 0.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        second.count(RECEIVED).await
    };
    let received = tokio::time::timeout(PATIENCE, received).await.expect("the link stays");
    assert_eq!(sent, received);
    assert!(sent > 500.0, "{sent}");
}

#[tokio::test]
async fn a_line_that_takes_nothing_for_a_while_passes_no_packet_that_is_late() {
    let _alone = ALONE.lock().await;
    let (mut network, mut link) = full_line().await;
    let full = network.dropped("queue_full").await;
    network.second.as_ref().unwrap().signal(Signal::CONT);
    network.balance().await;
    let (sent, late) = (network.count(SENT).await, network.dropped("late").await);
    // The queue was full of what had waited for longer; a new packet takes the place of one of them.
    assert!(late >= 1_000.0 && full == 0.0, "{late} late, {full} beyond the queue");
    assert_eq!(sent + late, BURST as f64);
    // It goes on as before.
    send(&mut network, &mut link, 50).await;
    let goes_on = async {
        while network.count(SENT).await < sent + 50.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, goes_on).await.expect("the line stays shut");
    assert_eq!(network.dropped("late").await, late);
}

/// A relay whose line to a second one is full, since that one is stopped like a program in a debugger; its line is
/// stuffed with more than the sockets' buffers take, at a rate that the relay unwraps with ease.
async fn full_line() -> (Network, Link) {
    let mut network = Network::start_pair(&[Role::Entry, Role::Mix(3)], Role::Mix(1), Role::Mix(2)).await;
    // A relay that does not list us yet ends our link after we took it for made: what counts is that it has one.
    let second = network.second.as_ref().unwrap();
    let linked = async {
        while second.count("mizzle_links_in").await != 1.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, linked).await.expect("the second relay has no link");
    network.wait_for("mizzle_links_out", 1.0).await;
    let mut link = network.link_as(Role::Entry).await;
    network.second.as_ref().unwrap().signal(Signal::STOP);
    send(&mut network, &mut link, BURST).await;
    network.wait_for("mizzle_packets_received_total", BURST as f64).await;
    (network, link)
}

async fn send(network: &mut Network, link: &mut Link, count: usize) {
    let id = network.second.as_ref().unwrap().descriptor.relay.0;
    let key = SecretKey::generate(&mut network.rng);
    let (hint, clock) = (network.hint(), network.clock);
    let packets = numbered(network, id, &key, 0, &vec![Duration::ZERO; count]);
    send_all(link, hint, &packets, RATE, clock.now(), clock).await;
}

/// The last value that a counter has before its relay ends.
fn last(metrics: SocketAddr, name: &'static str) -> tokio::task::JoinHandle<f64> {
    tokio::spawn(async move {
        let mut value = 0.0;
        loop {
            let Ok(text) = tokio::time::timeout(PATIENCE, metrics_text(metrics)).await else { return value };
            match sum(&text, name) {
                now if now.is_nan() => return value,
                now => value = now,
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
}

const SENT: &str = "mizzle_packets_sent_total{to=\"relay\"}";
const RECEIVED: &str = "mizzle_packets_received_total{from=\"relay\"}";
/// More than the buffers of two sockets and a queue of 1 024 hold.
const BURST: usize = 6_000;
/// Packets a second.
const RATE: f64 = 1_500.0;
