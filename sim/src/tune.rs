//! From what people want to what a network must be: users, latency and traffic in; delays, rates and width out, and what
//! anonymity that makes.
//!
//! The closed forms of [`crate::figures`] give the answer, and a simulation of its own looks whether it is right. A wish
//! that cannot be had is refused, with what stands in its way.

use crate::figures::{bounded_entropy, erlang_quantile};
use crate::report::Report;
use crate::run::run;
use crate::scenario::{Scenario, ScenarioError};
use mizzle_protocol::Result;
use mizzle_protocol::geometry::{Geometry, LAYERS};
use mizzle_protocol::level::Level;
use mizzle_protocol::wire::cell::client_cell_size;
use std::fmt;

/// What is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// Clients, at rest.
    pub users: usize,
    /// Half of all packets take so long in the mixes at most, one way, in milliseconds.
    pub latency_ms: f64,
    /// What a client sends and receives in a day, at rest, in GB (10⁹ bytes).
    pub gigabytes_a_day: f64,
    /// Share of each layer's mixes that are corrupt, beside someone who sees all links.
    pub corrupt: f64,
    /// Bits of not knowing which packet is which; `None`: as many as there are.
    pub bits: Option<f64>,
    /// How fast a client's traffic goes at the least.
    pub speed: Speed,
}

/// Bytes a second of what applications send and receive, in kB/s (10³ bytes). Zero asks for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Speed {
    /// Homeward.
    pub download: f64,
    /// Outward.
    pub upload: f64,
}

/// What a network must be.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The wish.
    pub wish: Wish,
    /// Mean time in each mix, in milliseconds.
    pub mean_delay_ms: f64,
    /// Packets a second that a client sends.
    pub send_rate: f64,
    /// Packets a second that reach a client, filler included.
    pub receive_rate: f64,
    /// Share of what it sends that are loops; as many are drops.
    pub loop_share: f64,
    /// Mixes in each layer.
    pub width: usize,
    /// Packets that a mix holds in the mean (ρ).
    pub pool: f64,
    /// Entropy of packets that is to be expected, in bits.
    pub bits: f64,
    /// Latency that 50, 95 and 99 % of the packets stay below, in milliseconds.
    pub latencies_ms: [f64; 3],
}

/// Why a wish cannot be had.
#[derive(Clone, Debug, PartialEq)]
pub struct Impossible(String);

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Impossible {}

impl Impossible {
    pub(crate) fn new(why: String) -> Self {
        Self(why)
    }
}

/// What a client sends and receives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rates {
    /// Packets a second outward.
    pub send: f64,
    /// Packets a second homeward, filler included.
    pub receive: f64,
    /// Share of the outward ones that are loops; as many are drops.
    pub loop_share: f64,
}

impl Rates {
    /// For so many cells a second on the line, with so many times as much home as out.
    pub(crate) fn usual(cells: f64, homeward: f64) -> Self {
        let send = cells / (1.0 + homeward * SLOTS);
        Self { send, receive: send * homeward, loop_share: loop_share(send) }
    }

    /// The same where loops are all that comes home, as in `strong`.
    pub(crate) fn strong(cells: f64) -> Self {
        let send = cells / (1.0 + STRONG_HOME * SLOTS);
        Self { send, receive: send * STRONG_HOME, loop_share: STRONG_HOME }
    }

    /// Cells a second on the line.
    pub(crate) fn line(&self) -> f64 {
        self.send + self.receive * SLOTS
    }

    /// How fast one that has the line for itself downloads and uploads.
    pub(crate) fn speed(&self, level: Level) -> Speed {
        // Of what its line brings, a session gets a third in `strong`.
        let share = if level == Level::Strong { 3.0 } else { 1.0 };
        let free = 1.0 - 2.0 * self.loop_share;
        Speed { download: self.receive * PAYLOAD / share, upload: self.send * free * PAYLOAD }
    }
}

impl Speed {
    /// True if this is as fast as that, to half a percent.
    pub(crate) fn reaches(&self, wanted: Self) -> bool {
        let enough = |is: f64, wanted: f64| is >= wanted * 0.995;
        enough(self.download, wanted.download) && enough(self.upload, wanted.upload)
    }
}

impl Wish {
    /// Mean time in each mix, in seconds.
    pub(crate) fn mean_delay(&self) -> f64 {
        self.latency_ms / 1e3 / erlang_quantile(LAYERS as u32, 0.5)
    }
}

/// What a network must be for this. A client receives twice what it sends, or four times as much if the wished speed asks for it.
pub fn tune(wish: &Wish) -> std::result::Result<Answer, Impossible> {
    let cells = affordable(wish)?;
    let all = HOMEWARD.map(|homeward| Rates::usual(cells, homeward));
    match all.into_iter().find(|rates| rates.speed(Level::Balanced).reaches(wish.speed)) {
        Some(rates) => answer(wish, rates),
        None => Err(too_slow(wish, cells)),
    }
}

/// So many cells a second do not bring the wished speed.
pub(crate) fn too_slow(wish: &Wish, cells: f64) -> Impossible {
    let Speed { download, upload } = wish.speed;
    let reaches = |factor: &f64| {
        HOMEWARD.iter().any(|homeward| {
            Rates::usual(cells * factor, *homeward).speed(Level::Balanced).reaches(wish.speed)
        })
    };
    let enough = (0..2_000).map(|step| libm::pow(1.01, f64::from(step))).find(reaches);
    Impossible(format!(
        "speed: {download:.0} kB/s home and {upload:.0} kB/s out are more than {} GB a day bring. What binds is the traffic: {:.0} GB a \
         day would do.",
        wish.gigabytes_a_day,
        (wish.gigabytes_a_day * enough.unwrap_or(f64::INFINITY)).ceil()
    ))
}

/// Cells a second on a client's line that the wished traffic pays for. Refuses a wish that makes no sense.
pub(crate) fn affordable(wish: &Wish) -> std::result::Result<f64, Impossible> {
    let refuse = |why: String| Err(Impossible(why));
    let Wish { users, latency_ms, gigabytes_a_day, corrupt, bits, speed } = *wish;
    if users == 0 || users > MOST_USERS {
        return refuse(format!("users: must be from 1 to {MOST_USERS}"));
    }
    if !(latency_ms > 0.0 && latency_ms <= MOST_LATENCY) {
        return refuse(format!("latency: must be above 0 ms, and {MOST_LATENCY} ms at most"));
    }
    if !(0.0..1.0).contains(&corrupt) {
        return refuse("corrupt: must be a share, from 0 to below 1".to_owned());
    }
    if bits.is_some_and(|bits| !(0.0..1e3).contains(&bits)) {
        return refuse("bits: must be a number, not below 0".to_owned());
    }
    let most = MOST_RATE * PAYLOAD;
    if ![speed.download, speed.upload].iter().all(|speed| (0.0..=most).contains(speed)) {
        return refuse(format!("download, upload: must be from 0 to {most} kB/s"));
    }
    // A client's line carries what it sends, and an entry's slots: a quarter more than what it is to receive.
    let cell = client_cell_size(Geometry::default()) as f64 + TLS;
    let cells = gigabytes_a_day * 1e9 / 86_400.0 / cell;
    let send_rate = cells / (1.0 + USUAL * SLOTS);
    if !(LEAST_RATE..=MOST_RATE).contains(&send_rate) {
        let gigabytes = |rate: f64| rate * (1.0 + USUAL * SLOTS) * cell * 86_400.0 / 1e9;
        return refuse(format!(
            "traffic: {gigabytes_a_day} GB a day are {send_rate:.2} packets a second; say from {:.1} to {:.0} GB",
            gigabytes(LEAST_RATE),
            gigabytes(MOST_RATE)
        ));
    }
    Ok(cells)
}

/// What a network with these rates must be.
pub(crate) fn answer(wish: &Wish, rates: Rates) -> std::result::Result<Answer, Impossible> {
    let refuse = |why: String| Err(Impossible(why));
    let mean_delay = wish.mean_delay();
    // Λ/μ: what all mixes of a layer hold.
    let load = wish.users as f64 * rates.send * mean_delay;
    let width = width_for(load);
    let pool = load / width as f64;
    let bits = expected(load, width, wish.corrupt);
    if pool < 2.0 {
        return refuse(format!(
            "a mix would hold {pool:.2} packets, and hide next to nothing: of users, latency and traffic together, {:.0} \
             times as much is needed",
            (2.0 / pool).ceil()
        ));
    }
    if let Some(wanted) = wish.bits
        && bits < wanted
    {
        return refuse(binding(wish, wanted, bits, load, width));
    }
    let quantile = |share| erlang_quantile(LAYERS as u32, share) * mean_delay * 1e3;
    Ok(Answer {
        wish: wish.clone(),
        mean_delay_ms: mean_delay * 1e3,
        send_rate: rates.send,
        receive_rate: rates.receive,
        loop_share: rates.loop_share,
        width,
        pool,
        bits,
        latencies_ms: [quantile(0.5), quantile(0.95), quantile(0.99)],
    })
}

/// Mixes of a layer for so much load.
fn width_for(load: f64) -> usize {
    ((load / least_pool(load)) as usize).max(LEAST_WIDTH)
}

/// Packets that each mix should hold: twenty, and where there are many beside it, so many that a packet's traces reach
/// nearly all of them: see [`bounded_entropy`].
fn least_pool(load: f64) -> f64 {
    let all = bounded_entropy(LAYERS, load, load);
    POOL.max(libm::exp2((all + REACH) / LAYERS as f64) / std::f64::consts::E)
}

/// What stands in the way of so many bits.
fn binding(wish: &Wish, wanted: f64, bits: f64, load: f64, width: usize) -> String {
    let mut text = format!("{wanted:.1} bits cannot be had, only {bits:.1}.");
    // With corrupt mixes there is a bound that no traffic lifts soon: each bit needs twice as much for the honest ways.
    let honest = 1.0 - libm::pow(wish.corrupt, LAYERS as f64);
    let without = expected(load, width, 0.0);
    if wish.corrupt > 0.0 && without >= wanted {
        text += &format!(
            " What binds is the adversary: with honest mixes it would be {without:.1}; {:.2} % of all ways have no honest mix.",
            (1.0 - honest) * 100.0
        );
        return text;
    }
    // More traffic wants more mixes, in which a little is lost again: so look for what is enough.
    let enough = |factor: &f64| expected(load * factor, width_for(load * factor), wish.corrupt) >= wanted;
    let factors = (0..2_000).map(|step| libm::exp2(wanted - bits) * libm::pow(1.01, f64::from(step)));
    let factor = factors.into_iter().find(enough).unwrap_or(f64::INFINITY);
    if factor.is_infinite() {
        return text + " No number of users brings so many.";
    }
    text += &format!(
        " What binds is how many packets are in the mixes at a time: {factor:.1} times the users, or the latency, or the traffic, or \
         less of each together, would do: {:.0} users, or {:.0} ms, or {:.0} GB a day.",
        wish.users as f64 * factor,
        wish.latency_ms * factor,
        wish.gigabytes_a_day * factor
    );
    text
}

/// Entropy of packets, in the mean over the ways that have 3, 2, 1 or no honest mix.
fn expected(load: f64, width: usize, corrupt: f64) -> f64 {
    let pool = load / width as f64;
    let honest = 1.0 - corrupt;
    let ways = [1.0, 3.0, 3.0, 1.0];
    (1..=LAYERS)
        .zip(ways.into_iter().skip(1))
        .map(|(layers, ways)| {
            let share =
                ways * libm::pow(honest, layers as f64) * libm::pow(corrupt, (LAYERS - layers) as f64);
            // Corrupt mixes are known, so that what is honest of a layer is narrower, and carries what it did.
            share * bounded_entropy(layers, load, pool).max(0.0)
        })
        .sum()
}

impl Answer {
    /// A network as the answer describes it.
    pub fn scenario(&self) -> std::result::Result<Scenario, ScenarioError> {
        Scenario::load(None, &[&self.words()[..], &["seeds=3".to_owned()]].concat())
    }

    /// The keys of that network's scenario, but for its seeds.
    pub fn words(&self) -> Vec<String> {
        // So long that some hundred thousand packets pass, and not less than targets need to come out.
        let packets = self.wish.users as f64 * self.send_rate;
        let seconds = (PACKETS / packets).min(120.0).max(self.mean_delay_ms / 1e3 * 150.0);
        vec![
            format!("clients.count={}", self.wish.users),
            format!("clients.send_rate={}", self.send_rate),
            format!("clients.receive_rate={}", self.receive_rate),
            format!("clients.loop_share={}", self.loop_share),
            format!("clients.drop_share={}", self.loop_share),
            format!("network.mean_delay_ms={}", self.mean_delay_ms),
            format!("network.max_delay_ms={}", self.mean_delay_ms * 10.0),
            format!("network.width={}", self.width),
            // What the users' traffic hides: relays' own loops come on top of it.
            "network.relay_loops=0".to_owned(),
            format!("adversary.corrupt=[{0},{0},{0}]", self.wish.corrupt),
            format!("seconds={seconds}"),
        ]
    }

    /// True if a simulation found what was expected: to a tenth of a bit, or where mixes are corrupt to six tenths, as a
    /// share of few mixes is not exactly what was asked for, and which they are is drawn.
    pub fn agrees_with(&self, report: &Report) -> bool {
        let slack = if self.wish.corrupt > 0.0 { 0.6 } else { 0.1 };
        let (bits, half) = measured_bits(report);
        (bits - self.bits).abs() <= slack + half
    }

    /// Simulates that network. The report's figures are the measure of this answer: see [`measured_bits`].
    pub fn verify(&self, progress: impl Fn(f64) + Sync) -> Result<Report> {
        let scenario = self.scenario().map_err(|error| {
            mizzle_protocol::Error::new(mizzle_protocol::ErrorKind::Misuse, error.to_string())
        })?;
        run(&scenario, progress)
    }
}

/// Entropy of packets that a report measured, with half the width of its interval.
pub fn measured_bits(report: &Report) -> (f64, f64) {
    let found = report.figure("entropy of packets, bits");
    found.map_or((0.0, 0.0), |figure| (figure.mean, figure.half_width.unwrap_or(0.0)))
}

/// Loops tell a client that the network lives: 1.2 a second are enough, and more than one slot in twenty would be dear;
/// one in a hundred goes on at any rate, so that a busy client's are among many.
pub(crate) fn loop_share(send_rate: f64) -> f64 {
    (1.2 / send_rate).clamp(0.01, 0.05)
}

/// Packets that a mix should hold at the least.
const POOL: f64 = 20.0;
/// Bits by which what a packet's traces could reach exceeds what is there: then 0.07 bit are missing.
const REACH: f64 = 6.0;
const LEAST_WIDTH: usize = 3;
/// A client receives so many times what it sends: the first that is fast enough.
pub(crate) const HOMEWARD: [f64; 2] = [USUAL, 4.0];
const USUAL: f64 = 2.0;
/// Kilobytes of an application's in a packet, about.
const PAYLOAD: f64 = 3.5;
/// An entry has a quarter more slots than a client is to receive packets.
const SLOTS: f64 = 1.25;
/// In `strong`, loops are four of ten packets that a client sends, and all that comes home.
const STRONG_HOME: f64 = 0.4;
/// Bytes that a TLS record adds to a cell.
const TLS: f64 = 22.0;
const LEAST_RATE: f64 = 0.05;
const MOST_RATE: f64 = 2_000.0;
const MOST_USERS: usize = 10_000_000;
const MOST_LATENCY: f64 = 600_000.0;
/// Packets that a verification lets pass, about.
const PACKETS: f64 = 400_000.0;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    fn wish(users: usize, latency_ms: f64, gigabytes_a_day: f64) -> Wish {
        Wish { users, latency_ms, gigabytes_a_day, corrupt: 0.0, bits: None, speed: Speed::default() }
    }

    #[test]
    fn five_answers_are_what_simulations_of_their_own_find() {
        let wishes = [
            wish(1_000, 53.0, 13.5),
            wish(300, 200.0, 13.5),
            wish(5_000, 53.0, 3.0),
            wish(200, 1_000.0, 50.0),
            Wish { corrupt: 0.3, ..wish(2_000, 100.0, 13.5) },
        ];
        for wish in wishes {
            let answer = tune(&wish).unwrap();
            let report = answer.verify(|_| ()).unwrap();
            assert!(answer.agrees_with(&report), "{answer:?}: {:?}", measured_bits(&report));
        }
    }

    #[test]
    fn slow_networks_are_simulated_for_as_long_as_their_packets_take() {
        let answer = tune(&wish(1_000, 5_000.0, 50.0)).unwrap();
        let words = answer.words();
        let seconds = words.iter().find_map(|word| word.strip_prefix("seconds=")).unwrap();
        assert!(seconds.parse::<f64>().unwrap() > 120.0, "{seconds}");
    }

    #[test]
    fn a_wish_that_cannot_be_had_is_refused_by_what_binds() {
        let refused = |wish: Wish| tune(&wish).unwrap_err().to_string();
        let text = refused(Wish { bits: Some(20.0), ..wish(1_000, 53.0, 13.5) });
        assert!(text.contains("times the users") && text.contains("GB a day"), "{text}");
        // What it says would do, does.
        let users = text.split(": ").last().unwrap().split(' ').next().unwrap().parse::<usize>().unwrap();
        assert!(tune(&Wish { bits: Some(20.0), ..wish(users + 1, 53.0, 13.5) }).is_ok());
        let text = refused(Wish { corrupt: 0.5, bits: Some(9.5), ..wish(1_000, 53.0, 13.5) });
        assert!(text.contains("What binds is the adversary"), "{text}");
        assert!(refused(wish(3, 20.0, 1.0)).contains("hide next to nothing"));
        assert!(refused(wish(0, 20.0, 1.0)).contains("users"));
        assert!(refused(wish(10, f64::NAN, 1.0)).contains("latency"));
        assert!(refused(wish(10, 20.0, 1e9)).contains("traffic"));
        assert!(refused(Wish { bits: Some(f64::NAN), ..wish(1_000, 53.0, 13.5) }).contains("bits"));
        assert!(refused(Wish { corrupt: 1.0, ..wish(10, 20.0, 1.0) }).contains("corrupt"));
    }

    #[test]
    fn who_wishes_for_speed_gets_more_home_or_hears_what_it_costs() {
        let wish = |download, upload| Wish { speed: Speed { download, upload }, ..wish(1_000, 53.0, 13.5) };
        let of = |answer: Answer| (answer.send_rate.round(), answer.receive_rate.round());
        assert_eq!(of(tune(&wish(60.0, 30.0)).unwrap()), (10.0, 20.0));
        assert_eq!(of(tune(&wish(80.0, 15.0)).unwrap()), (6.0, 23.0));
        let text = tune(&wish(80.0, 30.0)).unwrap_err().to_string();
        assert!(text.contains("What binds is the traffic"), "{text}");
        // What it says would do, does, and one less does not.
        let enough =
            text.split("traffic: ").last().unwrap().split(' ').next().unwrap().parse::<f64>().unwrap();
        let with = |gigabytes_a_day| tune(&Wish { gigabytes_a_day, ..wish(80.0, 30.0) });
        assert!(with(enough).is_ok() && with(enough - 1.0).is_err(), "{text}");
        assert!(tune(&wish(f64::NAN, 0.0)).unwrap_err().to_string().contains("download"));
    }

    #[test]
    fn a_wish_for_less_than_there_is_is_granted() {
        let answer = tune(&Wish { bits: Some(5.0), ..wish(1_000, 53.481, 13.5) }).unwrap();
        assert!(answer.bits > 5.0 && (answer.mean_delay_ms - 20.0).abs() < 0.01, "{answer:?}");
        // 13.5 GB a day are the ten packets out and twenty home of `balanced` at rest.
        assert!((answer.send_rate - 10.0).abs() < 0.1 && answer.width == 9, "{answer:?}");
    }
}
