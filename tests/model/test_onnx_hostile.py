"""Files that are broken or mean harm: each is refused in words, nothing is executed, and no memory is taken for it."""

import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import onnx
import pytest
import torch
from exported import KEPT, classifier_of, export
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import FunctionProto, TensorProto, helper
from torch import nn

import adapters
from tta_daemon.control.sections import Model
from tta_daemon.errors import ConfigError
from tta_daemon.model.load import load

ROOM = 4 << 30
"""More than these tests need, and less than the files below ask for."""


class Small(nn.Module):
    """Something of everything, in few bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.batch = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.layer, self.linear = nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.batch(self.conv(x))), 2).flatten(2).transpose(1, 2)
        x = nn.functional.gelu(self.layer(x))
        x = torch.cat([x.mean(1, keepdim=True).expand(x.size(0), 1, 4), x], 1)
        return self.linear(x.reshape(x.size(0), -1, 4)[:, 0])


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    path = export(Small(), tmp_path_factory.mktemp("good") / "net.onnx", 8, 17, dynamo=False, **KEPT)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def room() -> Iterator[None]:
    """Whoever asks for more memory than this fails."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(Model.model_validate({"artifact": path}))
    assert caught.value.path == "model.artifact"
    assert caught.value.remedy
    return str(caught.value)


def refused(folder: Path, model: onnx.ModelProto) -> str:
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    return refusal(folder / "net.onnx")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_file_that_is_cut_short(tmp_path: Path, good: bytes, share: float) -> None:
    (tmp_path / "net.onnx").write_bytes(good[: int(share * len(good))])
    assert "no ONNX file" in refusal(tmp_path / "net.onnx")


@pytest.mark.parametrize("content", [b"not a network", b"\x00" * 64, b"PK\x03\x04" + b"x" * 50, b"{}\n"])
def test_what_is_no_onnx_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    assert "no ONNX file" in refusal(tmp_path / "net.onnx")


def test_a_file_that_is_not_there_or_of_no_known_kind(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "net.onnx")
    for name in ("net.pb", "net"):
        (tmp_path / name).write_bytes(b"x")
        assert "is no .onnx, no .pt2" in refusal(tmp_path / name)


def test_a_graph_that_runs_in_a_circle(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["images", "b"], ["a"], name="one"),
        helper.make_node("Relu", ["a"], ["b"], name="two"),
    ]
    assert "runs in a circle: " in refused(tmp_path, classifier_of(nodes, [], "b"))


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([helper.make_node("Relu", ["nothing"], ["out"], name="x")], "Relu 'x' needs 'nothing', which nothing makes"),
        ([helper.make_node("Relu", ["images"], ["other"])], "output needs 'out', which nothing makes"),
        (
            [helper.make_node("Relu", ["images"], ["out"]), helper.make_node("Abs", ["images"], ["out"])],
            "two nodes make",
        ),
        ([helper.make_node("Conv", ["images"], ["out"], name="c")], "Conv 'c' does not fit what it is given"),
        ([helper.make_node("Transpose", ["images"], ["out"], perm=[9, 9, 9, 9])], "does not fit what it is given"),
        ([helper.make_node("Softmax", ["images"], ["out"], axis="x")], "attributes that make no sense"),
    ],
)
def test_a_graph_that_does_not_hold_together(tmp_path: Path, nodes: list[onnx.NodeProto], words: str) -> None:
    assert words in refused(tmp_path, classifier_of(nodes, [], "out"))


HUGE = 10 * (1 << 30) // 4
"""Numbers of 10 GiB."""


def big(dims: list[int], **more: object) -> TensorProto:
    return TensorProto(name="w", dims=dims, data_type=TensorProto.FLOAT, **more)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (big([HUGE], raw_data=b"1234"), f"needs {4 * HUGE} bytes and has 4"),
        (big([HUGE], float_data=[1.0]), f"needs {HUGE} numbers and has 1"),
        (big([1 << 62, 1 << 62]), "numbers and has 0"),
        (big([-1, 3], raw_data=b"1234"), "negative size"),
        (TensorProto(name="w", dims=[1], data_type=TensorProto.STRING, string_data=[b"x"]), "type STRING"),
        (TensorProto(name="w", dims=[1], data_type=99), "type 99"),
    ],
)
def test_a_tensor_that_is_not_what_it_says(tmp_path: Path, tensor: TensorProto, words: str) -> None:
    nodes = [helper.make_node("Add", ["images", "w"], ["out"])]
    assert words in refused(tmp_path, classifier_of(nodes, [tensor], "out"))


@pytest.mark.parametrize("op", ["ConstantOfShape", "Expand", "Tile", "Range", "Pad", "Resize", "MatMul", "Conv"])
def test_an_operator_that_would_fill_the_memory(tmp_path: Path, op: str) -> None:
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [4], [1, 3, 1 << 20, 1 << 14])
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1.0, 1.0, 2.0**20, 2.0**14])
    pads = helper.make_tensor("pads", TensorProto.INT64, [8], [0, 0, 1 << 20, 1 << 14] * 2)
    numbers = [
        helper.make_tensor(n, TensorProto.INT64, [], [v]) for n, v in (("zero", 0), ("most", 1 << 40), ("one", 1))
    ]
    wide = helper.make_tensor("wide", TensorProto.FLOAT, [1 << 18, 1], [0.0] * (1 << 18))
    flat = helper.make_tensor("flat", TensorProto.FLOAT, [1, 1 << 18], [0.0] * (1 << 18))
    kernel = helper.make_tensor("kernel", TensorProto.FLOAT, [3, 3, 1, 1], [0.0] * 9)
    made = {
        "ConstantOfShape": helper.make_node(op, ["sizes"], ["v"]),
        "Expand": helper.make_node(op, ["images", "sizes"], ["v"]),
        "Tile": helper.make_node(op, ["images", "sizes"], ["v"]),
        "Range": helper.make_node(op, ["zero", "most", "one"], ["v"]),
        "Pad": helper.make_node(op, ["images", "pads"], ["v"]),
        "Resize": helper.make_node(op, ["images", "", "scales"], ["v"]),
        "MatMul": helper.make_node(op, ["wide", "flat"], ["v"]),
        "Conv": helper.make_node(op, ["images", "kernel"], ["v"], pads=[1 << 20] * 4),
    }
    nodes = [made[op], helper.make_node("ReduceMax", ["v"], ["m"]), helper.make_node("Add", ["images", "m"], ["out"])]
    held = [sizes, scales, pads, *numbers, wide, flat, kernel]
    words = refused(tmp_path, classifier_of(nodes, held, "out", opset=17))
    assert "more than fits" in words or "does not fit" in words


@pytest.mark.parametrize("op", ["ConstantOfShape", "Expand"])
def test_a_file_that_only_onnx_runtime_reads_may_not_fill_the_memory_either(tmp_path: Path, op: str) -> None:
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [4], [1, 3, 1 << 20, 1 << 14])
    nodes = [
        helper.make_node(op, ["sizes"] if op == "ConstantOfShape" else ["images", "sizes"], ["v"]),
        helper.make_node("Hardmax", ["v"], ["h"]),
        helper.make_node("ReduceMax", ["h"], ["m"]),
        helper.make_node("Add", ["images", "m"], ["out"]),
    ]
    assert "more than fit" in refused(tmp_path, classifier_of(nodes, [sizes], "out", opset=17, images=(1, 3, 1, 1)))


def outside(location: str, **more: object) -> onnx.ModelProto:
    tensor = TensorProto(name="w", dims=[3], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=str(value))
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["a"]),
        helper.make_node("Flatten", ["a"], ["b"]),
        helper.make_node("Mul", ["b", "w"], ["out"]),
    ]
    return classifier_of(nodes, [tensor], "out")


def test_tensors_beside_the_file_are_read(tmp_path: Path) -> None:
    """What the refusals below refuse is otherwise a good file."""
    (tmp_path / "w.bin").write_bytes(b"\x00" * 4 + torch.tensor([1.0, 2.0, 3.0]).numpy().tobytes())
    (tmp_path / "net.onnx").write_bytes(outside("w.bin", offset=4, length=12).SerializeToString())
    network = load(Model.model_validate({"artifact": tmp_path / "net.onnx"})).classifier.network
    assert network(torch.ones(2, 3, 4, 4)).tolist() == [[1, 2, 3]] * 2


@pytest.mark.parametrize(
    ("location", "more", "words"),
    [
        ("/etc/hostname", {}, "outside of the model's folder"),
        ("../secret", {}, "outside of the model's folder"),
        ("inner/../../secret", {}, "outside of the model's folder"),
        ("link", {}, "outside of the model's folder"),
        ("linked/secret", {}, "outside of the model's folder"),
        ("", {}, "outside of the model's folder"),
        (".", {}, "which is no file"),
        ("absent", {}, "which is no file"),
        ("own", {"offset": 1000}, "they are not there"),
        ("own", {"offset": -4}, "they are not there"),
        ("own", {"length": 1 << 40}, "they are not there"),
        ("own", {"offset": "x"}, "lies at no number"),
    ],
)
def test_tensors_that_lie_where_they_should_not(
    tmp_path: Path, location: str, more: dict[str, object], words: str
) -> None:
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"\x00" * 64)
    (folder / "own").write_bytes(b"\x00" * 64)
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "linked").symlink_to(tmp_path)
    assert words in refused(folder, outside(location, **more))


def function(name: str, *calls: str) -> FunctionProto:
    body = [
        helper.make_node(call, ["x" if i == 0 else f"v{i}"], [f"v{i + 1}"], domain="own")
        for i, call in enumerate(calls)
    ]
    body.append(helper.make_node("Relu", [f"v{len(calls)}" if calls else "x"], ["y"]))
    return helper.make_function(
        "own", name, ["x"], ["y"], body, [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    )


def calling(*functions: FunctionProto) -> onnx.ModelProto:
    model = classifier_of([helper.make_node("f0", ["images"], ["out"], domain="own")], [], "out", opset=17)
    model.functions.extend(functions)
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


def test_functions_that_call_themselves_or_grow_without_end(tmp_path: Path) -> None:
    assert "call themselves" in refused(tmp_path, calling(function("f0", "f1"), function("f1", "f0")))
    tower = [function(f"f{i}", f"f{i + 1}", f"f{i + 1}") for i in range(40)]
    assert "functions make more than" in refused(tmp_path, calling(*tower, function("f40")))
    assert "answers with (2, 3, 4, 4)" in refused_answer(tmp_path, calling(function("f0", "f1"), function("f1")))


def refused_answer(folder: Path, model: onnx.ModelProto) -> str:
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ConfigError) as caught:
        load(Model.model_validate({"artifact": folder / "net.onnx", "input_size": (4, 4)}))
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "shape", "words"),
    [
        (TensorProto.UINT8, ("n", 3, 4, 4), "is UINT8, not float"),
        (TensorProto.FLOAT, ("n", 4, 4, 3), "is ? x 4 x 4 x 3, not N x 3 x H x W"),
        (TensorProto.FLOAT, ("n", 12), "is ? x 12, not N x 3 x H x W"),
    ],
)
def test_a_file_that_does_not_take_images(tmp_path: Path, kind: int, shape: tuple[object, ...], words: str) -> None:
    model = classifier_of([helper.make_node("Relu", ["images"], ["out"])], [], "out")
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("images", kind, shape))
    assert words in refused(tmp_path, model)
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    assert "takes 2 inputs ('images', 'more'), not one" in refused(tmp_path, model)


NAMES = ["__class__", "forward", "steps", "a..b", "..", "x" * 10_000, "net.net", "\n", "\u03c0", "state_dict.weight"]


def test_names_that_a_network_has_already(tmp_path: Path) -> None:
    values = ["images", *(f"v{i}" for i in range(len(NAMES)))]
    nodes = [helper.make_node("Conv", [values[i], name], [values[i + 1]], name=name) for i, name in enumerate(NAMES)]
    held = [helper.make_tensor(name, TensorProto.FLOAT, [3, 3, 1, 1], torch.randn(9).tolist()) for name in NAMES]
    nodes.append(helper.make_node("GlobalAveragePool", [values[-1]], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["out"]))
    (tmp_path / "net.onnx").write_bytes(classifier_of(nodes, held, "out").SerializeToString())
    network = load(Model.model_validate({"artifact": tmp_path / "net.onnx"})).classifier.network
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == len(NAMES)
    assert max(len(name) for name, _ in network.named_modules()) < 200


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_with_bytes_changed_is_read_or_refused(tmp_path: Path, good: bytes, data: st.DataObject) -> None:
    content = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        change = data.draw(st.sampled_from(["set", "cut", "add"]))
        piece = data.draw(st.binary(min_size=1, max_size=6))
        content[at : at + {"set": len(piece), "cut": len(piece), "add": 0}[change]] = b"" if change == "cut" else piece
    (tmp_path / "net.onnx").write_bytes(content)
    with suppress(ConfigError):
        model = load(Model.model_validate({"artifact": tmp_path / "net.onnx"}))
        adapters.step(adapters.build("source", model.classifier), torch.rand(2, 3, *model.size))
