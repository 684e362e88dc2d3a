"""Checks that need what only a program linked with the crates can do: they are Rust tests, run by name. A name that
runs no test has failed."""

import re
import subprocess

from checks import ROOT, Check, Fault, changed
from report import row

# What must be shown, and the test of the relay (relay/tests) that shows it.
WANTED = [
    ("a packet above the longest delay is dropped and counted", "an_excessive_delay_is_dropped_and_counted_and_the_longest_allowed_is_kept"),
    ("a recorded packet is dropped, also after kill -9 and restart", "a_relay_killed_and_started_again_refuses_what_it_has_seen"),
    ("malformed cells and bytes are counted by reason, the relay lives", "no_bytes_on_the_port_bring_the_relay_down_or_go_uncounted"),
    ("an entry bounds and refuses its clients", "an_entry_serves_its_clients_and_nobody_else"),
]


class ByTest(Check):
    def __init__(self):
        super().__init__("by-test", "what tests of the relay show: replays, delays, malformed cells", offline=True)

    def measure(self, network, options):
        output = _cargo("test", "--locked", "-p", "mizzle-relay", "--test", "relay", "--", "--exact", *(name for _, name in WANTED))
        # One that did not run is in no line, and so has not passed.
        passed = set(re.findall(r"^test (\S+) \.\.\. ok$", output, re.MULTILINE))
        results = [{"what": what, "test": name, "passed": name in passed} for what, name in WANTED]
        return {"results": results}

    def judge(self, evidence, options):
        return [
            row(f"by test: {result['what']}", "yes" if result["passed"] else f"no, see {result['test']}", goal="= yes")
            for result in evidence["results"]
        ]

    def sample(self):
        return {"results": [{"what": what, "test": name, "passed": True} for what, name in WANTED]}

    def faults(self, evidence):
        first, *rest = evidence["results"]
        yield Fault("a test that fails or is not there", changed(evidence, results=[{**first, "passed": False}, *rest]), f"by test: {first['what']}")


def _cargo(*words):
    return subprocess.run(["cargo", *words], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
