"""Checks that need what only a program linked with the crates can do: they are Rust tests, run by name. A name that
runs no test has failed."""

import re
import subprocess

from checks import ROOT, Check, Fault, changed
from report import row

# What must be shown, the crate, and words of which at least one must be in the name of a test.
WANTED = [
    ("a packet that asks for more than the longest delay is dropped and counted", "mizzle-relay", ("excessive", "above_the_maximum", "too_long")),
    ("a packet sent again is dropped and counted", "mizzle-relay", ("replay", "second_time", "sent_again")),
    ("a packet sent again is dropped after kill -9 and restart", "mizzle-relay", ("restart", "kill")),
    ("malformed cells inside a link are counted by reason, and the relay lives", "mizzle-relay", ("malformed", "random_bytes", "oversized", "junk")),
]


class ByTest(Check):
    def __init__(self):
        super().__init__("by-test", "what tests of the relay show: replays, delays, malformed cells", offline=True)

    def measure(self, network, options):
        listing = _cargo("test", "--locked", "-p", "mizzle-relay", "--", "--list")
        names = re.findall(r"^(\S+): test$", listing, re.MULTILINE)
        results = []
        for what, crate, words in WANTED:
            chosen = [name for name in names if any(word in name.rsplit("::", 1)[-1] for word in words)]
            passed = failed = 0
            if chosen:
                output = _cargo("test", "--locked", "-p", crate, "--", "--exact", *chosen)
                for line in re.findall(r"^test result: .*", output, re.MULTILINE):
                    counts = re.search(r"(\d+) passed; (\d+) failed; (\d+) ignored", line)
                    passed += int(counts.group(1))
                    failed += int(counts.group(2)) + int(counts.group(3))
            results.append({"what": what, "tests": chosen, "passed": passed, "failed": failed})
        return {"results": results}

    def judge(self, evidence, options):
        rows = []
        for result in evidence["results"]:
            good = result["passed"] >= 1 and result["failed"] == 0 and result["passed"] == len(result["tests"])
            shown = f"{result['passed']} passed" if good else f"{result['passed']} passed, {result['failed']} failed of {len(result['tests'])}"
            rows.append(row(f"by test: {result['what']}", shown, "tests", "" if good else "= all passed, at least one"))
        return rows

    def sample(self):
        return {"results": [{"what": what, "tests": ["one"], "passed": 1, "failed": 0} for what, _, _ in WANTED]}

    def faults(self, evidence):
        first, *rest = evidence["results"]
        yield Fault("no test of that name", changed(evidence, results=[{**first, "tests": [], "passed": 0}, *rest]), "by test")
        yield Fault("the test fails", changed(evidence, results=[{**first, "passed": 0, "failed": 1}, *rest]), "by test")
        yield Fault("a test that did not run", changed(evidence, results=[{**first, "tests": ["one", "two"]}, *rest]), "by test")


def _cargo(*words):
    return subprocess.run(["cargo", *words], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
