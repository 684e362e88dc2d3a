//! Dialling a relay at all of its addresses.
//!
//! Each must answer: who is told an address that does not is kept waiting for it. What failed is said by kind of address,
//! IPv4 or IPv6, and never with the address, which the operator knows. An address that this machine has no way to is
//! nobody's failure but ours, and not judged. (spec: DIR-2)

use crate::authority::ProbeOutcome;
use mizzle_protocol::id::RelayId;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// Dials each address, all at once, as any client would. A completed handshake proves the identity.
pub(crate) async fn probe(relay: RelayId, addresses: Vec<SocketAddr>, time: Duration) -> ProbeOutcome {
    let dials: Vec<_> = addresses
        .into_iter()
        .map(|address| (address, tokio::spawn(mizzle_link::probe(relay, address, time))))
        .collect();
    let mut answers = Vec::new();
    for (address, answer) in dials {
        let answer = match answer.await {
            Ok(Ok(())) => Answer::Reached,
            Ok(Err(_)) if !has_way_to(address) => Answer::NotJudged,
            Ok(Err(reason)) => Answer::Failed(reason),
            Err(_) => Answer::Failed("the authority failed to dial it".into()),
        };
        answers.push((address, answer));
    }
    judge(&answers)
}

/// What came of dialling one address.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Reached,
    /// This machine has no way there.
    NotJudged,
    Failed(String),
}

fn judge(answers: &[(SocketAddr, Answer)]) -> ProbeOutcome {
    let reached = answers.iter().filter(|(_, answer)| *answer == Answer::Reached);
    let reachable: Vec<_> = reached.map(|(address, _)| *address).collect();
    let failure = failure(answers).or_else(|| {
        let nowhere = reachable.is_empty() && !answers.is_empty();
        nowhere.then(|| "this authority itself has no way to the announced addresses".into())
    });
    ProbeOutcome { reachable, failure, rate: None }
}

/// A sentence for the operator, if an address failed.
fn failure(answers: &[(SocketAddr, Answer)]) -> Option<String> {
    let (mut failed, mut reached) = (Vec::new(), Vec::new());
    for Kind { name: kind, reached: reached_there, is_ipv4 } in KINDS {
        let here: Vec<_> = answers.iter().filter(|(address, _)| address.is_ipv4() == is_ipv4).collect();
        let is_reached = here.iter().any(|(_, answer)| *answer == Answer::Reached);
        if is_reached {
            reached.push(reached_there.to_owned());
        }
        let reason = here.iter().find_map(|(_, answer)| match answer {
            Answer::Failed(reason) => Some(reason.as_str()),
            Answer::Reached | Answer::NotJudged => None,
        });
        if let Some(reason) = reason {
            let (brief, count) = (brief(reason), here.len());
            let sentence = match here.as_slice() {
                [_] => format!("its {kind} address was not reached: {brief}"),
                _ if is_reached => format!("one of its {count} {kind} addresses was not reached: {brief}"),
                _ => format!("its {kind} addresses were not reached: {brief}"),
            };
            failed.push((sentence, reason));
        }
    }
    match (failed.as_slice(), reached.as_slice()) {
        ([], _) => None,
        // It announces no other kind.
        ([(_, reason)], []) if answers.iter().all(|(_, answer)| *answer != Answer::NotJudged) => {
            Some((*reason).to_owned())
        }
        _ => Some(
            failed.into_iter().map(|(sentence, _)| sentence).chain(reached).collect::<Vec<_>>().join("; "),
        ),
    }
}

/// The reason without what the sentence around it says already.
fn brief(reason: &str) -> &str {
    reason.strip_prefix("cannot connect to the announced address: ").unwrap_or(reason)
}

/// False if this machine knows no way to `address`, as one without IPv6. Nothing is sent.
fn has_way_to(address: SocketAddr) -> bool {
    let any = match address {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(address)).is_ok()
}

/// IPv4 or IPv6.
struct Kind {
    name: &'static str,
    reached: &'static str,
    is_ipv4: bool,
}

const KINDS: [Kind; 2] = [
    Kind { name: "IPv4", reached: "reached on IPv4", is_ipv4: true },
    Kind { name: "IPv6", reached: "reached on IPv6", is_ipv4: false },
];

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_link::is_about_reachability;

    const ONE: &str = "192.0.2.1:7000";
    const OTHER: &str = "192.0.2.2:7000";
    const SIX: &str = "[2001:db8::1]:7000";

    fn outcome(answers: &[(&str, Answer)]) -> ProbeOutcome {
        let answers: Vec<_> =
            answers.iter().map(|(address, answer)| (address.parse().unwrap(), answer.clone())).collect();
        judge(&answers)
    }

    fn refused() -> Answer {
        Answer::Failed("cannot connect to the announced address: connection refused".into())
    }

    #[test]
    fn the_sentence_says_which_kind_of_address_failed_and_why_and_names_none() {
        let silent =
            || Answer::Failed("cannot connect to the announced address: no answer within 4 s".into());
        let impostor = || Answer::Failed("the identity at the announced address is another".into());
        use Answer::Reached;
        for (answers, sentence) in [
            (vec![(ONE, refused())], "cannot connect to the announced address: connection refused"),
            (
                vec![(ONE, Reached), (SIX, silent())],
                "its IPv6 address was not reached: no answer within 4 s; reached on IPv4",
            ),
            (
                vec![(SIX, Reached), (ONE, impostor())],
                "its IPv4 address was not reached: the identity at the announced address is another; reached on IPv6",
            ),
            (
                vec![(ONE, refused()), (SIX, silent())],
                "its IPv4 address was not reached: connection refused; its IPv6 address was not reached: no \
                 answer within 4 s",
            ),
            (
                vec![(ONE, Reached), (OTHER, refused())],
                "one of its 2 IPv4 addresses was not reached: connection refused; reached on IPv4",
            ),
            (
                vec![(ONE, refused()), (OTHER, refused()), (SIX, Reached)],
                "its IPv4 addresses were not reached: connection refused; reached on IPv6",
            ),
        ] {
            let outcome = outcome(&answers);
            let failure = outcome.failure.unwrap();
            assert_eq!(failure, sentence);
            assert!(is_about_reachability(&failure) && failure.len() <= 200, "{failure}");
            let reached = answers.iter().filter(|(_, answer)| *answer == Reached).count();
            assert_eq!(outcome.reachable.len(), reached);
        }
        assert_eq!(outcome(&[(ONE, Reached), (SIX, Reached)]).failure, None);
    }

    #[test]
    fn what_the_authority_has_no_way_to_is_not_held_against_the_relay() {
        let outcome_ = outcome(&[(ONE, Answer::Reached), (SIX, Answer::NotJudged)]);
        assert_eq!((outcome_.reachable.len(), outcome_.failure), (1, None));
        let failure = outcome(&[(ONE, refused()), (SIX, Answer::NotJudged)]).failure.unwrap();
        assert_eq!(failure, "its IPv4 address was not reached: connection refused");
        assert!(outcome(&[(SIX, Answer::NotJudged)]).failure.unwrap().contains("this authority itself"));
        assert_eq!(outcome(&[]).failure, None);
    }

    #[tokio::test]
    async fn a_relay_that_listens_on_one_kind_of_address_is_told_which_is_missing() {
        let mut rng = mizzle_link::seeded_rng().unwrap();
        let identity = mizzle_link::Identity::generate(&mut rng);
        let time = Duration::from_secs(4);
        for (here, there, missing) in [("127.0.0.1:0", "[::1]:0", "IPv6"), ("[::1]:0", "127.0.0.1:0", "IPv4")]
        {
            let listener = tokio::net::TcpListener::bind(here).await.unwrap();
            let other = tokio::net::TcpListener::bind(there).await.unwrap().local_addr().unwrap();
            let address = listener.local_addr().unwrap();
            let acceptor = mizzle_link::Acceptor::new(&identity, &[mizzle_link::Alpn::Documents]).unwrap();
            let listening = tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let _ = acceptor.accept(stream).await;
                }
            });
            let outcome = probe(identity.id(), vec![address, other], time).await;
            assert_eq!(outcome.reachable, [address]);
            let failure = outcome.failure.unwrap();
            let sentence = format!("its {missing} address was not reached: connection refused; reached on ");
            assert!(failure.starts_with(&sentence), "{failure}");
            listening.abort();
        }
        assert!(has_way_to("127.0.0.1:9".parse().unwrap()));
    }
}
