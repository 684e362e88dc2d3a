//! Who was there each time? Someone who sees who is in the network, and when a pseudonym is active, strikes out everyone
//! who was not there (Kedogan, Agrawal and Penz, 2002). Cover does not help against it, only staying does.
//!
//! This is no simulation of packets: days pass at once. Each client has a habit: the hour at which it usually comes, and how
//! long it usually stays; some days it does not come. The pseudonym's client is active a few times a day while it is there.

use crate::world::uniform;
use mizzle_protocol::delay::exponential;
use mizzle_protocol::path::below;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use std::time::Duration;

/// How clients come and go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Habit {
    /// Clients of the network.
    pub clients: usize,
    /// Hours of a day for which a client is there, in the mean; 24: always.
    pub hours: f64,
    /// By so many hours a client comes earlier or later than usual, in the mean.
    pub spread: f64,
    /// Share of the days on which a client comes.
    pub daily: f64,
    /// Times a day at which the pseudonym is seen.
    pub seen: u32,
}

/// What became of the suspects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspects {
    /// How many there were at the end of each day, the right one among them.
    pub left: Vec<usize>,
    /// After how many days only the right one was left; `None`: others were, to the end.
    pub alone: Option<u32>,
}

/// Lets days pass.
pub fn intersect(habit: &Habit, days: u32, seed: u64) -> Suspects {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let usual: Vec<f64> = (0..habit.clients).map(|_| uniform(&mut rng) * 24.0).collect();
    let mut suspects: Vec<usize> = (1..habit.clients).collect();
    let mut left = Vec::new();
    let mut alone = None;
    for day in 1..=days {
        let times = habit.seen_at(usual.first().copied().unwrap_or(0.0), &mut rng);
        if !times.is_empty() {
            suspects.retain(|client| {
                let usual = usual.get(*client).copied().unwrap_or(0.0);
                match habit.there(usual, &mut rng) {
                    Some((from, hours)) => times.iter().all(|time| (time - from).rem_euclid(24.0) < hours),
                    None => false,
                }
            });
        }
        left.push(suspects.len() + 1);
        if suspects.is_empty() {
            alone.get_or_insert(day);
        }
    }
    Suspects { left, alone }
}

impl Habit {
    /// From when, and for how many hours, a client with this usual hour is there on a day; `None`: it does not come.
    fn there(&self, usual: f64, rng: &mut impl Rng) -> Option<(f64, f64)> {
        if self.hours >= 24.0 {
            return Some((0.0, 24.0));
        }
        if uniform(rng) >= self.daily {
            return None;
        }
        let early = below(2, rng) == Some(0);
        let by = hours(self.spread, rng);
        let from = usual + if early { -by } else { by };
        Some((from.rem_euclid(24.0), hours(self.hours, rng).min(24.0)))
    }

    /// When the pseudonym is seen on a day: while its own client is there.
    fn seen_at(&self, usual: f64, rng: &mut impl Rng) -> Vec<f64> {
        let Some((from, hours)) = self.there(usual, rng) else { return Vec::new() };
        (0..self.seen).map(|_| (from + uniform(rng) * hours).rem_euclid(24.0)).collect()
    }
}

/// Hours of the exponential law.
fn hours(mean: f64, rng: &mut impl Rng) -> f64 {
    exponential(Duration::from_secs_f64(mean.max(0.0) * 3_600.0), rng).as_secs_f64() / 3_600.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    const HABIT: Habit = Habit { clients: 5_000, hours: 6.0, spread: 1.0, daily: 0.9, seen: 3 };

    #[test]
    fn who_comes_and_goes_is_alone_at_last_and_who_stays_is_not() {
        let suspects = intersect(&HABIT, 90, 1);
        assert!(suspects.left.is_sorted_by(|a, b| a >= b));
        let alone = suspects.alone.unwrap();
        assert!((3..60).contains(&alone), "{suspects:?}");
        assert_eq!(suspects.left.last(), Some(&1));
        let always = intersect(&Habit { hours: 24.0, ..HABIT }, 90, 1);
        assert_eq!((always.alone, always.left.last()), (None, Some(&5_000)));
    }

    #[test]
    fn strangers_habits_strike_out_what_chance_does() {
        // Hours that mean nothing, one look a day: each day leaves the share of those that are there.
        let habit = Habit { clients: 200_000, hours: 6.0, spread: 1_000.0, daily: 0.5, seen: 1 };
        let suspects = intersect(&habit, 3, 2);
        // An exponential stay of six hours, cut at a day: 24 · (1 - e^-4) / 4 hours.
        let there = 0.5 * 0.25 * (1.0 - libm::exp(-4.0));
        let days = suspects.left.windows(2).map(|pair| pair[1] as f64 / pair[0] as f64);
        for share in days.filter(|share| *share < 1.0) {
            assert!((share / there - 1.0).abs() < 0.1, "{share} {there}");
        }
        assert!(suspects.left.last() < suspects.left.first());
    }

    #[test]
    fn more_clients_hold_out_longer_but_not_much() {
        let days = |clients| {
            let mut days: Vec<_> =
                (0..9).filter_map(|seed| intersect(&Habit { clients, ..HABIT }, 400, seed).alone).collect();
            days.sort_unstable();
            days[days.len() / 2]
        };
        let (few, many) = (days(1_000), days(30_000));
        assert!(few <= many && many <= few * 5, "{few} {many}");
    }
}
