//! One exchange of datagrams with the internet: a port of its own, targets that the client names, and answers from
//! these and from nobody else. (spec: EXIT-7, EXIT-8)

use super::connect::Input;
use super::pump::Connector;
use crate::metrics::{Loss, Metrics};
use mizzle_protocol::id::SessionId;
use mizzle_protocol::wire::target::{Host, Target};
use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// The client's session, and its name for the exchange.
pub(super) type ExchangeKey = (SessionId, u64);

/// The task of one exchange.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) key: ExchangeKey,
    pub(super) outward: mpsc::Receiver<(Target, Vec<u8>)>,
    pub(super) inbox: SyncSender<Input>,
    pub(super) connector: Connector,
    pub(super) metrics: Arc<Metrics>,
    /// Bytes of the largest datagram that gets home.
    pub(super) limit: usize,
}

/// One family's port.
struct Port {
    socket: UdpSocket,
    buffer: Vec<u8>,
}

#[derive(Default)]
struct Ports {
    four: Option<Port>,
    six: Option<Port>,
}

impl Exchange {
    /// Carries datagrams until the client has no more of them for a while.
    pub(super) async fn run(mut self) {
        let mut ports = Ports::default();
        // Where each target was found to be, once and for all.
        let mut known: HashMap<Target, SocketAddr> = HashMap::new();
        let mut allowed: HashSet<SocketAddr> = HashSet::new();
        let mut end = Instant::now() + IDLE;
        loop {
            tokio::select! {
                next = self.outward.recv() => {
                    let Some((target, bytes)) = next else { return };
                    end = Instant::now() + IDLE;
                    let sent = match known.get(&target) {
                        Some(&address) => self.send_again(&mut ports, address, &bytes).await,
                        None if known.len() >= TARGETS => Err(Loss::Exhausted),
                        None => match self.send_first(&mut ports, &target, &bytes).await {
                            Ok(address) => {
                                allowed.insert(address);
                                known.insert(target, address);
                                Ok(())
                            }
                            Err(loss) => Err(loss),
                        },
                    };
                    match sent {
                        Ok(()) => self.metrics.datagrams_out.inc(),
                        Err(loss) => self.metrics.lose_datagram(loss),
                    }
                }
                (source, bytes) = ports.receive(self.limit) => {
                    match self.take_home(&allowed, source, bytes) {
                        Ok(()) => end = Instant::now() + IDLE,
                        Err(loss) => self.metrics.lose_datagram(loss),
                    }
                }
                () = sleep_until(end) => {
                    // What came in the meantime begins another exchange, or is lost.
                    self.outward.close();
                    while self.outward.try_recv().is_ok() {
                        self.metrics.lose_datagram(Loss::Full);
                    }
                    return self.tell_end().await;
                }
            }
        }
    }

    /// Resolves the target once, checks the addresses, and sends to one that was checked; to which.
    async fn send_first(
        &self,
        ports: &mut Ports,
        target: &Target,
        bytes: &[u8],
    ) -> std::result::Result<SocketAddr, Loss> {
        let (policy, resolver, _) = self.connector.rules.load();
        let addresses = resolver.resolve(&target.host).await.map_err(|_| match target.host {
            Host::Name(_) => Loss::Unresolved,
            Host::Address(_) | Host::Resolver | Host::Documents => Loss::Failed,
        })?;
        let mut loss = Loss::Policy;
        let allowed = addresses.iter().filter(|&&address| policy.allows(address, target.port));
        for &address in allowed.take(ATTEMPTS) {
            let address = SocketAddr::new(address, target.port);
            match ports.send(&self.connector, address, bytes).await {
                Ok(()) => return Ok(address),
                Err(_) => loss = Loss::Failed,
            }
        }
        Err(loss)
    }

    async fn send_again(
        &self,
        ports: &mut Ports,
        address: SocketAddr,
        bytes: &[u8],
    ) -> std::result::Result<(), Loss> {
        ports.send(&self.connector, address, bytes).await.map_err(|_| Loss::Failed)
    }

    fn take_home(
        &self,
        allowed: &HashSet<SocketAddr>,
        source: SocketAddr,
        bytes: Vec<u8>,
    ) -> std::result::Result<(), Loss> {
        // Wanted or not, it has come by the line.
        self.connector.traffic.home.inc_by(bytes.len() as u64);
        // Without the interface and the label that the system may add.
        let source = SocketAddr::new(source.ip(), source.port());
        if !allowed.contains(&source) {
            return Err(Loss::Stranger);
        }
        if bytes.len() > self.limit {
            return Err(Loss::TooLarge);
        }
        self.inbox.try_send(Input::Datagram(self.key, source, bytes)).map_err(|_| Loss::Full)
    }

    /// Tells the thread, which may be too busy to listen.
    async fn tell_end(self) {
        let Self { key, outward, inbox, .. } = self;
        drop(outward);
        while let Err(TrySendError::Full(_)) = inbox.try_send(Input::Over(key)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Ports {
    /// Sends by the port of that family, which is opened now if there is none.
    async fn send(&mut self, connector: &Connector, to: SocketAddr, bytes: &[u8]) -> Result<()> {
        let any = match to {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let source = connector.outbound.unwrap_or(any);
        if source.is_ipv4() != to.is_ipv4() {
            return Err(ErrorKind::NetworkUnreachable.into());
        }
        let port = if to.is_ipv4() { &mut self.four } else { &mut self.six };
        let port = match port {
            Some(port) => port,
            None => {
                let socket = UdpSocket::bind(SocketAddr::new(source, 0)).await?;
                port.insert(Port { socket, buffer: Vec::new() })
            }
        };
        port.socket.send_to(bytes, to).await?;
        connector.traffic.out.inc_by(bytes.len() as u64);
        Ok(())
    }

    /// The next datagram at any port, and one byte more than `limit` if it is larger than that.
    async fn receive(&mut self, limit: usize) -> (SocketAddr, Vec<u8>) {
        tokio::select! {
            received = receive(&mut self.four, limit) => received,
            received = receive(&mut self.six, limit) => received,
        }
    }
}

async fn receive(port: &mut Option<Port>, limit: usize) -> (SocketAddr, Vec<u8>) {
    let Some(Port { socket, buffer }) = port else { return std::future::pending().await };
    buffer.resize(limit + 1, 0);
    loop {
        match socket.recv_from(buffer).await {
            Ok((count, source)) => return (source, buffer.get(..count).unwrap_or_default().to_vec()),
            // What an earlier datagram met with on its way: that one is lost, and no more.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// An exchange in which nothing comes or goes for so long is over.
const IDLE: Duration = Duration::from_secs(60);
/// After an error of the system.
const PAUSE: Duration = Duration::from_millis(10);
/// Targets of one exchange.
const TARGETS: usize = 64;
/// Addresses of one name that are tried.
const ATTEMPTS: usize = 3;

#[cfg(test)]
mod tests {
    use super::super::policy::{Policy, PolicyConfig, Ports as PolicyPorts};
    use super::super::pump::Rules;
    use super::super::resolve::Resolver;
    use super::*;
    use std::sync::mpsc::{Receiver, sync_channel};

    struct Fixture {
        client: mpsc::Sender<(Target, Vec<u8>)>,
        inputs: Receiver<Input>,
        metrics: Arc<Metrics>,
    }

    impl Fixture {
        fn start(open: bool) -> Self {
            let hosts = HashMap::from([("name.test".to_owned(), IpAddr::from([127, 0, 0, 2]))]);
            let config = PolicyConfig { ports: PolicyPorts::full(), reject: Vec::new() };
            let rules = Rules::new(
                Policy::new(config, open, vec![[127, 0, 0, 9].into()]),
                Resolver::new(&hosts),
                Vec::new(),
            );
            let (client, outward) = mpsc::channel(16);
            let (inbox, inputs) = sync_channel(2);
            let metrics = Metrics::new().unwrap();
            let traffic = metrics.internet.clone();
            let connector = Connector { rules, outbound: Some([127, 0, 0, 3].into()), traffic };
            let key = (SessionId([7; 16]), 5);
            let exchange =
                Exchange { key, outward, inbox, connector, metrics: metrics.clone(), limit: 1_000 };
            tokio::spawn(exchange.run());
            Self { client, inputs, metrics }
        }

        async fn send(&self, host: &str, port: u16, bytes: &[u8]) {
            self.client.send((Target::parse(host, port).unwrap(), bytes.to_vec())).await.unwrap();
        }

        /// Waits until this line shows this count.
        async fn counted(&self, line: &str, count: u32) {
            let wanted = format!("{line} {count}");
            let seen = async {
                while !String::from_utf8(self.metrics.text()).unwrap().lines().any(|line| line == wanted) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            let seen = tokio::time::timeout(Duration::from_secs(10), seen).await;
            assert!(seen.is_ok(), "not {wanted}: {}", String::from_utf8(self.metrics.text()).unwrap());
        }

        async fn lost(&self, reason: &str, count: u32) {
            self.counted(&format!("mizzle_datagrams_dropped_total{{reason=\"{reason}\"}}"), count).await;
        }
    }

    async fn peer() -> (UdpSocket, u16) {
        let socket = UdpSocket::bind("127.0.0.2:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        (socket, port)
    }

    #[tokio::test]
    async fn answers_come_from_whom_was_asked_and_from_nobody_else() {
        let fixture = Fixture::start(true);
        let ((server, port), (stranger, _)) = (peer().await, peer().await);
        fixture.send("name.test", port, b"question").await;
        let mut buffer = [0; 64];
        let (count, exit) = server.recv_from(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..count], exit.ip().to_string().as_str()), (&b"question"[..], "127.0.0.3"));
        stranger.send_to(b"spam", exit).await.unwrap();
        fixture.lost("stranger", 1).await;
        server.send_to(&[1; 1_001], exit).await.unwrap();
        fixture.lost("too_large", 1).await;
        server.send_to(b"answer", exit).await.unwrap();
        let input = tokio::task::spawn_blocking(move || fixture.inputs.recv().unwrap()).await.unwrap();
        match input {
            Input::Datagram((session, flow), source, bytes) => {
                assert_eq!((session, flow, source), (SessionId([7; 16]), 5, server.local_addr().unwrap()));
                assert_eq!(bytes, b"answer");
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_policy_is_asked_about_the_address_and_refusals_are_counted() {
        let fixture = Fixture::start(true);
        let (server, port) = peer().await;
        for (host, port) in [("127.0.0.9", port), ("127.0.0.2", 25), ("::ffff:127.0.0.2", port)] {
            fixture.send(host, port, b"x").await;
        }
        fixture.lost("policy", 3).await;
        fixture.send("::1", port, b"x").await;
        fixture.lost("failed", 1).await;
        fixture.send("nowhere.invalid", port, b"x").await;
        fixture.lost("unresolved", 1).await;
        // All that was before went nowhere.
        fixture.send("127.0.0.2", port, b"last").await;
        let mut buffer = [0; 64];
        let (count, _) = server.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..count], b"last");
        let closed = Fixture::start(false);
        closed.send("name.test", port, b"x").await;
        closed.lost("policy", 1).await;
    }

    #[tokio::test]
    async fn targets_are_bounded_and_so_is_what_waits_for_the_thread() {
        let fixture = Fixture::start(true);
        let (server, port) = peer().await;
        for number in 0..TARGETS as u16 + 2 {
            fixture.send("127.0.0.2", if number == 0 { port } else { 40_000 + number }, b"x").await;
        }
        fixture.lost("exhausted", 2).await;
        let mut buffer = [0; 64];
        let (_, exit) = server.recv_from(&mut buffer).await.unwrap();
        for _ in 0..5 {
            server.send_to(b"answer", exit).await.unwrap();
        }
        fixture.lost("full", 3).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_exchange_in_which_nothing_happens_ends_and_says_so() {
        let fixture = Fixture::start(true);
        let begun = Instant::now();
        while !fixture.client.is_closed() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!((60..=62).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(matches!(fixture.inputs.try_recv(), Ok(Input::Over((_, 5)))));
    }
}
