//! What an operator may ask of a running relay: to stop, to leave, to read its configuration again, to keep to a
//! rate and a quota, and to say nothing of anyone. (spec: RELAY-8 to RELAY-13)

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::load::{Collected, delays, figure, is_long, milliseconds, numbered, quantile, send_all};
use common::{Authority, Launch, Network, PATIENCE, ended, greet_at, own_host, send};
use mizzle_link::{CertificateFile, Identity, seeded_rng};
use mizzle_protocol::consensus::{Descriptor, ProtocolNumber};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::to_hex;
use mizzle_protocol::level::{Level, Step};
use mizzle_protocol::mix::Role;
use mizzle_protocol::path::Parameters;
use mizzle_protocol::time::UnixTime;
use mizzle_protocol::wire::cell::{ClientCell, RelayCell, client_cell_size, relay_cell_size};
use rustix::process::Signal;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_relay_that_is_told_to_stop_loses_nothing() {
    let mut network = Network::start(Role::Mix(1), "").await;
    let next = network.neighbour(Role::Mix(2)).id().0;
    let hint = network.hint();
    network.wait_for("mizzle_links_out", 1.0).await;
    let mut link = network.link_as(Role::Entry).await;
    network.wait_for("mizzle_links_in", 1.0).await;
    let packets: Vec<_> =
        (0..200).map(|number| network.packet(next, Duration::from_millis(number))).collect();
    for packet in &packets {
        send(&mut link, hint, packet).await;
    }
    // Some are held, and some have not been read yet.
    network.signal(Signal::TERM);
    // A relay ends its link when it hears the goodbye, as this one does.
    let mut byte = [0];
    let heard = tokio::io::AsyncReadExt::read(&mut link, &mut byte);
    assert!(matches!(tokio::time::timeout(PATIENCE, heard).await, Ok(Ok(0))));
    drop(link);
    assert_eq!(network.ended().await, Some(0));
    for _ in 0..packets.len() {
        network.neighbour(Role::Mix(2)).receive().await;
    }
    assert!(network.log().contains("and all went out"), "{}", network.log());
    // Nothing answers any more, and nothing is left of the control socket.
    assert!(!network.folder.path().join("state/control").exists());
}

#[tokio::test]
async fn an_entry_that_is_told_to_stop_gives_its_clients_all_that_waits_for_them() {
    let mut network = Network::start(Role::Entry, "").await;
    let hint = network.hint();
    // As slow as clients may be, one with a full queue, and one that has left with packets waiting.
    let slow = Step { level: Level::Balanced, step: 0 };
    let (address, entry) = (network.address, network.descriptor.relay);
    let (mut client, home) = greet_at(slow, address, entry, 1).await;
    let (left, elsewhere) = greet_at(slow, address, entry, 2).await;
    drop(left);
    let mut mix = network.link_as(Role::Mix(3)).await;
    while network.count("mizzle_client_links").await > 1.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for to in [&elsewhere; 5].into_iter().chain([&home; 80]) {
        let packet = network.packet(to.0, Duration::ZERO);
        send(&mut mix, hint, &packet).await;
    }
    network.wait_for("mizzle_packets_received_total", 85.0).await;
    assert_eq!(network.count("mizzle_packets_in_flight{place=\"away\"}").await, 5.0);
    network.signal(Signal::TERM);
    drop(mix);
    let (mut came, mut cell) = (0, vec![0; client_cell_size(Geometry::default())]);
    while client.read_exact(&mut cell).await.is_ok() {
        came += usize::from(matches!(
            ClientCell::parse(Geometry::default(), &cell),
            Ok(ClientCell::Packet { .. })
        ));
    }
    drop(client);
    assert_eq!(network.ended().await, Some(0));
    assert_eq!(came, 80, "{}", network.log());
    assert!(network.log().contains("and all went out"), "{}", network.log());
}

#[tokio::test]
async fn a_relay_that_is_told_twice_ends_at_once() {
    let mut network = Network::start(Role::Mix(1), "").await;
    let next = network.neighbour(Role::Mix(2)).id().0;
    let hint = network.hint();
    let mut link = network.link_as(Role::Entry).await;
    // The link stays open: the relay waits for its end, until it is told again.
    for _ in 0..20 {
        let packet = network.packet(next, Duration::from_millis(200));
        send(&mut link, hint, &packet).await;
    }
    network.wait_for("mizzle_packets_received_total", 20.0).await;
    network.signal(Signal::TERM);
    network.signal(Signal::INT);
    assert_eq!(network.ended().await, Some(0));
    assert!(network.log().contains("are lost"), "{}", network.log());
}

#[tokio::test]
async fn a_rate_holds_and_delays_do_not_change() {
    // Twice the rate, for a minute in the long form; in `bandwidth` there is a minute of virtual time, too.
    let seconds = if is_long() { 60 } else { 6 };
    let mut network = Network::start(Role::Mix(1), "rate = \"10 Mbit/s\"\nburst = \"64 kB\"").await;
    assert_eq!(network.descriptor.announced_rate, 1_250_000 / relay_cell_size(Geometry::default()) as u32);
    let to = network.neighbour(Role::Mix(2));
    let (id, key) = (to.id().0, to.key.clone());
    let collected = Collected::start(to.take_packets());
    let (hint, clock) = (network.hint(), network.clock);
    network.wait_for("mizzle_links_out", 1.0).await;
    let mut link = network.link_as(Role::Entry).await;
    let cell = relay_cell_size(Geometry::default()) as f64;
    let rate = 2_500_000.0 / cell;
    let drawn = delays((rate * f64::from(seconds)) as usize, &mut network.rng);
    let packets = numbered(&mut network, id, &key, 0, &drawn);
    let start = clock.now();
    let moments = send_all(&mut link, hint, &packets, rate, start, clock).await;
    let took = clock.now().since(start).as_secs_f64();
    network.wait_for("mizzle_packets_received_total", packets.len() as f64).await;
    network.balance().await;
    let sent = network.count("mizzle_packets_sent_total").await;
    let refused = network.dropped("rate_limited").await;
    // Departures are as punctual as ever: what is beyond the drawn delay is this machine's own slowness.
    let mut beyond: Vec<_> = collected
        .open(&key)
        .await
        .into_iter()
        .map(|(number, at)| at.since(moments[number as usize]).saturating_sub(drawn[number as usize]))
        .collect();
    let (p50, p95) = (quantile(&mut beyond, 0.5), quantile(&mut beyond, 0.95));
    let allowed = (1_250_000.0 * took + 64_000.0) / cell;
    figure("rate: seconds of load", took, "s", "");
    figure("rate: off 10 Mbit/s", 100.0 * (sent / allowed - 1.0).abs(), "%", "<= 5");
    figure("rate: beyond the drawn delay, p50", milliseconds(p50), "ms", "<= 10");
    figure("rate: beyond the drawn delay, p95", milliseconds(p95), "ms", "<= 50");
    assert!((0.95..1.05).contains(&(sent / allowed)), "{sent} sent, {allowed} allowed");
    assert_eq!(sent + refused, packets.len() as f64);
    assert_eq!(network.count("mizzle_bandwidth_refused_total{limit=\"rate\"}").await, refused);
    assert!(p50 < Duration::from_millis(10) && p95 < Duration::from_millis(50), "{p50:?}, {p95:?} late");
}

#[tokio::test]
async fn a_quota_that_is_used_up_leads_to_an_announced_rest_that_outlives_the_process() {
    let mut network = Network::start(Role::Mix(1), "quota = \"1 MB\"").await;
    let next = network.neighbour(Role::Mix(2)).id().0;
    let hint = network.hint();
    network.wait_for("mizzle_links_out", 1.0).await;
    let mut link = network.link_as(Role::Entry).await;
    assert!(network.descriptor.announced_rate > 0);
    for _ in 0..150 {
        let packet = network.packet(next, Duration::ZERO);
        send(&mut link, hint, &packet).await;
    }
    let rest = announces(&mut network, |rate| rate == 0).await;
    assert_eq!(rest.relay, network.descriptor.relay);
    network.wait_for_log("the quota is used up").await;
    for _ in 0..5 {
        let packet = network.packet(next, Duration::ZERO);
        send(&mut link, hint, &packet).await;
    }
    network.wait_for("mizzle_bandwidth_refused_total{limit=\"quota\"}", 5.0).await;
    network.balance().await;
    // The next document is without it, and `status` says why.
    let me = network.descriptor.relay;
    network.publish(|consensus| consensus.relays.retain(|relay| relay.id != me));
    network.kill();
    network.resume(); // Without its documents it would rest all the same.
    network.wait_for("mizzle_links_in", 0.0).await;
    network.wait_for_log("the quota is used up").await;
    announces(&mut network, |rate| rate == 0).await;
    let status = async {
        loop {
            let text = String::from_utf8(network.command(&["status"]).await.stdout).unwrap();
            if text.contains("it rests: its monthly quota is used up") {
                break text;
            }
        }
    };
    let text = tokio::time::timeout(PATIENCE, status).await.expect("status gives no reason");
    assert!(text.contains("of 1 MB used, begins anew in"), "{text}");
}

#[tokio::test]
async fn a_relay_that_is_told_to_leave_serves_until_nobody_needs_it() {
    let mut network = Network::start_with(Role::Mix(1), "", |consensus| {
        let now = consensus.valid_after.0 + 1;
        consensus.parameters = Parameters {
            epoch: Duration::from_secs(3),
            surb_life: Duration::from_secs(2),
            ..Parameters::local()
        };
        (consensus.fresh_until, consensus.valid_until) = (UnixTime(now + 3), UnixTime(now + 8));
    })
    .await;
    let next = network.neighbour(Role::Mix(2)).id().0;
    let hint = network.hint();
    network.wait_for("mizzle_links_out", 1.0).await;
    let output = network.command(&["drain"]).await;
    assert!(output.status.success(), "{output:?}");
    announces(&mut network, |rate| rate == 0).await;
    let mut link = network.link_as(Role::Entry).await;
    let packet = network.packet(next, Duration::from_millis(1));
    send(&mut link, hint, &packet).await;
    network.neighbour(Role::Mix(2)).receive().await;
    let text = String::from_utf8(network.command(&["status"]).await.stdout).unwrap();
    assert!(text.contains("leaves     told to; ends by itself in"), "{text}");
    drop(link);
    assert_eq!(network.ended().await, Some(0));
    assert!(network.log().contains("no document lists this relay any more"), "{}", network.log());
    let output = network.command(&["drain"]).await;
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("does it run?"));
}

#[tokio::test]
async fn a_relay_that_is_told_to_leave_without_a_document_ends_and_says_why() {
    let mut network = Network::start(Role::Mix(1), "").await;
    network.kill();
    std::fs::remove_file(network.folder.path().join("state/consensus")).unwrap();
    let file = network.folder.path().join("network.toml");
    // Nobody answers there.
    let text = std::fs::read_to_string(&file).unwrap();
    let address = text.lines().find(|line| line.starts_with("address")).unwrap();
    std::fs::write(&file, text.replace(address, "address = \"127.0.0.1:9\"")).unwrap();
    network.resume();
    let output = network.command(&["drain"]).await;
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("it serves nobody, and ends"), "{said}");
    assert_eq!(network.ended().await, Some(0));
    assert!(network.log().contains("this relay has no document"), "{}", network.log());
}

#[tokio::test]
async fn a_relay_announces_no_more_than_it_can_remember_for_a_key_period() {
    let Parameters { key_period, overlap, .. } = Parameters::local();
    let seconds = (key_period + overlap).as_secs() as u32;
    let network = Network::start(Role::Mix(1), "").await;
    let plenty = network.descriptor.announced_rate;
    drop(network);
    // A million tags.
    let network = Network::start(Role::Mix(1), "replay_memory = \"12 MB\"").await;
    let few = network.descriptor.announced_rate;
    assert!(few == 1_000_000 / seconds && few < plenty, "{few}, {plenty}");
    drop(network);
    // As many, and room for four tenths of them: 8 bytes each, and a quarter more while two periods overlap.
    let before = Some("mkdir -p runtime && mount -t tmpfs -o size=4000000 tmpfs runtime");
    let launch = Launch { before, ..Launch::default() };
    let others = [Role::Entry, Role::Mix(2)];
    let network = Network::start_by(launch, &others, Role::Mix(1), "replay_memory = \"12 MB\"").await;
    let least = network.descriptor.announced_rate;
    assert!((380_000..=400_000).contains(&(least * seconds + seconds / 2)), "{least}");
    network.wait_for_log("WARN the replay tags of `replay_memory` = \"12 MB\" take up to 10 MB").await;
}

#[tokio::test]
async fn filler_of_a_relay_takes_nothing_from_packets_and_no_more_of_the_line_than_they_leave() {
    let seconds = 4.0;
    let mut network = Network::start(Role::Mix(1), "rate = \"10 Mbit/s\"\nburst = \"640 kB\"").await;
    network.wait_for("mizzle_links_out", 1.0).await;
    let cell = relay_cell_size(Geometry::default()) as f64;
    let (hint, clock, id) = (network.hint(), network.clock, network.neighbour(Role::Mix(2)).id().0);
    let key = network.neighbour(Role::Mix(2)).key.clone();
    let mut idle = network.link_as(Role::Entry).await;
    let filler = tokio::spawn(async move {
        let mut bytes = Vec::new();
        RelayCell::Filler.emit(Geometry::default(), &mut bytes);
        let many = bytes.repeat(64);
        while idle.write_all(&many).await.is_ok() && idle.flush().await.is_ok() {}
    });
    let mut link = network.link_as(Role::Entry).await;
    // Half of the rate.
    let rate = 625_000.0 / cell;
    let none = vec![Duration::ZERO; (rate * seconds) as usize];
    let packets = numbered(&mut network, id, &key, 0, &none);
    let start = clock.now();
    send_all(&mut link, hint, &packets, rate, start, clock).await;
    network.wait_for("mizzle_packets_received_total", packets.len() as f64).await;
    network.balance().await;
    let (read, took) =
        (network.count("mizzle_link_bytes_total{direction=\"read\"}").await, clock.now().since(start));
    filler.abort();
    assert_eq!(network.dropped("rate_limited").await, 0.0);
    let allowed = 1_250_000.0 * took.as_secs_f64() + 640_000.0;
    // Beyond what is left, a relay is read a batch of cells a second.
    let extra = 16.0 * cell * (took.as_secs_f64() + 2.0);
    figure("filler: read over allowed", read / allowed, "", "<= 1.3");
    assert!(read <= allowed + extra, "{read} bytes read, {allowed} allowed");
    assert!(network.count("mizzle_bandwidth_refused_total{limit=\"filler\"}").await > 0.0);
}

#[tokio::test]
async fn a_relay_with_the_portable_x25519_takes_passes_and_remembers_packets_as_others_do() {
    let launch = Launch { environment: vec![("MIZZLE_TEST_PORTABLE", "1".to_owned())], before: None };
    let others = [Role::Entry, Role::Mix(2)];
    let mut network = Network::start_by(launch, &others, Role::Mix(1), "log = \"debug\"").await;
    network.wait_for_log("X25519 by dalek").await;
    network.wait_for("mizzle_links_out", 1.0).await;
    let (hint, clock) = (network.hint(), network.clock);
    let to = network.neighbour(Role::Mix(2));
    let (id, key) = (to.id().0, to.key.clone());
    let collected = Collected::start(to.take_packets());
    let packets = numbered(&mut network, id, &key, 0, &vec![Duration::from_millis(5); 200]);
    let mut link = network.link_as(Role::Entry).await;
    for _ in 0..2 {
        send_all(&mut link, hint, &packets, 500.0, clock.now(), clock).await;
    }
    network.wait_for("mizzle_packets_received_total", 400.0).await;
    network.balance().await;
    // Each came once, and what the next hop unwraps is what was sent.
    let mut numbers: Vec<_> = collected.open(&key).await.into_iter().map(|(number, _)| number).collect();
    numbers.sort();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    assert_eq!(network.dropped("replayed").await, 200.0);
}

#[tokio::test]
async fn a_hangup_takes_over_what_can_change_and_names_what_cannot() {
    let mut network = Network::start(Role::Mix(1), "").await;
    let before = std::fs::read_to_string(network.config()).unwrap();
    let write = |extra: &str| {
        std::fs::write(network.folder.path().join("relay.toml"), format!("{before}{extra}")).unwrap()
    };
    write("rate = \"10 Mbit/s\"\nthreads = 3\n");
    network.signal(Signal::HUP);
    network.wait_for_log("taken over: rate").await;
    network.wait_for_log("after a restart: threads").await;
    // What is wrong stands where a person asks for it, and not in the log.
    write("rat = \"10 Mbit/s\"\nhosts = { \"secret.test\" = \"198.51.100.23:80\" }\n");
    network.signal(Signal::HUP);
    network.wait_for_log("nothing has changed: mizzle-relay check").await;
    let told = network.command(&["check"]).await;
    assert!(String::from_utf8_lossy(&told.stderr).contains("did you mean `rate`"), "{told:?}");
    write("hosts = { \"secret.test\" = \"198.51.100.23:80\" }\n");
    network.signal(Signal::HUP);
    let told = network.command(&["check"]).await;
    assert!(String::from_utf8_lossy(&told.stderr).contains("secret.test"), "{told:?}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let log = network.log();
    assert_eq!(log.matches("nothing has changed: ").count(), 2, "{log}");
    assert!(!log.contains("secret.test") && !log.contains("198.51"), "{log}");
    assert!(network.is_alive());
    let least = 1_250_000 / relay_cell_size(Geometry::default()) as u32;
    announces(&mut network, |rate| rate == least).await;
}

#[tokio::test]
async fn a_busy_relay_says_little_and_nothing_about_anyone() {
    let mut network = Network::start(Role::Mix(1), "log = \"trace\"\nheartbeat = \"2 s\"").await;
    let next = network.neighbour(Role::Mix(2)).id().0;
    let hint = network.hint();
    network.wait_for("mizzle_links_out", 1.0).await;
    let mut link = network.link_as(Role::Entry).await;
    for _ in 0..100 {
        let packet = network.packet(next, Duration::ZERO);
        send(&mut link, hint, &packet).await;
    }
    network.neighbour(Role::Mix(2)).stop().await;
    let packet = network.packet(next, Duration::ZERO);
    send(&mut link, hint, &packet).await;
    network.wait_for_log(" packets, ").await;
    let log = network.log();
    let mut secrets: Vec<String> =
        network.neighbours.iter().map(|neighbour| to_hex(&neighbour.id().0)).collect();
    secrets.push(to_hex(&network.descriptor.relay.0));
    secrets.extend(network.descriptor.keys.iter().map(|keys| to_hex(keys.mix.as_bytes())));
    secrets.extend(["127.0.0".to_owned(), "localhost".to_owned(), network.address.ip().to_string()]);
    for secret in secrets {
        let short = secret.get(..12).unwrap_or(&secret);
        assert!(!log.contains(short), "{short} in {log}");
    }
    let quiet = log.lines().filter(|line| line.contains(" INFO ") || line.contains(" WARN "));
    let quiet: Vec<_> = quiet.filter(|line| !line.contains("; links ")).collect();
    assert!(quiet.len() < 5, "{quiet:#?}");
}

#[tokio::test]
async fn a_certificate_is_handed_in_renewed_by_a_hangup_and_warned_of_before_it_ends() {
    let mut network = Network::start(Role::Mix(1), "").await;
    assert_eq!(network.descriptor.family, None);
    let key = network.folder.path().join("family").to_str().unwrap().to_owned();
    let file = network.folder.path().join("certificate").to_str().unwrap().to_owned();
    assert!(network.command(&["key", "family", &key]).await.status.success());
    let before = std::fs::read_to_string(network.config()).unwrap();
    std::fs::write(network.config(), format!("family = \"certificate\"\n{before}")).unwrap();
    let me = network.descriptor.relay.to_hex();
    let certify = async |network: &Network, relay: &str, days: &str| {
        let words = ["key", "certify", &key, relay, &file, "--network", "test", "--days", days];
        let output = network.command(&words).await;
        assert!(output.status.success(), "{output:?}");
        network.signal(Signal::HUP);
    };
    certify(&network, &me, "10").await;
    network.wait_for_log("taken over: family").await;
    network.wait_for_log("the family certificate ends in 9 days: make a new one").await;
    let first = hands_in(&mut network, |descriptor| descriptor.family.is_some()).await.family.unwrap();
    let status =
        async |network: &Network| String::from_utf8(network.command(&["status"]).await.stdout).unwrap();
    let said = status(&network).await;
    assert!(said.contains("\nfamily     the family certificate ends in 9 days: make"), "{said}");
    // One for another relay changes nothing, and is named.
    certify(&network, &"07".repeat(32), "100").await;
    network.wait_for_log("nothing has changed: the family certificate is for another relay").await;
    // A renewed one of the same family is handed in, also after a new start, and no more is said.
    certify(&network, &me, "100").await;
    let renewed = |descriptor: &Descriptor| descriptor.family.is_some_and(|family| family != first);
    let second = hands_in(&mut network, renewed).await.family.unwrap();
    assert_eq!(second.family, first.family);
    network.kill();
    network.restart().await;
    hands_in(&mut network, |descriptor| descriptor.family == Some(second)).await;
    let said = status(&network).await;
    assert!(said.contains("\nfamily     certified for 99 days more"), "{said}");
    let log = network.log();
    assert_eq!(log.matches("the family certificate ").count(), 2, "{log}");
    assert!(!log.contains(&to_hex(&first.family.0)) && !log.contains(&me), "{log}");
}

#[tokio::test]
async fn a_relay_whose_certificate_has_ended_runs_and_says_why_it_is_not_listed() {
    let mut network = Network::start(Role::Mix(1), "").await;
    let key = Identity::generate(&mut seeded_rng().unwrap());
    let issued = UnixTime(network.clock.now().unix().0 - 30 * DAY.as_secs());
    let me = network.descriptor.relay;
    let ended = CertificateFile::issue(&key, "test", me, issued, 20 * DAY).unwrap();
    std::fs::write(network.folder.path().join("certificate"), ended.to_toml().unwrap()).unwrap();
    let before = std::fs::read_to_string(network.config()).unwrap();
    std::fs::write(network.config(), format!("family = \"certificate\"\n{before}")).unwrap();
    network.kill();
    network.publish(|consensus| consensus.relays.retain(|relay| relay.id != me));
    network.resume();
    network.wait_for_log("WARN the family certificate has ended: make a new one").await;
    network.wait_for_log("refuses this relay's descriptor: the family certificate has expired").await;
    let status = async {
        loop {
            let text = String::from_utf8(network.command(&["status"]).await.stdout).unwrap();
            if text.contains("listed     no: an authority refuses this relay's descriptor: the family cert") {
                break text;
            }
        }
    };
    let text = tokio::time::timeout(PATIENCE, status).await.expect("status gives no reason");
    assert!(text.contains("family     the family certificate has ended: make a new one"), "{text}");
    assert!(network.is_alive());
}

#[tokio::test]
async fn a_revocation_made_offline_is_handed_in_by_any_relay() {
    let network = Network::start(Role::Mix(1), "").await;
    let path = |name: &str| network.folder.path().join(name).to_str().unwrap().to_owned();
    let (key, file) = (path("family"), path("revocation"));
    assert!(network.command(&["key", "family", &key]).await.status.success());
    let stolen = "07".repeat(32);
    let revoke = ["key", "revoke", &key, &stolen, &file, "--network", "test"];
    let output = network.command(&revoke).await;
    assert!(output.status.success(), "{output:?}");
    let output = network.command(&["key", "hand-in", &file]).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "authority 1: taken\n");
    // It is not made twice into one file; an altered one is not even sent.
    assert!(!network.command(&revoke).await.status.success());
    let text = std::fs::read_to_string(&file).unwrap().replace(&stolen, &"08".repeat(32));
    std::fs::write(&file, text).unwrap();
    let output = network.command(&["key", "hand-in", &file]).await;
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("is not signed with the key of the family"));
}

/// (spec: COUNTRY-1)
#[tokio::test]
async fn a_country_is_declared_where_all_members_can_read_it_and_not_before() {
    let mut network = Network::start(Role::Mix(1), "country = \"de\"\n").await;
    assert_eq!(network.descriptor.country, None);
    network.kill();
    network.publish(|consensus| consensus.required = ProtocolNumber::SUPPORTED.to_vec());
    network.resume();
    let declared = hands_in(&mut network, |descriptor| descriptor.country.is_some()).await.country.unwrap();
    assert_eq!(declared.code(), "DE");
    let status = String::from_utf8(network.command(&["status"]).await.stdout).unwrap();
    assert!(status.contains("country    DE, as its configuration says"), "{status}");
}

/// (spec: LOAD-1)
#[tokio::test]
async fn a_relay_reports_how_much_it_carries_where_documents_may_say_so_and_no_more_exactly_than_they_may() {
    let mut network = Network::start(Role::Mix(1), "").await;
    assert_eq!(network.descriptor.carried_rate, None);
    network.kill();
    network.publish(|consensus| {
        consensus.required = ProtocolNumber::SUPPORTED.to_vec();
        // It reports over half an epoch: over eight seconds.
        consensus.parameters.epoch = Duration::from_secs(16);
        consensus.valid_until = consensus.valid_after + Duration::from_secs(48);
        consensus.fresh_until = consensus.valid_after + Duration::from_secs(2);
    });
    network.restart().await;
    let next = network.neighbour(Role::Mix(2)).id().0;
    let hint = network.hint();
    network.wait_for("mizzle_links_out", 1.0).await;
    let mut link = network.link_as(Role::Entry).await;
    for _ in 0..2_000 {
        let packet = network.packet(next, Duration::ZERO);
        send(&mut link, hint, &packet).await;
    }
    // Over eight seconds that is 250; over the fifteen that a slow machine may take, 133.
    let report = hands_in(&mut network, |descriptor| descriptor.carried_rate.is_some()).await;
    let rate = report.carried_rate.unwrap();
    assert!([64, 96, 128, 192].contains(&rate), "{rate}");
}

/// The next descriptor whose rate is such.
async fn announces(network: &mut Network, wanted: impl Fn(u32) -> bool) -> Descriptor {
    hands_in(network, |descriptor| wanted(descriptor.announced_rate)).await
}

/// The next descriptor that is such.
async fn hands_in(network: &mut Network, wanted: impl Fn(&Descriptor) -> bool) -> Descriptor {
    let found = async {
        loop {
            let bytes = network.handed_in.recv().await.unwrap();
            let descriptor = Descriptor::from_signed_bytes(&bytes, "test").unwrap();
            if wanted(&descriptor) {
                return descriptor;
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("no such descriptor is handed in")
}

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_does_not_speak_what_its_network_demands_ends_with_its_own_exit_code_and_says_why() {
    let authority = Authority::start(true).await;
    authority.publish(|consensus| consensus.required = vec![ProtocolNumber { protocol: 2, version: 9 }]);
    let (config, host) = (authority.folder.path().join("relay.toml"), own_host());
    let text = format!(
        "network = \"network.toml\"\nlisten = \"{host}:7000\"\nrole = \"mix\"\nmetrics = \"{host}:7100\"\n\
         runtime = \"runtime\"\nreplay_on_disk = true\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Launch::default().command(&config);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // (spec: DOC-8)
    assert_eq!(ended(&mut child).await, Some(3));
    let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    assert!(said.contains("requires packet/9") && said.contains("upgrade"), "{said}");
}
