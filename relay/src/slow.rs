//! A processor that takes its time: for tests of what a relay does with more packets than it can unwrap.

use std::sync::OnceLock;
use std::time::Duration;

/// In debug builds, sleeps for as many microseconds as `MIZZLE_TEST_PACKET_TIME` says: a thread then unwraps so
/// many packets a second and no more, on any machine. Does nothing in others.
pub(crate) fn unwrap() {
    static TIME: OnceLock<Duration> = OnceLock::new();
    if cfg!(debug_assertions) {
        let said = || std::env::var("MIZZLE_TEST_PACKET_TIME").ok()?.parse().ok();
        let time = *TIME.get_or_init(|| said().map_or(Duration::ZERO, Duration::from_micros));
        if !time.is_zero() {
            std::thread::sleep(time);
        }
    }
}
