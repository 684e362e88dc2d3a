//! Datagrams between an application and its relay port (RFC 1928, section 7). (spec: PROXY-8)
//!
//! ```text
//! 0 · 0 · fragment 1 · type 1 · address · port 2 · bytes
//! ```

use mizzle_protocol::wire::Reader;
use mizzle_protocol::wire::target::{Host, Target};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why a datagram is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// A part of one; nobody puts parts together.
    Fragment,
    /// Not of this protocol, or to a target that is none.
    Malformed,
}

/// Where an application's datagram goes, and its bytes.
pub(crate) fn open(datagram: &[u8]) -> Result<(Target, &[u8]), Unfit> {
    let malformed = |_| Unfit::Malformed;
    let mut reader = Reader::new(datagram);
    if reader.u16().map_err(malformed)? != 0 {
        return Err(Unfit::Malformed);
    }
    if reader.u8().map_err(malformed)? != 0 {
        return Err(Unfit::Fragment);
    }
    let host = match reader.u8().map_err(malformed)? {
        1 => Host::Address(Ipv4Addr::from(reader.array::<4>().map_err(malformed)?).into()),
        4 => Host::Address(Ipv6Addr::from(reader.array::<16>().map_err(malformed)?).into()),
        3 => {
            let length = reader.u8().map_err(malformed)?;
            let name = reader.take(usize::from(length)).map_err(malformed)?;
            super::host(name).ok_or(Unfit::Malformed)?
        }
        _ => return Err(Unfit::Malformed),
    };
    match reader.u16().map_err(malformed)? {
        0 => Err(Unfit::Malformed),
        port => Ok((Target { host, port }, reader.rest())),
    }
}

/// A datagram for the application, with its source; `None` if that is no address, which no exit names.
pub(crate) fn wrap(source: &Target, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut datagram = vec![0, 0, 0];
    match source.host {
        Host::Address(IpAddr::V4(address)) => {
            datagram.push(1);
            datagram.extend(address.octets());
        }
        Host::Address(IpAddr::V6(address)) => {
            datagram.push(4);
            datagram.extend(address.octets());
        }
        Host::Name(_) | Host::Resolver | Host::Documents => return None,
    }
    datagram.extend(source.port.to_be_bytes());
    datagram.extend(bytes);
    Some(datagram)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn targets_by_address_and_name_are_understood_and_nothing_is_a_datagram_too() {
        for (head, host) in [
            (&b"\0\0\0\x01\xc0\0\x02\x07"[..], "192.0.2.7"),
            (b"\0\0\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01", "2001:db8::1"),
            (b"\0\0\0\x03\x07A.test.", "a.test"),
            (b"\0\0\0\x03\x09192.0.2.7", "192.0.2.7"),
        ] {
            for body in [&b""[..], b"hello"] {
                let datagram = [head, &[1, 187], body].concat();
                let (target, bytes) = open(&datagram).unwrap();
                assert!(target == Target::parse(host, 443).unwrap() && bytes == body, "{host}");
            }
        }
    }

    #[test]
    fn fragments_and_what_is_no_datagram_are_told_apart() {
        for fragment in [1, 127, 128, 255] {
            let datagram = [0, 0, fragment, 1, 192, 0, 2, 7, 0, 53, b'x'];
            assert!(open(&datagram).err() == Some(Unfit::Fragment));
        }
        for junk in [
            &b""[..],
            b"\0",
            b"\0\0\0",
            b"\0\0\0\x09abc",
            b"\0\0\0\x03\xffshort",
            b"\0\0\0\x01\x7f",
            b"\x01\0\0\x01\xc0\0\x02\x07\0\x35",
            b"\0\x01\0\x01\xc0\0\x02\x07\0\x35",
            b"\0\0\0\x01\xc0\0\x02\x07\0\0x",
            b"\0\0\0\x03\0\0\x35",
            b"\0\0\0\x03\x04a\0.b\0\x35",
            b"\0\0\0\x01\xc0\0\x02\x07\0",
        ] {
            assert!(open(junk).err() == Some(Unfit::Malformed), "{junk:?}");
        }
    }

    #[test]
    fn sources_are_addresses() {
        let wrapped = |host: &str| wrap(&Target::parse(host, 53).unwrap(), b"x");
        assert_eq!(wrapped("192.0.2.7").unwrap(), b"\0\0\0\x01\xc0\0\x02\x07\0\x35x");
        assert_eq!(wrapped("::1").unwrap(), b"\0\0\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\x35x");
        assert_eq!((wrapped("a.test"), wrap(&Target::resolver(), b"x")), (None, None));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_what_was_wrapped_opens(
            bytes in proptest::collection::vec(any::<u8>(), 0..600), four in any::<[u8; 4]>(), port in 1u16..,
        ) {
            let _ = open(&bytes);
            let source = Target { host: Host::Address(four.into()), port };
            let wrapped = wrap(&source, &bytes).unwrap();
            let (target, body) = open(&wrapped).ok().unwrap();
            prop_assert!(target == source && body == bytes);
        }
    }
}
