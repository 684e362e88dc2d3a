//! Random delays. Poisson mixing and Poisson sending draw from one sampler, here.

use rand_core::Rng;
use std::time::Duration;

/// A time drawn from the exponential law with this mean.
///
/// Inverse transform over 53 random bits, with a logarithm that is the same on every platform.
pub fn exponential(mean: Duration, rng: &mut impl Rng) -> Duration {
    // u in (0, 1]: the logarithm is finite.
    let u = ((rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
    Duration::from_nanos((-libm::log(u) * mean.as_nanos() as f64) as u64)
}

/// A mixing delay: exponential, in whole microseconds, drawn again while above `max`.
///
/// With `max` at ten times the mean, one draw in 22 000 is repeated. A `max` that is not well above the
/// mean would make the law recognisable, so below twice the mean the draw is cut instead of repeated.
pub fn mixing_delay(mean: Duration, max: Duration, rng: &mut impl Rng) -> Duration {
    for _ in 0..64 {
        let delay = exponential(mean, rng);
        if delay <= max {
            return Duration::from_micros(delay.as_micros() as u64);
        }
    }
    max
}

/// The moments between events of a Poisson process of `rate` per second.
pub fn poisson_interval(rate: f64, rng: &mut impl Rng) -> Duration {
    exponential(Duration::from_secs_f64(1.0 / rate.max(1e-6)), rng)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    #[test]
    fn draws_follow_the_exponential_law() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mean = Duration::from_millis(20);
        let n = 100_000usize;
        let mut draws: Vec<f64> =
            (0..n).map(|_| exponential(mean, &mut rng).as_secs_f64() / mean.as_secs_f64()).collect();
        draws.sort_by(f64::total_cmp);
        // Kolmogorov-Smirnov distance to 1 - e^-x; 0.006 is far out in the tail for 100 000 draws.
        let distance = draws
            .iter()
            .enumerate()
            .map(|(i, x)| {
                let law = 1.0 - (-x).exp();
                (law - i as f64 / n as f64).abs().max((law - (i + 1) as f64 / n as f64).abs())
            })
            .fold(0.0, f64::max);
        assert!(distance < 0.006, "distance {distance}");
    }

    #[test]
    fn no_mixing_delay_exceeds_the_maximum() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let (mean, max) = (Duration::from_millis(20), Duration::from_millis(30));
        assert!((0..10_000).all(|_| mixing_delay(mean, max, &mut rng) <= max));
    }
}
