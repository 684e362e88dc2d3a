//! The folder in memory where keys and replay tags live together, and die together at a reboot.

use crate::config::Config;
use mizzle_link::{Error, Result};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::id::{RelayId, to_hex};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The folder for this relay, made if missing, readable by its owner only.
///
/// Fails if no candidate is a file system in memory, unless the operator has allowed the disk.
pub(crate) fn folder(config: &Config, me: RelayId) -> Result<PathBuf> {
    private_folder(place(config, me)?)
}

/// Where that folder is, or would be. Makes nothing.
pub(crate) fn place(config: &Config, me: RelayId) -> Result<PathBuf> {
    // Many relays may share one machine, so each has a folder of its own. Its name gets into logs, which no key does.
    let name = Sha256::new().chain_update(b"mizzle: a folder in memory").chain_update(me.0).finalize();
    let name = format!("mizzle-{}", to_hex(name.get(..8).unwrap_or_default()));
    Ok(base(config)?.0.join(name))
}

/// Where the folder goes, and whether that is in memory. Makes nothing.
pub(crate) fn base(config: &Config) -> Result<(PathBuf, bool)> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let candidates = match &config.runtime {
        Some(runtime) => vec![runtime.clone()],
        // A unit's folder is there for whoever looks after the relay, too, by `check` or `doctor`.
        None => {
            let unit = of_unit(&config.state).filter(|folder| folder.is_dir());
            let found =
                [variable("RUNTIME_DIRECTORY"), unit, variable("XDG_RUNTIME_DIR"), Some("/dev/shm".into())];
            found.into_iter().flatten().collect()
        }
    };
    if let Some(base) = candidates.iter().find(|path| is_in_memory(&mounts, path)) {
        return Ok((base.clone(), true));
    }
    if config.replay_on_disk {
        return Ok((config.runtime.clone().unwrap_or_else(|| config.state.join("runtime")), false));
    }
    let tried: Vec<_> = candidates.iter().map(|path| path.display().to_string()).collect();
    let message = format!(
        "no folder in memory for keys and replay tags (tried {}): set `runtime` to one on a tmpfs, or set \
         `replay_on_disk = true` and read what that means in the example configuration",
        tried.join(", ")
    );
    Err(Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Unavailable, message)))
}

/// What a unit whose state is in `/var/lib/NAME` calls its folder in memory.
fn of_unit(state: &Path) -> Option<PathBuf> {
    state.strip_prefix("/var/lib").ok().map(|name| Path::new("/run").join(name))
}

fn private_folder(path: PathBuf) -> Result<PathBuf> {
    let failed = |error| Error::io(format!("make the folder {}", path.display()), error);
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(&path).map_err(failed)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        // /dev/shm is open to all users: the folder may have been put there by another.
        let metadata = std::fs::symlink_metadata(&path).map_err(failed)?;
        let me = std::fs::metadata("/proc/self").map_err(failed)?.uid();
        if !metadata.is_dir() || metadata.uid() != me {
            let message = format!("{} belongs to another user: remove it, or set `runtime`", path.display());
            return Err(Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Refused, message)));
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(path)
}

/// True if `path`, or the nearest of its parents that exists, lies on a tmpfs.
fn is_in_memory(mounts: &str, path: &Path) -> bool {
    let existing = path.ancestors().find_map(|ancestor| ancestor.canonicalize().ok());
    existing.is_some_and(|path| file_system(mounts, &path) == Some("tmpfs"))
}

/// The kind of file system that `path` is on: that of the longest mount point above it, the last mounted.
fn file_system<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    let mut best: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (Some(_), Some(point), Some(kind)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        // Spaces in mount points are written as octal escapes.
        let point = PathBuf::from(point.replace("\\040", " "));
        let depth = point.components().count();
        if path.starts_with(&point) && best.is_none_or(|(deepest, _)| depth >= deepest) {
            best = Some((depth, kind));
        }
    }
    best.map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
/dev/sda1 / ext4 rw 0 0
tmpfs /run tmpfs rw 0 0
/dev/sdb1 /run/disk ext4 rw 0 0
tmpfs /mnt/with\\040space tmpfs rw 0 0
";

    #[test]
    fn the_deepest_mount_decides() {
        let kind = |path: &str| file_system(MOUNTS, Path::new(path));
        assert_eq!(kind("/run/user/1000"), Some("tmpfs"));
        assert_eq!(kind("/run/disk/x"), Some("ext4"));
        assert_eq!(kind("/running"), Some("ext4"));
        assert_eq!(kind("/mnt/with space/x"), Some("tmpfs"));
        assert_eq!(file_system("", Path::new("/")), None);
    }

    #[test]
    fn the_folder_of_a_unit_is_known_by_its_state() {
        assert_eq!(of_unit(Path::new("/var/lib/mizzle-relay-a")), Some("/run/mizzle-relay-a".into()));
        assert_eq!(of_unit(Path::new("/srv/state")), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_another_user_has_put_there_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        // Root gives one away; whoever is not root takes root's.
        let others = match std::os::unix::fs::chown(folder.path(), Some(65_534), None) {
            Ok(()) => folder.path().to_owned(),
            Err(_) => "/proc".into(),
        };
        let error = private_folder(others).unwrap_err().to_string();
        assert!(error.contains("another user"), "{error}");
    }

    #[test]
    fn the_folder_is_private_and_a_disk_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let made = private_folder(folder.path().join("a/b")).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(made.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        }
        assert!(made.is_dir());
        // The mount table of this test knows no tmpfs but /run.
        assert!(!is_in_memory(MOUNTS, Path::new("/nonexistent/folder")));
    }
}
