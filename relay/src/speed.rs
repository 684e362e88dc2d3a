//! What a packet takes this machine, in processor time of one thread.
//!
//! Processor time and not time: a machine that is busy at the moment is no slower for that. A relay measures
//! itself when it starts, and announces by it; `mizzle-relay bench` shows more of the same.

use mizzle_link::{Clock, Error, Result};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::ReplyId;
use mizzle_protocol::sphinx::hash::Single;
use mizzle_protocol::sphinx::x25519::Backend;
use mizzle_protocol::sphinx::{Advanced, Hop, SecretKey, build, inspect};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::time::Duration;

/// A packet, and the key of the relay that unwraps it, again and again.
pub(crate) struct Sample {
    pub(crate) geometry: Geometry,
    pub(crate) key: SecretKey,
    pub(crate) packet: Vec<u8>,
    buffers: Vec<Vec<u8>>,
}

impl Sample {
    /// A packet on its way through three hops.
    pub(crate) fn new(geometry: Geometry) -> Result<Self> {
        let key = SecretKey::from_bytes(SECRET);
        let mut packet = Vec::new();
        let mut rng = ChaCha20Rng::seed_from_u64(0);
        build(geometry, &route(3), ReplyId([0; 16]), &[], &mut rng, &mut packet)?;
        let buffers = vec![packet.clone(); TOGETHER];
        Ok(Self { geometry, key, packet, buffers })
    }

    /// Unwraps the packet once, as a relay does that has one packet to unwrap.
    pub(crate) fn unwrap_one(&mut self) -> Result<()> {
        let [buffer, ..] = self.buffers.as_mut_slice() else { return Ok(()) };
        buffer.copy_from_slice(&self.packet);
        let advanced = inspect(self.geometry, &self.key, buffer)?.advance()?;
        Advanced::open_payloads([(&advanced, buffer.as_mut_slice())]);
        Ok(())
    }

    /// Unwraps it [`TOGETHER`] times, as a busy relay does.
    pub(crate) fn unwrap_together(&mut self) -> Result<()> {
        let mut advanced = Vec::with_capacity(TOGETHER);
        for buffer in &mut self.buffers {
            buffer.copy_from_slice(&self.packet);
            advanced.push(inspect(self.geometry, &self.key, buffer)?.advance()?);
        }
        let payloads = self.buffers.iter_mut().map(Vec::as_mut_slice);
        Advanced::open_payloads(advanced.iter().zip(payloads));
        Ok(())
    }
}

/// So many hops; the first has the key `SECRET`.
pub(crate) fn route(hops: u8) -> Vec<Hop> {
    let hop = |number: u8| Hop {
        address: [number; 32],
        key: SecretKey::from_bytes(SECRET.map(|byte| byte + number)).public(),
        delay: Duration::from_millis(20),
    };
    (0..hops).map(hop).collect()
}

/// Debug builds with `MIZZLE_TEST_PORTABLE` set take the portable X25519, as on a processor that lacks what the fast
/// one needs: for tests of a whole relay with it. All others take the fastest.
pub(crate) fn choose_backend() {
    if cfg!(debug_assertions) && std::env::var_os("MIZZLE_TEST_PORTABLE").is_some() {
        Backend::dalek().force();
    }
    tracing::debug!("X25519 by {}", Backend::current().name());
}

/// Chooses what runs faster on this processor, and returns what unwrapping a packet takes a busy relay.
pub(crate) fn measure(clock: Clock) -> Result<Duration> {
    Single::choose(|| clock.now());
    let mut sample = Sample::new(Geometry::default())?;
    let mut least = Duration::MAX;
    for _ in 0..TRIALS {
        least = least.min(time(ROUNDS, || sample.unwrap_together())?);
    }
    Ok(least / TOGETHER as u32)
}

/// Packets per second that one thread carries, of which unwrapping takes `unwrap`, with as much to spare. Links
/// and books take a fifth as much again.
pub(crate) fn rate_a_thread(unwrap: Duration) -> u32 {
    (0.5 / (1.2 * unwrap.as_secs_f64().max(1e-6))) as u32
}

/// Processor time that `work` takes this thread once, when it is done so many times.
pub(crate) fn time(rounds: u32, mut work: impl FnMut() -> Result<()>) -> Result<Duration> {
    let start = thread_time()?;
    for _ in 0..rounds {
        work()?;
    }
    Ok(thread_time()?.saturating_sub(start) / rounds.max(1))
}

fn thread_time() -> Result<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).map_err(|_| {
        let message = "this machine's processor time is negative: is its kernel sound?";
        Error::Protocol(mizzle_protocol::Error::new(mizzle_protocol::ErrorKind::Misuse, message))
    })
}

/// Packets that a busy relay unwraps together.
pub(crate) const TOGETHER: usize = 4;
pub(crate) const SECRET: [u8; 32] = [7; 32];
/// The fastest of so many trials counts at the start: what other programs do only ever slows one down.
const TRIALS: u32 = 5;
/// Groups of packets a trial.
const ROUNDS: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_announces_half_of_what_a_thread_can_unwrap_less_its_other_work() {
        assert_eq!(rate_a_thread(Duration::from_micros(50)), 8_333);
        assert_eq!(rate_a_thread(Duration::from_millis(2)), 208);
        assert!(rate_a_thread(Duration::ZERO) > 0);
    }

    #[test]
    fn a_packet_takes_time_and_the_larger_one_more() {
        let took = |payload| {
            let mut sample = Sample::new(Geometry::new(payload).unwrap()).unwrap();
            (0..20).map(|_| time(2, || sample.unwrap_one()).unwrap()).min().unwrap()
        };
        let (small, large) = (took(2048), took(8192));
        assert!(Duration::from_micros(5) < small && small < large, "{small:?}, {large:?}");
    }
}
