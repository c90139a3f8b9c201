"""Every operator of the table against ONNX Runtime, alone in a file."""

from pathlib import Path

import pytest
import torch
from exported import FIRST, classifier_of, one_node
from onnx import TensorProto, helper

from tta_daemon.model.onnx_import import network_of
from tta_daemon.model.onnx_import.compare import Original, difference
from tta_daemon.model.onnx_import.fold import fold
from tta_daemon.model.onnx_import.operators import OPERATORS
from tta_daemon.model.onnx_import.patterns import recognized
from tta_daemon.model.onnx_import.read import graph_of

NOWHERE = Path()
MAP, TOKENS, ROW = torch.rand(2, 3, 4, 4), torch.rand(2, 6, 4), torch.rand(2, 12)
DICE = torch.Generator().manual_seed(1)


def rand(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=DICE)


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def case(op, *given, opset=20, outputs=1, **attributes):
    name = f"{op}-{opset}-{'-'.join(f'{k}={v}' for k, v in attributes.items())}"
    return pytest.param(op, list(given), opset, outputs, attributes, id=name)


ELEMENTWISE = [
    "Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish", "IsNaN", "Log", "Mish", "Neg", "Reciprocal", "Relu",
    "Round", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Tanh", "Identity", "Dropout", "HardSigmoid",
    "Celu", "Elu", "LeakyRelu", "Gelu", "IsInf",
]  # fmt: skip
PAIRS = ["Add", "Sub", "Mul", "Div", "Pow", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
REDUCTIONS = ["L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
CASES = [
    *(case(op, TOKENS) for op in ELEMENTWISE),
    *(case(op, TOKENS, rand(4)) for op in PAIRS),
    *(case(op, TOKENS, torch.tensor(0.5)) for op in ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Less"]),
    *(case(op, TOKENS, rand(6, 4), rand(1)) for op in ["Max", "Min", "Mean", "Sum"]),
    case("Mod", TOKENS, rand(4) + 0.1, fmod=1),
    case("Gelu", TOKENS, approximate="tanh"),
    case("Swish", TOKENS, opset=24, alpha=1.5),
    case("HardSigmoid", TOKENS, alpha=0.1, beta=0.3),
    case("PRelu", MAP, rand(3, 1, 1)),
    case("Clip", TOKENS, torch.tensor(0.2), torch.tensor(0.7)),
    case("Cast", TOKENS, to=TensorProto.INT64),
    case("CastLike", TOKENS, ints(1)),
    case("MatMul", TOKENS, rand(4, 7)),
    case("MatMul", MAP, rand(3, 4, 4)),
    case("Gemm", ROW, rand(12, 5), rand(5), alpha=0.5, beta=2.0),
    case("Gemm", ROW, rand(5, 12), transB=1),
    case("Gemm", ROW, rand(12, 5), rand(1, 5)),
    case("Einsum", TOKENS, rand(4, 5), equation="ntd,de->nte"),
    case("Softmax", TOKENS),
    case("Softmax", TOKENS, axis=1),
    case("Softmax", TOKENS, opset=11),
    case("LogSoftmax", TOKENS, axis=-1),
    case("LpNormalization", TOKENS, axis=1, p=1),
    case("ArgMax", TOKENS, axis=2),
    case("ArgMin", TOKENS, axis=1, keepdims=0),
    case("CumSum", TOKENS, torch.tensor(1)),
    *(case(f"Reduce{how}", TOKENS, ints(1)) for how in REDUCTIONS),
    case("ReduceMean", TOKENS, opset=11, axes=[1, 2], keepdims=0),
    case("ReduceSum", TOKENS, keepdims=1),
    case("ReduceSum", TOKENS, noop_with_empty_axes=1),
    case("Concat", TOKENS, FIRST, axis=2),
    case("Flatten", MAP),
    case("Flatten", MAP, axis=2),
    case("Gather", TOKENS, torch.tensor(2), axis=1),
    case("Gather", TOKENS, ints(2, -1, 0), axis=1),
    case("GatherElements", TOKENS, torch.randint(0, 6, (2, 3, 4)), axis=1),
    case("GatherND", TOKENS, torch.tensor([[0, 1], [1, 5]])),
    case("ScatterND", TOKENS, torch.tensor([[0, 1], [1, 5]]), rand(2, 4)),
    case("Expand", MAP[:, :1, :1], ints(1, 3, 4, 1)),
    case("Tile", TOKENS, ints(1, 2, 3)),
    case("Reshape", MAP, ints(0, -1, 8)),
    case("Reshape", MAP, ints(-1, 24)),
    case("Transpose", MAP, perm=[0, 2, 3, 1]),
    case("Transpose", TOKENS),
    case("Squeeze", torch.rand(2, 1, 4, 1), ints(1, 3)),
    case("Squeeze", torch.rand(2, 1, 4, 1), opset=11, axes=[1]),
    case("Unsqueeze", TOKENS, ints(1, -1)),
    case("Unsqueeze", TOKENS, opset=11, axes=[2]),
    case("Split", TOKENS, ints(2, 3, 1), outputs=3, axis=1),
    case("Split", TOKENS, outputs=2, axis=2, num_outputs=2),
    case("Split", TOKENS, opset=11, outputs=2, axis=1, split=[4, 2]),
    case("Slice", MAP, ints(1, 0), ints(4, 3), ints(2, 3), ints(2, 1)),
    case("Slice", MAP, ints(-1), ints(-100), ints(3), ints(-1)),
    case("Pad", MAP, ints(0, 0, 1, 2, 0, 0, 0, 1), torch.tensor(0.3)),
    case("Pad", MAP, ints(0, 0, 1, 2, 0, 0, 0, 1), mode="reflect"),
    case("Pad", MAP, ints(1, 2), torch.tensor(0.0), ints(3), mode="edge"),
    case("Trilu", TOKENS, torch.tensor(1)),
    case("Trilu", TOKENS, upper=0),
    case("DepthToSpace", torch.rand(2, 8, 2, 2), blocksize=2),
    case("DepthToSpace", torch.rand(2, 8, 2, 2), blocksize=2, mode="CRD"),
    case("SpaceToDepth", torch.rand(2, 2, 4, 4), blocksize=2),
    case("Resize", MAP, rand(0), torch.tensor([1.0, 1.0, 2.0, 2.0]), mode="linear"),
    case("Resize", MAP, rand(0), torch.tensor([1.0, 1.0, 2.0, 2.0]), mode="nearest",
         coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    case("Resize", MAP, rand(0), torch.tensor([1.0, 1.0, 2.0, 2.0]), mode="cubic",
         coordinate_transformation_mode="align_corners"),
    case("Conv", MAP, rand(5, 3, 3, 3), rand(5), kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
    case("Conv", MAP, rand(6, 1, 3, 3), kernel_shape=[3, 3], group=3, pads=[0, 1, 2, 1], dilations=[1, 1]),
    case("Conv", MAP, rand(5, 3, 2, 2), kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
    case("Conv", MAP, rand(5, 3, 2, 2), kernel_shape=[2, 2], auto_pad="SAME_LOWER", strides=[3, 3]),
    case("Conv", TOKENS, rand(5, 6, 3), kernel_shape=[3]),
    case("BatchNormalization", MAP, rand(3), rand(3), rand(3), rand(3), epsilon=1e-3),
    case("BatchNormalization", ROW, rand(12), rand(12), rand(12), rand(12)),
    case("InstanceNormalization", MAP, rand(3), rand(3)),
    case("LayerNormalization", TOKENS, rand(4), rand(4), epsilon=1e-3),
    case("LayerNormalization", TOKENS, rand(6, 4), axis=1),
    case("GroupNormalization", torch.rand(2, 6, 2, 2), rand(6), rand(6), opset=21, num_groups=3),
    case("GroupNormalization", torch.rand(2, 6, 2, 2), rand(3), rand(3), opset=18, num_groups=3),
    case("RMSNormalization", TOKENS, rand(4), opset=23),
    case("LRN", MAP, size=3),
    case("MaxPool", MAP, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("MaxPool", MAP, kernel_shape=[2, 2], pads=[0, 0, 1, 1], strides=[2, 2]),
    case("MaxPool", MAP, kernel_shape=[3, 3], ceil_mode=1, strides=[2, 2]),
    case("AveragePool", MAP, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    case("AveragePool", MAP, kernel_shape=[2, 2], pads=[0, 0, 1, 1], strides=[2, 2]),
    case("AveragePool", MAP, kernel_shape=[2, 2], pads=[0, 0, 1, 1], strides=[2, 2], count_include_pad=1),
    case("AveragePool", TOKENS, kernel_shape=[2]),
    case("GlobalAveragePool", MAP),
    case("GlobalMaxPool", MAP),
    case("Attention", torch.rand(2, 2, 3, 4), FIRST, FIRST, opset=23),
    case("Attention", rand(2, 3, 8), FIRST, FIRST, rand(3, 3), opset=23, q_num_heads=2, kv_num_heads=2, scale=0.7),
]  # fmt: skip

ALONE = {"Constant", "ConstantOfShape", "Range", "Shape", "Size", "And", "Or", "Xor", "Not", "Where"}
"""Tried in a graph of their own below."""


def answers(model, n=2):
    """What we make of a file, and what ONNX Runtime does."""
    graph = graph_of(model, NOWHERE)
    images = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.3
    with torch.no_grad():
        ours = network_of(graph, (4, 4))(images)
    return ours, Original(model, NOWHERE)(images, [graph.output])[graph.output]


@pytest.mark.parametrize(("op", "given", "opset", "outputs", "attributes"), CASES)
def test_an_operator_computes_what_onnx_runtime_computes(op, given, opset, outputs, attributes):
    ours, theirs = answers(one_node(op, given, opset, outputs, **attributes))
    assert difference(torch.nan_to_num(ours.float()), torch.nan_to_num(theirs.float())) < 1e-5


def test_every_operator_of_the_table_is_tried():
    assert {case.values[0] for case in CASES} | ALONE == set(OPERATORS)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_shapes_that_follow_the_batch_leave_no_chain_behind(n):
    """A token for each image, made of shapes alone, as exporters write it."""
    held = [
        helper.make_tensor("token", TensorProto.FLOAT, [1, 1, 4], [1, 2, 3, 4]),
        helper.make_tensor("first", TensorProto.INT64, [], [0]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [0]),
        helper.make_tensor("rest", TensorProto.INT64, [2], [1, 4]),
        helper.make_tensor("twelve", TensorProto.INT64, [2], [12, 4]),
        helper.make_tensor("step", TensorProto.INT64, [], [1]),
    ]
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["row"]),
        helper.make_node("Concat", ["row", "rest"], ["wide"], axis=0),
        helper.make_node("Concat", ["row", "twelve"], ["flat"], axis=0),
        helper.make_node("Expand", ["token", "wide"], ["tokens"]),
        helper.make_node("Reshape", ["images", "flat"], ["patches"]),
        helper.make_node("Concat", ["tokens", "patches"], ["all"], axis=1),
        helper.make_node("Size", ["tokens"], ["count"]),
        helper.make_node("Range", ["first", "n", "step"], ["numbers"]),
        helper.make_node("ReduceSum", ["numbers"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["weight"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["count"], ["counted"], to=TensorProto.FLOAT),
        helper.make_node("ConstantOfShape", ["row"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=0),
        helper.make_node("Mul", ["all", "weight"], ["scaled"]),
        helper.make_node("Add", ["scaled", "counted"], ["shifted"]),
        helper.make_node("Add", ["shifted", "nothing"], ["made"]),
    ]
    model = classifier_of(nodes, held, "made")
    ours, theirs = answers(model, n)
    assert difference(ours, theirs) < 1e-6
    steps = network_of(graph_of(model, NOWHERE), (4, 4)).steps
    assert not {"Shape", "Gather", "Unsqueeze", "Size"} & {step.node.split("_")[0] for step in steps}


def test_truth_values_and_constants():
    nodes = [
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Constant", [], ["low"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.1])),
        helper.make_node("Less", ["images", "half"], ["below"]),
        helper.make_node("Greater", ["images", "low"], ["above"]),
        helper.make_node("And", ["below", "above"], ["both"]),
        helper.make_node("Not", ["both"], ["outside"]),
        helper.make_node("Xor", ["outside", "below"], ["odd"]),
        helper.make_node("Or", ["odd", "above"], ["any"]),
        helper.make_node("Where", ["any", "images", "half"], ["made"]),
    ]
    ours, theirs = answers(classifier_of(nodes, [], "made"))
    assert torch.equal(ours, theirs)
    assert 0 < (ours == 0.5).float().mean() < 1


def test_what_is_computed_beforehand_is_not_computed_again():
    nodes = [helper.make_node("Exp", ["a"], ["b"]), helper.make_node("Mul", ["images", "b"], ["made"])]
    model = classifier_of(nodes, [helper.make_tensor("a", TensorProto.FLOAT, [], [1.0])], "made")
    folded = recognized(fold(graph_of(model, NOWHERE), (4, 4)))
    assert [node.op for node in folded.graph.nodes] == ["Mul"]
