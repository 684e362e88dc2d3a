//! Who may have sent a packet, for someone who sees every link and breaks no cryptography.
//!
//! The question of [`crate::targets`] the other way round: a packet that comes out of the mixes is followed back
//! in time. A mix that holds packets for exponential times looks the same backwards, so that a packet which left
//! is equally likely to be any of those that were there when one came. What arrives at the clients' lines are the
//! chances of each client to be the sender.

use crate::observe::{End, Observer, Place};
use crate::packets::Packet;
use crate::targets::TARGETS;
use mizzle_protocol::time::Instant;
use std::collections::{BTreeMap, HashMap};

type Row = [f64; TARGETS];

/// Remembers what every link carried, from a moment on.
#[derive(Debug)]
pub struct Senders {
    from: Instant,
    seen: Vec<Seen>,
    /// Held by each mix.
    held: Vec<u32>,
    corrupt: Vec<bool>,
    /// The last packets that exits got from clients, and who sent them.
    delivered: Vec<(u32, u32)>,
}

#[derive(Clone, Copy, Debug)]
enum Seen {
    Sent { packet: u32, sender: u32 },
    Came { packet: u32, mix: u32 },
    Left { packet: u32, mix: u32 },
}

/// What is known of who sent the packets that were followed back. Packets whose senders lie before the moment from which
/// links were seen are left out.
#[derive(Clone, Debug, Default)]
pub struct Suspects {
    /// For each packet: bits of not knowing which client sent it.
    pub entropy: Vec<f64>,
    /// The chance of the likeliest client.
    pub largest: Vec<f64>,
    /// The chance of the client that did.
    pub true_sender: Vec<f64>,
    /// ε: how much likelier or less likely, as a logarithm, the true sender is than the client with the next number. It is
    /// left out where that client cannot be the sender at all.
    pub epsilon: Vec<f64>,
    /// Packets of which it is so: there ε is infinite.
    pub apart: usize,
    /// Packets that were left out.
    pub untraced: usize,
    /// How much of all chances reached a sender; the rest lies before the moment from which links were seen.
    pub found: f64,
}

impl Senders {
    /// Remembers what is seen of so many mixes from `from` on; those that `corrupt` says yes to give their secrets away.
    pub fn new(mixes: usize, from: Instant, corrupt: impl Fn(usize) -> bool) -> Self {
        Self {
            from,
            seen: Vec::new(),
            held: vec![0; mixes],
            corrupt: (0..mixes).map(corrupt).collect(),
            delivered: Vec::new(),
        }
    }

    /// Follows the last packets back that clients sent and exits got: as many as there may be targets.
    pub fn follow_back(&self, clients: usize) -> Suspects {
        let start = self.delivered.len().saturating_sub(TARGETS);
        let followed = self.delivered.get(start..).unwrap_or_default();
        let mut rows: HashMap<u32, Row> = HashMap::new();
        for (index, (packet, _)) in followed.iter().enumerate() {
            let mut row = [0.0; TARGETS];
            if let Some(share) = row.get_mut(index) {
                *share = 1.0;
            }
            rows.insert(*packet, row);
        }
        let mut mixes = vec![([0.0; TARGETS], false); self.held.len()];
        let mut held = self.held.clone();
        let mut senders: BTreeMap<u32, Row> = BTreeMap::new();
        for seen in self.seen.iter().rev() {
            match *seen {
                Seen::Left { packet, mix } => {
                    let mix = mix as usize;
                    if let (Some(held), Some((sum, any))) = (held.get_mut(mix), mixes.get_mut(mix)) {
                        *held += 1;
                        let corrupt = self.corrupt.get(mix).copied().unwrap_or(true);
                        if let Some(row) = (!corrupt).then(|| rows.remove(&packet)).flatten() {
                            *any = true;
                            sum.iter_mut().zip(row).for_each(|(sum, share)| *sum += share);
                        }
                    }
                }
                Seen::Came { packet, mix } => {
                    let mix = mix as usize;
                    if let (Some(held), Some((sum, any))) = (held.get_mut(mix), mixes.get_mut(mix)) {
                        if *any {
                            let part = 1.0 / f64::from(*held).max(1.0);
                            let row = sum.map(|share| share * part);
                            sum.iter_mut().zip(row).for_each(|(sum, share)| *sum -= share);
                            if row.iter().sum::<f64>() > SMALLEST {
                                rows.insert(packet, row);
                            }
                        }
                        *held = held.saturating_sub(1);
                    }
                }
                Seen::Sent { packet, sender } => {
                    if let Some(row) = rows.remove(&packet) {
                        let sum = senders.entry(sender).or_insert([0.0; TARGETS]);
                        sum.iter_mut().zip(row).for_each(|(sum, share)| *sum += share);
                    }
                }
            }
        }
        judge(followed, &senders, clients)
    }
}

fn judge(followed: &[(u32, u32)], senders: &BTreeMap<u32, Row>, clients: usize) -> Suspects {
    let mut suspects = Suspects::default();
    for (index, (_, sender)) in followed.iter().enumerate() {
        let chance = |row: &Row| row.get(index).copied().unwrap_or_default();
        let found = senders.values().map(chance).sum::<f64>();
        suspects.found += found;
        // An exit's replies are among what enters the mixes, but no client sent them.
        let of_clients = || senders.iter().filter(|(sender, _)| (**sender as usize) < clients);
        let total: f64 = of_clients().map(|(_, row)| chance(row)).sum();
        if found < TRACED || total <= 0.0 {
            suspects.untraced += 1;
            continue;
        }
        let mut entropy = 0.0;
        let mut largest = 0.0f64;
        for (_, row) in of_clients() {
            let share = chance(row) / total.max(f64::MIN_POSITIVE);
            if share > 0.0 {
                entropy -= share * libm::log2(share);
                largest = largest.max(share);
            }
        }
        let truth = senders.get(sender).map(chance).unwrap_or_default() / total.max(f64::MIN_POSITIVE);
        // The client beside it, as someone with no other knowledge would pick one.
        let other = (sender + 1) % clients.max(1) as u32;
        let other = senders.get(&other).map(chance).unwrap_or_default() / total.max(f64::MIN_POSITIVE);
        suspects.entropy.push(entropy);
        suspects.largest.push(largest);
        suspects.true_sender.push(truth);
        match clients > 1 {
            true if truth > 0.0 && other > 0.0 => suspects.epsilon.push(libm::log(truth / other).abs()),
            true => suspects.apart += 1,
            // There is nobody beside it.
            false => {}
        }
    }
    suspects.found /= followed.len().max(1) as f64;
    suspects
}

impl Observer for Senders {
    fn sent(&mut self, now: Instant, _: Place, packet: &mut Packet) {
        if now >= self.from {
            self.seen.push(Seen::Sent { packet: packet.number, sender: packet.sender });
        }
    }

    fn comes(&mut self, now: Instant, relay: u32, held: usize, packet: &mut Packet) {
        if now >= self.from {
            self.seen.push(Seen::Came { packet: packet.number, mix: relay });
        }
        if let Some(known) = self.held.get_mut(relay as usize) {
            *known = held as u32 + 1;
        }
    }

    fn leaves(&mut self, now: Instant, relay: u32, held: usize, packet: &mut Packet) {
        if now >= self.from {
            self.seen.push(Seen::Left { packet: packet.number, mix: relay });
        }
        if let Some(known) = self.held.get_mut(relay as usize) {
            *known = (held as u32).saturating_sub(1);
        }
    }

    fn ends(&mut self, now: Instant, end: End, packet: &mut Packet) {
        if now >= self.from && end == End::Delivered {
            self.delivered.push((packet.number, packet.sender));
        }
    }
}

const SMALLEST: f64 = 1e-14;
/// So much of a packet's chances must have reached a sender.
const TRACED: f64 = 0.99;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_that_were_not_traced_are_left_out_and_counted() {
        let row = |chances: [f64; 4]| {
            let mut row = [0.0; TARGETS];
            row.iter_mut().zip(chances).for_each(|(place, chance)| *place = chance);
            row
        };
        // The second reached nobody, the third half of them; the fourth only him who sent it.
        let senders = BTreeMap::from([(0, row([0.25, 0.0, 0.5, 1.0])), (1, row([0.75, 0.0, 0.0, 0.0]))]);
        let found = judge(&[(7, 0), (8, 0), (9, 0), (10, 0)], &senders, 2);
        assert_eq!((found.untraced, found.apart), (2, 1));
        assert_eq!((found.largest, found.epsilon.len()), (vec![0.75, 1.0], 1));
        // Who is alone is not as likely as someone else.
        let alone = judge(&[(10, 0)], &BTreeMap::from([(0, row([1.0; 4]))]), 1);
        assert!(alone.epsilon.is_empty() && alone.apart == 0);
    }
}
