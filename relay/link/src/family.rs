//! The files that a family's key signs: how they come from the operator's offline machine to the network.

use crate::error::protocol;
use crate::{Identity, Result, hexadecimal, read_bounded};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::consensus::{FamilyCertificate, Revocation};
use mizzle_protocol::id::{FamilyId, RelayId};
use mizzle_protocol::time::UnixTime;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

/// A [`FamilyCertificate`] with what it is for. TOML; unknown keys are errors; nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFile {
    /// The network's name.
    pub network: String,
    /// The relay.
    #[serde(with = "hexadecimal")]
    pub relay: RelayId,
    /// The family that it belongs to.
    #[serde(with = "hexadecimal")]
    pub family: FamilyId,
    /// From when, in seconds since 1970.
    pub issued: u64,
    /// Until when, in seconds since 1970.
    pub expires: u64,
    /// The family's signature.
    #[serde(with = "hexadecimal")]
    pub signature: [u8; 64],
}

impl CertificateFile {
    /// Certifies `relay` with the key of a family.
    ///
    /// [`ErrorKind::Misuse`]: a relay's own identity is no family key, and a lifetime has bounds.
    pub fn issue(
        family: &Identity,
        network: &str,
        relay: RelayId,
        issued: UnixTime,
        lifetime: Duration,
    ) -> Result<Self> {
        let id = family_id(family, relay)?;
        let sign = |message: &[u8]| family.sign(message);
        let certificate = FamilyCertificate::issue(id, network, relay, issued, lifetime, sign)?;
        let FamilyCertificate { family, issued, expires, signature } = certificate;
        let (issued, expires) = (issued.0, expires.0);
        Ok(Self { network: network.to_owned(), relay, family, issued, expires, signature })
    }

    /// Reads the file at `path`; what it says is not verified yet.
    pub fn load(path: &Path) -> Result<Self> {
        load(path, "family certificate", "certify")
    }

    /// The certificate, if it is one for this relay in this network; the time is the caller's to judge.
    ///
    /// [`ErrorKind::Incompatible`] for another network, [`ErrorKind::Refused`] for another relay,
    /// [`ErrorKind::Forged`] if the family has not signed it.
    pub fn verify(&self, network: &str, relay: RelayId) -> Result<FamilyCertificate> {
        if self.network != network {
            let message = format!(
                "the family certificate is for the network {:?}, and this relay is in {network:?}: make one for that, \
                 by mizzle-relay key certify",
                self.network
            );
            return Err(protocol(ErrorKind::Incompatible, message));
        }
        if self.relay != relay {
            let message = "the family certificate is for another relay: make one for the identity that \
                           mizzle-relay init prints here";
            return Err(protocol(ErrorKind::Refused, message));
        }
        let (issued, expires) = (UnixTime(self.issued), UnixTime(self.expires));
        let certificate =
            FamilyCertificate { family: self.family, issued, expires, signature: self.signature };
        certificate.verify(network, relay)?;
        Ok(certificate)
    }

    /// The file's text.
    pub fn to_toml(&self) -> Result<String> {
        text(CERTIFICATE, self)
    }
}

/// A [`Revocation`] as it is carried to a machine that reaches the authorities. TOML; unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevocationFile {
    /// The network's name.
    pub network: String,
    /// The relay.
    #[serde(with = "hexadecimal")]
    pub relay: RelayId,
    /// The family that it belonged to.
    #[serde(with = "hexadecimal")]
    pub family: FamilyId,
    /// The family's signature.
    #[serde(with = "hexadecimal")]
    pub signature: [u8; 64],
}

impl RevocationFile {
    /// Revokes `relay` with the key of a family. [`ErrorKind::Misuse`] for a relay's own identity.
    pub fn issue(family: &Identity, network: &str, relay: RelayId) -> Result<Self> {
        let id = family_id(family, relay)?;
        let sign = |message: &[u8]| family.sign(message);
        let Revocation { network, relay, family, signature } = Revocation::issue(id, network, relay, sign);
        Ok(Self { network, relay, family, signature })
    }

    /// Reads the file at `path`; what it says is not verified yet.
    pub fn load(path: &Path) -> Result<Self> {
        load(path, "revocation", "revoke")
    }

    /// What is handed in, if it is one for this network.
    ///
    /// [`ErrorKind::Forged`] if the family has not signed it, [`ErrorKind::Incompatible`] for another network.
    pub fn to_bytes(&self, network: &str) -> Result<Vec<u8>> {
        let Self { network: named, relay, family, signature } = self.clone();
        let bytes = Revocation { network: named, relay, family, signature }.to_bytes();
        Revocation::from_bytes(&bytes, network)?;
        Ok(bytes)
    }

    /// The file's text.
    pub fn to_toml(&self) -> Result<String> {
        text(REVOCATION, self)
    }
}

/// The family with this key, which must not be the relay's own.
fn family_id(key: &Identity, relay: RelayId) -> Result<FamilyId> {
    if key.id() == relay {
        let message = "the key is the relay's own identity: a family's key is another one, which no relay \
                       needs: make it with mizzle-relay key family";
        return Err(protocol(ErrorKind::Misuse, message));
    }
    Ok(FamilyId(key.id().0))
}

/// The file at `path`, which is a `kind` that the command `key maker` makes.
fn load<T: DeserializeOwned>(path: &Path, kind: &str, maker: &str) -> Result<T> {
    let shown = path.display();
    let bytes = read_bounded(path, FILE_LIMIT)?.ok_or_else(|| {
        let message = format!(
            "there is no {kind} at {shown}: make it with mizzle-relay key {maker} where the family's key is, and \
             copy it here"
        );
        protocol(ErrorKind::Unavailable, message)
    })?;
    let text = String::from_utf8_lossy(&bytes);
    if Identity::is_text(&text) {
        let message = format!(
            "{shown} is a secret key and no {kind}: keep a family's key away from its relays, and bring what \
             mizzle-relay key {maker} makes"
        );
        return Err(protocol(ErrorKind::Refused, message));
    }
    // The text of the error would repeat the file.
    toml::from_str(&text).map_err(|_| {
        let message = format!("{shown} is no {kind}: make it anew with mizzle-relay key {maker}");
        protocol(ErrorKind::Malformed, message)
    })
}

fn text(head: &str, file: &impl Serialize) -> Result<String> {
    let text = toml::to_string(file).map_err(|error| protocol(ErrorKind::Misuse, error.to_string()))?;
    Ok(format!("{head}\n{text}"))
}

const CERTIFICATE: &str =
    "# A relay's place in a family: bring it to the relay, and name it as `family` there. It is not secret.";
const REVOCATION: &str =
    "# A relay that is its family's no more: hand it in with mizzle-relay key hand-in. It is not secret.";
const FILE_LIMIT: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_protocol::secret::Secret;

    const RELAY: RelayId = RelayId([7; 32]);
    const DAY: Duration = Duration::from_secs(86_400);

    fn family() -> Identity {
        Identity::from_secret(&Secret::new([3; 32]))
    }

    fn example() -> CertificateFile {
        CertificateFile::issue(&family(), "local", RELAY, UnixTime(1_800_000_000), DAY).unwrap()
    }

    fn load(text: &str) -> Result<CertificateFile> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("certificate");
        std::fs::write(&path, text).unwrap();
        CertificateFile::load(&path)
    }

    #[test]
    fn a_certificate_round_trips_and_holds_for_its_relay_only() {
        let file = load(&example().to_toml().unwrap()).unwrap();
        assert_eq!(file, example());
        let certificate = file.verify("local", RELAY).unwrap();
        assert_eq!((certificate.family.0, certificate.expires.0), (family().id().0, 1_800_086_400));
        let kind = |result: Result<FamilyCertificate>| result.unwrap_err().kind();
        assert_eq!(kind(file.verify("public", RELAY)), ErrorKind::Incompatible);
        assert_eq!(kind(file.verify("local", RelayId([8; 32]))), ErrorKind::Refused);
        for altered in [
            CertificateFile { expires: file.expires + 1, ..file.clone() },
            CertificateFile { issued: file.issued - 1, ..file.clone() },
            CertificateFile { family: FamilyId([9; 32]), ..file.clone() },
            // Rewritten for another relay and another network, which is what a thief would do.
            CertificateFile { relay: RelayId([8; 32]), ..file.clone() },
            CertificateFile { network: "public".to_owned(), ..file.clone() },
        ] {
            assert_eq!(kind(altered.verify(&altered.network, altered.relay)), ErrorKind::Forged);
        }
    }

    #[test]
    fn what_is_no_certificate_is_named() {
        let missing = CertificateFile::load(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(missing.to_string().contains("there is no family certificate"), "{missing}");
        let good = example().to_toml().unwrap();
        for text in ["", "family", &good.replace("issued", "made"), &format!("{good}more = 1\n")] {
            let error = load(text).unwrap_err();
            assert!(error.to_string().contains("is no family certificate"), "{error}");
        }
        let key = tempfile::tempdir().unwrap();
        let path = key.path().join("family");
        Identity::load_or_create(&path).unwrap();
        let error = CertificateFile::load(&path).unwrap_err();
        assert!(error.to_string().contains("is a secret key"), "{error}");
    }

    #[test]
    fn an_identity_is_no_family_of_its_own() {
        let now = UnixTime(1_800_000_000);
        let error = CertificateFile::issue(&family(), "local", family().id(), now, DAY).unwrap_err();
        assert!(error.to_string().contains("own identity"), "{error}");
    }

    #[test]
    fn a_revocation_round_trips_and_holds_for_its_network_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revocation");
        let file = RevocationFile::issue(&family(), "local", RELAY).unwrap();
        std::fs::write(&path, file.to_toml().unwrap()).unwrap();
        let read = RevocationFile::load(&path).unwrap();
        assert_eq!(read, file);
        let bytes = read.to_bytes("local").unwrap();
        assert_eq!(Revocation::from_bytes(&bytes, "local").unwrap().relay, RELAY);
        assert_eq!(read.to_bytes("public").unwrap_err().kind(), ErrorKind::Incompatible);
        let other = RevocationFile { relay: RelayId([8; 32]), ..file };
        assert_eq!(other.to_bytes("local").unwrap_err().kind(), ErrorKind::Forged);
        // Neither file is taken for the other.
        assert!(CertificateFile::load(&path).unwrap_err().to_string().contains("is no family certificate"));
        std::fs::write(&path, example().to_toml().unwrap()).unwrap();
        assert!(RevocationFile::load(&path).unwrap_err().to_string().contains("is no revocation"));
        assert!(RevocationFile::issue(&family(), "local", family().id()).is_err());
    }
}
