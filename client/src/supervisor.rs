//! Keeps a client connected: a live document, one entry, one link. All that it does on the network goes to
//! its entry; before it has one, to a mirror of the network file that then becomes it. (spec: ENTRY-1,
//! DIR-10, CLIENT-1 to CLIENT-4)

use crate::answers::Answers;
use crate::by_exits::{by_two_exits, patience};
use crate::country::by_country;
use crate::directory::{Directory, Fetched, Heard, Held, fetch};
use crate::engine::{Command, Mailbox};
use crate::entries::{Entry, EntrySet, FILE};
use crate::hold::{Hold, told_to_rest};
use crate::link::{self, CELLS_WAITING, EntryLink};
use crate::pace::Pacer;
use crate::refresh;
use crate::skew::ADVICE;
use crate::slots::{Line, LinkCounters, SlotThread};
use crate::status::{Anonymity, Status};
use crate::{Error, ErrorKind, Result};
use mizzle_link::{Clock, NetworkFile, Way, seeded_rng};
use mizzle_protocol::cover::Ring;
use mizzle_protocol::id::RelayId;
use mizzle_protocol::path::{Parameters, below};
use mizzle_protocol::time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

/// Whether streams can be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Soon, perhaps: why not yet.
    Connecting(String),
    /// Now.
    Connected,
    /// Not until something changes: why.
    Refusing(String),
    /// Not with this version: what the network demands.
    Outdated(String),
}

/// What the supervisor shows of itself: the phase, and the parts of a status that it knows.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) phase: Phase,
    pub(crate) status: Status,
}

/// The task's state.
pub(crate) struct Supervisor {
    pub(crate) network: NetworkFile,
    pub(crate) folder: PathBuf,
    pub(crate) way: Way,
    pub(crate) answers: Answers,
    pub(crate) directory: Directory,
    pub(crate) entries: EntrySet,
    pub(crate) clock: Clock,
    pub(crate) rng: ChaCha20Rng,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) ring: Arc<Mutex<Ring>>,
    pub(crate) pacer: Arc<Pacer>,
    pub(crate) counters: Arc<LinkCounters>,
    pub(crate) view: watch::Sender<View>,
    /// When to look for a newer document.
    pub(crate) refresh_at: Instant,
    /// From when exits may be asked for one, too.
    pub(crate) exits_at: Instant,
    pub(crate) complaints: Mutex<Complaints>,
    /// True: the client is to end.
    pub(crate) leaving: watch::Receiver<bool>,
    /// Why it is to rest, if it is.
    pub(crate) hold: watch::Receiver<Option<Hold>>,
}

/// Keeps the log quiet: trouble is worth a line when it lasts, and not again while it does.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    since: Option<Instant>,
    said: bool,
}

impl Complaints {
    /// True if this trouble deserves a line.
    fn trouble(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let lasts = now.since(since) >= LASTING;
        let new = lasts && !self.said;
        self.said |= lasts;
        new
    }
}

/// Who was asked for a newer document.
enum Asked {
    Entry(Result<Heard>),
    Exits([Result<Heard>; 2]),
}

/// Since when the entry in use cannot be reached, and how many have been tried.
struct Outage {
    since: Option<Instant>,
    moves: usize,
    backoff: Duration,
}

impl Outage {
    fn none() -> Self {
        Self { since: None, moves: 0, backoff: FIRST_BACKOFF }
    }
}

impl Supervisor {
    /// Runs until it is told to leave, or the task is aborted.
    pub(crate) async fn run(mut self) {
        // The cached document, if it still holds.
        self.adopt(self.clock.now(), None);
        let mut outage = Outage::none();
        let mut retry = FIRST_BACKOFF;
        let mut starting = true;
        loop {
            if *self.leaving.borrow() {
                self.set_phase(Phase::Refusing("the client was stopped".into()));
                return self.tell(Command::Suspend);
            }
            self.mind_the_clock();
            let hold = self.hold.borrow().clone();
            if let Some(hold) = hold {
                self.rest(hold).await;
                // What is known has perhaps ended meanwhile: as at the start, there is hope for a first answer.
                starting = true;
                continue;
            }
            let now = self.clock.now();
            if let Err(error) = self.ready(now) {
                // Fail closed: no stream goes on, and nothing takes another way. Only a client that starts may
                // hope for the first answer.
                self.set_phase(match std::mem::replace(&mut starting, false) {
                    true => Phase::Connecting("fetching the consensus".into()),
                    false => Phase::Refusing(error.to_string()),
                });
                self.tell(Command::Suspend);
                match self.bootstrap().await {
                    Ok(()) => retry = FIRST_BACKOFF,
                    Err(error) if error.kind() == ErrorKind::Outdated => {
                        self.set_phase(Phase::Outdated(error.to_string()));
                        // Only the network can change that, and will hardly.
                        let mut leaving = self.leaving.clone();
                        let _ = tokio::time::timeout(OUTDATED_RETRY, told(&mut leaving)).await;
                    }
                    Err(error) => {
                        // What stands in the way of all says enough; else what is held matters, too.
                        let known = self.ready(self.clock.now()).err();
                        let why = match (own_fault(&error, &self.way), known) {
                            (Some(why), _) => why,
                            (None, Some(known))
                                if self.answers.portal().is_none() && self.skew().is_none() =>
                            {
                                format!("{known}; {error}")
                            }
                            (None, _) => error.to_string(),
                        };
                        self.set_phase(Phase::Refusing(why));
                        self.pause(&mut retry, LONGEST_RETRY).await;
                    }
                }
                continue;
            }
            starting = false;
            let Some((entry, address)) = self.current_entry(now) else {
                let why = "none of this client's entries is in the consensus, and while that holds it asks no other relay; \
                    an entry that is unlisted for 24 hours is replaced";
                self.set_phase(Phase::Refusing(why.into()));
                self.refresh_if_due(now).await;
                self.pause(&mut retry, LONGEST_RETRY).await;
                continue;
            };
            match self.connect(&entry, address).await {
                Ok((link, parameters)) => {
                    let error = self.serve(link, parameters, &entry, address).await;
                    tracing::debug!("link ended: {error}");
                    if *self.leaving.borrow()
                        || self.hold.borrow().is_some()
                        || self.clock.wall_clock_was_set().is_some()
                    {
                        continue;
                    }
                    let ended = self.clock.now();
                    // An entry that welcomes and hangs up, again and again, is as good as unreachable.
                    if ended.since(now) >= STEADY {
                        outage = Outage::none();
                    }
                    if error.kind() == ErrorKind::TimedOut {
                        outage.since.get_or_insert(ended - link::SILENCE);
                    }
                    self.unreachable(&error, &mut outage).await;
                }
                Err(error) => self.unreachable(&error, &mut outage).await,
            }
        }
    }

    /// No stream goes on, and nothing is sent, until the reason changes. (spec: CLIENT-7)
    async fn rest(&mut self, hold: Hold) {
        self.set_phase(match hold.wakes {
            true => Phase::Connecting(hold.reason.clone()),
            false => Phase::Refusing(hold.reason.clone()),
        });
        self.tell(Command::Suspend);
        let mut leaving = self.leaving.clone();
        let mut changes = self.hold.clone();
        tokio::select! {
            () = told(&mut leaving) => {}
            // An error says that nobody is left who could say more: then the task is aborted, too.
            _ = changes.wait_for(|now| now.as_ref() != Some(&hold)) => {}
        }
    }

    /// A clock that was set makes the documents' dates mean another time: starts over by a new one.
    fn mind_the_clock(&mut self) {
        let Some(set) = self.clock.wall_clock_was_set() else { return };
        tracing::warn!("{set}: all connections are reset, and the client starts over by the new time");
        self.clock = self.clock.anew();
        self.refresh_at = self.clock.now();
        self.exits_at = self.refresh_at;
        self.directory.skew.forget_clocks();
        *self.complaints.lock().unwrap_or_else(PoisonError::into_inner) = Complaints::default();
        self.set_phase(Phase::Connecting(format!("{set}: starting over")));
        self.tell(Command::StartOver(self.clock));
        self.adopt(self.clock.now(), None);
    }

    /// Fails with the reason when no document, or none that paths can be drawn from, is held.
    fn ready(&self, now: Instant) -> Result<()> {
        let topology = self.directory.live(now)?.topology(now);
        match Held::lacks(&topology) {
            Some(reason) => Err(Error::new(ErrorKind::NoNetwork, reason)),
            None => Ok(()),
        }
    }

    /// Looks for a document when there is none to use: asks the kept entries first, and mirrors only when
    /// there is no other way to a live one. (spec: ENTRY-1)
    async fn bootstrap(&mut self) -> Result<()> {
        let now = self.clock.now();
        let known = self.directory.held().map(|held| held.entries(now)).unwrap_or_default();
        let kept: Vec<RelayId> = self.entries.in_order().map(|entry| entry.id).collect();
        let mirrors: Vec<_> = self.network.mirrors.iter().map(|mirror| (mirror.id, mirror.address)).collect();
        let live = self.directory.live(now).is_ok();
        let candidates = whom_to_ask(&kept, &known, mirrors, live, &mut self.rng);
        let tried = candidates.len();
        let mut last = None;
        for (id, address) in candidates {
            let (rules, held) = (self.directory.rules(), self.directory.held().cloned());
            let heard = fetch(address, id, &self.way, &rules, held.as_ref()).await;
            self.answers.note(id, &heard);
            let result = match heard {
                Ok(heard) => self.hear(heard, Some(id), Some(id)).await,
                Err(error) => Err(error),
            };
            match result.and_then(|_| self.ready(self.clock.now())) {
                Ok(()) => return Ok(()),
                // The network has said so, not this relay.
                Err(error) if error.kind() == ErrorKind::Outdated => return Err(error),
                Err(error) => {
                    // Others would be asked by the same way.
                    if own_fault(&error, &self.way).is_some() {
                        return Err(error);
                    }
                    last = Some(error);
                }
            }
        }
        let why = match (self.answers.portal(), last) {
            (Some(portal), _) => portal,
            (None, Some(error)) if let Some(skew) = self.skew() => {
                format!("{skew}: {ADVICE} (tried {tried}; {error})")
            }
            (None, Some(error)) => format!(
                "no valid consensus from any relay that may be asked (tried {tried}; {error}): \
                 are the network up, the network file current and this computer's clock right?"
            ),
            (None, None) if kept.is_empty() => "the network file names no mirror: get a current one".into(),
            (None, None) => "none of this client's entries can be asked for a newer consensus".into(),
        };
        Err(Error::new(ErrorKind::NoNetwork, why))
    }

    /// What is known to be wrong with this computer's clock. (spec: CLIENT-8)
    fn skew(&self) -> Option<crate::ClockSkew> {
        self.directory.skew.finding(self.clock.now())
    }

    /// Takes note of what a relay said, and takes over what it had if that is good; `from` may become an entry of the
    /// set. True if it was news.
    async fn hear(&mut self, heard: Heard, who: Option<RelayId>, from: Option<RelayId>) -> Result<bool> {
        if let Some(time) = heard.time {
            self.directory.skew.hear(who, time, self.clock.now());
        }
        let result = match heard.fetched {
            Ok(fetched) => self.accept(fetched, from).await,
            Err(error) => Err(error),
        };
        let (clock, fault) = (self.skew(), result.as_ref().err().and_then(Error::fault));
        self.view.send_modify(|view| {
            view.status.clock = clock;
            if let Some(fault) = fault {
                *view.status.documents_refused.entry(fault.label().to_owned()).or_default() += 1;
            }
        });
        result
    }

    /// Takes a document, tells the engine, and brings the entry set up to date. True if it was news.
    async fn accept(&mut self, fetched: Fetched, from: Option<RelayId>) -> Result<bool> {
        let now = self.clock.now();
        let news = self.directory.accept(now, &fetched)?;
        if news && !fetched.is_empty() {
            let folder = self.folder.clone();
            let stored = tokio::task::spawn_blocking(move || fetched.store(&folder)).await;
            if let Ok(Err(error)) = stored {
                tracing::warn!("the consensus is used, but not cached: {error}");
            }
        }
        self.adopt(now, from);
        Ok(news)
    }

    /// Makes the held document the one in use.
    fn adopt(&mut self, now: Instant, from: Option<RelayId>) {
        let Ok(held) = self.directory.live(now).cloned() else { return };
        let topology = held.topology(now);
        let listed: Vec<RelayId> = held.entries(now).into_iter().map(|(id, _)| id).collect();
        // A document that lists no entry at all says nothing about any single one.
        if !listed.is_empty() && self.entries.update(now.unix(), &listed, from, &mut self.rng) {
            self.save_entries();
        }
        let epoch = held.consensus.parameters.epoch;
        let fresh_until = held.consensus.fresh_until.instant();
        let draw = self.draw();
        self.refresh_at = match Held::keys_missing(&topology) || now >= fresh_until {
            true => now + refresh::again(epoch, draw),
            false => refresh::next(fresh_until, epoch, draw),
        };
        let status = Status {
            network: held.consensus.network.clone(),
            consensus_epoch: Some(held.consensus.epoch.0),
            consensus_valid_until: Some(held.consensus.valid_until.0),
            // (spec: LOAD-2)
            anonymity: Anonymity { pool: held.consensus.pool.map(f64::from) },
            relays: held.consensus.relays.len(),
            exits: by_country(&topology, |id| held.consensus.relay(id).map_or(0, |relay| relay.weight)),
            ..Status::default()
        };
        self.pacer.set_parameters(&topology.parameters);
        self.view.send_modify(|view| {
            let before = std::mem::take(&mut view.status);
            let Status { entry, entry_since, clock, documents_refused, .. } = before;
            view.status = Status { entry, entry_since, clock, documents_refused, ..status };
        });
        self.tell(Command::Topology(Arc::new(topology)));
    }

    /// The entry to use, with its address: the kept one, or the next that is listed.
    fn current_entry(&mut self, now: Instant) -> Option<(Entry, SocketAddr)> {
        let listed = self.directory.live(now).ok()?.entries(now);
        let address =
            |entry: &Entry| listed.iter().find(|(id, _)| *id == entry.id).map(|(_, address)| *address);
        if self.entries.current().and_then(address).is_none() && self.entries.advance() {
            self.save_entries();
        }
        let entry = self.entries.current()?.clone();
        let address = address(&entry)?;
        self.view.send_modify(|view| {
            view.status.entry = Some(entry.id.to_hex());
            view.status.entry_since = Some(entry.since.0);
        });
        Some((entry, address))
    }

    async fn connect(&mut self, entry: &Entry, address: SocketAddr) -> Result<(EntryLink, Parameters)> {
        let parameters = self.directory.live(self.clock.now())?.consensus.parameters.clone();
        self.pacer.set_parameters(&parameters);
        let link = link::connect(address, entry, parameters.geometry, &self.pacer, &self.way).await;
        self.answers.note(entry.id, &link);
        Ok((link?, parameters))
    }

    /// One link's life; returns why it ended.
    async fn serve(
        &mut self,
        link: EntryLink,
        parameters: Parameters,
        entry: &Entry,
        address: SocketAddr,
    ) -> Error {
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        // The key period may have changed since the document was adopted.
        self.adopt_current_period();
        self.tell(Command::Entry(entry.id, link.address));
        let (cells, waiting) = mpsc::channel(CELLS_WAITING);
        // Dropped with this future: the tasks end with the link.
        let mut tasks = JoinSet::new();
        tasks.spawn(link::send(link.writer, waiting));
        tasks.spawn(link::receive(
            link.reader,
            parameters.geometry,
            Arc::clone(&self.mailbox),
            Arc::clone(&self.pacer),
            Arc::clone(&self.counters),
        ));
        self.await_reserve().await;
        let line = Line {
            geometry: parameters.geometry,
            ring: Arc::clone(&self.ring),
            pacer: Arc::clone(&self.pacer),
            mailbox: Arc::clone(&self.mailbox),
            counters: Arc::clone(&self.counters),
            writer: cells,
        };
        let slots =
            seeded_rng().map_err(Error::from).and_then(|rng| SlotThread::spawn(line, self.clock, rng));
        let slots = match slots {
            Ok(slots) => slots,
            Err(error) => return error,
        };
        self.set_phase(Phase::Connected);
        let mut fetching: Option<JoinHandle<Asked>> = None;
        let mut leaving = self.leaving.clone();
        let mut hold = self.hold.clone();
        loop {
            let now = self.clock.now();
            if let Some(set) = self.clock.wall_clock_was_set() {
                return Error::new(ErrorKind::NoNetwork, set.to_string());
            }
            let Ok(held) = self.directory.live(now) else {
                return Error::new(ErrorKind::NoNetwork, "the consensus has ended");
            };
            let ends = held.consensus.valid_until.instant();
            let changes = held.consensus.schedule().next_change(now);
            let wake =
                if fetching.is_some() { ends.min(changes) } else { ends.min(changes).min(self.refresh_at) };
            tokio::select! {
                () = async { tokio::select! { () = told(&mut leaving) => {}, () = told_to_rest(&mut hold) => {} } } => {
                    // Joins the thread, and so ends the line of cells: what is in it is sent, then the entry
                    // is told that this was all, and what it has sent until then is taken.
                    drop(slots);
                    let ended = async { while tasks.join_next().await.is_some() {} };
                    let _ = tokio::time::timeout(GOODBYE_TIME, ended).await;
                    return Error::new(ErrorKind::NoNetwork, "the client has ended the link");
                }
                ended = tasks.join_next() => {
                    let lost = || Error::new(ErrorKind::Other, "the link's task ended");
                    return ended.and_then(|result| result.ok()).unwrap_or_else(lost);
                }
                asked = finished(&mut fetching) => {
                    fetching = match asked {
                        Asked::Entry(heard) => {
                            self.refreshed(heard, entry.id).await;
                            self.ask_exits()
                        }
                        Asked::Exits(answers) => {
                            for heard in answers {
                                self.heard_by_exit(heard).await;
                            }
                            None
                        }
                    };
                    let now = self.clock.now();
                    let Ok(held) = self.directory.live(now) else { continue };
                    if held.consensus.parameters != parameters {
                        return Error::new(ErrorKind::NoNetwork, "the network's parameters have changed");
                    }
                    if !held.entries(now).iter().any(|(id, _)| *id == entry.id) {
                        return Error::new(ErrorKind::NoNetwork, "the entry is no longer in the consensus");
                    }
                }
                () = tokio::time::sleep(self.clock.until(wake).min(LONGEST_SLEEP)) => {
                    let now = self.clock.now();
                    if now >= changes {
                        self.adopt_current_period();
                    }
                    if now >= self.refresh_at && fetching.is_none() {
                        let (id, way) = (entry.id, self.way.clone());
                        let (rules, held) = (self.directory.rules(), self.directory.held().cloned());
                        fetching = Some(tokio::spawn(async move {
                            Asked::Entry(fetch(address, id, &way, &rules, held.as_ref()).await)
                        }));
                    }
                }
            }
        }
    }

    /// The first slots must find finished packets, too. The engine has been told what to build them for.
    async fn await_reserve(&self) {
        let waiting = async {
            while self.ring.lock().unwrap_or_else(PoisonError::into_inner).is_low() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        // A machine that takes longer sends what it has: an entry takes no silent link.
        let _ = tokio::time::timeout(RESERVE_TIME, waiting).await;
    }

    /// Whoever keeps a client from new documents must have its entry and the exits that it draws: after the entry, two
    /// exits are asked through the mixnet, and the newest counts. (spec: DIR-19)
    fn ask_exits(&mut self) -> Option<JoinHandle<Asked>> {
        let now = self.clock.now();
        let held = self.directory.held()?.clone();
        if now < self.exits_at {
            return None;
        }
        let epoch = held.consensus.parameters.epoch;
        self.exits_at = now + epoch / 4;
        let (mailbox, rules) = (Arc::clone(&self.mailbox), self.directory.rules());
        Some(tokio::spawn(async move {
            Asked::Exits(by_two_exits(&mailbox, &rules, &held, patience(epoch)).await)
        }))
    }

    /// What came of asking an exit.
    async fn heard_by_exit(&mut self, heard: Result<Heard>) {
        let result = match heard {
            Ok(heard) => self.hear(heard, None, None).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(true) => tracing::debug!("an exit had a newer consensus than the entry"),
            Ok(false) => {}
            Err(error) => tracing::debug!("no newer consensus by an exit: {error}"),
        }
    }

    /// What came of a look for a newer document.
    async fn refreshed(&mut self, heard: Result<Heard>, entry: RelayId) {
        let result = match heard {
            Ok(heard) => self.hear(heard, Some(entry), None).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::debug!("no newer consensus: {error}");
            let epoch = self.directory.held().map_or(Duration::ZERO, |held| held.consensus.parameters.epoch);
            let draw = self.draw();
            self.refresh_at = self.clock.now() + refresh::again(epoch, draw);
        }
    }

    /// Without a link: asks the entries of the set for a newer document when that is due.
    async fn refresh_if_due(&mut self, now: Instant) {
        if now < self.refresh_at {
            return;
        }
        if let Err(error) = self.bootstrap().await {
            tracing::debug!("no newer consensus: {error}");
        }
    }

    /// The engine learns of a new key period from the document that it has.
    fn adopt_current_period(&mut self) {
        let now = self.clock.now();
        let refresh_at = self.refresh_at;
        self.adopt(now, None);
        // Only a new document moves the next look for one.
        self.refresh_at = refresh_at;
    }

    /// There is no link to the entry: waits, and goes on to the next of the set after ten seconds.
    async fn unreachable(&mut self, error: &Error, outage: &mut Outage) {
        if let Some(why) = own_fault(error, &self.way) {
            // No entry is to blame: this one keeps its place.
            outage.since = None;
            self.set_phase(Phase::Refusing(why));
            let mut backoff = outage.backoff;
            self.pause(&mut backoff, LONGEST_BACKOFF).await;
            outage.backoff = backoff;
            return;
        }
        let now = self.clock.now();
        let since = *outage.since.get_or_insert(now);
        if now.since(since) >= PATIENCE {
            outage.moves += 1;
            outage.since = Some(now);
            outage.backoff = FIRST_BACKOFF;
            if self.entries.advance() {
                self.save_entries();
            }
            // What another entry says is news.
            self.refresh_at = self.refresh_at.min(now + Duration::from_secs(1));
        }
        let count = self.entries.in_order().count();
        let portal = self.answers.portal();
        self.set_phase(match (portal, outage.moves >= count) {
            (Some(portal), gone) if gone || self.answers.is_certain() => Phase::Refusing(portal),
            (Some(portal), _) => Phase::Connecting(portal),
            (None, true) => Phase::Refusing(format!(
                "none of this client's {count} entries can be reached ({error}): is the network up?"
            )),
            (None, false) => Phase::Connecting(format!("there is no link to the entry: {error}")),
        });
        let mut backoff = outage.backoff;
        self.pause(&mut backoff, LONGEST_BACKOFF).await;
        outage.backoff = backoff;
    }

    /// Waits for about `time`, which doubles up to `longest`.
    async fn pause(&mut self, time: &mut Duration, longest: Duration) {
        let wait = refresh::between(*time / 2, *time, self.draw());
        *time = (*time * 2).min(longest);
        tokio::time::sleep(wait).await;
    }

    /// From 0 to 1.
    fn draw(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn save_entries(&self) {
        if let Err(error) = self.entries.save(&self.folder.join(FILE)) {
            tracing::warn!("{error}");
        }
    }

    fn set_phase(&self, phase: Phase) {
        let now = self.clock.now();
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        match &phase {
            Phase::Connected => *complaints = Complaints::default(),
            Phase::Connecting(_) => {}
            Phase::Refusing(reason) | Phase::Outdated(reason) => {
                if complaints.trouble(now) {
                    tracing::warn!("not connected: {reason}");
                }
            }
        }
        drop(complaints);
        self.view.send_if_modified(|view| {
            if view.phase == phase {
                return false;
            }
            view.phase = phase;
            true
        });
    }

    fn tell(&self, command: Command) {
        // The line is full only when the engine stands still; then nothing works, and the status says so.
        if self.mailbox.command(command).is_err() {
            tracing::warn!("the engine does not take commands: restart the client");
        }
    }
}

/// Whom to ask for a document, in this order: the `kept` entries whose addresses are known. Mirrors only if
/// there is no live document, or no entry was drawn yet: otherwise a client could be made to show itself to
/// relay after relay, by a consensus that does not list its entries.
fn whom_to_ask(
    kept: &[RelayId],
    known: &[(RelayId, SocketAddr)],
    mut mirrors: Vec<(RelayId, SocketAddr)>,
    live: bool,
    rng: &mut ChaCha20Rng,
) -> Vec<(RelayId, SocketAddr)> {
    let address = |id: &RelayId| known.iter().chain(&mirrors).find(|(other, _)| other == id).copied();
    let mut candidates: Vec<_> = kept.iter().filter_map(address).collect();
    if live && !kept.is_empty() {
        return candidates;
    }
    mirrors.retain(|mirror| !candidates.contains(mirror));
    while let Some(index) = below(mirrors.len(), rng) {
        candidates.push(mirrors.swap_remove(index));
    }
    candidates
}

/// What to say when the upstream proxy, or the address to leave by, and no relay behind it, stands in the way.
fn own_fault(error: &Error, way: &Way) -> Option<String> {
    if let Some(error) = way.source_fault() {
        return Some(format!(
            "nothing can leave by the address of `outbound` ({error}); give one that this computer has, or leave the \
             key out"
        ));
    }
    let fault = error.upstream().filter(|fault| fault.is_own())?;
    Some(format!("{fault}; {}", fault.advice()))
}

/// Returns when the client is to end.
async fn told(leaving: &mut watch::Receiver<bool>) {
    // If nobody is left to tell, the task is aborted anyway.
    let _ = leaving.wait_for(|leave| *leave).await.is_ok();
}

/// The fetch's result; never, when there is none.
async fn finished(fetching: &mut Option<JoinHandle<Asked>>) -> Asked {
    match fetching {
        Some(task) => task
            .await
            .unwrap_or_else(|_| Asked::Entry(Err(Error::new(ErrorKind::Other, "the fetch ended early")))),
        None => std::future::pending().await,
    }
}

/// Trouble shorter than this is not logged: a network that boots, a line that hiccups.
const LASTING: Duration = Duration::from_secs(5);
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(3);
const OUTDATED_RETRY: Duration = Duration::from_secs(60);
/// How long an entry may be out of reach before the next of the set is used.
const PATIENCE: Duration = Duration::from_secs(10);
/// A link that lived for so long was a good one.
const STEADY: Duration = Duration::from_secs(10);
/// Timers stand still while the machine sleeps, the clock of the documents goes on, and the wall clock may be
/// set: so looks again at times.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
/// How long the slots of a new link wait for their reserve.
const RESERVE_TIME: Duration = Duration::from_secs(1);
/// How long the entry may take to close a link after the client's last cell.
const GOODBYE_TIME: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: [u8; 0] = [];

    #[test]
    fn mirrors_are_asked_only_where_there_is_no_other_way() {
        let mut rng = seeded_rng().unwrap();
        let relay = |n: u8| (RelayId([n; 32]), SocketAddr::from(([127, 0, 0, n], 7)));
        let mut ask = |kept: &[u8], live| {
            let kept: Vec<_> = kept.iter().map(|&n| relay(n).0).collect();
            let found = whom_to_ask(&kept, &[relay(1)], vec![relay(2), relay(3)], live, &mut rng);
            let mut numbers: Vec<u8> = found.iter().map(|(id, _)| id.0[0]).collect();
            numbers.sort_unstable();
            numbers
        };
        // Entries by the consensus' addresses, or the network file's; nobody else while a document lives.
        assert_eq!(ask(&[1, 2], true), [1, 2]);
        assert_eq!(ask(&[9], true), NOBODY);
        // Without one, and before the first entry is drawn, mirrors are the only way.
        assert_eq!(ask(&[9], false), [2, 3]);
        assert_eq!(ask(&[2], false), [2, 3]);
        assert_eq!(ask(&[], true), [2, 3]);
        assert_eq!(ask(&[], false), [2, 3]);
    }
}
