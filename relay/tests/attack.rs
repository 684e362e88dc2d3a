//! What some may do to a relay without the others feeling it: connections that say nothing, junk, and readers
//! that do not read. (spec: LINK-8, LINK-13, ENTRY-8)
//!
//! Each test has quiet and loud windows by turns, with the same numbers, rates and drawn delays of packets in
//! each, and compares the medians, over the windows of a kind, of the 99th percentile of the time that an honest
//! packet takes. What else goes on at the machine hits both kinds alike, and a bad moment hits one window only.
//! With `MIZZLE_LONG` set there are sixteen windows of three seconds, else four of one and a half.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::load::{Collected, delays, figure, is_long, median, milliseconds, numbered, quantile, send_all};
use common::{Network, send};
use mizzle_link::http::{self, Limits};
use mizzle_link::{Alpn, Clock, Link, dial, seeded_rng};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::RelayId;
use mizzle_protocol::mix::Role;
use mizzle_protocol::sphinx::SecretKey;
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::cell::{ClientCell, client_cell_size};
use rand_core::Rng;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::mpsc;

/// Held by each test: they read the clock.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Turns the attack on and off, and lets others see which it is.
#[derive(Clone, Default)]
struct Switch(Arc<AtomicBool>);

impl Switch {
    fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns when it is on.
    async fn on(&self) {
        while !self.is_on() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Returns when it is off.
    async fn off(&self) {
        while self.is_on() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// What the windows showed: the 99th percentile of each, quiet ones and loud ones, and the same without the
/// delays that were drawn.
#[derive(Default)]
struct Windows {
    whole: [Vec<Duration>; 2],
    beyond: [Vec<Duration>; 2],
    /// For how long the attack was on, in all.
    loud: Duration,
}

/// Sends honest packets over `link` to whoever holds `key` at `address` and hands its packets to `packets`, in
/// quiet windows and in loud ones. The attack takes hold, or its remains go away, in `lead` before each.
async fn windows(
    network: &mut Network,
    link: &mut Link,
    (address, key): ([u8; 32], &SecretKey),
    packets: mpsc::Receiver<(u8, Vec<u8>, Instant)>,
    attack: &Switch,
    lead: Duration,
) -> Windows {
    let (count, length) = if is_long() { (16, 3.0) } else { (4, 1.5) };
    let each = (RATE * length) as usize;
    let (hint, clock) = (network.hint(), network.clock);
    let collected = Collected::start(packets);
    let (mut sent, mut drawn, mut found) = (Vec::new(), Vec::new(), Windows::default());
    for window in 0..count {
        let delays = delays(each, &mut network.rng);
        let first = (window * each) as u32;
        let made = numbered(network, address, key, first, &delays);
        let begun = clock.now();
        attack.0.store(window % 2 == 1, Ordering::Relaxed);
        tokio::time::sleep(lead).await;
        sent.extend(send_all(link, hint, &made, RATE, clock.now(), clock).await);
        drawn.extend(delays);
        tokio::time::sleep(Duration::from_millis(250)).await;
        if attack.is_on() {
            found.loud += clock.now().since(begun);
        }
        attack.0.store(false, Ordering::Relaxed);
    }
    let arrived = collected.open(key).await;
    assert_eq!(sent.len(), count * each, "the honest link has ended");
    // Busy cores may cost a packet or two; an attack that costs more shows here.
    assert!(arrived.len() * 1_000 >= sent.len() * 995, "{} of {} came", arrived.len(), sent.len());
    let mut times = vec![(Vec::new(), Vec::new()); count];
    for (number, at) in arrived {
        let number = number as usize;
        let took = at.since(sent[number]);
        times[number / each].0.push(took);
        times[number / each].1.push(took.saturating_sub(drawn[number]));
    }
    for (window, (mut whole, mut beyond)) in times.into_iter().enumerate() {
        found.whole[window % 2].push(quantile(&mut whole, 0.99));
        found.beyond[window % 2].push(quantile(&mut beyond, 0.99));
    }
    found
}

impl Windows {
    /// The attack has cost the others less than a tenth of the time that their slowest packets take anyhow; and of
    /// that time, what is beyond the drawn delays and so the relay's own, a tenth and no more than `slack`.
    fn judge(mut self, what: &str, slack: Duration) {
        let [quiet, loud] = self.whole.each_mut().map(|values| milliseconds(median(values)));
        let [alone, under] = self.beyond.each_mut().map(|values| milliseconds(median(values)));
        figure(&format!("{what}: others' p99, quiet"), quiet, "ms", "");
        figure(&format!("{what}: others' p99, under attack"), loud, "ms", "");
        figure(&format!("{what}: under attack over quiet"), loud / quiet, "", "<= 1.1");
        figure(&format!("{what}: p99 beyond the drawn delay, quiet"), alone, "ms", "");
        figure(&format!("{what}: p99 beyond the drawn delay, under attack"), under, "ms", "");
        let most = alone * 1.1 + milliseconds(slack);
        figure(&format!("{what}: the same to what it may be"), under / most, "", "<= 1");
        assert!(under <= most, "{what}: {alone} ms beyond the drawn delay quiet, {under} ms under attack");
        assert!(loud <= quiet * 1.1, "{what}: {quiet} ms quiet, {loud} ms under attack");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_half_open_handshakes_neither_slow_the_others_nor_keep_newcomers_out() {
    let _alone = ALONE.lock().await;
    let mut network = Network::start(Role::Mix(1), "").await;
    network.wait_for("mizzle_links_out", 1.0).await;
    let attack = Switch::default();
    let _crowd = Aborted(tokio::spawn(half_open(network.address, attack.clone())));
    let mut link = network.link_as(Role::Entry).await;
    let to = network.neighbour(Role::Mix(2));
    let (id, key, packets) = (to.id().0, to.key.clone(), to.take_packets());
    // Newcomers come all the while, from the subnet that half of the crowd comes from, too.
    let identity = network.neighbour(Role::Entry).identity.clone();
    let (address, relay, clock) = (network.address, network.descriptor.relay, network.clock);
    let (met, mut dialled) = mpsc::channel(10_000);
    let switch = attack.clone();
    let newcomers = Aborted(tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let (begun, loud) = (clock.now(), switch.is_on());
            let link = dial(address, relay, Some(&identity), Alpn::Cells, None).await;
            met.send((loud, link.is_ok(), clock.now().since(begun))).await.unwrap();
        }
    }));
    let found = windows(&mut network, &mut link, (id, &key), packets, &attack, LEAD).await;
    drop(newcomers);
    let displaced = network.count("mizzle_connections_refused_total{reason=\"full\"}").await;
    let (mut taken, mut turned_away) = (Vec::new(), 0);
    while let Some((loud, is_ok, took)) = dialled.recv().await {
        turned_away += usize::from(!is_ok);
        taken.extend((loud && is_ok).then_some(took));
    }
    figure("half-open: connections displaced", displaced, "connections", "> 700");
    figure("half-open: newcomers taken under attack", taken.len() as f64, "links", ">= 20");
    figure("half-open: newcomers turned away", turned_away as f64, "links", "<= 0");
    figure("half-open: handshake of a newcomer, p99", milliseconds(quantile(&mut taken, 0.99)), "ms", "");
    assert!(displaced > 700.0, "the crowd was not there: {displaced} displaced");
    assert!(turned_away == 0 && taken.len() >= 20, "{turned_away} turned away, {} taken", taken.len());
    found.judge("half-open", SLACK);
}

/// A thousand connections that say nothing, or five bytes of a hello, and stay; half of them from subnets that
/// nobody else is in. Opened anew in each loud window.
async fn half_open(address: SocketAddr, attack: Switch) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    loop {
        attack.on().await;
        let mut crowd = Vec::new();
        for number in 0..1_000u32 {
            let socket = TcpSocket::new_v4().unwrap();
            let [.., high, low] = number.to_be_bytes();
            let host = if number % 2 == 0 { [127, 66, high, low.max(1)] } else { [127, 0, 0, 1] };
            socket.bind(SocketAddr::new(host.into(), 0)).unwrap();
            let mut stream = socket.connect(address).await.unwrap();
            if number % 4 < 2 {
                // It may have been displaced already.
                let _ = stream.write_all(&[0x16, 3, 1, 2, 0]).await;
            }
            crowd.push(stream);
        }
        attack.off().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_floods_with_junk_and_reads_nothing_does_not_slow_the_others() {
    let _alone = ALONE.lock().await;
    let mut network = Network::start(Role::Entry, "").await;
    network.wait_for("mizzle_links_out", 1.0).await;
    let attack = Switch::default();
    let (first, hint) = (network.neighbour(Role::Mix(1)).id(), network.hint());
    let flooded = Arc::new(AtomicU64::new(0));
    let (address, relay) = (network.address, network.descriptor.relay);
    let flood = flood(address, relay, (first, hint), attack.clone(), flooded.clone());
    let _flood = Aborted(tokio::spawn(flood));

    let (client, home) = network.client(1).await;
    let (sender, packets) = mpsc::channel(20_000);
    let _reader = Aborted(tokio::spawn(read_all(client, sender, network.clock)));
    let mut link = network.link_as(Role::Mix(3)).await;
    let key = SecretKey::generate(&mut network.rng);
    let found = windows(&mut network, &mut link, (home.0, &key), packets, &attack, LEAD).await;
    let loud = found.loud;
    let rate = flooded.load(Ordering::Relaxed) as f64 / loud.as_secs_f64();
    let relayed = network.count("mizzle_packets_sent_total{to=\"relay\"}").await;
    let limited = network.dropped("rate_limited").await;
    // It has ten thousand a second to send, and what it gets rid of is what the relay reads of it.
    figure("junk client: packets a second that the relay reads, of 10 000 offered", rate, "1/s", "<= 1500");
    figure("junk client: packets relayed in a second", relayed / loud.as_secs_f64(), "1/s", "<= 400");
    assert!((100.0..1_500.0).contains(&rate), "{rate} packets a second");
    // Twice the send rate of 80, and a second of it after each pause.
    assert!(relayed / loud.as_secs_f64() <= 400.0, "{relayed} packets of junk went on");
    assert!(limited > 100.0, "{limited} of {relayed}");
    found.judge("junk client", SLOT_SLACK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_beyond_its_rate_is_read_slowly_whatever_it_sends() {
    let _alone = ALONE.lock().await;
    let mut network = Network::start(Role::Entry, "").await;
    network.wait_for("mizzle_links_out", 1.0).await;
    let (next, hint) = (network.neighbour(Role::Mix(1)).id(), network.hint());
    let mut packet = vec![0; Geometry::default().packet()];
    network.rng.fill_bytes(&mut packet);
    let cells = [
        ClientCell::Packet { next, hint, packet: &packet },
        ClientCell::Filler,
        ClientCell::Step(common::STEP),
    ];
    for (number, kind) in cells.into_iter().enumerate() {
        let (mut link, _) = common::greet(network.address, network.descriptor.relay, number as u8).await;
        let mut cell = Vec::new();
        kind.emit(Geometry::default(), &mut cell);
        let (many, size) = (cell.repeat(10), cell.len() as f64);
        let read = async || network.count("mizzle_link_bytes_total{direction=\"read\"}").await / size;
        // What a second of its rate lets pass, and what it has sent before it is found out.
        let mut before = 0.0;
        for _ in 0..2 {
            before = read().await;
            let flood = async { while link.write_all(&many).await.is_ok() {} };
            let _ = tokio::time::timeout(Duration::from_secs(2), flood).await;
        }
        let rate = (read().await - before) / 2.0;
        // Twice its rate of 80, and 200 pauses a second.
        assert!((50.0..600.0).contains(&rate), "{kind:?}: {rate} cells a second");
    }
}

/// A client that has ten packets of noise to send each millisecond of loud windows, and never reads. When its link is
/// ended it comes back.
async fn flood(
    address: SocketAddr,
    relay: RelayId,
    (next, hint): (RelayId, u8),
    attack: Switch,
    flooded: Arc<AtomicU64>,
) {
    let mut noise = vec![0; Geometry::default().packet() * 10];
    seeded_rng().unwrap().fill_bytes(&mut noise);
    let (mut junk, mut cell) = (Vec::new(), Vec::new());
    for packet in noise.chunks_exact(Geometry::default().packet()) {
        ClientCell::Packet { next, hint, packet }.emit(Geometry::default(), &mut cell);
        junk.extend(&cell);
    }
    loop {
        attack.on().await;
        let (mut link, _) = common::greet(address, relay, 2).await;
        let mut due = tokio::time::Instant::now();
        while attack.is_on() {
            if link.write_all(&junk).await.is_err() || link.flush().await.is_err() {
                break;
            }
            flooded.fetch_add(10, Ordering::Relaxed);
            due += Duration::from_millis(1);
            tokio::time::sleep_until(due).await;
        }
    }
}

/// Hands on all packets that come to a client.
async fn read_all(mut link: Link, sender: mpsc::Sender<(u8, Vec<u8>, Instant)>, clock: Clock) {
    let mut cell = vec![0; client_cell_size(Geometry::default())];
    while link.read_exact(&mut cell).await.is_ok() {
        if let Ok(ClientCell::Packet { hint, packet, .. }) = ClientCell::parse(Geometry::default(), &cell) {
            let _ = sender.try_send((hint, packet.to_vec(), clock.now()));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_does_not_slow_the_others() {
    let _alone = ALONE.lock().await;
    let others = [Role::Entry, Role::Mix(2), Role::Mix(2)];
    let mut network = Network::start_among(&others, Role::Mix(1), "").await;
    network.wait_for("mizzle_links_out", 2.0).await;
    // Its links are there already, and look at the flag that it has.
    let attack = Switch(network.neighbours[2].is_deaf.clone());
    let (hint, clock) = (network.hint(), network.clock);
    let (deaf, deaf_key) = (network.neighbours[2].id().0, network.neighbours[2].key.clone());
    // As much for it, loud or not: what it does not read fills the kernel's buffers, and then the relay's queue.
    let (lead, rate) = (Duration::from_secs(2), 1_000);
    let seconds = if is_long() { 90 } else { 16 };
    let waste = numbered(&mut network, deaf, &deaf_key, 0, &vec![Duration::ZERO; rate * seconds]);
    let mut second = network.link_as(Role::Entry).await;
    let _waste = Aborted(tokio::spawn(async move {
        send_all(&mut second, hint, &waste, rate as f64, clock.now(), clock).await;
        std::future::pending().await
    }));
    let mut link = network.link_as(Role::Entry).await;
    let to = &mut network.neighbours[1];
    let (id, key, packets) = (to.id().0, to.key.clone(), to.take_packets());
    let found = windows(&mut network, &mut link, (id, &key), packets, &attack, lead).await;
    let mut dropped = network.dropped("late").await;
    dropped += network.dropped("queue_full").await + network.dropped("link_down").await;
    figure("deaf reader: packets for it dropped", dropped, "packets", "> 100");
    assert!(dropped > 100.0, "the deaf reader's queue was not full");
    found.judge("deaf reader", SLACK);
}

#[tokio::test]
async fn junk_that_an_honest_entry_relays_never_closes_its_link() {
    let _alone = ALONE.lock().await;
    let count = if is_long() { 20_000 } else { 2_000 };
    let mut network = Network::start(Role::Mix(1), "").await;
    network.wait_for("mizzle_links_out", 1.0).await;
    let (hint, clock) = (network.hint(), network.clock);
    let to = network.neighbour(Role::Mix(2));
    let (id, key) = (to.id().0, to.key.clone());
    let collected = Collected::start(to.take_packets());
    let good = numbered(&mut network, id, &key, 0, &vec![Duration::ZERO; count / 10]);
    let mut link = network.link_as(Role::Entry).await;
    let start = clock.now();
    for (number, good) in good.iter().enumerate() {
        // As fast as the relay takes them without dropping any unseen.
        let due = start + Duration::from_millis(10) * number as u32;
        tokio::time::sleep(clock.until(due)).await;
        let mut junk = vec![0; good.packet.len()];
        for _ in 0..7 {
            network.rng.fill_bytes(&mut junk);
            send(&mut link, hint, &junk).await;
        }
        send(&mut link, hint, &good.packet).await;
        // The same again, one that was altered, and one for a key that nobody has.
        send(&mut link, hint, &good.packet).await;
        junk.copy_from_slice(&good.packet);
        junk[100] ^= 1;
        send(&mut link, hint, &junk).await;
        send(&mut link, hint.wrapping_add(9), &good.packet).await;
    }
    network.wait_for("mizzle_packets_received_total", (good.len() * 11) as f64).await;
    network.balance().await;
    // All came by one link, which is still there.
    let closed = 1.0 - network.count("mizzle_links_in").await;
    assert_eq!(closed, 0.0);
    let last = network.packet(id, Duration::ZERO);
    send(&mut link, hint, &last).await;
    network.wait_for("mizzle_packets_received_total", (good.len() * 11 + 1) as f64).await;
    network.balance().await;
    let dropped = network.dropped_by_reason().await;
    let late = dropped.get("overloaded").copied().unwrap_or(0.0);
    figure("relayed junk: packets of it", (good.len() * 10) as f64, "packets", "");
    figure("relayed junk: links closed for it", closed, "links", "<= 0");
    assert!(dropped["forged"] + late >= (good.len() * 8) as f64, "{dropped:?}");
    let came = collected.open(&key).await.len();
    assert!(came as f64 + late >= good.len() as f64, "{came} of {} came", good.len());
}

/// A task that ends with its test.
struct Aborted(tokio::task::JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the scheduling of a shared machine moves a median of windows by.
const SLACK: Duration = Duration::from_millis(2);
/// The same for packets that wait for a client's slots, whose moments are drawn: medians of quiet windows differ by
/// so much.
const SLOT_SLACK: Duration = Duration::from_millis(12);
/// For what takes hold at once.
const LEAD: Duration = Duration::from_millis(300);
/// Honest packets a second.
const RATE: f64 = 200.0;

#[tokio::test]
async fn a_listed_relay_that_opens_many_links_keeps_out_no_other() {
    let _alone = ALONE.lock().await;
    let mut network = Network::start(Role::Mix(1), "").await;
    let (address, relay) = (network.address, network.descriptor.relay);
    let identity = network.neighbour(Role::Mix(3)).identity.clone();
    let mut honest = network.link_as(Role::Entry).await;
    network.wait_for("mizzle_links_in", 1.0).await;
    let mut many = Vec::new();
    for _ in 0..100 {
        many.push(dial(address, relay, Some(&identity), Alpn::Cells, None).await.unwrap());
    }
    // Four of them are left, its newest, and one of the relay that means no harm.
    network.wait_for("mizzle_connections_refused_total{reason=\"full\"}", 96.0).await;
    assert_eq!(network.count("mizzle_links_in").await, 5.0);
    let (next, hint) = (network.neighbour(Role::Mix(2)).id().0, network.hint());
    let packet = network.packet(next, Duration::ZERO);
    send(&mut honest, hint, &packet).await;
    network.neighbour(Role::Mix(2)).receive().await;
    let mut byte = [0];
    let mut ends = async |link: &mut Link| {
        tokio::time::timeout(LEAD, tokio::io::AsyncReadExt::read(link, &mut byte)).await.is_ok()
    };
    assert!(ends(&mut many[0]).await);
    assert!(!ends(&mut many[99]).await);
}

#[tokio::test]
async fn links_that_say_nothing_keep_out_neither_relays_nor_who_asks_for_documents() {
    let _alone = ALONE.lock().await;
    let mut network = Network::start(Role::Mix(1), "").await;
    let (address, relay) = (network.address, network.descriptor.relay);
    let mut silent = Vec::new();
    for _ in 0..520 {
        silent.push(dial(address, relay, None, Alpn::Documents, None).await.unwrap());
    }
    // Those that came last have displaced the first of their own.
    network.wait_for("mizzle_connections_refused_total{reason=\"full\"}", 8.0).await;
    let elsewhere = Some([127, 66, 0, 1].into());
    let mut link = dial(address, relay, None, Alpn::Documents, elsewhere).await.unwrap();
    let response = http::get(&mut link, "/consensus", &Limits::default()).await.unwrap();
    assert_eq!(response.status, 200);
    let _relay = network.link_as(Role::Entry).await;
    network.wait_for("mizzle_links_in", 1.0).await;
    drop(silent);
}
