//! Chromium's settings: what it is told on its command line, and the few things that only its preferences hold.

use serde_json::json;
use std::ffi::OsString;
use std::io;
use std::path::Path;

/// Writes the profile.
pub(super) fn write(folder: &Path, downloads: Option<&Path>) -> io::Result<()> {
    let mut preferences = json!({
        "webrtc": {"ip_handling_policy": WEBRTC, "multiple_routes_enabled": false, "nonproxied_udp_enabled": false},
        "net": {"network_prediction_options": 2},
        "safebrowsing": {"enabled": false, "enhanced": false, "scout_reporting_enabled": false},
        "search": {"suggest_enabled": false},
        "alternate_error_pages": {"enabled": false},
        "signin": {"allowed": false},
        "credentials_enable_service": false,
        "autofill": {"profile_enabled": false, "credit_card_enabled": false},
        "translate": {"enabled": false},
        "browser": {"has_seen_welcome_page": true},
        "download": {"prompt_for_download": true},
        // The same language for all: the page would be told it.
        "intl": {"accept_languages": "en-US,en", "selected_languages": "en-US,en"},
    });
    if let (Some(downloads), Some(download)) = (downloads, preferences.get_mut("download")) {
        download["default_directory"] = json!(downloads);
    }
    let state = json!({
        "dns_over_https": {"mode": "off", "templates": ""},
        "background_mode": {"enabled": false},
        "user_experience_metrics": {"reporting_enabled": false},
        "variations_seed": "",
    });
    std::fs::create_dir_all(folder.join("Default"))?;
    std::fs::write(folder.join("Default/Preferences"), preferences.to_string())?;
    std::fs::write(folder.join("Local State"), state.to_string())?;
    // No first run.
    std::fs::write(folder.join("First Run"), "")
}

/// The command line before the page.
pub(super) fn arguments(folder: &Path, port: u16, headless: bool) -> Vec<OsString> {
    let mut profile = OsString::from("--user-data-dir=");
    profile.push(folder);
    let mut words = vec![
        profile,
        // By SOCKS5 Chromium leaves names to the proxy; and nothing is an exception, this computer included.
        format!("--proxy-server=socks5://127.0.0.1:{port}").into(),
        "--proxy-bypass-list=<-loopback>".into(),
        format!("--force-webrtc-ip-handling-policy={WEBRTC}").into(),
        format!("--disable-features={}", FEATURES.join(",")).into(),
    ];
    words.extend(SWITCHES.map(OsString::from));
    if headless {
        words.push("--headless=new".into());
    }
    words.push("--new-window".into());
    words
}

const WEBRTC: &str = "disable_non_proxied_udp";

const SWITCHES: [&str; 21] = [
    // It would fill the terminal, with addresses of pages among the rest.
    "--log-level=3",
    // What would still resolve a name here finds none.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--dns-prefetch-disable",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-sync",
    "--disable-component-update",
    "--disable-component-extensions-with-background-pages",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-domain-reliability",
    "--disable-client-side-phishing-detection",
    "--disable-breakpad",
    "--disable-crash-reporter",
    "--disable-field-trial-config",
    "--metrics-recording-only",
    "--no-pings",
    "--no-first-run",
    "--no-default-browser-check",
    "--password-store=basic",
    "--disable-search-engine-choice-screen",
];

/// What asks servers of its own, or looks around in the local network.
const FEATURES: [&str; 14] = [
    "AsyncDns",
    "DnsOverHttps",
    "UseDnsHttpsSvcb",
    "MediaRouter",
    "DialMediaRouteProvider",
    "OptimizationHints",
    "OptimizationGuideModelDownloading",
    "AutofillServerCommunication",
    "CertificateTransparencyComponentUpdater",
    "NetworkTimeServiceQuerying",
    "InterestFeedContentSuggestions",
    "Translate",
    "SafeBrowsingEnhancedProtection",
    "PreconnectToSearch",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_beside_the_proxy_is_shut() {
        let words = arguments(Path::new("/p"), 7, false);
        let has = |word: &str| words.iter().any(|found| found == word);
        for word in [
            "--user-data-dir=/p",
            "--proxy-server=socks5://127.0.0.1:7",
            "--proxy-bypass-list=<-loopback>",
            "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
            "--disable-quic",
        ] {
            assert!(has(word), "{word}");
        }
        // Its own walls between pages and this computer stay.
        assert!(!words.iter().any(|word| word.to_string_lossy().contains("sandbox")));
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), Some(Path::new("/d"))).unwrap();
        let text = std::fs::read(folder.path().join("Default/Preferences")).unwrap();
        let preferences: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(preferences["webrtc"]["ip_handling_policy"], WEBRTC);
        assert_eq!(preferences["download"]["default_directory"], "/d");
    }
}
