//! An HTTP proxy's requests: `CONNECT host:port`, and `GET http://host/path` as any other method. (spec: PROXY-3)
//!
//! One connection carries one request. Of a plain one, what is meant for the proxy alone is left out, and the
//! origin is asked to close; the body passes as it comes, and nothing behind it.

use super::reply::page;
use super::{Body, Command, Output, Protocol, Request, country, token};
use mizzle_protocol::wire::target::Target;

/// Reads a request's head, which must be whole: see [`head_end`].
pub(super) fn request(head: &[u8], rest: &[u8]) -> Output {
    read(head, rest).map_or_else(Output::Reject, Output::Request)
}

/// Where the head ends; the empty line belongs to it. `scanned` bytes were looked at before.
pub(super) fn head_end(buffer: &[u8], scanned: usize) -> Option<usize> {
    // The line's end may be among those bytes.
    let start = scanned.saturating_sub(3);
    (start..buffer.len()).find_map(|at| {
        let rest = buffer.get(at..)?;
        if rest.starts_with(b"\n\r\n") {
            return Some(at + 3);
        }
        rest.starts_with(b"\n\n").then_some(at + 2)
    })
}

/// The answer to a head above [`LONGEST_HEAD`].
pub(super) fn too_long() -> Vec<u8> {
    page(
        "431 Request Header Fields Too Large",
        "The head of this request is longer than 32 KiB: delete cookies of this site, or use https.\n",
    )
}

type Answer = Vec<u8>;

fn read(head: &[u8], rest: &[u8]) -> Result<Request, Answer> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(too_long()),
        _ => return Err(bad("The request is no HTTP/1.1.\n")),
    }
    let (Some(method), Some(path), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(bad("The request is no HTTP/1.1.\n"));
    };
    let headers = Headers(parsed.headers);
    let token = token::headers(headers.first("proxy-authorization"), headers.first("x-mizzle-isolation"));
    let exit_country = country::of_field(headers.first("x-mizzle-exit-country"))
        .map_err(|_| bad("X-Mizzle-Exit-Country names no country: write its two letters, such as DE.\n"))?;
    if headers.all("x-mizzle-exit-country").count() > 1 {
        return Err(bad("X-Mizzle-Exit-Country is there twice: ask for one country.\n"));
    }
    if method == "CONNECT" {
        let (host, port) = authority(path, None)?;
        return Ok(Request {
            command: Command::Connect(target(host, port)?),
            protocol: Protocol::HttpConnect,
            token,
            exit_country,
            early_data: rest.to_vec(),
            body: None,
        });
    }
    let Some((scheme, after)) = path.split_once("://") else { return Err(explain()) };
    if path.starts_with('/') || path.starts_with('*') {
        return Err(explain());
    }
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(page(
            "501 Not Implemented",
            "This proxy forwards http://, and carries everything else by CONNECT or SOCKS5.\n",
        ));
    }
    let after = after.split('#').next().unwrap_or_default();
    let (authority_text, path) = after.split_at(after.find(['/', '?']).unwrap_or(after.len()));
    let (host, port) = authority(authority_text, Some(80))?;
    let target = target(host, port)?;
    let mut body = body(&headers, version)?;
    let mut early_data = rewrite(method, authority_text, path, version, &headers);
    early_data.extend(rest.iter().take(body.take(rest)));
    if body.is_broken() {
        return Err(bad("The request's body is not chunked as it says.\n"));
    }
    Ok(Request {
        command: Command::Connect(target),
        protocol: Protocol::HttpForward,
        token,
        exit_country,
        early_data,
        body: Some(body),
    })
}

/// `host:port`; a port that is missing is the default one, if there is one.
fn authority(text: &str, default: Option<u16>) -> Result<(&str, u16), Answer> {
    let wrong = || bad("The address in the request is none: name a host, and a port from 1 to 65535.\n");
    let (host, port) = match text.rfind(']') {
        Some(end) => text.split_at(end + 1),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match (port.strip_prefix(':'), default) {
        (None, Some(default)) if port.is_empty() => default,
        (Some(""), Some(default)) => default,
        (Some(port), _) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            port.parse().map_err(|_| wrong())?
        }
        _ => return Err(wrong()),
    };
    Ok((host, port))
}

/// User and password in an address (`user@host`) are none of a host's bytes, so they are refused here, too.
fn target(host: &str, port: u16) -> Result<Target, Answer> {
    Target::parse(host, port)
        .map_err(|_| bad("The address in the request is none: name a host, and a port from 1 to 65535.\n"))
}

/// The body that a request announces. What two readers could understand in two ways is refused (RFC 9112, 6.3).
fn body(headers: &Headers<'_>, version: u8) -> Result<Body, Answer> {
    let lengths: Vec<&[u8]> = headers.all("content-length").collect();
    let encodings: Vec<&[u8]> = headers.all("transfer-encoding").collect();
    match (lengths.as_slice(), encodings.as_slice()) {
        ([], []) => Ok(Body::of_length(0)),
        ([length, more @ ..], []) if more.iter().all(|other| other == length) => {
            let text = std::str::from_utf8(length).unwrap_or_default().trim();
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse()
                .ok()
                .filter(|_| digits)
                .map(Body::of_length)
                .ok_or_else(|| bad("The request's Content-Length is no number.\n"))
        }
        ([], [encoding]) if version == 1 && encoding.trim_ascii().eq_ignore_ascii_case(b"chunked") => {
            Ok(Body::chunked())
        }
        _ => Err(bad("The request says in more than one way how long its body is.\n")),
    }
}

/// The request as the origin gets it.
fn rewrite(method: &str, authority: &str, path: &str, version: u8, headers: &Headers<'_>) -> Vec<u8> {
    let slash = match path {
        "" if method == "OPTIONS" => "*",
        path if path.starts_with('/') => "",
        _ => "/",
    };
    let mut out = format!("{method} {slash}{path} HTTP/1.{version}\r\nHost: {authority}\r\n").into_bytes();
    let named: Vec<&[u8]> =
        headers.all("connection").flat_map(|value| value.split(|&byte| byte == b',')).collect();
    for header in headers.0 {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        // The frame of the body stays, whatever `Connection` names.
        let frame = is("content-length") || is("transfer-encoding");
        let hop = HOP_BY_HOP.iter().any(|name| is(name))
            || header.name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("proxy-"))
            || named.iter().any(|name| name.trim_ascii().eq_ignore_ascii_case(header.name.as_bytes()));
        if frame || !hop {
            out.extend(header.name.as_bytes());
            out.extend(b": ");
            out.extend(header.value);
            out.extend(b"\r\n");
        }
    }
    out.extend(b"Connection: close\r\n\r\n");
    out
}

struct Headers<'a>(&'a [httparse::Header<'a>]);

impl<'a> Headers<'a> {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    fn first(&self, name: &'static str) -> Option<&'a [u8]> {
        self.all(name).next()
    }
}

fn bad(text: &str) -> Answer {
    page("400 Bad Request", text)
}

/// For a browser that was pointed at the port as if it were a server.
fn explain() -> Answer {
    page(
        "400 Bad Request",
        "This is the proxy port of Mizzle, not a web server: set it as a proxy.\n\
         It speaks SOCKS5 (also SOCKS4a) and HTTP, for example:\n\n  \
         curl --socks5-hostname HOST:PORT http://example.com/\n  \
         curl --proxy http://HOST:PORT https://example.com/\n\n\
         In Firefox: Settings, Network Settings, SOCKS v5, Proxy DNS when using SOCKS v5.\n",
    )
}

/// Most bytes of a head.
pub(super) const LONGEST_HEAD: usize = 32 * 1024;
const MOST_HEADERS: usize = 128;
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "host",
    "x-mizzle-isolation",
    "x-mizzle-exit-country",
];
