//! Whether the network that this computer uses counts what goes through it, as its network manager says.
//!
//! Asked of the programs that come with the network manager and with systemd: an exchange over D-Bus of our own, or a
//! library for it, would be several times the size of all that it is needed for.

use serde::{Deserialize, Serialize};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// What is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metered {
    /// It counts, or very likely does.
    Yes,
    No,
    /// Nobody here knows.
    #[default]
    Unknown,
    /// The settings say that it does not matter.
    NotAsked,
}

impl Metered {
    /// In words.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "unknown: this system does not say",
            Self::NotAsked => "not asked (key `metered`)",
        }
    }
}

/// Asks this system.
pub(crate) async fn ask() -> Metered {
    // What NetworkManager says of the connection that has the default route.
    let busctl = [
        "--system",
        "--timeout=2",
        "--auto-start=no",
        "get-property",
        "org.freedesktop.NetworkManager",
        "/org/freedesktop/NetworkManager",
        "org.freedesktop.NetworkManager",
        "Metered",
    ];
    match said("busctl", &busctl).await.map(|text| by_property(&text)) {
        Some(Metered::Unknown) | None => {}
        Some(known) => return known,
    }
    let nmcli = ["-t", "-f", "GENERAL.DEVICE,GENERAL.METERED,IP4.GATEWAY,IP6.GATEWAY", "device", "show"];
    said("nmcli", &nmcli).await.map(|text| by_devices(&text)).unwrap_or_default()
}

/// What a program prints; `None` if it is not there, fails, or takes too long.
async fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").kill_on_drop(true);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let output = tokio::time::timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `u 4`: the enumeration NMMetered.
fn by_property(text: &str) -> Metered {
    match text.trim().strip_prefix("u ") {
        Some("1" | "3") => Metered::Yes,
        Some("2" | "4") => Metered::No,
        _ => Metered::Unknown,
    }
}

/// Of the devices through which there is a way out, one that counts is enough.
fn by_devices(text: &str) -> Metered {
    let mut found = Metered::Unknown;
    for device in text.split("GENERAL.DEVICE:").skip(1) {
        let value = |name: &str| {
            device.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or("")
        };
        if value("IP4.GATEWAY").is_empty() && value("IP6.GATEWAY").is_empty() {
            continue;
        }
        match value("GENERAL.METERED").split(' ').next() {
            Some("yes") => return Metered::Yes,
            Some("no") => found = Metered::No,
            _ => {}
        }
    }
    found
}

const PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_managers_words_are_understood() {
        for (text, metered) in [
            ("u 0\n", Metered::Unknown),
            ("u 1\n", Metered::Yes),
            ("u 2\n", Metered::No),
            ("u 3\n", Metered::Yes),
            ("u 4\n", Metered::No),
            ("s \"x\"", Metered::Unknown),
            ("", Metered::Unknown),
        ] {
            assert_eq!(by_property(text), metered, "{text}");
        }
    }

    #[test]
    fn only_devices_with_a_way_out_count() {
        let device = |name: &str, metered: &str, gateway: &str| {
            format!(
                "GENERAL.DEVICE:{name}\nGENERAL.METERED:{metered}\nIP4.GATEWAY:{gateway}\nIP6.GATEWAY:\n\n"
            )
        };
        let wireless = device("wlan0", "no (guessed)", "192.0.2.1");
        assert_eq!(by_devices(&wireless), Metered::No);
        assert_eq!(by_devices(&(wireless.clone() + &device("usb0", "yes", ""))), Metered::No);
        assert_eq!(by_devices(&(wireless + &device("usb0", "yes (guessed)", "192.0.2.2"))), Metered::Yes);
        assert_eq!(by_devices(&device("lo", "unknown", "")), Metered::Unknown);
        assert_eq!(by_devices(""), Metered::Unknown);
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_says_nothing() {
        assert_eq!(said("there-is-no-such-program", &[]).await, None);
        assert_eq!(said("false", &[]).await, None);
    }
}
