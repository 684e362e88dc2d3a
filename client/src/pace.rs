//! The client's rates: what its load asks for, what it has asked of its entry, and what the entry has granted.
//! (spec: LEVEL-3)

use crate::status::{Rate, Status, record_size};
use mizzle_protocol::level::{Pace, Step};
use mizzle_protocol::path::Parameters;
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::cell::client_cell_size;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Shared by the engine, which wants, the slots, which ask and send, and the link, which hears the answer.
#[derive(Debug)]
pub(crate) struct Pacer {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    parameters: Parameters,
    wanted: Step,
    granted: Step,
    pace: Pace,
    /// What was asked for last, and when.
    asked: Option<(Step, Instant)>,
}

impl Pacer {
    /// Wants `step`, and has it, as long as nobody says otherwise.
    pub(crate) fn new(step: Step) -> Self {
        let parameters = Parameters::default();
        let (granted, pace) = parameters.levels.nearest(step);
        Self { state: Mutex::new(State { parameters, wanted: step, granted, pace, asked: None }) }
    }

    /// Takes over the network's table.
    pub(crate) fn set_parameters(&self, parameters: &Parameters) {
        self.lock().parameters = parameters.clone();
    }

    /// Enters the step and the price of its cover.
    pub(crate) fn add_to(&self, status: &mut Status) {
        let state = self.lock();
        status.level = state.granted.level.name().into();
        status.step = state.granted.step;
        status.step_wanted = (state.wanted != state.granted).then_some(state.wanted.step);
        let cell = client_cell_size(state.parameters.geometry);
        status.up = Rate::new(state.pace.send_rate, cell);
        status.down = Rate::new(state.pace.receive_rate * state.parameters.entry_slot_factor, cell);
    }

    /// Bytes of a cell on the line.
    pub(crate) fn record_size(&self) -> usize {
        record_size(client_cell_size(self.lock().parameters.geometry))
    }

    /// Wants another step: the next slot asks the entry for it.
    pub(crate) fn want(&self, step: Step) {
        self.lock().wanted = step;
    }

    /// The step that the client wants.
    pub(crate) fn wanted(&self) -> Step {
        self.lock().wanted
    }

    /// What the entry has granted: its rates hold from now on. Returns them.
    pub(crate) fn grant(&self, step: Step) -> Pace {
        let mut state = self.lock();
        (state.granted, state.pace) = state.parameters.levels.nearest(step);
        if state.granted == state.wanted {
            state.asked = None;
        }
        state.pace
    }

    /// The step that holds, and its rates.
    pub(crate) fn current(&self) -> (Step, Pace) {
        let state = self.lock();
        (state.granted, state.pace)
    }

    /// What to ask the entry for in this slot, if anything; and the rates that hold.
    pub(crate) fn slot(&self, now: Instant) -> (Option<Step>, Pace) {
        let mut state = self.lock();
        let wanted = state.wanted;
        // An entry that gave another step had a reason, which may pass.
        let answered = |(step, at): (Step, Instant)| step == wanted && now.since(at) < ASK_AGAIN;
        let ask = wanted != state.granted && !state.asked.is_some_and(answered);
        if ask {
            state.asked = Some((wanted, now));
        }
        (ask.then_some(wanted), state.pace)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a client waits before it asks again for a step that it was not given.
const ASK_AGAIN: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_protocol::level::{Level, Levels};

    #[test]
    fn a_step_is_asked_for_once_and_its_rates_hold_when_it_is_granted() {
        let step = |step| Step { level: Level::Balanced, step };
        let levels = Levels::default();
        let pacer = Pacer::new(step(0));
        let now = Instant::from_micros(1);
        assert_eq!(pacer.slot(now), (None, levels.pace(step(0)).unwrap()));
        pacer.want(step(2));
        assert_eq!(pacer.slot(now), (Some(step(2)), levels.pace(step(0)).unwrap()));
        assert_eq!(pacer.slot(now).0, None);
        pacer.grant(step(2));
        assert_eq!(pacer.slot(now), (None, levels.pace(step(2)).unwrap()));
        // Refused: asked again after a while, and no sooner.
        pacer.want(step(3));
        assert_eq!(pacer.slot(now).0, Some(step(3)));
        pacer.grant(step(2));
        assert_eq!(pacer.slot(now).0, None);
        assert_eq!(pacer.slot(now + ASK_AGAIN).0, Some(step(3)));
    }
}
