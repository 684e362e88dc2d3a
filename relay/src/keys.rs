//! This relay's keys of each key period: random, derived from nothing, deleted when the period's last packet
//! may have come.
//!
//! They lie beside the replay tags, in memory: tags without keys would be useless, and keys that outlive
//! their tags would open recorded packets a second time. (spec: RELAY-5)

use crate::config::RelayRole;
use mizzle_link::{Error, Result, read_bounded, seeded_rng, write_atomically};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::id::{Period, from_hex, to_hex};
use mizzle_protocol::session::ServiceSecret;
use mizzle_protocol::sphinx::SecretKey;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The keys of one period.
#[derive(Clone, Debug)]
pub(crate) struct PeriodSecrets {
    /// For packets.
    pub(crate) mix: SecretKey,
    /// For sessions; exits only.
    pub(crate) service: Option<ServiceSecret>,
}

/// All keys that this relay has.
#[derive(Debug)]
pub(crate) struct Keys {
    folder: PathBuf,
    role: RelayRole,
    periods: BTreeMap<Period, PeriodSecrets>,
}

impl Keys {
    /// Keys in `folder`, none loaded yet.
    pub(crate) fn new(folder: &Path, role: RelayRole) -> Self {
        Self { folder: folder.to_owned(), role, periods: BTreeMap::new() }
    }

    /// The keys of `period`.
    pub(crate) fn of(&self, period: Period) -> Option<&PeriodSecrets> {
        self.periods.get(&period)
    }

    /// Has keys of exactly the periods in `wanted`: deletes all others, loads or makes what is missing.
    pub(crate) fn set(&mut self, wanted: &[Period]) -> Result<()> {
        self.forget_others(wanted)?;
        for &period in wanted {
            if !self.periods.contains_key(&period) {
                let secrets = self.load_or_create(period)?;
                self.periods.insert(period, secrets);
            }
        }
        Ok(())
    }

    /// Deletes the keys of all periods but those in `wanted`.
    pub(crate) fn forget_others(&mut self, wanted: &[Period]) -> Result<()> {
        self.periods.retain(|period, _| wanted.contains(period));
        let failed = |error| Error::io(format!("tidy {}", self.folder.display()), error);
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let period = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok()).map(Period);
            if period.is_some_and(|period| !wanted.contains(&period)) {
                std::fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn load_or_create(&self, period: Period) -> Result<PeriodSecrets> {
        let path = self.folder.join(format!("{PREFIX}{}", period.0));
        let gone = self.tags(period).find(|tags| !tags.exists());
        if let (true, Some(gone)) = (path.exists(), gone) {
            // Recorded packets would pass a second time. Without their key none does.
            let (keys, gone) = (path.display(), gone.display());
            tracing::warn!(
                "{gone} is missing, so {keys} is not used: this relay makes new keys. Does something tidy that folder?"
            );
            std::fs::remove_file(&path).map_err(|error| Error::io(format!("remove {keys}"), error))?;
        }
        if let Some(bytes) = read_bounded(&path, FILE_LIMIT)? {
            let bytes = Zeroizing::new(bytes);
            if let Some(secrets) = parse(self.role, &bytes) {
                return Ok(secrets);
            }
            if parse(RelayRole::Mix, &bytes).is_none() {
                let message = format!("{} does not hold the keys of a period: remove it", path.display());
                return Err(Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Malformed, message)));
            }
            tracing::info!(
                "this relay had another role: it makes new keys, and is used when they are listed"
            );
        }
        let mut rng = seeded_rng()?;
        let service = (self.role == RelayRole::Exit).then(|| ServiceSecret::generate(&mut rng));
        let secrets = PeriodSecrets { mix: SecretKey::generate(&mut rng), service };
        write_atomically(&path, &self.emit(&secrets))?;
        Ok(secrets)
    }

    /// Where what was taken with the keys of `period` is remembered.
    fn tags(&self, period: Period) -> impl Iterator<Item = PathBuf> {
        let file = move |prefix| self.folder.join(format!("{prefix}-{}", period.0));
        let sessions = (self.role == RelayRole::Exit).then(|| file(SESSION_TAGS));
        [file(PACKET_TAGS)].into_iter().chain(sessions)
    }

    fn emit(&self, secrets: &PeriodSecrets) -> Zeroizing<Vec<u8>> {
        let mix = Zeroizing::new(to_hex(secrets.mix.to_bytes().as_ref()));
        let service = secrets.service.as_ref().map(|service| Zeroizing::new(to_hex(service.to_bytes())));
        let service = service.as_ref().map_or("", |service| service.as_str());
        Zeroizing::new(format!("{FORMAT}\n{}\n{service}\n", mix.as_str()).into_bytes())
    }
}

const PREFIX: &str = "keys-";
/// What the logs of tags beside the keys are called, before the period's number.
pub(crate) const PACKET_TAGS: &str = "tags";
pub(crate) const SESSION_TAGS: &str = "sessions";
const FORMAT: &str = "mizzle period keys 1";
const FILE_LIMIT: usize = 1024;

/// The keys that a relay of this role has; `None` if they are not all there.
fn parse(role: RelayRole, bytes: &[u8]) -> Option<PeriodSecrets> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    if lines.next() != Some(FORMAT) {
        return None;
    }
    let mix = SecretKey::from_bytes(from_hex(lines.next()?).ok()?);
    let service = match role {
        RelayRole::Exit => Some(ServiceSecret::from_bytes(from_hex(lines.next()?).ok()?)),
        RelayRole::Mix | RelayRole::Entry => None,
    };
    Some(PeriodSecrets { mix, service })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_outlive_the_process_and_die_with_their_period() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Keys::new(folder.path(), RelayRole::Exit);
        first.set(&[Period(3), Period(4)]).unwrap();
        for tags in ["tags-4", "sessions-4"] {
            std::fs::write(folder.path().join(tags), "").unwrap();
        }
        let mut second = Keys::new(folder.path(), RelayRole::Exit);
        second.set(&[Period(4), Period(5)]).unwrap();
        let (before, after) = (first.of(Period(4)).unwrap(), second.of(Period(4)).unwrap());
        assert_eq!(before.mix.public(), after.mix.public());
        assert_eq!(before.service, after.service);
        assert!(before.service.is_some());
        assert_ne!(after.mix.public(), second.of(Period(5)).unwrap().mix.public());
        assert!(second.of(Period(3)).is_none());
        assert!(!folder.path().join("keys-3").exists());
    }

    #[test]
    fn keys_whose_tags_are_gone_open_nothing_any_more() {
        for (role, lost) in
            [(RelayRole::Mix, "tags-1"), (RelayRole::Exit, "tags-1"), (RelayRole::Exit, "sessions-1")]
        {
            let folder = tempfile::tempdir().unwrap();
            let public = || {
                let mut keys = Keys::new(folder.path(), role);
                keys.set(&[Period(1)]).unwrap();
                keys.of(Period(1)).unwrap().mix.public()
            };
            let first = public();
            for tags in ["tags-1", "sessions-1"] {
                std::fs::write(folder.path().join(tags), "").unwrap();
            }
            assert_eq!(public(), first);
            std::fs::remove_file(folder.path().join(lost)).unwrap();
            assert_ne!(public(), first, "{role:?} without {lost}");
        }
    }

    #[test]
    fn a_mix_that_becomes_an_exit_makes_new_keys_and_one_that_goes_back_keeps_them() {
        let folder = tempfile::tempdir().unwrap();
        // As the logs of both kinds are, whatever the role.
        for tags in ["tags-1", "sessions-1"] {
            std::fs::write(folder.path().join(tags), "").unwrap();
        }
        let secrets = |role| {
            let mut keys = Keys::new(folder.path(), role);
            keys.set(&[Period(1)]).unwrap();
            keys.of(Period(1)).unwrap().clone()
        };
        let mix = secrets(RelayRole::Mix);
        let exit = secrets(RelayRole::Exit);
        assert!(exit.service.is_some() && exit.mix.public() != mix.mix.public());
        assert_eq!(secrets(RelayRole::Mix).mix.public(), exit.mix.public());
        assert_eq!(secrets(RelayRole::Exit).service, exit.service);
    }

    #[test]
    fn only_exits_have_service_keys_and_damaged_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut keys = Keys::new(folder.path(), RelayRole::Mix);
        keys.set(&[Period(1)]).unwrap();
        assert!(keys.of(Period(1)).unwrap().service.is_none());
        for file in ["keys-2", "tags-2"] {
            std::fs::write(folder.path().join(file), "nothing").unwrap();
        }
        assert_eq!(keys.set(&[Period(2)]).unwrap_err().kind(), ErrorKind::Malformed);
    }
}
