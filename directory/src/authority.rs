//! The authority's decisions, without sockets, files or a clock: descriptors and answers of relays come in,
//! requests to dial them and documents go out.
//!
//! Documents come by the clock, one an epoch; every relay is dialled shortly before. Until as many relays run
//! as the operator expects, a document is also made the moment they do, so that a new network need not wait
//! for its first epoch to end. (spec: DIR-1 to DIR-8, DIR-12, DIR-13,
//! DIR-16, DIR-17)

mod known;
mod listing;
mod revoked;

pub(crate) use known::{ProbeOutcome, Standing};

use known::Known;
use mizzle_council::{Layers, Tie};
use mizzle_protocol::consensus::{
    Consensus, Descriptor, MAX_EXITS, MAX_RELAYS, ProtocolNumber, RelayKind, Schedule, ServiceKeys, Signed,
};
use mizzle_protocol::id::{Epoch, Period, RelayId};
use mizzle_protocol::path::Parameters;
use mizzle_protocol::time::{Instant, UnixTime};
use mizzle_protocol::{Error, ErrorKind, Result};
use revoked::REVOKED;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// What the operator decides.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The network's name.
    pub(crate) network: String,
    /// What its members do alike.
    pub(crate) parameters: Parameters,
    /// Which relays may join.
    pub(crate) approval: Approval,
    /// So many relays make the network complete.
    pub(crate) expected: usize,
    /// How long after the first descriptor an incomplete network is published anyway.
    pub(crate) bootstrap: Duration,
}

/// Which relays may join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Approval {
    /// All: for local networks.
    All,
    /// These.
    Only(BTreeSet<RelayId>),
}

/// A document and its envelope.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// The envelope.
    pub(crate) signed: Signed,
    /// What is in it.
    pub(crate) consensus: Consensus,
}

/// What an earlier process left.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// The newest document.
    pub(crate) document: Option<Held>,
    /// The service keys beside it.
    pub(crate) service_keys: ServiceKeys,
    /// The relays' descriptors.
    pub(crate) descriptors: Vec<Descriptor>,
    /// The layers of its periods.
    pub(crate) layers: BTreeMap<Period, Layers>,
    /// Since when relays stand where they stand.
    pub(crate) standings: BTreeMap<RelayId, Standing>,
    /// Relays that their families have ended.
    pub(crate) revoked: BTreeSet<RelayId>,
}

/// What the driver must do.
#[derive(Debug)]
pub(crate) enum Output {
    /// Dial this relay at each address, and say how it went by [`Authority::handle_probe`].
    Probe {
        /// Whom to expect there.
        relay: RelayId,
        /// All that it announces.
        addresses: Vec<SocketAddr>,
    },
    /// Sign this document, store it, and only then show it to anyone.
    Publish(Box<Publication>),
}

/// A document to sign, and what belongs to it.
#[derive(Debug)]
pub(crate) struct Publication {
    /// The envelope, without signatures.
    pub(crate) signed: Signed,
    /// What is in it.
    pub(crate) consensus: Consensus,
    /// The keys that it names.
    pub(crate) service_keys: ServiceKeys,
    /// The layers of its periods, also of mixes that do not run now.
    pub(crate) layers: BTreeMap<Period, Layers>,
    /// Since when relays stand where they stand, also of those that do not run now.
    pub(crate) standings: BTreeMap<RelayId, Standing>,
}

/// A relay as the status page shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelayStatus {
    /// Its identity.
    pub(crate) id: RelayId,
    /// What it is made for.
    pub(crate) kind: RelayKind,
    /// Its layer in the current period, if it is a mix that has one.
    pub(crate) layer: Option<u8>,
    /// What it runs.
    pub(crate) software: String,
    /// When it signed its descriptor.
    pub(crate) published: UnixTime,
    /// True if the newest document lists it.
    pub(crate) listed: bool,
    /// Why it cannot be listed, as far as is known now.
    pub(crate) reason: Option<String>,
    /// Packets per second that it says it can carry.
    pub(crate) announced: u32,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Authority {
    settings: Settings,
    origin: UnixTime,
    relays: BTreeMap<RelayId, Known>,
    revoked: BTreeSet<RelayId>,
    /// Place in the order for the next relay that was never seen.
    unseen: u64,
    layers: BTreeMap<Period, Layers>,
    document: Option<Held>,
    next: Next,
    round: Option<Instant>,
    /// When an incomplete network is published anyway.
    deadline: Option<Instant>,
    /// True once the network has been published complete, or was given up waiting for.
    settled: bool,
    outputs: VecDeque<Output>,
}

/// When the next document is made.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// When every relay has been dialled, and no later than this: at the start.
    Probed(Instant),
    /// By the clock.
    At(Instant),
}

impl Authority {
    /// Goes on where an earlier process stopped, or founds a network.
    ///
    /// [`ErrorKind::Misuse`] if the settings contradict the network's past.
    pub(crate) fn new(settings: Settings, now: Instant, restored: Restored) -> Result<Self> {
        settings.parameters.check()?;
        let Restored { document, service_keys, descriptors, layers, mut standings, revoked } = restored;
        if let Some(held) = &document
            && held.consensus.parameters.key_period != settings.parameters.key_period
        {
            let message = format!(
                "the key period of a network cannot change: it is {:?}, the configuration says {:?}",
                held.consensus.parameters.key_period, settings.parameters.key_period
            );
            return Err(Error::new(ErrorKind::Misuse, message));
        }
        let held = document.as_ref().map(|held| &held.consensus);
        let origin = held.map_or(now.unix(), |consensus| consensus.origin);
        let live = held.filter(|consensus| consensus.is_live(now));
        let settled = live.is_some_and(|consensus| consensus.relays.len() >= settings.expected);
        let next = match live.map(|consensus| consensus.valid_after.instant() + consensus.parameters.epoch) {
            Some(due) if due > now => Next::At(due),
            _ => Next::Probed(now + PROBE_TIME),
        };
        let mut relays = BTreeMap::new();
        let mut unseen =
            standings.values().map(|standing| standing.seen.saturating_add(1)).max().unwrap_or(0);
        for descriptor in descriptors {
            let standing = standings.remove(&descriptor.relay);
            let is_new = standing.is_none();
            let standing = standing.unwrap_or_else(|| Standing::first(&mut unseen));
            let mut known = Known::new(descriptor, standing);
            if let Some((consensus, listed)) =
                held.zip(held.and_then(|consensus| consensus.relay(known.descriptor.relay)))
            {
                known.remember(listed, &service_keys);
                if is_new {
                    known.stand(&Tie::all(listed.family, &listed.addresses), consensus.epoch);
                }
            }
            relays.insert(known.descriptor.relay, known);
        }
        let deadline = (!settled && !relays.is_empty()).then(|| now + settings.bootstrap);
        let mut authority = Self {
            settings,
            origin,
            relays,
            revoked,
            unseen,
            layers,
            document,
            next,
            round: None,
            deadline,
            settled,
            outputs: VecDeque::new(),
        };
        authority.probe_all();
        authority.advance(now);
        Ok(authority)
    }

    /// A relay hands in its descriptor.
    ///
    /// Taken: the descriptor's relay, and a sentence for its operator. Else the error's kind says who is to
    /// blame, and its message is for the relay's operator, too.
    pub(crate) fn handle_descriptor(&mut self, now: Instant, bytes: &[u8]) -> Result<(RelayId, String)> {
        let descriptor = Descriptor::from_signed_bytes(bytes, &self.settings.network)?;
        let relay = descriptor.relay;
        self.judge_descriptor(now, &descriptor)?;
        let schedule = self.schedule();
        let known = match self.relays.remove(&relay) {
            Some(mut known) => {
                known.replace(descriptor, &schedule, now);
                known
            }
            None => Known::new(descriptor, Standing::first(&mut self.unseen)),
        };
        if known.descriptor.kind != RelayKind::Mix {
            for layers in self.layers.values_mut() {
                layers.remove(&relay);
            }
        }
        self.relays.insert(relay, known);
        if !self.settled {
            self.deadline.get_or_insert(now + self.settings.bootstrap);
        }
        // One that answered is dialled again with all the others.
        if !self.answers(relay) {
            self.probe(relay);
        }
        self.advance(now);
        let period = schedule.period(now);
        let without_keys = self.relays.get(&relay).is_some_and(|known| !known.keys.contains_key(&period));
        let but = if without_keys {
            ", but not usable: it announces no mix key for the current period"
        } else {
            ""
        };
        Ok((relay, format!("taken{but}")))
    }

    /// A relay was dialled.
    pub(crate) fn handle_probe(&mut self, now: Instant, relay: RelayId, outcome: ProbeOutcome) {
        if let Some(known) = self.relays.get_mut(&relay) {
            known.probing = false;
            if std::mem::take(&mut known.moved) {
                self.probe(relay);
            } else {
                known.probe = Some(outcome);
            }
        }
        self.advance(now);
    }

    /// The moment of [`Self::poll_timeout`] has come.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.round.is_some_and(|round| round <= now) {
            self.round = None;
            self.probe_all();
        }
        self.advance(now);
    }

    /// When to call [`Self::handle_timeout`].
    pub(crate) fn poll_timeout(&self) -> Instant {
        let (Next::Probed(next) | Next::At(next)) = self.next;
        let deadline = self.deadline.filter(|_| !self.settled);
        [self.round, deadline].into_iter().flatten().fold(next, Instant::min)
    }

    /// What to do next.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The newest document.
    pub(crate) fn document(&self) -> Option<&Held> {
        self.document.as_ref()
    }

    /// When the next document is due.
    pub(crate) fn next_document(&self) -> Instant {
        let (Next::Probed(next) | Next::At(next)) = self.next;
        next
    }

    /// All relays that ever handed in a descriptor and are not forgotten, in order of their ids.
    pub(crate) fn status(&self, now: Instant) -> impl Iterator<Item = RelayStatus> + '_ {
        let period = self.schedule().period(now);
        let document = self.document.as_ref().map(|held| &held.consensus);
        self.relays.iter().map(move |(&id, known)| {
            let listed = document.is_some_and(|consensus| consensus.relay(id).is_some());
            RelayStatus {
                id,
                kind: known.descriptor.kind,
                layer: self.layers.get(&period).and_then(|layers| layers.get(&id)).copied(),
                software: known.descriptor.software.clone(),
                published: known.descriptor.published,
                announced: known.descriptor.announced_rate,
                listed,
                reason: self.obstacle(known, now).or_else(|| known.conflict.map(str::to_owned)).or_else(
                    || (!listed).then(|| "it runs, and is listed from the next consensus on".into()),
                ),
            }
        })
    }

    fn schedule(&self) -> Schedule {
        Schedule::new(self.origin, &self.settings.parameters)
    }

    /// Whether to take a descriptor at all.
    fn judge_descriptor(&self, now: Instant, descriptor: &Descriptor) -> Result<()> {
        let schedule = self.schedule();
        let refuse = |kind, message: &'static str| Err(Error::new(kind, message));
        if !self.approves(descriptor.relay) {
            return refuse(
                ErrorKind::Refused,
                "this relay is not approved: ask the authority's operator to add its identity to `approved`",
            );
        }
        if descriptor.published.instant() > now + schedule.grace() {
            return refuse(
                ErrorKind::Expired,
                "the descriptor is from the future: is the relay's clock right?",
            );
        }
        if descriptor.published.instant() + self.settings.parameters.key_period * 3 < now {
            return refuse(
                ErrorKind::Expired,
                "the descriptor is older than its keys live: is the relay's clock right?",
            );
        }
        let farthest = schedule.announced(now).map(|period| period.0 + 1)[2];
        if descriptor.keys.iter().any(|keys| keys.period.0 > farthest) {
            return refuse(
                ErrorKind::Expired,
                "the descriptor has keys of a far period: is the relay's clock right?",
            );
        }
        if let Some(missing) = REQUIRED.iter().find(|number| !descriptor.protocols.contains(number)) {
            let message =
                format!("this network requires {missing}, which the relay does not speak: upgrade it");
            return Err(Error::new(ErrorKind::Incompatible, message));
        }
        // (spec: DIR-17)
        if self.revoked.contains(&descriptor.relay) {
            return refuse(ErrorKind::Refused, REVOKED);
        }
        // (spec: DIR-16)
        if let Some(certificate) = &descriptor.family {
            certificate.check_time(now, schedule.grace())?;
        }
        match self.relays.get(&descriptor.relay) {
            Some(known) if known.descriptor.published > descriptor.published => {
                refuse(ErrorKind::Replayed, "a newer descriptor of this relay is held already")
            }
            known
                if descriptor.kind == RelayKind::Exit
                    && known.is_none_or(|known| known.descriptor.kind != RelayKind::Exit)
                    && self.exits() >= MAX_EXITS =>
            {
                refuse(ErrorKind::Exhausted, "the network has as many exits as it can list service keys of")
            }
            None if self.relays.len() >= MAX_RELAYS => {
                refuse(ErrorKind::Exhausted, "the network has as many relays as it can list")
            }
            _ => Ok(()),
        }
    }

    fn exits(&self) -> usize {
        self.relays.values().filter(|known| known.descriptor.kind == RelayKind::Exit).count()
    }

    fn approves(&self, relay: RelayId) -> bool {
        match &self.settings.approval {
            Approval::All => true,
            Approval::Only(approved) => approved.contains(&relay),
        }
    }

    /// Why a relay cannot be listed now, apart from its layer.
    fn obstacle(&self, known: &Known, now: Instant) -> Option<String> {
        if !self.approves(known.descriptor.relay) {
            return Some("it is not approved any more".into());
        }
        // (spec: DIR-17)
        if self.revoked.contains(&known.descriptor.relay) {
            return Some(REVOKED.into());
        }
        // (spec: DIR-15)
        if known.descriptor.announced_rate == 0 {
            return Some("it announces that it takes no packets: it rests, or leaves".into());
        }
        let schedule = self.schedule();
        // It was in force when it came. (spec: DIR-16)
        if let Some(certificate) = &known.descriptor.family
            && let Err(error) = certificate.check_time(now, schedule.grace())
        {
            return Some(error.to_string());
        }
        if !known.keys.contains_key(&schedule.period(now)) {
            return Some("announces no mix key for the current period".into());
        }
        // Each address must answer. (spec: DIR-2)
        match &known.probe {
            None => Some("it has not been dialled yet".into()),
            Some(ProbeOutcome { failure: Some(failure), .. }) => Some(failure.clone()),
            Some(outcome) => outcome.reachable.is_empty().then(|| "it announces no address".into()),
        }
    }

    fn running(&self, now: Instant) -> usize {
        self.relays.values().filter(|known| self.obstacle(known, now).is_none()).count()
    }

    /// True if the relay was reached at all addresses, which it still announces.
    fn answers(&self, relay: RelayId) -> bool {
        let probe = self.relays.get(&relay).and_then(|known| known.probe.as_ref());
        probe.is_some_and(|outcome| outcome.failure.is_none() && !outcome.reachable.is_empty())
    }

    /// Packets per second that a relay announces.
    pub(crate) fn announced(&self, relay: RelayId) -> Option<u32> {
        self.relays.get(&relay).map(|known| known.descriptor.announced_rate)
    }

    fn probe_all(&mut self) {
        let relays: Vec<_> = self.relays.keys().copied().collect();
        relays.into_iter().for_each(|relay| self.probe(relay));
    }

    fn probe(&mut self, relay: RelayId) {
        if let Some(known) = self.relays.get_mut(&relay)
            && !known.probing
        {
            known.probing = true;
            self.outputs.push_back(Output::Probe { relay, addresses: known.descriptor.addresses.clone() });
        }
    }

    /// Makes a document if it is time.
    fn advance(&mut self, now: Instant) {
        let due = match self.next {
            Next::Probed(latest) => now >= latest || self.relays.values().all(|known| !known.probing),
            Next::At(due) => now >= due,
        };
        let complete = !self.settled && self.running(now) >= self.settings.expected;
        let waited = !self.settled && self.deadline.is_some_and(|deadline| deadline <= now);
        if due || complete || waited {
            self.settled |= complete || waited;
            self.publish(now);
        }
    }

    fn publish(&mut self, now: Instant) {
        let parameters = self.settings.parameters.rounded();
        let before = self.document.as_ref();
        let valid_after = before.map_or(now.unix(), |held| held.consensus.valid_after.max(now.unix()));
        let epoch = before.map_or(Epoch(0), |held| Epoch(held.consensus.epoch.0 + 1));
        let (relays, not_running) = self.list(now, epoch);
        let pool = self.pool(&relays, parameters.mean_delay, now);
        let consensus = Consensus {
            method: METHOD,
            network: self.settings.network.clone(),
            epoch,
            valid_after,
            fresh_until: valid_after + if self.settled { parameters.epoch } else { SOON },
            valid_until: valid_after + parameters.epoch * Consensus::LIFE_EPOCHS,
            previous: self.document.as_ref().map(|held| held.signed.hash()),
            parameters,
            origin: self.origin,
            required: REQUIRED.to_vec(),
            recommended: ProtocolNumber::SUPPORTED.to_vec(),
            relays,
            not_running,
            pool,
            made: None,
            later: Default::default(),
        };
        let mut service_keys = ServiceKeys::new();
        for key in consensus.relays.iter().filter_map(|listed| self.relays.get(&listed.id)) {
            key.keys
                .values()
                .filter_map(|keys| keys.service.as_ref())
                .for_each(|key| service_keys.insert(key));
        }
        let next = valid_after.instant() + consensus.parameters.epoch;
        self.next = Next::At(next);
        self.round = Some(next - probe_lead(consensus.parameters.epoch));
        let signed = Signed::new(&consensus);
        self.document = Some(Held { signed: signed.clone(), consensus: consensus.clone() });
        self.outputs.push_back(Output::Publish(Box::new(Publication {
            signed,
            consensus,
            service_keys,
            layers: self.layers.clone(),
            standings: self.relays.iter().map(|(&id, known)| (id, known.standing.clone())).collect(),
        })));
    }
}

/// How long before a document its relays are dialled.
fn probe_lead(epoch: Duration) -> Duration {
    (epoch / 4).min(Duration::from_secs(60))
}

/// How long dialling one relay may take, so that all have answered when the document is due.
pub(crate) fn probe_time(parameters: &Parameters) -> Duration {
    (parameters.epoch / 5).min(PROBE_TIME)
}

/// Longest time that dialling one relay may take.
const PROBE_TIME: Duration = Duration::from_secs(5);

/// What a member must speak.
const REQUIRED: [ProtocolNumber; 8] = ProtocolNumber::SUPPORTED;

/// Documents of an incomplete network ask to be fetched anew so soon.
const SOON: Duration = Duration::from_secs(1);

const METHOD: u32 = 1;

#[cfg(test)]
mod strangers;
#[cfg(test)]
mod tests;
