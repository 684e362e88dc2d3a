//! The relay's configuration file.

use crate::services::policy::{PolicyConfig, Ports};
use mizzle_link::{Error, Result, read_bounded};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::id::from_hex;
use serde::Deserialize;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// What a relay offers to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RelayRole {
    Mix,
    Entry,
    Exit,
}

impl RelayRole {
    /// Its name in files and on status pages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mix => "mix",
            Self::Entry => "entry",
            Self::Exit => "exit",
        }
    }
}

/// The configuration, checked. Paths are relative to the folder of the file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The network file.
    pub(crate) network: PathBuf,
    /// The one public port.
    pub(crate) listen: SocketAddr,
    /// What this relay does.
    pub(crate) role: RelayRole,
    /// Identity, cached documents.
    #[serde(default = "default_state")]
    pub(crate) state: PathBuf,
    /// Keys of the key periods and replay tags: a folder in memory.
    #[serde(default)]
    pub(crate) runtime: Option<PathBuf>,
    /// Keep keys and replay tags on disk if there is no folder in memory.
    #[serde(default)]
    pub(crate) replay_on_disk: bool,
    /// Addresses in the descriptor; empty: the one that is listened on.
    #[serde(default)]
    announce: Vec<SocketAddr>,
    /// Relays of one operator name the same family: 32 bytes in hexadecimal.
    #[serde(default)]
    pub(crate) family: Option<String>,
    /// Source address of all outgoing connections.
    #[serde(default)]
    pub(crate) outbound: Option<IpAddr>,
    /// Counters for Prometheus and for `status`; on loopback.
    #[serde(default = "default_metrics")]
    pub(crate) metrics: SocketAddr,
    /// Threads for packets; 0: one a core, at most two.
    #[serde(default)]
    pub(crate) threads: usize,
    /// What an exit connects to.
    #[serde(default)]
    pub(crate) exit: PolicyConfig,
    /// Names that an exit knows before it asks its resolver.
    #[serde(default)]
    pub(crate) hosts: HashMap<String, IpAddr>,
}

impl Config {
    /// Reads and checks the file at `path`.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let bytes = read_bounded(path, FILE_LIMIT)?.ok_or_else(|| {
            let message = format!(
                "there is no configuration at {0}: make one with mizzle-relay init --config {0}",
                path.display()
            );
            Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Unavailable, message))
        })?;
        let text = String::from_utf8(bytes).map_err(|_| wrong(format!("{} is not text", path.display())))?;
        let mut config = Self::parse(&text).map_err(|error| wrong(format!("{}: {error}", path.display())))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        config.network = folder.join(&config.network);
        config.state = folder.join(&config.state);
        config.runtime = config.runtime.map(|runtime| folder.join(runtime));
        Ok(config)
    }

    fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if !config.metrics.ip().is_loopback() {
            return Err(wrong(
                "`metrics` must be a loopback address: the counters are for the operator only",
            ));
        }
        if config.listen.port() == 0 && config.announce.is_empty() {
            return Err(wrong("`listen` has port 0: name the port, since it is announced to the network"));
        }
        if config.announced().iter().any(|address| address.ip().is_unspecified() || address.port() == 0) {
            return Err(wrong("`announce` must list the addresses that others reach this relay at"));
        }
        if config.announced().len() > ADDRESSES {
            return Err(wrong("`announce` lists more than 4 addresses"));
        }
        if let Some(family) = &config.family {
            from_hex::<32>(family).map_err(|_| wrong("`family` must be 64 hexadecimal digits"))?;
        }
        if config.threads > 64 {
            return Err(wrong("`threads` is more than 64"));
        }
        Ok(config)
    }

    /// The addresses of the descriptor.
    pub(crate) fn announced(&self) -> Vec<SocketAddr> {
        if self.announce.is_empty() { vec![self.listen] } else { self.announce.clone() }
    }

    /// The file of the identity.
    pub(crate) fn identity(&self) -> PathBuf {
        self.state.join("identity")
    }

    /// Threads for packets.
    pub(crate) fn crypto_threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(2),
            threads => threads,
        }
    }
}

/// A configuration with every key, commented, at its default.
pub(crate) fn example() -> String {
    format!(
        r#"# A Mizzle relay. Start it with: mizzle-relay run --config THIS-FILE

# The network file, from who runs the network.
network = "network.toml"

# The one public port: packets, links of clients, and the consensus.
listen = "127.0.0.1:7000"

# What this relay does: "mix", "entry" (takes links of clients) or "exit" (connects to the internet).
role = "mix"

# Identity and cached documents. Keep a copy of the file `identity` in it.
#state = "state"

# Folder for the keys of the key periods and for replay tags. It must be in memory (a tmpfs), so that both
# die together at a reboot. Default: the first of $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR, /dev/shm that is one.
#runtime = "/dev/shm/mizzle"

# Keep them on disk instead, below `state`. Who takes the disk can then open recorded packets of the
# current key periods.
#replay_on_disk = false

# The addresses that others reach this relay at. Default: `listen`.
#announce = ["192.0.2.7:7000"]

# Relays of one operator name the same family: 64 hexadecimal digits of your choice. Clients never pass two.
#family = "{family}"

# Source address of all outgoing connections.
#outbound = "192.0.2.7"

# Counters for Prometheus, on loopback.
#metrics = "{metrics}"

# Threads for packets. 0: one a core, at most two.
#threads = 0

# Exits only: names that are known without asking the resolver.
#hosts = {{ "name.test" = "192.0.2.80" }}

# Exits only: what may be connected to. Private, loopback, link-local, multicast and own addresses are always
# refused, unless the network file says `open_exits = true`.
#[exit]
#ports = {ports:?}
#reject = ["198.51.100.0/24"]
"#,
        family = "0".repeat(64),
        metrics = default_metrics(),
        ports = Ports::default().to_strings(),
    )
}

fn wrong(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Misuse, message))
}

fn default_state() -> PathBuf {
    PathBuf::from("state")
}

fn default_metrics() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7100)
}

const FILE_LIMIT: usize = 1 << 20;
const ADDRESSES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_holds_and_names_every_key_at_its_default() {
        let text = example();
        let minimal = Config::parse(&text).unwrap();
        let bare = "network = \"network.toml\"\nlisten = \"127.0.0.1:7000\"\nrole = \"mix\"\n";
        assert_eq!(minimal, Config::parse(bare).unwrap());
        let uncommented: String = text
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .flat_map(|line| [line, "\n"])
            .collect();
        let full = Config::parse(&uncommented).unwrap();
        assert_eq!(full.metrics, minimal.metrics);
        assert_eq!(full.threads, minimal.threads);
        assert_eq!(full.exit.ports, minimal.exit.ports);
        // The parser names all keys when it meets one that it does not know.
        let error = Config::parse(&format!("colour = 1\n{bare}")).unwrap_err().to_string();
        let keys = error.split("expected one of").nth(1).unwrap();
        for key in keys.split('`').skip(1).step_by(2) {
            assert!(text.contains(&format!("{key} =")) || text.contains(&format!("[{key}]")), "{key}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_key_named() {
        let base = "network = \"n\"\nlisten = \"127.0.0.1:7000\"\nrole = \"exit\"\n";
        for (line, key) in [
            ("metrics = \"192.0.2.1:1\"", "metrics"),
            ("family = \"00\"", "family"),
            ("announce = [\"0.0.0.0:7000\"]", "announce"),
            ("threads = 65", "threads"),
            ("colour = 1", "colour"),
        ] {
            let error = Config::parse(&format!("{base}{line}\n")).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
        assert!(Config::parse(&base.replace("exit", "gateway")).is_err());
        assert!(Config::parse(&base.replace("7000", "0")).is_err());
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, example()).unwrap();
        let config = Config::load(&path).unwrap();
        assert_eq!(config.network, folder.path().join("network.toml"));
        assert_eq!(config.identity(), folder.path().join("state/identity"));
        let missing = Config::load(&folder.path().join("none.toml")).unwrap_err();
        assert!(missing.to_string().contains("mizzle-relay init"));
    }
}
