//! `check` and `doctor`: what keeps this relay from running well, each in one sentence, with what to do.
//!
//! `check` looks at configuration and machine. `doctor` also does from here what the authorities do from there:
//! it dials the announced addresses by the same code ([`mizzle_link::probe`]), and holds the network's newest
//! document against this machine. If the relay does not run, it listens in its place meanwhile.

mod family;
mod machine;
mod network;
mod resolver;

use crate::config::Config;
use crate::status;
use mizzle_link::{Identity, NetworkFile};
use serde::Serialize;
use std::fmt::Write;
use std::process::ExitCode;

/// How something does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Pass,
    Fail,
    /// It will fail, if nobody does anything.
    Warn,
    /// It does not apply, or cannot be known before something else is mended.
    Skip,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    name: &'static str,
    verdict: Verdict,
    what: String,
    /// Empty unless there is something to do.
    advice: String,
}

impl Finding {
    fn pass(name: &'static str, what: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Pass, what: what.into(), advice: String::new() }
    }

    fn skip(name: &'static str, what: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Skip, what: what.into(), advice: String::new() }
    }

    fn warn(name: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, what: what.into(), advice: advice.into() }
    }

    fn fail(name: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, what: what.into(), advice: advice.into() }
    }
}

/// All that was looked at.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    ok: bool,
    findings: Vec<Finding>,
}

impl Report {
    fn new(findings: Vec<Finding>) -> Self {
        Self { ok: findings.iter().all(|finding| finding.verdict != Verdict::Fail), findings }
    }

    /// A line each: `pass name: what`, `FAIL name: what; what to do`, `WARN` likewise.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for Finding { name, verdict, what, advice } in &self.findings {
            let verdict = match verdict {
                Verdict::Pass => "pass",
                Verdict::Fail => "FAIL",
                Verdict::Warn => "WARN",
                Verdict::Skip => "skip",
            };
            let end = if advice.is_empty() { String::new() } else { format!("; {advice}") };
            let _ = writeln!(text, "{verdict} {name}: {what}{end}");
        }
        text
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Failure if anything failed.
    pub(crate) fn code(&self) -> ExitCode {
        if self.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// What can be said without starting or asking anything.
pub(crate) fn check(config: &Config) -> Report {
    let (file, finding) = network_file(config);
    let mut findings = vec![finding];
    findings.extend(machine::all(config, None));
    let identity = Identity::load(&config.identity()).ok().flatten();
    if let Some((file, identity)) = file.zip(identity) {
        findings.push(family::certificate(config, &file, identity.id()).unwrap_or_else(|finding| finding));
    }
    Report::new(findings)
}

/// Everything.
pub(crate) async fn examine(config: &Config) -> Report {
    let running = status::fetch(config).await.ok();
    let (file, finding) = network_file(config);
    let mut findings = vec![finding];
    findings.extend(machine::all(config, running.as_ref()));
    findings.push(resolver::check(config, file.as_ref()).await);
    let identity = Identity::load(&config.identity()).ok().flatten();
    match (file, identity) {
        (Some(file), Some(identity)) => {
            findings.extend(network::all(config, &file, &identity, running.is_some()).await);
        }
        _ => findings
            .extend(network::NAMES.map(|name| {
                Finding::skip(name, "not looked at: it needs the network file and the identity")
            })),
    }
    Report::new(findings)
}

fn network_file(config: &Config) -> (Option<NetworkFile>, Finding) {
    match NetworkFile::load(&config.network) {
        Ok(file) => (Some(file), Finding::pass("network", "the network file holds")),
        Err(error) => {
            (None, Finding::fail("network", error.to_string(), "take the file from who runs the network"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_line_each_and_fails_if_one_does() {
        let passed = vec![Finding::pass("port", "open"), Finding::skip("dns", "only exits need it")];
        let report = Report::new(passed.clone());
        assert_eq!(report.table(), "pass port: open\nskip dns: only exits need it\n");
        assert!(report.ok);
        let warned = [passed.clone(), vec![Finding::warn("family", "it ends", "renew it")]].concat();
        let report = Report::new(warned);
        assert!(report.table().ends_with("WARN family: it ends; renew it\n"));
        assert!(report.ok);
        let failed = [passed, vec![Finding::fail("clock", "40 s behind", "set it")]].concat();
        let report = Report::new(failed);
        assert!(report.table().ends_with("FAIL clock: 40 s behind; set it\n"));
        assert!(!report.ok);
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["findings"][2]["verdict"], "fail");
    }
}
