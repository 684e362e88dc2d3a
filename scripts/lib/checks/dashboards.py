"""Alert rules and board against the real Prometheus: it loads and unit-tests the rules, scrapes the relays of a local
network, and answers every query of the board."""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import network as net
from checks import ROOT, Check, Fault, changed
from machine import need
from report import row

FOLDER = ROOT / "target/accept/relay/prometheus"
PLACE = ROOT / "relay/packaging"
RULES, TESTS, EXAMPLE = (PLACE / "prometheus" / name for name in ("mizzle-relay.rules.yml", "mizzle-relay.rules.test.yml", "prometheus.yml"))
BOARD = PLACE / "grafana/mizzle-relay.json"
# What Grafana puts in place of its variables.
VARIABLES = {"$__rate_interval": "30s", "$relay": ".*"}
METRIC = r"\bmizzle_[a-z_]+"
# What is appended to a metric's name in queries of histograms.
PARTS = ("_bucket", "_sum", "_count")
# Limits that the rules repeat, and where the relay has them.
LIMITS = {"mizzle_session_tags": "SESSIONS"}


class Dashboards(Check):
    def __init__(self):
        super().__init__("dashboards", "alert rules and board, by the real Prometheus on real relays", offline=True)

    def measure(self, network, options):
        need("prometheus:prometheus", "promtool:prometheus")
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(parents=True)
        rules, board = RULES.read_text(), json.loads(BOARD.read_text())
        alerts = re.findall(r"- alert: (\w+)", rules)
        evidence = {
            "alerts": alerts, "check": _promtool("check", "rules", RULES), "test": _promtool("test", "rules", TESTS),
            "config": _promtool("check", "config", EXAMPLE), "unseen": _unseen(rules, alerts),
            "limits": {name: (_limit_in_rules(rules, name), _limit_in_source(constant)) for name, constant in LIMITS.items()},
            "board": _faults_of_board(board),
        }
        expressions = [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", [])]
        # Loopback addresses, so that one Prometheus reaches all relays.
        with net.Network("dashboards", slot=40, namespaces=False) as local:
            with _Prometheus([host.metrics for host in local.relays]) as prometheus:
                net.until(lambda: len(prometheus.ask("up == 1")) == len(local.relays), 20, step=0.5)
                for _ in range(2):
                    local.curl("/bytes/300000")
                    time.sleep(6)
                names = {name for host in local.relays[:1] for name, _ in local.metrics(host)}
                evidence["scraped"] = len(prometheus.ask("up == 1"))
                evidence["loaded"] = prometheus.rules()
                evidence["queries"] = [{"panel": title, "expression": expr, "answer": prometheus.answer(_filled(expr))} for title, expr in expressions]
                # A selector that finds nothing has a wrong name, label or value in it; `offset` and alerts do not matter here.
                wanted = {selector for expr in [*(_filled(e) for _, e in expressions), rules] for selector in re.findall(METRIC + r"(?:\{[^}]*\})?", _code(expr))}
                evidence["selectors"] = len(wanted)
                evidence["empty"] = sorted(selector for selector in wanted if not prometheus.ask(selector))
                evidence["firing"] = sorted({alert["labels"]["alertname"] for alert in prometheus.firing()})
        used = set(re.findall(METRIC, _code(rules))) | {name for _, expr in expressions for name in re.findall(METRIC, expr)}
        evidence["unknown"] = sorted(used - names)
        evidence["not_shown"] = sorted({_whole(name) for name in names} - {_whole(name) for name in used})
        return evidence

    def judge(self, evidence, options):
        failing = [f"{query['panel']}: {query['answer']}" for query in evidence["queries"] if query["answer"] != "success"]
        drifted = [f"{name}: the rules say {rules}, the relay {source}" for name, (rules, source) in evidence["limits"].items() if rules is None or rules != source]
        return [
            row("dashboards: promtool check rules", evidence["check"], goal="= ok"),
            row("dashboards: promtool check config, the example", evidence["config"], goal="= ok"),
            row("dashboards: promtool test rules", evidence["test"], goal="= ok"),
            row("dashboards: alerts", len(evidence["alerts"]), "alerts", ">= 10"),
            row("dashboards: alerts whose tests pass when they never fire or always do", ", ".join(evidence["unseen"]) or "none", goal="= none"),
            row("dashboards: limits that the rules have wrong", "; ".join(drifted) or "none", goal="= none"),
            row("dashboards: relays scraped", evidence["scraped"], "relays", "== 15"),
            row("dashboards: alerts that Prometheus loaded and evaluates", evidence["loaded"], "alerts", f"== {len(evidence['alerts'])}"),
            row("dashboards: alerts that fire for a sound network", ", ".join(evidence["firing"]) or "none", goal="= none"),
            row("dashboards: metrics that no relay has", ", ".join(evidence["unknown"]) or "none", goal="= none"),
            row("dashboards: selectors of board and rules", evidence["selectors"], "selectors", ">= 20"),
            row("dashboards: selectors that find nothing", ", ".join(evidence["empty"]) or "none", goal="= none"),
            row("dashboards: queries of the board", len(evidence["queries"]), "queries", ">= 15"),
            row("dashboards: queries that Prometheus does not answer", "; ".join(failing) or "none", goal="= none"),
            row("dashboards: what is wrong with the board", "; ".join(evidence["board"]) or "nothing", goal="= nothing"),
            row("dashboards: metrics that neither board nor rules show", ", ".join(evidence["not_shown"]) or "none", goal="= none"),
        ]

    def sample(self):
        queries = [{"panel": f"Panel {number}", "expression": "mizzle_listed", "answer": "success"} for number in range(20)]
        return {
            "alerts": [f"MizzleRelay{number}" for number in range(12)], "check": "ok", "config": "ok", "test": "ok", "unseen": [],
            "limits": {"mizzle_session_tags": (8, 8)}, "scraped": 15, "loaded": 12, "firing": [], "unknown": [], "selectors": 30, "empty": [],
            "queries": queries, "board": [], "not_shown": [],
        }

    def faults(self, evidence):
        first, *rest = evidence["queries"]
        yield Fault("a rule that does not parse", changed(evidence, check="no: parse error"), "dashboards: promtool check rules")
        yield Fault("an alert that does not fire in its test", changed(evidence, test="no: FAILED"), "dashboards: promtool test rules")
        yield Fault("an alert without a test", changed(evidence, unseen=["MizzleRelayDown never"]), "dashboards: alerts whose tests")
        yield Fault("a limit that has changed in the relay", changed(evidence, limits={"mizzle_session_tags": (8, 16)}), "dashboards: limits")
        yield Fault("a constant that is gone from the relay", changed(evidence, limits={"mizzle_session_tags": (8, None)}), "dashboards: limits")
        yield Fault("a rule that Prometheus does not evaluate", changed(evidence, loaded=11), "dashboards: alerts that Prometheus")
        yield Fault("an alert that fires for a sound relay", changed(evidence, firing=["MizzleRelayLate"]), "dashboards: alerts that fire")
        yield Fault("a metric that does not exist", changed(evidence, unknown=["mizzle_loops_lost_total"]), "dashboards: metrics that no")
        yield Fault("a label that does not exist", changed(evidence, empty=['mizzle_packets_dropped_total{reason="lost"}']), "dashboards: selectors that find")
        yield Fault("a query that does not parse", changed(evidence, queries=[{**first, "answer": "error"}, *rest]), "dashboards: queries that Prometheus")
        yield Fault("two panels in one place", changed(evidence, board=["two panels overlap"]), "dashboards: what is wrong")
        yield Fault("a new metric that nobody sees", changed(evidence, not_shown=["mizzle_new_total"]), "dashboards: metrics that neither")


class _Prometheus:
    """A Prometheus that scrapes these addresses every second, by the example's configuration."""

    def __init__(self, targets):
        with socket.socket() as free:
            free.bind((net.LOCALHOST, 0))
            self.address = f"{net.LOCALHOST}:{free.getsockname()[1]}"
        text = EXAMPLE.read_text().replace("_interval: 30s", "_interval: 1s")
        text = text.replace("mizzle-relay.rules.yml", str(RULES)).replace("          - 127.0.0.1:7100\n", "".join(f"          - {target}\n" for target in targets))
        (FOLDER / "prometheus.yml").write_text(text)

    def __enter__(self):
        command = ["prometheus", f"--config.file={FOLDER}/prometheus.yml", f"--storage.tsdb.path={FOLDER}/data", f"--web.listen-address={self.address}"]
        self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(FOLDER / "log", "w"))
        try:
            if not net.until(lambda: self._get("/api/v1/query", query="1")["status"] == "success", 20):
                raise net.NetworkError(f"prometheus does not start: {net.tail(FOLDER / 'log')}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        net.stop(self.child)

    def ask(self, query):
        """The series that a query finds."""
        return self._get("/api/v1/query", query=query).get("data", {}).get("result", [])

    def answer(self, query):
        answer = self._get("/api/v1/query", query=query)
        return "success" if answer["status"] == "success" else answer.get("error", "error")[:100]

    def rules(self):
        """How many alerts it evaluates without an error, once it has evaluated all."""
        listed = lambda: [rule for group in self._get("/api/v1/rules")["data"]["groups"] for rule in group["rules"]]
        net.until(lambda: all(rule["health"] != "unknown" for rule in listed()), 15, step=0.5)
        return sum(1 for rule in listed() if rule["health"] == "ok")

    def firing(self):
        return [alert for alert in self._get("/api/v1/alerts")["data"]["alerts"] if alert["state"] == "firing"]

    def _get(self, path, **words):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{self.address}{path}?{urllib.parse.urlencode(words)}", timeout=10) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            # Until it is ready it answers in words.
            return json.loads(text) if text.startswith("{") else {"status": "error", "error": text}


def _promtool(*words):
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, timeout=60)
    return "ok" if done.returncode == 0 else f"no: {(done.stdout + done.stderr).strip()[-200:]}"


def _unseen(rules, alerts):
    """Alerts for which the unit tests do not notice that the rule never fires, or fires for everyone."""
    unseen = []
    folder = FOLDER / "mutants"
    folder.mkdir()
    (folder / TESTS.name).write_text(TESTS.read_text())
    for alert in alerts:
        for what, expression in [("never fires", "vector(1) == 0"), ("always fires", 'max by (instance, job) ({job="mizzle-relay"}) * 0 == 0')]:
            mutant = re.sub(rf"(- alert: {alert}\n(?:\s+#.*\n)*\s+expr: )(?:>-\n(?:\s{{10,}}.*\n)+|.*\n)", lambda found: found.group(1) + expression + "\n", rules, count=1)
            (folder / RULES.name).write_text(mutant)
            if mutant == rules or not _promtool("check", "rules", folder / RULES.name) == "ok":
                unseen.append(f"{alert} cannot be altered")
            elif _promtool("test", "rules", folder / TESTS.name) == "ok":
                unseen.append(f"{alert} {what}")
    return unseen


def _limit_in_rules(rules, name):
    found = re.search(rf"{name} > 0\.8 \* (\d+)", rules)
    return int(found.group(1)) if found else None


def _limit_in_source(constant):
    """The value of a constant `const NAME: usize = 1 << N;` of the relay."""
    for path in (ROOT / "relay/src").rglob("*.rs"):
        found = re.search(rf"const {constant}: usize = 1 << (\d+);", path.read_text())
        if found:
            return 1 << int(found.group(1))
    return None


def _faults_of_board(board):
    """What Grafana would trip over."""
    panels, wrong = board["panels"], []
    if len({panel["id"] for panel in panels}) != len(panels):
        wrong.append("two panels have one id")
    cells = [(x, y) for panel in panels for at in [panel["gridPos"]] for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]
    if len(set(cells)) != len(cells):
        wrong.append("two panels overlap")
    if any(x > 23 for x, _ in cells):
        wrong.append("a panel is wider than the board")
    wrong += [f"{panel['title']} has no description" for panel in panels if panel["type"] != "row" and not panel.get("description")]
    wrong += [f"{panel['title']} has no query" for panel in panels if panel["type"] != "row" and not panel.get("targets")]
    wrong += [f"{panel['title']} is not limited to $relay" for panel in panels for target in panel.get("targets", []) if "$relay" not in target["expr"]]
    return wrong


def _filled(expression):
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression


def _code(text):
    """Rules without comments, and without their words for people."""
    return "\n".join(line for line in text.splitlines() if not re.match(r"\s*(#|summary:|description:)", line))


def _whole(name):
    for part in PARTS:
        name = name.removesuffix(part)
    return name
