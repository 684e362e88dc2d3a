//! Who is there, and which way a packet goes.
//!
//! Outward, four Sphinx hops: m1 m2 m3 exit; the entry is no hop, a cell names the first mix. Homeward,
//! five, in one shape for loops, replies and deliveries: m1 m2 m3 entry client. Each packet draws its mixes
//! uniformly within each layer, and each of its delays, anew.
//! (spec: PACKET-6, PACKET-7)

use crate::country::Country;
use crate::delay::mixing_delay;
use crate::geometry::{Geometry, LAYERS};
use crate::id::{ClientAddress, Period, RelayId};
use crate::level::Levels;
use crate::session::ServiceKey;
use crate::sphinx::{Hop, PublicKey};
use crate::{Error, ErrorKind, Result};
use rand_core::Rng;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// What all members of a network must do alike: consensus parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// Packet sizes.
    pub geometry: Geometry,
    /// Mean of each mixing delay (1/μ).
    pub mean_delay: Duration,
    /// Longest delay that a mix accepts; senders draw again above it.
    pub max_delay: Duration,
    /// What clients of each level send and receive.
    pub levels: Levels,
    /// An entry's slots toward a client, as a multiple of the receive rate: 1.25.
    pub entry_slot_factor: f64,
    /// How long a SURB may be used after it was made.
    pub surb_life: Duration,
    /// Time between two consensus documents.
    pub epoch: Duration,
    /// Lifetime of mix keys and layers.
    pub key_period: Duration,
    /// How long after its end a key period's packets are still taken.
    pub overlap: Duration,
}

impl Default for Parameters {
    /// The public network's: epochs of an hour, key periods of a day.
    fn default() -> Self {
        Self {
            geometry: Geometry::default(),
            mean_delay: Duration::from_millis(20),
            max_delay: Duration::from_millis(200),
            levels: Levels::default(),
            entry_slot_factor: 1.25,
            surb_life: Duration::from_secs(14 * 60),
            epoch: Duration::from_secs(3_600),
            key_period: Duration::from_secs(24 * 3_600),
            overlap: Duration::from_secs(15 * 60),
        }
    }
}

impl Parameters {
    /// A local network's: all clocks run faster, so that a test sees them turn.
    pub fn local() -> Self {
        Self {
            surb_life: Duration::from_secs(90),
            epoch: Duration::from_secs(20),
            key_period: Duration::from_secs(600),
            overlap: Duration::from_secs(120),
            ..Self::default()
        }
    }
}

/// A relay as a hop.
#[derive(Clone, Debug)]
pub struct MixNode {
    /// Its identity.
    pub id: RelayId,
    /// Its key of the topology's period.
    pub key: PublicKey,
}

/// An exit: a hop with services.
#[derive(Clone, Debug)]
pub struct ExitNode {
    /// The hop.
    pub node: MixNode,
    /// For sessions; exits without a known service key carry drops only.
    pub service_key: Option<Arc<ServiceKey>>,
    /// Where its operator says that it is.
    pub country: Option<Country>,
}

impl ExitNode {
    /// True if it is where `wanted` says; if that is nowhere, anywhere will do.
    pub fn is_in(&self, wanted: Option<Country>) -> bool {
        wanted.is_none() || self.country == wanted
    }
}

/// The live network of one key period, as paths are drawn from it. Made from a verified consensus.
#[derive(Clone, Debug)]
pub struct Topology {
    /// What all members do alike.
    pub parameters: Parameters,
    /// The key period of all keys here.
    pub period: Period,
    /// Mixes of layers 1 to 3.
    pub layers: [Vec<MixNode>; LAYERS],
    /// Gateways that take client links.
    pub entries: Vec<MixNode>,
    /// Gateways that offer services.
    pub exits: Vec<ExitNode>,
}

/// A drawn route.
#[derive(Clone, Debug)]
pub struct Route {
    /// In order; the first is the mix that the cell or the SURB names.
    pub hops: Vec<Hop>,
    /// Sum of the drawn delays.
    pub delay: Duration,
}

impl Route {
    /// The mix that gets the packet first.
    pub fn first(&self) -> Option<RelayId> {
        self.hops.first().map(|hop| RelayId(hop.address))
    }
}

impl Topology {
    /// Four hops out: m1 m2 m3 `exit`.
    pub fn outward(&self, exit: &MixNode, rng: &mut impl Rng) -> Result<Route> {
        let mut route = self.mixes(rng)?;
        route.hops.push(Hop { address: exit.id.0, key: exit.key, delay: Duration::ZERO });
        Ok(route)
    }

    /// Five hops home: m1 m2 m3 `entry` client. The client's key is its own of this link.
    pub fn homeward(
        &self,
        entry: RelayId,
        client: ClientAddress,
        client_key: PublicKey,
        rng: &mut impl Rng,
    ) -> Result<Route> {
        let entry = self
            .entries
            .iter()
            .find(|node| node.id == entry)
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "the entry is not in the consensus"))?;
        let mut route = self.mixes(rng)?;
        route.hops.push(Hop { address: entry.id.0, key: entry.key, delay: Duration::ZERO });
        route.hops.push(Hop { address: client.0, key: client_key, delay: Duration::ZERO });
        Ok(route)
    }

    /// Four hops from a relay to itself: what lies behind it, a gateway, what lies before it; each layer once, and three
    /// delays. A gateway's own loop is m1 m2 m3 and itself. (spec: LOOP-2)
    ///
    /// [`ErrorKind::Unavailable`] if the relay is not in the topology, or nobody is in a place that the loop needs.
    pub fn relay_loop(&self, me: RelayId, rng: &mut impl Rng) -> Result<Route> {
        let place = self.layers.iter().position(|layer| layer.iter().any(|node| node.id == me));
        let mut route = Route { hops: Vec::with_capacity(LAYERS + 1), delay: Duration::ZERO };
        let (before, behind) = match place {
            Some(layer) => (layer, layer + 1),
            None => (LAYERS, LAYERS),
        };
        for layer in self.layers.get(behind..).unwrap_or_default() {
            self.mix_of(layer, &mut route, rng)?;
        }
        if place.is_some() {
            let gateways = self.entries.len() + self.exits.len();
            let gateway = below(gateways, rng)
                .and_then(|index| self.gateways().nth(index))
                .ok_or_else(|| Error::new(ErrorKind::Unavailable, "there is no gateway"))?;
            // It mixes, too: what left for layer 1 the moment it came from layer 3 would be known for a loop.
            self.push(gateway, &mut route, rng);
        }
        for layer in self.layers.get(..before).unwrap_or_default() {
            self.mix_of(layer, &mut route, rng)?;
        }
        let mixes = self.layers.iter().flatten();
        let own = mixes
            .chain(self.gateways())
            .find(|node| node.id == me)
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "this relay is not in the consensus"))?;
        route.hops.push(Hop { address: own.id.0, key: own.key, delay: Duration::ZERO });
        Ok(route)
    }

    fn gateways(&self) -> impl Iterator<Item = &MixNode> {
        self.entries.iter().chain(self.exits.iter().map(|exit| &exit.node))
    }

    /// An exit chosen uniformly among those that `allowed` accepts.
    pub fn random_exit(&self, allowed: impl Fn(&ExitNode) -> bool, rng: &mut impl Rng) -> Result<&ExitNode> {
        let count = self.exits.iter().filter(|exit| allowed(exit)).count();
        let index = below(count, rng)
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "no exit in the consensus fits"))?;
        self.exits
            .iter()
            .filter(|exit| allowed(exit))
            .nth(index)
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "no exit in the consensus fits"))
    }

    /// Why no session can be opened to an exit in `country`, and which countries there are. (spec: COUNTRY-2)
    pub fn no_exit_in(&self, country: Country) -> Error {
        let there: BTreeSet<Country> = self
            .exits
            .iter()
            .filter(|exit| exit.service_key.is_some())
            .filter_map(|exit| exit.country)
            .collect();
        let there: Vec<&str> = there.iter().map(Country::code).collect();
        let message = match there.is_empty() {
            true => format!("no exit says that it is in {country}, nor in any other country"),
            false => format!("no exit says that it is in {country}; there are exits in {}", there.join(", ")),
        };
        Error::new(ErrorKind::NoSuchExit, message)
    }

    fn mixes(&self, rng: &mut impl Rng) -> Result<Route> {
        let mut route = Route { hops: Vec::with_capacity(LAYERS + 2), delay: Duration::ZERO };
        for layer in &self.layers {
            self.mix_of(layer, &mut route, rng)?;
        }
        Ok(route)
    }

    /// Goes on by a mix of this layer.
    fn mix_of(&self, layer: &[MixNode], route: &mut Route, rng: &mut impl Rng) -> Result<()> {
        let node = below(layer.len(), rng)
            .and_then(|index| layer.get(index))
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "a mix layer is empty"))?;
        self.push(node, route, rng);
        Ok(())
    }

    /// Goes on by this relay, which holds the packet for a drawn time.
    fn push(&self, node: &MixNode, route: &mut Route, rng: &mut impl Rng) {
        let delay = mixing_delay(self.parameters.mean_delay, self.parameters.max_delay, rng);
        route.delay += delay;
        route.hops.push(Hop { address: node.id.0, key: node.key, delay });
    }
}

/// A uniform number below `bound`, `None` if that is zero. Without bias: draws again in the last part.
pub fn below(bound: usize, rng: &mut impl Rng) -> Option<usize> {
    let bound = u64::try_from(bound).ok().filter(|&bound| bound > 0)?;
    loop {
        let draw = rng.next_u64();
        let result = draw % bound;
        if draw - result <= u64::MAX - (bound - 1) {
            return usize::try_from(result).ok();
        }
    }
}
