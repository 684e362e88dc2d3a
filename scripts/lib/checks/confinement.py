"""Who sees whom: the client talks to its entry only, the origin sees exits only, nobody holds both addresses."""

import threading
import time

import network as net
import pcap
import tls
from checks import CLIENT_CELL, RELAY_CELL, FOLDER, Check, Fault, changed
from report import row

DNS_PORTS = {53, 853, 5353, 5355}


class Confinement(Check):
    def __init__(self):
        super().__init__("confinement", "the client talks to its entry only, the origin sees exits only")

    def measure(self, network, options):
        path = FOLDER / "client.pcap"
        before = network.seen()
        network.kill("client", net.signal.SIGTERM)
        capture = network.capture("client", path)
        started = network.start("client")
        sockets, done = {}, threading.Event()

        def watch():
            while not done.is_set():
                for host in network.hosts.values():
                    for remote in network.connections(host):
                        sockets.setdefault(host.name, set()).add(remote.rsplit(":", 1)[0])

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            fetched = network.curl("/bytes/3000000" if options.short else "/10m")
            time.sleep(1)
        finally:
            done.set()
            watcher.join()
        network.finish_capture(capture, path)
        after = network.seen()
        hosts = network.hosts
        logs = {}
        for host in hosts.values():
            if host.role != "origin":
                text = host.log.read_text(errors="replace") + host.output.read_text(errors="replace")
                strangers = [hosts["client"].address, hosts["origin"].address, net.ORIGIN_NAME]
                if host.role == "client":
                    strangers = [hosts["origin"].address, net.ORIGIN_NAME] + [h.address for h in hosts.values() if h.role == "exit"]
                logs[host.name] = [line for line in text.splitlines() if any(_holds(line, word) for word in strangers)]
        return {
            "capture": path.read_bytes(),
            "client": hosts["client"].address,
            "origin": hosts["origin"].address,
            "entries": [host.address for host in network.of("entry")],
            "exits": [host.address for host in network.of("exit")],
            "served_before": before["served"],
            "served": after["served"],
            "sockets": {name: sorted(remotes) for name, remotes in sockets.items()},
            "logs": logs,
            "fetched": fetched["exit"] == 0 and fetched["code"] == 200,
            "start": started,
        }

    def judge(self, evidence, options):
        packets = list(pcap.parse(evidence["capture"]))
        # Address resolution on the local wire is not ours, nor is what the kernel multicasts to find routers.
        wire = [packet for packet in packets if packet.kind not in ("arp", "neighbour")]
        peers = {}
        for packet in wire:
            other = packet.destination if packet.source == evidence["client"] else packet.source
            peers[other] = peers.get(other, 0) + 1
        entries = [peer for peer in peers if peer in evidence["entries"]]
        busiest = max(entries, key=peers.get, default=None)
        elsewhere = sum(count for peer, count in peers.items() if peer != busiest)
        dns = sum(1 for p in wire if p.kind in ("tcp", "udp") and {p.source_port, p.destination_port} & DNS_PORTS)
        served = {
            peer: count - evidence["served_before"].get(peer, 0)
            for peer, count in evidence["served"].items()
            if count > evidence["served_before"].get(peer, 0)
        }
        both = [
            name for name, remotes in evidence["sockets"].items()
            if evidence["client"] in remotes and evidence["origin"] in remotes
        ]
        sees_client = [name for name, remotes in evidence["sockets"].items() if evidence["client"] in remotes]
        sees_origin = [name for name, remotes in evidence["sockets"].items() if evidence["origin"] in remotes]
        logged = sum(len(lines) for lines in evidence["logs"].values())
        return [
            row("confinement: the download came", "yes" if evidence["fetched"] else "no", goal="= yes"),
            row("confinement: packets captured at the client", len(wire), "packets", ">= 500"),
            row("confinement: of these to or from others than its entry", elsewhere, "packets", "<= 0"),
            row("confinement: DNS packets at the client", dns, "packets", "<= 0"),
            row("confinement: connections that the origin saw from exits", sum(served.get(e, 0) for e in evidence["exits"]), "", ">= 1"),
            row("confinement: peers of the origin that are no exits", sum(1 for peer in served if peer not in evidence["exits"]), "peers", "<= 0"),
            row("confinement: hosts seen connected to the client", len(sees_client), "hosts", ">= 1"),
            row("confinement: hosts seen connected to the origin", len(sees_origin), "hosts", ">= 1"),
            row("confinement: processes that hold both addresses", len(both), "processes", "<= 0"),
            row("confinement: log lines with an address or name of others", logged, "lines", "<= 0"),
        ]

    def sample(self):
        client, entry = "10.41.0.1", "10.21.0.1"
        packets = [
            pcap.Packet(1 + n / 100, "tcp", *((client, entry, 5000, 7000) if n % 2 else (entry, client, 7000, 5000)), n * 100, pcap.ACK, b"x" * 100)
            for n in range(600)
        ]
        return {
            "capture": pcap.write(packets),
            "client": client,
            "origin": "10.90.0.1",
            "entries": [entry, "10.22.0.1"],
            "exits": ["10.31.0.1", "10.32.0.1"],
            "served_before": {"10.31.0.1": 1},
            "served": {"10.31.0.1": 2},
            "sockets": {"entry21": [client, "10.11.0.1"], "exit31": ["10.90.0.1", "10.12.0.1"]},
            "logs": {"entry21": []},
            "fetched": True,
        }

    def faults(self, evidence):
        packets = list(pcap.parse(evidence["capture"]))
        client, last = evidence["client"], packets[-1].time
        extra = lambda *packet: pcap.write([p for p in packets if p.kind in ("tcp", "udp") and "." in p.source] + list(packet))
        query = pcap.Packet(last, "udp", client, "192.0.2.53", 40000, 53, payload=b"query")
        other = next(entry for entry in evidence["entries"] if entry != packets[0].destination and entry != packets[0].source)
        yield Fault("one DNS query in the capture", changed(evidence, capture=extra(query)), "confinement: DNS")
        direct = pcap.Packet(last, "tcp", client, evidence["origin"], 40000, 80, 1, pcap.SYN)
        yield Fault("one packet to the origin", changed(evidence, capture=extra(direct)), "confinement: of these")
        second = pcap.Packet(last, "tcp", client, other, 40000, 7000, 1, pcap.SYN)
        yield Fault("one packet to a second entry", changed(evidence, capture=extra(second)), "confinement: of these")
        yield Fault("an empty capture", changed(evidence, capture=pcap.write([])), "confinement: packets captured")
        served = {**evidence["served"], client: 1}
        yield Fault("the origin saw the client", changed(evidence, served=served), "confinement: peers of the origin")
        yield Fault("the origin saw nobody", changed(evidence, served=evidence["served_before"]), "confinement: connections")
        both = {**evidence["sockets"], "exit31": [client, evidence["origin"]]}
        yield Fault("an exit that also holds the client's address", changed(evidence, sockets=both), "confinement: processes")
        yield Fault("a watch that saw no sockets", changed(evidence, sockets={}), "confinement: hosts seen")
        yield Fault("a log line with the origin's name", changed(evidence, logs={"exit31": ["to hello.test"]}), "confinement: log")


class Records(Check):
    """Uses the capture that Confinement makes, and one of a mix whose links are made anew."""

    def __init__(self):
        super().__init__("records", "records on client links have one length, relay links carry whole cells")

    def measure(self, network, options):
        path = FOLDER / "client.pcap"
        if not path.exists() or path.stat().st_mtime < (network.folder / "network.json").stat().st_mtime:
            Confinement().measure(network, options)
        mix = network.of("mix")[0].name
        network.kill(mix)
        relay_path = FOLDER / "relay.pcap"
        capture = network.capture(mix, relay_path)
        network.start(mix)
        # Neighbours dial again after their backoff, and the mix is in the next consensus.
        time.sleep(5 if options.short else 25)
        network.curl("/bytes/1000000" if options.short else "/bytes/5000000")
        network.finish_capture(capture, relay_path)
        return {"capture": path.read_bytes(), "client": network.hosts["client"].address, "relay_capture": relay_path.read_bytes()}

    def judge(self, evidence, options):
        wanted = CLIENT_CELL + tls.OVERHEAD
        rows = []
        links = {"upward": [], "downward": []}
        for up, down in tls.connections(pcap.parse(evidence["capture"])):
            if up.source[0] == evidence["client"] and tls.offered_protocols(up) == ["mizzle/1"]:
                links["upward"].append(up)
                if down:
                    links["downward"].append(down)
        for name, directions in links.items():
            lengths = [r.length for d in directions for r in tls.after_handshake(list(tls.records(d)), wanted)]
            seen = sorted(set(lengths))
            shown = ", ".join(str(length) for length in seen[:5]) or "none"
            rows.append(row(f"records: lengths on the client's link, {name}", shown, "bytes", f"= {wanted}"))
            rows.append(row(f"records: records examined, {name}", len(lengths), "records", ">= 100"))
        broken, bursts, total, streams = relay_cells(pcap.parse(evidence["relay_capture"]))
        return rows + [
            row("records: directions of relay links examined", streams, "", ">= 4"),
            row("records: bursts on relay links examined", bursts, "bursts", ">= 100"),
            row("records: bursts that are no multiple of the cell", broken, "bursts", "<= 0"),
            row("records: cells on relay links", total // RELAY, "cells", ">= 100"),
        ]

    def sample(self):
        from tests.test_reading import hello, record, stream

        ends = ("10.41.0.1", 40000, "10.21.0.1", 7000)
        back = (ends[2], ends[3], ends[0], ends[1])
        cells = [record(CLIENT_CELL + tls.OVERHEAD) for _ in range(120)]
        client = stream([hello("mizzle/1"), record(90)] + cells, ends=ends)
        client += stream([b"\x16\3\3\0\5hello", record(600), record(80)] + cells, start=1.005, ends=back)
        relay = []
        for n in range(4):
            pairs = ("10.11.0.1", 41000 + n, f"10.1{4 + n}.0.1", 7000)
            bursts = []
            for count in [1, 3, 8, 2] * 15:
                size, records = count * RELAY, []
                while size:
                    part = min(size, 16384)
                    records.append(record(part + tls.OVERHEAD))
                    size -= part
                bursts.append(b"".join(records))
            relay += stream([hello("mizzle/1"), record(200)] + bursts, start=2 + n, ends=pairs)
        return {"capture": pcap.write(client), "client": "10.41.0.1", "relay_capture": pcap.write(relay)}

    def faults(self, evidence):
        from tests.test_reading import record, stream

        wanted = CLIENT_CELL + tls.OVERHEAD

        def with_record(source, length, protocol="tcp"):
            packets = [p for p in pcap.parse(evidence["capture"]) if p.kind == protocol]
            last = [p for p in packets if p.source == source and p.payload][-1]
            extra = pcap.Packet(last.time + 0.1, "tcp", last.source, last.destination, last.source_port, last.destination_port,
                                (last.sequence + len(last.payload)) & 0xFFFFFFFF, pcap.ACK, record(length))
            return pcap.write(packets + [extra])

        first = next(p for p in pcap.parse(evidence["capture"]) if p.source == evidence["client"])
        yield Fault("a second length upward", changed(evidence, capture=with_record(evidence["client"], wanted - 1)), "records: lengths on the client's link, upward")
        yield Fault("a second length downward", changed(evidence, capture=with_record(first.destination, 24)), "records: lengths on the client's link, downward")
        yield Fault("no client link in the capture", changed(evidence, capture=pcap.write([])), "records: lengths")
        packets = [p for p in pcap.parse(evidence["relay_capture"]) if p.kind == "tcp"]
        last = [p for p in packets if p.payload and p.source == "10.11.0.1" or p.payload][-1]
        extra = pcap.Packet(last.time + 0.1, "tcp", last.source, last.destination, last.source_port, last.destination_port,
                            (last.sequence + len(last.payload)) & 0xFFFFFFFF, pcap.ACK, record(RELAY + tls.OVERHEAD + 3))
        yield Fault("three bytes beyond a cell between relays", changed(evidence, relay_capture=pcap.write(packets + [extra])), "records: bursts that")


RELAY = RELAY_CELL


def relay_cells(packets):
    """Bursts on relay links, and those whose plaintext is no multiple of the cell. A record that is not full ends a
    burst; at that point all that was sent on the link must be whole cells."""
    broken = bursts = total = streams = 0
    for up, down in tls.connections(packets):
        if "mizzle/1" not in tls.offered_protocols(up):
            continue
        for direction in (up, down):
            if direction is None:
                continue
            data = [r for r in tls.records(direction) if r.kind == tls.DATA]
            first = next((i for i, r in enumerate(data[:8]) if r.length - tls.OVERHEAD >= RELAY), None)
            if first is None:
                continue
            streams += 1
            running = 0
            for record in data[first:]:
                running += record.length - tls.OVERHEAD
                if record.length - tls.OVERHEAD < 16384:
                    bursts += 1
                    if running % RELAY:
                        broken += 1
                        running = 0
            total += running
    return broken, bursts, total, streams


def _holds(line, word):
    """True if a line holds an address or a name, not merely a longer one that begins alike."""
    at = line.find(word)
    return at >= 0 and not line[at + len(word) : at + len(word) + 1].isdigit()
