//! The example configuration: every key, commented, at its default.

use super::{HEARTBEAT, LOOPS, METRICS};
use crate::services::policy::Ports;

/// How a key is written there, without the mark of a comment; those of `[exit]` with that before their names.
pub(super) fn line_of(key: &str) -> Option<String> {
    let start = format!("{} =", key.strip_prefix("exit.").unwrap_or(key));
    let text = example();
    let mut lines = text.lines().map(|line| line.trim_start_matches('#'));
    lines.find(|line| line.starts_with(&start)).map(str::to_owned)
}

/// A configuration with every key. As it stands it makes a mix, and without its comments, too.
pub(crate) fn example() -> String {
    format!(
        r#"# A Mizzle relay. Check it with `mizzle-relay check`, start it with `mizzle-relay run`, and ask what is wrong
# with `mizzle-relay doctor`, each with --config THIS-FILE.
#
# A flag such as --listen wins over an environment variable such as MIZZLE_RELAY_LISTEN, that over this file.

# The network file, from who runs the network.
network = "network.toml"

# The one public port: packets, links of clients, and the consensus.
listen = "127.0.0.1:7000"

# What this relay does: "mix", "entry" (takes links of clients) or "exit" (connects to the internet; also
# needs `enabled` below).
role = "mix"

# Identity, cached documents and the control socket. Keep a copy of the identity: mizzle-relay key backup FILE.
#state = "state"

# Folder for the keys of the key periods and for replay tags. It must be in memory (a tmpfs), so that both
# die together at a reboot. Default: the first of $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR, /dev/shm that is one.
#runtime = "/dev/shm/mizzle"

# Keep them on disk instead, below `state`. Who takes the disk can then open recorded packets of the
# current key periods.
#replay_on_disk = false

# Memory for the replay tags of one key period, 12 bytes a packet: 4 in the process, 8 in the folder above. The
# relay announces no more packets per second than this remembers: for a key period of a day, 763 with 800 MB.
# `check` says if the folder or the machine has no room for it.
#replay_memory = "800 MB"

# The addresses that others reach this relay at. Default: `listen`.
#announce = ["192.0.2.7:7000"]

# Relays of one operator are of one family, so that no client passes two of them. Away from the relays, make the
# family's key with mizzle-relay key family, and with it a certificate for each relay with mizzle-relay key
# certify: this is the certificate's file. A reload reads it again.
#family = "family-certificate"

# Where this relay is, by the two letters of ISO 3166-1. Users may ask for exits in a country; nobody checks what
# is said here, so say what is true of the address from which this relay connects. Default: it says nothing.
#country = "DE"

# Source address of all outgoing connections.
#outbound = "192.0.2.7"

# Bandwidth, in each direction: "10 Mbit/s" (bits) or "1.25 MB/s" (bytes). Counted are packets and filler; TLS
# and TCP add some 4 %. Packets beyond it are dropped as they come; those that were taken keep their delays.
# Default: no limit.
#rate = "10 Mbit/s"

# What may pass at once after a pause. Default: a second of `rate`.
#burst = "1.25 MB"

# Traffic of a month, both directions together: packets, filler, documents, and what an exit's own connections carry.
# At 95 % the relay announces a rest, at 100 % it takes no more packets until the month ends. Default: no limit.
#quota = "500 GB"

# Day of the month on which the quota begins anew, at midnight UTC: 1 to 28.
#quota_reset = 1

# Counters for Prometheus, on loopback.
#metrics = "{metrics}"

# Counters to the last packet and the last moment, rather than rounded and renewed every ten seconds: for tests
# only, since who reads them sees packets pass.
#exact_metrics = false

# Threads for packets. 0: one a core.
#threads = 0

# Loops a second through the network back to this relay. If they stop coming home, somebody may be keeping packets away
# from it to follow single ones, and it says so. 0: none.
#loops = {loops}

# A line in the log that all is well, so often. "0 s": never.
#heartbeat = "{heartbeat}"

# What is logged: "error", "warn" (a person should act), "info", "debug" or "trace". No level shows an address,
# a destination or a key.
#log = "info"

# Exits only: names that are known without asking the resolver.
#hosts = {{ "name.test" = "192.0.2.80" }}

# Exits only: the resolvers that answer what clients ask of theirs, at most 3; a reload reads them again. Best is one
# on this machine. Default: the nameservers of /etc/resolv.conf.
#resolver = ["192.0.2.53:53"]

#[exit]
# An exit connects to the internet for strangers, and what they do shows this machine's address. It needs your
# yes beside the role.
#enabled = false

# "reduced": ports of common services, without mail delivery and file sharing. "full": all ports but 25.
#policy = "reduced"

# Your own list of ports instead. This is what "reduced" allows:
#ports = {ports:?}

# Networks that may not be connected to. Private, loopback, link-local, multicast and own addresses never may,
# unless the network file says `open_exits = true`.
#reject = ["198.51.100.0/24"]

# A page that tells people who look up this address what runs here, in plain HTTP; and whom they can write to.
#notice = "0.0.0.0:80"
#contact = "abuse@example.org"
"#,
        metrics = METRICS,
        loops = LOOPS,
        heartbeat = HEARTBEAT,
        ports = Ports::reduced().to_strings(),
    )
}
