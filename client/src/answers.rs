//! Who answered in the place of relays: how a client knows a captive portal without asking anybody anything in the
//! clear. (spec: CLIENT-6)
//!
//! A portal takes every connection, whatever its address, and answers in its own language. Each dial proves a relay's
//! identity or fails, so a portal shows as strangers where relays are wanted. One stranger may be one relay's fault;
//! none but strangers is the network's.

use crate::Result;
use mizzle_protocol::id::RelayId;
use std::collections::BTreeMap;

/// What became of the last dial to each relay, since one last proved itself.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// True: a stranger answered. As many as a client has mirrors and entries.
    strangers: BTreeMap<RelayId, bool>,
}

impl Answers {
    /// Takes note of a dial. A relay that proved itself shows that the network carries what it should.
    pub(crate) fn note<T>(&mut self, relay: RelayId, result: &Result<T>) {
        match result {
            Ok(_) => self.strangers.clear(),
            // Where a proxy stands in between, nobody has answered for the relay.
            Err(error) if error.upstream().is_some() => {}
            Err(error) => {
                self.strangers.insert(relay, error.is_stranger());
            }
        }
    }

    /// What a portal would look like, in a sentence; `None` if it does not look so.
    pub(crate) fn portal(&self) -> Option<String> {
        let count = self.strangers.values().filter(|stranger| **stranger).count();
        let tried = self.strangers.len();
        (count > 0).then(|| {
            format!(
                "something else answers in place of the network's relays ({count} of {tried} that were tried): \
                 a captive portal, it seems; sign in on its page in a browser without the proxy, and this \
                 client goes on by itself"
            )
        })
    }

    /// True if that is beyond doubt: strangers only, and more than one relay's.
    pub(crate) fn is_certain(&self) -> bool {
        self.strangers.len() > 1 && self.strangers.values().all(|stranger| *stranger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, ErrorKind};
    use mizzle_link::Fault;

    fn relay(number: u8) -> RelayId {
        RelayId([number; 32])
    }

    fn stranger<T>() -> Result<T> {
        let error =
            mizzle_protocol::Error::new(mizzle_protocol::ErrorKind::Incompatible, "another language").into();
        Err(Error::from_link(ErrorKind::NoNetwork, String::new(), &error))
    }

    fn gone<T>() -> Result<T> {
        Err(Error::new(ErrorKind::NoNetwork, "nobody there"))
    }

    #[test]
    fn strangers_look_like_a_portal_until_a_relay_proves_itself() {
        let mut answers = Answers::default();
        answers.note(relay(1), &gone::<()>());
        assert_eq!(answers.portal(), None);
        answers.note(relay(1), &stranger::<()>());
        assert!(answers.portal().unwrap().contains("portal") && !answers.is_certain());
        answers.note(relay(2), &stranger::<()>());
        assert!(answers.portal().unwrap().contains("2 of 2") && answers.is_certain());
        answers.note(relay(3), &gone::<()>());
        assert!(answers.portal().unwrap().contains("2 of 3") && !answers.is_certain());
        answers.note(relay(3), &Ok(()));
        assert_eq!(answers.portal(), None);
    }

    #[test]
    fn a_network_that_is_gone_or_a_proxy_that_refuses_is_no_portal() {
        let mut answers = Answers::default();
        answers.note(relay(1), &stranger::<()>());
        answers.note(relay(1), &gone::<()>());
        let refused = mizzle_link::Error::Upstream(Fault::Refused(403));
        answers
            .note(relay(2), &Err::<(), _>(Error::from_link(ErrorKind::NoNetwork, String::new(), &refused)));
        assert_eq!(answers.portal(), None);
        assert!(!answers.is_certain());
    }
}
