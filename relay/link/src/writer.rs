//! The sending half of a relay's link to another, written to by whichever thread has something to send.
//!
//! A task for each link, woken for each packet, costs more than the encryption and the system call that it is
//! woken for. So the thread that has a packet encrypts and writes it itself, as far as the socket takes it; a
//! task is needed only when the socket is full, and to notice the end.

use crate::{Link, Result};
use mizzle_protocol::ErrorKind;
use std::io::{self, Write};
use std::sync::Arc;
use tokio::net::TcpStream;

/// A link that only this side sends on. Never blocks.
#[derive(Debug)]
pub struct LinkWriter {
    socket: Arc<TcpStream>,
    session: rustls::ClientConnection,
}

/// What the peer has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing that matters here.
    Nothing,
    /// It takes no more links, and reads this one to its end: what is left is to be written, and a goodbye.
    Goodbye,
}

/// How far a write has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// All is with the kernel.
    All,
    /// The socket is full: some is left for [`LinkWriter::flush`], once the socket is writable.
    Partly,
}

impl LinkWriter {
    /// Takes over a link that was dialled, right after its handshake. Errors: it was accepted and not dialled.
    pub fn new(link: Link) -> Result<Self> {
        match link {
            Link::Client(stream) => {
                let (socket, mut session) = stream.into_inner();
                // What is given to `write` is bounded by its caller, who offers more only after `All`.
                session.set_buffer_limit(None);
                Ok(Self { socket: Arc::new(socket), session })
            }
            Link::Server(_) => Err(crate::error::protocol(ErrorKind::Misuse, "not a link that was dialled")),
        }
    }

    /// The socket, to wait on.
    pub fn socket(&self) -> Arc<TcpStream> {
        self.socket.clone()
    }

    /// Encrypts each of `cells` into a record of its own and writes what the socket takes.
    pub fn write<'a>(&mut self, cells: impl IntoIterator<Item = &'a [u8]>) -> io::Result<Written> {
        for cell in cells {
            self.session.writer().write_all(cell)?;
        }
        self.flush()
    }

    /// Writes what an earlier call left.
    pub fn flush(&mut self) -> io::Result<Written> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Socket(&self.socket)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Written::Partly),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Written::All)
    }

    /// Reads what the peer says, which is nothing but TLS's own matters, for example new keys or its goodbye. After
    /// that nothing more is to be read. Errors: the link has ended without one, or the peer sent what it must not.
    pub fn listen(&mut self) -> io::Result<Heard> {
        loop {
            match self.session.read_tls(&mut Socket(&self.socket)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Heard::Nothing),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let state = self.session.process_new_packets().map_err(io::Error::other)?;
            if state.plaintext_bytes_to_read() > 0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if state.peer_has_closed() {
                return Ok(Heard::Goodbye);
            }
        }
    }

    /// Says goodbye; [`Self::flush`] sends it.
    pub fn say_goodbye(&mut self) {
        self.session.send_close_notify();
    }
}

/// A socket that reads and writes at once what it can.
struct Socket<'a>(&'a TcpStream);

impl io::Read for Socket<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(bytes)
    }
}

impl io::Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, bytes: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
