"""The client's upward rhythm: the same whether or not a download runs."""

import random
import threading
import time

import pcap
import stats
import tls
from checks import CLIENT_CELL, FOLDER, Check, Fault, changed
from report import row


class Rhythm(Check):
    def __init__(self):
        super().__init__("rhythm", "upward intervals do not show the load")

    def measure(self, network, options):
        path = FOLDER / "rhythm.pcap"
        length, step = (150, 15) if options.short else (640, 20)
        client = network.hosts["client"].address
        capture = network.capture("client", path, source=client)
        started = time.time()
        load, fetched = [], 0
        stopping = threading.Event()
        for turn in range(length // (2 * step)):
            time.sleep(max(0, started + (2 * turn + 1) * step - time.time()))
            begin, until = time.time(), started + (2 * turn + 2) * step
            while time.time() < until - 0.5 and not stopping.is_set():
                answer = network.curl("/bytes/100000000", timeout=max(1, int(until - time.time())))
                fetched += answer["bytes"]
            load.append((begin, time.time()))
        finished = time.time()
        network.finish_capture(capture, path)
        cells = []
        for direction in tls.directions(pcap.read(path)):
            if len(direction.data) > 1000 * CLIENT_CELL:
                cells += [r.time for r in tls.records(direction, CLIENT_CELL + tls.OVERHEAD) if r.length == CLIENT_CELL + tls.OVERHEAD]
        return {"cells": sorted(cells), "load": load, "start": started, "end": finished, "fetched": fetched}

    def judge(self, evidence, options):
        cells, load = evidence["cells"], evidence["load"]
        loaded = lambda moment: any(begin <= moment <= end for begin, end in load)
        idle_intervals, load_intervals = [], []
        for before, after in zip(cells, cells[1:]):
            state = loaded(before)
            if state == loaded(after):
                (load_intervals if state else idle_intervals).append(after - before)
        seconds = int(evidence["end"] - evidence["start"])
        counts, shares = [0] * seconds, [0.0] * seconds
        for cell in cells:
            second = int(cell - evidence["start"])
            if 0 <= second < seconds:
                counts[second] += 1
        for second in range(seconds):
            from_, to = evidence["start"] + second, evidence["start"] + second + 1
            shares[second] = sum(max(0.0, min(end, to) - max(begin, from_)) for begin, end in load)
        least = 1500 if options.short else 3000
        # A chance correlation of n seconds has a standard deviation of 1/√n: the short form cannot hold 0.1.
        most = 0.3 if options.short else 0.1
        rate = lambda intervals: len(intervals) / sum(intervals) if intervals else 0.0
        return [
            row("rhythm: bytes fetched under load", evidence["fetched"], "bytes", ">= 1000000"),
            row("rhythm: intervals, idle", len(idle_intervals), "intervals", f">= {least}"),
            row("rhythm: intervals, downloading", len(load_intervals), "intervals", f">= {least}"),
            row("rhythm: cells a second, idle", rate(idle_intervals), "/s"),
            row("rhythm: cells a second, downloading", rate(load_intervals), "/s"),
            row("rhythm: distance of the two laws (KS D)", stats.ks_two_samples(idle_intervals, load_intervals), "", "<= 0.08" if options.short else "<= 0.06"),
            row("rhythm: correlation of counts a second with the load", abs(stats.correlation(counts, shares)), "|r|", f"<= {most}"),
            row("rhythm: seconds compared", seconds, "s", ">= 120" if options.short else ">= 600"),
        ]

    def sample(self, shape=lambda loaded, rng: rng.expovariate(50)):
        rng = random.Random(7)
        load = [(20.0 + 40 * n, 40.0 + 40 * n) for n in range(16)]
        cells, now = [], 0.0
        while now < 640:
            now += shape(any(begin <= now <= end for begin, end in load), rng)
            cells.append(now)
        return {"cells": cells, "load": load, "start": 0.0, "end": 640.0, "fetched": 10**8}

    def faults(self, evidence):
        yield Fault("slots that come faster under load", self.sample(lambda load, rng: rng.expovariate(62 if load else 50)), "rhythm: correlation")
        yield Fault(
            "the same rate, but steady under load", self.sample(lambda load, rng: rng.uniform(0.01, 0.03) if load else rng.expovariate(50)), "rhythm: distance"
        )
        yield Fault("late slots under load", self.sample(lambda load, rng: rng.expovariate(50) + (0.003 if load else 0)), "rhythm: distance")
        yield Fault("too few cells", changed(evidence, cells=evidence["cells"][:2000]), "rhythm: intervals")
        yield Fault("a load that was none", changed(evidence, fetched=0), "rhythm: bytes")
