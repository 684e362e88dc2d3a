//! Those who do something with links in their hands: all that a scenario asks for, side by side.

use super::disturbing::{Disturbance, Disturbing};
use super::isolation::Isolation;
use super::replaying::Replaying;
use super::tagging::Tagging;
use crate::observe::{End, Fate, Observer, Place};
use crate::outcome::Figure;
use crate::packets::Packet;
use crate::world::{Shape, World};
use mizzle_protocol::time::Instant;
use std::time::Duration;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Plan {
    /// Follow single packets by keeping all others away.
    pub isolate: bool,
    /// Copies of each packet that is replayed; zero: none is.
    pub copies: u32,
    /// Share of clients' packets that entries tag.
    pub tag: f64,
    /// Share of exits that are bad: the first ones.
    pub corrupt_exits: f64,
    /// What is done to packets on a victim's line.
    pub disturb: Option<Disturbance>,
}

/// Those who meddle.
#[derive(Debug, Default)]
pub struct Meddlers {
    isolation: Option<Isolation>,
    replaying: Option<Replaying>,
    tagging: Option<Tagging>,
    disturbing: Option<Disturbing>,
    bad_exits: f64,
    from: Instant,
}

impl Meddlers {
    /// Those of a plan, from a moment on; the first `speakers` clients are victims of disturbances.
    pub fn new(plan: &Plan, shape: &Shape, speakers: usize, from: Instant, seed: u64) -> Self {
        let (mixes, clients, gateways) = (shape.mixes(), shape.clients, shape.entries + shape.exits);
        let mean = shape.parameters.mean_delay;
        let way = shape.links.distance.mean();
        let layers = shape.roads.layers as u32;
        let longest = (shape.parameters.max_delay + way) * layers + way + Duration::from_millis(1);
        let first_exit = mixes + shape.entries;
        let bad = (plan.corrupt_exits * shape.exits as f64).round() as usize;
        let lag = (mean + way) * layers + way * 2;
        Self {
            isolation: plan.isolate.then(|| Isolation::new(mixes, clients, mean, from)),
            replaying: (plan.copies > 0)
                .then(|| Replaying::new([mixes, gateways, clients], plan.copies, longest, from)),
            tagging: (plan.tag > 0.0).then(|| {
                let every = (1.0 / plan.tag).round() as u32;
                Tagging::new(mixes, clients, every, first_exit..first_exit + bad, from)
            }),
            disturbing: plan.disturb.map(|what| Disturbing::new(what, speakers, lag, from, seed)),
            bad_exits: bad as f64 / shape.exits.max(1) as f64,
            from,
        }
    }

    /// True if one of them keeps packets away, holds them or adds some, so that no closed form holds.
    pub(crate) fn disturb_all(&self) -> bool {
        self.isolation.is_some() || self.replaying.is_some() || self.disturbing.is_some()
    }

    /// How far they got, chance beside each.
    pub(crate) fn figures<O: Observer>(&self, world: &World<O>, figures: &mut Vec<Figure>) {
        let shape = world.shape();
        let mut add = |name, value, theory| figures.push(Figure { name, value, theory });
        let share = |part: u32, of: u32| f64::from(part) * 100.0 / f64::from(of.max(1));
        if let Some(isolation) = &self.isolation {
            let found = isolation.found;
            add("n-1: packets followed", f64::from(found.rounds), None);
            add("n-1: to the end, %", share(found.right, found.rounds), None);
            add("n-1: by chance, %", found.chance * 100.0 / f64::from(found.rounds.max(1)), None);
            let first = world.alarms().iter().map(|(at, _)| *at).find(|at| *at >= self.from);
            let seconds = first.map_or(f64::NAN, |at| at.since(self.from).as_secs_f64());
            add("n-1: first alarm after, s", seconds, None);
            add("n-1: packets taken, %", world.taken() as f64 * 100.0 / world.sent().max(1) as f64, None);
        }
        if let Some(replaying) = &self.replaying {
            add("replay: packets replayed", f64::from(replaying.rounds), None);
            add("replay: gateway named, %", share(replaying.right, replaying.rounds), None);
            add("replay: by chance, %", 100.0 / (shape.entries + shape.exits) as f64, None);
        }
        if let Some(tagging) = &self.tagging {
            add("tagging: packets tagged", f64::from(tagging.ended), None);
            // Loops of clients never see an exit.
            let outward = 1.0 - shape.pace.loops() / shape.pace.send_rate;
            let expected = outward * self.bad_exits * 100.0;
            add(
                "tagging: known again at bad exits, %",
                share(tagging.recognised, tagging.ended),
                Some(expected),
            );
        }
        if let Some(disturbing) = &self.disturbing {
            add("disturbing: clients disturbed", f64::from(disturbing.trials), None);
            add("disturbing: session picked, %", share(disturbing.right, disturbing.trials), None);
            add(
                "disturbing: by chance, %",
                disturbing.chance * 100.0 / f64::from(disturbing.trials.max(1)),
                None,
            );
        }
    }
}

impl Observer for Meddlers {
    fn crosses(&mut self, now: Instant, from: Place, to: u32, packet: &mut Packet) -> Fate {
        let mut fate = Fate::Pass;
        let mut ask = |who: Option<Fate>| {
            if fate == Fate::Pass {
                fate = who.unwrap_or_default();
            }
        };
        // All of them see the packet; the first that does something does it.
        ask(self.isolation.as_mut().map(|who| who.crosses(now, from, to, packet)));
        ask(self.replaying.as_mut().map(|who| who.crosses(now, from, to, packet)));
        ask(self.tagging.as_mut().map(|who| who.crosses(now, from, to, packet)));
        ask(self.disturbing.as_mut().map(|who| who.crosses(now, from, to, packet)));
        fate
    }

    fn comes(&mut self, now: Instant, relay: u32, held: usize, packet: &mut Packet) {
        if let Some(isolation) = &mut self.isolation {
            isolation.comes(now, relay, held, packet);
        }
    }

    fn leaves(&mut self, now: Instant, relay: u32, held: usize, packet: &mut Packet) {
        if let Some(isolation) = &mut self.isolation {
            isolation.leaves(now, relay, held, packet);
        }
    }

    fn ends(&mut self, now: Instant, end: End, packet: &mut Packet) {
        if let Some(tagging) = &mut self.tagging {
            tagging.ends(now, end, packet);
        }
        if let Some(disturbing) = &mut self.disturbing {
            disturbing.ends(now, end, packet);
        }
    }
}
