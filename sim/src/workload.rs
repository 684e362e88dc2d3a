//! What people do with a network.

use crate::world::uniform;
use mizzle_protocol::delay::{exponential, poisson_interval};
use mizzle_protocol::path::below;
use mizzle_protocol::time::Instant;
use rand_core::Rng;
use serde::Deserialize;
use std::collections::VecDeque;
use std::time::Duration;

/// One exchange with a server: a request goes out, an answer comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// When the application begins it.
    pub begins: Instant,
    /// Bytes of the request.
    pub up: u64,
    /// Bytes of the answer.
    pub down: u64,
    /// Which server, by number.
    pub site: u32,
    /// When the answer is there: the same again so many times at once, with answers of so many bytes.
    pub then: Option<(u32, u64)>,
}

/// Where people go, and when they are there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct People {
    /// Servers that they choose among.
    pub sites: usize,
    /// Servers that each of them has of its own, drawn once, and comes back to.
    pub favourites: usize,
    /// Share of the visits that go to one of those.
    pub favourite_share: f64,
    /// Share of the time for which each of them is there, by stays and pauses of exponential length.
    pub there: f64,
    /// How long a stay lasts in the mean.
    pub stay: Duration,
}

impl Default for People {
    /// Always there, and at home nowhere.
    fn default() -> Self {
        let stay = Duration::from_secs(1_800);
        Self { sites: 1_000, favourites: 0, favourite_share: 0.8, there: 1.0, stay }
    }
}

/// What each client does.
#[derive(Clone, Debug, PartialEq)]
pub enum Workload {
    /// Nothing.
    Nothing,
    /// Exchanges of one size at random moments.
    Poisson {
        /// So many an hour.
        per_hour: f64,
        /// Bytes of each request.
        up: u64,
        /// Bytes of each answer.
        down: u64,
    },
    /// Pages at random moments: a document, and then its parts at once. A page lasts; who reads, asks for nothing.
    Web {
        /// So many an hour.
        per_hour: f64,
        /// Bytes of the document.
        document: u64,
        /// Parts of a page.
        parts: u32,
        /// Bytes of each.
        part: u64,
    },
    /// Short messages either way, in talks with pauses between them.
    Chat {
        /// Talks an hour.
        per_hour: f64,
        /// Messages of a talk, one each ten seconds or so.
        messages: u32,
        /// Bytes of each.
        bytes: u64,
    },
    /// A large answer, and then, after a random pause, another one.
    Bulk {
        /// So many an hour.
        per_hour: f64,
        /// Bytes of each answer.
        down: u64,
    },
    /// What a trace says.
    Trace(
        /// In the order of time.
        Vec<Traced>,
    ),
}

/// An entry of a trace: `{"time": 1.5, "size": 2000, "sender": "a", "receiver": "b"}`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traced {
    /// Seconds from the start.
    pub time: f64,
    /// Bytes that go out.
    pub size: u64,
    /// Who sends; each sender is a client.
    pub sender: Name,
    /// To whom; each receiver is a server.
    pub receiver: Name,
}

/// A name in a trace: a text or a number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(untagged)]
pub enum Name {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

impl Workload {
    /// The entries of a trace, a JSON list, in the order of time.
    pub fn trace(text: &str) -> Result<Self, String> {
        let mut entries: Vec<Traced> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if let Some(entry) = entries.iter().find(|entry| !(0.0..1e9).contains(&entry.time)) {
            return Err(format!("time {} is no number of seconds from the start", entry.time));
        }
        entries.sort_by(|a, b| a.time.total_cmp(&b.time));
        Ok(Self::Trace(entries))
    }

    /// Clients that have something to do by this.
    pub fn senders(&self) -> usize {
        match self {
            Self::Trace(entries) => names(entries.iter().map(|entry| &entry.sender)).len(),
            Self::Nothing => 0,
            _ => usize::MAX,
        }
    }

    /// What the client of this number will do, from `start` on.
    pub fn plan(&self, client: usize, start: Instant, people: People, rng: &mut impl Rng) -> Plan {
        let drawn = if matches!(self, Self::Trace(_)) { Self::Nothing } else { self.clone() };
        let (favourites, stays) = (people.draw_favourites(rng), Vec::new());
        let mut plan = Plan { workload: drawn, next: VecDeque::new(), start, people, favourites, stays };
        match self {
            Self::Trace(entries) => {
                let senders = names(entries.iter().map(|entry| &entry.sender));
                let receivers = names(entries.iter().map(|entry| &entry.receiver));
                let own = entries.iter().filter(|entry| senders.get(client) == Some(&&entry.sender));
                plan.next = own
                    .map(|entry| Flow {
                        begins: start + Duration::from_secs_f64(entry.time),
                        up: entry.size,
                        down: 0,
                        site: receivers.binary_search(&&entry.receiver).unwrap_or(0) as u32,
                        then: None,
                    })
                    .collect();
            }
            Self::Nothing => {}
            _ => plan.more(start, rng),
        }
        plan
    }
}

fn names<'a>(names: impl Iterator<Item = &'a Name>) -> Vec<&'a Name> {
    let mut names: Vec<_> = names.collect();
    names.sort();
    names.dedup();
    names
}

/// What one client will do.
#[derive(Clone, Debug)]
pub struct Plan {
    workload: Workload,
    next: VecDeque<Flow>,
    start: Instant,
    people: People,
    /// Servers that it comes back to.
    favourites: Vec<u32>,
    /// When it is there, as far as that is drawn; nothing: always.
    stays: Vec<(Instant, Instant)>,
}

impl People {
    fn draw_favourites(&self, rng: &mut impl Rng) -> Vec<u32> {
        let mut favourites = Vec::new();
        while favourites.len() < self.favourites.min(self.sites) {
            let site = below(self.sites, rng).unwrap_or(0) as u32;
            if !favourites.contains(&site) {
                favourites.push(site);
            }
        }
        favourites
    }
}

impl Plan {
    /// When the next flow begins.
    pub fn begins(&self) -> Option<Instant> {
        self.next.front().map(|flow| flow.begins)
    }

    /// The next flow that has begun at `now`.
    pub fn next(&mut self, now: Instant, rng: &mut impl Rng) -> Option<Flow> {
        if self.begins().is_none_or(|begins| begins > now) {
            return None;
        }
        let flow = self.next.pop_front()?;
        if self.next.is_empty() {
            self.more(now.max(self.start), rng);
        }
        Some(flow)
    }

    /// Servers that it comes back to.
    pub fn favourites(&self) -> &[u32] {
        &self.favourites
    }

    /// When it is there, up to the stay in which its next flow begins; nothing: always.
    pub fn stays(&self) -> &[(Instant, Instant)] {
        &self.stays
    }

    /// Is it there? Until it begins, always.
    pub fn is_there(&self, now: Instant) -> bool {
        let begun = self.stays.partition_point(|(begin, _)| *begin <= now);
        let last = begun.checked_sub(1).and_then(|last| self.stays.get(last));
        now < self.start || self.stays.is_empty() || last.is_some_and(|(_, over)| now < *over)
    }

    /// The moment at which it has been there for so long, from `from` on.
    fn later(&mut self, from: Instant, time: Duration, rng: &mut impl Rng) -> Instant {
        if self.people.there >= 1.0 {
            return from + time;
        }
        let (mut at, mut left) = (from, time);
        loop {
            if let Some(&(begin, over)) = self.stays.last() {
                at = at.max(begin);
                if at + left <= over {
                    return at + left;
                }
                left = left.saturating_sub(over.since(at));
            }
            let stay = self.draw_stay(rng);
            self.stays.push(stay);
        }
    }

    /// The stay after the last one.
    fn draw_stay(&self, rng: &mut impl Rng) -> (Instant, Instant) {
        let People { there, stay, .. } = self.people;
        let pause = exponential(stay.mul_f64((1.0 - there) / there.max(1e-6)), rng);
        let begin = match self.stays.last() {
            Some((_, over)) => *over + pause,
            // At first each is as likely to be there as ever.
            None => self.start + if uniform(rng) < there { Duration::ZERO } else { pause },
        };
        (begin, begin + exponential(stay, rng))
    }

    /// The server that is visited next.
    fn draw_site(&self, rng: &mut impl Rng) -> u32 {
        let site = below(self.people.sites, rng).unwrap_or(0) as u32;
        if self.favourites.is_empty() || uniform(rng) >= self.people.favourite_share {
            return site;
        }
        let place = below(self.favourites.len(), rng);
        place.and_then(|place| self.favourites.get(place)).copied().unwrap_or(site)
    }

    /// Draws what comes after `from`.
    fn more(&mut self, from: Instant, rng: &mut impl Rng) {
        let site = self.draw_site(rng);
        let per_hour = match self.workload {
            Workload::Nothing | Workload::Trace(_) => return,
            Workload::Poisson { per_hour, .. }
            | Workload::Bulk { per_hour, .. }
            | Workload::Web { per_hour, .. }
            | Workload::Chat { per_hour, .. } => per_hour,
        };
        let pause = poisson_interval(per_hour / 3_600.0, rng);
        let mut begins = self.later(from, pause, rng);
        match self.workload {
            Workload::Nothing | Workload::Trace(_) => {}
            Workload::Poisson { up, down, .. } => {
                self.next.push_back(Flow { begins, up, down, site, then: None });
            }
            Workload::Bulk { down, .. } => {
                self.next.push_back(Flow { begins, up: REQUEST, down, site, then: None });
            }
            Workload::Web { document, parts, part, .. } => {
                let then = (parts > 0).then_some((parts, part));
                self.next.push_back(Flow { begins, up: REQUEST, down: document, site, then });
            }
            Workload::Chat { messages, bytes, .. } => {
                for _ in 0..messages.max(1) {
                    self.next.push_back(Flow { begins, up: bytes, down: bytes, site, then: None });
                    let pause = poisson_interval(0.1, rng);
                    begins = self.later(begins, pause, rng);
                }
            }
        }
    }
}

/// Bytes of a request for something to read.
pub(crate) const REQUEST: u64 = 400;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn flows(workload: &Workload, hours: u64) -> Vec<Flow> {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut plan = workload.plan(0, Instant::ZERO, People::default(), &mut rng);
        let end = Instant::ZERO + Duration::from_secs(hours * 3_600);
        let mut flows = Vec::new();
        while let Some(begins) = plan.begins().filter(|begins| *begins < end) {
            flows.extend(plan.next(begins, &mut rng));
        }
        flows
    }

    #[test]
    fn each_workload_has_its_rate() {
        let poisson = flows(&Workload::Poisson { per_hour: 60.0, up: 10, down: 20 }, 100);
        // Four standard deviations of 6 000 are 310.
        assert!(poisson.len().abs_diff(6_000) < 310, "{}", poisson.len());
        let web = flows(&Workload::Web { per_hour: 20.0, document: 5, parts: 3, part: 7 }, 100);
        assert!(web.len().abs_diff(2_000) < 180 && web[0].then == Some((3, 7)), "{}", web.len());
        let chat = flows(&Workload::Chat { per_hour: 2.0, messages: 10, bytes: 99 }, 500);
        assert!((6_000..10_500).contains(&chat.len()), "{}", chat.len());
        assert!(chat.windows(2).all(|pair| pair[0].begins <= pair[1].begins));
        assert!(flows(&Workload::Nothing, 10).is_empty());
    }

    #[test]
    fn people_come_back_to_their_favourites_and_are_there_for_their_share_of_the_time() {
        let people = People {
            sites: 500,
            favourites: 5,
            favourite_share: 0.6,
            there: 0.25,
            stay: Duration::from_secs(600),
        };
        let workload = Workload::Poisson { per_hour: 240.0, up: 10, down: 20 };
        let mut rng = ChaCha20Rng::seed_from_u64(4);
        let (mut count, mut own, mut time) = (0.0, 0.0, 0.0);
        for _ in 0..20 {
            let mut plan = workload.plan(0, Instant::ZERO, people, &mut rng);
            let end = Instant::ZERO + Duration::from_secs(100 * 3_600);
            while let Some(begins) = plan.begins().filter(|begins| *begins < end) {
                assert!(plan.is_there(begins));
                let flow = plan.next(begins, &mut rng).unwrap();
                count += 1.0;
                own += f64::from(u8::from(plan.favourites().contains(&flow.site)));
            }
            assert_eq!(plan.favourites().len(), 5);
            assert!(plan.stays().windows(2).all(|pair| pair[0].1 <= pair[1].0));
            let (from, over) = plan.stays()[1];
            assert!(plan.is_there(from) && !plan.is_there(over));
            let whole = plan.stays().iter().map(|(from, over)| over.min(&end).since(*from));
            time += whole.map(|stay| stay.as_secs_f64()).sum::<f64>() / 3_600.0;
        }
        // Of 2 000 hours; by 3 000 stays, whose four standard deviations are 37 hours.
        assert!((time - 500.0).abs() < 40.0, "{time}");
        assert!((count / time / 240.0 - 1.0).abs() < 0.02, "{count} {time}");
        // Of the others some go to them by chance.
        assert!((own / count - (0.6 + 0.4 * 5.0 / 500.0)).abs() < 0.01, "{}", own / count);
    }

    #[test]
    fn a_trace_gives_each_sender_its_own_and_says_what_is_wrong() {
        let text = r#"[
            {"time": 9, "size": 3, "sender": "b", "receiver": 7},
            {"time": 1.5, "size": 2, "sender": "a", "receiver": "x"},
            {"time": 2, "size": 1, "sender": "b", "receiver": "x"}
        ]"#;
        let trace = Workload::trace(text).unwrap();
        assert_eq!(trace.senders(), 2);
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let of = |client, rng: &mut ChaCha20Rng| {
            let mut plan = trace.plan(client, Instant::ZERO, People::default(), rng);
            let mut sizes = Vec::new();
            while let Some(flow) = plan.begins().and_then(|begins| plan.next(begins, rng)) {
                sizes.push((flow.begins.as_nanos() / 1_000_000, flow.up, flow.site));
            }
            sizes
        };
        assert_eq!(of(0, &mut rng), [(1_500, 2, 1)]);
        assert_eq!(of(1, &mut rng), [(2_000, 1, 1), (9_000, 3, 0)]);
        assert!(of(2, &mut rng).is_empty());
        assert!(Workload::trace("[{\"time\": 1}]").unwrap_err().contains("size"));
        assert!(Workload::trace(&text.replace("1.5", "-1")).unwrap_err().contains("time -1"));
    }
}
