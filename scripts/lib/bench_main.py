"""`scripts/bench main`: a whole network, as a person who browses through it finds it."""

import os
import threading
import time

import network as net
import report
import stats
from report import row

WHAT = """A whole network (one authority, nine mixes, three entries, three exits), the client, the web server and curl share the
machine, over its loopback; three mixing delays of 20 ms mean each way; the client is kept at the
third step of `balanced`: 80 packets a second out and 320 home, at all times.
Processor times are those of the processes (user and system), beside which wall-clock figures depend on what else the machine
does."""


def measure(short):
    network = net.Network("bench", namespaces=False, environment=net.PINNED)
    rows = []
    try:
        print("-- from built programs to the first page", flush=True)
        begun = time.monotonic()
        network.up()
        page = network.curl("/1k", timeout=60)
        first_page = time.monotonic() - begun
        rows.append(row("from built programs to the first page", first_page if page["exit"] == 0 else "no page came", "s", "<= 30"))
        rows.append(row("of this, the network's start", network.boot_seconds, "s"))

        watch = Memory(network)
        print("-- first bytes", flush=True)
        rows += first_bytes(network, 20 if short else 60)
        print("-- downloads", flush=True)
        rows += downloads(network, 1 if short else 3)
        print("-- uploads", flush=True)
        rows += upload(network)
        print("-- at rest", flush=True)
        rows += at_rest(network, 10 if short else 30)
        rows += watch.finish()
        print("-- client start with a cached consensus", flush=True)
        starts, pages = [], []
        for _ in range(1 if short else 3):
            network.kill("client", net.signal.SIGTERM)
            begun = time.monotonic()
            starts.append(network.start("client"))
            if network.curl("/1k", timeout=60)["exit"] == 0:
                pages.append(time.monotonic() - begun)
        rows.insert(2, row("from that start to the first page, median", stats.median(pages), "s"))
        rows.insert(2, row("client start with a cached consensus, median", stats.median(starts), "s", "<= 3"))
    except net.NetworkError as error:
        rows.append(report.skipped("the rest", str(error)))
    finally:
        network.down()
    return rows


def first_bytes(network, count):
    times, failed = [], 0
    for _ in range(count):
        answer = network.curl("/1k", timeout=60)
        if answer["exit"] == 0:
            times.append(answer["first"] * 1000)
        else:
            failed += 1
    return [
        row(f"first byte of a 1-KB page, p50 of {count}", stats.median(times), "ms", "<= 400"),
        row("first byte of a 1-KB page, p95", stats.quantile(times, 0.95), "ms"),
        row("pages that did not come", failed, f"of {count}", "<= 0"),
    ]


def downloads(network, count):
    size, rates, cpu_client, cpu_relays = 10_000_000, [], [], []
    wanted, exact = net.content_digest(size), 0
    file = network.folder / "download"
    numbers = {host.name: network.process(host.name) for host in network.relays}
    client = network.process("client")
    for _ in range(count):
        before_client, before_relays = net.cpu_seconds(client), sum(map(net.cpu_seconds, numbers.values()))
        answer = network.curl(f"/bytes/{size}", body=file, timeout=300)
        cpu_client.append(net.cpu_seconds(client) - before_client)
        cpu_relays.append(sum(map(net.cpu_seconds, numbers.values())) - before_relays)
        if answer["exit"] == 0:
            rates.append(size / answer["total"] / 1e6)
            exact += net.file_digest(file) == wanted
    file.unlink(missing_ok=True)
    return [
        row(f"one download of 10 MB, median of {count}", stats.median(rates), "MB/s", ">= 1"),
        row("downloads that were bit-exact", exact, f"of {count}", f"== {count}"),
        row("processor time of the client for one", stats.median(cpu_client), "s"),
        row("processor time of all relays for one", stats.median(cpu_relays), "s"),
    ]


def upload(network):
    size = 500_000
    file = network.folder / "upload"
    file.write_bytes(os.urandom(size))
    answer = network.curl("/", "--data-binary", f"@{file}", "-H", "Expect:", timeout=300)
    file.unlink(missing_ok=True)
    return [row("one upload of 0.5 MB", size / answer["total"] / 1e6 if answer["exit"] == 0 else "did not come", "MB/s")]


def at_rest(network, seconds):
    """What cover costs while nobody does anything."""
    relays = [network.process(host.name) for host in network.relays]
    client = network.process("client")
    before = net.cpu_seconds(client), sum(map(net.cpu_seconds, relays))
    time.sleep(seconds)
    return [
        row("processor share of an idle client", 100 * (net.cpu_seconds(client) - before[0]) / seconds, "% of a core"),
        row("processor share of all relays, one idle client", 100 * (sum(map(net.cpu_seconds, relays)) - before[1]) / seconds, "% of a core"),
    ]


class Memory:
    """The most memory that each program held. The kernel keeps that figure itself (VmHWM); it is read to the end, in
    case a process dies."""

    def __init__(self, network):
        self.network, self.most = network, {}
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self):
        while not self.done.wait(1):
            self._look()

    def _look(self):
        for host in self.network.hosts.values():
            number = self.network.process(host.name)
            held = net.memory(number) if number else None
            if held:
                self.most[host.name] = max(self.most.get(host.name, 0), held)

    def finish(self):
        self.done.set()
        self.thread.join()
        self._look()
        relays = [self.most.get(host.name, 0) for host in self.network.relays]
        return [
            row("memory of a relay, the largest", max(relays) / 1e6 if all(relays) else "unknown", "MB", "<= 60"),
            row("memory of the client", self.most["client"] / 1e6 if "client" in self.most else "unknown", "MB", "<= 40"),
            row("memory of the authority", self.most["authority"] / 1e6 if "authority" in self.most else "unknown", "MB"),
        ]
