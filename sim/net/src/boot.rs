//! How a network comes up: folders, identities, the authority, the relays, the client; and how it ends.

use crate::error::{Error, Result};
use crate::plan::{Host, Plan, Role};
use crate::progress::Progress;
use crate::{config, namespace, process};
use serde::Serialize;
use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

/// A host that another program starts, as that is told.
#[derive(Debug, Serialize)]
struct Prepared {
    name: String,
    role: Role,
    address: Ipv4Addr,
    metrics: Option<SocketAddr>,
    /// The program and its arguments.
    command: Vec<String>,
}

/// A network that this process started. Dropped, it is stopped, unless it was let go.
pub(crate) struct Network {
    pub(crate) plan: Plan,
    children: Vec<(String, Child)>,
    /// Folder of the programs.
    pub(crate) release: PathBuf,
    owned: bool,
}

impl Network {
    /// Takes the folder, writes everything down, and starts all processes; returns when the client can
    /// carry a stream.
    pub(crate) async fn up(plan: Plan, release: PathBuf, progress: &Progress) -> Result<Self> {
        programs_are_there(&release)?;
        process::claim(&plan.dir)?;
        let mut network = Self { plan, children: Vec::new(), release, owned: true };
        clear(&network.plan)?;
        network.plan.runtime = runtime(&network.plan);
        network.plan.save()?;
        if network.plan.namespaces {
            progress.now("making a network namespace for each host");
            namespace::make(&network.plan)?;
        } else {
            addresses_are_free(&network.plan)?;
        }
        network.identities(progress)?;
        network.plan.save()?;
        network.processes(progress).await?;
        Ok(network)
    }

    /// Writes everything down for a network that another program starts: configurations, identities, and what each
    /// host is to run.
    pub(crate) fn prepare(plan: Plan, release: PathBuf, progress: &Progress) -> Result<()> {
        programs_are_there(&release)?;
        fs::create_dir_all(&plan.dir)
            .map_err(Error::system(format!("cannot make {}", plan.dir.display())))?;
        clear(&plan)?;
        let mut network = Self { plan, children: Vec::new(), release, owned: false };
        network.identities(progress)?;
        network.plan.save()?;
        let hosts: Result<Vec<_>> = network.plan.hosts.iter().map(|host| network.prepared(host)).collect();
        let path = network.plan.dir.join(HOSTS);
        let text = serde_json::to_string_pretty(&hosts?)
            .map_err(|error| Error::Wrong(format!("{} cannot be written: {error}", path.display())))?;
        fs::write(&path, text).map_err(Error::system(format!("cannot write {}", path.display())))
    }

    fn prepared(&self, host: &Host) -> Result<Prepared> {
        let command = self.command(host)?.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let Host { name, role, address, metrics, .. } = host.clone();
        Ok(Prepared { name, role, address, metrics, command })
    }

    /// Leaves the network running when this process ends.
    pub(crate) fn let_go(mut self) {
        self.owned = false;
        process::disown(&self.plan.dir);
    }

    /// Stops everything; says so if something cannot be stopped.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.owned = false;
        down(&self.plan.dir).map(|_| ())
    }

    /// The first process that has ended by itself, if one has.
    pub(crate) fn ended(&mut self) -> Option<Error> {
        let position = self
            .children
            .iter_mut()
            .position(|(_, child)| child.try_wait().is_ok_and(|end| end.is_some()))?;
        let (name, _) = self.children.remove(position);
        let log = self.plan.host(&name).map(Host::log).unwrap_or_default();
        Some(Error::Process { what: format!("{name} has ended"), log })
    }

    /// Makes every host's configuration and identity, and the network file that names them.
    fn identities(&mut self, progress: &Progress) -> Result<()> {
        progress.now("making configurations and identities");
        for index in 0..self.plan.hosts.len() {
            let Some(host) = self.plan.hosts.get(index).cloned() else { continue };
            config::write(&self.plan, &host)?;
            let program = match host.role {
                Role::Authority => DIRECTORY,
                role if role.is_relay() => RELAY,
                _ => continue,
            };
            let identity = self.init(&host, program)?;
            if let Some(host) = self.plan.hosts.get_mut(index) {
                host.identity = Some(identity);
            }
            if host.role == Role::Authority {
                // Relays want to know their network before they have a place in it.
                config::write_network(&self.plan)?;
            }
        }
        config::write_network(&self.plan)
    }

    /// Runs a daemon's `init`, which prints `identity = <hexadecimal>`.
    fn init(&self, host: &Host, program: &str) -> Result<String> {
        let words =
            [self.release.join(program).into(), "init".into(), "--config".into(), host.config().into()];
        let output = namespace::command(&self.plan, host, &words)?
            .output()
            .map_err(Error::system(format!("cannot run {program} init for {}", host.name)))?;
        let _ = fs::write(host.log(), &output.stderr);
        let text = String::from_utf8_lossy(&output.stdout);
        let identity = text.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == "identity").then(|| value.trim().trim_matches('"').to_owned())
        });
        match identity {
            Some(identity) if output.status.success() => Ok(identity),
            _ => Err(Error::Process {
                what: format!("{program} init made no identity for {}", host.name),
                log: host.log(),
            }),
        }
    }

    async fn processes(&mut self, progress: &Progress) -> Result<()> {
        progress.now("starting the authority and the web server");
        self.start(&[Role::Authority, Role::Origin]).await?;
        let shape = &self.plan.shape;
        progress.now(&format!(
            "starting {} mixes, {} entries and {} exits",
            shape.mixes(),
            shape.entries,
            shape.exits
        ));
        self.start(&[Role::Mix, Role::Entry, Role::Exit]).await?;
        progress.now("starting the client; it waits for the first consensus and for its entry");
        self.start(&[Role::Client]).await
    }

    /// Starts all hosts of these roles, then waits until each has said that it is ready.
    async fn start(&mut self, roles: &[Role]) -> Result<()> {
        let hosts: Vec<_> =
            self.plan.hosts.iter().filter(|host| roles.contains(&host.role)).cloned().collect();
        for host in &hosts {
            let mut command = namespace::prefix(&self.plan, host)?;
            command.extend(self.command(host)?);
            let child = process::start(&self.plan.dir, &host.name, &host.output(), &host.log(), &command)?;
            self.children.push((host.name.clone(), child));
        }
        let deadline = Instant::now() + PATIENCE;
        for host in &hosts {
            while !is_ready(host) {
                if let Some(error) = self.ended() {
                    return Err(error);
                }
                if Instant::now() > deadline {
                    let what = format!("{} was not ready within {} s", host.name, PATIENCE.as_secs());
                    return Err(Error::Process { what, log: host.log() });
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    fn command(&self, host: &Host) -> Result<Vec<OsString>> {
        let daemon = |program: &str, verb: &str| -> Vec<OsString> {
            vec![self.release.join(program).into(), verb.into(), "--config".into(), host.config().into()]
        };
        Ok(match host.role {
            Role::Authority => daemon(DIRECTORY, "run"),
            Role::Mix | Role::Entry | Role::Exit => daemon(RELAY, "run"),
            Role::Client => daemon(CLIENT, "up"),
            Role::Origin => {
                let me = std::env::current_exe().map_err(Error::system("cannot find this program"))?;
                let exits: Vec<_> = self.plan.of(Role::Exit).map(|exit| exit.address.to_string()).collect();
                vec![
                    me.into(),
                    "origin".into(),
                    "--listen".into(),
                    host.listen().to_string().into(),
                    "--names".into(),
                    host.names().to_string().into(),
                    "--allow".into(),
                    exits.join(",").into(),
                    "--seen".into(),
                    self.plan.seen.clone().into(),
                ]
            }
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if self.owned
            && let Err(error) = down(&self.plan.dir)
        {
            eprintln!("{error}");
        }
    }
}

/// Stops the network in `dir`, if one runs there, and takes its memory-backed folder away. Logs stay.
/// Returns how many processes were running.
pub(crate) fn down(dir: &Path) -> Result<usize> {
    let count = process::stop(dir)?;
    clear_memory(dir);
    Ok(count)
}

/// Removes the memory-backed folder of the network that is described in `dir`.
fn clear_memory(dir: &Path) {
    if let Ok(Plan { runtime: Some(runtime), .. }) = Plan::load(dir) {
        let _ = fs::remove_dir_all(runtime);
    }
}

fn programs_are_there(release: &Path) -> Result<()> {
    match [DIRECTORY, RELAY, CLIENT].into_iter().find(|program| !release.join(program).is_file()) {
        None => Ok(()),
        Some(program) => Err(Error::Missing(format!(
            "there is no {program} in {}: run scripts/up, which builds it",
            release.display()
        ))),
    }
}

/// True once the host's process has printed `ready`.
fn is_ready(host: &Host) -> bool {
    fs::read_to_string(host.output()).is_ok_and(|text| text.lines().any(|line| line == "ready"))
}

/// Removes what an earlier network left in the folder. A folder that is not a network's is left alone.
fn clear(plan: &Plan) -> Result<()> {
    let keep = process::run_folder(&plan.dir);
    let entries: Vec<_> = fs::read_dir(&plan.dir)
        .map_err(Error::system(format!("cannot read {}", plan.dir.display())))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| *path != keep)
        .collect();
    if !entries.is_empty() && Plan::load(&plan.dir).is_err() {
        return Err(Error::InUse(format!(
            "{} holds other things than a network: name an empty folder with --dir",
            plan.dir.display()
        )));
    }
    clear_memory(&plan.dir);
    for path in entries {
        let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.map_err(Error::system(format!("cannot remove {}", path.display())))?;
    }
    Ok(())
}

/// A folder for replay tags on the first tmpfs there is, named after this launcher's process.
fn runtime(plan: &Plan) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let is_memory = |path: &PathBuf| {
        mounts.lines().any(|line| {
            let mut fields = line.split(' ').skip(1);
            fields.next().map(Path::new) == Some(path.as_path()) && fields.next() == Some("tmpfs")
        })
    };
    let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let folder = session.into_iter().chain([PathBuf::from("/dev/shm")]).find(is_memory)?;
    Some(folder.join(format!("mizzle-net-{}-{}", plan.slot, std::process::id())))
}

/// Says clearly that another network has these addresses, before some daemon says it less clearly.
fn addresses_are_free(plan: &Plan) -> Result<()> {
    let relays = plan.hosts.iter().filter(|host| host.role != Role::Client).map(Host::listen);
    let clients = plan.of(Role::Client).map(|client| plan.socks(client));
    for address in relays.chain(clients) {
        if let Err(error) = std::net::TcpListener::bind(address) {
            return Err(Error::InUse(format!(
                "{address} cannot be listened on ({error}): does another network run? stop it with \
                 scripts/down, or take other addresses with --slot {}",
                plan.slot.wrapping_add(1)
            )));
        }
    }
    Ok(())
}

/// What [`Network::prepare`] writes down of each host, beside `network.json`.
const HOSTS: &str = "hosts.json";
const DIRECTORY: &str = "mizzle-directory";
const RELAY: &str = "mizzle-relay";
const CLIENT: &str = "mizzle";
const PATIENCE: Duration = Duration::from_secs(90);
