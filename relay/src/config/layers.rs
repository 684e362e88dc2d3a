//! The layers of a configuration: flags over the environment over the file over defaults.

use super::example::line_of;
use super::keys::{self, Kind};
use super::{Config, ExitConfig, RelayRole, wrong};
use crate::services::policy::{Network, PolicyName, Ports};
use mizzle_link::Result;
use mizzle_link::units::{Rate, Size, Span};
use mizzle_protocol::country::Country;
use serde::{Deserialize, Deserializer, de};
use std::collections::HashMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The keys that people override for one start; each is a key of the file.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Flags {
    /// The network file
    #[arg(long, value_name = "FILE")]
    network: Option<String>,
    /// The one public port
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// mix, entry or exit
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// Folder of the identity and of cached documents
    #[arg(long, value_name = "FOLDER")]
    state: Option<String>,
    /// Folder in memory for keys and replay tags
    #[arg(long, value_name = "FOLDER")]
    runtime: Option<String>,
    /// Addresses that others reach this relay at, separated by commas
    #[arg(long, value_name = "ADDRESSES")]
    announce: Option<String>,
    /// Source address of all outgoing connections
    #[arg(long, value_name = "ADDRESS")]
    outbound: Option<String>,
    /// Where the counters are, on loopback
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<String>,
    /// Threads for packets
    #[arg(long, value_name = "NUMBER")]
    threads: Option<String>,
    /// Bandwidth in each direction, such as "10 Mbit/s"
    #[arg(long, value_name = "RATE")]
    rate: Option<String>,
    /// Traffic of a month, such as "500 GB"
    #[arg(long, value_name = "SIZE")]
    quota: Option<String>,
    /// error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
}

impl Flags {
    /// The folder of the identity alone.
    pub(crate) fn with_state(state: Option<String>) -> Self {
        Self { state, ..Self::default() }
    }

    /// What the way to the authorities needs.
    pub(crate) fn with_network(network: Option<String>, outbound: Option<String>) -> Self {
        Self { network, outbound, ..Self::default() }
    }

    fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("network", &self.network),
            ("listen", &self.listen),
            ("role", &self.role),
            ("state", &self.state),
            ("runtime", &self.runtime),
            ("announce", &self.announce),
            ("outbound", &self.outbound),
            ("metrics", &self.metrics),
            ("threads", &self.threads),
            ("rate", &self.rate),
            ("quota", &self.quota),
            ("log", &self.log),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.as_deref()?)))
    }
}

/// What one layer says. `None`: nothing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Layer {
    network: Option<PathBuf>,
    listen: Option<SocketAddr>,
    role: Option<RelayRole>,
    state: Option<PathBuf>,
    runtime: Option<PathBuf>,
    replay_on_disk: Option<bool>,
    replay_memory: Option<Size>,
    announce: Option<Vec<SocketAddr>>,
    family: Option<PathBuf>,
    #[serde(default, deserialize_with = "country")]
    country: Option<Country>,
    outbound: Option<IpAddr>,
    metrics: Option<SocketAddr>,
    exact_metrics: Option<bool>,
    threads: Option<usize>,
    rate: Option<Rate>,
    burst: Option<Size>,
    quota: Option<Size>,
    quota_reset: Option<u8>,
    loops: Option<u32>,
    heartbeat: Option<Span>,
    log: Option<String>,
    hosts: Option<HashMap<String, IpAddr>>,
    resolver: Option<Vec<SocketAddr>>,
    exit: ExitLayer,
}

/// The section `[exit]` of a layer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ExitLayer {
    enabled: Option<bool>,
    policy: Option<PolicyName>,
    ports: Option<Ports>,
    reject: Option<Vec<Network>>,
    notice: Option<SocketAddr>,
    contact: Option<String>,
}

impl Layer {
    /// The layer of a file's text. Its paths are relative to `folder`.
    pub(super) fn of_file(text: &str, folder: &Path) -> Result<Self> {
        keys::check(text)?;
        let mut layer: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = text.lines().nth(before.matches('\n').count()).unwrap_or_default();
            let key = line.split('=').next().unwrap_or_default().trim();
            wrong(with_example(error.to_string().trim_end(), line_of(key)))
        })?;
        let paths = [&mut layer.network, &mut layer.state, &mut layer.runtime, &mut layer.family];
        for path in paths.into_iter().flatten() {
            *path = folder.join(&*path);
        }
        Ok(layer)
    }

    /// The layer of the environment: `MIZZLE_RELAY_LISTEN` is the key `listen`, `MIZZLE_RELAY_EXIT_PORTS` the
    /// key `ports` of `[exit]`. `MIZZLE_LOG`, which all programs here know, is the key `log`.
    pub(super) fn of_environment(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Self> {
        let mut said = toml::Table::new();
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            let Some(key) = name.strip_prefix(PREFIX) else {
                if name == "MIZZLE_LOG" && !said.contains_key("log") {
                    let value = value.to_string_lossy().into_owned();
                    said.insert("log".to_owned(), toml::Value::String(value));
                }
                continue;
            };
            if key == "CONFIG" {
                continue;
            }
            let variable =
                |(key, kind): (&'static str, Kind)| (key, kind, key.to_uppercase().replace('.', "_"));
            let Some((key, kind, _)) = keys::all().map(variable).find(|(_, _, variable)| variable == key)
            else {
                let known: Vec<_> = keys::all().map(|known| variable(known).2).collect();
                let sentence = keys::unknown(PREFIX, key, known.iter().map(String::as_str));
                return Err(wrong(format!("the environment: {}", sentence.replace("key", "variable"))));
            };
            let value = value.to_str().ok_or_else(|| wrong(format!("{name} is not text")))?;
            put(&mut said, &format!("the environment variable {name}"), key, kind, value)?;
        }
        Self::of_table(said)
    }

    /// The layer of the command line.
    pub(super) fn of_flags(flags: &Flags) -> Result<Self> {
        let mut said = toml::Table::new();
        for (key, value) in flags.given() {
            let kind = keys::all().find(|(known, _)| *known == key).map_or(Kind::Text, |(_, kind)| kind);
            put(&mut said, &format!("the flag --{key}"), key, kind, value)?;
        }
        Self::of_table(said)
    }

    fn of_table(table: toml::Table) -> Result<Self> {
        toml::Value::Table(table)
            .try_into()
            .map_err(|error: toml::de::Error| wrong(error.message().to_owned()))
    }
}

/// Notes what `place` says of a key; fails, naming the place, if the key cannot take it.
fn put(said: &mut toml::Table, place: &str, key: &str, kind: Kind, text: &str) -> Result<()> {
    let parts = || text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let string = |text: &str| toml::Value::String(text.to_owned());
    let value = match kind {
        Kind::Text => Some(string(text)),
        Kind::Number => text.parse().ok().map(toml::Value::Integer),
        Kind::Flag => text.parse().ok().map(toml::Value::Boolean),
        Kind::List => Some(toml::Value::Array(parts().map(string).collect())),
        Kind::Table => {
            let pairs = parts().map(|part| part.split_once('='));
            let pairs =
                pairs.map(|pair| pair.map(|(name, value)| (name.trim().to_owned(), string(value.trim()))));
            pairs.collect::<Option<toml::Table>>().map(toml::Value::Table)
        }
    };
    let value = value.ok_or_else(|| {
        let wanted = match kind {
            Kind::Number => "a number",
            Kind::Flag => "true or false",
            _ => "name=address pairs, separated by commas",
        };
        wrong(with_example(&format!("{place}: `{text}` is not {wanted}"), value_of(key)))
    })?;
    let mut alone = toml::Table::new();
    insert(&mut alone, key, value.clone());
    Layer::of_table(alone)
        .map_err(|error| wrong(with_example(&format!("{place}: {error}"), value_of(key))))?;
    insert(said, key, value);
    Ok(())
}

/// What is wrong, and how it is written right, unless that is said already.
fn with_example(what: &str, example: Option<String>) -> String {
    match example {
        Some(example) if !what.contains("write it like") => format!("{what}; write it like {example}"),
        _ => what.to_owned(),
    }
}

/// What the example configuration has for a key, as it is written in flags and in the environment.
fn value_of(key: &str) -> Option<String> {
    let line = line_of(key)?;
    let (_, value) = line.split_once('=')?;
    Some(value.trim().trim_matches(['[', ']']).replace(['"', ' '], "")).filter(|value| !value.contains('{'))
}

fn insert(table: &mut toml::Table, key: &str, value: toml::Value) {
    match key.split_once('.') {
        None => drop(table.insert(key.to_owned(), value)),
        Some((section, key)) => {
            let section = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(section) = section {
                section.insert(key.to_owned(), value);
            }
        }
    }
}

/// The one place where layers meet: of each key the first layer that names it counts, then the default.
/// `folder` is the configuration file's.
pub(super) fn merge(mut layers: [Layer; 3], folder: &Path) -> Result<Config> {
    let l = &mut layers;
    let missing = |key: &str| {
        wrong(format!(
            "the key `{key}` is missing: set it in the file, or by --{key} or {PREFIX}{}",
            key.to_uppercase()
        ))
    };
    let listed = first(l, |l| &mut l.exit.ports);
    let policy = first(l, |l| &mut l.exit.policy).unwrap_or(PolicyName::Reduced);
    Ok(Config {
        network: first(l, |l| &mut l.network).ok_or_else(|| missing("network"))?,
        listen: first(l, |l| &mut l.listen).ok_or_else(|| missing("listen"))?,
        role: first(l, |l| &mut l.role).ok_or_else(|| missing("role"))?,
        state: first(l, |l| &mut l.state).unwrap_or_else(|| folder.join("state")),
        runtime: first(l, |l| &mut l.runtime),
        replay_on_disk: first(l, |l| &mut l.replay_on_disk).unwrap_or(false),
        replay_memory: first(l, |l| &mut l.replay_memory).unwrap_or(super::REPLAY_MEMORY),
        announce: first(l, |l| &mut l.announce).unwrap_or_default(),
        family: first(l, |l| &mut l.family),
        country: first(l, |l| &mut l.country),
        outbound: first(l, |l| &mut l.outbound),
        metrics: first(l, |l| &mut l.metrics).unwrap_or(super::METRICS),
        exact_metrics: first(l, |l| &mut l.exact_metrics).unwrap_or(false),
        threads: first(l, |l| &mut l.threads).unwrap_or(0),
        rate: first(l, |l| &mut l.rate),
        burst: first(l, |l| &mut l.burst),
        quota: first(l, |l| &mut l.quota),
        quota_reset: first(l, |l| &mut l.quota_reset).unwrap_or(1),
        loops: first(l, |l| &mut l.loops).unwrap_or(super::LOOPS),
        heartbeat: first(l, |l| &mut l.heartbeat).unwrap_or(super::HEARTBEAT),
        log: first(l, |l| &mut l.log).unwrap_or_else(|| "info".to_owned()),
        hosts: first(l, |l| &mut l.hosts).unwrap_or_default(),
        resolver: first(l, |l| &mut l.resolver).unwrap_or_default(),
        exit: ExitConfig {
            enabled: first(l, |l| &mut l.exit.enabled).unwrap_or(false),
            ports: listed.unwrap_or_else(|| policy.ports()),
            reject: first(l, |l| &mut l.exit.reject).unwrap_or_default(),
            notice: first(l, |l| &mut l.exit.notice),
            contact: first(l, |l| &mut l.exit.contact),
        },
    })
}

fn country<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Country>, D::Error> {
    let code = String::deserialize(deserializer)?;
    let wrong = |error| de::Error::custom(format!("`{code}` is {error}"));
    code.parse().map(Some).map_err(wrong)
}

fn first<T>(layers: &mut [Layer; 3], field: impl Fn(&mut Layer) -> &mut Option<T>) -> Option<T> {
    layers.iter_mut().find_map(|layer| field(layer).take())
}

const PREFIX: &str = "MIZZLE_RELAY_";

/// Default of `metrics`.
pub(super) const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7100);
/// Default of `replay_memory`: some 67 million tags.
pub(super) const REPLAY_MEMORY: Size = Size(800_000_000);
/// Default of `loops`.
pub(super) const LOOPS: u32 = mizzle_protocol::relay_loops::RATE as u32;
/// Default of `heartbeat`.
pub(super) const HEARTBEAT: Span = Span(Duration::from_secs(6 * 3_600));

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(flags: Flags, environment: &[(&str, &str)], file: &str) -> Result<Config> {
        let folder = Path::new("/etc/relay");
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into()));
        let layers =
            [Layer::of_flags(&flags)?, Layer::of_environment(environment)?, Layer::of_file(file, folder)?];
        merge(layers, folder)
    }

    const FILE: &str =
        "network = \"n\"\nlisten = \"127.0.0.1:1\"\nrole = \"mix\"\nthreads = 3\nlog = \"warn\"\n";

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file_and_that_over_defaults() {
        let environment =
            [("MIZZLE_RELAY_LISTEN", "127.0.0.1:2"), ("MIZZLE_RELAY_THREADS", "2"), ("PATH", "/bin")];
        let flags = Flags { listen: Some("127.0.0.1:3".to_owned()), ..Flags::default() };
        let config = merged(flags, &environment, FILE).unwrap();
        assert_eq!(config.listen.port(), 3);
        assert_eq!(config.threads, 2);
        assert_eq!(config.log, "warn");
        assert_eq!(config.metrics, METRICS);
        assert_eq!(config.network, Path::new("/etc/relay/n"));
        assert_eq!(config.state, Path::new("/etc/relay/state"));
    }

    #[test]
    fn every_kind_of_value_can_be_written_in_the_environment() {
        let environment = [
            ("MIZZLE_RELAY_ANNOUNCE", "192.0.2.1:1, [2001:db8::1]:1"),
            ("MIZZLE_RELAY_REPLAY_ON_DISK", "true"),
            ("MIZZLE_RELAY_HOSTS", "a.test=127.0.0.1,b.test=::1"),
            ("MIZZLE_RELAY_RESOLVER", "192.0.2.53:53,[2001:db8::53]:53"),
            ("MIZZLE_RELAY_EXIT_PORTS", "80,443"),
            ("MIZZLE_RELAY_EXIT_ENABLED", "true"),
            ("MIZZLE_RELAY_REPLAY_MEMORY", "120 MB"),
            ("MIZZLE_RELAY_RATE", "10 Mbit/s"),
            ("MIZZLE_RELAY_CONFIG", "ignored"),
            ("MIZZLE_LOG", "debug"),
        ];
        let config = merged(Flags::default(), &environment, FILE).unwrap();
        assert_eq!(config.announce.len(), 2);
        assert!(config.replay_on_disk && config.exit.enabled);
        assert_eq!(config.replay_tags(), 10_000_000);
        assert_eq!((config.hosts.len(), config.resolver.len()), (2, 2));
        assert_eq!(config.exit.ports.to_strings(), ["80", "443"]);
        assert_eq!(config.rate, Some(Rate(1_250_000)));
        assert_eq!(config.log, "debug");
        let both = [("MIZZLE_LOG", "debug"), ("MIZZLE_RELAY_LOG", "error")];
        assert_eq!(merged(Flags::default(), &both, FILE).unwrap().log, "error");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let complaint = |environment: &[(&str, &str)], file: &str| {
            merged(Flags::default(), environment, file).unwrap_err().to_string()
        };
        let text = complaint(&[("MIZZLE_RELAY_LISEN", "x")], FILE);
        assert!(text.contains("did you mean `MIZZLE_RELAY_LISTEN`"), "{text}");
        let text = complaint(&[("MIZZLE_RELAY_THREADS", "many")], FILE);
        assert!(text.contains("MIZZLE_RELAY_THREADS: `many` is not a number; write it like 0"), "{text}");
        let text = complaint(&[("MIZZLE_RELAY_RATE", "fast")], FILE);
        assert!(text.contains("MIZZLE_RELAY_RATE: `fast` is no rate"), "{text}");
        let text = complaint(&[], &FILE.replace("\"mix\"", "\"gateway\""));
        assert!(text.contains("line 3") && text.contains("gateway"), "{text}");
        assert!(complaint(&[], "role = \"mix\"\n").contains("`network` is missing"));
        let flags = Flags { listen: Some("here".to_owned()), ..Flags::default() };
        let text = merged(flags, &[], FILE).unwrap_err().to_string();
        assert!(
            text.contains("the flag --listen") && text.ends_with("write it like 127.0.0.1:7000"),
            "{text}"
        );
    }
}
