//! A scenario for Shadow (<https://shadow.github.io>, version 3), which runs the product's programs over a simulated
//! network: `shadow.yaml`, the graph `network.gml`, and the programs' own files.
//!
//! What Shadow wants of programs: they are linked dynamically with glibc, use its allocator, speak IPv4, and know no
//! system call that it does not (io_uring, sendmmsg). Its clock starts on 1 January 2000, and computing takes no time.
//!
//! Identities are made when the files are: the network file names those of the authority and the entries, and every
//! program reads that file when it starts. Made inside, somebody there would have to put them together.

use crate::links::Distance;
use crate::processes;
use crate::scenario::{Scenario, ScenarioError};
use serde::Deserialize;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A host, as `mizzle-net prepare` tells it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Host {
    /// Its name, which Shadow resolves.
    pub name: String,
    /// Such as `mix`.
    pub role: String,
    /// Its one address.
    pub address: Ipv4Addr,
    /// Where it shows its counters, on its own loopback; relays only.
    pub metrics: Option<SocketAddr>,
    /// The program and its arguments.
    pub command: Vec<String>,
}

/// The two files that Shadow reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Files {
    /// `shadow.yaml`.
    pub configuration: String,
    /// `network.gml`.
    pub graph: String,
}

/// Writes everything that Shadow needs into the folder `into`; returns the path of `shadow.yaml`.
///
/// Fails if Shadow or the programs cannot have the scenario, or the programs are not there.
pub fn export(scenario: &Scenario, into: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let shape = shape(scenario)?;
    let program = processes::launcher()?;
    let into = std::path::absolute(into)?;
    let cannot = |path: &Path, error: std::io::Error| format!("cannot write {}: {error}", path.display());
    std::fs::create_dir_all(&into).map_err(|error| cannot(&into, error))?;
    let [file, network, graph, configuration] =
        ["shape.toml", "net", "network.gml", "shadow.yaml"].map(|name| into.join(name));
    std::fs::write(&file, toml::to_string(&shape)?).map_err(|error| cannot(&file, error))?;
    let prepared = Command::new(&program)
        .arg("prepare")
        .arg("--dir")
        .arg(&network)
        .arg("--shape")
        .arg(&file)
        .status()?;
    if !prepared.success() {
        return Err("the programs' files were not made".into());
    }
    let hosts: Vec<Host> = serde_json::from_str(&std::fs::read_to_string(network.join("hosts.json"))?)?;
    for program in hosts.iter().filter_map(|host| host.command.first()) {
        if !is_dynamic(&std::fs::read(program)?) {
            let why = "is linked statically, and Shadow cannot run it: build it for a target with glibc";
            return Err(format!("{program} {why}").into());
        }
    }
    let files = files(scenario, &hosts, &graph)?;
    std::fs::write(&graph, files.graph).map_err(|error| cannot(&graph, error))?;
    std::fs::write(&configuration, files.configuration).map_err(|error| cannot(&configuration, error))?;
    Ok(configuration)
}

/// The shape of the network. Names the keys that the programs cannot have, or Shadow.
fn shape(scenario: &Scenario) -> Result<toml::Table, ScenarioError> {
    let shape = processes::shape(scenario, &[])?;
    if u32::try_from(scenario.seed).is_err() {
        return Err(ScenarioError::new(format!("seed = {}: Shadow's have 32 bits", scenario.seed)));
    }
    let key = if scenario.links.matrix.is_empty() { "links.distance_ms" } else { "links.matrix" };
    let shortest = regions(scenario)?.into_iter().flatten().min().unwrap_or_default();
    match shortest < SHORTEST_LINK {
        true => Err(ScenarioError::new(format!(
            "{key}: a link of {} ms is too short for Shadow, which moves all hosts on by a millisecond at a time; say 1 or \
             more, within a region, too",
            shortest.as_secs_f64() * 1e3
        ))),
        false => Ok(shape),
    }
}

/// One-way times between regions; one region, if all links are alike.
fn regions(scenario: &Scenario) -> Result<Vec<Vec<Duration>>, ScenarioError> {
    Ok(match scenario.shape()?.links.distance {
        Distance::Equal(time) => vec![vec![time]],
        Distance::Regions(times) => times,
        // Refused by its key before.
        Distance::World(_) => Vec::new(),
    })
}

/// The files for these hosts; `graph` is where the graph will be.
pub fn files(scenario: &Scenario, hosts: &[Host], graph: &Path) -> Result<Files, ScenarioError> {
    let times = regions(scenario)?;
    Ok(Files {
        configuration: configuration(scenario, hosts, graph, times.len()),
        graph: network(&times, scenario.links.loss),
    })
}

/// One node for each region and one edge for each way between two of them, or within one.
fn network(times: &[Vec<Duration>], loss: f64) -> String {
    let mut out = "graph [\n  directed 1\n".to_owned();
    // Writing to a string cannot fail.
    for node in 0..times.len() {
        let _ = writeln!(
            out,
            "  node [\n    id {node}\n    label \"region {node}\"\n    host_bandwidth_up \"{ANY_BANDWIDTH}\"\n    \
             host_bandwidth_down \"{ANY_BANDWIDTH}\"\n  ]"
        );
    }
    for (source, row) in times.iter().enumerate() {
        for (target, time) in row.iter().enumerate() {
            let _ = writeln!(
                out,
                "  edge [\n    source {source}\n    target {target}\n    latency \"{} us\"\n    packet_loss {loss:?}\n  ]",
                time.as_micros()
            );
        }
    }
    out + "]\n"
}

fn configuration(scenario: &Scenario, hosts: &[Host], graph: &Path, regions: usize) -> String {
    // Mixes fill up as everywhere else, after the programs have found each other.
    let warm = BOOT + Duration::from_secs_f64(scenario.network.mean_delay_ms / 1e3 * 90.0);
    let begin = warm.as_secs() + 1;
    let end = begin + scenario.seconds.ceil() as u64;
    let mut out = format!(
        "# Written by `mizzle-sim export shadow`. Run it with: shadow shadow.yaml\n\
         # The first readings of all counters are made at {begin} s, the last at {end} s: see the hosts' folders in shadow.data.\n\
         # What graphs lose are IP packets, which TCP sends again; it costs time, and no cell.\n\
         general:\n  stop_time: {}\n  seed: {}\n\
         # Some programs look at the clock until it has moved on.\n  model_unblocked_syscall_latency: true\n\
         network:\n  graph:\n    type: gml\n    file:\n      path: {}\n\
         # Each edge is the way itself.\n  use_shortest_path: false\nhosts:\n",
        text(&format!("{} s", end + AFTER)),
        scenario.seed,
        text(&graph.to_string_lossy()),
    );
    let relays =
        scenario.network.width * scenario.network.layers + scenario.network.entries + scenario.network.exits;
    let mut numbers = (0..relays, 0..scenario.clients.count);
    for host in hosts {
        let number = match host.role.as_str() {
            "mix" | "entry" | "exit" => numbers.0.next(),
            "client" => numbers.1.next(),
            // The authority and the web server are in no scenario.
            _ => None,
        };
        let _ = writeln!(
            out,
            "  {}:\n    network_node_id: {}\n    ip_addr: {}",
            host.name,
            number.unwrap_or(0) % regions.max(1),
            text(&host.address.to_string())
        );
        if host.metrics.is_some() && scenario.links.bandwidth_mbit > 0.0 {
            let bytes = (scenario.links.bandwidth_mbit * 1e6 / 8.0) as u64;
            let _ = writeln!(out, "    bandwidth_up: {}", text(&format!("{} bit", bytes * 8)));
        }
        out += "    processes:\n";
        process(&mut out, &host.command, start(&host.role), "running");
        let look = match (&host.metrics, host.role.as_str()) {
            (Some(metrics), _) => {
                vec!["curl".to_owned(), "-s".to_owned(), format!("http://{metrics}/metrics")]
            }
            (None, "client") => status(&host.command),
            _ => continue,
        };
        for moment in [begin, end] {
            process(&mut out, &look, moment, "{ exited: 0 }");
        }
    }
    out
}

fn process(out: &mut String, command: &[String], start: u64, state: &str) {
    let (program, arguments) =
        command.split_first().map_or((String::new(), Vec::new()), |(program, arguments)| {
            (text(program), arguments.iter().map(|word| text(word)).collect())
        });
    let _ = writeln!(
        out,
        "      - path: {program}\n        args: [{}]\n        start_time: {}\n        expected_final_state: {state}",
        arguments.join(", "),
        text(&format!("{start} s"))
    );
}

/// When a host's program starts, in seconds: those that others look for come first.
fn start(role: &str) -> u64 {
    match role {
        "authority" | "origin" => 1,
        "client" => 10,
        _ => 2,
    }
}

/// What asks a client's program for its counters: that program itself.
fn status(command: &[String]) -> Vec<String> {
    let [program, _, place @ ..] = command else { return Vec::new() };
    [program.as_str(), "status", "--json"]
        .into_iter()
        .map(str::to_owned)
        .chain(place.iter().cloned())
        .collect()
}

/// A text in quotes, as YAML has it: every text of JSON is one.
fn text(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

/// True if a program (ELF, 64 bits, little-endian) asks for a dynamic linker.
fn is_dynamic(program: &[u8]) -> bool {
    let number = |at: usize, bytes: usize| {
        let field = program.get(at..at.checked_add(bytes)?)?;
        Some(field.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    };
    let interpreter = || {
        let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        (0..count).find(|index| number(table.saturating_add(index * size), 4) == Some(INTERPRETER))
    };
    program.starts_with(b"\x7fELF") && interpreter().is_some()
}

/// The type of a program header that names the dynamic linker.
const INTERPRETER: usize = 3;
/// Below, Shadow delays packets by itself (`experimental.runahead`).
const SHORTEST_LINK: Duration = Duration::from_millis(1);
/// Lines that are never the limit.
const ANY_BANDWIDTH: &str = "10 Gbit";
/// Until all programs have found each other.
const BOOT: Duration = Duration::from_secs(40);
/// Seconds after the last reading.
const AFTER: u64 = 5;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn what_shadow_cannot_have_is_refused_by_its_key() {
        let refusal = |word: &str| {
            let words = ["clients.count=4", "links.distance_ms=20", word].map(str::to_owned);
            shape(&Scenario::load(None, &words).unwrap()).unwrap_err().to_string()
        };
        assert!(refusal("links.distance_ms=0").starts_with("links.distance_ms"));
        assert!(refusal("links.distance_ms=0.5").contains("0.5 ms is too short"));
        assert!(refusal("links.capacity=100").ends_with("links.capacity"));
        assert!(refusal("seed=4294967296").starts_with("seed"));
        let sound = ["clients.count=4", "links.distance_ms=20", "links.loss=0.1"].map(str::to_owned);
        assert!(shape(&Scenario::load(None, &sound).unwrap()).is_ok());
    }

    #[test]
    fn a_program_without_a_dynamic_linker_is_told() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(is_dynamic(&own));
        // Without program headers there is none that names one.
        let mut without = own.clone();
        without[56..58].fill(0);
        assert!(!is_dynamic(&without));
        assert!(!is_dynamic(b"\x7fELF"));
        assert!(!is_dynamic(b"#!/bin/sh\n"));
    }
}
