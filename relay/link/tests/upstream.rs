//! The way through a proxy, against a small one that is the test, and past it never. (spec: LINK-14)

#![allow(clippy::unwrap_used, clippy::panic)]

use mizzle_link::{Acceptor, Alpn, Error, Fault, Identity, Upstream, Way, dial_by, seeded_rng};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// How a proxy behaves.
#[derive(Clone, Copy)]
enum Manner {
    /// Connects whoever asks.
    Open,
    /// Connects whoever says `ann` and `p@ss`.
    Locked,
    /// Answers with these bytes, and closes; nothing else is asked of it.
    Says(&'static [u8]),
    /// Takes connections, and says nothing.
    Hangs,
}

/// A relay that counts connections by whether they came from the proxy's own address.
async fn relay() -> (SocketAddr, Identity, Arc<AtomicUsize>) {
    let identity = Identity::generate(&mut seeded_rng().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = Acceptor::new(&identity, &Alpn::ALL).unwrap();
    let direct = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&direct);
    tokio::spawn(async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            if peer.ip().to_string() != PROXY_FROM {
                count.fetch_add(1, Ordering::Relaxed);
            }
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut accepted = acceptor.accept(stream).await.unwrap();
                accepted.stream.write_all(b"hello").await.unwrap();
                accepted.stream.shutdown().await.unwrap();
            });
        }
    });
    (address, identity, direct)
}

async fn proxy(http: bool, manner: Manner) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                // A dialler that gives up ends it.
                let _ =
                    if http { serve_http(stream, manner).await } else { serve_socks(stream, manner).await };
            });
        }
    });
    address
}

async fn serve_http(mut stream: TcpStream, manner: Manner) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    match manner {
        Manner::Says(bytes) => return stream.write_all(bytes).await,
        Manner::Hangs => return std::future::pending().await,
        // "ann:p@ss", coded by another program.
        Manner::Locked if !head.contains("\r\nProxy-Authorization: Basic YW5uOnBAc3M=\r\n") => {
            return stream.write_all(b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\n").await;
        }
        Manner::Locked | Manner::Open => {}
    }
    let target: SocketAddr =
        head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(head.contains(&format!("\r\nHost: {target}\r\n")), "{head}");
    match reach(target).await {
        Ok(far) => {
            stream.write_all(b"HTTP/1.0 200 Yes\r\nX: y\r\n\r\n").await?;
            carry(stream, far).await
        }
        Err(_) => stream.write_all(b"HTTP/1.1 502 No\r\n\r\n").await,
    }
}

async fn serve_socks(mut stream: TcpStream, manner: Manner) -> std::io::Result<()> {
    assert_eq!(stream.read_u8().await?, 5);
    let mut methods = vec![0; stream.read_u8().await?.into()];
    stream.read_exact(&mut methods).await?;
    match manner {
        Manner::Says(bytes) => return stream.write_all(bytes).await,
        Manner::Hangs => return std::future::pending().await,
        Manner::Locked if methods.contains(&2) => {
            stream.write_all(&[5, 2]).await?;
            let mut said = [0; 10];
            stream.read_exact(&mut said).await?;
            let right = said == *b"\x01\x03ann\x04p@ss";
            stream.write_all(&[1, u8::from(!right)]).await?;
        }
        Manner::Locked => return stream.write_all(&[5, 0xFF]).await,
        Manner::Open => stream.write_all(&[5, 0]).await?,
    }
    let mut request = [0; 10];
    stream.read_exact(&mut request).await?;
    let [5, 1, 0, 1, a, b, c, d, high, low] = request else { panic!("{request:?}") };
    match reach(SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])))).await {
        Ok(far) => {
            // A name where most write an address.
            stream.write_all(b"\x05\x00\x00\x03\x04host\x00\x01").await?;
            carry(stream, far).await
        }
        Err(_) => stream.write_all(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]).await,
    }
}

async fn reach(target: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(PROXY_FROM.parse().unwrap(), 0))?;
    socket.connect(target).await
}

async fn carry(mut near: TcpStream, mut far: TcpStream) -> std::io::Result<()> {
    tokio::io::copy_bidirectional(&mut near, &mut far).await.map(drop)
}

fn way(text: &str) -> Way {
    Way { source: None, upstream: Some(text.parse::<Upstream>().unwrap()) }
}

async fn greet(way: &Way, address: SocketAddr, identity: &Identity) -> Result<Vec<u8>, Error> {
    let mut link = dial_by(way, address, identity.id(), None, Alpn::Cells).await?;
    let mut text = Vec::new();
    link.read_to_end(&mut text).await.unwrap();
    Ok(text)
}

fn fault(result: Result<Vec<u8>, Error>) -> Fault {
    match result {
        Err(Error::Upstream(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_link_goes_through_the_proxy_with_and_without_a_password() {
    let (address, identity, direct) = relay().await;
    for (http, scheme) in [(true, "http"), (false, "socks5")] {
        let open = proxy(http, Manner::Open).await;
        let locked = proxy(http, Manner::Locked).await;
        // Credentials that nobody asks for do no harm; a name is the system's to resolve.
        for text in [
            format!("{scheme}://{open}"),
            format!("{scheme}://localhost:{}", open.port()),
            format!("{scheme}://ann:p%40ss@{open}"),
            format!("{scheme}://ann:p%40ss@{locked}"),
        ] {
            assert_eq!(greet(&way(&text), address, &identity).await.unwrap(), b"hello", "{text}");
        }
        for text in [format!("{scheme}://{locked}"), format!("{scheme}://ann:no!!@{locked}")] {
            assert_eq!(fault(greet(&way(&text), address, &identity).await), Fault::Credentials, "{text}");
        }
        let by_source =
            Way { source: Some("127.0.0.3".parse().unwrap()), ..way(&format!("{scheme}://{open}")) };
        assert_eq!(greet(&by_source, address, &identity).await.unwrap(), b"hello");
    }
    assert_eq!(direct.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_proxy_that_does_not_connect_is_named_and_nothing_goes_past_it() {
    let (address, identity, direct) = relay().await;
    // Bound, so that nobody else gets it meanwhile, and not listened at.
    let closed_port = TcpSocket::new_v4().unwrap();
    closed_port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = closed_port.local_addr().unwrap();
    for (http, scheme, answers) in [
        (
            true,
            "http",
            [
                (&b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"[..], Fault::Refused(403)),
                (b"HTTP/1.1 302 Found\r\nLocation: http://portal.test/\r\n\r\n", Fault::Refused(302)),
                (b"SSH-2.0-x\r\n", Fault::NoProxy),
                (b"HTTP/1.1 2", Fault::HungUp),
            ],
        ),
        (
            false,
            "socks5",
            [
                (&b"\x05\x00\x05\x02\x00\x01\0\0\0\0\0\0"[..], Fault::Refused(2)),
                (b"\x05\xFF", Fault::Credentials),
                (b"HTTP/1.1 400 Bad\r\n\r\n", Fault::NoProxy),
                (b"\x05", Fault::HungUp),
            ],
        ),
    ] {
        for (bytes, expected) in answers {
            let proxy = proxy(http, Manner::Says(bytes)).await;
            let text = format!("{scheme}://ann:p%40ss@{proxy}");
            let result = greet(&way(&text), address, &identity).await;
            let said = format!("{:?} {}", result, result.as_ref().unwrap_err());
            assert!(
                said.contains("upstream proxy") && !said.contains("ann") && !said.contains("p@ss"),
                "{said}"
            );
            assert_eq!(fault(result), expected);
        }
        let result = greet(&way(&format!("{scheme}://{closed}")), address, &identity).await;
        assert_eq!(fault(result), Fault::Unreachable(std::io::ErrorKind::ConnectionRefused));
        // No relay listens there: the proxy says so.
        let open = proxy(http, Manner::Open).await;
        let result = greet(&way(&format!("{scheme}://{open}")), closed, &identity).await;
        assert!(matches!(fault(result), Fault::Refused(502 | 5)));
    }
    let unknown = greet(&way("http://no-such-host.invalid:1"), address, &identity).await;
    assert_eq!(fault(unknown), Fault::Unknown);
    assert_eq!(direct.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_proxy_that_hangs_is_given_up_in_time() {
    let (address, identity, direct) = relay().await;
    for (http, scheme) in [(true, "http"), (false, "socks5")] {
        let hanging = proxy(http, Manner::Hangs).await;
        let result = greet(&way(&format!("{scheme}://{hanging}")), address, &identity).await;
        assert_eq!(fault(result), Fault::Silent);
    }
    assert_eq!(direct.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn who_answers_in_a_relays_place_is_a_stranger_and_who_is_not_there_is_not() {
    let identity = Identity::generate(&mut seeded_rng().unwrap());
    for (answer, stranger) in [(&b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"[..], true), (b"", false)]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // All that was said is read, or the close would be a reset that takes the answer with it.
            let mut hello = [0; 5];
            stream.read_exact(&mut hello).await.unwrap();
            let mut rest = vec![0; u16::from_be_bytes([hello[3], hello[4]]).into()];
            stream.read_exact(&mut rest).await.unwrap();
            stream.write_all(answer).await.unwrap();
        });
        let error = greet(&Way::default(), address, &identity).await.unwrap_err();
        assert_eq!(error.is_stranger(), stranger, "{error:?}");
    }
    let (address, _, _) = relay().await;
    assert!(greet(&Way::default(), address, &identity).await.unwrap_err().is_stranger());
}

const PROXY_FROM: &str = "127.0.0.2";
