"""The pages that change something: who may ask, what they answer, and that a refused request changes nothing."""

import hmac
import socket
import string
import threading

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tta_daemon.control import errands
from tta_daemon.control.config import Config
from tta_daemon.control.errands import Done, Errand, Errands
from tta_daemon.control.reload import Reloader
from tta_daemon.control.sections import Http
from tta_daemon.control.slot import Prepared, Result, Slot
from tta_daemon.control.web import lifecycle
from tta_daemon.control.web.board import Board
from tta_daemon.control.web.server import Server
from tta_daemon.watch.metrics import Metrics

TOKEN = "a long random text"  # noqa: S105 - the test's own
PAGES = ["/-/reload", "/-/reset", "/-/checkpoint"]
GOOD = {"authorization": f"Bearer {TOKEN}"}


class House:
    """A server, a watcher and a loop that does nothing but what it is asked for, while it `turns`."""

    def __init__(self, folder):
        self.file = folder / "config.toml"
        self.file.write_text("")
        self.slot = Slot(Config(), None)
        self.reloader = Reloader(self.file, {}, lambda _old, new, _: Prepared(new, ()), self.slot)
        self.errands = Errands()
        self.done = []
        self.answers = dict.fromkeys(Errand, Done(done=True, words="done"))
        self.server = Server(Http(port=0, lifecycle=True, token=TOKEN), Board(), Metrics().registry)
        self._ended = threading.Event()
        self._loop = threading.Thread(target=self._turn, daemon=True)

    def open(self, *, turns=True):
        self.server.start()
        self.server.lifecycle.serve(self.reloader, self.errands)
        self.reloader.start()
        if turns:
            self._loop.start()
        return httpx.Client(base_url=f"http://127.0.0.1:{self.server.port}", timeout=30)

    def close(self):
        self._ended.set()
        self.reloader.stop()
        self.server.stop()

    def tune(self, **http):
        self.server.tune(Http(**{"lifecycle": True, "token": TOKEN} | http))

    @property
    def touched(self):
        """Whether anything has reached the watcher or the loop."""
        return bool(self.done) or self.slot.verdict.result is not Result.NONE or bool(self.errands._asked)

    def _turn(self):
        while not self._ended.wait(0.002):
            self._once()

    def _once(self):
        if self.slot.take() is not None:
            self.slot.taken()
        for errand, future in self.errands.take().items():
            self.done.append(errand)
            future.set_result(self.answers[errand])


@pytest.fixture
def house(tmp_path, monkeypatch):
    monkeypatch.setattr("tta_daemon.control.reload.LOOK_EVERY_S", 1000.0)  # only when asked
    house = House(tmp_path)
    yield house
    house.close()


@pytest.fixture
def web(house):
    with house.open() as client:
        yield client


@pytest.mark.parametrize("page", PAGES)
def test_they_are_off_by_default(house, web, page):
    house.tune(lifecycle=False, token="")
    answer = web.post(page, headers=GOOD)
    assert answer.status_code == 403
    assert "http.lifecycle" in answer.text
    assert not house.touched
    assert Http().lifecycle is False
    assert page not in web.get("/").text


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_the_wrong_method(house, web, page, method):
    answer = web.request(method, page, headers=GOOD)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert not house.touched


WRONG = {
    "none": {},
    "empty": {"authorization": ""},
    "no scheme": {"authorization": TOKEN},
    "another scheme": {"authorization": f"Basic {TOKEN}"},
    "another token": {"authorization": "Bearer another"},
    "its beginning": {"authorization": f"Bearer {TOKEN[:-1]}"},
    "more than it": {"authorization": f"Bearer {TOKEN}x"},
    "no token": {"authorization": "Bearer"},
    "another case": {"authorization": f"Bearer {TOKEN.upper()}"},
    "not ASCII": {"authorization": b"Bearer \xe4\xf6\xfc"},
    "a cookie": {"cookie": f"token={TOKEN}"},
}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
def test_the_wrong_token(house, web, page, headers):
    answer = web.post(f"{page}?token={TOKEN}", headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert TOKEN not in answer.text
    assert not house.touched


def test_tokens_are_compared_in_constant_time(house, web, monkeypatch):
    compared = []

    def watched(a, b):
        compared.append((a, b))
        return False

    monkeypatch.setattr(hmac, "compare_digest", watched)
    assert web.post("/-/reset", headers=GOOD).status_code == 401
    assert compared == [(TOKEN.encode(), TOKEN.encode())]


def test_a_token_need_not_be_ascii(house, web):
    house.tune(token="schlüssel")  # noqa: S106 - the test's own
    assert web.post("/-/reset", headers={"authorization": "bearer schlüssel".encode()}).status_code == 200


def test_a_token_in_a_file_counts_as_the_file_has_it_now(house, web, tmp_path):
    file = tmp_path / "token"
    house.tune(token="", token_file=file)
    assert web.post("/-/reset", headers=GOOD).status_code == 503
    file.write_text(" \n")
    assert web.post("/-/reset", headers={"authorization": "Bearer"}).status_code == 503
    file.write_text(f"{TOKEN}\n")
    assert web.post("/-/reset", headers=GOOD).status_code == 200
    file.write_text("a new one\n")
    assert web.post("/-/reset", headers=GOOD).status_code == 401
    assert web.post("/-/reset", headers={"authorization": "Bearer a new one"}).status_code == 200
    assert house.done == [Errand.RESET] * 2


@pytest.mark.parametrize("page", PAGES)
def test_a_large_body(house, web, page):
    assert web.post(page, headers=GOOD, content=b"x" * 1025).status_code == 413
    assert web.post(page, headers=GOOD, content=iter([b"x" * 512] * 3)).status_code == 413
    assert not house.touched
    assert web.post(page, headers=GOOD, content=b"x" * 1024).status_code == 200


def test_a_body_that_does_not_come(house, web, monkeypatch):
    monkeypatch.setattr(lifecycle, "BODY_S", 0.1)
    head = f"POST /-/reset HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 9\r\n\r\n"
    with socket.create_connection(("127.0.0.1", house.server.port), timeout=10) as slow:
        slow.sendall(head.encode())
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")
    with socket.create_connection(("127.0.0.1", house.server.port), timeout=10) as gone:
        gone.sendall(head.encode())
    assert not house.touched


def test_other_paths(web):
    for path in ("/-/quit", "/-/reload/", "/-/", "/-/reload/x", "/-/RESET"):
        assert web.post(path, headers=GOOD).status_code == 404


def test_before_there_is_a_daemon(house):
    house.server.start()
    answer = httpx.post(f"http://127.0.0.1:{house.server.port}/-/reload", headers=GOOD, timeout=30)
    assert (answer.status_code, answer.text) == (503, "starting; ask again in a while\n")


def test_a_reload_says_what_became_of_it(house, web):
    house.file.write_text("[batch]\nsize = 32\n")
    assert (web.post("/-/reload", headers=GOOD).status_code, house.slot.verdict.result) == (200, Result.APPLIED)
    again = web.post("/-/reload", headers=GOOD)
    assert (again.status_code, again.text) == (200, "unchanged: it is in force already\n")
    house.file.write_text("[batch]\nsize = 0\n")
    refused = web.post("/-/reload", headers=GOOD)
    assert refused.status_code == 409
    assert "config.toml, line 2: batch.size: 0 is not at least 1" in refused.text
    house.file.write_text('[kafka]\ngroup_id = "other"\n')
    assert "restart" in web.post("/-/reload", headers=GOOD).text


def test_a_reload_that_the_loop_has_not_taken_yet(house, monkeypatch):
    monkeypatch.setattr(lifecycle, "WAIT_S", 0.1)
    within = lifecycle._within
    monkeypatch.setattr(lifecycle, "_within", lambda asked, _: within(asked, 60.0))  # to prepare may take its time
    with house.open(turns=False) as web:
        house.file.write_text("[batch]\nsize = 32\n")
        answer = web.post("/-/reload", headers=GOOD)
    assert answer.status_code == 202
    assert "once the loop comes round" in answer.text
    assert house.slot.take().config.batch.size == 32


def test_errands_are_done_and_refused(house, web):
    house.answers[Errand.CHECKPOINT] = Done(done=False, words="there is nowhere to save it")
    assert web.post("/-/reset", headers=GOOD).text == "done\n"
    refused = web.post("/-/checkpoint", headers=GOOD)
    assert (refused.status_code, refused.text) == (409, "there is nowhere to save it\n")
    assert house.done == [Errand.RESET, Errand.CHECKPOINT]


def test_an_errand_that_the_loop_did_not_come_to_is_not_done_later(house, monkeypatch):
    monkeypatch.setattr(lifecycle, "WAIT_S", 0.1)
    with house.open(turns=False) as web:
        assert web.post("/-/reset", headers=GOOD).status_code == 503
    assert house.errands.take() == {}


def test_who_asks_for_what_is_asked_for_already_waits_with_the_others():
    known = errands.Errands()
    first = known.ask(Errand.RESET)
    assert known.ask(Errand.RESET) is first
    assert known.ask(Errand.CHECKPOINT) is not first
    assert set(known.take()) == set(Errand)
    assert known.take() == {}
    assert known.ask(Errand.RESET) is not first


def test_only_what_may_be_asked_for_is_listed(house, web):
    assert "POST /-/reset" in web.get("/").text
    house.tune(lifecycle=False)
    assert "POST" not in web.get("/").text


NAMES = st.text(string.ascii_letters + string.digits + "-", min_size=1, max_size=12)
VALUES = st.binary(max_size=40).map(lambda value: bytes(byte for byte in value if byte > 32 and byte != 127))


REQUESTS = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"]) | NAMES,
        "url": st.sampled_from(PAGES),
        "params": st.fixed_dictionaries({"q": st.text(string.printable.strip(), max_size=20)}),
        "headers": st.fixed_dictionaries({"authorization": VALUES}),
        "content": st.binary(max_size=3000),
    }
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=REQUESTS)
def test_whatever_comes_without_the_token_changes_nothing(house, web, request):
    assert web.request(**request).status_code in {400, 401, 405}
    assert not house.touched
