//! The resolver that clients ask: DNS messages, by datagrams and by streams.
//!
//! Names in the operator's own table are answered here, all others by a resolver of the operator's choice. Records
//! are passed on as they are: a client connects to none of the addresses in them, and the exit looks at each
//! address again when it connects. (spec: EXIT-9 to EXIT-12)

mod question;
mod servers;
mod upstream;

pub(crate) use servers::nameservers;

use super::pump::Connector;
use crate::metrics::{Answer, Metrics};
use question::Question;
use simple_dns::RCODE;
use std::io::Result;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Answers questions.
#[derive(Clone, Debug)]
pub(super) struct Names {
    connector: Connector,
    metrics: Arc<Metrics>,
}

impl Names {
    /// By the rules of `connector`, which may change.
    pub(super) fn new(connector: Connector, metrics: Arc<Metrics>) -> Self {
        Self { connector, metrics }
    }

    /// The answer to one message; with a `limit`, cut if it is longer. `None`: the message is no question.
    pub(super) async fn answer(&self, message: &[u8], limit: Option<usize>) -> Option<Vec<u8>> {
        let question = Question::parse(message)?;
        let (how, reply) = self.decide(&question, limit.is_none()).await?;
        self.metrics.answer(how);
        Some(match limit {
            Some(limit) if reply.len() > limit => question.cut(&reply),
            _ => reply,
        })
    }

    async fn decide(&self, question: &Question<'_>, whole: bool) -> Option<(Answer, Vec<u8>)> {
        let (policy, resolver, servers) = self.connector.rules.load();
        let refused = || Some((Answer::Refused, question.reply(RCODE::Refused)?));
        if question.is_out_of_bounds() {
            return refused();
        }
        if let Some((address, is_whole)) = question.reverse() {
            if !policy.allows_address(address) {
                return refused();
            }
            if let Some(name) = resolver.own_name(address).filter(|_| is_whole && question.wants_name()) {
                return Some((Answer::Own, question.reply_name(name)?));
            }
        }
        if let Some(address) = question.host().and_then(|name| resolver.own(&name)) {
            let reply = match question.wants(address) {
                true => question.reply_address(address)?,
                false => question.reply(RCODE::NoError)?,
            };
            return Some((Answer::Own, reply));
        }
        let traffic = &self.connector.traffic;
        traffic.out.inc_by(question.renumbered([0; 2]).len() as u64);
        match upstream::ask(&servers, self.connector.outbound, question, whole).await {
            Some(reply) => {
                traffic.home.inc_by(reply.len() as u64);
                Some((Answer::Resolver, reply))
            }
            None => Some((Answer::Failed, question.reply(RCODE::ServerFailure)?)),
        }
    }

    /// Answers what comes over a stream, one message after the other, until the client ends it. Fails at what is no
    /// question.
    pub(super) async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
        loop {
            let mut length = [0; 2];
            match timeout(SILENCE, stream.read(&mut length[..1])).await?? {
                0 => return stream.shutdown().await,
                _ => stream.read_exact(&mut length[1..]).await?,
            };
            let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
            timeout(SILENCE, stream.read_exact(&mut message)).await??;
            let malformed = || std::io::Error::from(std::io::ErrorKind::InvalidData);
            let reply = self.answer(&message, None).await.ok_or_else(malformed)?;
            let length = u16::try_from(reply.len()).map_err(|_| malformed())?;
            stream.write_all(&[&length.to_be_bytes()[..], &reply].concat()).await?;
        }
    }
}

/// How long a stream may say nothing.
const SILENCE: Duration = Duration::from_secs(60);
