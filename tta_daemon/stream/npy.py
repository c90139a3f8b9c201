"""Arrays in numpy's own file format, read so that a header can neither run code nor ask for memory."""

import io
import math
from threading import Lock
from typing import cast

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from tta_daemon.errors import Reason, RecordRejected
from tta_daemon.stream.records import Images

LONGEST_HEADER = 4096
CHANNELS = 3

ONE_AT_A_TIME = Lock()
"""Headers are Python literals, and CPython before 3.13 now and then fails on one that two threads parse at once."""


def images(value: bytes, max_images: int, max_pixels: int) -> Images:
    """uint8 N x H x W x C or H x W x C, or float32 N x C x H x W, as N x 3 x H x W."""
    file = io.BytesIO(value)
    try:
        version = npy_format.read_magic(file)
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        with ONE_AT_A_TIME:
            shape, fortran, dtype = read(file, max_header_size=LONGEST_HEADER)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, EOFError) as error:
        raise RecordRejected(Reason.UNDECODABLE, f"npy: {error}") from error
    if dtype.hasobject:
        raise RecordRejected(Reason.PICKLED, "npy: an array of objects is a pickle, and pickles are never loaded")
    body = memoryview(value)[file.tell() :]
    if len(body) != math.prod(shape) * dtype.itemsize:
        raise RecordRejected(Reason.UNDECODABLE, f"npy: {len(body)} bytes for an array of {shape} {dtype}")
    array = np.frombuffer(body, dtype=dtype).reshape(shape, order="F" if fortran else "C")
    return arranged(array, max_images, max_pixels)


def arranged(array: NDArray[np.generic], max_images: int, max_pixels: int) -> Images:
    """An array of images with the channels first, whatever of the two layouts it came in."""
    if array.dtype == np.uint8:
        if array.ndim == 3:  # noqa: PLR2004 - H x W x C
            array = array[None]
        layout, channels_last = "uint8 N x H x W x 3", True
    elif array.dtype == np.float32:
        layout, channels_last = "float32 N x 3 x H x W", False
    else:
        raise RecordRejected(Reason.WRONG_DTYPE, f"{array.dtype}; understood are uint8 and float32")
    if array.ndim != 4 or 0 in array.shape:  # noqa: PLR2004 - as above
        raise RecordRejected(Reason.WRONG_SHAPE, f"{array.shape}; expected is {layout}")
    count, channels = array.shape[0], array.shape[-1 if channels_last else 1]
    if count > max_images:
        raise RecordRejected(Reason.TOO_MANY_IMAGES, f"{count} images in a record; input.max_images is {max_images}")
    if channels != CHANNELS:
        raise RecordRejected(Reason.WRONG_CHANNELS, f"{channels} channels in {array.shape}; expected is {layout}")
    if array.size // (count * channels) > max_pixels:
        raise RecordRejected(Reason.TOO_LARGE, f"{array.shape}; input.max_pixels is {max_pixels}")
    first = array.transpose(0, 3, 1, 2) if channels_last else array
    return cast("Images", np.ascontiguousarray(first))
