//! Who is in a local network, at which address, in which folder.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// What a host of the network runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    Authority,
    Mix,
    Entry,
    Exit,
    Client,
    Origin,
}

impl Role {
    /// True for those that `mizzle-relay` runs.
    pub(crate) fn is_relay(self) -> bool {
        matches!(self, Self::Mix | Self::Entry | Self::Exit)
    }

    /// As configuration files name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::Mix => "mix",
            Self::Entry => "entry",
            Self::Exit => "exit",
            Self::Client => "client",
            Self::Origin => "origin",
        }
    }
}

/// One host: one process, one address, one folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Host {
    /// Such as `mix11`; also the name of its folder.
    pub(crate) name: String,
    pub(crate) role: Role,
    /// The address that it listens on and sends from.
    pub(crate) address: Ipv4Addr,
    /// Where its counters are read, on its own loopback; relays only.
    pub(crate) metrics: Option<SocketAddr>,
    /// Its identity in hexadecimal, once it has made one.
    pub(crate) identity: Option<String>,
    pub(crate) dir: PathBuf,
}

impl Host {
    /// The one public port.
    pub(crate) fn listen(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address), if self.role == Role::Origin { 8080 } else { 7000 })
    }

    /// Where it answers questions, if it is the origin.
    pub(crate) fn names(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address), NAMES_PORT)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// What the process prints for programs: `ready`.
    pub(crate) fn output(&self) -> PathBuf {
        self.dir.join("output")
    }
}

/// A whole network, as `network.json` in its folder describes it to other tools.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) dir: PathBuf,
    pub(crate) slot: u8,
    /// True if every host has a network namespace of its own.
    pub(crate) namespaces: bool,
    /// The client's SOCKS port, on the client's loopback.
    pub(crate) socks: SocketAddr,
    /// Where the origin writes which peers it has seen.
    pub(crate) seen: PathBuf,
    /// Memory-backed folder for replay tags; `None` leaves it to the relay.
    pub(crate) runtime: Option<PathBuf>,
    pub(crate) hosts: Vec<Host>,
}

impl Plan {
    /// Where the client's status page is, on the client's loopback.
    pub(crate) fn page(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::new(127, CLIENT, self.slot, 1), PAGE_PORT))
    }

    /// One authority, nine mixes, three entries, three exits, a client, and a web server and resolver that only the
    /// exits may ask.
    pub(crate) fn new(dir: &Path, slot: u8, namespaces: bool) -> Self {
        let host = |name: String, role: Role, number: u8| Host {
            dir: dir.join(&name),
            address: Ipv4Addr::new(if namespaces { 10 } else { 127 }, number, slot, 1),
            // Each namespace has the whole of 127/8 to itself, so the metrics address is the same there.
            metrics: role
                .is_relay()
                .then(|| SocketAddr::from((Ipv4Addr::new(127, number, slot, 1), METRICS_PORT))),
            identity: None,
            name,
            role,
        };
        let relays = [(Role::Mix, MIXES), (Role::Entry, ENTRIES), (Role::Exit, EXITS)].into_iter().flat_map(
            |(role, numbers)| numbers.map(move |number| (format!("{}{number}", role.name()), role, number)),
        );
        let hosts = std::iter::once(("authority".to_owned(), Role::Authority, AUTHORITY))
            .chain(relays)
            .chain([("client".to_owned(), Role::Client, CLIENT), ("origin".to_owned(), Role::Origin, ORIGIN)])
            .map(|(name, role, number)| host(name, role, number))
            .collect();
        Self {
            dir: dir.to_owned(),
            slot,
            namespaces,
            socks: SocketAddr::from((Ipv4Addr::LOCALHOST, SOCKS_PORT + u16::from(slot))),
            seen: dir.join("origin").join("seen.json"),
            runtime: None,
            hosts,
        }
    }

    /// The plan of the network in `dir`.
    pub(crate) fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = std::fs::read_to_string(&path)
            .map_err(Error::system(format!("no network in {}: start one with scripts/up", dir.display())))?;
        serde_json::from_str(&text).map_err(|error| {
            Error::Wrong(format!(
                "{} is not readable ({error}): run scripts/down, then scripts/up",
                path.display()
            ))
        })
    }

    /// Writes `network.json`.
    pub(crate) fn save(&self) -> Result<()> {
        let path = self.dir.join(FILE);
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::Wrong(format!("{} cannot be written: {error}", path.display())))?;
        std::fs::write(&path, text).map_err(Error::system(format!("cannot write {}", path.display())))
    }

    pub(crate) fn of(&self, role: Role) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(move |host| host.role == role)
    }

    /// The only host of its role.
    pub(crate) fn only(&self, role: Role) -> Result<&Host> {
        self.of(role).next().ok_or_else(|| Error::Wrong(format!("the network has no {}", role.name())))
    }

    pub(crate) fn host(&self, name: &str) -> Result<&Host> {
        self.hosts.iter().find(|host| host.name == name).ok_or_else(|| {
            let names: Vec<_> = self.hosts.iter().map(|host| host.name.as_str()).collect();
            Error::Wrong(format!("no host {name}: there are {}", names.join(", ")))
        })
    }

    /// The network file that relays and the client read.
    pub(crate) fn network_file(&self) -> PathBuf {
        self.dir.join("network.toml")
    }
}

/// A name that only the exits resolve.
pub(crate) const ORIGIN_NAME: &str = "hello.test";

const FILE: &str = "network.json";
const AUTHORITY: u8 = 1;
const MIXES: std::ops::RangeInclusive<u8> = 11..=19;
const ENTRIES: std::ops::RangeInclusive<u8> = 21..=23;
const EXITS: std::ops::RangeInclusive<u8> = 31..=33;
const CLIENT: u8 = 41;
const ORIGIN: u8 = 90;
const NAMES_PORT: u16 = 8053;
const METRICS_PORT: u16 = 7100;
const SOCKS_PORT: u16 = 9150;
const PAGE_PORT: u16 = 9149;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_has_an_address_of_its_own_and_slots_do_not_meet() {
        let addresses = |slot| -> std::collections::HashSet<_> {
            let plan = Plan::new(Path::new("/nowhere"), slot, false);
            assert_eq!(plan.hosts.len(), 18);
            plan.hosts.iter().map(|host| host.address).collect()
        };
        let (first, second) = (addresses(0), addresses(1));
        assert_eq!(first.len(), 18);
        assert!(first.is_disjoint(&second));
    }

    #[test]
    fn a_plan_that_was_saved_loads_again() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::new(dir.path(), 3, true);
        plan.save().unwrap();
        let loaded = Plan::load(dir.path()).unwrap();
        assert_eq!(loaded.socks, "127.0.0.1:9153".parse().unwrap());
        assert_eq!(loaded.host("exit31").unwrap().listen(), "10.31.3.1:7000".parse().unwrap());
        assert!(loaded.host("exit99").is_err());
    }
}
