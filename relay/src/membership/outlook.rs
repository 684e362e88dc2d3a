//! When a relay asks the authorities again: by the epoch of its network. (spec: DIR-9)

use crate::links::Backoff;
use mizzle_protocol::consensus::Consensus;
use mizzle_protocol::time::Instant;
use std::time::Duration;

/// How things stand after a round of the authorities.
pub(super) struct Outlook<'a> {
    pub(super) consensus: Option<&'a Consensus>,
    /// Something did not work.
    pub(super) failed: bool,
    /// It was an authority that refused the descriptor.
    pub(super) refused: bool,
    /// This relay is not listed, and wants to be.
    pub(super) wanted: bool,
}

impl Outlook<'_> {
    /// How long nothing needs to be asked or handed in. Every round fetches the whole consensus from every authority, so
    /// what others decide, such as whether they list this relay, is asked for quickly for some seconds only.
    pub(super) fn pause(&self, now: Instant, backoff: &mut Backoff) -> Duration {
        let Some(consensus) = self.consensus else { return backoff.next() };
        let until = |moment: Instant| moment.since(now);
        let due = consensus.fresh_until.instant() + AFTER;
        // The view changes at the edges of key periods, too, and when the document ends.
        let edge = consensus.schedule().next_change(now);
        let seldom = (consensus.parameters.epoch / ROUNDS).max(UNLISTED);
        if self.failed {
            let pause = if self.refused { backoff.next_up_to(seldom.max(REFUSED)) } else { backoff.next() };
            return pause.min(until(edge)).max(MOMENT);
        }
        let end = consensus.valid_until.instant();
        let wait = until(due.min(edge).min(if end > now { end } else { due }));
        match wait.is_zero() {
            // The next document is late.
            true => backoff.next().min(LATE.max(consensus.parameters.epoch / LATE_ROUNDS)),
            false if self.wanted => wait.min(backoff.next_up_to(seldom).max(UNLISTED)),
            false => wait.max(MOMENT),
        }
    }
}

/// Longest pause of one that an authority refuses, in a network of short epochs.
const REFUSED: Duration = Duration::from_secs(10);
/// A document is asked for so long after it is due.
const AFTER: Duration = Duration::from_millis(100);
/// Shortest pause while the consensus does not list this relay.
const UNLISTED: Duration = Duration::from_secs(1);
/// So often in an epoch, at least a second apart, it asks once that is over.
const ROUNDS: u32 = 20;
/// And so often in an epoch for a document that is late.
const LATE_ROUNDS: u32 = 600;
/// Shortest pause.
pub(super) const MOMENT: Duration = Duration::from_millis(50);
/// Longest pause while a document is late, in a network of short epochs.
const LATE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_protocol::id::Epoch;
    use mizzle_protocol::path::Parameters;
    use mizzle_protocol::time::UnixTime;

    /// The pauses of a relay that nobody lists, until the next document is due, or, with `late`, in the epoch after.
    fn pauses(parameters: Parameters, late: bool, outlook: Outlook<'_>) -> Vec<Duration> {
        let begin = UnixTime(1_000_000);
        let after = |epochs: u32| UnixTime(begin.0 + (parameters.epoch * epochs).as_secs());
        let consensus = Consensus {
            method: 1,
            network: "test".to_owned(),
            epoch: Epoch(7),
            valid_after: begin,
            fresh_until: after(1),
            valid_until: after(3),
            previous: None,
            origin: UnixTime(begin.0 - 10),
            required: Vec::new(),
            recommended: Vec::new(),
            relays: Vec::new(),
            not_running: Vec::new(),
            pool: None,
            made: None,
            later: Default::default(),
            parameters: parameters.clone(),
        };
        let outlook = Outlook { consensus: Some(&consensus), ..outlook };
        let (mut now, mut backoff, mut pauses) = (begin.instant(), Backoff::new(), Vec::new());
        if late {
            now = after(1).instant() + AFTER;
        }
        let end = now + parameters.epoch;
        while now < end && pauses.len() < 10_000 {
            let pause = outlook.pause(now, &mut backoff);
            now += pause;
            pauses.push(pause);
        }
        pauses
    }

    const WANTED: Outlook<'_> = Outlook { consensus: None, failed: false, refused: false, wanted: true };

    #[test]
    fn a_relay_that_is_not_listed_asks_quickly_at_first_and_then_by_the_epoch() {
        let refused = || Outlook { failed: true, refused: true, ..WANTED };
        for outlook in [WANTED, refused()] {
            let public = pauses(Parameters::default(), false, outlook);
            let first: Duration = public[..4].iter().sum();
            assert!(first < Duration::from_secs(6), "{public:?}");
            assert!(public.len() <= 35, "{} rounds an hour: {public:?}", public.len());
        }
        let local = pauses(Parameters::local(), false, WANTED);
        assert!(local[..15].iter().all(|&pause| pause == UNLISTED), "{local:?}");
        let local = pauses(Parameters::local(), false, refused());
        assert!(local.iter().all(|&pause| pause <= REFUSED) && local.len() <= 10, "{local:?}");
    }

    #[test]
    fn who_rests_or_is_listed_asks_once_an_epoch_and_for_a_late_document_by_the_epoch() {
        let listed = || Outlook { wanted: false, ..WANTED };
        let rounds = |late| pauses(Parameters::default(), late, listed()).len();
        assert!(rounds(false) <= 3 && rounds(true) <= 620, "{} {}", rounds(false), rounds(true));
        let local = pauses(Parameters::local(), true, listed());
        assert!(local.iter().all(|&pause| pause <= LATE), "{local:?}");
        // What fails on the way is tried again soon: it is the line or the authority that is gone.
        let failed = pauses(Parameters::default(), false, Outlook { failed: true, ..listed() });
        assert!(failed.iter().all(|&pause| pause <= Duration::from_secs(10)), "{failed:?}");
    }
}
