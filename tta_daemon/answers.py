"""From logits to the answers that leave: classes, labels, confidences."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tta_daemon.stream.records import Answer, Batch, Guess, Prediction

TOP = 3
"""How many classes an answer names."""


def predictions(logits: Tensor, labels: Sequence[str]) -> list[Prediction]:
    """One prediction for each row of ``logits``, N x C, with the `TOP` most probable classes."""
    confidence, classes = torch.softmax(logits.double(), 1).topk(min(TOP, logits.size(1)), 1)
    said = []
    for ps, cs in zip(confidence.tolist(), classes.tolist(), strict=True):
        top = tuple(Guess(c, labels[c], p) for c, p in zip(cs, ps, strict=True))
        said.append(Prediction(top[0].class_, top[0].label, top[0].confidence, top))
    return said


class About(NamedTuple):
    """What every answer says of where it comes from: the model, the method, and its step."""

    model: str
    method: str
    step: int


def answers(batch: Batch, said: Sequence[Prediction], source: Tensor | None, about: About) -> list[Answer]:
    """One answer for each record of ``batch``; ``source`` are the frozen model's logits, where it was asked."""
    source_classes = source.argmax(1).tolist() if source is not None else [None] * batch.size
    rows = list(zip(said, source_classes, strict=True))
    return [
        Answer(
            id=sample.record.id,
            stream=batch.stream,
            predictions=tuple(prediction for prediction, _ in part),
            source_class=tuple(c for _, c in part) if source is not None else None,
            model=about.model,
            method=about.method,
            step=about.step,
        )
        for sample, part in zip(batch.samples, batch.split(rows), strict=True)
    ]
