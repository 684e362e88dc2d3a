//! The server's side of a SOCKS5 handshake, without sockets.
//!
//! ```text
//! greeting      5 · count 1 · methods            answer    5 · method
//! credentials   1 · length 1 · user · length 1 · password  answer    1 · 0            (RFC 1929)
//! request       5 · command 1 · 0 · type 1 · address · port 2     answer    5 · reply · 0 · 1 · 0.0.0.0:0
//! ```
//! Bytes may arrive one at a time or all at once, with the application's first data behind the request;
//! what is behind it is kept. Whatever a client sends, it gets an answer in the protocol that it speaks, or
//! none; a connection is only ever asked for by a whole, well-formed request.

use super::Reply;
use mizzle_protocol::wire::Reader;
use mizzle_protocol::wire::target::{Host, Target};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A handshake that is under way.
#[derive(Debug, Default)]
pub(crate) struct Handshake {
    buffer: Vec<u8>,
    state: State,
    credentials: Option<Credentials>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Write this and go on.
    Send(Vec<u8>),
    /// Open a stream and answer with a [`Reply`]; what follows belongs to the stream.
    Connect(Request),
    /// Write this (nothing, if empty) and close.
    Reject(Vec<u8>),
}

/// A well-formed CONNECT.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Where to.
    pub(crate) target: Target,
    /// What the client gave as user and password: all are accepted, each has sessions of its own.
    pub(crate) credentials: Option<Credentials>,
    /// What the application has sent without waiting for the answer.
    pub(crate) early_data: Vec<u8>,
}

/// User and password: an isolation token, no secret of ours.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// Up to 255 bytes, not necessarily text.
    pub(crate) user: Vec<u8>,
    /// Up to 255 bytes, not necessarily text.
    pub(crate) password: Vec<u8>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(redacted)")
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Greeting,
    Credentials,
    Request,
    Done,
}

impl Handshake {
    /// A handshake before the first byte.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Takes what has arrived; then call [`Self::poll`] until it returns `None`. A message has at most
    /// 513 bytes, so that is all that the buffer holds beyond one call's `bytes`.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.buffer.extend(bytes);
    }

    /// The next thing to do; `None`: wait for more bytes. After `Connect` or `Reject` it stays `None`.
    pub(crate) fn poll(&mut self) -> Option<Output> {
        let output = match self.state {
            State::Greeting => self.greeting(),
            State::Credentials => self.read_credentials(),
            State::Request => self.request(),
            State::Done => None,
        };
        if matches!(output, Some(Output::Connect(_) | Output::Reject(_))) {
            self.state = State::Done;
            self.buffer = Vec::new();
        }
        output
    }

    fn greeting(&mut self) -> Option<Output> {
        match self.buffer.first()? {
            5 => {}
            // SOCKS4 has an answer for "no".
            4 => return Some(Output::Reject(vec![0, 0x5b, 0, 0, 0, 0, 0, 0])),
            // The first letter of an HTTP method.
            b'A'..=b'Z' => return Some(Output::Reject(explain_to_http())),
            // A TLS hello (0x16) among others: nothing that we could say would be understood.
            _ => return Some(Output::Reject(Vec::new())),
        }
        let mut reader = Reader::new(&self.buffer);
        let _version = reader.u8().ok()?;
        let count = reader.u8().ok()?;
        let methods = reader.take(usize::from(count)).ok()?;
        // Credentials first: who offers both has an isolation token to give.
        let method = [PASSWORD, NO_AUTHENTICATION].into_iter().find(|method| methods.contains(method));
        self.state = match method {
            Some(PASSWORD) => State::Credentials,
            Some(_) => State::Request,
            None => return Some(Output::Reject(vec![5, NO_ACCEPTABLE_METHOD])),
        };
        self.consume(2 + usize::from(count));
        method.map(|method| Output::Send(vec![5, method]))
    }

    fn read_credentials(&mut self) -> Option<Output> {
        let mut reader = Reader::new(&self.buffer);
        if reader.u8().ok()? != 1 {
            return Some(Output::Reject(vec![1, 1]));
        }
        let length = reader.u8().ok()?;
        let user = reader.take(usize::from(length)).ok()?.to_vec();
        let length = reader.u8().ok()?;
        let password = reader.take(usize::from(length)).ok()?.to_vec();
        self.consume(3 + user.len() + password.len());
        self.credentials = Some(Credentials { user, password });
        self.state = State::Request;
        Some(Output::Send(vec![1, 0]))
    }

    fn request(&mut self) -> Option<Output> {
        let reject = |reply: Reply| Some(Output::Reject(reply.to_bytes()));
        let mut reader = Reader::new(&self.buffer);
        if reader.u8().ok()? != 5 {
            return reject(Reply::GeneralFailure);
        }
        if reader.u8().ok()? != CONNECT {
            return reject(Reply::CommandNotSupported);
        }
        if reader.u8().ok()? != 0 {
            return reject(Reply::GeneralFailure);
        }
        let host = match reader.u8().ok()? {
            1 => Some(Host::Address(IpAddr::V4(Ipv4Addr::from(reader.array::<4>().ok()?)))),
            4 => Some(Host::Address(IpAddr::V6(Ipv6Addr::from(reader.array::<16>().ok()?)))),
            3 => {
                let length = reader.u8().ok()?;
                let name = reader.take(usize::from(length)).ok()?;
                // A port is only needed for the checks of `parse`; the real one follows.
                let name = std::str::from_utf8(name).ok().and_then(|name| Target::parse(name, 1).ok());
                name.map(|target| target.host)
            }
            _ => return reject(Reply::AddressTypeNotSupported),
        };
        let port = reader.u16().ok()?;
        let early_data = reader.rest().to_vec();
        match host {
            Some(host) if port != 0 => Some(Output::Connect(Request {
                target: Target { host, port },
                credentials: self.credentials.take(),
                early_data,
            })),
            _ => reject(Reply::GeneralFailure),
        }
    }

    fn consume(&mut self, count: usize) {
        self.buffer.drain(..count.min(self.buffer.len()));
    }
}

fn explain_to_http() -> Vec<u8> {
    let page = "This is the SOCKS5 port of Mizzle, not an HTTP server and not an HTTP proxy.\n\
        Set it as a SOCKS5 proxy that also resolves names, for example:\n\n  \
        curl --socks5-hostname HOST:PORT http://example.com/\n\n\
        In Firefox: Settings, Network Settings, SOCKS v5, Proxy DNS when using SOCKS v5.\n";
    format!(
        "HTTP/1.1 501 Not Implemented\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    )
    .into_bytes()
}

const NO_AUTHENTICATION: u8 = 0;
const PASSWORD: u8 = 2;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Everything that a client gets that sends `bytes` in pieces of `piece` bytes, and the last output.
    fn talk(bytes: &[u8], piece: usize) -> (Vec<u8>, Option<Output>) {
        let mut handshake = Handshake::new();
        let mut sent = Vec::new();
        let mut pieces = bytes.chunks(piece);
        while let Some(bytes) = pieces.next() {
            handshake.receive(bytes);
            while let Some(output) = handshake.poll() {
                match output {
                    Output::Send(answer) => sent.extend(answer),
                    Output::Reject(answer) => {
                        sent.extend(&answer);
                        assert_eq!(handshake.poll(), None);
                        return (sent, Some(Output::Reject(answer)));
                    }
                    Output::Connect(mut request) => {
                        assert_eq!(handshake.poll(), None);
                        request.early_data.extend(pieces.flatten());
                        return (sent, Some(Output::Connect(request)));
                    }
                }
            }
        }
        (sent, None)
    }

    /// The outcome of a request, whatever the pieces it comes in.
    fn request(bytes: &[u8]) -> Result<Request, Vec<u8>> {
        let whole = [&[5, 1, 0], bytes].concat();
        let results: Vec<_> = [1, 2, 3, 7, whole.len()].map(|piece| talk(&whole, piece)).into();
        for result in &results {
            assert_eq!(result, &results[0]);
        }
        match results.into_iter().next().unwrap() {
            (sent, Some(Output::Connect(request))) => {
                assert_eq!(sent, [5, 0]);
                Ok(request)
            }
            (_, Some(Output::Reject(answer))) => Err(answer),
            other => panic!("no outcome: {other:?}"),
        }
    }

    fn name(name: &[u8], port: u16) -> Vec<u8> {
        [&[5, 1, 0, 3, name.len() as u8], name, &port.to_be_bytes()].concat()
    }

    #[test]
    fn targets_by_address_and_name_are_understood_in_any_pieces() {
        let v4 = request(&[5, 1, 0, 1, 192, 0, 2, 7, 0, 80]).unwrap();
        assert!(v4.target == Target::parse("192.0.2.7", 80).unwrap());
        let mut bytes = vec![5, 1, 0, 4];
        bytes.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend([1, 187]);
        assert!(request(&bytes).unwrap().target == Target::parse("2001:db8::1", 443).unwrap());
        for (text, host) in [("Example.Test.", "example.test"), ("192.0.2.7", "192.0.2.7"), ("[::1]", "::1")]
        {
            assert!(
                request(&name(text.as_bytes(), 8080)).unwrap().target == Target::parse(host, 8080).unwrap()
            );
        }
    }

    #[test]
    fn what_the_application_sends_without_waiting_is_kept() {
        let bytes = [name(b"a.test", 80), b"GET / HTTP/1.1\r\n".to_vec()].concat();
        assert_eq!(request(&bytes).unwrap().early_data, b"GET / HTTP/1.1\r\n");
    }

    #[test]
    fn a_method_is_chosen_from_what_is_offered() {
        let all: Vec<u8> = [5, 255].into_iter().chain(0..255).collect();
        assert_eq!(talk(&all, 1).0, [5, 2]);
        assert_eq!(talk(&[5, 2, 0, 2], 1).0, [5, 2]);
        assert_eq!(talk(&[5, 2, 2, 0], 1).0, [5, 2]);
        assert_eq!(talk(&[5, 2, 1, 0], 1).0, [5, 0]);
        for none in [&[5, 0][..], &[5, 1, 1], &[5, 2, 0x80, 0xff]] {
            assert_eq!(talk(none, 1).1, Some(Output::Reject(vec![5, 0xff])));
        }
    }

    #[test]
    fn any_user_and_password_isolate() {
        for (user, password) in
            [(&b""[..], &b""[..]), (b"a", b"b"), (&[0xff; 255], &[0; 255]), (b"", b"only")]
        {
            let mut bytes = vec![5, 1, 2, 1, user.len() as u8];
            bytes.extend(user);
            bytes.push(password.len() as u8);
            bytes.extend(password);
            bytes.extend(name(b"a.test", 1));
            for piece in [1, 5, bytes.len()] {
                let (sent, output) = talk(&bytes, piece);
                assert_eq!(sent, [5, 2, 1, 0]);
                let Some(Output::Connect(request)) = output else { panic!("no connection: {output:?}") };
                let credentials = request.credentials.unwrap();
                assert_eq!((&credentials.user[..], &credentials.password[..]), (user, password));
            }
        }
        assert_eq!(talk(&[5, 1, 2, 5, 0, 0], 1).0, [5, 2, 1, 1]);
    }

    #[test]
    fn a_name_that_is_none_gets_an_error_and_no_connection() {
        let failure = Err(Reply::GeneralFailure.to_bytes());
        for bad in [&b""[..], b"a\0.test", b"a\r\n.test", b"\xff\xfe", b"a b", b".", &[b'a'; 255]] {
            assert_eq!(request(&name(bad, 80)), failure, "{bad:?}");
        }
        assert_eq!(request(&name(b"a.test", 0)), failure);
        assert_eq!(request(&[5, 1, 0, 1, 192, 0, 2, 7, 0, 0]), failure);
    }

    #[test]
    fn what_is_not_offered_gets_its_code() {
        let code = |bytes: &[u8]| request(bytes).unwrap_err()[1];
        for command in [0, 2, 3, 4, 0xf0, 0xf1, 0xff] {
            assert_eq!(code(&[5, command, 0, 1, 1, 2, 3, 4, 0, 80]), 7);
        }
        for kind in [0, 2, 5, 0xff] {
            assert_eq!(code(&[5, 1, 0, kind, 1, 2, 3, 4, 0, 80]), 8);
        }
        assert_eq!(code(&[5, 1, 1, 1, 1, 2, 3, 4, 0, 80]), 1);
        assert_eq!(code(&[4, 1, 0, 1, 1, 2, 3, 4, 0, 80]), 1);
    }

    #[test]
    fn other_protocols_are_answered_in_their_own_words_or_not_at_all() {
        let (sent, _) = talk(b"GET / HTTP/1.1\r\n\r\n", 1);
        let page = String::from_utf8(sent).unwrap();
        assert!(page.starts_with("HTTP/1.1 501 ") && page.contains("SOCKS5"), "{page}");
        assert_eq!(talk(&[0x16, 3, 1, 2, 0, 1], 1), (Vec::new(), Some(Output::Reject(Vec::new()))));
        assert_eq!(talk(&[4, 1, 0, 80, 1, 2, 3, 4, 0], 1).0, [0, 0x5b, 0, 0, 0, 0, 0, 0]);
        assert!(talk(&[0; 20], 3).0.is_empty());
    }

    #[test]
    fn credentials_and_targets_stay_out_of_debug_output() {
        let bytes = [&[5, 1, 2, 1, 4][..], b"user", &[4], b"pass", &name(b"secret.test", 80)].concat();
        let (_, output) = talk(&bytes, 9);
        let text = format!("{output:?}");
        assert!(!text.contains("user\"") && !text.contains("secret") && !text.contains("pass\""), "{text}");
    }

    proptest! {
        #[test]
        fn no_input_panics_or_loops(bytes in proptest::collection::vec(any::<u8>(), 1..1200), piece in 1..300usize) {
            talk(&bytes, piece);
        }

        #[test]
        fn no_input_after_a_valid_greeting_panics_and_pieces_do_not_matter(
            method in prop_oneof![Just(0u8), Just(2)],
            head in prop_oneof![Just(vec![]), Just(vec![5, 1, 0, 3]), Just(vec![1, 0, 0, 5, 1, 0, 3])],
            tail in proptest::collection::vec(any::<u8>(), 0..600),
            piece in 1..300usize,
        ) {
            let bytes = [vec![5, 1, method], head, tail].concat();
            prop_assert_eq!(talk(&bytes, piece), talk(&bytes, 1));
        }

        #[test]
        fn every_well_formed_request_connects(host in "[a-z0-9_-]{1,63}(\\.[a-z0-9]{1,20}){0,4}", port in 1..=u16::MAX) {
            let result = request(&name(host.as_bytes(), port)).unwrap();
            prop_assert!(result.target == Target::parse(&host, port).unwrap());
        }
    }
}
