"""What logs say: nothing about anyone, at any level, and little when all is well."""

import base64
import os
import re
import signal
import time
from pathlib import Path

import network as net
from checks import Check, Fault, changed
from report import row

DAEMONS = ("mix", "entry", "exit", "authority", "client")
# A name that nothing resolves, and one that is looked up by the client.
ASKED = ["hello.test", "no-such-host.test"]
# Bytes of a key that make a find, wherever in it: fewer come by chance.
PIECE = 6


class Leaks(Check):
    def __init__(self):
        super().__init__("leaks", "no log of a busy network at level trace names an address, a host or a key", offline=True)

    def measure(self, network, options):
        with net.Network("trace", environment={"MIZZLE_LOG": "trace"}) as network:
            secrets = gather(network)
            levels = {host.name: _level(network.process(host.name)) for role in DAEMONS for host in network.of(role)}
            fetched = self._busy(network, options)
            for kind, values in gather(network).items():
                secrets[kind] |= values
            logs = {host.name: _log(host) for role in DAEMONS for host in network.of(role)}
        return {"logs": logs, "levels": levels, "fetched": fetched, "secrets": {kind: sorted(values) for kind, values in secrets.items()}}

    def _busy(self, network, options):
        """Downloads, requests that fail in several ways, and each role's daemon gone for a while. Returns how many
        downloads worked."""
        fetched = 0
        for turn in range(1 if options.short else 3):
            fetched += network.curl("/bytes/3000000")["code"] == 200
            for place in (f"http://{ASKED[1]}:80/", f"http://{ASKED[0]}:9/", "http://192.0.2.77:7/"):
                network.run("client", "curl", "-s", "--noproxy", "", "--socks5-hostname", network.socks, "--max-time", "8", place, timeout=30)
            exits, entry = network.of("exit"), network.entry_of_client()
            gone = [network.of("mix")[turn].name, exits[turn % len(exits)].name, "authority", *([entry.name] if entry else [])]
            for name in gone:
                network.kill(name)
            for host in (network.of("entry")[-1], network.of("mix")[-1]):
                network.run("client", "curl", "-s", "--noproxy", "*", "--max-time", "3", f"http://{host.address}:7000/", timeout=20)
            # Longer than an epoch: relays and the client look for documents, and find none.
            time.sleep(30)
            for name in gone:
                network.start(name)
            broken = network.of("mix")[-1]
            text = broken.config.read_text()
            broken.config.write_text(f"colour = 1\n{text}")
            os.kill(network.process(broken.name), signal.SIGHUP)
            time.sleep(25)
            broken.config.write_text(text)
            fetched += network.curl("/bytes/300000")["code"] == 200
        for role in ("entry", "mix"):
            network.kill(network.of(role)[-1].name, signal.SIGTERM)
        return fetched

    def judge(self, evidence, options):
        search = Search(evidence["secrets"])
        found = {name: search.hits(text) for name, text in evidence["logs"].items()}
        leaks = [f"{name}: {kind}" for name, hits in found.items() for kind, _ in hits]
        lines = {name: text.count("\n") for name, text in evidence["logs"].items()}
        traced = sum(level == "trace" for level in evidence["levels"].values())
        kinds = {kind: len(values) for kind, values in evidence["secrets"].items()}
        planted = [(kind, way) for kind, way, text in search.planted() if not any(hit == kind for hit, _ in search.hits(text))]
        return [
            row("leaks: daemons whose logs were read", len(lines), "logs", ">= 17"),
            row("leaks: of them at level trace", traced, "logs", f">= {len(lines)}"),
            row("leaks: lines read", sum(lines.values()), "lines", ">= 50"),
            row("leaks: downloads meanwhile", evidence["fetched"], "", ">= 1"),
            row("leaks: addresses looked for", kinds.get("address", 0), "", ">= 17"),
            row("leaks: host names looked for", kinds.get("name", 0), "", ">= 2"),
            row("leaks: keys looked for", kinds.get("key", 0), "", ">= 60"),
            row("leaks: forms of planted ones that are not found", len(planted), str(planted[:2]) if planted else "", "<= 0"),
            row("leaks: finds in all logs", len(leaks), ", ".join(sorted(set(leaks))[:4]), "<= 0"),
        ]

    def sample(self):
        keys = [bytes((17 * n + 5 * i * i + i) % 256 for i in range(32)).hex() for n in range(70)]
        addresses = [f"10.{n}.0.1" for n in range(11, 31)]
        line = "2026-01-01T00:00:00.000000Z DEBUG up 6 h; 2000 packets, 0.00 % lost; 12 MB; links 3 out, 3 in; listed\n"
        names = [f"host{n}" for n in range(17)]
        logs, levels = {name: line * 10 for name in names}, {name: "trace" for name in names}
        return {"logs": logs, "levels": levels, "fetched": 2, "secrets": {"address": addresses, "name": ASKED, "key": keys}}

    def faults(self, evidence):
        search = Search(evidence["secrets"])
        for kind, way, text in search.planted(one_of_each=True):
            logs = {**evidence["logs"], "host3": evidence["logs"]["host3"] + text + "\n"}
            yield Fault(f"a log with the {kind} {way}", changed(evidence, logs=logs), "leaks: finds")
        yield Fault("a daemon that was not at trace", changed(evidence, levels={**evidence["levels"], "host3": "info"}), "leaks: of them at")
        yield Fault("a network that was not busy", changed(evidence, fetched=0), "leaks: downloads")
        yield Fault("keys that were not gathered", changed(evidence, secrets={**evidence["secrets"], "key": []}), "leaks: keys")


class Search:
    """Finds addresses, names and keys in a text, however they are written."""

    def __init__(self, secrets):
        self.addresses, self.names = secrets.get("address", []), secrets.get("name", [])
        self.keys = [bytes.fromhex(key) for key in secrets.get("key", [])]
        self.bytes = {}
        for kind, values in (("address", map(_packed, self.addresses)), ("name", (name.encode() for name in self.names))):
            for value in values:
                self.bytes.setdefault(len(value), {})[value] = kind
        pieces = {key[at : at + PIECE]: "key" for key in self.keys for at in range(len(key) - PIECE + 1)}
        self.bytes.setdefault(PIECE, {}).update(pieces)
        whole = "|".join(re.escape(word) for word in [*self.addresses, *self.names])
        self.words = re.compile(rf"(?<![\w.])(?:{whole})(?![\w]|\.\d)", re.IGNORECASE) if whole else None
        # Eight characters of Base64 or Base32 that stand for bytes of a key alone, whatever stands before it.
        self.coded = {"64": set(), "32": set()}
        for key in self.keys:
            for shift in range(5):
                text = base64.b64encode(bytes(shift) + key).decode().rstrip("=")
                start = -(-shift * 8 // 6)
                self.coded["64"] |= {text[at : at + 9] for at in range(start, len(text) - 9)}
                text = base64.b32encode(bytes(shift) + key).decode().rstrip("=")
                start = -(-shift * 8 // 5)
                self.coded["32"] |= {text[at : at + 11] for at in range(start, len(text) - 11)}

    def hits(self, text):
        """Pairs of kind and what was found."""
        found = []
        if self.words:
            found += [("name" if match.group().lower() in self.names else "address", match.group()) for match in self.words.finditer(text)]
        for run in set(re.findall(r"(?:[0-9a-fA-F]{2}[:\s-]?){4,}", text)):
            digits = re.sub(r"[^0-9a-fA-F]", "", run)
            for shift in (0, 1):
                usable = digits[shift : len(digits) - (len(digits) - shift) % 2]
                found += self._bytes(bytes.fromhex(usable), run)
        for run in set(re.findall(r"\d{1,3}(?:, ?\d{1,3}){3,}", text)):
            numbers = [int(number) for number in run.split(",")]
            if all(number < 256 for number in numbers):
                found += self._bytes(bytes(numbers), run)
        for run in set(re.findall(r"[A-Za-z0-9+/_-]{9,}", text)):
            plain = run.replace("-", "+").replace("_", "/")
            if any(plain[at : at + 9] in self.coded["64"] for at in range(len(plain) - 8)):
                found.append(("key", run))
            folded = run.upper()
            if any(folded[at : at + 11] in self.coded["32"] for at in range(len(folded) - 10)):
                found.append(("key", run))
        for number in set(re.findall(r"(?<!\d)\d{8,10}(?!\d)", text)):
            if int(number) < 1 << 32:
                found += [("address", number)] if self.bytes.get(4, {}).get(int(number).to_bytes(4, "big")) else []
        return found

    def _bytes(self, data, shown):
        return [
            (known[data[at : at + size]], shown)
            for size, known in self.bytes.items()
            for at in range(len(data) - size + 1)
            if data[at : at + size] in known
        ]

    def planted(self, one_of_each=False):
        """Lines with a secret in each form, which must be found: kind, form, line."""
        for kind, values in (("address", self.addresses), ("name", self.names), ("key", self.keys)):
            for value in list(values)[: 1 if one_of_each else None]:
                data = value if kind == "key" else _packed(value) if kind == "address" else value.encode()
                forms = {"in hexadecimal": data.hex(), "in capitals": data.hex().upper(), "as a list": str(list(data)), "with colons": data.hex(":")}
                if kind == "key":
                    forms |= {"cut short": data.hex()[:12], "from its middle": data.hex()[21:40]}
                    forms |= {"in Base64": base64.b64encode(data).decode(), "in Base64 after a byte": base64.b64encode(b"x" + data).decode()}
                    forms |= {"in Base64 for URLs": base64.urlsafe_b64encode(data).decode(), "in Base32": base64.b32encode(data).decode().lower()}
                else:
                    forms |= {"as it is": value, "with a port": f"{value}:443"}
                if kind == "address":
                    forms |= {"in IPv6": f"[::ffff:{value}]:7000", "as a number": str(int.from_bytes(data, "big"))}
                for way, shown in forms.items():
                    yield kind, way, f"2026-01-01T00:00:00.000000Z DEBUG link to {shown} is down"


class Hour(Check):
    """An hour of the ordinary network at the ordinary level, under some load. Runs only when it is asked for."""

    def __init__(self):
        super().__init__("hour", "an hour at level info is under 20 lines in each log (with --short: five minutes)", offline=True)

    def measure(self, network, options):
        seconds = 300 if options.short else 3600
        with net.Network("hour") as network:
            begun, fetched, failed = time.monotonic(), 0, 0
            while time.monotonic() - begun < seconds:
                done = network.curl("/bytes/200000", timeout=60)
                fetched, failed = fetched + (done["code"] == 200), failed + (done["code"] != 200)
                time.sleep(5)
            took = time.monotonic() - begun
            # Every mix is on some path; of entries and exits a single client uses few.
            mixes = {host.name: _received(network, host) for host in network.of("mix")}
            logs = {host.name: _log(host) for role in DAEMONS for host in network.of(role)}
        return {"seconds": took, "fetched": fetched, "failed": failed, "logs": logs, "received": mixes}

    def judge(self, evidence, options):
        lines = {name: len(text.splitlines()) for name, text in evidence["logs"].items()}
        most = max(lines, key=lines.get, default="")
        return [
            row("hour: seconds", evidence["seconds"], "s", ">= 300" if options.short else ">= 3600"),
            row("hour: downloads", evidence["fetched"], "", f">= {evidence['seconds'] / 30:.0f}"),
            row("hour: downloads that failed", evidence["failed"], "", ""),
            row("hour: fewest packets that a mix took", min(evidence["received"].values(), default=0), "packets", ">= 1000"),
            row("hour: logs", len(lines), "", ">= 17"),
            row(f"hour: most lines in a log ({most})", lines.get(most, 0), "lines", "< 20"),
        ]

    def sample(self):
        return {"seconds": 3601, "fetched": 600, "failed": 0, "logs": {f"host{n}": "INFO all is well\n" * 3 for n in range(17)}, "received": {"mix11": 5000}}

    def faults(self, evidence):
        yield Fault("a log that tells too much", changed(evidence, logs={**evidence["logs"], "host2": "INFO x\n" * 20}), "hour: most lines")
        yield Fault("a network that was idle", changed(evidence, fetched=3), "hour: downloads")
        yield Fault("an hour that was none", changed(evidence, seconds=400), "hour: seconds")


def gather(network):
    """All that no log may show: addresses, names, and keys as hexadecimal, of hosts, peers and destinations."""
    addresses = {host.address for host in network.hosts.values()} | {"192.0.2.77"}
    keys = {host.identity for host in network.hosts.values() if host.identity}
    for host in network.hosts.values():
        for path in [*host.folder.rglob("*"), *_runtime(network, host)]:
            if path.is_file() and path.stat().st_size < 1 << 16 and path not in (host.log, host.output):
                keys |= {key.lower() for key in re.findall(r"(?<![0-9a-fA-F])[0-9a-fA-F]{64}(?![0-9a-fA-F])", path.read_text(errors="replace"))}
                data = path.read_bytes()
                if 32 <= len(data) <= 96 and not data.isascii():
                    keys.add(data[:32].hex())
                # Keys in documents: byte strings of 32 in CBOR.
                keys |= {key.hex() for key in re.findall(rb"(?s)\x58\x20(.{32})", data)}
    return {"address": addresses, "name": set(ASKED), "key": keys}


def _runtime(network, host):
    """Files of a host's folder in memory."""
    match = re.search(r'(?m)^runtime = "(.*)"$', host.config.read_text()) if host.config.exists() else None
    return Path(match.group(1)).rglob("*") if match else []


def _level(process):
    """The level of a daemon's log, by its environment."""
    variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return next((entry.partition(b"=")[2].decode() for entry in variables if entry.startswith(b"MIZZLE_LOG=")), "")


def _log(host):
    return host.log.read_text(errors="replace") + host.output.read_text(errors="replace")


def _received(network, host):
    return net.total(network.metrics(host), "mizzle_packets_received_total")


def _packed(address):
    return bytes(int(part) for part in address.split("."))
