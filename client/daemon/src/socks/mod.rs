//! The proxy port's protocols (SOCKS5: RFC 1928, RFC 1929; SOCKS4 and 4a; HTTP/1.1), without sockets.

mod body;
mod codec;
mod country;
pub(crate) mod datagram;
mod five;
mod four;
mod http;
mod reply;
mod request;
mod token;

pub(crate) use body::Body;
pub(crate) use codec::{Handshake, Output};
pub(crate) use five::{CONNECT, QUESTIONS};
pub(crate) use reply::Reply;
pub(crate) use request::{Command, Protocol, Request};

use mizzle_protocol::wire::target::{Host, Target};

/// The host that a name means; an address in a name is an address. `None`: it is no name.
fn host(name: &[u8]) -> Option<Host> {
    // A port is only needed for the checks of `parse`.
    let target = std::str::from_utf8(name).ok().and_then(|name| Target::parse(name, 1).ok());
    target.map(|target| target.host)
}
