//! The one public port: who is it, and what do they want? (spec: LINK-1 to LINK-6, LINK-13, MEASURE-1)

use crate::bandwidth::{Bandwidth, Direction};
use crate::cell::Cell;
use crate::coarse::Shown;
use crate::engine::{Engine, Job};
use crate::entry::line::Entry;
use crate::guests::Guests;
use crate::live::Live;
use crate::metrics::{Metrics, Origin, Packet, Refusal};
use crate::mirror::Mirror;
use crate::places::{Place, Places};
use crate::stop::{GOODBYE, Phase, READ_OUT, Stop};
use mizzle_link::{Accepted, Acceptor, Alpn, Clock, Link};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::{AuthorityId, RelayId};
use mizzle_protocol::mix::{DropReason, Source};
use mizzle_protocol::wire::cell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// What connections are served with.
#[derive(Clone)]
pub(crate) struct Port {
    pub(crate) acceptor: Acceptor,
    pub(crate) clock: Clock,
    pub(crate) live: Arc<Live>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) mirror: Arc<Mirror>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) bandwidth: Arc<Bandwidth>,
    pub(crate) stop: Stop,
    /// Those of the network file, who measure.
    pub(crate) authorities: Arc<HashSet<AuthorityId>>,
    /// The ways back to them.
    pub(crate) guests: Arc<Guests>,
    /// Entries only.
    pub(crate) entry: Option<Entry>,
}

impl Port {
    /// Accepts connections until it is dropped.
    pub(crate) async fn listen(self, listener: TcpListener) {
        let handshakes = Places::new(HALF_OPEN);
        let kinds = Kinds {
            documents: Places::new(DOCUMENTS),
            clients: Places::new(OPEN),
            relays: RelayPlaces::default(),
        };
        loop {
            let Ok((stream, address)) = listener.accept().await else {
                // Out of file descriptors: a moment's pause, rather than a loop at full speed.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let mut handshake = handshakes.enter(address.ip());
            let (port, kinds) = (self.clone(), kinds.clone());
            tokio::spawn(async move {
                let accepted = tokio::select! {
                    biased;
                    accepted = port.acceptor.accept(stream) => accepted,
                    () = handshake.displaced() => return port.metrics.refuse(Refusal::Full),
                };
                drop(handshake);
                match accepted {
                    Ok(accepted) => port.serve(accepted, &kinds, address.ip()).await,
                    Err(_) => port.metrics.refuse(Refusal::Handshake),
                }
            });
        }
    }

    async fn serve(&self, accepted: Accepted, kinds: &Kinds, address: IpAddr) {
        let Accepted { stream, peer, alpn } = accepted;
        match (alpn, peer, &self.entry) {
            (Alpn::Documents, _, _) => {
                let mut place = kinds.documents.enter(address);
                tokio::select! {
                    () = self.mirror.serve(stream) => {}
                    () = place.displaced() => self.metrics.refuse(Refusal::Full),
                }
            }
            (Alpn::Cells, Some(id), _) if self.live.load().relays.contains_key(&id) => {
                let mut place = kinds.relays.enter(id, address);
                self.metrics.links_in.inc();
                tokio::select! {
                    () = self.relay_link(stream, id) => {}
                    () = place.displaced() => self.metrics.refuse(Refusal::Full),
                }
                self.metrics.links_in.dec();
            }
            (Alpn::Cells, Some(id), _) if self.authorities.contains(&AuthorityId(id.0)) => {
                let mut place = kinds.relays.enter(id, address);
                tokio::select! {
                    () = self.authority_link(stream, id) => {}
                    () = place.displaced() => self.metrics.refuse(Refusal::Full),
                }
            }
            (Alpn::Cells, Some(_), _) => self.metrics.refuse(Refusal::UnknownRelay),
            (Alpn::Cells, None, Some(entry)) => entry.serve(stream, kinds.clients.enter(address)).await,
            (Alpn::Cells, None, None) => self.metrics.refuse(Refusal::NotAnEntry),
        }
    }

    /// Takes cells from a relay until it ends the link, or this relay does. What is wrong with packets is never
    /// held against the link: they may be a client's.
    async fn relay_link(&self, mut link: Link, peer: RelayId) {
        let mut inward = Inward::new(self.live.load().parameters.geometry);
        let (mut cells, mut jobs) = (Vec::with_capacity(READ), VecDeque::with_capacity(READ));
        let mut goodbye = pin!(self.stop.reached(Phase::Relays));
        let mut end = None;
        loop {
            let read = tokio::select! {
                read = inward.read(&mut link, &mut cells) => read,
                // The peer is told that nothing more is taken; what it has written by then is.
                () = &mut goodbye, if end.is_none() => {
                    end = Some(tokio::time::Instant::now() + READ_OUT);
                    let _ = tokio::time::timeout(GOODBYE, link.shutdown()).await;
                    continue;
                }
                () = tokio::time::sleep_until(end.unwrap_or_else(tokio::time::Instant::now)), if end.is_some() => {
                    return;
                }
            };
            let pause = self.take(Source::Relay(peer), Origin::Relay, &mut cells, &mut jobs);
            match read {
                // No client makes filler on this link, but its relay: that is held against it.
                Read::Cells if !pause.is_zero() => tokio::time::sleep(pause).await,
                Read::Cells => {}
                Read::End => return,
                Read::Truncated => return self.metrics.refuse(Refusal::Truncated),
            }
        }
    }

    /// Takes cells from an authority, and gives it back what it sends home through this relay's engine. The link is
    /// bounded in packets and in time: a measurement is no more. (spec: MEASURE-1)
    async fn authority_link(&self, link: Link, peer: RelayId) {
        let (mut inner, outer) = tokio::io::split(link);
        let mut guest = self.guests.enter(peer);
        let read = async {
            let mut inward = Inward::new(self.live.load().parameters.geometry);
            let (mut cells, mut jobs) = (Vec::with_capacity(READ), VecDeque::with_capacity(READ));
            let mut left = MEASURED_PACKETS;
            while left > 0 {
                let read = inward.read(&mut inner, &mut cells).await;
                left = left.saturating_sub(cells.len());
                let source = Source::Authority(AuthorityId(peer.0));
                let pause = self.take(source, Origin::Authority, &mut cells, &mut jobs);
                match read {
                    Read::Cells if !pause.is_zero() => tokio::time::sleep(pause).await,
                    Read::Cells => {}
                    Read::End => return,
                    Read::Truncated => return self.metrics.refuse(Refusal::Truncated),
                }
            }
        };
        tokio::select! {
            () = read => {}
            () = guest.write(outer, &self.metrics) => {}
            () = self.stop.reached(Phase::Relays) => {}
            () = tokio::time::sleep(MEASURED_TIME) => {}
        }
    }

    /// Hands cells of a link to the engine, but for what is no packet or beyond this relay's limits; for how long nothing
    /// more is to be read from it.
    fn take(
        &self,
        source: Source,
        origin: Origin,
        cells: &mut Vec<Cell>,
        jobs: &mut VecDeque<Job>,
    ) -> Duration {
        let now = self.clock.now();
        let mut pause = Duration::ZERO;
        for mut cell in cells.drain(..) {
            let size = cell.relay_cell_mut().len();
            self.metrics.bytes_read.inc_by(size as u64);
            let Some(&[kind, hint]) = cell.relay_cell_mut().first_chunk() else { continue };
            if kind == cell::FILLER {
                pause = pause.max(self.bandwidth.take_filler(size, now));
                continue;
            }
            let packet = Packet::receive(&self.metrics, origin, hint, cell, now);
            if kind != cell::PACKET {
                packet.discard(DropReason::Malformed);
            } else if !self.bandwidth.take(Direction::Receive, size, now) {
                packet.discard(DropReason::RateLimited);
            } else {
                jobs.push_back(Job { source, packet });
            }
        }
        if !jobs.is_empty() {
            self.engine.submit(jobs);
        }
        pause
    }
}

/// Cells as they come by a link, each read into the buffer that it stays in.
struct Inward {
    geometry: Geometry,
    cell: Cell,
    filled: usize,
}

/// What reading has come to.
enum Read {
    /// There are cells, and may be more.
    Cells,
    /// The link has ended.
    End,
    /// It has ended within a cell.
    Truncated,
}

impl Inward {
    fn new(geometry: Geometry) -> Self {
        Self { geometry, cell: Cell::new(geometry), filled: 0 }
    }

    /// Waits for a cell, and adds to `cells` all that are there, up to a bound. May be dropped and called
    /// again at any moment.
    async fn read(&mut self, link: &mut (impl AsyncRead + Unpin), cells: &mut Vec<Cell>) -> Read {
        poll_fn(|context| self.poll_read(context, link, cells)).await
    }

    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        link: &mut (impl AsyncRead + Unpin),
        cells: &mut Vec<Cell>,
    ) -> Poll<Read> {
        while cells.len() < READ {
            let cell = self.cell.relay_cell_mut();
            let mut buffer = ReadBuf::new(cell.get_mut(self.filled..).unwrap_or_default());
            match Pin::new(&mut *link).poll_read(context, &mut buffer) {
                Poll::Pending if cells.is_empty() => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => self.filled += buffer.filled().len(),
                Poll::Ready(Ok(()) | Err(_)) if self.filled > 0 => return Poll::Ready(Read::Truncated),
                Poll::Ready(Ok(()) | Err(_)) => return Poll::Ready(Read::End),
            }
            if self.filled == self.cell.relay_cell_mut().len() {
                cells.push(std::mem::replace(&mut self.cell, Cell::new(self.geometry)));
                self.filled = 0;
            }
        }
        Poll::Ready(Read::Cells)
    }
}

/// Answers scrapes of the counters on loopback, in plain HTTP.
pub(crate) async fn serve_metrics(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    shown: Arc<Shown>,
    status: impl Fn() -> Vec<u8> + Clone + Send + Sync + 'static,
) {
    use mizzle_link::http::{self, Limits, Response};
    let open = Arc::new(Semaphore::new(SCRAPES));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(permit) = open.clone().try_acquire_owned() else {
            metrics.refuse(Refusal::Full);
            continue;
        };
        let (shown, books, status) = (shown.clone(), metrics.clone(), status.clone());
        let answer = move |path: &str| match path {
            "/metrics" => Response::document("text/plain; version=0.0.4", shown.text()),
            "/status" => Response::document(http::JSON, status()),
            _ => Response::text(404, "There is /metrics and /status.\n"),
        };
        tokio::spawn(async move {
            let limits = Limits { body: 0, time: Duration::from_secs(10), requests: 1_000 };
            if http::serve(stream, &limits, async |request| answer(&request.path)).await.is_err() {
                books.refuse(Refusal::Request);
            }
            drop(permit);
        });
    }
}

/// Places for what strangers, clients and relays want: none takes those of another.
#[derive(Clone)]
struct Kinds {
    documents: Arc<Places>,
    clients: Arc<Places>,
    relays: RelayPlaces,
}

/// A few places for each listed relay: one that opens more displaces its own oldest.
#[derive(Clone, Default)]
struct RelayPlaces(Arc<Mutex<HashMap<RelayId, Arc<Places>>>>);

impl RelayPlaces {
    fn enter(&self, relay: RelayId, address: IpAddr) -> Place {
        let mut relays = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        relays.retain(|_, places| !places.is_empty());
        relays.entry(relay).or_insert_with(|| Places::new(LINKS_OF_A_RELAY)).enter(address)
    }
}

/// Handshakes at a time, connections that ask for documents, and client links: past these the newcomer takes the
/// place of another, which ends as `full`.
const HALF_OPEN: usize = 256;
const DOCUMENTS: usize = 512;
const OPEN: usize = 6144;
/// Links of one listed relay at a time: it needs one, and another while it or this relay starts again.
const LINKS_OF_A_RELAY: usize = 4;
/// What one link of an authority may bring, and how long it may last.
const MEASURED_PACKETS: usize = 1 << 16;
const MEASURED_TIME: Duration = Duration::from_secs(30);
/// Scrapes at a time.
const SCRAPES: usize = 16;
/// Cells that are taken from a relay link at once, at most.
const READ: usize = 16;
