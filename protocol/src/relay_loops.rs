//! A relay's own loops, and the alarm that it raises when they do not come home.
//!
//! Who wants to know where one packet goes can keep all others away from its mix until the mix is empty, and then
//! let it in alone: the n−1 attack (Serjantov, Dingledine and Syverson, 2002). The mix looks at its own traffic
//! instead of its neighbours' word: at moments of a Poisson process it sends packets that come back to it, which no mix on
//! the way can tell from others, and who keeps the others away keeps these away, too (Danezis and Sassaman, 2003).
//!
//! One lost loop says nothing. The alarm is a cumulative sum (Page, 1954) over the loops' fates, of how much more likely each
//! is if a fifth of them are taken away than if a fiftieth get lost. A relay that has died takes the loops with it that pass it;
//! that is no attack on us, so what is lost on a way by a relay from which nothing comes while others' loops come
//! home is not held against anyone. Whoever keeps *all* packets away has no such excuse. (spec: LOOP-1 to LOOP-6)

use crate::Result;
use crate::delay::poisson_interval;
use crate::geometry::{Geometry, LAYERS};
use crate::id::{RelayId, ReplyId};
use crate::path::Topology;
use crate::sphinx::{Hop, PacketFormat};
use crate::time::Instant;
use rand_core::{CryptoRng, Rng};
use std::collections::VecDeque;
use std::time::Duration;

/// Loops a second that a relay sends (λ_M).
pub const RATE: f64 = 2.0;

/// The loops of one relay. Nothing here grows beyond what the rate sends within [`patience`].
#[derive(Debug)]
pub struct RelayLoops {
    me: RelayId,
    rate: f64,
    /// When the next one is sent.
    next: Instant,
    /// Those on their way, the oldest first.
    away: VecDeque<Away>,
    /// What became of the last ones.
    past: VecDeque<Past>,
    /// The cumulative sum.
    suspicion: f64,
    status: Status,
}

/// How a relay's loops do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Loops that were sent.
    pub sent: u64,
    /// Those of them that came home in time.
    pub home: u64,
    /// Those that did not.
    pub lost: u64,
    /// True while so many are missing that somebody may keep packets away from this relay.
    pub alarm: bool,
}

/// A loop that is to leave now.
#[derive(Clone, Debug)]
pub struct Due {
    /// The relay that it goes to.
    pub first: RelayId,
    /// Low byte of the key period.
    pub hint: u8,
    /// What it shows when it comes home.
    pub reply: ReplyId,
    hops: Vec<Hop>,
    geometry: Geometry,
}

impl Due {
    /// Writes its packet into `out`. An error is one of the format, which should not happen.
    pub fn build<F: PacketFormat>(&self, rng: &mut impl CryptoRng, out: &mut Vec<u8>) -> Result<()> {
        F::build(self.geometry, &self.hops, self.reply, &[], rng, out)
    }
}

#[derive(Debug)]
struct Away {
    reply: ReplyId,
    /// It counts as lost from then on.
    until: Instant,
    by: Vec<RelayId>,
}

#[derive(Debug)]
struct Past {
    home: bool,
    by: Vec<RelayId>,
}

/// How long a loop may take, with delays of at most `longest` each: what comes later is lost.
pub fn patience(longest: Duration) -> Duration {
    longest * LAYERS as u32 + SLACK
}

impl RelayLoops {
    /// The loops of relay `me`, `rate` a second from `now` on: none at all, if that is zero.
    pub fn new(me: RelayId, rate: f64, now: Instant, rng: &mut impl Rng) -> Self {
        Self {
            me,
            rate,
            next: now + poisson_interval(rate, rng),
            away: VecDeque::new(),
            past: VecDeque::new(),
            suspicion: 0.0,
            status: Status::default(),
        }
    }

    /// When [`Self::poll`] has something to do; `None`: never.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (self.rate > 0.0).then_some(self.next)
    }

    /// Judges the loops whose time is over, and draws the one that is due, if one is: the caller builds and sends it, or says that it is
    /// [`Self::unsent`]. To be called again until there is none.
    ///
    /// Without a topology, or where the relay has no place in it, none is drawn.
    pub fn poll(
        &mut self,
        now: Instant,
        topology: Option<&Topology>,
        rng: &mut impl CryptoRng,
    ) -> Option<Due> {
        if self.poll_timeout().is_none_or(|next| next > now) {
            self.give_up(now);
            return None;
        }
        if now.since(self.next) > STANDSTILL {
            // We stood still, and took nothing in: that says nothing about the loops that came meanwhile.
            self.away.clear();
            self.next = now + poisson_interval(self.rate, rng);
            return None;
        }
        self.give_up(now);
        self.next += poisson_interval(self.rate, rng);
        let topology = topology?;
        let route = topology.relay_loop(self.me, rng).ok()?;
        let first = route.first()?;
        let mut reply = [0; ReplyId::SIZE];
        rng.fill_bytes(&mut reply);
        let reply = ReplyId(reply);
        let until = now + patience(topology.parameters.max_delay);
        let others = route.hops.iter().map(|hop| RelayId(hop.address)).filter(|&id| id != self.me);
        self.away.push_back(Away { reply, until, by: others.collect() });
        self.status.sent += 1;
        let (hint, geometry) = (topology.period.hint(), topology.parameters.geometry);
        Some(Due { first, hint, reply, hops: route.hops, geometry })
    }

    /// A packet with this reply id ended here. False: it is no loop of ours, or one that is too late.
    pub fn come_home(&mut self, now: Instant, reply: ReplyId) -> bool {
        self.give_up(now);
        let Some(place) = self.away.iter().position(|away| away.reply == reply) else { return false };
        if let Some(away) = self.away.remove(place) {
            self.status.home += 1;
            self.judge(true, away.by);
        }
        true
    }

    /// The loop with this reply id was not sent: we are not allowed so much, or the network has changed.
    pub fn unsent(&mut self, reply: ReplyId) {
        let before = self.away.len();
        self.away.retain(|away| away.reply != reply);
        self.status.sent -= (before - self.away.len()) as u64;
    }

    /// How they do.
    pub fn status(&self) -> Status {
        self.status
    }

    fn give_up(&mut self, now: Instant) {
        while self.away.front().is_some_and(|away| away.until <= now) {
            if let Some(away) = self.away.pop_front() {
                self.status.lost += 1;
                self.judge(false, away.by);
            }
        }
    }

    fn judge(&mut self, home: bool, by: Vec<RelayId>) {
        // Until the first one has come home, links are being made, here and elsewhere.
        let begun = self.status.home > 0;
        self.past.push_back(Past { home, by });
        if self.past.len() > REMEMBERED {
            self.past.pop_front();
        }
        let weight = match home {
            true => libm::log((1.0 - TAKEN) / (1.0 - HONEST)),
            false if !begun || self.is_explained() => 0.0,
            false => libm::log(TAKEN / HONEST),
        };
        self.suspicion = (self.suspicion + weight).clamp(0.0, ALARM);
        match self.suspicion {
            sum if sum >= ALARM => self.status.alarm = true,
            sum if sum <= 0.0 => self.status.alarm = false,
            _ => {}
        }
    }

    /// True if a relay on the way of the last loop has let none of several pass, while most that did not pass it came home
    /// in the same time.
    fn is_explained(&self) -> bool {
        let Some(last) = self.past.back() else { return false };
        last.by.iter().any(|relay| {
            let (mut silent, mut others, mut home) = (0, 0, 0);
            for past in self.past.iter().rev() {
                match past.by.contains(relay) {
                    true if past.home => return false,
                    true => silent += 1,
                    false => {
                        others += 1;
                        home += usize::from(past.home);
                    }
                }
                if silent >= SILENT && others >= SILENT {
                    return home * 2 > others;
                }
            }
            false
        })
    }
}

/// Beyond the longest delays: for links, queues and the work of relays.
const SLACK: Duration = Duration::from_secs(2);
/// Who is this late stood still.
const STANDSTILL: Duration = Duration::from_secs(2);
/// Share of loops that get lost in an honest network.
const HONEST: f64 = 0.02;
/// Share that an attack worth an alarm takes. Between the two, at 0.081, the sum neither grows nor shrinks.
const TAKEN: f64 = 0.2;
/// The sum at which the alarm is on: with [`HONEST`] losses, that happens less than once in e^16 loops, 51 days at [`RATE`].
const ALARM: f64 = 16.0;
/// Loops whose fates are remembered.
const REMEMBERED: usize = 64;
/// Loops by one relay, all lost, by which it is taken for dead; and as many by others, to compare them with.
const SILENT: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Period;
    use crate::mix::{Action, LivePeriod, Mix, Neighbours, ReplayFilter, Source};
    use crate::path::{ExitNode, MixNode, Parameters};
    use crate::sphinx::{SecretKey, Sphinx};
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    struct Forgets;

    impl ReplayFilter for Forgets {
        fn insert(&self, _: Period, _: crate::id::ReplayTag) -> Result<()> {
            Ok(())
        }
    }

    fn id(number: usize) -> RelayId {
        RelayId([number as u8 + 1; 32])
    }

    /// Three mixes a layer, then three entries, then three exits; all with one key.
    fn network(rng: &mut ChaCha20Rng) -> (SecretKey, Topology) {
        let key = SecretKey::generate(rng);
        let node = |number: usize| MixNode { id: id(number), key: key.public() };
        let layer = |layer: usize| (0..3).map(|mix| node(layer * 3 + mix)).collect();
        let exit = |number| ExitNode { node: node(number), service_key: None, country: None };
        let topology = Topology {
            parameters: Parameters::default(),
            period: Period(4),
            layers: [layer(0), layer(1), layer(2)],
            entries: (9..12).map(node).collect(),
            exits: (12..15).map(exit).collect(),
        };
        (key, topology)
    }

    #[test]
    fn a_loop_of_every_relay_goes_along_edges_by_each_layer_once_and_ends_at_home() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let (key, topology) = network(&mut rng);
        let mixes: Vec<_> = (0..15)
            .map(|number| {
                let neighbours = Neighbours::new(&topology, id(number));
                Mix::new(
                    topology.parameters.geometry,
                    topology.parameters.max_delay,
                    vec![LivePeriod { key: key.clone(), neighbours }],
                )
            })
            .collect();
        for me in 0..15 {
            let mut loops = RelayLoops::new(id(me), 10.0, Instant::ZERO, &mut rng);
            let mut packet = Vec::new();
            let now = loops.poll_timeout().unwrap();
            let sent = loops.poll(now, Some(&topology), &mut rng).unwrap();
            sent.build::<Sphinx>(&mut rng, &mut packet).unwrap();
            let (mut from, mut here, mut layers) = (id(me), sent.first, Vec::new());
            let reply = loop {
                let number = here.0[0] as usize - 1;
                layers.extend((number < 9).then_some(number / 3));
                match mixes[number]
                    .process(now, Source::Relay(from), sent.hint, &mut packet, &Forgets)
                    .unwrap()
                {
                    Action::Forward { next, .. } => (from, here) = (here, next),
                    Action::Deliver { reply, .. } => break reply,
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!((here, reply), (id(me), sent.reply));
            layers.sort_unstable();
            assert_eq!(layers, [0, 1, 2], "relay {me}");
            assert!(loops.come_home(now, reply));
            assert!(!loops.come_home(now, reply), "it comes home once");
        }
    }

    /// Runs loops of the first mix for so many seconds; `is_lost` says which do not come home, by the relays on their way.
    fn run(
        loops: &mut RelayLoops,
        from: Instant,
        seconds: u64,
        rng: &mut ChaCha20Rng,
        mut is_lost: impl FnMut(&[RelayId], &mut ChaCha20Rng) -> bool,
    ) -> Option<Duration> {
        let (_, topology) = network(&mut ChaCha20Rng::seed_from_u64(7));
        let end = from + Duration::from_secs(seconds);
        while let Some(now) = loops.poll_timeout().filter(|&next| next < end) {
            while let Some(sent) = loops.poll(now, Some(&topology), rng) {
                let by = loops.away.back().unwrap().by.clone();
                if !is_lost(&by, rng) {
                    assert!(loops.come_home(now + Duration::from_millis(5), sent.reply));
                }
            }
            if loops.status().alarm {
                return Some(now.since(from));
            }
        }
        None
    }

    fn chance(rng: &mut ChaCha20Rng, share: f64) -> bool {
        (rng.next_u64() >> 11) as f64 / ((1u64 << 53) as f64) < share
    }

    #[test]
    fn who_keeps_all_packets_away_raises_the_alarm_in_seconds_and_it_goes_again() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let mut loops = RelayLoops::new(id(0), RATE, Instant::ZERO, &mut rng);
        let calm = Instant::ZERO + Duration::from_secs(60);
        assert_eq!(run(&mut loops, Instant::ZERO, 60, &mut rng, |_, _| false), None);
        let after = run(&mut loops, calm, 60, &mut rng, |_, _| true).unwrap();
        let least = patience(Parameters::default().max_delay);
        assert!(after > least && after < least + Duration::from_secs(12), "{after:?}");
        let again = calm + after;
        let mut quiet = None;
        for second in 0..120 {
            run(&mut loops, again + Duration::from_secs(second), 1, &mut rng, |_, _| false);
            if !loops.status().alarm {
                quiet = Some(second);
                break;
            }
        }
        assert!(quiet.is_some_and(|seconds| seconds > 10), "{quiet:?}");
    }

    #[test]
    fn a_third_of_the_loops_taken_is_noticed_and_honest_losses_are_not() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let mut loops = RelayLoops::new(id(0), RATE, Instant::ZERO, &mut rng);
        // Two hours.
        let honest = run(&mut loops, Instant::ZERO, 7_200, &mut rng, |_, rng| chance(rng, 0.02));
        assert_eq!(honest, None);
        let from = Instant::ZERO + Duration::from_secs(7_200);
        let after = run(&mut loops, from, 120, &mut rng, |_, rng| chance(rng, 0.33));
        assert!(after.is_some_and(|after| after < Duration::from_secs(60)), "{after:?}");
    }

    #[test]
    fn a_dead_relay_on_the_way_is_no_attack() {
        let mut rng = ChaCha20Rng::seed_from_u64(4);
        let mut loops = RelayLoops::new(id(0), RATE, Instant::ZERO, &mut rng);
        run(&mut loops, Instant::ZERO, 60, &mut rng, |_, _| false);
        let from = Instant::ZERO + Duration::from_secs(60);
        let after = run(&mut loops, from, 3_600, &mut rng, |by, _| by.contains(&id(4)));
        assert_eq!(after, None);
        assert!(loops.status().lost > 2_000);
    }

    #[test]
    fn what_says_nothing_about_attacks_raises_no_alarm() {
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        let (_, topology) = network(&mut rng);
        // None has come home yet: links are being made.
        let mut loops = RelayLoops::new(id(0), RATE, Instant::ZERO, &mut rng);
        assert_eq!(run(&mut loops, Instant::ZERO, 60, &mut rng, |_, _| true), None);
        // The machine slept while loops were away.
        let mut loops = RelayLoops::new(id(0), RATE, Instant::ZERO, &mut rng);
        assert_eq!(run(&mut loops, Instant::ZERO, 60, &mut rng, |_, _| false), None);
        let later = Instant::ZERO + Duration::from_secs(62);
        run(&mut loops, Instant::ZERO + Duration::from_secs(60), 2, &mut rng, |_, _| true);
        let lost = loops.status().lost;
        let awake = later + Duration::from_secs(100);
        assert!(loops.poll(awake, Some(&topology), &mut rng).is_none());
        assert_eq!((loops.away.len(), loops.status().lost), (0, lost));
        // It was beyond our own limit.
        let due = loops.poll_timeout().unwrap();
        let sent = loops.poll(due, Some(&topology), &mut rng).unwrap();
        let before = loops.status().sent;
        loops.unsent(sent.reply);
        assert_eq!((loops.away.len(), loops.status().sent), (0, before - 1));
        // No network, no rate.
        let due = loops.poll_timeout().unwrap();
        assert!(loops.poll(due, None, &mut rng).is_none());
        assert_eq!(RelayLoops::new(id(0), 0.0, Instant::ZERO, &mut rng).poll_timeout(), None);
    }
}
