"""Other shares of classes than at the source: the answers' prior, estimated from answers alone, and corrected for.

Saerens, Latinne and Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities", Neural
Computation 2002; step by step over a stream as in Cappé and Moulines, "On-line expectation-maximization algorithm for
latent data models", JRSS B 2009; the source's prior is the mean answer, as in Alexandari et al., ICML 2020.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from adapters.adapter import Adaptation, Memory
from adapters.blind import Blind
from adapters.classifier import Classifier
from adapters.options import Count, NonNegative, Positive, knob
from adapters.parts.answering import HeadAnswerer
from adapters.parts.objectives import entropy


@dataclass(frozen=True, slots=True)
class LabelshiftOptions:
    """Our own numbers: the paper has all of its images before it answers the first."""

    window: Positive = knob(1000.0, "Images that the shares of classes are estimated from: older ones fade out.")
    smoothing: Annotated[float, Ge(1e-3)] = knob(5.0, "Images of each class, on average, that the source counts as.")
    correction: NonNegative = knob(1.0, "How far answers lean toward the estimated shares. 0 is not.")
    least: NonNegative = knob(
        0.13, "Shift, in shares of ln C, up to which answers do not lean: drift skews them too. Twice it: fully."
    )
    passes: Count = knob(10, "Rounds of expectation and maximization over a batch.")
    temperature: Positive = knob(1.0, "Divides logits first. The paper wants calibrated answers; see `temperature`.")


@dataclass(frozen=True, slots=True)
class LabelshiftPrior:
    """What the network answers to source images on average: C shares above 0 that sum to one."""

    shares: Tensor


class Labelshift(Blind):
    """Counts, in expectation, how many images of each class came by, and answers as likely as each class is here."""

    judged: ClassVar[bool] = False
    options: LabelshiftOptions
    source: Tensor
    counts: Tensor

    def __init__(
        self, classifier: Classifier, options: LabelshiftOptions, prior: LabelshiftPrior | None = None, seed: int = 0
    ) -> None:
        super().__init__(classifier, options, prior, seed)
        classes, device = classifier.num_classes, classifier.mean.device
        uniform = torch.full((classes,), 1 / classes, dtype=torch.float64, device=device)
        shares = uniform if prior is None else prior.shares.to(uniform)
        if shares.shape != uniform.shape:
            raise ValueError(f"the prior has {len(shares)} classes, the network has {classes}")
        self.register_buffer("source", shares, persistent=False)
        self.register_buffer("counts", torch.zeros_like(uniform))

    def adapt(self, images: Tensor) -> Adaptation:
        """Answer by the shares known so far, then count what this batch adds (Saerens et al., eq. 2.9)."""
        logits = self.ask(images)
        yield self.read(logits)
        self.count(logits)
        return {"entropy": entropy(logits).mean(), "label_shift": self.shift(self.counts)}

    def answerer(self) -> HeadAnswerer | None:
        """The network, the correction in its head's bias."""
        return HeadAnswerer.of(self.network, scale=1 / self.options.temperature, shift=self._lean(self.counts))

    def read(self, logits: Tensor, memory: Memory | None = None) -> Tensor:
        """Logits, N x C, as they would be were the classes as frequent at the source as they are here."""
        lean = self._lean(self.counts if memory is None else memory["counts"].to(self.counts))
        return logits / self.options.temperature + lean.to(logits)

    def shares(self) -> Tensor:
        """The shares of classes known so far, C; the source's where no image was counted."""
        return self.source * self._times(self.counts)

    def shift(self, counts: Tensor) -> Tensor:
        """How far the shares of classes are from the source's where so many images of each were counted, in nats."""
        times = self._times(counts)
        return (self.source * times * times.log()).sum()

    @torch.no_grad()
    def count(self, logits: Tensor) -> None:
        """Let older images fade, and count these; those whose logits are not finite do not count."""
        o, finite = self.options, torch.isfinite(logits).all(1)
        answers = (logits[finite].double() / o.temperature).softmax(1)
        if not len(answers):
            return
        kept, counts = self.counts * math.exp(-len(answers) / o.window), self.counts
        for _ in range(o.passes):
            likely = answers * self._times(counts)
            counts = kept + (likely / likely.sum(1, keepdim=True)).sum(0)
        self.counts.copy_(counts)

    def _times(self, counts: Tensor) -> Tensor:
        """How many times as frequent as at the source each class is, C, where so many images of each were counted."""
        believed = self.options.smoothing * len(counts)
        return (counts / self.source + believed) / (counts.sum() + believed)

    def _lean(self, counts: Tensor) -> Tensor:
        """What is added to each class's logits, C: nothing for a shift that a drift's skew may well pass for."""
        o = self.options
        least = o.least * math.log(max(2, len(counts)))
        trusted = (self.shift(counts) / least - 1.0).clamp(0.0, 1.0) if least else 1.0
        return o.correction * trusted * self._times(counts).log()


@torch.no_grad()
def estimate_shares(
    classifier: Classifier, batches: Iterable[Tensor], options: LabelshiftOptions | None = None
) -> LabelshiftPrior:
    """The mean answer to source images, one image's worth of doubt included; no labels are needed."""
    temperature = (options or LabelshiftOptions()).temperature
    total = torch.full((classifier.num_classes,), 1 / classifier.num_classes, dtype=torch.float64)
    for images in batches:
        total += (classifier(images).double() / temperature).softmax(1).sum(0).cpu()
    return LabelshiftPrior(total / total.sum())
