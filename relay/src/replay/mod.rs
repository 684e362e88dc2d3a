//! What this relay has seen, so that it takes nothing twice: not even after `kill -9`.
//!
//! Every tag is in a log file of its key period *before* its packet goes on, and in [`memory`], in lists that
//! all threads share. The tag alone picks the list. A log lives in memory as a file (see
//! [`crate::runtime`]), is read at the start, and is deleted with its period. What cannot be written is
//! refused. (spec: RELAY-4)

mod memory;
mod trouble;

use memory::{Found, Memory};
use mizzle_link::{Error, Result};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::id::{Period, ReplayTag, SessionId};
use mizzle_protocol::mix::ReplayFilter;
use mizzle_protocol::session::SessionLog;
use prometheus::IntGauge;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use trouble::Trouble;

/// The tags of all live key periods, in one folder, one log a period.
#[derive(Debug)]
pub(crate) struct TagLog {
    folder: PathBuf,
    /// What the files are called, before the period's number.
    prefix: &'static str,
    /// Most tags of one period.
    limit: usize,
    periods: RwLock<HashMap<Period, Arc<Tags>>>,
    trouble: Trouble,
    gauge: IntGauge,
}

#[derive(Debug)]
struct Tags {
    log: File,
    /// A record was cut short, and nothing may follow it: the next process cuts it off.
    torn: AtomicBool,
    memory: Memory,
}

impl TagLog {
    /// A log in `folder`; `gauge` shows the number of tags.
    pub(crate) fn new(folder: &Path, prefix: &'static str, limit: usize, gauge: IntGauge) -> Self {
        let (periods, trouble) = (RwLock::default(), Trouble::default());
        Self { folder: folder.to_owned(), prefix, limit, periods, trouble, gauge }
    }

    /// Why packets are refused, if some were within the last minute: in words for the operator.
    pub(crate) fn trouble(&self) -> Option<&'static str> {
        self.trouble.of_late()
    }

    /// Deletes the logs of all periods but those in `live`, and opens these, reading what an earlier process left.
    pub(crate) fn set_live(&self, live: &[Period]) -> Result<()> {
        self.forget_others(live)?;
        let mut opened = Vec::new();
        {
            let periods = self.periods.read().unwrap_or_else(PoisonError::into_inner);
            for &period in live.iter().filter(|period| !periods.contains_key(period)) {
                opened.push((period, Arc::new(Tags::open(&self.path(period), self.limit)?)));
            }
        }
        let mut periods = self.periods.write().unwrap_or_else(PoisonError::into_inner);
        periods.extend(opened);
        let count: usize = periods.values().map(|tags| tags.memory.count()).sum();
        self.gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Forgets the tags of all periods but those in `live`, and gives back the room that their logs took. The keys of
    /// such a period must be gone already.
    pub(crate) fn forget_others(&self, live: &[Period]) -> Result<()> {
        self.periods
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|period, _| live.contains(period));
        self.delete_others(live)
    }

    /// Remembers `tag`: [`ErrorKind::Replayed`] if it was there, [`ErrorKind::Exhausted`] if it cannot be.
    fn remember(&self, period: Period, tag: &[u8; TAG]) -> mizzle_protocol::Result<()> {
        let tags = {
            let periods = self.periods.read().unwrap_or_else(PoisonError::into_inner);
            periods.get(&period).cloned()
        };
        // A period that is not live has no key either, so this is the gap between two updates.
        let tags = tags.ok_or_else(|| refused("no memory for this key period"))?;
        let place = match tags.memory.find(u64::from_le_bytes(*tag)) {
            Found::Fresh(place) => place,
            Found::Known => return Err(mizzle_protocol::Error::new(ErrorKind::Replayed, "seen before")),
            Found::Crowded => return Err(refused("too many tags like this one")),
        };
        if tags.memory.count() >= self.limit {
            self.trouble.note(FULL);
            return Err(refused("the replay memory is full"));
        }
        tags.append(tag).inspect_err(|_| self.trouble.note(UNWRITABLE))?;
        place.take();
        self.gauge.inc();
        Ok(())
    }

    fn path(&self, period: Period) -> PathBuf {
        self.folder.join(format!("{}-{}", self.prefix, period.0))
    }

    fn delete_others(&self, live: &[Period]) -> Result<()> {
        let failed = |error| Error::io(format!("tidy {}", self.folder.display()), error);
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let period = name
                .to_str()
                .and_then(|name| name.strip_prefix(self.prefix)?.strip_prefix('-')?.parse().ok())
                .map(Period);
            if period.is_some_and(|period| !live.contains(&period)) {
                std::fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }
}

impl ReplayFilter for TagLog {
    fn insert(&self, period: Period, tag: ReplayTag) -> mizzle_protocol::Result<()> {
        let tag = tag.0.first_chunk().ok_or_else(|| refused("a tag without bytes"))?;
        self.remember(period, tag)
    }
}

impl SessionLog for TagLog {
    fn insert(&self, period: Period, id: SessionId) -> mizzle_protocol::Result<()> {
        let id = id.0.first_chunk().ok_or_else(|| refused("a session id without bytes"))?;
        self.remember(period, id)
    }
}

impl Tags {
    fn open(path: &Path, limit: usize) -> Result<Self> {
        let failed = |error| Error::io(format!("open the replay tags in {}", path.display()), error);
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let log = options.open(path).map_err(failed)?;
        let length = log.metadata().map_err(failed)?.len();
        log.set_len(length - length % TAG as u64).map_err(failed)?;
        let mut memory = Memory::new(limit);
        memory.fill(|each| read(path, each)).map_err(failed)?;
        Ok(Self { log, torn: AtomicBool::new(false), memory })
    }

    /// Writes one record. In a file in memory this is one short system call, and atomic.
    fn append(&self, tag: &[u8; TAG]) -> mizzle_protocol::Result<()> {
        if !self.torn.load(Ordering::Acquire) {
            match (&self.log).write(tag) {
                Ok(TAG) => return Ok(()),
                Ok(0) | Err(_) => {}
                Ok(_) => self.torn.store(true, Ordering::Release),
            }
        }
        Err(refused("the replay memory cannot be written"))
    }
}

/// Calls `each` with every tag of the log at `path`.
fn read(path: &Path, each: &mut dyn FnMut(u64)) -> std::io::Result<()> {
    let mut log = BufReader::with_capacity(READ, File::open(path)?);
    let mut tag = [0; TAG];
    while !log.fill_buf()?.is_empty() {
        log.read_exact(&mut tag)?;
        each(u64::from_le_bytes(tag));
    }
    Ok(())
}

fn refused(message: &'static str) -> mizzle_protocol::Error {
    mizzle_protocol::Error::new(ErrorKind::Exhausted, message)
}

/// Bytes of a tag in the log.
pub(crate) const TAG: usize = 8;
/// For the operator: the limit is reached.
const FULL: &str = "its replay memory is full until the key period ends: raise `replay_memory`, or set `rate` to what it carries";
/// For the operator: the folder in memory does not take what is written.
const UNWRITABLE: &str = "its replay memory cannot be written. Is the folder of `runtime` full or read-only? try: \
                          mizzle-relay doctor";
/// Bytes of a log that are read at once.
const READ: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::small_file_system;
    use std::sync::atomic::AtomicUsize;

    fn log(folder: &Path, limit: usize) -> TagLog {
        TagLog::new(folder, "tags", limit, IntGauge::new("tags", "tags").unwrap())
    }

    fn kind(result: mizzle_protocol::Result<()>) -> Option<ErrorKind> {
        result.err().map(|error| error.kind())
    }

    #[test]
    fn a_tag_is_refused_the_second_time_also_by_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let first = log(folder.path(), 100);
        first.set_live(&[Period(1), Period(2)]).unwrap();
        for byte in 0..50 {
            assert_eq!(kind(first.remember(Period(1), &[byte; TAG])), None);
        }
        assert_eq!(kind(first.remember(Period(1), &[7; TAG])), Some(ErrorKind::Replayed));
        assert_eq!(kind(first.remember(Period(2), &[7; TAG])), None);
        // No farewell: the next one finds the files as a killed process leaves them.
        std::mem::forget(first);
        let second = log(folder.path(), 100);
        second.set_live(&[Period(1), Period(2)]).unwrap();
        assert_eq!(second.gauge.get(), 51);
        for byte in 0..50 {
            assert_eq!(kind(second.remember(Period(1), &[byte; TAG])), Some(ErrorKind::Replayed));
        }
        assert_eq!(kind(second.remember(Period(1), &[99; TAG])), None);
    }

    #[test]
    fn a_torn_record_harms_no_other() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tags-1"), [[1; TAG].as_slice(), &[2; 5]].concat()).unwrap();
        let first = log(folder.path(), 100);
        first.set_live(&[Period(1)]).unwrap();
        assert_eq!(kind(first.remember(Period(1), &[3; TAG])), None);
        let second = log(folder.path(), 100);
        second.set_live(&[Period(1)]).unwrap();
        for (byte, known) in [(1, true), (2, false), (3, true)] {
            assert_eq!(kind(second.remember(Period(1), &[byte; TAG])).is_some(), known);
        }
    }

    #[test]
    fn nothing_follows_a_record_that_was_cut_short() {
        let name = "replay::tests::nothing_follows_a_record_that_was_cut_short";
        small_file_system::with(name, |folder| {
            // At an odd place, so that the last page ends within a record.
            let path = folder.join("tags-1");
            std::fs::write(&path, [0; 4]).unwrap();
            let file = OpenOptions::new().append(true).open(&path).unwrap();
            let tags = Tags { log: file, torn: AtomicBool::new(false), memory: Memory::new(100_000) };
            std::fs::write(folder.join("other"), [0; 4096]).unwrap();
            while tags.append(&[7; TAG]).is_ok() {}
            assert_eq!(std::fs::metadata(&path).unwrap().len() % 4096, 0);
            std::fs::remove_file(folder.join("other")).unwrap();
            assert_eq!(kind(tags.append(&[8; TAG])), Some(ErrorKind::Exhausted));
        });
    }

    #[test]
    fn what_cannot_be_remembered_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path(), 2);
        log.set_live(&[Period(1)]).unwrap();
        assert_eq!(kind(log.remember(Period(9), &[1; TAG])), Some(ErrorKind::Exhausted));
        assert_eq!(kind(log.remember(Period(1), &[1; TAG])), None);
        assert_eq!(kind(log.remember(Period(1), &[2; TAG])), None);
        assert_eq!(kind(log.remember(Period(1), &[3; TAG])), Some(ErrorKind::Exhausted));
        assert_eq!(kind(log.remember(Period(1), &[1; TAG])), Some(ErrorKind::Replayed));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_refuses_the_packet() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let tags = Tags { log: full, torn: AtomicBool::new(false), memory: Memory::new(2) };
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path(), 2);
        log.periods.write().unwrap().insert(Period(1), Arc::new(tags));
        assert_eq!(log.trouble(), None);
        assert_eq!(kind(log.remember(Period(1), &[1; TAG])), Some(ErrorKind::Exhausted));
        assert_eq!(kind(log.remember(Period(1), &[1; TAG])), Some(ErrorKind::Exhausted));
        assert_eq!(log.trouble(), Some(UNWRITABLE));
    }

    #[test]
    fn logs_are_deleted_with_their_periods_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("identity"), "x").unwrap();
        std::fs::write(folder.path().join("tags-0"), "").unwrap();
        let log = log(folder.path(), 100);
        log.set_live(&[Period(1), Period(2)]).unwrap();
        log.set_live(&[Period(2)]).unwrap();
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["identity", "tags-2"]);
    }

    #[test]
    fn one_of_many_threads_wins_a_tag() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path(), 100_000);
        log.set_live(&[Period(1)]).unwrap();
        let wins = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..1_000u64 {
                        // Spread over all bits, as hashes are.
                        let tag = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                        let won = log.remember(Period(1), &tag.to_le_bytes()).is_ok();
                        wins.fetch_add(usize::from(won), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(wins.into_inner(), 1_000);
        assert_eq!(std::fs::metadata(folder.path().join("tags-1")).unwrap().len(), 1_000 * TAG as u64);
    }
}
