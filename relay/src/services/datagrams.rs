//! The thread's side of all exchanges of datagrams and all questions for the resolver: how many there may be, and
//! where what comes belongs. (spec: EXIT-7, EXIT-8)

use super::connect::Input;
use super::dns::Names;
use super::exchange::{Exchange, ExchangeKey};
use super::pump::Connector;
use crate::metrics::{Loss, Metrics};
use mizzle_protocol::id::SessionId;
use mizzle_protocol::session::{DatagramLoss, Gateway};
use mizzle_protocol::wire::target::{Host, Target};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, error};

/// All that are open.
#[derive(Debug)]
pub(super) struct Datagrams {
    exchanges: BTreeMap<ExchangeKey, mpsc::Sender<(Target, Vec<u8>)>>,
    /// Questions that wait for an answer, by session.
    questions: BTreeMap<SessionId, usize>,
    connector: Connector,
    names: Names,
    metrics: Arc<Metrics>,
    inbox: SyncSender<Input>,
    runtime: Handle,
}

impl Datagrams {
    /// None yet. Tasks run on `runtime` and report to `inbox`.
    pub(super) fn new(
        connector: Connector,
        metrics: Arc<Metrics>,
        inbox: SyncSender<Input>,
        runtime: Handle,
    ) -> Self {
        let names = Names::new(connector.clone(), metrics.clone());
        let (exchanges, questions) = (BTreeMap::new(), BTreeMap::new());
        Self { exchanges, questions, connector, names, metrics, inbox, runtime }
    }

    /// A client's datagram; `limit` is the largest that gets home.
    pub(super) fn send(
        &mut self,
        (session, flow): ExchangeKey,
        target: Target,
        bytes: Vec<u8>,
        limit: usize,
    ) {
        let taken = match target.host {
            Host::Resolver => self.ask((session, flow), bytes, limit),
            // They come by streams.
            Host::Documents => Err(Loss::Failed),
            Host::Address(_) | Host::Name(_) => self.pass((session, flow), target, bytes, limit),
        };
        if let Err(loss) = taken {
            self.metrics.lose_datagram(loss);
        }
        self.show();
    }

    /// A datagram from the internet.
    pub(super) fn received(
        &mut self,
        gateway: &mut Gateway,
        key: ExchangeKey,
        source: SocketAddr,
        bytes: Vec<u8>,
    ) {
        let source = Target { host: Host::Address(source.ip()), port: source.port() };
        self.take_home(gateway, key, source, bytes);
    }

    /// A question has its answer; `None`: it was none.
    pub(super) fn answered(&mut self, gateway: &mut Gateway, key: ExchangeKey, reply: Option<Vec<u8>>) {
        if let Some(count) = self.questions.get_mut(&key.0) {
            *count -= 1;
            if *count == 0 {
                self.questions.remove(&key.0);
            }
        }
        match reply {
            Some(reply) => self.take_home(gateway, key, Target::resolver(), reply),
            None => self.metrics.lose_datagram(Loss::Malformed),
        }
    }

    /// An exchange has ended, unless another has begun under its name since.
    pub(super) fn over(&mut self, key: ExchangeKey) {
        if self.exchanges.get(&key).is_some_and(mpsc::Sender::is_closed) {
            self.exchanges.remove(&key);
        }
        self.show();
    }

    fn take_home(&mut self, gateway: &mut Gateway, key: ExchangeKey, source: Target, bytes: Vec<u8>) {
        match gateway.send_datagram(key.0, key.1, source, bytes) {
            None => self.metrics.datagrams_home.inc(),
            Some(DatagramLoss::TooLarge) => self.metrics.lose_datagram(Loss::TooLarge),
            Some(DatagramLoss::Crowded) => self.metrics.lose_datagram(Loss::Full),
            Some(DatagramLoss::NoSession) => {
                self.metrics.lose_datagram(Loss::Session);
                // Ends its task, too.
                self.exchanges.remove(&key);
                self.show();
            }
        }
    }

    fn pass(&mut self, key: ExchangeKey, target: Target, bytes: Vec<u8>, limit: usize) -> Result<(), Loss> {
        let mut datagram = (target, bytes);
        if let Some(exchange) = self.exchanges.get(&key) {
            match exchange.try_send(datagram) {
                Ok(()) => return Ok(()),
                Err(error::TrySendError::Full(_)) => return Err(Loss::Full),
                // It has just ended: this begins another.
                Err(error::TrySendError::Closed(back)) => datagram = back,
            }
            self.exchanges.remove(&key);
        }
        let of_session = self.exchanges.range((key.0, 0)..=(key.0, u64::MAX)).count();
        if of_session >= EXCHANGES_PER_SESSION || self.exchanges.len() >= EXCHANGES {
            return Err(Loss::Exhausted);
        }
        let (sender, outward) = mpsc::channel(WAITING);
        sender.try_send(datagram).map_err(|_| Loss::Full)?;
        let (inbox, connector, metrics) = (self.inbox.clone(), self.connector.clone(), self.metrics.clone());
        self.runtime.spawn(Exchange { key, outward, inbox, connector, metrics, limit }.run());
        self.exchanges.insert(key, sender);
        Ok(())
    }

    fn ask(&mut self, key: ExchangeKey, message: Vec<u8>, limit: usize) -> Result<(), Loss> {
        let all: usize = self.questions.values().sum();
        let count = self.questions.get(&key.0).copied().unwrap_or_default();
        if count >= QUESTIONS_PER_SESSION || all >= QUESTIONS {
            return Err(Loss::Exhausted);
        }
        self.questions.insert(key.0, count + 1);
        let (names, inbox) = (self.names.clone(), self.inbox.clone());
        self.runtime.spawn(async move {
            let reply = names.answer(&message, Some(limit)).await;
            let mut input = Input::Answered(key, reply);
            while let Err(TrySendError::Full(back)) = inbox.try_send(input) {
                input = back;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        Ok(())
    }

    fn show(&self) {
        self.metrics.exchanges.set(i64::try_from(self.exchanges.len()).unwrap_or(i64::MAX));
    }
}

/// Exchanges at a time, and of one session; above: datagrams that would begin one are dropped as `exhausted`.
const EXCHANGES: usize = 1_024;
const EXCHANGES_PER_SESSION: usize = 64;
/// Questions at a time, and of one session; above: they are dropped as `exhausted`.
const QUESTIONS: usize = 256;
const QUESTIONS_PER_SESSION: usize = 32;
/// Datagrams between the thread and one exchange; above: dropped as `full`.
const WAITING: usize = 32;
