//! The whole library against a small network on loopback.

// Tests may.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use mizzle_client::{Client, Config, ErrorKind, Level, Status, Target};
use mizzle_link::{Clock, Sources};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::{TestNetwork, random};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MINUTE: Duration = Duration::from_secs(60);

async fn start(network: &TestNetwork, state: &Path) -> Client {
    let config = Config::new(network.file.clone(), state);
    Client::start(config).await.unwrap()
}

fn target(host: &str) -> Target {
    Target::parse(host, 7).unwrap()
}

async fn status(client: &Client) -> Status {
    client.status().await.unwrap()
}

async fn echo(client: &Client, bytes: &[u8]) {
    let stream = client.connect(target("echo.test"), b"").await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut returned = Vec::new();
    let sending = async {
        writer.write_all(bytes).await.unwrap();
        // The other direction goes on after this one has ended.
        writer.shutdown().await.unwrap();
    };
    let (read, ()) = tokio::join!(reader.read_to_end(&mut returned), sending);
    read.unwrap();
    assert!(returned == bytes, "{} of {} bytes came back", returned.len(), bytes.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_comes_back_through_the_network() {
    let network = TestNetwork::start(MINUTE).await;
    let folder = tempfile::tempdir().unwrap();
    let client = start(&network, folder.path()).await;
    client.ready().await.unwrap();
    echo(&client, b"").await;
    echo(&client, b"hello").await;
    echo(&client, &random(60_000)).await;

    let pong = client.ping(None).await.unwrap();
    assert!(pong.slot + pong.delays <= pong.arrival && pong.arrival < pong.home);

    let now = status(&client).await;
    assert!(now.connected && now.reason.is_none());
    assert!(now.entry_since.is_some() && now.consensus_valid_until.is_some());
    assert_eq!((now.relays, now.connections), (7, 1));

    // Which slots are cover is drawn, so how soon there was a loop and a drop is chance.
    let waited = Instant::now();
    loop {
        let now = status(&client).await;
        if now.loops_returned > 0 && now.drops_sent > 0 {
            break assert!(now.loops_returned <= now.loops_sent && now.last_loop_returned.is_some());
        }
        assert!(waited.elapsed() < MINUTE, "{now:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_say_what_happened() {
    let network = TestNetwork::start(MINUTE).await;
    let folder = tempfile::tempdir().unwrap();
    let client = start(&network, folder.path()).await;
    for (host, kind) in
        [("refused.test", ErrorKind::ConnectionRefused), ("nowhere.test", ErrorKind::HostNotFound)]
    {
        assert_eq!(client.connect(target(host), b"").await.unwrap_err().kind(), kind);
    }
    // Two clients in one state directory would undo each other's choices.
    let config = Config::new(network.file.clone(), folder.path());
    assert_eq!(Client::start(config).await.unwrap_err().kind(), ErrorKind::Storage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_does_not_read_stops_nobody_else() {
    let network = TestNetwork::start(MINUTE).await;
    let folder = tempfile::tempdir().unwrap();
    let client = start(&network, folder.path()).await;
    let mut lazy = client.connect(target("echo.test"), b"").await.unwrap();
    let (mut kept, sent) = (Vec::new(), random(50_000));
    lazy.write_all(&sent).await.unwrap();
    echo(&client, &random(5_000)).await;
    lazy.shutdown().await.unwrap();
    lazy.read_to_end(&mut kept).await.unwrap();
    assert!(kept == sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_client_keeps_its_entry_and_starts_from_the_cached_document() {
    let network = TestNetwork::start(MINUTE).await;
    let folder = tempfile::tempdir().unwrap();
    let client = start(&network, folder.path()).await;
    client.ready().await.unwrap();
    let before = status(&client).await;
    drop(client);
    network.withhold_documents();
    let started = Instant::now();
    let client = loop {
        // The first one lets go of its directory a moment after it was dropped.
        let config = Config::new(network.file.clone(), folder.path());
        match Client::start(config).await {
            Ok(client) => break client,
            Err(error) => assert!(started.elapsed() < Duration::from_secs(3), "{error}"),
        }
        tokio::task::yield_now().await;
    };
    client.ready().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(3));
    let after = status(&client).await;
    assert_eq!((before.entry, before.entry_since), (after.entry, after.entry_since));
    echo(&client, b"hello").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_of_the_three_serves_when_the_entry_is_gone_and_streams_go_on() {
    let mut network = TestNetwork::start(MINUTE).await;
    let folder = tempfile::tempdir().unwrap();
    let client = start(&network, folder.path()).await;
    let mut stream = client.connect(target("echo.test"), b"").await.unwrap();
    let first = status(&client).await.entry.unwrap();
    network.kill(&first);
    let gone = Instant::now();
    while status(&client).await.entry.is_none_or(|entry| entry == first) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Not at once: an entry that restarts is still the entry.
    assert!(gone.elapsed() >= Duration::from_secs(9));
    client.connected().await.unwrap();
    assert!(gone.elapsed() < Duration::from_secs(15));
    let mut answer = [0; 5];
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_welcomes_and_hangs_up_gives_way_and_is_not_dialled_in_a_loop() {
    let network = TestNetwork::start(MINUTE).await;
    let folder = tempfile::tempdir().unwrap();
    let client = start(&network, folder.path()).await;
    client.ready().await.unwrap();
    let first = status(&client).await.entry.unwrap();
    network.make_rude(&first);
    let gone = Instant::now();
    while status(&client).await.entry.is_none_or(|entry| entry == first) {
        assert!(gone.elapsed() < Duration::from_secs(25));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    echo(&client, b"hello").await;
    let connections = status(&client).await.connections;
    assert!((3..25).contains(&connections), "{connections} links");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_document_has_ended_refuses_until_there_is_another() {
    let network = TestNetwork::start(Duration::from_secs(4)).await;
    let folder = tempfile::tempdir().unwrap();
    let client = start(&network, folder.path()).await;
    let mut stream = client.connect(target("echo.test"), b"").await.unwrap();
    network.withhold_documents();
    // Ends with the document, not later.
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::NetworkDown);
    let error = client.connect(target("echo.test"), b"").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoNetwork);
    assert!(error.to_string().contains("consensus"), "{error}");
    let shown = status(&client).await;
    assert!(!shown.connected && shown.reason.is_some());

    // One was missed in between.
    network.publish(3, MINUTE);
    tokio::time::timeout(Duration::from_secs(15), client.connected()).await.unwrap().unwrap();
    echo(&client, b"hello").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_load_of_an_application_leaves_a_slot_empty() {
    let network = TestNetwork::start(MINUTE).await;
    let folder = tempfile::tempdir().unwrap();
    let client = start(&network, folder.path()).await;
    let data = random(60_000);
    // Many at once, both ways: far more than the slots carry.
    tokio::join!(echo(&client, &data), echo(&client, &data), echo(&client, &data), echo(&client, &data));
    let now = status(&client).await;
    assert!(now.payload_sent > 50, "{now:?}");
    assert_eq!(now.slots_empty, 0, "{now:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_lifts_the_step_and_the_entry_is_asked_for_it() {
    let network = TestNetwork::start(MINUTE).await;
    let folder = tempfile::tempdir().unwrap();
    let client = start(&network, folder.path()).await;
    client.ready().await.unwrap();
    let before = status(&client).await;
    assert_eq!((before.level.as_str(), before.step, before.rises_left), ("balanced", 0, Some(6)));
    assert_eq!((before.up.cells_per_second, before.down.cells_per_second), (10.0, 25.0));
    echo(&client, &random(60_000)).await;
    let after = status(&client).await;
    assert!(after.step >= 1 && after.rises_left < Some(6), "{after:?}");
    assert!(after.up.cells_per_second > before.up.cells_per_second, "{after:?}");
    // One level is as good as another to the streams that are open.
    let stream = client.connect(target("echo.test"), b"").await.unwrap();
    client.set_level(Level::Strong, None).unwrap();
    let waited = Instant::now();
    while status(&client).await.level != "strong" {
        assert!(waited.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let strong = status(&client).await;
    assert_eq!((strong.up.cells_per_second, strong.connections, strong.streams), (50.0, 1, 1), "{strong:?}");
    assert!(client.set_level(Level::Strong, Some(1)).unwrap_err().to_string().contains("no step 1"));
    drop(stream);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_first_comes_back_as_if_it_was_written() {
    let network = TestNetwork::start(MINUTE).await;
    let folder = tempfile::tempdir().unwrap();
    let client = start(&network, folder.path()).await;
    let mut stream = client.connect_with(target("echo.test"), b"", b"first").await.unwrap();
    stream.write_all(b" second").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "first second");
    let much = vec![0; mizzle_client::FIRST_BYTES + 1];
    let error = client.connect_with(target("echo.test"), b"", &much).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_identity_takes_new_sessions() {
    let network = TestNetwork::start(MINUTE).await;
    let folder = tempfile::tempdir().unwrap();
    let client = start(&network, folder.path()).await;
    let first = client.connect(target("echo.test"), b"").await.unwrap();
    let second = client.connect(target("echo.test"), b"").await.unwrap();
    assert_eq!(status(&client).await.sessions, 1);
    client.new_identity().await.unwrap();
    let third = client.connect(target("echo.test"), b"").await.unwrap();
    let now = status(&client).await;
    assert_eq!((now.sessions, now.streams), (2, 3));
    drop((first, second, third));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_stopped_has_counted_every_packet() {
    let network = TestNetwork::start(MINUTE).await;
    let folder = tempfile::tempdir().unwrap();
    let client = start(&network, folder.path()).await;
    echo(&client, &random(20_000)).await;
    let mut open = client.connect(target("echo.test"), b"").await.unwrap();
    let last = client.stop().await.unwrap();
    assert_eq!(last.packets_out, last.loops_sent + last.drops_sent + last.payload_sent, "{last:?}");
    assert_eq!(last.packets_in, last.packets_taken + last.packets_refused + last.packets_dropped, "{last:?}");
    assert_eq!(network.packets_from_clients(), last.packets_out);
    assert!(!last.connected && last.reason.unwrap().contains("stopped"));
    // Nothing goes on by itself.
    assert!(open.read_u8().await.is_err());
    assert_eq!(client.connect(target("echo.test"), b"").await.unwrap_err().kind(), ErrorKind::NoNetwork);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_are_judged_by_the_clock_that_the_computer_was_set_to() {
    static AHEAD: AtomicU64 = AtomicU64::new(0);
    let sources = Sources {
        monotonic: || SystemTime::now().duration_since(UNIX_EPOCH).unwrap(),
        wall: || {
            let real = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            real + Duration::from_secs(AHEAD.load(Ordering::Relaxed))
        },
    };
    let network = TestNetwork::start(MINUTE).await;
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new(network.file.clone(), folder.path());
    let client = Client::start_by(Clock::from_sources(sources), config).await.unwrap();
    echo(&client, b"hello").await;
    let reason = async |wanted: fn(&Status) -> bool| {
        let waited = Instant::now();
        loop {
            let now = status(&client).await;
            if wanted(&now) {
                return now;
            }
            assert!(waited.elapsed() < Duration::from_secs(20), "{now:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    AHEAD.store(3_600, Ordering::Relaxed);
    let now =
        reason(|now| !now.connected && now.reason.as_ref().is_some_and(|why| why.contains("tried"))).await;
    assert!(now.reason.unwrap().contains("this computer's clock"));
    AHEAD.store(0, Ordering::Relaxed);
    reason(|now| now.connected).await;
    echo(&client, b"hello again").await;
}
