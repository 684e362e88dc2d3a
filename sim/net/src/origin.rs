//! A web server that only the exits may ask: what local networks are tried and measured against. Beside it, datagrams
//! are given back, and [`crate::names`] answers questions.
//!
//! `GET /1k`, `/1m`, `/10m`, `/bytes/N` answer with that many bytes of one fixed sequence; `POST` of
//! anything answers with the SHA-256 of what arrived. Peers that are not allowed get 403. Which peers came,
//! and how often, is kept in a small JSON file.

use crate::error::{Error, Result};
use crate::names::{self, Zone};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Which peers the origin saw, and how many connections each made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Peers that were answered.
    pub(crate) served: BTreeMap<IpAddr, u64>,
    /// Peers that got 403.
    pub(crate) refused: BTreeMap<IpAddr, u64>,
}

impl Seen {
    /// What the origin has written to `path` so far.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(Error::system("cannot read what the origin saw"))?;
        serde_json::from_slice(&text)
            .map_err(|error| Error::Wrong(format!("what the origin saw is not readable: {error}")))
    }
}

/// The one sequence of which every answer is the beginning, as it stands at byte `position`.
pub(crate) struct Content {
    position: u64,
}

impl Content {
    /// From the first byte.
    pub(crate) fn new() -> Self {
        Self { position: 0 }
    }

    /// The next bytes, as many as `out` holds.
    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            *byte = mixed(self.position / 8).to_le_bytes()[(self.position % 8) as usize];
            self.position += 1;
        }
    }

    /// SHA-256 of the first `size` bytes, in hexadecimal.
    pub(crate) fn digest(size: u64) -> String {
        let (mut content, mut hash, mut left) = (Self::new(), Sha256::new(), size);
        let mut buffer = [0; 4096];
        while left > 0 {
            let part = left.min(buffer.len() as u64) as usize;
            content.fill(&mut buffer[..part]);
            hash.update(&buffer[..part]);
            left -= part as u64;
        }
        mizzle_protocol::id::to_hex(&hash.finalize())
    }
}

/// Serves on `listen` until the process is stopped. Prints `ready`.
pub(crate) async fn serve(
    listen: SocketAddr,
    names: Option<SocketAddr>,
    allow: Vec<IpAddr>,
    seen: Option<PathBuf>,
) -> Result<()> {
    if let (Some(names), IpAddr::V4(origin)) = (names, listen.ip()) {
        names::answer(names, Arc::new(Zone { origin, allow: allow.clone() })).await?;
    }
    names::echo(listen, allow.clone()).await?;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(Error::system(format!("the origin cannot listen on {listen}: does another network run?")))?;
    let origin = Arc::new(Origin { allow, seen: Mutex::default(), path: seen });
    origin.note(None);
    println!("ready");
    // More than this many connections wait in the system's own queue.
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let origin = origin.clone();
                tokio::spawn(async move {
                    // A peer that breaks off is its own affair.
                    let _ = origin.answer(stream, peer.ip()).await;
                    drop(place);
                });
            }
            // Out of descriptors, most likely: wait until some are closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

struct Origin {
    allow: Vec<IpAddr>,
    seen: Mutex<Seen>,
    path: Option<PathBuf>,
}

/// What is needed of a request.
struct Request {
    method: String,
    path: String,
    body: u64,
    close: bool,
    waits_for_continue: bool,
}

impl Origin {
    /// Counts a connection and writes the file. True if the peer may be answered.
    fn note(&self, peer: Option<IpAddr>) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let allowed = peer.is_some_and(|peer| self.allow.contains(&peer));
        if let Some(peer) = peer {
            let list = if allowed { &mut seen.served } else { &mut seen.refused };
            if list.len() < PEERS || list.contains_key(&peer) {
                *list.entry(peer).or_default() += 1;
            }
        }
        if let (Some(path), Ok(text)) = (&self.path, serde_json::to_vec(&*seen)) {
            let draft = path.with_extension("draft");
            let _ = std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, path));
        }
        allowed
    }

    async fn answer(&self, mut stream: TcpStream, peer: IpAddr) -> std::io::Result<()> {
        let allowed = self.note(Some(peer));
        stream.set_nodelay(true)?;
        let mut input = Vec::new();
        loop {
            let Some(request) = timeout(PATIENCE, read_head(&mut stream, &mut input)).await?? else {
                return Ok(());
            };
            if !allowed {
                let text = "only the exits of this network are answered\n";
                return say(&mut stream, "403 Forbidden", text, true).await;
            }
            timeout(LONGEST, self.respond(&mut stream, &mut input, &request)).await??;
            if request.close {
                return Ok(());
            }
        }
    }

    async fn respond(
        &self,
        stream: &mut TcpStream,
        input: &mut Vec<u8>,
        request: &Request,
    ) -> std::io::Result<()> {
        match (request.method.as_str(), size_of(&request.path)) {
            ("POST" | "PUT", _) => {
                if request.waits_for_continue {
                    stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
                }
                let digest = digest_of_body(stream, input, request.body).await?;
                say(stream, "200 OK", &format!("{digest}\n"), request.close).await
            }
            ("GET" | "HEAD", Some(size)) => {
                let head = head("200 OK", "application/octet-stream", size, request.close);
                stream.write_all(head.as_bytes()).await?;
                if request.method == "GET" {
                    write_content(stream, size).await?;
                }
                stream.flush().await
            }
            ("GET" | "HEAD", None) if request.path == "/" => {
                let text = "Hello. This page came through the mixnet.\n\
                            More: /1k /1m /10m /bytes/N, and POST answers with the SHA-256 of what you sent.\n";
                say(stream, "200 OK", text, request.close).await
            }
            _ => say(stream, "404 Not Found", "try /1k, /1m, /10m or /bytes/N\n", request.close).await,
        }
    }
}

/// Reads up to the end of a request's head; what follows stays in `input`. `None`: the peer is done.
async fn read_head(stream: &mut TcpStream, input: &mut Vec<u8>) -> std::io::Result<Option<Request>> {
    let malformed = |_| std::io::Error::from(std::io::ErrorKind::InvalidData);
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        if let httparse::Status::Complete(length) = request.parse(input).map_err(malformed)? {
            let header = |name: &str| {
                let found = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
                found.map(|header| String::from_utf8_lossy(header.value).trim().to_ascii_lowercase())
            };
            let parsed = Request {
                method: request.method.unwrap_or_default().to_owned(),
                path: request.path.unwrap_or_default().to_owned(),
                body: header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0),
                // Bodies in chunks are not read, so nothing may follow them.
                close: request.version == Some(0)
                    || header("connection").is_some_and(|value| value == "close")
                    || header("transfer-encoding").is_some(),
                waits_for_continue: header("expect").is_some_and(|value| value == "100-continue"),
            };
            input.drain(..length);
            return Ok(Some(parsed));
        }
        if input.len() > HEAD {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        if stream.read_buf(input).await? == 0 {
            return Ok(None);
        }
    }
}

async fn digest_of_body(stream: &mut TcpStream, input: &mut Vec<u8>, size: u64) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    let mut left = size;
    loop {
        let part = left.min(input.len() as u64) as usize;
        hash.update(&input[..part]);
        input.drain(..part);
        left -= part as u64;
        if left == 0 {
            return Ok(mizzle_protocol::id::to_hex(&hash.finalize()));
        }
        input.reserve(BLOCK);
        if stream.read_buf(input).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn write_content(stream: &mut TcpStream, size: u64) -> std::io::Result<()> {
    let (mut content, mut left) = (Content::new(), size);
    let mut buffer = vec![0; BLOCK];
    while left > 0 {
        let part = left.min(BLOCK as u64) as usize;
        content.fill(&mut buffer[..part]);
        stream.write_all(&buffer[..part]).await?;
        left -= part as u64;
    }
    Ok(())
}

async fn say(stream: &mut TcpStream, status: &str, text: &str, close: bool) -> std::io::Result<()> {
    let head = head(status, "text/plain; charset=utf-8", text.len() as u64, close);
    stream.write_all(format!("{head}{text}").as_bytes()).await?;
    stream.flush().await
}

fn head(status: &str, kind: &str, size: u64, close: bool) -> String {
    let connection = if close { "close" } else { "keep-alive" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\nConnection: {connection}\r\n\r\n"
    )
}

/// How many bytes this path stands for.
fn size_of(path: &str) -> Option<u64> {
    match path {
        "/1k" => Some(1_000),
        "/1m" => Some(1_000_000),
        "/10m" => Some(TEN_MEGABYTES),
        _ => path.strip_prefix("/bytes/")?.parse().ok().filter(|&size| size <= MOST),
    }
}

/// A fixed scramble of a counter (SplitMix64; Steele, Lea and Flood 2014): no two blocks are alike, so
/// that bytes out of place show.
fn mixed(counter: u64) -> u64 {
    let z = counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What `/10m` answers with.
pub(crate) const TEN_MEGABYTES: u64 = 10_000_000;

const MOST: u64 = 10_000_000_000;
const CONNECTIONS: usize = 256;
const PEERS: usize = 1_024;
const HEAD: usize = 16 * 1024;
const BLOCK: usize = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(120);
const LONGEST: Duration = Duration::from_secs(1_800);

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(address: SocketAddr, request: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    }

    async fn origin(allow: &str, seen: PathBuf) -> SocketAddr {
        // A free port: taken, and given back just before the origin takes it.
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        tokio::spawn(serve(address, None, vec![allow.parse().unwrap()], Some(seen.clone())));
        while !seen.exists() {
            tokio::task::yield_now().await;
        }
        address
    }

    #[tokio::test]
    async fn bytes_are_the_same_each_time_and_uploads_are_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let address = origin("127.0.0.1", dir.path().join("seen.json")).await;
        let answer = ask(address, b"GET /bytes/100003 HTTP/1.1\r\nConnection: close\r\n\r\n").await;
        let body = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        assert_eq!(answer.len() - body, 100_003);
        assert_eq!(mizzle_protocol::id::to_hex(&Sha256::digest(&answer[body..])), Content::digest(100_003));
        let request = b"POST /upload HTTP/1.1\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
        let answer = String::from_utf8(ask(address, request).await).unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(answer.trim_end().ends_with(abc), "{answer}");
    }

    #[tokio::test]
    async fn only_allowed_peers_are_answered_and_both_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seen.json");
        let address = origin("127.0.0.9", path.clone()).await;
        let answer = ask(address, b"GET /1k HTTP/1.1\r\n\r\n").await;
        assert!(answer.starts_with(b"HTTP/1.1 403"));
        let seen = Seen::load(&path).unwrap();
        assert!(seen.served.is_empty());
        assert_eq!(seen.refused, BTreeMap::from([("127.0.0.1".parse().unwrap(), 1)]));
    }

    #[test]
    fn sizes_are_parsed_and_bounded() {
        assert_eq!(size_of("/bytes/0"), Some(0));
        assert_eq!(size_of("/bytes/99999999999999"), None);
        assert_eq!(size_of("/bytes/-1"), None);
        assert_eq!(size_of("/"), None);
    }
}
