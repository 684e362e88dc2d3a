#!/usr/bin/env python3
"""Uses the client's port as applications do, and times it.

    at_client.py streams PORT HOST WEB AT-ONCE SIZE...     fetches each size, hashed; JSON of what came
    at_client.py first PORT HOST WEB COUNT                  first byte of a page whose request has not waited; JSON of seconds
    at_client.py curve PORT HOST WEB SIZE COUNT             COUNT downloads at once; JSON of (seconds, bytes) of each
    at_client.py upload PORT HOST WEB SIZE                  one upload; JSON of its seconds and the hash that was answered
    at_client.py slow PORT HOST WEB COUNT RATE SECONDS      readers that take RATE bytes a second
    at_client.py echo PORT HOST NUMBER COUNT EVERY          times of single bytes to an echo and back; JSON of seconds
    at_client.py exits PORT HOST NUMBER TRIES KEY...        which exit the target saw, for each key and try; JSON
    at_client.py told PORT HOST NUMBER                      what targets.py has seen; JSON
    at_client.py pipe PORT HOST NUMBER                      a stream on standard input and output, for ssh's ProxyCommand
"""

import hashlib
import json
import os
import select
import sys
import threading
import time

import socks


def get(port, host, web, size, user=None, timeout=120):
    """An HTTP request behind the SOCKS request, in one segment; the stream after its head, and the first bytes."""
    request = f"GET /bytes/{size} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    link = socks.connect(port, host, web, user, early=request, timeout=timeout)
    data = b""
    while b"\r\n\r\n" not in data:
        part = link.recv(65536)
        if not part:
            raise socks.SocksError("closed before the head of the answer")
        data += part
    head, _, data = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise socks.SocksError(f"answered {head[:40]!r}")
    return link, data


def fetch(port, host, web, size, told=None):
    """Fetches all of it; `told` gets (moment, bytes so far) now and then. Returns count and hash."""
    link, data = get(port, host, web, size)
    digest, count, last = hashlib.sha256(data), len(data), 0.0
    if told is not None:
        told.append((time.monotonic(), count))
    while data := link.recv(262144):
        digest.update(data)
        count += len(data)
        now = time.monotonic()
        if told is not None and now - last >= 0.05:
            told.append((now, count))
            last = now
    if told is not None:
        told.append((time.monotonic(), count))
    link.close()
    return count, digest.hexdigest()


def at_once(work, count):
    """Runs the functions of `work`, `count` at a time; a failure is its text."""
    results, lock, waiting = [None] * len(work), threading.Lock(), list(enumerate(work))

    def worker():
        while True:
            with lock:
                if not waiting:
                    return
                index, function = waiting.pop(0)
            try:
                results[index] = function()
            except Exception as error:
                results[index] = {"error": f"{type(error).__name__}: {error}"}

    threads = [threading.Thread(target=worker) for _ in range(min(count, len(work)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def streams(port, host, web, count, *sizes):
    def one(size):
        begun = time.monotonic()
        told = []
        got, digest = fetch(port, host, web, size, told)
        gaps = [after[0] - before[0] for before, after in zip(told, told[1:])]
        return {"size": size, "bytes": got, "digest": digest, "seconds": time.monotonic() - begun, "gap": max(gaps, default=0.0)}

    return at_once([lambda size=int(size): one(size) for size in sizes], int(count))


def first(port, host, web, count):
    times = []
    for _ in range(int(count)):
        begun = time.monotonic()
        try:
            link, _ = get(port, host, web, 1000, timeout=60)
            times.append(time.monotonic() - begun)
            link.close()
        except OSError as error:
            times.append(str(error))
        except socks.SocksError as error:
            times.append(str(error))
    return times


def curve(port, host, web, size, count):
    def one():
        begun, told = time.monotonic(), []
        got, digest = fetch(port, host, web, int(size), told)
        return {"bytes": got, "digest": digest, "curve": [(begun, 0), *told], "begun": begun}

    return at_once([one] * int(count), int(count))


def upload(port, host, web, size):
    body = os.urandom(int(size))
    begun = time.monotonic()
    link = socks.connect(port, host, web, timeout=300)
    link.sendall(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode())
    link.sendall(body)
    answer = b""
    while part := link.recv(65536):
        answer += part
    return {"seconds": time.monotonic() - begun, "right": hashlib.sha256(body).hexdigest().encode() in answer}


def slow(port, host, web, count, rate, seconds):
    def one():
        link, data = get(port, host, web, 500_000_000)
        # The kernel's own line is no part of the client.
        taken, begun = 0, time.monotonic()
        while (passed := time.monotonic() - begun) < float(seconds):
            due = int(passed * float(rate)) - taken
            if due > 0:
                taken += len(link.recv(due))
            time.sleep(0.1)
        link.close()
        return taken

    return at_once([one] * int(count), int(count))


def echo(port, host, number, count, every):
    link = socks.connect(port, host, int(number), timeout=60)
    times, wrong = [], 0
    for index in range(int(count)):
        byte, begun = bytes([65 + index % 26]), time.monotonic()
        link.sendall(byte)
        wrong += link.recv(1) != byte
        times.append(time.monotonic() - begun)
        time.sleep(max(0.0, float(every) - times[-1]))
    return {"times": times, "wrong": wrong}


def exits(port, host, number, tries, *keys):
    def one(key):
        seen = []
        for _ in range(int(tries)):
            link = isolated(port, host, int(number), key)
            data = b""
            while part := link.recv(65536):
                data += part
            seen.append(json.loads(data)["peer"])
        return {"key": key, "exits": seen}

    return at_once([lambda key=key: one(key) for key in keys], 8)


def isolated(port, host, number, key):
    """A stream that has sent a line, kept apart as the key says: port=ADDRESS, header=NAME or user=NAME."""
    kind, _, name = key.partition("=")
    if kind == "port":
        return socks.connect(name, host, number, early=b"\n")
    if kind == "user":
        return socks.connect(port, host, number, user=name.encode(), password=b"x", early=b"\n")
    link = socks.dial(port, 60)
    link.sendall(f"CONNECT {host}:{number} HTTP/1.1\r\nHost: {host}\r\nX-Mizzle-Isolation: {name}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = link.recv(1)
        if not part:
            break
        head += part
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise socks.SocksError(f"HTTP CONNECT is answered by {head[:60]!r}")
    link.sendall(b"\n")
    return link


def told(port, host, number):
    link = socks.connect(port, host, number, early=b"\n")
    data = b""
    while part := link.recv(65536):
        data += part
    return json.loads(data)


def pipe(port, host, number):
    link = socks.connect(port, host, int(number))
    link.settimeout(None)
    while True:
        readable, _, _ = select.select([0, link], [], [])
        if 0 in readable:
            data = os.read(0, 65536)
            if not data:
                return
            link.sendall(data)
        if link in readable:
            data = link.recv(65536)
            if not data:
                return
            while data:
                data = data[os.write(1, data) :]


VERBS = {verb.__name__: verb for verb in (streams, first, curve, upload, slow, echo, exits, told, pipe)}

if __name__ == "__main__":
    if len(sys.argv) < 5 or sys.argv[1] not in VERBS:
        sys.exit(__doc__)
    verb, (port, host, number, *rest) = VERBS[sys.argv[1]], sys.argv[2:]
    said = verb(port, host, int(number), *rest)
    if said is not None:
        print(json.dumps(said))
