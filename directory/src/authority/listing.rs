//! Who is in the next document, in which layer, and why others are not.
//!
//! A relay that does not run decides nothing for others, and neither does an address where it was not
//! reached. Nobody is in a family that has not certified it; but a family's own relays can collide, as those of
//! one subnet can: the one that was listed with it first stays. (spec: DIR-3, DIR-5, DIR-6, DIR-8, DIR-12, DIR-13)

use super::Authority;
use super::known::Known;
use crate::measure::weight;
use mizzle_council::{Candidate, Dealing, Exclusion, Tie, deal, pool};
use mizzle_protocol::consensus::{ListedRelay, NotRunning, RelayKind, RelayPeriod};
use mizzle_protocol::geometry::LAYERS;
use mizzle_protocol::id::{Epoch, Period, RelayId};
use mizzle_protocol::mix::Role;
use mizzle_protocol::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

impl Authority {
    /// Who runs, and who does not and why; each in order of the ids.
    pub(super) fn list(&mut self, now: Instant, epoch: Epoch) -> (Vec<ListedRelay>, Vec<NotRunning>) {
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
        let conflicts = self.deal_layers(now, &periods);
        let gateways = self.conflicting_gateways(now);
        for (id, known) in &mut self.relays {
            known.conflict = gateways.get(id).copied().or_else(|| {
                conflicts.get(&(current, *id)).map(|exclusion| match exclusion {
                    Exclusion::OtherLayer => OTHER_LAYER,
                    // Nothing bounds the width here.
                    Exclusion::Bridge | Exclusion::Width => BRIDGE,
                })
            });
        }

        let (mut relays, mut not_running) = (Vec::new(), Vec::new());
        for (&id, known) in &self.relays {
            let descriptor = &known.descriptor;
            let obstacle = self.obstacle(known, now).or_else(|| known.conflict.map(str::to_owned));
            if let Some(reason) = obstacle {
                not_running.push(NotRunning { id, reason: sentence(&reason) });
                continue;
            }
            let keys = known.keys.values().filter(|keys| periods.contains(&keys.period));
            let at = keys.filter(|keys| !conflicts.contains_key(&(keys.period, id))).filter_map(|keys| {
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
                addresses: known.reached(),
                periods: at.collect(),
                family: known.family(),
                weight: weight(descriptor.announced_rate, known.probe.as_ref().and_then(|probe| probe.rate)),
                country: descriptor.country,
            });
        }
        for listed in &relays {
            if let Some(known) = self.relays.get_mut(&listed.id) {
                known.stand(&Tie::all(listed.family, &listed.addresses), epoch);
            }
        }
        (relays, not_running)
    }

    /// ρ, by what the mixes among these relays report. (spec: LOAD-2)
    pub(super) fn pool(&self, relays: &[ListedRelay], mean_delay: Duration, now: Instant) -> Option<u32> {
        let period = self.schedule().period(now);
        let mixes = relays.iter().filter_map(|listed| match listed.at(period)?.role {
            Role::Mix(layer) => {
                let known = self.relays.get(&listed.id);
                Some((layer, known.and_then(|known| known.descriptor.carried_rate)))
            }
            Role::Entry | Role::Exit => None,
        });
        pool(mixes, LAYERS, mean_delay)
    }

    /// Those that run, of the kinds wanted.
    fn runners(&self, now: Instant, wanted: impl Fn(RelayKind) -> bool) -> impl Iterator<Item = &Known> {
        self.relays
            .values()
            .filter(move |known| wanted(known.descriptor.kind) && self.obstacle(known, now).is_none())
    }

    /// Deals what is not dealt yet; returns who cannot be listed in which period.
    fn deal_layers(
        &mut self,
        now: Instant,
        periods: &BTreeSet<Period>,
    ) -> BTreeMap<(Period, RelayId), Exclusion> {
        let mut candidates: Vec<_> = self
            .runners(now, |kind| kind == RelayKind::Mix)
            .map(|known| {
                let ties = known.ties();
                (known.rank(&ties), Candidate { id: known.descriptor.relay, ties })
            })
            .collect();
        candidates.sort_by_key(|(rank, _)| *rank);
        let candidates: Vec<_> = candidates.into_iter().map(|(_, candidate)| candidate).collect();
        let mut conflicts = BTreeMap::new();
        for &period in periods {
            let before = period.0.checked_sub(1).and_then(|before| self.layers.get(&Period(before))).cloned();
            // A layer once dealt stays; but nobody has one before a mix has run.
            if !self.layers.contains_key(&period) && candidates.is_empty() {
                continue;
            }
            let layers = self.layers.entry(period).or_default();
            let excluded =
                deal(&candidates, layers, Dealing { before: before.as_ref(), ..Dealing::default() });
            conflicts.extend(excluded.into_iter().map(|(relay, why)| ((period, relay), why)));
        }
        conflicts
    }

    /// Entries and exits of a family that has the other: who was listed in it first says which it has.
    fn conflicting_gateways(&self, now: Instant) -> BTreeMap<RelayId, &'static str> {
        let mut members: Vec<_> = self
            .runners(now, |kind| kind != RelayKind::Mix)
            .filter_map(|known| {
                let family = known.family()?;
                Some((known.rank(&[Tie::Family(family)]), family, &known.descriptor))
            })
            .collect();
        members.sort_by_key(|(rank, ..)| *rank);
        let mut kinds = BTreeMap::new();
        let conflicting = members.into_iter().filter_map(|(_, family, descriptor)| {
            match (*kinds.entry(family).or_insert(descriptor.kind), descriptor.kind) {
                (RelayKind::Entry, RelayKind::Exit) => Some((descriptor.relay, HAS_ENTRIES)),
                (RelayKind::Exit, RelayKind::Entry) => Some((descriptor.relay, HAS_EXITS)),
                _ => None,
            }
        });
        conflicting.collect()
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

const OTHER_LAYER: &str =
    "its family or subnet is in another layer: it is listed when layers are dealt again";
const BRIDGE: &str = "its family and subnets belong to groups of other mixes in different layers, which it must not \
                      tie together: announce an address in another subnet, or leave that family";
const HAS_ENTRIES: &str = "its family has entries: a family may have entries or exits, not both";
const HAS_EXITS: &str = "its family has exits: a family may have entries or exits, not both";
