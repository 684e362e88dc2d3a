//! `mizzle doctor`: what keeps this client from carrying connections, or its user from what they hope for, each in
//! one sentence, with what to do. (spec: DAILY-7)

mod client;
mod machine;

use crate::config::{Flags, Settings, UpFlags};
use serde::Serialize;
use std::fmt::Write;
use std::process::ExitCode;

/// How something does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Pass,
    Fail,
    /// It works, but not as a person may think, or something beside it does not.
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

/// Looks at everything. `up` is what `mizzle up` would be started with.
pub(crate) async fn examine(flags: &Flags, up: &UpFlags) -> Report {
    let settings = match Settings::merge(flags, up) {
        Ok(settings) => settings,
        Err(error) => {
            return Report::new(vec![Finding::fail("settings", error.to_string(), "mend that first")]);
        }
    };
    let mut findings = vec![Finding::pass("settings", "flags, environment and file make sense")];
    let status = client::status(&settings.state).await;
    let (network, finding) = machine::network_file(settings.network.as_deref(), status.is_ok());
    findings.push(finding);
    findings.push(machine::state(&settings.state));
    match status {
        Ok(status) => findings.extend(client::all(&settings, &status, network.as_ref()).await),
        Err(client::Silence::Stuck(what)) => {
            findings.push(Finding::fail("client", what, "end its process, then start it again: mizzle up"));
        }
        Err(client::Silence::Gone(what)) => {
            findings.push(Finding::fail("client", what, "start one: mizzle up"));
            for listener in &settings.socks {
                findings.push(machine::free_port(listener).await);
            }
            findings.push(machine::reach(network.as_ref(), settings.outbound).await);
        }
    }
    findings.push(machine::variables(std::env::vars(), &settings.socks));
    findings.push(machine::namespaces().await);
    Report::new(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_in_the_table_the_json_and_the_code() {
        let passed = Report::new(vec![
            Finding::pass("client", "runs"),
            Finding::warn("run", "no", "do"),
            Finding::skip("port", "not looked at"),
        ]);
        assert!(passed.ok);
        assert_eq!(passed.table(), "pass client: runs\nWARN run: no; do\nskip port: not looked at\n");
        let failed = Report::new(vec![Finding::fail("client", "is gone", "start it")]);
        assert_eq!(failed.table(), "FAIL client: is gone; start it\n");
        let json: serde_json::Value = serde_json::from_str(&failed.json()).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(json["findings"][0]["verdict"], "fail");
        assert_eq!(failed.code(), ExitCode::FAILURE);
        assert_eq!(passed.code(), ExitCode::SUCCESS);
    }

    #[tokio::test]
    async fn without_a_client_it_says_so_and_what_stands_in_its_way() {
        let folder = tempfile::tempdir().unwrap();
        let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = folder.path().join("config.toml");
        std::fs::write(&config, format!("socks = \"{}\"\nstate = \"state\"\n", taken.local_addr().unwrap()))
            .unwrap();
        let flags = Flags { config: Some(config.clone()), ..Flags::default() };
        let report = examine(&flags, &UpFlags::default()).await;
        let verdict =
            |name: &str| report.findings.iter().find(|finding| finding.name == name).unwrap().verdict;
        for name in ["network", "client", "port"] {
            assert_eq!(verdict(name), Verdict::Fail, "{}", report.table());
        }
        assert!(!report.ok);
        std::fs::write(&config, "sock = 1\n").unwrap();
        let report = examine(&flags, &UpFlags::default()).await;
        assert!(report.table().starts_with("FAIL settings: "), "{}", report.table());
        assert!(report.table().contains("did you mean `socks`"), "{}", report.table());
    }
}
