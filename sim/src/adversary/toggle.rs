//! Whose line rises each time? A site sends much for a while, then nothing, again and again; whoever runs it, and sees
//! the lines of all clients, looks which of them takes a faster step each time.
//!
//! Every client is equally suspect at first. When a round begins, some clients stand on a step that is slower than what
//! the site sends, and so may rise; by Bayes' rule one that does becomes the likelier, one that does not the less
//! likely, by how often the visitor would rise and how often anybody does. What the lines show of the others, and of a
//! client that cannot rise, says nothing. Where steps are pinned, nothing shows.
//!
//! The visitor is *identified* from the round on from which it is more likely than all others together, to the end.

use super::trial::Trial;
use mizzle_protocol::level::{Level, RISES_PER_HOUR};
use mizzle_protocol::time::Instant;
use std::time::Duration;

/// When the site sends, and how fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Toggle {
    /// For so long it sends.
    pub on: Duration,
    /// And then nothing for so long.
    pub off: Duration,
    /// So many times.
    pub rounds: u32,
    /// Bytes a second while it sends. What the stream does not take then goes as soon as it does.
    pub rate: f64,
}

impl Toggle {
    /// Bytes of all rounds together.
    pub fn bytes(&self) -> u64 {
        self.bytes_of_one().saturating_mul(u64::from(self.rounds))
    }

    fn bytes_of_one(&self) -> u64 {
        (self.rate * self.on.as_secs_f64()) as u64
    }

    /// When the rounds begin of which enough is seen until `end`.
    pub fn begins(&self, since: Instant, end: Instant) -> Vec<Instant> {
        let all = (0..self.rounds).map(|round| since + self.period() * round);
        all.take_while(|begin| *begin + WITHIN <= end).collect()
    }

    /// From the beginning of one round to that of the next.
    pub fn period(&self) -> Duration {
        self.on + self.off
    }

    /// Rounds that are over after so long, and how long the next one has been going on.
    fn place(&self, since: Duration) -> (u64, Duration) {
        let period = self.period().max(TICK);
        let over = (since.as_nanos() / period.as_nanos()) as u64;
        (over, since.saturating_sub(Duration::from_nanos((period.as_nanos() as u64).saturating_mul(over))))
    }

    /// Bytes that are to be sent within so long from the start.
    pub fn due(&self, since: Duration) -> u64 {
        let (over, within) = self.place(since);
        let begun = (self.rate * within.as_secs_f64()) as u64;
        let whole = over.saturating_mul(self.bytes_of_one());
        whole.saturating_add(begun.min(self.bytes_of_one())).min(self.bytes())
    }

    /// How long from the start until there is more to send.
    pub fn next(&self, since: Duration) -> Duration {
        let (_, within) = self.place(since);
        since + if within < self.on { TICK } else { self.period().saturating_sub(within).max(TICK) }
    }
}

/// What everyone who sees a client's line sees of it: from when on it was at which step.
pub type Steps = Vec<(Instant, u8)>;

/// What the adversary knows of the level and the site.
#[derive(Clone, Debug)]
pub struct Ladder {
    /// The clients' level.
    pub level: Level,
    /// Bytes a second that each of its steps brings.
    pub rates: Vec<f64>,
    /// What the site does.
    pub toggle: Toggle,
}

/// How far the adversary got.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// How likely the visitor was after each round.
    pub likely: Vec<f64>,
    /// Rounds in which its line rose.
    pub rose: usize,
    /// How likely a guess after the last round would have been right, those that are equally likely sharing it.
    pub guessed: f64,
    /// From which round on it was identified, counted from zero; `None`: it was not.
    pub identified: Option<usize>,
}

/// Looks for the `visitor` among all clients. Rounds begin at these moments; lines are seen from `from` until `end`.
pub fn judge(
    lines: &[Steps],
    ladder: &Ladder,
    begins: &[Instant],
    visitor: usize,
    from: Instant,
    end: Instant,
) -> Verdict {
    let any = ladder.chance_of_any(lines, from, end);
    let mut scores = vec![0.0; lines.len()];
    let mut verdict = Verdict { likely: Vec::new(), rose: 0, guessed: 0.0, identified: None };
    for (round, &begin) in begins.iter().enumerate() {
        for (client, (steps, score)) in lines.iter().zip(&mut scores).enumerate() {
            let rose = rises(steps, begin, begin + WITHIN).next().is_some();
            verdict.rose += usize::from(rose && client == visitor);
            if ladder.may_rise(steps, begin) {
                *score += match rose {
                    true => libm::log(SURE / any),
                    false => libm::log((1.0 - SURE) / (1.0 - any)),
                };
            }
        }
        let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|score| libm::exp(score - best)).sum();
        let own = scores.get(visitor).copied().unwrap_or(f64::NEG_INFINITY);
        let likely = libm::exp(own - best) / total;
        verdict.likely.push(likely);
        if likely > 0.5 {
            verdict.identified.get_or_insert(round);
        } else {
            verdict.identified = None;
        }
        let equal = scores.iter().filter(|score| **score >= best - 1e-9).count();
        verdict.guessed = if own >= best - 1e-9 { 1.0 / equal as f64 } else { 0.0 };
    }
    verdict
}

impl Verdict {
    /// How long it took from the beginning of the first round, where one begins so long after the other; `None`: it was
    /// not identified.
    pub fn time(&self, period: Duration) -> Option<Duration> {
        self.identified.map(|round| period * round as u32 + WITHIN)
    }

    /// The same for a report: among so many clients.
    pub fn trial(&self, period: Duration, clients: usize) -> Trial {
        let found = |round: usize| self.identified.is_some_and(|first| first <= round);
        let share = |round: usize| if found(round) { 1.0 } else { 0.0 };
        Trial {
            attack: "Visitors of a site that toggles their load, found by who sees all lines",
            along: "rounds",
            up: "share of visitors",
            points: (0..self.likely.len()).map(|round| (round as f64 + 1.0, share(round))).collect(),
            chance: 1.0 / clients.max(1) as f64,
            reached: vec![
                ("toggle: rounds to identify, p50", self.identified.map(|round| round as f64 + 1.0)),
                ("toggle: time to identify, p50, s", self.time(period).map(|time| time.as_secs_f64())),
            ],
        }
    }
}

impl Ladder {
    /// Could a client of these steps rise for what the site sends at this moment?
    fn may_rise(&self, steps: &[(Instant, u8)], now: Instant) -> bool {
        let spent = self.level == Level::Balanced && rises(steps, now - HOUR, now).count() >= RISES_PER_HOUR;
        !spent && self.is_slow(at(steps, now))
    }

    /// A step that brings less than the site sends, and is not the last.
    fn is_slow(&self, step: u8) -> bool {
        let step = usize::from(step);
        step + 1 < self.rates.len() && self.rates.get(step).is_some_and(|rate| *rate < self.toggle.rate)
    }

    /// How likely anybody who may rise does so within a round, by how often that happens.
    fn chance_of_any(&self, lines: &[Steps], from: Instant, end: Instant) -> f64 {
        let (mut count, mut time) = (0.0, Duration::ZERO);
        for steps in lines {
            let nexts = steps.iter().skip(1).copied().chain([(end, 0)]);
            for (&(since, step), (until, next)) in steps.iter().zip(nexts) {
                if self.is_slow(step) {
                    time += until.min(end).since(since.max(from));
                    count += if next > step && until > from { 1.0 } else { 0.0 };
                }
            }
        }
        let rate = (count + 0.5) / time.as_secs_f64().max(1.0);
        (1.0 - libm::exp(-rate * WITHIN.as_secs_f64())).clamp(1e-6, SURE)
    }
}

/// The step at a moment.
fn at(steps: &[(Instant, u8)], now: Instant) -> u8 {
    let before = steps.partition_point(|(since, _)| *since <= now);
    steps.get(before.saturating_sub(1)).map_or(0, |(_, step)| *step)
}

/// When the line rose, after `from` and until `to`.
fn rises(steps: &[(Instant, u8)], from: Instant, to: Instant) -> impl Iterator<Item = Instant> {
    let pairs = steps.iter().zip(steps.iter().skip(1));
    pairs
        .filter(move |((_, before), (now, after))| before < after && *now > from && *now <= to)
        .map(|(_, (now, _))| *now)
}

/// A visitor that rises does so soon after a round has begun; rounds are not to be shorter.
pub const WITHIN: Duration = Duration::from_secs(4);
/// How sure the adversary is that a visitor that may rise does.
const SURE: f64 = 0.9;
/// How often a site that sends looks how much is due.
const TICK: Duration = Duration::from_millis(100);
const HOUR: Duration = Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::uniform;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    const START: Instant = Instant::from_nanos(1_000_000_000_000);
    const TOGGLE: Toggle =
        Toggle { on: Duration::from_secs(5), off: Duration::from_secs(15), rounds: 12, rate: 2e5 };

    fn after(seconds: f64) -> Instant {
        START + Duration::from_secs_f64(seconds)
    }

    /// So many clients on two steps; the first rises a second after each round has begun, each other one with this chance
    /// within the same seconds; all fall before the next round.
    fn verdict(clients: usize, others: f64, level: Level, seed: u64) -> Verdict {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let begins = TOGGLE.begins(START, after(1e4));
        let mut lines = vec![vec![(Instant::ZERO, 0)]; clients];
        for begin in &begins {
            for (client, steps) in lines.iter_mut().enumerate() {
                let seconds = 1.0 + uniform(&mut rng);
                if client == 0 || uniform(&mut rng) < others {
                    steps.push((*begin + Duration::from_secs_f64(seconds), 1));
                    steps.push((*begin + Duration::from_secs_f64(seconds + 9.0), 0));
                }
            }
        }
        let ladder = Ladder { level, rates: vec![8e4, 3.2e5], toggle: TOGGLE };
        judge(&lines, &ladder, &begins, 0, START, START + TOGGLE.period() * TOGGLE.rounds)
    }

    #[test]
    fn a_site_sends_by_its_clock_and_no_more_than_all_rounds() {
        let seconds = Duration::from_secs_f64;
        for (since, bytes) in
            [(0.0, 0), (2.5, 500_000), (5.0, 1_000_000), (19.9, 1_000_000), (21.0, 1_200_000)]
        {
            assert_eq!(TOGGLE.due(seconds(since)), bytes, "{since}");
        }
        assert_eq!(TOGGLE.due(seconds(1e6)), TOGGLE.bytes());
        assert_eq!(TOGGLE.next(seconds(21.0)), seconds(21.1));
        assert_eq!(TOGGLE.next(seconds(30.0)), seconds(40.0));
        let begins = TOGGLE.begins(START, after(44.0));
        assert_eq!(begins, [after(0.0), after(20.0), after(40.0)]);
        assert_eq!(TOGGLE.begins(START, after(1e6)).len(), 12);
    }

    #[test]
    fn where_others_rise_seldom_a_round_or_two_tell_and_where_half_of_them_do_it_takes_the_logarithm() {
        let rounds = |others: f64| {
            let mut rounds: Vec<_> = (0..21)
                .map(|seed| verdict(64, others, Level::Fast, seed).identified.map_or(99, |round| round + 1))
                .collect();
            rounds.sort_unstable();
            rounds[10]
        };
        assert!(rounds(0.02) <= 2, "{}", rounds(0.02));
        // Half of the others are struck out in each round: six for 64, and the base rate is not known to be so high.
        assert!((6..=10).contains(&rounds(0.5)), "{}", rounds(0.5));
    }

    #[test]
    fn lines_that_never_change_tell_nothing() {
        let lines = vec![vec![(Instant::ZERO, 0)]; 40];
        let begins = TOGGLE.begins(START, after(1e4));
        for rates in [vec![8e4], vec![8e4, 3.2e5]] {
            let ladder = Ladder { level: Level::Strong, rates, toggle: TOGGLE };
            let verdict = judge(&lines, &ladder, &begins, 7, START, after(240.0));
            assert_eq!((verdict.rose, verdict.identified, verdict.likely.len()), (0, None, 12));
            assert!((verdict.guessed - 1.0 / 40.0).abs() < 1e-12, "{}", verdict.guessed);
            assert!(verdict.likely.iter().all(|likely| (likely - 1.0 / 40.0).abs() < 1e-12));
        }
    }

    #[test]
    fn who_has_used_up_its_rises_is_not_struck_out_for_that() {
        // Twelve rounds in four minutes. The first client rises in six of them, the second in the other six.
        let mut lines = vec![vec![(Instant::ZERO, 0)]; 30];
        let begins = TOGGLE.begins(START, after(1e4));
        for (round, begin) in begins.iter().enumerate() {
            let up = [(*begin + Duration::from_secs(1), 1), (*begin + Duration::from_secs(10), 0)];
            lines[round / RISES_PER_HOUR].extend(up);
        }
        let likely = |level: Level| {
            let ladder = Ladder { level, rates: vec![8e4, 3.2e5], toggle: TOGGLE };
            judge(&lines, &ladder, &begins, 0, START, after(240.0)).likely[11]
        };
        // More than six rises an hour `balanced` does not have; in `fast` the one is as good as the other.
        assert!(likely(Level::Balanced) > 0.999, "{}", likely(Level::Balanced));
        assert!((likely(Level::Fast) - 0.5).abs() < 1e-3, "{}", likely(Level::Fast));
    }
}
