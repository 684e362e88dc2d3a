#!/usr/bin/env python3
"""A program that ignores proxies and tries every way out that it knows. Prints JSON: what of each became.

    escape.py ORIGIN RELAY NAME
"""

import json
import socket
import struct
import sys


def stream(host, port):
    socket.create_connection((host, port), 4).close()


def datagram(host, port, family=socket.AF_INET):
    """Went only if an answer came, or nothing said that it cannot: the capture tells the rest."""
    with socket.socket(family, socket.SOCK_DGRAM) as link:
        link.settimeout(2)
        link.connect((host, port))
        link.send(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x05hello\x04test\0\0\x01\0\x01")
        link.recv(512)


def echo_request(host):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as link:
        link.settimeout(2)
        body = struct.pack(">BBHHH", 8, 0, 0, 1, 1)
        total = sum(struct.unpack(">4H", body))
        link.sendto(struct.pack(">BBHHH", 8, 0, ~(total + (total >> 16)) & 0xFFFF, 1, 1), (host, 0))
        link.recv(100)


def raw_frame():
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        for _, device in socket.if_nameindex():
            if device != "lo":
                link.bind((device, 0x0800))
                link.send(b"\xff" * 12 + b"\x08\x00" + bytes(46))
                return
        raise OSError("no device but loopback")


def main(origin, relay, name):
    ways = {
        "a stream to the origin": lambda: stream(origin, 8080),
        "a stream to a relay": lambda: stream(relay, 7000),
        "a stream by a name of its own resolver": lambda: stream(name, 8080),
        "DNS by UDP": lambda: datagram(origin, 53),
        "a datagram to the origin": lambda: datagram(origin, 7014),
        "IPv6": lambda: datagram("fd00:90::1", 7014, socket.AF_INET6),
        "ping": lambda: echo_request(origin),
        "a raw frame": raw_frame,
    }
    told = {}
    for way, function in ways.items():
        try:
            function()
            told[way] = "went"
        except Exception as error:
            told[way] = f"{type(error).__name__}: {error}"
    print(json.dumps(told))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
