//! How late packets are beyond what is known of them.
//!
//! The client drew every delay itself, so what is left to learn is small: links, slots, clocks. Means and
//! deviations are smoothed as TCP's round-trip times are (RFC 6298), in signed seconds, since the two
//! clocks may differ by any amount.

use std::time::Duration;

/// Lateness of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lateness {
    state: Option<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    mean: f64,
    deviation: f64,
    least: f64,
}

/// Before the first sample.
const UNKNOWN: f64 = 0.3;
/// Deviations beyond the mean at which a packet counts as lost. The queue at the entry has an exponential
/// tail, so a false alarm at six is about one in a thousand; it costs one packet.
const DEVIATIONS: f64 = 6.0;
/// Never closer than this: schedulers of busy machines.
const MARGIN: f64 = 0.01;

impl Lateness {
    /// Takes a sample, in seconds.
    pub(super) fn sample(&mut self, seconds: f64) {
        self.state = Some(match self.state {
            None => State { mean: seconds, deviation: 0.03, least: seconds },
            Some(State { mean, deviation, least }) => State {
                mean: mean + (seconds - mean) / 16.0,
                deviation: deviation + ((seconds - mean).abs() - deviation) / 16.0,
                least: least.min(seconds),
            },
        });
    }

    /// Seconds after which a packet is lost.
    pub(super) fn bound(&self) -> f64 {
        self.state.map_or(UNKNOWN, |state| state.mean + DEVIATIONS * state.deviation + MARGIN)
    }

    /// The least seen: what belongs to the clocks and the line.
    pub(super) fn least(&self) -> f64 {
        self.state.map_or(0.0, |state| state.least)
    }
}

/// `to - from` in seconds, either sign.
pub(super) fn seconds_between(from: crate::time::Instant, to: crate::time::Instant) -> f64 {
    (to.as_nanos() as f64 - from.as_nanos() as f64) / 1e9
}

/// A moment `seconds` from `from`, either way.
pub(super) fn shifted(from: crate::time::Instant, seconds: f64) -> crate::time::Instant {
    match seconds >= 0.0 {
        true => from + Duration::from_secs_f64(seconds.min(1e9)),
        false => from - Duration::from_secs_f64((-seconds).min(1e9)),
    }
}
