//! What keeps applications apart: streams of different isolation never share a session. (spec: PROXY-6)

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts new identities: whatever was isolated before one is apart from everything after it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Generation(Arc<AtomicU64>);

impl Generation {
    /// Begins a new one.
    pub(crate) fn advance(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The isolation of a token given at a listener. Its parts have fixed lengths but the last, so that two
    /// isolations are equal only if all parts are.
    pub(crate) fn isolation(&self, listener: u16, token: &[u8]) -> Vec<u8> {
        let generation = self.0.load(Ordering::Relaxed).to_be_bytes();
        [&generation, &listener.to_be_bytes()[..], token].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_alone_makes_another_isolation() {
        let generation = Generation::default();
        let mut all = vec![
            generation.isolation(0, b""),
            generation.isolation(1, b""),
            generation.isolation(0, b"a"),
            generation.isolation(1, b"a"),
        ];
        generation.advance();
        all.extend([generation.isolation(0, b""), generation.isolation(0, b"a")]);
        for (index, one) in all.iter().enumerate() {
            assert!(all.iter().skip(index + 1).all(|other| other != one));
        }
        assert_eq!(generation.isolation(0, b"a"), all[5]);
    }
}
