"""TLS records from captured TCP streams. Record headers travel in the clear, so lengths and times can be read by
anyone on the line; that is exactly what the checks look at."""

from bisect import bisect_right
from dataclasses import dataclass

import pcap

CHANGE_CIPHER, ALERT, HANDSHAKE, DATA = 20, 21, 22, 23
# TLS 1.3 adds 16 bytes of tag and 1 byte of inner type to what an application-data record carries.
OVERHEAD = 17
ALPN_EXTENSION = 16


class StreamError(Exception):
    """The stream cannot be read: bytes are missing from the capture, or it is no TLS."""


@dataclass(slots=True)
class Record:
    """One record: when its first byte was seen, its outer type, and the length that its header states."""

    time: float
    kind: int
    length: int


@dataclass
class Direction:
    """The bytes of one direction of a TCP connection."""

    source: tuple
    destination: tuple
    data: bytes
    starts: list
    times: list
    whole: bool

    def time_at(self, offset):
        return self.times[max(0, bisect_right(self.starts, offset) - 1)]


def directions(packets):
    """Every direction of every TCP connection in a capture, put back in order. A reused port is a new connection."""
    flows, current = {}, {}
    for packet in packets:
        if packet.kind != "tcp":
            continue
        ends = (packet.source, packet.source_port, packet.destination, packet.destination_port)
        if packet.flags & pcap.SYN:
            state = current.get(ends)
            if state is None or state["first"] != (packet.sequence + 1) & 0xFFFFFFFF:
                state = {"first": (packet.sequence + 1) & 0xFFFFFFFF, "segments": [], "syn": True}
                current[ends] = state
                flows.setdefault(ends, []).append(state)
            continue
        state = current.get(ends)
        if state is None:
            if not packet.payload:
                continue
            state = {"first": packet.sequence, "segments": [], "syn": False}
            current[ends] = state
            flows.setdefault(ends, []).append(state)
        if packet.payload:
            state["segments"].append(packet)
    for ends, states in flows.items():
        for state in states:
            if state["segments"]:
                yield _assemble(ends, state)


def _assemble(ends, state):
    """Puts segments in order. Sequence numbers wrap, so each is taken relative to the one before."""
    placed, last = [], 0
    for packet in state["segments"]:
        relative = (packet.sequence - state["first"] - last) & 0xFFFFFFFF
        if relative >= 1 << 31:
            relative -= 1 << 32
        offset = last + relative
        last = max(last, offset)
        placed.append((offset, packet))
    placed.sort(key=lambda pair: (pair[0], pair[1].time))
    data, starts, times, whole = bytearray(), [], [], state["syn"]
    for offset, packet in placed:
        if packet.cut:
            raise StreamError("the capture kept only the front of its packets")
        if offset < 0:
            continue
        if offset > len(data):
            raise StreamError(f"the capture misses bytes {len(data)} to {offset} of a stream")
        fresh = packet.payload[len(data) - offset :]
        if fresh:
            starts.append(len(data))
            times.append(packet.time)
            data.extend(fresh)
    return Direction((ends[0], ends[1]), (ends[2], ends[3]), bytes(data), starts, times, whole)


def records(direction, expected=None):
    """The records of a direction. A capture that began in the middle of a stream is read from the first segment that
    starts with the header of a data record of `expected` length."""
    data, at = direction.data, 0
    if not direction.whole:
        header = bytes([DATA, 3, 3]) + (expected or 0).to_bytes(2, "big")
        at = next((start for start in direction.starts if data[start : start + 5] == header), None)
        if at is None:
            raise StreamError("no record of the expected length starts a segment")
    while at + 5 <= len(data):
        kind, major, length = data[at], data[at + 1], int.from_bytes(data[at + 3 : at + 5], "big")
        if kind not in (CHANGE_CIPHER, ALERT, HANDSHAKE, DATA) or major != 3 or length > 16384 + 256:
            raise StreamError(f"no TLS record at byte {at} of a stream")
        yield Record(direction.time_at(at), kind, length)
        at += 5 + length


def offered_protocols(direction):
    """The application protocols (ALPN) that a client's hello offers; empty if this is no client's direction."""
    data = direction.data
    if len(data) < 9 or data[0] != HANDSHAKE or data[5] != 1:
        return []
    end = 5 + int.from_bytes(data[3:5], "big")
    hello = data[9:end]
    try:
        at = 34
        at += 1 + hello[at]
        at += 2 + int.from_bytes(hello[at : at + 2], "big")
        at += 1 + hello[at]
        stop = at + 2 + int.from_bytes(hello[at : at + 2], "big")
        at += 2
        while at + 4 <= stop:
            kind, size = int.from_bytes(hello[at : at + 2], "big"), int.from_bytes(hello[at + 2 : at + 4], "big")
            body = hello[at + 4 : at + 4 + size]
            at += 4 + size
            if kind == ALPN_EXTENSION:
                names, place = [], 2
                while place < len(body):
                    names.append(body[place + 1 : place + 1 + body[place]].decode("ascii", "replace"))
                    place += 1 + body[place]
                return names
    except IndexError:
        pass
    return []


def connections(packets):
    """Pairs (client's direction, server's direction or None) of all connections whose start was captured."""
    every = list(directions(packets))
    for direction in every:
        if not offered_protocols(direction):
            continue
        start = direction.times[0]
        back = [
            other
            for other in every
            if other.source == direction.destination and other.destination == direction.source and other.times[0] >= start
        ]
        yield direction, min(back, key=lambda other: other.times[0], default=None)


def after_handshake(found, cell_record):
    """Data records after the handshake. The handshake's own encrypted records come first, at most six in a direction;
    what follows the first record of the cell's length counts."""
    data = [record for record in found if record.kind == DATA]
    for index, record in enumerate(data[:7]):
        if record.length == cell_record:
            return data[index:]
    return data[6:]
