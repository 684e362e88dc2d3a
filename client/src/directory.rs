//! The consensus as this client holds it: verified, cached in the state directory, fetched from relays only.
//! (spec: DIR-10, DIR-11)

use crate::skew::Skew;
use crate::{Error, ErrorKind, Result};
use mizzle_link::shelf::{self, Known};
use mizzle_link::{Alpn, NetworkFile, Way, dial_by, http, read_bounded, write_atomically};
use mizzle_protocol::consensus::{
    Consensus, DocumentFault, DocumentHash, MAX_CONSENSUS_SIZE, MAX_SERVICE_KEYS_SIZE, RelayKind,
    ServiceKeys, Signed,
};
use mizzle_protocol::id::{AuthorityId, Epoch, RelayId};
use mizzle_protocol::path::Topology;
use mizzle_protocol::time::{Instant, UnixTime};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// The newest document held, by the rules of its network.
#[derive(Debug)]
pub(crate) struct Directory {
    rules: Arc<Rules>,
    held: Option<Held>,
    /// What the documents of the last epochs are called, by those that were taken and by those that these name.
    chain: BTreeMap<Epoch, DocumentHash>,
    /// What is known of this computer's clock.
    pub(crate) skew: Skew,
}

/// What makes a document one of this network.
#[derive(Debug)]
pub(crate) struct Rules {
    network: String,
    authorities: Vec<AuthorityId>,
    threshold: usize,
}

/// A verified document with its service keys. It may have ended: ask [`Directory::live`].
#[derive(Clone, Debug)]
pub(crate) struct Held {
    known: Known,
    pub(crate) consensus: Arc<Consensus>,
    pub(crate) keys: Arc<ServiceKeys>,
}

/// What a relay had to give. The authorities have signed the document; whether it may be used is not looked at.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// The consensus and its bytes, if it is another than the one held.
    document: Option<(Known, Vec<u8>)>,
    /// The services' keys and their bytes, if those that are held were not enough.
    keys: Option<(Arc<ServiceKeys>, Vec<u8>)>,
}

/// What came of asking a relay.
#[derive(Debug)]
pub(crate) struct Heard {
    /// The time by its clock, if it said.
    pub(crate) time: Option<UnixTime>,
    /// What it had; or what is wrong with that.
    pub(crate) fetched: Result<Fetched>,
}

impl Directory {
    /// The rules of `network`, and what is cached in `folder`. A cached document that does not verify is
    /// treated as absent; one that has ended is kept, so that no older one can take its place.
    pub(crate) fn open(network: &NetworkFile, folder: &Path) -> Result<Self> {
        let rules = Rules {
            network: network.name.clone(),
            authorities: network.authorities.iter().map(|authority| authority.id).collect(),
            threshold: network.threshold,
        };
        let read = |name, limit| read_bounded(&folder.join(name), limit);
        let consensus = read(CONSENSUS_FILE, MAX_CONSENSUS_SIZE).map_err(storage)?;
        let keys = read(KEYS_FILE, MAX_SERVICE_KEYS_SIZE).map_err(storage)?;
        let mut held = None;
        if let (Some(consensus), Some(keys)) = (consensus, keys) {
            let cached = || {
                let known = rules.verify(&Signed::from_bytes(&consensus)?)?;
                known.consensus.check_spoken()?;
                Ok::<_, mizzle_protocol::Error>(Held::new(known, Arc::new(ServiceKeys::from_bytes(&keys)?)))
            };
            match cached() {
                Ok(cached) => held = Some(cached),
                Err(error) => tracing::warn!("the cached consensus is not used: {error}"),
            }
        }
        let mut directory =
            Self { rules: Arc::new(rules), held: None, chain: BTreeMap::new(), skew: Skew::default() };
        if let Some(held) = held {
            directory.hold(held);
        }
        Ok(directory)
    }

    /// The rules, for whoever fetches.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules)
    }

    /// The document to use at `now`, or why there is none.
    pub(crate) fn live(&self, now: Instant) -> Result<&Held> {
        let held = self.held.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::NoNetwork,
                "there is no consensus yet: no mirror has answered with a valid one; is the network up, and the network file current?",
            )
        })?;
        held.consensus.check_time(now)?;
        // One from the future is not used, but tells that this one is over. (spec: CLIENT-8)
        if held.consensus.valid_until.instant() <= self.skew.not_before() {
            return Err(mizzle_protocol::Error::from(DocumentFault::Expired).into());
        }
        Ok(held)
    }

    /// The newest document, which may have ended.
    pub(crate) fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// Takes what was fetched if it may be used at `now` and follows what is held. True if it is newer, or
    /// brings keys that were missing.
    ///
    /// Fails with the fault of the document: from the future, too old, older than the one held, another one of its epoch,
    /// one that follows another, or one of a network that demands what this build does not speak. (spec: DOC-12)
    pub(crate) fn accept(&mut self, now: Instant, fetched: &Fetched) -> Result<bool> {
        let before = self.held.as_ref();
        let Some(known) =
            fetched.document.as_ref().map(|(known, _)| known).or(before.map(|held| &held.known))
        else {
            return Ok(false);
        };
        let consensus = &known.consensus;
        // Two of one epoch are a fork, however old. (spec: DOC-5)
        if self.chain.get(&consensus.epoch).is_some_and(|hash| *hash != known.hash) {
            return Err(mizzle_protocol::Error::from(DocumentFault::Fork).into());
        }
        if let Err(error) = consensus.check_time(now) {
            if error.fault() == Some(DocumentFault::Future) {
                self.skew.prove(consensus.valid_after.instant() - consensus.schedule().grace());
            }
            return Err(error.into());
        }
        consensus.check_spoken()?;
        if let Some(held) = before {
            consensus.check_follows(known.hash, &held.consensus, held.known.hash)?;
        }
        let keys = fetched.keys.as_ref().map(|(keys, _)| keys).or(before.map(|held| &held.keys));
        let keys = keys.cloned().unwrap_or_default();
        if before.is_some_and(|held| known.hash == held.known.hash && keys.len() <= held.keys.len()) {
            return Ok(false);
        }
        let fresh = Held::new(known.clone(), keys);
        self.hold(fresh);
        Ok(true)
    }

    fn hold(&mut self, held: Held) {
        let (epoch, previous) = (held.consensus.epoch, held.consensus.previous);
        self.chain.insert(epoch, held.known.hash);
        if let Some((before, hash)) = epoch.0.checked_sub(1).map(Epoch).zip(previous) {
            self.chain.entry(before).or_insert(hash);
        }
        while self.chain.len() > CHAIN {
            self.chain.pop_first();
        }
        self.held = Some(held);
    }
}

impl Rules {
    fn verify(&self, signed: &Signed) -> mizzle_protocol::Result<Known> {
        let consensus = signed.verify_origin(&self.authorities, self.threshold, &self.network)?;
        Ok(Known { consensus: Arc::new(consensus), hash: signed.hash() })
    }
}

impl Fetched {
    /// True if there is nothing new in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.document.is_none() && self.keys.is_none()
    }

    /// Writes what is new to the state directory `folder`. Blocks until the disk has them.
    pub(crate) fn store(&self, folder: &Path) -> Result<()> {
        // The keys first: each stands by its hash, so newer ones beside an older consensus do no harm.
        let keys = self.keys.iter().map(|(_, bytes)| (KEYS_FILE, bytes));
        let document = self.document.iter().map(|(_, bytes)| (CONSENSUS_FILE, bytes));
        keys.chain(document)
            .try_for_each(|(name, bytes)| write_atomically(&folder.join(name), bytes).map_err(storage))
    }
}

impl Held {
    fn new(known: Known, keys: Arc<ServiceKeys>) -> Self {
        Self { consensus: Arc::clone(&known.consensus), known, keys }
    }

    /// The entries that run now, with an address each.
    pub(crate) fn entries(&self, now: Instant) -> Vec<(RelayId, SocketAddr)> {
        let period = self.consensus.period(now);
        self.consensus
            .relays
            .iter()
            .filter(|relay| relay.kind() == Some(RelayKind::Entry) && relay.at(period).is_some())
            .filter_map(|relay| Some((relay.id, *relay.addresses.first()?)))
            .collect()
    }

    /// The network to draw paths from at `now`.
    pub(crate) fn topology(&self, now: Instant) -> Topology {
        self.consensus.to_topology(self.consensus.period(now), Some(&self.keys))
    }

    /// True if a service key that `consensus` names is not held.
    fn lacks_keys_of(&self, consensus: &Consensus) -> bool {
        let mut named =
            consensus.relays.iter().flat_map(|relay| &relay.periods).filter_map(|at| at.service_key);
        named.any(|digest| !self.keys.contains(&digest))
    }

    /// Why no stream could be carried with this topology, in one sentence.
    pub(crate) fn lacks(topology: &Topology) -> Option<&'static str> {
        if topology.entries.is_empty() {
            return Some("the consensus lists no entry");
        }
        if topology.layers.iter().any(Vec::is_empty) {
            return Some("the consensus lists no mix in one of the layers");
        }
        if !topology.exits.iter().any(|exit| exit.service_key.is_some()) {
            return Some("the consensus lists no exit with a known service key");
        }
        None
    }

    /// True if a service key that the consensus names is missing.
    pub(crate) fn keys_missing(topology: &Topology) -> bool {
        topology.exits.iter().any(|exit| exit.service_key.is_none())
    }
}

/// Asks the relay `id` at `address` for what is newer than `held`: for a diff, if it has one.
pub(crate) async fn fetch(
    address: SocketAddr,
    id: RelayId,
    way: &Way,
    rules: &Rules,
    held: Option<&Held>,
) -> Result<Heard> {
    let asked = async {
        let mut link = dial_by(way, address, id, None, Alpn::Documents).await.map_err(unanswered)?;
        ask(&mut link, rules, held, true).await
    };
    tokio::time::timeout(FETCH_TIME, asked).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::TimedOut, "a relay did not give the consensus in time"))
    })
}

/// The same over a stream that leads to a relay; service keys only if they are `wanted`.
pub(crate) async fn ask<S>(stream: &mut S, rules: &Rules, held: Option<&Held>, wanted: bool) -> Result<Heard>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = http::Limits {
        body: MAX_CONSENSUS_SIZE.max(MAX_SERVICE_KEYS_SIZE),
        time: FETCH_TIME,
        ..Default::default()
    };
    let known = held.map(|held| &held.known);
    let answer = shelf::ask(stream, known, &limits).await.map_err(unanswered)?;
    if let Some(status) = answer.refused {
        let message = format!("a relay has no consensus to give (status {status})");
        return Err(Error::new(ErrorKind::NoNetwork, message));
    }
    let document =
        match answer.signed.map(|signed| rules.verify(&signed).map(|known| (known, signed.to_bytes()))) {
            Some(Err(error)) => return Ok(Heard { time: answer.time, fetched: Err(error.into()) }),
            Some(Ok(document)) => Some(document),
            None => None,
        };
    let consensus = document.as_ref().map(|(known, _)| known).or(known).map(|known| &known.consensus);
    let lacks = |held: &Held| consensus.is_some_and(|consensus| held.lacks_keys_of(consensus));
    let mut keys = None;
    if wanted && held.is_none_or(lacks) {
        let bytes = shelf::ask_keys(stream, &limits).await.map_err(unanswered)?;
        match ServiceKeys::from_bytes(&bytes) {
            Ok(read) => keys = Some((Arc::new(read), bytes.to_vec())),
            Err(error) => return Ok(Heard { time: answer.time, fetched: Err(error.into()) }),
        }
    }
    Ok(Heard { time: answer.time, fetched: Ok(Fetched { document, keys }) })
}

fn unanswered(error: mizzle_link::Error) -> Error {
    Error::from_link(ErrorKind::NoNetwork, format!("a relay did not give the consensus: {error}"), &error)
}

fn storage(error: mizzle_link::Error) -> Error {
    Error::new(ErrorKind::Storage, format!("{error}: check the state directory's owner and free space"))
}

const CONSENSUS_FILE: &str = "consensus";
const KEYS_FILE: &str = "service-keys";
const FETCH_TIME: Duration = Duration::from_secs(20);
/// Epochs whose documents' hashes are remembered.
const CHAIN: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_link::{AuthorityEntry, Identity, seeded_rng};
    use mizzle_protocol::consensus::ProtocolNumber;
    use mizzle_protocol::path::Parameters;

    const START: UnixTime = UnixTime(1_800_000_000);

    struct Network {
        authorities: Vec<Identity>,
        file: NetworkFile,
        folder: tempfile::TempDir,
    }

    impl Network {
        fn new() -> Self {
            let mut rng = seeded_rng().unwrap();
            let authorities: Vec<_> = (0..2).map(|_| Identity::generate(&mut rng)).collect();
            let address = "127.0.0.1:9".parse().unwrap();
            let entry = |identity: &Identity| AuthorityEntry { id: identity.authority(), address };
            let file = NetworkFile {
                name: "test".into(),
                threshold: 2,
                open_exits: false,
                authorities: authorities.iter().map(entry).collect(),
                mirrors: Vec::new(),
            };
            Self { authorities, file, folder: tempfile::tempdir().unwrap() }
        }

        fn directory(&self) -> Directory {
            Directory::open(&self.file, self.folder.path()).unwrap()
        }

        fn sign(&self, consensus: &Consensus, signers: usize) -> Signed {
            let mut signed = Signed::new(consensus);
            for identity in self.authorities.iter().take(signers) {
                signed.sign(identity.authority(), |bytes| identity.sign(bytes));
            }
            signed
        }

        /// As it comes from a relay.
        fn fetched(&self, consensus: &Consensus) -> Fetched {
            let signed = self.sign(consensus, 2);
            let known = self.directory().rules.verify(&signed).unwrap();
            let keys = ServiceKeys::new();
            let bytes = keys.to_bytes();
            Fetched { document: Some((known, signed.to_bytes())), keys: Some((Arc::new(keys), bytes)) }
        }
    }

    fn document(epoch: u64, previous: Option<DocumentHash>) -> Consensus {
        let parameters = Parameters::local();
        let valid_after = START + parameters.epoch * u32::try_from(epoch).unwrap();
        Consensus {
            method: 1,
            network: "test".into(),
            epoch: Epoch(epoch),
            valid_after,
            fresh_until: valid_after + parameters.epoch,
            valid_until: valid_after + parameters.epoch * Consensus::LIFE_EPOCHS,
            previous,
            origin: START,
            required: Vec::new(),
            recommended: Vec::new(),
            relays: Vec::new(),
            not_running: Vec::new(),
            pool: None,
            made: None,
            later: Default::default(),
            parameters,
        }
    }

    fn hash(consensus: &Consensus) -> DocumentHash {
        Signed::new(consensus).hash()
    }

    fn fault(result: Result<bool>) -> DocumentFault {
        result.unwrap_err().fault().unwrap()
    }

    #[test]
    fn each_fault_of_a_document_is_told_and_what_is_held_stays() {
        let network = Network::new();
        let mut directory = network.directory();
        let four = document(4, None);
        let five = document(5, Some(hash(&four)));
        let now = five.valid_after.instant();
        assert!(directory.accept(now, &network.fetched(&four)).unwrap());
        assert!(directory.accept(now, &network.fetched(&five)).unwrap());
        assert!(!directory.accept(now, &network.fetched(&five)).unwrap());
        let future = ProtocolNumber { protocol: 2, version: 9 };
        let six = document(6, Some(hash(&five)));
        let faults = [
            (Consensus { method: 2, ..five.clone() }, DocumentFault::Fork),
            // Of an epoch that is over for us: older, or another than the one that was there.
            (four.clone(), DocumentFault::Rollback),
            (Consensus { method: 2, ..four.clone() }, DocumentFault::Fork),
            (document(3, None), DocumentFault::Rollback),
            (document(2, None), DocumentFault::Expired),
            (document(6, Some(hash(&four))), DocumentFault::Future),
            (document(60, None), DocumentFault::Future),
            (Consensus { required: vec![future], ..five.clone() }, DocumentFault::Fork),
        ];
        for (document, wanted) in faults {
            let found = fault(directory.accept(now, &network.fetched(&document)));
            assert_eq!(found, wanted, "epoch {}", document.epoch.0);
        }
        let later = six.valid_after.instant();
        let broken = document(6, Some(hash(&four)));
        assert_eq!(fault(directory.accept(later, &network.fetched(&broken))), DocumentFault::BrokenChain);
        let demanding = Consensus { required: vec![future], ..six.clone() };
        let error = directory.accept(later, &network.fetched(&demanding)).unwrap_err();
        assert_eq!(error.fault(), Some(DocumentFault::NotSpoken(future)));
        assert_eq!(error.kind(), ErrorKind::Outdated);
        assert_eq!(directory.held().unwrap().known.hash, hash(&five));
        assert!(directory.accept(later, &network.fetched(&six)).unwrap());
    }

    #[test]
    fn what_the_authorities_did_not_sign_is_no_document() {
        let network = Network::new();
        let rules = network.directory().rules();
        let verify = |signed: &Signed| rules.verify(signed).unwrap_err().fault().unwrap();
        let document = document(4, None);
        assert_eq!(verify(&network.sign(&document, 1)), DocumentFault::TooFewSigners);
        let mut wrong = network.sign(&document, 2);
        wrong.sign(network.authorities[0].authority(), |_| [1; 64]);
        assert_eq!(verify(&wrong), DocumentFault::WrongSignature);
        let other = Consensus { network: "other".into(), ..document };
        assert_eq!(verify(&network.sign(&other, 2)), DocumentFault::OtherNetwork);
    }

    #[test]
    fn a_signed_document_from_the_future_ends_what_ended_before_it_began() {
        let network = Network::new();
        let mut directory = network.directory();
        let old = document(4, None);
        let now = old.valid_after.instant();
        directory.accept(now, &network.fetched(&old)).unwrap();
        // The next but one may be there while this one is in use.
        assert_eq!(fault(directory.accept(now, &network.fetched(&document(6, None)))), DocumentFault::Future);
        assert!(directory.live(now).is_ok());
        let found = directory.skew.finding(now).unwrap();
        assert!(found.proven && found.seconds < 0, "{found:?}");
        // This one cannot, by a clock that is right.
        directory.accept(now, &network.fetched(&document(60, None))).unwrap_err();
        assert_eq!(directory.live(now).unwrap_err().fault(), Some(DocumentFault::Expired));
        // It is not used either.
        assert_eq!(directory.held().unwrap().consensus.epoch, Epoch(4));
    }

    #[test]
    fn what_was_stored_is_the_beginning_of_the_chain_after_a_restart() {
        let network = Network::new();
        let five = document(5, Some(DocumentHash([4; 32])));
        network.fetched(&five).store(network.folder.path()).unwrap();
        let mut directory = network.directory();
        let now = five.valid_after.instant();
        assert_eq!(directory.live(now).unwrap().known.hash, hash(&five));
        for (document, wanted) in [
            (document(3, None), DocumentFault::Rollback),
            (document(4, None), DocumentFault::Fork),
            (document(5, None), DocumentFault::Fork),
        ] {
            assert_eq!(fault(directory.accept(now, &network.fetched(&document))), wanted);
        }
    }
}
