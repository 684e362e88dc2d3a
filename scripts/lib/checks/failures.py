"""Relays that die in the middle of a download."""

import random
import threading
import time

import network as net
from checks import FOLDER, Check, Fault, changed
from report import row


class DeadMixes(Check):
    def __init__(self):
        super().__init__("dead-mixes", "a download survives a dead mix in each layer", destructive=True)

    def measure(self, network, options):
        size = 10_000_000
        file = FOLDER / "through-dead-mixes"
        answer, began = {}, time.monotonic()

        def fetch():
            answer.update(network.curl(f"/bytes/{size}", body=file, timeout=240))

        file.unlink(missing_ok=True)
        layers = network.layers()
        fetching = threading.Thread(target=fetch)
        fetching.start()
        net.until(lambda: file.stat().st_size > size // 10, 60, step=0.02)
        at_kill = file.stat().st_size if file.exists() else 0
        killed = [names[0] for names in layers.values()]
        for name in killed:
            network.kill(name)
        running = fetching.is_alive()
        fetching.join()
        seconds = time.monotonic() - began
        identities = {name: network.hosts[name].identity for name in killed}
        # The consensus drops what does not answer: the authority says so of each, and why.
        gone = net.until(lambda: _not_running(network.directory_status(), identities) == set(killed), 60, step=1)
        later = network.curl("/bytes/1000000")
        return {
            "layers": sorted(layers),
            "killed": killed,
            "at_kill": at_kill,
            "running": running,
            "size": size,
            "exit": answer.get("exit"),
            "error": answer.get("error", ""),
            "wanted": net.content_digest(size),
            "digest": net.file_digest(file) if file.exists() else "",
            "seconds": seconds,
            "dropped": gone,
            "later": later["exit"],
        }

    def judge(self, evidence, options):
        amid = evidence["running"] and 0 < evidence["at_kill"] < evidence["size"]
        return [
            row("dead mixes: layers that lost one by kill -9", len(evidence["killed"]), "layers", "== 3"),
            row("dead mixes: bytes that were there before", evidence["at_kill"], "bytes"),
            row("dead mixes: the kill fell into the download", "yes" if amid else "no", goal="= yes"),
            row("dead mixes: the 10 MB are bit-exact", "yes" if evidence["digest"] == evidence["wanted"] else f"no (curl {evidence['exit']}) {evidence['error']}", goal="= yes"),
            row("dead mixes: the download took", evidence["seconds"], "s"),
            row("dead mixes: the consensus dropped them, with the reason", "yes" if evidence["dropped"] else "no", goal="= yes"),
            row("dead mixes: a download afterwards", evidence["later"], "curl's exit code", "== 0"),
        ]

    def sample(self):
        return {
            "layers": [1, 2, 3], "killed": ["mix11", "mix12", "mix13"], "at_kill": 10**6, "running": True, "size": 10**7, "exit": 0, "error": "",
            "wanted": "ab", "digest": "ab", "seconds": 12.0, "dropped": True, "later": 0,
        }

    def faults(self, evidence):
        yield Fault("one byte of the file changed", changed(evidence, digest="ac"), "dead mixes: the 10 MB")
        yield Fault("the kill came after the download", changed(evidence, at_kill=10**7), "dead mixes: the kill")
        yield Fault("the kill came before the first byte", changed(evidence, at_kill=0), "dead mixes: the kill")
        yield Fault("curl had ended when the last was killed", changed(evidence, running=False), "dead mixes: the kill")
        yield Fault("one layer was spared", changed(evidence, killed=["mix11", "mix12"]), "dead mixes: layers")
        yield Fault("the consensus keeps dead mixes", changed(evidence, dropped=False), "dead mixes: the consensus")
        yield Fault("nothing works afterwards", changed(evidence, later=97), "dead mixes: a download afterwards")


class DeadExit(Check):
    def __init__(self):
        super().__init__("dead-exit", "a dead exit resets its connection, the next uses another", destructive=True)

    def measure(self, network, options):
        size = 50_000_000
        file = FOLDER / "through-a-dead-exit"
        file.unlink(missing_ok=True)
        answer, begun = {}, time.monotonic()
        before = network.seen()["served"]

        def fetch():
            answer.update(network.curl(f"/bytes/{size}", body=file, timeout=200))
            answer["seconds"] = time.monotonic() - begun

        fetching = threading.Thread(target=fetch)
        fetching.start()
        net.until(lambda: file.stat().st_size > size // 50, 60, step=0.02)
        served = network.seen()["served"]
        address = next((peer for peer, count in served.items() if count > before.get(peer, 0)), None)
        exit_ = next((host for host in network.of("exit") if host.address == address), None)
        killed_at = time.monotonic()
        if exit_:
            network.kill(exit_.name)
        fetching.join()
        ended = time.monotonic()
        before = network.seen()["served"]
        following = {"exit": -1}
        tried = 0
        # "The next uses another": a new connection may not land on the dead exit again and again.
        for tried in range(1, 4):
            following = network.curl("/1k", timeout=60)
            if following["exit"] == 0:
                break
        after = network.seen()["served"]
        used = [peer for peer, count in after.items() if count > before.get(peer, 0)]
        return {
            "killed": exit_.name if exit_ else None,
            "exit": answer.get("exit"),
            "error": answer.get("error", ""),
            "bytes": answer.get("bytes"),
            "size": size,
            "told_after": ended - killed_at,
            "next": following["exit"],
            "tries": tried,
            "other": bool(used) and address not in used,
        }

    def judge(self, evidence, options):
        # curl: 56 is a reset. 18 would be an orderly end too early, which a server without Content-Length makes pass for
        # a whole file; 28 curl's own time limit: a hang.
        reset = evidence["exit"] == 56 and 0 < (evidence["bytes"] or 0) < evidence["size"]
        return [
            row("dead exit: killed with -9", evidence["killed"] or "none found", goal="" if evidence["killed"] else "= one"),
            row("dead exit: the connection is reset", "yes" if reset else f"no (curl {evidence['exit']}, {evidence['bytes']} bytes)", goal="= yes"),
            row("dead exit: told after", evidence["told_after"], "s", "<= 30"),
            row("dead exit: the next connection", evidence["next"], "curl's exit code", "== 0"),
            row("dead exit: connections until one served", evidence["tries"], "", "<= 2"),
            row("dead exit: that one used another exit", "yes" if evidence["other"] else "no", goal="= yes"),
        ]

    def sample(self):
        return {"killed": "exit31", "exit": 56, "error": "reset", "bytes": 10**6, "size": 5 * 10**7, "told_after": 20.0, "next": 0, "tries": 1, "other": True}

    def faults(self, evidence):
        yield Fault("curl ran into its own limit: a hang", changed(evidence, exit=28), "dead exit: the connection is")
        yield Fault("an orderly end, too early", changed(evidence, exit=18), "dead exit: the connection is")
        yield Fault("the exit died before the first byte", changed(evidence, bytes=0), "dead exit: the connection is")
        yield Fault("the file came whole", changed(evidence, exit=0, bytes=evidence["size"]), "dead exit: the connection is")
        yield Fault("told after a minute", changed(evidence, told_after=60.0), "dead exit: told")
        yield Fault("the next connection fails", changed(evidence, next=97), "dead exit: the next")
        yield Fault("the same exit again", changed(evidence, other=False), "dead exit: that one")
        yield Fault("no exit was found to kill", changed(evidence, killed=None), "dead exit: killed")


class Entries(Check):
    def __init__(self):
        super().__init__("entries", "one entry gone: the next serves; all gone: an error, and nothing leaks", destructive=True)

    def measure(self, network, options):
        first = network.entry_of_client()
        if first is None:
            raise net.NetworkError("the client is connected to no entry")
        network.kill(first.name)
        begun = time.monotonic()
        served = False
        while not served and time.monotonic() - begun < 60:
            served = network.curl("/1k", timeout=10)["exit"] == 0
        seconds = time.monotonic() - begun
        second = network.entry_of_client()
        path = FOLDER / "no-entry.pcap"
        capture = network.capture("client", path)
        for host in network.of("entry"):
            if network.process(host.name):
                network.kill(host.name)
        time.sleep(1)
        before = network.seen()
        rng = random.Random(11)
        errors = []
        for _ in range(3 if options.short else 8):
            errors.append(network.curl(f"/bytes/{rng.randrange(1000, 9000)}", timeout=60)["exit"])
        direct = network.curl("/1k", "--socks5", network.socks, timeout=60)["exit"]
        network.finish_capture(capture, path)
        after = network.seen()
        code, text = network.client_status()
        return {
            "first": first.name,
            "second": second.name if second else None,
            "served": served,
            "seconds": seconds,
            "errors": errors + [direct],
            "capture": path.read_bytes(),
            "client": network.hosts["client"].address,
            "entries": [host.address for host in network.of("entry")],
            "connections": sum(after["served"].values()) + sum(after["refused"].values()) - sum(before["served"].values()) - sum(before["refused"].values()),
            "status": text,
            "status_code": code,
            "alive": network.process("client") is not None,
        }

    def judge(self, evidence, options):
        import pcap

        elsewhere = [
            p for p in pcap.parse(evidence["capture"])
            if p.kind not in ("arp", "neighbour") and not {p.source, p.destination} & set(evidence["entries"])
        ]
        # curl 97: the proxy itself said no. Anything else is a hang, a drop or an answer.
        refused = sum(1 for code in evidence["errors"] if code == 97)
        return [
            row("entries: another serves after the first is gone", "yes" if evidence["served"] and evidence["second"] not in (None, evidence["first"]) else "no", goal="= yes"),
            row("entries: time until it served", evidence["seconds"], "s", "<= 15"),
            row("entries: all gone, requests refused by a SOCKS error", refused, "requests", f"== {len(evidence['errors'])}"),
            row("entries: all gone, packets at the client to others", len(elsewhere), "packets", "<= 0"),
            row("entries: all gone, connections that the origin saw", evidence["connections"], "connections", "<= 0"),
            row("entries: all gone, the client runs on and says why", _why(evidence), goal="= yes"),
        ]

    def sample(self):
        import pcap

        packet = pcap.Packet(1.0, "tcp", "10.41.0.1", "10.21.0.1", 4000, 7000, 1, pcap.SYN)
        return {
            "first": "entry21", "second": "entry22", "served": True, "seconds": 11.0, "errors": [97, 97, 97], "capture": pcap.write([packet]),
            "client": "10.41.0.1", "entries": ["10.21.0.1", "10.22.0.1"], "connections": 0, "status": "no entry can be reached", "status_code": 1, "alive": True,
        }

    def faults(self, evidence):
        import pcap

        leak = pcap.Packet(2.0, "tcp", evidence["client"], "10.90.0.1", 4000, 8080, 1, pcap.SYN)
        yield Fault("one packet straight to the target", changed(evidence, capture=pcap.write([leak])), "entries: all gone, packets")
        yield Fault("a request that was answered", changed(evidence, errors=[97, 0, 97]), "entries: all gone, requests")
        yield Fault("a request that hung", changed(evidence, errors=[97, 28, 97]), "entries: all gone, requests")
        yield Fault("the origin was asked", changed(evidence, connections=1), "entries: all gone, connections")
        yield Fault("the second entry took 20 s", changed(evidence, seconds=20.0), "entries: time")
        yield Fault("the dead entry was used again", changed(evidence, second=evidence["first"]), "entries: another")
        yield Fault("the client died", changed(evidence, alive=False), "entries: all gone, the client")
        yield Fault("the client says that all is well", changed(evidence, status="", status_code=0), "entries: all gone, the client")


def _why(evidence):
    """Whether the client lives, says that it is not connected, and names the entries as the reason."""
    if not evidence["alive"]:
        return "no: it died"
    return "yes" if evidence["status_code"] != 0 and "entr" in evidence["status"].lower() else f"no: it says {evidence['status']!r}"


def _not_running(status, identities):
    """Names of those relays that the authority's status says do not run."""
    found = set()
    for name, identity in identities.items():
        for line in status.splitlines():
            # "0123456789abcdef  mix 2  not running: why"
            if identity and line.startswith(identity[:16]) and "not running: " in line:
                found.add(name)
    return found
