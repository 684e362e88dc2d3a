//! Datagrams through the mixnet: unreliable, unordered, each as whole as it was sent.

use crate::client::{Client, ask, stopped};
use crate::country::Apart;
use crate::engine::{Command, Mailbox};
use crate::{Error, ErrorKind, Result};
use mizzle_protocol::wire::target::{Host, Target};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot};

/// Datagrams under one isolation, to any target; see [`Client::datagrams`].
///
/// Answers come from targets that were sent to, and from nobody else. Dropped, it takes no more of them.
pub struct Datagrams {
    mailbox: Arc<Mailbox>,
    key: ExchangeKey,
    incoming: Mutex<mpsc::Receiver<(Target, Vec<u8>)>>,
}

impl Client {
    /// Datagrams to any target, each target by the session of (`isolation`, host), as for [`Client::connect`].
    ///
    /// Fails with [`ErrorKind::NoNetwork`] and why, as soon as that is known not to pass by itself, and with
    /// [`ErrorKind::Exhausted`] when there are too many.
    pub async fn datagrams(&self, isolation: &[u8]) -> Result<Datagrams> {
        self.within(SETUP_TIME, async {
            self.ready().await?;
            let (home, incoming) = mpsc::channel(WAITING);
            let (opened, answer) = oneshot::channel();
            self.ask(Command::Exchange { isolation: self.apart(isolation), home, opened })?;
            let key = answer.await.unwrap_or_else(|_| Err(stopped()))?;
            Ok(Datagrams { mailbox: self.mailbox(), key, incoming: Mutex::new(incoming) })
        })
        .await
    }
}

impl Datagrams {
    /// Sends one datagram. It is on its way when this returns, and may be lost there, as any datagram.
    ///
    /// Fails with [`ErrorKind::TooLarge`] above a third of the network's payload size (1365 bytes with packets of
    /// 4 KiB), with [`ErrorKind::NoNetwork`], or with [`ErrorKind::Exhausted`].
    pub async fn send(&self, target: Target, bytes: Vec<u8>) -> Result<()> {
        let (taken, answer) = oneshot::channel();
        ask(&self.mailbox, Command::Datagram { key: self.key, target, bytes, taken })?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// The next datagram that came home, with its source as the exit saw it; `None` once the client is gone.
    ///
    /// 64 wait for whoever reads; while so many wait, what comes is lost, and counted in
    /// [`crate::Status::datagrams_dropped`].
    pub async fn receive(&self) -> Option<(Target, Vec<u8>)> {
        self.incoming.lock().await.recv().await
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams").finish_non_exhaustive()
    }
}

/// Which [`Datagrams`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ExchangeKey(u64);

/// The engine's side of all [`Datagrams`].
///
/// Each target host is a flow of its own in its session, so that what comes home has one host that it can have
/// come from.
#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    next: u64,
    open: HashMap<ExchangeKey, Exchange>,
    flows: HashMap<u64, Flow>,
    /// Datagrams that found nobody who reads, or that nobody had asked for.
    pub(crate) dropped: u64,
}

struct Exchange {
    isolation: Apart,
    home: mpsc::Sender<(Target, Vec<u8>)>,
    flows: HashMap<Host, u64>,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exchange(redacted)")
    }
}

struct Flow {
    exchange: ExchangeKey,
    host: Host,
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flow(redacted)")
    }
}

impl Exchanges {
    /// A new exchange, whose datagrams come home through `home`.
    pub(crate) fn open(
        &mut self,
        isolation: Apart,
        home: mpsc::Sender<(Target, Vec<u8>)>,
    ) -> Result<ExchangeKey> {
        if self.open.len() >= EXCHANGES {
            self.forget_closed();
        }
        if self.open.len() >= EXCHANGES {
            let message = "too many programs send datagrams; close some and try again";
            return Err(Error::new(ErrorKind::Exhausted, message));
        }
        let key = ExchangeKey(self.fresh());
        self.open.insert(key, Exchange { isolation, home, flows: HashMap::new() });
        Ok(key)
    }

    /// Isolation and flow of a datagram to `host`.
    pub(crate) fn flow_to(&mut self, key: ExchangeKey, host: &Host) -> Result<(&Apart, u64)> {
        let next = self.fresh();
        let exchange = self.open.get_mut(&key).ok_or_else(stopped)?;
        if exchange.flows.len() >= HOSTS && !exchange.flows.contains_key(host) {
            // Whichever host comes first: its answers are lost, as datagrams may be.
            let first = exchange.flows.keys().next().cloned();
            if let Some(flow) = first.and_then(|host| exchange.flows.remove(&host)) {
                self.flows.remove(&flow);
            }
        }
        let flow = *exchange.flows.entry(host.clone()).or_insert(next);
        self.flows.entry(flow).or_insert_with(|| Flow { exchange: key, host: host.clone() });
        Ok((&exchange.isolation, flow))
    }

    /// A datagram came home.
    pub(crate) fn arrived(&mut self, flow: u64, source: Target, bytes: Vec<u8>) {
        let taken = match self.flows.get(&flow) {
            Some(known) if answers(&known.host, &source.host) => self
                .open
                .get(&known.exchange)
                .is_some_and(|exchange| exchange.home.try_send((source, bytes)).is_ok()),
            _ => false,
        };
        self.dropped += u64::from(!taken);
    }

    /// From now on nothing ties what is sent to what was sent before.
    pub(crate) fn forget_flows(&mut self) {
        self.flows.clear();
        self.open.values_mut().for_each(|exchange| exchange.flows.clear());
    }

    fn forget_closed(&mut self) {
        self.open.retain(|_, exchange| !exchange.home.is_closed());
        let open = &self.open;
        self.flows.retain(|_, flow| open.contains_key(&flow.exchange));
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// True if a datagram to `asked` may be answered by `source`: exits serve many hosts, and must not speak for others.
fn answers(asked: &Host, source: &Host) -> bool {
    match asked {
        Host::Name(_) => matches!(source, Host::Address(_)),
        asked => asked == source,
    }
}

/// Datagrams that wait for whoever reads.
const WAITING: usize = 64;
const EXCHANGES: usize = 1_024;
/// Hosts that one exchange may have to do with at a time.
const HOSTS: usize = 256;
const SETUP_TIME: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn target(host: &str) -> Target {
        Target::parse(host, 53).unwrap()
    }

    fn exchange(exchanges: &mut Exchanges) -> (ExchangeKey, mpsc::Receiver<(Target, Vec<u8>)>) {
        let (home, incoming) = mpsc::channel(WAITING);
        (exchanges.open(Apart::default(), home).unwrap(), incoming)
    }

    fn flow(exchanges: &mut Exchanges, key: ExchangeKey, target: &Target) -> u64 {
        exchanges.flow_to(key, &target.host).unwrap().1
    }

    #[test]
    fn each_host_is_a_flow_of_its_own_and_speaks_for_itself_only() {
        let mut exchanges = Exchanges::default();
        let (key, mut incoming) = exchange(&mut exchanges);
        let (address, other, name) = (target("192.0.2.1"), target("192.0.2.2"), target("a.test"));
        let flows =
            [&address, &other, &name, &Target::resolver()].map(|target| flow(&mut exchanges, key, target));
        assert_eq!(flow(&mut exchanges, key, &address), flows[0]);
        assert_eq!(flows.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
        for (flow, source, taken) in [
            (flows[0], &address, true),
            (flows[0], &other, false),
            (flows[0], &Target::resolver(), false),
            (flows[2], &address, true),
            (flows[2], &name, false),
            (flows[3], &Target::resolver(), true),
            (flows[3], &address, false),
            (99, &address, false),
        ] {
            exchanges.arrived(flow, source.clone(), b"x".to_vec());
            assert_eq!(incoming.try_recv().is_ok(), taken);
        }
        assert_eq!(exchanges.dropped, 5);
    }

    #[test]
    fn a_reader_that_does_not_read_loses_the_newest_and_each_loss_is_counted() {
        let mut exchanges = Exchanges::default();
        let (key, mut incoming) = exchange(&mut exchanges);
        let source = target("192.0.2.1");
        let flow = flow(&mut exchanges, key, &source);
        for number in 0..WAITING + 3 {
            exchanges.arrived(flow, source.clone(), vec![number as u8]);
        }
        assert_eq!(exchanges.dropped, 3);
        for number in 0..WAITING {
            assert_eq!(incoming.try_recv().unwrap().1, [number as u8]);
        }
        assert!(incoming.try_recv().is_err());
    }

    #[test]
    fn exchanges_and_their_hosts_are_bounded_and_those_that_are_over_make_room() {
        let mut exchanges = Exchanges::default();
        let mut held: Vec<_> = (0..EXCHANGES).map(|_| exchange(&mut exchanges)).collect();
        let (home, _incoming) = mpsc::channel(WAITING);
        let refused = exchanges.open(Apart::default(), home).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Exhausted);
        let (key, incoming) = held.pop().unwrap();
        for number in 0..2 * HOSTS {
            flow(&mut exchanges, key, &target(&format!("192.0.{}.{}", number / 256, number % 256)));
        }
        assert_eq!(exchanges.flows.len(), HOSTS);
        drop(incoming);
        exchange(&mut exchanges);
        assert_eq!((exchanges.open.len(), exchanges.flows.len()), (EXCHANGES, 0));
    }

    #[test]
    fn after_the_flows_are_forgotten_old_answers_are_nobodys() {
        let mut exchanges = Exchanges::default();
        let (key, mut incoming) = exchange(&mut exchanges);
        let source = target("192.0.2.1");
        let old = flow(&mut exchanges, key, &source);
        exchanges.forget_flows();
        let new = flow(&mut exchanges, key, &source);
        assert_ne!(old, new);
        exchanges.arrived(old, source.clone(), Vec::new());
        assert!(incoming.try_recv().is_err());
        exchanges.arrived(new, source, Vec::new());
        assert!(incoming.try_recv().is_ok());
    }
}
