"""The prior: made from images, the same bytes twice, resumed where it stopped, refused where it does not fit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import world
from nets import images
from PIL import Image

import adapters
from tta_daemon.control.config import Config
from tta_daemon.errors import ConfigError
from tta_daemon.model.load import load as load_model
from tta_daemon.offline import prepare, shifts
from tta_daemon.offline.source_images import read
from tta_daemon.watch import knowledge
from tta_daemon.watch.canary import Canary
from tta_daemon.watch.metrics import Metrics
from tta_daemon.watch.view import HeadTap, Probe
from tta_daemon.watch.watching import Watch

COUNT, CLASSES = 96, 5


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SHIFTS": 6, "SHIFTED": 32, "CHUNK": 40, "DOUBTFUL": 40, "CANARIES": 16}.items():
        monkeypatch.setattr(prepare, name, value)


@pytest.fixture
def config() -> Config:
    return world.config()


@pytest.fixture
def source(tmp_path: Path, config: Config) -> Path:
    """Pictures labeled by what the network says of them, but for a few."""
    pictures = images(COUNT)
    labels = load_model(config.model).classifier(pictures).argmax(1)
    labels[:CLASSES] = torch.arange(CLASSES)
    pixels = (pictures * 255).byte().permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "source.npz", images=pixels, labels=labels.numpy())
    return tmp_path / "source.npz"


def made(config: Config, source: Path, output: Path, **how: object) -> knowledge.Knowledge:
    return prepare.run(config, source, output, quiet=True, window=64, **how)


def test_the_same_source_gives_the_same_bytes_and_all_that_was_made(
    tmp_path: Path, config: Config, source: Path
) -> None:
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    fresh = made(config, source, one)
    made(config, source, other)
    assert one.read_bytes() == other.read_bytes()
    assert not list(tmp_path.glob("*.partial"))
    deployed = load_model(config.model)
    read_back = knowledge.load(one, deployed.digest)
    assert read_back.manifest == fresh.manifest
    assert torch.equal(read_back.null.limits, fresh.null.limits)
    assert read_back.null.change == pytest.approx(fresh.null.change)
    assert read_back.calibration.accuracy == pytest.approx(fresh.calibration.accuracy)
    assert set(read_back.calibration.lines) == set(fresh.calibration.lines)
    assert set(read_back.priors) == {"eata", "rmt"}
    for method, prior in read_back.priors.items():
        adapters.step(adapters.build(method, deployed.classifier, prior=prior), images(8))
    assert "/" not in read_back.manifest.command.replace("N/A", "")


def test_an_interrupted_run_goes_on_where_it_was(
    tmp_path: Path, config: Config, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = tmp_path / "whole.safetensors", tmp_path / "resumed.safetensors"
    made(config, source, whole)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "lesson", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made(config, source, resumed)
    assert list(tmp_path.glob("resumed*.partial/source-0.safetensors"))
    asked = []
    real = Probe.__call__
    monkeypatch.setattr(Probe, "__call__", lambda self, x: asked.append(len(x)) or real(self, x))
    made(config, source, resumed)
    assert resumed.read_bytes() == whole.read_bytes()
    assert sum(asked) == prepare.SHIFTS * prepare.SHIFTED


def test_without_labels_drift_is_known_and_accuracy_is_not(tmp_path: Path, config: Config, source: Path) -> None:
    known = made(config, source, tmp_path / "prior.safetensors", labels=False)
    assert known.canary is None
    assert set(known.priors) == {"eata"}
    assert not known.manifest.labeled
    watch = Watch(known)
    view = Probe(load_model(config.model).classifier)(images(64))
    watch.see(view, view.logits, 0.0)
    assert not any(estimate.valid for (_, model), estimate in watch.estimates().items() if model == "source")


def test_another_model_is_refused_by_name(tmp_path: Path, config: Config, source: Path) -> None:
    output = tmp_path / "prior.safetensors"
    made(config, source, output)
    with pytest.raises(ConfigError, match=r"model\.prior: .* is of the model .* prepare"):
        knowledge.load(output, "f" * 64)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x00" * 64])
def test_what_is_no_prior_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "prior.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match=r"model\.prior"):
        knowledge.load(tmp_path / "prior.safetensors", "f" * 64)
    with pytest.raises(ConfigError, match="does not exist"):
        knowledge.load(tmp_path / "absent.safetensors", "f" * 64)


def test_a_folder_of_classes_is_as_good_as_a_file(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("RGB", (8, 8), (number, 9, 9)).save(tmp_path / name / f"{number}.png")
    source = read(tmp_path, (8, 8), ("bird", "cat", "dog"))
    assert source.labels is not None
    assert source.labels.tolist() == [1, 1, 2, 2]
    with pytest.raises(ConfigError, match="no class"):
        read(tmp_path, (8, 8), ("cat",))
    with pytest.raises(ConfigError, match="input_size"):
        read(tmp_path, (9, 8), ("bird", "cat", "dog"))


@pytest.mark.parametrize("shift", [shift for family in shifts.FAMILIES.values() for shift in family])
@pytest.mark.parametrize("strength", [0.05, 1.0])
def test_every_shift_keeps_the_shape_and_is_repeatable(shift: shifts.Shift, strength: float) -> None:
    pictures = images(3)
    one, other = (shift(pictures, strength, torch.Generator().manual_seed(1)) for _ in range(2))
    assert one.shape == pictures.shape
    assert torch.isfinite(one).all()
    assert torch.equal(one, other)


def test_a_watch_tells_what_it_sees_and_resumes(tmp_path: Path, config: Config, source: Path) -> None:
    known = made(config, source, tmp_path / "prior.safetensors")
    deployed = load_model(config.model)
    assert known.canary is not None
    watch, other = (Watch(known, Canary(*known.canary, batch=8, every=1)) for _ in range(2))
    probe, tap, adapter, metrics = (
        Probe(deployed.classifier),
        HeadTap(),
        adapters.build("tent", deployed.classifier),
        Metrics(),
    )
    for number in range(6):
        x = images(16, seed=number)
        with tap.on(adapter):
            logits = adapter.predict(x)
        events = watch.see(probe(x), logits, float(number), tap.behind(logits))
        watch.canary.see(adapter.predict)
        watch.tell(metrics, events)
    pair = {"estimator": "aetta", "model": "adapted"}
    value = metrics.registry.get_sample_value("tta_accuracy_estimate_ratio", pair)
    assert value == pytest.approx(next(e.value for p, e in watch.estimates().items() if p == ("aetta", "adapted")))
    assert metrics.registry.get_sample_value("tta_drift_score", {"detector": "bn_statistics"}) > 0
    assert metrics.registry.get_sample_value("tta_canary_images") == 16
    other.load(watch.dump())
    x = images(16, seed=9)
    for each in (watch, other):
        each.see(probe(x), adapter.predict(x), 9.0)
    assert watch.drift.scores == other.drift.scores
    assert json.dumps(str(watch.estimates())) == json.dumps(str(other.estimates()))


def test_methods_are_named_or_refused() -> None:
    assert prepare.named("eata, rmt") == ("eata", "rmt")
    assert "petal" in prepare.named("all")
    with pytest.raises(ConfigError, match="tent"):
        prepare.named("tent")
