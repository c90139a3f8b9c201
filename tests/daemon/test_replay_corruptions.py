"""Corruptions made on the fly: all fifteen, repeatable, and each its own domain."""

import sys

import numpy as np
import pytest
from nets import images

from tta_daemon.errors import ConfigError
from tta_daemon.offline.replay.corruptions import CLEAN, KINDS, chosen, corrupted, strengths
from tta_daemon.offline.replay.streams import Stream
from tta_daemon.offline.replay.values import Arrays, Value
from tta_daemon.stream import npy

needs_library = pytest.mark.skipif(
    "not __import__('importlib.util').util.find_spec('imagecorruptions')", reason="the extra `replay` is not installed"
)


def pixels(value: Value) -> np.ndarray:
    return npy.images(value.data, 1, 10_000)[0].transpose(1, 2, 0)


def clean(count: int = 3) -> Stream:
    photos = (images(count, size=32) * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    return Stream("s", Arrays(photos), np.arange(count), ("all",), np.zeros(count, int), keys=("a", "b", "c")[:count])


@needs_library
def test_every_kind_changes_the_image_and_comes_out_the_same_again() -> None:
    made = [corrupted(clean(), (CLEAN, *KINDS), (2, 5), pixels, (32, 32), seed=7) for _ in range(2)]
    assert made[0].domains == (CLEAN, *KINDS)
    assert len(made[0]) == 3 * (1 + 2 * 15) == len(made[0].keys)
    assert made[0].keys[3:9] == ("a", "b", "c", "a", "b", "c")
    for index in np.random.default_rng(0).permutation(len(made[0])):
        one, two = (pixels(stream.values[int(index)]) for stream in made)
        np.testing.assert_array_equal(one, two)
        before = pixels(clean().values[int(index) % 3])
        assert np.array_equal(one, before) == (made[0].severity[index] == 0)
        assert made[0].labels[index] == index % 3
    strong = [made[0].severity == s for s in (2, 5)]
    for domain in range(1, 16):
        weak, hard = (np.flatnonzero(at & (made[0].domain == domain)) for at in strong)
        assert any(
            not np.array_equal(pixels(made[0].values[i]), pixels(made[0].values[j]))
            for i, j in zip(weak, hard, strict=True)
        )


@needs_library
def test_another_seed_gives_other_noise() -> None:
    one, two = (corrupted(clean(), ("gaussian_noise",), (3,), pixels, (32, 32), seed).values[0] for seed in (0, 1))
    assert one.data != two.data


@needs_library
def test_numpys_own_randomness_is_left_as_it_was() -> None:
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    assert corrupted(clean(), ("shot_noise",), (3,), pixels, (32, 32), 0).values[0].data
    assert np.random.random() == expected  # noqa: NPY002


def test_words_for_kinds_and_severities() -> None:
    assert chosen("all") == (CLEAN, *KINDS)
    assert chosen("fog, clean") == ("fog", "clean")
    assert strengths("1-3") == (1, 2, 3)
    for words in ("rain", ""):
        with pytest.raises(ConfigError, match="gaussian_noise"):
            chosen(words)
    for words in ("0", "6", "strong", "3-", ""):
        with pytest.raises(ConfigError, match="1 to 5"):
            strengths(words)


def test_without_the_library_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(ConfigError, match=r"tta-daemon\[replay\]"):
        corrupted(clean(), ("fog",), (5,), pixels, (32, 32), 0)


def test_images_too_small_for_the_library_are_refused() -> None:
    with pytest.raises(ConfigError, match="begin at 32 x 32"):
        corrupted(clean(), ("fog",), (5,), pixels, (28, 28), 0)
