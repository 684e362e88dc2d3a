"""Many streams at once, readers that hardly read, and somebody who types meanwhile."""

import random
import shutil
import subprocess
import sys
import threading
import time

import network as net
import stats
from checks import ROOT, Check, Fault, changed
from report import row

STREAMS = 200
TOTAL = 1_000_000_000
SHORT_TOTAL = 50_000_000
# A stream's window at the client (docs/spec/session.md, STREAM-2).
WINDOW = 4 << 20
SLOW_READERS = 8
# Buffers of the allocator and tables that grow once.
SLACK = 4 << 20
SSH_PORT = 7022


class Bulk(Check):
    def __init__(self):
        super().__init__("bulk", "200 streams at once are exact, slow readers cost their window, typing stays quick")

    def measure(self, network, options):
        total = SHORT_TOTAL if options.short else TOTAL
        sizes = random_sizes(total, STREAMS, random.Random(time.time_ns()))
        network.client_with(level="fast")
        where = [network.socks, net.ORIGIN_NAME, str(net.ORIGIN_PORT)]
        # The slow ones come first: what a gigabyte leaves with the allocator would hide what they cost.
        network.curl("/bytes/2000000", timeout=60)
        time.sleep(2)
        before = _memory(network)
        most, stopping = dict(before), threading.Event()

        def watch():
            while not stopping.wait(0.5):
                for name, held in _memory(network).items():
                    most[name] = max(most.get(name, 0), held)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            slow = network.tool("at_client.py", "slow", *where, str(SLOW_READERS), "10000", "20" if options.short else "60")
        finally:
            stopping.set()
            watcher.join()
        begun = time.monotonic()
        fetched = network.tool("at_client.py", "streams", *where, str(STREAMS), *map(str, sizes), timeout=3000)
        seconds = time.monotonic() - begun
        return {
            "sizes": sizes, "fetched": fetched, "seconds": seconds, "digests": digests(sizes), "before": before, "most": most, "slow": slow,
            "slow_seconds": 20 if options.short else 60,
        }

    def judge(self, evidence, options):
        came = [result for result in evidence["fetched"] if "error" not in result]
        exact = sum(1 for result in came if result["bytes"] == result["size"] and result["digest"] == evidence["digests"].get(str(result["size"])))
        total = sum(result["bytes"] for result in came)
        growth = {name: (evidence["most"][name] - held) for name, held in evidence["before"].items()}
        bound = (SLOW_READERS * WINDOW + SLACK) / 1e6
        errors = sorted({result["error"][:80] for result in evidence["fetched"] if "error" in result})
        rows = [
            row("bulk: streams at once", len(evidence["sizes"]), "streams", f"== {STREAMS}"),
            row("bulk: of these, with the right bytes", exact if not errors else f"{exact}; {errors[0]}", "streams", f"= {STREAMS}"),
            row("bulk: bytes in all", total, "bytes", f">= {SHORT_TOTAL if options.short else TOTAL}"),
            row("bulk: all together", total / evidence["seconds"] / 1e6, "MB/s"),
            row("bulk: different sizes", len(set(evidence["sizes"])), "sizes", ">= 150"),
        ]
        taken = [count for count in evidence["slow"] if isinstance(count, int)]
        due = 10_000 * evidence["slow_seconds"]
        rows.append(row("bulk: slow readers that got their 10 KB/s", sum(1 for count in taken if count >= 0.8 * due), "readers", f"== {SLOW_READERS}"))
        for name in sorted(growth):
            rows.append(row(f"bulk: memory that {SLOW_READERS} slow readers cost {name}", growth[name] / 1e6, "MB", f"<= {bound:.1f}"))
        rows.append(row("bulk: processes watched", len(growth), "processes", ">= 4"))
        return rows

    def sample(self):
        sizes = random_sizes(TOTAL, STREAMS, random.Random(3))
        return {
            "sizes": sizes,
            "fetched": [{"size": size, "bytes": size, "digest": "d", "seconds": 9.0, "gap": 0.2} for size in sizes],
            "seconds": 250.0, "digests": {str(size): "d" for size in sizes}, "before": {"client": 2e7, "exit31": 2e7, "exit32": 2e7, "exit33": 2e7},
            "most": {"client": 2.4e7, "exit31": 2.1e7, "exit32": 2e7, "exit33": 2.5e7}, "slow": [600_000] * SLOW_READERS, "slow_seconds": 60,
        }

    def faults(self, evidence):
        first, *rest = evidence["fetched"]
        yield Fault("one byte of one stream changed", changed(evidence, fetched=[{**first, "digest": "e"}, *rest]), "bulk: of these")
        yield Fault("one stream that ended too early", changed(evidence, fetched=[{**first, "bytes": first["bytes"] - 1}, *rest]), "bulk: of these")
        yield Fault("one stream that failed", changed(evidence, fetched=[{"error": "SocksError: reply code 1"}, *rest]), "bulk: of these")
        yield Fault("half of the streams", changed(evidence, sizes=evidence["sizes"][:100]), "bulk: streams")
        yield Fault("half of the bytes", changed(evidence, fetched=[{**r, "size": r["size"] // 2, "bytes": r["bytes"] // 2} for r in evidence["fetched"]]), "bulk: bytes")
        yield Fault("all of one size", changed(evidence, sizes=[5_000_000] * STREAMS), "bulk: different")
        yield Fault("a client that keeps what nobody reads", changed(evidence, most={**evidence["most"], "client": 2e8}), f"bulk: memory that {SLOW_READERS} slow readers cost client")
        yield Fault("an exit that keeps what nobody reads", changed(evidence, most={**evidence["most"], "exit32": 2e8}), f"bulk: memory that {SLOW_READERS} slow readers cost exit32")
        yield Fault("a slow reader that starved", changed(evidence, slow=[1000, *evidence["slow"][1:]]), "bulk: slow readers")


class Typing(Check):
    """An ssh session, by a real sshd behind the exit. In a network without namespaces: sshd wants users that a namespace
    without root does not have."""

    def __init__(self):
        super().__init__("typing", "an ssh session's echo during bulk takes at most half again as long", offline=True)

    def measure(self, network, options):
        done = subprocess.run([str(ROOT / "scripts/lib/have"), "sshd:openssh-server", "ssh:openssh-client", "ssh-keygen:openssh-client"], capture_output=True, text=True)
        if done.returncode:
            raise net.NetworkError(done.stderr.strip())
        network = net.Network("accept-typing", namespaces=False)
        count = 60 if options.short else 200
        try:
            network.up()
            network.client_with(level="balanced", step=2)
            with Sshd(network) as server:
                alone = server.echoes(count, 0.15)
                stopping, fetched = threading.Event(), []
                where = [network.socks, net.ORIGIN_NAME, str(net.ORIGIN_PORT)]

                def load():
                    while not stopping.is_set():
                        fetched.extend(network.tool("at_client.py", "streams", *where, "8", *["2000000"] * 8))

                loading = threading.Thread(target=load)
                loading.start()
                time.sleep(3)
                begun = time.monotonic()
                try:
                    amid = server.echoes(count, 0.15)
                finally:
                    seconds = time.monotonic() - begun
                    stopping.set()
                    loading.join()
        finally:
            network.down()
        return {"alone": alone, "amid": amid, "count": count, "seconds": seconds, "fetched": sum(result.get("bytes", 0) for result in fetched)}

    def judge(self, evidence, options):
        alone, amid = (stats.quantile(evidence[name], 0.95) for name in ("alone", "amid"))
        return [
            row("typing: echoes of the ssh session, alone", len(evidence["alone"]), "echoes", f">= {evidence['count']}"),
            row("typing: echoes of the ssh session, during bulk", len(evidence["amid"]), "echoes", f">= {evidence['count']}"),
            row("typing: bytes that came meanwhile", evidence["fetched"], "bytes", ">= 5000000"),
            row("typing: p95 of an echo, alone", alone * 1000, "ms"),
            row("typing: p95 of an echo, during bulk", amid * 1000, "ms"),
            row("typing: the one to the other", amid / alone, "", "<= 1.5"),
        ]

    def sample(self):
        rng = random.Random(4)
        times = lambda: [0.1 + rng.gammavariate(6, 0.02) for _ in range(200)]
        return {"alone": times(), "amid": times(), "count": 200, "seconds": 60.0, "fetched": 40_000_000}

    def faults(self, evidence):
        yield Fault("one echo in ten waits for the bulk", changed(evidence, amid=[t + (1.0 if n % 10 == 0 else 0) for n, t in enumerate(evidence["amid"])]), "typing: the one")
        yield Fault("a bulk that was none", changed(evidence, fetched=1000), "typing: bytes")
        yield Fault("the session broke", changed(evidence, amid=evidence["amid"][:50]), "typing: echoes of the ssh session, during")
        yield Fault("the session never was", changed(evidence, alone=[]), "typing: echoes of the ssh session, alone")


class Sshd:
    """An sshd with keys of its own on the origin's address, and a session to it through the client's port."""

    def __init__(self, network):
        self.network, self.folder, self.server, self.session = network, network.folder / "ssh", None, None

    def __enter__(self):
        self.folder.mkdir(exist_ok=True)
        for name in ("host", "user"):
            key = self.folder / name
            key.unlink(missing_ok=True)
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        (self.folder / "authorized").write_text((self.folder / "user.pub").read_text())
        address = self.network.hosts["origin"].address
        program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin:/bin")
        subprocess.run(["mkdir", "-p", "/run/sshd"], check=False, capture_output=True)
        options = {
            "HostKey": self.folder / "host", "AuthorizedKeysFile": self.folder / "authorized", "PidFile": "none", "StrictModes": "no", "UsePAM": "no",
            "ListenAddress": f"{address}:{SSH_PORT}", "PermitRootLogin": "prohibit-password", "PasswordAuthentication": "no",
        }
        words = [program, "-D", "-e", "-f", "/dev/null", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
        self.server = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(self.folder / "sshd.log", "w"))
        if not net.until(lambda: "Server listening" in (self.folder / "sshd.log").read_text(), 10):
            raise net.NetworkError(f"sshd does not start: {net.tail(self.folder / 'sshd.log')}")
        return self

    def __exit__(self, *_):
        if self.server is not None:
            net.stop(self.server)

    def echoes(self, count, every):
        """Times of single characters that `cat` gives back."""
        through = f"{sys.executable} -B {ROOT}/scripts/lib/at_client.py pipe {self.network.socks} {net.ORIGIN_NAME} {SSH_PORT}"
        words = ["ssh", "-F", "none", "-o", f"ProxyCommand={through}", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"]
        words += ["-o", "LogLevel=ERROR", "-o", "ConnectTimeout=60", "-i", str(self.folder / "user"), "typing.test", "stty", "-echo", "2>/dev/null;", "cat"]
        session = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(self.folder / "ssh.log", "w"), bufsize=0)
        times = []
        watchdog = threading.Timer(120 + 3 * count * every, session.kill)
        watchdog.start()
        try:
            for index in range(count + 3):
                begun = time.monotonic()
                session.stdin.write(b"x\n")
                answer = b""
                while not answer.endswith(b"\n"):
                    part = session.stdout.read(1)
                    if not part:
                        raise net.NetworkError(f"the ssh session ended: {net.tail(self.folder / 'ssh.log')}")
                    answer += part
                # The first ones wait for the session to be there.
                if index >= 3:
                    times.append(time.monotonic() - begun)
                time.sleep(every)
        finally:
            watchdog.cancel()
            session.stdin.close()
            net.stop(session)
        return times


def random_sizes(total, count, rng):
    """Sizes from a few bytes to many megabytes that sum up to the total."""
    weights = [rng.expovariate(1.0) ** 2 for _ in range(count)]
    sizes = [max(1, int(total * weight / sum(weights))) for weight in weights]
    sizes[-1] += max(0, total - sum(sizes))
    return sizes


def digests(sizes):
    """SHA-256 of what the origin serves, by size; its answers are beginnings of one sequence."""
    found = {}
    hasher = net.Content()
    for size in sorted(set(sizes)):
        found[str(size)] = hasher.digest_at(size)
    return found


def _memory(network):
    names = ["client", *(host.name for host in network.of("exit"))]
    return {name: net.memory(network.process(name), "VmRSS") for name in names if network.process(name)}


