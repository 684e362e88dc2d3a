//! What the product's levels promise, and the rates that the tuner makes of it: these are shipped.
//!
//! Each step of a level is a wish like any other: so much traffic, so fast, and a secret to be kept. A test and `mizzle-sim tune --levels`
//! ask for all of them, and fail if the shipped rates are others.

use crate::adversary::matching::Watcher;
use crate::hiding::{Effort, Secret, Seen, hide};
use crate::tune::{Rates, Speed, Wish, loop_share, tune};
use mizzle_protocol::level::{Level, Levels, Pace};
use std::error::Error;

/// What a step of a level promises.
#[derive(Clone, Debug, PartialEq)]
pub struct Promise {
    /// The level.
    pub level: Level,
    /// What a client may cost, and how fast it is.
    pub wish: Wish,
    /// What it hides; `None`: nothing.
    pub secret: Option<Secret>,
}

/// A promise, and the rates that keep it.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The promise.
    pub promise: Promise,
    /// Rounded to ten packets a second.
    pub pace: Pace,
    /// What the secret's watcher found when the rates were verified.
    pub seen: Option<Seen>,
}

/// All steps, each level's slowest first. The levels have their first steps for who is at rest: a message stays hidden at 13.5 GB a
/// day. Each further step of `balanced` brings four times as much home. `fast` is for speed alone. `strong` hides a small page from who
/// sits at the client's entry and at the exit.
pub fn promises() -> Vec<Promise> {
    use Watcher::{EntryAndExit, LinksAndExit};
    let rest = (13.5, 65.0, 30.0);
    let of = |level, (gigabytes_a_day, download, upload), secret: Option<(Watcher, u64, f64)>| Promise {
        level,
        wish: Wish {
            users: 1_000,
            latency_ms: 53.48,
            gigabytes_a_day,
            corrupt: 0.0,
            bits: Some(10.0),
            speed: Speed { download, upload },
        },
        secret: secret.map(|(watcher, flow, seconds)| Secret { watcher, flow, seconds }),
    };
    vec![
        of(Level::Strong, (29.0, 23.0, 30.0), Some((EntryAndExit, 16 << 10, 10.0))),
        of(Level::Balanced, rest, Some((LinksAndExit, 4 << 10, 8.0))),
        of(Level::Balanced, (46.3, 270.0, 60.0), Some((LinksAndExit, 64 << 10, 8.0))),
        of(Level::Balanced, (185.0, 1_100.0, 200.0), Some((LinksAndExit, 1 << 20, 8.0))),
        of(Level::Balanced, (747.0, 4_400.0, 1_000.0), Some((LinksAndExit, 1 << 20, 8.0))),
        of(Level::Fast, rest, None),
        of(Level::Fast, (933.0, 5_500.0, 1_000.0), None),
    ]
}

/// Asks the tuner for each. [`crate::tune::Impossible`] if one cannot be kept. `tried` hears of what is tried.
pub fn keep(effort: Effort, tried: impl Fn(&str)) -> Result<Vec<Kept>, Box<dyn Error>> {
    promises().into_iter().map(|promise| one(promise, effort, &tried)).collect()
}

fn one(promise: Promise, effort: Effort, tried: impl Fn(&str)) -> Result<Kept, Box<dyn Error>> {
    let (answer, filled_as, seen) = match &promise.secret {
        None => (tune(&promise.wish)?, Level::Balanced, None),
        Some(secret) => {
            let hidden = hide(&promise.wish, secret, effort, tried)?;
            (hidden.answer, hidden.level, Some(hidden.verified))
        }
    };
    if (filled_as == Level::Strong) != (promise.level == Level::Strong) {
        return Err(format!(
            "{}: kept by slots that are filled as in {}",
            promise.level.name(),
            filled_as.name()
        )
        .into());
    }
    let round = |rate: f64| libm::round(rate / 10.0) * 10.0;
    let (send, receive) = (round(answer.send_rate), round(answer.receive_rate));
    let rates = match filled_as {
        Level::Strong => Rates { send, receive, loop_share: receive / send },
        _ => Rates { send, receive, loop_share: loop_share(send) },
    };
    let pace = Pace {
        send_rate: rates.send,
        receive_rate: rates.receive,
        loop_share: rates.loop_share,
        drop_share: rates.loop_share,
    };
    Ok(Kept { promise, pace, seen })
}

/// The table that these make.
pub fn levels(kept: &[Kept]) -> mizzle_protocol::Result<Levels> {
    let of = |level| kept.iter().filter(|one| one.promise.level == level).map(|one| one.pace).collect();
    Levels::new(of(Level::Strong), of(Level::Balanced), of(Level::Fast))
}

impl Kept {
    /// For people.
    pub fn in_words(&self) -> String {
        let Promise { level, wish, secret } = &self.promise;
        let Speed { download, upload } = wish.speed;
        let mut text = format!(
            "{}: {} GB a day, {download:.0} kB/s home, {upload:.0} kB/s out: {:.0}/s out, of these {:.1} % loops, {:.0}/s home",
            level.name(),
            wish.gigabytes_a_day,
            self.pace.send_rate,
            self.pace.loop_share * 100.0,
            self.pace.receive_rate
        );
        if let (Some(secret), Some(seen)) = (secret, self.seen) {
            text +=
                &format!("; {} bytes from {}: {}", secret.flow, secret.watcher.name(), seen.in_words(secret));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn the_shipped_levels_are_what_the_tuner_makes_of_their_promises() {
        // A third of what the command takes.
        let effort = Effort { flows: 20.0, seeds: 1, ..Effort::default() };
        let kept = keep(effort, |_| ()).unwrap();
        let text: Vec<_> = kept.iter().map(Kept::in_words).collect();
        assert_eq!(levels(&kept).unwrap(), Levels::default(), "{text:#?}");
        // Each was looked at in flows, but those that promise nothing.
        assert!(kept.iter().all(|one| one.seen.is_some() == (one.promise.level != Level::Fast)));
        assert!(kept.iter().filter_map(|one| one.seen).all(|seen| seen.flows > 5.0 && seen.share() <= 0.5));
    }
}
