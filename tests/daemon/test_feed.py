"""What the status page is told: the same numbers as Prometheus, in words and over time; bounded; and ended at once."""

import json
import math
import threading
import time
from collections import deque

import httpx
import pytest
from prometheus_client import CollectorRegistry, Histogram
from world import Memory, config, pictures

from tta_daemon.control.config import Config, reaches
from tta_daemon.control.sections import Http
from tta_daemon.control.web import feed_pages
from tta_daemon.control.web.board import Board, Kind
from tta_daemon.control.web.columns import COLUMNS, TOTALS
from tta_daemon.control.web.feed import Cursor, Feed
from tta_daemon.control.web.history import TIERS, History
from tta_daemon.control.web.in_force import in_force
from tta_daemon.control.web.page_files import HEADERS
from tta_daemon.control.web.reading import Reading
from tta_daemon.control.web.server import Server
from tta_daemon.standing import standing
from tta_daemon.watch.accuracy import Accuracy, Scored
from tta_daemon.watch.estimates import Estimate, Estimator
from tta_daemon.watch.metrics import Detector, Metrics

ALL = Cursor(900, 0.0, 0)
HEALTH, GAIN, DRIFT, WHO, LAST = range(5)


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


class House:
    """A feed on metrics and a board that a test moves as it likes."""

    def __init__(self):
        self.clock = Clock()
        self.metrics = Metrics(now=self.clock)
        self.board = Board(self.clock)
        self.http = Http()
        self.feed = Feed(self.board, self.metrics.registry, lambda: self.http, self.clock)
        self.metrics.configured("digest")
        self.board.announce()
        self.board.turned()

    def tick(self, seconds=1.0):
        self.clock.now += seconds
        self.board.turned()
        self.metrics.settled()
        self.feed.read()

    def told(self, cursor=ALL):
        return self.feed.document(cursor)[0]

    def card(self, number):
        card = self.told()["cards"][number]
        return card["tone"], card["head"], card["words"]

    def label(self, images, adapted, source):
        accuracy = Accuracy()
        scored = Scored(images, adapted, source, delay_s=1.0)
        accuracy.add(scored)
        self.metrics.labelled(scored, accuracy)


@pytest.fixture
def house():
    return House()


def test_it_shows_what_prometheus_is_shown():
    memory = Memory(config())
    feed = Feed(memory.daemon.board, memory.metrics.registry, Http)
    feed.read()
    memory.send([*pictures(24), b"no picture"])
    memory.log.append("labels", b'{"id": "images-0-0", "labels": [3]}')
    memory.run_dry(disconnect=False)
    memory.metrics.turned(0, 0, memory.daemon.source.lag())
    feed.read()
    told = feed.document(ALL)[0]
    value = memory.metrics.registry.get_sample_value
    newest = {name: column[-1] for name, column in told["samples"]["values"].items()}
    assert newest["confidence_adapted"] == round(value("tta_answer_confidence_ratio", {"model": "adapted"}), 4)
    assert newest["agreement"] == round(value("tta_agreement_ratio"), 4)
    assert newest["lag"] == 0.0
    assert newest["images_per_s"] > 0
    assert told["facts"]["answered"] == value("tta_images_answered_total") == 24
    assert told["facts"]["dead"] == {"undecodable": 1}
    assert told["facts"]["lag"] == {"images-0": 0}
    assert newest["accuracy_adapted"] == value("tta_accuracy_ratio", {"model": "adapted", "window": "recent"})
    assert {event["kind"] for event in told["events"]} >= {"ready", "dead_letter", "partitions"}


def test_quantiles_are_those_of_prometheus():
    registry = CollectorRegistry()
    seconds = Histogram("tta_seconds", "Seconds.", buckets=(0.1, 0.2, 0.4), registry=registry)
    seconds.observe(0.3)
    before = Reading(registry, 0.0)
    for value in (0.05, 0.15, 0.15, 0.15):
        seconds.observe(value)
    now = Reading(registry, 1.0)
    assert now.quantile(0.5, "tta_seconds", before) == pytest.approx(0.1 + 0.1 * (2 - 1) / 3)
    assert math.isnan(now.quantile(0.5, "tta_seconds", now))
    seconds.observe(7.0)
    assert Reading(registry, 2.0).quantile(0.99, "tta_seconds", now) == pytest.approx(0.4)


def test_nobody_is_told_anything_twice(house):
    house.board.happened(Kind.RESET, "reset")
    for _ in range(3):
        house.tick()
    first, cursor = house.feed.document(ALL)
    assert len(first["samples"]["at"]) == 3
    assert [event["words"] for event in first["events"]] == ["reset"]
    house.board.happened(Kind.SAVED, "saved")
    house.tick()
    assert Cursor.parse("900", first["cursor"]) == cursor
    then = house.told(cursor)
    assert then["samples"]["at"] == [house.clock.now]
    assert [event["words"] for event in then["events"]] == ["saved"]


def test_the_history_is_bounded_and_coarser_the_further_back(monkeypatch):
    history = History(["a", "b"], ["total"])
    for second in range(30 * 3600):
        history.add(float(second), {"a": second % 60, "b": math.nan, "total": second})
    for span, step in TIERS.items():
        told = history.since(span, 0.0)
        assert len(told["at"]) == span / step
        assert told["at"][-1] - told["at"][0] == span - step
        assert set(told["values"]) == {"a"}
    assert set(history.since(21600, 0.0)["values"]["a"]) == {7.0, 22.0, 37.0, 52.0}
    assert set(history.since(86400, 0.0)["values"]["a"]) == {29.5}
    assert history.growth("total", 300.0) == 300.0
    assert history.growth("total", 1e9) == 899.0
    assert History(["a"]).growth("a", 10.0) == 0.0


def test_gaps_are_told_as_gaps():
    history = History(["a"])
    for second, value in enumerate((1.0, math.nan, 3.0)):
        history.add(second + 1.0, {"a": value})
    assert history.since(900, 0.0) == {"step": 1.0, "at": [1.0, 2.0, 3.0], "values": {"a": [1.0, None, 3.0]}}


def test_every_column_can_be_read_before_anything_has_happened(house):
    reading = Reading(house.metrics.registry, 0.0)
    for column in {**COLUMNS, **TOTALS}.values():
        assert isinstance(column(reading, reading), float)
    json.dumps(feed_pages._strict(house.told()), allow_nan=False)


def test_a_healthy_daemon_is_called_so(house):
    house.tick()
    assert house.card(HEALTH) == ("good", "Healthy", "the loop turns, answers are committed, nothing waits")


def test_what_is_wrong_comes_first(house):
    house.metrics.reloaded("refused", in_force=False)
    house.tick()
    assert house.card(HEALTH)[:2] == ("notice", "Reload refused")
    house.metrics.undelivered()
    house.tick()
    tone, head, words = house.card(HEALTH)
    assert (tone, head) == ("bad", "Delivery fails")
    assert words.endswith("also: reload refused")
    house.tick(301.0)
    assert house.card(HEALTH)[1] == "Reload refused"
    house.clock.now += 61.0
    house.feed.read()
    assert house.card(HEALTH)[:2] == ("bad", "Stuck")


def test_no_commit_is_trouble_though_the_loop_turns(house):
    house.tick()
    house.clock.now += 100.0
    house.board.turned()
    house.feed.read()
    assert house.card(HEALTH) == ("bad", "Not committing", "nothing was committed for 100 s")


def test_a_daemon_that_is_not_ready_is_not_healthy(house):
    house.board.withdraw()
    house.tick()
    assert house.card(HEALTH)[:2] == ("notice", "Stopping")


def test_lag_is_worth_a_word_where_it_takes_long(house):
    partition = next(iter(Memory(config()).log.of("images")))
    house.metrics.turned(0, 0, {partition: 10_000})
    house.tick()
    assert house.card(HEALTH)[:2] == ("notice", "Behind")
    house.metrics.turned(0, 0, {partition: 3})
    house.tick()
    assert house.card(HEALTH)[1] == "Healthy"


def test_dead_letters_are_worth_a_word_where_they_are_many(house):
    memory = Memory(config())
    feed = Feed(memory.daemon.board, memory.metrics.registry, Http)
    feed.read()
    memory.send([*pictures(8), b"no picture"])
    memory.run_dry(disconnect=False)
    feed.read()
    card = feed.document(ALL)[0]["cards"][HEALTH]
    assert (card["head"], card["words"]) == ("Dead letters", "1 of 9 records lately")


@pytest.mark.parametrize(
    ("adapted", "source", "expected"),
    [
        (900, 600, ("good", "+30.0 points")),
        (600, 900, ("bad", "\N{MINUS SIGN}30.0 points")),
        (905, 900, ("good", "About equal")),
    ],
)
def test_the_gain_by_labels(house, adapted, source, expected):
    house.label(1000, adapted, source)
    house.tick()
    card = house.card(GAIN)
    assert card[:2] == expected
    assert f"answers {adapted / 10:.1f} %, frozen {source / 10:.1f} % of 1,000 labeled images" in card[2]


def test_the_gain_without_anything_to_go_by(house):
    house.tick()
    assert house.card(GAIN)[:2] == ("unknown", "Unknown")
    assert "tta-daemon prepare" in house.card(GAIN)[2]
    house.label(100, 50, None)
    house.tick()
    assert house.card(GAIN)[:2] == ("unknown", "Nothing to compare")


def test_the_gain_by_estimates(house):
    house.metrics.estimated(Estimator.COMBINED, "adapted", Estimate(0.9, 0.88, 0.92, 500))
    house.metrics.estimated(Estimator.AGREEMENT, "source", Estimate(0.6, 0.55, 0.65, 500))
    house.metrics.estimated(Estimator.ATC, "source", Estimate(0.7, 0.65, 0.75, 500))
    house.tick()
    assert house.card(GAIN) == ("good", "+30.0 points", "estimated: adapted 90.0 %, frozen 60.0 %; no labels yet")
    house.metrics.estimated(Estimator.AGREEMENT, "source", Estimate(0.6, 0.55, 0.65, 500, "in doubt"))
    house.tick()
    assert house.card(GAIN)[1] == "+20.0 points"  # the next one that is valid
    house.metrics.estimated(Estimator.ATC, "source", Estimate(0.7, 0.65, 0.75, 500, "in doubt"))
    house.tick()
    assert house.card(GAIN)[:2] == ("unknown", "Perhaps +30.0 points")


def test_drift(house):
    house.tick()
    assert house.card(DRIFT)[:2] == ("unknown", "Not measured")
    house.metrics.drifted(Detector.STATISTICS, 1.0, 2.0)
    house.tick()
    assert house.card(DRIFT)[:2] == ("good", "No drift")
    house.metrics.drifted(Detector.ADWIN, 1.0, 0.5)
    house.tick()
    assert house.card(DRIFT)[:2] == ("notice", "Changing")
    house.metrics.drifted(Detector.LABELS, 3.0, 2.0)
    house.tick()
    assert house.card(DRIFT)[1] == "Classes shifted, 1.5\N{MULTIPLICATION SIGN}"
    house.metrics.drifted(Detector.STATISTICS, 50.0, 2.0)
    house.board.happened(Kind.DRIFT_BEGAN, "drift began")
    house.tick()
    assert house.card(DRIFT)[:2] == ("notice", "Drifted, 25\N{MULTIPLICATION SIGN}")
    assert house.told()["cards"][DRIFT]["at"] == house.board.events[-1].at


def test_who_answers(house):
    house.tick()
    assert house.card(WHO)[1] == "Nobody yet"
    house.metrics.model("resnet", "abc", "tent", "cpu")
    house.tick()
    assert house.card(WHO) == ("unknown", "Nobody now", "resnet: no image came in the last minutes")
    house.metrics.model("resnet", "abc", "source", "cpu")
    house.tick()
    assert house.card(WHO)[1] == "Frozen model"


def who_answers(count, **sections):
    """A daemon that answered so many pictures, and what its page says of who did."""
    memory = Memory(config(**sections))
    memory.metrics.model("resnet", "abc", "tent", "cpu")
    feed = Feed(memory.daemon.board, memory.metrics.registry, Http)
    feed.read()
    memory.send(pictures(count))
    memory.run_dry()
    feed.read()
    return memory.daemon, feed.document(ALL)[0]["cards"][WHO]


@pytest.mark.parametrize(("mode", "head"), [("off", "Adapted model"), ("observe", "Frozen model")])
def test_who_answers_is_whom_the_guard_lets(mode, head):
    _, card = who_answers(16, guard={"mode": mode})
    assert (card["tone"], card["head"]) == ("good", head)
    assert card["words"].startswith(f"in 5 min: {head.split()[0].lower()} 100 %; tent learned from")


def test_where_nothing_is_learned_that_stands_where_people_look():
    daemon, card = who_answers(3, adapt={"learn_from": 8}, batch={"size": 8, "patience_s": 0.0})
    assert (card["tone"], card["head"]) == ("notice", "Nothing is learned")
    assert "adapt.learn_from" in card["words"]
    assert standing(daemon)["learning"] == {"learned": 0, "small_batch": 1}


def test_what_happened_last_is_what_matters(house):
    house.tick()
    assert house.card(LAST)[1] == "Nothing yet"
    house.board.happened(Kind.DRIFT_BEGAN, "the world has changed")
    house.board.happened(Kind.DEAD_LETTER, "a dead letter")
    house.tick()
    assert house.card(LAST) == ("notice", "Drift began", "the world has changed")


def test_every_setting_in_force_is_explained():
    settings = Config.model_validate({"adapt": {"method": "sar"}, "batch": {"patience_s": 7.0}, "http": {"token": "t"}})
    rows = {row["path"]: row for row in in_force(settings.masked())}
    assert {path: row["reach"] for path, row in rows.items()} == {
        path: reach.value for path, reach in reaches("sar").items() if path != "adapt.options"
    }
    assert all(row["doc"] for row in rows.values())
    assert {path for path, row in rows.items() if row["changed"]} == {"adapt.method", "batch.patience_s", "http.token"}
    assert rows["http.token"]["value"] == "********"
    assert in_force({}) == []


# by HTTP


@pytest.fixture
def board():
    return Board()


@pytest.fixture
def server(board):
    server = Server(Http(port=0, images=4), board, Metrics().registry)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def web(server):
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client:
        yield client


def messages(lines):
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def test_the_stream_goes_on_where_it_was_cut(web, board):
    board.happened(Kind.RESET, "first")
    with web.stream("GET", "/api/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        told = messages(stream.iter_lines())
        first, second = next(told), next(told)
    assert [event["words"] for event in first["events"]] == ["first"]
    assert second["events"] == []
    assert min(second["samples"]["at"]) > max(first["samples"]["at"])
    board.happened(Kind.RESET, "second")
    for how in ({"params": {"cursor": second["cursor"]}}, {"headers": {"last-event-id": second["cursor"]}}):
        with web.stream("GET", "/api/events", **how) as stream:
            third = next(messages(stream.iter_lines()))
        assert [event["words"] for event in third["events"]] == ["second"]
        assert all(at > max(second["samples"]["at"]) for at in third["samples"]["at"])


def test_nonsense_is_refused(web):
    for page in ("/api/history", "/api/events"):
        for asked in ("span=5", "span=x", "cursor=x_1", "cursor=nan_1", "cursor=1_x", "cursor=inf_0"):
            assert web.get(f"{page}?{asked}").status_code == 400


def test_whoever_asks_is_told_the_same(web):
    for span, step in TIERS.items():
        told = web.get(f"/api/history?span={span}").json()
        assert told["samples"]["step"] == step
        assert len(told["cards"]) == 5
    assert web.get("/api/settings").json() == {"digest": None, "rows": []}
    assert web.head("/api/events").status_code == 200


def test_no_more_watch_than_there_is_room_for(web, monkeypatch):
    monkeypatch.setattr(feed_pages, "MOST_WATCHERS", 1)
    with web.stream("GET", "/api/events") as stream:
        told = messages(stream.iter_lines())
        next(told)
        refused = web.get("/api/events")
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        assert web.get("/api/history").status_code == 200
    until = time.monotonic() + 60
    while (answer := status(web)) != 200:  # the place is free again
        assert time.monotonic() < until, answer


def status(web):
    with web.stream("GET", "/api/events") as stream:
        return stream.status_code


def test_open_streams_do_not_hold_up_the_stop(server, web):
    with web.stream("GET", "/api/events") as stream:
        told = messages(stream.iter_lines())
        next(told)
        ended = threading.Thread(target=server.stop)
        ended.start()
        deque(told, maxlen=0)  # the stream ends by itself, and in order
        ended.join(60)
    server._thread.join(60)
    assert not server._thread.is_alive()


def test_a_reading_that_fails_is_tried_again(web, server, monkeypatch):
    failed = threading.Event()

    def broken():
        failed.set()
        raise RuntimeError("no")

    with monkeypatch.context() as patched:
        patched.setattr(server._feed, "read", broken)
        assert failed.wait(60)
    with web.stream("GET", "/api/events") as stream:
        told = messages(stream.iter_lines())
        assert next(told)["at"] < next(told)["at"]


def test_every_answer_lets_nothing_else_in(web):
    for path in ("/", "/page.js", "/page.css", "/metrics", "/api/history", "/-/healthy", "/nothing"):
        answer = web.get(path, headers={"accept": "text/html"})
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in HEADERS["content-security-policy"]
    assert "http" not in HEADERS["content-security-policy"]


def test_the_page_is_for_browsers_and_the_list_for_others(web):
    page = web.get("/", headers={"accept": "text/html,*/*;q=0.8"})
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["vary"] == "accept"
    assert "<script>" not in page.text
    assert "style=" not in page.text
    assert web.get("/").headers["content-type"].startswith("text/plain")
    script = web.get("/page.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert web.get("/page.js", headers={"if-none-match": script.headers["etag"]}).status_code == 304
    assert web.get("/index.html").status_code == 404


def test_pictures_are_there_as_long_as_they_are_shown(server, web):
    memory = Memory(config())
    memory.daemon.board.gallery = server._board.gallery
    memory.send(pictures(8))
    memory.run_dry()
    shown = web.get("/api/history").json()["pictures"]
    assert len(shown) == 4
    path = f"/api/images/{shown[0]['number']}.png"
    picture = web.get(path)
    assert picture.headers["content-type"] == "image/png"
    assert picture.headers["cache-control"] == "no-store"
    assert picture.content.startswith(b"\x89PNG")
    server.tune(Http(images=0))
    assert web.get("/api/history").json()["pictures"] is None
    assert web.get(path).status_code == 404
