//! The status as a page for people. (spec: CLIENT-3)

use crate::control::DaemonStatus;
use mizzle_client::{Rate, Status};
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
    line("level", level(status));
    line("cover up", rate(&status.up));
    line("cover down", rate(&status.down));
    let last =
        status.last_loop_returned.map(|last| format!(", the last {} ago", span(now.saturating_sub(last))));
    let counts = format!("{} sent, {} returned", status.loops_sent, status.loops_returned);
    line("loops", counts + &last.unwrap_or_default());
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
    let refused = [("proxy port", whole.socks_refused), ("control socket", whole.control_refused)];
    for (port, refused) in refused.into_iter().filter(|(_, refused)| refused.total() > 0) {
        let text = format!(
            "{} connections to the {port}: {} no request, {} cut off, {} too slow, {} too many",
            refused.total(),
            refused.malformed,
            refused.truncated,
            refused.timed_out,
            refused.full
        );
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
        whole.socks_refused.malformed = 3;
        assert!(page(&whole, 0).contains("state      connected\n"));
        assert!(page(&whole, 0).contains("3 connections to the proxy port: 3 no request"));
    }
}
