//! Who is in the next document, in which layer, and why others are not. (spec: DIR-3, DIR-5, DIR-6, DIR-8)

use super::Authority;
use crate::layers::{Candidate, Tie, deal};
use mizzle_protocol::consensus::{ListedRelay, NotRunning, RelayKind, RelayPeriod};
use mizzle_protocol::id::{Period, RelayId};
use mizzle_protocol::mix::Role;
use mizzle_protocol::time::Instant;
use std::collections::BTreeSet;

impl Authority {
    /// Who runs, and who does not and why; each in order of the ids.
    pub(super) fn list(&mut self, now: Instant) -> (Vec<ListedRelay>, Vec<NotRunning>) {
        let schedule = self.schedule();
        let current = schedule.period(now);
        let announced = schedule.announced(now);
        let periods: BTreeSet<Period> = schedule
            .live(now)
            .into_iter()
            .chain(announced)
            .filter(|&period| period <= announced[2])
            .collect();
        // A relay whose last key is dead for a period has left.
        self.relays.retain(|_, known| {
            let last = known.keys.keys().next_back().copied().unwrap_or_default();
            known.probing || schedule.expiry(last) + self.settings.parameters.key_period > now
        });
        self.layers.retain(|period, _| periods.contains(period));
        let conflicts = self.deal_layers(current, &periods);
        let families_of_entries: BTreeSet<_> = self
            .relays
            .values()
            .filter(|known| known.descriptor.kind == RelayKind::Entry)
            .filter_map(|known| known.descriptor.family)
            .collect();

        for known in self.relays.values_mut() {
            let descriptor = &known.descriptor;
            let family = descriptor.family.filter(|_| descriptor.kind == RelayKind::Exit);
            known.conflict = if family.is_some_and(|family| families_of_entries.contains(&family)) {
                Some("its family has entries: a family may have entries or exits, not both")
            } else if conflicts.contains(&(current, descriptor.relay)) {
                Some("its family or subnet is in another layer: it is listed when layers are dealt again")
            } else {
                None
            };
        }

        let (mut relays, mut not_running) = (Vec::new(), Vec::new());
        for (&id, known) in &self.relays {
            let descriptor = &known.descriptor;
            let obstacle = self.obstacle(known, current).or_else(|| known.conflict.map(str::to_owned));
            if let Some(reason) = obstacle {
                not_running.push(NotRunning { id, reason: sentence(&reason) });
                continue;
            }
            let keys = known.keys.values().filter(|keys| periods.contains(&keys.period));
            let at = keys.filter(|keys| !conflicts.contains(&(keys.period, id))).filter_map(|keys| {
                let role = match descriptor.kind {
                    RelayKind::Mix => Role::Mix(*self.layers.get(&keys.period)?.get(&id)?),
                    RelayKind::Entry => Role::Entry,
                    RelayKind::Exit => Role::Exit,
                };
                let service_key = keys.service.as_ref().map(|key| key.digest());
                Some(RelayPeriod { period: keys.period, role, mix_key: keys.mix, service_key })
            });
            relays.push(ListedRelay {
                id,
                addresses: known.probe.as_ref().map(|probe| probe.reachable.clone()).unwrap_or_default(),
                periods: at.collect(),
                family: descriptor.family,
                weight: descriptor.announced_rate.min(UNMEASURED_WEIGHT),
            });
        }
        (relays, not_running)
    }

    /// Deals what is not dealt yet; returns who cannot be listed in which period.
    fn deal_layers(&mut self, current: Period, periods: &BTreeSet<Period>) -> BTreeSet<(Period, RelayId)> {
        let mixes = self.relays.values().filter(|known| known.descriptor.kind == RelayKind::Mix);
        let candidates: Vec<_> = mixes
            .map(|known| Candidate {
                id: known.descriptor.relay,
                ties: Tie::all(known.descriptor.family, &known.descriptor.addresses),
                running: self.obstacle(known, current).is_none(),
            })
            .collect();
        let mut conflicts = BTreeSet::new();
        for &period in periods {
            let before = period.0.checked_sub(1).and_then(|before| self.layers.get(&Period(before))).cloned();
            // A layer once dealt stays; but nobody has one before a mix has run.
            if !self.layers.contains_key(&period) && !candidates.iter().any(|mix| mix.running) {
                continue;
            }
            let layers = self.layers.entry(period).or_default();
            let excluded = deal(&candidates, layers, before.as_ref());
            conflicts.extend(excluded.into_iter().map(|relay| (period, relay)));
        }
        conflicts
    }
}

/// A reason as a document can carry it.
fn sentence(reason: &str) -> String {
    let mut text: String = reason.chars().filter(|character| !character.is_control()).collect();
    while text.len() > 200 {
        text.pop();
    }
    text
}

/// Packets per second that a relay is believed to carry before anyone has measured it.
const UNMEASURED_WEIGHT: u32 = 1_000;
