//! Which relays carried something: read from their own accounts, not from what we asked for.

use crate::namespace;
use crate::plan::{Host, Plan, Role};
use std::collections::BTreeMap;
use std::ffi::OsString;

/// What one relay says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    /// Packets that it has taken on.
    taken: f64,
    /// Its layer, if it is a mix of the current key period.
    layer: Option<u8>,
}

/// The accounts of all relays, by host name. A relay that does not answer has none.
pub(crate) fn accounts(plan: &Plan) -> BTreeMap<String, Account> {
    let account = |host: &Host| {
        let taken = taken(&ask(plan, host, "metrics")?);
        let layer = ask(plan, host, "status").as_deref().and_then(layer_in);
        Some((host.name.clone(), Account { taken, layer }))
    };
    plan.hosts.iter().filter_map(account).collect()
}

/// The roles on the way of what was fetched between two readings: the entry, three layers of mixes with
/// the packets that each took, the exits that connected.
pub(crate) fn path(
    plan: &Plan,
    before: &BTreeMap<String, Account>,
    after: &BTreeMap<String, Account>,
    exits: &[&Host],
) -> Vec<(String, String)> {
    let packets = |host: &Host| -> f64 {
        let taken =
            |accounts: &BTreeMap<String, Account>| accounts.get(&host.name).map_or(0.0, |of| of.taken);
        taken(after) - taken(before)
    };
    let line = |hosts: Vec<&Host>| -> String {
        let each = hosts.iter().map(|host| format!("{} ({:.0} packets)", host.name, packets(host)));
        each.collect::<Vec<_>>().join(", ")
    };
    let busiest = plan.of(Role::Entry).max_by(|a, b| packets(a).total_cmp(&packets(b)));
    let mut lines = vec![("entry".to_owned(), line(busiest.into_iter().collect()))];
    for layer in 1..=3 {
        let of_layer =
            plan.of(Role::Mix).filter(|host| after.get(&host.name).is_some_and(|of| of.layer == Some(layer)));
        lines.push((format!("layer {layer}"), line(of_layer.collect())));
    }
    lines.push(("exit".to_owned(), line(exits.to_vec())));
    lines
}

/// The sum of all packets received, from Prometheus' text format.
fn taken(text: &str) -> f64 {
    let values =
        text.lines().filter(|line| line.starts_with(TAKEN)).filter_map(|line| line.rsplit(' ').next());
    values.filter_map(|value| value.parse::<f64>().ok()).sum()
}

/// The layer that a relay's status page names, if it has one.
pub(crate) fn layer_in(status: &str) -> Option<u8> {
    let page: serde_json::Value = serde_json::from_str(status).ok()?;
    u8::try_from(page.get("layer")?.as_u64()?).ok()
}

/// One of the pages that a relay shows on its loopback; `None` if it does not answer.
pub(crate) fn ask(plan: &Plan, host: &Host, page: &str) -> Option<String> {
    let url = format!("http://{}/{page}", host.metrics?);
    let words: Vec<OsString> =
        ["curl", "-sS", "--noproxy", "*", "--max-time", "5", &url].iter().map(OsString::from).collect();
    let output = namespace::command(plan, host, &words).ok()?.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

const TAKEN: &str = "mizzle_packets_received_total";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_and_layers_are_read_from_what_relays_say() {
        let text = "# HELP mizzle_packets_received_total x\nmizzle_packets_received_total{from=\"relay\"} 3\n\
                    mizzle_packets_received_total{from=\"client\"} 4\nmizzle_links_out 2\nodd\n";
        assert_eq!(taken(text), 7.0);
        assert_eq!(layer_in("{\"role\":\"mix\",\"layer\":2}"), Some(2));
        assert_eq!(layer_in("{\"role\":\"exit\",\"layer\":null}"), None);
    }
}
