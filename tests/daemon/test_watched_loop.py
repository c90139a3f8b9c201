"""The loop watches what it answers: drift is told and acted upon, and a restart goes on watching where it was."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import world
from nets import images
from world import Memory, npy

from tta_daemon.control.checkpoint import MemoryCheckpoint
from tta_daemon.control.config import Config
from tta_daemon.control.web.board import Kind
from tta_daemon.errors import ConfigError
from tta_daemon.model.load import load
from tta_daemon.offline import prepare

SIZE = 16


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is known of the small network's source: labeled by what it says itself."""
    folder, config = tmp_path_factory.mktemp("prior"), world.config(batch={"size": SIZE})
    shown = images(256)
    labels = load(config.model).classifier(shown).argmax(1)
    labels[:5] = torch.arange(5)
    pixels = (shown * 255).byte().permute(0, 2, 3, 1).numpy()
    np.savez(folder / "source.npz", images=pixels, labels=labels.numpy())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"SHIFTS": 4, "SHIFTED": 32, "CHUNK": 64, "DOUBTFUL": 64, "CANARIES": 32}.items():
            patch.setattr(prepare, name, value)
        known = folder / "prior.safetensors"
        prepare.run(config, folder / "source.npz", known, quiet=True, window=64, held_out=True)
    return known


def config(prior: Path, **sections: dict[str, object]) -> Config:
    model = {"prior": str(prior)}
    adapt = {"method": "tent", "learn_from": 4} | sections.pop("adapt", {})
    return world.config(model=model, batch={"size": SIZE}, adapt=adapt, **sections)


def clean(count: int, seed: int) -> list[bytes]:
    return world.pictures(count, seed)


def dark(count: int, seed: int) -> list[bytes]:
    """Pictures as they come from a lens that hardly any light gets through."""
    pixels = (images(count, seed=seed) * 40).byte().permute(0, 2, 3, 1).numpy()
    return [npy(picture) for picture in pixels]


def go_on(memory: Memory, values: list[bytes]) -> None:
    """Send these, and turn until they are answered."""
    memory.send(values)
    for _ in range(100):
        memory.daemon.turn()
        if not sum(memory.daemon.source.lag().values()) and not memory.daemon.ledger.open_count:
            return
    raise AssertionError("the daemon does not run dry")


def value(memory: Memory, name: str, **labels: str) -> float | None:
    return memory.metrics.registry.get_sample_value(name, labels)


def test_drift_is_told_with_its_time_and_estimates_stand_beside_it(prior: Path) -> None:
    memory = Memory(config(prior))
    memory.daemon.connect()
    go_on(memory, clean(96, seed=5))
    assert value(memory, "tta_drift_detected", detector="bn_statistics") == 0
    assert value(memory, "tta_watch_events_total", event="drift_began") == 0
    go_on(memory, dark(96, seed=6))
    memory.daemon.disconnect()
    assert value(memory, "tta_drift_detected", detector="bn_statistics") == 1
    assert value(memory, "tta_watch_events_total", event="drift_began") == 1
    assert value(memory, "tta_watch_event_timestamp_seconds", event="drift_began") > 0
    assert not math.isnan(value(memory, "tta_accuracy_estimate_ratio", estimator="atc", model="source"))
    assert Kind.DRIFT_BEGAN in {entry.kind for entry in memory.daemon.board.events}
    assert memory.daemon.watch.status()["shift"] == "covariate shift"


def test_only_while_there_is_drift_is_anything_learned_where_that_was_asked_for(prior: Path) -> None:
    memory = Memory(config(prior, adapt={"when": "drift"}))
    memory.daemon.connect()
    go_on(memory, clean(96, seed=5))
    assert value(memory, "tta_adaptation_skipped_total", reason="no_drift") > 0
    learned = memory.daemon.learner.step
    go_on(memory, dark(96, seed=6))
    memory.daemon.disconnect()
    assert memory.daemon.learner.step > learned


def test_a_restart_watches_on_as_if_nothing_had_happened(prior: Path) -> None:
    settings = config(prior, guard={"mode": "guarded"})
    straight = Memory(settings, checkpoint=MemoryCheckpoint())
    straight.send(clean(64, seed=5) + dark(64, seed=6))
    straight.run_dry()

    store, first = MemoryCheckpoint(), None
    for values in (clean(64, seed=5), dark(64, seed=6)):
        memory = Memory(settings, log=first.log if first else None, checkpoint=store)
        memory.send(values)
        memory.run_dry()
        first = memory
    ours, theirs = first.daemon.watch.dump(), straight.daemon.watch.dump()
    assert ours.keys() == theirs.keys()
    unequal = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert unequal == []
    guard, other = first.daemon.learner.guard.dump(), straight.daemon.learner.guard.dump()
    assert [name for name in guard if not torch.equal(guard[name], other[name])] == []


def test_a_state_that_was_watched_by_another_prior_is_good_all_the_same(prior: Path) -> None:
    store = MemoryCheckpoint()
    unwatched = Memory(world.config(batch={"size": SIZE}), checkpoint=store)
    unwatched.send(clean(32, seed=5))
    unwatched.run_dry()
    memory = Memory(config(prior), log=unwatched.log, checkpoint=store)
    memory.send(clean(32, seed=7))
    memory.run_dry()
    assert memory.daemon.learner.step > unwatched.daemon.learner.step
    assert memory.daemon.watch.drift.seen == 32


def test_a_prior_of_another_model_is_refused(prior: Path) -> None:
    model = config(prior).model.model_copy(update={"arguments": {"num_classes": 7}})
    with pytest.raises(ConfigError, match="is of the model") as refused:
        load(model)
    assert refused.value.path == "model.prior"


def test_the_canary_is_asked_and_forgotten_with_what_was_learned(prior: Path) -> None:
    memory = Memory(config(prior))
    memory.daemon.watch.canary.every = 2
    memory.send(clean(96, seed=5))
    memory.run_dry(disconnect=False)
    assert 0.0 <= value(memory, "tta_canary_accuracy_ratio") <= 1.0
    memory.daemon.orders.reset()
    assert memory.daemon.watch.canary.accuracy is None
    memory.daemon.disconnect()
