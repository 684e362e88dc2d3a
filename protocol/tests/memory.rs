//! That the memory which an exit counts for its sessions is what they really take.
//!
//! A process of its own: what it measures is the whole process.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use mizzle_protocol::Result;
use mizzle_protocol::id::{PacketNumber, Period, SessionId, StreamId};
use mizzle_protocol::path::Parameters;
use mizzle_protocol::session::{Gateway, ServiceSecret, SessionKeys, SessionLog};
use mizzle_protocol::stream::{EARLY_WINDOW, MAX_UNOPENED, UPLOAD_WINDOW};
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::frame::Frame;
use mizzle_protocol::wire::target::Target;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

struct Forgetful;

impl SessionLog for Forgetful {
    fn insert(&self, _: Period, _: SessionId) -> Result<()> {
        Ok(())
    }
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// One frame of a stream that arrives at this offset.
fn byte(stream: u32, offset: u64) -> Frame<'static> {
    Frame::Data { stream: StreamId(stream), offset, last: false, bytes: b"x" }
}

#[test]
fn an_exit_takes_no_more_memory_than_it_counts() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let secret = ServiceSecret::generate(&mut rng);
    let public = secret.public().unwrap();
    let mut gateway = Gateway::new(&Parameters::default());
    gateway.set_service_keys(vec![(Period(1), secret)]);
    let mut send = |gateway: &mut Gateway, frames: &[Frame<'_>]| {
        let (keys, encapsulation) = SessionKeys::encapsulate(&public, &mut rng).unwrap();
        let mut header = vec![0, 1];
        header.extend(&encapsulation);
        header.extend(0u64.to_be_bytes());
        let mut plain = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut plain, 4000));
        keys.outward.seal(PacketNumber(0), &header, &mut plain).unwrap();
        header.append(&mut plain);
        gateway.handle_packet(Instant::from_micros(1_000_000), &header, &Forgetful, &mut rng)
    };
    send(&mut gateway, &[]).unwrap();

    // One byte at the end of each of 256 windows: 257 MiB, when holes took memory.
    let before = resident();
    let windows: Vec<Frame<'_>> = (0..256).map(|stream| byte(stream, UPLOAD_WINDOW - 1)).collect();
    assert!(send(&mut gateway, &windows).is_err());
    let grown = resident().saturating_sub(before);
    assert!(grown < 8 << 20, "one packet took {grown} bytes");

    let opening = Frame::Open { stream: StreamId(0), target: Target::parse("a.test", 80).unwrap() };
    let early: Vec<Frame<'_>> =
        (0..MAX_UNOPENED as u32).map(|stream| byte(stream, EARLY_WINDOW - 1)).collect();
    let mut holes = vec![opening];
    holes.extend((0..340).map(|n| byte(0, UPLOAD_WINDOW - 2 * n - 1)));
    for frames in [early, holes] {
        let (before, counted) = (resident(), gateway.held());
        for _ in 0..200 {
            send(&mut gateway, &frames).unwrap();
        }
        let (grown, counted) = (resident().saturating_sub(before), gateway.held() - counted);
        println!("{counted} bytes counted, {grown} taken, for 200 packets of {} frames", frames.len());
        assert!(counted > 1 << 20 && grown < counted + (2 << 20), "{grown} taken, {counted} counted");
    }
}
