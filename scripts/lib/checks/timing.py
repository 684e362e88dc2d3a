"""Pings: what a packet's way takes beyond the delays that its sender drew."""

import csv
import random

import network as net
import stats
from checks import FOLDER, Check, Fault, changed
from report import row

MEAN_DELAY_MS = 20
LAYERS = 3


class Timing(Check):
    def __init__(self):
        super().__init__("timing", "packets arrive when their delays say, and the delays follow their law")

    def measure(self, network, options):
        count = 300 if options.short else 5000
        path = FOLDER / "pings.csv"
        path.unlink(missing_ok=True)
        done = network.run(
            "client", network.release / "mizzle", "ping", "--config", network.hosts["client"].config, "--count", str(count), "--csv", path,
            timeout=60 + count,
        )
        if not path.exists():
            raise net.NetworkError(f"mizzle ping wrote nothing: {done.stderr.strip()[-300:]}")
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        return {"sent": count, "pings": [_times(line) for line in rows if line.get("arrival_us")]}

    def judge(self, evidence, options):
        pings = evidence["pings"]
        drawn = [delay / 1000 for _, delay, _ in pings]
        beyond = [(arrival - slot - delay) / 1000 for slot, delay, arrival in pings]
        return [
            row("timing: pings answered", len(pings), f"of {evidence['sent']}", f">= {int(evidence['sent'] * 0.98)}"),
            row("timing: arrival − slot − drawn delays, p50", stats.median(beyond), "ms", "<= 2"),
            row("timing: the least of them", min(beyond, default=-1e9), "ms", ">= 0"),
            row("timing: the same, p95", stats.quantile(beyond, 0.95), "ms"),
            row("timing: mean of the drawn sums", sum(drawn) / len(drawn) if drawn else 0.0, "ms"),
            row("timing: distance of the drawn sums to Erlang(3, 20 ms) (KS D)", stats.ks_law(drawn, stats.erlang(LAYERS, MEAN_DELAY_MS)), "", f"<= {stats.ks_bound(len(pings))}"),
        ]

    def sample(self, mean=20_000, layers=3, late=900):
        rng = random.Random(5)
        pings = []
        for n in range(5000):
            slot, delay = 1_000_000 + n * 20_000, int(sum(rng.expovariate(1 / mean) for _ in range(layers)))
            pings.append((slot, delay, slot + delay + rng.randrange(100, 2 * late)))
        return {"sent": 5000, "pings": pings}

    def faults(self, evidence):
        yield Fault("each packet 3 ms late", self.sample(late=3_000), "timing: arrival")
        yield Fault("only two delays drawn", self.sample(layers=2), "timing: distance")
        yield Fault("a mean of 22 ms", self.sample(mean=22_000), "timing: distance")
        yield Fault("one in twenty lost", changed(evidence, pings=evidence["pings"][: len(evidence["pings"]) * 19 // 20]), "timing: pings")
        early = [(slot, delay, arrival - 5_000) for slot, delay, arrival in evidence["pings"]]
        yield Fault("packets released before their time", changed(evidence, pings=early), "timing: the least")


def _times(line):
    """Slot, sum of the drawn delays outward, and arrival; in microseconds."""
    return int(line["slot_us"]), int(line["delays_us"]), int(line["arrival_us"])
