//! The configuration files of a local network.

use crate::error::{Error, Result};
use crate::plan::{Host, ORIGIN_NAME, Plan, Role};
use crate::shape::Shape;
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
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    parameters: toml::Table,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    replay_on_disk: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replay_memory: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loops: Option<u32>,
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
    page: SocketAddr,
    outbound: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loop_times: Option<usize>,
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
                parameters: parameters(&plan.shape)?,
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
                // Shadow has many relays on one machine, no processors to share among threads, and no tmpfs of its own.
                replay_on_disk: plan.shadow.then_some(true),
                replay_memory: plan.shadow.then_some("64 MB"),
                threads: plan.shadow.then_some(1),
                loops: plan.shape.relay_loops,
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
                socks: plan.socks(host),
                page: plan.page(host),
                outbound,
                level: plan.shape.level.clone(),
                // A level whose rates are given has one step.
                step: plan.shape.pace.map(|_| 0).or(plan.shape.step),
                loop_times: plan.shape.loop_times,
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

/// What a shape changes in the network's parameters.
fn parameters(shape: &Shape) -> Result<toml::Table> {
    let times = [
        ("mean_delay", shape.mean_delay_ms, "ms"),
        ("max_delay", shape.max_delay_ms, "ms"),
        ("key_period", shape.key_period_s, "s"),
    ];
    let times = times.into_iter().filter_map(|(key, time, unit)| {
        Some((key.to_owned(), toml::Value::String(format!("{}{unit}", time?))))
    });
    let mut parameters: toml::Table = times.collect();
    if let (Some(level), Some(pace)) = (&shape.level, shape.pace) {
        let steps = toml::Value::try_from([pace])
            .map_err(|error| Error::Wrong(format!("the shape's pace cannot be written: {error}")))?;
        let levels = toml::Table::from_iter([(level.clone(), steps)]);
        parameters.insert("levels".to_owned(), toml::Value::Table(levels));
    }
    Ok(parameters)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Pace;

    fn written(shape: Shape, name: &str) -> toml::Table {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::new(dir.path(), 0, false, shape).unwrap();
        let host = plan.host(name).unwrap();
        write(&plan, host).unwrap();
        std::fs::read_to_string(host.config()).unwrap().parse().unwrap()
    }

    #[test]
    fn a_shape_reaches_the_directory_and_the_clients_and_the_common_one_says_nothing() {
        let pace = Pace { send_rate: 80.0, receive_rate: 60.0, loop_share: 0.4, drop_share: 0.45 };
        let shape = Shape {
            clients: 2,
            mean_delay_ms: Some(50),
            level: Some("balanced".to_owned()),
            step: Some(2),
            pace: Some(pace),
            loop_times: Some(100),
            ..Shape::default()
        };
        let authority = written(shape.clone(), "authority");
        assert_eq!(authority["parameters"]["mean_delay"].as_str(), Some("50ms"));
        assert_eq!(authority["parameters"]["levels"]["balanced"][0]["send_rate"].as_float(), Some(80.0));
        let client = written(shape, "client42");
        assert_eq!((client["level"].as_str(), client["step"].as_integer()), (Some("balanced"), Some(0)));
        assert_eq!(client["loop_times"].as_integer(), Some(100));
        assert_eq!(client["socks"].as_str(), Some("127.42.0.1:9150"));
        assert!(!written(Shape::default(), "authority").contains_key("parameters"));
        let client = written(Shape::default(), "client");
        assert!(["level", "step", "loop_times"].iter().all(|key| !client.contains_key(*key)));
        assert_eq!(client["socks"].as_str(), Some("127.0.0.1:9150"));
    }
}
