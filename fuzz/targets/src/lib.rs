//! What each fuzz target does with its bytes.
//!
//! A target is a function that takes any bytes and fails, by a panic, when a property does not hold: that what
//! was parsed is written as it was read, that bounds are kept, that two implementations agree, that a message in
//! pieces means what it means at once. Two callers share each function: a program in `fuzz/`, where cargo-fuzz
//! makes the bytes up, and this crate's test, which replays the seeds of `fuzz/seeds` as part of
//! `cargo test --workspace`.
//!
//! This crate belongs to the main workspace and knows nothing of libFuzzer, so neither does `Cargo.lock`. What
//! is private to another crate, and stands alone, is included by its path.

#![allow(clippy::unwrap_used, clippy::panic)] // a target fails as a test does

mod bytes;
pub mod cells;
pub mod client_session;
pub mod dns;
pub mod documents;
pub mod endpoint;
pub mod frames;
pub mod gateway;
pub mod http;
pub mod link_files;
pub mod mix;
mod network;
pub mod socks_port;
pub mod sphinx;

#[allow(dead_code)]
#[path = "../../../client/daemon/src/dns/message.rs"]
mod client_question;
#[allow(dead_code)]
#[path = "../../../relay/src/services/dns/question.rs"]
mod exit_question;
#[allow(dead_code, unused_imports)]
#[path = "../../../protocol/tests/oracle/mod.rs"]
mod oracle;
#[path = "../../../relay/link/src/raw_key.rs"]
mod raw_key;
#[allow(dead_code, unused_imports)]
#[path = "../../../client/daemon/src/socks/mod.rs"]
mod socks;

pub use bytes::Seed;

/// A target by its name.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// As its program and its folder of seeds are called.
    pub name: &'static str,
    /// Panics if a property does not hold for these bytes.
    pub run: fn(&[u8]),
    /// Valid messages of each kind, made anew and always alike.
    pub seeds: fn() -> Vec<Seed>,
}

/// All targets.
pub const TARGETS: [Target; 24] = [
    Target { name: "client_cell", run: cells::client_cell, seeds: cells::client_cell_seeds },
    Target { name: "relay_cell", run: cells::relay_cell, seeds: cells::relay_cell_seeds },
    Target { name: "frames", run: frames::frames, seeds: frames::frames_seeds },
    Target { name: "payload", run: frames::payload, seeds: frames::payload_seeds },
    Target { name: "target", run: frames::target, seeds: frames::target_seeds },
    Target { name: "consensus", run: documents::consensus, seeds: documents::consensus_seeds },
    Target { name: "signed", run: documents::signed, seeds: documents::signed_seeds },
    Target { name: "diff", run: documents::diff, seeds: documents::diff_seeds },
    Target { name: "descriptor", run: documents::descriptor, seeds: documents::descriptor_seeds },
    Target { name: "revocation", run: documents::revocation, seeds: documents::revocation_seeds },
    Target { name: "service_keys", run: documents::service_keys, seeds: documents::service_keys_seeds },
    Target { name: "sphinx_unwrap", run: sphinx::unwrap, seeds: sphinx::unwrap_seeds },
    Target { name: "sphinx_message", run: sphinx::message, seeds: sphinx::message_seeds },
    Target { name: "sphinx_reply", run: sphinx::reply, seeds: sphinx::reply_seeds },
    Target { name: "mix", run: mix::mix, seeds: mix::mix_seeds },
    Target { name: "gateway", run: gateway::gateway, seeds: gateway::gateway_seeds },
    Target { name: "client_session", run: client_session::run, seeds: client_session::seeds },
    Target { name: "endpoint", run: endpoint::endpoint, seeds: endpoint::endpoint_seeds },
    Target { name: "http", run: http::http, seeds: http::http_seeds },
    Target { name: "raw_key", run: link_files::raw_key, seeds: link_files::raw_key_seeds },
    Target { name: "network_file", run: link_files::network_file, seeds: link_files::network_file_seeds },
    Target { name: "socks", run: socks_port::socks, seeds: socks_port::socks_seeds },
    Target { name: "socks_datagram", run: socks_port::datagram, seeds: socks_port::datagram_seeds },
    Target { name: "dns", run: dns::dns, seeds: dns::dns_seeds },
];

/// Runs the target of this name, as its program does.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("there is no target {name}")).run)(bytes);
}
