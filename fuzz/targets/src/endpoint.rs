//! A whole client: what its entry delivers, be it a reply with any content, an altered one, or anything.

use crate::bytes::{Choices, Seed, seed};
use crate::network::{ENTRY, EXIT, NETWORK, START, geometry, id};
use mizzle_protocol::cover::SlotKind;
use mizzle_protocol::endpoint::{Endpoint, Event, Isolation};
use mizzle_protocol::id::{ClientAddress, PacketNumber};
use mizzle_protocol::session::{ENCAPSULATION_SIZE, SessionKeys};
use mizzle_protocol::sphinx::{Surb, Unwrapped, open_message, use_surb};
use mizzle_protocol::wire::Reader;
use mizzle_protocol::wire::frame::{Frame, HINTED_SURB_SIZE};
use mizzle_protocol::wire::payload::{Payload, Ping};
use mizzle_protocol::wire::target::Target;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::time::Duration;

/// A client that has sent a ping or opened a stream, and what comes home. (spec: SESSION-1, PACKET-5)
///
/// The first byte: which of the two; whether the reply is sealed as the service would; whether the packet is
/// altered on its way, then where.
pub fn endpoint(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let how = choices.u8();
    let altered = (how & 4 != 0).then(|| choices.u16());
    let content = choices.rest();
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut client = Endpoint::new(&mut rng);
    client.set_topology(START, NETWORK.topology.clone());
    client.set_entry(START, id(ENTRY), ClientAddress([0xcc; 32]));
    if how & 1 == 0 {
        client.ping(START, None, &mut rng).unwrap();
    } else {
        client.open(START, Isolation::of(b""), Target::parse("a.test", 80).unwrap(), &mut rng).unwrap();
    }
    let mut prepared = client.build(START, SlotKind::Payload, &mut rng).unwrap().unwrap();
    client.sent(START, prepared.token);

    let mut packet = answer(&mut prepared.packet, how & 2 != 0, content);
    if let Some(at) = altered {
        packet[usize::from(at) % geometry().packet()] ^= 0x40;
    }
    let now = START + Duration::from_millis(200);
    let again = packet.clone();
    client.handle_packet(now, &mut packet);
    let taken = client.status().taken;
    assert!(taken == 0 || altered.is_none(), "an altered reply is taken");
    let events: Vec<_> = std::iter::from_fn(|| client.poll_event()).collect();
    if how & 1 == 0 {
        let pongs = events.iter().filter(|event| matches!(event, Event::Pong(_))).count() as u64;
        assert!(pongs == taken, "a pong without a packet");
    }
    client.handle_packet(now, &mut again.clone());
    let mut junk = content.to_vec();
    junk.resize(geometry().packet(), 0);
    client.handle_packet(now, &mut junk);
    assert!(client.status().taken == taken && client.status().strays == 3 - taken, "a reply is taken twice");
    client.handle_timeout(now + Duration::from_secs(1), &mut rng);
    let _ = client.poll_timeout();
}

/// What the exit makes of a packet: the reply, as the entry delivers it.
fn answer(packet: &mut [u8], sealed: bool, content: &[u8]) -> Vec<u8> {
    let Unwrapped::Final { payload, .. } = NETWORK.carry(&[0, 1, 2, EXIT], packet) else {
        panic!("a packet does not end at the exit")
    };
    let message = open_message(payload).unwrap();
    let (surb, mut reply) = match Payload::parse(message) {
        Ok(Payload::Ping(Ping { nonce, surb, .. })) => match sealed {
            true => (surb, [nonce.as_slice(), content].concat()),
            false => (surb, content.to_vec()),
        },
        Ok(Payload::Session(packet)) => {
            let (keys, number, surb) = opened(packet);
            let mut plain = START.as_micros().to_be_bytes().to_vec();
            plain.push(0);
            plain.extend(content);
            keys.homeward.seal(PacketNumber(number), &[1], &mut plain).unwrap();
            (surb, if sealed { [&[1], plain.as_slice()].concat() } else { content.to_vec() })
        }
        other => panic!("a client sends {other:?}"),
    };
    reply.truncate(geometry().message());
    let mut packet = Vec::new();
    use_surb(geometry(), &surb, &reply, &mut packet).unwrap();
    assert!(matches!(NETWORK.carry(&[0, 1, 2, ENTRY], &mut packet), Unwrapped::Forward { .. }));
    packet
}

/// The keys of the session that this packet opens, and its first SURB.
fn opened(packet: &[u8]) -> (SessionKeys, u64, Surb) {
    let (header, sealed) = packet.split_at(2 + ENCAPSULATION_SIZE + 8);
    let keys = NETWORK.service.open(&header[2..2 + ENCAPSULATION_SIZE]).unwrap();
    let mut plain = sealed.to_vec();
    keys.outward.open(PacketNumber(0), header, &mut plain).unwrap();
    let mut reader = Reader::new(&plain);
    while let Some(frame) = Frame::read(&mut reader).unwrap() {
        if let Frame::Surbs { first, surbs } = frame {
            return (keys, first, Surb::from_slice(&surbs[1..HINTED_SURB_SIZE]).unwrap());
        }
    }
    panic!("the first packet of a session brings no SURB")
}

pub(crate) fn endpoint_seeds() -> Vec<Seed> {
    let connected = [6, 0];
    vec![
        seed("pong", &[&[2], &START.as_micros().to_be_bytes()]),
        seed("pong_beyond_time", &[&[2], &[0xff; 8]]),
        seed("pong_altered", &[&[6, 0, 31], &[0; 8]]),
        seed("no_pong", &[&[0], b"something else"]),
        seed("connected", &[&[3], &connected]),
        seed("data", &[&[3], &connected, &[7, 0, 0, 6], b"answer"]),
        seed("data_altered", &[&[7, 1, 200], &connected]),
        seed("not_sealed", &[&[1, 1], &[7; 60]]),
        seed("from_the_wrong_side", &[&[3, 14]]),
    ]
}
