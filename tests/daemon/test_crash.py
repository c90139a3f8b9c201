"""A daemon that dies at any moment goes on as if it had not: the same state bit for bit, every record answered."""

import json
from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from world import Memory, config, pictures

from tta_daemon.control.checkpoint import MemoryCheckpoint
from tta_daemon.control.checkpoint_kafka import KafkaCheckpoint
from tta_daemon.control.config import Config
from tta_daemon.errors import CheckpointError, DeliveryError
from tta_daemon.stream.memory_log import MemoryLog, MemorySink

SIZE, BATCHES = 8, 9
NEVER_S = 1e6


def setting(method: str, delivery: str = "at_least_once", **more: dict[str, object]) -> Config:
    """Full batches only, settled when the test says so."""
    return config(
        adapt={"method": method, "learn_from": SIZE},
        batch={"size": SIZE, "patience_s": NEVER_S},
        settle={"every_s": NEVER_S},
        limits={"waiting_images": SIZE + 4, "reject_ratio": 1.0},
        kafka={"delivery": delivery, "group_instance_id": "pod-0", "labels_topic": "labels"},
        checkpoint={"every_s": 0.0},
        **more,
    )


def records() -> list[bytes]:
    """Full batches of pictures, with nonsense between."""
    values = list(pictures(SIZE * BATCHES))
    for at in (0, 5, 20, 21, 40, SIZE * BATCHES):
        values.insert(at, b"nonsense")
    return values


@cache
def uninterrupted(method: str) -> dict[str, torch.Tensor]:
    """What a daemon has learned that nothing ever happened to."""
    world = Memory(setting(method))
    world.send(records())
    world.run_dry()
    assert world.daemon.learner.step == BATCHES
    return dict(world.daemon.learner.adapter.dump())


class Fate:
    """One log and one store of states, and a daemon on them that dies and comes back."""

    def __init__(self, settings: Config, kind: str) -> None:
        self.settings = settings
        self.log = MemoryLog({"images": 1, "answers": 1, "labels": 1, "images-dlq": 1, "state": 2})
        self.checkpoint = (
            MemoryCheckpoint(keep=100)  # as many as may be half written; a file never is
            if kind == "memory"
            else KafkaCheckpoint(MemorySink(self.log), "state", lambda: self.log.records("state"), "pod-0")
        )
        self.start()
        self.world.send(records())

    def start(self) -> None:
        self.world = Memory(self.settings, self.log, self.checkpoint)
        self.daemon = self.world.daemon
        assert self.daemon.connect()

    def crash(self) -> None:
        """Die: what was not delivered is gone, and the group takes our partitions."""
        self.daemon.scribe.close(20.0)
        self.daemon.source.close()
        self.start()

    def crash_before_the_save(self) -> None:
        """Die with the newest state half written; the first one was waited for."""
        self.daemon.scribe.close(20.0)
        if isinstance(self.checkpoint, MemoryCheckpoint) and len(self.checkpoint.saved.get("", ())) > 1:
            self.checkpoint.saved[""][-1] = self.checkpoint.saved[""][-1][:-1]
        self.crash()

    def crash_before_the_commit(self) -> None:
        """Die between saving and committing."""
        self.daemon.scribe.hasten(20.0)
        self.daemon.sink.flush(1.0)
        self.daemon.scribe.offer(self.daemon.progress.learned, self.daemon.learner.snapshot)
        self.crash()

    def turn(self) -> None:
        self.daemon.turn()

    def settle(self) -> None:
        """As `turn` does, which waits with exactly_once while the ledger is ragged, and reads again what failed."""
        if self.daemon.ledger.ragged and self.daemon.config.kafka.delivery == "exactly_once":
            return
        try:
            self.daemon.settle()
        except DeliveryError as fault:
            self.daemon.read_again(fault)

    def settle_without_saving(self) -> None:
        self.daemon.scribe.every_s = NEVER_S
        self.settle()
        self.daemon.scribe.every_s = 0.0

    def fail_to_settle(self) -> None:
        self.daemon.sink.broken = fault = DeliveryError("the broker is away")
        with pytest.raises(DeliveryError):
            self.daemon.settle()
        self.daemon.read_again(fault)
        self.daemon.sink.broken = None

    def lose_the_partition(self) -> None:
        """What a missed heartbeat does: lost, and given back at the next rebalance, if not in the turn already."""
        self.daemon.source.lose(self.daemon.source.assignment())
        self.daemon.turn()
        if not self.daemon.source.assignment():
            self.log.rebalance(self.settings.kafka.group_id)
            self.daemon.partitions.follow()

    def finish(self) -> None:
        """Go on until everything is committed."""
        for _ in range(200):
            self.turn()
            self.settle()
            if self.world.committed() == len(self.log.records("images")):
                break
        self.daemon.drain()
        self.daemon.disconnect()


MOMENTS = [
    Fate.turn, Fate.turn, Fate.turn, Fate.settle, Fate.settle_without_saving, Fate.fail_to_settle,
    Fate.lose_the_partition, Fate.crash, Fate.crash_before_the_save, Fate.crash_before_the_commit,
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "delivery", "kind"),
    [
        ("tent", "at_least_once", "memory"),
        ("tent", "exactly_once", "memory"),
        ("cotta", "at_least_once", "kafka"),
        ("tent", "exactly_once", "kafka"),
    ],
)
def test_a_crash_at_any_moment_changes_nothing(method: str, delivery: str, kind: str) -> None:
    wanted = uninterrupted(method)

    @settings(max_examples=15, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.sampled_from(MOMENTS), max_size=25))
    def lives(moments: list[Callable[[Fate], None]]) -> None:
        fate = Fate(setting(method, delivery), kind)
        for moment in moments:
            moment(fate)
        fate.finish()
        learned = fate.daemon.learner.adapter.dump()
        assert learned.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert torch.equal(learned[name], tensor), name
        ids = Counter(fate.world.answered()) + Counter(f"{r.header('tta.dlq.offset')}" for r in fate.world.buried())
        assert len(ids) == len(records())
        if delivery == "exactly_once":
            assert set(ids.values()) == {1}

    lives()


def test_a_first_state_whose_transaction_was_aborted_goes_with_the_next_one() -> None:
    """Else offsets were committed, and nobody would know that what they stand for was not learned."""
    fate = Fate(setting("tent", "exactly_once"), "kafka")
    for moment in (Fate.lose_the_partition, Fate.turn, Fate.settle_without_saving, Fate.turn,
                   Fate.settle_without_saving, Fate.crash):  # fmt: skip
        moment(fate)
    fate.finish()
    assert fate.daemon.learner.step == BATCHES


def test_nothing_is_lost_when_no_state_can_be_saved() -> None:
    class Full(MemoryCheckpoint):
        def save(self, snapshot: object) -> int:  # noqa: ARG002
            raise CheckpointError("the disk is full")

    world = Memory(config(checkpoint={"every_s": 0.0}), checkpoint=Full())
    world.send(pictures(40))
    world.run_dry()
    assert len(set(world.answered())) == 40
    assert world.committed() == 40
    assert (world.metrics.registry.get_sample_value("tta_checkpoint_failures_total") or 0) >= 1


def restarted(first: Config, then: Config, *, fresh_state: bool = False) -> Memory:
    checkpoint = MemoryCheckpoint()
    world = Memory(first, checkpoint=checkpoint)
    world.send(pictures(16))
    world.run_dry()
    again = Memory(then, world.log, checkpoint)
    again.daemon.fresh_state = fresh_state
    return again


def test_a_restart_goes_on_where_it_stopped() -> None:
    again = restarted(config(), config(adapt={"options": {"lr": 0.5}}))
    again.send(pictures(8, seed=3))
    again.run_dry()
    assert json.loads(again.log.records("answers")[-1].value or b"")["step"] == 2
    assert again.daemon.learner.step == 3


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (config(adapt={"method": "sar"}), "adapt.method 'tent', not 'sar'"),
        (config(adapt={"options": {"optimizer": "sgd"}}), "adapt.options.optimizer 'adam', not 'sgd'"),
        (config(model={"std": [0.5, 0.5, 0.5]}), "model.std"),
        (config(model={"dtype": "float64"}), "model.dtype 'torch.float32', not 'torch.float64'"),
        (config(model={"arguments": {"num_classes": 7}}), "model '"),
    ],
)
def test_a_state_of_something_else_is_refused(then: Config, said: str) -> None:
    again = restarted(config(), then)
    with pytest.raises(CheckpointError) as refused:
        again.daemon.run()
    assert said in str(refused.value)
    assert "--fresh-state" in str(refused.value)


def test_fresh_state_sets_the_saved_one_aside_and_begins_anew() -> None:
    again = restarted(config(), config(adapt={"method": "sar"}), fresh_state=True)
    again.send(pictures(8, seed=3))
    again.run_dry()
    assert again.daemon.learner.step == 1
    assert again.committed() == 24
