#!/usr/bin/env python3
"""UDP ASSOCIATE from the ground up, with what must be dropped beside what must come.

    udp_client.py PORT NAME IPV4 WAIT

Prints JSON. After its own datagrams it keeps a second association open for WAIT seconds and tells what came in that nobody
of it asked for.
"""

import json
import socket
import sys
import time

import socks
import targets

# The last is the largest that a packet holds.
SIZES = (1, 100, 512, 1200, 1365)
ROUNDS = 4


def associate(port):
    """The stream that keeps an association, and a socket that talks to it."""
    link = socks.dial(port, 60)
    reply = socks.ask(link, socks.request("0.0.0.0", 0, socks.ASSOCIATE))
    host, number = socks.reply_address(reply)
    local = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    local.bind(("127.0.0.1", 0))
    local.settimeout(5)
    return link, local, (host, number)


def echoed(local, relay, host, body):
    """Whether the target gave it back; the source that it came from. A lost datagram is sent once more."""
    for _ in range(2):
        local.sendto(socks.datagram(host, targets.UDP_ECHO, body), relay)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                data, source = local.recvfrom(65536)
            except TimeoutError:
                break
            if source == relay:
                host_, port, got = socks.open_datagram(data)
                if got == body:
                    return f"{host_}:{port}"
    return None


def quiet(local, seconds):
    """What comes within these seconds."""
    local.settimeout(seconds)
    found = []
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        local.settimeout(left)
        try:
            found.append(socks.open_datagram(local.recvfrom(65536)[0])[2][:60].decode(errors="replace"))
        except TimeoutError:
            break
    return found


def main(port, name, ipv4, wait):
    pause = min(3.0, float(wait))
    told = {"sent": 0, "echoed": 0, "sources": [], "errors": []}
    link, local, relay = associate(port)
    told["bound"] = relay[0]
    for number in range(ROUNDS):
        for size in SIZES:
            body = bytes([65 + number]) * size
            source = echoed(local, relay, name if number % 2 else ipv4, body)
            told["sent"] += 1
            told["echoed"] += source is not None
            if source and source not in told["sources"]:
                told["sources"].append(source)
    # A fragment: nobody puts it together, so it is dropped.
    local.sendto(socks.datagram(ipv4, targets.UDP_ECHO, b"a fragment", fragment=1), relay)
    # No packet of the network holds this one.
    local.sendto(socks.datagram(ipv4, targets.UDP_ECHO, b"too large " * 300), relay)
    # Another program's socket: the association is not its own.
    stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stranger.bind(("127.0.0.1", 0))
    stranger.sendto(socks.datagram(ipv4, targets.UDP_ECHO, b"a stranger's"), relay)
    # What is no datagram of this protocol.
    for junk in (b"", b"\0", b"\0\0\0", b"\0\0\0\x09abc", b"\0\0\0\x03\xffshort", b"\0\0\0\x01\x7f"):
        local.sendto(junk, relay)
    told["unasked"] = quiet(local, pause) + quiet(stranger, 0.2)
    told["after_junk"] = echoed(local, relay, ipv4, b"after junk") is not None
    # The association lives as long as its stream.
    link.close()
    time.sleep(min(1.0, pause))
    local.sendto(socks.datagram(ipv4, targets.UDP_ECHO, b"after the end"), relay)
    told["after_end"] = quiet(local, pause)
    second, local, relay = associate(port)
    told["marked"] = echoed(local, relay, ipv4, b"marked") is not None
    told["from_strangers"] = quiet(local, float(wait))
    second.close()
    print(json.dumps(told))


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
