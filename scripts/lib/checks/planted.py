"""Faults planted in the product's machines: a copy of the tree gets one after the other, and `mizzle-sim check` must name
each, and nothing else.

The faults are edits of the source, made here; what they replace must be there exactly once, so that an edit which no
longer fits is told and not passed over."""

import os
import shutil
import subprocess
from dataclasses import dataclass

from checks import ROOT, Check, Fault, changed
from report import row

PLACE = ROOT / "target/planted"
TREE = PLACE / "tree"


@dataclass
class Bug:
    """An edit of one or more files, and the checks that it must turn red."""

    what: str
    edits: list
    red: set


# A route that outlives its packet.
KEPT = "thread_local! { static KEPT: std::cell::RefCell<Option<Route>> = const { std::cell::RefCell::new(None) }; }\n"

BUGS = [
    Bug(
        "a mix that holds packets for half of their delay",
        [("protocol/src/mix.rs", "Routing::Forward { next, delay } => Ok(Action::Forward { next: RelayId(next), due: arrival + delay }),", "Routing::Forward { next, delay } => Ok(Action::Forward { next: RelayId(next), due: arrival + delay / 2 }),")],
        {"delays kept"},
    ),
    Bug(
        "a sender that draws half of the delay",
        [("protocol/src/path.rs", "let delay = mixing_delay(self.parameters.mean_delay, self.parameters.max_delay, rng);", "let delay = mixing_delay(self.parameters.mean_delay / 2, self.parameters.max_delay, rng);")],
        {"delays drawn", "delays kept"},
    ),
    Bug(
        "cover that stops while there is something to say",
        [("protocol/src/cover.rs", "        let own = match kind {", "        if kind == SlotKind::Drop && !self.payload.is_empty() {\n            return None;\n        }\n        let own = match kind {")],
        {"cover when busy", "drops when busy"},
    ),
    Bug(
        "a route that serves two packets",
        [
            ("protocol/src/path.rs", "        let mut route = Route { hops: Vec::with_capacity(LAYERS + 2), delay: Duration::ZERO };", "        if let Some(route) = KEPT.take() {\n            return Ok(route);\n        }\n        let mut route = Route { hops: Vec::with_capacity(LAYERS + 2), delay: Duration::ZERO };"),
            ("protocol/src/path.rs", "        for layer in &self.layers {\n            self.mix_of(layer, &mut route, rng)?;\n        }\n", "        for layer in &self.layers {\n            self.mix_of(layer, &mut route, rng)?;\n        }\n        KEPT.set(Some(route.clone()));\n"),
            ("protocol/src/path.rs", "/// A uniform number below `bound`", KEPT + "/// A uniform number below `bound`"),
        ],
        {"routes"},
    ),
    Bug(
        "what is sent again takes the route of before",
        [
            ("protocol/src/session/client.rs", "        packet.frames.iter().for_each(|sent| self.streams.lost(sent));", "        crate::endpoint::AGAIN.set(true);\n        packet.frames.iter().for_each(|sent| self.streams.lost(sent));"),
            ("protocol/src/endpoint.rs", "        let route = topology.outward(exit, rng)?;\n        let mut packet = Vec::new();", "        let route = match KEPT.take().filter(|_| kind == SlotKind::Payload && AGAIN.take()) {\n            Some(route) => route,\n            None => topology.outward(exit, rng)?,\n        };\n        if kind == SlotKind::Payload {\n            KEPT.set(Some(route.clone()));\n        }\n        let mut packet = Vec::new();"),
            ("protocol/src/endpoint.rs", "/// The isolation that a label begins with.", KEPT + "thread_local! { pub(crate) static AGAIN: std::cell::Cell<bool> = const { std::cell::Cell::new(false) }; }\n/// The isolation that a label begins with."),
        ],
        {"resends"},
    ),
    Bug(
        "half of the loops left out",
        [("protocol/src/cover.rs", "if draw < self.pace.loop_share {", "if draw < self.pace.loop_share / 2.0 {")],
        {"loops at rest", "loops when busy"},
    ),
    Bug(
        "a reply for each packet that arrives",
        [("protocol/src/session/gateway.rs", "        self.collect_events(id);\n        handled\n    }", "        self.collect_events(id);\n        self.schedule.insert((now, id));\n        handled\n    }")],
        {"SURBs"},
    ),
    Bug(
        "a layer of which always the same mix is taken",
        [("protocol/src/path.rs", "        let node = below(layer.len(), rng)", "        let node = below(layer.len().min(1), rng)")],
        {"paths", "mixes"},
    ),
    Bug(
        "a relay that leaves out half of its loops",
        [("protocol/src/relay_loops.rs", "        self.next += poisson_interval(self.rate, rng);", "        self.next += poisson_interval(self.rate / 2.0, rng);")],
        {"relay loops"},
    ),
]


class Planted(Check):
    def __init__(self):
        super().__init__("planted", "mizzle-sim check names each fault that is planted in the machines", offline=True)

    def measure(self, network, options):
        return {"results": plant(BUGS, _check)}

    def judge(self, evidence, options):
        rows = []
        for result in evidence["results"]:
            name = result["what"] or "nothing planted: nothing is named"
            named = sorted(result["red"])
            missing = [red for red in result["wanted"] if red not in named]
            # A fault may show in more than one promise; what must not be is that it shows in none that names it.
            good = not missing if result["wanted"] else not named
            rows.append(row(f"planted: {name}", "yes" if good else f"named: {', '.join(named) or 'nothing'}"[:100], goal="= yes"))
        return rows

    def sample(self):
        return {"results": [{"what": "", "red": [], "wanted": []}] + [{"what": bug.what, "red": sorted(bug.red), "wanted": sorted(bug.red)} for bug in BUGS]}

    def faults(self, evidence):
        sound, first, *rest = evidence["results"]
        yield Fault("a fault that goes unnoticed", changed(evidence, results=[sound, {**first, "red": []}, *rest]), f"planted: {first['what']}")
        yield Fault("a fault under another name", changed(evidence, results=[sound, {**first, "red": ["mixes"]}, *rest]), f"planted: {first['what']}")
        yield Fault("sound machines that are accused", changed(evidence, results=[{**sound, "red": ["mixes"]}, first, *rest]), "planted: nothing")


def plant(bugs, look):
    """What `look` finds in a copy of the tree as it is, and with each of the bugs."""
    shutil.rmtree(TREE, ignore_errors=True)
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout.decode().split("\0")
    for name in filter(None, files):
        (TREE / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, TREE / name)
    try:
        results = [{"what": "", "red": look(), "wanted": []}]
        for bug in bugs:
            before = {name: (TREE / name).read_text() for name, _, _ in bug.edits}
            fits = all(_edit(*edit) for edit in bug.edits)
            results.append({"what": bug.what, "red": look() if fits else ["the edit does not fit the source"], "wanted": sorted(bug.red)})
            for name, text in before.items():
                (TREE / name).write_text(text)
    finally:
        shutil.rmtree(TREE, ignore_errors=True)
    return results


def sim(words, timeout=1200):
    """Builds the simulator of the copy and runs it."""
    environment = {**os.environ, "CARGO_TARGET_DIR": str(PLACE), "CARGO_INCREMENTAL": "0"}
    command = ["cargo", "run", "--quiet", "--release", "--locked", "-p", "mizzle-sim", "--", *words]
    return subprocess.run(command, cwd=TREE, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout)


def _edit(name, old, new):
    text = (TREE / name).read_text()
    if text.count(old) != 1:
        return False
    (TREE / name).write_text(text.replace(old, new))
    return True


def _check():
    """The names of the checks that fail."""
    done = sim(["check"])
    lines = done.stdout.splitlines()
    if not any(line.startswith(("pass", "FAIL")) for line in lines):
        raise RuntimeError(f"mizzle-sim check did not run: {done.stderr[-300:]}")
    # "FAIL  name   measured": the name may hold single spaces.
    return [line[6:22].strip() for line in lines if line.startswith("FAIL")]
