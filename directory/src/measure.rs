//! What relays carry, found out by packets of our own.
//!
//! The authority dials a relay as a relay would, and sends it Sphinx packets of two hops: the relay, which holds them
//! for no time, and the authority itself, with a key that nobody knows and that lives as long as the measurement. The
//! relay sends home by the same link what it has unwrapped; the number inside can be read only if it has taken its layer
//! off header and payload, so it has done all the work of a packet. ([`course`]: how many and how fast, and what that
//! says; [`rounds`]: when.) (spec: MEASURE-1 to MEASURE-5)

mod course;
mod rounds;

pub(crate) use rounds::Rounds;

use course::{Course, Stage, Trip};
use mizzle_link::{Alpn, Clock, Identity, Link, dial, seeded_rng};
use mizzle_protocol::consensus::Consensus;
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::{RelayId, ReplyId};
use mizzle_protocol::sphinx::{Hop, PublicKey, SecretKey, Unwrapped, build, open_message, unwrap};
use mizzle_protocol::time::Instant;
use mizzle_protocol::wire::cell::{RelayCell, relay_cell_size};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Packets per second that a document says of a relay, by what it announces and what was measured.
pub(crate) fn weight(announced: u32, measured: Option<u32>) -> u32 {
    announced.min(measured.unwrap_or(UNMEASURED_WEIGHT))
}

/// A relay to be measured.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Its identity.
    pub(crate) id: RelayId,
    /// Packets per second that it says it can carry.
    pub(crate) announced: u32,
    address: SocketAddr,
    key: PublicKey,
    /// Low byte of the key's period.
    hint: u8,
    geometry: Geometry,
}

impl Target {
    /// A relay as this document lists it; `None` if it has no key for now, or announces nothing.
    pub(crate) fn new(consensus: &Consensus, id: RelayId, announced: u32, now: Instant) -> Option<Self> {
        let (listed, period) = (consensus.relay(id)?, consensus.period(now));
        Some(Self {
            id,
            announced: Some(announced).filter(|announced| *announced > 0)?,
            address: *listed.addresses.first()?,
            key: listed.at(period)?.mix_key,
            hint: period.hint(),
            geometry: consensus.parameters.geometry,
        })
    }
}

/// Measures a relay by at most so many packets: what it carries a second. Nothing comes home: nothing is what it carries.
pub(crate) async fn measure(me: Identity, target: Target, packets: u32, clock: Clock) -> u32 {
    let id = target.id;
    let course = Course::new(target.announced, packets);
    let measured = async {
        let home = id_of(&me);
        let count = course.packets();
        let for_it = target.clone();
        let train = tokio::task::spawn_blocking(move || Train::build(&for_it, home, count)).await.ok()??;
        let link = dial(target.address, id, Some(&me), Alpn::Cells, None).await.ok()?;
        Some(Drive::start(train, link, clock).run(course).await)
    };
    tokio::time::timeout(TIME, measured).await.ok().flatten().unwrap_or(0)
}

fn id_of(me: &Identity) -> [u8; 32] {
    me.id().0
}

/// Packets that only this measurement can read when they are home.
struct Train {
    key: SecretKey,
    geometry: Geometry,
    /// Cells as they go out, in order of the numbers inside.
    cells: Vec<Vec<u8>>,
}

impl Train {
    /// Takes a tenth of a millisecond of work for each; `None`: there is no randomness, or the relay's key is none.
    fn build(target: &Target, home: [u8; 32], count: u32) -> Option<Self> {
        let mut rng = seeded_rng().ok()?;
        let key = SecretKey::generate(&mut rng);
        let hops = [
            Hop { address: target.id.0, key: target.key, delay: Duration::ZERO },
            Hop { address: home, key: key.public(), delay: Duration::ZERO },
        ];
        let (mut cells, mut packet) = (Vec::new(), Vec::new());
        for number in 0..count {
            let none = ReplyId([0; ReplyId::SIZE]);
            build(target.geometry, &hops, none, &number.to_be_bytes(), &mut rng, &mut packet).ok()?;
            let mut cell = Vec::new();
            RelayCell::Packet { hint: target.hint, packet: &packet }.emit(target.geometry, &mut cell);
            cells.push(cell);
        }
        Some(Self { key, geometry: target.geometry, cells })
    }
}

/// The number in a cell that came home, if it is one of ours, whole, and opened by the relay.
fn number_in(geometry: Geometry, key: &SecretKey, cell: &[u8]) -> Option<u32> {
    let RelayCell::Packet { packet, .. } = RelayCell::parse(geometry, cell).ok()? else { return None };
    let mut packet = packet.to_vec();
    match unwrap(geometry, key, &mut packet).ok()? {
        Unwrapped::Final { payload, .. } => {
            open_message(payload).ok()?.try_into().ok().map(u32::from_be_bytes)
        }
        Unwrapped::Forward { .. } => None,
    }
}

/// A measurement under way.
struct Drive {
    clock: Clock,
    train: Train,
    link: WriteHalf<Link>,
    /// What has come, unread, and when.
    came: mpsc::Receiver<(Instant, Vec<u8>)>,
    reading: JoinHandle<()>,
    /// Packets that have left, and cells that have come.
    sent: usize,
    back: usize,
}

impl Drop for Drive {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Drive {
    fn start(train: Train, link: Link, clock: Clock) -> Self {
        let (inner, link) = split(link);
        let count = train.cells.len().max(1);
        let (sender, came) = mpsc::channel(count);
        let reading = tokio::spawn(read(inner, train.geometry, count, sender, clock));
        Self { clock, train, link, came, reading, sent: 0, back: 0 }
    }

    async fn run(mut self, mut course: Course) -> u32 {
        while let Some(stage) = course.next() {
            let first = self.sent;
            let (mut home, mut moments) = (Vec::new(), Vec::new());
            let whole = self.send(stage, &mut moments, &mut home).await;
            self.wait(course.patience(), &mut home).await;
            let numbers = self.read(home).await;
            let mut trips: Vec<_> = moments.into_iter().map(|sent| Trip { sent, home: None }).collect();
            for (number, moment) in numbers {
                let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(first));
                // What is of a train before was waited for long enough; what comes twice came when it came first.
                if let Some(trip) = index.and_then(|index| trips.get_mut(index)) {
                    trip.home.get_or_insert(moment);
                }
            }
            course.note(&trips);
            if !whole && course.next().is_some() {
                // The link has ended.
                return 0;
            }
        }
        course.rate()
    }

    /// Sends a stage's packets at their moments, all that are due in one write. False: the link takes no more.
    async fn send(
        &mut self,
        stage: Stage,
        moments: &mut Vec<Instant>,
        home: &mut Vec<(Instant, Vec<u8>)>,
    ) -> bool {
        let (start, mut number, mut bytes) = (self.clock.now(), 0, Vec::new());
        while number < stage.packets {
            let now = self.clock.now();
            bytes.clear();
            while number < stage.packets && start + stage.due(number) <= now {
                let Some(cell) = self.train.cells.get(self.sent) else { return false };
                bytes.extend_from_slice(cell);
                moments.push(now);
                self.sent += 1;
                number += 1;
            }
            if !bytes.is_empty() {
                // What comes meanwhile waits in its channel, which has room for all.
                let written = async {
                    self.link.write_all(&bytes).await?;
                    self.link.flush().await
                };
                if !matches!(tokio::time::timeout(WRITE_TIME, written).await, Ok(Ok(()))) {
                    return false;
                }
            }
            while let Ok(cell) = self.came.try_recv() {
                self.back += 1;
                home.push(cell);
            }
            if number < stage.packets {
                tokio::time::sleep(self.clock.until(start + stage.due(number))).await;
            }
        }
        true
    }

    /// Waits until as many cells have come as packets have left, or for so long.
    async fn wait(&mut self, patience: Duration, home: &mut Vec<(Instant, Vec<u8>)>) {
        let all = async {
            while self.back < self.sent {
                let Some(cell) = self.came.recv().await else { return };
                self.back += 1;
                home.push(cell);
            }
        };
        // Who did not come in time is lost.
        let _ = tokio::time::timeout(patience, all).await;
    }

    /// The numbers of those that are ours and whole.
    async fn read(&self, home: Vec<(Instant, Vec<u8>)>) -> Vec<(u32, Instant)> {
        let (key, geometry) = (self.train.key.clone(), self.train.geometry);
        let opened = move || {
            let numbered =
                |(moment, cell): (Instant, Vec<u8>)| Some((number_in(geometry, &key, &cell)?, moment));
            home.into_iter().filter_map(numbered).collect()
        };
        tokio::task::spawn_blocking(opened).await.unwrap_or_default()
    }
}

/// Notes when each cell comes, and reads no more of them than packets are sent.
async fn read(
    mut link: ReadHalf<Link>,
    geometry: Geometry,
    count: usize,
    came: mpsc::Sender<(Instant, Vec<u8>)>,
    clock: Clock,
) {
    for _ in 0..count {
        let mut cell = vec![0; relay_cell_size(geometry)];
        // There is room for all; none is left if nobody waits any more.
        if link.read_exact(&mut cell).await.is_err() || came.try_send((clock.now(), cell)).is_err() {
            return;
        }
    }
}

/// Packets per second that a relay is believed to carry before anyone has measured it.
const UNMEASURED_WEIGHT: u32 = 1_000;
/// A measurement takes no longer.
const TIME: Duration = Duration::from_secs(12);
/// A link that takes nothing for so long has ended.
const WRITE_TIME: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_protocol::consensus::{ListedRelay, RelayPeriod};
    use mizzle_protocol::id::{Epoch, Period};
    use mizzle_protocol::mix::Role;
    use mizzle_protocol::path::Parameters;
    use mizzle_protocol::time::UnixTime;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    /// A document that lists these relays, and its first moment.
    pub(super) fn consensus(relays: &[u8]) -> (Consensus, Instant) {
        let start = UnixTime(1_800_000_000);
        let key = SecretKey::generate(&mut ChaCha20Rng::seed_from_u64(4)).public();
        let parameters = Parameters::local();
        let periods = (0..3).map(|period| RelayPeriod {
            period: Period(period),
            role: Role::Mix(1),
            mix_key: key,
            service_key: None,
        });
        let listed = |&number: &u8| ListedRelay {
            id: RelayId([number; 32]),
            addresses: vec![SocketAddr::from(([127, number, 0, 1], 7_000))],
            periods: periods.clone().collect(),
            family: None,
            weight: 1,
            country: None,
        };
        let consensus = Consensus {
            method: 1,
            network: "local".into(),
            epoch: Epoch(0),
            valid_after: start,
            fresh_until: start + parameters.epoch,
            valid_until: start + parameters.epoch * 3,
            previous: None,
            parameters,
            origin: start,
            required: Vec::new(),
            recommended: Vec::new(),
            relays: relays.iter().map(listed).collect(),
            not_running: Vec::new(),
            pool: None,
            made: None,
            later: Default::default(),
        };
        (consensus, start.instant())
    }

    #[test]
    fn only_what_the_relay_has_opened_is_whole() {
        let (consensus, start) = consensus(&[1]);
        let relay = SecretKey::generate(&mut ChaCha20Rng::seed_from_u64(4));
        let target = Target::new(&consensus, RelayId([1; 32]), 50, start).unwrap();
        let train = Train::build(&target, [9; 32], 3).unwrap();
        let geometry = target.geometry;
        let read = |cell: &[u8]| number_in(geometry, &train.key, cell);
        let open = |cell: &[u8]| {
            let mut cell = cell.to_vec();
            let opened = unwrap(geometry, &relay, &mut cell[2..]).unwrap();
            assert!(
                matches!(opened, Unwrapped::Forward { next, delay } if next == [9; 32] && delay.is_zero())
            );
            cell
        };
        for (number, cell) in (0..).zip(&train.cells) {
            assert_eq!(read(cell), None, "sent back as it came");
            let mut opened = open(cell);
            assert_eq!(read(&opened), Some(number));
            // The header done, and the payload spared.
            let head = 2 + mizzle_protocol::geometry::HEADER_SIZE;
            let lazy = [&opened[..head], &cell[head..]].concat();
            assert_eq!(read(&lazy), None);
            opened[head + 100] ^= 1;
            assert_eq!(read(&opened), None);
            // Another measurement's packets.
            let other = Train::build(&target, [9; 32], 1).unwrap();
            assert_eq!(read(&open(&other.cells[0])), None);
            assert_eq!(read(&[]), None);
        }
    }

    #[test]
    fn a_relay_without_a_key_for_now_or_that_rests_is_not_measured() {
        let (consensus, start) = consensus(&[1]);
        let id = RelayId([1; 32]);
        let target = |announced, now| Target::new(&consensus, id, announced, now);
        assert!(target(5, start).is_some() && target(0, start).is_none());
        assert!(target(5, start + consensus.parameters.key_period * 3).is_none());
        assert!(Target::new(&consensus, RelayId([2; 32]), 5, start).is_none());
    }

    #[test]
    fn the_weight_is_the_less_of_both_figures_and_bounded_while_nobody_has_measured() {
        for (announced, measured, expected) in [
            (500, None, 500),
            (50_000, None, 1_000),
            (50_000, Some(192), 192),
            (100, Some(192), 100),
            (9, Some(0), 0),
        ] {
            assert_eq!(weight(announced, measured), expected);
        }
    }
}
