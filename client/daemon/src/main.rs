//! `mizzle`: the SOCKS5 proxy of the Mizzle mixnet.

#![allow(dead_code, unused_imports)]
mod socks;

fn main() {}
