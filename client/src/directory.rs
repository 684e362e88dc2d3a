//! The consensus as this client holds it: verified, cached in the state directory, fetched from relays only.
//! (spec: DIR-10, DIR-11)

use crate::{Error, ErrorKind, Result};
use mizzle_link::{Alpn, NetworkFile, Way, dial_by, http, read_bounded, write_atomically};
use mizzle_protocol::consensus::{
    Consensus, DocumentHash, MAX_CONSENSUS_SIZE, MAX_SERVICE_KEYS_SIZE, RelayKind, ServiceKeys, Signed,
};
use mizzle_protocol::id::{AuthorityId, RelayId};
use mizzle_protocol::path::Topology;
use mizzle_protocol::time::Instant;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What makes a document valid, and the newest one held.
#[derive(Debug)]
pub(crate) struct Directory {
    network: String,
    authorities: Vec<AuthorityId>,
    threshold: usize,
    held: Option<Held>,
}

/// A verified document with its service keys. It may have ended: ask [`Directory::live`].
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) consensus: Arc<Consensus>,
    pub(crate) keys: Arc<ServiceKeys>,
    hash: DocumentHash,
}

/// The bytes of both documents, as a relay gave them: nothing is verified.
#[derive(Debug)]
pub(crate) struct Fetched {
    consensus: Vec<u8>,
    keys: Vec<u8>,
}

impl Directory {
    /// The rules of `network`, and what is cached in `folder`. A cached document that does not verify is
    /// treated as absent; one that has ended is kept, so that no older one can take its place.
    pub(crate) fn open(network: &NetworkFile, folder: &Path) -> Result<Self> {
        let mut directory = Self {
            network: network.name.clone(),
            authorities: network.authorities.iter().map(|authority| authority.id).collect(),
            threshold: network.threshold,
            held: None,
        };
        let read = |name, limit| read_bounded(&folder.join(name), limit);
        let consensus = read(CONSENSUS_FILE, MAX_CONSENSUS_SIZE).map_err(storage)?;
        let keys = read(KEYS_FILE, MAX_SERVICE_KEYS_SIZE).map_err(storage)?;
        if let (Some(consensus), Some(keys)) = (consensus, keys) {
            match directory.verify(&Fetched { consensus, keys }) {
                Ok(held) => directory.held = Some(held),
                Err(error) => tracing::warn!("the cached consensus is not used: {error}"),
            }
        }
        Ok(directory)
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
        Ok(held)
    }

    /// The newest document, which may have ended.
    pub(crate) fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// Takes what was fetched if it is valid at `now` and follows what is held. True if it is newer, or
    /// brings keys that were missing.
    pub(crate) fn accept(&mut self, now: Instant, fetched: &Fetched) -> Result<bool> {
        let fresh = self.verify(fetched)?;
        fresh.consensus.check_time(now)?;
        if let Some(held) = &self.held {
            fresh.consensus.check_follows(fresh.hash, &held.consensus, held.hash)?;
            if fresh.hash == held.hash && fresh.keys.len() <= held.keys.len() {
                return Ok(false);
            }
        }
        self.held = Some(fresh);
        Ok(true)
    }

    fn verify(&self, fetched: &Fetched) -> Result<Held> {
        let signed = Signed::from_bytes(&fetched.consensus)?;
        let consensus = signed.verify_at_any_time(&self.authorities, self.threshold, &self.network)?;
        let keys = ServiceKeys::from_bytes(&fetched.keys)?;
        Ok(Held { consensus: Arc::new(consensus), keys: Arc::new(keys), hash: signed.hash() })
    }
}

impl Fetched {
    /// Writes both documents to the state directory `folder`. Blocks until the disk has them.
    pub(crate) fn store(&self, folder: &Path) -> Result<()> {
        // The keys first: each stands by its hash, so newer ones beside an older consensus do no harm.
        write_atomically(&folder.join(KEYS_FILE), &self.keys).map_err(storage)?;
        write_atomically(&folder.join(CONSENSUS_FILE), &self.consensus).map_err(storage)
    }
}

impl Held {
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

/// Asks the relay `id` at `address` for both documents.
pub(crate) async fn fetch(address: SocketAddr, id: RelayId, way: &Way) -> Result<Fetched> {
    let asked = async {
        let mut link = dial_by(way, address, id, None, Alpn::Documents).await.map_err(unanswered)?;
        let limits =
            http::Limits { body: MAX_CONSENSUS_SIZE.max(MAX_SERVICE_KEYS_SIZE), ..Default::default() };
        let mut bodies = Vec::with_capacity(2);
        for path in ["/consensus", "/service-keys"] {
            let response = http::get(&mut link, path, &limits).await.map_err(unanswered)?;
            if response.status != 200 {
                return Err(Error::new(
                    ErrorKind::NoNetwork,
                    format!("a relay has no {path} to give (status {})", response.status),
                ));
            }
            bodies.push(response.body.to_vec());
        }
        let keys = bodies.pop().unwrap_or_default();
        Ok(Fetched { consensus: bodies.pop().unwrap_or_default(), keys })
    };
    tokio::time::timeout(FETCH_TIME, asked).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::TimedOut, "a relay did not give the consensus in time"))
    })
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
