//! Many trials, and what came of them.

use super::{LIES, Lie, Outcome, Trial};
use mizzle_protocol::{Error, ErrorKind, Result};
use serde::Serialize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What came of many trials.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Campaign {
    /// Trials.
    pub trials: u64,
    /// What must never be, with the seed of the trial, for the first few.
    pub broken: Vec<String>,
    /// Trials in which something of that was.
    pub trials_broken: u64,
    /// Documents that came within their epoch, and those that were due.
    pub timely: u64,
    /// Documents that were due.
    pub due: u64,
    /// Longest time from an epoch's beginning until half of the honest authorities had its document, in seconds.
    pub slowest: f64,
    /// Liars that someone has a proof against.
    pub proven: u64,
    /// Times that an honest authority was killed.
    pub killed: u64,
    /// Messages that were sent.
    pub messages: u64,
    /// Trials by what the liars did.
    pub lies: Vec<(&'static str, u64)>,
}

impl Campaign {
    /// Runs `count` trials like `first`, each with a seed of its own, on all processors. `lie`: what is done in
    /// all of them; without, each of [`LIES`] in turn, and every tenth another for each.
    ///
    /// [`ErrorKind::Misuse`] if there are none, or they are of nothing.
    pub fn run(first: &Trial, count: u64) -> Result<Self> {
        if count == 0 {
            return Err(Error::new(ErrorKind::Misuse, "no trial is no evidence: run at least one"));
        }
        first.check()?;
        let next = AtomicU64::new(0);
        let all = Mutex::new(Self::default());
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return;
                }
                let in_turn = LIES.get((number % (LIES.len() as u64 + 1)) as usize).copied();
                let trial = Trial { seed: first.seed + number, lie: first.lie.or(in_turn), ..*first };
                let outcome = trial.run();
                let Ok(mut all) = all.lock() else { return };
                let outcome = outcome.unwrap_or_else(|error| Outcome {
                    broken: vec![format!("an honest authority stopped: {error}")],
                    ..Outcome::default()
                });
                all.add(&trial, outcome);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(work);
            }
        });
        Ok(all.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    fn add(&mut self, trial: &Trial, outcome: Outcome) {
        self.trials += 1;
        self.trials_broken += u64::from(!outcome.broken.is_empty());
        for sentence in outcome.broken {
            if self.broken.len() < 20 {
                self.broken.push(format!("seed {}: {sentence}", trial.seed));
            }
        }
        self.timely += outcome.timely;
        self.due += outcome.due;
        self.slowest = self.slowest.max(Duration::as_secs_f64(&outcome.slowest));
        self.proven += outcome.proven as u64;
        self.killed += outcome.killed;
        self.messages += outcome.messages;
        let label = trial.lie.map_or("each another", Lie::label);
        match self.lies.iter_mut().find(|(other, _)| *other == label) {
            Some((_, count)) => *count += 1,
            None => self.lies.push((label, 1)),
        }
    }

    /// For a person.
    pub fn table(&self) -> String {
        let share = 100.0 * self.timely as f64 / self.due.max(1) as f64;
        let lies: Vec<_> = self.lies.iter().map(|(label, count)| format!("{label} {count}")).collect();
        let mut text = format!(
            "trials          {}, of these broken {}\n\
             liars           {}\n\
             documents       {} of {} within their epoch ({share:.2} %)\n\
             slowest         {:.2} s until half of the honest ones had it\n\
             proofs          {} liars are proven to have said two things\n\
             killed          {} times, {} messages\n",
            self.trials,
            self.trials_broken,
            lies.join(", "),
            self.timely,
            self.due,
            self.slowest,
            self.proven,
            self.killed,
            self.messages
        );
        for sentence in &self.broken {
            text.push_str(&format!("broken          {sentence}\n"));
        }
        text
    }
}
