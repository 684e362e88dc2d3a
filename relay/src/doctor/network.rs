//! What the network sees of this relay: where it answers, and how it fits the newest document.

use super::{family, listed};
use crate::config::Config;
use crate::services::policy::is_reachable_by_all;
use crate::status::Page;
use mizzle_link::findings::{Finding, Verdict};
use mizzle_link::http::{self, Limits};
use mizzle_link::{Acceptor, Alpn, Identity, NetworkFile, Result, dial, probe};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::consensus::{Consensus, MAX_CONSENSUS_SIZE, Signed};
use mizzle_protocol::id::RelayId;
use mizzle_protocol::time::Instant;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;
use tokio::net::TcpListener;

/// What [`all`] finds out, in its order.
pub(super) const NAMES: [&str; 8] =
    ["directory", "clock", "version", "listed", "family", "port", "ipv6", "nat"];

/// All of it.
pub(super) async fn all(
    config: &Config,
    file: &NetworkFile,
    identity: &Identity,
    running: Option<&Page>,
) -> Vec<Finding> {
    let documents = fetch(config, file).await;
    let now = mizzle_link::Clock::new().now();
    let mut findings = Vec::new();
    let document = match newest(documents, file) {
        Newest::Good(consensus) => {
            findings.push(Finding::pass("directory", "the network's newest document is at hand"));
            findings.push(clock(&consensus, now));
            findings.push(version(&consensus));
            findings.push(listed::check(&consensus, identity.id(), running));
            findings.push(family::check(config, file, &consensus, identity.id()));
            Some(*consensus)
        }
        Newest::Bad(finding) => {
            findings.push(finding);
            let unknown = "not known without a document of the network";
            findings.extend(["clock", "version", "listed"].map(|name| Finding::skip(name, unknown)));
            findings.push(match family::certificate(config, file, identity.id()) {
                Ok(finding) if finding.verdict == Verdict::Pass => Finding::skip("family", unknown),
                Ok(finding) | Err(finding) => finding,
            });
            None
        }
    };
    findings.extend(reachable(config, file, identity, running.is_some(), document.as_ref()).await);
    findings
}

enum Newest {
    Good(Box<Consensus>),
    Bad(Finding),
}

/// Asks every authority, and some mirrors, all at once.
async fn fetch(config: &Config, file: &NetworkFile) -> Vec<Result<Vec<u8>>> {
    let authorities = file.authorities.iter().map(|known| (RelayId(known.id.0), known.address));
    let mirrors = file.mirrors.iter().map(|known| (known.id, known.address)).take(MIRRORS);
    let asked: Vec<_> = authorities
        .chain(mirrors)
        .map(|(id, address)| {
            let outbound = config.outbound;
            tokio::spawn(async move {
                let limits = Limits { body: MAX_CONSENSUS_SIZE, time: TIME, ..Limits::default() };
                let mut link = dial(address, id, None, Alpn::Documents, outbound).await?;
                http::get(&mut link, "/consensus", &limits).await.map(|response| response.body.to_vec())
            })
        })
        .collect();
    let mut answers = Vec::new();
    for answer in asked {
        if let Ok(answer) = answer.await {
            answers.push(answer);
        }
    }
    answers
}

/// The newest document that the network's authorities have signed. One that asks for what this version does not
/// speak is good here: it is what `version` looks for.
fn newest(answers: Vec<Result<Vec<u8>>>, file: &NetworkFile) -> Newest {
    let authorities: Vec<_> = file.authorities.iter().map(|authority| authority.id).collect();
    let mut best: Option<Consensus> = None;
    let (mut unreachable, mut wrong) = (None, None);
    for answer in answers {
        let bytes = match answer {
            Ok(bytes) => bytes,
            Err(error) => {
                unreachable = Some(error.to_string());
                continue;
            }
        };
        let read = Signed::from_bytes(&bytes).and_then(|signed| {
            match signed.verify_at_any_time(&authorities, file.threshold, &file.name) {
                Err(error) if error.kind() == ErrorKind::Incompatible => signed
                    .read_unverified()
                    .ok()
                    .filter(|consensus| consensus.network == file.name)
                    .ok_or(error),
                result => result,
            }
        });
        match read {
            Ok(consensus) if best.as_ref().is_none_or(|best| best.epoch < consensus.epoch) => {
                best = Some(consensus);
            }
            Ok(_) => {}
            Err(error) => wrong = Some(error.to_string()),
        }
    }
    match (best, wrong, unreachable) {
        (Some(best), _, _) => Newest::Good(Box::new(best)),
        (None, Some(error), _) => {
            let advice = "take a new network file from who runs the network";
            Newest::Bad(Finding::fail("directory", error, advice))
        }
        (None, None, error) => {
            let what = format!("no authority and no mirror answers ({})", error.unwrap_or_default());
            Newest::Bad(Finding::fail(
                "directory",
                what,
                "let this machine connect out, and look at `outbound`",
            ))
        }
    }
}

/// Documents are made by the clock of the authorities: the newest is as old as an epoch, never older than two,
/// and never from the future.
fn clock(consensus: &Consensus, now: Instant) -> Finding {
    let advice = "set it: timedatectl set-ntp true, then compare date -u";
    let made = consensus.valid_after.instant();
    let epoch = consensus.parameters.epoch;
    if made > now + consensus.schedule().grace() {
        let behind = made.since(now).as_secs();
        return Finding::fail(
            "clock",
            format!("this machine is at least {behind} s behind the network"),
            advice,
        );
    }
    if now > made + epoch * 2 {
        let ahead = now.since(made + epoch).as_secs();
        let what = format!(
            "this machine is {ahead} s ahead of the network, or the authorities have made no document since"
        );
        return Finding::fail("clock", what, advice);
    }
    Finding::pass("clock", "this machine's clock fits the newest document")
}

fn version(consensus: &Consensus) -> Finding {
    let names = |numbers: Vec<String>| numbers.join(", ");
    let missing = consensus.required.iter().filter(|number| !number.is_supported());
    let missing: Vec<_> = missing.map(ToString::to_string).collect();
    if !missing.is_empty() {
        let what = format!("the network requires {}, which this version does not speak", names(missing));
        return Finding::fail("version", what, "upgrade mizzle-relay");
    }
    let recommended: Vec<_> = consensus.not_spoken().map(|number| number.to_string()).collect();
    if !recommended.is_empty() {
        let text = format!("new enough; the network also recommends {}: upgrade soon", names(recommended));
        return Finding::pass("version", text);
    }
    Finding::pass("version", "it speaks what the network requires and recommends")
}

/// Dials every announced address as the authorities do.
async fn reachable(
    config: &Config,
    file: &NetworkFile,
    identity: &Identity,
    running: bool,
    document: Option<&Consensus>,
) -> Vec<Finding> {
    let stand_in = if running { None } else { stand_in(config, identity).await };
    let listed = document.and_then(|consensus| consensus.relay(identity.id()));
    let unreached = document.and_then(|consensus| listed::unreached(consensus, identity.id()));
    let (mut port, mut ipv6, mut nat) = (None, None, None);
    for address in config.announced() {
        let answer = probe(identity.id(), address, TIME).await;
        let seen = listed.is_some_and(|listed| listed.addresses.contains(&address));
        let local = StdListener::bind((address.ip(), 0)).is_ok();
        let translated = !local || address.port() != config.listen.port();
        let row = if address.is_ipv6() { &mut ipv6 } else { &mut port };
        match answer {
            Ok(()) => {
                if let Some(reason) = unreached {
                    *row = Some(from_here_only(address, reason, running));
                }
            }
            // The authorities dial from outside, and their word counts: some routers let nobody in from within.
            Err(_) if seen => {}
            Err(_) if translated && address.is_ipv4() => nat = Some(translation(config, address, local)),
            Err(reason) => *row = Some(closed(config, address, &reason)),
        }
        if !file.open_exits && !is_reachable_by_all(address.ip()) {
            let what = format!("{} is no public address, so nobody outside can reach it", address.ip());
            if address.is_ipv6() {
                ipv6 = Some(Finding::fail("ipv6", what, PRIVATE_IPV6));
            } else {
                nat = Some(Finding::fail("nat", what, PRIVATE));
            }
        }
    }
    if let Some(task) = stand_in {
        task.abort();
    }
    let has = |wanted: fn(&SocketAddr) -> bool| config.announced().iter().any(wanted);
    let port = port.unwrap_or_else(|| match (has(SocketAddr::is_ipv4), &nat) {
        (false, _) => Finding::skip("port", "no IPv4 address is announced"),
        (true, Some(_)) => Finding::skip("port", "not known: see nat"),
        (true, None) => Finding::pass("port", "this relay answers where it says"),
    });
    let ipv6 = ipv6.unwrap_or_else(|| match has(SocketAddr::is_ipv6) {
        false => Finding::skip("ipv6", "no IPv6 address is announced"),
        true => Finding::pass("ipv6", "this relay answers where it says"),
    });
    let nat = nat.unwrap_or_else(|| match [&port, &ipv6].into_iter().find(|row| is_wrong(row)) {
        Some(row) => Finding::skip("nat", format!("not known: see {}", row.name)),
        None => Finding::pass("nat", "announced addresses lead to this machine"),
    });
    vec![port, ipv6, nat]
}

/// Shakes hands on the public port while the relay does not run. `None`: the port cannot be had.
async fn stand_in(config: &Config, identity: &Identity) -> Option<tokio::task::JoinHandle<()>> {
    let listener = TcpListener::bind(config.listen).await.ok()?;
    let acceptor = Acceptor::new(identity, &Alpn::ALL).ok()?;
    Some(tokio::spawn(async move {
        // One at a time: only doctor and perhaps an authority call.
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    }))
}

fn is_wrong(finding: &Finding) -> bool {
    matches!(finding.verdict, Verdict::Fail | Verdict::Warn)
}

/// It answers this machine, and the authorities say that it did not answer them.
fn from_here_only(address: SocketAddr, reason: &str, running: bool) -> Finding {
    let name = if address.is_ipv6() { "ipv6" } else { "port" };
    if !running {
        let what = format!("what listens here now answers from here, but the authorities say: {reason}");
        return Finding::warn(
            name,
            what,
            "start the relay, and look again after the network's next document",
        );
    }
    let advice = format!(
        "let TCP port {} come in from everywhere, in the firewalls of this machine and of its provider, and forward it \
         if a router stands before it; try it from another network, then wait for the next document",
        address.port()
    );
    Finding::warn(name, format!("it answers from here, but not the authorities: {reason}"), advice)
}

fn closed(config: &Config, address: SocketAddr, reason: &str) -> Finding {
    let (name, advice) = if address.is_ipv6() {
        let advice = if config.listen.is_ipv4() {
            "listen on IPv6, too: listen = \"[::]:PORT\""
        } else {
            "give this machine the address, and a route; or take it out of `announce`"
        };
        ("ipv6", advice.replace("PORT", &config.listen.port().to_string()))
    } else {
        let port = address.port();
        let advice = format!(
            "open TCP port {port} in the firewall, let `listen` cover this address, and see that nothing else has \
             the port"
        );
        ("port", advice)
    };
    Finding::fail(name, format!("{address}: {reason}"), advice)
}

fn translation(config: &Config, address: SocketAddr, local: bool) -> Finding {
    let listen = config.listen.port();
    if local {
        let what = format!("port {} is announced, but this relay listens on {listen}", address.port());
        return Finding::fail(
            "nat",
            what,
            "forward the one to the other, or set `announce` to the port of `listen`",
        );
    }
    let what = format!("{address} is not an address of this machine, and does not lead to it");
    let advice =
        format!("forward TCP port {} of the router to port {listen} of this machine", address.port());
    Finding::fail("nat", what, advice)
}

/// How long an address has to answer: as long as the authorities give it.
const TIME: Duration = Duration::from_secs(5);
const MIRRORS: usize = 3;
const PRIVATE: &str = "set `announce` to the public address, and forward the port to this machine";
const PRIVATE_IPV6: &str =
    "set `announce` to a global IPv6 address of this machine, or take this one out of it";

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use mizzle_protocol::consensus::ProtocolNumber;
    use mizzle_protocol::id::Epoch;
    use mizzle_protocol::path::Parameters;
    use mizzle_protocol::time::UnixTime;

    pub(in crate::doctor) fn consensus(valid_after: u64) -> Consensus {
        Consensus {
            method: 1,
            network: "test".to_owned(),
            epoch: Epoch(7),
            valid_after: UnixTime(valid_after),
            fresh_until: UnixTime(valid_after + 20),
            valid_until: UnixTime(valid_after + 60),
            previous: None,
            parameters: Parameters::local(),
            origin: UnixTime(0),
            required: ProtocolNumber::SUPPORTED.to_vec(),
            recommended: ProtocolNumber::SUPPORTED.to_vec(),
            relays: Vec::new(),
            not_running: Vec::new(),
            pool: None,
            made: None,
            later: Default::default(),
        }
    }

    #[test]
    fn only_addresses_of_the_public_internet_are_reached_from_everywhere() {
        let reached = |address: &str| is_reachable_by_all(address.parse().unwrap());
        for address in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2a00::1", "2606:4700::1"] {
            assert!(reached(address), "{address}");
        }
        for address in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.0.1",
            "172.16.0.1",
            "192.168.0.1",
            "192.0.2.7",
            "224.0.0.1",
            "::",
            "::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "2001:db8::7",
            "3fff::7",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
        ] {
            assert!(!reached(address), "{address}");
        }
    }

    #[test]
    fn a_clock_is_wrong_from_one_grace_behind_and_from_an_epoch_ahead() {
        // Local networks: a grace of 8 s, an epoch of 20.
        let at = |now| clock(&consensus(1_000_000), UnixTime(now).instant());
        for (now, verdict) in [
            (1_000_000, Verdict::Pass),
            (999_993, Verdict::Pass),
            (999_991, Verdict::Fail),
            (1_000_039, Verdict::Pass),
            (1_000_041, Verdict::Fail),
        ] {
            assert_eq!(at(now).verdict, verdict, "{now}");
        }
        assert!(at(999_900).what.contains("100 s behind"));
        assert!(at(1_000_120).what.contains("100 s ahead"));
    }

    #[test]
    fn what_is_required_must_be_spoken_and_what_is_recommended_is_told() {
        let mut consensus = consensus(0);
        assert_eq!(version(&consensus).verdict, Verdict::Pass);
        let future = ProtocolNumber { protocol: 2, version: 9 };
        consensus.recommended.push(future);
        assert!(version(&consensus).what.contains("packet/9"));
        consensus.required.push(future);
        let finding = version(&consensus);
        assert_eq!((finding.verdict, finding.advice.as_str()), (Verdict::Fail, "upgrade mizzle-relay"));
    }
}
