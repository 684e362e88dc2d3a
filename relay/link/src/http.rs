//! HTTP/1.1, as little of it as documents need: GET and POST, `Content-Length` only, everything bounded.
//!
//! Works over any stream: documents travel over links, metrics over plain loopback.

use crate::error::protocol;
use crate::{Error, Result};
use mizzle_protocol::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What a peer may cost us.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of body that we take.
    pub body: usize,
    /// Time for one message to come in, and for one to go out.
    pub time: Duration,
    /// Requests that one connection may make.
    pub requests: usize,
}

impl Default for Limits {
    /// 8 MiB, 20 s, 64 requests.
    fn default() -> Self {
        Self { body: 8 << 20, time: Duration::from_secs(20), requests: 64 }
    }
}

/// What a request wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Give a document.
    Get,
    /// Take one.
    Post,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// GET or POST; all else is answered with 405 before it gets here.
    pub method: Method,
    /// The path, with its leading slash.
    pub path: String,
    /// The header's fields as they came, in their order.
    pub fields: Vec<(String, Vec<u8>)>,
    /// Empty for GET.
    pub body: Vec<u8>,
}

impl Request {
    /// The value of a field that stands there exactly once; its name in any case.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        let mut found = self.fields.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_slice());
        value.filter(|_| found.next().is_none())
    }
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code; 200 is good.
    pub status: u16,
    /// What the body is.
    pub content_type: &'static str,
    /// More fields of the header, beside its type and length.
    pub fields: Vec<(&'static str, String)>,
    /// Shared, since many get the same document.
    pub body: Arc<[u8]>,
}

impl Response {
    /// A document: 200.
    pub fn document(content_type: &'static str, body: impl Into<Arc<[u8]>>) -> Self {
        Self { status: 200, content_type, fields: Vec::new(), body: body.into() }
    }

    /// A sentence for people.
    pub fn text(status: u16, text: impl AsRef<str>) -> Self {
        Self { status, content_type: TEXT, fields: Vec::new(), body: text.as_ref().as_bytes().into() }
    }

    /// The same with one more field. Neither name nor value may hold what a peer wrote.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// The number that a field says; of what a peer sent, only [`EPOCH`] and [`TIME`] are kept.
    pub fn number(&self, name: &str) -> Option<u64> {
        let (_, value) = self.fields.iter().find(|(known, _)| *known == name)?;
        value.parse().ok()
    }

    /// The body as text, for error messages: what a peer wrote, so printable characters only, and few.
    pub fn reason(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().filter(|c| !c.is_control()).take(200).collect()
    }
}

/// Fetches `path`. Any status is a response; only what is no HTTP, too large or too late is an error.
pub async fn get<S>(stream: &mut S, path: &str, limits: &Limits) -> Result<Response>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    exchange(stream, "GET", path, &[], limits).await
}

/// Hands in `body` at `path`.
pub async fn post<S>(stream: &mut S, path: &str, body: &[u8], limits: &Limits) -> Result<Response>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    exchange(stream, "POST", path, body, limits).await
}

/// Answers the requests of one connection until the peer ends it or breaks a rule. A peer that breaks one is
/// told which, where HTTP still allows it; the error says the same to the caller, who counts it.
pub async fn serve<S, F, Fut>(mut stream: S, limits: &Limits, mut respond: F) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: FnMut(Request) -> Fut,
    Fut: Future<Output = Response>,
{
    let mut buffer = Vec::new();
    for left in (0..limits.requests).rev() {
        let request = match in_time(limits, "a request", read_request(&mut stream, &mut buffer, limits)).await
        {
            Ok(Some(request)) => request,
            Ok(None) => break,
            Err(error) => {
                if let Some(response) = complaint(&error) {
                    in_time(limits, "the peer to read", write_response(&mut stream, &response, true)).await?;
                }
                return Err(error);
            }
        };
        let response = respond(request).await;
        in_time(limits, "the peer to read", write_response(&mut stream, &response, left == 0)).await?;
    }
    // The peer sees an orderly end, or is gone already.
    let _ = tokio::time::timeout(limits.time, stream.shutdown()).await;
    Ok(())
}

async fn in_time<T>(
    limits: &Limits,
    waiting_for: &'static str,
    future: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::time::timeout(limits.time, future).await.map_err(|_| Error::TimedOut { waiting_for })?
}

async fn exchange<S>(
    stream: &mut S,
    method: &str,
    path: &str,
    body: &[u8],
    limits: &Limits,
) -> Result<Response>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    in_time(limits, "a document", async {
        let mut message =
            format!("{method} {path} HTTP/1.1\r\nHost: mizzle\r\nContent-Length: {}\r\n\r\n", body.len())
                .into_bytes();
        message.extend(body);
        write(stream, &message).await?;
        read_response(stream, limits).await
    })
    .await
}

async fn read_response<S: AsyncRead + Unpin>(stream: &mut S, limits: &Limits) -> Result<Response> {
    let mut buffer = Vec::new();
    let head = read_head(stream, &mut buffer).await?.ok_or_else(ended)?;
    let (status, fields, length) = {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let bytes = buffer.get(..head).unwrap_or_default();
        response.parse(bytes).map_err(|_| malformed("the answer is not HTTP/1.1"))?;
        let status = response.code.ok_or_else(|| malformed("the answer has no status"))?;
        let length = content_length(response.headers)?
            .ok_or_else(|| malformed("the answer does not say how long it is"))?;
        (status, numbers(response.headers), length)
    };
    let body = read_body(stream, &mut buffer, head, length, limits).await?;
    Ok(Response { status, fields, ..Response::document(BYTES, body) })
}

async fn read_request<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
    limits: &Limits,
) -> Result<Option<Request>> {
    let Some(head) = read_head(stream, buffer).await? else { return Ok(None) };
    let (method, path, fields, length) = {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        request
            .parse(buffer.get(..head).unwrap_or_default())
            .map_err(|_| malformed("the request is not HTTP/1.1"))?;
        let method = match request.method {
            Some("GET") => Method::Get,
            Some("POST") => Method::Post,
            _ => return Err(protocol(ErrorKind::Refused, "only GET and POST are answered here")),
        };
        let path = request.path.filter(|path| path.starts_with('/'));
        let path = path.ok_or_else(|| malformed("the request has no path"))?.to_owned();
        let fields = request.headers.iter().map(|field| (field.name.to_owned(), field.value.to_vec()));
        (method, path, fields.collect(), content_length(request.headers)?.unwrap_or(0))
    };
    if method == Method::Get && length > 0 {
        return Err(malformed("a GET carries no body here"));
    }
    let body = read_body(stream, buffer, head, length, limits).await?;
    Ok(Some(Request { method, path, fields, body }))
}

/// Reads until the blank line; the length of the head, or `None` if the peer ended before the first byte.
async fn read_head<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> Result<Option<usize>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            return Ok(Some(end + 4));
        }
        if buffer.len() >= HEAD_LIMIT {
            return Err(protocol(ErrorKind::Exhausted, "the head of the message is too large"));
        }
        let empty = buffer.is_empty();
        match read_some(stream, buffer, HEAD_LIMIT).await? {
            0 if empty => return Ok(None),
            0 => return Err(ended()),
            _ => {}
        }
    }
}

/// Takes the head and `length` bytes of body out of `buffer`, reading what is not there yet.
async fn read_body<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
    head: usize,
    length: usize,
    limits: &Limits,
) -> Result<Vec<u8>> {
    if length > limits.body {
        return Err(protocol(ErrorKind::Exhausted, "the body of the message is too large"));
    }
    buffer.drain(..head);
    // Grows with what arrives, not with what is announced.
    while buffer.len() < length {
        if read_some(stream, buffer, length).await? == 0 {
            return Err(ended());
        }
    }
    let rest = buffer.split_off(length);
    Ok(std::mem::replace(buffer, rest))
}

/// Appends what comes next to `buffer`, which must not grow beyond `limit`. Zero: the peer has ended.
async fn read_some<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
    limit: usize,
) -> Result<usize> {
    let mut chunk = [0; 8192];
    let room = limit.saturating_sub(buffer.len()).clamp(1, chunk.len());
    let chunk = chunk.get_mut(..room).unwrap_or_default();
    let count = match stream.read(chunk).await {
        Ok(count) => count,
        // A peer that leaves without saying goodbye is an end; `Content-Length` tells whether too early.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => 0,
        Err(error) => return Err(Error::io("read from the peer", error)),
    };
    buffer.extend(chunk.get(..count).unwrap_or_default());
    Ok(count)
}

/// The fields that say a number that somebody asks for.
fn numbers(headers: &[httparse::Header<'_>]) -> Vec<(&'static str, String)> {
    let said = |name: &'static str| {
        let field = headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
        let digits = std::str::from_utf8(field.value).ok()?;
        // As many as a number of 64 bits has.
        let fits = digits.len() <= 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
        fits.then(|| (name, digits.to_owned()))
    };
    [EPOCH, TIME].into_iter().filter_map(said).collect()
}

fn content_length(headers: &[httparse::Header<'_>]) -> Result<Option<usize>> {
    let mut length = None;
    for header in headers {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(malformed("only messages with Content-Length are taken"));
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            let digits = header.value;
            if length.is_some() || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
                return Err(malformed("a Content-Length that is none"));
            }
            let text = std::str::from_utf8(digits).map_err(|_| malformed("a Content-Length that is none"))?;
            let value = text
                .parse()
                .map_err(|_| protocol(ErrorKind::Exhausted, "the body of the message is too large"))?;
            length = Some(value);
        }
    }
    Ok(length)
}

async fn write_response<S: AsyncWrite + Unpin>(
    stream: &mut S,
    response: &Response,
    close: bool,
) -> Result<()> {
    let reason = match response.status {
        200 => "OK",
        303 => "See Other",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        503 => "Service Unavailable",
        _ => "Answer",
    };
    let mut message = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}",
        response.status,
        response.content_type,
        response.body.len(),
        if close { "Connection: close\r\n" } else { "" },
    )
    .into_bytes();
    for (name, value) in &response.fields {
        message.extend(format!("{name}: {value}\r\n").bytes());
    }
    message.extend(b"\r\n");
    message.extend(response.body.iter());
    write(stream, &message).await
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> Result<()> {
    let failed = |error| Error::io("write to the peer", error);
    stream.write_all(bytes).await.map_err(failed)?;
    stream.flush().await.map_err(failed)
}

/// What to tell a peer whose request was refused; nothing if it is gone or silent.
fn complaint(error: &Error) -> Option<Response> {
    let status = match error.kind() {
        ErrorKind::Malformed => 400,
        ErrorKind::Refused => 405,
        ErrorKind::Exhausted => 413,
        _ => return None,
    };
    Some(Response::text(status, format!("{error}\n")))
}

fn malformed(message: &'static str) -> Error {
    protocol(ErrorKind::Malformed, message)
}

fn ended() -> Error {
    malformed("the message ends too early")
}

/// Content type of documents.
pub const BYTES: &str = "application/octet-stream";
/// Content type of sentences for people.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// Content type of JSON.
pub const JSON: &str = "application/json";
/// The field that says which epoch the newest consensus of who answers is of.
pub const EPOCH: &str = "Mizzle-Epoch";
/// The field that says what time it is by the clock of who answers, in seconds since the Unix epoch.
pub const TIME: &str = "Mizzle-Time";
const HEAD_LIMIT: usize = 8 * 1024;
const HEADERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{DuplexStream, duplex};

    fn limits() -> Limits {
        Limits { body: 1000, time: Duration::from_secs(5), requests: 3 }
    }

    async fn echo(request: Request) -> Response {
        Response::document(BYTES, [request.path.as_bytes(), &request.body].concat())
    }

    fn server(limits: Limits) -> (DuplexStream, tokio::task::JoinHandle<Result<()>>) {
        let (near, far) = duplex(64);
        (near, tokio::spawn(async move { serve(far, &limits, echo).await }))
    }

    /// What the server says to these bytes, and what it thinks of them.
    async fn send(bytes: &[u8]) -> (String, Result<()>) {
        let (near, task) = server(limits());
        let (mut reader, mut writer) = tokio::io::split(near);
        let bytes = bytes.to_vec();
        let write = tokio::spawn(async move {
            let _ = writer.write_all(&bytes).await;
            let _ = writer.shutdown().await;
        });
        let mut answer = Vec::new();
        reader.read_to_end(&mut answer).await.unwrap();
        write.await.unwrap();
        (String::from_utf8_lossy(&answer).into_owned(), task.await.unwrap())
    }

    #[tokio::test]
    async fn documents_are_fetched_and_handed_in_on_one_connection() {
        let (mut stream, task) = server(limits());
        let response = get(&mut stream, "/a", &limits()).await.unwrap();
        assert_eq!((response.status, &*response.body), (200, b"/a".as_slice()));
        let body = vec![7; 1000];
        let response = post(&mut stream, "/b", &body, &Limits::default()).await.unwrap();
        assert_eq!(&*response.body, [b"/b".as_slice(), &body].concat());
        // An answer beyond what the asker takes.
        let error = post(&mut stream, "/b", &body, &limits()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        drop(stream);
        // The server found nobody to give the rest of its last answer to.
        assert_eq!(task.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    }

    #[tokio::test]
    async fn garbage_and_what_we_do_not_speak_is_refused_with_a_reason() {
        let cases: [(&[u8], &str); 9] = [
            (b"\x16\x03\x01\x02\x00 nothing of ours\r\n\r\n", "400"),
            (b"GET a HTTP/1.1\r\n\r\n", "400"),
            (b"GET / HTTP/9.9\r\n\r\n", "400"),
            (b"DELETE / HTTP/1.1\r\n\r\n", "405"),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "400"),
            (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "400"),
            (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "400"),
            (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", "413"),
            (b"GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", "400"),
        ];
        for (bytes, status) in cases {
            let (answer, result) = send(bytes).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer:?}");
            assert!(result.is_err());
        }
    }

    #[tokio::test]
    async fn fields_travel_both_ways_and_the_last_answer_says_that_it_is_the_last() {
        let (near, far) = duplex(64);
        let task = tokio::spawn(async move {
            let answer = |request: Request| async move {
                let seen = request.field("HOST").map(<[u8]>::to_vec).unwrap_or(b"twice or never".to_vec());
                Response::document(TEXT, seen).with("X-Kind", "test")
            };
            serve(far, &Limits { requests: 2, ..limits() }, answer).await
        });
        let (mut reader, mut writer) = tokio::io::split(near);
        let ask = tokio::spawn(async move {
            let requests = "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n";
            writer.write_all(requests.as_bytes()).await.unwrap();
            writer
        });
        let mut answer = Vec::new();
        reader.read_to_end(&mut answer).await.unwrap();
        let text = String::from_utf8(answer).unwrap();
        let (first, second) = text.split_at(text.rfind("HTTP/1.1 200").unwrap());
        assert!(first.contains("\r\nX-Kind: test\r\n\r\na") && !first.contains("close"), "{text}");
        assert!(second.contains("Connection: close") && second.ends_with("twice or never"), "{text}");
        drop(ask.await.unwrap());
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn truncated_messages_are_refused() {
        for bytes in [b"GET / HTT".as_slice(), b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n1234"] {
            let (_, result) = send(bytes).await;
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Malformed);
        }
        let (mut near, mut far) = duplex(4096);
        far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n1234").await.unwrap();
        far.shutdown().await.unwrap();
        let error = get(&mut near, "/", &limits()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
    }

    #[tokio::test]
    async fn oversized_heads_and_bodies_are_refused() {
        let head = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 20_000]].concat();
        let (answer, result) = send(&head).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer:?}");
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Exhausted);
        let (answer, _) = send(b"POST / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer:?}");
    }

    #[tokio::test]
    async fn a_peer_that_says_nothing_is_let_go() {
        let (_stream, task) = server(Limits { time: Duration::from_millis(10), ..limits() });
        assert!(matches!(task.await.unwrap(), Err(Error::TimedOut { .. })));
    }
}
