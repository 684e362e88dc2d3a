//! Leads the program's questions for names to the one resolver in its network, and hides what would answer them
//! outside: other resolvers, and services that act for whoever asks them by a Unix socket, which no network namespace
//! bounds.

use std::path::Path;
use std::process::Command;

/// Hides them in this mount namespace, which must be the program's own. `folder` holds what lies in their place.
pub(super) fn hide(folder: &Path) -> Result<(), String> {
    for service in SERVICES.iter().map(Path::new).filter(|path| path.is_dir()) {
        mount(&["-t", "tmpfs", "-o", "mode=755,size=64k", "none"], service)?;
    }
    if let Some(bus) = std::env::var_os("XDG_RUNTIME_DIR").map(|folder| Path::new(&folder).join("bus"))
        && bus.exists()
    {
        mount(&["--bind", "/dev/null"], &bus)?;
    }
    let resolver = Path::new("/etc/resolv.conf");
    if resolver.exists() {
        bind(&folder.join("resolv.conf"), RESOLVER, resolver)?;
    } else if resolver.is_symlink() {
        // It led into what is hidden by now: the file is new, and lies where only the program sees it.
        let place = std::fs::read_link(resolver).unwrap_or_default();
        if SERVICES.iter().any(|service| {
            Path::new("/etc").join(&place).parent().is_some_and(|parent| {
                parent.canonicalize().ok() == Path::new(service).canonicalize().ok() && parent.is_dir()
            })
        }) {
            std::fs::write(resolver, RESOLVER).map_err(|error| failed(resolver, &error.to_string()))?;
        }
    }
    let switch = Path::new("/etc/nsswitch.conf");
    if switch.exists() {
        let text = std::fs::read_to_string(switch).map_err(|error| failed(switch, &error.to_string()))?;
        bind(&folder.join("nsswitch.conf"), &by_files_and_dns(&text), switch)?;
    }
    Ok(())
}

/// The same switch, except that host names come from files, and from the resolver that `resolv.conf` names.
fn by_files_and_dns(switch: &str) -> String {
    let line = |line: &str| match line.trim_start().starts_with("hosts:") {
        true => "hosts: files dns\n".to_owned(),
        false => format!("{line}\n"),
    };
    switch.lines().map(line).collect()
}

fn bind(file: &Path, text: &str, over: &Path) -> Result<(), String> {
    std::fs::write(file, text).map_err(|error| failed(over, &error.to_string()))?;
    mount(&["--bind".as_ref(), file.as_os_str()], over)
}

fn mount(arguments: &[impl AsRef<std::ffi::OsStr>], over: &Path) -> Result<(), String> {
    let output = Command::new("mount").args(arguments).arg(over).output().map_err(|error| {
        format!("`mizzle run` needs the program `mount` ({error}): it is in the package mount or util-linux")
    })?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(over, String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn failed(path: &Path, why: &str) -> String {
    format!("cannot hide {} from the program ({why}), so it was not started", path.display())
}

/// Folders of sockets by which names are resolved, or other programs asked to do something on the network.
const SERVICES: [&str; 4] = ["/run/systemd/resolve", "/run/nscd", "/run/dbus", "/run/avahi-daemon"];
/// It asks again by itself, so programs have to be patient rather than insistent.
const RESOLVER: &str = "# In `mizzle run` names are resolved by exits only.\n\
                        nameserver 127.0.0.1\noptions timeout:10 attempts:2\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_names_are_switched() {
        let text = "passwd: files systemd\nhosts:\tfiles mdns4_minimal resolve dns\nnetworks: files\n";
        assert_eq!(by_files_and_dns(text), "passwd: files systemd\nhosts: files dns\nnetworks: files\n");
    }
}
