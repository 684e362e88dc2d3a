//! The consensus by way of exits: what relays that do not know this client have. (spec: DIR-19)

use crate::Result;
use crate::client::open_stream;
use crate::country::Apart;
use crate::directory::{Heard, Held, Rules, ask};
use crate::engine::Mailbox;
use crate::stream::reset_error;
use mizzle_link::seeded_rng;
use mizzle_protocol::stream::ResetReason;
use mizzle_protocol::wire::target::Target;
use rand_core::Rng;
use std::sync::Arc;
use std::time::Duration;

/// Asks two exits, each drawn for this one question, for what is newer than `held`.
pub(crate) async fn by_two_exits(
    mailbox: &Arc<Mailbox>,
    rules: &Rules,
    held: &Held,
    patience: Duration,
) -> [Result<Heard>; 2] {
    let asked = async || {
        let late = |_| Err(reset_error(ResetReason::TimedOut));
        tokio::time::timeout(patience, by_exit(mailbox, rules, held)).await.unwrap_or_else(late)
    };
    let (one, other) = tokio::join!(asked(), asked());
    [one, other]
}

async fn by_exit(mailbox: &Arc<Mailbox>, rules: &Rules, held: &Held) -> Result<Heard> {
    // A session of its own: nothing links it to what anybody does.
    let mut token = vec![0; 32];
    seeded_rng()?.fill_bytes(&mut token);
    let apart = Apart { token, exit_country: None };
    let mut stream = open_stream(mailbox, apart, Target::documents(), &[]).await?;
    // Keys are many bytes, and come from the entry: they are known two key periods before they are used.
    ask(&mut stream, rules, Some(held), false).await
}

/// How long exits have in a network of such epochs: no answer must keep the entry from being asked.
pub(crate) fn patience(epoch: Duration) -> Duration {
    (epoch / 4).min(LONGEST)
}

const LONGEST: Duration = Duration::from_secs(60);
