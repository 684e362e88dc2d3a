//! The documents that this relay gives to whoever asks, under ALPN `http/1.1`. (spec: DIR-9)

use crate::bandwidth::Bandwidth;
use crate::metrics::{Metrics, Refusal};
use mizzle_link::Clock;
use mizzle_link::http::{self, Limits, Method, Request, Response};
use mizzle_link::shelf::Shelf;
use mizzle_protocol::consensus::{Consensus, Signed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// The newest documents, and who asks for them.
#[derive(Debug)]
pub(crate) struct Mirror {
    clock: Clock,
    metrics: Arc<Metrics>,
    bandwidth: Arc<Bandwidth>,
    shelf: RwLock<Option<Shelf>>,
}

impl Mirror {
    /// Nothing to show yet. What is shown counts as traffic, and is bounded.
    pub(crate) fn new(clock: Clock, metrics: Arc<Metrics>, bandwidth: Arc<Bandwidth>) -> Self {
        Self { clock, metrics, bandwidth, shelf: RwLock::default() }
    }

    /// Shows the consensus that `signed` holds, and the keys that it names, from now on.
    pub(crate) fn show(&self, signed: &Signed, consensus: Arc<Consensus>, service_keys: &[u8]) {
        let before = self.shelf.read().unwrap_or_else(PoisonError::into_inner).clone();
        // The diffs take a while for a large network; who asks in the meantime gets what was there.
        let shelf = match before {
            Some(shelf) => shelf.followed_by(signed, consensus, service_keys),
            None => Shelf::new(signed, consensus, service_keys),
        };
        *self.shelf.write().unwrap_or_else(PoisonError::into_inner) = Some(shelf);
    }

    /// Answers the requests of one connection, or of one stream through the mixnet.
    pub(crate) async fn serve(&self, link: impl AsyncRead + AsyncWrite + Unpin) {
        let limits = Limits { body: 0, time: Duration::from_secs(20), requests: 16 };
        if http::serve(link, &limits, async |request| self.answer(&request)).await.is_err() {
            self.metrics.refuse(Refusal::Request);
        }
    }

    fn answer(&self, request: &Request) -> Response {
        let response = self.look_up(request);
        let bytes = response.body.len() + HEAD;
        self.metrics.documents.home.inc_by((request.path.len() + request.body.len() + HEAD) as u64);
        // What is told in a sentence is always told.
        let response = match response.status == 200 && !self.bandwidth.take_document(bytes, self.clock.now())
        {
            true => Response::text(503, BUSY),
            false => response,
        };
        self.metrics.documents.out.inc_by((response.body.len() + HEAD) as u64);
        response
    }

    fn look_up(&self, request: &Request) -> Response {
        if request.method != Method::Get {
            return Response::text(405, "A relay takes no documents; the authorities do.\n");
        }
        let shelf = self.shelf.read().unwrap_or_else(PoisonError::into_inner).clone();
        let document = shelf.as_ref().and_then(|shelf| shelf.answer(&request.path, self.clock.now()));
        match (request.path.as_str(), document) {
            (_, Some(response)) => response,
            ("/", None) => Response::text(200, ABOUT),
            ("/consensus" | "/service-keys", None) => {
                Response::text(503, "This relay has no consensus yet. Ask again in a moment.\n")
            }
            _ => Response::text(404, "There is /consensus, /consensus/diff/HASH and /service-keys.\n"),
        }
    }
}

const ABOUT: &str = "This is a relay of a Mizzle network: it passes sealed packets on and cannot read them.\n\
                     Documents: /consensus, /consensus/diff/HASH, /service-keys.\n";
const BUSY: &str =
    "This relay has given out as many documents as its operator allows for now. Ask another.\n";
/// What the head of a request or an answer is counted as.
const HEAD: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bandwidth::Allowed;
    use mizzle_link::units::Size;
    use mizzle_protocol::consensus::NotRunning;
    use mizzle_protocol::id::{Epoch, RelayId, to_hex};
    use mizzle_protocol::path::Parameters;
    use mizzle_protocol::time::UnixTime;

    fn mirror(quota: Option<Size>) -> Mirror {
        let (clock, metrics) = (Clock::new(), Metrics::new().unwrap());
        let bandwidth =
            Bandwidth::new(Allowed { quota, ..Allowed::default() }, clock.now(), metrics.beyond.clone());
        Mirror::new(clock, metrics, bandwidth)
    }

    #[test]
    fn documents_count_as_traffic_and_who_asks_without_end_is_sent_to_another() {
        let mirror = mirror(Some(Size(1_000_000)));
        let (signed, consensus) = document(1);
        mirror.show(&signed, consensus, &vec![7; 1_000_000]);
        let given = (0..100).filter(|_| get(&mirror, "/service-keys").status == 200).count();
        // 16 MB at once, and then next to nothing.
        assert_eq!(given, 15);
        assert_eq!(mirror.metrics.beyond.documents.get(), 85);
        assert!((15_000_000..16_000_000).contains(&mirror.metrics.bytes()), "{}", mirror.metrics.bytes());
    }

    fn document(epoch: u64) -> (Signed, Arc<Consensus>) {
        let (start, parameters) = (UnixTime(1_800_000_000), Parameters::local());
        let missing = |id| NotRunning { id: RelayId([id; 32]), reason: "no answer".into() };
        let consensus = Consensus {
            method: 1,
            network: "test".into(),
            epoch: Epoch(epoch),
            valid_after: start,
            fresh_until: start + parameters.epoch,
            valid_until: start + parameters.epoch * 3,
            previous: None,
            origin: start,
            required: Vec::new(),
            recommended: Vec::new(),
            relays: Vec::new(),
            not_running: (0..9).map(missing).collect(),
            pool: None,
            made: None,
            later: Default::default(),
            parameters,
        };
        (Signed::new(&consensus), Arc::new(consensus))
    }

    fn get(mirror: &Mirror, path: &str) -> Response {
        mirror.answer(&Request {
            method: Method::Get,
            path: path.to_owned(),
            fields: Vec::new(),
            body: Vec::new(),
        })
    }

    #[test]
    fn documents_are_shown_once_there_are_any() {
        let mirror = mirror(None);
        assert_eq!(get(&mirror, "/").status, 200);
        assert_eq!(get(&mirror, "/consensus").status, 503);
        let (signed, consensus) = document(1);
        mirror.show(&signed, consensus, &[2]);
        assert_eq!(*get(&mirror, "/consensus").body, signed.to_bytes());
        assert_eq!(&*get(&mirror, "/service-keys").body, [2]);
        // From each document the next is known, and the newest itself is no news.
        let (next, consensus) = document(2);
        mirror.show(&next, consensus, &[2]);
        let path = |signed: &Signed| format!("/consensus/diff/{}", to_hex(&signed.hash().0));
        assert_eq!(get(&mirror, &path(&next)).status, 304);
        assert_eq!(get(&mirror, &path(&signed)).status, 200);
        assert_eq!(get(&mirror, "/descriptor").status, 404);
        let post = Request {
            method: Method::Post,
            path: "/descriptor".to_owned(),
            fields: Vec::new(),
            body: Vec::new(),
        };
        assert_eq!(mirror.answer(&post).status, 405);
    }
}
