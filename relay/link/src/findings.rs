//! What a `doctor` or a `check` has found: how each thing does, in one sentence, with what to do.

use serde::Serialize;
use std::fmt::Write;
use std::process::ExitCode;

/// How something does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// It does not work until somebody does something.
    Fail,
    /// It works, but not as a person may think, or not for long.
    Warn,
    /// It does not apply, or cannot be known before something else is mended.
    Skip,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// One word for what was looked at.
    pub name: &'static str,
    /// How it does.
    pub verdict: Verdict,
    /// What was found, in a sentence without its stop.
    pub what: String,
    /// What to do; empty unless there is something.
    pub advice: String,
}

impl Finding {
    /// As it should be.
    pub fn pass(name: &'static str, what: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Pass, what: what.into(), advice: String::new() }
    }

    /// Does not apply, or cannot be known.
    pub fn skip(name: &'static str, what: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Skip, what: what.into(), advice: String::new() }
    }

    /// Works, but is worth a look.
    pub fn warn(name: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, what: what.into(), advice: advice.into() }
    }

    /// Does not work.
    pub fn fail(name: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, what: what.into(), advice: advice.into() }
    }
}

/// All that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Nothing failed.
    pub ok: bool,
    /// In the order in which they were looked at.
    pub findings: Vec<Finding>,
}

impl Report {
    /// All of these.
    pub fn new(findings: Vec<Finding>) -> Self {
        Self { ok: findings.iter().all(|finding| finding.verdict != Verdict::Fail), findings }
    }

    /// A line each: `pass name: what`, `FAIL name: what; what to do`, `WARN` likewise.
    pub fn table(&self) -> String {
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
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Failure if anything failed.
    pub fn code(&self) -> ExitCode {
        if self.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
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
}
