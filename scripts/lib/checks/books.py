"""The books: every packet that was made is accounted for, exactly, from the client to the services and back."""

import random
import time

import network as net
from checks import Check, Fault, changed
from report import row

# Names of the relay's counters: the way in (a reply that its own service makes counts as received), then the ways out,
# then what is still inside (spec: RELAY-6).
RECEIVED, SENT, DELIVERED = "mizzle_packets_received_total", "mizzle_packets_sent_total", "mizzle_packets_delivered_total"
# Of the client's own counters.
CLIENT = ("packets_out", "packets_in", "packets_taken", "packets_refused", "packets_dropped", "loops_sent", "drops_sent", "payload_sent", "slots_empty", "connections")
DROPPED, HELD = "mizzle_packets_dropped_total", "mizzle_packets_in_flight"


class Books(Check):
    def __init__(self):
        # Loops of relays would be under way at any moment: the relay's own tests close its books with them.
        super().__init__("books", "sent = delivered + dropped + in flight, exactly, client included", fresh=True, destructive=True, environment={"MIZZLE_RELAY_LOOPS": "0"})

    def measure(self, network, options):
        network.curl("/bytes/1000000" if options.short else "/10m")
        # In order: what is on the line arrives, and the client's last word counts it.
        client = network.client_counters("stop")
        net.until(lambda: network.process("client") is None, 15)
        # The longest way is a few seconds; relays send nothing of their own here.
        last = None
        for _ in range(20):
            time.sleep(2)
            now = {host.name: _account(network.metrics(host)) for host in network.relays}
            if now == last:
                break
            last = now
        return {"client": {name: client[name] for name in CLIENT}, "accounts": last or now, "settled": now == last}

    def judge(self, evidence, options):
        accounts = evidence["accounts"]
        links = sum(account["to_relays"] - account["from_relays"] for account in accounts.values())
        wrong = {name: _difference(account) for name, account in accounts.items() if _difference(account) != 0}
        client = evidence["client"]
        made = client["packets_out"] + sum(account["from_services"] for account in accounts.values())
        ended = sum(account["delivered"] + account["dropped"] + account["held"] for account in accounts.values()) + client["packets_in"]
        up = client["packets_out"] - sum(account["from_clients"] for account in accounts.values())
        down = sum(account["to_clients"] for account in accounts.values()) - client["packets_in"]
        drawn = client["packets_out"] - client["loops_sent"] - client["drops_sent"] - client["payload_sent"]
        taken = client["packets_in"] - client["packets_taken"] - client["packets_refused"] - client["packets_dropped"]
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
            row("books: packets that the client sent", client["packets_out"], "packets", ">= 30" if options.short else ">= 300"),
            row("books: packets that came to the client", client["packets_in"], "packets", ">= 200" if options.short else ">= 2000"),
            row("books: slots of the client that found nothing finished to send", client["slots_empty"], "slots", "== 0"),
            row("books: links that the client has had", client["connections"], "links", "== 1"),
            row("books: packets that the client sent and no entry received", up, "packets", "== 0"),
            row("books: packets that an entry sent and the client did not receive", down, "packets", "== 0"),
            row("books: packets that the client sent as no loop, drop or payload", drawn, "packets", "== 0"),
            row("books: packets that the client received, neither took, refused nor dropped", taken, "packets", "== 0"),
            row("books: whole network, made (client, services) minus ended (services, drops, client, in flight)", made - ended, "packets", "== 0"),
            row("books: difference over all relays", sum(abs(value) for value in wrong.values()), "packets", "== 0"),
            row("books: relays whose own books do not close", ", ".join(f"{n} ({d:+.0f})" for n, d in wrong.items()) or 0, "relays", "= 0"),
            row("books: the counters had come to rest", "yes" if evidence["settled"] else "no", goal="= yes"),
        ]

    def sample(self):
        rng = random.Random(3)
        accounts = {}
        for number in range(15):
            sent, delivered, dropped = rng.randrange(500, 900), rng.randrange(10, 40), rng.randrange(0, 9)
            accounts[f"relay{number}"] = {"received": sent + delivered + dropped, "sent": sent, "delivered": delivered, "dropped": dropped, "held": 0, "waiting": 0, "to_relays": sent, "from_relays": sent, "to_clients": 0, "from_clients": 0, "from_services": 0}
        # The first is the entry of the client, the second the exit that answers: what goes in at the one ends somewhere.
        first, second = accounts["relay0"], accounts["relay1"]
        ends = sum(account["delivered"] + account["dropped"] for account in accounts.values())
        out, home = 3000, 2000
        first.update(from_clients=out, to_clients=home, received=first["received"] + out, sent=first["sent"] + home)
        second.update(from_services=ends + home - out)
        first["received"] += home
        first["to_relays"] += out
        first["sent"] += out
        first["from_relays"] += home
        received = sum(account["from_relays"] for account in accounts.values())
        second["from_relays"] += sum(account["to_relays"] for account in accounts.values()) - received
        client = {"packets_out": out, "packets_in": home, "loops_sent": 400, "drops_sent": 600, "payload_sent": 2000}
        client |= {"packets_taken": 1990, "packets_refused": 7, "packets_dropped": 3, "slots_empty": 0, "connections": 1}
        return {"client": client, "accounts": accounts, "settled": True}

    def faults(self, evidence):
        name = next(iter(evidence["accounts"]))
        account = evidence["accounts"][name]
        with_ = lambda **changes: changed(evidence, accounts={**evidence["accounts"], name: {**account, **changes}})
        yield Fault("one packet that vanished", with_(sent=account["sent"] - 1), "books: difference")
        yield Fault("one drop that was not counted", with_(dropped=account["dropped"] - 1), "books: relays whose")
        yield Fault("a packet that is held for ever", with_(held=1, sent=account["sent"] - 1), "books: packets elsewhere")
        yield Fault("a packet that a link lost", with_(from_relays=account["from_relays"] - 1), "books: packets that one relay")
        # What each side alone cannot see: its own books close.
        yield Fault("a packet lost between client and entry", with_(from_clients=account["from_clients"] - 1, sent=account["sent"] - 1, received=account["received"] - 1), "books: packets that the client sent and")
        yield Fault("a packet lost between entry and client", with_(to_clients=account["to_clients"] + 1), "books: packets that an entry")
        client = evidence["client"]
        claims = lambda **changes: changed(evidence, client={**client, **changes})
        yield Fault("a client that sends more than it says", claims(packets_out=client["packets_out"] - 1, drops_sent=client["drops_sent"] - 1), "books: whole network")
        yield Fault("a reply that nobody made", with_(from_services=account["from_services"] + 1), "books: whole network")
        yield Fault("a packet that the client lost inside", claims(packets_taken=client["packets_taken"] - 1), "books: packets that the client received")
        yield Fault("a packet of no kind", claims(payload_sent=client["payload_sent"] - 1), "books: packets that the client sent as")
        yield Fault("a download that emptied a slot", claims(slots_empty=1), "books: slots")
        yield Fault("a client that had to connect again", claims(connections=2), "books: links")
        other = next(n for n in evidence["accounts"] if n != name)
        two = {**evidence["accounts"], name: {**account, "sent": account["sent"] - 1}, other: {**evidence["accounts"][other], "sent": evidence["accounts"][other]["sent"] + 1}}
        yield Fault("two errors that cancel out", changed(evidence, accounts=two), "books: difference")
        yield Fault("an idle network", changed(evidence, accounts={n: {k: 0 for k in a} for n, a in evidence["accounts"].items()}), "books: relays read")


def _account(metrics):
    sums = {"received": RECEIVED, "sent": SENT, "delivered": DELIVERED, "dropped": DROPPED, "held": HELD}
    account = {key: net.total(metrics, name) for key, name in sums.items()}
    # For a client that is here, or may come back.
    account["waiting"] = sum(net.total(metrics, HELD, place=place) for place in ("client", "away"))
    account["to_clients"] = net.total(metrics, SENT, to="client")
    account["from_clients"], account["from_services"] = (net.total(metrics, RECEIVED, **{"from": origin}) for origin in ("client", "service"))
    account["to_relays"], account["from_relays"] = net.total(metrics, SENT, to="relay"), net.total(metrics, RECEIVED, **{"from": "relay"})
    return account


def _difference(account):
    return account["received"] - account["sent"] - account["delivered"] - account["dropped"] - account["held"]
