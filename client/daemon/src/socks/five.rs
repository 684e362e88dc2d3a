//! A SOCKS5 request, behind greeting and credentials. (spec: PROXY-1)

use super::{Command, Output, Protocol, Reply, Request};
use mizzle_protocol::country::Country;
use mizzle_protocol::wire::Reader;
use mizzle_protocol::wire::target::{Host, Target};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Reads a request; `None`: it is not whole yet. It takes the token only when it is.
pub(super) fn request(buffer: &[u8], token: &mut Vec<u8>, exit_country: Option<Country>) -> Option<Output> {
    let reject = |reply: Reply| Some(Output::Reject(reply.to_bytes()));
    let mut reader = Reader::new(buffer);
    if reader.u8().ok()? != 5 {
        return reject(Reply::GeneralFailure);
    }
    let command = reader.u8().ok()?;
    if ![CONNECT, ASSOCIATE, RESOLVE, RESOLVE_ADDRESS, QUESTIONS].contains(&command) {
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
            super::host(reader.take(usize::from(length)).ok()?)
        }
        _ => return reject(Reply::AddressTypeNotSupported),
    };
    let port = reader.u16().ok()?;
    let command = match (command, host) {
        (CONNECT, Some(host)) if port != 0 => Command::Connect(Target { host, port }),
        (ASSOCIATE, Some(Host::Address(address))) => Command::Associate(SocketAddr::new(address, port)),
        // Where it will send from is the application's to say, and a name says nothing.
        (ASSOCIATE, Some(_)) => Command::Associate(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)),
        // A look-up has no port; what stands there means nothing.
        (RESOLVE, Some(host)) => Command::Resolve(host),
        (RESOLVE_ADDRESS, Some(Host::Address(address))) => Command::ResolveAddress(address),
        // Questions go to the exit's resolver, whatever is named here.
        (QUESTIONS, Some(_)) => Command::Questions,
        (RESOLVE_ADDRESS, Some(_)) => return reject(Reply::AddressTypeNotSupported),
        _ => return reject(Reply::GeneralFailure),
    };
    Some(Output::Request(Request {
        command,
        protocol: Protocol::Socks5,
        token: std::mem::take(token),
        exit_country,
        early_data: reader.rest().to_vec(),
        body: None,
    }))
}

pub(crate) const CONNECT: u8 = 1;
const ASSOCIATE: u8 = 3;
/// Tor's extensions to SOCKS.
const RESOLVE: u8 = 0xf0;
const RESOLVE_ADDRESS: u8 = 0xf1;
/// Ours: from the reply on, DNS messages after their length, as over TCP (RFC 1035, 4.2.2).
pub(crate) const QUESTIONS: u8 = 0xd5;
