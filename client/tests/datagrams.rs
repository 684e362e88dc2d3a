//! Datagrams and look-ups of the library, against a small network on loopback.

// Tests may.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use mizzle_client::{Client, Config, ErrorKind, Target};
use std::net::IpAddr;
use std::time::Duration;
use support::{ECHO_ADDRESS, TestNetwork, random};

const MINUTE: Duration = Duration::from_secs(60);

struct Fixture {
    network: TestNetwork,
    client: Client,
    _folder: tempfile::TempDir,
}

async fn start() -> Fixture {
    let network = TestNetwork::start(MINUTE).await;
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new(network.file.clone(), folder.path());
    let client = Client::start(config).await.unwrap();
    client.ready().await.unwrap();
    Fixture { network, client, _folder: folder }
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn echo() -> Target {
    Target::parse("echo.test", 7).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_come_back_whole_to_whom_they_belong() {
    let fixture = start().await;
    let Fixture { network, client, .. } = &fixture;
    let (one, other) = (client.datagrams(b"one").await.unwrap(), client.datagrams(b"other").await.unwrap());
    for bytes in [Vec::new(), b"hello".to_vec(), random(1_200)] {
        for datagrams in [&one, &other] {
            datagrams.send(echo(), bytes.clone()).await.unwrap();
        }
        for datagrams in [&one, &other] {
            let received = tokio::time::timeout(MINUTE, datagrams.receive()).await.unwrap();
            assert!(received == Some((ECHO_ADDRESS, bytes.clone())));
        }
    }
    let seen = network.datagrams();
    let sessions: std::collections::BTreeSet<_> = seen.iter().map(|(session, ..)| *session).collect();
    assert_eq!(sessions.len(), 2, "two isolations share a session");
    // Numbers that the exit sees say nothing beyond the session.
    assert!(seen.iter().all(|(_, flow, _)| *flow == 0), "flows are told apart across sessions");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_sent_is_refused_and_who_was_not_asked_is_not_heard() {
    let Fixture { network: _network, client, _folder } = start().await;
    let datagrams = client.datagrams(b"").await.unwrap();
    assert_eq!(datagrams.send(echo(), random(3_000)).await.unwrap_err().kind(), ErrorKind::TooLarge);
    datagrams.send(Target::parse("192.0.2.1", 7).unwrap(), b"x".to_vec()).await.unwrap();
    let dropped = async {
        while client.status().await.unwrap().datagrams_dropped == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(MINUTE, dropped).await.unwrap();
    // Nothing else had come, and nothing will.
    drop(client);
    assert!(tokio::time::timeout(MINUTE, datagrams.receive()).await.unwrap().is_none());
    assert_eq!(datagrams.send(echo(), Vec::new()).await.unwrap_err().kind(), ErrorKind::Exhausted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_looked_up_by_the_exit_and_failures_say_which() {
    let fixture = start().await;
    let Fixture { network, client, .. } = &fixture;
    let look_up = async |name: &str| client.look_up(name, b"").await;
    assert_eq!(look_up("Two.Test.").await.unwrap(), addresses(&["192.0.2.1", "2001:db8::1"]));
    assert_eq!(look_up("four.test").await.unwrap(), addresses(&["192.0.2.1"]));
    assert_eq!(look_up("[2001:db8::9]").await.unwrap(), addresses(&["2001:db8::9"]));
    for (name, kind) in [
        ("none.test", ErrorKind::HostNotFound),
        ("nowhere.test", ErrorKind::HostNotFound),
        ("broken.test", ErrorKind::HostNotFound),
        ("refused.test", ErrorKind::NotAllowed),
        ("not a name", ErrorKind::HostNotFound),
    ] {
        assert_eq!(look_up(name).await.unwrap_err().kind(), kind, "{name}");
    }
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(client.look_up_address(address("192.0.2.1"), b"").await.unwrap(), "two.test");
    for odd in ["192.0.2.2", "192.0.2.3", "2001:db8::1"] {
        let refused = client.look_up_address(address(odd), b"").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::HostNotFound, "{odd}");
    }
    let sessions: std::collections::BTreeSet<_> =
        network.datagrams().into_iter().map(|(session, ..)| session).collect();
    assert_eq!(sessions.len(), 1, "look-ups of one isolation share a session");
    look_up("four.test").await.unwrap();
    client.look_up("four.test", b"other").await.unwrap();
    let sessions: std::collections::BTreeSet<_> =
        network.datagrams().into_iter().map(|(session, ..)| session).collect();
    assert_eq!(sessions.len(), 2, "look-ups of two isolations share a session");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_too_large_for_a_datagram_comes_by_a_stream() {
    let fixture = start().await;
    let client = &fixture.client;
    assert_eq!(client.look_up("many.test", b"").await.unwrap().len(), 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_questions_are_asked_again_and_a_silent_resolver_is_a_time_out() {
    let fixture = start().await;
    let Fixture { network, client, .. } = &fixture;
    network.lose_questions(2);
    assert_eq!(client.look_up("two.test", b"").await.unwrap(), addresses(&["192.0.2.1", "2001:db8::1"]));
    network.lose_questions(usize::MAX);
    let before = network.datagrams().len();
    assert_eq!(client.look_up("two.test", b"").await.unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(network.datagrams().len() - before, 6, "three tries of two questions");
}
