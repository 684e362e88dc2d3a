//! What travels in the simulator: real Sphinx packets, or routes that stand for them.

use mizzle_protocol::id::{ClientAddress, RelayId, ReplyId};
use mizzle_protocol::mix::{Action, DropReason, Mix, Role, Source};
use mizzle_protocol::path::Parameters;
use mizzle_protocol::sphinx::Hop;
use mizzle_protocol::time::Instant;
use std::collections::VecDeque;

/// What travels.
#[derive(Clone, Debug)]
pub enum Body {
    /// The hops that are left, the next one first; no cryptography.
    Modelled(VecDeque<Hop>),
    /// A Sphinx packet.
    Sphinx(Vec<u8>),
}

/// A packet on its way.
#[derive(Clone, Debug)]
pub struct Packet {
    /// When its client, or its exit, sent it.
    pub sent: Instant,
    /// What travels.
    pub body: Body,
    /// Low byte of its key period.
    pub hint: u8,
}

/// What [`Mix::process`] decides, for a packet whose header is a list.
pub(crate) fn modelled(
    mix: &Mix,
    now: Instant,
    from: Source,
    hint: u8,
    hops: &mut VecDeque<Hop>,
    parameters: &Parameters,
) -> Result<Action, DropReason> {
    let edges = &mix.period(hint).ok_or(DropReason::UnknownPeriod)?.neighbours;
    if !edges.accepts_from(from) {
        return Err(DropReason::WrongEdge);
    }
    let here = hops.pop_front().ok_or(DropReason::Malformed)?;
    if here.delay > parameters.max_delay {
        return Err(DropReason::ExcessiveDelay);
    }
    let due = now + here.delay;
    match (edges.role, hops.front()) {
        (Some(Role::Entry), Some(next)) => Ok(Action::ToClient { client: ClientAddress(next.address), due }),
        (Some(Role::Mix(_)), Some(next)) if edges.sends_to(RelayId(next.address)) => {
            Ok(Action::Forward { next: RelayId(next.address), due })
        }
        (Some(Role::Exit), None) => Ok(Action::Deliver { reply: ReplyId([0; 16]), message: 0..0 }),
        _ => Err(DropReason::WrongEdge),
    }
}
