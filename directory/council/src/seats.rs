//! Who takes part: the authorities, each in its seat.

use mizzle_protocol::consensus::verify_over;
use mizzle_protocol::id::AuthorityId;
use mizzle_protocol::{Error, ErrorKind, Result};
use std::fmt;
use std::sync::Arc;

/// An authority's place in the order of their ids, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat(pub u8);

/// Logs name seats, never keys.
impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "authority {}", self.0)
    }
}

/// The authorities of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seats {
    network: Arc<str>,
    authorities: Arc<[AuthorityId]>,
}

impl Seats {
    /// The authorities of `network`, in any order.
    ///
    /// [`ErrorKind::Misuse`] if there are none, more than [`MAX_SEATS`], or one twice.
    pub fn new(network: &str, authorities: &[AuthorityId]) -> Result<Self> {
        let mut sorted = authorities.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.is_empty() || sorted.len() > MAX_SEATS || sorted.len() != authorities.len() {
            let message = format!("a network has 1 to {MAX_SEATS} authorities, each once");
            return Err(Error::new(ErrorKind::Misuse, message));
        }
        Ok(Self { network: network.into(), authorities: sorted.into() })
    }

    /// The network's name.
    pub fn network(&self) -> &str {
        &self.network
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.authorities.len()
    }

    /// f: so many may be dead or lie.
    pub fn faulty(&self) -> usize {
        (self.count() - 1) / 3
    }

    /// More than two thirds: so many decide, and sign a document.
    pub fn quorum(&self) -> usize {
        self.count() * 2 / 3 + 1
    }

    /// All seats, in order.
    pub fn iter(&self) -> impl Iterator<Item = Seat> + use<> {
        // Bounded by MAX_SEATS.
        (0..self.count() as u8).map(Seat)
    }

    /// Who sits there.
    pub fn authority(&self, seat: Seat) -> Option<AuthorityId> {
        self.authorities.get(usize::from(seat.0)).copied()
    }

    /// Where `authority` sits.
    pub fn seat(&self, authority: AuthorityId) -> Option<Seat> {
        let index = self.authorities.binary_search(&authority).ok()?;
        u8::try_from(index).ok().map(Seat)
    }

    /// True if `signature` is one of that seat's over `domain` and `body`.
    pub fn verify(&self, seat: Seat, domain: &[u8], body: &[u8], signature: &[u8; 64]) -> bool {
        self.authority(seat).is_some_and(|authority| verify_over(domain, body, &authority.0, signature))
    }
}

/// Most authorities of a network.
pub const MAX_SEATS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(count: u8) -> Seats {
        let authorities: Vec<_> = (0..count).rev().map(|number| AuthorityId([number; 32])).collect();
        Seats::new("local", &authorities).unwrap()
    }

    #[test]
    fn more_than_two_thirds_decide_and_fewer_than_one_third_may_fail() {
        for (count, faulty, quorum) in [(1, 0, 1), (3, 0, 3), (4, 1, 3), (7, 2, 5), (10, 3, 7)] {
            let seats = seats(count);
            assert_eq!((seats.faulty(), seats.quorum()), (faulty, quorum), "{count}");
            // Two quorums share an honest one.
            assert!(2 * seats.quorum() > seats.count() + seats.faulty(), "{count}");
        }
    }

    #[test]
    fn seats_are_in_order_of_the_ids_and_nobody_sits_twice() {
        let seats = seats(4);
        assert_eq!(seats.authority(Seat(2)), Some(AuthorityId([2; 32])));
        assert_eq!(seats.seat(AuthorityId([3; 32])), Some(Seat(3)));
        assert_eq!(seats.seat(AuthorityId([9; 32])), None);
        let twice = [AuthorityId([1; 32]), AuthorityId([1; 32])];
        assert_eq!(Seats::new("local", &twice).unwrap_err().kind(), ErrorKind::Misuse);
        assert_eq!(Seats::new("local", &[]).unwrap_err().kind(), ErrorKind::Misuse);
    }
}
