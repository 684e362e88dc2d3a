//! A client with sessions: the product's endpoint, its slots and what is kept ready for them.

use crate::adversary::toggle::Steps;
use crate::observe::Observer;
use crate::packets::First;
use crate::wake::{Wake, Waker};
use crate::world::World;
use mizzle_protocol::cover::{Prepared, Ring, SlotKind, Slots, Token};
use mizzle_protocol::endpoint::Endpoint;
use mizzle_protocol::id::{Period, RelayId};
use mizzle_protocol::level::{Demand, Governor, Pace, Step};
use mizzle_protocol::sphinx::PacketFormat;
use mizzle_protocol::time::Instant;
use mizzle_protocol::{Error, ErrorKind, Result};
use std::time::Duration;

/// A client that may have something to say.
pub struct Speaker<F: PacketFormat> {
    index: usize,
    /// Its sessions and streams.
    pub endpoint: Endpoint<F>,
    slots: Slots,
    ring: Ring,
    governor: Governor,
    step: Step,
    governed: Instant,
    /// Drops are built and sent.
    drops: bool,
    /// Key period of what is ready.
    period: Period,
    /// It is not there: its line carries nothing.
    pub away: bool,
    slot_waker: Waker,
    waker: Waker,
    /// When it rose to a faster step.
    pub rises: Vec<Instant>,
    /// At which steps it was.
    pub steps: Steps,
}

impl<F: PacketFormat> Speaker<F> {
    /// The client of this number. It begins at `step`, and stays there if `pinned`.
    ///
    /// Fails if the world has no such client.
    pub fn new<O: Observer>(
        world: &mut World<O>,
        index: usize,
        step: Step,
        pace: Pace,
        pinned: bool,
    ) -> Result<Self> {
        let (now, topology) = (world.now(), world.topology().clone());
        let (entry, address) = world
            .place_of(index)
            .ok_or_else(|| Error::new(ErrorKind::Misuse, "the world has no such client"))?;
        let mut endpoint = Endpoint::with_format(world.rng());
        let period = topology.period;
        endpoint.set_topology(now, topology);
        endpoint.set_entry(now, entry, address);
        endpoint.set_pace(step.level, pace);
        let slots = Slots::new(pace, now, world.rng());
        world.set_pace(index, pace);
        let mut slot_waker = Waker::new(Wake::Slot(index as u32));
        slot_waker.ask(world, Some(slots.poll_timeout()));
        Ok(Self {
            index,
            endpoint,
            slots,
            ring: Ring::new(pace),
            governor: Governor::new(step.level, pinned.then_some(step.step)),
            step,
            governed: now,
            drops: true,
            period,
            away: false,
            slot_waker,
            waker: Waker::new(Wake::Client(index as u32)),
            rises: Vec::new(),
            steps: vec![(now, step.step)],
        })
    }

    /// There is a new document. What is ready for slots was made by the old one, and is made anew if its keys are.
    pub fn renew<O: Observer>(&mut self, world: &mut World<O>) -> Result<()> {
        let (now, topology) = (world.now(), world.topology().clone());
        let has_other_keys = self.period != topology.period;
        self.period = topology.period;
        self.endpoint.set_topology(now, topology);
        if has_other_keys {
            for token in self.ring.renew() {
                self.endpoint.discarded(now, token);
            }
        }
        self.settle(world)
    }

    /// Leaves slots that carry a drop empty.
    pub fn without_drops(&mut self) {
        self.drops = false;
    }

    /// Its slot has come.
    pub fn slot<O: Observer>(&mut self, world: &mut World<O>) -> Result<()> {
        let now = world.now();
        if !self.slot_waker.woken(now) {
            return Ok(());
        }
        if let Some(kind) = self.slots.poll(now, world.rng())
            && !self.away
            && let Some(mut prepared) = self.ring.take(kind).filter(|prepared| !prepared.packet.is_empty())
        {
            let first = First { relay: prepared.first, hint: prepared.hint };
            world.send(self.index, first, &mut prepared.packet);
            self.endpoint.sent(now, prepared.token);
        }
        self.slot_waker.ask(world, Some(self.slots.poll_timeout()));
        self.settle(world)
    }

    /// A moment has come that its sessions asked for.
    pub fn wake<O: Observer>(&mut self, world: &mut World<O>) -> Result<()> {
        if !self.waker.woken(world.now()) {
            return Ok(());
        }
        self.endpoint.handle_timeout(world.now(), world.rng());
        self.settle(world)
    }

    /// A packet has come home.
    pub fn home<O: Observer>(&mut self, world: &mut World<O>, packet: &mut [u8]) -> Result<()> {
        self.endpoint.handle_packet(world.now(), packet);
        self.settle(world)
    }

    /// Fills the ring, looks whether the step still fits, and asks to be woken. To be called whenever something was
    /// done with the endpoint.
    pub fn settle<O: Observer>(&mut self, world: &mut World<O>) -> Result<()> {
        let now = world.now();
        self.govern(world);
        for token in self.ring.retire() {
            self.endpoint.discarded(now, token);
        }
        for kind in [SlotKind::Drop, SlotKind::Loop, SlotKind::Payload] {
            while self.ring.has_room(kind) {
                let built = match kind {
                    SlotKind::Drop if !self.drops => Some(NOTHING),
                    kind => self.endpoint.build(now, kind, world.rng())?,
                };
                let Some(prepared) = built else { break };
                if self.ring.push(prepared).is_err() {
                    return Err(misuse("the endpoint built another kind than was asked for"));
                }
            }
        }
        if self.ring.has_room_for_urgent()
            && let Some(prepared) = self.endpoint.build_urgent(now, world.rng())?
            && self.ring.push_urgent(prepared).is_err()
        {
            return Err(misuse("there was room for an urgent packet, and there is none"));
        }
        self.waker.ask(world, self.endpoint.poll_timeout());
        Ok(())
    }

    /// Asks for another step when the load does. Its entry grants it at once: the question and the answer, a slot
    /// each way, are left out.
    fn govern<O: Observer>(&mut self, world: &mut World<O>) {
        let now = world.now();
        if now.since(self.governed) < GOVERN {
            return;
        }
        self.governed = now;
        let demand: Demand = self.endpoint.demand(now);
        let levels = world.topology().parameters.levels.clone();
        let wanted = self.governor.observe(now, demand, &levels, world.rng());
        if wanted == self.step {
            return;
        }
        let (step, pace) = levels.nearest(wanted);
        if step.step > self.step.step {
            self.rises.push(now);
        }
        self.steps.push((now, step.step));
        self.step = step;
        self.slots.set_pace(pace, now, world.rng());
        self.ring.set_pace(pace);
        self.endpoint.set_pace(step.level, pace);
        world.set_pace(self.index, pace);
        // The next slot is another one now.
        self.slot_waker.forget();
        self.slot_waker.ask(world, Some(self.slots.poll_timeout()));
    }
}

fn misuse(why: &'static str) -> Error {
    Error::new(ErrorKind::Misuse, why)
}

/// In the place of a drop that is not sent.
const NOTHING: Prepared = Prepared {
    kind: SlotKind::Drop,
    token: Token(u64::MAX),
    first: RelayId([0; 32]),
    hint: 0,
    packet: Vec::new(),
};
/// How often a client looks whether its step fits its load.
const GOVERN: Duration = Duration::from_millis(50);
