//! What comes out of the simulator is what theory says, and the same each time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use mizzle_protocol::path::Parameters;
use mizzle_sim::cover::{Scenario, run};
use mizzle_sim::world::Shape;
use std::time::Duration;

/// Without a limit on delays, which the closed forms do not know.
fn scenario(clients: usize, seconds: u64, seed: u64, sphinx: bool) -> Scenario {
    let parameters = Parameters { max_delay: Duration::from_secs(3_600), ..Parameters::default() };
    Scenario {
        shape: Shape { parameters, clients, ..Shape::default() },
        time: Duration::from_secs(seconds),
        seed,
        sphinx,
    }
}

#[test]
fn latency_follows_erlang_and_mixes_hold_a_poisson_number_of_packets() {
    let report = run(&scenario(120, 120, 7, false)).unwrap();
    assert!(report.balances());
    assert!(report.dropped.is_empty());
    for (name, bound) in
        [("latency, 50", 0.01), ("latency, 95", 0.01), ("latency, 99", 0.01), ("packets held", 0.005)]
    {
        let comparison = report.comparison(name).unwrap();
        assert!(comparison.error().abs() < bound, "{comparison:?}");
    }
    assert!(report.occupancy_distance < 0.01, "{}", report.occupancy_distance);
    let entropy = report.comparison("entropy").unwrap();
    assert!((entropy.measured - entropy.theory).abs() < 0.05, "{entropy:?}");
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let first = run(&scenario(20, 5, 1, false)).unwrap();
    assert_eq!(first, run(&scenario(20, 5, 1, false)).unwrap());
    assert_ne!(first.sent, run(&scenario(20, 5, 2, false)).unwrap().sent);
}

#[test]
fn real_packets_go_the_same_ways_and_every_one_is_accounted_for() {
    let mut scenario = scenario(4, 2, 3, true);
    scenario.shape.loss = 0.05;
    scenario.shape.link_delay = Duration::from_millis(2);
    let report = run(&scenario).unwrap();
    assert!(report.balances(), "{report:?}");
    assert!(report.delivered > 300);
    // Four links between relays at five per cent: 18.5 % of the packets are lost, and for no other reason.
    assert_eq!(report.dropped.keys().copied().collect::<Vec<_>>(), ["link_down"]);
    let lost = report.dropped["link_down"] as f64 / report.sent as f64;
    assert!((0.12..0.26).contains(&lost), "{lost}");
}

#[test]
fn a_limit_on_delays_is_kept_by_senders_and_mixes_alike() {
    let mut scenario = scenario(20, 10, 5, false);
    scenario.shape.parameters.max_delay = Duration::from_millis(100);
    let report = run(&scenario).unwrap();
    assert!(report.dropped.is_empty());
    assert!(report.comparison("latency, 99").unwrap().measured < 3.0 * 5.0);
}
