//! A stream through the mixnet, as an application sees it: `AsyncRead + AsyncWrite`.

use crate::engine::Mailbox;
use crate::{Error, ErrorKind};
use mizzle_protocol::endpoint::StreamKey;
use mizzle_protocol::stream::ResetReason;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream to a destination, connected by an exit.
///
/// Reads and writes are independent: shutting down the writing side tells the destination that nothing
/// more follows, reading goes on until it has finished too. Dropping the stream earlier resets it.
#[derive(Debug)]
pub struct Stream {
    pipe: Arc<Pipe>,
    mailbox: Arc<Mailbox>,
}

/// What the application and the engine thread share of one stream.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    state: Mutex<PipeState>,
}

/// Two bounded buffers, and how far each direction has come.
#[derive(Debug, Default)]
pub(crate) struct PipeState {
    /// The protocol's name for the stream, once it has one.
    pub(crate) key: Option<StreamKey>,
    /// For the application; the engine stops reading from the protocol when it is full, which is what
    /// makes the other side slow down.
    pub(crate) incoming: VecDeque<u8>,
    /// From the application.
    pub(crate) outgoing: VecDeque<u8>,
    /// The engine left data in the protocol because `incoming` was full.
    pub(crate) starved: bool,
    /// The other side has finished; `incoming` holds the rest.
    pub(crate) ended: bool,
    /// The application has shut down its side.
    pub(crate) finish: bool,
    /// The protocol knows.
    pub(crate) finished: bool,
    /// Why the stream is no more.
    pub(crate) reset: Option<ResetReason>,
    /// The application has let go.
    pub(crate) dropped: bool,
    /// Stands in the engine's line.
    pub(crate) in_line: bool,
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
}

impl Pipe {
    /// The state, for a short look or change.
    pub(crate) fn lock(&self) -> MutexGuard<'_, PipeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PipeState {
    /// Bytes that `incoming` still takes.
    pub(crate) fn incoming_room(&self) -> usize {
        BUFFER.saturating_sub(self.incoming.len())
    }

    /// Wakes whoever waits to read.
    pub(crate) fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    /// Wakes whoever waits to write.
    pub(crate) fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }
}

impl Stream {
    pub(crate) fn new(pipe: Arc<Pipe>, mailbox: Arc<Mailbox>) -> Self {
        Self { pipe, mailbox }
    }

    /// Puts the pipe in the engine's line, unless it stands there.
    fn ring(&self, mut state: MutexGuard<'_, PipeState>) {
        if !std::mem::replace(&mut state.in_line, true) {
            drop(state);
            self.mailbox.news(Arc::clone(&self.pipe));
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.pipe.lock();
        if state.incoming.is_empty() {
            return match state.reset {
                _ if state.ended => Poll::Ready(Ok(())),
                Some(reason) => Poll::Ready(Err(reset_error(reason).into())),
                None => {
                    state.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        let (front, _) = state.incoming.as_slices();
        let count = front.len().min(buf.remaining());
        buf.put_slice(front.get(..count).unwrap_or_default());
        state.incoming.drain(..count);
        if state.starved && state.incoming.len() <= BUFFER / 2 {
            state.starved = false;
            self.ring(state);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.pipe.lock();
        if let Some(reason) = state.reset {
            return Poll::Ready(Err(reset_error(reason).into()));
        }
        if state.finish {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = BUFFER.saturating_sub(state.outgoing.len()).min(data.len());
        if count == 0 && !data.is_empty() {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.outgoing.extend(data.get(..count).unwrap_or_default());
        self.ring(state);
        Poll::Ready(Ok(count))
    }

    /// Data is on its way as soon as the protocol has it; there is nothing to wait for.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.pipe.lock().reset {
            Some(reason) => Poll::Ready(Err(reset_error(reason).into())),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Ready when the protocol has all data and knows that it is all.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.pipe.lock();
        if state.finished {
            return Poll::Ready(Ok(()));
        }
        if let Some(reason) = state.reset {
            return Poll::Ready(Err(reset_error(reason).into()));
        }
        state.writer = Some(cx.waker().clone());
        if !std::mem::replace(&mut state.finish, true) {
            self.ring(state);
        }
        Poll::Pending
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.pipe.lock();
        state.dropped = true;
        state.incoming = VecDeque::new();
        self.ring(state);
    }
}

/// What a reset means to the application.
pub(crate) fn reset_error(reason: ResetReason) -> Error {
    let (kind, message) = match reason {
        ResetReason::NotAllowed => {
            (ErrorKind::NotAllowed, "the exit's policy does not allow this destination")
        }
        ResetReason::NetworkUnreachable => {
            (ErrorKind::NetworkUnreachable, "the exit has no way to the destination's network")
        }
        ResetReason::HostUnreachable => (ErrorKind::HostUnreachable, "the exit cannot reach the destination"),
        ResetReason::HostNotFound => (ErrorKind::HostNotFound, "the exit cannot resolve the name"),
        ResetReason::Refused => (ErrorKind::ConnectionRefused, "the destination refused the connection"),
        ResetReason::TimedOut => (ErrorKind::TimedOut, "nobody answered in time; try again"),
        ResetReason::Closed => (ErrorKind::Closed, "the destination closed the connection"),
        ResetReason::ExitGone => (ErrorKind::Closed, "the exit is gone; a new stream uses another"),
        ResetReason::NoNetwork => (ErrorKind::NoNetwork, "the mixnet cannot be used now; see: mizzle status"),
        ResetReason::Exhausted => (ErrorKind::Exhausted, "too many streams; close some and try again"),
        _ => (ErrorKind::Other, "the stream was reset"),
    };
    Error::new(kind, message)
}

/// Bytes buffered in each direction between an application and the engine.
const BUFFER: usize = 256 * 1024;
