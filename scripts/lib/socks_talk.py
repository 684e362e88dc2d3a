"""A conversation with the client's port that is made of raw bytes, sent one by one or as few segments as can be."""

import re
import socket
import threading
import time

import socks

BYTEWISE, TOGETHER = "byte by byte", "one segment"


class Wrong(Exception):
    """The port did not answer as it must."""


class Talk:
    """One connection. What is sent waits until something is received: then all of it goes out, in the chosen way."""

    def __init__(self, port, way=TOGETHER, patience=40):
        self.way, self.patience = way, patience
        self.link = socks.dial(port, patience)
        self.waiting, self.got, self.ended = b"", b"", None

    def close(self):
        self.link.close()

    def send(self, *parts):
        self.waiting += b"".join(parts)
        return self

    def flush(self):
        waiting, self.waiting = self.waiting, b""
        try:
            if self.way == TOGETHER:
                self.link.sendall(waiting)
                return
            for at in range(len(waiting)):
                self.link.sendall(waiting[at : at + 1])
                # Long enough that each is read on its own, mostly; a long name need not take seconds.
                time.sleep(0.001 if len(waiting) < 600 else 0.0001)
        except OSError:
            # It closed before it had heard all: what it said counts.
            pass

    def end(self):
        self.flush()
        self.link.shutdown(socket.SHUT_WR)

    def more(self):
        """Reads once; False at the end."""
        self.flush()
        if self.ended is not None:
            return False
        try:
            data = self.link.recv(65536)
        except socket.timeout:
            raise Wrong(f"silence for {self.patience} s after {shown(self.got)}") from None
        except OSError as error:
            self.ended = type(error).__name__
            return False
        if not data:
            self.ended = "closed"
            return False
        self.got += data
        return True

    def take(self, count):
        while len(self.got) < count:
            if not self.more():
                raise Wrong(f"{self.ended} after {shown(self.got)}, {count} bytes were due")
        part, self.got = self.got[:count], self.got[count:]
        return part

    def expect(self, wanted):
        part = self.take(len(wanted))
        if part != wanted:
            raise Wrong(f"{shown(part + self.got)} for {shown(wanted)}")
        return self

    def reply(self, *codes):
        """A SOCKS5 reply with one of these codes; returns it."""
        head = self.take(4)
        if head[0] != 5 or head[2] != 0 or head[3] not in (1, 3, 4):
            raise Wrong(f"no reply: {shown(head + self.got)}")
        rest = self.take(1)
        rest += self.take(socks.reply_length(head + rest) - 5)
        if head[1] not in codes:
            raise Wrong(f"reply code {head[1]} for {' or '.join(map(str, codes))}")
        return head + rest

    def error(self):
        """A SOCKS5 reply that is none of success, and the end."""
        self.reply(*range(1, 9))
        return self.closed()

    def reply4(self, code):
        """A SOCKS4 reply."""
        reply = self.take(8)
        if reply[:2] != bytes([0, code]):
            raise Wrong(f"{shown(reply)} for a SOCKS4 reply {code:#x}")
        return reply

    def http(self, *codes):
        """The head of an HTTP answer with one of these codes; what follows stays."""
        while b"\r\n\r\n" not in self.got:
            if len(self.got) > 1 << 16 or not self.more():
                raise Wrong(f"no HTTP answer: {shown(self.got)}, {self.ended}")
        head, _, self.got = self.got.partition(b"\r\n\r\n")
        match = re.match(rb"HTTP/1\.[01] (\d{3})[ \r]", head + b"\r\n")
        if match is None or codes and int(match.group(1)) not in codes:
            raise Wrong(f"{shown(head)} for {' or '.join(map(str, codes))}")
        return head

    def closed(self):
        """Nothing more, and the end, be it orderly or a reset."""
        while self.more():
            pass
        if self.got:
            raise Wrong(f"{shown(self.got)} where the end was due")
        return self

    def orderly(self):
        """Nothing more, and an orderly end."""
        self.closed()
        if self.ended != "closed":
            raise Wrong(f"{self.ended} where an orderly end was due")
        return self


def shown(data):
    text = data[:40].hex(" ") if any(byte < 9 or byte > 126 for byte in data[:40]) else repr(data[:80])[1:]
    return (text or "nothing") + (f" and {len(data) - 40} more bytes" if len(data) > 40 else "")


def run(cases, port, ways=(TOGETHER, BYTEWISE), at_once=8):
    """Each case in each way: [{"case", "way", "wrong" ("" if it is right), "seconds"}]. `cases` are (name, function,
    patience); a function is given a Talk."""
    work = [(case, way) for case in cases for way in ways]
    results, lock = [], threading.Lock()

    def worker():
        while True:
            with lock:
                if not work:
                    return
                (name, function, patience), way = work.pop(0)
            begun, wrong, talk = time.monotonic(), "", None
            try:
                talk = Talk(port, way, patience)
                function(talk)
            except Wrong as error:
                wrong = str(error)
            except Exception as error:
                wrong = f"{type(error).__name__}: {error}"
            finally:
                if talk is not None:
                    talk.close()
            with lock:
                results.append({"case": name, "way": way, "wrong": wrong, "seconds": round(time.monotonic() - begun, 2)})

    threads = [threading.Thread(target=worker) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    order = {name: index for index, (name, _, _) in enumerate(cases)}
    return sorted(results, key=lambda result: (order[result["case"]], result["way"]))
