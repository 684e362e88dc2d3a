//! Whether the network uses this relay; if not, why, and what to do.

use crate::status::Page;
use mizzle_link::findings::Finding;
use mizzle_link::is_about_reachability;
use mizzle_protocol::consensus::Consensus;
use mizzle_protocol::id::RelayId;

/// What the newest document and the relay itself say; `running`: what it says of itself, if it runs.
pub(super) fn check(consensus: &Consensus, me: RelayId, running: Option<&Page>) -> Finding {
    if consensus.relay(me).is_some() {
        return Finding::pass(NAME, "the network's newest document lists this relay");
    }
    let own = running.and_then(Page::why_not_listed);
    // A relay that was told to rest or to leave knows why; the authorities know only that it announces nothing.
    if let Some(own) = own {
        if own.starts_with(RESTS) {
            return Finding::warn(
                NAME,
                own,
                "nothing, or a larger `quota`: it is listed again once it has ended its rest",
            );
        }
        if own == LEAVES {
            return Finding::warn(NAME, own, "nothing, or start it again to come back");
        }
    }
    match (consensus.why_not_running(me), own, running) {
        (_, Some(own), _) if own.starts_with(REFUSED) => Finding::fail(NAME, own, advice(own)),
        (Some(reason), _, None) => {
            let what = format!("this relay does not run, and when the newest document was made: {reason}");
            Finding::warn(NAME, what, "start it, and see that it is started with the machine")
        }
        (Some(reason), ..) if is_soon_over(reason) => {
            Finding::warn(NAME, format!("the authorities say: {reason}"), advice(reason))
        }
        (Some(reason), ..) => {
            Finding::fail(NAME, format!("the authorities refuse this relay: {reason}"), advice(reason))
        }
        (None, _, None) => {
            Finding::skip(NAME, "the newest document does not name this relay, which does not run")
        }
        (None, ..) => Finding::warn(NAME, "the newest document does not name this relay", UNNAMED),
    }
}

/// The authorities' reason, if it is that they did not reach this relay where it says that it is.
pub(super) fn unreached(consensus: &Consensus, me: RelayId) -> Option<&str> {
    consensus.why_not_running(me).filter(|reason| is_about_reachability(reason))
}

/// Nothing is wrong: it takes until the next document, or the relay was told so.
fn is_soon_over(reason: &str) -> bool {
    [UNDIALLED, AWAY].iter().any(|&known| reason.starts_with(known))
}

/// What to do about a reason of the authorities.
fn advice(reason: &str) -> &'static str {
    let known = ADVICE.iter().find(|(words, _)| reason.contains(words));
    known.map_or("see \"Why a relay is not listed\" in operators.md", |(_, advice)| advice)
}

/// Words of the authorities' reasons (directory/src/authority.rs, directory/src/probe.rs, relay/link/src/probe.rs), the first that fits counts.
const ADVICE: [(&str, &str); 16] = [
    (
        "not reached: ",
        "let connections in from everywhere at each address that it announces, by IPv4 and by IPv6, or announce only those where they come in: see port",
    ),
    (
        "no answer within",
        "let TCP come in from everywhere to the announced port, in the firewalls of this machine and of its provider, or forward the port: see port",
    ),
    (
        "the identity at the announced address",
        "give each relay an address or port of its own: another answers at this one's",
    ),
    (
        "the handshake at the announced address",
        "take what stands before the port out of the way: a proxy, or another server, answers there",
    ),
    (
        "the announced address",
        "let the relay listen at the address and port that it announces, and let connections in from everywhere: see port",
    ),
    ("not approved any more", "ask who runs the network why, and whether it may come back"),
    ("not approved", "send them the line `identity` of mizzle-relay status"),
    ("has revoked it", "make a new identity, and a certificate for that"),
    ("announces no address", "set `announce`"),
    (UNDIALLED, "wait for the network's next document"),
    (AWAY, "nothing if you wanted that; it comes back when its rest ends, or when it is started again"),
    (
        "no mix key for the current period",
        "see that this relay reaches the authorities and that its clock is right, then wait for the next document",
    ),
    ("clock right", "set the clock of this machine: timedatectl set-ntp true"),
    ("a family may have entries or exits", "choose one of both roles for all relays of the family"),
    ("the family certificate", "make the certificate anew: mizzle-relay key certify; then reload the relay"),
    ("upgrade it", "upgrade mizzle-relay"),
];
const NAME: &str = "listed";
const UNNAMED: &str = "if it was just started, wait for the next document; else ask who runs the network whether it is \
                       approved, and look at the relay's log";
/// What a relay says of itself: see `membership`.
const RESTS: &str = "it rests";
const LEAVES: &str = "its operator has told it to leave the network";
const REFUSED: &str = "an authority refuses this relay's descriptor";
const UNDIALLED: &str = "it has not been dialled yet";
const AWAY: &str = "it announces that it takes no packets";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coarse::Traffic;
    use crate::config::RelayRole;
    use crate::doctor::network::tests::consensus;
    use crate::membership::Standing;
    use mizzle_link::findings::Verdict;
    use mizzle_protocol::consensus::NotRunning;

    const ME: RelayId = RelayId([7; 32]);

    fn told(authorities: Option<&str>, own: Option<&str>) -> Finding {
        let mut consensus = consensus(1_000_000);
        consensus.not_running =
            authorities.map(|reason| NotRunning { id: ME, reason: reason.to_owned() }).into_iter().collect();
        let standing = own.map(|own| Standing { not_listed: Some(own.to_owned()), ..Standing::default() });
        let page = standing
            .map(|standing| Page::new(RelayRole::Mix, standing, Traffic::default(), None, None, None, 9));
        check(&consensus, ME, page.as_ref())
    }

    #[test]
    fn who_is_not_listed_is_told_by_whom_and_what_to_do() {
        let away = "it announces that it takes no packets: it rests, or leaves";
        let refusal = "an authority refuses this relay's descriptor: this relay is not approved: ask";
        for (authorities, own, verdict, what, advised) in [
            // Of what it does on purpose the relay knows more than the authorities.
            (Some(away), Some("it rests: 95 % of 1 GB"), Verdict::Warn, "95 %", "quota"),
            (
                Some(away),
                Some("its operator has told it to leave the network"),
                Verdict::Warn,
                "told it",
                "start it",
            ),
            (Some(away), Some(away), Verdict::Warn, "the authorities say", "rest"),
            (None, Some(refusal), Verdict::Fail, "not approved", "send them"),
            (
                None,
                Some("the authorities have not taken it"),
                Verdict::Warn,
                "does not name",
                "whether it is approved",
            ),
            (Some("its family has revoked it: make"), Some("x"), Verdict::Fail, "revoked", "new identity"),
            (Some("it has not been dialled yet"), Some("x"), Verdict::Warn, "dialled", "next document"),
            (Some("it has not been dialled yet"), None, Verdict::Warn, "does not run", "start it"),
            (None, None, Verdict::Skip, "does not run", ""),
        ] {
            let finding = told(authorities, own);
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.what.contains(what) && finding.advice.contains(advised), "{finding:?}");
        }
    }

    #[test]
    fn each_reason_of_the_authorities_has_advice_of_its_own() {
        for (reason, advised) in [
            ("cannot connect to the announced address: no answer within 5 s", "provider"),
            ("cannot connect to the announced address: connection refused", "listen at the address"),
            (
                "its IPv6 address was not reached: no answer within 5 s; reached on IPv4",
                "announce only those",
            ),
            ("the identity at the announced address is another", "port of its own"),
            ("the handshake at the announced address failed: it is no relay", "proxy"),
            ("it is not approved any more", "why"),
            (
                "this relay is not approved: ask the authority's operator to add its identity to `approved`",
                "send them",
            ),
            ("its family has revoked it: make a new identity, and a certificate for that", "new identity"),
            ("it has not been dialled yet", "next document"),
            ("it announces that it takes no packets: it rests, or leaves", "rest"),
            ("the descriptor is from the future: is the relay's clock right?", "clock"),
            ("its family has exits: a family may have entries or exits, not both", "roles"),
            (
                "the family certificate has expired: make a new one with mizzle-relay key certify",
                "key certify",
            ),
            ("this network requires link/9, which the relay does not speak: upgrade it", "upgrade"),
            ("something that this version has never heard of", "operators.md"),
        ] {
            assert!(advice(reason).contains(advised), "{reason}: {}", advice(reason));
        }
    }
}
