"""The product's levels from what they promise, and five wishes more through `mizzle-sim tune`: what is granted is simulated anew, with other seeds and by the keys that it printed; what is
refused is refused by what binds."""

import copy
import json
import subprocess
import tempfile
from dataclasses import dataclass

from checks import CLIENT_CELL, ROOT, Check, Fault
from report import row, skipped

PROGRAM = ROOT / "target/release/mizzle-sim"
# As in `Watcher::name`, in the order of `identified`.
WATCHERS = ["links", "links-and-exit", "entry-and-exit"]
# Bytes that a TLS record adds to a cell.
TLS = 22
# Other seeds than the tuner's own.
SEEDS = ["seed=5001", "seeds=4"]


@dataclass
class Wish:
    """What is asked for; `binds`: it must be refused, with these words."""

    what: str
    traffic: float
    watcher: str = ""
    flow: int = 0
    seconds: float = 0
    bits: float = 0
    binds: str = ""


WISHES = [
    Wish("10 bits for 1 000 users at 53 ms and 13.5 GB a day", 13.5, bits=10),
    Wish("1 MB hidden for 30 s from all links and the exit, at 190 GB", 190, "links-and-exit", 1 << 20, 30),
    Wish("64 KB hidden for 30 s from entry and exit, at 50 GB", 50, "entry-and-exit", 1 << 16, 30),
    Wish("1 MB hidden for 30 s from all links and the exit, at 13.5 GB", 13.5, "links-and-exit", 1 << 20, 30, binds="What binds is the"),
    Wish("256 KB hidden for 20 s from entry and exit, at 13.5 GB", 13.5, "entry-and-exit", 1 << 18, 20, binds="What binds is the"),
]


class Tune(Check):
    def __init__(self):
        super().__init__("tune", "the tuner's answers hold in runs of their own, and what cannot be had is refused by what binds", offline=True)

    def measure(self, network, options):
        subprocess.run(["cargo", "build", "--quiet", "--release", "--locked", "-p", "mizzle-sim"], cwd=ROOT, check=True)
        levels = subprocess.run([PROGRAM, "tune", "--levels"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        steps = [line for line in levels.stdout.splitlines() if " GB a day, " in line]
        return {"wishes": [_wish(wish) for wish in WISHES], "levels": {"steps": len(steps), "code": levels.returncode}}

    def judge(self, evidence, options):
        levels = evidence["levels"]
        rows = [
            row("steps of the product's levels that the tuner made from what they promise", levels["steps"], "", "= 7"),
            row("they are the shipped ones", "yes" if levels["code"] == 0 else "no", "", "= yes"),
        ]
        for wish, found in zip(WISHES, evidence["wishes"]):
            if wish.binds:
                refused = found["code"] != 0 and wish.binds in found["error"]
                rows.append(row(f"{wish.what}: refused by what binds", "yes" if refused else "no", "", "= yes"))
                continue
            if found["code"] != 0 or not found["again"]:
                rows.append(skipped(wish.what, f"not granted: {found['error'][:200]}"))
                continue
            again = found["again"]
            if wish.bits:
                rows.append(row(f"{wish.what}: measured anew", again["bits"], "bits", f">= {wish.bits - 0.1}"))
            if wish.watcher:
                rows.append(row(f"{wish.what}: flows watched anew", again["flows"], "", ">= 40"))
                rows.append(row(f"{wish.what}: identified before that, anew", again["early"] * 100, "%", "<= 50"))
            rows.append(row(f"{wish.what}: traffic of the printed rates", again["gigabytes"], "GB a day", f"<= {wish.traffic * 1.01}"))
        return rows

    def sample(self):
        granted = {"code": 0, "error": "", "again": {"bits": 11.2, "flows": 100, "early": 0.1, "gigabytes": 13.0}}
        refused = {"code": 1, "error": "error: … What binds is the adversary: …", "again": None}
        wishes = [copy.deepcopy(refused if wish.binds else granted) for wish in WISHES]
        return {"wishes": wishes, "levels": {"steps": 7, "code": 0}}

    def faults(self, evidence):
        def edited(index, **changes):
            wishes = copy.deepcopy(evidence["wishes"])
            wishes[index].update(changes)
            return {**evidence, "wishes": wishes}

        def anew(index, **changes):
            return edited(index, again={**evidence["wishes"][index]["again"], **changes})

        return [
            Fault("shipped rates that keep other promises", {**evidence, "levels": {"steps": 7, "code": 1}}, "they are the shipped ones"),
            Fault("levels that were not looked for", {**evidence, "levels": {"steps": 0, "code": 0}}, "steps of the product's levels"),
            Fault("an entropy that a run of its own does not find", anew(0, bits=9.0), WISHES[0].what),
            Fault("flows that another seed identifies", anew(2, early=0.8), WISHES[2].what),
            Fault("a verification that watched no flows", anew(1, flows=0, early=0.0), WISHES[1].what),
            Fault("rates that cost more than was wished", anew(1, gigabytes=500.0), WISHES[1].what),
            Fault("a wish that can be had and is refused", edited(1, code=1, again=None), WISHES[1].what),
            Fault("a wish that cannot be had and is granted", edited(4, code=0), WISHES[4].what),
            Fault("a refusal that does not say what binds", edited(3, error="error: no"), WISHES[3].what),
        ]


def _wish(wish):
    command = [PROGRAM, "tune", "--users", "1000", "--latency", "53", "--traffic", str(wish.traffic)]
    if wish.bits:
        command += ["--bits", str(wish.bits)]
    if wish.watcher:
        command += ["--adversary", wish.watcher, "--flow", str(wish.flow), "--seconds", str(wish.seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    commands = [line.split("by mizzle-sim run ")[1].split() for line in done.stdout.splitlines() if "by mizzle-sim run " in line]
    found = {"code": done.returncode, "error": done.stderr[-2000:], "again": None}
    if done.returncode == 0 and commands:
        # The first is the run in which flows were watched, where there were any.
        found["again"] = _again(wish, commands[0])
    return found


def _again(wish, words):
    """The same network with other seeds."""
    with tempfile.NamedTemporaryFile(suffix=".json") as into:
        command = [PROGRAM, "run", "--json", into.name, *words]
        for word in SEEDS:
            command += ["--set", word]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        report = json.load(open(into.name))[0]
    outcomes, scenario = report["outcomes"], report["scenario"]
    bits = [figure["value"] for outcome in outcomes for figure in outcome["figures"] if figure["name"] == "entropy of packets, bits"]
    clients = scenario["clients"]
    # An entry's slots are a quarter more than what a client receives.
    cells = clients["send_rate"] + clients["receive_rate"] * 1.25
    found = {"bits": sum(bits) / len(bits), "gigabytes": cells * (CLIENT_CELL + TLS) * 86_400 / 1e9}
    if wish.watcher:
        watcher = WATCHERS.index(wish.watcher)
        # Of flows that began when the run was nearly over nobody can say.
        flows = sum(outcome["watched"] for outcome in outcomes) * (1 - wish.seconds / scenario["seconds"])
        early = sum(time < wish.seconds for outcome in outcomes for time in outcome["identified"][watcher])
        found |= {"flows": flows, "early": early / max(flows, 1)}
    return found
