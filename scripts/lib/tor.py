"""A private network of C Tor on this machine's loopback: an authority, relays, exits and a client, three hops."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import network as net

ROOT = Path(__file__).resolve().parents[2]
FIRST_PORT = 19_500
BOOT = 150
# What each runs as: three hops need a guard, a middle and an exit that differ.
MEMBERS = ["authority", "relay1", "relay2", "relay3", "relay4", "exit1", "exit2", "client"]

COMMON = """
TestingTorNetwork 1
DataDirectory {folder}
PidFile {folder}/pid
Log notice file {folder}/log
RunAsDaemon 0
SafeLogging 0
ProtocolWarnings 1
Nickname {name}
Address 127.0.0.1
ShutdownWaitLength 0
DisableDebuggerAttachment 0
PathsNeededToBuildCircuits 0.25
{authority}
"""
RELAY = """
SocksPort 0
ORPort 127.0.0.1:{orport}
DirPort 127.0.0.1:{dirport}
AssumeReachable 1
ExtendAllowPrivateAddresses 1
ExitRelay {exit}
{policy}
ExitPolicyRejectPrivate 0
BandwidthRate 1 GBytes
BandwidthBurst 1 GBytes
NumCPUs 1
ContactInfo none
"""
AUTHORITY = """
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
V3AuthVotingInterval 20
V3AuthVoteDelay 2
V3AuthDistDelay 2
V3AuthNIntervalsValid 6
TestingV3AuthInitialVotingInterval 5
TestingV3AuthInitialVoteDelay 2
TestingV3AuthInitialDistDelay 2
TestingDirAuthVoteExit *
TestingDirAuthVoteGuard *
TestingDirAuthVoteHSDir *
TestingMinExitFlagThreshold 0
TestingAuthDirTimeToLearnReachability 0
AssumeReachable 1
"""
CLIENT = """
ORPort 0
SocksPort 127.0.0.1:{socks}
ClientUseIPv6 0
UseEntryGuards 1
"""


# Debian keeps it where only root looks.
PLACES = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class TorError(Exception):
    """The peer's network could not be started; the message says why."""


class TorNetwork:
    """Use as a context: it is down when the context ends."""

    def __init__(self, folder):
        self.folder, self.children, self.socks = Path(folder), {}, f"127.0.0.1:{FIRST_PORT + 99}"
        self.version = self.boot_seconds = None

    def __enter__(self):
        done = subprocess.run([str(ROOT / "scripts/lib/have"), "tor:tor", "tor-gencert:tor"], capture_output=True, text=True)
        if done.returncode:
            raise TorError(done.stderr.strip())
        told = subprocess.run([_tor(), "--version"], capture_output=True, text=True)
        version = re.search(r"version ([\d.]+\d)", told.stdout)
        if version is None:
            raise TorError(f"tor --version: {(told.stdout + told.stderr).strip()[-200:]}")
        self.version = version.group(1)
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for child in self.children.values():
            net.stop(child)
        self.children.clear()

    @property
    def client(self):
        return self.children["client"].pid

    @property
    def relays(self):
        return [child.pid for name, child in self.children.items() if name != "client"]

    def _start(self):
        begun = time.monotonic()
        for name in MEMBERS:
            (self.folder / name / "keys").mkdir(parents=True, mode=0o700)
            os.chmod(self.folder / name, 0o700)
        keys, ports = self.folder / "authority/keys", _ports("authority")
        done = subprocess.run(
            ["tor-gencert", "--create-identity-key", "-m", "12", "-a", f"127.0.0.1:{ports[1]}", "--passphrase-fd", "0"],
            cwd=keys, input="\n", capture_output=True, text=True,
        )
        certificate = keys / "authority_certificate"
        if done.returncode or not certificate.exists():
            raise TorError(f"tor-gencert: {done.stderr.strip()[-200:]}")
        v3 = re.search(r"fingerprint ([0-9A-F]{40})", certificate.read_text()).group(1)
        # Its fingerprint is known once it has keys; a network needs an authority in its configuration for that.
        self._write("authority", f"DirAuthority authority orport={ports[0]} no-v2 v3ident={v3} 127.0.0.1:{ports[1]} " + "F" * 40)
        told = subprocess.run([_tor(), "--list-fingerprint", "--quiet", "-f", str(self.folder / "authority/torrc")], capture_output=True, text=True)
        fingerprint = "".join(told.stdout.split()[1:])
        if not re.fullmatch(r"[0-9A-F]{40}", fingerprint):
            raise TorError(f"tor --list-fingerprint: {(told.stdout + told.stderr).strip()[-200:]}")
        line = f"DirAuthority authority orport={ports[0]} no-v2 v3ident={v3} 127.0.0.1:{ports[1]} {fingerprint}"
        for name in MEMBERS:
            self._write(name, line)
            self.children[name] = subprocess.Popen(
                [_tor(), "-f", str(self.folder / name / "torrc")], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        log = self.folder / "client/log"
        if not net.until(lambda: "Bootstrapped 100%" in log.read_text(), BOOT, step=0.5):
            raise TorError(f"the client is not ready within {BOOT} s: {net.tail(log, 200)}")
        self.boot_seconds = time.monotonic() - begun

    def _write(self, name, authority):
        orport, dirport = _ports(name)
        leaves = name.startswith("exit")
        text = COMMON.format(folder=self.folder / name, name=name, authority=authority)
        if name == "client":
            text += CLIENT.format(socks=self.socks.rsplit(":", 1)[1])
        else:
            text += RELAY.format(orport=orport, dirport=dirport, exit=int(leaves), policy="ExitPolicy accept *:*" if leaves else "ExitPolicy reject *:*")
        (self.folder / name / "torrc").write_text(text + (AUTHORITY if name == "authority" else ""))


def _tor():
    return shutil.which("tor", path=PLACES) or "tor"


def _ports(name):
    at = FIRST_PORT + 2 * MEMBERS.index(name)
    return at, at + 1
