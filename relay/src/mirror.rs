//! The documents that this relay gives to whoever asks, under ALPN `http/1.1`. (spec: DIR-9)

use crate::metrics::{Metrics, Refusal};
use mizzle_link::Link;
use mizzle_link::http::{self, Limits, Method, Request, Response};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// The newest documents, as signed bytes.
#[derive(Debug, Default)]
pub(crate) struct Mirror(RwLock<Option<Documents>>);

/// A consensus and the service keys that belong to it.
#[derive(Clone, Debug)]
pub(crate) struct Documents {
    pub(crate) consensus: Arc<[u8]>,
    pub(crate) service_keys: Arc<[u8]>,
}

impl Mirror {
    /// Shows these documents from now on.
    pub(crate) fn show(&self, documents: Documents) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(documents);
    }

    /// Answers the requests of one connection.
    pub(crate) async fn serve(&self, link: Link, metrics: &Metrics) {
        let limits = Limits { body: 0, time: Duration::from_secs(20), requests: 16 };
        if http::serve(link, &limits, async |request| self.answer(&request)).await.is_err() {
            metrics.refuse(Refusal::Request);
        }
    }

    fn answer(&self, request: &Request) -> Response {
        if request.method != Method::Get {
            return Response::text(405, "A relay takes no documents; the authorities do.\n");
        }
        let documents = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let mirror = Mirror::default();
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
