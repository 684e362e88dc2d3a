"""Relays get what was measured: one that carries what it announces, one that claims ten times what it carries, and one that
carries more than is tried. How many packets that took is said, too.

The second is built with the feature `faults` (see loss.py), whose word `claim=10` makes it announce ten times what its limit
on bandwidth lets through.
"""

import subprocess
import time

import network as net
from checks import RELAY_CELL, ROOT, Check, Fault, changed
from checks.loss import _build
from few import Few
from report import row

EPOCH, PACKETS = 8, 1024
# Packets a second that the limit on bandwidth of the first two lets through.
LIMIT = 60
RELAYS = ("honest", "boasting", "fast")


class Measured(Check):
    def __init__(self):
        super().__init__("measured", "a relay that claims ten times its rate gets what was measured", offline=True)

    def measure(self, network, options):
        evidence = {"relays": {}}
        with Few(ROOT / "target/net/accept-measured", _build(("mizzle-directory",))) as few:
            few.directory("127.231.0.1", f'expected = {len(RELAYS)}\nmeasure_packets = {PACKETS}\n[parameters]\nepoch = "{EPOCH}s"')
            limit = f'rate = "{LIMIT * RELAY_CELL * 8 / 1000:.1f} kbit/s"'
            for number, (name, more) in enumerate(zip(RELAYS, (limit, limit, "")), start=1):
                words = "claim=10" if name == "boasting" else ""
                address = f"127.{231 + number}.0.1"
                few.relay(name, f'listen = "{address}:7000"\nmetrics = "{address}:7100"\nrole = "mix"\nexact_metrics = true\n{more}', MIZZLE_TEST_FAULTS=words)
            for _ in range(12):
                time.sleep(EPOCH / 2)
                status = few.run("mizzle-directory", "status", "directory").stdout
                if status.count("measured ") - status.count("measured,") >= len(RELAYS) and "not measured yet" not in status:
                    break
            # The next document has it.
            time.sleep(2 * EPOCH)
            evidence["status"] = few.run("mizzle-directory", "status", "directory").stdout
            shown = subprocess.run(
                [str(few.programs / "mizzle-directory"), "show", "--from", "127.231.0.1:7000", "--network", "network.toml"],
                cwd=few.folder, capture_output=True, text=True,
            ).stdout
            for name in RELAYS:
                identity = few.run("mizzle-relay", "status", name).stdout.split()[1]
                line = next((line for line in shown.splitlines() if identity in line), "")
                told = next((line for line in evidence["status"].splitlines() if line.startswith(identity[:16])), "")
                evidence["relays"][name] = {
                    "announced": _number(told, "announces "), "measured": _number(told, "measured "), "weight": _number(line, "weight "),
                }
        return evidence

    def judge(self, evidence, options):
        relays, rows = evidence["relays"], []
        rows.append(row("measured: the honest one gets what it carries", relays["honest"]["weight"] / LIMIT, "of it", ">= 0.7"))
        rows.append(row("measured: and no more", relays["honest"]["weight"] / LIMIT, "of it", "<= 1"))
        rows.append(row("measured: the boasting one announces", relays["boasting"]["announced"] / LIMIT, "of what it carries", ">= 9"))
        rows.append(row("measured: and gets", relays["boasting"]["weight"] / LIMIT, "of what it carries", "<= 1.5"))
        rows.append(row("measured: at least", relays["boasting"]["weight"] / LIMIT, "of what it carries", ">= 0.5"))
        rows.append(row("measured: the fast one gets as much as is tried", relays["fast"]["weight"] / (PACKETS * 4 / 5), "of it", ">= 0.5"))
        same = sum(1 for relay in relays.values() if relay["measured"] == relay["weight"] or relay["announced"] == relay["weight"])
        rows.append(row("measured: mizzle-directory status shows the same", same, "relays", f"== {len(relays)}"))
        return rows

    def sample(self):
        relay = lambda announced, measured, weight: {"announced": announced, "measured": measured, "weight": weight}
        return {"status": "", "relays": {"honest": relay(60, 48, 48), "boasting": relay(600, 64, 64), "fast": relay(8000, 768, 768)}}

    def faults(self, evidence):
        def with_relay(name, **changes):
            return changed(evidence, relays={**evidence["relays"], name: {**evidence["relays"][name], **changes}})

        yield Fault("who boasts is believed", with_relay("boasting", measured=600, weight=600), "measured: and gets")
        yield Fault("who boasts gets nothing", with_relay("boasting", measured=0, weight=0), "measured: at least")
        yield Fault("who does not boast proves nothing", with_relay("boasting", announced=60), "measured: the boasting one")
        yield Fault("the honest one gets half", with_relay("honest", measured=24, weight=24), "measured: the honest one")
        yield Fault("the honest one gets more than it announces", with_relay("honest", measured=96, weight=96), "measured: and no more")
        yield Fault("a fast one that is not seen to be", with_relay("fast", measured=192, weight=192), "measured: the fast one")
        yield Fault("a status that shows something else", with_relay("fast", measured=1, announced=2), "measured: mizzle-directory status")


def _number(line, before):
    after = line.partition(before)[2]
    digits = "".join(character for character in after[:12] if character.isdigit() or character in " /").split("/")[0].split()
    return int(digits[0]) if digits else -1
