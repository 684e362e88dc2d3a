//! Whether this machine has room for the replay tags that the configuration asks for.
//!
//! Tags of two key periods are there at a time only while the periods overlap: all of the old one, and those of
//! the first minutes of the new one. So what is needed is the share of one period and a quarter of it more.
//! (spec: RELAY-4)

use crate::config::{BYTES_A_TAG, Config, LEAST_REPLAY_MEMORY};
use crate::replay::TAG;
use mizzle_link::units::Size;
use std::path::Path;

/// What there is, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Bytes for logs in the folder of keys and tags, those of logs that are there among them.
    folder: Option<u64>,
    /// Bytes of memory in all.
    memory: Option<u64>,
}

impl Room {
    /// That of this machine, with keys and tags in `folder`, which need not be there yet.
    pub(crate) fn of(folder: &Path) -> Self {
        let existing = folder.ancestors().find(|path| path.is_dir());
        let free = existing.and_then(|path| rustix::fs::statvfs(path).ok());
        let free = free.map(|space| space.f_bavail.saturating_mul(space.f_frsize));
        Self { folder: free.map(|free| free.saturating_add(logs(folder))), memory: memory() }
    }

    /// Tags of a key period that the folder has room for.
    pub(crate) fn tags(&self) -> usize {
        let tags = self.folder.map_or(u64::MAX, |bytes| (bytes as f64 / OVERLAPPING) as u64 / TAG as u64);
        usize::try_from(tags).unwrap_or(usize::MAX)
    }

    /// What is too small for `replay_memory`, and what to do; `None` if all fits.
    pub(crate) fn complaint(&self, config: &Config, folder: &Path) -> Option<(String, String)> {
        let tags = config.replay_tags() as u64;
        let (logs, all) = (with_overlap(tags * TAG as u64), with_overlap(tags * BYTES_A_TAG));
        if let Some(folder_room) = self.folder.filter(|&room| room < logs) {
            let what = format!(
                "the replay tags of `replay_memory` = \"{}\" take up to {} in {}, which has room for {}: this relay \
                 announces only what that carries",
                config.replay_memory,
                megabytes(logs),
                folder.display(),
                megabytes(folder_room)
            );
            let fits = (folder_room as f64 / OVERLAPPING) as u64 / TAG as u64 * BYTES_A_TAG;
            let mut advice = format!(
                "give it more room, as by mount -o remount,size={}M on its tmpfs",
                logs / 1_000_000 + 1
            );
            if fits >= LEAST_REPLAY_MEMORY.0 {
                advice.push_str(&format!(", or set replay_memory = \"{} MB\"", fits / 1_000_000));
            }
            return Some((what, advice));
        }
        let most = |memory: u64| memory / 4 * 3;
        let memory = self.memory.filter(|&memory| most(memory) < all.saturating_add(PROCESS))?;
        let what = format!(
            "the replay tags of `replay_memory` = \"{}\" take up to {} of memory, and this machine has {} in all",
            config.replay_memory,
            megabytes(all),
            megabytes(memory)
        );
        let fits = (most(memory).saturating_sub(PROCESS) as f64 / OVERLAPPING) as u64;
        let advice = format!(
            "set replay_memory = \"{} MB\", by which this relay then announces, or give the machine more memory",
            (fits / 1_000_000).max(12)
        );
        Some((what, advice))
    }
}

/// So many bytes for people, to the nearest megabyte.
fn megabytes(bytes: u64) -> Size {
    Size((bytes + 500_000) / 1_000_000 * 1_000_000)
}

fn with_overlap(bytes: u64) -> u64 {
    (bytes as f64 * OVERLAPPING) as u64
}

/// Bytes of the logs that an earlier process left there.
fn logs(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let entries = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("tags-"));
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// The machine's memory, or what a container may have of it.
fn memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let all = line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024;
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse().ok());
    Some(limit.map_or(all, |limit: u64| limit.min(all)))
}

/// What the tags of a key period take while it overlaps with the next.
const OVERLAPPING: f64 = 1.25;
/// What the process takes without tags.
const PROCESS: u64 = 60_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_small_is_named_with_what_would_do() {
        let folder = Path::new("/run/x");
        // 800 MB: 67 million tags, of 667 MB of logs and as much again by half in the process.
        let config = Config::for_tests();
        let said = |folder_room: u64, memory: u64| {
            Room { folder: Some(folder_room), memory: Some(memory) }.complaint(&config, folder)
        };
        assert_eq!(said(700_000_000, 2_000_000_000), None);
        let (what, advice) = said(400_000_000, 2_000_000_000).unwrap();
        assert!(what.contains("up to 667 MB in /run/x, which has room for 400 MB"), "{what}");
        assert!(advice.contains("size=667M") && advice.contains("\"480 MB\""), "{advice}");
        let (what, advice) = said(700_000_000, 1_000_000_000).unwrap();
        assert!(what.contains("up to 1 GB of memory, and this machine has 1 GB in all"), "{what}");
        assert!(advice.contains("replay_memory = \"552 MB\""), "{advice}");
        let room = Room { folder: Some(400_000_000), memory: None };
        assert_eq!(room.tags(), 40_000_000);
        assert_eq!(Room { folder: None, memory: None }.complaint(&config, folder), None);
    }

    #[test]
    fn logs_that_are_there_have_room_already() {
        let folder = tempfile::tempdir().unwrap();
        let before = Room::of(folder.path()).folder.unwrap();
        std::fs::write(folder.path().join("tags-7"), vec![1; 5_000_000]).unwrap();
        std::fs::write(folder.path().join("other"), vec![1; 10]).unwrap();
        assert_eq!(logs(folder.path()), 5_000_000);
        // Others write to the same disk meanwhile.
        let after = Room::of(&folder.path().join("not/yet")).folder.unwrap();
        assert!(before > 5_000_000 && after > 0 && memory().unwrap() > 100_000_000);
    }
}
