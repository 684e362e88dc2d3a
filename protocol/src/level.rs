//! How much cover a client pays for: three levels, each with fixed rates, and when a client moves between
//! the steps of its level.
//!
//! Levels differ in rates only, so that the clients of one step are alike. The rates are a consensus
//! parameter: everyone has the same rows, and an entry takes no others. (spec: LEVEL-1 to LEVEL-6)

use crate::delay::exponential;
use crate::time::Instant;
use crate::{Error, ErrorKind, Result};
use rand_core::Rng;
use std::collections::VecDeque;
use std::time::Duration;

/// A promise about what real traffic changes on the line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Nothing: one constant rate, and loops fill what replies leave.
    Strong = 0,
    /// Its step, seldom.
    #[default]
    Balanced = 1,
    /// Much: quick, and open to whoever watches both ends.
    Fast = 2,
}

/// All levels.
pub const LEVELS: [Level; 3] = [Level::Strong, Level::Balanced, Level::Fast];

impl Level {
    /// The level that this byte stands for.
    pub fn from_code(code: u8) -> Option<Self> {
        LEVELS.into_iter().find(|level| *level as u8 == code)
    }

    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strong => "strong",
            Self::Balanced => "balanced",
            Self::Fast => "fast",
        }
    }

    /// The level of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        LEVELS.into_iter().find(|level| level.name() == name)
    }
}

/// The rates of one client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Packets per second that the client sends (λ_P).
    pub send_rate: f64,
    /// Packets per second that reach the client (λ_R).
    pub receive_rate: f64,
    /// Share of outward slots that carry a loop.
    pub loop_share: f64,
    /// Share of outward slots that carry a drop to a random exit; at least the loops'.
    pub drop_share: f64,
}

impl Pace {
    /// Loops per second.
    pub fn loops(&self) -> f64 {
        self.send_rate * self.loop_share
    }

    /// Packets that may wait at the entry for a slot: four seconds' worth. (spec: ENTRY-7)
    pub fn entry_room(&self) -> usize {
        (self.receive_rate * ENTRY_WAIT).clamp(16.0, 65_536.0) as usize
    }
}

/// A row of the table: a level, and which of its steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Step {
    /// The level.
    pub level: Level,
    /// Counts from 0, the slowest.
    pub step: u8,
}

/// The rates of all levels and steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels {
    /// By level: its steps, each faster than the one before.
    pub(crate) rows: [Vec<Pace>; LEVELS.len()],
}

impl Default for Levels {
    fn default() -> Self {
        let pace = |send_rate, receive_rate, loop_share, drop_share| Pace {
            send_rate,
            receive_rate,
            loop_share,
            drop_share,
        };
        // The faster, the smaller a share is enough: the loops a second still rise from step to step.
        let few = |send_rate, receive_rate, share| pace(send_rate, receive_rate, share, share);
        Self {
            rows: [
                // Loops alone are λ_R: in their place come the replies.
                vec![pace(50.0, 20.0, 0.4, 0.4)],
                vec![
                    few(10.0, 20.0, 0.05),
                    few(20.0, 80.0, 0.05),
                    few(80.0, 320.0, 0.015),
                    few(320.0, 1_280.0, 0.01),
                ],
                vec![few(10.0, 20.0, 0.05), few(400.0, 1_600.0, 0.01)],
            ],
        }
    }
}

impl Levels {
    /// A table from its rows. [`ErrorKind::Malformed`] names the rule that it breaks.
    pub fn new(strong: Vec<Pace>, balanced: Vec<Pace>, fast: Vec<Pace>) -> Result<Self> {
        let levels = Self { rows: [strong, balanced, fast] };
        levels.check()?;
        Ok(levels)
    }

    /// The steps of a level, the slowest first: one at least.
    pub fn steps(&self, level: Level) -> &[Pace] {
        let [strong, balanced, fast] = &self.rows;
        match level {
            Level::Strong => strong,
            Level::Balanced => balanced,
            Level::Fast => fast,
        }
    }

    /// The rates of a step; `None` if there is no such step.
    pub fn pace(&self, at: Step) -> Option<Pace> {
        self.steps(at.level).get(usize::from(at.step)).copied()
    }

    /// The same, or the nearest slower step's.
    pub fn nearest(&self, at: Step) -> (Step, Pace) {
        let steps = self.steps(at.level);
        let index = usize::from(at.step).min(steps.len().saturating_sub(1));
        let still = Pace { send_rate: 1.0, receive_rate: 1.0, loop_share: 0.0, drop_share: 0.0 };
        (Step { level: at.level, step: index as u8 }, steps.get(index).copied().unwrap_or(still))
    }

    /// The highest homeward rate of all.
    pub fn highest_receive_rate(&self) -> f64 {
        self.rows.iter().flatten().map(|pace| pace.receive_rate).fold(0.0, f64::max)
    }

    /// Fails, naming the rule, if the table makes no sense.
    pub(crate) fn check(&self) -> Result<()> {
        let all = || self.rows.iter().flatten();
        let rising = |steps: &Vec<Pace>| {
            let pairs = steps.iter().zip(steps.iter().skip(1));
            pairs.into_iter().all(|(a, b)| a.send_rate <= b.send_rate && a.receive_rate <= b.receive_rate)
        };
        let strong = |pace: &Pace| pace.send_rate > 2.0 * pace.receive_rate;
        let rules = [
            (
                self.rows.iter().all(|steps| (1..=MAX_STEPS).contains(&steps.len())),
                "a level has 1 to 16 steps",
            ),
            (self.steps(Level::Strong).len() == 1, "`strong` has one step"),
            (all().all(|pace| pace.send_rate > 0.0 && pace.receive_rate > 0.0), "rates are above zero"),
            (
                all().all(|pace| pace.loop_share <= pace.drop_share),
                "there are at least as many drops as loops",
            ),
            (
                all().all(|pace| pace.loop_share + pace.drop_share < 1.0),
                "loops and drops leave slots for payload",
            ),
            (self.rows.iter().all(rising), "each step is at least as fast as the one before"),
            (self.steps(Level::Strong).iter().all(strong), "`strong` sends more than twice what it receives"),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, rule)) => Err(Error::new(
                ErrorKind::Malformed,
                format!("the levels' rates contradict each other: {rule}"),
            )),
        }
    }
}

/// What a client's load asks of its rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Nothing that a slower step could not carry.
    Little,
    /// What this step carries, and no more waits.
    Enough,
    /// More waits than this step carries.
    More,
}

/// Decides which step a client takes, by its load and by how often it may show that.
#[derive(Clone, Debug)]
pub struct Governor {
    level: Level,
    pinned: Option<u8>,
    /// Where the client is, or will be as soon as its entry grants it.
    step: u8,
    /// Since when more has waited than the step carries.
    short_since: Option<Instant>,
    /// When to fall, if the load stays little until then.
    fall_at: Option<Instant>,
    /// The last rises, the oldest first.
    rises: VecDeque<Instant>,
}

impl Governor {
    /// A client of this level, at the slowest step, or at the `pinned` one for ever.
    pub fn new(level: Level, pinned: Option<u8>) -> Self {
        Self {
            level,
            pinned,
            step: pinned.unwrap_or(0),
            short_since: None,
            fall_at: None,
            rises: VecDeque::new(),
        }
    }

    /// Goes on as a client of another level, from its slowest step or at the `pinned` one. What has risen within the
    /// hour still counts: the entry has seen it.
    pub fn change(&mut self, level: Level, pinned: Option<u8>) {
        let rises = std::mem::take(&mut self.rises);
        *self = Self { rises, ..Self::new(level, pinned) };
    }

    /// The step to be at.
    pub fn wanted(&self) -> Step {
        Step { level: self.level, step: self.step }
    }

    /// Rises that are still allowed within the hour; `None`: without limit.
    pub fn rises_left(&self, now: Instant) -> Option<usize> {
        (self.level == Level::Balanced && self.pinned.is_none())
            .then(|| RISES_PER_HOUR.saturating_sub(self.recent(now)))
    }

    /// Takes the load at `now`, and says which step to be at. Call a few times a second.
    pub fn observe(&mut self, now: Instant, demand: Demand, levels: &Levels, rng: &mut impl Rng) -> Step {
        if self.pinned.is_none() {
            let top = levels.steps(self.level).len().saturating_sub(1) as u8;
            self.step = self.step.min(top);
            self.consider_rise(now, demand, top);
            self.consider_fall(now, demand, rng);
        }
        self.wanted()
    }

    fn consider_rise(&mut self, now: Instant, demand: Demand, top: u8) {
        if demand != Demand::More || self.step >= top {
            self.short_since = None;
            return;
        }
        let since = *self.short_since.get_or_insert(now);
        if now.since(since) < self.patience() || self.rises_left(now) == Some(0) {
            return;
        }
        self.step += 1;
        self.short_since = None;
        self.fall_at = None;
        // Others rise without limit, and do not use up this one's.
        if self.level == Level::Balanced {
            self.rises.push_back(now);
        }
        while self.rises.len() > RISES_PER_HOUR {
            self.rises.pop_front();
        }
    }

    fn consider_fall(&mut self, now: Instant, demand: Demand, rng: &mut impl Rng) {
        if demand != Demand::Little || self.step == 0 {
            self.fall_at = None;
            return;
        }
        let level = self.level;
        let mut rest = || match level {
            Level::Fast => FAST_REST,
            _ => SHORTEST_REST + exponential(MEAN_REST, rng),
        };
        let at = *self.fall_at.get_or_insert_with(|| now + rest());
        if now >= at {
            self.step -= 1;
            self.fall_at = None;
        }
    }

    /// How long more must wait before the client shows it.
    fn patience(&self) -> Duration {
        match (self.level, self.step) {
            (Level::Fast, _) => Duration::ZERO,
            (_, 0) => Duration::from_millis(300),
            (_, 1) => Duration::from_millis(700),
            _ => Duration::from_secs(5),
        }
    }

    fn recent(&self, now: Instant) -> usize {
        self.rises.iter().filter(|&&rise| now.since(rise) < HOUR).count()
    }
}

/// What may wait for a client at its entry, in seconds of its receive rate.
const ENTRY_WAIT: f64 = 4.0;
/// Steps of one level.
pub const MAX_STEPS: usize = 16;
/// Rises of a `balanced` client in any hour: each tells who can see the line that its load has risen.
pub const RISES_PER_HOUR: usize = 6;
const HOUR: Duration = Duration::from_secs(3_600);
/// A `balanced` client falls a step after so long with little load, and an exponential time beyond: so that
/// the fall does not tell when the load ended.
const SHORTEST_REST: Duration = Duration::from_secs(60);
const MEAN_REST: Duration = Duration::from_secs(600);
const FAST_REST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    const TICK: Duration = Duration::from_millis(100);

    fn run(
        governor: &mut Governor,
        from: Instant,
        time: Duration,
        demand: Demand,
        rng: &mut ChaCha20Rng,
    ) -> (Instant, usize) {
        let (levels, mut now, mut changes) = (Levels::default(), from, 0);
        while now < from + time {
            let before = governor.wanted();
            changes += usize::from(governor.observe(now, demand, &levels, rng) != before);
            now += TICK;
        }
        (now, changes)
    }

    #[test]
    fn load_lifts_a_client_step_by_step_and_rest_brings_it_down_at_moments_that_say_little() {
        let mut falls = Vec::new();
        for seed in 0..200 {
            let mut rng = ChaCha20Rng::seed_from_u64(seed);
            let mut governor = Governor::new(Level::Balanced, None);
            let (now, rises) =
                run(&mut governor, Instant::ZERO, Duration::from_secs(2), Demand::More, &mut rng);
            assert_eq!((rises, governor.wanted().step), (2, 2));
            let (now, _) = run(&mut governor, now, Duration::from_secs(5), Demand::Enough, &mut rng);
            let mut rested = now;
            while governor.wanted().step == 2 {
                rested = run(&mut governor, rested, TICK, Demand::Little, &mut rng).0;
            }
            falls.push(rested.since(now).as_secs_f64());
        }
        assert!(falls.iter().all(|&fall| fall >= 60.0));
        let mean = falls.iter().sum::<f64>() / falls.len() as f64;
        // 660 expected; four standard deviations of the mean are 170.
        assert!((mean - 660.0).abs() < 170.0, "{mean}");
    }

    #[test]
    fn no_hour_sees_more_rises_than_allowed_whatever_the_load() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let mut governor = Governor::new(Level::Balanced, None);
        let mut now = Instant::ZERO;
        let mut rises: Vec<Instant> = Vec::new();
        while now < Instant::ZERO + HOUR * 60 {
            let before = governor.wanted().step;
            // Who toggles the load lifts the client whenever it has fallen.
            let demand = if before < 3 { Demand::More } else { Demand::Little };
            let after = governor.observe(now, demand, &Levels::default(), &mut rng).step;
            if after > before {
                rises.push(now);
            }
            now += TICK;
        }
        assert!(rises.len() > 200, "{}", rises.len());
        for rise in &rises {
            let within = rises.iter().filter(|other| **other >= *rise && other.since(*rise) < HOUR).count();
            assert!(within <= 6, "{within}");
        }
    }

    #[test]
    fn another_level_in_between_forgets_no_rise_and_adds_none() {
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        let mut governor = Governor::new(Level::Balanced, None);
        let (minute, all) = (Duration::from_secs(60), RISES_PER_HOUR);
        let (now, rises) = run(&mut governor, Instant::ZERO, minute, Demand::More, &mut rng);
        assert_eq!((rises, governor.rises_left(now)), (3, Some(all - 3)));
        governor.change(Level::Fast, None);
        let (now, rises) = run(&mut governor, now, minute, Demand::More, &mut rng);
        assert_eq!((rises, governor.rises_left(now)), (1, None));
        governor.change(Level::Balanced, None);
        assert_eq!((governor.wanted().step, governor.rises_left(now)), (0, Some(all - 3)));
        let (now, rises) = run(&mut governor, now, minute, Demand::More, &mut rng);
        assert_eq!((rises, governor.rises_left(now)), (3, Some(0)));
    }

    #[test]
    fn a_pinned_client_and_a_strong_one_never_move() {
        let mut rng = ChaCha20Rng::seed_from_u64(4);
        for (level, pinned) in [(Level::Balanced, Some(2)), (Level::Strong, None)] {
            let mut governor = Governor::new(level, pinned);
            let (now, rises) =
                run(&mut governor, Instant::ZERO, Duration::from_secs(60), Demand::More, &mut rng);
            let (_, falls) = run(&mut governor, now, HOUR, Demand::Little, &mut rng);
            assert_eq!((rises, falls), (0, 0));
        }
    }

    #[test]
    fn a_fast_client_follows_its_load_at_once() {
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        let mut governor = Governor::new(Level::Fast, None);
        let (now, rises) = run(&mut governor, Instant::ZERO, TICK, Demand::More, &mut rng);
        assert_eq!(rises, 1);
        let (_, falls) = run(&mut governor, now, FAST_REST + TICK * 2, Demand::Little, &mut rng);
        assert_eq!(falls, 1);
    }

    #[test]
    fn tables_that_contradict_themselves_are_refused() {
        let levels = Levels::default();
        levels.check().unwrap();
        let [strong, balanced, fast] = levels.rows.clone();
        let with = |rows: [Vec<Pace>; 3]| Levels { rows }.check().unwrap_err().to_string();
        let changed = |change: fn(&mut Pace)| {
            let mut steps = balanced.clone();
            change(&mut steps[1]);
            with([strong.clone(), steps, fast.clone()])
        };
        assert!(changed(|pace| pace.send_rate = 0.0).contains("above zero"));
        assert!(changed(|pace| pace.loop_share = 0.06).contains("drops"));
        assert!(changed(|pace| pace.drop_share = 0.99).contains("payload"));
        assert!(changed(|pace| pace.receive_rate = 1.0).contains("step"));
        assert!(with([strong.clone(), Vec::new(), fast.clone()]).contains("steps"));
        assert!(with([balanced.clone(), balanced.clone(), fast.clone()]).contains("one step"));
        assert!(with([vec![balanced[0]], balanced.clone(), fast]).contains("twice"));
    }
}
