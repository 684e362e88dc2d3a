//! A proxy that a network demands: how it is named, and how it is asked for a connection by HTTP CONNECT (RFC 9110
//! §9.3.6, Basic by RFC 7617) or SOCKS5 (RFC 1928, RFC 1929). (spec: LINK-14)

use crate::{Error, Result};
use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

/// A proxy: `http://[user:password@]HOST:PORT` or `socks5://…`. Neither `Debug` nor `Display` shows user or password.
#[derive(Clone, PartialEq, Eq)]
pub struct Upstream {
    kind: Kind,
    host: String,
    port: u16,
    credentials: Option<Credentials>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http,
    Socks5,
}

#[derive(Clone, PartialEq, Eq)]
struct Credentials {
    user: Zeroizing<String>,
    password: Zeroizing<String>,
}

/// What a proxy did in place of connecting. Names no address, so it may be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The system knows no address of that name, or none that fits the source address.
    Unknown,
    /// It takes no connection.
    Unreachable(io::ErrorKind),
    /// It took the connection and gave no answer in time; or it waits for the relay, which does not answer.
    Silent,
    /// It ended the connection before its answer was whole.
    HungUp,
    /// It demands a user and password, or others than these.
    Credentials,
    /// It answered that it does not connect: its HTTP status, or SOCKS5 code.
    Refused(u16),
    /// It sent something that is no answer of such a proxy.
    NoProxy,
}

impl Fault {
    /// True if the proxy had an answer from nobody else: no relay was tried.
    pub fn is_own(self) -> bool {
        !matches!(self, Self::Refused(_) | Self::Silent)
    }

    /// What to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Unknown => "check its name; the system's resolver must know it",
            Self::Unreachable(_) | Self::HungUp => "check its host and port, and whether it runs",
            Self::Silent => {
                "see whether it runs, and whether it lets connections through to other ports than 443"
            }
            Self::Credentials => "write user and password into the key: http://user:password@HOST:PORT",
            Self::Refused(status) if is_portal(status) => {
                "the network seems to want you to sign in first: open any http:// page in a browser"
            }
            Self::Refused(_) => "ask who runs it to let connections to the network's relays through",
            Self::NoProxy => "check its kind (http or socks5) and port",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the upstream proxy (key `upstream`) ")?;
        match self {
            Self::Unknown => f.write_str("has a name that the system cannot resolve"),
            Self::Unreachable(kind) => write!(f, "takes no connection: {kind}"),
            Self::Silent => write!(f, "did not connect within {} s", Upstream::PATIENCE.as_secs()),
            Self::HungUp => f.write_str("ended the connection without an answer"),
            Self::Credentials => f.write_str("does not accept user and password, or demands them"),
            Self::Refused(status) if is_portal(*status) => {
                write!(f, "leads to a portal's page instead of connecting (status {status})")
            }
            Self::Refused(status @ 100..) => write!(f, "refuses to connect to a relay (status {status})"),
            Self::Refused(code) => {
                write!(f, "refuses to connect to a relay ({}, code {code})", meaning(*code))
            }
            Self::NoProxy => f.write_str("answers with something else: it is no such proxy"),
        }
    }
}

impl Upstream {
    /// How long reaching the proxy and its answer may take together: less than an entry has for its welcome, so that
    /// the blame is right.
    pub const PATIENCE: Duration = Duration::from_secs(4);

    /// Its name or address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Asks on a fresh connection to this proxy for one to `address`; from then on the stream is the relay's.
    pub(crate) async fn ask(&self, stream: &mut TcpStream, address: SocketAddr) -> Result<()> {
        let asked = match self.kind {
            Kind::Http => self.ask_http(stream, address).await,
            Kind::Socks5 => self.ask_socks(stream, address).await,
        };
        asked.map_err(Error::Upstream)
    }

    async fn ask_http(&self, stream: &mut TcpStream, address: SocketAddr) -> Result<(), Fault> {
        let mut request = Zeroizing::new(format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n"));
        if let Some(Credentials { user, password }) = &self.credentials {
            let pair = Zeroizing::new(format!("{}:{}", **user, **password));
            request.push_str("Proxy-Authorization: Basic ");
            push_base64(&mut request, pair.as_bytes());
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.map_err(hung_up)?;
        let mut head = Vec::new();
        loop {
            if head.len() >= HEAD_LIMIT {
                return Err(Fault::NoProxy);
            }
            // A byte at a time: what follows the head is the relay's.
            head.push(stream.read_u8().await.map_err(hung_up)?);
            if head.len() == PREFIX.len() && head != PREFIX {
                return Err(Fault::NoProxy);
            }
            if !head.ends_with(b"\n") {
                continue;
            }
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut fields);
            match response.parse(&head) {
                Err(_) => return Err(Fault::NoProxy),
                Ok(httparse::Status::Partial) => {}
                Ok(httparse::Status::Complete(_)) => match response.code {
                    Some(100..200) => head.clear(),
                    Some(200..300) => return Ok(()),
                    Some(407) => return Err(Fault::Credentials),
                    Some(status) => return Err(Fault::Refused(status)),
                    None => return Err(Fault::NoProxy),
                },
            }
        }
    }

    async fn ask_socks(&self, stream: &mut TcpStream, address: SocketAddr) -> Result<(), Fault> {
        let greeting: &[u8] = if self.credentials.is_some() { &[5, 2, 0, 2] } else { &[5, 1, 0] };
        stream.write_all(greeting).await.map_err(hung_up)?;
        match (read::<2>(stream).await?, &self.credentials) {
            ([5, 0], _) => {}
            ([5, 2], Some(Credentials { user, password })) => {
                let mut message = Zeroizing::new(vec![1]);
                for text in [user, password] {
                    // Bounded when it was parsed.
                    message.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
                    message.extend(text.as_bytes());
                }
                stream.write_all(&message).await.map_err(hung_up)?;
                match read::<2>(stream).await? {
                    [1, 0] => {}
                    [1, _] => return Err(Fault::Credentials),
                    _ => return Err(Fault::NoProxy),
                }
            }
            ([5, 0xFF], _) => return Err(Fault::Credentials),
            _ => return Err(Fault::NoProxy),
        }
        let mut request = vec![5, 1, 0];
        match address {
            SocketAddr::V4(address) => {
                request.push(1);
                request.extend(address.ip().octets());
            }
            SocketAddr::V6(address) => {
                request.push(4);
                request.extend(address.ip().octets());
            }
        }
        request.extend(address.port().to_be_bytes());
        stream.write_all(&request).await.map_err(hung_up)?;
        let [version, code, _, kind] = read::<4>(stream).await?;
        match (version, code) {
            (5, 0) => {}
            (5, code) => return Err(Fault::Refused(code.into())),
            _ => return Err(Fault::NoProxy),
        }
        // What it says of its own address means nothing here.
        let bound = match kind {
            1 => 4,
            4 => 16,
            3 => usize::from(stream.read_u8().await.map_err(hung_up)?),
            _ => return Err(Fault::NoProxy),
        };
        let mut skipped = vec![0; bound + 2];
        stream.read_exact(&mut skipped).await.map(drop).map_err(hung_up)
    }
}

impl FromStr for Upstream {
    type Err = &'static str;

    /// Errors do not repeat the text, since a password may be in it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once("://").ok_or(FORM)?;
        let kind = match scheme.to_ascii_lowercase().as_str() {
            "http" => Kind::Http,
            // Relays are named by address, so both spellings mean the same here.
            "socks5" | "socks5h" => Kind::Socks5,
            _ => return Err(FORM),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, place) = match rest.rsplit_once('@') {
            Some((credentials, place)) => (Some(Credentials::parse(credentials, kind)?), place),
            None => (None, rest),
        };
        let (host, port) = place.rsplit_once(':').ok_or("it names no port: write HOST:PORT")?;
        let port =
            port.parse().ok().filter(|port| *port != 0).ok_or("its port is no number from 1 to 65535")?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(inner) => {
                inner.parse::<Ipv6Addr>().map_err(|_| "it has no IPv6 address in [ ]")?.to_string()
            }
            None => host.to_owned(),
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        match host.is_empty() || !host.bytes().all(plain) || (host.contains(':') && !place.starts_with('[')) {
            true => Err("its host is neither a name nor an address; an IPv6 address stands in [ ]"),
            false => Ok(Self { kind, host, port, credentials }),
        }
    }
}

impl fmt::Display for Upstream {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::Http => "http",
            Kind::Socks5 => "socks5",
        };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = if self.credentials.is_some() { ", credentials redacted" } else { "" };
        write!(f, "Upstream({self}{shown})")
    }
}

impl Credentials {
    fn parse(text: &str, kind: Kind) -> Result<Self, &'static str> {
        let (user, password) = text.split_once(':').ok_or("before the @ there must be user:password")?;
        let (user, password) = (decode(user)?, decode(password)?);
        let short = |text: &str| (1..=255).contains(&text.len());
        match kind {
            Kind::Socks5 if !short(&user) || !short(&password) => {
                Err("by SOCKS5, user and password have 1 to 255 bytes each")
            }
            Kind::Http if user.contains(':') => Err("by HTTP, a user has no `:` in its name"),
            _ => Ok(Self { user, password }),
        }
    }
}

/// Undoes `%40` and the like.
fn decode(text: &str) -> Result<Zeroizing<String>, &'static str> {
    const WRONG: &str =
        "a `%` in user or password must be followed by two hexadecimal digits: write %25 for it";
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).ok_or(WRONG);
        bytes.push(match byte {
            b'%' => (digit(rest.next())? * 16 + digit(rest.next())?) as u8,
            byte => byte,
        });
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| "user and password must be UTF-8")?;
    match text.chars().any(char::is_control) {
        true => Err("user and password must have no control characters"),
        false => Ok(Zeroizing::new(text.to_owned())),
    }
}

/// RFC 4648 §4.
fn push_base64(text: &mut String, bytes: &[u8]) {
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        for (place, byte) in group.iter_mut().skip(1).zip(chunk) {
            *place = *byte;
        }
        let number = u32::from_be_bytes(group);
        for index in 0..4 {
            let sextet = (number >> (18 - 6 * index)) & 63;
            let digit = ALPHABET.get(sextet as usize).copied().unwrap_or_default();
            text.push(if index <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
}

async fn read<const N: usize>(stream: &mut TcpStream) -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await.map_err(hung_up)?;
    Ok(bytes)
}

fn hung_up(_: io::Error) -> Fault {
    Fault::HungUp
}

/// Statuses by which portals send to their page.
fn is_portal(status: u16) -> bool {
    matches!(status, 300..400 | 511)
}

/// RFC 1928 §6.
fn meaning(code: u16) -> &'static str {
    match code {
        2 => "its rules forbid it",
        3 => "the network is unreachable",
        4 => "the relay is unreachable",
        5 => "the relay refused",
        6 => "the relay did not answer",
        8 => "it knows no such addresses",
        _ => "a failure of its own",
    }
}

const FORM: &str = "it must be http://HOST:PORT or socks5://HOST:PORT, with user:password@ before the host if the proxy wants them";
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// How an answer by HTTP begins.
const PREFIX: &[u8] = b"HTTP/";
/// Longest head of an answer.
const HEAD_LIMIT: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_a_proxy_is_understood_and_its_password_never_shown() {
        let upstream: Upstream = "http://ann:p%40ss:w@proxy.test:3128".parse().unwrap();
        assert_eq!((upstream.host(), upstream.port()), ("proxy.test", 3128));
        let credentials = upstream.credentials.as_ref().unwrap();
        assert_eq!((credentials.user.as_str(), credentials.password.as_str()), ("ann", "p@ss:w"));
        for shown in [format!("{upstream}"), format!("{upstream:?}")] {
            assert!(shown.contains("http://proxy.test:3128"), "{shown}");
            assert!(
                !shown.contains("ann") && !shown.contains("p@ss") && !shown.contains("p%40ss"),
                "{shown}"
            );
        }
        let six: Upstream = "SOCKS5H://[2001:db8::1]:1080/".parse().unwrap();
        assert_eq!((six.host(), six.to_string().as_str()), ("2001:db8::1", "socks5://[2001:db8::1]:1080"));
    }

    #[test]
    fn what_names_no_proxy_is_refused_without_repeating_it() {
        for text in [
            "proxy.test:3128",
            "https://proxy.test:3128",
            "http://proxy.test",
            "http://proxy.test:0",
            "http://:3128",
            "http://secret@proxy.test:1",
            "http://a:secret%4@proxy.test:1",
            "http://a:secret%0d%0a@proxy.test:1",
            "socks5://a:@secret.test:1",
            "http://2001:db8::1:1080",
            "http://[secret]:1",
            "http://secret/path:1",
        ] {
            let error = text.parse::<Upstream>().unwrap_err();
            assert!(!error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            let mut text = String::new();
            push_base64(&mut text, plain.as_bytes());
            assert_eq!(text, coded);
        }
    }
}
