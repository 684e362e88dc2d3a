//! How the listener that was opened in the program's network comes out of it: through a Unix socket, which a
//! network namespace does not bound.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use tokio::io::Interest;
use tokio::net::UnixListener;

/// A folder that is its owner's alone, with the socket and what the inside needs; removed when this is dropped.
#[derive(Debug)]
pub(super) struct Anteroom {
    folder: PathBuf,
    socket: UnixListener,
}

impl Anteroom {
    /// Makes one in the state directory.
    pub(super) fn open(state: &Path) -> Result<Self, String> {
        // Short, since the path of a socket is bounded.
        let folder = state.join(format!("r{}", std::process::id()));
        let open = || {
            // Left over from a process of the same number, if it is there.
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
            UnixListener::bind(socket(&folder))
        };
        match open() {
            Ok(socket) => Ok(Self { folder, socket }),
            Err(error) => Err(format!("cannot prepare the folder {} ({error})", folder.display())),
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The listener, once it is there.
    pub(super) async fn receive(&self) -> Result<tokio::net::TcpListener, String> {
        let receive = async {
            let (stream, _) = self.socket.accept().await?;
            let listener = stream.async_io(Interest::READABLE, || take(&stream)).await?;
            listener.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(listener)
        };
        receive.await.map_err(|error: io::Error| format!("the program's port was not handed over ({error})"))
    }
}

impl Drop for Anteroom {
    fn drop(&mut self) {
        // What is left is empty, and replaced by the next.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Hands the listener to whoever has this anteroom.
pub(super) fn give(folder: &Path, listener: &TcpListener) -> io::Result<()> {
    let stream = std::os::unix::net::UnixStream::connect(socket(folder))?;
    let descriptors = [listener.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(&stream, &[IoSlice::new(b"l")], &mut control, SendFlags::empty())?;
    Ok(())
}

fn take(stream: &impl AsFd) -> io::Result<TcpListener> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(descriptor) = descriptors.next()
        {
            return Ok(descriptor.into());
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("s")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn a_listener_comes_out_and_nothing_stays() {
        let state = tempfile::tempdir().unwrap();
        let anteroom = Anteroom::open(state.path()).unwrap();
        let mode = std::fs::metadata(anteroom.folder()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        give(anteroom.folder(), &listener).unwrap();
        drop(listener);
        let out = anteroom.receive().await.unwrap();
        let client = tokio::net::TcpStream::connect(address).await.unwrap();
        assert_eq!(out.accept().await.unwrap().1, client.local_addr().unwrap());
        drop(anteroom);
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
    }
}
