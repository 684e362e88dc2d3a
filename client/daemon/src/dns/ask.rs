//! Asks the resolver of an exit: by a datagram, again if nothing comes, and by a stream where a datagram does not
//! hold the answer. (spec: PROXY-11)

use super::Answers;
use super::message::{Question, is_cut};
use crate::isolation::Generation;
use crate::network::{Datagrams, Network};
use mizzle_client::{ErrorKind, Result, Target};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// The exit's resolver, for one listener and one token.
#[derive(Clone, Debug)]
pub(crate) struct ByExit<N> {
    pub(crate) network: N,
    pub(crate) generation: Generation,
    pub(crate) listener: u16,
    pub(crate) token: Vec<u8>,
}

impl<N: Network> Answers for ByExit<N> {
    async fn answer(&self, question: &Question, whole: bool) -> Option<Vec<u8>> {
        // A new identity counts from the next question on.
        let isolation = self.generation.isolation(self.listener, &self.token);
        let reply = self.by_datagram(question, &isolation).await.ok()??;
        match whole && is_cut(&reply) {
            true => self.by_stream(question, &isolation).await.ok()?,
            false => Some(reply),
        }
    }
}

impl<N: Network> ByExit<N> {
    async fn by_datagram(&self, question: &Question, isolation: &[u8]) -> Result<Option<Vec<u8>>> {
        let datagrams = self.network.datagrams(isolation).await?;
        let Some(id) = fresh_id() else { return Ok(None) };
        let mut last = None;
        for _ in 0..TRIES {
            match datagrams.send(Target::resolver(), question.outward(id)).await {
                // Perhaps there is room in a moment.
                Err(error) if error.kind() != ErrorKind::Exhausted => return Err(error),
                sent => last = sent.err(),
            }
            let heard = async {
                while let Some((source, reply)) = datagrams.receive().await {
                    if source == Target::resolver() && question.is_answered_by(&reply, id) {
                        return Some(reply);
                    }
                }
                None
            };
            match timeout(TRY_TIME, heard).await {
                Ok(reply) => return Ok(reply),
                Err(_) => continue,
            }
        }
        last.map_or(Ok(None), Err)
    }

    async fn by_stream(&self, question: &Question, isolation: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(id) = fresh_id() else { return Ok(None) };
        let message = question.outward(id);
        let Ok(length) = u16::try_from(message.len()) else { return Ok(None) };
        let first = [&length.to_be_bytes()[..], &message].concat();
        let mut stream = self.network.connect(Target::resolver(), isolation, &first).await?;
        let exchange = async {
            let mut reply = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut reply).await?;
            // Nothing more is asked; whether the exit hears that is its own business.
            let _ = timeout(FAREWELL, stream.shutdown()).await;
            std::io::Result::Ok(reply)
        };
        Ok(exchange.await.ok().filter(|reply| question.is_answered_by(reply, id)))
    }
}

/// A random number for a question: who has not seen it cannot answer it.
fn fresh_id() -> Option<[u8; 2]> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).ok().map(|()| id)
}

const TRIES: usize = 3;
const TRY_TIME: Duration = Duration::from_secs(2);
const FAREWELL: Duration = Duration::from_millis(200);
