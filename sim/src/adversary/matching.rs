//! Whose flow is it? Someone who has one end of a flow looks for the client at the other end.
//!
//! Every packet takes a time of Erlang's law. If a client is the one, each packet at the exit was in one of its slots
//! so long ago, and its slots explain the moments better than chance does; by how much is a logarithm that adds up
//! packet by packet (the method of MixMatch, Oldenburg et al., 2024). The same homeward, with the replies that left
//! the exit and what came to each client's entry.
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

/// Has every watcher look at every flow. A flow is watched from its beginning until it was over, and a moment longer,
/// or until `end`.
pub fn judge(
    lines: &Lines,
    flows: &[FlowRecord],
    seen: &[Seen],
    shape: &Shape,
    end: Instant,
) -> Vec<Verdict> {
    let law = Law::of(shape);
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
        for &arrival in self.outward {
            let slots = slice(&ends.outward, arrival - law.longest, arrival);
            let sum: f64 = slots.iter().map(|slot| law.density(arrival.since(*slot), law.links_out)).sum();
            add(arrival, libm::log(SURE * sum / law.send_rate + (1.0 - SURE)));
        }
        if !self.outward.is_empty() {
            // A client whose slots come more often than others' explains more, and should have been seen more often.
            let share = SURE * self.outward.len() as f64 / (law.send_rate * self.seconds());
            for &slot in slice(&ends.outward, self.begins, self.over) {
                add(slot + law.mean, -share);
            }
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
    send_rate: f64,
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
            send_rate: shape.pace.send_rate,
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

/// How often the watcher looks at its sums.
const STEP: Duration = Duration::from_millis(250);
/// How sure it is that its own picture is right: packets get lost, and some are not what they seem.
const SURE: f64 = 0.98;
