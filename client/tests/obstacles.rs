//! What stands between a client and its network: a proxy that the network demands, and a captive portal.
//! (spec: CLIENT-5, CLIENT-6)

// Tests may.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use mizzle_client::{Client, Config, Status, Target};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::TestNetwork;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// Waits, up to a minute, for a status of which `wanted` holds.
async fn until(client: &Client, wanted: impl Fn(&Status) -> bool) -> Status {
    let begun = Instant::now();
    loop {
        let status = client.status().await.unwrap();
        if wanted(&status) {
            return status;
        }
        assert!(begun.elapsed() < MINUTE, "{:?}", status.reason);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn says(word: &'static str) -> impl Fn(&Status) -> bool {
    move |status| !status.connected && status.reason.as_ref().is_some_and(|reason| reason.contains(word))
}

async fn echo(client: &Client) {
    let mut stream = client.connect(Target::parse("echo.test", 7).unwrap(), b"").await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.unwrap();
    assert_eq!(text, b"hello");
}

/// A proxy for CONNECT that dials from an address of its own; it ends when this is dropped.
async fn proxy(address: SocketAddr) -> JoinSet<()> {
    let listener = TcpListener::bind(address).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = near.read_u8().await else { return };
                    head.push(byte);
                }
                let target = String::from_utf8(head).unwrap().split(' ').nth(1).unwrap().parse().unwrap();
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind(SocketAddr::new(PROXY_FROM, 0)).unwrap();
                let Ok(mut far) = socket.connect(target).await else { return };
                near.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    tasks
}

fn start_by(network: &TestNetwork, state: &Path, upstream: &str) -> impl Future<Output = Client> {
    let config =
        Config { upstream: Some(upstream.parse().unwrap()), ..Config::new(network.file.clone(), state) };
    async { Client::start(config).await.unwrap() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_waits_for_its_proxy_and_never_goes_past_it() {
    let network = TestNetwork::start(MINUTE).await;
    let folder = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = start_by(&network, folder.path(), &format!("http://ann:p%40ss@{address}")).await;
    let status = until(&client, says("upstream proxy")).await;
    let reason = status.reason.unwrap();
    assert!(reason.contains("takes no connection") && !reason.contains("ann"), "{reason}");
    assert!(client.ready().await.is_err() && network.peers().is_empty());

    let running = proxy(address).await;
    let entry = until(&client, |status| status.connected).await.entry;
    echo(&client).await;
    assert_eq!(network.peers().into_iter().collect::<Vec<_>>(), [PROXY_FROM]);

    // It fails in the middle: the client waits for it again, and no entry is blamed.
    drop(running);
    until(&client, says("upstream proxy")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _running = proxy(address).await;
    assert_eq!(until(&client, |status| status.connected).await.entry, entry);
    echo(&client).await;
    assert_eq!(network.peers().into_iter().collect::<Vec<_>>(), [PROXY_FROM]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_to_leave_by_that_this_computer_lacks_is_named() {
    let network = TestNetwork::start(MINUTE).await;
    let folder = tempfile::tempdir().unwrap();
    let lacking = Config { outbound: Some(LACKING), ..Config::new(network.file.clone(), folder.path()) };
    let client = Client::start(lacking).await.unwrap();
    let reason = until(&client, says("`outbound`")).await.reason.unwrap();
    assert!(reason.contains("this computer has") && !reason.contains("consensus"), "{reason}");
    assert!(!reason.contains(&LACKING.to_string()), "{reason}");
}

/// In front of a mirror: while `closed`, a portal; then the mirror. Takes note of what it was told first.
async fn gate(mirror: SocketAddr, closed: Arc<AtomicBool>, heard: Arc<Mutex<Vec<[u8; 3]>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let (closed, heard) = (Arc::clone(&closed), Arc::clone(&heard));
            tokio::spawn(async move {
                if !closed.load(Ordering::Relaxed) {
                    let mut far = TcpStream::connect(mirror).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    return;
                }
                let mut bytes = vec![0; 4096];
                let count = near.read(&mut bytes).await.unwrap();
                heard.lock().unwrap().push(bytes[..3].try_into().unwrap());
                near.write_all(b"HTTP/1.1 302 Found\r\nLocation: http://portal.test/\r\n\r\n").await.unwrap();
                near.shutdown().await.unwrap();
                // Closed only when the client has, or a reset could overtake the answer.
                while count > 0 && near.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_portal_is_named_and_the_client_goes_on_when_it_is_gone() {
    let network = TestNetwork::start(MINUTE).await;
    let folder = tempfile::tempdir().unwrap();
    let (closed, heard) = (Arc::new(AtomicBool::new(true)), Arc::default());
    let mut file = network.file.clone();
    for mirror in &mut file.mirrors {
        mirror.address = gate(mirror.address, Arc::clone(&closed), Arc::clone(&heard)).await;
    }
    let client = Client::start(Config::new(file, folder.path())).await.unwrap();
    let status = until(&client, says("captive portal")).await;
    assert!(status.reason.unwrap().contains("3 of 3"));
    assert!(client.ready().await.unwrap_err().to_string().contains("sign in"));
    {
        // TLS handshakes, and nothing in the clear.
        let heard = heard.lock().unwrap();
        assert!(heard.len() >= 3 && heard.iter().all(|bytes| *bytes == [0x16, 3, 1]), "{heard:?}");
    }
    closed.store(false, Ordering::Relaxed);
    until(&client, |status| status.connected).await;
    echo(&client).await;
}

const MINUTE: Duration = Duration::from_secs(60);
const PROXY_FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));
/// An address of documentation: no computer has it.
const LACKING: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
