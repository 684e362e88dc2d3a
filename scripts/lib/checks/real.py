"""The same scenario simulated and with real processes: loops take as long, links carry as much, and nothing is left running."""

import json
import subprocess
import tempfile
from pathlib import Path

import network as net
from checks import ROOT, Check, Fault, changed
from report import row

# Eight clients that send 640 packets a second, of them 288 loops: in 170 s every kind of link carries so many that two
# percent are four standard deviations.
SCENARIO = [
    "clients.count=8", "clients.send_rate=80", "clients.receive_rate=60", "clients.loop_share=0.45", "clients.drop_share=0.45",
    "seconds=170", "seeds=5",
]
REFUSED = "links.distance_ms=10"
KINDS = [
    "client to entry", "entry to layer 1", "layer 1 to layer 2", "layer 2 to layer 3", "layer 3 to exit", "layer 3 to entry", "entry to client",
]
# The rows that must be there, each with the bound that was promised.
BOUNDS = {
    "loops, distance of their laws (KS)": 0.05,
    **{f"{kind}, kB/s": 2.0 for kind in KINDS},
    "loops sent, by a client in a second": 3.0,
    "loops sent, off their rate, sigma": 3.0,
    "loops home, by a client in a second": 3.0,
    "loops home, off their rate, sigma": 3.0,
    "loops sent and not home, sigma": 3.0,
}


class Real(Check):
    def __init__(self):
        super().__init__("real", "real processes at rest do what their simulation says", offline=True)

    def measure(self, network, options):
        net.build()
        program = net.RELEASE / "mizzle-sim"
        if net.RELEASE == ROOT / "target/release":
            subprocess.run(["cargo", "build", "--quiet", "--release", "--locked", "-p", "mizzle-sim"], cwd=ROOT, check=True)
        with tempfile.NamedTemporaryFile(suffix=".json") as into:
            done = _run(program, SCENARIO, "--json", into.name)
            print(done.stdout, done.stderr[-600:] if done.returncode else "", flush=True)
            text = Path(into.name).read_text()
        refused = _run(program, [*SCENARIO, REFUSED])
        return {
            "rows": json.loads(text)["rows"] if text else [],
            "code": done.returncode,
            "refused": refused.returncode != 0 and REFUSED.partition("=")[0] in refused.stderr,
            "left": _left(),
        }

    def judge(self, evidence, options):
        found = {told["figure"]: told for told in evidence["rows"]}
        rows = []
        for figure, bound in BOUNDS.items():
            told = found.get(figure) or {}
            difference = told.get("difference")
            value = abs(difference) if isinstance(difference, (int, float)) else "not told"
            rows.append(row(f"real: {figure}: real and simulated", value, told.get("unit", ""), f"<= {bound}"))
            if figure.endswith("kB/s"):
                chance = told.get("chance")
                sure = bound / chance if chance else "not told"
                rows.append(row(f"    {figure}: the bound, by chance's deviation", sure, "sigma", ">= 4"))
        rows.append(row("real: the command's own verdict", evidence["code"], "", "== 0"))
        rows.append(row("real: what real processes cannot have is refused by its key", "yes" if evidence["refused"] else "no", goal="= yes"))
        rows.append(row("real: processes left behind", evidence["left"], "", "== 0"))
        return rows

    def sample(self):
        rows = [{"figure": figure, "difference": -bound / 2, "bound": bound, "chance": bound / 4.5, "unit": ""} for figure, bound in BOUNDS.items()]
        return {"rows": rows, "code": 0, "refused": True, "left": 0}

    def faults(self, evidence):
        rows = evidence["rows"]
        for index, told in enumerate(rows):
            worse = {**told, "difference": -told["bound"] * 1.1}
            name = f"real: {told['figure']}"
            yield Fault(f"{told['figure']} beyond its bound", changed(evidence, rows=[*rows[:index], worse, *rows[index + 1:]]), name)
            yield Fault(f"{told['figure']} not told", changed(evidence, rows=[*rows[:index], *rows[index + 1:]]), name)
        few = [{**told, "chance": told["bound"] / 3} for told in rows]
        yield Fault("too few packets to tell", changed(evidence, rows=few), "    client to entry")
        yield Fault("another verdict", changed(evidence, code=1), "real: the command's own")
        yield Fault("what cannot be is not refused", changed(evidence, refused=False), "real: what real processes cannot")
        yield Fault("a process that stays", changed(evidence, left=1), "real: processes left")


def _run(program, words, *flags):
    command = [str(program), "run", "--real", *flags]
    for word in words:
        command += ["--set", word]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, stdin=subprocess.DEVNULL)


def _left():
    """Processes that belong to the networks of the command: their folders have a name of their own."""
    count = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            count += b"/mizzle-real-" in (folder / "cmdline").read_bytes()
        except OSError:
            continue
    return count
