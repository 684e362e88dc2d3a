//! Numbered packets through the relay at a steady rate, and how late each of them comes out.

use super::Network;
use mizzle_link::{Clock, Link};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::ReplyId;
use mizzle_protocol::sphinx::{Hop, SecretKey, Unwrapped, build, open_message, unwrap};
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::cell::RelayCell;
use rand_core::Rng;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// True in the long form of the tests, as `scripts/accept relay` runs them: a minute of load rather than seconds.
pub fn is_long() -> bool {
    std::env::var_os("MIZZLE_LONG").is_some()
}

/// Tells `scripts/accept` a figure, and the goal that this test holds it to ("" for one that is only told).
pub fn figure(name: &str, value: f64, unit: &str, goal: &str) {
    println!("figure: {name} | {value:.3} | {unit} | {goal}");
}

/// A packet that the relay unwraps and sends on, and whose next hop is its last.
pub struct Numbered {
    pub packet: Vec<u8>,
    /// How long the relay is to hold it.
    pub delay: Duration,
}

/// One packet for each of `delays`, with its number from `first` on inside, to the holder of `key` at `address`.
pub fn numbered(
    network: &mut Network,
    address: [u8; 32],
    key: &SecretKey,
    first: u32,
    delays: &[Duration],
) -> Vec<Numbered> {
    let relay = Hop { address: network.descriptor.relay.0, key: network.key(), delay: Duration::ZERO };
    let last = Hop { address, key: key.public(), delay: Duration::ZERO };
    let mut made = Vec::new();
    for (number, &delay) in (first..).zip(delays) {
        let hops = [Hop { delay, ..relay.clone() }, last.clone()];
        let mut packet = Vec::new();
        let message = number.to_be_bytes();
        build(Geometry::default(), &hops, ReplyId([0; 16]), &message, &mut network.rng, &mut packet).unwrap();
        made.push(Numbered { packet, delay });
    }
    made
}

/// So many delays that they have exactly the distribution Exp(20 ms), cut at 200 ms, in random order: two sets
/// of one size differ in nothing else.
pub fn delays(count: usize, rng: &mut impl Rng) -> Vec<Duration> {
    let quantile = |index: usize| {
        let share = (index as f64 + 0.5) / count as f64;
        Duration::from_micros((-(1.0 - share).ln() * 20_000.0).min(200_000.0) as u64)
    };
    let mut delays: Vec<_> = (0..count).map(quantile).collect();
    for index in (1..count).rev() {
        delays.swap(index, (rng.next_u64() % (index as u64 + 1)) as usize);
    }
    delays
}

/// Sends packets over `link` at `rate` a second, from `start` on, as long as the link lasts; when each was sent.
pub async fn send_all(
    link: &mut Link,
    hint: u8,
    packets: &[Numbered],
    rate: f64,
    start: Instant,
    clock: Clock,
) -> Vec<Instant> {
    let (mut moments, mut bytes) = (Vec::with_capacity(packets.len()), Vec::new());
    while moments.len() < packets.len() {
        let due = (clock.now().since(start).as_secs_f64() * rate) as usize;
        let due = due.clamp(moments.len(), packets.len());
        if due > moments.len() {
            bytes.clear();
            for numbered in &packets[moments.len()..due] {
                RelayCell::Packet { hint, packet: &numbered.packet }.emit(Geometry::default(), &mut bytes);
            }
            moments.resize(due, clock.now());
            if link.write_all(&bytes).await.is_err() || link.flush().await.is_err() {
                return moments;
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    moments
}

/// Collects what a neighbour or a client receives while a test does something else.
pub struct Collected {
    end: oneshot::Sender<()>,
    task: JoinHandle<Vec<(Vec<u8>, Instant)>>,
}

impl Collected {
    /// Begins with what comes out of `packets` now.
    pub fn start(mut packets: mpsc::Receiver<(u8, Vec<u8>, Instant)>) -> Self {
        let (end, mut ended) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut all = Vec::new();
            loop {
                tokio::select! {
                    biased;
                    packet = packets.recv() => match packet {
                        Some((_, packet, moment)) => all.push((packet, moment)),
                        None => return all,
                    },
                    _ = &mut ended => return all,
                }
            }
        });
        Self { end, task }
    }

    /// All that has come by now: numbers and moments, in the order of arrival. Packets that do not open with
    /// `key` are left out.
    pub async fn open(self, key: &SecretKey) -> Vec<(u32, Instant)> {
        let _ = self.end.send(());
        let mut opened = Vec::new();
        for (mut packet, moment) in self.task.await.unwrap() {
            if let Ok(Unwrapped::Final { payload, .. }) = unwrap(Geometry::default(), key, &mut packet) {
                let message = open_message(payload).unwrap();
                opened.push((u32::from_be_bytes(message.try_into().unwrap()), moment));
            }
        }
        opened
    }
}

/// The value below which a share of `values` lies; they are sorted by it.
pub fn quantile(values: &mut [Duration], share: f64) -> Duration {
    values.sort();
    let index = (values.len() as f64 * share).ceil() as usize;
    values[index.clamp(1, values.len()) - 1]
}

/// The middle one.
pub fn median(values: &mut [Duration]) -> Duration {
    quantile(values, 0.5)
}

/// In milliseconds.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A quantile of a Prometheus histogram, as the upper bound of the bucket that it lies in.
pub fn histogram_bound(text: &str, name: &str, share: f64) -> f64 {
    let buckets: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix(&format!("{name}_bucket{{le=\""))?.split_once("\"} "))
        .map(|(bound, count)| (bound.parse().unwrap_or(f64::INFINITY), count.parse::<f64>().unwrap()))
        .collect();
    let wanted = buckets.last().unwrap().1 * share;
    buckets.into_iter().find(|&(_, count)| count >= wanted).unwrap().0
}

/// Resident memory of a process in bytes.
pub fn memory(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
}
