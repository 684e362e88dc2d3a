"""`mizzle run` and `mizzle browse`: a program that ignores proxies, and a page that tries all ways around one, reach
nobody but the entry."""

import json
import time

import network as net
import pcap
from checks import FOLDER, Check, Fault, changed
from report import row

PAGE_PORT = 7080


class Run(Check):
    def __init__(self):
        super().__init__("run", "`mizzle run` with a program that ignores proxies: no packet outside, and the proxy works inside")

    def measure(self, network, options):
        network.client_with()
        mizzle, config = network.release / "mizzle", network.hosts["client"].config
        inside = lambda *words, timeout=120: network.run("client", mizzle, "run", "--config", config, "--", *words, timeout=timeout)
        path = FOLDER / "run.pcap"
        before = network.seen()
        capture = network.capture("client", path)
        begun = time.monotonic()
        try:
            origin, exit_ = network.hosts["origin"].address, network.of("exit")[0].address
            escape = inside(net.sys.executable, "-B", net.ROOT / "scripts/lib/escape.py", origin, exit_, net.ORIGIN_NAME)
            fetched = inside("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "60", f"http://{net.ORIGIN_NAME}:{net.ORIGIN_PORT}/1k")
            code = inside("sh", "-c", "exit 7").returncode
            resolved = inside(net.sys.executable, "-c", f"import socket; print(socket.gethostbyname({net.ORIGIN_NAME!r}))")
            associated = inside(net.sys.executable, "-c", ASSOCIATE).stdout.strip()
            # An idle client sends about twenty packets a second.
            time.sleep(max(0.0, 12 - (time.monotonic() - begun)))
        finally:
            network.finish_capture(capture, path)
        after = network.seen()
        try:
            tried = json.loads(escape.stdout)
        except ValueError:
            tried = {}
        return {
            "tried": tried, "said": escape.stderr.strip()[-200:], "fetched": fetched.stdout.strip()[-3:], "why": fetched.stderr.strip()[-200:], "code": code,
            "associated": associated, "resolved": resolved.stdout.strip() or net.last_line(resolved.stderr), "origin": network.hosts["origin"].address,
            "capture": path.read_bytes(), "client": network.hosts["client"].address, "entries": [host.address for host in network.of("entry")],
            "strangers": [peer for peer in {**after["served"], **after["refused"]} if peer == network.hosts["client"].address and peer not in {**before["served"], **before["refused"]}],
        }

    def judge(self, evidence, options):
        peers, elsewhere = outside(evidence)
        tried = evidence["tried"]
        escaped = [name for name, result in tried.items() if result == "went"]
        return [
            row("run: ways around a proxy that the program tried", len(tried) if tried else f"0: {evidence['said']}", "ways", f">= {WAYS}" if tried else f"= {WAYS}"),
            row("run: of these, that came through", ", ".join(escaped) or "none", goal="= none"),
            row("run: packets captured at the client", sum(peers.values()), "packets", ">= 200"),
            row("run: of these to or from others than its entry", elsewhere, "packets", "<= 0"),
            row("run: the origin saw the client", len(evidence["strangers"]), "times", "<= 0"),
            row("run: a program that uses the proxy gets a page", evidence["fetched"] if evidence["fetched"] == "200" else f"{evidence['fetched']} {evidence['why']}".strip(), goal="= 200"),
            row("run: a program that resolves a name itself gets the exit's answer", evidence["resolved"][-100:], goal=f"= {evidence['origin']}"),
            row("run: UDP ASSOCIATE, which has no way inside, is answered by", evidence["associated"], goal="= 7"),
            row("run: the program's exit code is its own", evidence["code"], "", "== 7"),
        ]

    def sample(self):
        return {**_capture(), "tried": {f"way {n}": "refused" for n in range(WAYS)}, "said": "", "fetched": "200", "why": "", "code": 7, "associated": "7", "resolved": "10.90.7.1", "origin": "10.90.7.1", "strangers": []}

    def faults(self, evidence):
        yield Fault("one way came through", changed(evidence, tried={**evidence["tried"], "way 1": "went"}), "run: of these, that")
        yield Fault("a program that was not run", changed(evidence, tried={}), "run: ways")
        yield Fault("no page by the proxy", changed(evidence, fetched="000"), "run: a program")
        yield Fault("no names inside", changed(evidence, resolved="socket.gaierror: [Errno -3]"), "run: a program that resolves")
        yield Fault("datagrams that go nowhere", changed(evidence, associated="0"), "run: UDP")
        yield Fault("an exit code that is lost", changed(evidence, code=0), "run: the program's")
        yield Fault("the origin saw the client", changed(evidence, strangers=["10.41.7.1"]), "run: the origin")
        yield from _leaks(evidence, "run")


class Browse(Check):
    def __init__(self, name="browse", browser="chromium", package="chromium"):
        super().__init__(name, f"`mizzle browse` opens {browser} with a page that tries WebRTC, DNS prefetch, IPv6 and QUIC: the entry only")
        self.browser, self.package = browser, package

    def measure(self, network, options):
        done = net.subprocess.run([str(net.ROOT / "scripts/lib/have"), f"{self.package}:{self.package}"], capture_output=True, text=True)
        if done.returncode:
            raise net.NetworkError(done.stderr.strip())
        network.client_with()
        origin, mizzle, config = network.hosts["origin"], network.release / "mizzle", network.hosts["client"].config
        network.run("client", "ip", "-6", "address", "replace", "fd00:90::41/64", "dev", "eth0", "nodad")
        network.run(origin, "ip", "-6", "address", "replace", "fd00:90::1/64", "dev", "eth0", "nodad")
        told = network.folder / "page.output"
        with open(told, "w") as file:
            page = network.spawn(origin, net.sys.executable, "-B", net.ROOT / "scripts/lib/page.py", origin.address, str(PAGE_PORT), stdout=file, stderr=file)
        net.until(lambda: "ready" in told.read_text(), 10)
        path, log = FOLDER / "browse.pcap", network.folder / "browse.log"
        capture = network.capture("client", path)
        browser = None
        try:
            with open(log, "w") as file:
                # A browser on a machine without a screen; everything else is as a person has it.
                words = [mizzle, "browse", "--config", config, "--browser", self.browser, "--headless", f"http://{net.ORIGIN_NAME}:{PAGE_PORT}/"]
                browser = network.spawn("client", *words, stdout=file, stderr=file)
            net.until(lambda: "done" in told.read_text() or browser.poll() is not None, 90)
            time.sleep(5)
        finally:
            if browser is not None:
                net.stop(browser)
            network.finish_capture(capture, path)
            net.stop(page)
        asked = [line.split(" ", 2) for line in told.read_text().splitlines() if line.startswith("asked ")]
        done = next((path for _, _, path in asked if path.startswith("/done")), "")
        return {
            "peers": sorted({peer for _, peer, _ in asked}), "done": done, "why": net.tail(log, 200), "exits": [host.address for host in network.of("exit")],
            "capture": path.read_bytes(), "client": network.hosts["client"].address, "entries": [host.address for host in network.of("entry")],
            "left": _profiles(),
        }

    def judge(self, evidence, options):
        peers, elsewhere = outside(evidence)
        tried = [word for word in evidence["done"].partition("?")[2].split("&") if word.startswith("tried=")]
        names = set(tried[0][6:].split(",")) if tried else set()
        missing = sorted({"webrtc", "prefetch", "ipv6", "quic"} - names)
        strangers = [peer for peer in evidence["peers"] if peer not in evidence["exits"]]
        return [
            row(f"{self.name}: the page ran and tried all four", "yes" if not missing else f"no: not {', '.join(missing)}; {evidence['why']}"[:200], goal="= yes"),
            row(f"{self.name}: addresses that WebRTC found", "none" if "candidates=0" in evidence["done"] else evidence["done"][-60:] or "unknown", goal="= none"),
            row(f"{self.name}: peers of the page that are no exits", len(strangers), "peers", "<= 0"),
            row(f"{self.name}: packets captured at the client", sum(peers.values()), "packets", ">= 200"),
            row(f"{self.name}: of these to or from others than its entry", elsewhere, "packets", "<= 0"),
            row(f"{self.name}: profiles that are left behind", len(evidence["left"]), "folders", "<= 0"),
        ]

    def sample(self):
        return {**_capture(), "done": "/done?tried=webrtc,prefetch,ipv6,quic&candidates=0", "peers": ["10.31.7.1"], "exits": ["10.31.7.1", "10.32.7.1"], "why": "", "left": []}

    def faults(self, evidence):
        yield Fault("a page that never ran", changed(evidence, done=""), f"{self.name}: the page")
        yield Fault("a page that tried no WebRTC", changed(evidence, done=evidence["done"].replace("webrtc,", "")), f"{self.name}: the page")
        yield Fault("WebRTC found an address", changed(evidence, done=evidence["done"].replace("candidates=0", "candidates=10.41.7.1")), f"{self.name}: addresses")
        yield Fault("the page saw the client", changed(evidence, peers=["10.41.7.1"]), f"{self.name}: peers")
        yield Fault("a profile that stays", changed(evidence, left=["/tmp/mizzle-browse-1"]), f"{self.name}: profiles")
        yield from _leaks(evidence, self.name)


class BrowseFirefox(Browse):
    def __init__(self):
        super().__init__("browse-firefox", "firefox", "firefox-esr")


# Prints the code by which the port inside answers a request for datagrams.
ASSOCIATE = """
import socket
link = socket.create_connection(("127.0.0.1", 9150), 30)
link.sendall(bytes([5, 1, 0]))
link.recv(2)
link.sendall(bytes([5, 3, 0, 1, 0, 0, 0, 0, 0, 0]))
print(link.recv(10)[1])
"""
# How many ways escape.py tries.
WAYS = 8


def outside(evidence):
    """Packets by peer, and those to or from others than the entry in use."""
    wire = [p for p in pcap.parse(evidence["capture"]) if p.kind not in ("arp", "neighbour")]
    peers = {}
    for packet in wire:
        other = packet.destination if packet.source == evidence["client"] else packet.source
        peers[other] = peers.get(other, 0) + 1
    busiest = max((peer for peer in peers if peer in evidence["entries"]), key=peers.get, default=None)
    return peers, sum(count for peer, count in peers.items() if peer != busiest)


def _capture():
    client, entry = "10.41.7.1", "10.21.7.1"
    packets = [
        pcap.Packet(1 + n / 100, "tcp", *((client, entry, 5000, 7000) if n % 2 else (entry, client, 7000, 5000)), n * 100, pcap.ACK, b"x" * 100)
        for n in range(300)
    ]
    return {"capture": pcap.write(packets), "client": client, "entries": [entry, "10.22.7.1"]}


def _leaks(evidence, name):
    packets = list(pcap.parse(evidence["capture"]))
    add = lambda *more: changed(evidence, capture=pcap.write([*packets, *more]))
    client, last = evidence["client"], packets[-1].time
    yield Fault("one DNS query outside", add(pcap.Packet(last, "udp", client, "10.90.7.1", 40000, 53, payload=b"q")), f"{name}: of these to or from")
    yield Fault("one STUN packet outside", add(pcap.Packet(last, "udp", client, "10.90.7.1", 40000, 3478, payload=b"q")), f"{name}: of these to or from")
    yield Fault("one SYN to the origin", add(pcap.Packet(last, "tcp", client, "10.90.7.1", 40000, 8080, 1, pcap.SYN)), f"{name}: of these to or from")
    yield Fault("one packet to a second entry", add(pcap.Packet(last, "tcp", client, "10.22.7.1", 40000, 7000, 1, pcap.SYN)), f"{name}: of these to or from")
    yield Fault("an empty capture", changed(evidence, capture=pcap.write([])), f"{name}: packets captured")


def _profiles():
    """Profiles of `browse` that are there after its end."""
    from pathlib import Path

    return [str(path) for folder in ("/tmp", "/dev/shm", "/var/tmp") for path in Path(folder).glob("*mizzle*brows*")]
