"""Packets that are lost or late, by the relays' test-only fault feature.

A relay built with the cargo feature `faults` reads the variable MIZZLE_TEST_FAULTS: words as `drop=0.05` (the share of
packets that it takes on and loses) and `delay=10` (each drawn delay times ten), or `@FILE` with a file that holds such words
and is read again at least every 100 ms. A relay built without the feature knows nothing of it.
"""

import shutil
import subprocess
import threading
import time

import network as net
from checks import ROOT, Check, Fault, changed
from report import row

PROGRAMS = ("mizzle", "mizzle-directory", "mizzle-net")
SIZE, SHORT_SIZE = 40_000_000, 8_000_000


class Loss(Check):
    def __init__(self):
        super().__init__("loss", "5 % loss, a relay that is ten times as slow, SURBs all lost: the download goes on", offline=True)

    def measure(self, network, options):
        programs = _build()
        network = net.Network("accept-loss", namespaces=False, release=programs, environment={"MIZZLE_TEST_FAULTS": f"@{programs / 'none'}"})
        (programs / "none").write_text("")
        size = SHORT_SIZE if options.short else SIZE
        evidence = {"size": size, "wanted": net.content_digest(size), "runs": {}}
        try:
            network.up()
            network.client_with(level="balanced", step=2)
            layer = network.layers()[2]
            evidence["dropped"] = _with_faults(network, layer)
            for name, words in (("sound", {}), ("loss", {mix: "drop=0.05" for mix in layer}), ("slow", {layer[0]: "delay=10"})):
                for mix in layer:
                    _faults(network, mix).write_text(words.get(mix, ""))
                time.sleep(2)
                before = _drops(network, layer)
                evidence["runs"][name] = network.tool("at_client.py", "streams", *_where(network), "1", str(size), timeout=400)[0]
                evidence["runs"][name]["drops"] = _drops(network, layer) - before
            for mix in layer:
                _faults(network, mix).write_text("")
            evidence["surbs"] = _without_surbs(network, layer)
        finally:
            network.down()
        return evidence

    def judge(self, evidence, options):
        rows, rates = [], {}
        for name, run in evidence["runs"].items():
            right = run.get("digest") == evidence["wanted"]
            rates[name] = evidence["size"] / run["seconds"] / 1e6 if right else 0.0
            rows.append(row(f"loss: {name}, the bytes are right", "yes" if right else f"no, {run.get('error', 'a wrong hash')}", goal="= yes"))
            rows.append(row(f"loss: {name}, goodput", rates[name], "MB/s"))
        sound = rates.get("sound") or float("nan")
        for name, what in (("loss", "5 % loss"), ("slow", "a relay at ten times its delays")):
            run = evidence["runs"].get(name, {})
            rows.append(row(f"loss: goodput at {what}, to that without", rates.get(name, 0.0) / sound, "", ">= 0.7"))
            rows.append(row(f"loss: longest stall at {what}", run.get("gap", 1e9), "s", "<= 2"))
        # A fault that was not there proves nothing: about one packet in twenty of some thousands.
        rows.append(row("loss: packets that the faulty relays dropped", evidence["runs"].get("loss", {}).get("drops", 0), "packets", ">= 100"))
        rows.append(row("loss: SURBs all lost, silence was seen", evidence["surbs"]["silence"], "s", ">= 1"))
        rows.append(row("loss: SURBs all lost, back after", evidence["surbs"]["back"], "s", "<= 3"))
        rows.append(row("loss: SURBs all lost, the bytes are right", "yes" if evidence["surbs"]["right"] else "no", goal="= yes"))
        return rows

    def sample(self):
        run = lambda seconds, gap, drops: {"bytes": SIZE, "digest": "d", "seconds": seconds, "gap": gap, "drops": drops}
        return {
            "size": SIZE, "wanted": "d", "runs": {"sound": run(30.0, 0.2, 0), "loss": run(36.0, 0.6, 900), "slow": run(34.0, 0.5, 0)},
            "surbs": {"silence": 3.0, "back": 1.2, "right": True}, "dropped": True,
        }

    def faults(self, evidence):
        def with_run(name, **changes):
            return changed(evidence, runs={**evidence["runs"], name: {**evidence["runs"][name], **changes}})

        yield Fault("half of the goodput at loss", with_run("loss", seconds=60.0), "loss: goodput at 5 %")
        yield Fault("half of the goodput with a slow relay", with_run("slow", seconds=60.0), "loss: goodput at a relay")
        yield Fault("a stall of 3 s at loss", with_run("loss", gap=3.0), "loss: longest stall at 5 %")
        yield Fault("a stall of 3 s with a slow relay", with_run("slow", gap=3.0), "loss: longest stall at a relay")
        yield Fault("wrong bytes at loss", with_run("loss", digest="e"), "loss: loss, the bytes")
        yield Fault("relays that dropped nothing", with_run("loss", drops=0), "loss: packets that")
        yield Fault("back after 5 s", changed(evidence, surbs={**evidence["surbs"], "back": 5.0}), "loss: SURBs all lost, back")
        yield Fault("SURBs that were not lost", changed(evidence, surbs={**evidence["surbs"], "silence": 0.2}), "loss: SURBs all lost, silence")
        yield Fault("wrong bytes without SURBs", changed(evidence, surbs={**evidence["surbs"], "right": False}), "loss: SURBs all lost, the bytes")


def _build(names=PROGRAMS):
    """A folder of programs whose relay can be told to misbehave."""
    target = ROOT / "target/faults"
    words = ["cargo", "build", "--release", "--locked", "-p", "mizzle-relay", "--bin", "mizzle-relay", "--features", "mizzle-relay/faults"]
    done = subprocess.run([*words, "--target-dir", str(target)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise net.NetworkError(f"no relay with the feature `faults`: {done.stderr.strip()[-200:]}")
    programs = target / "programs"
    programs.mkdir(exist_ok=True)
    for name in names:
        shutil.copy2(net.RELEASE / name, programs / name)
    shutil.copy2(target / "release/mizzle-relay", programs / "mizzle-relay")
    return programs


def _faults(network, name):
    return network.folder / f"faults-{name}"


def _with_faults(network, names):
    """Starts these relays with a file each that tells them how to misbehave, and waits until they are used again."""
    for name in names:
        _faults(network, name).write_text("")
        network.kill(name, net.signal.SIGTERM)
        network.start(name, MIZZLE_TEST_FAULTS=f"@{_faults(network, name)}")
    wanted = [network.hosts[name].identity[:16] for name in names]
    lines = lambda: {line.split()[0]: line for line in network.directory_status().splitlines() if line.split()}
    return net.until(lambda: all("running" in lines().get(each, "") and "not running" not in lines().get(each, "") for each in wanted), 90, step=2)


def _drops(network, names):
    return int(sum(net.total(network.metrics(name), "mizzle_packets_dropped_total", reason="fault") for name in names))


def _without_surbs(network, layer):
    """All is lost on every way for three seconds, so that no SURB that an exit held brings anything home."""
    told, result, size = [], {}, SHORT_SIZE

    def fetch():
        import at_client

        try:
            result["got"] = at_client.fetch(network.socks, net.ORIGIN_NAME, net.ORIGIN_PORT, size, told)
        except Exception as error:
            result["error"] = str(error)

    fetching = threading.Thread(target=fetch)
    fetching.start()
    net.until(lambda: told and told[-1][1] > size // 8, 60, step=0.02)
    for name in layer:
        _faults(network, name).write_text("drop=1")
    time.sleep(3)
    for name in layer:
        _faults(network, name).write_text("")
    whole_again = time.monotonic()
    fetching.join()
    before = [moment for moment, _ in told if moment < whole_again + 0.1]
    after = [moment for moment, _ in told if moment >= whole_again + 0.1]
    if not before or not after:
        return {"silence": 0.0, "back": 1e9, "right": False}
    return {"silence": after[0] - before[-1], "back": after[0] - whole_again, "right": result.get("got", (0, ""))[1] == net.content_digest(size)}


def _where(network):
    return [network.socks, net.ORIGIN_NAME, str(net.ORIGIN_PORT)]
