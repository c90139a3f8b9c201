"""ROID: certainty and diversity weighting, weight ensembling and prior correction.

Marsden et al., "Universal Test-time Adaptation through Weight Ensembling, Diversity Weighting, and Prior Correction",
WACV 2024. Unlike the published code, images that are all alike weigh the same instead of turning weights into NaN, and
the prior corrects probabilities: on raw logits, which the published code multiplies, it may push the wrong way.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from adapters.adapter import Adaptation, Adapter
from adapters.classifier import Classifier
from adapters.options import Learning, NonNegative, Positive, Rate, knob
from adapters.parts.answering import Answerer
from adapters.parts.descent import Descent
from adapters.parts.network import Network, norm_affine
from adapters.parts.objectives import entropy, soft_likelihood_ratio, symmetric_cross_entropy
from adapters.parts.source import pull
from adapters.parts.views import view


@dataclass(frozen=True, slots=True)
class RoidOptions(Learning):
    """The published numbers, step size as for CIFAR. ImageNet: SGD with Nesterov's momentum, lr 2.5e-4."""

    usual_momentum: Rate = knob(0.9, "Share of the usual answer that stays at each step.")
    temperature: Positive = knob(1 / 3, "How little certainty and diversity weigh: small prefers, large levels.")
    view_strength: NonNegative = knob(1.0, "How far the second view differs from the image. 0 is the image itself.")
    consistency: NonNegative = knob(1.0, "Weight of agreement between two views of an image. 0 asks for none.")
    ensembling: Rate = knob(0.99, "Share of what was learned that stays at each step; the rest is the source again.")
    correction: NonNegative = knob(1.0, "How far answers lean toward the classes that their batch shows. 0 is not.")
    literal: bool = knob(False, "Correct by multiplying logits, as published code does, not probabilities.")


class Roid(Adapter):
    """Scale and shift of the norms learn from certain and diverse answers, and are always on their way back."""

    options: RoidOptions
    usual: Tensor

    def __init__(self, classifier: Classifier, options: RoidOptions, prior: None = None, seed: int = 0) -> None:
        super().__init__(classifier, options, prior, seed)
        self.network = Network(classifier, norm_affine)
        self.descend = Descent(self.network.learns, optimizer=options.optimizer, nesterov=options.nesterov)
        classes = classifier.num_classes
        self.register_buffer("usual", classifier.mean.new_full((classes,), 1 / classes))

    def adapt(self, images: Tensor) -> Adaptation:
        """Answer, weigh (ROID, section 3.2), learn, ensemble (3.1); the answer is corrected by its prior (3.3)."""
        o = self.options
        logits = self.network(images)
        yield self.correct(logits)
        answers = logits.detach().softmax(1)
        diversity = stretch(1.0 - functional.cosine_similarity(answers, self.usual[None]))
        certainty = stretch(-entropy(logits.detach()))
        kept = ~(diversity < diversity.mean())
        weights = torch.exp(diversity * certainty / o.temperature)[kept]
        seen = self.network(view(images[kept], self.dice, o.view_strength, blur=False, noise=False, padding="reflect"))
        consistency = o.consistency * (weights * symmetric_cross_entropy(seen, logits[kept])).sum() / len(images)
        loss = (weights * soft_likelihood_ratio(logits[kept])).sum() / len(images) + consistency
        if self.descend(loss, o.lr, o.momentum):
            pull(self.network, o.ensembling)
            self.usual.lerp_(answers.mean(0), 1.0 - o.usual_momentum)
        return {"loss": loss.detach(), "entropy": entropy(logits.detach()).mean(),
                "selected_ratio": kept.to(answers).mean(), "consistency_loss": consistency.detach()}  # fmt: skip

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Corrected logits by batch statistics and what was learned so far."""
        return self.correct(self.network(images))

    def answerer(self) -> Answerer:
        """The network, by the batch."""
        return Answerer(self.network)

    def finish(self, logits: Tensor) -> Tensor:
        """Corrected."""
        return self.correct(logits)

    def correct(self, logits: Tensor) -> Tensor:
        """Lean toward the classes that the batch shows, smoothed so that none is ruled out."""
        logits = logits.detach()
        prior = logits.softmax(1).mean(0)
        smooth = max(1 / logits.size(0), 1 / logits.size(1)) / prior.max()
        prior = ((prior + smooth) / (1.0 + smooth * logits.size(1))) ** self.options.correction
        return logits * prior if self.options.literal else logits + prior.log()


def stretch(values: Tensor) -> Tensor:
    """``values``, N, laid out from 0 to 1; all 0 where they differ by no more than rounding.

    >>> stretch(torch.tensor([1.0, 2.0, 3.0])).tolist(), stretch(torch.ones(2)).tolist()
    ([0.0, 0.5, 1.0], [0.0, 0.0])
    """
    low, high = values.aminmax()
    rounding = 64 * torch.finfo(values.dtype).eps
    return torch.where(high - low > rounding, (values - low) / (high - low), 0.0)
