"""A relay that announces IPv4 and IPv6 is cut off by a firewall, on one or the other, before it joins or after: it is out
within two epochs, `mizzle-relay status` says why, and it is back when the firewall is open.

The firewall is the relay's own host: what comes for its port is dropped without an answer, by a rule of its routing policy,
for which no program is needed that a machine may lack.
"""

import subprocess
import time

import network as net
from checks import ROOT, Check, Fault, changed
from few import Few
from report import row

EPOCH = 8
KINDS = {"IPv4": "-4", "IPv6": "-6"}


class CutOff(Check):
    def __init__(self):
        super().__init__("cut-off", "a relay whose firewall closes IPv4 or IPv6 is out within two epochs and is told why", offline=True)

    def measure(self, network, options):
        cases = {}
        for kind in KINDS:
            with Hosts(ROOT / "target/net/accept-cut-off") as hosts:
                hosts.cut(kind)
                hosts.join()
                time.sleep(3 * EPOCH)
                cases[f"{kind}, before it joins"] = {"out": 0.0 if not hosts.listed() else 1e9, "said": hosts.said()}
                hosts.open(kind)
                cases[f"{kind}, before it joins"]["back"] = _epochs(hosts.listed)
                hosts.cut(kind)
                out = _epochs(lambda: not hosts.listed())
                cases[f"{kind}, after"] = {"out": out, "said": hosts.said()}
                hosts.open(kind)
                cases[f"{kind}, after"]["back"] = _epochs(hosts.listed)
        return {"cases": cases}

    def judge(self, evidence, options):
        rows = []
        for name, case in evidence["cases"].items():
            # The relay asks for the document soon after it is made.
            rows.append(row(f"cut-off: {name}, it is out after", case["out"], "epochs", "<= 2.3"))
            rows.append(row(f"cut-off: {name}, it is told which kind and why", "yes" if _tells(name, case["said"]) else f"no: {case['said']}", goal="= yes"))
            rows.append(row(f"cut-off: {name}, opened it is back after", case["back"], "epochs", "<= 2.3"))
        return rows

    def sample(self):
        case = lambda kind, other: {"out": 1.4, "said": f"no: its {kind} address was not reached: no answer within 1.6 s; reached on {other}", "back": 1.2}
        four, six = case("IPv4", "IPv6"), case("IPv6", "IPv4")
        return {"cases": {"IPv4, before it joins": four, "IPv4, after": four, "IPv6, before it joins": six, "IPv6, after": six}}

    def faults(self, evidence):
        def with_case(name, **changes):
            return changed(evidence, cases={**evidence["cases"], name: {**evidence["cases"][name], **changes}})

        said = evidence["cases"]["IPv4, after"]["said"]
        yield Fault("one that is cut off stays", with_case("IPv6, after", out=1e9), "cut-off: IPv6, after, it is out")
        yield Fault("one that joins half open is used", with_case("IPv4, before it joins", out=1e9), "cut-off: IPv4, before it joins, it is out")
        yield Fault("the other kind is named", with_case("IPv6, after", said=said), "cut-off: IPv6, after, it is told")
        yield Fault("no reason", with_case("IPv4, after", said="no: it does not run"), "cut-off: IPv4, after, it is told")
        yield Fault("an address in the reason", with_case("IPv4, after", said=said + " at 10.9.0.2"), "cut-off: IPv4, after, it is told")
        yield Fault("it never comes back", with_case("IPv4, after", back=1e9), "cut-off: IPv4, after, opened")


def _tells(name, said):
    kind = name.split(",")[0]
    other = next(each for each in KINDS if each != kind)
    return f"its {kind} address was not reached: no answer within" in said and f"reached on {other}" in said and "10.9." not in said and "fd00:" not in said


def _epochs(condition):
    start = time.monotonic()
    return (time.monotonic() - start) / EPOCH if net.until(condition, 6 * EPOCH, step=0.2) else 1e9


class Hosts(Few):
    """An authority and a relay, each in a network namespace of its own, with a cable between them."""

    def prepare(self):
        hub = self.at(self.hold(["unshare", "-rn", "sleep", "infinity"]))
        holder = self.hold([*hub, "unshare", "-n", "sleep", "infinity"])
        self.host = self.at(holder)
        self.ip(hub, "link set lo up", f"link add cable type veth peer name eth0 netns {holder.pid}")
        for at, end, number in ((hub, "cable", 1), (self.host, "eth0", 2)):
            self.ip(at, "link set lo up", f"link set {end} up")
            self.ip(at, f"address add 10.9.0.{number}/24 dev {end}", f"address add fd00:9::{number}/64 dev {end} nodad")
        for kind in KINDS.values():
            # So that a rule can come before the host's own addresses.
            self.ip(self.host, f"{kind} rule add pref 100 lookup local", f"{kind} rule del pref 0")
        self.directory("10.9.0.1", f'[parameters]\nepoch = "{EPOCH}s"', hub)

    def join(self):
        """Starts the relay."""
        self.relay("relay", 'listen = "[::]:7000"\nannounce = ["10.9.0.2:7000", "[fd00:9::2]:7000"]\nrole = "mix"', self.host)

    def cut(self, kind, verb="add"):
        """What comes for the relay's port by this kind of address is dropped."""
        self.ip(self.host, f"{KINDS[kind]} rule {verb} pref 10 iif eth0 ipproto tcp dport 7000 blackhole")

    def open(self, kind):
        """It is let in again."""
        self.cut(kind, "del")

    def listed(self):
        """Whether the relay is used, as it says itself."""
        return self.said() == "yes"

    def said(self):
        """What `mizzle-relay status` says about that."""
        lines = self.run("mizzle-relay", "status", "relay", self.host).stdout.splitlines()
        return next((line.split(None, 1)[1] for line in lines if line.startswith("listed")), "nothing")

    @staticmethod
    def ip(at, *commands):
        for words in commands:
            subprocess.run([*at, "ip", *words.split()], check=True, capture_output=True)

    @staticmethod
    def at(holder):
        """What goes before a command so that it runs where this process is."""
        return ["nsenter", "-t", str(holder.pid), "-U", "-n", "--preserve-credentials", "--"]
