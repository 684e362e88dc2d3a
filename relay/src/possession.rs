//! The runtime folder belongs to one process at a time, and what is in it to one boot of the machine.
//!
//! Keys and replay tags must die together. In memory a reboot sees to that; on a disk a power cut may keep
//! the keys and lose the last tags, and packets of that moment would be taken twice. So whatever an earlier
//! boot left is deleted, wherever it lies. (spec: RELAY-4, RELAY-5)

use mizzle_link::{Error, Result, read_bounded, write_atomically};
use mizzle_protocol::ErrorKind;
use std::fs::{File, TryLockError};
use std::path::Path;

/// Takes `folder` for this process until the returned file is dropped, and empties it if another boot, named
/// by `boot`, filled it. No name: every start counts as another boot.
pub(crate) fn take(folder: &Path, boot: Option<&str>) -> Result<File> {
    let failed = |error| Error::io(format!("take possession of {}", folder.display()), error);
    let lock = File::create(folder.join(LOCK)).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let message = format!(
                "another process runs this relay (it holds {}): stop it, or give this one a state of its own",
                folder.display()
            );
            return Err(Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Refused, message)));
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let before = read_bounded(&folder.join(BOOT), BOOT_SIZE)?;
    if boot.is_none() || before.as_deref() != boot.map(str::as_bytes) {
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name() != LOCK && entry.file_type().map_err(failed)?.is_file() {
                std::fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        write_atomically(&folder.join(BOOT), boot.unwrap_or_default().as_bytes())?;
    }
    Ok(lock)
}

/// The name of this boot of the machine, where the system gives it one.
pub(crate) fn boot() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().filter(|name| name.len() <= BOOT_SIZE)
}

const LOCK: &str = "lock";
const BOOT: &str = "boot";
const BOOT_SIZE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = take(folder.path(), Some("one")).unwrap();
        let error = take(folder.path(), Some("one")).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
        drop(first);
        take(folder.path(), Some("one")).unwrap();
    }

    #[test]
    fn what_another_boot_left_is_deleted_and_what_this_one_left_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (keys, tags) = (folder.path().join("keys-7"), folder.path().join("tags-7"));
        let fill = || [&keys, &tags].into_iter().for_each(|path| std::fs::write(path, "x").unwrap());
        drop(take(folder.path(), Some("one")).unwrap());
        fill();
        drop(take(folder.path(), Some("one")).unwrap());
        assert!(keys.exists() && tags.exists());
        drop(take(folder.path(), Some("two")).unwrap());
        assert!(!keys.exists() && !tags.exists());
        // A system that does not name its boots: each start may be one.
        fill();
        drop(take(folder.path(), None).unwrap());
        assert!(!keys.exists() && !tags.exists());
    }
}
