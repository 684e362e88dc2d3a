//! The server's side of a handshake, in the protocol that its first byte tells. (spec: PROXY-1, PROXY-5)
//!
//! ```text
//! SOCKS5        greeting 5 · count 1 · methods            answer    5 · method
//!               1 · length 1 · user · length 1 · password  answer    1 · 0            (RFC 1929)
//!               5 · command 1 · 0 · type 1 · address · port 2     answer    5 · reply · 0 · 1 · 0.0.0.0:0
//! SOCKS4, 4a    4 · …                                     see four.rs
//! HTTP          a letter from A to Z                      see http.rs
//! ```
//! Bytes may arrive one at a time or all at once, with the application's first data behind the request;
//! what is behind it is kept. Whatever a client sends, it gets an answer in the protocol that it speaks, or
//! none; a connection is only ever asked for by a whole, well-formed request.

use super::country::{self, NoCountry};
use super::{Request, five, four, http, token};
use mizzle_protocol::country::Country;
use mizzle_protocol::wire::Reader;

/// A handshake that is under way.
#[derive(Default)]
pub(crate) struct Handshake {
    buffer: Vec<u8>,
    state: State,
    token: Vec<u8>,
    exit_country: Option<Country>,
    /// Bytes of an HTTP head in which its end is not.
    scanned: usize,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Write this and go on.
    Send(Vec<u8>),
    /// Do this and answer with a [`super::Reply`].
    Request(Request),
    /// Write this (nothing, if empty) and close.
    Reject(Vec<u8>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    First,
    Greeting,
    Credentials,
    Request,
    Four,
    Http,
    Done,
}

impl Handshake {
    /// A handshake before the first byte.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Takes what has arrived; then call [`Self::poll`] until it returns `None`. A SOCKS message has at most
    /// 522 bytes and an HTTP head at most 32 KiB, so that is all that the buffer holds beyond one call's `bytes`.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.buffer.extend(bytes);
    }

    /// The next thing to do; `None`: wait for more bytes. After `Request` or `Reject` it stays `None`.
    pub(crate) fn poll(&mut self) -> Option<Output> {
        if self.state == State::First {
            self.state = match self.buffer.first()? {
                5 => State::Greeting,
                4 => State::Four,
                // The first letter of an HTTP method.
                b'A'..=b'Z' => State::Http,
                // A TLS hello (0x16) among others: nothing that we could say would be understood.
                _ => {
                    self.state = State::Done;
                    self.buffer = Vec::new();
                    return Some(Output::Reject(Vec::new()));
                }
            };
        }
        let output = match self.state {
            State::Greeting => self.greeting(),
            State::Credentials => self.credentials(),
            State::Request => five::request(&self.buffer, &mut self.token, self.exit_country),
            State::Four => four::request(&self.buffer),
            State::Http => self.http(),
            State::First | State::Done => None,
        };
        if matches!(output, Some(Output::Request(_) | Output::Reject(_))) {
            self.state = State::Done;
            self.buffer = Vec::new();
        }
        output
    }

    fn greeting(&mut self) -> Option<Output> {
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

    fn credentials(&mut self) -> Option<Output> {
        let mut reader = Reader::new(&self.buffer);
        if reader.u8().ok()? != 1 {
            return Some(Output::Reject(vec![1, 1]));
        }
        let length = reader.u8().ok()?;
        let user = reader.take(usize::from(length)).ok()?;
        let length = reader.u8().ok()?;
        let password = reader.take(usize::from(length)).ok()?;
        let count = 3 + user.len() + password.len();
        match country::of_user(user) {
            Ok(country) => self.exit_country = country,
            Err(NoCountry) => return Some(Output::Reject(vec![1, 1])),
        }
        self.token = token::password(user, password);
        self.consume(count);
        self.state = State::Request;
        Some(Output::Send(vec![1, 0]))
    }

    fn http(&mut self) -> Option<Output> {
        let end = http::head_end(&self.buffer, self.scanned);
        self.scanned = self.buffer.len();
        match end {
            Some(end) if end <= http::LONGEST_HEAD => {
                let (head, rest) = self.buffer.split_at_checked(end)?;
                Some(http::request(head, rest))
            }
            None if self.buffer.len() <= http::LONGEST_HEAD => None,
            _ => Some(Output::Reject(http::too_long())),
        }
    }

    fn consume(&mut self, count: usize) {
        self.buffer.drain(..count.min(self.buffer.len()));
    }
}

const NO_AUTHENTICATION: u8 = 0;
const PASSWORD: u8 = 2;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;

#[cfg(test)]
mod tests {
    use super::super::{Command, Protocol, Reply};
    use super::*;
    use mizzle_protocol::wire::target::Target;
    use proptest::prelude::*;
    use std::net::Ipv6Addr;

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
                    Output::Request(mut request) => {
                        assert_eq!(handshake.poll(), None);
                        for rest in pieces {
                            let count = request.body.as_mut().map_or(rest.len(), |body| body.take(rest));
                            request.early_data.extend(&rest[..count]);
                        }
                        if request.body.as_ref().is_some_and(|body| body.is_broken()) {
                            return (sent, None);
                        }
                        return (sent, Some(Output::Request(request)));
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
            (sent, Some(Output::Request(request))) => {
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
        assert!(v4.command == Command::Connect(Target::parse("192.0.2.7", 80).unwrap()));
        let mut bytes = vec![5, 1, 0, 4];
        bytes.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend([1, 187]);
        assert!(
            request(&bytes).unwrap().command == Command::Connect(Target::parse("2001:db8::1", 443).unwrap())
        );
        for (text, host) in [("Example.Test.", "example.test"), ("192.0.2.7", "192.0.2.7"), ("[::1]", "::1")]
        {
            assert!(
                request(&name(text.as_bytes(), 8080)).unwrap().command
                    == Command::Connect(Target::parse(host, 8080).unwrap())
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
                let Some(Output::Request(request)) = output else { panic!("no connection: {output:?}") };
                assert_eq!(request.token, token::password(user, password));
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
        for command in [0, 2, 4, 0xef, 0xf2, 0xff] {
            assert_eq!(code(&[5, command, 0, 1, 1, 2, 3, 4, 0, 80]), 7);
        }
        for kind in [0, 2, 5, 0xff] {
            assert_eq!(code(&[5, 1, 0, kind, 1, 2, 3, 4, 0, 80]), 8);
        }
        assert_eq!(code(&[5, 1, 1, 1, 1, 2, 3, 4, 0, 80]), 1);
        assert_eq!(code(&[4, 1, 0, 1, 1, 2, 3, 4, 0, 80]), 1);
    }

    #[test]
    fn what_speaks_no_known_protocol_is_closed_without_a_word() {
        assert_eq!(talk(&[0x16, 3, 1, 2, 0, 1], 1), (Vec::new(), Some(Output::Reject(Vec::new()))));
        assert!(talk(&[0; 20], 3).0.is_empty());
    }

    #[test]
    fn datagrams_look_ups_and_questions_are_understood() {
        let v4 = |command: u8, port: [u8; 2]| [&[5, command, 0, 1, 192, 0, 2, 7][..], &port].concat();
        let asked = |bytes: &[u8]| request(bytes).unwrap().command;
        assert!(asked(&v4(3, [0, 0])) == Command::Associate("192.0.2.7:0".parse().unwrap()));
        assert!(asked(&v4(0xf1, [0, 0])) == Command::ResolveAddress("192.0.2.7".parse().unwrap()));
        let mut by_name = name(b"A.test", 0);
        by_name[1] = 0xf0;
        assert!(asked(&by_name) == Command::Resolve(super::super::host(b"a.test").unwrap()));
        by_name[1] = 0xd5;
        assert!(asked(&by_name) == Command::Questions);
        by_name[1] = 3;
        assert!(asked(&by_name) == Command::Associate("0.0.0.0:0".parse().unwrap()));
        by_name[1] = 0xf1;
        assert_eq!(request(&by_name).unwrap_err()[1], 8);
    }

    fn connect(bytes: &[u8]) -> Request {
        let results: Vec<_> = [1, 2, 3, 7, bytes.len()].map(|piece| talk(bytes, piece)).into();
        for result in &results {
            assert_eq!(result, &results[0]);
        }
        match results.into_iter().next().unwrap() {
            (sent, Some(Output::Request(request))) => {
                assert!(sent.is_empty());
                request
            }
            other => panic!("no connection: {other:?}"),
        }
    }

    fn rejected(bytes: &[u8]) -> String {
        let (sent, end) = talk(bytes, 5);
        assert!(matches!(end, Some(Output::Reject(_))), "{end:?}");
        String::from_utf8_lossy(&sent).into_owned()
    }

    #[test]
    fn socks4_by_address_and_by_name_with_user_ids_that_isolate() {
        let plain = connect(&[4, 1, 0, 80, 192, 0, 2, 7, 0, b'x']);
        assert!(plain.command == Command::Connect(Target::parse("192.0.2.7", 80).unwrap()));
        assert_eq!(
            (plain.protocol, &plain.token[..], &plain.early_data[..]),
            (Protocol::Socks4, &b""[..], &b"x"[..])
        );
        let named = [&[4, 1, 1, 187, 0, 0, 0, 9][..], b"ann\0", b"a.test.\0", b"early"].concat();
        let named = connect(&named);
        assert!(named.command == Command::Connect(Target::parse("a.test", 443).unwrap()));
        assert_eq!((&named.token[..], &named.early_data[..]), (&b"\x02ann"[..], &b"early"[..]));
    }

    #[test]
    fn a_socks4_request_that_is_none_is_refused_in_its_own_words() {
        let refused = [0, 0x5b, 0, 0, 0, 0, 0, 0];
        let endless = [&[4, 1, 0, 80, 192, 0, 2, 7][..], &[b'u'; 2_000]].concat();
        for bytes in [
            endless.as_slice(),
            &[4, 2, 0, 80, 192, 0, 2, 7, 0],
            &[4, 1, 0, 0, 192, 0, 2, 7, 0],
            b"\x04\x01\0\x50\0\0\0\x01\0\0",
            b"\x04\x01\0\x50\0\0\0\x01\0a\r\nb\0",
            &[&[4, 1, 0, 80, 0, 0, 0, 1, 0][..], &[b'a'; 300]].concat(),
        ] {
            assert_eq!(talk(bytes, 3).0, refused, "{bytes:?}");
        }
    }

    #[test]
    fn http_connect_is_understood_and_its_tokens_isolate() {
        let bytes = b"CONNECT A.test:443 HTTP/1.1\r\nHost: A.test:443\r\n\r\n\x16early";
        let request = connect(bytes);
        assert!(request.command == Command::Connect(Target::parse("a.test", 443).unwrap()));
        assert_eq!((request.protocol, &request.early_data[..]), (Protocol::HttpConnect, &b"\x16early"[..]));
        assert!(request.token.is_empty());
        let v6 = connect(b"CONNECT [2001:db8::1]:443 HTTP/1.0\n\n");
        assert!(v6.command == Command::Connect(Target::parse("2001:db8::1", 443).unwrap()));
        let token =
            |header: &str| connect(format!("CONNECT a:1 HTTP/1.1\r\n{header}\r\n\r\n").as_bytes()).token;
        let tokens = [
            "X: y",
            "Proxy-Authorization: Basic YTpi",
            "proxy-authorization: Basic YTpj",
            "X-Mizzle-Isolation: Basic YTpi",
        ]
        .map(token);
        for (index, one) in tokens.iter().enumerate() {
            assert!(tokens.iter().skip(index + 1).all(|other| other != one));
        }
    }

    #[test]
    fn a_plain_request_goes_on_without_what_was_for_the_proxy() {
        let head = "POST http://A.test:8080/p?q#f HTTP/1.1\r\nHost: other.test\r\nConnection: keep-alive, X-Hop\r\n\
            X-Hop: 1\r\nProxy-Authorization: Basic YTpi\r\nProxy-Connection: keep-alive\r\nX-Mizzle-Isolation: t\r\n\
            TE: trailers\r\nUpgrade: h2c\r\nAccept: */*\r\nContent-Length: 4\r\n\r\n";
        let request = connect(format!("{head}bodyGET http://evil.test/ HTTP/1.1\r\n\r\n").as_bytes());
        assert!(request.command == Command::Connect(Target::parse("a.test", 8080).unwrap()));
        let sent = String::from_utf8(request.early_data).unwrap();
        assert_eq!(
            sent,
            "POST /p?q HTTP/1.1\r\nHost: A.test:8080\r\nAccept: */*\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
        );
        let chunked =
            b"PUT http://a.test HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\nGET ";
        let sent = String::from_utf8(connect(chunked).early_data).unwrap();
        assert!(
            sent.starts_with("PUT / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n"),
            "{sent}"
        );
        assert!(sent.ends_with("\r\n\r\n2\r\nab\r\n0\r\n\r\n"), "{sent}");
        let query = String::from_utf8(connect(b"GET http://a.test?x HTTP/1.1\r\n\r\n").early_data).unwrap();
        assert!(query.starts_with("GET /?x HTTP/1.1\r\n"), "{query}");
    }

    #[test]
    fn an_http_request_that_is_none_gets_a_status_and_no_connection() {
        let status = |bytes: &[u8]| rejected(bytes).split(' ').nth(1).unwrap().to_owned();
        for bad in [
            "GET http://u:p@a.test/ HTTP/1.1\r\n\r\n",
            "GET http:///x HTTP/1.1\r\n\r\n",
            "GET http://a.test:0/ HTTP/1.1\r\n\r\n",
            "GET http://a.test:99999/ HTTP/1.1\r\n\r\n",
            "CONNECT a.test HTTP/1.1\r\n\r\n",
            "CONNECT ::1:80 HTTP/1.1\r\n\r\n",
            "CONNECT a.test:+80 HTTP/1.1\r\n\r\n",
            "GET http://a.test/ HTTP/1.1\r\nA b: c\r\n\r\n",
            "GET http://a.test/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET http://a.test/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "GET http://a.test/ HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "GET http://a.test/ HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "GET http://a.test/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GARBAGE\r\n\r\n",
        ] {
            assert_eq!(status(bad.as_bytes()), "400", "{bad}");
        }
        assert_eq!(status(b"GET https://a.test/ HTTP/1.1\r\n\r\n"), "501");
        assert_eq!(status(&[b'A'; 40_000]), "431");
        let page = rejected(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(page.contains("SOCKS5") && page.contains("400"), "{page}");
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
            prop_assert!(result.command == Command::Connect(Target::parse(&host, port).unwrap()));
        }
    }
}
