"""The loop on a log in memory: everything is answered or buried, once, and committed after."""

import json
from collections import Counter

import numpy as np
import pytest
from world import Memory, config, npy, pictures

from tta_daemon.errors import TooManyRejected


def test_every_record_is_answered_or_buried_exactly_once() -> None:
    world = Memory(config(limits={"reject_ratio": 1.0}))
    world.send(pictures(20))
    world.send([b"", b"nonsense", npy(np.zeros((3, 3)))])
    world.send(pictures(5, seed=1))
    world.run_dry()
    assert Counter(world.answered()) == Counter(f"images-0-{n}" for n in (*range(20), *range(23, 28)))
    assert len(world.buried()) == 3
    assert world.committed() == 28


def test_an_answer_says_what_it_saw_and_who_said_it() -> None:
    world = Memory(config())
    world.send(pictures(8))
    world.run_dry()
    body = json.loads(world.log.records("answers")[0].value)
    assert set(body) == {"id", "predictions", "source_class", "model", "method", "step", "stream"}
    best, top = body["predictions"][0], body["predictions"][0]["top"]
    assert best["class"] == top[0]["class"]
    assert top[0]["confidence"] >= top[1]["confidence"] >= top[2]["confidence"]
    assert body["method"] == "tent"
    assert body["step"] == 0


def test_learning_happens_after_the_answers_have_left() -> None:
    world = Memory(config())
    world.send(pictures(16))
    world.daemon.connect()
    happened: list[str] = []
    send, learn = world.daemon.sink.send, world.daemon.learner._learn
    world.daemon.sink.send = lambda message: (happened.append("answer"), send(message))[1]
    world.daemon.learner._learn = lambda answer: (happened.append("learn"), learn(answer))[1]
    while world.daemon.learner.step < 2:
        world.daemon.turn()
    assert happened == [*["answer"] * 8, "learn"] * 2


def test_offsets_are_committed_only_behind_what_was_delivered() -> None:
    world = Memory(config(settle={"every_s": 1000.0}))
    world.send(pictures(16))
    world.daemon.connect()
    for _ in range(4):
        world.daemon.turn()
    assert world.committed() == 0
    world.daemon.drain()
    assert world.committed() == 16


def test_too_many_rejected_records_stop_the_daemon_rather_than_drain_the_topic() -> None:
    world = Memory(config(limits={"reject_ratio": 0.5, "reject_window": 20}))
    world.send([b"nonsense"] * 100)
    with pytest.raises(TooManyRejected):
        world.run_dry()
    assert len(world.buried()) <= 100


def test_labels_give_the_accuracy_of_adapted_and_source() -> None:
    world = Memory(config())
    world.send(pictures(16))
    world.run_dry(disconnect=False)
    for n in range(16):
        value = json.dumps({"id": f"images-0-{n}", "labels": [n % 5]}).encode()
        world.log.append("labels", value)
    world.daemon.turn()
    recent = world.daemon.labels.accuracy.recent
    assert recent.images == 16
    assert recent.adapted is not None
    assert recent.source is not None


def test_a_small_batch_is_answered_and_not_learned_from() -> None:
    world = Memory(config(adapt={"learn_from": 8}))
    world.send(pictures(3))
    world.run_dry()
    assert len(world.answered()) == 3
    assert world.daemon.learner.step == 0


def test_a_failure_to_adapt_is_answered_by_the_source() -> None:
    world = Memory(config())

    def broken(_: object) -> None:
        raise RuntimeError("out of memory")

    world.daemon.learner.adapter.adapt = broken
    world.send(pictures(8))
    world.run_dry()
    assert len(world.answered()) == 8
    answers = [json.loads(r.value) for r in world.log.records("answers")]
    assert all(a["predictions"][0]["class"] == a["source_class"][0] for a in answers)
