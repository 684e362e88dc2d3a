//! A consensus in its envelope: the body's bytes, and who signed them.

use super::cbor::{self, Canonical, Reader, Writer, malformed};
use super::document::{Consensus, DocumentHash};
use super::fault::DocumentFault;
use crate::Result;
use crate::id::AuthorityId;
use crate::time::Instant;
use core::cmp::Ordering;
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

/// The body of a consensus with Ed25519 signatures of authorities, each over `mizzle consensus 1`, a zero
/// byte and the body; signatures in order of the authorities' ids. (spec: DOC-3)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    body: Vec<u8>,
    signatures: Vec<AuthoritySignature>,
}

impl Signed {
    /// An envelope without signatures.
    pub fn new(consensus: &Consensus) -> Self {
        Self { body: cbor::encode(consensus), signatures: Vec::new() }
    }

    /// Adds, or replaces, the signature of `authority`; `sign` makes it with that authority's identity key.
    pub fn sign(&mut self, authority: AuthorityId, sign: impl FnOnce(&[u8]) -> [u8; 64]) {
        let signature = sign_over(DOMAIN, &self.body, sign);
        self.signatures.retain(|other| other.authority != authority);
        self.signatures.push(AuthoritySignature { authority, signature });
        self.signatures.sort_by_key(|signature| signature.authority);
    }

    /// Adds, or replaces, a signature that `authority` made elsewhere over this body.
    ///
    /// [`DocumentFault::WrongSignature`] if it did not.
    pub fn add(&mut self, authority: AuthorityId, signature: [u8; 64]) -> Result<()> {
        if !verify_over(DOMAIN, &self.body, &authority.0, &signature) {
            return Err(DocumentFault::WrongSignature.into());
        }
        self.signatures.retain(|other| other.authority != authority);
        self.signatures.push(AuthoritySignature { authority, signature });
        self.signatures.sort_by_key(|signature| signature.authority);
        Ok(())
    }

    /// The signature of `authority`, if it is there; nothing is verified.
    pub fn signature(&self, authority: AuthorityId) -> Option<[u8; 64]> {
        self.signatures.iter().find(|by| by.authority == authority).map(|by| by.signature)
    }

    /// SHA-256 of the body: how the next document names this one, whoever signed it.
    pub fn hash(&self) -> DocumentHash {
        DocumentHash(Sha256::digest(&self.body).into())
    }

    /// The envelope's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// Parses an envelope; nothing is verified.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        cbor::decode(bytes, MAX_CONSENSUS_SIZE)
    }

    /// The consensus, if `threshold` of `authorities` signed it and it is one for this network, this build
    /// and this moment.
    ///
    /// Signatures of others are not counted; a wrong one of an authority condemns the whole. Each fault is told apart
    /// ([`Error::fault`](crate::Error::fault)): [`DocumentFault::TooFewSigners`], [`DocumentFault::WrongSignature`]; what is
    /// signed but no document, or not the canonical one; [`DocumentFault::OtherNetwork`]; [`DocumentFault::Future`] or
    /// [`DocumentFault::Expired`]; [`DocumentFault::NotSpoken`]. In this order: what does not hold demands nothing.
    pub fn verify(
        &self,
        authorities: &[AuthorityId],
        threshold: usize,
        now: Instant,
        network: &str,
    ) -> Result<Consensus> {
        let consensus = self.verify_origin(authorities, threshold, network)?;
        consensus.check_time(now)?;
        consensus.check_spoken()?;
        Ok(consensus)
    }

    /// [`Self::verify`] without the look at the clock: for an authority's own chain, and for showing an old
    /// document to a person.
    pub fn verify_at_any_time(
        &self,
        authorities: &[AuthorityId],
        threshold: usize,
        network: &str,
    ) -> Result<Consensus> {
        let consensus = self.verify_origin(authorities, threshold, network)?;
        consensus.check_spoken()?;
        Ok(consensus)
    }

    /// Whose document it is, and nothing more: neither the time is looked at, nor what is demanded of members.
    pub fn verify_origin(
        &self,
        authorities: &[AuthorityId],
        threshold: usize,
        network: &str,
    ) -> Result<Consensus> {
        let mut valid = 0;
        for AuthoritySignature { authority, signature } in &self.signatures {
            // Ids are in strict order, so nobody counts twice.
            if !authorities.contains(authority) {
                continue;
            }
            if !verify_over(DOMAIN, &self.body, &authority.0, signature) {
                return Err(DocumentFault::WrongSignature.into());
            }
            valid += 1;
        }
        let needed = threshold.max(1);
        if valid < needed {
            return Err(DocumentFault::TooFewSigners.saying(format!(
                "the consensus has {valid} signatures of this network's authorities, {needed} are needed"
            )));
        }
        let consensus = self.read_unverified()?;
        match consensus.network == network {
            true => Ok(consensus),
            false => Err(DocumentFault::OtherNetwork.into()),
        }
    }

    /// What the body says, whoever wrote it: only for showing it to a person.
    pub fn read_unverified(&self) -> Result<Consensus> {
        cbor::decode(&self.body, MAX_CONSENSUS_SIZE)
    }

    /// A body with the signatures that came with it; nothing is verified.
    pub(super) fn from_parts(body: Vec<u8>, signatures: Vec<AuthoritySignature>) -> Self {
        Self { body, signatures }
    }

    pub(super) fn signatures(&self) -> &[AuthoritySignature] {
        &self.signatures
    }

    /// A validly signed envelope around any bytes.
    #[cfg(test)]
    pub(super) fn with_body_for_tests(
        body: Vec<u8>,
        authority: AuthorityId,
        sign: impl FnOnce(&[u8]) -> [u8; 64],
    ) -> Self {
        let mut signed = Self { body, signatures: Vec::new() };
        signed.sign(authority, sign);
        signed
    }

    /// Who claims to have signed.
    pub fn signers(&self) -> impl Iterator<Item = AuthorityId> + '_ {
        self.signatures.iter().map(|signature| signature.authority)
    }
}

impl Canonical for Signed {
    fn write(&self, out: &mut Writer) {
        out.array(2);
        out.bytes(&self.body);
        out.list(&self.signatures);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        if input.array(2)? != 2 {
            return Err(malformed("a signed consensus is a body and signatures"));
        }
        let body = input.bytes(MAX_CONSENSUS_SIZE)?.to_vec();
        Ok(Self { body, signatures: read_signatures(input)? })
    }
}

/// In order of the authorities' ids, each once.
pub(super) fn read_signatures(input: &mut Reader<'_>) -> Result<Vec<AuthoritySignature>> {
    let signatures: Vec<AuthoritySignature> = input.list(MAX_SIGNATURES)?;
    for (before, after) in signatures.iter().zip(signatures.iter().skip(1)) {
        match before.authority.cmp(&after.authority) {
            Ordering::Less => {}
            Ordering::Equal => return Err(DocumentFault::DuplicateSigner.into()),
            Ordering::Greater => {
                return Err(DocumentFault::NotCanonical.saying("the signatures are not in order"));
            }
        }
    }
    Ok(signatures)
}

/// A signature, and whose it is said to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AuthoritySignature {
    authority: AuthorityId,
    signature: [u8; 64],
}

impl Canonical for AuthoritySignature {
    fn write(&self, out: &mut Writer) {
        out.array(2);
        out.bytes(&self.authority.0);
        out.bytes(&self.signature);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        match input.array(2)? {
            2 => Ok(Self { authority: AuthorityId(input.fixed()?), signature: input.fixed()? }),
            _ => Err(malformed("a signature is an authority and 64 bytes")),
        }
    }
}

/// A signature over `domain`, a zero byte and `body`.
pub fn sign_over(domain: &[u8], body: &[u8], sign: impl FnOnce(&[u8]) -> [u8; 64]) -> [u8; 64] {
    sign(&[domain, &[0], body].concat())
}

/// True if `signature` is one of `key` over `domain`, a zero byte and `body`. Strict: no small-order keys,
/// no second encoding of a signature.
pub fn verify_over(domain: &[u8], body: &[u8], key: &[u8; 32], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(key).is_ok_and(|key| {
        key.verify_strict(&[domain, &[0], body].concat(), &Signature::from_bytes(signature)).is_ok()
    })
}

/// Largest signed consensus, in bytes: some 500 for each of [`MAX_RELAYS`](super::MAX_RELAYS), half as much again as the
/// most that a relay usually takes.
pub const MAX_CONSENSUS_SIZE: usize = 8 * 1024 * 1024;

const MAX_SIGNATURES: usize = 64;
const DOMAIN: &[u8] = b"mizzle consensus 1";
