//! The keys that bound what the client costs, and the page's: flags, keys of the file, defaults. Merged by
//! [`crate::config`].

use mizzle_link::units::{Size, Span};
use serde::Deserialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// By flag or environment.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct BudgetFlags {
    /// Where the status page is, on this computer alone; `off`: nowhere [default: 127.0.0.1:9149]
    #[arg(long, env = "MIZZLE_PAGE", value_name = "ADDRESS")]
    pub(crate) page: Option<PagePlace>,
    /// Most traffic of a month, both directions together, such as `100 GB`; then the client rests [default: none]
    #[arg(long, env = "MIZZLE_CAP", value_name = "SIZE", value_parser = size)]
    pub(crate) cap: Option<Size>,
    /// Day on which the month of `cap` begins anew, 1 to 28 [default: 1]
    #[arg(long, env = "MIZZLE_CAP_RESET", value_name = "DAY", value_parser = clap::value_parser!(u8).range(1..=28))]
    pub(crate) cap_reset: Option<u8>,
    /// On networks that count what is used: `pause` or `use` [default: pause]
    #[arg(long, env = "MIZZLE_METERED", value_name = "WORD")]
    pub(crate) metered: Option<OnMetered>,
    /// Rest after so long without a program, such as `4 h`, until one connects; shows when you are away [default: off]
    #[arg(long, env = "MIZZLE_IDLE", value_name = "TIME")]
    pub(crate) idle: Option<Idle>,
}

/// By the file.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct BudgetKeys {
    page: Option<PagePlace>,
    cap: Option<Size>,
    cap_reset: Option<u8>,
    metered: Option<OnMetered>,
    idle: Option<Idle>,
}

/// Merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BudgetSettings {
    /// `None`: at its usual place, if that is free.
    pub(crate) page: Option<PagePlace>,
    pub(crate) cap: Option<Size>,
    pub(crate) cap_reset: u8,
    pub(crate) metered: OnMetered,
    pub(crate) idle: Idle,
}

impl BudgetSettings {
    /// Flags over keys over defaults; or why not.
    pub(crate) fn merge(flags: &BudgetFlags, keys: BudgetKeys) -> Result<Self, String> {
        let cap_reset = flags.cap_reset.or(keys.cap_reset).unwrap_or(1);
        if !(1..=28).contains(&cap_reset) {
            return Err("`cap_reset` must be a day that every month has: 1 to 28".into());
        }
        let cap = flags.cap.or(keys.cap);
        if cap == Some(Size(0)) {
            return Err("`cap` must be above zero: leave it out for no cap".into());
        }
        Ok(Self {
            page: flags.page.or(keys.page),
            cap,
            cap_reset,
            metered: flags.metered.or(keys.metered).unwrap_or_default(),
            idle: flags.idle.or(keys.idle).unwrap_or_default(),
        })
    }
}

/// Where the status page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum PagePlace {
    Off,
    At(SocketAddr),
}

impl FromStr for PagePlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<SocketAddr>() {
            _ if text == "off" => Ok(Self::Off),
            Ok(address) if address.ip().is_loopback() => Ok(Self::At(address)),
            Ok(_) => Err(format!(
                "`page` must be an address of this computer alone, like 127.0.0.1:9149: {text} is open to others"
            )),
            Err(_) => Err(format!("`{text}` is no address: write one like 127.0.0.1:9149, or off")),
        }
    }
}

/// What to do on a network that counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum OnMetered {
    #[default]
    Pause,
    Use,
}

impl FromStr for OnMetered {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pause" => Ok(Self::Pause),
            "use" => Ok(Self::Use),
            _ => Err(format!("`metered` is `pause` or `use`, not `{text}`")),
        }
    }
}

/// After how long without a program to rest, if ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Idle(pub(crate) Option<Span>);

impl FromStr for Idle {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(None)),
            _ => match Span::try_from(text.to_owned()) {
                Ok(Span(time)) if time.is_zero() => Err("`idle` must be above zero, or off".into()),
                Ok(span) => Ok(Self(Some(span))),
                Err(error) => Err(format!("{error}, or off")),
            },
        }
    }
}

macro_rules! by_text {
    ($($kind:ty),*) => { $(impl TryFrom<String> for $kind {
        type Error = String;

        fn try_from(text: String) -> Result<Self, String> {
            text.parse()
        }
    })* };
}
by_text!(PagePlace, OnMetered, Idle);

fn size(text: &str) -> Result<Size, String> {
    Size::try_from(text.to_owned()).map_err(|error| error.to_string())
}

/// Next to the proxy's port, below it: above it, people put more proxy ports.
pub(crate) const DEFAULT_PAGE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9149);
/// Their names in the file.
pub(crate) const BUDGET_KEYS: [&str; 5] = ["page", "cap", "cap_reset", "metered", "idle"];

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn merged(text: &str) -> Result<BudgetSettings, String> {
        let keys: BudgetKeys = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        BudgetSettings::merge(&BudgetFlags::default(), keys)
    }

    #[test]
    fn keys_are_read_and_flags_win() {
        let text = "page = \"off\"\ncap = \"100 GB\"\ncap_reset = 5\nmetered = \"use\"\nidle = \"4 h\"";
        let settings = merged(text).unwrap();
        assert_eq!((settings.page, settings.cap), (Some(PagePlace::Off), Some(Size(100_000_000_000))));
        assert_eq!((settings.cap_reset, settings.metered), (5, OnMetered::Use));
        assert_eq!(settings.idle, Idle(Some(Span(Duration::from_secs(14_400)))));
        let flags = BudgetFlags { cap: Some(Size(7)), idle: Some(Idle(None)), ..BudgetFlags::default() };
        let settings = BudgetSettings::merge(&flags, toml::from_str(text).unwrap()).unwrap();
        assert_eq!((settings.cap, settings.idle), (Some(Size(7)), Idle(None)));
        let defaults = merged("").unwrap();
        assert_eq!((defaults.cap, defaults.cap_reset, defaults.idle), (None, 1, Idle(None)));
        assert_eq!((defaults.page, defaults.metered), (None, OnMetered::Pause));
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (text, says) in [
            ("page = \"0.0.0.0:9149\"", "open to others"),
            ("page = \"[2001:db8::1]:9149\"", "open to others"),
            ("page = \"localhost\"", "127.0.0.1:9149"),
            ("cap = \"100\"", "500 GB"),
            ("cap = \"0 GB\"", "above zero"),
            ("cap_reset = 31", "1 to 28"),
            ("metered = \"no\"", "`pause` or `use`"),
            ("idle = \"soon\"", "or off"),
            ("idle = \"0 s\"", "above zero"),
        ] {
            let error = merged(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
