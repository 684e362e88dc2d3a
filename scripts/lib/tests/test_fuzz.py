import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fuzz  # noqa: E402

BEGUN = "INFO: seed corpus: files: 4\n#5\tINITED cov: 100 ft: 120 corp: 4/90b exec/s: 0 rss: 30Mb\n#9\tNEW    cov: 112 ft: 130 corp: 5/99b\n"
ENDED = (
    "#2048\tDONE   cov: 140 ft: 300 corp: 9/200b lim: 40 exec/s: 1024 rss: 30Mb\nDone 2048 runs in 2 second(s)\n"
    "stat::number_of_executed_units: 2048\nstat::average_exec_per_sec:     1024\n"
)
CRASHED = (
    "thread '<unnamed>' (7) panicked at targets/src/cells.rs:20:9:\na cell is changed\nnote: run with RUST_BACKTRACE\n"
    "==7== ERROR: libFuzzer: deadly signal\nSUMMARY: libFuzzer: deadly signal\n"
    "artifact_prefix='fuzz/artifacts/cells/'; Test unit written to fuzz/artifacts/cells/crash-0123456789abcdef\n"
)
HUNG = "ALARM: working on the last Unit\nSUMMARY: libFuzzer: timeout\nTest unit written to fuzz/artifacts/cells/timeout-ab12\n"


class Logs(unittest.TestCase):
    def test_a_run_without_a_finding_passes_and_is_counted(self):
        outcome = fuzz.read_log("cells", 0, BEGUN + ENDED)
        self.assertEqual((outcome.executions, outcome.rate, outcome.coverage, outcome.new_coverage), (2048, 1024, 140, 40))
        self.assertEqual(outcome.failure, "")
        self.assertTrue(all(row.passed for row in outcome.rows()))

    def test_a_crash_is_told_with_its_panic_and_its_input(self):
        outcome = fuzz.read_log("cells", 77, BEGUN + CRASHED)
        self.assertEqual(outcome.failure, "a cell is changed [targets/src/cells.rs:20:9]")
        self.assertEqual(outcome.input, "fuzz/artifacts/cells/crash-0123456789abcdef")
        self.assertFalse(outcome.rows()[-1].passed)
        words = fuzz.told(outcome, fuzz.FUZZ / "target/cells")
        self.assertIn("fuzz/target/cells fuzz/artifacts/cells/crash-0123456789abcdef", words)
        self.assertIn("fuzz/seeds/cells/found_01234567 && cargo test", words)

    def test_a_hang_is_a_finding(self):
        outcome = fuzz.read_log("cells", 70, BEGUN + HUNG)
        self.assertEqual((outcome.failure, outcome.input), ("timeout", "fuzz/artifacts/cells/timeout-ab12"))

    def test_what_did_not_run_has_not_passed(self):
        for code, log in ((0, ""), (0, ENDED), (0, BEGUN), (1, "cannot open the corpus"), ("none: too slow", BEGUN)):
            self.assertTrue(fuzz.read_log("cells", code, log).failure, (code, log))


class Targets(unittest.TestCase):
    def test_each_has_its_program_and_its_seeds(self):
        self.assertGreater(len(fuzz.targets()), 10)
        for target in fuzz.targets():
            self.assertTrue((fuzz.FUZZ / "fuzz_targets" / f"{target}.rs").is_file(), target)
            self.assertTrue(any((fuzz.FUZZ / "seeds" / target).iterdir()), target)
