//! The network as this relay sees it now: made anew from each consensus and at each edge of a key period.

use crate::keys::Keys;
use mizzle_protocol::consensus::Consensus;
use mizzle_protocol::id::{Epoch, RelayId};
use mizzle_protocol::mix::{LivePeriod, Mix, Neighbours, Role};
use mizzle_protocol::path::{Parameters, Topology};
use mizzle_protocol::time::Instant;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

/// What packets, links and services go by. Never changed, only replaced.
#[derive(Debug)]
pub(crate) struct View {
    /// Packet processing.
    pub(crate) mix: Mix,
    /// What all members do alike.
    pub(crate) parameters: Parameters,
    /// Epoch of the consensus; `None` before the first, and when it has become too old.
    pub(crate) epoch: Option<Epoch>,
    /// What this relay is in the current key period.
    pub(crate) role: Option<Role>,
    /// All relays that run, and where.
    pub(crate) relays: HashMap<RelayId, Vec<SocketAddr>>,
    /// Those that this relay may send packets to.
    pub(crate) outgoing: HashSet<RelayId>,
    /// The network of the current key period, for loops of this relay's own; `None` when it has no place there.
    pub(crate) topology: Option<Topology>,
}

impl View {
    /// Nobody is known, and no packet is taken.
    pub(crate) fn empty() -> Self {
        let parameters = Parameters::default();
        Self {
            mix: Mix::new(parameters.geometry, parameters.max_delay, Vec::new()),
            parameters,
            epoch: None,
            role: None,
            relays: HashMap::new(),
            outgoing: HashSet::new(),
            topology: None,
        }
    }

    /// The view of relay `me` with its `keys` at `now`.
    pub(crate) fn new(consensus: &Consensus, me: RelayId, keys: &Keys, now: Instant) -> Self {
        let parameters = consensus.parameters.clone();
        if !consensus.is_live(now) {
            return Self { parameters, ..Self::empty() };
        }
        let current = consensus.period(now);
        let (mut periods, mut outgoing, mut role, mut own) = (Vec::new(), HashSet::new(), None, None);
        for period in consensus.live_periods(now) {
            let Some(secrets) = keys.of(period) else { continue };
            let topology = consensus.to_topology(period, None);
            let neighbours = Neighbours::new(&topology, me);
            outgoing.extend(neighbours.outgoing());
            if period == current {
                role = neighbours.role;
                own = role.is_some().then_some(topology);
            }
            periods.push(LivePeriod { key: secrets.mix.clone(), neighbours });
        }
        Self {
            mix: Mix::new(parameters.geometry, parameters.max_delay, periods),
            epoch: Some(consensus.epoch),
            role,
            relays: consensus.relays.iter().map(|relay| (relay.id, relay.addresses.clone())).collect(),
            outgoing,
            topology: own,
            parameters,
        }
    }
}

/// The newest [`View`], for all threads.
#[derive(Debug)]
pub(crate) struct Live(RwLock<Arc<View>>);

impl Live {
    /// Starts with the empty view.
    pub(crate) fn new() -> Self {
        Self(RwLock::new(Arc::new(View::empty())))
    }

    /// The view now.
    pub(crate) fn load(&self) -> Arc<View> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces it.
    pub(crate) fn store(&self, view: Arc<View>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = view;
    }
}
