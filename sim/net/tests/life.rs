//! The launcher leaves nothing behind, however it ends. The daemons are stood in for by scripts here: what
//! is tried is the launcher; the network itself is tried by `up --check`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Daemons that make an identity, and then do what `run` says.
fn daemons(dir: &Path, run: &str) {
    for name in ["mizzle-directory", "mizzle-relay", "mizzle"] {
        let script = format!("#!/bin/sh\nif [ \"$1\" = init ]; then echo identity = 00; exit; fi\n{run}\n");
        fs::write(dir.join(name), script).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn launcher(dir: &Path, slot: u8, arguments: &[&str]) -> Child {
    let slot = slot.to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mizzle-net"));
    command.args(arguments).arg("--dir").arg(dir.join("network")).args(["--slot", slot.as_str()]);
    if arguments.first() == Some(&"up") {
        command.arg("--release-dir").arg(dir);
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn code(mut child: Child) -> Option<i32> {
    child.wait().unwrap().code()
}

/// Processes, zombies aside, that have `word` among their arguments.
fn processes_with(word: &str) -> usize {
    let of = |entry: fs::DirEntry| {
        let arguments = fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&arguments).contains(word))
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(of).filter(|found| *found).count()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_network_stays_until_it_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().to_string_lossy().into_owned();
    daemons(dir.path(), "echo ready; exec tail -f /dev/null \"$0\"");
    assert_eq!(code(launcher(dir.path(), 201, &["up"])), Some(0));
    assert!(processes_with(&here) >= 17);
    assert_eq!(code(launcher(dir.path(), 201, &["up"])), Some(3), "a second one in the same place");
    assert_eq!(code(launcher(dir.path(), 201, &["down"])), Some(0));
    assert_eq!(processes_with(&here), 0);
}

#[test]
fn a_launcher_that_is_killed_is_cleared_up_after() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().to_string_lossy().into_owned();
    // The client is never ready, so the launcher waits.
    daemons(dir.path(), "case $0 in *mizzle) ;; *) echo ready ;; esac; exec tail -f /dev/null \"$0\"");
    let mut launcher_ = launcher(dir.path(), 202, &["up"]);
    wait_until("the client starts", || dir.path().join("network/run/client.pid").exists());
    launcher_.kill().unwrap();
    launcher_.wait().unwrap();
    assert!(processes_with(&here) >= 17);
    assert_eq!(code(launcher(dir.path(), 202, &["down"])), Some(0));
    assert_eq!(processes_with(&here), 0);
}

#[test]
fn an_interrupted_boot_and_a_failed_one_stop_what_they_started() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().to_string_lossy().into_owned();
    daemons(dir.path(), "case $0 in *mizzle) ;; *) echo ready ;; esac; exec tail -f /dev/null \"$0\"");
    let child = launcher(dir.path(), 203, &["up"]);
    wait_until("the client starts", || dir.path().join("network/run/client.pid").exists());
    Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(code(child), Some(130));
    assert_eq!(processes_with(&here), 0);

    daemons(dir.path(), "case $0 in *relay) exit 1 ;; *) echo ready ;; esac; exec tail -f /dev/null \"$0\"");
    assert_eq!(code(launcher(dir.path(), 203, &["up"])), Some(1));
    assert_eq!(processes_with(&here), 0);
}
