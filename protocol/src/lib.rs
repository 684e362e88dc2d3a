//! Bytes, keys and state machines of the Mizzle mixnet.
//!
//! Nothing in this crate knows that a network, a clock or an operating system exists. Every machine has
//! the same shape: input arrives by `handle_…(now, …)`, the driver asks `poll_timeout()` when to call
//! again, output is taken by `poll_…`; randomness is passed in as `&mut impl CryptoRng`; time is our own
//! [`time::Instant`]. The daemons and the simulator drive the same code.
//!
//! Read in this order: [`geometry`] (how large things are), [`sphinx`] (the packet), [`path`] (where it
//! goes), [`mix`] (what a relay does with it), [`relay_loops`] (how it notices that packets are kept from it), [`level`] and [`cover`] (how much a client sends, and when), [`session`] and [`stream`]
//! (what it carries), [`endpoint`] (a whole client), [`consensus`] (who is in the network).

pub mod consensus;
pub mod country;
pub mod cover;
pub mod delay;
pub mod endpoint;
mod error;
pub mod geometry;
pub mod id;
pub mod level;
pub mod mix;
pub mod path;
pub mod relay_loops;
pub mod secret;
pub mod session;
pub mod sphinx;
pub mod stream;
pub mod time;
pub mod wire;

pub use error::{Error, ErrorKind, Result};
