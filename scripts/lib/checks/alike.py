"""The same seed gives the same bytes, whether the simulator was built to be quick or to be looked into."""

import os
import subprocess
import tempfile

from checks import ROOT, Check, Fault, changed
from report import row

SETS = {
    "cover": ["clients.count=40", "seconds=4", "seeds=2"],
    "speakers, losses, matching": [
        "clients.count=12", "workload.kind=web", "workload.speakers=6", "workload.per_hour=900", "links.loss=0.02", "seconds=6", "seeds=1",
        "adversary.match_flows=true",
    ],
    "modelled, uniform delays": ["clients.count=20", "packets=modelled", "network.law=uniform", "seconds=2", "seeds=1"],
}


class Alike(Check):
    def __init__(self):
        super().__init__("alike", "debug and release builds give the same bytes", offline=True)

    def measure(self, network, options):
        found = {}
        # Unoptimised, unlike this tree's own dev profile, and with the checks for overflow.
        debug = {"CARGO_TARGET_DIR": str(ROOT / "target/unoptimised"), "CARGO_PROFILE_DEV_OPT_LEVEL": "0", "CARGO_INCREMENTAL": "0"}
        for name, words in SETS.items():
            results = [_run(words, [], debug), _run(words, ["--release"], {}), _run([*words, "seed=77"], ["--release"], {})]
            found[name] = {"alike": results[0] == results[1], "bytes": len(results[0]), "another": results[1] != results[2]}
        return found

    def judge(self, evidence, options):
        rows = []
        for name, found in evidence.items():
            rows.append(row(f"alike: {name}: debug and release", "yes" if found["alike"] else "no", goal="= yes"))
            rows.append(row(f"alike: {name}: bytes compared", found["bytes"], "bytes", ">= 1000"))
            rows.append(row(f"alike: {name}: another seed gives others", "yes" if found["another"] else "no", goal="= yes"))
        return rows

    def sample(self):
        return {name: {"alike": True, "bytes": 5000, "another": True} for name in SETS}

    def faults(self, evidence):
        name = next(iter(SETS))
        for key, value, row_ in [("alike", False, "debug and release"), ("bytes", 3, "bytes compared"), ("another", False, "another seed")]:
            yield Fault(f"{key} = {value}", changed(evidence, **{name: {**evidence[name], key: value}}), f"alike: {name}: {row_}")


def _run(words, flags, environment):
    with tempfile.NamedTemporaryFile(suffix=".json") as into:
        command = ["cargo", "run", "--quiet", "--locked", *flags, "-p", "mizzle-sim", "--", "run", "--json", into.name]
        for word in words:
            command += ["--set", word]
        subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=True, stdout=subprocess.DEVNULL, timeout=1800)
        return into.read()
