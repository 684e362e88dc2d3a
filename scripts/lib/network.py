"""A local network of the real programs, as `mizzle-net` starts it: its hosts, its processes, ways to use and to
hurt it. Everything that is started here is stopped here."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Built programs; another folder may be named, for example that of a debug build.
RELEASE = Path(os.environ.get("MIZZLE_PROGRAMS", ROOT / "target/release"))
CAPTURE = ROOT / "scripts/lib/capture.py"
ORIGIN_NAME = "hello.test"
ORIGIN_PORT = 8080
LOCALHOST = "127.0.0.1"
PROGRAMS = {"authority": "mizzle-directory", "mix": "mizzle-relay", "entry": "mizzle-relay", "exit": "mizzle-relay", "client": "mizzle"}
# The client stays at the third step of `balanced`: its rates must not change under what is measured.
PINNED = {"MIZZLE_LEVEL": "balanced", "MIZZLE_STEP": "2"}


def build():
    """Brings the programs up to date, if they are this tree's own: what is judged must not be of yesterday."""
    packages = [word for name in ("directory", "relay", "daemon", "net") for word in ("-p", f"mizzle-{name}")]
    if RELEASE == ROOT / "target/release":
        subprocess.run(["cargo", "build", "--quiet", "--release", "--locked", *packages], cwd=ROOT, check=True)


class NetworkError(Exception):
    """The network could not be started, or does not do what was asked; the message says which part."""


class Host:
    """One host of the plan."""

    def __init__(self, plan):
        self.name, self.role, self.address = plan["name"], plan["role"], plan["address"]
        self.identity, self.metrics, self.folder = plan.get("identity"), plan.get("metrics"), Path(plan["dir"])
        self.config, self.log, self.output = self.folder / "config.toml", self.folder / "log", self.folder / "output"


class Network:
    """A running network. Use as a context: it is down when the context ends."""

    def __init__(self, name, slot=7, namespaces=True, release=RELEASE, environment=None):
        self.folder = ROOT / "target/net" / name
        self.slot, self.namespaces, self.release = slot, namespaces, Path(release)
        self.program = self.release / "mizzle-net"
        # Variables that all of its programs get, for example the level of their logs.
        self.environment = environment or {}
        self.hosts, self.children, self.boot_seconds = {}, [], None
        # The client's configuration as the launcher wrote it.
        self.client_config = None

    # -- the whole

    def __enter__(self):
        self.up()
        return self

    def __exit__(self, *_):
        self.down()

    def up(self):
        if not self.program.is_file():
            raise NetworkError(f"there is no {self.program.name}: build it by cargo build --release --workspace")
        self.down()
        # Another network may have the addresses of a slot; the next has others.
        for slot in range(self.slot, self.slot + 20):
            command = [self.program, "up", "--dir", self.folder, "--slot", str(slot)]
            started = time.monotonic()
            done = subprocess.run(
                [*map(str, command), *(["--namespaces"] if self.namespaces else [])],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, env={**os.environ, **self.environment},
            )
            self.boot_seconds = time.monotonic() - started
            if done.returncode == 0 or "cannot be listened on" not in done.stderr:
                break
        if done.returncode != 0:
            raise NetworkError(f"mizzle-net up failed: {done.stderr.strip()[-600:]}")
        plan = json.loads((self.folder / "network.json").read_text())
        self.hosts = {host["name"]: Host(host) for host in plan["hosts"]}
        self.socks = plan["socks"]
        self.seen_file = Path(plan["seen"])
        self.client_config = self.hosts["client"].config.read_text()

    def down(self):
        for child in self.children:
            stop(child)
        self.children.clear()
        if (self.folder / "network.json").exists():
            subprocess.run([str(self.program), "down", "--dir", str(self.folder)], capture_output=True, timeout=120)

    # -- hosts and processes

    def of(self, role):
        return [host for host in self.hosts.values() if host.role == role]

    @property
    def relays(self):
        return [host for host in self.hosts.values() if host.role in ("mix", "entry", "exit")]

    def at(self, host, *words):
        """A command as it must be typed to run at `host`."""
        words = [str(word) for word in words]
        name = host.name if isinstance(host, Host) else host
        return [str(self.program), "exec", "--dir", str(self.folder), name, "--", *words] if self.namespaces else words

    def run(self, host, *words, timeout=60, **options):
        return subprocess.run(
            self.at(host, *words), capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
            env=_without_proxies(), **options,
        )

    def spawn(self, host, *words, **options):
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options}
        child = subprocess.Popen(self.at(host, *words), stdin=subprocess.DEVNULL, env=_without_proxies(), **options)
        self.children.append(child)
        return child

    def process(self, name):
        """Id of a host's process; None when it does not run."""
        try:
            number = int((self.folder / "run" / f"{name}.pid").read_text().split()[0])
            state = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (OSError, IndexError, ValueError):
            return None
        return None if state in "ZX" else number

    def kill(self, name, how=signal.SIGKILL):
        """Ends a host's process and waits until it is gone."""
        number = self.process(name)
        if number is None:
            raise NetworkError(f"{name} does not run")
        os.kill(number, how)
        if not until(lambda: self.process(name) is None, 15):
            raise NetworkError(f"{name} does not end")

    def start(self, name, wait=60, **environment):
        """Starts a host's program again, on record so that `mizzle-net down` finds it; with variables of its own, if any
        are named. Returns seconds to ready."""
        host = self.hosts[name]
        verb = "up" if host.role == "client" else "run"
        words = [self.release / PROGRAMS[host.role], verb, "--config", host.config]
        record = self.folder / "run" / f"{name}.pid"
        record.unlink(missing_ok=True)
        prefix = [str(self.program), "recorded", str(record), "--"]
        begun = time.monotonic()
        with open(host.output, "w") as output, open(host.log, "a") as log:
            child = subprocess.Popen(
                prefix + self.at(host, *words), stdin=subprocess.DEVNULL, stdout=output, stderr=log,
                start_new_session=True, env={**_without_proxies(), **self.environment, **environment},
            )
        self.children.append(child)
        if not until(lambda: "ready" in host.output.read_text().split(), wait, step=0.02):
            raise NetworkError(f"{name} was not ready within {wait} s; its log ends: {tail(host.log)}")
        return time.monotonic() - begun

    def client_with(self, **settings):
        """The client with these settings beside those of the launcher, started again if it must be; None takes one away."""
        text = with_settings(self.client_config, settings)
        config = self.hosts["client"].config
        if config.read_text() == text and self.process("client") is not None:
            return
        if self.process("client") is not None:
            self.kill("client", signal.SIGTERM)
        config.write_text(text)
        self.start("client")

    def targets(self, *more):
        """Servers behind the exits (see targets.py), at the origin's address and at these; they run when this returns."""
        origin = self.hosts["origin"]
        output = self.folder / "targets.output"
        with open(output, "w") as file:
            child = self.spawn(origin, sys.executable, "-B", ROOT / "scripts/lib/targets.py", ",".join([origin.address, *more]), stdout=file, stderr=file)
        if not until(lambda: "ready" in output.read_text(), 10, step=0.05):
            raise NetworkError(f"the targets do not start: {tail(output)}")
        return child

    def tool(self, name, *words, host="client", timeout=600):
        """Runs one of this folder's programs at a host; what it prints, read as JSON."""
        done = self.run(host, sys.executable, "-B", ROOT / "scripts/lib" / name, *words, timeout=timeout)
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise NetworkError(f"{name} failed: {last_line(done.stderr)}") from None

    def second_client(self, port):
        """A client with nothing cached, on the client's host. Returns its folder, SOCKS address and process, which
        may not be ready yet."""
        first = self.hosts["client"]
        folder = self.folder / f"client-{port}"
        (folder / "state").mkdir(parents=True, exist_ok=True)
        text = first.config.read_text()
        text = re.sub(r'(?m)^state = .*$', f'state = "{folder / "state"}"', text)
        text = re.sub(r'(?m)^socks = .*$', f'socks = "{LOCALHOST}:{port}"', text)
        text = with_settings(text, {"page": "off"})
        (folder / "config.toml").write_text(text)
        child = self.spawn(
            first, self.release / "mizzle", "up", "--config", folder / "config.toml",
            stdout=open(folder / "output", "w"), stderr=open(folder / "log", "w"),
        )
        return folder, f"{LOCALHOST}:{port}", child

    # -- using it

    def curl(self, path, *options, socks=None, timeout=120, body=None):
        """Fetches a path of the origin through the mixnet. Returns what curl says of it, as a dictionary."""
        target = body or "/dev/null"
        form = '{"exit":%{exitcode},"code":%{http_code},"first":%{time_starttransfer},"total":%{time_total},"bytes":%{size_download}}'
        words = [
            "curl", "-sS", "--noproxy", "", "--socks5-hostname", socks or self.socks, "--max-time", str(timeout),
            "-o", str(target), "-w", form, *options, f"http://{ORIGIN_NAME}:{ORIGIN_PORT}{path}",
        ]
        done = self.run("client", *words, timeout=timeout + 15)
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            answer = {"exit": done.returncode, "code": 0, "first": None, "total": None, "bytes": 0}
        answer["error"] = done.stderr.strip()
        return answer

    def metrics(self, host):
        """The counters of one relay: {(name, labels): value}; None if it does not answer."""
        host = self.hosts[host] if isinstance(host, str) else host
        done = self.run(host, "curl", "-sS", "--noproxy", "*", "--max-time", "5", f"http://{host.metrics}/metrics")
        return parse_metrics(done.stdout) if done.returncode == 0 else None

    def directory_status(self):
        """What the authority says of each relay."""
        host = self.hosts["authority"]
        listen = f"{host.address}:7000"
        done = self.run(host, self.release / "mizzle-directory", "status", "--config", host.config)
        return done.stdout if done.returncode == 0 else f"{listen}: {done.stderr.strip()}"

    def layers(self):
        """Names of the mixes by layer, as the authority dealt them."""
        found = {}
        for line in self.directory_status().splitlines():
            words = line.split()
            if len(words) > 3 and words[1] == "mix" and words[2].isdigit():
                name = next((host.name for host in self.of("mix") if host.identity.startswith(words[0])), None)
                found.setdefault(int(words[2]), []).append(name)
        return {layer: sorted(names) for layer, names in sorted(found.items())}

    def client_status(self, config=None):
        """What `mizzle status` says: its exit code, and why there is no connection ("" if there is one)."""
        config = config or self.hosts["client"].config
        done = self.run("client", self.release / "mizzle", "status", "--config", config, "--json")
        try:
            status = json.loads(done.stdout)
            return done.returncode, "" if status["connected"] else status["reason"] or ""
        except (ValueError, KeyError):
            return done.returncode, done.stderr.strip()

    def client_counters(self, verb="status"):
        """All that the client counts, as it says on `status`, or of itself as its last word on `stop`."""
        done = self.run("client", self.release / "mizzle", verb, "--config", self.hosts["client"].config, "--json")
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise NetworkError(f"the client says nothing on {verb}: {done.stderr.strip()[-300:]}") from None

    def seen(self):
        """Which peers the origin has answered and refused."""
        return json.loads(self.seen_file.read_text())

    def connections(self, host):
        """Remote addresses (with ports) of the TCP connections at a host. Needs namespaces: one process a host."""
        done = self.run(host, "ss", "-tnH")
        return [line.split()[4] for line in done.stdout.splitlines() if len(line.split()) > 4]

    def entry_of_client(self):
        """The entry that the client is connected to, by its sockets."""
        addresses = {remote.rsplit(":", 1)[0] for remote in self.connections("client")}
        for host in self.of("entry"):
            if host.address in addresses:
                return host
        return None

    def capture(self, host, path, source=None, front=None):
        """A capture at a host, of all packets or of those from an address, whole or the first `front` bytes of each; it
        runs when this returns."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        note = open(path.with_suffix(".log"), "w")
        words = [sys.executable, CAPTURE, "eth0" if self.namespaces else "lo", path, *(["--source", source] if source else []), *(["--front", str(front)] if front else [])]
        child = self.spawn(host, *words, stdout=note, stderr=note)
        if not until(lambda: "listening" in path.with_suffix(".log").read_text(), 10, step=0.02):
            raise NetworkError(f"the capture does not start: {tail(path.with_suffix('.log'))}")
        return child

    def finish_capture(self, child, path):
        """Stops a capture. Raises if the kernel dropped packets: a hole would be mistaken for a finding."""
        time.sleep(0.5)
        stop(child, signal.SIGINT)
        text = Path(path).with_suffix(".log").read_text()
        dropped = re.search(r"(\d+) dropped by the kernel", text)
        if dropped is None or int(dropped.group(1)) > 0:
            raise NetworkError(f"the capture is not whole: {text.strip()[-200:]}")


# ------------------------------------------------------------------------------------------------ helpers


def end_in_order():
    """Lets SIGTERM end this program as Ctrl-C does: what was started is stopped on the way out."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def _without_proxies():
    """The person's own proxies must not interfere."""
    return {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}


def stop(child, how=signal.SIGTERM, grace=8):
    """Ends a process that we started, and waits for it."""
    if child.poll() is None:
        child.send_signal(how)
        try:
            child.wait(grace)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def until(condition, seconds, step=0.1):
    """Waits for a condition; True if it came."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return True
        except OSError:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(step)


def with_settings(text, settings):
    """A configuration with these keys at its top level; None takes a key away."""
    for key in settings:
        text = re.sub(rf"(?m)^{re.escape(key)}\s*=.*\n?", "", text)
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in settings.items() if value is not None]
    return "".join(lines) + text


def last_line(text):
    return (text.strip().splitlines() or ["it said nothing"])[-1][-300:]


def tail(path, size=400):
    try:
        return Path(path).read_text(errors="replace").strip()[-size:]
    except OSError:
        return ""


def parse_metrics(text):
    """Prometheus text as {(name, ((label, value), ...)): number}."""
    found = {}
    for line in text.splitlines():
        match = re.match(r'([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ([-+.\deEinfNa]+)$', line)
        if match and not line.startswith("#"):
            labels = tuple(sorted(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match.group(2) or "")))
            found[(match.group(1), labels)] = float(match.group(3))
    return found


def total(metrics, name, **labels):
    """Sum of a counter over the labels that are not named; a missing counter counts zero."""
    return sum(
        value for (found, found_labels), value in (metrics or {}).items()
        if found == name and all(dict(found_labels).get(label) == wanted for label, wanted in labels.items())
    )


class Content:
    """What the origin serves, a scrambled counter (SplitMix64), hashed as far as it is asked for."""

    def __init__(self):
        self.out, self.hashed, self.rest = hashlib.sha256(), 0, b""

    def digest_at(self, size):
        """SHA-256 of the first `size` bytes; each size at least that of the call before."""
        while self.hashed + len(self.rest) < size:
            self.out.update(self.rest)
            self.hashed += len(self.rest)
            self.rest = _scrambled(self.hashed // 8, min(8192, (size - self.hashed + 7) // 8))
        whole = self.out.copy()
        whole.update(self.rest[: size - self.hashed])
        return whole.hexdigest()


def _scrambled(first, count):
    mask, part = (1 << 64) - 1, bytearray()
    for counter in range(first + 1, first + 1 + count):
        z = (counter * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        part += (z ^ (z >> 31)).to_bytes(8, "little")
    return bytes(part)


def content_digest(size):
    """SHA-256 of the first `size` bytes of what the origin serves."""
    return Content().digest_at(size)


def file_digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def memory(number, field="VmHWM"):
    """A process's memory in bytes: VmHWM is the most that it ever held, VmRSS what it holds now."""
    try:
        for line in Path(f"/proc/{number}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def cpu_seconds(number):
    """Processor seconds that a process has used, user and system."""
    fields = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
