//! Packets whose hops are in the clear: they cost no cryptography, and take the ways that Sphinx packets take.
//!
//! The machines of the product build, hold and open them as they do Sphinx packets; what they lack is what
//! someone who breaks no cryptography cannot see anyway. Only the message is carried, without padding; links
//! count each packet at its full size.

use crate::place::{index_of, long};
use mizzle_protocol::geometry::{Geometry, SURB_SIZE};
use mizzle_protocol::id::{RelayId, ReplayTag, ReplyId};
use mizzle_protocol::mix::Opened;
use mizzle_protocol::sphinx::{Hop, PacketFormat, Routing, SecretKey, Surb};
use mizzle_protocol::{Error, ErrorKind, Result};
use rand_core::{CryptoRng, Rng};
use std::time::Duration;

/// The format of packets in the clear.
///
/// ```text
/// next hop 1 | hops 1 | reply 16 | name 8 | hops × (address 8 | delay 4, in µs) | message
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Clear;

impl Clear {
    /// Replaces `out` by a packet over `hops`, each a relay's or client's index and a delay in microseconds.
    pub(crate) fn write(
        hops: impl ExactSizeIterator<Item = ([u8; 8], u32)>,
        reply: ReplyId,
        message: &[u8],
        rng: &mut impl Rng,
        out: &mut Vec<u8>,
    ) {
        out.clear();
        out.extend([0, hops.len() as u8]);
        out.extend(reply.0);
        out.extend(rng.next_u64().to_be_bytes());
        for (address, delay) in hops {
            out.extend(address);
            out.extend(delay.to_be_bytes());
        }
        out.extend(message);
    }

    /// What the next hop finds, and the packet for the one after it.
    pub(crate) fn open(packet: &mut [u8]) -> Result<Opened> {
        let malformed = || Error::new(ErrorKind::Malformed, "packet too short for its hops");
        let (hop, hops) = match packet {
            [hop, hops, ..] if *hop < *hops => (usize::from(*hop), usize::from(*hops)),
            _ => return Err(malformed()),
        };
        let start = FIXED + hops * HOP;
        let here = packet.get(FIXED + hop * HOP..).ok_or_else(malformed)?;
        let routing = if hop + 1 == hops {
            Routing::Final { reply: reply_of(packet)? }
        } else {
            let delay = here.get(8..).and_then(|rest| rest.first_chunk()).ok_or_else(malformed)?;
            let next = here.get(HOP..).and_then(|rest| rest.first_chunk::<8>()).ok_or_else(malformed)?;
            Routing::Forward {
                next: long(*next),
                delay: Duration::from_micros(u64::from(u32::from_be_bytes(*delay))),
            }
        };
        let mut tag = [0; ReplayTag::SIZE];
        for (to, from) in tag.iter_mut().zip(packet.get(..FIXED).unwrap_or_default()) {
            *to = *from;
        }
        let opened = Opened { routing, tag: ReplayTag(tag), message: start..packet.len() };
        if let Some(next) = packet.first_mut() {
            *next += 1;
        }
        Ok(opened)
    }

    /// What it carries.
    pub fn message(packet: &[u8]) -> &[u8] {
        let hops = packet.get(1).map_or(0, |hops| usize::from(*hops));
        packet.get(FIXED + hops * HOP..).unwrap_or_default()
    }

    /// Where the packet goes, hop by hop, with the delays: what its sender drew.
    pub fn route(packet: &[u8]) -> impl Iterator<Item = (usize, Duration)> + '_ {
        let hops = packet.get(1).map_or(0, |hops| usize::from(*hops));
        packet.get(FIXED..).unwrap_or_default().chunks_exact(HOP).take(hops).filter_map(|hop| {
            let (address, delay) = hop.split_first_chunk::<8>()?;
            let delay = u32::from_be_bytes(*delay.first_chunk()?);
            Some((index_of(*address), Duration::from_micros(u64::from(delay))))
        })
    }
}

impl PacketFormat for Clear {
    type ReplyKeys = ();

    fn build(
        geometry: Geometry,
        hops: &[Hop],
        reply: ReplyId,
        message: &[u8],
        rng: &mut impl CryptoRng,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        if message.len() > geometry.message() {
            return Err(Error::new(ErrorKind::Misuse, "message larger than a packet"));
        }
        Self::write(hops.iter().map(in_short), reply, message, rng, out);
        Ok(())
    }

    fn build_surb(hops: &[Hop], reply: ReplyId, rng: &mut impl CryptoRng) -> Result<(Surb, ())> {
        let mut bytes = Vec::with_capacity(SURB_SIZE);
        Self::write(hops.iter().map(in_short), reply, &[], rng, &mut bytes);
        bytes.resize(SURB_SIZE, 0);
        Ok((Surb::from_slice(&bytes)?, ()))
    }

    fn use_surb(geometry: Geometry, surb: &Surb, message: &[u8], out: &mut Vec<u8>) -> Result<RelayId> {
        if message.len() > geometry.message() {
            return Err(Error::new(ErrorKind::Misuse, "message larger than a packet"));
        }
        let bytes = surb.as_bytes();
        let hops = bytes.get(1).map_or(0, |hops| usize::from(*hops));
        out.clear();
        out.extend(bytes.get(..FIXED + hops * HOP).unwrap_or_default());
        out.extend(message);
        let first = bytes.get(FIXED..).and_then(|hops| hops.first_chunk::<8>());
        first
            .map(|first| RelayId(long(*first)))
            .ok_or_else(|| Error::new(ErrorKind::Malformed, "SURB without hops"))
    }

    fn receive<'a>(_: Geometry, _: &SecretKey, packet: &'a mut [u8]) -> Result<(ReplyId, &'a mut [u8])> {
        let opened = Self::open(packet)?;
        match (opened.routing, packet.get_mut(opened.message)) {
            (Routing::Final { reply }, Some(message)) => Ok((reply, message)),
            _ => Err(Error::new(ErrorKind::Refused, "a packet with further hops")),
        }
    }

    fn open_message(payload: &[u8]) -> Result<&[u8]> {
        Ok(payload)
    }

    fn open_reply<'a>((): &(), payload: &'a mut [u8]) -> Result<&'a [u8]> {
        Ok(payload)
    }
}

fn in_short(hop: &Hop) -> ([u8; 8], u32) {
    let address = hop.address.first_chunk().copied().unwrap_or_default();
    (address, u32::try_from(hop.delay.as_micros()).unwrap_or(u32::MAX))
}

fn reply_of(packet: &[u8]) -> Result<ReplyId> {
    ReplyId::from_slice(packet.get(2..2 + ReplyId::SIZE).unwrap_or_default())
}

const FIXED: usize = 2 + ReplyId::SIZE + 8;
const HOP: usize = 12;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

    use super::*;
    use crate::place::numbered;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn hops(count: usize, rng: &mut ChaCha20Rng) -> Vec<Hop> {
        let key = SecretKey::generate(rng).public();
        (0..count)
            .map(|index| Hop {
                address: numbered(index + 5),
                key,
                delay: Duration::from_micros(index as u64 * 1_000 + 7),
            })
            .collect()
    }

    #[test]
    fn each_hop_finds_its_delay_and_the_next_and_the_last_one_the_message() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let (mut packet, reply) = (Vec::new(), ReplyId([9; 16]));
        Clear::build(Geometry::default(), &hops(4, &mut rng), reply, b"hello", &mut rng, &mut packet)
            .unwrap();
        let mut tags = Vec::new();
        for index in 0..3 {
            let opened = Clear::open(&mut packet).unwrap();
            let delay = Duration::from_micros(index as u64 * 1_000 + 7);
            assert_eq!(opened.routing, Routing::Forward { next: numbered(index + 6), delay });
            tags.push(opened.tag);
        }
        let opened = Clear::open(&mut packet).unwrap();
        assert_eq!(opened.routing, Routing::Final { reply });
        assert_eq!(packet[opened.message], *b"hello");
        tags.dedup();
        assert_eq!(tags.len(), 3);
        assert_eq!(Clear::open(&mut packet).unwrap_err().kind(), ErrorKind::Malformed);
    }

    #[test]
    fn a_surb_is_as_large_as_the_products_and_brings_a_reply_home() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let (surb, keys) = Clear::build_surb(&hops(5, &mut rng), ReplyId([3; 16]), &mut rng).unwrap();
        let mut packet = Vec::new();
        let first = Clear::use_surb(Geometry::default(), &surb, b"answer", &mut packet).unwrap();
        assert_eq!(first, RelayId(numbered(5)));
        for _ in 0..4 {
            let opened = Clear::open(&mut packet).unwrap();
            assert!(matches!(opened.routing, Routing::Forward { .. }));
        }
        let key = SecretKey::generate(&mut rng);
        let (reply, payload) = Clear::receive(Geometry::default(), &key, &mut packet).unwrap();
        assert_eq!(reply, ReplyId([3; 16]));
        assert_eq!(Clear::open_reply(&keys, payload).unwrap(), b"answer");
    }
}
