//! Scenarios as networks of the product's own programs: which can be had, and how `mizzle-net` is told.

use crate::scenario::{
    ArrangementName, Disturb, GeographyName, Kind, LawName, Packets, Scenario, ScenarioError,
};
use mizzle_protocol::geometry::LAYERS;
use mizzle_protocol::level::{Level, Levels, Pace};
use std::path::PathBuf;
use toml::{Table, Value};

/// The shape of the network as `mizzle-net` reads it.
///
/// Names the keys that the product's programs cannot have, and those of `also` that are beside them and true.
pub(crate) fn shape(scenario: &Scenario, also: &[(&'static str, bool)]) -> Result<Table, ScenarioError> {
    let Scenario { network, links, clients, workload, adversary, .. } = scenario;
    let refused = [
        ("packets", scenario.packets == Packets::Modelled),
        ("network.arrangement", network.arrangement != ArrangementName::Stratified),
        ("network.layers", network.layers != LAYERS),
        ("network.law", network.law != LawName::Exponential),
        ("links.capacity", links.capacity != 0.0),
        ("workload.kind", workload.kind != Kind::Nothing),
        ("workload.pinned", !workload.pinned),
        ("adversary.corrupt", adversary.corrupt.iter().any(|share| *share > 0.0)),
        ("adversary.match_flows", adversary.match_flows),
        ("adversary.presence_days", adversary.presence_days > 0),
        ("adversary.corrupt_exits", adversary.corrupt_exits > 0.0),
        ("adversary.batch", adversary.batch > 0),
        ("adversary.toggle_rounds", adversary.toggle_rounds > 0),
        ("adversary.disclosure", adversary.disclosure),
        ("adversary.isolate", adversary.isolate),
        ("adversary.replay_copies", adversary.replay_copies > 0),
        ("adversary.flood", adversary.flood > 0.0),
        ("adversary.tag", adversary.tag > 0.0),
        ("adversary.disturb", adversary.disturb != Disturb::Nothing),
        ("network.epoch_s", network.epoch_s != 0.0),
        ("links.geography", links.geography != GeographyName::None),
    ];
    let refused: Vec<_> = refused.iter().chain(also).filter_map(|(key, is)| is.then_some(*key)).collect();
    if !refused.is_empty() {
        return Err(ScenarioError::new(format!(
            "the product's programs are run at rest, as they are, and cannot have what these keys say: leave out {}",
            refused.join(", ")
        )));
    }
    let counts = [
        ("network.width", network.width),
        ("network.entries", network.entries),
        ("network.exits", network.exits),
        ("clients.count", clients.count),
    ];
    if let Some((key, count)) = counts.into_iter().find(|(_, count)| *count > MOST_PROCESSES) {
        return Err(ScenarioError::new(format!(
            "{key} = {count}: each is a process of its own, so say {MOST_PROCESSES} or fewer"
        )));
    }
    let pace = scenario.shape()?.pace;
    let mut shape = Table::new();
    for (key, (_, count)) in ["width", "entries", "exits", "clients"].into_iter().zip(counts) {
        shape.insert(key.to_owned(), integer(count as u64));
    }
    shape.insert("mean_delay_ms".to_owned(), whole("network.mean_delay_ms", network.mean_delay_ms)?);
    shape.insert("max_delay_ms".to_owned(), whole("network.max_delay_ms", network.max_delay_ms)?);
    // Layers must not change while they are looked at.
    let period = (scenario.seconds * 2.0) as u64 + SHORTEST_KEY_PERIOD;
    shape.insert("key_period_s".to_owned(), integer(period));
    let loops = whole("network.relay_loops", network.relay_loops)?;
    if network.relay_loops > MOST_LOOPS {
        return Err(ScenarioError::new(format!(
            "network.relay_loops = {}: a real relay sends {MOST_LOOPS} at most",
            network.relay_loops
        )));
    }
    shape.insert("relay_loops".to_owned(), loops);
    shape.insert("level".to_owned(), Value::String(clients.level.clone()));
    shape.insert("step".to_owned(), integer(u64::from(clients.step)));
    shape.insert("loop_times".to_owned(), integer(LOOP_TIMES));
    if clients.send_rate > 0.0 {
        may_be_a_level(&clients.level, pace)?;
        let rates = [
            ("send_rate", pace.send_rate),
            ("receive_rate", pace.receive_rate),
            ("loop_share", pace.loop_share),
            ("drop_share", pace.drop_share),
        ];
        let rates = rates.into_iter().map(|(key, rate)| (key.to_owned(), Value::Float(rate)));
        shape.insert("pace".to_owned(), Value::Table(rates.collect()));
    }
    Ok(shape)
}

/// Rates of the scenario's own become the one step of its level, which must then be one that a network may have.
fn may_be_a_level(level: &str, pace: Pace) -> Result<(), ScenarioError> {
    let levels = Levels::default();
    let of = |named: Level| match named.name() == level {
        true => vec![pace],
        false => levels.steps(named).to_vec(),
    };
    Levels::new(of(Level::Strong), of(Level::Balanced), of(Level::Fast))
        .map(drop)
        .map_err(|error| ScenarioError::new(format!("clients.send_rate and the keys beside it: {error}")))
}

fn integer(value: u64) -> Value {
    Value::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

fn whole(key: &str, value: f64) -> Result<Value, ScenarioError> {
    match value.fract() == 0.0 {
        true => Ok(integer(value as u64)),
        false => Err(ScenarioError::new(format!(
            "{key} = {value}: where real programs are run this is a whole number"
        ))),
    }
}

/// `mizzle-net`, beside this program.
pub(crate) fn launcher() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let program = std::env::current_exe()?.with_file_name("mizzle-net");
    match program.is_file() {
        true => Ok(program),
        false => Err(format!(
            "there is no {}: build it, and what it starts, with: cargo build --release -p mizzle-net -p mizzle-directory \
             -p mizzle-relay -p mizzle-daemon",
            program.display()
        )
        .into()),
    }
}

/// What a relay's configuration allows of its key `loops`.
const MOST_LOOPS: f64 = 20.0;
/// Mixes of a layer, entries, exits, clients.
const MOST_PROCESSES: usize = 100;
/// Of how many loops clients tell the times, each time they are asked.
const LOOP_TIMES: u64 = 4096;
const SHORTEST_KEY_PERIOD: u64 = 600;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    fn scenario(words: &[&str]) -> Scenario {
        let common = ["clients.count=8", "clients.send_rate=80", "clients.receive_rate=60", "seconds=170"];
        let shares = ["clients.loop_share=0.45", "clients.drop_share=0.45"];
        let words = common.iter().chain(&shares).chain(words).map(|word| (*word).to_owned());
        Scenario::load(None, &words.collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_shape_says_what_the_scenario_does() {
        let words = ["network.width=2", "network.mean_delay_ms=50", "network.max_delay_ms=500"];
        let shape = super::shape(&scenario(&words), &[]).unwrap();
        let number = |key: &str| shape[key].as_integer().unwrap();
        assert_eq!(["width", "entries", "exits", "clients"].map(number), [2, 3, 3, 8]);
        assert_eq!((number("mean_delay_ms"), number("max_delay_ms")), (50, 500));
        assert_eq!(shape["pace"]["loop_share"].as_float(), Some(0.45));
        assert!(number("key_period_s") > 2 * 170);
        // A level's own step is left to the network.
        let rates = [
            "clients.send_rate=0",
            "clients.receive_rate=0",
            "clients.loop_share=0.05",
            "clients.drop_share=0.05",
        ];
        let strong = [&rates[..], &["clients.level=strong", "clients.step=0"]].concat();
        let shape = super::shape(&scenario(&strong), &[]).unwrap();
        assert!(!shape.contains_key("pace") && shape["level"].as_str() == Some("strong"));
    }

    #[test]
    fn what_the_programs_cannot_have_is_refused_by_its_keys() {
        let refusal = |words: &[&str]| super::shape(&scenario(words), &[]).unwrap_err().to_string();
        for word in [
            "links.capacity=100",
            "workload.pinned=false",
            "adversary.corrupt=[0.34,0.0,0.0]",
            "adversary.presence_days=3",
        ] {
            let (key, _) = word.split_once('=').unwrap();
            assert!(refusal(&[word]).ends_with(&format!("leave out {key}")), "{word}: {}", refusal(&[word]));
        }
        let both = refusal(&["packets=modelled", "network.law=uniform", "network.arrangement=cascade"]);
        assert!(both.ends_with("packets, network.arrangement, network.law"), "{both}");
        let talks = refusal(&["workload.kind=web", "workload.speakers=2"]);
        assert!(talks.ends_with("workload.kind"), "{talks}");
        let matched = refusal(&["workload.kind=web", "workload.speakers=2", "adversary.match_flows=true"]);
        assert!(matched.ends_with("workload.kind, adversary.match_flows"), "{matched}");
        assert!(refusal(&["clients.count=300"]).contains("clients.count = 300"));
        assert!(refusal(&["network.mean_delay_ms=12.5"]).contains("whole number"));
        assert!(refusal(&["clients.drop_share=0.1"]).contains("as many drops as loops"));
    }
}
