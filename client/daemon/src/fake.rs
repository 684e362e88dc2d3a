//! Exits of a test's own making.

use crate::network::{Datagrams, Network};
use mizzle_client::{Country, Error, ErrorKind, Host, Result, Target};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Mutex as AsyncMutex, mpsc};

/// Gives each datagram back, and resolves names by a function.
#[derive(Clone)]
pub(crate) struct Exits {
    /// What a resolver answers to a message, by a stream or not; `None`: nothing.
    pub(crate) resolver: fn(message: &[u8], by_stream: bool) -> Option<Vec<u8>>,
    /// The country that is asked for.
    pub(crate) country: Option<Country>,
    /// The isolation of each use.
    pub(crate) isolations: Arc<Mutex<Vec<Vec<u8>>>>,
    /// The country of each use.
    pub(crate) countries: Arc<Mutex<Vec<Option<Country>>>>,
    /// What was sent, to a resolver, too.
    pub(crate) sent: Arc<Mutex<Vec<Sent>>>,
}

impl Exits {
    pub(crate) fn new(resolver: fn(&[u8], bool) -> Option<Vec<u8>>) -> Self {
        Self {
            resolver,
            country: None,
            isolations: Arc::default(),
            countries: Arc::default(),
            sent: Arc::default(),
        }
    }

    fn note(&self, isolation: &[u8]) {
        self.isolations.lock().unwrap().push(isolation.to_vec());
        self.countries.lock().unwrap().push(self.country);
    }

    pub(crate) fn sent(&self) -> Vec<Sent> {
        self.sent.lock().unwrap().clone()
    }
}

/// Datagrams that come back at once.
pub(crate) struct Echo {
    exits: Exits,
    home: mpsc::Sender<(Target, Vec<u8>)>,
    incoming: AsyncMutex<mpsc::Receiver<(Target, Vec<u8>)>>,
}

impl Echo {
    pub(crate) fn new(exits: Exits) -> Self {
        let (home, incoming) = mpsc::channel(64);
        Self { exits, home, incoming: AsyncMutex::new(incoming) }
    }
}

impl Datagrams for Echo {
    async fn send(&self, target: Target, bytes: Vec<u8>) -> Result<()> {
        if bytes.len() > 1_365 {
            return Err(Error::new(ErrorKind::TooLarge, "too large"));
        }
        if target.port == NOWHERE {
            return Err(Error::new(ErrorKind::NoNetwork, "no network"));
        }
        self.exits.sent.lock().unwrap().push((target.clone(), bytes.clone()));
        let answer = match &target.host {
            Host::Resolver => (self.exits.resolver)(&bytes, false).map(|reply| (target, reply)),
            Host::Documents => None,
            Host::Name(_) => Some((Target::parse("192.0.2.7", target.port).unwrap(), bytes)),
            Host::Address(_) => Some((target, bytes)),
        };
        if let Some(answer) = answer {
            self.home.try_send(answer).unwrap();
        }
        Ok(())
    }

    async fn receive(&self) -> Option<(Target, Vec<u8>)> {
        self.incoming.lock().await.recv().await
    }
}

impl Network for Exits {
    type Stream = DuplexStream;
    type Datagrams = Echo;

    fn by_exits_in(&self, country: Option<Country>) -> Self {
        Self { country, ..self.clone() }
    }

    async fn connect(&self, target: Target, isolation: &[u8], first: &[u8]) -> Result<DuplexStream> {
        assert!(target == Target::resolver());
        self.note(isolation);
        let (near, mut far) = tokio::io::duplex(70_000);
        let length = usize::from(u16::from_be_bytes([first[0], first[1]]));
        assert_eq!(length, first.len() - 2);
        if let Some(reply) = (self.resolver)(&first[2..], true) {
            far.write_u16(reply.len() as u16).await.unwrap();
            far.write_all(&reply).await.unwrap();
        }
        tokio::spawn(async move { far.read_to_end(&mut Vec::new()).await });
        Ok(near)
    }

    async fn datagrams(&self, isolation: &[u8]) -> Result<Echo> {
        self.note(isolation);
        Ok(Echo::new(self.clone()))
    }

    async fn look_up(&self, _: &str, _: &[u8]) -> Result<Vec<IpAddr>> {
        Err(Error::new(ErrorKind::HostNotFound, "none"))
    }

    async fn look_up_address(&self, _: IpAddr, _: &[u8]) -> Result<String> {
        Err(Error::new(ErrorKind::HostNotFound, "none"))
    }
}

/// A datagram and its target.
pub(crate) type Sent = (Target, Vec<u8>);

/// A port to which nothing can be sent.
pub(crate) const NOWHERE: u16 = 9;
