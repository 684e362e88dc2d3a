//! Who is in a local network, at which address, in which folder.

use crate::error::{Error, Result};
use crate::shape::Shape;
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
    /// True if the hosts are those of a simulation in Shadow, each with a loopback of its own.
    #[serde(default)]
    pub(crate) shadow: bool,
    #[serde(default)]
    pub(crate) shape: Shape,
    /// The first client's SOCKS port, on the client's loopback.
    pub(crate) socks: SocketAddr,
    /// Where the origin writes which peers it has seen.
    pub(crate) seen: PathBuf,
    /// Memory-backed folder for replay tags; `None` leaves it to the relay.
    pub(crate) runtime: Option<PathBuf>,
    pub(crate) hosts: Vec<Host>,
}

impl Plan {
    /// Where a client's status page is, on its loopback; at an address of its own, so that it stands in the way of no
    /// other client.
    pub(crate) fn page(&self, client: &Host) -> SocketAddr {
        let [_, number, ..] = client.address.octets();
        let address =
            if self.shadow { Ipv4Addr::LOCALHOST } else { Ipv4Addr::new(127, number, self.slot, 1) };
        SocketAddr::from((address, PAGE_PORT))
    }

    /// Where applications reach a client, on its loopback: the first one where people expect it.
    pub(crate) fn socks(&self, client: &Host) -> SocketAddr {
        match self.only(Role::Client) {
            Ok(first) if first.name == client.name => self.socks,
            _ => SocketAddr::new(self.page(client).ip(), SOCKS_PORT),
        }
    }

    /// One authority, the relays and clients of the shape, and a web server and resolver that only the exits may ask.
    ///
    /// Each kind of host has numbers from the next ten on: mixes from 11, and in the common shape entries from 21,
    /// exits from 31, the client 41. Fails if that are too many for a byte.
    pub(crate) fn new(dir: &Path, slot: u8, namespaces: bool, shape: Shape) -> Result<Self> {
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
        let mut hosts = vec![host("authority".to_owned(), Role::Authority, AUTHORITY)];
        let mut first = FIRST_MIX;
        let counts = [
            (Role::Mix, shape.mixes()),
            (Role::Entry, shape.entries),
            (Role::Exit, shape.exits),
            (Role::Client, shape.clients),
        ];
        for (role, count) in counts {
            for number in first..first + count {
                let name = match role {
                    Role::Client if number == first => role.name().to_owned(),
                    _ => format!("{}{number}", role.name()),
                };
                let number = u8::try_from(number).ok().filter(|number| *number <= LAST).ok_or_else(|| {
                    Error::Wrong(format!(
                        "the shape has too many hosts for the addresses from {FIRST_MIX} to {LAST}: take fewer"
                    ))
                })?;
                hosts.push(host(name, role, number));
            }
            first = (first + count).next_multiple_of(10) + 1;
        }
        let origin = if first > usize::from(ORIGIN) { LAST + 1 } else { ORIGIN };
        hosts.push(host("origin".to_owned(), Role::Origin, origin));
        Ok(Self {
            dir: dir.to_owned(),
            slot,
            namespaces,
            shadow: false,
            shape,
            socks: SocketAddr::from((Ipv4Addr::LOCALHOST, SOCKS_PORT + u16::from(slot))),
            seen: dir.join("origin").join("seen.json"),
            runtime: None,
            hosts,
        })
    }

    /// The same for hosts of Shadow: their addresses are 10.N.0.1, and of 127/8 they have the first alone.
    pub(crate) fn for_shadow(dir: &Path, shape: Shape) -> Result<Self> {
        let mut plan = Self::new(dir, 0, true, shape)?;
        (plan.namespaces, plan.shadow) = (false, true);
        for host in &mut plan.hosts {
            host.metrics = host.metrics.map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT)));
        }
        Ok(plan)
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
const FIRST_MIX: usize = 11;
const LAST: u8 = 249;
const ORIGIN: u8 = 90;
const NAMES_PORT: u16 = 8053;
const METRICS_PORT: u16 = 7100;
const SOCKS_PORT: u16 = 9150;
const PAGE_PORT: u16 = 9149;

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(slot: u8, namespaces: bool, shape: Shape) -> Result<Plan> {
        Plan::new(Path::new("/nowhere"), slot, namespaces, shape)
    }

    #[test]
    fn every_host_has_an_address_of_its_own_and_slots_do_not_meet() {
        let addresses = |slot| -> std::collections::HashSet<_> {
            let plan = plan(slot, false, Shape::default()).unwrap();
            assert_eq!(plan.hosts.len(), 18);
            plan.hosts.iter().map(|host| host.address).collect()
        };
        let (first, second) = (addresses(0), addresses(1));
        assert_eq!(first.len(), 18);
        assert!(first.is_disjoint(&second));
    }

    #[test]
    fn hosts_of_the_common_shape_have_the_numbers_that_people_know() {
        let plan = plan(0, false, Shape::default()).unwrap();
        let names = [("mix19", 19), ("entry21", 21), ("exit33", 33), ("client", 41), ("origin", 90)];
        for (name, number) in names {
            assert_eq!(plan.host(name).unwrap().address, Ipv4Addr::new(127, number, 0, 1));
        }
    }

    #[test]
    fn other_shapes_have_as_many_of_each_and_no_address_twice() {
        for shape in [(1, 1, 1, 1), (4, 10, 11, 8), (10, 20, 20, 100)] {
            let (width, entries, exits, clients) = shape;
            let plan = plan(2, false, Shape { width, entries, exits, clients, ..Shape::default() }).unwrap();
            let count = |role| plan.of(role).count();
            let counts = [Role::Mix, Role::Entry, Role::Exit, Role::Client].map(count);
            assert_eq!(counts, [width * 3, entries, exits, clients]);
            let mut addresses: Vec<_> = plan.hosts.iter().map(|host| host.address).collect();
            addresses.sort();
            addresses.dedup();
            assert_eq!(addresses.len(), plan.hosts.len());
            let mut socks: Vec<_> = plan.of(Role::Client).map(|client| plan.socks(client)).collect();
            socks.sort();
            socks.dedup();
            assert_eq!((socks.len(), plan.socks(plan.only(Role::Client).unwrap())), (clients, plan.socks));
        }
        let many = Shape { width: 60, clients: 70, ..Shape::default() };
        assert!(plan(0, false, many).unwrap_err().to_string().contains("take fewer"));
    }

    #[test]
    fn a_plan_that_was_saved_loads_again() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::new(dir.path(), 3, true, Shape::default()).unwrap();
        plan.save().unwrap();
        let loaded = Plan::load(dir.path()).unwrap();
        assert_eq!(loaded.socks, "127.0.0.1:9153".parse().unwrap());
        assert_eq!(loaded.host("exit31").unwrap().listen(), "10.31.3.1:7000".parse().unwrap());
        assert!(loaded.host("exit99").is_err());
    }
}
