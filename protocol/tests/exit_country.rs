//! Exits in the country that a client asks for, or none. (spec: COUNTRY-2)

// Tests may.
#![allow(clippy::unwrap_used, clippy::panic)]

use mizzle_protocol::ErrorKind;
use mizzle_protocol::country::Country;
use mizzle_protocol::endpoint::{Endpoint, Event, Isolation, StreamKey};
use mizzle_protocol::id::{ClientAddress, Period, RelayId};
use mizzle_protocol::path::{ExitNode, MixNode, Parameters, Topology};
use mizzle_protocol::session::{ServiceKey, ServiceSecret};
use mizzle_protocol::sphinx::SecretKey;
use mizzle_protocol::stream::ResetReason;
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::target::Target;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::collections::BTreeSet;
use std::sync::Arc;

const NOW: Instant = Instant::ZERO;

struct World {
    endpoint: Endpoint,
    rng: ChaCha20Rng,
    service: Arc<ServiceKey>,
    key: SecretKey,
}

impl World {
    fn new() -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let service = Arc::new(ServiceSecret::generate(&mut rng).public().unwrap());
        let key = SecretKey::generate(&mut rng);
        Self { endpoint: Endpoint::new(&mut rng), rng, service, key }
    }

    /// A network whose exits, numbered from 100, declare these countries; small letters: it has no service key.
    fn exits(&mut self, countries: &[&str]) {
        let node = |id: u8| MixNode { id: RelayId([id; 32]), key: self.key.public() };
        let exits = (100..).zip(countries).map(|(id, text)| ExitNode {
            node: node(id),
            service_key: (*text == text.to_uppercase()).then(|| Arc::clone(&self.service)),
            country: text.parse().ok(),
        });
        let topology = Topology {
            parameters: Parameters::local(),
            period: Period(0),
            layers: [vec![node(1)], vec![node(2)], vec![node(3)]],
            entries: vec![node(4)],
            exits: exits.collect(),
        };
        self.endpoint.set_topology(NOW, Arc::new(topology));
        self.endpoint.set_entry(NOW, RelayId([4; 32]), ClientAddress([9; 32]));
    }

    fn open(&mut self, token: &[u8], country: Option<&str>) -> mizzle_protocol::Result<StreamKey> {
        let exit_country: Option<Country> = country.map(|code| code.parse().unwrap());
        let isolation = Isolation { token, exit_country };
        self.endpoint.open(NOW, isolation, Target::parse("a.test", 80).unwrap(), &mut self.rng)
    }

    fn exit_of(&mut self, token: &[u8], country: Option<&str>) -> u8 {
        let key = self.open(token, country).unwrap();
        self.endpoint.exit_of(key).unwrap().0[0]
    }
}

#[test]
fn who_asks_for_a_country_gets_its_exits_and_no_other() {
    let mut world = World::new();
    world.exits(&["DE", "FR", "", "DE"]);
    let mut seen = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
    for number in 0..40 {
        for (country, seen) in [Some("DE"), Some("FR"), None].into_iter().zip(&mut seen) {
            seen.insert(world.exit_of(&[number], country));
        }
    }
    assert_eq!(
        seen,
        [BTreeSet::from([100, 103]), BTreeSet::from([101]), BTreeSet::from([100, 101, 102, 103])]
    );
}

#[test]
fn a_country_is_part_of_what_isolates() {
    let mut world = World::new();
    world.exits(&["DE"]);
    let sessions = |world: &World| world.endpoint.status().sessions;
    for _ in 0..2 {
        world.open(b"a", None).unwrap();
        world.open(b"a", Some("DE")).unwrap();
    }
    assert_eq!(sessions(&world), 2);
    // Not by chance of the bytes: no token looks like a country.
    world.open(b"DEa", None).unwrap();
    assert_eq!(sessions(&world), 3);
}

#[test]
fn where_no_exit_is_nothing_is_opened_and_the_countries_are_named() {
    let mut world = World::new();
    world.exits(&["FR", "DE", "", "DE", "us"]);
    for wanted in ["CH", "US"] {
        let error = world.open(b"", Some(wanted)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSuchExit);
        assert_eq!(
            error.to_string(),
            format!("no exit says that it is in {wanted}; there are exits in DE, FR")
        );
    }
    let target = Target::parse("a.test", 53).unwrap();
    let isolation = Isolation { token: b"", exit_country: Some("CH".parse().unwrap()) };
    let sent = world.endpoint.send_datagram(NOW, isolation, 1, target, vec![1], &mut world.rng);
    assert_eq!(sent.unwrap_err().kind(), ErrorKind::NoSuchExit);
    world.exits(&[""]);
    let error = world.open(b"", Some("CH")).unwrap_err().to_string();
    assert_eq!(error, "no exit says that it is in CH, nor in any other country");
    assert_eq!(world.endpoint.status().sessions, 0);
    // No network at all is another trouble.
    world.endpoint.forget_topology();
    assert_eq!(world.open(b"", Some("CH")).unwrap_err().kind(), ErrorKind::Unavailable);
}

#[test]
fn an_exit_that_moves_ends_the_sessions_that_wanted_it_where_it_was() {
    let mut world = World::new();
    world.exits(&["DE"]);
    let (asked, any) = (world.open(b"", Some("DE")).unwrap(), world.open(b"", None).unwrap());
    world.exits(&["FR"]);
    let events: Vec<Event> = std::iter::from_fn(|| world.endpoint.poll_event()).collect();
    assert_eq!(events, [Event::Reset(asked, ResetReason::ExitGone)]);
    assert_eq!(world.endpoint.exit_of(any), Some(RelayId([100; 32])));
    assert_eq!(world.open(b"", Some("DE")).unwrap_err().kind(), ErrorKind::NoSuchExit);
}
