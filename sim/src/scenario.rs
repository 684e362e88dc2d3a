//! What to simulate, as a file says it.
//!
//! Every key has a default; [`EXAMPLE`] shows all of them. `key=value` on the command line is stronger than the
//! file, and an unknown key is an error that names the nearest known one.

use crate::adversary::disturbing::Disturbance;
use crate::adversary::meddling::Plan;
use crate::adversary::presence::Habit;
use crate::adversary::toggle::{Toggle, WITHIN};
use crate::geography::Geography;
use crate::links::{Distance, Links};
use crate::roads::{Arrangement, Law, Roads};
use crate::turnover::Turnover;
use crate::workload::{People, Workload};
use crate::world::{Format, Shape};
use mizzle_protocol::level::{Level, Levels, Pace, Step};
use mizzle_protocol::path::Parameters;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::time::Duration;
use toml::{Table, Value};

/// A scenario with every key at its default, and what each means.
pub const EXAMPLE: &str = include_str!("example.toml");

/// What to simulate. The keys are explained in [`EXAMPLE`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the example explains each key")]
pub struct Scenario {
    pub seed: u64,
    pub seeds: u64,
    pub seconds: f64,
    pub packets: Packets,
    pub replay_filter: bool,
    pub network: Network,
    pub links: LinksOf,
    pub clients: Clients,
    pub workload: WorkloadOf,
    pub adversary: Adversary,
}

/// What packets are made of: see [`Format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the example explains each key")]
pub enum Packets {
    Sphinx,
    Clear,
    Modelled,
}

/// The mixes and gateways.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the example explains each key")]
pub struct Network {
    pub arrangement: ArrangementName,
    pub layers: usize,
    pub width: usize,
    pub entries: usize,
    pub exits: usize,
    pub law: LawName,
    pub mean_delay_ms: f64,
    pub max_delay_ms: f64,
    pub pool_threshold: usize,
    pub pool_keep: usize,
    pub relay_loops: f64,
    pub epoch_s: f64,
    pub key_period_s: f64,
    pub overlap_s: f64,
    pub cuts_an_hour: f64,
    pub cut_s: f64,
}

/// See [`Arrangement`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the example explains each key")]
pub enum ArrangementName {
    Stratified,
    Cascade,
    FreeRoute,
}

/// See [`Law`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the example explains each key")]
pub enum LawName {
    Exponential,
    Uniform,
    Constant,
    Pool,
}

/// What is between them: see [`Links`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the example explains each key")]
pub struct LinksOf {
    pub distance_ms: f64,
    pub matrix: String,
    pub geography: GeographyName,
    pub loss: f64,
    pub bandwidth_mbit: f64,
    pub capacity: f64,
}

/// See [`Distance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the example explains each key")]
pub enum GeographyName {
    None,
    World,
}

/// Who uses the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the example explains each key")]
pub struct Clients {
    pub count: usize,
    pub level: String,
    pub step: u8,
    pub send_rate: f64,
    pub receive_rate: f64,
    pub loop_share: f64,
    pub drop_share: f64,
}

/// What clients do: see [`Workload`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the example explains each key")]
pub struct WorkloadOf {
    pub kind: Kind,
    pub speakers: usize,
    pub pinned: bool,
    pub per_hour: f64,
    pub up: u64,
    pub down: u64,
    pub parts: u32,
    pub part: u64,
    pub messages: u32,
    pub trace: String,
    pub sites: usize,
    pub favourites: usize,
    pub favourite_share: f64,
    pub there: f64,
    pub stay_minutes: f64,
}

/// See [`Workload`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the example explains each key")]
pub enum Kind {
    Nothing,
    Poisson,
    Web,
    Chat,
    Bulk,
    Trace,
}

/// Who watches, and with what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the example explains each key")]
pub struct Adversary {
    pub corrupt: Vec<f64>,
    pub corrupt_exits: f64,
    pub batch: u32,
    pub match_flows: bool,
    pub isolate: bool,
    pub replay_copies: u32,
    pub flood: f64,
    pub tag: f64,
    pub disturb: Disturb,
    pub presence_days: u32,
    pub presence_hours: f64,
    pub presence_spread: f64,
    pub presence_daily: f64,
    pub presence_seen: u32,
    pub toggle_rounds: u32,
    pub toggle_on_s: f64,
    pub toggle_off_s: f64,
    pub toggle_kb_s: f64,
    pub disclosure: bool,
    pub disclosure_round_s: f64,
}

/// What is done to packets on a victim's line: see [`Disturbance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the example explains each key")]
pub enum Disturb {
    Nothing,
    Take,
    Hold,
}

/// A share that was asked for, and what of it can be had.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// Its key, and of which layer.
    pub key: String,
    /// What was asked for.
    pub asked: f64,
    /// So many are simulated.
    pub count: usize,
    /// Of so many.
    pub of: usize,
}

impl Share {
    fn new(key: String, asked: f64, of: usize) -> Self {
        Self { key, asked, count: (asked * of as f64).round() as usize, of }
    }
}

/// What is wrong with a scenario, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScenarioError(String);

impl ScenarioError {
    pub(crate) fn new(message: String) -> Self {
        Self(message)
    }
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ScenarioError {}

impl Scenario {
    /// The defaults, changed by a file, if one is given, and then by words like `clients.count=1000`.
    pub fn load(file: Option<&Path>, words: &[String]) -> Result<Self, ScenarioError> {
        let text = match file {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| ScenarioError(format!("cannot read {}: {error}", path.display())))?,
            None => String::new(),
        };
        Self::parse(&file.map_or_else(String::new, |path| path.display().to_string()), &text, words)
    }

    /// The same with the file's text; errors call it by its name.
    pub fn parse(name: &str, text: &str, words: &[String]) -> Result<Self, ScenarioError> {
        let mut table = defaults();
        let change: Table = toml::from_str(text)
            .map_err(|error| ScenarioError(format!("{name}: {}", error.to_string().trim())))?;
        let of_file = |error: ScenarioError| ScenarioError(format!("{name}: {error}"));
        merge(&mut table, change, "")
            .map_err(|error| if name.is_empty() { error } else { of_file(error) })?;
        let alone = table.clone();
        for word in words {
            merge(&mut table, parse_word(word)?, "")?;
        }
        Self::check(table).map_err(|error| {
            match !name.is_empty() && Self::check(alone).err() == Some(error.clone()) {
                true => of_file(error),
                false => error,
            }
        })
    }

    /// A scenario with these keys, if it makes sense.
    fn check(table: Table) -> Result<Self, ScenarioError> {
        let scenario: Self = Value::Table(table)
            .try_into()
            .map_err(|error| ScenarioError(error.to_string().trim().to_owned()))?;
        scenario.shape()?;
        scenario.workload()?;
        scenario.habit()?;
        scenario.meddling()?;
        scenario.toggle()?;
        scenario.people()?;
        Ok(scenario)
    }

    /// What its speakers do. Names the key that makes no sense.
    pub fn workload(&self) -> Result<Workload, ScenarioError> {
        let WorkloadOf { kind, speakers, per_hour, up, down, parts, part, messages, .. } = self.workload;
        if kind == Kind::Nothing {
            return Ok(Workload::Nothing);
        }
        if self.packets != Packets::Clear {
            return Err(ScenarioError("clients that speak need packets = \"clear\"".to_owned()));
        }
        if speakers > self.clients.count {
            return Err(ScenarioError(format!(
                "workload.speakers = {speakers}: there are {} clients",
                self.clients.count
            )));
        }
        positive("workload.per_hour", per_hour)?;
        let workload = match kind {
            Kind::Nothing => Workload::Nothing,
            Kind::Poisson => Workload::Poisson { per_hour, up, down },
            Kind::Web => Workload::Web { per_hour, document: down, parts, part },
            Kind::Chat => Workload::Chat { per_hour, messages, bytes: up },
            Kind::Bulk => Workload::Bulk { per_hour, down },
            Kind::Trace => {
                let path = &self.workload.trace;
                let wrong = |why: String| ScenarioError(format!("workload.trace: {path}: {why}"));
                let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
                Workload::trace(&text).map_err(wrong)?
            }
        };
        let senders = workload.senders();
        if kind == Kind::Trace && speakers < senders {
            return Err(ScenarioError(format!(
                "workload.speakers = {speakers}: the trace has {senders} senders, each of which is a speaker: set \
                 workload.speakers = {senders}"
            )));
        }
        if speakers == 0 {
            return Err(ScenarioError(
                "workload.kind: nobody speaks: set workload.speakers above 0".to_owned(),
            ));
        }
        Ok(workload)
    }

    /// The shares above zero that were asked for, with what is simulated of each.
    pub fn shares(&self) -> Vec<Share> {
        let Adversary { corrupt, corrupt_exits, flood, .. } = &self.adversary;
        let layers = (1..).zip(corrupt).map(|(layer, share)| {
            Share::new(format!("adversary.corrupt of layer {layer}"), *share, self.network.width)
        });
        let exits = Share::new("adversary.corrupt_exits".to_owned(), *corrupt_exits, self.network.exits);
        let flood = Share::new("adversary.flood".to_owned(), *flood, self.clients.count);
        layers.chain([exits, flood]).filter(|share| share.asked > 0.0).collect()
    }

    /// How its clients come and go, for who strikes out those that are not there.
    pub fn habit(&self) -> Result<Habit, ScenarioError> {
        let Adversary { presence_hours, presence_spread, presence_daily, presence_seen, .. } = self.adversary;
        positive("adversary.presence_hours", presence_hours)?;
        if !(0.0..1e6).contains(&presence_spread) || presence_hours > 24.0 {
            return Err(ScenarioError(
                "adversary.presence_hours and presence_spread: must be hours of a day".into(),
            ));
        }
        if !(presence_daily > 0.0 && presence_daily <= 1.0) {
            return Err(ScenarioError(format!(
                "adversary.presence_daily = {presence_daily}: must be above 0, and 1 at most"
            )));
        }
        Ok(Habit {
            clients: self.clients.count,
            hours: presence_hours,
            spread: presence_spread,
            daily: presence_daily,
            seen: presence_seen,
        })
    }

    /// What is done by those who have links in their hands.
    pub fn meddling(&self) -> Result<Plan, ScenarioError> {
        let Adversary { isolate, replay_copies, flood, tag, corrupt_exits, disturb, .. } = self.adversary;
        for (key, share) in [("flood", flood), ("tag", tag), ("corrupt_exits", corrupt_exits)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(ScenarioError(format!("adversary.{key} = {share}: must be a share from 0 to 1")));
            }
        }
        if flood >= 1.0 {
            return Err(ScenarioError(
                "adversary.flood = 1: somebody else must be there to look for".to_owned(),
            ));
        }
        for Share { key, asked, count, of } in self.shares() {
            if count == 0 {
                return Err(ScenarioError(format!(
                    "{key} = {asked}: of {of} that is none: say 0, or {:.4} (1 of {of}) or a multiple of it",
                    1.0 / of as f64
                )));
            }
            if key == "adversary.flood" && count >= of {
                return Err(ScenarioError(format!(
                    "adversary.flood = {asked}: of {of} clients that is all: somebody else must be there to look for"
                )));
            }
        }
        if self.adversary.match_flows {
            if self.workload.kind == Kind::Nothing {
                return Err(ScenarioError(
                    "adversary.match_flows: there must be flows: set workload.kind and workload.speakers"
                        .to_owned(),
                ));
            }
            if self.adversary.corrupt.iter().any(|share| *share > 0.0) {
                return Err(ScenarioError(CORRUPT_AND_FLOWS.to_owned()));
            }
        }
        if replay_copies > MOST_COPIES {
            return Err(ScenarioError(format!(
                "adversary.replay_copies = {replay_copies}: must be {MOST_COPIES} at most"
            )));
        }
        if (tag > 0.0 || disturb != Disturb::Nothing) && self.packets != Packets::Clear {
            return Err(ScenarioError(
                "adversary.tag and adversary.disturb look into packets: they need packets = \"clear\""
                    .to_owned(),
            ));
        }
        if disturb != Disturb::Nothing && (self.workload.kind == Kind::Nothing || self.workload.speakers == 0)
        {
            return Err(ScenarioError(
                "adversary.disturb needs clients that speak: set workload.kind and workload.speakers"
                    .to_owned(),
            ));
        }
        Ok(Plan {
            isolate,
            copies: replay_copies,
            tag,
            corrupt_exits,
            disturb: match disturb {
                Disturb::Nothing => None,
                Disturb::Take => Some(Disturbance::Take),
                Disturb::Hold => Some(Disturbance::Hold),
            },
        })
    }

    /// Where its speakers go, and when they are there. Names the key that makes no sense.
    pub fn people(&self) -> Result<People, ScenarioError> {
        let WorkloadOf { kind, sites, favourites, favourite_share, there, stay_minutes, .. } = self.workload;
        let wrong = |why: String| Err(ScenarioError(why));
        if !(1..=1_000_000).contains(&sites) || favourites > sites {
            return wrong(format!(
                "workload.sites = {sites}: must be from 1 to 1000000, and workload.favourites not above"
            ));
        }
        if !(0.0..=1.0).contains(&favourite_share) {
            return wrong(format!(
                "workload.favourite_share = {favourite_share}: must be a share from 0 to 1"
            ));
        }
        if !(0.01..=1.0).contains(&there) {
            return wrong(format!("workload.there = {there}: must be a share from 0.01 to 1"));
        }
        positive("workload.stay_minutes", stay_minutes)?;
        positive("adversary.disclosure_round_s", self.adversary.disclosure_round_s)?;
        if stay_minutes > 1e6 || self.adversary.disclosure_round_s > 1e6 {
            return wrong(
                "workload.stay_minutes and adversary.disclosure_round_s: must be 1000000 at most".to_owned(),
            );
        }
        if kind == Kind::Trace && (favourites > 0 || there < 1.0) {
            return wrong(
                "workload.favourites and workload.there: a trace says itself who goes where and when"
                    .to_owned(),
            );
        }
        if self.adversary.disclosure && (kind == Kind::Nothing || favourites == 0) {
            return wrong(
                "adversary.disclosure: there must be sites to be found: set workload.kind and workload.favourites"
                    .to_owned(),
            );
        }
        let stay = Duration::from_secs_f64(stay_minutes * 60.0);
        Ok(People { sites, favourites, favourite_share, there, stay })
    }

    /// What a site that toggles its visitor's load does; `None`: there is none.
    pub fn toggle(&self) -> Result<Option<Toggle>, ScenarioError> {
        let Adversary { toggle_rounds, toggle_on_s, toggle_off_s, toggle_kb_s, .. } = self.adversary;
        if toggle_rounds == 0 {
            return Ok(None);
        }
        if self.workload.kind == Kind::Nothing || self.workload.speakers == 0 {
            return Err(ScenarioError(
                "adversary.toggle_rounds: somebody must visit the site: set workload.kind and workload.speakers"
                    .to_owned(),
            ));
        }
        positive("adversary.toggle_on_s", toggle_on_s)?;
        positive("adversary.toggle_kb_s", toggle_kb_s)?;
        let (least, most) = (WITHIN.as_secs_f64(), 1e6);
        if toggle_off_s < 0.0 || !(least..=most).contains(&(toggle_on_s + toggle_off_s)) || toggle_kb_s > most
        {
            return Err(ScenarioError(format!(
                "adversary.toggle_on_s and toggle_off_s: must be {least} seconds together at least; \
                 toggle_kb_s: {most} at most"
            )));
        }
        Ok(Some(Toggle {
            on: Duration::from_secs_f64(toggle_on_s),
            off: Duration::from_secs_f64(toggle_off_s),
            rounds: toggle_rounds,
            rate: toggle_kb_s * 1e3,
        }))
    }

    /// The step that its clients begin at.
    pub fn step(&self) -> Step {
        let step = if self.workload.pinned { self.clients.step } else { 0 };
        Step { level: Level::from_name(&self.clients.level).unwrap_or_default(), step }
    }

    /// The network that it describes. Names the key that makes no sense.
    pub fn shape(&self) -> Result<Shape, ScenarioError> {
        let Network { width, layers, entries, exits, .. } = self.network;
        positive("network.mean_delay_ms", self.network.mean_delay_ms)?;
        positive("seconds", self.seconds)?;
        let mut parameters = Parameters {
            mean_delay: milliseconds("network.mean_delay_ms", self.network.mean_delay_ms)?,
            max_delay: milliseconds("network.max_delay_ms", self.network.max_delay_ms)?,
            ..Parameters::default()
        };
        let turnover = self.turnover()?;
        if let Some(turnover) = turnover {
            parameters.epoch = turnover.epoch;
            if let Some(key_period) = turnover.key_period {
                // What is given out must be used up before its keys are over.
                let surb_life = turnover.overlap * 3 / 4;
                (parameters.key_period, parameters.overlap) = (key_period, turnover.overlap);
                parameters.surb_life = surb_life.min(parameters.surb_life);
            }
        }
        let counts = [
            ("network.layers", layers, 20),
            ("network.width", width, 10_000),
            ("network.entries", entries, 10_000),
            ("network.exits", exits, 10_000),
            ("clients.count", self.clients.count, 100_000_000),
            ("seeds", self.seeds as usize, 10_000),
        ];
        for (key, count, most) in counts {
            if !(1..=most).contains(&count) {
                return Err(ScenarioError(format!("{key} = {count}: must be from 1 to {most}")));
            }
        }
        let corrupt = &self.adversary.corrupt;
        if corrupt.len() != layers || corrupt.iter().any(|share| !(0.0..=1.0).contains(share)) {
            return Err(ScenarioError(format!(
                "adversary.corrupt: must be {layers} shares from 0 to 1, one for each layer"
            )));
        }
        if !(0.0..1.0).contains(&self.links.loss) {
            return Err(ScenarioError(format!(
                "links.loss = {}: must be below 1, not below 0",
                self.links.loss
            )));
        }
        if !(0.0..=1e3).contains(&self.network.relay_loops) {
            return Err(ScenarioError(format!(
                "network.relay_loops = {}: must be from 0 to 1000 a second",
                self.network.relay_loops
            )));
        }
        if self.network.pool_keep >= self.network.pool_threshold {
            return Err(ScenarioError("network.pool_keep must be below network.pool_threshold".to_owned()));
        }
        let shape = Shape {
            pace: self.pace()?,
            roads: self.roads(),
            entries,
            exits,
            clients: self.clients.count,
            links: self.links.links()?,
            format: match self.packets {
                Packets::Sphinx => Format::Sphinx,
                Packets::Clear => Format::Clear,
                Packets::Modelled => Format::Modelled,
            },
            replays: self.replay_filter,
            relay_loops: self.network.relay_loops,
            turnover,
            parameters,
        };
        shape.check().map_err(|error| {
            ScenarioError(format!("{error}: say packets = \"modelled\", or leave network.* as it is"))
        })?;
        Ok(shape)
    }

    /// What changes meanwhile, if something does.
    fn turnover(&self) -> Result<Option<Turnover>, ScenarioError> {
        let Network { epoch_s, key_period_s, overlap_s, cuts_an_hour, cut_s, .. } = self.network;
        let seconds = |key: &str, value: f64| {
            (0.0..=1e8).contains(&value).then(|| Duration::from_secs_f64(value)).ok_or_else(|| {
                ScenarioError(format!("network.{key} = {value}: must be a number of seconds, not below 0"))
            })
        };
        let (epoch, key_period, overlap) = (
            seconds("epoch_s", epoch_s)?,
            seconds("key_period_s", key_period_s)?,
            seconds("overlap_s", overlap_s)?,
        );
        let cut = seconds("cut_s", cut_s)?;
        if !(0.0..=3_600.0).contains(&cuts_an_hour) {
            return Err(ScenarioError(format!(
                "network.cuts_an_hour = {cuts_an_hour}: must be from 0 to 3600"
            )));
        }
        if epoch.is_zero() {
            return match key_period.is_zero() && cuts_an_hour == 0.0 {
                true => Ok(None),
                false => Err(ScenarioError(
                    "network.key_period_s and network.cuts_an_hour need documents: set network.epoch_s"
                        .to_owned(),
                )),
            };
        }
        if !key_period.is_zero() && (key_period < epoch || overlap >= key_period || overlap.is_zero()) {
            return Err(ScenarioError(
                "network.key_period_s: must be one epoch at least, and network.overlap_s above 0 and shorter than it".to_owned(),
            ));
        }
        let key_period = (!key_period.is_zero()).then_some(key_period);
        Ok(Some(Turnover { epoch, key_period, overlap, cuts_an_hour, cut }))
    }

    fn roads(&self) -> Roads {
        let Network { layers, width, pool_threshold, pool_keep, .. } = self.network;
        Roads {
            arrangement: match self.network.arrangement {
                ArrangementName::Stratified => Arrangement::Stratified,
                ArrangementName::Cascade => Arrangement::Cascade,
                ArrangementName::FreeRoute => Arrangement::FreeRoute,
            },
            layers,
            width,
            law: match self.network.law {
                LawName::Exponential => Law::Exponential,
                LawName::Uniform => Law::Uniform,
                LawName::Constant => Law::Constant,
                LawName::Pool => Law::Pool { threshold: pool_threshold, keep: pool_keep },
            },
        }
    }

    fn pace(&self) -> Result<Pace, ScenarioError> {
        let clients = &self.clients;
        let level = Level::from_name(&clients.level).ok_or_else(|| {
            ScenarioError(format!("clients.level = {:?}: must be strong, balanced or fast", clients.level))
        })?;
        let pace = Levels::default().pace(Step { level, step: clients.step }).ok_or_else(|| {
            let steps = Levels::default().steps(level).len();
            ScenarioError(format!(
                "clients.step = {}: {} has steps 0 to {}",
                clients.step,
                level.name(),
                steps - 1
            ))
        })?;
        not_negative("clients.send_rate", clients.send_rate, "0: the level's")?;
        if clients.send_rate == 0.0 {
            // What would be asked for in vain.
            let ignored = [
                ("receive_rate", clients.receive_rate, 0.0),
                ("loop_share", clients.loop_share, DEFAULT_SHARE),
                ("drop_share", clients.drop_share, DEFAULT_SHARE),
            ];
            return match ignored.into_iter().find(|(_, value, default)| value != default) {
                None => Ok(pace),
                Some((key, value, _)) => Err(ScenarioError(format!(
                    "clients.{key} = {value}: the level says that itself: set clients.send_rate above 0 too, or leave \
                     it out"
                ))),
            };
        }
        let (loop_share, drop_share) = (clients.loop_share, clients.drop_share);
        positive("clients.receive_rate", clients.receive_rate)?;
        if !(loop_share >= 0.0 && drop_share >= 0.0 && loop_share + drop_share <= 1.0) {
            return Err(ScenarioError(
                "clients.loop_share and clients.drop_share: must be shares, together 1 at most".to_owned(),
            ));
        }
        Ok(Pace { send_rate: clients.send_rate, receive_rate: clients.receive_rate, loop_share, drop_share })
    }
}

/// Why corrupt mixes are not for those who match flows.
pub const CORRUPT_AND_FLOWS: &str = "corrupt mixes and flows that are matched do not go together: who matches flows has the links, \
     gateways and exits here, and nothing from corrupt mixes, so that the figure would be of honest ones: leave out \
     one of the two";
/// Loops and drops of the example, which only hold beside rates.
const DEFAULT_SHARE: f64 = 0.05;

/// A packet is replayed so often at the most.
const MOST_COPIES: u32 = 1_000;

impl LinksOf {
    fn links(&self) -> Result<Links, ScenarioError> {
        let distance = match (self.geography, self.matrix.as_str()) {
            (GeographyName::World, "") if self.distance_ms != 0.0 => {
                return Err(ScenarioError(format!(
                    "links.distance_ms = {}: links.geography says how long links take; leave out one of them",
                    self.distance_ms
                )));
            }
            (GeographyName::World, "") => Distance::World(Geography::default()),
            (GeographyName::World, path) => {
                return Err(ScenarioError(format!(
                    "links.matrix = {path:?} and links.geography = \"world\" each say how long links take; leave out one of \
                     them"
                )));
            }
            (GeographyName::None, "") => {
                Distance::Equal(milliseconds("links.distance_ms", self.distance_ms)?)
            }
            (GeographyName::None, path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| ScenarioError(format!("links.matrix: cannot read {path}: {error}")))?;
                matrix(path, &text)?
            }
        };
        not_negative("links.bandwidth_mbit", self.bandwidth_mbit, "0: any number")?;
        not_negative("links.capacity", self.capacity, "0: any number")?;
        let some = |value: f64, factor: f64| (value > 0.0).then_some(value * factor);
        Ok(Links {
            distance,
            loss: self.loss,
            bandwidth: some(self.bandwidth_mbit, 1e6 / 8.0),
            capacity: some(self.capacity, 1.0),
            ..Links::default()
        })
    }
}

fn matrix(path: &str, text: &str) -> Result<Distance, ScenarioError> {
    let wrong = |line: usize, why: String| ScenarioError(format!("links.matrix: {path}, line {line}: {why}"));
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let mut rows = Vec::new();
    for (number, line) in lines {
        let values = line.split(',').map(|value| {
            let value = value.trim();
            let time: f64 = value
                .parse()
                .map_err(|_| wrong(number, format!("{value:?} is no number of milliseconds")))?;
            milliseconds("links.matrix", time)
        });
        rows.push(values.collect::<Result<Vec<_>, _>>()?);
    }
    Distance::regions(rows).map_err(|error| ScenarioError(format!("links.matrix: {path}: {error}")))
}

fn milliseconds(key: &str, value: f64) -> Result<Duration, ScenarioError> {
    match (0.0..=1e9).contains(&value) {
        true => Ok(Duration::from_nanos((value * 1e6) as u64)),
        false => Err(ScenarioError(format!("{key} = {value}: must be a number of milliseconds"))),
    }
}

fn positive(key: &str, value: f64) -> Result<(), ScenarioError> {
    match value > 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(ScenarioError(format!("{key} = {value}: must be above zero"))),
    }
}

fn not_negative(key: &str, value: f64, zero: &str) -> Result<(), ScenarioError> {
    match value >= 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(ScenarioError(format!("{key} = {value}: must not be below zero ({zero})"))),
    }
}

fn defaults() -> Table {
    toml::from_str(EXAMPLE).unwrap_or_default()
}

/// A word like `clients.count=1000`, as a file would say it.
fn parse_word(word: &str) -> Result<Table, ScenarioError> {
    let Some((key, value)) = word.split_once('=') else {
        return Err(ScenarioError(format!("{word:?}: say a key and a value, like clients.count=1000")));
    };
    let parsed = toml::from_str::<Table>(&format!("{key} = {value}"));
    // What is no number, truth or list is text, which a shell would have taken the quotes from.
    parsed
        .or_else(|_| toml::from_str(&format!("{key} = {value:?}")))
        .map_err(|_| ScenarioError(format!("{word:?}: {key:?} is no key")))
}

/// Puts what `change` has in its place; every key must be there already.
fn merge(table: &mut Table, change: Table, path: &str) -> Result<(), ScenarioError> {
    for (key, value) in change {
        let full = format!("{path}{key}");
        let known: Vec<String> = table.keys().cloned().collect();
        match (table.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(change)) => merge(inner, change, &format!("{full}."))?,
            (Some(Value::Table(_)), _) => {
                return Err(ScenarioError(format!("{full} is a section, and has keys of its own")));
            }
            (Some(place @ Value::Float(_)), Value::Integer(number)) => *place = Value::Float(number as f64),
            (Some(place), value) => *place = value,
            (None, _) => {
                let nearest = known.iter().min_by_key(|known| strsim::damerau_levenshtein(known, &key));
                let nearest =
                    nearest.map_or(String::new(), |nearest| format!(": did you mean `{path}{nearest}`?"));
                return Err(ScenarioError(format!("unknown key `{full}`{nearest}")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use crate::observe::Place;

    fn error(words: &[&str]) -> String {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        Scenario::load(None, &words).unwrap_err().to_string()
    }

    #[test]
    fn the_example_has_every_key_and_describes_the_products_network() {
        let scenario = Scenario::load(None, &[]).unwrap();
        // Written out and read again: the example lacks no key, and has none too many.
        let keys = |table: &Table| {
            let inner = table.iter().flat_map(|(key, value)| match value {
                Value::Table(inner) => inner.keys().map(|inner| format!("{key}.{inner}")).collect(),
                _ => vec![key.clone()],
            });
            let mut keys: Vec<_> = inner.collect();
            keys.sort();
            keys
        };
        let written = Table::try_from(&scenario).unwrap();
        assert_eq!(keys(&written), keys(&defaults()));
        let shape = scenario.shape().unwrap();
        assert_eq!(shape.parameters, Parameters::default());
        assert_eq!((shape.roads, shape.entries, shape.exits), (Shape::default().roads, 3, 3));
    }

    #[test]
    fn words_are_stronger_than_files_and_files_than_defaults() {
        let folder = std::env::temp_dir().join(format!("mizzle-sim-scenario-{}", std::process::id()));
        std::fs::write(&folder, "seconds = 7\n[clients]\ncount = 5\nlevel = \"strong\"\nstep = 0\n").unwrap();
        let scenario = Scenario::load(Some(&folder), &["clients.count=6".to_owned()]).unwrap();
        std::fs::remove_file(&folder).unwrap();
        assert_eq!((scenario.seconds, scenario.clients.count, scenario.seeds), (7.0, 6, 5));
        assert_eq!(scenario.shape().unwrap().pace.send_rate, 50.0);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert_eq!(error(&["clients.cuont=3"]), "unknown key `clients.cuont`: did you mean `clients.count`?");
        assert_eq!(error(&["clients.step=4"]), "clients.step = 4: balanced has steps 0 to 3");
        assert!(error(&["network.layers=5"]).contains("adversary.corrupt"));
        let layers = ["network.layers=2", "adversary.corrupt=[0.0,0.0]"];
        assert!(error(&layers).contains("packets = \"modelled\""), "{}", error(&layers));
        assert!(error(&["clients.count=0"]).contains("from 1 to"));
        assert!(error(&["links.loss=1.5"]).contains("below 1"));
        assert!(error(&["clients"]).contains("like clients.count=1000"));
        assert!(error(&["seconds=soon"]).contains("invalid type"), "{}", error(&["seconds=soon"]));
        assert!(error(&["clients.level=weak"]).contains("strong, balanced or fast"));
        assert!(error(&["workload.kind=trace", "workload.trace=/nowhere"]).contains("/nowhere"));
        assert!(error(&["adversary.presence_daily=0"]).contains("above 0"));
        assert!(error(&["adversary.toggle_rounds=3"]).contains("workload.kind"));
        assert!(error(&["adversary.disclosure=true"]).contains("workload.favourites"));
        assert!(error(&["workload.sites=3", "workload.favourites=4"]).contains("workload.sites = 3"));
        assert!(error(&["workload.there=0"]).contains("workload.there = 0"));
        let toggled = ["adversary.toggle_rounds=3", "workload.kind=web", "workload.speakers=1"];
        let short = [&toggled[..], &["adversary.toggle_on_s=1", "adversary.toggle_off_s=1"]].concat();
        assert!(error(&short).contains("4 seconds together"), "{}", error(&short));
        assert!(error(&["workload.kind=web", "packets=sphinx"]).contains("packets = \"clear\""));
        assert!(error(&["workload.kind=web", "workload.speakers=301"]).contains("300 clients"));
        assert!(error(&["links.matrix=/nowhere"]).contains("cannot read /nowhere"));
        let both = error(&["links.matrix=/nowhere", "links.geography=world"]);
        assert!(both.contains("links.matrix") && both.contains("links.geography"), "{both}");
        assert!(error(&["links.distance_ms=5", "links.geography=world"]).contains("links.geography"));
        assert!(error(&["links.geography=moon"]).contains("world"), "{}", error(&["links.geography=moon"]));
    }

    #[test]
    fn what_would_be_wished_in_vain_is_refused_with_what_to_do() {
        for kind in ["web", "poisson", "chat", "bulk"] {
            assert!(error(&[&format!("workload.kind={kind}")]).contains("set workload.speakers"));
        }
        let trace = std::env::temp_dir().join(format!("mizzle-sim-senders-{}", std::process::id()));
        let entry = |who: u32| format!(r#"{{"time": 1, "size": 9, "sender": {who}, "receiver": "x"}}"#);
        std::fs::write(&trace, format!("[{},{},{}]", entry(1), entry(2), entry(3))).unwrap();
        let word = format!("workload.trace={}", trace.display());
        for speakers in ["workload.speakers=0", "workload.speakers=2"] {
            let refusal = error(&["workload.kind=trace", &word, speakers]);
            assert!(refusal.contains("the trace has 3 senders"), "{refusal}");
        }
        std::fs::remove_file(&trace).unwrap();
        for (word, key) in [
            ("clients.loop_share=0.4", "clients.send_rate"),
            ("clients.receive_rate=40", "clients.send_rate"),
            ("links.capacity=-1", "links.capacity = -1"),
            ("links.bandwidth_mbit=-3", "links.bandwidth_mbit = -3"),
            ("clients.send_rate=-5", "clients.send_rate = -5"),
            ("adversary.match_flows=true", "workload.kind"),
        ] {
            assert!(error(&[word]).contains(key), "{word}: {}", error(&[word]));
        }
    }

    #[test]
    fn a_share_that_comes_to_nobody_is_refused_with_those_that_can_be_had() {
        for word in ["adversary.corrupt=[0,0.1,0]", "adversary.corrupt_exits=0.1"] {
            assert!(error(&[word]).contains("0.3333 (1 of 3)"), "{word}: {}", error(&[word]));
        }
        assert!(error(&["adversary.flood=0.001"]).contains("0.0033 (1 of 300)"));
        assert!(error(&["adversary.flood=0.999"]).contains("somebody else"));
        let words = ["adversary.corrupt=[0,0.5,0]", "adversary.flood=0.5"].map(str::to_owned);
        let shares = Scenario::load(None, &words).unwrap().shares();
        assert_eq!(
            shares.iter().map(|share| (share.count, share.of)).collect::<Vec<_>>(),
            [(2, 3), (150, 300)]
        );
        assert_eq!(shares[0].key, "adversary.corrupt of layer 2");
    }

    #[test]
    fn corrupt_mixes_are_not_for_who_matches_flows() {
        let flows = ["workload.kind=web", "workload.speakers=9", "adversary.match_flows=true"];
        let refusal = error(&[&flows[..], &["adversary.corrupt=[0,0,1]"]].concat());
        assert!(refusal.contains("do not go together"), "{refusal}");
    }

    #[test]
    fn what_is_wrong_in_a_file_is_said_with_the_files_name_and_what_a_word_says_without() {
        let with = |text: &str, words: &[&str]| {
            let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
            Scenario::parse("some.toml", text, &words).unwrap_err().to_string()
        };
        assert!(with("[clients]\ncount = 0", &[]).starts_with("some.toml: clients.count = 0"));
        assert!(with("seconds = \"soon\"", &["seed=2"]).starts_with("some.toml: "));
        assert!(with("cuont = 0", &[]).starts_with("some.toml: unknown key"));
        assert!(with("seed = 3", &["clients.count=0"]).starts_with("clients.count = 0"));
    }

    #[test]
    fn a_matrix_is_read_in_milliseconds_and_a_wrong_value_named_with_its_line() {
        let distance = matrix("m", "# regions\n1, 40.5\n40,2\n").unwrap();
        assert_eq!(distance.between(Place::Client(0), Place::Relay(1)), Duration::from_micros(40_500));
        assert!(matrix("m", "1,x\n").unwrap_err().to_string().contains("line 1: \"x\""));
        assert!(matrix("m", "1,2\n").unwrap_err().to_string().contains("as many columns"));
    }
}
