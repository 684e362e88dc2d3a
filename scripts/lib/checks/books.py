"""The books: every packet that a relay took is accounted for, exactly."""

import random
import time

import network as net
from checks import Check, Fault, changed
from report import row

# Names of the relay's counters: the way in (a reply that its own service makes counts as received), then the ways out,
# then what is still inside (spec: RELAY-6).
RECEIVED, SENT, DELIVERED = "mizzle_packets_received_total", "mizzle_packets_sent_total", "mizzle_packets_delivered_total"
DROPPED, HELD = "mizzle_packets_dropped_total", "mizzle_packets_in_flight"


class Books(Check):
    def __init__(self):
        super().__init__("books", "received = sent + delivered + dropped + in flight, exactly", fresh=True, destructive=True)

    def measure(self, network, options):
        network.curl("/bytes/1000000" if options.short else "/10m")
        network.kill("client", net.signal.SIGTERM)
        # The longest way is a few seconds; relays send each other nothing of their own here.
        last = None
        for _ in range(20):
            time.sleep(2)
            now = {host.name: _account(network.metrics(host)) for host in network.relays}
            if now == last:
                break
            last = now
        return {"accounts": last or now, "settled": now == last}

    def judge(self, evidence, options):
        accounts = evidence["accounts"]
        links = sum(account["to_relays"] - account["from_relays"] for account in accounts.values())
        wrong = {name: _difference(account) for name, account in accounts.items() if _difference(account) != 0}
        whole = {key: sum(account[key] for account in accounts.values()) for key in ("received", "sent", "delivered", "dropped", "waiting", "held")}
        return [
            row("books: relays read", len([a for a in accounts.values() if a["received"] > 0]), "relays", ">= 12"),
            row("books: packets received", whole["received"], "packets", ">= 1000"),
            row("books: packets sent on", whole["sent"], "packets", ">= 1000"),
            row("books: packets delivered to a service", whole["delivered"], "packets", ">= 1"),
            row("books: packets dropped, all with a reason", whole["dropped"], "packets"),
            row("books: packets that wait for a client to return", whole["waiting"], "packets"),
            row("books: packets elsewhere in a relay after the traffic", whole["held"] - whole["waiting"], "packets", "== 0"),
            row("books: packets that one relay sent and no relay received", links, "packets", "== 0"),
            row("books: difference over all relays", sum(abs(value) for value in wrong.values()), "packets", "== 0"),
            row("books: relays whose own books do not close", ", ".join(f"{n} ({d:+.0f})" for n, d in wrong.items()) or 0, "relays", "= 0"),
            row("books: the counters had come to rest", "yes" if evidence["settled"] else "no", goal="= yes"),
        ]

    def sample(self):
        rng = random.Random(3)
        accounts = {}
        for number in range(15):
            sent, delivered, dropped = rng.randrange(500, 900), rng.randrange(10, 40), rng.randrange(0, 9)
            accounts[f"relay{number}"] = {"received": sent + delivered + dropped, "sent": sent, "delivered": delivered, "dropped": dropped, "held": 0, "waiting": 0, "to_relays": sent, "from_relays": sent}
        return {"accounts": accounts, "settled": True}

    def faults(self, evidence):
        name = next(iter(evidence["accounts"]))
        account = evidence["accounts"][name]
        with_ = lambda **changes: changed(evidence, accounts={**evidence["accounts"], name: {**account, **changes}})
        yield Fault("one packet that vanished", with_(sent=account["sent"] - 1), "books: difference")
        yield Fault("one drop that was not counted", with_(dropped=account["dropped"] - 1), "books: relays whose")
        yield Fault("a packet that is held for ever", with_(held=1, sent=account["sent"] - 1), "books: packets elsewhere")
        yield Fault("a packet that a link lost", with_(from_relays=account["from_relays"] - 1), "books: packets that one relay")
        other = next(n for n in evidence["accounts"] if n != name)
        two = {**evidence["accounts"], name: {**account, "sent": account["sent"] - 1}, other: {**evidence["accounts"][other], "sent": evidence["accounts"][other]["sent"] + 1}}
        yield Fault("two errors that cancel out", changed(evidence, accounts=two), "books: difference")
        yield Fault("an idle network", changed(evidence, accounts={n: {k: 0 for k in a} for n, a in evidence["accounts"].items()}), "books: relays read")


def _account(metrics):
    sums = {"received": RECEIVED, "sent": SENT, "delivered": DELIVERED, "dropped": DROPPED, "held": HELD}
    account = {key: net.total(metrics, name) for key, name in sums.items()}
    account["waiting"] = net.total(metrics, HELD, place="client")
    account["to_relays"], account["from_relays"] = net.total(metrics, SENT, to="relay"), net.total(metrics, RECEIVED, **{"from": "relay"})
    return account


def _difference(account):
    return account["received"] - account["sent"] - account["delivered"] - account["dropped"] - account["held"]
