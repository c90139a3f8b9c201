"""From the files of a deployed model to a frozen classifier. No pickle is ever executed."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adapters import Classifier
from adapters.classifier import head_of
from adapters.parts.norms import Statistics
from adapters.parts.unfolded import unfold
from tta_daemon.control.sections import Model
from tta_daemon.errors import ConfigError
from tta_daemon.model import artifact, python_factory
from tta_daemon.model.brought import Brought, Triple
from tta_daemon.model.precision import mixed_by
from tta_daemon.model.wanted import Wanted, wanted_by
from tta_daemon.watch import knowledge
from tta_daemon.watch.knowledge import Knowledge
from tta_daemon.watch.view import LAYERS

if TYPE_CHECKING:
    from tta_daemon.model.frozen import FrozenView, OpaqueView

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, slots=True)
class Deployed:
    """A classifier ready to answer, its classes' names, a digest of its weights, and what is known of its source.

    ``size`` is the height and width of its images; ``frozen`` answers in its place where that was asked for, and where
    nothing else can; ONNX Runtime computes where ``wanted`` says.
    """

    classifier: Classifier
    labels: tuple[str, ...]
    digest: str
    name: str
    size: tuple[int, int]
    known: Knowledge | None = None
    frozen: "FrozenView | OpaqueView | None" = None
    wanted: Wanted = field(default_factory=Wanted)

    @property
    def num_classes(self) -> int:
        """C."""
        return self.classifier.num_classes

    def prior(self, method: str) -> object:
        """What a method may know of the source; None where nobody prepared it."""
        return self.known.priors.get(method) if self.known is not None else None


def load(model: Model) -> Deployed:
    """Read the network from an artifact or build it, and try one image.

    Raises:
        ConfigError: naming the setting under ``model`` that does not fit, and the remedy.
    """
    brought = artifact.read(model) if model.artifact else python_factory.made(model)
    given = model.model_fields_set
    size = model.input_size if "input_size" in given else brought.size or model.input_size
    mean = model.mean if "mean" in given else brought.mean or model.mean
    std = model.std if "std" in given else brought.std or model.std
    digest = brought.digest or digest_of(brought.network.state_dict())
    network = brought.network.to(device=_device(model.device), dtype=DTYPES[model.dtype])
    classifier = _classifier(network, mean, std, size, model, brought)
    labels = _labels(classifier.num_classes, model, brought)
    known = knowledge.load(model.prior, digest) if model.prior else None
    if known is not None and known.folded:
        _unfold(network, known.folded)
        digest = digest_of(network.state_dict())
    frozen = _frozen(model, classifier, size, LAYERS if known else 0)
    return Deployed(classifier, labels, digest, brought.name, size, known, frozen, wanted_by(model))


def digest_of(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values, so that state learned on one network is never given to another."""
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _frozen(model: Model, classifier: Classifier, size: Sequence[int], layers: int) -> "FrozenView | OpaqueView | None":
    if model.frozen == "torch" and not classifier.opaque:
        return None
    try:
        from tta_daemon.model.frozen import FrozenView, OpaqueView  # noqa: PLC0415 - an extra brings ONNX Runtime
    except ImportError as fault:
        raise ConfigError("model.frozen", f"{fault.name} is missing", "pip install 'tta-daemon[onnx]'") from fault
    wanted = wanted_by(model)
    return OpaqueView(classifier, wanted) if classifier.opaque else FrozenView(classifier, layers, size, wanted)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as fault:
        raise ConfigError(
            "model.device", f"{name!r} is not to be had: {str(fault).splitlines()[0]}", 'use "cpu"'
        ) from fault
    return device


def _classifier(  # noqa: PLR0913, PLR0917 - the network, and what is said of it
    network: nn.Module, mean: Triple, std: Triple, size: tuple[int, int], model: Model, brought: Brought
) -> Classifier:
    """The network with its normalization, and with the head that one image is seen to leave by."""
    unnamed = Classifier(network, mean, std, head="", num_classes=1)
    image = torch.zeros(2, 3, *size, device=unnamed.mean.device)
    try:
        with torch.no_grad():
            logits = unnamed(image)
    except ConfigError:
        raise
    except Exception as fault:
        message = f"the network fails on images of {size}: {type(fault).__name__}: {fault}"
        remedy = "give the height and width that the network was trained on"
        raise ConfigError("model.input_size", message, remedy) from fault
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(image):  # noqa: PLR2004 - N x C
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(brought.setting, f"the network answers with {shape}, not with N x C logits", "wrap it")
    if logits.size(1) < 2:  # noqa: PLR2004 - this or that
        remedy = "answer with a logit for each class: torch.cat((torch.zeros_like(z), z), 1) where z is a sigmoid's"
        raise ConfigError(brought.setting, "the network answers with one number for each image", remedy)
    head = model.head or head_of(unnamed, image)
    try:
        return Classifier(network, mean, std, head=head, num_classes=logits.size(1), mixed=mixed_by(model))
    except ValueError as fault:
        remedy = "name a torch.nn.Linear, as network.named_modules() calls it, or leave it out"
        raise ConfigError("model.head", str(fault).removeprefix("head: "), remedy) from fault


def _unfold(network: nn.Module, folded: Mapping[str, Statistics]) -> None:
    try:
        unfold(network, folded)
    except ValueError as fault:
        raise ConfigError("model.prior", str(fault), knowledge.REMEDY) from fault


def _labels(classes: int, model: Model, brought: Brought) -> tuple[str, ...]:
    if "labels" in model.model_fields_set and model.labels:
        if len(model.labels) != classes:
            message = f"{len(model.labels)} names for a network of {classes} classes"
            raise ConfigError("model.labels", message, "name each class once, in order")
        return tuple(model.labels)
    if brought.labels is not None and len(brought.labels) != classes:
        message = f"it names {len(brought.labels)} classes for a network of {classes}"
        raise ConfigError(brought.setting, message, "name the classes in model.labels")
    return brought.labels or tuple(str(c) for c in range(classes))
