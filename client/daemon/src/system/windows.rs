//! Windows, where files of a user are hidden from others by the folder that they are in.

use super::token_port;
use std::convert::Infallible;
use std::fs::Metadata;
use std::io;
use std::path::Path;
use tokio::net::TcpStream;
use tokio::signal::windows::{CtrlBreak, CtrlC, CtrlClose, ctrl_break, ctrl_c, ctrl_close};

pub(crate) use token_port::{ControlListener, connect_control};

/// What a command and the daemon talk over.
pub(crate) type ControlStream = TcpStream;
/// What an application and a proxy port that is a file would talk over.
pub(crate) type SocketStream = TcpStream;

/// A proxy port that is a file: there is none here.
#[derive(Debug)]
pub(crate) struct SocketListener(Infallible);

impl SocketListener {
    /// Never called: nobody can have one.
    pub(crate) async fn accept(&self) -> io::Result<(SocketStream, ())> {
        match self.0 {}
    }
}

/// Fails: tokio has no Unix sockets on Windows.
pub(crate) async fn open_socket(_: &Path) -> io::Result<SocketListener> {
    Err(no_sockets())
}

/// Fails, as [`open_socket`] does.
pub(crate) async fn connect_socket(_: &Path) -> io::Result<SocketStream> {
    Err(no_sockets())
}

fn no_sockets() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "`unix:` is for other systems; on Windows, name a port")
}

/// Unknown without its access list, which the standard library does not read; a profile's folders are private.
pub(crate) fn others_may_look(_: &Metadata) -> bool {
    false
}

/// What asks a program in a console to end.
#[derive(Debug)]
pub(crate) struct Ending {
    control_c: CtrlC,
    control_break: CtrlBreak,
    close: CtrlClose,
}

impl Ending {
    /// Listens for it from now on.
    pub(crate) fn watch() -> io::Result<Self> {
        Ok(Self { control_c: ctrl_c()?, control_break: ctrl_break()?, close: ctrl_close()? })
    }

    /// Returns when it has come.
    pub(crate) async fn asked(&mut self) {
        tokio::select! {
            _ = self.control_c.recv() => {}
            _ = self.control_break.recv() => {}
            _ = self.close.recv() => {}
        }
    }
}
