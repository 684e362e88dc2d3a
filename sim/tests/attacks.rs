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

/// Twenty clients, each with four sites of its own among two hundred, to which nearly all of its visits go.
const VISITS: [&str; 12] = [
    "clients.count=20",
    "clients.step=0",
    "workload.kind=poisson",
    "workload.speakers=20",
    "workload.per_hour=90",
    "workload.down=50000",
    "workload.sites=200",
    "workload.favourites=4",
    "workload.favourite_share=0.9",
    "adversary.disclosure=true",
    "seconds=300",
    "seeds=1",
];

#[test]
fn sites_of_a_fast_client_are_found_by_its_rises() {
    // Half as many, as each visit of theirs brings thousands of packets.
    let words = ["clients.level=fast", "workload.pinned=false", "clients.count=10", "workload.speakers=10"];
    let report = simulate(&[&VISITS[..], &words].concat());
    assert!(report.balances());
    let [found, unsigned, chance] = ["found, %", "by a guess, %", "by chance, %"]
        .map(|name| figure(&report, &format!("sites by load: {name}")));
    assert!((chance - 2.0).abs() < 1e-9, "{chance}");
    assert!(found > 40.0 && found > 3.0 * unsigned, "{found} {unsigned}");
    // All are there, always: that says no more than what is visited most.
    let there = figure(&report, "sites by presence: found, %");
    assert!((there - unsigned).abs() < 5.0, "{there} {unsigned}");
}

#[test]
fn where_lines_show_nothing_and_all_are_there_sites_stay_unknown() {
    for words in [
        ["clients.level=strong", "workload.pinned=false"],
        ["clients.level=balanced", "workload.pinned=true"],
    ] {
        let report = simulate(&[&VISITS[..], &words].concat());
        assert!(figure(&report, "flows finished") > 50.0);
        assert_eq!(figure(&report, "sites by load: rounds"), 0.0);
        assert!(figure(&report, "sites by presence: rounds") >= 75.0);
        for sign in ["load", "presence"] {
            let [found, unsigned] = ["found, %", "by a guess, %"]
                .map(|name| figure(&report, &format!("sites by {sign}: {name}")));
            assert!((found - unsigned).abs() < 5.0 && found < 15.0, "{sign}: {found} {unsigned}");
        }
        assert!(!figure(&report, "sites by presence: rounds to half, p50").is_finite());
    }
}

#[test]
fn who_comes_and_goes_is_found_by_that_where_lines_show_nothing() {
    let words = [
        "clients.level=strong",
        "workload.there=0.2",
        "workload.stay_minutes=1",
        "workload.per_hour=600",
        "workload.down=4000",
        "adversary.disclosure_round_s=10",
    ];
    let report = simulate(&[&VISITS[..], &words].concat());
    let [found, unsigned] =
        ["found, %", "by a guess, %"].map(|name| figure(&report, &format!("sites by presence: {name}")));
    assert!(found > 20.0 && found > 2.0 * unsigned, "{found} {unsigned}");
    // Who is not there sends nothing: a fifth of fifty packets a second, and a little for what is still under way.
    let sent = figure(&report, "sent by a client, kbit/s") / (50.0 * 4.444 * 8.0);
    assert!((0.1..0.35).contains(&sent), "{sent}");
}
