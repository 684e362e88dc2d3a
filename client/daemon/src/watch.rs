//! Looks at the running client again and again: for the status page's history, and for what it may cost.

use crate::budget::{self, Budget, Metered};
use crate::control::Daemon;
use crate::status_page::SAMPLE;
use mizzle_link::Clock;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Watches until the future is dropped.
pub(crate) async fn watch(daemon: &Daemon, clock: &mut Clock) {
    tokio::join!(look(daemon, clock), ask(&daemon.budget, ASK, budget::ask_metered));
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
async fn ask(budget: &Mutex<Budget>, pause: Duration, metered: impl AsyncFn() -> Metered) {
    let minds = || budget.lock().unwrap_or_else(PoisonError::into_inner).minds_meters();
    while minds() {
        tokio::time::sleep(pause).await;
        let metered = metered().await;
        budget.lock().unwrap_or_else(PoisonError::into_inner).set_metered(metered);
    }
    std::future::pending().await
}

const LOOK: Duration = Duration::from_secs(1);
const ASK: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::BudgetSettings;
    use mizzle_client::Status;
    use mizzle_protocol::time::Instant;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test]
    async fn a_network_that_begins_to_count_pauses_the_client_and_one_that_ends_to_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let settings = BudgetSettings { cap_reset: 1, ..BudgetSettings::default() };
        let budget = Mutex::new(Budget::open(&settings, folder.path(), Instant::ZERO).unwrap());
        let counts = AtomicBool::new(false);
        let answer = async || if counts.load(Ordering::Relaxed) { Metered::Yes } else { Metered::No };
        let pauses = || budget.lock().unwrap().look(Instant::ZERO, &Status::default(), 1).is_some();
        let look = async {
            assert!(!pauses());
            for wanted in [true, false] {
                counts.store(wanted, Ordering::Relaxed);
                while pauses() != wanted {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        };
        tokio::select! {
            () = ask(&budget, Duration::from_millis(1), answer) => {}
            done = tokio::time::timeout(Duration::from_secs(20), look) => done.unwrap(),
        }
    }
}
