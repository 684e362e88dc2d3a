"""The port for applications, in raw bytes: every case has its right answer, sent at once or byte by byte."""

import network as net
import socks_cases
from checks import Check, Fault, changed
from report import row
from socks_talk import BYTEWISE, TOGETHER

IPV6 = "fd00:90::1"
# Places that the client has while the bound on connections is tried.
CAP = 40


class Socks(Check):
    def __init__(self):
        super().__init__("socks", "SOCKS5, SOCKS4, SOCKS4a and HTTP on one port: every case has its right code")

    def measure(self, network, options):
        network.client_with()
        origin = network.hosts["origin"]
        # Exits reach the origin by IPv6, too.
        for number, host in enumerate([origin, *network.of("exit")]):
            network.run(host, "ip", "-6", "address", "add", f"fd00:90::{number + 1}/64", "dev", "eth0", "nodad")
            if host.role == "exit":
                # The launcher names an IPv4 address that they send from; without it, they send from any.
                host.config.write_text(net.with_settings(host.config.read_text(), {"outbound": None}))
                network.kill(host.name, net.signal.SIGTERM)
                network.start(host.name)
        net.until(lambda: network.curl("/1k", timeout=10)["exit"] == 0, 60)
        targets = network.targets(IPV6)
        try:
            for host in network.of("exit"):
                tried = network.run(host, net.sys.executable, "-c", f"import socket; socket.create_connection(({IPV6!r}, 7007), 5)")
                if tried.returncode:
                    raise net.NetworkError(f"{host.name} cannot reach the origin by IPv6: {tried.stderr.strip()[-100:]}")
            where = [network.socks, net.ORIGIN_NAME, origin.address, IPV6, str(net.ORIGIN_PORT)]
            results = network.tool("socks_cases.py", *where)
            network.client_with(connections=CAP)
            cap = network.tool("socks_cap.py", *where, str(CAP))
        finally:
            net.stop(targets)
        return {"results": results, "cap": cap, "cases": [name for name, _, _ in socks_cases.cases(socks_cases.Where(*where))]}

    def judge(self, evidence, options):
        by_case = {}
        for result in evidence["results"]:
            by_case.setdefault(result["case"], {})[result["way"]] = result["wrong"]
        rows = [row("socks: cases", len(evidence["cases"]), "cases", ">= 95")]
        late = "success only after the exit has connected"
        for case in [late, *evidence["cases"]]:
            ways = (TOGETHER,) if case == late else (TOGETHER, BYTEWISE)
            wrong = {}
            for way in ways:
                said = by_case.get(case, {}).get(way, "not tried")
                if said:
                    wrong.setdefault(said, []).append(way)
            text = "; ".join(f"{', '.join(found)}: {said}" for said, found in wrong.items())
            rows.append(row(f"socks: {case}", f"no, {text}"[:200] if text else "yes", goal="= yes"))
        cap = evidence["cap"]
        rows += [
            row("socks: connections kept at a bound of 40", cap["kept"], "connections", f"== {CAP}"),
            row("socks: of 20 beyond it, closed at once", cap["closed"], "connections", "== 20"),
            row("socks: served again when places are free", cap["again"] or "yes", goal="= yes"),
        ]
        return rows

    def sample(self):
        cases = [name for name, _, _ in socks_cases.cases(socks_cases.Where("a:1", "hello.test", "10.90.7.1", IPV6, 80))]
        results = [{"case": case, "way": way, "wrong": "", "seconds": 1.0} for case in cases for way in (TOGETHER, BYTEWISE)]
        results.append({"case": "success only after the exit has connected", "way": TOGETHER, "wrong": "", "seconds": 4.0})
        return {"results": results, "cap": {"kept": CAP, "closed": 20, "again": ""}, "cases": cases}

    def faults(self, evidence):
        def wrong(case, way=BYTEWISE):
            results = [{**r, "wrong": "reply code 1"} if (r["case"], r["way"]) == (case, way) else r for r in evidence["results"]]
            return changed(evidence, results=results)

        for case in evidence["cases"]:
            yield Fault(f"a wrong answer to `{case}`", wrong(case), f"socks: {case}")
        case = "success only after the exit has connected"
        yield Fault("success too early", wrong(case, TOGETHER), f"socks: {case}")
        yield Fault("one case was not tried byte by byte", changed(evidence, results=evidence["results"][:1] + evidence["results"][2:]), "socks: greeting: 0 methods")
        yield Fault("half of the cases", changed(evidence, cases=evidence["cases"][:48]), "socks: cases")
        cap = evidence["cap"]
        yield Fault("one more than the bound", changed(evidence, cap={**cap, "kept": CAP + 1, "closed": 19}), "socks: connections kept")
        yield Fault("beyond the bound they wait", changed(evidence, cap={**cap, "closed": 0}), "socks: of 20")
        yield Fault("places are not given back", changed(evidence, cap={**cap, "again": "SocksError"}), "socks: served again")
