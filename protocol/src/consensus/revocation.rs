//! That a relay's identity is its operator's no more: a family's word, for ever.
//!
//! Made where the family's key is, when a relay's identity is stolen, and handed in to the authorities by
//! anyone. Authorities heed it for relays that have shown a certificate of that family: who took a family's
//! certificate has put its identity into that family's hands. It has no time and no end, so there is nothing
//! to renew, and nothing that an older document could undo. (spec: DOC-11, DIR-17)

use super::MAX_NETWORK_NAME;
use super::cbor::{self, Canonical, Reader, Writer};
use super::signed::{sign_over, verify_over};
use crate::id::{FamilyId, RelayId};
use crate::{Error, ErrorKind, Result};

/// The revocation of a relay by its family.
///
/// The signature is the family's Ed25519 signature over `mizzle revocation 1`, a zero byte, the relay, the
/// family and the network's name. (spec: DOC-11)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// The network that the relay was in.
    pub network: String,
    /// The relay, which is to serve no more.
    pub relay: RelayId,
    /// The family whose relay it was, by its Ed25519 key.
    pub family: FamilyId,
    /// The family's word for it.
    pub signature: [u8; 64],
}

impl Revocation {
    /// Revokes `relay`; `sign` makes an Ed25519 signature with the key of `family`.
    pub fn issue(
        family: FamilyId,
        network: &str,
        relay: RelayId,
        sign: impl FnOnce(&[u8]) -> [u8; 64],
    ) -> Self {
        let signature = sign_over(DOMAIN, &statement(network, relay, family), sign);
        Self { network: network.to_owned(), relay, family, signature }
    }

    /// Its bytes, as they are handed in.
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// Parses and verifies the signature and the network.
    ///
    /// [`ErrorKind::Malformed`], [`ErrorKind::Forged`], or [`ErrorKind::Incompatible`] for another network.
    pub fn from_bytes(bytes: &[u8], network: &str) -> Result<Self> {
        let revocation: Self = cbor::decode(bytes, MAX_REVOCATION_SIZE)?;
        let Self { network: named, relay, family, signature } = &revocation;
        if !verify_over(DOMAIN, &statement(named, *relay, *family), &family.0, signature) {
            return Err(Error::new(
                ErrorKind::Forged,
                "the revocation is not signed with the key of the family it names",
            ));
        }
        if named != network {
            return Err(Error::new(ErrorKind::Incompatible, "the revocation is for another network"));
        }
        Ok(revocation)
    }
}

impl Canonical for Revocation {
    fn write(&self, out: &mut Writer) {
        out.map(4);
        out.key(0).text(&self.network);
        out.key(1).bytes(&self.relay.0);
        out.key(2).bytes(&self.family.0);
        out.key(3).bytes(&self.signature);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        let mut fields = input.map()?;
        let network = fields.key(input, 0)?.text(MAX_NETWORK_NAME)?.to_owned();
        let relay = RelayId(fields.key(input, 1)?.fixed()?);
        let family = FamilyId(fields.key(input, 2)?.fixed()?);
        let signature = fields.key(input, 3)?.fixed()?;
        fields.end(input)?;
        Ok(Self { network, relay, family, signature })
    }
}

/// What a family signs: the fields of one length first, so that no two statements are the same bytes.
fn statement(network: &str, relay: RelayId, family: FamilyId) -> Vec<u8> {
    [&relay.0, &family.0, network.as_bytes()].concat()
}

/// Largest revocation, in bytes.
pub const MAX_REVOCATION_SIZE: usize = 256;

const DOMAIN: &[u8] = b"mizzle revocation 1";

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};
    use proptest::prelude::*;

    const RELAY: RelayId = RelayId([7; 32]);

    fn revoke(key: &SigningKey, network: &str) -> Revocation {
        let family = FamilyId(key.verifying_key().to_bytes());
        Revocation::issue(family, network, RELAY, |message| key.sign(message).to_bytes())
    }

    fn kind(revocation: &Revocation) -> Option<ErrorKind> {
        Revocation::from_bytes(&revocation.to_bytes(), "local").err().map(|error| error.kind())
    }

    #[test]
    fn a_revocation_is_its_family_s_word_for_one_relay_in_one_network() {
        let key = SigningKey::from_bytes(&[3; 32]);
        let good = revoke(&key, "local");
        let longest = revoke(&key, &"n".repeat(MAX_NETWORK_NAME));
        assert!(longest.to_bytes().len() <= MAX_REVOCATION_SIZE);
        assert_eq!(Revocation::from_bytes(&good.to_bytes(), "local"), Ok(good.clone()));
        assert_eq!(kind(&revoke(&key, "public")), Some(ErrorKind::Incompatible));
        let renamed = Revocation { network: "local".to_owned(), ..revoke(&key, "public") };
        assert_eq!(kind(&renamed), Some(ErrorKind::Forged));
        assert_eq!(kind(&Revocation { relay: RelayId([8; 32]), ..good.clone() }), Some(ErrorKind::Forged));
        let stranger = revoke(&SigningKey::from_bytes(&[4; 32]), "local");
        assert_eq!(kind(&Revocation { family: good.family, ..stranger }), Some(ErrorKind::Forged));
        // A certificate's signature is none of a revocation.
        let other =
            key.sign(&[b"mizzle family 1", [0].as_slice(), &statement("local", RELAY, good.family)].concat());
        assert_eq!(kind(&Revocation { signature: other.to_bytes(), ..good }), Some(ErrorKind::Forged));
    }

    proptest! {
        #[test]
        fn whatever_is_altered_does_not_hold(position in 0..256usize, bit in 0..8u8) {
            let mut bytes = revoke(&SigningKey::from_bytes(&[3; 32]), "local").to_bytes();
            let length = bytes.len();
            bytes[position % length] ^= 1 << bit;
            prop_assert!(Revocation::from_bytes(&bytes, "local").is_err());
            prop_assert!(Revocation::from_bytes(&bytes[..position % length], "local").is_err());
        }
    }
}
