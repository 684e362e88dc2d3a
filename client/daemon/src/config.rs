//! The daemon's settings: flag > environment > file > default, merged here and nowhere else.

use crate::budget::{BUDGET_KEYS, BudgetFlags, BudgetKeys, BudgetSettings};
use crate::listener::Address;
use crate::upstream::Written;
use mizzle_client::{Country, MOST_LOOP_TIMES, Upstream};
use mizzle_protocol::level::{LEVELS, Level};
use serde::{Deserialize, Deserializer, de};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// What a person can set by flag or environment; each has a key of the same name in the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Flags {
    /// Configuration file (TOML) [default: ~/.config/mizzle/config.toml, if there is one]
    #[arg(long, env = "MIZZLE_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Network file: which network, and whose word counts in it
    #[arg(long, env = "MIZZLE_NETWORK", value_name = "FILE")]
    pub(crate) network: Option<PathBuf>,
    /// State directory: entries, cached consensus, control socket [default: ~/.local/state/mizzle]
    #[arg(long, env = "MIZZLE_STATE", value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}

/// What only `mizzle up` needs.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct UpFlags {
    /// Where applications connect, ports or files: 127.0.0.1:9150,unix:/path/socket [default: 127.0.0.1:9150]
    #[arg(long, env = "MIZZLE_SOCKS", value_name = "ADDRESS", value_delimiter = ',')]
    pub(crate) socks: Option<Vec<Address>>,
    /// Where programs ask for names, by UDP and TCP: 127.0.0.1:5353 [default: nowhere]
    #[arg(long, env = "MIZZLE_DNS", value_name = "ADDRESS", value_parser = dns_address)]
    pub(crate) dns: Option<SocketAddr>,
    /// Source address of all connections to the network
    #[arg(long, env = "MIZZLE_OUTBOUND", value_name = "IP")]
    pub(crate) outbound: Option<IpAddr>,
    /// A proxy that the network demands: http://[user:password@]HOST:PORT or socks5://...
    ///
    /// Every connection to the mixnet goes through it, and none beside it. The system resolves its name. A command line
    /// shows to everybody on this computer: write a password into the configuration file
    #[arg(long, env = "MIZZLE_UPSTREAM", value_name = "PROXY", hide_env_values = true)]
    pub(crate) upstream: Option<Written>,
    /// How much cover to pay for: strong, balanced or fast [default: balanced]
    ///
    /// In `strong` real traffic changes nothing on the line; in `balanced` it changes the step, seldom; `fast` follows
    /// the traffic: quick, and open to whoever watches both ends
    #[arg(long, env = "MIZZLE_LEVEL", value_name = "LEVEL", value_parser = level)]
    pub(crate) level: Option<Level>,
    /// Stay at this step of the level, counted from 0 [default: move with the load, as the level allows]
    #[arg(long, env = "MIZZLE_STEP", value_name = "N")]
    pub(crate) step: Option<u8>,
    /// Use only exits that say that they are in this country, by its two letters: DE [default: all exits]
    ///
    /// Nobody checks what they say, and fewer exits hide less: `mizzle status` shows the price. Where no exit is there,
    /// nothing is carried
    #[arg(long, env = "MIZZLE_EXIT_COUNTRY", value_name = "COUNTRY")]
    pub(crate) exit_country: Option<Country>,
    /// Most connections served at once [default: 512]
    #[arg(long, env = "MIZZLE_CONNECTIONS", value_name = "N")]
    pub(crate) connections: Option<usize>,
    /// For researchers: of how many last loops `mizzle status --json` tells the times, 4096 at most [default: 0]
    #[arg(long, env = "MIZZLE_LOOP_TIMES", value_name = "N")]
    pub(crate) loop_times: Option<usize>,
    #[command(flatten)]
    pub(crate) budget: BudgetFlags,
}

/// The merged settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) network: Option<PathBuf>,
    pub(crate) state: PathBuf,
    /// Never empty.
    pub(crate) socks: Vec<Address>,
    pub(crate) dns: Option<SocketAddr>,
    pub(crate) outbound: Option<IpAddr>,
    pub(crate) upstream: Option<Upstream>,
    pub(crate) level: Level,
    pub(crate) step: Option<u8>,
    pub(crate) exit_country: Option<Country>,
    pub(crate) connections: usize,
    pub(crate) loop_times: usize,
    pub(crate) budget: BudgetSettings,
}

/// A setting that does not make sense, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

#[derive(Clone, Debug, Default, Deserialize)]
struct ConfigFile {
    network: Option<PathBuf>,
    state: Option<PathBuf>,
    #[serde(default, deserialize_with = "addresses")]
    socks: Option<Vec<Address>>,
    #[serde(default, deserialize_with = "dns_key")]
    dns: Option<SocketAddr>,
    outbound: Option<IpAddr>,
    upstream: Option<Written>,
    #[serde(default, deserialize_with = "level_key")]
    level: Option<Level>,
    step: Option<u8>,
    #[serde(default, deserialize_with = "country_key")]
    exit_country: Option<Country>,
    connections: Option<usize>,
    loop_times: Option<usize>,
    #[serde(flatten)]
    budget: BudgetKeys,
}

impl Settings {
    /// Merges flags (which already hold the environment), the file and the defaults.
    pub(crate) fn merge(flags: &Flags, up: &UpFlags) -> Result<Self, ConfigError> {
        let file = match (&flags.config, default_config()) {
            (Some(path), _) => read(path)?,
            (None, Some(path)) if path.is_file() => read(&path)?,
            _ => ConfigFile::default(),
        };
        let state = flags.state.clone().or(file.state).or_else(default_state).ok_or_else(|| {
            ConfigError("there is no home directory to keep state in: name one with --state DIR".into())
        })?;
        let upstream = up.upstream.as_ref().or(file.upstream.as_ref()).map(Written::parse).transpose();
        let connections = up.connections.or(file.connections).unwrap_or(DEFAULT_CONNECTIONS);
        if connections == 0 {
            return Err(ConfigError("`connections` = 0 would close every connection: give 1 or more".into()));
        }
        let loop_times = up.loop_times.or(file.loop_times).unwrap_or(0);
        if loop_times > MOST_LOOP_TIMES {
            return Err(ConfigError(format!("`loop_times` = {loop_times}: give {MOST_LOOP_TIMES} or less")));
        }
        Ok(Self {
            network: flags.network.clone().or(file.network),
            state,
            socks: up.socks.clone().or(file.socks).unwrap_or_else(|| vec![Address::Tcp(DEFAULT_SOCKS)]),
            dns: up.dns.or(file.dns),
            outbound: up.outbound.or(file.outbound),
            upstream: upstream.map_err(ConfigError)?,
            level: up.level.or(file.level).unwrap_or_default(),
            step: up.step.or(file.step),
            exit_country: up.exit_country.or(file.exit_country),
            connections,
            loop_times,
            budget: BudgetSettings::merge(&up.budget, file.budget).map_err(ConfigError)?,
        })
    }
}

/// Reads a configuration file; paths in it are relative to its folder.
fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        ConfigError(format!("cannot read the configuration {} ({error})", path.display()))
    })?;
    let mut file = parse(&text).map_err(|error| ConfigError(format!("{}: {error}", path.display())))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let home = std::env::home_dir();
    let place = |path: PathBuf| folder.join(expand(path, home.as_deref()));
    file.network = file.network.map(place);
    file.state = file.state.map(place);
    for address in file.socks.iter_mut().flatten() {
        if let Address::Unix(path) = address {
            *path = place(std::mem::take(path));
        }
    }
    Ok(file)
}

/// `~/…` is in the home directory, as a shell would have it; no shell reads this file.
fn expand(path: PathBuf, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(below), Some(home)) => home.join(below),
        _ => path,
    }
}

fn parse(text: &str) -> Result<ConfigFile, ConfigError> {
    let table: toml::Table = text.parse().map_err(|error| ConfigError(told(&error, text)))?;
    for key in table.keys() {
        let known = KEYS.iter().chain(&BUDGET_KEYS);
        if !known.clone().any(|known| known == key) {
            let nearest = known.min_by_key(|known| distance(known, key)).copied().unwrap_or_default();
            return Err(ConfigError(format!("there is no key `{key}`; did you mean `{nearest}`?")));
        }
    }
    table.try_into().map_err(|error: toml::de::Error| ConfigError(error.to_string()))
}

/// An error with its line, unless a password may stand there: then with the line's number.
fn told(error: &toml::de::Error, text: &str) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    match text.contains('@') {
        true => format!("line {}: {}", before.split('\n').count(), error.message()),
        false => error.to_string(),
    }
}

/// The level of this name.
pub(crate) fn level(name: &str) -> Result<Level, String> {
    Level::from_name(name).ok_or_else(|| {
        let names = LEVELS.map(Level::name).join(", ");
        format!("there is no level `{name}`: the levels are {names}")
    })
}

/// The address of the port for DNS.
fn dns_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is no address with a port: write one like 127.0.0.1:5353"))
}

fn dns_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    dns_address(&String::deserialize(deserializer)?).map(Some).map_err(de::Error::custom)
}

fn level_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Level>, D::Error> {
    let name = String::deserialize(deserializer)?;
    level(&name).map(Some).map_err(de::Error::custom)
}

fn country_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Country>, D::Error> {
    let code = String::deserialize(deserializer)?;
    code.parse().map(Some).map_err(|error| de::Error::custom(format!("`{code}` is {error}")))
}

/// One address, or several.
fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Address>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "an address in quotes, like \"127.0.0.1:9150\", or a list of such")]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    let texts = match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(text) => vec![text],
        OneOrMore::More(texts) => texts,
    };
    if texts.is_empty() {
        return Err(de::Error::custom("`socks` names no address"));
    }
    let addresses: Result<_, String> = texts.iter().map(|text| text.parse()).collect();
    addresses.map(Some).map_err(de::Error::custom)
}

/// Edits (insert, delete, replace) that lead from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, &above) in b.bytes().zip(row.iter().skip(1)) {
            left = (above + 1).min(left + 1).min(corner + usize::from(x != y));
            corner = above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

fn default_config() -> Option<PathBuf> {
    base("XDG_CONFIG_HOME", ".config").map(|folder| folder.join("mizzle/config.toml"))
}

fn default_state() -> Option<PathBuf> {
    base("XDG_STATE_HOME", ".local/state").map(|folder| folder.join("mizzle"))
}

fn base(variable: &str, under_home: &str) -> Option<PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute();
    let named = std::env::var_os(variable).map(PathBuf::from).filter(absolute);
    named.or_else(|| std::env::home_dir().filter(absolute).map(|home| home.join(under_home)))
}

const KEYS: [&str; 11] = [
    "network",
    "state",
    "socks",
    "dns",
    "outbound",
    "upstream",
    "level",
    "step",
    "exit_country",
    "connections",
    "loop_times",
];
const DEFAULT_SOCKS: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9150);
const DEFAULT_CONNECTIONS: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(port: u16) -> Vec<Address> {
        vec![format!("127.0.0.1:{port}").parse().unwrap()]
    }

    #[test]
    fn several_addresses_and_sockets_beside_the_file_may_be_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, "state = \"s\"\nsocks = [\"127.0.0.1:1\", \"unix:sock\"]\n").unwrap();
        let flags = Flags { config: Some(path), ..Flags::default() };
        let settings = Settings::merge(&flags, &UpFlags::default()).unwrap();
        let socket = Address::Unix(folder.path().join("sock"));
        assert_eq!(settings.socks, [tcp(1), vec![socket]].concat());
        assert!(parse("socks = []").unwrap_err().to_string().contains("no address"));
        assert!(parse("socks = [\"localhost\"]").unwrap_err().to_string().contains("127.0.0.1:9150"));
    }

    #[test]
    fn an_unknown_key_is_refused_and_the_nearest_named() {
        let error = parse("sock = \"127.0.0.1:1\"").unwrap_err();
        assert_eq!(error.to_string(), "there is no key `sock`; did you mean `socks`?");
        assert!(parse("conections = 3").unwrap_err().to_string().contains("`connections`"));
        assert!(parse("socks = 3").is_err());
    }

    #[test]
    fn every_known_key_is_read() {
        let text = KEYS.map(|key| match key {
            "connections" | "step" | "loop_times" => format!("{key} = 3\n"),
            "level" => format!("{key} = \"strong\"\n"),
            "socks" | "dns" => format!("{key} = \"127.0.0.1:1\"\n"),
            "exit_country" => format!("{key} = \"de\"\n"),
            "outbound" => format!("{key} = \"127.0.0.2\"\n"),
            "upstream" => format!("{key} = \"socks5://ann:secret@proxy.test:1\"\n"),
            _ => format!("{key} = \"path\"\n"),
        });
        let file = parse(&text.concat()).unwrap();
        assert!(file.network.is_some() && file.state.is_some() && file.outbound.is_some());
        assert_eq!((file.socks, file.connections, file.loop_times), (Some(tcp(1)), Some(3), Some(3)));
        let upstream = file.upstream.unwrap();
        assert_eq!(upstream.parse().unwrap().to_string(), "socks5://proxy.test:1");
        assert!(!format!("{upstream:?}").contains("secret"));
        assert_eq!((file.level, file.step), (Some(Level::Strong), Some(3)));
        assert_eq!(file.dns, Some("127.0.0.1:1".parse().unwrap()));
        let error = parse("dns = \"localhost\"").unwrap_err().to_string();
        assert!(error.contains("127.0.0.1:5353"), "{error}");
        assert_eq!(file.exit_country.map(|country| country.to_string()), Some("DE".into()));
        let error = parse("exit_country = \"Mordor\"").unwrap_err().to_string();
        assert!(error.contains("`Mordor` is not a country") && error.contains("such as DE"), "{error}");
        let error = parse("level = \"paranoid\"").unwrap_err().to_string();
        assert!(error.contains("strong, balanced, fast"), "{error}");
    }

    #[test]
    fn no_error_shows_a_password() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        for line in [
            "upstream = \"http://ann:secret@proxy.test\"",
            "upstream = \"ftp://ann:secret@proxy.test:1\"",
            "upstream = \"http://ann:secret@proxy.test:1",
            "upstream = \"http://ann:secret@proxy.test:1\" x",
            "upstream = [\"http://ann:secret@proxy.test:1\"]",
            "upstraem = \"http://ann:secret@proxy.test:1",
            "upstraem = \"http://ann:secret@proxy.test:1\"",
        ] {
            std::fs::write(&path, format!("level = \"fast\"\n{line}\n")).unwrap();
            let flags = Flags { config: Some(path.clone()), state: Some("/s".into()), ..Flags::default() };
            let error = Settings::merge(&flags, &UpFlags::default()).unwrap_err().to_string();
            assert!(!error.is_empty() && !error.contains("secret"), "{line}: {error}");
        }
    }

    #[test]
    fn the_example_names_every_key_and_no_other() {
        let example = include_str!("../example.toml");
        let keys: Vec<&str> = example
            .lines()
            .filter_map(|line| line.strip_prefix("# ")?.split_once(" = ").map(|(key, _)| key))
            .collect();
        assert_eq!(keys, [&KEYS[..], &BUDGET_KEYS].concat());
        let text: String = example
            .lines()
            .filter_map(|line| line.strip_prefix("# ").filter(|line| line.contains(" = ")))
            .collect::<Vec<_>>()
            .join("\n");
        assert_eq!(parse(&text).unwrap().socks, Some(vec![Address::Tcp(DEFAULT_SOCKS)]));
        assert_eq!(parse(&text).unwrap().connections, Some(DEFAULT_CONNECTIONS));
    }

    #[test]
    fn the_home_directory_may_be_written_as_in_a_shell() {
        let home = Some(Path::new("/house/ann"));
        let expanded = |text: &str| expand(PathBuf::from(text), home);
        assert_eq!(expanded("~/.local/state/mizzle"), Path::new("/house/ann/.local/state/mizzle"));
        assert_eq!(expanded("~"), Path::new("/house/ann"));
        for other in ["~bob/x", "a/~/b", "/a"] {
            assert_eq!(expanded(other), Path::new(other));
        }
        // The example, uncommented, makes no folder that is named `~`.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, include_str!("../example.toml").replace("# state =", "state =")).unwrap();
        let flags = Flags { config: Some(path), ..Flags::default() };
        let state = Settings::merge(&flags, &UpFlags::default()).unwrap().state;
        assert_eq!(state, std::env::home_dir().unwrap().join(".local/state/mizzle"));
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, "state = \"s\"\nnetwork = \"n.toml\"\nsocks = \"127.0.0.1:1\"\n").unwrap();
        let flags = Flags { config: Some(path), ..Flags::default() };
        let settings = Settings::merge(&flags, &UpFlags::default()).unwrap();
        assert_eq!(settings.state, folder.path().join("s"));
        assert_eq!((settings.socks, settings.connections), (tcp(1), DEFAULT_CONNECTIONS));
        let flags = Flags { state: Some("/elsewhere".into()), ..flags };
        let up = UpFlags { socks: Some(tcp(2)), ..UpFlags::default() };
        let settings = Settings::merge(&flags, &up).unwrap();
        assert_eq!((settings.state, settings.socks), (PathBuf::from("/elsewhere"), tcp(2)));
        assert_eq!(settings.network, Some(folder.path().join("n.toml")));
    }

    #[test]
    fn a_client_that_would_serve_nobody_is_an_error() {
        let flags = Flags { state: Some("/elsewhere".into()), ..Flags::default() };
        let up = UpFlags { connections: Some(0), ..UpFlags::default() };
        assert!(Settings::merge(&flags, &up).unwrap_err().to_string().contains("`connections` = 0"));
    }

    #[test]
    fn times_of_loops_are_kept_for_those_who_ask_and_not_without_bound() {
        let flags = Flags { state: Some("/elsewhere".into()), ..Flags::default() };
        let merge = |loop_times| Settings::merge(&flags, &UpFlags { loop_times, ..UpFlags::default() });
        assert_eq!(merge(None).unwrap().loop_times, 0);
        assert_eq!(merge(Some(4_096)).unwrap().loop_times, 4_096);
        assert!(merge(Some(4_097)).unwrap_err().to_string().contains("4096 or less"));
    }

    #[test]
    fn a_missing_file_that_was_named_is_an_error() {
        let flags = Flags { config: Some("/nonexistent/config.toml".into()), ..Flags::default() };
        assert!(Settings::merge(&flags, &UpFlags::default()).is_err());
    }

    #[test]
    fn distances_count_edits() {
        assert_eq!((distance("", "abc"), distance("abc", "abc"), distance("kitten", "sitting")), (3, 0, 3));
    }
}
