//! When a client looks for the next document: at moments drawn anew for each, so that clients neither come in a herd nor
//! can be told by when they come. (spec: DIR-20)

use mizzle_protocol::time::Instant;
use std::time::Duration;

/// After a document that is fresh until then, by a draw from 0 to 1.
pub(crate) fn next(fresh_until: Instant, epoch: Duration, draw: f64) -> Instant {
    fresh_until + between(epoch / 10, epoch / 2, draw)
}

/// While the next one, or a part of this one, is late: the pause until it is looked for again.
pub(crate) fn again(epoch: Duration, draw: f64) -> Duration {
    between(epoch / 20, epoch / 8, draw)
}

/// A time of at least `low` and less than `high`, by a draw from 0 to 1.
pub(crate) fn between(low: Duration, high: Duration, draw: f64) -> Duration {
    low + high.saturating_sub(low).mul_f64(draw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_link::seeded_rng;
    use rand_core::Rng;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_thousand_clients_come_evenly_spread_over_two_fifths_of_an_epoch_and_none_at_once() {
        let mut rng = seeded_rng().unwrap();
        let fresh_until = Instant::from_micros(1_800_000_000_000_000);
        let mut after: Vec<Duration> = (0..1_000)
            .map(|_| next(fresh_until, HOUR, f64::from(rng.next_u32()) / 2f64.powi(32)).since(fresh_until))
            .collect();
        after.sort_unstable();
        assert!(after[0] >= HOUR / 10 && after[999] < HOUR / 2);
        // In each tenth of that time a hundred in the mean; more than 160 or fewer than 50 never by chance.
        for tenth in 0..10 {
            let begin = HOUR / 10 + HOUR * 4 / 100 * tenth;
            let count =
                after.iter().filter(|time| **time >= begin && **time < begin + HOUR * 4 / 100).count();
            assert!((50..160).contains(&count), "{count} in part {tenth}");
        }
    }

    #[test]
    fn a_late_document_is_looked_for_some_ten_times_an_epoch_and_always_before_the_held_one_ends() {
        for draw in [0.0, 0.5, 0.999] {
            let pause = again(HOUR, draw);
            assert!(pause >= HOUR / 20 && pause < HOUR / 8, "{pause:?}");
        }
        let fresh_until = Instant::from_micros(1_800_000_000_000_000);
        // A document lives for two epochs more.
        let last = next(fresh_until, HOUR, 0.999) + again(HOUR, 0.999) * 12;
        assert!(last < fresh_until + HOUR * 2);
    }
}
