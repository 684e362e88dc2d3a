//! What changes in a network while it runs: consensus documents, keys and layers, and relays that are cut off.
//!
//! Each epoch there is a document that lists the relays which are up at that moment. Each key period mixes change their
//! layers and all relays their keys; what was sent with the old ones is still taken for the overlap. A relay that is cut
//! off keeps what it has and knows, but gets and sends nothing. Entries are not cut off here: clients that look for another one
//! are the client's daemon, not these machines.

use crate::place::relay_id;
use crate::world::Shape;
use mizzle_protocol::Result;
use mizzle_protocol::id::Period;
use mizzle_protocol::path::{ExitNode, MixNode, Topology};
use mizzle_protocol::session::ServiceSecret;
use mizzle_protocol::sphinx::SecretKey;
use rand_core::CryptoRng;
use std::sync::Arc;
use std::time::Duration;

/// How often what changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turnover {
    /// Time between two documents.
    pub epoch: Duration,
    /// Time between two changes of keys and layers: some epochs. `None`: they stay.
    pub key_period: Option<Duration>,
    /// How long after that old keys are still taken.
    pub overlap: Duration,
    /// How often an hour each mix and each exit is cut off.
    pub cuts_an_hour: f64,
    /// For how long, in the mean.
    pub cut: Duration,
}

/// The secrets of one key period, and who is in which layer.
pub(crate) struct Secrets {
    pub(crate) period: Period,
    /// Of all relays, by number.
    pub(crate) keys: Vec<SecretKey>,
    /// Of all exits.
    pub(crate) services: Vec<ServiceSecret>,
    /// The mixes, layer by layer.
    order: Vec<usize>,
}

impl Secrets {
    /// Those of the first period: mixes stand in the layers by their numbers.
    pub(crate) fn first(shape: &Shape, rng: &mut impl CryptoRng) -> Self {
        Self::new(shape, Period(1), (0..shape.mixes()).collect(), rng)
    }

    /// Those of the next one: mixes are dealt to the layers anew.
    pub(crate) fn next(&self, shape: &Shape, rng: &mut impl CryptoRng) -> Self {
        let mut order = self.order.clone();
        for last in (1..order.len()).rev() {
            let other = mizzle_protocol::path::below(last + 1, rng).unwrap_or(last);
            order.swap(last, other);
        }
        Self::new(shape, Period(self.period.0 + 1), order, rng)
    }

    fn new(shape: &Shape, period: Period, order: Vec<usize>, rng: &mut impl CryptoRng) -> Self {
        let count = shape.mixes() + shape.entries + shape.exits;
        let keys = (0..count).map(|_| SecretKey::generate(rng)).collect();
        let services = (0..shape.exits).map(|_| ServiceSecret::generate(rng)).collect();
        Self { period, keys, services, order }
    }

    /// The document of a moment at which the relays of these numbers are up.
    pub(crate) fn topology(&self, shape: &Shape, is_up: impl Fn(usize) -> bool) -> Result<Topology> {
        let node = |index: usize| {
            let key = self.keys.get(index).filter(|_| is_up(index))?;
            Some(MixNode { id: relay_id(index), key: key.public() })
        };
        let layer = |members: &[usize]| members.iter().filter_map(|index| node(*index)).collect();
        let mut layers = self.order.chunks(shape.roads.width.max(1)).map(layer);
        let first_exit = shape.mixes() + shape.entries;
        let mut exits = Vec::with_capacity(shape.exits);
        for (index, service) in (first_exit..).zip(&self.services) {
            let Some(node) = node(index) else { continue };
            exits.push(ExitNode { node, service_key: Some(Arc::new(service.public()?)), country: None });
        }
        Ok(Topology {
            parameters: shape.parameters.clone(),
            period: self.period,
            layers: std::array::from_fn(|_| layers.next().unwrap_or_default()),
            entries: (shape.mixes()..first_exit).filter_map(node).collect(),
            exits,
        })
    }
}
