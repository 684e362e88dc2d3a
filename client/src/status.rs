//! Where a client stands, for people and programs.

use crate::country::{ExitChoice, ExitsIn};
use crate::skew::ClockSkew;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A client's state at one moment. Times are seconds since the Unix epoch; counters begin at the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// True if streams can be opened now.
    pub connected: bool,
    /// Why not, in one sentence.
    pub reason: Option<String>,
    /// The network's name.
    pub network: String,
    /// The entry in use, in hexadecimal.
    pub entry: Option<String>,
    /// Since when that entry has been kept.
    pub entry_since: Option<u64>,
    /// Number of the consensus in use.
    pub consensus_epoch: Option<u64>,
    /// Until when it may be used.
    pub consensus_valid_until: Option<u64>,
    /// How far this computer's clock seems to be off, if it does.
    #[serde(default)]
    pub clock: Option<ClockSkew>,
    /// Documents that were fetched and not taken, by their faults ([`DocumentFault::label`](crate::DocumentFault::label)).
    #[serde(default)]
    pub documents_refused: BTreeMap<String, u64>,
    /// Running mixes, entries and exits in it.
    pub relays: usize,
    /// The exits in it, by the country that they declare.
    #[serde(default)]
    pub exits: Vec<ExitsIn>,
    /// What it costs to use exits of one country only, if the client does.
    #[serde(default)]
    pub exit_choice: Option<ExitChoice>,
    /// How much cover this client pays for: `strong`, `balanced` or `fast`.
    pub level: String,
    /// Its step, counted from 0, the slowest.
    pub step: u8,
    /// The step that its load asks for, if the entry has not granted it yet.
    pub step_wanted: Option<u8>,
    /// Rises that are still allowed within the hour; `None`: without limit.
    pub rises_left: Option<usize>,
    /// What the cover costs outward.
    pub up: Rate,
    /// What the cover costs homeward.
    pub down: Rate,
    /// How well all this hides.
    #[serde(default)]
    pub anonymity: Anonymity,
    /// Loops that were sent.
    pub loops_sent: u64,
    /// Loops that came back.
    pub loops_returned: u64,
    /// When the last one came back.
    pub last_loop_returned: Option<u64>,
    /// How long the last ones took, from their slots until they were here, in microseconds; the oldest first. Empty unless the
    /// configuration asks for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loop_times: Vec<u64>,
    /// Drops that were sent.
    pub drops_sent: u64,
    /// Packets of sessions that were sent.
    pub payload_sent: u64,
    /// Sessions that are open.
    pub sessions: u64,
    /// Streams that are open or being opened.
    pub streams: u64,
    /// Sessions and streams of each isolation, under labels drawn at random; in no order that means anything.
    #[serde(default)]
    pub sharing: Vec<Sharing>,
    /// Bytes that cells took on the line outward, TLS included.
    #[serde(default)]
    pub bytes_out: u64,
    /// The same homeward.
    #[serde(default)]
    pub bytes_in: u64,
    /// Cells that went out on links.
    pub cells_out: u64,
    /// Cells that came in.
    pub cells_in: u64,
    /// Of the cells that went out, those with a packet.
    pub packets_out: u64,
    /// Of the cells that came in, those with a packet.
    pub packets_in: u64,
    /// Of these, packets that the protocol took.
    pub packets_taken: u64,
    /// Packets that found the engine's line full.
    pub packets_dropped: u64,
    /// Packets that the protocol refused.
    pub packets_refused: u64,
    /// Session packets that were declared lost, and sent again.
    pub session_packets_lost: u64,
    /// Replies that came.
    pub replies: u64,
    /// Of these, those that carried nothing for an application.
    #[serde(default)]
    pub replies_empty: u64,
    /// Replies that were declared lost.
    pub replies_lost: u64,
    /// Replies that came after that.
    pub replies_late: u64,
    /// Slots that found no finished packet: the machine stood still.
    pub slots_empty: u64,
    /// Slots that passed because the link did not take another cell.
    pub slots_stalled: u64,
    /// Packets that could not be built.
    pub builds_failed: u64,
    /// Datagrams that came home and found nobody who read them, or whom nobody had asked.
    pub datagrams_dropped: u64,
    /// Times that a link to an entry was set up.
    pub connections: u64,
}

/// What one isolation has open: an application's user and password, or a listener. Which one is not told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sharing {
    /// Drawn at random when the isolation is first seen, and again when it comes back later.
    pub label: String,
    /// Sessions: each with an exit of its own.
    pub sessions: u64,
    /// Streams in them.
    pub streams: u64,
}

/// What a network hides; it depends on its relays and on how many use it. `None`: not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Anonymity {
    /// ρ, the mean number of packets in a mix, at the most.
    pub pool: Option<f64>,
}

/// A constant rate and its price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Cells a second.
    pub cells_per_second: f64,
    /// Kilobits a second on the line, TLS included.
    pub kbit_per_second: f64,
    /// Gigabytes (10⁹) a day.
    pub gigabytes_per_day: f64,
}

impl Rate {
    /// The price of `cells_per_second` cells of `cell` bytes.
    pub(crate) fn new(cells_per_second: f64, cell: usize) -> Self {
        let bytes_per_second = cells_per_second * record_size(cell) as f64;
        Self {
            cells_per_second,
            kbit_per_second: bytes_per_second * 8.0 / 1e3,
            gigabytes_per_day: bytes_per_second * 86_400.0 / 1e9,
        }
    }
}

/// Bytes of the TLS record that carries a cell of `cell` bytes.
pub(crate) fn record_size(cell: usize) -> usize {
    cell + RECORD_OVERHEAD
}

/// What a TLS 1.3 record adds: header 5, content type 1, tag 16.
const RECORD_OVERHEAD: usize = 22;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_price_is_that_of_the_design() {
        // 4.46 KB a packet: 50 a second are 19.3 GB a day.
        let rate = Rate::new(50.0, 2 + 32 + 348 + 4096);
        assert!((rate.gigabytes_per_day - 19.4).abs() < 0.2, "{rate:?}");
        assert!((rate.kbit_per_second - 1_800.0).abs() < 10.0, "{rate:?}");
    }
}
