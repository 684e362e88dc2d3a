//! What lies between the members of a network: distance, width and loss.

use crate::geography::Geography;
use crate::observe::Place;
use mizzle_protocol::{Error, ErrorKind, Result};
use std::time::Duration;

/// How long packets take between places.
#[derive(Clone, Debug, PartialEq)]
pub enum Distance {
    /// So long, wherever.
    Equal(Duration),
    /// One-way times between regions; places are in regions by turns, relays and clients alike.
    Regions(Vec<Vec<Duration>>),
    /// By where on the globe the places are.
    World(Geography),
}

impl Distance {
    /// From a matrix of one-way times between regions. [`ErrorKind::Malformed`] if it is not square, or has nothing.
    pub fn regions(matrix: Vec<Vec<Duration>>) -> Result<Self> {
        if matrix.is_empty() || matrix.iter().any(|row| row.len() != matrix.len()) {
            return Err(Error::new(
                ErrorKind::Malformed,
                "a matrix of distances has as many columns as rows, and one at least",
            ));
        }
        Ok(Self::Regions(matrix))
    }

    /// Places so many relays and clients, by the run's seed, where it matters where they are.
    pub(crate) fn place(&mut self, relays: usize, clients: usize, seed: u64) {
        if let Self::World(geography) = self {
            *geography = Geography::place(relays, clients, seed);
        }
    }

    /// From one place to another.
    pub(crate) fn between(&self, from: Place, to: Place) -> Duration {
        match self {
            Self::Equal(time) => *time,
            Self::Regions(matrix) => {
                let region = |(Place::Client(index) | Place::Relay(index) | Place::Loop(index))| {
                    index as usize % matrix.len().max(1)
                };
                let row = matrix.get(region(from));
                row.and_then(|row| row.get(region(to))).copied().unwrap_or_default()
            }
            Self::World(geography) => geography.between(from, to),
        }
    }

    /// The mean over all pairs of regions, or of relays.
    pub fn mean(&self) -> Duration {
        match self {
            Self::Equal(time) => *time,
            Self::Regions(matrix) => {
                let all: Vec<_> = matrix.iter().flatten().collect();
                all.iter().copied().sum::<Duration>() / (all.len() as u32).max(1)
            }
            Self::World(geography) => geography.mean(),
        }
    }
}

/// The links of a network and what its relays can take.
#[derive(Clone, Debug, PartialEq)]
pub struct Links {
    /// Time on the way.
    pub distance: Distance,
    /// Share of packets that each link between relays loses.
    pub loss: f64,
    /// Bytes a second that each relay sends; without, any number.
    pub bandwidth: Option<f64>,
    /// Packets a second that each relay unwraps; without, any number.
    pub capacity: Option<f64>,
    /// A packet that would wait for longer than this, for its relay's line or for its unwrapping, is dropped.
    pub patience: Duration,
}

impl Links {
    /// What of them closed forms do not know, by its key.
    pub(crate) fn beyond_forms(&self) -> Option<&'static str> {
        let found = [
            (self.loss > 0.0, "links.loss"),
            (self.bandwidth.is_some(), "links.bandwidth_mbit"),
            (self.capacity.is_some(), "links.capacity"),
        ];
        found.into_iter().find(|(is, _)| *is).map(|(_, key)| key)
    }
}

impl Default for Links {
    /// Ideal.
    fn default() -> Self {
        Self {
            distance: Distance::Equal(Duration::ZERO),
            loss: 0.0,
            bandwidth: None,
            capacity: None,
            patience: Duration::from_millis(50),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_take_turns_and_a_matrix_is_square() {
        let ms = Duration::from_millis;
        let distance = Distance::regions(vec![vec![ms(1), ms(40)], vec![ms(50), ms(2)]]).ok();
        let distance = distance.unwrap_or(Distance::Equal(Duration::MAX));
        assert_eq!(
            [(0, 1), (1, 0), (4, 6), (3, 1)]
                .map(|(a, b)| distance.between(Place::Client(a), Place::Relay(b))),
            [40, 50, 1, 2].map(ms)
        );
        assert_eq!(distance.mean(), Duration::from_micros(23_250));
        assert!(Distance::regions(vec![vec![ms(1)], vec![ms(1)]]).is_err());
        assert!(Distance::regions(Vec::new()).is_err());
    }
}
