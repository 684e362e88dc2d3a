//! How far an attack got, beside chance: for one run, and over all of them.

use crate::figures::{median_of_all, quantile};
use serde::Serialize;

/// An attack in one run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// What it is, for a page.
    pub attack: &'static str,
    /// What it takes more and more of.
    pub along: &'static str,
    /// What it wants to have.
    pub up: &'static str,
    /// How much it took, and which share it then had.
    pub points: Vec<(f64, f64)>,
    /// The share that a guess would have without the attack.
    pub chance: f64,
    /// What it took to get there, if it did, and the name of the median of that over all runs.
    pub reached: Vec<(&'static str, Option<f64>)>,
}

/// The mean of the shares over some runs, as long as most of them went on.
pub fn mean_share(trials: &[&Trial]) -> Vec<(f64, f64)> {
    let mut lengths: Vec<_> = trials.iter().map(|trial| trial.points.len()).collect();
    lengths.sort_unstable();
    let length = quantile(&lengths, 0.5);
    let longest = trials.iter().max_by_key(|trial| trial.points.len());
    let places = longest.map(|trial| trial.points.iter().take(length)).into_iter().flatten();
    // A run that ended sooner keeps what it had.
    let share = |trial: &Trial, place: usize| {
        trial.points.get(place).or(trial.points.last()).map_or(trial.chance, |(_, share)| *share)
    };
    places
        .enumerate()
        .map(|(place, (along, _))| {
            let sum: f64 = trials.iter().map(|trial| share(trial, place)).sum();
            (*along, sum / trials.len() as f64)
        })
        .collect()
}

/// The mean of what a guess has; `None` without any run.
pub fn mean_guess(trials: &[&Trial]) -> Option<f64> {
    let sum: f64 = trials.iter().map(|trial| trial.chance).sum();
    (!trials.is_empty()).then(|| sum / trials.len() as f64)
}

/// What it took in the median run to get there, by its name; `None` if fewer than half of the runs did.
pub fn medians(trials: &[&Trial]) -> Vec<(&'static str, Option<f64>)> {
    let names = trials.first().map(|trial| trial.reached.iter()).into_iter().flatten();
    names
        .map(|(name, _)| {
            let all = trials.iter().flat_map(|trial| &trial.reached).filter(|(other, _)| other == name);
            let mut values: Vec<_> = all.filter_map(|(_, value)| *value).collect();
            values.sort_by(f64::total_cmp);
            (*name, median_of_all(&values, trials.len()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(shares: &[f64], reached: Option<f64>) -> Trial {
        let points = (1..).map(f64::from).zip(shares.iter().copied()).collect();
        Trial { attack: "a", along: "b", up: "c", points, chance: 0.1, reached: vec![("d", reached)] }
    }

    #[test]
    fn runs_that_never_get_there_count_as_the_slowest() {
        let all = [trial(&[], Some(3.0)), trial(&[], None), trial(&[], Some(9.0))];
        assert_eq!(medians(&all.iter().collect::<Vec<_>>()), [("d", Some(9.0))]);
        assert_eq!(medians(&[&all[0], &all[1]]), [("d", None)]);
        assert!(medians(&[]).is_empty());
    }

    #[test]
    fn a_run_that_ends_sooner_keeps_what_it_had() {
        let all = [trial(&[0.0, 0.5], None), trial(&[1.0], None), trial(&[0.5, 1.0, 0.0], None)];
        let points = mean_share(&all.iter().collect::<Vec<_>>());
        assert_eq!(points.iter().map(|(along, _)| *along).collect::<Vec<_>>(), [1.0, 2.0]);
        assert!((points[0].1 - 0.5).abs() < 1e-9 && (points[1].1 - 2.5 / 3.0).abs() < 1e-9, "{points:?}");
        assert!(mean_share(&[]).is_empty());
    }
}
