"""Passes in which images do not see one another are made part by part, and give what one pass gives."""

import pytest
import torch
from nets import images, tiny_cnn, tiny_vit
from samples import make

from adapters import classifier as classifiers
from adapters.parts.norms import StreamNorm
from tta_daemon.watch.view import Probe


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images of sixteen pixels a side pass together."""
    monkeypatch.setattr(classifiers, "PIXELS", 3 * 16 * 16)


@pytest.mark.usefixtures("small")
def test_parts_hold_every_image_once_and_are_small() -> None:
    seen = images(8)
    parts = tiny_cnn().portions(seen)
    assert [len(part) for part in parts] == [3, 3, 2]
    assert torch.equal(torch.cat(list(parts)), seen)


def test_few_images_pass_together() -> None:
    assert [len(part) for part in tiny_cnn().portions(images(64))] == [64]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["source", "rotta"])
def test_a_method_answers_as_in_one_pass(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    adapter, sizes = make(name, {}, tiny_cnn()), []
    for module in adapter.modules():
        if isinstance(module, StreamNorm):
            module.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    parted = adapter.predict(images(8))
    assert set(sizes) == {3, 2}
    monkeypatch.undo()
    torch.testing.assert_close(parted, adapter.predict(images(8)))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("network", [tiny_cnn, tiny_vit])
def test_a_probe_sees_what_it_sees_in_one_pass(network) -> None:
    probe = Probe(network())
    parted, whole = probe(images(8)), probe.look(images(8))
    for field in ("logits", "features", "moments"):
        torch.testing.assert_close(getattr(parted, field), getattr(whole, field))
