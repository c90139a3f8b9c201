"""The status page in a real browser, on a daemon at work: live, usable by anybody, and nobody's without the token."""

import contextlib
import json
import shutil
import threading
import time
from importlib import resources

import pytest
from world import Memory, config, pictures

from tta_daemon.control.reload import Reloader
from tta_daemon.control.web import feed_pages
from tta_daemon.control.web.board import Kind
from tta_daemon.control.web.server import Server
from tta_daemon.offline.broker import free_port
from tta_daemon.watch.estimates import Estimate, Estimator
from tta_daemon.watch.metrics import Detector

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)")

TOKEN = "a long random t\u00e9xt"  # noqa: S105 - the test's own
SOON_MS = 90_000


class Live:
    """A daemon on a log in memory that is sent images and labels without end, and its page."""

    def __init__(self, folder, **sections):
        http = {"port": 0, "lifecycle": True, "token": TOKEN, "images": 6}
        self.memory = Memory(config(http=http, kafka={"labels_topic": "labels"}, **sections))
        self.daemon = self.memory.daemon
        self.board, self.metrics = self.daemon.board, self.memory.metrics
        self.server = Server(self.daemon.config.http, self.board, self.metrics.registry)
        (folder / "config.toml").write_text("[batch]\nsize = 0\n")
        self.reloader = Reloader(folder / "config.toml", {}, lambda *_: None, self.daemon.slot)
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self.daemon.run, self._feed)]

    def __enter__(self):
        deployed = self.daemon.deployed
        self.metrics.model(deployed.name, deployed.digest, "tent", "cpu")
        self.metrics.configured(self.daemon.config.digest)
        self.server.start()
        self.server.lifecycle.serve(self.reloader, self.daemon.errands)
        self.reloader.start()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self.daemon.stop()
        for thread in self._threads:
            thread.join(30)
        self.reloader.stop()
        self.server.stop()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.port}/"

    def drift(self):
        for detector in list(Detector)[:4]:
            self.metrics.drifted(detector, 30.0, 2.0)
        self.metrics.drifted(Detector.ADWIN, 0.0, 0.5)
        self.metrics.estimated(Estimator.COMBINED, "adapted", Estimate(0.9, 0.85, 0.95, 500))

    def _feed(self):
        values, sent = pictures(8), 0
        while not self._ended.wait(0.1):
            self.memory.send(values)
            for n in range(sent, sent + len(values)):
                label = json.dumps({"id": f"images-0-{n}", "labels": [n % 5]})
                self.memory.log.append("labels", label.encode())
            sent += len(values)


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    with Live(tmp_path_factory.mktemp("live")) as live:
        live.drift()
        yield live


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens the page; in the end nothing may have gone wrong in it, but what a test allows."""
    with contextlib.ExitStack() as ending:
        yield Visits(browser, ending)


class Visits:
    def __init__(self, browser, ending):
        self.browser, self.ending = browser, ending
        self.requests = []

    def __call__(self, url, *, width=1280, scheme="light", allowed=()):
        context = self.browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.ending.callback(context.close)
        context.set_default_timeout(SOON_MS)
        page = context.new_page()
        wrong = []
        page.on("request", lambda request: self.requests.append(request))  # noqa: PLW0108 - wants a signature
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if troubling(said) else None)
        self.ending.callback(
            lambda: pytest.fail(f"in the browser: {bad}") if (bad := unallowed(wrong, allowed)) else None
        )
        page.goto(url)
        page.wait_for_selector(".card")
        return page


def troubling(said):
    """Pictures may be gone before a slow browser asks for them."""
    return said.type in {"error", "warning"} and "/api/images/" not in said.location["url"]


def unallowed(wrong, allowed):
    return [words for words in wrong if not any(part in words for part in allowed)]


def text(page, selector):
    return page.locator(selector).first.inner_text()


def until(page, script, argument=None):
    """Asks from outside: within the page nothing may evaluate a text."""
    deadline = time.monotonic() + SOON_MS / 1000
    while not page.evaluate(script, argument):
        assert time.monotonic() < deadline, script
        page.wait_for_timeout(50)


def card(page, question):
    return text(page, f'.card[data-question="{question}"]')


def says(page, question, words):
    page.wait_for_selector(f'.card[data-question="{question}"]:has-text("{words}")')


def test_it_answers_the_five_questions(visit, live):
    page = visit(live.url)
    until(page, "document.querySelector('#contact').dataset.state === 'live'")
    until(page, "document.querySelectorAll('.chart path.line').length >= 12")
    says(page, "Health", "Healthy")
    says(page, "Is adaptation worth it?", "labeled images")
    says(page, "Has the world drifted?", "Drifted, 15\u00d7")
    says(page, "Who answers?", "tent learned from")
    until(page, "document.title === 'Healthy \u00b7 tta-daemon'")
    until(page, "document.querySelectorAll('#pictures img').length === 6")
    until(page, "[...document.images].every((image) => image.naturalWidth > 0)")


def test_values_change_while_one_looks(visit, live):
    page = visit(live.url)
    answered = "Number(document.querySelector('#counts dd').textContent.replaceAll(',', ''))"
    until(page, f"{answered} > 0")
    before = page.evaluate(answered)
    path = page.locator("figure:has(#chart-throughput) path.line").first.get_attribute("d")
    until(page, f"{answered} > {before}")
    until(
        page, "(d) => document.querySelector('figure:has(#chart-throughput) path.line').getAttribute('d') !== d", path
    )


def test_an_event_appears_and_is_announced(visit, live):
    page = visit(live.url)
    page.wait_for_selector("#log li")
    live.board.happened(Kind.DRIFT_BEGAN, "fog came up <b>&amp;</b>")
    until(page, "document.querySelector('#log li').innerText.includes('Fog came up <b>&amp;</b>')")
    assert text(page, "#announce") == "fog came up <b>&amp;</b>"
    assert "Drift began" in card(page, "What happened last?")
    assert page.locator("#log b").count() == 0


def test_reset_needs_the_token(visit, live):
    page = visit(live.url, allowed=["401", "409"])
    until(page, "document.querySelectorAll('#operate button').length === 3")
    restored = lambda: live.metrics.registry.get_sample_value("tta_restores_total", {"reason": "requested"})  # noqa: E731
    before = restored()

    def reset(token):
        page.fill("#token", token)
        page.click("#reset")
        page.click("#reset-now")

    reset("")
    page.wait_for_selector("#said.bad:has-text('It needs the token first.')")
    reset("wrong")
    page.wait_for_selector("#said.bad:has-text('the token is wrong')")
    assert restored() == before
    reset(TOKEN)
    page.wait_for_selector("#said.good:has-text('has forgotten')")
    assert restored() == before + 1
    page.wait_for_selector("#log li[data-kind=reset]")
    page.click("#reload")
    page.wait_for_selector("#said.bad:has-text('batch.size: 0 is not at least 1')")
    page.click("#checkpoint")
    page.wait_for_selector("#said.bad:has-text('checkpoint.kind')")
    assert not [r.url for r in visit.requests if "long" in r.url or "wrong" in r.url]
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])")
    assert "long" not in kept
    page.reload()
    page.wait_for_selector("#token")
    assert page.input_value("#token") == ""


def test_whoever_thinks_again_resets_nothing(visit, live):
    page = visit(live.url)
    page.fill("#token", TOKEN)
    page.focus("#reset")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    assert page.evaluate("document.activeElement.id") == "reset"
    assert not [r for r in visit.requests if r.method == "POST"]


def test_buttons_and_pictures_are_there_only_where_switched_on(visit, live):
    page = visit(live.url)
    page.wait_for_selector("#reset")
    try:
        live.server.tune(live.daemon.config.http.model_copy(update={"lifecycle": False, "images": 0}))
        page.wait_for_selector("#operate:has-text('Switched off')")
        page.wait_for_selector("#pictures-section:has-text('Not shown, for privacy')")
        assert page.locator("#operate button, #pictures img").count() == 0
    finally:
        live.server.tune(live.daemon.config.http)
    page.wait_for_selector("#reset")


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_must_be_scrolled_sideways(visit, live, width):
    page = visit(live.url, width=width)
    page.wait_for_selector("#pictures img")
    page.wait_for_selector("#settings tr")
    page.uncheck("#changed")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = page.evaluate(
        "(width) => [...document.querySelectorAll('main *:not(.unseen):not(svg *)')]"
        ".filter((e) => e.checkVisibility() && !e.closest('.unseen, .choice, .table')"
        " && e.getBoundingClientRect().right > width + 1)"
        ".map((e) => e.outerHTML.slice(0, 80))",
        width,
    )
    assert beyond == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("dark", 360)])
def test_anybody_can_use_it(visit, live, scheme, width):
    axe = pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python")
    page = visit(live.url, width=width, scheme=scheme)
    page.wait_for_selector("#pictures img")
    page.wait_for_selector("#settings tr")
    page.click("figure:has(#chart-accuracy) button")
    page.evaluate(resources.files(axe).joinpath("axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    faults = [(v["id"], v["impact"], [n["html"][:90] for n in v["nodes"][:3]]) for v in found["violations"]]
    assert faults == []
    page.click("#reset")
    found = page.evaluate("axe.run(document.querySelector('dialog'), {resultTypes: ['violations']})")
    assert [v["id"] for v in found["violations"]] == []


def test_everything_can_be_done_from_the_keyboard(visit, live):
    page = visit(live.url)
    until(page, "document.querySelectorAll('.chart path.line').length >= 12")
    says(page, "Is adaptation worth it?", "labeled images")
    page.keyboard.press("Tab")
    assert text(page, ":focus") == "Skip to how it stands"
    page.focus("#moment")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert text(page, "#moment-words") != "now"
    assert "Accuracy: answers" in page.get_attribute("#moment", "aria-valuetext")
    assert page.locator("line.here").count() == 6
    page.keyboard.press("End")
    assert text(page, "#moment-words") == "now"
    toggle = page.locator("figure:has(#chart-drift) button")
    toggle.focus()
    page.keyboard.press("Enter")
    assert toggle.get_attribute("aria-expanded") == "true"
    rows = page.locator("#table-drift tr")
    assert rows.first.inner_text().split("\t") == [
        "time",
        "layer statistics",
        "features",
        "entropy",
        "predicted classes",
    ]
    assert rows.nth(1).inner_text().split("\t")[1] == "15\u00d7"
    page.keyboard.press("Enter")
    assert page.locator("#table-drift").is_hidden()


def test_settings_are_found_with_their_reach_and_meaning(visit, live):
    page = visit(live.url)
    page.wait_for_selector("#settings tr")
    assert "http.token" in text(page, "#settings")
    assert TOKEN not in page.content()
    page.fill("#find", "oldest")
    page.fill("#find", "checkpoint.every_s")
    assert page.locator("#settings tr").count() == 1
    assert text(page, "#settings .reach") == "live"
    assert "Time between two saves" in text(page, "#settings .doc")


def test_another_span_is_drawn(visit, live):
    page = visit(live.url)
    page.wait_for_selector(".chart path.line", state="attached")
    with page.expect_request(lambda request: "span=21600" in request.url):
        page.check("input[value='21600']", force=True)


def test_where_no_stream_can_be_had_it_asks_again_and_again(visit, live, monkeypatch):
    monkeypatch.setattr(feed_pages, "MOST_WATCHERS", 0)
    page = visit(live.url, allowed=["503"])
    until(page, "document.querySelector('#contact').dataset.state === 'asking'")
    live.board.happened(Kind.ALARM, f"asked for {time.time()}")
    page.wait_for_selector("#log li:has-text('Asked for')")
    says(page, "Health", "Healthy")


def test_what_is_not_known_is_said_so_and_a_lost_daemon_too(visit):
    memory = Memory(config(http={"port": free_port()}))  # which it has again below
    server = Server(memory.daemon.config.http, memory.daemon.board, memory.metrics.registry)
    server.start()
    page = visit(f"http://127.0.0.1:{server.port}/", allowed=["ERR_", "503"])
    assert "Starting" in card(page, "Health")
    assert "run tta-daemon prepare" in card(page, "Has the world drifted?")
    assert "No labels yet" in text(page, "figure:has(#chart-accuracy) .empty")
    assert "there is no prior" in text(page, "figure:has(#chart-drift) .empty")
    assert "Nothing has happened yet." in text(page, "#log-none")
    server.stop()
    page.wait_for_selector("#lost:has-text('No contact with the daemon since')")
    assert page.title().endswith("No contact \u00b7 tta-daemon")
    again = Server(memory.daemon.config.http, memory.daemon.board, memory.metrics.registry)
    again.start()
    try:
        memory.daemon.board.happened(Kind.READY, "another process")
        page.wait_for_selector("#lost", state="hidden")
        page.wait_for_selector("#log li:has-text('Another process')")
        until(page, "document.querySelector('#contact').dataset.state === 'live'")
    finally:
        again.stop()
