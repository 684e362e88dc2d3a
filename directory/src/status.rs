//! The status page: JSON for programs, and a table of it for people.

use crate::authority::Authority;
use crate::measure::Rounds;
use crate::refusals::Refusals;
use mizzle_link::http::Response;
use mizzle_protocol::time::Instant;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What the authority says of itself and of each relay.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Status {
    /// Number of the newest document.
    pub(crate) epoch: Option<u64>,
    /// Since when it holds, in seconds since 1970.
    pub(crate) valid_after: Option<u64>,
    /// Until when it may be used.
    pub(crate) valid_until: Option<u64>,
    /// Seconds until the next one.
    pub(crate) next_in: f64,
    /// The current key period.
    pub(crate) period: Option<u32>,
    /// How many relays the document lists.
    pub(crate) running: usize,
    /// How much was refused on the port since the start, by reason.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Packets per second that a measurement can show at most, if relays are measured.
    #[serde(default)]
    pub(crate) measured_up_to: Option<u32>,
    /// Every relay that is known.
    pub(crate) relays: Vec<Relay>,
}

/// A relay on the page.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Relay {
    /// Its identity, in hexadecimal.
    pub(crate) id: String,
    /// mix, entry or exit.
    pub(crate) role: String,
    /// Its layer, if it is a mix that has one.
    pub(crate) layer: Option<u8>,
    /// True if the newest document lists it.
    pub(crate) running: bool,
    /// Why it cannot be listed, as far as is known now.
    pub(crate) reason: Option<String>,
    /// What it runs.
    pub(crate) software: String,
    /// When it signed its descriptor, in seconds since 1970.
    pub(crate) published: u64,
    /// Packets per second that it announces.
    #[serde(default)]
    pub(crate) announced: u32,
    /// Packets per second that it was measured to carry.
    #[serde(default)]
    pub(crate) measured: Option<u32>,
}

/// The page at `/status`.
pub(crate) fn page(authority: &Authority, rounds: &Rounds, refusals: &Refusals, now: Instant) -> Response {
    let consensus = authority.document().map(|held| &held.consensus);
    let relays = authority.status(now).map(|relay| Relay {
        id: relay.id.to_hex(),
        role: relay.kind.label().into(),
        layer: relay.layer,
        running: relay.listed,
        reason: relay.reason,
        software: relay.software,
        published: relay.published.0,
        announced: relay.announced,
        measured: rounds.rate(relay.id),
    });
    let status = Status {
        epoch: consensus.map(|consensus| consensus.epoch.0),
        valid_after: consensus.map(|consensus| consensus.valid_after.0),
        valid_until: consensus.map(|consensus| consensus.valid_until.0),
        next_in: authority.next_document().since(now).as_secs_f64(),
        period: consensus.map(|consensus| consensus.period(now).0),
        running: consensus.map_or(0, |consensus| consensus.relays.len()),
        refused: refusals.by_reason(),
        measured_up_to: rounds.most(),
        relays: relays.collect(),
    };
    match serde_json::to_vec(&status) {
        Ok(json) => Response::document("application/json", json),
        Err(_) => Response::text(503, "the status cannot be written\n"),
    }
}

impl Status {
    /// The page as a table.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let number = |value: Option<u64>| value.map_or("none".into(), |value| value.to_string());
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "epoch {}, key period {}, next document in {:.0} s; {} of {} relays are running",
            number(self.epoch),
            number(self.period.map(u64::from)),
            self.next_in,
            self.running,
            self.relays.len()
        );
        let refused = self.refused.iter().filter(|(_, count)| **count > 0);
        let refused: Vec<_> = refused.map(|(reason, count)| format!("{reason} {count}")).collect();
        if !refused.is_empty() {
            let _ = writeln!(text, "refused since the start: {}", refused.join(", "));
        }
        let up_to = self.measured_up_to.map(|most| format!("relays are measured, up to {most} packets/s"));
        let _ = writeln!(text, "{}", up_to.as_deref().unwrap_or("relays are not measured"));
        for relay in &self.relays {
            let role = match relay.layer {
                Some(layer) => format!("{} {layer}", relay.role),
                None => relay.role.clone(),
            };
            let state = if relay.running { "running" } else { "not running" };
            let reason = relay.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            let measured =
                relay.measured.map_or("not measured yet".into(), |rate| format!("measured {rate}/s"));
            let _ = writeln!(
                text,
                "{:<16}  {role:<6} announces {}/s, {measured}; {state}{reason}",
                relay.id.get(..16).unwrap_or_default(),
                relay.announced
            );
        }
        text
    }
}
