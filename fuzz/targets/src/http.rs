//! HTTP, as far as documents need it: the server's side and the client's.

use crate::bytes::{Seed, seed};
use mizzle_link::http::{Limits, Method, Request, Response, get, serve};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

/// What a client sends, and what a server answers: both mean the same in pieces of any size, and nothing exceeds
/// its bounds.
pub fn http(bytes: &[u8]) {
    let (requests, answer, fails) = served(bytes, usize::MAX);
    for piece in [1, 3] {
        let (others, other_answer, other_fails) = served(bytes, piece);
        assert!(others == requests && other_answer == answer, "pieces of {piece} bytes are other requests");
        assert!(other_fails == fails, "pieces of {piece} bytes fail otherwise");
    }
    assert!(requests.len() <= LIMITS.requests);
    for request in &requests {
        sound(request);
    }

    let response = fetched(bytes, usize::MAX);
    assert!(fetched(bytes, 1) == response, "pieces are another response");
    if let Some(response) = response {
        assert!(response.body.len() <= LIMITS.body && response.body.len() <= bytes.len());
        assert!(response.reason().chars().count() <= 200 && !response.reason().contains(char::is_control));
    }
}

fn sound(request: &Request) {
    assert!(request.path.starts_with('/') && request.path.len() < 8 * 1024);
    assert!(!request.path.contains(char::is_whitespace), "a path with white space");
    assert!(request.body.len() <= LIMITS.body);
    let method = match request.method {
        Method::Get => "GET",
        Method::Post => "POST",
    };
    assert!(request.method == Method::Post || request.body.is_empty(), "a GET with a body");
    let mut written = format!("{method} {} HTTP/1.1\r\n", request.path).into_bytes();
    // The body's length is among them.
    for (name, value) in &request.fields {
        written.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    written.extend([b"\r\n", &request.body[..]].concat());
    let (again, _, fails) = served(&written, usize::MAX);
    assert!(!fails && again == std::slice::from_ref(request), "a request changes on its way");
}

/// The requests in `bytes`, what is answered, and whether the connection ended by a broken rule.
fn served(bytes: &[u8], piece: usize) -> (Vec<Request>, Vec<u8>, bool) {
    let mut peer = Peer::new(bytes, piece);
    let mut requests = Vec::new();
    let respond = |request: Request| {
        requests.push(request);
        std::future::ready(Response::text(200, "taken\n"))
    };
    let result = RUNTIME.with(|runtime| runtime.block_on(serve(&mut peer, &LIMITS, respond)));
    (requests, peer.written, result.is_err())
}

fn fetched(bytes: &[u8], piece: usize) -> Option<Response> {
    let mut peer = Peer::new(bytes, piece);
    RUNTIME.with(|runtime| runtime.block_on(get(&mut peer, "/consensus", &LIMITS))).ok()
}

/// Somebody who says what was made up, in pieces, and hears everything.
struct Peer<'a> {
    rest: &'a [u8],
    piece: usize,
    written: Vec<u8>,
}

impl<'a> Peer<'a> {
    fn new(bytes: &'a [u8], piece: usize) -> Self {
        Self { rest: bytes, piece, written: Vec::new() }
    }
}

impl AsyncRead for Peer<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.rest.len().min(self.piece).min(out.remaining());
        let (read, rest) = self.rest.split_at(count);
        out.put_slice(read);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

pub(crate) fn http_seeds() -> Vec<Seed> {
    vec![
        seed("get", &[b"GET /consensus HTTP/1.1\r\nHost: mizzle\r\nContent-Length: 0\r\n\r\n"]),
        seed("post", &[b"POST /descriptor HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"]),
        seed("two_gets", &[b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.0\r\n\r\n"]),
        seed("post_then_get", &[b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nabGET / HTTP/1.1\r\n\r\n"]),
        seed("largest_body", &[b"POST / HTTP/1.1\r\nContent-Length: 60\r\n\r\n", &[b'x'; 60]]),
        seed("body_announced_too_large", &[b"POST / HTTP/1.1\r\nContent-Length: 61\r\n\r\n"]),
        seed("largest_response", &[b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n", &[b'x'; 60]]),
        seed("two_lengths", &[b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"]),
        seed("chunked", &[b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"]),
        seed("get_with_body", &[b"GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"]),
        seed("another_method", &[b"DELETE / HTTP/1.1\r\n\r\n"]),
        seed("response", &[b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"]),
        seed("refusal", &[b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 10\r\n\r\nnot\x1b[2Jyet"]),
        seed("response_without_length", &[b"HTTP/1.1 200 OK\r\n\r\nhello"]),
        seed("tls", &[&[0x16, 3, 1, 2, 0, 1]]),
    ]
}

const LIMITS: Limits = Limits { body: 60, time: Duration::from_secs(60), requests: 3 };

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().unwrap();
}
