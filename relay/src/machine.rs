//! What this machine gives a relay: processor features, files, room to write.

use mizzle_link::{Error, Result};
use mizzle_protocol::ErrorKind;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// Fails, naming them, if the processor lacks features that links cannot do without.
pub(crate) fn check_processor() -> Result<()> {
    match missing_features().as_slice() {
        [] => Ok(()),
        missing => {
            let message = format!(
                "this processor lacks {}, which encryption of links needs: take a machine whose processor is \
                 newer than 2014, or let the virtual machine see its host's features",
                missing.join(", ")
            );
            Err(Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Incompatible, message)))
        }
    }
}

/// The features that links need and this processor lacks. Debug builds also miss those that
/// `MIZZLE_TEST_MISSING_FEATURES` names, separated by commas: for the test of this very check, since no
/// processor forgets what it can.
pub(crate) fn missing_features() -> Vec<&'static str> {
    let pretended = if cfg!(debug_assertions) {
        std::env::var("MIZZLE_TEST_MISSING_FEATURES").unwrap_or_default()
    } else {
        String::new()
    };
    let missing = |name: &str| pretended.split(',').any(|pretended| pretended == name);
    features().into_iter().filter(|(name, present)| !present || missing(name)).map(|(name, _)| name).collect()
}

/// What graviola asks for on this kind of processor.
#[cfg(target_arch = "x86_64")]
fn features() -> Vec<(&'static str, bool)> {
    vec![
        ("adx", is_x86_feature_detected!("adx")),
        ("aes", is_x86_feature_detected!("aes")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("bmi1", is_x86_feature_detected!("bmi1")),
        ("pclmulqdq", is_x86_feature_detected!("pclmulqdq")),
    ]
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<(&'static str, bool)> {
    vec![
        ("aes", std::arch::is_aarch64_feature_detected!("aes")),
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("pmull", std::arch::is_aarch64_feature_detected!("pmull")),
        ("sha2", std::arch::is_aarch64_feature_detected!("sha2")),
    ]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<(&'static str, bool)> {
    vec![("x86-64 or ARM64", false)]
}

/// Takes as many open files as this process may; how many that is, 0 if it is unknown.
pub(crate) fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(PLENTY).min(PLENTY);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
        // Refused, it stays as it is, which the line below says.
        let _ = setrlimit(Resource::Nofile, raised);
    }
    file_limit()
}

/// Files that a process started here can have open, as [`raise_file_limit`] leaves it.
pub(crate) fn reachable_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    limit.maximum.unwrap_or(u64::MAX).max(limit.current.unwrap_or(u64::MAX))
}

/// Memory that this process has now, in bytes; 0 if it is unknown.
pub(crate) fn resident_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

fn file_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Fails if `bytes` cannot be written in `folder`. Leaves nothing behind.
pub(crate) fn try_to_write(folder: &Path, bytes: usize) -> std::io::Result<()> {
    let path = folder.join(format!(".room-{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&path)?;
    let block = [0; 64 * 1024];
    let mut left = bytes;
    let mut written = Ok(());
    while left > 0 && written.is_ok() {
        let part = block.get(..left.min(block.len())).unwrap_or(&block);
        written = file.write_all(part);
        left -= part.len();
    }
    let synced = written.and_then(|()| file.sync_all());
    let removed = std::fs::remove_file(&path);
    synced.and(removed)
}

const PLENTY: u64 = 1 << 17;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_what_links_need() {
        assert_eq!(missing_features(), Vec::<&str>::new());
        check_processor().unwrap();
    }

    #[test]
    fn a_folder_is_tried_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        try_to_write(folder.path(), 200_000).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(try_to_write(&folder.path().join("none"), 1).is_err());
    }

    #[test]
    fn the_limit_on_files_is_known() {
        let raised = raise_file_limit();
        assert!(raised > 0 && raised <= reachable_file_limit());
    }
}
