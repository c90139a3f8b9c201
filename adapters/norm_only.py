"""Statistics of the stream in place of the source's; no gradient.

Schneider et al., "Improving robustness against common corruptions by covariate shift adaptation", NeurIPS 2020;
Nado et al. 2020. Instance-aware normalization: Gong et al., "NOTE", NeurIPS 2022.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Interval
from torch import Tensor

from adapters.adapter import Adaptation, Adapter
from adapters.classifier import Classifier
from adapters.options import NonNegative, Rate, knob
from adapters.parts.answering import Answerer
from adapters.parts.network import Network
from adapters.parts.norms import (
    Rule,
    averaged,
    averaged_upstream_by_batch,
    from_batch,
    from_proposed,
    from_source,
    instance_aware,
    keep,
    mixed,
    normalizing,
    proposals,
    pseudo_counted,
)
from adapters.parts.objectives import entropy

Mode = Literal["source", "batch", "alpha", "prior", "ema", "instance"]


@dataclass(frozen=True, slots=True)
class NormOnlyOptions:
    """Which statistics normalize."""

    mode: Mode = knob("prior", "source, batch, alpha (fixed share), prior (pseudo-counts), ema (running), instance.")
    alpha: Rate = knob(0.1, "Share of the batch in mode alpha.")
    source_images: NonNegative = knob(16.0, "How many images the source counts as in mode prior. 0 is mode batch.")
    momentum: Rate = knob(0.1, "Share of each batch in the running statistics of mode ema.")
    passes: Annotated[int, Interval(ge=1, le=2)] = knob(
        1, "Mode ema: 1 normalizes while it measures; 2 measures by batch statistics first, as published code does."
    )
    strictness: NonNegative = knob(4.0, "Standard errors by which an image must leave the source in mode instance.")


class NormOnly(Adapter):
    """Normalizes by the stream. Only mode ema remembers anything."""

    options: NormOnlyOptions

    def __init__(self, classifier: Classifier, options: NormOnlyOptions, prior: None = None, seed: int = 0) -> None:
        super().__init__(classifier, options, prior, seed)
        self.network = Network(classifier, statistics_move=True)

    def adapt(self, images: Tensor) -> Adaptation:
        """Answer by the rule in force, then keep the statistics that it proposed."""
        logits = self.predict(images)
        proposed = proposals(self.network)
        yield logits
        keep(proposed)
        return {"entropy": entropy(logits).mean()}

    @property
    def by_batch(self) -> bool:
        """Only two of the modes go by the batch alone."""
        return self.options.mode in {"batch", "prior"} and super().by_batch

    @torch.no_grad()
    def predict_mixed(self, images: Tensor, source_images: float) -> Tensor:
        """Logits by the mixture, in those modes; one of them asks for so much of the source at least."""
        if not self.by_batch:
            return self.predict(images)
        if self.options.mode == "prior" and source_images:
            source_images = max(source_images, self.options.source_images)
        with normalizing(self.network, pseudo_counted(source_images)):
            logits: Tensor = self.network(images)
        return logits

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Logits by the rule in force. What it proposes is kept by `adapt` alone."""
        options = self.options
        if options.mode == "ema" and options.passes > 1:
            with normalizing(self.network, averaged_upstream_by_batch(options.momentum)):
                self.network(images)
            with normalizing(self.network, from_proposed):
                logits: Tensor = self.network(images)
        else:
            with normalizing(self.network, self.rule()):
                logits = self.network(images)
        return logits

    def answerer(self) -> Answerer | None:
        """The network, by its batch, by its running statistics or by the source's; the other modes have no such one."""
        o = self.options
        if o.mode in {"batch", "prior"}:
            return Answerer(self.network, source_images=o.source_images if o.mode == "prior" else 0.0)
        return Answerer(self.network, by_batch=False) if o.mode in {"ema", "source"} else None

    def rule(self) -> Rule:
        """The rule that the options name."""
        options = self.options
        rules: dict[Mode, Rule] = {
            "source": from_source,
            "batch": from_batch,
            "alpha": mixed(options.alpha),
            "prior": pseudo_counted(options.source_images),
            "ema": averaged(options.momentum),
            "instance": instance_aware(options.strictness),
        }
        return rules[options.mode]
