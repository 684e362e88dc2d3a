//! Whether this computer's clock is right, by what relays and documents say: it is stated, and never followed.
//! (spec: CLIENT-8)
//!
//! A relay says what time it is by its clock; one alone may lie, or be wrong itself, so that is stated as its word. Of
//! several that agree the message says how many. A document that the authorities signed, and that is from the future,
//! proves that the clock is behind, whatever relays say. Documents and keys are judged by this computer's clock in any
//! case: who could move the time that a client goes by could feed it documents that are over.

use mizzle_protocol::id::RelayId;
use mizzle_protocol::time::{Instant, UnixTime};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// How far this computer's clock seems to be off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ClockSkew {
    /// Seconds that it is ahead of the others'; negative: behind.
    pub seconds: i64,
    /// Relays whose clocks say so, within some minutes of each other.
    pub agree: usize,
    /// Relays whose clocks are known.
    pub asked: usize,
    /// True if a document that the authorities signed proves that it is behind.
    pub proven: bool,
}

impl fmt::Display for ClockSkew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seconds, agree, asked, proven } = *self;
        let (by, way) = (span(seconds.unsigned_abs()), if seconds < 0 { "behind" } else { "ahead" });
        match (proven, agree) {
            (true, 0) => write!(
                f,
                "this computer's clock is at least {by} behind: a consensus that the authorities signed begins after it"
            ),
            (true, _) => write!(
                f,
                "this computer's clock is about {by} behind, by the authorities' signatures and {agree} of {asked} relays"
            ),
            (false, 1) => write!(
                f,
                "the one relay whose clock is known has another time: by it, this computer's clock is about {by} {way}"
            ),
            (false, _) => {
                write!(
                    f,
                    "this computer's clock is about {by} {way}, by {agree} of {asked} relays that were asked"
                )
            }
        }
    }
}

/// What has been heard.
#[derive(Debug, Default)]
pub(crate) struct Skew {
    /// The latest of each relay, or of an exit that has no name here; the oldest first.
    heard: VecDeque<Heard>,
    /// When the latest document begins that the authorities signed.
    begun: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    from: Option<RelayId>,
    /// Seconds that our clock was ahead.
    ahead: i64,
    at: Instant,
}

impl Skew {
    /// A relay, or an exit behind the mixnet, that answered just now has said what time it is.
    pub(crate) fn hear(&mut self, from: Option<RelayId>, time: UnixTime, now: Instant) {
        let seconds = |time: UnixTime| i64::try_from(time.0).unwrap_or(i64::MAX);
        let ahead = seconds(now.unix()).saturating_sub(seconds(time));
        self.heard.retain(|heard| from.is_none() || heard.from != from);
        self.heard.push_back(Heard { from, ahead, at: now });
        while self.heard.len() > REMEMBERED {
            self.heard.pop_front();
        }
    }

    /// A document that the authorities signed begins at this moment, less the grace.
    pub(crate) fn prove(&mut self, begins: Instant) {
        self.begun = self.begun.max(Some(begins));
    }

    /// Not before this moment can it be now.
    pub(crate) fn not_before(&self) -> Instant {
        self.begun.unwrap_or(Instant::ZERO)
    }

    /// Nothing that was heard has a meaning by another clock.
    pub(crate) fn forget_clocks(&mut self) {
        self.heard.clear();
    }

    /// What there is to say at `now`.
    pub(crate) fn finding(&self, now: Instant) -> Option<ClockSkew> {
        let mut ahead: Vec<i64> =
            self.heard.iter().filter(|heard| now.since(heard.at) < FRESH).map(|heard| heard.ahead).collect();
        ahead.sort_unstable();
        let (asked, median) = (ahead.len(), ahead.get(ahead.len() / 2).copied());
        let near = |of: i64| ahead.iter().filter(|other| other.abs_diff(of) <= AGREEMENT).count();
        let behind = i64::try_from(self.not_before().since(now).as_secs()).unwrap_or(i64::MAX);
        let told =
            median.filter(|median| median.unsigned_abs() > TOLERANCE).map(|median| (median, near(median)));
        if behind > 0 {
            // Relays say more exactly what is proven in any case, if they do not contradict it.
            let told = told.filter(|(median, agree)| *median <= -behind && *agree * 2 > asked);
            let (seconds, agree) = told.unwrap_or((-behind, 0));
            return Some(ClockSkew { seconds, agree, asked, proven: true });
        }
        let (seconds, agree) = told.filter(|(_, agree)| *agree * 2 > asked)?;
        Some(ClockSkew { seconds, agree, asked, proven: false })
    }
}

/// A time in the two units that say enough.
fn span(seconds: u64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => match (seconds / 3_600, seconds % 3_600 / 60) {
            (hours, 0) => format!("{hours} h"),
            (hours, minutes) => format!("{hours} h {minutes} min"),
        },
        _ => match (seconds / 86_400, seconds % 86_400 / 3_600) {
            (days, 0) => format!("{days} days"),
            (days, hours) => format!("{days} days {hours} h"),
        },
    }
}

/// What to do about it.
pub(crate) const ADVICE: &str = "set date and time of this computer, best by the network time protocol";
/// Seconds. Within that, documents and keys mean what they should.
const TOLERANCE: u64 = 60;
/// Seconds between clocks that agree with each other.
const AGREEMENT: u64 = 300;
/// So long what a relay said is remembered: some epochs, in each of which three are asked.
const FRESH: Duration = Duration::from_secs(3 * 3_600);
/// Of so many.
const REMEMBERED: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_micros(1_800_000_000_000_000);
    const HOUR: i64 = 3_600;

    /// After these relays, by number, have said by how much our clock is ahead of theirs.
    fn heard(ahead: &[(u8, i64)]) -> Skew {
        let mut skew = Skew::default();
        for &(id, ahead) in ahead {
            let time = UnixTime(NOW.unix().0.checked_add_signed(-ahead).unwrap());
            skew.hear((id > 0).then_some(RelayId([id; 32])), time, NOW);
        }
        skew
    }

    fn says(skew: &Skew) -> Option<(i64, usize, usize, bool)> {
        skew.finding(NOW).map(|found| (found.seconds, found.agree, found.asked, found.proven))
    }

    #[test]
    fn a_clock_that_is_right_by_most_needs_no_word() {
        assert_eq!(says(&heard(&[])), None);
        assert_eq!(says(&heard(&[(1, 30), (2, -59), (3, 0)])), None);
        // One that lies, however much, moves nothing.
        assert_eq!(says(&heard(&[(1, 48 * HOUR), (2, 1), (3, 0)])), None);
        assert_eq!(says(&heard(&[(1, i64::from(i32::MIN)), (2, 1), (3, 0)])), None);
    }

    #[test]
    fn relays_that_agree_say_by_how_much_and_which_way() {
        for (hours, words) in [(2, "about 2 h ahead"), (-2, "about 2 h behind"), (48, "about 2 days ahead")] {
            let skew = heard(&[(1, hours * HOUR), (2, hours * HOUR + 60), (3, hours * HOUR - 60)]);
            assert_eq!(says(&skew), Some((hours * HOUR, 3, 3, false)));
            let text = skew.finding(NOW).unwrap().to_string();
            assert!(text.contains(words) && text.contains("3 of 3"), "{text}");
        }
        // Two that disagree are no majority for either.
        assert_eq!(says(&heard(&[(1, 48 * HOUR), (2, -48 * HOUR)])), None);
        assert_eq!(says(&heard(&[(1, 0), (2, 48 * HOUR), (3, 48 * HOUR)])), Some((48 * HOUR, 2, 3, false)));
    }

    #[test]
    fn one_relay_is_quoted_and_not_believed() {
        let text = heard(&[(1, 2 * HOUR)]).finding(NOW).unwrap().to_string();
        assert!(text.starts_with("the one relay") && text.contains("2 h ahead"), "{text}");
        // What it says again counts once; exits, which have no name, each time.
        assert_eq!(says(&heard(&[(1, HOUR), (1, 2 * HOUR)])), Some((2 * HOUR, 1, 1, false)));
        assert_eq!(says(&heard(&[(0, 2 * HOUR), (0, 2 * HOUR)])), Some((2 * HOUR, 2, 2, false)));
    }

    #[test]
    fn a_signed_document_from_the_future_proves_it_whatever_relays_say() {
        let behind = |hours: i64| NOW + Duration::from_secs((hours * HOUR) as u64);
        for relays in [&[][..], &[(1, 0), (2, 0)], &[(1, 48 * HOUR), (2, 48 * HOUR)]] {
            let mut skew = heard(relays);
            skew.prove(behind(47));
            assert_eq!(says(&skew), Some((-47 * HOUR, 0, relays.len(), true)));
            let text = skew.finding(NOW).unwrap().to_string();
            assert!(text.contains("at least 47 h behind") || text.contains("1 days"), "{text}");
        }
        let mut skew = heard(&[(1, -48 * HOUR), (2, -48 * HOUR)]);
        skew.prove(behind(47));
        skew.prove(behind(3));
        assert_eq!(says(&skew), Some((-48 * HOUR, 2, 2, true)));
        // When its time has come it proves nothing any more.
        assert_eq!(skew.finding(behind(48)).map(|found| found.proven), None);
    }

    #[test]
    fn what_was_heard_long_ago_or_by_another_clock_is_forgotten_and_little_is_kept() {
        let mut skew = heard(&[(1, 2 * HOUR), (2, 2 * HOUR)]);
        assert_eq!(skew.finding(NOW + FRESH), None);
        skew.forget_clocks();
        assert_eq!(says(&skew), None);
        let many: Vec<(u8, i64)> = (1..=200).map(|id| (id, 2 * HOUR)).collect();
        assert_eq!(heard(&many).heard.len(), REMEMBERED);
    }

    #[test]
    fn spans_are_said_in_units_that_say_enough() {
        let said = [0, 119, 120, 7_199, 7_200, 9_000, 172_799, 172_800, 180_000].map(span);
        let wanted =
            ["0 s", "119 s", "2 min", "119 min", "2 h", "2 h 30 min", "47 h 59 min", "2 days", "2 days 2 h"];
        assert_eq!(said, wanted);
    }
}
