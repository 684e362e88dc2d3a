#!/usr/bin/env python3
"""Servers behind the exits, for what the web server of a local network does not do.

    targets.py ADDRESS[,ADDRESS...]

Prints "ready". What they saw is told on the port of `TOLD`, as JSON, after one line that says what to do first.
"""

import asyncio
import hashlib
import json
import socket
import struct
import sys

# Gives back what comes, and ends when the other side has ended.
ECHO = 7007
# Waits for the other side's end, then tells the hash of what came.
AFTER_END = 7008
# Says a word and ends its side at once; counts what still comes.
ENDS_FIRST = 7009
# Tells what was seen.
TOLD = 7010
# Takes one byte, then resets.
RESETS = 7011
# Its line is full when `TOLD` hears "late"; it accepts `LATE_SECONDS` afterwards.
LATE = 7012
LATE_SECONDS = 2.5
# Its line is full for ever.
SILENT = 7013
# UDP: gives back what comes; in "N bytes" it gives so many.
UDP_ECHO = 7014
# Tells the bytes of a request back, as the body of an answer.
MIRROR = 7015
# Nobody listens.
CLOSED = 7016


class Targets:
    def __init__(self, addresses):
        self.addresses = addresses
        self.after_end = []
        self.udp_sources = []
        self.late_at = None
        self.late = self.silent = None
        self.held = []

    async def run(self):
        handlers = {
            ECHO: self.echo, AFTER_END: self.hash, ENDS_FIRST: self.ends_first, TOLD: self.tell, RESETS: self.reset, MIRROR: self.mirror,
        }
        loop = asyncio.get_running_loop()
        for address in self.addresses:
            for port, handler in handlers.items():
                await asyncio.start_server(handler, address, port, limit=1 << 20)
            await loop.create_datagram_endpoint(lambda: Datagrams(self), local_addr=(address, UDP_ECHO))
        self.late, self.silent = self.full(LATE), self.full(SILENT)
        print("ready", flush=True)
        await asyncio.Event().wait()

    def full(self, port):
        """A listener whose line has one place, which is taken: the system drops further openings, unanswered."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.addresses[0], port))
        listener.listen(0)
        self.held.append(socket.create_connection((self.addresses[0], port)))
        return listener

    async def open_late(self):
        await asyncio.sleep(LATE_SECONDS)
        loop = asyncio.get_running_loop()
        listener, self.late = self.late, None
        listener.setblocking(False)
        while True:
            link, peer = await loop.sock_accept(listener)
            if peer[0] == self.addresses[0]:
                link.close()
                continue
            reader, writer = await asyncio.open_connection(sock=link)
            asyncio.ensure_future(self.echo(reader, writer))

    async def echo(self, reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except OSError:
            pass
        finally:
            writer.close()

    async def hash(self, reader, writer):
        digest, count = hashlib.sha256(), 0
        while data := await reader.read(65536):
            digest.update(data)
            count += len(data)
        writer.write(f"{count} {digest.hexdigest()}\n".encode())
        await writer.drain()
        writer.close()

    async def ends_first(self, reader, writer):
        writer.write(b"first\n")
        writer.write_eof()
        count = 0
        try:
            while data := await reader.read(65536):
                count += len(data)
        finally:
            self.after_end.append(count)
            writer.close()

    async def reset(self, reader, writer):
        await reader.read(1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def mirror(self, reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(head), head))
                await writer.drain()
                # As every HTTP server does, and the port asks for on its clients' behalf.
                if b"\r\nconnection: close\r\n" in head.lower():
                    break
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass
        finally:
            writer.close()

    async def tell(self, reader, writer):
        verb = (await reader.readline()).strip()
        if verb == b"late" and self.late is not None:
            asyncio.ensure_future(self.open_late())
        told = {"after_end": self.after_end, "udp_sources": self.udp_sources, "peer": writer.get_extra_info("peername")[0]}
        writer.write(json.dumps(told).encode() + b"\n")
        await writer.drain()
        writer.close()


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, targets):
        self.targets = targets

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, source):
        if len(self.targets.udp_sources) < 10_000:
            self.targets.udp_sources.append([source[0], source[1], data[:60].decode(errors="replace")])
        words = data.split()
        if len(words) == 2 and words[1] == b"bytes" and words[0].isdigit():
            data = bytes(int(words[0]))
        self.transport.sendto(data, source)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    asyncio.run(Targets(sys.argv[1].split(",")).run())
