"""What is accepted becomes the right pixels; what is not, the right reason."""

import io
import json
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from tta_daemon.errors import Reason, RecordRejected
from tta_daemon.stream.decode import Bounds, Decoder
from tta_daemon.stream.records import Partition, Position, Record

SIZE = (4, 6)
DECODER = Decoder(Bounds(SIZE, max_bytes=200_000, max_pixels=10_000, max_images=4))
PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def record(value, kind=None, *, key=None, partition=0, **headers):
    given = {"content-type": kind, **{name.replace("_", "-"): text for name, text in headers.items()}}
    pairs = tuple((name, str(text).encode()) for name, text in given.items() if text is not None)
    return Record(Position(Partition("images", partition), 0), key, value, pairs)


def encoded(image, form="PNG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def npy(array, **options):
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def request(array, datatype, **tensor):
    return {"inputs": [{"name": "x", "shape": list(array.shape), "datatype": datatype, **tensor}]}


def reason(value, kind=None, decoder=DECODER, **headers):
    with pytest.raises(RecordRejected) as caught:
        decoder.decode(record(value, kind, **headers))
    return caught.value.reason


PICTURE = Image.fromarray(PIXELS)
PNG, WEBP, JPEG = encoded(PICTURE), encoded(PICTURE, "WEBP", lossless=True), encoded(PICTURE, "JPEG", quality=95)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (PNG, "image/png"),
        (PNG, "IMAGE/PNG; q=1"),
        (PNG, None),
        (WEBP, "image/webp"),
        (WEBP, None),
        (npy(PIXELS), "application/x-npy"),
        (npy(PIXELS[None]), None),
        (npy(np.asfortranarray(PIXELS)), None),
        (npy((PIXELS / 255).transpose(2, 0, 1)[None].astype(np.float32)), None),
    ],
)
def test_the_same_picture_in_many_forms(value, kind):
    sample = DECODER.decode(record(value, kind))
    assert sample.images.shape == (1, 3, *SIZE)
    pixels = sample.images[0].transpose(1, 2, 0)
    pixels = pixels if pixels.dtype == np.uint8 else (pixels * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(pixels, PIXELS)
    assert sample.images.flags.c_contiguous


@pytest.mark.parametrize("kind", ["image/jpeg", "image/jpg", None])
def test_jpeg(kind):
    images = DECODER.decode(record(JPEG, kind)).images
    assert np.abs(images[0].transpose(1, 2, 0).astype(int) - PIXELS).max() < 40


def test_gray_palette_and_opaque_alpha_become_rgb():
    gray = PICTURE.convert("L")
    for picture in (gray, gray.convert("1"), gray.convert("P"), PICTURE.convert("RGBA"), gray.convert("LA")):
        images = DECODER.decode(record(encoded(picture))).images
        np.testing.assert_array_equal(images[0].transpose(1, 2, 0), np.asarray(picture.convert("RGB")))


def test_exif_orientation_is_applied():
    upright = Image.new("RGB", (6, 4))
    upright.putpixel((5, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90 degrees clockwise: stored the other way
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    images = DECODER.decode(record(encoded(stored, exif=exif))).images
    np.testing.assert_array_equal(images[0].transpose(1, 2, 0), np.asarray(upright))


def test_open_inference_protocol():
    floats = (PIXELS / 255).transpose(2, 0, 1)[None].astype(np.float32)
    for array, datatype in ((floats, "FP32"), (PIXELS[None], "UINT8"), (PIXELS.transpose(2, 0, 1)[None], "UINT8")):
        nested = json.dumps(request(array, datatype, data=array.tolist())).encode()
        flat = json.dumps(request(array, datatype, data=array.ravel().tolist())).encode()
        head = json.dumps(request(array, datatype, parameters={"binary_data_size": array.nbytes})).encode()
        for value, length in ((nested, None), (flat, None), (head + array.tobytes(), len(head))):
            sample = DECODER.decode(record(value, "application/json", inference_header_content_length=length))
            np.testing.assert_allclose(sample.images.astype(float) / (255 if datatype == "UINT8" else 1), floats)


def bomb(width=60_000, height=60_000):
    """A PNG of a few hundred bytes that claims 10 GB of pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def greedy_npy(shape):
    """A header that claims a large array, and next to nothing behind it."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return out.getvalue() + b"abc"


NAN = np.full((1, 3, *SIZE), np.nan, np.float32)
ZEROS = np.zeros((1, 3, *SIZE), np.float32)
ANIMATION = encoded(PICTURE, "WEBP", save_all=True, append_images=[PICTURE.rotate(180)], duration=10, lossless=True)
GLASS = Image.new("RGBA", (6, 4), (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("expected", "value", "kind"),
    [
        (Reason.EMPTY_VALUE, b"", None),
        (Reason.EMPTY_VALUE, None, "image/png"),
        (Reason.TOO_LARGE, b"x" * 200_001, "image/png"),
        (Reason.UNKNOWN_CONTENT_TYPE, b"hello", None),
        (Reason.UNKNOWN_CONTENT_TYPE, PNG, "text/plain"),
        (Reason.UNKNOWN_CONTENT_TYPE, b"{}", "application/cloudevents+json"),
        (Reason.UNDECODABLE, PNG[:-30], "image/png"),
        (Reason.UNDECODABLE, JPEG[: len(JPEG) // 2], "image/jpeg"),
        (Reason.UNDECODABLE, WEBP[: len(WEBP) // 2], "image/webp"),
        (Reason.UNDECODABLE, PNG, "image/jpeg"),
        (Reason.UNDECODABLE, b"nonsense", "image/png"),
        (Reason.DECOMPRESSION_BOMB, bomb(), "image/png"),
        (Reason.DECOMPRESSION_BOMB, bomb(200, 200), "image/png"),
        (Reason.ANIMATED, ANIMATION, None),
        (Reason.WRONG_CHANNELS, encoded(GLASS), None),
        (Reason.WRONG_CHANNELS, encoded(PICTURE.convert("CMYK"), "JPEG"), None),
        (Reason.WRONG_CHANNELS, encoded(Image.new("I;16", (6, 4))), None),
        (Reason.WRONG_SHAPE, encoded(Image.new("RGB", (7, 4))), None),
        (Reason.PICKLED, npy(np.array([object()]), allow_pickle=True), None),
        (Reason.UNDECODABLE, npy(PIXELS)[:-1], None),
        (Reason.UNDECODABLE, npy(PIXELS) + b"x", None),
        (Reason.UNDECODABLE, greedy_npy((100_000, 100_000, 3)), None),
        (Reason.UNDECODABLE, greedy_npy((-1, -3, 3)), None),
        (Reason.UNDECODABLE, npy(PIXELS)[:20], None),
        (Reason.WRONG_DTYPE, npy(PIXELS.astype(np.float64)), None),
        (Reason.WRONG_DTYPE, npy(ZEROS.astype(">f4")), None),
        (Reason.WRONG_SHAPE, npy(PIXELS[0]), None),
        (Reason.WRONG_SHAPE, npy(PIXELS[:, :5]), None),
        (Reason.WRONG_SHAPE, npy(np.zeros((0, 4, 6, 3), np.uint8)), None),
        (Reason.WRONG_CHANNELS, npy(PIXELS[..., :1]), None),
        (Reason.TOO_MANY_IMAGES, npy(np.stack([PIXELS] * 5)), None),
        (Reason.NON_FINITE, npy(NAN), None),
        (Reason.OUT_OF_RANGE, npy(ZEROS - 0.01), None),
        (Reason.OUT_OF_RANGE, npy(ZEROS + 255), None),
        (Reason.UNDECODABLE, b"[1", "application/json"),
        (Reason.UNDECODABLE, b"[" * 100_000, "application/json"),
        (Reason.UNDECODABLE, b"{}", "application/json"),
        (Reason.UNDECODABLE, b'{"inputs": []}', "application/json"),
        (Reason.WRONG_DTYPE, json.dumps(request(ZEROS, "BYTES", data=[])).encode(), "application/json"),
        (Reason.WRONG_SHAPE, json.dumps(request(ZEROS, "FP32", data=[1, 2])).encode(), "application/json"),
        (Reason.UNDECODABLE, json.dumps(request(ZEROS, "FP32", data=["0"] * ZEROS.size)).encode(), "application/json"),
        (Reason.OUT_OF_RANGE, json.dumps(request(PIXELS, "UINT8", data=[256] * 72)).encode(), "application/json"),
        (Reason.NON_FINITE, json.dumps(request(ZEROS, "FP32", data=[float("nan")] * 72)).encode(), "application/json"),
        (Reason.NON_FINITE, json.dumps(request(ZEROS, "FP32", data=[1e300] * 72)).encode(), "application/json"),
    ],
)
def test_reasons(expected, value, kind):
    assert reason(value, kind) == expected


@pytest.mark.parametrize("length", ["", "-1", "9" * 30, "1e3", "½"])
def test_a_wrong_length_of_the_json_part(length):
    assert reason(b"{}", "application/json", inference_header_content_length=length) == Reason.UNDECODABLE


def test_a_16_bit_rgb_png_is_not_silently_cut_to_8_bits():
    value = bytearray(bomb(6, 4))
    value[24] = 16
    value[29:33] = struct.pack(">I", zlib.crc32(bytes(value[12:29])))
    assert reason(bytes(value)) == Reason.WRONG_CHANNELS


@pytest.mark.parametrize("value", [bomb(), greedy_npy((10_000, 10_000, 10, 10))], ids=["png", "npy"])
def test_what_a_header_claims_is_not_allocated(value):
    tracemalloc.start()
    reason(value)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


def test_stretch_and_crop():
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 6:18] = 200
    stretched = Decoder(Bounds(SIZE, "stretch")).decode(record(npy(wide))).images
    cropped = Decoder(Bounds((4, 6), "crop")).decode(record(encoded(Image.fromarray(wide)))).images
    assert stretched.shape == cropped.shape == (1, 3, *SIZE)
    assert (cropped[..., 1:-1] == 200).all()  # the border mixes with what was cut off
    assert stretched.min() == 0
    assert reason(npy(np.zeros((1, 3, 8, 8), np.float32)), decoder=Decoder(Bounds(SIZE, "crop"))) == Reason.WRONG_SHAPE


def test_streams():
    one = record(PNG, key=b"cam-1", partition=3)
    assert [Decoder(Bounds(SIZE), by).decode(one).stream for by in ("none", "partition", "key")] == [
        "",
        "images-3",
        "cam-1",
    ]
    keys = [b"\xff\x00", b"\xff\x01", b"x" * 1000, b"line\nbreak", None]
    names = [Decoder(Bounds(SIZE), "key").decode(record(PNG, key=key)).stream for key in keys]
    assert len(set(names)) == len(names)
    assert all(len(name) < 101 and name.isprintable() for name in names)


def test_many_at_once_keep_their_order():
    values = [PNG, b"", npy(PIXELS), b"nonsense"] * 50
    found = DECODER.decode_all([record(value) for value in values])
    assert [type(one).__name__ for one in found] == ["Sample", "RecordRejected"] * 100
    assert {one.reason for one in found if isinstance(one, RecordRejected)} == {
        Reason.EMPTY_VALUE,
        Reason.UNKNOWN_CONTENT_TYPE,
    }


def test_a_jpeg_of_a_thousand_scans_is_no_picture():
    photo = encoded(PICTURE, "JPEG", progressive=True)
    scan = photo.rindex(b"\xff\xda")
    again = photo[:scan] + (photo[scan:-2]) * 1000 + photo[-2:]
    assert reason(again) is Reason.DECOMPRESSION_BOMB
    assert DECODER.decode(record(photo)).size == 1


def test_an_id_is_no_novel():
    assert reason(encoded(PICTURE), id="x" * 1025) is Reason.TOO_LARGE
