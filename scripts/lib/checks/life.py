"""What happens to a laptop: it sleeps, it changes its address, its entry is gone, a portal stands in the way."""

import time

import network as net
import pcap
import tls
from checks import FOLDER, Check, Fault, changed
from report import row

# A key period of a local network (directory, preset `local`); periods begin at its multiples.
PERIOD = 600
SLEEP, SHORT_SLEEP = 120, 20


class Life(Check):
    def __init__(self):
        super().__init__("life", "sleep, a new address, a dead entry, a portal: noticed, named, recovered", destructive=True, fresh=True)

    def measure(self, network, options):
        # The address that it sends from is the system's choice: it changes.
        network.client_with(outbound=None)
        evidence = {"first": network.curl("/1k", timeout=60)["exit"]}
        evidence["sleep"] = _sleep(network, SHORT_SLEEP if options.short else SLEEP, crossing=not options.short)
        evidence["roaming"] = _roaming(network)
        evidence["entry"] = _entry(network)
        evidence["portal"] = _portal(network)
        evidence["alive"] = network.process("client") is not None
        return evidence

    def judge(self, evidence, options):
        sleep, portal = evidence["sleep"], evidence["portal"]
        packets = list(pcap.parse(portal["capture"]))
        reason = portal["reason"]
        rows = [
            row("life: works at first", evidence["first"], "curl's exit code", "== 0"),
            row("life: slept", sleep["slept"], "s", f">= {SHORT_SLEEP if options.short else SLEEP}"),
        ]
        if not options.short:
            rows.append(row("life: a key period ended meanwhile", "yes" if sleep["crossed"] else "no", goal="= yes"))
        rows += [
            row("life: after sleep, usable again after", sleep["seconds"], "s", "<= 5"),
            row("life: with a new address, usable again after", evidence["roaming"]["seconds"], "s", "<= 10"),
            row("life: the new address is used", "yes" if evidence["roaming"]["used"] else "no", goal="= yes"),
            row("life: entry gone without a word, usable again after", evidence["entry"]["seconds"], "s", "<= 15"),
            row("life: by another entry", "yes" if evidence["entry"]["other"] else "no", goal="= yes"),
            row("life: the portal was asked", portal["asked"], "connections", ">= 1"),
            row("life: portal, status names it", "yes" if "portal" in reason.lower() and portal["code"] != 0 else f"no: it says {reason!r}"[:200], goal="= yes"),
            row("life: portal, packets captured", len(packets), "packets", ">= 3"),
            row("life: portal, what left in the clear", in_the_clear(packets, portal["client"]) or "nothing", goal="= nothing"),
            row("life: portal gone, usable again after", portal["seconds"], "s", "<= 15"),
            row("life: the same process all the time", "yes" if evidence["alive"] else "no: it ended", goal="= yes"),
        ]
        return rows

    def sample(self):
        from tests.test_reading import hello, stream

        packets = stream([hello("mizzle/1")], ends=("10.41.7.1", 40000, "10.21.7.1", 7000))
        packets += stream([b"HTTP/1.1 302 Found\r\n\r\n"], ends=("10.21.7.1", 7000, "10.41.7.1", 40000))
        return {
            "first": 0, "sleep": {"slept": 120.4, "crossed": True, "seconds": 2.0}, "roaming": {"seconds": 4.0, "used": True},
            "entry": {"seconds": 11.0, "other": True}, "alive": True,
            "portal": {"capture": pcap.write(packets), "client": "10.41.7.1", "reason": "a captive portal answers for the network: sign in with a browser", "code": 1, "asked": 3, "seconds": 5.0},
        }

    def faults(self, evidence):
        part = lambda name, **changes: changed(evidence, **{name: {**evidence[name], **changes}})
        yield Fault("a client that never worked", changed(evidence, first=97), "life: works")
        yield Fault("a sleep of a minute", part("sleep", slept=60.0), "life: slept")
        yield Fault("a sleep within one key period", part("sleep", crossed=False), "life: a key period")
        yield Fault("eight seconds after sleep", part("sleep", seconds=8.0), "life: after sleep")
        yield Fault("twelve seconds with a new address", part("roaming", seconds=12.0), "life: with a new")
        yield Fault("the old address is used", part("roaming", used=False), "life: the new")
        yield Fault("twenty seconds without the entry", part("entry", seconds=20.0), "life: entry gone")
        yield Fault("the dead entry again", part("entry", other=False), "life: by another")
        yield Fault("a status that knows no portal", part("portal", reason="no entry can be reached"), "life: portal, status")
        yield Fault("a status that says all is well", part("portal", code=0), "life: portal, status")
        yield Fault("a portal that nobody asked", part("portal", asked=0), "life: the portal")
        yield Fault("an empty capture", part("portal", capture=pcap.write([])), "life: portal, packets")
        yield Fault("never back", part("portal", seconds=60.0), "life: portal gone")
        yield Fault("the client died", changed(evidence, alive=False), "life: the same")
        packets = list(pcap.parse(evidence["portal"]["capture"]))
        client, last = evidence["portal"]["client"], packets[-1].time
        asks = pcap.Packet(last, "tcp", client, "10.21.7.1", 40001, 80, 1, pcap.ACK, b"GET /generate_204 HTTP/1.1\r\n")
        yield Fault("a page asked for in the clear", part("portal", capture=pcap.write([*packets, asks])), "life: portal, what left")
        query = pcap.Packet(last, "udp", client, "10.90.7.1", 40001, 53, payload=b"query")
        yield Fault("a DNS query", part("portal", capture=pcap.write([*packets, query])), "life: portal, what left")


def in_the_clear(packets, client):
    """What left the client that is no TLS: a text, "" if nothing did."""
    for packet in packets:
        if packet.source == client and packet.kind in ("udp", "other") or packet.kind == "icmp" and packet.source == client:
            return f"a {packet.kind} packet"
    for direction in tls.directions(packets):
        if direction.source[0] != client:
            continue
        if not direction.whole:
            # A stream from before the capture, perhaps from the middle of a record: what is sealed does not read as text.
            readable = sum(1 for byte in direction.data if 32 <= byte < 127 or byte in b"\r\n\t")
            if readable > 0.8 * len(direction.data):
                return f"text: {direction.data[:20]!r}"
            continue
        try:
            list(tls.records(direction))
        except tls.StreamError as error:
            return f"{error}, to port {direction.destination[1]}"
        if not tls.offered_protocols(direction):
            return f"a stream to port {direction.destination[1]} that begins {direction.data[:20]!r}"
    return ""


def usable_again(network, most):
    """Seconds until a page comes; a try that hangs does not keep the next one from being made."""
    begun = time.monotonic()
    while time.monotonic() - begun < most:
        if network.curl("/1k", timeout=3)["exit"] == 0:
            return time.monotonic() - begun
        time.sleep(0.1)
    return 1e9


def _sleep(network, seconds, crossing):
    if crossing:
        # The end of the key period falls into the sleep.
        left = PERIOD - time.time() % PERIOD
        time.sleep((left - seconds / 2) % PERIOD)
    number = network.process("client")
    before, begun = int(time.time() // PERIOD), time.time()
    net.os.kill(number, net.signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        net.os.kill(number, net.signal.SIGCONT)
    slept, after = time.time() - begun, int(time.time() // PERIOD)
    return {"slept": slept, "crossed": after > before, "seconds": usable_again(network, 60)}


def _roaming(network):
    client = network.hosts["client"]
    head = client.address.rsplit(".", 1)[0]
    new = f"{head}.2"
    for words in (("address", "del", f"{client.address}/8", "dev", "eth0"), ("address", "add", f"{new}/8", "dev", "eth0")):
        done = network.run("client", "ip", *words)
        if done.returncode:
            raise net.NetworkError(f"the address cannot be changed: {done.stderr.strip()}")
    seconds = usable_again(network, 60)
    used = new in network.run("client", "ss", "-tnH", "state", "established").stdout
    return {"seconds": seconds, "used": used}


def _entry(network):
    entry = _entry_in_use(network)
    if entry is None:
        raise net.NetworkError("the client is connected to no entry")
    network.run(entry, "ip", "link", "set", "eth0", "down")
    seconds = usable_again(network, 60)
    other = _entry_in_use(network)
    network.run(entry, "ip", "link", "set", "eth0", "up")
    return {"seconds": seconds, "other": other is not None and other.name != entry.name}


def _entry_in_use(network):
    """The entry that the client is connected to from the address that it has now: sockets of the old one linger."""
    peers = network.run("client", "ss", "-tnH", "state", "established", "src", _address(network)).stdout
    return next((host for host in network.of("entry") if f" {host.address}:" in peers), None)


def _address(network):
    return network.run("client", "ip", "-4", "-o", "address", "show", "dev", "eth0").stdout.split()[3].split("/")[0]


def _portal(network):
    """Every relay's address is the portal's, which sends everybody to its own page."""
    path, origin = FOLDER / "portal.pcap", network.hosts["origin"]
    away = [host for host in network.hosts.values() if host.role in ("authority", "mix", "entry", "exit")]
    capture = network.capture("client", path)
    for host in away:
        network.run(host, "ip", "link", "set", "eth0", "down")
        network.run(origin, "ip", "address", "add", f"{host.address}/32", "dev", "eth0")
    portal = network.spawn(origin, net.sys.executable, "-B", net.ROOT / "scripts/lib/portal.py", stdout=open(network.folder / "portal.output", "w"))
    network.run("client", "ip", "neighbour", "flush", "dev", "eth0")
    try:
        time.sleep(25)
        network.curl("/1k", timeout=5)
        code, reason = network.client_status()
    finally:
        net.stop(portal)
        for host in away:
            network.run(origin, "ip", "address", "del", f"{host.address}/32", "dev", "eth0")
            network.run(host, "ip", "link", "set", "eth0", "up")
        network.run("client", "ip", "neighbour", "flush", "dev", "eth0")
        for host in away:
            network.run(host, "ip", "neighbour", "flush", "dev", "eth0")
    # Those commands took a moment, in which it may have come back.
    waited = usable_again(network, 60)
    network.finish_capture(capture, path)
    asked = (network.folder / "portal.output").read_text().count("asked")
    client = _address(network)
    return {"capture": path.read_bytes(), "client": client, "reason": reason, "code": code, "asked": asked, "seconds": waited}
