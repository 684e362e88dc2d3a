//! What `mizzle-relay` says to its operator before anything runs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

const BASE: &str = "network = \"network.toml\"\nlisten = \"127.0.0.1:7000\"\nrole = \"mix\"\n";

fn run(folder: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mizzle-relay"));
    command.args(words);
    // The family's key is kept where there is no relay, and so no configuration.
    if !matches!(words, ["key", "family" | "certify" | "revoke", ..]) {
        command.arg("--config").arg(folder.join("relay.toml"));
    }
    command.output().unwrap()
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
fn a_new_configuration_can_be_read_by_the_user_that_the_relay_runs_as_and_the_identity_cannot() {
    let folder = tempfile::tempdir().unwrap();
    // Whatever the operator's own umask is.
    let script = "umask 077; exec \"$0\" init --config \"$1/relay.toml\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_mizzle-relay")]).arg(folder.path());
    assert!(command.output().unwrap().status.success());
    let mode = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("relay.toml"), mode("state/identity")), (0o644, 0o600));
}

#[test]
fn check_says_what_is_wrong_and_starts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["init"]);
    assert!(output.status.success());
    let output = run(folder.path(), &["check"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    let line = said.lines().find(|line| line.starts_with("FAIL network: there is no network file")).unwrap();
    assert_eq!(line.matches("who runs the network").count(), 1, "{line}");
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

/// A folder with a family's key, and the relay's identity.
fn family() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("relay.toml"), format!("{BASE}family = \"certificate\"\n")).unwrap();
    std::fs::write(folder.path().join("network.toml"), NETWORK).unwrap();
    let identity = text(&run(folder.path(), &["init"]).stdout);
    let identity = identity.trim().trim_start_matches("identity = \"").trim_end_matches('"').to_owned();
    let key = folder.path().join("family");
    assert!(run(folder.path(), &["key", "family", key.to_str().unwrap()]).status.success());
    (folder, identity)
}

fn certify(folder: &Path, key: &str, relay: &str, file: &str, more: &[&str]) -> Output {
    let (key, file) = (folder.join(key), folder.join(file));
    let words = ["key", "certify", key.to_str().unwrap(), relay, file.to_str().unwrap(), "--network"];
    run(folder, &[&words, more].concat())
}

const NETWORK: &str = "name = \"test\"\nthreshold = 1\n[[authorities]]\naddress = \"127.0.0.1:1\"\nid = \
                       \"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a\"\n";

#[test]
fn a_family_key_is_made_once_for_its_owner_only_and_without_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("family");
    let words = ["key", "family", file.to_str().unwrap()];
    let first = text(&run(folder.path(), &words).stdout);
    assert!(first.starts_with("family ") && first.len() == 7 + 64 + 1, "{first}");
    assert_eq!(first, text(&run(folder.path(), &words).stdout));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_certificate_made_elsewhere_is_taken_by_the_relay_that_it_is_for() {
    let (folder, relay) = family();
    let output = certify(folder.path(), "family", &relay, "certificate", &["test", "--days", "20"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    let words: Vec<_> = said.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(words, ["family", "from", "until"]);
    let file = folder.path().join("certificate");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    let said = || text(&run(folder.path(), &["check"]).stdout);
    assert!(said().contains("pass family: the family has certified this relay"), "{}", said());
    // It is replaced by a newer one; one that ends soon is warned of.
    assert!(
        certify(folder.path(), "family", &relay, "certificate", &["test", "--days", "10"]).status.success()
    );
    assert!(
        said().contains("WARN family: the family certificate ends in 9 days; make a new one"),
        "{}",
        said()
    );
}

#[test]
fn certify_refuses_what_cannot_be_a_certificate_and_says_what_to_do() {
    let (folder, relay) = family();
    let refuses = |key: &str, relay: &str, file: &str, more: &[&str], words: &str| {
        let output = certify(folder.path(), key, relay, file, more);
        assert_eq!(output.status.code(), Some(1), "{words}");
        let said = text(&output.stderr);
        assert!(said.contains(words), "{said}");
    };
    refuses("none", &relay, "certificate", &["test"], "make one with mizzle-relay key family");
    // What others can read is no secret, and what is secret may be something else.
    refuses("network.toml", &relay, "certificate", &["test"], "may be read by others");
    let network = folder.path().join("network.toml");
    std::fs::set_permissions(network, std::fs::Permissions::from_mode(0o600)).unwrap();
    refuses("network.toml", &relay, "certificate", &["test"], "is not an identity file");
    refuses("state/identity", &relay, "certificate", &["test"], "the relay's own identity");
    refuses("family", "mix-1", "certificate", &["test"], "64 digits that mizzle-relay init prints");
    refuses("family", &relay[1..], "certificate", &["test"], "64 digits that mizzle-relay init prints");
    refuses("family", &relay, "certificate", &["network.toml"], "is a file: give the name");
    refuses("family", &relay, "certificate", &[""], "1 to 64 bytes");
    for days in ["0", "401", "18446744073709551615"] {
        refuses("family", &relay, "certificate", &["test", "--days", days], "for 1 to 400 days");
    }
    // No key is overwritten with a certificate.
    let before = std::fs::read(folder.path().join("family")).unwrap();
    refuses("family", &relay, "family", &["test"], "is no certificate and is not replaced");
    assert_eq!(std::fs::read(folder.path().join("family")).unwrap(), before);
    assert!(!folder.path().join("certificate").exists());
}

#[test]
fn a_revocation_that_cannot_be_made_or_handed_in_says_why() {
    let (folder, relay) = family();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let refuses = |words: &[&str], sentence: &str| {
        let output = run(folder.path(), &[&["key"], words].concat());
        assert_eq!(output.status.code(), Some(1), "{sentence}");
        let said = text(&output.stderr);
        assert!(said.contains(sentence), "{said}");
    };
    let (key, file, none, own) = (path("family"), path("revocation"), path("none"), path("state/identity"));
    fn revoke<'a>(key: &'a str, relay: &'a str, file: &'a str) -> [&'a str; 6] {
        ["revoke", key, relay, file, "--network", "test"]
    }
    refuses(&revoke(&none, &relay, &file), "make one with mizzle-relay key family");
    refuses(&revoke(&key, "mix-1", &file), "64 digits");
    refuses(&revoke(&own, &relay, &file), "the relay's own identity");
    refuses(&revoke(&key, &relay, &key), "is not replaced");
    refuses(&["revoke", &key, &relay, &file, "--network", "network.toml"], "is a file: give the name");
    refuses(&["hand-in", &file], "there is no revocation");
    refuses(&["hand-in", &key], "is a secret key and no revocation");
    assert!(certify(folder.path(), "family", &relay, "certificate", &["test"]).status.success());
    refuses(&["hand-in", &path("certificate")], "is no revocation");
    let words = ["key", "revoke", &key, &relay, &file, "--network", "public"];
    assert!(run(folder.path(), &words).status.success());
    refuses(&["hand-in", &file], "the revocation is for another network");
    // Nobody listens at the network's authority: that is said for each, and once for all.
    std::fs::remove_file(&file).unwrap();
    assert!(
        run(folder.path(), &["key", "revoke", &key, &relay, &file, "--network", "test"]).status.success()
    );
    refuses(&["hand-in", &file], "1 of 1 authorities have not taken it");
    assert!(
        text(&run(folder.path(), &["key", "hand-in", &file]).stdout).contains("authority 1: not taken: ")
    );
}

#[test]
fn a_certificate_that_is_not_for_this_relay_keeps_it_from_starting() {
    let (folder, relay) = family();
    let refuses = |words: &str| {
        let output = run(folder.path(), &["run"]);
        assert_eq!(output.status.code(), Some(1), "{words}");
        let said = text(&output.stderr);
        assert!(said.contains(words), "{said}");
        let said = text(&run(folder.path(), &["check"]).stdout);
        assert!(said.contains("FAIL family: ") && said.contains(words), "{said}");
    };
    refuses("there is no family certificate");
    std::fs::copy(folder.path().join("family"), folder.path().join("certificate")).unwrap();
    refuses("is a secret key and no family certificate");
    std::fs::write(folder.path().join("certificate"), "family = 1").unwrap();
    refuses("is no family certificate");
    std::fs::remove_file(folder.path().join("certificate")).unwrap();
    assert!(certify(folder.path(), "family", &"07".repeat(32), "certificate", &["test"]).status.success());
    refuses("is for another relay");
    assert!(certify(folder.path(), "family", &relay, "certificate", &["public"]).status.success());
    refuses("is for the network \"public\"");
    assert!(certify(folder.path(), "family", &relay, "certificate", &["test"]).status.success());
    let path = folder.path().join("certificate");
    let good = std::fs::read_to_string(&path).unwrap();
    let expires = good.lines().find(|line| line.starts_with("expires")).unwrap();
    std::fs::write(&path, good.replace(expires, &format!("{expires}0"))).unwrap();
    refuses("was not made with that family's key");
}

#[test]
fn a_family_by_its_bare_name_is_refused_with_what_to_do_instead() {
    let folder = tempfile::tempdir().unwrap();
    let line = format!("family = \"{}\"\n", "05".repeat(32));
    std::fs::write(folder.path().join("relay.toml"), format!("{BASE}{line}")).unwrap();
    for command in ["init", "check", "run"] {
        let output = run(folder.path(), &[command]);
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert!(said.contains("mizzle-relay key certify"), "{said}");
    }
}

#[test]
fn help_names_no_flag_that_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let help = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mizzle-relay"));
        let output = command.args(words).arg("--help").current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout)
    };
    let flags = |words: &[&str]| -> Vec<String> {
        let help = help(words);
        let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
        let named = lines.filter_map(|line| line.split("--").nth(1)?.split(' ').next().map(str::to_owned));
        named.filter(|name| name != "help").collect()
    };
    assert_eq!(flags(&["key"]), [""; 0]);
    assert_eq!(flags(&["key", "family"]), [""; 0]);
    assert_eq!(flags(&["key", "certify"]), ["network", "days"]);
    assert_eq!(flags(&["key", "revoke"]), ["network"]);
    assert_eq!(flags(&["key", "backup"]), ["config", "state"]);
    assert_eq!(flags(&["key", "hand-in"]), ["config", "network", "outbound"]);
    assert!(flags(&["run"]).contains(&"listen".to_owned()));
}
