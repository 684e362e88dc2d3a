//! The month's traffic: counted, kept over restarts, and turned into an announced rest when it runs out.
//!
//! At 95 % the relay announces a rest: the next consensus is without it, and with what is left it serves those
//! who still go by an older document. At 100 % it takes no packet on, until the month ends. (spec: RELAY-9)

use crate::bandwidth::Bandwidth;
use crate::metrics::Metrics;
use crate::presence::Presence;
use crate::units::{Size, Span};
use mizzle_link::{Clock, Result, read_bounded, write_atomically};
use mizzle_protocol::time::UnixTime;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What may still be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowance {
    /// Serve.
    Open,
    /// Serve, and announce a rest.
    Ending,
    /// Take nothing on.
    Spent,
}

/// What has been used this month.
#[derive(Debug)]
pub(crate) struct Quota {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: Option<Size>,
    reset_day: u8,
    /// When the month that is counted began.
    began: UnixTime,
    used: u64,
    /// The process's counter when it was last looked at.
    seen: u64,
}

impl Quota {
    /// Goes on where the file in `folder` says that an earlier process stopped. One that cannot be read counts
    /// from zero: a relay that serves too much is better than one that rests for nothing.
    pub(crate) fn open(folder: &Path, limit: Option<Size>, reset_day: u8, now: UnixTime) -> Self {
        let path = folder.join("quota");
        let began = month_start(now, reset_day);
        let stored = read_bounded(&path, FILE_LIMIT).ok().flatten();
        let (stored_began, used) = stored.as_deref().and_then(parse).unwrap_or((began, 0));
        let mut state = State { limit, reset_day, began: stored_began, used, seen: 0 };
        state.turn(now);
        Self { path, state: Mutex::new(state) }
    }

    /// Another limit or month from now on.
    pub(crate) fn set(&self, limit: Option<Size>, reset_day: u8) {
        let mut state = self.lock();
        (state.limit, state.reset_day) = (limit, reset_day);
    }

    /// Counts up to `total`, the bytes of this process so far.
    pub(crate) fn count(&self, now: UnixTime, total: u64) -> Allowance {
        let mut state = self.lock();
        state.used = state.used.saturating_add(total.saturating_sub(state.seen));
        state.seen = total;
        state.turn(now);
        state.allowance()
    }

    /// Writes down what has been used.
    pub(crate) fn save(&self) -> Result<()> {
        let (began, used) = {
            let state = self.lock();
            (state.began.0, state.used)
        };
        write_atomically(&self.path, format!("{FORMAT}\n{began}\n{used}\n").as_bytes())
    }

    /// How much of it is used, for people; `None` without a quota.
    pub(crate) fn sentence(&self, now: UnixTime) -> Option<String> {
        let state = self.lock();
        let limit = state.limit?;
        let percent = state.used.saturating_mul(100).checked_div(limit.0).unwrap_or(100);
        let left =
            Span(Duration::from_secs(next_month(state.began, state.reset_day).0.saturating_sub(now.0)));
        Some(format!("{percent} % of {limit} used, begins anew in {left}"))
    }

    /// Counts, writes down and acts, each second, until the daemon stops.
    pub(crate) async fn keep(
        self: Arc<Self>,
        clock: Clock,
        metrics: Arc<Metrics>,
        bandwidth: Arc<Bandwidth>,
        presence: Presence,
    ) {
        let mut before = Allowance::Open;
        let mut saved = clock.now();
        loop {
            let now = clock.now();
            let allowance = self.count(now.unix(), metrics.bytes());
            bandwidth.set_spent(allowance == Allowance::Spent);
            if allowance != before {
                let said = self.sentence(now.unix()).unwrap_or_default();
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
                if let Err(error) = self.save() {
                    tracing::debug!("the used quota is not written down: {error}");
                }
            }
            before = allowance;
            tokio::time::sleep(LOOK).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Begins a new month when it has come. A clock that goes back begins none.
    fn turn(&mut self, now: UnixTime) {
        let current = month_start(now, self.reset_day);
        if current > self.began {
            (self.began, self.used) = (current, 0);
        }
    }

    fn allowance(&self) -> Allowance {
        match self.limit {
            Some(Size(limit)) if self.used >= limit => Allowance::Spent,
            Some(Size(limit)) if self.used >= limit / 100 * ENDING => Allowance::Ending,
            _ => Allowance::Open,
        }
    }
}

fn parse(bytes: &[u8]) -> Option<(UnixTime, u64)> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    (lines.next() == Some(FORMAT)).then_some(())?;
    Some((UnixTime(lines.next()?.parse().ok()?), lines.next()?.parse().ok()?))
}

/// Midnight UTC of the last day of the month `day` that is not after `now`.
fn month_start(now: UnixTime, day: u8) -> UnixTime {
    let (year, month, today) = date(now.0 / DAY);
    let (year, month) = match (today >= u64::from(day), month) {
        (true, _) => (year, month),
        (false, 1) => (year - 1, 12),
        (false, _) => (year, month - 1),
    };
    UnixTime(days(year, month, u64::from(day)) * DAY)
}

/// When the month after the one that began at `began` begins.
fn next_month(began: UnixTime, day: u8) -> UnixTime {
    let (year, month, _) = date(began.0 / DAY);
    let (year, month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    UnixTime(days(year, month, u64::from(day)) * DAY)
}

/// Year, month and day of a day since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
pub(crate) fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

/// Days since 1970 of a date from then on; the inverse of [`date`].
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = year.saturating_sub(u64::from(month <= 2));
    let (era, of_era) = (year / 400, year % 400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted_month + 2) / 5 + day - 1;
    (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year).saturating_sub(719_468)
}

const FORMAT: &str = "mizzle quota 1";
const FILE_LIMIT: usize = 1024;
/// Seconds of a day.
pub(crate) const DAY: u64 = 86_400;
/// The rest is announced at this percentage.
const ENDING: u64 = 95;
const LOOK: Duration = Duration::from_secs(1);
/// Pause between notes on disk: what a killed process may forget.
const SAVE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-03-15 12:00 UTC.
    const NOW: UnixTime = UnixTime(1_773_576_000);

    #[test]
    fn dates_agree_with_the_calendar() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(NOW.0 / DAY), (2026, 3, 15));
        assert_eq!(date(days(2024, 2, 29)), (2024, 2, 29));
        for day in 0..80_000 {
            let (year, month, of_month) = date(day);
            assert_eq!(days(year, month, of_month), day);
        }
        let start = |day| date(month_start(NOW, day).0 / DAY);
        assert_eq!((start(1), start(15), start(16)), ((2026, 3, 1), (2026, 3, 15), (2026, 2, 16)));
        assert_eq!(date(month_start(UnixTime(days(2026, 1, 3) * DAY), 5).0 / DAY), (2025, 12, 5));
        assert_eq!(date(next_month(UnixTime(days(2025, 12, 5) * DAY), 5).0 / DAY), (2026, 1, 5));
    }

    #[test]
    fn use_is_kept_over_restarts_and_begins_anew_with_the_month() {
        let folder = tempfile::tempdir().unwrap();
        let limit = Some(Size(1_000));
        let first = Quota::open(folder.path(), limit, 1, NOW);
        assert_eq!(first.count(NOW, 900), Allowance::Open);
        assert_eq!(first.sentence(NOW).unwrap(), "90 % of 1 kB used, begins anew in 16 days");
        first.save().unwrap();
        // The next process counts from zero again.
        let second = Quota::open(folder.path(), limit, 1, NOW);
        assert_eq!(second.count(NOW, 0), Allowance::Open);
        assert_eq!(second.count(NOW, 50), Allowance::Ending);
        assert_eq!(second.count(NOW, 99), Allowance::Ending);
        assert_eq!(second.count(NOW, 100), Allowance::Spent);
        second.save().unwrap();
        assert_eq!(Quota::open(folder.path(), limit, 1, NOW).count(NOW, 0), Allowance::Spent);
        // A clock that goes back gives nothing back; the next month does.
        assert_eq!(second.count(UnixTime(NOW.0 - 40 * DAY), 100), Allowance::Spent);
        let later = UnixTime(days(2026, 4, 1) * DAY);
        assert_eq!(second.count(UnixTime(later.0 - 1), 100), Allowance::Spent);
        assert_eq!(second.count(later, 110), Allowance::Open);
    }

    #[test]
    fn more_quota_ends_the_rest_and_a_damaged_file_counts_from_zero() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("quota"), "nothing").unwrap();
        let quota = Quota::open(folder.path(), Some(Size(100)), 1, NOW);
        assert_eq!(quota.count(NOW, 100), Allowance::Spent);
        quota.set(Some(Size(1_000)), 1);
        assert_eq!(quota.count(NOW, 100), Allowance::Open);
        quota.set(None, 1);
        assert_eq!(quota.count(NOW, u64::MAX), Allowance::Open);
        assert_eq!(quota.sentence(NOW), None);
    }
}
