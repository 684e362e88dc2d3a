//! The SOCKS5 port of the client's daemon.

use crate::bytes::{Seed, seed};
use crate::socks::{Handshake, Output, Reply};
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
        Some(Output::Connect(request)) => {
            assert!(bytes.ends_with(&request.early_data), "data that the application did not send");
            let mut written = Vec::new();
            request.target.write(&mut written);
            assert!(
                Target::read(&mut Reader::new(&written)) == Ok(request.target),
                "a target changes on its way"
            );
            match request.credentials {
                Some(given) => {
                    assert!(said == [5, 2, 1, 0] && given.user.len() <= 255 && given.password.len() <= 255);
                }
                None => assert!(said == [5, 0]),
            }
        }
        Some(Output::Send(_)) => panic!("an answer is no end"),
    }
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
                Some(Output::Reject(answer)) => {
                    said.extend(&answer);
                    assert!(handshake.poll().is_none());
                    return (said, Some(Output::Reject(answer)));
                }
                Some(Output::Connect(mut request)) => {
                    assert!(handshake.poll().is_none());
                    request.early_data.extend(pieces.flatten());
                    return (said, Some(Output::Connect(request)));
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
        seed("tls", &[&[0x16, 3, 1, 2, 0, 1]]),
        seed("literal_with_dot", &[&[5, 1, 0, 5, 1, 0, 3, 8], b"1.2.3.4.", &[0, 80]]),
        seed("answer", &[&Reply::Succeeded.to_bytes()]),
    ]
}
