//! Where applications connect: TCP ports and Unix sockets. (spec: PROXY-7)

use crate::system::{SocketListener, SocketStream, connect_socket, open_socket};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// The address of a listener: `127.0.0.1:9150` or `unix:/path/socket`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.is_empty() {
                true => Err("`unix:` names no file: write unix:/path/socket".into()),
                false => Ok(Self::Unix(path.into())),
            };
        }
        let wrong = |_| format!("`{text}` is no address: write one like 127.0.0.1:9150 or unix:/path/socket");
        text.parse().map(Self::Tcp).map_err(wrong)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An open listener. The file of a Unix socket is removed when it is dropped.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(SocketListener, PathBuf),
}

impl Listener {
    /// Opens one. A socket's file is its owner's alone; one that is left over from a process that is gone is
    /// replaced, and nothing else ever is.
    pub(crate) async fn open(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => TcpListener::bind(address).await.map(Self::Tcp),
            Address::Unix(path) => open_socket(path).await.map(|listener| Self::Unix(listener, path.clone())),
        }
    }

    /// Where it listens; a port 0 is by now the one that the system chose.
    pub(crate) fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Self::Unix(_, path) => Ok(Address::Unix(path.clone())),
        }
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<Application> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Application::Tcp(stream))
            }
            Self::Unix(listener, _) => listener.accept().await.map(|(stream, _)| Application::Unix(stream)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // A file that is gone already is as good.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// An application's connection.
#[derive(Debug)]
pub(crate) enum Application {
    Tcp(TcpStream),
    Unix(SocketStream),
}

impl Application {
    /// Connects to one of our own listeners.
    pub(crate) async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
            Address::Unix(path) => connect_socket(path).await.map(Self::Unix),
        }
    }

    /// From here on every end is a reset, whatever brings it.
    pub(crate) fn reset_on_close(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_zero_linger(),
            // A Unix socket has no reset; what breaks there looks like an end.
            Self::Unix(_) => Ok(()),
        }
    }

    /// What still waits is to arrive.
    pub(crate) fn close_in_order(&self) -> io::Result<()> {
        match self {
            #[expect(deprecated, reason = "a time to linger for would block; this takes the time away")]
            Self::Tcp(stream) => stream.set_linger(None),
            Self::Unix(_) => Ok(()),
        }
    }
}

impl AsyncRead for Application {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Application {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use tokio::net::UnixStream;

    #[test]
    fn addresses_are_ports_or_files() {
        for text in ["127.0.0.1:9150", "[::1]:9150", "unix:/run/user/1000/mizzle"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["unix:", "localhost", "/run/socket", "127.0.0.1"] {
            assert!(text.parse::<Address>().unwrap_err().contains("unix:/path/socket"));
        }
    }

    #[tokio::test]
    async fn a_socket_is_private_and_replaced_only_if_nobody_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let address = Address::Unix(path.clone());
        let listener = Listener::open(&address).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = Listener::open(&address).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let (connected, accepted) = tokio::join!(UnixStream::connect(&path), listener.accept());
        assert!(connected.is_ok() && accepted.is_ok());
        drop(listener);
        assert!(!path.exists());
        // Left over: a socket whose process is gone.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Listener::open(&address).await.unwrap());
        std::fs::write(&path, "a letter").unwrap();
        assert!(Listener::open(&address).await.is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a letter");
    }
}
