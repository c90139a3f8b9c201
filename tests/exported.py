"""Networks as .onnx files, by both exporters of torch."""

import logging
import warnings
from functools import cache
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.onnx import TrainingMode

CLASSES = 5
KEPT = {"training": TrainingMode.PRESERVE, "do_constant_folding": False}
"""How torch's tracing exporter leaves BatchNorm layers alone."""

FIRST = "first"


class Logits(nn.Module):
    """A model of transformers that answers with logits alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(pixel_values=images).logits


def export(
    network: nn.Module, path: Path, size: int, opset: int, *, dynamo: bool, fixed: int = 0, **how: object
) -> Path:
    """Write a network; with a batch that is free, unless it is ``fixed``."""
    images = torch.rand(fixed or 2, 3, size, size)
    free = {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},)} if dynamo else {"dynamic_axes": {"images": {0: "n"}}}
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.eval(), (images,), str(path), dynamo=dynamo, opset_version=opset, input_names=["images"],
                output_names=["logits"], verbose=False, **({} if fixed else free), **how,
            )  # fmt: skip
    finally:
        logging.disable(before)
    return path


def shaken(network: nn.Module) -> nn.Module:
    """The network with weights that tell its layers apart, and statistics that do something."""
    dice = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2, generator=dice)
            module.running_var.uniform_(0.5, 1.5, generator=dice)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm) and module.weight is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=dice)
            nn.init.uniform_(module.bias, -0.2, 0.2, generator=dice)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, (2 / module.weight[0].numel()) ** 0.5, generator=dice)
    return network.eval()


@cache
def small(family: str) -> tuple[nn.Module, int]:
    """A small network of a family, with random weights, and the side of its images."""
    import transformers as t  # noqa: PLC0415 - seconds, and only some tests need it

    vit = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    stages = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
    windows = {
        "image_size": 32,
        "patch_size": 2,
        "embed_dim": 12,
        "depths": [2, 2],
        "num_heads": [2, 2],
        "window_size": 4,
    }
    cells = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2]}
    squeezed = {"image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320}
    rows = {
        "convnext": (t.ConvNextForImageClassification, t.ConvNextConfig, stages, 32),
        "efficientnet": (t.EfficientNetForImageClassification, t.EfficientNetConfig, squeezed, 32),
        "mobilenet": (t.MobileNetV2ForImageClassification, t.MobileNetV2Config, {"depth_multiplier": 0.35}, 32),
        "poolformer": (t.PoolFormerForImageClassification, t.PoolFormerConfig, {**stages, "depths": [1, 1, 1, 1]}, 64),
        "resnet": (t.ResNetForImageClassification, t.ResNetConfig, cells, 32),
        "swin": (t.SwinForImageClassification, t.SwinConfig, windows, 32),
        "vit": (t.ViTForImageClassification, t.ViTConfig, {**vit, "intermediate_size": 48}, 32),
    }
    model, config, settings, size = rows[family]
    torch.manual_seed(0)
    return shaken(Logits(model(config(num_labels=CLASSES, **settings)))), size


def one_node(
    op: str, given: list[Tensor | str], opset: int = 20, outputs: int = 1, **attributes: object
) -> onnx.ModelProto:
    """A classifier's file with one operator in it: the first input comes from the images, the others are constants.

    The images, N x 3 x 4 x 4, are brought to the shape of the first input, its first axis being N. Where an input is
    ``first``, it is that one again.
    """
    first, rest = given[0], given[1:]
    shape = helper.make_tensor("shape", TensorProto.INT64, [first.dim()], [-1, *first.shape[1:]])
    held = [
        onnx.numpy_helper.from_array(tensor.numpy(), f"given{i}")
        for i, tensor in enumerate(rest)
        if tensor is not FIRST
    ]
    names = [FIRST if tensor is FIRST else f"given{i}" for i, tensor in enumerate(rest)]
    made = [f"made{i}" for i in range(outputs)]
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Slice", ["flat", "zero", "width", "one"], ["cut"]),
        helper.make_node("Reshape", ["cut", "shape"], ["first"]),
        helper.make_node(op, ["first", *names], made, name="tried", **attributes),
        helper.make_node("Identity", [made[0]], ["out"]),
    ]
    width = first[0].numel()
    numbers = [
        helper.make_tensor(n, TensorProto.INT64, [1], [v]) for n, v in (("zero", 0), ("width", width), ("one", 1))
    ]
    return classifier_of(nodes, [shape, *held, *numbers], "out", opset)


def classifier_of(
    nodes: list[onnx.NodeProto],
    held: list[TensorProto],
    output: str,
    opset: int = 20,
    images: tuple[object, ...] = ("n", 3, 4, 4),
) -> onnx.ModelProto:
    """A file of these nodes."""
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, images)
    graph = helper.make_graph(nodes, "made by hand", [given], [onnx.ValueInfoProto(name=output)], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def closed(path: Path) -> Path:
    """The file with an operator at its end that our importer does not know, and that changes nothing."""
    model = onnx.load(path)
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["open" if value == name else value for value in node.output]
        node.input[:] = ["open" if value == name else value for value in node.input]
    model.graph.initializer.append(helper.make_tensor("nothing", TensorProto.FLOAT, [], [0.0]))
    ending = (("Hardmax", ["open"], "picked"), ("Mul", ["picked", "nothing"], "gone"), ("Add", ["open", "gone"], name))
    for operator, given, made in ending:
        model.graph.node.append(helper.make_node(operator, given, [made]))
    onnx.save(model, path)
    return path
