//! What `mizzle-relay` says to its operator before anything runs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

const BASE: &str = "network = \"network.toml\"\nlisten = \"127.0.0.1:7000\"\nrole = \"mix\"\n";

fn run(folder: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mizzle-relay"));
    command.args(words).arg("--config").arg(folder.join("relay.toml")).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn an_unknown_key_is_an_error_with_its_line_and_the_nearest_one() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("relay.toml"), format!("{BASE}[exit]\nportz = []\n")).unwrap();
    for command in ["check", "run", "status", "doctor"] {
        let output = run(folder.path(), &[command]);
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert!(said.contains("line 5: unknown key `exit.portz`: did you mean `exit.ports`?"), "{said}");
    }
}

#[test]
fn nobody_becomes_an_exit_by_a_role_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("relay.toml"), BASE).unwrap();
    let output = run(folder.path(), &["run", "--role", "exit"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("set `enabled = true` in [exit]"), "{}", text(&output.stderr));
}

#[test]
fn check_says_what_is_wrong_and_starts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["init"]);
    assert!(output.status.success());
    let output = run(folder.path(), &["check"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    assert!(said.contains("FAIL network: there is no network file"), "{said}");
    assert!(said.contains("pass keys: "), "{said}");
    assert!(!folder.path().join("state/control").exists());
}

#[test]
fn an_identity_is_copied_and_put_back_and_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let identity = folder.path().join("state/identity");
    let copy = folder.path().join("copy");
    let copy_name = copy.to_str().unwrap();
    let made = text(&run(folder.path(), &["init"]).stdout);
    let output = run(folder.path(), &["key", "backup", copy_name]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), made);
    assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(&identity).unwrap());
    // Neither a copy nor an identity is replaced.
    for words in [["key", "backup", copy_name], ["key", "restore", copy_name]] {
        let output = run(folder.path(), &words);
        assert!(!output.status.success() && text(&output.stderr).contains("is not replaced"));
    }
    std::fs::remove_file(&identity).unwrap();
    assert_eq!(text(&run(folder.path(), &["key", "restore", copy_name]).stdout), made);
    assert_eq!(identity.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // What is no identity is not put in place.
    std::fs::remove_file(&identity).unwrap();
    std::fs::write(&copy, "something else").unwrap();
    assert!(!run(folder.path(), &["key", "restore", copy_name]).status.success());
    assert!(!identity.exists());
}

#[test]
fn a_family_is_made_once_and_is_the_line_that_configurations_take() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("family");
    let words = ["key", "family", file.to_str().unwrap()];
    let first = text(&run(folder.path(), &words).stdout);
    assert!(first.starts_with("family = \""), "{first}");
    assert_eq!(first, text(&run(folder.path(), &words).stdout));
    std::fs::write(folder.path().join("relay.toml"), format!("{BASE}{first}")).unwrap();
    assert!(run(folder.path(), &["init"]).status.success());
}
