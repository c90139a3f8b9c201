"""Whether a memory balanced by class helps a method where labels come in runs.

    python benchmarks/balanced_memory.py --orders correlated:0 correlated:0.1 continual
    python benchmarks/balanced_memory.py --limit 1000 --worlds gaussian_noise glass_blur fog --orders correlated:0

The newest images of each class as the adapter answers them, equally many where there are as many (RoTTA's memory keeps
such a balance too). Four ways with the same method: without the memory; learning from it instead of from the batch;
normalizing each batch together with it; both. Error in percent, by statistics half the source's (`guard.mixed = 1`)
and by those of the images alone.
"""

import argparse
from collections import deque

import numpy as np
import torch
from development import add_arguments
from harm import Album, cifar, deployed, images
from torch import Tensor

import adapters
from tta_daemon.offline.replay.orders import parse, plan
from tta_daemon.offline.replay.values import Arrays

BATCH = 100


class Balanced:
    """The newest images of each class; of whichever class has most, the oldest leaves."""

    def __init__(self, classes: int, size: int) -> None:
        self.size = size
        self._kept: list[deque[Tensor]] = [deque() for _ in range(classes)]

    def add(self, images: Tensor, classes: Tensor) -> None:
        """Count images in, of classes as they were answered."""
        for image, which in zip(images, classes.tolist(), strict=True):
            self._kept[which].append(image)
            if sum(map(len, self._kept)) > self.size:
                max(self._kept, key=len).popleft()

    @property
    def images(self) -> Tensor:
        """All that are kept."""
        return torch.stack([image for kept in self._kept for image in kept])


def error(adapter: adapters.Adapter, batches: list[tuple[Tensor, Tensor]], ways: tuple[bool, bool], size: int) -> float:
    """Percent of wrong answers; ``ways``: whether the memory is learned from, and whether it is normalized with."""
    learns, normalizes = ways
    memory, wrong, total = Balanced(int(max(t.max() for _, t in batches)) + 1, size), 0, 0
    for shown, truth in batches:
        answered = None
        if normalizes and total:
            logits = adapter.predict(torch.cat([shown, memory.images]))[: len(shown)]
        elif learns:
            logits = adapter.predict(shown)
        else:
            answered = adapters.answer(adapter, shown)
            logits = answered.logits
        memory.add(shown, logits.argmax(1))
        if learns:
            answered = adapters.answer(adapter, memory.images)
        (answered or adapters.answer(adapter, shown)).learn()
        wrong, total = wrong + int((logits.argmax(1) != truth).sum()), total + len(truth)
    return 100 * wrong / total


def laid(album: Album, order: str, limit: int) -> list[tuple[Tensor, Tensor]]:
    """Batches, N x 3 x H x W in [0, 1], and their labels."""
    source = images(album, "every", limit)
    assert isinstance(source.values, Arrays)  # noqa: S101 - harm's are
    found = []
    for part in np.array_split(chosen := plan(source, parse(order), seed=0).images, max(1, len(chosen) // BATCH)):
        pixels = torch.from_numpy(source.values.images[part]).permute(0, 3, 1, 2).float() / 255
        found.append((pixels, torch.from_numpy(source.labels[part])))
    return found


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--method", default="tent")
    parser.add_argument("--orders", nargs="+", default=["correlated:0"])
    parser.add_argument("--worlds", nargs="*", help="corruptions; all where absent")
    parser.add_argument("--limit", type=int, default=200, help="images of each corruption")
    parser.add_argument("--size", type=int, default=100, help="images in the memory")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    album, model = cifar(options.data), deployed(options.data, options.depth)
    album = album._replace(worlds={name: album.worlds[name] for name in options.worlds or album.worlds})
    method = adapters.METHODS[options.method]
    for order in options.orders:
        batches = laid(album, order, options.limit)
        with torch.no_grad():
            wrong = [int((model.classifier(x).argmax(1) != truth).sum()) for x, truth in batches]
        print(f"{order}: source {100 * sum(wrong) / sum(len(truth) for _, truth in batches):.1f}", flush=True)
        for share in (1.0, 0.0):
            for ways in ((False, False), (True, False), (False, True), (True, True)):
                adapter = adapters.build(options.method, model.classifier, method.options(), None)
                adapter.mix(share)
                said = " and ".join(word for word, way in zip(("learns", "normalizes"), ways, strict=True) if way)
                found = error(adapter, batches, ways, options.size)
                print(f"  guard.mixed = {share:g}, memory {said or 'none':22} {found:5.1f}", flush=True)


if __name__ == "__main__":
    main()
