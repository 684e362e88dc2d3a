//! A listener whose connections are carried on, a bounded number at once. (spec: DAILY-1)

use crate::listener::{Application, Listener};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Carries every connection by `carry` until the future is dropped. Past the places, new ones wait; one place is
/// kept for the next. Whoever connects gets a reset if `carry` fails, and the person who runs this a sentence.
pub(crate) async fn serve<F, C>(listener: &Listener, places: &Arc<Semaphore>, carry: C)
where
    F: Future<Output = Result<(), String>> + Send + 'static,
    C: Fn(Application) -> F,
{
    loop {
        let Ok(place) = Arc::clone(places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok(application) => {
                let carried = carry(application);
                tokio::spawn(async move {
                    if let Err(error) = carried.await {
                        tracing::warn!("a connection came to nothing: {error}");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: give the others time to end.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Copies both ways, each end on its own, until both have ended. What breaks on one side is broken on the other:
/// neither takes a cut for an end.
pub(crate) async fn carry_bytes(mut near: Application, mut far: Application) -> std::io::Result<()> {
    near.reset_on_close()?;
    far.reset_on_close()?;
    tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER, BUFFER).await?;
    near.close_in_order()?;
    far.close_in_order()
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
const BUFFER: usize = 16 * 1024;
