"""Saving does not hold up the loop, and a state that cannot be saved does not stop it."""

from threading import Event

import pytest
import torch

from tta_daemon.control.checkpoint import MemoryCheckpoint
from tta_daemon.control.scribe import Scribe
from tta_daemon.control.snapshot import Snapshot
from tta_daemon.errors import CheckpointError
from tta_daemon.stream.records import Partition
from tta_daemon.watch.metrics import Metrics

P = Partition("images", 0)
SAVED = "tta_checkpoint_seconds_count"
FAILED = "tta_checkpoint_failures_total"


class Slow(MemoryCheckpoint):
    """Waits for a word before it saves, and fails if told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.fault = Event(), None

    def save(self, snapshot: Snapshot) -> int:
        assert self.go.wait(60)
        if self.fault:
            raise self.fault
        return super().save(snapshot)


def snapshot(step: int) -> Snapshot:
    return Snapshot("", {"w": torch.full((4,), float(step))}, {P: step}, {})


class Desk:
    def __init__(self, checkpoint=None, every_s: float = 10.0) -> None:
        self.now = 0.0
        self.metrics = Metrics()
        self.checkpoint = checkpoint or MemoryCheckpoint()
        self.scribe = Scribe(self.checkpoint, every_s, self.metrics, lambda: self.now)

    def value(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(name) or 0.0


def test_without_a_checkpoint_nothing_is_ever_due() -> None:
    scribe = Scribe(None, 0.0, Metrics())
    scribe.hasten()
    assert not scribe.due({P: 1})
    scribe.settled()
    scribe.close(1.0)


def test_the_first_state_is_durable_at_once_and_the_others_come_now_and_then() -> None:
    desk = Desk()
    assert not desk.scribe.due({})
    assert desk.scribe.due({P: 1})
    desk.scribe.save(snapshot(1))
    assert len(desk.checkpoint.saved[""]) == 1
    assert not desk.scribe.due({P: 2})
    desk.now = 10.0
    assert not desk.scribe.due({P: 1})
    assert desk.scribe.due({P: 2})
    desk.scribe.hasten(60.0)
    desk.scribe.save(snapshot(2))
    desk.scribe.close(60.0)
    assert desk.value(SAVED) == 2
    assert desk.value("tta_checkpoint_size_bytes") == len(desk.checkpoint.saved[""][-1])
    assert desk.value("tta_checkpoint_last_success_timestamp_seconds") > 0


def test_what_was_resumed_is_not_saved_again() -> None:
    desk = Desk()
    desk.scribe.resumed(snapshot(1))
    desk.now = 100.0
    assert not desk.scribe.due({P: 1})
    desk.scribe.departed()
    assert desk.scribe.due({P: 1})


def test_while_one_is_written_none_is_due_and_the_loop_goes_on() -> None:
    slow = Slow()
    desk = Desk(slow, every_s=0.0)
    desk.scribe.resumed(snapshot(0))
    desk.scribe.save(snapshot(1))
    assert not desk.scribe.due({P: 2})
    slow.go.set()
    desk.scribe.hasten(60.0)
    assert desk.scribe.due({P: 2})
    assert len(slow.saved[""]) == 1


@pytest.mark.parametrize("with_answers", [False, True])
def test_a_state_that_cannot_be_saved_is_counted_and_tried_again(with_answers: bool) -> None:  # noqa: FBT001
    slow = Slow()
    slow.go.set()
    slow.with_answers = with_answers
    slow.fault = CheckpointError("the disk is full")
    desk = Desk(slow)
    desk.scribe.save(snapshot(1))
    desk.scribe.settled()
    assert (desk.value(SAVED), desk.value(FAILED)) == (0, 1)
    assert not desk.scribe.due({P: 1})
    desk.now, slow.fault = 10.0, None
    assert desk.scribe.due({P: 1})
    desk.scribe.hasten(60.0)
    desk.scribe.save(snapshot(1))
    desk.scribe.settled()
    desk.scribe.close(60.0)
    assert (desk.value(SAVED), desk.value(FAILED)) == (1, 1)


def test_a_state_sent_with_the_answers_counts_once_they_are_settled() -> None:
    checkpoint = MemoryCheckpoint()
    checkpoint.with_answers = True
    desk = Desk(checkpoint, every_s=0.0)
    desk.scribe.save(snapshot(1))
    assert desk.value(SAVED) == 0
    desk.scribe.every_s = 10.0
    desk.scribe.offer({P: 1}, lambda _: snapshot(1))  # the settlement failed: it goes with the next one, at any time
    desk.scribe.settled()
    desk.scribe.settled()
    assert desk.value(SAVED) == 1
    assert not desk.scribe.due({P: 1})
