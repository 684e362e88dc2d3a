//! Relays whose families have ended them: their identities are stolen, or may be.
//!
//! A family may end whom it has certified, and nobody else; a relay that drops its family, or takes another, is
//! still in the hands of those that it showed certificates of. An identity that was ended does not come back,
//! also when its relay was forgotten meanwhile. (spec: DIR-17)

use super::Authority;
use super::known::Standing;
use mizzle_protocol::consensus::{MAX_RELAYS, Revocation};
use mizzle_protocol::id::{FamilyId, RelayId};
use mizzle_protocol::{Error, ErrorKind, Result};

impl Authority {
    /// Someone hands in a revocation. Taken: the relay, and a sentence; the next document is without it.
    ///
    /// Errors as [`Revocation::from_bytes`], [`ErrorKind::Refused`] if the family may not, and
    /// [`ErrorKind::Exhausted`].
    pub(crate) fn handle_revocation(&mut self, bytes: &[u8]) -> Result<(RelayId, &'static str)> {
        let Revocation { relay, family, .. } = Revocation::from_bytes(bytes, &self.settings.network)?;
        if self.revoked.contains(&relay) {
            return Ok((relay, "taken before"));
        }
        let known = self.relays.get(&relay);
        if !known.is_some_and(|known| known.standing.families.contains(&family)) {
            return Err(Error::new(
                ErrorKind::Refused,
                "no relay of that identity is known here with a certificate of that family",
            ));
        }
        if self.revoked.len() >= MAX_REVOKED {
            return Err(Error::new(ErrorKind::Exhausted, "as many relays are revoked as can be remembered"));
        }
        self.revoked.insert(relay);
        Ok((relay, "taken: the next document is without this relay"))
    }
}

impl Standing {
    /// Notes that the relay has shown a certificate of this family. The first ones stay: who steals an identity
    /// cannot push them out.
    pub(super) fn certified_by(&mut self, family: FamilyId) {
        if !self.families.contains(&family) && self.families.len() < FAMILIES {
            self.families.push(family);
        }
    }
}

/// What the operator of an ended relay is told.
pub(super) const REVOKED: &str = "its family has revoked it: make a new identity, and a certificate for that";
/// Families of one relay that are remembered.
const FAMILIES: usize = 4;
/// Ended relays that are remembered, which is for ever.
const MAX_REVOKED: usize = 4 * MAX_RELAYS;

#[cfg(test)]
mod tests {
    use super::super::tests::{Relay, answer, at, certify, family_key, found, restore, run, settings};
    use super::*;
    use ed25519_dalek::Signer;
    use mizzle_protocol::consensus::{Descriptor, RelayKind};
    use mizzle_protocol::time::Instant;

    fn revoke(family: u8, relay: RelayId, network: &str) -> Vec<u8> {
        let key = family_key(family);
        let id = FamilyId(key.verifying_key().to_bytes());
        Revocation::issue(id, network, relay, |message| key.sign(message).to_bytes()).to_bytes()
    }

    /// Two mixes of family 1 and one of family 2, all listed.
    fn network() -> (Authority, Vec<Relay>) {
        let mut authority = found(3);
        let mut relays: Vec<_> = (11..=13).map(|number| Relay::new(number, RelayKind::Mix)).collect();
        for (relay, family) in relays.iter_mut().zip([1, 1, 2]) {
            relay.family = Some(family);
            relay.post(&mut authority, at(1), 0).unwrap();
        }
        answer(&mut authority, at(1), &[]);
        assert!(relays.iter().all(|relay| is_listed(&authority, relay)));
        (authority, relays)
    }

    fn is_listed(authority: &Authority, relay: &Relay) -> bool {
        authority.document().unwrap().consensus.relay(relay.id()).is_some()
    }

    /// A descriptor that the thief of this relay's identity signs.
    fn steal(authority: &mut Authority, relay: &Relay, now: Instant, family: Option<u8>) -> Result<()> {
        let family = family.map(|family| certify(family, relay.id(), now));
        let descriptor = Descriptor { family, ..relay.describe(now, 0) };
        authority.handle_descriptor(now, &relay.sign(&descriptor)).map(drop)
    }

    #[test]
    fn a_family_ends_its_relay_for_ever_and_its_operator_goes_on_with_another() {
        let (mut authority, relays) = network();
        let bytes = revoke(1, relays[0].id(), "local");
        assert_eq!(
            authority.handle_revocation(&bytes),
            Ok((relays[0].id(), "taken: the next document is without this relay"))
        );
        assert_eq!(authority.handle_revocation(&bytes), Ok((relays[0].id(), "taken before")));
        run(&mut authority, at(21), &[]);
        let consensus = &authority.document().unwrap().consensus;
        assert_eq!(consensus.why_not_running(relays[0].id()), Some(REVOKED));
        assert!(is_listed(&authority, &relays[1]) && is_listed(&authority, &relays[2]));
        // Neither with its certificate nor without, neither before a restart nor after.
        let restored = restore(&authority, &relays, at(22));
        let again = Authority::new(settings(3), at(22), restored).unwrap();
        for mut authority in [authority, again] {
            for family in [Some(1), Some(2), None] {
                let error = steal(&mut authority, &relays[0], at(23), family).unwrap_err();
                assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Refused, REVOKED));
            }
            let mut heir = Relay::new(14, RelayKind::Mix);
            heir.family = Some(1);
            heir.post(&mut authority, at(23), 0).unwrap();
            answer(&mut authority, at(23), &[]);
            run(&mut authority, at(43), &[]);
            assert!(is_listed(&authority, &heir) && !is_listed(&authority, &relays[0]));
        }
    }

    #[test]
    fn who_steals_an_identity_does_not_escape_by_leaving_the_family() {
        let (mut authority, relays) = network();
        assert_eq!(steal(&mut authority, &relays[0], at(2), None), Ok(()));
        for family in 50..60 {
            assert_eq!(steal(&mut authority, &relays[0], at(u64::from(family)), Some(family)), Ok(()));
        }
        // Kept over a restart, too, although the descriptor names another family.
        let mut restored = restore(&authority, &relays, at(60));
        for descriptor in &mut restored.descriptors {
            descriptor.family = None;
        }
        let again = Authority::new(settings(3), at(60), restored).unwrap();
        for mut authority in [authority, again] {
            assert!(authority.handle_revocation(&revoke(1, relays[0].id(), "local")).is_ok());
            answer(&mut authority, at(60), &[]);
            run(&mut authority, at(81), &[]);
            assert!(!is_listed(&authority, &relays[0]));
        }
    }

    #[test]
    fn nobody_ends_a_relay_that_has_not_shown_a_certificate_of_theirs() {
        let (mut authority, relays) = network();
        let target = relays[0].id();
        let mut forged = revoke(1, target, "local");
        *forged.last_mut().unwrap() ^= 1;
        for (bytes, kind) in [
            (revoke(2, target, "local"), ErrorKind::Refused),
            (revoke(9, target, "local"), ErrorKind::Refused),
            (revoke(1, RelayId([9; 32]), "local"), ErrorKind::Refused),
            (revoke(1, target, "public"), ErrorKind::Incompatible),
            (forged, ErrorKind::Forged),
            (Vec::new(), ErrorKind::Malformed),
        ] {
            assert_eq!(authority.handle_revocation(&bytes).unwrap_err().kind(), kind);
        }
        run(&mut authority, at(21), &[]);
        assert!(relays.iter().all(|relay| is_listed(&authority, relay)));
    }
}
