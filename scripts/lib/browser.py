"""A headless Chromium that is told what to do by its own protocol, over pipes: no driver, no port, no other program."""

import base64
import json
import select
import subprocess
import time

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
]
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " ")}


class BrowserError(Exception):
    """The browser did not start, or does not do what was asked."""


class Browser:
    """One browser with one page. `at` turns words into the command that runs them where the browser is to be."""

    def __init__(self, at, profile):
        # The protocol is spoken on descriptors 3 and 4; these are the only ones that every way to a host passes on.
        line = 'exec "$@" 3<&0 4>&1 0</dev/null 1>&2'
        words = at("sh", "-c", line, "sh", "chromium", *FLAGS, f"--user-data-dir={profile}", "about:blank")
        self.log = open(f"{profile}.log", "w")
        self.child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log)
        self.number, self.buffer, self.session, self.events = 0, b"", None, []
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.tell(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.stdin.close()
        try:
            self.child.wait(8)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.child.stdout.close()
        self.log.close()

    def tell(self, method, **parameters):
        """Does one thing, and returns its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.child.stdin.write(json.dumps(message).encode() + b"\0")
        self.child.stdin.flush()
        until = time.monotonic() + 60
        while True:
            answer = self._receive(until, method)
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error'].get('message')}")
                return answer["result"]
            self.events.append(answer)

    def _receive(self, until, method):
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.child.stdout], [], [], max(0, until - time.monotonic()))
            piece = self.child.stdout.read1(65536) if ready else b""
            if not piece:
                raise BrowserError(f"the browser says nothing to {method}; see {self.log.name}")
            self.buffer += piece
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def run(self, script):
        """The value of an expression in the page, promises awaited."""
        result = self.tell("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise BrowserError(result["exceptionDetails"].get("exception", {}).get("description", "the script failed")[:200])
        return result["result"].get("value")

    def until(self, script, seconds=15):
        """Waits until an expression is true; whether it came."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if self.run(script):
                    return True
            except BrowserError:
                # The page is just being changed for another.
                pass
            time.sleep(0.1)
        return False

    def open(self, url):
        self.tell("Page.navigate", url=url)

    def click(self, selector):
        """Presses the mouse in the middle of an element, as a hand would."""
        place = self.run(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()")
        for kind in ("mousePressed", "mouseReleased"):
            self.tell("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def press(self, key):
        code, text = KEYS[key]
        self.tell("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, text=text)
        self.tell("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def look(self, width, height, dark=False, phone=False):
        """Another size and colour scheme from now on."""
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone)
        self.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def picture(self, path):
        """Writes the whole page as an image."""
        image = self.tell("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(image))

    def complaints(self, own):
        """What pages whose address begins with `own` have complained of: scripts that failed, and what a policy forbade."""
        found = []
        for event in self.events:
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(event["params"]["exceptionDetails"].get("text", "a script failed"))
            if event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error" and event["params"]["entry"].get("url", own).startswith(own):
                found.append(event["params"]["entry"]["text"])
        return found

    def asked(self):
        """Addresses that were asked for."""
        return [event["params"]["request"]["url"] for event in self.events if event.get("method") == "Network.requestWillBeSent"]
