//! A client whose owner lets it rest. (spec: CLIENT-7)

// Tests may.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use mizzle_client::{Client, Config, ErrorKind, Hold, Target};
use std::time::Duration;
use support::TestNetwork;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MINUTE: Duration = Duration::from_secs(60);

fn target() -> Target {
    Target::parse("echo.test", 7).unwrap()
}

fn hold(wakes: bool) -> Option<Hold> {
    Some(Hold { reason: "the money is gone".into(), wakes })
}

async fn until(client: &Client, connected: bool) {
    let soon = async {
        while client.status().await.unwrap().connected != connected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // Well before the document ends, which would end the link, too.
    tokio::time::timeout(Duration::from_secs(15), soon).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_rest_nothing_is_sent_and_streams_are_refused_with_the_reason() {
    let network = TestNetwork::start(MINUTE).await;
    let folder = tempfile::tempdir().unwrap();
    let config = Config { hold: hold(false), ..Config::new(network.file.clone(), folder.path()) };
    let client = Client::start(config).await.unwrap();
    while client.ready().await.unwrap_err().to_string() != "the money is gone" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(client.status().await.unwrap().bytes_out, 0);

    client.hold(None);
    client.connected().await.unwrap();
    let mut stream = client.connect(target(), b"secret").await.unwrap();
    stream.write_all(b"x").await.unwrap();
    stream.read_exact(&mut [0]).await.unwrap();
    let status = client.status().await.unwrap();
    assert_eq!((status.sharing.len(), status.sharing[0].streams), (1, 1));
    assert!(status.bytes_out > 4_000 && status.bytes_in > 4_000 && status.replies > status.replies_empty);

    client.hold(hold(false));
    until(&client, false).await;
    assert!(stream.read_u8().await.is_err(), "the stream went on");
    let error = client.connect(target(), b"").await.unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::NoNetwork, "the money is gone"));
    // The link has ended: no slot passes any more.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let before = client.status().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = client.status().await.unwrap();
    assert_eq!((before.bytes_out, before.bytes_in), (after.bytes_out, after.bytes_in));
    assert_eq!(after.reason.as_deref(), Some("the money is gone"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeper_is_woken_by_the_next_stream_and_by_nothing_else() {
    let network = TestNetwork::start(MINUTE).await;
    let folder = tempfile::tempdir().unwrap();
    let client = Client::start(Config::new(network.file.clone(), folder.path())).await.unwrap();
    client.connected().await.unwrap();
    let uses = client.uses();
    client.hold(hold(true));
    until(&client, false).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!client.status().await.unwrap().connected && client.uses() == uses);
    client.connect(target(), b"").await.unwrap();
    assert!(client.status().await.unwrap().connected && client.uses() == uses + 1);
}
