"""Whatever the bytes are: a sample that keeps its promises, or RecordRejected, and nothing else."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tta_daemon.errors import RecordRejected
from tta_daemon.stream.decode import Bounds, Decoder
from tta_daemon.stream.records import Partition, Position, Record

DECODERS = [
    Decoder(Bounds((5, 4), resize, max_bytes=1 << 16, max_pixels=4096, max_images=3)) for resize in ("refuse", "crop")
]
KINDS = ["image/png", "image/jpeg", "image/webp", "application/x-npy", "application/json"]
PLACE = Position(Partition("images", 0), 0)

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow warns of much that it then reads


def check(value, kind, *headers):
    record = Record(PLACE, None, value, (("content-type", kind.encode()), *headers) if kind else headers)
    for decoder in DECODERS:
        try:
            sample = decoder.decode(record)
        except RecordRejected as rejected:
            assert rejected.message  # noqa: PT017 - a rejection is fine, and says why
            continue
        images = sample.images
        assert images.shape[1:] == (3, 5, 4)
        assert 1 <= len(images) <= 3
        assert images.dtype in (np.uint8, np.float32)
        assert np.isfinite(images).all()
        assert images.dtype == np.uint8 or (images.min() >= 0 and images.max() <= 1)


def valid():
    """One good value of each kind."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    for kind in KINDS[:3]:
        for mode in ("RGB", "L", "RGBA", "P", "CMYK"):
            if (mode in "RGBA P" and kind == "image/jpeg" and mode not in ("RGB", "L")) or (
                mode == "CMYK" and kind != "image/jpeg"
            ):
                continue
            out, exif = io.BytesIO(), Image.Exif()
            exif[0x0112] = 6
            picture = Image.fromarray(noise).convert(mode)
            picture.save(out, kind.partition("/")[2], exif=exif)
            yield kind, out.getvalue()
    for array in (noise, noise[None], np.zeros((2, 3, 5, 4), np.float32)):
        out = io.BytesIO()
        np.save(out, array)
        yield "application/x-npy", out.getvalue()
        datatype = "UINT8" if array.dtype == np.uint8 else "FP32"
        tensor = {"name": "x", "shape": list(array.shape), "datatype": datatype, "data": array.ravel().tolist()}
        yield "application/json", json.dumps({"id": "1", "inputs": [tensor]}).encode()


VALID = list(valid())


@st.composite
def mutated(draw):
    """A good value with some bytes changed, cut out, put in or doubled."""
    kind, value = draw(st.sampled_from(VALID))
    data = bytearray(value)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["set", "cut", "insert", "flip", "end", "double"])):
            case "set":
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del data[at : at + draw(st.integers(1, 20))]
            case "insert":
                data[at:at] = draw(st.binary(max_size=12))
            case "flip":
                data[at : at + 1] = bytes(byte ^ (1 << draw(st.integers(0, 7))) for byte in data[at : at + 1])
            case "end":
                del data[at:]
            case "double":
                data[at:at] = data[at : at + 40]
    return kind, bytes(data)


def test_the_seeds_are_good():
    accepted = 0
    for kind, value in VALID:
        try:
            DECODERS[1].decode(Record(PLACE, None, value, (("content-type", kind.encode()),)))
            accepted += 1
        except RecordRejected:
            pass
    assert accepted >= len(VALID) - 1  # CMYK


@settings(max_examples=300, deadline=None)
@given(mutated())
def test_mutated_values(case):
    kind, value = case
    check(value, kind)
    check(value, None)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([*KINDS, "", "text/plain"]))
def test_random_bytes(value, kind):
    check(value, kind)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([value[:k] for _, value in VALID for k in (8, 16, 33)]), st.binary(max_size=200))
def test_random_bytes_behind_a_good_beginning(head, tail):
    check(head + tail, None)


HEADERS = st.fixed_dictionaries(
    {
        "descr": st.sampled_from(["|u1", "<f4", ">f4", "|O", "<f8", "|V0", "|S9", "<M8[ns]", "|b1"])
        | st.text(max_size=9),
        "fortran_order": st.booleans() | st.integers(),
        "shape": st.lists(st.integers(-3, 6) | st.integers(), max_size=6).map(tuple),
    }
)


@settings(max_examples=200, deadline=None)
@given(HEADERS, st.binary(max_size=400), st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x09"]))
def test_npy_headers(header, body, version):
    text = repr(header).encode("utf-8", "replace")
    length = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    check(b"\x93NUMPY" + version + length + text + body, "application/x-npy")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "shape": st.just([1, 3, 5, 4]) | st.lists(st.integers(-1, 6), max_size=5) | JSON,
        "datatype": st.sampled_from(["UINT8", "FP32", "BYTES"]) | JSON,
        "data": st.just([0] * 60) | st.lists(st.integers(0, 1), max_size=61) | JSON,
        "parameters": st.just({"binary_data_size": 60}) | st.dictionaries(st.just("binary_data_size"), JSON) | JSON,
    },
)


@settings(max_examples=300, deadline=None)
@given(st.lists(TENSOR, max_size=2) | JSON, st.binary(max_size=80), st.integers(-5, 400) | st.none())
def test_inference_requests(inputs, raw, length):
    value = json.dumps({"inputs": inputs}).encode()
    headers = [("inference-header-content-length", str(length).encode())] if length is not None else []
    check(value + raw, "application/json", *headers)
    check(value + raw, "application/json", ("inference-header-content-length", str(len(value)).encode()))
