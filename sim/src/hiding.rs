//! Which rates hide the client of a flow for so long from whom: the tuner's answer where no closed form gives one.
//!
//! Candidates are paces that the wished traffic pays for and that are fast enough, the fastest download first: the product's ratios of home to out, and
//! that of `strong`, in which replies take the place of loops; each at the full rate and at fractions of it. Each is simulated
//! as [`crate::levels`] does, and the first that hides is verified with other seeds. If none does, some runs with more traffic, and
//! with longer delays, look for what binds.
//!
//! The client is looked for among a hundred at most, so that with more users it takes the watcher somewhat longer than it says
//! here. The mixes are three in each layer, whatever the answer says: these watchers look at the ends, where width does not show. Corrupt mixes do not help the watcher here: they count for the entropy only.

use crate::adversary::matching::{WATCHERS, Watcher};
use crate::figures::median_of_all;
use crate::report::Report;
use crate::run::{run, run_all};
use crate::scenario::{Scenario, ScenarioError};
use crate::tune::{Answer, HOMEWARD, Impossible, Rates, Speed, Wish, affordable, answer, too_slow, tune};
use mizzle_protocol::level::Level;
use std::error::Error;
use std::fmt::Write as _;

/// What is to stay hidden, how long, and from whom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Secret {
    /// Who looks for the client of a flow.
    pub watcher: Watcher,
    /// Bytes that the flow brings home.
    pub flow: u64,
    /// Seconds after its beginning before which half of the flows, or more, must not be identified.
    pub seconds: f64,
}

/// How thoroughly to look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Clients among which one is looked for, at most.
    pub among: usize,
    /// Flows in each run, about.
    pub flows: f64,
    /// Runs of each candidate.
    pub seeds: u64,
}

/// Rates that hide it.
#[derive(Clone, Debug, PartialEq)]
pub struct Hidden {
    /// The network, with the rates that were found.
    pub answer: Answer,
    /// Whose way to fill slots the rates have.
    pub level: Level,
    /// What the watcher made of it when rates were looked for.
    pub found: Seen,
    /// And when they were verified, with other seeds.
    pub verified: Seen,
    /// The keys of the scenario, but for its seeds.
    pub words: Vec<String>,
}

/// What a watcher made of some flows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// Flows that were watched for long enough to be judged.
    pub flows: f64,
    /// Flows that were identified before the wished time.
    pub early: f64,
    /// Share of all flows that were identified at any time.
    pub identified: f64,
    /// Seconds until it knew, in the median of all flows; `None`: it never knew of half of them.
    pub median: Option<f64>,
    /// Seconds that a flow took, in the median.
    pub whole: f64,
}

/// A pace that the traffic pays for.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    level: Level,
    rates: Rates,
}

impl Default for Effort {
    fn default() -> Self {
        Self { among: 100, flows: 30.0, seeds: 2 }
    }
}

/// The fastest rates that keep the secret, within the wish. [`Impossible`] if there are none, with what binds. `tried` hears of
/// each candidate, and what was seen of it.
pub fn hide(
    wish: &Wish,
    secret: &Secret,
    effort: Effort,
    tried: impl Fn(&str),
) -> Result<Hidden, Box<dyn Error>> {
    check(secret)?;
    let cells = affordable(wish)?;
    let mut best: Option<(f64, Candidate, [Seen; WATCHERS.len()])> = None;
    let candidates = candidates(cells, wish.speed);
    if candidates.is_empty() {
        return Err(too_slow(wish, cells).into());
    }
    tune(&Wish { speed: Speed::default(), ..wish.clone() })?;
    for candidate in candidates {
        // A slower pace may be too little for the mixes, or for the wished entropy.
        let Ok(answer) = answer(wish, candidate.rates) else { continue };
        let words = candidate.words(wish, secret, effort);
        let all = watch(&words, secret, effort, FIRST_SEED)?;
        let found = of(secret.watcher, &all);
        tried(&format!("{}: {}", candidate.name(), found.in_words(secret)));
        if found.share() <= MARGIN {
            let verified = of(secret.watcher, &watch(&words, secret, effort, OTHER_SEED)?);
            tried(&format!("{}, with other seeds: {}", candidate.name(), verified.in_words(secret)));
            if verified.share() <= 0.5 && found.with(verified) <= MARGIN {
                return Ok(Hidden { answer, level: candidate.level, found, verified, words });
            }
        }
        if best.as_ref().is_none_or(|(share, ..)| found.share() < *share) {
            best = Some((found.share(), candidate, all));
        }
    }
    Err(match best {
        Some((_, candidate, all)) => binding(wish, secret, effort, candidate, &all)?.into(),
        None => Impossible::new("traffic: too little for any pace".to_owned()).into(),
    })
}

impl Hidden {
    /// What another run of the same network comes to, with seeds from this one on.
    pub fn again(&self, secret: &Secret, effort: Effort, seed: u64) -> Result<Seen, Box<dyn Error>> {
        Ok(of(secret.watcher, &watch(&self.words, secret, effort, seed)?))
    }
}

impl Seen {
    /// Of the flows that were watched for long enough, those that were identified too early. Those that began when the run was
    /// nearly over are not among the former, but may be among the latter: it is rather too much.
    pub fn share(&self) -> f64 {
        // Who has watched next to nothing knows nothing: that is no secret kept.
        if self.flows < FEWEST { 1.0 } else { self.early / self.flows }
    }

    /// The share in this and the other together.
    fn with(&self, other: Self) -> f64 {
        (self.early + other.early) / (self.flows + other.flows).max(1.0)
    }

    /// For people.
    pub fn in_words(&self, secret: &Secret) -> String {
        let median = self.median.map_or("never".to_owned(), |seconds| format!("after {seconds:.2} s"));
        format!(
            "{:.0} % of the flows identified before {} s, {:.0} % at all, half of them {median}; a flow takes {:.1} s",
            self.share().min(1.0) * 100.0,
            secret.seconds,
            self.identified * 100.0,
            self.whole
        )
    }
}

fn check(secret: &Secret) -> Result<(), Impossible> {
    if !(1..=MOST_FLOW).contains(&secret.flow) {
        return Err(Impossible::new(format!("flow: must be from 1 to {MOST_FLOW} bytes")));
    }
    if !(secret.seconds > 0.0 && secret.seconds <= MOST_SECONDS) {
        return Err(Impossible::new(format!("seconds: must be above 0, and {MOST_SECONDS} at most")));
    }
    Ok(())
}

/// Paces for so many cells a second on a client's line that are as fast as that, the fastest download first.
fn candidates(cells: f64, speed: Speed) -> Vec<Candidate> {
    let mut all = Vec::new();
    for part in [1.0, 0.5, 0.25] {
        all.extend(HOMEWARD.map(|homeward| Candidate {
            level: Level::Balanced,
            rates: Rates::usual(cells * part, homeward),
        }));
        all.push(Candidate { level: Level::Strong, rates: Rates::strong(cells * part) });
    }
    all.retain(|one| one.rates.speed(one.level).reaches(speed));
    all.sort_by(|one, other| other.download().total_cmp(&one.download()));
    all
}

impl Candidate {
    /// Bytes a second that a download gets.
    fn download(&self) -> f64 {
        self.rates.speed(self.level).download * 1e3
    }

    fn name(&self) -> String {
        let Rates { send, receive, .. } = self.rates;
        format!("{send:.1}/s out, {receive:.1}/s home, as in {}", self.level.name())
    }

    /// A network in which some clients now and then load as much.
    fn words(&self, wish: &Wish, secret: &Secret, effort: Effort) -> Vec<String> {
        let Rates { send, receive, loop_share } = self.rates;
        let among = wish.users.min(effort.among);
        let mean_delay = wish.mean_delay() * 1e3;
        let seconds = self.seconds(secret, effort);
        let per_hour = effort.flows * 3_600.0 / seconds / among as f64;
        vec![
            format!("clients.count={among}"),
            format!("clients.level={}", self.level.name()),
            "clients.step=0".to_owned(),
            format!("clients.send_rate={send}"),
            format!("clients.receive_rate={receive}"),
            format!("clients.loop_share={loop_share}"),
            format!("clients.drop_share={loop_share}"),
            format!("network.mean_delay_ms={mean_delay}"),
            format!("network.max_delay_ms={}", mean_delay * 10.0),
            "workload.kind=bulk".to_owned(),
            format!("workload.speakers={among}"),
            format!("workload.down={}", secret.flow),
            format!("workload.per_hour={per_hour}"),
            "adversary.match_flows=true".to_owned(),
            format!("seconds={seconds}"),
        ]
    }

    /// So long that few flows are cut off by the end.
    fn seconds(&self, secret: &Secret, effort: Effort) -> f64 {
        let whole = secret.flow as f64 / self.download() + 2.0;
        (whole.max(secret.seconds) * effort.flows / 3.0).clamp(40.0, MOST_RUN)
    }
}

/// Simulates, and says what each of the watchers made of it.
fn watch(
    words: &[String],
    secret: &Secret,
    effort: Effort,
    seed: u64,
) -> Result<[Seen; WATCHERS.len()], Box<dyn Error>> {
    let own = [format!("seed={seed}"), format!("seeds={}", effort.seeds)];
    let scenario = Scenario::load(None, &[words, &own].concat())?;
    Ok(seen(&run(&scenario, |_| ())?, secret))
}

/// What each of the watchers made of the flows of a report.
pub fn seen(report: &Report, secret: &Secret) -> [Seen; WATCHERS.len()] {
    let watched: usize = report.outcomes.iter().map(|outcome| outcome.watched).sum();
    let long_enough = 1.0 - (secret.seconds / report.scenario.seconds).min(0.9);
    let whole = report.figure("whole answer p50, ms").map_or(f64::NAN, |figure| figure.mean / 1e3);
    std::array::from_fn(|watcher| {
        let of_run = report.outcomes.iter().filter_map(|outcome| outcome.identified.get(watcher));
        let mut times: Vec<f64> = of_run.flatten().copied().collect();
        times.sort_by(f64::total_cmp);
        Seen {
            flows: watched as f64 * long_enough,
            early: times.iter().filter(|time| **time < secret.seconds).count() as f64,
            identified: times.len() as f64 / watched.max(1) as f64,
            median: median_of_all(&times, watched),
            whole,
        }
    })
}

fn of(watcher: Watcher, all: &[Seen; WATCHERS.len()]) -> Seen {
    WATCHERS.into_iter().zip(all).find(|(one, _)| *one == watcher).map(|(_, seen)| *seen).unwrap_or_default()
}

/// What stands in the way: looked for with four times the traffic, and then with four times the latency. `best` hid it best, and
/// `all` is what was seen of it.
fn binding(
    wish: &Wish,
    secret: &Secret,
    effort: Effort,
    best: Candidate,
    all: &[Seen; WATCHERS.len()],
) -> Result<Impossible, Box<dyn Error>> {
    let found = of(secret.watcher, all);
    let mut text = format!(
        "{} bytes cannot be hidden from {} for {} s. The best is {}: {}.",
        secret.flow,
        secret.watcher.name(),
        secret.seconds,
        best.name(),
        found.in_words(secret)
    );
    let more = Wish { gigabytes_a_day: wish.gigabytes_a_day * MORE, ..wish.clone() };
    let later = Wish { latency_ms: wish.latency_ms * MORE, ..wish.clone() };
    for (what, wish, unit, would_do) in
        [("traffic", &more, "GB a day", more.gigabytes_a_day), ("latency", &later, "ms", later.latency_ms)]
    {
        let Ok(cells) = affordable(wish) else { continue };
        // Of each kind its fastest.
        let mut kinds = candidates(cells, wish.speed);
        kinds.retain(|one| one.rates.line() > cells * 0.9);
        let scenarios = kinds
            .iter()
            .map(|one| {
                let seeds = [format!("seed={FIRST_SEED}"), format!("seeds={}", effort.seeds)];
                Scenario::load(None, &[one.words(wish, secret, effort), seeds.to_vec()].concat())
            })
            .collect::<Result<Vec<_>, ScenarioError>>()?;
        let reports = run_all(&scenarios, |_| ())?;
        if reports.iter().any(|report| of(secret.watcher, &seen(report, secret)).share() <= MARGIN) {
            // Writing to a String cannot fail.
            let _ = write!(text, " What binds is the {what}: {would_do:.0} {unit} would do.");
            return Ok(Impossible::new(text));
        }
    }
    text +=
        " What binds is the adversary: neither four times the traffic nor four times the latency would do.";
    let weaker = WATCHERS.into_iter().zip(all).rev().filter(|(one, _)| *one < secret.watcher);
    for (one, seen) in weaker {
        if seen.share() <= MARGIN {
            let _ = write!(text, " From {} it would be hidden.", one.name());
            break;
        }
    }
    Ok(Impossible::new(text))
}

/// Of what is found, not more than this share may be identified too early: half is the wish, and some dozens of flows do not
/// tell exactly.
const MARGIN: f64 = 0.4;
/// Flows that must have been watched.
const FEWEST: f64 = 5.0;
/// So much more of the traffic, or of the latency, is tried when there is no answer.
const MORE: f64 = 4.0;
const FIRST_SEED: u64 = 1;
const OTHER_SEED: u64 = 1_001;
const MOST_FLOW: u64 = 1 << 26;
const MOST_SECONDS: f64 = 120.0;
const MOST_RUN: f64 = 1_200.0;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    /// Seconds of a computer's time instead of minutes.
    const REDUCED: Effort = Effort { among: 25, flows: 16.0, seeds: 1 };

    fn wish(gigabytes_a_day: f64) -> Wish {
        Wish {
            users: 1_000,
            latency_ms: 53.0,
            gigabytes_a_day,
            corrupt: 0.0,
            bits: None,
            speed: Speed::default(),
        }
    }

    fn secret(watcher: Watcher, flow: u64, seconds: f64) -> Secret {
        Secret { watcher, flow, seconds }
    }

    #[test]
    fn five_wishes_are_granted_or_refused_by_what_binds() {
        let granted = [
            (wish(13.5), secret(Watcher::Links, 100_000, 10.0)),
            (wish(13.5), secret(Watcher::LinksAndExit, 4_000, 8.0)),
            (wish(150.0), secret(Watcher::LinksAndExit, 400_000, 5.0)),
        ];
        for (wish, secret) in granted {
            let hidden = hide(&wish, &secret, REDUCED, |_| ()).unwrap();
            // Not more than the traffic pays for.
            let line = hidden.answer.send_rate + hidden.answer.receive_rate * 1.25;
            assert!(line <= affordable(&wish).unwrap() * 1.000_001, "{line}");
            let again = hidden.again(&secret, REDUCED, 7_001).unwrap();
            assert!(again.flows > 5.0 && again.share() <= 0.5, "{secret:?}: {again:?}");
        }
        let refused = |wish: &Wish, secret: &Secret| {
            hide(wish, secret, REDUCED, |_| ()).unwrap_err().downcast::<Impossible>().unwrap().to_string()
        };
        let text = refused(&wish(13.5), &secret(Watcher::LinksAndExit, 400_000, 10.0));
        assert!(text.contains("What binds is the traffic: 54 GB a day would do"), "{text}");
        let text = refused(&wish(13.5), &secret(Watcher::EntryAndExit, 100_000, 10.0));
        assert!(text.contains("What binds is the adversary") && text.contains("From links"), "{text}");
    }

    #[test]
    fn a_wish_that_makes_no_sense_is_named() {
        let refused =
            |wish: Wish, secret: Secret| hide(&wish, &secret, REDUCED, |_| ()).unwrap_err().to_string();
        assert!(refused(wish(13.5), secret(Watcher::Links, 0, 1.0)).contains("flow"));
        assert!(refused(wish(13.5), secret(Watcher::Links, 9, f64::NAN)).contains("seconds"));
        assert!(refused(wish(1e9), secret(Watcher::Links, 9, 1.0)).contains("traffic"));
    }

    #[test]
    fn candidates_cost_what_is_paid_for_and_the_fastest_comes_first() {
        let all = candidates(35.0, Speed::default());
        assert!(all.windows(2).all(|pair| pair[0].download() >= pair[1].download()));
        assert!(all.iter().all(|one| one.rates.line() <= 35.0 * 1.000_001));
        assert_eq!(all.iter().filter(|one| one.rates.line() > 34.9).count(), 3);
        // Who wants to upload gets what is fast enough for that.
        let fast = candidates(35.0, Speed { download: 0.0, upload: 30.0 });
        assert!(!fast.is_empty() && fast.iter().all(|one| one.rates.send * 3.5 >= 30.0));
        // Where sessions have the place of loops, what comes home are loops.
        let strong = all.iter().find(|one| one.level == Level::Strong).unwrap().rates;
        assert!((strong.send * strong.loop_share / strong.receive - 1.0).abs() < 1e-9);
    }
}
