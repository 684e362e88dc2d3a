//! The relays of a trial, and what authorities see of them.

use ed25519_dalek::{Signer as _, SigningKey};
use mizzle_council::{Dialled, Digest, Opinion, Rules, Seen};
use mizzle_protocol::consensus::{Descriptor, PeriodKeys, ProtocolNumber, RelayKind};
use mizzle_protocol::id::{Period, RelayId};
use mizzle_protocol::sphinx::SecretKey;
use mizzle_protocol::time::UnixTime;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

/// A few relays that run.
pub(super) struct Relays {
    all: Vec<(Arc<Descriptor>, Arc<[u8]>)>,
    ids: BTreeSet<RelayId>,
}

impl Relays {
    /// Those of a network that was founded at `start`.
    pub(super) fn new(start: UnixTime) -> Self {
        let mut all: Vec<_> = (1..=RELAYS).map(|number| describe(number, start)).collect();
        all.sort_by_key(|(descriptor, _)| descriptor.relay);
        let ids = all.iter().map(|(descriptor, _)| descriptor.relay).collect();
        Self { all, ids }
    }

    pub(super) fn exists(&self, relay: RelayId) -> bool {
        self.ids.contains(&relay)
    }

    /// What the authority with this number has seen: one relay answers only some of them.
    pub(super) fn opinion(&self, authority: usize, rules: Rules) -> Opinion {
        let relays = self.all.iter().enumerate().map(|(index, (descriptor, bytes))| {
            let reached = index != 0 || authority.is_multiple_of(2);
            let dialled = Dialled {
                reachable: if reached { descriptor.addresses.clone() } else { Vec::new() },
                failure: (!reached).then(|| "no answer".into()),
                rate: Some(1_000 + 10 * authority as u32),
            };
            Seen {
                relay: descriptor.relay,
                descriptor: Digest::of(bytes),
                approved: true,
                revoked: false,
                dialled: Some(dialled),
            }
        });
        Opinion { rules, relays: relays.collect(), descriptors: self.all.clone() }
    }

    /// A descriptor of a relay that has not signed it, as bytes, and the relay.
    pub(super) fn forged(&self) -> (RelayId, Vec<u8>) {
        let (descriptor, _) = &self.all[0];
        let relay = RelayId(SigningKey::from_bytes(&[0xee; 32]).verifying_key().to_bytes());
        let forged = Descriptor { relay, ..descriptor.as_ref().clone() };
        let thief = SigningKey::from_bytes(&[0xdd; 32]);
        (relay, forged.to_signed_bytes(|body| thief.sign(body).to_bytes()))
    }
}

fn describe(number: u8, start: UnixTime) -> (Arc<Descriptor>, Arc<[u8]>) {
    let key = SigningKey::from_bytes(&[number; 32]);
    let mut rng = ChaCha20Rng::seed_from_u64(u64::from(number));
    let keys = (0..3).map(|period| PeriodKeys {
        period: Period(period),
        mix: SecretKey::generate(&mut rng).public(),
        service: None,
    });
    let descriptor = Descriptor {
        network: super::NETWORK.into(),
        relay: RelayId(key.verifying_key().to_bytes()),
        kind: if number < RELAYS { RelayKind::Mix } else { RelayKind::Entry },
        addresses: vec![SocketAddr::from(([127, number, 0, 1], 7_000))],
        keys: keys.collect(),
        family: None,
        protocols: ProtocolNumber::SUPPORTED.to_vec(),
        software: "trial".into(),
        published: start,
        announced_rate: 5_000,
        country: None,
        carried_rate: None,
    };
    let bytes = descriptor.to_signed_bytes(|body| key.sign(body).to_bytes());
    (Arc::new(descriptor), bytes.into())
}

const RELAYS: u8 = 5;
