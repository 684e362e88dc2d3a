//! What one listener carries and has refused, in numbers only.

use crate::refusals::{Refusals, Refused};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of one listener.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Connections that are served now.
    carried: AtomicU64,
    /// Those that came to nothing.
    pub(crate) refusals: Refusals,
}

/// What they say at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listened {
    /// Where it listens, as in the configuration.
    pub(crate) address: String,
    /// Connections that are served now, those that still say what they want included.
    pub(crate) connections: u64,
    /// Connections that came to nothing, by reason.
    pub(crate) refused: Refused,
}

/// A connection that is served; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Carried(Arc<Traffic>);

impl Traffic {
    /// Counts a connection for as long as the result lives.
    pub(crate) fn carry(self: &Arc<Self>) -> Carried {
        self.carried.fetch_add(1, Ordering::Relaxed);
        Carried(Arc::clone(self))
    }

    /// The counts of the listener at `address`.
    pub(crate) fn now(&self, address: String) -> Listened {
        let connections = self.carried.load(Ordering::Relaxed);
        Listened { address, connections, refused: self.refusals.now() }
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.carried.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_count_while_they_last() {
        let traffic = Arc::<Traffic>::default();
        let (one, two) = (traffic.carry(), traffic.carry());
        assert_eq!(traffic.now("a".into()).connections, 2);
        drop(one);
        assert_eq!(traffic.now("a".into()).connections, 1);
        drop(two);
        assert_eq!(traffic.now("a".into()), Listened { address: "a".into(), ..Listened::default() });
    }
}
