//! The keys of all services, in one document beside the consensus.

use super::cbor::{self, Canonical, Reader, Writer, malformed};
use super::document::MAX_EXITS;
use super::fault::DocumentFault;
use crate::Result;
use crate::session::{SERVICE_KEY_SIZE, ServiceKey};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Service keys by their SHA-256. Unsigned: each key stands or falls with its hash in the consensus.
/// (spec: DOC-6)
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceKeys {
    keys: BTreeMap<[u8; 32], Vec<u8>>,
}

impl ServiceKeys {
    /// No keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key.
    pub fn insert(&mut self, key: &ServiceKey) {
        self.keys.insert(key.digest(), key.as_bytes().to_vec());
    }

    /// The key with this SHA-256, if it is here and is a key.
    pub fn get(&self, digest: &[u8; 32]) -> Option<Arc<ServiceKey>> {
        ServiceKey::from_bytes(self.keys.get(digest)?).ok().map(Arc::new)
    }

    /// True if the document has the key with this SHA-256.
    pub fn contains(&self, digest: &[u8; 32]) -> bool {
        self.keys.contains_key(digest)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True when there are no keys.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The document.
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// Parses the document, and hashes each key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        cbor::decode(bytes, MAX_SERVICE_KEYS_SIZE)
    }
}

impl Canonical for ServiceKeys {
    fn write(&self, out: &mut Writer) {
        out.map(2);
        out.key(0).uint(FORMAT);
        out.key(1).array(self.keys.len());
        self.keys.values().for_each(|key| out.bytes(key));
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        let mut fields = input.map()?;
        if fields.key(input, 0)?.uint(u64::MAX)? != FORMAT {
            return Err(DocumentFault::OtherFormat
                .saying("the service keys' format is of another version: upgrade the older side"));
        }
        let count = fields.key(input, 1)?.array(MAX_KEYS)?;
        let mut keys = BTreeMap::new();
        for _ in 0..count {
            let key = input.fixed::<SERVICE_KEY_SIZE>()?;
            if keys.insert(Sha256::digest(key).into(), key.to_vec()).is_some() {
                return Err(malformed("a service key is there twice"));
            }
        }
        fields.end(input)?;
        Ok(Self { keys })
    }
}

/// Largest document, in bytes: four keys of every exit.
pub const MAX_SERVICE_KEYS_SIZE: usize = MAX_KEYS * (SERVICE_KEY_SIZE + 3) + 16;

const MAX_KEYS: usize = 4 * MAX_EXITS;
const FORMAT: u64 = 1;
