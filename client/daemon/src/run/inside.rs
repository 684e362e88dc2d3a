//! The part of `mizzle run` that is already in the new network, as root of it: makes it ready, hands out its
//! ports, and becomes the program, with the rights of its user only. (spec: DAILY-4)

use super::hand_over::Ports;
use super::{NOT_STARTED, hand_over, names};
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What the outside says to the inside.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Inside {
    /// The folder where the ports are expected
    #[arg(long)]
    anteroom: PathBuf,
    /// The network that this must not be
    #[arg(long)]
    outside: PathBuf,
    /// The program's user
    #[arg(long)]
    user: u32,
    /// The program's group
    #[arg(long)]
    group: u32,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Returns only if the program could not be started.
pub(crate) fn enter(inside: &Inside) -> ExitCode {
    let (code, error) = match become_program(inside) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    // If standard error is gone, too, nobody is left to tell.
    let _ = writeln!(std::io::stderr(), "mizzle: {error}");
    ExitCode::from(code)
}

fn become_program(inside: &Inside) -> Result<std::convert::Infallible, (u8, String)> {
    let prepare = || {
        no_other_network(&inside.outside)?;
        names::hide(&inside.anteroom)?;
        loopback_up()?;
        no_way_but_loopback()
    };
    prepare().map_err(|error| (NOT_STARTED, error))?;
    let Some((program, arguments)) = inside.command.split_first() else {
        return Err((NOT_STARTED, "no program was named".into()));
    };
    runnable(program, std::env::var_os("PATH").as_deref())?;
    let hand_out = || {
        let questions = (Ipv4Addr::LOCALHOST, QUESTIONS_PORT);
        let ports = Ports {
            proxy: TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))?,
            questions: UdpSocket::bind(questions)?,
            long_questions: TcpListener::bind(questions)?,
        };
        hand_over::give(&inside.anteroom, &ports)
    };
    hand_out().map_err(|error| (NOT_STARTED, format!("cannot open the program's ports ({error})")))?;
    // A user namespace within: what was hidden and shut above belongs to the outer one, and stays so.
    let mut command = Command::new("unshare");
    command.arg("--user").arg(format!("--map-user={}", inside.user));
    command.arg(format!("--map-group={}", inside.group)).arg("--").arg(program).args(arguments);
    let error = command.exec();
    Err((NOT_STARTED, format!("cannot start `unshare` ({error})")))
}

/// Fails unless this is a network of its own.
fn no_other_network(outside: &Path) -> Result<(), String> {
    match std::fs::read_link(OWN_NETWORK) {
        Ok(own) if own != outside => Ok(()),
        _ => Err("the program would share this computer's network, so it was not started".into()),
    }
}

/// Fails if any route leads elsewhere than to the loopback device.
fn no_way_but_loopback() -> Result<(), String> {
    let table =
        |name: &str| std::fs::read_to_string(Path::new("/proc/self/net").join(name)).unwrap_or_default();
    match leads_out(&table("route"), &table("ipv6_route")) {
        false => Ok(()),
        true => Err("the program's network has a way out past the client, so it was not started".into()),
    }
}

/// Whether a line of the kernel's tables of routes (IPv4: device first, below a head; IPv6: last) leads out.
fn leads_out(four: &str, six: &str) -> bool {
    let four = four.lines().filter_map(|line| line.split_whitespace().next()).filter(|&word| word != "Iface");
    let six = six.lines().filter_map(|line| line.split_whitespace().last());
    four.chain(six).any(|device| device != "lo")
}

/// The loopback device, with an address that is not a loopback one: many programs ask for names only if they see
/// such an address. It leads nowhere.
fn loopback_up() -> Result<(), String> {
    for words in [&["link", "set", "lo", "up"][..], &["address", "add", ADDRESS, "dev", "lo"]] {
        let output = Command::new("ip").args(words).output().map_err(|error| {
            format!("`mizzle run` needs the program `ip` ({error}): it is in the package iproute2")
        })?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(format!(
                "cannot make a network for the program ({}), so it was not started",
                why.trim()
            ));
        }
    }
    Ok(())
}

/// Says why a program cannot be run, in a shell's codes.
fn runnable(program: &OsStr, search: Option<&OsStr>) -> Result<(), (u8, String)> {
    let is_runnable = |path: &Path| {
        path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let text = program.to_string_lossy();
    if program.as_encoded_bytes().contains(&b'/') {
        return match Path::new(program) {
            path if is_runnable(path) => Ok(()),
            path if path.exists() => Err((NOT_RUNNABLE, format!("{text} cannot be run: it is no program"))),
            _ => Err((NOT_FOUND, format!("there is no program {text}"))),
        };
    }
    let folders = search.map(std::env::split_paths).into_iter().flatten();
    match folders.map(|folder| folder.join(program)).any(|path| is_runnable(&path)) {
        true => Ok(()),
        false => Err((NOT_FOUND, format!("there is no program {text} in any folder of PATH"))),
    }
}

/// The port inside; the network is the program's own, so that it is always free.
pub(crate) const PORT: u16 = 9150;
/// The address that stands for "none of mine is seen by anybody" (RFC 7600).
const ADDRESS: &str = "192.0.0.8/32";
/// Where programs ask for names; all know this one.
const QUESTIONS_PORT: u16 = 53;
pub(super) const NOT_RUNNABLE: u8 = 126;
pub(super) const NOT_FOUND: u8 = 127;
/// Names this process's network.
pub(super) const OWN_NETWORK: &str = "/proc/self/ns/net";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_started_in_the_computers_own_network() {
        let own = std::fs::read_link(OWN_NETWORK).unwrap();
        assert!(no_other_network(&own).unwrap_err().contains("not started"));
        assert_eq!(no_other_network(Path::new("net:[1]")), Ok(()));
    }

    #[test]
    fn a_route_by_any_other_device_leads_out() {
        let head = "Iface\tDestination\tGateway\n";
        let loopback = "0000 00 0000 00 0000 ffffffff 00000001 00000000 00200200       lo\n";
        assert!(!leads_out("", "") && !leads_out(head, loopback));
        assert!(leads_out(&format!("{head}eth0\t00000000\t0100000A\n"), loopback));
        assert!(leads_out(head, &format!("{loopback}fe80 40 0000 00 0000 100 1 0 1     eth0\n")));
    }

    #[test]
    fn what_cannot_be_run_is_told_as_a_shell_does() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("program");
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        let search = Some(folder.path().as_os_str());
        let code = |program: &OsStr| runnable(program, search).map_err(|(code, _)| code);
        assert_eq!(code(file.as_os_str()), Err(NOT_RUNNABLE));
        assert_eq!(code(OsStr::new("program")), Err(NOT_FOUND));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!((code(file.as_os_str()), code(OsStr::new("program"))), (Ok(()), Ok(())));
        assert_eq!(code(OsStr::new("./no/such")), Err(NOT_FOUND));
    }
}
