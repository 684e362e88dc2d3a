//! How many replies a second a loaded session can fill.
//!
//! A reply that comes empty costs its SURB, its way through the mixes and its opening, as a full one does. A
//! line of some hundred replies a second is asked for whole while anything waits, so that nobody who watches the
//! exit learns more than that. Above, a client asks for little more than what comes filled. (spec: SESSION-15)

use crate::time::Instant;
use std::time::Duration;

/// So many replies a second are asked for whatever comes: up to here a rate tells nothing of what is in it.
pub(super) const FREELY: f64 = 320.0;
/// Over this time replies are counted, beyond the way there and back.
const WINDOW: Duration = Duration::from_millis(500);
/// When so many of the replies come filled, more could be.
const FULL: f64 = 0.9;
/// How much more is asked for than what comes filled, and when all of it does.
const ROOM: f64 = 1.25;
const GROWTH: f64 = 1.5;
/// How much more than in the window before counts as a rise.
const RISING: f64 = 1.1;

/// Counts replies, and says how many a second are of use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filling {
    since: Instant,
    replies: u32,
    filled: u32,
    /// While the transfer gathers speed: those that came filled, a second, in the window before.
    before: Option<f64>,
    useful: f64,
}

impl Filling {
    /// Nothing is known: all are of use.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, replies: 0, filled: 0, before: Some(0.0), useful: f64::INFINITY }
    }

    /// Replies per second that are of use; without limit while nearly all come filled as fast as the line can.
    pub(super) fn useful(&self) -> f64 {
        self.useful
    }

    /// A reply has come, `filled` or empty, to a session that asks for `rate` a second and whose round trips take
    /// `far` in the mixes.
    pub(super) fn note(&mut self, now: Instant, filled: bool, rate: f64, far: Duration) {
        self.replies += 1;
        self.filled += u32::from(filled);
        let span = now.since(self.since);
        if span < WINDOW + far {
            return;
        }
        let per_second = f64::from(self.filled) / span.as_secs_f64();
        let full = f64::from(self.filled) >= FULL * f64::from(self.replies);
        // What a transfer will fill is not known while it gathers speed.
        let gathers = self.before.is_some_and(|before| per_second > before * RISING);
        self.useful = match full {
            true if self.useful > rate => f64::INFINITY,
            true => self.useful * GROWTH,
            false if gathers => self.useful,
            false => (per_second * ROOM).max(FREELY),
        };
        self.before = gathers.then_some(per_second);
        (self.since, self.replies, self.filled) = (now, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: Duration = Duration::from_millis(150);

    /// Lets replies come for so many seconds, over a line that carries `line` a second, of which a service fills at
    /// most `filled` a second. Returns the rate that is asked for at the end.
    fn run(filling: &mut Filling, now: &mut Instant, seconds: f64, line: f64, filled: f64) -> f64 {
        let end = *now + Duration::from_secs_f64(seconds);
        let mut credit = 0.0;
        while *now < end {
            let rate = filling.useful().min(line);
            *now += Duration::from_secs_f64(1.0 / rate);
            credit += filled / rate;
            let full = credit >= 1.0;
            credit = if full { (credit - 1.0).min(1.0) } else { credit };
            filling.note(*now, full, rate, FAR);
        }
        filling.useful().min(line)
    }

    fn fresh() -> (Filling, Instant) {
        let now = Instant::from_micros(1_000_000);
        (Filling::new(now), now)
    }

    #[test]
    fn little_more_is_asked_for_than_comes_filled() {
        let (mut filling, mut now) = fresh();
        let rate = run(&mut filling, &mut now, 5.0, 1_600.0, 700.0);
        assert!((800.0..950.0).contains(&rate), "{rate}");
        // The service fills more again.
        let rate = run(&mut filling, &mut now, 3.0, 1_600.0, f64::INFINITY);
        assert_eq!((rate, filling.useful()), (1_600.0, f64::INFINITY));
    }

    #[test]
    fn nothing_is_taken_from_a_transfer_that_gathers_speed() {
        let (mut filling, mut now) = fresh();
        for filled in [20.0, 60.0, 180.0, 500.0, 1_200.0] {
            assert_eq!(run(&mut filling, &mut now, 0.65, 1_600.0, filled), 1_600.0);
        }
        // It gathers no more.
        let rate = run(&mut filling, &mut now, 3.0, 1_600.0, 1_200.0);
        assert!((1_400.0..1_600.0).contains(&rate), "{rate}");
    }

    #[test]
    fn a_line_that_comes_filled_or_is_slow_is_asked_for_whole() {
        let (mut filling, mut now) = fresh();
        assert_eq!(run(&mut filling, &mut now, 5.0, 1_600.0, 1_500.0), 1_600.0);
        let (mut filling, mut now) = fresh();
        assert_eq!(run(&mut filling, &mut now, 5.0, FREELY, 10.0), FREELY);
        let (mut filling, mut now) = fresh();
        assert_eq!(run(&mut filling, &mut now, 5.0, 1_600.0, 10.0), FREELY);
    }
}
