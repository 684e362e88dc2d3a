//! One authority among the others: it votes, agrees on the votes, makes their document and signs it.
//!
//! ```text
//!          due, or others began          list decided           enough signatures
//!   idle ------------------------> agreeing ----------> signing ------------------> idle, one further
//!              vote said               |                    |
//!                                      '--- a document that is done comes from another ---'
//! ```
//!
//! Messages end each state; timers only bound it. All that this authority signs it has on disk before: see
//! [`Output::Log`]. Who lags is given what it lacks by anyone who has it. (spec: COUNCIL-1 to 10)

use crate::agreement::{Act, Agreement, Decision, Sign};
use crate::beacon::lot;
use crate::document::{Document, Past, make};
use crate::engine::{Digest, Height, SignedProposal, VoteList};
use crate::evidence::Proof;
use crate::message::{Done, MAX_WANTED, Message, Status};
use crate::papers::{Paper, Papers, Standing};
use crate::record::Record;
use crate::said::Said;
use crate::seats::{Seat, Seats};
use crate::vote::{Rules, Seen, SignedVote, Vote};
use malachite_types::{LinearTimeouts, Round, Timeout};
use mizzle_protocol::consensus::{Consensus, Descriptor, DocumentHash, Schedule, ServiceKeys, Signed};
use mizzle_protocol::id::AuthorityId;
use mizzle_protocol::time::Instant;
use mizzle_protocol::{Error, ErrorKind, Result};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Who an authority is.
#[derive(Clone)]
pub struct Setup {
    /// All authorities.
    pub seats: Seats,
    /// Where this one sits.
    pub seat: Seat,
    /// Signs with its key.
    pub sign: Sign,
    /// 32 secret bytes that its lots are made from.
    pub seed: [u8; 32],
}

/// A document with signatures enough, and what belongs to it.
#[derive(Clone, Debug)]
pub struct Published {
    /// The envelope.
    pub signed: Signed,
    /// What is in it, beside it, and carried on.
    pub document: Document,
}

/// What an earlier process left.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The newest document.
    pub published: Option<Published>,
    /// The entries of the log, in order.
    pub log: Vec<Vec<u8>>,
}

/// What the driver must do, in this order.
#[derive(Debug)]
pub enum Output {
    /// Append this entry to the log, and have it on disk before doing anything that comes after.
    Log(Vec<u8>),
    /// Forget all entries of the log.
    Forget,
    /// Send this to one authority, or to all others. It may be lost.
    Send(Option<Seat>, Vec<u8>),
    /// Say what is seen of the relays, by [`Council::handle_opinion`].
    Opinion(Height),
    /// Store this document, and only then show it to anyone.
    Publish(Box<Published>),
    /// Keep this proof, and show it to everyone.
    Proof(Seat, String, Proof),
}

/// What this authority says of the relays.
#[derive(Clone, Debug)]
pub struct Opinion {
    /// What its operator decides.
    pub rules: Rules,
    /// The relays that it knows, in order of their ids.
    pub relays: Vec<Seen>,
    /// Their descriptors, as they signed them.
    pub descriptors: Vec<(Arc<Descriptor>, Arc<[u8]>)>,
}

/// The machine.
pub struct Council {
    setup: Setup,
    past: Past,
    published: Option<Published>,
    height: Height,
    /// When the document being made was begun.
    begun: Option<Instant>,
    /// Opinions that this document has had.
    attempts: u32,
    papers: Papers,
    agreement: Agreement,
    timeouts: Vec<(Instant, Timeout)>,
    /// Proposals that are not judged.
    proposals: Vec<SignedProposal>,
    /// It is our turn to propose.
    proposing: Option<Round>,
    /// The rounds in which we did, also in an earlier process.
    proposed: BTreeSet<Round>,
    decision: Option<Decision>,
    made: Option<Made>,
    /// Signatures that came before the document was made here.
    early: BTreeMap<Seat, (DocumentHash, [u8; 64])>,
    /// The document that was signed at this height, also by an earlier process.
    signed: Option<DocumentHash>,
    proven: BTreeSet<(Seat, u8)>,
    /// Who was given a document that is done since the last tick.
    helped: BTreeSet<Seat>,
    tick: Instant,
    ticks: u64,
    outputs: VecDeque<Output>,
}

/// A document that is made, and is being signed.
struct Made {
    document: Document,
    envelope: Signed,
    signers: BTreeSet<Seat>,
}

impl Council {
    /// Goes on where an earlier process stopped, or founds a network.
    ///
    /// [`ErrorKind::Malformed`] if the log is damaged: an authority that does not know what it has signed must not
    /// sign again at that height.
    pub fn new(setup: Setup, restored: Restored, now: Instant) -> Result<Self> {
        let Restored { published, log } = restored;
        let past = match &published {
            Some(published) => past(published),
            None => genesis(&setup.seats),
        };
        let height = published.as_ref().map_or(Height(0), next);
        let agreement = agreement(&setup, &past, height)?;
        let mut council = Self {
            setup,
            past,
            published,
            height,
            begun: None,
            attempts: 0,
            papers: Papers::default(),
            agreement,
            timeouts: Vec::new(),
            proposals: Vec::new(),
            proposing: None,
            proposed: BTreeSet::new(),
            decision: None,
            made: None,
            early: BTreeMap::new(),
            signed: None,
            proven: BTreeSet::new(),
            helped: BTreeSet::new(),
            tick: now,
            ticks: 0,
            outputs: VecDeque::new(),
        };
        council.restore(log, now)?;
        council.handle_timeout(now)?;
        Ok(council)
    }

    fn restore(&mut self, log: Vec<Vec<u8>>, now: Instant) -> Result<()> {
        let records: Result<Vec<_>> = log.iter().map(|bytes| Record::from_bytes(bytes)).collect();
        let mut records = records?.into_iter().peekable();
        if records.next_if_eq(&Record::Begun(self.height)).is_none() {
            // It is of a document that is done: killed before it was forgotten. What follows must not stand
            // behind it.
            self.outputs.push_back(Output::Forget);
            return Ok(());
        }
        self.begun = Some(now);
        let mut notes = Vec::new();
        for record in records {
            match record {
                Record::Begun(_) => {}
                Record::Note(note) => notes.push(note),
                Record::Vote(bytes) => {
                    let vote = SignedVote::from_bytes(&bytes, &self.setup.seats)?;
                    self.attempts = self.attempts.max(vote.vote.attempt + 1);
                    let previous = self.past.document.as_ref().map(|(hash, _)| *hash);
                    self.papers.take(vote, self.height, previous, true)?;
                }
                Record::Decided(decision) => self.decision = Some(decision),
                Record::Signed(hash) => self.signed = Some(hash),
            }
        }
        let proposals = Record::proposals(&notes);
        let ours = proposals.iter().filter(|(proposal, _)| proposal.proposer == self.setup.seat);
        self.proposed = ours.map(|(proposal, _)| proposal.round).collect();
        self.proposals =
            proposals.into_iter().filter(|(_, judged)| !judged).map(|(proposal, _)| proposal).collect();
        self.agreement.begin(self.height, &notes)?;
        // Its own descriptors are gone with the process: it says its opinion anew.
        self.ask_opinion();
        self.advance(now)
    }

    /// Which document is being made, or comes next.
    pub fn height(&self) -> Height {
        self.height
    }

    /// The newest document.
    pub fn published(&self) -> Option<&Published> {
        self.published.as_ref()
    }

    /// When the next document is due.
    pub fn due(&self) -> Instant {
        self.past
            .document
            .as_ref()
            .map_or(Instant::ZERO, |(_, before)| before.valid_after.instant() + before.parameters.epoch)
    }

    /// The authorities that have voted on the document being made.
    pub fn voters(&self) -> BTreeSet<Seat> {
        self.papers.voters()
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Instant {
        let mut next = self.tick;
        match self.begun {
            Some(begun) => {
                next = next.min(begun + self.epoch() * self.attempts.max(1));
                if self.proposing.is_some() && self.made.is_none() {
                    next = next.min(begun + self.gather());
                }
            }
            None => next = next.min(self.due()),
        }
        self.timeouts.iter().map(|(at, _)| *at).fold(next, Instant::min)
    }

    /// The moment of [`Self::poll_timeout`] has come. Errors are such that this authority must stop.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<()> {
        if self.begun.is_none() && now >= self.due() {
            self.begin(now)?;
        }
        if let Some(begun) = self.begun
            && self.decision.is_none()
            && now >= begun + self.epoch() * self.attempts.max(1)
        {
            // Nothing came of the last: what was seen then is old.
            self.ask_opinion();
        }
        let (due, waiting) = std::mem::take(&mut self.timeouts).into_iter().partition(|(at, _)| *at <= now);
        self.timeouts = waiting;
        let due: Vec<_> = due;
        for (_, timeout) in due {
            if self.decision.is_none() {
                self.agreement.timeout(timeout)?;
            }
        }
        if now >= self.tick {
            self.tell();
            let pause = if self.begun.is_some() { self.pause() } else { self.pause() * 8 };
            self.tick = now + pause;
        }
        self.advance(now)
    }

    /// The network is as large as was expected: the next document need not wait until it is due.
    pub fn hurry(&mut self, now: Instant) -> Result<()> {
        if self.begun.is_none() {
            self.begin(now)?;
        }
        self.advance(now)
    }

    /// What this authority has seen of the relays.
    pub fn handle_opinion(&mut self, now: Instant, opinion: Opinion) -> Result<()> {
        let Opinion { rules, relays, descriptors } = opinion;
        for (descriptor, bytes) in descriptors {
            self.papers.insert(Digest::of(&bytes), Paper { descriptor, bytes });
        }
        let Some(authority) = self.setup.seats.authority(self.setup.seat) else { return Ok(()) };
        if self.begun.is_none() || self.decision.is_some() {
            return Ok(());
        }
        let parameters = self.past.document.as_ref().map_or(&rules.parameters, |(_, past)| &past.parameters);
        let origin = self.past.document.as_ref().map_or(now.unix(), |(_, past)| past.origin);
        let schedule = Schedule::new(origin, parameters);
        let vote = Vote {
            network: self.setup.seats.network().to_owned(),
            authority,
            height: self.height,
            attempt: self.attempts,
            previous: self.previous(),
            time: now.unix(),
            lot: lot(&self.setup.seed, authority, &schedule, parameters.key_period, now.unix()),
            rules,
            relays,
        };
        self.attempts += 1;
        let signed = SignedVote::sign(vote, self.setup.seat, |body| (self.setup.sign)(body));
        self.log(&Record::Vote(signed.bytes().to_vec()));
        self.send(None, &Message::Vote(signed.bytes().to_vec()));
        self.papers.take(signed, self.height, self.previous(), true)?;
        self.advance(now)
    }

    /// A message has come from the authority in seat `from`. What is wrong in it is left out, and said.
    ///
    /// The outer error is such that this authority must stop; the inner one is the sender's.
    pub fn handle_message(&mut self, now: Instant, from: Seat, bytes: &[u8]) -> Result<Result<()>> {
        if from == self.setup.seat || self.setup.seats.authority(from).is_none() {
            return Ok(Err(Error::new(ErrorKind::Refused, "the message is from nobody else")));
        }
        let message = match Message::from_bytes(bytes) {
            Ok(message) => message,
            Err(error) => return Ok(Err(error)),
        };
        let taken = match message {
            Message::Status(status) => {
                self.help(from, &status);
                Ok(())
            }
            Message::Vote(bytes) => self.take_vote(now, from, &bytes)?,
            Message::Descriptor(bytes) => self.papers.take_descriptor(&bytes, self.setup.seats.network()),
            Message::Said(said) => self.take_said(from, said)?,
            Message::Decision(decision) => self.take_decision(decision),
            Message::Signature(height, hash, signature) => {
                self.take_signature(from, height, hash, signature);
                Ok(())
            }
            Message::Done(done) => self.take_done(now, &done)?,
            Message::Want(digests) => {
                self.give(from, &digests);
                Ok(())
            }
        };
        self.advance(now)?;
        Ok(taken)
    }

    fn take_vote(&mut self, now: Instant, from: Seat, bytes: &[u8]) -> Result<Result<()>> {
        let signed = match SignedVote::from_bytes(bytes, &self.setup.seats) {
            Ok(signed) => signed,
            Err(error) => return Ok(Err(error)),
        };
        if signed.vote.height > self.height {
            self.tell_one(from);
            return Ok(Ok(()));
        }
        let wanted = self.lists().any(|list| list.0.iter().any(|(_, digest)| *digest == signed.digest));
        let (seat, previous) = (signed.seat, self.previous());
        match self.papers.take(signed, self.height, previous, wanted) {
            Ok(proof) => {
                if let Some(proof) = proof {
                    self.prove(seat, 0, proof);
                }
            }
            Err(error) => return Ok(Err(error)),
        }
        // So many cannot all be wrong about the time.
        if self.begun.is_none() && self.papers.voters().len() > self.setup.seats.faulty() {
            self.begin(now)?;
        }
        Ok(Ok(()))
    }

    fn take_said(&mut self, from: Seat, said: Said) -> Result<Result<()>> {
        if said.height() > self.height {
            self.tell_one(from);
        }
        if said.height() != self.height || self.decision.is_some() {
            return Ok(Ok(()));
        }
        if let Said::Proposal(proposal) = &said
            && self.proposals.len() < MAX_PROPOSALS
            && !self.proposals.contains(proposal)
            && crate::agreement::verify_proposal(&self.setup.seats, proposal)
        {
            self.proposals.push(proposal.clone());
        }
        self.agreement.hear(said)?;
        Ok(Ok(()))
    }

    fn take_decision(&mut self, decision: Decision) -> Result<()> {
        if decision.height != self.height || self.decision.is_some() || self.begun.is_none() {
            return Ok(());
        }
        decision.verify(&self.setup.seats)?;
        self.decide(decision);
        Ok(())
    }

    fn decide(&mut self, decision: Decision) {
        self.log(&Record::Decided(decision.clone()));
        self.decision = Some(decision);
        self.timeouts.clear();
        self.proposals.clear();
        self.proposing = None;
    }

    fn take_signature(&mut self, from: Seat, height: Height, hash: DocumentHash, signature: [u8; 64]) {
        if height > self.height {
            self.tell_one(from);
        }
        if height != self.height {
            return;
        }
        match &mut self.made {
            Some(made) if made.envelope.hash() == hash => made.add(&self.setup.seats, from, signature),
            Some(_) => {}
            None => {
                self.early.insert(from, (hash, signature));
            }
        }
    }

    /// A document that is done somewhere else.
    fn take_done(&mut self, now: Instant, done: &Done) -> Result<Result<()>> {
        match self.read_done(done) {
            Ok(Some(published)) => self.publish(now, published).map(Ok),
            Ok(None) => Ok(Ok(())),
            Err(error) => Ok(Err(error)),
        }
    }

    fn read_done(&self, done: &Done) -> Result<Option<Published>> {
        let signed = Signed::from_bytes(&done.signed)?;
        let seats = &self.setup.seats;
        let authorities: Vec<AuthorityId> = seats.iter().filter_map(|seat| seats.authority(seat)).collect();
        let consensus = signed.verify_at_any_time(&authorities, seats.quorum(), seats.network())?;
        if Height(consensus.epoch.0) < self.height {
            return Ok(None);
        }
        if let Some((hash, before)) = &self.past.document {
            consensus.check_follows(signed.hash(), before, *hash)?;
        }
        let carry = crate::carry::Carry::from_bytes(&done.carry)?;
        let service_keys = ServiceKeys::from_bytes(&done.service_keys)?;
        let names_it = consensus.made.is_some_and(|made| made.carry == carry.hash());
        let mut digests =
            consensus.relays.iter().flat_map(|relay| relay.periods.iter().filter_map(|at| at.service_key));
        if !names_it || digests.any(|digest| !service_keys.contains(&digest)) {
            return Err(Error::new(ErrorKind::Forged, "what came with the document does not belong to it"));
        }
        Ok(Some(Published { signed, document: Document { consensus, service_keys, carry } }))
    }

    fn begin(&mut self, now: Instant) -> Result<()> {
        self.begun = Some(now);
        self.tick = now;
        self.log(&Record::Begun(self.height));
        self.ask_opinion();
        self.agreement.begin(self.height, &[])
    }

    fn ask_opinion(&mut self) {
        // Asked once for each attempt: the answer counts it up.
        let asked = self.outputs.iter().any(|output| matches!(output, Output::Opinion(_)));
        if !asked {
            self.outputs.push_back(Output::Opinion(self.height));
        }
    }

    /// Goes as far as it can.
    fn advance(&mut self, now: Instant) -> Result<()> {
        loop {
            let mut moved = false;
            while let Some(act) = self.agreement.poll() {
                self.act(now, act);
                moved = true;
            }
            moved |= self.propose(now)?;
            moved |= self.judge()?;
            moved |= self.make()?;
            moved |= self.finish(now)?;
            if !moved {
                return Ok(());
            }
        }
    }

    fn act(&mut self, now: Instant, act: Act) {
        match act {
            Act::Note(note) => self.log(&Record::Note(note)),
            Act::Say(said) => self.send(None, &Message::Said(said)),
            Act::Schedule(timeout, after) => {
                self.timeouts.retain(|(_, other)| *other != timeout);
                self.timeouts.push((now + after, timeout));
            }
            Act::Cancel(timeout) => self.timeouts.retain(|(_, other)| *other != timeout),
            Act::CancelAll => self.timeouts.clear(),
            Act::Propose(round) => self.proposing = (!self.proposed.contains(&round)).then_some(round),
            Act::Decide(decision) => {
                if self.decision.is_none() {
                    self.decide(decision);
                }
            }
            Act::TwoBallots(two) => self.prove(two.0.voter, 1, Proof::Ballots(two)),
            Act::TwoProposals(two) => self.prove(two.0.proposer, 2, Proof::Proposals(two)),
        }
    }

    /// Proposes, if it is our turn: all votes, or after a while more than two thirds of them.
    fn propose(&mut self, now: Instant) -> Result<bool> {
        let (Some(round), Some(begun), None) = (self.proposing, self.begun, &self.decision) else {
            return Ok(false);
        };
        let complete = self.papers.complete();
        let waited = now >= begun + self.gather() && complete.len() >= self.setup.seats.quorum();
        if complete.len() < self.setup.seats.count() && !waited {
            return Ok(false);
        }
        let list = VoteList(complete.into_iter().map(|(seat, vote)| (seat, vote.digest)).collect());
        self.proposing = None;
        self.proposed.insert(round);
        self.agreement.propose(round, list)?;
        Ok(true)
    }

    /// Judges proposals for which all is here.
    fn judge(&mut self) -> Result<bool> {
        let mut moved = false;
        for proposal in std::mem::take(&mut self.proposals) {
            match self.papers.judge(&self.setup.seats, &proposal.list) {
                Standing::Missing => self.proposals.push(proposal),
                standing => {
                    moved = true;
                    self.agreement.judge(&proposal, standing == Standing::Sound)?;
                }
            }
        }
        Ok(moved)
    }

    /// Makes and signs the document of what was decided.
    fn make(&mut self) -> Result<bool> {
        let (Some(decision), None) = (&self.decision, &self.made) else { return Ok(false) };
        if self.papers.judge(&self.setup.seats, &decision.list) != Standing::Sound {
            return Ok(false);
        }
        let votes = self.papers.votes_of(&decision.list);
        let find = |digest: &Digest| self.papers.descriptor(digest).map(|paper| paper.descriptor.clone());
        let document = make(&self.setup.seats, self.height, &self.past, &votes, &find)?;
        let mut envelope = Signed::new(&document.consensus);
        let hash = envelope.hash();
        if self.signed.is_some_and(|signed| signed != hash) {
            return Err(Error::new(
                ErrorKind::Misuse,
                "another document of this number was signed before: this authority's build or state has changed \
                 within an epoch",
            ));
        }
        self.log(&Record::Signed(hash));
        self.signed = Some(hash);
        let Some(authority) = self.setup.seats.authority(self.setup.seat) else { return Ok(false) };
        let sign = self.setup.sign.clone();
        envelope.sign(authority, |body| sign(body));
        let signature = envelope.signature(authority);
        let mut made = Made { document, envelope, signers: [self.setup.seat].into() };
        for (seat, (other, signature)) in std::mem::take(&mut self.early) {
            if other == hash {
                made.add(&self.setup.seats, seat, signature);
            }
        }
        self.made = Some(made);
        if let Some(signature) = signature {
            self.send(None, &Message::Signature(self.height, hash, signature));
        }
        Ok(true)
    }

    /// Publishes the document when it has signatures enough.
    fn finish(&mut self, now: Instant) -> Result<bool> {
        match self.made.take() {
            Some(made) if made.signers.len() >= self.setup.seats.quorum() => {
                let Made { document, envelope, .. } = made;
                self.publish(now, Published { signed: envelope, document })?;
                Ok(true)
            }
            made => {
                self.made = made;
                Ok(false)
            }
        }
    }

    fn publish(&mut self, now: Instant, published: Published) -> Result<()> {
        self.past = past(&published);
        self.height = next(&published);
        self.begun = None;
        self.attempts = 0;
        self.papers.clear();
        self.agreement = agreement(&self.setup, &self.past, self.height)?;
        self.timeouts.clear();
        self.proposals.clear();
        self.proposing = None;
        self.proposed.clear();
        self.decision = None;
        self.made = None;
        self.early.clear();
        self.signed = None;
        self.proven.clear();
        self.tick = now + self.pause();
        self.published = Some(published.clone());
        // The document is on disk before the log forgets that it was signed.
        self.outputs.push_back(Output::Publish(Box::new(published)));
        self.outputs.push_back(Output::Forget);
        Ok(())
    }

    /// Says where this authority stands, and asks for what it lacks.
    fn tell(&mut self) {
        self.helped.clear();
        self.ticks += 1;
        let status = Message::Status(self.status());
        self.send(None, &status);
        let missing = self.papers.missing(self.lists(), MAX_WANTED);
        if !missing.is_empty() {
            // Everyone in turn: who has it answers, and nobody is asked by all at once.
            let others: Vec<_> = self.setup.seats.iter().filter(|seat| *seat != self.setup.seat).collect();
            let count = others.len().max(1) as u64;
            let turn = usize::try_from((self.ticks + u64::from(self.setup.seat.0)) % count).unwrap_or(0);
            if let Some(seat) = others.get(turn).copied() {
                self.send(Some(seat), &Message::Want(missing));
            }
        }
    }

    fn tell_one(&mut self, seat: Seat) {
        if self.helped.insert(seat) {
            let status = Message::Status(self.status());
            self.send(Some(seat), &status);
        }
    }

    fn status(&self) -> Status {
        Status {
            height: self.height,
            votes: self.papers.complete().into_iter().map(|(seat, vote)| (seat, vote.digest)).collect(),
            decided: self.decision.is_some(),
            signatures: self.made.iter().flat_map(|made| made.signers.iter().copied()).collect(),
        }
    }

    /// Gives an authority what it lacks, as its status says.
    fn help(&mut self, from: Seat, status: &Status) {
        if status.height < self.height {
            if let (Some(published), true) = (&self.published, self.helped.insert(from)) {
                let done = Message::Done(Box::new(Done {
                    signed: published.signed.to_bytes(),
                    carry: published.document.carry.to_bytes(),
                    service_keys: published.document.service_keys.to_bytes(),
                }));
                self.send(Some(from), &done);
            }
            return;
        }
        if status.height > self.height {
            self.tell_one(from);
            return;
        }
        let lacking = self
            .papers
            .complete()
            .into_values()
            .filter(|vote| !status.votes.contains(&(vote.seat, vote.digest)))
            .map(|vote| Message::Vote(vote.bytes().to_vec()));
        let mut messages: Vec<_> = lacking.collect();
        if let (Some(decision), false) = (&self.decision, status.decided) {
            messages.push(Message::Decision(decision.clone()));
        }
        if let Some(made) = &self.made
            && !status.signatures.contains(&self.setup.seat)
            && let Some(authority) = self.setup.seats.authority(self.setup.seat)
            && let Some(signature) = made.envelope.signature(authority)
        {
            messages.push(Message::Signature(self.height, made.envelope.hash(), signature));
        }
        messages.iter().for_each(|message| self.send(Some(from), message));
    }

    /// Gives an authority the votes and descriptors that it asked for.
    fn give(&mut self, from: Seat, digests: &[Digest]) {
        for digest in digests {
            let message = match (self.papers.vote(digest), self.papers.descriptor(digest)) {
                (Some(vote), _) => Message::Vote(vote.bytes().to_vec()),
                (None, Some(paper)) => Message::Descriptor(paper.bytes.to_vec()),
                (None, None) => continue,
            };
            self.send(Some(from), &message);
        }
    }

    fn prove(&mut self, seat: Seat, kind: u8, proof: Proof) {
        if self.proven.insert((seat, kind))
            && let Ok((seat, sentence)) = proof.verify(&self.setup.seats)
        {
            self.outputs.push_back(Output::Proof(seat, sentence, proof));
        }
    }

    /// The lists that this authority must be able to judge.
    fn lists(&self) -> impl Iterator<Item = &VoteList> {
        let proposed = self.proposals.iter().map(|proposal| &proposal.list);
        proposed.chain(self.decision.iter().map(|decision| &decision.list))
    }

    fn previous(&self) -> Option<DocumentHash> {
        self.past.document.as_ref().map(|(hash, _)| *hash)
    }

    fn log(&mut self, record: &Record) {
        self.outputs.push_back(Output::Log(record.to_bytes()));
    }

    fn send(&mut self, to: Option<Seat>, message: &Message) {
        if self.setup.seats.count() > 1 {
            self.outputs.push_back(Output::Send(to, message.to_bytes()));
        }
    }

    fn epoch(&self) -> Duration {
        epoch(&self.past)
    }

    /// How long votes are waited for.
    fn gather(&self) -> Duration {
        (self.epoch() / 8).min(Duration::from_secs(3))
    }

    /// How often an authority says where it stands.
    fn pause(&self) -> Duration {
        pause(self.epoch())
    }
}

impl Made {
    /// Takes a signature, if it is one.
    fn add(&mut self, seats: &Seats, seat: Seat, signature: [u8; 64]) {
        let Some(authority) = seats.authority(seat) else { return };
        if !self.signers.contains(&seat) && self.envelope.add(authority, signature).is_ok() {
            self.signers.insert(seat);
        }
    }
}

fn past(published: &Published) -> Past {
    Past {
        document: Some((published.signed.hash(), published.document.consensus.clone())),
        service_keys: published.document.service_keys.clone(),
        carry: published.document.carry.clone(),
    }
}

fn genesis(seats: &Seats) -> Past {
    Past {
        document: None,
        service_keys: ServiceKeys::new(),
        carry: crate::carry::Carry::genesis(seats.network()),
    }
}

fn next(published: &Published) -> Height {
    Height(published.document.consensus.epoch.0.saturating_add(1))
}

fn agreement(setup: &Setup, past: &Past, height: Height) -> Result<Agreement> {
    let base = (epoch(past) / 12).min(Duration::from_secs(4));
    let gather = (epoch(past) / 8).min(Duration::from_secs(3));
    let timeouts = LinearTimeouts {
        propose: gather + base,
        propose_delta: base,
        prevote: base,
        prevote_delta: base / 2,
        precommit: base,
        precommit_delta: base / 2,
        rebroadcast: base * 2,
        max_timeout: (epoch(past) / 2).max(base * 2),
    };
    Agreement::new(setup.seats.clone(), setup.seat, setup.sign.clone(), timeouts, height)
}

fn epoch(past: &Past) -> Duration {
    past.document.as_ref().map_or(FOUNDING, |(_, before): &(DocumentHash, Consensus)| before.parameters.epoch)
}

fn pause(epoch: Duration) -> Duration {
    (epoch / 40).clamp(Duration::from_millis(50), Duration::from_secs(1))
}

/// The epoch that times are derived from before there is a document.
const FOUNDING: Duration = Duration::from_secs(20);
/// Proposals that are held until they can be judged: one a round, and a liar has at most a few.
const MAX_PROPOSALS: usize = 64;
