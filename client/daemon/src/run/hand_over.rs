//! How the ports that were opened in the program's network come out of it: through a Unix socket, which a network
//! namespace does not bound.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use tokio::io::Interest;
use tokio::net::UnixListener;

/// The ports in the program's network.
#[derive(Debug)]
pub(super) struct Ports<L, D> {
    /// The proxy's.
    pub(super) proxy: L,
    /// Where names are asked for, by UDP.
    pub(super) questions: D,
    /// The same by TCP.
    pub(super) long_questions: L,
}

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

    /// The ports, once they are there.
    pub(super) async fn receive(
        &self,
    ) -> Result<Ports<tokio::net::TcpListener, tokio::net::UdpSocket>, String> {
        let listener = |listener: TcpListener| {
            listener.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(listener)
        };
        let receive = async {
            let (stream, _) = self.socket.accept().await?;
            let ports = stream.async_io(Interest::READABLE, || take(&stream)).await?;
            ports.questions.set_nonblocking(true)?;
            Ok(Ports {
                proxy: listener(ports.proxy)?,
                questions: tokio::net::UdpSocket::from_std(ports.questions)?,
                long_questions: listener(ports.long_questions)?,
            })
        };
        receive
            .await
            .map_err(|error: io::Error| format!("the program's ports were not handed over ({error})"))
    }
}

impl Drop for Anteroom {
    fn drop(&mut self) {
        // What is left is empty, and replaced by the next.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Hands the ports to whoever has this anteroom.
pub(super) fn give(folder: &Path, ports: &Ports<TcpListener, UdpSocket>) -> io::Result<()> {
    let stream = std::os::unix::net::UnixStream::connect(socket(folder))?;
    let descriptors = [ports.proxy.as_fd(), ports.questions.as_fd(), ports.long_questions.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(&stream, &[IoSlice::new(b"l")], &mut control, SendFlags::empty())?;
    Ok(())
}

fn take(stream: &impl AsFd) -> io::Result<Ports<TcpListener, UdpSocket>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let [proxy, questions, long_questions] =
        descriptors.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Ports { proxy: proxy.into(), questions: questions.into(), long_questions: long_questions.into() })
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("s")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn the_ports_come_out_each_in_its_place_and_nothing_stays() {
        let state = tempfile::tempdir().unwrap();
        let anteroom = Anteroom::open(state.path()).unwrap();
        let mode = std::fs::metadata(anteroom.folder()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = Ports {
            proxy: listener(),
            questions: UdpSocket::bind("127.0.0.1:0").unwrap(),
            long_questions: listener(),
        };
        let addresses = [&ports.proxy, &ports.long_questions].map(|port| port.local_addr().unwrap());
        let questions = ports.questions.local_addr().unwrap();
        give(anteroom.folder(), &ports).unwrap();
        drop(ports);
        let out = anteroom.receive().await.unwrap();
        for (port, address) in [&out.proxy, &out.long_questions].into_iter().zip(addresses) {
            let client = tokio::net::TcpStream::connect(address).await.unwrap();
            assert_eq!(port.accept().await.unwrap().1, client.local_addr().unwrap());
        }
        assert_eq!(out.questions.local_addr().unwrap(), questions);
        drop(anteroom);
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
    }
}
