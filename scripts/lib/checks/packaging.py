"""The packages: made twice to the same bytes, installed on a Debian machine with its own systemd, run there; the image
unpacked and run."""

import hashlib
import json
import re
import signal
import subprocess
import time

import network as net
from checks import ROOT, Check, Fault, changed
from machine import Machine, need
from report import row

FOLDER = ROOT / "target/accept/relay"
UNITS = ["mizzle-relay", "mizzle-relay@two"]
# What `systemd-analyze security` may find at most: 0 is no exposure, 10 is all.
EXPOSURE = 1.5
CONFIGS = {
    "mizzle-relay": ("/etc/mizzle/relay.toml", "192.0.2.7:7000", "/var/lib/mizzle-relay", "127.0.0.1:7100"),
    "mizzle-relay@two": ("/etc/mizzle/relay-two.toml", "192.0.2.8:7000", "/var/lib/mizzle-relay-two", "127.0.0.1:7101"),
}


def config(listen, state, metrics):
    return f'network = "network.toml"\nlisten = "{listen}"\nrole = "mix"\nstate = "{state}"\nmetrics = "{metrics}"\nexact_metrics = true\n'


def package(out, *words):
    """Makes the packages of the binary that the checks use, in `out`. Returns their paths by suffix."""
    command = [ROOT / "scripts/package", *words, "--binary", net.RELEASE / "mizzle-relay", "--out", out]
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise net.NetworkError(f"scripts/package failed: {done.stderr.strip()[-400:]}")
    return {path.rsplit(".", 1)[1]: ROOT / path for path in done.stdout.split()}


class Packaging(Check):
    def __init__(self):
        super().__init__("packaging", "packages: the same bytes twice, hardened units under a real systemd, an image that runs", offline=True)

    def measure(self, network, options):
        need("dpkg-deb:dpkg", "umoci:umoci")
        first, second = package(FOLDER / "packages"), package(FOLDER / "packages-again")
        evidence = {
            "same": {kind: _digest(first[kind]) == _digest(second[kind]) for kind in first},
            "contents": _contents(first["deb"]), "alike": _alike(),
        }
        newer = package(FOLDER / "packages", "deb", "--revision", "2")["deb"]
        with Machine(FOLDER / "machine") as machine:
            machine.address("192.0.2.7", "192.0.2.8", "192.0.2.9")
            network_folder = ROOT / "target/net/packaging"
            machine.network(network_folder, net.RELEASE)
            for path in (first["deb"], newer):
                machine.put(path, f"/srv/{path.name}")
            machine.put(network_folder / "network.toml", "/srv/network.toml")
            evidence |= self._units(machine, first["deb"], newer)
            evidence["image"] = self._image(machine, first["tar"], network_folder / "network.toml")
        return evidence

    def _units(self, machine, deb, newer):
        found = {"install": _sound(machine.run(f"apt-get install -y ./{deb.name}"))}
        found["silent"] = machine.run("systemctl is-active mizzle-relay").stdout.strip()
        machine.run("install -m 644 network.toml /etc/mizzle/network.toml")
        for path, *rest in CONFIGS.values():
            (machine.root / path.lstrip("/")).write_text(config(*rest))
            machine.run(f"mizzle-relay init --config {path}")
        found["verify"] = machine.run("systemd-analyze verify mizzle-relay.service mizzle-relay@two.service 2>&1").stdout.strip()
        found["exposure"] = {unit: _exposure(machine, unit) for unit in ("mizzle-relay.service", "mizzle-relay@.service")}
        for unit in UNITS:
            machine.run(f"systemctl start {unit}")
        found["listed"] = {unit: net.until(lambda: _listed(machine, unit), 90, step=1) for unit in UNITS}
        found["process"] = {unit: _process(machine, unit) for unit in UNITS}
        net.until(lambda: _tags(machine) > 0, 60, step=1)
        # Keys and tags must outlive whatever happens to the process.
        found["kept"], keys, tags = {}, _keys(machine), _tags(machine)
        for what, command in [
            ("restart", "systemctl restart mizzle-relay"),
            ("stop and start", "systemctl stop mizzle-relay; sleep 1; systemctl start mizzle-relay"),
            ("kill -9", "kill -KILL $(systemctl show -P MainPID mizzle-relay); sleep 6"),
            ("reload", "systemctl reload mizzle-relay; sleep 7"),
            ("update", f"apt-get install -y ./{newer.name}"),
        ]:
            done = machine.run(command)
            back = net.until(lambda: _tags(machine) >= tags, 20, step=0.5)
            active = machine.run("systemctl is-active mizzle-relay").stdout.strip() == "active"
            same = bool(keys) and _keys(machine).items() >= keys.items()
            found["kept"][what] = "yes" if back and active and same else f"tags {back}, keys {same}, active {active}: {done.stdout[-100:]}"
        found["tags"] = tags
        found["version"] = machine.run("dpkg-query -W -f '${Version}' mizzle-relay").stdout.strip().rpartition("-")[2]
        begun = time.monotonic()
        machine.run("systemctl stop mizzle-relay")
        found["stop_seconds"] = time.monotonic() - begun
        found["stop_result"] = machine.run("systemctl show -P Result mizzle-relay").stdout.strip()
        found["left"] = machine.run("find /run/mizzle-relay/ -type f | wc -l").stdout.strip()
        found["clean"] = _sound(machine.run("systemctl clean --what=runtime mizzle-relay && ! ls -d /run/mizzle-relay 2>/dev/null"))
        found["purge"] = _sound(machine.run("apt-get purge -y mizzle-relay && ! pgrep mizzle-relay && ! ls -d /run/private/mizzle-relay* 2>/dev/null"))
        found["identities"] = machine.run("find /var/lib/private -name identity | wc -l").stdout.strip()
        return found

    def _image(self, machine, archive, network_file):
        """Unpacks the image and runs it as its configuration says, in the network of the machine."""
        layout, bundle = FOLDER / "image", FOLDER / "bundle"
        subprocess.run(["rm", "-rf", str(layout), str(bundle)], check=True)
        layout.mkdir(parents=True)
        subprocess.run(["tar", "-xf", str(archive), "-C", str(layout)], check=True)
        tag = json.loads((layout / "index.json").read_text())["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"]
        subprocess.run(["umoci", "unpack", "--image", f"{layout}:{tag}", str(bundle)], check=True, capture_output=True)
        process = json.loads((bundle / "config.json").read_text())["process"]
        root, user = bundle / "rootfs", process["user"]
        (root / "etc/mizzle/relay.toml").write_text(config("192.0.2.9:7000", "/var/lib/mizzle-relay", "127.0.0.1:7109"))
        (root / "etc/mizzle/network.toml").write_bytes(network_file.read_bytes())
        mounts = f"mount -t proc proc {root}/proc && mount -t tmpfs -o mode=700,uid={user['uid']},gid={user['gid']} tmpfs {root}/run/mizzle-relay"
        into = ["env", "-i", *process["env"], "/usr/sbin/chroot", f"--userspec={user['uid']}:{user['gid']}", str(root)]
        begin = ["unshare", "-m", "-p", "-f", "--kill-child", "bash", "-c", f'{mounts} && exec "$@"', "begin", *into, *process["args"]]
        output = FOLDER / "image.output"
        child = subprocess.Popen(machine.beside(*begin), stdin=subprocess.DEVNULL, stdout=open(output, "w"), stderr=subprocess.STDOUT)
        try:
            ready = net.until(lambda: "ready" in output.read_text().split(), 15)
            status = lambda: subprocess.run(machine.beside(*into, process["args"][0], "status"), capture_output=True, text=True, timeout=30).stdout
            listed = ready and net.until(lambda: "listed     yes" in status(), 90, step=1)
            owner, end = None, "it was not running"
            # The relay is process 1 of its own namespace, as in a container.
            relay = (open(f"/proc/{child.pid}/task/{child.pid}/children").read().split() if child.poll() is None else []) or [None]
            if relay[0]:
                owner = int(re.search(r"Uid:\s+(\d+)", open(f"/proc/{relay[0]}/status").read()).group(1))
                subprocess.run(["kill", "-TERM", relay[0]], check=True)
                try:
                    end = child.wait(10)
                except subprocess.TimeoutExpired:
                    end = "does not end"
        finally:
            net.stop(child, signal.SIGKILL)
        files = sum(1 for path in root.rglob("*") if path.is_file() and "doc" not in path.parts)
        return {"ready": ready, "listed": listed, "owner": owner, "end": end, "files": files, "log": output.read_text()[-200:]}

    def judge(self, evidence, options):
        image, process = evidence["image"], evidence["process"]
        free = [unit for unit, seen in process.items() if seen.get("CapEff") != 0 or seen.get("CapBnd") != 0]
        loose = [unit for unit, seen in process.items() if seen.get("NoNewPrivs") != 1 or seen.get("Seccomp") != 2]
        users = {seen.get("Uid") for seen in process.values()}
        rows = [row(f"packaging: made twice, the {kind} is the same", _yes(same), goal="= yes") for kind, same in evidence["same"].items()]
        rows += [
            row("packaging: what the package lacks or should not have", ", ".join(evidence["contents"]) or "nothing", goal="= nothing"),
            row("packaging: the units differ in names only", _yes(evidence["alike"]), goal="= yes"),
            row("packaging: installs on Debian", evidence["install"], goal="= yes"),
            row("packaging: and starts nothing by itself", evidence["silent"], goal="= inactive"),
            row("packaging: systemd-analyze verify finds", evidence["verify"][:120] or "nothing", goal="= nothing"),
        ]
        rows += [row(f"packaging: exposure of {unit}", value, "of 10", f"<= {EXPOSURE}") for unit, value in evidence["exposure"].items()]
        rows += [row(f"packaging: {unit} runs and is listed", _yes(listed), goal="= yes") for unit, listed in evidence["listed"].items()]
        rows += [
            row("packaging: units whose process has a capability", ", ".join(free) or "none", goal="= none"),
            row("packaging: units whose process may gain privileges or make any system call", ", ".join(loose) or "none", goal="= none"),
            row("packaging: users of two relays, neither of them root", len(users - {0, None}), "users", "== 2"),
            row("packaging: replay tags before the process was ended", evidence["tags"], "tags", ">= 1"),
        ]
        rows += [row(f"packaging: keys and tags survive: {what}", kept, goal="= yes") for what, kept in evidence["kept"].items()]
        rows += [
            row("packaging: revision after the update", evidence["version"], goal="= 2"),
            row("packaging: a stop takes", evidence["stop_seconds"], "s", "<= 15"),
            row("packaging: and is a success", evidence["stop_result"], goal="= success"),
            row("packaging: files with keys and tags kept over a stop", float(evidence["left"]), "files", ">= 2"),
            row("packaging: systemctl clean removes them", evidence["clean"], goal="= yes"),
            row("packaging: purge ends the relays and removes their keys", evidence["purge"], goal="= yes"),
            row("packaging: identities left by purge", float(evidence["identities"]), "identities", "== 2"),
            row("packaging: the image starts", _yes(image["ready"]) if image["ready"] else image["log"], goal="= yes"),
            row("packaging: and is listed", _yes(image["listed"]), goal="= yes"),
            row("packaging: its user", image["owner"], "", "> 0"),
            row("packaging: its exit code after SIGTERM", image["end"], "", "== 0"),
            row("packaging: files in it, licences aside", image["files"], "files", "<= 16"),
        ]
        return rows

    def sample(self):
        bound = {"CapEff": 0, "CapBnd": 0, "NoNewPrivs": 1, "Seccomp": 2}
        return {
            "same": {"deb": True, "tar": True}, "contents": [], "alike": True, "install": "yes", "silent": "inactive", "verify": "",
            "exposure": {"mizzle-relay.service": 1.1, "mizzle-relay@.service": 1.1}, "listed": {unit: True for unit in UNITS},
            "process": {unit: {**bound, "Uid": 61_000 + number} for number, unit in enumerate(UNITS)}, "tags": 80,
            "kept": {what: "yes" for what in ("restart", "stop and start", "kill -9", "reload", "update")}, "version": "2",
            "stop_seconds": 0.4, "stop_result": "success", "left": "5", "clean": "yes", "purge": "yes", "identities": "2",
            "image": {"ready": True, "listed": True, "owner": 65532, "end": 0, "files": 10, "log": ""},
        }

    def faults(self, evidence):
        image, process, first = evidence["image"], evidence["process"], UNITS[0]
        with_process = lambda **other: changed(evidence, process={**process, first: {**process[first], **other}})
        yield Fault("a time of making inside the package", changed(evidence, same={"deb": False, "tar": True}), "packaging: made twice, the deb")
        yield Fault("a file that is missing", changed(evidence, contents=["no usr/bin/mizzle-relay"]), "packaging: what the package")
        yield Fault("a setting in one unit only", changed(evidence, alike=False), "packaging: the units differ")
        yield Fault("an unknown setting in a unit", changed(evidence, verify="Unknown key name"), "packaging: systemd-analyze verify")
        yield Fault("a unit without a filter of system calls", changed(evidence, exposure={"mizzle-relay.service": 2.3}), "packaging: exposure")
        yield Fault("a process with a capability", with_process(CapEff=1 << 10), "packaging: units whose process has")
        yield Fault("a process without a filter", with_process(Seccomp=0), "packaging: units whose process may")
        yield Fault("two relays with one user", with_process(Uid=61_001), "packaging: users")
        yield Fault("a relay that runs as root", with_process(Uid=0), "packaging: users")
        yield Fault("a folder in memory that ends with the process", changed(evidence, kept={"restart": "tags False, keys False"}), "packaging: keys and tags survive")
        yield Fault("a relay that must be killed", changed(evidence, stop_result="timeout", stop_seconds=30.2), "packaging: and is a success")
        yield Fault("a purge that removes identities", changed(evidence, identities="0"), "packaging: identities")
        yield Fault("an image without a library", changed(evidence, image={**image, "ready": False, "log": "not found"}), "packaging: the image starts")
        yield Fault("an image that runs as root", changed(evidence, image={**image, "owner": 0}), "packaging: its user")


def _yes(value):
    return "yes" if value else "no"


def _sound(done):
    return "yes" if done.returncode == 0 else f"no: {done.stdout.strip()[-150:]}"


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _contents(deb):
    """What is wrong with the files of the package."""
    wrong, names = [], set()
    for line in subprocess.run(["dpkg-deb", "-c", str(deb)], capture_output=True, text=True, check=True).stdout.splitlines():
        mode, owner, _, _, _, name = line.split(None, 5)
        names.add(name.removeprefix("./"))
        if owner != "root/root" or mode[5] == "w" or mode[8] == "w":
            wrong.append(f"{name} is {mode} {owner}")
    units = [f"usr/lib/systemd/system/mizzle-relay{at}.service" for at in ("", "@")]
    documents = [f"usr/share/doc/mizzle-relay/{name}" for name in ("copyright", "LICENSE-MIT", "LICENSE-APACHE", "third-party-licences.gz", "operators.md")]
    wanted = ["usr/bin/mizzle-relay", "etc/mizzle/relay.toml", "usr/share/man/man1/mizzle-relay.1.gz", *units, *documents]
    wrong += [f"no {name}" for name in wanted if name not in names]
    files = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], capture_output=True, check=True).stdout
    # Such as a slow processor and a forgetful one: debug builds have them.
    wrong += ["a hook for tests in the program"] if b"MIZZLE_TEST_" in files else []
    conffiles = subprocess.run(["dpkg-deb", "-I", str(deb), "conffiles"], capture_output=True, text=True).stdout.split()
    return wrong + ([] if conffiles == ["/etc/mizzle/relay.toml"] else ["the configuration is no conffile"])


def _alike():
    """True if the two units have the same settings but for their names."""
    folder = ROOT / "relay/packaging/systemd"
    settings = lambda text: [line for line in text.splitlines() if line and not line.startswith("#")]
    single = settings((folder / "mizzle-relay.service").read_text())
    template = settings(re.sub(r"-%i| %i", "", (folder / "mizzle-relay@.service").read_text()))
    return single == template


def _exposure(machine, unit):
    text = machine.run(f"systemd-analyze security --offline=yes --no-pager {unit}").stdout
    found = re.search(r"exposure level for \S+: ([\d.]+)", text)
    return float(found.group(1)) if found else text.strip()[-100:]


def _listed(machine, unit):
    return "listed     yes" in machine.run(f"mizzle-relay status --config {CONFIGS[unit][0]}").stdout


def _process(machine, unit):
    number = machine.main_process(unit)
    if number is None:
        return {}
    lines = dict(line.split(":", 1) for line in open(f"/proc/{number}/status").read().splitlines())
    bits = {key: int(lines[key].strip(), 16) for key in ("CapEff", "CapBnd")}
    return {**bits, **{key: int(lines[key].split()[0]) for key in ("NoNewPrivs", "Seccomp", "Uid")}}


def _tags(machine):
    text = machine.run("curl -s http://127.0.0.1:7100/metrics").stdout
    return net.total(net.parse_metrics(text), "mizzle_replay_tags")


def _keys(machine):
    """Digests of the keys in memory, by file."""
    lines = machine.run("sha256sum /run/mizzle-relay/*/keys-*").stdout.splitlines()
    return {line.split()[1]: line.split()[0] for line in lines if len(line.split()) == 2 and "keys-" in line}
