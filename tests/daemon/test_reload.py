"""A reload is all or nothing, between two batches, and a changed number never costs learned weights."""

from pathlib import Path

import pytest
import torch
from world import Memory, config, pictures

from tta_daemon.assemble import prepare
from tta_daemon.control.reload import Reloader, Verdict
from tta_daemon.errors import ConfigError

BASE = """
[model]
factory = "world:network"
input_size = [16, 16]
threads = 1
[batch]
size = 8
patience_s = 0.0
[settle]
every_s = 0.001
[kafka]
labels_topic = "labels"
"""


class Reloaded:
    """A daemon in memory whose configuration is a file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "config.toml"
        self.write('[adapt]\nmethod = "tent"\nlearn_from = 4\n')
        self.world = Memory(config(self.file.parent))
        self.daemon = self.world.daemon
        self.said: list[Verdict] = []
        self.reloader = Reloader(
            self.file, {}, prepare, lambda: (self.daemon.config, self.daemon.deployed), self.said.append
        )
        self.daemon.slot = self.reloader.slot

    def write(self, text: str) -> None:
        self.file.write_text(BASE + text)


@pytest.fixture
def reloaded(tmp_path: Path) -> Reloaded:
    return Reloaded(tmp_path)


def test_a_changed_number_keeps_what_was_learned(reloaded: Reloaded) -> None:
    world = reloaded.world
    world.send(pictures(16))
    world.run_dry(disconnect=False)
    before = reloaded.daemon.learner.adapter.dump()
    reloaded.write('[adapt]\nmethod = "tent"\nlearn_from = 4\n[adapt.options]\nlr = 0.01\n')
    assert reloaded.reloader.look().result == "applied"
    reloaded.daemon.turn()
    after = reloaded.daemon.learner.adapter.dump()
    assert reloaded.daemon.learner.adapter.options.lr == 0.01
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_refused_file_changes_nothing_and_says_why(reloaded: Reloaded) -> None:
    reloaded.daemon.connect()
    before = reloaded.daemon.config
    reloaded.write('[adapt]\nmethod = "tnet"\n')
    verdict = reloaded.reloader.look()
    assert verdict.result == "refused"
    assert "adapt.method" in verdict.words
    reloaded.daemon.turn()
    assert reloaded.daemon.config is before


def test_what_needs_a_restart_is_refused_by_name(reloaded: Reloaded) -> None:
    reloaded.file.write_text(reloaded.file.read_text().replace('labels_topic = "labels"', 'labels_topic = "other"'))
    verdict = reloaded.reloader.look()
    assert verdict.result == "refused"
    assert "kafka.labels_topic" in verdict.words
    assert "restart" in verdict.words


def test_a_method_that_is_left_remembers_when_it_returns(reloaded: Reloaded) -> None:
    world = reloaded.world
    world.send(pictures(16))
    world.run_dry(disconnect=False)
    learned = reloaded.daemon.learner.adapter.dump()
    for method in ("norm", "tent"):
        reloaded.write(f'[adapt]\nmethod = "{method}"\nlearn_from = 4\n')
        assert reloaded.reloader.look().result == "applied"
        reloaded.daemon.turn()
        assert reloaded.daemon.learner.method == method
    back = reloaded.daemon.learner.adapter.dump()
    assert all(torch.equal(learned[name], back[name]) for name in learned)


def test_a_newer_file_replaces_one_not_yet_taken(reloaded: Reloaded) -> None:
    reloaded.daemon.connect()
    for size in (16, 32):
        reloaded.file.write_text(BASE.replace("size = 8", f"size = {size}"))
        assert reloaded.reloader.look().result == "applied"
    reloaded.daemon.turn()
    assert reloaded.daemon.batcher.size == 32


def test_a_method_that_cannot_work_on_the_model_is_refused(reloaded: Reloaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConfigError("adapt.method", "no norms", "choose another")

    monkeypatch.setattr("tta_daemon.assemble.newborn", refuse)
    reloaded.write('[adapt]\nmethod = "norm"\nlearn_from = 4\n')
    assert reloaded.reloader.look().result == "refused"
    assert reloaded.reloader.slot.take() is None
