//! An entry's side of client links: who is connected, what they may send, and the slots in which they
//! receive.

pub(crate) mod clients;
pub(crate) mod line;
pub(crate) mod slots;
