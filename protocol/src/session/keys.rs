//! Keys of sessions, and of the services that take them.

use crate::id::{PacketNumber, SessionId};
use crate::secret::Secret;
use crate::{Error, ErrorKind, Result};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use hkdf::Hkdf;
use hpke::aead::ExportOnlyAead;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use std::fmt;
use x25519_dalek::{PublicKey, StaticSecret};

/// Bytes of a service's public key.
pub const SERVICE_KEY_SIZE: usize = 1216;
/// Bytes of an encapsulation.
pub const ENCAPSULATION_SIZE: usize = 1120;
/// Bytes that sealing adds.
pub const TAG_SIZE: usize = 16;

const INFO: &[u8] = b"mizzle session 1";

/// A service's public key (X-Wing), valid for one key period.
#[derive(Clone, PartialEq, Eq)]
pub struct ServiceKey {
    bytes: Vec<u8>,
    key: <XWing as Kem>::PublicKey,
}

impl ServiceKey {
    /// Parses and checks a key of [`SERVICE_KEY_SIZE`] bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let key = <XWing as Kem>::PublicKey::from_bytes(bytes)
            .map_err(|_| Error::new(ErrorKind::Malformed, "not a service key"))?;
        Ok(Self { bytes: bytes.to_vec(), key })
    }

    /// Its bytes in documents.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 of its bytes: how the consensus names it.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.bytes).into()
    }
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServiceKey(…)")
    }
}

/// A service's secret key. 32 bytes that expand to both parts of X-Wing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSecret(Secret<32>);

impl ServiceSecret {
    /// A fresh key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        Self::from_bytes(bytes)
    }

    /// A key from its stored form.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Secret::new(bytes))
    }

    /// The stored form.
    pub fn to_bytes(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// The public half.
    pub fn public(&self) -> Result<ServiceKey> {
        let key = XWing::sk_to_pk(&self.key()?);
        Ok(ServiceKey { bytes: key.to_bytes().to_vec(), key })
    }

    /// Opens an encapsulation: the session's keys, as the client has them.
    pub fn open(&self, encapsulation: &[u8]) -> Result<SessionKeys> {
        let forged = |_| Error::new(ErrorKind::Forged, "encapsulation does not fit this service");
        let encapped = <XWing as Kem>::EncappedKey::from_bytes(encapsulation).map_err(forged)?;
        let context = hpke::setup_receiver::<ExportOnlyAead, HkdfSha256, XWing>(
            &OpModeR::Base,
            &self.key()?,
            &encapped,
            INFO,
        )
        .map_err(forged)?;
        SessionKeys::export(encapsulation, |label, out| context.export(label, out))
    }

    fn key(&self) -> Result<<XWing as Kem>::PrivateKey> {
        <XWing as Kem>::PrivateKey::from_bytes(self.0.expose())
            .map_err(|_| Error::new(ErrorKind::Misuse, "not a service secret"))
    }
}

/// The keys of one session at one end.
#[derive(Clone, Debug)]
pub struct SessionKeys {
    /// The session's name on the wire.
    pub id: SessionId,
    /// Client to service.
    pub outward: DirectionKey,
    /// Service to client.
    pub homeward: DirectionKey,
    root: Secret<32>,
}

impl SessionKeys {
    /// Opens a session with a service: its keys, and the encapsulation to send.
    pub fn encapsulate(service: &ServiceKey, rng: &mut impl CryptoRng) -> Result<(Self, Vec<u8>)> {
        let failed = |_| Error::new(ErrorKind::Misuse, "encapsulation failed");
        let (encapped, context) = hpke::setup_sender_with_rng::<ExportOnlyAead, HkdfSha256, XWing>(
            &OpModeS::Base,
            &service.key,
            INFO,
            rng,
        )
        .map_err(failed)?;
        let encapsulation = encapped.to_bytes().to_vec();
        let keys = Self::export(&encapsulation, |label, out| context.export(label, out))?;
        Ok((keys, encapsulation))
    }

    /// The keys that follow once both sides have shown an ephemeral share: what is sealed with them stays
    /// closed even to someone who later takes the service's secret.
    pub fn with_forward_secrecy(&self, mine: &ForwardSecret, theirs: &[u8; 32]) -> Result<Self> {
        let shared = mine.0.diffie_hellman(&PublicKey::from(*theirs));
        if !shared.was_contributory() {
            return Err(Error::new(ErrorKind::Forged, "degenerate ephemeral share"));
        }
        let kdf = Hkdf::<Sha256>::new(Some(self.root.expose()), shared.as_bytes());
        let expand = |label: &[u8]| {
            let mut out = [0; 32];
            kdf.expand(label, &mut out)
                .map(|()| Secret::new(out))
                .map_err(|_| Error::new(ErrorKind::Misuse, "key schedule failed"))
        };
        Ok(Self {
            id: self.id,
            outward: DirectionKey(expand(b"outward")?),
            homeward: DirectionKey(expand(b"homeward")?),
            root: expand(b"root")?,
        })
    }

    fn export(
        encapsulation: &[u8],
        export: impl Fn(&[u8], &mut [u8]) -> Result<(), hpke::HpkeError>,
    ) -> Result<Self> {
        let secret = |label: &[u8]| {
            let mut out = [0; 32];
            export(label, &mut out)
                .map(|()| Secret::new(out))
                .map_err(|_| Error::new(ErrorKind::Misuse, "key schedule failed"))
        };
        let digest = Sha256::digest(encapsulation);
        Ok(Self {
            id: SessionId::from_slice(digest.get(..16).unwrap_or_default())?,
            outward: DirectionKey(secret(b"outward")?),
            homeward: DirectionKey(secret(b"homeward")?),
            root: secret(b"root")?,
        })
    }
}

/// Seals and opens the packets of one direction (ChaCha20-Poly1305, RFC 8439).
#[derive(Clone, Debug)]
pub struct DirectionKey(Secret<32>);

impl DirectionKey {
    /// Seals `buffer` in place and appends the tag. A number must never be used twice.
    pub fn seal(&self, number: PacketNumber, associated: &[u8], buffer: &mut Vec<u8>) -> Result<()> {
        self.cipher()
            .encrypt_in_place(&nonce(number), associated, buffer)
            .map_err(|_| Error::new(ErrorKind::Misuse, "sealing failed"))
    }

    /// Opens `buffer` in place and removes the tag.
    pub fn open(&self, number: PacketNumber, associated: &[u8], buffer: &mut Vec<u8>) -> Result<()> {
        self.cipher()
            .decrypt_in_place(&nonce(number), associated, buffer)
            .map_err(|_| Error::new(ErrorKind::Forged, "session packet does not open"))
    }

    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(self.0.expose().into())
    }
}

/// One side's ephemeral X25519 secret, used once.
pub struct ForwardSecret(StaticSecret);

impl fmt::Debug for ForwardSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ForwardSecret(redacted)")
    }
}

/// A fresh ephemeral secret, and the share to show the other side.
pub fn ephemeral(rng: &mut impl CryptoRng) -> (ForwardSecret, [u8; 32]) {
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    let secret = StaticSecret::from(bytes);
    let share = PublicKey::from(&secret).to_bytes();
    (ForwardSecret(secret), share)
}

fn nonce(number: PacketNumber) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.0.to_be_bytes());
    nonce.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    #[test]
    fn both_ends_hold_the_same_keys_and_nobody_else() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let secret = ServiceSecret::generate(&mut rng);
        let public = ServiceKey::from_bytes(secret.public().unwrap().as_bytes()).unwrap();
        let (client, encapsulation) = SessionKeys::encapsulate(&public, &mut rng).unwrap();
        assert_eq!(encapsulation.len(), ENCAPSULATION_SIZE);
        let service = secret.open(&encapsulation).unwrap();
        assert!(client.id == service.id);

        let mut buffer = b"request".to_vec();
        client.outward.seal(PacketNumber(7), b"header", &mut buffer).unwrap();
        assert_eq!(buffer.len(), 7 + TAG_SIZE);
        let mut other_number = buffer.clone();
        assert!(service.outward.open(PacketNumber(8), b"header", &mut other_number).is_err());
        let mut other_direction = buffer.clone();
        assert!(service.homeward.open(PacketNumber(7), b"header", &mut other_direction).is_err());
        service.outward.open(PacketNumber(7), b"header", &mut buffer).unwrap();
        assert_eq!(buffer, b"request");

        let stranger = ServiceSecret::generate(&mut rng).open(&encapsulation).unwrap();
        let mut buffer = b"request".to_vec();
        client.outward.seal(PacketNumber(9), b"", &mut buffer).unwrap();
        assert!(stranger.outward.open(PacketNumber(9), b"", &mut buffer).is_err());
    }

    #[test]
    fn ephemeral_shares_lead_both_ends_to_new_keys() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let secret = ServiceSecret::generate(&mut rng);
        let (client, encapsulation) = SessionKeys::encapsulate(&secret.public().unwrap(), &mut rng).unwrap();
        let service = secret.open(&encapsulation).unwrap();
        let (client_secret, client_share) = ephemeral(&mut rng);
        let (service_secret, service_share) = ephemeral(&mut rng);
        let later_client = client.with_forward_secrecy(&client_secret, &service_share).unwrap();
        let later_service = service.with_forward_secrecy(&service_secret, &client_share).unwrap();
        let mut buffer = b"later".to_vec();
        later_service.homeward.seal(PacketNumber(1), b"", &mut buffer).unwrap();
        assert!(client.homeward.open(PacketNumber(1), b"", &mut buffer.clone()).is_err());
        later_client.homeward.open(PacketNumber(1), b"", &mut buffer).unwrap();
        assert!(client.with_forward_secrecy(&client_secret, &[0; 32]).is_err());
    }
}
