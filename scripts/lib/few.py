"""An authority and a few relays of the real programs, configured by hand: for checks that need no whole network, and relays
of their own making. Everything that is started here is stopped here."""

import os
import subprocess

import network as net


class Few:
    """Use as a context: all ends when the context does."""

    def __init__(self, folder, programs=None):
        self.folder, self.programs, self.children = folder, programs or net.RELEASE, []

    def __enter__(self):
        subprocess.run(["rm", "-rf", self.folder], check=True)
        self.folder.mkdir(parents=True)
        try:
            self.prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        while self.children:
            net.stop(self.children.pop())

    def prepare(self):
        """What comes before all that is done within the context."""

    def directory(self, address, more, at=()):
        """Founds a network and starts its authority."""
        (self.folder / "directory.toml").write_text(f'network = "few"\nlisten = "{address}:7000"\nstate = "directory"\napprove_all = true\n{more}\n')
        made = self.run("mizzle-directory", "init", "directory", check=True).stdout
        (self.folder / "network.toml").write_text('name = "few"\nthreshold = 1\n' + made.split("\n\n", 1)[1])
        self.start("mizzle-directory", "directory", at)

    def relay(self, name, more, at=(), **environment):
        """Starts a relay with this configuration; it sends no loops."""
        text = f'network = "network.toml"\nstate = "{name}"\nruntime = "{name}-runtime"\nreplay_on_disk = true\nreplay_memory = "64 MB"\nloops = 0\n{more}\n'
        (self.folder / f"{name}.toml").write_text(text)
        self.start("mizzle-relay", name, at, **environment)

    def start(self, program, name, at=(), **environment):
        """Starts a daemon, and waits until it is ready."""
        output = self.folder / f"{name}.output"
        with open(output, "w") as out, open(self.folder / f"{name}.log", "w") as log:
            command = [*at, str(self.programs / program), "run", "--config", f"{name}.toml"]
            child = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=log, env={**os.environ, **environment})
            self.children.append(child)
        if not net.until(lambda: "ready" in output.read_text().split(), 30):
            raise net.NetworkError(f"{program} is not ready: {net.tail(self.folder / f'{name}.log')}")

    def run(self, program, verb, name, at=(), check=False):
        """A command of a program with the configuration of this name."""
        command = [*at, str(self.programs / program), verb, "--config", f"{name}.toml"]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=check, timeout=60)

    def hold(self, words):
        """Starts a process that becomes `sleep`, and waits until it has."""
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.children.append(child)
        inside = lambda: child.poll() is not None or open(f"/proc/{child.pid}/comm").read().strip() == "sleep"
        if not net.until(inside, 10, step=0.02) or child.poll() is not None:
            raise net.NetworkError("no network namespace: is unshare -rn permitted here?")
        return child
