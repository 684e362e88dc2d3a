//! Streams: many ordered byte streams within one session, each way with its own end.
//!
//! One machine for both ends. It fills packets with frames and says what it put in ([`Sent`]); the session
//! says later whether that packet arrived or is lost. Lost frames go out again, in another packet and over
//! another route. (spec: STREAM-1 to STREAM-10)

mod ranges;
mod receive;
mod send;

pub use ranges::{MAX_RANGES, RangeSet};

use crate::id::StreamId;
use crate::wire::frame::{DATA_OVERHEAD, Frame};
use crate::wire::target::Target;
use crate::{Error, ErrorKind, Result};
pub(crate) use ranges::RANGE_COST;
use receive::ReceiveBuffer;
use send::SendBuffer;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// Why a stream was reset. The byte on the wire; unknown bytes read as [`ResetReason::General`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum ResetReason {
    /// Anything else.
    General = 1,
    /// The exit's policy forbids the target.
    NotAllowed = 2,
    /// The exit has no route to the target's network.
    NetworkUnreachable = 3,
    /// The target's network has no route to the host.
    HostUnreachable = 4,
    /// The name does not resolve.
    HostNotFound = 5,
    /// The target refused the connection.
    Refused = 6,
    /// The target, or the network between, did not answer in time.
    TimedOut = 7,
    /// The application or the target cut the connection off.
    Closed = 8,
    /// The exit is gone.
    ExitGone = 9,
    /// The client has no network: nothing is sent in any other way.
    NoNetwork = 10,
    /// A bound is reached at one of the ends.
    Exhausted = 11,
}

impl ResetReason {
    /// The reason that this byte stands for.
    pub fn from_code(code: u8) -> Self {
        match code {
            2 => Self::NotAllowed,
            3 => Self::NetworkUnreachable,
            4 => Self::HostUnreachable,
            5 => Self::HostNotFound,
            6 => Self::Refused,
            7 => Self::TimedOut,
            8 => Self::Closed,
            9 => Self::ExitGone,
            10 => Self::NoNetwork,
            11 => Self::Exhausted,
            _ => Self::General,
        }
    }

    /// The reason in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::General => "the connection failed",
            Self::NotAllowed => "the exit's policy forbids this destination",
            Self::NetworkUnreachable => "the exit cannot reach that network",
            Self::HostUnreachable => "the exit cannot reach that host",
            Self::HostNotFound => "the name does not resolve",
            Self::Refused => "the destination refused the connection",
            Self::TimedOut => "the destination did not answer in time",
            Self::Closed => "the connection was cut off",
            Self::ExitGone => "the exit is gone; a new connection takes another",
            Self::NoNetwork => "there is no mixnet connection, and nothing is sent in any other way",
            Self::Exhausted => "a limit on connections or memory is reached",
        }
    }
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes were read.
    Data(usize),
    /// Nothing now; wait for an event.
    Empty,
    /// The peer has finished, and all was read.
    Finished,
}

/// What happened to a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// Service: the client opened a stream.
    Opened(StreamId, Target),
    /// Client: the target accepted.
    Connected(StreamId),
    /// There is something to read, or the end.
    Readable(StreamId),
    /// There is room to write again.
    Writable(StreamId),
    /// Cut off by the other side.
    Reset(StreamId, ResetReason),
}

/// What a packet carried of a stream, to be acknowledged or sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Its opening.
    Open(StreamId),
    /// Its acceptance.
    Connected(StreamId),
    /// A piece of it; with the end if `true`.
    Data(StreamId, Range<u64>, bool),
    /// A window update.
    Window(StreamId),
    /// Its reset.
    Reset(StreamId),
}

/// Bytes that a stream keeps to send.
pub const SEND_CAPACITY: usize = 4 << 20;
/// Bytes of a stream that a client takes before they are read.
pub const RECEIVE_WINDOW: u64 = 4 << 20;
/// Bytes of a stream that a service takes before they are read: slots outward are few, and its memory is everyone's.
pub const UPLOAD_WINDOW: u64 = 2 << 20;
/// Bytes that a stream takes before its opening is there.
pub const EARLY_WINDOW: u64 = 64 * 1024;
/// Streams at a time in one session.
pub const MAX_STREAMS: usize = 256;
/// Streams at a time whose data came before their opening. A client keeps to this.
pub const MAX_UNOPENED: usize = 64;
/// Streams at a time that a service knows: those above [`MAX_STREAMS`] only wait for their refusal to arrive.
const MAX_KNOWN: usize = 2 * MAX_STREAMS;
/// Ranges of numbers of streams that are no more. A client that keeps to the bounds above needs fewer.
const MAX_GONE: usize = 1024;
/// What a stream costs in memory beside its buffers, about: its place in a half empty node of the map, and its
/// target's name.
const STREAM_COST: usize = 2 * size_of::<Stream>() + 320;
/// A stream with no more than this to send goes before those with more.
const INTERACTIVE: u64 = 8 * 1024;

/// All streams of one session at one end.
#[derive(Debug)]
pub struct Streams {
    side: Side,
    streams: BTreeMap<StreamId, Stream>,
    /// Service: numbers of streams that were and are no more: late frames must not raise them. At most
    /// [`MAX_GONE`] ranges: then numbers between the lowest count as gone too.
    gone: RangeSet,
    /// Client: the next stream's number, and so what all lower ones are that do not live.
    next: u32,
    /// What the session may hold in memory.
    allowance: usize,
    /// The session holds that much already: no more data is taken from the peer.
    refusing: bool,
    /// The stream that was served last, for turns.
    turn: StreamId,
    events: VecDeque<StreamEvent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Service,
}

/// A frame that must arrive: to be sent, in flight, arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Control {
    Idle,
    Queued,
    InFlight,
    Done,
}

impl Control {
    fn queue(&mut self) {
        *self = Self::Queued;
    }

    fn lost(&mut self) {
        if *self == Self::InFlight {
            *self = Self::Queued;
        }
    }
}

#[derive(Debug)]
struct Stream {
    target: Option<Target>,
    open: Control,
    /// Its opening was sent once at least: the service may know of it.
    announced: bool,
    connected: Control,
    window: Control,
    reset: Control,
    reset_sent: Option<ResetReason>,
    reset_received: Option<ResetReason>,
    send: SendBuffer,
    receive: ReceiveBuffer,
    /// The application found the buffer full and waits for an event.
    write_blocked: bool,
    finish_seen: bool,
}

impl Stream {
    fn new() -> Self {
        Self {
            target: None,
            open: Control::Idle,
            announced: false,
            connected: Control::Idle,
            window: Control::Idle,
            reset: Control::Idle,
            reset_sent: None,
            reset_received: None,
            send: SendBuffer::new(SEND_CAPACITY, RECEIVE_WINDOW),
            receive: ReceiveBuffer::new(RECEIVE_WINDOW),
            write_blocked: false,
            finish_seen: false,
        }
    }

    /// A client's new stream: little may be sent of it before its opening is acknowledged.
    fn opening(target: Target) -> Self {
        Self {
            target: Some(target),
            open: Control::Queued,
            send: SendBuffer::new(UPLOAD_WINDOW as usize, EARLY_WINDOW),
            ..Self::new()
        }
    }

    /// A service's stream that is not opened yet.
    fn unopened() -> Self {
        Self { receive: ReceiveBuffer::new(EARLY_WINDOW), ..Self::new() }
    }

    fn is_unopened(&self) -> bool {
        self.target.is_none() && self.reset == Control::Idle
    }

    /// Client: its data is on the way, and perhaps before its opening.
    fn is_early(&self) -> bool {
        self.awaits_opening() && self.send.has_begun()
    }

    fn awaits_opening(&self) -> bool {
        matches!(self.open, Control::Queued | Control::InFlight)
    }

    /// Client: nothing of it is on the way yet.
    fn is_unannounced(&self) -> bool {
        self.open == Control::Queued && !self.announced
    }

    /// What it costs in memory, about.
    fn held(&self) -> usize {
        STREAM_COST + self.send.held() + self.receive.held()
    }

    /// Cuts it off: the reset is sent, and nothing more is kept.
    fn cut(&mut self, reason: ResetReason) {
        self.reset_sent = Some(reason);
        self.reset.queue();
        self.send.clear();
        self.receive.clear();
    }

    fn has_control(&self) -> bool {
        [self.open, self.connected, self.window, self.reset].contains(&Control::Queued)
    }

    fn wants_to_send(&self) -> bool {
        self.has_control() || (self.reset == Control::Idle && self.send.wants_to_send())
    }

    /// Nothing more will happen.
    fn is_over(&self) -> bool {
        let reset = self.reset == Control::Done || self.reset_received.is_some();
        reset || (self.send.is_done() && self.receive.is_done() && self.finish_seen)
    }
}

impl Streams {
    /// The client's end.
    pub fn client() -> Self {
        Self::new(Side::Client)
    }

    /// The service's end.
    pub fn service() -> Self {
        Self::new(Side::Service)
    }

    fn new(side: Side) -> Self {
        Self {
            side,
            streams: BTreeMap::new(),
            gone: RangeSet::new(),
            next: 0,
            allowance: usize::MAX,
            refusing: false,
            turn: StreamId(0),
            events: VecDeque::new(),
        }
    }

    /// Sets what the session may hold in memory, and how much of it other things than streams take; true if
    /// that is used up. Then a stream for which more data comes is reset as exhausted. Half of it may be data
    /// to send.
    pub fn set_allowance(&mut self, allowance: usize, others: usize) -> bool {
        self.allowance = allowance;
        self.refusing = self.held().saturating_add(others) >= allowance;
        self.refusing
    }

    /// What all streams cost in memory, about.
    pub fn held(&self) -> usize {
        let gone = self.gone.count() * RANGE_COST;
        self.streams.values().map(Stream::held).sum::<usize>() + gone
    }

    /// Client: opens a stream to `target`. Data may be written at once; it travels along.
    pub fn open(&mut self, target: Target) -> Result<StreamId> {
        if self.streams.len() >= MAX_STREAMS || self.next == u32::MAX {
            return Err(Error::new(ErrorKind::Exhausted, "too many streams in one session"));
        }
        let id = StreamId(self.next);
        self.next += 1;
        self.streams.insert(id, Stream::opening(target));
        Ok(id)
    }

    /// Service: the target of this stream has accepted.
    pub fn connected(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.connected.queue();
        }
    }

    /// Takes bytes to send; how many. After 0, [`StreamEvent::Writable`] tells when there is room.
    pub fn write(&mut self, id: StreamId, bytes: &[u8]) -> Result<usize, ResetReason> {
        let kept: usize = self.streams.values().map(|stream| stream.send.len()).sum();
        let others = kept.saturating_sub(self.streams.get(&id).map_or(0, |stream| stream.send.len()));
        let limit = self.send_limit(others);
        let stream = self.live(id)?;
        let room = limit.saturating_sub(stream.send.len());
        let count = stream.send.write(bytes.get(..room).unwrap_or(bytes));
        stream.write_blocked = count < bytes.len();
        Ok(count)
    }

    /// Nothing more will be written.
    pub fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send.finish();
        }
    }

    /// Reads into `out`. After [`Read::Finished`] the stream may be gone: another read says
    /// [`ResetReason::Closed`].
    pub fn read(&mut self, id: StreamId, out: &mut [u8]) -> Result<Read, ResetReason> {
        let stream = self.live(id)?;
        let count = stream.receive.read(out);
        if stream.receive.window_update().is_some() {
            stream.window.queue();
        }
        if count > 0 {
            return Ok(Read::Data(count));
        }
        if !stream.receive.is_done() {
            return Ok(Read::Empty);
        }
        stream.finish_seen = true;
        self.retire(id);
        Ok(Read::Finished)
    }

    /// Cuts a stream off, both ways. One that the service has not been told of is gone without a word.
    pub fn reset(&mut self, id: StreamId, reason: ResetReason) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.is_unannounced() {
            self.streams.remove(&id);
            return self.forget(id);
        }
        if stream.reset == Control::Idle {
            stream.cut(reason);
        }
        self.retire(id);
    }

    /// Cuts off a stream for which there is no memory.
    fn exhaust(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.reset == Control::Idle
        {
            stream.cut(ResetReason::Exhausted);
            if stream.target.is_some() {
                self.events.push_back(StreamEvent::Reset(id, ResetReason::Exhausted));
            }
        }
    }

    /// Bytes that one stream may keep to send now, when the `others` keep so many: half of what those leave of what
    /// the session may, so that streams whose peers do not read leave room for others. What it keeps itself does not
    /// count against it: a download would run with two thirds of its buffer.
    fn send_limit(&self, others: usize) -> usize {
        if self.allowance == usize::MAX {
            return SEND_CAPACITY;
        }
        ((self.allowance / 2).saturating_sub(others) / 2).min(SEND_CAPACITY)
    }

    /// Tells of streams that wait for room and have some.
    pub fn wake(&mut self) {
        if !self.streams.values().any(|stream| stream.write_blocked) {
            return;
        }
        let kept: usize = self.streams.values().map(|stream| stream.send.len()).sum();
        let allowed = |own: usize| self.send_limit(kept.saturating_sub(own));
        let limits: Vec<usize> = self.streams.values().map(|stream| allowed(stream.send.len())).collect();
        let blocked = self.streams.iter_mut().zip(limits).filter(|((_, stream), _)| stream.write_blocked);
        for ((&id, stream), limit) in blocked {
            let room = limit.saturating_sub(stream.send.len()).min(stream.send.room());
            if room > 0 && room >= limit / 4 {
                stream.write_blocked = false;
                self.events.push_back(StreamEvent::Writable(id));
            }
        }
    }

    /// Takes a frame that is about a stream.
    pub fn handle_frame(&mut self, frame: Frame<'_>) -> Result<()> {
        match frame {
            Frame::Open { stream: id, target } if self.side == Side::Service => {
                let live = self.streams.values().filter(|stream| stream.reset == Control::Idle).count();
                let known = self.streams.contains_key(&id);
                let refused = !known && (live >= MAX_STREAMS || self.refusing);
                if let Some(stream) = self.stream(id, true)?
                    && stream.is_unopened()
                {
                    if refused {
                        stream.cut(ResetReason::Exhausted);
                        return Ok(());
                    }
                    stream.target = Some(target.clone());
                    stream.receive.widen(UPLOAD_WINDOW);
                    let readable = stream.receive.available() > 0;
                    self.events.push_back(StreamEvent::Opened(id, target));
                    if readable {
                        self.events.push_back(StreamEvent::Readable(id));
                    }
                }
                Ok(())
            }
            Frame::Connected(id) if self.side == Side::Client => {
                if let Some(stream) = self.stream(id, false)?
                    && stream.connected == Control::Idle
                {
                    stream.connected = Control::Done;
                    stream.send.raise_limit(UPLOAD_WINDOW);
                    self.events.push_back(StreamEvent::Connected(id));
                }
                Ok(())
            }
            Frame::Data { stream: id, offset, last, bytes } => {
                let refusing = self.refusing && !bytes.is_empty();
                if let Some(stream) = self.stream(id, false)?
                    && stream.reset == Control::Idle
                {
                    let before = (stream.receive.available(), stream.receive.is_done());
                    let taken = match refusing {
                        true => Err(Error::new(ErrorKind::Exhausted, "no memory for this session")),
                        false => stream.receive.insert(offset, bytes, last),
                    };
                    match taken {
                        Err(error) if error.kind() == ErrorKind::Exhausted => {
                            self.exhaust(id);
                            return Ok(());
                        }
                        taken => taken?,
                    }
                    if (stream.receive.available(), stream.receive.is_done()) != before
                        && stream.target.is_some()
                    {
                        self.events.push_back(StreamEvent::Readable(id));
                    }
                }
                Ok(())
            }
            Frame::Window { stream: id, limit } => {
                // Only who has been sent something widens a window: a stream that is not known is no more.
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.send.raise_limit(limit);
                }
                Ok(())
            }
            Frame::Reset { stream: id, reason } => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    if stream.reset == Control::Idle && stream.target.is_some() {
                        self.events.push_back(StreamEvent::Reset(id, reason));
                    }
                    stream.reset_received = Some(reason);
                    self.retire(id);
                } else {
                    // It may have overtaken the opening.
                    self.forget(id);
                }
                Ok(())
            }
            _ => Err(Error::new(ErrorKind::Malformed, "frame from the wrong side")),
        }
    }

    /// Appends frames to `out` until its length is `end` or there is nothing to send, and notes them.
    pub fn fill(&mut self, out: &mut Vec<u8>, end: usize, sent: &mut Vec<Sent>) {
        self.fill_control(out, end, sent);
        let mut early = self.streams.values().filter(|stream| stream.is_early()).count();
        // Streams with little to send go first, then those that wait for their turn.
        loop {
            let room = end.saturating_sub(out.len() + DATA_OVERHEAD);
            if room == 0 {
                return;
            }
            let turn = self.turn;
            let next = self
                .streams
                .iter()
                .filter(|(_, stream)| stream.reset == Control::Idle && stream.send.wants_to_send())
                .filter(|(_, stream)| early < MAX_UNOPENED || !stream.awaits_opening() || stream.is_early())
                .min_by_key(|(id, stream)| (stream.send.pending() > INTERACTIVE, **id <= turn, **id))
                .map(|(id, _)| *id);
            let Some(id) = next else { return };
            let Some(stream) = self.streams.get_mut(&id) else { return };
            let begins = !stream.is_early();
            let Some(piece) = stream.send.take(room) else { return };
            early += usize::from(begins && stream.is_early());
            self.turn = id;
            let range = piece.offset..piece.offset + piece.bytes.len() as u64;
            let frame =
                Frame::Data { stream: id, offset: piece.offset, last: piece.last, bytes: &piece.bytes };
            frame.write(out, room);
            sent.push(Sent::Data(id, range, piece.last));
        }
    }

    fn fill_control(&mut self, out: &mut Vec<u8>, end: usize, sent: &mut Vec<Sent>) {
        for (&id, stream) in self.streams.iter_mut().filter(|(_, stream)| stream.has_control()) {
            let mut put = |frame: Frame<'_>, what: Sent, control: &mut Control| {
                let before = out.len();
                frame.write(out, end);
                if out.len() > end {
                    out.truncate(before);
                } else {
                    *control = Control::InFlight;
                    sent.push(what);
                }
            };
            if stream.open == Control::Queued
                && let Some(target) = stream.target.clone()
            {
                put(Frame::Open { stream: id, target }, Sent::Open(id), &mut stream.open);
                stream.announced |= stream.open == Control::InFlight;
            }
            if stream.connected == Control::Queued {
                put(Frame::Connected(id), Sent::Connected(id), &mut stream.connected);
            }
            if stream.window == Control::Queued {
                let limit = stream.receive.announce();
                put(Frame::Window { stream: id, limit }, Sent::Window(id), &mut stream.window);
            }
            if stream.reset == Control::Queued
                && let Some(reason) = stream.reset_sent
            {
                put(Frame::Reset { stream: id, reason }, Sent::Reset(id), &mut stream.reset);
            }
        }
    }

    /// The packet that carried this arrived.
    pub fn acked(&mut self, sent: &Sent) {
        let (Sent::Open(id) | Sent::Connected(id) | Sent::Data(id, ..) | Sent::Window(id) | Sent::Reset(id)) =
            sent;
        let Some(stream) = self.streams.get_mut(id) else { return };
        match sent {
            Sent::Open(_) => {
                stream.open = Control::Done;
                stream.send.raise_limit(UPLOAD_WINDOW);
            }
            Sent::Connected(_) => stream.connected = Control::Done,
            Sent::Window(_) if stream.window == Control::InFlight => stream.window = Control::Idle,
            Sent::Window(_) => {}
            Sent::Reset(_) => stream.reset = Control::Done,
            // What was cut off is kept no more.
            Sent::Data(..) if stream.reset != Control::Idle => {}
            Sent::Data(_, range, last) => {
                stream.send.acked(range.clone(), *last);
                self.wake();
            }
        }
        self.retire(*id);
    }

    /// The packet that carried this is lost.
    pub fn lost(&mut self, sent: &Sent) {
        let (Sent::Open(id) | Sent::Connected(id) | Sent::Data(id, ..) | Sent::Window(id) | Sent::Reset(id)) =
            sent;
        let Some(stream) = self.streams.get_mut(id) else { return };
        match sent {
            Sent::Open(_) => stream.open.lost(),
            Sent::Connected(_) => stream.connected.lost(),
            Sent::Window(_) => stream.window.lost(),
            Sent::Reset(_) => stream.reset.lost(),
            Sent::Data(..) if stream.reset != Control::Idle => {}
            Sent::Data(_, range, last) => stream.send.lost(range.clone(), *last),
        }
    }

    /// Client: true if a stream waits for its opening to be sent.
    pub fn has_unannounced(&self) -> bool {
        self.streams.values().any(Stream::is_unannounced)
    }

    /// True if nothing more will come of any stream: each that is left was cut off.
    pub fn is_spent(&self) -> bool {
        self.streams.values().all(|stream| stream.reset != Control::Idle)
    }

    /// True if there is anything to send.
    pub fn wants_to_send(&self) -> bool {
        self.streams.values().any(Stream::wants_to_send)
    }

    /// Bytes of data that could be sent now.
    pub fn pending(&self) -> u64 {
        self.streams.values().map(|stream| stream.send.pending()).sum()
    }

    /// True if there are streams, and each has more than so many bytes that could be sent now.
    pub fn all_have_left(&self, bytes: u64) -> bool {
        !self.streams.is_empty() && self.streams.values().all(|stream| stream.send.pending() > bytes)
    }

    /// Streams that are alive.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// True if no stream is alive.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// What happened next.
    pub fn poll_event(&mut self) -> Option<StreamEvent> {
        self.events.pop_front()
    }

    /// Ends all streams at once: the session is over. Each gives one event.
    pub fn abandon(&mut self, reason: ResetReason) {
        for (id, stream) in std::mem::take(&mut self.streams) {
            if stream.reset == Control::Idle && stream.target.is_some() {
                self.events.push_back(StreamEvent::Reset(id, reason));
            }
            self.forget(id);
        }
    }

    /// The stream that a frame is about. A service learns of it by its opening, or by data that has
    /// overtaken the opening.
    ///
    /// Errors: the peer has gone beyond a bound that both know.
    fn stream(&mut self, id: StreamId, opens: bool) -> Result<Option<&mut Stream>> {
        if self.side == Side::Client && id.0 >= self.next {
            return Err(Error::new(ErrorKind::Malformed, "frame of a stream that was never opened"));
        }
        let known = self.streams.contains_key(&id);
        if self.side == Side::Service && !known && !self.gone.contains(id.0.into()) {
            let unopened = self.streams.values().filter(|stream| stream.is_unopened()).count();
            if self.streams.len() >= MAX_KNOWN || (!opens && unopened >= MAX_UNOPENED) {
                return Err(Error::new(ErrorKind::Malformed, "too many streams in one session"));
            }
            self.streams.insert(id, Stream::unopened());
        }
        Ok(self.streams.get_mut(&id))
    }

    fn live(&mut self, id: StreamId) -> Result<&mut Stream, ResetReason> {
        let stream = self.streams.get_mut(&id).ok_or(ResetReason::Closed)?;
        match stream.reset_received.or(stream.reset_sent) {
            Some(reason) => Err(reason),
            None => Ok(stream),
        }
    }

    fn retire(&mut self, id: StreamId) {
        if self.streams.get(&id).is_some_and(Stream::is_over) {
            self.streams.remove(&id);
            self.forget(id);
        }
    }

    fn forget(&mut self, id: StreamId) {
        if self.side == Side::Service {
            self.gone.insert_one(id.0.into());
            self.gone.join_lowest(MAX_GONE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Reader;
    use proptest::prelude::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::{Rng, SeedableRng};

    fn target() -> Target {
        Target::parse("a.test", 80).unwrap()
    }

    /// Carries one packet of at most `size` bytes over, or loses it.
    fn carry(from: &mut Streams, to: &mut Streams, size: usize, lose: bool) -> bool {
        let (mut bytes, mut sent) = (Vec::new(), Vec::new());
        from.fill(&mut bytes, size, &mut sent);
        if bytes.is_empty() {
            return false;
        }
        assert!(bytes.len() <= size);
        if lose {
            sent.iter().for_each(|sent| from.lost(sent));
        } else {
            let mut reader = Reader::new(&bytes);
            while let Some(frame) = Frame::read(&mut reader).unwrap() {
                to.handle_frame(frame).unwrap();
            }
            sent.iter().for_each(|sent| from.acked(sent));
        }
        true
    }

    fn read_all(streams: &mut Streams, id: StreamId, into: &mut Vec<u8>) -> Result<bool, ResetReason> {
        let mut buffer = [0; 5000];
        loop {
            match streams.read(id, &mut buffer)? {
                Read::Data(count) => into.extend(&buffer[..count]),
                Read::Empty => return Ok(false),
                Read::Finished => return Ok(true),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn bytes_arrive_whole_and_in_order_whatever_is_lost(seed in any::<u64>(), loss in 0u64..6) {
            let mut rng = ChaCha20Rng::seed_from_u64(seed);
            let (mut client, mut service) = (Streams::client(), Streams::service());
            let id = client.open(target()).unwrap();
            let mut message = vec![0; UPLOAD_WINDOW as usize + 1_000_000];
            rng.fill_bytes(&mut message);
            let (mut written, mut received, mut done) = (0, Vec::new(), false);
            let mut rounds = 0;
            while !done {
                rounds += 1;
                prop_assert!(rounds < 40_000, "stalled at {} bytes", received.len());
                if written < message.len() {
                    written += client.write(id, &message[written..]).unwrap();
                    if written == message.len() {
                        client.finish(id);
                    }
                }
                let lose = rng.next_u64() % 10 < loss;
                carry(&mut client, &mut service, 900, lose);
                // Until the first packet is through, the service knows of no stream.
                done = !service.is_empty() && read_all(&mut service, id, &mut received).unwrap();
                let lose = rng.next_u64() % 10 < loss;
                carry(&mut service, &mut client, 900, lose);
            }
            prop_assert!(received == message);
        }
    }

    #[test]
    fn a_stream_that_is_cut_off_before_anything_of_it_was_sent_costs_no_packet() {
        let (mut client, mut service) = (Streams::client(), Streams::service());
        let id = client.open(target()).unwrap();
        client.write(id, b"hello").unwrap();
        assert!(client.has_unannounced() && !client.is_spent());
        client.reset(id, ResetReason::Closed);
        assert!(client.is_empty() && !client.wants_to_send());
        // One whose opening was lost may be known all the same.
        let id = client.open(target()).unwrap();
        assert!(carry(&mut client, &mut service, 900, true));
        assert!(!client.has_unannounced());
        client.reset(id, ResetReason::Closed);
        assert!(client.wants_to_send() && client.is_spent() && client.len() == 1);
    }

    #[test]
    fn data_that_overtakes_its_opening_waits_for_it() {
        let mut service = Streams::service();
        let id = StreamId(0);
        service.handle_frame(Frame::Data { stream: id, offset: 0, last: false, bytes: b"hi" }).unwrap();
        assert_eq!(service.poll_event(), None);
        service.handle_frame(Frame::Open { stream: id, target: target() }).unwrap();
        service.handle_frame(Frame::Open { stream: id, target: target() }).unwrap();
        assert_eq!(service.poll_event(), Some(StreamEvent::Opened(id, target())));
        assert_eq!(service.poll_event(), Some(StreamEvent::Readable(id)));
        assert_eq!(service.poll_event(), None);
    }

    #[test]
    fn each_direction_ends_on_its_own() {
        let (mut client, mut service) = (Streams::client(), Streams::service());
        let id = client.open(target()).unwrap();
        client.write(id, b"question").unwrap();
        client.finish(id);
        while carry(&mut client, &mut service, 500, false) {}
        let mut received = Vec::new();
        assert_eq!(read_all(&mut service, id, &mut received), Ok(true));
        service.write(id, b"answer").unwrap();
        service.finish(id);
        while carry(&mut service, &mut client, 500, false) {}
        let mut answer = Vec::new();
        assert_eq!(read_all(&mut client, id, &mut answer), Ok(true));
        assert_eq!((received.as_slice(), answer.as_slice()), (&b"question"[..], &b"answer"[..]));
        assert!(client.is_empty() && service.is_empty());
    }

    #[test]
    fn a_reset_reaches_the_other_side_with_its_reason_even_when_lost_at_first() {
        let (mut client, mut service) = (Streams::client(), Streams::service());
        let id = client.open(target()).unwrap();
        while carry(&mut client, &mut service, 500, false) {}
        service.reset(id, ResetReason::Refused);
        assert!(carry(&mut service, &mut client, 500, true));
        assert!(carry(&mut service, &mut client, 500, false));
        assert_eq!(client.poll_event(), Some(StreamEvent::Reset(id, ResetReason::Refused)));
        assert!(client.is_empty() && service.is_empty());
        assert_eq!(client.write(id, b"x"), Err(ResetReason::Closed));
    }

    #[test]
    fn a_peer_beyond_its_window_or_its_end_is_refused() {
        let mut service = Streams::service();
        let stream = StreamId(0);
        let beyond = Frame::Data { stream, offset: UPLOAD_WINDOW, last: false, bytes: b"x" };
        assert!(service.handle_frame(beyond).is_err());
        service.handle_frame(Frame::Data { stream, offset: 4, last: true, bytes: b"x" }).unwrap();
        assert!(service.handle_frame(Frame::Data { stream, offset: 5, last: false, bytes: b"x" }).is_err());
        assert!(service.handle_frame(Frame::Data { stream, offset: 0, last: true, bytes: b"x" }).is_err());
    }

    #[test]
    fn a_small_stream_does_not_wait_behind_a_large_one() {
        let mut client = Streams::client();
        let bulk = client.open(target()).unwrap();
        let small = client.open(target()).unwrap();
        client.write(bulk, &vec![0; 500_000]).unwrap();
        client.write(small, b"keystroke").unwrap();
        let (mut bytes, mut sent) = (Vec::new(), Vec::new());
        client.fill(&mut bytes, 1_000, &mut sent);
        assert!(sent.iter().any(|sent| matches!(sent, Sent::Data(id, ..) if *id == small)));
    }

    #[test]
    fn a_service_waits_for_the_openings_of_few_streams_and_keeps_little_of_them() {
        let mut service = Streams::service();
        let data = |id, offset| Frame::Data { stream: StreamId(id), offset, last: false, bytes: b"x" };
        assert!(service.handle_frame(data(0, EARLY_WINDOW)).is_err());
        for id in 0..MAX_UNOPENED as u32 {
            service.handle_frame(data(id, 0)).unwrap();
        }
        assert!(service.handle_frame(data(MAX_UNOPENED as u32, 0)).is_err());
        // An opened one counts no more, and takes the whole window.
        service.handle_frame(Frame::Open { stream: StreamId(3), target: target() }).unwrap();
        service.handle_frame(data(3, UPLOAD_WINDOW - 1)).unwrap();
        service.handle_frame(data(MAX_UNOPENED as u32, 0)).unwrap();
    }

    #[test]
    fn a_client_whose_openings_are_lost_keeps_to_the_bounds_and_then_goes_on() {
        let (mut client, mut service) = (Streams::client(), Streams::service());
        let message = vec![7; 2 * EARLY_WINDOW as usize];
        let ids: Vec<StreamId> = (0..100).map(|_| client.open(target()).unwrap()).collect();
        // Openings go before all data: the packet that carries them is lost, and for long not missed.
        let (mut bytes, mut lost) = (Vec::new(), Vec::new());
        client.fill(&mut bytes, 4_000, &mut lost);
        assert_eq!(lost.len(), ids.len());
        for &id in &ids {
            assert_eq!(client.write(id, &message).unwrap(), message.len());
        }
        while carry(&mut client, &mut service, 4_000, false) {}
        assert_eq!(service.len(), MAX_UNOPENED);
        lost.iter().for_each(|sent| client.lost(sent));
        while carry(&mut client, &mut service, 4_000, false) {}
        for id in ids {
            let mut received = Vec::new();
            assert_eq!(read_all(&mut service, id, &mut received), Ok(false));
            assert!(received == message);
        }
    }

    #[test]
    fn streams_that_are_gone_take_bounded_memory_and_stay_gone() {
        let mut service = Streams::service();
        let before = service.held();
        for id in (0..20_000).step_by(2).map(StreamId) {
            service.handle_frame(Frame::Open { stream: id, target: target() }).unwrap();
            service.handle_frame(Frame::Reset { stream: id, reason: ResetReason::Closed }).unwrap();
        }
        assert!(service.held() - before <= MAX_GONE * RANGE_COST, "{} bytes", service.held());
        while service.poll_event().is_some() {}
        for id in (0..20_000).step_by(2).map(StreamId) {
            service.handle_frame(Frame::Open { stream: id, target: target() }).unwrap();
        }
        assert_eq!((service.len(), service.poll_event()), (0, None));
    }

    #[test]
    fn a_reset_that_overtakes_the_opening_leaves_no_stream() {
        let mut service = Streams::service();
        let stream = StreamId(0);
        service.handle_frame(Frame::Reset { stream, reason: ResetReason::Closed }).unwrap();
        service.handle_frame(Frame::Window { stream: StreamId(1), limit: 9 }).unwrap();
        service.handle_frame(Frame::Open { stream, target: target() }).unwrap();
        assert_eq!((service.len(), service.poll_event()), (0, None));
    }

    #[test]
    fn streams_above_the_bound_are_refused_and_those_far_above_end_the_session() {
        let mut service = Streams::service();
        let open = |id| Frame::Open { stream: StreamId(id), target: target() };
        for id in 0..MAX_KNOWN as u32 {
            service.handle_frame(open(id)).unwrap();
        }
        let mut opened = 0;
        while let Some(StreamEvent::Opened(..)) = service.poll_event() {
            opened += 1;
        }
        assert_eq!(opened, MAX_STREAMS);
        let (mut bytes, mut sent) = (Vec::new(), Vec::new());
        service.fill(&mut bytes, 4_000, &mut sent);
        assert!(sent.contains(&Sent::Reset(StreamId(MAX_STREAMS as u32))));
        assert!(service.handle_frame(open(MAX_KNOWN as u32)).is_err());
    }

    #[test]
    fn without_memory_a_stream_is_cut_off_and_tells_both_ends() {
        let (mut client, mut service) = (Streams::client(), Streams::service());
        let id = client.open(target()).unwrap();
        client.write(id, &[1; 50_000]).unwrap();
        while carry(&mut client, &mut service, 1_000, false) {}
        let full = service.held();
        assert!(service.set_allowance(full, 0));
        while service.poll_event().is_some() {}
        client.write(id, b"one more").unwrap();
        while carry(&mut client, &mut service, 1_000, false) {}
        assert_eq!(service.poll_event(), Some(StreamEvent::Reset(id, ResetReason::Exhausted)));
        assert!(service.held() + 50_000 <= full);
        while carry(&mut service, &mut client, 1_000, false) {}
        assert_eq!(client.poll_event(), Some(StreamEvent::Reset(id, ResetReason::Exhausted)));
        assert!(client.is_empty() && service.is_empty());
    }

    #[test]
    fn a_stream_alone_keeps_half_of_what_may_be_kept_in_pieces_as_at_once() {
        let (mut client, mut service) = (Streams::client(), Streams::service());
        let id = client.open(target()).unwrap();
        while carry(&mut client, &mut service, 1_000, false) {}
        service.set_allowance(1 << 20, 0);
        let pieces = std::iter::from_fn(|| Some(service.write(id, &[0; 16 * 1024]).unwrap()));
        assert_eq!(pieces.take_while(|&taken| taken > 0).sum::<usize>(), (1 << 20) / 4);
    }

    #[test]
    fn streams_that_nobody_reads_leave_room_for_others() {
        let (mut client, mut service) = (Streams::client(), Streams::service());
        let ids: Vec<StreamId> = (0..40).map(|_| client.open(target()).unwrap()).collect();
        while carry(&mut client, &mut service, 1_000, false) {}
        let allowance = 1 << 20;
        service.set_allowance(allowance, 0);
        let taken: Vec<usize> =
            ids.iter().map(|&id| service.write(id, &vec![0; SEND_CAPACITY]).unwrap()).collect();
        assert!(taken.iter().sum::<usize>() <= allowance / 2, "{taken:?}");
        assert!(taken.iter().all(|&taken| taken > 0) || taken.iter().sum::<usize>() + 2 >= allowance / 2);
        while service.poll_event().is_some() {}
        while carry(&mut service, &mut client, 1_000, false) {}
        let woken = std::iter::from_fn(|| service.poll_event());
        assert!(woken.filter(|event| matches!(event, StreamEvent::Writable(_))).count() >= ids.len());
    }
}
