//! Those who have links in their hands: each gets as far as it must, and no further than chance where the product holds
//! against it.

#![allow(clippy::unwrap_used, clippy::panic)]

use mizzle_sim::report::Report;
use mizzle_sim::run::run;
use mizzle_sim::scenario::Scenario;

fn simulate(words: &[&str]) -> Report {
    let base = ["clients.count=60", "clients.step=1", "seeds=3", "seconds=20"];
    let words: Vec<_> = base.iter().chain(words).map(|word| (*word).to_owned()).collect();
    let report = run(&Scenario::load(None, &words).unwrap(), |_| ()).unwrap();
    assert!(report.balances());
    report
}

fn mean(report: &Report, name: &str) -> f64 {
    report.figure(name).unwrap_or_else(|| panic!("no figure {name}")).mean
}

#[test]
fn a_packet_that_is_alone_is_followed_and_loops_that_die_tell() {
    let quiet = simulate(&[]);
    assert_eq!(mean(&quiet, "loops of relays lost, %"), 0.0);
    assert_eq!(mean(&quiet, "relays with an alarm at the end, %"), 0.0);
    let attacked = simulate(&["adversary.isolate=true", "seconds=40"]);
    assert!(mean(&attacked, "n-1: packets followed") > 20.0, "{}", attacked.table());
    assert!(mean(&attacked, "n-1: to the end, %") > 95.0, "{}", attacked.table());
    assert!(mean(&attacked, "n-1: by chance, %") < 2.0, "{}", attacked.table());
    // One mix of nine at a time, so that a loop meets it by chance: it takes some seconds more than a whole blockade.
    let after = mean(&attacked, "n-1: first alarm after, s");
    assert!(after > 2.0 && after < 40.0, "{}", attacked.table());
    assert!(mean(&attacked, "relays with an alarm at the end, %") > 50.0, "{}", attacked.table());
}

#[test]
fn copies_tell_where_a_packet_went_unless_mixes_remember_what_they_have_seen() {
    let copies = "adversary.replay_copies=8";
    let forgetful = simulate(&[copies, "replay_filter=false"]);
    assert!(mean(&forgetful, "replay: gateway named, %") > 95.0, "{}", forgetful.table());
    let sound = simulate(&[copies, "replay_filter=true"]);
    let named = mean(&sound, "replay: gateway named, %");
    assert!(named < 35.0, "{}", sound.table());
    assert_eq!(mean(&sound, "replay: by chance, %"), 100.0 / 6.0);
    assert!(sound.outcomes.iter().all(|outcome| outcome.dropped["replayed"] > 100));
}

#[test]
fn who_floods_takes_his_own_packets_from_what_hides_the_others() {
    // Many enough in a mix for the law: half of them is a bit less.
    let many = "clients.step=2";
    let (alone, flooded) = (simulate(&[many]), simulate(&[many, "adversary.flood=0.5"]));
    let name = "entropy of packets, bits";
    let lost = mean(&alone, name) - mean(&flooded, name);
    assert!((lost - 1.0).abs() < 0.1, "{lost}");
    let held = "packets held by a mix";
    assert!((mean(&alone, held) - mean(&flooded, held)).abs() < 1e-9, "the mixes do not know");
}

#[test]
fn a_bad_exit_knows_tagged_packets_again_and_nobody_else_does() {
    let tagged = simulate(&["adversary.tag=0.1", "adversary.corrupt_exits=0.34"]);
    let figure = tagged.figure("tagging: known again at bad exits, %").unwrap();
    assert!((figure.mean - figure.theory.unwrap()).abs() < 3.0, "{}", tagged.table());
    let honest = simulate(&["adversary.tag=0.1"]);
    assert_eq!(mean(&honest, "tagging: known again at bad exits, %"), 0.0);
    for outcome in &tagged.outcomes {
        // Every tenth of what sixty clients send, and nothing of what relays do.
        let bad = outcome.dropped["bad_payload"] as f64;
        assert!((bad / outcome.sent as f64 - 0.1).abs() < 0.02, "{bad} of {}", outcome.sent);
    }
}

#[test]
fn a_line_that_is_cut_in_a_rhythm_shows_at_the_exit() {
    let talk = [
        "clients.count=12",
        "workload.kind=poisson",
        "workload.speakers=12",
        "workload.per_hour=3600",
        "workload.up=20000",
        "workload.down=2000",
        "seconds=120",
        "seeds=2",
    ];
    let with = |what| simulate(&[&talk[..], &[what]].concat());
    for what in ["adversary.disturb=\"take\"", "adversary.disturb=\"hold\""] {
        let report = with(what);
        let (picked, chance) =
            (mean(&report, "disturbing: session picked, %"), mean(&report, "disturbing: by chance, %"));
        assert!(picked > 4.0 * chance && picked > 50.0, "{what}\n{}", report.table());
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_its_key() {
    for (word, named) in [
        ("adversary.flood=1.5", "adversary.flood"),
        ("adversary.flood=1.0", "somebody else"),
        ("adversary.replay_copies=5000", "adversary.replay_copies"),
        ("adversary.disturb=\"take\"", "workload.speakers"),
        ("network.relay_loops=-1.0", "network.relay_loops"),
    ] {
        let error = Scenario::load(None, &[word.to_owned()]).unwrap_err().to_string();
        assert!(error.contains(named), "{word}: {error}");
    }
    let words = ["packets=\"sphinx\"", "adversary.tag=0.1"].map(str::to_owned);
    assert!(Scenario::load(None, &words).unwrap_err().to_string().contains("packets = \"clear\""));
}
