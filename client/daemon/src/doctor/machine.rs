//! What lies in this computer: files, ports, variables, rights, and the way to the network's relays.

use crate::listener::{Address, Listener};
use crate::run::obstacle;
use crate::system::others_may_look;
use mizzle_client::NetworkFile;
use mizzle_link::findings::Finding;
use std::path::Path;

pub(super) fn network_file(path: Option<&Path>, running: bool) -> (Option<NetworkFile>, Finding) {
    let from = "take the file from who runs the network, and name it by the key `network`";
    match path.map(NetworkFile::load) {
        None if running => (None, Finding::skip("network", "named to the running client only, not here")),
        None => (None, Finding::fail("network", "no network file is named", from)),
        Some(Ok(file)) => (Some(file), Finding::pass("network", "the network file holds")),
        Some(Err(error)) => (None, Finding::fail("network", error.to_string(), from)),
    }
}

pub(super) fn state(folder: &Path) -> Finding {
    let place = folder.display();
    match folder.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Finding::skip("state", format!("{place} is not there yet: `mizzle up` makes it"))
        }
        Err(error) => Finding::fail("state", format!("{place}: {error}"), "name another one by --state"),
        Ok(metadata) if !metadata.is_dir() => {
            Finding::fail("state", format!("{place} is no folder"), "name another one by --state")
        }
        Ok(metadata) if others_may_look(&metadata) => Finding::warn(
            "state",
            format!("other users of this computer can look into {place}"),
            format!("chmod 700 {place}"),
        ),
        Ok(_) => Finding::pass("state", "the state directory is yours alone"),
    }
}

/// Whether a client could listen there.
pub(super) async fn free_port(address: &Address) -> Finding {
    match Listener::open(address).await {
        Ok(_) => Finding::pass("port", format!("{address} is free")),
        Err(error) => Finding::fail(
            "port",
            format!("a client could not listen at {address} ({error})"),
            "stop the program that listens there, or choose another address by the key `socks`",
        ),
    }
}

/// Variables by which programs find a proxy: some spellings let the program resolve names itself, in the clear.
pub(super) fn variables(all: impl Iterator<Item = (String, String)>, ports: &[Address]) -> Finding {
    let all: Vec<(String, String)> = all
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .filter(|(name, _)| name.ends_with("_proxy"))
        .collect();
    let ours = |value: &str| {
        ports.iter().any(|port| match port {
            Address::Tcp(port) => value.trim_end_matches('/').ends_with(&format!(":{}", port.port())),
            Address::Unix(_) => false,
        })
    };
    let leaks = |value: &str| {
        value.starts_with("socks5://") || value.starts_with("socks4://") || value.starts_with("socks://")
    };
    let leading: Vec<_> = all.iter().filter(|(name, value)| name != "no_proxy" && ours(value)).collect();
    if let Some((name, _)) = leading.iter().find(|(_, value)| leaks(value)) {
        return Finding::warn(
            "variables",
            format!("by {name}, programs look names up themselves, for all to see, and connect by address"),
            "write socks5h:// in place of socks5:// there",
        );
    }
    let exceptions = all.iter().any(|(name, value)| name == "no_proxy" && !value.trim().is_empty());
    match (leading.is_empty(), exceptions) {
        (true, _) => Finding::skip("variables", "no variable here leads programs to this client"),
        (false, true) => Finding::warn(
            "variables",
            "what NO_PROXY names goes past the mixnet, for all to see",
            "unset NO_PROXY unless that is meant",
        ),
        (false, false) => Finding::pass("variables", "programs that heed them find this client"),
    }
}

/// What `mizzle run` needs.
pub(super) async fn namespaces() -> Finding {
    if let Some(why) = obstacle().filter(|_| cfg!(not(target_os = "linux"))) {
        return Finding::skip("run", why);
    }
    let output = tokio::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "--", "ip", "link", "set", "lo", "up"])
        .output()
        .await;
    let why = match output {
        Ok(output) if output.status.success() => {
            return Finding::pass("run", "`mizzle run` can give a program a network of its own");
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => format!("unshare: {error}"),
    };
    let advice = "install unshare (util-linux) and ip (iproute2), and allow user namespaces";
    Finding::warn(
        "run",
        format!("`mizzle run` does not work here ({why})"),
        obstacle().unwrap_or_else(|| advice.into()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_link::findings::Verdict;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_proxy_variable_that_lets_names_out_is_told() {
        let ports = ["127.0.0.1:9150".parse().unwrap()];
        let look = |pairs: &[(&str, &str)]| {
            variables(pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())), &ports).verdict
        };
        assert_eq!(look(&[]), Verdict::Skip);
        assert_eq!(look(&[("ALL_PROXY", "socks5://10.0.0.1:1080")]), Verdict::Skip);
        assert_eq!(look(&[("ALL_PROXY", "socks5h://127.0.0.1:9150")]), Verdict::Pass);
        assert_eq!(look(&[("http_proxy", "http://127.0.0.1:9150/")]), Verdict::Pass);
        assert_eq!(look(&[("all_proxy", "socks5://localhost:9150")]), Verdict::Warn);
        assert_eq!(
            look(&[("ALL_PROXY", "socks5h://127.0.0.1:9150"), ("NO_PROXY", "example.org")]),
            Verdict::Warn
        );
    }

    #[test]
    fn a_state_directory_that_others_see_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let set =
            |mode| std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        set(0o700);
        assert_eq!(state(folder.path()).verdict, Verdict::Pass);
        set(0o750);
        assert_eq!(state(folder.path()).verdict, Verdict::Warn);
        assert_eq!(state(&folder.path().join("none")).verdict, Verdict::Skip);
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(state(&file).verdict, Verdict::Fail);
    }
}
