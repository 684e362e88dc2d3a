//! What becomes of a relay whose monthly quota runs out.
//!
//! At 95 % it announces a rest: the next consensus is without it, and with what is left it serves those who still
//! go by an older document. At 100 % it takes no packet on, until the month ends. (spec: RELAY-9)

use crate::bandwidth::Bandwidth;
use crate::metrics::Metrics;
use crate::presence::Presence;
use mizzle_link::Clock;
use mizzle_link::quota::{Allowance, Quota};
use mizzle_link::units::Size;
use mizzle_protocol::time::UnixTime;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Goes on where an earlier process stopped. A file that cannot be read counts from zero: a relay that serves too
/// much is better than one that rests for nothing.
pub(crate) fn open(folder: &Path, limit: Option<Size>, reset_day: u8, now: UnixTime) -> Quota {
    Quota::open(folder, limit, reset_day, now).unwrap_or_else(|error| {
        tracing::warn!("the quota counts from zero: {error}");
        Quota::fresh(folder, limit, reset_day, now)
    })
}

/// Counts, writes down and acts, each second, until the daemon stops.
pub(crate) async fn keep(
    quota: Arc<Quota>,
    clock: Clock,
    metrics: Arc<Metrics>,
    bandwidth: Arc<Bandwidth>,
    presence: Presence,
) {
    let mut before = Allowance::Open;
    let mut saved = clock.now();
    loop {
        let now = clock.now();
        let allowance = quota.count(now.unix(), metrics.bytes());
        bandwidth.set_spent(allowance == Allowance::Spent);
        if allowance != before {
            let said = quota.sentence(now.unix()).unwrap_or_default();
            let rests = allowance != Allowance::Open;
            presence.set_rest(rests.then(|| format!("its monthly quota is used up: {said}")));
            match allowance {
                Allowance::Open => tracing::info!("the quota has room again: this relay serves"),
                Allowance::Ending => {
                    tracing::warn!("the quota ends: {said}; this relay announces a rest")
                }
                Allowance::Spent => {
                    tracing::warn!("the quota is used up: {said}; no packet is taken until then")
                }
            }
        }
        if allowance != before || now.since(saved) >= SAVE {
            saved = now;
            if let Err(error) = quota.save() {
                tracing::debug!("the used quota is not written down: {error}");
            }
        }
        before = allowance;
        tokio::time::sleep(LOOK).await;
    }
}

const LOOK: Duration = Duration::from_secs(1);
/// Pause between notes on disk: what a killed process may forget.
const SAVE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bandwidth::{Allowed, Beyond, Direction};
    use crate::presence::Capacity;
    use mizzle_protocol::geometry::Geometry;

    #[tokio::test]
    async fn it_announces_a_rest_before_the_end_and_serves_until_then() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::new();
        let quota = Arc::new(Quota::fresh(folder.path(), Some(Size(1_000)), 1, clock.now().unix()));
        let metrics = Metrics::new().unwrap();
        let counter = || prometheus::IntCounter::new("refused", "refused").unwrap();
        let beyond = Beyond { rate: counter(), quota: counter(), filler: counter(), documents: counter() };
        let bandwidth = Bandwidth::new(Allowed::default(), clock.now(), beyond);
        let presence = Presence::new(Capacity { threads: 7, rate: None });
        tokio::spawn(keep(quota, clock, metrics.clone(), bandwidth.clone(), presence.clone()));
        for (bytes, announced, serves) in [(940, 7, true), (20, 0, true), (40, 0, false)] {
            metrics.bytes_read.inc_by(bytes);
            let done = async {
                let takes = || bandwidth.take(Direction::Receive, 1, clock.now());
                while (presence.said().announced_rate(Geometry::default()), takes()) != (announced, serves) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(4 * LOOK, done).await.expect("it does not come to that");
            tokio::time::sleep(LOOK + LOOK / 2).await;
            assert_eq!(
                presence.said().announced_rate(Geometry::default()),
                announced,
                "after {bytes} more bytes"
            );
        }
    }

    #[test]
    fn a_damaged_file_counts_from_zero() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("quota"), "nothing").unwrap();
        let now = UnixTime(1_773_576_000);
        assert_eq!(open(folder.path(), Some(Size(100)), 1, now).count(now, 99), Allowance::Ending);
    }
}
