//! What a relay does with a packet: unwrap it, check its edge, hold it, let it go.
//!
//! Packets move only along edges of the live topology: entry or gateway → layer 1 → 2 → 3 → gateway, and
//! from an entry to its own clients. Everything else is dropped, with its reason. A relay's own loops
//! ([`relay_loops`](crate::relay_loops)) go the same edges, by way of a gateway. What an authority sends goes back
//! to it and nowhere else. (spec: MIX-1 to MIX-6, MEASURE-1)

use crate::geometry::{Geometry, HEADER_SIZE, MESSAGE_START};
use crate::id::{AuthorityId, ClientAddress, Period, RelayId, ReplayTag, ReplyId};
use crate::path::Topology;
use crate::sphinx::{self, Advanced, Routing, SecretKey};
use crate::time::Instant;
use crate::{Error, ErrorKind, Result};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;
use std::time::Duration;

/// What a relay is in this topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A mix of this layer, 1 to 3.
    Mix(u8),
    /// A gateway that takes client links.
    Entry,
    /// A gateway that offers services.
    Exit,
}

/// Where a packet came from: what the link proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A relay that proved this identity.
    Relay(RelayId),
    /// This relay itself: a reply that one of its services sends.
    Service,
    /// An authority of the network file that proved this identity: it measures.
    Authority(AuthorityId),
}

/// Why a packet was not forwarded. Each is a metrics label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DropReason {
    /// Not a cell or packet of this network's sizes and kinds.
    Malformed,
    /// The hint names no key period that is live here.
    UnknownPeriod,
    /// The MAC does not hold, or the secret is degenerate.
    Forged,
    /// Another Sphinx version.
    Version,
    /// Seen before.
    Replayed,
    /// Asks to be held for longer than the maximum.
    ExcessiveDelay,
    /// From or to a relay that is not its neighbour in the topology.
    WrongEdge,
    /// The client address is not connected here.
    UnknownClient,
    /// The payload at its last hop was altered or makes no sense.
    BadPayload,
    /// Cover that has reached its end: not a loss.
    Cover,
    /// A session packet that the service refused.
    Session,
    /// A bounded queue was full.
    QueueFull,
    /// It waited too long to be unwrapped: more packets come than this relay can take.
    Overloaded,
    /// It would have left too long after its moment: the next link takes too little.
    Late,
    /// The next link is down.
    LinkDown,
    /// A client link went beyond its rate.
    RateLimited,
    /// The replay memory cannot be written: packets are refused rather than forgotten.
    ReplayMemory,
    /// The relay was stopping.
    Stopping,
}

impl DropReason {
    /// All reasons, in order.
    pub const ALL: [Self; 18] = [
        Self::Malformed,
        Self::UnknownPeriod,
        Self::Forged,
        Self::Version,
        Self::Replayed,
        Self::ExcessiveDelay,
        Self::WrongEdge,
        Self::UnknownClient,
        Self::BadPayload,
        Self::Cover,
        Self::Session,
        Self::QueueFull,
        Self::Overloaded,
        Self::Late,
        Self::LinkDown,
        Self::RateLimited,
        Self::ReplayMemory,
        Self::Stopping,
    ];

    /// The reason as a metrics label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownPeriod => "unknown_period",
            Self::Forged => "forged",
            Self::Version => "version",
            Self::Replayed => "replayed",
            Self::ExcessiveDelay => "excessive_delay",
            Self::WrongEdge => "wrong_edge",
            Self::UnknownClient => "unknown_client",
            Self::BadPayload => "bad_payload",
            Self::Cover => "cover",
            Self::Session => "session",
            Self::QueueFull => "queue_full",
            Self::Overloaded => "overloaded",
            Self::Late => "late",
            Self::LinkDown => "link_down",
            Self::RateLimited => "rate_limited",
            Self::ReplayMemory => "replay_memory",
            Self::Stopping => "stopping",
        }
    }
}

/// Remembers replay tags for one key period.
pub trait ReplayFilter {
    /// Records `tag`. [`ErrorKind::Replayed`] if it was there; [`ErrorKind::Exhausted`] if it cannot be
    /// remembered, in which case the packet must be refused.
    fn insert(&self, period: Period, tag: ReplayTag) -> Result<()>;
}

/// What becomes of an accepted packet.
#[derive(Debug)]
pub enum Action {
    /// Hold until `due`, then send to this relay; the buffer holds the packet.
    Forward {
        /// Its next hop.
        next: RelayId,
        /// When it leaves.
        due: Instant,
    },
    /// For the client with this address; the buffer holds the packet.
    ToClient {
        /// Issued by this entry.
        client: ClientAddress,
        /// When it may leave: at once, unless the sender asked for a delay here, too.
        due: Instant,
    },
    /// This relay is the last hop: for its services.
    Deliver {
        /// Zero outward; a relay's own loop otherwise.
        reply: ReplyId,
        /// Where the message is in the buffer.
        message: Range<usize>,
    },
}

/// A packet that was accepted, and whose payload still has its layer.
#[derive(Debug)]
pub struct Accepted {
    advanced: Advanced,
    /// Its next hop is a client of this entry.
    to_client: bool,
}

impl Accepted {
    /// Takes the layer off the payloads of `packets`, each the one that was accepted: four at once cost each
    /// less than one alone.
    pub fn open_payloads<'a>(packets: impl IntoIterator<Item = (&'a Self, &'a mut [u8])>) {
        Advanced::open_payloads(packets.into_iter().map(|(accepted, packet)| (&accepted.advanced, packet)));
    }

    /// What becomes of the packet, now that its payload is open. `arrival`: when it came, from which its delay
    /// counts.
    pub fn action(&self, arrival: Instant, packet: &[u8]) -> Result<Action, DropReason> {
        action(self.advanced.routing(), self.to_client, arrival, || {
            let payload = packet.get(HEADER_SIZE..).unwrap_or_default();
            let message = sphinx::open_message(payload).map_err(|_| DropReason::BadPayload)?;
            Ok(MESSAGE_START..MESSAGE_START + message.len())
        })
    }
}

fn action(
    routing: Routing,
    to_client: bool,
    arrival: Instant,
    message: impl FnOnce() -> Result<Range<usize>, DropReason>,
) -> Result<Action, DropReason> {
    match routing {
        Routing::Forward { next, delay } if to_client => {
            Ok(Action::ToClient { client: ClientAddress(next), due: arrival + delay })
        }
        Routing::Forward { next, delay } => Ok(Action::Forward { next: RelayId(next), due: arrival + delay }),
        Routing::Final { reply } => message().map(|message| Action::Deliver { reply, message }),
    }
}

/// A packet of a format that needs no opening, as the simulator's: what a hop would find in its header.
#[derive(Clone, Debug)]
pub struct Opened {
    /// What the packet asks of this hop.
    pub routing: Routing,
    /// Names the packet at this hop.
    pub tag: ReplayTag,
    /// Where the message is in the buffer, at the last hop.
    pub message: Range<usize>,
}

/// A relay's place in the live topology: who may send to it, and to whom it may send.
///
/// Made anew from each consensus; between two key periods a relay has one for each.
#[derive(Clone, Debug)]
pub struct Neighbours {
    /// The period whose layers these are.
    pub period: Period,
    /// What this relay is in it; `None` when not listed.
    pub role: Option<Role>,
    roles: HashMap<RelayId, Role>,
}

impl Neighbours {
    /// The edges around `me`.
    pub fn new(topology: &Topology, me: RelayId) -> Self {
        let mut roles = HashMap::new();
        for (layer, nodes) in (1..).zip(&topology.layers) {
            roles.extend(nodes.iter().map(|node| (node.id, Role::Mix(layer))));
        }
        roles.extend(topology.entries.iter().map(|node| (node.id, Role::Entry)));
        roles.extend(topology.exits.iter().map(|exit| (exit.node.id, Role::Exit)));
        Self { period: topology.period, role: roles.get(&me).copied(), roles }
    }

    /// The role of any relay.
    pub fn role_of(&self, relay: RelayId) -> Option<Role> {
        self.roles.get(&relay).copied()
    }

    /// True if the topology has an edge between these roles.
    pub fn is_edge(from: Role, to: Role) -> bool {
        matches!(
            (from, to),
            (Role::Entry | Role::Exit, Role::Mix(1))
                | (Role::Mix(1), Role::Mix(2))
                | (Role::Mix(2), Role::Mix(3))
                | (Role::Mix(3), Role::Entry | Role::Exit)
        )
    }

    /// True if a packet may come from `source`.
    pub fn accepts_from(&self, source: Source) -> bool {
        match (source, self.role) {
            (Source::Service | Source::Authority(_), Some(_)) => true,
            (Source::Relay(id), Some(role)) => self.role_of(id).is_some_and(|from| Self::is_edge(from, role)),
            (_, None) => false,
        }
    }

    /// True if this relay may send a packet to `next`.
    pub fn sends_to(&self, next: RelayId) -> bool {
        match (self.role, self.role_of(next)) {
            (Some(role), Some(to)) => Self::is_edge(role, to),
            _ => false,
        }
    }

    /// All relays that this one may send to.
    pub fn outgoing(&self) -> impl Iterator<Item = RelayId> + '_ {
        self.roles.keys().copied().filter(|&id| self.sends_to(id))
    }
}

/// The keys and edges of one live key period.
#[derive(Clone, Debug)]
pub struct LivePeriod {
    /// This relay's key.
    pub key: SecretKey,
    /// Its edges.
    pub neighbours: Neighbours,
}

/// A relay's packet processing, as of one consensus: cheap to share between threads, never changed.
#[derive(Clone, Debug)]
pub struct Mix {
    geometry: Geometry,
    max_delay: Duration,
    periods: Vec<LivePeriod>,
}

impl Mix {
    /// Processing with the periods that are live: the current one, and within the overlap another.
    pub fn new(geometry: Geometry, max_delay: Duration, periods: Vec<LivePeriod>) -> Self {
        Self { geometry, max_delay, periods }
    }

    /// Packet sizes.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The live period with this hint.
    pub fn period(&self, hint: u8) -> Option<&LivePeriod> {
        self.periods.iter().find(|live| live.neighbours.period.hint() == hint)
    }

    /// Checks a packet, remembers it, and makes its header that of the next hop. What is left is the payload:
    /// [`Accepted::open_payloads`], and then [`Accepted::action`].
    ///
    /// Order of checks: length, period, source, X25519, MAC, flag, version, delay, next edge, replay; only then
    /// is the element blinded. Nothing allocates. (spec: MIX-1)
    pub fn accept(
        &self,
        source: Source,
        hint: u8,
        packet: &mut [u8],
        replay: &impl ReplayFilter,
    ) -> Result<Accepted, DropReason> {
        if packet.len() != self.geometry.packet() {
            return Err(DropReason::Malformed);
        }
        let live = self.live_for(source, hint)?;
        let edges = &live.neighbours;
        let refused = |error: Error| drop_reason(&error);
        let inspected = sphinx::inspect(self.geometry, &live.key, packet).map_err(refused)?;
        let to_client = self.check_routing(edges, source, inspected.routing())?;
        replay.insert(edges.period, inspected.tag()).map_err(refused)?;
        let advanced = inspected.advance().map_err(refused)?;
        Ok(Accepted { advanced, to_client })
    }

    /// What [`Self::process`] decides about a packet whose header is in the clear: the same checks but for those
    /// of the cryptography, in the same order.
    pub fn process_opened(
        &self,
        now: Instant,
        source: Source,
        hint: u8,
        opened: Opened,
        replay: &impl ReplayFilter,
    ) -> Result<Action, DropReason> {
        let edges = &self.live_for(source, hint)?.neighbours;
        let to_client = self.check_routing(edges, source, opened.routing)?;
        replay.insert(edges.period, opened.tag).map_err(|error| drop_reason(&error))?;
        action(opened.routing, to_client, now, || Ok(opened.message))
    }

    /// The period of a packet, if such a packet may come from `source` in it.
    fn live_for(&self, source: Source, hint: u8) -> Result<&LivePeriod, DropReason> {
        let live = self.period(hint).ok_or(DropReason::UnknownPeriod)?;
        match live.neighbours.accepts_from(source) {
            true => Ok(live),
            false => Err(DropReason::WrongEdge),
        }
    }

    /// Takes one layer off a packet and decides what becomes of it: [`Self::accept`], its payload, and
    /// [`Accepted::action`].
    pub fn process(
        &self,
        now: Instant,
        source: Source,
        hint: u8,
        packet: &mut [u8],
        replay: &impl ReplayFilter,
    ) -> Result<Action, DropReason> {
        let accepted = self.accept(source, hint, packet, replay)?;
        Accepted::open_payloads([(&accepted, &mut *packet)]);
        accepted.action(now, packet)
    }

    /// What a packet asks for must be within the longest delay, and along an edge; an entry sends to its own clients,
    /// too: true if it is asked to. A packet may end at any relay: at an exit for its services, else only as a loop
    /// of the relay's own, which the relay itself knows. What an authority sends goes home to it: else it could have a
    /// relay send for it. (spec: MEASURE-1)
    fn check_routing(
        &self,
        edges: &Neighbours,
        source: Source,
        routing: Routing,
    ) -> Result<bool, DropReason> {
        match (routing, edges.role) {
            (Routing::Forward { delay, .. }, _) if delay > self.max_delay => Err(DropReason::ExcessiveDelay),
            (Routing::Forward { next, .. }, _) if source == Source::Authority(AuthorityId(next)) => Ok(false),
            _ if matches!(source, Source::Authority(_)) => Err(DropReason::WrongEdge),
            (Routing::Final { .. }, Some(Role::Exit)) => Ok(false),
            // What is no loop, which has an id, ends nowhere else.
            (Routing::Final { reply }, Some(_)) if reply != ReplyId([0; ReplyId::SIZE]) => Ok(false),
            (Routing::Forward { next, .. }, Some(_)) if edges.sends_to(RelayId(next)) => Ok(false),
            (Routing::Forward { .. }, Some(Role::Entry)) => Ok(true),
            _ => Err(DropReason::WrongEdge),
        }
    }

    /// Checks a packet that a client asks its entry to send on: the first hop must be of layer 1.
    pub fn admit(&self, hint: u8, next: RelayId, packet: &[u8]) -> Result<(), DropReason> {
        if packet.len() != self.geometry.packet() {
            return Err(DropReason::Malformed);
        }
        self.admit_opened(hint, next)
    }

    /// The same without a look at the packet.
    pub fn admit_opened(&self, hint: u8, next: RelayId) -> Result<(), DropReason> {
        let edges = &self.period(hint).ok_or(DropReason::UnknownPeriod)?.neighbours;
        match edges.role {
            Some(Role::Entry) if edges.sends_to(next) => Ok(()),
            _ => Err(DropReason::WrongEdge),
        }
    }
}

/// Packets that wait for their moment. A heap; ties leave in order of arrival.
#[derive(Debug)]
pub struct Held<T> {
    heap: BinaryHeap<Reverse<Waiting<T>>>,
    arrivals: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    due: Instant,
    arrival: u64,
    item: T,
}

impl<T> Held<T> {
    /// Nothing held.
    pub fn new() -> Self {
        Self { heap: BinaryHeap::new(), arrivals: 0 }
    }

    /// Holds `item` until `due`.
    pub fn push(&mut self, due: Instant, item: T) {
        self.arrivals += 1;
        self.heap.push(Reverse(Waiting { due, arrival: self.arrivals, item }));
    }

    /// The next item that is due at `now`, with the moment it was due.
    pub fn pop(&mut self, now: Instant) -> Option<(Instant, T)> {
        self.poll_timeout().filter(|&due| due <= now)?;
        self.heap.pop().map(|Reverse(waiting)| (waiting.due, waiting.item))
    }

    /// When the next item is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(waiting)| waiting.due)
    }

    /// Items held.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// True when nothing is held.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> PartialEq for Waiting<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.arrival) == (other.due, other.arrival)
    }
}

impl<T> Eq for Waiting<T> {}

impl<T> PartialOrd for Waiting<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Waiting<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.arrival).cmp(&(other.due, other.arrival))
    }
}

fn drop_reason(error: &Error) -> DropReason {
    match error.kind() {
        ErrorKind::Malformed => DropReason::Malformed,
        ErrorKind::Incompatible => DropReason::Version,
        ErrorKind::Replayed => DropReason::Replayed,
        ErrorKind::Exhausted => DropReason::ReplayMemory,
        _ => DropReason::Forged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_leaves_at_its_moment_and_ties_as_they_came() {
        let at = |milliseconds| Instant::ZERO + std::time::Duration::from_millis(milliseconds);
        let mut held = Held::new();
        for (due, item) in [(3, 'c'), (1, 'a'), (3, 'd'), (1, 'b'), (3, 'e')] {
            held.push(at(due), item);
        }
        let left: String = std::iter::from_fn(|| held.pop(at(2))).map(|(_, item)| item).collect();
        assert_eq!((left.as_str(), held.poll_timeout()), ("ab", Some(at(3))));
        let left: String = std::iter::from_fn(|| held.pop(at(3))).map(|(_, item)| item).collect();
        assert_eq!(left, "cde");
    }
}
