//! SOCKS4 and SOCKS4a. (spec: PROXY-2)
//!
//! ```text
//! request    4 · command 1 · port 2 · IPv4 4 · user id · 0        the address 0.0.0.x, x > 0: … · name · 0
//! answer     0 · 5a granted, 5b refused · 6 zeros
//! ```

use super::{Command, Output, Protocol, Reply, Request, country, token};
use mizzle_protocol::wire::Reader;
use mizzle_protocol::wire::target::{Host, Target};
use std::net::{IpAddr, Ipv4Addr};

/// Reads a request; `None`: it is not whole yet.
pub(super) fn request(buffer: &[u8]) -> Option<Output> {
    let reject = || Some(Output::Reject(Reply::GeneralFailure.to_protocol(Protocol::Socks4)));
    let mut reader = Reader::new(buffer);
    let _version = reader.u8().ok()?;
    if reader.u8().ok()? != CONNECT {
        return reject();
    }
    let port = reader.u16().ok()?;
    let address = Ipv4Addr::from(reader.array::<4>().ok()?);
    let (user, rest) = match terminated(reader.rest(), LONGEST_USER) {
        Field::Whole(user, rest) => (user, rest),
        Field::Open => return None,
        Field::TooLong => return reject(),
    };
    let (host, rest) = match address.octets() {
        [0, 0, 0, last] if last != 0 => match terminated(rest, LONGEST_NAME) {
            Field::Whole(name, rest) => (super::host(name), rest),
            Field::Open => return None,
            Field::TooLong => return reject(),
        },
        _ => (Some(Host::Address(IpAddr::V4(address))), rest),
    };
    let Ok(exit_country) = country::of_user(user) else { return reject() };
    match host {
        Some(host) if port != 0 => Some(Output::Request(Request {
            command: Command::Connect(Target { host, port }),
            protocol: Protocol::Socks4,
            token: token::user_id(user),
            exit_country,
            early_data: rest.to_vec(),
            body: None,
        })),
        _ => reject(),
    }
}

enum Field<'a> {
    /// Without its zero, and what follows.
    Whole(&'a [u8], &'a [u8]),
    /// Its zero has not come yet.
    Open,
    TooLong,
}

fn terminated(bytes: &[u8], longest: usize) -> Field<'_> {
    match bytes.iter().take(longest + 1).position(|&byte| byte == 0) {
        Some(end) => match (bytes.get(..end), bytes.get(end + 1..)) {
            (Some(field), Some(rest)) => Field::Whole(field, rest),
            _ => Field::Open,
        },
        None if bytes.len() > longest => Field::TooLong,
        None => Field::Open,
    }
}

const CONNECT: u8 = 1;
const LONGEST_USER: usize = 255;
const LONGEST_NAME: usize = 255;
