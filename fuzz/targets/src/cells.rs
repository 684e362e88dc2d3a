//! Cells, as they come out of a link's TLS.
//!
//! The first byte picks the network's payload size. Unless its highest bit is set, zeros fill the rest up to a
//! whole cell, so that a short input reaches what lies behind the check of the length.

use crate::bytes::{Seed, seed};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::{ClientAddress, RelayId};
use mizzle_protocol::level::{Level, Step};
use mizzle_protocol::secret::Secret;
use mizzle_protocol::wire::cell::{ClientCell, Hello, RelayCell, client_cell_size, relay_cell_size};

/// What a client or its entry reads. (spec: LINK-11)
pub fn client_cell(bytes: &[u8]) {
    let (geometry, bytes) = sized(bytes, client_cell_size);
    let size = client_cell_size(geometry);
    let Ok(cell) = ClientCell::parse(geometry, &bytes) else {
        assert!(bytes.len() != size || bytes[0] > 1, "a cell of a known kind is refused");
        return;
    };
    assert!(bytes.len() == size);
    let mut written = Vec::new();
    cell.emit(geometry, &mut written);
    assert!(written.len() == size, "a cell of another size is written");
    assert!(ClientCell::parse(geometry, &written).as_ref() == Ok(&cell));
    if let ClientCell::Packet { .. } = cell {
        assert!(written == bytes, "a packet cell is changed");
    }
}

/// What a relay reads from another. (spec: LINK-10)
pub fn relay_cell(bytes: &[u8]) {
    let (geometry, bytes) = sized(bytes, relay_cell_size);
    let size = relay_cell_size(geometry);
    let Ok(cell) = RelayCell::parse(geometry, &bytes) else {
        assert!(bytes.len() != size || bytes[0] > 1, "a cell of a known kind is refused");
        return;
    };
    assert!(bytes.len() == size);
    let mut written = vec![0xaa];
    cell.emit(geometry, &mut written);
    assert!(written.len() == 1 + size, "a cell of another size is appended");
    assert!(RelayCell::parse(geometry, &written[1..]).as_ref() == Ok(&cell));
    if let RelayCell::Packet { .. } = cell {
        assert!(written[1..] == bytes, "a packet cell is changed");
    }
}

pub(crate) fn client_cell_seeds() -> Vec<Seed> {
    let step = Step { level: Level::Fast, step: 1 };
    let cells = [
        ("filler", ClientCell::Filler),
        ("step", ClientCell::Step(step)),
        ("packet", ClientCell::Packet { next: RelayId([3; 32]), hint: 9, packet: &[7; 40] }),
        ("hello", ClientCell::Hello(Hello { reclaim: Secret::new([4; 32]), step })),
        ("welcome", ClientCell::Welcome { address: ClientAddress([5; 32]), step }),
    ];
    let mut seeds = Vec::new();
    for (name, cell) in cells {
        let mut bytes = vec![];
        cell.emit(Geometry::default(), &mut bytes);
        seeds.push(seed(name, &[&[1], without_zeros(&bytes)]));
    }
    seeds.push(seed("whole_packet", &[&[0x80, 1], &[7; 2429]]));
    seeds.push(seed("too_short", &[&[0x80, 1, 1, 1]]));
    seeds.push(seed("unknown_kind", &[&[0, 4]]));
    seeds
}

pub(crate) fn relay_cell_seeds() -> Vec<Seed> {
    vec![
        seed("filler", &[&[0, 0]]),
        seed("packet", &[&[1, 1, 9], &[7; 40]]),
        seed("large_packet", &[&[2, 1, 255], &[9; 400]]),
        seed("whole_packet", &[&[0x80, 1], &[7; 2397]]),
        seed("too_long", &[&[0x80], &[1; 2399]]),
        seed("unknown_kind", &[&[0, 2]]),
    ]
}

fn sized(bytes: &[u8], size: impl Fn(Geometry) -> usize) -> (Geometry, Vec<u8>) {
    let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let geometry = Geometry::new(2048 << ((first & 0x7f) % 3)).unwrap();
    let mut cell = rest.to_vec();
    if first & 0x80 == 0 {
        cell.resize(size(geometry), 0);
    }
    (geometry, cell)
}

fn without_zeros(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(1, |last| last + 1);
    &bytes[..end]
}
