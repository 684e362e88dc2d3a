//! Exits by country, in the whole library, against a small network on loopback whose one exit says that it is in
//! Germany. (spec: COUNTRY-2)

// Tests may.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use mizzle_client::{Client, Config, Country, ErrorKind, ExitsIn, Target};
use std::time::Duration;
use support::TestNetwork;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn country(code: &str) -> Country {
    code.parse().unwrap()
}

fn echo() -> Target {
    Target::parse("echo.test", 7).unwrap()
}

async fn works(client: &Client) {
    let mut stream = client.connect(echo(), b"").await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut returned = Vec::new();
    stream.read_to_end(&mut returned).await.unwrap();
    assert_eq!(returned, b"hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_country_without_exits_carries_nothing_and_the_status_tells_the_price() {
    let network = TestNetwork::start(Duration::from_secs(60)).await;
    let folder = tempfile::tempdir().unwrap();
    let config =
        Config { exit_country: Some(country("FR")), ..Config::new(network.file.clone(), folder.path()) };
    let client = Client::start(config).await.unwrap();
    client.ready().await.unwrap();
    // Nothing a person does brings it out elsewhere: streams, datagrams, look-ups.
    let error = client.connect(echo(), b"").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSuchExit);
    assert_eq!(error.to_string(), "no exit says that it is in FR; there are exits in DE");
    let datagrams = client.datagrams(b"").await.unwrap();
    let sent = datagrams.send(echo(), b"x".to_vec()).await;
    assert_eq!(sent.unwrap_err().kind(), ErrorKind::NoSuchExit);
    let found = client.look_up("echo.test", b"").await;
    assert_eq!(found.unwrap_err().kind(), ErrorKind::NoSuchExit);
    let status = client.status().await.unwrap();
    assert!(status.connected && status.sessions == 0);
    assert_eq!(status.exits, [ExitsIn { country: Some("DE".into()), exits: 1, weight: 1 }]);
    let price = status.exit_choice.unwrap();
    assert_eq!((price.country.as_str(), price.exits, price.bits), ("FR", 0, None));

    let there = client.with_exit_country(country("DE"));
    works(&there).await;
    let price = there.status().await.unwrap().exit_choice.unwrap();
    assert_eq!((price.exits, price.exits_in_all, price.share, price.bits), (1, 1, 1.0, Some(0.0)));
    // The other handle still means what it meant.
    assert_eq!(client.connect(echo(), b"").await.unwrap_err().kind(), ErrorKind::NoSuchExit);
}
