//! The queue before one thread: bounded, filled and emptied many at a time.
//!
//! A wake-up costs as much as several microseconds of work, so the one who fills wakes the thread only if it
//! sleeps, and once for a whole batch; the thread takes all that is there.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A queue with many writers and one reader.
#[derive(Debug)]
pub(super) struct Inbox<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
    limit: usize,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    /// The reader sleeps and must be woken.
    asleep: bool,
    closed: bool,
}

impl<T> Inbox<T> {
    /// An empty queue for at most `limit`.
    pub(super) fn new(limit: usize) -> Self {
        let state = State { waiting: VecDeque::with_capacity(limit), asleep: false, closed: false };
        Self { state: Mutex::new(state), wake: Condvar::new(), limit }
    }

    /// Takes in as many of `items`, from the front, as there is room for; the rest stays in it.
    pub(super) fn fill(&self, items: &mut VecDeque<T>) {
        let mut state = self.lock();
        let room = self.limit.saturating_sub(state.waiting.len()).min(items.len());
        state.waiting.extend(items.drain(..room));
        if room > 0 && std::mem::take(&mut state.asleep) {
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Moves all that waits into `taken`, which is empty; sleeps for it, `patience` at most. False: no more
    /// will come.
    pub(super) fn take(&self, taken: &mut VecDeque<T>, patience: Duration) -> bool {
        let mut state = self.lock();
        if state.waiting.is_empty() && !state.closed && !patience.is_zero() {
            state.asleep = true;
            let woken = self.wake.wait_timeout(state, patience);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
            state.asleep = false;
        }
        // The room that was allocated for one serves the other the next time.
        std::mem::swap(&mut state.waiting, taken);
        !state.closed
    }

    /// Lets the reader know that no more will come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands over `items`, to one inbox if it has room, the one at `first`; what finds none goes to the next. What finds room
/// nowhere stays.
pub(super) fn distribute<T>(inboxes: &[Arc<Inbox<T>>], first: usize, items: &mut VecDeque<T>) {
    for inbox in inboxes.iter().cycle().skip(first).take(inboxes.len()) {
        if !items.is_empty() {
            inbox.fill(items);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_thread_has_no_room_for_goes_to_the_next() {
        let inboxes: Vec<_> = (0..3).map(|_| Arc::new(Inbox::new(3))).collect();
        let mut items: VecDeque<_> = (0..11).collect();
        distribute(&inboxes, 2, &mut items);
        assert_eq!(items, [9, 10]);
        for (inbox, wanted) in inboxes.iter().zip([[3, 4, 5], [6, 7, 8], [0, 1, 2]]) {
            let mut taken = VecDeque::new();
            inbox.take(&mut taken, Duration::ZERO);
            assert_eq!(taken, wanted);
        }
    }

    #[test]
    fn what_finds_no_room_stays_with_its_sender() {
        let inbox = Inbox::new(3);
        let mut items = VecDeque::from([1, 2, 3, 4, 5]);
        inbox.fill(&mut items);
        assert_eq!(items, [4, 5]);
        let mut taken = VecDeque::new();
        assert!(inbox.take(&mut taken, Duration::from_secs(60)));
        assert_eq!(taken, [1, 2, 3]);
        taken.clear();
        inbox.fill(&mut items);
        inbox.close();
        // What was there is handed out before the end.
        assert!(!inbox.take(&mut taken, Duration::from_secs(60)));
        assert_eq!(taken, [4, 5]);
    }

    #[test]
    fn a_sleeper_is_woken_by_work_and_by_the_end() {
        let inbox = Inbox::new(8);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let (mut all, mut taken) = (Vec::new(), VecDeque::new());
                while inbox.take(&mut taken, Duration::from_secs(60)) {
                    all.extend(taken.drain(..));
                }
                all.extend(taken);
                all
            });
            let mut items = VecDeque::new();
            for number in 0..10_000 {
                items.push_back(number);
                inbox.fill(&mut items);
            }
            while !items.is_empty() {
                inbox.fill(&mut items);
            }
            inbox.close();
            assert!(reader.join().unwrap().into_iter().eq(0..10_000));
        });
    }
}
