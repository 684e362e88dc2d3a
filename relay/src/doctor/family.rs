//! Whether this relay's family is proven, and fits the relays that the network lists.

use crate::config::{Config, RelayRole};
use crate::family::{self, Life, RENEW};
use mizzle_link::findings::Finding;
use mizzle_link::{Clock, NetworkFile};
use mizzle_protocol::consensus::{Consensus, RelayKind};
use mizzle_protocol::id::RelayId;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What can be said without the network's documents, by the checks that the authorities make: the failure, or
/// what is well so far.
pub(super) fn certificate(config: &Config, file: &NetworkFile, me: RelayId) -> Result<Finding, Finding> {
    let certificate = match family::read(config, &file.name, me) {
        Ok(Some(certificate)) => certificate,
        Ok(None) => return Ok(Finding::pass(NAME, "it is of no family")),
        Err(error) => return Err(Finding::fail(NAME, error.to_string(), RELOAD)),
    };
    let now = Clock::new().now();
    let life = Life::of(&certificate, now);
    match (life, life.sentence()) {
        (Life::Ended, Some(sentence)) => Err(Finding::fail(NAME, sentence, RENEW)),
        (_, sentence) => {
            certificate
                .check_time(now, GRACE)
                .map_err(|error| Finding::fail(NAME, error.to_string(), WAIT))?;
            Ok(match sentence {
                Some(sentence) => Finding::warn(NAME, sentence, RENEW),
                None => Finding::pass(NAME, "the family has certified this relay"),
            })
        }
    }
}

/// The same, and how it fits the newest document.
pub(super) fn check(config: &Config, file: &NetworkFile, consensus: &Consensus, me: RelayId) -> Finding {
    let so_far = match certificate(config, file, me) {
        Ok(finding) => finding,
        Err(finding) => return finding,
    };
    let mine = family::read(config, &file.name, me).ok().flatten().map(|certificate| certificate.family);
    if consensus.relay(me).is_some_and(|listed| listed.family != mine) {
        let what = "the network knows this relay by another family than that of its certificate";
        return Finding::fail(NAME, what, "reload the relay, and wait for the network's next document");
    }
    let ips: Vec<IpAddr> = config.announced().iter().map(SocketAddr::ip).collect();
    let others = consensus.relays.iter().filter(|other| other.id != me);
    let same_machine =
        others.clone().filter(|other| other.addresses.iter().any(|address| ips.contains(&address.ip())));
    for neighbour in same_machine {
        if mine.is_none() || neighbour.family != mine {
            let what = "another relay at this very address is of another family, or of none";
            return Finding::fail(NAME, what, CERTIFY);
        }
    }
    let clash = match config.role {
        RelayRole::Entry => Some(RelayKind::Exit),
        RelayRole::Exit => Some(RelayKind::Entry),
        RelayRole::Mix => None,
    };
    if let (Some(clash), Some(_)) = (clash, mine)
        && others.clone().any(|other| other.family == mine && other.kind() == Some(clash))
    {
        let what = format!("this {} is of one family with an {clash}", config.role.name());
        return Finding::fail(
            NAME,
            what,
            "a family may have entries or exits, not both: change the role of one",
        );
    }
    so_far
}

const NAME: &str = "family";
const CERTIFY: &str = "certify all your relays by the key of one family: mizzle-relay key certify";
const RELOAD: &str = "when that is done, reload the relay, or start it";
const WAIT: &str = "set it, and make the certificate anew; or wait until this one begins";
/// How far the offline machine's clock may be ahead.
const GRACE: Duration = Duration::from_secs(60);
