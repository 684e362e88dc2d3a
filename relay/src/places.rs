//! Places for connections of one kind: bounded, and fair between subnets.
//!
//! Whoever connects and says nothing takes a place for as long as a handshake, a request or a link may last. When
//! all are taken, a newcomer takes the place of the oldest in the subnet that has most: a crowd from one subnet
//! displaces itself and nobody else, and a crowd from many has to come faster than honest connections are done.
//! (spec: LINK-13)

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// All places of one kind.
#[derive(Debug)]
pub(crate) struct Places {
    limit: usize,
    state: Mutex<State>,
}

/// One of them; its place is free when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    number: u64,
    displaced: oneshot::Receiver<()>,
    places: Arc<Places>,
}

#[derive(Debug, Default)]
struct State {
    /// The oldest first.
    waiting: VecDeque<Waiting>,
    next: u64,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    subnet: Subnet,
    /// Dropped when another takes the place.
    _stays: oneshot::Sender<()>,
}

/// An IPv4 /16 or an IPv6 /32: what one party may well have the whole of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Subnet {
    V4([u8; 2]),
    V6([u8; 4]),
}

impl Places {
    /// So many places.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, state: Mutex::default() })
    }

    /// A place for a connection from `address`, and if all are taken, that of another.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Place {
        let (stays, displaced) = oneshot::channel();
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.waiting.push_back(Waiting { number, subnet: Subnet::of(address), _stays: stays });
        if state.waiting.len() > self.limit {
            state.displace();
        }
        drop(state);
        Place { number, displaced, places: self.clone() }
    }

    /// True if nobody has a place.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn displace(&mut self) {
        let mut crowds: HashMap<Subnet, usize> = HashMap::new();
        self.waiting.iter().for_each(|waiting| *crowds.entry(waiting.subnet).or_default() += 1);
        let most = crowds.values().copied().max();
        let oldest = self.waiting.iter().position(|waiting| crowds.get(&waiting.subnet).copied() == most);
        oldest.map(|index| self.waiting.remove(index));
    }
}

impl Place {
    /// Waits until another connection has taken this place.
    pub(crate) async fn displaced(&mut self) {
        // Nothing is ever sent: the other end goes away with the place.
        let _ = (&mut self.displaced).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().waiting.retain(|waiting| waiting.number != self.number);
    }
}

impl Subnet {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, ..] = address.octets();
                Self::V4([a, b])
            }
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.octets();
                Self::V6([a, b, c, d])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 256;

    fn address(subnet: u8, host: u8) -> IpAddr {
        [10, subnet, 0, host].into()
    }

    fn is_displaced(place: &mut Place) -> bool {
        place.displaced.try_recv() != Err(oneshot::error::TryRecvError::Empty)
    }

    #[test]
    fn a_crowd_of_one_subnet_displaces_itself_and_nobody_else() {
        let port = Places::new(LIMIT);
        let mut honest: Vec<_> = (1..20).map(|subnet| port.enter(address(subnet, 1))).collect();
        let mut crowd: Vec<_> = (0..=255).cycle().take(1_000).map(|n| port.enter(address(0, n))).collect();
        let mut late = port.enter(address(99, 1));
        assert!(!honest.iter_mut().any(is_displaced) && !is_displaced(&mut late));
        let stay = LIMIT - honest.len() - 1;
        let gone: Vec<_> = crowd.iter_mut().map(is_displaced).collect();
        assert_eq!(gone, (0..1_000).map(|n| n < 1_000 - stay).collect::<Vec<_>>());
        assert_eq!(port.lock().waiting.len(), LIMIT);
    }

    #[test]
    fn among_subnets_with_as_many_the_oldest_gives_way() {
        let port = Places::new(LIMIT);
        let mut places: Vec<_> = (0..=255).map(|subnet| port.enter([11, subnet, 0, 1].into())).collect();
        places.extend((0..3).map(|subnet| port.enter(address(subnet, 1))));
        let gone: Vec<_> = (0..places.len()).filter(|&index| is_displaced(&mut places[index])).collect();
        assert_eq!(gone, [0, 1, 2]);
    }

    #[test]
    fn a_place_that_is_left_is_free() {
        let port = Places::new(LIMIT);
        let mut first = port.enter(address(0, 1));
        for _ in 0..10 * LIMIT {
            drop(port.enter(address(0, 2)));
        }
        assert!(!is_displaced(&mut first));
        assert_eq!(port.lock().waiting.len(), 1);
    }

    #[test]
    fn subnets_are_of_the_address_behind_a_mapping() {
        assert_eq!(Subnet::of("::ffff:10.7.1.2".parse().unwrap()), Subnet::of(address(7, 9)));
        assert_ne!(Subnet::of(address(7, 1)), Subnet::of(address(8, 1)));
        let v6 = |text: &str| Subnet::of(text.parse().unwrap());
        assert_eq!(v6("2001:db8:1::1"), v6("2001:db8:2::1"));
        assert_ne!(v6("2001:db8::1"), v6("2001:db9::1"));
    }
}
