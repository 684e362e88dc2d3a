//! Threads without which a relay is of no use.

use mizzle_link::{Error, Result};

/// Starts one. If it panics, the process ends: a relay that goes on without would take packets and lose them, and who
/// watches it, a unit or a person, would not know that it needs a new start. Whatever was remembered is on file.
pub(crate) fn essential(name: String, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let what = format!("start the thread `{name}`");
    let guarded = move || {
        let _guard = Guard;
        work();
    };
    let started = std::thread::Builder::new().name(name).spawn(guarded);
    started.map(drop).map_err(|error| Error::io(what, error))
}

struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a thread has failed that nothing works without: this process ends");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::time::Duration;

    /// Set in a process whose thread is to fail.
    const FAILING: &str = "MIZZLE_TEST_FAILING_THREAD";

    #[test]
    fn a_thread_that_panics_ends_the_process_and_one_that_ends_does_not() {
        if std::env::var_os(FAILING).is_some() {
            essential("fails".into(), || panic!("on purpose")).unwrap();
            std::thread::sleep(Duration::from_secs(20));
            return;
        }
        let name = "threads::tests::a_thread_that_panics_ends_the_process_and_one_that_ends_does_not";
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let output = again.args(["--exact", name]).env(FAILING, "1").output().unwrap();
        assert_eq!(output.status.signal(), Some(6), "{output:?}");
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        essential("ends".into(), move || sender.send(()).unwrap()).unwrap();
        receiver.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
