"""A Debian machine of its own on this one: namespaces, a root folder made by debootstrap, and its own systemd as
process 1. What people do on a real machine (install a package, start units, read the journal) is done here as they do it.

Needs root, debootstrap and a cgroup2 file system. It has a network of its own with nothing but loopback.
"""

import os
import shutil
import signal
import subprocess
import time
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Made once, then copied for every machine.
BASE = ROOT / "target/machine/base"
# What the control groups of this tree's machines are called, before the number of the process that made them.
GROUP = f"mizzle-machine-{zlib.crc32(str(ROOT).encode()):08x}"
PACKAGES = "systemd,systemd-sysv,dbus,curl,prometheus"
NEEDS = ["debootstrap:debootstrap", "unshare:util-linux", "nsenter:util-linux", "ip:iproute2", "umoci:umoci"]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What process 1 needs before it is process 1. Argument: the root folder.
BOOT = r"""
set -e
root=$1
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
for place in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs "$root/$place"; done
chmod 1777 "$root/tmp"
for node in null zero full random urandom tty; do touch "$root/dev/$node"; mount --bind "/dev/$node" "$root/dev/$node"; done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
ip link set lo up
hostname machine
cd "$root"
pivot_root . mnt
umount -l /mnt
exec env -i container=mizzle-machine PATH="$2" /lib/systemd/systemd --system --unit=multi-user.target --show-status=0
"""


class MachineError(Exception):
    """The machine cannot be made here, or does not come up; the message says why."""


def need(*programs):
    """Sees that programs are there ("program:debian-package"), installs them where that can be done without asking."""
    done = subprocess.run([ROOT / "scripts/lib/have", *programs], capture_output=True, text=True, timeout=900)
    if done.returncode != 0:
        raise MachineError(done.stderr.strip()[-300:])


def base():
    """The root folder that machines are copied from; made if it is not there."""
    complete = BASE.with_name("base.packages")
    if complete.is_file() and complete.read_text() == PACKAGES:
        return BASE
    shutil.rmtree(BASE, ignore_errors=True)
    BASE.parent.mkdir(parents=True, exist_ok=True)
    # From where this machine has its own packages.
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"], capture_output=True, text=True
    ).stdout.split()
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", release["VERSION_CODENAME"], str(BASE), *targets[:1]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode != 0:
        raise MachineError(f"debootstrap failed: {done.stdout.strip()[-300:]} {done.stderr.strip()[-300:]}")
    for folder in ("sys", "proc", "dev", "run", "tmp", "mnt"):
        (BASE / folder).mkdir(exist_ok=True)
    complete.write_text(PACKAGES)
    return BASE


def copy(folder):
    """A root folder of one's own."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", "--reflink=auto", str(base()), str(folder)], check=True)
    return folder


class Machine:
    """A machine that has booted. Use as a context: it is gone when the context ends, its root folder stays."""

    def __init__(self, folder):
        self.root, self.log = Path(folder) / "root", Path(folder) / "console"
        self.child = self.first = None
        self.networks = []

    def __enter__(self):
        if os.geteuid() != 0:
            raise MachineError("a machine can only be made by root: run this as root")
        need(*NEEDS)
        copy(self.root)
        self.group = _cgroup2() / f"{GROUP}-{os.getpid()}"
        self.group.mkdir(exist_ok=True)
        command = ["unshare", "-m", "-p", "-f", "-n", "-C", "-u", "-i", "--kill-child", "bash", "-c", BOOT, "boot", str(self.root), PATH]
        join = f"echo $$ > {self.group}/cgroup.procs && exec \"$@\""
        self.child = subprocess.Popen(
            ["bash", "-c", join, "join", *command], stdin=subprocess.DEVNULL, stdout=open(self.log, "w"), stderr=subprocess.STDOUT
        )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for program, folder in self.networks:
            subprocess.run([str(program), "down", "--dir", str(folder)], capture_output=True, timeout=60)
        if self.child is not None:
            # The end of process 1 is the end of all in there.
            if self.first is not None and self.child.poll() is None:
                os.kill(self.first, signal.SIGKILL)
            else:
                self.child.kill()
            self.child.wait()
        for _ in range(50):
            try:
                for part in sorted(self.group.rglob("*/"), reverse=True):
                    part.rmdir()
                self.group.rmdir()
                return
            except OSError:
                time.sleep(0.1)

    def _wait(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.child.poll() is not None:
                raise MachineError(f"the machine does not boot: {self.log.read_text(errors='replace').strip()[-400:]}")
            children = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text().split()
            if children and Path(f"/proc/{children[0]}/comm").read_text().strip() == "systemd":
                self.first = int(children[0])
                if self.run("systemctl is-system-running").stdout.strip() in ("running", "degraded"):
                    return
            time.sleep(0.2)
        raise MachineError("the machine does not boot within 60 s")

    def run(self, script, timeout=120, folder="/srv"):
        """Runs a shell script as root in there; its error output is part of its output."""
        return subprocess.run(
            ["nsenter", "-t", str(self.first), "-m", "-p", "-n", "-C", "-u", "-i", "-r", "-w", "env", "-i", f"PATH={PATH}", "HOME=/srv",
             "LC_ALL=C", "SYSTEMD_PAGER=", "bash", "-c", f"cd {folder} && set -euo pipefail\n{script}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
        )

    def beside(self, *words):
        """A command on this machine's files, but in the network of that one."""
        return ["nsenter", "-t", str(self.first), "-n", *map(str, words)]

    def network(self, folder, release):
        """Starts a local network of the real programs in this machine's network; it ends with the machine at the latest."""
        self.networks.append((release / "mizzle-net", folder))
        done = subprocess.run(
            self.beside(release / "mizzle-net", "up", "--dir", folder), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
        )
        if done.returncode != 0:
            raise MachineError(f"mizzle-net up failed: {done.stderr.strip()[-400:]}")

    def address(self, *addresses):
        """Gives the machine addresses, on its loopback."""
        for address in addresses:
            subprocess.run(self.beside("ip", "address", "add", f"{address}/32", "dev", "lo"), check=True)

    def put(self, source, place):
        """Copies a file into it; not below /run or /tmp, which are in its memory."""
        target = self.root / place.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
        target.chmod(0o644)

    def main_process(self, unit):
        """The process of a unit as this machine numbers it; None if it has none."""
        inside = self.run(f"systemctl show -P MainPID {unit}").stdout.strip()
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            except OSError:
                continue
            numbers = lines.get("NSpid", "").split()
            if len(numbers) > 1 and numbers[-1] == inside and self._holds(status.parent):
                return int(status.parent.name)
        return None

    def _holds(self, process):
        try:
            return os.readlink(process / "ns/pid") == os.readlink(f"/proc/{self.first}/ns/pid")
        except OSError:
            return False


def _cgroup2():
    for line in Path("/proc/self/mounts").read_text().splitlines():
        fields = line.split()
        if fields[2] == "cgroup2":
            return Path(fields[1])
    raise MachineError("there is no cgroup2 file system here, which systemd needs")
