//! The real authority on loopback addresses, with relays that are real as far as it can see: they prove an
//! identity at the address that they announce.

// The helpers of a test may fail like the test itself.
#![allow(clippy::unwrap_used, clippy::panic)]

use mizzle_link::shelf::{self, Known};
use mizzle_link::{Acceptor, Alpn, CertificateFile, Clock, Identity, RevocationFile, dial, http, seeded_rng};
use mizzle_protocol::consensus::{
    Consensus, Descriptor, FamilyCertificate, PeriodKeys, ProtocolNumber, RelayKind, ServiceKeys, Signed,
};
use mizzle_protocol::id::{AuthorityId, FamilyId, Period, RelayId};
use mizzle_protocol::session::ServiceSecret;
use mizzle_protocol::sphinx::SecretKey;
use mizzle_protocol::time::UnixTime;
use rand_core::Rng as _;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mizzle-directory");
const DAY: Duration = Duration::from_secs(86_400);

/// A running authority; stopped when dropped.
struct Authority {
    child: Child,
    config: PathBuf,
    id: AuthorityId,
    address: SocketAddr,
    clock: Clock,
}

impl Authority {
    fn start(config: &Path, id: AuthorityId, address: SocketAddr) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["run", "--config"])
            .arg(config)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { child, config: config.to_owned(), id, address, clock: Clock::new() }
    }

    /// Ends it as an operator would, and starts it again.
    fn restart(mut self) -> Self {
        let status = self.terminate();
        assert!(status.success(), "{status}");
        Self::start(&self.config, self.id, self.address)
    }

    fn terminate(&mut self) -> std::process::ExitStatus {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        self.child.wait().unwrap()
    }

    async fn get(&self, path: &str) -> http::Response {
        let id = RelayId(self.id.0);
        let mut link = dial(self.address, id, None, Alpn::Documents, None).await.unwrap();
        http::get(&mut link, path, &http::Limits::default()).await.unwrap()
    }

    async fn post(&self, body: &[u8]) -> (u16, String) {
        self.post_to("/descriptor", body).await
    }

    async fn post_to(&self, path: &str, body: &[u8]) -> (u16, String) {
        let id = RelayId(self.id.0);
        let mut link = dial(self.address, id, None, Alpn::Documents, None).await.unwrap();
        let answer = http::post(&mut link, path, body, &http::Limits::default()).await.unwrap();
        (answer.status, answer.reason())
    }

    /// Connections end on their own time: waits until just these are counted.
    async fn until_refused(&self, expected: &BTreeMap<&str, u64>) {
        let mut refused = BTreeMap::new();
        for _ in 0..100 {
            let page: serde_json::Value = serde_json::from_slice(&self.get("/status").await.body).unwrap();
            let counts: BTreeMap<String, u64> = serde_json::from_value(page["refused"].clone()).unwrap();
            assert!(counts.len() >= 10, "reasons at zero are shown, too");
            refused = counts.into_iter().filter(|(_, count)| *count > 0).collect();
            if refused.iter().map(|(reason, count)| (reason.as_str(), *count)).eq(expected.clone()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("refused {refused:?}, not {expected:?}");
    }

    /// The newest document, verified as a client does.
    async fn consensus(&self) -> (Signed, Consensus) {
        let answer = self.get("/consensus").await;
        assert_eq!(answer.status, 200, "{}", answer.reason());
        let signed = Signed::from_bytes(&answer.body).unwrap();
        let consensus = signed.verify(&[self.id], 1, self.clock.now(), "test").unwrap();
        (signed, consensus)
    }

    /// Waits for a document of which `wanted` holds.
    async fn until(&self, what: &str, wanted: impl Fn(&Consensus) -> bool) -> (Signed, Consensus) {
        for _ in 0..300 {
            let (signed, consensus) = self.consensus().await;
            if wanted(&consensus) {
                return (signed, consensus);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no document came in which {what}");
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A relay as an authority sees it.
struct Relay {
    identity: Identity,
    kind: RelayKind,
    address: SocketAddr,
    listening: JoinHandle<()>,
}

impl Relay {
    async fn start(kind: RelayKind, ip: [u8; 4]) -> Self {
        let identity = Identity::generate(&mut seeded_rng().unwrap());
        let listener = TcpListener::bind(SocketAddr::from((ip, 0))).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = Acceptor::new(&identity, &[Alpn::Cells, Alpn::Documents]).unwrap();
        let listening = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let accepted = acceptor.accept(stream).await.unwrap();
                    assert!(accepted.peer.is_none(), "an authority dials as any client would");
                    let not_found = |_| async { http::Response::text(404, "nothing here\n") };
                    http::serve(accepted.stream, &http::Limits::default(), not_found).await.unwrap();
                });
            }
        });
        Self { identity, kind, address, listening }
    }

    fn id(&self) -> RelayId {
        self.identity.id()
    }

    fn describe(&self, network: &str, address: SocketAddr, first: Period, now: &Clock) -> Vec<u8> {
        self.describe_with(None, network, address, first, now)
    }

    fn describe_with(
        &self,
        family: Option<FamilyCertificate>,
        network: &str,
        address: SocketAddr,
        first: Period,
        now: &Clock,
    ) -> Vec<u8> {
        let mut rng = seeded_rng().unwrap();
        let keys = (first.0..first.0 + 3).map(|period| PeriodKeys {
            period: Period(period),
            mix: SecretKey::generate(&mut rng).public(),
            service: (self.kind == RelayKind::Exit)
                .then(|| ServiceSecret::generate(&mut rng).public().unwrap()),
        });
        let descriptor = Descriptor {
            network: network.into(),
            relay: self.id(),
            kind: self.kind,
            addresses: vec![address],
            keys: keys.collect(),
            family,
            protocols: ProtocolNumber::SUPPORTED.to_vec(),
            software: "test".into(),
            published: now.now().unix(),
            announced_rate: 500,
            country: None,
            carried_rate: None,
        };
        descriptor.to_signed_bytes(|message| self.identity.sign(message))
    }

    /// Hands in a descriptor with keys of the current period.
    async fn join(&self, authority: &Authority, address: SocketAddr) -> (u16, String) {
        let (_, consensus) = authority.consensus().await;
        let first = consensus.period(authority.clock.now());
        authority.post(&self.describe("test", address, first, &authority.clock)).await
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// A port that is free now.
async fn free(ip: [u8; 4]) -> SocketAddr {
    TcpListener::bind(SocketAddr::from((ip, 0))).await.unwrap().local_addr().unwrap()
}

/// Makes an identity, and starts an authority that waits for `expected` relays.
async fn authority(folder: &Path, ip: [u8; 4], expected: usize, more: &str) -> Authority {
    let address = free(ip).await;
    let config = folder.join("config.toml");
    let text = format!(
        "network = \"test\"\nlisten = \"{address}\"\nexpected = {expected}\nmeasure = false\n{more}\n\
         [parameters]\nepoch = \"4s\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let output = Command::new(PROGRAM).args(["init", "--config"]).arg(&config).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, lines) = text.split_once("\n\n").unwrap();
    let network = format!("name = \"test\"\nthreshold = 1\n{lines}");
    let network = mizzle_link::NetworkFile::parse(&network).unwrap();
    assert_eq!(network.authorities[0].address, address);
    std::fs::write(folder.join("network.toml"), network.to_toml().unwrap()).unwrap();
    Authority::start(&config, network.authorities[0].id, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_forms_says_who_does_not_run_and_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority(folder.path(), [127, 201, 0, 1], 2, "approve_all = true").await;
    let (founding, consensus) = authority.consensus().await;
    assert!(consensus.relays.is_empty() && consensus.previous.is_none());

    // Two relays run; one announces an address where nobody listens, one another's.
    let mix = Relay::start(RelayKind::Mix, [127, 211, 0, 1]).await;
    let exit = Relay::start(RelayKind::Exit, [127, 231, 0, 1]).await;
    let lost = Relay::start(RelayKind::Mix, [127, 212, 0, 1]).await;
    let impostor = Relay::start(RelayKind::Mix, [127, 213, 0, 1]).await;
    assert_eq!(lost.join(&authority, free([127, 212, 0, 1]).await).await.0, 200);
    assert_eq!(impostor.join(&authority, mix.address).await.0, 200);
    assert_eq!(exit.join(&authority, exit.address).await.0, 200);
    let before = std::time::Instant::now();
    assert_eq!(mix.join(&authority, mix.address).await.0, 200);

    let (signed, consensus) =
        authority.until("two relays run", |consensus| consensus.relays.len() == 2).await;
    assert!(before.elapsed() < Duration::from_secs(3), "the first document came late");
    if consensus.epoch.0 == 1 {
        assert_eq!(consensus.previous, Some(founding.hash()));
    }
    let listed = consensus.relay(mix.id()).unwrap();
    assert_eq!((listed.addresses.as_slice(), listed.weight), (&[mix.address][..], 500));
    assert_eq!(
        consensus.why_not_running(lost.id()),
        Some("cannot connect to the announced address: connection refused")
    );
    assert_eq!(
        consensus.why_not_running(impostor.id()),
        Some("the identity at the announced address is another")
    );

    // Its service key is beside it.
    let keys = ServiceKeys::from_bytes(&authority.get("/service-keys").await.body).unwrap();
    let period = consensus.period(authority.clock.now());
    let topology = consensus.to_topology(period, Some(&keys));
    assert!(topology.exits[0].service_key.is_some());

    // The same for people.
    let status = Command::new(PROGRAM).args(["status", "--config"]).arg(&authority.config).output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("2 of 4 relays are running"), "{status}");
    assert!(status.contains("not running: cannot connect to the announced address"), "{status}");
    let shown = Command::new(PROGRAM)
        .args(["show", "--from", &authority.address.to_string(), "--network"])
        .arg(folder.path().join("network.toml"))
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("signatures     verified") && shown.contains(&mix.id().to_hex()), "{shown}");

    // A restart: the next document follows the last one.
    let (last_signed, last) = authority.consensus().await;
    assert!(last.epoch >= consensus.epoch);
    drop(signed);
    let authority = authority.restart();
    let (same, held) = authority.consensus().await;
    assert!(held.epoch.0 <= last.epoch.0 + 1);
    held.check_follows(same.hash(), &last, last_signed.hash()).unwrap();
    let (next_signed, next) =
        authority.until("the epoch is a later one", |consensus| consensus.epoch > held.epoch).await;
    next.check_follows(next_signed.hash(), &held, same.hash()).unwrap();
    assert_eq!(next.origin, last.origin);
    assert_eq!(next.relays.len(), 2);

    // Who holds the one before needs only what has changed since. (spec: DIR-18)
    let known = Known { consensus: Arc::new(held), hash: same.hash() };
    let server = RelayId(authority.id.0);
    let mut link = dial(authority.address, server, None, Alpn::Documents, None).await.unwrap();
    let answer = shelf::ask(&mut link, Some(&known), &http::Limits::default()).await.unwrap();
    let fetched = answer.signed.unwrap();
    let verified = fetched.verify(&[authority.id], 1, authority.clock.now(), "test").unwrap();
    assert!(verified.epoch >= next.epoch && answer.bytes < fetched.to_bytes().len(), "{}", answer.bytes);
    assert!(answer.time.unwrap().0.abs_diff(authority.clock.now().unix().0) <= 1);

    // A relay that dies is missing from the next document.
    let dead = exit.id();
    drop(exit);
    let (_, consensus) = authority
        .until("the dead relay is missing", |consensus| consensus.why_not_running(dead).is_some())
        .await;
    assert!(consensus.relay(dead).is_none() && consensus.relay(mix.id()).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_a_descriptor_of_an_approved_relay_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(RelayKind::Entry, [127, 221, 0, 1]).await;
    let stranger = Relay::start(RelayKind::Entry, [127, 222, 0, 1]).await;
    let approved = format!("approved = [\"{}\"]", relay.id().to_hex());
    let authority = authority(folder.path(), [127, 202, 0, 1], 1, &approved).await;
    let describe = |network, first| relay.describe(network, relay.address, Period(first), &authority.clock);

    assert_eq!(authority.post(b"").await.0, 400);
    assert_eq!(authority.post(&[0xff; 500]).await.0, 400);
    assert_eq!(authority.post(&vec![0; 20_000]).await.0, 413);
    assert_eq!(authority.post(&describe("other", 0)).await.0, 422);
    let mut altered = describe("test", 0);
    altered[60] ^= 1;
    assert!(matches!(authority.post(&altered).await.0, 400 | 403));
    let (status, reason) = stranger.join(&authority, stranger.address).await;
    assert_eq!(status, 403);
    assert!(reason.contains("not approved"), "{reason}");
    assert_eq!(authority.get("/nothing").await.status, 404);

    let (status, reason) = authority.post(&describe("test", 1)).await;
    assert_eq!(status, 200);
    assert!(reason.contains("no mix key for the current period"), "{reason}");
    let (status, reason) = authority.post(&describe("test", 0)).await;
    assert_eq!((status, reason.trim()), (200, "taken"));
    authority.until("the relay runs", |consensus| consensus.relay(relay.id()).is_some()).await;
    assert_eq!(authority.consensus().await.1.not_running, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_is_in_the_family_that_certified_it_until_that_revokes_it_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(RelayKind::Mix, [127, 215, 0, 1]).await;
    let authority = authority(folder.path(), [127, 205, 0, 1], 1, "approve_all = true").await;
    let (key, stranger) =
        (Identity::generate(&mut seeded_rng().unwrap()), Identity::generate(&mut seeded_rng().unwrap()));
    let certify = |relay, days| {
        let now = authority.clock.now().unix();
        let issued = UnixTime(now.0 - 10 * DAY.as_secs());
        CertificateFile::issue(&key, "test", relay, issued, days * DAY)
            .unwrap()
            .verify("test", relay)
            .unwrap()
    };
    let describe =
        |family| relay.describe_with(Some(family), "test", relay.address, Period(0), &authority.clock);
    let (status, reason) = authority.post(&describe(certify(stranger.id(), 20))).await;
    assert_eq!(status, 403);
    assert!(reason.contains("was not made with that family's key for this relay"), "{reason}");
    let (status, reason) = authority.post(&describe(certify(relay.id(), 10))).await;
    assert_eq!(status, 409);
    assert!(reason.contains("the family certificate has expired"), "{reason}");
    assert_eq!(authority.post(&describe(certify(relay.id(), 20))).await, (200, "taken".to_owned()));
    let family = FamilyId(key.id().0);
    let (_, consensus) =
        authority.until("the relay runs", |consensus| consensus.relay(relay.id()).is_some()).await;
    assert_eq!(consensus.relay(relay.id()).unwrap().family, Some(family));

    let revoke =
        |key: &Identity| RevocationFile::issue(key, "test", relay.id()).unwrap().to_bytes("test").unwrap();
    assert_eq!(authority.post_to("/revocation", &revoke(&stranger)).await.0, 403);
    assert_eq!(authority.post_to("/revocation", b"").await.0, 400);
    let (status, reason) = authority.post_to("/revocation", &revoke(&key)).await;
    assert_eq!(status, 200, "{reason}");
    let (_, consensus) = authority
        .until("the relay is out", |consensus| consensus.why_not_running(relay.id()).is_some())
        .await;
    let reason = consensus.why_not_running(relay.id()).unwrap();
    assert!(reason.contains("its family has revoked it"), "{reason}");
    // Who has its identity is told so, with the family or without, also by the next process.
    let again = authority.restart();
    for bytes in [
        relay.describe("test", relay.address, Period(0), &again.clock),
        relay.describe_with(None, "test", relay.address, Period(1), &again.clock),
    ] {
        let (status, reason) = again.post(&bytes).await;
        assert_eq!(status, 403);
        assert!(reason.contains("its family has revoked it"), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_comes_to_the_port_is_refused_and_counted_by_reason() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(RelayKind::Mix, [127, 214, 0, 1]).await;
    let authority = authority(folder.path(), [127, 204, 0, 1], 1, "approve_all = true").await;
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    authority.until_refused(&expected).await;

    // Before the handshake: random bytes, a handshake that ends too early, another protocol.
    let mut noise = [0; 3000];
    seeded_rng().unwrap().fill_bytes(&mut noise);
    noise[0] = 0xff;
    for bytes in [&noise[..], &[0x16, 3, 1, 2, 0, 1], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stream = TcpStream::connect(authority.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        // It may be gone already, and may end with a reset: it ends, either way.
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    expected.insert("handshake", 3);

    // After it: no HTTP, a request that ends too early, a body that is too large, what is not there.
    let id = RelayId(authority.id.0);
    for bytes in [&noise[..], b"POST /descriptor HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf"] {
        let mut link = dial(authority.address, id, None, Alpn::Documents, None).await.unwrap();
        link.write_all(&[bytes, b"\r\n\r\n"].concat()).await.unwrap();
        let _ = link.shutdown().await;
        let _ = link.read_to_end(&mut Vec::new()).await;
    }
    assert_eq!(authority.post(&vec![0; 20_000]).await.0, 413);
    assert_eq!(authority.get("/nothing").await.status, 404);
    expected.insert("request", 4);

    // Descriptors: malformed, truncated, of another network, forged, replayed.
    let describe = |network| relay.describe(network, relay.address, Period(0), &authority.clock);
    let good = describe("test");
    assert_eq!(authority.post(&noise).await.0, 400);
    assert_eq!(authority.post(&good[..good.len() - 1]).await.0, 400);
    expected.insert("malformed", 2);
    assert_eq!(authority.post(&describe("other")).await.0, 422);
    expected.insert("incompatible", 1);
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(authority.post(&forged).await.0, 403);
    expected.insert("forged", 1);
    // A descriptor's time is in whole seconds.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(authority.post(&describe("test")).await.0, 200);
    assert_eq!(authority.post(&good).await.0, 409);
    expected.insert("replayed", 1);

    authority.until_refused(&expected).await;
    let status = Command::new(PROGRAM).args(["status", "--config"]).arg(&authority.config).output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    let line =
        "refused since the start: forged 1, handshake 3, incompatible 1, malformed 2, replayed 1, request 4";
    assert!(status.lines().any(|shown| shown == line), "{status}");
}

#[test]
fn faults_of_the_configuration_are_named_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    let run = || Command::new(PROGRAM).args(["run", "--config"]).arg(&config).output().unwrap();
    let output = run();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(message.contains("config.toml") && message.contains("mizzle-directory init"), "{message}");
    std::fs::write(&config, "network = \"test\"\nlisten = \"127.203.0.1:7000\"\nport = 1\n").unwrap();
    let message = String::from_utf8_lossy(&run().stderr).into_owned();
    assert!(message.contains("unknown field `port`"), "{message}");
}
