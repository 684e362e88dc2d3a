//! A whole Mizzle network in virtual time.
//!
//! A discrete-event simulator that drives the very machines of `mizzle-protocol`: paths and delays, mixes,
//! cover slots. A result is a statement about the product, not about a model of it. Everything random
//! comes from one seed, so the same seed gives the same run, to the bit.
//!
//! [`scenario`] says what to simulate, [`run`] does it, [`outcome`] and [`report`] say what came out, [`page`] shows it. [`world`] carries [`packets`] (in the [`clear`], or
//! Sphinx) over [`links`], across the globe if wished ([`geography`]); [`cover`] fills it with clients that send cover. In [`turnover`]
//! keys, layers and relays change meanwhile. Observers ([`observe`]) look on:
//! [`watch`] counts at the mixes, [`targets`] asks where a packet went, [`senders`] who sent it; [`figures`] has the
//! closed forms beside which their answers are put, [`tune`] turns them round, [`hiding`] looks for rates that hide long enough, [`levels`]
//! judges the product's levels, whose rates [`promises`] makes. [`published`] puts others' figures beside ours. [`roads`] has networks that the product is compared with. In
//! [`conversation`] a whole client talks with exits; [`table`] has it do so over good and bad networks. [`real`] puts a network at [`rest`]
//! beside one of real processes.

pub mod adversary;
mod chart;
pub mod check;
pub mod clear;
pub mod conversation;
pub mod council;
pub mod cover;
pub mod exits;
pub mod figures;
pub mod geography;
pub mod hiding;
pub mod levels;
pub mod links;
pub mod observe;
pub mod outcome;
pub mod packets;
pub mod page;
mod place;
mod processes;
pub mod promises;
pub mod published;
mod queue;
pub mod real;
pub mod report;
pub mod rest;
pub mod roads;
pub mod run;
pub mod scenario;
pub mod senders;
pub mod shadow;
pub mod speaker;
pub mod sweep;
pub mod table;
pub mod targets;
pub mod town;
pub mod tune;
pub mod turnover;
mod wake;
pub mod watch;
pub mod workload;
pub mod world;
