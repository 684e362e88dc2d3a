//! Who is in the next document, in which layer, and why others are not: computed from votes alone, so that every
//! authority that has the same votes comes to the same.
//!
//! A relay runs if more than half of the votes say that it was reached, and an address counts if more than half
//! reached it there; fewer than a third can lie, so that neither can lies list a dead relay nor unlist a live one
//! where the others agree. A relay that does not run decides nothing for others. Nobody is in a family that has
//! not certified it; but a family's own relays can collide, as those of one subnet can: the one that was listed
//! with it first stays. (spec: DIR-3, DIR-5, DIR-6, DIR-8, DIR-12, DIR-13, COUNCIL-7)

use crate::carry::Standing;
use crate::document::Making;
use crate::layers::{Candidate, Dealing, Exclusion, Layers, Tie, deal};
use crate::pool::pool;
use crate::vote::Seen;
use mizzle_protocol::consensus::{Descriptor, ListedRelay, NotRunning, RelayKind, RelayPeriod};
use mizzle_protocol::geometry::LAYERS;
use mizzle_protocol::id::{Epoch, FamilyId, Period, RelayId};
use mizzle_protocol::mix::Role;
use mizzle_protocol::sphinx::PublicKey;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// A relay that is named in a vote.
#[derive(Debug)]
pub(crate) struct Known {
    descriptor: Arc<Descriptor>,
    /// Those of the descriptor, and older ones whose packets are still taken.
    keys: BTreeMap<Period, Keys>,
    said: Said,
    standing: Standing,
    conflict: Option<String>,
}

/// A relay's keys of one period, as a document names them.
#[derive(Clone, Copy, Debug)]
struct Keys {
    mix: PublicKey,
    service: Option<[u8; 32]>,
}

/// What the votes say of a relay, taken together.
#[derive(Debug, Default)]
struct Said {
    approved: bool,
    revoked: bool,
    /// Votes that have dialled it.
    dialled: usize,
    /// Votes that have reached it.
    reached: usize,
    reachable: Vec<SocketAddr>,
    failure: Option<String>,
    rate: Option<u32>,
}

impl Known {
    /// Where it is listed: of the addresses where it was reached, those in the IPv4 /16 and the IPv6 /32 that
    /// it names first. So no relay can be in the subnets of many. (spec: DIR-12)
    fn reached(&self) -> Vec<SocketAddr> {
        let reachable = &self.said.reachable;
        let nets = |address: &SocketAddr| Tie::all(None, &[*address]);
        let first = |is_ipv4| reachable.iter().find(|address| address.is_ipv4() == is_ipv4).map(nets);
        let (ipv4, ipv6) = (first(true), first(false));
        let listed = |address: &&SocketAddr| {
            Some(nets(address)) == if address.is_ipv4() { ipv4.clone() } else { ipv6.clone() }
        };
        reachable.iter().filter(listed).copied().collect()
    }

    /// The family that has certified it.
    fn family(&self) -> Option<FamilyId> {
        self.descriptor.family.map(|certificate| certificate.family)
    }

    /// What it has in common with others, as far as it is proven.
    fn ties(&self) -> Vec<Tie> {
        Tie::all(self.family(), &self.reached())
    }
}

/// Who is in the document, and what is left to the next.
pub(crate) struct Listing {
    pub(crate) relays: Vec<ListedRelay>,
    pub(crate) not_running: Vec<NotRunning>,
    pub(crate) standings: BTreeMap<RelayId, Standing>,
    pub(crate) layers: BTreeMap<Period, Layers>,
    pub(crate) unseen: u64,
    /// ρ, by what the mixes report. (spec: LOAD-2)
    pub(crate) pool: Option<u32>,
}

impl Making<'_> {
    /// Who runs, and who does not and why; each in order of the ids.
    pub(crate) fn list(&self, epoch: Epoch) -> Listing {
        let announced = self.schedule.announced(self.now);
        let periods: BTreeSet<Period> = self
            .schedule
            .live(self.now)
            .into_iter()
            .chain(announced)
            .filter(|&period| period <= announced[2])
            .collect();
        let (mut relays, unseen) = self.known();
        self.cap(&mut relays);
        let (layers, conflicts) = self.deal_layers(&relays, &periods);
        let gateways = self.conflicting_gateways(&relays);
        let current = self.schedule.period(self.now);
        for (id, known) in &mut relays {
            let why = gateways.get(id).copied().or_else(|| {
                conflicts.get(&(current, *id)).map(|exclusion| match exclusion {
                    Exclusion::OtherLayer => OTHER_LAYER,
                    Exclusion::Bridge => BRIDGE,
                    Exclusion::Width => WIDTH,
                })
            });
            known.conflict = known.conflict.take().or_else(|| why.map(str::to_owned));
        }

        let (mut listed, mut not_running) = (Vec::new(), Vec::new());
        for (&id, known) in &relays {
            let obstacle = self.obstacle(known).or_else(|| known.conflict.clone());
            if let Some(reason) = obstacle {
                not_running.push(NotRunning { id, reason: sentence(&reason) });
                continue;
            }
            let keys = known.keys.iter().filter(|(period, _)| periods.contains(period));
            let at = keys.filter(|(period, _)| !conflicts.contains_key(&(**period, id))).filter_map(
                |(&period, keys)| {
                    let role = match known.descriptor.kind {
                        RelayKind::Mix => Role::Mix(*layers.get(&period)?.get(&id)?),
                        RelayKind::Entry => Role::Entry,
                        RelayKind::Exit => Role::Exit,
                    };
                    Some(RelayPeriod { period, role, mix_key: keys.mix, service_key: keys.service })
                },
            );
            let measured = known.said.rate.unwrap_or(UNMEASURED_WEIGHT);
            listed.push(ListedRelay {
                id,
                addresses: known.reached(),
                periods: at.collect(),
                family: known.family(),
                weight: known.descriptor.announced_rate.min(measured),
                country: known.descriptor.country,
            });
        }
        for relay in &listed {
            if let Some(known) = relays.get_mut(&relay.id) {
                known.standing.stand(&Tie::all(relay.family, &relay.addresses), epoch);
            }
        }
        let carried = listed.iter().filter_map(|listed| match listed.at(current)?.role {
            Role::Mix(layer) => Some((layer, relays.get(&listed.id)?.descriptor.carried_rate)),
            Role::Entry | Role::Exit => None,
        });
        let pool = pool(carried, LAYERS, self.parameters.mean_delay);
        let standings = relays.into_iter().map(|(id, known)| (id, known.standing)).collect();
        Listing { relays: listed, not_running, standings, layers, unseen, pool }
    }

    /// All relays that a vote names with a descriptor that counts, each with its newest.
    fn known(&self) -> (BTreeMap<RelayId, Known>, u64) {
        let mut named: BTreeMap<RelayId, Vec<&Seen>> = BTreeMap::new();
        for vote in self.votes {
            for seen in &vote.vote.relays {
                named.entry(seen.relay).or_default().push(seen);
            }
        }
        let mut known = BTreeMap::new();
        let mut strangers = Vec::new();
        for (id, seen) in named {
            let newest = seen
                .iter()
                .filter_map(|seen| Some((seen.descriptor, (self.descriptor)(&seen.descriptor)?)))
                .filter(|(_, descriptor)| descriptor.relay == id && self.is_timely(descriptor))
                .max_by_key(|(digest, descriptor)| (descriptor.published, *digest));
            let Some((_, descriptor)) = newest else { continue };
            let keys = self.keys(&descriptor);
            // A relay whose last key is dead for a period has left.
            let last = keys.keys().next_back().copied().unwrap_or_default();
            if self.schedule.expiry(last) + self.parameters.key_period <= self.now {
                continue;
            }
            let standing = match self.carry.standings.get(&id) {
                Some(standing) if standing.kind == descriptor.kind => standing.clone(),
                Some(standing) => {
                    Standing { kind: descriptor.kind, since: BTreeMap::new(), ..standing.clone() }
                }
                None => {
                    strangers.push(id);
                    let (kind, since) = (descriptor.kind, BTreeMap::new());
                    Standing { seen: u64::MAX, kind, since, families: Vec::new() }
                }
            };
            let said = self.said(&descriptor, &seen);
            let mut relay = Known { descriptor, keys, said, standing, conflict: None };
            relay.family().into_iter().for_each(|family| relay.standing.certified_by(family));
            known.insert(id, relay);
        }
        // Who comes in one epoch, comes in the order of the lots: no identity can be ground for a place.
        strangers.sort_by_key(|id| self.beacon.rank(&id.0));
        let mut unseen = self.carry.unseen;
        for id in strangers {
            if let Some(known) = known.get_mut(&id) {
                known.standing.seen = unseen;
                unseen = unseen.saturating_add(1);
            }
        }
        (known, unseen)
    }

    fn is_timely(&self, descriptor: &Descriptor) -> bool {
        let published = descriptor.published.instant();
        published <= self.now + self.schedule.grace()
            && published + self.parameters.key_period * 3 >= self.now
    }

    /// The keys of a descriptor, and older ones from the last document whose packets are still taken.
    fn keys(&self, descriptor: &Descriptor) -> BTreeMap<Period, Keys> {
        let first = descriptor.keys.first().map(|keys| keys.period).unwrap_or_default();
        let listed = self.previous.and_then(|(_, consensus)| consensus.relay(descriptor.relay));
        let older = listed
            .filter(|listed| listed.kind() == Some(descriptor.kind))
            .into_iter()
            .flat_map(|listed| &listed.periods)
            .filter(|at| at.period < first && self.schedule.is_live(at.period, self.now))
            .filter(|at| at.service_key.is_none_or(|digest| self.service_keys.contains(&digest)))
            .map(|at| (at.period, Keys { mix: at.mix_key, service: at.service_key }));
        let newer = descriptor.keys.iter().map(|keys| {
            let service = keys.service.as_ref().map(|key| key.digest());
            (keys.period, Keys { mix: keys.mix, service })
        });
        older.chain(newer).collect()
    }

    /// What the votes say of it, taken together.
    fn said(&self, descriptor: &Descriptor, seen: &[&Seen]) -> Said {
        let honest = self.seats.faulty() + 1;
        let count = |what: fn(&Seen) -> bool| seen.iter().filter(|seen| what(seen)).count();
        let dialled: Vec<_> = seen.iter().filter_map(|seen| seen.dialled.as_ref()).collect();
        let reachable = descriptor.addresses.iter().copied().filter(|address| {
            let at = dialled.iter().filter(|dialled| dialled.reachable.contains(address)).count();
            self.is_most(at)
        });
        let mut rates: Vec<_> = dialled.iter().filter_map(|dialled| dialled.rate).collect();
        rates.sort_unstable();
        Said {
            approved: count(|seen| seen.approved) >= honest,
            revoked: count(|seen| seen.revoked) >= honest,
            dialled: dialled.len(),
            reached: dialled.iter().filter(|dialled| !dialled.reachable.is_empty()).count(),
            reachable: reachable.collect(),
            failure: most_frequent(dialled.iter().filter_map(|dialled| dialled.failure.as_deref())),
            // The lower of two in the middle: a median that fewer than half cannot raise.
            rate: rates.get(rates.len().saturating_sub(1) / 2).copied(),
        }
    }

    fn is_most(&self, count: usize) -> bool {
        count * 2 > self.votes.len()
    }

    /// Why a relay cannot be listed now, apart from its layer.
    fn obstacle(&self, known: &Known) -> Option<String> {
        let Known { descriptor, said, .. } = known;
        if !said.approved {
            return Some(NOT_APPROVED.into());
        }
        // (spec: DIR-17)
        if said.revoked {
            return Some(REVOKED.into());
        }
        if let Some(missing) = self.required.iter().find(|number| !descriptor.protocols.contains(number)) {
            return Some(format!("this network requires {missing}, which it does not speak: upgrade it"));
        }
        // (spec: DIR-15)
        if descriptor.announced_rate == 0 {
            return Some("it announces that it takes no packets: it rests, or leaves".into());
        }
        // It was in force when it came. (spec: DIR-16)
        if let Some(certificate) = &descriptor.family
            && let Err(error) = certificate.check_time(self.now, self.schedule.grace())
        {
            return Some(error.to_string());
        }
        if !known.keys.contains_key(&self.schedule.period(self.now)) {
            return Some("announces no mix key for the current period".into());
        }
        if said.dialled == 0 {
            return Some("it has not been dialled yet".into());
        }
        if !said.reachable.is_empty() {
            return None;
        }
        let failure = said.failure.clone().unwrap_or_else(|| "it announces no address".into());
        match (self.votes.len(), said.reached) {
            (1, _) => Some(failure),
            (votes, reached) => Some(format!("reached by {reached} of {votes} authorities: {failure}")),
        }
    }

    /// Those that run, of the kinds wanted.
    fn runners<'a>(
        &self,
        relays: &'a BTreeMap<RelayId, Known>,
        wanted: impl Fn(RelayKind) -> bool,
    ) -> impl Iterator<Item = &'a Known> {
        relays.values().filter(move |known| {
            wanted(known.descriptor.kind) && known.conflict.is_none() && self.obstacle(known).is_none()
        })
    }

    /// Leaves out what is more than one family or subnet may have; who came first stays. (spec: DIR-21)
    fn cap(&self, relays: &mut BTreeMap<RelayId, Known>) {
        let mut running: Vec<_> = self
            .runners(relays, |_| true)
            .map(|known| {
                let ties = known.ties();
                (known.standing.rank(&ties), known.descriptor.relay, ties)
            })
            .collect();
        running.sort_by_key(|(rank, ..)| *rank);
        let mut counts: BTreeMap<Tie, u32> = BTreeMap::new();
        for (_, id, ties) in running {
            let full = ties.iter().find(|tie| counts.get(tie).is_some_and(|&count| count >= self.cap));
            if let Some(tie) = full {
                let what = match tie {
                    Tie::Family(_) => "family",
                    Tie::Net4(_) => "IPv4 subnet (/16)",
                    Tie::Net6(_) => "IPv6 subnet (/32)",
                };
                if let Some(known) = relays.get_mut(&id) {
                    known.conflict = Some(format!(
                        "its {what} has {} relays in the network already, and may not have more",
                        self.cap
                    ));
                }
            } else {
                ties.into_iter().for_each(|tie| *counts.entry(tie).or_default() += 1);
            }
        }
    }

    /// Deals what is not dealt yet; says who cannot be listed in which period.
    fn deal_layers(
        &self,
        relays: &BTreeMap<RelayId, Known>,
        periods: &BTreeSet<Period>,
    ) -> (BTreeMap<Period, Layers>, BTreeMap<(Period, RelayId), Exclusion>) {
        let mut candidates: Vec<_> = self
            .runners(relays, |kind| kind == RelayKind::Mix)
            .map(|known| {
                let ties = known.ties();
                (known.standing.rank(&ties), Candidate { id: known.descriptor.relay, ties })
            })
            .collect();
        candidates.sort_by_key(|(rank, _)| *rank);
        let candidates: Vec<_> = candidates.into_iter().map(|(_, candidate)| candidate).collect();
        let mut layers = self.carry.layers.clone();
        layers.retain(|period, _| periods.contains(period));
        let mut conflicts = BTreeMap::new();
        let width = self.width(relays);
        for &period in periods {
            let before = period.0.checked_sub(1).and_then(|before| layers.get(&Period(before))).cloned();
            // A layer once dealt stays; but nobody has one before a mix has run.
            if !layers.contains_key(&period) && candidates.is_empty() {
                continue;
            }
            let dealt = layers.entry(period).or_default();
            let dealing = Dealing { before: before.as_ref(), beacon: Some(self.beacon), width };
            let excluded = deal(&candidates, dealt, dealing);
            conflicts.extend(excluded.into_iter().map(|(relay, why)| ((period, relay), why)));
        }
        (layers, conflicts)
    }

    /// How many mixes a layer needs for what the network carries: each is to hold twenty packets in the mean, since
    /// packets hide among those in their mix, and more mixes hide worse. (spec: DIR-22)
    fn width(&self, relays: &BTreeMap<RelayId, Known>) -> Option<usize> {
        let period = self.schedule.period(self.now);
        let dealt = self.carry.layers.get(&period)?;
        let mut sums: BTreeMap<u8, u64> = BTreeMap::new();
        for known in self.runners(relays, |kind| kind == RelayKind::Mix) {
            if let Some(layer) = dealt.get(&known.descriptor.relay) {
                let carried = u64::from(known.descriptor.carried_rate?);
                *sums.entry(*layer).or_default() += carried;
            }
        }
        let least = u128::from(*sums.values().min()?);
        let held = least * self.parameters.mean_delay.as_micros() / 1_000_000;
        Some(usize::try_from(held / HELD).unwrap_or(usize::MAX).max(LEAST_WIDTH))
    }

    /// Entries and exits of a family that has the other: who was listed in it first says which it has.
    fn conflicting_gateways(&self, relays: &BTreeMap<RelayId, Known>) -> BTreeMap<RelayId, &'static str> {
        let mut members: Vec<_> = self
            .runners(relays, |kind| kind != RelayKind::Mix)
            .filter_map(|known| {
                let family = known.family()?;
                Some((known.standing.rank(&[Tie::Family(family)]), family, &known.descriptor))
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

/// Of equally frequent ones the first in order.
fn most_frequent<'a>(sentences: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    sentences.for_each(|sentence| *counts.entry(sentence).or_default() += 1);
    let most = counts.values().copied().max()?;
    counts.into_iter().find(|(_, count)| *count == most).map(|(sentence, _)| sentence.to_owned())
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
/// Packets that a mix is to hold in the mean.
const HELD: u128 = 20;
/// Fewer mixes are no layer.
const LEAST_WIDTH: usize = 3;

const NOT_APPROVED: &str =
    "it is not approved by enough authorities: ask their operators to approve its identity";
const REVOKED: &str = "its family has revoked it: make a new identity, and a certificate for that";
const OTHER_LAYER: &str =
    "its family or subnet is in another layer: it is listed when layers are dealt again";
const BRIDGE: &str = "its family and subnets belong to groups of other mixes in different layers, which it must not \
                      tie together: announce an address in another subnet, or leave that family";
const WIDTH: &str = "it stands by: the layers have as many mixes as the network's traffic fills";
const HAS_ENTRIES: &str = "its family has entries: a family may have entries or exits, not both";
const HAS_EXITS: &str = "its family has exits: a family may have entries or exits, not both";
