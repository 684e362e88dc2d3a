//! Where packets may have gone, for someone who sees every link and breaks no cryptography.
//!
//! A target is one packet that enters the mixes. The observer follows it as a probability: all of it comes in with
//! the packet, each mix blends it among those that it holds, and each packet that leaves takes a share along. When
//! it has all come out, the shares are the chances that this output is the target. Entropy of packets: of those
//! shares (Serjantov and Danezis, 2002; the method of MiXiM, 2021).
//!
//! With exponential delays each of the `n` packets in a mix is equally likely to leave next, so a packet takes one
//! `n`th of everything; that is exact. With other laws those that leave are told apart by their age: each takes
//! what the law says of so old a packet, and that is an approximation, since packets that left are not
//! reconsidered.

use crate::observe::{End, Observer, Place};
use crate::packets::Packet;
use crate::roads::Law;
use mizzle_protocol::time::Instant;
use std::ops::Range;
use std::time::Duration;

/// Targets that are followed at a time.
pub const TARGETS: usize = 64;

/// A share of each target.
type Row = [f64; TARGETS];

/// Follows targets.
#[derive(Debug)]
pub struct Targets {
    law: Law,
    mean: Duration,
    /// When the next packet becomes a target.
    next: Instant,
    every: Duration,
    from: Instant,
    /// When each target came in.
    began: Vec<Instant>,
    rows: Rows,
    mixes: Vec<Contents>,
    /// Mixes that give their secrets away.
    corrupt: Vec<bool>,
    /// Clients whose packets the observer knows, being theirs; and how many of these each mix holds.
    known: Range<u32>,
    of_known: Vec<usize>,
    found: Found,
}

/// What is known of each target.
#[derive(Clone, Debug)]
pub struct Found {
    /// Bits of not knowing which output it is, as far as its shares are out.
    pub entropy: Row,
    /// The largest share that any output has.
    pub largest: Row,
    /// The shares that are out.
    pub out: Row,
    /// Shares too small to follow.
    pub lost: f64,
}

impl Found {
    /// Min-entropy of a target, in bits.
    pub fn min_entropy(&self, target: usize) -> f64 {
        self.largest.get(target).map_or(0.0, |largest| libm::log2(1.0 / largest.max(f64::MIN_POSITIVE)))
    }

    /// True if all of a target that is worth a word has come out. Of others nothing is known yet.
    pub fn is_out(&self, target: usize) -> bool {
        self.out.get(target).is_some_and(|out| *out >= OUT)
    }
}

/// Rows by number, from 1; those that are over are used again.
#[derive(Debug, Default)]
struct Rows {
    all: Vec<Row>,
    free: Vec<u32>,
}

impl Rows {
    fn add(&mut self, row: Row) -> u32 {
        match self.free.pop() {
            Some(number) => {
                if let Some(place) = self.all.get_mut(number as usize - 1) {
                    *place = row;
                }
                number
            }
            None => {
                self.all.push(row);
                self.all.len() as u32
            }
        }
    }

    fn take(&mut self, number: u32) -> Option<Row> {
        let row = self.all.get((number as usize).checked_sub(1)?)?;
        self.free.push(number);
        Some(*row)
    }
}

/// What one mix holds of the targets.
#[derive(Debug)]
struct Contents {
    /// Of all packets together.
    row: Row,
    /// False: nothing.
    any: bool,
    /// With a law that tells packets apart by their age: each of them, and how much of it is still there.
    aged: Vec<Aged>,
}

#[derive(Debug)]
struct Aged {
    came: Instant,
    here: f64,
    /// Its shares; most packets have none.
    row: Option<Box<Row>>,
}

impl Targets {
    /// Makes the next packet that a client sends at `from` a target, and another one each `every`, until there are
    /// [`TARGETS`]. Mixes whose number `corrupt` says yes to hide nothing.
    pub fn new(
        mixes: usize,
        law: Law,
        mean: Duration,
        from: Instant,
        every: Duration,
        corrupt: impl Fn(usize) -> bool,
    ) -> Self {
        let contents = || Contents { row: NOTHING, any: false, aged: Vec::new() };
        Self {
            law,
            mean,
            next: from,
            every,
            from,
            began: Vec::new(),
            rows: Rows::default(),
            mixes: (0..mixes).map(|_| contents()).collect(),
            corrupt: (0..mixes).map(corrupt).collect(),
            known: 0..0,
            of_known: vec![0; mixes],
            found: Found { entropy: NOTHING, largest: NOTHING, out: NOTHING, lost: 0.0 },
        }
    }

    /// The observer floods the network: the clients of these numbers are his, and their packets hide nothing from him.
    pub fn knowing(self, clients: Range<u32>) -> Self {
        Self { known: clients, ..self }
    }

    /// Share of so many clients that are the observer's.
    pub(crate) fn known_share(&self, clients: usize) -> f64 {
        self.known.len() as f64 / clients.max(1) as f64
    }

    /// Targets that were chosen.
    pub fn started(&self) -> usize {
        self.began.len()
    }

    /// Mixes that hide nothing.
    pub fn corrupt_count(&self) -> usize {
        self.corrupt.iter().filter(|corrupt| **corrupt).count()
    }

    /// For each target that has come out: when it came in, in seconds after the first could, and its entropy in bits.
    pub fn over_time(&self) -> Vec<(f64, f64)> {
        let out = (0..)
            .zip(self.began.iter().zip(self.found.entropy))
            .filter(|(target, _)| self.found.is_out(*target));
        out.map(|(_, (began, entropy))| (began.since(self.from).as_secs_f64(), entropy)).collect()
    }

    /// What is known so far.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// Shares of all targets that are in mixes or on links.
    pub fn inside(&self) -> f64 {
        let free: std::collections::HashSet<_> = self.rows.free.iter().collect();
        let on_links = (1..).zip(&self.rows.all).filter(|(number, _)| !free.contains(number));
        let on_links: f64 = on_links.map(|(_, row)| row.iter().sum::<f64>()).sum();
        let aged =
            |mix: &Contents| mix.aged.iter().filter_map(|aged| aged.row.as_deref()).flatten().sum::<f64>();
        on_links + self.mixes.iter().map(|mix| mix.row.iter().sum::<f64>() + aged(mix)).sum::<f64>()
    }

    /// True of a mix that hides nothing.
    pub(crate) fn is_corrupt(&self, mix: u32) -> bool {
        self.corrupt.get(mix as usize).copied().unwrap_or(true)
    }

    fn out(&mut self, packet: &mut Packet) {
        let Some(row) = self.rows.take(std::mem::take(&mut packet.mark)) else { return };
        let found = &mut self.found;
        let sums = found.entropy.iter_mut().zip(&mut found.largest).zip(&mut found.out);
        for (((entropy, largest), out), share) in sums.zip(row) {
            if share > 0.0 {
                *entropy -= share * libm::log2(share);
                *largest = largest.max(share);
                *out += share;
            }
        }
    }
}

impl Observer for Targets {
    fn sent(&mut self, now: Instant, from: Place, packet: &mut Packet) {
        let is_honest = matches!(from, Place::Client(client) if !self.known.contains(&client));
        if now < self.next || self.began.len() == TARGETS || !is_honest {
            return;
        }
        let mut row = NOTHING;
        if let Some(share) = row.get_mut(self.began.len()) {
            *share = 1.0;
        }
        packet.mark = self.rows.add(row);
        self.began.push(now);
        self.next = now + self.every;
    }

    fn comes(&mut self, now: Instant, relay: u32, _: usize, packet: &mut Packet) {
        if self.is_corrupt(relay) {
            return;
        }
        if self.known.contains(&packet.sender) {
            return self.of_known.get_mut(relay as usize).map_or((), |held| *held += 1);
        }
        let row = self.rows.take(std::mem::take(&mut packet.mark));
        let Some(mix) = self.mixes.get_mut(relay as usize) else { return };
        match self.law {
            Law::Exponential | Law::Pool { .. } => {
                if let Some(row) = row {
                    mix.any = true;
                    mix.row.iter_mut().zip(row).for_each(|(sum, share)| *sum += share);
                }
            }
            Law::Uniform | Law::Constant => {
                mix.aged.push(Aged { came: now, here: 1.0, row: row.map(Box::new) });
            }
        }
    }

    fn leaves(&mut self, now: Instant, relay: u32, held: usize, packet: &mut Packet) {
        if self.is_corrupt(relay) {
            return;
        }
        let Some(known) = self.of_known.get_mut(relay as usize) else { return };
        if self.known.contains(&packet.sender) {
            *known = known.saturating_sub(1);
            return;
        }
        let held = held.saturating_sub(*known);
        let Some(mix) = self.mixes.get_mut(relay as usize) else { return };
        let row = match self.law {
            Law::Exponential | Law::Pool { .. } if mix.any => mix.leave(held, &mut self.found.lost),
            Law::Exponential | Law::Pool { .. } => return,
            Law::Uniform | Law::Constant => mix.leave_aged(now, self.law, self.mean, &mut self.found.lost),
        };
        if let Some(row) = row {
            packet.mark = self.rows.add(row);
        }
    }

    fn waits(&mut self, _: Instant, _: u32, packet: &mut Packet) {
        self.out(packet);
    }

    fn ends(&mut self, _: Instant, end: End, packet: &mut Packet) {
        // Who looks on does not see that a loop ends at its mix: any packet that leaves it later may be this one.
        if let End::Loop(relay) = end
            && !self.is_corrupt(relay)
            && let Some(mix) = self.mixes.get_mut(relay as usize)
            && let Some(row) = self.rows.take(std::mem::take(&mut packet.mark))
        {
            mix.any = true;
            mix.row.iter_mut().zip(row).for_each(|(sum, share)| *sum += share);
            return;
        }
        self.out(packet);
    }
}

impl Contents {
    /// One of `held` packets leaves, each as likely as the others.
    fn leave(&mut self, held: usize, lost: &mut f64) -> Option<Row> {
        let mut row = self.row;
        let share = 1.0 / held.max(1) as f64;
        let mut total = 0.0;
        for (rest, out) in self.row.iter_mut().zip(&mut row) {
            *out *= share;
            *rest -= *out;
            total += *out;
        }
        if held <= 1 {
            self.any = false;
            self.row = NOTHING;
        }
        if total > SMALLEST {
            return Some(row);
        }
        // So little is left that nothing would be seen of it.
        *lost += total + self.row.iter().sum::<f64>();
        self.any = false;
        self.row = NOTHING;
        None
    }

    /// A packet leaves, and may be any of those that are still here: an old one more likely than a young one, as
    /// the law says.
    fn leave_aged(&mut self, now: Instant, law: Law, mean: Duration, lost: &mut f64) -> Option<Row> {
        let longest = 2.0 * mean.as_secs_f64();
        let weight = |aged: &Aged| {
            let age = now.since(aged.came).as_secs_f64();
            match law {
                // The chance of leaving now, of one that has stayed so long.
                Law::Uniform => aged.here / (longest - age).max(longest * 1e-6),
                _ => aged.here * if age + 1e-6 >= mean.as_secs_f64() { 1.0 } else { 0.0 },
            }
        };
        let (here, weights): (Vec<_>, Vec<_>) =
            self.aged.iter().map(|aged| (aged.here, weight(aged))).unzip();
        if weights.iter().sum::<f64>() <= 0.0 {
            return None;
        }
        let mut row = NOTHING;
        for (aged, part) in self.aged.iter_mut().zip(parts(&here, weights)) {
            // Of this packet, so much.
            let share = (part / aged.here).min(1.0);
            for (rest, out) in aged.row.iter_mut().flat_map(|row| row.iter_mut()).zip(&mut row) {
                let moved = *rest * share;
                *out += moved;
                *rest -= moved;
            }
            aged.here = (aged.here - part).max(0.0);
        }
        self.aged.retain(|aged| {
            let stays = aged.here > 1e-12;
            if !stays {
                *lost += aged.row.iter().flat_map(|row| row.iter()).sum::<f64>();
            }
            stays
        });
        let any: f64 = row.iter().sum();
        match any > SMALLEST {
            true => Some(row),
            false => {
                *lost += any;
                None
            }
        }
    }
}

/// How much of each packet the one that leaves is: one in all, by their weights, but of none more than is `here` of it.
/// Otherwise one that is nearly gone, and due, would take the place of all others.
fn parts(here: &[f64], mut weights: Vec<f64>) -> Vec<f64> {
    let mut parts = vec![0.0; here.len()];
    let mut left = 1.0;
    loop {
        let total: f64 = weights.iter().sum();
        if total <= 0.0 || left <= 0.0 {
            return parts;
        }
        let factor = left / total;
        let mut full = false;
        for ((part, weight), here) in parts.iter_mut().zip(&mut weights).zip(here) {
            if *weight > 0.0 && *weight * factor >= *here {
                full = true;
                left -= *here;
                (*part, *weight) = (*here, 0.0);
            }
        }
        if !full {
            let rest = parts.iter_mut().zip(&weights).filter(|(_, weight)| **weight > 0.0);
            rest.for_each(|(part, weight)| *part = weight * factor);
            return parts;
        }
    }
}

const NOTHING: Row = [0.0; TARGETS];
/// Shares below this are not followed: a million of them would still be below what a double can tell from one.
const SMALLEST: f64 = 1e-14;
/// A target has come out when so much of it has.
const OUT: f64 = 0.999;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_that_is_nearly_gone_does_not_take_the_place_of_others() {
        // The first is due, but only a tenth of it is left; the others share the rest by their weights.
        let found = parts(&[0.1, 0.9, 1.0, 1.0], vec![1e6, 1.0, 1.0, 1.0]);
        for (found, expected) in found.iter().zip([0.1, 0.3, 0.3, 0.3]) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
        assert!((parts(&[0.2, 0.2], vec![1.0, 3.0]).iter().sum::<f64>() - 0.4).abs() < 1e-12);
        assert_eq!(parts(&[1.0, 1.0], vec![0.0, 2.0]), [0.0, 1.0]);
    }
}
