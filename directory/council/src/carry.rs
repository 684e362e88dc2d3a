//! What authorities carry from one document to the next, beside the document: alike to the byte, since the
//! document names its hash.

use crate::beacon::Beacon;
use crate::layers::{Layers, Tie};
use mizzle_protocol::Result;
use mizzle_protocol::consensus::cbor::{Canonical, Reader, Writer, decode, encode, malformed};
use mizzle_protocol::consensus::{MAX_RELAYS, RelayKind, ordered};
use mizzle_protocol::id::{Epoch, FamilyId, Period, RelayId};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// What is carried on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carry {
    /// Place in the order for the next relay that was never seen.
    pub unseen: u64,
    /// The lots as far as they are drawn.
    pub beacon: Beacon,
    /// The layers of the periods that are live or announced, also of mixes that do not run now.
    pub layers: BTreeMap<Period, Layers>,
    /// Since when relays stand where they stand, also of those that do not run now.
    pub standings: BTreeMap<RelayId, Standing>,
}

/// How long a relay has stood where it stands: who came first stays when two collide. (spec: DIR-12)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its place in the order in which relays handed in their first descriptors.
    pub seen: u64,
    /// What it was made for: another kind is another relay.
    pub kind: RelayKind,
    /// The family and subnets with which it was listed the last time, each with the epoch since when.
    pub since: BTreeMap<Tie, Epoch>,
    /// The families whose certificates it has shown, the first few.
    pub families: Vec<FamilyId>,
}

impl Carry {
    /// That of a network without a past.
    pub fn genesis(network: &str) -> Self {
        Self { beacon: Beacon::genesis(network), ..Self::default() }
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Parses it; whether it is the right one, its hash says.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        decode(bytes, MAX_CARRY_SIZE)
    }

    /// As the document names it.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.to_bytes()).into()
    }
}

impl Standing {
    /// Notes that the relay has shown a certificate of this family. The first ones stay: who steals an identity
    /// cannot push them out. (spec: DIR-17)
    pub(crate) fn certified_by(&mut self, family: FamilyId) {
        if !self.families.contains(&family) && self.families.len() < FAMILIES {
            self.families.push(family);
        }
    }

    /// Who stands before whom: since when the youngest of `ties` is its own; never for a new one.
    pub(crate) fn rank(&self, ties: &[Tie]) -> (Epoch, u64) {
        let since = ties.iter().map(|tie| self.since.get(tie).copied().unwrap_or(NEVER));
        (since.max().unwrap_or(NEVER), self.seen)
    }

    /// Notes that it is listed with `ties` in `epoch`. What it had before and has no more is anyone's.
    pub(crate) fn stand(&mut self, ties: &[Tie], epoch: Epoch) {
        let since = |tie: &Tie| (*tie, self.since.get(tie).copied().unwrap_or(epoch));
        self.since = ties.iter().map(since).collect();
    }
}

impl Canonical for Carry {
    fn write(&self, out: &mut Writer) {
        out.map(5);
        out.key(0).uint(FORMAT);
        out.key(1).uint(self.unseen);
        self.beacon.write(out.key(2));
        out.key(3).array(self.layers.len());
        for (period, layers) in &self.layers {
            out.array(2);
            out.uint(u64::from(period.0));
            out.array(layers.len());
            for (relay, layer) in layers {
                out.array(2);
                out.bytes(&relay.0);
                out.uint(u64::from(*layer));
            }
        }
        out.key(4).array(self.standings.len());
        for (relay, standing) in &self.standings {
            out.array(2);
            out.bytes(&relay.0);
            standing.write(out);
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        let mut fields = input.map()?;
        fields.key(input, 0)?.uint(FORMAT)?;
        let unseen = fields.key(input, 1)?.uint(u64::MAX)?;
        let beacon = Beacon::read(fields.key(input, 2)?)?;
        let mut layers = BTreeMap::new();
        for _ in 0..fields.key(input, 3)?.array(MAX_PERIODS)? {
            pair(input)?;
            let period = Period(input.u32()?);
            let mut dealt = Layers::new();
            for _ in 0..input.array(MAX_RELAYS)? {
                pair(input)?;
                dealt.insert(RelayId(input.fixed()?), input.uint(3)? as u8);
            }
            layers.insert(period, dealt);
        }
        let mut standings = BTreeMap::new();
        for _ in 0..fields.key(input, 4)?.array(MAX_RELAYS)? {
            pair(input)?;
            standings.insert(RelayId(input.fixed()?), Standing::read(input)?);
        }
        fields.end(input)?;
        Ok(Self { unseen, beacon, layers, standings })
    }
}

impl Canonical for Standing {
    fn write(&self, out: &mut Writer) {
        out.array(4);
        out.uint(self.seen);
        out.uint(match self.kind {
            RelayKind::Mix => 0,
            RelayKind::Entry => 1,
            RelayKind::Exit => 2,
        });
        out.array(self.since.len());
        for (tie, epoch) in &self.since {
            out.array(2);
            match tie {
                Tie::Family(family) => out.bytes(&family.0),
                Tie::Net4(net) => out.bytes(net),
                Tie::Net6(net) => out.bytes(net),
            }
            out.uint(epoch.0);
        }
        out.array(self.families.len());
        self.families.iter().for_each(|family| out.bytes(&family.0));
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        if input.array(4)? != 4 {
            return Err(malformed("a relay's standing has four parts"));
        }
        let seen = input.uint(u64::MAX)?;
        let kind = match input.uint(2)? {
            0 => RelayKind::Mix,
            1 => RelayKind::Entry,
            _ => RelayKind::Exit,
        };
        let mut since = Vec::new();
        for _ in 0..input.array(MAX_TIES)? {
            pair(input)?;
            let bytes = input.bytes(32)?;
            let tie = match bytes.len() {
                2 => bytes.try_into().map(Tie::Net4).ok(),
                4 => bytes.try_into().map(Tie::Net6).ok(),
                _ => bytes.try_into().map(|key| Tie::Family(FamilyId(key))).ok(),
            };
            let tie = tie.ok_or_else(|| malformed("neither a family nor a subnet"))?;
            since.push((tie, Epoch(input.uint(u64::MAX)?)));
        }
        let since = ordered(since, |(tie, _)| *tie)?.into_iter().collect();
        let mut families = Vec::new();
        for _ in 0..input.array(FAMILIES)? {
            families.push(FamilyId(input.fixed()?));
        }
        Ok(Self { seen, kind, since, families })
    }
}

fn pair(input: &mut Reader<'_>) -> Result<()> {
    match input.array(2)? {
        2 => Ok(()),
        _ => Err(malformed("not a pair")),
    }
}

/// Largest carry, in bytes.
pub const MAX_CARRY_SIZE: usize = 16 * 1024 * 1024;

/// After all others.
const NEVER: Epoch = Epoch(u64::MAX);
const FORMAT: u64 = 1;
/// Families of one relay that are remembered.
const FAMILIES: usize = 4;
const MAX_TIES: usize = 16;
const MAX_PERIODS: usize = 1_024;
