#!/usr/bin/env python3
"""Captures a network device into a file, like tcpdump, which refuses to run in a user namespace (it wants to drop
privileges to a user that is not there).

    capture.py DEVICE FILE [--source ADDRESS] [--front BYTES]

With --front, only so many bytes of each packet are kept, beside its length.

Prints "listening" when it captures, and on SIGINT or SIGTERM the number of packets that it took and that the kernel
dropped for want of room. Uses the kernel's ring (PACKET_RX_RING, version 3), 32 MiB, so that a busy machine loses nothing.
"""

import ctypes
import mmap
import select
import signal
import socket
import struct
import sys

SOL_PACKET, PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, VERSION_3 = 263, 5, 6, 10, 2
ETH_P_ALL, OUTGOING = 0x0003, 4
BLOCK, BLOCKS, FRAME, RETIRE_MS = 1 << 20, 32, 1 << 11, 50
BLOCK_STATUS, OURS = 8, 1


def main(device, path, source=None, front=None):
    stopping = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.append(True))
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    link.setsockopt(SOL_PACKET, PACKET_VERSION, VERSION_3)
    request = struct.pack("IIIIIII", BLOCK, BLOCKS, FRAME, BLOCK * BLOCKS // FRAME, RETIRE_MS, 0, 0)
    link.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
    ring = mmap.mmap(link.fileno(), BLOCK * BLOCKS)
    link.bind((device, ETH_P_ALL))
    wanted = socket.inet_aton(source) if source else None
    taken, block = 0, 0
    with open(path, "wb") as file:
        # Ethernet, nanoseconds.
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1))
        file.flush()
        print("listening", flush=True)
        waiting = select.poll()
        waiting.register(link.fileno(), select.POLLIN | select.POLLERR)
        last_round = False
        while True:
            start = block * BLOCK
            status = ctypes.c_uint32.from_buffer(ring, start + BLOCK_STATUS)
            if not status.value & OURS:
                if last_round:
                    break
                if stopping:
                    # What is in the block that the kernel fills now is handed over after its time.
                    last_round = True
                    waiting.poll(4 * RETIRE_MS)
                else:
                    waiting.poll(200)
                continue
            count, at = struct.unpack_from("II", ring, start + 12)
            at += start
            for _ in range(count):
                following, seconds, nanos, kept, length, _, offset = struct.unpack_from("IIIIIIH", ring, at)
                # The link-layer address follows the header, which is 48 bytes long; byte 10 of it says which way.
                outgoing = ring[at + 48 + 10] == OUTGOING
                frame = ring[at + offset : at + offset + kept]
                skip = device == "lo" and outgoing
                if not skip and (wanted is None or frame[12:14] == b"\x08\x00" and frame[26:30] == wanted):
                    frame = frame[:front]
                    file.write(struct.pack("<IIII", seconds, nanos, len(frame), length))
                    file.write(frame)
                    taken += 1
                at += following
            status.value = 0
            block = (block + 1) % BLOCKS
    dropped = struct.unpack("III", link.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12))[1]
    print(f"{taken} packets captured, {dropped} dropped by the kernel", flush=True)


if __name__ == "__main__":
    words, options = sys.argv[1:3], dict(zip(sys.argv[3::2], sys.argv[4::2]))
    if len(words) != 2 or len(sys.argv) % 2 == 0 or set(options) - {"--source", "--front"}:
        sys.exit(__doc__)
    main(*words, options.get("--source"), int(options["--front"]) if "--front" in options else None)
