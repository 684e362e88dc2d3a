//! What the authority knows of one relay.

use mizzle_council::Tie;
use mizzle_protocol::consensus::{Descriptor, ListedRelay, PeriodKeys, Schedule, ServiceKeys};
use mizzle_protocol::id::{Epoch, FamilyId, Period};
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
    /// Packets per second that it was measured to carry, if anyone has.
    pub(crate) rate: Option<u32>,
}

/// How long a relay has stood where it stands: who came first stays when two collide. (spec: DIR-12)
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Its place in the order in which relays handed in their first descriptors.
    pub(crate) seen: u64,
    /// The family and subnets with which it was listed the last time, each with the epoch since when.
    pub(crate) since: BTreeMap<Tie, Epoch>,
    /// The families whose certificates it has shown, the first few.
    pub(crate) families: Vec<FamilyId>,
}

impl Standing {
    /// Of a relay that was never seen; counts `unseen` up.
    pub(super) fn first(unseen: &mut u64) -> Self {
        let seen = *unseen;
        *unseen = unseen.saturating_add(1);
        Self { seen, since: BTreeMap::new(), families: Vec::new() }
    }
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
    /// Since when it has what it has.
    pub(super) standing: Standing,
}

impl Known {
    /// A relay that has just come.
    pub(super) fn new(descriptor: Descriptor, standing: Standing) -> Self {
        let keys = descriptor.keys.iter().map(|keys| (keys.period, keys.clone())).collect();
        let mut known =
            Self { descriptor, keys, probe: None, probing: false, moved: false, conflict: None, standing };
        known.family().into_iter().for_each(|family| known.standing.certified_by(family));
        known
    }

    /// Takes a newer descriptor; keys that it does not replace stay while their packets are taken.
    pub(super) fn replace(&mut self, descriptor: Descriptor, schedule: &Schedule, now: Instant) {
        let first = descriptor.keys.first().map(|keys| keys.period).unwrap_or_default();
        if self.descriptor.kind != descriptor.kind {
            self.keys.clear();
            self.standing.since.clear();
        }
        self.keys.retain(|&period, _| period < first && schedule.is_live(period, now));
        self.keys.extend(descriptor.keys.iter().map(|keys| (keys.period, keys.clone())));
        if self.descriptor.addresses != descriptor.addresses {
            self.probe = None;
            // An answer that is still out is for the old addresses.
            self.moved = self.probing;
        }
        self.descriptor = descriptor;
        self.family().into_iter().for_each(|family| self.standing.certified_by(family));
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

    /// Where it is listed: of the addresses where it was reached, those in the IPv4 /16 and the IPv6 /32 that
    /// it names first. So no relay can be in the subnets of many. (spec: DIR-12)
    pub(super) fn reached(&self) -> Vec<SocketAddr> {
        let reachable = self.probe.as_ref().map(|probe| probe.reachable.as_slice()).unwrap_or_default();
        let nets = |address: &SocketAddr| Tie::all(None, &[*address]);
        let first = |is_ipv4| reachable.iter().find(|address| address.is_ipv4() == is_ipv4).map(nets);
        let (ipv4, ipv6) = (first(true), first(false));
        let listed = |address: &&SocketAddr| {
            Some(nets(address)) == if address.is_ipv4() { ipv4.clone() } else { ipv6.clone() }
        };
        reachable.iter().filter(listed).copied().collect()
    }

    /// The family that has certified it.
    pub(super) fn family(&self) -> Option<FamilyId> {
        self.descriptor.family.map(|certificate| certificate.family)
    }

    /// What it has in common with others, as far as it is proven.
    pub(super) fn ties(&self) -> Vec<Tie> {
        Tie::all(self.family(), &self.reached())
    }

    /// Who stands before whom: since when the youngest of `ties` is its own; never for a new one.
    pub(super) fn rank(&self, ties: &[Tie]) -> (Epoch, u64) {
        let since = ties.iter().map(|tie| self.standing.since.get(tie).copied().unwrap_or(NEVER));
        (since.max().unwrap_or(NEVER), self.standing.seen)
    }

    /// Notes that it is listed with `ties` in `epoch`. What it had before and has no more is anyone's.
    pub(super) fn stand(&mut self, ties: &[Tie], epoch: Epoch) {
        let since = |tie: &Tie| (*tie, self.standing.since.get(tie).copied().unwrap_or(epoch));
        self.standing.since = ties.iter().map(since).collect();
    }
}

/// After all others.
const NEVER: Epoch = Epoch(u64::MAX);
