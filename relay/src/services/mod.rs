//! What an exit does with packets that end at it.

pub(crate) mod connect;
mod datagrams;
pub(crate) mod dns;
mod exchange;
mod ping;
pub(crate) mod policy;
pub(crate) mod pump;
pub(crate) mod resolve;

use crate::bandwidth::{Bandwidth, Direction};
use crate::cell::Cell;
use crate::links::Links;
use crate::live::View;
use crate::metrics::{Metrics, Origin, Packet};
use connect::Connect;
use mizzle_link::Clock;
use mizzle_protocol::id::RelayId;
use mizzle_protocol::mix::DropReason;
use mizzle_protocol::wire::payload::Payload;
use std::ops::Range;
use std::sync::Arc;

/// The services of one exit.
#[derive(Debug)]
pub(crate) struct Services {
    /// For answers that leave at once.
    pub(crate) replies: Replies,
    /// Streams and datagrams to the internet, and questions for the resolver.
    pub(crate) connect: Connect,
}

impl Services {
    /// Takes a packet for this exit; its message lies at `message` in its buffer.
    pub(crate) fn deliver(&self, mut packet: Packet, message: Range<usize>, view: &View) {
        // The packet stays in the books until it is settled; its buffer is needed here only.
        let cell = std::mem::take(&mut packet.cell);
        match Payload::parse(cell.packet().get(message).unwrap_or_default()) {
            Ok(Payload::Drop) => packet.discard(DropReason::Cover),
            Ok(Payload::Ping(request)) => ping::answer(&self.replies, packet, &request, view),
            Ok(Payload::Session(bytes)) => self.connect.deliver(packet, bytes),
            Err(_) => packet.discard(DropReason::BadPayload),
        }
    }
}

/// The way out for what services send.
#[derive(Clone, Debug)]
pub(crate) struct Replies {
    pub(crate) clock: Clock,
    pub(crate) links: Arc<Links>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) bandwidth: Arc<Bandwidth>,
}

impl Replies {
    /// Sends a reply on its way: to layer 1 and to nobody else.
    fn send(&self, view: &View, first: RelayId, hint: u8, bytes: &[u8]) {
        self.send_own(Origin::Service, view, first, hint, bytes);
    }

    /// Sends a packet that was made here: along an edge of the topology, and within what the operator allows. False:
    /// it has not left.
    pub(crate) fn send_own(
        &self,
        origin: Origin,
        view: &View,
        first: RelayId,
        hint: u8,
        bytes: &[u8],
    ) -> bool {
        let packet = Packet::receive(&self.metrics, origin, hint, Cell::of(bytes), self.clock.now());
        let refused = match view.mix.period(hint) {
            _ if !self.bandwidth.take(Direction::Send, bytes.len(), packet.arrival) => {
                DropReason::RateLimited
            }
            None => DropReason::UnknownPeriod,
            Some(period) if !period.neighbours.sends_to(first) => DropReason::WrongEdge,
            Some(_) => {
                self.links.send(first, packet);
                return true;
            }
        };
        packet.discard(refused);
        false
    }
}
