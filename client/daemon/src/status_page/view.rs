//! What the status page says, as words and outlines: once as a page that needs no script, and again as JSON for the
//! script that keeps it up to date. Nothing in it is a key, an address of the network, or a destination.

use super::history::{History, Rates, Way};
use crate::control::DaemonStatus;
use crate::hiding::found;
use crate::page::{level_promise, pool, sender, span};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// All that changes on the page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct View {
    /// `connected`, `connecting` or `resting`.
    pub(crate) state: &'static str,
    /// The level in use.
    pub(crate) level: String,
    /// Words by the ids of the elements that hold them.
    pub(crate) texts: BTreeMap<&'static str, String>,
    /// Outlines likewise.
    pub(crate) paths: BTreeMap<&'static str, String>,
    /// What is wrong, and what to do about it.
    pub(crate) problems: Vec<[String; 2]>,
    /// Label, sessions and streams of each isolation.
    pub(crate) sessions: Vec<[String; 3]>,
}

impl View {
    /// Of a client at `now`, in seconds since the Unix epoch.
    pub(crate) fn new(whole: &DaemonStatus, history: &History, now: u64) -> Self {
        let status = &whole.client;
        let mut texts = BTreeMap::new();
        let mut say = |id: &'static str, text: String| drop(texts.insert(id, text));
        let state = match (status.connected, whole.budget.resting) {
            (true, _) => "connected",
            (false, true) => "resting",
            (false, false) => "connecting",
        };
        let title = match state {
            "connected" => "Connected",
            "resting" => "Resting",
            _ => "Not connected",
        };
        say("state", title.into());
        say("network", status.network.clone());
        let step = match status.level.as_str() {
            "strong" => "one constant rate".to_owned(),
            _ => match status.step_wanted {
                Some(wanted) => format!("step {}, on its way to {wanted}", status.step),
                None => format!("step {}", status.step),
            },
        };
        say("level", status.level.clone());
        say("step", step);
        say("promise", sentence(level_promise(&status.level)));
        say(
            "rises",
            match status.rises_left {
                Some(left) => format!("{left} left within this hour"),
                None => "as the traffic asks".into(),
            },
        );
        say("cost-up", price(status.up.kbit_per_second, status.up.gigabytes_per_day));
        say("cost-down", price(status.down.kbit_per_second, status.down.gigabytes_per_day));
        let entry = match (status.connected, status.entry_since) {
            _ if state == "resting" => "not used while resting".to_owned(),
            (true, Some(since)) => format!("reached; kept for {}", span(now.saturating_sub(since))),
            (false, Some(since)) => format!("not reached; kept for {}", span(now.saturating_sub(since))),
            _ => "none yet".into(),
        };
        say("entry", entry);
        let loops = match (status.connected, history.loops()) {
            (false, _) => "not looked at".to_owned(),
            (true, None) => "too few loops yet to judge".into(),
            (true, Some(loops)) => format!("{} % lost of the last {} loops", loops.lost(), loops.sent),
        };
        say("layers", loops);
        say("bits", sender(&whole.hiding));
        for (index, place) in ["found-links", "found-exit", "found-both"].into_iter().enumerate() {
            // A number and its unit stay on one line.
            let said = found(&whole.hiding, index).replace(' ', "\u{a0}").replace(",\u{a0}", ", ");
            say(place, said);
        }
        say("pool", pool(&status.anonymity));
        say("consensus", consensus(whole, now));
        say("lost", format!("{} of {} replies", status.replies_lost, status.replies + status.replies_lost));
        let (rates, mut paths) = (history.now(), BTreeMap::new());
        type Pick = fn(&Rates) -> Way;
        let ways: [(Pick, [&'static str; 4], [&'static str; 2]); 2] = [
            (
                |rates| rates.out,
                ["out", "out-real", "out-cover", "out-scale"],
                ["out-all-path", "out-real-path"],
            ),
            (|rates| rates.home, ["in", "in-real", "in-cover", "in-scale"], ["in-all-path", "in-real-path"]),
        ];
        for (of, [all, real, cover, scale], [all_path, real_path]) in ways {
            let way = of(&rates);
            say(all, rate(way.real + way.cover));
            say(real, rate(way.real));
            say(cover, rate(way.cover));
            let (highest, outline, inner) = history.picture(of);
            say(scale, format!("up to {}", rate(highest)));
            paths.insert(all_path, outline);
            paths.insert(real_path, inner);
        }
        say("total", format!("{} out, {} in", bytes(status.bytes_out), bytes(status.bytes_in)));
        say("sessions", status.sessions.to_string());
        say("streams", status.streams.to_string());
        let more = status.sharing.len().saturating_sub(ROWS);
        say("more", if more > 0 { format!("and {more} more") } else { String::new() });
        say("cap", whole.budget.cap.clone().unwrap_or_else(|| "none".into()));
        say("metered", whole.budget.metered.word().into());
        say(
            "idle",
            match whole.budget.idle_after {
                Some(after) => format!("rests after {} without a program", span(after)),
                None => "never rests for idleness".into(),
            },
        );
        say("listeners", whole.listeners.join(", "));
        let row = |sharing: &mizzle_client::Sharing| {
            [sharing.label.clone(), sharing.sessions.to_string(), sharing.streams.to_string()]
        };
        Self {
            state,
            level: status.level.clone(),
            texts,
            paths,
            problems: problems(whole, history),
            sessions: status.sharing.iter().take(ROWS).map(row).collect(),
        }
    }

    /// The whole page. `form` is the forms' secret, `home` the page's path.
    pub(crate) fn page(&self, nonce: &str, form: &str, home: &str) -> String {
        let mut rows = String::new();
        for row in &self.sessions {
            let [label, sessions, streams] = row.each_ref().map(|text| escape(text));
            let _ =
                write!(rows, "<tr><th scope=\"row\">{label}</th><td>{sessions}</td><td>{streams}</td></tr>");
        }
        let mut problems = String::new();
        for problem in &self.problems {
            let [what, advice] = problem.each_ref().map(|text| escape(text));
            let _ = write!(problems, "<li><strong>{what}</strong> {advice}</li>");
        }
        fill(TEMPLATE, |name| match name {
            "nonce" => nonce.to_owned(),
            "form" => form.to_owned(),
            "home" => home.to_owned(),
            "css" => STYLE.to_owned(),
            "script" => SCRIPT.to_owned(),
            "version" => env!("CARGO_PKG_VERSION").to_owned(),
            "css-state" => self.state.to_owned(),
            "rows" => rows.clone(),
            "problems" => problems.clone(),
            "pressed-strong" | "pressed-balanced" | "pressed-fast" => {
                (name.strip_prefix("pressed-") == Some(self.level.as_str())).to_string()
            }
            _ => match (self.texts.get(name), self.paths.get(name)) {
                (Some(text), _) => escape(text),
                (None, Some(path)) => escape(path),
                (None, None) => String::new(),
            },
        })
    }
}

/// What is wrong, with what to do; the reason for no connection comes first.
fn problems(whole: &DaemonStatus, history: &History) -> Vec<[String; 2]> {
    let status = &whole.client;
    let mut found = Vec::new();
    let mut tell = |what: String, advice: &str| found.push([what, advice.to_owned()]);
    if !status.connected {
        let reason = status.reason.as_deref().unwrap_or("It does not say why");
        let advice = match whole.budget.resting {
            true => "Until then nothing leaves this computer by it.",
            false => {
                "It goes on trying by itself, and nothing goes another way. If it stays so, run: mizzle doctor"
            }
        };
        tell(sentence(reason), advice);
    }
    if whole.budget.cap_near && !whole.budget.resting {
        let cap = whole.budget.cap.as_deref().unwrap_or_default();
        tell(
            format!("The monthly cap is near: {cap}."),
            "At the cap the client rests: raise `cap`, or use less.",
        );
    }
    if status.connected && history.loops().is_some_and(|loops| loops.lost() > 20) {
        tell(
            "Many of your loops do not come home.".into(),
            "Relays fail, or somebody stops packets: wait before you do what must stay private.",
        );
    }
    if whole.socks_refused.full > 0 {
        tell(
            format!("{} connections found no place.", whole.socks_refused.full),
            "Allow more at once by the key `connections`.",
        );
    }
    found
}

fn consensus(whole: &DaemonStatus, now: u64) -> String {
    match whole.client.consensus_valid_until {
        None => "no list of relays yet".into(),
        Some(until) if until <= now => "the list of relays has ended".into(),
        Some(until) => format!("{} relays, valid for another {}", whole.client.relays, span(until - now)),
    }
}

/// With a capital letter and a stop, and without the marks that set off a command in a terminal.
fn sentence(text: &str) -> String {
    let text = text.replace('`', "");
    let mut characters = text.chars();
    let first: String = characters.next().map(|first| first.to_uppercase().collect()).unwrap_or_default();
    let end = if text.is_empty() || text.ends_with(['.', '?', '!']) { "" } else { "." };
    format!("{first}{}{end}", characters.as_str())
}

fn price(kbit: f64, gigabytes: f64) -> String {
    let digits = usize::from(gigabytes < 100.0);
    format!("{}, {gigabytes:.digits$} GB a day", rate(kbit * 1e3 / 8.0))
}

/// Of bytes a second, in bits as providers count.
fn rate(bytes: f64) -> String {
    let kbit = bytes * 8.0 / 1e3;
    if kbit >= 1_000.0 { format!("{:.1} Mbit/s", kbit / 1e3) } else { format!("{kbit:.0} kbit/s") }
}

fn bytes(count: u64) -> String {
    mizzle_link::units::Size(count).to_string()
}

/// Puts `value` of each `{{name}}` in its place.
fn fill(template: &str, mut value: impl FnMut(&str) -> String) -> String {
    let mut page = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else { break };
        page.push_str(before);
        page.push_str(&value(name));
        rest = after;
    }
    page + rest
}

/// For text and for attributes in double quotes.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(character),
        }
    }
    safe
}

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// Isolations that are shown one by one.
const ROWS: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn whole() -> DaemonStatus {
        let mut whole = DaemonStatus::default();
        let status = &mut whole.client;
        (status.connected, status.network, status.level) = (true, "a <b> & \"c\"".into(), "balanced".into());
        status.entry = Some("00ff".repeat(16));
        status.sharing = vec![mizzle_client::Sharing { label: "1a2b".into(), sessions: 2, streams: 3 }];
        whole
    }

    #[test]
    fn every_word_has_its_place_and_every_place_a_word() {
        let view = View::new(&whole(), &History::default(), 0);
        let mut places = BTreeSet::new();
        let _ = fill(TEMPLATE, |name| {
            places.insert(name.to_owned());
            String::new()
        });
        for name in view.texts.keys().chain(view.paths.keys()) {
            assert!(places.remove(*name), "{name} is nowhere on the page");
            let id = format!("id=\"{name}\"");
            assert!(TEMPLATE.matches(&id).count() == 1, "the script does not find {name}");
        }
        let others = "css css-state form home nonce pressed-balanced pressed-fast pressed-strong problems rows script version";
        assert_eq!(places.into_iter().collect::<Vec<_>>().join(" "), others);
    }

    #[test]
    fn the_page_is_whole_links_to_nothing_and_tells_neither_keys_nor_markup() {
        let page = View::new(&whole(), &History::default(), 0).page("NONCE", "FORM", "/room/");
        assert!(page.contains("a &lt;b&gt; &amp; &quot;c&quot;") && !page.contains("{{"), "{page}");
        assert!(!page.contains("00ff00ff"), "the entry's key shows");
        assert!(page.contains("<th scope=\"row\">1a2b</th><td>2</td><td>3</td>"));
        assert!(page.contains("value=\"balanced\" aria-pressed=\"true\""));
        assert!(page.contains("value=\"fast\" aria-pressed=\"false\""));
        for outside in ["http:", "https:", "//", "@import", "url("] {
            let text = page.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains(outside), "{outside}");
        }
        // The policy forbids these; a page that relied on them would be broken silently.
        for inline in [" onclick=", " onload=", " onsubmit=", " style=", "javascript:"] {
            assert!(!page.contains(inline), "{inline}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_what_to_do() {
        let mut whole = whole();
        assert_eq!(View::new(&whole, &History::default(), 0).problems, Vec::<[String; 2]>::new());
        whole.client.connected = false;
        whole.client.reason = Some("there is no link to the entry".into());
        let view = View::new(&whole, &History::default(), 0);
        assert_eq!(
            (view.state, view.problems[0][0].as_str()),
            ("connecting", "There is no link to the entry.")
        );
        assert!(view.problems[0][1].contains("mizzle doctor"));
        whole.budget.resting = true;
        assert_eq!(View::new(&whole, &History::default(), 0).state, "resting");
        let whole = DaemonStatus {
            budget: crate::budget::BudgetStatus { cap_near: true, ..Default::default() },
            ..self::whole()
        };
        assert!(View::new(&whole, &History::default(), 0).problems[0][0].contains("cap is near"));
    }
}
