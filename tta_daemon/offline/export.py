"""The deployed model as one ONNX file, as it is or as it was adapted, checked against torch before it is written."""

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import onnx
import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from tta_daemon import __version__
from tta_daemon.birth import newborn
from tta_daemon.control.config import Config
from tta_daemon.control.snapshot import decode, identity_of
from tta_daemon.errors import CheckpointError, ConfigError
from tta_daemon.model import graph
from tta_daemon.model.load import Deployed, load
from tta_daemon.model.outlets import appear
from tta_daemon.model.publish import answerer_of
from tta_daemon.model.runtime import Runtime, require_same
from tta_daemon.offline import source_images


class Learned(NamedTuple):
    """Tensors that take the place of the deployed network's, and words on where they are from."""

    tensors: Mapping[str, Tensor]
    words: str = "as deployed"


class Exported(NamedTuple):
    """What was written."""

    size_bytes: int
    words: str
    moving: int


class Asked(NamedTuple):
    """What is to be exported.

    Attributes:
        state: a saved state of a daemon, to be answered by.
        adapter: a published ``.safetensors``, to be answered by.
        images: what the norms' statistics are taken from, where ``state`` holds none.
        is_open: the tensors that the method moves may be given at each call.
    """

    state: Path | None = None
    adapter: Path | None = None
    images: Path | None = None
    is_open: bool = False


def run(config: Config, out: Path, asked: Asked) -> Exported:
    """Write the file ``out``; it appears when all of it is there.

    Args:
        config: says which model, and by which method it is adapted.
        out: the file.
        asked: what is to be in it.

    Raises:
        ConfigError: naming what does not fit.
    """
    deployed = load(config.model)
    if asked.state is not None:
        learned = of_state(config, deployed, asked.state, asked.images)
    else:
        learned = of_adapter(deployed, asked.adapter) if asked.adapter is not None else Learned({})
    method = config.adapt.method
    moving = answerer_of(newborn(deployed, config.adapt), method, "adapt.method").moving() if asked.is_open else ()
    network = copy.deepcopy(deployed.classifier)
    network.network.load_state_dict({**network.network.state_dict(), **learned.tensors})
    looked = graph.Answers(network)
    model = graph.traced(looked, looked.outputs, deployed.size)
    require_same(Runtime(model, replace(deployed.wanted, required=False), moving), looked, deployed.size)
    model = graph.opened(model, moving)
    _describe(model, deployed, learned.words)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        appear(out, lambda path: onnx.save_model(model, path))
    except OSError as fault:
        raise ConfigError("--out", f"{out}: {fault.strerror}", "name a file that we may write") from fault
    return Exported(out.stat().st_size, learned.words, len(moving))


def of_adapter(deployed: Deployed, path: Path) -> Learned:
    """What a published file says. Raises ConfigError where it is none, or of another model."""
    setting = "--adapter"
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            manifest = json.loads((file.metadata() or {}).get("manifest", "{}"))
        tensors = load_file(path)
    except (OSError, ValueError, safetensors.SafetensorError) as fault:
        raise ConfigError(setting, f"{path} cannot be read: {fault}", "name a published .safetensors file") from fault
    if manifest.get("digest") != deployed.digest:
        message = f"{path} is of the model {str(manifest.get('digest'))[:12]}, not of {deployed.digest[:12]}"
        raise ConfigError(setting, message, "name one that was learned on this model")
    _require_fit(setting, deployed, tensors)
    return Learned(tensors, f"{manifest['method']}, step {manifest['step']}, version {manifest['version']}")


def of_state(config: Config, deployed: Deployed, path: Path, images: Path | None) -> Learned:
    """What a daemon has saved. Raises ConfigError where it is no state of this model and method."""
    adapter = newborn(deployed, config.adapt)
    try:
        snapshot = decode(path.read_bytes())
        snapshot.belongs_to(identity_of(deployed, config.adapt))
        adapter.load(snapshot.memory)
    except (OSError, CheckpointError, ValueError) as fault:
        raise ConfigError("--state", f"{path}: {fault}", "name a file of checkpoint.folder of this model") from fault
    answerer = answerer_of(adapter, config.adapt.method, "adapt.method")
    tensors = answerer.tensors()
    if lacking := set(answerer.moving()) - set(tensors):
        if images is None:
            message = (
                f"{config.adapt.method} normalizes by the batch, and a state holds none: {len(lacking)} statistics lack"
            )
            raise ConfigError("--images", message, "give images of what the model is to answer, or use --adapter")
        seen = source_images.read(images, deployed.size, deployed.labels, labeled=False)
        tensors |= answerer.seen(seen.floats(slice(None)).to(deployed.classifier.mean.device))
    return Learned(tensors, f"{config.adapt.method}, step {int(adapter.steps)}")


def _require_fit(setting: str, deployed: Deployed, tensors: Mapping[str, Tensor]) -> None:
    state = deployed.classifier.network.state_dict()
    for name, tensor in tensors.items():
        if name not in state or state[name].shape != tensor.shape or not bool(torch.isfinite(tensor).all()):
            raise ConfigError(setting, f"{name} of {tuple(tensor.shape)} does not fit the network", "was it damaged?")


def _describe(model: onnx.ModelProto, deployed: Deployed, words: str) -> None:
    """What a service may want to know, in the file's own properties."""
    model.producer_name, model.producer_version = "tta-daemon", __version__
    onnx.helper.set_model_props(
        model,
        {"model": deployed.name, "digest": deployed.digest, "learned": words, "labels": json.dumps(deployed.labels)},
    )
