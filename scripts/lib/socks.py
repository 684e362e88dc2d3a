"""The bytes that applications send to the client's port, and a small client that speaks them. It shares no code with
the product, so that a mistake of one is not repeated by the other. RFC 1928, RFC 1929, SOCKS4 and 4a, Tor's RESOLVE."""

import ipaddress
import socket
import struct

CONNECT, BIND, ASSOCIATE, RESOLVE, RESOLVE_PTR = 1, 2, 3, 0xF0, 0xF1
SUCCEEDED, FAILURE, NOT_ALLOWED, NETWORK, HOST, REFUSED, TIME, COMMAND, ADDRESS = range(9)
GREETING = b"\x05\x01\x00"


class SocksError(Exception):
    """The port said no, or something that is no answer; `code` is its reply code, if there was one."""

    def __init__(self, text, code=None):
        super().__init__(text)
        self.code = code


def address(host):
    """Type and address as a request carries them: of an IPv4 or IPv6 address, or of a name (bytes stay as they are)."""
    if isinstance(host, str):
        try:
            parsed = ipaddress.ip_address(host)
            return (b"\x01" if parsed.version == 4 else b"\x04") + parsed.packed
        except ValueError:
            host = host.encode()
    return b"\x03" + bytes([len(host)]) + host


def name(text):
    """A name's bytes with its type, even where the name is an address in letters."""
    return address(text.encode() if isinstance(text, str) else text)


def request(host, port, command=CONNECT, reserved=0):
    where = host if isinstance(host, bytes) and host[:1] in (b"\x01", b"\x03", b"\x04") else address(host)
    return bytes([5, command, reserved]) + where + struct.pack(">H", port)


def credentials(user, password):
    return b"\x01" + bytes([len(user)]) + user + bytes([len(password)]) + password


def request4(ip, port, user=b"", host=None, command=CONNECT):
    """SOCKS4, or 4a if there is a host name."""
    ip = "0.0.0.1" if host is not None else ip
    tail = host + b"\0" if host is not None else b""
    return bytes([4, command]) + struct.pack(">H", port) + socket.inet_aton(ip) + user + b"\0" + tail


def reply_length(begun):
    """Length of a SOCKS5 reply, from its first bytes; None while they do not tell."""
    if len(begun) < 5:
        return None
    kinds = {1: 10, 4: 22, 3: 7 + begun[4]}
    if begun[3] not in kinds:
        raise SocksError(f"a reply with address type {begun[3]}")
    return kinds[begun[3]]


def reply_address(reply):
    """Address and port in a SOCKS5 reply."""
    kind, body, port = reply[3], reply[4:-2], int.from_bytes(reply[-2:], "big")
    return (body[1:].decode(errors="replace") if kind == 3 else str(ipaddress.ip_address(body))), port


def dial(port, timeout=60):
    """A plain connection to "HOST:PORT", or to a unix socket by its path."""
    if "/" in port:
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(timeout)
        link.connect(port)
        return link
    host, number = port.rsplit(":", 1)
    link = socket.create_connection((host.strip("[]"), int(number)), timeout)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link


def exactly(link, count):
    data = b""
    while len(data) < count:
        part = link.recv(count - len(data))
        if not part:
            raise SocksError(f"closed after {len(data)} of {count} bytes")
        data += part
    return data


def ask(link, what, user=None, password=b"", early=b""):
    """Greeting, credentials if there is a user, request: all in one write, with `early` data behind it. The reply."""
    greeting = GREETING if user is None else b"\x05\x01\x02" + credentials(user, password)
    link.sendall(greeting + what + early)
    method = exactly(link, 2)
    if method != (b"\x05\x00" if user is None else b"\x05\x02"):
        raise SocksError(f"method {method.hex()}")
    if user is not None and exactly(link, 2) != b"\x01\x00":
        raise SocksError("the credentials are refused")
    reply = exactly(link, 5)
    reply += exactly(link, reply_length(reply) - 5)
    if reply[:3] != b"\x05\x00\x00":
        raise SocksError(f"reply code {reply[1]}", reply[1])
    return reply


def connect(port, host, number, user=None, password=b"", early=b"", timeout=60):
    """A stream to `host`, opened."""
    link = dial(port, timeout)
    try:
        ask(link, request(host, number), user, password, early)
    except BaseException:
        link.close()
        raise
    return link


def datagram(host, port, body, fragment=0):
    """A datagram for the port that UDP ASSOCIATE has opened."""
    return b"\0\0" + bytes([fragment]) + address(host) + struct.pack(">H", port) + body


def open_datagram(data):
    """Source, port and body of a datagram that came from there."""
    if data[:3] != b"\0\0\0" or len(data) < 5:
        raise SocksError(f"a datagram that begins with {data[:3].hex()}")
    size = {1: 4, 4: 16, 3: 1 + data[4]}.get(data[3])
    if size is None:
        raise SocksError(f"a datagram with address type {data[3]}")
    if len(data) < 6 + size:
        raise SocksError("a datagram that ends within its address")
    where = data[4 : 4 + size]
    host = where[1:].decode() if data[3] == 3 else str(ipaddress.ip_address(where))
    return host, int.from_bytes(data[4 + size : 6 + size], "big"), data[6 + size :]
