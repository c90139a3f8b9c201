"""Streams survive what happens to processes and partitions: each learns what it would alone."""

import json
from collections import Counter
from contextlib import suppress

import pytest
from cameras import NEVER_S, PARTITIONS, RECORDS, alone, found, same, setting, values
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from world import Memory, config

from tta_daemon.control.stream_changelog import StreamChangelog
from tta_daemon.control.stream_folder import StreamFolder
from tta_daemon.control.stream_states import MemoryStates
from tta_daemon.errors import DeliveryError
from tta_daemon.stream.memory_log import MemoryLog, MemorySink
from tta_daemon.stream.records import Partition

GROUP = config().kafka.group_id


def fill(log):
    for key, partition, headers, value in values():
        log.append("images", value, key=key, headers=headers, partition=partition)


def topics():
    return MemoryLog({"images": PARTITIONS, "answers": 1, "labels": 1, "images-dlq": 1, "state": 2})


class Fate:
    """One log, one place for states, and replicas on them that die, come, and lose their partitions."""

    def __init__(self, delivery, kind, folder):
        self.delivery, self.kind, self.folder = delivery, kind, folder
        self.lives = 0
        self.log = topics()
        fill(self.log)
        self.states = {
            "memory": MemoryStates,
            "folder": lambda: StreamFolder(self.folder),
            "changelog": lambda: StreamChangelog(MemorySink(self.log), "state", 2, self.read),
        }[kind]()
        self.members = []
        self.join()

    def read(self, number):
        for record in list(self.log.partitions[Partition("state", number)]):
            yield [record]

    def join(self):
        if self.members and self.kind == "folder":
            return  # a folder is of one replica
        self.members.append(self.start())
        self.follow()

    def start(self):
        states = self.states
        if self.kind == "changelog":
            states = StreamChangelog(MemorySink(self.log), "state", 2, self.read)
        self.lives += 1
        world = Memory(setting(self.delivery, f"pod-{self.lives}"), self.log, states=states)
        assert world.daemon.connect()
        return world

    def leave(self):
        if len(self.members) > 1:
            gone = self.members.pop(0)
            with suppress(DeliveryError):  # its partitions were lost: whoever gets them reads again
                gone.daemon.drain()
            gone.daemon.disconnect()
            self.follow()

    def follow(self):
        """Whoever had a partition settles before whoever gets it reads on."""
        for world in self.members:
            try:
                world.daemon.partitions.follow()
            except DeliveryError as fault:
                world.daemon.read_again(fault)

    def crash(self):
        """The oldest dies: what was not delivered is gone, and the group takes its partitions."""
        dead = self.members.pop(0)
        dead.daemon.scribe.close(20.0)
        dead.daemon.streams.close()
        dead.daemon.source.close()
        if self.kind == "folder":
            self.states.close()
            self.states = StreamFolder(self.folder)
        self.follow()
        self.join()

    def turn(self):
        self.members[0].daemon.turn()

    def turn_another(self):
        self.members[-1].daemon.turn()

    def settle(self):
        for world in self.members:
            self.settle_one(world.daemon)

    @staticmethod
    def settle_one(daemon):
        if daemon.ledger.ragged and daemon.config.kafka.delivery == "exactly_once":
            return
        try:
            daemon.settle()
        except DeliveryError as fault:
            daemon.read_again(fault)

    def settle_without_saving(self):
        for world in self.members:
            world.daemon.scribe.every_s = NEVER_S
            self.settle_one(world.daemon)
            world.daemon.scribe.every_s = 0.0

    def fail_to_settle(self):
        daemon = self.members[0].daemon
        daemon.sink.broken = fault = DeliveryError("the broker is away")
        with pytest.raises(DeliveryError):
            daemon.settle()
        daemon.read_again(fault)
        daemon.sink.broken = None

    def lose_the_partitions(self):
        daemon = self.members[0].daemon
        daemon.source.lose(daemon.source.assignment())
        daemon.turn()
        self.log.rebalance(GROUP)
        self.follow()

    def committed(self):
        return sum(self.log.committed[GROUP].values())

    def finish(self):
        for _ in range(300):
            for world in self.members:
                world.daemon.turn()
            self.settle()
            if self.committed() == RECORDS:
                break
        for world in self.members:
            world.daemon.drain()
            world.daemon.disconnect()


MOMENTS = [
    Fate.turn, Fate.turn, Fate.turn, Fate.turn_another, Fate.turn_another, Fate.settle, Fate.settle,
    Fate.settle_without_saving, Fate.fail_to_settle, Fate.lose_the_partitions, Fate.crash, Fate.join, Fate.leave,
]  # fmt: skip


@pytest.mark.parametrize(
    ("delivery", "kind"),
    [
        ("at_least_once", "memory"),
        ("at_least_once", "folder"),
        ("at_least_once", "changelog"),
        ("exactly_once", "changelog"),
        ("exactly_once", "folder"),
    ],
)
def test_whatever_happens_each_stream_learns_the_same(delivery, kind, tmp_path_factory):
    wanted = alone()

    @settings(max_examples=8, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.sampled_from(MOMENTS), max_size=25))
    def lives(moments):
        fate = Fate(delivery, kind, tmp_path_factory.mktemp("states"))
        for moment in moments:
            moment(fate)
        fate.finish()
        kept = found(fate.states)
        assert same(kept, wanted) == ""
        told = Counter(json.loads(record.value)["id"] for record in fate.log.records("answers"))
        told += Counter(record.header("id") for record in fate.log.records("images-dlq"))
        assert len(told) == RECORDS
        if delivery == "exactly_once":
            assert set(told.values()) == {1}
        if kind == "folder":
            fate.states.close()

    lives()
