//! One connection to the internet: made by the exit policy, then bytes both ways.

use super::connect::{CHUNK, Input};
use super::dns::Names;
use super::policy::Policy;
use super::resolve::Resolver;
use crate::metrics::Traffic;
use crate::mirror::Mirror;
use mizzle_protocol::session::GatewayStream;
use mizzle_protocol::stream::ResetReason;
use mizzle_protocol::wire::target::{Host, Target};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// How this exit makes connections.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    /// What the operator may change while it runs.
    pub(crate) rules: Rules,
    /// Source address.
    pub(crate) outbound: Option<IpAddr>,
    /// Counts the bytes of all that goes and comes.
    pub(crate) traffic: Traffic,
}

/// What clients ask the exit itself for.
#[derive(Clone, Debug)]
pub(super) struct Own {
    /// By [`Host::Resolver`].
    pub(super) names: Names,
    /// By [`Host::Documents`].
    pub(super) mirror: Arc<Mirror>,
}

/// Policy, names, and the resolvers for clients' questions.
type Held = (Arc<Policy>, Resolver, Arc<[SocketAddr]>);

/// These as they are now; all clones see a change.
#[derive(Clone, Debug)]
pub(crate) struct Rules(Arc<RwLock<Held>>);

impl Rules {
    /// What may be connected to, names to addresses, and whom to pass clients' questions to.
    pub(crate) fn new(policy: Policy, resolver: Resolver, servers: Vec<SocketAddr>) -> Self {
        Self(Arc::new(RwLock::new((Arc::new(policy), resolver, servers.into()))))
    }

    /// Others from the next connection, exchange and question on. Those that are open stay.
    pub(crate) fn set(&self, policy: Policy, hosts: &HashMap<String, IpAddr>, servers: Vec<SocketAddr>) {
        let mut rules = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *rules = (Arc::new(policy), rules.1.with_hosts(hosts), servers.into());
    }

    pub(super) fn load(&self) -> Held {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a socket is to do.
#[derive(Debug)]
pub(super) enum ToSocket {
    /// Write this.
    Data(Vec<u8>),
    /// Write nothing more: the client has finished.
    Finish,
}

/// The task of one connection.
#[derive(Debug)]
pub(super) struct Pump {
    pub(super) id: GatewayStream,
    pub(super) target: Target,
    pub(super) from_client: mpsc::Receiver<ToSocket>,
    /// Told something: the thread has seen both ends finish. Dropped: the client cut the connection off.
    pub(super) over: oneshot::Receiver<()>,
    /// One permit for each chunk that may be read.
    pub(super) more: Arc<Semaphore>,
    pub(super) inbox: SyncSender<Input>,
}

/// The connection is to be cut off rather than closed.
struct Cut;

impl Connector {
    /// Resolves the target once, checks the addresses, and connects to one that was checked.
    async fn connect(&self, target: &Target) -> Result<TcpStream, ResetReason> {
        let (policy, resolver, _) = self.rules.load();
        let attempt = async {
            let addresses = resolver.resolve(&target.host).await?;
            let mut failure = ResetReason::NotAllowed;
            let allowed = addresses.iter().filter(|&&address| policy.allows(address, target.port));
            for &address in allowed.take(ATTEMPTS) {
                match self.open(SocketAddr::new(address, target.port)).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => failure = reason(&error),
                }
            }
            Err(failure)
        };
        tokio::time::timeout(CONNECT_TIME, attempt).await.unwrap_or(Err(ResetReason::TimedOut))
    }

    async fn open(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(outbound) = self.outbound {
            if outbound.is_ipv4() != address.is_ipv4() {
                return Err(ErrorKind::NetworkUnreachable.into());
            }
            socket.bind(SocketAddr::new(outbound, 0))?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Pump {
    /// Connects, then carries bytes until both sides are done or one is gone.
    pub(super) async fn run(mut self, connector: Connector, own: Own) {
        match self.target.host {
            Host::Resolver => return self.serve(async |stream| own.names.serve(stream).await).await,
            Host::Documents => {
                return self
                    .serve(async |stream| {
                        own.mirror.serve(stream).await;
                        Ok(())
                    })
                    .await;
            }
            Host::Address(_) | Host::Name(_) => {}
        }
        let connected = tokio::select! {
            connected = connector.connect(&self.target) => connected,
            _ = &mut self.over => return,
        };
        match connected {
            Ok(stream) => {
                tell(&self.inbox, Input::Connected(self.id)).await;
                self.carry(stream, &connector.traffic).await;
            }
            Err(reason) => tell(&self.inbox, Input::Refused(self.id, reason)).await,
        }
    }

    /// What this exit has itself is at the other end.
    async fn serve(self, end: impl AsyncFnOnce(DuplexStream) -> std::io::Result<()>) {
        tell(&self.inbox, Input::Connected(self.id)).await;
        let (near, far) = tokio::io::duplex(CHUNK);
        let (mut reader, mut writer) = tokio::io::split(near);
        let id = self.id;
        let inbox = self.inbox.clone();
        tokio::select! {
            // Either way the other end sees it.
            _ = self.carry_bytes(&mut reader, &mut writer, None) => {}
            Err(_) = end(far) => tell(&inbox, Input::Broken(id)).await,
        }
    }

    async fn carry(self, stream: TcpStream, traffic: &Traffic) {
        let (mut reader, mut writer) = stream.into_split();
        // The target learns that the connection was cut off, not that it ended well.
        if self.carry_bytes(&mut reader, &mut writer, Some(traffic)).await.is_err()
            && let Ok(stream) = reader.reunite(writer)
        {
            let _ = stream.set_zero_linger();
        }
    }

    async fn carry_bytes(
        self,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        traffic: Option<&Traffic>,
    ) -> Result<(), Cut> {
        let Self { id, inbox, more, mut from_client, over, .. } = self;
        let down = async {
            loop {
                // The next chunk is read when the session has taken the last one.
                more.acquire().await.map_err(|_| Cut)?.forget();
                let mut chunk = Vec::with_capacity(CHUNK);
                match reader.read_buf(&mut chunk).await {
                    Ok(0) => {
                        tell(&inbox, Input::End(id)).await;
                        return Ok(());
                    }
                    Ok(count) => {
                        if let Some(traffic) = traffic {
                            traffic.home.inc_by(count as u64);
                        }
                        tell(&inbox, Input::Data(id, chunk)).await;
                    }
                    Err(_) => {
                        tell(&inbox, Input::Broken(id)).await;
                        return Err(Cut);
                    }
                }
            }
        };
        let up = async {
            loop {
                match from_client.recv().await {
                    Some(ToSocket::Data(bytes)) => {
                        if writer.write_all(&bytes).await.is_err() {
                            tell(&inbox, Input::Broken(id)).await;
                            return Err(Cut);
                        }
                        if let Some(traffic) = traffic {
                            traffic.out.inc_by(bytes.len() as u64);
                        }
                        tell(&inbox, Input::Taken(id)).await;
                    }
                    Some(ToSocket::Finish) => return writer.shutdown().await.map_err(|_| Cut),
                    None => return Err(Cut),
                }
            }
        };
        let cut = async {
            match over.await {
                // Both ends have finished; what is on its way to the socket still gets there.
                Ok(()) => std::future::pending().await,
                Err(_) => Cut,
            }
        };
        tokio::select! {
            result = async { tokio::try_join!(down, up) } => result.map(|_| ()),
            cut = cut => Err(cut),
        }
    }
}

/// Tells the thread; waits while it is too busy to listen.
async fn tell(inbox: &SyncSender<Input>, mut input: Input) {
    loop {
        match inbox.try_send(input) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => return,
            Err(TrySendError::Full(back)) => input = back,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What a failed attempt means for the client.
fn reason(error: &std::io::Error) -> ResetReason {
    match error.kind() {
        ErrorKind::ConnectionRefused => ResetReason::Refused,
        ErrorKind::HostUnreachable => ResetReason::HostUnreachable,
        ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable | ErrorKind::NetworkDown => {
            ResetReason::NetworkUnreachable
        }
        ErrorKind::TimedOut => ResetReason::TimedOut,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => ResetReason::Closed,
        _ => ResetReason::General,
    }
}

/// Resolving and connecting may take so long together.
const CONNECT_TIME: Duration = Duration::from_secs(20);
/// Addresses of one name that are tried.
const ATTEMPTS: usize = 3;

#[cfg(test)]
mod tests {
    use super::super::policy::{PolicyConfig, Ports};
    use super::*;
    use std::collections::HashMap;
    use tokio::net::TcpListener;

    fn connector(open: bool) -> Connector {
        let hosts = HashMap::from([("name.test".to_owned(), IpAddr::from([127, 0, 0, 1]))]);
        Connector {
            rules: Rules::new(
                Policy::new(
                    PolicyConfig { ports: Ports::full(), reject: Vec::new() },
                    open,
                    vec![[127, 0, 0, 9].into()],
                ),
                Resolver::new(&hosts),
                Vec::new(),
            ),
            outbound: Some([127, 0, 0, 3].into()),
            traffic: crate::metrics::Metrics::new().unwrap().internet.clone(),
        }
    }

    async fn outcome(open: bool, host: &str, port: u16) -> Result<TcpStream, ResetReason> {
        connector(open).connect(&Target::parse(host, port).unwrap()).await
    }

    #[tokio::test]
    async fn targets_are_reached_from_the_outbound_address_if_the_policy_allows() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = outcome(true, "name.test", port).await.unwrap();
        assert_eq!(stream.local_addr().unwrap().ip().to_string(), "127.0.0.3");
        assert_eq!(outcome(false, "name.test", port).await.err(), Some(ResetReason::NotAllowed));
        assert_eq!(outcome(false, "127.0.0.1", port).await.err(), Some(ResetReason::NotAllowed));
        assert_eq!(outcome(true, "127.0.0.9", port).await.err(), Some(ResetReason::NotAllowed));
        assert_eq!(outcome(true, "127.0.0.1", 25).await.err(), Some(ResetReason::NotAllowed));
        assert_eq!(outcome(true, "::1", port).await.err(), Some(ResetReason::NetworkUnreachable));
        drop(listener);
        assert_eq!(outcome(true, "127.0.0.1", port).await.err(), Some(ResetReason::Refused));
    }
}
