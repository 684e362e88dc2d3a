"""`scripts/bench NAME`: figures of the real programs on this machine, with the goals beside them."""

import argparse
import os
import re
import subprocess
import sys
from datetime import datetime, timezone

import accept
import bench_main
import bench_proxy
import bench_relay
import bench_sim
import network as net
import report

SETS = {"main": bench_main, "proxy": bench_proxy, "relay": bench_relay, "sim": bench_sim}

EXAMPLE = """examples:
  scripts/bench main            a network as its user finds it: about two minutes
  scripts/bench relay           what a packet costs a relay, beside another implementation: about four minutes
  scripts/bench proxy           speed, first byte, processor time and memory of the client, beside C Tor: about six minutes
  scripts/bench sim             the simulator: events a second, growth to a million clients, memory: about five minutes
  scripts/bench main --short    fewer samples; docs/figures.md stays as it is
"""


def main(arguments):
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=SETS, help="which set of figures")
    parser.add_argument("--short", action="store_true", help="fewer samples; docs/figures.md stays as it is")
    chosen = parser.parse_args(arguments)
    net.end_in_order()
    rows = SETS[chosen.name].measure(chosen.short)
    print(report.table(rows))
    code = accept.finish("bench", chosen.name, rows)
    if not chosen.short:
        path = report.ROOT / "docs/figures.md"
        path.write_text(with_section(path.read_text(), chosen.name, section(SETS[chosen.name].WHAT, rows, machine(), commit())))
        print(f"figures written to {path.relative_to(report.ROOT)}")
    return code


def machine():
    model = re.search(r"(?m)^model name\s*: (.*)$", open("/proc/cpuinfo").read())
    memory = int(re.search(r"MemTotal:\s+(\d+)", open("/proc/meminfo").read()).group(1)) / 1024**2
    return f"{model.group(1).strip() if model else os.uname().machine}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {os.uname().release.split('-')[0]}"


def commit():
    run = lambda *words: subprocess.run(["git", *words], cwd=report.ROOT, capture_output=True, text=True).stdout.strip()
    changed = [line for line in run("status", "--porcelain").splitlines() if not line.endswith("docs/figures.md")]
    return (run("rev-parse", "--short=12", "HEAD") or "unknown") + (" with local changes" if changed else "")


def with_section(document, name, text):
    """The document with the section of this set of figures replaced, or added at its end."""
    head = f"## scripts/bench {name}\n"
    before, _, rest = document.partition(head)
    after = rest[rest.find("\n## ") + 1 :] if "\n## " in rest else ""
    return before.rstrip() + "\n\n" + head + text.rstrip() + "\n" + ("\n" + after if after else "")


def section(what, rows, where, commit):
    lines = ["", what, "", f"- Machine: {where}", f"- Commit: {commit}", f"- Date: {datetime.now(timezone.utc):%Y-%m-%d}", ""]
    lines += ["| what | value | goal | |", "|---|---|---|---|"]
    for r in rows:
        value = f"{r.value:.3g}" if isinstance(r.value, float) and abs(r.value) < 100 else f"{r.value:.0f}" if isinstance(r.value, float) else str(r.value)
        goal = f"{r.goal.replace('<=', '≤').replace('>=', '≥').replace('==', '=')} {r.unit}".strip() if r.goal else ""
        lines.append(f"| {r.name} | {value} {r.unit} | {goal} | {'' if not r.goal else 'met' if r.passed else '**not met**'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
