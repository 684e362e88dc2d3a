//! A small network with fixed keys: one mix a layer, an entry and an exit.

use crate::oracle::Peer;
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::{Period, RelayId, ReplayTag, SessionId};
use mizzle_protocol::mix::ReplayFilter;
use mizzle_protocol::path::{ExitNode, MixNode, Parameters, Topology};
use mizzle_protocol::session::{ServiceSecret, SessionLog};
use mizzle_protocol::sphinx::{SecretKey, Unwrapped, unwrap};
use mizzle_protocol::time::Instant;
use mizzle_protocol::{Error, ErrorKind, Result};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

/// The relays in the order of a packet's way: layers 1 to 3, the entry, the exit.
pub(crate) const RELAYS: usize = 5;
pub(crate) const ENTRY: usize = 3;
pub(crate) const EXIT: usize = 4;
pub(crate) const PERIOD: Period = Period(7);
pub(crate) const START: Instant = Instant::from_micros(1_800_000_000_000_000);

pub(crate) struct Network {
    pub(crate) peers: [Peer; RELAYS],
    pub(crate) service: ServiceSecret,
    pub(crate) topology: Arc<Topology>,
}

pub(crate) static NETWORK: LazyLock<Network> = LazyLock::new(|| {
    let mut rng = ChaCha20Rng::seed_from_u64(5);
    let peers: [Peer; RELAYS] = std::array::from_fn(|_| Peer::random(&mut rng));
    let service = ServiceSecret::generate(&mut rng);
    let node = |index: usize| MixNode { id: id(index), key: peers[index].key.public() };
    let service_key = service.public().ok().map(Arc::new);
    let topology = Topology {
        parameters: Parameters { geometry: geometry(), ..Parameters::local() },
        period: PERIOD,
        layers: [vec![node(0)], vec![node(1)], vec![node(2)]],
        entries: vec![node(ENTRY)],
        exits: vec![ExitNode { node: node(EXIT), service_key, country: None }],
    };
    Network { peers, service, topology: Arc::new(topology) }
});

impl Network {
    /// Takes the layers of these relays off.
    pub(crate) fn carry<'a>(&self, relays: &[usize], packet: &'a mut [u8]) -> Unwrapped<'a> {
        for &relay in relays.split_last().map_or(&[][..], |(_, before)| before) {
            assert!(matches!(opened(&self.peers[relay].key, packet), Unwrapped::Forward { .. }));
        }
        opened(&self.peers[relays[relays.len() - 1]].key, packet)
    }
}

fn opened<'a>(key: &SecretKey, packet: &'a mut [u8]) -> Unwrapped<'a> {
    unwrap(geometry(), key, packet).unwrap_or_else(|error| panic!("a packet of our own is refused: {error}"))
}

pub(crate) fn id(index: usize) -> RelayId {
    RelayId([index as u8 + 1; 32])
}

pub(crate) fn geometry() -> Geometry {
    Geometry::new(2048).unwrap()
}

/// Remembers what a relay has seen.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) tags: RefCell<BTreeSet<ReplayTag>>,
    sessions: RefCell<BTreeSet<SessionId>>,
}

impl ReplayFilter for Memory {
    fn insert(&self, _: Period, tag: ReplayTag) -> Result<()> {
        once(self.tags.borrow_mut().insert(tag))
    }
}

impl SessionLog for Memory {
    fn insert(&self, _: Period, id: SessionId) -> Result<()> {
        once(self.sessions.borrow_mut().insert(id))
    }
}

fn once(new: bool) -> Result<()> {
    if new { Ok(()) } else { Err(Error::new(ErrorKind::Replayed, "seen")) }
}
