"""Programs of torch.export: read without unpickling anything, with the layers that methods look for."""

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import TinyViT, images, tiny_cnn
from torch import nn

import adapters
from tta_daemon.control.sections import Model
from tta_daemon.errors import ConfigError
from tta_daemon.model.load import Deployed, load

FREE = ({0: torch.export.Dim.DYNAMIC},)


def deployed(path: Path, **how: object) -> Deployed:
    return load(Model.model_validate({"artifact": path, **how}))


def program(network: nn.Module, size: int, free: Any = FREE) -> torch.export.ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(network, (torch.rand(2, 3, size, size),), dynamic_shapes=free)


def archive(made: torch.export.ExportedProgram, **extra: str) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(made, buffer, extra_files=extra or None)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def good() -> bytes:
    return archive(program(tiny_cnn().network, 16))


def refusal(folder: Path, content: bytes) -> str:
    (folder / "net.pt2").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        deployed(folder / "net.pt2")
    assert caught.value.path == "model.artifact"
    assert caught.value.remedy
    return str(caught.value)


def rewritten(
    content: bytes, change: Callable[[str, bytes], bytes | None], more: dict[str, bytes] | None = None
) -> bytes:
    """The archive with its parts changed; None leaves one out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        folder = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            if (part := change(name, old.read(name))) is not None:
                new.writestr(name, part)
        for name, part in (more or {}).items():
            new.writestr(f"{folder}/{name}", part)
    return buffer.getvalue()


def edited(content: bytes, part: str, change: Callable[[Any], None]) -> bytes:
    """The archive with one of its JSON parts changed."""

    def at(name: str, held: bytes) -> bytes:
        if not name.endswith(part):
            return held
        table = json.loads(held)
        change(table)
        return json.dumps(table).encode()

    return rewritten(content, at)


@pytest.mark.parametrize("method", ["tent", "cotta", "rotta"])
def test_it_adapts_as_the_original_does(tmp_path: Path, good: bytes, method: str) -> None:
    (tmp_path / "net.pt2").write_bytes(good)
    original, model = tiny_cnn(), deployed(tmp_path / "net.pt2", mean=[0.5] * 3, std=[0.25] * 3)
    assert model.size == (16, 16)
    assert model.classifier.head == "linear"
    assert [n for n, _ in model.classifier.named_parameters()] == [n for n, _ in original.named_parameters()]
    pair = [adapters.build(method, each) for each in (model.classifier, original)]
    for seed in range(4):
        one, other = (adapters.step(each, images(32, seed=seed)).logits for each in pair)
        assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("how", ["as exported", "decomposed"])
@pytest.mark.parametrize("family", ["convolutions", "tokens", "groups"])
def test_programs_of_other_families(tmp_path: Path, family: str, how: str) -> None:
    torch.manual_seed(0)
    groups = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.AvgPool2d(14), nn.Flatten(), nn.Linear(8, 5)
    )
    network = {"convolutions": tiny_cnn().network, "tokens": TinyViT(), "groups": groups}[family].eval()
    made = program(network, 16)
    if how == "decomposed":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = made.run_decompositions()
    (tmp_path / "net.pt2").write_bytes(archive(made))
    model = deployed(tmp_path / "net.pt2")
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(model.classifier.network(x), network(x), atol=1e-4)
    assert model.classifier.head
    for kind in (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.Conv2d):
        one, other = (sum(isinstance(m, kind) for m in net.modules()) for net in (network, model.classifier.network))
        assert one == other
    adapters.step(adapters.build("tent", model.classifier), images(4))


def test_what_it_says_of_itself_is_believed(tmp_path: Path) -> None:
    made = program(nn.Sequential(tiny_cnn().network, nn.Softmax(1)), 16)
    said = {"labels": '["a", "b", "c", "d", "e"]', "mean": "[0.1, 0.2, 0.3]", "std": "[1, 1, 2]"}
    (tmp_path / "net.pt2").write_bytes(archive(made, **said))
    model = deployed(tmp_path / "net.pt2")
    assert model.labels == tuple("abcde")
    assert model.classifier.std.flatten().tolist() == [1, 1, 2]
    x = torch.randn(2, 3, 16, 16)
    assert torch.allclose(model.classifier.network(x), tiny_cnn().network(x), atol=1e-5)
    with pytest.raises(ConfigError, match=r"model\.input_size: \[32, 32\], but"):
        deployed(tmp_path / "net.pt2", input_size=(32, 32))


class Evil:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_nothing_is_unpickled(tmp_path: Path, good: bytes) -> None:
    trace = tmp_path / "trace"
    evil = pickle.dumps(Evil(trace))
    buffer = io.BytesIO()
    torch.save(Evil(trace), buffer)
    sample = rewritten(good, lambda name, held: buffer.getvalue() if "sample_inputs" in name else held)
    (tmp_path / "net.pt2").write_bytes(sample)
    deployed(tmp_path / "net.pt2")

    def pickled(table: Any) -> None:
        next(iter(table["config"].values()))["use_pickle"] = True

    assert "'conv1.weight' is pickled" in refusal(tmp_path, edited(good, "weights_config.json", pickled))

    def opaque(table: Any) -> None:
        table["config"]["x"] = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}

    held = edited(good, "constants_config.json", opaque)
    assert "'x' is pickled" in refusal(
        tmp_path, rewritten(held, lambda _, part: part, {"data/constants/opaque_obj_0": evil})
    )
    assert not trace.exists()


def test_nothing_else_is_executed(tmp_path: Path, good: bytes) -> None:
    trace = tmp_path / "trace"

    def calling(target: str) -> Callable[[Any], None]:
        def change(table: Any) -> None:
            node = table["graph_module"]["graph"]["nodes"][1]
            node["target"] = target
            node["inputs"] = [{"name": "x", "arg": {"as_string": f"touch {trace}"}, "kind": 1}]

        return change

    targets = [
        "torch.os.system",
        "torch.ops.aten.from_file.default",
        "_operator.attrgetter",
        "torch.ops.aten.relu.__class__",
    ]
    for target in targets:
        assert f"operator {target} is not known" in refusal(tmp_path, edited(good, "model.json", calling(target)))

    def expression(table: Any) -> None:
        for value in table["graph_module"]["graph"]["tensor_values"].values():
            for size in value["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = f"__import__('os').system('touch {trace}')"

    (tmp_path / "net.pt2").write_bytes(edited(good, "model.json", expression))
    deployed(tmp_path / "net.pt2")
    code = rewritten(good, lambda _, part: part, {"data/aotinductor/model/x.so": b"\x7fELF"})
    assert "compiled code" in refusal(tmp_path, code)
    assert not trace.exists()


def resized(sizes: list[int], strides: list[int]) -> Callable[[Any], None]:
    def change(table: Any) -> None:
        meta = table["config"]["conv1.weight"]["tensor_meta"]
        meta["sizes"], meta["strides"] = ([{"as_int": n} for n in each] for each in (sizes, strides))

    return change


@pytest.mark.parametrize(
    ("sizes", "strides", "words"),
    [
        ([1 << 20, 1 << 14], [0, 0], "needs 17179869184 numbers and has 432"),
        ([-1, 3], [1, 1], "is no tensor that is read"),
        ([16, 27], [1000, 1], "broken|cannot be read"),
    ],
)
def test_a_weight_that_is_not_what_it_says(
    tmp_path: Path, good: bytes, sizes: list[int], strides: list[int], words: str
) -> None:
    said = refusal(tmp_path, edited(good, "weights_config.json", resized(sizes, strides)))
    assert any(word in said for word in words.split("|"))


def test_a_value_that_would_fill_the_memory(tmp_path: Path, good: bytes) -> None:
    def change(table: Any) -> None:
        node = next(n for n in table["graph_module"]["graph"]["nodes"] if "relu" in n["target"])
        node["target"] = "torch.ops.aten.constant_pad_nd.default"
        pad = {"name": "pad", "arg": {"as_ints": [1 << 20, 0, 1 << 14, 0]}, "kind": 1}
        node["inputs"] = [{**node["inputs"][0], "name": "self"}, pad]

    assert "more than fits" in refusal(tmp_path, edited(good, "model.json", change))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_that_is_cut_short_or_no_archive(tmp_path: Path, good: bytes, share: float) -> None:
    refusal(tmp_path, good[: int(share * len(good))])
    assert "no exported program" in refusal(
        tmp_path, rewritten(good, lambda n, part: None if "model.json" in n else part)
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("a/models/model.json", b" " * 10_000_000)
    assert "compressed" in refusal(tmp_path, buffer.getvalue())


def test_programs_that_cannot_be_used(tmp_path: Path) -> None:
    assert "training mode" in refusal(tmp_path, archive(program(tiny_cnn().network.train(), 16)))

    class Viewed(nn.Module):
        def forward(self, x):
            return x.reshape(2, 3, 64).mean(2)

    assert "dynamic_shapes=" in refusal(tmp_path, archive(program(Viewed(), 8, None)))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_graph_with_words_changed_is_read_or_refused(tmp_path: Path, good: bytes, data: st.DataObject) -> None:
    def change(name: str, held: bytes) -> bytes:
        if not name.endswith("model.json"):
            return held
        content = bytearray(held)
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(content) - 1))
            content[at : at + 1] = data.draw(
                st.sampled_from([b"0", b"1", b"9", b"-", b"a", b'"', b"[]", b"{}", b"null", b""])
            )
        return bytes(content)

    (tmp_path / "net.pt2").write_bytes(rewritten(good, change))
    try:
        model = deployed(tmp_path / "net.pt2")
    except ConfigError:
        return
    model.classifier(images(2, 16))
