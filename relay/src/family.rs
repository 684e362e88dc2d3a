//! The family that this relay shows to be of: its certificate, and when it ends.
//!
//! The certificate comes in a file that the operator made elsewhere (`mizzle-relay key certify`). One that is
//! not for this relay keeps the relay from starting; one that ends is warned of, and the relay goes on, since
//! it is the authorities who then leave it out. (spec: RELAY-14)

use crate::config::Config;
use mizzle_link::units::Span;
use mizzle_link::{CertificateFile, Clock, Result};
use mizzle_protocol::consensus::FamilyCertificate;
use mizzle_protocol::id::RelayId;
use mizzle_protocol::time::Instant;
use std::time::Duration;
use tokio::sync::watch;

/// The certificate in force, shared; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Family {
    network: String,
    relay: RelayId,
    held: watch::Sender<Option<FamilyCertificate>>,
}

/// How long a certificate has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Long enough that nobody need think of it.
    Long,
    /// It ends in so long.
    Ending(Duration),
    /// It has ended.
    Ended,
}

impl Life {
    /// Of `certificate` at `now`.
    pub(crate) fn of(certificate: &FamilyCertificate, now: Instant) -> Self {
        match certificate.expires.instant().since(now) {
            Duration::ZERO => Self::Ended,
            left if left <= ENDING => Self::Ending(left),
            _ => Self::Long,
        }
    }

    /// What to tell the operator, if anything.
    pub(crate) fn sentence(self) -> Option<String> {
        match self {
            Self::Long => None,
            Self::Ending(left) => Some(format!("the family certificate ends in {}", Span(left))),
            Self::Ended => Some("the family certificate has ended".to_owned()),
        }
    }
}

/// The certificate that the configuration names, if it is for this relay in this network.
pub(crate) fn read(config: &Config, network: &str, relay: RelayId) -> Result<Option<FamilyCertificate>> {
    config.family.as_deref().map(|path| CertificateFile::load(path)?.verify(network, relay)).transpose()
}

impl Family {
    /// Fails as [`read`] does.
    pub(crate) fn open(config: &Config, network: &str, relay: RelayId) -> Result<Self> {
        let held = watch::Sender::new(read(config, network, relay)?);
        Ok(Self { network: network.to_owned(), relay, held })
    }

    /// What goes into the descriptor.
    pub(crate) fn certificate(&self) -> Option<FamilyCertificate> {
        *self.held.borrow()
    }

    /// Tells of another certificate.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<FamilyCertificate>> {
        self.held.subscribe()
    }

    /// Reads the certificate again: true if it is another. The old one stays if the new one does not hold.
    pub(crate) fn reload(&self, config: &Config) -> Result<bool> {
        let new = read(config, &self.network, self.relay)?;
        Ok(self.held.send_if_modified(|held| std::mem::replace(held, new) != new))
    }

    /// For people; `None` without a family.
    pub(crate) fn sentence(&self, now: Instant) -> Option<String> {
        let certificate = self.certificate()?;
        let life = Life::of(&certificate, now);
        Some(life.sentence().map_or_else(
            || format!("certified for {} more", Span(certificate.expires.instant().since(now))),
            |sentence| format!("{sentence}: {RENEW}"),
        ))
    }

    /// Warns once before each certificate ends and once when it has, until the daemon stops.
    pub(crate) async fn warn(self, clock: Clock) {
        let (mut held, mut told) = (self.watch(), Told::default());
        loop {
            let certificate = *held.borrow_and_update();
            if let Some(sentence) = told.news(certificate, clock.now()) {
                tracing::warn!("{sentence}: {RENEW}");
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                // An error means that the sender is gone; it is here.
                _ = held.changed() => {}
            }
        }
    }
}

/// What the operator has been told: which certificate, and whether that it has ended.
#[derive(Default)]
struct Told(Option<(FamilyCertificate, bool)>);

impl Told {
    /// What is to be told now, once.
    fn news(&mut self, certificate: Option<FamilyCertificate>, now: Instant) -> Option<String> {
        let certificate = certificate?;
        let life = Life::of(&certificate, now);
        let sentence = life.sentence()?;
        let news = Some((certificate, life == Life::Ended));
        (std::mem::replace(&mut self.0, news) != news).then_some(sentence)
    }
}

/// What to do about a certificate that ends.
pub(crate) const RENEW: &str = "make a new one with mizzle-relay key certify where the family's key is, replace the file, and reload the relay";
/// From when on the operator is told.
const ENDING: Duration = Duration::from_secs(14 * 86_400);
const LOOK: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_protocol::id::FamilyId;
    use mizzle_protocol::time::UnixTime;

    fn ends_at(expires: UnixTime) -> FamilyCertificate {
        let (family, issued) = (FamilyId([1; 32]), UnixTime(1_700_000_000));
        FamilyCertificate { family, issued, expires, signature: [0; 64] }
    }

    #[test]
    fn each_certificate_is_warned_of_once_before_its_end_and_once_at_it() {
        let mut told = Told::default();
        let (first, second) = (ends_at(UnixTime(1_710_000_000)), ends_at(UnixTime(1_730_000_000)));
        let (end, hour) = (first.expires.instant(), Duration::from_secs(3_600));
        assert_eq!(told.news(None, end), None);
        let mut warned = Vec::new();
        for hours in 0..20 * 24 {
            let now = end - ENDING - 24 * hour + hours * hour;
            warned.extend(told.news(Some(first), now).map(|sentence| (hours, sentence)));
        }
        let sentence = |text: &str| format!("the family certificate {text}");
        assert_eq!(warned, [(24, sentence("ends in 14 days")), (15 * 24, sentence("has ended"))]);
        // A renewed one has its own warning.
        assert_eq!(told.news(Some(second), end), None);
        assert_eq!(
            told.news(Some(second), second.expires.instant() - hour),
            Some(sentence("ends in 60 min"))
        );
        assert_eq!(told.news(Some(second), second.expires.instant() - hour), None);
    }

    #[test]
    fn the_last_two_weeks_of_a_certificate_are_told_and_its_end() {
        let expires = UnixTime(1_800_000_000);
        let certificate = ends_at(expires);
        let at = |before: u64| Life::of(&certificate, UnixTime(expires.0 - before).instant());
        let days = |number: u64| number * 86_400;
        assert_eq!(at(days(14) + 1), Life::Long);
        assert_eq!(at(days(14)), Life::Ending(ENDING));
        assert_eq!(at(days(3)).sentence().unwrap(), "the family certificate ends in 3 days");
        assert_eq!(at(1), Life::Ending(Duration::from_secs(1)));
        assert_eq!(at(0), Life::Ended);
        assert_eq!(at(0).sentence().unwrap(), "the family certificate has ended");
    }
}
