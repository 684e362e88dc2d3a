//! Do the product's machines do what they say? Each check looks at one promise, from outside, and has a name.
//!
//! They are run on the machines as they are now: clients with and without something to say, relays, exits; in a
//! network that loses nothing and in one that does. Bounds are four to six standard deviations wide, so that a sound
//! machine passes. Means are looked at, not laws: what this does not see is named in docs/research.md.

use crate::clear::Clear;
use crate::observe::{End, Observer, Place};
use crate::packets::Packet;
use crate::scenario::Scenario;
use crate::town::{Habits, Town};
use crate::workload::{People, Workload};
use crate::world::{Shape, World};
use mizzle_protocol::geometry::LAYERS;
use mizzle_protocol::level::{Level, Step};
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::payload::Payload;
use mizzle_protocol::{Error, ErrorKind, Result};
use std::collections::HashMap;
use std::time::Duration;

/// What a check found.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The check.
    pub name: &'static str,
    /// What it promises.
    pub promise: &'static str,
    /// What was measured.
    pub measured: f64,
    /// The least that passes.
    pub least: f64,
    /// The most that passes.
    pub most: f64,
}

impl Finding {
    /// True if the promise is kept.
    pub fn passes(&self) -> bool {
        (self.least..=self.most).contains(&self.measured)
    }
}

/// Runs all checks.
pub fn check(seed: u64) -> Result<Vec<Finding>> {
    let calm = live(seed, 0.0)?;
    let lossy = live(seed, 0.02)?;
    let mut findings = Vec::new();
    calm.delays(&mut findings);
    calm.slots(&mut findings);
    routes(&calm, &lossy, &mut findings);
    calm.paths(&mut findings);
    calm.mixes(&mut findings);
    calm.replies(&mut findings);
    calm.relay_loops(&mut findings);
    Ok(findings)
}

/// What packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Loop,
    Drop,
    Session,
    Reply,
}

/// A packet that entered the network.
#[derive(Clone, Copy, Debug)]
struct Entered {
    at: Instant,
    /// Its client; of a reply, whom it goes to.
    client: u32,
    kind: Kind,
    mixes: [usize; LAYERS],
}

/// Writes down what machines do.
#[derive(Debug, Default)]
struct Log {
    entered: Vec<Entered>,
    /// How often each route, with its delays, was taken.
    ways: HashMap<Vec<(usize, Duration)>, u32>,
    /// How often each mix was taken as the first, second or third.
    mixes: HashMap<(usize, usize), u32>,
    /// Sum and count of the delays that senders drew, and of the time that mixes held packets.
    drawn: (Duration, u32),
    held: (Duration, u32),
    came: HashMap<u32, Instant>,
    /// Session packets that came to an exit.
    at_exit: Vec<(Instant, u32)>,
}

/// A network that was watched.
struct Watched {
    log: Log,
    shape: Shape,
    time: Duration,
    /// Clients that load all the time; the others never do.
    busy: u32,
    /// Loops of relays that came home.
    loops: u64,
}

/// Clients half of which load and write without a pause, at a pinned step of `balanced`.
fn live(seed: u64, loss: f64) -> Result<Watched> {
    let words = ["clients.count=8", "clients.step=1", "links.distance_ms=5"].map(str::to_owned);
    let scenario = Scenario::load(None, &words)
        .and_then(|scenario| scenario.shape())
        .map_err(|error| Error::new(ErrorKind::Misuse, error.to_string()))?;
    let mut shape = scenario;
    shape.links.loss = loss;
    let world = World::new(shape.clone(), Instant::ZERO, seed, Log::default())?;
    let busy = 4;
    let habits = Habits {
        speakers: busy as usize,
        // One after the other, each beginning at once.
        workload: Workload::Poisson { per_hour: 3_600.0, up: 30_000, down: 400_000 },
        people: People::default(),
        step: Step { level: Level::Balanced, step: 1 },
        pinned: true,
        from: Instant::ZERO,
    };
    let mut town = Town::new(world, &habits)?;
    // Sessions get into their stride.
    let start = Instant::ZERO + STRIDE;
    town.run(start)?;
    town.world.observer = Log { came: std::mem::take(&mut town.world.observer.came), ..Log::default() };
    let time = Duration::from_secs(120);
    town.run(start + time)?;
    let log = std::mem::take(&mut town.world.observer);
    let relays = shape.mixes() + shape.entries + shape.exits;
    let home = |town: &Town<Log>| {
        (0..relays).filter_map(|relay| town.world.loops(relay)).map(|loops| loops.home).sum()
    };
    let loops = home(&town);
    Ok(Watched { log, shape, time, busy, loops })
}

impl Watched {
    fn delays(&self, findings: &mut Vec<Finding>) {
        let mean = self.shape.parameters.mean_delay.as_secs_f64();
        for (name, promise, (sum, count)) in [
            ("delays drawn", "senders draw delays of the network's mean", self.log.drawn),
            ("delays kept", "mixes hold packets as long as their senders drew", self.log.held),
        ] {
            // An exponential time spreads as wide as its mean.
            let slack = 5.0 / libm::sqrt(f64::from(count.max(1))) + 0.002;
            let measured = sum.as_secs_f64() / f64::from(count.max(1)) / mean;
            findings.push(Finding { name, promise, measured, least: 1.0 - slack, most: 1.0 + slack });
        }
    }

    /// What a client sends, and of what kind, whether it is busy or not.
    fn slots(&self, findings: &mut Vec<Finding>) {
        let pace = self.shape.pace;
        let expected = |rate: f64| rate * self.time.as_secs_f64() * f64::from(self.busy);
        let count = |busy: bool, kinds: &[Kind]| {
            let of =
                |entered: &&Entered| (entered.client < self.busy) == busy && kinds.contains(&entered.kind);
            self.log.entered.iter().filter(of).count() as f64
        };
        let outward = [Kind::Loop, Kind::Drop, Kind::Session];
        let mut add = |name, promise, measured: f64, expected: f64, most: f64| {
            let slack = 5.0 / libm::sqrt(expected.max(1.0));
            let most = if most.is_finite() { most + slack } else { most };
            findings.push(Finding { name, promise, measured: measured / expected, least: 1.0 - slack, most });
        };
        let all = expected(pace.send_rate);
        add("cover at rest", "an idle client sends at its rate", count(false, &outward), all, 1.0);
        add("cover when busy", "a busy client sends at the same rate", count(true, &outward), all, 1.0);
        let drops = expected(pace.send_rate * pace.drop_share);
        add(
            "drops when busy",
            "a busy client's slots carry their share of drops",
            count(true, &[Kind::Drop]),
            drops,
            f64::INFINITY,
        );
        let loops = expected(pace.loops());
        add(
            "loops at rest",
            "an idle client sends its share of loops",
            count(false, &[Kind::Loop]),
            loops,
            1.0,
        );
        add(
            "loops when busy",
            "a busy client sends its share of loops",
            count(true, &[Kind::Loop]),
            loops,
            1.0,
        );
    }

    /// Share of packets whose way, with all its delays, an earlier one has taken.
    fn repeated(&self) -> f64 {
        let repeated: u32 = self.log.ways.values().map(|count| count - 1).sum();
        f64::from(repeated) / self.log.entered.len().max(1) as f64
    }

    /// How often a packet takes the mixes of the one before it, of the same client and the same kind.
    fn paths(&self, findings: &mut Vec<Finding>) {
        let mut last: HashMap<(u32, Kind), [usize; LAYERS]> = HashMap::new();
        let (mut pairs, mut alike) = (0u32, 0u32);
        for entered in &self.log.entered {
            if let Some(before) = last.insert((entered.client, entered.kind), entered.mixes) {
                pairs += 1;
                alike += u32::from(before == entered.mixes);
            }
        }
        let expected = 1.0 / libm::pow(self.shape.roads.width as f64, LAYERS as f64);
        let slack = 5.0 * libm::sqrt(expected / f64::from(pairs.max(1)));
        findings.push(Finding {
            name: "paths",
            promise: "a packet takes the mixes of the one before it as seldom as chance has it",
            measured: f64::from(alike) / f64::from(pairs.max(1)),
            least: expected - slack,
            most: expected + slack,
        });
    }

    /// Chi-square of how often each mix of a layer was taken, over its degrees of freedom.
    fn mixes(&self, findings: &mut Vec<Finding>) {
        let width = self.shape.roads.width;
        let total: u32 = self.log.mixes.values().sum();
        let expected = f64::from(total) / self.shape.mixes() as f64;
        let square: f64 = self
            .log
            .mixes
            .values()
            .map(|count| (f64::from(*count) - expected) * (f64::from(*count) - expected) / expected)
            .sum();
        let degrees = (self.shape.roads.layers * (width - 1)) as f64;
        findings.push(Finding {
            name: "mixes",
            promise: "each mix of a layer is taken equally often",
            measured: square / degrees,
            least: 0.0,
            most: 1.0 + 5.0 * libm::sqrt(2.0 / degrees),
        });
    }

    /// Replies that leave an exit at the very moment at which a packet of their session came.
    fn replies(&self, findings: &mut Vec<Finding>) {
        let arrivals: std::collections::HashSet<(Instant, u32)> = self.log.at_exit.iter().copied().collect();
        let replies: Vec<_> = self.log.entered.iter().filter(|entered| entered.kind == Kind::Reply).collect();
        let at_once = replies.iter().filter(|reply| arrivals.contains(&(reply.at, reply.client))).count();
        findings.push(Finding {
            name: "SURBs",
            promise: "no reply leaves at the moment at which a packet of its session arrives",
            measured: at_once as f64 / replies.len().max(1) as f64,
            least: 0.0,
            most: 0.001,
        });
    }
}

impl Watched {
    /// Loops of relays that came home, from the very start.
    fn relay_loops(&self, findings: &mut Vec<Finding>) {
        let relays = self.shape.mixes() + self.shape.entries + self.shape.exits;
        let expected = self.shape.relay_loops * relays as f64 * (self.time + STRIDE).as_secs_f64();
        let slack = 5.0 / libm::sqrt(expected.max(1.0));
        findings.push(Finding {
            name: "relay loops",
            promise: "relays send loops at their rate, and all come home",
            measured: self.loops as f64 / expected.max(1.0),
            least: 1.0 - slack,
            most: 1.0 + slack,
        });
    }
}

/// Ways that were taken twice. If that happens much more often where packets get lost, it is by what is sent again: some is
/// in a network without losses, too, as a late packet may be taken for a lost one.
fn routes(calm: &Watched, lossy: &Watched, findings: &mut Vec<Finding>) {
    let (always, with_losses) = (calm.repeated(), lossy.repeated());
    let by_resends = with_losses > 3.0 * always;
    let mut add = |name, promise, measured| {
        findings.push(Finding { name, promise, measured, least: 0.0, most: 0.0 });
    };
    let (routes, resends) = if by_resends { (0.0, with_losses) } else { (always, 0.0) };
    add("routes", "no two packets have the same route and delays", routes);
    add("resends", "what is sent again takes a new route", resends);
}

impl Observer for Log {
    fn sent(&mut self, now: Instant, from: Place, packet: &mut Packet) {
        let way: Vec<_> = Clear::route(&packet.bytes).collect();
        let last = way.last().map_or(0, |(last, _)| *last) as u32;
        let (client, kind) = match from {
            Place::Loop(_) => return,
            Place::Relay(_) => (last, Kind::Reply),
            Place::Client(client) => match Payload::parse(Clear::message(&packet.bytes)) {
                Ok(Payload::Session(_) | Payload::Ping(_)) => (client, Kind::Session),
                Ok(Payload::Drop) => (client, Kind::Drop),
                // A loop carries nothing.
                Err(_) => (client, Kind::Loop),
            },
        };
        for (layer, (mix, delay)) in way.iter().take(LAYERS).enumerate() {
            *self.mixes.entry((layer, *mix)).or_default() += 1;
            self.drawn.0 += *delay;
            self.drawn.1 += 1;
        }
        let mixes = std::array::from_fn(|layer| way.get(layer).map_or(0, |(mix, _)| *mix));
        self.entered.push(Entered { at: now, client, kind, mixes });
        *self.ways.entry(way).or_default() += 1;
    }

    fn comes(&mut self, now: Instant, _: u32, _: usize, packet: &mut Packet) {
        self.came.insert(packet.number, now);
    }

    fn leaves(&mut self, now: Instant, _: u32, _: usize, packet: &mut Packet) {
        if let Some(came) = self.came.remove(&packet.number) {
            self.held.0 += now.since(came);
            self.held.1 += 1;
        }
    }

    fn ends(&mut self, now: Instant, end: End, packet: &mut Packet) {
        let message = Clear::message(&packet.bytes);
        if end == End::Delivered && matches!(Payload::parse(message), Ok(Payload::Session(_))) {
            self.at_exit.push((now, packet.sender));
        }
    }
}

/// How long clients and sessions take to get into their stride, at the most.
const STRIDE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn the_machines_do_what_they_say() {
        let findings = check(1).unwrap();
        let names: Vec<_> = findings.iter().map(|finding| finding.name).collect();
        assert_eq!(
            names,
            [
                "delays drawn",
                "delays kept",
                "cover at rest",
                "cover when busy",
                "drops when busy",
                "loops at rest",
                "loops when busy",
                "routes",
                "resends",
                "paths",
                "mixes",
                "SURBs",
                "relay loops"
            ]
        );
        for finding in findings {
            assert!(finding.passes(), "{finding:?}");
        }
    }
}
