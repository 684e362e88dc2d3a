//! Dialling a relay: does who it says it is answer where it says? What authorities do each epoch, and a relay's
//! operator with `mizzle-relay doctor`.

use crate::{Alpn, Error, HANDSHAKE_TIME, dial};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::id::RelayId;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Dials `address` as any client would; a completed handshake proves the identity. Fails with a sentence for
/// the relay's operator, without the address, which the operator knows.
pub async fn probe(relay: RelayId, address: SocketAddr, time: Duration) -> Result<(), String> {
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

/// True for a sentence that [`probe`] fails with, or that authorities make of several: the relay was not reached where it
/// says that it is.
pub fn is_about_reachability(sentence: &str) -> bool {
    ["the announced address", "not reached: "].iter().any(|words| sentence.contains(words))
}

fn sentence(error: &Error) -> String {
    match error {
        Error::Io { source, .. } => format!("cannot connect to the announced address: {}", source.kind()),
        Error::TimedOut { .. } => unanswered(HANDSHAKE_TIME),
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

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_protocol::Error as ProtocolError;

    #[test]
    fn every_failure_is_known_as_one_of_reachability() {
        let refused = std::io::ErrorKind::ConnectionRefused.into();
        let forged = ProtocolError::new(ErrorKind::Forged, "another key");
        let other = ProtocolError::new(ErrorKind::Malformed, "no handshake");
        for failure in [
            sentence(&Error::io("connect", refused)),
            sentence(&Error::Protocol(forged)),
            sentence(&Error::Protocol(other)),
            unanswered(HANDSHAKE_TIME),
            "its IPv6 address was not reached: connection refused; reached on IPv4".to_owned(),
        ] {
            assert!(is_about_reachability(&failure), "{failure}");
        }
        assert!(!is_about_reachability("it is not approved any more"));
    }
}
