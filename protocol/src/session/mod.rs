//! Sessions: private, two-way conversations with a service behind a gateway.
//!
//! HPKE (RFC 9180, X-Wing, base mode) makes the keys, and the first packet already carries the request.
//! Contexts of HPKE open strictly in order, which packets over a mixnet never keep, so only its *export* is
//! used: two direction keys, with packet numbers as nonces. A packet number is used once; what is sent
//! again travels under a new one. (spec: SESSION-1 to SESSION-13)

mod client;
mod estimate;
mod filling;
mod flows;
mod gateway;
mod keys;
mod packet;

pub use client::{
    ClientSession, FreshSurb, IDLE_RATE, IncomingDatagram, SessionStatistics, Urgency, WAITING_RATE,
    WAKING_RATE,
};
pub use gateway::{
    ASSURED_SURBS, DatagramLoss, GATEWAY_MEMORY, Gateway, GatewayEvent, GatewayStream, MAX_RATE,
    MAX_SESSIONS, MAX_SURBS, SESSION_MEMORY, SessionLog, Transmit,
};
pub use keys::{
    DirectionKey, ENCAPSULATION_SIZE, ForwardSecret, SERVICE_KEY_SIZE, ServiceKey, ServiceSecret,
    SessionKeys, TAG_SIZE, ephemeral,
};
