"""`scripts/bench NAME`: figures of the real programs on this machine, with the goals beside them."""

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone

import accept
import network as net
import report
import stats
from report import row

EXAMPLE = """examples:
  scripts/bench main            about two minutes; writes docs/figures.md
  scripts/bench main --short    fewer samples; writes no document
"""


def main(arguments):
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=["main"], help="which set of figures")
    parser.add_argument("--short", action="store_true", help="fewer samples; docs/figures.md stays as it is")
    chosen = parser.parse_args(arguments)
    net.end_in_order()
    rows = measure(chosen.short)
    print(report.table(rows))
    code = accept.finish("bench", chosen.name, rows)
    if not chosen.short:
        path = report.ROOT / "docs/figures.md"
        path.write_text(document(rows, machine(), commit()))
        print(f"figures written to {path.relative_to(report.ROOT)}")
    return code


def measure(short):
    network = net.Network("bench", namespaces=False)
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


def machine():
    model = re.search(r"(?m)^model name\s*: (.*)$", open("/proc/cpuinfo").read())
    memory = int(re.search(r"MemTotal:\s+(\d+)", open("/proc/meminfo").read()).group(1)) / 1024**2
    return f"{model.group(1).strip() if model else os.uname().machine}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {os.uname().release.split('-')[0]}"


def commit():
    run = lambda *words: subprocess.run(["git", *words], cwd=report.ROOT, capture_output=True, text=True).stdout.strip()
    changed = [line for line in run("status", "--porcelain").splitlines() if not line.endswith("docs/figures.md")]
    return (run("rev-parse", "--short=12", "HEAD") or "unknown") + (" with local changes" if changed else "")


def document(rows, where, what):
    """docs/figures.md: written by this script only."""
    lines = [
        "# Figures",
        "",
        "Written by `scripts/bench main`; do not edit. A whole network (one authority, nine mixes, three entries, three exits),",
        "the client, the web server and curl share the machine, over its loopback; three mixing delays of 20 ms mean each way;",
        "50 packets a second out and 300 home, at all times.",
        "",
        f"- Machine: {where}",
        f"- Commit: {what}",
        f"- Date: {datetime.now(timezone.utc):%Y-%m-%d}",
        "",
        "| what | value | goal | |",
        "|---|---|---|---|",
    ]
    for r in rows:
        value = f"{r.value:.3g}" if isinstance(r.value, float) and abs(r.value) < 100 else f"{r.value:.0f}" if isinstance(r.value, float) else str(r.value)
        goal = f"{r.goal.replace('<=', '≤').replace('>=', '≥').replace('==', '=')} {r.unit}".strip() if r.goal else ""
        lines.append(f"| {r.name} | {value} {r.unit} | {goal} | {'' if not r.goal else 'met' if r.passed else '**not met**'} |")
    lines += [
        "",
        "Processor times are those of the processes (user and system), beside which wall-clock figures depend on what else the",
        "machine does. `scripts/accept main` holds the checks of privacy and of failure; its results are in",
        "`target/accept/main.json`.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
