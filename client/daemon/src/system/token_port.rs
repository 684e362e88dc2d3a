//! Where commands reach the daemon on a system without Unix sockets: a port on loopback that anybody on this computer
//! can connect to, and a token that only who reads the state directory knows. A connection begins with the token and
//! a line end; who says anything else is cut off. (spec: SYSTEM-2)

use mizzle_link::{read_bounded, write_atomically};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The port, and the file that names it, which is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct ControlListener {
    listener: TcpListener,
    token: Arc<Token>,
    path: PathBuf,
}

impl ControlListener {
    /// Opens it. This process must hold the directory: what lies there is left over.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let token = Token::random()?;
        let path = path(state);
        write_atomically(&path, format!("{port} {}\n", token.0).as_bytes()).map_err(io::Error::other)?;
        Ok(Self { listener: TcpListener::from_std(listener)?, token: Arc::new(token), path })
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<Visitor> {
        let (stream, _) = self.listener.accept().await?;
        Ok(Visitor { stream, token: Arc::clone(&self.token) })
    }
}

impl Drop for ControlListener {
    fn drop(&mut self) {
        // A file that is gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Who has connected: anybody on this computer.
#[derive(Debug)]
pub(crate) struct Visitor {
    stream: TcpStream,
    token: Arc<Token>,
}

impl Visitor {
    /// The connection, if the visitor knows the token.
    pub(crate) async fn admit(mut self) -> io::Result<TcpStream> {
        let mut said = [0; Token::LENGTH + 1];
        let reading = self.stream.read_exact(&mut said);
        tokio::time::timeout(PATIENCE, reading).await.map_err(|_| io::ErrorKind::TimedOut)??;
        match said.split_last() {
            Some((b'\n', token)) if self.token.is(token) => Ok(self.stream),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the token is another")),
        }
    }
}

/// Connects to the daemon of this state directory.
pub(crate) async fn connect_control(state: &Path) -> io::Result<TcpStream> {
    let bytes = read_bounded(&path(state), LONGEST_FILE).map_err(io::Error::other)?;
    let bytes = bytes.ok_or(io::ErrorKind::NotFound)?;
    let known = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim_end().split_once(' '));
    let known = known.and_then(|(port, token)| Some((port.parse().ok()?, token)));
    let (port, token) = known.ok_or(io::ErrorKind::InvalidData)?;
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    stream.set_nodelay(true)?;
    stream.write_all(format!("{token}\n").as_bytes()).await?;
    Ok(stream)
}

/// 256 random bits, in hexadecimal; new at each start.
struct Token(String);

impl Token {
    const LENGTH: usize = 64;

    fn random() -> io::Result<Self> {
        let mut bytes = [0; Self::LENGTH / 2];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// In a time that tells nothing about how much of it is right.
    fn is(&self, said: &[u8]) -> bool {
        let pairs = self.0.bytes().zip(said);
        said.len() == Self::LENGTH && pairs.fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(redacted)")
    }
}

fn path(state: &Path) -> PathBuf {
    state.join("control.port")
}

const LONGEST_FILE: usize = 128;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_reads_the_state_directory_is_admitted_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let listener = ControlListener::open(folder.path()).unwrap();
        let (mut client, visitor) = tokio::join!(connect_control(folder.path()), listener.accept());
        let mut admitted = visitor.unwrap().admit().await.unwrap();
        // Not a byte behind the token is lost.
        client.as_mut().unwrap().write_all(b"{}").await.unwrap();
        let mut said = [0; 2];
        admitted.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"{}");

        let text = std::fs::read_to_string(path(folder.path())).unwrap();
        let (port, token) = text.trim_end().split_once(' ').unwrap();
        let wrong = token.replace(&token[63..], if token.ends_with('0') { "1" } else { "0" });
        for greeting in ["\n".repeat(65), format!("{}\n", &wrong[..64]), format!("{token} ")] {
            let mut stranger = TcpStream::connect(format!("127.0.0.1:{port}")).await.unwrap();
            stranger.write_all(greeting.as_bytes()).await.unwrap();
            assert!(listener.accept().await.unwrap().admit().await.is_err(), "{greeting:?}");
        }
        assert!(!format!("{listener:?}").contains(token));
        drop(listener);
        let gone = connect_control(folder.path()).await.unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }
}
