//! Which sites does Alice visit? Someone sees when her line carries a load, or when she is there at all, and at the exits
//! which site is visited when. Sites that are visited oftener at such times than at others are hers: statistical
//! disclosure (Danezis, 2003), with the background learned from the times without her (Mathewson and Dingledine, 2004).
//!
//! A *round* is a stretch of time in which a sign of her was seen. The estimate of how much of a site's visits is hers is the
//! rate of its visits in all rounds so far, less that in the time outside of them. The adversary names as many sites as
//! she has, those with the highest estimates; sites that are alike share what is left. No packet is followed: cover
//! does not help against it, only lines that show nothing do, and being there all the time.

use super::trial::Trial;
use crate::figures::{median_of_all, quantile};
use mizzle_protocol::time::Instant;
use std::time::Duration;

/// A visit, as the exits see it: when, and to which site.
pub type Visit = (Instant, u32);

/// A stretch of time, from its beginning to its end.
pub type Stretch = (Instant, Instant);

/// By what the adversary knows that Alice is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Her line rises above its lowest step: about then a site is visited, before it or after it, as the level is.
    Load,
    /// She is there.
    Presence,
}

/// All of them.
pub const SIGNS: [Sign; 2] = [Sign::Load, Sign::Presence];

/// How far the adversary got with one of the clients.
#[derive(Clone, Debug, PartialEq)]
pub struct Disclosed {
    /// After how many rounds, and which share of her sites was then among those that were named.
    pub shares: Vec<(f64, f64)>,
    /// After how many rounds half of them were, to the end; `None`: they were not.
    pub half: Option<f64>,
    /// The share among the sites that are visited most, whoever does: what a guess without any sign has.
    pub unsigned: f64,
    /// The share that chance has.
    pub chance: f64,
}

impl Sign {
    /// The rounds of one client, not longer than `length` each, in the order of time: by its line, and by when it was
    /// there.
    pub fn rounds(
        self,
        steps: &[(Instant, u8)],
        stays: &[Stretch],
        length: Duration,
        span: Stretch,
    ) -> Vec<Stretch> {
        let (from, end) = span;
        match self {
            Self::Load => {
                let pairs = steps.iter().zip(steps.iter().skip(1));
                // From its lowest step only: who is up already shows nothing of what follows.
                let rises = pairs.filter(|((_, before), (_, after))| *before == 0 && after > before);
                let rises = rises.map(|(_, (rise, _))| *rise).filter(|rise| *rise > from && *rise <= end);
                let around = |rise: Instant| ((rise - length / 2).max(from), (rise + length / 2).min(end));
                rises.map(around).collect()
            }
            Self::Presence => {
                let stays = stays.iter().map(|(begin, over)| ((*begin).max(from), (*over).min(end)));
                stays.filter(|(begin, over)| begin < over).flat_map(|stay| pieces(stay, length)).collect()
            }
        }
    }
}

/// A stretch in pieces of this length, the last one shorter.
fn pieces((begin, over): Stretch, length: Duration) -> impl Iterator<Item = Stretch> {
    let begins = std::iter::successors(Some(begin), move |at| Some(*at + length.max(SHORTEST)));
    begins.take_while(move |at| *at < over).map(move |at| (at, (at + length.max(SHORTEST)).min(over)))
}

/// Names sites after each of the rounds, or after a hundred of them if there are more. The visits are in the order of
/// time, and to `sites` sites; `own` are Alice's.
pub fn disclose(rounds: &[Stretch], visits: &[Visit], sites: usize, own: &[u32], from: Instant) -> Disclosed {
    let chance = own.len() as f64 / sites.max(1) as f64;
    let mut total = vec![0.0; sites];
    add(&mut total, visits, from, Instant::from_nanos(u64::MAX));
    let unsigned = share_named(&total, own);
    let mut disclosed = Disclosed { shares: Vec::new(), half: None, unsigned, chance };
    let (mut inside, mut all) = (vec![0.0; sites], vec![0.0; sites]);
    let (mut active, mut counted, mut covered) = (Duration::ZERO, from, from);
    let every = rounds.len().div_ceil(LOOKS).max(1);
    for (number, &(begin, over)) in (1..).zip(rounds) {
        // Rounds that overlap count once.
        let begin = begin.max(covered);
        add(&mut inside, visits, begin, over);
        add(&mut all, visits, counted, over);
        active += over.since(begin);
        (counted, covered) = (over.max(counted), over.max(covered));
        if number % every != 0 && number != rounds.len() {
            continue;
        }
        let outside = covered.since(from).saturating_sub(active);
        let estimates: Vec<f64> = inside
            .iter()
            .zip(&all)
            .map(|(inside, all)| rate(*inside, active) - rate(all - inside, outside))
            .collect();
        let share = share_named(&estimates, own);
        disclosed.shares.push((number as f64, share));
        if share >= 0.5 {
            disclosed.half.get_or_insert(number as f64);
        } else {
            disclosed.half = None;
        }
    }
    disclosed
}

/// Counts the visits after `from` and until `to`.
fn add(counts: &mut [f64], visits: &[Visit], from: Instant, to: Instant) {
    let start = visits.partition_point(|(at, _)| *at <= from);
    for (_, site) in visits.iter().skip(start).take_while(|(at, _)| *at <= to) {
        if let Some(count) = counts.get_mut(*site as usize) {
            *count += 1.0;
        }
    }
}

/// Visits a second; none, where there was no time.
fn rate(visits: f64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { visits / time.as_secs_f64() }
}

/// Which share of her sites is expected among as many with the highest estimates.
fn share_named(estimates: &[f64], own: &[u32]) -> f64 {
    let mut sorted = estimates.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let named = |site: &u32| {
        let Some(&own_estimate) = estimates.get(*site as usize) else { return 0.0 };
        let above = sorted.partition_point(|estimate| *estimate > own_estimate + ALIKE);
        let equal = sorted.partition_point(|estimate| *estimate >= own_estimate - ALIKE) - above;
        ((own.len() as f64 - above as f64) / equal.max(1) as f64).clamp(0.0, 1.0)
    };
    own.iter().map(named).sum::<f64>() / own.len().max(1) as f64
}

/// What became of all clients of a run that one looked for: a share of sites at the end, and the rounds that half of them
/// took in the median, as a trial.
pub fn trial(sign: Sign, all: &[Disclosed]) -> Trial {
    let count = all.len().max(1) as f64;
    let mean = |of: fn(&Disclosed) -> f64| all.iter().map(of).sum::<f64>() / count;
    let mut rounds: Vec<_> =
        all.iter().filter_map(|one| one.shares.last()).map(|(rounds, _)| *rounds).collect();
    rounds.sort_by(f64::total_cmp);
    let longest = quantile(&rounds, 0.5);
    // Who had no such round yet is looked for without; who has no more keeps what was found.
    let share_at = |one: &Disclosed, at: f64| {
        let before = one.shares.iter().take_while(|(rounds, _)| *rounds <= at).last();
        before.map_or(one.unsigned, |(_, share)| *share)
    };
    let steps = LOOKS.min(longest as usize);
    let points = (0..=steps).map(|step| {
        let at = libm::floor(longest * step as f64 / steps.max(1) as f64);
        (at, all.iter().map(|one| share_at(one, at)).sum::<f64>() / count)
    });
    let mut halves: Vec<_> = all.iter().filter_map(|one| one.half).collect();
    halves.sort_by(f64::total_cmp);
    let (attack, median) = match sign {
        Sign::Load => {
            ("Sites of a client, found by when its line shows a load", "sites by load: rounds to half, p50")
        }
        Sign::Presence => {
            ("Sites of a client, found by when it is there", "sites by presence: rounds to half, p50")
        }
    };
    Trial {
        attack,
        along: "rounds",
        up: "share of its sites",
        points: points.collect(),
        chance: mean(|one| one.unsigned),
        reached: vec![(median, median_of_all(&halves, all.len()))],
    }
}

/// So often the adversary looks, at most.
const LOOKS: usize = 100;
/// Estimates that differ by less, in visits a second, are alike.
const ALIKE: f64 = 1e-12;
/// Shorter pieces of time are not looked at.
const SHORTEST: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::uniform;
    use mizzle_protocol::delay::poisson_interval;
    use mizzle_protocol::path::below;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    const START: Instant = Instant::from_nanos(1_000_000_000_000);
    const SITES: usize = 200;
    const OWN: [u32; 5] = [3, 50, 77, 120, 199];
    const LENGTH: Duration = Duration::from_secs(5);

    fn after(seconds: u64) -> Instant {
        START + Duration::from_secs(seconds)
    }

    /// Visits of others, 0.4 a second: so many of them to forty sites that many like, the rest to any.
    fn others(hours: u64, popular: f64, rng: &mut ChaCha20Rng) -> Vec<Visit> {
        let (mut visits, mut at) = (Vec::new(), START);
        while at < after(hours * 3_600) {
            at += poisson_interval(0.4, rng);
            let site = match uniform(rng) < popular {
                true => below(40, rng).unwrap_or(0) * 5 + 1,
                false => below(SITES, rng).unwrap_or(0),
            };
            visits.push((at, site as u32));
        }
        visits
    }

    /// The first ten minutes of every hour Alice is there, and visits a site of hers twice a minute.
    fn with_alice(hours: u64, visits: &mut Vec<Visit>, rng: &mut ChaCha20Rng) -> Vec<Stretch> {
        let stays: Vec<_> = (0..hours).map(|hour| (after(hour * 3_600), after(hour * 3_600 + 600))).collect();
        for (from, to) in &stays {
            let mut at = *from + poisson_interval(1.0 / 30.0, rng);
            while at < *to {
                visits.push((at, OWN[below(OWN.len(), rng).unwrap_or(0)]));
                at += poisson_interval(1.0 / 30.0, rng);
            }
        }
        visits.sort_unstable();
        stays
    }

    #[test]
    fn sites_are_found_by_when_a_client_is_there_and_not_if_it_always_is() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let (mut sometimes, mut always) = (0.0, 0.0);
        for _ in 0..10 {
            let mut visits = others(12, 0.5, &mut rng);
            let stays = with_alice(12, &mut visits, &mut rng);
            let span = (START, after(12 * 3_600));
            let share = |stays: &[Stretch]| {
                let rounds = Sign::Presence.rounds(&[], stays, LENGTH, span);
                let disclosed = disclose(&rounds, &visits, SITES, &OWN, START);
                disclosed.shares.last().map_or(0.0, |(_, share)| share / 10.0)
            };
            sometimes += share(&stays);
            // The same visits, and a line that is always there: what is left is what many like.
            always += share(&[span]);
        }
        assert!(sometimes > 0.9, "{sometimes}");
        assert!(always < 0.1, "{always}");
    }

    #[test]
    fn visits_about_a_rise_from_rest_are_hers() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let mut visits = others(1, 0.5, &mut rng);
        let mut steps = vec![(Instant::ZERO, 0)];
        for round in 0..40 {
            let rise = after(20 + round * 80);
            visits.push((rise - Duration::from_secs(1), OWN[round as usize % OWN.len()]));
            // What follows while it is up is not looked at.
            steps.extend([(rise, 1), (rise + LENGTH, 2), (rise + LENGTH * 2, 0)]);
        }
        visits.sort_unstable();
        let rounds = Sign::Load.rounds(&steps, &[], LENGTH, (START, after(3_600)));
        assert_eq!(rounds.len(), 40);
        let disclosed = disclose(&rounds, &visits, SITES, &OWN, START);
        assert!(disclosed.shares.last().is_some_and(|(_, share)| *share > 0.9), "{disclosed:?}");
        assert!(disclosed.half.is_some_and(|half| (3.0..30.0).contains(&half)), "{disclosed:?}");
        assert!((disclosed.chance - 0.025).abs() < 1e-12);
    }

    #[test]
    fn rounds_that_say_nothing_leave_chance() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let mut sum = 0.0;
        for _ in 0..60 {
            let visits = others(1, 0.0, &mut rng);
            let begins = (0..50).map(|round| after(100 + round * 60 + (uniform(&mut rng) * 50.0) as u64));
            let rounds: Vec<_> = begins.map(|at| (at, at + LENGTH)).collect();
            sum +=
                disclose(&rounds, &visits, SITES, &OWN, START).shares.last().map_or(1.0, |(_, share)| *share);
        }
        // 60 · 5 sites named, each with 1/40: four standard deviations are 0.036.
        assert!(sum > 0.0 && (sum / 60.0 - 0.025).abs() < 0.036, "{}", sum / 60.0);
        // And no round, or no visit, none at all.
        assert!(disclose(&[], &[], SITES, &OWN, START).shares.is_empty());
        let share = disclose(&[(START, after(5))], &[], SITES, &OWN, START).shares;
        assert!((share[0].1 - 0.025).abs() < 1e-12, "{share:?}");
    }

    #[test]
    fn a_trial_is_the_mean_of_all_clients_and_who_shows_nothing_is_left_to_chance() {
        let one = |shares: &[(f64, f64)], half| Disclosed {
            shares: shares.to_vec(),
            half,
            unsigned: 0.1,
            chance: 0.01,
        };
        let all =
            [one(&[(1.0, 0.2), (2.0, 0.8)], Some(2.0)), one(&[], None), one(&[(1.0, 0.4), (2.0, 0.4)], None)];
        let trial = trial(Sign::Load, &all);
        let expected = [(0.0, 0.1), (1.0, 0.7 / 3.0), (2.0, 1.3 / 3.0)];
        for (point, expected) in trial.points.iter().zip(expected) {
            assert!((point.0 - expected.0).abs() < 1e-9 && (point.1 - expected.1).abs() < 1e-9, "{trial:?}");
        }
        assert_eq!((trial.points.len(), trial.reached[0].1), (3, None));
    }
}
