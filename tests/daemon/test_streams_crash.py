"""Streams survive what happens to processes and partitions: each learns what it would alone."""

import io
import json
from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from nets import images
from world import Memory, config, npy

from tta_daemon.control.snapshot import decode
from tta_daemon.control.stream_changelog import StreamChangelog
from tta_daemon.control.stream_folder import StreamFolder
from tta_daemon.control.stream_states import MemoryStates
from tta_daemon.errors import DeliveryError
from tta_daemon.learner import Learner
from tta_daemon.model.load import load
from tta_daemon.stream.memory_log import MemoryLog, MemorySink
from tta_daemon.stream.records import Partition, Stream

SIZE, PARTITIONS, STREAMS, RECORDS = 4, 3, 7, 30
NEVER_S = 1e6
GROUP = config().kafka.group_id


def setting(delivery="at_least_once", name="pod-0", **more):
    return config(
        adapt={"method": "tent", "learn_from": SIZE},
        batch={"size": SIZE, "patience_s": NEVER_S},
        settle={"every_s": NEVER_S},
        limits={"reject_ratio": 1.0},
        kafka={"delivery": delivery, "group_instance_id": name},
        checkpoint={"every_s": 0.0},
        streams={"by": "key", "max_resident": 2},
        **more,
    )


@cache
def records():
    """Each holds a batch: so it is the same batch whoever answers it. With nonsense between."""
    pixels = (images(RECORDS * SIZE) * 255).byte().permute(0, 2, 3, 1).numpy()
    values = [npy(pixels[n * SIZE : (n + 1) * SIZE]) for n in range(RECORDS)]
    return [b"nonsense" if n in {3, 11, 12} else value for n, value in enumerate(values)]


def stream_of(n):
    number = (n * n + n // 3) % STREAMS
    return f"cam-{number}", number % PARTITIONS


def fill(log):
    for n, value in enumerate(records()):
        key, partition = stream_of(n)
        kind = (("content-type", b"application/x-npy"), ("id", str(n).encode()))
        log.append("images", value, key=key.encode(), headers=kind, partition=partition)


def topics():
    return MemoryLog({"images": PARTITIONS, "answers": 1, "labels": 1, "images-dlq": 1, "state": 2})


def found(states):
    """Everything that is saved, by stream."""
    places = [Partition("images", n) for n in range(PARTITIONS)]
    kept = {}
    for place in places:
        for some in states.restore(place):
            for one in some:
                if one.name is not None:
                    kept[Stream(one.name, place)] = decode(one.blob)
    return kept


@cache
def alone():
    """What each stream has learned by itself, in a process of its own; and how many records of it there are."""
    learners, counts = {}, Counter()
    for n, value in enumerate(records()):
        if value == b"nonsense":
            continue
        name, partition = stream_of(n)
        stream = Stream(name, Partition("images", partition))
        if stream not in learners:
            given = setting()
            learners[stream] = Learner(load(given.model), given.adapt, given.watch.sample, given.guard)
        pixels = np.ascontiguousarray(np.load(io.BytesIO(value)).transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(
            255
        )
        learners[stream].answer(torch.from_numpy(pixels)).learn()
        counts[stream] += 1
    return {stream: (learner.adapter.dump(), counts[stream]) for stream, learner in learners.items()}


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
            gone.daemon.drain()
            gone.daemon.disconnect()
            self.follow()

    def follow(self):
        """Whoever had a partition settles before whoever gets it reads on."""
        for world in self.members:
            world.daemon.partitions.follow()

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
        assert kept.keys() == wanted.keys()
        for stream, (memory, count) in wanted.items():
            assert kept[stream].batches == count, stream
            for name, tensor in memory.items():
                assert torch.equal(kept[stream].memory[name], tensor), (stream, name)
        told = Counter(json.loads(record.value)["id"] for record in fate.log.records("answers"))
        told += Counter(record.header("id") for record in fate.log.records("images-dlq"))
        assert len(told) == RECORDS
        if delivery == "exactly_once":
            assert set(told.values()) == {1}
        if kind == "folder":
            fate.states.close()

    lives()
