//! What differs between operating systems, in one place: sockets that are this user's alone, rights of files, and how
//! a process is told to end. `run` is for Linux; the rest of this program is the same everywhere. (spec: SYSTEM-1)

#[cfg(any(windows, test))]
mod token_port;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::{
    ControlListener, ControlStream, Ending, SocketListener, SocketStream, connect_control, connect_socket,
    open_socket, others_may_look,
};
#[cfg(windows)]
pub(crate) use windows::{
    ControlListener, ControlStream, Ending, SocketListener, SocketStream, connect_control, connect_socket,
    open_socket, others_may_look,
};
