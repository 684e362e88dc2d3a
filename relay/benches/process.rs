//! What a packet costs a whole relay, socket to socket: TLS in and out, replay memory, delay.
//!
//! Each argument is a case, `links/threads/packets/rate`: so many links in and as many out, crypto threads of
//! the relay, packets in all, packets a second (0: as fast as the relay takes them). Or `restart/tags`: a relay
//! is killed, and starts again with so many replay tags. Or `departure/packets/rate`: how late packets are at
//! the neighbour, by its clock and not the relay's own count. Prints one line of JSON a case. The processor time is
//! that of the relay's process, which the kernel counts; the load comes from this process, with packets that
//! were built before.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;

use common::Network;
use common::load::{self, Collected, milliseconds, quantile};
use mizzle_link::Link;
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::mix::Role;
use mizzle_protocol::wire::cell::RelayCell;
use rand_core::Rng;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Cargo adds arguments of its own, which begin with a dash.
    for case in std::env::args().skip(1).filter(|argument| !argument.starts_with('-')) {
        if let Some(tags) = case.strip_prefix("restart/") {
            println!("{}", runtime.block_on(restart(tags.parse().unwrap())));
            continue;
        }
        if let Some(load) = case.strip_prefix("departure/") {
            let (packets, rate) = load.split_once('/').unwrap();
            println!("{}", runtime.block_on(departure(packets.parse().unwrap(), rate.parse().unwrap())));
            continue;
        }
        let numbers: Vec<usize> = case.split('/').map(|number| number.parse().unwrap()).collect();
        let [links, threads, packets, rate] = numbers[..] else {
            panic!("{case}: a case is links/threads/packets/rate, or restart/tags");
        };
        println!("{}", run_in_turns(&runtime, measure(links, threads, packets, rate)));
    }
}

/// Runs the other end of all links a turn every millisecond, and sleeps between the turns where nothing wakes
/// it. A relay whose peers are on other machines wakes nobody when it sends; one whose peers wait for it on the
/// same machine would pay for waking them.
fn run_in_turns(runtime: &tokio::runtime::Runtime, work: impl Future<Output = String>) -> String {
    let mut work = pin!(work);
    loop {
        let done = runtime.block_on(async {
            let turn = async {
                for _ in 0..YIELDS {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                done = &mut work => Some(done),
                () = turn => None,
            }
        });
        match done {
            Some(done) => return done,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

async fn measure(links: usize, threads: usize, packets: usize, rate: usize) -> String {
    let others: Vec<Role> =
        [Role::Mix(1), Role::Mix(3)].into_iter().flat_map(|role| vec![role; links]).collect();
    let mut network = Network::start_among(&others, Role::Mix(2), &format!("threads = {threads}")).await;
    network.wait_for("mizzle_links_out", links as f64).await;
    let hint = network.hint();
    let sources: Vec<_> = (0..links).map(|index| network.neighbours[index].identity.clone()).collect();
    let targets: Vec<_> = network.neighbours[links..].iter().map(|neighbour| neighbour.id().0).collect();
    let arrived: Vec<_> =
        network.neighbours[links..].iter().map(|neighbour| neighbour.count.clone()).collect();

    let mut lines = Vec::new();
    for source in &sources {
        let link = mizzle_link::dial(
            network.address,
            network.descriptor.relay,
            Some(source),
            mizzle_link::Alpn::Cells,
            None,
        );
        lines.push((link.await.unwrap(), Vec::new()));
    }
    for number in 0..packets {
        let delay = exponential(&mut network);
        let packet = network.packet(targets[number % targets.len()], delay);
        let mut cell = Vec::new();
        RelayCell::Packet { hint, packet: &packet }.emit(Geometry::default(), &mut cell);
        lines[number % links].1.push(cell);
    }

    let before = (cpu(network.process()), Instant::now());
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::new(AtomicUsize::new(0));
    let (all, arrived) = (counted.clone(), Arc::new(arrived));
    let every = arrived.clone();
    // One counts for all, or a thousand links would do little else.
    let counting = tokio::spawn(async move {
        loop {
            all.store(total(&every), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let mut tasks = tokio::task::JoinSet::new();
    for (line, (link, cells)) in lines.into_iter().enumerate() {
        let share =
            Share { start: before.1, line, links, rate, sent: sent.clone(), arrived: counted.clone() };
        tasks.spawn(share.send(link, cells));
    }
    while tasks.join_next().await.is_some() {}
    let done = async {
        while total(&arrived) < packets && network.count("mizzle_packets_in_flight").await > 0.0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), done).await.unwrap();
    let (spent, wall) = (cpu(network.process()) - before.0, before.1.elapsed());
    counting.abort();
    let came = total(&arrived);
    network.balance().await;
    let quantile = |text: &str, share: f64| histogram_quantile(text, "mizzle_departure_error_seconds", share);
    let text = network.metrics_text().await;
    format!(
        "{{\"links\":{links},\"threads\":{threads},\"packets\":{packets},\"rate\":{rate},\"arrived\":{came},\
         \"cpu_us_per_packet\":{:.2},\"packets_per_second\":{:.0},\"departure_p50_ms\":{:.3},\
         \"departure_p99_ms\":{:.3},\"rss_mb\":{:.1}}}",
        spent.as_secs_f64() * 1e6 / came as f64,
        packets as f64 / wall.as_secs_f64(),
        quantile(&text, 0.5) * 1e3,
        quantile(&text, 0.99) * 1e3,
        memory(network.process()),
    )
}

/// How long after its sending and its drawn delay a packet is at the neighbour: two sockets, the unwrapping, and
/// whatever the relay is late.
async fn departure(packets: usize, rate: usize) -> String {
    let mut network = Network::start_among(&[Role::Mix(1), Role::Mix(3)], Role::Mix(2), "").await;
    network.wait_for("mizzle_links_out", 1.0).await;
    let (hint, clock) = (network.hint(), network.clock);
    let to = network.neighbour(Role::Mix(3));
    let (id, key) = (to.id().0, to.key.clone());
    let collected = Collected::start(to.take_packets());
    let drawn = load::delays(packets, &mut network.rng);
    let packets = load::numbered(&mut network, id, &key, 0, &drawn);
    let mut link = network.link_as(Role::Mix(1)).await;
    let sent = load::send_all(&mut link, hint, &packets, rate as f64, clock.now(), clock).await;
    network.balance().await;
    let arrivals = collected.open(&key).await;
    let mut late: Vec<Duration> = arrivals
        .iter()
        .map(|&(number, at)| {
            let number = number as usize;
            at.since(sent[number] + packets[number].delay)
        })
        .collect();
    format!(
        "{{\"packets\":{},\"rate\":{rate},\"arrived\":{},\"late_p50_ms\":{:.3},\"late_p99_ms\":{:.3}}}",
        packets.len(),
        late.len(),
        milliseconds(quantile(&mut late, 0.5)),
        milliseconds(quantile(&mut late, 0.99)),
    )
}

/// How long a relay with so many tags takes from its start until a packet has passed it, and what it holds then.
async fn restart(tags: usize) -> String {
    let mut network = Network::start(Role::Mix(1), "").await;
    let fresh = memory(network.process());
    network.kill();
    let log = find(network.folder.path(), "tags-").unwrap();
    let mut bytes = vec![0; tags * 8];
    network.rng.fill_bytes(&mut bytes);
    std::fs::write(log, bytes).unwrap();
    let (next, hint) = (network.neighbour(Role::Mix(2)).id().0, network.hint());
    let packet = network.packet(next, Duration::ZERO);
    let before = Instant::now();
    network.restart().await;
    network.wait_for("mizzle_links_out", 1.0).await;
    let mut link = network.link_as(Role::Entry).await;
    common::send(&mut link, hint, &packet).await;
    network.neighbour(Role::Mix(2)).receive().await;
    let took = before.elapsed().as_secs_f64();
    let remembered = network.count("mizzle_replay_tags ").await;
    format!(
        "{{\"tags\":{tags},\"remembered\":{remembered},\"restart_s\":{took:.3},\"rss_mb\":{:.1},\
         \"rss_fresh_mb\":{fresh:.1}}}",
        memory(network.process()),
    )
}

/// The first file below `folder` whose name begins so.
fn find(folder: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    std::fs::read_dir(folder).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => find(&path, name),
            false => path.file_name()?.to_str()?.starts_with(name).then_some(path),
        }
    })
}

/// What one link sends, and when.
struct Share {
    start: Instant,
    line: usize,
    links: usize,
    rate: usize,
    sent: Arc<AtomicUsize>,
    arrived: Arc<AtomicUsize>,
}

impl Share {
    async fn send(self, mut link: Link, cells: Vec<Vec<u8>>) {
        let mut next = 0;
        while next < cells.len() {
            let ready = if self.rate == 0 {
                // As many under way as a relay holds and has in its queues, without drops.
                let under_way =
                    self.sent.load(Ordering::Relaxed).saturating_sub(self.arrived.load(Ordering::Relaxed));
                next + (WINDOW.saturating_sub(under_way)).min(BATCH)
            } else {
                let due = self.start.elapsed().as_secs_f64() * self.rate as f64 - self.line as f64;
                (due / self.links as f64).ceil().max(0.0) as usize
            };
            let ready = ready.min(cells.len());
            if ready <= next {
                // A link in many looks as often as its share is due.
                tokio::time::sleep(Duration::from_millis(1 + self.links as u64 / 50)).await;
                continue;
            }
            let batch = cells[next..ready].concat();
            self.sent.fetch_add(ready - next, Ordering::Relaxed);
            link.write_all(&batch).await.unwrap();
            link.flush().await.unwrap();
            next = ready;
            tokio::task::yield_now().await;
        }
    }
}

fn total(counts: &[Arc<AtomicUsize>]) -> usize {
    counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
}

/// Exp(20 ms), cut at 200 ms.
fn exponential(network: &mut Network) -> Duration {
    let uniform = (network.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    Duration::from_micros((-(1.0 - uniform).ln() * 20_000.0).min(200_000.0) as u64)
}

/// Processor time of a process so far: what the kernel counted for each of its threads, in nanoseconds.
fn cpu(process: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let spent = threads.filter_map(|thread| {
        // A thread may end between the two.
        let text = std::fs::read_to_string(thread.unwrap().path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(spent.sum())
}

/// Its resident memory in MB.
fn memory(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1e3
}

/// A quantile of a Prometheus histogram, interpolated within its bucket.
fn histogram_quantile(text: &str, name: &str, share: f64) -> f64 {
    let mut buckets = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix(&format!("{name}_bucket{{le=\""))) {
        let (bound, count) = line.split_once("\"} ").unwrap();
        buckets.push((bound.parse().unwrap_or(f64::INFINITY), count.parse::<f64>().unwrap()));
    }
    let wanted = buckets.last().map_or(0.0, |last| last.1) * share;
    let mut below = (0.0, 0.0);
    for (bound, count) in buckets {
        if count >= wanted {
            return below.0 + (bound - below.0) * (wanted - below.1) / (count - below.1).max(1.0);
        }
        below = (bound, count);
    }
    f64::NAN
}

/// Packets under way at most, when the relay sets the pace: what it holds for 20 ms each, and enough in its
/// queues.
const WINDOW: usize = 400;
/// Times that ready tasks and sockets are looked at in a turn.
const YIELDS: usize = 8;
/// Packets of one link in one write, at most.
const BATCH: usize = 16;
