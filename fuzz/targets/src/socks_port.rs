//! The proxy port of the client's daemon.

use crate::bytes::{Seed, seed};
use crate::socks::{self, Command, Handshake, Output, Protocol, Reply};
use mizzle_protocol::wire::Reader;
use mizzle_protocol::wire::target::Target;

/// What an application sends: it means the same in pieces of any size.
pub fn socks(bytes: &[u8]) {
    let at_once = talk(bytes, bytes.len().max(1));
    for piece in [1, 2, 7] {
        assert!(talk(bytes, piece) == at_once, "pieces of {piece} bytes mean something else");
    }
    let (said, end) = at_once;
    match end {
        None => {}
        Some(Output::Reject(answer)) => assert!(said.ends_with(&answer)),
        Some(Output::Request(request)) => {
            if let Command::Connect(target) = &request.command {
                let mut written = Vec::new();
                target.write(&mut written);
                let read = Target::read(&mut Reader::new(&written));
                assert!(read.as_ref() == Ok(target), "a target changes on its way");
            }
            match request.protocol {
                Protocol::Socks5 if request.token.is_empty() => assert!(said == [5, 0]),
                Protocol::Socks5 => assert!(said == [5, 2, 1, 0] && request.token.len() <= 513),
                _ => assert!(said.is_empty(), "an answer before the exit's"),
            }
            if request.protocol == Protocol::HttpForward {
                plain(&request.early_data);
            } else {
                assert!(bytes.ends_with(&request.early_data), "data that the application did not send");
            }
        }
        Some(Output::Send(_)) => panic!("an answer is no end"),
    }
}

/// What an origin gets: a head that is one, with what was meant for the proxy left out.
fn plain(bytes: &[u8]) {
    let mut headers = [httparse::EMPTY_HEADER; 130];
    let mut request = httparse::Request::new(&mut headers);
    assert!(request.parse(bytes).is_ok_and(|status| status.is_complete()), "an origin gets no HTTP");
    // Not the form that is meant for proxies; `://` may well stand in a path.
    let path = request.path.unwrap();
    assert!(path.starts_with('/') || path == "*", "an origin gets no path");
    let count = |name: &str| request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name)).count();
    assert!(count("host") == 1 && count("connection") == 1);
    assert!(count("content-length") == 0 || count("transfer-encoding") == 0);
    for name in ["proxy-authorization", "proxy-connection", "x-mizzle-isolation", "te", "upgrade"] {
        assert!(count(name) == 0, "{name} passes");
    }
}

/// A datagram of an application: what is understood is written as it was read.
pub fn datagram(bytes: &[u8]) {
    let Ok((target, body)) = socks::datagram::open(bytes) else { return };
    assert!(bytes.ends_with(body) && target.port != 0);
    let mut written = Vec::new();
    target.write(&mut written);
    assert!(Target::read(&mut Reader::new(&written)).as_ref() == Ok(&target), "a target changes on its way");
    if let Some(wrapped) = socks::datagram::wrap(&target, body) {
        let (source, same) = socks::datagram::open(&wrapped).ok().unwrap();
        assert!(source == target && same == body);
    }
}

pub(crate) fn datagram_seeds() -> Vec<Seed> {
    vec![
        seed("ipv4", &[&[0, 0, 0, 1, 192, 0, 2, 7, 0, 53], b"question"]),
        seed("ipv6", &[&[0, 0, 0, 4, 0x20, 1, 0xd, 0xb8], &[0; 11], &[1, 1, 187], b"hello"]),
        seed("name", &[&[0, 0, 0, 3, 7], b"A.test.", &[0, 53]]),
        seed("literal", &[&[0, 0, 0, 3, 9], b"192.0.2.7", &[0, 53, 1]]),
        seed("fragment", &[&[0, 0, 1, 1, 192, 0, 2, 7, 0, 53, 1]]),
    ]
}

/// All that the port says to an application that sends `bytes` in pieces, and how it ends.
fn talk(bytes: &[u8], piece: usize) -> (Vec<u8>, Option<Output>) {
    let mut handshake = Handshake::new();
    let mut said = Vec::new();
    let mut pieces = bytes.chunks(piece);
    while let Some(bytes) = pieces.next() {
        handshake.receive(bytes);
        // At most an answer to the greeting, one to the credentials, and the end.
        for _ in 0..4 {
            match handshake.poll() {
                None => break,
                Some(Output::Send(answer)) => said.extend(answer),
                // A body that breaks off while its head is read is told; later, nobody hears it.
                Some(Output::Reject(answer)) if String::from_utf8_lossy(&answer).contains("not chunked") => {
                    return (said, None);
                }
                Some(Output::Reject(answer)) => {
                    said.extend(&answer);
                    assert!(handshake.poll().is_none());
                    return (said, Some(Output::Reject(answer)));
                }
                Some(Output::Request(mut request)) => {
                    assert!(handshake.poll().is_none());
                    for rest in pieces {
                        let count = request.body.as_mut().map_or(rest.len(), |body| body.take(rest));
                        request.early_data.extend(&rest[..count]);
                    }
                    // How much had passed before the fault depends on the pieces.
                    if request.body.as_ref().is_some_and(|body| body.is_broken()) {
                        return (said, None);
                    }
                    return (said, Some(Output::Request(request)));
                }
            }
        }
        assert!(handshake.poll().is_none(), "the port has more to say than the protocol allows");
    }
    (said, None)
}

pub(crate) fn socks_seeds() -> Vec<Seed> {
    let name = [&[5, 1, 0, 3, 6][..], b"a.test", &[1, 187]].concat();
    vec![
        seed("name", &[&[5, 1, 0], &name, b"GET / HTTP/1.1\r\n"]),
        seed("ipv4", &[&[5, 1, 0, 5, 1, 0, 1, 192, 0, 2, 7, 0, 80]]),
        seed("ipv6", &[&[5, 2, 0, 1, 5, 1, 0, 4], &[0x20, 1, 0xd, 0xb8], &[0; 11], &[1, 0, 80]]),
        seed("credentials", &[&[5, 2, 0, 2, 1, 4], b"user", &[4], b"pass", &name]),
        seed("no_method", &[&[5, 1, 1]]),
        seed("bind", &[&[5, 1, 0, 5, 2, 0, 1, 192, 0, 2, 7, 0, 80]]),
        seed("socks4", &[&[4, 1, 0, 80, 192, 0, 2, 7, 0]]),
        seed("http", &[b"GET / HTTP/1.1\r\n\r\n"]),
        seed("socks4a", &[&[4, 1, 0, 80, 0, 0, 0, 1], b"user\0a.test\0early"]),
        seed("associate", &[&[5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0]]),
        seed("resolve", &[&[5, 1, 0, 5, 0xf0, 0, 3, 6], b"a.test", &[0, 0]]),
        seed("resolve_address", &[&[5, 1, 0, 5, 0xf1, 0, 1, 192, 0, 2, 7, 0, 0]]),
        seed("connect", &[b"CONNECT a.test:443 HTTP/1.1\r\nProxy-Authorization: Basic YTpi\r\n\r\nearly"]),
        seed("plain", &[b"POST http://a.test/p?q HTTP/1.1\r\nTE: x\r\nContent-Length: 4\r\n\r\nbodyGET"]),
        seed("chunked", &[b"PUT http://a.test HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nab\r\n0\r\nA: b\r\n\r\nGET"]),
        seed("tls", &[&[0x16, 3, 1, 2, 0, 1]]),
        seed("literal_with_dot", &[&[5, 1, 0, 5, 1, 0, 3, 8], b"1.2.3.4.", &[0, 80]]),
        seed("answer", &[&Reply::Succeeded.to_bytes()]),
    ]
}
