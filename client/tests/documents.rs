//! Where a client's documents come from, which it refuses, and what it makes of clocks that are wrong.
//! (spec: DIR-19, DOC-8, DOC-12, CLIENT-8)

// Tests may.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use mizzle_client::{Client, Config, ErrorKind, Status, Target};
use mizzle_link::{Clock, Sources};
use mizzle_protocol::consensus::{DocumentHash, ProtocolNumber};
use mizzle_protocol::path::Parameters;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::{Edition, TestNetwork};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Waits, up to a minute, for a status of which `wanted` holds.
async fn until(client: &Client, wanted: impl Fn(&Status) -> bool) -> Status {
    let begun = Instant::now();
    loop {
        let status = client.status().await.unwrap();
        if wanted(&status) {
            return status;
        }
        assert!(begun.elapsed() < MINUTE, "{status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn echo(client: &Client) {
    let mut stream = client.connect(Target::parse("echo.test", 7).unwrap(), b"").await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.unwrap();
    assert_eq!(text, b"hello");
}

async fn start(network: &TestNetwork, state: &Path) -> Client {
    Client::start(Config::new(network.file.clone(), state)).await.unwrap()
}

/// The document of this epoch, that only the exit shows.
fn by_exit(epoch: u64, previous: Option<DocumentHash>) -> Edition {
    Edition { epoch, life: MINUTE, previous, required: Vec::new(), by_entries: false }
}

fn refused(status: &Status, fault: &str) -> bool {
    status.documents_refused.contains_key(fault)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_entry_withholds_comes_through_the_mixnet() {
    // So old that a newer one is due.
    let network = TestNetwork::start(DUE).await;
    let folder = tempfile::tempdir().unwrap();
    let client = start(&network, folder.path()).await;
    client.ready().await.unwrap();
    network.withhold_documents();
    network.show(by_exit(2, Some(network.first)));
    let status = until(&client, |status| status.consensus_epoch == Some(2)).await;
    // Each question has a session that nothing else is in.
    assert!(status.sharing.len() >= 2, "{:?}", status.sharing);
    assert!(status.sharing.iter().all(|sharing| sharing.sessions == 1), "{:?}", status.sharing);
    echo(&client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_that_an_exit_shows_is_seen_and_not_followed() {
    let network = TestNetwork::start(DUE).await;
    let folder = tempfile::tempdir().unwrap();
    let client = start(&network, folder.path()).await;
    client.ready().await.unwrap();
    network.show(by_exit(1, Some(DocumentHash([7; 32]))));
    let status = until(&client, |status| refused(status, "fork")).await;
    assert!(status.connected && status.consensus_epoch == Some(1), "{status:?}");
    // And so is one that follows another than the one held.
    network.show(by_exit(2, Some(DocumentHash([7; 32]))));
    let status = until(&client, |status| refused(status, "broken-chain")).await;
    assert!(status.connected && status.consensus_epoch == Some(1), "{status:?}");
    echo(&client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_demands_more_than_this_version_speaks_is_left_to_newer_ones() {
    let network = TestNetwork::start(Duration::from_secs(6)).await;
    let folder = tempfile::tempdir().unwrap();
    let client = start(&network, folder.path()).await;
    client.ready().await.unwrap();
    let required = vec![ProtocolNumber { protocol: 2, version: 9 }];
    network.show(Edition { epoch: 5, life: MINUTE, previous: None, required, by_entries: true });
    // What it holds it uses until it ends.
    let status = until(&client, |status| refused(status, "not-spoken")).await;
    assert!(status.connected, "{status:?}");
    let error = tokio::time::timeout(MINUTE, client.outdated()).await.unwrap();
    assert!(error.kind() == ErrorKind::Outdated && error.to_string().contains("packet/9"), "{error}");
    assert_eq!(client.ready().await.unwrap_err().kind(), ErrorKind::Outdated);
}

/// What a client whose clock says this says of it, when it has asked all mirrors in vain.
async fn refusal(network: &TestNetwork, wall: Wall) -> Status {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::from_sources(Sources { monotonic, wall });
    let config = Config::new(network.file.clone(), folder.path());
    let client = Client::start_by(clock, config).await.unwrap();
    let error = client.ready().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoNetwork);
    let status = client.status().await.unwrap();
    assert!(!status.connected && status.reason == Some(error.to_string()), "{error}");
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_wrong_by_days_or_hours_is_named_with_its_way_and_how_much() {
    let network = TestNetwork::start(MINUTE).await;
    let cases: [(Wall, i64, &str); 4] = [
        (|| now() + 2 * DAY, 2 * 86_400, "about 2 days ahead"),
        (|| now() - 2 * DAY, -2 * 86_400, "about 2 days behind"),
        (|| now() + 2 * HOUR, 7_200, "about 2 h ahead"),
        (|| now() - 2 * HOUR, -7_200, "about 2 h behind"),
    ];
    for (wall, seconds, words) in cases {
        let status = refusal(&network, wall).await;
        let (reason, clock) = (status.reason.unwrap(), status.clock.unwrap());
        // A second may pass between two looks at the clock, and a span is cut to what is whole.
        assert!(clock.seconds.abs_diff(seconds) <= 2 && clock.agree == 3, "{clock:?}");
        assert_eq!(clock.proven, seconds < 0);
        let nearly = words.replace("2 days", "1 days 23 h").replace("2 h", "119 min");
        let exact = reason.contains(words) || reason.contains(&nearly) || reason.contains("days 0");
        assert!(exact && reason.contains("set date and time"), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_documents_live_for_hours_a_clock_two_hours_ahead_works_and_is_stated() {
    let network = TestNetwork::start_with(Parameters::default(), 3 * HOUR).await;
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::from_sources(Sources { monotonic, wall: || now() + 2 * HOUR });
    let config = Config::new(network.file.clone(), folder.path());
    let client = Client::start_by(clock, config).await.unwrap();
    client.ready().await.unwrap();
    echo(&client).await;
    let status = client.status().await.unwrap();
    let clock = status.clock.unwrap();
    assert!(status.connected && clock.seconds.abs_diff(7_200) <= 2 && !clock.proven, "{clock:?}");
}

/// Reads a clock on a wall.
type Wall = fn() -> Duration;

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn monotonic() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

const MINUTE: Duration = Duration::from_secs(60);
/// The rest of the life of a document whose successor is due.
const DUE: Duration = Duration::from_secs(25);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
