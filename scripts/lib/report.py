"""Results: one row for each thing measured, a table for people, JSON for machines."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Row:
    """One result. `goal` reads "<= 0.06", ">= 1", "= yes" or is empty for what is only told."""

    name: str
    value: object
    unit: str = ""
    goal: str = ""
    passed: bool = True
    peer: object = None
    ratio: object = None

    def as_json(self):
        fields = asdict(self)
        fields["pass"] = fields.pop("passed")
        order = ("name", "value", "unit", "peer", "ratio", "goal", "pass")
        return {key: fields[key] for key in order}


def row(name, value, unit="", goal="", peer=None):
    """A row that passes if its value meets its goal; without a goal it only tells."""
    ratio = round(value / peer, 3) if peer and isinstance(value, (int, float)) else None
    return Row(name, _rounded(value), unit, goal, meets(value, goal), peer, ratio)


def skipped(name, why):
    """A check that was not made has not passed."""
    return Row(name, f"skipped: {why}", goal="made", passed=False)


def meets(value, goal):
    """Whether a value meets a goal. A value that is no number meets no bound."""
    if not goal:
        return True
    relation, _, bound = goal.partition(" ")
    if relation == "=":
        return str(value) == bound
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return False
    bound = float(bound)
    return {"<=": value <= bound, ">=": value >= bound, "<": value < bound, ">": value > bound, "==": value == bound}[relation]


def table(rows):
    """The rows as aligned text."""
    head = ("", "what", "value", "unit", "goal")
    lines = [head] + [("pass" if r.passed else "FAIL", r.name, _shown(r.value), r.unit, r.goal) for r in rows]
    widths = [max(len(str(line[column])) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(str(cell).ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def write(kind, name, rows):
    """Writes target/KIND/NAME.json and returns its path."""
    path = ROOT / "target" / kind / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([r.as_json() for r in rows], indent=2) + "\n")
    return path


def _rounded(value):
    return round(value, 4) if isinstance(value, float) and math.isfinite(value) else value


def _shown(value):
    return f"{value:g}" if isinstance(value, float) else str(value)
