"""A program of torch.export (.pt2), read by ourselves.

``torch.export.load`` unpickles sample inputs and constants, evaluates expressions and looks up any function by name, so
it is never called: the archive's graph is JSON and its weights are plain numbers, and nothing else in it is looked at.
"""

import copy
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tta_daemon.control.sections import Model
from tta_daemon.errors import ConfigError
from tta_daemon.model.brought import Brought
from tta_daemon.model.exported_graph import network_of
from tta_daemon.model.exported_layers import Unreadable
from tta_daemon.model.imported import ImportedNetwork
from tta_daemon.model.said import about, listed

SETTING = "model.artifact"

MOST_NUMBERS = 1 << 28
"""Of one value, for three images."""

DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
"""As the schema of torch.export numbers them."""

REMEDY = "export it anew with torch.export.export and torch.export.save; docs/models.md says how"
FREE = "export it with dynamic_shapes={0: torch.export.Dim.DYNAMIC} for the images"


def read(path: Path, model: Model) -> Brought:
    """The network in a .pt2 file.

    Raises:
        ConfigError: the file is broken, no classifier of images, or holds objects that would have to be unpickled.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            network, declared, said = _opened(archive)
        size = _size(declared, said, model)
        _try(network, size, fixed=declared[0])
    except (Unreadable, zipfile.BadZipFile, KeyError, IndexError, TypeError, ValueError, AttributeError) as fault:
        words = str(fault) if isinstance(fault, Unreadable) else f"it is broken: {type(fault).__name__}: {fault}"
        raise ConfigError(SETTING, f"{path}: {words}", REMEDY) from fault
    except (OSError, RuntimeError, NotImplementedError) as fault:
        raise ConfigError(SETTING, f"{path} cannot be read: {fault}", REMEDY) from fault
    return Brought(network, path.stem, SETTING, size=size, **about(said, path))


def _opened(archive: zipfile.ZipFile) -> tuple[ImportedNetwork, tuple[int | None, ...], Mapping[str, str]]:
    """The network, the shape of its images, and what the archive says of itself."""
    names = {info.filename: info for info in archive.infolist()}
    if any(info.compress_type != zipfile.ZIP_STORED for info in names.values()):
        raise Unreadable("its parts are compressed, which torch.export never does")
    models = [name for name in names if name.endswith("models/model.json")]
    if len(models) != 1:
        raise Unreadable("it holds no exported program named 'model'")
    folder = models[0].removesuffix("models/model.json")
    if any(name.startswith(f"{folder}data/aotinductor/") for name in names):
        raise Unreadable("it holds compiled code, which is never executed")
    tensors = _tensors(archive, folder, "weights") | _tensors(archive, folder, "constants")
    network, shape = network_of(json.loads(archive.read(models[0]))["graph_module"], tensors)
    extra = f"{folder}extra/"
    said = {n.removeprefix(extra): archive.read(n).decode("utf-8", "replace") for n in names if n.startswith(extra)}
    return network, shape, said


def _tensors(archive: zipfile.ZipFile, folder: str, kind: str) -> dict[str, Tensor]:
    """All weights, or all constants, by name."""
    table = json.loads(archive.read(f"{folder}data/{kind}/model_{kind}_config.json"))["config"]
    return {name: _tensor(archive, f"{folder}data/{kind}/", name, about) for name, about in table.items()}


def _tensor(archive: zipfile.ZipFile, folder: str, name: str, about: Mapping[str, Any]) -> Tensor:
    if about["use_pickle"] or about["tensor_meta"] is None:
        raise Unreadable(f"{name!r} is pickled, and pickled code is never executed")
    meta = about["tensor_meta"]
    kind = DTYPES.get(meta["dtype"])
    sizes, strides = ([int(each["as_int"]) for each in meta[key]] for key in ("sizes", "strides"))
    if kind is None or min([0, *sizes, *strides]) < 0:
        raise Unreadable(f"{name!r} is no tensor that is read: type {meta['dtype']}, sizes {sizes}")
    raw = archive.read(f"{folder}{about['path_name']}")
    wanted, held = math.prod(sizes), len(raw) // kind.itemsize
    if wanted > held:
        raise Unreadable(f"{name!r} of {sizes} needs {wanted} numbers and has {held}")
    if not wanted:
        return torch.zeros(sizes, dtype=kind)
    flat = torch.frombuffer(bytearray(raw), dtype=kind, count=held)
    tensor = flat.as_strided(sizes, strides, int(meta["storage_offset"]["as_int"])).contiguous()
    return tensor.float() if tensor.is_floating_point() else tensor


def _size(shape: tuple[int | None, ...], said: Mapping[str, str], model: Model) -> tuple[int, int]:
    if shape[2] is not None and shape[3] is not None:
        size = (shape[2], shape[3])
        if "input_size" in model.model_fields_set and model.input_size != size:
            message = f"{list(model.input_size)}, but the file takes images of {list(size)} and no others"
            raise ConfigError("model.input_size", message, "leave it out, or export the model with another size")
        return size
    found = listed(said, "input_size", 2)
    if found is not None and "input_size" not in model.model_fields_set:
        return int(found[0]), int(found[1])
    return model.input_size


@torch.no_grad()
def _try(network: ImportedNetwork, size: tuple[int, int], *, fixed: int | None) -> None:
    """See that the answer to an image does not depend on how many others are asked about."""
    images = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(0))
    try:
        _size_up(network, images)
        together, alone = network(images), torch.cat([network(image[None]) for image in images])
        same = together.shape == alone.shape and torch.allclose(together, alone, rtol=1e-3, atol=1e-3)
    except Unreadable:
        raise
    except Exception as fault:
        advice = f"; {FREE}" if fixed is not None else ""
        raise Unreadable(f"its operators do not fit each other: {str(fault).splitlines()[0][:200]}{advice}") from fault
    if not same:
        raise Unreadable(f"its answer depends on how many images there are; {FREE}")


def _size_up(network: ImportedNetwork, images: Tensor) -> None:
    """Compute the sizes alone first, so that what would fill the memory is refused before it does."""
    tensors = (*network.parameters(), *network.buffers())
    bare = copy.deepcopy(network, {id(tensor): tensor.to("meta") for tensor in tensors})
    values = {bare.given: images.to("meta")}
    with torch.device("meta"):
        for step in bare.steps:
            bare.advance(step, values)
            for name in step.outputs:
                value = values.get(name)
                if isinstance(value, Tensor) and value.numel() > MOST_NUMBERS:
                    raise Unreadable(f"node {step.node!r} makes a value of {tuple(value.shape)}, more than fits")
