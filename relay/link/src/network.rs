//! The network file: which network this is, whose word counts in it, and whom a client asks first.

use crate::error::protocol;
use crate::{Result, hexadecimal, read_bounded};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::id::{AuthorityId, RelayId};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::Path;

/// A network, as its members know it before they have a consensus. Read from TOML; unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkFile {
    /// Its name; documents of another network are refused.
    pub name: String,
    /// How many authorities must have signed a document.
    pub threshold: usize,
    /// Local networks only: exits may reach private addresses.
    #[serde(default)]
    pub open_exits: bool,
    /// Whose signatures count.
    pub authorities: Vec<AuthorityEntry>,
    /// Relays that a client may ask for its first consensus.
    #[serde(default)]
    pub mirrors: Vec<MirrorEntry>,
}

/// An authority of a [`NetworkFile`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityEntry {
    /// Its identity, 64 hexadecimal digits in the file.
    #[serde(with = "hexadecimal")]
    pub id: AuthorityId,
    /// Where relays reach it.
    pub address: SocketAddr,
}

/// A mirror of a [`NetworkFile`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorEntry {
    /// Its identity, 64 hexadecimal digits in the file.
    #[serde(with = "hexadecimal")]
    pub id: RelayId,
    /// Where it is reached.
    pub address: SocketAddr,
}

impl NetworkFile {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = read_bounded(path, FILE_LIMIT)?.ok_or_else(|| {
            let message =
                format!("there is no network file at {}: take it from who runs the network", path.display());
            protocol(ErrorKind::Unavailable, message)
        })?;
        let text = String::from_utf8(bytes)
            .map_err(|_| protocol(ErrorKind::Malformed, format!("{} is not text", path.display())))?;
        Self::parse(&text).map_err(|error| {
            protocol(error.kind(), format!("the network file {} does not hold: {error}", path.display()))
        })
    }

    /// Parses and checks the text of a network file.
    pub fn parse(text: &str) -> Result<Self> {
        let file: Self =
            toml::from_str(text).map_err(|error| protocol(ErrorKind::Malformed, error.to_string()))?;
        if file.threshold == 0 || file.threshold > file.authorities.len() {
            let message = format!(
                "threshold is {}, but it must be between 1 and the number of authorities, {}",
                file.threshold,
                file.authorities.len()
            );
            return Err(protocol(ErrorKind::Malformed, message));
        }
        let mut ids: Vec<_> = file.authorities.iter().map(|authority| authority.id).collect();
        ids.sort();
        ids.dedup();
        if ids.len() != file.authorities.len() {
            return Err(protocol(ErrorKind::Malformed, "an authority is listed twice"));
        }
        if file.name.is_empty() || file.name.len() > NAME_LIMIT {
            return Err(protocol(ErrorKind::Malformed, "the name must have 1 to 64 bytes"));
        }
        Ok(file)
    }

    /// The file's text.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| protocol(ErrorKind::Misuse, error.to_string()))
    }
}

const FILE_LIMIT: usize = 1 << 20;
const NAME_LIMIT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> NetworkFile {
        NetworkFile {
            name: "local".to_owned(),
            threshold: 1,
            open_exits: true,
            authorities: vec![AuthorityEntry {
                id: AuthorityId([1; 32]),
                address: "127.1.0.1:7000".parse().unwrap(),
            }],
            mirrors: vec![MirrorEntry { id: RelayId([2; 32]), address: "[::1]:7000".parse().unwrap() }],
        }
    }

    #[test]
    fn a_network_file_round_trips() {
        let text = example().to_toml().unwrap();
        assert_eq!(NetworkFile::parse(&text).unwrap(), example());
    }

    #[test]
    fn unknown_keys_and_impossible_thresholds_are_refused() {
        let text = example().to_toml().unwrap();
        assert!(NetworkFile::parse(&format!("exits_open = true\n{text}")).is_err());
        assert!(NetworkFile::parse(&text.replace("threshold = 1", "threshold = 0")).is_err());
        assert!(NetworkFile::parse(&text.replace("threshold = 1", "threshold = 2")).is_err());
        assert!(NetworkFile::parse(&text.replace("01010101", "0101010")).is_err());
        let mut twice = example();
        twice.authorities.extend(example().authorities);
        assert!(NetworkFile::parse(&twice.to_toml().unwrap()).is_err());
    }
}
