//! The real authority measures relays that the test plays: those that carry what they say, and those that do not.
//! (spec: MEASURE-2 to MEASURE-5)

// The helpers of a test may fail like the test itself.
#![allow(clippy::unwrap_used, clippy::panic)]

use mizzle_link::{Acceptor, Alpn, Clock, Identity, Link, NetworkFile, dial, http, seeded_rng};
use mizzle_protocol::consensus::{Consensus, Descriptor, PeriodKeys, ProtocolNumber, RelayKind, Signed};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::{AuthorityId, Period, RelayId};
use mizzle_protocol::sphinx::{SecretKey, Unwrapped, unwrap};
use mizzle_protocol::wire::cell::relay_cell_size;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mizzle-directory");

/// A running authority; stopped when dropped.
struct Authority {
    child: Child,
    config: PathBuf,
    id: AuthorityId,
    address: SocketAddr,
    clock: Clock,
}

impl Authority {
    async fn start(folder: &Path, expected: usize) -> Self {
        let address = TcpListener::bind("127.202.0.1:0").await.unwrap().local_addr().unwrap();
        let config = folder.join("config.toml");
        let text = format!(
            "network = \"test\"\nlisten = \"{address}\"\nexpected = {expected}\napprove_all = true\n\
             [parameters]\nepoch = \"4s\"\n"
        );
        std::fs::write(&config, text).unwrap();
        let output = Command::new(PROGRAM).args(["init", "--config"]).arg(&config).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.split_once("\n\n").unwrap().1;
        let network = NetworkFile::parse(&format!("name = \"test\"\nthreshold = 1\n{lines}")).unwrap();
        let (child, clock) = (run(&config), Clock::new());
        Self { child, config, id: network.authorities[0].id, address, clock }
    }

    /// Stops it, changes its configuration, and starts it again.
    fn restart(&mut self, change: impl FnOnce(String) -> String) {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success() && self.child.wait().unwrap().success());
        let text = std::fs::read_to_string(&self.config).unwrap();
        std::fs::write(&self.config, change(text)).unwrap();
        self.child = run(&self.config);
    }

    async fn link(&self) -> Link {
        dial(self.address, RelayId(self.id.0), None, Alpn::Documents, None).await.unwrap()
    }

    async fn consensus(&self) -> Consensus {
        let answer = http::get(&mut self.link().await, "/consensus", &http::Limits::default()).await.unwrap();
        let signed = Signed::from_bytes(&answer.body).unwrap();
        signed.verify(&[self.id], 1, self.clock.now(), "test").unwrap()
    }

    /// Waits for a document of which `wanted` holds.
    async fn until(&self, what: &str, wanted: impl Fn(&Consensus) -> bool) -> Consensus {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(40) {
            let consensus = self.consensus().await;
            if wanted(&consensus) {
                return consensus;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("no document came in which {what}: {:?}", self.consensus().await.relays);
    }

    fn status(&self) -> String {
        let output = Command::new(PROGRAM).args(["status", "--config"]).arg(&self.config).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(config: &Path) -> Child {
    let mut child =
        Command::new(PROGRAM).args(["run", "--config"]).arg(config).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    child
}

/// What a relay does with packets of an authority.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Conduct {
    /// All that comes is opened, and goes home at once.
    Honest,
    /// So many a second, and a tenth of that at once; the rest is dropped.
    Carries(f64),
    /// It sends back what it got, without any work.
    Unopened,
    /// It opens what comes, and alters it.
    Forges,
    /// It sends the first packet home over and over.
    Repeats,
    /// It takes the link, and never answers.
    Silent,
}

/// A relay as an authority sees it.
struct Relay {
    identity: Identity,
    key: SecretKey,
    kind: RelayKind,
    address: SocketAddr,
    announced: u32,
}

impl Relay {
    async fn start(
        kind: RelayKind,
        ip: [u8; 4],
        announced: u32,
        conduct: Conduct,
        authority: AuthorityId,
    ) -> Self {
        let mut rng = seeded_rng().unwrap();
        let (identity, key) = (Identity::generate(&mut rng), SecretKey::generate(&mut rng));
        let listener = TcpListener::bind(SocketAddr::from((ip, 0))).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = Acceptor::new(&identity, &Alpn::ALL).unwrap();
        let secret = key.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, secret) = (acceptor.clone(), secret.clone());
                tokio::spawn(async move {
                    let Ok(accepted) = acceptor.accept(stream).await else { return };
                    match (accepted.alpn, accepted.peer) {
                        (Alpn::Cells, Some(peer)) => {
                            assert_eq!(peer.0, authority.0);
                            carry(accepted.stream, &secret, conduct, authority).await;
                        }
                        (Alpn::Cells, None) => panic!("an authority that measures proves who it is"),
                        _ => {
                            let not_found = |_| async { http::Response::text(404, "nothing here\n") };
                            let _ = http::serve(accepted.stream, &http::Limits::default(), not_found).await;
                        }
                    }
                });
            }
        });
        Self { identity, key, kind, address, announced }
    }

    async fn join(&self, authority: &Authority) {
        let first = authority.consensus().await.period(authority.clock.now());
        let keys = (first.0..first.0 + 3).map(|period| PeriodKeys {
            period: Period(period),
            mix: self.key.public(),
            service: None,
        });
        let descriptor = Descriptor {
            network: "test".into(),
            relay: self.identity.id(),
            kind: self.kind,
            addresses: vec![self.address],
            keys: keys.collect(),
            family: None,
            protocols: ProtocolNumber::SUPPORTED.to_vec(),
            software: "test".into(),
            published: authority.clock.now().unix(),
            announced_rate: self.announced,
            country: None,
            carried_rate: None,
        };
        let bytes = descriptor.to_signed_bytes(|message| self.identity.sign(message));
        let limits = http::Limits::default();
        let answer = http::post(&mut authority.link().await, "/descriptor", &bytes, &limits).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.reason());
    }
}

async fn carry(mut link: Link, key: &SecretKey, conduct: Conduct, authority: AuthorityId) {
    let mut cell = vec![0; relay_cell_size(Geometry::default())];
    let (mut tokens, mut filled, mut kept) = (0.0, Instant::now(), None);
    while link.read_exact(&mut cell).await.is_ok() {
        let mut opened = cell.clone();
        match unwrap(Geometry::default(), key, &mut opened[2..]).unwrap() {
            Unwrapped::Forward { next, delay } => assert!(next == authority.0 && delay.is_zero()),
            Unwrapped::Final { .. } => panic!("it ends here"),
        }
        let answer = match conduct {
            Conduct::Honest => opened,
            Conduct::Carries(rate) => {
                let burst: f64 = (rate / 10.0).max(1.0);
                tokens = burst.min(tokens + filled.elapsed().as_secs_f64() * rate);
                filled = Instant::now();
                if tokens < 1.0 {
                    continue;
                }
                tokens -= 1.0;
                opened
            }
            Conduct::Unopened => cell.clone(),
            Conduct::Forges => {
                opened[1_000] ^= 1;
                opened
            }
            Conduct::Repeats => kept.get_or_insert(opened).clone(),
            Conduct::Silent => continue,
        };
        if link.write_all(&answer).await.is_err() || link.flush().await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_get_what_was_measured_and_no_more_than_they_announce_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        (RelayKind::Mix, 60, Conduct::Honest, 48..=48),
        (RelayKind::Entry, 100, Conduct::Honest, 96..=96),
        // It claims ten times what it carries.
        (RelayKind::Mix, 200, Conduct::Carries(20.0), 12..=24),
        (RelayKind::Mix, 200, Conduct::Unopened, 0..=0),
        (RelayKind::Mix, 200, Conduct::Forges, 0..=0),
        (RelayKind::Mix, 200, Conduct::Repeats, 0..=0),
        (RelayKind::Entry, 200, Conduct::Silent, 0..=0),
    ];
    let mut authority = Authority::start(folder.path(), cases.len()).await;
    let mut relays = Vec::new();
    for (number, (kind, announced, conduct, expected)) in (1..).zip(cases) {
        let relay = Relay::start(kind, [127, 202, number, 1], announced, conduct, authority.id).await;
        relay.join(&authority).await;
        relays.push((relay, conduct, expected));
    }
    let fits = |consensus: &Consensus| {
        relays.iter().all(|(relay, _, expected)| {
            consensus.relay(relay.identity.id()).is_some_and(|listed| expected.contains(&listed.weight))
        })
    };
    // Before anyone has measured, their word counts.
    let first = authority.until("all run", |consensus| consensus.relays.len() == relays.len()).await;
    assert_eq!(first.relay(relays[2].0.identity.id()).unwrap().weight, 200);
    authority.until("all have what was measured", fits).await;
    let status = authority.status();
    let (honest, brag) =
        (&relays[1].0.identity.id().to_hex()[..16], &relays[2].0.identity.id().to_hex()[..16]);
    let line = |id: &str| status.lines().find(|line| line.starts_with(id)).unwrap().to_owned();
    assert!(line(honest).contains("announces 100/s, measured 96/s; running"), "{status}");
    assert!(line(brag).contains("announces 200/s, measured ") && !line(brag).contains("200/s; "), "{status}");
    assert!(status.contains("relays are measured, up to 202 packets/s"), "{status}");

    // Nobody is measured any more; what was found stays.
    authority.restart(|text| format!("measure = false\n{text}"));
    let epoch = authority.consensus().await.epoch;
    authority.until("two epochs have passed", |consensus| consensus.epoch.0 >= epoch.0 + 2).await;
    let consensus = authority.consensus().await;
    assert!(fits(&consensus), "{:?}", consensus.relays);
    assert!(authority.status().contains("relays are not measured"));
}
