//! What was refused on the port, counted by reason. (spec: DIR-14)

use mizzle_protocol::ErrorKind;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why something that came to the port was not taken; the names are those of a relay's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No handshake: other bytes, another protocol, an unknown key.
    Handshake,
    /// Too many connections, or too many requests that wait.
    Full,
    /// A request that was none: other bytes, ended too early, too large, or for nothing that is here.
    Request,
    /// A descriptor or a revocation, for the reason that was told.
    Descriptor(ErrorKind),
}

impl Refusal {
    /// The reason as it is shown.
    fn label(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Full => "full",
            Self::Request => "request",
            Self::Descriptor(kind) => kind.label(),
        }
    }
}

/// The counters, from zero at the start of the process.
#[derive(Debug, Default)]
pub(crate) struct Refusals([AtomicU64; REASONS.len()]);

impl Refusals {
    /// Counts one.
    pub(crate) fn count(&self, refusal: Refusal) {
        let index = REASONS.iter().position(|&reason| reason == refusal).unwrap_or(REASONS.len() - 1);
        if let Some(counter) = self.0.get(index) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All counters by reason, also those at zero.
    pub(crate) fn by_reason(&self) -> BTreeMap<String, u64> {
        let counts = self.0.iter().map(|counter| counter.load(Ordering::Relaxed));
        REASONS.iter().map(|reason| reason.label().to_owned()).zip(counts).collect()
    }
}

/// Every reason; a kind that is none of these counts as the last.
const REASONS: [Refusal; 11] = [
    Refusal::Handshake,
    Refusal::Full,
    Refusal::Request,
    Refusal::Descriptor(ErrorKind::Malformed),
    Refusal::Descriptor(ErrorKind::Forged),
    Refusal::Descriptor(ErrorKind::Replayed),
    Refusal::Descriptor(ErrorKind::Refused),
    Refusal::Descriptor(ErrorKind::Expired),
    Refusal::Descriptor(ErrorKind::Incompatible),
    Refusal::Descriptor(ErrorKind::Exhausted),
    Refusal::Descriptor(ErrorKind::Misuse),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_counter_of_its_own() {
        let refusals = Refusals::default();
        for (times, reason) in (1..).zip(REASONS) {
            (0..times).for_each(|_| refusals.count(reason));
        }
        let counts = refusals.by_reason();
        assert_eq!(counts.len(), REASONS.len());
        for (times, reason) in (1..).zip(REASONS) {
            assert_eq!(counts[reason.label()], times);
        }
    }
}
