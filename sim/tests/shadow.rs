//! What `mizzle-sim export shadow` writes is what Shadow's documentation says it reads: known keys, values of the
//! right kind, a complete graph, hosts that are in it. Shadow itself is in no distribution, so it is not run here.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use mizzle_sim::scenario::Scenario;
use mizzle_sim::shadow::{Files, Host, files};
use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::path::Path;
use yaml_rust2::{Yaml, YamlLoader};

/// What a value must be, by Shadow's pages on its configuration.
enum Kind {
    Time,
    Bandwidth,
    Count,
    Flag,
    Text,
    Words,
    Address,
    /// How a process is expected to end.
    State,
    One(&'static [&'static str]),
    /// These keys and no others; those that are marked must be there.
    Keys(Vec<(&'static str, bool, Kind)>),
    /// Any keys that are names of hosts, each with this.
    Hosts(Box<Kind>),
    Each(Box<Kind>),
}

fn schema() -> Kind {
    use Kind::*;
    let level = || One(&["error", "warning", "info", "debug", "trace"]);
    let general = vec![
        ("stop_time", true, Time),
        ("seed", false, Count),
        ("parallelism", false, Count),
        ("bootstrap_end_time", false, Time),
        ("data_directory", false, Text),
        ("heartbeat_interval", false, Time),
        ("log_level", false, level()),
        ("model_unblocked_syscall_latency", false, Flag),
        ("progress", false, Flag),
        ("template_directory", false, Text),
    ];
    let file = Keys(vec![("path", true, Text), ("compression", false, One(&["xz"]))]);
    let graph = Keys(vec![("type", true, One(&["gml"])), ("file", true, file)]);
    let network = vec![("graph", true, graph), ("use_shortest_path", false, Flag)];
    let process = vec![
        ("path", true, Text),
        ("args", false, Words),
        ("start_time", false, Time),
        ("shutdown_time", false, Time),
        ("shutdown_signal", false, Text),
        ("expected_final_state", false, State),
    ];
    let host = vec![
        ("network_node_id", true, Count),
        ("ip_addr", false, Address),
        ("bandwidth_up", false, Bandwidth),
        ("bandwidth_down", false, Bandwidth),
        ("processes", true, Each(Box::new(Keys(process)))),
    ];
    Keys(vec![
        ("general", true, Keys(general)),
        ("network", true, Keys(network)),
        ("hosts", true, Hosts(Box::new(Keys(host)))),
    ])
}

/// A number and one of these units, with a space between; the number.
fn quantity(text: &str, units: &[&str]) -> Option<u64> {
    let (number, unit) = text.split_once(' ')?;
    units.contains(&unit).then(|| number.parse().ok())?
}

fn seconds(text: &str) -> Option<u64> {
    quantity(text, &["s"])
}

fn bits(text: &str) -> Option<u64> {
    let number = quantity(text, &["bit", "Mbit", "Gbit"])?;
    // Whole bytes.
    (!text.ends_with(" bit") || number.is_multiple_of(8)).then_some(number)
}

/// Fails with the path of the first value that is not what it must be.
fn check(value: &Yaml, kind: &Kind, path: &str) -> Result<(), String> {
    let wrong = || Err(format!("{path}: {value:?}"));
    let text = value.as_str();
    let holds = match kind {
        Kind::Time => text.is_some_and(|text| seconds(text).is_some()),
        Kind::Bandwidth => text.is_some_and(|text| bits(text).is_some()),
        Kind::Count => value.as_i64().is_some_and(|count| u32::try_from(count).is_ok()),
        Kind::Flag => value.as_bool().is_some(),
        Kind::Text => text.is_some(),
        Kind::Words => value.as_vec().is_some_and(|words| words.iter().all(|word| word.as_str().is_some())),
        Kind::Address => text.is_some_and(|text| text.parse::<Ipv4Addr>().is_ok()),
        Kind::State => text == Some("running") || value["exited"].as_i64().is_some(),
        Kind::One(of) => text.is_some_and(|text| of.contains(&text)),
        Kind::Each(kind) => {
            let Some(all) = value.as_vec() else { return wrong() };
            return all.iter().try_for_each(|one| check(one, kind, &format!("{path}[]")));
        }
        Kind::Hosts(kind) => {
            let Some(hosts) = value.as_hash() else { return wrong() };
            return hosts.iter().try_for_each(|(name, host)| {
                let name = name.as_str().unwrap_or_default();
                let letters = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
                match letters && !name.is_empty() && !name.starts_with('-') {
                    true => check(host, kind, &format!("{path}.{name}")),
                    false => Err(format!("{path}: {name:?} is no name of a host")),
                }
            });
        }
        Kind::Keys(keys) => {
            let Some(table) = value.as_hash() else { return wrong() };
            for (key, inner) in table {
                let key = key.as_str().unwrap_or_default();
                let Some((_, _, kind)) = keys.iter().find(|(known, ..)| *known == key) else {
                    return Err(format!("{path}: unknown key {key}"));
                };
                check(inner, kind, &format!("{path}.{key}"))?;
            }
            match keys.iter().find(|(key, needed, _)| *needed && value[*key].is_badvalue()) {
                Some((key, ..)) => return Err(format!("{path}: no {key}")),
                None => true,
            }
        }
    };
    if holds { Ok(()) } else { wrong() }
}

/// A list of GML: keys with values in quotes, numbers or lists.
#[derive(Debug)]
enum Gml {
    Value(String),
    List(Vec<(String, Gml)>),
}

impl Gml {
    fn parse(text: &str) -> Result<Self, String> {
        let mut words = Vec::new();
        for (index, part) in text.split('"').enumerate() {
            match index % 2 {
                0 => words.extend(part.split_whitespace().map(str::to_owned)),
                _ => words.push(format!("\"{part}")),
            }
        }
        let mut words = words.into_iter();
        let list = Self::list(&mut words, false)?;
        Ok(Self::List(list))
    }

    fn list(words: &mut impl Iterator<Item = String>, inner: bool) -> Result<Vec<(String, Self)>, String> {
        let mut all = Vec::new();
        loop {
            match (words.next().as_deref(), inner) {
                (Some("]"), true) | (None, false) => return Ok(all),
                (None, true) | (Some("]"), false) => return Err("brackets do not match".to_owned()),
                (Some(key), _) => {
                    let value = match words.next().as_deref() {
                        Some("[") => Self::List(Self::list(words, true)?),
                        Some(value) => Self::Value(value.trim_start_matches('"').to_owned()),
                        None => return Err(format!("{key} has no value")),
                    };
                    all.push((key.to_owned(), value));
                }
            }
        }
    }

    fn all<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a Self> {
        let list = match self {
            Self::List(list) => list.as_slice(),
            Self::Value(_) => &[],
        };
        list.iter().filter(move |(name, _)| name == key).map(|(_, value)| value)
    }

    fn text(&self, key: &str) -> Result<&str, String> {
        match self.all(key).next() {
            Some(Self::Value(text)) => Ok(text),
            _ => Err(format!("no {key}")),
        }
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Result<T, String> {
        let text = self.text(key)?;
        text.parse().map_err(|_| format!("{key} is {text}"))
    }

    fn keys(&self) -> impl Iterator<Item = &str> {
        let list = match self {
            Self::List(list) => list.as_slice(),
            Self::Value(_) => &[],
        };
        list.iter().map(|(key, _)| key.as_str())
    }
}

/// Nodes of the graph, if it is complete and every value is what it must be.
fn check_graph(text: &str) -> Result<HashSet<u32>, String> {
    let whole = Gml::parse(text)?;
    let graph = whole.all("graph").next().ok_or("no graph")?;
    let directed: u8 = graph.number("directed")?;
    let mut nodes = HashSet::new();
    for node in graph.all("node") {
        let known = ["id", "label", "host_bandwidth_up", "host_bandwidth_down"];
        if let Some(key) = node.keys().find(|key| !known.contains(key)) {
            return Err(format!("unknown key {key} of a node"));
        }
        for key in ["host_bandwidth_up", "host_bandwidth_down"] {
            bits(node.text(key)?).ok_or(format!("{key} is {}", node.text(key)?))?;
        }
        if !nodes.insert(node.number::<u32>("id")?) {
            return Err("a node twice".to_owned());
        }
    }
    let mut edges = HashSet::new();
    for edge in graph.all("edge") {
        let known = ["source", "target", "label", "latency", "jitter", "packet_loss"];
        if let Some(key) = edge.keys().find(|key| !known.contains(key)) {
            return Err(format!("unknown key {key} of an edge"));
        }
        let latency = quantity(edge.text("latency")?, &["us", "ms"]).filter(|latency| *latency > 0);
        latency.ok_or(format!("latency is {}", edge.text("latency")?))?;
        if !(0.0..1.0).contains(&edge.number::<f64>("packet_loss")?) {
            return Err("packet_loss is no share".to_owned());
        }
        if !edges.insert((edge.number::<u32>("source")?, edge.number::<u32>("target")?)) {
            return Err("an edge twice".to_owned());
        }
    }
    let has = |a, b| edges.contains(&(a, b)) || (directed == 0 && edges.contains(&(b, a)));
    let all: Vec<_> = nodes.iter().copied().collect();
    let missing = all.iter().flat_map(|a| all.iter().map(move |b| (*a, *b))).find(|(a, b)| !has(*a, *b));
    match missing {
        Some((a, b)) => Err(format!("no edge from {a} to {b}")),
        None if edges.len() != nodes.len() * nodes.len() => Err("edges to nowhere".to_owned()),
        None => Ok(nodes),
    }
}

/// Fails with the first thing that Shadow would not take.
fn sound(files: &Files) -> Result<Yaml, String> {
    let mut documents = YamlLoader::load_from_str(&files.configuration).map_err(|error| error.to_string())?;
    let whole = documents.pop().ok_or("no document")?;
    check(&whole, &schema(), "")?;
    let nodes = check_graph(&files.graph)?;
    let stop = seconds(whole["general"]["stop_time"].as_str().unwrap_or_default()).unwrap_or_default();
    let mut addresses = HashSet::new();
    for (name, host) in whole["hosts"].as_hash().into_iter().flatten() {
        let node = host["network_node_id"].as_i64().and_then(|node| u32::try_from(node).ok());
        if !node.is_some_and(|node| nodes.contains(&node)) {
            return Err(format!("{name:?} is at no node of the graph"));
        }
        if !addresses.insert(host["ip_addr"].as_str()) {
            return Err(format!("{name:?} has another host's address"));
        }
        for process in host["processes"].as_vec().into_iter().flatten() {
            let start = seconds(process["start_time"].as_str().unwrap_or_default());
            if start.is_none_or(|start| start >= stop) {
                return Err(format!("{name:?} starts something after the end"));
            }
        }
    }
    Ok(whole)
}

/// Hosts as `mizzle-net prepare` tells them, for the scenario's counts.
fn hosts(scenario: &Scenario) -> Vec<Host> {
    let network = &scenario.network;
    let counts = [
        ("authority", 1),
        ("mix", network.width * network.layers),
        ("entry", network.entries),
        ("exit", network.exits),
        ("client", scenario.clients.count),
        ("origin", 1),
    ];
    let all = counts.into_iter().flat_map(|(role, count)| (0..count).map(move |number| (role, number)));
    let host = |(place, (role, number)): (u8, (&str, usize))| Host {
        name: format!("{role}{number}"),
        role: role.to_owned(),
        address: Ipv4Addr::new(10, place, 0, 1),
        metrics: ["mix", "entry", "exit"].contains(&role).then(|| "127.0.0.1:7100".parse().unwrap()),
        command: ["/a folder/program", "run", "--config", "/x/\"quoted\": #1\\config.toml"]
            .map(str::to_owned)
            .to_vec(),
    };
    (1..).zip(all).map(host).collect()
}

fn scenario(words: &[&str]) -> Scenario {
    let common = ["clients.count=4", "seconds=30", "links.distance_ms=20"];
    let words: Vec<_> = common.iter().chain(words).map(|word| (*word).to_owned()).collect();
    Scenario::load(None, &words).unwrap()
}

fn written(scenario: &Scenario) -> Files {
    files(scenario, &hosts(scenario), Path::new("/x/network.gml")).unwrap()
}

#[test]
fn shadow_can_read_what_is_written() {
    let scenario = scenario(&["links.loss=0.01", "links.bandwidth_mbit=12.3456789", "seed=77"]);
    let whole = sound(&written(&scenario)).unwrap();
    assert_eq!(whole["general"]["seed"].as_i64(), Some(77));
    assert_eq!(whole["network"]["graph"]["file"]["path"].as_str(), Some("/x/network.gml"));
    let (mix, client) = (&whole["hosts"]["mix0"], &whole["hosts"]["client3"]);
    assert_eq!(whole["hosts"].as_hash().unwrap().len(), 21);
    assert_eq!(mix["bandwidth_up"].as_str(), Some("12345672 bit"));
    assert!(client["bandwidth_up"].is_badvalue());
    // What is in a path stays as it is.
    assert_eq!(mix["processes"][0]["args"][2].as_str(), Some("/x/\"quoted\": #1\\config.toml"));
    // Counters are read twice, so far apart as the scenario says.
    for host in [mix, client] {
        let moment =
            |process: usize| seconds(host["processes"][process]["start_time"].as_str().unwrap()).unwrap();
        assert_eq!(moment(2) - moment(1), 30);
    }
    assert_eq!(client["processes"][2]["args"][0].as_str(), Some("status"));
}

#[test]
fn regions_become_nodes_and_hosts_are_in_them_by_turns() {
    let path = std::env::temp_dir().join(format!("mizzle-shadow-matrix-{}", std::process::id()));
    std::fs::write(&path, "1,40\n50,2\n").unwrap();
    let scenario = scenario(&[&format!("links.matrix={}", path.display())]);
    let files = written(&scenario);
    std::fs::remove_file(&path).unwrap();
    let whole = sound(&files).unwrap();
    let node = |name: &str| whole["hosts"][name]["network_node_id"].as_i64().unwrap();
    assert_eq!(["mix0", "mix1", "mix8", "entry0", "client0", "client1"].map(node), [0, 1, 0, 1, 0, 1]);
    let graph = Gml::parse(&files.graph).unwrap();
    let edges = graph.all("graph").next().unwrap().all("edge");
    let latencies: Vec<_> = edges.map(|edge| edge.text("latency").unwrap()).collect();
    assert_eq!(latencies, ["1000 us", "40000 us", "50000 us", "2000 us"]);
}

#[test]
fn what_shadow_does_not_read_is_found() {
    let files = written(&scenario(&[]));
    let edited = |in_graph: bool, from: &str, to: &str| {
        let mut files = files.clone();
        let text = if in_graph { &mut files.graph } else { &mut files.configuration };
        assert!(text.contains(from), "{from}");
        *text = text.replacen(from, to, 1);
        sound(&files).unwrap_err()
    };
    for (from, to, found) in [
        ("  seed:", "  sead:", "unknown key sead"),
        ("stop_time: \"", "stop_time: \"about ", "general.stop_time"),
        ("  stop_time: ", "  # stop_time: ", "no stop_time"),
        ("network_node_id: 0", "network_node_id: 7", "at no node"),
        ("ip_addr: \"10.1.0.1\"", "ip_addr: \"10.2.0.1\"", "another host's address"),
        ("expected_final_state: running", "expected_final_state: gone", "expected_final_state"),
        ("start_time: \"1 s\"", "start_time: \"1000 s\"", "after the end"),
        ("  mix0:", "  mix_0:", "no name of a host"),
        ("use_shortest_path: false", "use_shortest_path: \"no\"", "use_shortest_path"),
    ] {
        let error = edited(false, from, to);
        assert!(error.contains(found), "{to}: {error}");
    }
    for (from, to, found) in [
        ("20000 us", "0 us", "latency"),
        ("packet_loss 0.0", "packet_loss 1.5", "packet_loss"),
        ("target 0", "target 1", "no edge from 0 to 0"),
        ("10 Gbit", "10 Gbyte", "host_bandwidth_up"),
        ("  edge [", "  edge", ""),
        ("label", "lable", "unknown key lable"),
    ] {
        let error = edited(true, from, to);
        assert!(error.contains(found), "{to}: {error}");
    }
}
