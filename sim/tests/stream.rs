//! A client and an exit talk through the simulated network: what is sent arrives, whatever is lost between.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use mizzle_protocol::path::Parameters;
use mizzle_protocol::sphinx::Sphinx;
use mizzle_sim::conversation::{Conversation, Transfer};
use mizzle_sim::links::{Distance, Links};
use mizzle_sim::world::Shape;
use std::time::Duration;

const SIZE: usize = 300_000;

fn bytes(salt: u32) -> Vec<u8> {
    (0..SIZE as u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(salt) >> 13) as u8).collect()
}

fn shape(loss: f64) -> Shape {
    let links = Links { loss, distance: Distance::Equal(Duration::from_millis(1)), ..Links::default() };
    Shape { parameters: Parameters::local(), links, ..Shape::default() }
}

fn assert_exact(transfer: &Transfer) {
    assert_eq!(transfer.reset, None);
    assert_eq!((transfer.up.len(), transfer.down.len()), (SIZE, SIZE), "{:?}", transfer.finished);
    assert!(transfer.up == bytes(1) && transfer.down == bytes(2));
}

#[test]
fn three_hundred_kilobytes_each_way_arrive_bit_exact_in_sphinx_packets() {
    let mut conversation = Conversation::<Sphinx>::with_format(shape(0.0), 1, bytes(2)).unwrap();
    let transfer = conversation.transfer(b"", &bytes(1), Duration::from_secs(60)).unwrap();
    println!(
        "connected {:?}, first byte {:?}, all {:?}",
        transfer.connected, transfer.first_byte, transfer.finished
    );
    assert_exact(&transfer);
    assert!(conversation.refused().is_empty(), "{:?}", conversation.refused());
}

#[test]
fn they_arrive_bit_exact_when_every_link_loses_packets() {
    // Two per cent on each of the four links between relays: almost eight per cent of all packets.
    let mut conversation = Conversation::new(shape(0.02), 2, bytes(2)).unwrap();
    let transfer = conversation.transfer(b"", &bytes(1), Duration::from_secs(120)).unwrap();
    println!(
        "connected {:?}, first byte {:?}, all {:?}",
        transfer.connected, transfer.first_byte, transfer.finished
    );
    assert_exact(&transfer);
}

#[test]
fn a_download_survives_losses_without_stalling_and_few_packets_are_thought_lost_that_are_not() {
    for (loss, limit) in [(0.0, 3), (0.02, 6)] {
        let content: Vec<u8> =
            (0..1_500_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        let mut conversation = Conversation::new(shape(loss), 3, content.clone()).unwrap();
        let transfer = conversation.transfer(b"", b"GET /", Duration::from_secs(limit)).unwrap();
        assert!(transfer.down == content, "{} bytes, {:?}", transfer.down.len(), transfer.reset);
        let totals = conversation.status().totals;
        assert!(totals.replies_late * 50 < totals.replies, "{totals:?}");
    }
}

#[test]
fn the_first_stream_of_an_isolation_key_waits_no_round_trip_for_its_session() {
    let mut medians = [Vec::new(), Vec::new()];
    for seed in 0..60 {
        let mut conversation = Conversation::new(shape(0.0), seed, vec![7; 1_000]).unwrap().without_drops();
        for (place, key) in [b"new", b"new"].into_iter().enumerate() {
            // The first opens the session, the second finds it open.
            conversation.idle(Duration::from_secs(2)).unwrap();
            let transfer = conversation.transfer(key, b"GET /", Duration::from_secs(20)).unwrap();
            assert_eq!(transfer.reset, None);
            medians[place].push(transfer.first_byte);
        }
    }
    let [cold, warm] = medians.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    println!("first byte: session opened along {cold:?}, session open {warm:?}");
    // A round trip through the mixes is 120 ms in the mean.
    assert!(cold < warm + Duration::from_millis(50), "{cold:?}, {warm:?}");
}
