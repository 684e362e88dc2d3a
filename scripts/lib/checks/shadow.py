"""What `mizzle-sim export shadow` writes: every file that is named is there, and the programs accept their own.

Whether Shadow would read `shadow.yaml` and the graph is tried by a test of `mizzle-sim`, against what its documentation
says; Shadow itself is in no distribution."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import network as net
from checks import ROOT, Check, Fault, by_test, changed
from report import row

FOLDER = ROOT / "target/shadow"
SCENARIO = ["clients.count=4", "network.width=2", "links.distance_ms=20", "links.bandwidth_mbit=100", "seconds=30"]
HOSTS = 1 + 3 * 2 + 3 + 3 + 4 + 1
TESTED = [
    ("Shadow can read what is written", "shadow_can_read_what_is_written"),
    ("regions become nodes of the graph", "regions_become_nodes_and_hosts_are_in_them_by_turns"),
    ("what Shadow does not read is found", "what_shadow_does_not_read_is_found"),
]


class Shadow(Check):
    def __init__(self):
        super().__init__("shadow", "what is exported for Shadow", offline=True)
        self.tests = by_test.ByTest("shadow", self.title, [by_test.Suite("mizzle-sim", "shadow", TESTED)])

    def measure(self, network, options):
        net.build()
        program = net.RELEASE / "mizzle-sim"
        if net.RELEASE == ROOT / "target/release":
            subprocess.run(["cargo", "build", "--quiet", "--release", "--locked", "-p", "mizzle-sim"], cwd=ROOT, check=True)
        shutil.rmtree(FOLDER, ignore_errors=True)
        words = [word for key in SCENARIO for word in ("--set", key)]
        subprocess.run([str(program), "export", "shadow", *words, "--into", str(FOLDER)], check=True, capture_output=True, timeout=120)
        text = (FOLDER / "shadow.yaml").read_text()
        named = [Path(path) for path in set(re.findall(r'"(/[^"]+)"', text))]
        # What a program writes is not there before it runs, but its folder is.
        written = {path for path in re.findall(r'"--seen", "(/[^"]+)"', text) if Path(path).parent.is_dir()}
        hosts = json.loads((FOLDER / "net/hosts.json").read_text())
        refused = {host["name"]: why for host in hosts if (why := _refusal(host)) is not None}
        return {
            "tests": self.tests.measure(network, options),
            "hosts": len(re.findall(r"(?m)^  \S+:\n    network_node_id: ", text)),
            "named": len(named),
            "missing": [str(path) for path in named if not path.exists() and str(path) not in written],
            "refused": refused,
            # The programs must be able to tell a bad file.
            "spoilt": [host["name"] for host in hosts if host["role"] != "origin" and _refusal(host, spoilt=True) is None],
        }

    def judge(self, evidence, options):
        rows = self.tests.judge(evidence["tests"], options)
        missing, refused, spoilt = evidence["missing"], evidence["refused"], evidence["spoilt"]
        rows.append(row("shadow: hosts", evidence["hosts"], "", f"== {HOSTS}"))
        rows.append(row("shadow: files and programs that are named", evidence["named"], "", f">= {HOSTS}"))
        rows.append(row("shadow: of these, not there", len(missing), missing[0] if missing else "", "== 0"))
        rows.append(row("shadow: configurations that their programs refuse", len(refused), "; ".join(map(str, refused.items()))[:200], "== 0"))
        rows.append(row("shadow: programs that accept a spoilt one", len(spoilt), ", ".join(spoilt), "== 0"))
        return rows

    def sample(self):
        return {"tests": self.tests.sample(), "hosts": HOSTS, "named": HOSTS + 4, "missing": [], "refused": {}, "spoilt": []}

    def faults(self, evidence):
        for fault in self.tests.faults(evidence["tests"]):
            yield Fault(fault.what, changed(evidence, tests=fault.evidence), fault.row)
        yield Fault("a host is left out", changed(evidence, hosts=HOSTS - 1), "shadow: hosts")
        yield Fault("nothing is named", changed(evidence, named=0), "shadow: files and programs")
        yield Fault("a file is not there", changed(evidence, missing=["/x/net/mix11/config.toml"]), "shadow: of these")
        yield Fault("a configuration is refused", changed(evidence, refused={"mix11": "why"}), "shadow: configurations")
        yield Fault("nothing would be refused", changed(evidence, spoilt=["mix11"]), "shadow: programs that accept")


def _refusal(host, spoilt=False):
    """Why a host's program does not accept its configuration; None if it does. With another key in it, if spoilt."""
    program, *_, config = host["command"]
    if host["role"] == "origin":
        return None
    if spoilt:
        other = Path(config).with_name("spoilt.toml")
        other.write_text("no_such_key = 1\n" + Path(config).read_text())
        config = str(other)
    # The authority has no command that only checks; to make the identity that is there changes nothing.
    verb = {"authority": "init", "client": "status"}.get(host["role"], "check")
    done = subprocess.run([program, verb, "--config", config], capture_output=True, text=True, timeout=60)
    if done.returncode == 0 or (verb == "status" and "no client runs" in done.stderr):
        return None
    return (done.stderr + done.stdout).strip()[-200:]
