"""An exported file whose BatchNorm is gone: refused with the remedy, prepared, and then adapted like any other."""

from pathlib import Path

import numpy as np
import pytest
import torch
import world
from exported import export
from nets import images, tiny_cnn

import adapters
from adapters.parts.unfolded import Unfolded
from tta_daemon.control.config import Config
from tta_daemon.control.preflight import faults
from tta_daemon.errors import ConfigError
from tta_daemon.model.load import load
from tta_daemon.offline import prepare

SIZES = {"SHIFTS": 6, "SHIFTED": 32, "CHUNK": 40, "DOUBTFUL": 40, "CANARIES": 16}


def config(folder: Path, **model: object) -> Config:
    return world.config(
        model={"factory": "", "artifact": folder / "net.onnx", "mean": [0.5] * 3, "std": [0.25] * 3, **model}
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file, source images, and their prior."""
    for name, value in SIZES.items():
        monkeypatch.setattr(prepare, name, value)
    export(tiny_cnn().network, tmp_path / "net.onnx", 16, 17, dynamo=False)
    pictures = images(96)
    labels = load(config(tmp_path).model).classifier(pictures).argmax(1)
    labels[:5] = torch.arange(5)
    pixels = (pictures * 255).byte().permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "source.npz", images=pixels, labels=labels.numpy())
    prepare.run(config(tmp_path), tmp_path / "source.npz", tmp_path / "prior.safetensors", quiet=True, window=64)
    return tmp_path


def test_a_prior_brings_the_norms_back(folder: Path) -> None:
    bare, grown = load(config(folder).model), load(config(folder, prior=folder / "prior.safetensors").model)
    assert sum(isinstance(m, Unfolded) for m in grown.classifier.modules()) == 7
    assert bare.digest != grown.digest
    x = images(16, seed=3)
    assert torch.allclose(bare.classifier(x), grown.classifier(x), atol=1e-4)
    assert adapters.unmet("tent", bare.classifier)
    assert set(grown.known.priors) == {"eata", "rmt"}
    for method in ("tent", "eata", "norm", "rotta", "cotta"):
        adapter = adapters.build(method, grown.classifier, prior=grown.prior(method))
        before = adapter.predict(x)
        for seed in range(4):
            adapters.step(adapter, images(32, seed=seed))
        assert method in {"norm", "eata"} or not torch.equal(adapter.predict(x), before)
        adapter.rewind()
        assert torch.equal(adapter.predict(x), before)


def test_a_check_without_a_prior_says_what_is_missing(folder: Path) -> None:
    said = next(fault for fault in faults(config(folder)) if fault.path == "adapt.method")
    assert "the network has none; an exporter may have folded them" in said.message
    assert "tta-daemon prepare" in said.message
    whole = config(folder, prior=folder / "prior.safetensors")
    assert not [fault for fault in faults(whole) if fault.path.startswith(("adapt", "model"))]


def test_a_prior_of_another_file_is_refused(folder: Path) -> None:
    export(tiny_cnn(seed=1).network, folder / "net.onnx", 16, 17, dynamo=False)
    with pytest.raises(ConfigError, match=r"model\.prior: .* is of the model"):
        load(config(folder, prior=folder / "prior.safetensors").model)


def test_a_daemon_learns_in_it(folder: Path) -> None:
    memory = world.Memory(config(folder, prior=folder / "prior.safetensors"))
    memory.send(world.pictures(24))
    memory.run_dry()
    assert len(memory.answered()) == 24
    assert memory.daemon.learner.step == 3
