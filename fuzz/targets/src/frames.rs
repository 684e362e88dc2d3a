//! What packets carry: payloads, frames, targets.

use crate::bytes::{Choices, Seed, seed};
use mizzle_protocol::geometry::SURB_SIZE;
use mizzle_protocol::id::StreamId;
use mizzle_protocol::sphinx::Surb;
use mizzle_protocol::stream::{RangeSet, ResetReason};
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::Reader;
use mizzle_protocol::wire::frame::{Frame, HINTED_SURB_SIZE};
use mizzle_protocol::wire::payload::{Payload, Ping, Pong};
use mizzle_protocol::wire::target::{Host, Target};

/// The frames of one session packet.
pub fn frames(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    loop {
        let before = reader.remaining();
        let Ok(Some(frame)) = Frame::read(&mut reader) else { return };
        let read = before - reader.remaining();
        assert!(read > 0, "a frame of no bytes");
        let mut written = Vec::new();
        frame.write(&mut written, usize::MAX);
        // An IPv6 address that came as a name is written as an address.
        assert!(written.len() <= read + 16, "a frame of {read} bytes becomes one of {}", written.len());
        let mut again = Reader::new(&written);
        assert!(
            Frame::read(&mut again) == Ok(Some(frame.clone())),
            "a frame does not read as it was written"
        );
        assert!(again.is_empty(), "a frame leaves bytes over");
        if let Frame::Ack(ranges) | Frame::Held(ranges) | Frame::Lost(ranges) = &frame {
            few_ranges(&frame, ranges);
        }
    }
}

/// In a small room the highest ranges travel, and nothing is made up.
fn few_ranges(frame: &Frame<'_>, ranges: &RangeSet) {
    const ROOM: usize = 40;
    let mut written = Vec::new();
    frame.write(&mut written, ROOM);
    assert!(written.len() <= ROOM, "ranges exceed their room");
    let read = Frame::read(&mut Reader::new(&written));
    let Ok(Some(Frame::Ack(few) | Frame::Held(few) | Frame::Lost(few))) = read else {
        panic!("ranges do not read as they were written")
    };
    assert!(few.iter().rev().eq(ranges.iter().rev().take(few.count())), "other ranges than the highest");
}

/// What reaches an exit's services, and what its answer to a ping is.
pub fn payload(bytes: &[u8]) {
    if let Ok(payload) = Payload::parse(bytes) {
        let mut written = Vec::new();
        payload.emit(&mut written);
        assert!(written == bytes, "a payload has two encodings");
    }
    if let Ok(pong) = Pong::parse(bytes) {
        // Later moments than the clock can count are all its last one.
        let moment = u64::from_be_bytes(bytes[16..].try_into().unwrap()).min(u64::MAX / 1_000);
        let canonical = [&bytes[..16], &moment.to_be_bytes()].concat();
        assert!(pong.to_bytes() == *canonical, "a pong says another moment");
    }
}

/// A destination: as it comes in a frame, and as an application writes it.
pub fn target(bytes: &[u8]) {
    if let Ok(target) = Target::read(&mut Reader::new(bytes)) {
        sound(&target);
    }
    let mut choices = Choices::new(bytes);
    let port = choices.u16();
    if let Ok(target) = std::str::from_utf8(choices.rest()).map(|host| Target::parse(host, port))
        && let Ok(target) = target
    {
        assert!(target.port == port);
        sound(&target);
    }
}

fn sound(target: &Target) {
    assert!(target.port != 0);
    assert!(format!("{target:?}") == "Target(redacted)");
    if let Host::Name(name) = &target.host {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        assert!((1..=253).contains(&name.len()) && name.bytes().all(allowed), "not a host name");
        assert!(name.split('.').all(|label| (1..=63).contains(&label.len())), "not a host name");
    }
    if target.host == Host::Resolver {
        assert!(*target == Target::resolver(), "a resolver at another port");
    }
    if target.host == Host::Documents {
        assert!(*target == Target::documents(), "documents at another port");
    }
    let mut written = Vec::new();
    target.write(&mut written);
    let mut reader = Reader::new(&written);
    assert!(Target::read(&mut reader).as_ref() == Ok(target), "a target changes on its way");
    assert!(reader.is_empty());
}

pub(crate) fn frames_seeds() -> Vec<Seed> {
    let ranges = some_ranges();
    let surbs = [7; 2 * HINTED_SURB_SIZE];
    let stream = StreamId(70_000);
    let name = Target::parse("a.test", 443).unwrap();
    let address = Target::parse("2001:db8::1", 53).unwrap();
    let frames = [
        ("ack", Frame::Ack(ranges.clone())),
        ("surbs", Frame::Surbs { first: 9, surbs: &surbs }),
        ("held", Frame::Held(ranges.clone())),
        ("lost", Frame::Lost(ranges)),
        ("open", Frame::Open { stream, target: name.clone() }),
        ("connected", Frame::Connected(StreamId(0))),
        ("data", Frame::Data { stream, offset: 1 << 33, last: false, bytes: b"some bytes" }),
        ("last_data", Frame::Data { stream, offset: 5, last: true, bytes: b"" }),
        ("window", Frame::Window { stream, limit: 1 << 20 }),
        ("reset", Frame::Reset { stream, reason: ResetReason::Refused }),
        ("rate", Frame::Rate { sequence: 3, per_1000_seconds: 120_000 }),
        ("share", Frame::Share([9; 32])),
        ("datagram", Frame::Datagram { flow: 4, target: address, bytes: b"question" }),
        ("close", Frame::Close),
    ];
    let mut all = Vec::new();
    let mut seeds = Vec::new();
    for (name, frame) in frames {
        let mut bytes = Vec::new();
        frame.write(&mut bytes, usize::MAX);
        if name != "surbs" {
            all.extend(&bytes);
        }
        seeds.push(Seed { name, bytes });
    }
    seeds.push(seed("all_and_padding", &[&all, &[0; 20]]));
    seeds.push(seed("padding_with_content", &[&[0, 0, 1]]));
    seeds.push(seed("unknown_kind", &[&[15]]));
    seeds.push(seed("long_integers", &[&[8, 0x80, 0, 0, 1, 0xc0, 0, 0, 0, 0, 0, 0, 2, 0x40, 1, b'x']]));
    seeds.push(seed("address_in_a_name", &[&[5, 1, 3, 7], b"1.2.3.4", &[0, 80]]));
    seeds
}

pub(crate) fn payload_seeds() -> Vec<Seed> {
    let surb = Surb::from_slice(&[3; SURB_SIZE]).unwrap();
    let mut ping = Vec::new();
    Payload::Ping(Ping { nonce: [1; 16], hint: 2, surb }).emit(&mut ping);
    let pong = Pong { nonce: [5; 16], arrival: Instant::from_micros(1_800_000_000_000_000) };
    vec![
        seed("drop", &[&[0]]),
        seed("drop_with_more", &[&[0, 0]]),
        seed("session", &[&[1], b"session packet"]),
        Seed { name: "ping", bytes: ping },
        seed("pong", &[&pong.to_bytes()]),
        seed("pong_beyond_time", &[&[5; 16], &[0xff; 8]]),
    ]
}

pub(crate) fn target_seeds() -> Vec<Seed> {
    let read = |host: &str| {
        let mut bytes = Vec::new();
        Target::parse(host, 443).unwrap().write(&mut bytes);
        bytes
    };
    let typed = |host: &str| [&443u16.to_be_bytes(), host.as_bytes()].concat();
    vec![
        Seed { name: "ipv4", bytes: read("192.0.2.7") },
        Seed { name: "ipv6", bytes: read("2001:db8::1") },
        Seed { name: "name", bytes: read("a.b-c.d_e") },
        seed("port_0", &[&[1, 192, 0, 2, 7, 0, 0]]),
        seed("resolver", &[&[4, 0, 53]]),
        seed("resolver_at_another_port", &[&[4, 3, 85]]),
        Seed { name: "typed_name", bytes: typed("Example.Test.") },
        Seed { name: "typed_ipv6", bytes: typed("[2001:db8::1]") },
        Seed { name: "typed_with_newline", bytes: typed("a\r\nb") },
        // Once a name here and an address there.
        Seed { name: "typed_ipv4_with_dot", bytes: typed("1.2.3.4.") },
    ]
}

fn some_ranges() -> RangeSet {
    let mut ranges = RangeSet::new();
    ranges.insert(3..9);
    ranges.insert(11..12);
    ranges.insert(1_000_000..1_000_001);
    ranges
}
