"""A network from a Python function, and its weights from a file. No pickle is ever executed."""

import importlib
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tta_daemon.control.sections import Model
from tta_daemon.errors import ConfigError
from tta_daemon.model.brought import Brought


def made(model: Model) -> Brought:
    """The network that ``model.factory`` makes, with the weights of ``model.weights``.

    Raises:
        ConfigError: naming the setting that does not fit, and the remedy.
    """
    network = _construct(model.factory, model.arguments)
    if model.weights:
        _fill(network, _read_weights(Path(model.weights), model.checkpoint_key), model.strip_prefix)
    return Brought(network, Path(model.weights).stem if model.weights else model.factory)


def _construct(factory: str, arguments: Mapping[str, object]) -> nn.Module:
    module_name, _, attribute = factory.partition(":")
    if not attribute:
        remedy = 'write it as "package.module:function", or name an artifact in model.artifact'
        raise ConfigError("model.factory", f"{factory!r} names no function", remedy)
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
