//! What outlives the process: the documents, the descriptors, and the layers that were dealt.
//!
//! ```text
//! state/format            "mizzle-directory state 1"
//! state/lock              held by the running process
//! state/identity          the authority's key (mizzle-link)
//! state/layers.json       layers of the periods in the newest document, also of mixes that do not run
//! state/service-keys      the keys beside the newest document
//! state/consensus         the newest document, signed: written last, so it decides
//! state/descriptors/ID    each relay's newest signed descriptor
//! ```
//!
//! Each file is replaced as a whole. A document is on disk before anyone sees it, so that no epoch can ever
//! be signed a second time with other content. (spec: DIR-7)

use crate::authority::{Held, Publication, Restored};
use crate::layers::Layers;
use crate::{Error, Result};
use mizzle_link::{read_bounded, write_atomically};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::consensus::{
    Descriptor, MAX_CONSENSUS_SIZE, MAX_DESCRIPTOR_SIZE, MAX_SERVICE_KEYS_SIZE, ServiceKeys, Signed,
};
use mizzle_protocol::id::{AuthorityId, Period, RelayId};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

/// The state folder.
#[derive(Clone, Debug)]
pub(crate) struct State {
    folder: PathBuf,
}

impl State {
    /// Opens the folder, or founds it. Refuses one of another format.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let state = Self { folder: folder.to_owned() };
        let path = state.path("format");
        match read_bounded(&path, 100)? {
            Some(bytes) if bytes == FORMAT.as_bytes() => {}
            Some(_) => {
                let message = format!(
                    "{} is of another format than {}: it was written by another version",
                    folder.display(),
                    FORMAT.trim()
                );
                return Err(Error::new(ErrorKind::Incompatible, message));
            }
            None => write_atomically(&path, FORMAT.as_bytes())?,
        }
        Ok(state)
    }

    /// Takes the folder for this process, until what is returned is dropped. Two authorities on one folder
    /// would sign one epoch twice.
    pub(crate) fn lock(&self) -> Result<File> {
        let path = self.path("lock");
        let failed = |error| mizzle_link::Error::io(format!("write {}", path.display()), error);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                let message = format!("another authority runs on {}: stop it first", self.folder.display());
                Err(Error::new(ErrorKind::Refused, message))
            }
            Err(TryLockError::Error(error)) => Err(failed(error).into()),
        }
    }

    /// All that an earlier process left. The document must be this authority's own.
    pub(crate) fn restore(&self, authority: AuthorityId, network: &str) -> Result<Restored> {
        let path = self.path("consensus");
        let document = match read_bounded(&path, MAX_CONSENSUS_SIZE)? {
            None => None,
            Some(bytes) => {
                let read = |bytes: &[u8]| {
                    let signed = Signed::from_bytes(bytes)?;
                    let consensus = signed.verify_at_any_time(&[authority], 1, network)?;
                    Ok(Held { signed, consensus })
                };
                Some(read(&bytes).map_err(|error: mizzle_protocol::Error| {
                    let message = format!(
                        "the newest document of this network, {}, is not one of this authority: {error}; \
                         restore it from a copy, or move the folder away to found a new network",
                        path.display()
                    );
                    Error::new(error.kind(), message)
                })?)
            }
        };
        let service_keys = match read_bounded(&self.path("service-keys"), MAX_SERVICE_KEYS_SIZE)? {
            Some(bytes) => ServiceKeys::from_bytes(&bytes)?,
            None => ServiceKeys::new(),
        };
        Ok(Restored {
            document,
            service_keys,
            descriptors: self.descriptors(network)?,
            layers: self.layers()?,
        })
    }

    /// Keeps a signed document and what belongs to it.
    pub(crate) fn store(&self, publication: &Publication, signed: &[u8]) -> Result<()> {
        let layers: StoredLayers = publication
            .layers
            .iter()
            .map(|(period, layers)| {
                (period.0, layers.iter().map(|(relay, layer)| (relay.to_hex(), *layer)).collect())
            })
            .collect();
        let json =
            serde_json::to_vec(&layers).map_err(|error| Error::new(ErrorKind::Misuse, error.to_string()))?;
        write_atomically(&self.path("layers.json"), &json)?;
        write_atomically(&self.path("service-keys"), &publication.service_keys.to_bytes())?;
        write_atomically(&self.path("consensus"), signed)?;
        Ok(())
    }

    /// Keeps a relay's signed descriptor.
    pub(crate) fn store_descriptor(&self, relay: RelayId, signed: &[u8]) -> Result<()> {
        Ok(write_atomically(&self.path("descriptors").join(relay.to_hex()), signed)?)
    }

    /// Forgets the descriptors of all relays but these.
    pub(crate) fn keep_descriptors(&self, relays: &BTreeSet<RelayId>) -> Result<()> {
        for path in self.descriptor_files()? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if RelayId::from_hex(&name).is_ok_and(|relay| !relays.contains(&relay)) {
                let failed = |error| mizzle_link::Error::io(format!("remove {}", path.display()), error);
                std::fs::remove_file(&path).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn descriptors(&self, network: &str) -> Result<Vec<Descriptor>> {
        let mut descriptors = Vec::new();
        for path in self.descriptor_files()? {
            let Some(bytes) = read_bounded(&path, MAX_DESCRIPTOR_SIZE)? else { continue };
            match Descriptor::from_signed_bytes(&bytes, network) {
                Ok(descriptor) => descriptors.push(descriptor),
                // Its relay will hand in another.
                Err(error) => tracing::warn!("a stored descriptor is left out: {error}"),
            }
        }
        Ok(descriptors)
    }

    fn descriptor_files(&self) -> Result<Vec<PathBuf>> {
        let folder = self.path("descriptors");
        let failed = |error| mizzle_link::Error::io(format!("read {}", folder.display()), error);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error).into()),
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            // Half-written files have an extension.
            if path.extension().is_none() {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    fn layers(&self) -> Result<BTreeMap<Period, Layers>> {
        let path = self.path("layers.json");
        let Some(bytes) = read_bounded(&path, MAX_CONSENSUS_SIZE)? else { return Ok(BTreeMap::new()) };
        let damaged = |reason: String| {
            let message = format!("{} is damaged ({reason}): restore it from a copy", path.display());
            Error::new(ErrorKind::Malformed, message)
        };
        let stored: StoredLayers =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let layers = |layers: BTreeMap<String, u8>| -> Result<Layers> {
            let entries = layers.into_iter().map(|(relay, layer)| match (RelayId::from_hex(&relay), layer) {
                (Ok(relay), 1..=3) => Ok((relay, layer)),
                _ => Err(damaged("not a relay and its layer".into())),
            });
            entries.collect()
        };
        stored.into_iter().map(|(period, stored)| Ok((Period(period), layers(stored)?))).collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

type StoredLayers = BTreeMap<u32, BTreeMap<String, u8>>;

const FORMAT: &str = "mizzle-directory state 1\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_another_format_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        State::open(folder.path()).unwrap();
        State::open(folder.path()).unwrap();
        std::fs::write(folder.path().join("format"), "mizzle-directory state 2\n").unwrap();
        assert_eq!(State::open(folder.path()).unwrap_err().kind(), ErrorKind::Incompatible);
    }

    #[test]
    fn a_folder_serves_one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        let held = state.lock().unwrap();
        assert_eq!(state.lock().unwrap_err().kind(), ErrorKind::Refused);
        drop(held);
        state.lock().unwrap();
    }

    #[test]
    fn a_damaged_document_stops_the_start_instead_of_forking_the_chain() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        assert!(state.restore(AuthorityId([1; 32]), "local").unwrap().document.is_none());
        std::fs::write(folder.path().join("consensus"), b"half").unwrap();
        let error = state.restore(AuthorityId([1; 32]), "local").unwrap_err();
        assert!(error.to_string().contains("found a new network"), "{error}");
    }

    #[test]
    fn damaged_layers_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        for text in ["{", "{\"1\":{\"00\":1}}", "{\"1\":{\"x\":1}}"] {
            std::fs::write(folder.path().join("layers.json"), text).unwrap();
            assert_eq!(state.layers().unwrap_err().kind(), ErrorKind::Malformed, "{text}");
        }
        let relay = RelayId([7; 32]);
        std::fs::write(folder.path().join("layers.json"), format!("{{\"5\":{{\"{}\":3}}}}", relay.to_hex()))
            .unwrap();
        assert_eq!(state.layers().unwrap()[&Period(5)][&relay], 3);
    }
}
