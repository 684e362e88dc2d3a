"""Malformed, truncated, oversized and random bytes on every listener."""

import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import network as net
from checks import Check, Fault, changed
from report import row

# Runs at a host, so it stands alone: sends each of the inputs over its own connection, with a few at a time.
SENDER = r"""
import json, random, socket, sys
kind, address, seed, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rng = random.Random(seed)
hello = bytes.fromhex("16030100c8010000c40303") + bytes(32) + b"\x20" + bytes(32) + bytes.fromhex("000213010100")
http = b"GET /consensus HTTP/1.1\r\nHost: x\r\n\r\n"
socks = b"\x05\x01\x00\x05\x01\x00\x03\x0ahello.test\x1f\x90"
seeds = {"relay": [hello, http], "http": [http, b"POST /descriptor HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"],
         "socks": [socks, b"\x04\x01\x1f\x90\x7f\0\0\1user\0", b"\x05\xff" + bytes(255)], "control": [b'{"command":"status"}\n', b"[" * 20000]}[kind]
def inputs():
    yield b""
    for seed in seeds:
        yield seed
        for _ in range(6):
            yield seed[: rng.randrange(len(seed))]
        for _ in range(12):
            changed = bytearray(seed)
            for _ in range(rng.randrange(1, 6)):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            yield bytes(changed)
        yield seed * 50
    yield b"\0" * 70000
    yield b"\xff" * 300000
    yield b"A" * 300000 + b"\r\n\r\n"
    yield bytes([22, 3, 1, 0xff, 0xff]) + bytes(70000)
    yield bytes([23, 3, 3, 0x40, 0]) + rng.randbytes(16384)
    for size in (1, 2, 5, 64, 517, 4478, 16389, 100000):
        yield rng.randbytes(size)
sent = refused = 0
held = []
for _ in range(rounds):
    for data in inputs():
        try:
            if kind == "control":
                link = socket.socket(socket.AF_UNIX)
                link.settimeout(2)
                link.connect(address)
            else:
                host, port = address.rsplit(":", 1)
                link = socket.create_connection((host, int(port)), 2)
            link.settimeout(0.3)
            sent += 1
            try:
                link.sendall(data)
                if rng.random() < 0.5:
                    link.shutdown(socket.SHUT_WR)
                if rng.random() < 0.3:
                    link.recv(100)
            except OSError:
                pass
            held.append(link)
            if len(held) > 12:
                held.pop(0).close()
        except OSError:
            refused += 1
print(json.dumps({"sent": sent, "refused": refused}))
"""

# Memory that a process may gain: buffers and tables grow to their bounds once, then no more.
GROWTH = 24 * 1024 * 1024


class Hostile(Check):
    def __init__(self):
        super().__init__("hostile", "hostile bytes on every listener: nothing dies, nothing leaks, all is counted")

    def measure(self, network, options):
        rounds = 2 if options.short else 12
        entry, mix, exit_ = network.of("entry")[0], network.of("mix")[0], network.of("exit")[0]
        authority, client = network.hosts["authority"], network.hosts["client"]
        targets = [
            ("entry's port", entry.name, "relay", f"{entry.address}:7000"),
            ("mix's port", mix.name, "relay", f"{mix.address}:7000"),
            ("exit's port", exit_.name, "relay", f"{exit_.address}:7000"),
            ("mix's metrics", mix.name, "http", mix.metrics),
            ("authority's port", authority.name, "relay", f"{authority.address}:7000"),
            ("client's SOCKS port", client.name, "socks", network.socks),
            ("client's control socket", client.name, "control", str(client.folder / "state/control.sock")),
        ]
        listeners = {"entry's port": entry, "mix's port": mix, "exit's port": exit_, "mix's metrics": mix}
        counted_before = _counted(network, listeners)
        warm, results = {}, []
        for turn in (0, 1):
            for what, host, kind, address in targets:
                before = net.memory(network.process(host), "VmRSS") if network.process(host) else None
                warm.setdefault(host, before)
                done = network.run(host, sys.executable, "-c", SENDER, kind, address, str(17 + turn), str(rounds), timeout=600)
                try:
                    said = json.loads(done.stdout)
                except ValueError:
                    said = {"sent": 0, "refused": 0, "error": done.stderr[-300:]}
                results.append({"what": what, "host": host, "turn": turn, **said})
            if turn == 0:
                # The first turn fills buffers and tables; what the second one adds is a leak.
                time.sleep(3)
                warm = {host: net.memory(network.process(host), "VmRSS") for _, host, _, _ in targets if network.process(host)}
        time.sleep(12)
        hosts = sorted({host for _, host, _, _ in targets})
        alive = {host: network.process(host) is not None for host in hosts}
        growth = {host: net.memory(network.process(host), "VmRSS") - warm[host] for host in hosts if alive[host] and warm.get(host)}
        counted = {
            what: {reason: count - counted_before[what].get(reason, 0) for reason, count in reasons.items()}
            for what, reasons in _counted(network, listeners).items()
        }
        panics = {host: network.hosts[host].log.read_text(errors="replace").count("panicked at") for host in network.hosts}
        works = network.curl("/bytes/100000", timeout=60)["exit"]
        return {"results": results, "alive": alive, "growth": growth, "counted": counted, "panics": panics, "works": works}

    def judge(self, evidence, options):
        sent = {}
        for result in evidence["results"]:
            sent[result["what"]] = sent.get(result["what"], 0) + result["sent"]
        dead = [host for host, alive in evidence["alive"].items() if not alive]
        uncounted = [what for what, reason in COUNTED_AS.items() if evidence["counted"].get(what, {}).get(reason, 0) <= 0]
        reasons = sum(1 for counts in evidence["counted"].values() for count in counts.values() if count > 0)
        return [
            row("hostile: listeners tried", len([what for what, count in sent.items() if count >= 50]), "listeners", "== 7"),
            row("hostile: inputs sent", sum(sent.values()), "inputs", ">= 500"),
            row("hostile: processes that died", ", ".join(dead) or 0, "processes", "= 0"),
            row("hostile: panics in the logs", sum(evidence["panics"].values()), "panics", "<= 0"),
            row("hostile: most memory gained by the second half", max(evidence["growth"].values(), default=10**12) / 1e6, "MB", f"<= {GROWTH / 1e6:.0f}"),
            row("hostile: listeners that did not count what they refused by its reason", ", ".join(uncounted) or 0, "listeners", "= 0"),
            row("hostile: reasons that were counted, over all listeners", reasons, "reasons"),
            row("hostile: a download afterwards", evidence["works"], "curl's exit code", "== 0"),
        ]

    def sample(self):
        names = ["entry's port", "mix's port", "exit's port", "mix's metrics", "authority's port", "client's SOCKS port", "client's control socket"]
        return {
            "results": [{"what": name, "host": "x", "turn": 0, "sent": 100, "refused": 0} for name in names],
            "alive": {"entry21": True}, "growth": {"entry21": 10**6}, "counted": {what: {reason: 40} for what, reason in COUNTED_AS.items()}, "panics": {"entry21": 0}, "works": 0,
        }

    def faults(self, evidence):
        yield Fault("a relay that died", changed(evidence, alive={"entry21": False}), "hostile: processes")
        yield Fault("a panic that was caught", changed(evidence, panics={"entry21": 1}), "hostile: panics")
        yield Fault("a leak of 100 MB", changed(evidence, growth={"entry21": 10**8}), "hostile: most memory")
        for what, reason in COUNTED_AS.items():
            blind = {**evidence["counted"], what: {reason: 0}}
            yield Fault(f"refusals at the {what} that nobody counts", changed(evidence, counted=blind), "hostile: listeners that")
        mixed = {**evidence["counted"], "mix's port": {"other": 40}}
        yield Fault("refusals counted for another reason", changed(evidence, counted=mixed), "hostile: listeners that")
        yield Fault("a listener that was not there", changed(evidence, results=evidence["results"][:-1]), "hostile: listeners tried")
        yield Fault("nothing works afterwards", changed(evidence, works=97), "hostile: a download")


REFUSALS = "mizzle_connections_refused_total"

# Each listener with the reason for which it refuses most of what is sent here. The relays' ports and the metrics of one of
# them share a counter, but no reason: bytes that are no TLS are `handshake`, those that are no HTTP are `request`.
COUNTED_AS = {
    "entry's port": "handshake",
    "mix's port": "handshake",
    "exit's port": "handshake",
    "mix's metrics": "request",
    "client's SOCKS port": "malformed",
    "client's control socket": "malformed",
    "authority's port": "handshake",
}


def _counted(network, listeners):
    """What each listener has refused so far, {listener: {reason: count}}."""
    status = network.client_counters()
    found = {"client's SOCKS port": status["socks_refused"], "client's control socket": status["control_refused"]}
    for what, host in listeners.items():
        reason = COUNTED_AS[what]
        found[what] = {reason: net.total(network.metrics(host), REFUSALS, reason=reason)}
    line = re.search(r"(?m)^refused since the start: (.*)$", network.directory_status())
    pairs = [pair.rsplit(" ", 1) for pair in line.group(1).split(", ")] if line else []
    found["authority's port"] = {reason: int(count) for reason, count in pairs}
    return found
