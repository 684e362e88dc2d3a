//! The SOCKS5 port: accepts applications and carries their connections as streams. (spec: CLIENT-2)

use crate::refusals::{Refusal, Refusals};
use crate::socks::{Credentials, Handshake, Output, Reply, Request};
use mizzle_client::{Client, ErrorKind};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Serves applications until the task is dropped. Past `connections` at once, new ones are closed.
pub(crate) async fn serve(
    listener: TcpListener,
    client: Client,
    connections: usize,
    refusals: Arc<Refusals>,
) {
    let places = Arc::new(Semaphore::new(connections));
    let mut full = false;
    loop {
        let application = match listener.accept().await {
            Ok((application, _)) => application,
            Err(error) => {
                // Out of file descriptors, most likely: give the others time to end.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            if !std::mem::replace(&mut full, true) {
                tracing::warn!(
                    "all {connections} places are taken: new connections are closed (key `connections`)"
                );
            }
            refusals.count(Refusal::Full);
            continue;
        };
        full = false;
        let (client, refusals) = (client.clone(), Arc::clone(&refusals));
        tokio::spawn(async move {
            // What an application does wrong is its own business, and nobody else's.
            if let Err(error) = carry(application, &client, &refusals).await {
                tracing::debug!("a connection ended: {}", error.kind());
            }
            drop(place);
        });
    }
}

/// One application's connection, from the greeting to the end.
async fn carry(mut application: TcpStream, client: &Client, refusals: &Refusals) -> io::Result<()> {
    application.set_nodelay(true)?;
    let request = match tokio::time::timeout(HANDSHAKE_TIME, shake_hands(&mut application)).await {
        Ok(request) => request,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    let Request { target, credentials, early_data } =
        request.inspect_err(|error| refusals.count(Refusal::of(error)))?;
    let stream = match client.connect(target, &isolation(credentials.as_ref())).await {
        Ok(stream) => stream,
        Err(error) => return reject(&mut application, &reply_to(error.kind()).to_bytes()).await,
    };
    application.write_all(&Reply::Succeeded.to_bytes()).await?;
    carry_bytes(application, stream, &early_data).await
}

/// Copies both ways until both have ended.
async fn carry_bytes(
    mut application: TcpStream,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    early_data: &[u8],
) -> io::Result<()> {
    // An application must not take a broken stream for a finished one. So from here on every end is a reset,
    // whatever brings it: an error, this task's end, even the daemon's by `kill -9`.
    application.set_zero_linger()?;
    stream.write_all(early_data).await?;
    tokio::io::copy_bidirectional_with_sizes(&mut application, &mut stream, BUFFER, BUFFER).await?;
    // Except this one, where both sides have said that they are done: what still waits is to arrive.
    #[expect(deprecated, reason = "a time to linger for would block; this takes the time away")]
    application.set_linger(None)
}

/// Reads a request. What is none is an error of kind `InvalidData`, after the application was told so.
async fn shake_hands(application: &mut TcpStream) -> io::Result<Request> {
    let mut handshake = Handshake::new();
    let mut buffer = [0; 2_048];
    loop {
        let count = application.read(&mut buffer).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        handshake.receive(buffer.get(..count).unwrap_or_default());
        while let Some(output) = handshake.poll() {
            match output {
                Output::Send(answer) => application.write_all(&answer).await?,
                Output::Connect(request) => return Ok(request),
                Output::Reject(answer) => {
                    // Whether it hears that is its own business.
                    let _ = reject(application, &answer).await;
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
    }
}

/// Says a last word, and sees to it that it arrives: closing with unread data would cut it off.
async fn reject(application: &mut TcpStream, answer: &[u8]) -> io::Result<()> {
    application.write_all(answer).await?;
    application.shutdown().await?;
    let mut left = DRAIN_LIMIT;
    let drain = async {
        let mut buffer = [0; 2_048];
        while left > 0 {
            match application.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    };
    // A client that neither reads nor closes is left alone.
    let _ = tokio::time::timeout(DRAIN_TIME, drain).await;
    Ok(())
}

/// The SOCKS code of a failure.
fn reply_to(kind: ErrorKind) -> Reply {
    match kind {
        ErrorKind::NotAllowed => Reply::NotAllowed,
        ErrorKind::NetworkUnreachable => Reply::NetworkUnreachable,
        ErrorKind::HostUnreachable | ErrorKind::HostNotFound => Reply::HostUnreachable,
        ErrorKind::ConnectionRefused => Reply::ConnectionRefused,
        ErrorKind::TimedOut => Reply::TimedOut,
        _ => Reply::GeneralFailure,
    }
}

/// The isolation token of these credentials; none differs from empty ones.
fn isolation(credentials: Option<&Credentials>) -> Vec<u8> {
    match credentials {
        None => Vec::new(),
        Some(Credentials { user, password }) => {
            // A length of one byte each on the wire, so this is unambiguous.
            [&[user.len() as u8], &user[..], &[password.len() as u8], &password[..]].concat()
        }
    }
}

const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
const DRAIN_TIME: Duration = Duration::from_secs(2);
const DRAIN_LIMIT: usize = 64 * 1024;
const BUFFER: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::ReadBuf;

    #[test]
    fn every_failure_has_its_code() {
        for (kind, code) in [
            (ErrorKind::NotAllowed, 2),
            (ErrorKind::NetworkUnreachable, 3),
            (ErrorKind::HostNotFound, 4),
            (ErrorKind::HostUnreachable, 4),
            (ErrorKind::ConnectionRefused, 5),
            (ErrorKind::TimedOut, 6),
            (ErrorKind::NoNetwork, 1),
            (ErrorKind::Closed, 1),
            (ErrorKind::Exhausted, 1),
        ] {
            assert_eq!(reply_to(kind).code(), code, "{kind:?}");
        }
    }

    #[test]
    fn different_credentials_never_share_a_token() {
        let token = |user: &[u8], password: &[u8]| {
            isolation(Some(&Credentials { user: user.to_vec(), password: password.to_vec() }))
        };
        let tokens = [
            isolation(None),
            token(b"", b""),
            token(b"a", b""),
            token(b"", b"a"),
            token(b"ab", b"c"),
            token(b"a", b"bc"),
        ];
        for (index, one) in tokens.iter().enumerate() {
            assert!(tokens.iter().skip(index + 1).all(|other| other != one));
        }
    }

    /// Two ends of a connection on loopback.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let application = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (application, listener.accept().await.unwrap().0)
    }

    /// Gives some bytes, then fails as a stream does whose exit is gone.
    struct Breaking(&'static [u8]);

    impl AsyncRead for Breaking {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.0.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            buffer.put_slice(std::mem::take(&mut self.0));
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_stream_that_breaks_resets_the_application() {
        let (mut application, ours) = connection().await;
        let stream = tokio::io::join(Breaking(b"part of a page"), tokio::io::sink());
        assert!(carry_bytes(ours, stream, b"").await.is_err());
        let end = application.read_to_end(&mut Vec::new()).await;
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_daemon_that_ends_resets_the_application() {
        let (mut application, ours) = connection().await;
        let (mut far, stream) = tokio::io::duplex(1_000);
        let carried = tokio::spawn(carry_bytes(ours, stream, b""));
        far.write_all(b"part").await.unwrap();
        application.read_exact(&mut [0; 4]).await.unwrap();
        carried.abort();
        let end = application.read_to_end(&mut Vec::new()).await;
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_stream_that_ends_in_order_arrives_as_a_whole() {
        let (mut application, ours) = connection().await;
        let (mut far, stream) = tokio::io::duplex(1_000);
        let carried = tokio::spawn(carry_bytes(ours, stream, b"early "));
        let page = vec![7; 300_000];
        let sending = async {
            far.write_all(&page).await.unwrap();
            far.shutdown().await.unwrap();
            let mut request = String::new();
            far.read_to_string(&mut request).await.unwrap();
            request
        };
        let asking = async {
            application.write_all(b"request").await.unwrap();
            application.shutdown().await.unwrap();
        };
        let (request, ()) = tokio::join!(
            async { tokio::time::timeout(Duration::from_secs(20), sending).await.unwrap() },
            asking
        );
        carried.await.unwrap().unwrap();
        let mut got = Vec::new();
        application.read_to_end(&mut got).await.unwrap();
        assert_eq!((request.as_str(), got.len()), ("early request", page.len()));
    }

    #[tokio::test]
    async fn a_rejected_client_reads_the_whole_answer_though_it_keeps_sending() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut application, _) = listener.accept().await.unwrap();
            shake_hands(&mut application).await
        });
        let mut browser = TcpStream::connect(address).await.unwrap();
        browser.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n").await.unwrap();
        browser.write_all(b"\r\n").await.unwrap();
        let mut page = String::new();
        browser.read_to_string(&mut page).await.unwrap();
        assert!(page.contains("SOCKS5"), "{page}");
        drop(browser);
        let error = server.await.unwrap().unwrap_err();
        assert_eq!(Refusal::of(&error), Refusal::Malformed);
    }
}
