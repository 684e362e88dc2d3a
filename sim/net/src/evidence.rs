//! Which relays carried something: read from their own counters, not from what we asked for.

use crate::namespace;
use crate::plan::{Host, Plan, Role};
use std::collections::BTreeMap;
use std::ffi::OsString;

/// One relay's counters by name and labels, as Prometheus reads them.
pub(crate) type Counters = BTreeMap<String, f64>;

/// The counters of every relay, by host name. A relay that does not answer has none.
pub(crate) fn counts(plan: &Plan) -> BTreeMap<String, Counters> {
    plan.hosts.iter().filter_map(|host| Some((host.name.clone(), parse(&metrics(plan, host)?)))).collect()
}

/// The roles on the way of what was fetched between two readings: the entry, three layers of mixes with
/// the packets that each took, the exits that connected.
pub(crate) fn path(
    plan: &Plan,
    before: &BTreeMap<String, Counters>,
    after: &BTreeMap<String, Counters>,
    exits: &[&Host],
) -> Vec<(String, String)> {
    let packets = |host: &Host| -> f64 {
        let sum = |counts: &BTreeMap<String, Counters>| counts.get(&host.name).map_or(0.0, taken);
        sum(after) - sum(before)
    };
    let line = |hosts: Vec<&Host>| -> String {
        let each = hosts.iter().map(|host| format!("{} ({:.0} packets)", host.name, packets(host)));
        each.collect::<Vec<_>>().join(", ")
    };
    let busiest = plan.of(Role::Entry).max_by(|a, b| packets(a).total_cmp(&packets(b)));
    let mut lines = vec![("entry".to_owned(), line(busiest.into_iter().collect()))];
    for layer in 1..=3 {
        let of_layer =
            plan.of(Role::Mix).filter(|host| after.get(&host.name).and_then(layer_of) == Some(layer));
        lines.push((format!("layer {layer}"), line(of_layer.collect())));
    }
    lines.push(("exit".to_owned(), line(exits.to_vec())));
    lines
}

fn taken(counters: &Counters) -> f64 {
    counters.iter().filter(|(name, _)| name.starts_with(TAKEN)).map(|(_, value)| value).sum()
}

fn layer_of(counters: &Counters) -> Option<u8> {
    counters.iter().find(|(name, _)| name.starts_with(LAYER)).map(|(_, value)| *value as u8)
}

fn metrics(plan: &Plan, host: &Host) -> Option<String> {
    let url = format!("http://{}/metrics", host.metrics?);
    let words: Vec<OsString> =
        ["curl", "-sS", "--noproxy", "*", "--max-time", "5", &url].iter().map(OsString::from).collect();
    let output = namespace::command(plan, host, &words).ok()?.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn parse(text: &str) -> Counters {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

const TAKEN: &str = "mizzle_packets_received_total";
const LAYER: &str = "mizzle_relay_layer";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_with_their_labels() {
        let text = "# HELP x y\nmizzle_packets_received_total{from=\"a b\"} 3\nmizzle_relay_layer 2\nodd\n";
        let counters = parse(text);
        assert_eq!(taken(&counters), 3.0);
        assert_eq!(layer_of(&counters), Some(2));
    }
}
