//! Attacks that go on for long succeed where lines show the load, and stay at chance where they do not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use mizzle_sim::report::Report;
use mizzle_sim::run::run;
use mizzle_sim::scenario::Scenario;

fn simulate(words: &[&str]) -> Report {
    let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
    run(&Scenario::load(None, &words).unwrap(), |_| ()).unwrap()
}

fn figure(report: &Report, name: &str) -> f64 {
    report.figure(name).unwrap().mean
}

/// Twenty clients that read a page now and then, the first of them one of a site that toggles its load.
const TOGGLED: [&str; 11] = [
    "clients.count=20",
    "clients.step=0",
    "workload.kind=web",
    "workload.speakers=20",
    "workload.per_hour=20",
    "workload.parts=2",
    "adversary.toggle_rounds=6",
    "adversary.toggle_on_s=2",
    "adversary.toggle_off_s=18",
    "seconds=110",
    "seeds=2",
];

#[test]
fn a_site_that_toggles_the_load_of_a_fast_client_finds_its_line() {
    let report = simulate(&[&TOGGLED[..], &["clients.level=fast", "workload.pinned=false"]].concat());
    assert!(report.balances());
    assert_eq!(figure(&report, "toggle: rounds"), 6.0);
    assert!(figure(&report, "toggle: rounds with a rise, %") > 60.0);
    assert_eq!(figure(&report, "toggle: visitor identified, %"), 100.0);
    assert!(figure(&report, "toggle: rounds to identify, p50") <= 5.0);
    assert_eq!(figure(&report, "flows spoilt"), 0.0);
}

#[test]
fn at_a_constant_rate_a_toggled_load_shows_on_no_line() {
    for words in [
        ["clients.level=strong", "workload.pinned=false"],
        ["clients.level=balanced", "workload.pinned=true"],
    ] {
        let report = simulate(&[&TOGGLED[..], &words].concat());
        assert!(report.balances());
        // The site has sent, and the visitor has got it.
        assert!(figure(&report, "toggle: rounds") >= 6.0);
        assert_eq!(figure(&report, "toggle: rounds with a rise, %"), 0.0);
        assert_eq!(figure(&report, "toggle: visitor identified, %"), 0.0);
        let (guessed, chance) = (
            figure(&report, "toggle: visitor guessed right, %"),
            figure(&report, "toggle: that by chance, %"),
        );
        assert!((guessed - chance).abs() < 1e-9 && (chance - 5.0).abs() < 1e-9, "{guessed} {chance}");
        assert!(!figure(&report, "toggle: rounds to identify, p50").is_finite());
    }
}
