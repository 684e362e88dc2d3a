//! The sessions of an exit, against a client that keeps to no rule.
//!
//! The bytes are steps: packets with any content, sealed as the client of one session would, or not sealed at
//! all; time that passes; what the exit's connections do. Replies are opened as their client would.

use crate::bytes::{Choices, Seed, counted, seed};
use crate::network::{Memory, NETWORK, PERIOD, START, geometry};
use mizzle_protocol::id::{PacketNumber, ReplyId};
use mizzle_protocol::mix::DropReason;
use mizzle_protocol::session::{
    ForwardSecret, GATEWAY_MEMORY, Gateway, GatewayEvent, GatewayStream, SessionKeys, ephemeral,
};
use mizzle_protocol::sphinx::{Hop, ReplyKeys, SecretKey, Surb, Unwrapped, build_surb, open_reply, unwrap};
use mizzle_protocol::stream::ResetReason;
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::Reader;
use mizzle_protocol::wire::frame::Frame;
use mizzle_protocol::wire::target::Target;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::sync::LazyLock;
use std::time::Duration;

/// What a client can do to the sessions of an exit. (spec: SESSION-5 to SESSION-9)
pub fn gateway(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let mut exit = Exit::new();
    for _ in 0..STEPS {
        if choices.is_empty() {
            break;
        }
        match choices.u8() % 8 {
            0 | 1 => exit.sealed(&mut choices),
            2 => exit.give_surb(),
            3 => exit.pass(Duration::from_millis(4 * u64::from(choices.u8()))),
            4 => exit.use_stream(&mut choices),
            5 => {
                let bytes = vec![9; usize::from(choices.u16()) % 4_096];
                exit.gateway.send_datagram(CLIENT.keys.id, 1, target(), bytes);
            }
            6 => {
                let taken = exit.take(choices.counted());
                assert!(taken.is_err(), "a packet that nobody sealed is taken");
            }
            _ => exit.pass(Duration::from_secs(u64::from(choices.u8()))),
        }
        exit.collect();
    }
}

struct Exit {
    gateway: Gateway,
    log: Memory,
    rng: ChaCha20Rng,
    now: Instant,
    next: u64,
    surbs_given: usize,
    later: Option<SessionKeys>,
    streams: Vec<GatewayStream>,
}

impl Exit {
    fn new() -> Self {
        let mut gateway = Gateway::new(&NETWORK.topology.parameters);
        gateway.set_service_keys(vec![(PERIOD, NETWORK.service.clone())]);
        Self {
            gateway,
            log: Memory::default(),
            rng: ChaCha20Rng::seed_from_u64(3),
            now: START,
            next: 0,
            surbs_given: 0,
            later: None,
            streams: Vec::new(),
        }
    }

    fn take(&mut self, packet: &[u8]) -> Result<(), DropReason> {
        self.gateway.handle_packet(self.now, packet, &self.log, &mut self.rng)
    }

    /// A packet with any content, under any number, early or later, by the session's id or its encapsulation.
    fn sealed(&mut self, choices: &mut Choices<'_>) {
        let how = choices.u8();
        let number = if how & 1 == 0 { self.next } else { choices.u64() };
        let content = choices.counted();
        self.send(how, number, content);
    }

    fn send(&mut self, how: u8, number: u64, content: &[u8]) {
        let client = &*CLIENT;
        self.next = self.next.max(number).wrapping_add(1);
        let later = self.later.as_ref().filter(|_| how & 2 != 0);
        let mut packet = match (later, how & 4) {
            (Some(_), _) => [&[2], client.keys.id.0.as_slice()].concat(),
            (None, 0) => [&[0, PERIOD.hint()], client.encapsulation.as_slice()].concat(),
            (None, _) => [&[1], client.keys.id.0.as_slice()].concat(),
        };
        packet.extend(number.to_be_bytes());
        let mut content = content.to_vec();
        let keys = later.unwrap_or(&client.keys);
        keys.outward.seal(PacketNumber(number), &packet, &mut content).unwrap();
        packet.append(&mut content);
        if self.take(&packet).is_ok() {
            assert!(self.take(&packet).is_err(), "a packet is taken twice");
        }
    }

    /// A SURB whose reply can be opened here, and the client's share.
    fn give_surb(&mut self) {
        let Some((surb, _)) = CLIENT.surbs.get(self.surbs_given) else { return };
        let mut content = Vec::new();
        let surbs = [&[SURB_HINT], surb.as_bytes().as_slice()].concat();
        Frame::Surbs { first: self.surbs_given as u64, surbs: &surbs }.write(&mut content, usize::MAX);
        Frame::Share(CLIENT.share).write(&mut content, usize::MAX);
        self.surbs_given += 1;
        self.send(0, self.next, &content);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.gateway.handle_timeout(self.now);
        let mut packet = Vec::new();
        for _ in 0..8 {
            let Some(transmit) = self.gateway.poll_transmit(self.now, &mut self.rng, &mut packet) else {
                break;
            };
            assert!(packet.len() == geometry().packet());
            if transmit.hint == SURB_HINT && transmit.first.0 == FIRST_HOP {
                self.open_reply(&mut packet);
            }
        }
        let _ = self.gateway.poll_timeout();
    }

    /// What the client finds: frames that only a service sends, whole, under keys that it has.
    fn open_reply(&mut self, packet: &mut [u8]) {
        let client = &*CLIENT;
        // A SURB that the bytes themselves hold may look like one of ours.
        let Ok(Unwrapped::Final { reply, payload }) = unwrap(geometry(), &client.key, packet) else { return };
        let index = usize::from(reply.0[0]) - 1;
        let message = open_reply(&client.surbs[index].1, payload).unwrap();
        let (phase, sealed) = message.split_first().unwrap();
        let keys = match phase {
            1 => &client.keys,
            2 => self.later.as_ref().unwrap(),
            _ => panic!("a reply of unknown kind"),
        };
        let mut plain = sealed.to_vec();
        if keys.homeward.open(PacketNumber(index as u64), &[*phase], &mut plain).is_err() {
            return; // the same, under another number
        }
        assert!(plain[..8] == self.now.as_micros().to_be_bytes() && plain[8] <= 1);
        let mut reader = Reader::new(&plain[9..]);
        while let Some(frame) = Frame::read(&mut reader).unwrap() {
            match frame {
                Frame::Share(theirs) => {
                    self.later = client.keys.with_forward_secrecy(&client.secret, &theirs).ok();
                }
                Frame::Ack(_) | Frame::Held(_) | Frame::Connected(_) | Frame::Data { .. } => {}
                Frame::Window { .. } | Frame::Reset { .. } | Frame::Datagram { .. } => {}
                _ => panic!("a service sends what only clients send"),
            }
        }
    }

    fn use_stream(&mut self, choices: &mut Choices<'_>) {
        let (which, what, count) = (usize::from(choices.u8()), choices.u8(), usize::from(choices.u16()));
        let Some(&stream) = self.streams.get(which % self.streams.len().max(1)) else { return };
        match what % 6 {
            0 => self.gateway.connected(self.now, stream),
            1 => self.gateway.refuse(self.now, stream, ResetReason::from_code(what / 6)),
            2 => {
                let taken = self.gateway.write(self.now, stream, &vec![7; count]);
                assert!(taken.is_ok_and(|taken| taken <= count) || taken.is_err());
            }
            3 => {
                let _ = self.gateway.read(self.now, stream, &mut vec![0; count]);
            }
            4 => self.gateway.finish(self.now, stream),
            _ => self.gateway.reset(self.now, stream, ResetReason::Closed),
        }
    }

    fn collect(&mut self) {
        while let Some(event) = self.gateway.poll_event() {
            match event {
                GatewayEvent::Open(stream, target) => {
                    assert!(target.port != 0);
                    self.streams.push(stream);
                }
                GatewayEvent::Datagram { target, .. } => assert!(target.port != 0),
                GatewayEvent::Readable(_) | GatewayEvent::Writable(_) | GatewayEvent::Closed(..) => {}
            }
        }
        assert!(self.gateway.sessions() <= 1 && self.gateway.held() <= GATEWAY_MEMORY);
        if self.gateway.sessions() == 0 {
            assert!(self.gateway.held() == 0 && self.gateway.streams() == 0, "an ended session holds memory");
        }
    }
}

pub(crate) fn gateway_seeds() -> Vec<Seed> {
    let frames = |frames: &[Frame<'_>]| {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes, usize::MAX));
        counted(&bytes)
    };
    let stream = mizzle_protocol::id::StreamId(0);
    let open = Frame::Open { stream, target: target() };
    let data = Frame::Data { stream, offset: 0, last: false, bytes: b"request" };
    let last = Frame::Data { stream, offset: 7, last: true, bytes: b"" };
    let rate = Frame::Rate { sequence: 1, per_1000_seconds: 100_000 };
    let datagram = Frame::Datagram { flow: 1, target: target(), bytes: b"question" };
    let opening = [&[0, 0], frames(&[rate.clone(), open.clone(), data.clone()]).as_slice()].concat();
    let (connect, respond) = ([4, 0, 0, 0, 0], [4, 0, 2, 1, 0]);
    let later = [&[0, 2], frames(std::slice::from_ref(&last)).as_slice()].concat();
    vec![
        seed("request", &[&opening]),
        seed("conversation", &[&opening, &[2, 2, 2], &connect, &respond, &[3, 60], &later, &[3, 60]]),
        seed("read_and_finish", &[&opening, &[4, 0, 3, 0, 9], &[2], &[4, 0, 4, 0, 0], &[3, 100]]),
        seed("refused", &[&opening, &[2], &[4, 0, 1, 0, 0], &[3, 100]]),
        seed("datagram", &[&[0, 0], &frames(&[rate.clone(), datagram]), &[2, 5, 0, 40, 3, 100]]),
        seed("by_id", &[&opening, &[0, 4], &frames(&[last])]),
        seed(
            "out_of_order",
            &[&[0, 1, 0, 0, 0, 0, 0, 0, 0, 9], &frames(&[data]), &[0, 1], &[0; 8], &frames(&[open])],
        ),
        seed("closed", &[&opening, &[0, 0], &frames(&[Frame::Close]), &opening]),
        seed(
            "beyond_the_window",
            &[&[0, 0], &frames(&[Frame::Data { stream, offset: 1 << 40, last: true, bytes: b"x" }])],
        ),
        seed("from_the_wrong_side", &[&[0, 0], &frames(&[Frame::Connected(stream)])]),
        seed("not_sealed", &[&[6], &counted(&[1; 60])]),
        seed("forgotten", &[&opening, &[7, 200, 7, 200]]),
        // Once taken twice: the set of what arrived cannot hold this number.
        seed("highest_number", &[&[0, 1], &[0xff; 8], &frames(&[rate])]),
    ]
}

/// The client of the one session: what it knows, and SURBs that go to it in one hop.
struct Client {
    keys: SessionKeys,
    encapsulation: Vec<u8>,
    secret: ForwardSecret,
    share: [u8; 32],
    key: SecretKey,
    surbs: Vec<(Surb, ReplyKeys)>,
}

static CLIENT: LazyLock<Client> = LazyLock::new(|| {
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    let service = NETWORK.service.public().unwrap();
    let (keys, encapsulation) = SessionKeys::encapsulate(&service, &mut rng).unwrap();
    let (secret, share) = ephemeral(&mut rng);
    let key = SecretKey::generate(&mut rng);
    let hop = Hop { address: FIRST_HOP, key: key.public(), delay: Duration::ZERO };
    let mut surb =
        |index: u8| build_surb(std::slice::from_ref(&hop), ReplyId([index; 16]), &mut rng).unwrap();
    let surbs = (1..=6).map(&mut surb).collect();
    Client { keys, encapsulation, secret, share, key, surbs }
});

fn target() -> Target {
    Target::parse("a.test", 80).unwrap()
}

const STEPS: usize = 64;
const SURB_HINT: u8 = 0x77;
const FIRST_HOP: [u8; 32] = [0xee; 32];
