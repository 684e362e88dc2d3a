//! What authorities and relays give out, and how it is asked for: the newest consensus, the diffs that lead to it from the
//! few before, and the services' keys. (spec: DIR-18)
//!
//! | path | answer |
//! |---|---|
//! | `/consensus` | the newest, whole |
//! | `/consensus/diff/HASH` | the diff from that one to the newest; 304 if that is the newest; 404 if there is none |
//! | `/service-keys` | the keys that it names |
//!
//! Each answer says which epoch the newest document is of, and what time it is by the clock of who answers.

use crate::Result;
use crate::http::{self, Limits, Response};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::consensus::{Consensus, Diff, DocumentHash, Signed};
use mizzle_protocol::id::{Epoch, from_hex, to_hex};
use mizzle_protocol::time::{Instant, UnixTime};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// The newest documents, ready to be given out.
#[derive(Clone, Debug)]
pub struct Shelf {
    newest: Known,
    consensus: Arc<[u8]>,
    service_keys: Arc<[u8]>,
    /// The few before, the latest first, each with the diff that leads from it to the newest.
    before: Vec<(Known, Arc<[u8]>)>,
}

/// A consensus, and what the next one calls it.
#[derive(Clone, Debug)]
pub struct Known {
    /// What it says.
    pub consensus: Arc<Consensus>,
    /// What it is called.
    pub hash: DocumentHash,
}

impl Shelf {
    /// A shelf with one document, that `signed` holds, and its keys.
    pub fn new(signed: &Signed, consensus: Arc<Consensus>, service_keys: impl Into<Arc<[u8]>>) -> Self {
        Self {
            newest: Known { consensus, hash: signed.hash() },
            consensus: signed.to_bytes().into(),
            service_keys: service_keys.into(),
            before: Vec::new(),
        }
    }

    /// The same with a newer document on it, and the diffs that lead there. A diff that is not smaller than the document
    /// is left out.
    #[must_use]
    pub fn followed_by(
        &self,
        signed: &Signed,
        consensus: Arc<Consensus>,
        service_keys: impl Into<Arc<[u8]>>,
    ) -> Self {
        let mut next = Self::new(signed, consensus, service_keys);
        let known = self.before.iter().map(|(known, _)| known);
        let others =
            std::iter::once(&self.newest).chain(known).filter(|known| known.hash != next.newest.hash);
        next.before = others
            .take(KEPT)
            .map(|old| {
                let diff = Diff::between(&old.consensus, old.hash, &next.newest.consensus, signed);
                (old.clone(), Arc::from(diff.to_bytes()))
            })
            .collect();
        next
    }

    /// The answer to who asks for `path` at `now`; `None` if nothing of that name is here.
    pub fn answer(&self, path: &str, now: Instant) -> Option<Response> {
        let response = match path {
            "/consensus" => Response::document(http::BYTES, self.consensus.clone()),
            "/service-keys" => Response::document(http::BYTES, self.service_keys.clone()),
            _ => self.diff(path.strip_prefix(DIFF)?),
        };
        let epoch = self.newest.consensus.epoch.0.to_string();
        Some(response.with(http::EPOCH, epoch).with(http::TIME, now.unix().0.to_string()))
    }

    fn diff(&self, hash: &str) -> Response {
        let Ok(hash) = from_hex(hash).map(DocumentHash) else {
            return Response::text(404, "A hash has 64 hexadecimal digits.\n");
        };
        if hash == self.newest.hash {
            return Response::text(304, "");
        }
        let found = self.before.iter().find(|(known, _)| known.hash == hash).map(|(_, diff)| diff);
        match found.filter(|diff| diff.len() < self.consensus.len()) {
            Some(diff) => Response::document(http::BYTES, diff.clone()),
            None => Response::text(404, "There is no diff from that document: fetch /consensus.\n"),
        }
    }
}

/// What came of asking for a newer consensus.
#[derive(Clone, Debug)]
pub struct Answer {
    /// It; `None` if there is none that is newer than the one held. Nothing is verified.
    pub signed: Option<Signed>,
    /// The status with which the whole was refused, if it was: there is none there, or not now.
    pub refused: Option<u16>,
    /// The time by the clock of who answered, if it said.
    pub time: Option<UnixTime>,
    /// Bytes that came.
    pub bytes: usize,
}

/// Asks who is at the other end of `stream` for its newest consensus: for the diff from the one held, if one is, and only
/// where that leads nowhere for the whole.
///
/// Fails if what comes is no HTTP, no document, too large or too late.
pub async fn ask<S>(stream: &mut S, held: Option<&Known>, limits: &Limits) -> Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut answer = Answer { signed: None, refused: None, time: None, bytes: 0 };
    if let Some(held) = held {
        let path = format!("{DIFF}{}", to_hex(&held.hash.0));
        let response = http::get(stream, &path, limits).await?;
        answer.hear(&response);
        let applied = |bytes| Diff::from_bytes(bytes)?.apply(&held.consensus, held.hash);
        match response.status {
            304 => return Ok(answer),
            200 => answer.signed = applied(&response.body).ok(),
            // Who is behind has no diff to give, and nothing else that is wanted.
            _ if response.number(http::EPOCH).is_some_and(|epoch| Epoch(epoch) < held.consensus.epoch) => {
                return Ok(answer);
            }
            _ => {}
        }
        if answer.signed.is_some() {
            return Ok(answer);
        }
    }
    let response = http::get(stream, "/consensus", limits).await?;
    answer.hear(&response);
    match response.status {
        200 => answer.signed = Some(Signed::from_bytes(&response.body)?),
        status => answer.refused = Some(status),
    }
    Ok(answer)
}

/// Asks for the services' keys. Fails as [`ask`] does, and with [`ErrorKind::Unavailable`] if there are none.
pub async fn ask_keys<S>(stream: &mut S, limits: &Limits) -> Result<Arc<[u8]>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let response = http::get(stream, "/service-keys", limits).await?;
    match response.status {
        200 => Ok(response.body),
        status => {
            let message = format!("there are no service keys to be had there (status {status})");
            Err(crate::error::protocol(ErrorKind::Unavailable, message))
        }
    }
}

impl Answer {
    fn hear(&mut self, response: &Response) {
        self.bytes += response.body.len();
        self.time = response.number(http::TIME).map(UnixTime).or(self.time);
    }
}

/// What the hash of the document held follows.
const DIFF: &str = "/consensus/diff/";
/// Documents before the newest from which diffs lead: for as long as a document may be used, that held one is among them.
const KEPT: usize = Consensus::LIFE_EPOCHS as usize;

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_protocol::consensus::NotRunning;
    use mizzle_protocol::id::RelayId;
    use mizzle_protocol::path::Parameters;
    use std::sync::Mutex;
    use std::time::Duration;

    const NOW: Instant = Instant::from_micros(1_800_000_100_000_000);

    /// The chain of documents up to this epoch, with enough in them that diffs are smaller.
    fn chain(length: u64) -> Vec<(Signed, Arc<Consensus>)> {
        let parameters = Parameters::local();
        let start = UnixTime(1_800_000_000);
        let not_running: Vec<_> = (0..30)
            .map(|id| NotRunning { id: RelayId([id; 32]), reason: "it does not answer".into() })
            .collect();
        let mut chain: Vec<(Signed, Arc<Consensus>)> = Vec::new();
        for epoch in 0..length {
            let consensus = Consensus {
                method: 1,
                network: "test".into(),
                epoch: Epoch(epoch),
                valid_after: start,
                fresh_until: start + parameters.epoch,
                valid_until: start + parameters.epoch * 3,
                previous: chain.last().map(|(signed, _)| signed.hash()),
                origin: start,
                required: Vec::new(),
                recommended: Vec::new(),
                relays: Vec::new(),
                not_running: not_running.clone(),
                pool: None,
                made: None,
                later: Default::default(),
                parameters: parameters.clone(),
            };
            chain.push((Signed::new(&consensus), Arc::new(consensus)));
        }
        chain
    }

    fn shelf(chain: &[(Signed, Arc<Consensus>)]) -> Shelf {
        let [(signed, first), later @ ..] = chain else { panic!("an empty chain") };
        let shelf = Shelf::new(signed, first.clone(), *b"keys");
        later.iter().fold(shelf, |shelf, (signed, next)| shelf.followed_by(signed, next.clone(), *b"keys"))
    }

    fn known((signed, consensus): &(Signed, Arc<Consensus>)) -> Known {
        Known { consensus: consensus.clone(), hash: signed.hash() }
    }

    /// What comes of asking this shelf, and the paths that were asked for.
    async fn asked(shelf: &Shelf, held: Option<&Known>) -> (Result<Answer>, Vec<String>) {
        let (mut near, far) = tokio::io::duplex(1 << 16);
        let paths = Arc::new(Mutex::new(Vec::new()));
        let (shelf, seen) = (shelf.clone(), paths.clone());
        let server = tokio::spawn(async move {
            let respond = async |request: http::Request| {
                seen.lock().unwrap().push(request.path.clone());
                shelf.answer(&request.path, NOW).unwrap_or_else(|| Response::text(404, "nothing here"))
            };
            http::serve(far, &Limits::default(), respond).await
        });
        let answer = ask(&mut near, held, &Limits::default()).await;
        drop(near);
        server.await.unwrap().unwrap();
        let paths = paths.lock().unwrap().clone();
        (answer, paths)
    }

    #[tokio::test]
    async fn who_holds_one_of_the_last_documents_gets_a_diff_and_who_holds_none_the_whole() {
        let chain = chain(6);
        let shelf = shelf(&chain);
        let (newest, whole) = (&chain[5].0, chain[5].0.to_bytes().len());
        for held in &chain[2..5] {
            let (answer, paths) = asked(&shelf, Some(&known(held))).await;
            let answer = answer.unwrap();
            assert_eq!(answer.signed.as_ref(), Some(newest));
            assert_eq!(answer.time, Some(NOW.unix()));
            assert!(paths.len() == 1 && answer.bytes < whole, "{} of {whole}", answer.bytes);
        }
        for held in [None, Some(&known(&chain[1]))] {
            let (answer, paths) = asked(&shelf, held).await;
            assert_eq!(answer.unwrap().signed.as_ref(), Some(newest));
            assert_eq!(paths.last().unwrap(), "/consensus");
        }
    }

    #[tokio::test]
    async fn who_holds_the_newest_or_a_later_one_gets_nothing() {
        let chain = chain(6);
        let (answer, paths) = asked(&shelf(&chain), Some(&known(&chain[5]))).await;
        assert!(answer.unwrap().signed.is_none() && paths.len() == 1);
        let (answer, paths) = asked(&shelf(&chain[..4]), Some(&known(&chain[5]))).await;
        assert!(answer.unwrap().signed.is_none() && paths.len() == 1);
    }

    #[tokio::test]
    async fn another_document_of_the_same_epoch_is_fetched_whole_so_that_it_is_seen() {
        let chain = chain(4);
        let other = Arc::new(Consensus { method: 2, ..(*chain[3].1).clone() });
        let held = Known { hash: Signed::new(&other).hash(), consensus: other };
        let (answer, _) = asked(&shelf(&chain), Some(&held)).await;
        assert_eq!(answer.unwrap().signed.as_ref(), Some(&chain[3].0));
    }

    #[tokio::test]
    async fn a_diff_that_leads_nowhere_is_no_loss() {
        let chain = chain(3);
        let mut shelf = shelf(&chain);
        let (_, wrong) = shelf.before.pop().unwrap();
        shelf.before[0].1 = wrong;
        let (answer, paths) = asked(&shelf, Some(&known(&chain[1]))).await;
        assert_eq!(answer.unwrap().signed.as_ref(), Some(&chain[2].0));
        assert_eq!(paths.len(), 2);
    }

    #[tokio::test]
    async fn who_has_no_document_says_so_and_the_connection_serves_on() {
        let (mut near, far) = tokio::io::duplex(1 << 16);
        let respond = async |_: http::Request| Response::text(503, "not yet");
        let server = tokio::spawn(async move { http::serve(far, &Limits::default(), respond).await });
        for held in [None, Some(&known(&chain(1)[0]))] {
            let answer = ask(&mut near, held, &Limits::default()).await.unwrap();
            assert!(answer.signed.is_none() && answer.refused == Some(503) && answer.time.is_none());
        }
        assert!(ask_keys(&mut near, &Limits::default()).await.is_err());
        drop(near);
        server.await.unwrap().unwrap();
    }

    #[test]
    fn diffs_lead_from_the_last_three_and_never_take_more_than_the_document() {
        let mut shelf = shelf(&chain(9));
        assert_eq!(shelf.before.len(), 3);
        shelf.before[0].1 = vec![0; shelf.consensus.len()].into();
        let path = format!("{DIFF}{}", to_hex(&shelf.before[0].0.hash.0));
        assert_eq!(shelf.answer(&path, NOW).unwrap().status, 404);
        for path in ["/consensus/diff/", "/consensus/diff/00"] {
            assert_eq!(shelf.answer(path, NOW).unwrap().status, 404);
        }
        assert!(shelf.answer("/descriptor", NOW).is_none());
        assert_eq!(&*shelf.answer("/service-keys", NOW).unwrap().body, b"keys");
    }

    #[test]
    fn the_same_document_with_more_signatures_takes_no_place_among_those_before() {
        let chain = chain(2);
        let shelf = shelf(&chain);
        let again = shelf.followed_by(&chain[1].0, chain[1].1.clone(), *b"keys");
        assert_eq!(again.before.len(), 1);
        assert!(NOW.since(chain[1].1.valid_after.instant()) > Duration::ZERO);
    }
}
