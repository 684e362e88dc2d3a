//! Each host in a network namespace of its own, all on one bridge; without root.
//!
//! `unshare -rn` makes a user namespace in which we may configure networks, and a first network namespace
//! that holds the bridge. Each host's namespace is made inside it, and lives as long as the process that
//! holds it. Ends of cables are moved there by process id (`ip netns` would need real root).

use crate::error::{Error, Result};
use crate::plan::{Host, Plan};
use crate::process::{self, Record};
use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Makes the bridge and a namespace for every host of the plan.
pub(crate) fn make(plan: &Plan) -> Result<()> {
    hold(plan, HUB, &words("unshare -rn sleep infinity"), NOT_PERMITTED)?;
    batch(plan, HUB, "link add bridge type bridge\nlink set lo up\nlink set bridge up\n")?;
    for host in &plan.hosts {
        let mut command = enter(&plan.dir, HUB)?;
        command.extend(words("unshare -n sleep infinity"));
        let pid = hold(plan, &host.name, &command, "the namespace cannot be made")?;
        let cable = host.address.octets()[1];
        batch(
            plan,
            HUB,
            &format!(
                "link add cable{cable} type veth peer name eth0 netns {pid}\n\
                 link set cable{cable} master bridge up\n"
            ),
        )?;
        let address = host.address;
        batch(
            plan,
            &host.name,
            &format!("link set lo up\naddress add {address}/8 dev eth0\nlink set eth0 up\n"),
        )?;
    }
    Ok(())
}

/// What goes before a command so that it runs at `host`: nothing, unless hosts have namespaces.
pub(crate) fn prefix(plan: &Plan, host: &Host) -> Result<Vec<OsString>> {
    if plan.namespaces { enter(&plan.dir, &host.name) } else { Ok(Vec::new()) }
}

/// A command at `host`.
pub(crate) fn command(plan: &Plan, host: &Host, words: &[OsString]) -> Result<Command> {
    let mut all = prefix(plan, host)?;
    all.extend_from_slice(words);
    let (program, arguments) =
        all.split_first().ok_or_else(|| Error::Wrong("no command to run".to_owned()))?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

fn enter(dir: &Path, name: &str) -> Result<Vec<OsString>> {
    let record = Record::read(&process::record_path(dir, &format!("{PREFIX}{name}")))
        .filter(Record::is_alive)
        .ok_or_else(|| {
            Error::Wrong(format!("the namespace of {name} is gone: run scripts/down, then scripts/up"))
        })?;
    Ok(words(&format!("nsenter -t {} -U -n --preserve-credentials --", record.pid)))
}

/// Starts the process that holds a namespace, and waits until it is inside. Returns its id.
fn hold(plan: &Plan, name: &str, command: &[OsString], why: &str) -> Result<u32> {
    let log = process::run_folder(&plan.dir).join(format!("{PREFIX}{name}.log"));
    let mut child = process::start(&plan.dir, &format!("{PREFIX}{name}"), &log, &log, command)?;
    let pid = child.id();
    let deadline = Instant::now() + Duration::from_secs(10);
    // It is inside once it has become `sleep`.
    while std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() != "sleep") {
        if child.try_wait().is_ok_and(|ended| ended.is_some()) || Instant::now() > deadline {
            return Err(Error::Process { what: format!("no network namespace for {name}: {why}"), log });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(pid)
}

/// Runs lines of `ip` in a namespace.
fn batch(plan: &Plan, name: &str, lines: &str) -> Result<()> {
    let failed = || format!("cannot wire the namespace of {name}");
    let mut all = enter(&plan.dir, name)?;
    all.extend(words("ip -batch -"));
    let (program, arguments) = all.split_first().ok_or_else(|| Error::Wrong(failed()))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::system(failed()))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(lines.as_bytes()).map_err(Error::system(failed()))?;
    }
    let output = child.wait_with_output().map_err(Error::system(failed()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Wrong(format!("{}: {}", failed(), String::from_utf8_lossy(&output.stderr).trim())))
}

fn words(text: &str) -> Vec<OsString> {
    text.split_whitespace().map(OsString::from).collect()
}

/// Names of the processes that hold namespaces begin so.
pub(crate) const PREFIX: &str = "namespace-";

const HUB: &str = "hub";
const NOT_PERMITTED: &str = "run as root, or allow user namespaces: sysctl -w kernel.unprivileged_userns_clone=1 \
     kernel.apparmor_restrict_unprivileged_userns=0";
