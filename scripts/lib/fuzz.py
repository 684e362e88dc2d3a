"""`scripts/fuzz`: makes bytes up for each parser that reads the network, and looks for ones that break it."""

import argparse
import os
import re
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import network as net
import report

ROOT = report.ROOT
FUZZ = ROOT / "fuzz"
LOGS = ROOT / "target/fuzz"
TOOLS = LOGS / "tools"
CARGO_FUZZ = "0.13.2"
# Besides the time that the campaign gives it, a target may take this long to begin and to end.
PATIENCE = 120
# An input that takes longer is a finding, as is one that needs more memory.
LONGEST_INPUT_SECONDS = 10
MOST_MEMORY_MIB = 1024

EXAMPLE = """examples:
  scripts/fuzz                            every target for 60 s, one after the other: about half an hour
  scripts/fuzz --seconds 10               a short look
  scripts/fuzz --only gateway --only mix  these two
  scripts/fuzz --sanitizer address        with AddressSanitizer, for the unsafe code of what we depend on; slower
  scripts/fuzz --list                     the targets

What an input does is in fuzz/targets; fuzz/README.md says how it all hangs together, and what to do with a finding.
"""


class FuzzError(Exception):
    """The campaign cannot run; the message says what to do."""


@dataclass
class Outcome:
    """What came of one target. Coverage is counted in edges; new are those that neither the seeds nor the corpus of
    earlier campaigns had reached."""

    target: str
    executions: int = 0
    rate: int = 0
    coverage: int = 0
    new_coverage: int = 0
    failure: str = ""
    input: str = ""

    def rows(self):
        """As rows of a report; the last one passes or fails."""
        rows = [
            report.row(f"{self.target}: executions", self.executions),
            report.row(f"{self.target}: executions a second", self.rate, "1/s"),
            report.row(f"{self.target}: coverage", self.coverage, "edges"),
            report.row(f"{self.target}: new coverage", self.new_coverage, "edges"),
        ]
        failure = f"{self.failure} ({self.input})" if self.input else self.failure
        return rows + [report.row(f"{self.target}: finding", failure or "none", goal="= none")]


def read_log(target, code, log):
    """The outcome of a run of libFuzzer, from its exit code and what it printed."""
    outcome = Outcome(target)
    first = re.search(r"^#\d+\s+INITED cov: (\d+)", log, re.MULTILINE)
    last = re.findall(r"^#\d+\s+\w+\s+cov: (\d+)", log, re.MULTILINE)
    if last:
        outcome.coverage = int(last[-1])
        outcome.new_coverage = outcome.coverage - int(first.group(1)) if first else 0
    done = re.search(r"^stat::number_of_executed_units:\s*(\d+)", log, re.MULTILINE)
    rate = re.search(r"^stat::average_exec_per_sec:\s*(\d+)", log, re.MULTILINE)
    outcome.executions = int(done.group(1)) if done else 0
    outcome.rate = int(rate.group(1)) if rate else 0
    written = re.search(r"Test unit written to (\S+)", log)
    if written:
        outcome.input = written.group(1)
    if code != 0:
        outcome.failure = _reason(log) or f"ended with exit code {code}"
    elif not outcome.executions or not first:
        outcome.failure = "executed nothing"
    return outcome


def _reason(log):
    """Why a target ended, in a line: its own panic, else what libFuzzer says."""
    panic = re.search(r"panicked at ([^\n]*):\n([^\n]*)", log)
    if panic:
        return f"{panic.group(2).strip()} [{panic.group(1)}]"
    summary = re.search(r"SUMMARY: \w+: ([^\n]*)", log)
    return summary.group(1).strip() if summary else ""


def targets():
    """The targets, in the order of their manifest."""
    return [program["name"] for program in tomllib.loads((FUZZ / "Cargo.toml").read_text())["bin"]]


def environment(sanitizer):
    path = f"{TOOLS / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    # A sanitizer is an unstable flag of the compiler; without one, the stable compiler has all that is needed.
    return os.environ | {"PATH": path} | ({} if sanitizer == "none" else {"RUSTC_BOOTSTRAP": "1"})


def need_tools(env):
    """Sees that cargo-fuzz and a C++ compiler are there; cargo-fuzz is installed below target/ if it is not."""
    done = subprocess.run([ROOT / "scripts/lib/have", "c++:g++"], capture_output=True, text=True)
    if done.returncode != 0:
        raise FuzzError(done.stderr.strip())
    if subprocess.run(["cargo", "fuzz", "--version"], env=env, capture_output=True).returncode == 0:
        return
    print(f"installing cargo-fuzz {CARGO_FUZZ} into {TOOLS.relative_to(ROOT)}", flush=True)
    command = ["cargo", "install", "cargo-fuzz", "--locked", "--quiet", "--version", CARGO_FUZZ, "--root", str(TOOLS)]
    if run(command, env) != 0:
        raise FuzzError(f"cargo-fuzz is missing and cannot be installed; try: cargo install cargo-fuzz --version {CARGO_FUZZ}")


def run(command, env, **more):
    """Runs a program to its end, which is ours if we are ended; its exit code."""
    child = subprocess.Popen([str(word) for word in command], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, start_new_session=True, **more)
    try:
        return child.wait()
    finally:
        stop_group(child)


def stop_group(child):
    """Ends a program and what it has started."""
    if child.poll() is None:
        for how in (15, 9):
            try:
                os.killpg(child.pid, how)
                child.wait(5)
                return
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                child.wait()
                return


def build(chosen, sanitizer, env):
    # With `cfg(fuzzing)`, libraries may weaken their cryptography: what is tested is what people run.
    command = ["cargo", "fuzz", "build", "--fuzz-dir", FUZZ, "--sanitizer", sanitizer, "--release", "--no-cfg-fuzzing"]
    if run(command + (chosen if len(chosen) == 1 else []), env) != 0:
        raise FuzzError("the targets do not build, see above")


def programs():
    """Where cargo-fuzz has put them."""
    host = re.search(r"^host: (\S+)", subprocess.run(["rustc", "-vV"], capture_output=True, text=True).stdout, re.MULTILINE)
    return FUZZ / "target" / host.group(1) / "release"


def fuzz(target, program, seconds):
    """Runs one target; its outcome."""
    corpus, found, log = FUZZ / "corpus" / target, FUZZ / "artifacts" / target, LOGS / f"{target}.log"
    for folder in (corpus, found, LOGS):
        folder.mkdir(parents=True, exist_ok=True)
    command = [
        program, f"-max_total_time={seconds}", "-print_final_stats=1", f"-timeout={LONGEST_INPUT_SECONDS}",
        f"-rss_limit_mb={MOST_MEMORY_MIB}", f"-artifact_prefix={found.relative_to(ROOT)}{os.sep}",
        corpus, FUZZ / "seeds" / target,
    ]
    with open(log, "w") as output:
        child = subprocess.Popen(
            [str(word) for word in command], cwd=ROOT, env=os.environ | {"RUST_BACKTRACE": "0"},
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )
        try:
            code = child.wait(seconds + PATIENCE)
        except subprocess.TimeoutExpired:
            code = f"none: it did not end within {seconds + PATIENCE} s"
        finally:
            stop_group(child)
    return read_log(target, code, log.read_text(errors="replace"))


def told(outcome, program):
    """What to do with a finding."""
    lines = [f"{outcome.target} failed: {outcome.failure}"]
    if outcome.input:
        name = f"fuzz/seeds/{outcome.target}/found_{Path(outcome.input).name.rsplit('-', 1)[-1][:8]}"
        lines += [
            f"  its input:        {outcome.input}",
            f"  replay it:        {program.relative_to(ROOT)} {outcome.input}",
            f"  make it a test:   cp {outcome.input} {name} && cargo test -p mizzle-fuzz-targets",
        ]
    else:
        lines.append(f"  what it printed:  {(LOGS / (outcome.target + '.log')).relative_to(ROOT)}")
    return "\n".join(lines)


COLUMNS = ("target", "executions", "per second", "coverage", "new", "result")
WIDTHS = (16, 12, 12, 10, 8, 0)


def line(*cells):
    return "".join(str(cell).ljust(width) for cell, width in zip(cells, WIDTHS)).rstrip()


def main(arguments):
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=60, help="time for each target; 60 if not given")
    parser.add_argument("--only", action="append", metavar="TARGET", help="this target only; may be repeated")
    parser.add_argument("--sanitizer", choices=("none", "address"), default="none", help="none if not given: our code has no unsafe part")
    parser.add_argument("--list", action="store_true", help="name the targets")
    options = parser.parse_args(arguments)
    known = targets()
    if options.list:
        print("\n".join(known))
        return 0
    unknown = set(options.only or []) - set(known)
    if unknown:
        parser.error(f"no target is called {sorted(unknown)[0]}; there are: {', '.join(known)}")
    if options.seconds < 1:
        parser.error("a target needs a second at least")
    net.end_in_order()
    chosen = [target for target in known if target in (options.only or known)]
    env = environment(options.sanitizer)
    try:
        need_tools(env)
        build(chosen, options.sanitizer, env)
    except FuzzError as error:
        print(error, file=sys.stderr)
        print(f"fuzz: 0 passed, {len(chosen)} failed")
        return 1
    return campaign(chosen, options.seconds)


def campaign(chosen, seconds):
    folder, outcomes, begun = programs(), [], time.monotonic()
    print(line(*COLUMNS), flush=True)
    for target in chosen:
        outcome = fuzz(target, folder / target, seconds)
        outcomes.append(outcome)
        result = f"FAIL  {outcome.failure}" if outcome.failure else "pass"
        print(line(target, outcome.executions, outcome.rate, outcome.coverage, outcome.new_coverage, result), flush=True)
    failed = [outcome for outcome in outcomes if outcome.failure]
    for outcome in failed:
        print(f"\n{told(outcome, folder / outcome.target)}")
    path = report.write("fuzz", "fuzz", [row for outcome in outcomes for row in outcome.rows()])
    print(f"\n{time.monotonic() - begun:.0f} s; written to {path.relative_to(ROOT)}")
    print(f"fuzz: {len(outcomes) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed or not outcomes else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\nfuzz: interrupted; what was grown and found so far is in fuzz/corpus and fuzz/artifacts", file=sys.stderr)
        sys.exit(130)
