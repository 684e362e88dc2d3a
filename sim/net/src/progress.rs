//! What the person at the terminal sees while things take their time: a moving line on a terminal, plain
//! lines anywhere else.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

/// Progress of one undertaking.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
}

impl Progress {
    /// Starts the clock.
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { bar, started: Instant::now() }
    }

    /// What happens now. On a terminal it replaces what was said before.
    pub(crate) fn now(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => self.line(text),
        }
    }

    /// What happens now, said often: only a terminal shows it.
    pub(crate) fn briefly(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    /// What is done: a line that stays.
    pub(crate) fn done(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(self.stamped(text)),
            None => self.line(text),
        }
    }

    /// Takes the moving line away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn line(&self, text: &str) {
        eprintln!("{}", self.stamped(text));
    }

    fn stamped(&self, text: &str) -> String {
        format!("{:6.1} s  {text}", self.elapsed().as_secs_f64())
    }
}

/// A line of the result, on standard output. A reader that has gone is no reason to stop a network.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
