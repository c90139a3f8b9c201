"""Streams have limits, and hitting one is visible; what is put away comes back as it was."""

import json

import pytest
import torch
from cameras import PARTITIONS, RECORDS, SIZE, alone, found, same, setting, values
from nets import images
from starlette.applications import Starlette
from starlette.testclient import TestClient
from world import Memory, config, npy, pictures

from tta_daemon.control.errands import Errand
from tta_daemon.control.stream_folder import StreamFolder
from tta_daemon.control.stream_states import MemoryStates
from tta_daemon.control.web.stream_pages import StreamPages
from tta_daemon.errors import CheckpointError
from tta_daemon.stream.memory_log import MemoryLog
from tta_daemon.stream.records import Partition, Stream
from tta_daemon.streams.card import Card, worst
from tta_daemon.streams.many import Many
from tta_daemon.watch.accuracy import Scored
from tta_daemon.watch.metrics import Metrics


def world(states=None, log=None, **streams):
    given = setting(streams={"by": "key", "max_resident": 2} | streams)
    made = Memory(
        given, log or MemoryLog({"images": PARTITIONS, "answers": 1, "labels": 1, "images-dlq": 1}), None, states
    )
    if log is None:
        for key, partition, headers, value in values():
            made.log.append("images", value, key=key, headers=headers, partition=partition)
    return made


def value(made, name, **labels):
    return made.metrics.registry.get_sample_value(name, labels)


def test_nobody_is_forgotten_where_there_is_a_checkpoint_and_memory_holds_two():
    states = MemoryStates()
    made = world(states)
    made.run_dry(disconnect=False)
    assert len(made.daemon.streams._residents) == 2
    assert value(made, "tta_streams_evicted_total") > 5
    assert value(made, "tta_streams_returned_total") > 5
    assert same(found(states), alone()) == ""
    made.daemon.disconnect()


def test_without_a_checkpoint_who_finds_no_room_is_forgotten_and_counted():
    made = world()
    made.run_dry()
    known = made.daemon.streams.known
    assert len(known) == 2
    assert value(made, "tta_streams_forgotten_total", reason="no_checkpoint") == value(
        made, "tta_streams_born_total"
    ) - len(known)


def test_more_streams_than_may_be_known_are_forgotten_and_not_restored():
    states = MemoryStates()
    made = world(states, max_known=3)
    made.run_dry()
    assert len(found(states)) == 3
    assert value(made, "tta_streams_forgotten_total", reason="too_many") >= 3


def test_however_many_streams_there_are_no_more_are_known_than_may_be_at_any_time(monkeypatch):
    made = world(MemoryStates(), max_known=3, max_resident=2)
    most, answered = [], Many.answered
    monkeypatch.setattr(
        Many, "answered", lambda self, *given, **more: (answered(self, *given, **more), most.append(len(self.known)))
    )
    made.run_dry()
    assert max(most) == 3
    assert len(made.log.records("answers")) == RECORDS - 3


def test_whoever_is_not_seen_for_long_is_forgotten():
    states = MemoryStates()
    made = world(states, ttl_s=100.0)
    made.daemon.streams._now = lambda: 0.0
    made.run_dry(disconnect=False)
    everybody = found(states)
    made.daemon.streams._now = lambda: 101.0
    key, partition, headers, picture = next(values())
    made.log.append("images", picture, key=key, headers=headers, partition=partition)
    while any(made.daemon.source.lag().values()):
        made.daemon.turn()
    made.daemon.drain()
    made.daemon.disconnect()
    assert {stream.name for stream in found(states)} == {key.decode()}
    assert value(made, "tta_streams_forgotten_total", reason="unseen") == len(everybody) - 1


def test_a_reset_is_of_every_stream_and_outlives_the_process():
    states = MemoryStates()
    made = world(states)
    made.run_dry(disconnect=False)
    asked = made.daemon.errands.ask(Errand.RESET)
    made.daemon.orders.run_errands()
    assert asked.result().done
    made.daemon.drain()
    made.daemon.disconnect()
    assert found(states) == {}


@pytest.mark.parametrize("kind", [MemoryStates, StreamFolder])
def test_states_of_another_method_stop_a_new_process_unless_they_are_set_aside(kind, tmp_path):
    states = kind() if kind is MemoryStates else kind(tmp_path)
    first = world(states)
    first.run_dry()
    given = setting(adapt={"method": "sar"})
    second = Memory(given, first.log, None, states)
    second.daemon.connect()
    with pytest.raises(CheckpointError, match=r"adapt\.method 'tent', not 'sar'"):
        second.daemon.turn()
    second.daemon.source.close()
    third = Memory(given, first.log, None, states)
    third.daemon.fresh_state = True
    third.run_dry()
    assert found(states) == {}


def test_a_restoration_that_takes_too_long_is_cut_and_told():
    states = MemoryStates()
    first = world(states)
    first.run_dry()
    second = world(states, first.log, restore_s=1e-9)
    restore = states.restore

    def slowly(partition):
        for found_now in restore(partition):
            yield found_now
            yield from ([] for _ in range(10**9))

    states.restore = slowly
    second.daemon.connect()
    for _ in range(PARTITIONS):
        second.daemon.turn()
    assert value(second, "tta_stream_restores_cut_total") == PARTITIONS
    second.daemon.disconnect()


def test_another_rebalance_interrupts_a_restoration():
    states, closed = MemoryStates(), []
    made = world(states)

    def endless(partition):
        try:
            while True:
                yield []
        finally:
            closed.append(partition)

    states.restore = endless
    made.daemon.connect()
    made.daemon.turn()
    assert made.daemon.partitions.arriving
    made.daemon.source.lose(made.daemon.source.assignment())
    made.daemon.turn()
    assert closed == [Partition("images", 0)]
    assert made.answered() == []
    made.daemon.disconnect()


def test_one_stream_for_all_knows_nothing_of_streams():
    made = Memory(config())
    assert made.daemon.streams.follow_partitions is False
    assert value(made, "tta_streams") == 0


def test_by_partition_each_partition_learns_alone():
    states = MemoryStates()
    made = world(states, by="partition", max_resident=1)
    made.run_dry()
    kept = found(states)
    assert {(stream.name, stream.home.number) for stream in kept} == {(f"images-{n}", n) for n in range(PARTITIONS)}
    assert sum(state.batches for state in kept.values()) == RECORDS - 3
    states_differ = [state.memory["network.classifier.network.bn1.weight"] for state in kept.values()]
    assert not torch.equal(states_differ[0], states_differ[1])


def quiet(together, method="tent", cameras=20):
    """Cameras that show two pictures each, again and again: too few to learn from."""
    given = setting(
        adapt={"method": method, "learn_from": 4},
        batch={"size": 64, "patience_s": 0.0},
        streams={"max_resident": 100},
        guard={"mode": "guarded"},
    )
    made = Memory(
        given, MemoryLog({"images": PARTITIONS, "answers": 1, "labels": 1, "images-dlq": 1}), None, MemoryStates()
    )
    if not together:
        made.daemon.learner._sociable = False
    shown = pictures(cameras * 4, seed=2)
    made.daemon.connect()
    for turn in range(2):
        for camera in range(cameras):
            for at in range(2):
                picture = shown[(turn * cameras + camera) * 2 + at]
                kind = (("content-type", b"application/x-npy"), ("id", f"{turn}-{camera}-{at}".encode()))
                key = b"cam-%d" % camera
                made.log.append("images", picture, key=key, headers=kind, partition=camera % PARTITIONS)
        made.daemon.turn()
        while any(made.daemon.source.lag().values()) or made.daemon.batcher.waiting or made.daemon.partitions.arriving:
            made.daemon.turn()
    made.daemon.drain()
    made.daemon.disconnect()
    said = [json.loads(record.value) for record in made.log.records("answers")]
    return made, {one["id"]: one["predictions"][0] for one in said}


def test_twenty_quiet_cameras_cost_one_forward_a_turn():
    made, together = quiet(together=True)
    forwards = value(made, "tta_forwards_together_total")
    assert forwards == 2
    assert value(made, "tta_streams_answered_together_total") == value(made, "tta_batches_processed_total") == 40
    _, apart = quiet(together=False)
    assert together.keys() == apart.keys()
    for name, said in apart.items():
        assert together[name]["confidence"] == pytest.approx(said["confidence"], abs=1e-4)


def test_every_stream_stands_in_the_table_a_page_at_a_time():
    made = world(MemoryStates())
    made.daemon.streams._told_at = -10.0
    made.run_dry(disconnect=False)
    made.daemon.streams._told_at = -10.0
    made.daemon.streams.told(made.daemon.board)
    with TestClient(Starlette(routes=StreamPages(made.daemon.board).routes())) as client:
        everybody = client.get("/api/streams?by=name&most=500").json()
        assert everybody["total"] == len(everybody["streams"]) == len(alone())
        names = [row["stream"] for row in everybody["streams"]]
        assert names == sorted(names)
        assert sum(row["images"] for row in everybody["streams"]) == (RECORDS - 3) * SIZE
        paged = [client.get(f"/api/streams?by=name&most=2&after={n}").json()["streams"] for n in range(0, 10, 2)]
        assert [row["stream"] for page in paged for row in page] == names
        for wrong in ("by=nothing", "most=0", "most=501", "after=-1", "most=a"):
            assert client.get(f"/api/streams?{wrong}").status_code == 400
    assert value(made, "tta_streams") == len(names)
    made.daemon.disconnect()


def test_streams_of_partitions_that_moved_are_counted_and_forgotten_by_their_new_owner_alone():
    made = world(MemoryStates())
    made.run_dry(disconnect=False)
    streams = made.daemon.streams
    assert len(streams.known) == len(alone())
    streams.let_go({stream.place for stream in streams.known})
    streams._told_at = -10.0
    streams.told(made.daemon.board)
    assert value(made, "tta_streams") == 0
    assert len(streams.known) == len(alone())  # they may come back untouched
    streams._forget_beyond(0)
    assert value(made, "tta_streams_forgotten_total", reason="too_many") == 0
    assert not streams._gone
    made.daemon.disconnect()


def test_metrics_name_no_more_streams_than_they_may():
    cards = []
    for n in range(50):
        card = Card(0.0, gain=n / 100, drift=float(n))
        card.labeled.add(Scored(10, 5, None, 0.0, n % 10))
        cards.append((Stream(f"cam-{n}", Partition("images", 0)), card))
    metrics = Metrics()
    for rows in (cards, cards[10:]):
        metrics.streams.worst(*worst(rows, 3))
    named = {
        sample.labels["stream"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "tta_stream_gain_ratio"
    }
    assert named == {"cam-10": 0.1, "cam-11": 0.11, "cam-12": 0.12}
    assert metrics.registry.get_sample_value("tta_stream_drift_ratio", {"stream": "cam-49"}) == 49.0
    assert metrics.registry.get_sample_value("tta_stream_accuracy_ratio", {"stream": "cam-20"}) == 0.0


def test_labels_judge_the_stream_that_was_answered():
    made = world(MemoryStates())
    made.run_dry(disconnect=False)
    stream = next(iter(alone()))
    made.daemon.streams.labeled(Scored(4, 3, 1, 0.0, stream=stream), 0.0)
    made.daemon.streams.labeled(Scored(4, 3, 1, 0.0, stream=None), 0.0)
    assert made.daemon.streams.known[stream].accuracy == 0.75
    assert sum(card.labeled.images for card in made.daemon.streams.known.values()) == 4
    made.daemon.disconnect()


def test_a_new_stream_begins_as_the_one_most_like_it_if_that_tells_more(monkeypatch):
    given = setting(
        adapt={"method": "tent", "learn_from": 16, "options": {"lr": 0.05}},
        batch={"size": 16},
        streams={"start": "nearest", "max_resident": 9},
    )
    made = Memory(given)
    streams, learner = made.daemon.streams, made.daemon.learner
    made.daemon.connect()

    def show(name, brightness, answers=3):
        for n in range(answers):
            dim = (images(16, seed=n) * brightness).clamp(0, 1)
            pixels = npy((dim * 255).byte().permute(0, 2, 3, 1).contiguous().numpy())
            made.log.append("images", pixels, key=name, headers=(("content-type", b"application/x-npy"),))
        while any(made.daemon.source.lag().values()):
            made.daemon.turn()

    show(b"dark", 0.2)
    show(b"bright", 1.0)
    place = made.log.of("images")[0]
    dark = streams._residents[Stream("dark", place)].memory
    assert streams._nearest(images(16, seed=9) * 0.21) in (None, dark)
    monkeypatch.setattr(learner, "tells_more", lambda *_: True)
    assert streams._nearest(images(16, seed=9) * 0.21) is dark
    adopted = value(made, "tta_streams_adopted_total")
    show(b"also dark", 0.19, answers=1)
    assert value(made, "tta_streams_adopted_total") == adopted + 1
    assert int(learner.adapter.steps) == int(dark["steps"]) + 1
    monkeypatch.setattr(learner, "tells_more", lambda *_: False)
    show(b"dark too", 0.2, answers=1)
    assert int(learner.adapter.steps) == 1
    made.daemon.disconnect()
