//! The configuration file.

use crate::authority::{Approval, Settings};
use crate::{Error, Result};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::RelayId;
use mizzle_protocol::level::{Level, Levels, Pace};
use mizzle_protocol::path::Parameters;
use serde::{Deserialize, Deserializer, de};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A configuration file with every key.
pub(crate) const EXAMPLE: &str = include_str!("example.toml");

/// A configuration, read and checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Where relays reach this authority.
    pub(crate) listen: SocketAddr,
    /// Folder of the identity, the documents and the descriptors.
    pub(crate) state: PathBuf,
    /// Where the parameters come from.
    pub(crate) preset: Preset,
    /// Packets of one measurement of a relay at most; `None`: relays are not measured.
    pub(crate) measure: Option<u32>,
    /// What the operator decides.
    pub(crate) settings: Settings,
}

impl Config {
    /// Reads and checks the file at `path`.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let failed =
            |reason: String| Error::Config(format!("the configuration {}: {reason}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| {
            failed(format!("{error}; make one with: mizzle-directory init --config {}", path.display()))
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder).map_err(|error| failed(error.to_string()))
    }

    /// Parses and checks the text of a file in `folder`.
    fn parse(text: &str, folder: &Path) -> Result<Self> {
        let file: File = toml::from_str(text).map_err(|error| Error::Config(error.to_string()))?;
        if file.approve_all && !file.approved.is_empty() {
            return Err(Error::Config("set approve_all or approved, not both".into()));
        }
        if file.network.is_empty() || file.network.len() > 64 || file.network.contains(char::is_control) {
            return Err(Error::Config("the network's name must have 1 to 64 printable bytes".into()));
        }
        let approval = match file.approve_all {
            true => Approval::All,
            false => {
                let ids: Result<_, _> = file.approved.iter().map(|id| RelayId::from_hex(id)).collect();
                Approval::Only(ids.map_err(|error| Error::Config(format!("approved: {error}")))?)
            }
        };
        let preset = match file.preset {
            Preset::Local => Parameters::local(),
            Preset::Public => Parameters::default(),
        };
        let packets = file.measure_packets.unwrap_or(match file.preset {
            Preset::Local => LOCAL_PACKETS,
            Preset::Public => PUBLIC_PACKETS,
        });
        if !(FEWEST_PACKETS..=MOST_PACKETS).contains(&packets) {
            let message = format!("measure_packets is between {FEWEST_PACKETS} and {MOST_PACKETS}");
            return Err(Error::Config(message));
        }
        let parameters = file.parameters.over(preset)?.rounded();
        parameters.check()?;
        Ok(Self {
            listen: file.listen,
            state: folder.join(file.state),
            preset: file.preset,
            measure: file.measure.then_some(packets),
            settings: Settings {
                network: file.network,
                parameters,
                approval,
                expected: file.expected,
                bootstrap: file.bootstrap.0,
            },
        })
    }

    /// The file of this authority's identity.
    pub(crate) fn identity_file(&self) -> PathBuf {
        self.state.join("identity")
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    network: String,
    listen: SocketAddr,
    #[serde(default = "default_state")]
    state: PathBuf,
    #[serde(default)]
    preset: Preset,
    #[serde(default = "default_expected")]
    expected: usize,
    #[serde(default = "default_bootstrap")]
    bootstrap: Time,
    #[serde(default)]
    approved: Vec<String>,
    #[serde(default)]
    approve_all: bool,
    #[serde(default = "default_measure")]
    measure: bool,
    measure_packets: Option<u32>,
    #[serde(default)]
    parameters: Overrides,
}

/// Where the parameters come from that the file does not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Preset {
    /// Clocks of a test: epochs of seconds, key periods of minutes.
    #[default]
    Local,
    /// Clocks of a network that people use.
    Public,
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Public => "public",
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Overrides {
    payload: Option<usize>,
    mean_delay: Option<Time>,
    max_delay: Option<Time>,
    levels: Option<LevelsFile>,
    entry_slot_factor: Option<f64>,
    surb_life: Option<Time>,
    epoch: Option<Time>,
    key_period: Option<Time>,
    overlap: Option<Time>,
}

impl Overrides {
    fn over(self, preset: Parameters) -> Result<Parameters> {
        let time = |over: Option<Time>, preset| over.map_or(preset, |Time(time)| time);
        Ok(Parameters {
            geometry: self.payload.map_or(Ok(preset.geometry), Geometry::new)?,
            mean_delay: time(self.mean_delay, preset.mean_delay),
            max_delay: time(self.max_delay, preset.max_delay),
            levels: self.levels.map_or(Ok(preset.levels.clone()), |levels| levels.over(&preset.levels))?,
            entry_slot_factor: self.entry_slot_factor.unwrap_or(preset.entry_slot_factor),
            surb_life: time(self.surb_life, preset.surb_life),
            epoch: time(self.epoch, preset.epoch),
            key_period: time(self.key_period, preset.key_period),
            overlap: time(self.overlap, preset.overlap),
        })
    }
}

/// The rates of levels: those that are named, with all their steps.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LevelsFile {
    strong: Option<Vec<PaceFile>>,
    balanced: Option<Vec<PaceFile>>,
    fast: Option<Vec<PaceFile>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PaceFile {
    send_rate: f64,
    receive_rate: f64,
    loop_share: f64,
    drop_share: f64,
}

impl LevelsFile {
    fn over(self, preset: &Levels) -> Result<Levels> {
        let steps = |over: Option<Vec<PaceFile>>, level| {
            let pace = |pace: PaceFile| Pace {
                send_rate: pace.send_rate,
                receive_rate: pace.receive_rate,
                loop_share: pace.loop_share,
                drop_share: pace.drop_share,
            };
            over.map_or(preset.steps(level).to_vec(), |over| over.into_iter().map(pace).collect())
        };
        Ok(Levels::new(
            steps(self.strong, Level::Strong),
            steps(self.balanced, Level::Balanced),
            steps(self.fast, Level::Fast),
        )?)
    }
}

/// A time in the file: a whole number and one of ms, s, m, h.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Time(Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
        let (number, unit) = text.split_at(digits.len());
        let time = number.parse::<u64>().ok().and_then(|number| match unit {
            "ms" => Some(Duration::from_millis(number)),
            "s" => Some(Duration::from_secs(number)),
            "m" => number.checked_mul(60).map(Duration::from_secs),
            "h" => number.checked_mul(3_600).map(Duration::from_secs),
            _ => None,
        });
        let expected = "a time is a whole number and a unit, like \"20ms\", \"90s\", \"15m\", \"24h\"";
        time.map(Self).ok_or_else(|| de::Error::custom(expected))
    }
}

fn default_measure() -> bool {
    true
}

fn default_state() -> PathBuf {
    "state".into()
}

fn default_expected() -> usize {
    1
}

fn default_bootstrap() -> Time {
    Time(Duration::from_secs(10))
}

/// Packets of one measurement: local networks share one machine.
const LOCAL_PACKETS: u32 = 256;
const PUBLIC_PACKETS: u32 = 4_096;
/// Fewer say nothing; more than a relay takes by one link are too many.
const FEWEST_PACKETS: u32 = 32;
const MOST_PACKETS: u32 = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config> {
        Config::parse(text, Path::new("/folder"))
    }

    const LEAST: &str = "network = \"local\"\nlisten = \"127.1.0.1:7000\"\n";

    #[test]
    fn the_example_shows_every_key_at_its_default() {
        let example = parse(EXAMPLE).unwrap();
        let uncommented: String = EXAMPLE
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .map(|line| format!("{line}\n"))
            .collect();
        let full = parse(&uncommented).unwrap();
        let least = parse(LEAST).unwrap();
        for config in [&example, &full] {
            assert_eq!(format!("{config:?}"), format!("{least:?}"));
        }
        assert_eq!(least.state, Path::new("/folder/state"));
        assert_eq!((least.preset, &least.settings.parameters), (Preset::Local, &Parameters::local()));
        // The clocks of a network are nobody's oversight: `init` writes down which.
        assert!(EXAMPLE.lines().any(|line| line == "preset = \"local\""));
        // Ten keys at the top, eight parameters, three levels.
        let keys = uncommented.lines().filter(|line| line.contains(" = ") && !line.starts_with(['#', '{']));
        assert_eq!(keys.count(), 21);
        assert_eq!(least.measure, Some(256));
    }

    #[test]
    fn parameters_deviate_from_their_preset() {
        let text =
            format!("{LEAST}preset = \"public\"\n[parameters]\nmean_delay = \"50ms\"\nepoch = \"30m\"\n");
        let parameters = parse(&text).unwrap().settings.parameters;
        assert_eq!(parameters.mean_delay, Duration::from_millis(50));
        assert_eq!(parameters.epoch, Duration::from_secs(1_800));
        assert_eq!(parameters.key_period, Parameters::default().key_period);
    }

    #[test]
    fn relays_are_measured_by_as_many_packets_as_the_preset_or_the_operator_says() {
        let packets = |more: &str| parse(&format!("{LEAST}{more}\n")).unwrap().measure;
        assert_eq!(packets("preset = \"public\""), Some(4_096));
        assert_eq!(packets("measure_packets = 999"), Some(999));
        assert_eq!(packets("measure = false\nmeasure_packets = 999"), None);
    }

    #[test]
    fn faults_are_named() {
        for (line, named) in [
            ("approve = true", "unknown field `approve`"),
            ("bootstrap = \"10\"", "a whole number and a unit"),
            ("approve_all = true\napproved = [\"00\"]", "not both"),
            ("approved = [\"00\"]", "64 hexadecimal digits"),
            ("[parameters]\nmean_delay = \"1s\"", "the mean delay is at most the largest"),
            ("[parameters]\npayload = 1000", "payload size 1000"),
            ("measure_packets = 8", "between 32 and 65536"),
            ("preset = \"test\"", "unknown variant `test`"),
            ("[parameters.levels]\nstrong = []", "a level has 1 to 16 steps"),
        ] {
            let error = parse(&format!("{LEAST}{line}\n")).unwrap_err().to_string();
            assert!(error.contains(named), "{line}: {error}");
        }
    }
}
