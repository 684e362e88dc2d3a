#!/usr/bin/env python3
"""What a port for applications must get right, case by case, in raw bytes.

    socks_cases.py PORT NAME IPV4 IPV6 WEB [CASE...]

PORT is the client's; NAME, IPV4 and IPV6 lead to the host of targets.py, WEB is its web server's port. Prints one JSON list.
"""

import hashlib
import json
import struct
import sys
import threading
import time

import socks
import targets
from socks_talk import BYTEWISE, TOGETHER, Talk, Wrong, run

PATIENCE = 40
# A target that never answers: an exit waits for it as long as it likes, but not for ever.
LONG = 150
HELLO = b"hello, are you there?"


def cases(where):
    """All cases: (name, function of a Talk, seconds without a byte that are too many)."""
    found = []
    for group in (greetings, connects, bad_requests, failures, other_commands, version4, http, ends):
        for name, function, *patience in group(where):
            found.append((name, function, patience[0] if patience else PATIENCE))
    return found


class Where:
    """Where the targets are."""

    def __init__(self, port, name, ipv4, ipv6, web):
        self.port, self.name, self.ipv4, self.ipv6, self.web = port, name, ipv4, ipv6, int(web)


def opened(talk, request, data=HELLO):
    """A request with data behind it that has not waited: success, then the data back, then both ends."""
    talk.send(socks.GREETING, request, data).expect(b"\x05\x00")
    talk.reply(socks.SUCCEEDED)
    talk.expect(data)
    talk.end()
    talk.orderly()


def greetings(where):
    target = socks.request(where.name, targets.ECHO)

    def chosen(methods):
        def case(talk):
            talk.send(bytes([5, len(methods)]), methods)
            method = talk.take(2)
            if method == b"\x05\x02" and 2 in methods:
                talk.send(socks.credentials(b"user", b"password")).expect(b"\x01\x00")
            elif method != b"\x05\x00" or 0 not in methods:
                raise Wrong(f"method {method.hex()} of {methods[:8].hex()}")
            talk.send(target)
            talk.reply(socks.SUCCEEDED)
        return case

    def refused(methods):
        return lambda talk: talk.send(bytes([5, len(methods)]), methods).expect(b"\x05\xff").closed()

    def accepted(user, password):
        def case(talk):
            talk.send(b"\x05\x01\x02", socks.credentials(user, password), target, HELLO)
            talk.expect(b"\x05\x02").expect(b"\x01\x00").reply(socks.SUCCEEDED)
            talk.expect(HELLO)
        return case

    def wrong_version(talk):
        talk.send(b"\x05\x01\x02", b"\x05\x04user\x04pass").expect(b"\x05\x02")
        answer = talk.take(2)
        if answer[0] != 1 or answer[1] == 0:
            raise Wrong(f"{answer.hex()} to credentials of a wrong version")
        talk.closed()

    def too_slow(begun):
        def case(talk):
            talk.link.settimeout(30)
            talk.send(begun)
            start = time.monotonic()
            while talk.more():
                pass
            seconds = time.monotonic() - start
            if not 4 <= seconds <= 20:
                raise Wrong(f"closed after {seconds:.1f} s, about 10 are due")
        return case

    yield "greeting: 0 methods", refused(b"")
    yield "greeting: 255 methods", chosen(bytes(range(255)))
    yield "greeting: none that is acceptable", refused(b"\x01")
    yield "greeting: 254 methods, none acceptable", refused(bytes([1]) + bytes(range(3, 256)))
    yield "greeting: no-auth, then password", chosen(b"\x00\x02")
    yield "greeting: password, then no-auth", chosen(b"\x02\x00")
    yield "greeting: GSSAPI, then no-auth", chosen(b"\x01\x00")
    yield "password: any", accepted(b"user", b"password")
    yield "password: empty fields", accepted(b"", b"")
    yield "password: fields of 255 bytes that are no text", accepted(b"\xff" * 255, bytes(range(255)))
    yield "password: wrong version", wrong_version
    yield "time-out: not a byte", too_slow(b"")
    yield "time-out: half a greeting", too_slow(b"\x05\x02\x00")
    yield "time-out: a greeting, no request", too_slow(socks.GREETING)
    yield "time-out: half a request", too_slow(socks.GREETING + b"\x05\x01\x00\x03\x0ahel")
    yield "time-out: half of an HTTP head", too_slow(b"GET http://x.test/ HTTP/1.1\r\nHost: x")


def connects(where):
    to = lambda host: lambda talk: opened(talk, socks.request(host, targets.ECHO))
    yield "connect: to IPv4", to(where.ipv4)
    yield "connect: to IPv6", to(where.ipv6)
    yield "connect: to a name", to(where.name)
    yield "connect: to a name in capitals", to(socks.name(where.name.upper()))
    yield "connect: to a name with a trailing dot", to(socks.name(where.name + "."))
    yield "connect: to an IPv4 address in a name", to(socks.name(where.ipv4))
    yield "connect: to an IPv6 address in a name", to(socks.name(where.ipv6))

    def step_by_step(talk):
        talk.send(socks.GREETING).expect(b"\x05\x00")
        talk.send(socks.request(where.name, targets.ECHO))
        talk.reply(socks.SUCCEEDED)
        talk.send(HELLO).expect(HELLO)

    def much_early(talk):
        body = bytes(range(256)) * 256
        talk.way = TOGETHER
        opened(talk, socks.request(where.name, targets.ECHO), body)

    yield "connect: each message after the answer", step_by_step
    yield "connect: 64 KiB that have not waited", much_early


def bad_requests(where):
    bad = lambda request: lambda talk: talk.send(socks.GREETING, request).expect(b"\x05\x00").error()
    code = lambda request, *codes: lambda talk: (talk.send(socks.GREETING, request).expect(b"\x05\x00").reply(*codes), talk.closed())
    named = lambda name: bad(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + struct.pack(">H", targets.ECHO))
    host = where.name.encode()
    yield "name: with NUL", named(host + b"\0")
    yield "name: with NUL in the middle", named(b"hello\0.test")
    yield "name: with CR and LF", named(host + b"\r\nX: y")
    yield "name: that is no UTF-8", named(b"\xff\xfe\xfd.test")
    yield "name: of length 0", named(b"")
    yield "name: of 255 bytes", named(b"a" * 63 + (b"." + b"b" * 63) * 3)
    yield "name: a label of 64 bytes", named(b"a" * 64 + b".test")
    yield "name: a single dot", named(b".")
    yield "name: with a space", named(b"hello .test")
    yield "request: port 0", bad(socks.request(where.name, 0))
    yield "request: reserved byte is not 0", bad(socks.request(where.name, targets.ECHO, reserved=1))
    yield "request: wrong version", bad(b"\x04" + socks.request(where.name, targets.ECHO)[1:])
    yield "request: unknown command", code(socks.request(where.name, targets.ECHO, command=9), socks.COMMAND)
    yield "request: unknown address type", code(b"\x05\x01\x00\x02" + b"\0" * 6, socks.ADDRESS)


def failures(where):
    code = lambda host, port, *codes: lambda talk: (
        talk.send(socks.GREETING, socks.request(host, port), HELLO).expect(b"\x05\x00").reply(*codes), talk.closed()
    )
    yield "failure: refused", code(where.ipv4, targets.CLOSED, socks.REFUSED)
    yield "failure: host not found", code("no-such-host.test", targets.ECHO, socks.HOST), LONG
    yield "failure: host does not answer on its own network", code(_neighbour(where.ipv4), targets.ECHO, socks.HOST), LONG
    yield "failure: network unreachable", code("198.51.100.7", targets.ECHO, socks.NETWORK)
    yield "failure: policy, the unspecified address", code("0.0.0.0", targets.ECHO, socks.NOT_ALLOWED)
    yield "failure: policy, a multicast address", code("224.0.0.9", targets.ECHO, socks.NOT_ALLOWED)
    yield "failure: policy, an IPv4 address mapped to IPv6", code("::ffff:" + where.ipv4, targets.ECHO, socks.NOT_ALLOWED)
    yield "failure: time-out", code(where.ipv4, targets.SILENT, socks.TIME, socks.FAILURE), LONG


def other_commands(where):
    def resolved(host, *expected):
        def case(talk):
            talk.send(socks.GREETING, socks.request(host, 0, socks.RESOLVE)).expect(b"\x05\x00")
            found, _ = socks.reply_address(talk.reply(socks.SUCCEEDED))
            if found not in expected:
                raise Wrong(f"{found} for {' or '.join(expected)}")
        return case

    def pointed(talk):
        talk.send(socks.GREETING, socks.request(where.ipv4, 0, socks.RESOLVE_PTR)).expect(b"\x05\x00")
        found, _ = socks.reply_address(talk.reply(socks.SUCCEEDED))
        if found.rstrip(".") != where.name:
            raise Wrong(f"{found} for {where.name}")

    def code(request, *codes):
        return lambda talk: (talk.send(socks.GREETING, request).expect(b"\x05\x00").reply(*codes), talk.closed())

    def associated(talk):
        talk.send(socks.GREETING, socks.request("0.0.0.0", 0, socks.ASSOCIATE)).expect(b"\x05\x00")
        host, port = socks.reply_address(talk.reply(socks.SUCCEEDED))
        if not host.startswith("127.") or port == 0:
            raise Wrong(f"datagrams are taken on {host}:{port}, not on the interface of the connection")

    yield "bind", code(socks.request(where.ipv4, targets.ECHO, socks.BIND), socks.COMMAND)
    yield "UDP associate: bound to the connection's interface", associated
    yield "resolve: a name", resolved(where.name, where.ipv4, where.ipv6)
    yield "resolve: an address is itself", resolved(where.ipv4, where.ipv4)
    yield "resolve: a name that is none", code(socks.request("no-such-host.test", 0, socks.RESOLVE), socks.HOST), LONG
    yield "resolve: a name with CR and LF", code(socks.request(b"\x03\x06a\r\nb.c", 0, socks.RESOLVE), *range(1, 9))
    yield "resolve pointer: an address", pointed, LONG
    yield "resolve pointer: a name is no address", code(socks.request(where.name, 0, socks.RESOLVE_PTR), *range(1, 9))


def version4(where):
    def good(request):
        def case(talk):
            talk.send(request, HELLO).reply4(0x5A)
            talk.expect(HELLO)
            talk.end()
            talk.orderly()
        return case

    def no(request, patience=None):
        def case(talk):
            talk.send(request)
            reply = talk.take(8)
            if reply[0] != 0 or not 0x5B <= reply[1] <= 0x5D:
                raise Wrong(f"{reply.hex()} where a refusal was due")
            talk.closed()
        return case

    def endless(begun):
        """It is told no, or closed; it must not be kept."""
        def case(talk):
            talk.send(begun)
            while talk.more():
                pass
            if talk.got[:2] not in (b"", b"\x00\x5b", b"\x00\x5c", b"\x00\x5d"):
                raise Wrong(f"{talk.got.hex()} where the end was due")
        return case

    four = lambda *rest, **more: socks.request4(where.ipv4, targets.ECHO, *rest, **more)
    yield "SOCKS4: to IPv4", good(four())
    yield "SOCKS4: with a user id", good(four(b"somebody"))
    yield "SOCKS4: with a user id of 255 bytes that are no text", good(four(b"\xff" * 255))
    yield "SOCKS4a: to a name", good(four(host=where.name.encode()))
    yield "SOCKS4a: to a name, with a user id", good(four(b"somebody", where.name.encode()))
    yield "SOCKS4a: to an address in a name", good(four(host=where.ipv4.encode()))
    yield "SOCKS4: refused", no(socks.request4(where.ipv4, targets.CLOSED))
    yield "SOCKS4: bind", no(four(command=2))
    yield "SOCKS4: unknown command", no(four(command=9))
    yield "SOCKS4: port 0", no(socks.request4(where.ipv4, 0))
    yield "SOCKS4: to 0.0.0.0", no(socks.request4("0.0.0.0", targets.ECHO))
    yield "SOCKS4a: an empty name", no(four(host=b""))
    yield "SOCKS4a: a name that is no UTF-8", no(four(host=b"\xff\xfe.test"))
    yield "SOCKS4a: a name with CR and LF", no(four(host=b"a\r\nb.test"))
    yield "SOCKS4a: host not found", no(four(host=b"no-such-host.test")), LONG
    yield "SOCKS4: 2000 bytes of user id without end", endless(four()[:8] + b"u" * 2000), 25
    yield "SOCKS4a: 2000 bytes of name without end", endless(socks.request4("0.0.0.1", targets.ECHO) + b"n" * 2000), 25


def http(where):
    crlf = "\r\n"
    text = lambda *lines: (crlf.join(lines) + 2 * crlf).encode()
    bracketed = f"[{where.ipv6}]"

    def tunnel(host):
        def case(talk):
            talk.send(text(f"CONNECT {host}:{targets.ECHO} HTTP/1.1", f"Host: {host}:{targets.ECHO}"), HELLO).http(200)
            talk.expect(HELLO)
            talk.end()
            talk.orderly()
        return case

    answers = lambda codes, *lines: lambda talk: talk.send(text(*lines)).http(*codes)
    refusal = tuple(range(400, 418)) + (431,) + tuple(range(500, 506))
    url = f"http://{where.name}:{where.web}"

    def fetch(talk):
        talk.send(text(f"GET {url}/1k HTTP/1.1", f"Host: {where.name}:{where.web}", "Connection: close")).http(200)
        while talk.more():
            pass
        if len(talk.got) != 1000:
            raise Wrong(f"{len(talk.got)} bytes of 1000")

    def post(talk):
        body = bytes(range(256)) * 40
        head = text(f"POST {url}/ HTTP/1.1", f"Host: {where.name}:{where.web}", f"Content-Length: {len(body)}", "Connection: close")
        talk.send(head, body).http(200)
        while talk.more():
            pass
        if talk.got.strip() != hashlib.sha256(body).hexdigest().encode():
            raise Wrong(f"{talk.got[:80]} is not the hash of what was sent")

    def stripped(talk):
        """What is between the application and the port stays there."""
        talk.send(text(
            f"GET http://{where.name}:{targets.MIRROR}/a?b=c HTTP/1.1", f"Host: {where.name}:{targets.MIRROR}", "Accept: x/y",
            "Proxy-Connection: keep-alive", "Proxy-Authorization: Basic dTpw", "Connection: close, X-Mine", "X-Mine: 1",
        )).http(200)
        while b"\r\n\r\n" not in talk.got and talk.more():
            pass
        lines = talk.got.decode(errors="replace").lower().split(crlf)
        named = [line.partition(":")[0] for line in lines[1:]]
        if lines[0] != "get /a?b=c http/1.1" or named.count("host") != 1 or "accept: x/y" not in lines:
            raise Wrong(f"the target was asked {talk.got[:200]!r}")
        left = [name for name in named if name.startswith("proxy-") or name == "x-mine"]
        if left:
            raise Wrong(f"the target was told {left[0]}")

    def two_hosts(talk):
        """A second request on the connection goes to its own host, or nowhere."""
        talk.send(text(f"GET http://{where.name}:{targets.MIRROR}/first HTTP/1.1", f"Host: {where.name}:{targets.MIRROR}"))
        head = talk.http(200)
        length = int(next(line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")))
        talk.take(length)
        talk.send(text(f"GET {url}/1k HTTP/1.1", f"Host: {where.name}:{where.web}", "Connection: close"))
        while talk.more():
            pass
        if talk.got and (b"second" in talk.got or not talk.got.startswith(b"HTTP/1.1 200") or len(talk.got) < 1000):
            raise Wrong(f"the second request got {talk.got[:80]!r}")

    def page(talk):
        talk.send(text("GET / HTTP/1.1", "Host: 127.0.0.1")).http()
        while talk.more():
            pass
        if b"proxy" not in talk.got.lower():
            raise Wrong(f"a page that does not explain: {talk.got[:80]!r}")

    def ends(talk):
        while talk.more():
            pass
        if talk.got and not talk.got.startswith(b"HTTP/1."):
            raise Wrong(f"{talk.got[:40].hex()}")
        if talk.got[9:10] not in (b"", b"4", b"5"):
            raise Wrong(f"{talk.got[:40]!r}")

    yield "HTTP CONNECT: to a name, with data behind it", tunnel(where.name)
    yield "HTTP CONNECT: to IPv4", tunnel(where.ipv4)
    yield "HTTP CONNECT: to IPv6 in brackets", tunnel(bracketed)
    yield "HTTP CONNECT: refused", answers((502, 503), f"CONNECT {where.ipv4}:{targets.CLOSED} HTTP/1.1", "Host: x")
    yield "HTTP CONNECT: host not found", answers((502, 503, 504), "CONNECT no-such-host.test:80 HTTP/1.1", "Host: x"), LONG
    yield "HTTP CONNECT: policy", answers((403,), "CONNECT 224.0.0.9:80 HTTP/1.1", "Host: x")
    yield "HTTP CONNECT: time-out", answers((504,), f"CONNECT {where.ipv4}:{targets.SILENT} HTTP/1.1", "Host: x"), LONG
    yield "HTTP CONNECT: no port", answers(refusal, f"CONNECT {where.name} HTTP/1.1", "Host: x")
    yield "HTTP CONNECT: port 0", answers(refusal, f"CONNECT {where.name}:0 HTTP/1.1", "Host: x")
    yield "HTTP CONNECT: port 65536 and ECHO", answers(refusal, f"CONNECT {where.name}:{65536 + targets.ECHO} HTTP/1.1", "Host: x")
    yield "HTTP CONNECT: a name with NUL", answers(refusal, f"CONNECT hello\0.test:{targets.ECHO} HTTP/1.1", "Host: x")
    yield "HTTP: a whole URL", fetch
    yield "HTTP: a whole URL, with a body", post
    yield "HTTP: what is for the port only is not sent on", stripped
    yield "HTTP: two hosts on one connection", two_hosts
    yield "HTTP: a whole URL, refused", answers((502, 503), f"GET http://{where.ipv4}:{targets.CLOSED}/ HTTP/1.1", "Host: x")
    yield "HTTP: a whole URL that is https", answers(refusal, f"GET https://{where.name}/ HTTP/1.1", "Host: x")
    yield "HTTP: a plain request gets a page that explains", page
    yield "HTTP: a head of 200 KB", lambda talk: (setattr(talk, "way", TOGETHER), talk.send(b"GET http://x.test/ HTTP/1.1\r\nX: " + b"y" * 200_000), ends(talk))
    yield "HTTP: no request line", lambda talk: (talk.send(b"GARBAGE\r\n\r\n"), ends(talk))
    yield "a TLS hello is closed", lambda talk: talk.send(bytes.fromhex("160301002f0100002b0303") + b"r" * 36).closed()
    yield "a byte that begins nothing is closed", lambda talk: talk.send(b"\x00\x01\x02\x03").closed()


def ends(where):
    def application_first(talk):
        body = b"b" * 100_000
        talk.send(socks.GREETING, socks.request(where.name, targets.AFTER_END)).expect(b"\x05\x00")
        talk.reply(socks.SUCCEEDED)
        talk.way = TOGETHER
        talk.send(body)
        talk.end()
        talk.expect(f"{len(body)} {hashlib.sha256(body).hexdigest()}\n".encode())
        talk.orderly()

    def target_first(talk):
        talk.send(socks.GREETING, socks.request(where.name, targets.ENDS_FIRST)).expect(b"\x05\x00")
        talk.reply(socks.SUCCEEDED)
        talk.expect(b"first\n")
        talk.orderly()
        # The other direction is open still. Each run sends a number of its own, and finds it at the target.
        count = 20_000 + (hash((id(talk), time.monotonic())) % 10_000)
        talk.link.sendall(b"c" * count)
        talk.link.close()
        deadline = time.monotonic() + 15
        while count not in told(where)["after_end"]:
            if time.monotonic() > deadline:
                raise Wrong("what was sent after the target's end did not come")
            time.sleep(0.5)

    def http_application_first(talk):
        body = b"h" * 5_000
        talk.send(f"CONNECT {where.name}:{targets.AFTER_END} HTTP/1.1\r\nHost: x\r\n\r\n".encode()).http(200)
        talk.send(body)
        talk.end()
        talk.expect(f"{len(body)} {hashlib.sha256(body).hexdigest()}\n".encode())
        talk.orderly()

    def reset(talk):
        talk.send(socks.GREETING, socks.request(where.name, targets.RESETS)).expect(b"\x05\x00")
        talk.reply(socks.SUCCEEDED)
        talk.send(b"x")
        talk.closed()
        if talk.ended == "closed":
            raise Wrong("an orderly end for a stream that was reset")

    yield "half-close: the application ends first", application_first
    yield "half-close: the target ends first", target_first
    yield "half-close: the application ends first, HTTP CONNECT", http_application_first
    yield "a reset is no orderly end", reset


def late(where):
    """Success only after the exit has connected: the target's line is full, and has room after a while."""
    told(where, b"late")
    begun = time.monotonic()
    talk = Talk(where.port, TOGETHER, 60)
    try:
        talk.send(socks.GREETING, socks.request(where.ipv4, targets.LATE), HELLO).expect(b"\x05\x00")
        talk.reply(socks.SUCCEEDED)
        after = time.monotonic() - begun
        talk.expect(HELLO)
    finally:
        talk.close()
    # The answer to "late" took its way home after the clock at the target had begun.
    if after < targets.LATE_SECONDS - 1.0:
        raise Wrong(f"success after {after:.1f} s, the target accepted {targets.LATE_SECONDS} s after it was asked to")


def told(where, verb=b""):
    """What the targets have seen."""
    link = socks.connect(where.port, where.ipv4, targets.TOLD, early=verb + b"\n")
    try:
        data = b""
        while part := link.recv(65536):
            data += part
        return json.loads(data)
    finally:
        link.close()


def _neighbour(ipv4):
    """An address of the same network that nobody has."""
    head, _, _ = ipv4.rpartition(".")
    return f"{head}.253"


def main(arguments):
    where = Where(*arguments[:5])
    chosen = [case for case in cases(where) if not arguments[5:] or any(case[0].startswith(word) for word in arguments[5:])]
    results = []
    slow = threading.Thread(target=lambda: results.extend(run([("success only after the exit has connected", lambda _: late(where), 60)], where.port, (TOGETHER,))))
    if not arguments[5:] or "success" in arguments[5:]:
        slow.start()
        slow.join()
    results += run(chosen, where.port, (TOGETHER, BYTEWISE), 16)
    print(json.dumps(results))


if __name__ == "__main__":
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    main(sys.argv[1:])
