//! How a connection leaves this computer: from which address, and through which upstream proxy, if any.
//! (spec: LINK-14)

use crate::upstream::{Fault, Upstream};
use crate::{Error, Result};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use tokio::net::{TcpSocket, TcpStream};

/// The way that every connection of a client takes. Where it names a proxy, there is no way beside that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Source address of connections, those to the proxy included; `None`: the system's choice.
    pub source: Option<IpAddr>,
    /// The proxy through which all of them go.
    pub upstream: Option<Upstream>,
}

impl From<Option<IpAddr>> for Way {
    /// Straight on, from this source address.
    fn from(source: Option<IpAddr>) -> Self {
        Self { source, upstream: None }
    }
}

impl Way {
    /// Why nothing can leave by the source address: this computer lacks it. `None`: it has it, or cannot tell.
    pub fn source_fault(&self) -> Option<io::Error> {
        let error = UdpSocket::bind((self.source?, 0)).err()?;
        matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::InvalidInput).then_some(error)
    }

    /// A connection to `address`. Fails with [`Error::Upstream`] where the proxy is at fault; it is bounded in
    /// time only where it waits for the proxy.
    pub async fn open(&self, address: SocketAddr) -> Result<TcpStream> {
        let stream = match &self.upstream {
            None => connect(self.source, address).await?,
            Some(upstream) => {
                let opened = async {
                    let mut stream = self.reach(upstream).await?;
                    upstream.ask(&mut stream, address).await?;
                    Ok::<_, Error>(stream)
                };
                match tokio::time::timeout(Upstream::PATIENCE, opened).await {
                    Ok(opened) => opened?,
                    Err(_) => return Err(Error::Upstream(Fault::Silent)),
                }
            }
        };
        stream.set_nodelay(true).map_err(|source| Error::io("connect to the peer", source))?;
        Ok(stream)
    }

    /// A connection to the proxy itself, at whichever of its addresses takes one.
    async fn reach(&self, upstream: &Upstream) -> Result<TcpStream> {
        let addresses: Vec<_> = tokio::net::lookup_host((upstream.host(), upstream.port()))
            .await
            .map_err(|_| Error::Upstream(Fault::Unknown))?
            .filter(|address| self.source.is_none_or(|source| source.is_ipv4() == address.is_ipv4()))
            .collect();
        let mut last = Error::Upstream(Fault::Unknown);
        for address in addresses {
            match connect(self.source, address).await {
                Ok(stream) => return Ok(stream),
                Err(Error::Io { source, .. }) => last = Error::Upstream(Fault::Unreachable(source.kind())),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

async fn connect(from: Option<IpAddr>, to: SocketAddr) -> Result<TcpStream> {
    let failed = |source| Error::io("connect to the peer", source);
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(failed)?;
    if let Some(from) = from {
        let source = |error| Error::io("bind the outbound address (key `outbound`)", error);
        socket.bind(SocketAddr::new(from, 0)).map_err(source)?;
    }
    socket.connect(to).await.map_err(failed)
}
