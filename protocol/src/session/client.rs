//! The client's end of a session.
//!
//! The client knows every delay that it drew: of its own packets, and of the SURBs that it gave out. So each
//! packet has a due time, and loss is declared packet by packet. Outward: a reply that was sent well after a
//! packet was due, and does not acknowledge it, says that it is lost. Homeward: a SURB that the service
//! neither holds nor has answered with by its due time was burned for a reply that is lost. (spec:
//! SESSION-1 to SESSION-4, SESSION-10, SESSION-11, SESSION-13, STREAM-5 to STREAM-8)

use super::estimate::{Lateness, seconds_between, shifted};
use super::filling::Filling;
use super::flows::Flows;
use super::keys::{ForwardSecret, ServiceKey, SessionKeys, TAG_SIZE, ephemeral};
use super::packet::{
    BACKLOG, KNOWN_HEADER, Name, OPENING_HEADER, Phase, parse_homeward, put_header, read_homeward,
};
use crate::geometry::{Geometry, LAYERS};
use crate::id::{PacketNumber, Period, RelayId, StreamId};
use crate::sphinx::Surb;
use crate::stream::{RangeSet, Sent, Streams};
use crate::time::Instant;
use crate::wire::Reader;
use crate::wire::frame::{Frame, HINTED_SURB_SIZE};
use crate::wire::target::{Host, Target};
use crate::{Error, ErrorKind, Result};
use rand_core::CryptoRng;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// A SURB that was just made for a session.
#[derive(Debug)]
pub struct FreshSurb {
    /// To give away.
    pub surb: Surb,
    /// Low byte of its key period.
    pub hint: u8,
    /// Sum of the delays drawn for it.
    pub delay: Duration,
}

/// What the session wants of the next payload slot, most urgent last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nothing.
    None,
    /// SURBs or acks could go.
    Supply,
    /// The service is about to run out of SURBs.
    Starving,
    /// Streams have something to send.
    Data,
}

/// A datagram that came home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncomingDatagram {
    /// The client's name for the exchange.
    pub flow: u64,
    /// From whom.
    pub source: Target,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// Replies per second right after the application woke the session: a first byte waits some milliseconds.
pub const WAKING_RATE: f64 = 120.0;
/// Replies per second while nothing comes.
pub const WAITING_RATE: f64 = 60.0;
/// Replies per second while every stream has plenty to send: acknowledgements, for whose SURBs the data makes room.
const SENDING_RATE: f64 = 12.0;
/// Replies per second while streams are open and silent.
pub const IDLE_RATE: f64 = 5.0;
/// How long after the last sign of life a session counts as busy, beyond [`FAR`].
const BUSY: Duration = Duration::from_millis(1_350);
/// How fresh a word about waiting data must be to count as true now.
const JUST_NOW: Duration = Duration::from_millis(250);
/// A stream that has more than this left to send waits for nothing else yet.
const PLENTY: u64 = 64 * 1024;
/// How long a session counts as just woken, beyond [`FAR`].
const WAKING: Duration = Duration::from_millis(650);
/// So many mean round trips are enough for nearly all packets and answers: a session that does not wait so long takes
/// what is on its way for lost or asleep. What else it waits for is the lines and slots, whatever the mixes' delay.
const FAR: f64 = 1.25;
/// Replies are given out ahead for [`FAR`] and so many seconds: SURBs that are on their way bring nothing yet, and
/// packets of them come in clusters.
const SUPPLY_AHEAD: f64 = 0.35;
/// SURBs in the first packets: they are built while the user waits.
const FIRST_SURBS: usize = 4;
/// How long the service may be silent, beyond [`FAR`] and the pauses that its rate leaves, before a packet goes out
/// only to hear of it. The slot is there anyway, so this is cheap; after the first probes it is done at leisure.
const PROBE: Duration = Duration::from_millis(250);
const PROBE_LATER: Duration = Duration::from_millis(2_500);
const EAGER_PROBES: u32 = 40;
/// A service that was allotted less counts as if it had been allotted this.
const LEAST_RATE: f64 = 1.0;
/// Pauses between two replies, at the rate that the service was allotted: one in fifty lasts longer.
const PAUSES: f64 = 4.0;
/// Over this time the replies of a session are counted against its rate. What a client can supply at all is
/// little more than its highest rate, so it takes a while to tell haste from chance.
const RATE_WINDOW: Duration = Duration::from_secs(10);
/// Mixing moves so many seconds' replies into the window, and chance as many standard deviations of their number.
const MIXING_SPREAD: f64 = 0.5;
const RATE_DEVIATIONS: f64 = 5.0;
/// So few replies are no burst, whatever was allotted.
const RATE_FEW: f64 = 10.0;
/// How long replies at a rate that has been lowered may still come, beyond [`FAR`].
const RATE_SETTLES: Duration = Duration::from_secs(2);
/// Acks wait no longer than this for company.
const ACK_DELAY: Duration = Duration::from_millis(100);
/// Bytes of a packet that acks may take.
const ACK_ROOM: usize = 400;
/// Ranges of lost replies in one packet: so many fit into [`ACK_ROOM`] whatever their numbers.
const LOST_RANGES: usize = 40;
/// Ranges of replies to be reported as lost; the oldest are left to the service's own patience.
const MAX_LOST: usize = 1024;
/// Packets in flight: so many leave in many seconds. A service that acknowledges nothing and hides its clock
/// gets no more: the oldest counts as lost.
const MAX_SENT: usize = 8192;
/// Ranges of replies that came: at so many, only the highest are told.
const MAX_RECEIVED: usize = 1024;
const KEPT_RECEIVED: usize = 768;
/// How long an exchange of datagrams lives at the service after the last one.
const EXCHANGE: Duration = Duration::from_secs(60);
/// Datagrams that wait for a slot; the oldest is dropped.
const MAX_DATAGRAMS: usize = 64;

/// One session at the client's end.
#[derive(Debug)]
pub struct ClientSession {
    exit: RelayId,
    opened: Instant,
    /// What nearly all round trips take in the mixes.
    far: Duration,
    hint: u8,
    encapsulation: Vec<u8>,
    early: SessionKeys,
    later: Option<SessionKeys>,
    secret: Option<ForwardSecret>,
    share: [u8; 32],
    answered: bool,
    /// The streams.
    pub streams: Streams,
    next_number: u64,
    sent: BTreeMap<u64, SentPacket>,
    next_surb: u64,
    surbs: BTreeMap<u64, GivenSurb>,
    received: RangeSet,
    /// Since when replies wait to be acknowledged.
    ack_since: Option<Instant>,
    /// Reply numbers to be reported as lost.
    lost_replies: RangeSet,
    rate: f64,
    rate_sequence: u64,
    rate_confirmed: bool,
    rate_in_flight: bool,
    share_of_line: f64,
    lively: Instant,
    woken: Instant,
    loaded: Instant,
    filling: Filling,
    /// How long the last word of waiting data counts as true.
    short_until: Instant,
    /// Since when a word of it is waited for: as it was heard, or had nothing to say before.
    waiting: Instant,
    /// By when the first packet that has left since then should be answered, the way there and back aside.
    answer_due: Option<Instant>,
    probes: u32,
    probe_at: Option<Instant>,
    probe_due: bool,
    outward: Lateness,
    homeward: Lateness,
    datagrams: VecDeque<(u64, Target, Vec<u8>)>,
    incoming: VecDeque<IncomingDatagram>,
    flows: Flows,
    /// The last datagram of an exchange in which the other side may speak up at any time.
    exchanged: Option<Instant>,
    /// By when a datagram should have brought a sign of life, once it has left, and the first packet that can have
    /// carried it.
    asked: Option<(Option<Instant>, u64)>,
    closing: Closing,
    /// Replies since when, and how many may have come by then at the most.
    window: (Instant, u64),
    highest_rate: f64,
    /// The highest rate that the service may go by: of those told since the last one that it has confirmed.
    told_rate: f64,
    /// When that was lowered last.
    lowered: Instant,
    overdrawn: bool,
    statistics: SessionStatistics,
}

/// Counts of one session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionStatistics {
    /// Packets sent outward.
    pub packets: u64,
    /// Of these, declared lost.
    pub packets_lost: u64,
    /// Replies that came.
    pub replies: u64,
    /// Of these, those that carried no application's bytes: acknowledgements, and what keeps the rhythm.
    pub replies_empty: u64,
    /// Replies declared lost.
    pub replies_lost: u64,
    /// Replies that came after they had been declared lost.
    pub replies_late: u64,
}

/// How far the end of a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Closing {
    No,
    Wanted,
    Told,
}

#[derive(Debug)]
struct SentPacket {
    /// When it is due at the service: slot and drawn delays. `None` until it has left.
    due: Option<Instant>,
    built: Instant,
    frames: Vec<Sent>,
    lost_replies: RangeSet,
    surbs: std::ops::Range<u64>,
    rate_sequence: Option<u64>,
}

#[derive(Debug)]
struct GivenSurb {
    made: Instant,
    delay: Duration,
    /// The packet that carries it.
    carrier: u64,
    /// When the reply to it should be here, once it is known to be burned.
    due: Option<Instant>,
    /// Its carrier counts as lost. It may have arrived all the same, and be burned for a reply that must be
    /// asked for again.
    doubtful: bool,
}

impl ClientSession {
    /// Opens a session with the service of `exit`, in a network whose mixes delay a packet by `mean_delay` each.
    /// Nothing is sent before [`Self::build`].
    pub fn new(
        now: Instant,
        exit: RelayId,
        mean_delay: Duration,
        service: &ServiceKey,
        period: Period,
        rng: &mut impl CryptoRng,
    ) -> Result<Self> {
        let (early, encapsulation) = SessionKeys::encapsulate(service, rng)?;
        let (secret, share) = ephemeral(rng);
        Ok(Self {
            exit,
            opened: now,
            far: (mean_delay * 2 * LAYERS as u32).mul_f64(FAR),
            hint: period.hint(),
            encapsulation,
            early,
            later: None,
            secret: Some(secret),
            share,
            answered: false,
            streams: Streams::client(),
            next_number: 0,
            sent: BTreeMap::new(),
            next_surb: 0,
            surbs: BTreeMap::new(),
            received: RangeSet::new(),
            ack_since: None,
            lost_replies: RangeSet::new(),
            rate: WAKING_RATE,
            rate_sequence: 0,
            rate_confirmed: false,
            rate_in_flight: false,
            share_of_line: WAKING_RATE,
            lively: now,
            woken: now,
            loaded: Instant::ZERO,
            filling: Filling::new(now),
            short_until: Instant::ZERO,
            waiting: now,
            answer_due: None,
            probes: 0,
            probe_at: None,
            probe_due: false,
            outward: Lateness::default(),
            homeward: Lateness::default(),
            datagrams: VecDeque::new(),
            incoming: VecDeque::new(),
            flows: Flows::default(),
            exchanged: None,
            asked: None,
            closing: Closing::No,
            window: (now, 0),
            highest_rate: WAKING_RATE,
            told_rate: WAKING_RATE,
            lowered: now,
            overdrawn: false,
            statistics: SessionStatistics::default(),
        })
    }

    /// The exit that it talks to.
    pub fn exit(&self) -> RelayId {
        self.exit
    }

    /// When it was opened.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// Its counts.
    pub fn statistics(&self) -> SessionStatistics {
        self.statistics
    }

    /// How long the service has been silent although it owes an answer, or replies after a datagram: beyond the
    /// pauses that the rate it was allotted leaves, since something left that it could answer.
    pub fn silence(&self, now: Instant) -> Duration {
        let due = match self.owes_answer() {
            true => self.answer_due,
            false => self.asked.and_then(|(due, _)| due),
        };
        due.map_or(Duration::ZERO, |due| now.since(due))
    }

    /// How long streams have waited for any word of the service, whoever is slow.
    pub fn waiting(&self, now: Instant) -> Duration {
        if self.owes_answer() { now.since(self.waiting) } else { Duration::ZERO }
    }

    /// Probes sent since the service was last heard.
    pub fn probes(&self) -> u32 {
        self.probes
    }

    /// No stream, no exchange of datagrams, nothing in flight that matters, for this long.
    pub fn idle(&self, now: Instant) -> Duration {
        match self.streams.is_empty() && self.datagrams.is_empty() && !self.is_exchanging(now) {
            true => now.since(self.lively.max(self.waiting)),
            false => Duration::ZERO,
        }
    }

    /// Opens a stream. From now on the service owes answers.
    pub fn open_stream(&mut self, now: Instant, target: Target) -> Result<StreamId> {
        if !self.owes_answer() {
            self.waiting = now;
            self.answer_due = None;
            self.probes = 0;
        }
        self.touch(now);
        self.streams.open(target)
    }

    /// The application has done something: the session is busy for a while.
    pub fn touch(&mut self, now: Instant) {
        if now.since(self.lively) > self.busy() {
            self.woken = now;
        }
        self.lively = now;
    }

    /// True while the service has, or is expected to have, more data than a trickle.
    pub fn is_loaded(&self, now: Instant) -> bool {
        now.since(self.loaded) < self.busy()
    }

    /// Sets the most replies per second that this session may ask for: its share of what reaches the
    /// client.
    pub fn set_share_of_line(&mut self, rate: f64) {
        self.share_of_line = rate;
    }

    /// Replies per second that the session asks for now, or has asked for.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Replies per second that it could use, if the line were its own; without limit while it is loaded and fills
    /// what it gets.
    pub fn appetite(&self, now: Instant) -> f64 {
        if self.streams.is_empty() && !self.is_exchanging(now) && now.since(self.lively) > self.busy() {
            0.0
        } else if self.is_loaded(now) {
            self.filling.useful()
        } else if self.streams.all_have_left(PLENTY) && !self.is_exchanging(now) {
            SENDING_RATE
        } else if now.since(self.woken) < WAKING + self.far {
            WAKING_RATE
        } else if now.since(self.lively) < self.busy() {
            WAITING_RATE
        } else {
            IDLE_RATE
        }
    }

    /// True if the service has just said that more data waits there than it has replies for, and it is the line
    /// that gives it no more.
    pub fn is_short(&self, now: Instant) -> bool {
        now < self.short_until && self.filling.useful() > self.share_of_line
    }

    /// Bytes that wait to be sent.
    pub fn pending(&self) -> u64 {
        self.streams.pending()
    }

    /// Ends the session: one last packet tells the service.
    pub fn close(&mut self) {
        self.closing = Closing::Wanted.max(self.closing);
    }

    /// True once it takes no more streams.
    pub fn is_closing(&self) -> bool {
        self.closing != Closing::No
    }

    /// True once the packet that tells the service is built, or if it was never told of the session. That packet may
    /// be lost: then the service forgets the session by itself.
    pub fn is_closed(&self) -> bool {
        self.closing == Closing::Told || (self.is_closing() && self.next_number == 0)
    }

    /// True if somebody waits for a packet to tell the service of a stream.
    pub fn opens_a_stream(&self) -> bool {
        self.streams.has_unannounced()
    }

    /// For how long nobody has had anything of it: neither a stream that is not cut off, nor an exchange of datagrams.
    /// `None`: somebody has.
    pub fn unused(&self, now: Instant) -> Option<Duration> {
        let unused = self.streams.is_spent() && self.datagrams.is_empty() && !self.is_exchanging(now);
        unused.then(|| now.since(self.lively.max(self.waiting)))
    }

    /// Queues a datagram: unreliable, the oldest is dropped when too many wait.
    pub fn send_datagram(&mut self, now: Instant, flow: u64, target: Target, bytes: Vec<u8>) {
        if self.datagrams.len() >= MAX_DATAGRAMS {
            self.datagrams.pop_front();
        }
        // A resolver speaks when it is spoken to.
        if target.host != Host::Resolver {
            self.exchanged = Some(now);
        }
        if !self.owes_answer() {
            self.asked.get_or_insert((None, self.next_number));
        }
        self.datagrams.push_back((self.flows.number(flow), target, bytes));
        self.touch(now);
    }

    /// True while the service has a port for this exchange.
    pub fn carries(&self, flow: u64, now: Instant) -> bool {
        self.is_exchanging(now) && self.flows.contains(flow)
    }

    /// True while the service keeps a port open for an exchange of datagrams. (spec: SESSION-11)
    fn is_exchanging(&self, now: Instant) -> bool {
        self.exchanged.is_some_and(|last| now.since(last) < EXCHANGE)
    }

    /// A datagram that came home.
    pub fn poll_datagram(&mut self) -> Option<IncomingDatagram> {
        self.incoming.pop_front()
    }

    /// What the session would do with a slot now.
    pub fn urgency(&mut self, now: Instant) -> Urgency {
        self.adjust_rate(now);
        let wanted = self.supply_target();
        let out = self.outstanding();
        // Of what was given up before the service heard of it, it need not hear.
        let unheard = self.next_number == 0 && self.streams.is_empty() && self.datagrams.is_empty();
        if self.closing == Closing::Told || unheard {
            Urgency::None
        } else if self.streams.wants_to_send() || !self.datagrams.is_empty() || self.is_closing() {
            Urgency::Data
        } else if self.probe_due || !self.lost_replies.is_empty() || (wanted > 0 && out < wanted / 3) {
            Urgency::Starving
        } else if out + 5 <= wanted || self.ack_since.is_some_and(|since| now.since(since) > ACK_DELAY) {
            Urgency::Supply
        } else {
            Urgency::None
        }
    }

    /// Writes the next packet into `message` and returns its number. `make_surb` is called with the number
    /// of each SURB that goes along.
    pub fn build(
        &mut self,
        now: Instant,
        geometry: Geometry,
        message: &mut Vec<u8>,
        mut make_surb: impl FnMut(u64) -> Result<FreshSurb>,
    ) -> Result<PacketNumber> {
        let number = PacketNumber(self.next_number);
        self.next_number += 1;
        let opening = !self.answered;
        // A packet that names the encapsulation is opened with its keys, whatever share the service has shown.
        let (phase, keys) = match &self.later {
            Some(later) if !opening => (Phase::Later, later),
            _ => (Phase::Early, &self.early),
        };
        let outward = keys.outward.clone();
        let (name, header) = match opening {
            true => (Name::Opening { hint: self.hint, encapsulation: &self.encapsulation }, OPENING_HEADER),
            false => (Name::Known { phase, id: self.early.id }, KNOWN_HEADER),
        };
        message.clear();
        put_header(name, number, message);
        // One byte names the service.
        let end = geometry.message() - 1 - header - TAG_SIZE;
        let mut plain = Vec::with_capacity(end + TAG_SIZE);
        let mut packet = SentPacket {
            due: None,
            built: now,
            frames: Vec::new(),
            lost_replies: RangeSet::new(),
            surbs: self.next_surb..self.next_surb,
            rate_sequence: None,
        };

        if !self.received.is_empty() {
            Frame::Ack(self.received.clone()).write(&mut plain, ACK_ROOM);
            self.ack_since = None;
        }
        if !self.lost_replies.is_empty() {
            for range in self.lost_replies.iter().rev().take(LOST_RANGES) {
                packet.lost_replies.insert(range);
            }
            packet.lost_replies.iter().for_each(|range| self.lost_replies.remove(range));
            Frame::Lost(packet.lost_replies.clone()).write(&mut plain, ACK_ROOM);
        }
        if self.later.is_none() {
            Frame::Share(self.share).write(&mut plain, end);
        }
        if opening || !(self.rate_confirmed || self.rate_in_flight) {
            let per_1000_seconds = (self.rate * 1000.0) as u64;
            Frame::Rate { sequence: self.rate_sequence, per_1000_seconds }.write(&mut plain, end);
            packet.rate_sequence = Some(self.rate_sequence);
            self.rate_in_flight = true;
        }
        if self.is_closing() {
            Frame::Close.write(&mut plain, end);
            self.closing = Closing::Told;
        }

        // SURBs that the service needs are kept room for; what streams leave is filled with the others.
        let wanted = self.supply_target().saturating_sub(self.outstanding());
        let (wanted, reserved) = match () {
            () if self.is_closing() => (0, 0),
            () if self.probe_due => (wanted.max(10), 10),
            () if opening && number.0 == 0 => (FIRST_SURBS, FIRST_SURBS),
            () if self.outstanding() * 3 < self.supply_target() => (wanted, 10.min(wanted)),
            () => (wanted, 2.min(wanted)),
        };
        // Never more than half of what is left: in small packets the request itself must find room.
        let reserve = if reserved == 0 { 0 } else { 10 + reserved * HINTED_SURB_SIZE };
        let data_end = end - reserve.min(end.saturating_sub(plain.len()) / 2);
        while let Some((flow, target, bytes)) = self.datagrams.pop_front() {
            let before = plain.len();
            Frame::Datagram { flow, target: target.clone(), bytes: &bytes }.write(&mut plain, end);
            if plain.len() > data_end {
                plain.truncate(before);
                self.datagrams.push_front((flow, target, bytes));
                break;
            }
        }
        let data_end = data_end.max(plain.len());
        self.streams.fill(&mut plain, data_end, &mut packet.frames);
        self.add_surbs(now, (number.0, wanted), end, &mut plain, &mut packet, &mut make_surb)?;
        plain.truncate(end);

        outward.seal(number, message, &mut plain)?;
        message.append(&mut plain);
        self.probe_due = false;
        self.sent.insert(number.0, packet);
        while self.sent.len() > MAX_SENT
            && let Some((&oldest, _)) = self.sent.first_key_value()
        {
            self.statistics.packets_lost += 1;
            self.lose(oldest);
        }
        Ok(number)
    }

    fn add_surbs(
        &mut self,
        now: Instant,
        (carrier, wanted): (u64, usize),
        end: usize,
        plain: &mut Vec<u8>,
        packet: &mut SentPacket,
        make_surb: &mut impl FnMut(u64) -> Result<FreshSurb>,
    ) -> Result<()> {
        let room = end.saturating_sub(plain.len() + 10) / HINTED_SURB_SIZE;
        let count = wanted.min(room);
        if count == 0 {
            return Ok(());
        }
        let first = self.next_surb;
        let mut surbs = Vec::with_capacity(count * HINTED_SURB_SIZE);
        for number in (first..).take(count) {
            let FreshSurb { surb, hint, delay } = make_surb(number)?;
            surbs.push(hint);
            surbs.extend(surb.as_bytes());
            self.surbs.insert(number, GivenSurb { made: now, delay, carrier, due: None, doubtful: false });
            self.next_surb = number + 1;
        }
        Frame::Surbs { first, surbs: &surbs }.write(plain, end);
        packet.surbs = first..self.next_surb;
        Ok(())
    }

    /// The packet left its slot at `now`; `delay` is the sum of the delays drawn for it.
    pub fn sent(&mut self, now: Instant, number: PacketNumber, delay: Duration) {
        self.statistics.packets += 1;
        if let Some(packet) = self.sent.get_mut(&number.0) {
            packet.due = Some(now + delay);
        }
        let answer_due = now + Duration::from_secs_f64(PAUSES / self.rate.max(0.1));
        self.answer_due.get_or_insert(answer_due);
        if let Some((due, first)) = &mut self.asked
            && number.0 >= *first
        {
            due.get_or_insert(answer_due);
        }
        if self.probe_at.is_none() {
            self.probe_at = Some(now + delay + self.patience());
        }
    }

    /// The packet was never sent: what it carried goes into another.
    pub fn discarded(&mut self, number: PacketNumber) {
        self.lose(number.0);
    }

    /// All SURBs given out are dead: the entry or its address for this client has changed. The service's silence until
    /// now was not its own, so it begins anew with the next packet.
    pub fn forget_surbs(&mut self) {
        self.surbs.clear();
        self.probe_due = true;
        self.answer_due = None;
        if let Some((due, _)) = &mut self.asked {
            *due = None;
        }
        self.probes = 0;
    }

    /// Takes the reply to SURB `number`, whose drawn delays sum to `delay`.
    pub fn handle_reply(&mut self, now: Instant, number: u64, delay: Duration, bytes: &[u8]) -> Result<()> {
        let (phase, sealed) = parse_homeward(bytes)?;
        let keys = match (phase, &self.later) {
            (Phase::Early, _) => &self.early,
            (Phase::Later, Some(later)) => later,
            (Phase::Later, None) => return Err(Error::new(ErrorKind::Malformed, "reply out of order")),
        };
        let mut plain = sealed.to_vec();
        keys.homeward.open(PacketNumber(number), &[phase as u8], &mut plain)?;
        let mut reader = Reader::new(&plain);
        let (sent_at, flags) = read_homeward(&mut reader)?;

        self.statistics.replies += 1;
        self.watch_rate(now);
        if self.surbs.remove(&number).is_none() {
            self.statistics.replies_late += 1;
        }
        self.lost_replies.remove(number..number + 1);
        self.received.insert_one(number);
        if self.received.count() > MAX_RECEIVED {
            self.received.keep_highest(KEPT_RECEIVED);
        }
        self.ack_since.get_or_insert(now);
        self.waiting = now;
        self.answer_due = None;
        self.probes = 0;
        self.probe_at = self.owes_answer().then(|| now + self.patience());
        self.homeward.sample(seconds_between(sent_at + delay, now));
        // When the service sent this, by our clock; not before it really did.
        let sent_here = shifted(sent_at, self.homeward.least());
        let held_known = self.homeward.bound();

        let (mut acked, mut held, mut empty) = (RangeSet::new(), None, true);
        while let Some(frame) = Frame::read(&mut reader)? {
            match frame {
                Frame::Ack(ranges) => {
                    self.handle_ack(now, sent_here, &ranges);
                    acked = ranges;
                }
                Frame::Held(ranges) => held = Some(ranges),
                Frame::Share(theirs) => {
                    if let Some(secret) = self.secret.take() {
                        self.later = Some(self.early.with_forward_secrecy(&secret, &theirs)?);
                    }
                }
                Frame::Datagram { flow, target, bytes } => {
                    empty = false;
                    // What answers no exchange of this session is nobody's.
                    if self.incoming.len() < MAX_DATAGRAMS
                        && let Some(flow) = self.flows.flow(flow)
                    {
                        self.lively = now;
                        if target.host != Host::Resolver {
                            self.exchanged = Some(now);
                        }
                        self.incoming.push_back(IncomingDatagram {
                            flow,
                            source: target,
                            bytes: bytes.to_vec(),
                        });
                    }
                }
                Frame::Data { .. } => {
                    empty = false;
                    self.lively = now;
                    self.streams.handle_frame(frame)?;
                }
                Frame::Connected(_) | Frame::Window { .. } | Frame::Reset { .. } => {
                    self.streams.handle_frame(frame)?;
                }
                _ => return Err(Error::new(ErrorKind::Malformed, "frame from the wrong side")),
            }
        }
        self.statistics.replies_empty += u64::from(empty);
        match self.is_loaded(now) {
            true => self.filling.note(now, !empty, self.rate, self.far),
            false => self.filling = Filling::new(now),
        }
        if flags & BACKLOG != 0 {
            self.loaded = now;
            self.lively = now;
            // By the rate of now: when all has come, that falls to nothing, and the word is no fresher for it.
            self.short_until =
                now + JUST_NOW.max(Duration::from_secs_f64(PAUSES / self.rate.max(LEAST_RATE)));
        }
        if let Some(held) = held {
            // The highest ranges are sent first; below a list that may have been cut, nothing is known.
            let known_from = if held.count() >= 48 { held.first().map_or(0, |range| range.start) } else { 0 };
            for (&number, given) in self.surbs.range_mut(known_from..) {
                // Only what had arrived there when this reply was sent: replies overtake one another.
                if given.due.is_none() && acked.contains(given.carrier) && !held.contains(number) {
                    given.due = Some(shifted(sent_at + given.delay, held_known));
                }
            }
        }
        self.find_lost(now);
        Ok(())
    }

    /// True once the service has burned SURBs well ahead of the rate that it was allotted: a burst delays
    /// this client's other sessions at the entry, and so links them.
    pub fn is_overdrawn(&self) -> bool {
        self.overdrawn
    }

    fn watch_rate(&mut self, now: Instant) {
        let (since, count) = &mut self.window;
        *count += 1;
        let expected = self.highest_rate * (RATE_WINDOW.as_secs_f64() + MIXING_SPREAD);
        self.overdrawn |= *count as f64 > expected + RATE_DEVIATIONS * expected.sqrt() + RATE_FEW;
        if now.since(*since) > RATE_WINDOW {
            self.window = (now, 0);
            // What was sent at the rate before may still be on its way.
            if now.since(self.lowered) > RATE_SETTLES + self.far {
                self.highest_rate = self.told_rate;
            }
        }
    }

    fn handle_ack(&mut self, now: Instant, sent_here: Instant, ranges: &RangeSet) {
        self.answered = true;
        self.asked = self.asked.filter(|(_, first)| ranges.iter().all(|range| range.end <= *first));
        for range in ranges.iter() {
            let numbers: Vec<u64> = self.sent.range(range).map(|(number, _)| *number).collect();
            for number in numbers {
                let Some(packet) = self.sent.remove(&number) else { continue };
                if let Some(due) = packet.due {
                    self.outward.sample(seconds_between(due, sent_here));
                }
                packet.frames.iter().for_each(|sent| self.streams.acked(sent));
                if packet.rate_sequence == Some(self.rate_sequence) {
                    self.rate_confirmed = true;
                    if self.rate < self.told_rate {
                        self.told_rate = self.rate;
                        self.lowered = now;
                    }
                }
                // The service has forgotten these replies, so that they may count as received from now on.
                packet.lost_replies.iter().for_each(|range| self.received.insert(range));
            }
        }
        // What was due well before this reply was sent and is not acknowledged by it is lost.
        let bound = self.outward.bound();
        let overdue: Vec<u64> = self
            .sent
            .iter()
            .filter(|(_, packet)| packet.due.is_some_and(|due| seconds_between(due, sent_here) > bound))
            .map(|(number, _)| *number)
            .collect();
        for number in overdue {
            self.statistics.packets_lost += 1;
            self.lose(number);
        }
    }

    fn lose(&mut self, number: u64) {
        let Some(packet) = self.sent.remove(&number) else { return };
        packet.frames.iter().for_each(|sent| self.streams.lost(sent));
        packet.lost_replies.iter().for_each(|range| self.lost_replies.insert(range));
        self.lost_replies.keep_highest(MAX_LOST);
        if packet.rate_sequence == Some(self.rate_sequence) {
            self.rate_in_flight = false;
        }
        for (_, given) in self.surbs.range_mut(packet.surbs) {
            given.doubtful = true;
        }
    }

    fn find_lost(&mut self, now: Instant) {
        let lost: Vec<u64> = self
            .surbs
            .iter()
            .filter(|(_, given)| given.due.is_some_and(|due| due <= now))
            .map(|(number, _)| *number)
            .collect();
        for number in lost {
            self.surbs.remove(&number);
            self.lost_replies.insert_one(number);
            self.statistics.replies_lost += 1;
        }
        self.lost_replies.keep_highest(MAX_LOST);
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Instant, surb_life: Duration) {
        self.find_lost(now);
        while self.surbs.first_key_value().is_some_and(|(_, given)| now.since(given.made) > surb_life) {
            self.surbs.pop_first();
        }
        if self.probe_at.is_some_and(|at| at <= now) {
            self.probe_at = None;
            if self.owes_answer() {
                self.probes += 1;
                self.probe_due = true;
                let patience = self.patience();
                self.probe_at =
                    Some(now + if self.probes < EAGER_PROBES { patience } else { PROBE_LATER.max(patience) });
                // A silent service: what it was sent may be lost with the SURBs for the answer.
                let old: Vec<u64> = self
                    .sent
                    .iter()
                    .filter(|(_, packet)| {
                        packet.due.is_some_and(|due| now.since(due) > patience)
                            || now.since(packet.built) > PROBE_LATER
                    })
                    .map(|(number, _)| *number)
                    .collect();
                for number in old {
                    self.statistics.packets_lost += 1;
                    self.lose(number);
                }
            }
        }
    }

    /// When to call [`Self::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = self.surbs.values().filter_map(|given| given.due).min();
        due.into_iter().chain(self.probe_at).min()
    }

    /// A service with nothing to serve may rest: it was allotted no replies to say so.
    fn owes_answer(&self) -> bool {
        !self.streams.is_empty()
    }

    /// How long the service may be silent before that says something.
    fn patience(&self) -> Duration {
        PROBE + self.far + Duration::from_secs_f64(PAUSES / self.rate.max(LEAST_RATE))
    }

    fn busy(&self) -> Duration {
        BUSY + self.far
    }

    /// SURBs that the service holds or will hold.
    fn outstanding(&self) -> usize {
        self.surbs.values().filter(|given| !given.doubtful).count()
    }

    /// How many SURBs should be out.
    fn supply_target(&self) -> usize {
        let ahead = self.far.as_secs_f64() + SUPPLY_AHEAD;
        if self.rate <= 0.0 || self.is_closing() { 0 } else { (self.rate * ahead) as usize + 5 }
    }

    fn adjust_rate(&mut self, now: Instant) {
        let wanted = self.appetite(now).min(self.share_of_line);
        // Small changes are not worth a packet.
        if (wanted - self.rate).abs() > self.rate.max(wanted) * 0.1 {
            self.rate = wanted;
            self.told_rate = self.told_rate.max(wanted);
            self.highest_rate = self.highest_rate.max(wanted);
            self.rate_sequence += 1;
            self.rate_confirmed = false;
            self.rate_in_flight = false;
        }
    }
}
