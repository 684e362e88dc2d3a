//! Datagrams and questions through a real exit: the test plays the client and all mixes, the servers behind the exit,
//! and its resolver. (spec: EXIT-7 to EXIT-12)

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::PATIENCE;
use common::client::Client;
use mizzle_protocol::endpoint::{Event, Isolation};
use mizzle_protocol::session::IncomingDatagram;
use mizzle_protocol::stream::{Read, ResetReason};
use mizzle_protocol::wire::target::Target;
use simple_dns::rdata::{A, RData, TXT};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, ResourceRecord, TYPE};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

const HOSTS: &str = "hosts = { \"name.test\" = \"127.0.0.2\", \"six.test\" = \"::1\" }";

fn target(host: &str, port: u16) -> Target {
    Target::parse(host, port).unwrap()
}

fn question(name: &str, kind: TYPE) -> Vec<u8> {
    let mut packet = Packet::new_query(0x4d5a);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new_unchecked(name);
    packet.questions.push(Question::new(name, QTYPE::TYPE(kind), CLASS::IN.into(), false));
    packet.build_bytes_vec().unwrap()
}

fn send(client: &mut Client, flow: u64, target: Target, bytes: &[u8]) {
    let now = client.network.clock.now();
    client
        .endpoint
        .send_datagram(now, Isolation::of(b"test"), flow, target, bytes.to_vec(), &mut client.rng)
        .unwrap();
}

/// Waits for the next datagram of that flow.
async fn received(client: &mut Client, flow: u64) -> IncomingDatagram {
    let wanted = move |event: &Event| match event {
        Event::Datagram(datagram) if datagram.flow == flow => Some(datagram.clone()),
        _ => None,
    };
    let datagram = client.wait(wanted).await;
    client.events.retain(|event| wanted(event).is_none());
    datagram
}

/// Asks the exit's resolver, by a datagram.
async fn ask(client: &mut Client, message: &[u8]) -> Vec<u8> {
    send(client, 53, Target::resolver(), message);
    let IncomingDatagram { source, bytes, .. } = received(client, 53).await;
    assert!(source == Target::resolver() && bytes.starts_with(&message[..2]));
    bytes
}

/// Lets the client live until the exit has counted this.
async fn counted(client: &mut Client, line: &str, count: f64) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while client.network.count(line).await != count {
        let seen = client.network.count(line).await;
        assert!(tokio::time::Instant::now() < deadline, "{line} is {seen} and not {count}");
        for _ in 0..10 {
            client.turn().await;
        }
    }
}

async fn lost(client: &mut Client, reason: &str, count: f64) {
    counted(client, &format!("mizzle_datagrams_dropped_total{{reason=\"{reason}\"}}"), count).await;
}

/// A resolver that knows `large.test` (3,500 bytes, cut in a datagram), `long.test` (cut nowhere, yet too long for a
/// packet), and of all other names the address 10.0.0.1. How many questions it has had.
struct Resolver {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Resolver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let socket = UdpSocket::bind(address).await.unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (count, client) = socket.recv_from(&mut buffer).await.unwrap();
                counter.fetch_add(1, Ordering::Relaxed);
                let _ = socket.send_to(&resolve(&buffer[..count], false), client).await;
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut message = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut message).await.unwrap();
                let reply = resolve(&message, true);
                stream.write_u16(reply.len() as u16).await.unwrap();
                stream.write_all(&reply).await.unwrap();
            }
        });
        Self { address, asked }
    }

    fn config(&self) -> String {
        format!("{HOSTS}\nresolver = [\"{}\"]", self.address)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn resolve(message: &[u8], stream: bool) -> Vec<u8> {
    let asked = Packet::parse(message).unwrap();
    assert!(asked.has_flags(PacketFlag::RECURSION_DESIRED), "a question that is not to be resolved in full");
    let mut reply = asked.into_reply();
    let name = reply.questions[0].qname.clone();
    let mut add = |rdata| reply.answers.push(ResourceRecord::new(name.clone(), CLASS::IN, 60, rdata));
    let text = "x".repeat(250);
    match name.to_string().as_str() {
        "large.test" if !stream => reply.set_flags(PacketFlag::TRUNCATION),
        "large.test" | "long.test" => {
            (0..14).for_each(|_| add(RData::TXT(TXT::new().with_string(&text).unwrap())));
        }
        _ => add(RData::A(A { address: 0x0a00_0001 })),
    }
    reply.build_bytes_vec_compressed().unwrap()
}

#[tokio::test]
async fn datagrams_go_to_their_targets_and_answers_come_home_with_their_source() {
    let mut client = Client::start(HOSTS).await;
    let server = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let stranger = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let address = server.local_addr().unwrap();
    send(&mut client, 5, target("name.test", address.port()), b"question");
    let mut buffer = [0; 2048];
    let mut exits = Vec::new();
    for _ in 0..2 {
        let (count, exit) = loop {
            tokio::select! {
                received = server.recv_from(&mut buffer) => break received.unwrap(),
                () = client.turn() => {}
            }
        };
        assert_eq!(&buffer[..count], b"question");
        exits.push(exit);
        stranger.send_to(b"spam", exit).await.unwrap();
        lost(&mut client, "stranger", exits.len() as f64).await;
        // Longer than what a client may send, and than what fits home.
        server.send_to(&[8; 4_000], exit).await.unwrap();
        server.send_to(&[7; 2_000], exit).await.unwrap();
        let datagram = received(&mut client, 5).await;
        assert!(datagram.source == target("127.0.0.2", address.port()) && datagram.bytes == [7; 2_000]);
        send(&mut client, 5, target("name.test", address.port()), b"question");
    }
    assert_eq!(exits[0], exits[1], "one exchange has one port");
    lost(&mut client, "too_large", 2.0).await;
    counted(&mut client, "mizzle_exchanges", 1.0).await;
    counted(&mut client, "mizzle_datagrams_total{direction=\"home\"}", 2.0).await;
    assert!(!client.network.log().contains("127.0.0.2"));
}

#[tokio::test]
async fn what_the_policy_forbids_to_streams_it_forbids_to_datagrams() {
    let mut client = Client::start(HOSTS).await;
    let own = client.network.address;
    let own_host = own.ip().to_string();
    let server = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    for (flow, (host, port)) in (1..).zip([
        (own_host.as_str(), own.port()),
        ("127.0.0.2", 25),
        ("::ffff:127.0.0.2", port),
        ("0.0.0.0", port),
        ("224.0.0.251", 5353),
        ("255.255.255.255", port),
    ]) {
        send(&mut client, flow, target(host, port), b"x");
    }
    lost(&mut client, "policy", 6.0).await;
    send(&mut client, 9, target("127.0.0.2", port), b"allowed");
    let mut buffer = [0; 64];
    let count = loop {
        tokio::select! {
            received = server.recv_from(&mut buffer) => break received.unwrap().0,
            () = client.turn() => {}
        }
    };
    assert_eq!(&buffer[..count], b"allowed");
}

#[tokio::test]
async fn exchanges_of_one_session_are_bounded() {
    let mut client = Client::start(HOSTS).await;
    let server = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    for flow in 0..70 {
        send(&mut client, flow, target("127.0.0.2", port), b"x");
        for _ in 0..3 {
            client.turn().await;
        }
    }
    lost(&mut client, "exhausted", 6.0).await;
    counted(&mut client, "mizzle_exchanges", 64.0).await;
}

#[tokio::test]
async fn questions_of_one_session_are_bounded_and_each_has_its_answer_at_last() {
    let silent = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let mut client = Client::start(&format!("resolver = [\"{}\"]", silent.local_addr().unwrap())).await;
    for _ in 0..40 {
        send(&mut client, 53, Target::resolver(), &question("a.test", TYPE::A));
    }
    lost(&mut client, "exhausted", 8.0).await;
    counted(&mut client, "mizzle_questions_total{answer=\"failed\"}", 32.0).await;
    send(&mut client, 53, Target::resolver(), &question("a.test", TYPE::A));
    counted(&mut client, "mizzle_questions_total{answer=\"failed\"}", 33.0).await;
}

#[tokio::test]
async fn own_names_are_answered_by_the_exit_and_others_by_its_resolver() {
    let resolver = Resolver::start().await;
    let mut client = Client::start(&resolver.config()).await;
    let answers = |bytes: &[u8]| {
        let packet = Packet::parse(bytes).unwrap();
        assert_eq!((packet.rcode(), packet.questions.len()), (RCODE::NoError, 1));
        packet.answers.iter().map(|record| format!("{:?}", record.rdata)).collect::<Vec<_>>()
    };
    for (name, kind, found) in [
        ("Name.Test", TYPE::A, 1),
        ("name.test", TYPE::AAAA, 0),
        ("name.test", TYPE::TXT, 0),
        ("name.test", TYPE::HTTPS, 0),
        ("six.test", TYPE::AAAA, 1),
        ("six.test", TYPE::A, 0),
        ("2.0.0.127.in-addr.arpa", TYPE::PTR, 1),
    ] {
        let reply = ask(&mut client, &question(name, kind)).await;
        assert_eq!(answers(&reply).len(), found, "{name} {kind:?}");
    }
    assert_eq!(resolver.asked(), 0);
    counted(&mut client, "mizzle_questions_total{answer=\"own\"}", 7.0).await;
    // A private address in an answer is passed on: nobody connects to it unchecked.
    let reply = ask(&mut client, &question("other.test", TYPE::A)).await;
    assert_eq!(answers(&reply), ["A(A { address: 167772161 })"]);
    assert_eq!(resolver.asked(), 1);
    counted(&mut client, "mizzle_questions_total{answer=\"resolver\"}", 1.0).await;
}

#[tokio::test]
async fn what_must_not_be_asked_is_refused_and_what_is_no_question_is_dropped() {
    let resolver = Resolver::start().await;
    let mut client = Client::start(&resolver.config()).await;
    let own = client.network.address.ip().to_string();
    let reversed = own.rsplit('.').collect::<Vec<_>>().join(".");
    let mut chaos = question("version.bind", TYPE::TXT);
    *chaos.last_mut().unwrap() = 3;
    for message in [
        question(&format!("{reversed}.in-addr.arpa"), TYPE::PTR),
        question("1.0.0.224.in-addr.arpa", TYPE::PTR),
        question("a.test", TYPE::from(252)),
        chaos,
    ] {
        let reply = ask(&mut client, &message).await;
        assert_eq!(reply[3] & 15, RCODE::Refused as u8);
        assert_eq!(reply[12..], message[12..]);
    }
    let mut response = question("a.test", TYPE::A);
    response[2] |= 0x80;
    for bytes in [&response[..], b"no question", b""] {
        send(&mut client, 53, Target::resolver(), bytes);
    }
    lost(&mut client, "malformed", 3.0).await;
    assert_eq!(resolver.asked(), 0);
}

#[tokio::test]
async fn answers_that_fit_no_packet_are_cut_and_come_whole_by_a_stream() {
    let resolver = Resolver::start().await;
    let mut client = Client::start(&resolver.config()).await;
    for name in ["large.test", "long.test"] {
        let message = question(name, TYPE::TXT);
        let reply = ask(&mut client, &message).await;
        let cut = Packet::parse(&reply).unwrap();
        assert!(cut.has_flags(PacketFlag::TRUNCATION) && cut.answers.is_empty(), "{name}");
    }
    // Several questions on one stream, in one piece.
    let now = client.network.clock.now();
    let key = client.endpoint.open(now, Isolation::of(b"test"), Target::resolver(), &mut client.rng).unwrap();
    client.connected(key).await;
    let mut framed = Vec::new();
    for (name, kind) in [("large.test", TYPE::TXT), ("long.test", TYPE::TXT), ("name.test", TYPE::A)] {
        let message = question(name, kind);
        framed.extend((message.len() as u16).to_be_bytes());
        framed.extend(message);
    }
    let now = client.network.clock.now();
    assert_eq!(client.endpoint.write(now, key, &framed), Ok(framed.len()));
    client.endpoint.finish(now, key);
    let mut bytes = client.read_to_end(key).await;
    for found in [14, 14, 1] {
        let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        let rest = bytes.split_off(2 + length);
        assert_eq!(Packet::parse(&bytes[2..]).unwrap().answers.len(), found);
        bytes = rest;
    }
    assert!(bytes.is_empty());
    // What is no question ends a stream.
    let now = client.network.clock.now();
    let key = client.endpoint.open(now, Isolation::of(b"test"), Target::resolver(), &mut client.rng).unwrap();
    client.connected(key).await;
    let now = client.network.clock.now();
    client.endpoint.write(now, key, b"\0\x03abc").unwrap();
    assert_eq!(client.refusal(key).await, ResetReason::Closed);
    assert!(!matches!(client.endpoint.read(client.network.clock.now(), key, &mut [0; 8]), Ok(Read::Data(_))));
}

#[tokio::test]
async fn a_resolver_that_is_not_there_is_a_failure_and_a_reload_names_another() {
    let gone = UdpSocket::bind("127.0.0.2:0").await.unwrap().local_addr().unwrap();
    let mut client = Client::start(&format!("resolver = [\"{gone}\"]")).await;
    let message = question("other.test", TYPE::A);
    let reply = ask(&mut client, &message).await;
    assert_eq!(reply[3] & 15, RCODE::ServerFailure as u8);
    counted(&mut client, "mizzle_questions_total{answer=\"failed\"}", 1.0).await;
    let resolver = Resolver::start().await;
    let config = std::fs::read_to_string(client.network.config()).unwrap();
    let changed = config.replace(&gone.to_string(), &resolver.address.to_string());
    std::fs::write(client.network.config(), changed).unwrap();
    client.network.signal(rustix::process::Signal::HUP);
    client.network.wait_for_log("taken over: resolver").await;
    let reply = ask(&mut client, &message).await;
    assert_eq!(Packet::parse(&reply).unwrap().answers.len(), 1);
}
