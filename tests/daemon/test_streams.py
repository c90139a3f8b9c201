"""Streams have limits, and hitting one is visible; what is put away comes back as it was."""

import pytest
import torch
from cameras import PARTITIONS, RECORDS, alone, found, same, setting, values
from world import Memory, config

from tta_daemon.control.errands import Errand
from tta_daemon.control.stream_folder import StreamFolder
from tta_daemon.control.stream_states import MemoryStates
from tta_daemon.errors import CheckpointError
from tta_daemon.stream.memory_log import MemoryLog
from tta_daemon.stream.records import Partition


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
    made.daemon.run_errands()
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
