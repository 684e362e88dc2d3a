//! Buffers for packets: one from the socket that it comes by to the socket that it leaves by.
//!
//! The packet lies at the same place in each, behind room for the longer of the two heads, so that a cell of a
//! client link becomes one of a relay link, and the other way, by writing a few bytes before it. Buffers are
//! used again: a bounded number waits here for the next packet, so a busy relay allocates none.

use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::wire::cell::{CLIENT_HEAD, PACKET, RELAY_HEAD, client_cell_size};
use std::sync::{Mutex, PoisonError};

/// A buffer with a cell, or room for one.
///
/// ```text
/// client link   kind 1 · hint 1 · address 32 ·              packet
/// relay link                        (room 32) · kind 1 · hint 1 · packet
/// ```
#[derive(Debug, Default)]
pub(crate) struct Cell(Vec<u8>);

impl Cell {
    /// A buffer of this network's size. What is in it means nothing.
    pub(crate) fn new(geometry: Geometry) -> Self {
        let mut bytes = pool().pop().unwrap_or_default();
        bytes.resize(client_cell_size(geometry), 0);
        Self(bytes)
    }

    /// A buffer with this packet, of any length.
    pub(crate) fn of(packet: &[u8]) -> Self {
        let mut bytes = pool().pop().unwrap_or_default();
        bytes.resize(HEAD + packet.len(), 0);
        let mut cell = Self(bytes);
        cell.packet_mut().copy_from_slice(packet);
        cell
    }

    /// The packet.
    pub(crate) fn packet(&self) -> &[u8] {
        self.0.get(HEAD..).unwrap_or_default()
    }

    /// The packet, to be changed.
    pub(crate) fn packet_mut(&mut self) -> &mut [u8] {
        self.0.get_mut(HEAD..).unwrap_or_default()
    }

    /// Where a relay link's cell is read into.
    pub(crate) fn relay_cell_mut(&mut self) -> &mut [u8] {
        self.0.get_mut(HEAD - RELAY_HEAD..).unwrap_or_default()
    }

    /// Where a client link's cell is read into.
    pub(crate) fn client_cell_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// A cell of a client link, as it came.
    pub(crate) fn client_cell(&self) -> &[u8] {
        &self.0
    }

    /// The packet as a cell of a relay link.
    pub(crate) fn as_relay_cell(&mut self, hint: u8) -> &[u8] {
        let cell = self.relay_cell_mut();
        if let Some(head) = cell.first_chunk_mut() {
            *head = [PACKET, hint];
        }
        cell
    }

    /// The packet as a cell of a client link, homeward.
    pub(crate) fn as_client_cell(&mut self, hint: u8) -> &[u8] {
        if let Some(head) = self.0.first_chunk_mut::<HEAD>() {
            *head = [0; HEAD];
            [head[0], head[1]] = [PACKET, hint];
        }
        &self.0
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        let mut pool = pool();
        if bytes.capacity() > 0 && pool.len() < SPARE {
            pool.push(bytes);
        }
    }
}

fn pool() -> std::sync::MutexGuard<'static, Vec<Vec<u8>>> {
    static POOL: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the packet lies: behind the longer head.
const HEAD: usize = CLIENT_HEAD;
/// Buffers that wait for the next packet, at most: 4 MB.
const SPARE: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_protocol::id::RelayId;
    use mizzle_protocol::wire::cell::{ClientCell, RelayCell};

    #[test]
    fn a_buffer_is_used_again() {
        // Other tests share the pool, and none of them makes cells of this size.
        let size = 77_777;
        let place = |cell: &Cell| cell.packet().as_ptr();
        let used: Vec<_> = (0..8).map(|_| Cell::of(&vec![1; size])).collect();
        let places: Vec<_> = used.iter().map(place).collect();
        drop(used);
        // Whatever the allocator has got back goes to these.
        let _others: Vec<_> = (0..16).map(|_| vec![2_u8; HEAD + size]).collect();
        let again: Vec<_> = (0..8).map(|_| Cell::of(&vec![1; size])).collect();
        let same = again.iter().filter(|cell| places.contains(&place(cell))).count();
        assert!(same >= 4, "{same} of 8 buffers");
    }

    #[test]
    fn a_cell_of_one_link_becomes_one_of_the_other_around_the_same_packet() {
        let geometry = Geometry::default();
        let packet: Vec<u8> = (0..geometry.packet()).map(|index| index as u8).collect();
        let (mut client, mut relay) = (Vec::new(), Vec::new());
        let next = RelayId([7; 32]);
        ClientCell::Packet { next, hint: 3, packet: &packet }.emit(geometry, &mut client);
        RelayCell::Packet { hint: 3, packet: &packet }.emit(geometry, &mut relay);

        let mut cell = Cell::new(geometry);
        cell.client_cell_mut().copy_from_slice(&client);
        assert!(cell.client_cell() == client && cell.packet() == packet);
        assert_eq!(cell.as_relay_cell(3), relay);

        let mut cell = Cell::new(geometry);
        cell.relay_cell_mut().copy_from_slice(&relay);
        let mut home = Vec::new();
        ClientCell::Packet { next: RelayId([0; 32]), hint: 3, packet: &packet }.emit(geometry, &mut home);
        assert!(cell.packet() == packet && cell.as_client_cell(3) == home);
    }

    #[test]
    fn a_buffer_holds_a_packet_of_another_size_than_the_last_one() {
        for length in [1, 5_000, 0, 40] {
            let packet = vec![9; length];
            assert_eq!(Cell::of(&packet).packet(), packet);
        }
        assert_eq!(Cell::new(Geometry::default()).packet().len(), Geometry::default().packet());
    }
}
