//! Firefox's settings: all of them preferences, in the file `user.js` of the profile.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

/// Writes the profile.
pub(super) fn write(folder: &Path, port: u16, downloads: Option<&Path>) -> io::Result<()> {
    let mut text = String::new();
    let port = port.to_string();
    let own = [("network.proxy.socks", "\"127.0.0.1\""), ("network.proxy.socks_port", port.as_str())];
    for (name, value) in own.iter().chain(&PREFERENCES) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "user_pref(\"{name}\", {value});");
    }
    if let Some(downloads) = downloads {
        let quoted = serde_json::to_string(downloads).map_err(io::Error::other)?;
        let _ = writeln!(
            text,
            "user_pref(\"browser.download.dir\", {quoted});\nuser_pref(\"browser.download.folderList\", 2);"
        );
    }
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("user.js"), text)
}

/// The command line before the page.
pub(super) fn arguments(folder: &Path, headless: bool) -> Vec<OsString> {
    let mut words: Vec<OsString> = ["--no-remote", "--new-instance", "--profile"].map(OsString::from).into();
    words.push(folder.into());
    if headless {
        words.push("--headless".into());
    }
    words
}

/// Names and values as JavaScript has them.
const PREFERENCES: [(&str, &str); 58] = [
    // One way out, for everything, this computer's own addresses included, and none when it fails.
    ("network.proxy.type", "1"),
    ("network.proxy.socks_version", "5"),
    ("network.proxy.socks_remote_dns", "true"),
    ("network.proxy.socks5_remote_dns", "true"),
    ("network.proxy.no_proxies_on", "\"\""),
    ("network.proxy.allow_hijacking_localhost", "true"),
    ("network.proxy.failover_direct", "false"),
    ("network.proxy.allow_bypass", "false"),
    ("network.trr.mode", "5"),
    ("media.peerconnection.enabled", "false"),
    ("network.http.http3.enable", "false"),
    ("network.http.altsvc.enabled", "false"),
    ("network.webtransport.enabled", "false"),
    // Nothing is fetched or resolved before it is asked for.
    ("network.dns.disablePrefetch", "true"),
    ("network.dns.disablePrefetchFromHTTPS", "true"),
    ("network.prefetch-next", "false"),
    ("network.predictor.enabled", "false"),
    ("network.http.speculative-parallel-limit", "0"),
    ("network.early-hints.preconnect.enabled", "false"),
    ("browser.urlbar.speculativeConnect.enabled", "false"),
    ("browser.places.speculativeConnect.enabled", "false"),
    ("browser.send_pings", "false"),
    ("beacon.enabled", "false"),
    // Nobody is asked on the browser's own account.
    ("network.captive-portal-service.enabled", "false"),
    ("network.connectivity-service.enabled", "false"),
    ("app.update.enabled", "false"),
    ("app.update.auto", "false"),
    ("app.normandy.enabled", "false"),
    ("app.shield.optoutstudies.enabled", "false"),
    ("extensions.update.enabled", "false"),
    ("extensions.getAddons.cache.enabled", "false"),
    ("extensions.blocklist.enabled", "false"),
    ("extensions.systemAddon.update.enabled", "false"),
    ("browser.search.update", "false"),
    ("browser.search.suggest.enabled", "false"),
    ("browser.urlbar.suggest.searches", "false"),
    ("browser.region.network.url", "\"\""),
    ("browser.safebrowsing.malware.enabled", "false"),
    ("browser.safebrowsing.phishing.enabled", "false"),
    ("browser.safebrowsing.downloads.remote.enabled", "false"),
    ("services.settings.server", "\"data:,\""),
    ("identity.fxaccounts.enabled", "false"),
    ("dom.push.connection.enabled", "false"),
    ("geo.enabled", "false"),
    ("media.gmp-manager.url", "\"data:,\""),
    ("datareporting.policy.dataSubmissionEnabled", "false"),
    ("datareporting.healthreport.uploadEnabled", "false"),
    ("toolkit.telemetry.enabled", "false"),
    ("toolkit.telemetry.unified", "false"),
    ("toolkit.telemetry.server", "\"data:,\""),
    ("browser.newtabpage.enabled", "false"),
    ("browser.startup.homepage", "\"about:blank\""),
    ("browser.startup.homepage_override.mstone", "\"ignore\""),
    ("browser.aboutwelcome.enabled", "false"),
    ("browser.shell.checkDefaultBrowser", "false"),
    ("browser.download.useDownloadDir", "false"),
    // Fewer marks by which one browser is told from others.
    ("privacy.resistFingerprinting", "true"),
    ("privacy.firstparty.isolate", "true"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_beside_the_proxy_is_shut() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 7, Some(Path::new("/a \"b\""))).unwrap();
        let text = std::fs::read_to_string(folder.path().join("user.js")).unwrap();
        for line in [
            "user_pref(\"network.proxy.type\", 1);",
            "user_pref(\"network.proxy.socks_port\", 7);",
            "user_pref(\"network.proxy.socks_remote_dns\", true);",
            "user_pref(\"network.proxy.failover_direct\", false);",
            "user_pref(\"media.peerconnection.enabled\", false);",
            "user_pref(\"browser.download.dir\", \"/a \\\"b\\\"\");",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}");
        }
        let mut names: Vec<_> = PREFERENCES.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PREFERENCES.len());
    }
}
