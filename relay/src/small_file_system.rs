//! For tests: a file system that is soon full.

use std::path::Path;
use std::process::Command;

/// Runs `test`, which has this name, in a process of its own that has a folder on a file system of 64 KiB.
pub(crate) fn with(name: &str, test: impl FnOnce(&Path)) {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return test(folder.as_ref());
    }
    let folder = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=64k,mode=0700 tmpfs \"$1\" && exec \"$2\" --exact \"$3\"";
    let mut inside = Command::new("unshare");
    inside.args(["-rm", "sh", "-c", script, "sh"]).arg(folder.path());
    inside.arg(std::env::current_exe().unwrap()).arg(name).env(FOLDER, folder.path());
    let output = inside.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
}

const FOLDER: &str = "MIZZLE_TEST_SMALL_FOLDER";
