//! What this machine gives the relay: keys, files, memory, disk, processor.

use crate::config::Config;
use crate::machine::{missing_features, reachable_file_limit, try_to_write};
use crate::room::Room;
use crate::runtime;
use crate::status::Page;
use mizzle_link::Identity;
use mizzle_link::findings::Finding;
use mizzle_protocol::ErrorKind;
use std::io::ErrorKind as IoKind;
use std::path::Path;

/// All of it. `running`: what the relay says of itself, if it runs.
pub(super) fn all(config: &Config, running: Option<&Page>) -> Vec<Finding> {
    vec![keys(config), files(running), memory(config), disk(config), replay(config, running), processor()]
}

fn keys(config: &Config) -> Finding {
    let path = config.identity();
    match Identity::load(&path) {
        Ok(Some(_)) => {}
        Ok(None) => {
            let advice = "run mizzle-relay init, or put a copy back with mizzle-relay key restore FILE";
            return Finding::fail("keys", format!("there is no identity at {}", path.display()), advice);
        }
        Err(error) if error.kind() == ErrorKind::Refused => return open_to_others(&path),
        Err(error) => {
            return Finding::fail(
                "keys",
                error.to_string(),
                "put a copy back with mizzle-relay key restore FILE",
            );
        }
    }
    let entry = config.state.join("entry-key");
    if is_open_to_others(&entry) {
        return open_to_others(&entry);
    }
    Finding::pass("keys", "the identity is there, and only its owner can read it")
}

fn open_to_others(path: &Path) -> Finding {
    let what = format!("{} may be read by others", path.display());
    Finding::fail(
        "keys",
        what,
        format!("run chmod 600 {}; if others were on this machine, make a new one", path.display()),
    )
}

fn is_open_to_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

fn files(running: Option<&Page>) -> Finding {
    let (limit, whose) = match running.and_then(Page::file_limit) {
        Some(limit) => (limit, "the running relay"),
        None => (reachable_file_limit(), "a relay started here"),
    };
    if limit < FILES {
        let what = format!("{whose} can have {limit} files open, and links need {FILES}");
        return Finding::fail(
            "files",
            what,
            "raise the limit: LimitNOFILE=65536 in the unit, or ulimit -n 65536",
        );
    }
    Finding::pass("files", format!("{whose} can have enough files open"))
}

fn memory(config: &Config) -> Finding {
    match runtime::base(config) {
        Ok((_, true)) => Finding::pass("memory", "keys and replay tags lie in memory"),
        Ok((_, false)) => {
            Finding::pass("memory", "keys and replay tags lie on disk, as replay_on_disk asks for")
        }
        Err(error) => Finding::fail(
            "memory",
            error.to_string(),
            "mount a tmpfs (mount -t tmpfs -o mode=0700 tmpfs FOLDER), and name it as `runtime`",
        ),
    }
}

/// The tags that the relay is to remember, held against what there is.
fn replay(config: &Config, running: Option<&Page>) -> Finding {
    if let Some(trouble) = running.and_then(Page::trouble) {
        let advice = "give its folder in memory more room, and see that the relay may write there: it goes on by itself";
        return Finding::fail("replay", format!("the relay refuses packets: {trouble}"), advice);
    }
    let identity = Identity::load(&config.identity()).ok().flatten();
    let folder = match identity {
        Some(identity) => runtime::place(config, identity.id()),
        None => runtime::base(config).map(|(base, _)| base),
    };
    let Ok(folder) = folder else {
        return Finding::skip("replay", "not looked at: it needs a folder for keys and replay tags");
    };
    match Room::of(&folder).complaint(config, &folder) {
        Some((what, advice)) => Finding::warn("replay", what, advice),
        None => Finding::pass("replay", "there is room for the replay tags of `replay_memory`"),
    }
}

fn disk(config: &Config) -> Finding {
    let existing = config.state.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("."));
    let runtime = runtime::base(config).ok().map(|(base, _)| base).filter(|base| base.is_dir());
    for (folder, bytes) in [(Some(existing), STATE_ROOM), (runtime.as_deref(), RUNTIME_ROOM)] {
        let Some(folder) = folder else { continue };
        if let Err(error) = try_to_write(folder, bytes) {
            let advice = match error.kind() {
                IoKind::StorageFull | IoKind::QuotaExceeded => "free some room there, or name another folder",
                IoKind::PermissionDenied => "give the folder to the user that the relay runs as",
                IoKind::ReadOnlyFilesystem => "mount it for writing, or name another folder",
                _ => "look at the disk, or name another folder",
            };
            let what = format!("{} MiB cannot be written in {}: {error}", bytes >> 20, folder.display());
            return Finding::fail("disk", what, advice);
        }
    }
    Finding::pass("disk", "there is room to write")
}

fn processor() -> Finding {
    match missing_features().as_slice() {
        [] => Finding::pass("processor", "it has what encryption of links needs"),
        missing => Finding::fail(
            "processor",
            format!("it lacks {}, which encryption of links needs", missing.join(", ")),
            "take a machine whose processor is newer than 2014, or let the virtual machine see its host's features",
        ),
    }
}

/// As many connections as the port takes, and some more.
const FILES: u64 = 8_192 + 512;
/// Two of the largest documents.
const STATE_ROOM: usize = 8 << 20;
const RUNTIME_ROOM: usize = 1 << 20;
