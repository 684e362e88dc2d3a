//! What a network at rest does in a while: packets on each kind of link, and the clients' loops. Read from the
//! programs' own accounts at the while's two ends.

use crate::boot::Network;
use crate::error::{Error, Result};
use crate::evidence;
use crate::namespace;
use crate::plan::{Host, Plan, Role};
use crate::progress::Progress;
use serde::Serialize;
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

/// What came out, for programs.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Measured {
    /// Packets a second on all links of each kind together, in a packet's order.
    pub(crate) links: Links,
    /// Loops of all clients that left and that came home.
    pub(crate) loops_sent: u64,
    pub(crate) loops_home: u64,
    /// For how long the clients were looked at, added up.
    pub(crate) client_seconds: f64,
    /// How long each loop that came home took, from its slot, in microseconds.
    pub(crate) loop_times_us: Vec<u64>,
    /// Packets that ended at relays, for other reasons than being cover at its end.
    pub(crate) dropped: u64,
    /// Slots of clients that sent no packet, since none was ready or the line took none.
    pub(crate) slots_lost: u64,
}

/// Packets a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Links {
    pub(crate) client_to_entry: f64,
    pub(crate) entry_to_first: f64,
    pub(crate) first_to_second: f64,
    pub(crate) second_to_third: f64,
    pub(crate) third_to_exit: f64,
    pub(crate) third_to_entry: f64,
    pub(crate) entry_to_client: f64,
}

/// What one program's counters say, and when they were asked.
#[derive(Clone, Debug)]
struct Reading<T> {
    name: String,
    at: Instant,
    counts: T,
}

/// A relay's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Relay {
    role: Option<Role>,
    layer: Option<u8>,
    from_clients: f64,
    from_relays: f64,
    to_clients: f64,
    to_relays: f64,
    dropped: f64,
}

/// A client's counters.
#[derive(Clone, Debug, Default, PartialEq)]
struct Client {
    loops_sent: u64,
    loops_home: u64,
    slots_lost: u64,
    loop_times: Vec<u64>,
}

/// Lets the network come into its stride for `warm`, looks at it for `time`, and says what it did.
pub(crate) async fn run(
    network: &mut Network,
    warm: Duration,
    time: Duration,
    progress: &Progress,
) -> Result<Measured> {
    progress.now("the network comes into its stride");
    pass(network, warm).await?;
    let relays = relays(&network.plan)?;
    let mut clients = clients(network)?;
    let begun = clients.clone();
    progress.now(&format!("the network runs at rest for {} s", time.as_secs()));
    let end = Instant::now() + time;
    let mut measured = Measured::default();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        progress.briefly(&format!("the network runs at rest for {} s more", left.as_secs()));
        pass(network, left.min(LOOK)).await?;
        let next = self::clients(network)?;
        for (before, after) in clients.iter().zip(&next) {
            measured.loop_times_us.extend(new_times(&before.counts, after)?);
        }
        clients = next;
        if left <= LOOK {
            break;
        }
    }
    let after = self::relays(&network.plan)?;
    measured.links = links(&relays, &after)?;
    measured.dropped =
        relays.iter().zip(&after).map(|(a, b)| (b.counts.dropped - a.counts.dropped) as u64).sum();
    for (before, after) in begun.iter().zip(&clients) {
        measured.loops_sent += after.counts.loops_sent - before.counts.loops_sent;
        measured.loops_home += after.counts.loops_home - before.counts.loops_home;
        measured.slots_lost += after.counts.slots_lost - before.counts.slots_lost;
        measured.client_seconds += after.at.duration_since(before.at).as_secs_f64();
    }
    Ok(measured)
}

/// Writes it down as JSON.
pub(crate) fn save(measured: &Measured, path: &Path) -> Result<()> {
    let text = serde_json::to_string(measured)
        .map_err(|error| Error::Wrong(format!("what was measured cannot be written: {error}")))?;
    std::fs::write(path, text).map_err(Error::system(format!("cannot write {}", path.display())))
}

/// Waits; fails as soon as a process of the network ends.
async fn pass(network: &mut Network, time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        if let Some(error) = network.ended() {
            return Err(error);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        tokio::time::sleep(left.min(Duration::from_millis(500))).await;
    }
}

/// Asks a program; the moment is the middle of the asking.
fn read<T>(host: &Host, ask: impl FnOnce() -> Result<T>) -> Result<Reading<T>> {
    let begun = Instant::now();
    let counts = ask()?;
    Ok(Reading { name: host.name.clone(), at: begun + begun.elapsed() / 2, counts })
}

fn relays(plan: &Plan) -> Result<Vec<Reading<Relay>>> {
    let silent =
        |host: &Host| Error::Process { what: format!("{} tells no counters", host.name), log: host.log() };
    let relay = |host: &Host| {
        let layer = evidence::ask(plan, host, "status").as_deref().and_then(evidence::layer_in);
        read(host, || {
            let text = evidence::ask(plan, host, "metrics").ok_or_else(|| silent(host))?;
            Ok(Relay { role: Some(host.role), layer, ..counters(&text) })
        })
    };
    plan.hosts.iter().filter(|host| host.role.is_relay()).map(relay).collect()
}

/// A relay's counters from Prometheus' text format.
fn counters(text: &str) -> Relay {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0)
    };
    let dropped = text.lines().filter(|line| line.starts_with(DROPPED) && !line.contains(COVER));
    Relay {
        from_clients: value("mizzle_packets_received_total{from=\"client\"}"),
        from_relays: value("mizzle_packets_received_total{from=\"relay\"}"),
        to_clients: value("mizzle_packets_sent_total{to=\"client\"}"),
        to_relays: value("mizzle_packets_sent_total{to=\"relay\"}"),
        dropped: dropped.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum(),
        ..Relay::default()
    }
}

/// Packets a second on each kind of link, from the counters at both ends of the time.
fn links(before: &[Reading<Relay>], after: &[Reading<Relay>]) -> Result<Links> {
    let mut links = Links::default();
    for (before, after) in before.iter().zip(after) {
        if before.counts.layer != after.counts.layer {
            let name = &before.name;
            return Err(Error::Wrong(format!(
                "{name} has got another layer meanwhile: take a longer key_period_s"
            )));
        }
        let seconds = after.at.duration_since(before.at).as_secs_f64().max(1e-3);
        let rate = |count: fn(&Relay) -> f64| (count(&after.counts) - count(&before.counts)) / seconds;
        let (to_relays, from_relays) = (rate(|relay| relay.to_relays), rate(|relay| relay.from_relays));
        match (after.counts.role, after.counts.layer) {
            (Some(Role::Entry), _) => {
                links.client_to_entry += rate(|relay| relay.from_clients);
                links.entry_to_first += to_relays;
                links.third_to_entry += from_relays;
                links.entry_to_client += rate(|relay| relay.to_clients);
            }
            (Some(Role::Exit), _) => links.third_to_exit += from_relays,
            (_, Some(1)) => links.first_to_second += to_relays,
            (_, Some(2)) => links.second_to_third += to_relays,
            // What leaves the third layer is counted where it comes.
            (_, Some(_)) => {}
            (_, None) => return Err(Error::Wrong(format!("{} has no layer", after.name))),
        }
    }
    Ok(links)
}

fn clients(network: &Network) -> Result<Vec<Reading<Client>>> {
    network.plan.of(Role::Client).map(|host| read(host, || client(network, host))).collect()
}

fn client(network: &Network, host: &Host) -> Result<Client> {
    let failed = || Error::Process { what: format!("{} tells no status", host.name), log: host.log() };
    let program = network.release.join("mizzle");
    let words: Vec<OsString> =
        vec![program.into(), "status".into(), "--json".into(), "--config".into(), host.config().into()];
    let output = namespace::command(&network.plan, host, &words)?
        .output()
        .map_err(Error::system(format!("cannot ask {} for its status", host.name)))?;
    status(&String::from_utf8_lossy(&output.stdout)).filter(|_| output.status.success()).ok_or_else(failed)
}

fn status(text: &str) -> Option<Client> {
    let status: serde_json::Value = serde_json::from_str(text).ok()?;
    let count = |key: &str| status.get(key)?.as_u64();
    let times = status.get("loop_times").and_then(serde_json::Value::as_array);
    Some(Client {
        loops_sent: count("loops_sent")?,
        loops_home: count("loops_returned")?,
        slots_lost: count("slots_empty")? + count("slots_stalled")?,
        loop_times: times.into_iter().flatten().filter_map(serde_json::Value::as_u64).collect(),
    })
}

/// The times of the loops that have come home since `before`.
fn new_times<'a>(before: &Client, after: &'a Reading<Client>) -> Result<&'a [u64]> {
    let Client { loops_home, loop_times, .. } = &after.counts;
    let new = (loops_home - before.loops_home) as usize;
    let first = loop_times.len().checked_sub(new);
    first.and_then(|first| loop_times.get(first..)).ok_or_else(|| {
        Error::Wrong(format!(
            "{} has had {new} loops home and tells the times of {}: take a larger loop_times",
            after.name,
            loop_times.len()
        ))
    })
}

const DROPPED: &str = "mizzle_packets_dropped_total";
const COVER: &str = "{reason=\"cover\"}";
/// How often the clients are asked for the times of their loops.
const LOOK: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(name: &str, role: Role, layer: Option<u8>, at: Instant, counts: [f64; 4]) -> Reading<Relay> {
        let [from_clients, from_relays, to_clients, to_relays] = counts;
        let role = Some(role);
        let counts = Relay { role, layer, from_clients, from_relays, to_clients, to_relays, dropped: 0.0 };
        Reading { name: name.to_owned(), at, counts }
    }

    #[test]
    fn counters_are_read_and_cover_that_ends_is_no_loss() {
        let text = "# HELP x\nmizzle_packets_received_total{from=\"client\"} 3\n\
                    mizzle_packets_received_total{from=\"relay\"} 4\nmizzle_packets_sent_total{to=\"client\"} 5\n\
                    mizzle_packets_sent_total{to=\"relay\"} 6\nmizzle_packets_dropped_total{reason=\"cover\"} 7\n\
                    mizzle_packets_dropped_total{reason=\"queue_full\"} 8\n";
        let expected = relay("", Role::Mix, None, Instant::now(), [3.0, 4.0, 5.0, 6.0]).counts;
        assert_eq!(counters(text), Relay { role: None, dropped: 8.0, ..expected });
    }

    #[test]
    fn each_counter_belongs_to_its_kind_of_link_and_is_taken_over_its_own_time() {
        let start = Instant::now();
        let network = |at: Instant, times: f64| {
            let counts = |counts: [f64; 4]| counts.map(|count| count * times);
            vec![
                relay("e", Role::Entry, None, at, counts([100.0, 40.0, 39.0, 99.0])),
                relay("m1", Role::Mix, Some(1), at, counts([0.0, 99.0, 0.0, 98.0])),
                relay("m2", Role::Mix, Some(2), at, counts([0.0, 98.0, 0.0, 97.0])),
                relay("m3", Role::Mix, Some(3), at, counts([0.0, 97.0, 0.0, 96.0])),
                relay("x", Role::Exit, None, at, counts([0.0, 56.0, 0.0, 0.0])),
            ]
        };
        let before = network(start, 1.0);
        let after = network(start + Duration::from_secs(2), 3.0);
        let expected = Links {
            client_to_entry: 100.0,
            entry_to_first: 99.0,
            first_to_second: 98.0,
            second_to_third: 97.0,
            third_to_exit: 56.0,
            third_to_entry: 40.0,
            entry_to_client: 39.0,
        };
        assert_eq!(links(&before, &after).unwrap(), expected);
        let mut moved = after.clone();
        moved[1].counts.layer = Some(2);
        assert!(links(&before, &moved).unwrap_err().to_string().contains("another layer"));
    }

    #[test]
    fn the_times_of_new_loops_are_taken_and_none_is_missed_unsaid() {
        let text = |home: u64| {
            format!(
                "{{\"loops_sent\":9,\"loops_returned\":{home},\"slots_empty\":1,\"slots_stalled\":2,\
                 \"loop_times\":[5,6,7]}}"
            )
        };
        let reading = |home| {
            let counts = status(&text(home)).unwrap();
            Reading { name: "client".to_owned(), at: Instant::now(), counts }
        };
        let before = reading(4).counts;
        assert_eq!(before.slots_lost, 3);
        assert_eq!(new_times(&before, &reading(6)).unwrap(), [6, 7]);
        assert!(new_times(&before, &reading(4)).unwrap().is_empty());
        assert!(new_times(&before, &reading(8)).unwrap_err().to_string().contains("larger loop_times"));
        assert_eq!(status("{}"), None);
    }
}
