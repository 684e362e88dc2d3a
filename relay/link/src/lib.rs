//! The links of Mizzle, and what every daemon needs to make one.
//!
//! A link is TCP with TLS 1.3 and raw Ed25519 public keys (RFC 7250). One port carries cells and documents,
//! told apart by ALPN ([`Alpn`]). The side that is dialled always proves its [`Identity`], and the dialler
//! names the one that it wants; a dialler with an identity is a relay, one without is a client.
//! (spec: LINK-1 to LINK-6)
//!
//! Start at [`dial`] and [`Acceptor`].

mod clock;
mod error;
mod family;
mod files;
pub mod findings;
mod hexadecimal;
pub mod http;
mod identity;
mod network;
mod probe;
pub mod quota;
mod raw_key;
pub mod shelf;
mod tls;
pub mod units;
mod upstream;
mod way;
mod writer;

pub use clock::{Clock, ClockSet, Sources, seeded_rng};
pub use error::{Error, Result};
pub use family::{CertificateFile, RevocationFile};
pub use files::{read_bounded, write_atomically};
pub use identity::Identity;
pub use network::{AuthorityEntry, MirrorEntry, NetworkFile};
pub use probe::{is_about_reachability, probe};
pub use tls::{Accepted, Acceptor, Alpn, HANDSHAKE_TIME, Link, dial, dial_by};
pub use upstream::{Fault, Upstream};
pub use way::Way;
pub use writer::{Heard, LinkWriter, Written};
