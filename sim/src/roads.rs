//! Which ways packets go in networks that the product does not have: other numbers of layers, cascades, free
//! routes, and delays of other laws. They are there to be compared with.

use crate::world::uniform;
use mizzle_protocol::delay::mixing_delay;
use mizzle_protocol::geometry::LAYERS;
use mizzle_protocol::path::{Parameters, below};
use rand_core::Rng;
use std::time::Duration;

/// How mixes are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrangement {
    /// Layers; a packet passes one mix of each, drawn anew.
    #[default]
    Stratified,
    /// Rows; a packet passes all mixes of one of them.
    Cascade,
    /// A packet passes any mixes, no two alike.
    FreeRoute,
}

/// How long a mix holds a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Law {
    /// For the time that its sender drew from the exponential law.
    #[default]
    Exponential,
    /// The same from the uniform law between zero and twice the mean.
    Uniform,
    /// For the mean.
    Constant,
    /// Until so many are there; then all but some leave, drawn at random.
    Pool {
        /// How many are there when some leave.
        threshold: usize,
        /// How many stay.
        keep: usize,
    },
}

/// The mixes of a network, and how packets choose among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roads {
    /// How they are put together.
    pub arrangement: Arrangement,
    /// Mixes on a packet's way.
    pub layers: usize,
    /// Mixes in each layer, or rows.
    pub width: usize,
    /// How long each holds a packet.
    pub law: Law,
}

impl Roads {
    /// Three layers of so many mixes each, and exponential delays.
    pub fn of_the_product(width: usize) -> Self {
        Self { arrangement: Arrangement::Stratified, layers: LAYERS, width, law: Law::Exponential }
    }

    /// Draws a way: mixes and delays, in `hops`.
    pub(crate) fn draw(
        &self,
        parameters: &Parameters,
        rng: &mut impl Rng,
        hops: &mut Vec<(usize, Duration)>,
    ) {
        hops.clear();
        let row = below(self.width, rng).unwrap_or(0);
        for layer in 0..self.layers {
            let mix = match self.arrangement {
                Arrangement::Stratified => layer * self.width + below(self.width, rng).unwrap_or(0),
                Arrangement::Cascade => layer * self.width + row,
                Arrangement::FreeRoute => loop {
                    let mix = below(self.layers * self.width, rng).unwrap_or(0);
                    if !hops.iter().any(|(taken, _)| *taken == mix) {
                        break mix;
                    }
                },
            };
            hops.push((mix, self.law.draw(parameters, rng)));
        }
    }
}

impl Law {
    fn draw(self, parameters: &Parameters, rng: &mut impl Rng) -> Duration {
        let mean = parameters.mean_delay;
        match self {
            Self::Exponential => mixing_delay(mean, parameters.max_delay, rng),
            Self::Uniform => Duration::from_micros((uniform(rng) * 2.0 * mean.as_micros() as f64) as u64),
            Self::Constant => mean,
            Self::Pool { .. } => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn ways(arrangement: Arrangement, count: usize) -> Vec<Vec<usize>> {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let roads = Roads { arrangement, layers: 3, width: 4, law: Law::Exponential };
        let mut hops = Vec::new();
        (0..count)
            .map(|_| {
                roads.draw(&Parameters::default(), &mut rng, &mut hops);
                hops.iter().map(|(mix, _)| *mix).collect()
            })
            .collect()
    }

    #[test]
    fn each_arrangement_has_its_ways_and_all_of_them() {
        let stratified = ways(Arrangement::Stratified, 4_000);
        assert!(stratified.iter().all(|way| way.iter().enumerate().all(|(layer, mix)| mix / 4 == layer)));
        let mut different = stratified.clone();
        different.sort();
        different.dedup();
        assert_eq!(different.len(), 64);
        let cascade = ways(Arrangement::Cascade, 400);
        assert!(cascade.iter().all(|way| way.iter().all(|mix| mix % 4 == way[0] % 4)));
        let mut different = ways(Arrangement::FreeRoute, 40_000);
        assert!(different.iter().all(|way| way[0] != way[1] && way[1] != way[2] && way[0] != way[2]));
        different.sort();
        different.dedup();
        assert_eq!(different.len(), 12 * 11 * 10);
    }

    #[test]
    fn each_law_has_its_mean() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let parameters = Parameters { max_delay: Duration::from_secs(60), ..Parameters::default() };
        for law in [Law::Exponential, Law::Uniform, Law::Constant] {
            let draws = 100_000;
            let sum: Duration = (0..draws).map(|_| law.draw(&parameters, &mut rng)).sum();
            let mean = sum / draws;
            assert!(mean.abs_diff(parameters.mean_delay) < Duration::from_micros(300), "{law:?}: {mean:?}");
        }
    }
}
