//! Names to addresses, once for each connection: the operator's own table first, then the system's resolver
//! through a bounded pool. (spec: EXIT-1)

use mizzle_protocol::stream::ResetReason;
use mizzle_protocol::wire::target::Host;
use std::collections::HashMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// The resolver of one exit.
#[derive(Clone, Debug)]
pub(crate) struct Resolver {
    hosts: Arc<HashMap<String, IpAddr>>,
    running: Arc<Semaphore>,
}

impl Resolver {
    /// A resolver that knows `hosts` by itself.
    pub(crate) fn new(hosts: &HashMap<String, IpAddr>) -> Self {
        Self { hosts: Arc::default(), running: Arc::new(Semaphore::new(LOOKUPS)) }.with_hosts(hosts)
    }

    /// The same resolver, knowing `hosts` instead.
    pub(crate) fn with_hosts(&self, hosts: &HashMap<String, IpAddr>) -> Self {
        let plain = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let hosts = hosts.iter().map(|(name, address)| (plain(name), *address)).collect();
        Self { hosts: Arc::new(hosts), running: self.running.clone() }
    }

    /// The address of one of the operator's own names.
    pub(super) fn own(&self, name: &str) -> Option<IpAddr> {
        self.hosts.get(name).copied()
    }

    /// The operator's own name of an address: the first, if there are several.
    pub(super) fn own_name(&self, address: IpAddr) -> Option<&str> {
        let names = self.hosts.iter().filter(|(_, known)| **known == address);
        names.map(|(name, _)| name.as_str()).min()
    }

    /// The addresses of `host`: at least one.
    pub(crate) async fn resolve(&self, host: &Host) -> Result<Vec<IpAddr>, ResetReason> {
        let name = match host {
            Host::Address(address) => return Ok(vec![*address]),
            Host::Name(name) => name,
            // They have ways of their own: see [`super::dns`] and [`crate::mirror`].
            Host::Resolver | Host::Documents => return Err(ResetReason::HostNotFound),
        };
        if let Some(address) = self.own(name) {
            return Ok(vec![address]);
        }
        let look_up = async {
            let permit = self.running.clone().acquire_owned().await.map_err(|_| ResetReason::General)?;
            // The trailing dot keeps the machine's search domains out of it.
            let name = format!("{name}.");
            let addresses = tokio::task::spawn_blocking(move || {
                // A look-up cannot be called off: it keeps its place in the pool until the resolver gives up.
                let _permit = permit;
                (name.as_str(), 0)
                    .to_socket_addrs()
                    .map(|addresses| addresses.map(|address| address.ip()).collect::<Vec<_>>())
            });
            addresses.await.map_err(|_| ResetReason::General)?.map_err(|_| ResetReason::HostNotFound)
        };
        let addresses =
            tokio::time::timeout(LOOKUP_TIME, look_up).await.map_err(|_| ResetReason::TimedOut)??;
        match addresses.as_slice() {
            [] => Err(ResetReason::HostNotFound),
            _ => Ok(addresses),
        }
    }
}

/// Look-ups at a time; the others wait, within [`LOOKUP_TIME`].
const LOOKUPS: usize = 32;
const LOOKUP_TIME: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn own_names_and_literals_need_no_resolver() {
        let address: IpAddr = "127.0.0.9".parse().unwrap();
        let resolver = Resolver::new(&HashMap::from([("Name.Test.".to_owned(), address)]));
        assert_eq!(resolver.resolve(&Host::Name("name.test".to_owned())).await, Ok(vec![address]));
        assert_eq!(resolver.resolve(&Host::Address(address)).await, Ok(vec![address]));
        let unknown = Host::Name("unknown.invalid".to_owned());
        assert!(matches!(
            resolver.resolve(&unknown).await,
            Err(ResetReason::HostNotFound | ResetReason::TimedOut)
        ));
    }
}
