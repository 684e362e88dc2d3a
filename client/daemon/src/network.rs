//! What the daemon's ports ask of the mixnet; a trait, so that their tests need none.

use mizzle_client::{Client, Country, Result, Stream, Target};
use std::net::IpAddr;
use tokio::io::{AsyncRead, AsyncWrite};

/// A way to the internet.
pub(crate) trait Network: Clone + Send + Sync + 'static {
    /// A stream that an exit has connected.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send;
    /// Datagrams of one isolation.
    type Datagrams: Datagrams;

    /// This way, by exits in that country alone; `None`: as it is.
    fn by_exits_in(&self, country: Option<Country>) -> Self;

    /// Opens one, and sends `first` along; see [`Client::connect_with`].
    fn connect(
        &self,
        target: Target,
        isolation: &[u8],
        first: &[u8],
    ) -> impl Future<Output = Result<Self::Stream>> + Send;

    /// Datagrams to any target; see [`Client::datagrams`].
    fn datagrams(&self, isolation: &[u8]) -> impl Future<Output = Result<Self::Datagrams>> + Send;

    /// The addresses of a name.
    fn look_up(&self, name: &str, isolation: &[u8]) -> impl Future<Output = Result<Vec<IpAddr>>> + Send;

    /// The name of an address.
    fn look_up_address(
        &self,
        address: IpAddr,
        isolation: &[u8],
    ) -> impl Future<Output = Result<String>> + Send;
}

/// Datagrams that go and come; see [`mizzle_client::Datagrams`].
pub(crate) trait Datagrams: Send + Sync + 'static {
    /// Sends one.
    fn send(&self, target: Target, bytes: Vec<u8>) -> impl Future<Output = Result<()>> + Send;

    /// The next one that came home, and its source; `None` once there is no network any more.
    fn receive(&self) -> impl Future<Output = Option<(Target, Vec<u8>)>> + Send;
}

impl Datagrams for mizzle_client::Datagrams {
    async fn send(&self, target: Target, bytes: Vec<u8>) -> Result<()> {
        Self::send(self, target, bytes).await
    }

    async fn receive(&self) -> Option<(Target, Vec<u8>)> {
        Self::receive(self).await
    }
}

impl Network for Client {
    type Stream = Stream;
    type Datagrams = mizzle_client::Datagrams;

    fn by_exits_in(&self, country: Option<Country>) -> Self {
        country.map_or_else(|| self.clone(), |country| self.with_exit_country(country))
    }

    async fn connect(&self, target: Target, isolation: &[u8], first: &[u8]) -> Result<Stream> {
        self.connect_with(target, isolation, first).await
    }

    async fn datagrams(&self, isolation: &[u8]) -> Result<mizzle_client::Datagrams> {
        Self::datagrams(self, isolation).await
    }

    async fn look_up(&self, name: &str, isolation: &[u8]) -> Result<Vec<IpAddr>> {
        Self::look_up(self, name, isolation).await
    }

    async fn look_up_address(&self, address: IpAddr, isolation: &[u8]) -> Result<String> {
        Self::look_up_address(self, address, isolation).await
    }
}
