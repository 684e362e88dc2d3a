//! A network around one real relay: the authority and all its neighbours are played by the test.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod client;
pub mod load;
mod neighbour;
mod process;
mod second;

pub use neighbour::Neighbour;
pub use process::{Launch, ended, own_host};
pub use second::Second;

use mizzle_link::http::{self, Limits, Method, Response};
use mizzle_link::{
    Acceptor, Alpn, AuthorityEntry, Clock, Identity, Link, NetworkFile, dial, seeded_rng, write_atomically,
};
use mizzle_protocol::consensus::{
    Consensus, Descriptor, ListedRelay, PeriodKeys, ProtocolNumber, RelayPeriod, Revocation, ServiceKeys,
    Signed,
};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::{ClientAddress, Epoch, Period, RelayId, ReplyId};
use mizzle_protocol::level::{Level, Step};
use mizzle_protocol::mix::Role;
use mizzle_protocol::path::{Parameters, Topology};
use mizzle_protocol::secret::Secret;
use mizzle_protocol::sphinx::{Hop, PublicKey, SecretKey, build};
use mizzle_protocol::time::UnixTime;
use mizzle_protocol::wire::cell::{ClientCell, Hello, RelayCell, client_cell_size};
use process::start;
use rand_chacha::ChaCha20Rng;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Who is around the relay, unless a test says otherwise.
const OTHERS: [Role; 5] = [Role::Mix(1), Role::Mix(2), Role::Mix(3), Role::Entry, Role::Exit];

/// The network, and the relay under test.
pub struct Network {
    pub folder: tempfile::TempDir,
    pub clock: Clock,
    pub address: SocketAddr,
    pub metrics: SocketAddr,
    /// The relay's own description of itself.
    pub descriptor: Descriptor,
    pub neighbours: Vec<Neighbour>,
    /// The network as a client sees it.
    pub topology: Topology,
    pub rng: ChaCha20Rng,
    /// Descriptors that the relay handed in since it started.
    pub handed_in: mpsc::Receiver<Vec<u8>>,
    consensus: Consensus,
    authority: Identity,
    documents: Arc<Mutex<(Vec<u8>, Vec<u8>)>>,
    /// How the next process is started.
    pub launch: Launch,
    child: Child,
    /// Another real relay, if the test asked for one.
    pub second: Option<Second>,
}

/// An authority alone, and the folder with its network file.
pub struct Authority {
    pub folder: tempfile::TempDir,
    identity: Identity,
    fresh: Consensus,
    consensus: Mutex<Consensus>,
    documents: Arc<Mutex<(Vec<u8>, Vec<u8>)>>,
    /// Keeps descriptors from being refused.
    _descriptors: mpsc::Receiver<Vec<u8>>,
}

impl Authority {
    /// Serves a fresh document that lists nobody.
    pub async fn start(open_exits: bool) -> Self {
        let identity = Identity::generate(&mut seeded_rng().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        write_network(folder.path(), &identity, server.local_addr().unwrap(), open_exits);
        let fresh = first_consensus(Clock::new());
        let documents = Arc::new(Mutex::new((Vec::new(), ServiceKeys::new().to_bytes())));
        let (sender, descriptors) = mpsc::channel(16);
        tokio::spawn(serve_documents(server, identity.clone(), documents.clone(), sender));
        let consensus = Mutex::new(fresh.clone());
        let authority = Self { folder, identity, fresh, consensus, documents, _descriptors: descriptors };
        authority.publish(|_| {});
        authority
    }

    /// Shows another document.
    pub fn publish(&self, change: impl FnOnce(&mut Consensus)) {
        let mut consensus = self.consensus.lock().unwrap();
        change(&mut consensus);
        let mut signed = Signed::new(&consensus);
        signed.sign(self.identity.authority(), |message| self.identity.sign(message));
        self.documents.lock().unwrap().0 = signed.to_bytes();
    }

    /// Shows the first document again.
    pub fn reset(&self) {
        self.publish(|consensus| *consensus = self.fresh.clone());
    }
}

impl Network {
    /// Starts a relay of this role; returns when the consensus that lists it has reached it.
    pub async fn start(role: Role, extra: &str) -> Self {
        Self::start_among(&OTHERS, role, extra).await
    }

    /// The same with these others around it.
    pub async fn start_among(others: &[Role], role: Role, extra: &str) -> Self {
        Self::start_as(others, role, extra, Launch::default(), |_| {}, None).await
    }

    /// The same with a second real relay among them, of the role `second`.
    pub async fn start_pair(others: &[Role], role: Role, second: Role) -> Self {
        Self::start_as(others, role, "", Launch::default(), |_| {}, Some(second)).await
    }

    /// The same by another process.
    pub async fn start_by(launch: Launch, others: &[Role], role: Role, extra: &str) -> Self {
        Self::start_as(others, role, extra, launch, |_| {}, None).await
    }

    /// The same with other words in the first document.
    pub async fn start_with(role: Role, extra: &str, change: impl FnOnce(&mut Consensus)) -> Self {
        Self::start_as(&OTHERS, role, extra, Launch::default(), change, None).await
    }

    async fn start_as(
        others: &[Role],
        role: Role,
        extra: &str,
        launch: Launch,
        change: impl FnOnce(&mut Consensus),
        second: Option<Role>,
    ) -> Self {
        let clock = Clock::new();
        let mut rng = seeded_rng().unwrap();
        let authority = Identity::generate(&mut rng);
        let folder = tempfile::tempdir().unwrap();
        let documents = Arc::new(Mutex::new((Vec::new(), Vec::new())));
        let (descriptors, mut handed_in) = mpsc::channel(16);
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        write_network(folder.path(), &authority, server.local_addr().unwrap(), true);
        let host = own_host().into();
        let (address, metrics) = (SocketAddr::new(host, 7000), SocketAddr::new(host, 7100));
        let name = name(role);
        // The test counts packets: none of the relay's own, unless they are what it is about.
        let loops = if extra.contains("loops =") { "" } else { "loops = 0\n" };
        let exit = if role == Role::Exit { "[exit]\nenabled = true\npolicy = \"full\"\n" } else { "" };
        let config = format!(
            "network = \"network.toml\"\nlisten = \"{address}\"\nrole = \"{name}\"\nmetrics = \"{metrics}\"\n\
             runtime = \"runtime\"\nreplay_on_disk = true\nexact_metrics = true\n{loops}{extra}\n{exit}"
        );
        std::fs::write(folder.path().join("relay.toml"), config).unwrap();

        let mut first = first_consensus(clock);
        change(&mut first);
        let sign = |consensus: &Consensus| {
            let mut signed = Signed::new(consensus);
            signed.sign(authority.authority(), |message| authority.sign(message));
            signed
        };
        let signed = sign(&first);
        *documents.lock().unwrap() = (signed.to_bytes(), ServiceKeys::new().to_bytes());
        tokio::spawn(serve_documents(server, authority.clone(), documents.clone(), descriptors));

        let child = start(&folder.path().join("relay.toml"), &launch);
        let bytes = tokio::time::timeout(PATIENCE, handed_in.recv()).await.unwrap().unwrap();
        let descriptor = Descriptor::from_signed_bytes(&bytes, "test").unwrap();

        let second = match second {
            Some(role) => Some(Second::start(folder.path(), role, &mut handed_in).await),
            None => None,
        };

        let mut neighbours = Vec::new();
        for &role in others {
            neighbours.push(Neighbour::start(role, clock, &mut rng).await);
        }
        let mut service_keys = ServiceKeys::new();
        neighbours.iter().filter_map(|n| n.service_key.as_ref()).for_each(|key| service_keys.insert(key));
        let mut relays: Vec<_> = neighbours.iter().map(Neighbour::listed).collect();
        relays.push(listed(&descriptor, role, &mut service_keys));
        let others = second.iter().map(|second| listed(&second.descriptor, second.role, &mut service_keys));
        relays.extend(others);
        relays.sort_by_key(|relay| relay.id);
        first.previous = Some(signed.hash());
        first.epoch = Epoch(1);
        first.relays = relays;
        *documents.lock().unwrap() = (sign(&first).to_bytes(), service_keys.to_bytes());
        let topology = first.to_topology(Period(0), Some(&service_keys));
        let network = Self {
            topology,
            folder,
            clock,
            address,
            metrics,
            descriptor,
            neighbours,
            rng,
            handed_in,
            consensus: first,
            authority,
            documents,
            launch,
            child,
            second,
        };
        network.wait_for("mizzle_listed", 1.0).await;
        network
    }

    /// Has the authority show another document, which follows the last.
    pub fn publish(&mut self, change: impl FnOnce(&mut Consensus)) {
        let mut documents = self.documents.lock().unwrap();
        self.consensus.previous = Some(Signed::from_bytes(&documents.0).unwrap().hash());
        self.consensus.epoch.0 += 1;
        change(&mut self.consensus);
        let mut signed = Signed::new(&self.consensus);
        signed.sign(self.authority.authority(), |message| self.authority.sign(message));
        documents.0 = signed.to_bytes();
    }

    /// The relay's configuration.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("relay.toml")
    }

    /// Runs `mizzle-relay` with these words and this relay's configuration.
    pub async fn command(&self, words: &[&str]) -> std::process::Output {
        let (words, config) =
            (words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), self.config());
        let run = move || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_mizzle-relay"));
            let named: Vec<_> = words.iter().map(String::as_str).collect();
            command.args(&words);
            // The family's key is kept where there is no relay, and so no configuration.
            if !matches!(named.as_slice(), ["key", "family" | "certify" | "revoke", ..]) {
                command.arg("--config").arg(config);
            }
            command.output().unwrap()
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    /// The network's only authority.
    pub fn authority(&self) -> &Identity {
        &self.authority
    }

    /// What the relay has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Waits until the log holds this.
    pub async fn wait_for_log(&self, text: &str) {
        let said = async {
            while !self.log().contains(text) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, said).await.is_ok(), "no {text:?} in {}", self.log());
    }

    /// Sends the relay a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until the relay has ended by itself: its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        ended(&mut self.child).await
    }

    /// The relay that the test plays in this role.
    pub fn neighbour(&mut self, role: Role) -> &mut Neighbour {
        self.neighbours.iter_mut().find(|neighbour| neighbour.role == role).unwrap()
    }

    /// Kills the relay as `kill -9` does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again; returns when it takes packets.
    pub async fn restart(&mut self) {
        self.resume();
        self.wait_for("mizzle_listed", 1.0).await;
    }

    /// The relay's process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Starts it again.
    pub fn resume(&mut self) {
        self.child = start(&self.folder.path().join("relay.toml"), &self.launch);
    }

    /// True while the process lives.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Opens a link to the relay as the neighbour of this role.
    pub async fn link_as(&mut self, role: Role) -> Link {
        let (address, relay) = (self.address, self.descriptor.relay);
        let identity = self.neighbour(role).identity.clone();
        dial(address, relay, Some(&identity), Alpn::Cells, None).await.unwrap()
    }

    /// Opens a client link to the relay, which must be an entry, and greets it.
    pub async fn client(&self, secret: u8) -> (Link, ClientAddress) {
        greet(self.address, self.descriptor.relay, secret).await
    }

    /// The relay's key now.
    pub fn key(&self) -> PublicKey {
        self.descriptor.keys.first().unwrap().mix
    }

    /// Low byte of the key period.
    pub fn hint(&self) -> u8 {
        self.descriptor.keys.first().unwrap().period.hint()
    }

    /// A packet whose first hop is the relay, held there for `delay`, and whose second is `next`.
    pub fn packet(&mut self, next: [u8; 32], delay: Duration) -> Vec<u8> {
        let key = SecretKey::generate(&mut self.rng).public();
        let hops = [
            Hop { address: self.descriptor.relay.0, key: self.key(), delay },
            Hop { address: next, key, delay: Duration::ZERO },
        ];
        let mut packet = Vec::new();
        build(Geometry::default(), &hops, ReplyId([0; 16]), b"x", &mut self.rng, &mut packet).unwrap();
        packet
    }

    /// A packet that ends at the relay with this message.
    pub fn last(&mut self, message: &[u8]) -> Vec<u8> {
        let hops = [Hop { address: self.descriptor.relay.0, key: self.key(), delay: Duration::ZERO }];
        let mut packet = Vec::new();
        build(Geometry::default(), &hops, ReplyId([0; 16]), message, &mut self.rng, &mut packet).unwrap();
        packet
    }

    /// All counters; nothing if the relay does not answer.
    pub async fn metrics_text(&self) -> String {
        metrics_text(self.metrics).await
    }

    /// The sum of all counters whose name and labels begin with `name`.
    pub async fn count(&self, name: &str) -> f64 {
        sum(&self.metrics_text().await, name)
    }

    /// Packets dropped for this reason.
    pub async fn dropped(&self, reason: &str) -> f64 {
        self.count(&format!("mizzle_packets_dropped_total{{reason=\"{reason}\"}}")).await
    }

    /// Packets dropped, by the reasons for which some were.
    pub async fn dropped_by_reason(&self) -> BTreeMap<String, f64> {
        let text = self.metrics_text().await;
        let prefix = "mizzle_packets_dropped_total{reason=\"";
        let lines = text.lines().filter_map(|line| line.strip_prefix(prefix)?.split_once("\"} "));
        let counts = lines.map(|(reason, count)| (reason.to_owned(), count.parse().unwrap()));
        counts.filter(|&(_, count)| count > 0.0).collect()
    }

    /// Waits until a counter has reached `value`.
    pub async fn wait_for(&self, name: &str, value: f64) {
        let reached = async {
            while self.count(name).await.is_nan() || self.count(name).await < value {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, reached).await.is_err() {
            panic!("{name} is {} and not {value}", self.count(name).await);
        }
    }

    /// Waits until nothing is in flight, then checks that the books balance.
    pub async fn balance(&self) {
        let settled = async {
            while self.count("mizzle_packets_in_flight").await != 0.0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, settled).await.expect("packets stay in flight");
        let received = self.count("mizzle_packets_received_total").await;
        let sent = self.count("mizzle_packets_sent_total").await;
        let delivered = self.count("mizzle_packets_delivered_total").await;
        let dropped = self.count("mizzle_packets_dropped_total").await;
        assert_eq!(received, sent + delivered + dropped);
        // What is lost with a thread or a task that ends: none does while the relay runs.
        assert_eq!(self.dropped("stopping").await, 0.0, "{:?}", self.dropped_by_reason().await);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the relay's log:\n{}", self.log());
        }
    }
}

/// All counters of the relay whose metrics are there; nothing if it does not answer.
pub async fn metrics_text(address: SocketAddr) -> String {
    let Ok(mut stream) = TcpStream::connect(address).await else { return String::new() };
    let Ok(response) = http::get(&mut stream, "/metrics", &Limits::default()).await else {
        return String::new();
    };
    String::from_utf8(response.body.to_vec()).unwrap()
}

/// The sum of all counters in `text` whose name and labels begin with `name`.
pub fn sum(text: &str, name: &str) -> f64 {
    if text.is_empty() {
        return f64::NAN;
    }
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// How configurations call a role.
fn name(role: Role) -> &'static str {
    match role {
        Role::Mix(_) => "mix",
        Role::Entry => "entry",
        Role::Exit => "exit",
    }
}

/// The entry of a document for the relay that handed this in; its service keys go into `service_keys`.
fn listed(descriptor: &Descriptor, role: Role, service_keys: &mut ServiceKeys) -> ListedRelay {
    let period = |keys: &PeriodKeys| {
        keys.service.iter().for_each(|key| service_keys.insert(key));
        let service_key = keys.service.as_ref().map(|key| key.digest());
        RelayPeriod { period: keys.period, role, mix_key: keys.mix, service_key }
    };
    ListedRelay {
        id: descriptor.relay,
        addresses: descriptor.addresses.clone(),
        periods: descriptor.keys.iter().map(period).collect(),
        family: None,
        weight: 1,
        country: None,
    }
}

/// Opens a client link to an entry and greets it; the address that it gives.
/// The step of clients in tests.
pub const STEP: Step = Step { level: Level::Balanced, step: 2 };

pub async fn greet(address: SocketAddr, entry: RelayId, secret: u8) -> (Link, ClientAddress) {
    greet_at(STEP, address, entry, secret).await
}

/// [`greet`] with another step.
pub async fn greet_at(step: Step, address: SocketAddr, entry: RelayId, secret: u8) -> (Link, ClientAddress) {
    let mut link = dial(address, entry, None, Alpn::Cells, None).await.unwrap();
    let mut cell = Vec::new();
    let hello = Hello { reclaim: Secret::new([secret; 32]), step };
    ClientCell::Hello(hello).emit(Geometry::default(), &mut cell);
    link.write_all(&cell).await.unwrap();
    link.flush().await.unwrap();
    let mut cell = vec![0; client_cell_size(Geometry::default())];
    link.read_exact(&mut cell).await.unwrap();
    match ClientCell::parse(Geometry::default(), &cell).unwrap() {
        ClientCell::Welcome { address, .. } => (link, address),
        other => panic!("{other:?}"),
    }
}

/// Writes a packet as one relay cell.
pub async fn send(link: &mut Link, hint: u8, packet: &[u8]) {
    let mut cell = Vec::new();
    RelayCell::Packet { hint, packet }.emit(Geometry::default(), &mut cell);
    link.write_all(&cell).await.unwrap();
    link.flush().await.unwrap();
}

fn write_network(folder: &Path, authority: &Identity, address: SocketAddr, open_exits: bool) {
    let network = NetworkFile {
        name: "test".to_owned(),
        threshold: 1,
        open_exits,
        authorities: vec![AuthorityEntry { id: authority.authority(), address }],
        mirrors: Vec::new(),
    };
    write_atomically(&folder.join("network.toml"), network.to_toml().unwrap().as_bytes()).unwrap();
}

/// A document that lists nobody and is good for ten minutes.
fn first_consensus(clock: Clock) -> Consensus {
    let now = clock.now().unix().0;
    Consensus {
        method: 1,
        network: "test".to_owned(),
        epoch: Epoch(0),
        valid_after: UnixTime(now - 1),
        fresh_until: UnixTime(now + 300),
        valid_until: UnixTime(now + 600),
        previous: None,
        parameters: Parameters { epoch: Duration::from_secs(300), ..Parameters::local() },
        origin: UnixTime(now - 1),
        required: vec![ProtocolNumber::LINK],
        recommended: Vec::new(),
        relays: Vec::new(),
        not_running: Vec::new(),
        pool: None,
        made: None,
        later: Default::default(),
    }
}

async fn serve_documents(
    listener: TcpListener,
    authority: Identity,
    documents: Arc<Mutex<(Vec<u8>, Vec<u8>)>>,
    descriptors: mpsc::Sender<Vec<u8>>,
) {
    let acceptor = Acceptor::new(&authority, &[Alpn::Documents]).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(accepted) = acceptor.accept(stream).await else { continue };
        let (documents, descriptors) = (documents.clone(), descriptors.clone());
        tokio::spawn(async move {
            let answer = async |request: http::Request| {
                let (consensus, keys) = documents.lock().unwrap().clone();
                match (request.method, request.path.as_str()) {
                    (Method::Get, "/consensus") => Response::document(http::BYTES, consensus),
                    (Method::Get, "/service-keys") => Response::document(http::BYTES, keys),
                    (Method::Post, "/descriptor") => {
                        let read = Descriptor::from_signed_bytes(&request.body, "test");
                        let judged = read.and_then(|descriptor| match descriptor.family {
                            Some(family) => family.check_time(Clock::new().now(), Duration::ZERO),
                            None => Ok(()),
                        });
                        match judged {
                            Ok(()) => {
                                let _ = descriptors.try_send(request.body);
                                Response::text(200, "taken")
                            }
                            Err(error) => Response::text(403, format!("{error}\n")),
                        }
                    }
                    (Method::Post, "/revocation") => match Revocation::from_bytes(&request.body, "test") {
                        Ok(_) => Response::text(200, "taken\n"),
                        Err(error) => Response::text(403, format!("{error}\n")),
                    },
                    _ => Response::text(404, "no"),
                }
            };
            let _ = http::serve(accepted.stream, &Limits::default(), answer).await;
        });
    }
}
