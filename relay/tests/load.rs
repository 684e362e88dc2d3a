//! A relay that gets more than it can take, dies under load, or cannot write down what it has seen.
//! (spec: RELAY-3, RELAY-4, RELAY-6)
//!
//! With `MIZZLE_LONG` set, each test takes a minute rather than some seconds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::load::{
    Collected, delays, figure, histogram_bound, is_long, memory, milliseconds, numbered, quantile, send_all,
};
use common::{Launch, Network, PATIENCE};
use mizzle_protocol::mix::Role;
use mizzle_protocol::time::Instant;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Duration;

/// Held by each test: they load the machine, and some read the clock.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Who is around a mix of layer 2 that one neighbour sends to and one receives from.
const LINE: [Role; 2] = [Role::Mix(1), Role::Mix(3)];

#[tokio::test]
async fn at_twice_its_capacity_a_relay_drops_what_it_must_and_what_passes_is_in_time() {
    let _alone = ALONE.lock().await;
    let (seconds, rate) = (if is_long() { 60 } else { 6 }, 1_000);
    // One thread that takes 2 ms for a packet: 500 a second at most, on any machine.
    // So few lists of replay tags that all are in use within seconds: their first tags are no growth.
    let settings = "threads = 1\nreplay_memory = \"12 MB\"";
    let launch = Launch { environment: vec![("MIZZLE_TEST_PACKET_TIME", "2000".to_owned())], before: None };
    let mut network = Network::start_by(launch, &LINE, Role::Mix(2), settings).await;
    network.wait_for("mizzle_links_out", 1.0).await;
    let (hint, clock, process) = (network.hint(), network.clock, network.process());
    let to = network.neighbour(Role::Mix(3));
    let (id, key) = (to.id().0, to.key.clone());
    let collected = Collected::start(to.take_packets());
    let drawn = delays(seconds * rate, &mut network.rng);
    let packets = numbered(&mut network, id, &key, 0, &drawn);
    let mut link = network.link_as(Role::Mix(1)).await;

    let sampled = tokio::spawn(async move {
        let mut samples = Vec::new();
        for _ in 0..seconds * 4 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            samples.push(memory(process));
        }
        samples
    });
    let sent = send_all(&mut link, hint, &packets, rate as f64, clock.now(), clock).await;
    let samples = sampled.await.unwrap();
    network.balance().await;
    let arrived = collected.open(&key).await;

    let mut beyond: Vec<_> = arrived
        .iter()
        .map(|&(number, at)| at.since(sent[number as usize]).saturating_sub(drawn[number as usize]))
        .collect();
    let (p50, p99) = (quantile(&mut beyond, 0.5), quantile(&mut beyond, 0.99));
    let own = histogram_bound(&network.metrics_text().await, "mizzle_departure_error_seconds", 0.99) * 1e3;
    let dropped = network.dropped_by_reason().await;
    let total: f64 = dropped.values().sum();
    let capacity = arrived.len() as f64 / seconds as f64;
    // The first second fills queues and pools.
    let quarter = samples.len() / 4;
    let (mut early, mut late) =
        (samples[4..4 + quarter].to_vec(), samples[samples.len() - quarter..].to_vec());
    let growth = (middle(&mut late) - middle(&mut early)) / 1e6;
    figure("overload: seconds of load", seconds as f64, "s", "");
    figure("overload: packets a second offered", rate as f64, "1/s", "");
    figure("overload: packets a second accepted", capacity, "1/s", ">= 300");
    figure("overload: offered over accepted", rate as f64 / capacity, "", ">= 2");
    figure("overload: extra delay of accepted packets, p50", milliseconds(p50), "ms", "");
    figure("overload: extra delay of accepted packets, p99", milliseconds(p99), "ms", "<= 50");
    figure("overload: departure error by the relay's own count, p99 below", own, "ms", "<= 50");
    figure("overload: memory gained from early to late", growth, "MB", "<= 2");
    figure("overload: packets dropped, each for a reason", total, "packets", "");

    assert_eq!(network.count("mizzle_packets_received_total").await, packets.len() as f64);
    assert_eq!(network.count("mizzle_packets_sent_total").await, arrived.len() as f64);
    assert_eq!(packets.len() as f64, arrived.len() as f64 + total);
    // No label but those of a relay that cannot keep up; `stopping` is where what has none would be.
    assert!(
        dropped.keys().all(|reason| ["overloaded", "queue_full"].contains(&reason.as_str())),
        "{dropped:?}"
    );
    assert!(capacity >= 300.0 && rate as f64 >= 2.0 * capacity, "{capacity} packets a second pass");
    assert!(p99 <= Duration::from_millis(50) && own <= 50.0, "{p99:?} by the neighbour, {own} ms by itself");
    assert!(growth <= 2.0, "{growth} MB more at the end: {samples:?}");
}

#[tokio::test]
async fn what_was_accepted_in_the_last_ten_seconds_is_refused_after_a_kill_under_load() {
    let _alone = ALONE.lock().await;
    let (seconds, rate) = (if is_long() { 12 } else { 3 }, 1_000);
    let mut network = Network::start_among(&LINE, Role::Mix(2), "").await;
    network.wait_for("mizzle_links_out", 1.0).await;
    let (hint, clock) = (network.hint(), network.clock);
    let to = network.neighbour(Role::Mix(3));
    let (id, key) = (to.id().0, to.key.clone());
    let collected = Collected::start(to.take_packets());
    let drawn = delays(seconds * rate, &mut network.rng);
    let packets = numbered(&mut network, id, &key, 0, &drawn);
    let mut link = network.link_as(Role::Mix(1)).await;

    // It dies while packets come, wait and leave.
    let load = send_all(&mut link, hint, &packets, rate as f64, clock.now(), clock);
    let (sent, ()) = tokio::join!(load, async {
        tokio::time::sleep(Duration::from_secs(seconds as u64) - Duration::from_millis(400)).await;
        network.kill();
    });
    assert!(sent.len() > packets.len() / 2 && sent.len() < packets.len(), "{} sent", sent.len());
    // What was on its way to the neighbour arrives.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let restarted = clock.now();
    network.restart().await;
    network.wait_for("mizzle_links_out", 1.0).await;
    let mut link = network.link_as(Role::Mix(1)).await;
    let again = &packets[..sent.len()];
    send_all(&mut link, hint, again, rate as f64, clock.now(), clock).await;
    network.wait_for("mizzle_packets_received_total", again.len() as f64).await;
    network.balance().await;

    let (before, after): (Vec<_>, Vec<_>) =
        collected.open(&key).await.into_iter().partition(|&(_, at)| at < restarted);
    let numbers = |arrivals: &[(u32, Instant)]| arrivals.iter().map(|&(number, _)| number).collect();
    let (accepted, fresh): (BTreeSet<u32>, BTreeSet<u32>) = (numbers(&before), numbers(&after));
    let twice = accepted.intersection(&fresh).count();
    figure("kill: packets accepted before kill -9", accepted.len() as f64, "packets", ">= 1000");
    figure("kill: of them, accepted again after it", twice as f64, "packets", "<= 0");
    assert!(accepted.len() >= 1_000 && accepted.len() == before.len() && fresh.len() == after.len());
    assert_eq!(twice, 0, "packets go out twice");
    assert!(network.dropped("replayed").await >= accepted.len() as f64);
}

#[tokio::test]
async fn a_relay_whose_memory_is_full_refuses_packets_and_says_so() {
    let _alone = ALONE.lock().await;
    let before = Some("mkdir -p runtime && mount -t tmpfs -o size=128k,mode=0700 tmpfs runtime");
    let mut network =
        Network::start_by(Launch { before, ..Launch::default() }, &LINE, Role::Mix(2), "").await;
    network.wait_for("mizzle_links_out", 1.0).await;
    let (hint, clock) = (network.hint(), network.clock);
    let to = network.neighbour(Role::Mix(3));
    let (id, key) = (to.id().0, to.key.clone());
    let collected = Collected::start(to.take_packets());
    // A page of the file system has room for 512 tags.
    let packets = numbered(&mut network, id, &key, 0, &[Duration::ZERO; 1_200]);
    let mut link = network.link_as(Role::Mix(1)).await;
    let (good, rest) = packets.split_at(50);
    send_all(&mut link, hint, good, 500.0, clock.now(), clock).await;
    network.wait_for("mizzle_packets_sent_total", 50.0).await;
    assert!(!network.log().contains("refuses packets"));

    // The test sees the relay's file system through its process.
    let folder = network.folder.path().strip_prefix("/").unwrap().join("runtime/filler");
    let filler = PathBuf::from(format!("/proc/{}/root", network.process())).join(folder);
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write(&mut file, &[1; 1_024]).is_ok() {}
    send_all(&mut link, hint, rest, 500.0, clock.now(), clock).await;
    network.wait_for("mizzle_packets_received_total", packets.len() as f64).await;
    network.balance().await;
    let (sent, refused) =
        (network.count("mizzle_packets_sent_total").await, network.dropped("replay_memory").await);
    let dropped = network.dropped_by_reason().await;
    // Two busy cores may make a packet wait too long, which is another matter.
    let late = dropped.get("overloaded").copied().unwrap_or(0.0);
    assert!(refused > 500.0 && sent + refused + late == packets.len() as f64, "{sent} sent, {dropped:?}");
    network.wait_for_log("this relay refuses packets: its replay memory cannot be written").await;
    let status = String::from_utf8(network.command(&["status"]).await.stdout).unwrap();
    assert!(
        status.contains("trouble    it refuses packets: its replay memory cannot be written"),
        "{status}"
    );
    // Who is told to ask the doctor hears no clean bill of health.
    let told = String::from_utf8(network.command(&["doctor"]).await.stdout).unwrap();
    assert!(told.contains("FAIL replay: the relay refuses packets: its replay memory cannot"), "{told}");
    let said = network.log().matches("refuses packets").count();
    assert_eq!(said, 1, "once, not for each packet: {}", network.log());

    // None was forgotten, and when there is room again each goes out that has not.
    send_all(&mut link, hint, &packets, 500.0, clock.now(), clock).await;
    network.wait_for("mizzle_packets_received_total", 2.0 * packets.len() as f64).await;
    network.balance().await;
    assert_eq!(network.count("mizzle_packets_sent_total").await, sent);
    std::fs::remove_file(&filler).unwrap();
    drop(file);
    for _ in 0..5 {
        send_all(&mut link, hint, &packets, 500.0, clock.now(), clock).await;
        network.balance().await;
    }
    // The last ones reach the neighbour.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut times: HashMap<u32, usize> = HashMap::new();
    for (number, _) in collected.open(&key).await {
        *times.entry(number).or_default() += 1;
    }
    assert!(times.len() == packets.len() && times.values().all(|&count| count == 1));
    figure("full memory: packets refused", refused, "packets", "> 500");
}

#[tokio::test]
async fn a_relay_whose_memory_can_only_be_read_does_not_start_and_says_why() {
    let _alone = ALONE.lock().await;
    let mut network = Network::start_among(&LINE, Role::Mix(2), "").await;
    network.kill();
    let before = Some("mount --bind runtime runtime && mount -o remount,bind,ro runtime");
    let mut command = Launch { before, ..Launch::default() }.command(&network.config());
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = tokio::time::timeout(PATIENCE, run).await.expect("it runs on").unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{said}");
    assert!(said.contains("runtime") && said.to_lowercase().contains("read-only"), "{said}");
    // Nothing is lost by that: with the folder as it was, it goes on.
    network.restart().await;
    assert!(network.is_alive());
}

fn middle(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
