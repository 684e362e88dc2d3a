//! What a packet costs: our codec beside the crate `sphinx-packet`, in one run, as JSON.
//!
//!     cargo run --release -p mizzle-protocol --example sphinx_figures
//!
//! Times are microseconds of this thread's CPU time, each the median of five runs; in every run both codecs
//! take turns, and a ratio is the median of the runs' ratios, ours to the crate's. An unwrap is that of a hop
//! that sends the packet on, from the bytes that came to the bytes that leave.

use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::ReplyId;
use mizzle_protocol::sphinx::parts::{Bench, Part};
use mizzle_protocol::sphinx::x25519::Backend;
use mizzle_protocol::sphinx::{Hop, SecretKey, build, build_surb, unwrap};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde_json::{Map, Value, json};
use sphinx_packet::header::delays::Delay;
use sphinx_packet::packet::builder::SphinxPacketBuilder;
use sphinx_packet::route::{Destination, DestinationAddressBytes, Node, NodeAddressBytes};
use sphinx_packet::version::SINGLE_SEED_SURB_VERSION;
use sphinx_packet::{ProcessedPacketData, SURB, SURBMaterial, SphinxPacket};
use std::error::Error;
use std::hint::black_box;
use std::time::Duration;
use x25519_dalek::StaticSecret;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    if cfg!(debug_assertions) {
        eprintln!("figures of an unoptimised build say nothing; try: cargo run --release ...");
    }
    let current = Backend::current();
    let mut backends = Vec::new();
    for backend in Backend::available() {
        backend.force();
        backends.push(json!({
            "name": backend.name(),
            "current": backend == current,
            "unwrap": unwraps()?,
            "build": builds()?,
            "build_surb": surbs()?,
            "parts": parts()?,
        }));
    }
    let figures = json!({
        "unit": "microseconds of thread CPU time",
        "runs": RUNS,
        "peer": "sphinx-packet 0.8.0",
        "backends": backends,
    });
    println!("{figures:#}");
    Ok(())
}

fn unwraps() -> Outcome<Value> {
    let mut figures = Map::new();
    for payload in PAYLOADS {
        let geometry = Geometry::new(payload)?;
        let route = Route::new(3);
        let mut packet = Vec::new();
        build(geometry, &route.hops, ReplyId([0; 16]), &[], &mut route.rng(), &mut packet)?;
        let mut buffer = packet.clone();
        let comparison = compare(
            300,
            || {
                buffer.copy_from_slice(black_box(&packet));
                unwrap(geometry, &route.key, &mut buffer)?;
                Ok(())
            },
            || {
                let processed = SphinxPacket::from_bytes(black_box(&packet))?.process(&route.crate_key)?;
                match processed.data {
                    ProcessedPacketData::ForwardHop { next_hop_packet, .. } => {
                        black_box(next_hop_packet.to_bytes());
                        Ok(())
                    }
                    ProcessedPacketData::FinalHop { .. } => Err("the packet ends at its first hop".into()),
                }
            },
        )?;
        figures.insert(payload.to_string(), comparison);
    }
    Ok(figures.into())
}

fn builds() -> Outcome<Value> {
    let mut figures = Map::new();
    for hops in [3, 5] {
        let mut sizes = Map::new();
        for payload in PAYLOADS {
            let geometry = Geometry::new(payload)?;
            let route = Route::new(hops);
            let (nodes, delays) = (route.nodes(), route.delays());
            let message = vec![1; geometry.message()];
            let (mut rng, mut packet) = (route.rng(), Vec::new());
            let theirs = SphinxPacketBuilder::new().with_payload_size(payload);
            let comparison = compare(
                60,
                || Ok(build(geometry, &route.hops, ReplyId([1; 16]), &message, &mut rng, &mut packet)?),
                || {
                    let built = theirs.build_packet(&message, &nodes, &destination(), &delays)?;
                    black_box(built.to_bytes());
                    Ok(())
                },
            )?;
            sizes.insert(payload.to_string(), comparison);
        }
        figures.insert(hops.to_string(), sizes.into());
    }
    Ok(figures.into())
}

fn surbs() -> Outcome<Value> {
    let mut figures = Map::new();
    for hops in [3, 5] {
        let route = Route::new(hops);
        let mut rng = route.rng();
        let comparison = compare(
            60,
            || {
                black_box(build_surb(&route.hops, ReplyId([1; 16]), &mut rng)?);
                Ok(())
            },
            || {
                let version = SINGLE_SEED_SURB_VERSION;
                let material = SURBMaterial::new(route.nodes(), route.delays(), destination(), version);
                let (surb, recovery) = SURB::new_recoverable(StaticSecret::random(), material)?;
                black_box((surb.to_bytes(), recovery));
                Ok(())
            },
        )?;
        figures.insert(hops.to_string(), comparison);
    }
    Ok(figures.into())
}

/// Each step of an unwrap by itself; X25519 is needed twice.
fn parts() -> Outcome<Value> {
    let bench = Bench::new()?;
    let mut figures = Map::new();
    for part in Part::ALL {
        let sizes = if part == Part::Payload { &PAYLOADS[..] } else { &PAYLOADS[..1] };
        for &payload in sizes {
            let mut packet = vec![9; Geometry::new(payload)?.packet()];
            let mut times = Vec::new();
            for _ in 0..RUNS {
                times.push(time(1000, || Ok(bench.run(part, black_box(&mut packet))?))?);
            }
            let name = match part {
                Part::Payload => format!("{}_{payload}", part.name()),
                _ => part.name().to_owned(),
            };
            figures.insert(name, rounded(median(times)));
        }
    }
    Ok(figures.into())
}

/// One route, in the words of either codec.
struct Route {
    key: SecretKey,
    crate_key: StaticSecret,
    hops: Vec<Hop>,
}

impl Route {
    fn new(hops: usize) -> Self {
        let key = SecretKey::from_bytes([7; 32]);
        let hop = |number| Hop {
            address: [number as u8; 32],
            key: SecretKey::from_bytes([7 + number as u8; 32]).public(),
            delay: Duration::from_millis(20),
        };
        Self { key, crate_key: StaticSecret::from([7; 32]), hops: (0..hops).map(hop).collect() }
    }

    fn rng(&self) -> ChaCha20Rng {
        ChaCha20Rng::seed_from_u64(self.hops.len() as u64)
    }

    fn nodes(&self) -> Vec<Node> {
        let node = |hop: &Hop| Node { address: NodeAddressBytes::from_bytes(hop.address), pub_key: hop.key };
        self.hops.iter().map(node).collect()
    }

    fn delays(&self) -> Vec<Delay> {
        self.hops.iter().map(|_| Delay::new_from_millis(20)).collect()
    }
}

fn destination() -> Destination {
    Destination::new(DestinationAddressBytes::from_bytes([1; 32]), [1; 16])
}

/// Median times of both, and the median of the runs' ratios.
fn compare(
    rounds: u32,
    mut ours: impl FnMut() -> Outcome<()>,
    mut theirs: impl FnMut() -> Outcome<()>,
) -> Outcome<Value> {
    let (mut our_times, mut their_times, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let (mut our_time, mut their_time) = (0.0, 0.0);
        // In turns, so that a processor that slows down slows both.
        for _ in 0..TURNS {
            our_time += time(rounds / TURNS, &mut ours)? / f64::from(TURNS);
            their_time += time(rounds / TURNS, &mut theirs)? / f64::from(TURNS);
        }
        our_times.push(our_time);
        their_times.push(their_time);
        ratios.push(our_time / their_time);
    }
    Ok(json!({
        "ours": rounded(median(our_times)),
        "sphinx_packet": rounded(median(their_times)),
        "ratio": rounded(median(ratios)),
    }))
}

/// Microseconds of CPU time that `work` takes, of so many times.
fn time(rounds: u32, mut work: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let start = thread_time()?;
    for _ in 0..rounds {
        work()?;
    }
    Ok((thread_time()? - start).as_secs_f64() * 1e6 / f64::from(rounds))
}

#[cfg(unix)]
fn thread_time() -> Outcome<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Ok(Duration::new(time.tv_sec.try_into()?, time.tv_nsec.try_into()?))
}

#[cfg(not(unix))]
fn thread_time() -> Outcome<Duration> {
    Err("the CPU time of a thread can be read on Unix only".into())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn rounded(value: f64) -> Value {
    json!((value * 1000.0).round() / 1000.0)
}

const RUNS: usize = 5;
const TURNS: u32 = 10;
const PAYLOADS: [usize; 3] = [2048, 4096, 8192];
