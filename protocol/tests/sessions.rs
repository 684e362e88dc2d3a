//! What a client that keeps to no rule, or someone who repeats its packets, can do to an exit's sessions.
//!
//! Session packets are made by hand and given to the [`Gateway`] as they come out of Sphinx, so nothing
//! before it can refuse what it must refuse itself.

#![allow(clippy::unwrap_used, clippy::panic)]

use mizzle_protocol::id::{PacketNumber, Period, SessionId, StreamId};
use mizzle_protocol::mix::DropReason;
use mizzle_protocol::path::Parameters;
use mizzle_protocol::session::{
    DatagramLoss, Gateway, GatewayEvent, SESSION_MEMORY, ServiceSecret, SessionKeys, SessionLog,
};
use mizzle_protocol::stream::{ResetReason, UPLOAD_WINDOW};
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::VARINT_MAX;
use mizzle_protocol::wire::frame::Frame;
use mizzle_protocol::wire::target::Target;
use mizzle_protocol::{Error, ErrorKind, Result};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::cell::RefCell;
use std::collections::BTreeSet;

const NOW: Instant = Instant::from_micros(1_000_000);

#[derive(Default)]
struct Log(RefCell<BTreeSet<SessionId>>);

impl SessionLog for Log {
    fn insert(&self, _: Period, id: SessionId) -> Result<()> {
        match self.0.borrow_mut().insert(id) {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Replayed, "seen")),
        }
    }
}

struct Exit {
    rng: ChaCha20Rng,
    secret: ServiceSecret,
    log: Log,
    gateway: Gateway,
}

impl Exit {
    fn new() -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let secret = ServiceSecret::generate(&mut rng);
        let mut exit =
            Self { rng, secret, log: Log::default(), gateway: Gateway::new(&Parameters::default()) };
        exit.restart();
        exit
    }

    /// A new process, with what the old one left on disk.
    fn restart(&mut self) {
        self.gateway = Gateway::new(&Parameters::default());
        self.gateway.set_service_keys(vec![(Period(1), self.secret.clone())]);
    }

    fn client(&mut self) -> Client {
        let public = self.secret.public().unwrap();
        let (keys, encapsulation) = SessionKeys::encapsulate(&public, &mut self.rng).unwrap();
        Client { keys, encapsulation, next: 0 }
    }

    fn take(&mut self, packet: &[u8]) -> Result<(), DropReason> {
        self.gateway.handle_packet(NOW, packet, &self.log, &mut self.rng)
    }

    fn events(&mut self) -> Vec<GatewayEvent> {
        std::iter::from_fn(|| self.gateway.poll_event()).collect()
    }
}

struct Client {
    keys: SessionKeys,
    encapsulation: Vec<u8>,
    next: u64,
}

impl Client {
    /// The next packet, with the encapsulation that opens the session.
    fn packet(&mut self, frames: &[Frame<'_>]) -> Vec<u8> {
        let number = self.next;
        self.next += 1;
        self.numbered(number, frames)
    }

    fn numbered(&self, number: u64, frames: &[Frame<'_>]) -> Vec<u8> {
        let mut header = vec![0, 1];
        header.extend(&self.encapsulation);
        header.extend(number.to_be_bytes());
        let mut plain = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut plain, 4000));
        self.keys.outward.seal(PacketNumber(number), &header, &mut plain).unwrap();
        header.append(&mut plain);
        assert!(header.len() < Parameters::default().geometry.message());
        header
    }
}

fn open(stream: u32) -> Frame<'static> {
    Frame::Open { stream: StreamId(stream), target: Target::parse("a.test", 80).unwrap() }
}

fn data(stream: u32, offset: u64, bytes: &[u8]) -> Frame<'_> {
    Frame::Data { stream: StreamId(stream), offset, last: false, bytes }
}

/// Executes as often as it arrives, unless something before it refuses.
fn datagram() -> Frame<'static> {
    Frame::Datagram { flow: 1, target: Target::parse("a.test", 53).unwrap(), bytes: b"order one" }
}

#[test]
fn a_packet_that_comes_again_executes_once() {
    let (mut exit, mut packets) = (Exit::new(), Vec::new());
    let mut client = exit.client();
    packets.push(client.packet(&[datagram()]));
    packets.push(client.packet(&[datagram()]));
    for packet in &packets {
        exit.take(packet).unwrap();
        assert_eq!(exit.events().len(), 1);
        // The same bytes in another Sphinx packet pass every replay filter before this.
        assert_eq!(exit.take(packet), Err(DropReason::Replayed));
    }
    assert_eq!(exit.take(&packets[0]), Err(DropReason::Replayed));
    assert_eq!(exit.events(), []);
}

#[test]
fn a_number_that_cannot_be_remembered_is_refused() {
    let mut exit = Exit::new();
    let client = exit.client();
    for number in [VARINT_MAX, u64::MAX] {
        let packet = client.numbered(number, &[datagram()]);
        assert_eq!(exit.take(&packet), Err(DropReason::BadPayload));
    }
    assert_eq!(exit.events(), []);
    let highest = client.numbered(VARINT_MAX - 1, &[datagram()]);
    exit.take(&highest).unwrap();
    assert_eq!(exit.take(&highest), Err(DropReason::Replayed));
    assert_eq!(exit.events().len(), 1);
}

#[test]
fn a_packet_from_below_the_window_is_refused() {
    let mut exit = Exit::new();
    let client = exit.client();
    // Every other number: so many ranges are not remembered one by one.
    for number in (2..1_400).step_by(2) {
        exit.take(&client.numbered(number, &[])).unwrap();
    }
    for number in [1, 2, 4, 1_398] {
        assert_eq!(exit.take(&client.numbered(number, &[datagram()])), Err(DropReason::Replayed), "{number}");
    }
    assert_eq!(exit.events(), []);
    exit.take(&client.numbered(1_397, &[datagram()])).unwrap();
}

#[test]
fn a_repeated_opening_joins_its_session_and_opens_nothing_twice() {
    let mut exit = Exit::new();
    let mut client = exit.client();
    for _ in 0..3 {
        // Openings until the first answer: each in a packet of its own number.
        let packet = client.packet(&[open(0), data(0, 0, b"GET")]);
        exit.take(&packet).unwrap();
    }
    assert_eq!((exit.gateway.sessions(), exit.gateway.streams()), (1, 1));
    let opened = exit.events().into_iter().filter(|event| matches!(event, GatewayEvent::Open(..)));
    assert_eq!(opened.count(), 1);
}

#[test]
fn a_repeated_opening_after_the_sessions_end_is_refused() {
    let mut exit = Exit::new();
    let mut client = exit.client();
    let first = client.packet(&[open(0), datagram()]);
    let last = client.packet(&[Frame::Close]);
    exit.take(&first).unwrap();
    exit.take(&last).unwrap();
    exit.events();
    let late = client.packet(&[open(0)]);
    for packet in [&first, &last, &late] {
        assert_eq!(exit.take(packet), Err(DropReason::Replayed));
    }
    assert_eq!((exit.gateway.sessions(), exit.events()), (0, vec![]));
}

#[test]
fn a_repeated_opening_after_a_restart_is_refused() {
    let mut exit = Exit::new();
    let mut client = exit.client();
    let first = client.packet(&[open(0), datagram()]);
    exit.take(&first).unwrap();
    exit.restart();
    let late = client.packet(&[open(0)]);
    for packet in [&first, &late] {
        assert_eq!(exit.take(packet), Err(DropReason::Replayed));
    }
    assert_eq!((exit.gateway.sessions(), exit.events()), (0, vec![]));
    let mut other = exit.client();
    let packet = other.packet(&[open(0)]);
    exit.take(&packet).unwrap();
}

#[test]
fn a_client_that_breaks_a_bound_loses_its_session() {
    let mut exit = Exit::new();
    let mut client = exit.client();
    let packet = client.packet(&[open(0), data(0, 0, b"GET")]);
    exit.take(&packet).unwrap();
    exit.events();
    let packet = client.packet(&[data(0, UPLOAD_WINDOW, b"x")]);
    assert_eq!(exit.take(&packet), Err(DropReason::BadPayload));
    assert!(matches!(exit.events()[..], [GatewayEvent::Closed(_, ResetReason::General)]));
    assert_eq!((exit.gateway.sessions(), exit.gateway.held()), (0, 0));
}

#[test]
fn one_packet_makes_an_exit_hold_no_more_than_its_share() {
    let mut exit = Exit::new();
    // The most of each kind that fits a packet, at the highest offsets that are allowed.
    let early: Vec<Frame<'_>> = (0..64).map(|stream| data(stream, 65_535, b"x")).collect();
    let holes: Vec<Frame<'_>> =
        [open(0)].into_iter().chain((0..340).map(|n| data(0, UPLOAD_WINDOW - 2 * n - 1, b"x"))).collect();
    let openings: Vec<Frame<'_>> = (0..200).map(open).collect();
    for frames in [early, holes, openings] {
        let before = exit.gateway.held();
        let mut client = exit.client();
        let packet = client.packet(&frames);
        exit.take(&packet).unwrap();
        let held = exit.gateway.held() - before;
        assert!((4_000..250_000).contains(&held), "{held} bytes for {} frames", frames.len());
    }
    // This one once took 257 MiB.
    let mut client = exit.client();
    let frames: Vec<Frame<'_>> = (0..256).map(|stream| data(stream, UPLOAD_WINDOW - 1, b"x")).collect();
    let packet = client.packet(&frames);
    let before = exit.gateway.held();
    assert_eq!(exit.take(&packet), Err(DropReason::BadPayload));
    assert_eq!(exit.gateway.held(), before);
}

/// Fills streams that nobody reads until the exit takes no more; the most that was held.
fn flood(exit: &mut Exit, client: &mut Client, streams: u32, each: u64) -> usize {
    let mut most = 0;
    let bytes = [7; 2_500];
    for stream in 0..streams {
        let packet = client.packet(&[open(stream)]);
        exit.take(&packet).unwrap();
        for offset in (0..each).step_by(bytes.len()) {
            let packet = client.packet(&[data(stream, offset, &bytes)]);
            exit.take(&packet).unwrap();
            most = most.max(exit.gateway.held());
        }
    }
    most
}

#[test]
fn a_session_that_nobody_reads_is_held_to_its_bound() {
    let mut exit = Exit::new();
    let mut client = exit.client();
    let most = flood(&mut exit, &mut client, 12, UPLOAD_WINDOW - 2_500);
    assert!(most <= SESSION_MEMORY + 10_000, "{most}");
    assert!(most >= SESSION_MEMORY, "so much it may hold: {most}");
    let exhausted = exit
        .events()
        .into_iter()
        .filter(|event| matches!(event, GatewayEvent::Closed(_, ResetReason::Exhausted)));
    assert!(exhausted.count() >= 4);
}

#[test]
fn an_exit_is_held_to_its_bound_and_still_serves_who_holds_little() {
    let mut exit = Exit::new();
    let memory = 2 << 20;
    exit.gateway.set_memory(memory);
    let mut most = 0;
    // Each keeps below the share that makes an exit cut it off.
    for _ in 0..30 {
        let mut greedy = exit.client();
        most = most.max(flood(&mut exit, &mut greedy, 1, 40_000));
    }
    assert!((memory / 2..memory).contains(&most), "{most}");
    let mut greedier = exit.client();
    most = most.max(flood(&mut exit, &mut greedier, 3, 400_000));
    assert!(most < memory, "{most}");
    exit.events();
    let mut modest = exit.client();
    let packet = modest.packet(&[open(0), data(0, 0, &[1; 1_000])]);
    exit.take(&packet).unwrap();
    assert!(matches!(exit.events()[..], [GatewayEvent::Open(..), GatewayEvent::Readable(_)]));
}

#[test]
fn what_an_exit_fetches_for_clients_that_do_not_ask_for_it_is_held_to_the_bound() {
    let mut exit = Exit::new();
    exit.gateway.set_memory(4 << 20);
    let mut taken = Vec::new();
    for _ in 0..20 {
        let mut client = exit.client();
        let packet = client.packet(&[open(0), open(1)]);
        exit.take(&packet).unwrap();
        for event in exit.events() {
            let GatewayEvent::Open(stream, _) = event else { continue };
            taken.push(exit.gateway.write(NOW, stream, &vec![0; 1 << 20]).unwrap());
        }
    }
    assert!(exit.gateway.held() < 4 << 20, "{}", exit.gateway.held());
    assert!(taken.len() == 40 && taken.iter().all(|&taken| taken > 1_000), "{taken:?}");
}

/// (spec: SESSION-11)
#[test]
fn datagrams_home_are_bounded_and_each_loss_has_its_reason() {
    let mut exit = Exit::new();
    let mut client = exit.client();
    exit.take(&client.packet(&[datagram()])).unwrap();
    let Some(GatewayEvent::Datagram { session, flow, target, .. }) = exit.events().pop() else {
        panic!("no datagram came")
    };
    let send = |exit: &mut Exit, id, size: usize| {
        exit.gateway.send_datagram(id, flow, target.clone(), vec![7; size])
    };
    let largest = exit.gateway.largest_datagram();
    assert!(largest > 2_500, "{largest}");
    assert_eq!(send(&mut exit, session, largest + 1), Some(DatagramLoss::TooLarge));
    assert_eq!(send(&mut exit, SessionId([9; 16]), 1), Some(DatagramLoss::NoSession));
    for _ in 0..64 {
        assert_eq!(send(&mut exit, session, largest), None);
    }
    let full = exit.gateway.held();
    assert_eq!(send(&mut exit, session, largest), Some(DatagramLoss::Crowded));
    assert_eq!(exit.gateway.held(), full, "the oldest goes when another comes");
    // Memory is short: the newest stays out.
    exit.gateway.set_memory(full);
    assert_eq!(send(&mut exit, session, largest), Some(DatagramLoss::Crowded));
    assert!(exit.gateway.held() < full);
    exit.gateway.set_memory(full * 100);
    assert_eq!(send(&mut exit, session, 1), None);
}
