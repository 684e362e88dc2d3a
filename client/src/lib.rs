//! The Mizzle client library: streams through the mixnet.
//!
//! [`Client::start`] joins a network, [`Client::connect`] opens a [`Stream`], which reads and writes like
//! any other. `examples/fetch.rs` fetches a page in ten lines.
//!
//! A client talks to one entry and to nobody else. It sends at a constant rate for as long as it runs,
//! whatever it carries; and when the mixnet cannot be used, nothing is carried: there is no other way out.

mod client;
mod directory;
mod engine;
mod entries;
mod error;
mod inbox;
mod link;
mod pace;
mod slots;
mod status;
mod stream;
mod supervisor;

pub use client::{Client, Config, FIRST_BYTES};
pub use engine::Pong;
pub use error::{Error, ErrorKind, Result};
pub use mizzle_link::NetworkFile;
pub use mizzle_protocol::id::RelayId;
pub use mizzle_protocol::level::Level;
pub use mizzle_protocol::wire::target::{Host, Target};
pub use status::{Rate, Status};
pub use stream::Stream;
