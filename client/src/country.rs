//! Exits in the country that is asked for: what isolates by it, and what it costs. (spec: COUNTRY-2)

use mizzle_protocol::country::Country;
use mizzle_protocol::endpoint::Isolation;
use mizzle_protocol::id::RelayId;
use mizzle_protocol::path::Topology;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// An [`Isolation`] that is kept.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Apart {
    pub(crate) token: Vec<u8>,
    pub(crate) exit_country: Option<Country>,
}

impl Apart {
    pub(crate) fn borrowed(&self) -> Isolation<'_> {
        Isolation { token: &self.token, exit_country: self.exit_country }
    }
}

impl fmt::Debug for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Apart(redacted)")
    }
}

/// The exits that say that they are in one country, or that say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitsIn {
    /// Two letters; `None`: exits that declare none.
    pub country: Option<String>,
    /// How many.
    pub exits: usize,
    /// Their weight in the consensus, together: packets per second.
    pub weight: u64,
}

/// What it costs to use exits of one country only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExitChoice {
    /// Two letters.
    pub country: String,
    /// Exits there.
    pub exits: usize,
    /// Exits everywhere.
    pub exits_in_all: usize,
    /// Share of the weight of all exits that is there, from 0 to 1.
    pub share: f64,
    /// By how many bits the set is smaller that an exit is drawn from: log2 of exits everywhere over exits there.
    /// `None`: there is no exit, and nothing is carried.
    pub bits: Option<f64>,
}

/// The exits that sessions can be opened to, by country.
pub(crate) fn by_country(topology: &Topology, weight: impl Fn(RelayId) -> u32) -> Vec<ExitsIn> {
    let mut all: BTreeMap<Option<Country>, ExitsIn> = BTreeMap::new();
    for exit in topology.exits.iter().filter(|exit| exit.service_key.is_some()) {
        let there = all.entry(exit.country).or_insert_with(|| ExitsIn {
            country: exit.country.map(|country| country.to_string()),
            ..ExitsIn::default()
        });
        there.exits += 1;
        there.weight += u64::from(weight(exit.node.id));
    }
    all.into_values().collect()
}

/// The price of `country`, where exits are as given.
pub(crate) fn choice(country: Country, exits: &[ExitsIn]) -> ExitChoice {
    let there = exits.iter().find(|there| there.country.as_deref() == Some(country.code()));
    let (count, weight) = there.map_or((0, 0), |there| (there.exits, there.weight));
    let in_all: usize = exits.iter().map(|there| there.exits).sum();
    let weight_in_all: u64 = exits.iter().map(|there| there.weight).sum();
    ExitChoice {
        country: country.to_string(),
        exits: count,
        exits_in_all: in_all,
        share: weight as f64 / weight_in_all.max(1) as f64,
        bits: (count > 0).then(|| (in_all as f64 / count as f64).log2()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(country: Option<&str>, exits: usize, weight: u64) -> ExitsIn {
        ExitsIn { country: country.map(str::to_owned), exits, weight }
    }

    #[test]
    fn the_price_is_the_share_that_is_left_and_the_bits_that_are_lost() {
        let exits = [there(None, 5, 500), there(Some("DE"), 2, 100), there(Some("FR"), 1, 400)];
        let price = choice("DE".parse().unwrap(), &exits);
        assert_eq!((price.exits, price.exits_in_all, price.share, price.bits), (2, 8, 0.1, Some(2.0)));
        let price = choice("CH".parse().unwrap(), &exits);
        assert_eq!((price.exits, price.share, price.bits), (0, 0.0, None));
        let price = choice("DE".parse().unwrap(), &exits[1..2]);
        assert_eq!((price.share, price.bits), (1.0, Some(0.0)));
        assert_eq!(choice("DE".parse().unwrap(), &[]).bits, None);
    }
}
