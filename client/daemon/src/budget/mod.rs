//! What the client may cost: the month's cap, networks that count, and idleness. Each lets it rest, and says why.
//! (spec: DAILY-12)

mod metered;
mod settings;

pub(crate) use metered::{Metered, ask as ask_metered};
pub(crate) use settings::{
    BUDGET_KEYS, BudgetFlags, BudgetKeys, BudgetSettings, DEFAULT_PAGE, OnMetered, PagePlace,
};

use mizzle_client::{Hold, Status};
use mizzle_link::findings::Finding;
use mizzle_link::quota::{Allowance, Quota};
use mizzle_link::units::Span;
use mizzle_protocol::time::Instant;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

/// The judge.
#[derive(Debug)]
pub(crate) struct Budget {
    settings: BudgetSettings,
    /// Where there is a cap.
    quota: Option<Quota>,
    /// When somebody last used the client, and how often before.
    used: (Instant, u64),
    metered: Metered,
    /// What was written down last, and when.
    saved: (u64, Instant),
    status: BudgetStatus,
}

/// What `mizzle status` shows of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BudgetStatus {
    /// How much of the cap is used, in words; `None` without one.
    pub(crate) cap: Option<String>,
    /// 95 % of it are used, or all.
    pub(crate) cap_near: bool,
    /// Whether this network counts.
    pub(crate) metered: Metered,
    /// After how many seconds without a program the client rests.
    pub(crate) idle_after: Option<u64>,
    /// It rests for one of these reasons.
    pub(crate) resting: bool,
}

impl Budget {
    /// Goes on with what earlier processes have used. A count that is damaged is an error: to forget what was used
    /// would cost its owner money.
    pub(crate) fn open(settings: &BudgetSettings, state: &Path, now: Instant) -> Result<Self, String> {
        let open = |limit| Quota::open(state, Some(limit), settings.cap_reset, now.unix());
        let quota = settings.cap.map(open).transpose().map_err(|error| {
            format!("what the cap counts is not known ({error}): remove that file to count from zero")
        })?;
        let saved = (quota.as_ref().map_or(0, Quota::used), now);
        let metered = if settings.metered == OnMetered::Use { Metered::NotAsked } else { Metered::Unknown };
        let settings = settings.clone();
        Ok(Self { settings, quota, used: (now, 0), metered, saved, status: BudgetStatus::default() })
    }

    /// True if it matters whether the network counts.
    pub(crate) fn minds_meters(&self) -> bool {
        self.settings.metered == OnMetered::Pause
    }

    /// What the system says of the network now.
    pub(crate) fn set_metered(&mut self, metered: Metered) {
        self.metered = metered;
    }

    /// Why the client must rest at this moment, if it must. `client` is its status, `uses` how often it was used.
    pub(crate) fn look(&mut self, now: Instant, client: &Status, uses: u64) -> Option<Hold> {
        let line = (client.bytes_out + client.bytes_in) / 100 * (100 + BELOW_TLS);
        let allowance = self.quota.as_ref().map_or(Allowance::Open, |quota| quota.count(now.unix(), line));
        if uses != self.used.1 || client.streams > 0 {
            self.used = (now, uses);
        }
        let asleep = self.settings.idle.0.filter(|Span(time)| now.since(self.used.0) >= *time);
        let sentence = self.quota.as_ref().and_then(|quota| quota.sentence(now.unix()));
        let hold = match (allowance, self.metered, asleep) {
            (Allowance::Spent, _, _) => Some(Hold {
                reason: format!(
                    "the monthly cap is used up ({}): raise `cap` to go on sooner",
                    sentence.as_deref().unwrap_or_default()
                ),
                wakes: false,
            }),
            (_, Metered::Yes, _) => Some(Hold {
                reason: "this network counts what goes through it, so the client pauses: \
                         change the network, or set metered = \"use\""
                    .into(),
                wakes: false,
            }),
            (_, _, Some(time)) => Some(Hold {
                reason: format!("no program has used it for {time} (key `idle`): the next one wakes it"),
                wakes: true,
            }),
            _ => None,
        };
        let status = BudgetStatus {
            cap: sentence,
            cap_near: allowance != Allowance::Open,
            metered: self.metered,
            idle_after: self.settings.idle.0.map(|Span(time)| time.as_secs()),
            resting: hold.is_some(),
        };
        tell(&self.status, &status, hold.as_ref());
        self.status = status;
        self.save_if_due(now);
        hold
    }

    /// For `mizzle status`.
    pub(crate) fn status(&self) -> BudgetStatus {
        self.status.clone()
    }

    /// Writes down what has been used.
    pub(crate) fn save(&self) {
        if let Some(Err(error)) = self.quota.as_ref().map(Quota::save) {
            tracing::warn!("what the cap counts is not written down: {error}");
        }
    }

    /// Seldom enough for a disk, often enough that a killed process forgets little: a minute, or a thousandth.
    fn save_if_due(&mut self, now: Instant) {
        let (Some(quota), Some(cap)) = (&self.quota, self.settings.cap) else { return };
        let used = quota.used();
        let (before, at) = self.saved;
        let much = used < before || used - before >= (cap.0 / 1_000).max(1);
        if used != before && (much || now.since(at) >= SAVE) {
            self.saved = (used, now);
            self.save();
        }
    }
}

/// What a person should know, once.
fn tell(before: &BudgetStatus, after: &BudgetStatus, hold: Option<&Hold>) {
    match hold {
        Some(hold) if !before.resting => tracing::warn!("the client rests: {}", hold.reason),
        None if before.resting => tracing::info!("the client works again"),
        None if after.cap_near && !before.cap_near => {
            tracing::warn!("the monthly cap is near: {}", after.cap.as_deref().unwrap_or_default());
        }
        _ => {}
    }
}

/// For `mizzle doctor`.
pub(crate) fn finding(status: &BudgetStatus, reason: Option<&str>) -> Finding {
    let name = "budget";
    let cap = status.cap.as_deref().unwrap_or("none");
    match (status.resting, status.cap_near) {
        (true, _) => {
            Finding::fail(name, reason.unwrap_or("the client rests"), "see docs/users.md, What it costs")
        }
        (false, true) => Finding::warn(name, format!("the cap is near: {cap}"), "raise `cap`, or use less"),
        (false, false) => {
            Finding::pass(name, format!("cap: {cap}; metered network: {}", status.metered.word()))
        }
    }
}

/// What TCP and IP add to a cell's record, in percent: four segments' headers and their acknowledgements.
const BELOW_TLS: u64 = 7;
const SAVE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::settings::Idle;
    use super::*;
    use mizzle_link::units::Size;

    const START: Instant = Instant::from_micros(1_773_576_000_000_000);

    fn settings() -> BudgetSettings {
        BudgetSettings { cap_reset: 1, ..BudgetSettings::default() }
    }

    fn status(bytes: u64, streams: u64) -> Status {
        let mut status = Status::default();
        (status.bytes_out, status.bytes_in, status.streams) = (bytes / 2, bytes - bytes / 2, streams);
        status
    }

    #[test]
    fn at_the_cap_it_rests_over_restarts_until_the_month_ends_or_the_cap_is_raised() {
        let folder = tempfile::tempdir().unwrap();
        let capped = BudgetSettings { cap: Some(Size(107_000)), ..settings() };
        let mut budget = Budget::open(&capped, folder.path(), START).unwrap();
        assert_eq!(budget.look(START, &status(94_000, 1), 1), None);
        assert!(!budget.status().cap_near);
        assert_eq!(budget.look(START, &status(95_100, 1), 1), None);
        assert!(budget.status().cap_near && !budget.status().resting);
        let hold = budget.look(START, &status(100_000, 1), 1).unwrap();
        assert!(hold.reason.contains("cap") && !hold.wakes, "{hold:?}");
        let found = finding(&budget.status(), Some(&hold.reason));
        assert!(found.verdict == mizzle_link::findings::Verdict::Fail && found.what.contains("cap"));
        // Killed, not stopped: what was written down in between counts.
        drop(budget);
        let mut budget = Budget::open(&capped, folder.path(), START).unwrap();
        assert!(budget.look(START, &status(0, 0), 0).is_some());
        let later = START + Duration::from_secs(40 * 86_400);
        assert_eq!(budget.look(later, &status(0, 0), 0), None);
        let raised = BudgetSettings { cap: Some(Size(1_000_000)), ..settings() };
        assert_eq!(Budget::open(&raised, folder.path(), START).unwrap().look(START, &status(0, 0), 0), None);
        std::fs::write(folder.path().join("quota"), "damaged").unwrap();
        assert!(Budget::open(&capped, folder.path(), START).unwrap_err().contains("remove that file"));
    }

    #[test]
    fn it_rests_where_the_network_counts_unless_told_to_use_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut budget = Budget::open(&settings(), folder.path(), START).unwrap();
        for (metered, rests) in [(Metered::Unknown, false), (Metered::Yes, true), (Metered::No, false)] {
            budget.set_metered(metered);
            assert_eq!(budget.look(START, &status(0, 1), 1).is_some(), rests, "{metered:?}");
        }
        let careless = BudgetSettings { metered: OnMetered::Use, ..settings() };
        let mut budget = Budget::open(&careless, folder.path(), START).unwrap();
        assert!(!budget.minds_meters() && budget.look(START, &status(0, 1), 1).is_none());
        assert_eq!(budget.status().metered, Metered::NotAsked);
    }

    #[test]
    fn it_sleeps_after_the_time_without_a_program_and_not_while_one_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let hour = Duration::from_secs(3_600);
        let idle = BudgetSettings { idle: Idle(Some(Span(hour))), ..settings() };
        let mut budget = Budget::open(&idle, folder.path(), START).unwrap();
        let almost = hour - Duration::from_secs(1);
        assert_eq!(budget.look(START + almost, &status(0, 0), 0), None);
        assert!(budget.look(START + hour, &status(0, 0), 0).unwrap().wakes);
        // Somebody came: awake, and for an hour from now.
        assert_eq!(budget.look(START + hour * 2, &status(0, 0), 1), None);
        assert_eq!(budget.look(START + hour * 2 + almost, &status(0, 1), 1), None);
        // A stream that is open all the time keeps it awake.
        assert_eq!(
            budget.look(START + hour * 3 + almost, &status(0, 0), 1).map(|hold| hold.wakes),
            Some(true)
        );
        let mut never = Budget::open(&settings(), folder.path(), START).unwrap();
        assert_eq!(never.look(START + hour * 1_000, &status(0, 0), 0), None);
    }
}
