//! The numbers that exchanges of datagrams have within a session. (spec: SESSION-11)

use std::collections::BTreeMap;

/// A client's exchanges with one service. Their numbers begin anew in each session and say nothing of the names that
/// the caller gave: two exits that compare numbers must not find one client in them.
#[derive(Debug, Default)]
pub(super) struct Flows {
    next: u64,
    /// The caller's name of each, by its number.
    known: BTreeMap<u64, u64>,
}

impl Flows {
    /// The number of the caller's `flow`, which may be new.
    pub(super) fn number(&mut self, flow: u64) -> u64 {
        if let Some((&number, _)) = self.known.iter().find(|(_, known)| **known == flow) {
            return number;
        }
        if self.known.len() >= MAX_FLOWS {
            self.known.pop_first();
        }
        let number = self.next;
        self.next += 1;
        self.known.insert(number, flow);
        number
    }

    /// True if the caller's `flow` has a number here.
    pub(super) fn contains(&self, flow: u64) -> bool {
        self.known.values().any(|known| *known == flow)
    }

    /// The caller's name of `number`; `None` if the service made it up.
    pub(super) fn flow(&self, number: u64) -> Option<u64> {
        self.known.get(&number).copied()
    }
}

/// Exchanges that are remembered; the oldest is forgotten.
const MAX_FLOWS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_from_zero_whatever_the_names_and_lead_back_to_them() {
        let mut flows = Flows::default();
        assert_eq!([900, 7, 900, 8].map(|flow| flows.number(flow)), [0, 1, 0, 2]);
        assert_eq!(
            [0, 1, 2, 3, 900].map(|number| flows.flow(number)),
            [Some(900), Some(7), Some(8), None, None]
        );
    }

    #[test]
    fn the_oldest_is_forgotten_and_its_number_never_used_again() {
        let mut flows = Flows::default();
        (0..MAX_FLOWS as u64 + 2).for_each(|flow| assert_eq!(flows.number(flow), flow));
        assert_eq!((flows.flow(1), flows.flow(2)), (None, Some(2)));
        assert!(!flows.contains(1) && flows.contains(2));
        assert_eq!(flows.number(0), MAX_FLOWS as u64 + 2);
    }
}
