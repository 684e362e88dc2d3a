//! `mizzle new-identity`: asks the running client to share no session with what came before.

use crate::control::{Answer, ControlClient, Request};
use std::error::Error;

/// Asks, and tells how it went; anything but the daemon's own word that it is done is a failure.
pub(crate) async fn run(control: &mut ControlClient) -> Result<(), Box<dyn Error>> {
    verdict(control.ask(&Request::NewIdentity).await?)?;
    crate::say("new streams have a new identity; those that are open keep the old one\n");
    Ok(())
}

fn verdict(answer: Option<Answer>) -> Result<(), String> {
    match answer {
        Some(Answer::Done { done: true }) => Ok(()),
        Some(Answer::Error { error }) => Err(error),
        _ => Err("the running client did not say that it took a new identity: take it as the old one".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_daemons_word_counts_as_done() {
        assert_eq!(verdict(Some(Answer::Done { done: true })), Ok(()));
        assert_eq!(verdict(Some(Answer::Error { error: "why".into() })), Err("why".into()));
        for other in [None, Some(Answer::Done { done: false }), Some(Answer::Status(Box::default()))] {
            assert!(verdict(other).is_err());
        }
    }
}
