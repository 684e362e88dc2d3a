//! The document of a list of votes: computed, not written, so that every authority signs the same bytes.
//! (spec: COUNCIL-6, COUNCIL-7)

use crate::beacon::Beacon;
use crate::carry::Carry;
use crate::engine::{Digest, Height, VoteList};
use crate::seats::Seats;
use crate::vote::{Rules, SignedVote};
use malachite_types::Value as _;
use mizzle_protocol::consensus::cbor::encode;
use mizzle_protocol::consensus::{
    Consensus, Descriptor, DocumentHash, Made, ProtocolNumber, Schedule, ServiceKeys,
};
use mizzle_protocol::id::Epoch;
use mizzle_protocol::path::Parameters;
use mizzle_protocol::time::{Instant, UnixTime};
use mizzle_protocol::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The document before, and what belongs to it.
#[derive(Clone, Debug)]
pub struct Past {
    /// Its hash and itself; `None` in a network without a past.
    pub document: Option<(DocumentHash, Consensus)>,
    /// The service keys that it names.
    pub service_keys: ServiceKeys,
    /// What authorities carried on with it.
    pub carry: Carry,
}

/// A document, and what belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// What is to be signed.
    pub consensus: Consensus,
    /// The keys that it names.
    pub service_keys: ServiceKeys,
    /// What authorities carry on.
    pub carry: Carry,
}

/// All that a document is made from.
pub(crate) struct Making<'a> {
    pub(crate) seats: &'a Seats,
    pub(crate) votes: &'a [&'a SignedVote],
    pub(crate) descriptor: &'a dyn Fn(&Digest) -> Option<Arc<Descriptor>>,
    pub(crate) previous: Option<&'a (DocumentHash, Consensus)>,
    pub(crate) service_keys: &'a ServiceKeys,
    pub(crate) carry: &'a Carry,
    pub(crate) beacon: &'a Beacon,
    pub(crate) parameters: &'a Parameters,
    pub(crate) required: &'a [ProtocolNumber],
    pub(crate) cap: u32,
    pub(crate) schedule: Schedule,
    pub(crate) now: Instant,
}

/// The document of `votes`, in order of their seats; `descriptor` finds those that they name.
///
/// [`ErrorKind::Incompatible`] if no method is known to more than two thirds of the authorities, or not to this
/// build.
pub fn make(
    seats: &Seats,
    height: Height,
    past: &Past,
    votes: &[&SignedVote],
    descriptor: &dyn Fn(&Digest) -> Option<Arc<Descriptor>>,
) -> Result<Document> {
    let method = method(seats, votes)?;
    let previous = past.document.as_ref();
    let before = previous.map(|(_, consensus)| consensus);
    let valid_after = before.map_or(UnixTime(0), |before| before.valid_after).max(median_time(votes));
    let now = valid_after.instant();
    let origin = before.map_or(valid_after, |before| before.origin);
    let rules = rules(votes, before);
    let parameters = rules.parameters.rounded();
    let schedule = Schedule::new(origin, &parameters);
    let mut beacon = past.carry.beacon.clone();
    let lots = votes.iter().map(|vote| (vote.seat, vote.vote.authority, vote.vote.lot));
    beacon.step(&schedule, parameters.key_period, now, lots);
    let making = Making {
        seats,
        votes,
        descriptor,
        previous,
        service_keys: &past.service_keys,
        carry: &past.carry,
        beacon: &beacon,
        parameters: &parameters,
        required: &rules.required,
        cap: rules.cap.max(1),
        schedule,
        now,
    };
    let listing = making.list(Epoch(height.0));
    let service_keys = service_keys(past, votes, descriptor, &listing.relays);
    let carry =
        Carry { unseen: listing.unseen, layers: listing.layers, standings: listing.standings, beacon };
    let list = VoteList(votes.iter().map(|vote| (vote.seat, vote.digest)).collect());
    let consensus = Consensus {
        method,
        network: seats.network().to_owned(),
        epoch: Epoch(height.0),
        valid_after,
        fresh_until: valid_after + if rules.settled { parameters.epoch } else { SOON },
        valid_until: valid_after + parameters.epoch * Consensus::LIFE_EPOCHS,
        previous: previous.map(|(hash, _)| *hash),
        origin,
        required: rules.required,
        recommended: rules.recommended,
        relays: listing.relays,
        not_running: listing.not_running,
        pool: listing.pool,
        made: Some(Made { votes: list.id().0, carry: carry.hash(), beacon: carry.beacon.value }),
        parameters,
        later: BTreeMap::new(),
    };
    Ok(Document { consensus, service_keys, carry })
}

/// The highest method that more than two thirds of the authorities can follow.
fn method(seats: &Seats, votes: &[&SignedVote]) -> Result<u32> {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for vote in votes {
        vote.vote.rules.methods.iter().for_each(|&method| *counts.entry(method).or_default() += 1);
    }
    let agreed =
        counts.into_iter().rev().find(|(_, count)| *count >= seats.quorum()).map(|(method, _)| method);
    match agreed {
        Some(method) if METHODS.contains(&method) => Ok(method),
        Some(method) => {
            let message =
                format!("the other authorities make documents by method {method}: upgrade this one");
            Err(Error::new(ErrorKind::Incompatible, message))
        }
        None => {
            let message = "no method of making documents is known to more than two thirds of the authorities";
            Err(Error::new(ErrorKind::Incompatible, message))
        }
    }
}

/// The lower of two in the middle: neither liars nor wrong clocks, fewer than half, can move it beyond the others'.
fn median_time(votes: &[&SignedVote]) -> UnixTime {
    let mut times: Vec<_> = votes.iter().map(|vote| vote.vote.time).collect();
    times.sort_unstable();
    times.get(times.len().saturating_sub(1) / 2).copied().unwrap_or(UnixTime(0))
}

/// What more than half of the votes say alike; else what held before, or what the first says.
fn rules(votes: &[&SignedVote], before: Option<&Consensus>) -> Rules {
    let most = |same: &dyn Fn(&Rules) -> Vec<u8>| {
        let mut counts: BTreeMap<Vec<u8>, (usize, &Rules)> = BTreeMap::new();
        for vote in votes {
            counts.entry(same(&vote.vote.rules)).or_insert((0, &vote.vote.rules)).0 += 1;
        }
        counts.into_values().find(|(count, _)| count * 2 > votes.len()).map(|(_, rules)| rules)
    };
    let lists = |rules: &Rules| {
        let numbers = rules.required.iter().chain([&SEPARATOR]).chain(&rules.recommended);
        numbers.flat_map(encode).collect()
    };
    let first = votes.first().map(|vote| vote.vote.rules.clone()).unwrap_or_else(|| Rules {
        methods: METHODS.to_vec(),
        parameters: Parameters::default(),
        required: ProtocolNumber::SUPPORTED.to_vec(),
        recommended: ProtocolNumber::SUPPORTED.to_vec(),
        cap: u32::MAX,
        settled: true,
    });
    let held = Rules {
        parameters: before.map_or(first.parameters.clone(), |before| before.parameters.clone()),
        required: before.map_or(first.required.clone(), |before| before.required.clone()),
        recommended: before.map_or(first.recommended.clone(), |before| before.recommended.clone()),
        ..first
    };
    let mut parameters = most(&|rules| encode(&rules.parameters))
        .map_or(held.parameters.clone(), |most| most.parameters.clone());
    if before.is_some_and(|before| before.parameters.key_period != parameters.key_period)
        || parameters.check().is_err()
    {
        // The periods of a network cannot change, for its keys are numbered by them.
        parameters = held.parameters;
    }
    let protocols = most(&lists);
    Rules {
        methods: METHODS.to_vec(),
        parameters,
        required: protocols.map_or(held.required, |most| most.required.clone()),
        recommended: protocols.map_or(held.recommended, |most| most.recommended.clone()),
        cap: median(votes.iter().map(|vote| vote.vote.rules.cap)),
        settled: votes.iter().filter(|vote| vote.vote.rules.settled).count() * 2 > votes.len(),
    }
}

fn median(numbers: impl Iterator<Item = u32>) -> u32 {
    let mut numbers: Vec<_> = numbers.collect();
    numbers.sort_unstable();
    numbers.get(numbers.len().saturating_sub(1) / 2).copied().unwrap_or(u32::MAX)
}

/// The service keys that the listed relays have in their periods.
fn service_keys(
    past: &Past,
    votes: &[&SignedVote],
    descriptor: &dyn Fn(&Digest) -> Option<Arc<Descriptor>>,
    relays: &[mizzle_protocol::consensus::ListedRelay],
) -> ServiceKeys {
    let mut service_keys = ServiceKeys::new();
    let exits: BTreeMap<_, _> = relays
        .iter()
        .map(|listed| (listed.id, listed.periods.iter().filter_map(|at| at.service_key).collect::<Vec<_>>()))
        .filter(|(_, digests)| !digests.is_empty())
        .collect();
    for vote in votes {
        for seen in vote.vote.relays.iter().filter(|seen| exits.contains_key(&seen.relay)) {
            let Some(digests) = exits.get(&seen.relay) else { continue };
            if digests.iter().all(|digest| service_keys.contains(digest)) {
                continue;
            }
            let Some(descriptor) = descriptor(&seen.descriptor) else { continue };
            for key in descriptor.keys.iter().filter_map(|keys| keys.service.as_ref()) {
                if digests.contains(&key.digest()) {
                    service_keys.insert(key);
                }
            }
        }
    }
    for digest in exits.values().flatten() {
        if let (false, Some(key)) = (service_keys.contains(digest), past.service_keys.get(digest)) {
            service_keys.insert(&key);
        }
    }
    service_keys
}

/// The methods that this build can follow, in order.
pub const METHODS: [u32; 1] = [2];

/// Documents of an incomplete network ask to be fetched anew so soon.
const SOON: Duration = Duration::from_secs(1);
/// Between two lists, so that neither can run into the other.
const SEPARATOR: ProtocolNumber = ProtocolNumber { protocol: u16::MAX, version: u16::MAX };
