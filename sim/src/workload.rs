//! What people do with a network.

use mizzle_protocol::delay::poisson_interval;
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
    pub fn plan(&self, client: usize, start: Instant, rng: &mut impl Rng) -> Plan {
        let drawn = if matches!(self, Self::Trace(_)) { Self::Nothing } else { self.clone() };
        let mut plan = Plan { workload: drawn, next: VecDeque::new(), start };
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

    /// Draws what comes after `from`.
    fn more(&mut self, from: Instant, rng: &mut impl Rng) {
        let site = below(SITES, rng).unwrap_or(0) as u32;
        let mut after = |per_hour: f64| from + poisson_interval(per_hour / 3_600.0, rng);
        match self.workload {
            Workload::Nothing | Workload::Trace(_) => {}
            Workload::Poisson { per_hour, up, down } => {
                self.next.push_back(Flow { begins: after(per_hour), up, down, site, then: None });
            }
            Workload::Bulk { per_hour, down } => {
                self.next.push_back(Flow { begins: after(per_hour), up: REQUEST, down, site, then: None });
            }
            Workload::Web { per_hour, document, parts, part } => {
                let then = (parts > 0).then_some((parts, part));
                let begins = after(per_hour);
                self.next.push_back(Flow { begins, up: REQUEST, down: document, site, then });
            }
            Workload::Chat { per_hour, messages, bytes } => {
                let mut begins = after(per_hour);
                for _ in 0..messages.max(1) {
                    self.next.push_back(Flow { begins, up: bytes, down: bytes, site, then: None });
                    begins += poisson_interval(0.1, rng);
                }
            }
        }
    }
}

/// Servers that clients choose among.
const SITES: usize = 1_000;
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
        let mut plan = workload.plan(0, Instant::ZERO, &mut rng);
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
            let mut plan = trace.plan(client, Instant::ZERO, rng);
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
