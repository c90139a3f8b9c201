"""`model.mixed_precision`: networks of every family compute in it; where it cannot or need not be, that is said."""

from pathlib import Path

import pytest
import torch
from exported import export, small
from nets import images
from pydantic import ValidationError
from reloading import Reloaded, same
from structlog.testing import capture_logs
from world import Memory, config, pictures

import adapters
from adapters.cotta import CottaOptions
from tta_daemon.control.sections import Model
from tta_daemon.errors import ConfigError
from tta_daemon.model import precision
from tta_daemon.model.frozen import FrozenView
from tta_daemon.model.load import load
from tta_daemon.model.wanted import Wanted
from tta_daemon.watch.view import Probe

HALF = {"mixed_precision": "bfloat16"}
FAMILIES = ("resnet", "mobilenet", "efficientnet", "convnext", "poolformer", "vit", "swin")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_from_an_onnx_file_adapts_in_it(tmp_path: Path, family: str) -> None:
    network, size = small(family)
    path = export(network, tmp_path / "net.onnx", size, 17, dynamo=False)
    whole, half = (load(Model.model_validate({"artifact": path, **how})) for how in ({}, HALF))
    assert whole.digest == half.digest
    without_views = CottaOptions(augment_below=0.0)
    one, other = (adapters.build("cotta", model.classifier, without_views) for model in (whole, half))
    for seed in range(2):
        want, got = (adapters.step(a, images(8, size, seed=seed)).logits for a in (one, other))
        assert got.dtype == torch.float32
        assert not torch.equal(got, want)
        assert (got - want).abs().mean() < 0.1 * want.abs().max()  # untrained networks make much of little


def test_what_onnx_runtime_answers_stays_in_float32() -> None:
    world = Memory(config(model=HALF))
    classifier = world.daemon.deployed.classifier
    assert classifier.mixed == torch.bfloat16
    seen = images(9, world.daemon.deployed.size[0])
    view = FrozenView(classifier, 3, world.daemon.deployed.size, Wanted("cpu", 1))(seen)
    with classifier.unmixed():
        torch.testing.assert_close(view.logits, Probe(classifier, 3)(seen).logits, rtol=1e-4, atol=1e-4)


def test_a_daemon_goes_on_with_what_it_learned_when_precision_is_reloaded(tmp_path: Path) -> None:
    world = Reloaded(tmp_path)
    world.send(pictures(16))
    world.go_on()
    before = world.memory()
    assert int(before["steps"]) > 0
    world.reload(model=HALF)
    assert world.daemon.deployed.classifier.mixed == torch.bfloat16
    assert same(before, world.memory())


def test_where_nothing_is_gained_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "gains", lambda _: False)
    with capture_logs() as said:
        assert precision.mixed_by(Model.model_validate(HALF)) == torch.bfloat16
    assert [(line["log_level"], line["setting"]) for line in said] == [("warning", "model.mixed_precision")]


@pytest.mark.parametrize("has", ["avx512_bf16", "amx_bf16"])
def test_a_processor_gains_by_its_instructions(monkeypatch: pytest.MonkeyPatch, has: str) -> None:
    for there in (True, False):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda has=has, there=there: {"avx2": True, has: there}, raising=False
        )
        assert precision.gains(torch.device("cpu")) == there


def test_a_device_without_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="no mixed precision on meta"):
        precision.mixed_by(Model.model_validate({**HALF, "device": "meta"}))


def test_float64_beside_it_is_refused() -> None:
    with pytest.raises(ValidationError) as refusal:
        config(model={**HALF, "dtype": "float64"})
    (fault,) = refusal.value.errors()[0]["ctx"]["faults"]
    assert (fault.path, fault.remedy) == ("model.mixed_precision", 'say "no", or dtype = "float32"')
