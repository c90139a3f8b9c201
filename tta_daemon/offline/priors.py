"""What each method wants to know of the source, made by the function that stands beside the method."""

from collections.abc import Callable, Iterator
from dataclasses import fields
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from adapters import Classifier
from adapters.eata import estimate_fisher
from adapters.ecotta import warm_up as warm_up_ecotta
from adapters.labelshift import estimate_shares
from adapters.petal import swag
from adapters.rmt import estimate_prototypes
from adapters.vida import warm_up as warm_up_vida
from tta_daemon.offline.source_images import SourceImages

FISHER_IMAGES = 2000
REPLAYED = 1024
"""Images that RMT replays."""

EPOCHS = {"petal": 5, "ecotta": 10, "vida": 1}
"""Published numbers; ViDA's is our own."""

Made = Callable[[], dict[str, Tensor]]


def make(  # noqa: PLR0913, PLR0917 - the model, the data, and how
    method: str,
    classifier: Classifier,
    source: SourceImages,
    batch: int,
    options: Any,  # noqa: ANN401 - the method's own
    seed: int,
) -> Made | None:
    """The work of making a method's prior, as tensors by field; None where it needs labels that are not there."""

    def epoch(number: int) -> Iterator[tuple[Tensor, Tensor]]:
        dice = torch.Generator().manual_seed(seed + 7919 * number)
        for picked in torch.split(torch.randperm(len(source), generator=dice), batch):
            if len(picked) > 1 and source.labels is not None:
                images = source.floats(picked).to(classifier.mean.device, classifier.mean.dtype)
                yield images, source.labels[picked].to(images.device)

    def fisher() -> dict[str, Tensor]:
        few = (images for images, _ in _until(_plain(source, classifier, batch, seed), FISHER_IMAGES))
        return _tensors(estimate_fisher(classifier, few))

    def prototypes() -> dict[str, Tensor]:
        made = _tensors(estimate_prototypes(classifier, epoch(0)))
        picked = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[:REPLAYED]
        assert source.labels is not None  # noqa: S101 - only made with labels
        return made | {"images": source.pixels[picked], "labels": source.labels[picked]}

    def belief() -> dict[str, Tensor]:
        return _tensors(swag(classifier, [epoch(n) for n in range(EPOCHS["petal"])]))

    def ecotta() -> dict[str, Tensor]:
        return _tensors(warm_up_ecotta(classifier, [epoch(n) for n in range(EPOCHS["ecotta"])], options, seed=seed))

    def vida() -> dict[str, Tensor]:
        return _tensors(warm_up_vida(classifier, [epoch(n) for n in range(EPOCHS["vida"])], options, seed=seed))

    unlabeled: dict[str, Made] = {
        "eata": fisher,
        "labelshift": lambda: _tensors(
            estimate_shares(classifier, map(itemgetter(0), _plain(source, classifier, batch, seed)), options)
        ),
    }
    if method in unlabeled:
        return unlabeled[method]
    made: dict[str, Made] = {"rmt": prototypes, "petal": belief, "ecotta": ecotta, "vida": vida}
    return made.get(method) if source.labels is not None else None


def _plain(source: SourceImages, classifier: Classifier, batch: int, seed: int) -> Iterator[tuple[Tensor, int]]:
    for picked in torch.split(torch.randperm(len(source), generator=torch.Generator().manual_seed(seed)), batch):
        yield source.floats(picked).to(classifier.mean.device, classifier.mean.dtype), len(picked)


def _until(batches: Iterator[tuple[Tensor, int]], images: int) -> Iterator[tuple[Tensor, int]]:
    """Batches until so many images have come."""
    for batch, count in batches:
        yield batch, count
        images -= count
        if images <= 0:
            return


def _tensors(prior: Any) -> dict[str, Tensor]:  # noqa: ANN401 - any prior
    held = {f.name: getattr(prior, f.name) for f in fields(prior)}
    return {name: value.detach().cpu().contiguous() for name, value in held.items() if isinstance(value, Tensor)}
