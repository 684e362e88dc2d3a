"""docs/operators.md: every command in it is run, in its order, on a Debian machine inside a local network; its tables are
compared with the sources.

What the page says to this check stands in HTML comments before a block: `file: PATH` (what a person types into that file),
`until: TEXT` (a person repeats this until it shows TEXT), `not run: WHY`. A ```text block after commands is what they show:
the first word of each of its lines must be the first word of a line that they showed.
"""

import re

import network as net
from checks import ROOT, Check, Fault, changed
from checks.packaging import FOLDER, package
from machine import Machine
from report import row

PAGE = ROOT / "docs/operators.md"
# How long an `until` may take: a local network's epoch is 20 s.
PATIENCE = 120
# Blocks that may say `not run`: no more than these.
NOT_RUN = 2


class OperatorsPage(Check):
    def __init__(self):
        super().__init__("operators-page", "docs/operators.md: every command runs, every table is whole", offline=True)

    def measure(self, network, options):
        text = PAGE.read_text()
        evidence = {"blocks": [], "tables": {name: list(compare(text)) for name, compare in TABLES.items()}, "stray": _stray(text)}
        packages = package(FOLDER / "packages", "deb")
        with Machine(FOLDER / "machine") as machine:
            machine.address("192.0.2.7", "192.0.2.8")
            folder = ROOT / "target/net/operators"
            machine.network(folder, net.RELEASE)
            machine.put(packages["deb"], f"/srv/{packages['deb'].name}")
            machine.put(folder / "network.toml", "/srv/network.toml")
            for block in _blocks(text):
                evidence["blocks"].append(_do(machine, block))
        return evidence

    def judge(self, evidence, options):
        blocks = evidence["blocks"]
        failed = [f"line {block['line']}: {block['result']}" for block in blocks if block["result"] not in ("yes", "not run")]
        rows = [
            row("operators-page: blocks of commands run", sum(1 for block in blocks if block["kind"] == "sh" and block["result"] == "yes"), "blocks", ">= 15"),
            row("operators-page: blocks that are not run, and say why", sum(1 for block in blocks if block["result"] == "not run"), "blocks", f"<= {NOT_RUN}"),
            row("operators-page: files written as the page shows them", sum(1 for block in blocks if block["kind"] == "file"), "files", ">= 2"),
            row("operators-page: answers compared", sum(1 for block in blocks if block["kind"] == "text"), "blocks", ">= 2"),
            row("operators-page: what did not do as the page says", "; ".join(failed)[:400] or "nothing", goal="= nothing"),
            row("operators-page: blocks of no known kind", ", ".join(evidence["stray"]) or "none", goal="= none"),
        ]
        for name, differences in evidence["tables"].items():
            rows.append(row(f"operators-page: {name}", "; ".join(differences)[:300] or "as in the sources", goal="= as in the sources"))
        return rows

    def sample(self):
        block = lambda kind, line, result="yes": {"kind": kind, "line": line, "result": result}
        blocks = [block("sh", line) for line in range(20)] + [block("file", 30), block("file", 31), block("text", 32), block("text", 33), block("sh", 40, "not run")]
        return {"blocks": blocks, "tables": {name: [] for name in TABLES}, "stray": []}

    def faults(self, evidence):
        first, *rest = evidence["blocks"]
        yield Fault("a command that fails", changed(evidence, blocks=[{**first, "result": "exit code 1"}, *rest]), "operators-page: what did not")
        yield Fault("an answer that looks otherwise", changed(evidence, blocks=[*rest, {"kind": "text", "line": 9, "result": "shows no line `colour`"}]), "operators-page: what did not")
        yield Fault("a page whose commands are not run", changed(evidence, blocks=[{**block, "result": "not run"} for block in evidence["blocks"]]), "operators-page: blocks that")
        yield Fault("a block in another language", changed(evidence, stray=["line 7: bash"]), "operators-page: blocks of no")
        # The comparisons themselves, on the page with a row taken out or put in.
        text = PAGE.read_text()
        yield Fault("a limit that has changed", changed(evidence, tables={**evidence["tables"], "limits": list(_limits(re.sub(r"\b\d{8}\b", "1000", text)))}), "operators-page: limits")
        for name, (table, key) in _SAMPLES.items():
            compare = TABLES[name]
            without = re.sub(rf"(?m)^\| `{re.escape(key)}` \|.*\n", "", text)
            yield Fault(f"a row that is missing: {key[:40]}", changed(evidence, tables={**evidence["tables"], name: list(compare(without))}), f"operators-page: {name}")
            more = text.replace(f"| `{key}` |", f"| `no such thing here` | x | x |\n| `{key}` |", 1)
            yield Fault(f"a row too many: {table}", changed(evidence, tables={**evidence["tables"], name: list(compare(more))}), f"operators-page: {name}")


# ------------------------------------------------------------------------------------------------ commands


def _fences(text):
    """Every fenced block: its line, its language, the comment before it, its text."""
    for found in re.finditer(r"(?m)(?:^<!-- ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$", text, re.DOTALL):
        yield text[: found.start(2)].count("\n") + 1, found.group(2), found.group(1) or "", found.group(3)


def _blocks(text):
    for line, language, comment, body in _fences(text):
        word, _, rest = comment.partition(": ")
        if language == "sh":
            yield {"kind": "sh", "line": line, "body": body, **({word: rest} if word else {})}
        elif language == "text":
            yield {"kind": "text", "line": line, "body": body}
        elif word == "file":
            yield {"kind": "file", "line": line, "body": body, "file": rest}


def _stray(text):
    known = {"sh": ("", "until", "not run"), "text": ("",), "toml": ("file",), "ini": ("file",)}
    return [f"line {line}: {language}" for line, language, comment, _ in _fences(text) if comment.partition(": ")[0] not in known.get(language, ())]


def _do(machine, block):
    """Does what a person would do with a block; says "yes" or what went wrong."""
    done = {"kind": block["kind"], "line": block["line"], "result": "yes"}
    if "not run" in block:
        done["result"] = "not run"
    elif block["kind"] == "file":
        path = machine.root / block["file"].lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block["body"])
    elif block["kind"] == "text":
        shown = {line.split()[0] for line in machine.shown.splitlines() if line.split()}
        # "…" stands for lines that are left out.
        missing = [line.split()[0] for line in block["body"].splitlines() if line.split() and line.split()[0] not in shown | {"…"}]
        if missing:
            done["result"] = f"shows no line `{missing[0]}`"
    else:
        def attempt():
            answer = machine.run(block["body"], timeout=180)
            machine.shown, machine.code = answer.stdout, answer.returncode
            return answer.returncode == 0 and block.get("until", "") in answer.stdout

        if not net.until(attempt, PATIENCE if "until" in block else 0, step=1):
            done["result"] = f"exit code {machine.code}, it showed: {machine.shown.strip()[-150:]}"
    return done


# ------------------------------------------------------------------------------------------------ tables


def _table(text, heading):
    """First cells of the table under a heading."""
    section = text.split(f"\n## {heading}\n", 1)[-1].split("\n## ", 1)[0]
    return re.findall(r"(?m)^\| `([^`]+)` \|", section)


def _source(path):
    return (ROOT / path).read_text().split("#[cfg(test)]")[0]


def _function(text, name):
    """The text of a function, to the brace that closes it."""
    start = re.search(rf"fn {name}\b", text)
    if start is None:
        raise LookupError(f"there is no function {name}: has it moved? Then this check must look elsewhere")
    end = text.find("\n    }\n", start.end()) if text[text.rfind("\n", 0, start.start()) + 1] == " " else text.find("\n}\n", start.end())
    return text[start.start() : end]


def _sentences(text):
    """String literals that are sentences, with `…` for what is put in."""
    code = re.sub(r"(?m)\\\n\s*|^\s*//.*$|tracing::\w+!\([^;]*;", "", text)
    for literal in re.findall(r'"((?:[^"\\]|\\.)*)"', code):
        literal = re.sub(r"\{[^}]*\}", "…", literal)
        if " " in literal.strip():
            yield literal


def _differences(page, sources):
    for name in sources:
        if name not in page:
            yield f"the page lacks `{name}`"
    for name in page:
        if name not in sources:
            yield f"the sources lack `{name}`"


def _drop_reasons(text):
    labels = re.findall(r'Self::\w+ => "(\w+)"', _function(_source("protocol/src/mix.rs"), "label"))
    return _differences(_table(text, "What drop reasons mean"), labels)


def _refusals(text):
    labels = re.findall(r'of\(&refused, "(\w+)"\)', _source("relay/src/metrics.rs"))
    return _differences(_table(text, "Why connections are refused"), labels)


def _lost_datagrams(text):
    labels = re.findall(r'of\(&lost, "(\w+)"\)', _source("relay/src/metrics.rs"))
    return _differences(_table(text, "Why datagrams are dropped"), labels)


def _alerts(text):
    alerts = re.findall(r"- alert: (\w+)", (ROOT / "relay/packaging/prometheus/mizzle-relay.rules.yml").read_text())
    return _differences(_table(text, "What alerts mean"), alerts)


def _reasons(text):
    """Why a relay is not listed: what the relay and the authority say to its operator."""
    authority, probe = _source("directory/src/authority.rs"), _source("relay/link/src/probe.rs")
    dialled = _source("directory/src/probe.rs")
    family, revoked = _source("protocol/src/consensus/family.rs"), re.search(r'REVOKED: &str = ("[^"]*")', _source("directory/src/authority/revoked.rs"))
    parts = [
        _function(_source("relay/src/membership.rs"), "stand"), _function(authority, "obstacle"), _function(authority, "judge_descriptor"),
        _function(authority, "status"), _function(family, "verify"), _function(family, "check_time"), revoked.group(1), _source("directory/src/authority/listing.rs"),
        _function(probe, "probe"), _function(probe, "sentence"), _function(probe, "unanswered"), _function(dialled, "judge"),
        _function(dialled, "failure"),
    ]
    sentences = [sentence.replace("`approved`", "…") for part in parts for sentence in _sentences(part)]
    return _differences(_table(text, "Why a relay is not listed"), sentences)


def _limits(text):
    """Numbers that the page repeats from the relay."""
    section = text.split("\n## Limits\n", 1)[-1]
    for path, constant in [("relay/src", "SESSIONS"), ("relay/src", "EXCHANGES"), ("relay/src", "OPEN"), ("relay/src", "HALF_OPEN")]:
        values = [found.group(1) for file in sorted((ROOT / path).rglob("*.rs")) for found in [re.search(rf"const {constant}: usize = ([^;]+);", file.read_text())] if found]
        if not values:
            yield f"the relay has no constant {constant} any more"
            continue
        shift = re.match(r"1 << (\d+)", values[0])
        value = 1 << int(shift.group(1)) if shift else int(values[0].replace("_", ""))
        if not re.search(rf"\b{value}\b", section):
            yield f"the page does not say {value}, which is {constant}"


TABLES = {"drop reasons": _drop_reasons, "refused connections": _refusals, "dropped datagrams": _lost_datagrams, "alerts": _alerts, "reasons for not being listed": _reasons, "limits": _limits}
# A row of each table, which the faults take out; limits are no table.
_SAMPLES = {
    "drop reasons": ("drop reasons", "replay_memory"), "refused connections": ("refused connections", "truncated"),
    "dropped datagrams": ("dropped datagrams", "stranger"),
    "alerts": ("alerts", "MizzleRelayDown"), "reasons for not being listed": ("reasons", "it is not approved any more"),
}
