"""Folders of Hugging Face models: labels, size and normalization are theirs; no code or pickle of theirs is run."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import CLASSES, small
from nets import images

import adapters
from tta_daemon.control.sections import Model
from tta_daemon.errors import ConfigError
from tta_daemon.model.load import Deployed, load

NAMES = ["ant", "bee", "cat", "dog", "eel"]
PREPARED = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3],
            "image_std": [0.2, 0.2, 0.1], "do_resize": True, "size": {"height": 32, "width": 32}}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for family in ("vit", "resnet"):
        folders[family] = tmp_path_factory.mktemp("models") / family
        inner = small(family)[0].inner
        inner.config.id2label = dict(enumerate(NAMES))
        inner.save_pretrained(folders[family])
        (folders[family] / "preprocessor_config.json").write_text(json.dumps(PREPARED))
    return folders


@pytest.fixture
def folder(saved: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved["vit"], tmp_path / "vit"))


def deployed(folder: Path, **how: object) -> Deployed:
    return load(Model.model_validate({"artifact": folder, **how}))


def said(folder: Path, name: str, **more: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        deployed(folder)
    assert caught.value.path == "model.artifact"
    assert caught.value.remedy
    return str(caught.value)


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_a_folder_is_enough(saved: dict[str, Path], family: str) -> None:
    model = deployed(saved[family])
    assert model.labels == tuple(NAMES)
    assert (model.name, model.size, model.num_classes) == (family, (32, 32), CLASSES)
    assert model.classifier.mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert model.classifier.std.flatten().tolist() == pytest.approx([0.2, 0.2, 0.1])
    assert model.classifier.head.startswith("inner.classifier")
    x = images(4, 32)
    with torch.no_grad():
        given = (x - model.classifier.mean) / model.classifier.std
        assert torch.allclose(model.classifier(x), small(family)[0](given), atol=1e-4)
    adapters.step(adapters.build("tent", model.classifier), images(8, 32))
    assert not torch.equal(model.classifier.mean, deployed(saved[family], mean=[0.0] * 3).classifier.mean)


@pytest.mark.parametrize(
    ("how", "size", "mean", "std"),
    [
        ({"do_rescale": False}, 32, 0.5 / 255, 0.2 / 255),
        ({"do_normalize": False}, 32, 0.0, 1.0),
        ({"rescale_factor": 2 / 255}, 32, 0.25, 0.1),
        (
            {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}, "size": {"shortest_edge": 40}},
            32,
            0.5,
            0.2,
        ),
        ({"size": {"shortest_edge": 32}, "image_mean": 0.5, "image_std": 0.2}, 32, 0.5, 0.2),
    ],
)
def test_how_images_were_prepared(folder: Path, how: dict[str, Any], size: int, mean: float, std: float) -> None:
    said(folder, "preprocessor_config.json", **how)
    model = deployed(folder)
    assert model.size == (size, size)
    assert float(model.classifier.mean[0, 0]) == pytest.approx(mean)
    assert float(model.classifier.std[0, 0]) == pytest.approx(std)


def test_colors_the_other_way_round(folder: Path) -> None:
    straight = deployed(folder)
    said(folder, "preprocessor_config.json", do_flip_channel_order=True, do_normalize=False)
    turned = deployed(folder)
    x = images(2, 32)
    assert torch.allclose(turned.classifier(x), straight.classifier.network(x.flip(1)), atol=1e-5)


def test_without_a_word_on_preparation_the_settings_stand(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    said(folder, "config.json", id2label={str(n): f"LABEL_{n}" for n in range(CLASSES)})
    model = deployed(folder, std=[0.5] * 3)
    assert (model.labels, model.size) == (tuple("01234"), (32, 32))
    assert model.classifier.std.flatten().tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("file", "more"),
    [
        ("config.json", {"auto_map": {"AutoModelForImageClassification": "evil.Net"}}),
        ("config.json", {"trust_remote_code": True}),
        ("config.json", {"_attn_implementation": "somebody/kernel"}),
        ("config.json", {"quantization_config": {"quant_method": "gptq"}}),
        ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "evil.Processor"}}),
    ],
)
def test_code_that_a_folder_asks_for_is_never_run(folder: Path, file: str, more: dict[str, Any]) -> None:
    (folder / "evil.py").write_text(f"open({str(folder / 'trace')!r}, 'w')")
    said(folder, file, **more)
    assert "asks for code that is not the library's own" in refusal(folder)
    assert not (folder / "trace").exists()


def test_pickled_weights_are_never_read(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (folder / "trace",)

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    deployed(folder)
    (folder / "model.safetensors").unlink()
    assert "pickled weights are never read" in refusal(folder)
    assert not (folder / "trace").exists()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"model_type": "bert"}', b'{"model_type": "none"}', b"[" * 100_000]
)
def test_a_configuration_that_is_none(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    refusal(folder)


def test_folders_that_lack_something(folder: Path, tmp_path: Path) -> None:
    assert "holds no config.json" in refusal(tmp_path)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "no image classifier that can be read" in refusal(folder)
    (folder / "model.safetensors").write_bytes(weights)
    said(folder, "config.json", num_hidden_layers=3)
    assert "lacks the weights" in refusal(folder)
    (folder / "adapter_config.json").write_text("{}")
    assert "holds an adapter" in refusal(folder)


@pytest.mark.parametrize(
    "how", [{"image_std": [0, 1, 1]}, {"image_mean": "x"}, {"rescale_offset": True}, {"rescale_factor": 0}]
)
def test_a_preparation_that_makes_no_sense(folder: Path, how: dict[str, Any]) -> None:
    said(folder, "preprocessor_config.json", **how)
    assert "model.mean and model.std" in refusal(folder)
