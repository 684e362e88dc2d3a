//! Dialling a relay: does who it says it is answer where it says?

use crate::authority::ProbeOutcome;
use mizzle_link::{Alpn, Error, dial};
use mizzle_protocol::id::RelayId;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Dials each address, all at once, as any client would. A completed handshake proves the identity.
pub(crate) async fn probe(relay: RelayId, addresses: Vec<SocketAddr>, time: Duration) -> ProbeOutcome {
    let answers: Vec<_> = addresses
        .into_iter()
        .map(|address| (address, tokio::spawn(dial_one(relay, address, time))))
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

async fn dial_one(relay: RelayId, address: SocketAddr, time: Duration) -> Result<(), String> {
    let dialled = tokio::time::timeout(time, dial(address, relay, None, Alpn::Documents, None)).await;
    match dialled {
        Ok(Ok(mut link)) => {
            // The answer is all that was wanted; whether the goodbye arrives does not matter.
            let _ = tokio::time::timeout(GOODBYE, link.shutdown()).await;
            Ok(())
        }
        Ok(Err(error)) => Err(sentence(&error)),
        Err(_) => Err(unanswered(time)),
    }
}

/// What went wrong, for the relay's operator; without the address, which the operator knows.
fn sentence(error: &Error) -> String {
    use mizzle_protocol::ErrorKind;
    match error {
        Error::Io { source, .. } => format!("cannot connect to the announced address: {}", source.kind()),
        Error::TimedOut { .. } => unanswered(mizzle_link::HANDSHAKE_TIME),
        error if error.kind() == ErrorKind::Forged => {
            "the identity at the announced address is another".into()
        }
        error => format!("the handshake at the announced address failed: {error}"),
    }
}

fn unanswered(time: Duration) -> String {
    format!("cannot connect to the announced address: no answer within {} s", time.as_secs_f32())
}

const GOODBYE: Duration = Duration::from_secs(1);
