//! What comes out of the simulator is what theory says, and the same each time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use mizzle_sim::report::{Report, Summary};
use mizzle_sim::run::run;
use mizzle_sim::scenario::Scenario;

fn scenario(words: &[&str]) -> Scenario {
    let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
    Scenario::load(None, &words).unwrap()
}

fn simulate(words: &[&str]) -> Report {
    let scenario = scenario(words);
    run(&scenario, |_| ()).unwrap()
}

fn figure(report: &Report, name: &str) -> Summary {
    report.figure(name).unwrap()
}

/// Without a limit on delays, which the closed forms do not know.
const NO_LIMIT: &str = "network.max_delay_ms=10000";

#[test]
fn the_closed_forms_hold() {
    let report = simulate(&[NO_LIMIT, "clients.count=120", "seconds=60", "seeds=4", "seed=7"]);
    assert!(report.balances());
    assert!(report.outcomes.iter().all(|outcome| outcome.dropped.is_empty()));
    // Of the closed form, or in bits.
    let relative = [
        ("latency p50, ms", 0.01),
        ("latency p95, ms", 0.01),
        ("latency p99, ms", 0.01),
        ("packets held by a mix", 0.005),
    ];
    for (name, bound) in relative {
        let Summary { mean, theory, .. } = figure(&report, name);
        let theory = theory.unwrap();
        assert!((mean / theory - 1.0).abs() < bound, "{name}: {mean} {theory}");
    }
    for (name, bound) in [("entropy of one mix, bits", 0.01), ("entropy of packets, bits", 0.03)] {
        let Summary { mean, theory, .. } = figure(&report, name);
        assert!((mean - theory.unwrap()).abs() < bound, "{name}: {mean} {theory:?}");
    }
    assert!(figure(&report, "distance of that to Poisson").mean < 0.01);
    assert!(figure(&report, "shares of targets lost").mean < 1e-6);
    // Nobody knows less of who sent a packet than that it was one of the clients.
    let senders = figure(&report, "entropy of senders, bits").mean;
    assert!((6.5..=6.907).contains(&senders), "{senders}");
}

#[test]
fn the_forms_for_other_numbers_of_layers_hold_too() {
    for (layers, corrupt) in [(1, "[0]"), (4, "[0,0,0,0]"), (5, "[0,0,0,0,0]")] {
        let report = simulate(&[
            NO_LIMIT,
            "packets=modelled",
            "clients.count=120",
            "seconds=30",
            "seeds=2",
            &format!("network.layers={layers}"),
            &format!("adversary.corrupt={corrupt}"),
        ]);
        assert!(report.balances());
        for name in ["entropy of packets, bits", "entropy of one mix, bits"] {
            let Summary { mean, theory, .. } = figure(&report, name);
            assert!((mean - theory.unwrap()).abs() < 0.03, "{layers} layers, {name}: {mean} {theory:?}");
        }
        let Summary { mean, theory, .. } = figure(&report, "latency p50, ms");
        assert!((mean / theory.unwrap() - 1.0).abs() < 0.01, "{layers} layers: {mean} {theory:?}");
    }
}

#[test]
fn a_form_is_not_shown_where_it_does_not_hold() {
    // Not two packets in a mix.
    let report = simulate(&["clients.count=10", "clients.step=0", "seconds=20", "seeds=1"]);
    assert_eq!(figure(&report, "entropy of one mix, bits").theory, None);
    assert_eq!(figure(&report, "entropy of packets, bits").theory, None);
    // Delays of another law.
    let report =
        simulate(&["packets=modelled", "network.law=uniform", "clients.count=50", "seconds=3", "seeds=1"]);
    assert_eq!(figure(&report, "latency p50, ms").theory, None);
    assert_eq!(figure(&report, "entropy of packets, bits").theory, None);
}

/// The lines of a report that say what is missing in it, and why.
fn notes(report: &Report) -> String {
    report.notes().join("\n")
}

#[test]
fn a_form_is_not_shown_beside_what_it_does_not_know_and_the_report_says_what_that_is() {
    let few = ["clients.count=50", "seconds=3", "seeds=1"];
    let forms = [
        "latency p50, ms",
        "packets held by a mix",
        "distance of that to Poisson",
        "entropy of one mix, bits",
        "entropy of packets, bits",
    ];
    let cut = ["network.epoch_s=1", "network.cuts_an_hour=9"];
    for (words, key) in [
        (&["network.max_delay_ms=40"][..], "network.max_delay_ms"),
        (&["links.capacity=4000"][..], "links.capacity"),
        (&["links.bandwidth_mbit=100"][..], "links.bandwidth_mbit"),
        (&["links.loss=0.1"][..], "links.loss"),
        (&["seconds=0.5"][..], "(seconds)"),
        (&["adversary.isolate=true"][..], "(adversary)"),
        (&cut[..], "network.cuts_an_hour"),
    ] {
        let report = simulate(&[&few[..], words].concat());
        for name in forms {
            assert_eq!(figure(&report, name).theory, None, "{name} {key}");
        }
        assert!(
            report.table().contains("no closed form of any figure") && notes(&report).contains(key),
            "{key}"
        );
    }
    let sound = simulate(&few);
    assert!(forms.iter().all(|name| figure(&sound, name).theory.is_some()), "{}", sound.table());
    assert_eq!(notes(&sound), "");
    let thin = simulate(&["clients.count=10", "clients.step=0", "seconds=5", "seeds=1"]);
    assert!(
        notes(&thin).contains("of the entropy of one mix: a mix holds fewer than two"),
        "{}",
        notes(&thin)
    );
}

#[test]
fn what_was_not_measured_is_no_figure_and_is_counted() {
    let thin = simulate(&["clients.count=3", "clients.step=0", "seconds=5", "seeds=2"]);
    let [entropy, least] =
        ["entropy of senders, bits", "min-entropy of senders, bits"].map(|name| figure(&thin, name).mean);
    assert!(least <= entropy && entropy <= libm::log2(3.0), "{least} {entropy}");
    assert!(notes(&thin).contains("not traced to senders"), "{}", notes(&thin));
    assert!(notes(&thin).contains("the other client cannot have sent"), "{}", notes(&thin));
    // Nobody is there beside the only client.
    let alone = simulate(&["clients.count=1", "seconds=3", "seeds=1"]);
    assert!(figure(&alone, "epsilon between two senders").mean.is_nan());
    let short = simulate(&["clients.count=9", "seconds=0.1", "seeds=1"]);
    assert!(notes(&short).contains("targets that had not come out"), "{}", notes(&short));
    let [entropy, least] =
        ["entropy of packets, bits", "min-entropy of packets, bits"].map(|name| figure(&short, name).mean);
    // No number, or one that can be.
    assert!(entropy.is_nan() || least <= entropy + 1e-5, "{least} {entropy}");
}

#[test]
fn senders_are_followed_back_through_exponential_delays_only() {
    for law in ["constant", "uniform", "pool"] {
        let law = format!("network.law={law}");
        let report = simulate(&["packets=modelled", &law, "clients.count=30", "seconds=3", "seeds=1"]);
        for name in ["entropy of senders, bits", "epsilon between two senders", "entropy of one mix, bits"] {
            assert!(figure(&report, name).mean.is_nan(), "{name} {law}");
        }
        assert!(notes(&report).contains("left out: runs, of the figures of senders"), "{}", notes(&report));
        assert!(notes(&report).contains("delays are not exponential (network.law)"));
    }
}

#[test]
fn intervals_hold_the_truth_as_often_as_they_say() {
    let groups = 30;
    let names = ["latency p50, ms", "packets held by a mix", "entropy of packets, bits"];
    let mut holding = 0;
    for group in 0..groups {
        let seed = format!("seed={}", 1 + group * 5);
        let report = simulate(&[NO_LIMIT, "packets=modelled", "clients.count=60", "seconds=6", &seed]);
        for name in names {
            let Summary { mean, half_width, theory, .. } = figure(&report, name);
            // The form for the entropy is itself right to 0.03 bit only.
            let slack = if name.ends_with("bits") { 0.03 } else { 0.0 };
            holding += usize::from((mean - theory.unwrap()).abs() <= half_width.unwrap() + slack);
        }
    }
    // 95 of 100 at best; six of ninety below 85 would be four standard deviations.
    assert!(holding * 100 >= names.len() * groups * 85, "{holding} of {}", names.len() * groups);
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let words = ["clients.count=20", "seconds=5", "seeds=1"];
    let first = simulate(&words);
    assert_eq!(first, simulate(&words));
    let other = simulate(&[&words[..], &["seed=2"]].concat());
    assert_ne!(first.outcomes[0].sent, other.outcomes[0].sent);
}

#[test]
fn packets_in_the_clear_fare_like_sphinx_packets() {
    let words = ["clients.count=6", "seconds=4", "seeds=2", "links.loss=0.05", "links.distance_ms=2"];
    let clear = simulate(&words);
    let sphinx = simulate(&[&words[..], &["packets=sphinx"]].concat());
    for report in [&clear, &sphinx] {
        assert!(report.balances());
        for outcome in &report.outcomes {
            assert!(outcome.delivered > 300);
            // Four links between relays at five per cent: 18.5 % of the packets are lost, and for no other reason.
            assert_eq!(outcome.dropped.keys().copied().collect::<Vec<_>>(), ["link_down"]);
            let lost = outcome.dropped["link_down"] as f64 / outcome.sent as f64;
            assert!((0.15..0.22).contains(&lost), "{lost}");
        }
    }
    let [clear, sphinx] = [clear, sphinx].map(|report| figure(&report, "latency p50, ms").mean);
    assert!((clear / sphinx - 1.0).abs() < 0.1, "{clear} {sphinx}");
}

#[test]
fn a_limit_on_delays_is_kept_by_senders_and_mixes_alike() {
    let report = simulate(&["clients.count=20", "seconds=10", "seeds=1", "network.max_delay_ms=40"]);
    assert!(report.outcomes[0].dropped.is_empty());
    assert!(report.outcomes[0].latency[100] < 3.0 * 40.0);
}

#[test]
fn corrupt_mixes_cost_anonymity_and_whole_paths_of_them_cost_all() {
    let entropy = |corrupt: &str| {
        let report = simulate(&["seconds=10", "seeds=1", &format!("adversary.corrupt={corrupt}")]);
        figure(&report, "entropy of packets, bits").mean
    };
    let (none, one, all) = (entropy("[0,0,0]"), entropy("[1,0,0]"), entropy("[1,1,1]"));
    // Two layers instead of three: the constants of the closed forms say 0.39 bits less.
    assert!((none - one - 0.39).abs() < 0.05, "{none} {one}");
    assert!(all.abs() < 1e-9, "{all}");
}

#[test]
fn relays_that_can_take_less_than_comes_drop_the_rest() {
    let busy = simulate(&["seconds=3", "seeds=1", "links.capacity=4000"]);
    let full = simulate(&["seconds=3", "seeds=1", "links.bandwidth_mbit=100"]);
    for (report, reason) in [(busy, "overloaded"), (full, "late")] {
        assert!(report.balances());
        // 8 000 packets a second come to each mix; half of them are too many, and 2 800 of 4.4 KB fill the line.
        let dropped = report.outcomes[0].dropped[reason] as f64 / report.outcomes[0].sent as f64;
        assert!((0.4..0.75).contains(&dropped), "{reason}: {dropped}");
    }
}

#[test]
fn loops_of_relays_fill_mixes_and_point_at_no_packet() {
    let with = |rate: u32| {
        let rate = format!("network.relay_loops={rate}");
        simulate(&["clients.count=60", "clients.step=2", "seconds=20", "seeds=3", &rate])
    };
    let (without, many) = (with(0), with(20));
    for report in [&without, &many] {
        for name in ["packets held by a mix", "entropy of packets, bits"] {
            let figure = report.figure(name).unwrap();
            let off = figure.mean / figure.theory.unwrap() - 1.0;
            assert!(off.abs() < 0.01, "{name}: {off}");
        }
        assert!(report.figure("shares of targets lost").unwrap().mean < 1e-6);
    }
    // A loop that ends at its mix is no output that could be told from others.
    let likeliest = |report: &Report| report.figure("min-entropy of packets, bits").unwrap().mean;
    let change = likeliest(&many) - likeliest(&without);
    assert!(change.abs() < 0.2, "{change}");
}
