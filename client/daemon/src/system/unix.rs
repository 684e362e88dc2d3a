//! Linux, macOS and the BSDs.

use std::fs::{DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a command and the daemon talk over.
pub(crate) type ControlStream = UnixStream;
/// What an application and a proxy port that is a file talk over.
pub(crate) type SocketStream = UnixStream;
/// A proxy port that is a file.
pub(crate) type SocketListener = UnixListener;

/// Where commands reach the daemon: a socket in the state directory, removed when this is dropped.
#[derive(Debug)]
pub(crate) struct ControlListener {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlListener {
    /// Opens it. This process must hold the directory: what lies there is left over.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let path = control_path(state);
        let length = path.as_os_str().len();
        if length > LONGEST_PATH {
            let message = format!(
                "{} has {length} bytes, and the path of a socket at most {LONGEST_PATH}: \
                 name a state directory with a shorter path by --state",
                path.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self { listener: UnixListener::bind(&path)?, path })
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<Visitor> {
        self.listener.accept().await.map(|(stream, _)| Visitor(stream))
    }
}

impl Drop for ControlListener {
    fn drop(&mut self) {
        // A file that is gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Who has connected to the control socket: the directory lets in nobody but its owner.
#[derive(Debug)]
pub(crate) struct Visitor(UnixStream);

impl Visitor {
    /// The connection, if the visitor may give commands.
    pub(crate) async fn admit(self) -> io::Result<ControlStream> {
        Ok(self.0)
    }
}

/// Connects to the daemon of this state directory.
pub(crate) async fn connect_control(state: &Path) -> io::Result<ControlStream> {
    UnixStream::connect(control_path(state)).await
}

/// Opens a proxy port that is a file; see [`crate::listener::Listener::open`].
pub(crate) async fn open_socket(path: &Path) -> io::Result<SocketListener> {
    clear(path).await?;
    bind_private(path)
}

/// Connects to one.
pub(crate) async fn connect_socket(path: &Path) -> io::Result<SocketStream> {
    UnixStream::connect(path).await
}

/// True if other users may look into a folder.
pub(crate) fn others_may_look(metadata: &Metadata) -> bool {
    metadata.permissions().mode() & 0o077 != 0
}

/// The signals that ask a process to end.
#[derive(Debug)]
pub(crate) struct Ending {
    terminate: Signal,
    interrupt: Signal,
}

impl Ending {
    /// Listens for them from now on.
    pub(crate) fn watch() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Returns when one has come.
    pub(crate) async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Removes a socket on which nobody listens.
async fn clear(path: &Path) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Binds under a name in a folder of its own, where nobody else can connect, until the file's rights are set.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let folder = path.with_extension(format!("{}.new", std::process::id()));
    DirBuilder::new().mode(0o700).create(&folder)?;
    let inside = folder.join("s");
    let bound = UnixListener::bind(&inside).and_then(|listener| {
        std::fs::set_permissions(&inside, Permissions::from_mode(0o600))?;
        std::fs::rename(&inside, path)?;
        Ok(listener)
    });
    if bound.is_err() {
        let _ = std::fs::remove_file(&inside);
    }
    std::fs::remove_dir(&folder)?;
    bound
}

fn control_path(state: &Path) -> PathBuf {
    state.join("control.sock")
}

/// What every Unix takes: macOS and the BSDs 103 bytes and a zero, Linux 107.
const LONGEST_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_path_too_long_for_a_socket_is_explained() {
        let folder = tempfile::tempdir().unwrap();
        let error = ControlListener::open(&folder.path().join("long".repeat(40))).unwrap_err().to_string();
        assert!(error.contains("at most") && error.contains("--state"), "{error}");
        // The longest that is let through is one that the system takes.
        let room = LONGEST_PATH - folder.path().as_os_str().len() - "//control.sock".len();
        let state = folder.path().join("x".repeat(room));
        std::fs::create_dir(&state).unwrap();
        assert_eq!(control_path(&state).as_os_str().len(), LONGEST_PATH);
        drop(ControlListener::open(&state).unwrap());
    }
}
