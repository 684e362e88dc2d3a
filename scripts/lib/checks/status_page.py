"""The status page, seen and clicked in a headless Chromium on the client's host; and the monthly cap, as it shows there."""

import re
import shutil
import time

import network as net
from browser import Browser
from checks import FOLDER, Check, Fault, changed
from report import row

FOREIGN_PORT = 8099
# So much goes through the line at rest within a few seconds.
CAP = "4 MB"
SIZES = {"desktop": (1200, 900, False), "phone": (390, 844, True)}


class StatusPage(Check):
    def __init__(self):
        super().__init__("status-page", "the status page opens by its token alone, switches the level, and tells why nothing goes")

    def measure(self, network, options):
        done = net.subprocess.run([str(net.ROOT / "scripts/lib/have"), "chromium:chromium"], capture_output=True, text=True)
        if done.returncode:
            raise net.NetworkError(done.stderr.strip())
        network.client_with()
        profile = FOLDER / "browser"
        shutil.rmtree(profile, ignore_errors=True)
        # The same site, for browsers, since that knows no ports: only the origin is another.
        here = network.client_counters()["page"].rsplit(":", 1)[0]
        foreign = network.spawn("client", net.sys.executable, "-B", "-m", "http.server", "--bind", here, FOREIGN_PORT, "--directory", _empty(FOLDER / "foreign"))
        try:
            with Browser(lambda *words: network.at("client", *words), profile) as browser:
                evidence = self._use(network, browser)
                evidence |= self._cap(network, browser)
        finally:
            net.stop(foreign)
            network.client_with()
        return evidence

    def _use(self, network, browser):
        url = _entrance(network)
        address = re.match(r"http://([^/]+)/", url).group(1)
        found = {"address": address, "refused": {}}
        level = lambda: network.client_counters()["level"]
        pressed = "document.querySelector('[aria-pressed=true]')?.value"
        # The address leads in once; the page says what `status` says.
        browser.look(*_size("desktop"))
        browser.open(url)
        found["opened"] = browser.until("document.body?.dataset.home && document.getElementById('state').textContent == 'Connected'", 30)
        found["level"] = {"page": browser.run("document.getElementById('level').textContent"), "status": level()}
        found["again"] = _code(network, url)
        # Relays report how much they carry every half epoch, and the next document says what mixes hold.
        browser.until("document.getElementById('pool').textContent != 'not measured'", 120)
        found["said"] = browser.run("document.body.innerText")
        secrets = [host.identity for host in network.relays] + [network.hosts["origin"].address, net.ORIGIN_NAME]
        network.curl("/bytes/3000000", timeout=40)
        found["told"] = [word for word in secrets if word and word in browser.run("document.documentElement.outerHTML")]
        found["real"] = browser.until("[...document.querySelectorAll('tbody tr')].length > 0 && document.getElementById('in-real').textContent != '0 kbit/s'", 15)
        for name in SIZES:
            for dark in (False, True):
                browser.look(*_size(name), dark=dark, phone=SIZES[name][2])
                found[f"wide {name}"] = browser.run("document.documentElement.scrollWidth - window.innerWidth")
                browser.picture(FOLDER / f"page-{name}-{'dark' if dark else 'light'}.png")
        browser.look(*_size("desktop"))
        # By hand.
        browser.click(".levels [value=fast]")
        found["clicked"] = net.until(lambda: level() == "fast", 15) and browser.until(f"{pressed} == 'fast'")
        # By another page of this computer, which knows everything but is not this one.
        home, form = browser.run("[document.body.dataset.home, document.body.dataset.form]")
        before = network.client_counters()["page_refused"]["origins"]
        other = f"http://{address.rsplit(':', 1)[0]}:{FOREIGN_PORT}/"
        browser.open(other)
        browser.until(f"location.port == '{FOREIGN_PORT}' && document.readyState == 'complete'")
        browser.run(f"fetch('http://{address}{home}level', {{method: 'POST', mode: 'no-cors', credentials: 'include', body: new URLSearchParams({{form: '{form}', level: 'strong'}})}}).then(() => 0, () => 0)")
        time.sleep(1)
        found["foreign"] = {"refused": network.client_counters()["page_refused"]["origins"] - before, "level": level()}
        # By the keyboard: the second button after the first one.
        browser.open(f"http://{address}{home}")
        browser.until("document.readyState == 'complete'")
        browser.run("document.querySelector('.levels [value=strong]').focus()")
        browser.press("Tab")
        browser.press("Enter")
        found["keyed"] = net.until(lambda: level() == "balanced", 15)
        # As `mizzle page --open` hands it over: from a file, which for a browser is another site. No browser is opened here.
        network.run("client", network.release / "mizzle", "page", "--config", network.hosts["client"].config, "--open")
        browser.tell("Network.clearBrowserCookies")
        browser.open(f"file://{network.hosts['client'].folder}/state/page.html")
        found["handed"] = browser.until("document.body?.dataset.home && document.getElementById('state').textContent == 'Connected'", 15)
        # And without scripts.
        browser.tell("Emulation.setScriptExecutionDisabled", value=True)
        browser.tell("Page.reload")
        time.sleep(1)
        browser.click(".levels [value=strong]")
        found["unscripted"] = net.until(lambda: level() == "strong", 15)
        browser.tell("Emulation.setScriptExecutionDisabled", value=False)
        exits = lambda: [row["label"] for row in network.client_counters()["sharing"]]
        network.curl("/1k", timeout=60)
        old = exits()
        browser.open(f"http://{address}{home}")
        browser.until("document.readyState == 'complete'")
        browser.click("#identity button")
        found["identity"] = browser.until("document.getElementById('renewed').textContent.includes('nothing')")
        network.curl("/1k", timeout=60)
        found["renewed"] = bool(set(exits()) - set(old))
        cookie = browser.tell("Network.getCookies", urls=[f"http://{address}{home}"])["cookies"][0]
        for name, words in _refusals(address, home, f"Cookie: {cookie['name']}={cookie['value']}").items():
            found["refused"][name] = _code(network, *words)
        # That the other page's request came to nothing is as it should be.
        found["complaints"] = [text for text in browser.complaints(f"http://{address}/") if "net::ERR" not in text and "403" not in text][:3]
        own = (f"http://{address}/", other, "data:", "about:", "file:")
        found["elsewhere"] = [asked for asked in browser.asked() if not asked.startswith(own)][:3]
        return found

    def _cap(self, network, browser):
        network.client_with(cap=CAP)
        browser.open(_entrance(network))
        rests = browser.until("document.body?.dataset.home && document.getElementById('state').textContent == 'Resting'", 90)
        browser.picture(FOLDER / "page-resting.png")
        text = browser.run("document.getElementById('problems').innerText")
        code, reason = network.client_status()
        first = network.client_counters()
        fetched = network.curl("/1k", timeout=20)
        time.sleep(2)
        later = network.client_counters()
        doctor = network.run("client", network.release / "mizzle", "doctor", "--config", network.hosts["client"].config).stdout
        return {
            "cap": {
                "rests": rests, "page": text, "code": code, "reason": reason, "curl": fetched["exit"],
                "grows": later["bytes_out"] + later["bytes_in"] - first["bytes_out"] - first["bytes_in"],
                "doctor": next((line for line in doctor.splitlines() if "budget" in line), doctor[-100:]),
            }
        }

    def judge(self, evidence, options):
        yes = lambda value: "yes" if value else "no"
        page, status = evidence["level"]["page"], evidence["level"]["status"]
        wide = [f"{name}: {evidence[f'wide {name}']} px" for name in SIZES if evidence[f"wide {name}"] > 0]
        let_in = [f"{name}: {code}" for name, code in evidence["refused"].items() if code not in REFUSALS[name]]
        cap = evidence["cap"]
        return [
            row("status-page: it opens, connected", yes(evidence["opened"]), goal="= yes"),
            row("status-page: its level is that of `mizzle status`", page if page == status else f"{page}, not {status}", goal=f"= {status}"),
            row("status-page: the same address opens it again", evidence["again"], goal="= 403"),
            row("status-page: relays, addresses or names that it tells", ", ".join(evidence["told"]) or "none", goal="= none"),
            row("status-page: what is simulated of this step is told", yes(re.search(r"1\sMiB", evidence["said"]) is not None and "not measured" not in evidence["said"]), goal="= yes"),
            row("status-page: packets in a mix are told", yes(re.search(r"at most|fewer than", evidence["said"]) is not None), goal="= yes"),
            row("status-page: a download shows as your programs' and as a session", yes(evidence["real"]), goal="= yes"),
            row("status-page: wider than the window", ", ".join(wide) or "nowhere", goal="= nowhere"),
            row("status-page: a click on `fast` shows in `mizzle status`", yes(evidence["clicked"]), goal="= yes"),
            row("status-page: changes by another page of this computer that were refused", evidence["foreign"]["refused"], "", "== 1"),
            row("status-page: the level after that", evidence["foreign"]["level"], goal="= fast"),
            row("status-page: the keyboard switches it", yes(evidence["keyed"]), goal="= yes"),
            row("status-page: it opens from the file of `mizzle page --open`", yes(evidence["handed"]), goal="= yes"),
            row("status-page: it works without scripts", yes(evidence["unscripted"]), goal="= yes"),
            row("status-page: a new identity has other sessions", yes(evidence["identity"] and evidence["renewed"]), goal="= yes"),
            row("status-page: requests that should be refused, and were not", ", ".join(let_in) or "none", goal="= none"),
            row("status-page: complaints of the browser", "; ".join(evidence["complaints"])[:160] or "none", goal="= none"),
            row("status-page: asked of others", ", ".join(evidence["elsewhere"]) or "nothing", goal="= nothing"),
            row("status-page: at the cap the page says so", yes(cap["rests"] and "cap" in cap["page"]), goal="= yes"),
            row("status-page: at the cap `mizzle status` fails and says why", yes(cap["code"] != 0 and "cap" in cap["reason"]), goal="= yes"),
            row("status-page: at the cap `mizzle doctor` says why", yes(cap["doctor"].startswith("FAIL budget") and "cap" in cap["doctor"]), goal="= yes"),
            row("status-page: at the cap a download fails", yes(cap["curl"] != 0), goal="= yes"),
            row("status-page: at the cap, bytes on the line in two seconds and a download", cap["grows"], "bytes", "<= 0"),
        ]

    def sample(self):
        return {
            "address": "127.41.7.1:9149", "opened": True, "level": {"page": "balanced", "status": "balanced"}, "again": "403", "told": [],
            "said": "4 KiB 0 %, 1 MiB 3 % 4 at most", "real": True, "wide desktop": 0, "wide phone": 0, "clicked": True,
            "foreign": {"refused": 1, "level": "fast"}, "keyed": True, "handed": True, "unscripted": True, "identity": True, "renewed": True,
            "refused": {name: codes[0] for name, codes in REFUSALS.items()}, "complaints": [], "elsewhere": [],
            "cap": {"rests": True, "page": "The monthly cap is used up", "code": 1, "reason": "the monthly cap", "curl": 97, "grows": 0, "doctor": "FAIL budget: the monthly cap"},
        }

    def faults(self, evidence):
        cap = lambda **fault: changed(evidence, cap={**evidence["cap"], **fault})
        yield Fault("a page that does not open", changed(evidence, opened=False), "status-page: it opens")
        yield Fault("another level than it is", changed(evidence, level={"page": "strong", "status": "fast"}), "status-page: its level")
        yield Fault("a token that serves twice", changed(evidence, again="200"), "status-page: the same address")
        yield Fault("an identity on the page", changed(evidence, told=["aa"]), "status-page: relays")
        yield Fault("figures that nobody measured", changed(evidence, said="not measured, fewer than 1"), "status-page: what is simulated")
        yield Fault("no traffic shown", changed(evidence, real=False), "status-page: a download")
        yield Fault("too wide for a phone", changed(evidence, **{"wide phone": 40}), "status-page: wider")
        yield Fault("a switch that does nothing", changed(evidence, clicked=False), "status-page: a click")
        yield Fault("any page may switch", changed(evidence, foreign={"refused": 0, "level": "strong"}), "status-page: changes by")
        yield Fault("refused, yet done", changed(evidence, foreign={"refused": 1, "level": "strong"}), "status-page: the level after")
        yield Fault("no keyboard", changed(evidence, keyed=False), "status-page: the keyboard")
        yield Fault("a cookie that is not sent after the file", changed(evidence, handed=False), "status-page: it opens from")
        yield Fault("nothing without scripts", changed(evidence, unscripted=False), "status-page: it works")
        yield Fault("an identity that stays", changed(evidence, renewed=False), "status-page: a new identity")
        for name in REFUSALS:
            yield Fault(f"served all the same: {name}", changed(evidence, refused={**evidence["refused"], name: "200"}), "status-page: requests")
        yield Fault("a policy that breaks the page", changed(evidence, complaints=["Refused to apply inline style"]), "status-page: complaints")
        yield Fault("a font from elsewhere", changed(evidence, elsewhere=["https://fonts.test/"]), "status-page: asked")
        yield Fault("a cap that is not told", cap(page=""), "status-page: at the cap the page")
        yield Fault("a cap that status does not know", cap(code=0, reason=""), "status-page: at the cap `mizzle status`")
        yield Fault("a cap that doctor does not know", cap(doctor="pass budget"), "status-page: at the cap `mizzle doctor`")
        yield Fault("a cap that lets downloads through", cap(curl=0), "status-page: at the cap a download")
        yield Fault("a cap that goes on sending", cap(grows=40_000), "status-page: at the cap, bytes")


# Which answers are right for what must not be answered otherwise; 000: no answer at all.
REFUSALS = {
    "no token": ("403",), "a wrong token": ("403",), "a foreign host": ("403",), "no host": ("403",), "a GET for a change": ("405",),
    "a head without end": ("413", "000"), "an endless body": ("413", "000"), "a slow request": ("000",),
}


def _refusals(address, home, cookie):
    """curl's words for each; with the cookie where something else is what must be refused."""
    url, known = f"http://{address}", ("-H", cookie)
    return {
        "no token": (f"{url}{home}",),
        "a wrong token": (f"{url}/enter/{'0' * 64}",),
        "a foreign host": (*known, "-H", "Host: evil.test:9149", f"{url}{home}"),
        "no host": (*known, "-H", "Host:", f"{url}{home}"),
        "a GET for a change": (*known, f"{url}{home}level"),
        "a head without end": (*known, "-H", f"X-Long: {'x' * 20_000}", f"{url}{home}"),
        "an endless body": (*known, "-X", "POST", "-d", "x" * 5_000, f"{url}{home}level"),
        # Announces more than it sends.
        "a slow request": (*known, "-X", "POST", "-H", "Content-Length: 900", "-d", "x", f"{url}{home}level"),
    }


def _code(network, *words):
    form = ["curl", "-sS", "--noproxy", "*", "--max-time", "15", "-o", "/dev/null", "-w", "%{http_code}"]
    return network.run("client", *form, *words).stdout.strip()[-3:]


def _entrance(network):
    done = network.run("client", network.release / "mizzle", "page", "--config", network.hosts["client"].config)
    if done.returncode:
        raise net.NetworkError(done.stderr.strip())
    return done.stdout.strip()


def _size(name):
    return SIZES[name][:2]


def _empty(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder
