//! The browser's folder: its owner's alone, and gone when the browser is. (spec: DAILY-10)
//!
//! A lock says that somebody uses it. The browser inherits the lock, so that it holds for as long as either lives,
//! and what a crash left is known by a lock that nobody holds.

use rustix::io::{FdFlags, fcntl_setfd};
use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A folder that is in use. Dropped without [`Self::remove`], it is tried once.
#[derive(Debug)]
pub(super) struct Profile {
    folder: PathBuf,
    _lock: File,
}

impl Profile {
    /// Makes one in `place`.
    pub(super) fn create(place: &Path) -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|_| io::Error::other("the system gives no randomness"))?;
        let word: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = place.join(format!("{PREFIX}{word}"));
        // Fails if it is there: nobody else's folder is ever used.
        DirBuilder::new().mode(0o700).create(&folder)?;
        let lock = File::create(folder.join(LOCK))?;
        lock.try_lock().map_err(io::Error::from)?;
        fcntl_setfd(&lock, FdFlags::empty())?;
        Ok(Self { folder, _lock: lock })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes it. What the browser has started may write for a moment longer.
    pub(super) async fn remove(self) {
        for _ in 0..TRIES {
            if gone(&self.folder) {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        tracing::warn!(
            "the browser's folder {} could not be removed: the next `mizzle browse` will, or do it by hand",
            self.folder.display()
        );
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        // What is left then is the next one's to sweep.
        let _ = gone(&self.folder);
    }
}

/// Removes what crashed ones have left in `place`.
pub(super) fn sweep(place: &Path) {
    let Ok(entries) = std::fs::read_dir(place) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_abandoned(&entry.path()) {
            let _ = gone(&entry.path());
        }
    }
}

/// True of a folder of this user's that nobody holds. One without a lock may be just being made.
fn is_abandoned(folder: &Path) -> bool {
    let Ok(metadata) = folder.symlink_metadata() else { return false };
    if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
        return false;
    }
    match File::open(folder.join(LOCK)).map(|lock| lock.try_lock()) {
        Ok(Ok(())) => true,
        Ok(Err(TryLockError::WouldBlock | TryLockError::Error(_))) => false,
        Err(_) => {
            let age = metadata.modified().ok().and_then(|made| SystemTime::now().duration_since(made).ok());
            age.is_some_and(|age| age > YOUNG)
        }
    }
}

fn gone(folder: &Path) -> bool {
    match std::fs::remove_dir_all(folder) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

const PREFIX: &str = "mizzle-browse-";
const LOCK: &str = "lock";
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(150);
const YOUNG: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn a_profile_is_private_and_goes() {
        let place = tempfile::tempdir().unwrap();
        let profile = Profile::create(place.path()).unwrap();
        let folder = profile.folder().to_owned();
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(folder.join("cookies"), "x").unwrap();
        sweep(place.path());
        assert!(folder.join("cookies").exists());
        profile.remove().await;
        assert!(!folder.exists());
    }

    #[test]
    fn what_a_crash_left_is_swept_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let kept = ["mizzle-browse-young", "mizzle-other"].map(|name| place.path().join(name));
        for folder in &kept {
            std::fs::create_dir(folder).unwrap();
        }
        let left = place.path().join("mizzle-browse-00");
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join(LOCK), "").unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join(LOCK), "").unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), place.path().join("mizzle-browse-link")).unwrap();
        sweep(place.path());
        assert!(!left.exists() && kept.iter().all(|folder| folder.exists()));
        assert!(elsewhere.path().join(LOCK).exists());
    }
}
