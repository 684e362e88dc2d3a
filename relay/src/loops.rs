//! This relay's loops: sent at moments of their own, and noticed when they come home.
//!
//! The machine is [`RelayLoops`]; here it gets a clock, links and counters. (spec: LOOP-1 to LOOP-6)

use crate::live::Live;
use crate::metrics::{Exit, Metrics, Origin, Packet};
use crate::services::Replies;
use mizzle_link::{Clock, Result, seeded_rng};
use mizzle_protocol::id::{RelayId, ReplyId};
use mizzle_protocol::relay_loops::RelayLoops;
use mizzle_protocol::sphinx::Sphinx;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The loops of this relay.
#[derive(Debug)]
pub(crate) struct Loops {
    clock: Clock,
    metrics: Arc<Metrics>,
    machine: Mutex<RelayLoops>,
}

impl Loops {
    /// So many loops a second of relay `me`; none before [`Self::run`] is polled.
    pub(crate) fn new(clock: Clock, me: RelayId, rate: u32, metrics: Arc<Metrics>) -> Result<Self> {
        let machine = RelayLoops::new(me, f64::from(rate), clock.now(), &mut seeded_rng()?);
        Ok(Self { clock, metrics, machine: Mutex::new(machine) })
    }

    /// Takes a packet that ended here if it is a loop of ours, else gives it back.
    pub(crate) fn take(&self, reply: ReplyId, packet: Packet) -> Option<Packet> {
        // What ends at a service names none.
        if reply == ReplyId([0; ReplyId::SIZE]) || !self.with(|loops| loops.come_home(packet.arrival, reply))
        {
            return Some(packet);
        }
        packet.settle(Exit::Loop);
        None
    }

    /// Sends loops for as long as it is polled. Fails only where the operating system has no randomness.
    pub(crate) async fn run(&self, live: &Live, out: &Replies) -> Result<()> {
        let (mut rng, mut bytes, mut told) = (seeded_rng()?, Vec::new(), false);
        loop {
            let now = self.clock.now();
            let view = live.load();
            let Some(due) = self.with(|loops| loops.poll(now, view.topology.as_ref(), &mut rng)) else {
                // What is lost is to be noticed, too, though nothing is to be sent.
                let next = self.machine().poll_timeout().map_or(LOOK, |next| self.clock.until(next));
                tokio::time::sleep(next.min(LOOK)).await;
                continue;
            };
            // Not in the hands of the machine: building takes time, and packets ask it meanwhile.
            let built = due.build::<Sphinx>(&mut rng, &mut bytes);
            // A defect: other packets are not to suffer from it, nor the log.
            if let Err(error) = &built
                && !std::mem::replace(&mut told, true)
            {
                tracing::warn!("a loop of this relay's own cannot be made: {error}");
            }
            if built.is_err() || !out.send_own(Origin::Loop, &view, due.first, due.hint, &bytes) {
                self.with(|loops| loops.unsent(due.reply));
            }
        }
    }

    /// Does something with the machine, and shows in the books what that has changed.
    fn with<T>(&self, act: impl FnOnce(&mut RelayLoops) -> T) -> T {
        let mut machine = self.machine();
        let before = machine.status();
        let result = act(&mut machine);
        let after = machine.status();
        drop(machine);
        self.metrics.loops_home.inc_by(after.home - before.home);
        self.metrics.loops_lost.inc_by(after.lost - before.lost);
        self.metrics.loop_alarm.set(i64::from(after.alarm));
        match (before.alarm, after.alarm) {
            (false, true) => tracing::warn!(
                "this relay's own packets do not come back to it: it is cut off from others, takes more than it can or may, or \
                 somebody keeps packets away from it (an n-1 attack); see mizzle-relay doctor"
            ),
            (true, false) => tracing::info!("this relay's own packets come back to it again"),
            _ => {}
        }
        result
    }

    fn machine(&self) -> std::sync::MutexGuard<'_, RelayLoops> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often it looks at least.
const LOOK: Duration = Duration::from_secs(1);
