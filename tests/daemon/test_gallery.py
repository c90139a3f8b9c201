"""The pictures on the status page: few, small, and none unless asked for."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from world import Memory, config, pictures

from tta_daemon.control.sections import Http
from tta_daemon.control.web.gallery import AT_ONCE, EACH_S, SIDE, Gallery
from tta_daemon.control.web.server import Server
from tta_daemon.stream.records import Batch, Partition, Position, Prediction, Record, Sample
from tta_daemon.watch.accuracy import Label
from tta_daemon.watch.metrics import Metrics

NAMES = ("cat", "dog")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def batch(*images, first=0):
    return Batch("", tuple(_sample(first + n, image) for n, image in enumerate(images)))


def _sample(offset, image):
    record = Record(Position(Partition("images", 0), offset), None, b"")
    return Sample(record, "", image if image.ndim == 4 else image[None])


def dogs(count):
    return [Prediction(1, "dog", 0.75)] * count


def gray(side, dtype=np.uint8):
    return np.full((3, side, side), 128 if dtype == np.uint8 else 0.5, dtype)


def test_nothing_is_kept_unless_asked_for(clock):
    gallery = Gallery(clock=clock)
    gallery.saw(batch(gray(8)), dogs(1), None, NAMES)
    assert gallery.plain() == []
    assert Http().images == 0


def test_a_picture_with_its_answer_and_its_label(clock):
    gallery = Gallery(4, clock)
    gallery.saw(batch(gray(8)), dogs(1), torch.tensor([[2.0, 1.0]]), NAMES)
    expected = {"number": 1, "answer": "dog", "confidence": 0.75, "source": "cat", "label": None, "right": None}
    assert gallery.plain() == [expected]
    gallery.labeled(Label("another", (1,)))
    gallery.labeled(Label("images-0-0", ("x" * 1000,)))
    gallery.labeled(Label("images-0-0", (7,)))
    assert gallery.plain() == [expected]
    gallery.labeled(Label("images-0-0", (1,)))
    assert gallery.plain() == [expected | {"label": "dog", "right": True}]
    gallery.labeled(Label("images-0-0", ("cat",)))
    assert gallery.plain() == [expected | {"label": "cat", "right": False}]


def test_few_are_taken_now_and_then_and_the_newest_stay(clock):
    gallery = Gallery(6, clock)
    for turn in range(3):
        gallery.saw(batch(*[gray(8)] * 9, first=100 * turn), dogs(9), None, NAMES)
        gallery.saw(batch(*[gray(8)] * 9), dogs(9), None, NAMES)  # too soon
        assert len(gallery.plain()) == min(6, (turn + 1) * len(range(0, 9, -(-9 // AT_ONCE))))
        clock.now += EACH_S
    numbers = [picture["number"] for picture in gallery.plain()]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] == 9
    gallery.tune(0)
    assert gallery.plain() == []
    assert gallery.png(numbers[0]) is None


def test_each_image_of_a_record_has_its_own_label(clock):
    gallery = Gallery(4, clock)
    gallery.saw(batch(np.stack([gray(8), gray(8)])), dogs(2), None, NAMES)
    gallery.labeled(Label("images-0-0", ("dog", "cat")))
    assert [picture["label"] for picture in gallery.plain()] == ["cat", "dog"]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_it_is_drawn_small(clock, dtype):
    gallery = Gallery(1, clock)
    image = gray(400, dtype)[:, :200]
    if dtype == np.float32:
        image[0, 0, 0] = np.nan
    gallery.saw(batch(image), dogs(1), None, NAMES)
    with Image.open(io.BytesIO(gallery.png(1))) as drawn:
        assert drawn.size == (SIDE, SIDE // 2)
        assert drawn.getpixel((5, 5)) == (128, 128, 128)


def test_the_loop_hangs_pictures_and_their_labels():
    memory = Memory(config())
    Server(Http(port=0, images=8), memory.daemon.board, Metrics().registry)
    memory.send(pictures(8))
    memory.log.append("labels", b'{"id": "images-0-0", "labels": [3]}')
    memory.run_dry()
    hung = memory.daemon.board.gallery.plain()
    assert len(hung) == AT_ONCE
    assert hung[-1]["label"] == memory.daemon.deployed.labels[3]
    assert hung[-1]["right"] is (hung[-1]["answer"] == hung[-1]["label"])


def test_by_default_the_loop_hangs_none():
    memory = Memory(config())
    memory.send(pictures(8))
    memory.run_dry()
    assert memory.daemon.board.gallery.plain() == []
