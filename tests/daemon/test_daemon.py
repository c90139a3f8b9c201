"""The loop on a log in memory: everything is answered or buried, once, and committed after."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from world import Memory, config, npy, pictures

from tta_daemon.control.checkpoint import MemoryCheckpoint
from tta_daemon.control.errands import Errand
from tta_daemon.errors import BrokerUnreachable, DeliveryError, Reason, TooManyRejected
from tta_daemon.stream.memory_log import MemorySource
from tta_daemon.stream.progress import Progress
from tta_daemon.stream.records import Batch, Partition, Record


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
    assert set(body) == {"id", "predictions", "source_class", "by", "model", "method", "step", "stream"}
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
    world.daemon.learner._learn = lambda *given: (happened.append("learn"), learn(*given))[1]
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
        world.daemon.run()
    assert len(world.buried()) == world.committed() <= 100  # nor does any of them come again after a restart


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


def go_on(world: Memory, records: int) -> None:
    """As `Memory.run_dry`, without joining the group again."""
    for _ in range(100):
        world.daemon.turn()
        if sum(world.daemon.source.lag().values()) + world.daemon.ledger.open_count == 0:
            break
    world.daemon.drain()
    assert world.committed() == records
    world.daemon.disconnect()


def waiting(records: int, delivery: str = "at_least_once") -> Memory:
    """A daemon that has read so many records, and answered none."""
    kafka = {"delivery": delivery, "group_instance_id": "pod-0"}
    world = Memory(config(kafka=kafka, settle={"every_s": 1e6}, batch={"patience_s": 1e6}))
    world.daemon.connect()
    world.daemon.turn()  # the partition begins
    world.send(pictures(records))
    world.daemon.admit()
    assert world.daemon.batcher.waiting == records
    return world


def test_a_stop_that_meets_a_rebalance_still_answers_what_waits() -> None:
    world = waiting(40)
    world.daemon.stop()
    world.log.rebalance(world.config.kafka.group_id)
    world.daemon.partitions.follow()
    assert len(world.answered()) == world.committed() == 40


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_rebalance_is_not_kept_waiting_until_slow_answers_are_through(
    delivery: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, now = waiting(40, delivery), [0.0]
    daemon = world.daemon
    daemon.clock = lambda: now[0]
    answer = daemon.answering.answer

    def slowly(*batches: Batch) -> None:
        answer(*batches)
        now[0] += 20.0

    monkeypatch.setattr(daemon.answering, "answer", slowly)
    world.log.rebalance(world.config.kafka.group_id)
    daemon.partitions.follow()
    assert len(world.answered()) == world.committed() == 16  # two batches took longer than limits.drain_s
    assert not daemon.batcher.waiting
    monkeypatch.undo()
    go_on(world, 40)
    assert sorted(Counter(world.answered()).values()) == [1] * 40


def test_a_rebalance_that_leaves_a_gap_undoes_what_was_answered_behind_it() -> None:
    world = waiting(16, "exactly_once")
    daemon = world.daemon
    early, late = daemon.batcher.drain()
    daemon.answering.answer(late)
    daemon.batcher.put_back([early])
    daemon.clear = lambda *_, **__: None  # type: ignore[method-assign] - there is no time for anything
    settled, settle = [], daemon.sink.settle
    daemon.sink.settle = lambda source, offsets, for_s: settled.append(offsets) or settle(source, offsets, for_s)
    world.log.rebalance(world.config.kafka.group_id)
    with pytest.raises(DeliveryError, match="taken away") as fault:
        daemon.partitions.follow()
    daemon.read_again(fault.value)
    assert world.answered() == []
    assert world.committed() == 0
    assert settled == [{}]  # so that what is answered after the rebalance is of the new era
    del daemon.clear
    go_on(world, 16)
    assert sorted(Counter(world.answered()).values()) == [1] * 16


def test_a_partition_that_cannot_begin_is_asked_for_again_after_a_pause() -> None:
    world, now, asked = Memory(config()), [0.0], []
    world.send(pictures(8))
    world.daemon.clock = world.daemon.partitions._beginning._clock = lambda: now[0]
    world.daemon.partitions._beginning.worked()
    world.daemon.connect()
    world.daemon.progress = Progress({Partition("images", 0): 0})
    committed = world.daemon.source.committed

    def away(_: object) -> None:
        asked.append(now[0])
        raise BrokerUnreachable("nobody answers")

    world.daemon.source.committed = away
    for _ in range(14):
        now[0] += 0.25
        world.daemon.turn()
    assert asked == [0.25, 0.75, 1.75]
    assert world.answered() == []
    world.daemon.source.committed = committed
    now[0] = 4.0
    world.daemon.turn()
    world.daemon.drain()
    assert len(world.answered()) == 8


def test_offsets_that_the_group_refuses_are_offered_again_without_new_records() -> None:
    world = Memory(config(settle={"every_s": 1e6}))
    world.send(pictures(8))
    world.daemon.connect()
    world.daemon.turn()
    commit = world.daemon.source.commit
    world.daemon.source.commit = lambda _: False
    world.daemon.settle()
    assert (world.committed(), len(world.answered())) == (0, 8)
    world.daemon.source.commit = commit
    world.daemon.settle()
    assert (world.committed(), len(world.answered())) == (8, 8)


def test_a_slow_turn_is_cut_between_two_batches_and_nothing_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tta_daemon.daemon.TURN_S", 0.0)
    world = Memory(config())
    world.send(pictures(40))
    world.daemon.connect()
    told: list[int] = []
    turned = world.daemon.board.turned
    world.daemon.board.turned = lambda: (told.append(len(world.answered())), turned())[1]  # type: ignore[func-returns-value]
    world.daemon.turn()
    while not world.answered():
        world.daemon.turn()
    assert len(world.answered()) == 8
    assert world.daemon.batcher.waiting == 32
    world.run_dry()
    assert sorted(world.answered()) == sorted({f"images-0-{n}" for n in range(40)})
    assert set(range(8, 41, 8)) <= set(told)


def test_who_is_to_stop_does_not_finish_the_turn() -> None:
    world = Memory(config())
    world.send(pictures(40))
    world.daemon.connect()
    answer = world.daemon.answering.answer
    world.daemon.answering.answer = lambda *batches: (answer(*batches), world.daemon.stop())[0]
    for _ in range(3):
        world.daemon.turn()
    assert 8 <= len(world.answered()) <= 24
    world.daemon.drain()
    assert len(world.answered()) == 40


def test_an_answer_that_no_topic_takes_is_buried_instead_of_tried_for_ever() -> None:
    world = Memory(config())
    world.log.append("images", pictures(1)[0], key=b"k" * 2_000_000, headers=(("content-type", b"application/x-npy"),))
    world.send(pictures(3))
    world.run_dry()
    assert len(world.answered()) == 3
    (letter,) = world.buried()
    assert letter.header("tta.dlq.reason") == Reason.UNDELIVERABLE
    assert world.committed() == 4


def test_a_record_that_could_not_be_read_at_all_is_buried() -> None:
    world = Memory(config())
    world.send(pictures(2))
    poll = MemorySource.poll

    def broken(self: MemorySource, timeout_s: float, most: int) -> list[Record]:
        return [
            replace(record, key=None, value=None, fault="no UTF-8") if record.position.offset == 1 else record
            for record in poll(self, timeout_s, most)
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemorySource, "poll", broken)
        world.run_dry()
    assert len(world.answered()) == 1
    (letter,) = world.buried()
    assert letter.header("tta.dlq.reason") == Reason.UNDECODABLE
    assert "no UTF-8" in (letter.header("tta.dlq.message") or "")


def test_a_settlement_that_was_refused_is_none() -> None:
    world = Memory(config(settle={"every_s": 1000.0}))
    world.send(pictures(8))
    world.daemon.connect()
    world.daemon.turn()
    world.daemon.source.commit = lambda _: False
    before = world.metrics.registry.get_sample_value("tta_last_settlement_timestamp_seconds")
    world.daemon.settle()
    assert world.metrics.registry.get_sample_value("tta_last_settlement_timestamp_seconds") == before


def test_to_save_with_exactly_once_is_to_answer_first_what_would_come_twice() -> None:
    given = config(
        kafka={"delivery": "exactly_once", "transactional_id": "t"},
        batch={"size": 8, "patience_s": 3600.0},
        settle={"every_s": 3600.0},
        checkpoint={"kind": "file", "folder": "unused"},
    )
    one = Memory(given, None, MemoryCheckpoint())
    one.send(pictures(1))
    one.send([b"not an image"])
    one.daemon.connect()
    one.daemon.turn()
    while not one.daemon.ledger.ragged:
        one.daemon.turn()
    asked = one.daemon.errands.ask(Errand.CHECKPOINT)
    one.daemon.turn()
    assert asked.result().done
    assert (len(one.answered()), len(one.buried()), one.committed()) == (1, 1, 2)
    one.daemon.source.close()  # and that is the end of it
    two = Memory(given, one.log, MemoryCheckpoint())
    two.run_dry()
    assert (len(two.answered()), len(two.buried())) == (1, 1)
