"""When each cell crossed a client's link, from the fronts of its packets. A whole capture of a fast link would be
gigabytes; the address, the sequence number, the length and the first bytes of a segment say as much."""

import ipaddress
import struct
from bisect import bisect_right

import pcap
from checks import CLIENT_CELL
from tls import DATA, OVERHEAD

# A capture must keep this much of a packet: Ethernet, IPv4, TCP with options, and a record's header.
FRONT = 14 + 20 + 60 + 5
RECORD = 5 + CLIENT_CELL + OVERHEAD
HEADER = bytes([DATA, 3, 3]) + (CLIENT_CELL + OVERHEAD).to_bytes(2, "big")


def segments(data):
    """(time, source, destination, source port, destination port, sequence, length, first bytes) of each TCP segment with
    bytes in a capture of fronts (Ethernet, IPv4)."""
    if data[:4] != b"\x4d\x3c\xb2\xa1":
        raise pcap.CaptureError("no capture of fronts")
    at, head = 24, struct.Struct("<IIII")
    while at + 16 <= len(data):
        seconds, nanos, kept, _ = head.unpack_from(data, at)
        frame, at = data[at + 16 : at + 16 + kept], at + 16 + kept
        if frame[12:14] != b"\x08\x00" or len(frame) < 54 or frame[23] != pcap.TCP:
            continue
        size = (frame[14] & 15) * 4
        total = int.from_bytes(frame[16:18], "big")
        tcp = 14 + size
        offset = (frame[tcp + 12] >> 4) * 4
        length = total - size - offset
        if length <= 0:
            continue
        source_port, destination_port, sequence = struct.unpack_from(">HHI", frame, tcp)
        source, destination = (str(ipaddress.IPv4Address(frame[26 + n : 30 + n])) for n in (0, 4))
        yield seconds + nanos * 1e-9, source, destination, source_port, destination_port, sequence, length, frame[tcp + offset :]


def times(data, client):
    """Moments of the cells that left `client` and of those that came, of the links on which cells were found."""
    flows = {}
    for time, source, destination, source_port, destination_port, sequence, length, first in segments(data):
        flows.setdefault((source, source_port, destination, destination_port), []).append((time, sequence, length, first))
    up, down = [], []
    for (source, _, _, _), found in flows.items():
        (up if source == client else down).extend(_cells(found))
    return sorted(up), sorted(down)


def _cells(found):
    """A cell's moment is that of the segment with its first byte. The first segment that begins with the header of a
    cell's record tells where records begin."""
    anchor = next((index for index, segment in enumerate(found) if segment[3].startswith(HEADER)), None)
    if anchor is None:
        return []
    base, last = found[anchor][1], 0
    starts, moments, end = [], [], 0
    for time, sequence, length, _ in found[anchor:]:
        relative = (sequence - base - last) & 0xFFFFFFFF
        relative -= (1 << 32) if relative >= 1 << 31 else 0
        last += relative
        if last + length <= end:
            continue
        starts.append(max(last, end))
        moments.append(time)
        end = last + length
    return [moments[bisect_right(starts, at) - 1] for at in range(0, end, RECORD)]
