//! Parameters in documents: rates in thousandths of a packet per second, shares in millionths, durations
//! in microseconds; no floats.

use super::cbor::{Canonical, Reader, Writer, malformed};
use crate::geometry::Geometry;
use crate::level::{LEVELS, Levels, MAX_STEPS, Pace};
use crate::path::Parameters;
use crate::{Error, ErrorKind, Result};
use std::time::Duration;

impl Canonical for Parameters {
    fn write(&self, out: &mut Writer) {
        out.map(9);
        out.key(0).uint(self.geometry.payload() as u64);
        out.key(1).uint(micros(self.mean_delay));
        out.key(2).uint(micros(self.max_delay));
        self.levels.write(out.key(3));
        out.key(4).uint(scaled(self.entry_slot_factor, MICRO));
        out.key(5).uint(micros(self.surb_life));
        out.key(6).uint(micros(self.epoch));
        out.key(7).uint(micros(self.key_period));
        out.key(8).uint(micros(self.overlap));
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        let mut fields = input.map()?;
        let parameters = Self {
            geometry: Geometry::new(fields.key(input, 0)?.u32()? as usize)?,
            mean_delay: duration(fields.key(input, 1)?)?,
            max_delay: duration(fields.key(input, 2)?)?,
            levels: Levels::read(fields.key(input, 3)?)?,
            entry_slot_factor: number(fields.key(input, 4)?, 16, MICRO)?,
            surb_life: duration(fields.key(input, 5)?)?,
            epoch: duration(fields.key(input, 6)?)?,
            key_period: duration(fields.key(input, 7)?)?,
            overlap: duration(fields.key(input, 8)?)?,
        };
        fields.end(input)?;
        parameters.check()?;
        Ok(parameters)
    }
}

impl Parameters {
    /// The parameters as a document carries them: rates and shares rounded to what it can say.
    pub fn rounded(&self) -> Self {
        let round = |value, unit| scaled(value, unit) as f64 / unit as f64;
        let mut levels = self.levels.clone();
        for pace in levels.rows.iter_mut().flatten() {
            *pace = Pace {
                send_rate: round(pace.send_rate, MILLI),
                receive_rate: round(pace.receive_rate, MILLI),
                loop_share: round(pace.loop_share, MICRO),
                drop_share: round(pace.drop_share, MICRO),
            };
        }
        Self { levels, entry_slot_factor: round(self.entry_slot_factor, MICRO), ..self.clone() }
    }

    /// Fails, naming the rule, if the parameters contradict each other.
    pub fn check(&self) -> Result<()> {
        let second = |time: Duration| time >= Duration::from_secs(1) && time.subsec_nanos() == 0;
        let whole = |time: Duration| time.subsec_nanos().is_multiple_of(1_000);
        let rules = [
            (whole(self.mean_delay) && whole(self.max_delay), "delays are whole microseconds"),
            (self.mean_delay <= self.max_delay, "the mean delay is at most the largest"),
            // So long a relay that ends holds on to what it has taken, and so much it holds.
            (self.max_delay <= Duration::from_secs(20), "the largest delay is at most 20 seconds"),
            (self.entry_slot_factor >= 1.0, "an entry has at least as many slots as the receive rate"),
            (second(self.epoch) && second(self.key_period), "epoch and key period are whole seconds"),
            (second(self.surb_life) && second(self.overlap), "SURB life and overlap are whole seconds"),
            (self.overlap <= self.key_period, "the overlap is at most a key period"),
            (self.surb_life < self.overlap, "the overlap is longer than a SURB lives"),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            None => self.levels.check(),
            Some((_, rule)) => {
                Err(Error::new(ErrorKind::Malformed, format!("parameters contradict each other: {rule}")))
            }
        }
    }
}

/// By level, its steps.
impl Canonical for Levels {
    fn write(&self, out: &mut Writer) {
        out.array(self.rows.len());
        self.rows.iter().for_each(|steps| out.list(steps));
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        if input.array(LEVELS.len())? != LEVELS.len() {
            return Err(malformed("a level is missing"));
        }
        let mut levels = Self { rows: Default::default() };
        for steps in &mut levels.rows {
            *steps = input.list(MAX_STEPS)?;
        }
        Ok(levels)
    }
}

impl Canonical for Pace {
    fn write(&self, out: &mut Writer) {
        out.array(4);
        out.uint(scaled(self.send_rate, MILLI));
        out.uint(scaled(self.receive_rate, MILLI));
        out.uint(scaled(self.loop_share, MICRO));
        out.uint(scaled(self.drop_share, MICRO));
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        if input.array(4)? != 4 {
            return Err(malformed("a rate is missing"));
        }
        Ok(Self {
            send_rate: number(input, MAX_RATE, MILLI)?,
            receive_rate: number(input, MAX_RATE, MILLI)?,
            loop_share: number(input, 1, MICRO)?,
            drop_share: number(input, 1, MICRO)?,
        })
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).min(MAX_MICROS)
}

fn duration(input: &mut Reader<'_>) -> Result<Duration> {
    match input.uint(MAX_MICROS)? {
        0 => Err(malformed("a duration is zero")),
        value => Ok(Duration::from_micros(value)),
    }
}

fn scaled(value: f64, unit: u64) -> u64 {
    // A cast from float saturates, and turns what is not a number into zero.
    (value * unit as f64).round() as u64
}

fn number(input: &mut Reader<'_>, limit: u64, unit: u64) -> Result<f64> {
    Ok(input.uint(limit * unit)? as f64 / unit as f64)
}

const MILLI: u64 = 1_000;
const MICRO: u64 = 1_000_000;
/// Packets per second.
const MAX_RATE: u64 = 1_000_000;
/// Ten years.
const MAX_MICROS: u64 = 10 * 366 * 24 * 3_600 * MICRO;
