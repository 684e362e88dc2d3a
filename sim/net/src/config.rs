//! The configuration files of a local network.

use crate::error::{Error, Result};
use crate::plan::{Host, ORIGIN_NAME, Plan, Role};
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

#[derive(Serialize)]
struct Authority {
    network: String,
    listen: SocketAddr,
    state: PathBuf,
    preset: &'static str,
    expected: usize,
    approve_all: bool,
}

#[derive(Serialize)]
struct Relay {
    network: PathBuf,
    listen: SocketAddr,
    role: &'static str,
    state: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<PathBuf>,
    announce: Vec<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    country: Option<&'static str>,
    outbound: IpAddr,
    metrics: Option<SocketAddr>,
    /// The checks count single packets.
    exact_metrics: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    resolver: Vec<SocketAddr>,
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    hosts: toml::Table,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<Exit>,
}

/// What an exit of a local network may do: everything.
#[derive(Serialize)]
struct Exit {
    enabled: bool,
    policy: &'static str,
}

#[derive(Serialize)]
struct Client {
    network: PathBuf,
    state: PathBuf,
    socks: SocketAddr,
    /// On an address of its own, so that it stands in the way of no other client.
    page: SocketAddr,
    outbound: IpAddr,
}

#[derive(Serialize)]
struct Network {
    name: String,
    threshold: usize,
    open_exits: bool,
    authorities: Vec<Known>,
    mirrors: Vec<Known>,
}

#[derive(Serialize)]
struct Known {
    id: String,
    address: SocketAddr,
}

/// Makes the folder and the configuration of one host. The origin has none: it is told by its arguments.
pub(crate) fn write(plan: &Plan, host: &Host) -> Result<()> {
    std::fs::create_dir_all(host.state())
        .map_err(Error::system(format!("cannot make {}", host.state().display())))?;
    let outbound = IpAddr::V4(host.address);
    match host.role {
        Role::Authority => put(
            &host.config(),
            &Authority {
                network: name(plan),
                listen: host.listen(),
                state: host.state(),
                preset: "local",
                expected: plan.hosts.iter().filter(|host| host.role.is_relay()).count(),
                approve_all: true,
            },
        ),
        Role::Mix | Role::Entry | Role::Exit => put(
            &host.config(),
            &Relay {
                network: plan.network_file(),
                listen: host.listen(),
                role: host.role.name(),
                state: host.state(),
                runtime: plan.runtime.as_ref().map(|runtime| runtime.join(&host.name)),
                announce: vec![host.listen()],
                country: COUNTRIES.iter().find(|(name, _)| *name == host.name).map(|(_, country)| *country),
                outbound,
                metrics: host.metrics,
                exact_metrics: true,
                resolver: if host.role == Role::Exit {
                    vec![plan.only(Role::Origin)?.names()]
                } else {
                    Vec::new()
                },
                hosts: if host.role == Role::Exit { names(plan)? } else { toml::Table::new() },
                exit: (host.role == Role::Exit).then_some(Exit { enabled: true, policy: "full" }),
            },
        ),
        Role::Client => put(
            &host.config(),
            &Client {
                network: plan.network_file(),
                state: host.state(),
                socks: plan.socks,
                page: plan.page(),
                outbound,
            },
        ),
        Role::Origin => Ok(()),
    }
}

/// Writes the network file with the identities that are known by now: the entries are the first mirrors.
pub(crate) fn write_network(plan: &Plan) -> Result<()> {
    let known = |role| -> Vec<Known> {
        plan.of(role)
            .filter_map(|host| Some(Known { id: host.identity.clone()?, address: host.listen() }))
            .collect()
    };
    let network = Network {
        name: name(plan),
        threshold: 1,
        open_exits: true,
        authorities: known(Role::Authority),
        mirrors: known(Role::Entry),
    };
    put(&plan.network_file(), &network)
}

/// Each network folder is a network of its own name, so that two on one machine refuse each other's
/// documents.
fn name(plan: &Plan) -> String {
    match plan.slot {
        0 => "local".to_owned(),
        slot => format!("local-{slot}"),
    }
}

/// What the exits, and only they, resolve.
fn names(plan: &Plan) -> Result<toml::Table> {
    let origin = plan.only(Role::Origin)?.address.to_string();
    Ok([(ORIGIN_NAME.to_owned(), toml::Value::String(origin))].into_iter().collect())
}

/// Where exits say that they are; one says nothing.
const COUNTRIES: [(&str, &str); 2] = [("exit31", "DE"), ("exit32", "FR")];

fn put(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = toml::to_string(value)
        .map_err(|error| Error::Wrong(format!("{} cannot be written: {error}", path.display())))?;
    std::fs::write(path, text).map_err(Error::system(format!("cannot write {}", path.display())))
}
