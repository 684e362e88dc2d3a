//! The client's end of a session, against a service that keeps to no rule.
//!
//! The bytes are steps: replies with any content, sealed as the service would, or not sealed at all; packets that
//! are built, and opened as the service would; time that passes; what the application does.

use crate::bytes::{Choices, Seed, counted, seed};
use crate::network::{EXIT, NETWORK, PERIOD, START, geometry, id};
use mizzle_protocol::geometry::SURB_SIZE;
use mizzle_protocol::id::{PacketNumber, StreamId};
use mizzle_protocol::session::{
    ClientSession, ENCAPSULATION_SIZE, ForwardSecret, FreshSurb, ServiceKey, SessionKeys, ephemeral,
};
use mizzle_protocol::sphinx::Surb;
use mizzle_protocol::stream::{RangeSet, ResetReason};
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::Reader;
use mizzle_protocol::wire::frame::Frame;
use mizzle_protocol::wire::target::Target;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::sync::LazyLock;
use std::time::Duration;

/// What a service can do to a session of a client. (spec: SESSION-10, SESSION-11, SESSION-13)
pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let mut side = Side::new();
    for _ in 0..STEPS {
        if choices.is_empty() {
            break;
        }
        match choices.u8() % 8 {
            0 | 1 => side.sealed(&mut choices),
            2 => side.build(choices.u8()),
            3 => side.pass(Duration::from_millis(4 * u64::from(choices.u8()))),
            4 => side.open(),
            5 => side.use_stream(&mut choices),
            6 => {
                let number = side.next_surb(choices.u8());
                let taken = side.session.handle_reply(side.now, number, DELAY, choices.counted());
                assert!(taken.is_err(), "a reply that nobody sealed is taken");
            }
            _ => {
                let bytes = vec![9; usize::from(choices.u16()) % (geometry().payload() / 3)];
                side.session.send_datagram(side.now, 1, target(), bytes);
            }
        }
        side.collect();
    }
}

struct Side {
    session: ClientSession,
    now: Instant,
    /// SURBs that were given out and not answered.
    surbs: Vec<u64>,
    made: u64,
    packets: u64,
    later: Option<SessionKeys>,
    client_share: Option<[u8; 32]>,
    streams: Vec<StreamId>,
    replies: u64,
}

impl Side {
    fn new() -> Self {
        let session = new_session();
        let (surbs, streams) = (Vec::new(), Vec::new());
        Self {
            session,
            now: START,
            surbs,
            made: 0,
            packets: 0,
            later: None,
            client_share: None,
            streams,
            replies: 0,
        }
    }

    fn next_surb(&mut self, which: u8) -> u64 {
        match self.surbs.len() {
            0 => 0,
            count => self.surbs.remove(usize::from(which) % count),
        }
    }

    /// A reply with any content, sent at any time by the service's clock.
    fn sealed(&mut self, choices: &mut Choices<'_>) {
        let (how, which) = (choices.u8(), choices.u8());
        let number = self.next_surb(which);
        let sent_at = if how & 1 == 0 { self.now.as_micros() } else { choices.u64() };
        let mut plain = sent_at.to_be_bytes().to_vec();
        plain.push(how >> 7);
        if how & 2 != 0 {
            Frame::Share(SERVICE.share).write(&mut plain, usize::MAX);
        }
        if how & 8 != 0 {
            let mut all = RangeSet::new();
            all.insert(0..self.packets);
            Frame::Ack(all).write(&mut plain, usize::MAX);
        }
        plain.extend(choices.counted());
        let later = self.later.as_ref().filter(|_| how & 4 != 0);
        let phase = if later.is_some() { 2 } else { 1 };
        let keys = later.unwrap_or(&SERVICE.keys);
        keys.homeward.seal(PacketNumber(number), &[phase], &mut plain).unwrap();
        let reply = [&[phase], plain.as_slice()].concat();
        let before = self.session.statistics().replies;
        let _ = self.session.handle_reply(self.now, number, DELAY, &reply);
        self.replies += self.session.statistics().replies - before;
        assert!(self.session.statistics().replies <= before + 1);
    }

    /// A packet of the client, opened by the service: it fits, and holds whole frames that clients send.
    fn build(&mut self, how: u8) {
        let (mut message, mut fresh) = (Vec::new(), Vec::new());
        let built = self.session.build(self.now, geometry(), &mut message, |number| {
            fresh.push(number);
            Ok(FreshSurb { surb: Surb::from_slice(&[7; SURB_SIZE])?, hint: PERIOD.hint(), delay: DELAY })
        });
        let number = built.unwrap();
        assert!(number.0 == self.packets, "a packet number is used twice");
        self.packets += 1;
        assert!(fresh.iter().copied().eq(self.made..self.made + fresh.len() as u64));
        self.made += fresh.len() as u64;
        self.surbs.extend(fresh);
        assert!(message.len() < geometry().message(), "a session packet fits no payload");
        if how & 1 == 0 {
            self.session.sent(self.now, number, DELAY);
        } else if how & 2 != 0 {
            self.session.discarded(number);
        }
        let header = match message[0] {
            0 => 2 + ENCAPSULATION_SIZE + 8,
            _ => 1 + 16 + 8,
        };
        let (header, sealed) = message.split_at(header);
        assert!(header.ends_with(&number.0.to_be_bytes()));
        let keys = match (header[0], &self.later) {
            (2, Some(later)) => later,
            (2, None) => return, // after a share that the bytes made up
            _ => &SERVICE.keys,
        };
        let mut plain = sealed.to_vec();
        match keys.outward.open(number, header, &mut plain) {
            Ok(()) => self.read_frames(&plain),
            Err(_) => assert!(header[0] == 2, "a client seals with other keys"),
        }
    }

    fn read_frames(&mut self, plain: &[u8]) {
        let mut reader = Reader::new(plain);
        while let Some(frame) = Frame::read(&mut reader).unwrap() {
            match frame {
                Frame::Share(share) => {
                    self.client_share = Some(share);
                    self.later = SERVICE.keys.with_forward_secrecy(&SERVICE.secret, &share).ok();
                }
                Frame::Held(_) | Frame::Connected(_) => panic!("a client sends what only services send"),
                _ => {}
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.session.handle_timeout(self.now, NETWORK.topology.parameters.surb_life);
        let _ = (self.session.urgency(self.now), self.session.poll_timeout(), self.session.is_overdrawn());
        let _ = (self.session.silence(self.now), self.session.idle(self.now));
    }

    fn open(&mut self) {
        if let Ok(stream) = self.session.open_stream(self.now, target()) {
            self.streams.push(stream);
        }
    }

    fn use_stream(&mut self, choices: &mut Choices<'_>) {
        let (which, what, count) = (usize::from(choices.u8()), choices.u8(), usize::from(choices.u16()));
        let Some(&stream) = self.streams.get(which % self.streams.len().max(1)) else { return };
        let streams = &mut self.session.streams;
        match what % 5 {
            0 => {
                let taken = streams.write(stream, &vec![7; count]);
                assert!(taken.is_ok_and(|taken| taken <= count) || taken.is_err());
            }
            1 => {
                let _ = streams.read(stream, &mut vec![0; count]);
            }
            2 => streams.finish(stream),
            3 => streams.reset(stream, ResetReason::Closed),
            _ => self.session.close(),
        }
    }

    fn collect(&mut self) {
        while self.session.streams.poll_event().is_some() {}
        let datagrams = std::iter::from_fn(|| self.session.poll_datagram()).count();
        assert!(datagrams <= 64, "{datagrams} datagrams wait");
        let statistics = self.session.statistics();
        assert!(statistics.replies == self.replies && statistics.packets_lost <= self.packets);
    }
}

pub(crate) fn seeds() -> Vec<Seed> {
    let frames = |frames: &[Frame<'_>]| {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes, usize::MAX));
        counted(&bytes)
    };
    let stream = StreamId(0);
    let mut held = RangeSet::new();
    held.insert(2..4);
    let connected = frames(&[Frame::Held(held.clone()), Frame::Connected(stream)]);
    let data = |offset, last| Frame::Data { stream, offset, last, bytes: b"answer" };
    let begun = [4, 5, 0, 0, 0, 40, 2, 0];
    let reply = |how: u8| [3, 20, 0, how, 0];
    let datagram = Frame::Datagram { flow: 0, target: target(), bytes: b"answer" };
    vec![
        seed("opened", &[&begun]),
        seed("connected", &[&begun, &reply(8), &connected, &[2, 0]]),
        seed(
            "answered",
            &[&begun, &reply(8), &connected, &reply(0), &frames(&[data(0, true)]), &[5, 0, 1, 0, 9]],
        ),
        seed(
            "later_keys",
            &[&begun, &reply(10), &connected, &[2, 0], &reply(4), &frames(&[data(0, false)]), &[2, 0]],
        ),
        // Once sealed with the later keys, under the encapsulation of the early ones.
        seed("share_without_ack", &[&begun, &reply(2), &counted(&[]), &[2, 0]]),
        seed("another_clock", &[&begun, &[0, 1, 0, 0, 6, 0, 0, 0, 0, 0, 0], &connected, &[3, 100, 2, 0]]),
        seed("end_of_time", &[&begun, &[0, 9, 0], &[0xff; 8], &connected, &[3, 100, 2, 0]]),
        seed(
            "lost",
            &[&begun, &reply(8), &frames(&[Frame::Held(RangeSet::new())]), &[3, 255, 3, 255, 2, 0, 2, 0]],
        ),
        seed("datagrams", &[&[7, 0, 50], &begun, &reply(0), &frames(&[datagram]), &[2, 0]]),
        seed(
            "reset",
            &[&begun, &reply(8), &frames(&[Frame::Reset { stream, reason: ResetReason::Refused }])],
        ),
        seed("from_the_wrong_side", &[&begun, &reply(8), &frames(&[Frame::Close])]),
        seed("not_sealed", &[&begun, &[6, 0], &counted(&[1; 60])]),
        seed("closed", &[&begun, &[5, 0, 4, 0, 0, 2, 0, 2, 0]]),
        seed("discarded", &[&begun, &[2, 3, 2, 3, 2, 0]]),
    ]
}

/// What the service knows of the one session, which is always the same.
struct Service {
    keys: SessionKeys,
    secret: ForwardSecret,
    share: [u8; 32],
}

static SERVICE: LazyLock<Service> = LazyLock::new(|| {
    let mut message = Vec::new();
    let mut session = new_session();
    let no_surb = |_| Ok(FreshSurb { surb: Surb::from_slice(&[7; SURB_SIZE])?, hint: 0, delay: DELAY });
    session.build(START, geometry(), &mut message, no_surb).unwrap();
    let keys = NETWORK.service.open(&message[2..2 + ENCAPSULATION_SIZE]).unwrap();
    let (secret, share) = ephemeral(&mut ChaCha20Rng::seed_from_u64(2));
    Service { keys, secret, share }
});

static SERVICE_KEY: LazyLock<ServiceKey> = LazyLock::new(|| NETWORK.service.public().unwrap());

fn new_session() -> ClientSession {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    ClientSession::new(START, id(EXIT), DELAY / 3, &SERVICE_KEY, PERIOD, &mut rng).unwrap()
}

fn target() -> Target {
    Target::parse("a.test", 80).unwrap()
}

const STEPS: usize = 64;
const DELAY: Duration = Duration::from_millis(60);
