//! Clients that have nothing to say: each sends its slots of loops and drops, as all clients always do.

use crate::figures::Report;
use crate::packet::Body;
use crate::world::{Output, Shape, World};
use mizzle_protocol::Result;
use mizzle_protocol::cover::{SlotKind, Slots};
use mizzle_protocol::id::ReplyId;
use mizzle_protocol::sphinx::{self, SecretKey};
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::payload::Payload;
use std::time::Duration;

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The network.
    pub shape: Shape,
    /// Virtual time that is measured, after the network has come into its stride.
    pub time: Duration,
    /// Where all randomness comes from.
    pub seed: u64,
    /// Real Sphinx packets instead of modelled ones.
    pub sphinx: bool,
}

/// Runs the scenario.
pub fn run(scenario: &Scenario) -> Result<Report> {
    let mut world = World::new(scenario.shape.clone(), Instant::ZERO, scenario.seed)?;
    let clients = (0..scenario.shape.clients).map(|index| Sender::new(&mut world, index));
    let mut clients = clients.collect::<Vec<_>>();
    // The mixes fill up as 1 - e^(-t/mean): after thirty means each there is nothing to see of it.
    let warm = world.now() + scenario.shape.parameters.mean_delay * 90;
    while let Some(output) = world.step(warm) {
        step(&mut world, &mut clients, scenario, output)?;
    }
    world.start_figures();
    let end = warm + scenario.time;
    let links = scenario.shape.link_delay * 5;
    let mut latencies = Vec::new();
    while let Some(output) = world.step(end) {
        if let Output::Delivered { sent, .. } | Output::AtEntry { sent } = output {
            latencies.push(world.now().since(sent).saturating_sub(links));
        }
        step(&mut world, &mut clients, scenario, output)?;
    }
    Ok(Report::new(&mut world, scenario, latencies))
}

struct Sender {
    slots: Slots,
    key: SecretKey,
}

impl Sender {
    fn new(world: &mut World, index: usize) -> Self {
        let (now, pace) = (world.now(), world.pace());
        let key = SecretKey::generate(world.rng());
        let slots = Slots::new(pace, now, world.rng());
        world.wake_at(slots.poll_timeout(), index as u64);
        Self { slots, key }
    }
}

fn step(world: &mut World, clients: &mut [Sender], scenario: &Scenario, output: Output) -> Result<()> {
    let Output::Wake(number) = output else { return Ok(()) };
    let index = number as usize;
    let Some(client) = clients.get_mut(index) else { return Ok(()) };
    let now = world.now();
    if let Some(kind) = client.slots.poll(now, world.rng()) {
        send(world, client, index, kind, scenario.sphinx)?;
    }
    world.wake_at(client.slots.poll_timeout(), number);
    Ok(())
}

/// A slot of an idle client: a loop, else a drop to a random exit.
fn send(world: &mut World, client: &Sender, index: usize, kind: SlotKind, real: bool) -> Result<()> {
    let topology = world.topology().clone();
    let mut message = Vec::new();
    let mut reply = ReplyId([0; 16]);
    let route = match (kind, world.place_of(index)) {
        (SlotKind::Loop, Some((entry, address))) => {
            reply = ReplyId([1; 16]);
            topology.homeward(entry, address, client.key.public(), world.rng())?
        }
        _ => {
            Payload::Drop.emit(&mut message);
            let exit = topology.random_exit(|_| true, world.rng())?;
            topology.outward(&exit.node, world.rng())?
        }
    };
    let Some(first) = route.first() else { return Ok(()) };
    let body = if real {
        let mut packet = Vec::new();
        let geometry = topology.parameters.geometry;
        sphinx::build(geometry, &route.hops, reply, &message, world.rng(), &mut packet)?;
        Body::Sphinx(packet)
    } else {
        Body::Modelled(route.hops.into())
    };
    world.send(index, first, topology.period.hint(), body);
    Ok(())
}
