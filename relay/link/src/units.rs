//! Rates, sizes and times as people write them: `10 Mbit/s`, `500 GB`, `6 h`.
//!
//! Bits are written out, so that nobody has to remember what a capital letter means: `bit` is a bit, `B` eight
//! of them. Prefixes are decimal (`k`, `M`, `G`, `T`) or binary (`Ki`, `Mi`, `Gi`, `Ti`).

use mizzle_protocol::{Error, ErrorKind, Result};
use serde::Deserialize;
use std::fmt;
use std::time::Duration;

/// Bytes per second, in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Rate(pub u64);

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Size(pub u64);

/// A stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

impl TryFrom<String> for Rate {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let malformed =
            || wrong(format!("`{text}` is no rate: write it like \"10 Mbit/s\" or \"1.25 MB/s\""));
        let (number, unit) = split(&text).ok_or_else(malformed)?;
        let unit = unit.strip_suffix("/s").ok_or_else(malformed)?;
        let bytes = match unit.strip_suffix("bit") {
            Some(prefix) => factor(prefix).map(|factor| factor / 8.0),
            None => unit.strip_suffix('B').and_then(factor),
        };
        whole(number * bytes.ok_or_else(malformed)?).map(Self).ok_or_else(malformed)
    }
}

impl TryFrom<String> for Size {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let malformed = || wrong(format!("`{text}` is no size: write it like \"500 GB\" or \"2 MiB\""));
        let (number, unit) = split(&text).ok_or_else(malformed)?;
        let bytes = unit.strip_suffix('B').and_then(factor).ok_or_else(malformed)?;
        whole(number * bytes).map(Self).ok_or_else(malformed)
    }
}

impl TryFrom<String> for Span {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let malformed =
            || wrong(format!("`{text}` is no time: write it like \"6 h\", \"10 min\" or \"30 s\""));
        let (number, unit) = split(&text).ok_or_else(malformed)?;
        let seconds = match unit {
            "s" => 1.0,
            "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return Err(malformed()),
        };
        Duration::try_from_secs_f64(number * seconds).map(Self).map_err(|_| malformed())
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        scaled(f, self.0 as f64 * 8.0, "bit/s")
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        scaled(f, self.0 as f64, "B")
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        match seconds {
            _ if seconds >= 2.0 * 86_400.0 => write!(f, "{:.0} days", (seconds / 86_400.0).floor()),
            _ if seconds >= 7_200.0 => write!(f, "{:.0} h", (seconds / 3_600.0).floor()),
            _ if seconds >= 120.0 => write!(f, "{:.0} min", (seconds / 60.0).floor()),
            _ => write!(f, "{seconds:.0} s"),
        }
    }
}

/// A number at or above zero, and what follows it.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

fn factor(prefix: &str) -> Option<f64> {
    Some(match prefix {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    })
}

fn whole(value: f64) -> Option<u64> {
    (value.is_finite() && (0.0..9e18).contains(&value)).then_some(value.round() as u64)
}

fn scaled(f: &mut fmt::Formatter<'_>, value: f64, unit: &str) -> fmt::Result {
    let steps = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (scale, prefix) = steps.into_iter().find(|(scale, _)| value >= *scale).unwrap_or((1.0, ""));
    let text = format!("{:.2}", value / scale);
    write!(f, "{} {prefix}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::Misuse, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bits_or_bytes_by_name() {
        let rate = |text: &str| Rate::try_from(text.to_owned()).map(|rate| rate.0).ok();
        assert_eq!(rate("10 Mbit/s"), Some(1_250_000));
        assert_eq!(rate("1.25MB/s"), Some(1_250_000));
        assert_eq!(rate(" 8 bit/s "), Some(1));
        assert_eq!(rate("1 MiB/s"), Some(1 << 20));
        for text in [
            "",
            "10",
            "10 Mbps",
            "10 mbit/s",
            "-1 B/s",
            "Mbit/s",
            "1e9 B/s",
            "1..2 B/s",
            "10 MB",
            "99999999999 TB/s",
        ] {
            assert_eq!(rate(text), None, "{text}");
        }
        assert_eq!(Rate(1_250_000).to_string(), "10 Mbit/s");
    }

    #[test]
    fn sizes_and_times_have_units() {
        let size = |text: &str| Size::try_from(text.to_owned()).map(|size| size.0).ok();
        assert_eq!(size("500 GB"), Some(500_000_000_000));
        assert_eq!(size("2 KiB"), Some(2_048));
        assert!(size("5").is_none() && size("5 bit").is_none() && size("5 B/s").is_none());
        assert_eq!(Size(1_500_000_000).to_string(), "1.5 GB");
        assert_eq!(Size(7).to_string(), "7 B");
        let span = |text: &str| Span::try_from(text.to_owned()).map(|span| span.0.as_secs()).ok();
        assert_eq!((span("6 h"), span("10 min"), span("30s")), (Some(21_600), Some(600), Some(30)));
        assert!(span("6").is_none() && span("6 weeks").is_none());
        assert_eq!(Span(Duration::from_secs(12 * 86_400)).to_string(), "12 days");
        assert_eq!(Span(Duration::from_secs(3 * 3_600 + 5)).to_string(), "3 h");
    }
}
