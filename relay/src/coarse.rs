//! The counters as they are shown: coarse in number and in time, since who watches them finely sees packets
//! pass.
//!
//! Any user of the machine can read a port on loopback, and operators send their counters elsewhere. An
//! observer who reads exact packet counters every millisecond has a tap on the relay. So what is shown is made
//! anew every ten seconds only, counts of packets, datagrams, bytes and histograms are rounded down, and those of
//! clients, sessions, streams and exchanges up. What is about the relay itself (links between relays, epoch, layer) is exact, and so
//! is what it refuses. (spec: RELAY-12)

use crate::metrics::Metrics;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The counters as Prometheus and `status` get them.
#[derive(Debug)]
pub(crate) struct Shown {
    metrics: Arc<Metrics>,
    exact: bool,
    last: Mutex<Option<Snapshot>>,
}

/// The counters at one moment.
#[derive(Clone, Debug)]
struct Snapshot {
    made: Instant,
    received: u64,
    text: Arc<[u8]>,
    traffic: Traffic,
}

/// What `status` shows of the traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Traffic {
    /// Links to and from other relays: exact.
    pub(crate) links_out: i64,
    pub(crate) links_in: i64,
    /// Packets that came, and those of them that were dropped against their sender's will.
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) clients: u64,
    pub(crate) sessions: u64,
    pub(crate) streams: u64,
    /// Its own loops that came home, and that did not.
    #[serde(default)]
    pub(crate) loops_home: u64,
    #[serde(default)]
    pub(crate) loops_lost: u64,
    /// So many are lost that somebody may keep packets away from it: exact.
    #[serde(default)]
    pub(crate) loop_alarm: bool,
    /// Packets per second, lately.
    pub(crate) per_second: Option<u64>,
}

impl Shown {
    /// Shows `metrics`; exactly, if the operator of a test asks for that.
    pub(crate) fn new(metrics: Arc<Metrics>, exact: bool) -> Self {
        Self { metrics, exact, last: Mutex::default() }
    }

    /// The counters in Prometheus' text format.
    pub(crate) fn text(&self) -> Arc<[u8]> {
        self.snapshot().text
    }

    /// The counters for `status`: as coarse as the others, or who may ask for the one learns the other.
    pub(crate) fn traffic(&self) -> Traffic {
        self.snapshot().traffic
    }

    fn snapshot(&self) -> Snapshot {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(snapshot) = &*last
            && !self.exact
            && snapshot.made.elapsed() < RENEW
        {
            return snapshot.clone();
        }
        let snapshot = self.make(last.as_ref());
        *last = Some(snapshot.clone());
        snapshot
    }

    fn make(&self, before: Option<&Snapshot>) -> Snapshot {
        let (made, metrics) = (Instant::now(), &self.metrics);
        let (down, up) = match self.exact {
            true => (1.0, 1.0),
            false => (PACKETS, PEOPLE),
        };
        let lower = |value: u64| ((value as f64 / down).floor() * down) as u64;
        let upper = |value: i64| ((value.max(0) as f64 / up).ceil() * up) as u64;
        let received = metrics.received();
        let per_second = before.map(|before| {
            let seconds = made.duration_since(before.made).as_secs_f64().max(0.001);
            (lower(received.saturating_sub(before.received)) as f64 / seconds) as u64
        });
        let traffic = Traffic {
            links_out: metrics.links_out.get(),
            links_in: metrics.links_in.get(),
            received: lower(received),
            lost: lower(metrics.lost()),
            clients: upper(metrics.client_links.get()),
            sessions: upper(metrics.sessions.get()),
            streams: upper(metrics.streams.get()),
            loops_home: lower(metrics.loops_home.get()),
            loops_lost: lower(metrics.loops_lost.get()),
            loop_alarm: metrics.loop_alarm.get() > 0,
            per_second,
        };
        let text = match self.exact {
            true => metrics.text(),
            false => coarse(&metrics.text()),
        };
        Snapshot { made, received, text: text.into(), traffic }
    }
}

fn coarse(exact: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(exact);
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        match rounded(line) {
            Some(line) => out.push_str(&line),
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out.into_bytes()
}

/// The line with its value rounded, if it is one of those.
fn rounded(line: &str) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let (name, value) = line.rsplit_once(' ')?;
    let value: f64 = value.parse().ok()?;
    let begins = |names: &[&str]| names.iter().any(|prefix| name.starts_with(prefix));
    let rounded = if begins(&DOWN_BYTES) {
        (value / BYTES).floor() * BYTES
    } else if begins(&DOWN) {
        (value / PACKETS).floor() * PACKETS
    } else if begins(&UP) {
        (value / PEOPLE).ceil() * PEOPLE
    } else if begins(&SUMS) {
        // Beside a rounded count, a sum says little; in whole seconds it says nothing of a packet.
        value.floor()
    } else {
        return None;
    };
    Some(format!("{name} {rounded}"))
}

const DOWN: [&str; 9] = [
    "mizzle_loops_total",
    "mizzle_packets_",
    "mizzle_datagrams_",
    "mizzle_questions_total",
    "mizzle_departure_error_seconds_bucket",
    "mizzle_departure_error_seconds_count",
    "mizzle_bandwidth_refused_total",
    "mizzle_slots_missed_total",
    "mizzle_replay_tags",
];
const DOWN_BYTES: [&str; 3] =
    ["mizzle_link_bytes_total", "mizzle_internet_bytes_total", "mizzle_document_bytes_total"];
const UP: [&str; 5] =
    ["mizzle_client_links", "mizzle_sessions", "mizzle_session_tags", "mizzle_streams", "mizzle_exchanges"];
const SUMS: [&str; 1] = ["mizzle_departure_error_seconds_sum"];
const PACKETS: f64 = 64.0;
const BYTES: f64 = 1_000_000.0;
const PEOPLE: f64 = 8.0;
const RENEW: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::Cell;
    use crate::metrics::{Origin, Packet};
    use mizzle_protocol::mix::DropReason;

    fn take(metrics: &Arc<Metrics>, packets: usize) {
        for _ in 0..packets {
            Packet::receive(metrics, Origin::Relay, 0, Cell::default(), mizzle_protocol::time::Instant::ZERO)
                .discard(DropReason::Cover);
        }
    }

    fn value(text: &[u8], name: &str) -> f64 {
        let text = String::from_utf8(text.to_vec()).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    const RECEIVED: &str = "mizzle_packets_received_total{from=\"relay\"}";

    #[test]
    fn one_packet_or_client_more_does_not_show() {
        let metrics = Metrics::new().unwrap();
        take(&metrics, 100);
        metrics.client_links.set(3);
        metrics.replay_tags.set(100);
        metrics.links_in.set(3);
        let shown = Shown::new(metrics.clone(), false);
        let before = shown.text();
        assert_eq!(value(&before, RECEIVED), 64.0);
        assert_eq!(value(&before, "mizzle_client_links"), 8.0);
        assert_eq!(value(&before, "mizzle_replay_tags"), 64.0);
        assert_eq!(value(&before, "mizzle_links_in"), 3.0);
        let status = shown.traffic();
        assert_eq!((status.received, status.clients), (64, 8));
        take(&metrics, 1_000);
        assert_eq!(shown.text(), before);
        assert_eq!(shown.traffic(), status);
        // Rounding alone hides one packet, too.
        assert_eq!(value(&coarse(&metrics.text()), RECEIVED), 1_088.0);
        take(&metrics, 1);
        assert_eq!(value(&coarse(&metrics.text()), RECEIVED), 1_088.0);
    }

    #[test]
    fn every_line_is_still_what_prometheus_reads() {
        let metrics = Metrics::new().unwrap();
        take(&metrics, 100);
        metrics.departure_error.observe(0.5);
        let (exact, coarse) = (metrics.text(), coarse(&metrics.text()));
        let names = |text: &[u8]| -> Vec<String> {
            let text = String::from_utf8(text.to_vec()).unwrap();
            text.lines().map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
        };
        let comments = |text: &[u8]| String::from_utf8(text.to_vec()).unwrap().matches('#').count();
        assert_eq!(names(&exact).len(), names(&coarse).len());
        assert_eq!(comments(&exact), comments(&coarse));
        assert_eq!(value(&coarse, "mizzle_departure_error_seconds_sum"), 0.0);
    }

    #[test]
    fn exact_counters_are_for_those_who_ask() {
        let metrics = Metrics::new().unwrap();
        let shown = Shown::new(metrics.clone(), true);
        take(&metrics, 1);
        assert_eq!(value(&shown.text(), RECEIVED), 1.0);
        take(&metrics, 1);
        assert_eq!(value(&shown.text(), RECEIVED), 2.0);
    }
}
