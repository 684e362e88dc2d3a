"""Two isolation keys never share a session: an exit counts the sessions, the target sees which exit comes.

A key is a SOCKS user, an HTTP header or a port. That the SURBs of two sessions are never mixed up cannot be seen from
outside: the check `surbs` runs a test that follows each of them."""

import time

import network as net
import targets
from checks import Check, Fault, changed
from report import row

# So few that all have been served before the first session is idle for too long and ends.
KEYS, SHORT_KEYS, TRIES = 40, 24, 2
# After so long, sessions that carry nothing have ended.
IDLE = 45
EXITS = 3


class Isolation(Check):
    def __init__(self):
        super().__init__("isolation", "two isolation keys never share an exit session")

    def measure(self, network, options):
        second = _next_port(network.socks)
        network.client_with(socks=[network.socks, second])
        servers = network.targets()
        count = SHORT_KEYS if options.short else KEYS
        ports = [f"port={network.socks}", f"port={second}"]
        named = [f"{'header' if number % 3 == 0 else 'user'}=key-{number}" for number in range(count - len(ports))]
        keys = ports + named
        try:
            # The session of this one ends meanwhile: what is counted below is the keys' alone.
            network.curl("/1k", timeout=60)
            time.sleep(IDLE)
            words = ["exits", network.socks, net.ORIGIN_NAME, str(targets.TOLD), str(TRIES), *keys]
            seen = network.tool("at_client.py", *words)
            after = {"exits": _sessions(network), "client": network.client_counters()["sessions"]}
            # The same keys again: nothing is opened anew.
            again = network.tool("at_client.py", *words)
            later = {"exits": _sessions(network), "client": network.client_counters()["sessions"]}
            # And once more when their sessions are gone: each key keeps its exit.
            time.sleep(IDLE)
            again += network.tool("at_client.py", *words)
        finally:
            net.stop(servers)
            network.client_with()
        return {"keys": keys, "seen": seen, "again": again, "after": after, "later": later, "exits": [host.address for host in network.of("exit")]}

    def judge(self, evidence, options):
        count = len(evidence["keys"])
        failed = [r.get("error") for r in evidence["seen"] + evidence["again"] if "error" in r]
        seen = {r["key"]: r["exits"] for r in evidence["seen"] if "exits" in r}
        met = {key: set(exits) for key, exits in seen.items()}
        for r in evidence["again"]:
            met.get(r["key"], set()).update(r.get("exits", []))
        several = [key for key, exits in met.items() if len(exits) != 1]
        used = {exit_ for exits in seen.values() for exit_ in exits}
        anew = evidence["later"]["exits"] - evidence["after"]["exits"]
        # By chance alone, all keys at one exit: (1/3)^(n-1); keys that follow one another strictly: as unlikely.
        return [
            row("isolation: keys that were served", len(seen) if not failed else f"{len(seen)}: {failed[0]}"[:120], "keys", f"= {count}"),
            row("isolation: kinds of keys: ports, headers, users", len({key.partition("=")[0] for key in seen}), "kinds", "== 3"),
            row("isolation: sessions that the exits hold", evidence["after"]["exits"], "sessions", f">= {count}"),
            row("isolation: sessions that the client tells", evidence["after"]["client"], "sessions", f">= {count}"),
            row("isolation: keys that met more than one exit", len(several), "keys", "<= 0"),
            row("isolation: exits that the target saw", len(used & set(evidence["exits"])), "exits", f"== {EXITS}"),
            row("isolation: sessions opened for keys that have one", max(0, anew), "sessions", f"<= {max(2, count // 10)}"),
        ]

    def sample(self):
        exits = ["10.31.7.1", "10.32.7.1", "10.33.7.1"]
        keys = [f"{('port', 'header', 'user')[number % 3]}=key-{number}" for number in range(KEYS)]
        seen = [{"key": key, "exits": [exits[number * number % 7 % 3]] * TRIES} for number, key in enumerate(keys)]
        counts = lambda base: {"exits": base, "client": base}
        return {"keys": keys, "seen": seen, "again": seen, "after": counts(KEYS), "later": counts(KEYS), "exits": exits}

    def faults(self, evidence):
        one = lambda exits: lambda r: {**r, "exits": exits}
        shared = {"exits": KEYS // 2, "client": KEYS}
        yield Fault("two keys a session", changed(evidence, after=shared), "isolation: sessions that the exits")
        users = lambda found: [{**r, "key": r["key"].replace("header=", "user=")} for r in found]
        yield Fault("no headers tried", changed(evidence, seen=users(evidence["seen"]), again=users(evidence["again"])), "isolation: kinds")
        yield Fault("a client that tells of fewer", changed(evidence, after={"exits": KEYS, "client": 3}), "isolation: sessions that the client")
        first, *rest = evidence["seen"]
        keys = evidence["keys"]
        yield Fault("a key that changes its exit", changed(evidence, seen=[one(["10.31.7.1", "10.32.7.1"])(first), *rest]), "isolation: keys that met")
        yield Fault("a key whose exit changes when its session ends", changed(evidence, again=[*evidence["again"], {"key": keys[0], "exits": ["10.32.7.1"]}]), "isolation: keys that met")
        yield Fault("all at one exit", changed(evidence, seen=list(map(one(["10.31.7.1"]), evidence["seen"])), again=list(map(one(["10.31.7.1"]), evidence["again"]))), "isolation: exits")
        yield Fault("a session for each stream", changed(evidence, later={"exits": 3 * KEYS, "client": 0}), "isolation: sessions opened")
        yield Fault("a key that is refused", changed(evidence, seen=[{"error": "SocksError: reply code 1"}, *rest]), "isolation: keys that were")


def _next_port(address):
    """Of the same host; none of the network's listens there."""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + 200}"


def _sessions(network):
    return int(sum(net.total(network.metrics(host), "mizzle_sessions") for host in network.of("exit")))
