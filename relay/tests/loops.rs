//! A relay's own loops, over relays that the test plays: they come home, or an alarm says that they do not.
//! (spec: LOOP-1, LOOP-2, LOOP-6)

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Network, send, sum};
use mizzle_link::Link;
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::mix::Role;
use mizzle_protocol::sphinx::{Unwrapped, unwrap};
use std::time::Duration;
use tokio::time::Instant;

/// Carries the relay's loops by layer 3, a gateway, and layer 1, whose link to the relay is `back`; unless they are to
/// come `home`, they are lost there. Until twenty were carried, or until the alarm is what is asked for: false, if that
/// takes too long.
async fn carry(network: &mut Network, back: &mut Link, home: bool, alarm: Option<f64>) -> bool {
    let (me, end) = (network.descriptor.relay.0, Instant::now() + Duration::from_secs(20));
    let (mut looked, mut carried) = (Instant::now(), 0);
    while Instant::now() < end {
        let next =
            tokio::time::timeout(Duration::from_millis(50), network.neighbour(Role::Mix(3)).packets.recv());
        if let Ok(Some((hint, mut packet, _))) = next.await {
            let mut at = network.neighbour(Role::Mix(3)).id().0;
            for role in ["a mix of layer 3", "a gateway", "a mix of layer 1"] {
                let here = network.neighbours.iter().find(|relay| relay.id().0 == at).expect(role);
                match unwrap(Geometry::default(), &here.key, &mut packet).unwrap() {
                    Unwrapped::Forward { next, .. } => at = next,
                    Unwrapped::Final { .. } => panic!("the loop ends at {role}"),
                }
            }
            assert!(at == me, "the loop goes on to another relay");
            if home {
                send(back, hint, &packet).await;
                carried += 1;
            }
        }
        match alarm {
            None if carried >= 20 => return true,
            Some(wanted) if looked.elapsed() > Duration::from_millis(100) => {
                looked = Instant::now();
                if network.count("mizzle_loop_alarm").await == wanted {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}

#[tokio::test]
async fn a_relays_loops_come_home_and_it_says_so_when_they_do_not() {
    let mut network = Network::start(Role::Mix(2), "loops = 20").await;
    let mut back = network.link_as(Role::Mix(1)).await;
    assert!(carry(&mut network, &mut back, true, None).await, "there are no loops");
    network.wait_for("mizzle_loops_total{fate=\"home\"}", 20.0).await;
    assert_eq!(network.count("mizzle_packets_delivered_total{service=\"loop\"}").await, 20.0);
    assert_eq!(network.count("mizzle_loop_alarm").await, 0.0);
    // Who plays the network lets nothing through.
    assert!(carry(&mut network, &mut back, false, Some(1.0)).await, "no alarm");
    assert!(network.count("mizzle_loops_total{fate=\"lost\"}").await >= 7.0);
    let page = String::from_utf8(network.command(&["status"]).await.stdout).unwrap();
    assert!(page.contains("ALARM: somebody may keep packets away"), "{page}");
    network.wait_for_log("an n-1 attack").await;
    assert!(carry(&mut network, &mut back, true, Some(0.0)).await, "the alarm stays on");
    network.wait_for_log("come back to it again").await;
    assert_eq!(network.dropped("wrong_edge").await, 0.0);
    // The books close with them, too, unless one comes or goes while they are read.
    let mut closed = false;
    for _ in 0..5 {
        let text = network.metrics_text().await;
        let of = |name: &str| sum(&text, name);
        let ended = of("mizzle_packets_sent_total")
            + of("mizzle_packets_delivered_total")
            + of("mizzle_packets_dropped_total")
            + of("mizzle_packets_in_flight");
        closed |= of("mizzle_packets_received_total") == ended && ended > 100.0;
    }
    assert!(closed, "{}", network.metrics_text().await);
}

#[tokio::test]
async fn what_ends_at_a_mix_and_is_no_loop_of_its_own_is_dropped() {
    let mut network = Network::start(Role::Mix(2), "").await;
    let mut link = network.link_as(Role::Mix(1)).await;
    let (hint, packet) = (network.hint(), network.last(b"hello"));
    send(&mut link, hint, &packet).await;
    network.wait_for("mizzle_packets_dropped_total{reason=\"wrong_edge\"}", 1.0).await;
    network.balance().await;
}
