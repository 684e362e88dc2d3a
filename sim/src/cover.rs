//! Clients that have nothing to say: each sends its slots of loops and drops, as all clients always do.
//!
//! Slots and their kinds come from the product's [`Slots`]; ways and delays from its [`Topology`], or from
//! [`Roads`](crate::roads::Roads) where packets are modelled. Nothing is kept ready, so that a client is small.

use crate::clear::Clear;
use crate::observe::Observer;
use crate::packets::First;
use crate::place::{relay_id, short};
use crate::wake::Wake;
use crate::world::{Format, World};
use mizzle_protocol::Result;
use mizzle_protocol::cover::{SlotKind, Slots};
use mizzle_protocol::id::ReplyId;
use mizzle_protocol::path::{Topology, below};
use mizzle_protocol::sphinx::{PacketFormat, PublicKey, SecretKey, Sphinx};
use mizzle_protocol::wire::payload::Payload;
use std::time::Duration;

/// Clients that send cover.
#[derive(Debug)]
pub struct Crowd {
    /// The number of the first of them.
    first: usize,
    slots: Vec<Slots>,
    /// Of all of them: nobody opens what comes home to them.
    key: PublicKey,
    buffer: Vec<u8>,
    hops: Vec<(usize, Duration)>,
    drop: Vec<u8>,
}

impl Crowd {
    /// The clients of a world from this number on, each at its pace.
    pub fn new<O: Observer>(world: &mut World<O>, first: usize) -> Self {
        let (now, pace) = (world.now(), world.shape().pace);
        let count = world.shape().clients.saturating_sub(first);
        let key = SecretKey::generate(world.rng()).public();
        let mut slots = Vec::with_capacity(count);
        for index in first..first + count {
            let client = Slots::new(pace, now, world.rng());
            world.wake_at(client.poll_timeout(), Wake::Slot(index as u32).number());
            slots.push(client);
        }
        let mut drop = Vec::new();
        Payload::Drop.emit(&mut drop);
        Self { first, slots, key, buffer: Vec::new(), hops: Vec::new(), drop }
    }

    /// The slot of the client of this number has come.
    pub(crate) fn slot<O: Observer>(&mut self, world: &mut World<O>, index: u32) -> Result<()> {
        let now = world.now();
        let client = (index as usize).checked_sub(self.first);
        let Some(slots) = client.and_then(|client| self.slots.get_mut(client)) else { return Ok(()) };
        let kind = slots.poll(now, world.rng());
        let next = slots.poll_timeout();
        if let Some(kind) = kind {
            self.send(world, index as usize, kind)?;
        }
        world.wake_at(next, Wake::Slot(index).number());
        Ok(())
    }

    /// What a slot of an idle client carries: a loop, else a drop to a random exit.
    fn send<O: Observer>(&mut self, world: &mut World<O>, index: usize, kind: SlotKind) -> Result<()> {
        let first = match world.shape().format {
            Format::Modelled => self.model(world, index, kind),
            Format::Clear => self.build::<Clear, O>(world, index, kind)?,
            Format::Sphinx => self.build::<Sphinx, O>(world, index, kind)?,
        };
        if let Some(first) = first {
            world.send(index, first, &mut self.buffer);
        }
        Ok(())
    }

    fn build<F: PacketFormat, O: Observer>(
        &mut self,
        world: &mut World<O>,
        index: usize,
        kind: SlotKind,
    ) -> Result<Option<First>> {
        let topology = world.topology().clone();
        let geometry = topology.parameters.geometry;
        let (route, reply, message) = match (kind, world.place_of(index)) {
            (SlotKind::Loop, Some((entry, address))) => {
                (topology.homeward(entry, address, self.key, world.rng())?, ReplyId([1; 16]), &[][..])
            }
            _ => {
                let exit = topology.random_exit(|_| true, world.rng())?;
                (topology.outward(&exit.node, world.rng())?, ReplyId([0; 16]), self.drop.as_slice())
            }
        };
        F::build(geometry, &route.hops, reply, message, world.rng(), &mut self.buffer)?;
        Ok(route.first().map(|relay| First { relay, hint: topology.period.hint() }))
    }

    fn model<O: Observer>(&mut self, world: &mut World<O>, index: usize, kind: SlotKind) -> Option<First> {
        let (roads, exits) = (world.shape().roads, world.shape().exits);
        let (first_exit, entry) = (world.shape().mixes() + world.shape().entries, world.entry_of(index)?);
        let topology: std::sync::Arc<Topology> = world.topology().clone();
        roads.draw(&topology.parameters, world.rng(), &mut self.hops);
        let last = match kind {
            SlotKind::Loop => {
                self.hops.push((entry, Duration::ZERO));
                index
            }
            _ => first_exit + below(exits, world.rng())?,
        };
        self.hops.push((last, Duration::ZERO));
        let relay = self.hops.first().map(|(relay, _)| relay_id(*relay))?;
        let hops = self.hops.iter().map(|(place, delay)| (short(*place), delay.as_micros() as u32));
        Clear::write(hops, ReplyId([0; 16]), &[], world.rng(), &mut self.buffer);
        Some(First { relay, hint: topology.period.hint() })
    }
}
