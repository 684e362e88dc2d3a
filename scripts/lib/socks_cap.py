#!/usr/bin/env python3
"""Tries the port's bound on connections: takes all places, asks for 20 more, gives them back, and is served again.

    socks_cap.py PORT NAME IPV4 IPV6 WEB PLACES
"""

import json
import sys
import time

import socks
import targets


def closed(link):
    """Whether the port has closed this connection by now."""
    link.settimeout(0.05)
    try:
        return link.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def main(port, name, _ipv4, _ipv6, _web, places):
    links = []
    for _ in range(int(places) + 20):
        links.append(socks.dial(port, 5))
        time.sleep(0.01)
    time.sleep(1)
    gone = [closed(link) for link in links]
    told = {"kept": gone[: int(places)].count(False), "closed": gone[int(places) :].count(True), "again": ""}
    for link in links:
        link.close()
    time.sleep(1)
    try:
        socks.connect(port, name, targets.ECHO).close()
    except Exception as error:
        told["again"] = f"no, {type(error).__name__}: {error}"
    print(json.dumps(told))


if __name__ == "__main__":
    if len(sys.argv) != 7:
        sys.exit(__doc__)
    main(*sys.argv[1:])
