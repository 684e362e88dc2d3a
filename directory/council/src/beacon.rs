//! Lots that no authority can choose: each commits to a number, and only when all commits are in a document do
//! they reveal them.
//!
//! A key period's first half is for commits and its second half for reveals, as the documents' own times say; a
//! commit that comes in the second half, and a reveal that comes in the first, count for nothing. So nobody
//! commits after having seen what others reveal. Who reveals last may still keep silent when the outcome does not
//! please it: with f liars that is a choice among 2^f outcomes, which docs/threats.md names. (spec: BEACON-1 to 4)

use crate::seats::Seat;
use crate::vote::Lot;
use mizzle_protocol::Result;
use mizzle_protocol::consensus::Schedule;
use mizzle_protocol::consensus::cbor::{Canonical, Reader, Writer, malformed};
use mizzle_protocol::id::{AuthorityId, Period};
use mizzle_protocol::time::{Instant, UnixTime};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

/// The lots as far as they are drawn; part of what authorities carry on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beacon {
    /// The outcome of the last period that is over.
    pub value: [u8; 32],
    /// The period whose lots are being drawn.
    pub period: Period,
    /// Who has committed to what.
    pub commits: BTreeMap<Seat, [u8; 32]>,
    /// What of that is revealed.
    pub reveals: BTreeMap<Seat, [u8; 32]>,
}

/// What may be said now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Commit,
    Reveal,
}

impl Beacon {
    /// That of a network without a past.
    pub(crate) fn genesis(network: &str) -> Self {
        Self { value: hash(&[b"genesis", network.as_bytes()]), ..Self::default() }
    }

    /// The phase at `now`, and its period.
    pub(crate) fn phase(schedule: &Schedule, key_period: Duration, now: Instant) -> (Period, Phase) {
        let period = schedule.period(now);
        let half = schedule.start(period) + key_period / 2;
        (period, if now < half { Phase::Commit } else { Phase::Reveal })
    }

    /// Takes what was said, of a document that holds from `now` on.
    pub(crate) fn step(
        &mut self,
        schedule: &Schedule,
        key_period: Duration,
        now: Instant,
        lots: impl Iterator<Item = (Seat, AuthorityId, Lot)>,
    ) {
        let (period, phase) = Self::phase(schedule, key_period, now);
        if period > self.period {
            self.close();
            self.period = period;
        }
        for (seat, authority, lot) in lots {
            match phase {
                // The first commit holds.
                Phase::Commit => {
                    if let Some(commit) = lot.commit {
                        self.commits.entry(seat).or_insert(commit);
                    }
                }
                Phase::Reveal => {
                    let Some(reveal) = lot.reveal else { continue };
                    if self.commits.get(&seat) == Some(&commitment(authority, self.period, &reveal)) {
                        self.reveals.insert(seat, reveal);
                    }
                }
            }
        }
    }

    /// Ends the period: what was revealed makes the value, together with the last one.
    fn close(&mut self) {
        let mut parts: Vec<&[u8]> = vec![b"value", &self.value];
        let period = self.period.0.to_be_bytes();
        parts.push(&period);
        let reveals: Vec<_> = self.reveals.iter().map(|(seat, reveal)| ([seat.0], reveal)).collect();
        for (seat, reveal) in &reveals {
            parts.push(seat);
            parts.push(*reveal);
        }
        self.value = hash(&parts);
        self.commits.clear();
        self.reveals.clear();
    }

    /// Something's place in an order that the lots decide.
    pub(crate) fn rank(&self, what: &[u8]) -> [u8; 32] {
        hash(&[b"rank", &self.value, what])
    }
}

/// What commits an authority to reveal `secret` in `period`.
pub fn commitment(authority: AuthorityId, period: Period, secret: &[u8; 32]) -> [u8; 32] {
    hash(&[b"commit", &authority.0, &period.0.to_be_bytes(), secret])
}

/// What the authority with this secret seed says at `now`: always the same in one period, also after a restart.
pub(crate) fn lot(
    seed: &[u8; 32],
    authority: AuthorityId,
    schedule: &Schedule,
    key_period: Duration,
    now: UnixTime,
) -> Lot {
    let now = now.instant();
    let (period, phase) = Beacon::phase(schedule, key_period, now);
    let secret = hash(&[b"lot", seed, &period.0.to_be_bytes()]);
    match phase {
        Phase::Commit => Lot { commit: Some(commitment(authority, period, &secret)), reveal: None },
        // A clock that is a little ahead must not show the number while others may still commit.
        Phase::Reveal if now < schedule.start(period) + key_period / 2 + key_period / 20 => Lot::default(),
        Phase::Reveal => Lot { commit: None, reveal: Some(secret) },
    }
}

/// Parts are told apart by their lengths.
fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"mizzle beacon 1\0");
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

impl Canonical for Beacon {
    fn write(&self, out: &mut Writer) {
        out.array(4);
        out.bytes(&self.value);
        out.uint(u64::from(self.period.0));
        for shares in [&self.commits, &self.reveals] {
            out.array(shares.len());
            for (seat, share) in shares {
                out.array(2);
                out.uint(u64::from(seat.0));
                out.bytes(share);
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        if input.array(4)? != 4 {
            return Err(malformed("a beacon has four parts"));
        }
        let value = input.fixed()?;
        let period = Period(input.u32()?);
        let mut shares = || -> Result<BTreeMap<Seat, [u8; 32]>> {
            let mut shares = BTreeMap::new();
            for _ in 0..input.array(crate::seats::MAX_SEATS)? {
                if input.array(2)? != 2 {
                    return Err(malformed("a share is a seat and 32 bytes"));
                }
                shares.insert(crate::engine::read_seat(input)?, input.fixed()?);
            }
            Ok(shares)
        };
        let (commits, reveals) = (shares()?, shares()?);
        Ok(Self { value, period, commits, reveals })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_protocol::path::Parameters;

    const ORIGIN: UnixTime = UnixTime(1_000_000);
    const PERIOD: Duration = Duration::from_secs(600);

    fn schedule() -> Schedule {
        Schedule::new(ORIGIN, &Parameters::local())
    }

    fn said(seat: u8, second: u64) -> (Seat, AuthorityId, Lot) {
        let authority = AuthorityId([seat; 32]);
        let now = ORIGIN + Duration::from_secs(second);
        (Seat(seat), authority, lot(&[seat ^ 0xff; 32], authority, &schedule(), PERIOD, now))
    }

    type Said = Vec<(Seat, AuthorityId, Lot)>;

    fn drawn(history: &[(u64, Said)]) -> Beacon {
        let mut beacon = Beacon::genesis("local");
        for (second, lots) in history {
            let now = ORIGIN.instant() + Duration::from_secs(*second);
            beacon.step(&schedule(), PERIOD, now, lots.iter().copied());
        }
        beacon
    }

    #[test]
    fn each_reveal_changes_the_value_and_the_order_of_votes_does_not() {
        let all = |second| (0..4).map(|seat| said(seat, second)).collect::<Vec<_>>();
        let reversed = |second| all(second).into_iter().rev().collect::<Vec<_>>();
        let value = |reveals: Vec<_>| drawn(&[(10, all(10)), (340, reveals), (610, Vec::new())]).value;
        assert_eq!(value(all(340)), value(reversed(340)));
        let mut values: Vec<_> =
            (0..=4).map(|count| value(all(340).into_iter().take(count).collect())).collect();
        values.sort_unstable();
        values.dedup();
        assert_eq!(values.len(), 5);
    }

    #[test]
    fn who_commits_when_others_reveal_or_reveals_something_else_has_no_part() {
        let honest = |second| vec![said(0, second), said(1, second), said(2, second)];
        let value =
            |commits: Vec<_>, reveals: Vec<_>| drawn(&[(10, commits), (340, reveals), (610, Vec::new())]);
        let without = value(honest(10), honest(340)).value;
        // The fourth commits in the second half only, to what suits it.
        let late = |lot| [honest(340), vec![(Seat(3), AuthorityId([3; 32]), lot)]].concat();
        let commit = commitment(AuthorityId([3; 32]), Period(0), &[9; 32]);
        let both = Lot { commit: Some(commit), reveal: Some([9; 32]) };
        assert_eq!(value(honest(10), late(both)).value, without);
        // It committed in time, and reveals another number.
        let four = [honest(10), vec![said(3, 10)]].concat();
        assert_eq!(value(four, late(Lot { commit: None, reveal: Some([9; 32]) })).value, without);
        // A reveal that comes too early is not kept.
        let early = drawn(&[(10, honest(340))]);
        assert!(early.commits.is_empty() && early.reveals.is_empty());
    }

    #[test]
    fn the_first_commit_holds() {
        let again = (Seat(0), AuthorityId([0; 32]), Lot { commit: Some([5; 32]), reveal: None });
        let beacon = drawn(&[(10, vec![said(0, 10)]), (20, vec![again])]);
        assert_eq!(Some(beacon.commits[&Seat(0)]), said(0, 10).2.commit);
    }

    #[test]
    fn a_beacon_is_carried_on_as_it_is() {
        use mizzle_protocol::consensus::cbor::{decode, encode};
        let beacon = drawn(&[(10, vec![said(0, 10), said(2, 10)]), (340, vec![said(2, 340)])]);
        assert_eq!(beacon.reveals.len(), 1);
        assert_eq!(decode::<Beacon>(&encode(&beacon), 4_096).unwrap(), beacon);
    }
}
