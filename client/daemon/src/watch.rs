//! Looks at the running client again and again: for the status page's history, and for what it may cost.

use crate::budget;
use crate::control::Daemon;
use crate::status_page::SAMPLE;
use mizzle_link::Clock;
use std::sync::PoisonError;
use std::time::Duration;

/// Watches until the future is dropped.
pub(crate) async fn watch(daemon: &Daemon, clock: &mut Clock) {
    tokio::join!(look(daemon, clock), ask(daemon));
}

async fn look(daemon: &Daemon, clock: &mut Clock) {
    let mut sampled = clock.now();
    loop {
        if clock.wall_clock_was_set().is_some() {
            *clock = clock.anew();
            sampled = clock.now();
        }
        // Uses are read first: who comes after the status must not be put to sleep by it.
        let uses = daemon.client.uses();
        // A client that is too busy to answer is looked at a second later.
        if let Ok(status) = daemon.client.status().await {
            let now = clock.now();
            let hold = daemon.budget.lock().unwrap_or_else(PoisonError::into_inner).look(now, &status, uses);
            daemon.client.hold(hold);
            let passed = now.since(sampled);
            if passed >= SAMPLE {
                sampled = now;
                daemon.history.lock().unwrap_or_else(PoisonError::into_inner).record(&status, passed);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Asks whether the network counts, as long as that matters.
async fn ask(daemon: &Daemon) {
    let minds = || daemon.budget.lock().unwrap_or_else(PoisonError::into_inner).minds_meters();
    while minds() {
        tokio::time::sleep(ASK).await;
        let metered = budget::ask_metered().await;
        daemon.budget.lock().unwrap_or_else(PoisonError::into_inner).set_metered(metered);
    }
    std::future::pending().await
}

const LOOK: Duration = Duration::from_secs(1);
const ASK: Duration = Duration::from_secs(30);
