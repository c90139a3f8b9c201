"""Methods that train scale and shift of the norms, written naively."""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from adapters import Classifier
from adapters.eata import EataOptions, EataPrior
from adapters.norm_only import NormOnlyOptions
from adapters.options import Learning
from adapters.parts.dice import Dice
from adapters.roid import RoidOptions
from adapters.rpl import RplOptions
from adapters.sar import SarOptions

from .pieces import by_batch, cross, learning, optimizer, softmax_entropy, view


class Norm:
    """Batch statistics; a graph is built and thrown away."""

    def __init__(self, classifier: Classifier, _: NormOnlyOptions, _prior: None = None, _seed: int = 0) -> None:
        self.network = by_batch(classifier, affine_only=True)

    def __call__(self, images: Tensor) -> Tensor:
        """Answer."""
        with torch.no_grad():
            return self.network(images)


class Tent:
    """Entropy of the answers; a step of a list of parameters."""

    def __init__(self, classifier: Classifier, options: Learning, _prior: object = None, _seed: int = 0) -> None:
        self.options = options
        self.classes = classifier.num_classes
        self.network = by_batch(classifier, affine_only=True)
        self.optimizer = optimizer(learning(self.network), options)

    def __call__(self, images: Tensor) -> Tensor:
        """Answer and learn."""
        logits = self.network(images)
        loss = self.loss(logits)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return logits.detach()

    def loss(self, logits: Tensor) -> Tensor:
        """What is descended."""
        return softmax_entropy(logits).mean(0)


class Rpl(Tent):
    """Its own labels, picked from a square of all pairs."""

    options: RplOptions

    def loss(self, logits: Tensor) -> Tensor:
        """Generalized cross-entropy."""
        labels = logits.max(1)[1]
        p = logits.softmax(1)[:, labels].diagonal()
        return ((1 - p**self.options.q) / self.options.q).mean()


class Eata(Tent):
    """Certain and uncommon answers; the anchor is a sum over names."""

    options: EataOptions

    def __init__(
        self, classifier: Classifier, options: EataOptions, prior: EataPrior | None = None, seed: int = 0
    ) -> None:
        super().__init__(classifier, options, prior, seed)
        self.source = {n: p.clone().detach() for n, p in self.network.named_parameters() if p.requires_grad}
        pieces = () if prior is None else prior.fisher.split([p.numel() for p in self.source.values()])
        self.fishers = dict(zip(self.source, pieces, strict=False))
        self.usual: Tensor | None = None
        self.margin = options.entropy_margin * math.log(self.classes)

    def loss(self, logits: Tensor) -> Tensor:
        """The weighted mean over the selected, and the anchor."""
        entropies = softmax_entropy(logits)
        certain = torch.where(entropies < self.margin)[0]
        kept = entropies[certain]
        answers = logits[certain].softmax(1)
        if self.usual is not None:
            alike = functional.cosine_similarity(self.usual.unsqueeze(0), answers, dim=1)
            uncommon = torch.where(alike.abs() < self.options.similarity_margin)[0]
            kept, answers = kept[uncommon], answers[uncommon]
        with torch.no_grad():
            mean = answers.mean(0)
            m = self.options.usual_momentum
            self.usual = mean if self.usual is None else m * self.usual + (1 - m) * mean
        loss = kept.mul(torch.exp(self.margin - kept.clone().detach())).mean(0)
        anchor = 0
        for name, parameter in self.network.named_parameters():
            if name in self.fishers:
                fisher = self.fishers[name].view(parameter.shape)
                anchor = anchor + self.options.fisher_weight * (fisher * (parameter - self.source[name]) ** 2).sum()
        return loss + anchor


class Sar:
    """Two passes; the place uphill is reached and left tensor by tensor."""

    def __init__(self, classifier: Classifier, options: SarOptions, _prior: None = None, _seed: int = 0) -> None:
        self.options = options
        self.margin = options.entropy_margin * math.log(classifier.num_classes)
        self.network = by_batch(classifier, affine_only=True)
        self.optimizer = optimizer(learning(self.network), options)
        self.birth = copy.deepcopy(self.network.state_dict()), copy.deepcopy(self.optimizer.state_dict())
        self.average: float | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Answer, look uphill, learn, perhaps recover."""
        self.optimizer.zero_grad()
        logits = self.network(images)
        entropies = softmax_entropy(logits)
        reliable = torch.where(entropies < self.margin)[0]
        entropies[reliable].mean(0).backward()
        before = {}
        norm = torch.norm(torch.stack([p.grad.norm(p=2) for p in learning(self.network)]), p=2)
        for p in learning(self.network):
            before[p] = p.data.clone()
            p.data.add_(p.grad * (self.options.radius / (norm + 1e-12)))
        self.optimizer.zero_grad()
        there = softmax_entropy(self.network(images))[reliable]
        loss = there[torch.where(there < self.margin)].mean(0)
        loss.backward()
        for p in learning(self.network):
            p.data = before[p]
        self.optimizer.step()
        m = self.options.average_momentum
        self.average = loss.item() if self.average is None else m * self.average + (1 - m) * loss.item()
        if self.average < self.options.recover_below:
            self.network.load_state_dict(self.birth[0])
            self.optimizer.load_state_dict(self.birth[1])
            self.average = None
        return logits.detach()


class Roid:
    """Weighted answers and a second view; a whole source network is kept to pull toward."""

    def __init__(self, classifier: Classifier, options: RoidOptions, _prior: None = None, seed: int = 0) -> None:
        self.options = options
        self.network = by_batch(classifier, affine_only=True)
        self.source: nn.Module = copy.deepcopy(self.network)
        self.optimizer = optimizer(learning(self.network), options)
        self.usual = torch.full((classifier.num_classes,), 1 / classifier.num_classes, dtype=classifier.mean.dtype)
        self.dice = Dice(seed, classifier.mean.device)

    def __call__(self, images: Tensor) -> Tensor:
        """Answer, weigh, learn, ensemble, correct."""
        o = self.options
        logits = self.network(images)
        with torch.no_grad():
            answers = logits.softmax(1)
            diversity = 1 - functional.cosine_similarity(self.usual.unsqueeze(0), answers, dim=1)
            diversity = (diversity - diversity.min()) / (diversity.max() - diversity.min())
            dropped = diversity < diversity.mean()
            certainty = -softmax_entropy(logits)
            certainty = (certainty - certainty.min()) / (certainty.max() - certainty.min())
            weights = torch.exp(diversity * certainty / o.temperature)
            weights[dropped] = 0.0
            usual = o.usual_momentum * self.usual + (1 - o.usual_momentum) * answers.mean(0)
        kept = ~dropped
        p = logits.softmax(1).clamp(max=0.99)
        ratio = -(p * torch.log(p / (1.0 - p) + 1e-5)).sum(1)
        loss = (weights[kept] * ratio[kept]).sum() / len(images)
        again = self.network(view(images[kept], self.dice, o, soft=True))
        apart = 0.5 * (cross(again, logits[kept]) + cross(logits[kept], again))
        loss = loss + o.consistency * (weights[kept] * apart).sum() / len(images)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.usual = usual
        for ours, theirs in zip(self.network.parameters(), self.source.parameters(), strict=True):
            if ours.requires_grad:
                ours.data = o.ensembling * ours.data + (1 - o.ensembling) * theirs.data
        return self.corrected(logits.detach())

    def corrected(self, logits: Tensor) -> Tensor:
        """Lean toward the classes of the batch."""
        prior = logits.softmax(1).mean(0)
        smooth = max(1 / logits.size(0), 1 / logits.size(1)) / prior.max()
        return logits + ((prior + smooth) / (1 + smooth * logits.size(1))).log()
