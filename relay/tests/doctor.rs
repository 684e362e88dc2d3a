//! Twelve faults, each put in for real, and each named by `mizzle-relay doctor` with what to do.
//!
//! Hooks, where nothing real is at hand: a processor that forgets a feature (`MIZZLE_TEST_MISSING_FEATURES`, debug
//! builds only), and a clock, for which the network's documents are of another time instead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Authority, PATIENCE, own_host};
use mizzle_link::{CertificateFile, Clock, Identity, seeded_rng};
use mizzle_protocol::consensus::{ListedRelay, NotRunning, ProtocolNumber, RelayPeriod};
use mizzle_protocol::id::{FamilyId, Period, RelayId};
use mizzle_protocol::mix::Role;
use mizzle_protocol::sphinx::SecretKey;
use mizzle_protocol::time::UnixTime;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// The line of a relay with a family.
const FAMILY: &str = "family = \"certificate\"";

/// A relay that is well, and does not run.
struct Patient {
    authority: Authority,
    address: SocketAddr,
    identity: RelayId,
    /// In memory, and gone with the test.
    runtime: tempfile::TempDir,
}

/// A relay that runs until this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What doctor said of each thing: pass, fail or skip, the finding, the advice.
type Said = BTreeMap<String, (String, String, String)>;

impl Patient {
    async fn new() -> Self {
        Self::with_network(true).await
    }

    async fn with_network(open_exits: bool) -> Self {
        let authority = Authority::start(open_exits).await;
        let (address, identity) = (SocketAddr::new(own_host().into(), 7000), RelayId([0; 32]));
        let runtime = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut patient = Self { authority, address, identity, runtime };
        patient.configure("mix", "");
        let output = patient.run(&["init"], |_| {}).await;
        assert!(output.status.success(), "{output:?}");
        patient.identity = Identity::load(&patient.folder().join("state/identity")).unwrap().unwrap().id();
        patient
    }

    fn folder(&self) -> &Path {
        self.authority.folder.path()
    }

    fn configure(&self, role: &str, extra: &str) {
        let (address, metrics) = (self.address, SocketAddr::new(self.address.ip(), 7100));
        let runtime = match extra.contains("runtime =") {
            true => String::new(),
            false => format!("runtime = \"{}\"\n", self.runtime.path().display()),
        };
        let text = format!(
            "network = \"network.toml\"\nlisten = \"{address}\"\nrole = \"{role}\"\nmetrics = \"{metrics}\"\n\
             {runtime}{extra}\n"
        );
        std::fs::write(self.folder().join("relay.toml"), text).unwrap();
    }

    /// Starts the relay; returns when it listens.
    fn start(&self) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mizzle-relay"));
        command.args(["run", "--config"]).arg(self.folder().join("relay.toml"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Running(child)
    }

    async fn run(&self, words: &[&str], change: impl FnOnce(&mut Command)) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mizzle-relay"));
        command.args(words).arg("--config").arg(self.folder().join("relay.toml"));
        change(&mut command);
        let run = tokio::task::spawn_blocking(move || command.output().unwrap());
        tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap()
    }

    async fn doctor(&self, change: impl FnOnce(&mut Command)) -> Said {
        let output = self.run(&["doctor", "--json"], change).await;
        read(&output)
    }

    /// Doctor names exactly this, and advises something with these words in it.
    async fn is_told(&self, name: &str, what: &str, advice: &str) {
        names(&self.doctor(|_| {}).await, name, what, advice);
    }

    /// Puts a certificate for `relay` in place, which begins in so many days and is for so many.
    fn certify(&self, family: &Identity, relay: RelayId, begins: i64, days: u64) {
        let now = Clock::new().now().unix();
        let issued = UnixTime(now.0.saturating_add_signed(begins * 86_400));
        let lifetime = Duration::from_secs(days * 86_400);
        let file = CertificateFile::issue(family, "test", relay, issued, lifetime).unwrap();
        std::fs::write(self.folder().join("certificate"), file.to_toml().unwrap()).unwrap();
    }

    fn listed(&self) -> ListedRelay {
        listed(self.identity, self.address, Role::Mix(1), None)
    }
}

fn read(output: &Output) -> Said {
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap().iter();
    let said: Said = findings
        .map(|finding| {
            let rest = (text(&finding["verdict"]), text(&finding["what"]), text(&finding["advice"]));
            (text(&finding["name"]), rest)
        })
        .collect();
    assert_eq!(report["ok"].as_bool().unwrap(), output.status.success());
    assert_eq!(report["ok"].as_bool().unwrap(), said.values().all(|(verdict, ..)| verdict != "fail"));
    said
}

fn names(said: &Said, name: &str, what: &str, advice: &str) {
    let failed: Vec<_> = said.iter().filter(|(_, (verdict, ..))| verdict == "fail").collect();
    assert_eq!(failed.len(), 1, "{said:#?}");
    assert_eq!(failed[0].0, name, "{said:#?}");
    let (_, found, advised) = failed[0].1;
    assert!(found.contains(what) && advised.contains(advice), "{found}; {advised}");
    assert!(!found.is_empty() && !found.contains(". ") && !found.contains('\n'), "one sentence: {found}");
}

fn listed(id: RelayId, address: SocketAddr, role: Role, family: Option<FamilyId>) -> ListedRelay {
    let mix_key = SecretKey::generate(&mut seeded_rng().unwrap()).public();
    let service_key = (role == Role::Exit).then_some([7; 32]);
    let periods = vec![RelayPeriod { period: Period(0), role, mix_key, service_key }];
    ListedRelay { id, addresses: vec![address], periods, family, weight: 1, country: None }
}

#[tokio::test]
async fn a_relay_that_is_well_passes_running_or_not() {
    let patient = Patient::new().await;
    let said = patient.doctor(|_| {}).await;
    assert!(said.values().all(|(verdict, ..)| verdict != "fail"), "{said:#?}");
    for name in [
        "network",
        "keys",
        "files",
        "memory",
        "disk",
        "replay",
        "processor",
        "directory",
        "clock",
        "version",
        "family",
        "port",
        "nat",
    ] {
        assert_eq!(said[name].0, "pass", "{name}: {said:#?}");
    }
    let output = patient.run(&["check"], |_| {}).await;
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8(patient.run(&["doctor"], |_| {}).await.stdout).unwrap();
    assert!(table.lines().all(|line| line.starts_with("pass ") || line.starts_with("skip ")), "{table}");
    // While it runs, doctor dials the relay itself.
    let running = patient.start();
    let said = patient.doctor(|_| {}).await;
    drop(running);
    assert_eq!(said["port"].0, "pass", "{said:#?}");
    assert_eq!(said["listed"].0, "warn", "{said:#?}");
    assert!(said["listed"].2.contains("whether it is approved"), "{said:#?}");
    assert!(said["files"].1.contains("the running relay"), "{said:#?}");
}

#[tokio::test]
async fn a_closed_port_is_named() {
    let patient = Patient::new().await;
    // This machine has the address, but nothing listens at it.
    let announced = SocketAddr::new(own_host().into(), patient.address.port());
    patient.configure("mix", &format!("announce = [\"{announced}\"]"));
    patient.is_told("port", "cannot connect to the announced address", "firewall").await;
    // Another program has the port.
    patient.configure("mix", "");
    let _other = std::net::TcpListener::bind(patient.address).unwrap();
    let said = patient.doctor(|_| {}).await;
    assert_eq!(said["port"].0, "fail", "{said:#?}");
    assert!(said["port"].2.contains("nothing else has the port"), "{said:#?}");
}

#[tokio::test]
async fn broken_ipv6_is_named() {
    let patient = Patient::new().await;
    let (four, port) = (patient.address, patient.address.port());
    patient.configure("mix", &format!("announce = [\"{four}\", \"[::1]:{port}\"]"));
    patient.is_told("ipv6", "cannot connect to the announced address", "listen on IPv6").await;
}

#[tokio::test]
async fn a_translated_address_is_named() {
    let patient = Patient::new().await;
    patient.configure("mix", &format!("announce = [\"{}:7001\"]", patient.address.ip()));
    patient.is_told("nat", "but this relay listens on", "forward").await;
    let port = patient.address.port();
    patient.configure("mix", &format!("announce = [\"192.0.2.7:{port}\"]"));
    patient.is_told("nat", "is not an address of this machine", "forward TCP port").await;
    // Once the authorities reach it there, from outside, all is well.
    let mut relay = patient.listed();
    relay.addresses = vec![SocketAddr::new([192, 0, 2, 7].into(), port)];
    patient.authority.publish(|consensus| consensus.relays = vec![relay]);
    let said = patient.doctor(|_| {}).await;
    assert_eq!(said["nat"].0, "pass", "{said:#?}");
}

#[tokio::test]
async fn a_private_address_is_named_in_a_public_network() {
    let patient = Patient::with_network(false).await;
    patient.is_told("nat", "is no public address", "set `announce`").await;
}

#[tokio::test]
async fn an_ipv6_address_that_is_not_public_is_named_in_a_public_network() {
    let mut patient = Patient::with_network(false).await;
    // It answers there, for who is on this machine.
    let free = std::net::TcpListener::bind("[::1]:0").unwrap();
    patient.address = free.local_addr().unwrap();
    drop(free);
    patient.configure("mix", "");
    patient.is_told("ipv6", "::1 is no public address", "global IPv6 address").await;
    assert_eq!(patient.doctor(|_| {}).await["nat"].0, "skip");
}

#[tokio::test]
async fn a_relay_that_the_authorities_refuse_is_told_so_with_what_to_do() {
    let patient = Patient::new().await;
    let said = patient.doctor(|_| {}).await;
    assert_eq!(said["listed"].0, "skip", "{said:#?}");
    let refuse = |reason: &str| {
        let refusal = NotRunning { id: patient.identity, reason: reason.to_owned() };
        patient.authority.publish(|consensus| consensus.not_running = vec![refusal]);
    };
    let silent = "cannot connect to the announced address: no answer within 5 s";
    // What does not run was not reached: no wonder.
    refuse(silent);
    let said = patient.doctor(|_| {}).await;
    assert_eq!((&*said["listed"].0, &*said["port"].0), ("warn", "warn"), "{said:#?}");
    assert!(said["listed"].2.contains("start it") && said["port"].2.contains("start the relay"), "{said:#?}");

    let running = patient.start();
    patient.is_told("listed", silent, "firewall").await;
    let said = patient.doctor(|_| {}).await;
    let (verdict, what, advice) = &said["port"];
    assert!(verdict == "warn" && what.contains("but not the authorities"), "{said:#?}");
    assert!(advice.contains("TCP port 7000") && advice.contains("router"), "{said:#?}");
    assert_eq!(said["nat"].0, "skip", "{said:#?}");

    refuse("it is not approved any more");
    patient.is_told("listed", "it is not approved any more", "ask who runs the network why").await;
    let said = patient.doctor(|_| {}).await;
    assert_eq!((&*said["port"].0, &*said["nat"].0), ("pass", "pass"), "{said:#?}");

    refuse("it announces that it takes no packets: it rests, or leaves");
    let said = patient.doctor(|_| {}).await;
    assert_eq!(said["listed"].0, "warn", "{said:#?}");
    drop(running);

    let relay = patient.listed();
    patient
        .authority
        .publish(|consensus| (consensus.relays, consensus.not_running) = (vec![relay], Vec::new()));
    let said = patient.doctor(|_| {}).await;
    assert_eq!(said["listed"].0, "pass", "{said:#?}");
}

#[tokio::test]
async fn a_wrong_clock_is_named_in_both_directions() {
    let patient = Patient::new().await;
    for (shift, what) in [(3_600, "behind the network"), (-3_600, "ahead of the network")] {
        patient.authority.publish(|consensus| {
            let moved = |time: UnixTime| UnixTime(time.0.saturating_add_signed(shift));
            consensus.valid_after = moved(consensus.valid_after);
            consensus.fresh_until = moved(consensus.fresh_until);
            consensus.valid_until = moved(consensus.valid_until);
        });
        patient.is_told("clock", what, "timedatectl").await;
        patient.authority.reset();
    }
}

#[tokio::test]
async fn a_low_file_limit_is_named() {
    let patient = Patient::new().await;
    let config = patient.folder().join("relay.toml");
    let mut command = Command::new("prlimit");
    command.args(["--nofile=1024:1024", env!("CARGO_BIN_EXE_mizzle-relay"), "doctor", "--json", "--config"]);
    command.arg(config);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    names(&read(&output), "files", "1024 files open", "LimitNOFILE");
}

#[tokio::test]
async fn keys_that_others_can_read_are_named() {
    let patient = Patient::new().await;
    let path = patient.folder().join("state/identity");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    patient.is_told("keys", "may be read by others", "chmod 600").await;
    let output = patient.run(&["check"], |_| {}).await;
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("FAIL keys: "));
    std::fs::remove_file(&path).unwrap();
    patient.is_told("keys", "there is no identity", "mizzle-relay init").await;
}

#[tokio::test]
async fn a_family_that_does_not_fit_is_named() {
    let patient = Patient::new().await;
    let key = Identity::generate(&mut seeded_rng().unwrap());
    let family = FamilyId(key.id().0);
    let stranger = RelayId([9; 32]);
    let elsewhere: SocketAddr = "127.9.9.9:7000".parse().unwrap();
    patient.certify(&key, patient.identity, 0, 100);
    patient.configure("mix", FAMILY);
    // The network knows it by none.
    let relay = patient.listed();
    patient.authority.publish(|consensus| consensus.relays = vec![relay]);
    patient.is_told("family", "by another family", "reload the relay").await;
    // Another relay at its address has none.
    let other = listed(stranger, patient.address, Role::Mix(2), None);
    patient.authority.publish(|consensus| consensus.relays = vec![other]);
    patient.is_told("family", "at this very address", "key certify").await;
    // An entry in one family with an exit.
    let exit = listed(stranger, elsewhere, Role::Exit, Some(family));
    patient.authority.publish(|consensus| consensus.relays = vec![exit]);
    patient.configure("entry", FAMILY);
    patient.is_told("family", "of one family with an exit", "not both").await;
    // And one that fits.
    let other = listed(stranger, patient.address, Role::Mix(2), Some(family));
    patient.authority.publish(|consensus| consensus.relays = vec![other]);
    let said = patient.doctor(|_| {}).await;
    assert_eq!(said["family"].0, "pass", "{said:#?}");
}

#[tokio::test]
async fn a_certificate_that_does_not_hold_or_ends_is_named() {
    let patient = Patient::new().await;
    let key = Identity::generate(&mut seeded_rng().unwrap());
    patient.configure("mix", FAMILY);
    patient.is_told("family", "there is no family certificate", "reload").await;
    patient.certify(&key, RelayId([9; 32]), 0, 100);
    patient.is_told("family", "for another relay", "reload").await;
    patient.certify(&key, patient.identity, -30, 20);
    patient.is_told("family", "the family certificate has ended", "key certify").await;
    patient.certify(&key, patient.identity, 2, 20);
    patient.is_told("family", "is from the future", "wait until").await;
    patient.certify(&key, patient.identity, -7, 20);
    let said = patient.doctor(|_| {}).await;
    assert_eq!(said["family"].0, "warn", "{said:#?}");
    assert!(said["family"].1.contains("ends in 12 days") && said["family"].2.contains("key certify"));
    patient.certify(&key, patient.identity, -7, 100);
    assert_eq!(patient.doctor(|_| {}).await["family"].0, "pass");
}

#[tokio::test]
async fn an_old_version_is_named() {
    let patient = Patient::new().await;
    patient
        .authority
        .publish(|consensus| consensus.required.push(ProtocolNumber { protocol: 9, version: 3 }));
    patient.is_told("version", "requires protocol-9/3", "upgrade").await;
}

#[tokio::test]
async fn missing_processor_features_are_named_and_keep_the_relay_from_starting() {
    let patient = Patient::new().await;
    let feature = if cfg!(target_arch = "x86_64") { "adx" } else { "sha2" };
    let forget = |command: &mut Command| _ = command.env("MIZZLE_TEST_MISSING_FEATURES", feature);
    names(&patient.doctor(forget).await, "processor", "it lacks", "newer than 2014");
    let output = patient.run(&["run"], forget).await;
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains(&format!("this processor lacks {feature}")));
}

#[tokio::test]
async fn a_folder_that_is_not_in_memory_is_named() {
    let patient = Patient::new().await;
    // /proc is a file system of its own, and surely not in memory as a tmpfs is.
    patient.configure("mix", "runtime = \"/proc/self\"");
    patient.is_told("memory", "no folder in memory", "mount a tmpfs").await;
}

#[tokio::test]
async fn a_folder_without_room_for_the_replay_tags_is_named() {
    let patient = Patient::new().await;
    let mount = patient.folder().join("mnt");
    std::fs::create_dir(&mount).unwrap();
    patient.configure("mix", &format!("runtime = \"{}\"", mount.display()));
    // A tmpfs of 40 MB, in a mount namespace of its own.
    let script = "mount -t tmpfs -o size=40m,mode=0700 tmpfs \"$1/mnt\" && exec \"$2\" \"$3\" --config \"$1/relay.toml\"";
    for command in ["check", "doctor"] {
        let relay = env!("CARGO_BIN_EXE_mizzle-relay");
        let mut unshare = Command::new("unshare");
        unshare.args(["-rm", "sh", "-c", script, "sh"]).arg(patient.folder()).args([relay, command]);
        let run = tokio::task::spawn_blocking(move || unshare.output().unwrap());
        let output = tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let line =
            said.lines().find(|line| line.starts_with("WARN replay: ")).unwrap_or_else(|| panic!("{said}"));
        assert!(line.contains("take up to 667 MB in") && line.contains("replay_memory = \"5"), "{line}");
    }
}

#[tokio::test]
async fn a_full_disk_is_named() {
    let patient = Patient::new().await;
    // The state folder becomes a tmpfs of 64 kB, in a mount namespace of its own.
    let script = "mount -t tmpfs -o size=64k,mode=0700 tmpfs \"$1/mnt\" && cp -p \"$1/state/identity\" \"$1/mnt\" \
                  && exec \"$2\" doctor --json --config \"$1/relay.toml\" --state \"$1/mnt\"";
    std::fs::create_dir(patient.folder().join("mnt")).unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["-rm", "sh", "-c", script, "sh"])
        .arg(patient.folder())
        .arg(env!("CARGO_BIN_EXE_mizzle-relay"));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    names(&read(&output), "disk", "cannot be written", "free some room");
    // A folder that may not be written.
    let output = patient.run(&["doctor", "--json", "--state", "/proc/1/task"], |_| {}).await;
    assert_eq!(read(&output)["disk"].0, "fail");
}

#[tokio::test]
async fn names_that_cannot_be_looked_up_are_named() {
    let patient = Patient::with_network(false).await;
    patient.configure("exit", "[exit]\nenabled = true");
    // Nothing answers at the name server of this mount namespace; then its table of hosts does.
    let script = "mount --bind \"$1/resolv.conf\" /etc/resolv.conf && mount --bind \"$1/hosts\" /etc/hosts && \
                  exec \"$2\" doctor --json --config \"$1/relay.toml\"";
    std::fs::write(
        patient.folder().join("resolv.conf"),
        "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
    )
    .unwrap();
    for (hosts, verdict) in
        [("127.0.0.1 localhost\n", "fail"), ("192.0.2.9 example.com. example.com\n", "pass")]
    {
        std::fs::write(patient.folder().join("hosts"), hosts).unwrap();
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", script, "sh"]);
        command.arg(patient.folder()).arg(env!("CARGO_BIN_EXE_mizzle-relay"));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = read(&output);
        assert_eq!(said["dns"].0, verdict, "{said:#?}");
        assert!(verdict == "pass" || said["dns"].2.contains("/etc/resolv.conf"), "{said:#?}");
    }
}
