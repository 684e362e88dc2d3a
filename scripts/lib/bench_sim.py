"""`scripts/bench sim`: how fast the simulator is, how it grows, and what memory it takes."""

import json
import os
import subprocess
import tempfile
import time

import report
from report import row

WHAT = """`mizzle-sim run`, one seed, so one core. An event is a slot of a client, or a packet that arrives at a relay, leaves
a mix or comes home. 64 targets are followed through all mixes and 64 packets back, and everything that is printed is computed.
*Through the product's machines*: slots, routes, delays, a relay's checks and what it holds are the code that the daemons run; *modelled*:
the same network without the product's checks. Rates are events over processor time, the start of the network included. Peers: MiXiM is said
to simulate 2 285 messages a second with 8 targets, a plain loop in C 0.8 million messages (3.2 million events) a second with 64 targets on a
machine of this kind; neither ran here."""

PROGRAM = report.ROOT / "target/release/mizzle-sim"
MACHINES, MODELLED = "through the product's machines", "modelled"


def measure(short):
    subprocess.run(["cargo", "build", "--quiet", "--release", "--locked", "-p", "mizzle-sim"], cwd=report.ROOT, check=True)
    rows = []
    for name, packets, goal in [(MACHINES, "clear", ">= 1000000"), (MODELLED, "modelled", ">= 3000000")]:
        print(f"-- events a second, {name}", flush=True)
        rates = sorted(_run(f"packets={packets}", "clients.count=1000", "seconds=5")["rate"] for _ in range(1 if short else 3))
        rows.append(row(f"1 000 clients at 80/s each, {name}: events a second", rates[len(rates) // 2], "/s", goal))
    print("-- a thousand clients for a minute", flush=True)
    for step, rate in [(0, 10), (2, 80)]:
        run = _run("clients.count=1000", f"clients.step={step}", "seconds=60")
        rows.append(row(f"1 000 clients at {rate}/s for 60 s: processor time", run["cpu"], "s", "<= 20"))
        rows.append(row(f"1 000 clients at {rate}/s for 60 s: time of the clock", run["wall"], "s", "<= 20"))
    for count, seconds in [(1_000, 20), (10_000, 2), (100_000, 1), (1_000_000, 0.5)]:
        if short and count > 10_000:
            continue
        print(f"-- {count} clients", flush=True)
        run = _run(f"clients.count={count}", "clients.step=0", f"seconds={seconds}")
        clients = f"{count:_} clients at 10/s".replace("_", " ")
        rows.append(row(f"{clients}: events", run["events"] / 1e6, "million"))
        rows.append(row(f"{clients}, {MACHINES}: events a second", run["rate"], "/s"))
        rows.append(row(f"{clients}: memory", run["memory"] / 1e6, "MB", "<= 8000"))
    print("-- clients with sessions", flush=True)
    run = _run("clients.count=1000", "clients.step=1", "workload.kind=web", "workload.speakers=200", "workload.per_hour=60", "seconds=30", "adversary.match_flows=true")
    rows.append(row("1 000 clients, 200 of them read pages, flows matched, 30 s: processor time", run["cpu"], "s"))
    rows.append(row("of these: memory", run["memory"] / 1e6, "MB"))
    return rows


def _run(*words):
    """One run: its events, processor and clock time in seconds, memory in bytes."""
    with tempfile.NamedTemporaryFile(suffix=".json") as into:
        command = [PROGRAM, "run", "--json", into.name]
        for word in ("seeds=1", *words):
            command += ["--set", word]
        begun = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, code, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - begun
        if code != 0:
            raise RuntimeError(f"{' '.join(map(str, command))} ended with {code}")
        events = sum(outcome["events"] for outcome in json.load(into)[0]["outcomes"])
    cpu = usage.ru_utime + usage.ru_stime
    return {"events": events, "cpu": cpu, "wall": wall, "rate": events / cpu, "memory": usage.ru_maxrss * 1024}
