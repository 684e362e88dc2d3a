//! Packets on their way, and where they are kept meanwhile.

use mizzle_protocol::id::RelayId;
use mizzle_protocol::time::Instant;

/// A packet on its way. Its bytes are what travels; the rest is what only the simulator knows.
#[derive(Clone, Debug)]
pub struct Packet {
    /// A Sphinx packet, or one in the clear.
    pub bytes: Vec<u8>,
    /// Low byte of its key period.
    pub hint: u8,
    /// When its client, or its exit, sent it.
    pub sent: Instant,
    /// Who did: the number of a client, or of an exit beyond all clients; of loops of relays [`RELAYS`].
    pub sender: u32,
    /// Which packet of its network it is, counted from zero.
    pub number: u32,
    /// For observers: what they remember of it, by a number of their own; zero at first.
    pub mark: u32,
    /// A bit of its payload was changed on the way: in the clear that shows nowhere before its end, as it does not in
    /// Sphinx.
    pub spoilt: bool,
}

/// The sender of all loops of relays.
pub const RELAYS: u32 = u32::MAX;

/// Names a packet while it is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PacketId(u32);

/// All packets on their way. What is over leaves its buffer to the next one.
#[derive(Debug, Default)]
pub(crate) struct Packets {
    all: Vec<Packet>,
    free: Vec<u32>,
    started: u32,
}

impl Packets {
    /// Keeps a packet, whose bytes are still to be written.
    pub(crate) fn start(&mut self, sent: Instant, sender: u32, hint: u8) -> PacketId {
        let number = self.started;
        self.started = self.started.wrapping_add(1);
        let packet = |bytes| Packet { bytes, hint, sent, sender, number, mark: 0, spoilt: false };
        if let Some(free) = self.free.pop()
            && let Some(place) = self.all.get_mut(free as usize)
        {
            *place = packet(std::mem::take(&mut place.bytes));
            return PacketId(free);
        }
        self.all.push(packet(Vec::new()));
        PacketId(self.all.len() as u32 - 1)
    }

    /// The packet.
    pub(crate) fn get_mut(&mut self, id: PacketId) -> Option<&mut Packet> {
        self.all.get_mut(id.0 as usize)
    }

    /// Its way is over.
    pub(crate) fn end(&mut self, id: PacketId) {
        self.free.push(id.0);
    }

    /// How many are on their way.
    pub(crate) fn len(&self) -> usize {
        self.all.len() - self.free.len()
    }
}

/// Where a packet goes first.
#[derive(Clone, Copy, Debug)]
pub struct First {
    /// The mix.
    pub relay: RelayId,
    /// Low byte of the key period.
    pub hint: u8,
}
