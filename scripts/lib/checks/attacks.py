"""Attacks that go on for long, simulated by `mizzle-sim run`: each must succeed where lines show the load, and stay at what a
guess has where they do not. The same scenarios, but for the level."""

import json
import subprocess
import tempfile

from checks import ROOT, Check, Fault, changed
from report import row

MOVING = ["clients.level=fast", "workload.pinned=false"]
CONSTANT = ["clients.level=strong", "workload.pinned=true"]

TOGGLE = [
    "clients.count=50", "clients.step=0", "workload.kind=web", "workload.speakers=50", "workload.per_hour=20", "workload.parts=2",
    "adversary.toggle_rounds=8", "adversary.toggle_on_s=2", "adversary.toggle_off_s=18", "seconds=150", "seeds=6",
]
DISCLOSURE = [
    "clients.count=40", "clients.step=0", "workload.kind=poisson", "workload.speakers=40", "workload.per_hour=60", "workload.down=50000",
    "workload.sites=400", "workload.favourites=4", "workload.favourite_share=0.9", "adversary.disclosure=true",
    "adversary.disclosure_round_s=2", "seconds=400", "seeds=2",
]
# What each run is asked for: what was found, what a guess has, and how much was looked at. Percent, and rounds.
RUNS = {
    "toggle, fast": (TOGGLE + MOVING, "toggle: visitor identified, %", "toggle: that by chance, %", "toggle: rounds"),
    "toggle, strong": (TOGGLE + CONSTANT, "toggle: visitor guessed right, %", "toggle: that by chance, %", "toggle: rounds"),
    "disclosure, fast": (DISCLOSURE + MOVING, "sites by load: found, %", "sites by load: by a guess, %", "sites by load: rounds"),
    "disclosure, strong": (
        DISCLOSURE + CONSTANT, "sites by presence: found, %", "sites by presence: by a guess, %", "sites by presence: rounds",
    ),
}
# How much must be found where lines show the load: a visitor in nearly every run, and of four sites two by six visits. And by how
# much more than a guess it may be where they do not.
FOUND = {"toggle": 80, "disclosure": 40}
BEYOND = 5


class Attacks(Check):
    def __init__(self):
        super().__init__("attacks", "attacks of long breath succeed where lines show the load, and nowhere else", offline=True)

    def measure(self, network, options):
        evidence = {}
        for name, (words, found, guess, rounds) in RUNS.items():
            figures = _run(words)
            evidence[name] = {"found": figures[found], "guess": figures[guess], "rounds": figures[rounds]}
        return evidence

    def judge(self, evidence, options):
        rows = []
        for name in RUNS:
            got = evidence[name]
            shows = name.endswith("fast")
            goal = f">= {FOUND[name.partition(',')[0]]}" if shows else f"<= {round(got['guess'] + BEYOND, 2)}"
            rows.append(row(f"attacks: {name}: found", got["found"], "%", goal))
            rows.append(row(f"attacks: {name}: by a guess", got["guess"], "%", "<= 20"))
            rows.append(row(f"attacks: {name}: rounds", got["rounds"], "", ">= 4"))
        return rows

    def sample(self):
        return {name: {"found": 90.0 if name.endswith("fast") else 3.0, "guess": 2.0, "rounds": 8.0} for name in RUNS}

    def faults(self, evidence):
        for name in RUNS:
            worse = 2.0 if name.endswith("fast") else 50.0
            yield Fault(f"{name}: {worse} % are found", changed(evidence, **{name: {**evidence[name], "found": worse}}), f"attacks: {name}: found")
            yield Fault(f"{name}: nobody looks", changed(evidence, **{name: {**evidence[name], "rounds": 0}}), f"attacks: {name}: rounds")
            yield Fault(f"{name}: a guess is as good", changed(evidence, **{name: {**evidence[name], "guess": 95.0}}), f"attacks: {name}: by a guess")


def _run(words):
    """The mean of each figure over the runs of a scenario."""
    with tempfile.NamedTemporaryFile(suffix=".json") as into:
        command = ["cargo", "run", "--quiet", "--locked", "--release", "-p", "mizzle-sim", "--", "run", "--json", into.name]
        for word in words:
            command += ["--set", word]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=600)
        [report] = json.load(into)
    values = {}
    for outcome in report["outcomes"]:
        for figure in outcome["figures"]:
            values.setdefault(figure["name"], []).append(figure["value"])
    return {name: sum(found) / len(found) for name, found in values.items() if None not in found}
