//! The daemon: sockets, files and the clock around the machine in [`crate::authority`].

use crate::authority::{Authority, Output, ProbeOutcome, Publication, probe_time};
use crate::config::Config;
use crate::measure::{Rounds, measure};
use crate::probe::probe;
use crate::refusals::{Refusal, Refusals};
use crate::state::State;
use crate::{Error, Result};
use mizzle_link::http::{self, Limits, Method, Request, Response};
use mizzle_link::shelf::Shelf;
use mizzle_link::{Acceptor, Alpn, Clock, Identity, seeded_rng};
use mizzle_protocol::consensus::{MAX_DESCRIPTOR_SIZE, Signed};
use mizzle_protocol::id::RelayId;
use mizzle_protocol::time::Instant;
use mizzle_protocol::{ErrorKind, path::Parameters};
use rand_chacha::ChaCha20Rng;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

/// Runs the authority until a signal ends it.
pub(crate) async fn run(config: Config) -> Result<()> {
    let identity = Identity::load_or_create(&config.identity_file())?;
    let state = State::open(&config.state)?;
    let _lock = state.lock()?;
    let clock = Clock::new();
    tokio::spawn(clock.warn_when_set());
    let parameters = config.settings.parameters.clone();
    let (epoch, key_period) = (parameters.epoch, parameters.key_period);
    tracing::info!("preset {}: an epoch is {epoch:?}, a key period {key_period:?}", config.preset);
    let restored = state.restore(identity.authority(), &config.settings.network)?;
    let shelf = restored.document.as_ref().map(|held| {
        Shelf::new(&held.signed, Arc::new(held.consensus.clone()), restored.service_keys.to_bytes())
    });
    let authority = Authority::new(config.settings, clock.now(), restored)?;
    let rounds = Rounds::new(config.measure, state.measured()?);

    let failed = |doing: String| move |error| Error::Link(mizzle_link::Error::io(doing, error));
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(failed(format!("listen on {} (key `listen`)", config.listen)))?;
    let acceptor = Acceptor::new(&identity, &[Alpn::Documents])?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("wait for signals".into()))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("wait for signals".into()))?;

    let (served, documents) = watch::channel(shelf);
    let (requests, incoming) = mpsc::channel(WAITING_REQUESTS);
    let refusals = Arc::new(Refusals::default());
    let engine = Engine {
        authority,
        rounds,
        rng: seeded_rng()?,
        identity,
        state,
        clock,
        parameters,
        served,
        running: None,
        refusals: refusals.clone(),
    };
    let mut engine = tokio::spawn(engine.run(incoming));
    let mut service = Service { clock, documents, requests, refusals };

    // Gone only when the engine is: its reason comes from the loop below.
    if service.documents.wait_for(Option::is_some).await.is_ok() {
        announce_ready()?;
    }
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            ended = &mut engine => {
                let ended = ended.map_err(|error| Error::new(ErrorKind::Misuse, error.to_string()))?;
                return ended;
            }
            accepted = listener.accept() => match accepted {
                // Full: the connection is closed at once, and its peer comes again.
                Ok((stream, _)) => if let Ok(permit) = connections.clone().try_acquire_owned() {
                    let (acceptor, service) = (acceptor.clone(), service.clone());
                    tokio::spawn(async move {
                        serve(acceptor, service, stream).await;
                        drop(permit);
                    });
                } else {
                    service.refusals.count(Refusal::Full);
                },
                Err(error) => {
                    // Out of file descriptors, most likely: give connections time to end.
                    tracing::warn!("cannot accept connections: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    engine.abort();
    Ok(())
}

/// What a connection asks of the machine.
enum Ask {
    /// To take a descriptor; the answer is for its relay.
    Descriptor(Vec<u8>, oneshot::Sender<Response>),
    /// To take a revocation; the answer is for who handed it in.
    Revocation(Vec<u8>, oneshot::Sender<Response>),
    /// For the status page.
    Status(oneshot::Sender<Response>),
}

/// The machine and all that it drives: one task, one owner.
struct Engine {
    authority: Authority,
    rounds: Rounds,
    rng: ChaCha20Rng,
    identity: Identity,
    state: State,
    clock: Clock,
    parameters: Parameters,
    /// What anyone may fetch.
    served: watch::Sender<Option<Shelf>>,
    /// How many relays the last document lists, and how many it does not.
    running: Option<(usize, usize)>,
    refusals: Arc<Refusals>,
}

impl Engine {
    async fn run(mut self, mut asks: mpsc::Receiver<Ask>) -> Result<()> {
        let dials = Arc::new(Semaphore::new(DIALS));
        // The machine dials each relay once at a time, so this is never full.
        let (answered, mut answers) = mpsc::channel(mizzle_protocol::consensus::MAX_RELAYS);
        let places = Arc::new(Semaphore::new(MEASUREMENTS));
        let (measured, mut results) = mpsc::channel(mizzle_protocol::consensus::MAX_RELAYS);
        loop {
            while let Some(output) = self.authority.poll_output() {
                match output {
                    Output::Publish(publication) => self.publish(*publication)?,
                    Output::Probe { relay, addresses } => {
                        let (dials, answered) = (dials.clone(), answered.clone());
                        let time = probe_time(&self.parameters);
                        tokio::spawn(async move {
                            let Ok(permit) = dials.acquire_owned().await else { return };
                            let outcome = probe(relay, addresses, time).await;
                            drop(permit);
                            // Gone only when the engine is.
                            let _ = answered.send((relay, outcome)).await;
                        });
                    }
                }
            }
            self.measure(&places, &measured);
            let next =
                self.rounds.poll_timeout().into_iter().fold(self.authority.poll_timeout(), Instant::min);
            let due = self.clock.until(next);
            tokio::select! {
                ask = asks.recv() => match ask {
                    Some(ask) => self.answer(ask)?,
                    None => return Ok(()),
                },
                Some((relay, outcome)) = answers.recv() => {
                    let outcome = ProbeOutcome { rate: self.rounds.rate(relay), ..outcome };
                    self.authority.handle_probe(self.clock.now(), relay, outcome);
                }
                Some((relay, rate)) = results.recv() => self.rounds.note(relay, rate),
                // The moment may be a measurement's; then there is nothing to do for the machine.
                () = tokio::time::sleep(due) => self.authority.handle_timeout(self.clock.now()),
            }
        }
    }

    /// Starts the measurements whose moments have come; each waits for its place.
    fn measure(&mut self, places: &Arc<Semaphore>, measured: &mpsc::Sender<(RelayId, u32)>) {
        let (now, packets) = (self.clock.now(), self.rounds.packets());
        let Some(held) = self.authority.document() else { return };
        let announced = |relay| self.authority.announced(relay);
        while let Some(target) = self.rounds.poll(now, &held.consensus, announced) {
            let (places, measured) = (places.clone(), measured.clone());
            let (me, clock) = (self.identity.clone(), self.clock);
            tokio::spawn(async move {
                let Ok(place) = places.acquire_owned().await else { return };
                let relay = target.id;
                let rate = measure(me, target, packets, clock).await;
                drop(place);
                // Gone only when the engine is.
                let _ = measured.send((relay, rate)).await;
            });
        }
    }

    fn answer(&mut self, ask: Ask) -> Result<()> {
        let now = self.clock.now();
        // Who asked may have hung up; then the answer is for nobody.
        match ask {
            Ask::Status(reply) => {
                let _ = reply.send(crate::status::page(&self.authority, &self.rounds, &self.refusals, now));
            }
            Ask::Descriptor(bytes, reply) => {
                let response = match self.authority.handle_descriptor(now, &bytes) {
                    Ok((relay, sentence)) => {
                        blocking(|| self.state.store_descriptor(relay, &bytes))?;
                        Response::text(200, format!("{sentence}\n"))
                    }
                    Err(error) => self.refuse(&error),
                };
                let _ = reply.send(response);
            }
            Ask::Revocation(bytes, reply) => {
                let response = match self.authority.handle_revocation(&bytes) {
                    Ok((relay, sentence)) => {
                        // Nobody hears that it was taken before the disk has it.
                        blocking(|| self.state.store_revocation(relay, &bytes))?;
                        Response::text(200, format!("{sentence}\n"))
                    }
                    Err(error) => self.refuse(&error),
                };
                let _ = reply.send(response);
            }
        }
        Ok(())
    }

    fn refuse(&self, error: &mizzle_protocol::Error) -> Response {
        self.refusals.count(Refusal::Descriptor(error.kind()));
        Response::text(status_code(error.kind()), format!("{error}\n"))
    }

    /// Signs, stores, and only then shows a document.
    fn publish(&mut self, mut publication: Publication) -> Result<()> {
        let identity = &self.identity;
        publication.signed.sign(identity.authority(), |message| identity.sign(message));
        let bytes = publication.signed.to_bytes();
        let known: std::collections::BTreeSet<RelayId> =
            self.authority.status(self.clock.now()).map(|relay| relay.id).collect();
        blocking(|| {
            self.state.store_measured(self.rounds.results())?;
            self.state.store(&publication, &bytes)?;
            self.state.keep_descriptors(&known)
        })?;
        let (signed, keys) = (&publication.signed, publication.service_keys.to_bytes());
        let consensus = Arc::new(publication.consensus.clone());
        let shelf = match &*self.served.borrow() {
            Some(shelf) => shelf.followed_by(signed, consensus, keys),
            None => Shelf::new(signed, consensus, keys),
        };
        self.served.send_replace(Some(shelf));
        let consensus = &publication.consensus;
        self.rounds.plan(self.clock.now(), consensus, &mut self.rng);
        let running = (consensus.relays.len(), consensus.not_running.len());
        tracing::debug!(epoch = consensus.epoch.0, "published");
        if self.running.replace(running) != Some(running) {
            let (listed, missing) = running;
            tracing::info!(
                "relays running: {listed}, not running: {missing}; mizzle-directory status says why"
            );
        }
        Ok(())
    }
}

/// What a connection needs.
#[derive(Clone)]
struct Service {
    clock: Clock,
    documents: watch::Receiver<Option<Shelf>>,
    requests: mpsc::Sender<Ask>,
    refusals: Arc<Refusals>,
}

impl Service {
    async fn respond(&self, request: Request) -> Response {
        let shelf = self.documents.borrow().clone();
        let document = shelf.as_ref().and_then(|shelf| shelf.answer(&request.path, self.clock.now()));
        if let (Method::Get, Some(response)) = (request.method, document) {
            return response;
        }
        match (request.method, request.path.as_str()) {
            (Method::Get, "/consensus" | "/service-keys") if shelf.is_none() => {
                Response::text(503, "no document has been made yet: try again in a second\n")
            }
            (Method::Get, "/status") => self.ask(Ask::Status).await,
            (Method::Post, "/descriptor") => self.ask(|reply| Ask::Descriptor(request.body, reply)).await,
            (Method::Post, "/revocation") => self.ask(|reply| Ask::Revocation(request.body, reply)).await,
            _ => {
                self.refusals.count(Refusal::Request);
                Response::text(404, "no such document here: try /consensus\n")
            }
        }
    }

    async fn ask(&self, ask: impl FnOnce(oneshot::Sender<Response>) -> Ask) -> Response {
        let (reply, answer) = oneshot::channel();
        let busy = || Response::text(503, "the authority is busy: try again in a second\n");
        // Full: the peer is told, and comes again.
        if self.requests.try_send(ask(reply)).is_err() {
            self.refusals.count(Refusal::Full);
            return busy();
        }
        answer.await.unwrap_or_else(|_| busy())
    }
}

async fn serve(acceptor: Acceptor, service: Service, stream: TcpStream) {
    let limits = Limits { body: MAX_DESCRIPTOR_SIZE, ..Limits::default() };
    let (served, refusal) = match acceptor.accept(stream).await {
        Ok(accepted) => {
            let served = http::serve(accepted.stream, &limits, |request| service.respond(request)).await;
            (served, Refusal::Request)
        }
        Err(error) => (Err(error), Refusal::Handshake),
    };
    // Whose fault it was, is not for a log at the usual level: anyone can knock.
    if let Err(error) = served {
        service.refusals.count(refusal);
        tracing::debug!("a connection ended: {error}");
    }
}

/// The HTTP status of a refusal.
fn status_code(kind: ErrorKind) -> u16 {
    match kind {
        ErrorKind::Malformed => 400,
        ErrorKind::Forged | ErrorKind::Refused => 403,
        ErrorKind::Replayed | ErrorKind::Expired => 409,
        ErrorKind::Incompatible => 422,
        _ => 503,
    }
}

/// Writes to disk without holding up the other tasks.
fn blocking<T>(write: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(write)
}

fn announce_ready() -> Result<()> {
    let mut stdout = std::io::stdout();
    let written = writeln!(stdout, "ready").and_then(|()| stdout.flush());
    written.map_err(|error| mizzle_link::Error::io("write to standard output", error).into())
}

/// Fetches the newest document of the authority or relay `id` at `address`.
pub(crate) async fn fetch(address: std::net::SocketAddr, id: RelayId, path: &str) -> Result<Response> {
    let mut link = mizzle_link::dial(address, id, None, Alpn::Documents, None).await?;
    let response = http::get(&mut link, path, &Limits::default()).await?;
    match response.status {
        200 => Ok(response),
        _ => Err(Error::new(ErrorKind::Unavailable, format!("the answer was: {}", response.reason()))),
    }
}

/// Parses a fetched document.
pub(crate) fn read(bytes: &[u8]) -> Result<Signed> {
    Ok(Signed::from_bytes(bytes)?)
}

/// Connections at a time: each costs a handshake and a few buffers.
const CONNECTIONS: usize = 512;
/// Requests that wait for the machine.
const WAITING_REQUESTS: usize = 64;
/// Relays that are dialled at the same time.
const DIALS: usize = 64;
/// Relays that are measured at the same time: more would measure the authority's own line.
const MEASUREMENTS: usize = 4;
