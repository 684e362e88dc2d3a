//! Where on the globe relays and clients are, and how long a packet takes from one to the other.
//!
//! One way takes the great circle's length times a detour, at the speed of light in fibre, and a moment at either end:
//!
//! - Light in standard fibre (refractive index 1.468) covers 204 km in a millisecond.
//! - *Detour*: cables follow coasts and roads, and routes follow contracts. Bozkurt, Aqeel and others ("Dissecting Latency in
//!   the Internet's Fiber Infrastructure", 2018) give 2.1 as a rule of thumb within a country. Between the regions of one
//!   large cloud (Microsoft's published medians, 276 pairs of 24 cities) 1.6 and 6 ms a round trip fit best: half of the pairs
//!   within 14 %, 87 % within 30 %. A public network has no routes of its own, and may be somewhat slower.
//! - *Relays* are in data centres: 1.5 ms at each end, from that fit.
//! - *Clients* are behind an access line. The FCC's "Measuring Broadband America" found round trips of 24 ms by fibre, 32 by
//!   cable and 49 by DSL to a server nearby, which includes the way there; here it is 10 ms, one way.
//!
//! Times do not vary from packet to packet: no queues but those of [`crate::links`]. Which share of the relays and clients is in
//! which city is our assumption: relays where hosting is cheap and exits are tolerated, clients between where people are
//! online and where such networks are used.

use crate::observe::Place;
use crate::world::uniform;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use std::time::Duration;

/// A place with internet hosts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct City {
    /// Its name.
    pub name: &'static str,
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
    /// Its share of the relays, in about hundredths.
    pub relays: u32,
    /// Its share of the clients, in about hundredths.
    pub clients: u32,
}

/// Who is where. The default has nobody yet: a world places its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Geography {
    /// The city of each relay, by its place in [`CITIES`].
    relays: Vec<u8>,
    /// The city of each client.
    clients: Vec<u8>,
    /// From each city to each, without the ends: a row after the other.
    ways: Vec<Duration>,
}

impl Geography {
    /// So many relays and clients, in cities that are drawn by their shares. The generator is one of its own, so that no other
    /// draw of the run differs from what it is without geography.
    pub fn place(relays: usize, clients: usize, seed: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed ^ OWN);
        Self {
            relays: (0..relays).map(|_| draw(|city| city.relays, &mut rng)).collect(),
            clients: (0..clients).map(|_| draw(|city| city.clients, &mut rng)).collect(),
            ways: ways(),
        }
    }

    /// One way from a place to another.
    pub fn between(&self, from: Place, to: Place) -> Duration {
        let ((from, one), (to, other)) = (self.city(from), self.city(to));
        self.ways.get(from * CITIES.len() + to).copied().unwrap_or_default() + one + other
    }

    /// One way from a relay to another in the mean: of those that are placed, or, where none is, of those that would be.
    pub fn mean(&self) -> Duration {
        let share = |city: &City| f64::from(city.relays);
        let mut counts = CITIES.each_ref().map(share);
        if !self.relays.is_empty() {
            counts = [0.0; CITIES.len()];
            for &city in &self.relays {
                if let Some(count) = counts.get_mut(usize::from(city)) {
                    *count += 1.0;
                }
            }
        }
        // No packet goes from a relay to itself.
        let own = if self.relays.is_empty() { 0.0 } else { 1.0 };
        let (mut sum, mut pairs) = (0.0, 0.0);
        for (from, one) in CITIES.iter().zip(counts) {
            for (to, other) in CITIES.iter().zip(counts) {
                let weight = one * (other - if from == to { own } else { 0.0 });
                sum += weight * one_way(from, to).as_secs_f64();
                pairs += weight;
            }
        }
        Duration::from_secs_f64(sum / f64::max(pairs, 1.0)) + RELAY_END * 2
    }

    /// The city of a place, and how long its own end takes.
    fn city(&self, place: Place) -> (usize, Duration) {
        let (cities, index, end) = match place {
            Place::Relay(index) | Place::Loop(index) => (&self.relays, index, RELAY_END),
            Place::Client(index) => (&self.clients, index, CLIENT_END),
        };
        (cities.get(index as usize).copied().map_or(0, usize::from), end)
    }
}

/// From each city to each.
fn ways() -> Vec<Duration> {
    CITIES.iter().flat_map(|from| CITIES.iter().map(|to| one_way(from, to))).collect()
}

/// From one city to another, without the ends.
fn one_way(from: &City, to: &City) -> Duration {
    Duration::from_nanos((distance(from, to) * DETOUR / FIBRE * 1e6) as u64)
}

/// Length of the great circle between two cities, in kilometres (the haversine formula).
fn distance(from: &City, to: &City) -> f64 {
    let radians = |degrees: f64| degrees * std::f64::consts::PI / 180.0;
    let half_sine = |angle: f64| libm::pow(libm::sin(angle / 2.0), 2.0);
    let [one, other] = [from, to].map(|city| radians(city.latitude));
    let across = half_sine(radians(to.longitude - from.longitude));
    let haversine = half_sine(other - one) + libm::cos(one) * libm::cos(other) * across;
    2.0 * RADIUS * libm::asin(libm::sqrt(haversine.min(1.0)))
}

/// A city by its share.
fn draw(share: fn(&City) -> u32, rng: &mut impl Rng) -> u8 {
    let total: u32 = CITIES.iter().map(share).sum();
    let mut left = uniform(rng) * f64::from(total);
    for (number, city) in (0..).zip(&CITIES) {
        left -= f64::from(share(city));
        if left < 0.0 {
            return number;
        }
    }
    0
}

const fn city(name: &'static str, latitude: f64, longitude: f64, relays: u32, clients: u32) -> City {
    City { name, latitude, longitude, relays, clients }
}

/// The cities.
pub const CITIES: [City; 55] = [
    city("Frankfurt", 50.11, 8.68, 12, 2),
    city("Amsterdam", 52.37, 4.90, 8, 2),
    city("London", 51.51, -0.13, 6, 4),
    city("Paris", 48.86, 2.35, 6, 3),
    city("Helsinki", 60.17, 24.94, 6, 1),
    city("Nuremberg", 49.45, 11.08, 6, 1),
    city("Zurich", 47.38, 8.54, 4, 1),
    city("Stockholm", 59.33, 18.07, 3, 1),
    city("Warsaw", 52.23, 21.01, 2, 2),
    city("Vienna", 48.21, 16.37, 2, 1),
    city("Bucharest", 44.43, 26.10, 2, 1),
    city("Madrid", 40.42, -3.70, 1, 2),
    city("Milan", 45.46, 9.19, 1, 2),
    city("Dublin", 53.35, -6.26, 1, 1),
    city("Kyiv", 50.45, 30.52, 1, 1),
    city("Moscow", 55.76, 37.62, 1, 2),
    city("Istanbul", 41.01, 28.98, 0, 2),
    city("Ashburn", 39.04, -77.49, 7, 1),
    city("New York", 40.71, -74.01, 5, 4),
    city("Montreal", 45.50, -73.57, 3, 1),
    city("Chicago", 41.88, -87.63, 3, 3),
    city("Toronto", 43.65, -79.38, 2, 2),
    city("Dallas", 32.78, -96.80, 2, 2),
    city("Los Angeles", 34.05, -118.24, 2, 4),
    city("San Jose", 37.34, -121.89, 2, 2),
    city("Seattle", 47.61, -122.33, 1, 1),
    city("Miami", 25.76, -80.19, 1, 1),
    city("Atlanta", 33.75, -84.39, 0, 2),
    city("Singapore", 1.35, 103.82, 3, 1),
    city("Tokyo", 35.68, 139.65, 2, 4),
    city("Sydney", -33.87, 151.21, 2, 2),
    city("Hong Kong", 22.32, 114.17, 1, 1),
    city("Mumbai", 19.08, 72.88, 1, 5),
    city("São Paulo", -23.55, -46.63, 1, 4),
    city("Delhi", 28.61, 77.21, 0, 4),
    city("Seoul", 37.57, 126.98, 0, 2),
    city("Taipei", 25.03, 121.57, 0, 1),
    city("Manila", 14.60, 120.98, 0, 2),
    city("Jakarta", -6.21, 106.85, 0, 3),
    city("Bangkok", 13.76, 100.50, 0, 2),
    city("Ho Chi Minh City", 10.82, 106.63, 0, 2),
    city("Dhaka", 23.81, 90.41, 0, 1),
    city("Karachi", 24.86, 67.01, 0, 1),
    city("Tehran", 35.69, 51.39, 0, 1),
    city("Dubai", 25.20, 55.27, 0, 1),
    city("Tel Aviv", 32.09, 34.78, 0, 1),
    city("Cairo", 30.04, 31.24, 0, 2),
    city("Lagos", 6.52, 3.38, 0, 2),
    city("Nairobi", -1.29, 36.82, 0, 1),
    city("Johannesburg", -26.20, 28.05, 0, 1),
    city("Mexico City", 19.43, -99.13, 0, 2),
    city("Bogotá", 4.71, -74.07, 0, 1),
    city("Buenos Aires", -34.60, -58.38, 0, 1),
    city("Santiago", -33.45, -70.67, 0, 1),
    city("Auckland", -36.85, 174.76, 0, 1),
];

/// Of the Earth as a sphere, in kilometres.
const RADIUS: f64 = 6_371.0;
/// Light in fibre, in kilometres a millisecond.
const FIBRE: f64 = 204.0;
/// How much longer routes are than great circles.
const DETOUR: f64 = 1.6;
/// What a relay's end adds to each way.
const RELAY_END: Duration = Duration::from_micros(1_500);
/// What a client's end adds.
const CLIENT_END: Duration = Duration::from_millis(10);
/// Makes the generator's seed another one than the run's.
const OWN: u64 = 0x6369_7469_6573;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use crate::report::Report;
    use crate::run::run;
    use crate::scenario::Scenario;
    use crate::world::{Shape, World};
    use mizzle_protocol::time::Instant;

    /// Round trips between regions of Microsoft's cloud, in milliseconds: medians as published in 2026 ("Azure network round-trip
    /// latency statistics"). Of two directions the one that is named.
    const PUBLISHED: [(&str, &str, f64); 16] = [
        ("Frankfurt", "Ashburn", 94.0),
        ("London", "Ashburn", 79.0),
        ("London", "Singapore", 155.0),
        ("Tokyo", "São Paulo", 270.0),
        ("San Jose", "Tokyo", 108.0),
        ("Sydney", "London", 247.0),
        ("Sydney", "San Jose", 141.0),
        ("Johannesburg", "London", 161.0),
        ("San Jose", "Ashburn", 73.0),
        ("Mumbai", "Frankfurt", 131.0),
        ("São Paulo", "Ashburn", 119.0),
        ("Singapore", "Tokyo", 73.0),
        ("Frankfurt", "London", 17.0),
        ("Paris", "Frankfurt", 12.0),
        ("Amsterdam", "London", 12.0),
        ("Zurich", "Paris", 17.0),
    ];

    fn named(name: &str) -> (u8, City) {
        let found = (0..).zip(CITIES).find(|(_, city)| city.name == name);
        found.unwrap()
    }

    #[test]
    fn round_trips_are_about_those_that_are_published() {
        let mut ratios = Vec::new();
        for (from, to, published) in PUBLISHED {
            let relays = vec![named(from).0, named(to).0];
            let geography = Geography { relays, clients: Vec::new(), ways: ways() };
            let there = geography.between(Place::Relay(0), Place::Relay(1));
            let back = geography.between(Place::Relay(1), Place::Relay(0));
            let ratio = (there + back).as_secs_f64() * 1e3 / published;
            // Single routes are more or less direct than others; the shortest ones are all detour.
            assert!((0.65..1.4).contains(&ratio), "{from} to {to}: {ratio}");
            ratios.push(ratio);
        }
        ratios.sort_by(f64::total_cmp);
        let median = (ratios[7] + ratios[8]) / 2.0;
        // Well-known routes are more direct than most: of all 276 pairs the median is 0.96.
        assert!((0.9..1.15).contains(&median), "{median}");
    }

    #[test]
    fn distances_are_those_of_an_atlas() {
        let between = |from: &str, to: &str| distance(&named(from).1, &named(to).1);
        for (from, to, kilometres) in
            [("London", "New York", 5_570.0), ("Singapore", "Sydney", 6_300.0), ("Paris", "Paris", 0.0)]
        {
            let found = between(from, to);
            assert!((found - kilometres).abs() < 20.0, "{from} to {to}: {found}");
        }
    }

    #[test]
    fn places_are_drawn_by_their_shares_and_alike_for_a_seed() {
        let placed = Geography::place(50_000, 50_000, 7);
        assert_eq!(placed, Geography::place(50_000, 50_000, 7));
        assert_ne!(placed.relays, Geography::place(50_000, 0, 8).relays);
        let total = |share: fn(&City) -> u32| f64::from(CITIES.iter().map(share).sum::<u32>());
        for (index, city) in (0..).zip(CITIES) {
            let share = |cities: &[u8]| cities.iter().filter(|city| **city == index).count() as f64 / 5e4;
            let relays = f64::from(city.relays) / total(|city| city.relays);
            let clients = f64::from(city.clients) / total(|city| city.clients);
            assert!((share(&placed.relays) - relays).abs() < 0.01, "{}", city.name);
            assert!((share(&placed.clients) - clients).abs() < 0.01, "{}", city.name);
        }
        // Of many, the mean is what the shares say.
        let expected = Geography::default().mean().as_secs_f64();
        assert!((placed.mean().as_secs_f64() / expected - 1.0).abs() < 0.03, "{expected}");
    }

    #[test]
    fn a_clients_end_takes_longer_than_a_relays() {
        let here = Geography { relays: vec![0, 0], clients: vec![0], ways: ways() };
        assert_eq!(here.between(Place::Relay(0), Place::Relay(1)), RELAY_END * 2);
        assert_eq!(here.between(Place::Client(0), Place::Relay(1)), CLIENT_END + RELAY_END);
        assert_eq!(here.mean(), RELAY_END * 2);
    }

    fn simulate(words: &[&str]) -> Report {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        run(&Scenario::load(None, &words).unwrap(), |_| ()).unwrap()
    }

    #[test]
    fn who_is_where_takes_no_draw_from_the_run() {
        let shape = |geography: &str| {
            let word = format!("links.geography={geography}");
            Scenario::load(None, &[word]).unwrap().shape().unwrap()
        };
        let next = |shape: Shape| World::new(shape, Instant::ZERO, 5, ()).unwrap().rng().next_u64();
        assert_eq!(next(shape("none")), next(shape("world")));
    }

    #[test]
    fn packets_of_a_run_take_the_ways_between_its_places() {
        let words = ["clients.count=90", "seconds=4", "seeds=2", "network.width=6"];
        let near = simulate(&words);
        let far = simulate(&[&words[..], &["links.geography=world"]].concat());
        assert!(far.balances());
        for (near, far) in near.outcomes.iter().zip(&far.outcomes) {
            let own = Geography::place(24, 90, far.seed);
            let link = own.mean().as_secs_f64() * 1e3;
            let grown = far.latency[50] - near.latency[50];
            // Four ways between relays, and one from a client to its entry, which is further as clients are everywhere.
            assert!(grown > 4.0 * link && grown < 9.0 * link, "{grown} {link}");
        }
        assert_eq!(far.figure("latency p50, ms").unwrap().theory, None);
        assert_eq!(far.figure("entropy of packets, bits").unwrap().theory, None);
        assert!(near.figure("entropy of packets, bits").unwrap().theory.is_some());
    }
}
