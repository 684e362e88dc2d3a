//! The SOCKS5 port (RFC 1928, RFC 1929): a codec that never touches a socket, and the listener that does.

mod codec;
mod reply;

pub(crate) use codec::{Credentials, Handshake, Output, Request};
pub(crate) use reply::Reply;
