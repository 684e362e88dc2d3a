//! `mizzle doctor`: what keeps this client from carrying connections, or its user from what they hope for, each in
//! one sentence, with what to do. (spec: DAILY-7)

mod client;
mod machine;
mod reach;

use crate::config::{Flags, Settings, UpFlags};
use mizzle_link::findings::{Finding, Report};

/// Looks at everything. `up` is what `mizzle up` would be started with.
pub(crate) async fn examine(flags: &Flags, up: &UpFlags) -> Report {
    let settings = match Settings::merge(flags, up) {
        Ok(settings) => settings,
        Err(error) => {
            return Report::new(vec![Finding::fail("settings", error.to_string(), "mend that first")]);
        }
    };
    let mut findings = vec![Finding::pass("settings", "flags, environment and file make sense")];
    let status = client::status(&settings.state).await;
    let (network, finding) = machine::network_file(settings.network.as_deref(), status.is_ok());
    findings.push(finding);
    findings.push(machine::state(&settings.state));
    match status {
        Ok(status) => findings.extend(client::all(&settings, &status, network.as_ref()).await),
        Err(client::Silence::Stuck(what)) => {
            findings.push(Finding::fail("client", what, "end its process, then start it again: mizzle up"));
        }
        Err(client::Silence::Gone(what)) => {
            findings.push(Finding::fail("client", what, "start one: mizzle up"));
            for listener in &settings.socks {
                findings.push(machine::free_port(listener).await);
            }
            findings.push(reach::reach(network.as_ref(), &reach::way(&settings)).await);
        }
    }
    findings.push(machine::variables(std::env::vars(), &settings.socks));
    findings.push(machine::namespaces().await);
    Report::new(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_link::findings::Verdict;

    #[tokio::test]
    async fn without_a_client_it_says_so_and_what_stands_in_its_way() {
        let folder = tempfile::tempdir().unwrap();
        let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = folder.path().join("config.toml");
        std::fs::write(&config, format!("socks = \"{}\"\nstate = \"state\"\n", taken.local_addr().unwrap()))
            .unwrap();
        let flags = Flags { config: Some(config.clone()), ..Flags::default() };
        let report = examine(&flags, &UpFlags::default()).await;
        let verdict =
            |name: &str| report.findings.iter().find(|finding| finding.name == name).unwrap().verdict;
        for name in ["network", "client", "port"] {
            assert_eq!(verdict(name), Verdict::Fail, "{}", report.table());
        }
        assert!(!report.ok);
        std::fs::write(&config, "sock = 1\n").unwrap();
        let report = examine(&flags, &UpFlags::default()).await;
        assert!(report.table().starts_with("FAIL settings: "), "{}", report.table());
        assert!(report.table().contains("did you mean `socks`"), "{}", report.table());
    }
}
