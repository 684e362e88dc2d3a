//! Which relay is measured when, and what was found.
//!
//! Each relay that a document lists is measured once an epoch, at a moment of its own that is drawn anew each time: not
//! before its first quarter has passed, since the relay has to have the document. At most a hundredth of what it
//! announces for a key period is taken for that. The middle one of the last three results counts, so that one which
//! went wrong does not. (spec: MEASURE-4, MEASURE-5)

use super::Target;
use super::course::{Course, most};
use mizzle_protocol::consensus::{Consensus, coarse};
use mizzle_protocol::id::{Period, RelayId};
use mizzle_protocol::time::Instant;
use rand_core::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The measurements of one authority.
#[derive(Debug)]
pub(crate) struct Rounds {
    /// Packets of one measurement at most; `None`: nobody is measured.
    packets: Option<u32>,
    relays: BTreeMap<RelayId, Measured>,
}

/// What is known of one relay.
#[derive(Debug, Default)]
struct Measured {
    /// The last results, the newest last.
    rates: Vec<u32>,
    /// When it is measured next.
    next: Option<Instant>,
    /// It is being measured.
    busy: bool,
    /// Packets that were spent on it in a key period.
    spent: (Period, u64),
}

impl Rounds {
    /// Measurements by at most so many packets each, and what an earlier process found.
    pub(crate) fn new(packets: Option<u32>, stored: BTreeMap<RelayId, Vec<u32>>) -> Self {
        let known = |(relay, rates)| (relay, Measured { rates: last(rates), ..Measured::default() });
        Self { packets, relays: stored.into_iter().map(known).collect() }
    }

    /// Draws the moments of this document's epoch. To be called with each new document.
    pub(crate) fn plan(&mut self, now: Instant, consensus: &Consensus, rng: &mut impl Rng) {
        let named: BTreeSet<_> = consensus.not_running.iter().map(|relay| relay.id).collect();
        self.relays.retain(|id, relay| {
            relay.next = None;
            relay.busy || named.contains(id) || consensus.relay(*id).is_some()
        });
        if self.packets.is_none() {
            return;
        }
        let epoch = consensus.parameters.epoch;
        for listed in &consensus.relays {
            let draw = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            let relay = self.relays.entry(listed.id).or_default();
            relay.next = (!relay.busy).then(|| now + epoch / 4 + (epoch - epoch / 4).mul_f64(draw));
        }
    }

    /// When [`Self::poll`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.relays.values().filter_map(|relay| relay.next).min()
    }

    /// A relay that is to be measured now. To be called until there is none; each result is told to [`Self::note`].
    pub(crate) fn poll(
        &mut self,
        now: Instant,
        consensus: &Consensus,
        announced: impl Fn(RelayId) -> Option<u32>,
    ) -> Option<Target> {
        let packets = self.packets?;
        let period = consensus.period(now);
        loop {
            let due = |relay: &Measured| relay.next.is_some_and(|next| next <= now);
            let (&id, relay) = self.relays.iter_mut().find(|(_, relay)| due(relay))?;
            relay.next = None;
            let Some(target) = announced(id).and_then(|announced| Target::new(consensus, id, announced, now))
            else {
                continue;
            };
            if relay.spent.0 != period {
                relay.spent = (period, 0);
            }
            let wanted = u64::from(Course::new(target.announced, packets).packets());
            if relay.spent.1 + wanted > share(target.announced, consensus.parameters.key_period) {
                continue;
            }
            relay.spent.1 += wanted;
            relay.busy = true;
            return Some(target);
        }
    }

    /// Packets of one measurement at most.
    pub(crate) fn packets(&self) -> u32 {
        self.packets.unwrap_or(0)
    }

    /// A relay has carried so many packets a second.
    pub(crate) fn note(&mut self, relay: RelayId, rate: u32) {
        if let Some(relay) = self.relays.get_mut(&relay) {
            relay.busy = false;
            relay.rates.push(rate);
            relay.rates = last(std::mem::take(&mut relay.rates));
        }
    }

    /// Packets a second that a relay carries, so coarsely as documents say it; `None`: nobody knows yet.
    pub(crate) fn rate(&self, relay: RelayId) -> Option<u32> {
        let mut rates = self.relays.get(&relay)?.rates.clone();
        rates.sort_unstable();
        rates.get(rates.len() / 2).copied().map(coarse)
    }

    /// All results that still count, to be kept.
    pub(crate) fn results(&self) -> impl Iterator<Item = (RelayId, &[u32])> {
        self.relays.iter().map(|(&id, relay)| (id, relay.rates.as_slice()))
    }

    /// Packets a second that a measurement can show at most, if relays are measured.
    pub(crate) fn most(&self) -> Option<u32> {
        self.packets.map(most)
    }
}

/// Packets of a key period that a relay which announces so many a second may be measured by.
fn share(announced: u32, key_period: Duration) -> u64 {
    u64::from(announced).saturating_mul(key_period.as_secs()) / SHARE
}

/// The results that count.
fn last(mut rates: Vec<u32>) -> Vec<u32> {
    rates.drain(..rates.len().saturating_sub(COUNTED));
    rates
}

/// One packet of so many.
const SHARE: u64 = 100;
const COUNTED: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::tests::consensus;
    use mizzle_protocol::consensus::NotRunning;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn id(number: u8) -> RelayId {
        RelayId([number; 32])
    }

    /// Goes through the epoch that begins at `start`: who was measured when.
    fn epoch(
        rounds: &mut Rounds,
        consensus: &Consensus,
        announced: u32,
        start: Instant,
    ) -> Vec<(RelayId, Duration)> {
        let mut measured = Vec::new();
        while let Some(now) = rounds.poll_timeout() {
            while let Some(target) = rounds.poll(now, consensus, |_| Some(announced)) {
                assert_eq!(target.announced, announced);
                rounds.note(target.id, 100);
                measured.push((target.id, now.since(start)));
            }
        }
        measured
    }

    #[test]
    fn each_relay_has_its_turn_once_an_epoch_at_a_moment_that_nobody_knows() {
        let (consensus, start) = consensus(&[1, 2, 3, 4]);
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut rounds = Rounds::new(Some(256), BTreeMap::new());
        let (mut moments, epoch_time) = (Vec::new(), consensus.parameters.epoch);
        for _ in 0..5 {
            rounds.plan(start, &consensus, &mut rng);
            let mut measured = epoch(&mut rounds, &consensus, 7_000, start);
            moments.extend(measured.iter().map(|(_, moment)| *moment));
            measured.sort();
            assert_eq!(measured.iter().map(|(relay, _)| *relay).collect::<Vec<_>>(), [1, 2, 3, 4].map(id));
        }
        assert!(moments.iter().all(|moment| (epoch_time / 4..epoch_time).contains(moment)), "{moments:?}");
        moments.sort();
        moments.dedup();
        let (first, last) = (moments[0], moments[moments.len() - 1]);
        assert!(moments.len() == 20 && last - first > epoch_time / 2, "{moments:?}");
        let mut off = Rounds::new(None, BTreeMap::new());
        off.plan(start, &consensus, &mut rng);
        assert_eq!((off.poll_timeout(), off.most()), (None, None));
    }

    #[test]
    fn who_is_being_measured_or_is_not_listed_waits() {
        let (mut consensus, start) = consensus(&[1, 2]);
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let mut rounds = Rounds::new(Some(256), BTreeMap::new());
        rounds.plan(start, &consensus, &mut rng);
        let end = start + consensus.parameters.epoch;
        let first = rounds.poll(end, &consensus, |_| Some(50)).unwrap();
        assert!(rounds.poll(end, &consensus, |_| Some(50)).is_some());
        rounds.plan(end, &consensus, &mut rng);
        assert_eq!(rounds.poll_timeout(), None, "both are busy");
        rounds.note(first.id, 40);
        // The other one has left while it was measured; then it is forgotten.
        consensus.relays.retain(|listed| listed.id == first.id);
        rounds.plan(end, &consensus, &mut rng);
        assert!(epoch(&mut rounds, &consensus, 50, end).iter().all(|(relay, _)| *relay == first.id));
        rounds.note(if first.id == id(1) { id(2) } else { id(1) }, 7);
        rounds.plan(end, &consensus, &mut rng);
        assert_eq!(rounds.results().count(), 1);
        // One that does not run now is remembered, and not measured.
        consensus.relays.clear();
        consensus.not_running = vec![NotRunning { id: first.id, reason: "x".into() }];
        rounds.plan(end, &consensus, &mut rng);
        assert_eq!((rounds.poll_timeout(), rounds.rate(first.id)), (None, Some(96)));
    }

    #[test]
    fn a_slow_relay_is_spared_and_a_new_key_period_begins_anew() {
        let (consensus, start) = consensus(&[1]);
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let mut rounds = Rounds::new(Some(256), BTreeMap::new());
        // Three a second for ten minutes are 1 800: a hundredth of that are 18, two measurements.
        let mut count = |rounds: &mut Rounds, start| {
            (0..30)
                .map(|_| {
                    rounds.plan(start, &consensus, &mut rng);
                    epoch(rounds, &consensus, 3, start).len()
                })
                .sum::<usize>()
        };
        assert_eq!(Course::new(3, 256).packets(), 7);
        assert_eq!(count(&mut rounds, start), 2);
        let later = start + consensus.parameters.key_period;
        assert_eq!(count(&mut rounds, later), 2);
    }

    #[test]
    fn the_middle_one_of_the_last_three_counts() {
        let mut rounds = Rounds::new(Some(256), [(id(1), vec![9, 9, 9, 200, 100])].into());
        assert_eq!(rounds.rate(id(1)), Some(96));
        assert_eq!(rounds.rate(id(2)), None);
        for (result, rate) in [(0, 96), (300, 96), (0, 0), (0, 0), (128, 0), (128, 128)] {
            rounds.note(id(1), result);
            assert_eq!(rounds.rate(id(1)), Some(rate), "{result}");
        }
        assert_eq!(rounds.results().next(), Some((id(1), &[0, 128, 128][..])));
    }
}
