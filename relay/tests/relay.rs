//! One real relay process among neighbours that the test plays.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::load::{numbered, send_all};
use common::{Network, PATIENCE, STEP, send};
use mizzle_link::http::{self, Limits};
use mizzle_link::{Alpn, Identity, Link, dial, seeded_rng};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::{RelayId, ReplyId};
use mizzle_protocol::level::Step;
use mizzle_protocol::mix::Role;
use mizzle_protocol::secret::Secret;
use mizzle_protocol::sphinx::{Hop, SecretKey, Unwrapped, build_surb, open_reply, unwrap};
use mizzle_protocol::wire::cell::{ClientCell, Hello, client_cell_size, relay_cell_size};
use mizzle_protocol::wire::payload::{Payload, Ping, Pong};
use rand_core::Rng;
use rustix::process::Signal;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_relay_killed_and_started_again_refuses_what_it_has_seen() {
    let mut network = Network::start(Role::Mix(1), "").await;
    let next = network.neighbour(Role::Mix(2)).id().0;
    let hint = network.hint();
    let recorded = network.packet(next, Duration::from_millis(1));
    let mut link = network.link_as(Role::Entry).await;
    send(&mut link, hint, &recorded).await;
    let (_, first, _) = network.neighbour(Role::Mix(2)).receive().await;
    assert_eq!(first.len(), Geometry::default().packet());
    send(&mut link, hint, &recorded).await;
    network.wait_for("mizzle_packets_dropped_total{reason=\"replayed\"}", 1.0).await;

    network.kill();
    network.restart().await;
    assert_eq!(network.dropped("replayed").await, 0.0);
    let mut link = network.link_as(Role::Entry).await;
    send(&mut link, hint, &recorded).await;
    network.wait_for("mizzle_packets_dropped_total{reason=\"replayed\"}", 1.0).await;
    // The relay has kept its keys, too: a new packet for the same key passes, and nothing before it.
    let fresh = network.packet(next, Duration::from_millis(1));
    send(&mut link, hint, &fresh).await;
    let (_, second, _) = network.neighbour(Role::Mix(2)).receive().await;
    assert!(first != second);
    assert!(network.neighbour(Role::Mix(2)).packets.try_recv().is_err());
    network.balance().await;
}

#[tokio::test]
async fn a_mix_holds_packets_as_long_as_asked_and_keeps_to_its_edges() {
    let mut network = Network::start(Role::Mix(1), "").await;
    let next = network.neighbour(Role::Mix(2)).id().0;
    let (entry, third) = (network.neighbour(Role::Entry).id().0, network.neighbour(Role::Mix(3)).id().0);
    let hint = network.hint();
    let mut link = network.link_as(Role::Entry).await;
    let delay = Duration::from_millis(60);
    for _ in 0..20 {
        let packet = network.packet(next, delay);
        let sent = network.clock.now();
        send(&mut link, hint, &packet).await;
        let (got, bytes, at) = network.neighbour(Role::Mix(2)).receive().await;
        assert!(got == hint && bytes != packet && bytes.len() == packet.len());
        assert!(at.since(sent) >= delay);
    }
    // Nobody but the next layer is sent to, and nothing ends here.
    let wrong = [
        network.packet(third, delay),
        network.packet(entry, delay),
        network.packet([9; 32], delay),
        network.last(b"\0"),
    ];
    for packet in &wrong {
        send(&mut link, hint, packet).await;
    }
    let packet = network.packet(next, delay);
    send(&mut link, hint.wrapping_add(7), &packet).await;
    // A neighbour that is not of the layer before sends nothing through.
    let mut other = network.link_as(Role::Mix(3)).await;
    send(&mut other, hint, &packet).await;
    network.wait_for("mizzle_packets_dropped_total{reason=\"wrong_edge\"}", 5.0).await;
    network.wait_for("mizzle_packets_dropped_total{reason=\"unknown_period\"}", 1.0).await;
    network.balance().await;
    assert_eq!(network.count("mizzle_packets_sent_total{to=\"relay\"}").await, 20.0);
    assert_eq!(network.count("mizzle_departure_error_seconds_count").await, 20.0);
}

#[tokio::test]
async fn an_excessive_delay_is_dropped_and_counted_and_the_longest_allowed_is_kept() {
    let mut network = Network::start(Role::Mix(1), "").await;
    let next = network.neighbour(Role::Mix(2)).id().0;
    let hint = network.hint();
    let longest = Duration::from_millis(200);
    let mut link = network.link_as(Role::Entry).await;
    let excessive = network.packet(next, longest + Duration::from_micros(1));
    send(&mut link, hint, &excessive).await;
    network.wait_for("mizzle_packets_dropped_total{reason=\"excessive_delay\"}", 1.0).await;
    let allowed = network.packet(next, longest);
    let sent = network.clock.now();
    send(&mut link, hint, &allowed).await;
    let (_, _, at) = network.neighbour(Role::Mix(2)).receive().await;
    assert!(at.since(sent) >= longest);
    network.balance().await;
    assert_eq!(network.count("mizzle_packets_sent_total{to=\"relay\"}").await, 1.0);
}

#[tokio::test]
async fn packets_for_a_dead_neighbour_are_counted_and_its_return_is_noticed() {
    let mut network = Network::start(Role::Mix(1), "").await;
    network.wait_for("mizzle_links_out", 1.0).await;
    let next = network.neighbour(Role::Mix(2)).id().0;
    let hint = network.hint();
    let mut link = network.link_as(Role::Entry).await;
    network.neighbour(Role::Mix(2)).stop().await;
    let down = async {
        while network.count("mizzle_links_out").await != 0.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, down).await.expect("the end of the link goes unnoticed");
    for _ in 0..5 {
        let packet = network.packet(next, Duration::ZERO);
        send(&mut link, hint, &packet).await;
    }
    network.wait_for("mizzle_packets_dropped_total{reason=\"link_down\"}", 5.0).await;
    network.neighbour(Role::Mix(2)).resume().await;
    network.wait_for("mizzle_links_out", 1.0).await;
    let packet = network.packet(next, Duration::ZERO);
    send(&mut link, hint, &packet).await;
    network.neighbour(Role::Mix(2)).receive().await;
    network.balance().await;
}

#[tokio::test]
async fn what_a_link_holds_when_it_fails_is_counted_as_lost_with_it() {
    let mut network = Network::start(Role::Mix(1), "").await;
    network.wait_for("mizzle_links_out", 1.0).await;
    let (hint, clock) = (network.hint(), network.clock);
    let to = network.neighbour(Role::Mix(2));
    let (id, key) = (to.id().0, to.key.clone());
    to.is_deaf.store(true, Ordering::Relaxed);
    // More than the kernel holds for it, so that the link's writer and its queue are full.
    let packets = numbered(&mut network, id, &key, 0, &[Duration::ZERO; 4_000]);
    let mut link = network.link_as(Role::Entry).await;
    let sending = async {
        send_all(&mut link, hint, &packets, 1_000.0, clock.now(), clock).await;
    };
    let failing = async {
        network.wait_for("mizzle_packets_dropped_total{reason=\"late\"}", 100.0).await;
        network.neighbours[0].stop().await;
    };
    tokio::join!(sending, failing);
    network.wait_for("mizzle_packets_received_total", packets.len() as f64).await;
    network.balance().await;
    assert!(network.dropped("link_down").await > 0.0, "{:?}", network.dropped_by_reason().await);
}

#[tokio::test]
async fn no_bytes_on_the_port_bring_the_relay_down_or_go_uncounted() {
    let mut network = Network::start(Role::Mix(1), "").await;
    let hint = network.hint();
    let mut rng = seeded_rng().unwrap();
    let mut noise = vec![0; 100_000];
    rng.fill_bytes(&mut noise);

    // Plain bytes of all kinds.
    let starts: [&[u8]; 5] = [&noise, b"GET / HTTP/1.1\r\n\r\n", &[0; 70_000], &[0x16, 3, 1, 0, 5, 1], b""];
    for bytes in starts {
        let mut stream = TcpStream::connect(network.address).await.unwrap();
        let _ = stream.write_all(bytes).await;
        drop(stream);
    }
    network.wait_for("mizzle_connections_refused_total{reason=\"handshake\"}", 5.0).await;

    // Strangers, and clients at a relay that takes none.
    let (address, relay) = (network.address, network.descriptor.relay);
    let stranger = Identity::generate(&mut rng);
    for (identity, reason) in [(Some(&stranger), "unknown_relay"), (None, "not_an_entry")] {
        let mut link = dial(address, relay, identity, Alpn::Cells, None).await.unwrap();
        let mut byte = [0];
        assert!(matches!(link.read(&mut byte).await, Ok(0) | Err(_)));
        network.wait_for(&format!("mizzle_connections_refused_total{{reason=\"{reason}\"}}"), 1.0).await;
    }

    // Documents: garbage, then what is there.
    for request in
        [b"\0\r\n\r\n".as_slice(), b"POST /descriptor HTTP/1.1\r\nContent-Length: 9\r\n\r\n", &noise]
    {
        let mut link = dial(address, relay, None, Alpn::Documents, None).await.unwrap();
        let _ = link.write_all(request).await;
        let _ = link.flush().await;
        let mut answer = Vec::new();
        let _ = link.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"HTTP/1.1 4"));
    }
    network.wait_for("mizzle_connections_refused_total{reason=\"request\"}", 3.0).await;
    let mut link = dial(address, relay, None, Alpn::Documents, None).await.unwrap();
    for (path, status) in [("/", 200), ("/consensus", 200), ("/service-keys", 200), ("/none", 404)] {
        assert_eq!(http::get(&mut link, path, &Limits::default()).await.unwrap().status, status, "{path}");
    }

    // Cells that are none, and packets that are noise, from a neighbour: its link stays.
    let mut link = network.link_as(Role::Entry).await;
    let size = relay_cell_size(Geometry::default());
    for kind in [2, 9, 255] {
        let mut cell = noise[..size].to_vec();
        cell[0] = kind;
        link.write_all(&cell).await.unwrap();
    }
    for start in 0..20 {
        send(&mut link, hint, &noise[start * 1000..][..size - 2]).await;
    }
    network.wait_for("mizzle_packets_dropped_total{reason=\"malformed\"}", 3.0).await;
    network.wait_for("mizzle_packets_dropped_total{reason=\"forged\"}", 20.0).await;
    let next = network.neighbour(Role::Mix(2)).id().0;
    let good = network.packet(next, Duration::ZERO);
    for position in [0, 31, 32, 200, 347] {
        let mut altered = good.clone();
        altered[position] ^= 4;
        send(&mut link, hint, &altered).await;
    }
    network.wait_for("mizzle_packets_dropped_total{reason=\"forged\"}", 25.0).await;
    send(&mut link, hint, &good).await;
    network.neighbour(Role::Mix(2)).receive().await;
    // An end within a cell.
    link.write_all(&noise[..size / 2]).await.unwrap();
    link.flush().await.unwrap();
    drop(link);
    network.wait_for("mizzle_connections_refused_total{reason=\"truncated\"}", 1.0).await;
    network.balance().await;
    assert!(network.is_alive());
}

/// Reads cells until one carries a packet; how many were filler.
async fn next_packet(link: &mut Link) -> (Vec<u8>, usize) {
    let mut cell = vec![0; client_cell_size(Geometry::default())];
    let mut filler = 0;
    let packet = async {
        loop {
            link.read_exact(&mut cell).await.unwrap();
            match ClientCell::parse(Geometry::default(), &cell).unwrap() {
                ClientCell::Packet { packet, .. } => return packet.to_vec(),
                ClientCell::Filler => filler += 1,
                other => panic!("{other:?}"),
            }
        }
    };
    (tokio::time::timeout(PATIENCE, packet).await.expect("no packet came"), filler)
}

async fn send_up(link: &mut Link, next: RelayId, hint: u8, packet: &[u8]) {
    let mut cell = Vec::new();
    ClientCell::Packet { next, hint, packet }.emit(Geometry::default(), &mut cell);
    link.write_all(&cell).await.unwrap();
    link.flush().await.unwrap();
}

#[tokio::test]
async fn an_entry_serves_its_clients_and_nobody_else() {
    let mut network = Network::start(Role::Entry, "").await;
    let hint = network.hint();
    let (mut link, address) = network.client(1).await;
    let packet = vec![7; Geometry::default().packet()];
    let first = network.neighbour(Role::Mix(1)).id();
    send_up(&mut link, first, hint, &packet).await;
    let (got, bytes, _) = network.neighbour(Role::Mix(1)).receive().await;
    assert!(got == hint && bytes == packet);
    // Only layer 1 is sent to.
    let second = network.neighbour(Role::Mix(2)).id();
    send_up(&mut link, second, hint, &packet).await;
    network.wait_for("mizzle_packets_dropped_total{reason=\"wrong_edge\"}", 1.0).await;

    // Homeward, in a slot, among filler.
    let home = network.packet(address.0, Duration::ZERO);
    let mut mix = network.link_as(Role::Mix(3)).await;
    send(&mut mix, hint, &home).await;
    let (packet, _) = next_packet(&mut link).await;
    assert!(packet.len() == home.len() && packet != home);
    // Nobody has this address.
    let lost = network.packet([1; 32], Duration::ZERO);
    send(&mut mix, hint, &lost).await;
    network.wait_for("mizzle_packets_dropped_total{reason=\"unknown_client\"}", 1.0).await;

    // A client that comes back has its address, and what came while it was away.
    drop(link);
    network.wait_for("mizzle_client_links", 0.0).await;
    let home = network.packet(address.0, Duration::ZERO);
    send(&mut mix, hint, &home).await;
    let (mut link, same) = network.client(1).await;
    assert!(same == address);
    next_packet(&mut link).await;
    let (_other, another) = network.client(2).await;
    assert!(another != address);

    // Too much at once is dropped, and the rest read more slowly; the link stays.
    let packet = vec![7; Geometry::default().packet()];
    for _ in 0..300 {
        send_up(&mut link, first, hint, &packet).await;
    }
    network.wait_for("mizzle_packets_dropped_total{reason=\"rate_limited\"}", 50.0).await;
    let home = network.packet(address.0, Duration::ZERO);
    send(&mut mix, hint, &home).await;
    next_packet(&mut link).await;

    // Cells that are none end it.
    let mut cell = vec![0; client_cell_size(Geometry::default())];
    cell[0] = 77;
    link.write_all(&cell).await.unwrap();
    link.flush().await.unwrap();
    network.wait_for("mizzle_packets_dropped_total{reason=\"malformed\"}", 1.0).await;
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, link.read_to_end(&mut rest)).await.expect("the link stays open");
    // So does a first cell that is no hello.
    let mut link = dial(network.address, network.descriptor.relay, None, Alpn::Cells, None).await.unwrap();
    link.write_all(&vec![0; client_cell_size(Geometry::default())]).await.unwrap();
    link.flush().await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, link.read_to_end(&mut rest)).await.expect("the link stays open");
    assert!(rest.is_empty());
    network.balance().await;
}

#[tokio::test]
async fn an_exit_answers_pings_and_swallows_cover() {
    let mut network = Network::start(Role::Exit, "").await;
    let hint = network.hint();
    let mut rng = seeded_rng().unwrap();
    let client_key = SecretKey::generate(&mut rng);
    let first = network.neighbour(Role::Mix(1));
    let (id, key) = (first.id(), first.key.clone());
    let hops = [
        Hop { address: id.0, key: key.public(), delay: Duration::ZERO },
        Hop { address: [1; 32], key: client_key.public(), delay: Duration::ZERO },
    ];
    let (surb, keys) = build_surb(&hops, ReplyId([5; 16]), &mut rng).unwrap();
    let mut message = Vec::new();
    Payload::Ping(Ping { nonce: [3; 16], hint, surb }).emit(&mut message);
    let ping = network.last(&message);
    let drop = network.last(&[0]);
    let nonsense = network.last(&[200, 1, 2, 3]);
    let mut link = network.link_as(Role::Mix(3)).await;
    let before = network.clock.now();
    send(&mut link, hint, &ping).await;
    let (_, mut reply, _) = network.neighbour(Role::Mix(1)).receive().await;
    let after = network.clock.now();
    let geometry = Geometry::default();
    assert!(matches!(unwrap(geometry, &key, &mut reply), Ok(Unwrapped::Forward { .. })));
    let Ok(Unwrapped::Final { reply, payload }) = unwrap(geometry, &client_key, &mut reply) else {
        panic!("the reply does not reach its creator")
    };
    assert!(reply == ReplyId([5; 16]));
    let pong = Pong::parse(open_reply(&keys, payload).unwrap()).unwrap();
    assert_eq!(pong.nonce, [3; 16]);
    // Both clocks were anchored to the same wall clock, some seconds apart.
    let slack = Duration::from_millis(50);
    assert!(before - slack < pong.arrival && pong.arrival < after + slack);

    send(&mut link, hint, &drop).await;
    send(&mut link, hint, &nonsense).await;
    network.wait_for("mizzle_packets_dropped_total{reason=\"cover\"}", 1.0).await;
    network.wait_for("mizzle_packets_dropped_total{reason=\"bad_payload\"}", 1.0).await;
    network.balance().await;
    assert_eq!(network.count("mizzle_packets_delivered_total{service=\"ping\"}").await, 1.0);
}

#[tokio::test]
async fn an_entry_that_stops_first_gives_its_clients_what_waits_for_them() {
    let mut network = Network::start(Role::Entry, "").await;
    let hint = network.hint();
    let (mut link, address) = network.client(1).await;
    let mut mix = network.link_as(Role::Mix(3)).await;
    // Before, the relay has not ended the handshake.
    network.wait_for("mizzle_links_in", 1.0).await;
    for _ in 0..30 {
        let home = network.packet(address.0, Duration::from_millis(100));
        send(&mut mix, hint, &home).await;
    }
    // The link of the mix ends, with what is on it; the client's packets still come, and then its end.
    network.signal(Signal::TERM);
    let mut byte = [0];
    assert!(matches!(tokio::time::timeout(PATIENCE, mix.read(&mut byte)).await, Ok(Ok(0))));
    drop(mix);
    for _ in 0..30 {
        next_packet(&mut link).await;
    }
    let mut cell = vec![0; client_cell_size(Geometry::default())];
    let rest = async { while link.read_exact(&mut cell).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, rest).await.expect("the link does not end");
    drop(link);
    assert_eq!(network.ended().await, Some(0));
    assert!(network.log().contains("and all went out"), "{}", network.log());
}

#[tokio::test]
async fn an_entry_takes_as_many_clients_as_its_rate_has_room_for() {
    // A client's slots and its own packets take some 17 Mbit/s at this step, and more than one at the slowest.
    let network = Network::start(Role::Entry, "rate = \"18 Mbit/s\"").await;
    let (first, _) = network.client(1).await;
    let full = "mizzle_connections_refused_total{reason=\"full\"}";
    let mut second = dial(network.address, network.descriptor.relay, None, Alpn::Cells, None).await.unwrap();
    let mut cell = Vec::new();
    ClientCell::Hello(Hello { reclaim: Secret::new([2; 32]), step: STEP })
        .emit(Geometry::default(), &mut cell);
    second.write_all(&cell).await.unwrap();
    second.flush().await.unwrap();
    network.wait_for(full, 1.0).await;
    drop(first);
    network.wait_for("mizzle_client_links", 0.0).await;
    let settled = async { while network.count("mizzle_client_links").await > 0.0 {} };
    tokio::time::timeout(PATIENCE, settled).await.expect("the first client stays");
    network.client(3).await;
}

/// Sends a cell and waits for the next that is neither filler nor a packet.
async fn ask(link: &mut Link, cell: ClientCell<'_>) -> Step {
    let mut bytes = Vec::new();
    cell.emit(Geometry::default(), &mut bytes);
    link.write_all(&bytes).await.unwrap();
    link.flush().await.unwrap();
    let answer = async {
        loop {
            let mut bytes = vec![0; client_cell_size(Geometry::default())];
            link.read_exact(&mut bytes).await.unwrap();
            match ClientCell::parse(Geometry::default(), &bytes).unwrap() {
                ClientCell::Welcome { step, .. } | ClientCell::Step(step) => return step,
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, answer).await.expect("the entry does not answer")
}

/// Cells a second that come on a link, over a second.
async fn pace_of(link: &mut Link) -> usize {
    let mut count = 0;
    let mut bytes = vec![0; client_cell_size(Geometry::default())];
    let counting = async {
        loop {
            link.read_exact(&mut bytes).await.unwrap();
            count += 1;
        }
    };
    let _: Result<(), _> = tokio::time::timeout(Duration::from_secs(1), counting).await;
    count
}

#[tokio::test]
async fn a_client_that_wants_less_gets_it_however_little_is_left() {
    let network = Network::start(Role::Entry, "rate = \"18 Mbit/s\"").await;
    let (mut client, _) = network.client(1).await;
    let slowest = Step { step: 0, ..STEP };
    assert_eq!(ask(&mut client, ClientCell::Step(slowest)).await, slowest);
    assert_eq!(ask(&mut client, ClientCell::Step(STEP)).await, STEP);
}

#[tokio::test]
async fn an_entry_gives_a_client_the_step_that_it_has_room_for() {
    let network = Network::start(Role::Entry, "rate = \"20 Mbit/s\"").await;
    let (first, _) = network.client(1).await;
    let mut second = dial(network.address, network.descriptor.relay, None, Alpn::Cells, None).await.unwrap();
    let hello = ClientCell::Hello(Hello { reclaim: Secret::new([2; 32]), step: STEP });
    let slowest = Step { step: 0, ..STEP };
    assert_eq!(ask(&mut second, hello).await, slowest);
    // 25 slots a second: five standard deviations.
    assert!(pace_of(&mut second).await < 50);
    assert_eq!(ask(&mut second, ClientCell::Step(STEP)).await, slowest);
    drop(first);
    network.wait_for("mizzle_client_links", 1.0).await;
    assert_eq!(ask(&mut second, ClientCell::Step(STEP)).await, STEP);
    let (wide, slots) = (pace_of(&mut second).await, 320.0 * 1.25);
    assert!((wide as f64 - slots).abs() < 0.4 * slots, "{wide}");
    assert_eq!(ask(&mut second, ClientCell::Step(slowest)).await, slowest);
    // What was written before the answer is on the line already.
    assert!(pace_of(&mut second).await < 50);
}
