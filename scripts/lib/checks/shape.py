"""What a watcher of the client's line sees while it downloads and while it does not, level by level."""

import random
import re
import time

import cells
import network as net
import stats
from checks import FOLDER, Check, Fault, changed
from report import row

# Rates of the levels: outward, homeward (the entry sends a quarter more in slots). Steps of `balanced` in order.
STEPS = (20, 80, 320, 1280)
PINNED = 1
# Packets a second that one download can get: in `strong` a third of what comes home.
HOMEWARD = {"strong": 20 / 3, "balanced": STEPS[PINNED]}
PAYLOAD = 4000
RISES_PER_HOUR = 6
# No fall before this time after the load.
CALM = 60
SMALL_PAGES = 3


class Shape(Check):
    def __init__(self):
        super().__init__("shape", "intervals and counts on the client's line do not show the load, where the level says so")

    def measure(self, network, options):
        length = 150 if options.short else 640
        # In `fast` the difference is plain; the free steps move by the minute.
        runs = {
            "strong": ({"level": "strong"}, length, 15),
            "balanced": ({"level": "balanced", "step": PINNED}, length, 15),
            "fast": ({"level": "fast"}, 90 if options.short else 150, 15),
        }
        evidence = {"runs": {}, "help": network.run("client", network.release / "mizzle", "up", "--help").stdout}
        for name, (settings, length, step) in runs.items():
            evidence["runs"][name] = _measured(network, settings, lambda: alternate(network, length, step))
        evidence["page"] = _small_page(network)
        evidence["steps"] = _measured(network, {"level": "balanced"}, lambda: burst(network, 45 if options.short else 90, 75 if options.short else 180))
        network.client_with()
        return evidence

    def judge(self, evidence, options):
        most, distance = (0.3, 0.08) if options.short else (0.1, 0.06)
        least = 1000 if options.short else 2500
        rows = []
        for name in ("strong", "balanced"):
            run = evidence["runs"][name]
            if run.get("wrong"):
                rows.append(row(f"shape: {name}", run["wrong"], goal="= measured"))
                continue
            rows.append(row(f"shape: {name}, seconds compared", int(run["end"] - run["start"]), "s", ">= 120"))
            # Half of what its rate could have brought.
            could = PAYLOAD * HOMEWARD[name] * sum(to - since for since, to in run["load"])
            rows.append(row(f"shape: {name}, bytes fetched under load", run["fetched"], "bytes", f">= {int(could / 2)}"))
            for way in ("up", "down"):
                idle, loaded = intervals(run[way], run["load"])
                rows += [
                    row(f"shape: {name}, {way}: intervals, the fewer", min(len(idle), len(loaded)), "intervals", f">= {least if way == 'down' or name == 'strong' else least // 2}"),
                    row(f"shape: {name}, {way}: cells a second", _rate(idle + loaded), "/s"),
                    row(f"shape: {name}, {way}: distance of the two laws (KS D)", stats.ks_two_samples(idle, loaded), "", f"<= {distance}"),
                    row(f"shape: {name}, {way}: correlation of counts a second with the load", abs(stats.correlation(*counted(run, way))), "|r|", f"<= {most}"),
                ]
        fast = evidence["runs"]["fast"]
        if fast.get("wrong"):
            rows.append(row("shape: fast", fast["wrong"], goal="= measured"))
        else:
            rows.append(row("shape: fast, down: correlation with the load, as it says", abs(stats.correlation(*counted(fast, "down"))), "|r|", ">= 0.5"))
        # Its help must warn: whoever watches both ends sees.
        words = re.sub(r"\s+", " ", evidence["help"]).lower()
        says = all(level in words for level in ("strong", "balanced", "fast")) and bool(re.search(r"fast\W.{0,160}watch|watch.{0,160}\Wfast", words))
        rows.append(row("shape: the help names the levels, and says that `fast` is open to watchers", "yes" if says else "no", goal="= yes"))
        page = evidence["page"]
        rows.append(row("shape: small pages that came, each with half a minute of rest", page["came"], "pages", f"== {SMALL_PAGES}"))
        rows.append(row("shape: highest step that these needed", page["step"], "step", "<= 1"))
        return rows + _of_the_steps(evidence["steps"])

    def sample(self, seed=7, upward=50.0, homeward=25.0, under_load=1.0, steady=False):
        rng = random.Random(seed)

        def run(up, down, factor, even=False):
            load = [(15.0 + 30 * n, 30.0 + 30 * n) for n in range(21)]
            loaded = lambda now: any(begin <= now <= end for begin, end in load)

            def line(rate):
                moments, now = [], 0.0
                while now < 640:
                    rate_now = rate * (factor if loaded(now) else 1.0)
                    now += 1 / rate_now * rng.uniform(0.5, 1.5) if even and loaded(now) else rng.expovariate(rate_now)
                    moments.append(now)
                return moments

            return {"up": line(up), "down": line(down), "load": load, "start": 0.0, "end": 640.0, "fetched": 10**8}

        steps, now = [], 0.0
        while now < 260:
            now += rng.expovariate(25 if now < 12 else 100 if now < 20 else 400 if now < 190 else 100)
            steps.append(now)
        return {
            "runs": {
                "strong": run(upward, homeward, under_load, steady), "balanced": run(20.0, 100.0, 1.0), "fast": run(10.0, 25.0, 20.0),
            },
            "page": {"came": SMALL_PAGES, "step": 0},
            "help": "--level: strong, balanced; fast follows the traffic: open to whoever watches both ends",
            "steps": {"up": [], "down": steps, "load": [(5.0, 95.0)], "start": 0.0, "end": 260.0, "fetched": 10**7},
        }

    def faults(self, evidence):
        with_strong = lambda **fault: changed(evidence, runs={**evidence["runs"], "strong": self.sample(**fault)["runs"]["strong"]})
        yield Fault("cells come faster under load", with_strong(under_load=1.25), "shape: strong, down: correlation")
        yield Fault("the same rate, but even under load", with_strong(steady=True), "shape: strong, up: distance")
        for name in ("strong", "balanced"):
            run = evidence["runs"][name]
            for bytes in (0, run["fetched"] // 100):
                fault = changed(evidence, runs={**evidence["runs"], name: {**run, "fetched": bytes}})
                yield Fault(f"{name}: a load that was next to none", fault, f"shape: {name}, bytes")
            yield Fault(f"{name}: too few cells", changed(evidence, runs={**evidence["runs"], name: {**run, "down": run["down"][:900]}}), f"shape: {name}, down: intervals")
            yield Fault(f"{name}: the client does not start so", changed(evidence, runs={**evidence["runs"], name: {"wrong": "no key `level`"}}), f"shape: {name}")
            shown = evidence["runs"]["fast"] | {"up": run["up"]}
            yield Fault(f"{name}: as open as fast", changed(evidence, runs={**evidence["runs"], name: {**shown, "fetched": 10**8}}), f"shape: {name}, down: correlation")
        yield Fault("small pages that go to the top", changed(evidence, page={"came": SMALL_PAGES, "step": 3}), "shape: highest step")
        yield Fault("pages that do not come", changed(evidence, page={"came": 0, "step": 0}), "shape: small pages")
        yield Fault("fast that shows nothing", changed(evidence, runs={**evidence["runs"], "fast": evidence["runs"]["balanced"]}), "shape: fast, down")
        yield Fault("a help that does not warn", changed(evidence, help="--level strong, balanced, fast: as you like"), "shape: the help")
        steps = evidence["steps"]
        rng, jump, now = random.Random(3), [], 0.0
        while now < 260:
            now += rng.expovariate(25 if now < 12 or now > 110 else 400)
            jump.append(now)
        yield Fault("a fall 15 s after the load", changed(evidence, steps={**steps, "down": jump}), "shape: steps, falls")
        yield Fault("no rise at all", changed(evidence, steps={**steps, "down": [n / 25 for n in range(6500)]}), "shape: steps, rises")
        waves = [n / 400 + 4.0 * (n // 1600) for n in range(104_000) if n / 400 + 4.0 * (n // 1600) < 260]
        yield Fault("a rise every eight seconds", changed(evidence, steps={**steps, "down": waves}), "shape: steps, rises")


def _small_page(network):
    """One page of 10 KB each half minute, to a client that rests otherwise; its highest step."""
    network.client_with(level="balanced")
    came, step = 0, 0
    for _ in range(SMALL_PAGES):
        came += network.curl("/bytes/10000", timeout=30)["bytes"] == 10_000
        for _ in range(30):
            time.sleep(1)
            step = max(step, network.client_counters()["step"])
    return {"came": came, "step": step}


def _measured(network, settings, load):
    """Moments of cells in both directions while `load` runs, or what was wrong."""
    path = FOLDER / "shape.pcap"
    try:
        network.client_with(**settings)
    except net.NetworkError as error:
        return {"wrong": str(error)[-200:]}
    time.sleep(3)
    client = network.hosts["client"].address
    capture = network.capture("client", path, front=cells.FRONT)
    run = load()
    network.finish_capture(capture, path)
    up, down = cells.times(path.read_bytes(), client)
    path.unlink()
    return {**run, "up": up, "down": down}


def alternate(network, length, step):
    """`step` seconds of rest, `step` seconds of download, and so on."""
    started, load, fetched = time.time(), [], 0
    for turn in range(length // (2 * step)):
        time.sleep(max(0.0, started + (2 * turn + 1) * step - time.time()))
        begin, until = time.time(), started + (2 * turn + 2) * step
        while time.time() < until - 0.5:
            fetched += network.curl("/bytes/200000000", timeout=max(1, int(until - time.time())))["bytes"]
        load.append((begin, time.time()))
    return {"load": load, "start": started, "end": time.time(), "fetched": fetched}


def burst(network, loaded, after):
    """A load that comes and goes for a while, then rest."""
    started, fetched = time.time(), 0
    time.sleep(5)
    begin = time.time()
    while time.time() < begin + loaded:
        fetched += network.curl("/bytes/200000000", timeout=8)["bytes"]
        time.sleep(2)
    load = [(begin, time.time())]
    time.sleep(after)
    return {"load": load, "start": started, "end": time.time(), "fetched": fetched}


def intervals(moments, load):
    """Intervals while idle and under load; those across a change belong to neither."""
    loaded = lambda moment: any(begin <= moment <= end for begin, end in load)
    idle, under_load = [], []
    states = [loaded(moment) for moment in moments]
    for index in range(1, len(moments)):
        if states[index] == states[index - 1]:
            (under_load if states[index] else idle).append(moments[index] - moments[index - 1])
    return idle, under_load


def counted(run, way):
    """Cells of each second, and the share of it that was under load."""
    seconds = int(run["end"] - run["start"])
    counts = [0] * seconds
    for moment in run[way]:
        second = int(moment - run["start"])
        if 0 <= second < seconds:
            counts[second] += 1
    shares = []
    for second in range(seconds):
        begin, end = run["start"] + second, run["start"] + second + 1
        shares.append(sum(max(0.0, min(end, to) - max(begin, since)) for since, to in run["load"]))
    return counts, shares


def steps_seen(run):
    """(seconds from the start, step) of each change of the homeward rate; the nearest step, over three seconds."""
    counts, _ = counted(run, "down")
    found = []
    for second in range(0, len(counts) - 2, 3):
        rate = sum(counts[second : second + 3]) / 3 / 1.25
        step = min(range(len(STEPS)), key=lambda n: abs(STEPS[n] - rate) / STEPS[n] ** 0.9)
        # A step that lasts for one look only is the change itself.
        found.append((second, step))
    settled = [found[i] for i in range(len(found) - 1) if found[i][1] == found[i + 1][1]]
    return [now for before, now in zip([(0, None), *settled], settled) if before[1] != now[1]]


def _of_the_steps(run):
    if run.get("wrong"):
        return [row("shape: steps", run["wrong"], goal="= measured")]
    changes = steps_seen(run)
    pairs = list(zip(changes, changes[1:]))
    rises = sum(1 for before, now in pairs if now[1] > before[1])
    ended = run["load"][-1][1] - run["start"]
    early = [now for before, now in pairs if now[1] < before[1] and now[0] < ended + CALM - 10]
    return [
        row("shape: steps, rises under a load that comes and goes", rises if 1 <= rises <= RISES_PER_HOUR else f"{rises}, 1 to 6 are due", goal="" if 1 <= rises <= RISES_PER_HOUR else "= 1 to 6"),
        row("shape: steps, falls before a minute of rest", len(early), "falls", "<= 0"),
        row("shape: steps, as seen on the line", ", ".join(f"{step} at {second} s" for second, step in changes)[:120]),
    ]


def _rate(found):
    return len(found) / sum(found) if found else 0.0
