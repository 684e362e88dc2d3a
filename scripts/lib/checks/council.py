"""Authorities in virtual time: thousands of histories in which up to a third of them lie, messages are lost and processes
are killed, and there must never be two documents of one number; and the same with faults planted in the machine, which the
histories must show."""

import json
import subprocess
import tempfile

from checks import ROOT, Check, Fault, changed
from checks.planted import Bug, plant, sim
from report import row

HOSTILE = ("--loss", "0.05", "--restarts", "0.5")
# Authorities, trials of the long form and of the short one.
CAMPAIGNS = [(4, 10_000, 300), (7, 10_000, 60)]
DEAD = [(4, 500, 50), (7, 500, 20)]
BROKEN = "two documents, or two words"

BUGS = [
    Bug(
        "an authority that does not read what it wrote down",
        [("directory/council/src/council.rs", "        self.agreement.begin(self.height, &notes)?;", "        self.proposed.clear();\n        self.agreement.begin(self.height, &[])?;")],
        {BROKEN},
    ),
    Bug(
        "one whose log goes on behind that of a document that is done",
        [("directory/council/src/council.rs", "            self.outputs.push_back(Output::Forget);\n            return Ok(());", "            return Ok(());")],
        {BROKEN},
    ),
    Bug(
        "ballots that anyone may sign",
        [("directory/council/src/agreement.rs", "    seats.verify(ballot.voter, BALLOT, &ballot_body(seats, &ballot.message), &ballot.signature.0)", "    ballot.voter.0 < 64 || seats.verify(ballot.voter, BALLOT, &ballot_body(seats, &ballot.message), &ballot.signature.0)")],
        {BROKEN},
    ),
    Bug(
        "half of them decide",
        [
            ("directory/council/src/seats.rs", "        self.count() * 2 / 3 + 1", "        self.count() / 2"),
            ("directory/council/src/agreement.rs", "            threshold_params: ThresholdParams::default(),", "            threshold_params: ThresholdParams { quorum: malachite_types::ThresholdParam::new(2, 5), ..ThresholdParams::default() },"),
        ],
        {BROKEN},
    ),
]


class Council(Check):
    def __init__(self):
        super().__init__("council", "authorities that lie, die and come back never make two documents of one number", offline=True)

    def measure(self, network, options):
        subprocess.run(["cargo", "build", "--quiet", "--release", "--locked", "-p", "mizzle-sim"], cwd=ROOT, check=True)
        program = str(ROOT / "target/release/mizzle-sim")
        pick = 2 if options.short else 1
        hostile = {str(row[0]): _campaign(program, row[0], row[pick], HOSTILE) for row in CAMPAIGNS}
        dead = {str(row[0]): _campaign(program, row[0], row[pick], ("--lie", "dead", "--documents", "10")) for row in DEAD}
        return {"hostile": hostile, "dead": dead, "planted": [] if options.short else plant(BUGS, _look)}

    def judge(self, evidence, options):
        rows = []
        for count, trials, short in CAMPAIGNS:
            found = evidence["hostile"][str(count)]
            rows.append(row(f"council: {count} authorities, histories", found["trials"], "", f">= {short if options.short else trials}"))
            rows.append(row(f"council: {count} authorities, of these with two documents, or two words of one", found["trials_broken"], "; ".join(found["broken"])[:100], "== 0"))
            rows.append(row(f"council: {count} authorities, processes killed", found["killed"], "", f">= {found['trials']}"))
            rows.append(row(f"council: {count} authorities, liars proven", found["proven"], "", ">= 5"))
            rows.append(row(f"council: {count} authorities, documents in their epoch", 100 * found["timely"] / found["due"], "%"))
        for count, _, _ in DEAD:
            found = evidence["dead"][str(count)]
            rows.append(row(f"council: {count} authorities, f of them dead: broken", found["trials_broken"], "", "== 0"))
            rows.append(row(f"council: {count} authorities, f of them dead: epochs with a document", 100 * found["timely"] / found["due"], "%", ">= 99"))
        for result in evidence["planted"]:
            named = sorted(result["red"])
            good = named == result["wanted"]
            rows.append(row(f"council: {result['what'] or 'nothing planted'}", "found" if result["wanted"] and good else "yes" if good else f"no: {', '.join(named) or 'nothing was seen'}"[:100], goal="= found" if result["wanted"] else "= yes"))
        return rows

    def sample(self):
        found = {"trials": 10_000, "trials_broken": 0, "broken": [], "killed": 20_000, "proven": 500, "timely": 38_000, "due": 40_000}
        dead = {**found, "timely": 4_990, "due": 5_000}
        planted = [{"what": "", "red": [], "wanted": []}] + [{"what": bug.what, "red": sorted(bug.red), "wanted": sorted(bug.red)} for bug in BUGS]
        return {"hostile": {"4": found, "7": found}, "dead": {"4": dead, "7": dead}, "planted": planted}

    def faults(self, evidence):
        def edited(part, **changes):
            return changed(evidence, **{part: {**evidence[part], "7": {**evidence[part]["7"], **changes}}})

        sound, first, *rest = evidence["planted"]
        yield Fault("one history with two documents", edited("hostile", trials_broken=1, broken=["seed 3"]), "council: 7 authorities, of these")
        yield Fault("too few histories", edited("hostile", trials=10), "council: 7 authorities, histories")
        yield Fault("nobody was killed", edited("hostile", killed=0), "council: 7 authorities, processes killed")
        yield Fault("nobody is proven", edited("hostile", proven=0), "council: 7 authorities, liars proven")
        yield Fault("the dead keep the others from it", edited("dead", timely=4_900), "council: 7 authorities, f of them dead: epochs")
        yield Fault("a fault that goes unnoticed", changed(evidence, planted=[sound, {**first, "red": []}, *rest]), f"council: {first['what']}")
        yield Fault("a sound machine that is accused", changed(evidence, planted=[{**sound, "red": [BROKEN]}, first, *rest]), "council: nothing planted")


def _campaign(program, authorities, trials, words):
    with tempfile.NamedTemporaryFile(suffix=".json") as into:
        command = [program, "council", "--authorities", str(authorities), "--trials", str(trials), "--json", into.name, *words]
        subprocess.run(command, stdout=subprocess.DEVNULL)
        return json.load(open(into.name))


def _look():
    """Whether some hundred histories show that something is wrong; one that cannot be gone through shows it, too."""
    for authorities, trials in ((4, 300), (7, 150)):
        done = sim(["council", "--authorities", str(authorities), "--trials", str(trials), *HOSTILE])
        if "error: could not compile" in done.stderr:
            return ["the fault does not compile"]
        if done.returncode != 0:
            return [BROKEN]
    return []
