"""From logits to the answers that leave: classes, labels, confidences."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tta_daemon.answered import Answered
from tta_daemon.stream.records import Answer, Batch, Guess, Prediction
from tta_daemon.watch.guard import Serve

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
    """What every answer says of where it comes from: the model, the method, its step, and who answers."""

    model: str
    method: str
    step: int
    by: Serve = Serve.ADAPTED


def answers(batch: Batch, said: Sequence[Prediction], answered: Answered, about: About) -> list[Answer]:
    """One answer for each record of ``batch``, with what source and adapted model say by themselves."""
    source = answered.source
    source_classes = source.argmax(1).tolist() if source is not None else [None] * batch.size
    adapted_classes = answered.adapted.argmax(1).tolist()
    rows = list(zip(said, source_classes, adapted_classes, strict=True))
    return [
        Answer(
            id=sample.record.id,
            stream=batch.stream,
            predictions=tuple(prediction for prediction, _, _ in part),
            source_class=tuple(c for _, c, _ in part) if source is not None else None,
            adapted_class=tuple(c for _, _, c in part),
            model=about.model,
            method=about.method,
            step=about.step,
            by=about.by,
        )
        for sample, part in zip(batch.samples, batch.split(rows), strict=True)
    ]
