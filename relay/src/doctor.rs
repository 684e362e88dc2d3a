//! `check` and `doctor`: what keeps this relay from running well, each in one sentence, with what to do.
//!
//! `check` looks at configuration and machine. `doctor` also does from here what the authorities do from there:
//! it dials the announced addresses by the same code ([`mizzle_link::probe`]), and holds the network's newest
//! document against this machine. If the relay does not run, it listens in its place meanwhile.

mod family;
mod listed;
mod machine;
mod network;
mod resolver;

use crate::config::Config;
use crate::status::{self, Page};
use mizzle_link::findings::{Finding, Report};
use mizzle_link::{Identity, NetworkFile};
use mizzle_protocol::ErrorKind;

/// What can be said without starting or asking anything.
pub(crate) fn check(config: &Config) -> Report {
    let (file, finding) = network_file(config);
    let mut findings = vec![finding];
    findings.extend(machine::all(config, None));
    let identity = Identity::load(&config.identity()).ok().flatten();
    if let Some((file, identity)) = file.zip(identity) {
        findings.push(family::certificate(config, &file, identity.id()).unwrap_or_else(|finding| finding));
    }
    Report::new(findings)
}

/// Everything.
pub(crate) async fn examine(config: &Config) -> Report {
    let running = status::fetch(config).await.ok();
    let (file, finding) = network_file(config);
    let mut findings = vec![finding];
    findings.extend(machine::all(config, running.as_ref()));
    findings.push(resolver::check(config, file.as_ref()).await);
    let identity = Identity::load(&config.identity()).ok().flatten();
    match (file, identity) {
        (Some(file), Some(identity)) => {
            findings.extend(network::all(config, &file, &identity, running.as_ref()).await);
        }
        _ => findings
            .extend(network::NAMES.map(|name| {
                Finding::skip(name, "not looked at: it needs the network file and the identity")
            })),
    }
    findings.push(loops(running.as_ref()));
    Report::new(findings)
}

/// Whether its own packets come back to it.
fn loops(running: Option<&Page>) -> Finding {
    match running.map(Page::loops) {
        None => Finding::skip(LOOPS, "not known: the relay does not run"),
        Some((_, _, true)) => Finding::warn(
            LOOPS,
            "the relay's own packets do not come back to it: it is cut off from other relays, it drops what it can or may not \
             take, or somebody keeps packets away from it (an n-1 attack)",
            "see that this machine's network loses nothing and that `rate` and the processors are enough (status: lost); if \
             all is well, tell who runs the network",
        ),
        Some((0, _, _)) => Finding::skip(LOOPS, "not known: none has come home yet"),
        Some((home, lost, false)) => {
            Finding::pass(LOOPS, format!("its own packets come back to it: {home} did, {lost} did not"))
        }
    }
}

const LOOPS: &str = "loops";

fn network_file(config: &Config) -> (Option<NetworkFile>, Finding) {
    match NetworkFile::load(&config.network) {
        Ok(file) => (Some(file), Finding::pass("network", "the network file holds")),
        // What is missing says itself where to take it from.
        Err(error) if error.kind() == ErrorKind::Unavailable => {
            let advice = "put it there, or name its place as `network`";
            (None, Finding::fail("network", error.to_string(), advice))
        }
        Err(error) => (
            None,
            Finding::fail("network", error.to_string(), "take the file anew from who runs the network"),
        ),
    }
}
