//! Which entry a client uses: a small sampled set, kept for long, so that who runs many entries does not get
//! to see every client sooner or later. (spec: ENTRY-1 to ENTRY-5)
//!
//! Three are sampled and kept for 60 days. One is used; when it cannot be reached, the next of the three.
//! An entry is replaced only after the consensus has not listed it for a day. A client whose three are all
//! gone has an error, not a fourth entry: whoever can make entries fail must not be able to walk a client
//! to their own.

use crate::{Error, ErrorKind, Result};
use mizzle_link::write_atomically;
use mizzle_protocol::id::{RelayId, from_hex, to_hex};
use mizzle_protocol::path::below;
use mizzle_protocol::secret::Secret;
use mizzle_protocol::time::UnixTime;
use rand_core::Rng;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

/// The sampled entries, and which one is in use.
#[derive(Debug)]
pub(crate) struct EntrySet {
    kept: Vec<Entry>,
    current: usize,
}

/// One sampled entry.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Its identity.
    pub(crate) id: RelayId,
    /// When it was sampled.
    pub(crate) since: UnixTime,
    /// Since when the consensus has not listed it.
    pub(crate) unlisted: Option<UnixTime>,
    /// Reclaims this client's address there after a reconnect.
    pub(crate) reclaim: Secret<32>,
}

impl EntrySet {
    /// No entry yet.
    pub(crate) fn new() -> Self {
        Self { kept: Vec::new(), current: 0 }
    }

    /// The set in `path`; empty if there is no such file.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::new()),
            Err(error) => return Err(Error::storage(FILE, &error)),
        };
        // Starting over with other entries would be the silent change that the set is there to prevent.
        Self::parse(&text).ok_or_else(|| {
            Error::new(
                ErrorKind::Storage,
                format!(
                    "{FILE} in the state directory is damaged: restore it, or remove it to draw new entries"
                ),
            )
        })
    }

    /// Writes the set to `path`, whole or not at all.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let stored = Stored {
            format: FORMAT,
            current: self.current,
            entry: self.kept.iter().map(StoredEntry::from).collect(),
        };
        let text =
            toml::to_string(&stored).map_err(|error| Error::new(ErrorKind::Storage, error.to_string()))?;
        write_atomically(path, text.as_bytes()).map_err(|error| Error::storage(FILE, &error))
    }

    /// The entry in use.
    pub(crate) fn current(&self) -> Option<&Entry> {
        self.kept.get(self.current)
    }

    /// All of the set, the one in use first.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = &Entry> {
        let (before, from) = self.kept.split_at(self.current.min(self.kept.len()));
        from.iter().chain(before)
    }

    /// Takes note of who is listed, drops what is too old or long unlisted, and fills up with random listed
    /// entries; `first`, if listed, goes in before any is drawn. True if anything changed.
    pub(crate) fn update(
        &mut self,
        now: UnixTime,
        listed: &[RelayId],
        first: Option<RelayId>,
        rng: &mut impl Rng,
    ) -> bool {
        let mut changed = false;
        for entry in &mut self.kept {
            let unlisted = match listed.contains(&entry.id) {
                true => None,
                false => entry.unlisted.or(Some(now)),
            };
            changed |= unlisted != entry.unlisted;
            entry.unlisted = unlisted;
        }
        let current = self.current().map(|entry| entry.id);
        let count = self.kept.len();
        self.kept.retain(|entry| {
            let gone = entry.unlisted.is_some_and(|since| now - UNLISTED_FOR >= since);
            !gone && now - KEPT_FOR < entry.since
        });
        changed |= self.kept.len() != count;
        // Who leaves hands over to the next in line.
        self.current = current.and_then(|id| self.kept.iter().position(|entry| entry.id == id)).unwrap_or(0);

        if let Some(id) = first.filter(|id| self.kept.is_empty() && listed.contains(id)) {
            self.kept.push(Entry::sample(id, now, rng));
            changed = true;
        }
        while self.kept.len() < SAMPLED {
            let fresh: Vec<RelayId> =
                listed.iter().filter(|id| self.position(**id).is_none()).copied().collect();
            let Some(&id) = below(fresh.len(), rng).and_then(|index| fresh.get(index)) else { break };
            self.kept.push(Entry::sample(id, now, rng));
            changed = true;
        }
        changed
    }

    /// Goes on to the next listed entry of the set. False if there is no other.
    pub(crate) fn advance(&mut self) -> bool {
        let count = self.kept.len();
        let next = (1..count)
            .map(|step| (self.current + step) % count)
            .find(|&index| self.kept.get(index).is_some_and(|entry| entry.unlisted.is_none()));
        self.current = next.unwrap_or(self.current);
        next.is_some()
    }

    fn position(&self, id: RelayId) -> Option<usize> {
        self.kept.iter().position(|entry| entry.id == id)
    }

    fn parse(text: &str) -> Option<Self> {
        let stored: Stored = toml::from_str(text).ok()?;
        let kept = stored.entry.iter().map(StoredEntry::restore).collect::<Option<Vec<_>>>()?;
        (stored.format == FORMAT)
            .then(|| Self { current: stored.current.min(kept.len().saturating_sub(1)), kept })
    }
}

impl Entry {
    fn sample(id: RelayId, now: UnixTime, rng: &mut impl Rng) -> Self {
        let mut reclaim = [0; 32];
        rng.fill_bytes(&mut reclaim);
        Self { id, since: now, unlisted: None, reclaim: Secret::new(reclaim) }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    current: usize,
    #[serde(default)]
    entry: Vec<StoredEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredEntry {
    id: String,
    since: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unlisted: Option<u64>,
    reclaim: String,
}

impl From<&Entry> for StoredEntry {
    fn from(entry: &Entry) -> Self {
        Self {
            id: entry.id.to_hex(),
            since: entry.since.0,
            unlisted: entry.unlisted.map(|since| since.0),
            reclaim: to_hex(entry.reclaim.expose()),
        }
    }
}

impl StoredEntry {
    fn restore(&self) -> Option<Entry> {
        Some(Entry {
            id: RelayId::from_hex(&self.id).ok()?,
            since: UnixTime(self.since),
            unlisted: self.unlisted.map(UnixTime),
            reclaim: Secret::new(from_hex(&self.reclaim).ok()?),
        })
    }
}

/// Name of the file in the state directory.
pub(crate) const FILE: &str = "entries.toml";
const FORMAT: u32 = 1;
/// Entries sampled at once.
const SAMPLED: usize = 3;
/// How long a sampled entry is kept.
const KEPT_FOR: Duration = Duration::from_secs(60 * 24 * 3_600);
/// How long an entry may be missing from the consensus before another takes its place.
const UNLISTED_FOR: Duration = Duration::from_secs(24 * 3_600);

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    const DAY: Duration = Duration::from_secs(24 * 3_600);
    const START: UnixTime = UnixTime(1_700_000_000);

    fn relays(range: std::ops::Range<u8>) -> Vec<RelayId> {
        range.map(|byte| RelayId([byte; 32])).collect()
    }

    fn ids(set: &EntrySet) -> Vec<RelayId> {
        set.kept.iter().map(|entry| entry.id).collect()
    }

    fn sampled(listed: &[RelayId], rng: &mut ChaCha20Rng) -> EntrySet {
        let mut set = EntrySet::new();
        assert!(set.update(START, listed, Some(RelayId([2; 32])), rng));
        set
    }

    #[test]
    fn three_are_sampled_and_the_bootstrap_mirror_is_used_first() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut set = sampled(&relays(0..9), &mut rng);
        assert_eq!(set.kept.len(), 3);
        assert!(set.current().unwrap().id == RelayId([2; 32]));
        assert!(!set.update(START, &relays(0..9), None, &mut rng));
        // One that is not listed is never taken.
        let mut other = EntrySet::new();
        other.update(START, &relays(0..1), Some(RelayId([2; 32])), &mut rng);
        assert!(ids(&other) == relays(0..1));
    }

    #[test]
    fn an_unlisted_entry_is_replaced_after_a_day_and_not_before() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let mut set = sampled(&relays(0..3), &mut rng);
        let before = ids(&set);
        let others: Vec<RelayId> = relays(0..9).into_iter().filter(|id| *id != RelayId([2; 32])).collect();
        assert!(set.update(START, &others, None, &mut rng));
        set.update(START + DAY - Duration::from_secs(1), &others, None, &mut rng);
        assert!(ids(&set) == before);
        // Listed again in between: the day starts anew.
        set.update(START + DAY, &relays(0..9), None, &mut rng);
        set.update(START + DAY, &others, None, &mut rng);
        set.update(START + DAY * 2 - Duration::from_secs(1), &others, None, &mut rng);
        assert!(ids(&set) == before);
        set.update(START + DAY * 2, &others, None, &mut rng);
        assert!(!ids(&set).contains(&RelayId([2; 32])) && set.kept.len() == 3);
        assert!(set.current().unwrap().id == before[1]);
    }

    #[test]
    fn entries_are_drawn_anew_after_sixty_days() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let mut set = sampled(&relays(0..9), &mut rng);
        assert!(!set.update(START + DAY * 60 - Duration::from_secs(1), &relays(0..9), None, &mut rng));
        assert!(set.update(START + DAY * 60, &relays(0..9), None, &mut rng));
        assert!(set.kept.iter().all(|entry| entry.since == START + DAY * 60));
    }

    #[test]
    fn going_on_stays_within_the_three_and_skips_the_unlisted() {
        let mut rng = ChaCha20Rng::seed_from_u64(4);
        let mut set = sampled(&relays(0..9), &mut rng);
        let three = ids(&set);
        for round in 1..7 {
            assert!(set.advance());
            assert!(set.current().unwrap().id == three[round % 3]);
        }
        set.update(START, &three[..1], None, &mut rng);
        assert!(!set.advance());
        assert!(!EntrySet::new().advance());
    }

    #[test]
    fn the_set_survives_a_restart_and_damage_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        assert!(EntrySet::load(&path).unwrap().current().is_none());
        let mut set = sampled(&relays(0..9), &mut ChaCha20Rng::seed_from_u64(5));
        set.advance();
        set.save(&path).unwrap();
        let loaded = EntrySet::load(&path).unwrap();
        assert!(ids(&loaded) == ids(&set) && loaded.current == 1);
        assert_eq!(loaded.kept[1].reclaim, set.kept[1].reclaim);
        std::fs::write(&path, "format = 1\ncurrent = 0\n[[entry]]\nid = \"5\"\n").unwrap();
        assert_eq!(EntrySet::load(&path).unwrap_err().kind(), ErrorKind::Storage);
    }
}
