//! Authorities in virtual time: the machines that the daemons run, over links that lose and reorder, with some that
//! lie, die and come back.
//!
//! What is watched for: two documents of one number that both could have signatures enough; an honest authority
//! that says two things where it may say one; a proof against one that is honest; a document with a relay that
//! does not exist; and that documents come as long as no more than f are merely dead.

mod campaign;
mod liar;
mod relays;

pub use campaign::Campaign;
pub use liar::{LIES, Lie};

use crate::queue::Queue;
use ed25519_dalek::{Signer as _, SigningKey};
use liar::Liar;
use mizzle_council::wire::{Message, Said};
use mizzle_council::{
    Council, Height, MAX_SEATS, METHODS, Opinion, Output, Published, Restored, Rules, Seat, Seats, Setup,
};
use mizzle_protocol::consensus::{DocumentHash, ProtocolNumber};
use mizzle_protocol::id::AuthorityId;
use mizzle_protocol::path::Parameters;
use mizzle_protocol::time::{Instant, UnixTime};
use mizzle_protocol::{Error, ErrorKind, Result};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use relays::Relays;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What a trial is like.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// Authorities.
    pub authorities: usize,
    /// Where all randomness comes from.
    pub seed: u64,
    /// Documents that are waited for.
    pub documents: u64,
    /// What f of the authorities are; drawn anew for each, if `None`.
    pub lie: Option<Lie>,
    /// Share of messages that are lost.
    pub loss: f64,
    /// How often an honest authority is killed and started again, in the mean; 0 for never.
    pub restarts: f64,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What must never be: a sentence each.
    pub broken: Vec<String>,
    /// Documents that came while they were due.
    pub timely: u64,
    /// Documents that were due.
    pub due: u64,
    /// Longest time from an epoch's beginning until half of the honest authorities had its document.
    pub slowest: Duration,
    /// Liars that someone has a proof against.
    pub proven: usize,
    /// Times that an honest authority was killed.
    pub killed: u64,
    /// Messages that were sent.
    pub messages: u64,
}

impl Trial {
    /// Runs it. Errors as [`Self::check`], and those for which an honest authority would stop.
    pub fn run(&self) -> Result<Outcome> {
        self.check()?;
        Hall::new(self)?.run()
    }

    /// [`ErrorKind::Misuse`] if it is of nothing, or of shares that are none.
    pub fn check(&self) -> Result<()> {
        let refuse = |message: &'static str| Err(Error::new(ErrorKind::Misuse, message));
        if !(1..=MAX_SEATS).contains(&self.authorities) {
            return refuse("a network has 1 to 64 authorities");
        }
        if !(1..=MOST_DOCUMENTS).contains(&self.documents) {
            return refuse("a trial has 1 to 1000 documents");
        }
        if !(0.0..1.0).contains(&self.loss) {
            return refuse("the share of messages that are lost is at least 0 and less than 1");
        }
        if !(0.0..=100.0).contains(&self.restarts) {
            return refuse("an authority is killed 0 to 100 times in the mean");
        }
        Ok(())
    }
}

/// What happens.
#[derive(Debug)]
enum Event {
    /// A message arrives.
    Arrive { to: usize, from: usize, bytes: Vec<u8> },
    /// A machine wanted to be woken.
    Wake(usize),
    /// A process is killed.
    Kill(usize),
    /// And started again.
    Start(usize),
}

/// An authority's process and its disk.
struct Member {
    key: SigningKey,
    council: Option<Council>,
    published: Option<Published>,
    log: Vec<Vec<u8>>,
    liar: Option<Liar>,
    /// How far its clock is ahead, in nanoseconds; behind if negative.
    skew: i64,
    woken: Instant,
}

struct Hall {
    trial: Trial,
    seats: Seats,
    members: Vec<Member>,
    relays: Relays,
    queue: Queue<Event>,
    now: Instant,
    rng: ChaCha20Rng,
    watch: Watch,
    outcome: Outcome,
}

/// All that honest ones have said, to see that they say one thing.
#[derive(Default)]
struct Watch {
    /// Who signed which document.
    signatures: BTreeMap<(Height, DocumentHash), BTreeSet<usize>>,
    /// Documents that someone honest has published, and when.
    published: BTreeMap<Height, (DocumentHash, Vec<Instant>)>,
    /// What was said in each place, by its digest.
    said: BTreeMap<(usize, Height, u64, u8), Vec<u8>>,
    /// When the first honest one began a document.
    begun: BTreeMap<Height, Instant>,
    proven: BTreeSet<usize>,
}

impl Hall {
    fn new(trial: &Trial) -> Result<Self> {
        let mut rng = ChaCha20Rng::seed_from_u64(trial.seed);
        let mut keys: Vec<_> = (0..trial.authorities)
            .map(|number| {
                let mut seed = [number as u8; 32];
                rng.fill_bytes(&mut seed);
                SigningKey::from_bytes(&seed)
            })
            .collect();
        keys.sort_by_key(|key| key.verifying_key().to_bytes());
        let ids: Vec<_> = keys.iter().map(|key| AuthorityId(key.verifying_key().to_bytes())).collect();
        let seats = Seats::new(NETWORK, &ids)?;
        let faulty = seats.faulty();
        let mut order: Vec<usize> = (0..trial.authorities).collect();
        for last in (1..order.len()).rev() {
            order.swap(last, below(&mut rng, last as u64 + 1) as usize);
        }
        let liars: BTreeSet<usize> = order.into_iter().take(faulty).collect();
        let members = keys.into_iter().enumerate().map(|(number, key)| {
            let lie = trial.lie.unwrap_or_else(|| LIES[below(&mut rng, LIES.len() as u64) as usize]);
            let liar = liars.contains(&number).then(|| Liar::new(lie, key.clone(), Seat(number as u8)));
            // Up to a second and a half apart.
            let skew = below(&mut rng, 1_500_000_000) as i64 - 750_000_000;
            Member { key, council: None, published: None, log: Vec::new(), liar, skew, woken: Instant::ZERO }
        });
        Ok(Self {
            trial: *trial,
            members: members.collect(),
            seats,
            relays: Relays::new(START),
            queue: Queue::new(START.instant()),
            now: START.instant(),
            rng,
            watch: Watch::default(),
            outcome: Outcome::default(),
        })
    }

    fn run(mut self) -> Result<Outcome> {
        let epoch = Parameters::local().epoch;
        for member in 0..self.members.len() {
            // They are started within two seconds.
            let at = self.now + Duration::from_millis(below(&mut self.rng, 2_000));
            self.queue.push(at, Event::Start(member));
        }
        let last = Height(self.trial.documents - 1);
        let end = self.now + epoch * (3 * self.trial.documents as u32 + 10);
        if self.trial.restarts > 0.0 {
            let span = epoch * self.trial.documents as u32;
            for member in 0..self.members.len() {
                let mut at = self.now;
                loop {
                    let mean = span.as_secs_f64() / self.trial.restarts;
                    at += Duration::from_secs_f64(-mean * libm::log(1.0 - unit(&mut self.rng)));
                    if at > self.now + span || self.members[member].liar.is_some() {
                        break;
                    }
                    self.queue.push(at, Event::Kill(member));
                    let down = Duration::from_millis(below(&mut self.rng, 15_000));
                    self.queue.push(at + down, Event::Start(member));
                }
            }
        }
        while let Some((at, event)) = self.queue.pop(end) {
            self.now = at;
            if self.all_have(last) || !self.outcome.broken.is_empty() {
                break;
            }
            self.happen(event)?;
        }
        self.judge(last, epoch);
        Ok(self.outcome)
    }

    fn all_have(&self, height: Height) -> bool {
        let mut honest = self.members.iter().filter(|member| member.liar.is_none());
        honest.all(|member| {
            member.published.as_ref().is_some_and(|held| held.document.consensus.epoch.0 >= height.0)
        })
    }

    fn happen(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Arrive { to, from, bytes } => {
                let now = self.clock(to);
                if let Some(council) = &mut self.members[to].council {
                    // What a liar sends may be refused: that is its fault.
                    let refused = council.handle_message(now, Seat(from as u8), &bytes)?;
                    if let (Err(error), true) = (refused, self.members[from].liar.is_none()) {
                        let late = matches!(error.kind(), ErrorKind::Refused | ErrorKind::Replayed);
                        if !late {
                            self.broken(format!("an honest authority's message was refused: {error}"));
                        }
                    }
                    self.drive(to)?;
                }
            }
            Event::Wake(member) => {
                let now = self.clock(member);
                if let Some(council) = &mut self.members[member].council
                    && now >= council.poll_timeout()
                {
                    council.handle_timeout(now)?;
                }
                self.drive(member)?;
            }
            Event::Kill(member) => {
                self.outcome.killed += u64::from(self.members[member].council.take().is_some());
            }
            Event::Start(member) => self.start(member)?,
        }
        Ok(())
    }

    fn start(&mut self, number: usize) -> Result<()> {
        if self.members[number].council.is_some() {
            return Ok(());
        }
        let now = self.clock(number);
        let member = &mut self.members[number];
        if member.liar.as_ref().is_some_and(|liar| liar.lie == Lie::Dead) {
            return Ok(());
        }
        let key = member.key.clone();
        let setup = Setup {
            seats: self.seats.clone(),
            seat: Seat(number as u8),
            sign: Arc::new(move |body: &[u8]| key.sign(body).to_bytes()),
            seed: member.key.to_bytes(),
        };
        let restored = Restored { published: member.published.clone(), log: member.log.clone() };
        member.council = Some(Council::new(setup, restored, now)?);
        member.woken = Instant::ZERO;
        self.drive(number)
    }

    /// Does what a machine wants, in order; it may be killed at any point of it.
    fn drive(&mut self, number: usize) -> Result<()> {
        while let Some(output) = self.members[number].council.as_mut().and_then(Council::poll_output) {
            let may_die = self.trial.restarts > 0.0 && self.members[number].liar.is_none();
            if may_die && below(&mut self.rng, 400) == 0 {
                self.members[number].council = None;
                self.outcome.killed += 1;
                let down = Duration::from_millis(100 + below(&mut self.rng, 5_000));
                self.queue.push(self.now + down, Event::Start(number));
                return Ok(());
            }
            match output {
                Output::Log(entry) => self.members[number].log.push(entry),
                Output::Forget => self.members[number].log.clear(),
                Output::Send(to, bytes) => self.send(number, to, bytes),
                Output::Opinion(height) => {
                    self.watch.begun.entry(height).or_insert(self.now);
                    let opinion = self.opinion(number);
                    let now = self.clock(number);
                    if let Some(council) = &mut self.members[number].council {
                        council.handle_opinion(now, opinion)?;
                    }
                }
                Output::Publish(published) => self.publish(number, *published),
                Output::Proof(seat, sentence, proof) => {
                    let culprit = usize::from(seat.0);
                    match proof.verify(&self.seats) {
                        Ok((other, _)) if other == seat && self.members[culprit].liar.is_some() => {
                            self.watch.proven.insert(culprit);
                        }
                        _ => self.broken(format!("a proof against one who is honest: {sentence}")),
                    }
                }
            }
        }
        let Some(council) = &self.members[number].council else { return Ok(()) };
        let at = self.true_time(number, council.poll_timeout()).max(self.now + Duration::from_millis(1));
        let member = &mut self.members[number];
        // One is enough, unless it comes too late.
        if member.woken <= self.now || at < member.woken {
            member.woken = at;
            self.queue.push(at, Event::Wake(number));
        }
        Ok(())
    }

    fn opinion(&mut self, number: usize) -> Opinion {
        let rules = Rules {
            methods: METHODS.to_vec(),
            parameters: Parameters::local(),
            required: ProtocolNumber::SUPPORTED.to_vec(),
            recommended: ProtocolNumber::SUPPORTED.to_vec(),
            cap: 20,
            settled: true,
        };
        self.relays.opinion(number, rules)
    }

    fn send(&mut self, from: usize, to: Option<Seat>, bytes: Vec<u8>) {
        if self.members[from].liar.is_none() {
            self.watch_what_is_said(from, &bytes);
        }
        let to: Vec<usize> = match to {
            Some(seat) => vec![usize::from(seat.0)],
            None => (0..self.members.len()).filter(|&other| other != from).collect(),
        };
        for to in to {
            let said = match &mut self.members[from].liar {
                Some(liar) => liar.say(&mut self.rng, &self.seats, &self.relays, to, &bytes),
                None => vec![(Duration::ZERO, bytes.clone())],
            };
            for (late, bytes) in said {
                self.outcome.messages += 1;
                if unit(&mut self.rng) < self.trial.loss {
                    continue;
                }
                // 5 to 105 ms, and one in fifty takes up to two seconds.
                let slow = if below(&mut self.rng, 50) == 0 { 2_000 } else { 100 };
                let delay = Duration::from_millis(5 + below(&mut self.rng, slow));
                self.queue.push(self.now + late + delay, Event::Arrive { to, from, bytes });
            }
        }
    }

    /// Notes what an honest authority says, and sees that it has not said something else in that place.
    fn watch_what_is_said(&mut self, from: usize, bytes: &[u8]) {
        let Ok(message) = Message::from_bytes(bytes) else {
            return self.broken("an honest authority has said something that cannot be read".into());
        };
        let own = |seat: Seat| usize::from(seat.0) == from;
        let place = match &message {
            Message::Vote(vote) => match mizzle_council::SignedVote::from_bytes(vote, &self.seats) {
                Ok(signed) if own(signed.seat) => (signed.vote.height, u64::from(signed.vote.attempt), 0),
                _ => return,
            },
            Message::Said(Said::Ballot(ballot)) if own(ballot.voter) => {
                let round = u64::from(ballot.round.as_u32().unwrap_or(0));
                let precommit = ballot.kind == mizzle_council::wire::VoteType::Precommit;
                (ballot.height, round, 1 + u8::from(precommit))
            }
            Message::Said(Said::Proposal(proposal)) if own(proposal.proposer) => {
                (proposal.height, u64::from(proposal.round.as_u32().unwrap_or(0)), 3)
            }
            Message::Signature(height, hash, _) => {
                self.watch.signatures.entry((*height, *hash)).or_default().insert(from);
                (*height, 0, 4)
            }
            _ => return,
        };
        let (height, number, kind) = place;
        let before = self.watch.said.entry((from, height, number, kind)).or_insert_with(|| bytes.to_vec());
        if before != bytes {
            let what = ["votes", "prevotes", "precommits", "proposals", "signatures"][usize::from(kind)];
            self.broken(format!("an honest authority has said two {what} in one place, of {height}"));
        }
    }

    fn publish(&mut self, number: usize, published: Published) {
        let height = Height(published.document.consensus.epoch.0);
        let hash = published.signed.hash();
        if self.members[number].liar.is_none() {
            let (first, times) = self.watch.published.entry(height).or_insert_with(|| (hash, Vec::new()));
            times.push(self.now);
            if *first != hash {
                self.broken(format!("two valid documents: {height}"));
            }
            for relay in &published.document.consensus.relays {
                if !self.relays.exists(relay.id) {
                    self.broken(format!("a relay that does not exist is listed: {height}"));
                }
            }
        }
        self.members[number].published = Some(published);
    }

    fn judge(&mut self, last: Height, epoch: Duration) {
        let liars = self.members.iter().filter(|member| member.liar.is_some()).count();
        // Whoever lies signs everything.
        let mut could_be: BTreeMap<Height, usize> = BTreeMap::new();
        for ((height, _), signers) in &self.watch.signatures {
            if signers.len() + liars >= self.seats.quorum() {
                *could_be.entry(*height).or_default() += 1;
            }
        }
        if let Some((height, _)) = could_be.iter().find(|(_, count)| **count > 1) {
            self.broken(format!("two documents could be valid: {height}"));
        }
        let honest = self.members.len() - liars;
        for height in 0..=last.0 {
            self.outcome.due += 1;
            let Some(begun) = self.watch.begun.get(&Height(height)).copied() else { continue };
            let Some((_, times)) = self.watch.published.get(&Height(height)) else { continue };
            let Some(half) = times.get(honest / 2).copied() else { continue };
            let took = half.since(begun);
            self.outcome.slowest = self.outcome.slowest.max(took);
            self.outcome.timely += u64::from(took <= epoch);
        }
        self.outcome.proven = self.watch.proven.len();
    }

    fn broken(&mut self, what: String) {
        if self.outcome.broken.len() < 10 {
            self.outcome.broken.push(what);
        }
    }

    /// What a member's clock says.
    fn clock(&self, member: usize) -> Instant {
        Instant::from_nanos(self.now.as_nanos().saturating_add_signed(self.members[member].skew))
    }

    /// When a member's clock says `moment`.
    fn true_time(&self, member: usize, moment: Instant) -> Instant {
        Instant::from_nanos(moment.as_nanos().saturating_add_signed(-self.members[member].skew))
    }
}

/// A number below `limit`.
fn below(rng: &mut ChaCha20Rng, limit: u64) -> u64 {
    rng.next_u64() % limit.max(1)
}

/// A number from 0 to below 1.
fn unit(rng: &mut ChaCha20Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// More take a day of virtual time and say nothing new.
const MOST_DOCUMENTS: u64 = 1_000;
const NETWORK: &str = "local";
const START: UnixTime = UnixTime(1_800_000_000);

#[cfg(test)]
mod tests;
