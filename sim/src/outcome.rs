//! What one run came to: figures, and the curves behind them.

use crate::adversary::disclosure::{self, Disclosed, Sign};
use crate::adversary::lines::Lines;
use crate::adversary::matching::{Applications, Verdict, WATCHERS, Watcher, judge};
use crate::adversary::meddling::Meddlers;
use crate::adversary::paths::Paths;
use crate::adversary::presence::Suspects;
use crate::adversary::toggle;
use crate::adversary::trial::Trial;
use crate::figures::{
    distance_to_poisson, erlang_quantile, lowest_tenth_of_all, mean_of_any, median_of_all, milliseconds,
    mix_entropy, quantile, quantile_of_any, stratified_entropy, wholly_corrupt,
};
use crate::links::Distance;
use crate::observe::Observer;
use crate::roads::{Arrangement, Law};
use crate::senders::{self, Senders};
use crate::targets::Targets;
use crate::town::FlowRecord;
use crate::watch::Watch;
use crate::world::{Shape, World};
use mizzle_protocol::relay_loops::Status;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// A figure that a run has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What it is, with its unit.
    pub name: &'static str,
    /// What came out; no number, if it was never reached.
    pub value: f64,
    /// What the closed form says, where there is one and it holds.
    pub theory: Option<f64>,
}

/// What was not measured, and is in no figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LeftOut {
    /// What, and why.
    pub what: &'static str,
    /// So many.
    pub count: usize,
    /// Of so many.
    pub of: usize,
}

/// What one run came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Packets that clients and exits sent, from the start.
    pub sent: u64,
    /// Packets that arrived at an exit or at home.
    pub delivered: u64,
    /// Packets that were dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Packets still on their way at the end, counted where they were.
    pub in_flight: u64,
    /// The same by the book that keeps their bytes.
    pub kept: u64,
    /// Events from the start.
    pub events: u64,
    /// The figures, in an order that is always the same.
    pub figures: Vec<Figure>,
    /// What was left out of them.
    pub left_out: Vec<LeftOut>,
    /// Which figures have no closed form beside them, and which assumption of it does not hold.
    pub no_form: Vec<&'static str>,
    /// Every hundredth of the latencies, from the least to the greatest, in milliseconds; nothing, if there were none.
    pub latency: Vec<f64>,
    /// Their mean and their standard deviation, in milliseconds.
    pub latency_moments: [f64; 2],
    /// Share of the time for which mixes held 0, 1, 2, … packets.
    pub occupancy: Vec<f64>,
    /// For each target that came out: when it came in, in seconds from the start of what is measured, and its entropy in bits.
    pub entropy: Vec<(f64, f64)>,
    /// For each watcher of flows, in their order: how long after its beginning each flow's client was identified for
    /// good, in seconds; those that were not are left out.
    pub identified: Vec<Vec<f64>>,
    /// Flows that were watched.
    pub watched: usize,
    /// Suspects that are left at the end of each day, in the median over the pseudonyms.
    pub suspects: Vec<usize>,
    /// Attacks that go on for long, with how far they got.
    pub trials: Vec<Trial>,
}

impl Outcome {
    /// What the observers of a world that has run for `time` make of it.
    pub(crate) fn of(
        world: &mut World<Observers>,
        applications: &Applications,
        seed: u64,
        time: Duration,
    ) -> Self {
        let flows = &applications.flows;
        let now = world.now();
        let held: Vec<_> = (0..world.shape().mixes()).map(|mix| world.held(mix)).collect();
        world.observer.0.0.0.0.stop(now, |mix| held.get(mix).copied().unwrap_or(0));
        let shape = world.shape();
        let ((((watch, targets), senders), (lines, paths)), meddlers) = &world.observer;
        let mut latencies = watch.latencies.clone();
        latencies.sort_unstable();
        let occupancy = occupancy(watch);
        let mut figures = Vec::new();
        let mut left_out = Vec::new();
        let mut forms = Forms::of(shape, meddlers, time);
        speed(shape, &latencies, &mut forms, &mut figures);
        applied(flows, &mut left_out, &mut figures);
        // Where nobody speaks the load is known; what sessions add is measured.
        let load = match flows.is_empty() {
            true => {
                let sent = shape.clients as f64 * shape.pace.send_rate + shape.loops_of_a_layer();
                sent * shape.parameters.mean_delay.as_secs_f64()
            }
            false => watch.load(shape.roads.layers, time) * shape.parameters.mean_delay.as_secs_f64(),
        };
        mixing(shape, watch, load, &occupancy, &mut forms, &mut figures);
        let honest = load * (1.0 - targets.known_share(shape.clients));
        packets(shape, targets, honest, &mut forms, &mut left_out, &mut figures);
        who_sent(shape, senders, &mut left_out, &mut figures);
        wholly_corrupt_paths(shape, targets, paths, &forms, &mut figures);
        let verdicts = judge(lines, applications, shape, now);
        matching(&verdicts, shape.clients, &mut figures);
        meddlers.figures(world, &mut figures);
        alarms(world, &mut figures);
        let clients = shape.clients as f64;
        figures.push(Figure {
            name: "sent by a client, kbit/s",
            value: watch.on_lines as f64 * shape.parameters.geometry.packet() as f64 * 8.0
                / 1e3
                / time.as_secs_f64()
                / clients,
            theory: None,
        });
        Self {
            seed,
            sent: world.sent(),
            delivered: world.delivered(),
            dropped: dropped(world),
            in_flight: world.in_flight(),
            kept: world.kept(),
            events: world.events(),
            figures,
            left_out,
            no_form: forms.missing,
            latency: (0..=100)
                .filter(|_| !latencies.is_empty())
                .map(|rank| f64::from(quantile(&latencies, f64::from(rank) / 100.0)) / 1e3)
                .collect(),
            latency_moments: moments(&latencies),
            occupancy,
            entropy: targets.over_time(),
            identified: WATCHERS.into_iter().map(|watcher| times(&verdicts, watcher)).collect(),
            watched: verdicts.len() / WATCHERS.len(),
            suspects: Vec::new(),
            trials: Vec::new(),
        }
    }

    /// Adds what became of the suspects of some pseudonyms.
    pub(crate) fn strike_out(&mut self, all: &[Suspects]) {
        let median = |mut values: Vec<usize>| {
            values.sort_unstable();
            quantile(&values, 0.5)
        };
        let days = all.first().map_or(0, |suspects| suspects.left.len());
        self.suspects = (0..days)
            .map(|day| median(all.iter().filter_map(|one| one.left.get(day).copied()).collect()))
            .collect();
        let mut alone: Vec<_> = all.iter().filter_map(|one| one.alone.map(f64::from)).collect();
        alone.sort_by(f64::total_cmp);
        let last = self.suspects.last().copied().unwrap_or_default();
        let when = median_of_all(&alone, all.len()).unwrap_or(f64::NAN);
        let plain = |name, value| Figure { name, value, theory: None };
        self.figures.extend([
            plain("presence: pseudonyms found, %", alone.len() as f64 * 100.0 / all.len().max(1) as f64),
            plain("presence: days to that, p50", when),
            plain("presence: suspects left at the end", last as f64),
        ]);
    }

    /// Adds how soon the visitor of a site was found by its toggled load, among so many clients.
    pub(crate) fn toggled(&mut self, verdict: &toggle::Verdict, period: Duration, clients: usize) {
        let rounds = verdict.likely.len();
        let share = |part: f64| part * 100.0;
        let found = if verdict.identified.is_some() { 1.0 } else { 0.0 };
        let plain = |name, value| Figure { name, value, theory: None };
        self.figures.extend([
            plain("toggle: rounds", rounds as f64),
            plain("toggle: rounds with a rise, %", share(verdict.rose as f64 / rounds.max(1) as f64)),
            plain("toggle: visitor identified, %", share(found)),
            plain("toggle: visitor guessed right, %", share(verdict.guessed)),
            plain("toggle: that by chance, %", share(1.0 / clients.max(1) as f64)),
        ]);
        self.trials.push(verdict.trial(period, clients));
    }

    /// Adds which of their sites were found out of all clients by one sign.
    pub(crate) fn disclosed(&mut self, sign: Sign, clients: &[Disclosed]) {
        let trial = disclosure::trial(sign, clients);
        let mean =
            |of: fn(&Disclosed) -> f64| clients.iter().map(of).sum::<f64>() / clients.len().max(1) as f64;
        // Who showed no sign is left to the guess without any.
        let found = mean(|one| one.shares.last().map_or(one.unsigned, |(_, share)| *share));
        let rounds = mean(|one| one.shares.last().map_or(0.0, |(rounds, _)| *rounds));
        let names = match sign {
            Sign::Load => [
                "sites by load: rounds",
                "sites by load: found, %",
                "sites by load: by a guess, %",
                "sites by load: by chance, %",
            ],
            Sign::Presence => [
                "sites by presence: rounds",
                "sites by presence: found, %",
                "sites by presence: by a guess, %",
                "sites by presence: by chance, %",
            ],
        };
        let values =
            [rounds, found * 100.0, mean(|one| one.unsigned) * 100.0, mean(|one| one.chance) * 100.0];
        let figures = names.into_iter().zip(values);
        self.figures.extend(figures.map(|(name, value)| Figure { name, value, theory: None }));
        self.trials.push(trial);
    }

    /// The figure of this name, if this run has it.
    pub fn figure(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }

    /// True if every packet is accounted for, in both books.
    pub fn balances(&self) -> bool {
        self.sent == self.delivered + self.dropped.values().sum::<u64>() + self.in_flight
            && self.kept == self.in_flight
    }
}

/// What relays notice of it all by their own loops. No figures where they send none.
fn alarms<O: Observer>(world: &World<O>, figures: &mut Vec<Figure>) {
    let shape = world.shape();
    let relays = shape.mixes() + shape.entries + shape.exits;
    let all: Vec<_> = (0..relays).filter_map(|relay| world.loops(relay)).collect();
    let sum = |of: fn(&Status) -> u64| all.iter().map(of).sum::<u64>() as f64;
    let judged = sum(|loops| loops.home + loops.lost);
    if judged == 0.0 {
        return;
    }
    let on = all.iter().filter(|loops| loops.alarm).count() as f64;
    let plain = |name, value| Figure { name, value, theory: None };
    figures.extend([
        plain("loops of relays lost, %", sum(|loops| loops.lost) * 100.0 / judged),
        plain("relays with an alarm at the end, %", on * 100.0 / relays as f64),
    ]);
}

/// Packets that ended on their way, by reason.
fn dropped<O: Observer>(world: &World<O>) -> BTreeMap<&'static str, u64> {
    let reasons = world.dropped().iter().map(|(reason, &count)| (reason.label(), count));
    reasons.chain((world.taken() > 0).then(|| ("taken by an adversary", world.taken()))).collect()
}

/// Whether closed forms hold for a run, and what is in the way of those that do not.
struct Forms {
    /// What delays need not have to do with: nothing is lost, taken, held up or late.
    quiet: bool,
    /// Also, delays are exponential, and the run is not too short.
    hold: bool,
    missing: Vec<&'static str>,
}

impl Forms {
    fn of(shape: &Shape, meddlers: &Meddlers, time: Duration) -> Self {
        let mean = shape.parameters.mean_delay;
        let exponential = shape.roads.law == Law::Exponential;
        let turnover = shape.turnover.as_ref();
        let mut missing = Vec::new();
        match shape.links.beyond_forms() {
            Some("links.loss") => missing.push("of any figure: packets are lost (links.loss)"),
            Some("links.capacity") => {
                missing.push("of any figure: relays can take so many packets only (links.capacity)");
            }
            Some(_) => missing.push("of any figure: relays send so much only (links.bandwidth_mbit)"),
            None => {}
        }
        if turnover.is_some_and(|turnover| turnover.cuts_an_hour > 0.0) {
            missing.push("of any figure: relays are cut off (network.cuts_an_hour)");
        }
        if turnover.is_some_and(|turnover| turnover.key_period.is_some()) {
            missing.push("of any figure: mixes change their layers (network.key_period_s)");
        }
        if meddlers.disturb_all() {
            missing.push(
                "of any figure: someone keeps packets away, holds them or sends them again (adversary)",
            );
        }
        let quiet = missing.is_empty();
        if !exponential {
            missing.push("of latency and entropy: delays are not exponential (network.law)");
        }
        // A tenth of a percent of a mean less is what a longest delay of ten means costs. The slack is for what was rounded.
        if exponential && shape.parameters.max_delay.as_secs_f64() < mean.as_secs_f64() * 9.99 {
            missing.push("of any figure: the longest delay is below ten means (network.max_delay_ms)");
        }
        if time < mean * 30 * shape.roads.layers as u32 {
            missing.push("of any figure: the run is shorter than thirty mean delays a layer (seconds)");
        }
        Self { quiet, hold: missing.is_empty(), missing }
    }

    /// A closed form, if all holds and also `is`; otherwise why not.
    fn form(&mut self, form: Option<f64>, is: bool, why: &'static str) -> Option<f64> {
        if self.hold && !(is && form.is_some()) && !self.missing.contains(&why) {
            self.missing.push(why);
        }
        form.filter(|_| self.hold && is)
    }
}

/// The mean and the standard deviation of times in microseconds, in milliseconds.
fn moments(latencies: &[u32]) -> [f64; 2] {
    if latencies.is_empty() {
        return [f64::NAN; 2];
    }
    let count = latencies.len().max(1) as f64;
    let mean = latencies.iter().copied().map(f64::from).sum::<f64>() / count;
    let squares = latencies.iter().map(|latency| (f64::from(*latency) - mean) * (f64::from(*latency) - mean));
    [mean / 1e3, libm::sqrt(squares.sum::<f64>() / count) / 1e3]
}

fn occupancy(watch: &Watch) -> Vec<f64> {
    let longest = watch.mixes.iter().map(|mix| mix.occupancy.len()).max().unwrap_or(0);
    let total: f64 = watch.mixes.iter().flat_map(|mix| &mix.occupancy).map(Duration::as_secs_f64).sum();
    let at = |held: usize| {
        let times = watch.mixes.iter().filter_map(|mix| mix.occupancy.get(held));
        times.map(Duration::as_secs_f64).sum::<f64>() / total.max(1e-9)
    };
    (0..longest).map(at).collect()
}

fn speed(shape: &Shape, latencies: &[u32], forms: &mut Forms, figures: &mut Vec<Figure>) {
    // Four links of the five: client to entry, and between relays to the last one.
    let links = shape.links.distance.mean().as_secs_f64() * (shape.roads.layers + 2) as f64;
    let mean = shape.parameters.mean_delay.as_secs_f64();
    let known = matches!(shape.links.distance, Distance::Equal(_));
    let times: Vec<_> = latencies.iter().map(|latency| f64::from(*latency) / 1e3).collect();
    for (name, share) in [("latency p50, ms", 0.5), ("latency p95, ms", 0.95), ("latency p99, ms", 0.99)] {
        let law = (links + erlang_quantile(shape.roads.layers as u32, share) * mean) * 1e3;
        figures.push(Figure {
            name,
            value: quantile_of_any(&times, share),
            theory: forms.form(Some(law), known, "of latency: links differ in their length (links)"),
        });
    }
}

/// What applications had of it. No figures where there were none.
fn applied(flows: &[FlowRecord], left_out: &mut Vec<LeftOut>, figures: &mut Vec<Figure>) {
    if flows.is_empty() {
        return;
    }
    let count = |is: fn(&FlowRecord) -> bool| flows.iter().filter(|flow| is(flow)).count() as f64;
    let sorted = |of: fn(&FlowRecord) -> Option<f64>| {
        let mut values: Vec<_> = flows.iter().filter_map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let first = sorted(|flow| flow.first_byte.map(milliseconds));
    let whole = sorted(|flow| flow.finished.map(milliseconds));
    // Of an answer of no bytes there is nothing to time.
    let goodput = sorted(|flow| {
        let time = flow.finished.filter(|time| flow.flow.down > 0 && !time.is_zero())?;
        Some(flow.flow.down as f64 / 1e3 / time.as_secs_f64())
    });
    let empty = flows.iter().filter(|flow| flow.flow.down == 0).count();
    leave_out(left_out, "flows whose answers have no bytes, of first byte and goodput", empty, flows.len());
    let plain = |name, value| Figure { name, value, theory: None };
    figures.extend([
        plain("flows begun", flows.len() as f64),
        plain("flows finished", count(|flow| flow.finished.is_some())),
        plain("flows cut off", count(|flow| flow.reset.is_some())),
        plain("flows spoilt", count(|flow| flow.spoilt && flow.reset.is_none())),
        plain("first byte p50, ms", quantile_of_any(&first, 0.5)),
        plain("first byte p95, ms", quantile_of_any(&first, 0.95)),
        plain("whole answer p50, ms", quantile_of_any(&whole, 0.5)),
        plain("whole answer p95, ms", quantile_of_any(&whole, 0.95)),
        plain("goodput of a flow p50, kB/s", quantile_of_any(&goodput, 0.5)),
    ]);
}

/// Notes that so many were left out, if some were.
fn leave_out(left_out: &mut Vec<LeftOut>, what: &'static str, count: usize, of: usize) {
    if count > 0 {
        left_out.push(LeftOut { what, count, of });
    }
}

fn mixing(
    shape: &Shape,
    watch: &Watch,
    load: f64,
    occupancy: &[f64],
    forms: &mut Forms,
    figures: &mut Vec<Figure>,
) {
    let exponential = shape.roads.law == Law::Exponential;
    let by_age = forms.quiet && matches!(shape.roads.law, Law::Constant | Law::Uniform);
    let mean = shape.parameters.mean_delay.as_secs_f64();
    let rho = load / passed_by(shape);
    let held = watch.mixes.iter().map(crate::watch::MixFigures::mean_held).sum::<f64>();
    let departures: u64 = watch.mixes.iter().map(|mix| mix.departures).sum();
    let bits = watch.mixes.iter().map(|mix| mix.entropy).sum::<f64>();
    figures.push(Figure {
        name: "packets held by a mix",
        value: held / watch.mixes.len().max(1) as f64,
        theory: (forms.hold || by_age).then_some(load * shape.roads.layers as f64 / shape.mixes() as f64),
    });
    figures.push(Figure {
        name: "distance of that to Poisson",
        value: distance_to_poisson(occupancy, rho),
        theory: forms.hold.then_some(0.0),
    });
    figures.push(Figure {
        name: "entropy of one mix, bits",
        // The incremental form takes all packets in a mix for equally likely to leave.
        value: if exponential && departures > 0 { bits / departures as f64 } else { f64::NAN },
        theory: forms.form(
            mix_entropy(rho),
            mean > 0.0,
            "of the entropy of one mix: a mix holds fewer than two packets",
        ),
    });
}

/// Among how many mixes the packets of a layer are shared.
fn passed_by(shape: &Shape) -> f64 {
    match shape.roads.arrangement {
        Arrangement::Stratified | Arrangement::Cascade => shape.roads.width as f64,
        Arrangement::FreeRoute => shape.mixes() as f64 / shape.roads.layers as f64,
    }
}

fn packets(
    shape: &Shape,
    targets: &Targets,
    load: f64,
    forms: &mut Forms,
    left_out: &mut Vec<LeftOut>,
    figures: &mut Vec<Figure>,
) {
    let found = targets.found();
    let count = targets.started();
    let whole: Vec<usize> = (0..count).filter(|target| found.is_out(*target)).collect();
    leave_out(
        left_out,
        "targets that had not come out, of the entropies of packets",
        count - whole.len(),
        count,
    );
    let mut entropy: Vec<f64> =
        whole.iter().filter_map(|target| found.entropy.get(*target).copied()).collect();
    let min_entropy: Vec<f64> = whole.iter().map(|target| found.min_entropy(*target)).collect();
    let rho = load / passed_by(shape);
    let (form, is, why) = match shape.roads.arrangement {
        Arrangement::Cascade | Arrangement::FreeRoute => {
            (None, false, "of the entropy of packets: mixes are not in layers (network.arrangement)")
        }
        // Links of different lengths spread packets further than the mixes alone do.
        Arrangement::Stratified if !matches!(shape.links.distance, Distance::Equal(_)) => {
            (None, false, "of the entropy of packets: links differ in their length (links)")
        }
        Arrangement::Stratified if targets.corrupt_count() > 0 => {
            (None, false, "of the entropy of packets: some mixes are corrupt (adversary.corrupt)")
        }
        Arrangement::Stratified => (
            stratified_entropy(shape.roads.layers, load, rho),
            true,
            "of the entropy of packets: a mix holds fewer than 20, or there are two layers, or so many mixes that \
             traces do not reach all",
        ),
    };
    figures.push(Figure {
        name: "entropy of packets, bits",
        value: mean_of_any(&entropy),
        theory: forms.form(form, is, why),
    });
    entropy.sort_by(f64::total_cmp);
    figures.push(Figure {
        name: "entropy of packets, lowest tenth, bits",
        value: quantile_of_any(&entropy, 0.1),
        theory: None,
    });
    figures.push(Figure {
        name: "min-entropy of packets, bits",
        value: mean_of_any(&min_entropy),
        theory: None,
    });
    let out: f64 = found.out.iter().sum();
    figures.push(Figure {
        name: "shares of targets lost",
        value: (count as f64 - out - targets.inside()).abs() / count.max(1) as f64,
        theory: Some(0.0),
    });
}

fn who_sent(shape: &Shape, senders: &Senders, left_out: &mut Vec<LeftOut>, figures: &mut Vec<Figure>) {
    // A mix looks the same backwards with exponential delays only.
    let suspects = match shape.roads.law {
        Law::Exponential => senders.follow_back(shape.clients),
        Law::Constant | Law::Uniform | Law::Pool { .. } => {
            let why = "runs, of the figures of senders and the entropy of one mix: delays are not exponential (network.law)";
            leave_out(left_out, why, 1, 1);
            senders::Suspects::default()
        }
    };
    let (traced, all) = (suspects.entropy.len(), suspects.entropy.len() + suspects.untraced);
    leave_out(left_out, "packets not traced to senders, of the figures of senders", suspects.untraced, all);
    leave_out(left_out, "packets that the other client cannot have sent, of epsilon", suspects.apart, traced);
    let bits =
        |shares: &[f64]| mean_of_any(&shares.iter().map(|share| libm::log2(1.0 / share)).collect::<Vec<_>>());
    let mut entropy = suspects.entropy.clone();
    entropy.sort_by(f64::total_cmp);
    figures.push(Figure { name: "entropy of senders, bits", value: mean_of_any(&entropy), theory: None });
    figures.push(Figure {
        name: "entropy of senders, lowest tenth, bits",
        value: quantile_of_any(&entropy, 0.1),
        theory: None,
    });
    figures.push(Figure {
        name: "min-entropy of senders, bits",
        value: bits(&suspects.largest),
        theory: None,
    });
    figures.push(Figure {
        name: "epsilon between two senders",
        value: mean_of_any(&suspects.epsilon),
        theory: None,
    });
}

/// How many batches had a packet that met corrupt mixes only. No figure where none were counted.
fn wholly_corrupt_paths(
    shape: &Shape,
    targets: &Targets,
    paths: &Paths,
    forms: &Forms,
    figures: &mut Vec<Figure>,
) {
    if paths.batches() == 0 {
        return;
    }
    let width = shape.roads.width.max(1);
    let path: f64 = (0..shape.roads.layers)
        .map(|layer| {
            (layer * width..(layer + 1) * width).filter(|mix| targets.is_corrupt(*mix as u32)).count()
        })
        .map(|corrupt| corrupt as f64 / width as f64)
        .product();
    let known = shape.roads.arrangement == Arrangement::Stratified && forms.quiet;
    figures.push(Figure {
        name: "batches that met a wholly corrupt path, %",
        value: paths.met() as f64 * 100.0 / paths.batches() as f64,
        theory: known.then(|| wholly_corrupt(path, 1, f64::from(paths.batch())) * 100.0),
    });
}

/// How far those got who looked for the clients of flows.
fn matching(verdicts: &[Verdict], clients: usize, figures: &mut Vec<Figure>) {
    let names = [
        [
            "all links: flows identified, %",
            "all links: time to that, p50, s",
            "all links: time to that, p10, s",
            "all links: flows mistaken, %",
        ],
        [
            "and exit: flows identified, %",
            "and exit: time to that, p50, s",
            "and exit: time to that, p10, s",
            "and exit: flows mistaken, %",
        ],
        [
            "entry, exit: flows identified, %",
            "entry, exit: time to that, p50, s",
            "entry, exit: time to that, p10, s",
            "entry, exit: flows mistaken, %",
        ],
    ];
    for (watcher, names) in WATCHERS.into_iter().zip(names) {
        let own: Vec<_> = verdicts.iter().filter(|verdict| verdict.watcher == watcher).collect();
        if own.is_empty() {
            continue;
        }
        let times = times(verdicts, watcher);
        let share = |count: usize| count as f64 * 100.0 / own.len() as f64;
        let wrong = own.iter().filter(|verdict| verdict.wrong).count();
        // Of all flows; no number, unless half of them, or a tenth, were.
        let median = median_of_all(&times, own.len()).unwrap_or(f64::NAN);
        let soon = lowest_tenth_of_all(&times, own.len()).unwrap_or(f64::NAN);
        let values = [share(times.len()), median, soon, share(wrong)];
        figures.extend(names.into_iter().zip(values).map(|(name, value)| Figure {
            name,
            value,
            theory: None,
        }));
    }
    if !verdicts.is_empty() {
        let chance = 100.0 / clients as f64;
        figures.push(Figure { name: "flows identified by chance, %", value: chance, theory: None });
    }
}

/// How long a watcher took for each flow whose client it identified, in seconds, sorted.
fn times(verdicts: &[Verdict], watcher: Watcher) -> Vec<f64> {
    let own = verdicts.iter().filter(|verdict| verdict.watcher == watcher);
    let mut times: Vec<_> = own.filter_map(|verdict| verdict.identified).collect();
    times.sort_unstable();
    times.iter().map(Duration::as_secs_f64).collect()
}

/// Who watches a run.
pub(crate) type Observers = ((((Watch, Targets), Senders), (Lines, Paths)), Meddlers);
