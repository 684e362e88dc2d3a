//! The status as a page for people. (spec: CLIENT-3)

use crate::associate::Associated;
use crate::control::DaemonStatus;
use crate::dns::Asked;
use crate::hiding::{AMONG, Hiding, WATCHERS, found};
use crate::refusals::Refused;
use crate::traffic::Listened;
use mizzle_client::{Anonymity, ExitChoice, Rate, Status};
use std::fmt::Write as _;

/// The page. `now` is in seconds since the Unix epoch.
pub(crate) fn page(whole: &DaemonStatus, now: u64) -> String {
    let status = &whole.client;
    let mut page = String::new();
    let mut line = |name: &str, text: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "{name:<11}{text}");
    };
    line("network", status.network.clone());
    match &status.reason {
        None if status.connected => line("state", "connected".into()),
        reason => line("state", format!("NOT connected: {}", reason.as_deref().unwrap_or("unknown"))),
    }
    if let Some(since) = status.entry_since {
        line("entry", format!("kept for {}, one of three", span(now.saturating_sub(since))));
    }
    if let (Some(epoch), Some(until)) = (status.consensus_epoch, status.consensus_valid_until) {
        let left = match until.checked_sub(now) {
            Some(left) if left > 0 => format!("valid for another {}", span(left)),
            _ => "ended".into(),
        };
        line("consensus", format!("epoch {epoch}, {} relays, {left}", status.relays));
    }
    for text in exits(status) {
        line("exits", text);
    }
    if let Some(clock) = &status.clock {
        line("clock", format!("{clock}: set it, best by the network time protocol"));
    }
    if !status.documents_refused.is_empty() {
        let refused: Vec<_> =
            status.documents_refused.iter().map(|(fault, count)| (*count, fault.as_str())).collect();
        line("documents", format!("refused{}", reasons(&refused)));
    }
    line("level", level(status));
    line("cover up", rate(&status.up));
    line("cover down", rate(&status.down));
    let last =
        status.last_loop_returned.map(|last| format!(", the last {} ago", span(now.saturating_sub(last))));
    let counts = format!("{} sent, {} returned", status.loops_sent, status.loops_returned);
    let lost = match whole.recent_loops {
        Some(loops) => format!("; {} % lost of the last {}", loops.lost(), loops.sent),
        None => "; too few yet to tell what share is lost".into(),
    };
    line("loops", counts + &last.unwrap_or_default() + &lost);
    line(
        "hides",
        format!(
            "a packet's sender: {}; packets in a mix: {}",
            sender(&whole.hiding),
            pool(&status.anonymity)
        ),
    );
    for (index, watcher) in WATCHERS.iter().enumerate() {
        line("found", format!("by {watcher}: {}", found(&whole.hiding, index)));
    }
    if let Some(cap) = &whole.budget.cap {
        line("cap", cap.clone());
    }
    line("metered", whole.budget.metered.word().into());
    if let Some(after) = whole.budget.idle_after {
        line("idle", format!("rests after {} without a program", span(after)));
    }
    if let Some(address) = &whole.page {
        line("page", format!("at {address}: open it by `mizzle page --open`"));
    }
    line("sessions", status.sessions.to_string());
    line("streams", status.streams.to_string());
    if status.slots_empty + status.slots_stalled > 0 {
        let text =
            format!("{} empty, {} while the link stood still", status.slots_empty, status.slots_stalled);
        line("slots lost", text);
    }
    for listened in &whole.listened {
        let Listened { address, connections, refused } = listened;
        let refused = Some(refusals(refused)).filter(|_| refused.total() > 0);
        let refused = refused.map(|refused| format!("; refused {refused}")).unwrap_or_default();
        line("port", format!("{address}: {} now{refused}", several(*connections, "connection")));
    }
    if let Some(text) = datagrams(&whole.associated) {
        line("datagrams", text);
    }
    if let Some(text) = questions(whole.dns.as_deref(), &whole.asked) {
        line("names", text);
    }
    if whole.control_refused.total() > 0 {
        let text = format!("{} at the control socket", refusals(&whole.control_refused));
        line("refused", text);
    }
    if whole.page_refused.total() > 0 {
        let refused = whole.page_refused;
        let text = format!(
            "{} requests to the page: {} without its token, {} for another host, {} from another page, {} no request, \
             {} too slow, {} too many",
            refused.total(),
            refused.strangers,
            refused.hosts,
            refused.origins,
            refused.malformed,
            refused.timed_out,
            refused.full
        );
        line("refused", text);
    }
    page
}

/// How many connections came to nothing, and why.
fn refusals(refused: &Refused) -> String {
    let reasons = reasons(&[
        (refused.malformed, "no request"),
        (refused.truncated, "cut off"),
        (refused.timed_out, "too slow"),
        (refused.full, "too many"),
        (refused.crowded, "no session left"),
    ]);
    format!("{}{reasons}", refused.total())
}

/// Datagrams of applications, if there were any.
fn datagrams(counts: &Associated) -> Option<String> {
    if *counts == Associated::default() {
        return None;
    }
    let reasons = reasons(&[
        (counts.fragments, "fragments"),
        (counts.malformed, "malformed"),
        (counts.strangers, "from strangers"),
        (counts.too_large, "too large"),
        (counts.no_network, "without network"),
        (counts.undelivered, "not taken"),
    ]);
    let dropped = Some(counts.dropped()).filter(|&dropped| dropped > 0);
    let dropped = dropped.map(|dropped| format!(", {dropped} dropped{reasons}")).unwrap_or_default();
    let associations = several(counts.open, "association");
    Some(format!("{associations} now; {} sent, {} received{dropped}", counts.out, counts.home))
}

/// Questions for names, if there is a port for them or there were any.
fn questions(port: Option<&str>, counts: &Asked) -> Option<String> {
    if port.is_none() && *counts == Asked::default() {
        return None;
    }
    let port = port.map(|port| format!("{port}: ")).unwrap_or_default();
    let reasons =
        reasons(&[(counts.failed, "failed"), (counts.malformed, "no question"), (counts.full, "too many")]);
    Some(format!("{port}{}{reasons}", several(counts.questions, "question")))
}

/// Those reasons that there were, in brackets.
fn reasons(counted: &[(u64, &str)]) -> String {
    let told = counted.iter().filter(|(count, _)| *count > 0);
    let told: Vec<String> = told.map(|(count, reason)| format!("{count} {reason}")).collect();
    if told.is_empty() { String::new() } else { format!(" ({})", told.join(", ")) }
}

fn several(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// Where the exits are, as they say, and what it costs to want them in one country. (spec: COUNTRY-2)
fn exits(status: &Status) -> Vec<String> {
    let there = status.exits.iter();
    let counts: Vec<String> = there
        .map(|there| format!("{} {}", there.exits, there.country.as_deref().unwrap_or("that do not say")))
        .collect();
    let mut lines = Vec::new();
    match &status.exit_choice {
        Some(ExitChoice { country, bits: None, .. }) => lines.push(format!(
            "only in {country}, where none is: NOTHING is carried; choose another country, or all (`exit_country`)"
        )),
        Some(ExitChoice { country, exits, exits_in_all, share, bits: Some(bits), .. }) => lines.push(format!(
            "only in {country}, as they say: {exits} of {exits_in_all}, {:.0} % of their weight; the price: \
             {bits:.1} bits fewer to hide among",
            share * 100.0
        )),
        None => {}
    }
    if status.exits.iter().any(|there| there.country.is_some()) || !lines.is_empty() && !counts.is_empty() {
        lines.push(format!("by the country that they declare: {}", counts.join(", ")));
    }
    lines
}

/// The level, and what it promises.
fn level(status: &Status) -> String {
    let shows = level_promise(&status.level);
    let moving = status.step_wanted.map(|step| format!(", on its way to {step}")).unwrap_or_default();
    let rises = match status.rises_left {
        Some(0) => "; no rise left within this hour".into(),
        Some(left) => format!("; {left} rises left within the hour"),
        None => String::new(),
    };
    match status.level.as_str() {
        "strong" => format!("strong: {shows}"),
        name => format!("{name}, step {}{moving}: {shows}{rises}", status.step),
    }
}

/// What a level promises of the line.
pub(crate) fn level_promise(level: &str) -> &'static str {
    match level {
        "strong" => "your traffic shows nowhere",
        "fast" => "your traffic shows to whoever watches your line",
        _ => "your traffic shows in the step alone",
    }
}

/// How well a packet's sender is hidden among the clients that were simulated, in words.
pub(crate) fn sender(hiding: &[Hiding]) -> String {
    let most = f64::from(AMONG).log2();
    hiding.first().map_or("not measured".into(), |row| {
        format!("{:.1} bits of the {most:.1} that {AMONG} clients have", row.bits)
    })
}

/// The packets that a mix holds, in words.
pub(crate) fn pool(anonymity: &Anonymity) -> String {
    match anonymity.pool {
        None => "not measured".into(),
        Some(..1.0) => "fewer than 1".into(),
        Some(pool) => format!("{pool:.0} at most"),
    }
}

fn rate(rate: &Rate) -> String {
    format!("{:.0} kbit/s, {:.1} GB/day at this step", rate.kbit_per_second, rate.gigabytes_per_day)
}

/// A time that a person reads at a glance.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status_page::RecentLoops;

    #[test]
    fn the_price_of_a_country_is_shown_and_that_nobody_is_there() {
        let text = |choice: &str| {
            let mut json = serde_json::to_value(DaemonStatus::default()).unwrap();
            json["exits"] = serde_json::json!([
                {"country": null, "exits": 5, "weight": 5}, {"country": "DE", "exits": 1, "weight": 1}
            ]);
            json["exit_choice"] = serde_json::from_str(choice).unwrap();
            page(&serde_json::from_value(json).unwrap(), 0)
        };
        let here = r#"{"country": "DE", "exits": 1, "exits_in_all": 6, "share": 0.12, "bits": 2.585}"#;
        assert!(text(here).contains("exits      only in DE, as they say: 1 of 6, 12 % of their weight"));
        assert!(text(here).contains("2.6 bits fewer"), "{}", text(here));
        let nowhere = r#"{"country": "CH", "exits": 0, "exits_in_all": 6, "share": 0.0, "bits": null}"#;
        assert!(text(nowhere).contains("only in CH, where none is: NOTHING"), "{}", text(nowhere));
        for choice in [here, nowhere, "null"] {
            assert!(text(choice).contains("declare: 5 that do not say, 1 DE"), "{}", text(choice));
        }
        assert!(!page(&DaemonStatus::default(), 0).contains("exits"));
    }

    #[test]
    fn the_page_says_why_it_is_not_connected() {
        let mut whole: DaemonStatus =
            serde_json::from_str(&serde_json::to_string(&DaemonStatus::default()).unwrap()).unwrap();
        let status = &mut whole.client;
        status.reason = Some("the consensus has ended".into());
        status.consensus_epoch = Some(7);
        status.consensus_valid_until = Some(1_000);
        let text = page(&whole, 1_000);
        assert!(text.contains("NOT connected: the consensus has ended"), "{text}");
        assert!(text.contains("epoch 7") && text.contains("ended"), "{text}");
        assert!(page(&whole, 880).contains("another 2 min"));
        whole.client.reason = None;
        whole.client.connected = true;
        assert!(page(&whole, 0).contains("state      connected\n"));
    }

    #[test]
    fn the_page_says_how_well_it_hides_or_that_nobody_measured_it() {
        let mut whole = DaemonStatus::default();
        let text = page(&whole, 0);
        let unknown = "a packet's sender: not measured; packets in a mix: not measured\n";
        assert!(
            text.contains(unknown)
                && text.contains("found      by who sees what goes out on all links: not measured\n"),
            "{text}"
        );
        assert!(text.contains("loops      0 sent, 0 returned; too few yet"), "{text}");
        whole.client.anonymity = Anonymity { pool: Some(39.7) };
        whole.client.level = "balanced".into();
        whole.client.up.cells_per_second = 10.0;
        whole.hiding = crate::hiding::of(&whole.client);
        whole.recent_loops = Some(RecentLoops { sent: 40, home: 38 });
        let text = page(&whole, 0);
        let known = "that 100 clients have; packets in a mix: 40 at most\nfound      by who sees what goes out on all links: 4 KiB ";
        assert!(text.contains(known) && text.contains("; 5 % lost of the last 40\n"), "{text}");
        whole.client.anonymity.pool = Some(0.0);
        assert!(page(&whole, 0).contains("packets in a mix: fewer than 1\n"));
    }

    #[test]
    fn the_page_says_what_each_listener_carries_and_refuses() {
        let listened = |address: &str, connections, malformed| Listened {
            address: address.into(),
            connections,
            refused: Refused { malformed, full: malformed, ..Refused::default() },
        };
        let mut whole = DaemonStatus {
            listened: vec![listened("127.0.0.1:9150", 1, 0), listened("unix:/a", 12, 3)],
            ..DaemonStatus::default()
        };
        let text = page(&whole, 0);
        assert!(text.contains("port       127.0.0.1:9150: 1 connection now\n"), "{text}");
        let second = "port       unix:/a: 12 connections now; refused 6 (3 no request, 3 too many)\n";
        assert!(text.contains(second), "{text}");
        assert!(!text.contains("datagrams") && !text.contains("names") && !text.contains("refused    "));
        whole.associated = Associated { open: 1, out: 9, home: 7, strangers: 2, ..Associated::default() };
        whole.dns = Some("127.0.0.1:5353".into());
        whole.asked = Asked { questions: 40, answered: 39, failed: 1, ..Asked::default() };
        whole.control_refused.truncated = 1;
        let text = page(&whole, 0);
        for line in [
            "datagrams  1 association now; 9 sent, 7 received, 2 dropped (2 from strangers)\n",
            "names      127.0.0.1:5353: 40 questions (1 failed)\n",
            "refused    1 (1 cut off) at the control socket\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
