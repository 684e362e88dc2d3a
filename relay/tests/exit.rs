//! Streams through a real exit: the test plays the client and all mixes, and the servers behind the exit.
//! (spec: EXIT-1 to EXIT-4)

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::PATIENCE;
use common::client::Client as Played;
use mizzle_protocol::consensus::Signed;
use mizzle_protocol::endpoint::Isolation;
use mizzle_protocol::id::to_hex;
use mizzle_protocol::stream::ResetReason;
use mizzle_protocol::wire::target::Target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

struct Client;

impl Client {
    async fn start() -> Played {
        Played::start("hosts = { \"name.test\" = \"127.0.0.2\" }").await
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
    // What went to the internet and came from there counts for the quota, beside what is on links.
    for direction in ["out", "home"] {
        let name = format!("mizzle_internet_bytes_total{{direction=\"{direction}\"}}");
        assert_eq!(client.network.count(&name).await, 60_000.0, "{direction}");
    }
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

#[tokio::test]
async fn what_a_stream_to_the_exits_documents_is_answered_is_what_its_port_answers() {
    let mut client = Client::start().await;
    let mut ask = async |paths: &[String]| {
        let now = client.network.clock.now();
        let isolation = Isolation::of(b"directory");
        let key = client.endpoint.open(now, isolation, Target::documents(), &mut client.rng).unwrap();
        client.connected(key).await;
        let requests: String = paths.iter().map(|path| format!("GET {path} HTTP/1.1\r\n\r\n")).collect();
        let now = client.network.clock.now();
        assert_eq!(client.endpoint.write(now, key, requests.as_bytes()), Ok(requests.len()));
        client.endpoint.finish(now, key);
        let mut rest = client.read_to_end(key).await;
        let mut answers = Vec::new();
        for _ in paths {
            let end = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
            let mut body = rest.split_off(end + 4);
            let head = String::from_utf8(rest).unwrap();
            let field =
                |name: &str| head.split(name).nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
            assert_eq!(field("Mizzle-Epoch: "), "1");
            assert!(field("Mizzle-Time: ").parse::<u64>().unwrap() > 1_700_000_000);
            rest = body.split_off(field("Content-Length: ").parse().unwrap());
            answers.push((head.split(' ').nth(1).unwrap().to_owned(), body));
        }
        answers
    };
    let [(status, body)] = ask(&["/consensus".to_owned()]).await.try_into().unwrap();
    let newest = Signed::from_bytes(&body).unwrap();
    let consensus = newest.read_unverified().unwrap();
    assert!(status == "200" && !consensus.relays.is_empty());
    // The one before lists nobody, so that no diff from there is smaller than the document.
    let before = consensus.previous.unwrap();
    let diffs = [newest.hash(), before].map(|hash| format!("/consensus/diff/{}", to_hex(&hash.0)));
    let answers = ask(&diffs).await;
    let statuses: Vec<_> = answers.iter().map(|(status, _)| status.as_str()).collect();
    assert_eq!(statuses, ["304", "404"]);
}
