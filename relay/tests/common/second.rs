//! A second real relay in the network of the one under test.

use super::process::{Launch, ended, own_host, start};
use super::{PATIENCE, metrics_text, name, sum};
use mizzle_protocol::consensus::Descriptor;
use mizzle_protocol::mix::Role;
use rustix::process::{Pid, Signal, kill_process};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Child;
use tokio::sync::mpsc;

/// A second real relay.
pub struct Second {
    pub descriptor: Descriptor,
    pub role: Role,
    pub metrics: SocketAddr,
    folder: PathBuf,
    child: Child,
}

impl Second {
    /// Starts it in a folder below that of the network, and waits for its descriptor.
    pub(super) async fn start(network: &Path, role: Role, handed_in: &mut mpsc::Receiver<Vec<u8>>) -> Self {
        let folder = network.join("second");
        std::fs::create_dir(&folder).unwrap();
        let host = own_host().into();
        let (address, metrics) = (SocketAddr::new(host, 7000), SocketAddr::new(host, 7100));
        let config = format!(
            "network = \"../network.toml\"\nlisten = \"{address}\"\nrole = \"{}\"\nmetrics = \"{metrics}\"\n\
             runtime = \"runtime\"\nreplay_on_disk = true\nexact_metrics = true\nloops = 0\n",
            name(role)
        );
        std::fs::write(folder.join("relay.toml"), config).unwrap();
        let child = start(&folder.join("relay.toml"), &Launch::default());
        let own = async {
            loop {
                let bytes = handed_in.recv().await.unwrap();
                let descriptor = Descriptor::from_signed_bytes(&bytes, "test").unwrap();
                if descriptor.addresses.contains(&address) {
                    return descriptor;
                }
            }
        };
        let descriptor =
            tokio::time::timeout(PATIENCE, own).await.expect("the second relay hands in nothing");
        Self { descriptor, role, metrics, folder, child }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The sum of all its counters whose name and labels begin with `name`; no number if it does not answer.
    pub async fn count(&self, name: &str) -> f64 {
        sum(&metrics_text(self.metrics).await, name)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Waits until it has ended by itself: its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        ended(&mut self.child).await
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the second relay's log:\n{}", self.log());
        }
    }
}
