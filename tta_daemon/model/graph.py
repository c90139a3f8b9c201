"""From a torch module to an ONNX graph that keeps its BatchNorm layers, and its tensors by their own names."""

import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn
from torch.onnx import TrainingMode

from adapters import Classifier
from tta_daemon.errors import ConfigError

IMAGES = "images"
"""The name of a graph's input: float32, N x 3 x H x W in [0, 1]."""

LOGITS, FEATURES = "logits", "features"
"""The names of what a graph of answers gives; without features where the network has no linear head."""

OPSET = 17

REMEDY = "leave model.frozen, adapt.serve and [publish] at their defaults"

_OWN, _AROUND, _OUTERMOST = "looked.classifier.network.", "looked.classifier.", "looked."


class Answers(nn.Module):
    """Logits of a classifier, N x C, and the features that its head was given, N x D, where it has one."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """As `outputs` names them."""
        return self.classifier.with_features(images) if self.classifier.head else (self.classifier(images),)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what it gives."""
        return (LOGITS, FEATURES) if self.classifier.head else (LOGITS,)


def traced(looked: nn.Module, outputs: Sequence[str], size: Sequence[int]) -> ModelProto:
    """The graph of ``looked.forward``, all its tensors constant; those of the network bear their own names.

    PyTorch's tracing exporter is used because it keeps BatchNorm layers and names; the other one folds both away.

    Args:
        looked: holds a frozen `Classifier` as ``classifier``, and maps images to as many tensors as ``outputs``.
        outputs: the names of these tensors; their first dimension is free, as that of the images is.
        size: height and width of the images.

    Raises:
        ConfigError: PyTorch cannot export this network, or ONNX Runtime has no use for its dtype.
    """
    classifier = classifier_of(looked)
    if classifier.mean.dtype != torch.float32:
        raise ConfigError("model.dtype", "ONNX Runtime answers in float32 alone", 'say dtype = "float32"')
    if classifier.opaque:
        raise ConfigError("model.artifact", "it is a black box: nothing can be exported that is not the file", REMEDY)
    file = io.BytesIO()
    try:
        with torch.no_grad(), classifier.unmixed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Traced(looked),
                (torch.zeros(2, 3, *size, device=classifier.mean.device),),
                file,  # type: ignore[arg-type]  # it takes open files as well
                dynamo=False,
                training=TrainingMode.PRESERVE,
                do_constant_folding=False,
                input_names=[IMAGES],
                output_names=list(outputs),
                dynamic_axes={name: {0: "n"} for name in (IMAGES, *outputs)},
                opset_version=OPSET,
            )
    except Exception as fault:
        words = str(fault).strip().splitlines() or [""]
        message = f"the network cannot be exported to ONNX: {type(fault).__name__}: {words[0][:300]}"
        raise ConfigError("model.factory", message, REMEDY) from fault
    model = onnx.load_from_string(file.getvalue())
    _rename(model)
    return model


def classifier_of(looked: nn.Module) -> Classifier:
    """The classifier that is traced."""
    return cast("Classifier", looked.classifier)


def opened(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """A copy in which the named tensors may be given at each call; where they are not, they are what they were.

    Raises:
        ValueError: the graph has no such tensor.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    held = {tensor.name: tensor for tensor in copy.graph.initializer}
    for name in names:
        if name not in held:
            raise ValueError(f"the graph has no tensor {name!r}")
        copy.graph.input.append(onnx.helper.make_tensor_value_info(name, held[name].data_type, list(held[name].dims)))
    return copy


def replaced(model: ModelProto, tensors: Mapping[str, Tensor]) -> ModelProto:
    """A copy that holds these tensors in place of its own.

    Raises:
        ValueError: the graph has no such tensor, or one of another shape.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    shapes = held(model)
    for name, tensor in tensors.items():
        if shapes.get(name) != tuple(tensor.shape):
            raise ValueError(f"the graph has no tensor {name!r} of {tuple(tensor.shape)}")
    for own in copy.graph.initializer:
        if own.name in tensors:
            values = tensors[own.name].detach().float().cpu().contiguous().numpy()
            own.CopyFrom(onnx.numpy_helper.from_array(values, own.name))
    return copy


def held(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that the graph holds."""
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


class _Traced(nn.Module):
    """Calls itself in training, which its parts are not: so the exporter keeps layers apart that are equal by value."""

    def __init__(self, looked: nn.Module) -> None:
        super().__init__()
        self.looked = looked

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        answers: tuple[Tensor, ...] = self.looked(images)
        return answers


def _rename(model: ModelProto) -> None:
    """Tensors of the network by the names in its state_dict, without those of what it was wrapped in."""
    names = {tensor.name: tensor.name.removeprefix(_OWN) for tensor in model.graph.initializer}
    taken = {bare for name, bare in names.items() if name != bare}
    for name in (name for name, bare in names.items() if name == bare):
        bare = name.replace(_AROUND, "normalization.", 1) if name.startswith(_AROUND) else name.removeprefix(_OUTERMOST)
        while bare in taken:  # a network may have tensors of any name: one that was exported by us, for one
            bare = f"_{bare}"
        names[name] = bare
        taken.add(bare)
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)
