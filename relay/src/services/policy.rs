//! The exit policy: what this exit connects to.
//!
//! Checked on the address that is then connected to, never on a name. (spec: EXIT-2)

use mizzle_protocol::{Error, ErrorKind};
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// What an operator allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyConfig {
    /// Ports that may be connected to.
    pub(crate) ports: Ports,
    /// Networks that may not, besides those that never may.
    pub(crate) reject: Vec<Network>,
}

/// A list of ports with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PolicyName {
    /// See [`Ports::reduced`].
    Reduced,
    /// See [`Ports::full`].
    Full,
}

impl PolicyName {
    /// The ports that it stands for.
    pub(crate) fn ports(self) -> Ports {
        match self {
            Self::Reduced => Ports::reduced(),
            Self::Full => Ports::full(),
        }
    }
}

/// Ports: `"443"` or `"1-1023"` each.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub(crate) struct Ports(Vec<RangeInclusive<u16>>);

/// An IP network: an address and the length of its prefix in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Network {
    address: IpAddr,
    prefix: u8,
}

/// What may be connected to.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    config: PolicyConfig,
    /// The network allows private addresses.
    open: bool,
    /// This relay's own addresses: never.
    own: Vec<IpAddr>,
}

impl Policy {
    /// The policy of an exit that has the addresses in `own`.
    pub(crate) fn new(config: PolicyConfig, open: bool, own: Vec<IpAddr>) -> Self {
        Self { config, open, own }
    }

    /// True if `address` may be connected to at `port`.
    pub(crate) fn allows(&self, address: IpAddr, port: u16) -> bool {
        self.config.ports.0.iter().any(|range| range.contains(&port)) && self.allows_address(address)
    }

    /// True if `address` may be connected to, at whichever ports, or asked about.
    pub(crate) fn allows_address(&self, address: IpAddr) -> bool {
        !self.own.contains(&address)
            && !self.config.reject.iter().any(|network| network.contains(address))
            && !is_never_a_target(address)
            && (self.open || is_public(address))
    }
}

/// True for addresses that lead to one machine of the public internet.
pub(crate) fn is_reachable_by_all(address: IpAddr) -> bool {
    !is_never_a_target(address) && is_public(address)
}

/// Addresses that mean another address, many, or none: no network allows them.
fn is_never_a_target(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            // 0.0.0.0/8 reaches this machine itself on many systems.
            v4.octets()[0] == 0 || v4.is_multicast() || v4.is_broadcast() || v4.octets()[0] >= 240
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            v6.is_unspecified()
                || v6.is_multicast()
                || v6.to_ipv4_mapped().is_some()
                // IPv4-compatible ::/96, but not ::1, which the rule for private addresses is about.
                || (v6.to_bits() >> 32 == 0 && !v6.is_loopback())
                // NAT64 (RFC 6052, RFC 8215), 6to4 and Teredo carry an IPv4 address that nobody checked.
                || (a == 0x64 && b == 0xff9b && c <= 1)
                || a == 0x2002
                || (a == 0x2001 && b == 0)
        }
    }
}

/// True for addresses of the public internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let protocol = a == 192 && b == 0 && c == 0;
            let benchmark = a == 198 && (b == 18 || b == 19);
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_documentation()
                || shared
                || protocol
                || benchmark)
        }
        IpAddr::V6(v6) => {
            // Global unicast is 2000::/3 and nothing else; 2001:db8::/32 and 3fff::/20 are for documents.
            let [a, b, ..] = v6.segments();
            let documentation = (a == 0x2001 && b == 0x0db8) || (a == 0x3fff && b < 0x1000);
            a & 0xe000 == 0x2000 && !documentation
        }
    }
}

impl Ports {
    /// The reduced exit policy: what people use a browser, a mail program, a chat, a shell or a wallet for.
    /// Left out is what exits are abused for most: delivery of mail (25), file sharing, and ports that only
    /// scanners ask for. Everything in it is either encrypted by custom, or asked for by many all the same.
    pub(crate) fn reduced() -> Self {
        Self(REDUCED.to_vec())
    }

    /// All but 25: mail between servers, which an open exit would be abused for within hours.
    pub(crate) fn full() -> Self {
        Self(vec![1..=24, 26..=u16::MAX])
    }

    /// As the configuration writes them.
    pub(crate) fn to_strings(&self) -> Vec<String> {
        let text = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        self.0.iter().map(text).collect()
    }
}

impl TryFrom<Vec<String>> for Ports {
    type Error = Error;

    fn try_from(texts: Vec<String>) -> Result<Self, Error> {
        let range = |text: String| {
            let (first, last) = text.split_once('-').unwrap_or((&text, &text));
            match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
                (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(first..=last),
                _ => Err(wrong(format!("`{text}` is no port and no range of ports like 1-1023"))),
            }
        };
        texts.into_iter().map(range).collect::<Result<_, _>>().map(Self)
    }
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        let bits = |address: Ipv6Addr, shift: u32| address.to_bits().checked_shr(shift).unwrap_or(0);
        let prefix = u32::from(self.prefix);
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let bits = |address: Ipv4Addr| address.to_bits().checked_shr(32 - prefix).unwrap_or(0);
                bits(a) == bits(b)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => bits(a, 128 - prefix) == bits(b, 128 - prefix),
            _ => false,
        }
    }
}

impl TryFrom<String> for Network {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        let malformed = || wrong(format!("`{text}` is no network like 192.0.2.0/24"));
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text.as_str(), None),
        };
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(longest), |prefix| prefix.parse().map_err(|_| malformed()))?;
        if prefix > longest {
            return Err(malformed());
        }
        Ok(Self { address, prefix })
    }
}

/// Shell, whois, DNS, web, mail boxes and their submission, chat, calls, DNS over TLS, rsync, git,
/// Bitcoin and Monero.
const REDUCED: [RangeInclusive<u16>; 22] = [
    22..=22,
    43..=43,
    53..=53,
    80..=81,
    110..=110,
    143..=143,
    443..=443,
    465..=465,
    587..=587,
    853..=853,
    873..=873,
    993..=993,
    995..=995,
    3478..=3478,
    5222..=5223,
    5349..=5349,
    6660..=6669,
    6697..=6697,
    8080..=8080,
    8332..=8333,
    8443..=8443,
    9418..=9418,
];

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::Misuse, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(open: bool) -> Policy {
        let reject = ["198.51.100.0/24", "2600::/16", "8.8.4.4"];
        let reject = reject.into_iter().map(|text| Network::try_from(text.to_owned()).unwrap()).collect();
        let own = vec!["192.88.0.7".parse().unwrap(), "127.31.0.1".parse().unwrap()];
        Policy::new(PolicyConfig { ports: Ports::full(), reject }, open, own)
    }

    fn allows(policy: &Policy, address: &str) -> bool {
        policy.allows(address.parse().unwrap(), 443)
    }

    #[test]
    fn public_addresses_pass_and_all_others_do_not() {
        let policy = policy(false);
        for address in ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2a00::1", "2606:4700::1"] {
            assert!(allows(&policy, address), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.9",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "8.8.4.4",
            "192.88.0.7",
            "::",
            "::1",
            "::ffff:8.8.8.8",
            "::8.8.8.8",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
            "2002:808:808::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "fec0::1",
            "2600::1",
        ] {
            assert!(!allows(&policy, address), "{address}");
        }
    }

    #[test]
    fn an_open_network_adds_private_addresses_only() {
        let policy = policy(true);
        for address in ["127.0.0.1", "10.1.2.3", "192.168.1.1", "::1", "fd12::1", "169.254.0.1"] {
            assert!(allows(&policy, address), "{address}");
        }
        for address in
            ["0.0.0.0", "127.31.0.1", "224.0.0.1", "::", "::ffff:127.0.0.1", "64:ff9b::a01:203", "ff02::1"]
        {
            assert!(!allows(&policy, address), "{address}");
        }
    }

    #[test]
    fn ports_are_lists_of_ranges() {
        let policy = policy(false);
        let address = "1.1.1.1".parse().unwrap();
        assert!(policy.allows(address, 24) && !policy.allows(address, 25) && policy.allows(address, 65535));
        assert!(Ports::try_from(vec!["80".to_owned(), "8000-8100".to_owned()]).is_ok());
        for text in ["", "0", "70000", "9-1", "a-b", "1-2-3"] {
            assert!(Ports::try_from(vec![text.to_owned()]).is_err(), "{text}");
        }
        assert_eq!(Ports::full().to_strings(), ["1-24", "26-65535"]);
    }

    #[test]
    fn the_reduced_policy_serves_browsers_and_refuses_what_exits_are_abused_for() {
        let policy =
            Policy::new(PolicyConfig { ports: Ports::reduced(), reject: Vec::new() }, false, Vec::new());
        let address = "1.1.1.1".parse().unwrap();
        for port in [22, 53, 80, 443, 587, 853, 993, 5222, 6697, 8080, 9418] {
            assert!(policy.allows(address, port), "{port}");
        }
        for port in [0, 1, 21, 23, 25, 135, 139, 445, 1214, 4662, 6346, 6881, 6889, 51413, 65535] {
            assert!(!policy.allows(address, port), "{port}");
        }
    }

    #[test]
    fn networks_contain_what_their_prefix_says() {
        let network = |text: &str| Network::try_from(text.to_owned());
        let inside = |text: &str, address: &str| network(text).unwrap().contains(address.parse().unwrap());
        assert!(inside("0.0.0.0/0", "9.9.9.9") && !inside("0.0.0.0/0", "::9"));
        assert!(inside("::/0", "2a00::1") && inside("2a00::/12", "2a0f::1"));
        assert!(inside("10.0.0.0/31", "10.0.0.1") && !inside("10.0.0.0/31", "10.0.0.2"));
        for text in ["10.0.0.0/33", "::/129", "x/8", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(network(text).is_err(), "{text}");
        }
    }
}
