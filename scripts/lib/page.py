#!/usr/bin/env python3
"""A page that tries to get around a browser's proxy, and tells its server what it tried and found.

    page.py ADDRESS PORT

Prints "ready", and a line for each request: asked PEER PATH.
"""

import http.server
import sys

PAGE = """<!doctype html><title>ways around</title>
<link rel="dns-prefetch" href="//prefetch.leak.test"><link rel="preconnect" href="http://connect.leak.test:8080">
<script>
const tried = ["prefetch"], found = new Set();
const quiet = (work) => Promise.race([Promise.resolve().then(work).catch(() => {}), new Promise((end) => setTimeout(end, 6000))]);
async function webrtc() {
  tried.push("webrtc");
  const peer = new RTCPeerConnection({iceServers: [{urls: ["stun:ADDRESS:3478", "stun:stun.leak.test:3478"]}]});
  peer.onicecandidate = (event) => { if (event.candidate && event.candidate.address) found.add(event.candidate.address); };
  peer.createDataChannel("x");
  await peer.setLocalDescription(await peer.createOffer());
  await new Promise((end) => setTimeout(end, 5000));
}
async function ipv6() { tried.push("ipv6"); await fetch("http://[fd00:90::1]:PORT/v6", {mode: "no-cors"}); }
async function quic() {
  tried.push("quic");
  fetch("https://ADDRESS:4433/", {mode: "no-cors"}).catch(() => {});
  if (window.WebTransport) { const session = new WebTransport("https://ADDRESS:4433/"); await session.ready; }
}
(async () => {
  await Promise.all([quiet(webrtc), quiet(ipv6), quiet(quic)]);
  const real = [...found].filter((address) => !address.endsWith(".local"));
  await fetch("/done?tried=" + tried.join(",") + "&candidates=" + (real.length ? real.join(",") : "0"));
})();
</script><p>A page that tries to get around your proxy."""


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print("asked", self.client_address[0], self.path, flush=True)
        address, port = self.server.server_address[:2]
        body = PAGE.replace("ADDRESS", address).replace("PORT", str(port)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Alt-Svc", 'h3=":4433"; ma=3600')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    server = http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Answer)
    print("ready", flush=True)
    server.serve_forever()
