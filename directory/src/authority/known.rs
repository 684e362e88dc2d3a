//! What the authority knows of one relay.

use mizzle_protocol::consensus::{Descriptor, ListedRelay, PeriodKeys, Schedule, ServiceKeys};
use mizzle_protocol::id::Period;
use mizzle_protocol::time::Instant;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// How a relay answered: the addresses where it proved its identity, and why others failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProbeOutcome {
    /// Where it can be reached.
    pub(crate) reachable: Vec<SocketAddr>,
    /// A sentence for its operator, if somewhere it cannot.
    pub(crate) failure: Option<String>,
}

/// A relay with a descriptor.
#[derive(Debug)]
pub(super) struct Known {
    /// What it says of itself.
    pub(super) descriptor: Descriptor,
    /// Those of the descriptor, and older ones whose packets are still taken.
    pub(super) keys: BTreeMap<Period, PeriodKeys>,
    /// How it answered the last time.
    pub(super) probe: Option<ProbeOutcome>,
    /// It is being dialled.
    pub(super) probing: bool,
    /// The addresses have changed since it was last dialled.
    pub(super) moved: bool,
    /// Why it cannot be listed although it runs.
    pub(super) conflict: Option<&'static str>,
}

impl Known {
    /// A relay that has just come.
    pub(super) fn new(descriptor: Descriptor) -> Self {
        let keys = descriptor.keys.iter().map(|keys| (keys.period, keys.clone())).collect();
        Self { descriptor, keys, probe: None, probing: false, moved: false, conflict: None }
    }

    /// Takes a newer descriptor; keys that it does not replace stay while their packets are taken.
    pub(super) fn replace(&mut self, descriptor: Descriptor, schedule: &Schedule, now: Instant) {
        let first = descriptor.keys.first().map(|keys| keys.period).unwrap_or_default();
        if self.descriptor.kind != descriptor.kind {
            self.keys.clear();
        }
        self.keys.retain(|&period, _| period < first && schedule.is_live(period, now));
        self.keys.extend(descriptor.keys.iter().map(|keys| (keys.period, keys.clone())));
        if self.descriptor.addresses != descriptor.addresses {
            self.probe = None;
            // An answer that is still out is for the old addresses.
            self.moved = self.probing;
        }
        self.descriptor = descriptor;
    }

    /// Older keys, from the last document.
    pub(super) fn remember(&mut self, listed: &ListedRelay, service_keys: &ServiceKeys) {
        if listed.kind() != Some(self.descriptor.kind) {
            return;
        }
        for at in &listed.periods {
            let service = at.service_key.and_then(|digest| service_keys.get(&digest));
            if at.service_key.is_some() == service.is_some() {
                let service = service.map(|key| key.as_ref().clone());
                let keys = PeriodKeys { period: at.period, mix: at.mix_key, service };
                self.keys.entry(at.period).or_insert(keys);
            }
        }
    }
}
