//! Everything that reaches the engine thread, behind one bell.
//!
//! Each line is bounded. Commands: full is an error to the caller. Packets: full is a counted drop, and the
//! protocol asks for what is missing. Sent tokens: one a slot, so a full line means an engine that stands
//! still, and the oldest is forgotten (its packet then counts as lost). Streams with news: each at most once.

use crate::stream::Pipe;
use mizzle_protocol::cover::Token;
use mizzle_protocol::time::Instant;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The engine's lines. `C` is its command type.
#[derive(Debug)]
pub(crate) struct Inbox<C> {
    lines: Mutex<Lines<C>>,
    bell: Condvar,
}

/// What has come since the last look.
#[derive(Debug)]
pub(crate) struct Lines<C> {
    pub(crate) commands: VecDeque<C>,
    pub(crate) packets: VecDeque<Vec<u8>>,
    pub(crate) sent: VecDeque<(Token, Instant)>,
    pub(crate) news: VecDeque<Arc<Pipe>>,
    pub(crate) packets_dropped: u64,
    pub(crate) stop: bool,
}

impl<C> Default for Lines<C> {
    fn default() -> Self {
        Self {
            commands: VecDeque::new(),
            packets: VecDeque::new(),
            sent: VecDeque::new(),
            news: VecDeque::new(),
            packets_dropped: 0,
            stop: false,
        }
    }
}

impl<C> Lines<C> {
    fn is_empty(&self) -> bool {
        self.commands.is_empty()
            && self.packets.is_empty()
            && self.sent.is_empty()
            && self.news.is_empty()
            && !self.stop
    }
}

impl<C> Inbox<C> {
    /// Empty lines.
    pub(crate) fn new() -> Self {
        Self { lines: Mutex::default(), bell: Condvar::new() }
    }

    /// Puts a command in line; gives it back when the line is full or the engine has stopped.
    pub(crate) fn command(&self, command: C) -> Result<(), C> {
        let mut lines = self.lock();
        if lines.stop || lines.commands.len() >= COMMANDS {
            return Err(command);
        }
        lines.commands.push_back(command);
        drop(lines);
        self.bell.notify_one();
        Ok(())
    }

    /// Puts a packet in line.
    pub(crate) fn packet(&self, packet: Vec<u8>) {
        let mut lines = self.lock();
        if lines.packets.len() >= PACKETS {
            lines.packets_dropped += 1;
            return;
        }
        lines.packets.push_back(packet);
        drop(lines);
        self.bell.notify_one();
    }

    /// Says that a packet went out.
    pub(crate) fn sent(&self, token: Token, at: Instant) {
        let mut lines = self.lock();
        if lines.sent.len() >= SENT {
            lines.sent.pop_front();
        }
        lines.sent.push_back((token, at));
        drop(lines);
        self.bell.notify_one();
    }

    /// Says that the application has done something to a stream. The pipe itself sees to it that it stands
    /// in line once at most.
    pub(crate) fn news(&self, pipe: Arc<Pipe>) {
        self.lock().news.push_back(pipe);
        self.bell.notify_one();
    }

    /// Ends the engine.
    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.bell.notify_one();
    }

    /// Waits for anything, or for this long (`None`: without end); then gives all lines to `take`.
    pub(crate) fn wait<T>(&self, timeout: Option<Duration>, take: impl FnOnce(&mut Lines<C>) -> T) -> T {
        let lines = self.lock();
        let mut lines = match timeout {
            Some(timeout) if timeout.is_zero() => lines,
            Some(timeout) => {
                let waited = self.bell.wait_timeout_while(lines, timeout, |lines| lines.is_empty());
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => {
                self.bell.wait_while(lines, |lines| lines.is_empty()).unwrap_or_else(PoisonError::into_inner)
            }
        };
        take(&mut lines)
    }

    fn lock(&self) -> MutexGuard<'_, Lines<C>> {
        // No code that holds the lock can panic half-way through a change.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const COMMANDS: usize = 1_024;
/// Two seconds at the highest homeward rate.
const PACKETS: usize = 4_096;
const SENT: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_lines_refuse_or_count() {
        let inbox = Inbox::new();
        for number in 0..COMMANDS {
            inbox.command(number).unwrap();
        }
        assert_eq!(inbox.command(7), Err(7));
        for _ in 0..PACKETS + 5 {
            inbox.packet(Vec::new());
        }
        for number in 0..=SENT as u64 {
            inbox.sent(Token(number), Instant::ZERO);
        }
        inbox.wait(None, |lines| {
            assert_eq!((lines.packets.len(), lines.packets_dropped), (PACKETS, 5));
            assert_eq!(lines.sent.front(), Some(&(Token(1), Instant::ZERO)));
        });
    }

    #[test]
    fn a_stopped_engine_takes_no_more_commands_and_is_woken() {
        let inbox = Arc::new(Inbox::<()>::new());
        let other = Arc::clone(&inbox);
        let waiting = std::thread::spawn(move || other.wait(None, |lines| lines.stop));
        inbox.stop();
        assert!(waiting.join().unwrap());
        assert!(inbox.command(()).is_err());
    }
}
