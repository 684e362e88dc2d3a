"""The checks of `scripts/accept`: one file each.

A check measures (against a running network, giving plain evidence) and judges (evidence to rows). The two are apart so
that `--faults` can hand the judge sound evidence, which must pass, and the same with a deliberate fault, which must not.
"""

from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "target/accept/main"

# Sizes of the wire (docs/spec/packet.md, docs/spec/link.md).
PACKET = 348 + 4096
CLIENT_CELL = 2 + 32 + PACKET
RELAY_CELL = 2 + PACKET


@dataclass
class Options:
    """How thorough to be."""

    short: bool = False


@dataclass
class Fault:
    """Evidence with a deliberate fault, and which row must fail for it (by the start of its name)."""

    what: str
    evidence: dict
    row: str = ""


@dataclass
class Check:
    """Base of all checks."""

    name: str = ""
    title: str = ""
    # True if the network is of no use to others afterwards.
    destructive: bool = False
    # True if the check must have a network that nobody has hurt before.
    fresh: bool = False
    # True if the check needs no network at all.
    offline: bool = False
    # Variables that the programs of its network get; one that must be fresh has a network of its own for them.
    environment: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)

    def measure(self, network, options):
        """Evidence from a running network."""
        raise NotImplementedError

    def judge(self, evidence, options):
        """Rows from evidence."""
        raise NotImplementedError

    def sample(self):
        """Sound evidence, made up: what a good network would give."""
        raise NotImplementedError

    def faults(self, evidence):
        """The evidence with one deliberate fault each."""
        raise NotImplementedError


def changed(evidence, **changes):
    """A copy of evidence with some of it replaced."""
    return {**evidence, **changes}
