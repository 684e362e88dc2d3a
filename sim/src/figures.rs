//! Closed forms, and figures beside them.

use std::time::Duration;

/// The value below which `share` of the sorted `values` lie.
pub fn quantile<T: Copy + Default>(values: &[T], share: f64) -> T {
    let rank = (share * values.len() as f64) as usize;
    values.get(rank.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// The same; no number, if there is no value.
pub(crate) fn quantile_of_any(values: &[f64], share: f64) -> f64 {
    if values.is_empty() { f64::NAN } else { quantile(values, share) }
}

/// Their mean; no number, if there is no value.
pub(crate) fn mean_of_any(values: &[f64]) -> f64 {
    if values.is_empty() { f64::NAN } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// The median of `total` times, of which those that came are sorted in `times` and the others never did; `None` if fewer
/// than half came.
pub fn median_of_all(times: &[f64], total: usize) -> Option<f64> {
    times.get(total / 2).copied()
}

/// The same for the tenth of them that came first.
pub fn lowest_tenth_of_all(times: &[f64], total: usize) -> Option<f64> {
    times.get(total / 10).copied()
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

/// Entropy of a packet after `layers` Poisson mixes in a row, in bits: all layers hold packets for `1/μ` in the mean
/// and together take `Λ` a second; `load` is `Λ/μ`, the packets that one layer holds, and `per_mix` those that one of
/// its mixes does. `None` where the form does not hold: fewer than 20 packets a mix, two layers, or so many mixes that a
/// packet's traces do not reach all of them.
///
/// `log2(Λ/μ) + c`, where `c` is the entropy of Gamma(layers, 1) in bits: a packet's moment of leaving is that much
/// spread, among outputs that come at the rate Λ. With one layer only the outputs of one mix come into question.
pub fn stratified_entropy(layers: usize, load: f64, per_mix: f64) -> Option<f64> {
    let bits = unbounded_entropy(layers, load, per_mix);
    let holds = per_mix >= 20.0 && layers != 2 && (layers == 1 || slack(layers, bits, per_mix) >= 8.0);
    holds.then_some(bits)
}

/// The same, corrected where many mixes hold few packets each: by simulations, to 0.05 bit for three layers where a mix
/// holds ten packets at least.
///
/// A packet is one of e·ρ after the first mix, and at most one of (e·ρ)^L after the last, however many there are beside it.
/// What is missing falls with the distance `g` to that bound as 0.9 · 2^(-0.6 g).
pub fn bounded_entropy(layers: usize, load: f64, per_mix: f64) -> f64 {
    let bits = unbounded_entropy(layers, load, per_mix);
    match layers {
        0 | 1 => bits,
        _ => bits - 0.9 * libm::exp2(-0.6 * slack(layers, bits, per_mix)),
    }
}

fn unbounded_entropy(layers: usize, load: f64, per_mix: f64) -> f64 {
    libm::log2(if layers == 1 { per_mix } else { load }) + gamma_entropy(layers)
}

fn slack(layers: usize, bits: f64, per_mix: f64) -> f64 {
    layers as f64 * libm::log2(std::f64::consts::E * per_mix) - bits
}

/// Entropy of Gamma(`shape`, 1), in bits: k + ln Γ(k) + (1 - k) ψ(k) in natural units.
fn gamma_entropy(shape: usize) -> f64 {
    let harmonic: f64 = (1..shape).map(|i| 1.0 / i as f64).sum();
    let shape = shape as f64;
    let natural = shape + libm::lgamma(shape) + (1.0 - shape) * (harmonic - EULER);
    natural / std::f64::consts::LN_2
}

/// Entropy of which packet leaves one Poisson mix that holds `held` in the mean, in bits. `None` below two packets,
/// where the form does not hold.
pub fn mix_entropy(held: f64) -> Option<f64> {
    (held >= 2.0).then(|| libm::log2(std::f64::consts::E * held))
}

/// The chance that at least one of `packets` meets corrupt mixes only, when each of its `layers` is corrupt with the
/// chance `corrupt`.
pub fn wholly_corrupt(corrupt: f64, layers: u32, packets: f64) -> f64 {
    1.0 - libm::pow(1.0 - libm::pow(corrupt, f64::from(layers)), packets)
}

/// Half the width of the interval that holds the mean with 95 %, by Student's law; `None` for fewer than two values.
pub fn half_width(values: &[f64]) -> Option<f64> {
    let count = values.len();
    let degrees = count.checked_sub(2)?;
    let mean = values.iter().sum::<f64>() / count as f64;
    let variance =
        values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / (count - 1) as f64;
    let factor = STUDENT.get(degrees).copied().unwrap_or(1.96);
    Some(factor * libm::sqrt(variance / count as f64))
}

/// The constant of Euler and Mascheroni.
const EULER: f64 = 0.577_215_664_901_532_9;
/// 97.5 % quantiles of Student's law for 1, 2, … degrees of freedom; beyond, the normal law's is near enough.
const STUDENT: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// Milliseconds, with what is below them.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn quantiles_of_three_stages_are_those_of_the_tables() {
        for (share, expected) in [(0.5, 2.674), (0.95, 6.296), (0.99, 8.406)] {
            assert!((erlang_quantile(3, share) - expected).abs() < 0.0005);
        }
        assert!((erlang_quantile(1, 0.5) - std::f64::consts::LN_2).abs() < 1e-9);
    }

    #[test]
    fn times_that_never_came_are_later_than_all_others() {
        let times = [1.0, 2.0, 3.0, 4.0, 5.0];
        assert_eq!((median_of_all(&times, 9), median_of_all(&times, 10)), (Some(5.0), None));
        assert_eq!(
            (lowest_tenth_of_all(&times, 10), lowest_tenth_of_all(&times, 49)),
            (Some(2.0), Some(5.0))
        );
        assert_eq!((lowest_tenth_of_all(&times, 50), lowest_tenth_of_all(&[], 0)), (None, None));
    }

    #[test]
    fn the_distance_to_poisson_tells_laws_apart() {
        let law = |k: i32| libm::exp(f64::from(k) * libm::log(4.0) - 4.0 - libm::lgamma(f64::from(k) + 1.0));
        let shares: Vec<_> = (0..40).map(law).collect();
        assert!(distance_to_poisson(&shares, 4.0) < 1e-9);
        assert!(distance_to_poisson(&shares, 5.0) > 0.1);
        assert!((distance_to_poisson(&[], 4.0) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn constants_of_entropy_are_the_entropies_of_gamma_laws() {
        // By the trapezium rule over the density.
        for layers in [1u32, 2, 3, 5] {
            let expected = gamma_entropy(layers as usize);
            let step = 1e-3;
            let sum: f64 = (1..60_000)
                .map(|i| {
                    let x = f64::from(i) * step;
                    let log = f64::from(layers - 1) * libm::log(x) - x - libm::lgamma(f64::from(layers));
                    -libm::exp(log) * log / std::f64::consts::LN_2 * step
                })
                .sum();
            assert!((sum - expected).abs() < 2e-3, "{layers}: {sum}");
        }
        assert_eq!(stratified_entropy(3, 300.0, 19.0), None);
        assert!((stratified_entropy(3, 1_024.0, 300.0).unwrap() - 12.6655).abs() < 1e-4);
        assert_eq!(stratified_entropy(2, 1e3, 1e3), None);
        // A thousand mixes of twenty packets.
        assert_eq!(stratified_entropy(3, 20_000.0, 20.0), None);
        // As simulated: 300 clients at 80/s through 24, 48; 3 000 at 10/s, eight times as long, through 240.
        for (load, width, simulated) in
            [(480.0, 24.0, 11.509), (480.0, 48.0, 11.279), (4_800.0, 240.0, 14.557)]
        {
            let bits = bounded_entropy(3, load, load / width);
            assert!((bits - simulated).abs() < 0.05, "{bits} {simulated}");
        }
    }

    #[test]
    fn an_interval_is_as_wide_as_the_tables_say_and_needs_two_values() {
        assert_eq!(half_width(&[1.0]), None);
        // Five values of variance 2.5: 2.776 · √(2.5 / 5).
        assert!((half_width(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap() - 1.9629).abs() < 1e-3);
    }

    #[test]
    fn five_hundred_packets_meet_a_corrupt_path_as_often_as_theory_says() {
        assert!((wholly_corrupt(0.1, 3, 500.0) - 0.3936).abs() < 1e-3);
    }
}
