"""Reads captures as tcpdump writes them, and writes small ones for the tests of the checks themselves."""

import ipaddress
import struct
from dataclasses import dataclass

ETHERNET, LINUX_COOKED, LINUX_COOKED_2, RAW_IP = 1, 113, 276, 101
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
FIN, SYN, RST, ACK = 1, 2, 4, 16


@dataclass(slots=True)
class Packet:
    """One packet. `kind` is "tcp", "udp", "icmp", "arp", "neighbour" (IPv6 neighbour discovery and group
    membership) or "other"; ports, sequence number and payload are there where the kind has them."""

    time: float
    kind: str
    source: str = ""
    destination: str = ""
    source_port: int = 0
    destination_port: int = 0
    sequence: int = 0
    flags: int = 0
    payload: bytes = b""
    cut: bool = False


class CaptureError(Exception):
    """The file is no capture, or a damaged one."""


def read(path):
    """All packets of a capture file, in order."""
    with open(path, "rb") as file:
        data = file.read()
    return list(parse(data))


def parse(data):
    if len(data) < 24:
        raise CaptureError("no capture: shorter than its header")
    magic = data[:4]
    orders = {
        b"\xd4\xc3\xb2\xa1": ("<", 1e-6),
        b"\xa1\xb2\xc3\xd4": (">", 1e-6),
        b"\x4d\x3c\xb2\xa1": ("<", 1e-9),
        b"\xa1\xb2\x3c\x4d": (">", 1e-9),
    }
    if magic not in orders:
        raise CaptureError("no capture: unknown first bytes")
    order, unit = orders[magic]
    link = struct.unpack(order + "I", data[20:24])[0] & 0xFFFF
    header = struct.Struct(order + "IIII")
    at = 24
    while at + 16 <= len(data):
        seconds, fraction, kept, length = header.unpack_from(data, at)
        at += 16
        if at + kept > len(data):
            return  # the capture was stopped in the middle of a packet
        yield _link_layer(seconds + fraction * unit, link, data[at : at + kept], kept < length)
        at += kept


def _link_layer(time, link, frame, cut):
    if link == ETHERNET and len(frame) >= 14:
        protocol, rest = int.from_bytes(frame[12:14], "big"), frame[14:]
    elif link == LINUX_COOKED and len(frame) >= 16:
        protocol, rest = int.from_bytes(frame[14:16], "big"), frame[16:]
    elif link == LINUX_COOKED_2 and len(frame) >= 20:
        protocol, rest = int.from_bytes(frame[0:2], "big"), frame[20:]
    elif link == RAW_IP and frame:
        protocol, rest = (0x0800 if frame[0] >> 4 == 4 else 0x86DD), frame
    else:
        return Packet(time, "other", cut=cut)
    if protocol == 0x0806:
        return Packet(time, "arp", cut=cut)
    if protocol == 0x0800 and len(rest) >= 20:
        size = (rest[0] & 15) * 4
        total = int.from_bytes(rest[2:4], "big") or len(rest)
        source, destination = str(ipaddress.IPv4Address(rest[12:16])), str(ipaddress.IPv4Address(rest[16:20]))
        return _transport(time, rest[9], source, destination, rest[size:total], cut)
    if protocol == 0x86DD and len(rest) >= 40:
        source, destination = str(ipaddress.IPv6Address(rest[8:24])), str(ipaddress.IPv6Address(rest[24:40]))
        following, body = rest[6], rest[40:]
        if following == 0 and len(body) >= 8:  # hop-by-hop options, before group membership reports
            following, body = body[0], body[(body[1] + 1) * 8 :]
        return _transport(time, following, source, destination, body, cut)
    return Packet(time, "other", cut=cut)


def _transport(time, protocol, source, destination, body, cut):
    if protocol == TCP and len(body) >= 20:
        source_port, destination_port, sequence = struct.unpack_from(">HHI", body)
        offset = (body[12] >> 4) * 4
        return Packet(
            time, "tcp", source, destination, source_port, destination_port, sequence, body[13], bytes(body[offset:]), cut
        )
    if protocol == UDP and len(body) >= 8:
        source_port, destination_port = struct.unpack_from(">HH", body)
        return Packet(time, "udp", source, destination, source_port, destination_port, payload=bytes(body[8:]), cut=cut)
    if protocol == ICMP6 and body and (133 <= body[0] <= 137 or body[0] in (130, 131, 132, 143)):
        return Packet(time, "neighbour", source, destination, cut=cut)
    if protocol in (ICMP, ICMP6):
        return Packet(time, "icmp", source, destination, payload=bytes(body), cut=cut)
    return Packet(time, "other", source, destination, cut=cut)


def write(packets):
    """The bytes of a capture (Ethernet, microseconds) that holds these TCP and UDP packets over IPv4."""
    out = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, ETHERNET)]
    for packet in packets:
        if packet.kind == "tcp":
            head = struct.pack(">HHIIBBHHH", packet.source_port, packet.destination_port, packet.sequence & 0xFFFFFFFF, 0, 0x50, packet.flags, 65535, 0, 0)
            body, protocol = head + packet.payload, TCP
        else:
            body = struct.pack(">HHHH", packet.source_port, packet.destination_port, 8 + len(packet.payload), 0) + packet.payload
            protocol = UDP
        address = lambda text: ipaddress.IPv4Address(text).packed
        network = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0, address(packet.source), address(packet.destination))
        frame = b"\0" * 12 + b"\x08\x00" + network + body
        micros = round(packet.time * 1e6)
        out.append(struct.pack("<IIII", micros // 1_000_000, micros % 1_000_000, len(frame), len(frame)) + frame)
    return b"".join(out)
