//! The relay's configuration: flags over the environment over the file over defaults.

mod example;
mod keys;
mod layers;

pub(crate) use example::example;
pub(crate) use layers::Flags;

use crate::bandwidth::Allowed;
use crate::logging;
use crate::services::policy::{Network, PolicyConfig, Ports};
use layers::{HEARTBEAT, LOOPS, Layer, METRICS, REPLAY_MEMORY};
use mizzle_link::units::{Rate, Size, Span};
use mizzle_link::{Error, Result, read_bounded};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::country::Country;
use mizzle_protocol::id::from_hex;
use serde::Deserialize;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
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

/// The configuration, merged and checked. Paths in the file are relative to its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// The network file.
    pub(crate) network: PathBuf,
    /// The one public port.
    pub(crate) listen: SocketAddr,
    /// What this relay does.
    pub(crate) role: RelayRole,
    /// Identity, cached documents, used quota, the control socket.
    pub(crate) state: PathBuf,
    /// Keys of the key periods and replay tags: a folder in memory.
    pub(crate) runtime: Option<PathBuf>,
    /// Keep keys and replay tags on disk if there is no folder in memory.
    pub(crate) replay_on_disk: bool,
    /// Memory for the replay tags of one key period, in the process and in their log.
    pub(crate) replay_memory: Size,
    /// Addresses in the descriptor; empty: the one that is listened on.
    announce: Vec<SocketAddr>,
    /// The file of the certificate that this relay is of its operator's family.
    pub(crate) family: Option<PathBuf>,
    /// Where this relay is, as its operator says.
    pub(crate) country: Option<Country>,
    /// Source address of all outgoing connections.
    pub(crate) outbound: Option<IpAddr>,
    /// Counters for Prometheus and for `status`; on loopback.
    pub(crate) metrics: SocketAddr,
    /// Counters to the last packet: for tests.
    pub(crate) exact_metrics: bool,
    /// Threads for packets; 0: one a core.
    pub(crate) threads: usize,
    /// Bandwidth in each direction.
    pub(crate) rate: Option<Rate>,
    /// What may pass at once after a pause; `None`: a second of the rate.
    pub(crate) burst: Option<Size>,
    /// Traffic of a month, both directions together.
    pub(crate) quota: Option<Size>,
    /// Day of the month on which the quota begins anew, at midnight UTC.
    pub(crate) quota_reset: u8,
    /// Loops a second through the network back to this relay; 0: none.
    pub(crate) loops: u32,
    /// Pause between lines that say that all is well; zero: never.
    pub(crate) heartbeat: Span,
    /// What is logged.
    pub(crate) log: String,
    /// Names that an exit knows before it asks its resolver.
    pub(crate) hosts: HashMap<String, IpAddr>,
    /// The resolvers for clients' questions; empty: those of the system.
    pub(crate) resolver: Vec<SocketAddr>,
    /// What an exit does.
    pub(crate) exit: ExitConfig,
}

/// The section `[exit]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExitConfig {
    /// The operator has said yes.
    pub(crate) enabled: bool,
    /// Ports that may be connected to.
    pub(crate) ports: Ports,
    /// Networks that may not, besides those that never may.
    pub(crate) reject: Vec<Network>,
    /// Where the notice for people who look up the address is served, in plain HTTP.
    pub(crate) notice: Option<SocketAddr>,
    /// Whom they can write to.
    pub(crate) contact: Option<String>,
}

impl ExitConfig {
    /// What may be connected to.
    pub(crate) fn policy(&self) -> PolicyConfig {
        PolicyConfig { ports: self.ports.clone(), reject: self.reject.clone() }
    }
}

impl Config {
    /// Reads the file at `path`, merges it with the environment and with `flags`, and checks the whole.
    pub(crate) fn load(path: &Path, flags: &Flags) -> Result<Self> {
        let bytes = read_bounded(path, FILE_LIMIT)?.ok_or_else(|| {
            let message = format!(
                "there is no configuration at {0}: make one with mizzle-relay init --config {0}",
                path.display()
            );
            Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Unavailable, message))
        })?;
        let text = String::from_utf8(bytes).map_err(|_| wrong(format!("{} is not text", path.display())))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let file =
            Layer::of_file(&text, folder).map_err(|error| wrong(format!("{}: {error}", path.display())))?;
        let others = [Layer::of_flags(flags)?, Layer::of_environment(std::env::vars_os())?];
        let by_file_alone = layers::merge([Layer::default(), Layer::default(), file.clone()], folder);
        let [flags, environment] = others;
        let made = layers::merge([flags, environment, file], folder).and_then(Self::checked);
        made.map_err(|error| {
            let message = error.to_string();
            // What the file alone would not say is a flag's or a variable's doing.
            match by_file_alone.and_then(Self::checked) {
                Err(alone) if alone.to_string() == message => wrong(format!("{}: {message}", path.display())),
                _ => {
                    wrong(format!("{} with the flags and MIZZLE_ variables here: {message}", path.display()))
                }
            }
        })
    }

    fn checked(self) -> Result<Self> {
        let refuse = |message: &'static str| Err(wrong(message));
        if !self.metrics.ip().is_loopback() {
            return refuse("`metrics` must be a loopback address: the counters are for the operator only");
        }
        if self.metrics == self.listen {
            return refuse("`metrics` and `listen` are the same address: give `metrics` another port");
        }
        if self.listen.port() == 0 && self.announce.is_empty() {
            return refuse(
                "`listen` has port 0: name the port, since it is announced to the network: listen = \
                 \"192.0.2.7:7000\"",
            );
        }
        if self.announced().iter().any(|address| address.ip().is_unspecified() || address.port() == 0) {
            return refuse(
                "`announce`, or `listen` without it, must be the addresses that others reach this relay at, with \
                 their ports: announce = [\"192.0.2.7:7000\", \"[2001:db8::7]:7000\"]",
            );
        }
        if self.announced().len() > ADDRESSES {
            return refuse(
                "`announce` lists more than 4 addresses: one of each family will do, as in announce = \
                 [\"192.0.2.7:7000\", \"[2001:db8::7]:7000\"]",
            );
        }
        let name = self.family.as_ref().and_then(|path| path.file_name()?.to_str());
        if name.is_some_and(|name| from_hex::<32>(name).is_ok()) {
            return refuse(
                "`family` is the file of a certificate, and no name of a family, which anyone could write: make \
                 a key with mizzle-relay key family, and the certificate with mizzle-relay key certify",
            );
        }
        if self.replay_memory < LEAST_REPLAY_MEMORY {
            return refuse(
                "`replay_memory` is below 12 MB: a million packets, and then the relay takes no more",
            );
        }
        if self.loops > MOST_LOOPS {
            return refuse(
                "`loops` is more than 20 a second: loops = 2 notices in seconds that packets are kept away",
            );
        }
        if self.threads > MOST_THREADS {
            return refuse("`threads` is more than 64: threads = 0 takes one a core, threads = 4 takes four");
        }
        if self.rate.is_some_and(|rate| rate < LEAST_RATE) {
            return refuse("`rate` is below 512 kbit/s: a relay that carries less is of no use to anyone");
        }
        if self.burst.is_some() && self.rate.is_none() {
            return refuse("`burst` without `rate` limits nothing: set both, or neither");
        }
        if self.burst.is_some_and(|burst| burst < LEAST_BURST) {
            return refuse("`burst` is below 64 kB: that is less than a handful of packets");
        }
        if self.quota.is_some_and(|quota| quota < LEAST_QUOTA) {
            return refuse(
                "`quota` is below 1 MB a month: a few hundred packets, and then the relay rests. Is the unit right? \
                 quota = \"500 GB\"",
            );
        }
        if !(1..=28).contains(&self.quota_reset) {
            return refuse("`quota_reset` must be a day that every month has: 1 to 28");
        }
        if !logging::is_level(&self.log) {
            return refuse(logging::NO_LEVEL);
        }
        if self.resolver.iter().any(|server| server.ip().is_unspecified() || server.port() == 0) {
            return refuse("`resolver` must list addresses with their ports, such as \"192.0.2.53:53\"");
        }
        if self.resolver.len() > RESOLVERS {
            return refuse("`resolver` lists more than 3 resolvers");
        }
        // (spec: EXIT-6)
        if self.role == RelayRole::Exit && !self.exit.enabled {
            return refuse(
                "role is \"exit\", but nobody has said yes to that: an exit connects to the internet for \
                 strangers, and others see this machine's address. If you want it, set `enabled = true` in \
                 [exit]; if not, take role = \"mix\"",
            );
        }
        if self.exit.notice.is_some() && self.exit.contact.is_none() {
            return refuse("`notice` in [exit] needs `contact`: whom may people write to?");
        }
        Ok(self)
    }

    /// The addresses of the descriptor.
    pub(crate) fn announced(&self) -> Vec<SocketAddr> {
        if self.announce.is_empty() { vec![self.listen] } else { self.announce.clone() }
    }

    /// What limits its traffic.
    pub(crate) fn allowed(&self) -> Allowed {
        Allowed { rate: self.rate, burst: self.burst, quota: self.quota }
    }

    /// The file of the identity.
    pub(crate) fn identity(&self) -> PathBuf {
        self.state.join("identity")
    }

    /// Threads for packets.
    pub(crate) fn crypto_threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS),
            threads => threads,
        }
    }

    /// Packets of one key period that this relay can remember, at most 2^32: a tag's list and its place in it.
    pub(crate) fn replay_tags(&self) -> usize {
        usize::try_from(self.replay_memory.0 / BYTES_A_TAG).map_or(MOST_TAGS, |tags| tags.min(MOST_TAGS))
    }

    /// One with defaults.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        let text = "network = \"n\"\nlisten = \"127.0.0.1:7000\"\nrole = \"mix\"\n";
        let folder = Path::new("");
        let layers = [Layer::default(), Layer::default(), Layer::of_file(text, folder).unwrap()];
        layers::merge(layers, folder).unwrap()
    }

    /// The keys that differ in `other`: first those that a running relay can take over, then those that need
    /// a new start.
    pub(crate) fn differences(&self, other: &Self) -> (Vec<&'static str>, Vec<&'static str>) {
        let names = |differences: &[(&'static str, bool)]| {
            differences.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect()
        };
        let now = [
            ("rate", self.rate != other.rate),
            ("burst", self.burst != other.burst),
            ("quota", self.quota != other.quota),
            ("quota_reset", self.quota_reset != other.quota_reset),
            ("log", self.log != other.log),
            ("hosts", self.hosts != other.hosts),
            ("resolver", self.resolver != other.resolver),
            ("exit.ports", self.exit.ports != other.exit.ports),
            ("exit.reject", self.exit.reject != other.exit.reject),
        ];
        let later = [
            ("network", self.network != other.network),
            ("listen", self.listen != other.listen),
            ("role", self.role != other.role),
            ("country", self.country != other.country),
            ("state", self.state != other.state),
            ("runtime", self.runtime != other.runtime),
            ("replay_on_disk", self.replay_on_disk != other.replay_on_disk),
            ("replay_memory", self.replay_memory != other.replay_memory),
            ("announce", self.announce != other.announce),
            ("outbound", self.outbound != other.outbound),
            ("metrics", self.metrics != other.metrics),
            ("exact_metrics", self.exact_metrics != other.exact_metrics),
            ("threads", self.threads != other.threads),
            ("loops", self.loops != other.loops),
            ("heartbeat", self.heartbeat != other.heartbeat),
            ("exit.notice", self.exit.notice != other.exit.notice),
            ("exit.contact", self.exit.contact != other.exit.contact),
        ];
        (names(&now), names(&later))
    }
}

/// Packets of one key period that a relay remembers unless its operator says otherwise.
pub(crate) fn default_replay_tags() -> usize {
    usize::try_from(REPLAY_MEMORY.0 / BYTES_A_TAG).unwrap_or(MOST_TAGS)
}

fn wrong(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Misuse, message))
}

const FILE_LIMIT: usize = 1 << 20;
const ADDRESSES: usize = 4;
/// As many as the system's own list may have.
pub(crate) const RESOLVERS: usize = 3;
/// 512 kbit/s: some 14 packets a second.
const LEAST_RATE: Rate = Rate(64_000);
const LEAST_BURST: Size = Size(64_000);
const LEAST_QUOTA: Size = Size(1_000_000);
pub(crate) const LEAST_REPLAY_MEMORY: Size = Size(12_000_000);
/// Eight in the log, and less than four in a list.
pub(crate) const BYTES_A_TAG: u64 = 12;
const MOST_TAGS: usize = 1 << 32;
const MOST_THREADS: usize = 64;
const MOST_LOOPS: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config> {
        let folder = Path::new("");
        let layers = [Layer::default(), Layer::default(), Layer::of_file(text, folder)?];
        layers::merge(layers, folder).and_then(Config::checked)
    }

    #[test]
    fn a_mistake_is_said_to_be_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay.toml");
        let base = "network = \"n\"\nlisten = \"127.0.0.1:7000\"\nrole = \"mix\"\n";
        let said = |extra: &str, flags: Flags| {
            std::fs::write(&path, format!("{base}{extra}")).unwrap();
            Config::load(&path, &flags).unwrap_err().to_string()
        };
        let loud = <Flags as clap::Args>::augment_args(clap::Command::new("run"));
        let loud = loud.get_matches_from(["run", "--log", "loud"]);
        let loud = <Flags as clap::FromArgMatches>::from_arg_matches(&loud).unwrap();
        assert!(said("", loud).contains("with the flags"));
        assert!(!said("log = \"loud\"", Flags::default()).contains("with the flags"));
    }

    fn uncommented() -> String {
        example()
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .flat_map(|line| [line, "\n"])
            .collect()
    }

    #[test]
    fn the_example_holds_and_names_every_key_at_its_default() {
        let text = example();
        let minimal = parse(&text).unwrap();
        let bare = "network = \"network.toml\"\nlisten = \"127.0.0.1:7000\"\nrole = \"mix\"\n";
        assert_eq!(minimal, parse(bare).unwrap());
        let full = parse(&uncommented()).unwrap();
        assert_eq!(
            (full.metrics, full.threads, full.quota_reset, full.heartbeat, &full.log, full.exact_metrics),
            (METRICS, minimal.threads, minimal.quota_reset, HEARTBEAT, &minimal.log, minimal.exact_metrics)
        );
        assert_eq!(full.exit.ports, minimal.exit.ports);
        assert!(!full.exit.enabled);
        for (key, _) in keys::KEYS {
            let key = key.strip_prefix("exit.").unwrap_or(key);
            let named =
                text.lines().any(|line| line.trim_start_matches('#').starts_with(&format!("{key} =")));
            assert!(named, "{key}");
        }
    }

    #[test]
    fn no_example_makes_an_exit_and_a_role_alone_does_not_either() {
        for text in [example(), uncommented()] {
            assert_eq!(parse(&text).unwrap().role, RelayRole::Mix);
            let error = parse(&text.replace("role = \"mix\"", "role = \"exit\"")).unwrap_err();
            assert!(error.to_string().contains("enabled = true"), "{error}");
        }
        let said = "network = \"n\"\nlisten = \"127.0.0.1:7\"\nrole = \"exit\"\n[exit]\nenabled = true\n";
        let config = parse(said).unwrap();
        assert!(config.exit.enabled);
        assert_eq!(config.exit.ports, Ports::reduced());
        let full = parse(&format!("{said}policy = \"full\"\n")).unwrap();
        assert_eq!(full.exit.ports.to_strings(), ["1-24", "26-65535"]);
        let own = parse(&format!("{said}policy = \"full\"\nports = [\"80\"]\n")).unwrap();
        assert_eq!(own.exit.ports.to_strings(), ["80"]);
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_key_named() {
        let base = "network = \"n\"\nlisten = \"127.0.0.1:7000\"\nrole = \"mix\"\n";
        for (line, key) in [
            ("metrics = \"192.0.2.1:1\"", "metrics"),
            ("family = \"0000000000000000000000000000000000000000000000000000000000000000\"", "key certify"),
            ("announce = [\"0.0.0.0:7000\"]", "announce = [\"192.0.2.7:7000\""),
            ("announce = [\"192.0.2.7\"]", "write it like announce = [\"192.0.2.7:7000\"]"),
            ("announce = \"192.0.2.7:7000\"", "write it like announce = [\"192.0.2.7:7000\"]"),
            (
                "announce = [\"1.1.1.1:1\", \"1.1.1.1:2\", \"1.1.1.1:3\", \"1.1.1.1:4\", \"1.1.1.1:5\"]",
                "announce = [",
            ),
            ("threads = 65", "threads = 4"),
            ("threads = \"two\"", "write it like threads = 0"),
            ("country = \"Germany\"", "such as DE"),
            ("country = \"UK\"", "GB"),
            ("colour = 1", "colour"),
            ("rate = \"10 kbit/s\"", "rate"),
            ("rate = \"10\"", "Mbit/s"),
            ("burst = \"1 MB\"", "rate"),
            ("quota = \"999 kB\"", "quota"),
            ("metrics = \"127.0.0.1:7000\"", "another port"),
            ("rate = \"1 MB/s\"\nburst = \"1 kB\"", "burst"),
            ("replay_memory = \"1 MB\"", "replay_memory"),
            ("quota_reset = 31", "quota_reset"),
            ("log = \"inf\"", "error, warn, info"),
            ("resolver = [\"192.0.2.53:0\"]", "resolver"),
            ("resolver = [\"1.1.1.1:53\", \"1.1.1.2:53\", \"1.1.1.3:53\", \"1.1.1.4:53\"]", "more than 3"),
            ("[exit]\nnotice = \"127.0.0.1:80\"", "contact"),
        ] {
            let error = parse(&format!("{base}{line}\n")).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
        assert!(parse(&base.replace("mix", "gateway")).is_err());
        for (wrong, example) in [
            ("127.0.0.1:0", "listen = \"192.0.2.7:7000\""),
            ("127.0.0.1", "write it like listen = \"127.0.0.1:7000\""),
            ("7000", "write it like listen = \"127.0.0.1:7000\""),
            ("0.0.0.0:7000", "announce = [\"192.0.2.7:7000\""),
        ] {
            let error = parse(&base.replace("127.0.0.1:7000", wrong)).unwrap_err();
            assert!(error.to_string().contains(example), "{wrong}: {error}");
        }
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, example()).unwrap();
        let config = Config::load(&path, &Flags::default()).unwrap();
        assert_eq!(config.network, folder.path().join("network.toml"));
        assert_eq!(config.identity(), folder.path().join("state/identity"));
        let missing = Config::load(&folder.path().join("none.toml"), &Flags::default()).unwrap_err();
        assert!(missing.to_string().contains("mizzle-relay init"));
    }

    #[test]
    fn differences_say_what_a_running_relay_can_take_over() {
        let base = "network = \"n\"\nlisten = \"127.0.0.1:7000\"\nrole = \"mix\"\n";
        let one = parse(base).unwrap();
        let two =
            parse(&format!("{base}rate = \"1 MB/s\"\nthreads = 1\n[exit]\nports = [\"80\"]\n")).unwrap();
        assert_eq!(one.differences(&two), (vec!["rate", "exit.ports"], vec!["threads"]));
        assert_eq!(one.differences(&one), (vec![], vec![]));
    }
}
