//! The Mizzle client library: streams, datagrams and look-ups through the mixnet.
//!
//! [`Client::start`] joins a network, [`Client::connect`] opens a [`Stream`], which reads and writes like
//! any other. `examples/fetch.rs` fetches a page in ten lines. [`Client::datagrams`] sends and receives datagrams;
//! [`Client::look_up`] and [`Client::look_up_address`] ask the resolver of an exit.
//!
//! A client talks to one entry and to nobody else. It sends at a constant rate for as long as it runs,
//! whatever it carries; and when the mixnet cannot be used, nothing is carried: there is no other way out.

mod answers;
mod by_exits;
mod client;
mod country;
mod datagram;
mod directory;
mod engine;
mod entries;
mod error;
mod hold;
mod inbox;
mod link;
mod look_up;
mod loop_times;
mod pace;
mod refresh;
mod skew;
mod slots;
mod status;
mod stream;
mod supervisor;

pub use client::{Client, Config, FIRST_BYTES};
pub use country::{ExitChoice, ExitsIn};
pub use datagram::Datagrams;
pub use engine::Pong;
pub use error::{Error, ErrorKind, Result};
pub use hold::Hold;
pub use loop_times::MOST_LOOP_TIMES;
pub use mizzle_link::{NetworkFile, Upstream};
pub use mizzle_protocol::consensus::DocumentFault;
pub use mizzle_protocol::country::Country;
pub use mizzle_protocol::id::RelayId;
pub use mizzle_protocol::level::Level;
pub use mizzle_protocol::wire::target::{Host, Target};
pub use skew::ClockSkew;
pub use status::{Anonymity, Rate, Sharing, Status};
pub use stream::Stream;
