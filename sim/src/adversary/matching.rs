//! Whose flow is it? Someone who has one end of a flow looks for the client at the other end.
//!
//! Every packet takes a time of Erlang's law. If a client is the one, each packet at the exit was in one of its slots
//! so long ago, and its slots explain the moments better than chance does; by how much is a logarithm that adds up
//! packet by packet (the method of MixMatch, Oldenburg et al., 2024). The same homeward, with the replies that left
//! the exit and what came to each client's entry.
//!
//! Who rises to a faster step when a flow begins shows that to everyone who sees the line; how often that happens to
//! those who have begun one, and to others, is known from flows of one's own.
//!
//! All clients are equally suspect at first. A client is *identified* from the moment on from which it is more likely
//! than all others together, until the flow's end.

use super::lines::{Lines, Moments};
use crate::exits::Seen;
use crate::town::FlowRecord;
use crate::world::Shape;
use mizzle_protocol::time::Instant;
use std::time::Duration;

/// Who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watcher {
    /// Someone who sees every link, those between exits and servers, too.
    Links,
    /// The same together with the exit, which tells a session's packets from others.
    LinksAndExit,
    /// The exit together with the client's entry, which tells clients' packets from filler.
    EntryAndExit,
}

impl Watcher {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Links => "links",
            Self::LinksAndExit => "links-and-exit",
            Self::EntryAndExit => "entry-and-exit",
        }
    }

    /// The watcher of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        WATCHERS.into_iter().find(|watcher| watcher.name() == name)
    }

    /// The attack, for a page.
    pub fn attack(self) -> &'static str {
        match self {
            Self::Links => "Flows whose client is found by who sees all links",
            Self::LinksAndExit => "Flows whose client is found by who sees all links, and the exit",
            Self::EntryAndExit => "Flows whose client is found by its entry and the exit together",
        }
    }
}

/// All of them.
pub const WATCHERS: [Watcher; 3] = [Watcher::Links, Watcher::LinksAndExit, Watcher::EntryAndExit];

/// What a watcher made of one flow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// Who looked.
    pub watcher: Watcher,
    /// Which flow, by its place among all.
    pub flow: usize,
    /// After how long the right client was identified for good; `None`: it was not.
    pub identified: Option<Duration>,
    /// Another client was thought to be the one at the end.
    pub wrong: bool,
    /// How likely the right client was at the end.
    pub chance: f64,
}

/// What applications did, and what of it shows.
#[derive(Clone, Debug, Default)]
pub struct Applications {
    /// All flows that began.
    pub flows: Vec<FlowRecord>,
    /// What exits sent to servers.
    pub seen: Vec<Seen>,
    /// When each client rose to a faster step: everyone who sees its line sees that.
    pub rises: Vec<Vec<Instant>>,
    /// From when on.
    pub from: Instant,
}

/// Has every watcher look at every flow. A flow is watched from its beginning until it was over, and a moment longer,
/// or until `end`.
pub fn judge(lines: &Lines, applications: &Applications, shape: &Shape, end: Instant) -> Vec<Verdict> {
    let Applications { flows, seen, rises, .. } = applications;
    let law = Law::of(shape);
    let odds = Odds::of(applications, lines.len(), end);
    let mut verdicts = Vec::new();
    for (number, record) in flows.iter().enumerate() {
        let begins = record.flow.begins;
        let over = record.finished.map_or(end, |time| begins + time + law.longest).min(end);
        let Some(ends) = lines.of(record.client as usize) else { continue };
        let within = |moments: &Moments| slice(moments, begins, over).to_vec();
        let requests = seen.iter().filter(|seen| seen.flow == number as u64 && seen.at <= over);
        let requests: Moments = requests.map(|seen| seen.at).collect();
        let (at_exit, replies) = (within(&ends.at_exit), within(&ends.replies));
        for watcher in WATCHERS {
            let watched = Watched {
                begins,
                over,
                outward: if watcher == Watcher::Links { &requests } else { &at_exit },
                homeward: if watcher == Watcher::EntryAndExit { &replies } else { &[] },
                rises,
                odds,
            };
            verdicts.push(watched.judge(watcher, number, record.client as usize, lines, &law));
        }
    }
    verdicts
}

/// One flow, as a watcher has it.
struct Watched<'a> {
    begins: Instant,
    over: Instant,
    outward: &'a [Instant],
    homeward: &'a [Instant],
    rises: &'a [Vec<Instant>],
    odds: Odds,
}

/// How often a client rises soon after a flow has begun: its own, and any.
#[derive(Clone, Copy, Debug)]
struct Odds {
    own: f64,
    any: f64,
}

impl Odds {
    /// As a watcher would learn it from flows of its own.
    fn of(applications: &Applications, clients: usize, end: Instant) -> Self {
        let rose = |record: &&FlowRecord| {
            let rises = applications.rises.get(record.client as usize);
            rises.and_then(|rises| first_rise(rises, record.flow.begins)).is_some()
        };
        let own = applications.flows.iter().filter(rose).count() as f64;
        let all: usize = applications.rises.iter().map(Vec::len).sum();
        let time = end.since(applications.from).as_secs_f64().max(1.0) * clients.max(1) as f64;
        // Nothing is certain.
        Self {
            own: ((own + 0.5) / (applications.flows.len() as f64 + 1.0)).clamp(1e-4, 1.0 - 1e-4),
            any: ((all as f64 + 0.5) / time * SOON.as_secs_f64()).clamp(1e-6, 0.9),
        }
    }
}

/// The first of these rises soon after a flow has begun.
fn first_rise(rises: &[Instant], begins: Instant) -> Option<Instant> {
    slice(rises, begins, begins + SOON).first().copied()
}

impl Watched<'_> {
    fn judge(&self, watcher: Watcher, flow: usize, right: usize, lines: &Lines, law: &Law) -> Verdict {
        let steps = (self.over.since(self.begins).as_nanos() / STEP.as_nanos()) as usize + 1;
        let mut scores = Vec::with_capacity(lines.len());
        for client in 0..lines.len() {
            scores.push(self.score(client, steps, lines, law));
        }
        let mut identified = None;
        let (mut wrong, mut chance) = (false, 0.0);
        for step in 0..steps {
            let at = |score: &Vec<f64>| score.get(step).copied().unwrap_or_default();
            let best = scores.iter().map(at).fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| libm::exp(at(score) - best)).sum();
            let likely =
                |client: usize| scores.get(client).map_or(0.0, |score| libm::exp(at(score) - best) / total);
            chance = likely(right);
            if chance > 0.5 {
                identified.get_or_insert(STEP * (step as u32 + 1));
            } else {
                identified = None;
            }
            wrong = chance <= 0.5 && (0..scores.len()).any(|client| client != right && likely(client) > 0.5);
        }
        Verdict { watcher, flow, identified, wrong, chance }
    }

    fn seconds(&self) -> f64 {
        self.over.since(self.begins).as_secs_f64().max(1e-3)
    }

    /// How much better than chance this client explains what was seen until the end of each step: a logarithm.
    fn score(&self, client: usize, steps: usize, lines: &Lines, law: &Law) -> Vec<f64> {
        let mut score = vec![0.0; steps];
        let Some(ends) = lines.of(client) else { return score };
        let mut add = |at: Instant, value: f64| {
            let step = (at.since(self.begins).as_nanos() / STEP.as_nanos()) as usize;
            if let Some(sum) = score.get_mut(step.min(steps - 1)) {
                *sum += value;
            }
        };
        let own = slice(&ends.outward, self.begins, self.over);
        let seen = self.outward.len() as f64;
        // Of the client's slots so many carried what was seen: as many as fit best, and not more than all.
        let share = (seen / own.len().max(1) as f64).min(SURE);
        for &arrival in self.outward {
            let slots = slice(&ends.outward, arrival - law.longest, arrival);
            let sum: f64 = slots.iter().map(|slot| law.density(arrival.since(*slot), law.links_out)).sum();
            add(arrival, libm::log(share * sum * self.seconds() / seen + (1.0 - SURE)));
        }
        for &slot in own {
            add(slot + law.mean, -share);
        }
        if !self.homeward.is_empty() {
            // What comes to this client anyway may be much: it has other flows, or loops that make way for replies.
            let arrivals = slice(&ends.at_entry, self.begins, self.over);
            let seconds = self.seconds();
            let (all, flow) = (arrivals.len() as f64 / seconds, SURE * self.homeward.len() as f64 / seconds);
            let rest = (all - flow).max(law.loops * 0.05);
            for &arrival in arrivals {
                let replies = slice(self.homeward, arrival - law.longest, arrival);
                let sum: f64 =
                    replies.iter().map(|reply| law.density(arrival.since(*reply), law.links_home)).sum();
                add(arrival, libm::log((rest + SURE * sum) / all));
            }
            // And what should have come, and did not.
            let missing = (rest + flow - all) * seconds / self.homeward.len() as f64;
            for &reply in self.homeward {
                add(reply + law.mean, -missing);
            }
        }
        match self.rises.get(client).and_then(|rises| first_rise(rises, self.begins)) {
            Some(rise) => add(rise, libm::log(self.odds.own / self.odds.any)),
            None => add(self.begins + SOON, libm::log((1.0 - self.odds.own) / (1.0 - self.odds.any))),
        }
        let mut total = 0.0;
        for sum in &mut score {
            total += *sum;
            *sum = total;
        }
        score
    }
}

/// How long packets take, and how often clients send.
struct Law {
    stages: f64,
    /// Of one stage, in seconds.
    stage: f64,
    mean: Duration,
    links_out: Duration,
    links_home: Duration,
    /// Nearly no packet takes longer.
    longest: Duration,
    /// A second, to each client.
    loops: f64,
}

impl Law {
    fn of(shape: &Shape) -> Self {
        let layers = shape.roads.layers as u32;
        let link = shape.links.distance.mean();
        let mean = shape.parameters.mean_delay;
        Self {
            stages: f64::from(layers),
            stage: mean.as_secs_f64(),
            mean: mean * layers + link * (layers + 1),
            links_out: link * (layers + 2),
            links_home: link * (layers + 1),
            longest: mean * (layers * 5) + link * (layers + 2),
            loops: shape.pace.loops().max(0.01),
        }
    }

    /// Of Erlang's law, at this time after the links.
    fn density(&self, time: Duration, links: Duration) -> f64 {
        if time <= links {
            return 0.0;
        }
        let x = (time - links).as_secs_f64() / self.stage;
        libm::exp((self.stages - 1.0) * libm::log(x) - x - libm::lgamma(self.stages)) / self.stage
    }
}

/// The moments from one to another.
fn slice(moments: &[Instant], from: Instant, to: Instant) -> &[Instant] {
    let start = moments.partition_point(|moment| *moment < from);
    let end = moments.partition_point(|moment| *moment <= to);
    moments.get(start..end.max(start)).unwrap_or_default()
}

/// A client that rises rises so soon after its flow has begun.
const SOON: Duration = Duration::from_secs(3);
/// How often the watcher looks at its sums.
const STEP: Duration = Duration::from_millis(250);
/// How sure it is that its own picture is right: packets get lost, and some are not what they seem.
const SURE: f64 = 0.98;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::super::lines::Ends;
    use super::*;
    use crate::workload::Flow;
    use crate::world::uniform;
    use mizzle_protocol::delay::{exponential, poisson_interval};
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    const START: Instant = Instant::from_nanos(1_000_000_000_000);
    const RATE: f64 = 20.0;

    fn moments(rate: f64, seconds: u64, rng: &mut ChaCha20Rng) -> Moments {
        let (mut moments, mut at) = (Vec::new(), START);
        loop {
            at += poisson_interval(rate, rng);
            if at > START + Duration::from_secs(seconds) {
                return moments;
            }
            moments.push(at);
        }
    }

    /// One flow of client 0 among so many that send alike. Of its slots, half are seen at the exit after the mixes'
    /// delays; or what is seen has nothing to do with anybody.
    fn verdicts(clients: usize, seconds: u64, real: bool, seed: u64) -> Vec<Verdict> {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let shape = Shape::default();
        let mean = shape.parameters.mean_delay;
        let mut ends: Vec<_> = (0..clients)
            .map(|_| Ends { outward: moments(RATE, seconds, &mut rng), ..Ends::default() })
            .collect();
        let mut seen = if real { Vec::new() } else { moments(RATE / 2.0, seconds, &mut rng) };
        if real {
            for slot in ends[0].outward.clone() {
                let delay: Duration = (0..3).map(|_| exponential(mean, &mut rng)).sum();
                if uniform(&mut rng) < 0.5 {
                    seen.push(slot + delay);
                }
            }
            seen.sort_unstable();
        }
        ends[0].at_exit = seen;
        let flow = Flow { begins: START, up: 1, down: 1, site: 0, then: None };
        let record =
            FlowRecord { client: 0, flow, first_byte: None, finished: None, reset: None, spoilt: false };
        let end = START + Duration::from_secs(seconds + 1);
        let applications = Applications { flows: vec![record], from: START, ..Applications::default() };
        judge(&Lines::from_ends(ends), &applications, &shape, end)
    }

    fn of(watcher: Watcher, verdicts: &[Verdict]) -> Verdict {
        *verdicts.iter().find(|verdict| verdict.watcher == watcher).unwrap()
    }

    #[test]
    fn the_law_is_one_of_chances() {
        let law = Law::of(&Shape::default());
        let step = Duration::from_micros(100);
        let sum: f64 = (1..20_000).map(|i| law.density(step * i, Duration::ZERO) * step.as_secs_f64()).sum();
        assert!((sum - 1.0).abs() < 1e-3, "{sum}");
    }

    #[test]
    fn a_client_whose_slots_explain_what_is_seen_is_found_the_later_the_more_there_are() {
        let found = |clients, seconds| {
            let all = (0..20).map(|seed| of(Watcher::LinksAndExit, &verdicts(clients, seconds, true, seed)));
            all.filter(|verdict| verdict.identified.is_some()).count()
        };
        // A packet tells a third of a nat or so, at ten a second.
        assert!(found(30, 20) >= 19, "{}", found(30, 20));
        assert!(found(30, 1) <= 8, "{}", found(30, 1));
    }

    #[test]
    fn where_nothing_belongs_together_nobody_is_found_beyond_chance() {
        let right = |seed| of(Watcher::LinksAndExit, &verdicts(30, 10, false, seed)).chance > 0.5;
        // By chance two of sixty. That somebody is thought to be it is to be expected: it takes one of them to be.
        let right = (100..160).filter(|seed| right(*seed)).count();
        assert!(right <= 7, "{right} of 60");
    }

    #[test]
    fn without_anything_seen_all_are_alike() {
        let verdict = of(Watcher::Links, &verdicts(50, 5, true, 7));
        assert!((verdict.chance - 0.02).abs() < 1e-9 && !verdict.wrong && verdict.identified.is_none());
    }
}
