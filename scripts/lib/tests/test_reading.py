import random
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pcap  # noqa: E402
from checks import by_test, logs  # noqa: E402
import report  # noqa: E402
import stats  # noqa: E402
import tls  # noqa: E402


def hello(*protocols):
    names = b"".join(bytes([len(p)]) + p.encode() for p in protocols)
    alpn = (16).to_bytes(2, "big") + (len(names) + 2).to_bytes(2, "big") + len(names).to_bytes(2, "big") + names
    body = b"\3\3" + b"r" * 32 + b"\0" + b"\0\2\x13\1" + b"\1\0" + len(alpn).to_bytes(2, "big") + alpn
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + len(message).to_bytes(2, "big") + message


def record(length, kind=23):
    return bytes([kind, 3, 3]) + length.to_bytes(2, "big") + b"x" * length


def stream(chunks, first=0xFFFFFF00, start=1.0, syn=True, ends=("10.1.0.1", 40000, "10.2.0.1", 7000)):
    packets, sequence, time = [], first, start
    if syn:
        packets.append(pcap.Packet(time, "tcp", ends[0], ends[2], ends[1], ends[3], sequence, pcap.SYN))
        sequence = (sequence + 1) & 0xFFFFFFFF
    for chunk in chunks:
        time += 0.02
        packets.append(pcap.Packet(time, "tcp", ends[0], ends[2], ends[1], ends[3], sequence, pcap.ACK, chunk))
        sequence = (sequence + len(chunk)) & 0xFFFFFFFF
    return packets


class Captures(unittest.TestCase):
    def test_a_written_capture_reads_back(self):
        packets = stream([b"one", b"two"]) + [pcap.Packet(9.5, "udp", "10.1.0.1", "9.9.9.9", 5353, 53, payload=b"query")]
        again = list(pcap.parse(pcap.write(packets)))
        self.assertEqual([(p.kind, p.source, p.destination_port, p.payload) for p in again],
                         [(p.kind, p.source, p.destination_port, p.payload) for p in packets])
        self.assertAlmostEqual(again[-1].time, 9.5)

    def test_what_is_no_capture_is_refused_and_a_cut_one_read_as_far_as_it_goes(self):
        with self.assertRaises(pcap.CaptureError):
            list(pcap.parse(b"x" * 30))
        data = pcap.write(stream([b"one", b"two"]))
        self.assertEqual(len(list(pcap.parse(data[:-1]))), 2)


class Tests(unittest.TestCase):
    def test_figures_belong_to_the_test_that_told_them(self):
        output = "test one ... ok\n---- one stdout ----\nfigure: p99, a | 1.500 | ms | <= 2\nother\n\n---- two stdout ----\nfigure: b | 3 |  | \nfigure: c | x\n"
        self.assertEqual(by_test.figures(output), {"one": [["p99, a", 1.5, "ms", "<= 2"]], "two": [["b", 3.0, "", ""]]})


class Leaks(unittest.TestCase):
    def test_ordinary_lines_hold_no_secret(self):
        keys = [bytes((n * 31 + i * i) % 256 for i in range(32)).hex() for n in range(50)]
        search = logs.Search({"address": ["10.1.0.1", "127.0.0.1"], "name": ["hello.test"], "key": keys})
        for line in (
            "2026-11-25T03:19:05.961682Z  INFO preset local: an epoch is 20s, a key period 600s",
            "up 6 h; 2000 packets, 0.00 % lost; 12 MB; links 3 out, 3 in; listed; 110.1.0.11, version 10.1.0.12, hello.tests",
            "numbers 1, 2, 3, 4, 5 and 00:11:22:33 and c0ffee00c0ffee and 4294967295",
        ):
            self.assertEqual(search.hits(line), [])

    def test_a_secret_is_found_in_every_form(self):
        search = logs.Search({"address": ["10.1.0.1"], "name": ["hello.test"], "key": [bytes(range(7, 39)).hex()]})
        missed = [(kind, way) for kind, way, line in search.planted() if not any(hit == kind for hit, _ in search.hits(line))]
        self.assertEqual(missed, [])


class Records(unittest.TestCase):
    def test_records_over_segment_borders_wraps_and_repeats(self):
        data = hello("mizzle/1") + record(70) + b"".join(record(500) for _ in range(40))
        chunks = [data[i : i + 333] for i in range(0, len(data), 333)]
        packets = stream(chunks)
        packets.insert(5, packets[4])
        packets[8], packets[9] = packets[9], packets[8]
        (direction,) = tls.directions(pcap.parse(pcap.write(packets)))
        lengths = [r.length for r in tls.after_handshake(tls.records(direction), 500)]
        self.assertEqual(lengths, [500] * 40)
        self.assertEqual(tls.offered_protocols(direction), ["mizzle/1"])

    def test_a_missing_segment_is_an_error_not_a_guess(self):
        packets = stream([record(50), record(50), record(50)])
        del packets[2]
        with self.assertRaises(tls.StreamError):
            list(tls.directions(packets))

    def test_a_capture_from_the_middle_starts_at_a_cell(self):
        packets = stream([b"tail of a record", record(50), record(50)], syn=False)
        (direction,) = tls.directions(packets)
        found = list(tls.records(direction, expected=50))
        self.assertEqual([r.length for r in found], [50, 50])
        self.assertAlmostEqual(found[1].time - found[0].time, 0.02)

    def test_a_second_length_is_seen(self):
        data = hello("mizzle/1") + record(70) + record(500) + record(499) + record(500)
        (direction,) = tls.directions(stream([data]))
        self.assertEqual([r.length for r in tls.after_handshake(tls.records(direction), 500)], [500, 499, 500])


class Statistics(unittest.TestCase):
    def test_distances(self):
        rng = random.Random(1)
        first = [rng.expovariate(50) for _ in range(4000)]
        second = [rng.expovariate(50) for _ in range(4000)]
        faster = [rng.expovariate(60) for _ in range(4000)]
        self.assertLess(stats.ks_two_samples(first, second), 0.06)
        self.assertGreater(stats.ks_two_samples(first, faster), 0.06)
        sums = [sum(rng.expovariate(1 / 20) for _ in range(3)) for _ in range(5000)]
        self.assertLess(stats.ks_law(sums, stats.erlang(3, 20)), stats.ks_bound(5000))
        self.assertGreater(stats.ks_law(sums, stats.erlang(3, 21)), stats.ks_bound(5000) / 2)
        self.assertEqual(stats.ks_two_samples([1, 1, 2], [1, 1, 2]), 0)

    def test_correlation_and_quantiles(self):
        self.assertAlmostEqual(stats.correlation([1, 2, 3], [2, 4, 6]), 1)
        self.assertTrue(stats.correlation([1, 1, 1], [1, 2, 3]) != stats.correlation([1, 1, 1], [1, 2, 3]))
        self.assertEqual(stats.quantile(range(1, 101), 0.5), 50)
        self.assertEqual(stats.median([3, 1, 2, 4]), 2.5)


class Reports(unittest.TestCase):
    def test_goals(self):
        self.assertTrue(report.meets(0.05, "<= 0.06"))
        self.assertFalse(report.meets(0.07, "<= 0.06"))
        self.assertFalse(report.meets(float("nan"), "<= 0.06"))
        self.assertFalse(report.meets("many", "<= 0.06"))
        self.assertTrue(report.meets("yes", "= yes"))
        self.assertFalse(report.meets(True, ">= 1"))

    def test_what_was_skipped_has_not_passed(self):
        row = report.skipped("a check", "no tcpdump")
        self.assertFalse(row.as_json()["pass"])
        self.assertEqual(list(row.as_json()), ["name", "value", "unit", "peer", "ratio", "goal", "pass"])


if __name__ == "__main__":
    unittest.main()
