//! A month's traffic: counted, and kept over restarts.

use crate::error::protocol;
use crate::units::{Size, Span};
use crate::{Result, read_bounded, write_atomically};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::time::UnixTime;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What may still be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// There is room.
    Open,
    /// From 95 % on: say so.
    Ending,
    /// From 100 % on: carry nothing more.
    Spent,
}

/// What has been used this month.
#[derive(Debug)]
pub struct Quota {
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
    /// Goes on where the file `quota` in `folder` says that an earlier process stopped. Fails if it cannot be read
    /// or is damaged: the caller decides whether to count from zero, by [`Self::fresh`].
    pub fn open(folder: &Path, limit: Option<Size>, reset_day: u8, now: UnixTime) -> Result<Self> {
        let quota = Self::fresh(folder, limit, reset_day, now);
        if let Some(bytes) = read_bounded(&quota.path, FILE_LIMIT)? {
            let damaged = || protocol(ErrorKind::Malformed, format!("{} is damaged", quota.path.display()));
            let (began, used, day) = parse(&bytes).ok_or_else(damaged)?;
            let mut state = quota.lock();
            (state.began, state.used) = (began, used);
            if day.is_some_and(|day| day != reset_day) {
                state.begin_on(reset_day, now);
            }
            state.turn(now);
        }
        Ok(quota)
    }

    /// Counts from zero.
    pub fn fresh(folder: &Path, limit: Option<Size>, reset_day: u8, now: UnixTime) -> Self {
        let state = State { limit, reset_day, began: month_start(now, reset_day), used: 0, seen: 0 };
        Self { path: folder.join("quota"), state: Mutex::new(state) }
    }

    /// Another limit or month from now on. What has been used counts on until the next one begins.
    pub fn set(&self, limit: Option<Size>, reset_day: u8, now: UnixTime) {
        let mut state = self.lock();
        state.limit = limit;
        state.begin_on(reset_day, now);
    }

    /// Counts up to `total`, the bytes of this process so far.
    pub fn count(&self, now: UnixTime, total: u64) -> Allowance {
        let mut state = self.lock();
        state.used = state.used.saturating_add(total.saturating_sub(state.seen));
        state.seen = total;
        state.turn(now);
        state.allowance()
    }

    /// Writes down what has been used.
    pub fn save(&self) -> Result<()> {
        let (began, used, day) = {
            let state = self.lock();
            (state.began.0, state.used, state.reset_day)
        };
        write_atomically(&self.path, format!("{FORMAT}\n{began}\n{used}\n{day}\n").as_bytes())
    }

    /// Bytes used this month.
    pub fn used(&self) -> u64 {
        self.lock().used
    }

    /// How much of it is used, for people; `None` without a quota.
    pub fn sentence(&self, now: UnixTime) -> Option<String> {
        let state = self.lock();
        let limit = state.limit?;
        let percent = state.used.saturating_mul(100).checked_div(limit.0).unwrap_or(100);
        let left =
            Span(Duration::from_secs(next_month(state.began, state.reset_day).0.saturating_sub(now.0)));
        Some(format!("{percent} % of {limit} used, begins anew in {left}"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Months begin on this day from now on. Within a month that began on another day, nothing is forgotten: how much
    /// of it was used since is not known.
    fn begin_on(&mut self, reset_day: u8, now: UnixTime) {
        let (_, _, before) = date(self.began.0 / DAY);
        if now < next_month(self.began, u8::try_from(before).unwrap_or(reset_day)) {
            self.began = self.began.max(month_start(now, reset_day));
        }
        self.reset_day = reset_day;
    }

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

/// When the month began, what was used, and the day on which months begin, which older files do not say.
fn parse(bytes: &[u8]) -> Option<(UnixTime, u64, Option<u8>)> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    (lines.next() == Some(FORMAT)).then_some(())?;
    let (began, used) = (UnixTime(lines.next()?.parse().ok()?), lines.next()?.parse().ok()?);
    Some((began, used, lines.next().map(str::parse).transpose().ok()?))
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
    let (year, month, of_month) = date(began.0 / DAY);
    let (year, month) = match (u64::from(day) > of_month, month) {
        // It began on another day.
        (true, _) => (year, month),
        (false, 12) => (year + 1, 1),
        (false, _) => (year, month + 1),
    };
    UnixTime(days(year, month, u64::from(day)) * DAY)
}

/// Year, month and day of a day since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
pub fn date(days: u64) -> (u64, u64, u64) {
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
pub const DAY: u64 = 86_400;
/// The rest is announced at this percentage.
const ENDING: u64 = 95;

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
        let first = Quota::open(folder.path(), limit, 1, NOW).unwrap();
        assert_eq!(first.count(NOW, 900), Allowance::Open);
        assert_eq!(first.sentence(NOW).unwrap(), "90 % of 1 kB used, begins anew in 16 days");
        first.save().unwrap();
        // The next process counts from zero again.
        let second = Quota::open(folder.path(), limit, 1, NOW).unwrap();
        assert_eq!(second.count(NOW, 0), Allowance::Open);
        assert_eq!(second.count(NOW, 50), Allowance::Ending);
        assert_eq!(second.count(NOW, 99), Allowance::Ending);
        assert_eq!(second.count(NOW, 100), Allowance::Spent);
        second.save().unwrap();
        assert_eq!(Quota::open(folder.path(), limit, 1, NOW).unwrap().count(NOW, 0), Allowance::Spent);
        // A clock that goes back gives nothing back; the next month does.
        assert_eq!(second.count(UnixTime(NOW.0 - 40 * DAY), 100), Allowance::Spent);
        let later = UnixTime(days(2026, 4, 1) * DAY);
        assert_eq!(second.count(UnixTime(later.0 - 1), 100), Allowance::Spent);
        assert_eq!(second.count(later, 110), Allowance::Open);
    }

    #[test]
    fn another_day_for_the_month_to_begin_forgets_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let limit = Some(Size(1_000));
        // It is the 15th of March: the new month began on the 10th, or on the 20th of February.
        for (day, next) in [(10, days(2026, 4, 10)), (20, days(2026, 3, 20))] {
            let quota = Quota::fresh(folder.path(), limit, 1, NOW);
            assert_eq!(quota.count(NOW, 1_000), Allowance::Spent);
            quota.save().unwrap();
            // While it runs, and over a restart.
            quota.set(limit, day, NOW);
            let again = Quota::open(folder.path(), limit, day, NOW).unwrap();
            for quota in [&quota, &again] {
                assert_eq!(quota.count(NOW, 1_000), Allowance::Spent, "day {day}");
                assert_eq!(quota.count(UnixTime(next * DAY - 1), 1_000), Allowance::Spent, "day {day}");
                assert_eq!(quota.count(UnixTime(next * DAY), 1_000), Allowance::Open, "day {day}");
            }
        }
        // A relay that was away when it began anew has a new month, too.
        let quota = Quota::fresh(folder.path(), limit, 1, NOW);
        quota.count(NOW, 1_000);
        quota.set(limit, 20, NOW);
        assert_eq!(quota.sentence(NOW).unwrap(), "100 % of 1 kB used, begins anew in 4 days");
        quota.save().unwrap();
        let later = UnixTime(NOW.0 + 10 * DAY);
        assert_eq!(Quota::open(folder.path(), limit, 20, later).unwrap().count(later, 0), Allowance::Open);
        // After a long time away, all is new, whatever the day.
        let quota = Quota::fresh(folder.path(), limit, 1, NOW);
        quota.count(NOW, 1_000);
        quota.save().unwrap();
        let later = UnixTime(NOW.0 + 60 * DAY);
        assert_eq!(Quota::open(folder.path(), limit, 10, later).unwrap().count(later, 0), Allowance::Open);
    }

    #[test]
    fn more_quota_ends_the_rest_and_a_damaged_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("quota"), "nothing").unwrap();
        let damaged = Quota::open(folder.path(), Some(Size(100)), 1, NOW);
        assert_eq!(damaged.unwrap_err().kind(), ErrorKind::Malformed);
        let quota = Quota::fresh(folder.path(), Some(Size(100)), 1, NOW);
        assert_eq!(quota.count(NOW, 100), Allowance::Spent);
        quota.set(Some(Size(1_000)), 1, NOW);
        assert_eq!(quota.count(NOW, 100), Allowance::Open);
        quota.set(None, 1, NOW);
        assert_eq!(quota.count(NOW, u64::MAX), Allowance::Open);
        assert_eq!(quota.sentence(NOW), None);
    }
}
