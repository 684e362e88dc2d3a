//! Taking one layer off a packet, in its own buffer.
//!
//! In steps, because what a relay refuses should cost it little: [`inspect`] does what is needed to know
//! the packet's tag and where it goes, one X25519, and [`Inspected::advance`] the rest, a second X25519. Between
//! the two the relay checks edge, delay and replay. Last comes the payload, of several packets at once if there
//! are several. Nothing allocates. (spec: MIX-1)

use super::SecretKey;
use super::header::{ELEMENT, MAC, NEXT, ROUTING, ROUTING_SIZE, Routing, STREAM_SIZE, part};
use super::keys::{HopKeys, MAC_SIZE};
use super::lioness::{PayloadKey, open_together};
use super::x25519::Backend;
use crate::geometry::{Geometry, HEADER_SIZE};
use crate::id::{ReplayTag, ReplyId};
use crate::{Error, ErrorKind, Result};
use std::fmt;
use std::time::Duration;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A packet with one layer removed.
#[derive(Debug)]
pub enum Unwrapped<'a> {
    /// To be held for `delay` and sent to `next`; the buffer now holds the packet for the next hop.
    Forward {
        /// A relay's identity or a client's address.
        next: [u8; 32],
        /// What the sender asks for.
        delay: Duration,
    },
    /// This is the last hop.
    Final {
        /// Names the SURB, loop or ping that it belongs to; zero outward.
        reply: ReplyId,
        /// Where it lies in the buffer. Still sealed if it is the reply to a SURB: see
        /// [`open_reply`](super::open_reply); else see [`open_message`](super::open_message).
        payload: &'a mut [u8],
    },
}

/// A packet whose MAC holds and whose routing information was read; its buffer is still as it came.
pub struct Inspected<'a> {
    packet: &'a mut [u8],
    keys: HopKeys,
    plain: Zeroizing<[u8; STREAM_SIZE]>,
    routing: Routing,
}

impl<'a> Inspected<'a> {
    /// What to remember of the packet, so that it is taken once. The same for every encoding of its element.
    pub fn tag(&self) -> ReplayTag {
        self.keys.tag()
    }

    /// Where it goes, and when.
    pub fn routing(&self) -> Routing {
        self.routing
    }

    /// Blinds the element and moves the routing information up. The payload still has its layer.
    ///
    /// Errors: [`ErrorKind::Forged`] if blinding gives zero, of which no sender can make use.
    pub fn advance(self) -> Result<Advanced> {
        let Self { packet, keys, plain, routing } = self;
        if let Routing::Forward { .. } = routing {
            let blinded = Backend::current()
                .shared_secret(keys.blinding(), &part(packet, ELEMENT.start))
                .ok_or_else(forged)?;
            packet[ELEMENT].copy_from_slice(blinded.expose());
            packet[MAC.start..HEADER_SIZE].copy_from_slice(&plain[NEXT]);
        }
        Ok(Advanced { payload: PayloadKey::derive(keys.payload_seed())?, routing })
    }
}

/// What is left to do for a packet whose header is that of the next hop already: to take the layer off its
/// payload. That is done for several packets in less time than for each alone.
pub struct Advanced {
    payload: PayloadKey,
    routing: Routing,
}

impl Advanced {
    /// Where the packet goes, and when.
    pub fn routing(&self) -> Routing {
        self.routing
    }

    /// Takes the layer off the payloads of all `packets`, each the one that its `Advanced` was made of.
    pub fn open_payloads<'a>(packets: impl IntoIterator<Item = (&'a Self, &'a mut [u8])>) {
        open_together(packets.into_iter().map(|(advanced, packet)| {
            (&advanced.payload, packet.get_mut(HEADER_SIZE..).unwrap_or_default())
        }));
    }

    /// Takes the layer off this packet's payload.
    pub fn open_payload(self, packet: &mut [u8]) -> Unwrapped<'_> {
        let payload = &mut packet[HEADER_SIZE..];
        self.payload.open(payload);
        match self.routing {
            Routing::Forward { next, delay } => Unwrapped::Forward { next, delay },
            Routing::Final { reply } => Unwrapped::Final { reply, payload },
        }
    }
}

impl fmt::Debug for Advanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Advanced(redacted)")
    }
}

impl fmt::Debug for Inspected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inspected(redacted)")
    }
}

/// Checks a packet and reads its routing information, without a change to `packet`.
///
/// In this order: length, X25519 and that its result is not zero, MAC, flag, version. Errors:
/// [`ErrorKind::Malformed`] for another length or flag, [`ErrorKind::Forged`] for a wrong key, a broken MAC or
/// an all-zero shared secret, [`ErrorKind::Incompatible`] for another Sphinx version.
/// (spec: PACKET-2, PACKET-5)
pub fn inspect<'a>(geometry: Geometry, key: &SecretKey, packet: &'a mut [u8]) -> Result<Inspected<'a>> {
    if packet.len() != geometry.packet() {
        return Err(Error::new(ErrorKind::Malformed, "packet of another size"));
    }
    let shared =
        Backend::current().shared_secret(key.expose(), &part(packet, ELEMENT.start)).ok_or_else(forged)?;
    let keys = HopKeys::derive(&shared)?;
    let routing = &packet[ROUTING];
    let mac: [u8; MAC_SIZE] = part(packet, MAC.start);
    if !bool::from(keys.mac(routing).ct_eq(&mac)) {
        return Err(forged());
    }
    let mut plain = Zeroizing::new([0; STREAM_SIZE]);
    plain[..ROUTING_SIZE].copy_from_slice(routing);
    keys.apply_stream(plain.as_mut());
    let routing = Routing::read(&plain)?;
    Ok(Inspected { packet, keys, plain, routing })
}

/// [`inspect`], [`Inspected::advance`] and [`Advanced::open_payload`] in one, for who keeps no replay memory: a client, a test.
pub fn unwrap<'a>(geometry: Geometry, key: &SecretKey, packet: &'a mut [u8]) -> Result<Unwrapped<'a>> {
    Ok(inspect(geometry, key, packet)?.advance()?.open_payload(packet))
}

fn forged() -> Error {
    Error::new(ErrorKind::Forged, "packet does not fit this key")
}
