//! From one consensus to a later one: what has changed, and the later one's signatures. (spec: DOC-14)
//!
//! ```text
//! 0 format   1 hash of the old   2 hash of the new   3 signatures   4 the new one without its lists
//! 5 places of relays that are gone   6 relays changed in place   7 whole relays, new or instead of what was there
//! 8 places of those not running that are gone   9 those not running, new or instead of what was there
//! ```
//!
//! Places are those of the old document's lists. Most relays change in two things only: their weight, at every
//! measurement, and the keys of a period, which come and go while the others stay. These are said in place, in some bytes;
//! whatever else is another is told whole. A diff is not signed: it is applied, and what comes out has the hash that was
//! promised and is then verified as any other document, or is nothing.

use super::cbor::{self, Canonical, Reader, Writer, malformed};
use super::document::{
    Consensus, DocumentHash, ListedRelay, MAX_LISTED_PERIODS, MAX_RELAYS, NotRunning, RelayPeriod,
};
use super::fault::DocumentFault;
use super::ordered;
use super::signed::{AuthoritySignature, MAX_CONSENSUS_SIZE, Signed, read_signatures};
use crate::Result;
use crate::id::RelayId;

/// What leads from one consensus to another.
#[derive(Clone, Debug, PartialEq)]
pub struct Diff {
    pub(super) from: DocumentHash,
    pub(super) to: DocumentHash,
    pub(super) signatures: Vec<AuthoritySignature>,
    /// All but the lists of relays.
    pub(super) head: Consensus,
    pub(super) relays_gone: Vec<Place>,
    pub(super) relays_changed: Vec<Change>,
    pub(super) relays_whole: Vec<ListedRelay>,
    pub(super) not_running_gone: Vec<Place>,
    pub(super) not_running_whole: Vec<NotRunning>,
}

impl Diff {
    /// The way from `old`, whose hash is `from`, to the document `new`, which `signed` holds.
    pub fn between(old: &Consensus, from: DocumentHash, new: &Consensus, signed: &Signed) -> Self {
        let mut diff = Self {
            from,
            to: signed.hash(),
            signatures: signed.signatures().to_vec(),
            head: Consensus { relays: Vec::new(), not_running: Vec::new(), ..new.clone() },
            relays_gone: Vec::new(),
            relays_changed: Vec::new(),
            relays_whole: Vec::new(),
            not_running_gone: Vec::new(),
            not_running_whole: Vec::new(),
        };
        compare(&old.relays, &new.relays, |place, before, after| match (before, after) {
            (Some(_), None) => diff.relays_gone.push(place),
            (None, Some(after)) => diff.relays_whole.push(after.clone()),
            (Some(before), Some(after)) => match Change::between(place, before, after) {
                Some(change) => diff.relays_changed.push(change),
                None => diff.relays_whole.push(after.clone()),
            },
            (None, None) => {}
        });
        compare(&old.not_running, &new.not_running, |place, before, after| match (before, after) {
            (Some(_), None) => diff.not_running_gone.push(place),
            (_, Some(after)) => diff.not_running_whole.push(after.clone()),
            (None, None) => {}
        });
        diff
    }

    /// The document that it begins at.
    pub fn from(&self) -> DocumentHash {
        self.from
    }

    /// The document that it leads to.
    pub fn to(&self) -> DocumentHash {
        self.to
    }

    /// The later document, from `held` and its hash; nothing is verified but that it is the one that was promised.
    ///
    /// Fails with [`DocumentFault::WrongDiff`] if it begins at another document, or does not lead to the one that it names.
    pub fn apply(&self, held: &Consensus, hash: DocumentHash) -> Result<Signed> {
        if self.from != hash {
            return Err(DocumentFault::WrongDiff.into());
        }
        let mut changes = self.relays_changed.iter().peekable();
        let mut relays = kept(&held.relays, &self.relays_gone)?;
        for (place, relay) in &mut relays {
            if let Some(change) = changes.next_if(|change| change.place == *place) {
                change.apply(relay)?;
            }
        }
        // One that changes what is gone, or was never there.
        if changes.next().is_some() {
            return Err(DocumentFault::WrongDiff.into());
        }
        let not_running = kept(&held.not_running, &self.not_running_gone)?;
        let consensus = Consensus {
            relays: merged(relays, &self.relays_whole)?,
            not_running: merged(not_running, &self.not_running_whole)?,
            ..self.head.clone()
        };
        let signed = Signed::from_parts(cbor::encode(&consensus), self.signatures.clone());
        match signed.hash() == self.to {
            true => Ok(signed),
            false => Err(DocumentFault::WrongDiff.into()),
        }
    }

    /// The diff's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// Parses a diff. What it takes in memory is in proportion to the bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        cbor::decode(bytes, MAX_DIFF_SIZE)
    }
}

/// A relay of the old document with another weight, or keys of other periods.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) place: Place,
    pub(super) weight: Option<u32>,
    pub(super) periods: Option<NewPeriods>,
}

/// Which of the old periods stay as they are, a bit for each, the oldest lowest; and the others.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NewPeriods {
    stay: u64,
    fresh: Vec<RelayPeriod>,
}

impl Change {
    /// `None` if the relay has to be told whole.
    fn between(place: Place, before: &ListedRelay, after: &ListedRelay) -> Option<Self> {
        let told = ListedRelay { weight: after.weight, periods: after.periods.clone(), ..before.clone() };
        let stays = |at: &RelayPeriod| after.periods.contains(at);
        let of_before = before.periods.iter().enumerate();
        let stay = of_before.filter(|(_, at)| stays(at)).fold(0, |stay, (index, _)| stay | 1 << index);
        let fresh: Vec<_> = after.periods.iter().filter(|at| !before.periods.contains(at)).cloned().collect();
        (told == *after).then(|| Self {
            place,
            weight: (before.weight != after.weight).then_some(after.weight),
            periods: (before.periods != after.periods).then_some(NewPeriods { stay, fresh }),
        })
    }

    fn apply(&self, relay: &mut ListedRelay) -> Result<()> {
        relay.weight = self.weight.unwrap_or(relay.weight);
        let Some(NewPeriods { stay, fresh }) = &self.periods else { return Ok(()) };
        let mut index = 0;
        relay.periods.retain(|_| {
            index += 1;
            stay >> (index - 1) & 1 == 1
        });
        relay.periods.extend(fresh.iter().cloned());
        relay.periods.sort_by_key(|at| at.period);
        Ok(())
    }
}

/// Where something stands in a list of the old document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(pub(super) usize);

/// What both lists of a document are made of.
trait Listed: Clone + PartialEq {
    fn id(&self) -> RelayId;
}

impl Listed for ListedRelay {
    fn id(&self) -> RelayId {
        self.id
    }
}

impl Listed for NotRunning {
    fn id(&self) -> RelayId {
        self.id
    }
}

/// Walks both lists, which are in order, and tells each thing that is not the same in both.
fn compare<T: Listed>(old: &[T], new: &[T], mut differs: impl FnMut(Place, Option<&T>, Option<&T>)) {
    let mut old = old.iter().enumerate().peekable();
    let mut new = new.iter().peekable();
    loop {
        let ids = (old.peek().map(|(_, thing)| thing.id()), new.peek().map(|thing| thing.id()));
        let (takes_old, takes_new) = match ids {
            (None, None) => return,
            (Some(before), Some(after)) => (before <= after, after <= before),
            (before, after) => (before.is_some(), after.is_some()),
        };
        let before = if takes_old { old.next() } else { None };
        let after = if takes_new { new.next() } else { None };
        let place = Place(before.map_or(0, |(index, _)| index));
        let before = before.map(|(_, thing)| thing);
        if before != after {
            differs(place, before, after);
        }
    }
}

/// The list without what is gone, each thing with its place.
fn kept<T: Listed>(list: &[T], gone: &[Place]) -> Result<Vec<(Place, T)>> {
    if gone.last().is_some_and(|last| last.0 >= list.len()) {
        return Err(DocumentFault::WrongDiff.into());
    }
    let mut gone = gone.iter().peekable();
    let placed = list.iter().enumerate().map(|(index, thing)| (Place(index), thing));
    Ok(placed
        .filter(|(place, _)| gone.next_if(|gone| *gone == place).is_none())
        .map(|(place, thing)| (place, thing.clone()))
        .collect())
}

/// What stays, with what is told whole in its places; in order.
fn merged<T: Listed>(stay: Vec<(Place, T)>, whole: &[T]) -> Result<Vec<T>> {
    let mut merged = Vec::new();
    let mut stay = stay.into_iter().map(|(_, thing)| thing).peekable();
    for thing in whole {
        while let Some(before) = stay.next_if(|before| before.id() < thing.id()) {
            merged.push(before);
        }
        // Told whole, it takes the place of what was there.
        let _ = stay.next_if(|before| before.id() == thing.id());
        merged.push(thing.clone());
    }
    merged.extend(stay);
    match merged.len() <= MAX_RELAYS {
        true => Ok(merged),
        false => Err(DocumentFault::WrongDiff.into()),
    }
}

impl Canonical for Diff {
    fn write(&self, out: &mut Writer) {
        out.map(10);
        out.key(0).uint(FORMAT);
        out.key(1).bytes(&self.from.0);
        out.key(2).bytes(&self.to.0);
        out.key(3).list(&self.signatures);
        self.head.write(out.key(4));
        out.key(5).list(&self.relays_gone);
        out.key(6).list(&self.relays_changed);
        out.key(7).list(&self.relays_whole);
        out.key(8).list(&self.not_running_gone);
        out.key(9).list(&self.not_running_whole);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        let mut fields = input.map()?;
        if fields.key(input, 0)?.uint(u64::MAX)? != FORMAT {
            return Err(DocumentFault::OtherFormat.into());
        }
        let diff = Self {
            from: DocumentHash(fields.key(input, 1)?.fixed()?),
            to: DocumentHash(fields.key(input, 2)?.fixed()?),
            signatures: read_signatures(fields.key(input, 3)?)?,
            head: Consensus::read(fields.key(input, 4)?)?,
            relays_gone: ordered(fields.key(input, 5)?.list(MAX_RELAYS)?, |&place| place)?,
            relays_changed: ordered(fields.key(input, 6)?.list(MAX_RELAYS)?, |change: &Change| change.place)?,
            relays_whole: ordered(fields.key(input, 7)?.list(MAX_RELAYS)?, |relay: &ListedRelay| relay.id)?,
            not_running_gone: ordered(fields.key(input, 8)?.list(MAX_RELAYS)?, |&place| place)?,
            not_running_whole: ordered(fields.key(input, 9)?.list(MAX_RELAYS)?, |relay: &NotRunning| {
                relay.id
            })?,
        };
        fields.end(input)?;
        match diff.head.relays.is_empty() && diff.head.not_running.is_empty() {
            true => Ok(diff),
            false => Err(malformed("a diff has its relays beside the rest")),
        }
    }
}

impl Canonical for Change {
    fn write(&self, out: &mut Writer) {
        out.map(1 + usize::from(self.weight.is_some()) + 2 * usize::from(self.periods.is_some()));
        self.place.write(out.key(0));
        if let Some(weight) = self.weight {
            out.key(1).uint(u64::from(weight));
        }
        if let Some(NewPeriods { stay, fresh }) = &self.periods {
            out.key(2).uint(*stay);
            out.key(3).list(fresh);
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        let mut fields = input.map()?;
        let change = Self {
            place: Place::read(fields.key(input, 0)?)?,
            weight: match fields.optional(input, 1)? {
                true => Some(input.u32()?),
                false => None,
            },
            periods: match fields.optional(input, 2)? {
                true => Some(NewPeriods {
                    stay: input.uint((1 << MAX_LISTED_PERIODS) - 1)?,
                    fresh: fields.key(input, 3)?.list(MAX_LISTED_PERIODS)?,
                }),
                false => None,
            },
        };
        fields.end(input)?;
        Ok(change)
    }
}

impl Canonical for Place {
    fn write(&self, out: &mut Writer) {
        out.uint(self.0 as u64);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        input.uint(MAX_RELAYS as u64 - 1).map(|place| Self(place as usize))
    }
}

/// Largest diff, in bytes. One that is larger than the document itself is of no use to anybody.
pub const MAX_DIFF_SIZE: usize = MAX_CONSENSUS_SIZE;

const FORMAT: u64 = 1;
