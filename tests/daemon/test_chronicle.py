"""The log of what happened: bounded, in order, and told once."""

import threading
from types import SimpleNamespace
from unittest.mock import create_autospec

from world import Memory, config, pictures

from tta_daemon.control.errands import Errand
from tta_daemon.control.web.board import Board, Kind
from tta_daemon.control.web.chronicle import LONGEST, MOST, MOST_PASSING, SAME_S, Chronicle
from tta_daemon.watch.events import Event, Happening
from tta_daemon.watch.watching import Watch


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_it_holds_what_happened_in_order():
    board = Board()
    board.happened(Kind.DRIFT_BEGAN, "drift began", score=3.5)
    board.happened(Kind.RESET, "forgotten")
    assert [(e.number, e.kind, e.words) for e in board.events] == [
        (1, "drift_began", "drift began"),
        (2, "reset", "forgotten"),
    ]
    assert board.events[0].plain()["numbers"] == {"score": 3.5}


def test_what_repeats_is_counted_and_moves_to_the_end():
    clock = Clock()
    chronicle = Chronicle(clock)
    for words in ("a", "b", "a"):
        chronicle.write(Kind.DEAD_LETTER, words, {})
    assert [(e.words, e.times, e.number) for e in chronicle.entries] == [("b", 1, 2), ("a", 2, 3)]
    clock.now += SAME_S + 1
    chronicle.write(Kind.DEAD_LETTER, "a", {}, times=5)
    assert [(e.words, e.times) for e in chronicle.entries] == [("b", 1), ("a", 2), ("a", 5)]


def test_what_matters_is_counted_only_where_nothing_came_between():
    chronicle = Chronicle(Clock())
    for kind in (Kind.DRIFT_BEGAN, Kind.DRIFT_ENDED, Kind.DRIFT_BEGAN, Kind.DRIFT_BEGAN):
        chronicle.write(kind, kind.value, {})
    assert [(e.kind, e.times, e.first) for e in chronicle.entries] == [
        (Kind.DRIFT_BEGAN, 1, 1),
        (Kind.DRIFT_ENDED, 1, 2),
        (Kind.DRIFT_BEGAN, 2, 3),
    ]


def test_it_is_bounded_whatever_is_written():
    chronicle = Chronicle()
    for n in range(MOST + 10):
        chronicle.write(Kind.RESET, f"{n} " + "x" * 10_000, {})
    assert len(chronicle.entries) == MOST
    assert chronicle.entries[-1].words.startswith(f"{MOST + 9} ")
    assert max(len(e.words) for e in chronicle.entries) == LONGEST


def test_a_flood_does_not_drive_out_what_matters():
    chronicle = Chronicle()
    chronicle.write(Kind.DRIFT_BEGAN, "drift began", {})
    for n in range(1000):
        chronicle.write(Kind.DEAD_LETTER, str(n), {})
    assert chronicle.entries[0].kind is Kind.DRIFT_BEGAN
    assert [e.words for e in chronicle.entries[1:]] == [str(n) for n in range(1000 - MOST_PASSING, 1000)]


def test_writers_do_not_lose_each_others_entries():
    chronicle = Chronicle()

    def write(name):
        for _ in range(200):
            chronicle.write(Kind.ALARM, name, {})

    threads = [threading.Thread(target=write, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(e.times for e in chronicle.entries) == [200] * 4


def test_whatever_the_watch_tells_can_be_told():
    assert {Kind(kind.value) for kind in Happening} <= set(Kind)


def test_the_loop_tells_what_happens():
    memory = Memory(config())
    memory.send([*pictures(8), b"no picture", b"nor this"])
    asked = memory.daemon.errands.ask(Errand.RESET)
    memory.run_dry()
    told = [(e.kind, e.times) for e in memory.daemon.board.events]
    assert told[0] == (Kind.READY, 1)
    assert (Kind.PARTITIONS, 1) in told
    assert (Kind.RESET, 1) in told
    assert (Kind.DEAD_LETTER, 2) in told
    assert asked.result().done


def test_what_the_watch_sees_is_told():
    memory = Memory(config())
    event = Event(Happening.DRIFT_BEGAN, 0.0, 8, {"bn_statistics": 30.0, "entropy": 2.0, "distance": 4.0})
    memory.daemon.learner.life.watch = create_autospec(Watch, instance=True, spec_set=False)
    memory.daemon.watch.see.side_effect = [[event], []]
    memory.daemon.watch.drift = SimpleNamespace(covariate=True)
    memory.daemon.watch.estimates.return_value = {}
    memory.send(pictures(16))
    memory.run_dry()
    told = [e for e in memory.daemon.board.events if e.kind is Kind.DRIFT_BEGAN]
    assert [(e.words, e.numbers) for e in told] == [(event.words, event.detail)]
    assert len(memory.answered()) == 16


def test_a_method_that_fails_is_told(monkeypatch):
    memory = Memory(config())

    def broken(*_):
        raise RuntimeError("no")

    monkeypatch.setattr(memory.daemon.learner, "_ask", broken)
    memory.send(pictures(8))
    memory.run_dry()
    assert [e.words for e in memory.daemon.board.events if e.kind is Kind.REWOUND] == [
        "tent failed: what it had learned is forgotten"
    ]
