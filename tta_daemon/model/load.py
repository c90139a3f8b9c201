"""From the files of a deployed model to a frozen classifier. No pickle is ever executed."""

import hashlib
import importlib
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from adapters import Classifier
from tta_daemon.control.sections import Model
from tta_daemon.errors import ConfigError
from tta_daemon.watch import knowledge
from tta_daemon.watch.knowledge import Knowledge
from tta_daemon.watch.view import LAYERS

if TYPE_CHECKING:
    from tta_daemon.model.frozen import FrozenView

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Deployed:
    """A classifier ready to answer, its classes' names, a digest of its weights, and what is known of its source.

    ``frozen`` answers in its place where that was asked for.
    """

    classifier: Classifier
    labels: tuple[str, ...]
    digest: str
    name: str
    known: Knowledge | None = None
    frozen: "FrozenView | None" = None

    @property
    def num_classes(self) -> int:
        """C."""
        return self.classifier.num_classes

    def prior(self, method: str) -> object:
        """What a method may know of the source; None where nobody prepared it."""
        return self.known.priors.get(method) if self.known is not None else None


def load(model: Model) -> Deployed:
    """Build the network, fill it with its weights and try one image.

    Raises:
        ConfigError: naming the setting under ``model`` that does not fit, and the remedy.
    """
    network = _construct(model.factory, model.arguments)
    if model.weights:
        _fill(network, _read_weights(Path(model.weights), model.checkpoint_key), model.strip_prefix)
    digest = digest_of(network.state_dict())
    device = _device(model.device)
    network = network.to(device=device, dtype=DTYPES[model.dtype])
    try:
        classifier = Classifier(network, model.mean, model.std, num_classes=len(model.labels) or None)
    except ValueError as fault:
        raise ConfigError("model.factory", str(fault), "list the classes in model.labels") from fault
    classes = _try_one(classifier, model.input_size)
    labels = tuple(model.labels) or tuple(str(c) for c in range(classes))
    if len(labels) != classes:
        raise ConfigError(
            "model.labels", f"{len(labels)} names for a network of {classes} classes", "name each class once, in order"
        )
    known = knowledge.load(model.prior, digest) if model.prior else None
    name = Path(model.weights).stem if model.weights else model.factory
    return Deployed(classifier, labels, digest, name, known, _frozen(model, classifier, LAYERS if known else 0))


def digest_of(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values, so that state learned on one network is never given to another."""
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _construct(factory: str, arguments: Mapping[str, object]) -> nn.Module:
    module_name, _, attribute = factory.partition(":")
    if not attribute:
        raise ConfigError("model.factory", f"{factory!r} names no function", 'write it as "package.module:function"')
    try:
        make = cast("Callable[..., object]", getattr(importlib.import_module(module_name), attribute))
    except ImportError as fault:
        remedy = "install the package in the daemon's environment, or put its folder on PYTHONPATH"
        raise ConfigError("model.factory", f"cannot import {module_name}: {fault}", remedy) from fault
    except AttributeError as fault:
        raise ConfigError("model.factory", f"{module_name} has no {attribute!r}", "check the spelling") from fault
    except (Exception, SystemExit) as fault:
        message = f"{module_name} fails when it is imported: {type(fault).__name__}: {fault}"
        raise ConfigError("model.factory", message, "name a module that defines and does not run anything") from fault
    try:
        network = make(**arguments)
    except (Exception, SystemExit) as fault:
        message = f"{factory} failed: {type(fault).__name__}: {fault}"
        raise ConfigError("model.arguments", message, "check the arguments against the function") from fault
    if not isinstance(network, nn.Module):
        raise ConfigError("model.factory", f"{factory} returned a {type(network).__name__}", "return a torch.nn.Module")
    return network


def _read_weights(path: Path, key: str) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return cast("Mapping[str, Tensor]", load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as fault:
        raise ConfigError(
            "model.weights", f"{path} does not exist", "check the path; it is relative to the config file"
        ) from fault
    except pickle.UnpicklingError as fault:
        message = f"{path} holds more than tensors, and pickled code is never executed"
        raise ConfigError("model.weights", message, "save the state_dict with safetensors.torch.save_file") from fault
    except (OSError, RuntimeError, ValueError, EOFError, safetensors.SafetensorError) as fault:
        message = f"{path} cannot be read: {fault}"
        raise ConfigError(
            "model.weights", message, "expected are .safetensors, .pt, .pth or .th with a state_dict"
        ) from fault
    for part in filter(None, key.split(".")):
        if not isinstance(state, Mapping) or part not in state:
            found = ", ".join(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
            raise ConfigError(
                "model.checkpoint_key", f"{part!r} is not in {path}, which holds {found[:200]}", "name one of these"
            )
        state = state[part]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        message = f"{path} is no flat table of tensors"
        raise ConfigError("model.weights", message, "name the key of the state_dict in model.checkpoint_key")
    return state


def _fill(network: nn.Module, state: Mapping[str, Tensor], prefix: str) -> None:
    try:
        network.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in state.items()})
    except RuntimeError as fault:
        summary = " ".join(str(fault).split())[:400]
        remedy = "the weights belong to another architecture, or model.strip_prefix is needed"
        raise ConfigError("model.weights", summary, remedy) from fault


def _frozen(model: Model, classifier: Classifier, layers: int) -> "FrozenView | None":
    if model.frozen == "torch":
        return None
    try:
        from tta_daemon.model.frozen import FrozenView, wanted_of  # noqa: PLC0415 - an extra brings ONNX Runtime
    except ImportError as fault:
        raise ConfigError("model.frozen", f"{fault.name} is missing", "pip install 'tta-daemon[onnx]'") from fault
    wanted = wanted_of(model.device, model.threads, required=model.require_device)
    return FrozenView(classifier, layers, model.input_size, wanted)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as fault:
        raise ConfigError(
            "model.device", f"{name!r} is not to be had: {str(fault).splitlines()[0]}", 'use "cpu"'
        ) from fault
    return device


def _try_one(classifier: Classifier, size: Sequence[int]) -> int:
    """The number of classes that the network really answers with."""
    image = torch.zeros(1, 3, *size, device=classifier.mean.device)
    try:
        with torch.no_grad():
            logits = classifier(image)
    except Exception as fault:
        message = f"the network fails on one image of {tuple(size)}: {type(fault).__name__}: {fault}"
        raise ConfigError(
            "model.input_size", message, "give the height and width that the network was trained on"
        ) from fault
    if not isinstance(logits, Tensor) or logits.dim() != 2:  # noqa: PLR2004 - N x C
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError("model.factory", f"the network answers with {shape}, not with N x C logits", "wrap it")
    return int(logits.size(1))
