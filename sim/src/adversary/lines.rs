//! What can be seen at the ends of the network: on clients' lines, at entries and at exits.
//!
//! Everything that some adversary may see is written down here; [`super::matching`] says who sees what of it.

use crate::clear::Clear;
use crate::observe::{End, Observer, Place};
use crate::packets::Packet;
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::payload::Payload;

/// Moments, in order.
pub type Moments = Vec<Instant>;

/// The ends of one client's packets.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    /// Its slots: each puts a packet on its line to the entry.
    pub outward: Moments,
    /// Packets for it that came out of the mixes at its entry. On its line they wait for slots, and look like the
    /// filler between them.
    pub at_entry: Moments,
    /// Its sessions' packets, at the exit.
    pub at_exit: Moments,
    /// Replies to its sessions, leaving the exit.
    pub replies: Moments,
}

/// Writes down the ends of all clients' packets.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    clients: Vec<Ends>,
}

impl Lines {
    /// Of so many clients; of none, it sees nothing.
    pub fn new(clients: usize) -> Self {
        Self { clients: vec![Ends::default(); clients] }
    }

    /// What was written down elsewhere.
    pub fn from_ends(clients: Vec<Ends>) -> Self {
        Self { clients }
    }

    /// Of the client of this number.
    pub fn of(&self, client: usize) -> Option<&Ends> {
        self.clients.get(client)
    }

    /// Clients.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// True if it sees nothing.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }
}

impl Observer for Lines {
    fn sent(&mut self, now: Instant, from: Place, packet: &mut Packet) {
        match from {
            Place::Client(client) => {
                if let Some(ends) = self.clients.get_mut(client as usize) {
                    ends.outward.push(now);
                }
            }
            Place::Relay(_) if !self.clients.is_empty() => {
                let client = Clear::route(&packet.bytes).last().map(|(client, _)| client);
                if let Some(ends) = client.and_then(|client| self.clients.get_mut(client)) {
                    ends.replies.push(now);
                }
            }
            Place::Relay(_) | Place::Loop(_) => {}
        }
    }

    fn waits(&mut self, now: Instant, client: u32, _: &mut Packet) {
        if let Some(ends) = self.clients.get_mut(client as usize) {
            ends.at_entry.push(now);
        }
    }

    fn ends(&mut self, now: Instant, end: End, packet: &mut Packet) {
        if end == End::Delivered
            && let Some(ends) = self.clients.get_mut(packet.sender as usize)
            && matches!(Payload::parse(Clear::message(&packet.bytes)), Ok(Payload::Session(_)))
        {
            ends.at_exit.push(now);
        }
    }
}
