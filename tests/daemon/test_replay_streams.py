"""What a replay reads, and in what order it sends it."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tta_daemon.errors import ConfigError
from tta_daemon.offline.replay.orders import Order, parse, plan
from tta_daemon.offline.replay.streams import Stream, read
from tta_daemon.offline.replay.values import Arrays
from tta_daemon.stream import npy

CLASSES = ("cat", "dog", "ship")


def arrays(path: Path, **more: object) -> Path:
    images = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 3), dtype=np.uint8)
    np.savez(path, **{"images": images, "labels": np.arange(12) % 3} | more)
    return path


def stream(count: int = 60, domains: int = 2, severities: int = 0) -> Stream:
    images = np.zeros((count, 2, 2, 3), np.uint8)
    severity = np.arange(count) % severities + 1 if severities else None
    names = tuple(f"domain {n}" for n in range(domains))
    domain = np.arange(count) * domains // count
    return Stream("s", Arrays(images), np.arange(count) % 5, names, domain, severity)


def test_a_file_of_arrays_is_read_and_each_image_is_an_npy(tmp_path: Path) -> None:
    found = read(arrays(tmp_path / "s.npz", domain=np.repeat(["fog", "clean"], 6), stream=np.arange(12)), CLASSES)
    assert found.domains == ("fog", "clean")
    assert found.domain.tolist() == [0] * 6 + [1] * 6
    assert found.keys[3] == "3"
    kind, data = found.values[5]
    assert kind == "application/x-npy"
    with np.load(tmp_path / "s.npz") as file:
        np.testing.assert_array_equal(npy.images(data, 1, 100)[0].transpose(1, 2, 0), file["images"][5])


def test_a_folder_of_pictures_is_read_and_sent_as_it_lies_there(tmp_path: Path) -> None:
    for place, name in (("dog", "a.PNG"), ("cat", "b.jpg"), ("ship", "c.webp")):
        (tmp_path / "day" / place).mkdir(parents=True)
        Image.new("RGB", (9, 7)).save(tmp_path / "day" / place / name)
    found = read(tmp_path / "day", CLASSES)
    assert found.labels.tolist() == [0, 1, 2]
    assert [found.values[n].kind for n in range(3)] == ["image/jpeg", "image/png", "image/webp"]
    assert found.values[1].data == (tmp_path / "day" / "dog" / "a.PNG").read_bytes()
    (tmp_path / "night" / "cat").mkdir(parents=True)
    Image.new("RGB", (9, 7)).save(tmp_path / "night" / "cat" / "d.png")
    assert read(tmp_path, CLASSES).domains == ("day", "night")


@pytest.mark.parametrize(
    ("names", "classes", "numbers"),
    [
        (["dog", "cat"], CLASSES, [1, 0]),
        (["2", "0"], CLASSES, [2, 0]),
        (["b", "a", "c"], ("0", "1", "2"), [1, 0, 2]),
    ],
    ids=["by name", "by number", "by order"],
)
def test_classes_are_found_by_name_by_number_or_by_order(
    tmp_path: Path, names: list[str], classes: tuple[str, ...], numbers: list[int]
) -> None:
    count = len(names)
    images = np.zeros((count, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "s.npz", images=images, labels=np.array(names))
    assert read(tmp_path / "s.npz", classes).labels.tolist() == numbers


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"labels": np.arange(12)}, "labels from 0 to 11"),
        ({"labels": np.array(["cow"] * 12)}, "no class 'cow'"),
        ({"labels": np.zeros(3, int)}, "12 images, but labels"),
        ({"domain": np.zeros(3)}, "12 images, but domain"),
        ({"images": np.zeros((12, 8, 8), np.uint8)}, "its images are uint8"),
        ({"labels": np.array([{}] * 12, dtype=object)}, "cannot be read"),
    ],
    ids=str,
)
def test_what_is_of_no_use_is_refused_in_words(tmp_path: Path, more: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(arrays(tmp_path / "s.npz", **more), CLASSES)


def test_a_path_that_holds_no_stream_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nonsense")
    (tmp_path / "plain.npz").write_bytes(b"nonsense")
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "one.npz", pixels=np.zeros(3))
    for name, words in (
        ("broken.npz", "cannot be read"),
        ("plain.npz", "cannot be read"),
        ("empty", "no picture"),
        ("absent.npz", "no such file"),
        ("one.npz", "no array 'images'"),
    ):
        with pytest.raises(ConfigError, match=words):
            read(tmp_path / name, CLASSES)


def test_a_limit_is_for_each_domain() -> None:
    cut = stream(60, domains=3).limited(5, seed=1)
    assert Counter(cut.domain.tolist()) == {0: 5, 1: 5, 2: 5}
    assert len(cut.values) == 15


@given(
    words=st.sampled_from(["recorded", "continual", "mixed", "gradual", "correlated:0", "correlated:0.1", "bursts:7"]),
    rounds=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_every_order_sends_every_image_in_every_round(words: str, rounds: int, seed: int) -> None:
    source = stream(60, domains=2, severities=3)
    laid = plan(source, parse(f"{words}+recurring:{rounds}"), seed)
    times = Counter(laid.images.tolist())
    assert set(times) == set(range(60))
    if words != "gradual":
        assert set(times.values()) == {rounds}
    assert np.all(np.diff(laid.arrivals) >= 0)
    again = plan(source, parse(f"{words}+recurring:{rounds}"), seed)
    np.testing.assert_array_equal(laid.images, again.images)


def test_orders_differ_in_what_they_say() -> None:
    source = stream(600, domains=2)
    domain = {name: source.domain[plan(source, parse(name), 0).images] for name in ("continual", "mixed")}
    assert np.count_nonzero(np.diff(domain["continual"])) == 1
    assert np.count_nonzero(np.diff(domain["mixed"])) > 100
    runs = {}
    for name in ("continual", "correlated:10", "correlated:0.1", "correlated:0"):
        labels = source.labels[plan(source, parse(name), 0).images]
        runs[name] = np.count_nonzero(np.diff(labels))
    assert runs["continual"] > runs["correlated:10"] > runs["correlated:0.1"] > runs["correlated:0"] == 2 * 5 - 1


def test_a_gradual_order_rises_and_falls() -> None:
    source = stream(60, domains=2, severities=3)
    laid = plan(source, Order("gradual"), 0)
    severity = source.severity[laid.images]
    assert severity[np.flatnonzero(np.diff(severity, prepend=0))].tolist() == [1, 2, 3, 2, 1, 2, 3, 2, 1]
    with pytest.raises(ConfigError, match="the stream knows none"):
        plan(stream(), Order("gradual"), 0)


def test_bursts_have_the_mean_asked_for() -> None:
    laid = plan(stream(6000, domains=1), parse("bursts:20"), 0, gap_s=3.0)
    sizes = np.unique(laid.arrivals, return_counts=True)[1]
    assert 15 < sizes.mean() < 25
    assert set(np.diff(np.unique(laid.arrivals))) == {3.0}


@pytest.mark.parametrize("words", ["sideways", "recurring:0", "recurring:x", "correlated:-1", "mixed:3"])
def test_a_strange_order_is_refused_with_those_there_are(words: str) -> None:
    with pytest.raises(ConfigError, match="recurring:N"):
        parse(words)
