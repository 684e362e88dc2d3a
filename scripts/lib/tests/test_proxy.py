"""What of `scripts/accept proxy` and `scripts/bench proxy` needs no network."""

import json
import random
import socket
import struct
import subprocess
import sys
import threading
import unittest
from pathlib import Path

LIB = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(LIB), str(LIB / "tests")]

import bench_proxy  # noqa: E402
import cells  # noqa: E402
import network  # noqa: E402
import pcap  # noqa: E402
import socks  # noqa: E402
import socks_cases  # noqa: E402
import socks_talk  # noqa: E402
from checks import bulk, life, shape  # noqa: E402
from test_reading import hello, stream  # noqa: E402

CLIENT, ENTRY = "10.41.7.1", "10.21.7.1"


def fronts(segments):
    """A capture of the first bytes of segments: (time, source, destination, sequence, payload)."""
    out = [struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1)]
    for time, source, destination, sequence, payload in segments:
        tcp = struct.pack(">HHIIBBHHH", 5000, 7000, sequence & 0xFFFFFFFF, 0, 0x50, pcap.ACK, 65535, 0, 0) + payload
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 0, 0, 64, pcap.TCP, 0, socket.inet_aton(source), socket.inet_aton(destination))
        frame = b"\0" * 12 + b"\x08\x00" + ip + tcp
        kept = frame[: cells.FRONT]
        out.append(struct.pack("<IIII", int(time), round(time % 1 * 1e9), len(kept), len(frame)) + kept)
    return b"".join(out)


class Cells(unittest.TestCase):
    record = cells.HEADER + b"x" * (cells.RECORD - 5)

    def test_cells_are_found_in_fronts_across_segments_and_wrapped_numbers(self):
        first = 0xFFFFFFF0
        segments = [
            (1.0, CLIENT, ENTRY, first - 30, b"tail of a cell before this"),
            (2.0, CLIENT, ENTRY, first, self.record[:1448]),
            (2.001, CLIENT, ENTRY, first + 1448, self.record[1448:] + self.record[:10]),
            (3.0, CLIENT, ENTRY, first + cells.RECORD + 10, self.record[10:] + self.record),
            (2.5, ENTRY, CLIENT, 77, self.record * 2),
        ]
        up, down = cells.times(fronts(segments), CLIENT)
        self.assertEqual([round(moment, 3) for moment in up], [2.0, 2.001, 3.0])
        self.assertEqual(down, [2.5, 2.5])

    def test_what_is_sent_again_is_counted_once_and_links_without_cells_not_at_all(self):
        segments = [(1.0, CLIENT, ENTRY, 5, self.record), (1.2, CLIENT, ENTRY, 5, self.record), (1.5, CLIENT, ENTRY, 5 + cells.RECORD, self.record)]
        self.assertEqual(cells.times(fronts(segments), CLIENT)[0], [1.0, 1.5])
        self.assertEqual(cells.times(fronts([(1.0, CLIENT, ENTRY, 5, b"GET / HTTP/1.1")]), CLIENT), ([], []))


class Settings(unittest.TestCase):
    def test_settings_stand_before_tables_and_replace_what_was_there(self):
        text = 'socks = "127.0.0.1:1"\noutbound = "127.0.0.2"\n\n[table]\nx = 1\n'
        changed = network.with_settings(text, {"level": "strong", "step": 2, "outbound": None, "socks": "127.0.0.1:9"})
        self.assertEqual(changed.splitlines()[:3], ['level = "strong"', "step = 2", 'socks = "127.0.0.1:9"'])
        self.assertNotIn("outbound", changed)
        self.assertEqual(changed.count("socks"), 1)
        self.assertTrue(changed.endswith("[table]\nx = 1\n"))


class Socks(unittest.TestCase):
    def test_requests_have_the_bytes_of_the_standards(self):
        self.assertEqual(socks.request("192.0.2.7", 80), bytes([5, 1, 0, 1, 192, 0, 2, 7, 0, 80]))
        self.assertEqual(socks.request("a.test", 258), b"\x05\x01\x00\x03\x06a.test\x01\x02")
        self.assertEqual(socks.request(socks.name("::1"), 1)[:6], b"\x05\x01\x00\x03\x03:")
        self.assertEqual(len(socks.request("::1", 1)), 22)
        self.assertEqual(socks.request4("192.0.2.7", 80, b"me"), b"\x04\x01\x00\x50\xc0\x00\x02\x07me\0")
        self.assertEqual(socks.request4("192.0.2.7", 80, b"", b"a.test"), b"\x04\x01\x00\x50\x00\x00\x00\x01\0a.test\0")

    def test_datagrams_open_as_they_were_made(self):
        for host in ("192.0.2.7", "::1", "a.test"):
            self.assertEqual(socks.open_datagram(socks.datagram(host, 53, b"body")), (host, 53, b"body"))
        with self.assertRaises(socks.SocksError):
            socks.open_datagram(socks.datagram("::1", 53, b"body", fragment=1))

    def test_case_names_differ_and_each_case_fails_against_a_port_that_is_silent_or_says_nonsense(self):
        server = socket.create_server(("127.0.0.1", 0))
        port = f"127.0.0.1:{server.getsockname()[1]}"

        def serve():
            while True:
                try:
                    link, _ = server.accept()
                    link.sendall(b"nonsense")
                    link.close()
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        cases = socks_cases.cases(socks_cases.Where(port, "hello.test", "127.0.0.1", "::1", 1))
        names = [name for name, _, _ in cases]
        self.assertEqual(len(names), len(set(names)))
        results = socks_talk.run(cases, port, (socks_talk.TOGETHER,), 16)
        server.close()
        self.assertEqual([result["case"] for result in results if not result["wrong"]], [])


class Datagrams(unittest.TestCase):
    """udp_client.py against a port of a few lines, once strict and once open to everybody."""

    def port(self, strict):
        seen, server = [], socket.create_server(("127.0.0.1", 0))

        def serve():
            while True:
                try:
                    link, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=self.associate, args=(link, strict, seen), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        self.addCleanup(server.close)
        return f"127.0.0.1:{server.getsockname()[1]}", seen

    def associate(self, link, strict, seen):
        with link, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as relay:
            self.relay(link, relay, strict, seen)

    def relay(self, link, relay, strict, seen):
        socks.exactly(link, 3 + 10)
        relay.bind(("127.0.0.1", 0))
        relay.settimeout(0.05)
        link.sendall(b"\x05\x00" + b"\x05\x00\x00\x01" + socket.inet_aton("127.0.0.1") + struct.pack(">H", relay.getsockname()[1]))
        link.settimeout(0.01)
        first = None
        while True:
            try:
                ended = link.recv(1) == b""
                if ended and (strict or b"after the end" in seen or b"marked" in seen):
                    return
            except TimeoutError:
                pass
            except OSError:
                return
            try:
                data, source = relay.recvfrom(65536)
            except TimeoutError:
                continue
            first = first or source
            try:
                host, port, body = socks.open_datagram(data if strict else data[:2] + b"\0" + data[3:])
            except (socks.SocksError, IndexError, ValueError):
                continue
            if (source == first and len(body) <= 1365) or not strict:
                seen.append(body)
                relay.sendto(socks.datagram("192.0.2.7", port, body), source)

    def told(self, strict):
        port, seen = self.port(strict)
        out = subprocess.run([sys.executable, "-B", str(LIB / "udp_client.py"), port, "a.test", "192.0.2.7", "0.5"], capture_output=True, text=True, timeout=60)
        return json.loads(out.stdout), seen

    def test_a_strict_port_is_told_from_one_that_is_open_to_everybody(self):
        told, seen = self.told(strict=True)
        self.assertEqual((told["sent"], told["echoed"], told["unasked"], told["after_end"], told["marked"]), (20, 20, [], [], True))
        self.assertFalse({b"a fragment", b"a stranger's", b"after the end", b"too large " * 300} & set(seen))
        told, seen = self.told(strict=False)
        self.assertLessEqual({b"a fragment", b"a stranger's", b"after the end", b"too large " * 300}, set(seen))
        self.assertEqual(told["after_end"], ["after the end"])
        self.assertIn("a stranger's", told["unasked"])


class Judging(unittest.TestCase):
    def test_a_ramp_and_a_share_are_read_from_curves(self):
        slow = [(n / 10, max(0, n - 20) * 100) for n in range(101)]
        self.assertAlmostEqual(bench_proxy.ramp({"begun": 0.0, "curve": slow}), 2.3, delta=0.15)
        fair = [[(n / 10, n * 100) for n in range(101)] for _ in range(4)]
        self.assertLess(bench_proxy.share_error(fair), 0.01)
        fair[0] = [(n / 10, n * 50) for n in range(101)]
        self.assertGreater(bench_proxy.share_error(fair), 0.4)
        self.assertAlmostEqual(bench_proxy.erlang_median(3, 1.0), 2.674, places=3)

    def test_sizes_sum_up_and_differ(self):
        sizes = bulk.random_sizes(10**8, 200, random.Random(1))
        self.assertEqual(sum(sizes), 10**8)
        self.assertGreater(len(set(sizes)), 190)

    def test_a_hash_at_each_size_is_that_of_the_beginning(self):
        content = network.Content()
        for size in (0, 1, 8, 65_535, 65_537, 131_073):
            self.assertEqual(content.digest_at(size), network.content_digest(size))

    def test_steps_are_read_from_the_rate(self):
        moments = [n / 25 for n in range(500)] + [20 + n / 100 for n in range(3000)]
        run = {"down": moments, "load": [], "start": 0.0, "end": 50.0}
        self.assertEqual([step for _, step in shape.steps_seen(run)], [0, 1])

    def test_what_is_no_tls_is_in_the_clear(self):
        packets = stream([hello("mizzle/1")], ends=(CLIENT, 40000, ENTRY, 7000))
        self.assertEqual(life.in_the_clear(packets, CLIENT), "")
        plain = stream([b"GET / HTTP/1.1\r\n\r\n"], ends=(CLIENT, 40001, ENTRY, 80))
        self.assertIn("no TLS", life.in_the_clear(packets + plain, CLIENT))


if __name__ == "__main__":
    unittest.main()
