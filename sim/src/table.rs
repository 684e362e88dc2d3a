//! How fast and how quick a client is over good networks and bad ones: a table that is the same each time.
//!
//! Each cell is one whole client, with the machines of the product and packets in the clear, over a network that
//! loses a share of all packets, holds them for so long at each mix, and brings so many a second home. Times
//! and counts are integers, draws come from the cell's own seed, and logarithms are the same on every platform,
//! so that a cell comes out alike to the last digit wherever it is made.

use crate::conversation::Conversation;
use crate::figures::quantile;
use crate::links::{Distance, Links};
use crate::world::Shape;
use mizzle_protocol::level::{Level, Levels, Pace};
use mizzle_protocol::path::Parameters;
use mizzle_protocol::stream::ResetReason;
use mizzle_protocol::{Error, ErrorKind, Result};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What a network does to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// Of a hundred packets, so many are lost on their way.
    pub loss: u32,
    /// Mean delay at each of the three mixes, each way, in milliseconds.
    pub delay: u32,
    /// Packets per second that reach the client (λ_R); it sends a quarter of that, but at least ten.
    pub rate: u32,
}

/// What a client gets out of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// One download, in its stride: bytes a second.
    pub goodput: u64,
    /// What the rate could carry if each packet that is not lost were full of data.
    pub line: u64,
    /// The longest time in which the download brought nothing.
    pub gap: Duration,
    /// From opening a stream to the first byte of a short answer, by a client that was idle: sorted.
    pub first_bytes: Vec<Duration>,
    /// Requests that were not answered in time.
    pub unanswered: usize,
}

/// The table's losses, in percent.
pub const LOSSES: [u32; 5] = [0, 1, 2, 5, 10];
/// The table's mean delays, in milliseconds.
pub const DELAYS: [u32; 4] = [5, 20, 50, 200];
/// The table's rates, in packets per second.
pub const RATES: [u32; 5] = [10, 80, 320, 1_000, 2_000];

/// All cells of the table, in its order.
pub fn conditions() -> Vec<Conditions> {
    let of = |delay, rate| LOSSES.map(|loss| Conditions { loss, delay, rate });
    DELAYS.into_iter().flat_map(|delay| RATES.into_iter().flat_map(move |rate| of(delay, rate))).collect()
}

/// Measures these cells, on all processors, and gives them in their order.
pub fn measure_all(cells: &[Conditions]) -> Result<Vec<Figures>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(cells.len()));
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(&conditions) = cells.get(index) else { return };
            let figures = measure(conditions);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((index, figures));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, figures)| figures).collect()
}

/// Measures one cell.
pub fn measure(conditions: Conditions) -> Result<Figures> {
    let mut figures = Figures { line: conditions.line(), ..Figures::default() };
    download(conditions, &mut figures)?;
    let limit = Duration::from_secs(60);
    for request in 0..REQUESTS {
        let mut conversation = conditions.conversation(1 + request, vec![7; ANSWER])?;
        // So that loops and slots are in their stride.
        conversation.idle(Duration::from_millis(200))?;
        let mut first = None;
        let cut_off = conversation.fetch(b"", &[1; REQUEST], limit, |since, _| {
            first = Some(since);
            false
        })?;
        whole(conditions, cut_off)?;
        match first {
            Some(first) => figures.first_bytes.push(first),
            None => figures.unanswered += 1,
        }
    }
    figures.first_bytes.sort_unstable();
    Ok(figures)
}

/// Fails if a stream was cut off: a figure of half a transfer says nothing.
fn whole(conditions: Conditions, cut_off: Option<ResetReason>) -> Result<()> {
    match cut_off {
        None => Ok(()),
        Some(reason) => {
            let why = format!("a stream at {conditions:?} was cut off: {}", reason.describe());
            Err(Error::new(ErrorKind::Malformed, why))
        }
    }
}

fn download(conditions: Conditions, figures: &mut Figures) -> Result<()> {
    let (from, time) = conditions.download_time();
    let content = vec![7; (conditions.rate * PAYLOAD) as usize * (from + time).as_secs() as usize];
    let mut conversation = conditions.conversation(0, content)?;
    let (mut bytes, mut last) = (0, from);
    let cut_off = conversation.fetch(b"", &[1; REQUEST], from + time, |since, count| {
        if since > from {
            figures.gap = figures.gap.max(since.saturating_sub(last));
            bytes += count as u64;
            last = since;
        }
        true
    })?;
    whole(conditions, cut_off)?;
    figures.gap = figures.gap.max((from + time).saturating_sub(last));
    figures.goodput = bytes * 1_000 / time.as_millis() as u64;
    Ok(())
}

impl Conditions {
    /// The client's rates: those of `balanced`, with a step for each rate of the table, and the shares of loops and
    /// drops that the nearest slower step has.
    fn pace(self) -> Pace {
        let rate = f64::from(self.rate);
        let levels = Levels::default();
        let steps = levels.steps(Level::Balanced);
        let slower = steps.iter().rev().find(|step| step.receive_rate <= rate);
        let share = slower.or(steps.first()).map_or(0.0, |step| step.loop_share);
        Pace { send_rate: (rate / 4.0).max(10.0), receive_rate: rate, loop_share: share, drop_share: share }
    }

    fn shape(self) -> Shape {
        let mean_delay = Duration::from_millis(u64::from(self.delay));
        let parameters = Parameters { mean_delay, max_delay: mean_delay * 10, ..Parameters::default() };
        // Each of the four links between relays loses so many that the way as a whole loses its share.
        let loss = 1.0 - libm::pow(1.0 - f64::from(self.loss) / 100.0, 1.0 / 4.0);
        let links = Links { loss, distance: Distance::Equal(Duration::from_millis(1)), ..Links::default() };
        Shape { parameters, pace: self.pace(), links, ..Shape::default() }
    }

    fn conversation(self, salt: u64, served: Vec<u8>) -> Result<Conversation> {
        let seed =
            u64::from(self.loss) << 48 | u64::from(self.delay) << 32 | u64::from(self.rate) << 16 | salt;
        Ok(Conversation::new(self.shape(), seed, served)?.without_drops())
    }

    /// Bytes a second that the rate could carry.
    fn line(self) -> u64 {
        u64::from(self.rate) * u64::from(PAYLOAD) * u64::from(100 - self.loss) / 100
    }

    /// When the download is in its stride, and for how long it is measured: for about as many packets at each
    /// rate, and ten round trips at least: what waits for a repair comes at once, later.
    fn download_time(self) -> (Duration, Duration) {
        let round_trip = Duration::from_millis(u64::from(self.delay) * 6);
        let seconds = (2_400 / u64::from(self.rate)).clamp(2, 40);
        let time = Duration::from_secs(seconds).max(round_trip * 10);
        (Duration::from_secs(2) + round_trip * 2, time)
    }
}

/// The head of the table.
pub fn head() -> String {
    format!(
        "{:>5} {:>5} {:>5} | {:>9} {:>5} {:>6} | {:>6} {:>6} {:>6} {:>6}\n{:>5} {:>5} {:>5} | {:>9} {:>5} {:>6} | {:>6} \
         {:>6} {:>6} {:>6}\n",
        "delay",
        "rate",
        "loss",
        "goodput",
        "of",
        "gap",
        "first",
        "byte",
        "",
        "un-",
        "ms",
        "/s",
        "%",
        "kB/s",
        "line",
        "ms",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "heard"
    )
}

/// One row of it.
pub fn row(conditions: Conditions, figures: &Figures) -> String {
    let Conditions { loss, delay, rate } = conditions;
    let tenths = figures.goodput / 100;
    let first = |share| quantile(&figures.first_bytes, share).as_millis();
    format!(
        "{delay:>5} {rate:>5} {loss:>5} | {:>7}.{} {:>4}% {:>6} | {:>6} {:>6} {:>6} {:>6}\n",
        tenths / 10,
        tenths % 10,
        figures.goodput * 100 / figures.line.max(1),
        figures.gap.as_millis(),
        first(0.5),
        first(0.95),
        first(0.99),
        figures.unanswered,
    )
}

/// Requests in each cell.
const REQUESTS: u64 = 50;
/// Bytes of a request, and of the answer to a short one.
const REQUEST: usize = 300;
const ANSWER: usize = 1_000;
/// Bytes in a full packet.
const PAYLOAD: u32 = 4_096;
