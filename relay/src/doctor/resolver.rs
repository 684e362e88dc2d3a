//! Names, which an exit must be able to look up.

use crate::config::{Config, RelayRole};
use mizzle_link::findings::Finding;
use mizzle_link::{NetworkFile, seeded_rng};
use rand_core::Rng;
use std::time::Duration;
use tokio::net::lookup_host;

/// Asks the machine's resolver as an exit would: names that exist, and one that does not.
pub(super) async fn check(config: &Config, network: Option<&NetworkFile>) -> Finding {
    if config.role != RelayRole::Exit {
        return Finding::skip("dns", "only exits look names up");
    }
    if network.is_some_and(|network| network.open_exits) {
        return Finding::skip("dns", "a local network: its names come from the key `hosts`");
    }
    let mut failure = String::new();
    let mut found = false;
    for name in NAMES {
        match tokio::time::timeout(TIME, lookup_host((name, 443))).await {
            Ok(Ok(addresses)) => found |= addresses.count() > 0,
            Ok(Err(error)) => failure = error.to_string(),
            Err(_) => failure = format!("no answer within {} s", TIME.as_secs()),
        }
        if found {
            break;
        }
    }
    if !found {
        let what = format!("no name can be looked up ({failure})");
        return Finding::fail(
            "dns",
            what,
            "name a resolver that works in /etc/resolv.conf, best one on this machine",
        );
    }
    let random = seeded_rng().map_or(7, |mut rng| rng.next_u64());
    let absent = format!("mizzle-{random:x}.invalid.");
    if let Ok(Ok(mut addresses)) = tokio::time::timeout(TIME, lookup_host((absent.as_str(), 443))).await
        && addresses.next().is_some()
    {
        let what = "the resolver invents an address for a name that does not exist";
        return Finding::fail("dns", what, "take another resolver: run one of your own, such as unbound");
    }
    Finding::pass("dns", "names are looked up, and absent ones are absent")
}

/// Kept for such uses (RFC 2606), and the registry's own.
const NAMES: [&str; 2] = ["example.com.", "www.iana.org."];
const TIME: Duration = Duration::from_secs(5);
