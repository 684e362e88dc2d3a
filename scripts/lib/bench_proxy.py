"""`scripts/bench proxy`: the client as a proxy for a person's programs, beside C Tor in the same run."""

import json
import subprocess
import sys
import time

import network as net
import report
import stats
import tor
from report import row

WHAT = """A whole network (one authority, nine mixes, three entries, three exits), the client, the web server and the programs that
fetch share the machine, over its loopback; three mixing delays of 20 ms mean each way. C Tor beside it, in the same run: one
authority, four relays, two exits and a client, three hops, no delays, no cover, the same web server and the same programs.
Processor times are those of the processes (user and system), beside which wall-clock figures depend on what else the machine
does. `First byte` is that of a 1-KB page whose request has gone out behind the SOCKS request, without waiting."""

# Packets a second, out and home, of the rows that are measured (DESIGN: levels), and the steps' numbers.
AT_320, AT_20 = {"level": "balanced", "step": 2}, {"level": "balanced", "step": 0}
FAST = {"level": "fast"}
PAYLOAD = 4096
MEAN_DELAY, DELAYS = 0.020, 6
# A client's processor time for a downloaded megabyte in the first version that was measured: 3.96 s for 10 MB, as docs/figures.md
# had it at commit 41da690.
FIRST_VERSION = 0.396
SLOTS_BEYOND = 1.25


def measure(short):
    rows, peer = [], {}
    network = net.Network("bench-proxy", namespaces=False)
    try:
        network.up()
        print("-- C Tor", flush=True)
        try:
            peer = of_tor(network, short)
            rows += peer.pop("rows")
        except (tor.TorError, net.NetworkError) as error:
            rows.append(report.skipped("C Tor", str(error)[:200]))
        for what, part in (
            ("balanced at 320 packets/s", lambda: at_320(network, short, peer)),
            ("fast", lambda: fast(network, short, peer)),
            ("idle at 20 packets/s", lambda: idle(network, short)),
        ):
            print(f"-- {what}", flush=True)
            try:
                rows += part()
            except net.NetworkError as error:
                rows.append(report.skipped(what, str(error)[-160:]))
    except net.NetworkError as error:
        rows.append(report.skipped("the rest", str(error)))
    finally:
        network.down()
    return rows


def at_320(network, short, peer):
    network.client_with(**AT_320)
    port, size = network.socks, 5_000_000 if short else 20_000_000
    settle(port)
    rows = first_bytes(network, port, 20 if short else 100, peer)
    rows += downloads(network, port, "balanced at 320/s", size, 1 if short else 3, ">= 1.1", peer, [network.process("client")], relays(network))
    # A download as a newcomer has it: the session is new.
    network.client_with(**AT_320, connections=511)
    settle_only_connected(network)
    rows.append(row("balanced at 320/s: half of the final speed after", ramp(fetch(port, size)[0]), "s", "<= 1.5"))
    rows += sharing(port, size // 2)
    rows += upload(network, port, 2_000_000 if short else 20_000_000)
    return rows


def fast(network, short, peer):
    network.client_with(**FAST)
    settle(network.socks)
    size = 10_000_000 if short else 60_000_000
    return downloads(network, network.socks, "fast", size, 1 if short else 3, ">= 4", peer, [network.process("client")], relays(network))


def idle(network, short):
    network.client_with(**AT_20)
    settle(network.socks)
    time.sleep(3)
    seconds, client = 15 if short else 60, network.process("client")
    before, counters = net.cpu_seconds(client), network.client_counters()
    time.sleep(seconds)
    after = network.client_counters()
    packets = (after["cells_in"] + after["cells_out"] - counters["cells_in"] - counters["cells_out"]) / seconds
    return [
        row("idle at 20/s: processor share of the client", 100 * (net.cpu_seconds(client) - before) / seconds, "% of a core", "<= 3"),
        row("idle at 20/s: cells a second, both ways", packets, "/s", "<= 60"),
        row("memory of a client at rest, the most since its start", net.memory(client) / 1e6, "MB", "<= 40"),
    ]


def first_bytes(network, port, count, peer):
    status = network.client_counters()
    up, entry = status["up"]["cells_per_second"], status["down"]["cells_per_second"]
    # One trip out and home: the client's slot, the exit's, the entry's, and six drawn delays, at their median.
    waits = 1 / up + SLOTS_BEYOND / entry + 1 / entry
    bound = 1000 * (erlang_median(DELAYS, MEAN_DELAY) + waits + 0.060)
    times = say("first", port, str(count))
    right = [1000 * t for t in times if isinstance(t, float)]
    return [
        row(f"balanced at 320/s: first byte, p50 of {count}", stats.median(right), "ms", f"<= {bound:.0f}", peer.get("first")),
        row("balanced at 320/s: first byte, p95", stats.quantile(right, 0.95), "ms"),
        row("balanced at 320/s: of the bound, slots' mean waits", 1000 * waits, "ms"),
        row("balanced at 320/s: pages that did not come", count - len(right), f"of {count}", "<= 0"),
    ]


def downloads(network, port, name, size, count, goal, peer, clients, others):
    """One download after the other: speed, processor time of the client and of all relays."""
    rates, cpu_client, cpu_others, exact, walls = [], [], [], 0, []
    wanted = net.content_digest(size)
    for _ in range(count):
        before = sum(map(net.cpu_seconds, clients)), sum(map(net.cpu_seconds, others))
        begun = time.monotonic()
        result = fetch(port, size)[0]
        walls.append(time.monotonic() - begun)
        exact += result.get("digest") == wanted
        if "curve" in result:
            rates.append(size / (result["curve"][-1][0] - result["begun"]) / 1e6)
        cpu_client.append((sum(map(net.cpu_seconds, clients)) - before[0]) / (size / 1e6))
        cpu_others.append((sum(map(net.cpu_seconds, others)) - before[1]) / (size / 1e6))
    halved, first = (f"<= {FIRST_VERSION / 2}", f" (the first version on another day: {FIRST_VERSION})") if peer is not None else ("", "")
    return [
        row(f"{name}: one download of {size // 10**6} MB, median of {count}", stats.median(rates), "MB/s", goal, (peer or {}).get("rate")),
        row(f"{name}: downloads that were exact", exact, f"of {count}", f"== {count}"),
        row(f"{name}: wall-clock time of one", stats.median(walls), "s"),
        row(f"{name}: client's processor time for a downloaded MB{first}", stats.median(cpu_client), "s", halved, (peer or {}).get("cpu_client")),
        row(f"{name}: relays' processor time for a downloaded MB", stats.median(cpu_others), "s", "", (peer or {}).get("cpu_relays")),
    ]


def sharing(port, size):
    results = fetch(port, size, 4)
    if any("error" in result for result in results):
        return [report.skipped("balanced at 320/s: four downloads share", next(r["error"] for r in results if "error" in r))]
    return [row("balanced at 320/s: four downloads, the most unlike its fair share", 100 * share_error([r["curve"] for r in results]), "%", "<= 20")]


def upload(network, port, size):
    """The slots are those that came while it ran: their number is a matter of chance, by two in a hundred."""
    before, begun = network.client_counters()["cells_out"], time.monotonic()
    result = say("upload", port, str(size))
    slots = (network.client_counters()["cells_out"] - before) / (time.monotonic() - begun)
    reached = size / result["seconds"] if result["right"] else 0.0
    return [
        row("balanced at 320/s: one upload", reached / 1e6, "MB/s"),
        row("balanced at 320/s: slots a second meanwhile", slots, "/s"),
        row("balanced at 320/s: the upload, to its slots' rate × payload", reached / (slots * PAYLOAD), "", ">= 0.9"),
    ]


def of_tor(network, short):
    """The peer's figures, by the same web server and programs; rows of its own, and what the others compare with."""
    with tor.TorNetwork(report.ROOT / "target/net/tor") as peer:
        # The web server answers exits only: one of its own for the peer.
        address = f"127.90.{network.slot}.9"
        origin = subprocess.Popen(
            [str(network.program), "origin", "--listen", f"{address}:{net.ORIGIN_PORT}", "--allow", "127.0.0.1"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            global HOST
            name, host = f"C Tor {peer.version}", HOST
            HOST = address
            try:
                rows = [row(f"{name}: from its start to the first circuit", peer.boot_seconds, "s")]
                # Its first consensus has no exits yet; the client asks for the next when it likes.
                settle(peer.socks, 240)
                count = 20 if short else 100
                times = [1000 * t for t in say("first", peer.socks, str(count)) if isinstance(t, float)]
                rows.append(row(f"{name}: first byte, p50 of {count}", stats.median(times), "ms"))
                size = 20_000_000 if short else 100_000_000
                found = downloads(network, peer.socks, name, size, 1 if short else 3, "", None, [peer.client], peer.relays)
                rows += found
                rows.append(row(f"{name}: memory of the client", net.memory(peer.client) / 1e6, "MB"))
                values = {"rate": found[0].value, "cpu_client": found[3].value, "cpu_relays": found[4].value, "first": stats.median(times)}
            finally:
                HOST = host
        finally:
            net.stop(origin)
    return {"rows": rows, **values}


# ------------------------------------------------------------------------------------------------ helpers

HOST = net.ORIGIN_NAME


def say(verb, port, *words):
    """What at_client.py says of one of its verbs."""
    words = [sys.executable, "-B", str(report.ROOT / "scripts/lib/at_client.py"), verb, port, HOST, str(net.ORIGIN_PORT), *words]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, stdin=subprocess.DEVNULL)
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise net.NetworkError(f"at_client.py {verb}: {done.stderr.strip()[-200:]}") from None


def fetch(port, size, count=1):
    return say("curve", port, str(size), str(count))


def settle(port, seconds=60):
    """Until a page comes: sessions are open, consensus and keys are there."""
    if not net.until(lambda: isinstance(say("first", port, "1")[0], float), seconds, step=0.5):
        raise net.NetworkError(f"no page comes within {seconds} s")


def settle_only_connected(network):
    net.until(lambda: network.client_status()[0] == 0, 30)


def relays(network):
    return [network.process(host.name) for host in network.relays]


def erlang_median(shape, mean):
    """Median of the sum of so many exponential times."""
    law, low, high = stats.erlang(shape, mean), 0.0, 10 * shape * mean
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if law(middle) < 0.5 else (low, middle)
    return low


def at(curve, moment):
    """Bytes that were there at a moment."""
    return max((count for when, count in curve if when <= moment), default=0)


def ramp(result):
    """Seconds from the start until half a second brought half of what the last half brings."""
    if "curve" not in result:
        return float("nan")
    curve, begun = result["curve"], result["begun"]
    end, total = curve[-1]
    middle = next(when for when, count in curve if count >= total / 2)
    final = (total - at(curve, middle)) / (end - middle)
    moment = begun
    while moment < end:
        moment += 0.05
        if (at(curve, moment) - at(curve, moment - 0.5)) / 0.5 >= final / 2:
            return moment - begun
    return float("nan")


def share_error(curves):
    """The largest relative distance of one's bytes to the mean, over the time in which all were under way."""
    begin = max(next(when for when, count in curve if count > 0) for curve in curves)
    end = min(curve[-1][0] for curve in curves)
    shares = [at(curve, end) - at(curve, begin) for curve in curves]
    mean = sum(shares) / len(shares)
    return max(abs(share - mean) for share in shares) / mean if mean > 0 else float("inf")
