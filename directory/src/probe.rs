//! Dialling a relay at all of its addresses.

use crate::authority::ProbeOutcome;
use mizzle_protocol::id::RelayId;
use std::net::SocketAddr;
use std::time::Duration;

/// Dials each address, all at once, as any client would. A completed handshake proves the identity.
pub(crate) async fn probe(relay: RelayId, addresses: Vec<SocketAddr>, time: Duration) -> ProbeOutcome {
    let answers: Vec<_> = addresses
        .into_iter()
        .map(|address| (address, tokio::spawn(mizzle_link::probe(relay, address, time))))
        .collect();
    let mut outcome = ProbeOutcome { reachable: Vec::new(), failure: None };
    for (address, answer) in answers {
        match answer.await {
            Ok(Ok(())) => outcome.reachable.push(address),
            Ok(Err(reason)) => outcome.failure = Some(reason),
            Err(_) => outcome.failure = Some("the authority failed to dial it".into()),
        }
    }
    outcome
}
