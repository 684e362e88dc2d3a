//! The process of the relay under test.

use super::PATIENCE;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// How the relay's process is started.
#[derive(Clone, Default)]
pub struct Launch {
    /// Variables of its environment.
    pub environment: Vec<(&'static str, String)>,
    /// What a shell does before it becomes the relay, in a mount namespace of its own and in the folder of the
    /// configuration.
    pub before: Option<&'static str>,
}

impl Launch {
    /// The command that becomes the relay of this configuration.
    pub fn command(&self, config: &Path) -> Command {
        let relay = env!("CARGO_BIN_EXE_mizzle-relay");
        let mut command = match self.before {
            None => Command::new(relay),
            Some(before) => {
                let mut command = Command::new("unshare");
                let script = format!("{before} && exec \"$@\"");
                command.args(["-rm", "sh", "-c", &script, "sh", relay]);
                command
            }
        };
        command.current_dir(config.parent().unwrap()).envs(self.environment.clone());
        command.args(["run", "--config"]).arg(config);
        command
    }
}

/// Starts the relay of this configuration; returns when it is ready.
pub(super) fn start(config: &Path, launch: &Launch) -> Child {
    use std::io::{BufRead, BufReader};
    let log = config.parent().unwrap().join("log");
    let log = std::fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
    let mut child = launch.command(config).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    child
}

/// A loopback host that no other test and no outgoing connection has, so that its ports stay free.
pub fn own_host() -> Ipv4Addr {
    static HOSTS: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 192 | high, low, HOSTS.fetch_add(1, Ordering::Relaxed))
}

/// Waits until this process has ended by itself: its exit code.
pub async fn ended(child: &mut Child) -> Option<i32> {
    let end = async {
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, end).await.expect("the relay goes on")
}
