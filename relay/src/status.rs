//! `status`: how a running relay does, in a few lines.

use crate::coarse::Traffic;
use crate::config::{Config, RelayRole};
use crate::membership::Standing;
use mizzle_link::http::{self, Limits};
use mizzle_link::units::Span;
use mizzle_link::{Error, Identity, Result};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::country::Country;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::net::TcpStream;

/// What a running relay says of itself on its metrics address.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Page {
    role: String,
    #[serde(flatten)]
    standing: Standing,
    #[serde(flatten)]
    traffic: Traffic,
    /// Why it refuses packets, if it does.
    #[serde(default)]
    trouble: Option<String>,
    /// How much of the month's quota is used, if there is one.
    quota: Option<String>,
    /// How its family's certificate does, if it has one.
    family: Option<String>,
    /// Where it says that it is.
    #[serde(default)]
    country: Option<String>,
    /// Files that the process may have open; 0: unknown.
    file_limit: u64,
}

impl Page {
    /// Why it refuses packets, if it does.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// The page now.
    pub(crate) fn new(
        role: RelayRole,
        standing: Standing,
        traffic: Traffic,
        trouble: Option<&str>,
        quota: Option<String>,
        family: Option<String>,
        file_limit: u64,
    ) -> Self {
        Self {
            role: role.name().to_owned(),
            standing,
            traffic,
            trouble: trouble.map(str::to_owned),
            quota,
            family,
            country: None,
            file_limit,
        }
    }

    /// The page of a relay that declares this country.
    pub(crate) fn in_country(self, country: Option<Country>) -> Self {
        Self { country: country.map(|country| country.to_string()), ..self }
    }

    /// How its loops do: those that came home, those that did not, and whether that is an alarm.
    pub(crate) fn loops(&self) -> (u64, u64, bool) {
        (self.traffic.loops_home, self.traffic.loops_lost, self.traffic.loop_alarm)
    }

    /// Files that the process may have open, if it knows.
    pub(crate) fn file_limit(&self) -> Option<u64> {
        Some(self.file_limit).filter(|&limit| limit > 0)
    }

    /// Why it is not used, if it is not, in its own words.
    pub(crate) fn why_not_listed(&self) -> Option<&str> {
        self.standing.not_listed.as_deref()
    }

    /// The page as JSON.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The page for people.
    fn print(&self, identity: &str) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<10} {value}");
        };
        let layer = self.standing.layer.map(|layer| format!(", layer {layer}")).unwrap_or_default();
        line("identity", identity.to_owned());
        line("role", format!("{}{layer}", self.role));
        line(
            "listed",
            match &self.standing.not_listed {
                None => "yes".to_owned(),
                Some(reason) => format!("no: {reason}"),
            },
        );
        if let Some(moment) = self.standing.leaves_at {
            let now = mizzle_link::Clock::new().now().unix().0;
            let left = Span(Duration::from_secs(moment.saturating_sub(now)));
            line("leaves", format!("told to; ends by itself in {left}"));
        }
        if let Some(trouble) = &self.trouble {
            line("trouble", format!("it refuses packets: {trouble}"));
        }
        if let Some(failing) = &self.standing.failing {
            line("failing", format!("{failing}; trying again"));
        }
        if let Some(quota) = &self.quota {
            line("quota", quota.clone());
        }
        if let Some(family) = &self.family {
            line("family", family.clone());
        }
        if let Some(country) = &self.country {
            line("country", format!("{country}, as its configuration says"));
        }
        line("epoch", self.standing.epoch.map_or("none yet".to_owned(), |epoch| epoch.to_string()));
        let Traffic { links_out, links_in, received, lost, clients, sessions, streams, per_second, .. } =
            self.traffic;
        line("links", format!("{links_out} out, {links_in} in"));
        if self.role == RelayRole::Entry.name() {
            line("clients", clients.to_string());
        }
        if self.role == RelayRole::Exit.name() {
            line("sessions", format!("{sessions}, with {streams} streams"));
        }
        let rate = per_second.map(|rate| format!("{rate}/s; ")).unwrap_or_default();
        line("packets", format!("{rate}{received} so far, {lost} lost"));
        let (home, lost, alarm) = self.loops();
        let alarm = if alarm { "; ALARM: somebody may keep packets away: see doctor" } else { "" };
        line("loops", format!("{home} came home, {lost} did not{alarm}"));
        text
    }
}

/// Prints the state of the relay with this configuration; fails if it does not run.
pub(crate) async fn show(config: &Config) -> Result<()> {
    let identity = Identity::load(&config.identity())?.map(|identity| identity.id().to_hex());
    print!("{}", fetch(config).await?.print(&identity.unwrap_or_default()));
    Ok(())
}

/// Asks the relay with this configuration for its page.
pub(crate) async fn fetch(config: &Config) -> Result<Page> {
    let mut stream = TcpStream::connect(config.metrics).await.map_err(|error| {
        Error::io(format!("ask the relay on {} (does it run? key `metrics`)", config.metrics), error)
    })?;
    let response = http::get(&mut stream, "/status", &Limits::default()).await?;
    serde_json::from_slice(&response.body).map_err(|error| {
        let message = format!("what answers on {} is no relay of this version: {error}", config.metrics);
        Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Incompatible, message))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_why_a_relay_is_not_used() {
        let standing = Standing { not_listed: Some("no answer on IPv4".to_owned()), ..Standing::default() };
        let trouble = Some("its memory is full");
        let (quota, family) = ("3 % of 1 GB used".to_owned(), "certified for 9 days more".to_owned());
        let traffic = Traffic { received: 640, per_second: Some(12), ..Traffic::default() };
        let page = Page::new(RelayRole::Entry, standing, traffic, trouble, Some(quota), Some(family), 9);
        let page: Page = serde_json::from_slice(&page.to_json()).unwrap();
        let text = page.clone().print("abcd");
        assert!(text.contains("listed     no: no answer on IPv4\n"), "{text}");
        assert!(text.contains("trouble    it refuses packets: its memory is full\n"), "{text}");
        assert!(text.contains("quota      3 % of 1 GB used\n"), "{text}");
        let at_first = page.clone();
        let unlisted = Page { standing: Standing::default(), ..at_first }.print("abcd");
        assert!(unlisted.contains("listed     no: no consensus yet"), "{unlisted}");
        assert!(text.contains("family     certified for 9 days more\n"), "{text}");
        assert!(text.contains("loops      0 came home, 0 did not\n"), "{text}");
        let traffic = Traffic { loops_home: 2, loops_lost: 7, loop_alarm: true, ..page.traffic };
        let alarm = Page { traffic, ..page }.print("abcd");
        assert!(alarm.contains("loops      2 came home, 7 did not; ALARM"), "{alarm}");
        assert!(text.contains("clients    0\n") && text.contains("packets    12/s; 640 so far"), "{text}");
    }
}
