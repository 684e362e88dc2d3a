//! What shape a local network has, as a file says it.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How many of each there are, and what the directory and the clients are told. What a file leaves out is as
/// `mizzle-net up` has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Shape {
    /// Mixes in each of the three layers.
    pub(crate) width: usize,
    pub(crate) entries: usize,
    pub(crate) exits: usize,
    pub(crate) clients: usize,
    /// Mean time in each mix and the longest that is drawn, in milliseconds; without, the product's.
    pub(crate) mean_delay_ms: Option<u64>,
    pub(crate) max_delay_ms: Option<u64>,
    /// Seconds for which mixes keep their keys and layers; without, those of the preset `local`.
    pub(crate) key_period_s: Option<u64>,
    /// Loops a second that each relay sends to itself; without, as a relay does by default.
    pub(crate) relay_loops: Option<u32>,
    /// The clients' level, by its name, and the step that they stay at; without, as a client is by default.
    pub(crate) level: Option<String>,
    pub(crate) step: Option<u8>,
    /// What that level is in this network, in place of its own steps.
    pub(crate) pace: Option<Pace>,
    /// Of how many last loops clients tell the times.
    pub(crate) loop_times: Option<usize>,
}

/// The rates of the one step of a level: packets a second, and which shares of what is sent are loops and drops.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pace {
    pub(crate) send_rate: f64,
    pub(crate) receive_rate: f64,
    pub(crate) loop_share: f64,
    pub(crate) drop_share: f64,
}

impl Default for Shape {
    /// Nine mixes, three entries, three exits and a client.
    fn default() -> Self {
        Self {
            width: 3,
            entries: 3,
            exits: 3,
            clients: 1,
            mean_delay_ms: None,
            max_delay_ms: None,
            key_period_s: None,
            relay_loops: None,
            level: None,
            step: None,
            pace: None,
            loop_times: None,
        }
    }
}

impl Shape {
    /// Reads a file in TOML, and checks that it describes a network.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(Error::system(format!("cannot read the shape {}", path.display())))?;
        let wrong = |why: String| Error::Wrong(format!("the shape {}: {why}", path.display()));
        let shape: Self = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        match shape.fault() {
            None => Ok(shape),
            Some(why) => Err(wrong(why)),
        }
    }

    /// Why there is no such network, if there is none.
    fn fault(&self) -> Option<String> {
        let Self { width, entries, exits, clients, .. } = *self;
        let counts = [("width", width), ("entries", entries), ("exits", exits), ("clients", clients)];
        if let Some((key, count)) = counts.into_iter().find(|(_, count)| !(1..=MOST).contains(count)) {
            return Some(format!("{key} = {count}: must be from 1 to {MOST}"));
        }
        (self.pace.is_some() && self.level.is_none())
            .then(|| "pace changes the steps of a level: name it with `level`".to_owned())
    }

    /// Mixes of all layers.
    pub(crate) fn mixes(&self) -> usize {
        self.width * LAYERS
    }
}

const LAYERS: usize = mizzle_protocol::geometry::LAYERS;
/// Of each kind: their addresses have one byte to tell them apart.
const MOST: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Shape, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shape.toml");
        std::fs::write(&path, text).unwrap();
        Shape::load(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_file_leaves_out_is_as_ever_and_what_it_says_wrong_is_named() {
        assert_eq!(load("").unwrap(), Shape::default());
        let shape = load("width = 2\nclients = 4\nmean_delay_ms = 50\n").unwrap();
        assert_eq!((shape.mixes(), shape.entries, shape.clients, shape.mean_delay_ms), (6, 3, 4, Some(50)));
        assert!(load("with = 2").unwrap_err().contains("unknown field `with`"));
        assert!(load("clients = 0").unwrap_err().contains("clients = 0"));
        let pace = "[pace]\nsend_rate = 1.0\nreceive_rate = 1.0\nloop_share = 0.1\ndrop_share = 0.1\n";
        assert!(load(pace).unwrap_err().contains("`level`"));
    }
}
