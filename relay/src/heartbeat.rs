//! The line in the log that says all is well, and how much came through.

use crate::metrics::Metrics;
use mizzle_link::Clock;
use mizzle_link::quota::Quota;
use mizzle_link::units::{Size, Span};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// Writes a line every `pause`, and nothing in between; never if it is zero.
pub(crate) async fn beat(pause: Duration, clock: Clock, metrics: Arc<Metrics>, quota: Arc<Quota>) {
    if pause.is_zero() {
        return std::future::pending().await;
    }
    let start = clock.now();
    loop {
        tokio::time::sleep(pause).await;
        let now = clock.now();
        let quota = quota.sentence(now.unix());
        tracing::info!("{}", line(now.since(start), &metrics, quota.as_deref()));
    }
}

/// What a quiet day looks like. Rounded as the counters are: a log may be read by more people than they.
fn line(up: Duration, metrics: &Metrics, quota: Option<&str>) -> String {
    let (received, lost) = (metrics.received(), metrics.lost());
    let share = if received == 0 { 0.0 } else { lost as f64 / received as f64 * 100.0 };
    let mut line = format!("up {}; {} packets, {share:.2} % lost", Span(up), received / ROUND * ROUND,);
    let worst = metrics.losses();
    if let Some((reason, _)) = worst.filter(|_| share >= 0.01) {
        let _ = write!(line, " (most: {reason})");
    }
    let traffic = Size(metrics.bytes() / 1_000_000 * 1_000_000);
    let links = (metrics.links_out.get(), metrics.links_in.get());
    let _ = write!(line, "; {traffic}; links {} out, {} in", links.0, links.1);
    let listed = if metrics.listed.get() == 1 { "listed" } else { "not listed: see mizzle-relay status" };
    let _ = write!(line, "; {listed}");
    if let Some(quota) = quota {
        let _ = write!(line, "; quota: {quota}");
    }
    line
}

const ROUND: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::Cell;
    use crate::metrics::{Origin, Packet};
    use mizzle_protocol::mix::DropReason;
    use mizzle_protocol::time::Instant;

    #[test]
    fn a_line_tells_of_packets_losses_links_and_quota() {
        let metrics = Metrics::new().unwrap();
        for number in 0..2_500 {
            let packet = Packet::receive(&metrics, Origin::Relay, 0, Cell::default(), Instant::ZERO);
            packet.discard(if number % 10 == 0 { DropReason::QueueFull } else { DropReason::Cover });
        }
        metrics.listed.set(1);
        let text = line(Duration::from_secs(21_600), &metrics, Some("41 % of 500 GB used"));
        assert_eq!(
            text,
            "up 6 h; 2000 packets, 10.00 % lost (most: queue_full); 0 B; links 0 out, 0 in; listed; \
             quota: 41 % of 500 GB used"
        );
    }
}
