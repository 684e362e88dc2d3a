//! What lies between the members of a network: distance, width and loss.

use mizzle_protocol::{Error, ErrorKind, Result};
use std::time::Duration;

/// How long packets take between places.
#[derive(Clone, Debug, PartialEq)]
pub enum Distance {
    /// So long, wherever.
    Equal(Duration),
    /// One-way times between regions; places are in regions by turns, relays and clients alike.
    Regions(Vec<Vec<Duration>>),
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

    /// From the numbers of two places.
    pub(crate) fn between(&self, from: usize, to: usize) -> Duration {
        match self {
            Self::Equal(time) => *time,
            Self::Regions(matrix) => {
                let count = matrix.len().max(1);
                let row = matrix.get(from % count);
                row.and_then(|row| row.get(to % count)).copied().unwrap_or_default()
            }
        }
    }

    /// The mean over all pairs of regions.
    pub fn mean(&self) -> Duration {
        match self {
            Self::Equal(time) => *time,
            Self::Regions(matrix) => {
                let all: Vec<_> = matrix.iter().flatten().collect();
                all.iter().copied().sum::<Duration>() / (all.len() as u32).max(1)
            }
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
            [(0, 1), (1, 0), (4, 6), (3, 1)].map(|(a, b)| distance.between(a, b)),
            [40, 50, 1, 2].map(ms)
        );
        assert_eq!(distance.mean(), Duration::from_micros(23_250));
        assert!(Distance::regions(vec![vec![ms(1)], vec![ms(1)]]).is_err());
        assert!(Distance::regions(Vec::new()).is_err());
    }
}
