"""Images as an Open Inference Protocol v2 request, numbers in the JSON or as raw tensors behind it."""

import json
import math
from typing import Any

import numpy as np

from tta_daemon.errors import Reason, RecordRejected
from tta_daemon.stream.npy import arranged
from tta_daemon.stream.records import Images, Record

LENGTH = "inference-header-content-length"
DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}
MOST_DIMENSIONS = 4


def images(value: bytes, record: Record, max_images: int, max_pixels: int) -> Images:
    """The first input of the request as N x 3 x H x W."""
    length = _header_length(value, record)
    tensor = _first_input(value[:length])
    dtype, shape = _declared(tensor)
    elements = math.prod(shape)
    if elements > max_images * max_pixels * 3:
        raise RecordRejected(Reason.TOO_LARGE, f"a tensor of {shape}")
    size = (tensor.get("parameters") or {}).get("binary_data_size")
    if size is not None:
        raw = value[length:]
        if not isinstance(size, int) or size > len(raw) or size != elements * dtype.itemsize:
            raise RecordRejected(Reason.UNDECODABLE, f"{size} bytes of {len(raw)} for a tensor of {shape} {dtype}")
        flat = np.frombuffer(raw[:size], dtype=dtype)
    else:
        flat = _numbers(tensor.get("data"), dtype, elements)
    array = flat.reshape(shape).astype(dtype.newbyteorder("="), copy=False)
    if array.ndim == MOST_DIMENSIONS and array.dtype == np.uint8 and array.shape[1] == 3 != array.shape[3]:  # noqa: PLR2004
        array = array.transpose(0, 2, 3, 1)
    return arranged(array, max_images, max_pixels)


def _header_length(value: bytes, record: Record) -> int:
    said = record.header(LENGTH)
    if said is None:
        return len(value)
    if not (said.isascii() and said.isdigit() and len(said) < 12 and int(said) <= len(value)):  # noqa: PLR2004
        raise RecordRejected(Reason.UNDECODABLE, f"header {LENGTH} is {said[:40]!r} for {len(value)} bytes")
    return int(said)


def _first_input(text: bytes) -> dict[str, Any]:
    try:
        request = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordRejected(Reason.UNDECODABLE, f"json: {error}") from error
    inputs = request.get("inputs") if isinstance(request, dict) else None
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise RecordRejected(Reason.UNDECODABLE, 'json: expected is {"inputs": [...]} with one tensor of images')
    return inputs[0]


def _declared(tensor: dict[str, Any]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    name, shape = tensor.get("datatype"), tensor.get("shape")
    if not isinstance(name, str) or name not in DTYPES:
        raise RecordRejected(Reason.WRONG_DTYPE, f"datatype {name!r}; understood are {', '.join(DTYPES)}")
    whole = isinstance(shape, list) and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape)
    if not isinstance(shape, list) or not whole or not 1 <= len(shape) <= MOST_DIMENSIONS:
        raise RecordRejected(Reason.WRONG_SHAPE, f"shape {str(shape)[:80]}")
    if not isinstance(tensor.get("parameters", {}), dict):
        raise RecordRejected(Reason.UNDECODABLE, "parameters is no object")
    return DTYPES[name], tuple(shape)


def _numbers(data: object, dtype: np.dtype[Any], elements: int) -> np.ndarray[Any, np.dtype[Any]]:
    if not isinstance(data, list):
        raise RecordRejected(Reason.UNDECODABLE, "data is no list of numbers")
    given = np.asarray(data)
    if given.dtype.kind not in "iuf":
        raise RecordRejected(Reason.UNDECODABLE, "data holds what is no number")
    flat = given.astype(np.float64).reshape(-1)
    if flat.size != elements:
        raise RecordRejected(Reason.WRONG_SHAPE, f"{flat.size} numbers for a shape of {elements}")
    if not np.isfinite(flat).all():
        raise RecordRejected(Reason.NON_FINITE, "the tensor holds NaN or infinity")
    if dtype == np.uint8 and (flat.min() < 0 or flat.max() > 255 or (flat % 1 != 0).any()):  # noqa: PLR2004 - uint8
        raise RecordRejected(Reason.OUT_OF_RANGE, "UINT8 data must be whole numbers from 0 to 255")
    with np.errstate(over="ignore"):  # what overflows is out of range, and will be found to be
        return flat.astype(dtype)
