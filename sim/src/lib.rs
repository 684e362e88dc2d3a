//! A whole Mizzle network in virtual time.
//!
//! A discrete-event simulator that drives the very machines of `mizzle-protocol`: paths and delays, mixes,
//! cover slots. A result is a statement about the product, not about a model of it. Everything random
//! comes from one seed, so the same seed gives the same run, to the bit.
//!
//! [`world`] carries packets ([`packet`]), [`cover`] fills it with clients that send cover, [`watch`] counts at
//! the mixes, [`figures`] says how what came out compares with theory. In [`conversation`] a whole client
//! talks with exits; [`table`] has it do so over good and bad networks. Real Sphinx packets are padded by a generator that no seed reaches: their bytes differ
//! from run to run, their ways and times do not.

pub mod conversation;
pub mod cover;
pub mod figures;
pub mod packet;
pub mod table;
pub mod watch;
pub mod world;
