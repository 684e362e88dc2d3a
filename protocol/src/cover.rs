//! When a client sends, and what: the outward slots.
//!
//! One Poisson process of slots, always. What a slot may carry is drawn *before* any queue is looked at: a
//! loop, a drop, or payload; and payload, when there is none, is a drop. Slots only take finished packets:
//! building takes time, and that must not show. (spec: COVER-1 to COVER-5)

use crate::delay::poisson_interval;
use crate::id::RelayId;
use crate::level::Pace;
use crate::time::Instant;
use rand_core::Rng;
use std::collections::VecDeque;
use std::time::Duration;

/// What a slot was drawn to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlotKind {
    /// Cover that comes back to its sender, who thereby sees that the network lives.
    Loop,
    /// Cover that ends at a random exit.
    Drop,
    /// A session's packet if there is one, else a drop.
    Payload,
}

/// Names a packet to the endpoint that built it, so that it learns when the packet went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// A finished packet, ready for a slot.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What it is.
    pub kind: SlotKind,
    /// Given back by [`Slots::poll`] when it leaves.
    pub token: Token,
    /// First mix.
    pub first: RelayId,
    /// Low byte of the key period.
    pub hint: u8,
    /// The Sphinx packet.
    pub packet: Vec<u8>,
}

/// Finished packets, a short queue for each kind. Short, so that what is old does not wait ahead of what is
/// urgent; never empty of cover, so that a slot always has something to send.
#[derive(Debug)]
pub struct Ring {
    room: Room,
    loops: VecDeque<Prepared>,
    drops: VecDeque<Prepared>,
    payload: VecDeque<Prepared>,
    /// At most one that must not wait behind a packet of SURBs.
    urgent: Option<Prepared>,
    /// True if an urgent one has just passed those in line: they come next.
    passed: bool,
    /// Drops from before the keys or the entry changed: still taken, by mixes too, while there are no others.
    old_drops: VecDeque<Prepared>,
}

/// How many packets of each kind are kept ready.
#[derive(Clone, Copy, Debug)]
struct Room {
    loops: usize,
    /// Every slot may fall back on a drop, so this is for how long the builder may be kept from its work: a
    /// second.
    drops: usize,
    /// Fewer drops than this are built before anything else.
    reserved: usize,
    /// Few: what is urgent must not wait behind SURBs.
    payload: usize,
}

impl Room {
    fn of(pace: Pace) -> Self {
        let reserved = ((pace.send_rate / 2.0).ceil() as usize).clamp(LEAST_RESERVED, MOST_RESERVED);
        Self {
            loops: ((pace.loops() / 5.0).ceil() as usize).clamp(4, MOST_RESERVED),
            drops: reserved * 2,
            reserved,
            payload: 1 + ((pace.send_rate / 100.0) as usize).min(MOST_PAYLOAD),
        }
    }
}

/// Drops kept in reserve at any rate, however low or high.
const LEAST_RESERVED: usize = 10;
const MOST_RESERVED: usize = 1_000;
/// Session packets kept ready at the most, beside one.
const MOST_PAYLOAD: usize = 8;

impl Ring {
    /// Nothing ready, for a client of this pace.
    pub fn new(pace: Pace) -> Self {
        Self {
            room: Room::of(pace),
            loops: VecDeque::new(),
            drops: VecDeque::new(),
            payload: VecDeque::new(),
            urgent: None,
            passed: false,
            old_drops: VecDeque::new(),
        }
    }

    /// Keeps as much ready as another pace needs.
    pub fn set_pace(&mut self, pace: Pace) {
        self.room = Room::of(pace);
    }

    /// True if another packet of this kind fits.
    pub fn has_room(&self, kind: SlotKind) -> bool {
        match kind {
            SlotKind::Loop => self.loops.len() < self.room.loops,
            SlotKind::Drop => self.drops.len() < self.room.drops,
            SlotKind::Payload => self.payload.len() < self.room.payload,
        }
    }

    /// Puts a finished packet in line. Gives it back when that line is full.
    pub fn push(&mut self, prepared: Prepared) -> Result<(), Prepared> {
        if !self.has_room(prepared.kind) {
            return Err(prepared);
        }
        self.line(prepared.kind).push_back(prepared);
        Ok(())
    }

    /// True if a packet that is urgent finds its own place; see [`Self::push_urgent`].
    pub fn has_room_for_urgent(&self) -> bool {
        self.urgent.is_none()
    }

    /// Puts a finished session packet ahead of the others, but for one that was passed already. Gives it back when one
    /// is there already.
    pub fn push_urgent(&mut self, prepared: Prepared) -> Result<(), Prepared> {
        match self.urgent {
            Some(_) => Err(prepared),
            None => {
                self.urgent = Some(prepared);
                Ok(())
            }
        }
    }

    /// True while the reserve of drops is so small that it must be filled before other packets are built.
    /// Otherwise an application that keeps the builder busy would empty it, and its load would show.
    pub fn is_low(&self) -> bool {
        self.drops.len() < self.room.reserved
    }

    /// Takes what a slot of this kind sends: its own kind, or cover in its place. `None` only if nothing at
    /// all is ready.
    pub fn take(&mut self, kind: SlotKind) -> Option<Prepared> {
        let own = match kind {
            SlotKind::Loop => self.loops.pop_front(),
            SlotKind::Drop => None,
            SlotKind::Payload => self.take_payload(),
        };
        own.or_else(|| self.drops.pop_front())
            .or_else(|| self.old_drops.pop_front())
            .or_else(|| self.loops.pop_front())
    }

    /// One in line is passed once, then it is its turn: where urgent ones follow one another without end, as in an
    /// upload, it would wait for all of them, and the stream for it.
    fn take_payload(&mut self) -> Option<Prepared> {
        if std::mem::take(&mut self.passed)
            && let Some(prepared) = self.payload.pop_front()
        {
            return Some(prepared);
        }
        let urgent = self.urgent.take();
        self.passed = urgent.is_some() && !self.payload.is_empty();
        urgent.or_else(|| self.payload.pop_front())
    }

    /// Throws everything away, but for drops, which slots need until there are new ones: keys or the entry
    /// have changed. Returns the tokens of what was lost.
    pub fn renew(&mut self) -> Vec<Token> {
        let lines = [&mut self.loops, &mut self.payload, &mut self.old_drops];
        let lost = lines.into_iter().flat_map(|line| line.drain(..)).chain(self.urgent.take());
        let lost = lost.map(|prepared| prepared.token).collect();
        std::mem::swap(&mut self.drops, &mut self.old_drops);
        lost
    }

    /// Throws away the drops from before the last change, once there are enough new ones. Returns their
    /// tokens.
    pub fn retire(&mut self) -> Vec<Token> {
        if self.is_low() {
            return Vec::new();
        }
        self.old_drops.drain(..).map(|prepared| prepared.token).collect()
    }

    /// Throws everything away. Returns the tokens of what was lost.
    pub fn clear(&mut self) -> Vec<Token> {
        let mut lost = self.renew();
        lost.extend(self.old_drops.drain(..).map(|prepared| prepared.token));
        lost
    }

    fn line(&mut self, kind: SlotKind) -> &mut VecDeque<Prepared> {
        match kind {
            SlotKind::Loop => &mut self.loops,
            SlotKind::Drop => &mut self.drops,
            SlotKind::Payload => &mut self.payload,
        }
    }
}

/// A process that stood still for longer than this (sleep, a stopped process) starts anew instead of
/// sending all the slots that it missed.
pub const CATCH_UP: Duration = Duration::from_millis(250);

/// A Poisson process of moments: a client's outward slots, an entry's slots toward a client, a service's
/// replies. Moments are drawn from one another, not from when the driver came round to asking.
#[derive(Clone, Debug)]
pub struct Ticks {
    rate: f64,
    next: Instant,
}

impl Ticks {
    /// A process of `rate` per second that starts at `now`.
    pub fn new(rate: f64, now: Instant, rng: &mut impl Rng) -> Self {
        Self { rate, next: now + poisson_interval(rate, rng) }
    }

    /// When the next moment is.
    pub fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// True once for each moment that has come.
    pub fn poll(&mut self, now: Instant, rng: &mut impl Rng) -> bool {
        if now < self.next {
            return false;
        }
        let from = if now.since(self.next) > CATCH_UP { now } else { self.next };
        self.next = from + poisson_interval(self.rate, rng);
        true
    }

    /// The rate.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Goes on at another rate: the law has no memory, so the next moment is simply drawn anew.
    pub fn set_rate(&mut self, rate: f64, now: Instant, rng: &mut impl Rng) {
        *self = Self::new(rate, now, rng);
    }
}

/// The outward slots of a client.
#[derive(Clone, Debug)]
pub struct Slots {
    ticks: Ticks,
    pace: Pace,
}

impl Slots {
    /// Slots at these rates.
    pub fn new(pace: Pace, now: Instant, rng: &mut impl Rng) -> Self {
        Self { ticks: Ticks::new(pace.send_rate, now, rng), pace }
    }

    /// The rates.
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// Goes on at other rates.
    pub fn set_pace(&mut self, pace: Pace, now: Instant, rng: &mut impl Rng) {
        if self.pace.send_rate != pace.send_rate {
            self.ticks.set_rate(pace.send_rate, now, rng);
        }
        self.pace = pace;
    }

    /// When the next slot is.
    pub fn poll_timeout(&self) -> Instant {
        self.ticks.poll_timeout()
    }

    /// The kind of the slot that has come, if one has. Drawn without a look at any queue.
    pub fn poll(&mut self, now: Instant, rng: &mut impl Rng) -> Option<SlotKind> {
        self.ticks.poll(now, rng).then(|| {
            let draw = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            if draw < self.pace.loop_share {
                SlotKind::Loop
            } else if draw < self.pace.loop_share + self.pace.drop_share {
                SlotKind::Drop
            } else {
                SlotKind::Payload
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    const PACE: Pace = Pace { send_rate: 50.0, receive_rate: 300.0, loop_share: 0.1, drop_share: 0.2 };

    fn prepared(kind: SlotKind, token: u64) -> Prepared {
        Prepared { kind, token: Token(token), first: RelayId([0; 32]), hint: 0, packet: Vec::new() }
    }

    #[test]
    fn slots_come_at_the_rate_and_in_the_shares() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut slots = Slots::new(PACE, Instant::ZERO, &mut rng);
        let mut counts = [0u32; 3];
        while slots.poll_timeout() < Instant::ZERO + Duration::from_secs(400) {
            let now = slots.poll_timeout();
            match slots.poll(now, &mut rng) {
                Some(SlotKind::Loop) => counts[0] += 1,
                Some(SlotKind::Drop) => counts[1] += 1,
                Some(SlotKind::Payload) => counts[2] += 1,
                None => panic!("a slot was due"),
            }
        }
        // 20 000 expected; four standard deviations are 566, 179, 253.
        let total: u32 = counts.iter().sum();
        assert!(total.abs_diff(20_000) < 566, "{total}");
        assert!(counts[0].abs_diff(2_000) < 179 && counts[1].abs_diff(4_000) < 253, "{counts:?}");
    }

    #[test]
    fn an_empty_payload_line_sends_a_drop_and_a_full_one_gives_back() {
        let mut ring = Ring::new(PACE);
        ring.push(prepared(SlotKind::Drop, 1)).unwrap();
        assert_eq!(ring.take(SlotKind::Payload).unwrap().token, Token(1));
        assert!(ring.take(SlotKind::Payload).is_none());
        for token in 0..ring.room.payload as u64 {
            ring.push(prepared(SlotKind::Payload, token)).unwrap();
        }
        assert_eq!(ring.push(prepared(SlotKind::Payload, 9)).unwrap_err().token, Token(9));
        assert_eq!(ring.take(SlotKind::Payload).unwrap().token, Token(0));
        ring.push(prepared(SlotKind::Payload, 5)).unwrap();
        ring.push_urgent(prepared(SlotKind::Payload, 6)).unwrap();
        assert!(!ring.has_room_for_urgent());
        assert_eq!(ring.push_urgent(prepared(SlotKind::Payload, 7)).unwrap_err().token, Token(7));
        assert_eq!(ring.take(SlotKind::Payload).unwrap().token, Token(6));
        assert_eq!(ring.clear(), vec![Token(5)]);
    }

    #[test]
    fn urgent_packets_without_end_pass_what_is_in_line_once() {
        let mut ring = Ring::new(PACE);
        ring.push(prepared(SlotKind::Payload, 0)).unwrap();
        let mut taken = Vec::new();
        for token in 1..=4 {
            ring.push_urgent(prepared(SlotKind::Payload, token)).unwrap();
            taken.extend(ring.take(SlotKind::Payload).map(|prepared| prepared.token.0));
            if !ring.has_room_for_urgent() {
                taken.extend(ring.take(SlotKind::Payload).map(|prepared| prepared.token.0));
            }
        }
        assert_eq!(taken, [1, 0, 2, 3, 4]);
    }

    #[test]
    fn a_faster_client_keeps_more_in_reserve() {
        let mut ring = Ring::new(PACE);
        for token in 0..25 {
            ring.push(prepared(SlotKind::Drop, token)).unwrap();
        }
        assert!(!ring.is_low());
        ring.set_pace(Pace { send_rate: 320.0, ..PACE });
        assert!(ring.is_low());
        for token in 25..160 {
            ring.push(prepared(SlotKind::Drop, token)).unwrap();
        }
        assert!(!ring.is_low() && ring.has_room(SlotKind::Drop));
    }

    #[test]
    fn slots_fall_back_on_any_cover_before_they_send_nothing() {
        let mut ring = Ring::new(PACE);
        let reserved = ring.room.reserved;
        assert!(ring.is_low());
        for token in 0..reserved as u64 {
            ring.push(prepared(SlotKind::Drop, token)).unwrap();
        }
        ring.push(prepared(SlotKind::Loop, 100)).unwrap();
        ring.push(prepared(SlotKind::Payload, 101)).unwrap();
        assert!(!ring.is_low());
        // New keys: what leads home is lost, the drops go on until there are new ones.
        assert_eq!(ring.renew(), vec![Token(100), Token(101)]);
        assert!(ring.is_low() && ring.retire().is_empty());
        assert_eq!(ring.take(SlotKind::Payload).unwrap().token, Token(0));
        ring.push(prepared(SlotKind::Drop, 200)).unwrap();
        assert_eq!(ring.take(SlotKind::Loop).unwrap().token, Token(200));
        for token in 0..reserved as u64 {
            ring.push(prepared(SlotKind::Drop, 300 + token)).unwrap();
        }
        assert_eq!(ring.retire().len(), reserved - 1);
        while ring.take(SlotKind::Drop).is_some() {}
        ring.push(prepared(SlotKind::Loop, 400)).unwrap();
        assert_eq!(ring.take(SlotKind::Drop).unwrap().token, Token(400));
    }

    #[test]
    fn a_slot_of_another_kind_takes_nothing_of_a_session() {
        let mut ring = Ring::new(PACE);
        ring.push(prepared(SlotKind::Payload, 1)).unwrap();
        ring.push_urgent(prepared(SlotKind::Payload, 2)).unwrap();
        for token in 10..14 {
            ring.push(prepared(SlotKind::Drop, token)).unwrap();
        }
        for kind in [SlotKind::Drop, SlotKind::Loop, SlotKind::Drop, SlotKind::Loop] {
            assert!(ring.take(kind).unwrap().token.0 >= 10);
        }
        // Rather nothing, which the slot fills.
        assert!(ring.take(SlotKind::Drop).is_none() && ring.take(SlotKind::Loop).is_none());
        assert_eq!(ring.take(SlotKind::Payload).unwrap().token, Token(2));
    }

    #[test]
    fn a_short_halt_is_caught_up_with_and_a_longer_one_is_not() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        for (halt, catches_up) in [(240, true), (260, false), (2_000, false)] {
            for _ in 0..100 {
                let mut ticks = Ticks::new(1_000.0, Instant::ZERO, &mut rng);
                let now = ticks.poll_timeout() + Duration::from_millis(halt);
                assert!(ticks.poll(now, &mut rng));
                assert_eq!(ticks.poll_timeout() <= now, catches_up, "{halt} ms");
            }
        }
    }

    #[test]
    fn a_process_that_slept_does_not_send_what_it_missed() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let mut ticks = Ticks::new(50.0, Instant::ZERO, &mut rng);
        let now = Instant::ZERO + Duration::from_secs(3_600);
        assert!(ticks.poll(now, &mut rng));
        assert!(ticks.poll_timeout() > now);
    }
}
