//! Says when a ping arrived: the SURB that came with it is burnt at once. (spec: EXIT-5)

use super::Replies;
use crate::live::View;
use crate::metrics::{Exit, Packet};
use mizzle_protocol::mix::DropReason;
use mizzle_protocol::sphinx::use_surb;
use mizzle_protocol::wire::payload::{Ping, Pong};

/// Answers a ping.
pub(super) fn answer(replies: &Replies, packet: Packet, ping: &Ping, view: &View) {
    // When the packet reached this relay, not when we came to look at it.
    let pong = Pong { nonce: ping.nonce, arrival: packet.arrival };
    let geometry = view.parameters.geometry;
    let mut bytes = Vec::with_capacity(geometry.packet());
    match use_surb(geometry, &ping.surb, &pong.to_bytes(), &mut bytes) {
        Ok(first) => {
            packet.settle(Exit::Ping);
            replies.send(view, first, ping.hint, &bytes);
        }
        Err(_) => packet.discard(DropReason::BadPayload),
    }
}
