//! Processes that are never lost: each is on record before it becomes the program that it is to run.
//!
//! A record is a file `NAME.pid` in the network's `run` folder: process id, start time and boot. It is
//! written by the new process itself, which turns into the program only afterwards; so there is no moment
//! at which a launcher that is killed leaves something unrecorded. [`stop`] first renames the folder:
//! a process that would record itself later fails to, and ends.

use crate::error::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One process of one boot: a process id that was given away again does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) pid: u32,
    started: u64,
    boot: String,
}

impl Record {
    /// The process with this id, as it is now.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let (_, started) = state(pid)?;
        Ok(Self { pid, started, boot: boot()? })
    }

    /// Reads a record.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let mut fields = text.split_whitespace();
        Some(Self {
            pid: fields.next()?.parse().ok()?,
            started: fields.next()?.parse().ok()?,
            boot: fields.next()?.to_owned(),
        })
    }

    /// Writes it; the folder must exist, and the file appears whole.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let draft = path.with_extension("draft");
        fs::write(&draft, format!("{} {} {}\n", self.pid, self.started, self.boot))?;
        fs::rename(draft, path)
    }

    /// True while this very process runs.
    pub(crate) fn is_alive(&self) -> bool {
        // A zombie runs no more; whoever started it has only not looked.
        matches!(state(self.pid), Ok((state, started)) if started == self.started && state != 'Z' && state != 'X')
            && boot().is_ok_and(|boot| boot == self.boot)
    }

    /// Sends a signal, by name, to this very process.
    fn signal(&self, name: &str) {
        if self.is_alive() {
            let pid = self.pid.to_string();
            let _ = Command::new("kill").args(["-s", name, &pid]).stderr(Stdio::null()).status();
        }
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    }
}

/// The `run` folder of a network in `dir`.
pub(crate) fn run_folder(dir: &Path) -> PathBuf {
    dir.join("run")
}

/// Where the process `name` of the network in `dir` is on record.
pub(crate) fn record_path(dir: &Path, name: &str) -> PathBuf {
    run_folder(dir).join(format!("{name}.pid"))
}

/// All records of the network in `dir` by name, sorted.
pub(crate) fn records(dir: &Path) -> Vec<(String, Record)> {
    records_in(&run_folder(dir))
}

/// Takes `dir` for a new network of this launcher: fails if one runs there, clears what a dead one left.
pub(crate) fn claim(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::system(format!("cannot make {}", dir.display())))?;
    let run = run_folder(dir);
    if let Err(error) = fs::create_dir(&run) {
        if error.kind() != io::ErrorKind::AlreadyExists {
            return Err(Error::system(format!("cannot make {}", run.display()))(error));
        }
        if records(dir).iter().any(|(_, record)| record.is_alive()) {
            return Err(Error::InUse(format!(
                "a network runs in {} already: use it, or stop it with scripts/down",
                dir.display()
            )));
        }
        fs::remove_dir_all(&run)
            .and_then(|()| fs::create_dir(&run))
            .map_err(Error::system(format!("cannot take over {}", run.display())))?;
    }
    Record::of(std::process::id())
        .and_then(|record| record.write(&record_path(dir, LAUNCHER)))
        .map_err(Error::system("cannot record this process"))
}

/// The launcher goes and the network stays: it is then no longer among the recorded.
pub(crate) fn disown(dir: &Path) {
    let _ = fs::remove_file(record_path(dir, LAUNCHER));
}

/// Starts `command` under `name`: recorded, in a process group of its own (Ctrl-C at the launcher reaches
/// the launcher only), output and log into files.
pub(crate) fn start(
    dir: &Path,
    name: &str,
    output: &Path,
    log: &Path,
    command: &[OsString],
) -> Result<Child> {
    let failed = || format!("cannot start {name}");
    let program = std::env::current_exe().map_err(Error::system(failed()))?;
    let record = record_path(dir, name);
    let _ = fs::remove_file(&record);
    let mut child = Command::new(program)
        .arg(RECORDED)
        .arg(&record)
        .arg("--")
        .args(command)
        .stdin(Stdio::null())
        .stdout(File::create(output).map_err(Error::system(failed()))?)
        .stderr(File::create(log).map_err(Error::system(failed()))?)
        .process_group(0)
        .spawn()
        .map_err(Error::system(failed()))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while !record.exists() {
        let ended = child.try_wait().map_err(Error::system(failed()))?;
        if ended.is_some() || Instant::now() > deadline {
            return Err(Error::Process { what: format!("{name} did not start"), log: log.to_owned() });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(child)
}

/// The new process: records itself, then becomes `command`. Returns only if that fails.
pub(crate) fn record_and_become(record: &Path, command: &[OsString]) -> Error {
    let me = Record::of(std::process::id()).and_then(|me| me.write(record));
    match (me, command.split_first()) {
        (Err(error), _) => Error::system("cannot record this process: was the network stopped?")(error),
        (_, None) => Error::Wrong("no command to become".to_owned()),
        (Ok(()), Some((program, arguments))) => {
            let error = Command::new(program).args(arguments).exec();
            Error::system(format!("cannot run {}", program.to_string_lossy()))(error)
        }
    }
}

/// Stops all that is on record in `dir`: SIGTERM to the network, SIGKILL to what is left after the grace,
/// then the same for what holds the namespaces. Returns how many processes were running.
pub(crate) fn stop(dir: &Path) -> Result<usize> {
    let run = run_folder(dir);
    let failed = || format!("cannot stop the network in {}", dir.display());
    if run.exists() {
        let aside = (0..).map(|n| dir.join(format!("{STOPPING}{n}"))).find(|path| !path.exists());
        match fs::rename(&run, aside.unwrap_or_default()) {
            // Somebody else stops it at this moment: help.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(Error::system(failed()))?,
        }
    }
    let folders: Vec<_> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(STOPPING))
        .map(|entry| entry.path())
        .collect();
    let me = std::process::id();
    let running: Vec<_> = folders
        .iter()
        .flat_map(|folder| records_in(folder))
        .filter(|(_, record)| record.pid != me && record.is_alive())
        .collect();
    let (holders, members): (Vec<_>, Vec<_>) =
        running.iter().partition(|(name, _)| name.starts_with(crate::namespace::PREFIX));
    for group in [members, holders] {
        end(&group.into_iter().map(|(_, record)| record).collect::<Vec<_>>())?;
    }
    for folder in folders {
        let _ = fs::remove_dir_all(folder);
    }
    Ok(running.len())
}

/// SIGTERM, a grace, SIGKILL, and the certainty that none is left.
fn end(records: &[&Record]) -> Result<()> {
    for (signal, grace) in [("TERM", Duration::from_secs(6)), ("KILL", Duration::from_secs(6))] {
        records.iter().for_each(|record| record.signal(signal));
        let deadline = Instant::now() + grace;
        while records.iter().any(|record| record.is_alive()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    match records.iter().find(|record| record.is_alive()) {
        None => Ok(()),
        Some(record) => {
            Err(Error::Wrong(format!("process {} does not end, not even by SIGKILL", record.pid)))
        }
    }
}

fn records_in(folder: &Path) -> Vec<(String, Record)> {
    let mut records: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| Path::new(&entry.file_name()).extension() == Some(OsStr::new("pid")))
        .filter_map(|entry| {
            let name = entry.path().file_stem()?.to_string_lossy().into_owned();
            Some((name, Record::read(&entry.path())?))
        })
        .collect();
    records.sort_by(|a, b| a.0.cmp(&b.0));
    records
}

/// State letter and start time of a process (proc(5), fields 3 and 22).
fn state(pid: u32) -> io::Result<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command, in parentheses, may itself hold spaces and parentheses.
    let mut fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    let state = fields.next().and_then(|field| field.chars().next());
    let started = fields.nth(18).and_then(|field| field.parse().ok());
    state.zip(started).ok_or_else(|| io::Error::other("unreadable process state"))
}

fn boot() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}

/// The launcher's hidden subcommand for [`record_and_become`].
pub(crate) const RECORDED: &str = "recorded";
/// The launcher's own record while it starts or watches a network.
pub(crate) const LAUNCHER: &str = "launcher";

const STOPPING: &str = "stopping-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_fits_one_process_only() {
        let me = Record::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        assert!(!Record { started: me.started + 1, ..me.clone() }.is_alive());
        assert!(!Record { boot: "another".to_owned(), ..me.clone() }.is_alive());
        let dir = tempfile::tempdir().unwrap();
        me.write(&dir.path().join("me.pid")).unwrap();
        assert_eq!(records_in(dir.path()), vec![("me".to_owned(), me)]);
    }

    #[test]
    fn stop_ends_what_ignores_sigterm_and_spares_a_recycled_id() {
        let dir = tempfile::tempdir().unwrap();
        claim(dir.path()).unwrap();
        let mut stubborn =
            Command::new("sh").args(["-c", "trap '' TERM; while :; do sleep 1; done"]).spawn().unwrap();
        let mut bystander = Command::new("sleep").arg("60").spawn().unwrap();
        // Give the shell the time to set its trap.
        std::thread::sleep(Duration::from_millis(200));
        Record::of(stubborn.id()).unwrap().write(&record_path(dir.path(), "stubborn")).unwrap();
        let other = Record::of(bystander.id()).unwrap();
        Record { started: other.started + 1, ..other }.write(&record_path(dir.path(), "recycled")).unwrap();
        assert_eq!(stop(dir.path()).unwrap(), 1);
        assert!(!stubborn.wait().unwrap().success());
        assert!(bystander.try_wait().unwrap().is_none());
        bystander.kill().unwrap();
        bystander.wait().unwrap();
        assert_eq!(stop(dir.path()).unwrap(), 0);
    }

    #[test]
    fn a_folder_with_a_living_network_is_not_claimed_twice() {
        let dir = tempfile::tempdir().unwrap();
        claim(dir.path()).unwrap();
        assert!(matches!(claim(dir.path()), Err(Error::InUse(_))));
        disown(dir.path());
        claim(dir.path()).unwrap();
    }

    #[test]
    fn a_process_that_comes_after_the_stop_does_not_become_anything() {
        let dir = tempfile::tempdir().unwrap();
        claim(dir.path()).unwrap();
        stop(dir.path()).unwrap();
        let error = record_and_become(&record_path(dir.path(), "late"), &["true".into()]);
        assert!(matches!(error, Error::System { .. }));
    }
}
