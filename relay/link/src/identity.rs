//! The key that a relay or an authority is known by.

use crate::error::protocol;
use crate::{Result, read_bounded, write_atomically};
use ed25519_dalek::pkcs8::{EncodePrivateKey, EncodePublicKey};
use ed25519_dalek::{Signer, SigningKey};
use mizzle_protocol::id::{AuthorityId, RelayId, from_hex, to_hex};
use mizzle_protocol::{ErrorKind, secret::Secret};
use rand_core::Rng;
use std::fmt;
use std::path::Path;
use zeroize::Zeroizing;

/// An Ed25519 key pair. Its public half is the name of its owner in documents, in packets and on links.
#[derive(Clone)]
pub struct Identity {
    key: SigningKey,
}

impl Identity {
    /// The identity in the file at `path`; if there is none, a fresh one that is stored there first.
    ///
    /// Refuses a file that others may read, and one that is not an identity.
    pub fn load_or_create(path: &Path) -> Result<Self> {
        match Self::load(path)? {
            Some(identity) => Ok(identity),
            None => {
                let identity = Self::generate(&mut crate::seeded_rng()?);
                write_atomically(path, identity.to_text().as_bytes())?;
                Ok(identity)
            }
        }
    }

    /// The identity in the file at `path`, `None` if there is no such file.
    pub fn load(path: &Path) -> Result<Option<Self>> {
        let Some(bytes) = read_bounded(path, FILE_LIMIT)? else { return Ok(None) };
        let bytes = Zeroizing::new(bytes);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(path)
                .map_err(|error| crate::Error::io(format!("read {}", path.display()), error))?
                .permissions()
                .mode();
            if mode & 0o077 != 0 {
                let message = format!(
                    "{0} may be read by others: run chmod 600 {0}, or make a new one",
                    path.display()
                );
                return Err(protocol(ErrorKind::Refused, message));
            }
        }
        let malformed = || {
            let message = format!(
                "{} is not an identity file of format 1: restore it from a copy, or move it away for a new one",
                path.display()
            );
            protocol(ErrorKind::Malformed, message)
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| malformed())?;
        let mut lines = text.lines();
        if lines.next() != Some(FORMAT) {
            return Err(malformed());
        }
        let secret =
            Zeroizing::new(from_hex::<32>(lines.next().unwrap_or_default()).map_err(|_| malformed())?);
        if lines.next().is_some() {
            return Err(malformed());
        }
        Ok(Some(Self::from_secret(&Secret::new(*secret))))
    }

    /// A fresh identity that is stored nowhere.
    pub fn generate(rng: &mut impl Rng) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        rng.fill_bytes(secret.as_mut());
        Self { key: SigningKey::from_bytes(&secret) }
    }

    /// The identity with this secret.
    pub fn from_secret(secret: &Secret<32>) -> Self {
        Self { key: SigningKey::from_bytes(secret.expose()) }
    }

    /// Its name, if it is a relay's.
    pub fn id(&self) -> RelayId {
        RelayId(self.key.verifying_key().to_bytes())
    }

    /// Its name, if it is an authority's.
    pub fn authority(&self) -> AuthorityId {
        AuthorityId(self.id().0)
    }

    /// The Ed25519 signature of `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }

    /// True if `text` is that of an identity file, of any format.
    pub(crate) fn is_text(text: &str) -> bool {
        text.starts_with("mizzle identity ")
    }

    /// The signing key, for the documents of `mizzle-protocol` that sign themselves.
    pub fn signing_key(&self) -> &SigningKey {
        &self.key
    }

    /// PKCS#8 of the secret half and SubjectPublicKeyInfo of the public half, as TLS wants them.
    pub(crate) fn to_der(&self) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>)> {
        let failed = || protocol(ErrorKind::Misuse, "the identity key cannot be encoded");
        let secret = self.key.to_pkcs8_der().map_err(|_| failed())?;
        let public = self.key.verifying_key().to_public_key_der().map_err(|_| failed())?;
        Ok((Zeroizing::new(secret.as_bytes().to_vec()), public.as_bytes().to_vec()))
    }

    fn to_text(&self) -> Zeroizing<String> {
        let digits = Zeroizing::new(to_hex(self.key.as_bytes()));
        Zeroizing::new(format!("{FORMAT}\n{}\n", digits.as_str()))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(redacted)")
    }
}

const FORMAT: &str = "mizzle identity 1";
const FILE_LIMIT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        let first = Identity::load_or_create(&path).unwrap();
        let second = Identity::load_or_create(&path).unwrap();
        assert_eq!(first.id(), second.id());
        assert_eq!(first.sign(b"x"), second.sign(b"x"));
        assert_eq!(format!("{first:?}"), "Identity(redacted)");
    }

    #[test]
    fn damaged_files_are_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        let seed = "00".repeat(32);
        let damaged = [
            String::new(),
            "mizzle identity 2\n".to_owned() + &seed,
            format!("{FORMAT}\n{}", &seed[2..]),
            format!("{FORMAT}\n{seed}\nmore"),
            "\u{fffd}".repeat(400),
        ];
        for text in damaged {
            write_atomically(&path, text.as_bytes()).unwrap();
            assert!(Identity::load_or_create(&path).is_err(), "{text:?}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        Identity::load_or_create(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(Identity::load_or_create(&path).unwrap_err().kind(), ErrorKind::Refused);
    }
}
