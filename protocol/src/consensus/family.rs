//! That a relay belongs to a family: a certificate, signed by a key that its operator keeps offline.
//!
//! A family's key is the operator's identity, and its public half the name of the family. No relay needs it: it
//! signs, for each relay, from when until when that relay's identity belongs to the family in one network. So
//! nobody puts a relay into the family of another, and a relay whose identity is lost or stolen is followed by
//! one with a new identity in the same family. (spec: DOC-10)

use super::cbor::{Canonical, Reader, Writer, malformed};
use super::signed::{sign_over, verify_over};
use crate::id::{FamilyId, RelayId};
use crate::time::{Instant, UnixTime};
use crate::{Error, ErrorKind, Result};
use std::time::Duration;

/// What a relay shows to be of a family.
///
/// The signature is the family's Ed25519 signature over `mizzle family 1`, a zero byte, the relay, the family,
/// both times (8 bytes each, big-endian) and the network's name. (spec: DOC-10)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyCertificate {
    /// The family, by its Ed25519 key.
    pub family: FamilyId,
    /// From when the relay belongs to it.
    pub issued: UnixTime,
    /// From when it does not any more.
    pub expires: UnixTime,
    /// The family's word for it.
    pub signature: [u8; 64],
}

impl FamilyCertificate {
    /// Certifies `relay` in the network of this name; `sign` makes an Ed25519 signature with the key of `family`.
    ///
    /// [`ErrorKind::Misuse`] if it would be in force for no time, or for longer than [`Self::LONGEST`].
    pub fn issue(
        family: FamilyId,
        network: &str,
        relay: RelayId,
        issued: UnixTime,
        lifetime: Duration,
        sign: impl FnOnce(&[u8]) -> [u8; 64],
    ) -> Result<Self> {
        let expires = issued + lifetime;
        if !is_lifetime(issued, expires) {
            return Err(Error::new(ErrorKind::Misuse, "a certificate is in force for 1 to 400 days"));
        }
        let body = statement(network, relay, family, issued, expires);
        Ok(Self { family, issued, expires, signature: sign_over(DOMAIN, &body, sign) })
    }

    /// Whether the family has signed this for this relay in this network; the time is the caller's to judge.
    ///
    /// [`ErrorKind::Forged`] if not. Which of relay, network, family and times is another one, a signature
    /// cannot say.
    pub fn verify(&self, network: &str, relay: RelayId) -> Result<()> {
        let Self { family, issued, expires, signature } = *self;
        let body = statement(network, relay, family, issued, expires);
        if !verify_over(DOMAIN, &body, &family.0, &signature) {
            return Err(Error::new(
                ErrorKind::Forged,
                "the family certificate was not made with that family's key for this relay in this network",
            ));
        }
        Ok(())
    }

    /// Whether it is in force; a clock that is behind by `grace` is forgiven.
    ///
    /// [`ErrorKind::Expired`]: not yet, or not any more.
    pub fn check_time(&self, now: Instant, grace: Duration) -> Result<()> {
        if self.issued.instant() > now + grace {
            return Err(Error::new(
                ErrorKind::Expired,
                "the family certificate is from the future: was the clock right where it was made?",
            ));
        }
        if self.expires.instant() <= now {
            return Err(Error::new(
                ErrorKind::Expired,
                "the family certificate has expired: make a new one with mizzle-relay key certify",
            ));
        }
        Ok(())
    }

    /// Longest time that a certificate is in force.
    pub const LONGEST: Duration = Duration::from_secs(400 * 86_400);
}

impl Canonical for FamilyCertificate {
    fn write(&self, out: &mut Writer) {
        out.map(4);
        out.key(0).bytes(&self.family.0);
        out.key(1).uint(self.issued.0);
        out.key(2).uint(self.expires.0);
        out.key(3).bytes(&self.signature);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        let mut fields = input.map()?;
        let family = FamilyId(fields.key(input, 0)?.fixed()?);
        let issued = UnixTime(fields.key(input, 1)?.uint(u64::MAX)?);
        let expires = UnixTime(fields.key(input, 2)?.uint(u64::MAX)?);
        let signature = fields.key(input, 3)?.fixed()?;
        fields.end(input)?;
        match is_lifetime(issued, expires) {
            true => Ok(Self { family, issued, expires, signature }),
            false => Err(malformed("a family certificate is in force for no time, or for too long")),
        }
    }
}

/// What a family signs: the fields of one length first, so that no two statements are the same bytes.
fn statement(
    network: &str,
    relay: RelayId,
    family: FamilyId,
    issued: UnixTime,
    expires: UnixTime,
) -> Vec<u8> {
    let times = [issued.0.to_be_bytes(), expires.0.to_be_bytes()].concat();
    [&relay.0, &family.0, times.as_slice(), network.as_bytes()].concat()
}

fn is_lifetime(issued: UnixTime, expires: UnixTime) -> bool {
    let longest = FamilyCertificate::LONGEST.as_secs();
    expires.0.checked_sub(issued.0).is_some_and(|seconds| (1..=longest).contains(&seconds))
}

const DOMAIN: &[u8] = b"mizzle family 1";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::cbor;
    use ed25519_dalek::{Signer, SigningKey};
    use proptest::prelude::*;

    const START: UnixTime = UnixTime(1_800_000_000);
    const DAY: Duration = Duration::from_secs(86_400);
    const RELAY: RelayId = RelayId([7; 32]);

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[3; 32])
    }

    fn family() -> FamilyId {
        FamilyId(key().verifying_key().to_bytes())
    }

    fn issue(lifetime: Duration) -> Result<FamilyCertificate> {
        let sign = |message: &[u8]| key().sign(message).to_bytes();
        FamilyCertificate::issue(family(), "local", RELAY, START, lifetime, sign)
    }

    #[test]
    fn a_certificate_arrives_as_it_was_and_holds() {
        let certificate = issue(180 * DAY).unwrap();
        let bytes = cbor::encode(&certificate);
        let read: FamilyCertificate = cbor::decode(&bytes, 200).unwrap();
        assert_eq!(read, certificate);
        assert_eq!(read.verify("local", RELAY), Ok(()));
        assert_eq!(read.expires, UnixTime(START.0 + 180 * 86_400));
    }

    #[test]
    fn who_signs_for_another_relay_network_or_family_signs_for_none() {
        let forged = Err(ErrorKind::Forged);
        let verify = |certificate: FamilyCertificate, network, relay| {
            certificate.verify(network, relay).map_err(|error| error.kind())
        };
        let good = issue(DAY).unwrap();
        assert_eq!(verify(good, "local", RelayId([8; 32])), forged);
        assert_eq!(verify(good, "loca", RELAY), forged);
        assert_eq!(verify(good, "public", RELAY), forged);
        // A stranger's key for this family, and its own statement under this family's name.
        let stranger = SigningKey::from_bytes(&[4; 32]);
        let sign = |message: &[u8]| stranger.sign(message).to_bytes();
        let named = FamilyCertificate::issue(family(), "local", RELAY, START, DAY, sign).unwrap();
        assert_eq!(verify(named, "local", RELAY), forged);
        // A signature of the same key over something else, such as a descriptor.
        let body = statement("local", RELAY, family(), START, START + DAY);
        let other = key().sign(&[b"mizzle descriptor 1".as_slice(), &[0], &body].concat()).to_bytes();
        assert_eq!(verify(FamilyCertificate { signature: other, ..good }, "local", RELAY), forged);
        // A key of small order signs everything.
        let weak = FamilyCertificate { family: FamilyId([0; 32]), signature: [0; 64], ..good };
        assert_eq!(verify(weak, "local", RELAY), forged);
    }

    #[test]
    fn it_is_in_force_from_its_first_second_to_its_last() {
        let grace = Duration::from_secs(120);
        let certificate = issue(DAY).unwrap();
        let at = |now: Instant| certificate.check_time(now, grace).map_err(|error| error.kind());
        let (first, end) = (certificate.issued.instant(), certificate.expires.instant());
        let nanosecond = Duration::from_nanos(1);
        assert_eq!(at(first - grace), Ok(()));
        assert_eq!(at(first - grace - nanosecond), Err(ErrorKind::Expired));
        assert_eq!(at(end - nanosecond), Ok(()));
        assert_eq!(at(end), Err(ErrorKind::Expired));
    }

    #[test]
    fn no_certificate_is_for_no_time_or_for_ever() {
        for (lifetime, good) in [
            (Duration::ZERO, false),
            (Duration::from_secs(1), true),
            (400 * DAY, true),
            (401 * DAY, false),
            (Duration::MAX, false),
        ] {
            let issued = issue(lifetime);
            assert_eq!(issued.is_ok(), good, "{lifetime:?}");
            assert!(good || issued.unwrap_err().kind() == ErrorKind::Misuse);
        }
        let good = issue(DAY).unwrap();
        let ends = [START, UnixTime(START.0 - 1), UnixTime(START.0 + 401 * 86_400), UnixTime(u64::MAX)];
        for expires in ends {
            let bytes = cbor::encode(&FamilyCertificate { expires, ..good });
            let error = cbor::decode::<FamilyCertificate>(&bytes, 200).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed);
        }
    }

    proptest! {
        #[test]
        fn whatever_is_altered_does_not_hold(position in 0..200usize, bit in 0..8u8) {
            let bytes = cbor::encode(&issue(DAY).unwrap());
            let mut altered = bytes.clone();
            altered[position % bytes.len()] ^= 1 << bit;
            let read = cbor::decode::<FamilyCertificate>(&altered, 200);
            let kind = read.and_then(|read| read.verify("local", RELAY)).unwrap_err().kind();
            prop_assert!(matches!(kind, ErrorKind::Malformed | ErrorKind::Forged));
        }

        #[test]
        fn any_certificate_holds_for_what_it_was_made_and_nothing_else(
            secret: [u8; 32],
            relay: [u8; 32],
            other: [u8; 32],
            network in "[a-z]{1,64}",
            another in "[a-z]{1,64}",
            issued in 0..u64::MAX / 2,
            seconds in 1..=400 * 86_400u64,
        ) {
            prop_assume!(relay != other && network != another);
            let key = SigningKey::from_bytes(&secret);
            let family = FamilyId(key.verifying_key().to_bytes());
            let (issued, lifetime) = (UnixTime(issued), Duration::from_secs(seconds));
            let sign = |message: &[u8]| key.sign(message).to_bytes();
            let certificate =
                FamilyCertificate::issue(family, &network, RelayId(relay), issued, lifetime, sign).unwrap();
            let read: FamilyCertificate = cbor::decode(&cbor::encode(&certificate), 200).unwrap();
            prop_assert_eq!(read.verify(&network, RelayId(relay)), Ok(()));
            prop_assert!(read.verify(&network, RelayId(other)).is_err());
            prop_assert!(read.verify(&another, RelayId(relay)).is_err());
        }
    }
}
