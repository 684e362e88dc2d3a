//! How a relay ends without losing a packet.
//!
//! First it takes no new connections, and says goodbye on the links that relays send on: they finish what they
//! were writing, and it reads until their end. Then everything that is held leaves at its drawn moment, and
//! what waits for clients goes out in their slots. Then clients are told goodbye in the same way, and last the
//! outgoing links are flushed and closed. All of it is bounded in time. (spec: RELAY-10)

use crate::links::Links;
use crate::metrics::Metrics;
use std::time::Duration;
use tokio::sync::watch;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It has not begun.
    Serving,
    /// No packets of relays any more.
    Relays,
    /// Nor of clients.
    Clients,
}

/// Tells links to end; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Sender<Phase>);

impl Stop {
    /// Not yet.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Phase::Serving))
    }

    /// Waits until the end has come so far.
    pub(crate) async fn reached(&self, phase: Phase) {
        // An error means that the sender is gone; it is here.
        let _ = self.0.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// Ends everything; returns how many packets were here at the beginning, and how many are left. Packets for
    /// clients that have left are not waited for: they could not go anywhere.
    pub(crate) async fn drain(
        &self,
        metrics: &Metrics,
        links: &Links,
        longest_delay: Duration,
    ) -> (i64, i64) {
        let before = metrics.can_leave();
        self.0.send_replace(Phase::Relays);
        until(READ_OUT, || metrics.links_in.get() == 0).await;
        // What the last links brought is in the engine by now.
        until(longest_delay + SLOTS, || metrics.can_leave() == 0).await;
        // From here on this relay sends clients away: what waits for them is lost, and no longer theirs to fetch.
        let away = metrics.away();
        let left = || (metrics.in_flight() - away).max(0);
        self.0.send_replace(Phase::Clients);
        until(GOODBYE, || metrics.client_links.get() == 0).await;
        until(GOODBYE, || left() == 0).await;
        links.close();
        until(GOODBYE, || metrics.links_out.get() == 0).await;
        (before, left())
    }
}

/// Waits until something holds, but no longer than `limit`.
async fn until(limit: Duration, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(LOOK).await;
        }
    };
    let _ = tokio::time::timeout(limit, wait).await;
}

/// How long a peer may take to notice a goodbye.
pub(crate) const GOODBYE: Duration = Duration::from_secs(1);
/// How long a relay may take to notice one and to write what it has.
pub(crate) const READ_OUT: Duration = Duration::from_secs(2);
/// How long what waits for clients may take to go out: a full queue takes little more than three seconds, and slots
/// come by chance.
const SLOTS: Duration = Duration::from_secs(6);
const LOOK: Duration = Duration::from_millis(2);
