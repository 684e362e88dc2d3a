//! This relay's place in the network: its keys, its descriptor at the authorities, the consensus.
//!
//! The consensus is fetched when the next one is due, and at first every second while it does not list this relay, then
//! ever more seldom ([`outlook`]); the descriptor is handed in anew whenever its keys change and once an epoch. Every
//! document is verified, from wherever it comes, and nothing that fails is adopted or shown on. (spec: DIR-9, RELAY-7,
//! RELAY-11)

mod outlook;
mod periods;

use crate::config::{Config, RelayRole};
use crate::family::Family;
use crate::faults::claimed;
use crate::keys::Keys;
use crate::links::{Backoff, Links};
use crate::live::{Live, View};
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::presence::{Capacity, Presence, Said};
use crate::replay::TagLog;
use crate::services::Services;
use mizzle_link::http::{self, Limits};
use mizzle_link::shelf::{self, Known};
use mizzle_link::{
    Alpn, AuthorityEntry, Clock, Error, Identity, NetworkFile, Result, dial, read_bounded, write_atomically,
};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::consensus::{
    Consensus, Descriptor, MAX_CONSENSUS_SIZE, MAX_SERVICE_KEYS_SIZE, PeriodKeys, ProtocolNumber, RelayKind,
    Schedule, ServiceKeys, Signed, coarse,
};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::{AuthorityId, Period, RelayId};
use mizzle_protocol::mix::Role;
use mizzle_protocol::path::Parameters;
use mizzle_protocol::time::Instant;
use outlook::{MOMENT, Outlook};
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

/// What is fed by this relay's membership.
pub(crate) struct Fed {
    pub(crate) live: Arc<Live>,
    pub(crate) links: Arc<Links>,
    pub(crate) mirror: Arc<Mirror>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) replay: Arc<TagLog>,
    /// Tags of a key period that `replay` remembers, and that there is room for.
    pub(crate) carried: usize,
    pub(crate) sessions: Arc<TagLog>,
    pub(crate) services: Option<Arc<Services>>,
    pub(crate) standing: Arc<RwLock<Standing>>,
    pub(crate) presence: Presence,
    pub(crate) family: Family,
}

/// How this relay stands in the network, for people.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Standing {
    /// Epoch of the newest consensus.
    pub(crate) epoch: Option<u64>,
    /// Why it is not used, if it is not.
    pub(crate) not_listed: Option<String>,
    /// Its layer, if it is a mix in use.
    pub(crate) layer: Option<u8>,
    /// It leaves the network, and ends at this moment, in seconds since 1970, or when it is told to stop.
    pub(crate) leaves_at: Option<u64>,
    /// What it tries in vain, over and over again.
    #[serde(default)]
    pub(crate) failing: Option<String>,
}

impl Default for Standing {
    /// Before the first consensus.
    fn default() -> Self {
        let not_listed = Some("no consensus yet".to_owned());
        Self { epoch: None, not_listed, layer: None, leaves_at: None, failing: None }
    }
}

/// The task that keeps the membership.
pub(crate) struct Membership {
    config: Config,
    network: NetworkFile,
    identity: Identity,
    clock: Clock,
    keys: Keys,
    fed: Fed,
    held: Option<Known>,
    /// What each authority has of us: the keys' periods, and when it took them.
    published: HashMap<AuthorityId, (BTreeSet<Period>, Instant)>,
    /// What the operator has been told, to say it once.
    complaint: Option<String>,
    /// Why an authority refuses the descriptor, if one does.
    refusal: Option<String>,
    /// Until when a document that lists this relay may be in use, and replies that were made by it.
    wanted_until: Instant,
    /// When, and how many packets this relay had passed on by then.
    measured: (Instant, u64),
    /// Packets a second that it passed on until then.
    carried: Option<u32>,
}

impl Membership {
    /// Takes over the documents that an earlier process left, if they still hold.
    pub(crate) fn new(
        config: Config,
        network: NetworkFile,
        identity: Identity,
        clock: Clock,
        keys: Keys,
        fed: Fed,
    ) -> Self {
        let (published, complaint, refusal) = (HashMap::new(), None, None);
        let wanted_until = clock.now();
        Self {
            config,
            network,
            identity,
            clock,
            keys,
            fed,
            held: None,
            published,
            complaint,
            refusal,
            wanted_until,
            measured: (wanted_until, 0),
            carried: None,
        }
    }

    /// Keeps the membership until the relay was told to leave, and has left. Fails at the start, if this machine's files
    /// do, and when the network demands a protocol that this build does not speak.
    pub(crate) async fn run(mut self) -> Result<()> {
        let (mut presence, mut family) = (self.fed.presence.watch(), self.fed.family.watch());
        if let Err(error) = self.restore() {
            tracing::info!("the stored consensus is not used: {error}");
        }
        self.refresh()?;
        let mut backoff = Backoff::new();
        loop {
            let before = self.held.as_ref().map(|held| held.hash);
            let (mut failure, mut not_spoken) = (None, None);
            self.refusal = None;
            for authority in self.network.authorities.clone() {
                if let Err(error) = self.visit(&authority).await {
                    not_spoken = not_spoken.or(error.not_spoken());
                    failure = Some(error);
                }
            }
            // Trouble with this machine's files is waited out, too: what worked so far goes on working.
            if let Err(error) = self.refresh() {
                failure = Some(error);
            }
            let changed = self.held.as_ref().map(|held| held.hash) != before;
            if changed {
                backoff = Backoff::new();
            }
            self.complain(failure.as_ref());
            // Nobody serves a network that he does not understand. What is held is used until it ends. (spec: DOC-8)
            let now = self.clock.now();
            if let Some(fault) =
                not_spoken.filter(|_| !self.held.as_ref().is_some_and(|held| held.consensus.is_live(now)))
            {
                return Err(mizzle_protocol::Error::from(fault).into());
            }
            let said = self.fed.presence.said();
            if said.leaving && self.wanted_until <= self.clock.now() {
                match self.held {
                    Some(_) => tracing::info!("no document lists this relay any more: it ends"),
                    None => tracing::info!("this relay has no document, and so serves nobody: it ends"),
                }
                return Ok(());
            }
            let mut pause = self.outlook(failure.is_some(), &said).pause(self.clock.now(), &mut backoff);
            if said.leaving {
                pause = pause.min(self.clock.until(self.wanted_until)).max(MOMENT);
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // An error means that the sender is gone; it is in `fed`.
                _ = presence.changed() => self.published.clear(),
                _ = family.changed() => self.published.clear(),
            }
        }
    }

    /// What decides when something needs to be asked or handed in again.
    fn outlook(&self, failed: bool, said: &Said) -> Outlook<'_> {
        let consensus = self.held.as_ref().map(|held| &*held.consensus);
        let listed = consensus.is_some_and(|consensus| consensus.relay(self.identity.id()).is_some());
        Outlook { consensus, failed, refused: self.refusal.is_some(), wanted: !listed && !said.is_away() }
    }

    /// Asks an authority for the newest documents, and hands in the descriptor if that is due.
    async fn visit(&mut self, authority: &AuthorityEntry) -> Result<()> {
        let server = RelayId(authority.id.0);
        let limits = Limits { body: MAX_CONSENSUS_SIZE.max(MAX_SERVICE_KEYS_SIZE), ..Limits::default() };
        let mut link = dial(authority.address, server, None, Alpn::Documents, self.config.outbound).await?;
        let answer = shelf::ask(&mut link, self.held.as_ref(), &limits).await?;
        self.fed.metrics.documents.home.inc_by(answer.bytes as u64);
        if let Some(signed) = answer.signed
            && self.held.as_ref().is_none_or(|held| held.hash != signed.hash())
        {
            let keys = shelf::ask_keys(&mut link, &limits).await?;
            self.fed.metrics.documents.home.inc_by(keys.len() as u64);
            self.adopt(&signed, &keys)?;
            self.refresh()?;
        }
        if let Some(periods) = self.unpublished(authority.id) {
            self.measure();
            let descriptor = self.descriptor(&periods)?;
            let answer = http::post(&mut link, "/descriptor", &descriptor, &limits).await?;
            if answer.status != 200 {
                let message = format!("an authority refuses this relay's descriptor: {}", answer.reason());
                self.refusal = Some(message.clone());
                return Err(refused(message));
            }
            self.published.insert(authority.id, (periods, self.clock.now()));
        }
        Ok(())
    }

    /// Takes over verified documents, shows them on, and stores them.
    fn adopt(&mut self, signed: &Signed, service_keys: &[u8]) -> Result<()> {
        let consensus = self.verify(signed, service_keys)?;
        self.hold(consensus, signed, service_keys);
        let state = &self.config.state;
        write_atomically(&state.join(SERVICE_KEYS), service_keys)?;
        write_atomically(&state.join(CONSENSUS), &signed.to_bytes())
    }

    fn verify(&self, signed: &Signed, service_keys: &[u8]) -> Result<Consensus> {
        let authorities: Vec<_> = self.network.authorities.iter().map(|authority| authority.id).collect();
        let now = self.clock.now();
        let consensus = signed.verify(&authorities, self.network.threshold, now, &self.network.name)?;
        if let Some(held) = &self.held {
            consensus.check_follows(signed.hash(), &held.consensus, held.hash)?;
        }
        // A mirror that has the consensus without its keys would send clients away.
        let keys = ServiceKeys::from_bytes(service_keys)?;
        let mut named = consensus.relays.iter().flat_map(|relay| &relay.periods);
        if named.any(|at| at.service_key.is_some_and(|digest| !keys.contains(&digest))) {
            return Err(refused("the service keys do not belong to the consensus: asking again"));
        }
        Ok(consensus)
    }

    fn hold(&mut self, consensus: Consensus, signed: &Signed, service_keys: &[u8]) {
        let consensus = Arc::new(consensus);
        self.fed.mirror.show(signed, consensus.clone(), service_keys);
        self.held = Some(Known { consensus, hash: signed.hash() });
    }

    fn restore(&mut self) -> Result<()> {
        let read = |name, limit| read_bounded(&self.config.state.join(name), limit);
        let (Some(bytes), Some(service_keys)) =
            (read(CONSENSUS, MAX_CONSENSUS_SIZE)?, read(SERVICE_KEYS, MAX_SERVICE_KEYS_SIZE)?)
        else {
            return Ok(());
        };
        let signed = Signed::from_bytes(&bytes)?;
        let consensus = self.verify(&signed, &service_keys)?;
        self.hold(consensus, &signed, &service_keys);
        Ok(())
    }

    /// Brings keys, replay memory, packets, links and services in line with the consensus and the time.
    fn refresh(&mut self) -> Result<()> {
        let Some(held) = &self.held else {
            self.stand(&self.fed.live.load());
            return Ok(());
        };
        let now = self.clock.now();
        let schedule: Schedule = held.consensus.schedule();
        let live = schedule.live(now);
        let wanted = kept(&schedule, now);
        // A folder that takes no new keys is no reason not to serve with those that are there.
        let kept = periods::keep(&mut self.keys, [&self.fed.replay, &self.fed.sessions], &wanted);
        let view = Arc::new(View::new(&held.consensus, self.identity.id(), &self.keys, now));
        self.fed.live.store(view.clone());
        self.fed.links.update(&view);
        if let Some(services) = &self.fed.services {
            let secrets =
                live.iter().filter_map(|&period| Some((period, self.keys.of(period)?.service.clone()?)));
            services.connect.update(&view.parameters, secrets.collect());
        }
        if held.consensus.relay(self.identity.id()).is_some() {
            let end = held.consensus.valid_until.instant() + held.consensus.parameters.surb_life;
            self.wanted_until = self.wanted_until.max(end);
        }
        self.stand(&view);
        kept
    }

    /// Notes how this relay stands, for `status` and the counters.
    fn stand(&self, view: &View) {
        let me = self.identity.id();
        let consensus = self.held.as_ref().map(|held| &*held.consensus);
        let not_listed = match (consensus, view.epoch, view.role) {
            (None, _, _) => Some("no consensus yet: is an authority reachable?".to_owned()),
            (Some(_), None, _) => Some("the newest consensus is too old to use".to_owned()),
            (Some(consensus), Some(_), None) => Some(match (&self.refusal, consensus.why_not_running(me)) {
                (Some(reason), _) => reason.clone(),
                (None, Some(reason)) => reason.to_owned(),
                (None, None) => "the authorities have not taken it into a consensus yet".to_owned(),
            }),
            (Some(_), Some(_), Some(_)) => None,
        };
        let said = self.fed.presence.said();
        let said_away = said.is_away();
        let leaves_at = said.leaving.then(|| self.wanted_until.unix().0);
        // What the operator knows already comes before what the authorities make of it.
        let not_listed = match (not_listed, said.leaving, said.rest) {
            (Some(_), true, _) => Some("its operator has told it to leave the network".to_owned()),
            (Some(_), _, Some(rest)) => Some(format!("it rests: {rest}")),
            (other, _, _) => other,
        };
        self.fed.metrics.listed.set(i64::from(not_listed.is_none()));
        let epoch = consensus.map(|consensus| consensus.epoch.0);
        self.fed.metrics.epoch.set(epoch.and_then(|epoch| i64::try_from(epoch).ok()).unwrap_or(0));
        let layer = match view.role {
            Some(Role::Mix(layer)) => Some(layer),
            _ => None,
        };
        self.fed.metrics.layer.set(i64::from(layer.unwrap_or(0)));
        let mut standing = self.fed.standing.write().unwrap_or_else(PoisonError::into_inner);
        if standing.not_listed.is_some() && not_listed.is_none() {
            tracing::info!("this relay is in the consensus");
        } else if standing.epoch.is_some()
            && standing.not_listed.is_none()
            && let Some(reason) = &not_listed
            && !said_away
        {
            tracing::warn!("this relay is not used any more: {reason}");
        }
        *standing = Standing { epoch, not_listed, layer, leaves_at, failing: standing.failing.take() };
    }

    /// The periods of a descriptor that this authority should have and has not.
    fn unpublished(&self, authority: AuthorityId) -> Option<BTreeSet<Period>> {
        let held = self.held.as_ref()?;
        let now = self.clock.now();
        let periods = BTreeSet::from(held.consensus.schedule().announced(now));
        match self.published.get(&authority) {
            Some((known, at))
                if *known == periods && now.since(*at) < held.consensus.parameters.epoch / 2 =>
            {
                None
            }
            _ => Some(periods),
        }
    }

    /// How many packets a second this relay has passed on to relays, over half an epoch or more. (spec: LOAD-1)
    fn measure(&mut self) {
        let Some(held) = &self.held else { return };
        let (now, count) = (self.clock.now(), self.fed.metrics.passed_on());
        let (since, before) = self.measured;
        let time = now.since(since);
        if time >= held.consensus.parameters.epoch / 2 {
            let rate = count.saturating_sub(before) as f64 / time.as_secs_f64();
            self.carried = Some(coarse(rate as u32));
            self.measured = (now, count);
        }
    }

    fn descriptor(&self, periods: &BTreeSet<Period>) -> Result<Vec<u8>> {
        let mut keys = Vec::new();
        for &period in periods {
            let Some(secrets) = self.keys.of(period) else { continue };
            let service = secrets.service.as_ref().map(|service| service.public()).transpose()?;
            keys.push(PeriodKeys { period, mix: secrets.mix.public(), service });
        }
        let addresses: Vec<SocketAddr> = self.config.announced();
        let descriptor = Descriptor {
            network: self.network.name.clone(),
            relay: self.identity.id(),
            kind: match self.config.role {
                RelayRole::Mix => RelayKind::Mix,
                RelayRole::Entry => RelayKind::Entry,
                RelayRole::Exit => RelayKind::Exit,
            },
            addresses,
            keys,
            family: self.fed.family.certificate(),
            protocols: ProtocolNumber::SUPPORTED.to_vec(),
            software: concat!("mizzle-relay ", env!("CARGO_PKG_VERSION")).to_owned(),
            published: self.clock.now().unix(),
            announced_rate: self.announced_rate(),
            country: self.config.country.filter(|_| self.is_required(ProtocolNumber::COUNTRY)),
            carried_rate: self.carried.filter(|_| self.is_required(ProtocolNumber::LOAD)),
        };
        Ok(descriptor.to_signed_bytes(|message| self.identity.sign(message)))
    }

    /// True if all members of this network speak it. (spec: COUNTRY-1, LOAD-1)
    fn is_required(&self, number: ProtocolNumber) -> bool {
        let required = self.held.as_ref().map(|held| held.consensus.required.as_slice());
        required.is_some_and(|required| required.contains(&number))
    }

    fn announced_rate(&self) -> u32 {
        let geometry =
            self.held.as_ref().map_or_else(Geometry::default, |held| held.consensus.parameters.geometry);
        claimed(self.fed.presence.said().announced_rate(geometry).min(self.remembered_rate()))
    }

    /// The rate at which the replay memory is full just when a key period's last packet has come.
    fn remembered_rate(&self) -> u32 {
        let Some(held) = &self.held else { return u32::MAX };
        let Parameters { key_period, overlap, .. } = held.consensus.parameters;
        let seconds = (key_period + overlap).as_secs().max(1);
        u32::try_from(self.fed.carried as u64 / seconds).unwrap_or(u32::MAX).max(1)
    }

    /// Tells the operator once what goes wrong, and once that it is over.
    fn complain(&mut self, failure: Option<&Error>) {
        let complaint = failure.map(ToString::to_string);
        let mut standing = self.fed.standing.write().unwrap_or_else(PoisonError::into_inner);
        standing.failing.clone_from(&complaint);
        drop(standing);
        if complaint == self.complaint {
            return;
        }
        match &complaint {
            Some(complaint) => tracing::warn!("{complaint}; trying again"),
            None => tracing::info!("what failed works again"),
        }
        self.complaint = complaint;
    }
}

/// The periods whose keys are kept at `now`, and with them their replay tags: the live ones, and those that a
/// descriptor announces.
fn kept(schedule: &Schedule, now: Instant) -> Vec<Period> {
    let mut kept: Vec<_> = schedule.live(now).into_iter().chain(schedule.announced(now)).collect();
    kept.sort();
    kept.dedup();
    kept
}

/// The state folder's copies of the documents.
const CONSENSUS: &str = "consensus";
const SERVICE_KEYS: &str = "service-keys";
/// What a relay with this configuration can carry, if a thread of it carries `a_thread` packets per second.
pub(crate) fn capacity(config: &Config, a_thread: u32) -> Capacity {
    let threads = a_thread.saturating_mul(u32::try_from(config.crypto_threads()).unwrap_or(u32::MAX));
    Capacity { threads, rate: config.rate }
}

fn refused(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Refused, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_protocol::time::UnixTime;

    #[test]
    fn a_clock_that_is_set_back_for_a_while_parts_no_key_from_its_tags() {
        let parameters = Parameters::default();
        let schedule = Schedule::new(UnixTime(0), &parameters);
        // Half a minute into the second period, and an hour before by a clock that was set back.
        let (right, wrong) = (UnixTime(86_430).instant(), UnixTime(82_830).instant());
        assert!(schedule.live(right).contains(&Period(1)) && !schedule.live(wrong).contains(&Period(1)));
        assert!(kept(&schedule, right).contains(&Period(1)) && kept(&schedule, wrong).contains(&Period(1)));
    }
}
