//! Who asked the world to be woken, and for when.

use crate::observe::Observer;
use crate::world::World;
use mizzle_protocol::time::Instant;

/// Whose moment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// A client's slot.
    Slot(u32),
    /// A client's sessions have something to do.
    Client(u32),
    /// An exit's sessions have.
    Exit(u32),
    /// A client's applications have.
    Work(u32),
}

impl Wake {
    /// As [`World::wake_at`] takes it.
    pub(crate) fn number(self) -> u64 {
        let of = |kind: u64, index: u32| kind << 32 | u64::from(index);
        match self {
            Self::Slot(index) => of(0, index),
            Self::Client(index) => of(1, index),
            Self::Exit(index) => of(2, index),
            Self::Work(index) => of(3, index),
        }
    }

    /// As it comes back.
    pub(crate) fn from_number(number: u64) -> Self {
        let index = number as u32;
        match number >> 32 {
            0 => Self::Slot(index),
            1 => Self::Client(index),
            2 => Self::Exit(index),
            _ => Self::Work(index),
        }
    }
}

/// Asks to be woken, and for one moment at a time.
#[derive(Debug)]
pub(crate) struct Waker {
    wake: Wake,
    asked: Option<Instant>,
}

impl Waker {
    pub(crate) fn new(wake: Wake) -> Self {
        Self { wake, asked: None }
    }

    /// The world has woken it. False: for a moment that it no longer asks for.
    pub(crate) fn woken(&mut self, now: Instant) -> bool {
        let due = self.asked.is_some_and(|asked| asked <= now);
        if due {
            self.asked = None;
        }
        due
    }

    /// Whatever it asked for before does not count any more.
    pub(crate) fn forget(&mut self) {
        self.asked = None;
    }

    /// It wants to be woken at `when`, if that is some moment.
    pub(crate) fn ask<O: Observer>(&mut self, world: &mut World<O>, when: Option<Instant>) {
        let Some(when) = when.map(|when| when.max(world.now())) else { return };
        if self.asked.is_none_or(|asked| when < asked) {
            self.asked = Some(when);
            world.wake_at(when, self.wake.number());
        }
    }
}
