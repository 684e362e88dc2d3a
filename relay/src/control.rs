//! The operator's word to a running relay: a socket in the state folder that only its owner may use.
//!
//! In the state folder, and not beside the keys in memory: the folder in memory depends on the environment that
//! the daemon was started in (`$RUNTIME_DIRECTORY` under systemd), which the operator's shell does not have;
//! `state` is in the configuration that both read. (spec: RELAY-11)

use crate::config::Config;
use crate::live::Live;
use crate::presence::Presence;
use mizzle_link::http::{self, Limits, Method, Request, Response};
use mizzle_link::{Error, Result};
use mizzle_protocol::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};

/// The socket, until it is dropped.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Takes the place of a socket that a dead process left. Fails if another relay answers there.
    pub(crate) async fn bind(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let failed = |error| Error::io(format!("listen on {}", path.display()), error);
        if path.as_os_str().len() > LONGEST_PATH {
            let message = format!(
                "the path of `state` is too long for a socket in it: {} bytes, and {LONGEST_PATH} at most: choose a \
                 shorter one",
                path.as_os_str().len()
            );
            return Err(Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Misuse, message)));
        }
        if UnixStream::connect(&path).await.is_ok() {
            let message = format!(
                "another relay runs with the state folder {}: stop it, or give this one a folder of its own",
                folder.display()
            );
            return Err(Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Misuse, message)));
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        }
        Ok(Self { listener, path })
    }

    /// Answers one request at a time until it is dropped.
    pub(crate) async fn serve(self, presence: Presence, live: Arc<Live>) {
        let limits = Limits { body: 0, time: Duration::from_secs(2), requests: 4 };
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let answer = async |request: Request| answer(&presence, &live, &request);
            if let Err(error) = http::serve(stream, &limits, answer).await {
                tracing::debug!("a request on the control socket failed: {error}");
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Left behind, it would only be removed by the next process.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn answer(presence: &Presence, live: &Live, request: &Request) -> Response {
    match (request.method, request.path.as_str()) {
        (Method::Post, "/drain") => {
            if !presence.said().leaving {
                tracing::info!(
                    "told to leave the network: this relay ends when no document lists it any more"
                );
            }
            presence.leave();
            match live.load().epoch {
                Some(_) => Response::text(200, LEAVES),
                None => Response::text(200, SERVES_NOBODY),
            }
        }
        _ => Response::text(404, "There is POST /drain.\n"),
    }
}

/// Tells the relay with this configuration to leave the network.
pub(crate) async fn drain(config: &Config) -> Result<()> {
    let path = config.state.join(NAME);
    let mut stream = UnixStream::connect(&path)
        .await
        .map_err(|error| Error::io(format!("reach the relay at {} (does it run?)", path.display()), error))?;
    let response = http::post(&mut stream, "/drain", &[], &Limits::default()).await?;
    if response.status != 200 {
        let message = format!("the relay refuses: {}", response.reason());
        return Err(Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Refused, message)));
    }
    print!("{}", String::from_utf8_lossy(&response.body));
    Ok(())
}

const NAME: &str = "control";
/// What a relay answers that is to leave.
const LEAVES: &str = "\
the relay leaves the network: it serves until no document lists it any more, then it ends by itself
(mizzle-relay status shows how far it is; starting it again brings it back)
";
/// And one that has no document by which it could serve.
const SERVES_NOBODY: &str = "\
the relay has no consensus that is in force, so it serves nobody, and ends by itself as soon as no earlier one can be
in use that lists it (mizzle-relay status shows how it stands; starting it again brings it back)
";

/// Bytes of a socket's path, by Linux.
const LONGEST_PATH: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::Capacity;

    #[tokio::test]
    async fn only_the_owner_may_ask_and_a_dead_socket_is_taken_over() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let first = Control::bind(folder.path()).await.unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let error = Control::bind(folder.path()).await.unwrap_err();
        assert!(error.to_string().contains("another relay runs"), "{error}");
        drop(first);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        Control::bind(folder.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_path_that_no_socket_can_have_is_refused_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("x".repeat(120));
        let error = Control::bind(&long).await.unwrap_err().to_string();
        assert!(error.contains("shorter"), "{error}");
    }

    #[tokio::test]
    async fn a_word_to_leave_is_taken_once() {
        let folder = tempfile::tempdir().unwrap();
        let presence = Presence::new(Capacity { threads: 1, rate: None });
        let control = Control::bind(folder.path()).await.unwrap();
        let path = control.path.clone();
        tokio::spawn(control.serve(presence.clone(), Arc::new(Live::new())));
        for (word, status) in [("/drain", 200), ("/drain", 200), ("/dance", 404)] {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            let response = http::post(&mut stream, word, &[], &Limits::default()).await.unwrap();
            assert_eq!(response.status, status);
            // Without a document there is nothing to wait for, and nothing else is promised.
            let said = String::from_utf8_lossy(&response.body).into_owned();
            assert_eq!(said.contains("has no consensus"), status == 200, "{said}");
        }
        assert!(presence.said().leaving);
    }
}
