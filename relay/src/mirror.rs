//! The documents that this relay gives to whoever asks, under ALPN `http/1.1`. (spec: DIR-9)

use crate::bandwidth::Bandwidth;
use crate::metrics::{Metrics, Refusal};
use mizzle_link::http::{self, Limits, Method, Request, Response};
use mizzle_link::{Clock, Link};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// The newest documents, as signed bytes.
#[derive(Debug)]
pub(crate) struct Mirror {
    clock: Clock,
    metrics: Arc<Metrics>,
    bandwidth: Arc<Bandwidth>,
    documents: RwLock<Option<Documents>>,
}

/// A consensus and the service keys that belong to it.
#[derive(Clone, Debug)]
pub(crate) struct Documents {
    pub(crate) consensus: Arc<[u8]>,
    pub(crate) service_keys: Arc<[u8]>,
}

impl Mirror {
    /// Nothing to show yet. What is shown counts as traffic, and is bounded.
    pub(crate) fn new(clock: Clock, metrics: Arc<Metrics>, bandwidth: Arc<Bandwidth>) -> Self {
        Self { clock, metrics, bandwidth, documents: RwLock::default() }
    }

    /// Shows these documents from now on.
    pub(crate) fn show(&self, documents: Documents) {
        *self.documents.write().unwrap_or_else(PoisonError::into_inner) = Some(documents);
    }

    /// Answers the requests of one connection.
    pub(crate) async fn serve(&self, link: Link) {
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
        let documents = self.documents.read().unwrap_or_else(PoisonError::into_inner).clone();
        match (request.path.as_str(), documents) {
            ("/", _) => Response::text(200, ABOUT),
            ("/consensus", Some(documents)) => Response::document(http::BYTES, documents.consensus),
            ("/service-keys", Some(documents)) => Response::document(http::BYTES, documents.service_keys),
            ("/consensus" | "/service-keys", None) => {
                Response::text(503, "This relay has no consensus yet. Ask again in a moment.\n")
            }
            _ => Response::text(404, "There is /consensus and /service-keys.\n"),
        }
    }
}

const ABOUT: &str = "This is a relay of a Mizzle network: it passes sealed packets on and cannot read them.\n\
                     Documents: /consensus, /service-keys.\n";
const BUSY: &str =
    "This relay has given out as many documents as its operator allows for now. Ask another.\n";
/// What the head of a request or an answer is counted as.
const HEAD: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bandwidth::Allowed;
    use mizzle_link::units::Size;

    fn mirror(quota: Option<Size>) -> Mirror {
        let (clock, metrics) = (Clock::new(), Metrics::new().unwrap());
        let bandwidth =
            Bandwidth::new(Allowed { quota, ..Allowed::default() }, clock.now(), metrics.beyond.clone());
        Mirror::new(clock, metrics, bandwidth)
    }

    #[test]
    fn documents_count_as_traffic_and_who_asks_without_end_is_sent_to_another() {
        let mirror = mirror(Some(Size(1_000_000)));
        let consensus: Arc<[u8]> = vec![7; 1_000_000].into();
        mirror.show(Documents { consensus, service_keys: Arc::from([2]) });
        let given = (0..100).filter(|_| get(&mirror, "/consensus").status == 200).count();
        // 16 MB at once, and then next to nothing.
        assert_eq!(given, 15);
        assert_eq!(mirror.metrics.beyond.documents.get(), 85);
        assert!((15_000_000..16_000_000).contains(&mirror.metrics.bytes()), "{}", mirror.metrics.bytes());
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
        let (consensus, service_keys) = (Arc::from([1]), Arc::from([2]));
        mirror.show(Documents { consensus, service_keys });
        assert_eq!(&*get(&mirror, "/consensus").body, [1]);
        assert_eq!(&*get(&mirror, "/service-keys").body, [2]);
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
