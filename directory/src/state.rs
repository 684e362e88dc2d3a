//! What outlives the process: the documents, the descriptors, and the layers that were dealt.
//!
//! ```text
//! state/format            "mizzle-directory state 1"
//! state/lock              held by the running process
//! state/identity          the authority's key (mizzle-link)
//! state/layers.json       layers of the periods in the newest document, also of mixes that do not run
//! state/standings.json    since when relays stand where they stand
//! state/measured.json     what relays were last measured to carry
//! state/service-keys      the keys beside the newest document
//! state/consensus         the newest document, signed: written last, so it decides
//! state/descriptors/ID    each relay's newest signed descriptor
//! state/revocations/ID    the word of a relay's family that ended it; kept for ever
//! ```
//!
//! Each file is replaced as a whole. A document is on disk before anyone sees it, so that no epoch can ever
//! be signed a second time with other content. (spec: DIR-7)

use crate::authority::{Held, Publication, Restored, Standing};
use crate::{Error, Result};
use mizzle_council::Layers;
use mizzle_link::{read_bounded, write_atomically};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::consensus::{
    Descriptor, MAX_CONSENSUS_SIZE, MAX_DESCRIPTOR_SIZE, MAX_REVOCATION_SIZE, MAX_SERVICE_KEYS_SIZE,
    Revocation, ServiceKeys, Signed,
};
use mizzle_protocol::id::{AuthorityId, Epoch, FamilyId, Period, RelayId, from_hex, to_hex};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
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
            standings: self.standings()?,
            revoked: self.revoked(network)?,
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
        let standings: StoredStandings = publication
            .standings
            .iter()
            .map(|(relay, standing)| {
                let since = standing.since.iter().map(|(tie, epoch)| (tie.to_string(), epoch.0)).collect();
                let families = standing.families.iter().map(|family| to_hex(&family.0)).collect();
                (relay.to_hex(), StoredStanding { seen: standing.seen, since, families })
            })
            .collect();
        self.store_json("layers.json", &layers)?;
        self.store_json("standings.json", &standings)?;
        write_atomically(&self.path("service-keys"), &publication.service_keys.to_bytes())?;
        write_atomically(&self.path("consensus"), signed)?;
        Ok(())
    }

    /// Keeps what relays were measured to carry, the last results of each.
    pub(crate) fn store_measured<'a>(
        &self,
        measured: impl Iterator<Item = (RelayId, &'a [u32])>,
    ) -> Result<()> {
        let stored: BTreeMap<String, &[u32]> =
            measured.map(|(relay, rates)| (relay.to_hex(), rates)).collect();
        self.store_json("measured.json", &stored)
    }

    /// What relays were measured to carry.
    pub(crate) fn measured(&self) -> Result<BTreeMap<RelayId, Vec<u32>>> {
        let Some((stored, damaged)) = self.load_json::<BTreeMap<String, Vec<u32>>>("measured.json")? else {
            return Ok(BTreeMap::new());
        };
        let read = |(relay, rates): (String, Vec<u32>)| Ok((RelayId::from_hex(&relay)?, rates));
        let measured: Result<_, mizzle_protocol::Error> = stored.into_iter().map(read).collect();
        measured.map_err(|error| damaged(error.to_string()))
    }

    /// Keeps a relay's signed descriptor.
    pub(crate) fn store_descriptor(&self, relay: RelayId, signed: &[u8]) -> Result<()> {
        Ok(write_atomically(&self.path("descriptors").join(relay.to_hex()), signed)?)
    }

    /// Keeps a family's word that a relay has ended.
    pub(crate) fn store_revocation(&self, relay: RelayId, signed: &[u8]) -> Result<()> {
        Ok(write_atomically(&self.path("revocations").join(relay.to_hex()), signed)?)
    }

    /// Forgets the descriptors of all relays but these.
    pub(crate) fn keep_descriptors(&self, relays: &BTreeSet<RelayId>) -> Result<()> {
        for path in self.files("descriptors")? {
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
        for path in self.files("descriptors")? {
            let Some(bytes) = read_bounded(&path, MAX_DESCRIPTOR_SIZE)? else { continue };
            match Descriptor::from_signed_bytes(&bytes, network) {
                Ok(descriptor) => descriptors.push(descriptor),
                // Its relay will hand in another.
                Err(error) => tracing::warn!("a stored descriptor is left out: {error}"),
            }
        }
        Ok(descriptors)
    }

    /// Who was revoked. What is damaged stops the start: a thief must not come back for a bad disk.
    fn revoked(&self, network: &str) -> Result<BTreeSet<RelayId>> {
        let mut revoked = BTreeSet::new();
        for path in self.files("revocations")? {
            let Some(bytes) = read_bounded(&path, MAX_REVOCATION_SIZE)? else { continue };
            let read = Revocation::from_bytes(&bytes, network).map_err(|error| {
                let message = format!(
                    "{} is damaged ({error}): take the file away, and have the revocation handed in again",
                    path.display()
                );
                Error::new(error.kind(), message)
            })?;
            revoked.insert(read.relay);
        }
        Ok(revoked)
    }

    fn files(&self, folder: &str) -> Result<Vec<PathBuf>> {
        let folder = self.path(folder);
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

    fn standings(&self) -> Result<BTreeMap<RelayId, Standing>> {
        let Some((stored, damaged)) = self.load_json::<StoredStandings>("standings.json")? else {
            return Ok(BTreeMap::new());
        };
        let read = |(relay, stored): (String, StoredStanding)| -> Result<_, mizzle_protocol::Error> {
            let since = stored.since.into_iter().map(|(tie, epoch)| Ok((tie.parse()?, Epoch(epoch))));
            let since = since.collect::<Result<_, mizzle_protocol::Error>>()?;
            let families = stored.families.iter().map(|digits| from_hex(digits).map(FamilyId));
            let families = families.collect::<Result<_, mizzle_protocol::Error>>()?;
            Ok((RelayId::from_hex(&relay)?, Standing { seen: stored.seen, since, families }))
        };
        let standings: Result<_, _> = stored.into_iter().map(read).collect();
        standings.map_err(|error| damaged(error.to_string()))
    }

    fn layers(&self) -> Result<BTreeMap<Period, Layers>> {
        let Some((stored, damaged)) = self.load_json::<StoredLayers>("layers.json")? else {
            return Ok(BTreeMap::new());
        };
        let layers = |layers: BTreeMap<String, u8>| -> Result<Layers> {
            let entries = layers.into_iter().map(|(relay, layer)| match (RelayId::from_hex(&relay), layer) {
                (Ok(relay), 1..=3) => Ok((relay, layer)),
                _ => Err(damaged("not a relay and its layer".into())),
            });
            entries.collect()
        };
        stored.into_iter().map(|(period, stored)| Ok((Period(period), layers(stored)?))).collect()
    }

    fn store_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let json =
            serde_json::to_vec(value).map_err(|error| Error::new(ErrorKind::Misuse, error.to_string()))?;
        Ok(write_atomically(&self.path(name), &json)?)
    }

    /// What is in the file, if there is one, and how to say that it makes no sense.
    fn load_json<T: DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<Option<(T, impl Fn(String) -> Error + use<T>)>> {
        let path = self.path(name);
        let Some(bytes) = read_bounded(&path, MAX_CONSENSUS_SIZE)? else { return Ok(None) };
        let damaged = move |reason: String| {
            let message = format!("{} is damaged ({reason}): restore it from a copy", path.display());
            Error::new(ErrorKind::Malformed, message)
        };
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some((value, damaged))),
            Err(error) => Err(damaged(error.to_string())),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

type StoredLayers = BTreeMap<u32, BTreeMap<String, u8>>;

type StoredStandings = BTreeMap<String, StoredStanding>;

#[derive(Deserialize, Serialize)]
struct StoredStanding {
    seen: u64,
    since: BTreeMap<String, u64>,
    #[serde(default)]
    families: Vec<String>,
}

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

    #[test]
    fn damaged_standings_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        assert!(state.standings().unwrap().is_empty());
        let write = |text: &str| std::fs::write(folder.path().join("standings.json"), text).unwrap();
        let relay = RelayId([7; 32]);
        for since in ["\"ipv4:0\":1", "\"net:7f01\":1", "\"ipv4:7f01\":-1"] {
            write(&format!("{{\"{}\":{{\"seen\":3,\"since\":{{{since}}}}}}}", relay.to_hex()));
            assert_eq!(state.standings().unwrap_err().kind(), ErrorKind::Malformed, "{since}");
        }
        write(&format!("{{\"{}\":{{\"seen\":3,\"since\":{{\"ipv4:7f01\":9}}}}}}", relay.to_hex()));
        let since = [(mizzle_council::Tie::Net4([127, 1]), Epoch(9))].into();
        assert_eq!(state.standings().unwrap()[&relay], Standing { seen: 3, since, families: Vec::new() });
        let families = vec![FamilyId([5; 32]), FamilyId([6; 32])];
        let digits = families.iter().map(|family| format!("\"{}\"", to_hex(&family.0))).collect::<Vec<_>>();
        write(&format!(
            "{{\"{}\":{{\"seen\":3,\"since\":{{}},\"families\":[{}]}}}}",
            relay.to_hex(),
            digits.join(",")
        ));
        assert_eq!(state.standings().unwrap()[&relay].families, families);
        write(&format!("{{\"{}\":{{\"seen\":3,\"since\":{{}},\"families\":[\"05\"]}}}}", relay.to_hex()));
        assert_eq!(state.standings().unwrap_err().kind(), ErrorKind::Malformed);
    }

    #[test]
    fn what_was_measured_is_there_again_and_what_is_damaged_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        assert!(state.measured().unwrap().is_empty());
        let rates = [(RelayId([7; 32]), vec![100, 0, 96]), (RelayId([8; 32]), Vec::new())];
        state.store_measured(rates.iter().map(|(relay, rates)| (*relay, rates.as_slice()))).unwrap();
        assert_eq!(state.measured().unwrap(), rates.into());
        std::fs::write(folder.path().join("measured.json"), "{\"07\":[1]}").unwrap();
        assert_eq!(state.measured().unwrap_err().kind(), ErrorKind::Malformed);
    }

    #[test]
    fn a_damaged_revocation_stops_the_start_instead_of_letting_a_thief_back() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        let key = mizzle_link::Identity::generate(&mut mizzle_link::seeded_rng().unwrap());
        let (family, relay) = (FamilyId(key.id().0), RelayId([7; 32]));
        let bytes = Revocation::issue(family, "local", relay, |message| key.sign(message)).to_bytes();
        state.store_revocation(relay, &bytes).unwrap();
        assert_eq!(state.revoked("local").unwrap(), [relay].into());
        // It outlives the descriptor.
        state.keep_descriptors(&BTreeSet::new()).unwrap();
        assert_eq!(state.restore(AuthorityId([1; 32]), "local").unwrap().revoked, [relay].into());
        state.store_revocation(relay, &bytes[1..]).unwrap();
        let error = state.restore(AuthorityId([1; 32]), "local").unwrap_err();
        assert!(error.to_string().contains("have the revocation handed in again"), "{error}");
    }
}
