"""States in a changelog: final with the answers, whole or skipped, each stream's newest found."""

from collections.abc import Iterator

import pytest
import torch

from tta_daemon.control import checkpoint_kafka
from tta_daemon.control.checkpoint_kafka import KafkaCheckpoint
from tta_daemon.control.snapshot import Snapshot
from tta_daemon.errors import CheckpointError
from tta_daemon.stream.memory_log import MemoryLog, MemorySink, MemorySource
from tta_daemon.stream.records import Message, Partition, Record

P = Partition("images", 0)


class Changelog:
    """A checkpoint on a log in memory, whose process can die at any message."""

    def __init__(self, *, exactly_once: bool = True, partitions: int = 3) -> None:
        self.log = MemoryLog({"images": 1, "state": partitions})
        self.source = MemorySource(self.log, ["images"])
        self.exactly_once = exactly_once
        self.restart()

    def restart(self, owner: str = "") -> KafkaCheckpoint:
        self.sink = MemorySink(self.log, exactly_once=self.exactly_once)
        self.checkpoint = KafkaCheckpoint(self.sink, "state", self.read, owner)
        return self.checkpoint

    def read(self) -> Iterator[Record]:
        yield from self.log.records("state")

    def settle(self) -> None:
        self.sink.settle(self.source, {}, 1)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(checkpoint_kafka, "PART_BYTES", 200)


def snapshot(step: int, stream: str = "", size: int = 4) -> Snapshot:
    return Snapshot(stream, {"w": torch.full((size,), float(step))}, {P: step}, {"method": "tent"})


def step_of(found: Snapshot | None) -> int | None:
    return None if found is None else int(found.memory["w"][0])


def test_a_state_is_final_when_its_settlement_is() -> None:
    world = Changelog()
    assert world.checkpoint.latest("") is None
    world.checkpoint.save(snapshot(1))
    assert world.checkpoint.latest("") is None
    world.settle()
    assert step_of(world.checkpoint.latest("")) == 1
    world.checkpoint.save(snapshot(2))
    world.sink.abandon()
    assert step_of(world.restart().latest("")) == 1


def test_the_newest_is_found_by_stream_and_owner() -> None:
    world = Changelog()
    for step in range(10):
        for stream in ("", "cam/1", "cam", "cam/1/2"):
            world.checkpoint.save(snapshot(step, stream))
        world.settle()
    assert step_of(world.restart().latest("cam")) == 9
    assert world.checkpoint.latest("cam/1/2/0") is None
    theirs = world.restart(owner="pod-1")
    assert theirs.latest("") is None
    theirs.save(snapshot(50))
    world.settle()
    assert step_of(theirs.latest("")) == 50
    assert step_of(world.restart().latest("")) == 9
    assert len({record.key for record in world.log.records("state")}) == 4 * checkpoint_kafka.COPIES + 1


@pytest.mark.usefixtures("small_parts")
def test_a_large_state_goes_in_parts_and_shrinks_again() -> None:
    world = Changelog()
    for step, size in enumerate([1000, 1000, 4, 700, 4, 4]):
        world.checkpoint.save(snapshot(step, size=size))
        world.settle()
        found = world.restart().latest("")
        assert found is not None
        assert (step_of(found), len(found.memory["w"])) == (step, size)
    assert max(len(record.value or b"") for record in world.log.records("state")) <= 200


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("sent", range(1, 6))
def test_a_state_of_which_only_a_part_arrived_leaves_the_one_before(sent: int) -> None:
    world = Changelog(exactly_once=False)
    for step in range(4):
        world.checkpoint.save(snapshot(step, size=100))
        world.settle()
    whole = len(world.log.records("state"))
    world.checkpoint.save(snapshot(4, size=100))
    del world.sink._held[sent:]  # dies while it sends
    world.settle()
    parts = len(world.log.records("state")) - whole
    everything = -(-whole // 4)
    assert step_of(world.restart().latest("")) == (4 if parts == everything else 3)
    world.checkpoint.save(snapshot(5, size=100))
    world.settle()
    assert step_of(world.restart().latest("")) == 5


def test_what_is_set_aside_stays_under_another_name() -> None:
    world = Changelog()
    for step in range(2):
        world.checkpoint.save(snapshot(step))
        world.settle()
    assert world.restart().set_aside("") == 2
    world.settle()
    assert world.checkpoint.latest("") is None
    (aside,) = {
        (record.key or b"").split(b"/")[0].decode() for record in world.log.records("state") if record.value
    } - {""}
    assert aside.startswith(".aside-")
    assert step_of(world.checkpoint.latest(aside)) == 1
    world.checkpoint.save(snapshot(7))
    world.settle()
    assert step_of(world.restart().latest("")) == 7


def test_strangers_in_the_topic_are_no_states() -> None:
    world = Changelog()
    world.checkpoint.save(snapshot(1))
    for key in (None, b"", b"/", b"/0", b"/0/0/0/", b"/a/0", b"\xff/0/0", b"//0", b"/0/99999999999999999999"):
        world.sink.send(Message("state", key, b"nonsense"))
    world.sink.send(Message("state", b"/0/0", b"nonsense", (("tta.state.number", b"\xff"), ("tta.state.whole", b"x"))))
    world.sink.send(Message("state", b"/2/0", b"nonsense", (("tta.state.number", b"99"),)))
    world.settle()
    assert step_of(world.checkpoint.latest("")) == 1
    world.checkpoint.save(snapshot(2))
    world.settle()
    assert step_of(world.restart().latest("")) == 2


def test_a_state_too_large_for_a_topic_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_kafka, "LARGEST_BYTES", 1000)
    world = Changelog()
    with pytest.raises(CheckpointError, match=r'checkpoint\.kind = "file"'):
        world.checkpoint.save(snapshot(1, size=1000))
    assert world.sink._held == []
