//! `mizzle-relay bench`: what a packet takes this machine, step by step, beside another implementation.
//!
//! Times are microseconds of this thread's processor time, each the median of five runs. In every run both
//! implementations take turns, so that a machine that slows down slows both, and a ratio is the median of the
//! runs' ratios, ours to the other's.

mod peer;
mod tags;

use crate::config;
use crate::speed::{Sample, TOGETHER, measure, rate_a_thread, route, time};
use mizzle_link::{Clock, Error, Result};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::ReplyId;
use mizzle_protocol::sphinx::hash::Single;
use mizzle_protocol::sphinx::parts::{Bench, Part};
use mizzle_protocol::sphinx::x25519::Backend;
use mizzle_protocol::sphinx::{build, build_surb};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde::Serialize;
use std::fmt::Write as _;
use std::hint::black_box;

/// What to measure, and how to show it.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Bytes of a packet's payload: 2048, 4096 or 8192; may be repeated
    #[arg(long, value_name = "BYTES", default_value = "4096")]
    payload: Vec<usize>,
    /// Use the portable X25519, as on a processor without what the fast one needs
    #[arg(long)]
    portable: bool,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Remember so many replay tags instead, one by one: what they take, as JSON
    #[arg(long, value_name = "NUMBER", hide = true)]
    tags: Option<usize>,
}

#[derive(Serialize)]
struct Report {
    unit: &'static str,
    x25519: &'static str,
    payload_hash: &'static str,
    peer: &'static str,
    packets_per_second_a_thread: u32,
    payloads: Vec<Payload>,
    build_surb: Comparison,
    parts: Vec<Step>,
}

#[derive(Serialize)]
struct Payload {
    bytes: usize,
    unwrap: Comparison,
    /// A packet's share when four are unwrapped together.
    unwrap_together: Comparison,
    build: Comparison,
    /// The payload cipher alone.
    cipher: f64,
}

#[derive(Serialize)]
struct Comparison {
    ours: f64,
    peer: f64,
    ratio: f64,
}

#[derive(Serialize)]
struct Step {
    name: &'static str,
    times: u32,
    each: f64,
}

/// Measures and prints.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.portable {
        Backend::dalek().force();
    }
    if cfg!(debug_assertions) {
        eprintln!("mizzle-relay: this is an unoptimised build; its figures say nothing");
    }
    let failed = |error| Error::io("print the report", std::io::Error::other(error));
    if let Some(tags) = arguments.tags {
        let measured = tags::measure(tags, config::default_replay_tags())?;
        println!("{}", serde_json::to_string_pretty(&measured).map_err(failed)?);
        return Ok(());
    }
    let report = Report::measure(&arguments.payload)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report).map_err(failed)?);
    } else {
        print!("{}", report.table());
    }
    Ok(())
}

impl Report {
    fn measure(payloads: &[usize]) -> Result<Self> {
        let unwrap = measure(Clock::new())?;
        Ok(Self {
            unit: "microseconds of thread processor time",
            x25519: Backend::current().name(),
            payload_hash: Single::current().name(),
            peer: peer::NAME,
            packets_per_second_a_thread: rate_a_thread(unwrap),
            payloads: payloads.iter().map(|&bytes| Payload::measure(bytes)).collect::<Result<_>>()?,
            build_surb: surb()?,
            parts: steps()?,
        })
    }

    fn table(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "Microseconds of one thread's processor time; X25519 by {}.", self.x25519);
        let _ = writeln!(text, "\n{:<38}{:>10}{:>22}{:>8}", "", "ours", self.peer, "ratio");
        for payload in &self.payloads {
            let bytes = payload.bytes;
            line(&mut text, &format!("unwrap, payload of {bytes}"), &payload.unwrap);
            line(&mut text, "  when four wait", &payload.unwrap_together);
            line(&mut text, "build, 5 hops", &payload.build);
        }
        line(&mut text, "build a SURB, 5 hops", &self.build_surb);
        let _ = writeln!(text, "\nOf an unwrap:");
        for Step { name, times, each } in &self.parts {
            let times = if *times > 1 { format!(", {times} times") } else { String::new() };
            let _ = writeln!(text, "{:<38}{each:>10.1}", format!("{name}{times}"));
        }
        for payload in &self.payloads {
            let what = format!("payload cipher, {}", payload.bytes);
            let _ = writeln!(text, "{what:<38}{:>10.1}", payload.cipher);
        }
        if let Some(payload) = self.payloads.first() {
            let rate = 1e6 / payload.unwrap_together.ours;
            let _ = writeln!(
                text,
                "\nA core unwraps {rate:.0} packets a second. A relay announces {} a thread: links and books take \
                 their\nshare, and with half of the time to spare packets leave at their moments.",
                self.packets_per_second_a_thread
            );
        }
        text
    }
}

impl Payload {
    fn measure(bytes: usize) -> Result<Self> {
        let geometry = Geometry::new(bytes)?;
        let (mut one, mut four) = (Sample::new(geometry)?, Sample::new(geometry)?);
        let packet = one.packet.clone();
        let unwrap = compare(300, 1, || one.unwrap_one(), || peer::unwrap(&packet))?;
        let together = compare(75, TOGETHER, || four.unwrap_together(), || peer::unwrap(&packet))?;
        let (hops, message) = (route(5), vec![1; geometry.message()]);
        let (mut rng, mut buffer) = (ChaCha20Rng::seed_from_u64(1), Vec::new());
        let ours = || Ok(build(geometry, &hops, ReplyId([1; 16]), &message, &mut rng, &mut buffer)?);
        let build = compare(60, 1, ours, || peer::build(bytes, &message, &hops))?;
        let cipher = step(Part::Payload, geometry)?;
        Ok(Self { bytes, unwrap, unwrap_together: together, build, cipher })
    }
}

fn surb() -> Result<Comparison> {
    let (hops, mut rng) = (route(5), ChaCha20Rng::seed_from_u64(1));
    let ours = || {
        black_box(build_surb(&hops, ReplyId([1; 16]), &mut rng)?);
        Ok(())
    };
    compare(60, 1, ours, || peer::build_surb(&hops))
}

/// Each step of an unwrap by itself, but for the payload.
fn steps() -> Result<Vec<Step>> {
    let parts = Part::ALL.into_iter().filter(|&part| part != Part::Payload);
    let step_of = |part: Part| {
        // For the shared secret, and to blind.
        let times = if part == Part::X25519 { 2 } else { 1 };
        Ok(Step { name: part.name(), times, each: step(part, Geometry::default())? })
    };
    parts.map(step_of).collect()
}

fn step(part: Part, geometry: Geometry) -> Result<f64> {
    let bench = Bench::new()?;
    let mut packet = vec![9; geometry.packet()];
    let mut times = Vec::new();
    for _ in 0..RUNS {
        times.push(microseconds(300, || Ok(bench.run(part, black_box(&mut packet))?))?);
    }
    Ok(rounded(median(times)))
}

/// Medians of both, and of the ratios. `ours` does the work `share` times.
fn compare(
    rounds: u32,
    share: usize,
    mut ours: impl FnMut() -> Result<()>,
    mut peers: impl FnMut() -> Result<()>,
) -> Result<Comparison> {
    let (mut our_times, mut peer_times, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let (mut our_time, mut peer_time) = (0.0, 0.0);
        for _ in 0..TURNS {
            our_time += microseconds(rounds / TURNS, &mut ours)? / share as f64;
            peer_time += microseconds(rounds / TURNS, &mut peers)?;
        }
        our_times.push(our_time / f64::from(TURNS));
        peer_times.push(peer_time / f64::from(TURNS));
        ratios.push(our_time / peer_time);
    }
    let [ours, peer, ratio] = [our_times, peer_times, ratios].map(|values| rounded(median(values)));
    Ok(Comparison { ours, peer, ratio })
}

fn microseconds(rounds: u32, work: impl FnMut() -> Result<()>) -> Result<f64> {
    Ok(time(rounds.max(1), work)?.as_secs_f64() * 1e6)
}

fn line(text: &mut String, what: &str, comparison: &Comparison) {
    let Comparison { ours, peer, ratio } = comparison;
    let _ = writeln!(text, "{what:<38}{ours:>10.1}{peer:>22.1}{ratio:>8.2}");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

const RUNS: usize = 5;
const TURNS: u32 = 10;
