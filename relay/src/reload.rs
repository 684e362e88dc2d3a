//! SIGHUP: takes over what can change while the relay runs, and says what cannot.
//!
//! At run time: rate, burst, quota, its day, log, hosts, resolvers, ports and networks of the exit policy, and the
//! family's certificate. A configuration that does not hold changes nothing. (spec: RELAY-13, RELAY-14)

use crate::bandwidth::Bandwidth;
use crate::config::{Config, Flags};
use crate::family::Family;
use crate::logging::Level;
use crate::membership::capacity;
use crate::presence::Presence;
use crate::services::dns::nameservers;
use crate::services::policy::Policy;
use crate::services::pump::Rules;
use mizzle_link::Clock;
use mizzle_link::quota::Quota;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// What a reload reaches.
#[derive(Debug)]
pub(crate) struct Reload {
    pub(crate) path: PathBuf,
    pub(crate) flags: Flags,
    /// The configuration as it is in force.
    pub(crate) config: Config,
    /// Packets per second that a thread carries.
    pub(crate) a_thread: u32,
    pub(crate) clock: Clock,
    pub(crate) level: Level,
    pub(crate) bandwidth: Arc<Bandwidth>,
    pub(crate) quota: Arc<Quota>,
    pub(crate) presence: Presence,
    pub(crate) family: Family,
    /// Exits only: the rules, and whether the network is open.
    pub(crate) rules: Option<(Rules, bool)>,
}

impl Reload {
    /// Reads the configuration again, and takes over what it can.
    pub(crate) fn reload(&mut self) {
        let Ok(new) = Config::load(&self.path, &self.flags) else {
            // What is wrong may be an address, and the sentence about it quotes it: that is no matter for a log.
            let path = self.path.display();
            tracing::warn!(
                "the configuration is not taken over, nothing has changed: mizzle-relay check --config {path} says why"
            );
            return;
        };
        let renewed = match self.family.reload(&new) {
            Ok(renewed) => renewed,
            Err(error) => {
                tracing::warn!("the configuration is not taken over, nothing has changed: {error}");
                return;
            }
        };
        let (mut now, later) = self.config.differences(&new);
        now.extend(renewed.then_some("family"));
        if let Err(error) = self.level.set(&new.log) {
            tracing::warn!("{error}");
        }
        self.bandwidth.set(new.allowed(), self.clock.now());
        self.quota.set(new.quota, new.quota_reset, self.clock.now().unix());
        if let Some((rules, open)) = &self.rules {
            // Its addresses are those that it was started with.
            let policy = Policy::new(new.exit.policy(), *open, own_addresses(&self.config));
            rules.set(policy, &new.hosts, nameservers(&new.resolver));
        }
        match now.as_slice() {
            [] => tracing::info!("the configuration was read again: nothing has changed that could now"),
            now => tracing::info!("taken over: {}", now.join(", ")),
        }
        if !later.is_empty() {
            tracing::warn!("changed, but in force only after a restart: {}", later.join(", "));
        }
        // What needs a restart is compared with what is in force the next time, too.
        let held = &mut self.config;
        (held.rate, held.burst, held.quota, held.quota_reset) =
            (new.rate, new.burst, new.quota, new.quota_reset);
        (held.family, held.resolver) = (new.family, new.resolver);
        (held.log, held.hosts, held.exit.ports, held.exit.reject) =
            (new.log, new.hosts, new.exit.ports, new.exit.reject);
        self.presence.set_capacity(capacity(held, self.a_thread));
    }
}

/// The addresses that an exit never connects to, since they are its own.
pub(crate) fn own_addresses(config: &Config) -> Vec<IpAddr> {
    let own = config.announced().into_iter().chain([config.listen, config.metrics]);
    own.chain(config.exit.notice).map(|address| address.ip()).chain(config.outbound).collect()
}
