//! A measurement's course: how many packets to send how fast, and what their coming home says.
//!
//! Three packets alone say how long the way there and back takes. Then trains follow, each twice as fast as the one
//! before, until half of one is lost or late, or the relay's own figure is near; and a last one, which lasts a second
//! and decides. So a slow relay gets some four times what it carries at most, and that for a second, or some thirty
//! packets.
//!
//! What counts is what came home, over the time that it took: from the first packet's leaving to the coming of each,
//! less the time of the way, and no less than the train itself takes to leave (packet train dispersal; Dovrolis,
//! Ramanathan and Moore, 2004). The best count of the first so many that came decides, so one that is late does not
//! spoil the others, and holding all back to let them go at once gains nothing. (spec: MEASURE-3)

use mizzle_protocol::time::Instant;
use std::time::Duration;

/// Packets to send at equal distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stage {
    /// How many.
    pub(crate) packets: u32,
    /// How many a second.
    pub(crate) rate: u32,
}

impl Stage {
    fn lasting(time: Duration, rate: u32, least: u32) -> Self {
        let packets = u64::from(rate) * time.as_millis() as u64 / 1_000;
        Self { packets: u32::try_from(packets).unwrap_or(u32::MAX).max(least), rate }
    }

    /// When the packet with this number, from zero, leaves, from the start of the stage on.
    pub(crate) fn due(&self, number: u32) -> Duration {
        Duration::from_nanos(1_000_000_000 * u64::from(number) / u64::from(self.rate.max(1)))
    }
}

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trip {
    /// When it left.
    pub(crate) sent: Instant,
    /// When it was home, and whole.
    pub(crate) home: Option<Instant>,
}

/// What is next, and what is known.
#[derive(Clone, Debug)]
pub(crate) struct Course {
    /// The fastest train.
    top: u32,
    /// The way there and back.
    way: Duration,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Alone,
    Growing(u32),
    Last(u32),
    Done(u32),
}

impl Course {
    /// For a relay that announces so many packets a second; at most `packets` are sent to it.
    pub(crate) fn new(announced: u32, packets: u32) -> Self {
        Self { top: announced.min(most(packets)).max(1), way: LONGEST_WAY, step: Step::Alone }
    }

    /// What is to be sent next; `None`: nothing more.
    pub(crate) fn next(&self) -> Option<Stage> {
        match self.step {
            Step::Alone => Some(Stage { packets: ALONE, rate: ALONE_RATE }),
            Step::Growing(rate) => Some(Stage::lasting(TRAIN, rate, 0)),
            Step::Last(rate) => Some(Stage::lasting(LAST_TRAIN, rate, LEAST)),
            Step::Done(_) => None,
        }
    }

    /// How long after a stage's last packet has left to wait for those that are not home.
    pub(crate) fn patience(&self) -> Duration {
        match self.step {
            Step::Alone => ALONE_PATIENCE,
            _ => self.way + PATIENCE,
        }
    }

    /// What became of the packets of [`Self::next`], in the order in which they left. Fewer: the link has ended.
    pub(crate) fn note(&mut self, trips: &[Trip]) {
        let Some(stage) = self.next() else { return };
        let ways = trips.iter().filter_map(|trip| Some(trip.home?.since(trip.sent)));
        self.way = ways.fold(self.way, Duration::min);
        let passed = passed(stage, trips, self.way);
        self.step = match self.step {
            Step::Alone if trips.iter().all(|trip| trip.home.is_none()) => Step::Done(0),
            Step::Alone => self.grow(self.top / SLOWEST),
            Step::Growing(rate) if passed * 2.0 >= f64::from(rate) => self.grow(rate.saturating_mul(2)),
            Step::Growing(_) => Step::Last(((passed * 2.0) as u32).max(LEAST).min(self.top)),
            // The distances are as even as the machine's clock lets them be.
            Step::Last(rate) if passed >= f64::from(rate) * EVEN => Step::Done(rate),
            Step::Last(_) | Step::Done(_) => Step::Done(passed as u32),
        };
    }

    /// Packets a second that the relay has carried, as far as is known.
    pub(crate) fn rate(&self) -> u32 {
        match self.step {
            Step::Done(rate) => rate,
            _ => 0,
        }
    }

    /// Packets of the whole course at most.
    pub(crate) fn packets(&self) -> u32 {
        let mut course = self.clone();
        let mut sum = 0u32;
        while let Some(stage) = course.next() {
            sum = sum.saturating_add(stage.packets);
            course.step = match course.step {
                Step::Alone => course.grow(course.top / SLOWEST),
                Step::Growing(rate) => course.grow(rate.saturating_mul(2)),
                Step::Last(_) | Step::Done(_) => Step::Done(0),
            };
        }
        sum
    }

    /// A train of this rate, or of the first of its doubles that has packets enough; else the last one.
    fn grow(&self, mut rate: u32) -> Step {
        while rate <= self.top / 2 {
            if Stage::lasting(TRAIN, rate, 0).packets >= LEAST {
                return Step::Growing(rate);
            }
            rate = rate.saturating_mul(2).max(1);
        }
        Step::Last(self.top)
    }
}

/// Packets a second that a measurement by so many packets can show at most.
pub(crate) fn most(packets: u32) -> u32 {
    u32::try_from(u64::from(packets.saturating_sub(ALONE)) * 4 / 5).unwrap_or(u32::MAX).max(1)
}

/// Packets a second that came home of a stage.
fn passed(stage: Stage, trips: &[Trip], way: Duration) -> f64 {
    let Some(first) = trips.first() else { return 0.0 };
    // None leaves before its moment; one that leaves later comes later, too.
    let took = stage.due(stage.packets.saturating_sub(1));
    let mut home: Vec<Duration> = trips
        .iter()
        .filter_map(|trip| Some(trip.home?.since(first.sent).saturating_sub(way).max(took)))
        .collect();
    home.sort();
    // A gap lies between any two: so many packets are one gap fewer.
    let rates = home.iter().enumerate().map(|(gaps, time)| gaps as f64 / time.as_secs_f64().max(1e-9));
    rates.fold(0.0, f64::max)
}

/// Packets that say how long the way is, and how many of them a second.
const ALONE: u32 = 3;
const ALONE_RATE: u32 = 20;
const ALONE_PATIENCE: Duration = Duration::from_secs(2);
/// A way that takes longer is not believed: who holds packets back would gain time for the work.
const LONGEST_WAY: Duration = Duration::from_millis(500);
/// Beyond the way, for the relay's queues and its work.
const PATIENCE: Duration = Duration::from_millis(250);
/// The first train has this part of the last one's rate.
const SLOWEST: u32 = 8;
/// How long a train takes to leave that does not decide, and how long the last one does.
const TRAIN: Duration = Duration::from_millis(250);
const LAST_TRAIN: Duration = Duration::from_secs(1);
/// Fewer packets are no train.
const LEAST: u32 = 4;
/// So much of the rate that was offered is all of it.
const EVEN: f64 = 0.95;

#[cfg(test)]
mod tests {
    use super::*;

    /// A relay in virtual time: what becomes of packets that leave at these moments.
    trait Model {
        fn carry(&mut self, sent: &[Instant]) -> Vec<Option<Instant>>;
    }

    impl<F: FnMut(&[Instant]) -> Vec<Option<Instant>>> Model for F {
        fn carry(&mut self, sent: &[Instant]) -> Vec<Option<Instant>> {
            self(sent)
        }
    }

    const WAY: Duration = Duration::from_millis(80);

    /// The rate that is found, and how many packets were sent.
    fn measure(announced: u32, packets: u32, mut relay: impl Model) -> (u32, u32) {
        let (mut course, mut now, mut count) = (Course::new(announced, packets), at(1_000), 0);
        while let Some(stage) = course.next() {
            let sent: Vec<_> = (0..stage.packets).map(|number| now + stage.due(number)).collect();
            let home = relay.carry(&sent);
            // Those who come after the patience has ended are not waited for.
            let end = sent.last().copied().unwrap_or(now) + course.patience();
            let last = home.iter().copied().map(|home| home.map_or(end, |home| home.min(end))).max();
            let trips: Vec<_> = sent
                .iter()
                .zip(home)
                .map(|(&sent, home)| Trip { sent, home: home.filter(|&home| home <= end) })
                .collect();
            course.note(&trips);
            count += stage.packets;
            now = last.unwrap_or(end);
            assert!(now < at(1_012), "a measurement takes seconds");
        }
        assert!(
            count <= packets.max(30) && count <= Course::new(announced, packets).packets().max(30),
            "{count}"
        );
        (course.rate(), count)
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    /// One after the other, so many a second; what would wait longer than `queue` is dropped.
    fn queue(rate: f64, queue: Duration) -> impl FnMut(&[Instant]) -> Vec<Option<Instant>> {
        let mut free = Instant::ZERO;
        move |sent| {
            let serve = |&sent: &Instant| {
                let start = free.max(sent + WAY / 2);
                if start.since(sent + WAY / 2) > queue {
                    return None;
                }
                free = start + Duration::from_secs_f64(1.0 / rate);
                Some(start + WAY / 2)
            };
            sent.iter().map(serve).collect()
        }
    }

    /// A bucket of a second of its rate, as a relay's limit on bandwidth is; what finds it empty is dropped.
    fn bucket(rate: f64) -> impl FnMut(&[Instant]) -> Vec<Option<Instant>> {
        let (mut tokens, mut filled) = (rate, Instant::ZERO);
        move |sent| {
            let take = |&sent: &Instant| {
                tokens = (tokens + sent.since(filled).as_secs_f64() * rate).min(rate);
                filled = sent;
                (tokens >= 1.0).then(|| {
                    tokens -= 1.0;
                    sent + WAY
                })
            };
            sent.iter().map(take).collect()
        }
    }

    fn exact(sent: &[Instant]) -> Vec<Option<Instant>> {
        sent.iter().map(|&sent| Some(sent + WAY)).collect()
    }

    #[test]
    fn who_carries_what_it_announces_is_found_to_carry_just_that() {
        for announced in [1, 3, 7, 20, 100, 204, 1_000, 3_273] {
            let (rate, count) = measure(announced, 4_096, exact);
            assert_eq!(rate, announced);
            assert!(count <= (announced * 5 / 4).max(8) + ALONE, "{announced}: {count}");
        }
        // More than the packets can show is not tried.
        assert_eq!(measure(1_000_000, 256, exact).0, most(256));
        assert_eq!(most(256), 202);
    }

    #[test]
    fn who_claims_ten_times_what_it_carries_gets_what_it_carries_and_no_flood() {
        for truth in [40.0, 100.0, 300.0] {
            let claimed = (truth * 10.0) as u32;
            let within = |rate: u32, most: f64| (0.9..=most).contains(&(f64::from(rate) / truth));
            for queued in [40, 100, 200] {
                let (rate, count) = measure(claimed, 8_192, queue(truth, Duration::from_millis(queued)));
                // What waits when the train ends comes home, too.
                assert!(within(rate, 1.1), "{truth} {queued} ms: {rate}");
                assert!(f64::from(count) < truth * 7.0, "{truth}: {count}");
            }
            let (rate, _) = measure(claimed, 8_192, bucket(truth));
            assert!(within(rate, 1.5), "bucket of {truth}: {rate}");
        }
    }

    #[test]
    fn each_train_is_twice_as_fast_as_the_one_before_and_so_is_the_last() {
        for (announced, packets) in [(202, 256), (3_273, 4_096), (100, 4_096), (1_000_000, 4_096)] {
            let mut course = Course::new(announced, packets);
            let mut rates = Vec::new();
            while let Some(stage) = course.next() {
                rates.push(stage.rate);
                let trip = |number| at(1) + stage.due(number);
                let trips = (0..stage.packets).map(trip).map(|sent| Trip { sent, home: Some(sent + WAY) });
                course.note(&trips.collect::<Vec<_>>());
            }
            let trains = rates.get(1..).unwrap();
            assert!(trains.len() >= 3, "{trains:?}");
            let factors = trains.windows(2).map(|pair| f64::from(pair[1]) / f64::from(pair[0]));
            assert!(factors.into_iter().all(|factor| (1.9..2.2).contains(&factor)), "{trains:?}");
            assert!(course.packets() <= packets);
        }
    }

    #[test]
    fn an_allowance_that_was_saved_up_is_believed_at_most_twice() {
        for claim in [2.0, 3.0, 5.0, 20.0] {
            let (rate, _) = measure((100.0 * claim) as u32, 8_192, bucket(100.0));
            assert!((90..=200).contains(&rate), "{claim}: {rate}");
        }
    }

    #[test]
    fn what_is_lost_does_not_count_and_a_few_lost_spoil_nothing() {
        let mut number = 0;
        let every = |step: u32| {
            move |sent: &[Instant]| -> Vec<Option<Instant>> {
                let carry = |&sent: &Instant| {
                    number += 1;
                    (number % step != 0).then_some(sent + WAY)
                };
                sent.iter().map(carry).collect()
            }
        };
        assert_eq!(measure(1_000, 4_096, every(50)).0, 1_000);
        // A third lost.
        let (rate, _) = measure(1_000, 4_096, every(3));
        assert!((650..=670).contains(&rate), "{rate}");
        assert_eq!(measure(1_000, 4_096, |sent: &[Instant]| vec![None; sent.len()]), (0, ALONE));
    }

    #[test]
    fn the_order_of_coming_home_is_of_no_matter_and_one_that_is_late_neither() {
        let reordered = |sent: &[Instant]| -> Vec<Option<Instant>> {
            let moved = |(number, &sent): (usize, &Instant)| {
                sent + WAY + Duration::from_millis(20) * (number as u32 % 3)
            };
            sent.iter().enumerate().map(moved).map(Some).collect()
        };
        let (rate, _) = measure(1_000, 4_096, reordered);
        assert!((950..=1_000).contains(&rate), "{rate}");
        let straggler = |sent: &[Instant]| -> Vec<Option<Instant>> {
            let late = |(number, &sent): (usize, &Instant)| {
                sent + WAY + if number == 5 { Duration::from_millis(1_200) } else { Duration::ZERO }
            };
            sent.iter().enumerate().map(late).map(Some).collect()
        };
        assert_eq!(measure(1_000, 4_096, straggler).0, 1_000);
    }

    #[test]
    fn holding_all_back_to_let_them_go_at_once_gains_nothing() {
        // It does the work at so many a second, and shows nothing until all is done.
        let at_once = |truth: f64| {
            move |sent: &[Instant]| -> Vec<Option<Instant>> {
                let work = Duration::from_secs_f64((sent.len() - 1) as f64 / truth);
                let done = sent.first().copied().unwrap_or(Instant::ZERO) + WAY + work;
                sent.iter().map(|&sent| Some(done.max(sent + WAY))).collect()
            }
        };
        let (rate, _) = measure(1_000, 4_096, at_once(100.0));
        assert!(rate <= 100, "{rate}");
        let (rate, _) = measure(1_000, 4_096, at_once(850.0));
        assert!((800..=850).contains(&rate), "{rate}");
        // Another says that it is so far away, and works at a hundred a second meanwhile.
        for (away, most) in [(450, 150), (1_900, 100)] {
            let far = |sent: &[Instant]| -> Vec<Option<Instant>> {
                let Some(&first) = sent.first() else { return Vec::new() };
                let shown = |(number, &sent): (u32, &Instant)| {
                    (sent + Duration::from_millis(away)).max(first + Duration::from_millis(10) * number)
                };
                (0..).zip(sent).map(shown).map(Some).collect()
            };
            let (rate, _) = measure(1_000, 4_096, far);
            assert!(rate <= most, "{away} ms: {rate}");
        }
    }

    #[test]
    fn who_comes_home_before_it_could_is_not_faster_than_what_was_sent() {
        // Homes that lie before their sending are a clock's doing: they take no time, and no less.
        let early = |sent: &[Instant]| -> Vec<Option<Instant>> { vec![sent.first().copied(); sent.len()] };
        assert_eq!(measure(1_000, 4_096, early).0, 1_000);
        let mut course = Course::new(1_000, 4_096);
        course.note(&[Trip { sent: at(1), home: Some(at(1)) }; 3]);
        // All at once instead of at distances: no more than was planned either.
        while let Some(stage) = course.next() {
            course.note(&vec![Trip { sent: at(2), home: Some(at(2)) }; stage.packets as usize]);
        }
        assert_eq!(course.rate(), 1_000);
        // The link ended within the last train.
        let mut course = Course::new(1_000, 4_096);
        while course.next().is_some() {
            let few = if course.step == Step::Last(1_000) { 11 } else { course.next().unwrap().packets };
            let trips: Vec<_> = (0..few).map(|number| at(2) + course.next().unwrap().due(number)).collect();
            let trips: Vec<_> = trips.into_iter().map(|sent| Trip { sent, home: Some(sent + WAY) }).collect();
            course.note(&trips);
        }
        assert_eq!(course.rate(), 10);
    }

    #[test]
    fn an_authority_that_is_slow_itself_believes_what_it_has_seen() {
        // It means to send a thousand a second, and manages four hundred.
        let mut course = Course::new(1_000, 4_096);
        while let Some(stage) = course.next() {
            let slow = |number: u32| at(1) + stage.due(number).max(Duration::from_micros(2_500) * number);
            let trips = (0..stage.packets).map(slow).map(|sent| Trip { sent, home: Some(sent + WAY) });
            course.note(&trips.collect::<Vec<_>>());
        }
        assert!((399..=400).contains(&course.rate()), "{}", course.rate());
    }
}
