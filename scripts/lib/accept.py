"""`scripts/accept NAME`: the checks of an issue against a network of the real programs."""

import argparse
import sys
import time
import traceback

import network as net
import report
from checks import FOLDER, Options, by_test
from checks.alike import Alike
from checks.attacks import Attacks
from checks.authority import Authority
from checks.books import Books
from checks.bulk import Bulk, Typing
from checks.closed import Browse, BrowseFirefox, Run
from checks.confinement import Confinement, Records
from checks.council import Council
from checks.cut_off import CutOff
from checks.dashboards import Dashboards
from checks.failures import DeadExit, DeadMixes, Entries
from checks.hostile import Hostile
from checks.isolation import Isolation
from checks.life import Life
from checks.logs import Hour, Leaks
from checks.loss import Loss
from checks.measured import Measured
from checks.operators_page import OperatorsPage
from checks.planted import Planted
from checks.packaging import Packaging
from checks.real import Real
from checks.rhythm import Rhythm
from checks.shadow import Shadow
from checks.shape import Shape
from checks.socks import Socks
from checks.status_page import StatusPage
from checks.timing import Timing
from checks.tune import Tune
from checks.udp import Udp

# Those that leave a network usable come first; each that does not gets a network of its own.
SETS = {
    "main": [by_test.replays, Confinement, Records, Timing, Rhythm, Hostile, Books, DeadMixes, DeadExit, Entries, Authority],
    "proxy": [by_test.isolation, Socks, Udp, Isolation, StatusPage, Run, Browse, BrowseFirefox, Shape, Bulk, Typing, Loss, Life],
    "sim": [by_test.theory, by_test.meddling, Alike, Attacks, Tune, Shadow, Real, Planted],
    "relay": [by_test.codec, by_test.load, by_test.attacks, by_test.operators, by_test.doctor, Leaks, Packaging, Dashboards, OperatorsPage],
    "directory": [Council, Measured, CutOff],
}
# Made only when --only names them.
ASKED_FOR = {"relay": [Hour]}

EXAMPLE = """examples:
  scripts/accept main                     all checks, about twenty minutes
  scripts/accept main --short             the same, with fewer samples
  scripts/accept sim                      the simulator against theory, itself, real processes, attacks, and faults that are planted
  scripts/accept main --only rhythm       one check
  scripts/accept relay                    codec, load, attacks, doctor, logs, packages, board, operators' page: half an hour, as root
  scripts/accept proxy                    the port, UDP, isolation, shape, bulk, loss, life: an hour and a quarter; sshd, chromium, dig
  scripts/accept directory                authorities that lie, what relays carry, firewalls: half an hour, as root
  scripts/accept relay --only hour        an hour of a network at work, and how much it logs; not among the others, as it is long
  scripts/accept main --faults            hands each check deliberate faults and sees that it fails

What --faults shows, and what not: each check's verdict is tried on made-up evidence, sound and then edited so that it holds
one fault each. So it shows that a check fails when its evidence is bad. It does not show that a fault in the programs
leaves such evidence: no program is made to misbehave, and the measuring is not run at all.
"""


def main(arguments):
    parser = argparse.ArgumentParser(
        prog="scripts/accept", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=SETS, help="which set of checks")
    parser.add_argument("--short", action="store_true", help="fewer samples, wider bounds")
    parser.add_argument("--only", action="append", metavar="CHECK", help="this check only; may be repeated")
    parser.add_argument("--faults", action="store_true", help="see each check fail on made-up evidence that was edited to hold a fault; runs no program")
    chosen = parser.parse_args(arguments)
    net.end_in_order()
    checks = [make() for make in SETS[chosen.name]]
    if chosen.only or chosen.faults:
        checks += [make() for make in ASKED_FOR.get(chosen.name, [])]
    if chosen.only:
        unknown = set(chosen.only) - {check.name for check in checks}
        if unknown:
            parser.error(f"no check is called {unknown.pop()}; there are: {', '.join(check.name for check in checks)}")
        checks = [check for check in checks if check.name in chosen.only]
    FOLDER.mkdir(parents=True, exist_ok=True)
    if chosen.faults:
        return faults(chosen.name, checks)
    return accept(chosen.name, checks, Options(short=chosen.short))


def accept(name, checks, options):
    rows, network = [], None
    try:
        for check in checks:
            print(f"-- {check.name}: {check.title}", flush=True)
            begun = time.monotonic()
            try:
                if network is not None and check.fresh:
                    network.down()
                    network = None
                if network is None and not check.offline:
                    net.build()
                    network = net.Network("accept", environment={**(net.PINNED if name == "main" else {}), **check.environment})
                    network.up()
                evidence = check.measure(None if check.offline else network, options)
                found = check.judge(evidence, options)
            except Exception as error:
                # What could not be measured has not passed, whatever the cause.
                traceback.print_exc(limit=-3)
                found = [report.skipped(check.name, f"{type(error).__name__}: {error}"[:300])]
                if network is not None:
                    network.down()
                    network = None
            rows += found
            print(report.table(found))
            print(f"   {time.monotonic() - begun:.0f} s\n", flush=True)
            if check.destructive and network is not None:
                network.down()
                network = None
    finally:
        if network is not None:
            network.down()
    return finish("accept", name, rows)


def faults(name, checks):
    """Each check must pass on sound evidence, and fail on each fault in the very row that is named."""
    rows = []
    for check in checks:
        evidence = check.sample()
        found = check.judge(evidence, Options())
        sound = [row.name for row in found if not row.passed]
        rows.append(report.Row(f"{check.name}: passes on sound evidence", "yes" if not sound else f"no: {sound[0]}", goal="= yes", passed=not sound))
        for fault in check.faults(evidence):
            failed = [row.name for row in check.judge(fault.evidence, Options()) if not row.passed]
            seen = any(name.startswith(fault.row) for name in failed)
            shown = "seen" if seen else "not seen" if not failed else f"only seen as {failed[0]}"
            rows.append(report.Row(f"{check.name}: {fault.what}", shown, goal="= seen", passed=seen))
    print(report.table(rows))
    return finish("accept", f"{name}-faults", rows)


def finish(kind, name, rows):
    path = report.write(kind, name, rows)
    failed = [row for row in rows if not row.passed]
    print()
    if failed:
        print("not met:")
        print(report.table(failed))
    print(f"written to {path.relative_to(report.ROOT)}")
    print(f"{kind} {name}: {len(rows) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
