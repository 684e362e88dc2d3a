//! Which packets met corrupt mixes only, counted and not calculated.
//!
//! Mixes that give their secrets away protect no packet that passes no other. A client that sends many packets, each over a
//! fresh path, meets such a path sooner or later: here each client's packets are taken in *batches* of so many, as they come,
//! and those batches are counted of which at least one packet met corrupt mixes only.

use crate::observe::{End, Observer, Place};
use crate::packets::Packet;
use mizzle_protocol::time::Instant;
use std::collections::{HashMap, HashSet};

/// Counts batches.
#[derive(Debug)]
pub struct Paths {
    /// Packets in a batch; zero: sees nothing.
    batch: u32,
    layers: u32,
    corrupt: Vec<bool>,
    from: Instant,
    /// Packets of batches that begin later are not looked at: they would not all come out.
    until: Instant,
    /// Packets that each client has sent.
    sent: Vec<u32>,
    /// Packets on their way, by their numbers.
    under_way: HashMap<u32, Way>,
    /// Batches with a packet that met corrupt mixes only: by client, and which of its batches.
    met: HashSet<(u32, u32)>,
}

/// What is known of a packet on its way.
#[derive(Clone, Copy, Debug)]
struct Way {
    client: u32,
    batch: u32,
    /// Corrupt mixes that it has met.
    corrupt: u32,
}

impl Paths {
    /// Batches of so many packets of each of the clients, sent from one moment to another, through so many layers of mixes, of
    /// which `corrupt` has those that give their secrets away.
    pub fn new(
        batch: u32,
        clients: usize,
        layers: usize,
        corrupt: Vec<bool>,
        (from, until): (Instant, Instant),
    ) -> Self {
        let sent = vec![0; if batch > 0 { clients } else { 0 }];
        Self {
            batch,
            layers: layers as u32,
            corrupt,
            from,
            until,
            sent,
            under_way: HashMap::new(),
            met: HashSet::new(),
        }
    }

    /// Batches all of whose packets were sent.
    pub fn batches(&self) -> u64 {
        self.sent.iter().map(|sent| u64::from(sent / self.batch.max(1))).sum()
    }

    /// Those of them with a packet that met corrupt mixes only.
    pub fn met(&self) -> u64 {
        let whole = |(client, batch): &&(u32, u32)| {
            self.sent.get(*client as usize).is_some_and(|sent| *batch < sent / self.batch.max(1))
        };
        self.met.iter().filter(whole).count() as u64
    }

    /// Packets in a batch.
    pub fn batch(&self) -> u32 {
        self.batch
    }
}

impl Observer for Paths {
    fn sent(&mut self, now: Instant, from: Place, packet: &mut Packet) {
        let Place::Client(client) = from else { return };
        let Some(sent) = self.sent.get_mut(client as usize) else { return };
        if now < self.from || now >= self.until {
            return;
        }
        let batch = *sent / self.batch;
        *sent += 1;
        self.under_way.insert(packet.number, Way { client, batch, corrupt: 0 });
    }

    fn comes(&mut self, _: Instant, relay: u32, _: usize, packet: &mut Packet) {
        if self.batch == 0 || !self.corrupt.get(relay as usize).copied().unwrap_or(false) {
            return;
        }
        if let Some(way) = self.under_way.get_mut(&packet.number) {
            way.corrupt += 1;
            if way.corrupt == self.layers {
                self.met.insert((way.client, way.batch));
            }
        }
    }

    fn ends(&mut self, _: Instant, _: End, packet: &mut Packet) {
        if self.batch > 0 {
            self.under_way.remove(&packet.number);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use crate::figures::wholly_corrupt;
    use crate::report::Report;
    use crate::run::run;
    use crate::scenario::Scenario;

    const MET: &str = "batches that met a wholly corrupt path, %";

    fn simulate(words: &[&str]) -> Report {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        run(&Scenario::load(None, &words).unwrap(), |_| ()).unwrap()
    }

    #[test]
    fn batches_meet_corrupt_paths_as_often_as_chance_says() {
        let few = [
            "packets=modelled",
            "clients.count=100",
            "network.width=10",
            "seconds=11",
            "seeds=2",
            "adversary.batch=100",
        ];
        for corrupt in [0.1, 0.3] {
            let word = format!("adversary.corrupt=[{corrupt},{corrupt},{corrupt}]");
            let met = simulate(&[&few[..], &[&word]].concat()).figure(MET).unwrap();
            let expected = wholly_corrupt(corrupt, 3, 100.0) * 100.0;
            assert!((met.theory.unwrap() - expected).abs() < 1e-9);
            // Of fourteen hundred batches: a standard deviation is 0.8 percent, and 0.7.
            assert!((met.mean - expected).abs() < 3.0, "{corrupt}: {met:?} {expected}");
        }
        // One honest layer is enough.
        let met = simulate(&[&few[..], &["adversary.corrupt=[1,0,1]"]].concat()).figure(MET).unwrap();
        assert_eq!((met.mean, met.theory), (0.0, Some(0.0)));
    }

    #[test]
    fn who_does_not_ask_for_batches_gets_no_figure_of_them() {
        assert!(simulate(&["clients.count=9", "seconds=1", "seeds=1"]).figure(MET).is_none());
    }
}
