"""Networks by way of an ONNX file: they answer as ONNX Runtime does, have the layers methods look for, and adapt."""

import copy
import sys
from pathlib import Path

import onnx
import pytest
import torch
from exported import CLASSES, KEPT, export, small
from nets import TinyViT, images, tiny_cnn
from onnx import helper
from torch import nn

import adapters
from tta_daemon.control.sections import Model
from tta_daemon.errors import ConfigError
from tta_daemon.model.load import Deployed, load
from tta_daemon.model.onnx_import import operators
from tta_daemon.model.onnx_import.compare import Original, difference
from tta_daemon.model.onnx_import.operator import plain
from tta_daemon.model.onnx_import.read import parse

FAMILIES = {
    "resnet": {},
    "mobilenet": {},
    "efficientnet": {},
    "convnext": {"LayerNorm": 10},
    "poolformer": {"GroupNorm": 9},
    "vit": {"LayerNorm": 5},
    "swin": {"LayerNorm": 11},
}
OLDEST = {"vit": 14, "swin": 14}
"""The first opset in which the exporter can write these."""

NORMS = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)


def deployed(path: Path, **settings: object) -> Deployed:
    return load(Model.model_validate({"artifact": path, **settings}))


def norms(network: nn.Module) -> dict[str, int]:
    kinds = [type(module).__name__ for module in network.modules() if isinstance(module, NORMS)]
    return {kind: kinds.count(kind) for kind in kinds}


def apart(model: Deployed, path: Path, n: int) -> float:
    x = torch.randn(n, 3, *model.size, generator=torch.Generator().manual_seed(n))
    with torch.no_grad():
        return difference(model.classifier.network(x), Original(parse(path), path.parent)(x, ["logits"])["logits"])


@pytest.mark.parametrize("opset", [11, 13, 17, 20])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_traced_network_answers_alike_and_has_its_layers(tmp_path: Path, family: str, opset: int) -> None:
    network, size = small(family)
    path = export(network, tmp_path / "net.onnx", size, max(opset, OLDEST.get(family, 0)), dynamo=False)
    model = deployed(path)
    assert (model.size, model.num_classes) == ((size, size), CLASSES)
    assert all(apart(model, path, n) < 1e-4 for n in (1, 3))
    assert norms(model.classifier.network) == FAMILIES[family]
    assert model.classifier.network.get_submodule(model.classifier.head).out_features == CLASSES
    assert not {torch.erf, torch.sqrt} & {step.run for step in model.classifier.network.steps}


@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize("family", ["convolutions", "tokens"])
def test_a_network_of_the_other_exporter_answers_alike(tmp_path: Path, family: str, opset: int) -> None:
    network = tiny_cnn().network if family == "convolutions" else TinyViT().eval()
    path = export(network, tmp_path / "net.onnx", 16, opset, dynamo=True, external_data=False)
    model = deployed(path)
    assert all(apart(model, path, n) < 1e-4 for n in (1, 3))
    assert norms(model.classifier.network) == ({} if family == "convolutions" else {"LayerNorm": 5})
    assert model.classifier.head == ("linear" if family == "convolutions" else "head")


@pytest.mark.parametrize("method", ["tent", "cotta", "sar", "rotta"])
def test_what_kept_its_norms_adapts_as_the_original_does(tmp_path: Path, method: str) -> None:
    original = tiny_cnn()
    path = export(copy.deepcopy(original.network), tmp_path / "net.onnx", 16, 17, dynamo=False, **KEPT)
    model = deployed(path, mean=[0.5] * 3, std=[0.25] * 3)
    assert {n.removeprefix("network.") for n, _ in model.classifier.named_parameters()} == {
        n.removeprefix("network.") for n, _ in original.named_parameters()
    }
    ours, theirs = adapters.build(method, model.classifier), adapters.build(method, original)
    for seed in range(4):
        said = [adapters.step(each, images(32, seed=seed)).logits for each in (ours, theirs)]
    assert difference(*said) < 1e-4


def test_an_imported_network_can_be_exported_again(tmp_path: Path) -> None:
    network, size = small("vit")
    first = deployed(export(network, tmp_path / "one.onnx", size, 17, dynamo=False))
    again = export(copy.deepcopy(first.classifier.network), tmp_path / "two.onnx", size, 17, dynamo=False)
    assert apart(first, again, 5) < 1e-4
    assert norms(deployed(again).classifier.network) == FAMILIES["vit"]


@pytest.mark.parametrize(("family", "fixed"), [("resnet", 1), ("resnet", 4), ("vit", 1), ("swin", 1)])
def test_a_file_for_a_fixed_batch_takes_any(tmp_path: Path, family: str, fixed: int) -> None:
    network, size = small(family)
    path = export(network, tmp_path / "net.onnx", size, 17, dynamo=False, fixed=fixed)
    assert parse(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == fixed
    x = torch.randn(5, 3, size, size)
    with torch.no_grad():
        assert difference(deployed(path).classifier.network(x), network(x)) < 1e-4


def test_a_fixed_batch_that_cannot_be_freed_is_refused_with_the_remedy(tmp_path: Path) -> None:
    class Sequence(nn.Module):
        """Its batch is not the first axis of everything."""

        def forward(self, x):
            return x.reshape(2, 3, 64).permute(1, 0, 2).reshape(3, 128)[:2, :5]

    path = export(Sequence(), tmp_path / "net.onnx", 8, 17, dynamo=False, fixed=2)
    with pytest.raises(ConfigError, match=r"model\.artifact: .*(batch dimension that is dynamic|otherwise than ONNX)"):
        deployed(path)


def test_a_closing_softmax_is_left_out(tmp_path: Path) -> None:
    inner = tiny_cnn().network
    model = deployed(export(nn.Sequential(inner, nn.Softmax(1)), tmp_path / "net.onnx", 16, 17, dynamo=False))
    x = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        assert difference(model.classifier.network(x), inner(x)) < 1e-4


def test_a_wrong_reading_is_refused_and_the_node_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = export(tiny_cnn().network, tmp_path / "net.onnx", 16, 17, dynamo=False)
    wrong = {**operators.OPERATORS, "Relu": plain(lambda x: nn.functional.leaky_relu(x, 0.2))}
    for module in ("tta_daemon.model.onnx_import.fold", "tta_daemon.model.onnx_import.build"):
        monkeypatch.setattr(sys.modules[module], "OPERATORS", wrong)
    first = next(node.name for node in onnx.load(path).graph.node if node.op_type == "Relu")
    with pytest.raises(ConfigError, match=f"answers otherwise than ONNX Runtime.* part at node '{first}'"):
        deployed(path)


def described(path: Path, **said: str) -> Path:
    model = onnx.load(path)
    helper.set_model_props(model, said)
    onnx.save(model, path)
    return path


def test_what_the_file_says_is_believed_unless_a_setting_says_otherwise(tmp_path: Path) -> None:
    path = export(tiny_cnn().network, tmp_path / "net.onnx", 16, 17, dynamo=False)
    described(path, names='{"0": "a", "1": "b", "2": "c", "3": "d", "4": "e"}', mean="[0.1, 0.2, 0.3]", std="[1, 2, 3]")
    model = deployed(path)
    assert model.labels == tuple("abcde")
    assert model.classifier.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert model.classifier.std.flatten().tolist() == [1, 2, 3]
    model = deployed(path, labels=list("vwxyz"), mean=[0.0] * 3)
    assert model.labels == tuple("vwxyz")
    assert model.classifier.mean.flatten().tolist() == [0, 0, 0]
    with pytest.raises(ConfigError, match=r"model\.input_size: \[32, 32\], but the file takes images of \[16, 16\]"):
        deployed(path, input_size=(32, 32))
    with pytest.raises(ConfigError, match=r"model\.artifact: it names 2 classes .* model\.labels"):
        deployed(described(path, labels='["a", "b"]'))
