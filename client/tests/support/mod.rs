//! A small network in one process: three entries on real sockets, with one mix in each layer and one exit
//! behind them. The exit's only servers are made up here: `echo.test` returns what it gets, by streams and by
//! datagrams, and [`names`] answers questions.

// Each test program uses a part of it.
#![allow(dead_code)]

mod names;

use mizzle_client::NetworkFile;
use mizzle_link::shelf::Shelf;
use mizzle_link::{Acceptor, Alpn, AuthorityEntry, Clock, Identity, Link, MirrorEntry, http, seeded_rng};
use mizzle_protocol::Result;
use mizzle_protocol::consensus::{
    Consensus, DocumentHash, ListedRelay, ProtocolNumber, RelayPeriod, ServiceKeys, Signed,
};
use mizzle_protocol::id::{ClientAddress, Epoch, Period, RelayId, SessionId};
use mizzle_protocol::level::Step;
use mizzle_protocol::mix::Role;
use mizzle_protocol::path::Parameters;
use mizzle_protocol::session::{Gateway, GatewayEvent, GatewayStream, ServiceSecret, SessionLog};
use mizzle_protocol::sphinx::{self, SecretKey, Unwrapped};
use mizzle_protocol::stream::{Read, ResetReason};
use mizzle_protocol::time::UnixTime;
use mizzle_protocol::wire::cell::{ClientCell, client_cell_size};
use mizzle_protocol::wire::payload::{Payload, Pong};
use mizzle_protocol::wire::target::{Host, Target};
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The network; everything in it stops when it is dropped.
pub(crate) struct TestNetwork {
    /// For clients.
    pub(crate) file: NetworkFile,
    /// The document that it began with.
    pub(crate) first: DocumentHash,
    inner: Arc<Inner>,
    entries: HashMap<String, JoinSet<()>>,
    _exit: JoinSet<()>,
}

struct Inner {
    clock: Clock,
    parameters: Parameters,
    authority: Identity,
    relays: Vec<ListedRelay>,
    service: ServiceSecret,
    keys: HashMap<[u8; 32], SecretKey>,
    /// What the entries show.
    documents: Mutex<Option<Shelf>>,
    /// What the exit shows.
    at_exit: Mutex<Option<Shelf>>,
    links: Mutex<HashMap<[u8; 32], mpsc::Sender<Vec<u8>>>>,
    /// The entry that ends each link right after its welcome.
    rude: Mutex<Option<String>>,
    /// Packets that came over client links.
    received: AtomicU64,
    /// Where connections to entries came from.
    peers: Mutex<BTreeSet<IpAddr>>,
    exit: Mutex<Exit>,
}

struct Exit {
    gateway: Gateway,
    rng: ChaCha20Rng,
    streams: Vec<Echo>,
    /// Questions that are yet to be lost.
    deaf_for: usize,
    /// Where datagrams came from: session, flow and bytes.
    datagrams: Vec<(SessionId, u64, Vec<u8>)>,
}

struct Echo {
    stream: GatewayStream,
    waiting: Vec<u8>,
    ended: bool,
    end: End,
}

/// What is at the other end of a stream.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Echo,
    Resolver,
    Documents,
}

/// A document to publish.
pub(crate) struct Edition {
    pub(crate) epoch: u64,
    /// For how long it can be used from now on, at most three epochs.
    pub(crate) life: Duration,
    pub(crate) previous: Option<DocumentHash>,
    pub(crate) required: Vec<ProtocolNumber>,
    /// Or by the exit alone.
    pub(crate) by_entries: bool,
}

struct Forgetful;

impl SessionLog for Forgetful {
    fn insert(&self, _: Period, _: SessionId) -> Result<()> {
        Ok(())
    }
}

impl TestNetwork {
    /// A network whose first document can be used for `life`, at most a minute.
    pub(crate) async fn start(life: Duration) -> Self {
        Self::start_with(Parameters::local(), life).await
    }

    /// The same by other parameters, and so by another life of documents.
    pub(crate) async fn start_with(parameters: Parameters, life: Duration) -> Self {
        let mut rng = seeded_rng().unwrap();
        let parameters = Parameters { mean_delay: Duration::from_millis(2), ..parameters };
        let service = ServiceSecret::generate(&mut rng);
        let authority = Identity::generate(&mut rng);
        let mut relays = Vec::new();
        let mut keys = HashMap::new();
        let mut listeners = Vec::new();
        let roles = [1, 2, 3].map(Role::Mix).into_iter().chain([Role::Entry; 3]).chain([Role::Exit]);
        for role in roles {
            let identity = Identity::generate(&mut rng);
            let key = SecretKey::generate(&mut rng);
            let mut address: SocketAddr = "127.0.0.1:9".parse().unwrap();
            let id = identity.id();
            if role == Role::Entry {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                address = listener.local_addr().unwrap();
                listeners.push((identity, listener));
            }
            let service_key = (role == Role::Exit).then(|| service.public().unwrap().digest());
            let period = RelayPeriod { period: Period(0), role, mix_key: key.public(), service_key };
            relays.push(ListedRelay {
                id,
                addresses: vec![address],
                periods: vec![period],
                family: None,
                weight: 1,
                country: (role == Role::Exit).then(|| "DE".parse().unwrap()),
            });
            keys.insert(id.0, key);
        }
        relays.sort_by_key(|relay| relay.id);
        let mut gateway = Gateway::new(&parameters);
        gateway.set_service_keys(vec![(Period(0), service.clone())]);
        let file = NetworkFile {
            name: "test".into(),
            threshold: 1,
            open_exits: true,
            authorities: vec![AuthorityEntry {
                id: authority.authority(),
                address: "127.0.0.1:9".parse().unwrap(),
            }],
            mirrors: listeners
                .iter()
                .map(|(identity, listener)| MirrorEntry {
                    id: identity.id(),
                    address: listener.local_addr().unwrap(),
                })
                .collect(),
        };
        let inner = Arc::new(Inner {
            clock: Clock::new(),
            parameters,
            authority,
            relays,
            service,
            keys,
            documents: Mutex::default(),
            at_exit: Mutex::default(),
            links: Mutex::default(),
            rude: Mutex::default(),
            received: AtomicU64::new(0),
            peers: Mutex::default(),
            exit: Mutex::new(Exit {
                gateway,
                rng: seeded_rng().unwrap(),
                streams: Vec::new(),
                deaf_for: 0,
                datagrams: Vec::new(),
            }),
        });
        let mut entries = HashMap::new();
        for (identity, listener) in listeners {
            let mut tasks = JoinSet::new();
            let acceptor = Acceptor::new(&identity, &Alpn::ALL).unwrap();
            tasks.spawn(accept(Arc::clone(&inner), identity.id().to_hex(), acceptor, listener));
            entries.insert(identity.id().to_hex(), tasks);
        }
        let mut exit = JoinSet::new();
        exit.spawn(run_exit(Arc::clone(&inner)));
        let first = DocumentHash([0; 32]);
        let mut network = Self { file, first, inner, entries, _exit: exit };
        network.first = network.publish(1, life);
        network
    }

    /// Publishes a document of this epoch that ends after `life`.
    pub(crate) fn publish(&self, epoch: u64, life: Duration) -> DocumentHash {
        self.show(Edition { epoch, life, previous: None, required: Vec::new(), by_entries: true })
    }

    /// Publishes this document.
    pub(crate) fn show(&self, edition: Edition) -> DocumentHash {
        let Edition { epoch, life, previous, required, by_entries } = edition;
        let inner = &self.inner;
        let now = inner.clock.now().unix();
        let whole = inner.parameters.epoch * Consensus::LIFE_EPOCHS;
        let valid_after = UnixTime(now.0 + life.as_secs() - whole.as_secs());
        let consensus = Consensus {
            method: 1,
            network: "test".into(),
            epoch: Epoch(epoch),
            valid_after,
            fresh_until: valid_after + inner.parameters.epoch,
            valid_until: valid_after + whole,
            previous,
            parameters: inner.parameters.clone(),
            origin: UnixTime(now.0 - 100),
            required,
            recommended: Vec::new(),
            relays: inner.relays.clone(),
            not_running: Vec::new(),
            pool: None,
            made: None,
            later: Default::default(),
        };
        let mut signed = Signed::new(&consensus);
        signed.sign(inner.authority.authority(), |bytes| inner.authority.sign(bytes));
        let mut keys = ServiceKeys::new();
        keys.insert(&inner.service.public().unwrap());
        let consensus = Arc::new(consensus);
        let put = |shelf: &Mutex<Option<Shelf>>| {
            let mut shelf = shelf.lock().unwrap();
            *shelf = Some(match shelf.take() {
                Some(shelf) => shelf.followed_by(&signed, Arc::clone(&consensus), keys.to_bytes()),
                None => Shelf::new(&signed, Arc::clone(&consensus), keys.to_bytes()),
            });
        };
        put(&inner.at_exit);
        if by_entries {
            put(&inner.documents);
        }
        signed.hash()
    }

    /// The entries go on carrying cells, but have no document to give.
    pub(crate) fn withhold_documents(&self) {
        *self.inner.documents.lock().unwrap() = None;
    }

    /// From now on this entry ends each new link right after its welcome; it drops those that it has.
    pub(crate) fn make_rude(&self, entry: &str) {
        *self.inner.rude.lock().unwrap() = Some(entry.to_owned());
        self.inner.links.lock().unwrap().clear();
    }

    /// How many packets the entries have had from clients.
    pub(crate) fn packets_from_clients(&self) -> u64 {
        self.inner.received.load(Ordering::Relaxed)
    }

    /// Whose connections the entries have taken.
    pub(crate) fn peers(&self) -> BTreeSet<IpAddr> {
        self.inner.peers.lock().unwrap().clone()
    }

    /// The exit's resolver loses the next `count` questions.
    pub(crate) fn lose_questions(&self, count: usize) {
        self.inner.exit.lock().unwrap().deaf_for = count;
    }

    /// The datagrams that the exit has had: session, flow and bytes.
    pub(crate) fn datagrams(&self) -> Vec<(SessionId, u64, Vec<u8>)> {
        self.inner.exit.lock().unwrap().datagrams.clone()
    }

    /// Stops an entry, as `kill -9` would.
    pub(crate) fn kill(&mut self, entry: &str) {
        self.entries.remove(entry).unwrap();
    }
}

async fn accept(inner: Arc<Inner>, id: String, acceptor: Acceptor, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, peer) = listener.accept().await.unwrap();
        inner.peers.lock().unwrap().insert(peer.ip());
        let (acceptor, inner, id) = (acceptor.clone(), Arc::clone(&inner), id.clone());
        connections.spawn(async move {
            let Ok(accepted) = acceptor.accept(stream).await else { return };
            match accepted.alpn {
                Alpn::Cells => carry_cells(inner, &id, accepted.stream).await,
                Alpn::Documents => {
                    let respond = |request: http::Request| {
                        let documents = inner.documents.lock().unwrap().clone();
                        let answer =
                            documents.and_then(|shelf| shelf.answer(&request.path, inner.clock.now()));
                        async move { answer.unwrap_or_else(|| http::Response::text(404, "nothing here")) }
                    };
                    let _ = http::serve(accepted.stream, &http::Limits::default(), respond).await;
                }
            }
        });
    }
}

/// A client link: packets onward at once, and filler while nothing comes home.
async fn carry_cells(inner: Arc<Inner>, id: &str, link: Link) {
    let geometry = inner.parameters.geometry;
    let (mut reader, mut writer) = tokio::io::split(link);
    let (home, mut homeward) = mpsc::channel::<Vec<u8>>(1_000);
    let (answers, mut answered) = mpsc::channel::<Step>(10);
    let mut tasks = JoinSet::new();
    let mut cell = vec![0; client_cell_size(geometry)];
    reader.read_exact(&mut cell).await.unwrap();
    let Ok(ClientCell::Hello(hello)) = ClientCell::parse(geometry, &cell) else { panic!("no hello") };
    // The secret itself serves as the address here: the same secret, the same address.
    let address = ClientAddress(*hello.reclaim.expose());
    inner.links.lock().unwrap().insert(address.0, home);
    ClientCell::Welcome { address, step: hello.step }.emit(geometry, &mut cell);
    writer.write_all(&cell).await.unwrap();
    writer.flush().await.unwrap();
    if inner.rude.lock().unwrap().as_deref() == Some(id) {
        return;
    }
    tasks.spawn(async move {
        let mut cell = Vec::new();
        loop {
            tokio::select! {
                packet = homeward.recv() => match packet {
                    None => return,
                    Some(packet) => {
                        let next = RelayId([0; 32]);
                        ClientCell::Packet { next, hint: 0, packet: &packet }.emit(geometry, &mut cell);
                    }
                },
                Some(step) = answered.recv() => ClientCell::Step(step).emit(geometry, &mut cell),
                () = tokio::time::sleep(Duration::from_millis(100)) => ClientCell::Filler.emit(geometry, &mut cell),
            }
            if writer.write_all(&cell).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
    });
    while reader.read_exact(&mut cell).await.is_ok() {
        match ClientCell::parse(geometry, &cell).unwrap() {
            ClientCell::Step(step) => answers.send(step).await.unwrap(),
            ClientCell::Packet { next, packet, .. } => {
                inner.received.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(carry(Arc::clone(&inner), next.0, packet.to_vec()));
            }
            ClientCell::Filler => {}
            other => panic!("a client sent {other:?}"),
        }
    }
}

/// One packet's way through all relays, with the delays that it asks for.
async fn carry(inner: Arc<Inner>, mut next: [u8; 32], mut packet: Vec<u8>) {
    loop {
        let link = inner.links.lock().unwrap().get(&next).cloned();
        if let Some(link) = link {
            let _ = link.send(packet).await;
            return;
        }
        // An address of another link than the present one: nobody is there.
        let Some(key) = inner.keys.get(&next) else { return };
        match sphinx::unwrap(inner.parameters.geometry, key, &mut packet).unwrap() {
            Unwrapped::Forward { next: hop, delay } => {
                next = hop;
                tokio::time::sleep(delay).await;
            }
            Unwrapped::Final { payload, .. } => {
                return deliver(&inner, sphinx::open_message(payload).unwrap());
            }
        }
    }
}

fn deliver(inner: &Arc<Inner>, message: &[u8]) {
    let now = inner.clock.now();
    match Payload::parse(message).unwrap() {
        Payload::Drop => {}
        Payload::Session(bytes) => {
            let mut exit = inner.exit.lock().unwrap();
            let Exit { gateway, rng, .. } = &mut *exit;
            let _ = gateway.handle_packet(now, bytes, &Forgetful, rng);
        }
        Payload::Ping(ping) => {
            let pong = Pong { nonce: ping.nonce, arrival: now }.to_bytes();
            let mut packet = Vec::new();
            let first = sphinx::use_surb(inner.parameters.geometry, &ping.surb, &pong, &mut packet).unwrap();
            tokio::spawn(carry(Arc::clone(inner), first.0, packet));
        }
    }
}

async fn run_exit(inner: Arc<Inner>) {
    loop {
        let now = inner.clock.now();
        let mut replies = Vec::new();
        {
            let mut exit = inner.exit.lock().unwrap();
            let Exit { gateway, rng, streams, deaf_for, datagrams } = &mut *exit;
            gateway.handle_timeout(now);
            while let Some(event) = gateway.poll_event() {
                match event {
                    GatewayEvent::Open(stream, target) => match &target.host {
                        Host::Name(name) if name == "echo.test" => {
                            gateway.connected(now, stream);
                            streams.push(Echo::new(stream, End::Echo));
                        }
                        Host::Resolver | Host::Documents => {
                            gateway.connected(now, stream);
                            let resolver = target.host == Host::Resolver;
                            streams.push(Echo::new(
                                stream,
                                if resolver { End::Resolver } else { End::Documents },
                            ));
                        }
                        Host::Name(name) if name == "refused.test" => {
                            gateway.refuse(now, stream, ResetReason::Refused);
                        }
                        _ => gateway.refuse(now, stream, ResetReason::HostNotFound),
                    },
                    GatewayEvent::Closed(stream, _) => streams.retain(|echo| echo.stream != stream),
                    GatewayEvent::Datagram { session, flow, target, bytes } => {
                        datagrams.push((session, flow, bytes.clone()));
                        match target.host {
                            Host::Resolver if *deaf_for > 0 => *deaf_for -= 1,
                            Host::Resolver => {
                                if let Some(answer) = names::answer(&bytes, false) {
                                    gateway.send_datagram(session, flow, target, answer);
                                }
                            }
                            // Of an address that was asked, another one speaks up.
                            Host::Name(name) if name != "echo.test" => {}
                            Host::Documents => {}
                            Host::Name(_) | Host::Address(_) => {
                                gateway.send_datagram(session, flow, ECHO_ADDRESS, bytes);
                            }
                        }
                    }
                    _ => {}
                }
            }
            let shelf = inner.at_exit.lock().unwrap().clone();
            streams.retain_mut(|echo| echo.go_on(now, gateway, shelf.as_ref()));
            let mut packet = Vec::new();
            while let Some(transmit) = gateway.poll_transmit(now, rng, &mut packet) {
                replies.push((transmit.first, std::mem::take(&mut packet)));
            }
        }
        for (first, packet) in replies {
            tokio::spawn(carry(Arc::clone(&inner), first.0, packet));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl Echo {
    fn new(stream: GatewayStream, end: End) -> Self {
        Self { stream, waiting: Vec::new(), ended: false, end }
    }

    /// False when there is nothing more to do.
    fn go_on(
        &mut self,
        now: mizzle_protocol::time::Instant,
        gateway: &mut Gateway,
        shelf: Option<&Shelf>,
    ) -> bool {
        let mut buffer = [0; 16 * 1024];
        while !self.ended && self.waiting.len() < 64 * 1024 {
            match gateway.read(now, self.stream, &mut buffer) {
                Ok(Read::Data(count)) => self.waiting.extend(&buffer[..count]),
                Ok(Read::Empty) => break,
                Ok(Read::Finished) => self.ended = true,
                Err(_) => return false,
            }
        }
        match self.end {
            End::Echo => {}
            End::Resolver => return self.answer(now, gateway),
            End::Documents => return self.give(now, gateway, shelf),
        }
        while !self.waiting.is_empty() {
            match gateway.write(now, self.stream, &self.waiting) {
                Ok(0) => break,
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(_) => return false,
            }
        }
        if self.ended && self.waiting.is_empty() {
            gateway.finish(now, self.stream);
            return false;
        }
        true
    }

    /// Answers whole requests.
    fn give(
        &mut self,
        now: mizzle_protocol::time::Instant,
        gateway: &mut Gateway,
        shelf: Option<&Shelf>,
    ) -> bool {
        while let Some(end) = self.waiting.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = self.waiting.drain(..end + 4).collect();
            let path = std::str::from_utf8(&head).unwrap().split(' ').nth(1).unwrap();
            let found = shelf.and_then(|shelf| shelf.answer(path, now));
            let response = found.unwrap_or_else(|| http::Response::text(404, "nothing here"));
            let mut text =
                format!("HTTP/1.1 {} -\r\nContent-Length: {}\r\n", response.status, response.body.len());
            response.fields.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
            let bytes = [text.as_bytes(), b"\r\n", &response.body].concat();
            // The documents here are small.
            assert_eq!(gateway.write(now, self.stream, &bytes), Ok(bytes.len()));
        }
        !self.ended
    }

    /// Answers whole messages, each after its length.
    fn answer(&mut self, now: mizzle_protocol::time::Instant, gateway: &mut Gateway) -> bool {
        while let [high, low, rest @ ..] = self.waiting.as_slice() {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let Some(question) = rest.get(..length) else { break };
            let answer = names::answer(question, true).unwrap();
            let framed = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
            assert_eq!(gateway.write(now, self.stream, &framed), Ok(framed.len()));
            self.waiting.drain(..2 + length);
        }
        !self.ended
    }
}

/// Where the exit says that `echo.test` is.
pub(crate) const ECHO_ADDRESS: Target =
    Target { host: Host::Address(IpAddr::V4(Ipv4Addr::LOCALHOST)), port: 7 };

/// Random bytes.
pub(crate) fn random(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    seeded_rng().unwrap().fill_bytes(&mut bytes);
    bytes
}
