//! One outgoing link: what waits for it, and who writes it.
//!
//! Whoever has a packet for the link writes it at once, in its own thread. When the socket is full, what comes
//! waits in a bounded queue, and the link's task goes on writing when it can. Cells are written many at a time
//! when many wait.
//!
//! The queue is bounded in time, too: a packet that would leave later than [`LATEST`] after its moment is dropped
//! as `late`. Whoever can hold up a link could otherwise add to delays that a sender drew, and know by how much.
//! A link that its peer says goodbye on writes what it has, and ends. (spec: LINK-7 to LINK-9, LINK-15, RELAY-10)

use crate::metrics::{Exit, Metrics, Packet, Place};
use mizzle_link::{Clock, Heard, LinkWriter, Written};
use mizzle_protocol::mix::DropReason;
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::cell::RELAY_HEAD;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// A link's state, for all threads.
#[derive(Debug)]
pub(super) struct Line {
    clock: Clock,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Tells the task that there is something to do: the socket is full, the link has failed, or is to end.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    queue: VecDeque<Packet>,
    /// Nothing more comes: it ends when all has gone out.
    closing: bool,
}

#[derive(Debug)]
enum Stage {
    /// Being dialled: packets wait.
    Waiting,
    /// Packets are dropped.
    Down,
    Up(Box<Up>),
}

#[derive(Debug)]
struct Up {
    writer: LinkWriter,
    /// Packets that the writer has, and not yet the kernel.
    written: Vec<Packet>,
    /// The socket is full.
    blocked: bool,
    /// The peer has said goodbye: nothing more comes, and all that is here goes out.
    ending: bool,
    /// Before this moment packets waited for the link to be made, which has a bound of its own.
    since: Instant,
}

/// How a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It was closed from here, and all has gone out.
    Closed,
    /// The peer is gone, or takes nothing.
    Lost,
}

impl Line {
    /// A link that is down.
    pub(super) fn new(clock: Clock, metrics: Arc<Metrics>) -> Arc<Self> {
        let state = Mutex::new(State { stage: Stage::Down, queue: VecDeque::new(), closing: false });
        Arc::new(Self { clock, metrics, state, changed: Notify::new() })
    }

    /// Puts a packet in line. [`Self::write`] sends it.
    pub(super) fn push(&self, mut packet: Packet) {
        let mut state = self.lock();
        if state.queue.len() >= QUEUE {
            state.drop_late(self.clock.now());
        }
        match &state.stage {
            Stage::Down => packet.discard(DropReason::LinkDown),
            Stage::Up(up) if up.ending => packet.discard(DropReason::LinkDown),
            _ if state.queue.len() >= QUEUE => packet.discard(DropReason::QueueFull),
            Stage::Waiting | Stage::Up(_) => {
                packet.put(Place::Link);
                state.queue.push_back(packet);
            }
        }
    }

    /// Writes what is in line, as far as the socket takes it.
    pub(super) fn write(&self) {
        self.write_on(&mut self.lock());
    }

    /// Packets wait from now on, for a link that is being dialled.
    pub(super) fn wait(&self) {
        self.lock().stage = Stage::Waiting;
    }

    /// Packets are dropped from now on, those that wait among them.
    pub(super) fn fail(&self) {
        Self::fail_on(&mut self.lock());
    }

    /// The link is up; what waited goes out.
    pub(super) fn start(&self, writer: LinkWriter) {
        let mut state = self.lock();
        let (written, since) = (Vec::with_capacity(BATCH), self.clock.now());
        let up = Up { writer, written, blocked: false, ending: false, since };
        state.stage = Stage::Up(Box::new(up));
        self.write_on(&mut state);
    }

    /// Nothing more comes.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.changed.notify_one();
    }

    /// Waits until the link is to end.
    pub(super) async fn closed(&self) {
        while !self.lock().closing {
            self.changed.notified().await;
        }
    }

    /// Looks after a link that is up: goes on writing when the socket was full, and notices the end.
    pub(super) async fn keep(&self) -> End {
        loop {
            let (socket, blocked, ending) = {
                let mut state = self.lock();
                let State { stage: Stage::Up(up), queue, closing } = &mut *state else { return End::Lost };
                if (*closing || up.ending) && queue.is_empty() && up.written.is_empty() {
                    break;
                }
                (up.writer.socket(), up.blocked, up.ending)
            };
            let interest = match (blocked, ending) {
                // What has ended is readable for ever.
                (_, true) => Interest::WRITABLE,
                (true, false) => Interest::READABLE | Interest::WRITABLE,
                (false, false) => Interest::READABLE,
            };
            let ready = async {
                match blocked {
                    true => tokio::time::timeout(WRITE_TIME, socket.ready(interest)).await.ok(),
                    false => Some(socket.ready(interest).await),
                }
            };
            let ready = tokio::select! {
                ready = ready => ready,
                () = self.changed.notified() => continue,
            };
            // No answer at all: the peer has taken nothing for so long.
            let Some(Ok(ready)) = ready else { return End::Lost };
            let mut state = self.lock();
            let Stage::Up(up) = &mut state.stage else { return End::Lost };
            if !ending && (ready.is_readable() || ready.is_read_closed()) {
                match up.writer.listen() {
                    Ok(Heard::Nothing) => {}
                    Ok(Heard::Goodbye) => up.ending = true,
                    Err(_) => return End::Lost,
                }
            }
            if blocked && (ready.is_writable() || ready.is_write_closed()) {
                up.blocked = false;
                self.write_on(&mut state);
            }
        }
        let _ = tokio::time::timeout(WRITE_TIME, self.say_goodbye()).await;
        if self.lock().closing { End::Closed } else { End::Lost }
    }

    async fn say_goodbye(&self) {
        if let Stage::Up(up) = &mut self.lock().stage {
            up.writer.say_goodbye();
        }
        while let Some(socket) = self.flush() {
            if socket.writable().await.is_err() {
                return;
            }
        }
    }

    /// Writes what is left; the socket, if it is full.
    fn flush(&self) -> Option<Arc<TcpStream>> {
        let mut state = self.lock();
        let Stage::Up(up) = &mut state.stage else { return None };
        matches!(up.writer.flush(), Ok(Written::Partly)).then(|| up.writer.socket())
    }

    fn write_on(&self, state: &mut State) {
        if state.queue.is_empty() && matches!(&state.stage, Stage::Up(up) if up.written.is_empty()) {
            return;
        }
        state.drop_late(self.clock.now());
        let State { stage: Stage::Up(up), queue, .. } = &mut *state else { return };
        while !(up.blocked || up.written.is_empty() && queue.is_empty()) {
            let written = if up.written.is_empty() {
                up.written.extend(queue.drain(..queue.len().min(BATCH)));
                let cells = up.written.iter_mut().map(|packet| packet.cell.as_relay_cell(packet.hint));
                up.writer.write(cells)
            } else {
                up.writer.flush()
            };
            match written {
                Ok(Written::All) => {
                    for packet in up.written.drain(..) {
                        let bytes = RELAY_HEAD + packet.cell.packet().len();
                        self.metrics.bytes_written.inc_by(bytes as u64);
                        packet.settle(Exit::SentToRelay);
                    }
                }
                Ok(Written::Partly) => {
                    up.blocked = true;
                    self.changed.notify_one();
                }
                Err(_) => {
                    self.changed.notify_one();
                    return Self::fail_on(state);
                }
            }
        }
    }

    fn fail_on(state: &mut State) {
        if let Stage::Up(up) = std::mem::replace(&mut state.stage, Stage::Down) {
            up.written.into_iter().for_each(|packet| packet.discard(DropReason::LinkDown));
        }
        state.queue.drain(..).for_each(|packet| packet.discard(DropReason::LinkDown));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Drops what is too late from the head of the queue. What is behind it came later, though its moment may have
    /// been a little earlier.
    fn drop_late(&mut self, now: Instant) {
        let Stage::Up(up) = &self.stage else { return };
        let is_late = |packet: &Packet| now.since(packet.due.max(up.since)) > LATEST;
        while self.queue.front().is_some_and(is_late) {
            if let Some(packet) = self.queue.pop_front() {
                packet.discard(DropReason::Late);
            }
        }
    }
}

/// Packets that wait for one link; full: `queue_full`.
const QUEUE: usize = 1024;
/// How long after its moment a packet may leave; later: `late`. A packet that a thread took on has waited 40 ms
/// for it at most, which is in its delay unless that was shorter: so much again is left for the link.
const LATEST: Duration = Duration::from_millis(80);
/// Packets a write, at most.
const BATCH: usize = 32;
/// A peer that takes nothing for so long is gone.
const WRITE_TIME: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::Cell;
    use crate::metrics::Origin;

    #[test]
    fn a_link_that_is_being_dialled_holds_so_many_packets_and_no_more() {
        let (clock, metrics) = (Clock::new(), Metrics::new().unwrap());
        let line = Line::new(clock, metrics.clone());
        let push = || line.push(Packet::receive(&metrics, Origin::Relay, 0, Cell::default(), clock.now()));
        push();
        assert!(line.lock().queue.is_empty());
        line.wait();
        for _ in 0..QUEUE + 5 {
            push();
        }
        assert_eq!(line.lock().queue.len(), 1024);
        line.fail();
        assert!(line.lock().queue.is_empty());
        let text = String::from_utf8(metrics.text()).unwrap();
        for (reason, count) in [("queue_full", 5), ("link_down", 1 + 1024)] {
            let line = format!("mizzle_packets_dropped_total{{reason=\"{reason}\"}} {count}");
            assert!(text.contains(&line), "{line}");
        }
    }
}
