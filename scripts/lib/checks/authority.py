"""The authority stops: clients go on until the documents end, then refuse and say why."""

import time

import network as net
from checks import Check, Fault, changed
from report import row

EPOCH = 20


class Authority(Check):
    def __init__(self):
        super().__init__("authority", "without the authority all works until the documents end, then clients refuse", destructive=True)

    def measure(self, network, options):
        network.kill("authority", net.signal.SIGTERM)
        stopped = time.monotonic()
        running = network.curl("/bytes/200000", timeout=60)
        folder, socks, child = network.second_client(9350)
        fresh_ready = net.until(lambda: "ready" in (folder / "output").read_text().split(), 40)
        fresh = network.curl("/bytes/200000", socks=socks, timeout=60)
        works_until, refused_at = time.monotonic() - stopped, None
        # A document says itself when it ends: at most three epochs after the last, which may be one epoch old.
        while time.monotonic() - stopped < 9 * EPOCH:
            answer = network.curl("/1k", timeout=30)
            if answer["exit"] == 0:
                works_until = time.monotonic() - stopped
            elif refused_at is None:
                refused_at = time.monotonic() - stopped
            if refused_at is not None and time.monotonic() - stopped > refused_at + 5:
                break
            time.sleep(1)
        after = [network.curl("/1k", timeout=30)["exit"], network.curl("/1k", socks=socks, timeout=30)["exit"]]
        code, text = network.client_status()
        fresh_code, fresh_text = network.client_status(folder / "config.toml")
        # One that starts only now must refuse, too, and say why instead of hanging.
        late_folder, late_socks, late = network.second_client(9351)
        net.until(lambda: late.poll() is not None, 15)
        late_ready = "ready" in (late_folder / "output").read_text().split()
        late_curl = network.curl("/1k", socks=late_socks, timeout=30)["exit"]
        net.stop(late)
        net.stop(child)
        return {
            "running": running["exit"], "fresh_ready": fresh_ready, "fresh": fresh["exit"], "works_until": works_until,
            "refused_at": refused_at, "after": after, "status": [text, fresh_text], "codes": [code, fresh_code],
            "late_ready": late_ready, "late_curl": late_curl,
        }

    def judge(self, evidence, options):
        reasons = [text for text in evidence["status"] if _says_why(text)]
        return [
            row("authority: stopped, the running client fetches", evidence["running"], "curl's exit code", "== 0"),
            row("authority: stopped, a fresh client becomes ready and fetches", evidence["fresh"] if evidence["fresh_ready"] else "not ready", "curl's exit code", "== 0"),
            row("authority: works for", evidence["works_until"], "s", f">= {EPOCH}"),
            row("authority: refuses after", evidence["refused_at"] if evidence["refused_at"] is not None else "never", "s", f"<= {7 * EPOCH}"),
            row("authority: afterwards both clients refuse by a SOCKS error", sum(1 for code in evidence["after"] if code == 97), "clients", "== 2"),
            row("authority: mizzle status of both says that the documents ended", len(reasons), "clients", "== 2"),
            row("authority: a client started afterwards is not ready", "ready" if evidence["late_ready"] else "not ready", goal="= not ready"),
            row("authority: and carries nothing", "fetched" if evidence["late_curl"] == 0 else "nothing", goal="= nothing"),
        ]

    def sample(self):
        text = "no network: the consensus has ended; waiting for a newer one"
        return {
            "running": 0, "fresh_ready": True, "fresh": 0, "works_until": 55.0, "refused_at": 62.0, "after": [97, 97],
            "status": [text, text], "codes": [1, 1], "late_ready": False, "late_curl": 97,
        }

    def faults(self, evidence):
        yield Fault("the running client stops at once", changed(evidence, running=97), "authority: stopped, the running")
        yield Fault("a fresh client asks the authority", changed(evidence, fresh_ready=False), "authority: stopped, a fresh")
        yield Fault("documents that never end", changed(evidence, refused_at=None), "authority: refuses")
        yield Fault("it works for one second", changed(evidence, works_until=1.0), "authority: works")
        yield Fault("the fresh client goes on", changed(evidence, after=[97, 0]), "authority: afterwards")
        yield Fault("a status without the reason", changed(evidence, status=["not ready", "not ready"]), "authority: mizzle status")
        yield Fault("a late client that says ready", changed(evidence, late_ready=True), "authority: a client started")


def _says_why(text):
    text = text.lower()
    return ("consensus" in text or "document" in text) and any(
        word in text for word in ("ended", "expired", "too old", "out of date", "no longer valid", "has run out", "ran out")
    )
