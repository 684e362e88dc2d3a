//! Which resolvers are asked.

use crate::config::RESOLVERS;
use mizzle_link::read_bounded;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

/// The resolvers that are `listed` in the configuration; if none are, those of the system.
pub(crate) fn nameservers(listed: &[SocketAddr]) -> Vec<SocketAddr> {
    match listed {
        [] => of_system(Path::new(FILE)),
        listed => listed.to_vec(),
    }
}

fn of_system(path: &Path) -> Vec<SocketAddr> {
    let text = match read_bounded(path, LARGEST) {
        Ok(text) => text.unwrap_or_default(),
        Err(error) => {
            tracing::warn!("the resolvers of the system are not known: {error}: name some with `resolver`");
            Vec::new()
        }
    };
    of_text(&String::from_utf8_lossy(&text))
}

/// The lines `nameserver ADDRESS` of a resolv.conf(5): three at most, and without any the machine itself.
fn of_text(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("nameserver"), Some(address)) => address.parse::<IpAddr>().ok(),
            _ => None,
        }
    };
    let listed = text.lines().filter_map(address).filter(|address| !address.is_unspecified());
    let mut servers: Vec<_> = listed.take(RESOLVERS).map(|address| SocketAddr::new(address, PORT)).collect();
    if servers.is_empty() {
        servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
    }
    servers
}

const FILE: &str = "/etc/resolv.conf";
const LARGEST: usize = 64 * 1024;
const PORT: u16 = 53;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_list_is_read_as_the_system_reads_it() {
        let servers = |text: &str| of_text(text).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            servers(
                "# nameserver 192.0.2.1\nsearch a.test\nnameserver 192.0.2.2 \nnameserver\t2001:db8::1\n"
            ),
            ["192.0.2.2:53", "[2001:db8::1]:53"]
        );
        assert_eq!(servers("nameserver x\nnameserver 0.0.0.0\noptions ndots:5\n"), ["127.0.0.1:53"]);
        assert_eq!(servers(""), ["127.0.0.1:53"]);
        assert_eq!(servers(&"nameserver 192.0.2.1\n".repeat(5)).len(), 3);
        assert_eq!(of_system(Path::new("/nowhere/resolv.conf")).len(), 1);
        let listed = vec!["192.0.2.9:5353".parse().unwrap()];
        assert_eq!(nameservers(&listed), listed);
    }
}
