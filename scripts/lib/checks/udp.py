"""Datagrams by two independent SOCKS clients, and `dig` over the port for DNS."""

import re
import subprocess
import sys
import threading

import network as net
import targets
from checks import ROOT, Check, Fault, changed
from report import row

# How long the client listens while a stranger sends to its exit.
WAIT = 12
# The configuration key of the port for DNS.
DNS_KEY, DNS_PORT = "dns", 5399
# This one has records of all kinds; the origin's own name has an address and nothing else.
DUAL_NAME = f"dual.{net.ORIGIN_NAME}"
# A text record of this name is longer than a datagram of 512 bytes.
LONG_NAME = f"long.{net.ORIGIN_NAME}"

# Runs at the client, with the package of another author.
PYSOCKS = r"""
import sys
sys.path.insert(0, sys.argv[1])
import socks
host, port = sys.argv[2].rsplit(":", 1)
link = socks.socksocket(socks.socket.AF_INET, socks.socket.SOCK_DGRAM)
link.set_proxy(socks.SOCKS5, host, int(port), rdns=True)
link.settimeout(15)
right = 0
for number in range(10):
    for _ in range(2):
        body = b"by another author %d" % number
        link.sendto(body, (sys.argv[3], int(sys.argv[4])))
        try:
            if link.recvfrom(2000)[0] == body:
                right += 1
                break
        except OSError:
            pass
print(right)
"""


class Udp(Check):
    def __init__(self):
        super().__init__("udp", "datagrams by independent clients, none from strangers; dig over the port for DNS")

    def measure(self, network, options):
        _needed(["dig:bind9-dnsutils"])
        origin = network.hosts["origin"]
        network.client_with()
        servers = network.targets()
        evidence = {"client": {}, "error": ""}
        try:
            asking = threading.Thread(target=_ask, args=(network, origin, evidence))
            asking.start()
            evidence["exit"] = _disturb(network, asking)
            asking.join()
            evidence["seen"] = [body for _, _, body in _told(network)["udp_sources"]]
            evidence["sources"] = sorted({host for host, _, _ in _told(network)["udp_sources"]})
            evidence["exits"] = [host.address for host in network.of("exit")]
            package = _package("PySocks")
            done = network.run("client", sys.executable, "-B", "-c", PYSOCKS, package, network.socks, net.ORIGIN_NAME, targets.UDP_ECHO, timeout=400)
            evidence["second"] = done.stdout.strip() or net.last_line(done.stderr)
        finally:
            net.stop(servers)
        evidence["dig"] = _dig(network, origin)
        network.client_with()
        evidence["address"] = origin.address
        return evidence

    def judge(self, evidence, options):
        client = evidence["client"]
        seen = evidence["seen"]
        came = lambda text: "yes" if any(text in body for body in seen) else "no"
        sent = client.get("sent", 0)
        dig = evidence["dig"]
        strangers = [peer for peer in evidence["sources"] if peer not in evidence["exits"]]
        return [
            row("udp: datagrams of the first client", sent if sent else f"0: {evidence['error']}"[:200], "datagrams", "= 20"),
            row("udp: of these, echoed", client.get("echoed", 0), "datagrams", "== 20"),
            row("udp: bound to the client's interface", client.get("bound", "nothing"), goal="= 127.0.0.1"),
            row("udp: datagrams that the target got from others than exits", len(strangers), "peers", "<= 0"),
            row("udp: a fragment reached the target", came("a fragment"), goal="= no"),
            row("udp: a datagram that no packet holds reached the target", came("too large"), goal="= no"),
            row("udp: another program's datagram reached the target", came("a stranger's"), goal="= no"),
            row("udp: a datagram after the stream's end reached the target", came("after the end"), goal="= no"),
            row("udp: works on after malformed datagrams", "yes" if client.get("after_junk") else "no", goal="= yes"),
            row("udp: a stranger sent to the exit's own port", evidence["exit"] or "no: none was found", goal="" if evidence["exit"] else "= an exit"),
            row("udp: datagrams that came unasked", len(client.get("unasked", [])) + len(client.get("after_end", [])), "datagrams", "<= 0"),
            row("udp: the second association works", "yes" if client.get("marked") else "no", goal="= yes"),
            row("udp: datagrams of strangers that came", len(client.get("from_strangers", [])), "datagrams", "<= 0"),
            row("udp: of 10 datagrams of PySocks, echoed", evidence["second"][-100:], "", "= 10"),
            row("dns: dig, A", dig["A"], goal=f"= {evidence['address']}"),
            row("dns: dig, AAAA", "an address" if ":" in dig["AAAA"] and "rror" not in dig["AAAA"] and " " not in dig["AAAA"] else f"none: {dig['AAAA']}"[:100], goal="= an address"),
            row("dns: dig, TXT", "a text" if dig["TXT"].startswith('"') else f"none: {dig['TXT']}"[:100], goal="= a text"),
            row("dns: dig, a name that is none", dig["none"], goal="= NXDOMAIN"),
            row("dns: dig, a long answer by UDP is marked as cut", dig["cut"], goal="= yes"),
            row("dns: dig, a long answer by TCP", dig["long"], "bytes", "> 512"),
        ]

    def sample(self):
        return {
            "client": {"sent": 20, "echoed": 20, "bound": "127.0.0.1", "after_junk": True, "unasked": [], "after_end": [], "marked": True, "from_strangers": []},
            "error": "", "exit": "10.31.7.1", "seen": ["A", "B", "marked"], "sources": ["10.31.7.1"], "exits": ["10.31.7.1", "10.32.7.1"], "second": "10",
            "dig": {"A": "10.90.7.1", "AAAA": "fd00:90::1", "TXT": '"hello"', "none": "NXDOMAIN", "cut": "yes", "long": 1400}, "address": "10.90.7.1",
        }

    def faults(self, evidence):
        client = lambda **changes: changed(evidence, client={**evidence["client"], **changes})
        dig = lambda **changes: changed(evidence, dig={**evidence["dig"], **changes})
        yield Fault("no UDP ASSOCIATE", changed(evidence, client={}, error="SocksError: reply code 7"), "udp: datagrams of the first")
        yield Fault("one datagram in twenty lost twice", client(echoed=19), "udp: of these")
        yield Fault("bound to every interface", client(bound="0.0.0.0"), "udp: bound")
        yield Fault("a datagram straight from the client", changed(evidence, sources=["10.41.7.1"]), "udp: datagrams that the target")
        yield Fault("a fragment that passes", changed(evidence, seen=["a fragment"]), "udp: a fragment")
        yield Fault("a datagram in parts that nobody asked for", changed(evidence, seen=["too large too large"]), "udp: a datagram that no packet")
        yield Fault("another program's datagram passes", changed(evidence, seen=["a stranger's"]), "udp: another")
        yield Fault("an association that outlives its stream", changed(evidence, seen=["after the end"]), "udp: a datagram after")
        yield Fault("malformed datagrams end it", client(after_junk=False), "udp: works on")
        yield Fault("nobody disturbed", changed(evidence, exit=None), "udp: a stranger")
        yield Fault("a datagram that nobody asked for", client(unasked=["x"]), "udp: datagrams that came")
        yield Fault("no second association", client(marked=False), "udp: the second")
        yield Fault("a stranger's datagram came", client(from_strangers=["from a stranger"]), "udp: datagrams of strangers")
        yield Fault("PySocks gets nothing", changed(evidence, second="0"), "udp: of 10")
        yield Fault("a wrong address", dig(A="10.90.7.2"), "dns: dig, A")
        yield Fault("no IPv6 address", dig(AAAA=""), "dns: dig, AAAA")
        yield Fault("a resolver that does not answer", dig(AAAA=";; communications error to 127.0.0.1#5399: timed out"), "dns: dig, AAAA")
        yield Fault("no text", dig(TXT=""), "dns: dig, TXT")
        yield Fault("an empty answer for a name that is none", dig(none="NOERROR"), "dns: dig, a name")
        yield Fault("a long answer that is not marked", dig(cut="no"), "dns: dig, a long answer by UDP")
        yield Fault("a long answer that stays short", dig(long=512), "dns: dig, a long answer by TCP")


def _ask(network, origin, evidence):
    try:
        evidence["client"] = network.tool("udp_client.py", network.socks, net.ORIGIN_NAME, origin.address, str(WAIT), timeout=400)
    except Exception as error:
        evidence["error"] = str(error)[-150:]


def _disturb(network, asking):
    """Once the second association has been seen at the target, a third host sends to the exit's port. The exit's address."""
    stranger = network.of("mix")[0]
    while asking.is_alive():
        try:
            marked = [source for source in _told(network)["udp_sources"] if source[2] == "marked"]
        except net.NetworkError:
            marked = []
        if marked:
            host, port, _ = marked[-1]
            send = f"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); [s.sendto(b'from a stranger', ({host!r}, {port})) for _ in range(5)]"
            network.run(stranger, sys.executable, "-c", send)
            return host
        asking.join(1)
    return None


def _told(network):
    return network.tool("at_client.py", "told", network.socks, net.ORIGIN_NAME, str(targets.TOLD))


def _dig(network, origin):
    """What dig says: of each kind of record the first answer."""
    try:
        network.client_with(**{DNS_KEY: f"{net.LOCALHOST}:{DNS_PORT}"})
    except net.NetworkError as error:
        why = net.last_line(str(error))[-100:]
        return {"A": why, "AAAA": f"error {why}", "TXT": why, "none": why, "cut": why, "long": 0}
    dig = lambda *words: network.run("client", "dig", f"@{net.LOCALHOST}", "-p", DNS_PORT, "+tries=2", "+time=10", *words, timeout=60).stdout
    first = lambda name, kind: next(iter(dig("+short", name, kind).splitlines()), "")
    size = re.search(r"MSG SIZE\s+rcvd: (\d+)", dig("+noedns", LONG_NAME, "TXT"))
    status = re.search(r"status: (\w+)", dig("no-such-host.test", "A"))
    flags = re.search(r"flags: ([\w ]+);", dig("+noedns", "+ignore", LONG_NAME, "TXT"))
    return {
        "A": first(net.ORIGIN_NAME, "A"), "AAAA": first(DUAL_NAME, "AAAA"), "TXT": first(DUAL_NAME, "TXT"), "none": status.group(1) if status else "no answer",
        "cut": "no answer" if not flags else "yes" if "tc" in flags.group(1).split() else "no", "long": int(size.group(1)) if size else 0,
    }


def _needed(programs):
    done = subprocess.run([str(ROOT / "scripts/lib/have"), *programs], capture_output=True, text=True)
    if done.returncode:
        raise net.NetworkError(done.stderr.strip())


def _package(name):
    """A folder with a Python package, installed there once."""
    folder = ROOT / "target/python"
    if not (folder / "socks.py").exists():
        done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), name], capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise net.NetworkError(f"{name} cannot be installed: {done.stderr.strip()[-200:]}")
    return str(folder)
