//! What came out of a run, beside what theory says.

use crate::cover::Scenario;
use crate::world::World;
use mizzle_protocol::geometry::LAYERS;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// A measured figure and what it should be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// What it is.
    pub name: String,
    /// What came out.
    pub measured: f64,
    /// What the closed form says.
    pub theory: f64,
}

impl Comparison {
    /// How far off, as a share of the theory.
    pub fn error(&self) -> f64 {
        (self.measured - self.theory) / self.theory
    }
}

/// The figures of one run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Seed of the run.
    pub seed: u64,
    /// Clients.
    pub clients: usize,
    /// Virtual seconds measured.
    pub seconds: f64,
    /// Packets that clients sent, from the start.
    pub sent: u64,
    /// Packets that arrived at an exit or at home.
    pub delivered: u64,
    /// Packets dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Packets still on their way at the end.
    pub in_flight: u64,
    /// Latency quantiles in units of the mean delay; occupancy; entropy.
    pub comparisons: Vec<Comparison>,
    /// Total variation distance between how many packets mixes held, over time, and Poisson(λ/μ).
    pub occupancy_distance: f64,
}

impl Report {
    pub(crate) fn new(world: &mut World, scenario: &Scenario, mut latencies: Vec<Duration>) -> Self {
        let parameters = &scenario.shape.parameters;
        let mean = parameters.mean_delay.as_secs_f64();
        latencies.sort_unstable();
        let mut comparisons: Vec<_> = [0.5, 0.95, 0.99]
            .iter()
            .map(|&share| Comparison {
                name: format!("latency, {:.0} %, in mean delays", share * 100.0),
                measured: quantile(&latencies, share).as_secs_f64() / mean,
                theory: erlang_quantile(LAYERS as u32, share),
            })
            .collect();
        // Each mix of a layer gets an equal share of everything that is sent.
        let rate = scenario.shape.clients as f64 * scenario.shape.pace.send_rate
            / scenario.shape.width.max(1) as f64;
        let load = rate * mean;
        let mixes = world.mix_figures();
        let time = world.measured().as_secs_f64();
        let longest = mixes.iter().map(|mix| mix.occupancy.len()).max().unwrap_or(0);
        let shares: Vec<f64> = (0..longest)
            .map(|held| {
                let spent = mixes.iter().filter_map(|mix| mix.occupancy.get(held));
                spent.map(Duration::as_secs_f64).sum::<f64>() / (time * mixes.len() as f64)
            })
            .collect();
        comparisons.push(Comparison {
            name: "packets held in a mix, mean".to_owned(),
            measured: shares.iter().enumerate().map(|(held, share)| held as f64 * share).sum(),
            theory: load,
        });
        let departures: u64 = mixes.iter().map(|mix| mix.departures).sum();
        comparisons.push(Comparison {
            name: "entropy of one mix, bits".to_owned(),
            measured: mixes.iter().map(|mix| mix.entropy).sum::<f64>() / departures.max(1) as f64,
            theory: libm::log2(std::f64::consts::E * load),
        });
        Self {
            seed: scenario.seed,
            clients: scenario.shape.clients,
            seconds: scenario.time.as_secs_f64(),
            sent: world.sent(),
            delivered: world.delivered(),
            dropped: world.dropped().iter().map(|(reason, &count)| (reason.label(), count)).collect(),
            in_flight: world.in_flight(),
            comparisons,
            occupancy_distance: distance_to_poisson(&shares, load),
        }
    }

    /// The comparison with this name.
    pub fn comparison(&self, name: &str) -> Option<&Comparison> {
        self.comparisons.iter().find(|comparison| comparison.name.starts_with(name))
    }

    /// True if every packet is accounted for.
    pub fn balances(&self) -> bool {
        self.sent == self.delivered + self.dropped.values().sum::<u64>() + self.in_flight
    }

    /// The report as a table.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{} clients, {} s, seed {}\n\nsent {} = delivered {} + dropped {} + in flight {}\n",
            self.clients,
            self.seconds,
            self.seed,
            self.sent,
            self.delivered,
            self.dropped.values().sum::<u64>(),
            self.in_flight,
        );
        for (reason, count) in &self.dropped {
            text += &format!("  dropped, {reason}: {count}\n");
        }
        text += &format!("\n{:<36} {:>10} {:>10} {:>8}\n", "", "measured", "theory", "off by");
        for comparison in &self.comparisons {
            text += &format!(
                "{:<36} {:>10.4} {:>10.4} {:>7.2}%\n",
                comparison.name,
                comparison.measured,
                comparison.theory,
                comparison.error() * 100.0
            );
        }
        text + &format!(
            "{:<36} {:>10.4} {:>10}\n",
            "packets held, distance to Poisson", self.occupancy_distance, "0"
        )
    }
}

/// The value below which `share` of the sorted `values` lie.
pub fn quantile(values: &[Duration], share: f64) -> Duration {
    let rank = (share * values.len() as f64) as usize;
    values.get(rank.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// Quantile of the sum of `stages` exponential times of mean 1 (Erlang's law).
pub fn erlang_quantile(stages: u32, share: f64) -> f64 {
    let law = |x: f64| {
        let terms = (1..stages).scan(1.0, |term, k| {
            *term *= x / f64::from(k);
            Some(*term)
        });
        1.0 - libm::exp(-x) * (1.0 + terms.sum::<f64>())
    };
    let (mut low, mut high) = (0.0, 100.0 * f64::from(stages));
    // Each step halves the interval: sixty reach the precision of the number.
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if law(middle) < share { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// Half the sum of the differences between `shares` (of 0, 1, 2, …) and the Poisson law of this mean.
pub fn distance_to_poisson(shares: &[f64], mean: f64) -> f64 {
    let mut rest = 1.0;
    let mut sum = 0.0;
    for (count, share) in (0..).zip(shares) {
        let law = libm::exp(f64::from(count) * libm::log(mean) - mean - libm::lgamma(f64::from(count) + 1.0));
        rest -= law;
        sum += (share - law).abs();
    }
    (sum + rest.max(0.0)) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_three_stages_are_those_of_the_tables() {
        for (share, expected) in [(0.5, 2.674), (0.95, 6.296), (0.99, 8.406)] {
            assert!((erlang_quantile(3, share) - expected).abs() < 0.0005);
        }
        assert!((erlang_quantile(1, 0.5) - std::f64::consts::LN_2).abs() < 1e-9);
    }

    #[test]
    fn the_distance_to_poisson_tells_laws_apart() {
        let law = |k: i32| libm::exp(f64::from(k) * libm::log(4.0) - 4.0 - libm::lgamma(f64::from(k) + 1.0));
        let shares: Vec<_> = (0..40).map(law).collect();
        assert!(distance_to_poisson(&shares, 4.0) < 1e-9);
        assert!(distance_to_poisson(&shares, 5.0) > 0.1);
        assert!((distance_to_poisson(&[], 4.0) - 0.5).abs() < 1e-9);
    }
}
