//! The consensus: what all members of a network know alike.

use super::cbor::{Canonical, NOT_CRITICAL, Reader, Writer, malformed};
use super::descriptor::{read_addresses, read_coarse, read_mix_key, write_addresses};
use super::fault::DocumentFault;
use super::{MAX_NETWORK_NAME, MAX_PROTOCOLS, ProtocolNumber, RelayKind, Schedule, ServiceKeys, ordered};
use crate::Result;
use crate::country::Country;
use crate::id::{Epoch, FamilyId, Period, RelayId};
use crate::mix::Role;
use crate::path::{ExitNode, MixNode, Parameters, Topology};
use crate::sphinx::PublicKey;
use crate::time::{Instant, UnixTime};
use core::net::SocketAddr;
use std::collections::BTreeMap;
use std::time::Duration;

/// SHA-256 of a consensus' body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentHash(pub [u8; 32]);

/// Who is in the network, from one epoch to the next. (spec: DOC-4)
#[derive(Clone, Debug, PartialEq)]
pub struct Consensus {
    /// By which rules the authorities made it.
    pub method: u32,
    /// The network.
    pub network: String,
    /// Its number: one more than that of the document before.
    pub epoch: Epoch,
    /// From when it holds.
    pub valid_after: UnixTime,
    /// From when there is a newer one: time to ask, again and again until it is there.
    pub fresh_until: UnixTime,
    /// From when nobody may use it.
    pub valid_until: UnixTime,
    /// The document before; `None` in the first.
    pub previous: Option<DocumentHash>,
    /// What all members do alike.
    pub parameters: Parameters,
    /// When key period 0 began.
    pub origin: UnixTime,
    /// What a member must speak, in order.
    pub required: Vec<ProtocolNumber>,
    /// What a member should speak, in order: a hint to upgrade.
    pub recommended: Vec<ProtocolNumber>,
    /// The relays that run, in order of their ids.
    pub relays: Vec<ListedRelay>,
    /// Those that do not, in order of their ids.
    pub not_running: Vec<NotRunning>,
    /// ρ, the packets that a mix holds in the mean, at the most, [`coarse`](super::coarse). `None`: not measured.
    /// (spec: LOAD-2)
    pub pool: Option<u32>,
    /// What several authorities made it of. (spec: COUNCIL-8)
    pub made: Option<Made>,
    /// Fields of later versions that this build passes over, by their keys: [`Self::LATER_FIELDS`] at the most, all kept as
    /// they came, so that the body is written as it was read. (spec: DOC-13)
    pub later: BTreeMap<u64, Vec<u8>>,
}

/// What a document was made of, and what it leaves to the next. (spec: COUNCIL-8)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// SHA-256 of the list of votes.
    pub votes: [u8; 32],
    /// SHA-256 of what authorities carry on beside the document.
    pub carry: [u8; 32],
    /// The lots that were drawn last: layers are dealt by them.
    pub beacon: [u8; 32],
}

/// A relay that runs.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedRelay {
    /// Its identity.
    pub id: RelayId,
    /// Where it listens, best first.
    pub addresses: Vec<SocketAddr>,
    /// Its role and keys of the current period and the two that follow, and of the one before while its
    /// packets are still taken; in order.
    pub periods: Vec<RelayPeriod>,
    /// What it shares with all relays of one operator.
    pub family: Option<FamilyId>,
    /// Packets per second that the authorities give it credit for.
    pub weight: u32,
    /// Where its operator says that it is.
    pub country: Option<Country>,
}

/// A relay in one key period.
#[derive(Clone, Debug, PartialEq)]
pub struct RelayPeriod {
    /// The period.
    pub period: Period,
    /// Its role, with the layer if it is a mix.
    pub role: Role,
    /// Its key for packets.
    pub mix_key: PublicKey,
    /// SHA-256 of its service key; exits only. The key is in [`ServiceKeys`].
    pub service_key: Option<[u8; 32]>,
}

/// A relay that is known, but not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotRunning {
    /// Its identity.
    pub id: RelayId,
    /// Why, in a sentence for its operator; at most 200 bytes.
    pub reason: String,
}

impl Consensus {
    /// Epochs that a document may be used for.
    pub const LIFE_EPOCHS: u32 = 3;

    /// Most fields of later versions.
    pub const LATER_FIELDS: usize = 16;
    /// Key of the first of them.
    pub const FIRST_LATER_KEY: u64 = NOT_CRITICAL;
    /// Most bytes of one of them.
    pub const LATER_FIELD_SIZE: usize = 16 * 1024;

    /// When key periods begin and end.
    pub fn schedule(&self) -> Schedule {
        Schedule::new(self.origin, &self.parameters)
    }

    /// The key period to send in.
    pub fn period(&self, now: Instant) -> Period {
        self.schedule().period(now)
    }

    /// The key periods whose packets are taken now, oldest first.
    pub fn live_periods(&self, now: Instant) -> Vec<Period> {
        self.schedule().live(now)
    }

    /// True while the document may be used: see [`Self::check_time`].
    pub fn is_live(&self, now: Instant) -> bool {
        self.check_time(now).is_ok()
    }

    /// Fails if the document is not to be used now: [`DocumentFault::Future`] or [`DocumentFault::Expired`].
    pub fn check_time(&self, now: Instant) -> Result<()> {
        if self.valid_after.instant() > now + self.schedule().grace() {
            return Err(DocumentFault::Future.into());
        }
        if self.valid_until.instant() <= now {
            return Err(DocumentFault::Expired.into());
        }
        Ok(())
    }

    /// Checks that this document, whose hash is `hash`, may take the place of `held`.
    ///
    /// [`DocumentFault::Rollback`]: it is older. [`DocumentFault::Fork`]: another one of the same epoch.
    /// [`DocumentFault::BrokenChain`]: it follows another document. Across a gap of epochs the chain cannot be checked.
    pub fn check_follows(&self, hash: DocumentHash, held: &Self, held_hash: DocumentHash) -> Result<()> {
        if self.epoch < held.epoch {
            return Err(DocumentFault::Rollback.into());
        }
        if self.epoch == held.epoch && hash != held_hash {
            return Err(DocumentFault::Fork.into());
        }
        if self.epoch.0 == held.epoch.0.saturating_add(1) && self.previous != Some(held_hash) {
            return Err(DocumentFault::BrokenChain.into());
        }
        Ok(())
    }

    /// Fails with [`DocumentFault::NotSpoken`] if the network demands a protocol that this build does not speak.
    /// (spec: DOC-8)
    pub fn check_spoken(&self) -> Result<()> {
        match self.required.iter().find(|number| !number.is_supported()) {
            Some(&number) => Err(DocumentFault::NotSpoken(number).into()),
            None => Ok(()),
        }
    }

    /// Recommended protocols that this build does not speak.
    pub fn not_spoken(&self) -> impl Iterator<Item = ProtocolNumber> + '_ {
        self.recommended.iter().copied().filter(|number| !number.is_supported())
    }

    /// The relay with this id, if it runs.
    pub fn relay(&self, id: RelayId) -> Option<&ListedRelay> {
        let index = self.relays.binary_search_by_key(&id, |relay| relay.id).ok()?;
        self.relays.get(index)
    }

    /// Why a relay that is known does not run.
    pub fn why_not_running(&self, id: RelayId) -> Option<&str> {
        self.not_running.iter().find(|relay| relay.id == id).map(|relay| relay.reason.as_str())
    }

    /// The network of `period`: its paths are drawn, and its edges checked, from this. Relays without keys
    /// of that period are left out; exits whose service key is not in `keys` carry drops only.
    pub fn to_topology(&self, period: Period, keys: Option<&ServiceKeys>) -> Topology {
        let mut topology = Topology {
            parameters: self.parameters.clone(),
            period,
            layers: Default::default(),
            entries: Vec::new(),
            exits: Vec::new(),
        };
        for relay in &self.relays {
            let Some(at) = relay.at(period) else { continue };
            let node = MixNode { id: relay.id, key: at.mix_key };
            match at.role {
                Role::Mix(layer) => {
                    let index = usize::from(layer).wrapping_sub(1);
                    if let Some(nodes) = topology.layers.get_mut(index) {
                        nodes.push(node);
                    }
                }
                Role::Entry => topology.entries.push(node),
                Role::Exit => {
                    let service_key = at.service_key.and_then(|digest| keys?.get(&digest));
                    topology.exits.push(ExitNode { node, service_key, country: relay.country });
                }
            }
        }
        topology
    }

    fn check(&self) -> Result<()> {
        let (after, fresh, until) = (self.valid_after, self.fresh_until, self.valid_until);
        let longest = self.parameters.epoch.saturating_mul(Self::LIFE_EPOCHS);
        if !(after < fresh && fresh < until && until <= after + longest) {
            return Err(malformed("the consensus holds for an impossible time"));
        }
        Ok(())
    }
}

impl ListedRelay {
    /// Its role and keys of `period`.
    pub fn at(&self, period: Period) -> Option<&RelayPeriod> {
        self.periods.iter().find(|at| at.period == period)
    }

    /// What it is made for.
    pub fn kind(&self) -> Option<RelayKind> {
        self.periods.first().map(|at| kind_of(at.role))
    }
}

impl Canonical for Consensus {
    fn write(&self, out: &mut Writer) {
        let optional = [self.previous.is_some(), self.pool.is_some(), self.made.is_some()];
        out.map(13 + optional.into_iter().filter(|is_there| *is_there).count() + self.later.len());
        out.key(0).uint(FORMAT);
        out.key(1).uint(u64::from(self.method));
        out.key(2).text(&self.network);
        out.key(3).uint(self.epoch.0);
        out.key(4).uint(self.valid_after.0);
        out.key(5).uint(self.fresh_until.0);
        out.key(6).uint(self.valid_until.0);
        if let Some(hash) = &self.previous {
            out.key(7).bytes(&hash.0);
        }
        self.parameters.write(out.key(8));
        out.key(9).uint(self.origin.0);
        out.key(10).list(&self.required);
        out.key(11).list(&self.recommended);
        out.key(12).list(&self.relays);
        out.key(13).list(&self.not_running);
        if let Some(pool) = self.pool {
            out.key(14).uint(u64::from(pool));
        }
        if let Some(Made { votes, carry, beacon }) = &self.made {
            out.key(15).array(3);
            [votes, carry, beacon].into_iter().for_each(|hash| out.bytes(hash));
        }
        for (&key, value) in &self.later {
            out.key(key).bytes(value);
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        let mut fields = input.map()?;
        if fields.key(input, 0)?.uint(u64::MAX)? != FORMAT {
            return Err(DocumentFault::OtherFormat
                .saying("the consensus' format is of another version: upgrade the older side"));
        }
        let mut consensus = Self {
            method: fields.key(input, 1)?.u32()?,
            network: fields.key(input, 2)?.text(MAX_NETWORK_NAME)?.to_owned(),
            epoch: Epoch(fields.key(input, 3)?.uint(u64::MAX)?),
            valid_after: read_time(fields.key(input, 4)?)?,
            fresh_until: read_time(fields.key(input, 5)?)?,
            valid_until: read_time(fields.key(input, 6)?)?,
            previous: match fields.optional(input, 7)? {
                true => Some(DocumentHash(input.fixed()?)),
                false => None,
            },
            parameters: Parameters::read(fields.key(input, 8)?)?,
            origin: read_time(fields.key(input, 9)?)?,
            required: ordered(fields.key(input, 10)?.list(MAX_PROTOCOLS)?, |&number| number)?,
            recommended: ordered(fields.key(input, 11)?.list(MAX_PROTOCOLS)?, |&number| number)?,
            relays: ordered(fields.key(input, 12)?.list(MAX_RELAYS)?, |relay: &ListedRelay| relay.id)?,
            not_running: ordered(fields.key(input, 13)?.list(MAX_RELAYS)?, |relay: &NotRunning| relay.id)?,
            pool: match fields.optional(input, 14)? {
                true => Some(read_coarse(input)?),
                false => None,
            },
            made: match fields.optional(input, 15)? {
                true if input.array(3)? == 3 => {
                    Some(Made { votes: input.fixed()?, carry: input.fixed()?, beacon: input.fixed()? })
                }
                true => return Err(malformed("what a document is made of has three parts")),
                false => None,
            },
            later: BTreeMap::new(),
        };
        while let Some(key) = fields.passed_over(input)? {
            if consensus.later.len() >= Self::LATER_FIELDS {
                return Err(malformed("too many fields of later versions"));
            }
            consensus.later.insert(key, input.bytes(Self::LATER_FIELD_SIZE)?.to_vec());
        }
        fields.end(input)?;
        consensus.check()?;
        Ok(consensus)
    }
}

impl Canonical for ListedRelay {
    fn write(&self, out: &mut Writer) {
        out.map(4 + usize::from(self.family.is_some()) + usize::from(self.country.is_some()));
        out.key(0).bytes(&self.id.0);
        write_addresses(out.key(1), &self.addresses);
        out.key(2).list(&self.periods);
        if let Some(family) = &self.family {
            out.key(3).bytes(&family.0);
        }
        out.key(4).uint(u64::from(self.weight));
        if let Some(country) = &self.country {
            country.write(out.key(5));
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        let mut fields = input.map()?;
        let relay = Self {
            id: RelayId(fields.key(input, 0)?.fixed()?),
            addresses: read_addresses(fields.key(input, 1)?)?,
            periods: ordered(fields.key(input, 2)?.list(MAX_LISTED_PERIODS)?, |at: &RelayPeriod| at.period)?,
            family: match fields.optional(input, 3)? {
                true => Some(FamilyId(input.fixed()?)),
                false => None,
            },
            weight: fields.key(input, 4)?.u32()?,
            country: match fields.optional(input, 5)? {
                true => Some(Country::read(input)?),
                false => None,
            },
        };
        fields.end(input)?;
        let kind = relay.kind().ok_or_else(|| malformed("a listed relay has no keys"))?;
        match relay.periods.iter().all(|at| kind_of(at.role) == kind) {
            true => Ok(relay),
            false => Err(malformed("a relay is not of one kind")),
        }
    }
}

impl Canonical for RelayPeriod {
    fn write(&self, out: &mut Writer) {
        out.map(3 + usize::from(self.service_key.is_some()));
        out.key(0).uint(u64::from(self.period.0));
        out.key(1).uint(match self.role {
            Role::Mix(layer) => u64::from(layer),
            Role::Entry => ENTRY,
            Role::Exit => EXIT,
        });
        out.key(2).bytes(self.mix_key.as_bytes());
        if let Some(digest) = &self.service_key {
            out.key(3).bytes(digest);
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        let mut fields = input.map()?;
        let at = Self {
            period: Period(fields.key(input, 0)?.u32()?),
            role: match fields.key(input, 1)?.uint(EXIT)? {
                layer @ 1..=3 => Role::Mix(layer as u8),
                ENTRY => Role::Entry,
                EXIT => Role::Exit,
                _ => return Err(malformed("unknown role of a relay")),
            },
            mix_key: read_mix_key(fields.key(input, 2)?)?,
            service_key: match fields.optional(input, 3)? {
                true => Some(input.fixed()?),
                false => None,
            },
        };
        fields.end(input)?;
        match at.service_key.is_some() == (at.role == Role::Exit) {
            true => Ok(at),
            false => Err(malformed("exits have service keys, other relays have none")),
        }
    }
}

impl Canonical for NotRunning {
    fn write(&self, out: &mut Writer) {
        out.array(2);
        out.bytes(&self.id.0);
        out.text(&self.reason);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        match input.array(2)? {
            2 => Ok(Self { id: RelayId(input.fixed()?), reason: input.text(MAX_REASON)?.to_owned() }),
            _ => Err(malformed("a relay that does not run is an id and a reason")),
        }
    }
}

fn kind_of(role: Role) -> RelayKind {
    match role {
        Role::Mix(_) => RelayKind::Mix,
        Role::Entry => RelayKind::Entry,
        Role::Exit => RelayKind::Exit,
    }
}

/// Times that nanoseconds can count, with room to add to.
fn read_time(input: &mut Reader<'_>) -> Result<UnixTime> {
    input.uint(Duration::from_nanos(u64::MAX / 2).as_secs()).map(UnixTime)
}

/// Most relays of a network.
pub const MAX_RELAYS: usize = 16_384;
/// Most exits among them whose service keys one document holds.
pub const MAX_EXITS: usize = 4_096;

pub(super) const MAX_LISTED_PERIODS: usize = 4;
const MAX_REASON: usize = 200;
const ENTRY: u64 = 16;
const EXIT: u64 = 17;
const FORMAT: u64 = 1;
