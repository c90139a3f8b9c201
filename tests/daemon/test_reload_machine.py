"""Whatever happens in whatever order: nothing is lost, nothing is half applied, and numbers cost no learned weights."""

import itertools
import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from reloading import Reloaded, same
from reloading import settings as complete
from world import network, npy, pictures

from tta_daemon.control.errands import Errand
from tta_daemon.control.settings import Reach
from tta_daemon.control.slot import Result
from tta_daemon.control.toml import document
from tta_daemon.errors import DeliveryError
from tta_daemon.stream.memory_log import MemoryLog, MemorySource

EXAMPLES = int(os.environ.get("TTA_MACHINE_EXAMPLES", "12"))
STEPS = int(os.environ.get("TTA_MACHINE_STEPS", "40"))

PICTURES = pictures(16)
NONSENSE = [b"", b"nonsense", npy(np.zeros((3, 3)))]

LIVE = st.fixed_dictionaries(
    {},
    optional={
        "adapt": st.fixed_dictionaries(
            {},
            optional={
                "when": st.sampled_from(["always", "never"]),
                "learn_from": st.integers(1, 4),
                "every": st.integers(1, 3),
                "budget": st.sampled_from([0.0, 0.5, 1.0]),
                "max_lag_s": st.sampled_from([0.0, 1.0, 1e9]),
            },
        ),
        "batch": st.fixed_dictionaries({"size": st.integers(4, 8), "patience_s": st.sampled_from([0.0, 0.5, 1000.0])}),
        "limits": st.fixed_dictionaries(
            {},
            optional={
                "waiting_images": st.integers(8, 20),
                "waiting_bytes": st.sampled_from([1, 5000, 1 << 28]),
                "reject_window": st.integers(1, 100),
            },
        ),
        "settle": st.fixed_dictionaries({"every_s": st.sampled_from([0.01, 1.0, 5.0])}),
        "watch": st.fixed_dictionaries(
            {},
            optional={
                "sample": st.sampled_from([0.1, 0.3, 1.0]),
                "label_window": st.integers(1, 50),
                "label_wait_s": st.sampled_from([0.1, 1000.0]),
                "window": st.integers(1, 50),
            },
        ),
        "http": st.fixed_dictionaries({"stall_s": st.floats(1.0, 100.0), "token": st.text("abc", max_size=5)}),
        "log": st.fixed_dictionaries({"level": st.sampled_from(["debug", "info", "error"])}),
    },
)
REBUILD = st.fixed_dictionaries(
    {},
    optional={
        "adapt": st.sampled_from(
            [
                {"method": "tent"},
                {"method": "tent", "options": {"lr": 0.01}},
                {"method": "tent", "options": {"optimizer": "sgd", "lr": 0.01}},
                {"method": "norm"},
                {"method": "source"},
                {"method": "cotta", "seed": 3},
                {"method": "rotta", "options": {"capacity": 16}},
            ]
        ),
        "model": st.sampled_from(
            [{"weights": "other.pt"}, {"labels": list("abcde")}, {"input_size": [24, 24]}, {"std": [0.5, 0.5, 0.5]}]
        ),
        "input": st.sampled_from([{"max_images": 7}, {"decoders": 1}, {"resize": "stretch"}, {"max_bytes": 400}]),
    },
)
BAD = [
    b"",  # not bad in itself, but it says that half of the daemon be another
    b"\x89PNG\r\n\x1a\n\x00",
    b"[batch]\nsize = 0",
    b"[batch]\nsize = 'eight'",
    b'[adapt]\nmethod = "tnet"',
    b'[model]\nfactory = "world:nowhere"',
    b'[model]\nfactory = "world:network"\nweights = "absent.pt"',
    b'[model]\nfactory = "world:network"\nlabels = ["a"]',
    b"[batch]\nsize = ",
    b"[batch\n",
    b"[kafka]\ngroup_id = 'another'",
    None,
]


class Reloading(RuleBasedStateMachine):
    """One daemon and its file; records, configurations, crashes and rebalances come as they please."""

    steps: ClassVar = itertools.count()
    seen: ClassVar = Counter()

    @initialize(delivery=st.sampled_from(["at_least_once", "exactly_once"]))
    def begin(self, delivery):
        self.folder = Path(tempfile.mkdtemp())
        self.fixed = {
            "kafka": {"labels_topic": "labels", "delivery": delivery, "group_instance_id": "pod-0"},
            "limits": {"reject_ratio": 1.0},
        }
        other = network()
        with torch.no_grad():
            next(other.parameters()).mul_(0.5)
        torch.save(other.state_dict(), self.folder / "other.pt")
        self.log = MemoryLog({"images": 2, "answers": 1, "labels": 1, "images-dlq": 1})
        self.exactly_once = delivery == "exactly_once"
        self.now, self.sent, self.bystander = 0.0, 0, None
        self.write({})
        self.start()

    def start(self):
        self.world = Reloaded(self.folder, self.log)
        daemon = self.daemon = self.world.daemon
        daemon.clock = daemon.learner._clock = lambda: self.now
        daemon._settled_at = daemon._reported_at = self.now
        assert daemon.connect()
        self.ends = daemon.source, daemon.sink
        take = daemon.orders.take_over

        def watched(**how):
            self.watch(lambda: take(**how))

        daemon.orders.take_over = watched

    def watch(self, take):
        """Take a configuration, and see what that did to what was learned."""
        ready, adapter, before = self.daemon.slot._held, self.daemon.learner.adapter, self.world.memory()
        take()
        if ready is None or ready is self.daemon.slot._held:
            return
        self.seen["taken"] += 1
        assert self.daemon.config is ready.config
        if all(change.reach is Reach.LIVE for change in ready.changes):
            self.seen["taken, live only"] += 1
            assert same(before, self.world.memory())
        if ready.adapter is None:
            assert self.daemon.learner.adapter is adapter

    def write(self, sections):
        """Write a good configuration."""
        self.written = sections
        fixed = {name: sections.get(name, {}) | section for name, section in self.fixed.items()}
        (self.folder / "config.toml").write_text(document(complete(**sections | fixed)))

    @rule(count=st.integers(1, 9), bad=st.sampled_from([False, False, False, True]), camera=st.sampled_from("ab"))
    def send(self, count, bad, camera):
        values = NONSENSE[:1] * count if bad else [PICTURES[(self.sent + n) % 16] for n in range(count)]
        for value in values:
            partition = self.sent % 2
            self.log.append(
                "images",
                value,
                key=camera.encode(),
                headers=(("content-type", b"application/x-npy"),),
                partition=partition,
                timestamp_s=1.0,
            )
            self.sent += 1

    @rule(name=st.integers(0, 40), label=st.integers(0, 6))
    def label(self, name, label):
        self.log.append("labels", json.dumps({"id": f"images-0-{name}", "labels": [label]}).encode())

    @rule(live=LIVE, at_once=st.booleans())
    def change_numbers(self, live, at_once):
        named = {name: section for name, section in self.written.items() if name in {"model", "input"}}
        shape = {n: v for n, v in self.written.get("adapt", {}).items() if n in {"method", "seed", "options"}}
        self.write(live | named | {"adapt": live.get("adapt", {}) | shape})
        if at_once:
            self.look()
            self.daemon.turn()

    @rule(live=LIVE, rebuild=REBUILD, at_once=st.booleans())
    def change_anything(self, live, rebuild, at_once):
        self.write(live | rebuild | {"adapt": live.get("adapt", {}) | rebuild.get("adapt", {})})
        if at_once:
            self.look()
            self.daemon.turn()

    @rule()
    def look(self):
        verdict = self.world.reloader.look()
        assert verdict.result is not Result.REFUSED, verdict.words
        self.seen[f"look: {verdict.result}"] += 1

    @rule(content=st.sampled_from(BAD))
    def write_nonsense(self, content):
        """The file is bad for a while; somebody looks; then it is mended."""
        file = self.folder / "config.toml"
        before, parts, memory = file.read_bytes(), self.parts(), self.world.memory()
        file.unlink() if content is None else file.write_bytes(content)
        assert self.world.reloader.look().result is Result.REFUSED
        assert all(now is then for now, then in zip(self.parts(), parts, strict=True))
        assert same(memory, self.world.memory())
        file.write_bytes(before)
        self.seen["look: refused"] += 1

    def parts(self):
        daemon = self.daemon
        return daemon.config, daemon.deployed, daemon.decoder, daemon.learner.adapter, daemon.slot._held

    @rule(count=st.integers(1, 4), seconds=st.sampled_from([0.0, 0.3, 2.0]))
    def turn(self, count, seconds):
        for _ in range(count):
            self.now += seconds
            self.daemon.turn()

    @rule()
    def fail_to_deliver(self):
        """A settlement fails; the broker is back at once."""
        sink = self.daemon.sink
        sink.broken = DeliveryError("away")
        abandon = sink.abandon

        def mended():
            sink.broken, sink.abandon = None, abandon
            abandon()

        sink.abandon = mended
        self.daemon._settled_at = -1e9
        self.daemon.turn()
        assert sink.broken is None
        self.seen["undelivered"] += 1

    @rule()
    def reset(self):
        asked = self.daemon.errands.ask(Errand.RESET)
        self.daemon.turn()
        assert asked.result(0).done

    @rule()
    def crash(self):
        """No drain, no farewell: what was not delivered is gone, and the group takes the partitions back."""
        self.log.members[self.daemon.source.group].remove(self.daemon.source)
        self.daemon.decoder.close()
        self.start()
        self.seen["crashed"] += 1

    @precondition(lambda self: self.bystander is None)
    @rule()
    def join(self):
        self.bystander = MemorySource(self.log, ["images"], self.daemon.config.kafka.group_id)
        self.seen["rebalanced"] += 1

    @precondition(lambda self: self.bystander is not None)
    @rule()
    def leave(self):
        self.bystander.close()
        self.bystander = None
        self.seen["rebalanced"] += 1

    @rule()
    def lose(self):
        """The group took us for dead, and lets us in again."""
        self.daemon.source.lose(self.daemon.source.assignment())
        self.log.rebalance(self.daemon.config.kafka.group_id)
        self.seen["rebalanced"] += 1

    @invariant()
    def everything_committed_was_delivered(self):
        next(self.steps)
        if not hasattr(self, "daemon"):
            return
        told = self.told()
        for (topic, number), offset in self.log.committed[self.daemon.config.kafka.group_id].items():
            assert all(told[f"{topic}-{number}-{at}"] for at in range(offset))
        if self.exactly_once:
            assert not [name for name, times in told.items() if times > 1]

    @invariant()
    def every_part_goes_by_the_same_configuration(self):
        if not hasattr(self, "daemon"):
            return
        daemon, config = self.daemon, self.daemon.config
        assert (daemon.source, daemon.sink) == self.ends
        assert (daemon.batcher.size, daemon.batcher.patience_s) == (config.batch.size, config.batch.patience_s)
        assert daemon.learner._adapt == config.adapt
        assert daemon.learner.adapter.options == config.adapt.chosen()
        assert daemon.learner._deployed is daemon.deployed
        assert daemon.decoder._bounds.size == config.model.input_size
        assert daemon.decoder._bounds.resize == config.input.resize
        assert daemon.labels.accuracy.window == config.watch.window
        assert set(daemon.labels._join._by_name) == set(daemon.deployed.labels)
        assert daemon.deployed.labels == (config.model.labels or tuple("01234"))

    def told(self):
        """How often each record was answered or buried."""
        answers = Counter(json.loads(record.value)["id"] for record in self.log.records("answers"))
        for letter in self.log.records("images-dlq"):
            topic, number, at = (letter.header(f"tta.dlq.{name}") for name in ("topic", "partition", "offset"))
            answers[f"{topic}-{number}-{at}"] += 1
        return answers

    def teardown(self):
        if not hasattr(self, "daemon"):
            return
        if self.bystander is not None:
            self.bystander.close()
        for _ in range(30):
            self.now += 10.0
            self.daemon.turn()
        self.daemon.drain()
        self.everything_committed_was_delivered()
        told = self.told()
        assert sum(self.log.committed[self.daemon.config.kafka.group_id].values()) == self.sent
        assert len(told) == self.sent
        self.daemon.disconnect()
        shutil.rmtree(self.folder)


def test_the_machine():
    Reloading.seen.clear()
    run_state_machine_as_test(
        Reloading,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.reuse, Phase.generate, Phase.shrink),  # to explain a failure takes minutes
        ),
    )
    print(f"{next(Reloading.steps)} steps:", dict(Reloading.seen))  # noqa: T201 - the number of steps is the result
    assert Reloading.seen["taken"]
